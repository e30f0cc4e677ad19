//! The lab without a screen: `up` keeps a cluster running, `down` ends it, `show` tells what its members report.
//!
//! Each is a function of arguments and writers. Options are few, so they are read by hand: unknown ones are refused.

#![expect(clippy::disallowed_methods, reason = "measures the time since the start")]

use crate::lab::Cluster;
use crate::lab::Error;
use crate::lab::Picture;
use crate::lab::SIZES;
use crate::lab::ask;
use crate::lab::board::Move;
use crate::lab::board::Order;
use crate::lab::course;
use crate::lab::course::Course;
use crate::lab::course::Typed;
use crate::lab::deed::pasted;
use crate::lab::guide::Lab;
use crate::lab::machines;
use crate::lab::machines::Found;
use crate::lab::nemesis;
use crate::lab::observe;
use crate::lab::observe::REPORTS_MAX;
use crate::lab::observe::Report;
use crate::lab::orders;
use crate::lab::orders::ASK_LEARN;
use crate::lab::orders::ASK_PROMISES;
use crate::lab::orders::Deeds;
use crate::lab::own_watch;
use crate::lab::picture::Process;
use crate::lab::picture::Tone;
use crate::lab::picture::json::SCREENS;
use crate::lab::picture::json::plain;
use crate::lab::picture::words::counted;
use crate::lab::preflight;
use crate::lab::preflight::PORTS;
use crate::lab::preflight::Plan;
use crate::lab::progress::Progress;
use crate::lab::recording::Recording;
use crate::lab::recording::Replay;
use crate::lab::shell::note_clock;
use crate::lab::store;
use crate::lab::survey;
use crate::lab::survey::Since;
use crate::lab::twin;
use crate::lab::upstream;
use crate::lab::workdir::Running;
use crate::lab::workdir::read_token;
use crate::types::Millis;
use rustix::process::Pid;
use rustix::process::Signal;
use std::io::Write;
use std::ops::RangeInclusive;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;
use std::time::Instant;
use tokio::signal::unix::SignalKind;
use tokio::signal::unix::signal;
use tokio::sync::mpsc;
use tokio::sync::oneshot;
use tokio::time::timeout;

/// How long `show` waits for members that do not answer.
const SHOW: Duration = Duration::from_millis(1_500);
/// How often a nemesis is asked what comes next.
const NEMESIS_EVERY: Duration = Duration::from_millis(100);
/// How long `down` waits for a clean end.
const DOWN: Duration = Duration::from_secs(15);

/// Options that the lab's commands share.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// `--etcd PATH`: upstream etcd as the members.
    pub etcd: Option<PathBuf>,
    /// `--sim`: a simulated cluster; `--seed N`, `--seconds N`.
    pub sim: bool,
    pub seed: Option<u64>,
    pub seconds: Option<u64>,
    /// `--tls`: members speak TLS to each other.
    pub tls: bool,
    /// `--machines 3` or names: where the members are, and who was reached by that.
    pub machines: Option<String>,
    pub found: Option<Found>,
    /// `--nodes N`.
    pub nodes: Option<usize>,
    /// `--folder PATH`.
    pub folder: Option<PathBuf>,
    /// `--rm`: remove the folder at the end.
    pub remove: bool,
    /// `--feed`: print what happens.
    pub feed: bool,
    /// `--json`.
    pub json: bool,
    /// `--plain`: no screen.
    pub plain: bool,
    /// What is typed is for the course.
    pub course: bool,
    /// `--ascii`: 7-bit characters only.
    pub ascii: bool,
    /// `--theme NAME`.
    pub theme: Option<String>,
    /// `--lab NAME`: which lab the Learn screen has.
    pub lab: Option<String>,
    /// `--step N`: at which of its steps the learner begins.
    pub step: Option<usize>,
    /// What stands after `--`.
    pub command: Vec<String>,
}

impl Options {
    /// Reads options; `allowed` names those that the command knows.
    ///
    /// # Errors
    /// For an unknown option or a bad value, in a sentence.
    pub fn parse(args: &[String], allowed: &[&str]) -> Result<Options, Error> {
        let mut options = Options::default();
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            let (name, inline) = arg.split_once('=').map_or((arg.as_str(), None), |(n, v)| (n, Some(v.to_string())));
            if !allowed.contains(&name) {
                let known = if allowed.is_empty() { "none".to_string() } else { allowed.join(" ") };
                return Err(Error::Usage(format!("unknown argument {arg:?}; known here: {known}")));
            }
            let mut value = |what: &str| {
                let given = inline.clone().or_else(|| args.next().cloned());
                given.ok_or_else(|| Error::Usage(format!("{name} needs {what}")))
            };
            match name {
                "--nodes" => options.nodes = Some(nodes(&value("1, 3 or 5")?)?),
                "--etcd" => options.etcd = Some(value("the path of an etcd")?.into()),
                "--machines" => options.machines = Some(value("a number, or names with commas between them")?),
                "--folder" => options.folder = Some(value("a path")?.into()),
                "--theme" => options.theme = Some(value("dark, light, contrast or mono")?),
                "--lab" => options.lab = Some(value("a lab's name, such as E3")?),
                "--step" => options.step = Some(number(name, &value("a step's number")?, 1..=99)? as usize),
                "--sim" => options.sim = true,
                "--seed" => options.seed = Some(number(name, &value("a number")?, 0..=u64::MAX)?),
                "--seconds" => options.seconds = Some(number(name, &value("a number")?, 1..=600)?),
                "--rm" => options.remove = true,
                "--tls" => options.tls = true,
                "--feed" => options.feed = true,
                "--json" => options.json = true,
                "--plain" => options.plain = true,
                "--ascii" => options.ascii = true,
                _ => options.command = args.by_ref().cloned().collect(),
            }
        }
        Ok(options)
    }
}

impl Options {
    /// Reaches the machines that were named, if any were, and has them have an etcd, unless this lab begins without. Says what it did there.
    ///
    /// # Errors
    /// A machine that cannot be reached or is not ready; an option that is about members of this one.
    pub fn reach_machines(&mut self, lab: &Lab, out: &mut dyn Write) -> Result<(), Error> {
        let Some(wanted) = &self.machines else { return Ok(()) };
        if self.etcd.is_some() || self.tls || self.nodes.is_some() || self.sim {
            let why =
                "--etcd, --tls, --nodes and --sim are about members of this machine: leave them away with --machines";
            return Err(Error::Usage(why.into()));
        }
        let mut found = machines::reach(wanted, &lab.head)?;
        if !lab.head.cluster.machines
            && let Some(said) = found.give_etcd()?
        {
            print(out, &said)?;
        }
        self.found = Some(found);
        Ok(())
    }

    /// What to start: so many members, or those of a kept folder, or nothing but what leads to members on machines.
    ///
    /// # Errors
    /// As [`preflight::plan`].
    pub fn plan(&self, nodes: usize, kept: Option<&Path>) -> Result<Plan, Error> {
        let folder = kept.or(self.folder.as_deref());
        if let Some(found) = &self.found {
            return found.plan(folder);
        }
        let mut plan = preflight::plan(nodes, folder, &PORTS)?;
        plan.with_etcd(self.etcd.as_deref())?;
        plan.with_tls(self.tls)?;
        Ok(plan)
    }
}

fn number(name: &str, text: &str, range: RangeInclusive<u64>) -> Result<u64, Error> {
    let n = text.parse().ok().filter(|n| range.contains(n));
    n.ok_or_else(|| Error::Usage(format!("{name} is {text:?}, but can be {} to {}", range.start(), range.end())))
}

fn nodes(text: &str) -> Result<usize, Error> {
    let n = text.parse().ok().filter(|n| SIZES.contains(n));
    n.ok_or_else(|| Error::Usage(format!("--nodes is {text:?}, but a lab has 1, 3 or 5 members")))
}

/// Prints a recording's feed, line by line: what a screen reader gets of it.
///
/// # Errors
/// If nobody reads it.
pub fn print_feed(recording: Recording, out: &mut dyn Write) -> Result<(), Error> {
    let mut replay = Replay::new(recording);
    let mut told = 0;
    for place in 1..=replay.len() {
        replay.seek(place);
        // The feed forgets its oldest lines: each is printed when it comes.
        while told < replay.picture.told {
            let back = usize::try_from(replay.picture.told - told).unwrap_or(usize::MAX);
            let feed = &replay.picture.feed;
            if let Some(line) = feed.len().checked_sub(back).and_then(|i| feed.get(i)) {
                print(out, &format!("{} {}", clock(line.at), line.text))?;
            }
            told += 1;
        }
    }
    Ok(())
}

/// `etcd-lab up [--nodes N|--machines N] [--folder PATH] [--etcd PATH] [--tls] [--rm] [--feed]`: runs a cluster until it is interrupted.
pub fn up(args: &[String], out: &mut dyn Write, err: &mut dyn Write) -> u8 {
    let ran = Options::parse(args, &["--nodes", "--machines", "--folder", "--etcd", "--tls", "--rm", "--feed"])
        .and_then(|o| run_up(o, out));
    finish(ran, err)
}

/// `etcd-lab nemesis SEED [--nodes N] [--seconds N]`: plays a nemesis's plan in the simulation, and says which rule it breaks, and by how
/// little of it. Exit code 1 if one is broken.
pub fn shrink(args: &[String], out: &mut dyn Write, err: &mut dyn Write) -> u8 {
    let ran = (|| {
        let no = || Error::Usage("which seed? etcd-lab nemesis 7 [--nodes 3] [--seconds 60]".into());
        let (seed, rest) = args.split_first().ok_or_else(no)?;
        let seed = seed.parse().map_err(|_| no())?;
        let options = Options::parse(rest, &["--nodes", "--seconds"])?;
        let (nodes, seconds) = (options.nodes.unwrap_or(3), options.seconds.unwrap_or(nemesis::SECONDS));
        let plan = nemesis::plan(seed, nodes, seconds);
        let played = twin::script_of(seed, nodes, &plan).deeds.len().saturating_sub(1);
        let steps = counted(plan.len() as u64, "step", "steps");
        match twin::shrunk(seed, nodes, seconds) {
            None => {
                print(out, &format!("nemesis {seed}: {steps}, {played} of them in the simulation; no rule is broken"))
            }
            Some((least, rule)) => {
                let names: Vec<String> = (0..nodes).map(|n| format!("m{n}")).collect();
                print(out, &format!("BROKEN: {rule}\nof {steps} these {} suffice:", least.len()))?;
                for step in &least {
                    print(out, &format!("{:>7.1} s  {}", step.at_ms as f64 / 1000.0, step.deed.line(&names)))?;
                }
                Err(Error::Refused(format!("nemesis {seed} breaks a rule")))
            }
        }
    })();
    finish(ran, err)
}

/// `etcd-lab down [--folder PATH]`: ends the lab that runs in another terminal.
pub fn down(args: &[String], out: &mut dyn Write, err: &mut dyn Write) -> u8 {
    let ran = Options::parse(args, &["--folder"]).and_then(|o| run_down(&o, out));
    finish(ran, err)
}

/// `etcd-lab show [SCREEN] [--json] [--folder PATH]`: prints what a screen would show of the lab that runs, as plain lines or as JSON.
pub fn show(args: &[String], out: &mut dyn Write, err: &mut dyn Write) -> u8 {
    let (screen, rest) = match args.split_first() {
        Some((name, rest)) if !name.starts_with('-') => (name.as_str(), rest),
        _ => ("ring", args),
    };
    let ran = Options::parse(rest, &["--json", "--folder"]).and_then(|o| run_show(screen, &o, out));
    finish(ran, err)
}

/// Prints an error as etcd's tools do, and gives the exit code.
pub(crate) fn finish(ran: Result<(), Error>, err: &mut dyn Write) -> u8 {
    match ran {
        Ok(()) => 0,
        Err(e) => {
            drop(writeln!(err, "Error: {e}"));
            if matches!(e, Error::Usage(_)) { 2 } else { 1 }
        }
    }
}

/// Runs a cluster without a screen until a signal says to end it. Also what a terminal that cannot draw gets.
///
/// # Errors
/// If it cannot be started.
pub fn run_up(mut options: Options, out: &mut dyn Write) -> Result<(), Error> {
    if let Some(etcd) = &options.etcd {
        // Before there is a folder.
        upstream::check(etcd)?;
    }
    options.reach_machines(&course::chosen(options.lab.as_deref()).map_err(Error::Usage)?, out)?;
    let plan = options.plan(options.nodes.unwrap_or(3), None)?;
    for notice in &plan.notices {
        print(out, &format!("note: {notice}"))?;
    }
    let (to, reports) = mpsc::channel(REPORTS_MAX);
    let token = read_token(&plan.work.token_file())?;
    let runtime = observe::runtime()?;
    let program = own_program()?;
    let cluster = Cluster::start(plan, &program, to.clone())?;
    introduce(&cluster, out)?;
    let course = options
        .course
        .then(|| Course::new(options.lab.as_deref(), cluster.folder(), &cluster.record, Some(Progress::file())));
    let course = course.transpose();
    let mut course = course.map_err(Error::Refused)?;
    match (&mut course, options.step) {
        (Some(course), Some(step @ 2..)) => {
            print(out, &format!("step {step} is being set up: a fresh cluster, and the steps before on it"))?;
            runtime.block_on(course.begin_at(step)).into_iter().take(1).try_for_each(|line| print(out, &line))?;
        }
        (Some(course), Some(_)) => course.begin(),
        (Some(course), None) => course.welcome().into_iter().try_for_each(|said| print(out, said))?,
        (None, _) => {}
    }
    let on_machines = !cluster.record.machines.is_empty();
    if let (Some(course), true) = (&course, on_machines) {
        // Its page may be about how they come to have an etcd at all.
        course.page().iter().try_for_each(|line| print(out, line))?;
    }
    let watched = runtime.block_on(watch(&cluster, &token, (to, reports), options.feed, course, out));
    let last = if on_machines { "the members go on, on their machines" } else { "shutting the members down" };
    drop(print(out, last));
    let folder = cluster.folder().to_path_buf();
    match cluster.shutdown() {
        Some(work) if options.remove => work.remove()?,
        _ if on_machines => print(out, &format!("kept: {}", folder.display()))?,
        _ => print(out, &format!("kept: {} (continue with --folder, or delete it)", folder.display()))?,
    }
    watched
}

fn introduce(cluster: &Cluster, out: &mut dyn Write) -> Result<(), Error> {
    print(out, &format!("work folder: {}", cluster.folder().display()))?;
    for m in &cluster.record.members {
        print(out, &format!("{}  clients {}  peers {}  log {}", m.name, m.client_url, m.peer_url, m.log.display()))?;
    }
    print(out, &format!("export PATH={}:$PATH", cluster.folder().join("bin").display()))?;
    print(out, &format!("export ETCDCTL_ENDPOINTS={}", cluster.record.endpoints()))
}

async fn watch(
    cluster: &Cluster,
    token: &str,
    (to, mut reports): (mpsc::Sender<Report>, mpsc::Receiver<Report>),
    feed: bool,
    mut course: Option<Course>,
    out: &mut dyn Write,
) -> Result<(), Error> {
    let [mut interrupt, mut terminate, mut hangup] = ends()?;
    // All that a screen would have: promises are watched by it.
    let _observers = [
        observe::observe(&cluster.record, token, &to),
        survey::survey(&cluster.record, token, &to),
        own_watch::watch(&cluster.record, &to),
    ];
    let mut every = tokio::time::interval(NEMESIS_EVERY);
    let mut calls = 0;
    let (line, mut lines) = mpsc::channel(16);
    orders::serve(cluster.folder(), token, line)?;
    let mut deeds = Deeds::default();
    note_clock(cluster.folder(), &deeds.board)?;
    let mut picture = Picture::new(&cluster.record);
    let (start, mut led) = (Instant::now(), false);
    let mut typed = course.is_some().then(listen);
    loop {
        let report = tokio::select! {
            report = reports.recv() => report,
            Some(line) = lines.recv() => match by_course(line, course.as_ref()) {
                Some(line) => take(line, &mut deeds, &picture, cluster, token).await?,
                None => None,
            },
            Some(line) = next_line(&mut typed) => match typed_line(&line, course.as_mut(), out).await? {
                Typed::Leave => return Ok(()),
                Typed::Say(_) => None,
                Typed::Other(text) => take_typed(text, &mut deeds, &picture, cluster, token, out).await?,
            },
            _ = every.tick(), if deeds.board.nemesis.is_some() => None,
            _ = interrupt.recv() => return Ok(()),
            _ = terminate.recv() => return Ok(()),
            _ = hangup.recv() => return Ok(()),
        };
        picture.tick(Millis(start.elapsed().as_millis() as u64));
        if let Some(Report::Connected { member }) = report
            && let Err(why) = carry_out(cluster, token, deeds.board.greet(member, &picture)).await
        {
            picture.say(Tone::Bad, why);
        }
        report.into_iter().for_each(|r| picture.learn(r));
        while let Some(moved) = deeds.board.turn(&picture) {
            calls += 1;
            make(moved, calls, cluster, token, &to, &mut picture).await;
        }
        let said = std::mem::take(&mut picture.feed);
        // A broken promise is told to whoever runs a lab without a screen, too.
        for line in said.iter().filter(|line| feed || line.text.starts_with("BROKEN: ")) {
            print(out, &format!("{}  {}", clock(line.at), line.text))?;
        }
        if !led && let Some(leader) = picture.leader() {
            led = true;
            ready(&picture.members[leader].name, course.as_ref().filter(|_| !picture.is_elsewhere), out)?;
        }
        // A nemesis starts again whom it has killed.
        let are_gone = picture.members.iter().all(|m| matches!(m.process, Process::Ended { .. }));
        if are_gone && deeds.board.nemesis.is_none() && !picture.is_elsewhere {
            let log = cluster.record.members[0].log.display().to_string();
            return Err(Error::Refused(format!("all members have ended; the reason is in {log}")));
        }
    }
}

/// What ends a lab from outside.
fn ends() -> Result<[tokio::signal::unix::Signal; 3], Error> {
    let no_signals = |source| Error::System { what: "cannot listen to signals", source };
    let listen = |kind| signal(kind).map_err(no_signals);
    Ok([listen(SignalKind::interrupt())?, listen(SignalKind::terminate())?, listen(SignalKind::hangup())?])
}

/// Says that there is a leader, and where the learner is.
fn ready(leader: &str, course: Option<&Course>, out: &mut dyn Write) -> Result<(), Error> {
    print(out, &format!("ready: {leader} leads; end it with Ctrl-C or `etcd-lab down`"))?;
    course.into_iter().flat_map(Course::page).try_for_each(|line| print(out, &line))
}

/// Answers what only the course knows; any other line comes back.
fn by_course(line: orders::Line, course: Option<&Course>) -> Option<orders::Line> {
    match course.filter(|_| line.text.trim() == ASK_LEARN) {
        Some(course) => {
            // Who asked may be gone.
            drop(line.answer.send(Ok(course.to_json().to_string())));
            None
        }
        None => Some(line),
    }
}

/// Does what a line that was typed here says, and prints what is said to it.
async fn take_typed(
    text: String,
    deeds: &mut Deeds,
    picture: &Picture,
    cluster: &Cluster,
    token: &str,
    out: &mut dyn Write,
) -> Result<Option<Report>, Error> {
    let (answer, done) = oneshot::channel();
    let report = take(orders::Line { text, answer }, deeds, picture, cluster, token).await?;
    print(out, &done.await.unwrap_or_else(|_| Err("the lab ends".into())).unwrap_or_else(|why| why))?;
    Ok(report)
}

/// Lines that are typed. The end of them is no end of the lab: it may run without anybody at it.
fn listen() -> mpsc::Receiver<String> {
    let (to, lines) = mpsc::channel(16);
    // It ends with the process: nobody can be stopped from waiting for a terminal.
    std::thread::spawn(move || {
        for line in std::io::stdin().lines().map_while(Result::ok) {
            if to.blocking_send(line).is_err() {
                return;
            }
        }
    });
    lines
}

async fn next_line(typed: &mut Option<mpsc::Receiver<String>>) -> Option<String> {
    typed.as_mut()?.recv().await
}

/// Has the course take a line, and prints what it says.
async fn typed_line(line: &str, course: Option<&mut Course>, out: &mut dyn Write) -> Result<Typed, Error> {
    let Some(course) = course else { return Ok(Typed::Say(Vec::new())) };
    let typed = course.take(line).await;
    if let Typed::Say(lines) = &typed {
        lines.iter().try_for_each(|line| print(out, line))?;
    }
    Ok(typed)
}

/// Does what a line from another terminal says. What the feed tells of it, if it was done to anybody.
async fn take(
    line: orders::Line,
    deeds: &mut Deeds,
    picture: &Picture,
    cluster: &Cluster,
    token: &str,
) -> Result<Option<Report>, Error> {
    let decided = deeds.take(&line.text, picture);
    note_clock(cluster.folder(), &deeds.board)?;
    let told = match decided {
        Ok((said, list)) => carry_out(cluster, token, list).await.map(|()| said),
        Err(why) => Err(why),
    };
    // Who asked may be gone.
    drop(line.answer.send(told));
    Ok((![ASK_PROMISES, ASK_LEARN].contains(&line.text.trim())).then(|| Report::Did { line: pasted(&line.text) }))
}

/// Does what the nemesis wants.
async fn make(moved: Move, id: u64, cluster: &Cluster, token: &str, to: &mpsc::Sender<Report>, picture: &mut Picture) {
    let value = match moved {
        Move::Orders { line, orders } => {
            picture.learn(Report::Nemesis { line });
            if let Err(why) = carry_out(cluster, token, orders).await {
                picture.say(Tone::Bad, format!("not done: {why}"));
            }
            return;
        }
        Move::Put(value) => Some(value),
        Move::Get => None,
    };
    let (to, endpoints) = (to.clone(), picture.endpoints_from(id));
    tokio::spawn(async move { ask::call(&to, id, &endpoints, value).await });
}

async fn carry_out(cluster: &Cluster, token: &str, list: Vec<Order>) -> Result<(), String> {
    let mut controls = Vec::new();
    for order in list {
        match order {
            Order::Process { member, action } => cluster.act(member, action),
            Order::Control { member, control } => controls.push((member, control)),
            Order::Config { member, misfit } => cluster.configure(member, misfit),
            Order::Program { member, ours } => cluster.change_program(member, ours),
            Order::Files { member, job } => {
                cluster.change_files(member, job).map(drop).map_err(|e| e.to_string())?;
            }
        }
    }
    ask::carry_out(&cluster.record, token, controls).await
}

fn run_down(options: &Options, out: &mut dyn Write) -> Result<(), Error> {
    let running = Running::find(options.folder.as_deref(), &preflight::bases())?;
    let pid = i32::try_from(running.record.supervisor_pid).ok().and_then(Pid::from_raw).ok_or(Error::NotRunning)?;
    let system = |source| Error::System { what: "cannot end the lab", source };
    rustix::process::kill_process(pid, Signal::TERM).map_err(|e| system(e.into()))?;
    let deadline = Instant::now() + DOWN;
    while running.is_alive() {
        if Instant::now() > deadline {
            // Its members end with it: the kernel sees to that.
            rustix::process::kill_process(pid, Signal::KILL).map_err(|e| system(e.into()))?;
        }
        std::thread::sleep(Duration::from_millis(25));
    }
    print(out, &format!("ended the lab in {}", running.folder.display()))
}

fn run_show(screen: &str, options: &Options, out: &mut dyn Write) -> Result<(), Error> {
    let no_screen = || {
        Error::Usage(format!(
            "there is no screen {screen:?}; they are {}",
            [&["learn"], &SCREENS[..]].concat().join(", ")
        ))
    };
    let running = Running::find(options.folder.as_deref(), &preflight::bases())?;
    let mut json = match screen {
        "promises" => told(&running, ASK_PROMISES)?,
        "learn" => told(&running, ASK_LEARN)?,
        _ => seen(&running, screen)?.screen_json(screen).ok_or_else(no_screen)?,
    };
    json["folder"] = running.folder.display().to_string().into();
    match options.json {
        true => print(out, &format!("{json:#}")),
        false => plain(&json).iter().try_for_each(|line| print(out, line)),
    }
}

/// What only the lab that runs knows: what it has seen of the promises, and where its learner is.
fn told(running: &Running, ask: &str) -> Result<serde_json::Value, Error> {
    let token = running.token()?;
    let said = observe::runtime()?.block_on(orders::send(&running.folder, &token, ask))?;
    serde_json::from_str(&said).map_err(|e| Error::Refused(format!("the lab's answer is no JSON: {e}")))
}

/// The picture for one screen.
fn seen(running: &Running, screen: &str) -> Result<Picture, Error> {
    observe::runtime()?.block_on(async {
        let token = running.token()?;
        let mut picture = glance(running, &token).await;
        for (member, m) in running.record.members.iter().enumerate() {
            for report in survey::ask(member, m, &token, &mut Since::default()).await {
                picture.learn(report);
            }
        }
        if screen == "data" {
            let urls: Vec<String> = running.record.members.iter().map(|m| m.client_url.clone()).collect();
            let all = store::Ask::List { prefix: Vec::new(), from: Vec::new(), at: 0 };
            picture.learn(Report::Shown(Box::new(store::ask(&urls, all).await)));
        }
        Ok(picture)
    })
}

/// Listens until every member that can be reached has said what it knows.
async fn glance(running: &Running, token: &str) -> Picture {
    let (to, mut reports) = mpsc::channel(REPORTS_MAX);
    let _observers = observe::observe(&running.record, token, &to);
    let mut picture = Picture::new(&running.record);
    for (view, m) in picture.members.iter_mut().zip(&running.record.members) {
        // Its supervisor wrote the pid down, and that it has none.
        view.process = match m.pid {
            0 => Process::Ended { how: "not running".into(), since: Millis(0) },
            pid => Process::Running { pid },
        };
    }
    let mut answered = vec![false; picture.members.len()];
    let start = Instant::now();
    while let Ok(Some(report)) = timeout(SHOW.saturating_sub(start.elapsed()), reports.recv()).await {
        picture.tick(Millis(start.elapsed().as_millis() as u64));
        match &report {
            Report::Telemetry { member, .. } | Report::Lost { member, .. } => answered[*member] = true,
            _ => {}
        }
        picture.learn(report);
        if answered.iter().all(|a| *a) {
            break;
        }
    }
    picture
}

/// This executable, from which members are started.
///
/// # Errors
/// If the system does not tell.
pub fn own_program() -> Result<PathBuf, Error> {
    std::env::current_exe().map_err(|source| Error::System { what: "cannot find my own executable", source })
}

/// `00:41.2` since the lab's start.
#[must_use]
pub fn clock(at: Millis) -> String {
    let tenths = at.0 / 100;
    format!("{:02}:{:02}.{}", tenths / 600, tenths / 10 % 60, tenths % 10)
}

fn print(out: &mut dyn Write, line: &str) -> Result<(), Error> {
    let written = writeln!(out, "{line}").and_then(|()| out.flush());
    written.map_err(|source| Error::System { what: "cannot print", source })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Options, String> {
        let args: Vec<String> = line.split_whitespace().map(String::from).collect();
        Options::parse(&args, &["--nodes", "--folder", "--rm"]).map_err(|e| e.to_string())
    }

    #[test]
    fn options_are_read_or_refused_in_a_sentence() {
        assert_eq!(parse("--nodes 5").map(|o| o.nodes), Ok(Some(5)));
        assert_eq!(parse("--nodes=1 --rm").map(|o| (o.nodes, o.remove)), Ok((Some(1), true)));
        assert_eq!(parse("--nodes 4"), Err("--nodes is \"4\", but a lab has 1, 3 or 5 members".into()));
        assert_eq!(parse("--nodes"), Err("--nodes needs 1, 3 or 5".into()));
        assert!(parse("--fast").expect_err("unknown").contains("unknown argument \"--fast\""));
    }

    #[test]
    fn the_clock_counts_minutes_seconds_and_tenths() {
        assert_eq!(clock(Millis(61_250)), "01:01.2");
    }
}
