//! A cluster of real processes: start, kill, stop, continue, restart, and the certainty that all of it ends.
//!
//! ```text
//! turn(limit, async { … })      a test beside others (`alone`: without), with a deadline for the whole
//!   Cluster::start(3)           three members, ready
//!     cluster.kill(leader)      kill -9
//!   drop                        every process ended; logs printed if the test failed, searched for panics if not
//! ```
//!
//! Members are started through `etcd-lab member-guard`, so that they also end when the test process is killed.

#![expect(clippy::disallowed_methods, reason = "waits for processes, with deadlines")]

use crate::client::Client;
use crate::http;
use crate::ports;
use etcd_lab::proto::etcdserverpb::StatusResponse;
use parking_lot::RwLock;
use rustix::process::Pid;
use rustix::process::Signal;
use std::ffi::OsString;
use std::fmt::Display;
use std::fs;
use std::fs::File;
use std::future::Future;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::path::PathBuf;
use std::process::Child;
use std::process::Command;
use std::process::ExitStatus;
use std::process::Stdio;
use std::time::Duration;
use std::time::Instant;
use tempfile::TempDir;

/// How often a condition is looked at again.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// How long a member may take to be ready, on a machine that compiles beside it.
pub(crate) const READY_WITHIN: Duration = Duration::from_secs(30);
/// How long a process may take to end after a signal that it handles.
pub(crate) const ENDS_WITHIN: Duration = Duration::from_secs(15);
const LOG_LINES_SHOWN: usize = 20;

static TURN: RwLock<()> = RwLock::new(());

/// Runs a test beside as many others as there are test threads, and fails it after `limit`. Most of a test's time is waiting: for elections, for
/// processes to start and to end.
pub(crate) fn turn(limit: Duration, test: impl Future<Output = ()>) {
    let _beside = TURN.read();
    run(limit, test);
}

/// Runs a test when no other one runs, and fails it after `limit`: for what measures time or processor, or takes all of something.
pub(crate) fn alone(limit: Duration, test: impl Future<Output = ()>) {
    let _alone = TURN.write();
    run(limit, test);
}

fn run(limit: Duration, test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let in_time = runtime.block_on(async { tokio::time::timeout(limit, test).await.is_ok() });
    assert!(in_time, "the test did not end within {limit:?}");
}

/// Looks until `condition` gives a value. Panics after `limit`, with the last reason why it gave none.
pub(crate) async fn until<T, E: Display>(
    limit: Duration,
    what: &str,
    mut condition: impl AsyncFnMut() -> Result<T, E>,
) -> T {
    let deadline = Instant::now() + limit;
    loop {
        match condition().await {
            Ok(value) => return value,
            Err(why) => assert!(Instant::now() < deadline, "not within {limit:?}: {what}: {why}"),
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// The program that members run: `ETCD_BIN`, or ours.
pub(crate) fn etcd_bin() -> PathBuf {
    std::env::var_os("ETCD_BIN").map_or_else(|| env!("CARGO_BIN_EXE_etcd").into(), PathBuf::from)
}

/// Whether members run our own program.
pub(crate) fn is_ours() -> bool {
    std::env::var_os("ETCD_BIN").is_none()
}

/// A process of a server, and where it writes its log.
pub(crate) struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `program` with these flags and variables. Its log is appended to.
    pub(crate) fn start(program: &Path, flags: &[String], env: &[(&str, &str)], log: &Path) -> Process {
        let file = File::options().create(true).append(true).open(log).expect("a log file");
        let mut words: Vec<OsString> = vec!["member-guard".into(), std::process::id().to_string().into()];
        words.push(program.into());
        words.extend(flags.iter().map(OsString::from));
        let mut command = Command::new(env!("CARGO_BIN_EXE_etcd-lab"));
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("ETCD")) {
            command.env_remove(name);
        }
        command
            .args(words)
            .envs(env.iter().copied())
            .stdin(Stdio::null())
            .stdout(file.try_clone().expect("a second handle"))
            .stderr(file);
        let child = command.spawn().unwrap_or_else(|e| panic!("cannot start {}: {e}", program.display()));
        Process { child, log: log.to_owned() }
    }

    /// Sends a signal; a process that has ended gets none.
    pub(crate) fn signal(&self, signal: Signal) {
        if let Some(pid) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            // Not waited for yet, so the pid is still its own, and ended is as good as signalled.
            let _ = rustix::process::kill_process(pid, signal);
        }
    }

    /// A figure of its memory, in KiB: `VmRSS` is what it has now, `VmHWM` the most that it had.
    pub(crate) fn memory_kib(&self, name: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).expect("a line");
        line.trim().trim_end_matches(" kB").parse().expect("a number")
    }

    /// How many TCP sockets it listens on.
    pub(crate) fn ports(&self) -> usize {
        let pid = self.child.id();
        let links = fs::read_dir(format!("/proc/{pid}/fd")).expect("it runs");
        let own: Vec<String> = links
            .filter_map(|link| Some(fs::read_link(link.ok()?.path()).ok()?.to_string_lossy().into_owned()))
            .filter_map(|target| Some(target.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned()))
            .collect();
        let tables = ["tcp", "tcp6"].map(|table| fs::read_to_string(format!("/proc/{pid}/net/{table}")));
        let lines = tables.iter().flatten().flat_map(|table| table.lines().skip(1));
        let fields = lines.map(|line| line.split_whitespace().collect::<Vec<_>>());
        // State 0A is that of a listener; the tenth field is the socket's number.
        fields.filter(|fields| fields[3] == "0A" && own.iter().any(|inode| inode == fields[9])).count()
    }

    /// Waits for its end; `None` if it still runs after this time.
    pub(crate) async fn ends(&mut self, within: Duration) -> Option<ExitStatus> {
        let deadline = Instant::now() + within;
        loop {
            let status = self.child.try_wait().expect("our own child");
            if status.is_some() || Instant::now() > deadline {
                return status;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Waits for its end, which must come in this time.
    pub(crate) async fn ended(&mut self, within: Duration) -> ExitStatus {
        self.ends(within).await.unwrap_or_else(|| panic!("still running after {within:?}\n{}", self.last_lines()))
    }

    /// Kills it and waits: it has ended when this returns.
    pub(crate) fn kill(&mut self) -> ExitStatus {
        // Fails only if it has ended already.
        drop(self.child.kill());
        self.child.wait().expect("our own child")
    }

    /// All that it wrote, to both outputs, since the log's first start.
    pub(crate) fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    fn last_lines(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..].join("\n")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.signal(Signal::CONT);
        self.kill();
        if std::thread::panicking() {
            eprintln!("--- the end of {} ---\n{}", self.log.display(), self.last_lines());
        } else {
            let log = self.log();
            let panic = log.lines().find(|line| line.contains("panicked at") || line.contains(r#""level":"panic""#));
            assert!(panic.is_none(), "a panic in {}: {}", self.log.display(), panic.unwrap_or_default());
        }
    }
}

/// How a shell names the end of a process: 143 for one that SIGTERM ended.
pub(crate) fn shell_code(status: ExitStatus) -> i32 {
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or_default())
}

/// A directory for a test's files; kept and named if the test fails.
pub(crate) struct Scratch(Option<TempDir>);

impl Scratch {
    pub(crate) fn new() -> Scratch {
        Scratch(Some(tempfile::Builder::new().prefix("etcd-lab-cluster-").tempdir().expect("a temporary directory")))
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.as_ref().expect("there until it is dropped").path()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Some(dir) = self.0.take().filter(|_| std::thread::panicking()) {
            eprintln!("kept: {}", dir.keep().display());
        }
    }
}

/// What a member is started with.
#[derive(Clone, Debug)]
pub(crate) struct Spec {
    pub(crate) name: String,
    pub(crate) client_url: String,
    pub(crate) peer_url: String,
    pub(crate) data_dir: PathBuf,
    /// Beyond names, URLs and directory.
    pub(crate) more: Vec<String>,
    /// If it is another than the cluster's.
    pub(crate) program: Option<PathBuf>,
    /// Variables of its environment.
    pub(crate) env: Vec<(&'static str, String)>,
}

impl Spec {
    /// A member called `name` on free ports, with its data below `dir`.
    pub(crate) fn new(name: &str, dir: &Path) -> Spec {
        let url = || format!("http://127.0.0.1:{}", ports::free());
        let data_dir = dir.join(format!("{name}.etcd"));
        let name = name.to_owned();
        Spec { name, client_url: url(), peer_url: url(), data_dir, more: Vec::new(), program: None, env: Vec::new() }
    }

    /// The command line, in a cluster of these members.
    pub(crate) fn flags(&self, all: &[Spec]) -> Vec<String> {
        let initial: Vec<String> = all.iter().map(|spec| format!("{}={}", spec.name, spec.peer_url)).collect();
        let pairs = [
            ("--name", self.name.clone()),
            ("--data-dir", self.data_dir.display().to_string()),
            ("--listen-client-urls", self.client_url.clone()),
            ("--advertise-client-urls", self.client_url.clone()),
            ("--listen-peer-urls", self.peer_url.clone()),
            ("--initial-advertise-peer-urls", self.peer_url.clone()),
            ("--initial-cluster", initial.join(",")),
            ("--initial-cluster-token", "etcd-lab-test".to_owned()),
        ];
        pairs.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value]).chain(self.more.clone()).collect()
    }
}

/// Members of one cluster. Dropping it ends them.
pub(crate) struct Cluster {
    processes: Vec<Option<Process>>,
    specs: Vec<Spec>,
    program: PathBuf,
    pub(crate) client: Client,
    scratch: Scratch,
}

impl Cluster {
    /// Starts members called m0, m1 … and waits until each of them knows a leader.
    pub(crate) async fn start(members: usize) -> Cluster {
        Cluster::start_with(&etcd_bin(), members, &[]).await
    }

    /// The same with another program or more flags for every member.
    pub(crate) async fn start_with(program: &Path, members: usize, more: &[&str]) -> Cluster {
        let scratch = Scratch::new();
        let mut specs: Vec<Spec> = (0..members).map(|n| Spec::new(&format!("m{n}"), scratch.path())).collect();
        for spec in &mut specs {
            spec.more = more.iter().map(|&flag| flag.to_owned()).collect();
        }
        let client = Client::plain(specs.iter().map(|spec| spec.client_url.clone()).collect());
        Cluster::from_specs(program, specs, client, scratch).await
    }

    /// The members that `specs` describe, none of which runs yet; `client` is to reach them in the same order.
    pub(crate) fn prepared(program: &Path, specs: Vec<Spec>, client: Client, scratch: Scratch) -> Cluster {
        let processes = specs.iter().map(|_| None).collect();
        Cluster { processes, specs, program: program.to_owned(), client, scratch }
    }

    /// The members that `specs` describe, all of which run; `client` is to reach them in the same order.
    pub(crate) async fn from_specs(program: &Path, specs: Vec<Spec>, client: Client, scratch: Scratch) -> Cluster {
        let mut cluster = Cluster::prepared(program, specs, client, scratch);
        (0..cluster.len()).for_each(|member| cluster.launch(member));
        for member in 0..cluster.len() {
            cluster.ready(member).await;
        }
        cluster
    }

    pub(crate) fn len(&self) -> usize {
        self.specs.len()
    }

    pub(crate) fn spec(&self, member: usize) -> &Spec {
        &self.specs[member]
    }

    pub(crate) fn dir(&self) -> &Path {
        self.scratch.path()
    }

    /// Another member, which does not run yet: it is the last one.
    pub(crate) fn add(&mut self, spec: Spec) -> usize {
        self.client.push(spec.client_url.clone());
        self.processes.push(None);
        self.specs.push(spec);
        self.len() - 1
    }

    /// What the next start of a member will be told.
    pub(crate) fn spec_mut(&mut self, member: usize) -> &mut Spec {
        &mut self.specs[member]
    }

    /// Waits until the member has ended by itself, and gives up on it.
    pub(crate) async fn gone(&mut self, member: usize) -> ExitStatus {
        let status = self.process(member).ended(ENDS_WITHIN).await;
        self.processes[member] = None;
        status
    }

    /// All that a member wrote since its first start, also after its end.
    pub(crate) fn log(&self, member: usize) -> String {
        let path = self.scratch.path().join(format!("{}.log", self.specs[member].name));
        String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned()
    }

    /// Client URLs of all members, as `--endpoints` takes them.
    pub(crate) fn endpoints(&self) -> String {
        self.specs.iter().map(|spec| spec.client_url.as_str()).collect::<Vec<_>>().join(",")
    }

    /// Starts the process of a member that does not run. Does not wait.
    pub(crate) fn launch(&mut self, member: usize) {
        assert!(self.processes[member].is_none(), "member {member} runs already");
        let spec = &self.specs[member];
        let log = self.scratch.path().join(format!("{}.log", spec.name));
        let program = spec.program.as_ref().unwrap_or(&self.program);
        let env: Vec<(&str, &str)> = spec.env.iter().map(|(name, value)| (*name, value.as_str())).collect();
        self.processes[member] = Some(Process::start(program, &spec.flags(&self.specs), &env, &log));
    }

    /// Starts a member that does not run and waits until it is ready.
    pub(crate) async fn restart(&mut self, member: usize) {
        self.launch(member);
        self.ready(member).await;
    }

    /// Waits until the member answers and knows a leader. Fails at once if its process ends.
    pub(crate) async fn ready(&mut self, member: usize) -> StatusResponse {
        let deadline = Instant::now() + READY_WITHIN;
        loop {
            let status = self.client.status(member).await;
            let why = match status {
                Ok(status) if status.leader != 0 => return status,
                Ok(_) => "no leader".to_owned(),
                Err(refusal) => refusal.to_string(),
            };
            let process = self.process(member);
            if let Some(status) = process.child.try_wait().expect("our own child") {
                panic!("member {member} ended ({status}) before it was ready\n{}", process.last_lines());
            }
            assert!(Instant::now() < deadline, "member {member} is not ready: {why}");
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// The process of a member that runs.
    pub(crate) fn process(&mut self, member: usize) -> &mut Process {
        self.processes[member].as_mut().unwrap_or_else(|| panic!("member {member} does not run"))
    }

    /// kill -9, and waits until the members that run agree on a leader among themselves. What one of them passes on to a leader that has just
    /// died is lost, and its client hears of it: of etcd's members after seven seconds, of ours when the next leader leads.
    pub(crate) async fn lose(&mut self, member: usize) {
        self.kill(member);
        let running: Vec<usize> = (0..self.len()).filter(|&member| self.processes[member].is_some()).collect();
        until(READY_WITHIN, "a leader among those that run", async || {
            let mut statuses = Vec::new();
            for &member in &running {
                statuses.push(self.client.status(member).await.map_err(|refusal| refusal.to_string())?);
            }
            let leader = statuses[0].leader;
            let runs = statuses.iter().any(|s| s.header.is_some_and(|header| header.member_id == leader));
            let agree = runs && statuses.iter().all(|status| status.leader == leader);
            if agree { Ok(()) } else { Err(format!("{statuses:?}")) }
        })
        .await;
    }

    /// The version that a member says its cluster has agreed on.
    pub(crate) async fn version(&self, member: usize) -> Result<String, String> {
        let address = self.spec(member).client_url.trim_start_matches("http://").to_owned();
        let answer = http::get(&address, "/version").await.map_err(|e| e.to_string())?;
        let version: serde_json::Value = serde_json::from_str(&answer.body).map_err(|e| e.to_string())?;
        Ok(version["etcdcluster"].as_str().unwrap_or_default().to_owned())
    }

    /// Waits until a member says that its cluster has agreed on this version. That is the last thing that a new cluster writes by itself.
    pub(crate) async fn agreed(&self, member: usize, version: &str) {
        let told = async || {
            let told = self.version(member).await?;
            if told == version { Ok(()) } else { Err(told) }
        };
        until(READY_WITHIN, version, told).await;
    }

    /// kill -9. The process has ended when this returns.
    pub(crate) fn kill(&mut self, member: usize) {
        self.process(member).kill();
        self.processes[member] = None;
    }

    /// kill -9 of every member that runs: all are signalled before the first is waited for.
    pub(crate) fn kill_all(&mut self) {
        for process in self.processes.iter().flatten() {
            process.signal(Signal::KILL);
        }
        self.processes.iter_mut().for_each(|process| drop(process.take()));
    }

    /// kill -9 of all, then all start again; waits until each is ready.
    pub(crate) async fn restart_all(&mut self) {
        self.kill_all();
        (0..self.len()).for_each(|member| self.launch(member));
        for member in 0..self.len() {
            self.ready(member).await;
        }
    }

    /// SIGTERM; returns how the process ended.
    pub(crate) async fn terminate(&mut self, member: usize) -> ExitStatus {
        self.process(member).signal(Signal::TERM);
        let status = self.process(member).ended(ENDS_WITHIN).await;
        self.processes[member] = None;
        status
    }

    /// SIGSTOP: alive, silent.
    pub(crate) fn pause(&mut self, member: usize) {
        self.process(member).signal(Signal::STOP);
    }

    /// SIGCONT.
    pub(crate) fn resume(&mut self, member: usize) {
        self.process(member).signal(Signal::CONT);
    }

    /// The member that leads, as it says itself.
    pub(crate) async fn leader(&self) -> usize {
        until(READY_WITHIN, "a leader", async || {
            for member in (0..self.len()).filter(|&member| self.processes[member].is_some()) {
                let status = self.client.status(member).await;
                let leads = |s: &StatusResponse| s.leader != 0 && s.header.is_some_and(|h| h.member_id == s.leader);
                if status.is_ok_and(|status| leads(&status)) {
                    return Ok(member);
                }
            }
            Err("nobody says that it leads")
        })
        .await
    }

    /// Panics unless every member has the same history at the newest revision: HashKV there is equal.
    pub(crate) async fn assert_equal_hashes(&self) {
        self.assert_equal_hashes_of(&(0..self.len()).collect::<Vec<_>>()).await;
    }

    /// The same of these members.
    pub(crate) async fn assert_equal_hashes_of(&self, members: &[usize]) {
        let revision = until(READY_WITHIN, "a linearizable read", async || self.client.revision().await).await;
        let mut hashes = Vec::new();
        for &member in members {
            let what = format!("member {member} at revision {revision}");
            let answer = until(READY_WITHIN, &what, async || self.client.hash_kv(member, revision).await).await;
            hashes.push((answer.hash, answer.compact_revision));
        }
        assert!(hashes.windows(2).all(|pair| pair[0] == pair[1]), "at revision {revision} hashes differ: {hashes:x?}");
    }
}
