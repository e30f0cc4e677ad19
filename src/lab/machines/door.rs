//! A member's door, brought here: whoever connects to the socket in the work folder is connected to the one on the member's machine.

use crate::lab::agent::Remote;
use crate::lab::setup;
use std::fs;
use std::io;
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::thread;
use std::thread::JoinHandle;

/// Connections that one member's door carries at once; the screens need two, and one for each thing that is told.
const MOST: usize = 16;

/// Starts an agent on the member's machine.
pub(super) type Starts = Arc<dyn Fn() -> Command + Send + Sync>;

/// What both ends of a door know.
#[derive(Debug, Default)]
pub(super) struct Latch {
    /// There is a member behind it. Without one, whoever comes is sent away at once, and nobody asks its machine.
    pub(super) is_up: AtomicBool,
    is_over: AtomicBool,
    carried: AtomicUsize,
}

/// A door, until it is dropped.
pub(super) struct Door {
    latch: Arc<Latch>,
    socket: PathBuf,
    /// The end at which the thread waits.
    ear: UnixStream,
    thread: Option<JoinHandle<()>>,
}

impl Door {
    /// Opens the door of a member at this socket; `agent` reaches the member's machine.
    pub(super) fn open(socket: &Path, agent: Starts) -> io::Result<Door> {
        // One of an earlier lab.
        drop(fs::remove_file(socket));
        let listener = UnixListener::bind(socket)?;
        // It is no stream, but it can be shut down like one.
        let ear = UnixStream::from(OwnedFd::from(listener.try_clone()?));
        let latch = Arc::new(Latch::default());
        let theirs = Arc::clone(&latch);
        let thread = thread::Builder::new().name("lab-door".into()).spawn(move || serve(&listener, &agent, &theirs))?;
        Ok(Door { latch, socket: socket.to_owned(), ear, thread: Some(thread) })
    }

    pub(super) fn latch(&self) -> &Latch {
        &self.latch
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        self.latch.is_over.store(true, Ordering::Release);
        // Who waits for somebody is woken by either: nobody can come any more (Linux), or somebody comes. A system without the one and a door whose
        // socket was removed has neither; then the thread ends with the process, and nobody waits for it.
        let is_woken = self.ear.shutdown(Shutdown::Both).is_ok() || UnixStream::connect(&self.socket).is_ok();
        if let Some(thread) = self.thread.take().filter(|_| is_woken) {
            drop(thread.join());
        }
        drop(fs::remove_file(&self.socket));
    }
}

fn serve(listener: &UnixListener, agent: &Starts, latch: &Arc<Latch>) {
    for here in listener.incoming() {
        if latch.is_over.load(Ordering::Acquire) {
            return;
        }
        let Ok(here) = here else { continue };
        if !latch.is_up.load(Ordering::Acquire) || latch.carried.load(Ordering::Acquire) >= MOST {
            continue;
        }
        latch.carried.fetch_add(1, Ordering::AcqRel);
        let (agent, latch) = (Arc::clone(agent), Arc::clone(latch));
        thread::spawn(move || {
            match Remote::start(&mut agent()).and_then(|there| there.open(setup::DOOR.as_ref())) {
                Ok(pipe) => pipe.carry(&here),
                // Whoever keeps the member looks again in a moment; until then nobody need try.
                Err(_) => latch.is_up.store(false, Ordering::Release),
            }
            latch.carried.fetch_sub(1, Ordering::AcqRel);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read as _;
    use std::io::Write as _;

    /// A stand-in for an agent: it opens what it is asked to, says its name, and then says back what it hears.
    const OPENS: &str = r#"echo '{"is":"agent","version":"1","host":"h"}'; read -r ask; printf '{"is":"opened"}\n%s:' "$ask"; exec cat"#;
    /// One on a machine whose member has just ended.
    const REFUSES: &str =
        r#"echo '{"is":"agent","version":"1","host":"h"}'; read -r ask; echo '{"is":"error","why":"no socket"}'"#;

    fn door(folder: &Path, script: &'static str) -> (Door, PathBuf) {
        let socket = folder.join("lab.sock");
        let agent: Starts = Arc::new(move || {
            let mut command = Command::new("sh");
            command.args(["-c", script]);
            command
        });
        (Door::open(&socket, agent).expect("bound"), socket)
    }

    /// All that is heard until the other side ends.
    fn hears(socket: &Path, says: &str) -> String {
        let mut stream = UnixStream::connect(socket).expect("somebody listens");
        // Who was sent away cannot be told any more.
        let _ = stream.write_all(says.as_bytes());
        let _ = stream.shutdown(Shutdown::Write);
        let mut heard = Vec::new();
        let _ = stream.read_to_end(&mut heard);
        String::from_utf8_lossy(&heard).into_owned()
    }

    #[test]
    fn who_comes_is_sent_away_until_there_is_a_member_and_then_brought_to_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let (door, socket) = door(folder.path(), OPENS);
        assert_eq!(hears(&socket, ""), "");
        door.latch().is_up.store(true, Ordering::Release);
        let mut stream = UnixStream::connect(&socket).expect("somebody listens");
        stream.write_all(b"look").expect("written");
        let expected = format!("{{\"do\":\"open\",\"socket\":\"{}\"}}:look", setup::DOOR);
        let mut heard = vec![0; expected.len()];
        stream.read_exact(&mut heard).expect("read");
        assert_eq!(String::from_utf8_lossy(&heard), expected);
        drop(stream);
        drop(door);
        assert!(!socket.exists(), "it goes with the lab");
    }

    #[test]
    fn a_door_whose_socket_was_removed_ends_all_the_same() {
        let folder = tempfile::tempdir().expect("a folder");
        let (door, socket) = door(folder.path(), OPENS);
        fs::remove_file(&socket).expect("it was there");
        let (told, hears) = std::sync::mpsc::channel();
        thread::spawn(move || {
            drop(door);
            told.send(())
        });
        hears.recv_timeout(std::time::Duration::from_secs(20)).expect("nobody waits for a thread that nobody wakes");
    }

    #[test]
    fn a_door_that_leads_nowhere_is_closed_until_somebody_has_looked_again() {
        let folder = tempfile::tempdir().expect("a folder");
        let (door, socket) = door(folder.path(), REFUSES);
        door.latch().is_up.store(true, Ordering::Release);
        assert_eq!(hears(&socket, "look"), "");
        assert!(!door.latch().is_up.load(Ordering::Acquire));
    }
}
