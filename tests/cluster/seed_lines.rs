//! Every line of etcd, etcdctl and etcdutl in the texts that the labs teach, typed as printed: from the list in `recorded/seed_lines.toml`.
//!
//! A shell reads the lines, with our programs on its PATH. Addresses and the folders of certificates are replaced, and nothing else. That the
//! ids in text 004 come out is in [`crate::tls`].

use crate::client::Client;
use crate::harness::Cluster;
use crate::harness::Process;
use crate::harness::READY_WITHIN;
use crate::harness::Scratch;
use crate::harness::Spec;
use crate::harness::etcd_bin;
use crate::harness::is_ours;
use crate::harness::shell_code;
use crate::harness::turn;
use crate::harness::until;
use crate::ports;
use etcd_lab::tls::pki::Authority;
use etcd_lab::tls::pki::Request;
use etcd_lab::tls::pki::Usage;
use serde::Deserialize;
use std::net::TcpListener;
use std::path::Path;
use std::process::Output;
use std::process::Stdio;
use std::time::Duration;
use tokio::process::Command;

const LIMIT: Duration = Duration::from_secs(240);
/// Lines of the list: a shorter list is a list that lost something.
const LINES: usize = 28;
/// What a cluster that has just begun says to changes of its members.
const YOUNG: [&str; 2] =
    ["etcdserver: unhealthy cluster", "etcdserver: re-configuration failed due to not enough started members"];

#[derive(Debug, Deserialize)]
struct List {
    line: Vec<Line>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    id: String,
    group: String,
    kind: String,
    text: String,
    #[serde(default)]
    code: i32,
    #[serde(default)]
    out: Vec<String>,
    #[serde(default)]
    err: Vec<String>,
    /// What the reader adds.
    #[serde(default)]
    fill: String,
    /// A file or folder that is there afterwards.
    makes: Option<String>,
    /// Members that it starts.
    starts: Option<String>,
}

fn lines(group: &str) -> Vec<Line> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cluster/recorded/seed_lines.toml");
    let list: List = toml::from_str(&std::fs::read_to_string(path).expect("the list")).expect("a list");
    assert_eq!(list.line.len(), LINES);
    for line in &list.line {
        assert_eq!(line.kind == "fails", line.code != 0, "{}", line.id);
        assert!(["plain", "v2", "three", "kubernetes", "controllers"].contains(&line.group.as_str()), "{}", line.id);
    }
    list.line.into_iter().filter(|line| line.group == group).collect()
}

/// A shell in a folder, with our programs, and what is replaced in what is typed.
struct Desk {
    folder: std::path::PathBuf,
    variables: Vec<(&'static str, String)>,
    replaced: Vec<(String, String)>,
}

impl Desk {
    fn new(folder: &Path, endpoint: &str) -> Desk {
        let bin = folder.join("bin");
        std::fs::create_dir_all(&bin).expect("a folder");
        for name in ["etcd", "etcdctl", "etcdutl"] {
            // Another line's desk may have put it there.
            drop(std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_etcd-lab"), bin.join(name)));
        }
        let sudo = bin.join("sudo");
        // A child writes it: a file that another test's child has inherited open for writing is not run ("Text file busy").
        let write = "printf '#!/bin/sh\\nexec env \"$@\"\\n' >\"$0\" && chmod 755 \"$0\"";
        let written = std::process::Command::new("/bin/sh").args(["-c", write]).arg(&sudo).status();
        assert!(written.expect("a shell").success(), "a script");
        let variables = vec![("ETCDCTL_ENDPOINTS", endpoint.to_owned()), ("ENDPOINT", endpoint.to_owned())];
        Desk { folder: folder.to_owned(), variables, replaced: Vec::new() }
    }

    fn replacing(mut self, what: &str, with: impl Into<String>) -> Desk {
        self.replaced.push((what.to_owned(), with.into()));
        self
    }

    async fn run(&self, typed: &str) -> Output {
        let path = format!("{}:{}", self.folder.join("bin").display(), std::env::var("PATH").unwrap_or_default());
        let mut command = Command::new("bash");
        command.args(["-c", typed]).env_clear().env("PATH", path).current_dir(&self.folder);
        let given = |name: &str| typed.contains("--endpoints") && name == "ETCDCTL_ENDPOINTS";
        command.envs(self.variables.iter().filter(|(name, _)| !given(name)).map(|(name, value)| (*name, value)));
        command.stdin(Stdio::null()).kill_on_drop(true).output().await.expect("a shell")
    }

    fn typed(&self, line: &Line) -> String {
        let text = line.text.clone() + &line.fill;
        self.replaced.iter().fold(text, |text, (what, with)| text.replace(what, with))
    }

    /// Types a line and holds what comes to what the list says.
    async fn types(&self, line: &Line) -> String {
        let typed = self.typed(line);
        // A cluster that has just begun takes nobody new until its members have been together for five seconds, and lets nobody go until
        // whoever is asked has heard that the others have started.
        let output = until(READY_WITHIN, &line.id, async || {
            let output = self.run(&typed).await;
            let told = String::from_utf8_lossy(&output.stderr);
            let is_young = YOUNG.iter().any(|refusal| told.contains(refusal));
            if is_young { Err("the cluster is young") } else { Ok(output) }
        })
        .await;
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        let told = format!("{}: $ {typed}\n{out}{err}", line.id);
        assert_eq!(shell_code(output.status), line.code, "{told}");
        line.out.iter().for_each(|part| assert!(out.contains(part.as_str()), "no {part:?} in {told}"));
        line.err.iter().for_each(|part| assert!(err.contains(part.as_str()), "no {part:?} in {told}"));
        if let Some(made) = &line.makes {
            assert!(self.folder.join(made).exists(), "no {made}: {told}");
        }
        out.into_owned()
    }
}

#[test]
fn lines_for_a_member_without_certificates() {
    turn(LIMIT, async {
        // As in the text, a member that is started without a word finds its port taken: by somebody, or by this test.
        let _taken = TcpListener::bind("127.0.0.1:2380");
        let cluster = Cluster::start(1).await;
        let endpoint = cluster.spec(0).client_url.replace("http://", "");
        let mut place = 0;
        for line in lines("plain") {
            let mut desk = Desk::new(cluster.dir(), &endpoint);
            if line.text.contains("<data-dir-location>") {
                place += 1;
                desk = desk.replacing("<data-dir-location>", format!("restored-{place}"));
            }
            if line.text == "etcd" {
                desk.variables.clear();
            }
            desk.types(&line).await;
        }
        for line in lines("v2") {
            let mut desk = Desk::new(cluster.dir(), &format!("http://{endpoint}"));
            desk.variables.push(("ETCDCTL_API", "2".to_owned()));
            desk.types(&line).await;
        }
    });
}

#[test]
fn lines_for_three_members_of_which_one_has_failed() {
    turn(LIMIT, async {
        let mut cluster = Cluster::start(3).await;
        let endpoints = cluster.endpoints().replace("http://", "");
        let id = cluster.client.status(2).await.expect("a status").header.expect("a header").member_id;
        let newcomer = Spec::new("member4", cluster.dir());
        let peer = newcomer.peer_url.clone();
        cluster.lose(2).await;
        let alive = endpoints.split(',').take(2).collect::<Vec<_>>().join(",");
        let mut initial = String::new();
        let mut member = None;
        for line in lines("three") {
            let all = if line.kind == "fails" { &endpoints } else { &alive };
            let url = &newcomer.client_url;
            let flags = format!(
                "exec etcd --data-dir {} --listen-client-urls {url} --advertise-client-urls {url} --listen-peer-urls {peer} --initial-advertise-peer-urls {peer} --initial-cluster-token etcd-lab-test",
                newcomer.data_dir.display()
            );
            let desk = Desk::new(cluster.dir(), all)
                .replacing("<member-id>", format!("{id:x}"))
                .replacing("http://10.0.0.4:2380", peer.clone())
                .replacing("<initial-cluster>", initial.clone())
                .replacing("etcd [flags]", flags);
            if line.starts.is_some() {
                member = Some(started(&desk, &line, &newcomer, cluster.dir()).await);
                continue;
            }
            let out = desk.types(&line).await;
            if let Some(told) = out.lines().find_map(|line| line.strip_prefix("ETCD_INITIAL_CLUSTER=")) {
                told.trim_matches('"').clone_into(&mut initial);
            }
        }
        assert!(member.is_some(), "the list starts the new member");
    });
}

/// Types a line that starts a member, and waits until that serves.
async fn started(desk: &Desk, line: &Line, spec: &Spec, dir: &Path) -> Process {
    let script = dir.join(format!("{}.sh", spec.name));
    let bin = dir.join("bin");
    std::fs::write(&script, format!("PATH={}:$PATH\n{}\n", bin.display(), desk.typed(line))).expect("a script");
    let words = [script.display().to_string()];
    let process = Process::start(Path::new("/bin/bash"), &words, &[], &dir.join(format!("{}.log", spec.name)));
    let client = Client::plain(vec![spec.client_url.clone()]);
    until(READY_WITHIN, &line.id, async || match client.status(0).await {
        Ok(status) if status.leader != 0 => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
    process
}

#[test]
fn lines_for_a_member_of_kubernetes() {
    turn(LIMIT, async {
        if !is_ours() {
            return;
        }
        let scratch = Scratch::new();
        let dir = scratch.path();
        let pki = dir.join("etc/kubernetes/pki/etcd");
        std::fs::create_dir_all(&pki).expect("a folder");
        let ca = Authority::new("etcd-ca").expect("an authority");
        let issued =
            ca.issue(&Request::new(Usage::Peer, "master", &["127.0.0.1", "localhost"])).expect("a certificate");
        for (name, text) in
            [("ca.crt", &ca.own().cert_pem), ("server.crt", &issued.cert_pem), ("server.key", &issued.key_pem)]
        {
            std::fs::write(pki.join(name), text).expect("a file");
        }
        let file = |name: &str| pki.join(name).display().to_string();
        let mut spec = Spec::new("master", dir);
        spec.client_url = spec.client_url.replace("http:", "https:");
        spec.peer_url = spec.peer_url.replace("http:", "https:");
        let (cert, key, trusted) = (file("server.crt"), file("server.key"), file("ca.crt"));
        spec.more = [
            ("cert-file", &cert),
            ("key-file", &key),
            ("trusted-ca-file", &trusted),
            ("peer-cert-file", &cert),
            ("peer-key-file", &key),
            ("peer-trusted-ca-file", &trusted),
        ]
        .map(|(flag, file)| format!("--{flag}={file}"))
        .to_vec();
        spec.more.push("--client-cert-auth=true".to_owned());
        let address = spec.client_url.replace("https://", "");
        let _process = Process::start(&etcd_bin(), &spec.flags(std::slice::from_ref(&spec)), &[], &dir.join("log"));
        let desk = Desk::new(dir, &address)
            .replacing("/etc/kubernetes", dir.join("etc/kubernetes").display().to_string())
            .replacing("10.2.0.9:2379", address.clone())
            .replacing("127.0.0.1:2379", address.clone())
            .replacing("<trusted-ca-file>", trusted)
            .replacing("<cert-file>", cert)
            .replacing("<key-file>", key)
            .replacing("<backup-file-location>", "backup.db");
        let lines = lines("kubernetes");
        serving(&desk, &lines[0]).await;
        for line in lines {
            desk.types(&line).await;
        }
    });
}

/// Waits until a line that only asks is answered as the list says.
async fn serving(desk: &Desk, line: &Line) {
    let typed = desk.typed(line);
    until(READY_WITHIN, &line.id, async || {
        let output = desk.run(&typed).await;
        let out = String::from_utf8_lossy(&output.stdout).into_owned();
        let is_whole = output.status.success() && line.out.iter().all(|part| out.contains(part.as_str()));
        if is_whole { Ok(()) } else { Err(out + &String::from_utf8_lossy(&output.stderr)) }
    })
    .await;
}

#[test]
fn lines_for_three_controllers() {
    turn(LIMIT, async {
        if !is_ours() {
            return;
        }
        let scratch = Scratch::new();
        let dir = scratch.path();
        let etc = dir.join("etc/etcd");
        std::fs::create_dir_all(&etc).expect("a folder");
        let ca = Authority::new("Kubernetes").expect("an authority");
        let issued =
            ca.issue(&Request::new(Usage::Peer, "kubernetes", &["127.0.0.1", "localhost"])).expect("a certificate");
        ca.own().write(&etc, "ca").expect("written");
        issued.write(&etc, "kubernetes").expect("written");
        let lines = lines("controllers");
        let unit = lines.iter().find(|line| line.starts.is_some()).expect("the unit");
        let peers: Vec<u16> = (0..3).map(|_| ports::free()).collect();
        let clients: Vec<u16> = (0..3).map(|_| ports::free()).collect();
        let desk_of = |member: usize, name: &str| {
            let mut desk = Desk::new(dir, "").replacing("/etc/etcd", etc.display().to_string());
            for (at, peer) in peers.iter().enumerate() {
                desk = desk.replacing(&format!("10.240.0.1{at}:2380"), format!("127.0.0.1:{peer}"));
            }
            desk.variables.clear();
            desk.replacing(
                "https://${INTERNAL_IP}:2379,https://127.0.0.1:2379",
                format!("https://127.0.0.1:{}", clients[member]),
            )
            .replacing("${INTERNAL_IP}:2379", format!("127.0.0.1:{}", clients[member]))
            .replacing("${INTERNAL_IP}:2380", format!("127.0.0.1:{}", peers[member]))
            .replacing("127.0.0.1:2379", format!("127.0.0.1:{}", clients[member]))
            .replacing("${ETCD_NAME}", name)
            .replacing("/var/lib/etcd", dir.join(format!("var-lib-etcd-{member}")).display().to_string())
            .replacing("/usr/local/bin/etcd", format!("exec {}", dir.join("bin/etcd").display()))
        };
        let nameless = lines.iter().find(|line| line.text.starts_with("the unit")).expect("the misspelt variable");
        let text = unit.text.replace("${ETCD_NAME}", "''");
        desk_of(0, "").types(&Line { text, ..nameless.clone() }).await;
        let start = |member: usize| {
            let name = format!("controller-{member}");
            let script = dir.join(format!("{name}.sh"));
            std::fs::write(&script, desk_of(member, &name).typed(unit)).expect("a script");
            Process::start(
                Path::new("/bin/bash"),
                &[script.display().to_string()],
                &[],
                &dir.join(format!("{name}.log")),
            )
        };
        let _processes: Vec<Process> = (0..3).map(start).collect();
        let desk = desk_of(0, "controller-0");
        let verify = lines.iter().find(|line| line.text.starts_with("sudo")).expect("the verification");
        serving(&desk, verify).await;
        for line in lines.iter().filter(|line| line.text.contains("udo ETCDCTL_API")) {
            desk.types(line).await;
        }
    });
}
