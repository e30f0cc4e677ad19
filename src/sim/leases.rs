//! Leases: clients that keep them alive, and the leader that revokes them or writes down what is left of them, as `node/leases.rs` does it.

use super::client::Ask;
use super::judge::Verdict;
use super::member::Alive;
use super::member::Input;
use super::member::TICK_MS;
use super::member::Waiter;
use super::member::Waits;
use super::rights;
use super::talk::Op;
use super::talk::PROPOSAL_PATIENCE_MS;
use super::world::Event;
use super::world::Place;
use super::world::World;
use crate::proto::etcdserverpb as pb;
use crate::replica::leases;
use crate::replica::leases::Look;
use crate::replica::leases::Renewed;
use crate::types::LeaseId;
use crate::types::Term;
use rand::Rng;

/// How often a leader looks at its leases.
const LOOK_US: u64 = 500_000;
/// When a renewal that waits for the log looks again.
const RENEW_AGAIN_US: u64 = 50_000;

impl World {
    pub(super) fn look_at_leases(&mut self, who: usize, life: u64) {
        self.after(LOOK_US, Event::Leases(who, life));
        let clock = self.clock(who);
        let alive = self.alive(who);
        let late = |(request, (deadline, _)): (&u64, &(_, _))| (*deadline < clock).then_some(*request);
        let lost: Vec<u64> = alive.marks_out.iter().filter_map(late).collect();
        lost.into_iter().for_each(|request| alive.mark_lost(request));
        if let Some(look) = alive.lease_look(clock) {
            alive.inbox.push(Input::Read(Waiter::Leases(look)));
        }
        self.wake(who);
    }

    /// A quorum has confirmed the leader that looks: it acts.
    pub(super) fn act_on_leases(&mut self, who: usize, look: Look) {
        let clock = self.clock(who);
        let alive = self.alive(who);
        let sees = alive.standing();
        let expired = look.expired(&mut alive.timers, clock, sees);
        let marks = look.marks(&mut alive.timers, clock, sees);
        for id in expired {
            let request = self.new_request();
            self.judge.expiries.insert(request);
            self.tape.note(self.now, who, id.0 as u64, || format!("wants lease {id} revoked, request {request}"));
            let header = self.root_header(who);
            self.propose(who, request, pb::InternalRaftRequest { header, ..leases::revoke(id) }, Some(look.term));
        }
        if !marks.is_empty() {
            self.report.count("a lease's time is written down", marks.len() as u64);
            let request = self.write_marks(who, look.term, &marks, Waits::Marks);
            let ids = marks.into_iter().map(|(id, _)| id).collect();
            let deadline = clock.plus(2 * PROPOSAL_PATIENCE_MS);
            self.alive(who).marks_out.insert(request, (deadline, ids));
        }
    }

    /// The leader revokes in root's name, while users are asked for.
    fn root_header(&mut self, who: usize) -> Option<pb::RequestHeader> {
        let (is_on, auth_revision) = self.alive(who).auth();
        let username = rights::ROOT.to_owned();
        is_on.then(|| pb::RequestHeader { username, auth_revision, ..Default::default() })
    }

    fn write_marks(&mut self, who: usize, term: Term, left: &[(LeaseId, i64)], waits: Waits) -> u64 {
        let request = self.new_request();
        self.tape.note(self.now, who, request, || format!("writes down {left:?}, request {request}"));
        self.alive(who).requests.insert(request, waits);
        self.propose(who, request, leases::checkpoint(left), Some(term));
        request
    }

    /// Asks a member that thinks it leads. One that was stopped is not sure and asks a quorum first.
    pub(super) fn keep_alive(&mut self, number: u64) {
        let leads = |place: &Place| place.alive.as_ref().is_some_and(Alive::leads);
        let leaders: Vec<usize> = (0..self.places.len()).filter(|who| leads(&self.places[*who])).collect();
        if leaders.is_empty() {
            return self.give_up(Waiter::Renew(number, 0));
        }
        let leader = leaders[self.dice.random_range(0..leaders.len())];
        let clock = self.clock(leader);
        let alive = self.alive(leader);
        let waiter = Waiter::Renew(number, alive.pulse.stalls);
        match alive.pulse.is_steady(clock, TICK_MS) {
            true => alive.wait_applied(alive.replica.consensus.commit(), waiter),
            false => alive.inbox.push(Input::Read(waiter)),
        }
        self.wake(leader);
    }

    /// The member at `who` is sure that it leads, or asked so lately that it need not be.
    pub(super) fn serve_renewal(&mut self, who: usize, number: u64, confirmed: bool) -> Verdict {
        let Some(&Op { ask: Ask::KeepAlive(id), asked, .. }) = self.ops.get(&number) else { return Ok(()) };
        let (clock, life) = (self.clock(who), self.places[who].life);
        let alive = self.alive(who);
        let sees = alive.standing();
        let renewed = leases::renew(&mut alive.timers, clock, LeaseId(id), sees, confirmed);
        self.tape.note(self.now, who, number, || format!("lease {id}: {renewed:?}"));
        match renewed {
            Renewed::Extended(ttl) => {
                self.report.count("a lease is renewed", 1);
                self.judge.lease_lives(id, ttl, asked)?;
            }
            Renewed::Gone => {
                self.leases.retain(|other| *other != id);
                self.judge.lease_unknown(id)?;
            }
            Renewed::NotPrimary => {
                self.give_up(Waiter::Renew(number, 0));
                return Ok(());
            }
            Renewed::AskQuorum => {
                self.alive(who).inbox.push(Input::Read(Waiter::RenewSurely(number)));
                self.wake(who);
                return Ok(());
            }
            Renewed::Wait => {
                self.after(RENEW_AGAIN_US, Event::Renew(who, life, number));
                return Ok(());
            }
            Renewed::Unmark => {
                let _request = self.write_marks(who, sees.term, &[(LeaseId(id), 0)], Waits::Unmark(number));
                return Ok(());
            }
        }
        self.report.renewals += 1;
        self.done(number);
        Ok(())
    }
}
