//! Commands as a learner types them: a real shell, in the lab's folder, with the lab's programs first on the PATH.
//!
//! Every block gets a shell of its own, but a terminal goes on: what was exported, and the folder, are written down at its end
//! and read at the next one's beginning, for each node apart. Both output streams go into
//! one pipe, in the order in which a terminal would show them. Bounded in time and in bytes; what a command leaves running
//! ends with it, and with the lab, however that ends.

use crate::lab::guide::away::Away;
use crate::lab::guide::bed::Bed;
use crate::lab::guide::service::ALIVE_VAR;
use crate::lab::guide::service::NODE_VAR;
use crate::lab::guide::service::alone;
use crate::lab::guide::simulated::SIM_VAR;
use rustix::process::Pid;
use rustix::process::Signal;
use rustix::process::kill_process_group;
use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::path::PathBuf;
use std::process;
use std::process::ExitStatus;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncRead;
use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::net::unix::pipe;
use tokio::process::Child;
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
    /// Where in the text each node's part begins, if it ran on more than one.
    pub parts: Vec<(String, usize)>,
}

/// Where commands run.
#[derive(Clone)]
pub(crate) struct Shell {
    folder: PathBuf,
    bin_dir: PathBuf,
    path: OsString,
    members: Vec<(String, String)>,
    /// How many of them are there from the beginning; the others are spare nodes.
    first: usize,
    nodes: Option<PathBuf>,
    desk: Option<PathBuf>,
    /// The lab on the screen, if its cluster is this one.
    lab: Option<PathBuf>,
    settings: &'static [(&'static str, &'static str)],
    /// What takes a command to a node that is a machine of its own.
    machine: Option<PathBuf>,
    /// The agents of the nodes, if they are other machines.
    away: Option<Arc<Away>>,
    /// The socket of the simulation that the members live in.
    simulator: Option<PathBuf>,
}

/// Where, and how, a command runs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Call<'a> {
    pub(crate) command: &'a str,
    /// Names of members; none means all.
    pub(crate) on: &'a [String],
    pub(crate) limit: Duration,
    /// It stays, as a unit of this name.
    pub(crate) background: Option<&'a str>,
    /// It leaves no traces in the terminal: what it exports is forgotten.
    pub(crate) aside: bool,
}

impl<'a> Call<'a> {
    pub(crate) fn new(command: &'a str, limit: Duration) -> Call<'a> {
        Call { command, on: &[], limit, background: None, aside: false }
    }
}

/// Read before a command, and written after it; on its first line, so that a shell that names a line names the page's. What a block sets
/// is exported (`set -a`), or the next one, which is another shell, would not have it. What a block knows of its terminal, which is none, is
/// not written down: the learner's own has another.
const GOES_ON: &str = "set -a; [ ! -f \"$LAB_SESSION\" ] || . \"$LAB_SESSION\"; \
    trap '[ \"$ETCDCTL_ENDPOINTS\" != \"$LAB_ENDPOINTS\" ] || unset ETCDCTL_ENDPOINTS; unset LAB_ENDPOINTS LAB_COMMAND TERM NO_COLOR; \
    { export PWD; export -p; echo \"cd \\\"\\$PWD\\\"\"; } >\"$LAB_SESSION\"' EXIT; ";
/// The same for a command that leaves no traces.
const READS_ON: &str = "[ ! -f \"$LAB_SESSION\" ] || . \"$LAB_SESSION\"; ";

impl Shell {
    /// A shell in `folder` that talks to the members of `bed`.
    pub(crate) fn new(folder: &Path, bed: &dyn Bed) -> Shell {
        let mut path = bed.bin_dir().as_os_str().to_owned();
        if let Some(rest) = std::env::var_os("PATH") {
            path.push(":");
            path.push(rest);
        }
        let all = bed.members().iter().chain(bed.spares());
        Shell {
            folder: folder.to_owned(),
            bin_dir: bed.bin_dir().to_owned(),
            path,
            members: all.map(|m| (m.name.clone(), m.endpoint.clone())).collect(),
            first: bed.members().len(),
            nodes: bed.nodes().map(Path::to_owned),
            desk: bed.desk(),
            lab: bed.lab().map(Path::to_owned),
            settings: bed.settings(),
            machine: bed.machine().map(Path::to_owned),
            away: bed.away(),
            simulator: bed.simulator().map(Path::to_owned),
        }
    }

    /// A file of the lab: `name` in its folder, `node:name` on a node.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        match (name.split_once(':'), &self.nodes) {
            (Some((node, path)), Some(nodes)) => nodes.join(node).join(path.trim_start_matches('/')),
            _ => self.folder.join(name),
        }
    }

    /// The agents of the nodes, if this is one of those that are other machines.
    pub(crate) fn away(&self, node: &str) -> Option<&Arc<Away>> {
        self.away.as_ref().filter(|away| away.has(node))
    }

    /// Brings a file here that is on another machine; [`Shell::file`] says where to.
    ///
    /// # Errors
    /// It could not be looked at there. What was brought before is gone then: it says nothing of now.
    pub(crate) async fn fetch(&self, name: &str) -> Result<(), String> {
        let Some((node, path)) = name.split_once(':') else { return Ok(()) };
        let Some(away) = self.away(node) else { return Ok(()) };
        let fetched = away.fetch(node, path).await;
        if fetched.is_err() {
            let _ = std::fs::remove_file(self.file(name));
        }
        fetched
    }

    /// The folder of a node.
    pub(crate) fn node(&self, name: &str) -> Option<PathBuf> {
        let nodes = self.nodes.as_ref().map(|nodes| nodes.join(name));
        nodes.or_else(|| self.desk.clone().filter(|desk| desk.ends_with(name))).filter(|n| n.is_dir())
    }

    /// Runs a command; on several nodes one after the other, with one output.
    ///
    /// # Errors
    /// The shell cannot be started, or `on` names nobody.
    pub(crate) async fn run(&self, call: Call<'_>) -> Result<Output, String> {
        let endpoints = self.endpoints(call.on)?;
        let there = |name: &&String| self.node(name).is_some();
        if call.on.is_empty() || !call.on.iter().all(|n| there(&n)) {
            return self.run_at(None, call, &endpoints).await;
        }
        let mut all = Output::default();
        for name in call.on {
            let endpoints = self.endpoints(std::slice::from_ref(name))?;
            let one = self.run_at(Some(name), call, &endpoints).await?;
            if call.on.len() > 1 {
                all.parts.push((name.clone(), all.text.len()));
            }
            all.text += &one.text;
            all.exit = if all.exit == 0 { one.exit } else { all.exit };
            (all.timed_out, all.cut) = (all.timed_out | one.timed_out, all.cut | one.cut);
        }
        Ok(all)
    }

    async fn run_at(&self, node: Option<&str>, call: Call<'_>, endpoints: &str) -> Result<Output, String> {
        let (reader, writer) = std::io::pipe().map_err(|e| format!("no pipe for the command: {e}"))?;
        let reader = pipe::Receiver::from_owned_fd(OwnedFd::from(reader)).map_err(|e| format!("no pipe: {e}"))?;
        let second = writer.try_clone().map_err(|e| format!("no pipe for the command: {e}"))?;
        let mut child = self.prepared(node, call, endpoints).stdout(writer).stderr(second).spawn();
        // The prepared command has just been dropped, and with it our ends of the pipe: the reader sees the end.
        let child = child.as_mut().map_err(|e| format!("/bin/sh cannot be started: {e}"))?;
        let group = child.id().and_then(|id| Pid::from_raw(id.cast_signed()));
        let heir = group.map(Heir::of).transpose().map_err(|e| format!("/bin/sh cannot be started: {e}"))?;
        let reading = tokio::spawn(read(reader));
        let ended = timeout(call.limit, child.wait()).await;
        if let Some(group) = group {
            // Nothing is left to kill, usually; that is the only way this fails.
            let _ = kill_process_group(group, Signal::KILL);
        }
        if let Some(heir) = heir {
            heir.dismiss().await;
        }
        let timed_out = ended.is_err();
        let status = match ended {
            Ok(status) => status,
            Err(_) => child.wait().await,
        };
        let status = status.map_err(|e| format!("the command's end was not seen: {e}"))?;
        let (text, cut) = timeout(PIPE_GRACE, reading).await.ok().and_then(Result::ok).unwrap_or_default();
        Ok(Output { text, exit: exit_code(status), timed_out, cut, parts: Vec::new() })
    }

    fn endpoints(&self, on: &[String]) -> Result<String, String> {
        let known = || self.members.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(", ");
        if let Some(nobody) = on.iter().find(|n| !self.members.iter().any(|(name, _)| name == *n)) {
            return Err(format!("there is no member `{nobody}` in this cluster; there are {}", known()));
        }
        let all = &self.members[..if on.is_empty() { self.first } else { self.members.len() }];
        let chosen = all.iter().filter(|(name, _)| on.is_empty() || on.contains(name));
        Ok(chosen.map(|(_, endpoint)| endpoint.as_str()).collect::<Vec<_>>().join(","))
    }

    fn prepared(&self, node: Option<&str>, call: Call<'_>, endpoints: &str) -> Command {
        let start = if call.aside { READS_ON } else { GOES_ON };
        let is_away = node.is_some_and(|node| self.away(node).is_some());
        let command = match call.background {
            Some(unit) if is_away => {
                // systemd's own takes a program and its words.
                format!("{start}systemd-run -q -G --unit={unit} /bin/sh -c \"$LAB_COMMAND\"")
            }
            Some(unit) => format!("{start}systemd-run --unit={unit} \"$LAB_COMMAND\""),
            None => format!("{start}{}", call.command),
        };
        let mut shell = Command::from(self.plain(node, &command, endpoints));
        // etcdctl refuses a flag that a variable names as well.
        if call.command.contains("--endpoints") {
            shell.env_remove("ETCDCTL_ENDPOINTS");
        }
        let whole = if is_away { alone(call.command) } else { call.command.to_owned() };
        shell.stdin(Stdio::null()).env("NO_COLOR", "1").env("TERM", "dumb").env("LAB_COMMAND", whole);
        shell.process_group(0).kill_on_drop(true);
        shell
    }

    /// `/bin/sh -c` with this text, in the surroundings of a node, or of the learner's desk.
    fn plain(&self, node: Option<&str>, command: &str, endpoints: &str) -> process::Command {
        let desk = match node {
            Some(node) => self.nodes.as_ref().map(|nodes| nodes.join(node)),
            None => self.desk.clone(),
        };
        let home = desk.as_ref().filter(|_| node.is_some()).unwrap_or(&self.folder);
        let there = self.machine.is_some() && node.is_some();
        let mut shell = match (&self.machine, node) {
            (Some(machine), Some(node)) => {
                let mut shell = process::Command::new(machine);
                shell.args([node, "/bin/sh"]);
                shell
            }
            _ => process::Command::new("/bin/sh"),
        };
        shell.arg("-c").arg(command).current_dir(home);
        let ours = |name: &str| name.starts_with("ETCD_") || name.starts_with("ETCDCTL_");
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_str().is_some_and(ours)) {
            shell.env_remove(name);
        }
        shell.envs(self.settings.iter().copied()).env("PATH", &self.path).env("ETCDCTL_ENDPOINTS", endpoints);
        // With the bed's desk it goes: where another cluster's programs are says nothing on this one.
        let session = desk.as_ref().filter(|desk| desk.is_dir()).unwrap_or(&self.folder).join(".lab-session");
        shell.env("LAB_SESSION", session);
        shell.env("LAB_ENDPOINTS", endpoints).env("HOME", if there { Path::new("/") } else { home });
        match &self.lab {
            Some(lab) => shell.env("ETCD_LAB", lab),
            None => shell.env_remove("ETCD_LAB"),
        };
        if let Some(simulator) = &self.simulator {
            shell.env(SIM_VAR, simulator);
        }
        if let Some(desk) = desk {
            shell.env(NODE_VAR, desk).env(ALIVE_VAR, self.bin_dir.with_file_name("alive"));
            shell.env("HOSTNAME", node.unwrap_or("desk"));
        }
        shell
    }

    /// A shell for the learner's own hands, at the desk: it goes on where the blocks are, with `on NODE COMMAND` at hand. What is set
    /// in it stays in it.
    ///
    /// # Errors
    /// The lab's folder cannot be written to.
    pub(crate) fn terminal(&self) -> std::io::Result<process::Command> {
        let begin = self.folder.join(".lab-terminal");
        std::fs::write(&begin, TERMINAL)?;
        let command = "if command -v bash >/dev/null; then exec bash --rcfile \"$LAB_TERMINAL\" -i; fi; \
                       ENV=\"$LAB_TERMINAL\"; export ENV; exec /bin/sh -i";
        let mut shell = self.plain(None, command, &self.endpoints(&[]).unwrap_or_default());
        shell.env("LAB_TERMINAL", begin);
        Ok(shell)
    }
}

/// Ends a block's processes if nobody else does: if the lab is killed, or no longer waits for the block. It is a process that reads from
/// a pipe of the lab's; whatever ends the lab closes that.
struct Heir(Child);

/// Waits for a word. Without one, kills the group `$1`.
const INHERITS: &str = "read -r word || kill -s KILL -- \"-$1\"";

impl Heir {
    fn of(group: Pid) -> std::io::Result<Heir> {
        let mut heir = Command::new("/bin/sh");
        heir.args(["-c", INHERITS, "heir", &group.as_raw_nonzero().to_string()]).stdin(Stdio::piped());
        // A group of its own: Ctrl-C in the lab's terminal is for the lab.
        heir.stdout(Stdio::null()).stderr(Stdio::null()).process_group(0).spawn().map(Heir)
    }

    /// Lets it go, as the group has ended: its number may be another's by and by.
    async fn dismiss(mut self) {
        if let Some(mut pipe) = self.0.stdin.take() {
            drop(pipe.write_all(b"ended\n").await);
        }
        drop(self.0.wait().await);
    }
}

/// With what a terminal begins. By hand, too, `--endpoints` is to win over the variable; etcdctl itself refuses to choose.
const TERMINAL: &str = "[ ! -f \"$LAB_SESSION\" ] || . \"$LAB_SESSION\"\n\
    etcdctl() {\n\
    \x20 case \" $* \" in\n\
    \x20   *--endpoints*) (unset ETCDCTL_ENDPOINTS; command etcdctl \"$@\") ;;\n\
    \x20   *) command etcdctl \"$@\" ;;\n\
    \x20 esac\n\
    }\n\
    PS1='desk$ '\n";

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
    use crate::lab::guide::scratch::scratch;

    fn shell() -> Shell {
        let members = [("n1", "127.0.0.1:1"), ("n2", "127.0.0.1:2")];
        Shell {
            folder: scratch("shell-test").expect("a folder"),
            bin_dir: PathBuf::from("/nowhere/bin"),
            path: std::env::var_os("PATH").unwrap_or_default(),
            members: members.map(|(a, b)| (a.to_owned(), b.to_owned())).into(),
            first: 2,
            nodes: None,
            desk: None,
            lab: None,
            settings: &[],
            machine: None,
            away: None,
            simulator: None,
        }
    }

    async fn run(command: &str, limit_ms: u64) -> Output {
        let shell = shell();
        let output = shell.run(Call::new(command, Duration::from_millis(limit_ms))).await.expect("a shell starts");
        std::fs::remove_dir_all(&shell.folder).expect("it is there");
        output
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
    async fn what_runs_ends_with_the_lab() {
        let shell = shell();
        let pids = shell.folder.join("pids");
        let desk = shell.clone();
        let command = "sleep 60 & echo $! >new; echo $$ >>new; mv new pids; sleep 60";
        let block = tokio::spawn(async move { desk.run(Call::new(command, Duration::from_secs(50))).await });
        let mut every = tokio::time::interval(Duration::from_millis(5));
        let begun = async {
            while !pids.exists() {
                every.tick().await;
            }
        };
        timeout(Duration::from_secs(20), begun).await.expect("the block has begun");
        let pids = std::fs::read_to_string(&pids).expect("two pids");
        // The lab's end of the pipe closes, as when the lab is killed.
        block.abort();
        let runs = |pid: &str| {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            !stat.is_empty() && !stat.contains(") Z")
        };
        let gone = async {
            while pids.lines().any(runs) {
                every.tick().await;
            }
        };
        timeout(Duration::from_secs(20), gone).await.expect("all that the block has started ends");
        assert_eq!(pids.lines().count(), 2);
        std::fs::remove_dir_all(&shell.folder).expect("it is there");
    }

    #[tokio::test]
    async fn a_flood_is_cut() {
        let output = run("head -c 1000000 /dev/zero | tr '\\0' x", 10_000).await;
        assert!(output.cut);
        assert_eq!(output.text.len(), OUTPUT_BYTES_MAX);
    }

    #[tokio::test]
    async fn endpoints_are_those_of_the_members_named() {
        let (shell, limit) = (shell(), Duration::from_secs(10));
        let on = |name: &str| [name.to_owned()];
        let echo = Call::new("echo $ETCDCTL_ENDPOINTS", limit);
        let asked = shell.run(Call { on: &on("n2"), ..echo }).await;
        assert_eq!(asked.expect("a shell starts").text, "127.0.0.1:2\n");
        let nobody = shell.run(Call { on: &on("n9"), ..Call::new("true", limit) }).await;
        assert_eq!(nobody, Err("there is no member `n9` in this cluster; there are n1, n2".into()));
        std::fs::remove_dir_all(&shell.folder).expect("it is there");
    }

    #[tokio::test]
    async fn a_terminal_goes_on_from_block_to_block() {
        let (shell, limit) = (shell(), Duration::from_secs(10));
        let said = |command: &'static str, aside| {
            let shell = shell.clone();
            async move {
                let output = shell.run(Call { aside, ..Call::new(command, limit) }).await.expect("a shell starts");
                (output.text, output.exit)
            }
        };
        assert_eq!(said("export A=\"it's\" ETCDCTL_API=3; mkdir -p b; cd b; exit 3", false).await, (String::new(), 3));
        assert_eq!(
            said("echo $A ${PWD##*/} $ETCDCTL_ENDPOINTS; nonsense", false).await.0.lines().next(),
            Some("it's b 127.0.0.1:1,127.0.0.1:2")
        );
        said("export A=other; cd /", true).await;
        assert_eq!(said("echo $A ${PWD##*/}", false).await.0, "it's b\n", "aside leaves no traces");
        let kept = std::fs::read_to_string(shell.folder.join(".lab-session")).expect("it is written down");
        assert!(
            !kept.contains("export TERM=") && !kept.contains("NO_COLOR="),
            "the learner's terminal is another: {kept}"
        );
        said("mkdir \"o'brien\"; cd \"o'brien\"", false).await;
        assert_eq!(said("echo ${PWD##*/}", false).await, ("o'brien\n".to_owned(), 0), "a quote in a folder's name");
        said("export ETCDCTL_ENDPOINTS=mine", false).await;
        assert_eq!(said("echo $ETCDCTL_ENDPOINTS", false).await.0, "mine\n");
        std::fs::remove_dir_all(&shell.folder).expect("it is there");
    }
}
