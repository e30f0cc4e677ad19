//! What a disk that fails, a log that is gone or a leader with another quota does to a member.

use super::*;

/// Of two that the store thread is asked to install, the first has no image, and the second waits behind it.
#[tokio::test(flavor = "multi_thread")]
async fn who_waits_for_the_store_thread_when_the_disk_fails_is_let_go() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let node = alone(dir.path()).await;
    ready(&node).await;
    let inner = node.inner.clone();
    let install = |room| {
        let (answer, built) = std::sync::mpsc::sync_channel(room);
        let mark = crate::wal::SnapshotMark { index: 1_000_000, term: 2, conf_state: None };
        inner.writes.force(Write::Install(mark, answer));
        built
    };
    // Without room for its answer, the thread waits here until somebody hears it.
    let first = install(0);
    until("the first is taken", async || inner.writes.is_empty()).await;
    let second = install(1);
    let wait = move || {
        (first.recv().map(|installed| installed.is_err()), second.recv_timeout(Duration::from_secs(30)).map(drop))
    };
    let (failed, heard) = tokio::task::spawn_blocking(wait).await.expect("no panic");
    assert_eq!(failed, Ok(true));
    assert_eq!(heard, Err(std::sync::mpsc::RecvTimeoutError::Disconnected));
    tokio::time::timeout(Duration::from_secs(30), node.stop()).await.expect("all its threads end");
}

/// With the log on a disk of its own that is not mounted, for example.
#[tokio::test]
async fn no_log_is_begun_beside_a_store_that_a_snapshot_was_made_into() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let node = alone(dir.path()).await;
    put(&node, "a", "1").await.expect("put");
    let config = node.config().clone();
    node.stop().await;
    drop(node);
    let (member, name) = (config.data_dir.join("member"), "store-0000000000000004");
    std::fs::rename(member.join("store"), member.join(name)).expect("renamed");
    std::fs::remove_dir_all(member.join("wal")).expect("removed");
    let refused = async |left: &str| {
        let (listener, _) = listen().await;
        let network = Network { listeners: vec![(listener.into(), Acceptor::plain())], dial: None };
        let Err(Error::Start(why)) = Node::start(config.clone(), network).await else {
            panic!("it starts with {left}")
        };
        assert!(why.contains(&format!("{left} holds data, but its log")), "{why}");
        assert!(!member.join("wal").exists(), "{left}: nothing was begun");
    };
    refused(name).await;
    std::fs::rename(member.join(name), member.join("manifest")).expect("renamed");
    refused("manifest").await;
}

#[test]
fn an_image_of_a_leader_with_a_larger_quota_is_taken_if_it_fits_on_the_disk() {
    let (taken, gib) = (install::bytes_max, 1 << 30);
    assert_eq!(taken(Some(2 * gib), Some(100 * gib)), 50 * gib, "beside it, the store that is made of it");
    assert_eq!(taken(Some(2 * gib), Some(gib)), taken(Some(2 * gib), None), "never less than what its own quota says");
    assert!(taken(Some(2 * gib), None) > 4 * gib);
}
