//! Seeds that every build plays, the replay of one, and the bugs that are planted.

use super::*;
use crate::planted;
use crate::planted::Bug;

/// A number from the environment, for runs by hand.
fn given(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}

fn all(seeds: std::ops::Range<u64>, size: Size) -> Report {
    let mut total = Report::default();
    for seed in seeds {
        match run(seed, size) {
            Ok(report) => total.add(&report),
            Err(violation) => panic!("{violation}"),
        }
    }
    total
}

#[test]
fn two_hundred_short_runs_break_no_rule() {
    let total = all(0..200, Size::SHORT);
    // A simulation in which nothing happens would break no rule either.
    total.proves(200, Size::SHORT).unwrap_or_else(|lacks| panic!("{lacks}\n{total:?}"));
    assert!(total.writes > total.asked / 4 && total.reads > total.asked / 10 && total.events > 1000, "{total:?}");
    assert!(total.by_fault.len() >= 15, "{total:?}");
}

/// Fifty long runs from `first` on. There are four such tests, so that they run side by side.
fn fifty_long_runs(first: u64) {
    let total = all(first..first + 50, Size::LONG);
    total.proves(50, Size::LONG).unwrap_or_else(|lacks| panic!("{lacks}\n{total:?}"));
}

#[test]
fn long_runs_break_no_rule_1() {
    fifty_long_runs(10_000);
}

#[test]
fn long_runs_break_no_rule_2() {
    fifty_long_runs(10_050);
}

#[test]
fn long_runs_break_no_rule_3() {
    fifty_long_runs(10_100);
}

#[test]
fn long_runs_break_no_rule_4() {
    fifty_long_runs(10_150);
}

#[test]
fn a_seed_makes_the_same_run_twice() {
    for seed in [3, 4, 5] {
        let (first, second) = (record(seed, Size::SHORT), record(seed, Size::SHORT));
        assert!(first.0.lines().count() > 1000, "{}", first.0);
        assert!(first == second, "two runs of seed {seed} differ");
        assert_eq!(run(seed, Size::SHORT).expect("no rule is broken"), first.1.expect("no rule is broken"));
        assert_ne!(first.0, record(seed + 100, Size::SHORT).0);
    }
}

/// Plays seeds until the planted bug is found; says how many it took.
fn seeds_until_found(bug: Bug, size: Size, most: u64) -> Option<(u64, String)> {
    planted::plant(Some(bug));
    let found = (0..most).find_map(|seed| play(seed, size, false).0.err().map(|what| (seed + 1, what)));
    planted::plant(None);
    found
}

/// The bugs that short runs find fast, and how many they may take; the others need [`planted_bugs_by_hand`].
const QUICK: [Bug; 13] = [
    Bug::AcknowledgeBeforeSync,
    Bug::AppliedIndexOutsideBatch,
    Bug::TombstoneDropped,
    Bug::ReadBeforeApplied,
    Bug::CommitFromHardStateOnly,
    Bug::UpdateNodeMisread,
    Bug::BootstrapTwice,
    Bug::ConfStateNotStored,
    Bug::FutureWatchGetsOldEvents,
    Bug::WatchCursorForgotten,
    Bug::DeposedLeaderRevokes,
    Bug::PartialTransaction,
    Bug::ReleasedBeforeDurable,
];
const QUICK_RUNS: u64 = 60;

#[test]
fn planted_bugs_are_found() {
    for bug in QUICK {
        assert!(seeds_until_found(bug, Size::SHORT, QUICK_RUNS).is_some(), "{bug:?} is not found in {QUICK_RUNS} runs");
    }
}

#[test]
fn a_voter_that_hears_from_its_leader_and_would_vote_is_noticed_at_once() {
    let (_, what) = seeds_until_found(Bug::PreVoteDespiteLeader, Size::SHORT, 20).expect("links flap in every run");
    assert!(what.contains("would vote for"), "{what}");
}

/// A voter that slept reads in one turn: heartbeats, a pre-vote that it must not grant, news of the term that has begun, the same question again.
#[test]
fn what_a_sleeper_reads_in_one_turn_is_judged_message_by_message() {
    run(20_817, Size::LONG).unwrap_or_else(|violation| panic!("{violation}"));
}

/// A sector that another one's write reached: the end of an acknowledged record is zeros there, and what follows is not.
#[test]
fn a_misdirected_write_that_looks_cut_short_is_refused() {
    run(3581, Size::LONG).unwrap_or_else(|violation| panic!("{violation}"));
}

/// The power fails in the installation of a snapshot that ends in the very entry that this member has of an earlier term.
#[test]
fn a_snapshot_takes_the_place_of_a_synced_entry_that_was_never_committed() {
    run(4424, Size::LONG).unwrap_or_else(|violation| panic!("{violation}"));
}

/// `SIM_FROM=0 SIM_RUNS=10000 cargo test --release --lib sim::tests::runs_by_hand -- --ignored --nocapture`. It tells now and then how far it
/// is: one that was stopped goes on from there.
#[test]
#[ignore = "takes as long as it is told to"]
fn runs_by_hand() {
    let (from, runs) = (given("SIM_FROM", 0), given("SIM_RUNS", 1000));
    let size = Size { ops: given("SIM_OPS", Size::LONG.ops), faults: given("SIM_FAULTS", Size::LONG.faults) };
    let (mut total, mut broken) = (Report::default(), 0);
    for seed in from..from + runs {
        match run(seed, size) {
            Ok(report) => total.add(&report),
            Err(violation) => {
                broken += 1;
                eprintln!("{violation}");
                if let Ok(dir) = std::env::var("SIM_RECORDS") {
                    std::fs::write(format!("{dir}/{seed}"), record(seed, size).0).expect("a folder for records");
                }
                assert!(broken < given("SIM_BROKEN", 5), "enough");
            }
        }
        let done = seed + 1 - from;
        if done.is_multiple_of(given("SIM_TELL", 100)) {
            let (answered, share, faults) = (total.answered(), total.share(), total.faults);
            eprintln!(
                "seeds {from} to {seed}: {broken} broken; {answered} of {} questions answered ({share} %), {faults} faults",
                total.asked
            );
        }
    }
    eprintln!("{runs} runs from {from}: {broken} broken; {} % answered: {total:#?}", total.share());
    assert_eq!(broken, 0);
    if runs >= 100 {
        total.proves(runs, size).unwrap_or_else(|lacks| panic!("{lacks}"));
    }
}

/// `cargo test --release --lib sim::tests::planted_bugs_by_hand -- --ignored --nocapture`; `SIM_BUG=Vote` plants those whose name has that in it.
#[test]
#[ignore = "takes minutes"]
fn planted_bugs_by_hand() {
    let most = given("SIM_RUNS", 300);
    let mut missed = Vec::new();
    let wanted = std::env::var("SIM_BUG").unwrap_or_default();
    for bug in Bug::ALL.into_iter().filter(|bug| format!("{bug:?}").contains(&wanted)) {
        let size = if given("SIM_LONG", 0) == 1 { Size::LONG } else { Size::SHORT };
        match seeds_until_found(bug, size, most) {
            Some((seeds, what)) => eprintln!("{bug:?}: {seeds} seeds: {}", what.lines().next().unwrap_or_default()),
            None => missed.push(bug),
        }
    }
    assert!(missed.is_empty(), "not found in {most} runs each: {missed:?}");
}
