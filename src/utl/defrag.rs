//! `defrag`: writes a member's store afresh while no member uses it, so that space which is no longer used goes back to the file system.
//!
//! A data directory of ours has a store that can do that itself; one of etcd's has a bbolt file, of which all rows are copied into another.
//! Source: etcd `etcdutl/etcdutl/defrag_command.go`.

use super::Failed;
use super::restore::log;
use crate::bbolt::Item;
use crate::bbolt::Reader;
use crate::bbolt::Writer;
use crate::cmdline::args::Args;
use crate::cmdline::args::Flag;
use crate::cmdline::args::Kind;
use crate::disk;
use crate::disk::Disk as _;
use crate::disk::RealDisk;
use crate::error::Error;
use crate::golang;
use crate::replica::install::Manifest;
use crate::store;
use crate::store::Renewable;
use serde_json::json;
use std::fs::File;
use std::io::Write;
use std::path::Path;

pub(super) static FLAGS: &[Flag] = &[Flag {
    name: "data-dir",
    short: ' ',
    kind: Kind::Text,
    default: "",
    help: "Required. The data directory, which no member uses",
}];

/// Runs `defrag`.
pub(crate) fn run(args: &Args, err: &mut dyn Write) -> Result<(), Failed> {
    let dir = args.text("data-dir").unwrap_or_default().to_owned();
    let failed = |why: String| Failed::new(format!("Failed to defragment etcd data[{dir}] ({why})"));
    let member = Path::new(&dir).join("member");
    let own = Manifest::load(&RealDisk, &member).map(|manifest| manifest.store_dir(&member));
    let own = own.map_err(|e| failed(Failed::from(e).message))?;
    let db = member.join("snap/db");
    let fields = json!({ "directory": if own.is_dir() { own.display() } else { db.display() }.to_string() });
    log(err, "defragmenting", &fields)?;
    let sizes = if own.is_dir() {
        Renewable::open(&own, store::CACHE_BYTES).and_then(|store| store.renew())
    } else if db.is_file() {
        rewrite(&db, None)
    } else {
        return Err(failed(format!("stat {}: no such file or directory", db.display())));
    };
    let (before, after) = sizes.map_err(|e| failed(Failed::from(e).message))?;
    let fields = json!({
        "directory": fields["directory"],
        "size-before": golang::size(before),
        "size-after": golang::size(after),
    });
    log(err, "finished defragmenting directory", &fields)
}

/// A row that a copy has otherwise than what it is copied from.
pub(super) struct Edit<'a> {
    pub(super) bucket: &'a [u8],
    pub(super) key: &'a [u8],
    /// Its value there; nothing: it is left out.
    pub(super) value: Option<&'a [u8]>,
}

/// Rows on their way into a copy, in their order.
struct Copy<'f, 'e> {
    writer: Writer<'f>,
    depth: usize,
    edit: Option<&'e Edit<'e>>,
    /// Whether this is the bucket of the edit, and its row is still to come.
    due: bool,
}

impl Copy<'_, '_> {
    fn take(&mut self, item: Item<'_>) -> Result<(), Error> {
        match item {
            Item::Enter(name) => {
                self.depth += 1;
                if self.depth > 1 {
                    return Err(Error::Damaged("a bucket within a bucket: this is no database of etcd's".to_owned()));
                }
                self.due = self.edit.is_some_and(|edit| edit.bucket == name);
                self.writer.bucket(name)
            }
            Item::Leave => {
                self.depth -= 1;
                self.edited(None)
            }
            Item::Row(key, value) => {
                self.edited(Some(key))?;
                let replaced = |edit: &&Edit<'_>| self.due && edit.key == key;
                if self.edit.as_ref().is_some_and(replaced) { self.edited(None) } else { self.writer.put(key, value) }
            }
        }
    }

    /// Writes the edited row if it comes before `key`, or anyway.
    fn edited(&mut self, key: Option<&[u8]>) -> Result<(), Error> {
        let Some(edit) = self.edit.filter(|edit| self.due && key.is_none_or(|key| edit.key < key)) else {
            return Ok(());
        };
        self.due = false;
        edit.value.map_or(Ok(()), |value| self.writer.put(edit.key, value))
    }
}

/// Copies a bbolt file into one without free pages, which takes its place; with one row changed, if `edit`.
pub(super) fn rewrite(path: &Path, edit: Option<&Edit<'_>>) -> Result<(u64, u64), Error> {
    let storage = |what: &str, e: std::io::Error| {
        Error::Storage(format!("{what} {}: {}", path.display(), crate::error::io_text(&e)))
    };
    // etcd's own lock: a member that runs has it.
    let locked = File::options().read(true).write(true).open(path).map_err(|e| storage("open", e))?;
    locked.try_lock().map_err(|_| Error::Storage(format!("{} is in use: stop the member first", path.display())))?;
    let file = RealDisk.open_to_read(path)?;
    let before = locked.metadata().map_err(|e| storage("stat", e))?.len();
    let reader = Reader::open(file, before)?;
    let fresh = path.with_extension("tmp");
    let mut file = RealDisk.create(&fresh)?;
    let mut copy = Copy { writer: Writer::new(file.as_mut()), depth: 0, edit, due: false };
    reader.walk(&mut |item| copy.take(item))?;
    let after = copy.writer.finish()?;
    file.sync()?;
    drop(file);
    std::fs::rename(&fresh, path).map_err(|e| storage("rename", e))?;
    RealDisk.sync_dir(disk::folder_of(path))?;
    Ok((before, after))
}
