//! `etcd-lab agent`: on another machine, what the lab needs to know of it, by standard input and output.
//!
//! It is started over ssh, so that nothing new listens. It says who it is, and then answers a line of JSON with a line of JSON: run a
//! command, look at a file or at a unit. `open` makes a pipe of the rest, to a socket of a member there: telemetry and control go through it as
//! they are.
//!
//! Left out: members of other machines on the lab's screens.

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
use std::path::Path;
use std::path::PathBuf;
use std::process::Child;
use std::process::ChildStdin;
use std::process::ChildStdout;
use std::process::Command;
use std::process::Stdio;

/// Bytes of a file, and of each of a command's outputs, that are told.
const MOST: usize = 1 << 20;

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

fn questions(mut input: impl BufRead + Send + 'static, out: &mut dyn Write) -> io::Result<()> {
    let mut line = Vec::new();
    loop {
        line.clear();
        if Read::take(&mut input, MOST as u64).read_until(b'\n', &mut line)? == 0 {
            return Ok(());
        }
        let answer = match serde_json::from_slice(&line) {
            Ok(Ask::Open { socket }) => match UnixStream::connect(&socket) {
                Ok(there) => {
                    say(out, &Answer::Opened)?;
                    return pipe(input, out, there);
                }
                Err(e) => Err(format!("{}: {e}", socket.display())),
            },
            Ok(ask) => answer(&ask),
            Err(e) => Err(format!("the agent does not understand this: {e}")),
        };
        say(out, &answer.unwrap_or_else(|why| Answer::Error { why }))?;
    }
}

fn say(out: &mut dyn Write, answer: &Answer) -> io::Result<()> {
    serde_json::to_writer(&mut *out, answer)?;
    out.write_all(b"\n")?;
    out.flush()
}

fn answer(ask: &Ask) -> Result<Answer, String> {
    match ask {
        Ask::Run { argv } => {
            let (program, args) = argv.split_first().ok_or("which command?")?;
            let done = Command::new(program).args(args).stdin(Stdio::null()).output();
            let done = done.map_err(|e| format!("{program}: {e}"))?;
            // Killed by a signal: no exit code of its own.
            Ok(Answer::Ran { exit: done.status.code().unwrap_or(-1), out: text(&done.stdout), err: text(&done.stderr) })
        }
        Ask::File { path } => file(path).map_err(|e| format!("{}: {e}", path.display())),
        Ask::Unit { name } => {
            let shown = ["show", "--property=LoadState,ActiveState,UnitFileState", "--", name];
            let done = Command::new("systemctl").args(shown).output().map_err(|e| format!("systemctl: {e}"))?;
            let said = text(&done.stdout);
            let of = |word: &str| said.lines().find_map(|l| l.strip_prefix(word)).unwrap_or_default().to_owned();
            Ok(Answer::Unit { load: of("LoadState="), active: of("ActiveState="), enabled: of("UnitFileState=") })
        }
        Ask::Open { .. } => Err("a socket is opened before this".into()),
    }
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
    std::thread::spawn(move || copy(&mut input, &mut to).and_then(|()| to.shutdown(Shutdown::Write)));
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

    fn asked(lines: &str) -> Vec<Answer> {
        let mut out = Vec::new();
        serve(io::Cursor::new(lines.to_owned()), &mut out);
        let text = String::from_utf8(out).expect("text");
        text.lines().skip(1).map(|line| serde_json::from_str(line).expect("an answer")).collect()
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
        let told = asked(&lines);
        assert_eq!(told[0], Answer::Ran { exit: 3, out: "here\n".into(), err: "there\n".into() });
        assert!(matches!(&told[1], Answer::Error { why } if why.contains("does not understand")), "{told:?}");
        let (mode, text) = ("600".to_owned(), "etcd\n".to_owned());
        assert_eq!(told[2], Answer::File { exists: true, dir: false, mode, size: 5, text });
        assert!(matches!(told[3], Answer::File { exists: false, .. }));
        assert_eq!(told.len(), 4);
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
}
