//! `--log-outputs=systemd/journal`: lines as entries of systemd's journal, by its own socket.
//!
//! An entry is a datagram of `NAME=value` lines; a value of several lines is preceded by its length instead. Fields as etcd's: MESSAGE is the whole
//! line, PRIORITY its level, PACKAGE the folder of who tells it. The socket is named with each datagram, so the journal may be started
//! anew meanwhile. What cannot be sent goes to standard error; so do lines that are too large for a datagram, which etcd sends as files.
//! Source: etcd `client/pkg/logutil/zap_journal.go`; systemd `docs/JOURNAL_NATIVE_PROTOCOL.md`.

use crate::error::io_text;
use std::io;
use std::io::Write as _;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::path::PathBuf;

/// Where journald listens.
pub(super) const SOCKET: &str = "/run/systemd/journal/socket";

/// The way to the journal.
pub(super) struct Journal {
    from: UnixDatagram,
    to: PathBuf,
    identifier: String,
}

impl Journal {
    /// The journal that listens at `path`.
    ///
    /// # Errors
    /// etcd's text, if none does.
    pub(super) fn open(path: &Path) -> Result<Journal, String> {
        let dialled =
            UnixDatagram::unbound().and_then(|from| from.connect(path).and_then(|()| UnixDatagram::unbound()));
        let from = dialled
            .map_err(|e| format!("can't find journal (dial unixgram {}: connect: {})", path.display(), io_text(&e)))?;
        let program = std::env::args().next().unwrap_or_default();
        let identifier = program.rsplit('/').next().unwrap_or_default().to_owned();
        Ok(Journal { from, to: path.to_owned(), identifier })
    }

    /// Sends one line. `caller` is where in the source it is told: `server/kv.rs:42`.
    pub(super) fn send(&self, priority: u8, caller: &str, line: &str) {
        let package = caller.rsplit_once('/').map_or(".", |(folder, _)| folder);
        let mut entry = Vec::with_capacity(line.len() + 128);
        let fields = [
            ("MESSAGE", line.trim_end()),
            ("PRIORITY", &priority.to_string()),
            ("PACKAGE", package),
            ("SYSLOG_IDENTIFIER", &self.identifier),
        ];
        fields.into_iter().for_each(|(name, value)| push(&mut entry, name, value));
        if self.from.send_to(&entry, &self.to).is_err() {
            // A log that cannot be written has nowhere to complain.
            let _ = io::stderr().write_all(line.as_bytes());
        }
    }
}

fn push(entry: &mut Vec<u8>, name: &str, value: &str) {
    entry.extend(name.as_bytes());
    if value.contains('\n') {
        entry.push(b'\n');
        entry.extend((value.len() as u64).to_le_bytes());
    } else {
        entry.push(b'=');
    }
    entry.extend(value.as_bytes());
    entry.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_has_etcds_fields() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("socket");
        let journald = UnixDatagram::bind(&path).expect("a socket");
        let journal = Journal::open(&path).expect("it listens");
        let mut heard = [0; 500];
        let mut hear = |journald: &UnixDatagram| {
            let bytes = journald.recv(&mut heard).expect("an entry");
            String::from_utf8_lossy(&heard[..bytes]).into_owned()
        };
        journal.send(4, "server/kv.rs:42", "{\"level\":\"warn\"}\n");
        let told = hear(&journald);
        let identifier = &journal.identifier;
        assert_eq!(
            told,
            format!("MESSAGE={{\"level\":\"warn\"}}\nPRIORITY=4\nPACKAGE=server\nSYSLOG_IDENTIFIER={identifier}\n")
        );
        assert!(!identifier.is_empty() && !identifier.contains('/'), "{identifier}");
        journal.send(6, "node.rs:1", "two\nlines\n");
        assert!(hear(&journald).starts_with("MESSAGE\n\u{9}\0\0\0\0\0\0\0two\nlines\nPRIORITY=6\nPACKAGE=.\n"));
        // Started anew it is heard again.
        drop(journald);
        std::fs::remove_file(&path).expect("it was there");
        let again = UnixDatagram::bind(&path).expect("a socket");
        journal.send(6, "node.rs:1", "again\n");
        assert!(hear(&again).starts_with("MESSAGE=again\n"));
    }

    #[test]
    fn where_no_journal_is_etcd_says_so() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("socket");
        let why = Journal::open(&path).err().expect("nobody listens");
        let want = format!("can't find journal (dial unixgram {}: connect: no such file or directory)", path.display());
        assert_eq!(why, want);
    }
}
