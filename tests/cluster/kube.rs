//! kube-lite on real members: on ours, and unchanged on etcd 3.5.1.
//!
//! Five programs, as processes; what they do is judged by what stands in etcd, and by what `kubectl` prints.

use crate::foreign::etcd_351;
use crate::harness::Cluster;
use crate::harness::Process;
use crate::harness::Scratch;
use crate::harness::Spec;
use crate::harness::etcd_bin;
use crate::harness::turn;
use crate::harness::until;
use etcd_lab::client::Client;
use etcd_lab::client::Config;
use etcd_lab::client::TlsFiles;
use etcd_lab::client::prefix_end;
use etcd_lab::proto::etcdserverpb::CompactionRequest;
use etcd_lab::proto::etcdserverpb::RangeRequest;
use etcd_lab::tls::pki::Authority;
use etcd_lab::tls::pki::Request;
use etcd_lab::tls::pki::Usage;
use rustix::process::Signal;
use serde_json::Value;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;
use tonic::transport::Certificate;
use tonic::transport::ClientTlsConfig;
use tonic::transport::Identity;

const SOON: Duration = Duration::from_secs(30);

/// A cluster of etcd, and Kubernetes on it.
struct Kube {
    etcd: Cluster,
    config: PathBuf,
    client: Client,
}

impl Kube {
    async fn on(etcd: &Path) -> Kube {
        let etcd = Cluster::start_with(etcd, 3, &[]).await;
        let endpoints = (0..3).map(|member| etcd.spec(member).client_url.clone()).collect();
        let client = Client::new(Config { endpoints, ..Config::default() });
        Kube { config: etcd.dir().join("kube.json"), client, etcd }
    }

    /// Starts a program of kube-lite; `name` is that of its log.
    fn start(&self, name: &str, words: &[&str]) -> Process {
        let mut flags: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        flags.push(format!("--kubeconfig={}", self.config.display()));
        Process::start(
            Path::new(env!("CARGO_BIN_EXE_etcd-lab")),
            &flags,
            &[],
            &self.etcd.dir().join(format!("{name}.log")),
        )
    }

    fn api_server(&self, name: &str) -> Process {
        let servers = format!("--etcd-servers={}", self.client.endpoints().join(","));
        self.start(name, &["kube-apiserver", &servers, &format!("--name={name}"), "--etcd-compaction-interval=0s"])
    }

    fn kubelet(&self, node: &str) -> Process {
        self.start(node, &["kubelet", &format!("--hostname-override={node}")])
    }

    /// What kubectl prints; its complaint if it fails.
    fn kubectl(&self, line: &str) -> Result<String, String> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_etcd-lab"));
        command.arg("kubectl").args(line.split(' ')).arg(format!("--kubeconfig={}", self.config.display()));
        let output = command.output().expect("kubectl starts");
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).trim().to_owned();
        if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr)) }
    }

    /// Waits until kubectl prints this.
    async fn prints(&self, line: &str, wanted: &str) {
        let looked = async || match self.kubectl(line) {
            Ok(text) if text == wanted => Ok(()),
            Ok(text) | Err(text) => Err(text),
        };
        until(SOON, &format!("kubectl {line} prints {wanted:?}"), looked).await;
    }

    /// All keys below the registry's folder, with their objects.
    async fn stored(&self, folder: &str) -> Vec<(String, Value)> {
        let prefix = format!("/registry/{folder}");
        let end = prefix_end(prefix.as_bytes());
        let range = RangeRequest { key: prefix.into(), range_end: end, ..RangeRequest::default() };
        let found = self.client.call(range).await.expect("etcd answers").kvs;
        let text = |key: &[u8]| String::from_utf8_lossy(key).into_owned();
        found.iter().map(|kv| (text(&kv.key), serde_json::from_slice(&kv.value).expect("JSON"))).collect()
    }

    async fn names(&self, folder: &str) -> Vec<String> {
        self.stored(folder).await.into_iter().map(|(key, _)| key).collect()
    }
}

const READY: &str = "get deployment web -o jsonpath={.status.readyReplicas}";

/// Desired and actual, on whatever etcd.
async fn reconciles(etcd: &Path) {
    let kube = Kube::on(etcd).await;
    let _api = kube.api_server("api");
    let _controller = kube.start("controller", &["kube-controller-manager"]);
    let _scheduler = kube.start("scheduler", &["kube-scheduler"]);
    let (_w1, w2) = (kube.kubelet("w1"), kube.kubelet("w2"));
    kube.prints("get nodes -o name", "node/w1\nnode/w2").await;
    assert_eq!(
        kube.kubectl("create deployment web --image=nginx --replicas=3").as_deref(),
        Ok("deployment.apps/web created")
    );
    let twice = kube.kubectl("create deployment web --image=nginx");
    assert_eq!(twice, Err("Error from server (AlreadyExists): deployments.apps \"web\" already exists".into()));
    kube.prints(READY, "3").await;
    // The keys are those of Kubernetes, and an object holds no revision: the key has it.
    assert_eq!(kube.names("minions/").await, ["/registry/minions/w1", "/registry/minions/w2"]);
    let pods = kube.stored("pods/default/").await;
    assert_eq!(pods.len(), 3);
    for (key, pod) in &pods {
        assert!(key.starts_with("/registry/pods/default/web-"), "{key}");
        assert_eq!(pod["metadata"]["resourceVersion"], Value::Null);
        assert!(
            pod["status"]["phase"] == "Running" && pod["metadata"]["managedFields"][0]["manager"] == "kubelet",
            "{pod}"
        );
    }
    // A pod is gone, and another one comes.
    let gone = pods[0].0.rsplit('/').next().expect("a name").to_owned();
    kube.kubectl(&format!("delete pod {gone}")).expect("it is there");
    let replaced = async || {
        let now = kube.names("pods/default/").await;
        if now.len() == 3 && !now.iter().any(|key| key.ends_with(&gone)) { Ok(()) } else { Err(format!("{now:?}")) }
    };
    until(SOON, "a new pod in place of the old one", replaced).await;
    // A node falls silent, and its pods go to the other.
    drop(w2);
    kube.prints("get pods -o jsonpath={.items[*].spec.nodeName}", "w1 w1 w1").await;
    kube.prints(READY, "3").await;
    kube.kubectl("delete deployment web").expect("it is there");
    let empty = async || {
        let left = [kube.names("pods/").await, kube.names("replicasets/").await].concat();
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
    };
    until(SOON, "what belonged to the deployment is gone", empty).await;
}

/// With the flags that the API server has for it; without them etcd does not take it.
#[test]
fn only_the_api_server_may_enter() {
    turn(Duration::from_secs(120), async {
        let scratch = Scratch::new();
        let authority = Authority::new("etcd-ca").expect("an authority");
        let issue =
            |usage, name: &str| authority.issue(&Request::new(usage, name, &["127.0.0.1"])).expect("a certificate");
        let (ca, _) = authority.own().write(scratch.path(), "ca").expect("the CA's files");
        let (cert, key) = issue(Usage::Peer, "etcd").write(scratch.path(), "etcd").expect("etcd's files");
        let (own, own_key) = issue(Usage::Client, "k8sclient").write(scratch.path(), "k8sclient").expect("its files");
        let flag = |name: &str, path: &Path| format!("--{name}={}", path.display());
        let mut spec = Spec::new("m0", scratch.path());
        spec.client_url = spec.client_url.replace("http:", "https:");
        spec.more = vec![
            flag("cert-file", &cert),
            flag("key-file", &key),
            flag("trusted-ca-file", &ca),
            "--client-cert-auth".into(),
        ];
        let read = |path: &Path| std::fs::read(path).expect("a file");
        let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(read(&ca))).domain_name("127.0.0.1");
        let tls = tls.identity(Identity::from_pem(read(&own), read(&own_key)));
        let etcd_client = crate::client::Client::tls(vec![spec.client_url.clone()], &tls);
        let etcd = Cluster::from_specs(&etcd_bin(), vec![spec.clone()], etcd_client, scratch).await;
        let files = TlsFiles {
            cacert: ca.display().to_string(),
            cert: own.display().to_string(),
            key: own_key.display().to_string(),
            skip_verify: false,
        };
        let tls = Some(files.load().expect("good files"));
        let client = Client::new(Config { endpoints: vec![spec.client_url.clone()], tls, ..Config::default() });
        let kube = Kube { config: etcd.dir().join("kube.json"), client, etcd };
        let servers = format!("--etcd-servers={}", spec.client_url);
        let ca = flag("etcd-cafile", &ca);
        let stranger = kube.start("stranger", &["kube-apiserver", &servers, &ca]);
        let told = async || if stranger.log().contains("etcd: ") { Ok(()) } else { Err(stranger.log()) };
        until(SOON, "the API server says that etcd does not take it", told).await;
        assert!(kube.kubectl("get --raw=/readyz").is_err());
        drop(stranger);
        let (own, own_key) = (flag("etcd-certfile", &own), flag("etcd-keyfile", &own_key));
        let _api = kube.start("api", &["kube-apiserver", &servers, &ca, &own, &own_key]);
        kube.prints("get --raw=/readyz", "ok").await;
        assert_eq!(
            kube.kubectl("create configmap color --from-literal=shade=blue").as_deref(),
            Ok("configmap/color created")
        );
        assert_eq!(kube.names("configmaps/").await, ["/registry/configmaps/default/color"]);
    });
}

#[test]
fn what_is_wanted_comes_to_be() {
    turn(Duration::from_secs(180), reconciles(&etcd_bin()));
}

#[test]
fn what_is_wanted_comes_to_be_on_etcd_351() {
    let Some(etcd) = etcd_351("kube-lite on etcd 3.5.1") else { return };
    turn(Duration::from_secs(180), reconciles(&etcd));
}

/// While no API server runs, the past is compacted away: who comes back with an old revision is told so, and lists again.
#[test]
fn who_has_missed_too_much_lists_again() {
    turn(Duration::from_secs(120), async {
        let kube = Kube::on(&etcd_bin()).await;
        let api = kube.api_server("api");
        let controller = kube.start("controller", &["kube-controller-manager"]);
        kube.prints("get --raw=/readyz", "ok").await;
        kube.kubectl("create deployment web --image=nginx").expect("made");
        kube.prints("get replicasets -o jsonpath={.items[*].status.replicas}", "1").await;
        drop(api);
        let put = kube.client.put("/registry/other", "{}").await.expect("written");
        let revision = put.header.expect("every answer has one").revision;
        kube.client.call(CompactionRequest { revision, physical: false }).await.expect("compacted");
        let _api = kube.api_server("api");
        let listed = async || {
            let log = controller.log();
            if log.contains("is compacted away: list again") { Ok(()) } else { Err(log) }
        };
        until(SOON, "the controller lists again", listed).await;
        kube.prints("get --raw=/readyz", "ok").await;
        kube.kubectl("scale deployment web --replicas=2").expect("scaled");
        kube.prints("get replicasets -o jsonpath={.items[*].status.replicas}", "2").await;
    });
}

/// Of two controllers one works. When it stands still, the other one takes the lock; when it goes on, it must not work any more.
#[test]
fn the_lock_changes_hands() {
    turn(Duration::from_secs(120), async {
        let kube = Kube::on(&etcd_bin()).await;
        let (first_api, _second_api) = (kube.api_server("api-1"), kube.api_server("api-2"));
        kube.prints("get --raw=/readyz", "ok").await;
        let one = kube.start("one", &["kube-controller-manager", "--name=one"]);
        let holder = "get lease kube-controller-manager -n kube-system -o jsonpath={.spec.holderIdentity}";
        kube.prints(holder, "one").await;
        let _two = kube.start("two", &["kube-controller-manager", "--name=two"]);
        one.signal(Signal::STOP);
        kube.prints(holder, "two").await;
        kube.prints("get lease kube-controller-manager -n kube-system -o jsonpath={.spec.leaseTransitions}", "1").await;
        one.signal(Signal::CONT);
        let lost = async || if one.log().contains("one has lost the lock") { Ok(()) } else { Err(one.log()) };
        until(SOON, "the first knows that it has lost the lock", lost).await;
        // One of two API servers goes: nobody needs to be told.
        drop(first_api);
        kube.kubectl("create deployment web --image=nginx").expect("the other one takes it");
        kube.prints("get replicasets -o jsonpath={.items[*].status.replicas}", "1").await;
    });
}
