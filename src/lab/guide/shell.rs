//! Commands as a learner types them: a real shell, in the lab's folder, with the lab's programs first on the PATH.
//!
//! Every command gets a shell of its own, so `cd` and `export` end with the block; files stay. Both output streams go into
//! one pipe, in the order in which a terminal would show them. Bounded in time and in bytes; what a command leaves running
//! ends with it.

use crate::lab::guide::bed::Bed;
use rustix::process::Pid;
use rustix::process::Signal;
use rustix::process::kill_process_group;
use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::process::Stdio;
use std::time::Duration;
use tokio::io::AsyncRead;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::process::Command;
use tokio::time::timeout;

/// How much of an output is kept. A command may print more; the rest is read and dropped.
const OUTPUT_BYTES_MAX: usize = 256 * 1024;

/// How long the pipe may stay open after the last process of a block was killed.
const PIPE_GRACE: Duration = Duration::from_secs(2);

/// What a command printed, and how it ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Output {
    /// Both streams.
    pub text: String,
    /// The exit code; 128 and the signal's number if a signal ended it.
    pub exit: i32,
    /// It was ended because its time was over.
    pub timed_out: bool,
    /// It printed more than is kept.
    pub cut: bool,
}

/// Where commands run.
#[derive(Clone, Debug)]
pub(crate) struct Shell {
    folder: PathBuf,
    path: OsString,
    members: Vec<(String, String)>,
}

impl Shell {
    /// A shell in `folder` that talks to the members of `bed`.
    pub(crate) fn new(folder: &Path, bed: &dyn Bed) -> Shell {
        let mut path = bed.bin_dir().as_os_str().to_owned();
        if let Some(rest) = std::env::var_os("PATH") {
            path.push(":");
            path.push(rest);
        }
        let members = bed.members().iter().map(|m| (m.name.clone(), m.endpoint.clone())).collect();
        Shell { folder: folder.to_owned(), path, members }
    }

    /// Runs a command. `on` names members; none means all.
    ///
    /// # Errors
    /// The shell cannot be started, or `on` names nobody.
    pub(crate) async fn run(&self, command: &str, on: &[String], limit: Duration) -> Result<Output, String> {
        let endpoints = self.endpoints(on)?;
        let (reader, writer) = std::io::pipe().map_err(|e| format!("no pipe for the command: {e}"))?;
        let reader = pipe::Receiver::from_owned_fd(OwnedFd::from(reader)).map_err(|e| format!("no pipe: {e}"))?;
        let second = writer.try_clone().map_err(|e| format!("no pipe for the command: {e}"))?;
        let mut child = self.prepared(command, &endpoints).stdout(writer).stderr(second).spawn();
        // The prepared command has just been dropped, and with it our ends of the pipe: the reader sees the end.
        let child = child.as_mut().map_err(|e| format!("/bin/sh cannot be started: {e}"))?;
        let group = child.id().and_then(|id| Pid::from_raw(id.cast_signed()));
        let reading = tokio::spawn(read(reader));
        let ended = timeout(limit, child.wait()).await;
        if let Some(group) = group {
            // Nothing is left to kill, usually; that is the only way this fails.
            let _ = kill_process_group(group, Signal::KILL);
        }
        let timed_out = ended.is_err();
        let status = match ended {
            Ok(status) => status,
            Err(_) => child.wait().await,
        };
        let status = status.map_err(|e| format!("the command's end was not seen: {e}"))?;
        let (text, cut) = timeout(PIPE_GRACE, reading).await.ok().and_then(Result::ok).unwrap_or_default();
        Ok(Output { text, exit: exit_code(status), timed_out, cut })
    }

    fn endpoints(&self, on: &[String]) -> Result<String, String> {
        let known = || self.members.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(", ");
        if let Some(nobody) = on.iter().find(|n| !self.members.iter().any(|(name, _)| name == *n)) {
            return Err(format!("there is no member `{nobody}` in this cluster; there are {}", known()));
        }
        let chosen = self.members.iter().filter(|(name, _)| on.is_empty() || on.contains(name));
        Ok(chosen.map(|(_, endpoint)| endpoint.as_str()).collect::<Vec<_>>().join(","))
    }

    fn prepared(&self, command: &str, endpoints: &str) -> Command {
        let mut shell = Command::new("/bin/sh");
        shell.arg("-c").arg(command).current_dir(&self.folder).stdin(Stdio::null());
        let ours = |name: &str| name.starts_with("ETCD_") || name.starts_with("ETCDCTL_");
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_str().is_some_and(ours)) {
            shell.env_remove(name);
        }
        shell.env("PATH", &self.path).env("ETCDCTL_ENDPOINTS", endpoints).env("NO_COLOR", "1").env("TERM", "dumb");
        shell.process_group(0).kill_on_drop(true);
        shell
    }
}

async fn read(mut from: impl AsyncRead + Unpin) -> (String, bool) {
    let (mut kept, mut cut) = (Vec::new(), false);
    let mut buffer = vec![0; 8192];
    while let Ok(n @ 1..) = from.read(&mut buffer).await {
        let room = OUTPUT_BYTES_MAX - kept.len();
        kept.extend_from_slice(&buffer[..n.min(room)]);
        cut |= n > room;
    }
    (String::from_utf8_lossy(&kept).into_owned(), cut)
}

fn exit_code(status: ExitStatus) -> i32 {
    status.code().or_else(|| status.signal().map(|s| 128 + s)).unwrap_or(-1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell() -> Shell {
        let members = [("n1", "127.0.0.1:1"), ("n2", "127.0.0.1:2")];
        Shell {
            folder: std::env::temp_dir(),
            path: std::env::var_os("PATH").unwrap_or_default(),
            members: members.map(|(a, b)| (a.to_owned(), b.to_owned())).into(),
        }
    }

    async fn run(command: &str, limit_ms: u64) -> Output {
        shell().run(command, &[], Duration::from_millis(limit_ms)).await.expect("a shell starts")
    }

    #[tokio::test]
    async fn both_streams_come_in_the_order_of_a_terminal() {
        let output = run("echo one; echo two >&2; echo three; exit 3", 10_000).await;
        assert_eq!((output.text.as_str(), output.exit), ("one\ntwo\nthree\n", 3));
    }

    #[tokio::test]
    async fn a_command_that_does_not_end_is_ended_with_all_it_started() {
        let output = run("echo begun; sleep 60 & sleep 60", 300).await;
        assert!(output.timed_out);
        assert_eq!((output.text.as_str(), output.exit), ("begun\n", 137));
    }

    #[tokio::test]
    async fn what_is_left_running_ends_with_its_block() {
        let output = run("sleep 60 & echo done", 10_000).await;
        assert_eq!((output.text.as_str(), output.timed_out), ("done\n", false));
    }

    #[tokio::test]
    async fn a_flood_is_cut() {
        let output = run("head -c 1000000 /dev/zero | tr '\\0' x", 10_000).await;
        assert!(output.cut);
        assert_eq!(output.text.len(), OUTPUT_BYTES_MAX);
    }

    #[tokio::test]
    async fn endpoints_are_those_of_the_members_named() {
        let asked = shell().run("echo $ETCDCTL_ENDPOINTS", &["n2".to_owned()], Duration::from_secs(10)).await;
        assert_eq!(asked.expect("a shell starts").text, "127.0.0.1:2\n");
        let nobody = shell().run("true", &["n9".to_owned()], Duration::from_secs(10)).await;
        assert_eq!(nobody, Err("there is no member `n9` in this cluster; there are n1, n2".into()));
    }
}
