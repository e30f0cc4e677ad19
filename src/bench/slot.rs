//! One request after another: sent, answered, looked at, counted.

#![expect(clippy::disallowed_methods, reason = "a load generator measures time")]

use super::connection::Connection;
use super::connection::Wire;
use super::load::Tally;
use super::load::Window;
use super::pace::Pace;
use super::watchers::Group;
use super::workload;
use super::workload::Mix;
use super::workload::Request;
use super::workload::Requests;
use crate::proto::etcdserverpb as pb;
use pb::kv_client::KvClient;
use pb::lease_client::LeaseClient;
use std::sync::Arc;
use std::sync::Mutex;
use std::time::Instant;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

/// What has one request in flight.
pub(super) struct Slot {
    kv: KvClient<Connection>,
    lease: LeaseClient<Connection>,
    requests: Requests,
    renewal: Option<Renewal>,
    /// Those who watch what it writes: then an operation is an event that one of them got, and they count it.
    watched: Option<Arc<Group>>,
}

impl Slot {
    /// A slot on this connection, with a lease if that is what it renews.
    pub(super) async fn open(wire: &Wire, mix: Mix, requests: Requests) -> Result<Slot, String> {
        let renewal = match mix {
            Mix::LeaseKeepAlive => Some(Renewal::open(wire).await?),
            _ => None,
        };
        Ok(Slot { kv: wire.kv(), lease: wire.lease(), requests, renewal, watched: None })
    }

    /// A slot that writes what this group watches.
    pub(super) fn writer(wire: &Wire, requests: Requests, watched: Arc<Group>) -> Slot {
        Slot { kv: wire.kv(), lease: wire.lease(), requests, renewal: None, watched: Some(watched) }
    }

    pub(super) async fn run(mut self, window: Window, pace: Option<Pace>, tally: Arc<Mutex<Tally>>) {
        loop {
            let since = match &pace {
                Some(pace) => pace.next().await,
                None => Some(Instant::now()),
            };
            let Some(since) = since.filter(|since| *since < window.end) else { return };
            let outcome = match self.watched.clone() {
                Some(group) => self.tell(&group, since).await,
                None => self.ask().await,
            };
            let now = Instant::now();
            if now >= window.end {
                return;
            }
            if now >= window.begin {
                let mut tally = tally.lock().expect("no slot panics");
                match outcome {
                    Ok(()) if self.watched.is_none() => tally.record(since, now),
                    Ok(()) => {}
                    Err(text) => tally.error(text),
                }
            }
        }
    }

    async fn ask(&mut self) -> Result<(), String> {
        match self.requests.next() {
            Request::Put(put) => self.kv.put(put).await.map(drop).map_err(refused),
            Request::Range(range, rows) => {
                let answer = self.kv.range(range).await.map_err(refused)?.into_inner();
                holds("keys", rows, answer.kvs.len())
            }
            Request::Txn(txn) => self.kv.txn(txn).await.map(drop).map_err(refused),
            Request::Delete(delete) => {
                let answer = self.kv.delete_range(delete).await.map_err(refused)?.into_inner();
                holds("deleted keys", 1, answer.deleted as usize)
            }
            Request::Grant(grant) => self.lease.lease_grant(grant).await.map(drop).map_err(refused),
            Request::KeepAlive => match &mut self.renewal {
                Some(renewal) => renewal.renew().await,
                None => Err("no lease to renew".to_owned()),
            },
        }
    }

    /// Writes a key of the group and waits until everybody who watches it has heard.
    async fn tell(&mut self, group: &Group, since: Instant) -> Result<(), String> {
        let key = group.key(self.requests.number());
        let put = self.requests.put(key);
        group.begin(since);
        self.kv.put(put).await.map_err(refused)?;
        group.everybody_heard().await;
        Ok(())
    }
}

/// A lease and the stream on which it is renewed.
struct Renewal {
    id: i64,
    ask: mpsc::Sender<pb::LeaseKeepAliveRequest>,
    answers: tonic::Streaming<pb::LeaseKeepAliveResponse>,
}

impl Renewal {
    async fn open(wire: &Wire) -> Result<Renewal, String> {
        let mut client = wire.lease();
        let id = client.lease_grant(workload::grant()).await.map_err(refused)?.into_inner().id;
        let (ask, asked) = mpsc::channel(1);
        // A server may keep its headers back until it has something to say, so it is asked once before it is listened to.
        let first = pb::LeaseKeepAliveRequest { id };
        ask.send(first).await.map_err(|_| "the stream of renewals ended".to_owned())?;
        let answers = client.lease_keep_alive(ReceiverStream::new(asked)).await.map_err(refused)?.into_inner();
        let mut renewal = Renewal { id, ask, answers };
        renewal.answer().await?;
        Ok(renewal)
    }

    async fn renew(&mut self) -> Result<(), String> {
        let ask = pb::LeaseKeepAliveRequest { id: self.id };
        self.ask.send(ask).await.map_err(|_| "the stream of renewals ended".to_owned())?;
        self.answer().await
    }

    async fn answer(&mut self) -> Result<(), String> {
        let answer = self.answers.message().await.map_err(refused)?.ok_or("the stream of renewals ended")?;
        if answer.ttl > 0 { Ok(()) } else { Err(format!("lease {:x} is gone", self.id)) }
    }
}

fn holds(what: &str, wanted: usize, got: usize) -> Result<(), String> {
    if got == wanted { Ok(()) } else { Err(format!("the answer holds {got} {what}, and should hold {wanted}")) }
}

pub(super) fn refused(refusal: tonic::Status) -> String {
    refusal.message().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_that_holds_less_is_an_error() {
        assert_eq!(holds("keys", 1_000, 1_000), Ok(()));
        assert_eq!(holds("keys", 1_000, 10).expect_err("less"), "the answer holds 10 keys, and should hold 1000");
    }
}
