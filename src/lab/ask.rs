//! What the lab asks of members: a put like any client's, and "campaign now".

use crate::lab::observe::connect;
use crate::lab::observe::with_token;
use crate::proto::etcdserverpb::PutRequest;
use crate::proto::etcdserverpb::kv_client::KvClient;
use crate::proto::lab::Campaign;
use crate::proto::lab::ControlRequest;
use crate::proto::lab::control_request::Action;
use std::path::Path;
use std::time::Duration;
use tonic::transport::Endpoint;

const CONNECT: Duration = Duration::from_secs(1);
const ANSWER: Duration = Duration::from_secs(5);

/// Writes a key through the first of `endpoints` that accepts a connection, and returns the new revision.
///
/// # Errors
/// In words for the user. Once a request is under way it is not sent a second time: it might be written twice.
pub async fn put(endpoints: &[String], key: &str, value: &str) -> Result<i64, String> {
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
        let answer = tokio::time::timeout(ANSWER, KvClient::new(channel).put(request)).await;
        let answer = answer.map_err(|_| format!("no answer from {url} within 5 s; it may still be written"))?;
        let header = answer.map_err(|status| status.message().to_string())?.into_inner().header;
        return Ok(header.map_or(0, |h| h.revision));
    }
    Err(why)
}

/// Makes a member stand for election now.
///
/// # Errors
/// Why it does not, in words.
pub async fn campaign(socket: &Path, token: &str) -> Result<(), String> {
    let message = ControlRequest { action: Some(Action::Campaign(Campaign {})) };
    let asked = async {
        let request = with_token(message, token)?;
        connect(socket).await?.control(request).await
    };
    let answer = tokio::time::timeout(ANSWER, asked).await.map_err(|_| "no answer within 5 s".to_string())?;
    let answer = answer.map_err(|status| status.message().to_string())?.into_inner();
    if answer.ok { Ok(()) } else { Err(answer.why_not) }
}
