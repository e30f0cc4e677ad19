//! A member's door, brought here: whoever connects to the socket in the work folder is connected to the one on the member's machine.

use crate::lab::agent::Remote;
use crate::lab::setup;
use std::io;
use std::os::unix::net::UnixListener;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::thread;
use std::thread::JoinHandle;

/// Connections that one member's door carries at once; the screens need two, and one for each thing that is told.
const MOST: usize = 16;

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
    socket: std::path::PathBuf,
    thread: Option<JoinHandle<()>>,
}

impl Door {
    /// Opens the door of this machine's member at this socket.
    pub(super) fn open(socket: &Path, machine: &str) -> io::Result<Door> {
        // One of an earlier lab.
        drop(std::fs::remove_file(socket));
        let listener = UnixListener::bind(socket)?;
        let latch = Arc::new(Latch::default());
        let (name, theirs) = (machine.to_owned(), Arc::clone(&latch));
        let thread = thread::Builder::new().name("lab-door".into()).spawn(move || serve(&listener, &name, &theirs))?;
        Ok(Door { latch, socket: socket.to_owned(), thread: Some(thread) })
    }

    pub(super) fn latch(&self) -> &Latch {
        &self.latch
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        self.latch.is_over.store(true, Ordering::Release);
        // Somebody comes: that is what the thread waits for.
        drop(UnixStream::connect(&self.socket));
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
        drop(std::fs::remove_file(&self.socket));
    }
}

fn serve(listener: &UnixListener, machine: &str, latch: &Arc<Latch>) {
    for here in listener.incoming() {
        if latch.is_over.load(Ordering::Acquire) {
            return;
        }
        let Ok(here) = here else { continue };
        if !latch.is_up.load(Ordering::Acquire) || latch.carried.load(Ordering::Acquire) >= MOST {
            continue;
        }
        latch.carried.fetch_add(1, Ordering::AcqRel);
        let (machine, latch) = (machine.to_owned(), Arc::clone(latch));
        thread::spawn(move || {
            let opened =
                Remote::start(&mut setup::agent_at(&machine)).and_then(|there| there.open(setup::DOOR.as_ref()));
            match opened {
                Ok(pipe) => pipe.carry(&here),
                // It says why at the machine's own thread, which asks again in a moment; until then nobody need try.
                Err(_) => latch.is_up.store(false, Ordering::Release),
            }
            latch.carried.fetch_sub(1, Ordering::AcqRel);
        });
    }
}
