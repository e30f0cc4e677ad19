//! Command lines, their texts and exit codes; and files that are refused.

use super::*;
use crate::bbolt::Writer;
use crate::disk::Disk as _;
use crate::disk::RealDisk;
use crate::proto::etcdserverpb as pb;
use crate::proto::raftpb::Entry;
use crate::proto::raftpb::HardState;
use crate::types::ClusterId;
use crate::types::MemberId;
use crate::wal::Metadata;
use crate::wal::Wal;
use prost::Message as _;
use sha2::Digest as _;
use std::path::Path;
use std::sync::Arc;

fn ran(args: &[&str]) -> (u8, String, String) {
    let args: Vec<String> = args.iter().map(|&arg| arg.to_owned()).collect();
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let code = run(&args, &mut out, &mut err);
    (code, String::from_utf8(out).expect("text"), String::from_utf8(err).expect("text"))
}

fn fails(args: &[&str], code: u8, message: &str) {
    let (got, out, err) = ran(args);
    assert_eq!((got, out.as_str()), (code, ""), "{args:?}: {err}");
    assert_eq!(err.lines().last(), Some(format!("Error: {message}").as_str()), "{args:?}");
}

/// A snapshot with one key at revision 2, and its checksum.
fn snapshot(path: &Path) {
    snapshot_of(path, b"3.6.0");
}

/// The same of another release.
fn snapshot_of(path: &Path, version: &[u8]) {
    let mut file = RealDisk.create(path).expect("a file");
    let mut writer = Writer::new(file.as_mut());
    writer.bucket(b"key").expect("the first");
    let value = b"\x0a\x01k\x10\x02\x18\x02\x20\x01\x2a\x01v";
    writer.put(b"\0\0\0\0\0\0\0\x02_\0\0\0\0\0\0\0\0", value).expect("the first");
    writer.bucket(b"meta").expect("in order");
    writer.put(b"storageVersion", version).expect("the first");
    writer.finish().expect("written");
    let bytes = std::fs::read(path).expect("there");
    std::fs::write(path, [&bytes[..], &sha2::Sha256::digest(&bytes)].concat()).expect("written");
}

#[test]
fn it_tells_its_version_and_what_a_command_lacks() {
    assert_eq!(ran(&["version"]).1, "etcdutl version: 3.6.14\nAPI version: 3.6\n");
    fails(&["backup", "--data-dir", "d"], 1, "required flag(s) \"backup-dir\" not set");
    let saved = "In order to download snapshot use: `etcdctl snapshot save ...`";
    fails(&["snapshot", "save", "f"], 128, saved);
    assert!(!ran(&["snapshot"]).1.contains("save"), "what moved is not in the help");
    let wrong = "wrong target version format, expected \"X.Y\", got \"3\"";
    fails(&["migrate", "--data-dir", "d", "--target-version", "3"], 128, wrong);
    fails(&["defrag"], 1, "required flag(s) \"data-dir\" not set");
    fails(&["bogus"], 1, "unknown command \"bogus\" for \"etcdutl\"");
    fails(&["--version"], 1, "unknown flag: --version");
    fails(&["snapshot", "-x"], 1, "unknown shorthand flag: 'x' in -x");
    fails(&["--write-out"], 1, "flag needs an argument: --write-out");
    for group in [&["-w", "json"][..], &["snapshot", "bogus"], &["--help"], &[]] {
        let (code, out, err) = ran(group);
        assert!(code == 0 && out.starts_with("Usage:\n  etcdutl ") && err.is_empty(), "{group:?}: {err}");
    }
    let (code, out, err) = ran(&["help", "bogus"]);
    assert_eq!((code, out.as_str()), (0, ""), "as cobra has it");
    assert!(err.starts_with("Unknown help topic [`bogus`]\nUsage:\n  etcdutl [command]\n"), "{err}");
    assert!(ran(&["snapshot"]).1.contains("\nAvailable Commands:\n  restore"));
    assert!(ran(&["help", "snapshot", "restore"]).1.contains("--bump-revision int"));
}

#[test]
fn wrong_arguments_have_etcds_texts_and_codes() {
    fails(&["snapshot", "status"], 128, "snapshot status requires exactly one argument");
    fails(&["snapshot", "status", "/nofile"], 1, "stat /nofile: no such file or directory");
    fails(&["snapshot", "status", "-w", "foo", "/dev/null"], 4, "unsupported output format");
    fails(&["snapshot", "restore", "s.db"], 1, "required flag(s) \"data-dir\" not set");
    fails(&["snapshot", "restore", "--data-dir", "d"], 128, "snapshot restore requires exactly one argument");
    fails(&["snapshot", "status", "/nofile", "-w", "xml"], 4, "unsupported output format");
    fails(&["snapshot", "restore", "--bogus"], 1, "unknown flag: --bogus");
    let dir = tempfile::tempdir().expect("a directory");
    let to = dir.path().join("d").display().to_string();
    let (base, to) = (["snapshot", "restore", "/nofile", "--data-dir"], to.as_str());
    let restore = |more: &[&str], code, message: &str| fails(&[&base[..], &[to], more].concat(), code, message);
    restore(&[], 1, "open /nofile: no such file or directory");
    let local = "couldn't find local name \"zz\" in the initial cluster configuration";
    restore(&["--name", "zz"], 1, local);
    let bump = "--mark-compacted required if --revision-bump > 0";
    restore(&["--bump-revision", "7"], 128, bump);
    restore(&["--mark-compacted"], 128, bump);
    let there = dir.path().display().to_string();
    std::fs::write(dir.path().join("file"), "").expect("written");
    fails(&[&base[..], &[there.as_str()]].concat(), 1, &format!("data-dir \"{there}\" not empty or could not be read"));
    restore(&["--wal-dir", &there], 1, &format!("wal-dir \"{there}\" exists"));
    assert!(!Path::new(to).exists(), "nothing was made");
}

#[test]
fn a_snapshots_status_is_told_in_every_format() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("s.db");
    snapshot(&path);
    let path = path.display().to_string();
    let mut all = Vec::new();
    for part in [&b"key"[..], b"\0\0\0\0\0\0\0\x02_\0\0\0\0\0\0\0\0", b"\x0a\x01k\x10\x02\x18\x02\x20\x01\x2a\x01v"] {
        all.extend_from_slice(part);
    }
    all.extend_from_slice(b"metastorageVersion3.6.0");
    let hash = crc32c::crc32c(&all);
    let told = |format: &str| ran(&["snapshot", "status", &path, "-w", format]).1;
    assert_eq!(told("simple"), format!("{hash:x}, 2, 1, 16 kB, 3.6.0\n"));
    let json = format!("{{\"hash\":{hash},\"revision\":2,\"totalKey\":1,\"totalSize\":16384,\"version\":\"3.6.0\"}}\n");
    assert_eq!(told("json"), json);
    assert!(told("fields").ends_with("\"Revision\" : 2\n\"Keys\" : 1\n\"Size\" : 16384\n\"Version\" : 3.6.0\n"));
    assert!(told("table").contains("| REVISION | TOTAL KEYS | TOTAL SIZE | VERSION |\n"));
    fails(&["snapshot", "status", &path, "-w", "protobuf"], 4, "protobuf not supported as output format");
}

#[test]
fn damaged_files_are_refused_and_leave_nothing_behind() {
    let dir = tempfile::tempdir().expect("a directory");
    let (path, to) = (dir.path().join("s.db"), dir.path().join("d"));
    snapshot(&path);
    let whole = std::fs::read(&path).expect("there");
    let (file, data) = (path.display().to_string(), to.display().to_string());
    let restore =
        |more: &[&str]| ran(&[&["snapshot", "restore", file.as_str(), "--data-dir", data.as_str()][..], more].concat());
    let refused = |bytes: &[u8], more: &[&str], why: &str| {
        std::fs::write(&path, bytes).expect("written");
        let (code, _, err) = restore(more);
        assert!(code == 1 && err.contains(why), "{code}: {err}");
        assert!(!to.exists(), "nothing is left");
    };
    let mut flipped = whole.clone();
    flipped[3 * 4096 + 40] ^= 1;
    refused(&flipped, &[], "Error: expected sha256 [");
    refused(&whole[..whole.len() - 32], &[], "Error: snapshot missing hash but --skip-hash-check=false");
    refused(&whole[..8192], &["--skip-hash-check"], "the file is cut short");
    refused(b"hello", &["--skip-hash-check"], "Error: invalid database");
    // Both meta pages of another format of bbolt's, which has no other so far.
    let mut other = whole[..whole.len() - 32].to_vec();
    for page in [0, 4096] {
        other[page + 16 + 4] = 3;
    }
    refused(&other, &["--skip-hash-check"], "version mismatch");
    for (version, shown) in [(&b"3.7.0"[..], "3.7.0"), (b"4.0.0", "4.0.0"), (b"new", "new")] {
        snapshot_of(&path, version);
        let later = std::fs::read(&path).expect("there");
        refused(&later, &[], &format!("the data has the form of etcd {shown}, and this is 3.6."));
    }
    snapshot_of(&path, b"3.5.0");
    assert_eq!(restore(&[]).0, 0, "an older form is known");
    std::fs::remove_dir_all(&to).expect("removed");
    std::fs::write(&path, &flipped).expect("written");
    assert!(ran(&["snapshot", "status", &file]).2.contains("Error: expected sha256 ["));
    std::fs::write(&path, &whole).expect("written");
    assert_eq!(restore(&[]).0, 0);
    assert!(to.join("member/wal/0000000000000000-0000000000000000.wal").exists());
    let hashes = |what: &str| ran(&["hashkv", what, "-w", "json"]).1;
    assert_eq!(hashes(&data), hashes(&file));
    assert!(hashes(&file).contains("\"hashRevision\":2,\"compactRevision\":-1"));
    assert!(restore(&[]).2.contains("not empty or could not be read"));
}

/// One of etcd's directories in the form of 3.6, whose log ends with `request`.
fn directory_of_36(dir: &Path, request: pb::InternalRaftRequest) {
    let member = dir.join("member");
    std::fs::create_dir_all(member.join("snap")).expect("a folder");
    let mut file = RealDisk.create(&member.join("snap/db")).expect("a file");
    let mut writer = Writer::new(file.as_mut());
    writer.bucket(b"meta").expect("the first");
    for (key, value) in [("confState", "{}"), ("storageVersion", "3.6.0"), ("term", "\0\0\0\0\0\0\0\u{2}")] {
        writer.put(key.as_bytes(), value.as_bytes()).expect("in order");
    }
    writer.finish().expect("written");
    let metadata = Metadata { member: MemberId(1), cluster: ClusterId(2) };
    let mut log = Wal::create(Arc::new(RealDisk), &member.join("wal"), metadata, 1 << 16).expect("a log");
    let entry = Entry { term: 2, index: 1, data: request.encode_to_vec().into(), ..Entry::default() };
    log.append(&[entry], Some(&HardState { term: 2, vote: 1, commit: 1 })).expect("written");
    log.sync().expect("written");
}

#[test]
fn a_log_with_what_only_a_later_release_knows_is_not_taken_back_unless_by_force() {
    let dir = tempfile::tempdir().expect("a directory");
    let test = pb::DowngradeVersionTestRequest { ver: "3.6.0".to_owned() };
    let newer = pb::InternalRaftRequest { downgrade_version_test: Some(test), ..Default::default() };
    let (newer_dir, older_dir) = (dir.path().join("newer"), dir.path().join("older"));
    directory_of_36(&newer_dir, newer);
    let older = pb::InternalRaftRequest { put: Some(pb::PutRequest::default()), ..Default::default() };
    directory_of_36(&older_dir, older);
    let migrate = |dir: &Path, more: &[&str]| {
        let dir = dir.display().to_string();
        ran(&[&["migrate", "--data-dir", &dir, "--target-version", "3.5"], more].concat())
    };
    let why = "cannot downgrade storage, WAL contains newer entries, as the target version (3.5.0) is lower than the version (3.6.0) detected \
               from WAL logs";
    let (code, _, err) = migrate(&newer_dir, &[]);
    assert!(code == 1 && err.ends_with(&format!("Error: {why}\n")), "{code}: {err}");
    let (code, _, err) = migrate(&newer_dir, &["--force"]);
    assert!(
        code == 0 && err.contains("normal migrate failed, trying with force") && err.contains(why),
        "{code}: {err}"
    );
    let (code, _, err) = migrate(&older_dir, &[]);
    assert!(code == 0 && err.contains("downgraded storage version"), "{code}: {err}");
}
