//! `--discovery-srv`: members that find each other by DNS, in a network and with a `/etc/resolv.conf` of their own.
//!
//! ```text
//! the test ──unshare──▶ the same test again, as root of its own network: a name server on port 53, three members
//! ```

use crate::client::Client;
use crate::harness::ENDS_WITHIN;
use crate::harness::Process;
use crate::harness::READY_WITHIN;
use crate::harness::Scratch;
use crate::harness::Spec;
use crate::harness::etcd_bin;
use crate::harness::is_ours;
use crate::harness::turn;
use crate::harness::until;
use std::net::UdpSocket;
use std::process::Command;
use std::time::Duration;

/// Set in the namespace, to the folder whose files stand for those of `/etc`.
const INSIDE_VAR: &str = "CLUSTER_TEST_SRV";
const DOMAIN: &str = "lab.test";
const HOSTS: [&str; 3] = ["m0.lab.test", "m1.lab.test", "m2.lab.test"];

/// The labels of a question's name, which begins after the twelve bytes of the head.
fn asked(question: &[u8]) -> String {
    let (mut labels, mut at) = (Vec::new(), 12);
    while question[at] > 0 {
        let end = at + 1 + usize::from(question[at]);
        labels.push(String::from_utf8_lossy(&question[at + 1..end]).into_owned());
        at = end;
    }
    labels.join(".")
}

/// The answer to an SRV question: a record for each port, in the order of the hosts. RFC 1035, 4.1; RFC 2782.
fn reply(question: &[u8], ports: &[u16]) -> Vec<u8> {
    let no_such_name = if ports.is_empty() { 3 } else { 0 };
    let mut bytes = [&question[..2], &[0x81, 0x80 | no_such_name, 0, 1, 0, ports.len() as u8]].concat();
    // No records of other kinds; then the question once more.
    bytes.extend([0; 4]);
    bytes.extend(&question[12..]);
    for (host, port) in HOSTS.iter().zip(ports) {
        let name = host.split('.').flat_map(|label| [&[label.len() as u8], label.as_bytes()].concat());
        let data: Vec<u8> = [0, 0, 0, 0].into_iter().chain(port.to_be_bytes()).chain(name).chain([0]).collect();
        // The question's name, SRV, of the internet, for a minute.
        bytes.extend([0xc0, 12, 0, 33, 0, 1, 0, 0, 0, 60, 0, data.len() as u8]);
        bytes.extend(data);
    }
    bytes
}

/// Answers for the three, under the service's own name and under that of the suffix `blue`.
fn serve(plain: Vec<u16>, blue: Vec<u16>) {
    let socket = UdpSocket::bind("127.0.0.1:53").expect("root of this network");
    std::thread::spawn(move || {
        let mut buffer = [0; 512];
        while let Ok((count, from)) = socket.recv_from(&mut buffer) {
            let question = &buffer[..count];
            let ports: &[u16] = match asked(question).as_str() {
                "_etcd-server._tcp.lab.test" => &plain,
                "_etcd-server-blue._tcp.lab.test" => &blue,
                _ => &[],
            };
            let _gone = socket.send_to(&reply(question, ports), from);
        }
    });
}

/// Three members that know a domain and nobody's address.
struct Three {
    specs: Vec<Spec>,
}

impl Three {
    fn new(scratch: &Scratch, prefix: &str) -> Three {
        let new = |(n, host): (usize, &&str)| {
            let mut spec = Spec::new(&format!("{prefix}{n}"), scratch.path());
            spec.peer_url = spec.peer_url.replace("127.0.0.1", host);
            spec
        };
        Three { specs: HOSTS.iter().enumerate().map(new).collect() }
    }

    fn ports(&self) -> Vec<u16> {
        let port = |spec: &Spec| spec.peer_url.rsplit(':').next().expect("a port").parse().expect("a number");
        self.specs.iter().map(port).collect()
    }

    fn start(&self, n: usize, scratch: &Scratch, more: &[&str]) -> Process {
        let spec = &self.specs[n];
        let all = spec.flags(std::slice::from_ref(spec));
        let pairs = all.chunks(2).filter(|pair| pair[0] != "--initial-cluster");
        let mut words: Vec<String> = pairs.flatten().cloned().collect();
        // A socket listens at an address, not at a name.
        let at = words.iter().position(|word| word == "--listen-peer-urls").expect("given") + 1;
        words[at] = words[at].replace(HOSTS[n], "127.0.0.1");
        words.push(format!("--discovery-srv={DOMAIN}"));
        words.extend(more.iter().map(|&word| word.to_owned()));
        Process::start(&etcd_bin(), &words, &[], &scratch.path().join(format!("{}.log", spec.name)))
    }

    async fn find_each_other(&self, scratch: &Scratch, more: &[&str]) {
        let _members: Vec<Process> = (0..3).map(|n| self.start(n, scratch, more)).collect();
        let client = Client::plain(self.specs.iter().map(|spec| spec.client_url.clone()).collect());
        let mut want: Vec<&str> = self.specs.iter().map(|spec| spec.name.as_str()).collect();
        want.sort_unstable();
        for n in 0..3 {
            until(READY_WITHIN, "all names", async || {
                let listed = client.members(n, true).await.map_err(|e| e.to_string())?.members;
                let mut names: Vec<&str> = listed.iter().map(|member| member.name.as_str()).collect();
                names.sort_unstable();
                if names == want { Ok(()) } else { Err(format!("{names:?}")) }
            })
            .await;
        }
        client.put(1, "a", "1").await.expect("a put");
    }
}

async fn inside() {
    let scratch = Scratch::new();
    let (plain, blue) = (Three::new(&scratch, "m"), Three::new(&scratch, "b"));
    serve(plain.ports(), blue.ports());
    plain.find_each_other(&scratch, &[]).await;
    blue.find_each_other(&scratch, &["--discovery-srv-name=blue"]).await;
    // A service that nobody has entered.
    let none = Three::new(&scratch, "n");
    let mut refused = none.start(0, &scratch, &["--discovery-srv-name=green"]);
    assert_eq!(refused.ended(ENDS_WITHIN).await.code(), Some(1));
    let why = "error querying DNS SRV records for _etcd-server-green._tcp.lab.test";
    assert!(refused.log().contains(why), "{}", refused.log());
    // And a member that is not among those of the service.
    let mut stranger = none.start(0, &scratch, &["--discovery-srv-name=blue"]);
    assert_eq!(stranger.ended(ENDS_WITHIN).await.code(), Some(1));
    assert!(stranger.log().contains("cannot find local etcd member \\\"n0\\\" in SRV records"), "{}", stranger.log());
}

#[test]
fn members_find_each_other_by_dns() {
    if !is_ours() {
        return;
    }
    if std::env::var_os(INSIDE_VAR).is_some() {
        return turn(Duration::from_secs(120), inside());
    }
    turn(Duration::from_secs(150), async {
        let scratch = Scratch::new();
        std::fs::write(scratch.path().join("resolv.conf"), "nameserver 127.0.0.1\n").expect("a file");
        let hosts: String = HOSTS.iter().map(|host| format!("127.0.0.1 {host}\n")).collect();
        std::fs::write(scratch.path().join("hosts"), hosts).expect("a file");
        let script = "ip link set lo up && mount --bind \"$1/resolv.conf\" /etc/resolv.conf && \
                      mount --bind \"$1/hosts\" /etc/hosts || exit 77; shift; exec \"$@\"";
        let ran = tokio::process::Command::new("unshare")
            .args(["-Urnm", "/bin/sh", "-c", script, "sh"])
            .arg(scratch.path())
            .arg(std::env::current_exe().expect("this program"))
            .args(["--exact", "srv::members_find_each_other_by_dns", "--nocapture"])
            .env(INSIDE_VAR, "1")
            .output()
            .await
            .expect("util-linux has unshare");
        let said = [ran.stdout, ran.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
        let is_refused = Command::new("unshare").args(["-Urnm", "true"]).status().is_ok_and(|s| !s.success());
        if is_refused && std::env::var_os("CI_REQUIRE_FOREIGN").is_none() {
            return eprintln!("passed over: this system gives nobody a network of his own: {said}");
        }
        assert!(ran.status.success() && said.contains("1 passed"), "{said}");
    });
}
