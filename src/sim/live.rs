//! A simulated cluster to work with: whoever has it starts and stops its members and asks them, and its clock goes only while somebody waits.
//!
//! The one idea: a run of a seed without its harm. The replicas, the network, the disks and the judge are those of every other run; but nothing
//! is done by chance, and nothing happens between two calls. So the same calls have the same answers, whatever the machine has to do beside.
//!
//! Left out: leases, users, changes of who is a member, and what the judge's model of a store does not know ([`unknown_txn`]).

use super::Plan;
use super::Weather;
use super::client::Ask;
use super::film::Act;
use super::film::acts;
use super::member::ELECTION_MS;
use super::member::Input;
use super::panic_text;
use super::talk::Told;
use super::tape::Tape;
use super::world::Event;
use super::world::World;
use crate::apply::Reply;
use crate::apply::check;
use crate::consensus::Role;
use crate::error::Error;
use crate::membership::Founders;
use crate::membership::Members;
use crate::mvcc::Hash;
use crate::proto::etcdserverpb as pb;
use crate::proto::etcdserverpb::compare::TargetUnion;
use crate::proto::etcdserverpb::request_op::Request;
use crate::proto::membershippb;
use crate::types::ClusterId;
use crate::types::ETCD_VERSION;
use crate::types::MemberId;
use crate::watch;
use futures::FutureExt as _;
use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::panic::catch_unwind;

/// How long a member tries before it says that it cannot answer: as many election time-outs as etcd's seven seconds are.
const PATIENCE_US: u64 = 7 * ELECTION_MS * 1000;
/// So much time goes by after a write, as it does between two commands.
const AFTER_US: u64 = 100_000;
/// How often a member that is not known by its address says it again.
const PUBLISH_US: u64 = 500_000;
/// A member that stands still goes on then, if nobody has it go on before.
const FAR_US: u64 = u64::MAX / 4;
/// Operations in one transaction, as in etcd.
const TXN_OPS_MAX: usize = 128;

/// A member that there is from the beginning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Founder {
    pub name: String,
    pub client_url: String,
    pub peer_url: String,
}

/// A line that a member writes into its log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said {
    pub at_ms: u64,
    pub who: usize,
    pub text: String,
}

/// What was seen of a member.
#[derive(Default)]
struct Seat {
    /// Its life, while it runs.
    life: Option<u64>,
    shows: Option<(Role, u64)>,
    leader: MemberId,
    /// It is known by its address, so clients may come.
    ready: bool,
    publishes: u64,
}

/// One client's stream of watches, and where it is.
struct Watching {
    stream: watch::Stream,
    who: usize,
    life: u64,
}

/// See the module. Members are counted from 0, as the founders were named.
pub struct Live {
    world: World,
    founders: Vec<Founder>,
    seats: Vec<Seat>,
    said: Vec<Said>,
    watches: BTreeMap<u64, Watching>,
    down: acts::Down,
    opened: u64,
    client: usize,
    broken: Option<String>,
}

/// Nobody asks, nothing is lost; messages take their time.
fn plan(members: usize) -> Plan {
    Plan {
        members,
        clients: 0,
        watchers: 0,
        ops: u64::MAX,
        faults: 0,
        calm_most: 1,
        think_us: 1,
        weather: Weather { lost: 0, posted: 0, doubled: 0, late: 0, broken: 0, delay_us: 2000 },
        quota: None,
        checkpoint_ms: None,
        auth: false,
        member_changes: 0,
    }
}

impl Live {
    /// A cluster of members that are all down.
    ///
    /// # Errors
    /// Two founders with one name or one address.
    pub fn new(seed: u64, token: &str, founders: Vec<Founder>) -> Result<Live, String> {
        let named: Founders = founders.iter().map(|f| (f.name.clone(), vec![f.peer_url.clone()])).collect();
        let members = Members::bootstrap(&named, token)?;
        let ids: Option<Vec<MemberId>> = founders.iter().map(|f| Some(members.by_name(&f.name)?.id)).collect();
        let ids = ids.filter(|_| named.len() == founders.len()).ok_or("two members have one name")?;
        let mut world = World::of(seed, plan(founders.len()), Tape::new(false), members, ids);
        world.silent = true;
        world.told = Some(BTreeMap::new());
        let client = world.clients.len();
        world.clients.push(super::talk::Client::default());
        Ok(Live {
            seats: founders.iter().map(|_| Seat::default()).collect(),
            world,
            founders,
            said: Vec::new(),
            watches: BTreeMap::new(),
            down: acts::Down::new(),
            opened: 0,
            client,
            broken: None,
        })
    }

    /// The rule that was broken, if one was. Nothing happens any more then.
    #[must_use]
    pub fn broken(&self) -> Option<&str> {
        self.broken.as_deref()
    }

    /// Simulated milliseconds since the beginning.
    #[must_use]
    pub fn now_ms(&self) -> u64 {
        self.world.now / 1000
    }

    // Members.

    /// Starts a member's process, if it does not run.
    pub fn start(&mut self, who: usize) {
        self.down.remove(&who);
        if !self.runs(who) {
            let now = self.world.now;
            self.world.at(now, Event::Start(who));
            self.run(1_000, |live| live.runs(who));
        }
    }

    /// Ends it. Its connections close, so the others notice.
    pub fn end(&mut self, who: usize) {
        self.act(&Act::Kill(who));
    }

    /// Has it end by itself: who leads hands over first, as a server does that is told to stop.
    pub fn stop(&mut self, who: usize) {
        let up = |n: &usize| *n != who && self.runs(*n) && !self.is_paused(*n);
        let heir = (0..self.founders.len()).find(up).map(|heir| self.world.places[heir].id);
        if let Some(heir) = heir.filter(|_| !self.is_paused(who)) {
            // Who does not lead has nothing to hand over, and who cannot in time goes all the same.
            let _ = self.move_leader(who, heir);
        }
        self.end(who);
    }

    /// Ends it, and starts it again after so much time.
    pub fn crash(&mut self, who: usize, back_us: u64) {
        if self.runs(who) {
            self.world.end(who, false);
            self.world.after(back_us, Event::Start(who));
            self.look();
        }
    }

    /// Has it stand still. Its connections stay open, and nobody notices.
    pub fn pause(&mut self, who: usize) {
        if self.runs(who) {
            self.world.places[who].paused = FAR_US;
        }
    }

    /// Has one that stands still go on.
    pub fn go_on(&mut self, who: usize) {
        if std::mem::take(&mut self.world.places[who].paused) == FAR_US {
            self.world.happens_now(FAR_US);
        }
    }

    /// Does something to the cluster.
    pub fn act(&mut self, act: &Act) {
        acts::perform(&mut self.world, act, &mut self.down);
        self.look();
    }

    /// Whether its process is there.
    #[must_use]
    pub fn runs(&self, who: usize) -> bool {
        self.world.places[who].alive.is_some()
    }

    /// Whether its process is there and stands still.
    #[must_use]
    pub fn is_paused(&self, who: usize) -> bool {
        self.runs(who) && self.world.places[who].paused > self.world.now
    }

    /// Whether clients may come to it: it knows a leader, and the cluster its address.
    #[must_use]
    pub fn is_ready(&self, who: usize) -> bool {
        self.runs(who) && self.seats[who].ready
    }

    /// What the members have written since the last call.
    pub fn take_said(&mut self) -> Vec<Said> {
        std::mem::take(&mut self.said)
    }

    // Time.

    /// So much time goes by.
    pub fn pass(&mut self, us: u64) {
        self.run(us, |_| false);
    }

    /// Time goes by until something is so, or this much has gone by. Says whether it is so.
    pub fn run(&mut self, us: u64, done: impl Fn(&Live) -> bool) -> bool {
        let until = self.world.now.saturating_add(us);
        loop {
            if done(self) {
                return true;
            }
            match self.world.next_at().filter(|next| *next <= until) {
                Some(_) if self.broken.is_none() => self.step(),
                _ => {
                    self.world.now = self.world.now.max(until);
                    return false;
                }
            }
        }
    }

    fn step(&mut self) {
        let stepped = catch_unwind(AssertUnwindSafe(|| self.world.step()));
        let verdict = stepped.unwrap_or_else(|panic| Err(panic_text(panic.as_ref())));
        self.broken = verdict.err();
        acts::keep_down(&mut self.world, &self.down);
        self.look();
    }

    /// Takes in what has changed: writes the members' logs, and has them say where they are.
    fn look(&mut self) {
        for who in 0..self.seats.len() {
            let place = &self.world.places[who];
            let (id, life) = (place.id, place.life);
            let seat = &mut self.seats[who];
            let Some(alive) = &place.alive else {
                *seat = Seat::default();
                continue;
            };
            let mut lines = Vec::new();
            if seat.life != Some(life) {
                *seat = Seat { life: Some(life), ..Seat::default() };
                lines.push(format!("a simulated member starts, with the log up to {}", alive.log_end().0.0));
            }
            let consensus = &alive.replica.consensus;
            let (role, term, leader) = (consensus.role(), consensus.term().0, consensus.leader());
            if seat.shows.replace((role, term)) != Some((role, term)) {
                lines.push(format!("{id} became {} at term {term}", word(role)));
            }
            let before = std::mem::replace(&mut seat.leader, leader);
            match (before.is_none(), leader.is_none()) {
                _ if before == leader => {}
                (_, true) => lines.push(format!("raft.node: {id} lost leader {before} at term {term}")),
                (true, false) => lines.push(format!("raft.node: {id} elected leader {leader} at term {term}")),
                (false, false) => {
                    lines.push(format!("raft.node: {id} changed leader from {before} to {leader} at term {term}"));
                }
            }
            let url = &self.founders[who].client_url;
            let is_known = || alive.machine.read().members().get(id).is_some_and(|m| m.client_urls == [url.clone()]);
            let wants = !seat.ready && !leader.is_none();
            if wants && is_known() {
                seat.ready = true;
                lines.push("ready to serve client requests".to_owned());
            }
            let publishes = wants && !seat.ready && self.world.now >= seat.publishes;
            let at_ms = self.world.now / 1000;
            self.said.extend(lines.into_iter().map(|text| Said { at_ms, who, text }));
            if publishes {
                self.publish(who, id);
            }
        }
    }

    fn publish(&mut self, who: usize, id: MemberId) {
        self.seats[who].publishes = self.world.now + PUBLISH_US;
        let Founder { name, client_url, .. } = self.founders[who].clone();
        let attributes = membershippb::Attributes { name, client_urls: vec![client_url] };
        let says = membershippb::ClusterMemberAttrSetRequest { member_id: id.0, member_attributes: Some(attributes) };
        let publish = pb::InternalRaftRequest { cluster_member_attr_set: Some(says), ..Default::default() };
        let request = self.world.new_request();
        self.world.propose(who, request, publish, None);
    }

    // Questions. A member that stands still is not to be asked.

    /// What it answers to a range request.
    ///
    /// # Errors
    /// Its own, [`Error::Timeout`] if it cannot find out, [`Error::Stopped`] if it is gone.
    pub fn range(&mut self, who: usize, request: &pb::RangeRequest) -> Result<pb::RangeResponse, Error> {
        check::range(request)?;
        if !request.serializable {
            self.barrier(who)?;
        }
        let alive = self.world.places[who].alive.as_ref().ok_or(Error::Stopped)?;
        let mut response = crate::apply::range(&alive.machine, request)?;
        self.stamp(who, response.header.get_or_insert_default());
        Ok(response)
    }

    /// What it answers to a transaction.
    ///
    /// # Errors
    /// As [`Live::range`].
    pub fn txn(&mut self, who: usize, txn: pb::TxnRequest) -> Result<pb::TxnResponse, Error> {
        check::txn(&txn, TXN_OPS_MAX)?;
        let mut response = if check::is_read_only(&txn) {
            if !check::is_serializable(&txn) {
                self.barrier(who)?;
            }
            let alive = self.world.places[who].alive.as_ref().ok_or(Error::Stopped)?;
            let mut read = alive.machine.read().select_txn(&txn)?;
            while !read.is_complete() {
                alive.machine.read().select_txn_more(&mut read);
            }
            read.load()?
        } else {
            let request = pb::InternalRaftRequest { txn: Some(txn), ..Default::default() };
            match self.write(who, request)? {
                Reply::Txn(response) => response,
                _ => return Err(Error::Stopped),
            }
        };
        self.stamp(who, response.header.get_or_insert_default());
        Ok(response)
    }

    /// Writes a pair.
    ///
    /// # Errors
    /// As [`Live::range`].
    pub fn put(&mut self, who: usize, put: pb::PutRequest) -> Result<pb::PutResponse, Error> {
        check::put(&put)?;
        let request = pb::InternalRaftRequest { put: Some(put), ..Default::default() };
        let Reply::Put(mut response) = self.write(who, request)? else { return Err(Error::Stopped) };
        self.stamp(who, response.header.get_or_insert_default());
        Ok(response)
    }

    /// Deletes a range.
    ///
    /// # Errors
    /// As [`Live::range`].
    pub fn delete(&mut self, who: usize, delete: pb::DeleteRangeRequest) -> Result<pb::DeleteRangeResponse, Error> {
        check::delete(&delete)?;
        let request = pb::InternalRaftRequest { delete_range: Some(delete), ..Default::default() };
        let Reply::DeleteRange(mut response) = self.write(who, request)? else { return Err(Error::Stopped) };
        self.stamp(who, response.header.get_or_insert_default());
        Ok(response)
    }

    /// Throws old versions away.
    ///
    /// # Errors
    /// As [`Live::range`].
    pub fn compact(&mut self, who: usize, compact: pb::CompactionRequest) -> Result<pb::CompactionResponse, Error> {
        let request = pb::InternalRaftRequest { compaction: Some(compact), ..Default::default() };
        let Reply::Compaction(mut response) = self.write(who, request)? else { return Err(Error::Stopped) };
        self.stamp(who, response.header.get_or_insert_default());
        Ok(response)
    }

    /// Puts a request through the log, and waits until this member has applied it.
    fn write(&mut self, who: usize, request: pb::InternalRaftRequest) -> Result<Reply, Error> {
        match self.asked(who, Ask::Write(Box::new(request)))? {
            Told::Reply(reply) => {
                // Who asks next is not as quick as the answer: by then the others have heard of it, too.
                self.pass(AFTER_US);
                reply
            }
            Told::Refused(why) => Err(why),
            Told::MayRead | Told::Nothing => Err(Error::Timeout),
        }
    }

    /// What it says of itself.
    ///
    /// # Errors
    /// [`Error::Stopped`]: it is gone.
    pub fn status(&self, who: usize) -> Result<pb::StatusResponse, Error> {
        let alive = self.world.places[who].alive.as_ref().ok_or(Error::Stopped)?;
        let consensus = &alive.replica.consensus;
        let machine = alive.machine.read();
        let (size, in_use) = (machine.store().size(), machine.store().in_use());
        let no_leader = consensus.leader().is_none().then(|| Error::NoLeader.to_string());
        Ok(pb::StatusResponse {
            header: Some(self.header(who, machine.store().revision().to_wire())),
            version: ETCD_VERSION.into(),
            db_size: i64::try_from(size).unwrap_or(i64::MAX),
            db_size_in_use: i64::try_from(in_use).unwrap_or(i64::MAX),
            leader: consensus.leader().0,
            raft_index: consensus.commit().0,
            raft_term: consensus.term().0,
            raft_applied_index: machine.applied().0.0,
            errors: no_leader.into_iter().collect(),
            is_learner: consensus.is_learner(),
            ..pb::StatusResponse::default()
        })
    }

    /// Who the members are.
    ///
    /// # Errors
    /// As [`Live::range`].
    pub fn members(&mut self, who: usize, linearizable: bool) -> Result<pb::MemberListResponse, Error> {
        if linearizable {
            self.barrier(who)?;
        }
        let alive = self.world.places[who].alive.as_ref().ok_or(Error::Stopped)?;
        let members = alive.machine.read().members().iter().map(crate::membership::Member::to_wire).collect();
        Ok(pb::MemberListResponse { header: Some(self.header(who, 0)), members })
    }

    /// The hash of its keys at a revision.
    ///
    /// # Errors
    /// [`Error::Stopped`], or what the store says to that revision.
    pub fn hash_kv(&self, who: usize, revision: i64) -> Result<pb::HashKvResponse, Error> {
        let alive = self.world.places[who].alive.as_ref().ok_or(Error::Stopped)?;
        let machine = alive.machine.read();
        let Hash { hash, compact_revision, hash_revision, .. } = machine.store().hash(revision)?;
        let header = Some(self.header(who, machine.store().revision().to_wire()));
        Ok(pb::HashKvResponse { header, hash, compact_revision, hash_revision })
    }

    /// Gives the lead to another member.
    ///
    /// # Errors
    /// [`Error::NotLeader`], [`Error::BadLeaderTransferee`], [`Error::LeaderTransferTimeout`].
    pub fn move_leader(&mut self, who: usize, to: MemberId) -> Result<(), Error> {
        let alive = self.world.places[who].alive.as_mut().ok_or(Error::Stopped)?;
        if !alive.leads() {
            return Err(Error::NotLeader);
        }
        if alive.machine.read().members().get(to).is_none() {
            return Err(Error::BadLeaderTransferee);
        }
        alive.inbox.push(Input::Transfer(to));
        self.world.wake(who);
        let moved = self.run(ELECTION_MS * 1000, |live| live.seats[who].leader == to);
        moved.then_some(()).ok_or(Error::LeaderTransferTimeout)
    }

    fn barrier(&mut self, who: usize) -> Result<(), Error> {
        let until = self.world.now + PATIENCE_US;
        while self.world.now < until {
            let any = pb::RangeRequest { key: "\0".into(), ..pb::RangeRequest::default() };
            match self.asked(who, Ask::Read(any))? {
                Told::MayRead => return Ok(()),
                // Its round was given up, as when there is a new leader: it asks again.
                Told::Reply(_) | Told::Refused(_) | Told::Nothing => {}
            }
        }
        Err(Error::Timeout)
    }

    fn asked(&mut self, who: usize, ask: Ask) -> Result<Told, Error> {
        if !self.runs(who) || self.broken.is_some() {
            return Err(Error::Stopped);
        }
        self.world.ask(self.client, who, ask);
        let number = self.world.asked;
        let has = |live: &Live| live.world.told.as_ref().is_some_and(|told| told.contains_key(&number));
        if !self.run(PATIENCE_US, has) {
            self.world.forget(number);
        }
        let told = self.world.told.as_mut().and_then(|told| told.remove(&number));
        Ok(told.unwrap_or(Told::Nothing))
    }

    fn header(&self, who: usize, revision: i64) -> pb::ResponseHeader {
        let mut header = pb::ResponseHeader { revision, ..pb::ResponseHeader::default() };
        self.stamp(who, &mut header);
        header
    }

    /// Says in an answer's header who gives it.
    pub fn stamp(&self, who: usize, header: &mut pb::ResponseHeader) {
        let (place, ClusterId(cluster)) = (&self.world.places[who], self.world.founders.cluster());
        header.cluster_id = cluster;
        header.member_id = place.id.0;
        header.raft_term = place.alive.as_ref().map_or(0, |alive| alive.replica.consensus.term().0);
    }

    // Watches.

    /// Opens a stream of watches at a member; nothing if it is gone.
    pub fn open_watch(&mut self, who: usize) -> Option<u64> {
        let place = &self.world.places[who];
        let stream = place.alive.as_ref()?.hub.open_stream();
        self.opened += 1;
        self.watches.insert(self.opened, Watching { stream, who, life: place.life });
        Some(self.opened)
    }

    /// Takes a request of that stream.
    pub fn request_watch(&self, watch: u64, request: pb::WatchRequest) {
        if let Some(watching) = self.watches.get(&watch) {
            watching.stream.request(request);
        }
    }

    /// The next response of that stream, if there is one; `Err` if its member has ended since, or stands still no more for it.
    ///
    /// # Errors
    /// [`Error::Stopped`]: the stream is over.
    pub fn poll_watch(&self, watch: u64) -> Result<Option<pb::WatchResponse>, Error> {
        let Watching { stream, who, life } = self.watches.get(&watch).ok_or(Error::Stopped)?;
        let place = &self.world.places[*who];
        let alive = place.alive.as_ref().filter(|_| place.life == *life).ok_or(Error::Stopped)?;
        if self.is_paused(*who) {
            return Ok(None);
        }
        let Some(response) = stream.next(&alive.machine).now_or_never() else { return Ok(None) };
        let mut response = response?;
        self.stamp(*who, response.header.get_or_insert_default());
        Ok(Some(response))
    }

    /// Ends that stream.
    pub fn close_watch(&mut self, watch: u64) {
        self.watches.remove(&watch);
    }
}

fn word(role: Role) -> &'static str {
    match role {
        Role::Follower => "follower",
        Role::PreCandidate => "pre-candidate",
        Role::Candidate => "candidate",
        Role::Leader => "leader",
    }
}

/// What of this put the simulation's judge could not hold against its own execution of the log, if anything.
#[must_use]
pub fn unknown_put(put: &pb::PutRequest) -> Option<&'static str> {
    (put.ignore_value || put.ignore_lease).then_some("put that keeps value or lease")
}

/// The same of a transaction.
#[must_use]
pub fn unknown_txn(txn: &pb::TxnRequest) -> Option<&'static str> {
    if check::is_read_only(txn) {
        return None;
    }
    let compares = |c: &pb::Compare| {
        let is_known = matches!(
            c.target_union,
            Some(
                TargetUnion::ModRevision(_)
                    | TargetUnion::Version(_)
                    | TargetUnion::CreateRevision(_)
                    | TargetUnion::Value(_)
            )
        );
        (!is_known || !c.range_end.is_empty()).then_some("comparison of leases or of ranges")
    };
    let operates = |op: &pb::RequestOp| match &op.request {
        Some(Request::RequestPut(put)) => unknown_put(put),
        Some(Request::RequestRange(range)) => {
            let plain = pb::RangeRequest {
                key: range.key.clone(),
                range_end: range.range_end.clone(),
                revision: range.revision,
                serializable: range.serializable,
                ..pb::RangeRequest::default()
            };
            (*range != plain).then_some("get with a limit, an order or a filter in a transaction that writes")
        }
        Some(Request::RequestTxn(_)) => Some("transaction within a transaction"),
        Some(Request::RequestDeleteRange(_)) | None => None,
    };
    let mut found = txn.compare.iter().filter_map(compares);
    found.next().or_else(|| txn.success.iter().chain(&txn.failure).find_map(operates))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn live(seed: u64, members: usize) -> Live {
        let founder = |n: usize| Founder {
            name: format!("n{}", n + 1),
            client_url: format!("http://10.0.0.{n}:2379"),
            peer_url: format!("http://10.0.0.{n}:2380"),
        };
        Live::new(seed, "token", (0..members).map(founder).collect()).expect("the names differ")
    }

    fn begun(seed: u64, members: usize) -> Live {
        let mut live = live(seed, members);
        (0..members).for_each(|who| live.start(who));
        assert!(live.run(5_000_000, |live| (0..members).all(|who| live.is_ready(who))), "{:?}", live.broken());
        live
    }

    fn put(key: &str, value: &str) -> pb::PutRequest {
        pb::PutRequest { key: key.to_owned().into(), value: value.to_owned().into(), ..Default::default() }
    }

    fn get(key: &str, serializable: bool) -> pb::RangeRequest {
        pb::RangeRequest { key: key.to_owned().into(), serializable, ..Default::default() }
    }

    fn value(answer: Result<pb::RangeResponse, Error>) -> Result<Vec<u8>, Error> {
        answer.map(|a| a.kvs.first().map(|kv| kv.value.to_vec()).unwrap_or_default())
    }

    #[test]
    fn one_alone_asks_for_votes_and_two_elect() {
        let mut live = live(1, 3);
        live.start(0);
        live.pass(3_000_000);
        let said: Vec<String> = live.take_said().into_iter().map(|s| s.text).collect();
        assert!(said.iter().any(|text| text.ends_with("became pre-candidate at term 1")), "{said:?}");
        assert!(!live.is_ready(0) && live.status(0).expect("it runs").leader == 0);
        live.start(1);
        assert!(live.run(5_000_000, |live| live.is_ready(0) && live.is_ready(1)));
        assert!(live.take_said().iter().any(|s| s.text.contains("elected leader")));
        assert_eq!(live.members(1, true).expect("there is a leader").members.len(), 3);
        assert_eq!(live.broken(), None);
    }

    #[test]
    fn a_majority_writes_and_a_minority_does_not_and_says_so() {
        let mut live = begun(3, 5);
        live.stop(4);
        live.stop(3);
        live.put(0, put("a", "1")).expect("three of five");
        live.stop(2);
        assert_eq!(live.put(0, put("a", "2")), Err(Error::Timeout));
        assert_eq!(live.range(0, &get("a", false)), Err(Error::Timeout));
        assert_eq!(value(live.range(0, &get("a", true))), Ok(b"1".to_vec()));
        assert_eq!(live.status(0).expect("it runs").errors, ["etcdserver: no leader"]);
        assert_eq!(live.status(4), Err(Error::Stopped));
        live.start(2);
        assert!(live.run(5_000_000, |live| live.is_ready(2)));
        live.put(0, put("a", "3")).expect("three of five");
        assert_eq!(value(live.range(2, &get("a", false))), Ok(b"3".to_vec()));
        assert_eq!(live.broken(), None);
    }

    #[test]
    fn who_stands_still_is_not_waited_for_and_catches_up() {
        let mut live = begun(5, 3);
        let leader = (0..3).find(|who| live.status(*who).expect("runs").leader == live.world.places[*who].id.0);
        let leader = leader.expect("there is one");
        let (still, next) = ((leader + 1) % 3, live.world.places[(leader + 2) % 3].id);
        live.pause(still);
        live.put(leader, put("a", "1")).expect("two of three");
        live.pass(2_000_000);
        let before = live.status(still).expect("it runs").raft_applied_index;
        live.go_on(still);
        live.pass(1_000_000);
        assert!(live.status(still).expect("it runs").raft_applied_index > before);
        assert_eq!(live.hash_kv(still, 0).expect("it runs").hash, live.hash_kv(leader, 0).expect("it runs").hash);
        assert_eq!(live.move_leader(still, next), Err(Error::NotLeader));
        live.move_leader(leader, next).expect("it leads");
        assert_eq!(live.broken(), None);
    }

    #[test]
    fn a_watch_tells_what_is_written_and_ends_with_its_member() {
        let mut live = begun(7, 3);
        let watch = live.open_watch(0).expect("it runs");
        let create = pb::WatchCreateRequest { key: "a".into(), ..Default::default() };
        let union = pb::watch_request::RequestUnion::CreateRequest(create);
        live.request_watch(watch, pb::WatchRequest { request_union: Some(union) });
        assert!(live.poll_watch(watch).expect("it runs").expect("an answer").created);
        live.put(0, put("a", "1")).expect("all run");
        let told = live.poll_watch(watch).expect("it runs").expect("an event");
        assert_eq!(told.events.len(), 1);
        assert_eq!(live.poll_watch(watch), Ok(None));
        live.end(0);
        assert_eq!(live.poll_watch(watch), Err(Error::Stopped));
    }

    #[test]
    fn the_same_calls_have_the_same_answers_and_another_seed_others() {
        let run = |seed: u64| {
            let mut live = begun(seed, 3);
            live.put(1, put("a", "1")).expect("all run");
            live.end(0);
            live.pass(2_000_000);
            (live.now_ms(), live.take_said(), live.status(1).expect("it runs"))
        };
        assert_eq!(run(11), run(11));
        assert_ne!(run(11), run(12));
    }

    #[test]
    fn what_the_judge_does_not_know_is_named() {
        let txn = |success: Vec<Request>| {
            let ops = success.into_iter().map(|request| pb::RequestOp { request: Some(request) }).collect();
            unknown_txn(&pb::TxnRequest { success: ops, ..Default::default() })
        };
        let write = || Request::RequestPut(put("a", "1"));
        let limited = Request::RequestRange(pb::RangeRequest { limit: 1, ..get("a", false) });
        assert_eq!(txn(vec![write()]), None);
        assert_eq!(txn(vec![limited.clone()]), None, "it only reads, and reading is not the judge's");
        assert!(txn(vec![write(), limited]).is_some());
        assert!(txn(vec![write(), Request::RequestTxn(pb::TxnRequest::default())]).is_some());
    }
}
