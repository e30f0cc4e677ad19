//! What a learner can do to a cluster: each deed is one line that can be pasted, and names its undo.
//!
//! The one idea: menus, the command line and `etcd-lab fault …` in another terminal all make the same [`Deed`], which
//! [`crate::lab::board`] turns into orders.
//!
//! ```text
//! "partition n1,n2 | n3"  ─parse─▶  Deed  ─Board::decide─▶  orders  +  undo
//!        ▲                            │
//!        └───────────line─────────────┘
//! ```

use crate::lab::Action;
use crate::lab::Picture;
use crate::lab::files::Job;
use crate::lab::files::Part;
use crate::lab::misfit::Misfit;
use crate::lab::nemesis;
use crate::lab::picture::Process;

/// What is done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Deed {
    /// To a member's process.
    Process { member: usize, action: Action },
    /// It asks for votes now.
    Campaign { member: usize },
    /// All election timers run out together.
    Align,
    /// Each election timer runs out well after the one before.
    Spread,
    /// Messages pass inside a group only. Who is in no group is alone.
    Partition(Vec<Vec<usize>>),
    /// One way, or with `Link::default()` no longer.
    Link { from: usize, to: usize, link: Link },
    /// All links as they were made.
    Heal,
    /// Every sync takes so much longer.
    SlowDisk { member: usize, ms: u64 },
    /// Its disk is full, fails, or works.
    Disk { member: usize, disk: Disk },
    /// It ends at once, and what its log has not synced is gone.
    Power { member: usize },
    /// Clients' calls wait before it, or come in.
    Clients { member: usize, cut: bool },
    /// To the files of a member that is down.
    Files { member: usize, job: Job },
    /// It starts anew with a configuration that does not do; `None`: with its own.
    Config { member: usize, misfit: Option<Misfit> },
    /// Of a lab with `--etcd`: from now on it runs our server, or etcd again, on the data that it has.
    Program { member: usize, ours: bool },
    /// Its clock on the wall is so many seconds ahead; 0: right.
    Wall { member: usize, seconds: i64 },
    /// Faults from a seed, one after the other.
    Nemesis { seed: u64, seconds: u64 },
    /// The nemesis ends now, and all is mended.
    Calm,
    /// The lab's clock stands still on all members.
    Hold,
    /// It goes, so many times slower than the world's.
    Go { slower: u32 },
    /// While it is held: one tick, of one member or of all.
    Tick { member: Option<usize> },
    /// While it is held: this message reaches its receiver.
    Deliver { member: usize, id: u64 },
    /// While it is held: this message is lost.
    Lose { member: usize, id: u64 },
}

/// What the log's disk does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disk {
    Good,
    Full,
    Failing,
}

/// What happens to messages one way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Link {
    pub cut: bool,
    pub loss_percent: u32,
    pub delay_ms: u64,
}

/// Every word of the command line: its arguments and what it does.
pub const WORDS: &[(&str, &str, &str)] = &[
    ("kill", "n1", "kill -9: it dies without a word"),
    ("power", "n1", "power is lost: it dies, and what was not synced is gone"),
    ("stop", "n1", "SIGSTOP: it stands still, its sockets stay open"),
    ("cont", "n1", "SIGCONT: it goes on"),
    ("term", "n1", "SIGTERM: it hands leadership over and ends"),
    ("start", "n1", "start it again, with the data that it has"),
    ("campaign", "n1", "it asks for votes now"),
    ("align", "", "all election timers run out together"),
    ("spread", "", "election timers run out one after the other"),
    ("partition", "n1,n2 | n3", "messages pass inside a group only"),
    ("cut", "n1 n2", "nothing passes from n1 to n2; the other way is open"),
    ("delay", "n1 n2 200ms", "messages from n1 to n2 take so much longer"),
    ("loss", "n1 n2 30%", "so many of the messages from n1 to n2 are lost"),
    ("heal", "", "all links as before"),
    ("slow-disk", "n1 200ms", "every sync of its log takes so much longer; 0ms: no more"),
    ("full-disk", "n1", "its disk takes no more: it ends at its next write"),
    ("failing-disk", "n1", "its disk fails: it ends at its next sync"),
    ("good-disk", "n1", "its disk works again"),
    ("cut-clients", "n1", "what clients ask of it waits before its door; members reach it"),
    ("let-clients", "n1", "clients reach it again"),
    ("rot", "n1 log", "down: one bit of its log turns over; or of its store"),
    ("mend", "n1", "down: the bit as it was"),
    ("wipe", "n1", "down: its data is gone (moved aside)"),
    ("unwipe", "n1", "down: its data is back"),
    (
        "bad-config",
        "n1 unknown-flag",
        "it starts anew with a bad configuration (Tab lists them), or with --tls a bad certificate",
    ),
    ("good-config", "n1", "it starts anew with its own configuration"),
    ("ours", "n1", "with --etcd: our server takes etcd's place there, on its data; it is seen whole"),
    ("theirs", "n1", "with --etcd: etcd goes on with it again"),
    ("clock-offset", "n1 +90s", "its clock on the wall is so far ahead (-: behind); 0s: right again"),
    ("nemesis", "7 for 60s", "faults from this seed, alone or two at once, each mended; then all is whole"),
    ("calm", "", "the nemesis ends now, and all is mended"),
    ("hold", "", "hold the lab's clock: ticks, leases and messages wait"),
    ("go", "", "the clock goes on as fast as the world's"),
    ("slow", "50", "the clock goes so many times slower, 1 to 1000"),
    ("tick", "n1", "held: one tick of one member; without a name, of all"),
    ("deliver", "n1 7", "held: message 7 that waits at n1 arrives"),
    ("drop", "n1 7", "held: message 7 that waits at n1 is lost"),
];

impl Deed {
    /// Reads a line of [`WORDS`]; `names` are the members'.
    ///
    /// # Errors
    /// A sentence that says what would be right.
    pub fn parse(line: &str, names: &[String]) -> Result<Deed, String> {
        let line = line.trim();
        // What was shown for a shell may be pasted here as well.
        let line = line.strip_prefix("etcd-lab fault ").unwrap_or(line);
        let (word, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        let args: Vec<&str> = rest.split_whitespace().collect();
        let usage = WORDS.iter().find(|w| w.0 == word);
        let (_, shape, _) = usage.ok_or_else(|| format!("{word:?} is no fault; they are {}", all_words()))?;
        let wrong = || format!("write it like this: {word} {shape}");
        let member = |text: &str| place(text, names);
        let process = |action| Ok(Deed::Process { member: member(only(&args).ok_or_else(wrong)?)?, action });
        let none = |deed| if args.is_empty() { Ok(deed) } else { Err(wrong()) };
        match word {
            "kill" => process(Action::Kill),
            "power" => Ok(Deed::Power { member: member(only(&args).ok_or_else(wrong)?)? }),
            "stop" => process(Action::Pause),
            "cont" => process(Action::Continue),
            "term" => process(Action::Stop),
            "start" => process(Action::Restart),
            "campaign" => Ok(Deed::Campaign { member: member(only(&args).ok_or_else(wrong)?)? }),
            "align" => none(Deed::Align),
            "spread" => none(Deed::Spread),
            "heal" => none(Deed::Heal),
            "calm" => none(Deed::Calm),
            "nemesis" => started(&args).ok_or_else(wrong),
            "hold" => none(Deed::Hold),
            "go" => none(Deed::Go { slower: 1 }),
            "slow" => match only(&args).and_then(|n| n.parse().ok()) {
                Some(slower @ 1..=1000) => Ok(Deed::Go { slower }),
                _ => Err(wrong()),
            },
            "partition" => partition(&rest.replace('\'', ""), names),
            "cut" | "delay" | "loss" => link(word, &args, names).ok_or_else(wrong)?,
            "slow-disk" => match args[..] {
                [name, time] => Ok(Deed::SlowDisk { member: member(name)?, ms: millis(time).ok_or_else(wrong)? }),
                _ => Err(wrong()),
            },
            "full-disk" | "failing-disk" | "good-disk" | "cut-clients" | "let-clients" | "rot" | "mend" | "wipe"
            | "unwipe" | "bad-config" | "good-config" | "ours" | "theirs" | "clock-offset" => {
                inside(word, &args, names).ok_or_else(wrong)?
            }
            "tick" if args.is_empty() => Ok(Deed::Tick { member: None }),
            "tick" => Ok(Deed::Tick { member: Some(member(only(&args).ok_or_else(wrong)?)?) }),
            _ => match args[..] {
                [name, id] => {
                    let (member, id) = (member(name)?, id.parse().map_err(|_| wrong())?);
                    Ok(if word == "deliver" { Deed::Deliver { member, id } } else { Deed::Lose { member, id } })
                }
                _ => Err(wrong()),
            },
        }
    }

    /// The line that [`Deed::parse`] reads as this deed.
    #[must_use]
    pub fn line(&self, names: &[String]) -> String {
        let name = |m: &usize| names.get(*m).cloned().unwrap_or_default();
        match self {
            Deed::Process { member, action } => {
                let word = match action {
                    Action::Kill => "kill",
                    Action::Pause => "stop",
                    Action::Continue => "cont",
                    Action::Stop => "term",
                    Action::Restart => "start",
                };
                format!("{word} {}", name(member))
            }
            Deed::Campaign { member } => format!("campaign {}", name(member)),
            Deed::Align => "align".into(),
            Deed::Spread => "spread".into(),
            Deed::Partition(groups) => {
                let group = |g: &Vec<usize>| g.iter().map(name).collect::<Vec<_>>().join(",");
                format!("partition {}", groups.iter().map(group).collect::<Vec<_>>().join(" | "))
            }
            Deed::Link { from, to, link } => {
                let way = format!("{} {}", name(from), name(to));
                match link {
                    Link { cut: true, .. } => format!("cut {way}"),
                    Link { loss_percent: 0, delay_ms, .. } => format!("delay {way} {delay_ms}ms"),
                    Link { loss_percent, .. } => format!("loss {way} {loss_percent}%"),
                }
            }
            Deed::Heal => "heal".into(),
            Deed::SlowDisk { member, ms } => format!("slow-disk {} {ms}ms", name(member)),
            Deed::Disk { member, disk } => {
                let word = match disk {
                    Disk::Good => "good-disk",
                    Disk::Full => "full-disk",
                    Disk::Failing => "failing-disk",
                };
                format!("{word} {}", name(member))
            }
            Deed::Power { member } => format!("power {}", name(member)),
            Deed::Clients { member, cut } => format!("{}-clients {}", if *cut { "cut" } else { "let" }, name(member)),
            Deed::Files { member, job } => match job {
                Job::Rot(Part::Log) => format!("rot {} log", name(member)),
                Job::Rot(Part::Store) => format!("rot {} store", name(member)),
                Job::Mend => format!("mend {}", name(member)),
                Job::Wipe => format!("wipe {}", name(member)),
                Job::Unwipe => format!("unwipe {}", name(member)),
            },
            Deed::Config { member, misfit: Some(misfit) } => format!("bad-config {} {}", name(member), misfit.word()),
            Deed::Config { member, misfit: None } => format!("good-config {}", name(member)),
            Deed::Program { member, ours: true } => format!("ours {}", name(member)),
            Deed::Program { member, ours: false } => format!("theirs {}", name(member)),
            Deed::Wall { member, seconds: 0 } => format!("clock-offset {} 0s", name(member)),
            Deed::Wall { member, seconds } => format!("clock-offset {} {seconds:+}s", name(member)),
            Deed::Nemesis { seed, seconds } => format!("nemesis {seed} for {seconds}s"),
            Deed::Calm => "calm".into(),
            Deed::Hold => "hold".into(),
            Deed::Go { slower: 1 } => "go".into(),
            Deed::Go { slower } => format!("slow {slower}"),
            Deed::Tick { member: None } => "tick".into(),
            Deed::Tick { member: Some(member) } => format!("tick {}", name(member)),
            Deed::Deliver { member, id } => format!("deliver {} {id}", name(member)),
            Deed::Lose { member, id } => format!("drop {} {id}", name(member)),
        }
    }

    /// What a shell would say for it, where a shell could.
    #[must_use]
    pub fn shell(&self, picture: &Picture) -> String {
        let names: Vec<String> = picture.members.iter().map(|m| m.name.clone()).collect();
        let pid = |member: &usize| match picture.members.get(*member).map(|m| &m.process) {
            Some(Process::Running { pid } | Process::Paused { pid, .. }) => Some(*pid),
            _ => None,
        };
        let line = pasted(&self.line(&names));
        // Of what is done to a file there is no shell's line: it is found when it is done.
        let signal = match self {
            Deed::Process { member, action } => {
                let signal = match action {
                    Action::Kill => Some("-9"),
                    Action::Pause => Some("-STOP"),
                    Action::Continue => Some("-CONT"),
                    Action::Stop => Some("-TERM"),
                    Action::Restart => None,
                };
                let there = if picture.is_elsewhere { ", on its machine" } else { "" };
                signal.and_then(|s| Some(format!("kill {s} {}{there}", pid(member)?)))
            }
            _ => None,
        };
        signal.map_or(line.clone(), |signal| format!("{line}   (shell: {signal})"))
    }
}

/// A deed's line as a shell takes it: groups are quoted, since a shell has another use for the bar between them.
#[must_use]
pub fn pasted(line: &str) -> String {
    match line.split_once(' ') {
        Some((word, groups)) if groups.contains('|') => format!("etcd-lab fault {word} '{groups}'"),
        _ => format!("etcd-lab fault {line}"),
    }
}

/// A word as a shell takes it: quoted, if it must be.
#[must_use]
pub fn quoted(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=@%+,".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', "'\\''"))
}

fn all_words() -> String {
    WORDS.iter().map(|w| w.0).collect::<Vec<_>>().join(", ")
}

fn only<'a>(args: &[&'a str]) -> Option<&'a str> {
    if let [one] = args { Some(one) } else { None }
}

fn place(text: &str, names: &[String]) -> Result<usize, String> {
    names.iter().position(|n| n == text).ok_or_else(|| format!("{text:?} is no member; they are {}", names.join(", ")))
}

fn millis(text: &str) -> Option<u64> {
    text.strip_suffix("ms").unwrap_or(text).parse().ok().filter(|ms| *ms <= 10_000)
}

/// A clock that is further off than ten years is nobody's.
const WALL_MAX: i64 = 10 * 365 * 86_400;

/// `+90s`, `-2h`, `0s`, in seconds.
fn offset(text: &str) -> Option<i64> {
    let unit = text.chars().last()?;
    let scale = [('s', 1), ('m', 60), ('h', 3_600), ('d', 86_400)].into_iter().find(|(name, _)| *name == unit)?.1;
    let count: i64 = text.strip_suffix(unit)?.parse().ok()?;
    count.checked_mul(scale).filter(|seconds| seconds.abs() <= WALL_MAX)
}

/// `7`, `7 60s`, `7 for 60s`.
fn started(args: &[&str]) -> Option<Deed> {
    let (seed, time) = match args {
        [seed] => (seed, None),
        [seed, time] | [seed, "for", time] => (seed, Some(time)),
        _ => return None,
    };
    let seconds = time.map_or(Some(nemesis::SECONDS as i64), |time| offset(time))?;
    let seconds = u64::try_from(seconds).ok().filter(|s| (nemesis::SECONDS_MIN..=nemesis::SECONDS_MAX).contains(s))?;
    Some(Deed::Nemesis { seed: seed.parse().ok()?, seconds })
}

fn partition(rest: &str, names: &[String]) -> Result<Deed, String> {
    let group =
        |text: &str| text.split(',').map(str::trim).filter(|n| !n.is_empty()).map(|n| place(n, names)).collect();
    let groups = rest.split('|').map(group).collect::<Result<Vec<Vec<usize>>, String>>()?;
    let mut seen: Vec<usize> = groups.iter().flatten().copied().collect();
    let count = seen.len();
    seen.sort_unstable();
    seen.dedup();
    match (groups.iter().any(Vec::is_empty), seen.len() == count) {
        (true, _) => Err("write it like this: partition n1,n2 | n3".into()),
        (_, false) => Err("a member is in one group only".into()),
        _ => Ok(Deed::Partition(groups)),
    }
}

/// What is done inside a member, or to its files.
fn inside(word: &str, args: &[&str], names: &[String]) -> Option<Result<Deed, String>> {
    let disk = |disk| move |member| Deed::Disk { member, disk };
    let (name, deed): (_, Box<dyn Fn(usize) -> Deed>) = match (word, args) {
        ("full-disk", [name]) => (name, Box::new(disk(Disk::Full))),
        ("failing-disk", [name]) => (name, Box::new(disk(Disk::Failing))),
        ("good-disk", [name]) => (name, Box::new(disk(Disk::Good))),
        ("cut-clients" | "let-clients", [name]) => {
            let cut = word == "cut-clients";
            (name, Box::new(move |member| Deed::Clients { member, cut }))
        }
        ("bad-config", [name, misfit]) => {
            let misfit = Some(Misfit::named(misfit)?);
            (name, Box::new(move |member| Deed::Config { member, misfit }))
        }
        ("good-config", [name]) => (name, Box::new(|member| Deed::Config { member, misfit: None })),
        ("ours" | "theirs", [name]) => {
            let ours = word == "ours";
            (name, Box::new(move |member| Deed::Program { member, ours }))
        }
        ("clock-offset", [name, off]) => {
            let seconds = offset(off)?;
            (name, Box::new(move |member| Deed::Wall { member, seconds }))
        }
        (_, [name, ..]) => {
            let job = match (word, &args[1..]) {
                ("rot", ["log"]) => Job::Rot(Part::Log),
                ("rot", ["store"]) => Job::Rot(Part::Store),
                ("mend", []) => Job::Mend,
                ("wipe", []) => Job::Wipe,
                ("unwipe", []) => Job::Unwipe,
                _ => return None,
            };
            (name, Box::new(move |member| Deed::Files { member, job }))
        }
        _ => return None,
    };
    Some(place(name, names).map(deed))
}

fn link(word: &str, args: &[&str], names: &[String]) -> Option<Result<Deed, String>> {
    let (from, to, link) = match (word, args) {
        ("cut", [from, to]) => (from, to, Link { cut: true, ..Link::default() }),
        ("delay", [from, to, time]) => (from, to, Link { delay_ms: millis(time)?, ..Link::default() }),
        ("loss", [from, to, part]) => {
            let loss_percent = part.trim_end_matches('%').parse().ok().filter(|p| *p <= 100)?;
            (from, to, Link { loss_percent, ..Link::default() })
        }
        _ => return None,
    };
    let made = place(from, names).and_then(|from| Ok((from, place(to, names)?)));
    Some(made.and_then(|(from, to)| match from == to {
        true => Err("a link has two ends".into()),
        false => Ok(Deed::Link { from, to, link }),
    }))
}

#[cfg(test)]
#[path = "deed_tests.rs"]
mod tests;
