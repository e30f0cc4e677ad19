//! Members that do not come up, ports that are taken, restores that did nothing.

use super::LIMIT;
use super::Told;
use super::assert_first;
use super::doctor;
use super::run;
use crate::client::Client;
use crate::harness::Cluster;
use crate::harness::READY_WITHIN;
use crate::harness::Scratch;
use crate::harness::Spec;
use crate::harness::etcd_bin;
use crate::harness::turn;
use crate::harness::until;
use etcd_lab::doctor::Cause;
use etcd_lab::proto::etcdserverpb as pb;
use std::path::Path;

/// What the doctor says of a member that is started so.
async fn start_of(flags: &[String], folder: &Path) -> Told {
    let words: Vec<&str> = ["--", "etcd"].into_iter().chain(flags.iter().map(String::as_str)).collect();
    doctor(&words, folder).await
}

/// The flags of a member with one of them changed.
fn with(mut flags: Vec<String>, flag: &str, value: &str) -> Vec<String> {
    match flags.iter().position(|word| word == flag) {
        Some(at) => value.clone_into(&mut flags[at + 1]),
        None => flags.extend([flag.to_owned(), value.to_owned()]),
    }
    flags
}

/// A unit that starts a member with these flags, as the labs write them.
fn unit(flags: &[String], path: &Path) {
    let lines: Vec<String> = flags.chunks(2).map(|pair| pair.join(" ")).collect();
    let text = format!(
        "[Service]\nType=notify\nExecStart=/usr/local/bin/etcd \\\n  {}\nRestart=on-failure\n",
        lines.join(" \\\n  ")
    );
    std::fs::write(path, text).expect("a unit");
}

#[test]
fn a_start_that_hangs_waits_for_the_next_member() {
    turn(LIMIT, async {
        let scratch = Scratch::new();
        let dir = scratch.path().to_owned();
        let specs: Vec<Spec> = (0..3).map(|n| Spec::new(&format!("m{n}"), &dir)).collect();
        let client = Client::plain(specs.iter().map(|spec| spec.client_url.clone()).collect());
        let mut cluster = Cluster::prepared(&etcd_bin(), specs, client, scratch);
        let path = dir.join("etcd.service");
        unit(&cluster.spec(0).flags(&all(&cluster)), &path);
        cluster.launch(0);
        let file = path.display().to_string();
        until(READY_WITHIN, "it runs", async || {
            let told = doctor(&["--", "systemctl", "start", &file], &dir).await;
            if told.out.contains("this one runs and waits") { Ok(()) } else { Err(format!("{told:?}")) }
        })
        .await;
        let told = doctor(&["--", "systemctl", "start", &file], &dir).await;
        assert_first(
            &told.out,
            Cause::WaitingForQuorum,
            &["1 of 3 members is up, and a majority is 2", "the unit is Type=notify", "m1 (", "connection refused"],
        );
        cluster.launch(1);
        cluster.ready(0).await;
        cluster.ready(1).await;
        let told = doctor(&["--", "systemctl", "start", &file], &dir).await;
        assert_first(&told.out, Cause::AllWell, &["2 of 3 members are up"]);
        assert_eq!(told.code, 0);
    });
}

fn all(cluster: &Cluster) -> Vec<Spec> {
    (0..cluster.len()).map(|member| cluster.spec(member).clone()).collect()
}

#[test]
fn a_port_that_is_taken_has_a_holder() {
    turn(LIMIT, async {
        let cluster = Cluster::start(1).await;
        let spec = cluster.spec(0);
        let other = Spec::new("late", cluster.dir());
        let flags = with(other.flags(std::slice::from_ref(&other)), "--listen-client-urls", &spec.client_url);
        let told = start_of(&flags, cluster.dir()).await;
        let data = spec.data_dir.display().to_string();
        assert_first(&told.out, Cause::PortTaken, &["is taken: etcd (pid ", &data, &format!("--name {}", spec.name)]);
    });
}

#[test]
fn a_founder_whose_flags_do_not_fit_is_told_which() {
    turn(LIMIT, async {
        let cluster = Cluster::start(1).await;
        let first = cluster.spec(0).clone();
        let own = Spec::new("m1", cluster.dir());
        let flags = own.flags(&[first.clone(), own.clone()]);
        let told = start_of(&with(flags.clone(), "--name", ""), cluster.dir()).await;
        assert_first(&told.out, Cause::NameNotInCluster, &["--name (ETCD_NAME) is empty", "names m0, m1"]);
        let told = start_of(&with(flags.clone(), "--name", "m2"), cluster.dir()).await;
        assert_first(&told.out, Cause::NameNotInCluster, &["called m2"]);
        let https = own.peer_url.replace("http:", "https:");
        let told = start_of(&with(flags.clone(), "--initial-advertise-peer-urls", &https), cluster.dir()).await;
        assert_first(&told.out, Cause::PeerUrlDiffers, &[&https, &own.peer_url]);
        // The member that is up founded a cluster of one.
        let told = start_of(&with(flags.clone(), "--initial-cluster-token", "other"), cluster.dir()).await;
        assert_first(&told.out, Cause::OtherCluster, &["the token (other) or --initial-cluster differ"]);
        let told = start_of(&with(flags, "--initial-cluster-state", "existing"), cluster.dir()).await;
        assert_first(
            &told.out,
            Cause::PeerUrlDiffers,
            &["the cluster has no member with the peer URL", &first.peer_url],
        );
    });
}

#[test]
fn a_newcomer_whose_flags_do_not_fit_is_told_which() {
    turn(LIMIT, async {
        let mut cluster = Cluster::start(3).await;
        let own = Spec::new("m3", cluster.dir());
        let add = pb::MemberAddRequest { peer_ur_ls: vec![own.peer_url.clone()], is_learner: false };
        until(READY_WITHIN, "added", async || cluster.client.cluster(0).member_add(add.clone()).await).await;
        let everybody = [all(&cluster), vec![own.clone()]].concat();
        let flags = own.flags(&everybody);
        let told = start_of(&flags, cluster.dir()).await;
        assert_first(&told.out, Cause::StateNew, &["--initial-cluster-state is new", "member add gave it the id"]);
        let existing = with(flags, "--initial-cluster-state", "existing");
        let told = start_of(&existing, cluster.dir()).await;
        assert_first(&told.out, Cause::AllWell, &[]);
        let fewer = with(own.flags(&[everybody[0].clone(), own.clone()]), "--initial-cluster-state", "existing");
        let told = start_of(&fewer, cluster.dir()).await;
        assert_first(&told.out, Cause::CountDiffers, &["names 2 members, and the cluster has 4", "[unstarted]"]);
        cluster.kill_all();
        let told = start_of(&existing, cluster.dir()).await;
        assert_first(&told.out, Cause::NobodyToJoin, &["none of that cluster's members answers", "m0 ("]);
    });
}

#[test]
fn a_directory_of_another_life_is_recognized() {
    turn(LIMIT, async {
        let mut cluster = Cluster::start(3).await;
        let removed = cluster.client.status(2).await.expect("a status").header.expect("a header").member_id;
        cluster.kill(2);
        let ask = pb::MemberRemoveRequest { id: removed };
        until(READY_WITHIN, "removed", async || match cluster.client.cluster(0).member_remove(ask).await {
            // The answer to an earlier try was lost, its effect was not.
            Err(e) if e.code() == tonic::Code::NotFound => Ok(()),
            answer => answer.map(drop),
        })
        .await;
        let everybody = all(&cluster);
        let flags = cluster.spec(2).flags(&everybody);
        let told = start_of(&flags, cluster.dir()).await;
        assert_first(&told.out, Cause::RemovedMember, &[&format!("holds member {removed:x}, which was removed")]);
        // Its directory is gone, and its flags still say new: it would be the member that was removed.
        std::fs::remove_dir_all(&cluster.spec(2).data_dir).expect("removed");
        let told = start_of(&flags, cluster.dir()).await;
        assert_first(&told.out, Cause::RemovedMember, &["cannot come back as its founder"]);
        let mut stranger = Cluster::start(1).await;
        stranger.kill(0);
        let foreign = stranger.spec(0).data_dir.display().to_string();
        let told = start_of(&with(flags, "--data-dir", &foreign), cluster.dir()).await;
        assert_first(&told.out, Cause::ForeignDirectory, &["holds a member of another cluster"]);
    });
}

#[test]
fn a_restore_that_did_nothing_went_somewhere_else() {
    turn(LIMIT, async {
        let mut cluster = Cluster::start(1).await;
        let dir = cluster.dir().to_owned();
        cluster.client.put(0, "k", "v").await.expect("a put");
        let url = cluster.spec(0).client_url.clone();
        let told =
            run(env!("CARGO_BIN_EXE_etcdctl"), &["--endpoints", &url, "snapshot", "save", "snapshot.db"], &dir).await;
        assert_eq!(told.code, 0, "{told:?}");
        let restore = ["etcdctl", "--endpoints", "10.2.0.9:2379", "snapshot", "restore", "snapshot.db"];
        let told = doctor(&[&["--"][..], &restore].concat(), &dir).await;
        assert!(told.err.starts_with("Error: nothing was restored to "), "{told:?}");
        let told = run(env!("CARGO_BIN_EXE_etcdctl"), &restore[1..], &dir).await;
        assert_eq!(told.code, 0, "{told:?}");
        let told = doctor(&[&["--"][..], &restore].concat(), &dir).await;
        let went = dir.join("default.etcd").display().to_string();
        let used = cluster.spec(0).data_dir.display().to_string();
        let parts = [&*went, &used, "no --data-dir was given", "a restore asks no endpoint"];
        assert_first(&told.out, Cause::RestoredElsewhere, &parts);
        let used = ["--", "etcdutl", "snapshot", "restore", "snapshot.db", "--data-dir", &used];
        let told = doctor(&used, &dir).await;
        assert_first(&told.out, Cause::AllWell, &["uses what was restored"]);
        cluster.kill(0);
    });
}
