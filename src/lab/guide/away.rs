//! Nodes that are other machines, each with a systemd of its own: a lab's commands and checks reach them by their agents.
//!
//! The lab finds them as they are and leaves them so: nothing is started, and nothing is taken away. A command at a node runs there as root, in
//! `/`; its terminal goes on in a file there, which goes with the lab. What a check wants to see of a file is brought here first, and then looked at as any other.

use crate::lab::agent::Answer;
use crate::lab::agent::Ask;
use crate::lab::agent::Remote;
use crate::lab::deed::quoted;
use crate::lab::guide::bed::Bed;
use crate::lab::guide::bed::Member;
use crate::lab::guide::bed::TOOLS;
use crate::lab::guide::bed::executable;
use crate::lab::guide::bed::link;
use crate::lab::guide::bed::make_node;
use crate::lab::guide::places::Place;
use crate::lab::guide::places::swaps;
use crate::lab::guide::scratch::scratch;
use crate::lab::guide::settings::Cluster;
use crate::lab::guide::settings::Head;
use crate::lab::setup;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use parking_lot::Mutex;
use rand::TryRngCore as _;
use rand::rngs::OsRng;
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;

/// Why a step on machines cannot be begun anew.
pub(crate) const NOT_MADE_ANEW: &str =
    "machines are not made anew by the lab: with Vagrant, `vagrant destroy` and `vagrant up` do it";

/// Where the terminal of a node goes on, on its machine: with the bed's own name behind it. What an earlier lab exported is not this one's.
const SESSION: &str = "/run/etcd-lab-session";

/// Says `file` or `folder`, and its mode, of what is at the place `$1`; nothing if nothing is.
const STAT: &str = "[ -e \"$1\" ] || exit 0; if [ -d \"$1\" ]; then printf 'folder '; else printf 'file '; fi; stat -L -c %a -- \"$1\"";

/// What a file on a machine is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stat {
    is_dir: bool,
    pub(crate) mode: u32,
}

/// Starts the agent of the machine of this name.
type Starts = fn(&str) -> Command;

/// The nodes' agents.
///
/// What cannot be asked for, as the machine is not reached, is an error and no answer: nobody knows it then.
pub struct Away {
    /// By the node's name: its machine's, and the agent that was asked last.
    machines: BTreeMap<String, (String, Mutex<Option<Remote>>)>,
    nodes: PathBuf,
    starts: Starts,
    /// The file there in which a terminal goes on.
    session: String,
}

impl Away {
    /// Whether this node is one of them.
    pub(crate) fn has(&self, node: &str) -> bool {
        self.machines.contains_key(node)
    }

    fn ask(&self, node: &str, ask: &Ask) -> Result<Answer, String> {
        let (machine, agent) = self.machines.get(node).ok_or_else(|| format!("there is no node {node}"))?;
        let mut agent = agent.lock();
        let mut there = match agent.take() {
            Some(there) => there,
            None => Remote::start(&mut (self.starts)(machine))?,
        };
        let answer = there.ask(ask)?;
        *agent = Some(there);
        Ok(answer)
    }

    /// Takes the terminals' files away, where an agent is at hand. Where none is, the file stays until that machine starts anew; nobody reads it.
    fn forget(&self) {
        let argv = ["rm", "-f", "--", &self.session].map(str::to_owned).to_vec();
        let ask = Ask::Run { argv };
        std::thread::scope(|scope| {
            for (_, agent) in self.machines.values() {
                // One that is being asked something is not waited for.
                if let Some(mut there) = agent.try_lock().and_then(|mut agent| agent.take()) {
                    let ask = &ask;
                    scope.spawn(move || drop(there.ask(ask)));
                }
            }
        });
    }

    /// The same, off the thread that draws.
    async fn asked(self: &Arc<Away>, node: &str, ask: Ask) -> Result<Answer, String> {
        let (away, node) = (Arc::clone(self), node.to_owned());
        tokio::task::spawn_blocking(move || away.ask(&node, &ask)).await.map_err(|e| e.to_string())?
    }

    /// Whether this unit is active there.
    ///
    /// # Errors
    /// The machine is not reached.
    pub(crate) async fn is_active(self: &Arc<Away>, node: &str, unit: &str) -> Result<bool, String> {
        match self.asked(node, Ask::Unit { name: unit.to_owned() }).await? {
            Answer::Unit { active, .. } => Ok(active == "active"),
            other => Err(format!("another answer: {other:?}")),
        }
    }

    /// What this unit has written since the machine was started, its newest part if it is much.
    ///
    /// # Errors
    /// The machine is not reached.
    pub(crate) async fn journal(self: &Arc<Away>, node: &str, unit: &str) -> Result<String, String> {
        let argv =
            ["journalctl", "-b", "-u", unit, "-o", "cat", "--no-pager", "-n", "2000"].map(str::to_owned).to_vec();
        match self.asked(node, Ask::Run { argv }).await? {
            Answer::Ran { out, .. } => Ok(out),
            other => Err(format!("another answer: {other:?}")),
        }
    }

    /// What a file is there; nothing if there is none. Its bytes stay where they are.
    ///
    /// # Errors
    /// The machine is not reached.
    pub(crate) async fn stat(self: &Arc<Away>, node: &str, path: &str) -> Result<Option<Stat>, String> {
        let there = Path::new("/").join(path.trim_start_matches('/'));
        let argv = ["sh", "-c", STAT, "sh", &there.display().to_string()].map(str::to_owned).to_vec();
        match self.asked(node, Ask::Run { argv }).await? {
            Answer::Ran { exit: 0, out, .. } if out.is_empty() => Ok(None),
            Answer::Ran { exit: 0, out, .. } => {
                let (kind, mode) = out.trim().split_once(' ').unwrap_or_default();
                let mode = u32::from_str_radix(mode, 8).map_err(|_| format!("{}: {out:?}", there.display()))?;
                Ok(Some(Stat { is_dir: kind == "folder", mode }))
            }
            other => Err(format!("{}: {other:?}", there.display())),
        }
    }

    /// Brings a file here, as it is there: to the same place in the folder that stands for the node.
    ///
    /// # Errors
    /// The machine is not reached, the file is too large, or what came cannot be kept.
    pub(crate) async fn fetch(self: &Arc<Away>, node: &str, path: &str) -> Result<(), String> {
        let path = path.trim_start_matches('/');
        let (there, here) = (Path::new("/").join(path), self.nodes.join(node).join(path));
        let found = self.stat(node, path).await?;
        // What was brought before may be another kind of thing.
        let _ = fs::remove_file(&here);
        let Some(Stat { is_dir, mode }) = found else {
            let _ = fs::remove_dir_all(&here);
            return Ok(());
        };
        let bytes = match is_dir {
            true => None,
            false => {
                // Not as text: a key may be binary.
                let argv = ["base64".to_owned(), "-w0".to_owned(), there.display().to_string()].to_vec();
                match self.asked(node, Ask::Run { argv }).await? {
                    Answer::Ran { exit: 0, out, cut: false, .. } => {
                        Some(STANDARD.decode(out).map_err(|e| e.to_string())?)
                    }
                    Answer::Ran { cut: true, .. } => {
                        return Err(format!("{} is too large to be looked at from here", there.display()));
                    }
                    other => return Err(format!("{}: {other:?}", there.display())),
                }
            }
        };
        keep(&here, bytes.as_deref(), mode).map_err(|e| format!("{}: {e}", here.display()))
    }
}

/// A file with these bytes, or a folder, with this mode. Nobody else reads it before it has that.
fn keep(here: &Path, bytes: Option<&[u8]>, mode: u32) -> io::Result<()> {
    fs::create_dir_all(here.parent().unwrap_or(here))?;
    match bytes {
        Some(bytes) => {
            let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(here)?;
            file.write_all(bytes)?;
        }
        None => fs::create_dir_all(here)?,
    }
    fs::set_permissions(here, fs::Permissions::from_mode(mode))
}

/// Whether these machines can be the nodes of this lab: each is there by its name, or the lab has one alone.
///
/// # Errors
/// They cannot: why, and what to do.
pub(crate) fn fits_machines(head: &Head, machines: &[String]) -> Result<(), String> {
    let (id, cluster) = (&head.id, &head.cluster);
    if !head.needs_nodes() {
        return Ok(());
    }
    if !cluster.machines {
        return Err(format!(
            "{id} starts members of its own, breaks them and begins anew, which the lab does on this machine only: etcd-lab {id}, without --machines"
        ));
    }
    let nodes: Vec<&str> = cluster.nodes.iter().chain(&cluster.spare).map(|n| n.name.as_str()).collect();
    if nodes.len() == 1 || nodes.iter().all(|node| machines.iter().any(|machine| machine == node)) {
        return Ok(());
    }
    Err(format!(
        "the nodes of {id} are {}, and --machines names {}: name them all, or let the lab make them by itself: etcd-lab {id}, without --machines",
        nodes.join(", "),
        machines.join(", ")
    ))
}

/// Machines as the nodes of a lab. See the module.
pub(crate) struct MachineBed {
    folder: PathBuf,
    bin_dir: PathBuf,
    members: Vec<Member>,
    spares: Vec<Member>,
    swaps: Vec<(String, String)>,
    machine: PathBuf,
    away: Arc<Away>,
}

impl MachineBed {
    /// The nodes of this cluster on these machines, each with its address: those of their names, or for a node that is alone the first.
    ///
    /// # Errors
    /// There are no such machines, or a folder cannot be had.
    pub(crate) fn new(cluster: &Cluster, machines: &[(String, String)]) -> Result<MachineBed, String> {
        MachineBed::with(cluster, machines, setup::agent_at)
    }

    fn with(cluster: &Cluster, machines: &[(String, String)], starts: Starts) -> Result<MachineBed, String> {
        let nodes: Vec<_> = cluster.nodes.iter().chain(&cluster.spare).collect();
        let named = |name: &str| machines.iter().find(|(machine, _)| machine == name);
        let alone = machines.first().filter(|_| nodes.len() == 1);
        let (mut places, mut away) = (Vec::new(), BTreeMap::new());
        for node in &nodes {
            let found = named(&node.name).or(alone);
            let (machine, ip) =
                found.ok_or_else(|| format!("the lab's node {} is none of the machines of --machines", node.name))?;
            let at = |port: u16| if ip.contains(':') { format!("[{ip}]:{port}") } else { format!("{ip}:{port}") };
            places.push(Place { name: node.name.clone(), client: at(2379), peer: at(2380), ip: node.ip.clone() });
            away.insert(node.name.clone(), (machine.clone(), Mutex::new(None)));
        }
        let member = |p: &Place| Member { name: p.name.clone(), endpoint: p.client.clone() };
        let (first, spare) = places.split_at(cluster.nodes.len());
        let session = own_session()?;
        // From here on it goes with the bed.
        let folder = scratch("machines")?;
        let (bin_dir, roots) = (folder.join("bin"), folder.join("nodes"));
        let bed = MachineBed {
            members: first.iter().map(member).collect(),
            spares: spare.iter().map(member).collect(),
            swaps: swaps(&places),
            machine: bin_dir.join("machine"),
            bin_dir,
            folder,
            away: Arc::new(Away { machines: away, nodes: roots.clone(), starts, session }),
        };
        bed.furnish(&roots)?;
        Ok(bed)
    }

    fn furnish(&self, roots: &Path) -> Result<(), String> {
        let program = std::env::current_exe().map_err(|e| format!("this program's path is not known: {e}"))?;
        fs::create_dir_all(&self.bin_dir).map_err(|e| format!("{}: {e}", self.bin_dir.display()))?;
        for name in ["etcd", "etcdctl", "etcdutl"].into_iter().chain(TOOLS) {
            link(&self.bin_dir, name, &program)?;
        }
        for node in self.away.machines.keys().map(String::as_str).chain(["desk"]) {
            make_node(&roots.join(node))?;
        }
        let names: Vec<String> =
            self.away.machines.iter().map(|(node, (machine, _))| format!("{node}) to={};;", quoted(machine))).collect();
        for (name, script) in scripts(&self.machine, &names.join(" "), &self.away.session) {
            executable(&self.bin_dir.join(name), &script)?;
        }
        Ok(())
    }
}

/// A place for a bed's terminals that no other bed has, of whatever process.
fn own_session() -> Result<String, String> {
    let mut bytes = [0; 8];
    OsRng.try_fill_bytes(&mut bytes).map_err(|e| format!("no randomness for a name: {e}"))?;
    Ok(format!("{SESSION}-{:016x}", u64::from_be_bytes(bytes)))
}

/// How a command, and a file, come to a node.
fn scripts(machine: &Path, names: &str, session: &str) -> [(&'static str, String); 4] {
    let program = machine.with_file_name("etcd-lab");
    let (program, machine) = (quoted(&program.to_string_lossy()), quoted(&machine.to_string_lossy()));
    [
        (
            "machine",
            format!(
                "#!/bin/sh\n# machine NODE COMMAND...: the command on the machine that is this node of the lab, as root.\nnode=$1; shift\n\
                 case $node in {names} *) echo \"there is no node $node\" >&2; exit 2;; esac\n\
                 exec {program} node on \"$to\" env -C / LAB_SESSION={session} LAB_COMMAND=\"$LAB_COMMAND\" HOME=/ TERM=dumb NO_COLOR=1 \
                 /bin/sh -c 'exec \"$@\" 2>&1' sh \"$@\"\n"
            ),
        ),
        (
            "on",
            format!(
                "#!/bin/sh\n# on NODE COMMAND: runs the command in the terminal of this node of the lab.\n\
                 [ $# -gt 1 ] || {{ echo \"on: on NODE COMMAND: it runs one command; a shell on a machine is for a terminal of its own\" >&2; exit 2; }}\n\
                 node=$1; shift\n\
                 exec {machine} \"$node\" /bin/sh -c \"[ ! -f {session} ] || . {session}; $*\"\n"
            ),
        ),
        (
            "scp",
            format!(
                "#!/bin/sh\n# scp FILE... NODE:[PATH]: copies small files to a node of the lab.\nfor last; do :; done\nnode=${{last%%:*}}; to=${{last#*:}}\n\
                 [ \"$node\" != \"$last\" ] || {{ echo \"scp: the last word is NODE:PATH\" >&2; exit 1; }}\n\
                 while [ $# -gt 1 ]; do\n\
                 \x20 {machine} \"$node\" /bin/sh -c 'to=/${{1#/}}; [ ! -d \"$to\" ] || to=$to/$2; printf %s \"$4\" | base64 -d >\"$to\" && chmod \"$3\" \"$to\"' \
                 sh \"$to\" \"${{1##*/}}\" \"$(stat -c %a \"$1\")\" \"$(base64 -w0 \"$1\")\" || exit 1\n  shift\ndone\n"
            ),
        ),
        ("hostname", "#!/bin/sh\n# The name of where you are.\necho desk\n".to_owned()),
    ]
}

impl Bed for MachineBed {
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
        Some(&self.away.nodes)
    }

    fn swaps(&self) -> &[(String, String)] {
        &self.swaps
    }

    fn machine(&self) -> Option<&Path> {
        Some(&self.machine)
    }

    fn away(&self) -> Option<Arc<Away>> {
        Some(Arc::clone(&self.away))
    }
}

impl Drop for MachineBed {
    fn drop(&mut self) {
        self.away.forget();
        // What nobody wants any more; there is nobody to tell if some stays.
        let _ = fs::remove_dir_all(&self.folder);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::agent;
    use crate::lab::guide::check::Verdict;
    use crate::lab::guide::check::judge;
    use crate::lab::guide::expr::Expr;
    use crate::lab::guide::expr::FileProperty;
    use crate::lab::guide::facts::gather;
    use crate::lab::guide::machine;
    use crate::lab::guide::model::Cause;
    use crate::lab::guide::model::Check;
    use crate::lab::guide::papers;
    use crate::lab::guide::papers::Found;
    use crate::lab::guide::session::Session;
    use crate::lab::guide::settings::Node;
    use crate::lab::guide::shell::Shell;
    use crate::lab::guide::shelved;
    use std::process::Stdio;
    use std::time::Duration;

    fn cluster(names: &[(&str, &str)]) -> Cluster {
        let node = |(name, ip): &(&str, &str)| Node { name: (*name).into(), ip: Some((*ip).into()) };
        Cluster { nodes: names.iter().map(node).collect(), running: false, machines: true, ..Cluster::default() }
    }

    fn machines() -> Vec<(String, String)> {
        [("controller-0", "10.240.0.10"), ("controller-1", "10.240.0.11")].map(|(n, ip)| (n.into(), ip.into())).to_vec()
    }

    #[test]
    fn a_labs_nodes_are_the_machines_of_their_names_and_one_alone_is_the_first() {
        let swapped = cluster(&[("controller-1", "10.240.0.11"), ("controller-0", "10.240.0.10")]);
        let bed = MachineBed::new(&swapped, &machines()).expect("made");
        assert_eq!(bed.members[0].endpoint, "10.240.0.11:2379");
        assert!(bed.swaps.is_empty(), "the page is true as it stands");
        let bed = MachineBed::new(&cluster(&[("server", "10.0.0.1")]), &machines()).expect("made");
        assert_eq!(bed.away.machines["server"].0, "controller-0");
        assert!(bed.swaps.contains(&("10.0.0.1".into(), "10.240.0.10".into())));
        let others = cluster(&[("controller-0", "10.240.0.10"), ("cp2", "10.2.0.10")]);
        assert!(MachineBed::new(&others, &machines()).err().is_some_and(|why| why.contains("node cp2 is none of")));
    }

    #[tokio::test]
    async fn what_nobody_reaches_is_neither_so_nor_not_so() {
        let nobody: Starts = |_| {
            let mut command = Command::new("sh");
            command.args(["-c", "echo no route >&2"]).stderr(Stdio::piped());
            command
        };
        let bed = MachineBed::with(&cluster(&[("controller-0", "10.240.0.10")]), &machines(), nobody).expect("made");
        let folder = tempfile::tempdir().expect("a folder");
        let shell = Shell::new(folder.path(), &bed);
        for (fact, said) in [
            ("unit('controller-0', 'etcd').active", "whether etcd runs at controller-0 is not known: "),
            ("log('controller-0', 'etcd') has 'x'", "what etcd of controller-0 has written is not known: "),
            ("file('controller-0:etc/etcd').exists", "controller-0:etc/etcd could not be looked at: "),
            ("file('controller-0:etc/etcd').mode == '700'", "controller-0:etc/etcd could not be looked at: "),
        ] {
            let not = Expr::parse(&format!("not {fact}")).expect("it is right");
            let cause = Cause { when: not.clone(), say: "a cause".into() };
            let check = Check {
                id: "c".into(),
                title: "it".into(),
                want: not,
                within: Duration::ZERO,
                causes: vec![cause],
                spoil: None,
                line: 1,
            };
            let facts = gather(&check.want.facts().into_iter().collect(), &bed, &shell).await.expect("asked");
            let Verdict::NotYet { got, cause: None } = judge(&check, &facts) else { panic!("{fact}") };
            assert!(got[0].starts_with(said) && got[0].contains("no route"), "{got:?}");
        }
    }

    /// An agent that does what it is asked to on this machine, and writes down what that was in the file of its name.
    fn noting(notes: &str) -> Command {
        let (to_it, from_it) = std::os::unix::net::UnixStream::pair().expect("a pair");
        let mut says = to_it.try_clone().expect("a socket");
        std::thread::spawn(move || agent::serve(std::io::BufReader::new(to_it), &mut says));
        let mut command = Command::new("sh");
        // Standard error is the other end, both ways.
        command
            .args(["-c", "cat <&2 & hears=$!; (tee -a \"$0\" >&2; kill $hears)", notes])
            .stderr(std::os::fd::OwnedFd::from(from_it));
        command
    }

    #[test]
    fn the_greeting_promises_no_shell_that_a_machine_does_not_give() {
        let lab = shelved("B5-the-hard-way").expect("on the shelf").expect("right");
        let bed = MachineBed::new(&cluster(&[("controller-0", "10.240.0.10")]), &machines()).expect("made");
        let greeting = Session::new(Arc::new(lab), Arc::new(bed), Path::new(".")).terminal_greeting();
        assert!(
            greeting.contains("`on controller-0 COMMAND` runs") && !greeting.contains("opens a shell"),
            "{greeting}"
        );
    }

    #[test]
    fn a_lab_whose_nodes_are_other_machines_is_refused_with_what_to_do() {
        let course = ["controller-0", "controller-1", "controller-2"].map(str::to_owned);
        let told = |name, machines: &[String]| {
            let lab = shelved(name).expect("on the shelf").expect("right");
            fits_machines(&lab.head, machines).err().unwrap_or_default()
        };
        assert_eq!(told("B5-the-hard-way", &course), "");
        assert_eq!(told("B3-first-keys", &course), "", "it is on the cluster that runs");
        for (name, machines) in [("B6-is-it-healthy", &course[..]), ("B5-the-hard-way", &course[..1])] {
            let said = told(name, machines);
            assert!(said.contains("without --machines") && said.contains(&machines.join(", ")), "{said}");
        }
        assert!(told("E7-replace-a-member", &course).contains("E7 starts members of its own"));
        // A cluster whose machines are not here names the VMs only if they are such.
        let lab = |name| shelved(name).expect("on the shelf").expect("right").head.cluster;
        assert!(machine::missing(&lab("B5-the-hard-way")).contains("--machines 3"));
        assert!(!machine::missing(&lab("B6-is-it-healthy")).contains("--machines"));
    }

    #[tokio::test]
    async fn a_machines_terminal_is_one_labs_and_goes_with_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let notes = folder.path().join("notes");
        let machine = (notes.display().to_string(), "10.240.0.10".to_owned());
        let bed = || MachineBed::with(&cluster(&[("n1", "10.240.0.10")]), std::slice::from_ref(&machine), noting);
        let (one, other) = (bed().expect("made"), bed().expect("made"));
        assert_ne!(one.away.session, other.away.session, "what was exported in the lab before is not this one's");
        let on = fs::read_to_string(one.bin_dir.join("on")).expect("there");
        let to_it = fs::read_to_string(&one.machine).expect("there");
        let session = one.away.session.clone();
        assert!(on.contains(&session) && to_it.contains(&format!("LAB_SESSION={session} ")), "{on}{to_it}");
        // The agent is there from the first look on.
        one.away.stat("n1", "nowhere").await.expect("asked");
        drop(one);
        let asked = fs::read_to_string(&notes).expect("noted");
        assert!(asked.contains(&format!(r#"["rm","-f","--","{session}"]"#)), "{asked}");
        let done = Command::new(other.bin_dir.join("on")).arg("n1").output().expect("it runs");
        let said = String::from_utf8_lossy(&done.stderr);
        assert!(done.status.code() == Some(2) && said.contains("on NODE COMMAND"), "{said}");
    }

    #[tokio::test]
    async fn whether_a_file_is_there_is_asked_without_its_bytes() {
        let folder = tempfile::tempdir().expect("a folder");
        let (notes, large) = (folder.path().join("notes"), folder.path().join("large"));
        fs::write(&large, vec![b'x'; 2 << 20]).expect("written");
        fs::set_permissions(&large, fs::Permissions::from_mode(0o750)).expect("its owner may");
        let machine = (notes.display().to_string(), "10.240.0.10".to_owned());
        let bed = MachineBed::with(&cluster(&[("n1", "10.240.0.10")]), &[machine], noting).expect("made");
        let shell = Shell::new(folder.path(), &bed);
        let at = |path: &Path| format!("n1:{}", path.display());
        let look = async |name: String, property| papers::look(&shell, &name, &property).await;
        assert_eq!(look(at(&large), FileProperty::Exists).await, Ok(Some(Found::Bool(true))));
        assert_eq!(look(at(&large), FileProperty::Mode).await, Ok(Some(Found::Text("750".into()))));
        assert_eq!(look(at(folder.path()), FileProperty::Exists).await, Ok(Some(Found::Bool(true))));
        for nowhere in [large.join("below a file"), folder.path().join("nowhere")] {
            assert_eq!(look(at(&nowhere), FileProperty::Exists).await, Ok(Some(Found::Bool(false))));
            assert_eq!(look(at(&nowhere), FileProperty::Mode).await, Ok(None));
            assert_eq!(look(at(&nowhere), FileProperty::Text).await, Ok(None));
        }
        let asked = fs::read_to_string(&notes).expect("noted");
        assert!(asked.contains("stat") && !asked.contains("base64"), "{asked}");
        let too_large = look(at(&large), FileProperty::Text).await.expect_err("more than an agent tells");
        assert!(too_large.contains("too large"), "{too_large}");
        fs::write(&large, "small").expect("written");
        assert_eq!(look(at(&large), FileProperty::Text).await, Ok(Some(Found::Text("small".into()))));
    }

    #[test]
    fn a_quote_in_a_name_ends_no_word_of_a_script() {
        let folder = tempfile::tempdir().expect("a folder");
        let bin = folder.path().join("o'brien");
        fs::create_dir(&bin).expect("made");
        let machine = bin.join("machine");
        let ours = MachineBed::new(&cluster(&[("n1", "10.0.0.1")]), &[("o'x; echo mine;'@h".into(), "::1".into())]);
        let names = fs::read_to_string(&ours.expect("made").machine).expect("there");
        assert!(names.contains(r"n1) to='o'\''x; echo mine;'\''@h';;"), "{names}");
        executable(&bin.join("etcd-lab"), "#!/bin/sh\necho \"$3\"\n").expect("written");
        for (name, script) in scripts(&machine, &format!("n1) to={};;", quoted("o'x@host")), "/run/s") {
            executable(&bin.join(name), &script).expect("written");
        }
        let on = Command::new(bin.join("on")).args(["n1", "true"]).output().expect("it runs");
        assert_eq!(String::from_utf8_lossy(&on.stdout), "o'x@host\n", "{}", String::from_utf8_lossy(&on.stderr));
    }

    #[test]
    fn a_file_goes_whole_and_with_its_mode() {
        let folder = tempfile::tempdir().expect("a folder");
        let bin = folder.path().join("bin");
        fs::create_dir(&bin).expect("made");
        let machine = bin.join("machine");
        // In the machine's place: this one, with another root.
        let root = folder.path().join("root");
        fs::create_dir(&root).expect("made");
        let scripts = scripts(&machine, "n1) to=one;;", "/run/s");
        let scp = scripts
            .iter()
            .find(|(name, _)| *name == "scp")
            .expect("it is there")
            .1
            .replace("to=/$", &format!("to={}/$", root.display()));
        executable(&bin.join("scp"), &scp).expect("written");
        executable(&machine, "#!/bin/sh\nshift\nexec \"$@\"\n").expect("written");
        let key = folder.path().join("key.pem");
        keep(&key, Some(b"\x00binary\n\n"), 0o600).expect("written");
        let done = Command::new(bin.join("scp")).arg(&key).arg("n1:").status().expect("it runs");
        assert!(done.success());
        let copied = root.join("key.pem");
        assert_eq!(fs::read(&copied).expect("there"), b"\x00binary\n\n");
        assert_eq!(fs::metadata(&copied).expect("there").permissions().mode() & 0o777, 0o600);
    }
}
