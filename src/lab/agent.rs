//! `etcd-lab agent`: on another machine, what the lab needs to know of it, by standard input and output.
//!
//! It is started over ssh, so that nothing new listens. It says who it is, and then answers a line of JSON with a line of JSON: run a
//! command, look at a file or at a unit. `open` makes a pipe of the rest, to a socket of a member there: telemetry and control go through it as
//! they are.
//!
//! Whoever asks may leave at any time, by Ctrl-C too: that is the end of the input, and ends the command that runs. So one thread listens, and
//! another answers. Of what a command says, the beginning is told and the rest is thrown away: a machine of the course is small.

use rustix::process::Pid;
use rustix::process::Signal;
use rustix::process::WaitId;
use rustix::process::WaitIdOptions;
use rustix::process::kill_process_group;
use rustix::process::waitid;
use serde::Deserialize;
use serde::Serialize;
use std::fs;
use std::io;
use std::io::BufRead;
use std::io::BufReader;
use std::io::Read;
use std::io::Write;
use std::net::Shutdown;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::path::PathBuf;
use std::process::Child;
use std::process::ChildStdin;
use std::process::ChildStdout;
use std::process::Command;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::mpsc;
use std::thread;
use std::thread::JoinHandle;

/// Bytes of a file, and of each of a command's outputs, that are told.
pub const MOST: usize = 1 << 20;

/// A question.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "do", deny_unknown_fields)]
pub enum Ask {
    /// A command, with its words.
    Run { argv: Vec<String> },
    /// A file, or a folder.
    File { path: PathBuf },
    /// A unit of systemd.
    Unit { name: String },
    /// From here on, this socket.
    Open { socket: PathBuf },
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "is", deny_unknown_fields)]
pub enum Answer {
    /// The first line of all.
    Agent {
        version: String,
        host: String,
    },
    Ran {
        exit: i32,
        out: String,
        err: String,
        /// One of them was longer.
        cut: bool,
    },
    File {
        exists: bool,
        dir: bool,
        mode: String,
        size: u64,
        text: String,
    },
    Unit {
        load: String,
        active: String,
        enabled: String,
        /// 0: no process.
        pid: u32,
    },
    Opened,
    /// It could not be done, and why.
    Error {
        why: String,
    },
}

/// Answers until there are no more questions. Returns the exit code.
pub fn serve(input: impl BufRead + Send + 'static, out: &mut dyn Write) -> u8 {
    let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned();
    let served = say(out, &Answer::Agent { version: env!("CARGO_PKG_VERSION").into(), host })
        .and_then(|()| questions(input, out));
    // Whoever asked is gone if this failed; nobody is left to tell.
    u8::from(served.is_err())
}

/// What the listening thread has heard.
enum Heard<I> {
    Ask(Ask),
    /// The rest of the input belongs to this socket.
    Opened(I, UnixStream),
    Wrong(String),
}

/// The command that runs, as the process that leads its group; and whether anybody is left to hear of it.
#[derive(Debug, Default)]
struct Running {
    leader: Option<Pid>,
    is_over: bool,
}

fn questions(input: impl BufRead + Send + 'static, out: &mut dyn Write) -> io::Result<()> {
    let running = Arc::new(Mutex::new(Running::default()));
    let (hears, heard) = mpsc::sync_channel(1);
    thread::spawn({
        let running = running.clone();
        move || {
            listen(input, &hears);
            let mut running = running.lock().unwrap_or_else(PoisonError::into_inner);
            running.is_over = true;
            running.leader.into_iter().for_each(end);
        }
    });
    for heard in heard {
        let answer = match heard {
            Heard::Opened(input, there) => {
                say(out, &Answer::Opened)?;
                return pipe(input, out, there);
            }
            Heard::Ask(ask) => answer(&ask, &running),
            Heard::Wrong(why) => Err(why),
        };
        say(out, &answer.unwrap_or_else(|why| Answer::Error { why }))?;
    }
    Ok(())
}

/// Reads questions until there are no more, or the input belongs to a socket, or nobody answers any more.
fn listen<I: BufRead>(mut input: I, hears: &mpsc::SyncSender<Heard<I>>) {
    let mut line = Vec::new();
    // An input that cannot be read has ended.
    while Read::take(&mut input, MOST as u64).read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
        let heard = match serde_json::from_slice(&line) {
            Ok(Ask::Open { socket }) => match UnixStream::connect(&socket) {
                Ok(there) => return drop(hears.send(Heard::Opened(input, there))),
                Err(e) => Heard::Wrong(format!("{}: {e}", socket.display())),
            },
            Ok(ask) => Heard::Ask(ask),
            Err(e) => Heard::Wrong(format!("the agent does not understand this: {e}")),
        };
        if hears.send(heard).is_err() {
            return;
        }
        line.clear();
    }
}

fn say(out: &mut dyn Write, answer: &Answer) -> io::Result<()> {
    serde_json::to_writer(&mut *out, answer)?;
    out.write_all(b"\n")?;
    out.flush()
}

fn answer(ask: &Ask, running: &Mutex<Running>) -> Result<Answer, String> {
    match ask {
        Ask::Run { argv } => {
            let (program, args) = argv.split_first().ok_or("which command?")?;
            ran(Command::new(program).args(args), running).map_err(|e| format!("{program}: {e}"))
        }
        Ask::File { path } => file(path).map_err(|e| format!("{}: {e}", path.display())),
        Ask::Unit { name } => {
            let shown = ["show", "--property=LoadState,ActiveState,UnitFileState,MainPID", "--", name];
            let done = Command::new("systemctl").args(shown).output().map_err(|e| format!("systemctl: {e}"))?;
            let said = text(&done.stdout);
            let of = |word: &str| said.lines().find_map(|l| l.strip_prefix(word)).unwrap_or_default().to_owned();
            let pid = of("MainPID=").parse().unwrap_or_default();
            Ok(Answer::Unit { load: of("LoadState="), active: of("ActiveState="), enabled: of("UnitFileState="), pid })
        }
        Ask::Open { .. } => Err("a socket is opened before this".into()),
    }
}

/// Runs a command to its end, or until nobody asks any more.
fn ran(command: &mut Command, running: &Mutex<Running>) -> io::Result<Answer> {
    let piped = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    // A group of its own, so that all of it can be ended.
    let mut child = piped.process_group(0).spawn()?;
    let leader = Pid::from_child(&child);
    {
        let mut running = running.lock().unwrap_or_else(PoisonError::into_inner);
        running.leader = Some(leader);
        if running.is_over {
            end(leader);
        }
    }
    let (out, err) = (child.stdout.take().map(begin_of), child.stderr.take().map(begin_of));
    let told = |thread: Option<JoinHandle<(Vec<u8>, bool)>>| thread.and_then(|t| t.join().ok()).unwrap_or_default();
    let ((out, is_out_cut), (err, is_err_cut)) = (told(out), told(err));
    let ended = waitid(WaitId::Pid(leader), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT);
    // Reaped only when nobody ends it any more: until then its number is nobody else's.
    running.lock().unwrap_or_else(PoisonError::into_inner).leader = None;
    ended?;
    // Killed by a signal: no exit code of its own.
    let exit = child.wait()?.code().unwrap_or(-1);
    Ok(Answer::Ran { exit, out: text(&out), err: text(&err), cut: is_out_cut || is_err_cut })
}

/// Reads a pipe to its end, and keeps its beginning. True if there was more.
fn begin_of(mut from: impl Read + Send + 'static) -> JoinHandle<(Vec<u8>, bool)> {
    thread::spawn(move || {
        let mut kept = Vec::new();
        // What it has said so far is better than nothing.
        let _ = from.by_ref().take(MOST as u64).read_to_end(&mut kept);
        let more = io::copy(&mut from, &mut io::sink());
        (kept, more.is_ok_and(|bytes| bytes > 0))
    })
}

/// Ends a command and all that it has started.
fn end(leader: Pid) {
    // It may have ended by itself.
    let _ = kill_process_group(leader, Signal::KILL);
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(&bytes[..bytes.len().min(MOST)]).into_owned()
}

fn file(path: &Path) -> io::Result<Answer> {
    let meta = match fs::metadata(path) {
        Ok(meta) => meta,
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            let (mode, text) = (String::new(), String::new());
            return Ok(Answer::File { exists: false, dir: false, mode, size: 0, text });
        }
        Err(e) => return Err(e),
    };
    let mut bytes = Vec::new();
    // A pipe or a device has no end.
    if meta.is_file() {
        fs::File::open(path)?.take(MOST as u64).read_to_end(&mut bytes)?;
    }
    let mode = format!("{:o}", meta.permissions().mode() & 0o7777);
    Ok(Answer::File { exists: true, dir: meta.is_dir(), mode, size: meta.len(), text: text(&bytes) })
}

/// Both ways until the socket's side ends.
fn pipe(mut input: impl Read + Send + 'static, out: &mut dyn Write, mut there: UnixStream) -> io::Result<()> {
    let mut to = there.try_clone()?;
    // Not waited for: whoever asked may be silent for as long as they like, also when the member has gone.
    thread::spawn(move || copy(&mut input, &mut to).and_then(|()| to.shutdown(Shutdown::Write)));
    copy(&mut there, out)
}

fn copy(from: &mut dyn Read, to: &mut dyn Write) -> io::Result<()> {
    let mut buffer = [0; 16 << 10];
    loop {
        let count = from.read(&mut buffer)?;
        if count == 0 {
            return Ok(());
        }
        to.write_all(&buffer[..count])?;
        to.flush()?;
    }
}

/// An agent on another machine, from here.
pub struct Remote {
    child: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
    version: String,
}

impl Remote {
    /// Starts it by this command, and hears who it is.
    ///
    /// # Errors
    /// It cannot be reached, with what the command says of it.
    pub fn start(command: &mut Command) -> Result<Remote, String> {
        let program = command.get_program().to_string_lossy().into_owned();
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().map_err(|e| format!("{program}: {e}"))?;
        let (Some(to), Some(from)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(format!("{program}: no pipes to it"));
        };
        let mut remote = Remote { child, to, from: BufReader::new(from), version: String::new() };
        match remote.hear()? {
            Answer::Agent { version, .. } => remote.version = version,
            other => return Err(format!("this is no agent: {other:?}")),
        }
        Ok(remote)
    }

    /// Its version.
    #[must_use]
    pub fn version(&self) -> &str {
        &self.version
    }

    /// Asks, and waits for the answer.
    ///
    /// # Errors
    /// It is gone, or says why it cannot.
    pub fn ask(&mut self, ask: &Ask) -> Result<Answer, String> {
        let line = serde_json::to_string(ask).unwrap_or_default() + "\n";
        self.to.write_all(line.as_bytes()).and_then(|()| self.to.flush()).map_err(|e| format!("the agent: {e}"))?;
        match self.hear()? {
            Answer::Error { why } => Err(why),
            answer => Ok(answer),
        }
    }

    /// Makes a pipe of it, to this socket there.
    ///
    /// # Errors
    /// As [`Remote::ask`].
    pub fn open(mut self, socket: &Path) -> Result<Pipe, String> {
        match self.ask(&Ask::Open { socket: socket.into() })? {
            Answer::Opened => Ok(Pipe(self)),
            other => Err(format!("another answer: {other:?}")),
        }
    }

    fn hear(&mut self) -> Result<Answer, String> {
        let mut line = String::new();
        // JSON writes a byte as six signs at most.
        let most = 16 * MOST as u64;
        let read = self.from.by_ref().take(most).read_line(&mut line).map_err(|e| format!("the agent: {e}"))?;
        if read == 0 {
            let mut said = String::new();
            if let Some(err) = self.child.stderr.take() {
                // What it has said so far is better than nothing.
                let _ = err.take(MOST as u64).read_to_string(&mut said);
            }
            return Err(format!("no agent answers ({})", said.trim()));
        }
        serde_json::from_str(&line).map_err(|e| format!("this is no agent ({e}): {}", line.trim()))
    }
}

/// An agent that is nothing but a pipe any more, to a socket on its machine.
pub struct Pipe(Remote);

impl Pipe {
    /// Carries what is said both ways, until one of the two sides ends. Then both have.
    pub fn carry(mut self, here: &UnixStream) {
        thread::scope(|scope| {
            let (from, to) = (&mut self.0.from, &mut self.0.to);
            scope.spawn(|| {
                // However it ends, it has ended.
                let _ = copy(from, &mut &*here);
                let _ = here.shutdown(Shutdown::Both);
            });
            let _ = copy(&mut &*here, to);
            // Whoever started the agent ends with this, and with it what the other thread reads.
            let _ = self.0.child.kill();
        });
    }
}

impl Drop for Remote {
    fn drop(&mut self) {
        // It may have ended before.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    /// An agent at the other end of a socket: what to ask it by, the lines that it says, and its thread.
    fn agent() -> (UnixStream, impl Iterator<Item = Answer>, JoinHandle<u8>) {
        let (here, there) = UnixStream::pair().expect("a pair");
        let mut to = there.try_clone().expect("a socket");
        let serves = thread::spawn(move || serve(BufReader::new(there), &mut to));
        let lines = BufReader::new(here.try_clone().expect("a socket")).lines();
        let answers = lines.map(|line| serde_json::from_str(&line.expect("a line")).expect("an answer"));
        (here, answers.skip(1), serves)
    }

    #[test]
    fn commands_and_files_are_told_and_what_is_wrong_ends_nothing() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        fs::write(file.path(), "etcd\n").expect("written");
        let lines = format!(
            "{}\nnonsense\n{}\n{}\n",
            r#"{"do":"run","argv":["sh","-c","echo here; echo there >&2; exit 3"]}"#,
            serde_json::to_string(&Ask::File { path: file.path().into() }).expect("JSON"),
            r#"{"do":"file","path":"/nowhere"}"#,
        );
        let (mut to, answers, _) = agent();
        to.write_all(lines.as_bytes()).expect("heard");
        let told: Vec<Answer> = answers.take(4).collect();
        let (out, err) = ("here\n".into(), "there\n".into());
        assert_eq!(told[0], Answer::Ran { exit: 3, out, err, cut: false });
        assert!(matches!(&told[1], Answer::Error { why } if why.contains("does not understand")), "{told:?}");
        let (mode, text) = ("600".to_owned(), "etcd\n".to_owned());
        assert_eq!(told[2], Answer::File { exists: true, dir: false, mode, size: 5, text });
        assert!(matches!(told[3], Answer::File { exists: false, .. }));
    }

    #[test]
    fn what_a_command_says_without_end_is_cut_and_that_is_told() {
        let (mut to, mut answers, _) = agent();
        let mut run = |line: &str| {
            let argv = ["sh", "-c", line].map(str::to_owned).to_vec();
            writeln!(to, "{}", serde_json::to_string(&Ask::Run { argv }).expect("JSON")).expect("heard");
            answers.next()
        };
        for (line, is_cut) in [("head -c 1048576 /dev/zero", false), ("head -c 9000000 /dev/zero >&2", true)] {
            let Some(Answer::Ran { exit: 0, out, err, cut }) = run(line) else { panic!("{line}") };
            assert_eq!((out.len() + err.len(), cut), (MOST, is_cut), "{line}");
        }
    }

    #[test]
    fn no_more_is_kept_than_is_told() {
        let kept = begin_of(io::repeat(0).take(5 * MOST as u64)).join().expect("it ends");
        assert_eq!((kept.0.len(), kept.1), (MOST, true));
        assert_eq!(begin_of(io::Cursor::new(b"all")).join().expect("it ends"), (b"all".to_vec(), false));
    }

    #[test]
    fn a_command_ends_when_nobody_asks_any_more() {
        let folder = tempfile::tempdir().expect("a folder");
        let pipe = folder.path().join("pipe");
        assert!(Command::new("mkfifo").arg(&pipe).status().expect("mkfifo").success());
        let (mut to, _answers, serves) = agent();
        // What runs below the command holds the pipe open for as long as it lives.
        let line = format!("(echo begun; exec sleep 600) >{} & wait", pipe.display());
        let argv = ["sh".into(), "-c".into(), line].to_vec();
        writeln!(to, "{}", serde_json::to_string(&Ask::Run { argv }).expect("JSON")).expect("heard");
        let mut lives = BufReader::new(fs::File::open(&pipe).expect("it begins"));
        let mut said = String::new();
        lives.read_line(&mut said).expect("read");
        assert_eq!(said, "begun\n");
        let (told, hears) = mpsc::channel();
        thread::spawn(move || told.send((lives.read_line(&mut String::new()).ok(), serves.join().ok())));
        to.shutdown(Shutdown::Both).expect("it was open");
        let ended = hears.recv_timeout(std::time::Duration::from_secs(20)).expect("all of it has ended");
        assert_eq!(ended.0, Some(0), "nothing more was said");
    }

    #[test]
    fn a_socket_is_a_pipe_from_then_on() {
        let folder = tempfile::tempdir().expect("a folder");
        let socket = folder.path().join("s");
        let listener = UnixListener::bind(&socket).expect("bound");
        let member = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("somebody comes");
            let mut said = String::new();
            stream.read_to_string(&mut said).expect("read");
            stream.write_all(format!("you said {said}").as_bytes()).expect("written");
        });
        let ask = serde_json::to_string(&Ask::Open { socket }).expect("JSON");
        let mut out = Vec::new();
        assert_eq!(serve(io::Cursor::new(format!("{ask}\nraw bytes")), &mut out), 0);
        member.join().expect("it ended");
        let text = String::from_utf8(out).expect("text");
        assert!(text.ends_with("{\"is\":\"opened\"}\nyou said raw bytes"), "{text}");
    }

    /// A stand-in for the agent: it opens whatever it is asked to, and says back what it hears.
    const ECHO: &str = r#"echo '{"is":"agent","version":"1","host":"h"}'; read -r ask; echo "$ask" >&2
        printf '{"is":"opened"}\nat once '; exec cat"#;

    #[test]
    fn a_pipe_carries_both_ways_and_ends_with_either_side() {
        let open = || {
            let mut command = Command::new("sh");
            command.args(["-c", ECHO]).stderr(Stdio::null());
            Remote::start(&mut command).and_then(|there| there.open(Path::new("/s"))).expect("it opens")
        };
        let (mut here, end) = UnixStream::pair().expect("a pair");
        let carries = thread::spawn(move || open().carry(&end));
        here.write_all(b"and back").expect("written");
        let mut heard = [0; 16];
        here.read_exact(&mut heard).expect("read");
        assert_eq!(&heard, b"at once and back", "what came with the answer's line is not lost");
        drop(here);
        carries.join().expect("it ends with this side");

        let (mut here, end) = UnixStream::pair().expect("a pair");
        let pipe = open();
        let there = Pid::from_child(&pipe.0.child);
        let carries = thread::spawn(move || pipe.carry(&end));
        kill(there);
        here.read_to_end(&mut Vec::new()).expect("the end");
        carries.join().expect("it ends with the other side");
    }

    fn kill(process: Pid) {
        rustix::process::kill_process(process, Signal::KILL).expect("it runs");
    }
}
