//! Servers for a measurement: started on free ports and fresh directories, watched in /proc, ended by process id.

#![expect(clippy::disallowed_methods, reason = "waits for processes, with deadlines")]

use super::connection;
use rustix::process::Pid;
use rustix::process::Signal;
use std::fs::File;
use std::net::TcpListener;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::path::PathBuf;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;
use std::time::Duration;
use std::time::Instant;

/// /proc counts CPU in these; 10 ms on every Linux that Rust runs on.
const TICK: Duration = Duration::from_millis(10);
/// `st_blocks` counts in these, whatever the file system's own blocks are.
const BLOCK: u64 = 512;
const READY_WITHIN: Duration = Duration::from_secs(60);
const STOP_WITHIN: Duration = Duration::from_secs(20);
const LOOK_EVERY: Duration = Duration::from_millis(50);
const LOG_LINES_SHOWN: usize = 12;

/// A program that is an etcd server.
pub(super) struct Program {
    /// How the report calls it.
    pub(super) label: String,
    pub(super) path: PathBuf,
    /// What stands before the flags, for a program that is several.
    pub(super) first_words: Vec<String>,
}

/// The members of one cluster. Dropping it kills them and removes their directories.
pub(super) struct Servers {
    members: Vec<Child>,
    endpoints: Vec<String>,
    /// Two of each member: for clients, for peers.
    ports: Vec<u16>,
    dir: PathBuf,
}

impl Servers {
    /// Starts a cluster in a new directory below `dir` and waits until it has a leader that every member knows.
    pub(super) async fn start(program: &Program, nodes: usize, dir: &Path) -> Result<Servers, String> {
        let dir = fresh_dir(dir)?;
        let ports = free_ports(2 * nodes)?;
        let mut servers = Servers { members: Vec::new(), endpoints: Vec::new(), ports, dir };
        for number in 0..nodes {
            servers.endpoints.push(format!("127.0.0.1:{}", servers.ports[2 * number]));
            let member = servers.launch(program, number, "new")?;
            servers.members.push(member);
        }
        servers.ready(program).await?;
        Ok(servers)
    }

    /// Another member: its endpoint and its peer URL. It does not run yet: the cluster must first hear of it.
    pub(super) fn place(&mut self) -> Result<(String, String), String> {
        self.ports.extend(free_ports(2)?);
        let [.., client, peer] = self.ports[..] else { return Err("no ports".to_owned()) };
        self.endpoints.push(format!("127.0.0.1:{client}"));
        Ok((format!("127.0.0.1:{client}"), format!("http://127.0.0.1:{peer}")))
    }

    /// Starts the member that [`Servers::place`] made. Does not wait.
    pub(super) fn join(&mut self, program: &Program) -> Result<(), String> {
        let member = self.launch(program, self.members.len(), "existing")?;
        self.members.push(member);
        Ok(())
    }

    /// Ends a member by this signal and starts it again; returns when it was started. Does not wait until it answers.
    pub(super) async fn restart(&mut self, program: &Program, number: usize, by: Signal) -> Result<Instant, String> {
        signal(&self.members[number], by);
        ended(&mut self.members[number]).await?;
        let started = Instant::now();
        self.members[number] = self.launch(program, number, "new")?;
        Ok(started)
    }

    /// Kills a member as `kill -9` does; returns when, and only when its process is gone.
    pub(super) fn kill(&mut self, number: usize) -> Result<Instant, String> {
        let killed = Instant::now();
        let member = &mut self.members[number];
        member.kill().and_then(|()| member.wait()).map_err(|e| format!("cannot kill a server: {e}"))?;
        Ok(killed)
    }

    /// Starts a member again that was killed. Does not wait.
    pub(super) fn revive(&mut self, program: &Program, number: usize) -> Result<(), String> {
        self.members[number] = self.launch(program, number, "new")?;
        Ok(())
    }

    /// Stops a member's process where it is (SIGSTOP): its connections stay, and nobody answers on them.
    pub(super) fn freeze(&self, number: usize) {
        signal(&self.members[number], Signal::STOP);
    }

    /// Lets it go on.
    pub(super) fn thaw(&self, number: usize) {
        signal(&self.members[number], Signal::CONT);
    }

    /// What a member's data takes on the disk, in bytes: blocks, as `du` counts.
    pub(super) fn disk(&self, number: usize) -> Result<u64, String> {
        let dir = self.data_dir(number);
        blocks(&dir).map(|blocks| blocks * BLOCK).map_err(|e| format!("{}: {e}", dir.display()))
    }

    fn data_dir(&self, number: usize) -> PathBuf {
        self.dir.join(format!("m{number}.etcd"))
    }

    /// Why a member that should answer does not: that it has ended, if it has.
    pub(super) fn check(&mut self, number: usize) -> Result<(), String> {
        match self.members[number].try_wait() {
            Ok(None) => Ok(()),
            ended => Err(format!("a server ended: {ended:?}\n{}", last_lines(&self.log(number)))),
        }
    }

    /// Where files of the measurement may lie: they go with the servers.
    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    fn launch(&self, program: &Program, number: usize, state: &str) -> Result<Child, String> {
        let cannot = |e: std::io::Error| format!("cannot start {}: {e}", program.path.display());
        let peer = |n: usize| format!("http://127.0.0.1:{}", self.ports[2 * n + 1]);
        let all: Vec<String> = (0..self.ports.len() / 2).map(|n| format!("m{n}={}", peer(n))).collect();
        let client = self.endpoints[number].clone();
        let log = File::options().create(true).append(true).open(self.log(number)).map_err(cannot)?;
        let mut command = Command::new(&program.path);
        command.args(&program.first_words);
        for (flag, value) in [
            ("--name", format!("m{number}")),
            ("--data-dir", self.data_dir(number).display().to_string()),
            ("--listen-client-urls", format!("http://{client}")),
            ("--advertise-client-urls", format!("http://{client}")),
            ("--listen-peer-urls", peer(number)),
            ("--initial-advertise-peer-urls", peer(number)),
            ("--initial-cluster", all.join(",")),
            ("--initial-cluster-token", "bench".to_owned()),
            ("--initial-cluster-state", state.to_owned()),
        ] {
            command.arg(flag).arg(value);
        }
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("ETCD_")) {
            command.env_remove(name);
        }
        // A group of its own: Ctrl-C reaches the bench, which then ends its servers in order.
        command.process_group(0).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        command.spawn().map_err(cannot)
    }

    fn log(&self, number: usize) -> PathBuf {
        self.dir.join(format!("m{number}.log"))
    }

    /// Waits until every member knows a leader.
    pub(super) async fn ready(&mut self, program: &Program) -> Result<(), String> {
        let deadline = Instant::now() + READY_WITHIN;
        for (number, endpoint) in self.endpoints.clone().iter().enumerate() {
            loop {
                let last = match connection::status(endpoint).await {
                    Ok(status) if status.leader != 0 => break,
                    Ok(_) => "no leader".to_owned(),
                    Err(text) => text,
                };
                let ended = self.members[number].try_wait().ok().flatten();
                if ended.is_some() || Instant::now() > deadline {
                    let why = ended.map_or(last, |status| format!("it ended: {status}"));
                    let path = program.path.display();
                    return Err(format!("{path} is not ready: {why}\n{}", last_lines(&self.log(number))));
                }
                tokio::time::sleep(LOOK_EVERY).await;
            }
        }
        Ok(())
    }

    /// `host:port` of every member.
    pub(super) fn endpoints(&self) -> &[String] {
        &self.endpoints
    }

    pub(super) fn pids(&self) -> Vec<u32> {
        self.members.iter().map(Child::id).collect()
    }

    /// Ends the members as an operator would, and removes their directories.
    pub(super) async fn stop(mut self) -> Result<(), String> {
        for member in &self.members {
            signal(member, Signal::TERM);
        }
        for member in &mut self.members {
            ended(member).await?;
        }
        Ok(())
    }
}

/// Waits for the end of a server that was told to end.
async fn ended(member: &mut Child) -> Result<(), String> {
    let deadline = Instant::now() + STOP_WITHIN;
    while member.try_wait().is_ok_and(|ended| ended.is_none()) {
        if Instant::now() > deadline {
            return Err(format!("a server did not end within {} s of its signal", STOP_WITHIN.as_secs()));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    Ok(())
}

impl Drop for Servers {
    fn drop(&mut self) {
        for member in &mut self.members {
            // A member that has ended already cannot be killed, and needs not be.
            drop(member.kill());
            drop(member.wait());
        }
        if let Err(e) = std::fs::remove_dir_all(&self.dir) {
            eprintln!("etcd-lab bench: cannot remove {}: {e}", self.dir.display());
        }
    }
}

/// The blocks of all files below a directory. What goes away meanwhile counts for nothing.
fn blocks(dir: &Path) -> std::io::Result<u64> {
    let mut sum = 0;
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        sum += match std::fs::symlink_metadata(&path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => 0,
            Ok(meta) if meta.is_dir() => blocks(&path)?,
            found => found?.blocks(),
        };
    }
    Ok(sum)
}

fn signal(member: &Child, signal: Signal) {
    if let Some(pid) = Pid::from_raw(member.id() as i32) {
        // It fails only if the process has ended, which is what is wanted.
        let _ = rustix::process::kill_process(pid, signal);
    }
}

fn fresh_dir(below: &Path) -> Result<PathBuf, String> {
    let cannot = |e: std::io::Error| format!("cannot make a directory in {}: {e} (--dir)", below.display());
    for number in 0.. {
        let dir = below.join(format!("etcd-lab-bench-{}-{number}", std::process::id()));
        match std::fs::create_dir(&dir) {
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {}
            made => return made.map(|()| dir).map_err(cannot),
        }
    }
    Err("no name is left for a directory".to_owned())
}

/// Ports that nobody listens on, chosen by the kernel, all different.
fn free_ports(count: usize) -> Result<Vec<u16>, String> {
    let cannot = |e: std::io::Error| format!("cannot find free ports: {e}");
    let held: Vec<TcpListener> =
        (0..count).map(|_| TcpListener::bind(("127.0.0.1", 0))).collect::<Result<_, _>>().map_err(cannot)?;
    held.iter().map(|listener| listener.local_addr().map(|address| address.port()).map_err(cannot)).collect()
}

fn last_lines(log: &Path) -> String {
    let text = std::fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..].join("\n")
}

/// The CPU time that these processes have used so far, in user and in kernel mode; `None` for no processes.
pub(super) fn cpu(pids: &[u32]) -> Result<Option<Duration>, String> {
    sum(pids, |pid| {
        let stat = read_proc(pid, "stat")?;
        // The name, field 2, may hold blanks; fields 14 and 15 are counted from the parenthesis that ends it.
        let after = stat.rsplit_once(") ").map_or("", |(_, after)| after);
        let ticks: Option<u64> = after.split(' ').skip(11).take(2).map(|field| field.parse::<u64>().ok()).sum();
        ticks.ok_or_else(|| format!("/proc/{pid}/stat is not as expected"))
    })
    .map(|ticks| ticks.map(|ticks| TICK * ticks as u32))
}

/// The largest memory that these processes ever had, or have had since [`forget_peak`], summed, in bytes; `None` for no processes.
pub(super) fn peak_rss(pids: &[u32]) -> Result<Option<u64>, String> {
    sum(pids, |pid| memory(pid, "VmHWM:"))
}

/// A line of /proc/PID/status that counts memory, in bytes: `VmHWM:`, `VmRSS:`, `RssAnon:`.
pub(super) fn memory(pid: u32, line: &str) -> Result<u64, String> {
    let status = read_proc(pid, "status")?;
    let line = status.lines().find_map(|text| text.strip_prefix(line));
    let kib = line.and_then(|rest| rest.split_whitespace().next()).and_then(|kib| kib.parse::<u64>().ok());
    kib.map(|kib| kib << 10).ok_or_else(|| format!("/proc/{pid}/status is not as expected"))
}

/// Lets the count of a process's largest memory begin anew, at what it has now.
pub(super) fn forget_peak(pid: u32) -> Result<(), String> {
    std::fs::write(format!("/proc/{pid}/clear_refs"), "5").map_err(|e| format!("process {pid}: {e}"))
}

fn sum(pids: &[u32], of: impl Fn(u32) -> Result<u64, String>) -> Result<Option<u64>, String> {
    if pids.is_empty() {
        return Ok(None);
    }
    pids.iter().map(|pid| of(*pid)).sum::<Result<u64, String>>().map(Some)
}

fn read_proc(pid: u32, file: &str) -> Result<String, String> {
    std::fs::read_to_string(format!("/proc/{pid}/{file}")).map_err(|e| format!("process {pid}: {e}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_process_has_used_cpu_and_memory() {
        let own = [std::process::id()];
        let begin = Instant::now();
        // Ticks are coarse: burn until one is seen.
        while cpu(&own).expect("/proc").expect("one process") == Duration::ZERO {
            assert!(begin.elapsed() < Duration::from_secs(10), "ten seconds of work are a tick at least");
        }
        assert!(peak_rss(&own).expect("/proc").expect("one process") > 1 << 20);
        assert_eq!(cpu(&[]), Ok(None));
        assert!(cpu(&[u32::MAX]).expect_err("no such process").contains("4294967295"));
    }

    #[test]
    fn a_peak_can_be_forgotten() {
        let peak = |pid| memory(pid, "VmHWM:").expect("/proc");
        let own = std::process::id();
        let before = peak(own);
        // Above what the allocator keeps for itself: freed, it goes back to the system.
        let much = vec![1_u8; 256 << 20];
        let with = peak(own);
        assert!(with >= before.max(much.iter().map(|byte| u64::from(*byte)).sum()), "{with} after {before}");
        drop(much);
        forget_peak(own).expect("/proc");
        assert!(peak(own) < with - (100 << 20), "{} after {with}", peak(own));
    }
}
