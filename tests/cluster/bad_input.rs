//! Wrong flags, wrong surroundings, wrong requests: etcd's text, etcd's exit code, nothing lost, no panic.
//!
//! That no log holds a panic is looked at wherever a process ends ([`crate::harness::Process`]).

use crate::client;
use crate::foreign;
use crate::harness::Cluster;
use crate::harness::ENDS_WITHIN;
use crate::harness::Process;
use crate::harness::Scratch;
use crate::harness::Spec;
use crate::harness::alone;
use crate::harness::etcd_bin;
use crate::harness::is_ours;
use crate::harness::shell_code;
use crate::harness::turn;
use crate::harness::until;
use crate::seeded::Seeded;
use etcd_lab::proto::etcdserverpb as pb;
use etcd_lab::proto::raftpb;
use prost::Message as _;
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tonic::Code;

/// Starts a member that should not start; returns its exit code (-1 if it started all the same) and all that it said.
async fn refusal(spec: &Spec, flags: &[String], env: &[(&str, &str)], dir: &Path) -> (i32, String) {
    let log = dir.join(format!("{}.log", spec.name));
    let mut process = Process::start(&etcd_bin(), flags, env, &log);
    let code = process.ends(ENDS_WITHIN).await.map_or(-1, shell_code);
    (code, process.log())
}

/// The flags of a member on free ports, changed.
fn flags_but(spec: &Spec, change: &[&str]) -> Vec<String> {
    let mut flags = spec.flags(std::slice::from_ref(spec));
    for word in change {
        let name = word.split('=').next().unwrap_or_default();
        if let Some(at) = flags.iter().position(|flag| flag == name) {
            flags.drain(at..at + 2);
        }
        // A flag that ends in `-` is only taken away.
        if !name.ends_with('-') {
            flags.push((*word).to_owned());
        }
    }
    flags.retain(|flag| flag != "--");
    flags
}

/// Change of flags, exit code, text.
const REFUSED: [(&[&str], i32, &str); 17] = [
    (&["--bogus-flag"], 2, "flag provided but not defined: -bogus-flag"),
    (&["--snapshot-count=many"], 2, "invalid value \"many\" for flag -snapshot-count"),
    (&["--client-cert-auth=perhaps"], 2, "invalid boolean value \"perhaps\" for -client-cert-auth"),
    (&["--initial-cluster-state=old"], 2, "invalid value \"old\" for flag -initial-cluster-state"),
    (&["--listen-peer-urls=http://127.0.0.1"], 2, "URL address does not have the form \"host:port\": http://127.0.0.1"),
    (
        &["--listen-client-urls=ftp://127.0.0.1:28000"],
        2,
        "URL scheme must be http, https, unix, or unixs: ftp://127.0.0.1:28000",
    ),
    (&["--listen-client-urls=http://127.0.0.1:28000/x"], 2, "URL must not contain a path: http://127.0.0.1:28000/x"),
    (&["--listen-client-urls=http://127.0.0.1:99999"], 1, "listen tcp: address 99999: invalid port"),
    (&["--cors=not a url"], 2, "invalid value \"not a url\" for flag -cors"),
    (&["stray"], 1, "is not a valid flag"),
    (&["--name=other"], 1, "couldn't find local name \\\"other\\\" in the initial cluster configuration"),
    (
        &["--listen-client-urls=http://example.com:28000"],
        1,
        "expected IP in URL for binding (http://example.com:28000)",
    ),
    (
        &["--election-timeout=300"],
        1,
        "--election-timeout[300ms] should be at least as 5 times as --heartbeat-interval[100ms]",
    ),
    (&["--election-timeout=60000"], 1, "--election-timeout[60000ms] is too long, and should be set less than 50000ms"),
    (
        &["--listen-client-urls=https://127.0.0.1:28000", "--advertise-client-urls=https://127.0.0.1:28000"],
        1,
        "TLS key/cert (--cert-file, --key-file) must be provided for client url https://127.0.0.1:28000 with HTTPS scheme",
    ),
    (
        &["--log-outputs=systemd/journal,stderr"],
        1,
        "running with systemd/journal but other '--log-outputs' values ([\\\"stderr\\\" \\\"systemd/journal\\\"]) are configured",
    ),
    (&["--auto-compaction-mode=sometimes"], 1, "unknown auto-compaction-mode \\\"sometimes\\\""),
];

#[test]
fn wrong_flags_are_refused_in_the_words_of_etcd() {
    turn(Duration::from_secs(180), async {
        let scratch = Scratch::new();
        let mut complaints = Vec::new();
        for (number, (change, code, text)) in REFUSED.iter().enumerate() {
            let spec = Spec::new(&format!("m{number}"), scratch.path());
            let (got, said) = refusal(&spec, &flags_but(&spec, change), &[], scratch.path()).await;
            if got != *code || !said.contains(text) {
                let last: Vec<&str> = said.lines().filter(|line| !line.starts_with("  ")).take(8).collect();
                complaints
                    .push(format!("{change:?}: code {got}, expected {code} and {text:?} in\n{}", last.join("\n")));
            }
            // etcd makes the directory before it looks at the names.
            if is_ours() && spec.data_dir.exists() {
                complaints.push(format!("{change:?}: a data directory was made"));
            }
        }
        assert!(complaints.is_empty(), "{} of {}\n{}", complaints.len(), REFUSED.len(), complaints.join("\n\n"));
    });
}

#[test]
fn a_variable_that_a_flag_contradicts_is_refused() {
    turn(Duration::from_secs(60), async {
        let scratch = Scratch::new();
        let spec = Spec::new("m0", scratch.path());
        let (code, said) = refusal(&spec, &flags_but(&spec, &[]), &[("ETCD_NAME", "m1")], scratch.path()).await;
        assert_eq!(code, 1, "{said}");
        assert!(
            said.contains("conflicting environment variable is shadowed by corresponding command-line flag"),
            "{said}"
        );
    });
}

#[test]
fn where_there_is_no_journal_its_log_is_refused() {
    const SOCKET: &str = "/run/systemd/journal/socket";
    if std::path::Path::new(SOCKET).exists() {
        foreign::not_possible("where_there_is_no_journal_its_log_is_refused", "there is one here");
        return;
    }
    turn(Duration::from_secs(60), async {
        let scratch = Scratch::new();
        let spec = Spec::new("m0", scratch.path());
        let flags = flags_but(&spec, &["--log-outputs=systemd/journal"]);
        let (code, said) = refusal(&spec, &flags, &[], scratch.path()).await;
        let why = format!("can't find journal (dial unixgram {SOCKET}: connect: no such file or directory)");
        assert!(code == 1 && said.contains(&why), "{code}: {said}");
    });
}

#[test]
fn a_listen_url_without_an_advertised_one_is_refused() {
    turn(Duration::from_secs(60), async {
        let scratch = Scratch::new();
        let spec = Spec::new("m0", scratch.path());
        let mut flags = flags_but(&spec, &[]);
        let at = flags.iter().position(|flag| flag == "--advertise-client-urls").expect("a flag");
        flags.drain(at..at + 2);
        let (code, said) = refusal(&spec, &flags, &[], scratch.path()).await;
        assert_eq!(code, 1, "{said}");
        assert!(
            said.contains("--advertise-client-urls is required when --listen-client-urls is set explicitly"),
            "{said}"
        );
    });
}

#[test]
fn a_taken_port_is_named() {
    turn(Duration::from_secs(60), async {
        for (member, is_peer) in [("client", false), ("peer", true)] {
            let scratch = Scratch::new();
            let spec = Spec::new(member, scratch.path());
            let url = if is_peer { &spec.peer_url } else { &spec.client_url };
            let address = url.trim_start_matches("http://");
            let _holder = TcpListener::bind(address).expect("a free port");
            let (code, said) = refusal(&spec, &flags_but(&spec, &[]), &[], scratch.path()).await;
            assert_eq!(code, 1, "{said}");
            assert!(said.contains(&format!("listen tcp {address}: bind: address already in use")), "{said}");
        }
    });
}

#[test]
fn a_data_directory_that_cannot_be_made_is_named() {
    turn(Duration::from_secs(60), async {
        // A file in its way stops root too.
        let scratch = Scratch::new();
        let mut spec = Spec::new("m0", scratch.path());
        let file = scratch.path().join("file");
        std::fs::write(&file, "in the way").expect("a file");
        spec.data_dir = file.join("m0.etcd");
        let (code, said) = refusal(&spec, &flags_but(&spec, &[]), &[], scratch.path()).await;
        assert_eq!(code, 1, "{said}");
        // Which of etcd's two sentences depends on what it looks at first.
        let names = said.contains("cannot access data directory") || said.contains("failed to list data directory");
        assert!(names && said.to_lowercase().contains("not a directory"), "{said}");
        assert_eq!(std::fs::read_to_string(&file).expect("the file"), "in the way");
    });
}

#[test]
fn a_second_process_on_a_data_directory_does_not_disturb_the_first() {
    turn(Duration::from_secs(60), async {
        let mut cluster = Cluster::start(1).await;
        cluster.client.put(0, "a", "1").await.expect("a put");
        let mut second = Spec::new("m0", cluster.dir());
        second.data_dir.clone_from(&cluster.spec(0).data_dir);
        let log = cluster.dir().join("second.log");
        let mut process = Process::start(&etcd_bin(), &second.flags(std::slice::from_ref(&second)), &[], &log);
        if is_ours() {
            let status = process.ended(ENDS_WITHIN).await;
            assert_ne!(shell_code(status), 0, "{}", process.log());
        }
        // etcd waits for the lock instead; either way nobody but the first writes.
        drop(process);
        cluster.client.put(0, "a", "2").await.expect("the first still writes");
        cluster.kill(0);
        cluster.restart(0).await;
        assert_eq!(cluster.client.get(0, "a").await.expect("a get").as_deref(), Some("2"));
    });
}

#[test]
fn a_data_directory_keeps_its_cluster_whatever_the_flags_say() {
    turn(Duration::from_secs(120), async {
        let mut alone = Cluster::start(1).await;
        alone.client.put(0, "whose", "alone").await.expect("a put");
        let own = alone.client.status(0).await.expect("a status").header.expect("a header");
        alone.terminate(0).await;
        let mut three = Cluster::start(3).await;
        three.client.put(0, "whose", "three").await.expect("a put");
        let follower = (three.leader().await + 1) % 3;
        three.terminate(follower).await;
        // The flags of the follower, on the data of the other cluster.
        let mut spec = three.spec(follower).clone();
        spec.data_dir.clone_from(&alone.spec(0).data_dir);
        let others: Vec<Spec> =
            (0..3).map(|n| if n == follower { spec.clone() } else { three.spec(n).clone() }).collect();
        let log = three.dir().join("stranger.log");
        let stranger = Process::start(&etcd_bin(), &spec.flags(&others), &[], &log);
        let answer = until(ENDS_WITHIN, "the stranger serves its own data", async || {
            let header = three.client.status(follower).await?.header.unwrap_or_default();
            three.client.get(follower, "whose").await.map(|value| (header, value))
        })
        .await;
        assert_eq!((answer.0.cluster_id, answer.0.member_id), (own.cluster_id, own.member_id));
        assert_eq!(answer.1.as_deref(), Some("alone"));
        let leader = (0..3).find(|member| *member != follower).expect("two others");
        three.client.put(leader, "whose", "still three").await.expect("two of three write");
        let mut said = String::new();
        until(ENDS_WITHIN, "the mismatch is told", async || {
            let logs = (0..3).map(|n| three.dir().join(format!("m{n}.log"))).chain([log.clone()]);
            said = logs.map(|path| std::fs::read_to_string(path).unwrap_or_default()).collect();
            let lower = said.to_lowercase();
            if lower.contains("cluster id mismatch") { Ok(()) } else { Err("no line about the cluster id") }
        })
        .await;
        drop(stranger);
        three.restart(follower).await;
        assert_eq!(three.client.get(follower, "whose").await.expect("a get").as_deref(), Some("still three"));
        three.assert_equal_hashes().await;
    });
}

#[test]
fn wrong_requests_are_refused_in_the_words_of_etcd() {
    turn(Duration::from_secs(60), async {
        let cluster = Cluster::start(1).await;
        cluster.client.put(0, "kept", "1").await.expect("a put");
        let mut kv = cluster.client.kv(0);
        let mib = |quarters: usize| "x".repeat(quarters << 18);
        let op =
            |key: &str| pb::RequestOp { request: Some(pb::request_op::Request::RequestPut(client::put(key, "v"))) };
        let many = pb::TxnRequest { success: (0..129).map(|n| op(&format!("k{n}"))).collect(), ..Default::default() };
        let twice = pb::TxnRequest { success: vec![op("k"), op("k")], ..Default::default() };
        let range =
            |key: &str, revision| pb::RangeRequest { key: key.to_owned().into(), revision, ..Default::default() };
        let refusals = [
            (kv.put(client::put("", "v")).await.map(drop), Code::InvalidArgument, "etcdserver: key is not provided"),
            (kv.range(range("", 0)).await.map(drop), Code::InvalidArgument, "etcdserver: key is not provided"),
            (
                kv.delete_range(pb::DeleteRangeRequest::default()).await.map(drop),
                Code::InvalidArgument,
                "etcdserver: key is not provided",
            ),
            (
                kv.put(client::put("k", &mib(7))).await.map(drop),
                Code::InvalidArgument,
                "etcdserver: request is too large",
            ),
            (kv.put(client::put("k", &mib(8))).await.map(drop), Code::ResourceExhausted, "larger than max"),
            (
                kv.put(pb::PutRequest { lease: 5, ..client::put("k", "v") }).await.map(drop),
                Code::NotFound,
                "etcdserver: requested lease not found",
            ),
            (
                kv.put(pb::PutRequest { ignore_value: true, ..client::put("k", "v") }).await.map(drop),
                Code::InvalidArgument,
                "etcdserver: value is provided",
            ),
            (kv.txn(many).await.map(drop), Code::InvalidArgument, "etcdserver: too many operations in txn request"),
            (kv.txn(twice).await.map(drop), Code::InvalidArgument, "etcdserver: duplicate key given in txn request"),
            (
                kv.range(range("kept", 99)).await.map(drop),
                Code::OutOfRange,
                "etcdserver: mvcc: required revision is a future revision",
            ),
            (
                kv.compact(pb::CompactionRequest { revision: 99, physical: false }).await.map(drop),
                Code::OutOfRange,
                "etcdserver: mvcc: required revision is a future revision",
            ),
        ];
        for (number, (answer, code, text)) in refusals.into_iter().enumerate() {
            let refusal = answer.expect_err(text);
            assert_eq!(refusal.code(), code, "request {number}: {refusal}");
            assert!(refusal.message().contains(text), "request {number}: {refusal}");
        }
        assert_eq!(cluster.client.revision().await.expect("a read"), 2, "refused requests change nothing");
        assert_eq!(cluster.client.get(0, "kept").await.expect("a get").as_deref(), Some("1"));
    });
}

#[test]
fn noise_on_either_port_is_survived() {
    turn(Duration::from_secs(60), async {
        let mut cluster = Cluster::start(1).await;
        cluster.client.put(0, "kept", "1").await.expect("a put");
        let mut seeded = Seeded::new(3);
        let starts: [&[u8]; 4] = [
            b"",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            b"GET / HTTP/1.1\r\n",
            b"POST /raft HTTP/1.1\r\nContent-Length: 99\r\n\r\n",
        ];
        for url in [cluster.spec(0).client_url.clone(), cluster.spec(0).peer_url.clone()] {
            for number in 0..40 {
                let mut bytes = starts[number % starts.len()].to_vec();
                bytes.extend((0..seeded.below(3_000)).map(|_| seeded.next() as u8));
                let mut stream = TcpStream::connect(url.trim_start_matches("http://")).await.expect("it listens");
                // It may hang up before it has read all.
                drop(stream.write_all(&bytes).await);
                drop(stream.shutdown().await);
                let mut answer = Vec::new();
                drop(tokio::time::timeout(Duration::from_millis(100), stream.read_to_end(&mut answer)).await);
            }
        }
        assert_eq!(cluster.client.get(0, "kept").await.expect("a get").as_deref(), Some("1"));
        assert_eq!(shell_code(cluster.terminate(0).await), 143);
    });
}

/// A peer whose log contradicts what is committed here: one of the two is damaged, and neither gets on. Somebody must be told.
#[test]
fn a_message_that_contradicts_what_is_committed_is_told_in_the_log() {
    if !is_ours() {
        return;
    }
    turn(Duration::from_secs(60), async {
        let mut cluster = Cluster::start(1).await;
        cluster.client.put(0, "kept", "1").await.expect("a put");
        let status = cluster.client.maintenance(0).status(pb::StatusRequest {}).await.expect("a status").into_inner();
        let (header, term) = (status.header.expect("a header"), status.raft_term);
        let mut append = raftpb::Message { to: header.member_id, from: 0x77, term, ..Default::default() };
        append.set_msg_type(raftpb::MessageType::MsgAppend);
        // The founder's own entry is of term 1.
        append.entries = vec![raftpb::Entry { index: 1, term, ..Default::default() }];
        let body = append.encode_to_vec();
        let peer = cluster.spec(0).peer_url.trim_start_matches("http://").to_owned();
        for _ in 0..3 {
            let head = format!(
                "POST /raft HTTP/1.1\r\nHost: {peer}\r\nX-Etcd-Cluster-ID: {:x}\r\nX-Server-From: 77\r\nX-Server-Version: 3.6.0\r\n\
                 X-Min-Cluster-Version: 3.0.0\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
                header.cluster_id,
                body.len()
            );
            let mut stream = TcpStream::connect(&peer).await.expect("it listens");
            stream.write_all(&[head.as_bytes(), &body].concat()).await.expect("sent");
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.expect("an answer");
            assert!(answer.starts_with("HTTP/1.1 204"), "{answer}");
        }
        // The second is told, the third is not.
        let told = until(Duration::from_secs(20), "both lines", async || {
            let log = cluster.process(0).log();
            let told = log.lines().filter(|line| line.contains("it contradicts a committed entry")).count();
            if told >= 2 { Ok(told) } else { Err(log) }
        })
        .await;
        assert_eq!(cluster.client.get(0, "kept").await.expect("a get").as_deref(), Some("1"));
        assert_eq!(told, 2);
    });
}

/// A file system of a few megabytes, in memory, that can grow.
pub(crate) struct SmallDisk(Scratch);

impl SmallDisk {
    /// `None` without the right to mount.
    pub(crate) fn mount(megabytes: u32) -> Option<SmallDisk> {
        let scratch = Scratch::new();
        let mut command = Command::new("mount");
        command.args(["-t", "tmpfs", "-o", &format!("size={megabytes}m"), "etcd-lab"]).arg(scratch.path());
        let output = command.output().ok()?;
        output.status.success().then(|| SmallDisk(scratch))
    }

    fn grow(&self, megabytes: u32) {
        let size = format!("remount,size={megabytes}m");
        let status = Command::new("mount").args(["-o", &size]).arg(self.0.path()).status().expect("mount runs");
        assert!(status.success(), "{status}");
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    /// A cluster of one, whose data is here and whose log of lines is not.
    async fn member(&self) -> Cluster {
        let spec = Spec::new("m0", self.0.path());
        let client = client::Client::plain(vec![spec.client_url.clone()]);
        Cluster::from_specs(&etcd_bin(), vec![spec], client, Scratch::new()).await
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: a process that has just been killed may still hold a file.
        let status = Command::new("umount").arg("-l").arg(self.0.path()).status();
        assert!(status.is_ok_and(|status| status.success()) || std::thread::panicking(), "cannot unmount");
    }
}

#[test]
fn a_full_disk_stops_the_member_and_loses_no_acknowledged_write() {
    let Some(disk) = SmallDisk::mount(180) else {
        return foreign::not_possible("a full disk", "no right to mount a small file system");
    };
    turn(Duration::from_secs(180), async {
        let mut cluster = disk.member().await;
        let value = "v".repeat(1 << 20);
        let mut acknowledged = 0;
        while cluster.client.put(0, &format!("k{acknowledged:04}"), &value).await.is_ok() {
            acknowledged += 1;
            assert!(acknowledged < 400, "a disk of 180 MB is not full after 400 MB");
        }
        let status = cluster.process(0).ended(ENDS_WITHIN).await;
        assert!(matches!(shell_code(status), 1 | 2), "{status}");
        let said = cluster.process(0).log().to_lowercase();
        assert!(said.contains("no space left on device"), "{said}");
        disk.grow(900);
        cluster.kill(0);
        cluster.restart(0).await;
        let found = cluster.client.prefix("k").await.expect("a read");
        assert!(found.len() >= acknowledged, "{} of {acknowledged} acknowledged writes", found.len());
        assert!(found.iter().all(|kv| kv.value.len() == value.len()), "values are whole");
        cluster.client.put(0, "after", "1").await.expect("it writes again");
    });
}

#[test]
fn a_disk_without_room_for_a_second_segment_serves_on_the_first() {
    let Some(disk) = SmallDisk::mount(110) else {
        return foreign::not_possible("a small disk", "no right to mount a small file system");
    };
    turn(Duration::from_secs(120), async {
        let mut cluster = disk.member().await;
        let value = "v".repeat(20_000);
        for n in 0..500 {
            cluster.client.put(0, &format!("k{n:04}"), &value).await.expect("ten megabytes of the log's 64");
        }
        assert!(cluster.log(0).contains("cannot prepare the next segment of the log"), "it says why");
        cluster.kill(0);
        cluster.restart(0).await;
        assert_eq!(cluster.client.prefix("k").await.expect("a read").len(), 500);
    });
}

#[test]
fn a_disk_too_full_to_defragment_costs_the_answer_and_nothing_else() {
    let Some(disk) = SmallDisk::mount(240) else {
        return foreign::not_possible("a full disk", "no right to mount a small file system");
    };
    alone(Duration::from_secs(180), async {
        let scratch = Scratch::new();
        let mut spec = Spec::new("m0", disk.0.path());
        spec.more.push("--experimental-lab-wal-segment-bytes=1048576".to_owned());
        let client = client::Client::plain(vec![spec.client_url.clone()]);
        let mut cluster = Cluster::from_specs(&etcd_bin(), vec![spec], client, scratch).await;
        let value = "v".repeat(1 << 20);
        for number in 0..24 {
            cluster.client.put(0, &format!("k{number:02}"), &value).await.expect("a put");
        }
        let defragment = async || cluster.client.maintenance(0).defragment(pb::DefragmentRequest {}).await;
        // All that was written is in files now, so that what becomes of the room is the next one's doing.
        defragment().await.expect("there is room for two stores");
        // Some for the log and for the store, which writes a leaf's large rows again when a small one joins them: 12 MB by hundred puts. Too little for a
        // second store.
        let filler = disk.0.path().join("filler");
        let free = || rustix::fs::statvfs(disk.0.path()).map(|fs| fs.f_bfree * fs.f_frsize).expect("a file system");
        std::fs::write(&filler, vec![0; usize::try_from(free() - (22 << 20)).expect("some megabytes")]).expect("room");
        let refused = defragment().await.expect_err("there is no room");
        assert!(refused.message().to_lowercase().contains("no space left on device"), "{refused}");
        assert!(free() > 18 << 20, "the room that the copy took is free again: {}", free());
        let store = cluster.spec(0).data_dir.join("member");
        assert!(!store.join("store.fresh").exists() && store.join("store").exists());
        for number in 0..100 {
            cluster.client.put(0, &format!("after{number}"), "1").await.expect("it goes on writing");
        }
        assert_eq!(cluster.client.prefix("k").await.expect("a read").len(), 24);
        std::fs::remove_file(&filler).expect("removed");
        defragment().await.expect("there is room again");
        cluster.kill(0);
        cluster.restart(0).await;
        let found = cluster.client.prefix("k").await.expect("a read");
        assert!(found.len() == 24 && found.iter().all(|kv| kv.value.len() == value.len()), "{}", found.len());
        assert_eq!(cluster.client.prefix("after").await.expect("a read").len(), 100);
    });
}
