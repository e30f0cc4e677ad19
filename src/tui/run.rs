//! The only part of the interface that touches the world: terminal, clock, signals, processes.
//!
//! One loop: take what came in (keys, reports, answers, the tick), let `update` have it, do what it asks for, draw at most ten times a
//! second and only if something changed. The terminal is restored and the members are ended however the loop ends: by a
//! key, a signal, an error, or a panic.

#![expect(clippy::disallowed_methods, reason = "drives the interface with real time")]

mod labs;

use crate::lab::Cluster;
use crate::lab::Error;
use crate::lab::Report;
use crate::lab::SIZES;
use crate::lab::ask;
use crate::lab::board::Order;
use crate::lab::course;
use crate::lab::deed::quoted;
use crate::lab::guide;
use crate::lab::guide::Lab;
use crate::lab::observe;
use crate::lab::observe::REPORTS_MAX;
use crate::lab::orders;
use crate::lab::own_watch;
use crate::lab::picture::Pace;
use crate::lab::preflight;
use crate::lab::preflight::Screen;
use crate::lab::progress::Progress;
use crate::lab::recording::Recorder;
use crate::lab::recording::Recording;
use crate::lab::recording::Replay;
use crate::lab::shell;
use crate::lab::store;
use crate::lab::survey;
use crate::lab::twin;
use crate::lab::up;
use crate::lab::up::Options;
use crate::lab::upstream;
use crate::lab::workdir::Kept;
use crate::sim::film::Script;
use crate::tui::Cmd;
use crate::tui::Model;
use crate::tui::Msg;
use crate::tui::act;
use crate::tui::keyboard::Keyboard;
use crate::tui::keys::Key;
use crate::tui::learn;
use crate::tui::look::Theme;
use crate::tui::update;
use crate::tui::view;
use crate::types::Millis;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use crossterm::event::DisableMouseCapture;
use crossterm::event::EnableMouseCapture;
use ratatui::DefaultTerminal;
use std::ffi::OsString;
use std::fs;
use std::io::IsTerminal as _;
use std::io::Write;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;
use std::time::Instant;
use std::time::SystemTime;
use tokio::signal::unix::SignalKind;
use tokio::signal::unix::signal;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

/// A frame takes at least so long: ten a second.
const FRAME: Duration = Duration::from_millis(100);
/// How fast a simulated cluster is shown at first, in hundredths.
const SIMULATED_PERCENT: u64 = 25;
/// Letters of a value that are shown when it was read.
const VALUE_SHOWN: usize = 60;
/// What happened, in the work folder.
const RECORDING: &str = "last.labrec";
/// What happened the time before.
const RECORDED_BEFORE: &str = "before.labrec";
/// Reports that are taken in before keys are looked at again.
const AT_ONCE: usize = 256;

/// `etcd-lab [--folder PATH] [--etcd PATH] [--tls] [--ascii] [--theme dark|light|contrast|mono] [--plain]`: opens the interface. Where nothing can be drawn (no
/// terminal, a dumb one) a cluster of three runs with its feed as plain text.
pub fn run(args: &[String], out: &mut dyn Write, err: &mut dyn Write) -> u8 {
    match open(args, out) {
        Ok(last) => {
            drop(out.write_all(last.as_bytes()));
            0
        }
        Err(e) => {
            drop(writeln!(err, "Error: {e}"));
            if matches!(e, Error::Usage(_)) { 2 } else { 1 }
        }
    }
}

/// `etcd-lab replay FILE [--ascii] [--theme …]`: a recording on all screens; nothing runs.
pub fn replay(args: &[String], out: &mut dyn Write, err: &mut dyn Write) -> u8 {
    let opened = match args.split_first() {
        Some((file, rest)) if !file.starts_with('-') => {
            Recording::read(Path::new(file)).and_then(|recording| open_on(rest, Some(recording), out))
        }
        _ => {
            Err(Error::Usage("which recording? etcd-lab replay FILE (a lab writes last.labrec into its folder)".into()))
        }
    };
    match opened {
        Ok(_) => 0,
        Err(e) => {
            drop(writeln!(err, "Error: {e}"));
            if matches!(e, Error::Usage(_)) { 2 } else { 1 }
        }
    }
}

fn open(args: &[String], out: &mut dyn Write) -> Result<String, Error> {
    open_on(args, None, out)
}

fn open_on(args: &[String], recording: Option<Recording>, out: &mut dyn Write) -> Result<String, Error> {
    let mut options = Options::parse(
        args,
        &[
            "--folder",
            "--etcd",
            "--sim",
            "--seed",
            "--seconds",
            "--nodes",
            "--ascii",
            "--theme",
            "--plain",
            "--tls",
            "--machines",
            "--lab",
            "--step",
        ],
    )?;
    let lab = course::can_begin(options.lab.as_deref(), options.step, options.folder.as_deref())?;
    elsewhere(&lab, &options)?;
    let script = simulated(&options)?;
    let (simulated, recording) = match script.as_ref().map(twin::play) {
        Some((twin, played)) => (Some(twin), Some(played)),
        None => (None, recording),
    };
    if let Some(etcd) = &options.etcd {
        // Before there is a screen or a folder.
        upstream::check(etcd)?;
    }
    let screen =
        Screen::detect(std::io::stdout().is_terminal() && std::io::stdin().is_terminal(), |n| std::env::var(n).ok());
    let theme = match options.theme.as_deref() {
        Some(name) => {
            Theme::named(name).ok_or_else(|| Error::Usage("--theme is dark, light, contrast or mono".into()))?
        }
        None if screen.colour => Theme::Dark,
        None => Theme::Mono,
    };
    if options.plain || !screen.full {
        if let Some(recording) = recording {
            return up::print_feed(recording, out).map(|()| String::new());
        }
        let who = if options.machines.is_some() { "" } else { "three members start, and " };
        drop(writeln!(out, "No screen to draw on: {who}what happens is told line by line. Ctrl-C ends it."));
        (options.feed, options.course) = (true, true);
        return up::run_up(options, out).map(|()| String::new());
    }
    options.reach_machines(&lab, out)?;
    let runtime = observe::runtime()?;
    let terminal = ratatui::try_init().map_err(|source| Error::System { what: "cannot use this terminal", source })?;
    let (asked, restore) = (options.lab.is_some().then_some(lab), Restore);
    let mut model = Model::new(theme, options.ascii || screen.ascii);
    model.twin = simulated;
    if let Some(recording) = recording {
        let is_simulated = model.twin.is_some();
        update(&mut model, Msg::Replay(Ok(Box::new(Replay::new(recording)))));
        if is_simulated {
            // Its ticks are five times as fast as a server's.
            model.play.percent = SIMULATED_PERCENT;
        }
    } else if options.folder.is_none() {
        model.kept = Kept::newest(&preflight::bases(), SystemTime::now());
    }
    let last = runtime.block_on(App::new(terminal, model, options).main(asked));
    drop(restore);
    last
}

/// A lab whose page has addresses runs where they are: this program once more, around which they have been made. It takes this process's place,
/// so its exit code is this one's, and a signal to this one is the lab's.
fn elsewhere(lab: &Lab, options: &Options) -> Result<(), Error> {
    if options.machines.is_some() {
        return Ok(());
    }
    let args: Vec<OsString> = std::env::args_os().skip(1).collect();
    let Some(mut again) = guide::enter_for(lab, &args).map_err(Error::Usage)? else { return Ok(()) };
    Err(Error::System { what: "cannot make the lab's networks", source: again.exec() })
}

/// What is to be simulated, if anything is.
fn simulated(options: &Options) -> Result<Option<Script>, Error> {
    let asks = options.seed.is_some() || options.seconds.is_some() || options.nodes.is_some();
    if !options.sim && asks {
        return Err(Error::Usage("--seed, --seconds and --nodes go with --sim".into()));
    }
    Ok(options.sim.then(|| Script {
        seed: options.seed.unwrap_or(1),
        members: options.nodes.unwrap_or(3),
        seconds: options.seconds.unwrap_or(twin::SECONDS),
        forks: Vec::new(),
        deeds: Vec::new(),
    }))
}

/// Gives the terminal back. After a panic the hook that ratatui installs has done it already; twice does no harm.
struct Restore;

impl Drop for Restore {
    fn drop(&mut self) {
        // Harmless where they were not ours.
        drop(clicks(false));
        ratatui::restore();
    }
}

/// This report, and those that wait behind it: so many at most, and each of them is the caller's to learn. What is left waits on.
fn taken(first: Option<Report>, waiting: &mut mpsc::Receiver<Report>) -> Vec<Report> {
    let more = std::iter::from_fn(|| waiting.try_recv().ok());
    first.into_iter().chain(more).take(AT_ONCE).collect()
}

/// Has the terminal hand on clicks, or keep them.
fn clicks(on: bool) -> Result<(), Error> {
    let done = match on {
        true => crossterm::execute!(std::io::stdout(), EnableMouseCapture),
        false => crossterm::execute!(std::io::stdout(), DisableMouseCapture),
    };
    done.map_err(|source| Error::System { what: "cannot write to the terminal", source })
}

/// Tells whoever sent a line what comes of it, or why nothing does. What is to be done.
fn answered(model: &mut Model, line: orders::Line) -> Option<Cmd> {
    let (said, cmd) = match act::order(model, &line.text) {
        Ok((said, cmd)) => (Ok(said), cmd),
        Err(why) => (Err(why), None),
    };
    // Who asked may be gone.
    drop(line.answer.send(said));
    cmd
}

/// A running cluster and those who listen to it.
struct Live {
    cluster: Cluster,
    token: String,
    _observers: [JoinSet<()>; 3],
}

struct App {
    terminal: DefaultTerminal,
    model: Model,
    options: Options,
    live: Option<Live>,
    keyboard: Keyboard,
    keys: mpsc::Receiver<Msg>,
    to: mpsc::Sender<Report>,
    reports: mpsc::Receiver<Report>,
    answer: mpsc::Sender<Msg>,
    answers: mpsc::Receiver<Msg>,
    line: mpsc::Sender<orders::Line>,
    lines: mpsc::Receiver<orders::Line>,
    recorder: Option<Recorder>,
    /// What the open lab has asked for: its blocks, its checks, a step that is set up.
    labours: JoinSet<()>,
    /// What the learner has done, and where it is kept; or why nothing is kept.
    progress: Result<(Progress, PathBuf), String>,
    /// Requests of the lab's own client so far.
    calls: u64,
    start: Instant,
    drawn: Option<Instant>,
}

impl App {
    fn new(terminal: DefaultTerminal, model: Model, options: Options) -> App {
        let (to, reports) = mpsc::channel(REPORTS_MAX);
        let (answer, answers) = mpsc::channel(64);
        let (pressed, keys) = mpsc::channel(64);
        let keyboard = Keyboard::listen(pressed);
        let (line, lines) = mpsc::channel(16);
        App {
            terminal,
            model,
            options,
            live: None,
            keyboard,
            keys,
            to,
            reports,
            answer,
            answers,
            line,
            lines,
            recorder: None,
            labours: JoinSet::new(),
            // What cannot be read is not written over either.
            progress: labs::known(&Progress::file()),
            calls: 0,
            start: Instant::now(),
            drawn: None,
        }
    }

    /// Runs until the user leaves. Returns what to print afterwards. `asked`: the lab that was asked for. If it has nodes of its own, nobody is
    /// asked how many members there are to be beside them.
    async fn main(mut self, asked: Option<Lab>) -> Result<String, Error> {
        let no_signals = |source| Error::System { what: "cannot listen to signals", source };
        let mut terminate = signal(SignalKind::terminate()).map_err(no_signals)?;
        let mut hangup = signal(SignalKind::hangup()).map_err(no_signals)?;
        let mut frames = tokio::time::interval(FRAME);
        frames.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        self.measure();
        self.model.wanted = asked.as_ref().map(|lab| format!("{} {}", lab.head.id, lab.title));
        if self.options.found.is_some() {
            // Who is there is no question.
            self.start_cluster(0, None);
        } else if asked.is_some_and(|lab| lab.head.needs_nodes()) && self.model.replay.is_none() {
            self.model.starting = true;
            self.start_cluster(SIZES[self.model.size], None);
        }
        loop {
            let msg = tokio::select! {
                Some(key) = self.keys.recv() => key,
                Some(answer) = self.answers.recv() => answer,
                Some(report) = self.reports.recv(), if self.hurries() => {
                    if let Some(remove) = self.hear(Some(report)).await? {
                        self.draw()?;
                        return self.leave(remove);
                    }
                    Msg::Tick(self.now())
                }
                Some(line) = self.lines.recv() => {
                    self.take_line(line).await?;
                    continue;
                }
                _ = frames.tick() => {
                    let first = self.reports.try_recv().ok();
                    if let Some(remove) = self.hear(first).await? {
                        self.draw()?;
                        return self.leave(remove);
                    }
                    Msg::Tick(self.now())
                }
                _ = terminate.recv() => Msg::Key(Key::Ctrl('c')),
                _ = hangup.recv() => Msg::Key(Key::Ctrl('c')),
            };
            // Reports carry no time of ours: they are learnt now.
            let asked =
                matches!(msg, Msg::Key(_) | Msg::Click { .. } | Msg::Answer(_) | Msg::Learn(_) | Msg::Resized { .. });
            for msg in [Msg::Tick(self.now()), msg] {
                if let Some(cmd) = update(&mut self.model, msg)
                    && let Some(remove) = self.run(cmd).await?
                {
                    self.draw()?;
                    return self.leave(remove);
                }
            }
            self.keep();
            if self.model.changed && (asked || self.drawn.is_none_or(|at| at.elapsed() >= FRAME)) {
                self.draw()?;
            }
        }
    }

    /// Whether reports are taken in as they come. Otherwise the next frame's time is early enough, and what has come until then is one piece of work.
    fn hurries(&self) -> bool {
        let is_live = self.model.picture.as_ref().is_none_or(|picture| picture.pace() == Pace::Live);
        !is_live || self.reports.len() >= AT_ONCE
    }

    /// Takes in this report, and those that have come with it: for all of them time passes once.
    async fn hear(&mut self, first: Option<Report>) -> Result<Option<bool>, Error> {
        let now = self.now();
        let mut cmd = update(&mut self.model, Msg::Tick(now));
        for report in taken(first, &mut self.reports) {
            if let Some(cmd) = cmd.take()
                && let Some(remove) = self.run(cmd).await?
            {
                return Ok(Some(remove));
            }
            self.learn(&report);
            cmd = update(&mut self.model, Msg::Report(report));
        }
        match cmd {
            Some(cmd) => self.run(cmd).await,
            None => Ok(None),
        }
    }

    fn now(&self) -> Millis {
        Millis(self.start.elapsed().as_millis() as u64)
    }

    /// Tells the model how large the terminal is; what cannot be measured stays as it was.
    fn measure(&mut self) {
        if let Ok(size) = self.terminal.size() {
            update(&mut self.model, Msg::Resized { width: size.width, height: size.height });
        }
    }

    fn draw(&mut self) -> Result<(), Error> {
        self.model.changed = false;
        self.drawn = Some(Instant::now());
        let model = &self.model;
        let drawn = self.terminal.draw(|frame| view(model, frame));
        drawn.map(drop).map_err(|source| Error::System { what: "cannot draw", source })
    }

    /// Does what the model asks for. `Some`: leave, and remove the folder or not.
    async fn run(&mut self, cmd: Cmd) -> Result<Option<bool>, Error> {
        match (cmd, &self.live) {
            (Cmd::Start { nodes }, None) => self.start_cluster(nodes, None),
            (Cmd::GoOn { folder }, None) => self.start_cluster(0, Some(folder)),
            (Cmd::Do { orders, line }, Some(_)) => self.carry_out(orders, line.map(|line| Report::Did { line })),
            (Cmd::Nemesis { orders, line }, Some(_)) => self.carry_out(orders, Some(Report::Nemesis { line })),
            (Cmd::Call { value }, Some(_)) => self.call(value),
            (Cmd::Data { urls, ask }, Some(_)) => {
                let to = self.to.clone();
                tokio::spawn(async move {
                    let shown = store::ask(&urls, ask).await;
                    drop(to.send(Report::Shown(Box::new(shown))).await);
                });
            }
            (Cmd::Rewind, Some(_)) => {
                let read = self.rewind();
                update(&mut self.model, Msg::Replay(read));
            }
            (Cmd::Put { endpoints, key, value }, Some(_)) => self.put(endpoints, key, value),
            (Cmd::Get { endpoints, key }, Some(_)) => self.get(endpoints, key),
            (Cmd::RunBlock { id }, Some(_)) => self.run_block(id),
            (Cmd::Check { seq }, Some(_)) => self.check(seq),
            (Cmd::Redo { step }, Some(_)) => self.redo(step),
            (Cmd::NextLab, Some(_)) => self.next_lab(),
            (Cmd::OpenLab { name }, Some(_)) => self.offer(course::chosen(Some(&name))),
            (Cmd::Mark { text }, Some(_)) => {
                // It may wait for room behind what members report.
                let to = self.to.clone();
                tokio::spawn(async move { drop(to.send(Report::Mark { text }).await) });
            }
            (Cmd::Simulate { script, at }, _) => {
                let answer = self.answer.clone();
                tokio::task::spawn_blocking(move || {
                    let (twin, played) = twin::play(&script);
                    let (found, twin) = (Box::new(Replay::new(played)), Box::new(twin));
                    drop(answer.blocking_send(Msg::Forked { found, twin, at }));
                });
            }
            (Cmd::Copy { text }, _) => self.copy(&text)?,
            (Cmd::Mouse { on }, _) => clicks(on)?,
            (Cmd::Shell, Some(_)) => self.shell().await?,
            (Cmd::Quit { remove }, _) => return Ok(Some(remove)),
            // Without a cluster there is nothing to act on; with one, none is started.
            _ => {}
        }
        Ok(None)
    }

    /// Whether clients should wait for as long as it takes, since the lab's clock does not go as the world's; and the number of a call.
    fn next_call(&mut self) -> (bool, u64) {
        self.calls += 1;
        (self.model.picture.as_ref().is_some_and(|p| p.pace() != Pace::Live), self.calls)
    }

    fn put(&mut self, endpoints: Vec<String>, key: String, value: String) {
        let (answer, to) = (self.answer.clone(), self.to.clone());
        let (patient, id) = self.next_call();
        let alone = self.model.picture.as_ref().is_none_or(|picture| picture.members.len() == 1);
        let at = match endpoints.as_slice() {
            [one] if !alone => format!("--endpoints {} ", one.trim_start_matches("http://")),
            _ => String::new(),
        };
        tokio::spawn(async move {
            drop(to.send(Report::Did { line: format!("etcdctl {at}put {} {}", quoted(&key), quoted(&value)) }).await);
            let said = ask::reported_put(&to, id, &endpoints, (&key, &value), patient).await;
            let said = said.map(|revision| format!("OK: put {key} made revision {revision}"));
            let said = said.map_err(|why| format!("put {key} failed: {why}"));
            drop(answer.send(Msg::Answer(said)).await);
        });
    }

    fn get(&mut self, endpoints: Vec<String>, key: String) {
        let (answer, to) = (self.answer.clone(), self.to.clone());
        let (patient, id) = self.next_call();
        tokio::spawn(async move {
            drop(to.send(Report::Did { line: format!("etcdctl get {}", quoted(&key)) }).await);
            let said = match ask::reported_get(&to, id, &endpoints, &key, patient).await {
                Ok((at, Some(kv))) => {
                    let value: String = String::from_utf8_lossy(&kv.value).chars().take(VALUE_SHOWN).collect();
                    Ok(format!("{key} = {}   (revision {}, read at {at})", value.escape_debug(), kv.mod_revision))
                }
                Ok((at, None)) => Ok(format!("{key} is not there at revision {at}")),
                Err(why) => Err(format!("get {key} failed: {why}")),
            };
            drop(answer.send(Msg::Answer(said)).await);
        });
    }

    /// A request of the nemesis's client: nobody waits for it.
    fn call(&mut self, value: Option<String>) {
        let (to, (_, id)) = (self.to.clone(), self.next_call());
        let endpoints = self.model.picture.as_ref().map(|p| p.endpoints_from(id)).unwrap_or_default();
        tokio::spawn(async move { ask::call(&to, id, &endpoints, value).await });
    }

    fn carry_out(&self, orders: Vec<Order>, told: Option<Report>) {
        let Some(live) = &self.live else { return };
        if let Err(e) = shell::note_clock(live.cluster.folder(), &self.model.board) {
            drop(self.answer.try_send(Msg::Answer(Err(e.to_string()))));
        }
        let mut controls = Vec::new();
        for order in orders {
            match order {
                Order::Process { member, action } => live.cluster.act(member, action),
                Order::Control { member, control } => controls.push((member, control)),
                Order::Config { member, misfit } => live.cluster.configure(member, misfit),
                Order::Program { member, ours } => live.cluster.change_program(member, ours),
                Order::Files { member, job } => {
                    let done = live.cluster.change_files(member, job);
                    let said = done.map_err(|e| format!("not done: {e}"));
                    drop(self.answer.try_send(Msg::Answer(said)));
                }
            }
        }
        let (record, token) = (live.cluster.record.clone(), live.token.clone());
        let (answer, to) = (self.answer.clone(), self.to.clone());
        tokio::spawn(async move {
            if let Some(told) = told {
                drop(to.send(told).await);
            }
            if let Err(why) = ask::carry_out(&record, &token, controls).await {
                drop(answer.send(Msg::Answer(Err(format!("not done: {why}")))).await);
            }
        });
    }

    /// A line from another terminal: done, or refused, as if it were typed here.
    async fn take_line(&mut self, line: orders::Line) -> Result<(), Error> {
        if let Some(cmd) = answered(&mut self.model, line) {
            self.run(cmd).await?;
        }
        Ok(())
    }

    /// OSC 52: the terminal puts it on the clipboard, also through ssh and (if it is set so) tmux.
    fn copy(&self, text: &str) -> Result<(), Error> {
        let mut out = std::io::stdout();
        let written = write!(out, "\x1b]52;c;{}\x07", STANDARD.encode(text)).and_then(|()| out.flush());
        written.map_err(|source| Error::System { what: "cannot write to the terminal", source })
    }

    fn rewind(&mut self) -> Result<Box<Replay>, String> {
        let recorder = self.recorder.as_mut().ok_or("this lab is not recorded")?;
        recorder.flush();
        let recording = Recording::read(recorder.path()).map_err(|e| e.to_string())?;
        Ok(Box::new(Replay::new(recording)))
    }

    fn learn(&mut self, report: &Report) {
        if let Some(recorder) = &mut self.recorder {
            recorder.note(Millis(self.start.elapsed().as_millis() as u64), report);
            if let Some(why) = recorder.ended.take() {
                self.recorder = None;
                update(&mut self.model, Msg::Answer(Err(why)));
            }
        }
    }

    /// Starts so many members, or those of a kept folder.
    fn start_cluster(&mut self, nodes: usize, kept: Option<PathBuf>) {
        let msg = match self.try_start(nodes, kept) {
            Ok(msg) => msg,
            Err(e) => Msg::Refused(e.to_string()),
        };
        update(&mut self.model, msg);
        self.open_lab();
    }

    fn try_start(&mut self, nodes: usize, kept: Option<PathBuf>) -> Result<Msg, Error> {
        let mut plan = self.options.plan(nodes, kept.as_deref())?;
        let notices = std::mem::take(&mut plan.notices);
        let token =
            fs::read_to_string(plan.work.token_file()).map_err(|source| Error::System { what: "no token", source })?;
        let token = token.trim().to_string();
        let folder = plan.work.path().display().to_string();
        let cluster = Cluster::start(plan, &up::own_program()?, self.to.clone())?;
        let observers = observe::observe(&cluster.record, &token, &self.to);
        let surveyors = survey::survey(&cluster.record, &token, &self.to);
        let watcher = own_watch::watch(&cluster.record, &self.to);
        orders::serve(cluster.folder(), &token, self.line.clone())?;
        let record = cluster.record.clone();
        shell::note_clock(cluster.folder(), &self.model.board)?;
        let recording = cluster.folder().join(RECORDING);
        // What was recorded before the members were kept stays.
        drop(fs::rename(&recording, cluster.folder().join(RECORDED_BEFORE)));
        self.recorder = Some(Recorder::create(&recording, &record)?);
        self.live = Some(Live { cluster, token, _observers: [observers, surveyors, watcher] });
        Ok(Msg::Started { record, folder, notices })
    }

    /// Hands the terminal to a shell; what the members report meanwhile is still learnt.
    async fn shell(&mut self) -> Result<(), Error> {
        let Some(live) = &self.live else { return Ok(()) };
        let record = live.cluster.record.clone();
        // The desk of a lab with nodes of its own is where this key leads from every screen: one key, one cluster. So it is with what runs in
        // the background for a lab on this cluster.
        let learn = self.model.learn.as_ref().filter(|_| learn::has_desk(&self.model));
        let desk = learn.map(|l| (l.session.terminal(), l.session.terminal_greeting()));
        let (command, greeting) = match desk {
            Some((Ok(Some(command)), greeting)) => (command, greeting),
            Some((Err(e), _)) => {
                update(&mut self.model, Msg::Answer(Err(format!("no shell: {e}"))));
                return Ok(());
            }
            Some((Ok(None), _)) | None => {
                (shell::command(live.cluster.folder(), &record, &[]), shell::greeting(&record))
            }
        };
        self.keyboard.pause().await;
        clicks(false)?;
        ratatui::restore();
        drop(writeln!(std::io::stderr(), "{greeting}"));
        let ended = self.wait_for(command).await;
        let failed = |source| Error::System { what: "cannot use this terminal", source };
        // Empty like the screen that it enters. Clearing it would ask the terminal for its cursor, and not every one answers.
        self.terminal = ratatui::try_init().map_err(failed)?;
        clicks(self.model.mouse)?;
        self.keyboard.resume();
        self.measure();
        let said = ended.map(|()| "back from the shell".to_string()).map_err(|e| format!("no shell: {e}"));
        update(&mut self.model, Msg::Answer(said));
        let asked = learn::back(&mut self.model);
        self.behind_cmd(asked);
        Ok(())
    }

    async fn wait_for(&mut self, command: std::process::Command) -> std::io::Result<()> {
        let mut child = tokio::process::Command::from(command).spawn()?;
        loop {
            tokio::select! {
                ended = child.wait() => return ended.map(drop),
                Some(report) = self.reports.recv() => {
                    self.learn(&report);
                    self.behind(Msg::Report(report));
                }
                Some(line) = self.lines.recv() => {
                    let cmd = answered(&mut self.model, line);
                    self.behind_cmd(cmd);
                }
                Some(answer) = self.answers.recv() => self.behind(answer),
            }
        }
    }

    /// A message while another program has the screen: it is learnt, and checks go on. Nothing else can be asked for then.
    fn behind(&mut self, msg: Msg) {
        for msg in [Msg::Tick(self.now()), msg] {
            let cmd = update(&mut self.model, msg);
            self.behind_cmd(cmd);
        }
    }

    fn behind_cmd(&mut self, cmd: Option<Cmd>) {
        match cmd {
            Some(Cmd::Check { seq }) => self.check(seq),
            Some(Cmd::Do { orders, line }) => self.carry_out(orders, line.map(|line| Report::Did { line })),
            Some(Cmd::Nemesis { orders, line }) => self.carry_out(orders, Some(Report::Nemesis { line })),
            Some(Cmd::Call { value }) => self.call(value),
            _ => {}
        }
    }

    fn leave(mut self, remove: bool) -> Result<String, Error> {
        let Some(live) = self.live.take() else { return Ok(String::new()) };
        let folder = live.cluster.folder().display().to_string();
        let on_machines = !live.cluster.record.machines.is_empty();
        match live.cluster.shutdown() {
            Some(work) if remove => work.remove().map(|()| String::new()),
            _ if on_machines => Ok(format!("kept: {folder}\nwhat happened: etcd-lab replay {folder}/{RECORDING}\n")),
            _ => Ok(format!("kept: {folder}\ngo on with: etcd-lab, and g there; or etcd-lab --folder {folder}\n")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::workdir::Record;
    use tokio::sync::oneshot;

    /// One of each 257 was taken out and not learnt, and a promise was said to be broken.
    #[test]
    fn each_report_that_waits_is_taken_once() {
        let (tell, mut told) = mpsc::channel(1000);
        let report = |n: usize| Report::Said { member: 0, line: n.to_string() };
        (0..700).for_each(|n| tell.try_send(report(n)).expect("room"));
        let (mut lines, mut rounds) = (Vec::new(), 0);
        while let Ok(first) = told.try_recv() {
            lines.extend(taken(Some(first), &mut told));
            rounds += 1;
        }
        let expected: Vec<Report> = (0..700).map(report).collect();
        assert_eq!((format!("{lines:?}"), rounds), (format!("{expected:?}"), 3));
    }

    #[test]
    fn a_line_that_is_refused_is_told_why() {
        let mut model = Model::new(Theme::Mono, false);
        let (record, folder) = (Record::sample(3), String::new());
        update(&mut model, Msg::Started { record, folder, notices: Vec::new() });
        let mut told = |text: &str| {
            let (answer, mut said) = oneshot::channel();
            let cmd = answered(&mut model, orders::Line { text: text.into(), answer });
            (said.try_recv().expect("an answer"), cmd.is_some())
        };
        let (said, does) = told("kill n9");
        assert!(said.expect_err("there is no n9").contains("n9") && !does);
        assert_eq!(told("undo"), (Ok("nothing to undo".into()), false));
    }
}
