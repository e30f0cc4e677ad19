//! `hashkv`: the hash of the key-value history in a file, or in a data directory of ours, to compare with what a member answers.

use super::Failed;
use super::print;
use super::print::Answer;
use super::status;
use crate::cmdline::args::Args;
use crate::cmdline::args::Flag;
use crate::cmdline::args::Kind;
use crate::disk::RealDisk;
use crate::engine::Batch;
use crate::engine::Engine;
use crate::engine::Memory;
use crate::image;
use crate::mvcc;
use crate::replica::install::Manifest;
use crate::store;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;

pub(super) static FLAGS: &[Flag] = &[Flag {
    name: "rev",
    short: ' ',
    kind: Kind::Number,
    default: "0",
    help: "hash up to this revision (default: the latest)",
}];

/// Runs `hashkv`.
pub(super) fn run(args: &Args, format: &str, out: &mut dyn Write, _: &mut dyn Write) -> Result<(), Failed> {
    if args.words.len() != 1 {
        return Err(Failed::new(format!("accepts 1 arg(s), received {}", args.words.len())));
    }
    print::check_format(format)?;
    let (keys, _) = mvcc::Store::open(engine(&args.word(0))?, mvcc::CACHE_BYTES)?;
    let mvcc::Hash { hash, hash_revision, compact_revision, .. } = keys.hash(args.number("rev"))?;
    let answer = Answer {
        titles: &["hash", "hash revision", "compact revision"],
        cells: vec![hash.to_string(), hash_revision.to_string(), compact_revision.to_string()],
        fields: vec![
            ("Hash", hash.to_string()),
            ("Hash revision", hash_revision.to_string()),
            ("Compact revision", compact_revision.to_string()),
        ],
        json: format!("{{\"hash\":{hash},\"hashRevision\":{hash_revision},\"compactRevision\":{compact_revision}}}"),
    };
    print::print(answer, format, out)
}

/// What a user named: a data directory of ours, or a database that is read into memory.
fn engine(path: &str) -> Result<Arc<dyn Engine>, Failed> {
    let member = Path::new(path).join("member");
    let folder = Manifest::load(&RealDisk, &member)?.store_dir(&member);
    if folder.is_dir() {
        return Ok(Arc::new(store::Store::open(&folder, store::CACHE_BYTES)?));
    }
    let reader = status::open("stat", path)?.into_reader()?;
    let engine = Memory::default();
    image::import(&reader, &engine, Batch::default(), 0)?;
    Ok(Arc::new(engine))
}
