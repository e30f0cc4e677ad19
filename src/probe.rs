//! The telemetry tap: what a replica can tell about itself.
//!
//! A step function calls [`Probe::tell`] with a closure that makes the event. With nobody listening that costs one relaxed
//! load; otherwise the event waits in a buffer, which the driver empties after the step, stamps with the time, and sends
//! to the observers. So observing never changes the run: no lock, no wait, no clock in here.

use crate::proto::lab::Event;
use crate::proto::lab::event::Kind;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;

/// How many events may wait in one probe between two drains. What comes later is dropped and counted.
const BUFFER_EVENTS: usize = 4096;
/// How many entries of a moment are told in words.
const SPELLED: u32 = 100;

/// How many observers listen. Shared by all probes of one member.
#[derive(Clone, Debug, Default)]
pub struct Listeners(Arc<AtomicUsize>);

impl Listeners {
    /// Adds an observer.
    pub fn join(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// Removes an observer.
    pub fn leave(&self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }

    /// Whether anybody listens.
    #[must_use]
    pub fn any(&self) -> bool {
        self.0.load(Ordering::Relaxed) > 0
    }
}

/// One thread's end of the tap.
#[derive(Debug, Default)]
pub struct Probe {
    listeners: Listeners,
    buffer: Vec<Event>,
    dropped: u64,
    /// Entries told in words, or not any more, in this moment.
    spelled: u32,
    moment: u64,
}

impl Probe {
    /// A probe that tells these listeners.
    #[must_use]
    pub fn new(listeners: Listeners) -> Probe {
        Probe { listeners, ..Probe::default() }
    }

    /// Whether anybody listens: lets a caller skip work that only serves events.
    #[must_use]
    pub fn on(&self) -> bool {
        self.listeners.any()
    }

    /// Tells the event that `make` makes, if anybody listens.
    pub fn tell(&mut self, make: impl FnOnce() -> Kind) {
        if !self.on() {
            return;
        }
        if self.buffer.len() == BUFFER_EVENTS {
            self.dropped += 1;
            return;
        }
        self.buffer.push(Event { kind: Some(make()) });
    }

    /// Whether one more entry is to be told in words. To make them is most of what telling of an entry costs, and nobody reads many in a moment.
    pub fn spells(&mut self) -> bool {
        self.spelled = self.spelled.saturating_add(1);
        self.spelled <= SPELLED
    }

    /// Says which moment it is, by the driver's clock: in a new one entries are told in words again.
    pub fn refill(&mut self, moment: u64) {
        if self.moment != moment {
            (self.moment, self.spelled) = (moment, 0);
        }
    }

    /// Whether nothing was told since the last drain.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.buffer.is_empty() && self.dropped == 0
    }

    /// Takes the events told since the last call, and how many were dropped meanwhile. The buffer keeps its room: the next round tells about as much.
    pub fn drain(&mut self) -> (impl Iterator<Item = Event> + '_, u64) {
        let dropped = std::mem::take(&mut self.dropped);
        (self.buffer.drain(..), dropped)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::lab::Note;

    #[test]
    fn nothing_is_made_while_nobody_listens() {
        let listeners = Listeners::default();
        let mut probe = Probe::new(listeners.clone());
        probe.tell(|| unreachable!("nobody listens"));
        listeners.join();
        probe.tell(|| Kind::Note(Note { text: "hello".into() }));
        assert_eq!(probe.drain().0.count(), 1);
        assert!(probe.is_empty());
        listeners.leave();
        probe.tell(|| unreachable!("nobody listens any more"));
    }

    #[test]
    fn so_many_entries_of_a_moment_are_told_in_words() {
        let mut probe = Probe::default();
        let told = |probe: &mut Probe| (0..SPELLED * 2).filter(|_| probe.spells()).count();
        assert_eq!(told(&mut probe), SPELLED as usize);
        assert_eq!(told(&mut probe), 0);
        probe.refill(0);
        assert_eq!(told(&mut probe), 0, "the same moment");
        probe.refill(1);
        assert_eq!(told(&mut probe), SPELLED as usize);
    }

    #[test]
    fn a_full_buffer_drops_and_counts() {
        let listeners = Listeners::default();
        listeners.join();
        let mut probe = Probe::new(listeners);
        for _ in 0..BUFFER_EVENTS + 3 {
            probe.tell(|| Kind::Note(Note::default()));
        }
        let (events, dropped) = probe.drain();
        assert_eq!((events.count(), dropped), (BUFFER_EVENTS, 3));
    }
}
