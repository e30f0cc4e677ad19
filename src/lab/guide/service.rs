//! `systemctl`, `journalctl` and `sudo` of a lab's node: they stand in where a node has no systemd of its own.
//!
//! A node is a folder ([`NODE_VAR`] names it) with `etc/systemd/system`, `run` and `var/log`. `systemctl start` reads the node's unit
//! file and starts a **guard**, a process of ours that is to one service what systemd would be: it starts it, waits for `READY=1`,
//! starts it again as `Restart=` says, and ends it. The guard holds on to the bed's lock file: when the lab ends, even by
//! `kill -9`, the lock is free, and the guard ends with all that it started.
//!
//! Nodes that are other machines have their own: see `away`.
//!
//! Source: systemctl(1), systemd.service(5), sd_notify(3). Left out: everything of systemd that one service does not need.
#![expect(clippy::disallowed_methods, reason = "stands in for a service manager: waits for processes, with a clock")]

use crate::lab::guide::simulated;
use crate::lab::guide::unit::Restart;
use crate::lab::guide::unit::Unit;
use crate::lab::member;
use rustix::fs::FlockOperation;
use rustix::fs::flock;
use rustix::process::Pid;
use rustix::process::Signal;
use rustix::process::kill_process;
use rustix::process::kill_process_group;
use std::ffi::OsString;
use std::fs;
use std::fs::File;
use std::io;
use std::io::Write;
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::path::PathBuf;
use std::process::Child;
use std::process::Command;
use std::process::ExitStatus;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;
use std::time::Instant;

/// The variable that names a node's folder.
pub(crate) const NODE_VAR: &str = "LAB_NODE";

/// The variable that names the file whose lock says that the lab lives.
pub(crate) const ALIVE_VAR: &str = "LAB_ALIVE";

/// How the names of the variables begin that the lab sets for its own etcd.
const OWN_PREFIX: &str = "ETCD_EXPERIMENTAL_LAB_";

const PAUSE: Duration = Duration::from_millis(25);

/// How long a service may take to end before it is killed.
const STOP_WITHIN: Duration = Duration::from_secs(20);

/// Where the things of one service are on its node.
struct Service {
    node: PathBuf,
    name: String,
}

impl Service {
    fn of(node: &Path, name: &str) -> Service {
        Service { node: node.to_owned(), name: name.trim_end_matches(".service").to_owned() }
    }

    fn unit_file(&self) -> PathBuf {
        self.node.join("etc/systemd/system").join(format!("{}.service", self.name))
    }

    fn wanted(&self) -> PathBuf {
        self.node.join("etc/systemd/system/multi-user.target.wants").join(format!("{}.service", self.name))
    }

    fn run(&self, what: &str) -> PathBuf {
        self.node.join("run").join(format!("{}.{what}", self.name))
    }

    fn log(&self) -> PathBuf {
        self.node.join("var/log").join(format!("{}.log", self.name))
    }

    /// `active 4711`, `activating 4711`, `failed …`; `inactive` if nobody says otherwise.
    fn state(&self) -> String {
        let text = fs::read_to_string(self.run("state")).unwrap_or_default();
        if text.is_empty() { "inactive".into() } else { text }
    }

    fn set_state(&self, state: &str) {
        // Written beside and renamed: whoever looks sees a whole word. A node that is gone needs none.
        let beside = self.run("state.new");
        let _ = fs::write(&beside, state).and_then(|()| fs::rename(&beside, self.run("state")));
    }

    fn pid(&self) -> Option<Pid> {
        let state = self.state();
        let (word, pid) = state.split_once(' ')?;
        if !matches!(word, "active" | "activating") {
            return None;
        }
        Pid::from_raw(pid.parse().ok()?)
    }

    fn is_guarded(&self) -> bool {
        fs::read_to_string(self.run("guard"))
            .ok()
            .and_then(|text| Pid::from_raw(text.trim().parse().ok()?))
            .is_some_and(|pid| rustix::process::test_kill_process(pid).is_ok())
    }

    /// What is loaded: the unit file as it was at the last `daemon-reload`, or at the first use.
    fn loaded(&self) -> io::Result<String> {
        let copy = self.run("loaded");
        if !copy.is_file() {
            fs::copy(self.unit_file(), &copy)?;
        }
        fs::read_to_string(copy)
    }

    /// Orders something of the simulation, if that is where this service runs: a verb, and what comes after the node's name.
    fn order(&self, words: &[&str; 2]) -> Option<Result<(), String>> {
        let node = self.node.file_name()?.to_string_lossy();
        if self.name != "etcd" {
            return None;
        }
        simulated::order(format!("{} {node} {}", words[0], words[1]).trim_end())
    }

    fn has_changed(&self) -> bool {
        self.loaded().ok() != fs::read_to_string(self.unit_file()).ok()
    }
}

/// Whether a service of this node runs: it has said that it is ready, if it says so at all.
pub(crate) fn is_active(node: &Path, name: &str) -> bool {
    let service = Service::of(node, name);
    service.state().starts_with("active ") && service.is_guarded()
}

/// Starts the service `etcd` of a node, and does not wait for it. `alive` is the bed's lock file, `settings` what every etcd there is told.
pub(crate) fn launch(tools: &Path, node: &Path, alive: &Path, settings: &[(&str, &str)]) -> Result<(), String> {
    let service = Service::of(node, "etcd");
    let mut command = Command::new(tools);
    command.arg("unit-guard").arg(&service.name).env(NODE_VAR, node).env(ALIVE_VAR, alive);
    command.envs(settings.iter().copied());
    detached(&service, command).map(drop)
}

/// Whether any service of any of these nodes is still kept.
pub(crate) fn any_guard(nodes: &Path) -> bool {
    fs::read_dir(nodes).into_iter().flatten().flatten().any(|node| has_guard(&node.path()))
}

/// Whether any service of this node is still kept.
pub(crate) fn has_guard(node: &Path) -> bool {
    let files = fs::read_dir(node.join("run")).into_iter().flatten().flatten();
    let names = files.filter_map(|f| f.file_name().to_str()?.strip_suffix(".guard").map(str::to_owned));
    names.into_iter().any(|name| Service::of(node, &name).is_guarded())
}

/// What a service of this node has written.
pub(crate) fn journal(node: &Path, name: &str) -> String {
    fs::read(Service::of(node, name).log())
        .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
        .unwrap_or_default()
}

/// The program of this name, if it is one of the stand-ins and this is a node's terminal.
#[must_use]
pub fn stand_in(name: &str, args: &[OsString], out: &mut dyn Write, err: &mut dyn Write) -> Option<u8> {
    if !matches!(name, "systemctl" | "systemd-run" | "journalctl" | "sudo" | "sleep" | "unit-guard") {
        return None;
    }
    let Some(node) = std::env::var_os(NODE_VAR).map(PathBuf::from) else {
        let _ = writeln!(err, "{name}: this is the lab's own {name}; it works in the terminal of a lab's node only");
        return Some(1);
    };
    let words: Vec<String> = args.iter().map(|a| a.to_string_lossy().into_owned()).collect();
    let done = match name {
        "systemctl" => systemctl(&node, &words, out),
        "systemd-run" => systemd_run(&node, &words),
        "journalctl" => journalctl(&node, &words, out),
        "unit-guard" => guard(&node, &words),
        "sleep" => simulated::sleep(&words),
        _ => sudo(args),
    };
    Some(done.unwrap_or_else(|e| {
        let _ = writeln!(err, "{e}");
        1
    }))
}

fn systemctl(node: &Path, words: &[String], out: &mut dyn Write) -> Result<u8, String> {
    let known = "start, stop, restart, status, is-active, enable, disable, daemon-reload, cat and kill";
    let mut signal = "TERM".to_owned();
    let mut plain: Vec<&str> = Vec::new();
    let (mut waits, mut now) = (true, false);
    let mut rest = words.iter();
    while let Some(word) = rest.next() {
        match word.as_str() {
            "--no-block" => waits = false,
            "--now" => now = true,
            "--no-pager" | "-l" | "--quiet" | "-q" => {}
            "-s" | "--signal" => signal.clone_from(rest.next().ok_or("which signal?")?),
            option if option.starts_with("--signal=") => signal = option["--signal=".len()..].to_owned(),
            option if option.starts_with('-') => {
                return Err(format!("the lab's systemctl has no {option}; it knows {known}"));
            }
            plain_word => plain.push(plain_word),
        }
    }
    let Some((verb, names)) = plain.split_first() else { return Err(format!("the lab's systemctl knows {known}")) };
    if *verb == "daemon-reload" {
        return reload(node);
    }
    let [name] = names else { return Err(format!("systemctl {verb} wants the name of one unit, such as etcd")) };
    let service = Service::of(node, name);
    if !service.unit_file().is_file() && service.state() == "inactive" {
        return Err(format!("Failed to {verb} {}.service: Unit {}.service not found.", service.name, service.name));
    }
    match *verb {
        "start" => start(&service, waits, out),
        "stop" => stop(&service).map(|()| 0),
        "restart" => {
            stop(&service)?;
            start(&service, waits, out)
        }
        "status" => Ok(status(&service, out)),
        "is-active" => {
            let word = service.state().split(' ').next().unwrap_or_default().to_owned();
            let _ = writeln!(out, "{word}");
            Ok(if word == "active" { 0 } else { 3 })
        }
        "enable" => {
            enable(&service, out)?;
            if now { start(&service, waits, out) } else { Ok(0) }
        }
        "disable" => {
            if fs::remove_file(service.wanted()).is_ok() {
                let _ = writeln!(out, "Removed /etc/systemd/system/multi-user.target.wants/{}.service.", service.name);
            }
            if now { stop(&service).map(|()| 0) } else { Ok(0) }
        }
        "cat" => {
            let text = fs::read_to_string(service.unit_file()).map_err(|e| e.to_string())?;
            let _ = write!(out, "# /etc/systemd/system/{}.service\n{text}", service.name);
            Ok(0)
        }
        "kill" => send(&service, &signal),
        other => Err(format!("the lab's systemctl has no {other}; it knows {known}")),
    }
}

fn reload(node: &Path) -> Result<u8, String> {
    let units = node.join("etc/systemd/system");
    for entry in fs::read_dir(&units).map_err(|e| format!("{}: {e}", units.display()))?.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if let Some(name) = name.strip_suffix(".service") {
            let service = Service::of(node, name);
            fs::copy(service.unit_file(), service.run("loaded")).map_err(|e| format!("{name}: {e}"))?;
        }
    }
    Ok(0)
}

fn start(service: &Service, waits: bool, out: &mut dyn Write) -> Result<u8, String> {
    let name = &service.name;
    if service.is_guarded() {
        return Ok(0);
    }
    let text = service.loaded().map_err(|e| format!("{name}.service: {e}"))?;
    if service.has_changed() {
        let _ = writeln!(
            out,
            "Warning: The unit file of {name}.service changed on disk. Run 'systemctl daemon-reload' to reload units."
        );
    }
    Unit::parse(&text)
        .map_err(|e| format!("Failed to start {name}.service: {}: {e}", "Unit is not loaded properly"))?;
    match service.order(&["start", if waits { "wait" } else { "" }]) {
        Some(done) => done?,
        None => {
            let mut command = Command::new(std::env::current_exe().map_err(|e| e.to_string())?);
            command.arg("unit-guard").arg(name);
            let mut guard = detached(service, command)?;
            if waits {
                settled(service, &mut guard)?;
            }
        }
    }
    let state = service.state();
    match state.split(' ').next() {
        Some("failed") if state.contains("timeout") => Err(format!(
            "Job for {name}.service failed because a timeout was exceeded.\nSee \"systemctl status {name}.service\" and \"journalctl -xeu {name}.service\" for details."
        )),
        Some("failed") => Err(format!(
            "Job for {name}.service failed because the control process exited with error code.\nSee \"systemctl status {name}.service\" and \"journalctl -xeu {name}.service\" for details."
        )),
        _ => Ok(0),
    }
}

/// A guard in a process group of its own, so that it stays when the block that started it is over.
fn detached(service: &Service, mut guard: Command) -> Result<Child, String> {
    service.set_state("activating 0");
    guard.process_group(0).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    guard.spawn().map_err(|e| format!("{}.service: {e}", service.name))
}

/// Waits until a service has started, or has not.
fn settled(service: &Service, guard: &mut Child) -> Result<(), String> {
    while service.state().starts_with("activating") {
        let ended = guard.try_wait().map_err(|e| e.to_string())?;
        if let Some(status) = ended.filter(|_| service.state().starts_with("activating")) {
            return Err(format!("{}.service: its guard ended ({status})", service.name));
        }
        thread::sleep(PAUSE);
    }
    Ok(())
}

/// `systemd-run --unit=NAME COMMAND…`: a command that stays, and is a unit by this name.
fn systemd_run(node: &Path, words: &[String]) -> Result<u8, String> {
    let [unit, command @ ..] = words else { return Err("usage: systemd-run --unit=NAME COMMAND…".into()) };
    let name = unit.strip_prefix("--unit=").ok_or("usage: systemd-run --unit=NAME COMMAND…")?;
    let service = Service::of(node, name);
    if service.is_guarded() {
        return Err(format!("Failed to start transient service unit: Unit {name}.service was already loaded."));
    }
    let mut guard = Command::new(std::env::current_exe().map_err(|e| e.to_string())?);
    guard.args(["unit-guard", "--run", name]).arg(command.join(" "));
    settled(&service, &mut detached(&service, guard)?).map(|()| 0)
}

fn stop(service: &Service) -> Result<(), String> {
    if let Some(done) = service.order(&["stop", ""]) {
        return done;
    }
    let text = fs::read_to_string(service.run("guard")).unwrap_or_default();
    if let Some(guard) = text.trim().parse().ok().and_then(Pid::from_raw) {
        // Not there any more: then there is nothing to stop.
        let _ = kill_process(guard, Signal::TERM);
        let deadline = Instant::now() + STOP_WITHIN + Duration::from_secs(5);
        while service.is_guarded() && Instant::now() < deadline {
            thread::sleep(PAUSE);
        }
        if service.is_guarded() {
            return Err(format!("{}.service does not end", service.name));
        }
    }
    service.set_state("inactive");
    Ok(())
}

fn enable(service: &Service, out: &mut dyn Write) -> Result<(), String> {
    let unit = Unit::parse(&service.loaded().map_err(|e| e.to_string())?)?;
    if unit.wanted_by.is_none() {
        return Err(format!(
            "{}.service has no [Install] section with WantedBy=: nothing starts it by itself",
            service.name
        ));
    }
    let link = service.wanted();
    let folder = link.parent().ok_or("no folder")?;
    fs::create_dir_all(folder).map_err(|e| e.to_string())?;
    if fs::symlink_metadata(&link).is_err() {
        std::os::unix::fs::symlink(service.unit_file(), &link).map_err(|e| e.to_string())?;
        let _ = writeln!(
            out,
            "Created symlink /etc/systemd/system/multi-user.target.wants/{0}.service -> /etc/systemd/system/{0}.service.",
            service.name
        );
    }
    Ok(())
}

fn send(service: &Service, signal: &str) -> Result<u8, String> {
    let name = signal.trim_start_matches("SIG");
    if let Some(done) = service.order(&["signal", name]) {
        return done.map(|()| 0);
    }
    let signal = match name {
        "TERM" => Signal::TERM,
        "KILL" => Signal::KILL,
        "STOP" => Signal::STOP,
        "CONT" => Signal::CONT,
        "HUP" => Signal::HUP,
        "INT" => Signal::INT,
        _ => return Err(format!("no signal {name} here; there are TERM, KILL, STOP, CONT, HUP and INT")),
    };
    let pid = service.pid().ok_or_else(|| format!("Failed to kill unit {0}.service: it does not run", service.name))?;
    kill_process(pid, signal).map_err(|e| e.to_string()).map(|()| 0)
}

fn status(service: &Service, out: &mut dyn Write) -> u8 {
    let name = &service.name;
    let unit = service.loaded().ok().and_then(|text| Unit::parse(&text).ok());
    let description = unit.map(|u| u.description).unwrap_or_default();
    let enabled = if fs::symlink_metadata(service.wanted()).is_ok() { "enabled" } else { "disabled" };
    let state = service.state();
    let (word, rest) = state.split_once(' ').unwrap_or((&state, ""));
    let told = match word {
        "active" => "active (running)".to_owned(),
        "activating" => "activating (start)".to_owned(),
        "failed" => format!("failed (Result: {rest})"),
        _ => "inactive (dead)".to_owned(),
    };
    let _ = writeln!(out, "* {name}.service - {description}");
    let _ = writeln!(out, "     Loaded: loaded (/etc/systemd/system/{name}.service; {enabled})");
    let _ = writeln!(out, "     Active: {told}");
    if let Some(pid) = service.pid() {
        let _ = writeln!(out, "   Main PID: {}", pid.as_raw_nonzero());
    }
    let _ = writeln!(out, "(This is the lab's own systemctl: the node has no systemd.)");
    if word == "active" { 0 } else { 3 }
}

fn journalctl(node: &Path, words: &[String], out: &mut dyn Write) -> Result<u8, String> {
    let mut unit = None;
    let mut last = None;
    let mut rest = words.iter();
    while let Some(word) = rest.next() {
        match word.as_str() {
            "-u" | "--unit" | "-xeu" | "-eu" | "-xu" => unit = rest.next().cloned(),
            "-n" | "--lines" => last = rest.next().and_then(|n| n.parse::<usize>().ok()),
            "-o" => drop(rest.next()),
            "--no-pager" | "-x" | "-e" => {}
            other => {
                return Err(format!("the lab's journalctl has no {other}; it knows -u UNIT, -n LINES and --no-pager"));
            }
        }
    }
    let unit = unit.ok_or("the lab's journalctl wants -u UNIT, such as -u etcd")?;
    let text = journal(node, unit.trim_end_matches(".service"));
    let lines: Vec<&str> = text.lines().collect();
    let from = lines.len().saturating_sub(last.unwrap_or(usize::MAX));
    for line in &lines[from..] {
        let _ = writeln!(out, "{line}");
    }
    Ok(0)
}

/// Nobody is anybody else on a lab's node: the command runs as it stands, with the variables before it.
fn sudo(args: &[OsString]) -> Result<u8, String> {
    let mut rest = args.iter().peekable();
    while let Some(option) = rest.next_if(|a| a.to_string_lossy().starts_with('-')) {
        if matches!(option.to_str(), Some("-u" | "-g")) {
            rest.next();
        }
    }
    let mut command = Command::new("env");
    command.args(rest);
    Err(format!("sudo: {}", command.exec()))
}

/// `etcd-lab unit-guard NAME`, and `etcd-lab unit-guard --run NAME COMMAND` for a command that is no unit.
fn guard(node: &Path, words: &[String]) -> Result<u8, String> {
    let (service, unit) = match words {
        [flag, name, command] if flag == "--run" => (Service::of(node, name), ad_hoc(command)),
        [name] => {
            let service = Service::of(node, name);
            let unit = Unit::parse(&service.loaded().map_err(|e| e.to_string())?)?;
            (service, unit)
        }
        _ => return Err("etcd-lab unit-guard is the lab's own command: it keeps a service".into()),
    };
    fs::write(service.run("guard"), std::process::id().to_string()).map_err(|e| e.to_string())?;
    let (ends, gone) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    for signal in [15, 2] {
        signal_hook::flag::register(signal, Arc::clone(&ends)).map_err(|e| e.to_string())?;
    }
    end_with_the_lab(Arc::clone(&gone));
    let last = kept(&service, &unit, &Ends { asked: &ends, gone: &gone });
    // The state is set before the guard is gone: whoever waits for its end reads how it ended.
    service.set_state(&last.unwrap_or_else(|e| format!("failed {e}")));
    let _ = fs::remove_file(service.run("guard"));
    Ok(0)
}

fn ad_hoc(command: &str) -> Unit {
    Unit {
        description: command.to_owned(),
        notifies: false,
        exec: vec!["/bin/sh".into(), "-c".into(), alone(command)],
        environment: Vec::new(),
        environment_files: Vec::new(),
        folder: std::env::current_dir().ok(),
        restart: Restart::No,
        restart_after: Duration::ZERO,
        start_within: None,
        wanted_by: None,
    }
}

/// A command without anything of the shell's in it takes the shell's place: the unit's process is the program's, as with systemd.
pub(super) fn alone(command: &str) -> String {
    let assigns = command.split_whitespace().next().is_some_and(|word| word.contains('='));
    let plain = !assigns && !command.contains([';', '|', '&', '<', '>', '(', '`', '\n']);
    if plain { format!("exec {command}") } else { command.to_owned() }
}

/// Why a service is to end.
struct Ends<'a> {
    /// Somebody asked: it may take its time.
    asked: &'a AtomicBool,
    /// The lab is gone: nobody needs it, nor its data.
    gone: &'a AtomicBool,
}

impl Ends<'_> {
    fn now(&self) -> bool {
        self.asked.load(Ordering::SeqCst) || self.gone.load(Ordering::SeqCst)
    }
}

/// The lab holds its lock as long as it lives: when it can be had, the lab is gone.
fn end_with_the_lab(gone: Arc<AtomicBool>) {
    let Some(file) = std::env::var_os(ALIVE_VAR).and_then(|path| File::open(path).ok()) else { return };
    thread::spawn(move || {
        // An error means that nobody can tell any more: then it ends, too.
        let _ = flock(&file, FlockOperation::LockShared);
        gone.store(true, Ordering::SeqCst);
    });
}

/// Keeps the service until it is told to end, or until it has ended and is not started again. Returns its last state.
fn kept(service: &Service, unit: &Unit, ends: &Ends) -> Result<String, String> {
    loop {
        let (mut child, socket) = begun(service, unit)?;
        let status = watched(service, unit, &mut child, socket.as_ref(), ends)?;
        let Some(status) = status else { return Ok("inactive".into()) };
        let failed = !status.is_some_and(|s| s.success());
        let word = match status {
            Some(status) => format!("failed exit-code {}", status.code().unwrap_or(128)),
            None => "failed timeout".into(),
        };
        let again = match unit.restart {
            Restart::No => false,
            Restart::OnFailure => failed,
            Restart::Always => true,
        };
        if !again {
            return Ok(if failed { word } else { "inactive".into() });
        }
        service.set_state(&word);
        let until = Instant::now() + unit.restart_after;
        while Instant::now() < until {
            if ends.now() {
                return Ok("inactive".into());
            }
            thread::sleep(PAUSE);
        }
    }
}

fn begun(service: &Service, unit: &Unit) -> Result<(Child, Option<UnixDatagram>), String> {
    let mut environment = unit.environment.clone();
    for file in &unit.environment_files {
        let (path, optional) = file.strip_prefix('-').map_or((file.as_str(), false), |path| (path, true));
        match fs::read_to_string(path) {
            Ok(text) => environment.extend(pairs(&text)),
            Err(_) if optional => {}
            Err(e) => return Err(format!("resources: {path}: {e}")),
        }
    }
    let socket = if unit.notifies {
        let path = service.run("notify");
        let _ = fs::remove_file(&path);
        let socket = UnixDatagram::bind(&path).map_err(|e| format!("{}: {e}", path.display()))?;
        socket.set_read_timeout(Some(PAUSE)).map_err(|e| e.to_string())?;
        Some(socket)
    } else {
        None
    };
    let log = service.log();
    let open = || File::options().create(true).append(true).open(&log).map_err(|e| format!("{}: {e}", log.display()));
    let guard = member::Launcher::own_guard(&std::env::current_exe().map_err(|e| e.to_string())?);
    let mut command = Command::new(&guard[0]);
    command.args(&guard[1..]).args(unit.command(&environment));
    // A service does not inherit what was exported in the terminal from which it was started; a command does.
    let is_unit = unit.start_within.is_some() || unit.notifies;
    // What the lab itself tells every etcd is no export.
    let exported = |name: &str| name.starts_with("ETCD") && !name.starts_with(OWN_PREFIX);
    for (name, _) in std::env::vars_os().filter(|(v, _)| is_unit && exported(&v.to_string_lossy())) {
        command.env_remove(name);
    }
    command.envs(environment).current_dir(unit.folder.as_deref().unwrap_or(&service.node));
    command.env_remove("NOTIFY_SOCKET");
    if unit.notifies {
        command.env("NOTIFY_SOCKET", service.run("notify"));
    }
    // A group of its own: what a command of several words has started ends with it.
    command.process_group(0).stdin(Stdio::null()).stdout(open()?).stderr(open()?);
    let child = command.spawn();
    let child = child.map_err(|e| e.to_string())?;
    let word = if unit.notifies { "activating" } else { "active" };
    service.set_state(&format!("{word} {}", child.id()));
    Ok((child, socket))
}

fn pairs(text: &str) -> Vec<(String, String)> {
    let lines = text.lines().map(str::trim).filter(|l| !l.starts_with('#'));
    let pair = |l: &str| l.split_once('=').map(|(n, v)| (n.to_owned(), v.trim_matches(['"', '\'']).to_owned()));
    lines.filter_map(pair).collect()
}

/// Waits until the service has ended (its status), was too slow to start (`Some(None)`), or was ended on demand (`None`).
#[expect(clippy::option_option, reason = "three ends, and the middle one has no status")]
fn watched(
    service: &Service,
    unit: &Unit,
    child: &mut Child,
    socket: Option<&UnixDatagram>,
    ends: &Ends,
) -> Result<Option<Option<ExitStatus>>, String> {
    let since = Instant::now();
    let mut ready = socket.is_none();
    let mut text = [0; 256];
    loop {
        if let Some(status) = child.try_wait().map_err(|e| e.to_string())? {
            return Ok(Some(Some(status)));
        }
        if ends.now() {
            ended(child, ends)?;
            return Ok(None);
        }
        if !ready && unit.start_within.is_some_and(|limit| since.elapsed() > limit) {
            ended(child, ends)?;
            return Ok(Some(None));
        }
        match socket.map(|s| s.recv(&mut text)) {
            Some(Ok(n)) if String::from_utf8_lossy(&text[..n]).lines().any(|l| l == "READY=1") && !ready => {
                ready = true;
                service.set_state(&format!("active {}", child.id()));
            }
            // Nothing said within the pause, or nothing new: look again.
            Some(_) => {}
            None => thread::sleep(PAUSE),
        }
    }
}

fn ended(child: &mut Child, ends: &Ends) -> Result<(), String> {
    let pid = Pid::from_child(child);
    // One that stands still hears TERM only when it goes on.
    let _ = kill_process_group(pid, Signal::TERM).and_then(|()| kill_process_group(pid, Signal::CONT));
    let deadline = Instant::now() + STOP_WITHIN;
    while child.try_wait().map_err(|e| e.to_string())?.is_none() {
        if Instant::now() > deadline || ends.gone.load(Ordering::SeqCst) {
            let _ = kill_process_group(pid, Signal::KILL);
        }
        thread::sleep(PAUSE);
    }
    // Its shell may have ended before what it had started; nothing is left, usually.
    let _ = kill_process_group(pid, Signal::KILL);
    Ok(())
}
