//! The lab: a real cluster in a folder, and what its members tell about themselves.
//!
//! The one idea: members are *processes*, started from this very executable, and the picture of them is made of what
//! they report (`lab.v1`) and of what the operating system says about their processes. Nothing is guessed.
//!
//! ```text
//! preflight   may we start here? which folder, which ports          (one clear sentence before anything starts)
//! workdir     the folder: marker, state file, bin/ links, token
//! member      one process: flags, start, signals, the guard that ends it with its parent
//! cluster     a thread that owns the processes ─┐
//! observe     a task for each member's stream  ─┴─ Report ─▶ picture   (what the screens and `show --json` print)
//! survey      once a second, what is no event ─┤      │
//! own_watch   a watch of all keys, as a client ─┘      ├─▶ promises    what must never happen, with the evidence if it does
//! deed, board what a learner can do: lines; orders, undo; orders takes such lines from other terminals
//! files       what becomes of the files of a member that is down; journal: what its log says of why it ended
//! misfit      bad configurations; certs: what members show each other with --tls
//! nemesis     faults from a seed, at most two at once
//! store       the key space, folder by folder          ├─▶ why         "why is it not ...?", computed from the picture
//! ask         a put, and what members are told         └─▶ recording   the reports in a file, and back
//! export      a recording as JSON lines and space-time diagrams
//! twin        a simulated cluster in place of a real one
//! upstream    another etcd in place of our own, and what cannot be seen of it
//! setup, agent a machine of the classroom made ready, and asked from another one
//! machines    members on such machines, seen from here as if they were members of this one
//! class, ready   what a teacher takes along and gets back; will this machine do
//! up, shell   the commands without a screen; course: a lab as text
//! ```
//!
//! Left out for now: more than one cluster at once on one screen, TLS for clients (`certs` is for members).

pub mod agent;
pub mod ask;
pub mod board;
pub mod certs;
pub mod class;
pub mod close;
pub mod cluster;
pub mod course;
pub mod deed;
pub mod export;
pub mod files;
pub mod guide;
pub mod journal;
pub mod machines;
pub mod member;
pub mod misfit;
pub mod nemesis;
pub mod observe;
pub mod orders;
pub mod own_watch;
pub mod papers;
pub mod picture;
pub mod preflight;
pub mod progress;
pub mod promises;
pub mod ready;
pub mod recording;
pub mod setup;
pub mod shell;
pub mod sockets;
#[cfg(test)]
pub(crate) mod stand_in;
pub mod store;
pub mod survey;
pub mod twin;
pub mod up;
pub mod upstream;
pub mod why;
pub mod workdir;

pub use board::Board;
pub use cluster::Action;
pub use cluster::Cluster;
pub use deed::Deed;
pub use observe::Report;
pub use picture::Picture;

use std::path::Path;
use std::path::PathBuf;

/// Why the lab cannot do what it was asked to. Each is one sentence that says what to do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No folder could be made anywhere.
    #[error("cannot make a work folder: {tried}; name one with --folder PATH")]
    NoFolder { tried: String },
    /// A folder that the lab has not made.
    #[error("{0} is not a lab folder (it has no {marker} file): the lab leaves it alone", marker = workdir::MARKER)]
    NotOurs(PathBuf),
    /// Another lab works in this folder.
    #[error("a lab is running in {0}: use it from another terminal (etcd-lab shell), or end it with etcd-lab down")]
    InUse(PathBuf),
    /// The path of a socket would be too long for the system.
    #[error("{0} is too long a path for unix sockets (about 100 characters): choose a shorter one with --folder PATH")]
    PathTooLong(PathBuf),
    /// Too little disk space.
    #[error(
        "etcd-lab needs {need_mib} MiB of disk for {nodes} members, and {folder} has {have_mib}: free some, or choose another place with --folder PATH"
    )]
    NoDisk { nodes: usize, need_mib: u64, have_mib: u64, folder: PathBuf },
    /// A kept folder's ports are taken: its members' addresses are in their data.
    #[error(
        "{holder}, and the members in {folder} have that address in their data: end that process, or start a new cluster without --folder"
    )]
    PortTaken { holder: String, folder: PathBuf },
    /// No lab is running.
    #[error("no lab is running: start one with `etcd-lab`, or without a screen with `etcd-lab up --nodes 3`")]
    NotRunning,
    /// A bad command line.
    #[error("{0}")]
    Usage(String),
    /// A member that has no such state or number.
    #[error("{0}")]
    Refused(String),
    /// A file of the lab could not be read or written.
    #[error("{what} {path}: {source}")]
    File { what: &'static str, path: PathBuf, source: std::io::Error },
    /// Another failure of the system.
    #[error("{what}: {source}")]
    System { what: &'static str, source: std::io::Error },
}

impl Error {
    /// A failed file operation; `what` is like "cannot write".
    pub(crate) fn file(what: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Error {
        let path = path.to_path_buf();
        move |source| Error::File { what, path, source }
    }
}

/// The sizes that the lab offers.
pub const SIZES: [usize; 3] = [1, 3, 5];
