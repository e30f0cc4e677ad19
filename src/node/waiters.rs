//! Who waits for what: answers by request id, and the applied index.

use crate::apply::Reply;
use crate::error::Error;
use crate::types::Index;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use tokio::sync::oneshot;

/// Locks are held for one insert or remove; sixteen of them keep connections out of each other's way.
const SHARDS: usize = 16;

type Answer = oneshot::Sender<Result<Reply, Error>>;

/// Requests that wait for their entry to be applied. Each belongs to the leader's reign in which it was proposed.
#[derive(Default)]
pub(crate) struct Requests {
    shards: [Mutex<HashMap<u64, (Answer, u64)>>; SHARDS],
    waiting: AtomicU64,
}

impl Requests {
    fn shard(&self, id: u64) -> &Mutex<HashMap<u64, (Answer, u64)>> {
        &self.shards[id as usize % SHARDS]
    }

    /// Waits for the answer to request `id`, proposed while `reign` leaders had been seen.
    pub(crate) fn wait(&self, id: u64, reign: u64) -> oneshot::Receiver<Result<Reply, Error>> {
        let (answer, receiver) = oneshot::channel();
        self.shard(id).lock().insert(id, (answer, reign));
        self.waiting.fetch_add(1, Ordering::Relaxed);
        receiver
    }

    /// Answers request `id`, if it waits here: entries proposed by other members have no waiter.
    pub(crate) fn answer(&self, id: u64, answer: Result<Reply, Error>) {
        if let Some((waiter, _)) = self.remove(id) {
            let _gone = waiter.send(answer);
        }
    }

    /// The client gave up.
    pub(crate) fn forget(&self, id: u64) {
        self.remove(id);
    }

    fn remove(&self, id: u64) -> Option<(Answer, u64)> {
        let found = self.shard(id).lock().remove(&id);
        if found.is_some() {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
        }
        found
    }

    /// Answers everything that was proposed before `reign` with `why`: whether it was committed cannot be known any more.
    pub(crate) fn fail_before(&self, reign: u64, why: &Error) {
        for shard in &self.shards {
            let mut shard = shard.lock();
            let old: Vec<u64> = shard.iter().filter(|(_, (_, then))| *then < reign).map(|(id, _)| *id).collect();
            for id in old {
                if let Some((waiter, _)) = shard.remove(&id) {
                    self.waiting.fetch_sub(1, Ordering::Relaxed);
                    let _gone = waiter.send(Err(why.clone()));
                }
            }
        }
    }

    /// How many requests wait.
    pub(crate) fn len(&self) -> u64 {
        self.waiting.load(Ordering::Relaxed)
    }
}

/// The index up to which entries are applied, and who waits for it to grow.
#[derive(Default)]
pub(crate) struct Applied {
    index: AtomicU64,
    waiting: Mutex<Vec<(Index, oneshot::Sender<()>)>>,
}

impl Applied {
    pub(crate) fn get(&self) -> Index {
        Index(self.index.load(Ordering::Acquire))
    }

    /// Returns once everything up to `index` is applied.
    pub(crate) async fn reach(&self, index: Index) {
        if self.get() >= index {
            return;
        }
        let receiver = {
            let mut waiting = self.waiting.lock();
            if self.get() >= index {
                return;
            }
            let (sender, receiver) = oneshot::channel();
            waiting.push((index, sender));
            receiver
        };
        let _woken = receiver.await;
    }

    /// Lets go of those who do not wait any more: while nothing is applied, nothing else takes them out.
    pub(crate) fn forget_gone(&self) {
        self.waiting.lock().retain(|(_, waiter)| !waiter.is_closed());
    }

    /// Tells that everything up to `index` is applied now.
    pub(crate) fn set(&self, index: Index) {
        self.index.store(index.0, Ordering::Release);
        let mut waiting = self.waiting.lock();
        let mut at = 0;
        while at < waiting.len() {
            if waiting[at].0 <= index {
                let _gone = waiting.swap_remove(at).1.send(());
            } else {
                at += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_of_an_earlier_reign_are_failed_together() {
        let requests = Requests::default();
        let (mut old, mut new) = (requests.wait(1, 1), requests.wait(2, 2));
        requests.fail_before(2, &Error::TimeoutLeaderFailure);
        assert_eq!(old.try_recv().expect("answered").map(drop), Err(Error::TimeoutLeaderFailure));
        assert!(new.try_recv().is_err(), "still waiting");
        assert_eq!(requests.len(), 1);
    }

    #[tokio::test]
    async fn a_reader_is_woken_when_its_index_is_applied() {
        let applied = std::sync::Arc::new(Applied::default());
        let waiter = tokio::spawn({
            let applied = applied.clone();
            async move { applied.reach(Index(3)).await }
        });
        applied.set(Index(2));
        tokio::task::yield_now().await;
        assert!(!waiter.is_finished());
        applied.set(Index(3));
        waiter.await.expect("woken");
    }

    #[tokio::test]
    async fn a_reader_that_has_given_up_is_not_kept() {
        let applied = Applied::default();
        let mut patient = std::pin::pin!(applied.reach(Index(3)));
        let mut hasty = Box::pin(applied.reach(Index(3)));
        assert!(futures::poll!(&mut patient).is_pending() && futures::poll!(&mut hasty).is_pending());
        drop(hasty);
        applied.forget_gone();
        assert_eq!(applied.waiting.lock().len(), 1);
        applied.set(Index(3));
        patient.await;
    }
}
