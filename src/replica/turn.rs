//! What every driver does the same way, and in the same order: a round of raft, and one entry for the state machine.
//!
//! The order is what makes an acknowledgement true, so it stands here once, under the server's threads and under the simulator alike:
//!
//! ```text
//! a leader's messages ─▶ committed entries ─▶ append ─▶ sync ─▶ everybody else's messages ─▶ more committed entries
//! ```

use super::Replica;
use crate::apply::Machine;
use crate::apply::Outcome;
use crate::apply::entry;
use crate::consensus::Consensus;
use crate::consensus::Light;
use crate::consensus::Ready;
use crate::error::Error;
use crate::planted::Bug;
use crate::planted::is_planted;
use crate::probe::Probe;
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

    /// Writes to the log that the store has everything up to `mark`.
    ///
    /// # Errors
    /// As [`Outside::append`].
    fn mark(&mut self, mark: &Snapshot) -> Result<(), Error>;

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
    /// [`Error::Storage`]: the member must stop.
    pub fn turn(&mut self, now: Millis, applied: Index, outside: &mut impl Outside) -> Result<(), Error> {
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
        send(outside, std::mem::take(&mut ready.messages));
        hand_on(outside, std::mem::take(&mut ready.committed));
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
        let Light { messages, committed, commit } = self.persisted(ready);
        if commit.is_some() {
            // Not synced: at start, what is applied was committed.
            let hard_state = *self.consensus.hard_state();
            outside.append(&[], Some(&hard_state))?;
        }
        send(outside, messages);
        hand_on(outside, committed);
        Ok(())
    }

    /// The store is durable up to `index`: the log says so, and forgets what nobody needs any more; `keep` entries stay in memory. A follower
    /// that lags is fed from the log, so while there is one nothing goes that it lacks.
    ///
    /// # Errors
    /// [`Error::Storage`]: the member must stop.
    pub fn release(
        &mut self,
        (index, term): (Index, Term),
        keep: u64,
        outside: &mut impl Outside,
    ) -> Result<(), Error> {
        let conf_state = self.consensus.conf_state();
        if conf_state.voters.len() + conf_state.learners.len() > 1 {
            return Ok(());
        }
        let commit = self.consensus.commit().max(index);
        let hard_state = HardState { commit: commit.0, ..*self.consensus.hard_state() };
        outside.mark(&Snapshot { index: index.0, term: term.0, conf_state: Some(conf_state) })?;
        outside.append(&[], Some(&hard_state))?;
        outside.sync(&[], &mut self.consensus.probe)?;
        outside.release_to(index)?;
        self.consensus.release(Index(index.0.saturating_sub(keep)));
        Ok(())
    }
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
        let change = ConfChange::decode(entry.data.clone()).map_err(unreadable)?;
        let conf_state = match machine.members().check(&change) {
            Err(_) => machine.conf_state().clone(),
            Ok(()) => count(&change)?,
        };
        let outcome = machine.apply_conf_change(index, term, &change, &conf_state)?;
        return Ok(Done { request: change.id, outcome, is_conf_change: true, new_leader: None });
    }
    if entry.data.is_empty() {
        let outcome = machine.apply(index, term, None)?;
        return Ok(Done { request: 0, outcome, is_conf_change: false, new_leader: Some(term) });
    }
    let request = entry::read(&entry.data).map_err(unreadable)?;
    let id = request.header.as_ref().map_or(request.id, |header| header.id);
    let outcome = machine.apply(index, term, Some(request))?;
    Ok(Done { request: id, outcome, is_conf_change: false, new_leader: None })
}
