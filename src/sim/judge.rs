//! What must never happen: raft's promises, the state machine's, and what clients were told.
//!
//! The log gives one order of all writes, and each has its revision; so a history is linearizable if every answer is the model's at some
//! revision, and no answer is older than what anybody had been told before the question was asked. The rules follow Raft's figure 3
//! and the guarantees that etcd documents; each complaint names the rule.

use super::hands::Fact;
use super::member::Alive;
use super::member::ELECTION_MS;
use super::model::LeaseFate;
use super::model::Model;
use super::roster::Row;
use crate::apply::Reply;
use crate::error::Error;
use crate::membership::Member;
use crate::proto::etcdserverpb as pb;
use crate::proto::raftpb::Entry;
use crate::proto::raftpb::HardState;
use crate::types::KeyRange;
use crate::types::Millis;
use std::collections::BTreeMap;
use std::collections::BTreeSet;

/// A rule that was broken, in words.
pub(super) type Verdict = Result<(), String>;

/// At every so many entries the members' states are compared.
const SUM_EVERY: u64 = 16;

/// Clocks differ a little, so that a lease may seem to end a little early.
const LEASE_SLACK: f64 = 0.95;

/// So long a leader that nobody hears may take itself for one: it looks after each election time-out whether a quorum has answered since the
/// last look (Raft thesis section 6.2). A tenth more, because clocks differ.
const LINGERS_US: u64 = 2 * ELECTION_MS * 1100;

fn rule(holds: bool, broken: impl FnOnce() -> String) -> Verdict {
    if holds { Ok(()) } else { Err(broken()) }
}

/// What a client had been told when it asked.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Known {
    pub(super) revision: i64,
    pub(super) compacted: i64,
    /// The last entry whose answer was told.
    pub(super) index: u64,
}

/// What one member has promised.
#[derive(Clone, Copy, Debug, Default)]
struct Promise {
    last: (u64, u64),
    hard_state: HardState,
}

/// Everything that has been seen.
pub(super) struct Judge {
    pub(super) model: Model,
    pub(super) log: Vec<Entry>,
    /// By index and term: the term before, and a sum of the data.
    entries: BTreeMap<(u64, u64), (Option<u64>, u32)>,
    leaders: BTreeMap<u64, usize>,
    votes: BTreeMap<(usize, u64), u64>,
    promises: Vec<Promise>,
    commits: Vec<u64>,
    sums: BTreeMap<u64, u64>,
    /// The most that any client has been told.
    pub(super) known: Known,
    /// Requests that were given up before raft had them.
    refused: BTreeSet<u64>,
    /// Requests of leaders that revoke what has run out.
    pub(super) expiries: BTreeSet<u64>,
    /// How many leases were revoked because they had run out.
    pub(super) expired: u64,
    /// Until when each lease was promised to live, in microseconds.
    safe_until: BTreeMap<i64, f64>,
    /// When a client was told that a lease is revoked.
    gone: BTreeMap<i64, u64>,
}

impl Judge {
    pub(super) fn new(members: usize) -> Judge {
        Judge {
            model: Model::new(),
            log: Vec::new(),
            entries: BTreeMap::new(),
            leaders: BTreeMap::new(),
            votes: BTreeMap::new(),
            promises: vec![Promise::default(); members],
            commits: vec![0; members],
            sums: BTreeMap::new(),
            known: Known { revision: 1, compacted: 0, index: 0 },
            refused: BTreeSet::new(),
            expiries: BTreeSet::new(),
            expired: 0,
            safe_until: BTreeMap::new(),
            gone: BTreeMap::new(),
        }
    }

    /// One more place for a member.
    pub(super) fn joined(&mut self) {
        self.promises.push(Promise::default());
        self.commits.push(0);
    }

    // What raft promises.

    pub(super) fn fact(&mut self, now: u64, who: usize, fact: Fact) -> Verdict {
        match fact {
            Fact::Shows { term, leads, commit, learner } => {
                rule(!leads || !learner, || format!("m{who} leads term {term}, and is a learner"))?;
                self.shows(who, term, leads, commit)
            }
            Fact::Campaigns { term, learner } => {
                rule(!learner, || format!("m{who} asks for votes of term {term}, and is a learner"))
            }
            Fact::Disloyal { for_whom } => {
                Err(format!("m{who} would vote for {for_whom:x}, and hears from the leader"))
            }
            Fact::Appended { index, term, before, sum } => self.appended(index, term, before, sum),
            Fact::Voted { term, for_whom } => {
                let first = *self.votes.entry((who, term)).or_insert(for_whom);
                rule(first == for_whom, || {
                    format!("two votes: m{who} votes for {first:x} and {for_whom:x} in term {term}")
                })
            }
            Fact::Promised { last, hard_state } => {
                self.promises[who] = Promise { last, hard_state };
                Ok(())
            }
            Fact::Withdrawn { last } => {
                let promise = &mut self.promises[who];
                promise.last = if last.0 <= promise.last.0 { last } else { promise.last };
                Ok(())
            }
            Fact::Committed(entry) => self.committed(now, who, entry),
        }
    }

    fn shows(&mut self, who: usize, term: u64, leads: bool, commit: u64) -> Verdict {
        let before = std::mem::replace(&mut self.commits[who], commit);
        rule(commit >= before, || format!("the commit index of m{who} goes back from {before} to {commit}"))?;
        if !leads {
            return Ok(());
        }
        let first = *self.leaders.entry(term).or_insert(who);
        rule(first == who, || format!("two leaders in term {term}: m{first} and m{who}"))
    }

    fn appended(&mut self, index: u64, term: u64, before: Option<u64>, sum: u32) -> Verdict {
        let (first_before, first_sum) = *self.entries.entry((index, term)).or_insert((before, sum));
        let same_before = before.is_none() || first_before.is_none() || before == first_before;
        rule(same_before && first_sum == sum, || {
            format!("logs do not match: entry {index} of term {term} is not the same everywhere")
        })
    }

    fn committed(&mut self, now: u64, who: usize, entry: Entry) -> Verdict {
        let place = usize::try_from(entry.index).expect("small") - 1;
        if let Some(first) = self.log.get(place) {
            return rule(first.term == entry.term && first.data == entry.data, || {
                let (index, was, is) = (entry.index, first.term, entry.term);
                format!("a committed entry is lost: {index} was committed with term {was}, m{who} commits term {is}")
            });
        }
        rule(place == self.log.len(), || format!("m{who} commits entry {} with a gap before it", entry.index))?;
        let before = self.model.requests();
        let (request, fate) = self.model.apply(&entry);
        rule(request == 0 || self.model.requests() > before, || format!("request {request} is committed twice"))?;
        self.log.push(entry);
        rule(!self.refused.contains(&request), || {
            format!("request {request} was refused, and is committed all the same")
        })?;
        match fate {
            Some(LeaseFate::Revoked(id)) if self.expiries.contains(&request) => {
                self.expired += 1;
                let safe = self.safe_until.get(&id).copied().unwrap_or(0.0);
                rule(now as f64 >= safe, || {
                    format!(
                        "lease {id} ends {} ms before the time that was promised",
                        (safe - now as f64) as u64 / 1000
                    )
                })
            }
            _ => Ok(()),
        }
    }

    /// A start must find what was promised before. Only a leader of a later term replaces an entry, and what it sends in its place, an entry or a
    /// snapshot, can be durable before it is promised (Raft section 5.3).
    pub(super) fn started(&mut self, who: usize, alive: &Alive) -> Verdict {
        let Promise { last: (index, term), hard_state } = self.promises[who];
        let (end, found) = alive.log_end();
        let kept = match alive.log_term(index) {
            Some(found) => found >= term,
            None => index < end.0,
        };
        rule(index == 0 || kept, || {
            format!("m{who} has synced entry {index} of term {term} and does not find it again")
        })?;
        let same_vote = found.term > hard_state.term || hard_state.vote == 0 || found.vote == hard_state.vote;
        rule(found.term >= hard_state.term && same_vote, || {
            format!("m{who} has synced term and vote {hard_state:?}, and finds {found:?}")
        })?;
        self.commits[who] = 0;
        self.promises[who] = Promise { last: end, hard_state: found };
        Ok(())
    }

    /// After each turn.
    pub(super) fn turned(&self, who: usize, alive: &Alive) -> Verdict {
        let (commit, applied) = (alive.replica.consensus.commit(), alive.applied());
        rule(applied <= commit, || format!("m{who} has applied {applied} and committed {commit}"))?;
        if !alive.leads() {
            return Ok(());
        }
        // Leader completeness, from the newest entry on: the rest follows from log matching.
        let Some(newest) = self.log.last() else { return Ok(()) };
        let term = alive.replica.consensus.term().0;
        let has = alive.log_term(newest.index);
        rule(
            term < newest.term
                || has == Some(newest.term)
                || self.leaders.last_key_value().is_some_and(|(last, _)| *last > term),
            || {
                format!(
                    "the leader of term {term}, m{who}, lacks committed entry {} of term {}",
                    newest.index, newest.term
                )
            },
        )
    }

    // What the state machine promises.

    /// After each entry: members that have applied the same are the same.
    pub(super) fn applied(&mut self, who: usize, index: u64, alive: &Alive) -> Verdict {
        let (found, expected) = (alive.revision().to_wire(), self.model.revision_at(index));
        rule(expected == Some(found), || {
            format!("m{who} is at revision {found} after entry {index}; the log says {expected:?}")
        })?;
        if !index.is_multiple_of(SUM_EVERY) { Ok(()) } else { self.same_state(who, index, alive) }
    }

    pub(super) fn same_state(&mut self, who: usize, index: u64, alive: &Alive) -> Verdict {
        let sum = alive.state_sum().map_err(|e| format!("m{who} cannot read its state: {e}"))?;
        let first = *self.sums.entry(index).or_insert(sum);
        rule(first == sum, || format!("the members' states differ after entry {index}, seen at m{who}"))
    }

    /// A new leader: no lease gets more time than the log says is left of it, and what an election takes.
    pub(super) fn reign_began(&self, who: usize, alive: &Alive, clock: Millis) -> Verdict {
        let machine = alive.machine.read();
        for (id, lease) in machine.leases().iter() {
            let left = if lease.remaining > 0 { lease.remaining } else { lease.ttl };
            let (most, found) = (left as u64 * 1000 + ELECTION_MS, alive.timers.remaining(clock, id));
            rule(found.is_some_and(|found| found <= most), || {
                format!("the new leader m{who} gives lease {id} {found:?} ms, and {left} s were left of it")
            })?;
        }
        Ok(())
    }

    /// The whole state against the model, once all is applied.
    pub(super) fn whole(&mut self, who: usize, alive: &Alive) -> Verdict {
        let index = alive.applied().0;
        rule(index == self.model.index(), || format!("m{who} has applied {index} of {} entries", self.model.index()))?;
        self.same_state(who, index, alive)?;
        let machine = alive.machine.read();
        let leases: Vec<(i64, i64, i64)> =
            machine.leases().iter().map(|(id, lease)| (id.0, lease.ttl, lease.remaining)).collect();
        rule(leases.iter().copied().eq(self.model.leases()), || {
            format!("m{who} has other leases than the log: {leases:?}")
        })?;
        let auth = (machine.auth().is_enabled(), machine.auth().revision());
        let expected = self.model.rights.summary();
        rule(auth == expected, || format!("m{who} says {auth:?} of authentication, the log {expected:?}"))?;
        let (conf, roster) = (machine.conf_state(), &self.model.roster);
        let of = |ids: &[u64]| ids.iter().copied().collect::<BTreeSet<u64>>();
        let (voters, learners) = (of(&conf.voters), of(&conf.learners));
        let all: BTreeSet<u64> = roster.rows.keys().copied().collect();
        let expected = (roster.voters(), all.difference(&roster.voters()).copied().collect());
        rule((voters, learners) == expected, || format!("m{who} has other voters than the log: {conf:?}"))?;
        let found = machine.members().iter().map(|member| {
            let Member { name, peer_urls, is_learner, .. } = member.clone();
            (member.id.0, Row { name, peer_urls, is_learner })
        });
        rule(found.eq(roster.rows.clone()), || format!("m{who} has other members than the log: {:?}", roster.rows))?;
        drop(machine);
        let all = pb::RangeRequest { key: "\0".into(), range_end: "\0".into(), ..Default::default() };
        let found = crate::apply::range(&alive.machine, &all).map_err(|e| format!("m{who} cannot read: {e}"))?;
        let range = KeyRange::parse(&all.key, &all.range_end);
        rule(found.kvs == self.model.range(&range, self.model.revision()), || {
            format!("m{who} has other keys than the log")
        })
    }

    // What clients are told.

    /// The answer to a write.
    pub(super) fn answered(
        &mut self,
        request: u64,
        known: Known,
        reply: &Result<Reply, Error>,
        quota: bool,
    ) -> Verdict {
        let Some(expected) = self.model.expected(request) else {
            return Err(format!("request {request} is answered and was never committed"));
        };
        let (index, revision) = (expected.index, self.model.revision_at(expected.index).unwrap_or(0));
        let no_space = quota && *reply == Err(Error::NoSpace);
        rule(no_space || same(reply, &expected.reply), || {
            format!("request {request} is answered {reply:?}; the log says {:?}", expected.reply)
        })?;
        rule(revision >= known.revision, || {
            format!("request {request} took effect at revision {revision}, before {} that was known", known.revision)
        })?;
        if let Ok(Reply::Compaction(_)) = reply {
            self.known.compacted = self.known.compacted.max(self.model.compacted());
        }
        self.known.revision = self.known.revision.max(revision);
        self.known.index = self.known.index.max(index);
        Ok(())
    }

    /// A proposal that raft never had.
    pub(super) fn refused(&mut self, request: u64) -> Verdict {
        let committed = self.model.expected(request).is_some();
        self.refused.insert(request);
        rule(!committed, || format!("request {request} is committed, and then refused"))
    }

    /// Whether this reader may, judged at a member that has applied `applied`.
    pub(super) fn read_judged(
        &self,
        ask: &pb::RangeRequest,
        (user, auth_revision): (&str, u64),
        (known, applied): (Known, u64),
        verdict: &Result<(), Error>,
    ) -> Verdict {
        rule(ask.serializable || applied >= known.index, || {
            format!("a read is judged by the rights at entry {applied}, and {} was known", known.index)
        })?;
        let range = KeyRange::parse(&ask.key, &ask.range_end);
        let expected = self.model.rights_at(applied).judge_read(user, auth_revision, range);
        rule(*verdict == expected, || format!("{user:?} asks to read {ask:?}: {verdict:?}; the log says {expected:?}"))
    }

    /// The answer to a range.
    pub(super) fn read(
        &mut self,
        ask: &pb::RangeRequest,
        known: Known,
        answer: &Result<pb::RangeResponse, Error>,
    ) -> Verdict {
        let at = ask.revision;
        let response = match answer {
            Ok(response) => response,
            Err(Error::Compacted) => {
                let floor = self.model.compacted();
                return rule(0 < at && at < floor, || {
                    format!("a read at {at} hears of a compaction; the log says {floor}")
                });
            }
            Err(Error::FutureRevision) => {
                let may = at > known.revision || ask.serializable;
                return rule(may, || {
                    format!("a read at {at} hears that this is to come, though {} was known", known.revision)
                });
            }
            Err(other) => return Err(format!("a read fails with {other:?}")),
        };
        let now = response.header.as_ref().map_or(0, |header| header.revision);
        rule(now <= self.model.revision(), || format!("a read sees revision {now}, which is not committed"))?;
        if !ask.serializable {
            rule(now >= known.revision, || {
                format!("a stale read: revision {now}, though {} was known", known.revision)
            })?;
            rule(at <= 0 || at >= known.compacted, || {
                format!("a read at {at} sees what was compacted: {}", known.compacted)
            })?;
            self.known.revision = self.known.revision.max(now);
        }
        let at = if at > 0 { at } else { now };
        let expected = self.model.range(&KeyRange::parse(&ask.key, &ask.range_end), at);
        rule(response.kvs == expected && response.count == expected.len() as i64, || {
            format!("a read at {at} sees {:?}; the log says {expected:?}", response.kvs)
        })
    }

    /// A client hears that its lease lives for `ttl` seconds more, counted from its question.
    pub(super) fn lease_lives(&mut self, id: i64, ttl: i64, asked: u64) -> Verdict {
        // A leader renews by its own clock, as in etcd: one that was cut off has not heard of the revoke.
        let heard = self.gone.get(&id).map(|gone| gone + LINGERS_US);
        rule(heard.is_none_or(|heard| heard >= asked), || format!("lease {id} is renewed after it was revoked"))?;
        let until = asked as f64 + ttl as f64 * 1e6 * LEASE_SLACK;
        let safe = self.safe_until.entry(id).or_insert(0.0);
        *safe = safe.max(until);
        Ok(())
    }

    /// A client hears that there is no such lease.
    pub(super) fn lease_unknown(&mut self, id: i64) -> Verdict {
        rule(!self.model.has_lease(id), || format!("lease {id} lives, and a keep-alive does not find it"))
    }

    /// A client hears that its revoke was done.
    pub(super) fn lease_revoked(&mut self, id: i64, now: u64) {
        self.gone.entry(id).or_insert(now);
    }

    /// Whether nobody has led in this term or a later one.
    pub(super) fn is_news(&self, term: u64) -> bool {
        self.leaders.last_key_value().is_none_or(|(last, _)| *last < term)
    }

    /// Who has led in how many terms.
    pub(super) fn elections(&self) -> usize {
        self.leaders.len()
    }
}

/// Whether two answers say the same. Of a transaction only what a client can use: headers inside it are not compared.
fn same(found: &Result<Reply, Error>, expected: &Result<Reply, Error>) -> bool {
    use pb::response_op::Response;
    let (Ok(Reply::Txn(found)), Ok(Reply::Txn(expected))) = (found, expected) else { return found == expected };
    let each = |(a, b): (&pb::ResponseOp, &pb::ResponseOp)| match (&a.response, &b.response) {
        (Some(Response::ResponseRange(a)), Some(Response::ResponseRange(b))) => (&a.kvs, a.count) == (&b.kvs, b.count),
        (Some(Response::ResponsePut(a)), Some(Response::ResponsePut(b))) => a.prev_kv == b.prev_kv,
        (Some(Response::ResponseDeleteRange(a)), Some(Response::ResponseDeleteRange(b))) => {
            (a.deleted, &a.prev_kvs) == (b.deleted, &b.prev_kvs)
        }
        (a, b) => a == b,
    };
    found.header == expected.header
        && found.succeeded == expected.succeeded
        && found.responses.len() == expected.responses.len()
        && found.responses.iter().zip(&expected.responses).all(each)
}
