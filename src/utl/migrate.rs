//! `migrate`: makes a data directory fit another minor release.
//!
//! A directory of ours has one form, that of 3.6: going there is nothing to do, going elsewhere is refused. One of etcd's is for etcd's own
//! program, which knows what may be in its log. Source: etcd `etcdutl/etcdutl/migrate_command.go`.

use super::Failed;
use super::restore::log;
use crate::cmdline::args::Args;
use crate::cmdline::args::Flag;
use crate::cmdline::args::Kind;
use crate::disk::RealDisk;
use crate::golang;
use crate::replica::install::Manifest;
use serde_json::json;
use std::io::Write;
use std::path::Path;

/// The form of our data directories.
const OURS: (u64, u64) = (3, 6);

#[rustfmt::skip]
pub(super) static FLAGS: &[Flag] = &[
    Flag { name: "data-dir", short: ' ', kind: Kind::Text, default: "", help: "Required. The data directory, which no member uses" },
    Flag { name: "force", short: ' ', kind: Kind::Switch, default: "false", help: "accepted for etcd's sake: what cannot be done is not done" },
    Flag { name: "target-version", short: ' ', kind: Kind::Text, default: "", help: "Required. The release, as X.Y; 3.5 at least" },
];

/// Runs `migrate`.
pub(super) fn run(args: &Args, err: &mut dyn Write) -> Result<(), Failed> {
    let (dir, target) = (args.text("data-dir").unwrap_or_default(), args.text("target-version").unwrap_or_default());
    let wrong = || {
        let target = golang::quote(target.as_bytes());
        Failed::bad_args(format!("wrong target version format, expected \"X.Y\", got {target}"))
    };
    let (major, minor) = target.split_once('.').ok_or_else(wrong)?;
    let number = |text: &str| text.parse::<u64>().map_err(|_| wrong());
    let version = (number(major)?, number(minor)?);
    if version < (3, 5) {
        return Err(Failed::bad_args(format!("target version \"{target}\" not supported. Minimal \"3.5\"")));
    }
    let member = Path::new(dir).join("member");
    let own = Manifest::load(&RealDisk, &member)?.store_dir(&member);
    if own.is_dir() && version == OURS {
        return log(err, "storage version up-to-date", &json!({ "storage-version": target }));
    }
    Err(Failed::new(match own.is_dir() {
        true => format!("the storage of {dir} has the form of 3.6 and no other: it cannot become that of {target}"),
        false if member.join("snap/db").is_file() => {
            format!("{dir} is a data directory of etcd's own: use its etcdutl")
        }
        false => format!("stat {}: no such file or directory", member.display()),
    }))
}
