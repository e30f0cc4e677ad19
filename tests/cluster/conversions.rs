//! What may go wrong when a data directory of etcd's own becomes ours: an end at each step, and all that is refused before anything is written.
//!
//! The directories are those that `etcdutl convert` writes of ours for etcd; in `in_place` they are etcd's own.

use crate::bad_input::SmallDisk;
use crate::client::Client;
use crate::failpoints;
use crate::failpoints::AT_START;
use crate::failpoints::PANICKED;
use crate::foreign;
use crate::harness::Cluster;
use crate::harness::ENDS_WITHIN;
use crate::harness::Process;
use crate::harness::READY_WITHIN;
use crate::harness::Scratch;
use crate::harness::Spec;
use crate::harness::etcd_bin;
use crate::harness::is_ours;
use crate::harness::turn;
use crate::harness::until;
use crate::ports;
use etcd_lab::bbolt::Item;
use etcd_lab::bbolt::Reader;
use etcd_lab::bbolt::Writer;
use etcd_lab::disk::Disk as _;
use etcd_lab::disk::RealDisk;
use etcd_lab::disk::copy_folder;
use etcd_lab::failpoint::Point;
use etcd_lab::image::snap_file;
use etcd_lab::proto::etcdserverpb as pb;
use etcd_lab::proto::membershippb;
use etcd_lab::proto::raftpb::Entry;
use etcd_lab::proto::raftpb::HardState;
use etcd_lab::wal;
use etcd_lab::wal::Wal;
use prost::Message as _;
use std::collections::BTreeMap;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

const KEYS: usize = 30;
const KEY: &str = "key/";
/// Megabytes: less than the log alone takes.
const ROOM_LEFT: usize = 20;
/// What a member says when it is done.
const CONVERTED: &str = "converted a data directory of etcd's own";

/// A stopped member's directory in etcd's form, and what was in it.
struct Left {
    _scratch: Scratch,
    spec: Spec,
    hash: (u32, i64),
}

/// The hash of all history, and its revision.
async fn state(cluster: &Cluster) -> (u32, i64) {
    let told = cluster.client.hash_kv(0, 0).await.expect("a hash");
    (told.hash, told.header.expect("a header").revision)
}

impl Left {
    async fn behind() -> Left {
        let mut cluster = Cluster::start_with(&etcd_bin(), 1, &["--snapshot-count=10"]).await;
        for n in 0..KEYS {
            cluster.client.put(0, &format!("{KEY}{n}"), &"v".repeat(10_000)).await.expect("a put");
        }
        let hash = state(&cluster).await;
        cluster.terminate(0).await;
        let scratch = Scratch::new();
        let to = scratch.path().join("left");
        let (from, out) = (cluster.spec(0).data_dir.display().to_string(), to.display().to_string());
        let words = ["convert", "--target-version", "3.6", "--data-dir", &from, "--output-dir", &out];
        let done = Command::new(env!("CARGO_BIN_EXE_etcdutl")).args(words).output().expect("it runs");
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        Left { _scratch: scratch, spec: Spec { data_dir: to, ..cluster.spec(0).clone() }, hash }
    }

    /// A member on a copy of the directory, not started yet.
    fn copy(&self) -> (Scratch, Spec) {
        let scratch = Scratch::new();
        let spec = self.copy_in(scratch.path());
        (scratch, spec)
    }

    fn copy_in(&self, dir: &Path) -> Spec {
        let data_dir = dir.join("copy");
        copy_folder(&self.spec.data_dir, &data_dir, &|_| true).expect("copied");
        Spec { data_dir, ..self.spec.clone() }
    }

    fn start(&self, spec: &Spec) -> Process {
        let log = spec.data_dir.with_extension("log");
        let env: Vec<(&str, &str)> = spec.env.iter().map(|(name, value)| (*name, value.as_str())).collect();
        Process::start(&etcd_bin(), &spec.flags(std::slice::from_ref(spec)), &env, &log)
    }

    /// Starts on the directory, which must hold what was left.
    async fn assert_whole(&self, spec: Spec) -> Cluster {
        let client = Client::plain(vec![spec.client_url.clone()]);
        let mut cluster = Cluster::prepared(&etcd_bin(), vec![spec], client, Scratch::new());
        cluster.restart(0).await;
        assert_eq!(state(&cluster).await, self.hash);
        assert_eq!(cluster.client.prefix(KEY).await.expect("a read").len(), KEYS);
        cluster.client.put(0, "after", "1").await.expect("it goes on");
        cluster
    }
}

fn a_url() -> String {
    format!("http://127.0.0.1:{}", ports::free())
}

/// All files below a folder, with what is in them.
fn files(dir: &Path) -> BTreeMap<PathBuf, u32> {
    let mut all = BTreeMap::new();
    for entry in std::fs::read_dir(dir).expect("it can be read") {
        let path = entry.expect("its entries too").path();
        if path.is_dir() {
            all.insert(path.clone(), 0);
            all.append(&mut files(&path));
        } else {
            all.insert(path.clone(), crc32c::crc32c(&std::fs::read(&path).expect("it can be read")));
        }
    }
    all
}

#[test]
fn a_conversion_that_ends_at_any_step_is_made_good_by_the_next_start() {
    if failpoints::program("a_conversion_that_ends_at_any_step…").is_none() {
        return;
    }
    turn(Duration::from_secs(120), async {
        let left = Left::behind().await;
        let before = files(&left.spec.data_dir.join("member"));
        for point in failpoints::of_conversion() {
            let (_scratch, mut spec) = left.copy();
            spec.env = vec![(AT_START, format!("{}=panic", point.name()))];
            let mut first = left.start(&spec);
            assert_eq!(first.ended(ENDS_WITHIN).await.code(), Some(PANICKED), "{point:?}");
            spec.env.clear();
            let kept = spec.data_dir.join("member.etcd");
            let cluster = left.assert_whole(spec).await;
            // What etcd wrote is there, byte for byte, and what the first attempt made is not.
            let now: Vec<u32> = files(&kept).into_values().collect();
            assert_eq!(now, before.values().copied().collect::<Vec<u32>>(), "{point:?}");
            assert!(!cluster.spec(0).data_dir.join("member.new").exists());
        }
    });
}

#[test]
fn a_directory_that_is_being_converted_is_left_alone() {
    if failpoints::program("a_directory_that_is_being_converted…").is_none() {
        return;
    }
    turn(Duration::from_secs(120), async {
        let left = Left::behind().await;
        for point in [Point::AdoptBeforeFormat, Point::AdoptBetweenRenames] {
            let (_scratch, mut spec) = left.copy();
            spec.env = vec![(AT_START, format!("{}=sleep(3000)", point.name()))];
            let client = Client::plain(vec![spec.client_url.clone()]);
            let mut cluster = Cluster::prepared(&etcd_bin(), vec![spec.clone()], client, Scratch::new());
            cluster.launch(0);
            let member = spec.data_dir.join("member");
            until(READY_WITHIN, "it is half way", async || match point {
                Point::AdoptBetweenRenames if !member.exists() => Ok(()),
                Point::AdoptBeforeFormat if spec.data_dir.join("member.new/wal").exists() => Ok(()),
                _ => Err("not yet"),
            })
            .await;
            // However long the second one takes: who stands still keeps what is locked, and goes no further.
            cluster.pause(0);
            spec.env.clear();
            (spec.client_url, spec.peer_url) = (a_url(), a_url());
            let mut second = left.start(&spec);
            assert_eq!(second.ended(ENDS_WITHIN).await.code(), Some(1));
            assert!(second.log().contains("another etcd runs in it, stop it first"), "{}", second.log());
            cluster.resume(0);
            cluster.ready(0).await;
            assert!(cluster.log(0).contains(CONVERTED));
            assert_eq!(state(&cluster).await, left.hash);
        }
    });
}

/// Changes a copied directory so that it must be refused.
type Spoil = fn(&Path, &mut Spec);

/// Writes the database anew, with one row of the bucket `meta` more or another.
fn set_meta(member: &Path, key: &[u8], value: &[u8]) {
    let path = member.join("snap/db");
    let file = RealDisk.open_to_read(&path).expect("there");
    let bytes = file.len().expect("a length");
    let mut rows: BTreeMap<(Vec<u8>, Vec<u8>), Vec<u8>> = BTreeMap::new();
    let mut bucket = Vec::new();
    let reader = Reader::open(file, bytes).expect("a database");
    let mut read = |item: Item<'_>| {
        match item {
            Item::Enter(name) => bucket = name.to_vec(),
            Item::Row(key, value) => drop(rows.insert((bucket.clone(), key.to_vec()), value.to_vec())),
            Item::Leave => {}
        }
        Ok(())
    };
    reader.walk(&mut read).expect("whole");
    rows.insert((b"meta".to_vec(), key.to_vec()), value.to_vec());
    let mut file = RealDisk.create(&path).expect("created");
    let mut writer = Writer::new(file.as_mut());
    let mut open = Vec::new();
    for ((bucket, key), value) in &rows {
        if *bucket != open {
            writer.bucket(bucket).expect("in order");
            open.clone_from(bucket);
        }
        writer.put(key, value).expect("in order");
    }
    writer.finish().expect("written");
}

/// Appends a committed entry to the log.
fn log_one_more(member: &Path, data: Vec<u8>) {
    let (mut wal, log) = Wal::open(Arc::new(RealDisk), &member.join("wal"), wal::SEGMENT_BYTES, None).expect("a log");
    let last = log.entries.last().map_or((log.start.index, log.start.term), |entry| (entry.index, entry.term));
    let entry = Entry { index: last.0 + 1, term: last.1, data: data.into(), ..Entry::default() };
    let hard_state = HardState { commit: entry.index, ..log.hard_state };
    wal.append(&[entry], Some(&hard_state)).expect("written");
    wal.sync().expect("synced");
}

/// `PUT /1/KEY` of the v2 API, as an entry has it: id, method, path, value.
fn v2_put() -> Vec<u8> {
    let mut bytes = vec![0x08, 7];
    for (tag, text) in [(0x12, "PUT"), (0x1a, "/1/key"), (0x22, "value")] {
        bytes.extend([tag, text.len() as u8]);
        bytes.extend(text.bytes());
    }
    bytes
}

fn with_v2_keys(member: &Path, _: &mut Spec) {
    let log = wal::read(&RealDisk, &member.join("wal"), None).expect("a log");
    let mark = log.snapshots.last().expect("it begins at a mark");
    let key = r#"{"Path":"/1/key","Value":"value","Children":null}"#;
    let store = format!(
        r#"{{"Root":{{"Path":"/","Children":{{"0":{{"Children":{{}}}},"1":{{"Children":{{"key":{key}}}}}}}}}}}"#
    );
    // Each note deletes the one before; of the same mark it takes its place.
    snap_file::save(&RealDisk, &member.join("snap"), mark, store.as_bytes()).expect("saved");
}

fn with_a_damaged_note(member: &Path, _: &mut Spec) {
    let names = RealDisk.list(&member.join("snap")).expect("there");
    let name = names.iter().rfind(|name| name.ends_with(".snap")).expect("the log begins at a mark");
    let path = member.join("snap").join(name);
    let mut bytes = std::fs::read(&path).expect("it can be read");
    let at = bytes.len() / 2;
    bytes[at] ^= 1;
    std::fs::write(&path, bytes).expect("written");
}

const SPOILT: &[(&str, Spoil, &str)] = &[
    ("a newer form", |member, _| set_meta(member, b"storageVersion", b"3.7.0"), "the form of etcd 3.7.0"),
    ("an older form", |member, _| set_meta(member, b"consistent_index", &u64::MAX.to_be_bytes()), "from another time"),
    (
        "a newer cluster",
        |member, _| {
            let cluster_version_set = Some(membershippb::ClusterVersionSetRequest { ver: "3.7.0".into() });
            let request = pb::InternalRaftRequest { id: 9, cluster_version_set, ..Default::default() };
            log_one_more(member, request.encode_to_vec());
        },
        "the cluster speaks 3.7.0",
    ),
    // Field 3000: a message that no release has yet.
    (
        "a newer entry",
        |member, _| log_one_more(member, vec![0x08, 9, 0xc2, 0xbb, 0x01, 0]),
        "only a later release knows",
    ),
    ("a write to the v2 store", |member, _| log_one_more(member, v2_put()), "is of the v2 store"),
    ("a v2 store with keys", with_v2_keys, "its v2 store holds 1 entries"),
    ("a v2 store that cannot be read", with_a_damaged_note, "what its v2 store holds is not known"),
    (
        "a damaged page",
        |member, _| {
            let path = member.join("snap/db");
            let mut bytes = std::fs::read(&path).expect("there");
            bytes[3 * 4096..5 * 4096].fill(0xee);
            std::fs::write(&path, bytes).expect("written");
        },
        "snap/db: ",
    ),
    (
        "half a database",
        |member, _| {
            let path = member.join("snap/db");
            let bytes = std::fs::read(&path).expect("there");
            std::fs::write(&path, &bytes[..bytes.len() / 2]).expect("written");
        },
        "snap/db: ",
    ),
    ("no log", |member, _| std::fs::remove_dir_all(member.join("wal")).expect("removed"), "a database and no log"),
    (
        "a log elsewhere",
        |member, spec| {
            let to = member.with_file_name("wal");
            std::fs::rename(member.join("wal"), &to).expect("moved");
            spec.more.push(format!("--wal-dir={}", to.display()));
        },
        "start without --wal-dir",
    ),
    (
        "an earlier conversion",
        |member, _| std::fs::create_dir(member.with_file_name("member.etcd")).expect("made"),
        "is there from an earlier conversion",
    ),
];

#[test]
fn what_cannot_be_converted_is_refused_before_anything_is_written() {
    if !is_ours() {
        return foreign::not_possible("conversions", "etcd converts nothing");
    }
    turn(Duration::from_secs(120), async {
        let left = Left::behind().await;
        for (name, spoil, why) in SPOILT {
            let (_scratch, mut spec) = left.copy();
            spoil(&spec.data_dir.join("member"), &mut spec);
            let before = files(&spec.data_dir);
            let mut member = left.start(&spec);
            let ended = member.ended(ENDS_WITHIN).await;
            let log = member.log();
            assert_eq!(ended.code(), Some(1), "{name}: {log}");
            assert!(log.contains(why) && log.contains("nothing in it was changed"), "{name}: {log}");
            assert_eq!(files(&spec.data_dir), before, "{name}");
        }
        // And what was not spoilt can be had: an etcd of this release leaves such a directory.
        let (_scratch, spec) = left.copy();
        let cluster = left.assert_whole(spec).await;
        assert!(cluster.log(0).contains(CONVERTED));
    });
}

#[test]
fn a_disk_without_room_for_both_is_noticed_before_anything_is_written() {
    let Some(disk) = SmallDisk::mount(500) else {
        return foreign::not_possible("a full disk", "no right to mount a small file system");
    };
    turn(Duration::from_secs(120), async {
        let left = Left::behind().await;
        let spec = left.copy_in(disk.path());
        let about = rustix::fs::statvfs(disk.path()).expect("a file system");
        let free = usize::try_from(about.f_bfree * about.f_frsize).expect("some megabytes");
        let filler = disk.path().join("filler");
        std::fs::write(&filler, vec![0; free - (ROOM_LEFT << 20)]).expect("room");
        let before = files(&spec.data_dir);
        let mut member = left.start(&spec);
        assert_eq!(member.ended(ENDS_WITHIN).await.code(), Some(1));
        let log = member.log();
        assert!(log.contains("make room, or move it to a larger disk"), "{log}");
        assert_eq!(files(&spec.data_dir), before);
        drop(member);
        std::fs::remove_file(&filler).expect("removed");
        left.assert_whole(spec).await;
    });
}
