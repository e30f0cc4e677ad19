//! What every driver does the same way, and in the same order: a round of raft, and one entry for the state machine.
//!
//! The order is what makes an acknowledgement true, so it stands here once, under the server's threads and under the simulator alike:
//!
//! ```text
//! a leader's messages ─▶ committed entries ─▶ append ─▶ sync ─▶ everybody else's messages ─▶ more committed entries
//!
//! a snapshot:   name its image ─▶ mark, hard state ─▶ sync ─▶ note for etcd's tools ─▶ state machine ─▶ tell the leader
//! a release:    (store is durable) mark, hard state ─▶ sync ─▶ note for etcd's tools ─▶ delete segments ─▶ forget entries
//! ```
//!
//! etcd's tools begin at the newest note, so it must never be ahead of the mark that it goes with.

use super::Replica;
use crate::apply::Machine;
use crate::apply::Outcome;
use crate::apply::entry;
use crate::consensus::Consensus;
use crate::consensus::Light;
use crate::consensus::Ready;
use crate::error::Error;
use crate::failpoint;
use crate::failpoint::Point;
use crate::planted::Bug;
use crate::planted::is_planted;
use crate::probe::Probe;
use crate::proto::raftpb;
use crate::proto::raftpb::ConfState;
use crate::proto::raftpb::Entry;
use crate::proto::raftpb::EntryType;
use crate::proto::raftpb::HardState;
use crate::proto::raftpb::Message;
use crate::proto::walpb::ConfChange;
use crate::proto::walpb::Snapshot;
use crate::types::Index;
use crate::types::Millis;
use crate::types::Term;
use prost::Message as _;

/// What a replica has its driver do. Calls come in the order in which the effects must happen.
pub trait Outside {
    /// Shows where raft stands. Comes before the entries that go with it, so that whoever applies an entry of a new term can see the term.
    fn show(&mut self, consensus: &Consensus);

    /// Sends these, or loses them.
    fn send(&mut self, messages: Vec<Message>);

    /// Writes to the log.
    ///
    /// # Errors
    /// [`Error::Storage`]: the member must stop.
    fn append(&mut self, entries: &[Entry], hard_state: Option<&HardState>) -> Result<(), Error>;

    /// Returns once all that was appended, `entries` at its end, is durable.
    ///
    /// # Errors
    /// As [`Outside::append`].
    fn sync(&mut self, entries: &[Entry], probe: &mut Probe) -> Result<(), Error>;

    /// Hands committed entries to the state machine.
    fn hand_on(&mut self, committed: Vec<Entry>);

    /// Makes the image that came with a snapshot what a start takes its state from, durably.
    ///
    /// # Errors
    /// As [`Outside::append`].
    fn accept(&mut self, mark: &Snapshot) -> Result<(), Error>;

    /// Hands an accepted snapshot to the state machine, before the entries that come after it.
    fn install(&mut self, mark: Snapshot);

    /// Writes to the log that the store, or an accepted image, has everything up to `mark`.
    ///
    /// # Errors
    /// As [`Outside::append`].
    fn mark(&mut self, mark: &Snapshot) -> Result<(), Error>;

    /// Leaves a note of a mark, with the `members` of then in etcd's form, where etcd's tools look for it.
    ///
    /// # Errors
    /// As [`Outside::append`].
    fn note(&mut self, mark: &Snapshot, members: &[u8]) -> Result<(), Error>;

    /// Gives the log's segments back that a start at `index` does not need.
    ///
    /// # Errors
    /// As [`Outside::append`].
    fn release_to(&mut self, index: Index) -> Result<(), Error>;
}

impl<W> Replica<W> {
    /// One round: hands what is queued to raft, and has done what raft wants done. `applied` is how far the state machine has come.
    ///
    /// # Errors
    /// [`Error::Storage`], and [`Error::Damaged`] if its log has turned out to lack what it acknowledged: the member must stop.
    pub fn turn(&mut self, now: Millis, applied: Index, outside: &mut impl Outside) -> Result<(), Error> {
        if let Some(why) = self.broken.take() {
            return Err(why);
        }
        self.consensus.applied(applied);
        self.flush(now);
        while let Some(ready) = self.ready() {
            outside.show(&self.consensus);
            self.work(ready, outside)?;
        }
        outside.show(&self.consensus);
        Ok(())
    }

    /// Does what raft wants done, in raft's order: a leader's messages leave before its disk is asked, everybody else's after.
    fn work(&mut self, mut ready: Ready, outside: &mut impl Outside) -> Result<(), Error> {
        if !ready.messages.is_empty() {
            failpoint::hit(Point::RaftBeforeLeaderSend);
        }
        send(outside, std::mem::take(&mut ready.messages));
        hand_on(outside, std::mem::take(&mut ready.committed));
        let received = ready.snapshot.as_ref().and_then(|snapshot| Some((mark_of(snapshot)?, snapshot.data.clone())));
        if let Some((mark, _)) = &received {
            outside.accept(mark)?;
            failpoint::hit(Point::SnapAfterAccept);
            outside.mark(mark)?;
        }
        failpoint::hit(Point::RaftBeforeSave);
        if !ready.entries.is_empty() || ready.hard_state.is_some() {
            outside.append(&ready.entries, ready.hard_state.as_ref())?;
        }
        let skipped = match ready.entries.is_empty() {
            true => is_planted(Bug::VoteBeforeSync),
            false => is_planted(Bug::AcknowledgeBeforeSync),
        };
        if ready.must_sync && !skipped {
            outside.sync(&ready.entries, &mut self.consensus.probe)?;
        }
        failpoint::hit(Point::RaftAfterSave);
        if let Some((mark, members)) = received {
            outside.note(&mark, &members)?;
            self.marked = Index(mark.index);
            outside.install(mark);
        }
        failpoint::hit(Point::RaftBeforeAdvance);
        let Light { messages, committed, commit } = self.persisted(ready);
        if commit.is_some() {
            // Not synced: at start, what is applied was committed.
            let hard_state = *self.consensus.hard_state();
            outside.append(&[], Some(&hard_state))?;
        }
        if !messages.is_empty() {
            failpoint::hit(Point::RaftBeforeFollowerSend);
        }
        send(outside, messages);
        hand_on(outside, committed);
        Ok(())
    }

    /// The store is durable up to `mark`: the log says so, and forgets what nobody needs any more. For followers that lag, `keep` entries stay in
    /// memory, as far as they fit into `bytes`; who lags more gets a snapshot. `members` as in [`Outside::note`].
    ///
    /// # Errors
    /// [`Error::Storage`]: the member must stop.
    pub fn release(
        &mut self,
        mark: &Snapshot,
        members: &[u8],
        (keep, bytes): (u64, usize),
        outside: &mut impl Outside,
    ) -> Result<(), Error> {
        let index = Index(mark.index);
        // A snapshot may have been accepted while the store was synced.
        if index <= self.marked {
            return Ok(());
        }
        self.marked = index;
        // Not what raft knows by now: an entry that came a moment ago may be committed, and not in this log yet.
        let written = *self.consensus.hard_state();
        let hard_state = HardState { commit: written.commit.max(index.0), ..written };
        failpoint::hit(Point::RaftBeforeSaveSnap);
        outside.mark(mark)?;
        outside.append(&[], Some(&hard_state))?;
        outside.sync(&[], &mut self.consensus.probe)?;
        failpoint::hit(Point::RaftAfterSaveSnap);
        outside.note(mark, members)?;
        outside.release_to(index)?;
        failpoint::hit(Point::RaftAfterWalRelease);
        // What is in the store is applied. raft looks through what is not before it campaigns, and panics if that is gone.
        self.consensus.applied(index);
        self.consensus.release(index, keep, bytes);
        Ok(())
    }
}

/// What the log says of a snapshot.
fn mark_of(snapshot: &raftpb::Snapshot) -> Option<Snapshot> {
    let metadata = snapshot.metadata.as_ref()?;
    Some(Snapshot { index: metadata.index, term: metadata.term, conf_state: metadata.conf_state.clone() })
}

fn send(outside: &mut impl Outside, messages: Vec<Message>) {
    if !messages.is_empty() {
        outside.send(messages);
    }
}

fn hand_on(outside: &mut impl Outside, committed: Vec<Entry>) {
    if !committed.is_empty() {
        outside.hand_on(committed);
    }
}

/// An applied entry with what it means for others.
pub struct Done {
    /// Who waits for it; 0 for nobody.
    pub request: u64,
    pub outcome: Outcome,
    pub is_conf_change: bool,
    /// A leader's first entry: its term.
    pub new_leader: Option<Term>,
}

/// Whether [`apply_entry`] can read what a peer proposes. In the log of a cluster it would stop every member, at every start.
pub(super) fn is_readable(proposed: &Entry) -> bool {
    let data = &proposed.data;
    match proposed.entry_type() {
        EntryType::EntryNormal => !data.is_empty() && entry::read(data).is_ok(),
        _ => ConfChange::decode(data.clone()).is_ok(),
    }
}

/// Applies one entry of the log. `count` makes a conf change count in raft, and comes first, so that members and raft's configuration are
/// stored as one; a change that the members table refuses never reaches raft, it is an answer.
///
/// # Errors
/// Those that other members might not share: this one must stop.
pub fn apply_entry(
    machine: &mut Machine,
    entry: &Entry,
    count: impl FnOnce(&ConfChange) -> Result<ConfState, Error>,
) -> Result<Done, Error> {
    let (index, term) = (Index(entry.index), Term(entry.term));
    let unreadable = |e: prost::DecodeError| Error::Damaged(format!("entry {index} cannot be read: {e}"));
    if entry.entry_type() != EntryType::EntryNormal {
        failpoint::hit(Point::BeforeApplyOneConfChange);
        let change = ConfChange::decode(entry.data.clone()).map_err(unreadable)?;
        let conf_state = match machine.members().check(&change) {
            Err(_) => machine.conf_state().clone(),
            Ok(()) => count(&change)?,
        };
        let outcome = machine.apply_conf_change(index, term, &change, &conf_state)?;
        return Ok(Done { request: change.id, outcome, is_conf_change: true, new_leader: None });
    }
    failpoint::hit(Point::BeforeApplyOneEntryNormal);
    if entry.data.is_empty() {
        let outcome = machine.apply(index, term, None)?;
        return Ok(Done { request: 0, outcome, is_conf_change: false, new_leader: Some(term) });
    }
    let request = entry::read(&entry.data).map_err(unreadable)?;
    let id = request.header.as_ref().map_or(request.id, |header| header.id);
    let outcome = machine.apply(index, term, Some(request))?;
    Ok(Done { request: id, outcome, is_conf_change: false, new_leader: None })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::consensus::Config;
    use crate::consensus::Initial;
    use crate::probe::Listeners;
    use crate::proto::raftpb::MessageType;
    use crate::types::MemberId;

    /// Notes what goes into the log.
    #[derive(Default)]
    struct Log {
        last: u64,
        commits: Vec<u64>,
    }

    impl Outside for Log {
        fn show(&mut self, _: &Consensus) {}

        fn send(&mut self, _: Vec<Message>) {}

        fn append(&mut self, entries: &[Entry], hard_state: Option<&HardState>) -> Result<(), Error> {
            self.last = entries.last().map_or(self.last, |entry| entry.index);
            self.commits.extend(hard_state.map(|state| state.commit));
            Ok(())
        }

        fn sync(&mut self, _: &[Entry], _: &mut Probe) -> Result<(), Error> {
            Ok(())
        }

        fn hand_on(&mut self, _: Vec<Entry>) {}

        fn accept(&mut self, _: &Snapshot) -> Result<(), Error> {
            Ok(())
        }

        fn install(&mut self, _: Snapshot) {}

        fn mark(&mut self, _: &Snapshot) -> Result<(), Error> {
            Ok(())
        }

        fn note(&mut self, _: &Snapshot, _: &[u8]) -> Result<(), Error> {
            Ok(())
        }

        fn release_to(&mut self, _: Index) -> Result<(), Error> {
            Ok(())
        }
    }

    /// A leader's append of one entry.
    fn append(index: u64, commit: u64) -> Message {
        let log_term = u64::from(index > 1);
        let entries = vec![Entry { index, term: 1, ..Entry::default() }];
        let mut message = Message { from: 2, to: 1, term: 1, log_term, index: index - 1, ..Message::default() };
        (message.entries, message.commit) = (entries, commit);
        message.set_msg_type(MessageType::MsgAppend);
        message
    }

    #[test]
    fn a_member_that_forgets_entries_before_raft_hears_that_they_are_applied_can_campaign() {
        let config =
            Config { id: MemberId(1), election_ticks: 10, pre_vote: true, tick_ms: 100, seed: 1, applied: Index(0) };
        let conf_state = ConfState { voters: vec![1], ..ConfState::default() };
        let entries = (1..=9).map(|index| Entry { index, term: 1, ..Entry::default() }).collect();
        let hard_state = HardState { term: 1, vote: 1, commit: 9 };
        let initial = Initial { conf_state: conf_state.clone(), entries, hard_state, ..Initial::default() };
        let consensus = Consensus::new(&config, initial, Listeners::default()).expect("a log");
        let (mut replica, mut log) = (Replica::<()>::new(consensus, 1 << 48), Log::default());
        replica.turn(Millis(0), Index(0), &mut log).expect("no disk fails");
        let mark = Snapshot { index: 9, term: 1, conf_state: Some(conf_state) };
        replica.release(&mark, &[], (0, 0), &mut log).expect("no disk fails");
        for _ in 0..40 {
            replica.consensus.tick();
        }
        replica.turn(Millis(0), Index(9), &mut log).expect("no disk fails");
        assert_eq!(replica.consensus.term(), Term(2), "it has campaigned");
    }

    #[test]
    fn a_release_commits_nothing_that_the_log_does_not_have() {
        let config =
            Config { id: MemberId(1), election_ticks: 10, pre_vote: true, tick_ms: 100, seed: 1, applied: Index(0) };
        let conf_state = ConfState { voters: vec![1, 2], ..ConfState::default() };
        let initial = Initial { conf_state: conf_state.clone(), ..Initial::default() };
        let consensus = Consensus::new(&config, initial, Listeners::default()).expect("fresh");
        let (mut replica, mut log) = (Replica::<()>::new(consensus, 1 << 48), Log::default());
        replica.step(append(1, 1)).expect("let in");
        replica.turn(Millis(0), Index(0), &mut log).expect("no disk fails");
        // Came a moment ago: committed, and not in the log yet, when the store says that it is durable.
        replica.step(append(2, 2)).expect("let in");
        assert_eq!((replica.consensus.commit(), log.last), (Index(2), 1));
        let mark = Snapshot { index: 1, term: 1, conf_state: Some(conf_state) };
        replica.release(&mark, &[], (10, 1 << 20), &mut log).expect("no disk fails");
        assert_eq!(log.commits.last(), Some(&1));
        replica.turn(Millis(0), Index(1), &mut log).expect("no disk fails");
        assert_eq!((log.last, log.commits.last()), (2, Some(&2)));
    }
}
