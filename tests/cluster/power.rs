//! Power is lost: what a machine that stops at once leaves of its members.
//!
//! A process that is killed loses nothing that it has written; a machine loses what no `fdatasync` has returned for. So all members are ended when one is about
//! to sync, and what they wrote since the last sync is taken away by hand: all of it, or the sectors of its second half, as a disk might that was writing it. The store, which
//! nobody waits for, is left, set back to what an earlier stop left, or removed. Every acknowledged write must be there again.

use crate::client::Client;
use crate::failpoints;
use crate::foreign;
use crate::harness::Cluster;
use crate::harness::READY_WITHIN;
use crate::harness::Scratch;
use crate::harness::Spec;
use crate::harness::etcd_bin;
use crate::harness::turn;
use crate::harness::until;
use etcd_lab::failpoint::Point;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;

const WRITES: usize = 20;
const SECTOR: usize = 512;

/// What is left in the log of what was not synced.
#[derive(Clone, Copy, Debug)]
enum Tail {
    Nothing,
    Half,
}

/// What is left of the store.
#[derive(Clone, Copy, Debug)]
enum Stored {
    All,
    Earlier,
    Nothing,
}

fn wal(spec: &Spec) -> PathBuf {
    spec.data_dir.join("member/wal")
}

fn store(spec: &Spec) -> PathBuf {
    spec.data_dir.join("member/store")
}

/// All files of a folder, with their bytes.
fn read_all(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(dir).expect("a folder") {
        let path = entry.expect("a name").path();
        if path.is_dir() {
            files.append(&mut read_all(&path));
        } else {
            let bytes = fs::read(&path).expect("readable");
            files.insert(path, bytes);
        }
    }
    files
}

/// Makes a folder hold these files and no others.
fn set_back(dir: &Path, files: &BTreeMap<PathBuf, Vec<u8>>) {
    fs::remove_dir_all(dir).expect("removed");
    for (path, bytes) in files {
        fs::create_dir_all(path.parent().expect("a folder")).expect("made");
        fs::write(path, bytes).expect("written");
    }
}

/// Takes away what a log has and `synced` has not; returns how many bytes that was.
fn lose(dir: &Path, synced: &BTreeMap<PathBuf, Vec<u8>>, tail: Tail) -> usize {
    let written = read_all(dir);
    let mut lost = 0;
    for (path, after) in &written {
        let before = synced.get(path).map_or(&[][..], Vec::as_slice);
        let differs = |at: &usize| before.get(*at) != Some(&after[*at]) && (after[*at] != 0 || *at < before.len());
        let Some(first) = (0..after.len()).find(differs) else { continue };
        let last = (first..after.len()).rfind(differs).expect("there is a first");
        lost += last + 1 - first;
        if matches!(tail, Tail::Half) && synced.contains_key(path) {
            let mut half = after.clone();
            // A disk writes whole sectors.
            let cut = first.midpoint(last).next_multiple_of(SECTOR).min(half.len());
            half[cut..].fill(0);
            fs::write(path, half).expect("written");
        }
    }
    if matches!(tail, Tail::Nothing) {
        set_back(dir, synced);
    }
    lost
}

async fn start(members: usize) -> Cluster {
    let scratch = Scratch::new();
    let mut specs: Vec<Spec> = (0..members).map(|n| Spec::new(&format!("m{n}"), scratch.path())).collect();
    for spec in &mut specs {
        spec.more = vec!["--experimental-lab-wal-segment-bytes=1048576".to_owned()];
        spec.env = vec![failpoints::a_door()];
    }
    let client = Client::plain(specs.iter().map(|spec| spec.client_url.clone()).collect());
    Cluster::from_specs(&etcd_bin(), specs, client, scratch).await
}

/// Writes, loses the power of all members, and looks for what was acknowledged.
async fn lose_power(cluster: &mut Cluster, round: usize, tail: Tail, stored: Stored) {
    let members = 0..cluster.len();
    for member in members.clone() {
        cluster.terminate(member).await;
    }
    let earlier: Vec<_> = members.clone().map(|member| read_all(&store(cluster.spec(member)))).collect();
    members.clone().for_each(|member| cluster.launch(member));
    for member in members.clone() {
        cluster.ready(member).await;
    }
    for number in 0..WRITES {
        let (key, value) = (format!("r{round}/{number}"), format!("{round} {number}"));
        until(READY_WITHIN, "a put", async || cluster.client.put(number % cluster.len(), &key, &value).await).await;
    }
    // Nobody has anything left to sync when all have all.
    cluster.assert_equal_hashes().await;
    let synced: Vec<_> = members.clone().map(|member| read_all(&wal(cluster.spec(member)))).collect();
    for member in members.clone() {
        failpoints::set(cluster, member, Point::WalBeforeSync, "panic").await;
    }
    let leader = cluster.leader().await;
    drop(cluster.client.put(leader, &format!("r{round}/late"), &"late".repeat(500)).await);
    assert_eq!(cluster.gone(leader).await.code(), Some(failpoints::PANICKED), "the leader was about to sync");
    // The others have not got it, were about to sync it too, or have nothing to do.
    cluster.kill_all();
    let mut lost = 0;
    for member in members.clone() {
        lost += lose(&wal(cluster.spec(member)), &synced[member], tail);
        let dir = store(cluster.spec(member));
        match stored {
            Stored::All => {}
            Stored::Earlier => set_back(&dir, &earlier[member]),
            Stored::Nothing => fs::remove_dir_all(&dir).expect("removed"),
        }
    }
    assert!(lost > 2000, "the late write was in a log and not synced: {lost} bytes");
    members.clone().for_each(|member| cluster.launch(member));
    for member in members {
        cluster.ready(member).await;
    }
    for before in 0..=round {
        for number in 0..WRITES {
            let key = format!("r{before}/{number}");
            let found =
                until(READY_WITHIN, "a read", async || cluster.client.get(number % cluster.len(), &key).await).await;
            assert_eq!(found, Some(format!("{before} {number}")), "{tail:?}, {stored:?}: {key}");
        }
    }
    cluster.assert_equal_hashes().await;
}

#[test]
fn a_loss_of_power_everywhere_costs_no_acknowledged_write() {
    if !failpoints::are_there() {
        return foreign::not_possible("losing power", "the server has no failpoints");
    }
    turn(Duration::from_secs(300), async {
        for members in [1, 3] {
            let mut cluster = start(members).await;
            let kinds = [Stored::All, Stored::Earlier, Stored::Nothing];
            let kinds = kinds.into_iter().flat_map(|stored| [(Tail::Nothing, stored), (Tail::Half, stored)]);
            for (round, (tail, stored)) in kinds.enumerate() {
                lose_power(&mut cluster, round, tail, stored).await;
            }
        }
    });
}
