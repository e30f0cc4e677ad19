//! `snapshot save`; and `snapshot status` and `restore`, which moved to etcdutl and still work here.
//!
//! What arrives goes to a file called `….part`, which gets its name when it is whole, its checksum is right, and the disk has it. Source: etcd
//! `client/v3/snapshot/v3_snapshot.go`.
#![expect(clippy::disallowed_methods, reason = "tells how long it took")]

use super::exit;
use super::exit::Exit;
use super::exit::Outcome;
use super::session::Session;
use crate::client::Client;
use crate::client::Config;
use crate::client::SnapshotStream;
use crate::cmdline::progress::Bar;
use crate::disk;
use crate::error::io_text;
use crate::golang;
use crate::utl;
use sha2::Digest;
use sha2::Sha256;
use std::fs::File;
use std::io;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::time::Duration;
use std::time::Instant;

const CHECKSUM_BYTES: usize = 32;

fn interrupted(message: impl Into<String>) -> Exit {
    Exit::new(exit::INTERRUPTED, message)
}

/// An error of the file system as Go tells it.
fn told(what: &str, path: &str, why: &io::Error) -> String {
    format!("{what} {path}: {}", io_text(why))
}

/// `snapshot save`.
pub(super) async fn save(session: &mut Session<'_>) -> Outcome {
    if session.args.words.len() != 1 {
        return Err(Exit::bad_args("snapshot save expects one argument <filename>"));
    }
    let path = session.args.word(0);
    regular(Path::new(&path)).map_err(interrupted)?;
    let config = session.config().await?;
    if config.endpoints.len() != 1 {
        let all = config.endpoints.join(" ");
        return Err(interrupted(format!("snapshot must be requested to one selected node, not multiple [{all}]")));
    }
    // A snapshot takes as long as it takes, unless somebody says how long that may be.
    let limit = config.call_timeout.filter(|_| session.args.is_given("command-timeout"));
    let client = Client::new(Config { call_timeout: limit, ..config.clone() });
    authenticate(session, &client).await?;
    let part = format!("{path}.part");
    let mut options = File::options();
    let file = options.write(true).create(true).truncate(true).mode(0o600).open(&part);
    let file = file.map_err(|e| interrupted(format!("could not open {part} ({})", told("open", &part, &e))))?;
    session.log("info", &[("msg", "created temporary db file"), ("path", &part)])?;
    let saved = save_to(session, &client, limit, file, &config.endpoints[0]).await;
    let saved = saved.and_then(|version| {
        let rename = std::fs::rename(&part, &path).and_then(|()| sync_folder(&path));
        let why = |e: io::Error| format!("could not rename {part} to {path} ({})", io_text(&e));
        rename.map(|()| version).map_err(|e| interrupted(why(e)))
    });
    let version = saved.inspect_err(|_| {
        // What is left of it is of no use; the error is what counts.
        let _ = std::fs::remove_file(&part);
    })?;
    session.log("info", &[("msg", "saved"), ("path", &path)])?;
    session.line(format_args!("Snapshot saved at {path}"))?;
    if version.is_empty() { Ok(()) } else { session.line(format_args!("Server version {version}")) }
}

/// A snapshot takes the place of what has its name: a device, a pipe or /dev/stdout would be gone for everybody. etcdctl puts a file there.
fn regular(path: &Path) -> Result<(), String> {
    let Ok(found) = std::fs::metadata(path) else { return Ok(()) };
    let leads_elsewhere = std::fs::symlink_metadata(path).is_ok_and(|link| link.is_symlink())
        && std::path::absolute(path).is_ok_and(|path| path.starts_with("/dev") || path.starts_with("/proc"));
    // A folder is refused when the snapshot is to get its name, in etcd's words.
    if leads_elsewhere || !found.is_file() && !found.is_dir() {
        let path = path.display();
        return Err(format!(
            "{path} is not a regular file, and would be replaced by one: save to a file, and send that on"
        ));
    }
    Ok(())
}

async fn authenticate(session: &mut Session<'_>, client: &Client) -> Outcome {
    match client.authenticate().await {
        Err(error) if !error.says(&crate::error::Error::AuthNotEnabled.to_string()) => {
            Err(session.failed(exit::BAD_CONNECTION, &error))
        }
        _ => Ok(()),
    }
}

/// Receives the snapshot into `file`, within the limit; returns the server's version.
async fn save_to(
    session: &mut Session<'_>,
    client: &Client,
    limit: Option<Duration>,
    mut file: File,
    endpoint: &str,
) -> Result<String, Exit> {
    let began = Instant::now();
    let stream = client.snapshot().await.map_err(|error| session.failed(exit::INTERRUPTED, &error))?;
    session.log("info", &[("logger", "client"), ("msg", "fetching snapshot"), ("endpoint", endpoint)])?;
    let received = receive(stream, &mut file, &mut *session.err);
    let received = match limit {
        None => received.await,
        Some(limit) => match tokio::time::timeout(limit.saturating_sub(began.elapsed()), received).await {
            Ok(received) => received,
            Err(_) => Err("could not write snapshot: context deadline exceeded".to_owned()),
        },
    };
    let (bytes, version) = received.map_err(interrupted)?;
    file.sync_all().map_err(|e| interrupted(format!("could not fsync snapshot: {}", io_text(&e))))?;
    let (size, took) = (golang::size(bytes), golang::duration(began.elapsed()));
    let received: [(&str, &str); 4] =
        [("endpoint", endpoint), ("size", &size), ("took", &took), ("etcd-version", &version)];
    session.log("info", &[&[("msg", "fetched snapshot")][..], &received[..]].concat())?;
    Ok(version)
}

/// Writes all pieces, and checks that the last 32 bytes are the checksum of what is before them.
async fn receive(
    mut stream: SnapshotStream,
    file: &mut File,
    err: &mut dyn io::Write,
) -> Result<(u64, String), String> {
    let (mut bytes, mut hash, mut tail) = (0_u64, Sha256::new(), Vec::new());
    let mut bar = None;
    while let Some(piece) = stream.next().await.map_err(|e| format!("could not write snapshot: {e}"))? {
        file.write_all(&piece).map_err(|e| format!("could not write snapshot: {}", io_text(&e)))?;
        bytes += piece.len() as u64;
        tail.extend_from_slice(&piece);
        let sure = tail.len().saturating_sub(CHECKSUM_BYTES);
        hash.update(&tail[..sure]);
        tail.drain(..sure);
        bar.get_or_insert_with(|| Bar::new(bytes + stream.remaining())).show(bytes, err);
    }
    if let Some(bar) = bar {
        bar.end(err);
    }
    if bytes % 512 != CHECKSUM_BYTES as u64 {
        return Err(format!("sha256 checksum not found [bytes: {bytes}]"));
    }
    if hash.finalize().as_slice() != tail {
        return Err("the snapshot does not match its sha256 checksum: it was damaged on its way".to_owned());
    }
    Ok((bytes, stream.version().to_owned()))
}

/// A new name lasts once its folder is on the disk.
fn sync_folder(path: &str) -> io::Result<()> {
    File::open(disk::folder_of(Path::new(path)))?.sync_all()
}

/// `snapshot status`.
pub(super) async fn status(session: &mut Session<'_>) -> Outcome {
    moved(session, "status")
}

/// `snapshot restore`.
pub(super) async fn restore(session: &mut Session<'_>) -> Outcome {
    moved(session, "restore")
}

/// Says where the command is now, and runs it.
fn moved(session: &mut Session<'_>, name: &str) -> Outcome {
    writeln!(session.err, "Deprecated: Use `etcdutl snapshot {name}` instead.\n")?;
    let format = session.args.text("write-out").unwrap_or("simple").to_owned();
    let run = if name == "status" { utl::snapshot_status } else { utl::snapshot_restore };
    run(&session.args, &format, session.out, session.err).map_err(|failed| Exit::new(failed.code, failed.message))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn only_a_file_may_be_replaced_by_a_snapshot() {
        let folder = tempfile::tempdir().expect("a folder");
        let (file, link) = (folder.path().join("s.db"), folder.path().join("latest"));
        assert_eq!(regular(&file), Ok(()), "it is not there yet");
        std::fs::write(&file, "old").expect("a file");
        symlink(&file, &link).expect("a link");
        for good in [&file, &link, &folder.path().to_owned()] {
            assert_eq!(regular(good), Ok(()), "{}", good.display());
        }
        for device in ["/dev/null", "/dev/stdout", "/dev/../dev/fd/1"] {
            let why = regular(Path::new(device)).expect_err(device);
            assert!(why.contains("is not a regular file"), "{why}");
        }
        // Through a link of one's own it is the same device.
        let to_null = folder.path().join("null");
        symlink("/dev/null", &to_null).expect("a link");
        assert!(regular(&to_null).is_err());
    }
}
