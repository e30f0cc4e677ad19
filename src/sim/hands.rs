//! What raft has its driver do, on the simulated disk and network: the log, the messages, what goes to the state machine; and what the judge is
//! told of it.

use super::disk::SimDisk;
use crate::consensus::Consensus;
use crate::consensus::Role;
use crate::error::Error;
use crate::probe::Probe;
use crate::proto::raftpb::Entry;
use crate::proto::raftpb::HardState;
use crate::proto::raftpb::Message;
use crate::proto::raftpb::MessageType;
use crate::proto::walpb::Snapshot;
use crate::replica::Outside;
use crate::replica::install::Installs;
use crate::replica::start::Held;
use crate::types::Index;
use crate::wal::Preparation;
use crate::wal::Wal;
use parking_lot::Mutex;
use std::collections::BTreeMap;

/// What raft hands to the state machine.
pub(super) enum Todo {
    Entry(Entry),
    Install(Snapshot),
}

/// What a member did that the judge wants to know.
pub(super) enum Fact {
    Shows {
        term: u64,
        leads: bool,
        commit: u64,
        learner: bool,
    },
    Appended {
        index: u64,
        term: u64,
        before: Option<u64>,
        sum: u32,
    },
    /// All of this is synced: the last entry, and the hard state.
    Promised {
        last: (u64, u64),
        hard_state: HardState,
    },
    /// From here on the log is written otherwise: what was promised after this entry is not any more.
    Withdrawn {
        last: (u64, u64),
    },
    Voted {
        term: u64,
        for_whom: u64,
    },
    /// It asks for votes or pre-votes.
    Campaigns {
        term: u64,
        learner: bool,
    },
    /// It would vote for a candidate, though it hears from the leader.
    Disloyal {
        for_whom: u64,
    },
    Committed(Entry),
}

/// Log, network and judge, as raft's turn reaches them.
pub(super) struct Hands {
    pub(super) wal: Wal,
    pub(super) disk: SimDisk,
    pub(super) preparation: Option<Preparation>,
    /// How long one sync takes now.
    pub(super) sync_us: u64,
    /// How long this turn has taken so far.
    pub(super) took_us: u64,
    pub(super) out: Vec<(u64, Message)>,
    pub(super) handed: Vec<Todo>,
    pub(super) installs: Mutex<Installs>,
    /// The log does not hold what comes before this any more.
    pub(super) log_from: u64,
    pub(super) facts: Vec<Fact>,
    /// What was appended and not synced: nobody may count on it yet, so it may also be lost and written otherwise.
    unsynced: Vec<Fact>,
    /// The term of each entry in the log.
    pub(super) terms: BTreeMap<u64, u64>,
    pub(super) hard_state: HardState,
    shown: (u64, bool, u64),
    learner: bool,
    /// How often this member may grant a pre-vote in this turn: by candidate and term, the questions that came when it did not hear from a leader.
    pub(super) may_grant: BTreeMap<(u64, u64), u32>,
}

impl Hands {
    pub(super) fn new(disk: &SimDisk, wal: Wal, installs: Mutex<Installs>, held: &Held) -> Hands {
        let mut terms: BTreeMap<u64, u64> = held.entries.iter().map(|entry| (entry.index, entry.term)).collect();
        terms.insert(held.start.0.0, held.start.1.0);
        let found = |entry: &Entry| Fact::Appended {
            index: entry.index,
            term: entry.term,
            before: terms.get(&(entry.index - 1)).copied(),
            sum: crc32c::crc32c(&entry.data),
        };
        Hands {
            wal,
            disk: disk.clone(),
            preparation: None,
            sync_us: 0,
            took_us: 0,
            out: Vec::new(),
            handed: Vec::new(),
            installs,
            log_from: held.start.0.0,
            facts: held.entries.iter().map(found).collect(),
            unsynced: Vec::new(),
            terms,
            hard_state: held.hard_state,
            shown: (0, false, 0),
            learner: false,
            may_grant: BTreeMap::new(),
        }
    }

    pub(super) fn last(&self) -> (u64, u64) {
        self.terms.last_key_value().map_or((0, 0), |(index, term)| (*index, *term))
    }
}

impl Outside for Hands {
    fn show(&mut self, consensus: &Consensus) {
        let shows = (consensus.term().0, consensus.role() == Role::Leader, consensus.commit().0);
        self.learner = consensus.is_learner();
        if shows != self.shown {
            self.shown = shows;
            let (term, leads, commit) = shows;
            self.facts.push(Fact::Shows { term, leads, commit, learner: consensus.is_learner() });
        }
    }

    fn send(&mut self, messages: Vec<Message>) {
        for message in messages {
            match message.msg_type() {
                MessageType::MsgRequestVoteResponse if !message.reject => {
                    self.facts.push(Fact::Voted { term: message.term, for_whom: message.to });
                }
                MessageType::MsgRequestVote => {
                    self.facts.push(Fact::Voted { term: message.term, for_whom: message.from });
                    self.facts.push(Fact::Campaigns { term: message.term, learner: self.learner });
                }
                MessageType::MsgRequestPreVote => {
                    self.facts.push(Fact::Campaigns { term: message.term, learner: self.learner });
                }
                MessageType::MsgRequestPreVoteResponse if !message.reject => {
                    match self.may_grant.get_mut(&(message.to, message.term)).filter(|left| **left > 0) {
                        Some(left) => *left -= 1,
                        None => self.facts.push(Fact::Disloyal { for_whom: message.to }),
                    }
                }
                _ => {}
            }
            self.out.push((self.took_us, message));
        }
    }

    fn append(&mut self, entries: &[Entry], hard_state: Option<&HardState>) -> Result<(), Error> {
        if let Some(first) = entries.first().filter(|first| first.index <= self.last().0) {
            let kept = first.index - 1;
            self.facts.push(Fact::Withdrawn { last: (kept, self.terms.get(&kept).copied().unwrap_or(0)) });
        }
        self.wal.append(entries, hard_state)?;
        for entry in entries {
            let (index, term) = (entry.index, entry.term);
            let _replaced = self.terms.split_off(&index);
            let before = self.terms.get(&(index - 1)).copied();
            let sum = crc32c::crc32c(&entry.data);
            self.unsynced.push(Fact::Appended { index, term, before, sum });
            self.terms.insert(index, term);
        }
        if let Some(hard_state) = hard_state {
            self.hard_state = *hard_state;
        }
        Ok(())
    }

    fn sync(&mut self, _: &[Entry], _: &mut Probe) -> Result<(), Error> {
        self.took_us += self.sync_us;
        self.wal.sync()?;
        self.facts.append(&mut self.unsynced);
        self.facts.push(Fact::Promised { last: self.last(), hard_state: self.hard_state });
        Ok(())
    }

    fn hand_on(&mut self, committed: Vec<Entry>) {
        self.facts.extend(committed.iter().cloned().map(Fact::Committed));
        self.handed.extend(committed.into_iter().map(Todo::Entry));
    }

    fn accept(&mut self, mark: &Snapshot) -> Result<(), Error> {
        self.installs.lock().accept(mark)?;
        if self.last().0 > mark.index {
            self.facts.push(Fact::Withdrawn { last: (mark.index, mark.term) });
        }
        self.terms = BTreeMap::from([(mark.index, mark.term)]);
        self.log_from = mark.index;
        Ok(())
    }

    fn install(&mut self, mark: Snapshot) {
        self.handed.push(Todo::Install(mark));
    }

    fn mark(&mut self, mark: &Snapshot) -> Result<(), Error> {
        self.wal.save_snapshot_mark(mark)
    }

    fn note(&mut self, _: &Snapshot, _: &[u8]) -> Result<(), Error> {
        Ok(())
    }

    fn release_to(&mut self, index: Index) -> Result<(), Error> {
        self.log_from = index.0;
        self.wal.release_to(index)
    }
}
