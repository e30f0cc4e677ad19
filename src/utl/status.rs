//! `snapshot status`: what a snapshot file holds, after all of it was read and checked.
//!
//! Stricter than upstream in one thing: if the file carries a checksum, it must be right. Source: etcd `etcdutl/snapshot/v3_snapshot.go` (`Status`) of 3.6.

use super::Failed;
use super::print;
use super::print::Answer;
use crate::bbolt::Item;
use crate::bbolt::Reader;
use crate::cmdline::args::Args;
use crate::disk::RealDisk;
use crate::engine::Table;
use crate::error::Error;
use crate::error::io_text;
use crate::golang;
use crate::image::Snapshot;
use crate::mvcc::RowId;
use crate::proto::mvccpb::KeyValue;
use crate::types::Revision;
use prost::Message as _;
use std::collections::HashSet;
use std::io::Write;
use std::path::Path;

/// What a snapshot holds.
#[derive(Debug, Default, PartialEq, Eq)]
struct Status {
    /// CRC-32C over all buckets, keys and values.
    hash: u32,
    revision: Revision,
    /// Keys that are there at that revision.
    keys: usize,
    /// Of the database, its checksum not counted.
    bytes: u64,
    /// The release whose form the data has; empty before 3.6.
    version: String,
}

/// Opens a file that a user named.
///
/// # Errors
/// The system's reason in Go's words, after the name of the call that etcd makes.
pub(super) fn open(call: &str, path: &str) -> Result<Snapshot, Failed> {
    let there = if call == "stat" { std::fs::metadata(path).map(drop) } else { std::fs::File::open(path).map(drop) };
    there.map_err(|e| Failed::new(format!("{call} {path}: {}", io_text(&e))))?;
    Ok(Snapshot::new(RealDisk.open_to_read(Path::new(path))?)?)
}

/// Runs `snapshot status`.
pub(crate) fn run(args: &Args, format: &str, out: &mut dyn Write, _: &mut dyn Write) -> Result<(), Failed> {
    if args.words.len() != 1 {
        return Err(Failed::bad_args("snapshot status requires exactly one argument"));
    }
    let path = args.word(0);
    print::check_format(format)?;
    let snapshot = open("stat", &path)?;
    snapshot.verify()?;
    let status = read(&snapshot.into_reader()?)?;
    let Status { hash, revision, keys, bytes, version } = status;
    let json = format!(
        "{{\"hash\":{hash},\"revision\":{revision},\"totalKey\":{keys},\"totalSize\":{bytes},\"version\":\"{version}\"}}"
    );
    let answer = Answer {
        titles: &["hash", "revision", "total keys", "total size", "version"],
        cells: vec![format!("{hash:x}"), revision.to_string(), keys.to_string(), golang::size(bytes), version.clone()],
        fields: vec![
            ("Hash", hash.to_string()),
            ("Revision", revision.to_string()),
            ("Keys", keys.to_string()),
            ("Size", bytes.to_string()),
            ("Version", version),
        ],
        json,
    };
    print::print(answer, format, out)
}

fn read(reader: &Reader) -> Result<Status, Failed> {
    let mut status = Status { bytes: reader.bytes(), ..Status::default() };
    let (mut path, mut live) = (Vec::<Option<Table>>::new(), HashSet::<Vec<u8>>::new());
    let walked = reader.walk(&mut |item| {
        match item {
            Item::Enter(name) => {
                // etcd looks at top-level buckets; one inside them is a row without a value.
                if path.len() < 2 {
                    status.hash = crc32c::crc32c_append(status.hash, name);
                }
                let known = Table::ALL.into_iter().find(|table| path.is_empty() && table.name().as_bytes() == name);
                path.push(known);
            }
            Item::Leave => drop(path.pop()),
            Item::Row(key, value) if path.len() == 1 => {
                status.hash = crc32c::crc32c_append(crc32c::crc32c_append(status.hash, key), value);
                match path[0] {
                    Some(Table::Key) => status.revision = note(key, value, &mut live)?,
                    Some(Table::Meta) if key == b"storageVersion" => {
                        status.version = String::from_utf8_lossy(value).into_owned();
                    }
                    _ => {}
                }
            }
            Item::Row(..) => {}
        }
        Ok(())
    });
    match walked {
        Ok(()) => Ok(Status { keys: live.len(), ..status }),
        Err(Error::Damaged(why)) => {
            Err(Failed::new(format!("snapshot file integrity check failed. 1 errors found.\n{why}")))
        }
        Err(other) => Err(other.into()),
    }
}

/// Notes whether a row's key is there after it; returns its revision.
fn note(address: &[u8], value: &[u8], live: &mut HashSet<Vec<u8>>) -> Result<Revision, Error> {
    let (revision, tombstone) = match address {
        [revision @ .., b't'] if address.len() == 18 => (revision, true),
        revision => (revision, false),
    };
    let id = RowId::from_key(revision)?;
    let kv = KeyValue::decode(value).map_err(|e| {
        let key = golang::quote(address);
        Error::Damaged(format!("cannot unmarshal value, key: {key} value: {} err: {e}", golang::quote(value)))
    })?;
    match tombstone {
        true => drop(live.remove(kv.key.as_ref())),
        false => drop(live.insert(kv.key.to_vec())),
    }
    Ok(id.main)
}
