//! Chaos over clusters of two kinds: etcd's members and ours are killed, stopped and cut off from each other while clients read, write and watch.
//!
//! Clients' histories are judged as in [`crate::chaos`]. Beside them each member has a watcher, which begins anew where it was whenever its stream ends: all
//! of them must hear of every event once, in order. `MIXED_SECONDS` (default 10 per cluster) and `CHAOS_SEED` make it longer and other.

#![expect(clippy::disallowed_methods, reason = "a fault lasts a while")]

use crate::chaos;
use crate::chaos::Load;
use crate::chaos::from_env;
use crate::chaos::killed;
use crate::chaos::stopped;
use crate::checker::Watching;
use crate::checker::watch;
use crate::client::Client;
use crate::cuts::Cuts;
use crate::foreign;
use crate::harness::Cluster;
use crate::harness::READY_WITHIN;
use crate::harness::Scratch;
use crate::harness::Spec;
use crate::harness::etcd_bin;
use crate::harness::turn;
use crate::mixed::lead;
use crate::seeded::Seeded;
use etcd_lab::proto::mvccpb::Event;
use std::collections::BTreeMap;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;
use std::time::Instant;
use tokio::sync::watch as signal;

/// Between a stream's end and the next one's beginning.
const REOPEN_AFTER: Duration = Duration::from_millis(50);
const MEMBERS: usize = 3;

/// Watches at one member, stream after stream, until everything up to the revision that `end` comes to has been told.
async fn follow(client: Client, member: usize, mut end: signal::Receiver<i64>) -> (usize, Vec<Event>) {
    let (mut told, mut next, mut streams) = (Vec::new(), 1, 0);
    loop {
        let mut watching = Watching::open(&client, member);
        watching.create(watch("key", next)).await;
        streams += 1;
        loop {
            let done = watching.checker.watches.values().next().map_or(next - 1, |watched| watched.done);
            let last = *end.borrow_and_update();
            if last > 0 && done >= last {
                told.extend(heard(&watching));
                return (streams, told);
            }
            let ended = tokio::select! {
                response = watching.next_or() => response.is_err(),
                _ = end.changed() => false,
            };
            if ended {
                break;
            }
        }
        let more = heard(&watching);
        next = more.iter().filter_map(|event| event.kv.as_ref()).map(|kv| kv.mod_revision + 1).max().unwrap_or(next);
        told.extend(more);
        tokio::time::sleep(REOPEN_AFTER).await;
    }
}

/// What the watch of this stream was told.
fn heard(watching: &Watching) -> Vec<Event> {
    let watches = &watching.checker.watches;
    assert!(watches.values().all(|watched| !watched.is_cancelled), "nobody compacts, so nobody may cancel");
    watches.values().flat_map(|watched| watched.events.clone()).collect()
}

/// Breaks members and links, one fault at a time, and mends each.
struct Nemesis {
    dice: Seeded,
    cuts: Cuts,
    faults: BTreeMap<&'static str, usize>,
    /// Bytes that each kind of cut held back.
    held: BTreeMap<&'static str, usize>,
    /// How often each member led when it was asked.
    led: [usize; MEMBERS],
}

impl Nemesis {
    async fn leader(&mut self, cluster: &Cluster) -> usize {
        let leader = cluster.leader().await;
        self.led[leader] += 1;
        leader
    }

    /// Both directions between those of `group` and the others, or what the group says only.
    fn partition(&self, group: u64, one_way: bool) {
        let inside = |member: usize| group >> member & 1 == 1;
        let pairs = (0..MEMBERS).flat_map(|from| (0..MEMBERS).map(move |to| (from, to)));
        self.cuts.set(pairs.filter(|(from, to)| inside(*from) != inside(*to) && (!one_way || inside(*from))));
    }

    async fn cut(&self, group: u64, one_way: bool, lasts: Duration) {
        self.partition(group, one_way);
        tokio::time::sleep(lasts).await;
        self.partition(0, false);
    }

    /// One fault of those that there are; the first ones come in their order.
    async fn strike(&mut self, cluster: &mut Cluster) {
        const KINDS: u64 = 8;
        let so_far: usize = self.faults.values().sum();
        let kind = if (so_far as u64) < KINDS { so_far as u64 } else { self.dice.below(KINDS) };
        let member = self.dice.below(MEMBERS as u64) as usize;
        let lasts = Duration::from_millis(200 + self.dice.below(1500));
        let group = 1 + self.dice.below((1 << MEMBERS) - 2);
        let leader = self.leader(cluster).await;
        let held = self.cuts.held();
        let fault = match kind {
            0 => {
                self.cut(1 << leader, false, lasts).await;
                "cut the leader off"
            }
            1 => {
                killed(cluster, leader, lasts / 4).await;
                "kill the leader"
            }
            2 => {
                stopped(cluster, leader, lasts).await;
                "stop the leader"
            }
            3 => {
                self.cut(group, true, lasts).await;
                "cut one way"
            }
            4 => {
                killed(cluster, member, lasts / 4).await;
                "kill"
            }
            5 => {
                stopped(cluster, member, lasts).await;
                "stop"
            }
            6 => {
                self.cut(group, false, lasts).await;
                "cut in two"
            }
            _ => {
                cluster.restart_all().await;
                "kill all"
            }
        };
        *self.faults.entry(fault).or_default() += 1;
        if fault.starts_with("cut") {
            *self.held.entry(fault).or_default() += self.cuts.held() - held;
        }
    }
}

/// Members that run these programs, with links that can be cut.
async fn mixed(programs: &[&Path; MEMBERS]) -> (Cluster, Cuts) {
    let scratch = Scratch::new();
    let mut specs: Vec<Spec> = (0..MEMBERS).map(|n| Spec::new(&format!("m{n}"), scratch.path())).collect();
    for (spec, program) in specs.iter_mut().zip(programs) {
        spec.program = Some(program.to_path_buf());
        // Marks in the log, and comparisons of hashes, happen all the time.
        spec.more = ["--snapshot-count=200", "--experimental-corrupt-check-time=1s"].map(str::to_owned).to_vec();
    }
    let cuts = Cuts::before(&mut specs).await;
    let client = Client::plain(specs.iter().map(|spec| spec.client_url.clone()).collect());
    (Cluster::from_specs(programs[0], specs, client, scratch).await, cuts)
}

async fn chaos(programs: [&Path; MEMBERS], seed: u64, lasts: Duration) {
    let (mut cluster, cuts) = mixed(&programs).await;
    let mut ids = Vec::new();
    for member in 0..MEMBERS {
        ids.push(cluster.ready(member).await.header.expect("a header").member_id);
    }
    cuts.name(ids);
    let load = Load::start(&cluster.client, seed);
    let (tell, told) = signal::channel(0);
    let follow = |member| tokio::spawn(follow(cluster.client.clone(), member, told.clone()));
    let followers: Vec<_> = (0..MEMBERS).map(follow).collect();
    let (faults, held) = (BTreeMap::new(), BTreeMap::new());
    let mut nemesis = Nemesis { dice: Seeded::new(seed), cuts, faults, held, led: [0; MEMBERS] };
    // Whoever leads, the other kind has led once before.
    for member in [MEMBERS - 1, 0] {
        lead(&cluster, member).await;
        nemesis.led[member] += 1;
        nemesis.strike(&mut cluster).await;
    }
    let deadline = Instant::now() + lasts;
    while Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(300)).await;
        nemesis.strike(&mut cluster).await;
    }
    let (cuts, held) = (nemesis.held.len(), nemesis.held.values().filter(|bytes| **bytes > 0).count());
    assert!(held > 0 && held == cuts, "seed {seed}: a cut that cut nothing: {:?}", nemesis.held);
    let history = load.end().await;
    let (revision, events) = chaos::agreed(&cluster).await;
    tell.send_replace(revision);
    let mut streams = Vec::new();
    for (member, follower) in followers.into_iter().enumerate() {
        let (opened, mut told) =
            tokio::time::timeout(READY_WITHIN, follower).await.expect("the end is told").expect("no promise is broken");
        told.retain(|event| event.kv.as_ref().is_some_and(|kv| kv.mod_revision <= revision));
        assert!(
            told == events,
            "seed {seed}: who watched at member {member} was told otherwise: {told:?}, not {events:?}"
        );
        streams.push(opened);
    }
    let kinds =
        programs.map(|program| if program == etcd_bin() { "ours".to_owned() } else { foreign::version(program) });
    let run = format!(
        "{kinds:?}, seed {seed}, faults {:?}, bytes held back {:?}, leaders {:?}, watch streams {streams:?}",
        nemesis.faults, nemesis.held, nemesis.led
    );
    chaos::judge(&mut cluster, &history, (revision, &events), &run).await;
}

fn mixed_chaos(test: &str, theirs: usize) {
    let Some(etcds) = foreign::etcds(test) else { return };
    let (seconds, seed) = (from_env("MIXED_SECONDS", 10), from_env("CHAOS_SEED", 1));
    let lasts = Duration::from_secs(seconds);
    let ours = etcd_bin();
    // The oldest and the newest, or the one between.
    let (oldest, newest) = (&etcds[0], &etcds[etcds.len() - 1]);
    let theirs = if theirs == 1 { vec![&etcds[etcds.len() / 2]] } else { vec![oldest, newest] };
    let all = theirs.into_iter().chain([&ours; MEMBERS]);
    let programs: Vec<&Path> = all.take(MEMBERS).map(PathBuf::as_path).collect();
    let programs = programs.try_into().expect("so many were taken");
    turn(lasts + chaos::BUSY + Duration::from_secs(120), chaos(programs, seed, lasts));
}

#[test]
fn two_members_of_etcd_and_one_of_ours_stay_linearizable_under_faults() {
    mixed_chaos("two_members_of_etcd_and_one_of_ours_stay_linearizable_under_faults", 2);
}

#[test]
fn one_member_of_etcd_and_two_of_ours_stay_linearizable_under_faults() {
    mixed_chaos("one_member_of_etcd_and_two_of_ours_stay_linearizable_under_faults", 1);
}
