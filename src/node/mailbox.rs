//! A bounded queue between threads that hands over everything at once.
//!
//! The receiver takes the whole queue in one swap: while it is busy (syncing the log), requests gather, and the next round serves them together. That is
//! where group commit comes from.

use crate::types::Millis;
use parking_lot::Condvar;
use parking_lot::Mutex;
use std::time::Duration;

/// A queue of `T` with many senders and one receiver.
pub(crate) struct Mailbox<T> {
    queue: Mutex<Queue<T>>,
    arrived: Condvar,
    lighter: Condvar,
    limit: usize,
}

struct Queue<T> {
    items: Vec<T>,
    /// Of what waits and of what the receiver has taken and not finished.
    weight: usize,
    waiting: bool,
    closed: bool,
}

/// Why an item was not taken.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    Full,
    Closed,
}

impl<T> Mailbox<T> {
    /// A mailbox for at most `limit` items.
    pub(crate) fn new(limit: usize) -> Mailbox<T> {
        let queue = Queue { items: Vec::new(), weight: 0, waiting: false, closed: false };
        Mailbox { queue: Mutex::new(queue), arrived: Condvar::new(), lighter: Condvar::new(), limit }
    }

    /// Adds an item, unless the queue is full or closed.
    pub(crate) fn push(&self, item: T) -> Result<(), Refused> {
        self.push_beyond(item, 0)
    }

    /// Adds an item, unless the queue is closed, or full with `more` items beside: for what goes first while others are refused.
    pub(crate) fn push_beyond(&self, item: T, more: usize) -> Result<(), Refused> {
        let mut queue = self.queue.lock();
        if queue.closed {
            return Err(Refused::Closed);
        }
        if queue.items.len() >= self.limit.saturating_add(more) {
            return Err(Refused::Full);
        }
        self.add(&mut queue, item);
        Ok(())
    }

    /// Adds an item even to a full queue: for the few that must not be lost and cannot pile up.
    pub(crate) fn force(&self, item: T) {
        let mut queue = self.queue.lock();
        if !queue.closed {
            self.add(&mut queue, item);
        }
    }

    fn add(&self, queue: &mut Queue<T>, item: T) {
        queue.items.push(item);
        if std::mem::take(&mut queue.waiting) {
            self.arrived.notify_one();
        }
    }

    /// Swaps everything that waits into `into` (which must be empty), after waiting at most `wait` for something to arrive. False once the
    /// mailbox is closed and empty.
    pub(crate) fn take_all(&self, into: &mut Vec<T>, wait: Duration) -> bool {
        let mut queue = self.queue.lock();
        if queue.items.is_empty() && !queue.closed && !wait.is_zero() {
            queue.waiting = true;
            self.arrived.wait_for(&mut queue, wait);
            queue.waiting = false;
        }
        std::mem::swap(&mut queue.items, into);
        !(queue.closed && into.is_empty())
    }

    /// As [`Mailbox::force`], an item that weighs so much until the receiver has finished it.
    pub(crate) fn force_heavy(&self, item: T, weight: usize) {
        let mut queue = self.queue.lock();
        if !queue.closed {
            queue.weight += weight;
            self.add(&mut queue, item);
        }
    }

    /// The receiver has finished what weighed so much.
    pub(crate) fn finished(&self, weight: usize) {
        self.queue.lock().weight -= weight;
        self.lighter.notify_all();
    }

    /// What waits, and what the receiver has not finished, weighs so much.
    pub(crate) fn weight(&self) -> usize {
        self.queue.lock().weight
    }

    /// Waits until that is less than `limit`, or the mailbox is closed: back-pressure for a sender that may block.
    pub(crate) fn wait_below(&self, limit: usize) {
        let mut queue = self.queue.lock();
        while queue.weight >= limit && !queue.closed {
            self.lighter.wait(&mut queue);
        }
    }

    /// Refuses everything from now on, and drops what is queued: who waits for an answer to it hears that there is none.
    pub(crate) fn discard(&self) {
        self.close();
        let dropped = std::mem::take(&mut self.queue.lock().items);
        // Without the lock: what is dropped may wake somebody.
        drop(dropped);
    }

    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.queue.lock().items.is_empty()
    }

    /// Refuses everything from now on; the receiver still gets what is queued.
    pub(crate) fn close(&self) {
        self.queue.lock().closed = true;
        self.arrived.notify_all();
        self.lighter.notify_all();
    }
}

/// Milliseconds as a duration.
pub(crate) fn duration(from: Millis, to: Millis) -> Duration {
    Duration::from_millis(to.0.saturating_sub(from.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_mailbox_refuses_and_a_closed_one_drains() {
        let mailbox = Mailbox::new(2);
        assert_eq!((mailbox.push(1), mailbox.push(2), mailbox.push(3)), (Ok(()), Ok(()), Err(Refused::Full)));
        mailbox.force(4);
        assert_eq!((mailbox.push_beyond(6, 2), mailbox.push_beyond(7, 2)), (Ok(()), Err(Refused::Full)));
        mailbox.close();
        assert_eq!((mailbox.push(5), mailbox.push_beyond(5, 99)), (Err(Refused::Closed), Err(Refused::Closed)));
        let mut all = Vec::new();
        assert!(mailbox.take_all(&mut all, Duration::ZERO));
        assert_eq!(all, [1, 2, 4, 6]);
        all.clear();
        assert!(!mailbox.take_all(&mut all, Duration::ZERO));
    }

    #[test]
    fn what_the_receiver_has_taken_weighs_until_it_is_finished() {
        let mailbox = std::sync::Arc::new(Mailbox::new(10));
        mailbox.force_heavy(1, 60);
        mailbox.force_heavy(2, 5);
        let mut all = Vec::new();
        assert!(mailbox.take_all(&mut all, Duration::ZERO));
        assert_eq!((all.as_slice(), mailbox.weight()), ([1, 2].as_slice(), 65));
        let (sender, (tell, told)) = (mailbox.clone(), std::sync::mpsc::channel());
        let thread = std::thread::spawn(move || {
            sender.wait_below(65);
            tell.send(sender.weight())
        });
        assert!(told.try_recv().is_err(), "it waits");
        mailbox.finished(60);
        assert_eq!(told.recv(), Ok(5));
        thread.join().expect("the sender").expect("heard");
        mailbox.force_heavy(3, 100);
        mailbox.close();
        mailbox.wait_below(1);
    }

    #[test]
    fn what_arrives_wakes_the_receiver() {
        let mailbox = std::sync::Arc::new(Mailbox::new(10));
        let sender = mailbox.clone();
        let thread = std::thread::spawn(move || sender.push(7));
        let mut all = Vec::new();
        while all.is_empty() {
            assert!(mailbox.take_all(&mut all, Duration::from_secs(10)));
        }
        assert_eq!(all, [7]);
        thread.join().expect("the sender").expect("taken");
    }
}
