//! What the lab has put in force: a deed becomes orders for members, and what takes it back.
//!
//! Nothing here touches a process or a socket. A member that starts anew knows of nothing that is in force: [`Board::greet`] tells it.

use crate::lab::Action;
use crate::lab::Deed;
use crate::lab::Picture;
use crate::lab::deed::Disk;
use crate::lab::deed::Link;
use crate::lab::files::Job;
use crate::lab::misfit::Misfit;
use crate::lab::nemesis::Nemesis;
use crate::lab::nemesis::Turn;
use crate::lab::picture::Process;
use crate::lab::upstream::NO_DOOR;
use crate::proto::lab;
use crate::proto::lab::control_request::Action as Control;
use std::collections::BTreeMap;
use std::collections::BTreeSet;

/// What one member, or its process, is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Order {
    Process { member: usize, action: Action },
    Control { member: usize, control: Control },
    Files { member: usize, job: Job },
    Config { member: usize, misfit: Option<Misfit> },
    Program { member: usize, ours: bool },
}

/// What takes a deed back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Undo {
    Do(Deed),
    Links(BTreeMap<(usize, usize), Link>),
}

/// Orders, and what takes them back; or why not.
pub type Decided = Result<(Vec<Order>, Option<Undo>), String>;

/// What the lab has put in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Board {
    pub held: bool,
    pub slower: u32,
    pub links: BTreeMap<(usize, usize), Link>,
    /// How much longer each sync takes, in milliseconds.
    pub disks: BTreeMap<usize, u64>,
    /// Disks that are full or fail.
    pub bad_disks: BTreeMap<usize, Disk>,
    /// Members that clients do not reach.
    pub no_clients: BTreeSet<usize>,
    /// Members that start with a configuration that does not do.
    pub misfits: BTreeMap<usize, Misfit>,
    /// Members that our server is, in a lab of upstream etcd.
    pub ours: BTreeSet<usize>,
    /// By how many seconds members' clocks on the wall are ahead.
    pub walls: BTreeMap<usize, i64>,
    /// Faults from a seed that go on.
    pub nemesis: Option<Nemesis>,
}

/// What the nemesis does now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Move {
    /// These orders; the line says which fault they are, or what it is at.
    Orders { line: String, orders: Vec<Order> },
    /// Its client writes this value.
    Put(String),
    /// Its client reads.
    Get,
}

impl Default for Board {
    fn default() -> Board {
        Board {
            held: false,
            slower: 1,
            links: BTreeMap::new(),
            disks: BTreeMap::new(),
            bad_disks: BTreeMap::new(),
            no_clients: BTreeSet::new(),
            misfits: BTreeMap::new(),
            ours: BTreeSet::new(),
            walls: BTreeMap::new(),
            nemesis: None,
        }
    }
}

impl Board {
    /// Puts a deed in force.
    ///
    /// # Errors
    /// Why it does not fit now, in a sentence.
    pub fn decide(&mut self, deed: &Deed, picture: &Picture) -> Decided {
        if !picture.is_upstream() {
            return self.weigh(deed, picture);
        }
        // What needs a door is not done, and must not seem to be.
        let mut tried = self.clone();
        let decided = tried.weigh(deed, picture)?;
        let needs_door = decided.0.iter().any(|order| matches!(order, Order::Control { .. }));
        if needs_door || matches!(deed, Deed::Nemesis { .. }) {
            return Err(NO_DOOR.into());
        }
        *self = tried;
        Ok(decided)
    }

    fn weigh(&mut self, deed: &Deed, picture: &Picture) -> Decided {
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
            Deed::Partition(groups) => self.part(groups, picture),
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
                self.disks.retain(|_, ms| *ms > 0);
                Ok((vec![self.disk_order(*member)], undo_do(Deed::SlowDisk { member: *member, ms: before })))
            }
            Deed::Disk { member, disk } => self.set_disk(*member, *disk, picture),
            Deed::Power { member } => lose_power(*member, picture),
            Deed::Clients { member, cut } => self.set_clients(*member, *cut, picture),
            Deed::Files { member, job } => files(picture, *member, *job),
            Deed::Config { member, misfit } => self.configure(*member, *misfit, picture),
            Deed::Program { member, ours } => self.set_program(*member, *ours, picture),
            Deed::Wall { member, seconds } => self.set_wall(*member, *seconds, picture),
            Deed::Nemesis { seed, seconds } => self.begin(*seed, *seconds, picture),
            Deed::Calm => {
                self.nemesis.as_mut().ok_or("no nemesis goes on")?.end(picture.now);
                Ok((Vec::new(), None))
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

    fn part(&mut self, groups: &[Vec<usize>], picture: &Picture) -> Decided {
        let before = self.links.clone();
        let group = |m: usize| groups.iter().position(|g| g.contains(&m)).unwrap_or(usize::MAX - m);
        for (from, to) in pairs(picture.members.len()) {
            self.links.entry((from, to)).or_default().cut = group(from) != group(to);
        }
        Ok((self.relinked(&before, picture)?, Some(Undo::Links(before))))
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

    /// What the nemesis does by now, if one goes on; called until there is nothing.
    pub fn turn(&mut self, picture: &Picture) -> Option<Move> {
        let mut nemesis = self.nemesis.take()?;
        let turn = nemesis.next(picture);
        let (age, all) = nemesis.age(picture.now);
        let seed = nemesis.seed;
        self.nemesis = Some(nemesis);
        let names = picture.member_names();
        Some(match turn? {
            Turn::Put(value) => Move::Put(value),
            Turn::Get => Move::Get,
            Turn::Deed(deed) => {
                let line = deed.line(&names);
                match self.decide(&deed, picture) {
                    Ok((orders, _)) => {
                        if let Some(nemesis) = &mut self.nemesis {
                            nemesis.at = Some(line.clone());
                        }
                        Move::Orders { line: format!("nemesis {seed}, {age} of {all} s: {line}"), orders }
                    }
                    Err(why) => {
                        let line = format!("nemesis {seed}, {age} of {all} s: not {line} ({why})");
                        Move::Orders { line, orders: Vec::new() }
                    }
                }
            }
            Turn::Mend | Turn::GiveUp if self.is_mended(picture) => {
                self.nemesis = None;
                Move::Orders { line: format!("nemesis {seed} has ended, and all is whole"), orders: Vec::new() }
            }
            Turn::Mend => Move::Orders { line: format!("nemesis {seed} is over: mending"), orders: self.mend(picture) },
            Turn::GiveUp => {
                self.nemesis = None;
                let line =
                    format!("nemesis {seed} has ended, and somebody is still down: press y on the Cluster screen");
                Move::Orders { line, orders: Vec::new() }
            }
        })
    }

    /// Whether nothing is broken, and a nemesis may begin.
    fn is_whole(&self, picture: &Picture) -> Result<(), String> {
        if let Some(nemesis) = &self.nemesis {
            return Err(format!("nemesis {} goes on: end it first (calm)", nemesis.seed));
        }
        (0..picture.members.len()).try_for_each(|member| runs(picture, member))?;
        match self.held || self.slower != 1 {
            true => Err("let the clock go as fast as the world's first (go)".into()),
            false if !self.is_mended(picture) || !self.misfits.is_empty() => {
                Err("mend what is broken first (u, or heal)".into())
            }
            false => Ok(()),
        }
    }

    /// Whether nothing is broken but what a learner has configured so.
    fn is_mended(&self, picture: &Picture) -> bool {
        let is_up = |m: usize| runs(picture, m).is_ok() || self.misfits.contains_key(&m);
        let disks = self.disks.values().all(|ms| *ms == 0) && self.bad_disks.is_empty();
        let rest = self.links.is_empty() && self.no_clients.is_empty() && self.walls.is_empty();
        disks && rest && (0..picture.members.len()).all(is_up)
    }

    /// Orders that mend everything but configurations.
    fn mend(&mut self, picture: &Picture) -> Vec<Order> {
        let links = std::mem::take(&mut self.links);
        let mut orders = self.relinked(&links, picture).unwrap_or_default();
        let disks: BTreeSet<usize> = std::mem::take(&mut self.disks)
            .into_keys()
            .chain(std::mem::take(&mut self.bad_disks).into_keys())
            .collect();
        let clients = std::mem::take(&mut self.no_clients);
        let walls = std::mem::take(&mut self.walls);
        let up = |m: &usize| runs(picture, *m).is_ok();
        orders.extend(disks.into_iter().filter(up).map(|m| self.disk_order(m)));
        let let_in = Control::SetClients(lab::SetClients { cut: false });
        orders.extend(clients.into_iter().filter(up).map(|member| Order::Control { member, control: let_in }));
        orders.extend(walls.into_keys().filter(up).map(|m| self.wall_order(m)));
        for (member, m) in picture.members.iter().enumerate() {
            let action = match m.process {
                Process::Paused { .. } => Action::Continue,
                Process::Ended { .. } if !self.misfits.contains_key(&member) => Action::Restart,
                _ => continue,
            };
            orders.push(Order::Process { member, action });
        }
        orders
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
        if self.disks.get(&member).is_some_and(|ms| *ms > 0) || self.bad_disks.contains_key(&member) {
            orders.push(self.disk_order(member));
        }
        if self.no_clients.contains(&member) {
            orders.push(Order::Control { member, control: Control::SetClients(lab::SetClients { cut: true }) });
        }
        if self.walls.contains_key(&member) {
            orders.push(self.wall_order(member));
        }
        orders
    }

    /// The links that are not as they were made: from, to, rule.
    pub fn broken(&self) -> impl Iterator<Item = (usize, usize, Link)> + '_ {
        let open = Link::default();
        self.links.iter().filter(move |(_, l)| **l != open).map(|((from, to), l)| (*from, *to, *l))
    }

    /// The sides of a partition: `None` if links are broken in another way, or not at all.
    #[must_use]
    pub fn sides(&self, members: usize) -> Option<Vec<Vec<usize>>> {
        let cut = Link { cut: true, ..Link::default() };
        if self.broken().next().is_none() || self.broken().any(|(_, _, link)| link != cut) {
            return None;
        }
        let mut sides: Vec<Vec<usize>> = Vec::new();
        for member in 0..members {
            match sides.iter_mut().find(|side| !self.way(side[0], member).cut) {
                Some(side) => side.push(member),
                None => sides.push(vec![member]),
            }
        }
        let side = |m: usize| sides.iter().position(|side| side.contains(&m));
        pairs(members).all(|(a, b)| self.way(a, b).cut == (side(a) != side(b))).then_some(sides)
    }

    /// What is broken on purpose, in a few words each.
    #[must_use]
    pub fn in_force(&self, names: &[String]) -> Vec<String> {
        let name = |m: usize| names.get(m).map_or("?", String::as_str);
        let link = |(from, to, l): (usize, usize, Link)| match (l.cut, l.loss_percent, l.delay_ms) {
            (true, ..) => format!("{}→{} cut", name(from), name(to)),
            (_, 0, ms) => format!("{}→{} +{ms} ms", name(from), name(to)),
            (_, percent, _) => format!("{}→{} loses {percent}%", name(from), name(to)),
        };
        let mut words: Vec<String> = match self.sides(names.len()) {
            Some(sides) => vec![format!("split {}", side_words(&sides, names))],
            None => self.broken().map(link).collect(),
        };
        words.extend(self.disks.iter().filter(|(_, ms)| **ms > 0).map(|(m, ms)| format!("{} disk +{ms} ms", name(*m))));
        let bad = |disk| if disk == Disk::Full { "disk full" } else { "disk fails" };
        words.extend(self.bad_disks.iter().map(|(m, disk)| format!("{} {}", name(*m), bad(*disk))));
        words.extend(self.no_clients.iter().map(|m| format!("{} without clients", name(*m))));
        words.extend(self.misfits.iter().map(|(m, misfit)| format!("{} with {}", name(*m), misfit.word())));
        words.extend(self.walls.iter().map(|(m, seconds)| format!("{} clock {seconds:+} s", name(*m))));
        words
    }

    /// What a learner who does not know any more what was done should read: what is in force, what comes of it, and what ends it.
    #[must_use]
    pub fn explained(&self, names: &[String]) -> Vec<String> {
        let name = |m: usize| names.get(m).map_or("?", String::as_str);
        let others = Board { misfits: BTreeMap::new(), walls: BTreeMap::new(), ..self.clone() };
        let mut lines: Vec<String> = others.in_force(names).into_iter().map(|words| format!("  {words}")).collect();
        for (m, misfit) in &self.misfits {
            let (what, comes) = (misfit.what(), misfit.comes());
            lines.push(format!("  {} runs with {what}: {comes}. It ends with: good-config {}", name(*m), name(*m)));
        }
        for (m, seconds) in &self.walls {
            lines.push(format!(
                "  {}'s clock on the wall is {seconds:+} s off: raft goes by ticks and does not mind; certificates and tokens do. The members \
                 compare clocks every 30 s and log it. It ends with: clock-offset {} 0s",
                name(*m),
                name(*m)
            ));
        }
        lines
    }

    /// All that is ordered of a member's disk.
    fn disk_order(&self, member: usize) -> Order {
        let disk = self.bad_disks.get(&member);
        let set = lab::SetDisk {
            sync_delay_us: self.disks.get(&member).copied().unwrap_or(0) * 1000,
            full: disk == Some(&Disk::Full),
            failing: disk == Some(&Disk::Failing),
        };
        Order::Control { member, control: Control::SetDisk(set) }
    }

    fn set_disk(&mut self, member: usize, disk: Disk, picture: &Picture) -> Decided {
        let is_up = runs(picture, member);
        if disk == Disk::Good {
            self.bad_disks.remove(&member);
            // One that has ended by it starts with a disk that works.
            let orders = if is_up.is_ok() { vec![self.disk_order(member)] } else { Vec::new() };
            return Ok((orders, None));
        }
        is_up?;
        let before = self.bad_disks.insert(member, disk).unwrap_or(Disk::Good);
        Ok((vec![self.disk_order(member)], Some(Undo::Do(Deed::Disk { member, disk: before }))))
    }

    fn configure(&mut self, member: usize, misfit: Option<Misfit>, picture: &Picture) -> Decided {
        let m = picture.members.get(member).ok_or("there is no such member")?;
        if misfit.is_some_and(Misfit::needs_others) && picture.members.len() == 1 {
            return Err(format!("{} is alone: there is nobody to refuse it", m.name));
        }
        if misfit.is_some_and(Misfit::is_of_tls) && !picture.is_tls {
            return Err("these members speak plain HTTP to each other: start the lab with --tls".into());
        }
        let before = match misfit {
            Some(misfit) => self.misfits.insert(member, misfit),
            None => self.misfits.remove(&member),
        };
        if misfit.is_none() && before.is_none() {
            return Err(format!("{} has its own configuration already", m.name));
        }
        let undo = misfit.map(|_| Undo::Do(Deed::Config { member, misfit: None }));
        Ok((vec![Order::Config { member, misfit }], undo))
    }

    /// Which program a member is, in a lab of upstream etcd. Whether it can be seen whole says nothing of that: it may be down, or start just now.
    fn set_program(&mut self, member: usize, ours: bool, picture: &Picture) -> Decided {
        let m = picture.members.get(member).ok_or("there is no such member")?;
        if !picture.has_upstream {
            return Err("all members are our own server here: start the lab with --etcd PATH".into());
        }
        let is_new = if ours { self.ours.insert(member) } else { self.ours.remove(&member) };
        if !is_new {
            return Err(format!("{} is {} already", m.name, if ours { "our server" } else { "etcd" }));
        }
        Ok((vec![Order::Program { member, ours }], Some(Undo::Do(Deed::Program { member, ours: !ours }))))
    }

    fn set_wall(&mut self, member: usize, seconds: i64, picture: &Picture) -> Decided {
        runs(picture, member)?;
        let before = self.walls.insert(member, seconds).unwrap_or(0);
        self.walls.retain(|_, seconds| *seconds != 0);
        let undo = (before != seconds).then_some(Undo::Do(Deed::Wall { member, seconds: before }));
        Ok((vec![self.wall_order(member)], undo))
    }

    fn begin(&mut self, seed: u64, seconds: u64, picture: &Picture) -> Decided {
        self.is_whole(picture)?;
        self.nemesis = Some(Nemesis::new(seed, picture.members.len(), seconds, picture.now));
        Ok((Vec::new(), Some(Undo::Do(Deed::Calm))))
    }

    fn wall_order(&self, member: usize) -> Order {
        let seconds = self.walls.get(&member).copied().unwrap_or(0);
        Order::Control { member, control: Control::SetWall(lab::SetWall { offset_ms: seconds * 1_000 }) }
    }

    fn set_clients(&mut self, member: usize, cut: bool, picture: &Picture) -> Decided {
        let is_up = runs(picture, member);
        if cut {
            is_up.clone()?;
            self.no_clients.insert(member);
        } else {
            self.no_clients.remove(&member);
        }
        let control = Control::SetClients(lab::SetClients { cut });
        let orders = if is_up.is_ok() { vec![Order::Control { member, control }] } else { Vec::new() };
        Ok((orders, cut.then_some(Undo::Do(Deed::Clients { member, cut: false }))))
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

/// `n1,n2 | n3`.
#[must_use]
pub fn side_words(sides: &[Vec<usize>], names: &[String]) -> String {
    let side = |side: &Vec<usize>| side.iter().filter_map(|m| names.get(*m).cloned()).collect::<Vec<_>>().join(",");
    sides.iter().map(side).collect::<Vec<_>>().join(" | ")
}

fn lose_power(member: usize, picture: &Picture) -> Decided {
    runs(picture, member)?;
    let undo = Undo::Do(Deed::Process { member, action: Action::Restart });
    Ok((vec![Order::Control { member, control: Control::PowerLoss(lab::PowerLoss {}) }], Some(undo)))
}

fn step(what: lab::step::What) -> Control {
    Control::Step(lab::Step { what: Some(what) })
}

fn pairs(n: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..n).flat_map(move |a| (0..n).filter(move |b| *b != a).map(move |b| (a, b)))
}

/// Files are touched only while nobody has them open.
fn files(picture: &Picture, member: usize, job: Job) -> Decided {
    let m = picture.members.get(member).ok_or("there is no such member")?;
    if !m.is_down() {
        return Err(format!("{} runs, and has its files open: kill it first", m.name));
    }
    let back = match job {
        Job::Rot(_) => Some(Job::Mend),
        Job::Wipe => Some(Job::Unwipe),
        Job::Mend | Job::Unwipe => None,
    };
    let undo = back.map(|job| Undo::Do(Deed::Files { member, job }));
    Ok((vec![Order::Files { member, job }], undo))
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
