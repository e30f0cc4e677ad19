//! What a learner can do to a cluster: each deed is one line that can be pasted, and names its undo.
//!
//! The one idea: menus, the command line and `etcd-lab fault …` in another terminal all make the same [`Deed`]; [`Board`] knows what is in
//! force, turns a deed into [`Order`]s for members, and gives back what undoes it. Nothing here touches a process or a socket.
//!
//! ```text
//! "partition n1,n2 | n3"  ─parse─▶  Deed  ─Board::decide─▶  orders  +  undo
//!        ▲                            │
//!        └───────────line─────────────┘
//! ```

use crate::lab::Action;
use crate::lab::Picture;
use crate::lab::picture::Process;
use crate::proto::lab;
use crate::proto::lab::control_request::Action as Control;
use std::collections::BTreeMap;

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
            "stop" => process(Action::Pause),
            "cont" => process(Action::Continue),
            "term" => process(Action::Stop),
            "start" => process(Action::Restart),
            "campaign" => Ok(Deed::Campaign { member: member(only(&args).ok_or_else(wrong)?)? }),
            "align" => none(Deed::Align),
            "spread" => none(Deed::Spread),
            "heal" => none(Deed::Heal),
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
        let signal = match self {
            Deed::Process { member, action } => {
                let signal = match action {
                    Action::Kill => Some("-9"),
                    Action::Pause => Some("-STOP"),
                    Action::Continue => Some("-CONT"),
                    Action::Stop => Some("-TERM"),
                    Action::Restart => None,
                };
                signal.and_then(|s| Some(format!("kill {s} {}", pid(member)?)))
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

/// What one member, or its process, is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Order {
    Process { member: usize, action: Action },
    Control { member: usize, control: Control },
}

/// What takes a deed back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Undo {
    Do(Deed),
    Links(BTreeMap<(usize, usize), Link>),
}

/// What the lab has put in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Board {
    pub held: bool,
    pub slower: u32,
    pub links: BTreeMap<(usize, usize), Link>,
    pub disks: BTreeMap<usize, u64>,
}

impl Default for Board {
    fn default() -> Board {
        Board { held: false, slower: 1, links: BTreeMap::new(), disks: BTreeMap::new() }
    }
}

impl Board {
    /// Puts a deed in force.
    ///
    /// # Errors
    /// Why it does not fit now, in a sentence.
    pub fn decide(&mut self, deed: &Deed, picture: &Picture) -> Result<(Vec<Order>, Option<Undo>), String> {
        let everyone = 0..picture.members.len();
        let control = |member, control| Order::Control { member, control };
        let undo_do = |deed| Some(Undo::Do(deed));
        match deed {
            Deed::Process { member, action } => {
                let undo = fits(picture, *member, *action)?;
                Ok((
                    vec![Order::Process { member: *member, action: *action }],
                    undo.map(|action| Undo::Do(Deed::Process { member: *member, action })),
                ))
            }
            Deed::Campaign { member } => {
                runs(picture, *member)?;
                Ok((vec![control(*member, Control::Campaign(lab::Campaign {}))], None))
            }
            Deed::Align | Deed::Spread => {
                let ticks = |i: usize| if *deed == Deed::Align { 12 } else { 12 + 8 * i as u32 };
                let set = |i| control(i, Control::SetTimer(lab::SetTimer { timeout_ticks: ticks(i) }));
                Ok((everyone.filter(|i| runs(picture, *i).is_ok()).map(set).collect(), None))
            }
            Deed::Partition(groups) => {
                let before = self.links.clone();
                let group = |m: usize| groups.iter().position(|g| g.contains(&m)).unwrap_or(usize::MAX - m);
                for (from, to) in pairs(picture.members.len()) {
                    self.links.entry((from, to)).or_default().cut = group(from) != group(to);
                }
                Ok((self.relinked(&before, picture)?, Some(Undo::Links(before))))
            }
            Deed::Link { from, to, link } => {
                let before = self.links.clone();
                self.links.insert((*from, *to), *link);
                Ok((self.relinked(&before, picture)?, Some(Undo::Links(before))))
            }
            Deed::Heal => {
                let before = std::mem::take(&mut self.links);
                Ok((self.relinked(&before, picture)?, Some(Undo::Links(before))))
            }
            Deed::SlowDisk { member, ms } => {
                runs(picture, *member)?;
                let before = self.disks.insert(*member, *ms).unwrap_or(0);
                let set = Control::SetDisk(lab::SetDisk { sync_delay_us: ms * 1000 });
                Ok((vec![control(*member, set)], undo_do(Deed::SlowDisk { member: *member, ms: before })))
            }
            Deed::Hold => Ok(self.set_clock(true, self.slower, picture)),
            Deed::Go { slower } => Ok(self.set_clock(false, *slower, picture)),
            Deed::Tick { member } => {
                self.must_be_held()?;
                let whom = |i: &usize| member.is_none_or(|m| m == *i) && runs(picture, *i).is_ok();
                let step = |i| control(i, step(lab::step::What::Tick(true)));
                Ok((everyone.filter(whom).map(step).collect(), None))
            }
            Deed::Deliver { member, id } => {
                self.must_be_held()?;
                Ok((vec![control(*member, step(lab::step::What::Deliver(*id)))], None))
            }
            Deed::Lose { member, id } => {
                self.must_be_held()?;
                Ok((vec![control(*member, step(lab::step::What::Drop(*id)))], None))
            }
        }
    }

    /// Holding is undone by letting go; a speed is set back with the keys that set it.
    fn set_clock(&mut self, held: bool, slower: u32, picture: &Picture) -> (Vec<Order>, Option<Undo>) {
        let undo = (held && !self.held).then_some(Undo::Do(Deed::Go { slower: self.slower }));
        (self.held, self.slower) = (held, slower);
        let running = (0..picture.members.len()).filter(|i| runs(picture, *i).is_ok());
        (running.map(|member| Order::Control { member, control: self.clock() }).collect(), undo)
    }

    /// Takes a deed back.
    ///
    /// # Errors
    /// As [`Board::decide`].
    pub fn undo(&mut self, undo: Undo, picture: &Picture) -> Result<Vec<Order>, String> {
        match undo {
            Undo::Do(deed) => self.decide(&deed, picture).map(|(orders, _)| orders),
            Undo::Links(links) => {
                let before = std::mem::replace(&mut self.links, links);
                self.relinked(&before, picture)
            }
        }
    }

    /// What a member must be told that has started anew: it knows of nothing that is in force.
    #[must_use]
    pub fn greet(&self, member: usize, picture: &Picture) -> Vec<Order> {
        let mut orders = Vec::new();
        if self.held || self.slower != 1 {
            orders.push(Order::Control { member, control: self.clock() });
        }
        for peer in (0..picture.members.len()).filter(|p| *p != member) {
            if let (false, Some(order)) = (self.is_open(member, peer), self.link_order(member, peer, picture)) {
                orders.push(order);
            }
        }
        if let Some(ms) = self.disks.get(&member).filter(|ms| **ms > 0) {
            let control = Control::SetDisk(lab::SetDisk { sync_delay_us: ms * 1000 });
            orders.push(Order::Control { member, control });
        }
        orders
    }

    /// The links that are not as they were made: from, to, rule.
    pub fn broken(&self) -> impl Iterator<Item = (usize, usize, Link)> + '_ {
        let open = Link::default();
        self.links.iter().filter(move |(_, l)| **l != open).map(|((from, to), l)| (*from, *to, *l))
    }

    fn must_be_held(&self) -> Result<(), String> {
        if self.held { Ok(()) } else { Err("the clock runs: hold it first (space, or :hold)".into()) }
    }

    fn clock(&self) -> Control {
        Control::SetClock(lab::SetClock { held: self.held, slower: self.slower })
    }

    fn way(&self, from: usize, to: usize) -> Link {
        self.links.get(&(from, to)).copied().unwrap_or_default()
    }

    fn is_open(&self, a: usize, b: usize) -> bool {
        self.way(a, b) == Link::default() && !self.way(b, a).cut
    }

    /// One member's rule about one peer: what goes out by its own rule, what comes in by the other's cut.
    fn link_order(&self, member: usize, peer: usize, picture: &Picture) -> Option<Order> {
        let out = self.way(member, peer);
        let rule = lab::SetLink {
            peer: picture.members.get(peer)?.id?,
            cut_out: out.cut,
            cut_in: self.way(peer, member).cut,
            drop_out_percent: out.loss_percent,
            delay_out_us: out.delay_ms * 1000,
        };
        Some(Order::Control { member, control: Control::SetLink(rule) })
    }

    /// Orders for all links that differ from `before`. On an error nothing has changed.
    fn relinked(&mut self, before: &BTreeMap<(usize, usize), Link>, picture: &Picture) -> Result<Vec<Order>, String> {
        let old = Board { links: before.clone(), ..Board::default() };
        let mut orders = Vec::new();
        for (a, b) in pairs(picture.members.len()) {
            if old.way(a, b) == self.way(a, b) && old.way(b, a).cut == self.way(b, a).cut {
                continue;
            }
            match self.link_order(a, b, picture) {
                Some(order) if runs(picture, a).is_ok() => orders.push(order),
                // It is told when it starts.
                Some(_) => {}
                None => {
                    self.links = old.links;
                    return Err(format!("{} has not said its id yet", picture.members[b].name));
                }
            }
        }
        self.links.retain(|_, l| *l != Link::default());
        Ok(orders)
    }
}

fn step(what: lab::step::What) -> Control {
    Control::Step(lab::Step { what: Some(what) })
}

fn pairs(n: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..n).flat_map(move |a| (0..n).filter(move |b| *b != a).map(move |b| (a, b)))
}

fn runs(picture: &Picture, member: usize) -> Result<(), String> {
    let m = picture.members.get(member).ok_or("there is no such member")?;
    match m.process {
        Process::Ended { .. } => Err(format!("{} is down: start it first", m.name)),
        Process::Paused { .. } => Err(format!("{} stands still (SIGSTOP): it hears nothing", m.name)),
        Process::Running { .. } | Process::Unknown => Ok(()),
    }
}

/// Whether an action makes sense for a member's process now, and what undoes it.
fn fits(picture: &Picture, member: usize, action: Action) -> Result<Option<Action>, String> {
    let m = picture.members.get(member).ok_or("there is no such member")?;
    let name = &m.name;
    match (action, m.is_down(), m.is_paused()) {
        (Action::Kill | Action::Stop | Action::Pause, true, _) => Err(format!("{name} is down already")),
        (Action::Pause, _, true) => Err(format!("{name} stands still already")),
        (Action::Continue, _, false) => Err(format!("{name} does not stand still: there is nothing to continue")),
        (Action::Kill | Action::Stop, ..) => Ok(Some(Action::Restart)),
        (Action::Pause, ..) => Ok(Some(Action::Continue)),
        (Action::Continue | Action::Restart, ..) => Ok(None),
    }
}

#[cfg(test)]
#[path = "deed_tests.rs"]
mod tests;
