//! What the lab asks of members: a put or a get like any client's, and what deeds order.

use crate::lab::Report;
use crate::lab::nemesis;
use crate::lab::observe::connect;
use crate::lab::observe::with_token;
use crate::lab::promises::Answer;
use crate::lab::promises::Asked;
use crate::lab::promises::Call;
use crate::lab::promises::Found;
use crate::lab::survey;
use crate::lab::workdir::Record;
use crate::proto::etcdserverpb::PutRequest;
use crate::proto::etcdserverpb::RangeRequest;
use crate::proto::etcdserverpb::kv_client::KvClient;
use crate::proto::lab::ControlRequest;
use crate::proto::lab::control_request::Action;
use crate::proto::mvccpb::KeyValue;
use std::path::Path;
use std::time::Duration;
use tokio::sync::mpsc;
use tonic::transport::Channel;
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
    let (url, mut kv) = connected(endpoints).await?;
    let request = PutRequest { key: key.to_string().into(), value: value.to_string().into(), ..Default::default() };
    let answer = tokio::time::timeout(patience(patient), kv.put(request)).await;
    let answer = answer.map_err(|_| format!("no answer within 5 s, it may still be written ({url})"))?;
    let header = answer.map_err(|status| status.message().to_string())?.into_inner().header;
    Ok(header.map_or(0, |h| h.revision))
}

/// Reads a key, linearizably, as `etcdctl get` does: the revision at which it was read, and what was there.
///
/// # Errors
/// As [`put`].
pub async fn get(endpoints: &[String], key: &str, patient: bool) -> Result<(i64, Option<KeyValue>), String> {
    let (url, mut kv) = connected(endpoints).await?;
    let request = RangeRequest { key: key.to_string().into(), ..Default::default() };
    let answer = tokio::time::timeout(patience(patient), kv.range(request)).await;
    let answer = answer.map_err(|_| format!("no answer from {url} within 5 s"))?;
    let answer = answer.map_err(|status| status.message().to_string())?.into_inner();
    Ok((answer.header.map_or(0, |h| h.revision), answer.kvs.into_iter().next()))
}

fn patience(patient: bool) -> Duration {
    if patient { PATIENCE } else { ANSWER }
}

/// [`put`], and what promises are held against: that it was asked, and what was answered. `id` counts the lab's requests.
///
/// # Errors
/// As [`put`].
pub async fn reported_put(
    to: &mpsc::Sender<Report>,
    id: u64,
    endpoints: &[String],
    (key, value): (&str, &str),
    patient: bool,
) -> Result<i64, String> {
    let asked = Asked::Put { key: key.to_owned(), sum: crc32c::crc32c(value.as_bytes()) };
    drop(to.send(Report::Called(Box::new(Call::Asks { id, asked }))).await);
    let said = put(endpoints, key, value, patient).await;
    let answer = said.clone().map(|revision| Answer { revision, found: None });
    drop(to.send(Report::Called(Box::new(Call::IsTold { id, answer }))).await);
    said
}

/// [`get`], in the same way.
///
/// # Errors
/// As [`put`].
pub async fn reported_get(
    to: &mpsc::Sender<Report>,
    id: u64,
    endpoints: &[String],
    key: &str,
    patient: bool,
) -> Result<(i64, Option<KeyValue>), String> {
    let asked = Asked::Get { key: key.to_owned() };
    drop(to.send(Report::Called(Box::new(Call::Asks { id, asked }))).await);
    let said = get(endpoints, key, patient).await;
    let found = |kv: &KeyValue| Found { mod_revision: kv.mod_revision, sum: crc32c::crc32c(&kv.value) };
    let answer = said.as_ref().map(|(revision, kv)| Answer { revision: *revision, found: kv.as_ref().map(found) });
    let answer = answer.map_err(Clone::clone);
    drop(to.send(Report::Called(Box::new(Call::IsTold { id, answer }))).await);
    said
}

/// The nemesis's client: writes the value, or reads. What becomes of it only the promises hear.
pub async fn call(to: &mpsc::Sender<Report>, id: u64, endpoints: &[String], value: Option<String>) {
    match value {
        Some(value) => drop(reported_put(to, id, endpoints, (nemesis::KEY, &value), false).await),
        None => drop(reported_get(to, id, endpoints, nemesis::KEY, false).await),
    }
}

/// The first of `endpoints` that accepts a connection.
async fn connected(endpoints: &[String]) -> Result<(&str, KvClient<Channel>), String> {
    let mut why = "no member runs".to_string();
    for url in endpoints {
        if survey::is_closed(url) {
            why = format!("{url}: {}", survey::CLOSED);
            continue;
        }
        let endpoint = Endpoint::from_shared(url.clone()).map_err(|e| e.to_string())?.connect_timeout(CONNECT);
        match endpoint.connect().await {
            Ok(channel) => return Ok((url, KvClient::new(channel))),
            Err(_) => why = format!("nobody answers at {url}"),
        }
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
        // Who loses power does not answer; that it has ended is seen by its process.
        let is_last = matches!(action, Action::PowerLoss(_));
        let done = control(&m.lab_socket, token, action).await;
        if is_last { Ok(()) } else { done.map_err(|why| format!("{}: {why}", m.name)) }
    });
    // To all at once: a clock that is held should stop everywhere at the same time.
    let failed: Vec<String> = futures::future::join_all(done).await.into_iter().filter_map(Result::err).collect();
    if failed.is_empty() { Ok(()) } else { Err(failed.join("; ")) }
}
