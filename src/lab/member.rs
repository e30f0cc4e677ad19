//! One member: its flags, its process, and the guard that ends it with its parent.
//!
//! A member must not outlive its lab, even when the lab is killed with `kill -9` and can clean up nothing. So the lab does
//! not start `etcd` itself but `etcd-lab member-guard PARENT PROGRAM ARGS…`: that process asks the kernel to be killed when its parent
//! dies, checks that the parent is still there, and then *becomes* `etcd` (exec keeps the request and the pid).
//!
//! The kernel means the parent *thread*: members are started from the cluster's own thread, which lives as long as
//! the cluster. Left out: systems other than Linux have no such request; there a killed lab leaves its members.

use crate::disk;
use crate::lab::Error;
use crate::lab::certs;
use crate::lab::misfit;
use crate::lab::misfit::Misfit;
use crate::lab::workdir::MemberRecord;
use rustix::process::Pid;
use rustix::process::Signal;
use std::ffi::OsString;
use std::fs;
use std::io::Write;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::path::PathBuf;
use std::process::Child;
use std::process::Command;
use std::process::ExitStatus;
use std::process::Stdio;

/// Size of a lab member's log segments: small, so that a lab costs little disk. etcd's own are 64 MB.
const WAL_SEGMENT_BYTES: u32 = 4 << 20;

/// How members are started.
#[derive(Clone, Debug)]
pub struct Launcher {
    /// What stands before the member's own program and arguments.
    pub guard: Vec<OsString>,
    /// The link named `etcd`.
    pub etcd: PathBuf,
    /// It is our own server, which has a door for the lab.
    pub has_door: bool,
    /// Members speak TLS to each other.
    pub is_tls: bool,
    /// The file with the observers' secret.
    pub token_file: PathBuf,
    /// etcd's `--initial-cluster-token`.
    pub cluster_token: String,
    /// etcd's `--initial-cluster`.
    pub initial_cluster: String,
}

impl Launcher {
    /// The guard that this executable contains.
    #[must_use]
    pub fn own_guard(program: &Path) -> Vec<OsString> {
        vec![program.into(), "member-guard".into(), std::process::id().to_string().into()]
    }

    /// How a member is started that runs our own server, found at `etcd`, among others that do not.
    #[must_use]
    pub fn of_ours(&self, etcd: PathBuf) -> Launcher {
        Launcher { etcd, has_door: true, ..self.clone() }
    }

    /// A member's command line: real etcd flags, plus the lab's three if it has a door for the lab.
    #[must_use]
    pub fn flags(&self, m: &MemberRecord) -> Vec<OsString> {
        let pairs: [(&str, OsString); 11] = [
            ("--name", m.name.clone().into()),
            ("--data-dir", m.data_dir.clone().into()),
            ("--listen-client-urls", m.client_url.clone().into()),
            ("--advertise-client-urls", m.client_url.clone().into()),
            ("--listen-peer-urls", m.peer_url.clone().into()),
            ("--initial-advertise-peer-urls", m.peer_url.clone().into()),
            ("--initial-cluster", self.initial_cluster.clone().into()),
            ("--initial-cluster-token", self.cluster_token.clone().into()),
            ("--experimental-lab-listen", prefixed("unix:", &m.lab_socket)),
            ("--experimental-lab-token", self.token_file.clone().into()),
            ("--experimental-lab-wal-segment-bytes", WAL_SEGMENT_BYTES.to_string().into()),
        ];
        let known = |(flag, _): &(&str, OsString)| self.has_door || !flag.starts_with("--experimental-lab");
        let own = pairs.into_iter().filter(known).flat_map(|(flag, value)| [flag.into(), value]);
        let tls = if self.is_tls { certs::all_flags(m) } else { Vec::new() };
        own.chain(tls).collect()
    }

    /// Starts the member, with this misfit if there is one. Must be called on a thread that lives as long as the member may.
    ///
    /// # Errors
    /// If its folder, its log or its process cannot be made.
    pub fn start(&self, m: &MemberRecord, misfit: Option<Misfit>) -> Result<Child, Error> {
        let folder = disk::folder_of(&m.log);
        fs::create_dir_all(folder).map_err(Error::file("cannot make the folder", folder))?;
        // A socket of an earlier run would make the new one fail to listen.
        drop(fs::remove_file(&m.lab_socket));
        // What it has made for another cluster nobody wants: begun anew each time, and gone with the misfit.
        drop(fs::remove_dir_all(misfit::other_data(m)));
        let log = fs::OpenOptions::new().create(true).append(true).open(&m.log);
        let log = log.map_err(Error::file("cannot write", &m.log))?;
        let log_too = log.try_clone().map_err(Error::file("cannot write", &m.log))?;
        let mut words = self.guard.iter().cloned().chain([self.etcd.clone().into()]).chain(self.flags(m));
        let spoilt = misfit.map(|misfit| misfit.flags(m)).unwrap_or_default();
        let program = words.next().expect("the program at least");
        let mut command = Command::new(&program);
        // A group of its own: Ctrl-C in the lab's terminal is for the lab.
        command.args(words).args(spoilt).stdin(Stdio::null()).stdout(log).stderr(log_too).process_group(0);
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("ETCD")) {
            // The user's own etcd settings would fight with our flags.
            command.env_remove(name);
        }
        command.spawn().map_err(Error::file("cannot start", Path::new(&program)))
    }
}

fn prefixed(prefix: &str, path: &Path) -> OsString {
    let mut s = OsString::from(prefix);
    s.push(path);
    s
}

/// Sends a signal to a child that has not been waited for, so that its pid is still its own.
pub(crate) fn signal(child: &Child, signal: Signal) {
    if let Some(pid) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
        // Fails only if it has just ended, which the next look at it shows.
        let _ = rustix::process::kill_process(pid, signal);
    }
}

/// How a process ended, in words.
#[must_use]
pub fn ending(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt as _;
    match (status.code(), status.signal()) {
        (Some(0), _) => "shut down".into(),
        (Some(code), _) => format!("ended with exit code {code}"),
        (None, Some(9)) => "killed (kill -9)".into(),
        (None, Some(15)) => "ended by SIGTERM".into(),
        (None, Some(n)) => format!("ended by signal {n}"),
        (None, None) => "ended".into(),
    }
}

/// `etcd-lab member-guard PARENT PROGRAM ARGS…`: becomes PROGRAM, to be killed when the process PARENT dies.
/// Returns an exit code only if it cannot.
pub fn guard(args: &[OsString], err: &mut dyn Write) -> u8 {
    let (Some(parent), Some(program)) = (args.first(), args.get(1)) else {
        drop(writeln!(err, "etcd-lab member-guard is the lab's own command: it starts members"));
        return 2;
    };
    if let Err(e) = tie_to(parent.to_string_lossy().parse().ok()) {
        drop(writeln!(err, "etcd-lab member-guard: {e}"));
        return 1;
    }
    let e = Command::new(program).args(&args[2..]).exec();
    drop(writeln!(err, "etcd-lab member-guard: cannot start {}: {e}", program.display()));
    127
}

#[cfg(target_os = "linux")]
fn tie_to(parent: Option<i32>) -> std::io::Result<()> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    // It may have died before the line above: then somebody else is our parent by now.
    if rustix::process::getppid().map(Pid::as_raw_nonzero).map(i32::from) == parent {
        Ok(())
    } else {
        Err(std::io::Error::other("the lab that started this member is gone"))
    }
}

#[cfg(not(target_os = "linux"))]
fn tie_to(_parent: Option<i32>) -> std::io::Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::disallowed_methods, reason = "waits for real processes, with a deadline")]

    use super::*;
    use std::io::BufRead as _;
    use std::io::BufReader;
    use std::time::Duration;
    use std::time::Instant;

    /// This test program starts itself again as a lab and as a guard: the only way to have real processes in a unit test.
    const PART: &str = "ETCD_LAB_TEST_PART";

    fn again(part: &str) -> Command {
        let mut command = Command::new(std::env::current_exe().expect("known"));
        command.args(["lab::member::tests::plays_a_part", "--exact", "--ignored", "--nocapture"]).env(PART, part);
        command
    }

    #[test]
    #[ignore = "not a test: the processes that the next test starts"]
    fn plays_a_part() {
        let part = std::env::var(PART).expect("started by the test below");
        if part == "lab" {
            let me = std::process::id().to_string();
            let mut member = again(&me).stdout(Stdio::null()).spawn().expect("started");
            drop(writeln!(std::io::stdout(), "member={}", member.id()));
            // Until the test kills us: the member alone does not end.
            drop(member.wait());
        } else {
            let args: Vec<OsString> = [part.as_str(), "sleep", "600"].map(OsString::from).into();
            guard(&args, &mut std::io::stderr());
        }
    }

    fn command_of(pid: u32) -> String {
        fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default().trim().to_string()
    }

    fn wait_until(what: &str, mut is: impl FnMut() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !is() {
            assert!(Instant::now() < deadline, "still not so after 20 s: {what}");
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_member_ends_when_its_lab_is_killed_without_a_word() {
        let mut lab = again("lab").stdout(Stdio::piped()).spawn().expect("started");
        // Kept open to the end: whoever writes into a closed pipe fails.
        let mut lines = BufReader::new(lab.stdout.take().expect("piped")).lines();
        // libtest prints "test … ... " without a line end before it.
        let pid = lines.by_ref().map_while(Result::ok).find_map(|l| l.split("member=").nth(1)?.trim().parse().ok());
        let pid = pid.expect("it says which");
        wait_until("the guard has become the member", || command_of(pid) == "sleep");
        lab.kill().expect("killed");
        lab.wait().expect("ended");
        wait_until("the member is gone", || command_of(pid) != "sleep");
    }

    #[test]
    fn a_guard_without_its_lab_starts_nothing() {
        let mut said = Vec::new();
        let args: Vec<OsString> = ["1", "/bin/false"].map(OsString::from).into();
        // Our parent is not process 1, as far as a test runner goes; if it were, the pid below is nobody's.
        let args = if rustix::process::getppid().map(Pid::as_raw_nonzero).map(i32::from) == Some(1) {
            vec!["999999999".into(), args[1].clone()]
        } else {
            args
        };
        let code = std::thread::spawn(move || (guard(&args, &mut said), said)).join().expect("no panic");
        assert_eq!(code.0, 1);
        assert!(String::from_utf8_lossy(&code.1).contains("is gone"));
    }
}
