//! The deterministic twin: a simulated cluster in place of a real one, as a recording that all screens show.
//!
//! The same replicas, driven from a seed with simulated clock, disk and network ([`crate::sim::film`]); members are named m0, m1, …, as there.
//! Going back is going back in a recording. Going on otherwise is the run played again, with other dice from a moment on ([`fork`]) or with
//! deeds of the learner's ([`with_deed`]): from the first of them on the seed does no harm any more. The Data screen asks the run's history
//! ([`answer`]), as it stood then.

use crate::lab::Action;
use crate::lab::Deed;
use crate::lab::Report;
use crate::lab::cluster::Change;
use crate::lab::deed::Disk;
use crate::lab::deed::Link;
use crate::lab::nemesis;
use crate::lab::nemesis::Step;
use crate::lab::recording::Recording;
use crate::lab::store::Ask;
use crate::lab::store::Key;
use crate::lab::store::Listing;
use crate::lab::store::Row;
use crate::lab::store::SEPARATOR;
use crate::lab::store::Shown;
use crate::lab::store::Version;
use crate::lab::workdir::MemberRecord;
use crate::lab::workdir::Record;
use crate::sim::film;
use crate::sim::film::Act;
use crate::sim::film::Film;
use crate::sim::film::Script;
use crate::sim::film::What;
use crate::types::Millis;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Simulated seconds, if nobody says.
pub const SECONDS: u64 = 30;
/// A nemesis in the twin, and what must come after it, take so much longer than its plan.
const AFTER_MS: u64 = 3_000;

/// A script, and all that was ever written in its run.
#[derive(Clone, Debug)]
pub struct Twin {
    pub script: Script,
    pub history: Arc<Vec<film::Version>>,
}

/// The run of a script.
#[must_use]
pub fn play(script: &Script) -> (Twin, Recording) {
    let mut film = film::shoot(script);
    let history = Arc::new(std::mem::take(&mut film.history));
    (Twin { script: script.clone(), history }, developed(film))
}

/// The same script, with dice of this seed from a moment on. What was forked or done later than that is forgotten.
#[must_use]
pub fn fork(script: &Script, at: Millis, seed: u64) -> Script {
    let before = script.forks.iter().filter(|(ms, _)| *ms < at.0).copied();
    let deeds = script.deeds.iter().filter(|deed| deed.at_ms <= at.0).cloned().collect();
    Script { forks: before.chain([(at.0, seed)]).collect(), deeds, ..script.clone() }
}

/// The same script, with a deed at a moment. What was forked or done later than that is forgotten.
#[must_use]
pub fn with_deed(script: &Script, at: Millis, act: Act, line: String) -> Script {
    let forks = script.forks.iter().filter(|(ms, _)| *ms <= at.0).copied().collect();
    let before = script.deeds.iter().filter(|deed| deed.at_ms <= at.0).cloned();
    let deeds = before.chain([film::Deed { at_ms: at.0, act, line }]).collect();
    Script { forks, deeds, ..script.clone() }
}

/// The same script without its last deed, and how that was told.
#[must_use]
pub fn without_last(script: &Script) -> Option<(Script, String)> {
    let mut script = script.clone();
    let last = script.deeds.pop()?;
    Some((script, last.line))
}

/// What a deed is in the twin.
///
/// # Errors
/// That it has no such thing, in a sentence.
pub fn act(deed: &Deed) -> Result<Act, String> {
    Ok(match deed {
        Deed::Process { member, action } => match action {
            Action::Kill | Action::Stop => Act::Kill(*member),
            Action::Pause => Act::Pause(*member),
            Action::Restart => Act::Start(*member),
            Action::Continue => return Err("in the simulation a member that is stopped goes on after 3 s".into()),
        },
        Deed::Power { member } => Act::Power(*member),
        Deed::Campaign { member } => Act::Campaign(*member),
        Deed::Partition(groups) => Act::Part(groups.clone()),
        Deed::Link { from, to, link } if *link == (Link { cut: true, ..Link::default() }) => {
            Act::Cut { from: *from, to: *to }
        }
        Deed::Heal => Act::Heal,
        Deed::SlowDisk { member, ms } => Act::SlowDisk { member: *member, slow: *ms > 0 },
        Deed::Disk { member, disk: Disk::Full } => Act::FullDisk(*member),
        Deed::Disk { member, disk: Disk::Failing } => Act::FailingDisk(*member),
        Deed::Calm => Act::Calm,
        _ => return Err("the simulation has no such thing; it has kill, power, stop, term, start, campaign, partition, cut, heal, slow-disk, \
                         full-disk, failing-disk, calm, and put"
            .into()),
    })
}

/// A nemesis's plan on a simulated cluster: what the twin has, at the same times. The rest of a plan (clients, delays) does nothing there.
#[must_use]
pub fn script_of(seed: u64, members: usize, plan: &[Step]) -> Script {
    let names: Vec<String> = (0..members).map(|n| format!("m{n}")).collect();
    // Its members are as fast as the simulator's, and need a moment to elect.
    let begin = 1_000;
    let calm = film::Deed { at_ms: begin, act: Act::Calm, line: "calm".into() };
    let deed = |step: &Step| {
        let act = act(&step.deed).ok()?;
        Some(film::Deed { at_ms: begin + step.at_ms, act, line: step.deed.line(&names) })
    };
    let deeds: Vec<film::Deed> = [calm].into_iter().chain(plan.iter().filter_map(deed)).collect();
    let end = deeds.last().map_or(begin, |deed| deed.at_ms) + AFTER_MS;
    Script { seed, members, seconds: end.div_ceil(1_000), forks: Vec::new(), deeds }
}

/// The rule that a plan breaks in the twin, if it does.
#[must_use]
pub fn broken_by(seed: u64, members: usize, plan: &[Step]) -> Option<String> {
    film::shoot(&script_of(seed, members, plan)).broken
}

/// Whether a nemesis breaks a rule in the twin; and if so, the shortest plan found that still does, and the rule.
#[must_use]
pub fn shrunk(seed: u64, members: usize, seconds: u64) -> Option<(Vec<Step>, String)> {
    let plan = nemesis::plan(seed, members, seconds);
    broken_by(seed, members, &plan)?;
    let least = nemesis::shrink(plan, |plan| broken_by(seed, members, plan).is_some());
    let rule = broken_by(seed, members, &least)?;
    Some((least, rule))
}

/// What the Data screen is told of a run, as it stood at a revision; `floor`: what is compacted below it cannot be read.
#[must_use]
pub fn answer(history: &[film::Version], newest: i64, floor: i64, ask: &Ask) -> Shown {
    let at = |at: i64| if at == 0 { newest } else { at };
    match ask {
        Ask::List { at: wanted, .. } | Ask::Key { at: wanted, .. } if *wanted != 0 && *wanted < floor => {
            Shown::Failed(format!("revision {wanted} is compacted: history begins at {floor}"))
        }
        Ask::List { prefix, at: wanted, .. } => {
            let mut last: BTreeMap<&[u8], &film::Version> = BTreeMap::new();
            for version in history.iter().filter(|v| v.mod_revision <= at(*wanted) && v.key.starts_with(prefix)) {
                last.insert(&version.key, version);
            }
            let mut rows: Vec<Row> = Vec::new();
            for version in last.into_values().filter(|v| !v.is_deleted) {
                let inner = version.key[prefix.len()..].iter().position(|b| *b == SEPARATOR);
                let key = inner.map_or(version.key.clone(), |n| version.key[..=prefix.len() + n].to_vec());
                if rows.last().is_none_or(|row| row.key != key) {
                    let (mod_revision, version) = (version.mod_revision, version.version);
                    rows.push(Row { key, is_folder: inner.is_some(), mod_revision, version });
                }
            }
            Shown::Listing(Listing { prefix: prefix.clone(), at: *wanted, newest, rows, ..Listing::default() })
        }
        Ask::Key { key, at: wanted } => {
            let is_its = |v: &&film::Version| v.key == *key && v.mod_revision <= at(*wanted);
            // Since its last deletion, and what is not compacted.
            let life = history.iter().rev().filter(is_its).take_while(|v| !v.is_deleted);
            let seen = |(n, v): (usize, &film::Version)| {
                (n == 0 || v.mod_revision >= floor).then(|| Version {
                    value: v.value.clone(),
                    bytes: v.value.len(),
                    create_revision: v.create_revision,
                    mod_revision: v.mod_revision,
                    version: v.version,
                    lease: v.lease,
                })
            };
            let versions = life.enumerate().map_while(seen).collect();
            let cut = if floor > 0 { format!("compacted below {floor}") } else { String::new() };
            Shown::Key(Key { key: key.clone(), versions, cut })
        }
        Ask::Compare { .. } => Shown::Failed("the simulator's judge compares its members after every step".into()),
    }
}

fn developed(film: Film) -> Recording {
    let member = |name: &String| MemberRecord {
        name: name.clone(),
        pid: 0,
        client_url: "simulated".into(),
        peer_url: "simulated".into(),
        lab_socket: "none".into(),
        log: "none".into(),
        data_dir: "none".into(),
    };
    let members = film.names.iter().map(member).collect();
    let record = Record { supervisor_pid: 0, cluster_token: "simulation".into(), members, ..Record::default() };
    let end = film.scenes.last().map_or(0, |scene| scene.at_ms);
    let mut reports = Vec::new();
    for scene in film.scenes {
        let (at, member) = (Millis(scene.at_ms), scene.who);
        match scene.what {
            What::Starts => {
                // A process of no system: its number is its place.
                let pid = u32::try_from(member).unwrap_or(0) + 1;
                reports.push((at, Report::Process { member, change: Change::Started { pid } }));
                reports.push((at, Report::Connected { member }));
            }
            What::Ends => {
                let how = "its simulated process is gone".to_owned();
                reports.push((at, Report::Process { member, change: Change::Ended { how } }));
                reports.push((at, Report::Lost { member, why: "it is gone".into() }));
            }
            What::Tells(event) => reports.push((at, Report::Telemetry { member, event })),
            What::Looks(look) => reports.push((at, Report::Looked { member, look })),
            What::Harm(line) => reports.push((at, Report::Nemesis { line })),
            What::Did(line) => reports.push((at, Report::Did { line })),
        }
    }
    if let Some(what) = film.broken {
        reports.push((Millis(end), Report::Note { text: format!("the simulator's judge: {what}") }));
    }
    Recording::new(record, reports)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::promises::Promise;
    use crate::lab::recording::Replay;
    use crate::planted;
    use crate::planted::Bug;

    fn script(seconds: u64) -> Script {
        Script { seed: 7, members: 3, seconds, forks: Vec::new(), deeds: Vec::new() }
    }

    #[test]
    fn a_simulated_run_is_drawn_and_keeps_its_promises() {
        let mut replay = Replay::new(play(&script(10)).1);
        let (mut led, mut went_down, mut watched) = (false, false, false);
        for place in 0..=replay.len() {
            replay.seek(place);
            led |= replay.picture.leader().is_some();
            went_down |= replay.picture.members.iter().any(|m| m.is_down());
            watched |= replay.picture.watchers().count() > 0 && !replay.picture.tape.is_empty();
        }
        assert!(led, "nobody ever leads");
        assert!(watched, "nobody ever watches");
        let promises = &replay.picture.promises;
        assert_eq!(promises.broken().count(), 0, "{:#?}", promises.breaches());
        for promise in [Promise::OneLeader, Promise::OneVote, Promise::LogsMatch, Promise::CommittedStays] {
            assert!(promises.count(promise).0 > 0, "{promise:?} was not looked at");
        }
        assert!(went_down || replay.picture.feed.iter().any(|line| line.text.contains("fault: ")));
    }

    #[test]
    fn a_fork_and_a_deed_forget_later_ones_and_a_deed_can_be_taken_back() {
        let start = Script { forks: vec![(1_000, 1), (5_000, 2)], ..script(10) };
        assert_eq!(fork(&start, Millis(3_000), 9).forks, [(1_000, 1), (3_000, 9)]);
        let put = Act::Put { key: "a".into(), value: "1".into() };
        let done = with_deed(&start, Millis(2_000), Act::Kill(1), "kill m1".into());
        assert_eq!(done.forks, [(1_000, 1)]);
        let both = with_deed(&done, Millis(4_000), put, "put a 1".into());
        assert_eq!((both.deeds.len(), fork(&both, Millis(3_000), 9).deeds.len()), (2, 1));
        assert_eq!(without_last(&both), Some((done.clone(), "put a 1".into())));
        assert_eq!(without_last(&start), None);
    }

    #[test]
    fn the_data_screen_asks_the_history_as_it_stood() {
        let version = |key: &str, revision: i64, n: i64, value: &str, is_deleted: bool| film::Version {
            key: key.into(),
            value: value.into(),
            create_revision: revision + 1 - n,
            mod_revision: revision,
            version: n,
            lease: 0,
            is_deleted,
        };
        let history = [
            version("a/x", 2, 1, "one", false),
            version("a/x", 3, 2, "two", false),
            version("b", 4, 1, "b", false),
            version("a/x", 5, 0, "", true),
            version("a/x", 6, 1, "new", false),
        ];
        let list = |newest, at, prefix: &str| {
            let ask = Ask::List { prefix: prefix.into(), from: Vec::new(), at };
            let Shown::Listing(listing) = answer(&history, newest, 0, &ask) else { panic!("a listing") };
            listing.rows.iter().map(|row| String::from_utf8_lossy(&row.key).into_owned()).collect::<Vec<_>>()
        };
        assert_eq!(list(6, 0, ""), ["a/", "b"]);
        assert_eq!(list(6, 0, "a/"), ["a/x"]);
        assert_eq!((list(6, 5, ""), list(3, 0, "")), (vec!["b".to_owned()], vec!["a/".to_owned()]));
        let key = |newest, floor, at| {
            let Shown::Key(key) = answer(&history, newest, floor, &Ask::Key { key: "a/x".into(), at }) else {
                panic!("a key")
            };
            key.versions.into_iter().map(|v| v.mod_revision).collect::<Vec<_>>()
        };
        assert_eq!((key(6, 0, 0), key(4, 0, 0), key(6, 0, 2)), (vec![6], vec![3, 2], vec![2]));
        assert_eq!(key(4, 3, 0), [3], "what is compacted is not there");
        assert!(matches!(answer(&history, 6, 4, &Ask::Key { key: "b".into(), at: 2 }), Shown::Failed(_)));
    }

    #[test]
    fn a_plan_that_finds_a_planted_bug_shrinks_to_what_finds_it() {
        let step = |at_ms, line: &str| {
            let names = ["m0", "m1", "m2"].map(String::from);
            Step { at_ms, deed: Deed::parse(line, &names).expect(line) }
        };
        // Who hears from nobody asks whether it could win, and the bug has others say yes though they hear from their leader: if its log
        // is as long as theirs, which is so in some seed.
        let cycle = |n: u64| {
            let at = 300 + 1_000 * n;
            [step(at - 100, "slow-disk m0 50ms"), step(at, "cut m0 m1"), step(at, "cut m2 m1"), step(at + 600, "heal")]
        };
        let plan: Vec<Step> = (0..3).flat_map(cycle).collect();
        assert_eq!(broken_by(7, 3, &plan), None, "without a bug nothing is found");
        planted::plant(Some(Bug::PreVoteDespiteLeader));
        let seed = (0..30).find(|seed| broken_by(*seed, 3, &plan).is_some());
        let least = seed.map(|seed| nemesis::shrink(plan.clone(), |p| broken_by(seed, 3, p).is_some()));
        let rule = seed.zip(least.as_ref()).and_then(|(seed, least)| broken_by(seed, 3, least));
        planted::plant(None);
        let least = least.expect("a seed finds it");
        assert!(!least.is_empty() && least.len() < plan.len() / 2, "{least:?}");
        assert!(rule.expect("it breaks it again").contains("would vote for"));
    }
}
