//! What the lab asks of members: a put like any client's, and what deeds order.

use crate::lab::observe::connect;
use crate::lab::observe::with_token;
use crate::lab::workdir::Record;
use crate::proto::etcdserverpb::PutRequest;
use crate::proto::etcdserverpb::kv_client::KvClient;
use crate::proto::lab::ControlRequest;
use crate::proto::lab::control_request::Action;
use std::path::Path;
use std::time::Duration;
use tonic::transport::Endpoint;

const CONNECT: Duration = Duration::from_secs(1);
const ANSWER: Duration = Duration::from_secs(5);

/// How long a put waits while the clock is held or slow: the learner is stepping.
const PATIENCE: Duration = Duration::from_secs(3600);

/// Writes a key through the first of `endpoints` that accepts a connection, and returns the new revision. `patient`: the lab's clock is
/// held or slow, and the deadline is stretched with it.
///
/// # Errors
/// In words for the user. Once a request is under way it is not sent a second time: it might be written twice.
pub async fn put(endpoints: &[String], key: &str, value: &str, patient: bool) -> Result<i64, String> {
    let limit = if patient { PATIENCE } else { ANSWER };
    let mut why = "no member runs".to_string();
    for url in endpoints {
        let endpoint = Endpoint::from_shared(url.clone()).map_err(|e| e.to_string())?.connect_timeout(CONNECT);
        let channel = match endpoint.connect().await {
            Ok(channel) => channel,
            Err(_) => {
                why = format!("nobody answers at {url}");
                continue;
            }
        };
        let request = PutRequest { key: key.to_string().into(), value: value.to_string().into(), ..Default::default() };
        let answer = tokio::time::timeout(limit, KvClient::new(channel).put(request)).await;
        let answer = answer.map_err(|_| format!("no answer from {url} within 5 s; it may still be written"))?;
        let header = answer.map_err(|status| status.message().to_string())?.into_inner().header;
        return Ok(header.map_or(0, |h| h.revision));
    }
    Err(why)
}

/// Tells a member one thing.
///
/// # Errors
/// Why it does not do it, in words.
pub async fn control(socket: &Path, token: &str, action: Action) -> Result<(), String> {
    let message = ControlRequest { action: Some(action) };
    let asked = async {
        let request = with_token(message, token)?;
        connect(socket).await?.control(request).await
    };
    let answer = tokio::time::timeout(ANSWER, asked).await.map_err(|_| "no answer within 5 s".to_string())?;
    let answer = answer.map_err(|status| status.message().to_string())?.into_inner();
    if answer.ok { Ok(()) } else { Err(answer.why_not) }
}

/// Carries orders out, one after the other as they stand, and says what was not done.
///
/// # Errors
/// Each order that failed, with the member's name and the reason.
pub async fn carry_out(record: &Record, token: &str, orders: Vec<(usize, Action)>) -> Result<(), String> {
    let told = orders.into_iter().filter_map(|(member, action)| Some((record.members.get(member)?, action)));
    let done = told.map(|(m, action)| async move {
        control(&m.lab_socket, token, action).await.map_err(|why| format!("{}: {why}", m.name))
    });
    // To all at once: a clock that is held should stop everywhere at the same time.
    let failed: Vec<String> = futures::future::join_all(done).await.into_iter().filter_map(Result::err).collect();
    if failed.is_empty() { Ok(()) } else { Err(failed.join("; ")) }
}
