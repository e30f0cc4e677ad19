//! Those who ask: clients with their questions, and watchers; and what they are told.

use super::client::Ask;
use super::client::View;
use super::judge::Known;
use super::judge::Verdict;
use super::member::Input;
use super::member::Waiter;
use super::member::Waits;
use super::rights;
use super::watcher::Watcher;
use super::world::Event;
use super::world::NOBODY;
use super::world::Place;
use super::world::World;
use crate::apply::Reply;
use crate::auth::Access;
use crate::auth::Who;
use crate::error::Error;
use crate::membership::Member;
use crate::proto::etcdserverpb as pb;
use crate::proto::walpb::ConfChange;
use crate::proto::walpb::conf_change::Type;
use crate::replica::Proposal;
use crate::types::Index;
use crate::types::KeyRange;
use crate::types::Term;
use bytes::Bytes;
use prost::Message as _;
use rand::Rng;

/// How long clients wait for an answer, and members for a leader.
const CLIENT_PATIENCE_US: u64 = 1_500_000;
pub(super) const PROPOSAL_PATIENCE_MS: u64 = 1000;

/// Clients beside the usual ones: one that asks each new leader at once, and the operator.
pub(super) const SPECIAL_CLIENTS: usize = 2;

/// A client and what it waits for.
#[derive(Default)]
pub(super) struct Client {
    waits: Option<(u64, u64)>,
}

/// A question that was not answered yet.
pub(super) struct Op {
    client: usize,
    pub(super) ask: Ask,
    known: Known,
    pub(super) asked: u64,
    request: u64,
    /// Who reads, and the auth revision at which that was found out, if it was before the read is served.
    reader: (&'static str, Option<u64>),
}

/// What became of a question.
pub(super) enum Told {
    Reply(Result<Reply, Error>),
    /// Up to where it is to read is applied.
    MayRead,
    /// raft never had it.
    Refused(Error),
    /// Nobody will know.
    Nothing,
}

impl World {
    fn tell(&mut self, number: u64, what: Told) {
        if let Some(told) = &mut self.told {
            told.insert(number, what);
        }
    }

    pub(super) fn new_request(&mut self) -> u64 {
        self.next_request += 1;
        self.next_request
    }

    pub(super) fn propose(
        &mut self,
        who: usize,
        id: u64,
        mut request: pb::InternalRaftRequest,
        only_leading: Option<Term>,
    ) {
        request.header.get_or_insert_default().id = id;
        self.submit(who, id, request.encode_to_vec().into(), false, only_leading);
    }

    fn submit(&mut self, who: usize, id: u64, data: Bytes, conf_change: bool, only_leading: Option<Term>) {
        let deadline = self.clock(who).plus(PROPOSAL_PATIENCE_MS);
        self.alive(who).inbox.push(Input::Propose(Proposal { id, data, conf_change, deadline, only_leading }));
        self.wake(who);
    }

    // Clients.

    pub(super) fn client(&mut self, client: usize) -> Verdict {
        if let Some((op, since)) = self.clients[client].waits {
            if self.now < since + CLIENT_PATIENCE_US {
                return Ok(());
            }
            self.tape.note(self.now, NOBODY, op, || format!("client {client} gives up waiting for {op}"));
            self.forget(op);
        }
        if client == self.operators() {
            return self.operate(client);
        }
        let think = 1 + self.up_to(self.plan.think_us);
        if self.silent || client == self.hasty() {
            return Ok(());
        }
        let who = self.dice.random_range(0..self.places.len());
        if self.places[who].alive.is_none() {
            self.after(think, Event::Client(client));
            return Ok(());
        }
        let view = View {
            revision: self.judge.model.revision(),
            leases: &self.leases,
            members: self.places.len(),
            number: self.asked,
            auth: self.plan.auth,
        };
        let mut ask = view.ask(&mut self.dice);
        let is_learner = self.places[who].alive.as_ref().is_some_and(|alive| alive.replica.consensus.is_learner());
        if let (Ask::Read(read), true) = (&mut ask, is_learner) {
            // Of a learner nothing else is to be had.
            read.serializable = true;
        }
        self.ask(client, who, ask);
        Ok(())
    }

    pub(super) fn hasty(&self) -> usize {
        self.plan.clients
    }

    pub(super) fn operators(&self) -> usize {
        self.plan.clients + 1
    }

    /// Somebody has just heard of a new leader, and asks it at once.
    pub(super) fn leader_is_new(&mut self, who: usize) {
        let client = self.hasty();
        if !self.silent && self.clients[client].waits.is_none() && self.dice.random() {
            let (key, range_end) = ("k".into(), "l".into());
            self.ask(client, who, Ask::Read(pb::RangeRequest { key, range_end, ..Default::default() }));
        }
    }

    pub(super) fn ask(&mut self, client: usize, who: usize, ask: Ask) {
        self.asked += 1;
        let (number, request) = (self.asked, self.new_request());
        let at_once = self.alive(who).auth();
        let reader = match at_once {
            (true, revision) => {
                let early: bool = self.dice.random();
                (rights::user(&mut self.dice), early.then_some(revision))
            }
            _ => (rights::user_later(number), None),
        };
        let op = Op { client, ask: ask.clone(), known: self.judge.known, asked: self.now, request, reader };
        self.tape.note(self.now, who, number, || {
            format!("client {client} asks {number}, request {request}: {}", short(&ask))
        });
        self.ops.insert(number, op);
        self.clients[client].waits = Some((number, self.now));
        self.after(CLIENT_PATIENCE_US, Event::Client(client));
        match ask {
            Ask::Write(mut write) => {
                write.header = self.identified(who, &write);
                self.alive(who).requests.insert(request, Waits::Client(number));
                self.propose(who, request, *write, None);
            }
            Ask::UpdateMember(_) | Ask::Change(_) => {
                let change = match ask {
                    Ask::Change(change) => ConfChange { id: request, ..change },
                    Ask::UpdateMember(member) => self.new_address(member, request),
                    _ => unreachable!("matched above"),
                };
                self.alive(who).requests.insert(request, Waits::Client(number));
                self.submit(who, request, change.encode_to_vec().into(), true, None);
            }
            Ask::Read(_) => {
                let waiter = Waiter::Read(number);
                let serializable = matches!(&self.ops[&number].ask, Ask::Read(ask) if ask.serializable);
                match serializable {
                    true => self.alive(who).wait_applied(Index(0), waiter),
                    false => self.alive(who).inbox.push(Input::Read(waiter)),
                }
            }
            Ask::KeepAlive(_) => self.keep_alive(number),
        }
        self.wake(who);
    }

    /// Who asks, as the member knows it by now; nobody while users are not asked for.
    fn identified(&mut self, who: usize, request: &pb::InternalRaftRequest) -> Option<pb::RequestHeader> {
        let (is_on, auth_revision) = self.alive(who).auth();
        if !is_on {
            return None;
        }
        let by_root = rights::is_about_rights(request) && self.dice.random_range(0..8) > 0;
        let username = if by_root { rights::ROOT } else { rights::user(&mut self.dice) };
        let auth_revision = if username.is_empty() { 0 } else { auth_revision };
        Some(pb::RequestHeader { username: username.to_owned(), auth_revision, ..Default::default() })
    }

    fn new_address(&self, member: usize, request: u64) -> ConfChange {
        let id = self.places[member].id;
        let peer_urls = vec![format!("http://10.1.{member}.{}:{}", request % 250, 1000 + request)];
        let name = self.judge.model.roster.rows.get(&id.0).map(|row| row.name.clone()).unwrap_or_default();
        let changed = Member { id, name, peer_urls, ..Member::default() };
        ConfChange { id: request, ..changed.change_to_update() }
    }

    /// Serves readers whose index is applied.
    pub(super) fn serve(&mut self, who: usize) -> Verdict {
        let Some(alive) = &mut self.places[who].alive else { return Ok(()) };
        for waiter in alive.take_ready() {
            match waiter {
                Waiter::Read(number) => self.serve_read(who, number)?,
                Waiter::Renew(number, stalls) => {
                    let pulse = &mut self.alive(who).pulse;
                    pulse.confirmed = pulse.confirmed.max(stalls);
                    self.serve_renewal(who, number, false)?;
                }
                Waiter::RenewSurely(number) => self.serve_renewal(who, number, true)?,
                Waiter::Leases(look) => self.act_on_leases(who, look),
            }
        }
        Ok(())
    }

    fn serve_read(&mut self, who: usize, number: u64) -> Verdict {
        let Some(Op { ask: Ask::Read(ask), known, reader, .. }) = self.ops.get(&number) else { return Ok(()) };
        let (known, ask, reader) = (*known, ask.clone(), *reader);
        self.report.reads += 1;
        if !self.may_read(who, number, &ask, known, reader)? {
            self.done(number);
            return Ok(());
        }
        let alive = self.places[who].alive.as_ref().expect("checked by the caller");
        let answer = crate::apply::range(&alive.machine, &ask);
        self.tape.note(self.now, who, number, || format!("answers read {number}: {}", rows(&answer)));
        self.judge.read(&ask, known, &answer)?;
        self.tell(number, Told::MayRead);
        self.done(number);
        Ok(())
    }

    /// Whether the reader has the right, as `server/identity.rs` asks it: once the member has come as far as the read must see.
    fn may_read(
        &mut self,
        who: usize,
        number: u64,
        ask: &pb::RangeRequest,
        known: Known,
        (user, at): (&str, Option<u64>),
    ) -> Result<bool, String> {
        let alive = self.places[who].alive.as_ref().expect("checked by the caller");
        let machine = alive.machine.read();
        let (applied, now) = (machine.applied().0.0, machine.auth().revision());
        let revision = if user.is_empty() { 0 } else { at.unwrap_or(now) };
        let verdict = match machine.auth().is_enabled() {
            true => {
                let who = Who { user: user.to_owned(), revision };
                let range = KeyRange::parse(&ask.key, &ask.range_end);
                let permitted = machine.auth().permit(&who, &range, Access::Read);
                permitted.and(if revision != 0 && revision != now { Err(Error::AuthOldRevision) } else { Ok(()) })
            }
            false => Ok(()),
        };
        drop(machine);
        self.judge.read_judged(ask, (user, revision), (known, applied), &verdict)?;
        self.report.count("a read is denied", u64::from(verdict.is_err()));
        if let Err(why) = &verdict {
            self.tape.note(self.now, who, number, || format!("denies read {number} of {user:?}: {why}"));
        }
        Ok(verdict.is_ok())
    }

    /// An entry was applied for which somebody waits here.
    pub(super) fn applied(&mut self, who: usize, waits: Waits, request: u64, reply: Result<Reply, Error>) -> Verdict {
        match waits {
            Waits::Client(number) => self.answer(who, number, reply),
            Waits::Unmark(number) => self.serve_renewal(who, number, false),
            Waits::Marks => {
                self.alive(who).marks_out.remove(&request);
                Ok(())
            }
        }
    }

    fn answer(&mut self, who: usize, number: u64, reply: Result<Reply, Error>) -> Verdict {
        let Some(Op { request, known, asked, .. }) = self.ops.get(&number) else { return Ok(()) };
        let (request, known, asked) = (*request, *known, *asked);
        let quota = who == 0 && self.plan.quota.is_some();
        self.tape.note(self.now, who, number, || {
            format!("answers {number}: {}", if reply.is_ok() { "done" } else { "refused" })
        });
        self.judge.answered(request, known, &reply, quota)?;
        let is_denied = matches!(reply, Err(Error::PermissionDenied | Error::AuthOldRevision | Error::UserEmpty));
        self.report.count("a request is denied", u64::from(is_denied));
        self.report.count("rights change", u64::from(matches!(reply, Ok(Reply::Auth(_)))));
        let op = self.ops.get(&number).expect("looked up above");
        let change = match &op.ask {
            Ask::UpdateMember(_) => "a member changes its address",
            Ask::Change(change) => match change.r#type() {
                Type::AddLearnerNode => "a learner is added",
                Type::RemoveNode => "a member is removed",
                _ if change.context.windows(9).any(|part| part == b"isPromote") => "a learner is promoted",
                _ => "a voter is added",
            },
            _ => "",
        };
        if !change.is_empty() && reply.is_ok() {
            self.report.count(change, 1);
        }
        if let (Ask::Write(write), Ok(_)) = (&op.ask, &reply) {
            if let Some(grant) = &write.lease_grant {
                self.judge.lease_lives(grant.id, grant.ttl, asked)?;
                self.leases.push(grant.id);
                if self.leases.len() > 12 {
                    self.leases.remove(0);
                }
            }
            if let Some(revoke) = &write.lease_revoke {
                self.judge.lease_revoked(revoke.id, self.now);
            }
        }
        self.report.writes += 1;
        self.tell(number, Told::Reply(reply));
        self.done(number);
        Ok(())
    }

    /// raft never had it: it must never come back either.
    pub(super) fn refuse(&mut self, who: usize, request: u64, why: &Error) -> Verdict {
        self.judge.refused(request)?;
        let Some(alive) = &mut self.places[who].alive else { return Ok(()) };
        let number = match alive.requests.remove(&request) {
            Some(Waits::Client(number) | Waits::Unmark(number)) => number,
            Some(Waits::Marks) => {
                alive.mark_lost(request);
                return Ok(());
            }
            None => return Ok(()),
        };
        self.report.refused += 1;
        self.tape.note(self.now, who, number, || format!("refuses {number}: {why}"));
        self.tell(number, Told::Refused(why.clone()));
        self.done(number);
        Ok(())
    }

    pub(super) fn give_up(&mut self, waiter: Waiter) {
        if let Waiter::Read(number) | Waiter::Renew(number, _) | Waiter::RenewSurely(number) = waiter {
            self.report.refused += 1;
            self.tell(number, Told::Nothing);
            self.done(number);
        }
    }

    /// Nobody will know what became of it.
    pub(super) fn forget(&mut self, number: u64) {
        if self.ops.contains_key(&number) {
            self.report.unknown += 1;
            self.tell(number, Told::Nothing);
            self.done(number);
        }
    }

    pub(super) fn done(&mut self, number: u64) {
        let Some(op) = self.ops.remove(&number) else { return };
        self.clients[op.client].waits = None;
        let think = self.up_to(self.plan.think_us);
        self.after(think, Event::Client(op.client));
    }

    // Watchers.

    pub(super) fn watch(&mut self, watcher: usize) -> Verdict {
        let place = self.dice.random_range(0..self.places.len());
        let often = if self.dice.random_range(0..20) == 0 { 800_000 } else { 30_000 };
        let next = if self.silent { 5000 } else { self.up_to(often) };
        self.after(next, Event::Watch(watcher));
        let watch = &mut self.watchers[watcher];
        let here =
            |places: &[Place], (who, life): (usize, u64)| places[who].life == life && places[who].alive.is_some();
        if watch.stream.is_none() || !here(&self.places, watch.at) {
            watch.stream = None;
            let life = self.places[place].life;
            if let Some(alive) = &self.places[place].alive {
                self.report.count("a watch is resumed", u64::from(watch.has_begun()));
                watch.connect(&alive.hub, (place, life));
            }
            return Ok(());
        }
        let (who, _) = watch.at;
        if self.places[who].paused > self.now {
            return Ok(());
        }
        if self.dice.random_range(0..5) == 0 {
            watch.ask_progress();
        }
        let alive = self.places[who].alive.as_ref().expect("looked at above");
        for _ in 0..self.dice.random_range(1..6) {
            if !watch
                .poll(&alive.machine, &self.judge.model)
                .map_err(|e| format!("watcher {watcher} at m{who}: {e}"))?
            {
                break;
            }
            self.tape.note(self.now, who, watcher as u64, || format!("watcher {watcher} hears something"));
        }
        if !self.silent && self.dice.random_range(0..150) == 0 {
            self.count_watcher(watcher);
            self.watchers[watcher] = Watcher::new(&self.judge.model, &mut self.dice);
        }
        Ok(())
    }

    pub(super) fn count_watcher(&mut self, watcher: usize) {
        let watcher = &self.watchers[watcher];
        self.report.events += watcher.events;
        self.report.count("a watch is overtaken by a compaction", watcher.compactions);
    }
}

fn rows(answer: &Result<pb::RangeResponse, Error>) -> String {
    match answer {
        Ok(response) => {
            let revision = response.header.as_ref().map_or(0, |header| header.revision);
            format!("{} rows at {revision}", response.kvs.len())
        }
        Err(why) => why.to_string(),
    }
}

fn short(ask: &Ask) -> String {
    match ask {
        Ask::Write(write) => crate::consensus::summary_of(write),
        Ask::Read(range) => format!("get {:?} at {}", range.key, range.revision),
        Ask::KeepAlive(id) => format!("keep lease {id} alive"),
        Ask::UpdateMember(member) => format!("new address of m{member}"),
        Ask::Change(change) => format!("{:?} {:x}", change.r#type(), change.node_id),
    }
}
