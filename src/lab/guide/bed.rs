//! The cluster that a lab runs on: where its members listen, where their programs are, and its nodes' folders.
//!
//! [`Bed`] is all that labs know of it, so the same lab runs on the lab's own cluster, on members that a test starts, and on
//! upstream etcd. [`ProcessBeds`] makes the plain one: a folder per node with a unit file, kept by the lab's own `systemctl`,
//! with flags that every etcd since 3.4 knows.
#![expect(clippy::disallowed_methods, reason = "waits for real processes")]

use crate::lab::deed::quoted;
use crate::lab::guide::away::Away;
use crate::lab::guide::facts::has_leader;
use crate::lab::guide::machine;
use crate::lab::guide::places::Claim;
use crate::lab::guide::places::Place;
use crate::lab::guide::places::Profile;
use crate::lab::guide::places::has_machines;
use crate::lab::guide::places::places;
use crate::lab::guide::places::swaps;
use crate::lab::guide::scratch::scratch;
use crate::lab::guide::service;
use crate::lab::guide::settings::Cluster;
use crate::lab::workdir::KUBE_PROGRAMS;
use parking_lot::Mutex;
use rustix::fs::FlockOperation;
use rustix::fs::flock;
use std::fs;
use std::fs::File;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::LazyLock;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;
use tokio::sync::Semaphore;
use tokio::sync::SemaphorePermit;

/// How long a new cluster may take to agree on a leader.
const READY_WITHIN: Duration = Duration::from_secs(90);

/// How long the guards may take to end their members when the bed goes.
const GONE_WITHIN: Duration = Duration::from_secs(10);

/// How many clusters of labs there are at once in one process, for each processor. Most of a lab's time is waiting, for elections and for
/// what must time out.
const BEDS_PER_PROCESSOR: usize = 3;

/// And at most, whatever the machine: a cluster takes some 100 MiB of memory.
const BEDS_MAX: usize = 12;

/// Our own etcd fills its log with zeros ahead of use, 64 MB at a time: three members on one disk would begin with half a
/// gigabyte. A lab's log is small.
const OWN_SETTINGS: &[(&str, &str)] = &[("ETCD_EXPERIMENTAL_LAB_WAL_SEGMENT_BYTES", "4194304")];

/// A seat for each of them.
static SEATS: LazyLock<Semaphore> = LazyLock::new(|| Semaphore::new(beds_at_once()));

fn beds_at_once() -> usize {
    (BEDS_PER_PROCESSOR * std::thread::available_parallelism().map_or(1, usize::from)).min(BEDS_MAX)
}

/// Our own programs that every terminal of a lab has, besides etcd's.
pub(super) const TOOLS: [&str; 5] = ["etcd-lab", "systemctl", "journalctl", "systemd-run", "sudo"];

/// The folder of whoever is at no node: commands that stay in the background are kept there.
const DESK: &str = "desk";

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
    /// Its members, as it began.
    fn members(&self) -> &[Member];

    /// The folder with `etcd`, `etcdctl` and `etcdutl`.
    fn bin_dir(&self) -> &Path;

    /// Nodes that are not members yet.
    fn spares(&self) -> &[Member] {
        &[]
    }

    /// The folder of all nodes' folders; nothing if its members are nobody's to touch.
    fn nodes(&self) -> Option<&Path> {
        None
    }

    /// The folder of the lab on the screen, if its cluster is this one.
    fn lab(&self) -> Option<&Path> {
        None
    }

    /// The folder of the learner's desk, where commands stay in the background; nothing if there is none.
    fn desk(&self) -> Option<PathBuf> {
        self.nodes().map(|nodes| nodes.join(DESK))
    }

    /// The addresses of the page that are others here.
    fn swaps(&self) -> &[(String, String)] {
        &[]
    }

    /// Why its nodes are not at the page's addresses, and where they would be: a sentence or two.
    fn moved_because(&self) -> Option<&str> {
        None
    }

    /// Ends it, if it is this lab's own, and waits until its members are gone.
    fn end(&self) {}

    /// Variables that every etcd of this cluster has, however it is started.
    fn settings(&self) -> &'static [(&'static str, &'static str)] {
        &[]
    }

    /// The program that takes a command to a node that is a machine of its own: `machine NODE COMMAND…`.
    fn machine(&self) -> Option<&Path> {
        None
    }

    /// The agents of its nodes, if they are other machines.
    fn away(&self) -> Option<Arc<Away>> {
        None
    }

    /// The socket of the simulation that its members live in, if they do.
    fn simulator(&self) -> Option<&Path> {
        None
    }

    /// So much of the members' time goes by at once, if it is not ours. False: it is, and whoever waits must wait.
    fn pass(&self, _time: Duration) -> bool {
        false
    }

    /// Where members talk to this node, such as `127.0.0.1:2380`.
    fn peer(&self, _node: &str) -> Option<&str> {
        None
    }
}

/// Where clusters come from.
pub trait Beds {
    /// A cluster that nobody has written to: with a leader, unless it is to begin with members that are down. It ends when it
    /// is dropped.
    fn fresh(&self, cluster: &Cluster) -> impl Future<Output = Result<Box<dyn Bed>, String>>;

    /// Whether their programs are ours, and print what a page says of our own.
    fn are_ours(&self) -> bool {
        true
    }

    /// How many of them can be there at the same time.
    fn at_once(&self) -> usize {
        1
    }

    /// What they are, if that is not a matter of course: for the report.
    fn name(&self) -> Option<String> {
        None
    }
}

/// A cluster that somebody else started and will end: the one on the lab's screen. What the learner starts beside it ends with this.
#[derive(Debug)]
pub struct LentBed {
    bin_dir: PathBuf,
    members: Vec<Member>,
    /// The desk, and the lock that is the sign for what runs there that the lab lives.
    desk: Option<(PathBuf, Mutex<Option<File>>)>,
    lab: Option<PathBuf>,
}

impl LentBed {
    /// These members, and the folder with the programs that talk to them.
    #[must_use]
    pub fn new(bin_dir: &Path, members: Vec<Member>) -> LentBed {
        LentBed { bin_dir: bin_dir.to_owned(), members, desk: None, lab: None }
    }

    /// The same with a desk in the lab's folder, at which commands can stay in the background.
    ///
    /// # Errors
    /// A folder, a link or a lock that cannot be had.
    pub fn with_desk(mut self, lab: &Path) -> Result<LentBed, String> {
        // What was started at the desk of the lesson before may still be ending there: this one is another.
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let place = format!("desk-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let folder = lab.join(place);
        let (bin_dir, desk) = (folder.join("bin"), folder.join(DESK));
        make_node(&desk)?;
        fs::create_dir_all(&bin_dir).map_err(|e| format!("{}: {e}", bin_dir.display()))?;
        let tools = std::env::current_exe().map_err(|e| format!("this program's path is not known: {e}"))?;
        for name in ["etcd", "etcdctl", "etcdutl"].into_iter().chain(TOOLS).chain(KUBE_PROGRAMS) {
            let lent = fs::read_link(self.bin_dir.join(name)).unwrap_or_else(|_| tools.clone());
            link(&bin_dir, name, &lent)?;
        }
        self.desk = Some((desk, Mutex::new(Some(alive(&folder)?))));
        (self.bin_dir, self.lab) = (bin_dir, Some(lab.to_owned()));
        Ok(self)
    }
}

/// Puts a link into a folder of programs, in place of one that is there.
pub(super) fn link(bin_dir: &Path, name: &str, program: &Path) -> Result<(), String> {
    let link = bin_dir.join(name);
    // Usually there is none.
    let _ = fs::remove_file(&link);
    symlink(program, &link).map_err(|e| format!("{}: {e}", link.display()))
}

/// The folders in which a node's services live.
pub(super) fn make_node(node: &Path) -> Result<(), String> {
    for below in ["etc/etcd", "etc/systemd/system", "run", "var/lib", "var/log"] {
        fs::create_dir_all(node.join(below)).map_err(|e| format!("{}: {e}", node.display()))?;
    }
    Ok(())
}

/// The file whose lock says that the lab in this folder lives.
fn alive(folder: &Path) -> Result<File, String> {
    let path = folder.join("alive");
    let file = File::create(&path).map_err(|e| format!("{}: {e}", path.display()))?;
    flock(&file, FlockOperation::LockExclusive).map_err(|e| format!("{}: {e}", path.display()))?;
    Ok(file)
}

impl Bed for LentBed {
    fn members(&self) -> &[Member] {
        &self.members
    }

    fn bin_dir(&self) -> &Path {
        &self.bin_dir
    }

    fn lab(&self) -> Option<&Path> {
        self.lab.as_deref()
    }

    fn desk(&self) -> Option<PathBuf> {
        self.desk.as_ref().map(|(desk, _)| desk.clone())
    }

    fn end(&self) {
        if let Some((desk, alive)) = &self.desk {
            // As with a cluster of the lab's own: the guards wait for this lock.
            *alive.lock() = None;
            let deadline = Instant::now() + GONE_WITHIN;
            while service::has_guard(desk) && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(10));
            }
        }
    }
}

impl Drop for LentBed {
    fn drop(&mut self) {
        self.end();
        if let Some(folder) = self.desk.as_ref().and_then(|(desk, _)| desk.parent()) {
            // What nobody wants any more; there is nobody to tell if some stays.
            let _ = fs::remove_dir_all(folder);
        }
    }
}

/// Starts members as processes of the programs in one folder.
#[derive(Clone, Debug)]
pub struct ProcessBeds {
    /// `etcd`, `etcdctl` and perhaps `etcdutl`.
    programs: Vec<(&'static str, PathBuf)>,
    /// The program that is `systemctl` and the other stand-ins.
    tools: PathBuf,
    profile: Profile,
    /// Why it is not the page's own.
    because: Option<String>,
    /// The programs are ours, and know flags that etcd does not.
    are_ours: bool,
}

/// A cluster of processes; ends them and removes their data when it is dropped.
#[derive(Debug)]
pub struct ProcessBed {
    folder: PathBuf,
    bin_dir: PathBuf,
    nodes: PathBuf,
    members: Vec<Member>,
    spares: Vec<Member>,
    places: Vec<Place>,
    swaps: Vec<(String, String)>,
    because: Option<String>,
    /// Its lock is the members' sign that the lab lives.
    alive: Mutex<Option<File>>,
    settings: &'static [(&'static str, &'static str)],
    machine: Option<PathBuf>,
    _claim: Claim,
    _seat: Option<SemaphorePermit<'static>>,
}

impl ProcessBeds {
    /// Clusters of the `etcd` in this folder; `tools` is an `etcd-lab`, which stands in for `systemctl`.
    ///
    /// # Errors
    /// There is no `etcd` or no `etcdctl` in it.
    pub fn new(bin_dir: &Path, tools: &Path) -> Result<ProcessBeds, String> {
        let bin_dir = bin_dir.canonicalize().map_err(|e| format!("{}: {e}", bin_dir.display()))?;
        let mut programs = Vec::new();
        for name in ["etcd", "etcdctl", "etcdutl"] {
            let program = bin_dir.join(name);
            if program.is_file() {
                programs.push((name, program));
            } else if name != "etcdutl" {
                return Err(format!("there is no `{name}` in {}; build it, or name another folder", bin_dir.display()));
            }
        }
        // What lies beside etcd-lab was built with it.
        let are_ours = tools.parent().and_then(|dir| dir.canonicalize().ok()) == Some(bin_dir);
        Ok(ProcessBeds { programs, tools: tools.to_owned(), profile: Profile::Ports, because: None, are_ours })
    }

    /// Clusters of our own `etcd`: this very program, which is all of ours, by the name that it is called by.
    ///
    /// # Errors
    /// This program's path is not known.
    pub fn ours() -> Result<ProcessBeds, String> {
        let tools = std::env::current_exe().map_err(|e| format!("this program's path is not known: {e}"))?;
        let programs = ["etcd", "etcdctl", "etcdutl"].map(|name| (name, tools.clone())).to_vec();
        Ok(ProcessBeds { programs, tools, profile: Profile::Ports, because: None, are_ours: true })
    }

    /// The same with another etcd as the members. `etcd-lab etcd` is ours there.
    #[must_use]
    pub fn with_etcd(mut self, etcd: &Path) -> ProcessBeds {
        self.programs.retain(|(name, _)| *name != "etcd");
        self.programs.push(("etcd", etcd.to_owned()));
        ProcessBeds { are_ours: false, ..self }
    }

    /// The same, with nodes where this profile says.
    #[must_use]
    pub fn at(self, profile: Profile) -> ProcessBeds {
        ProcessBeds { profile, ..self }
    }

    /// The same; this is what the page tells of its addresses if they are others here.
    #[must_use]
    pub fn because(self, because: Option<String>) -> ProcessBeds {
        ProcessBeds { because, ..self }
    }

    /// A cluster that has only just been started; its members may not have agreed on a leader yet.
    ///
    /// # Errors
    /// A folder, a port or a process that cannot be had.
    pub fn begin(&self, cluster: &Cluster) -> Result<Box<dyn Bed>, String> {
        self.start(cluster, None).map(|bed| -> Box<dyn Bed> { Box::new(bed) })
    }

    /// A cluster that has only just been started, once there is a seat for it.
    ///
    /// # Errors
    /// As [`ProcessBeds::begin`].
    pub(super) async fn seated(&self, cluster: &Cluster) -> Result<ProcessBed, String> {
        let seat = SEATS.acquire().await.map_err(|e| e.to_string())?;
        self.start(cluster, Some(seat))
    }

    fn start(&self, cluster: &Cluster, seat: Option<SemaphorePermit<'static>>) -> Result<ProcessBed, String> {
        if cluster.machines && !(self.profile == Profile::Netns && has_machines()) {
            return Err(machine::missing(cluster));
        }
        let (places, claim) = places(cluster, self.profile)?;
        // From here on it goes with the bed.
        let folder = scratch("bed")?;
        let member = |p: &Place| Member { name: p.name.clone(), endpoint: p.client.clone() };
        let (first, spare) = places.split_at(cluster.nodes.len());
        let mut bed = ProcessBed {
            bin_dir: folder.join("bin"),
            nodes: folder.join("nodes"),
            members: first.iter().map(member).collect(),
            spares: spare.iter().map(member).collect(),
            swaps: swaps(&places),
            because: self.because.clone(),
            places: places.clone(),
            alive: Mutex::new(None),
            settings: if self.are_ours { OWN_SETTINGS } else { &[] },
            machine: cluster.machines.then(|| folder.join("bin/machine")),
            _claim: claim,
            _seat: seat,
            folder,
        };
        bed.furnish(self)?;
        // No two labs' clusters are one, even if one comes to the ports that another has left.
        let token = bed.folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let all: Vec<String> = first.iter().map(|p| format!("{}=http://{}", p.name, p.peer)).collect();
        for place in first {
            let unit = unit(place, &bed.bin_dir, &all.join(","), &token);
            let path = bed.nodes.join(&place.name).join("etc/systemd/system/etcd.service");
            fs::write(&path, unit).map_err(|e| format!("{}: {e}", path.display()))?;
            if cluster.running {
                service::launch(&self.tools, &bed.nodes.join(&place.name), &bed.folder.join("alive"), bed.settings)?;
            }
        }
        Ok(bed)
    }
}

/// The unit file with which a node begins.
fn unit(place: &Place, bin_dir: &Path, initial: &str, token: &str) -> String {
    let Place { name, client, peer, .. } = place;
    let etcd = bin_dir.join("etcd").display().to_string();
    // In a unit file a word with a blank or a quote in it is quoted by the other sort.
    let etcd = if etcd.contains([' ', '\'']) { format!("\"{etcd}\"") } else { etcd };
    // A gate starts a dozen clusters; waiting for their first elections is most of its time.
    format!(
        "[Unit]\nDescription=etcd of {name}\n\n[Service]\nType=notify\nExecStart={etcd} \\\n  --name {name} \\\n  \
         --data-dir var/lib/etcd \\\n  --listen-client-urls http://{client} \\\n  --advertise-client-urls http://{client} \\\n  \
         --listen-peer-urls http://{peer} \\\n  --initial-advertise-peer-urls http://{peer} \\\n  \
         --initial-cluster {initial} \\\n  --initial-cluster-state new \\\n  --initial-cluster-token {token} \\\n  \
         --heartbeat-interval 50 --election-timeout 500\nRestart=on-failure\nRestartSec=1\n\n[Install]\nWantedBy=multi-user.target\n"
    )
}

impl Beds for ProcessBeds {
    fn are_ours(&self) -> bool {
        self.are_ours
    }

    fn at_once(&self) -> usize {
        // In a namespace all clusters want the documents' addresses.
        if self.profile == Profile::Netns { 1 } else { beds_at_once() }
    }

    async fn fresh(&self, cluster: &Cluster) -> Result<Box<dyn Bed>, String> {
        let bed = self.seated(cluster).await?;
        let deadline = Instant::now() + READY_WITHIN;
        for member in bed.members.iter().filter(|_| cluster.running) {
            let node = bed.nodes.join(&member.name);
            while !has_leader(&member.endpoint).await {
                if Instant::now() > deadline {
                    let log = service::journal(&node, "etcd");
                    let lines: Vec<&str> = log.lines().collect();
                    let words = lines[lines.len().saturating_sub(5)..].join("\n");
                    return Err(format!(
                        "member {} has no leader after {READY_WITHIN:?}. Its last words:\n{words}",
                        member.name
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

    fn spares(&self) -> &[Member] {
        &self.spares
    }

    fn nodes(&self) -> Option<&Path> {
        Some(&self.nodes)
    }

    fn swaps(&self) -> &[(String, String)] {
        &self.swaps
    }

    fn moved_because(&self) -> Option<&str> {
        self.because.as_deref()
    }

    fn end(&self) {
        // The guards wait for this lock, and end with what they keep.
        *self.alive.lock() = None;
        let deadline = Instant::now() + GONE_WITHIN;
        while service::any_guard(&self.nodes) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn settings(&self) -> &'static [(&'static str, &'static str)] {
        self.settings
    }

    fn machine(&self) -> Option<&Path> {
        self.machine.as_deref()
    }

    fn peer(&self, node: &str) -> Option<&str> {
        self.places.iter().find(|p| p.name == node).map(|p| p.peer.as_str())
    }
}

impl ProcessBed {
    /// A node's folder.
    pub(super) fn folder_of(&self, node: &str) -> PathBuf {
        self.nodes.join(node)
    }

    /// The programs by their names, the nodes' folders, and the lock.
    fn furnish(&mut self, beds: &ProcessBeds) -> Result<(), String> {
        let made = |path: &Path| fs::create_dir_all(path).map_err(|e| format!("{}: {e}", path.display()));
        made(&self.bin_dir)?;
        for (name, program) in &beds.programs {
            link(&self.bin_dir, name, program)?;
        }
        for name in TOOLS.into_iter().chain(KUBE_PROGRAMS) {
            link(&self.bin_dir, name, &beds.tools)?;
        }
        for place in self.places.iter().map(|p| p.name.as_str()).chain([DESK]) {
            make_node(&self.nodes.join(place))?;
        }
        if self.machine.is_some() {
            self.furnish_machines()?;
        }
        *self.alive.lock() = Some(alive(&self.folder)?);
        self.write_on()
    }

    /// Roots of their own, the scripts that lead there, and the cloud around them.
    fn furnish_machines(&self) -> Result<(), String> {
        let known: Vec<(&str, &str)> =
            self.places.iter().filter_map(|p| Some((p.name.as_str(), p.ip.as_deref()?))).collect();
        for (name, _) in &known {
            let root = self.nodes.join(name);
            for below in machine::FOLDERS {
                fs::create_dir_all(root.join(below)).map_err(|e| format!("{}: {e}", root.display()))?;
            }
            machine::furnish(&root, &known)?;
        }
        for (name, script) in machine::scripts(&self.bin_dir, &self.nodes) {
            executable(&self.bin_dir.join(name), &script)?;
        }
        machine::cloud(&self.bin_dir)
    }

    /// What leads to a node, from wherever one is.
    fn write_on(&self) -> Result<(), String> {
        let names = self.places.iter().map(|p| p.name.as_str()).collect::<Vec<_>>().join(", ");
        for (name, script) in scripts(&self.nodes, self.machine.as_deref(), &names) {
            executable(&self.bin_dir.join(name), &script)?;
        }
        Ok(())
    }
}

/// `on NODE COMMAND`: a command in a node's terminal, from wherever one is; `scp` to a node; and its `hostname`.
fn scripts(nodes: &Path, machine: Option<&Path>, names: &str) -> [(&'static str, String); 3] {
    // What was exported at a node, and the folder, hold where the command runs: in a machine that is another root.
    let goes_on = "[ ! -f \\\"$node/.lab-session\\\" ] || . \\\"$node/.lab-session\\\"; $*";
    let run = match machine {
        Some(machine) => format!("exec {} \"$HOSTNAME\" /bin/sh -c \"{goes_on}\"", quoted(&machine.to_string_lossy())),
        None => format!("exec /bin/sh -c \"{goes_on}\""),
    };
    let (nodes, var) = (quoted(&nodes.to_string_lossy()), service::NODE_VAR);
    let on = format!(
        "#!/bin/sh\n# on NODE [COMMAND]: runs the command in the terminal of this node of the lab; without one, opens a shell there.\n\
         [ $# -gt 0 ] || {{ echo \"on: at which node? on NODE COMMAND; there are {names}\" >&2; exit 2; }}\nnode={nodes}/\"$1\"\n\
         [ -d \"$node\" ] || {{ echo \"on: there is no node $1; there are {names}\" >&2; exit 2; }}\nHOSTNAME=$1 {var}=\"$node\"\n\
         export HOSTNAME {var}\nshift; cd \"$node\"\n\
         [ $# -gt 0 ] || set -- \"PS1='$HOSTNAME\\$ '; export PS1; exec /bin/sh -i\"\n{run}\n"
    );
    let scp = format!(
        "#!/bin/sh\n# scp FILE… NODE:[PATH]: copies files to a node of the lab.\nfor last; do :; done\nnode=${{last%%:*}}; to=${{last#*:}}\n\
         [ -d {nodes}/\"$node\" ] && [ \"$node\" != \"$last\" ] || {{ echo \"scp: the last word is NODE:PATH\" >&2; exit 1; }}\n\
         while [ $# -gt 1 ]; do cp \"$1\" {nodes}/\"$node/$to\" || exit 1; shift; done\n"
    );
    let hostname = "#!/bin/sh\n# The name of this node of the lab.\necho \"${HOSTNAME:-desk}\"\n".to_owned();
    [("on", on), ("scp", scp), ("hostname", hostname)]
}

pub(crate) fn executable(path: &Path, script: &str) -> Result<(), String> {
    fs::write(path, script)
        .and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(0o755)))
        .map_err(|e| format!("{}: {e}", path.display()))
}

impl Drop for ProcessBed {
    fn drop(&mut self) {
        self.end();
        // Data that nobody wants; there is nobody to tell if some stays.
        let _ = fs::remove_dir_all(&self.folder);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::guide::unit::Unit;
    use std::process::Command;

    #[test]
    fn a_lent_cluster_has_a_desk_that_goes_with_the_lesson() {
        let lab = scratch("lent-test").expect("a folder");
        let lent = || LentBed::new(&lab.join("bin"), Vec::new()).with_desk(&lab).expect("a desk");
        let (one, other) = (lent(), lent());
        assert_ne!(one.desk(), other.desk(), "a lesson that is opened while another one ends does not wait for it");
        let desk = one.desk().expect("it has one");
        assert!(desk.join("run").is_dir() && fs::symlink_metadata(one.bin_dir().join("kubectl")).is_ok());
        assert!(one.nodes().is_none(), "its members are nobody's to touch");
        drop(one);
        assert!(!desk.exists() && other.desk().is_some_and(|desk| desk.is_dir()));
        drop(other);
        fs::remove_dir_all(&lab).expect("it is there");
    }

    #[test]
    fn a_quote_in_the_temp_folders_name_ends_no_word() {
        let folder = scratch("quote'test").expect("a folder");
        let (nodes, bin) = (folder.join("nodes"), folder.join("bin"));
        fs::create_dir_all(nodes.join("n1")).and_then(|()| fs::create_dir(&bin)).expect("made");
        for (name, script) in scripts(&nodes, None, "n1") {
            executable(&bin.join(name), &script).expect("written");
        }
        let run = |name: &str, words: &[&str]| {
            let done = Command::new(bin.join(name)).args(words).current_dir(&bin).output().expect("it runs");
            assert!(done.status.success(), "{name}: {}", String::from_utf8_lossy(&done.stderr));
            String::from_utf8_lossy(&done.stdout).into_owned()
        };
        assert_eq!(run("on", &["n1", "pwd; echo $HOSTNAME"]), format!("{}\nn1\n", nodes.join("n1").display()));
        run("scp", &["on", "n1:copy"]);
        assert!(nodes.join("n1/copy").is_file());
        let place = Place { name: "n1".into(), client: "127.0.0.1:1".into(), peer: "127.0.0.1:2".into(), ip: None };
        let unit = Unit::parse(&unit(&place, &bin, "n1=http://127.0.0.1:2", "t")).expect("a unit");
        assert_eq!(unit.exec[0], bin.join("etcd").display().to_string());
        fs::remove_dir_all(&folder).expect("it is there");
    }
}
