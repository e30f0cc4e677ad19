//! The nemesis: a bounded sequence of faults from a seed, alone or in twos, each mended, while the promises are watched.
//!
//! The one idea: the whole plan is made at once, from seed, number of members and length alone; so the same three give the same plan in
//! every lab and every release. What the cluster does with it is not repeatable: these are real members. A fault that does not fit when
//! its time comes is left out, and said to be.
//!
//! ```text
//! seed ─plan─▶ fault, mend, fault, fault, mend, mend, …  ─next, as time passes─▶ Turn ─▶ orders, a line of the feed
//!                                                     at the end ─▶ all is mended, again and again, until members say so
//! ```
//!
//! Left out: what needs a member's files (bit rot, lost data) and bad configurations: what is lost there the others may need. More than two faults at
//! once.

use crate::lab::Action;
use crate::lab::Deed;
use crate::lab::Picture;
use crate::lab::deed::Disk;
use crate::lab::deed::Link;
use crate::lab::picture::Process;
use crate::types::Millis;
use std::collections::VecDeque;

/// How long it goes on if nobody says.
pub const SECONDS: u64 = 60;
/// The shortest and the longest.
pub const SECONDS_MIN: u64 = 5;
pub const SECONDS_MAX: u64 = 600;
/// A fault lasts so long, in milliseconds.
const FAULT_MS: (u64, u64) = (2_000, 5_000);
/// And then all is well for so long.
const CALM_MS: (u64, u64) = (1_500, 3_500);
/// One of so many faults is still there when the next one begins.
const TWO_AT_ONCE: u64 = 3;
/// Members of which the process has ended are started so long after the fault was taken from them.
const START_MS: u64 = 300;
/// Between two requests of its client.
const CALL_MS: u64 = 700;
/// Between two attempts to mend what is still broken at the end.
const MEND_MS: u64 = 1_000;
/// So many attempts at most.
const MENDS: u32 = 60;
/// The key that its client writes and reads.
pub const KEY: &str = "nemesis";

/// What may happen; each once before any happens again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Kill,
    Power,
    Stop,
    Term,
    Campaign,
    SlowDisk,
    FullDisk,
    FailingDisk,
    Clients,
    Clock,
    Align,
    Partition,
    Cut,
    Delay,
    Loss,
}

/// Without others there are no links.
const ALONE: usize = 10;
const KINDS: [Kind; 15] = [
    Kind::Kill,
    Kind::Power,
    Kind::Stop,
    Kind::Term,
    Kind::Campaign,
    Kind::SlowDisk,
    Kind::FullDisk,
    Kind::FailingDisk,
    Kind::Clients,
    Kind::Clock,
    Kind::Align,
    Kind::Partition,
    Kind::Cut,
    Kind::Delay,
    Kind::Loss,
];

/// One line of the plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Since the nemesis began.
    pub at_ms: u64,
    pub deed: Deed,
}

/// Numbers from a seed; our own (SplitMix64), since a seed must mean the same in every release.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Less than `n`, which is small: the little that is uneven does no harm.
    fn below(&mut self, n: u64) -> u64 {
        self.next() % n.max(1)
    }

    fn between(&mut self, (least, most): (u64, u64)) -> u64 {
        least + self.below(most - least + 1)
    }

    fn member(&mut self, members: usize) -> usize {
        usize::try_from(self.below(members as u64)).unwrap_or(0)
    }
}

/// The plan of a seed: faults and what mends them, in order of time. Of two faults at once neither is the other's concern, and the last one is mended
/// before the end.
#[must_use]
pub fn plan(seed: u64, members: usize, seconds: u64) -> Vec<Step> {
    let (mut dice, mut steps, mut bag) = (Dice(seed), Vec::new(), Vec::new());
    let mut at = 1_000;
    // A fault that lasts until then, and meanwhile another begins.
    let mut lasts: Option<(Deed, u64)> = None;
    loop {
        if bag.is_empty() {
            bag = KINDS[..if members > 1 { KINDS.len() } else { ALONE }].to_vec();
        }
        let kind = bag.swap_remove(usize::try_from(dice.below(bag.len() as u64)).unwrap_or(0));
        let (fault, cures) = of(kind, members, &mut dice);
        if let Some((_, mended)) = lasts.take_if(|(other, _)| concerns(&fault, other)) {
            at = mended + dice.between(CALM_MS);
        }
        let mended = at + dice.between(FAULT_MS);
        if mended + START_MS > seconds * 1_000 {
            break;
        }
        for (n, deed) in cures.into_iter().enumerate() {
            steps.push(Step { at_ms: mended + START_MS * n as u64, deed });
        }
        steps.push(Step { at_ms: at, deed: fault.clone() });
        (lasts, at) = match lasts {
            None if dice.below(TWO_AT_ONCE) == 0 => (Some((fault, mended)), at + (mended - at) / 2),
            None => (None, mended + dice.between(CALM_MS)),
            Some((_, other)) => (None, mended.max(other) + dice.between(CALM_MS)),
        };
    }
    steps.sort_by_key(|step| step.at_ms);
    for n in 1..steps.len() {
        // Two at one moment would have no order.
        steps[n].at_ms = steps[n].at_ms.max(steps[n - 1].at_ms + 1);
    }
    steps
}

/// Whether two faults are about the same member, or both about links: what mends one would mend the other, too, or make no sense.
fn concerns(one: &Deed, other: &Deed) -> bool {
    place(one).is_some_and(|at| place(other) == Some(at))
}

/// What a fault is about: a member, or with `None` inside the links between them.
fn place(deed: &Deed) -> Option<Option<usize>> {
    match deed {
        Deed::Process { member, .. }
        | Deed::Campaign { member }
        | Deed::SlowDisk { member, .. }
        | Deed::Disk { member, .. }
        | Deed::Power { member }
        | Deed::Clients { member, .. }
        | Deed::Wall { member, .. } => Some(Some(*member)),
        Deed::Partition(_) | Deed::Link { .. } | Deed::Heal => Some(None),
        _ => None,
    }
}

/// The least of a plan that still fails: pieces are left out, halves first, single steps last, for as long as `fails` says so.
/// `fails` must say the same of the same plan each time, so only the deterministic twin can be asked.
#[must_use]
pub fn shrink(plan: Vec<Step>, mut fails: impl FnMut(&[Step]) -> bool) -> Vec<Step> {
    let mut least = plan;
    let mut piece = least.len().div_ceil(2);
    while piece > 0 && !least.is_empty() {
        let (mut at, mut shorter) = (0, false);
        while at < least.len() {
            let end = (at + piece).min(least.len());
            let rest: Vec<Step> = least[..at].iter().chain(&least[end..]).cloned().collect();
            if fails(&rest) {
                (least, shorter) = (rest, true);
            } else {
                at = end;
            }
        }
        // What could not be spared before may be when others are gone.
        piece = if piece == 1 && shorter { 1 } else { piece / 2 };
    }
    least
}

/// A fault of this kind, and what mends it.
fn of(kind: Kind, members: usize, dice: &mut Dice) -> (Deed, Vec<Deed>) {
    let member = dice.member(members);
    let process = |action| Deed::Process { member, action };
    let disk = |disk| Deed::Disk { member, disk };
    let start = || process(Action::Restart);
    // One of the others: never the member itself.
    let to = (member + 1 + dice.member(members.saturating_sub(1).max(1))) % members.max(1);
    let link = |link| (Deed::Link { from: member, to, link }, vec![Deed::Heal]);
    match kind {
        Kind::Kill => (process(Action::Kill), vec![start()]),
        Kind::Power => (Deed::Power { member }, vec![start()]),
        Kind::Stop => (process(Action::Pause), vec![process(Action::Continue)]),
        Kind::Term => (process(Action::Stop), vec![start()]),
        Kind::Campaign => (Deed::Campaign { member }, vec![]),
        Kind::SlowDisk => {
            let ms = 50 * (1 + dice.below(8));
            (Deed::SlowDisk { member, ms }, vec![Deed::SlowDisk { member, ms: 0 }])
        }
        Kind::FullDisk => (disk(Disk::Full), vec![disk(Disk::Good), start()]),
        Kind::FailingDisk => (disk(Disk::Failing), vec![disk(Disk::Good), start()]),
        Kind::Clients => (Deed::Clients { member, cut: true }, vec![Deed::Clients { member, cut: false }]),
        Kind::Clock => {
            let seconds = [-3_600, -5, 5, 3_600][usize::try_from(dice.below(4)).unwrap_or(0)];
            (Deed::Wall { member, seconds }, vec![Deed::Wall { member, seconds: 0 }])
        }
        Kind::Align => (Deed::Align, vec![]),
        Kind::Partition => (parted(members, dice), vec![Deed::Heal]),
        Kind::Cut => link(Link { cut: true, ..Link::default() }),
        Kind::Delay => link(Link { delay_ms: 100 * (1 + dice.below(8)), ..Link::default() }),
        Kind::Loss => link(Link { loss_percent: 10 * (1 + dice.below(6)) as u32, ..Link::default() }),
    }
}

/// Two groups, neither empty.
fn parted(members: usize, dice: &mut Dice) -> Deed {
    let mask = 1 + dice.below((1 << members) - 2);
    let (a, b) = (0..members).partition(|m| mask >> m & 1 == 1);
    Deed::Partition(vec![a, b])
}

/// A nemesis that goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nemesis {
    pub seed: u64,
    /// What it has done last: a line of [`crate::lab::deed::WORDS`].
    pub at: Option<String>,
    began: Millis,
    ends: Millis,
    plan: VecDeque<Step>,
    next_call: Millis,
    calls: u64,
    /// The plan is over; so often was it attempted to mend everything, and then comes the next attempt.
    mends: Option<(u32, Millis)>,
}

/// What the nemesis wants now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Turn {
    /// A deed of the plan.
    Deed(Deed),
    /// Its client writes this value.
    Put(String),
    /// Its client reads.
    Get,
    /// All that is still broken is to be mended.
    Mend,
    /// It was attempted often enough.
    GiveUp,
}

impl Nemesis {
    /// Begins now.
    #[must_use]
    pub fn new(seed: u64, members: usize, seconds: u64, now: Millis) -> Nemesis {
        Nemesis {
            seed,
            at: None,
            began: now,
            ends: now.plus(seconds * 1_000),
            plan: plan(seed, members, seconds).into(),
            next_call: now,
            calls: 0,
            mends: None,
        }
    }

    /// Whether its plan is over, and it only mends.
    #[must_use]
    pub fn is_ending(&self) -> bool {
        self.mends.is_some()
    }

    /// Seconds until its plan is over.
    #[must_use]
    pub fn left(&self, now: Millis) -> u64 {
        if self.is_ending() { 0 } else { self.ends.0.saturating_sub(now.0).div_ceil(1_000) }
    }

    /// Seconds since it began, and how many it has.
    #[must_use]
    pub fn age(&self, now: Millis) -> (u64, u64) {
        (now.0.saturating_sub(self.began.0) / 1_000, self.ends.0.saturating_sub(self.began.0) / 1_000)
    }

    /// Leaves the rest of the plan out.
    pub fn end(&mut self, now: Millis) {
        self.plan.clear();
        self.mends.get_or_insert((0, now));
    }

    /// What is to be done by now, if anything; called until there is nothing.
    pub fn next(&mut self, picture: &Picture) -> Option<Turn> {
        let now = picture.now;
        if let Some((mends, due)) = &mut self.mends {
            if now < *due {
                return None;
            }
            (*mends, *due) = (*mends + 1, now.plus(MEND_MS));
            return Some(if *mends > MENDS { Turn::GiveUp } else { Turn::Mend });
        }
        if now >= self.ends {
            self.end(now);
            return self.next(picture);
        }
        while self.plan.front().is_some_and(|step| self.began.plus(step.at_ms) <= now) {
            let step = self.plan.pop_front()?;
            if is_needed(&step.deed, picture) {
                return Some(Turn::Deed(step.deed));
            }
        }
        if now < self.next_call {
            return None;
        }
        self.next_call = now.plus(CALL_MS);
        self.calls += 1;
        Some(if self.calls.is_multiple_of(3) { Turn::Get } else { Turn::Put(format!("{}-{}", self.seed, self.calls)) })
    }
}

/// A member that runs is not started: that would end it first.
fn is_needed(deed: &Deed, picture: &Picture) -> bool {
    let Deed::Process { member, action: Action::Restart } = deed else { return true };
    picture.members.get(*member).is_some_and(|m| matches!(m.process, Process::Ended { .. }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::workdir::Record;

    fn lines(seed: u64, members: usize, seconds: u64) -> Vec<String> {
        let names: Vec<String> = (1..=members).map(|n| format!("n{n}")).collect();
        plan(seed, members, seconds).iter().map(|s| format!("{} {}", s.at_ms, s.deed.line(&names))).collect()
    }

    #[test]
    fn a_seed_means_one_plan_in_every_release() {
        assert_eq!(lines(7, 3, 60), lines(7, 3, 60));
        assert_ne!(lines(7, 3, 60), lines(8, 3, 60));
        insta::assert_snapshot!(lines(7, 3, 30).join("\n"));
    }

    #[test]
    fn faults_come_alone_or_in_twos_and_all_are_mended_before_the_end() {
        let mut twos = 0;
        for (seed, members) in (0..300).zip([1, 3, 5].into_iter().cycle()) {
            let plan = plan(seed, members, 60);
            assert!(plan.len() > 8, "seed {seed} does little");
            assert!(plan.windows(2).all(|w| w[0].at_ms < w[1].at_ms), "seed {seed}");
            assert!(plan.iter().all(|s| s.at_ms <= 60_000), "seed {seed}");
            let mut open: Vec<Deed> = Vec::new();
            for Step { deed, .. } in &plan {
                match deed {
                    Deed::Campaign { .. } | Deed::Align => {}
                    Deed::Heal
                    | Deed::Process { action: Action::Continue | Action::Restart, .. }
                    | Deed::SlowDisk { ms: 0, .. }
                    | Deed::Wall { seconds: 0, .. }
                    | Deed::Clients { cut: false, .. } => {
                        let mended = open.iter().position(|fault| concerns(fault, deed));
                        open.remove(mended.unwrap_or_else(|| panic!("seed {seed}: {deed:?} mends nothing")));
                    }
                    // The member is started next.
                    Deed::Disk { disk: Disk::Good, .. } => {
                        assert!(open.iter().any(|fault| concerns(fault, deed)), "seed {seed}");
                    }
                    fault => {
                        assert!(!open.iter().any(|other| concerns(other, fault)), "seed {seed}: {fault:?}");
                        open.push(fault.clone());
                    }
                }
                assert!(open.len() <= 2, "seed {seed}: {open:?}");
                twos += usize::from(open.len() == 2);
            }
            assert_eq!(open, [], "seed {seed}");
        }
        assert!(twos > 300, "two at once are rare: {twos}");
    }

    #[test]
    fn all_kinds_come_and_a_partition_has_two_sides() {
        let mut words = std::collections::BTreeSet::new();
        for seed in 0..40 {
            for line in lines(seed, 5, 60) {
                words.insert(line.split(' ').nth(1).expect("a word").to_owned());
            }
            for step in plan(seed, 3, 60) {
                if let Deed::Partition(groups) = &step.deed {
                    assert!(groups.len() == 2 && groups.iter().all(|g| !g.is_empty()), "{groups:?}");
                }
                if let Deed::Link { from, to, .. } = step.deed {
                    assert_ne!(from, to);
                }
            }
        }
        for word in "kill power stop cont term start campaign slow-disk full-disk failing-disk cut-clients clock-offset align partition cut delay loss heal".split(' ') {
            assert!(words.contains(word), "{word} never comes: {words:?}");
        }
        assert!(lines(3, 1, 600).iter().all(|l| !l.contains("n2") && !l.contains("heal")), "one member has no links");
    }

    #[test]
    fn a_plan_shrinks_to_the_steps_that_are_needed() {
        let whole = plan(7, 3, 60);
        let needed = [whole[2].clone(), whole[whole.len() - 1].clone()];
        let mut asked = 0;
        let least = shrink(whole.clone(), |plan| {
            asked += 1;
            needed.iter().all(|step| plan.contains(step))
        });
        assert_eq!(least, needed);
        assert!(asked < whole.len() * 4, "{asked} plays");
        assert_eq!(shrink(whole.clone(), |_| true), [], "it fails by itself");
        assert_eq!(shrink(whole.clone(), |plan| plan.len() == whole.len()), whole, "all of it is needed");
    }

    #[test]
    fn it_takes_its_turns_by_time_and_ends_by_mending() {
        let mut picture = Picture::new(&Record::sample(3));
        let mut nemesis = Nemesis::new(7, 3, 5, Millis(0));
        let mut turns = Vec::new();
        for now in (0..8_000).step_by(100) {
            picture.now = Millis(now);
            while let Some(turn) = nemesis.next(&picture) {
                turns.push(turn);
            }
        }
        assert!(turns.iter().any(|t| matches!(t, Turn::Put(_))) && turns.contains(&Turn::Get), "{turns:?}");
        let mends = turns.iter().filter(|t| **t == Turn::Mend).count();
        assert_eq!(mends, 3, "once a second from the fifth on: {turns:?}");
        assert_eq!((nemesis.left(picture.now), nemesis.is_ending()), (0, true));
    }
}
