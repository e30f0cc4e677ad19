//! The cluster that a lab runs on: where its members listen, and where their programs are.
//!
//! [`Bed`] is all that labs know of it, so the same lab runs on the lab's own cluster, on members that a test starts, and on
//! upstream etcd. [`ProcessBeds`] is the plain one: it starts `etcd` from a folder with flags that every etcd since 3.4 knows.
#![expect(clippy::disallowed_methods, reason = "waits for real processes")]

use crate::lab::guide::facts::has_leader;
use std::fs::File;
use std::net::TcpListener;
use std::path::Path;
use std::path::PathBuf;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

/// How long a new cluster may take to agree on a leader.
const READY_WITHIN: Duration = Duration::from_secs(30);

/// One member, as a lab sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its name, such as `n1`.
    pub name: String,
    /// Where clients reach it, such as `127.0.0.1:2379`.
    pub endpoint: String,
}

/// A running cluster.
pub trait Bed: Send + Sync {
    /// Its members.
    fn members(&self) -> &[Member];

    /// The folder with `etcd`, `etcdctl` and `etcdutl`.
    fn bin_dir(&self) -> &Path;
}

/// Where clusters come from.
pub trait Beds {
    /// A cluster of this many members that nobody has written to, with a leader. It ends when it is dropped.
    fn fresh(&self, nodes: usize) -> impl Future<Output = Result<Box<dyn Bed>, String>>;
}

/// A cluster that somebody else started and will end: the one on the lab's screen.
#[derive(Clone, Debug)]
pub struct LentBed {
    bin_dir: PathBuf,
    members: Vec<Member>,
}

impl LentBed {
    /// These members, and the folder with the programs that talk to them.
    #[must_use]
    pub fn new(bin_dir: &Path, members: Vec<Member>) -> LentBed {
        LentBed { bin_dir: bin_dir.to_owned(), members }
    }
}

impl Bed for LentBed {
    fn members(&self) -> &[Member] {
        &self.members
    }

    fn bin_dir(&self) -> &Path {
        &self.bin_dir
    }
}

/// Starts members as processes of the programs in one folder, on free loopback ports.
#[derive(Clone, Debug)]
pub struct ProcessBeds {
    bin_dir: PathBuf,
    _links: Option<Arc<Links>>,
}

/// A folder that goes when it is dropped.
#[derive(Debug)]
struct Links(PathBuf);

impl Drop for Links {
    fn drop(&mut self) {
        // Links in the system's folder for such things; it is emptied anyway.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A cluster of processes; ends them and removes their data when it is dropped.
#[derive(Debug)]
pub struct ProcessBed {
    bin_dir: PathBuf,
    folder: PathBuf,
    members: Vec<Member>,
    children: Vec<Child>,
}

impl ProcessBeds {
    /// Clusters of the `etcd` in this folder.
    ///
    /// # Errors
    /// There is no `etcd` or no `etcdctl` in it.
    pub fn new(bin_dir: &Path) -> Result<ProcessBeds, String> {
        let bin_dir = bin_dir.canonicalize().map_err(|e| format!("{}: {e}", bin_dir.display()))?;
        for program in ["etcd", "etcdctl"] {
            if !bin_dir.join(program).is_file() {
                return Err(format!(
                    "there is no `{program}` in {}; build it, or name another folder",
                    bin_dir.display()
                ));
            }
        }
        Ok(ProcessBeds { bin_dir, _links: None })
    }

    /// Clusters of our own `etcd`: this very program, which is all of ours, by the name that it is called by. The names are
    /// links in a folder that goes with the value.
    ///
    /// # Errors
    /// This program's path is not known, or no link can be made.
    pub fn ours() -> Result<ProcessBeds, String> {
        let program = std::env::current_exe().map_err(|e| format!("this program's path is not known: {e}"))?;
        let links = Links(scratch("bin")?);
        for name in ["etcd", "etcdctl", "etcdutl"] {
            let link = links.0.join(name);
            std::os::unix::fs::symlink(&program, &link).map_err(|e| format!("{}: {e}", link.display()))?;
        }
        Ok(ProcessBeds { bin_dir: links.0.clone(), _links: Some(Arc::new(links)) })
    }

    fn start(&self, nodes: usize) -> Result<ProcessBed, String> {
        let folder = scratch("cluster")?;
        let ports = free_ports(2 * nodes)?;
        let (client, peer) = ports.split_at(nodes);
        let name = |n: usize| format!("n{}", n + 1);
        let url = |port: u16| format!("http://127.0.0.1:{port}");
        let all: Vec<String> = (0..nodes).map(|n| format!("{}={}", name(n), url(peer[n]))).collect();
        let members =
            (0..nodes).map(|n| Member { name: name(n), endpoint: format!("127.0.0.1:{}", client[n]) }).collect();
        let mut bed = ProcessBed { bin_dir: self.bin_dir.clone(), folder, members, children: Vec::new() };
        for n in 0..nodes {
            let log = bed.log(n);
            let open =
                || File::options().create(true).append(true).open(&log).map_err(|e| format!("{}: {e}", log.display()));
            let mut command = Command::new(self.bin_dir.join("etcd"));
            command.arg("--name").arg(name(n)).arg("--data-dir").arg(bed.folder.join(name(n)));
            command.arg("--listen-client-urls").arg(url(client[n])).arg("--advertise-client-urls").arg(url(client[n]));
            command.arg("--listen-peer-urls").arg(url(peer[n])).arg("--initial-advertise-peer-urls").arg(url(peer[n]));
            command.arg("--initial-cluster").arg(all.join(",")).arg("--initial-cluster-state").arg("new");
            command.arg("--initial-cluster-token").arg("etcd-lab");
            // A gate starts a dozen clusters; waiting for their first elections is most of its time.
            command.arg("--heartbeat-interval").arg("50").arg("--election-timeout").arg("500");
            for (variable, _) in std::env::vars_os().filter(|(v, _)| v.to_string_lossy().starts_with("ETCD_")) {
                command.env_remove(variable);
            }
            let child = command.stdin(Stdio::null()).stdout(open()?).stderr(open()?).spawn();
            bed.children.push(child.map_err(|e| format!("{}: {e}", self.bin_dir.join("etcd").display()))?);
        }
        Ok(bed)
    }
}

impl Beds for ProcessBeds {
    async fn fresh(&self, nodes: usize) -> Result<Box<dyn Bed>, String> {
        let mut bed = self.start(nodes)?;
        let deadline = Instant::now() + READY_WITHIN;
        for n in 0..nodes {
            while !has_leader(&bed.members[n].endpoint).await {
                if let Some(status) = bed.children[n].try_wait().map_err(|e| e.to_string())? {
                    return Err(format!(
                        "member n{} ended at once ({status}). Its last words:\n{}",
                        n + 1,
                        bed.last_words(n)
                    ));
                }
                if Instant::now() > deadline {
                    let words = bed.last_words(n);
                    return Err(format!(
                        "member n{} has no leader after {READY_WITHIN:?}. Its last words:\n{words}",
                        n + 1
                    ));
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
        Ok(Box::new(bed))
    }
}

impl Bed for ProcessBed {
    fn members(&self) -> &[Member] {
        &self.members
    }

    fn bin_dir(&self) -> &Path {
        &self.bin_dir
    }
}

impl ProcessBed {
    fn log(&self, n: usize) -> PathBuf {
        self.folder.join(format!("n{}.log", n + 1))
    }

    fn last_words(&self, n: usize) -> String {
        let text =
            std::fs::read(self.log(n)).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(5)..].join("\n")
    }
}

impl Drop for ProcessBed {
    fn drop(&mut self) {
        // A member that is gone already cannot be killed; there is nobody to tell.
        for child in &mut self.children {
            let _ = child.kill();
        }
        for child in &mut self.children {
            let _ = child.wait();
        }
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// A new empty folder for one run.
///
/// # Errors
/// It cannot be made.
pub(crate) fn scratch(purpose: &str) -> Result<PathBuf, String> {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    loop {
        let name = format!("etcd-lab-{purpose}-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let folder = std::env::temp_dir().join(name);
        match std::fs::create_dir(&folder) {
            Ok(()) => return Ok(folder),
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(format!("{}: {e}", folder.display())),
        }
    }
}

/// Ports that were free a moment ago, all different.
fn free_ports(count: usize) -> Result<Vec<u16>, String> {
    let listeners: Result<Vec<TcpListener>, _> = (0..count).map(|_| TcpListener::bind("127.0.0.1:0")).collect();
    let listeners = listeners.map_err(|e| format!("no free port on 127.0.0.1: {e}"))?;
    listeners.iter().map(|l| l.local_addr().map(|a| a.port()).map_err(|e| e.to_string())).collect()
}
