//! Client libraries of four languages walk through us and through etcd 3.5.1, with one script each (`tests/journeys`).
//!
//! `.ci/journeys` fetches the libraries and builds what needs building. Where it could not reach a registry it says so in a file, and that
//! journey is skipped; where it has not run, all are, unless `CI_REQUIRE_FOREIGN=1` says that they must not be.

use crate::foreign;
use crate::harness::Cluster;
use crate::harness::etcd_bin;
use crate::harness::turn;
use std::path::Path;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;
use tokio::process::Command;

const LIMIT: Duration = Duration::from_secs(300);

/// Where `.ci/journeys` puts things.
fn place(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("target/foreign/journeys").join(name)
}

fn script(name: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/journeys").join(name).display().to_string()
}

/// What to run, if it is there: program, arguments, a variable.
struct Journey {
    language: &'static str,
    program: PathBuf,
    arguments: Vec<String>,
    env: Option<(&'static str, PathBuf)>,
    /// The file or folder that is there once the library is.
    needs: PathBuf,
}

fn journey(language: &'static str) -> Journey {
    let nothing = Vec::new();
    let (program, arguments, env, needs) = match language {
        "go" => (place("go"), nothing, None, place("go")),
        "rust" => (place("rust"), nothing, None, place("rust")),
        "python" => {
            let python = place("python/bin/python");
            (python, vec![script("python/journey.py")], None, place("python/ready"))
        }
        "node" => {
            let modules = place("node/node_modules");
            let needs = modules.join("etcd3");
            ("node".into(), vec![script("node/journey.js")], Some(("NODE_PATH", modules)), needs)
        }
        other => panic!("no journey in {other}"),
    };
    Journey { language, program, arguments, env, needs }
}

impl Journey {
    /// Whether it can run; says why not.
    fn is_possible(&self) -> bool {
        let test = format!("the journey in {}", self.language);
        if self.needs.exists() {
            return true;
        }
        match std::fs::read_to_string(place(&format!("{}.unreachable", self.language))) {
            Ok(why) => foreign::not_possible(&test, why.trim()),
            Err(_) => foreign::skipped(&test, &format!("{} is not there: run .ci/journeys", self.needs.display())),
        }
        false
    }

    /// Walks through the server. Panics unless it came to its end.
    async fn walk(&self, server: &Cluster, name: &str) {
        self.begin(server, name, LIMIT).await.unwrap_or_else(|said| panic!("{}", said));
    }

    /// Walks through a server of etcd's, which shows that the journey itself is right. A library that loses an answer waits for ever, which was seen
    /// once (npm's, at a lock, on a busy machine) and says nothing of ours: then on a fresh server, up to three times.
    async fn walk_etcd(&self, etcd: &Path) {
        for _ in 0..3 {
            let server = Cluster::start_with(etcd, 1, &[]).await;
            match self.begin(&server, "etcd 3.5.1", LIMIT / 3).await {
                Ok(()) => return,
                Err(said) => eprintln!("{said}"),
            }
        }
        panic!("{}: no end against etcd 3.5.1, three times", self.language);
    }

    /// Walks as far as it comes within this time; if it does not come to an end, what it has said.
    async fn begin(&self, server: &Cluster, name: &str, within: Duration) -> Result<(), String> {
        let endpoint = server.spec(0).client_url.trim_start_matches("http://").to_owned();
        let mut command = Command::new(&self.program);
        command.args(&self.arguments).arg(endpoint).envs(self.env.clone());
        // Into a file, so that there is something to show of a walk that does not end.
        let out = server.dir().join("journey.out");
        let said = || std::fs::read_to_string(&out).unwrap_or_default();
        let file = std::fs::File::create(&out).expect("a file");
        command.stdin(Stdio::null()).stdout(file).stderr(Stdio::piped()).kill_on_drop(true);
        let walk = command.spawn().unwrap_or_else(|e| panic!("cannot start {}: {e}", self.program.display()));
        let Ok(output) = tokio::time::timeout(within, walk.wait_with_output()).await else {
            return Err(format!("{} against {name}: no end within {within:?}:\n{}", self.language, said()));
        };
        let (output, said) = (output.expect("its end"), said());
        let steps = said.lines().filter(|line| line.starts_with("ok ")).count();
        // The last line counts the steps, so that a walk that ends early is none.
        let is_whole = steps > 5 && said.lines().last() == Some(format!("done {steps}").as_str());
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && is_whole, "{} against {name}:\n{said}{errors}", self.language);
        Ok(())
    }
}

fn walk(language: &'static str) {
    let journey = journey(language);
    if !journey.is_possible() {
        return;
    }
    turn(2 * LIMIT, async {
        let ours = Cluster::start_with(&etcd_bin(), 1, &[]).await;
        let Some(etcd) = foreign::etcd_351(&format!("the journey in {language} against etcd 3.5.1")) else {
            return journey.walk(&ours, "ours").await;
        };
        tokio::join!(journey.walk(&ours, "ours"), journey.walk_etcd(&etcd));
    });
}

#[test]
fn gos_clientv3_and_what_kube_apiserver_asks_walk_through() {
    walk("go");
}

#[test]
fn pythons_etcd3_walks_through() {
    walk("python");
}

#[test]
fn npms_etcd3_walks_through() {
    walk("node");
}

#[test]
fn rusts_etcd_client_walks_through() {
    walk("rust");
}
