//! One watch stream to one server, and what came in on it, sorted so that two servers can be compared: control answers in the order of the
//! requests, everything else per watch, since etcd promises no order between watches.

#![expect(clippy::disallowed_methods, reason = "waits for answers, with deadlines")]

use super::answer::neutral;
use super::answer::refused;
use etcd_lab::proto::etcdserverpb as pb;
use etcd_lab::proto::mvccpb::Event;
use pb::watch_client::WatchClient;
use pb::watch_request::RequestUnion;
use std::collections::BTreeMap;
use std::collections::VecDeque;
use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;
use tokio::sync::Mutex;
use tokio::sync::Notify;
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Request;
use tonic::transport::Channel;

/// How long an answer may take that must come.
const MUST_COME: Duration = Duration::from_secs(5);
/// How long to listen for an answer that should not come.
const SHOULD_NOT: Duration = Duration::from_millis(250);

pub(super) struct Stream {
    /// None once the client's side is closed.
    requests: Option<mpsc::Sender<pb::WatchRequest>>,
    inbox: Arc<Inbox>,
    task: tokio::task::JoinHandle<()>,
}

#[derive(Default)]
struct Inbox {
    got: Mutex<Got>,
    changed: Notify,
}

#[derive(Default)]
struct Got {
    control: VecDeque<String>,
    progress: VecDeque<String>,
    /// Per watch: a text for each revision and for each end.
    logs: BTreeMap<i64, Vec<String>>,
    /// The newest revision of each watch, to see one that comes torn or twice.
    newest: BTreeMap<i64, i64>,
    end: Option<String>,
}

impl Stream {
    pub(super) fn open(
        channel: Channel,
        own: u64,
        request: impl FnOnce(ReceiverStream<pb::WatchRequest>) -> Request<ReceiverStream<pb::WatchRequest>>,
    ) -> Stream {
        let (sender, receiver) = mpsc::channel(64);
        let inbox = Arc::new(Inbox::default());
        let request = request(ReceiverStream::new(receiver));
        let task = tokio::spawn(receive(channel, own, request, Arc::clone(&inbox)));
        Stream { requests: Some(sender), inbox, task }
    }

    pub(super) async fn send(&self, request: RequestUnion) {
        let request = pb::WatchRequest { request_union: Some(request) };
        if let Some(requests) = &self.requests {
            // The server may have ended the stream; then its end is the answer.
            drop(requests.send(request).await);
        }
    }

    /// The next control answer, or the end of the stream.
    pub(super) async fn control(&self) -> String {
        self.wait(MUST_COME, |got| got.control.pop_front().or_else(|| got.end.clone())).await
    }

    /// The next answer to a request for progress.
    pub(super) async fn progress(&self, expected: bool) -> String {
        let limit = if expected { MUST_COME } else { SHOULD_NOT };
        self.wait(limit, |got| got.progress.pop_front().or_else(|| got.end.clone())).await
    }

    /// Waits until the watch has been told its end.
    pub(super) async fn canceled(&self, id: i64) -> String {
        let is_end = |log: &Vec<String>| log.last().is_some_and(|text| text.contains("canceled: true"));
        self.wait(MUST_COME, |got| got.logs.get(&id).filter(|log| is_end(log)).map(|_| "canceled: 1,".to_owned())).await
    }

    /// Ends the requests. Returns the end of the answers, if that comes, too.
    pub(super) async fn half_close(&mut self) -> String {
        self.requests = None;
        self.wait(SHOULD_NOT / 2, |got| got.end.clone()).await
    }

    /// How much of each watch has come.
    pub(super) async fn counts(&self) -> BTreeMap<i64, usize> {
        self.inbox.got.lock().await.logs.iter().map(|(id, log)| (*id, log.len())).collect()
    }

    /// Takes the first `count` texts of a watch.
    pub(super) async fn take(&self, id: i64, count: usize) -> Vec<String> {
        let mut got = self.inbox.got.lock().await;
        let log = got.logs.entry(id).or_default();
        let rest = log.split_off(count.min(log.len()));
        std::mem::replace(log, rest)
    }

    async fn wait(&self, limit: Duration, mut look: impl FnMut(&mut Got) -> Option<String>) -> String {
        let deadline = Instant::now() + limit;
        loop {
            let changed = self.inbox.changed.notified();
            if let Some(text) = look(&mut *self.inbox.got.lock().await) {
                return text;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if tokio::time::timeout(left, changed).await.is_err() {
                return "silence: 1,".to_owned();
            }
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn receive(channel: Channel, own: u64, request: Request<ReceiverStream<pb::WatchRequest>>, inbox: Arc<Inbox>) {
    let mut client = WatchClient::new(channel).max_decoding_message_size(1 << 28);
    let end = match client.watch(request).await {
        Err(status) => refused(&status),
        Ok(responses) => {
            let mut responses = responses.into_inner();
            loop {
                match responses.next().await {
                    Some(Ok(response)) => {
                        inbox.got.lock().await.sort(own, response);
                        inbox.changed.notify_waiters();
                    }
                    Some(Err(status)) => break refused(&status),
                    None => break "end: 1,".to_owned(),
                }
            }
        }
    };
    inbox.got.lock().await.end = Some(neutral(&end, own));
    inbox.changed.notify_waiters();
}

impl Got {
    fn sort(&mut self, own: u64, response: pb::WatchResponse) {
        let text = || neutral(&format!("{response:#?}"), own);
        if response.created {
            self.control.push_back(text());
        } else if response.canceled {
            self.logs.entry(response.watch_id).or_default().push(text());
            self.newest.remove(&response.watch_id);
        } else if response.events.is_empty() {
            self.progress.push_back(text());
        } else {
            self.events(&response);
        }
    }

    /// One text for each revision: how many revisions a response has is the server's business. What it must not do is noted in the text.
    fn events(&mut self, response: &pb::WatchResponse) {
        let revision = |event: &Event| event.kv.as_ref().map_or(0, |kv| kv.mod_revision);
        let newest = self.newest.entry(response.watch_id).or_default();
        let log = self.logs.entry(response.watch_id).or_default();
        let told = response.header.map_or(0, |header| header.revision);
        for events in response.events.chunk_by(|a, b| revision(a) == revision(b)) {
            let at = revision(&events[0]);
            let mut text = format!("{events:#?}");
            if at <= *newest {
                writeln!(text, "\nout_of_order: {at} after {newest},").expect("a String takes all");
            }
            if told < at {
                writeln!(text, "\nheader_below: {told} of {at},").expect("a String takes all");
            }
            *newest = at;
            log.push(text);
        }
    }
}

/// A pair of streams, one to each server: waits until as much has come on both, or for as long as an answer may take.
pub(super) async fn settle(ours: &Stream, theirs: &Stream, at_least: Duration) {
    let begin = Instant::now();
    loop {
        let (changed_ours, changed_theirs) = (ours.inbox.changed.notified(), theirs.inbox.changed.notified());
        let equal = ours.counts().await == theirs.counts().await;
        let waited = begin.elapsed();
        if (equal && waited >= at_least) || waited >= MUST_COME {
            return;
        }
        let pause = if equal { at_least - waited } else { MUST_COME - waited };
        tokio::select! {
            () = changed_ours => {}
            () = changed_theirs => {}
            () = tokio::time::sleep(pause) => {}
        }
    }
}
