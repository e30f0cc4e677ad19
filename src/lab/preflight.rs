//! May we start here? Every answer is a plan that works, or one sentence that says what to do.
//!
//! Nothing is started and nothing is left behind by these checks. What they had to change (another folder, other ports) comes
//! back as notices for the user to read.

use crate::lab::Error;
use crate::lab::certs;
use crate::lab::picture::words::counted;
use crate::lab::sockets;
use crate::lab::upstream;
use crate::lab::workdir::MemberRecord;
use crate::lab::workdir::Record;
use crate::lab::workdir::WorkDir;
use std::env;
use std::ffi::OsStr;
use std::net::Ipv4Addr;
use std::net::TcpListener;
use std::path::Path;
use std::path::PathBuf;

/// Client and peer ports in the order we like them: etcd's own, then those of etcd's example of a local cluster.
pub const PORTS: [(u16, u16); 5] = [(2379, 2380), (22379, 22380), (32379, 32380), (42379, 42380), (52379, 52380)];

/// Disk that one member may use in a lab: two log segments, a store, and as much again.
const MEMBER_MIB: u64 = 48;

/// What to start, and what the user should know about it.
#[derive(Debug)]
pub struct Plan {
    /// The folder, held.
    pub work: WorkDir,
    /// The members; no pids yet.
    pub record: Record,
    /// Sentences about what differs from the usual.
    pub notices: Vec<String>,
}

impl Plan {
    /// Has this etcd run as the members, instead of our own. A kept folder goes on with the program that has made its data.
    ///
    /// # Errors
    /// If it is no etcd; if the folder's data are another program's.
    pub fn with_etcd(&mut self, etcd: Option<&Path>) -> Result<(), Error> {
        let is_kept = self.record.members.iter().any(|m| m.data_dir.exists());
        if is_kept && self.record.upstream.is_none() && etcd.is_some() {
            let folder = self.work.path().display();
            return Err(Error::Refused(format!(
                "the members in {folder} have data of the lab's own etcd, which no other etcd reads: choose another --folder"
            )));
        }
        let Some(etcd) = etcd.map(Path::to_path_buf).or_else(|| self.record.upstream.clone()) else { return Ok(()) };
        let (program, version) = upstream::check(&etcd)?;
        self.notices.push(format!(
            "the members are etcd {version} ({}): messages, timers, votes and logs are not visible",
            program.display()
        ));
        self.record.upstream = Some(program);
        Ok(())
    }
}

impl Plan {
    /// Has the members speak TLS to each other: makes an authority, and certificates good and bad. A kept folder speaks as it did.
    ///
    /// # Errors
    /// If the certificates cannot be made; if the folder's members speak plain HTTP.
    pub fn with_tls(&mut self, tls: bool) -> Result<(), Error> {
        if !tls || self.record.tls {
            return Ok(());
        }
        if self.record.members.iter().any(|m| m.data_dir.exists()) {
            let folder = self.work.path().display();
            return Err(Error::Refused(format!(
                "the members in {folder} know each other by http:// addresses: choose another --folder for --tls"
            )));
        }
        for m in &mut self.record.members {
            m.peer_url = m.peer_url.replace("http://", "https://");
            certs::make_folder(m)?;
        }
        certs::make(&self.record.members)?;
        self.record.tls = true;
        self.notices.push("members speak TLS to each other; certificates are in the pki folder of each".into());
        Ok(())
    }
}

/// Chooses a folder and ports for `nodes` members, or takes up a kept folder again (then `nodes` is what it has).
///
/// # Errors
/// One sentence for the user; see [`Error`].
pub fn plan(nodes: usize, folder: Option<&Path>, ports: &[(u16, u16)]) -> Result<Plan, Error> {
    let mut notices = Vec::new();
    let work = match folder {
        Some(folder) => WorkDir::open(folder)?,
        None => new_folder(&bases(), &mut notices)?,
    };
    let drawn_up = match work.load()? {
        Some(kept) => take_up(&work, kept, &mut notices),
        None => draw_up(&work, nodes, ports, &mut notices),
    };
    match drawn_up {
        Ok(record) => Ok(Plan { work, record, notices }),
        Err(e) => {
            // A new folder that will not be used; a named one is the user's.
            drop(folder.is_none().then(|| work.remove()));
            Err(e)
        }
    }
}

/// The folders under which labs are looked for and made, best first.
#[must_use]
pub fn bases() -> Vec<PathBuf> {
    let state = env::var_os("XDG_STATE_HOME").filter(|s| Path::new(s).is_absolute()).map(PathBuf::from);
    let home = env::var_os("HOME").filter(|s| Path::new(s).is_absolute());
    let state = state.or_else(|| home.map(|h| Path::new(&h).join(".local/state")));
    let user = rustix::process::getuid().as_raw();
    let temp = env::temp_dir().join(format!("etcd-lab-{user}"));
    state.map(|s| s.join("etcd-lab")).into_iter().chain([temp]).collect()
}

pub(super) fn new_folder(bases: &[PathBuf], notices: &mut Vec<String>) -> Result<WorkDir, Error> {
    let mut tried = Vec::new();
    for base in bases {
        match WorkDir::create_under(base) {
            Ok(work) => {
                if !tried.is_empty() {
                    notices.push(format!("work folder is {}, because {}", work.path().display(), tried.join("; ")));
                }
                return Ok(work);
            }
            Err(e) => tried.push(e.to_string()),
        }
    }
    Err(Error::NoFolder { tried: tried.join("; ") })
}

fn draw_up(work: &WorkDir, nodes: usize, ports: &[(u16, u16)], notices: &mut Vec<String>) -> Result<Record, Error> {
    check_disk(work.path(), nodes)?;
    let ports = choose_ports(nodes, ports, notices)?;
    let members = ports.iter().zip(1..).map(|(&(client, peer), n)| {
        let folder = work.path().join(format!("n{n}"));
        MemberRecord {
            name: format!("n{n}"),
            pid: 0,
            client_url: format!("http://127.0.0.1:{client}"),
            peer_url: format!("http://127.0.0.1:{peer}"),
            lab_socket: folder.join("lab.sock"),
            log: folder.join("etcd.log"),
            data_dir: folder.join("data"),
        }
    });
    let number = work.path().file_name().unwrap_or(OsStr::new("0")).to_string_lossy();
    let cluster_token = format!("etcd-lab-{number}");
    Ok(Record { supervisor_pid: 0, cluster_token, members: members.collect(), ..Record::default() })
}

/// A kept folder: the same members at the same addresses.
fn take_up(work: &WorkDir, mut kept: Record, notices: &mut Vec<String>) -> Result<Record, Error> {
    if !kept.machines.is_empty() {
        let (folder, names) = (work.path().display(), kept.machines.join(","));
        return Err(Error::Refused(format!("the members of {folder} are on machines: --machines {names}")));
    }
    for m in &mut kept.members {
        m.pid = 0;
        for url in [&m.client_url, &m.peer_url] {
            let port = url.rsplit(':').next().and_then(|p| p.parse().ok()).unwrap_or(0);
            if !is_free(port) {
                return Err(Error::PortTaken { holder: taken(port), folder: work.path().to_path_buf() });
            }
        }
    }
    let members = counted(kept.members.len() as u64, "member", "members");
    notices.push(format!("goes on with the {members} kept in {}", work.path().display()));
    Ok(kept)
}

fn check_disk(folder: &Path, nodes: usize) -> Result<(), Error> {
    let Ok(stat) = rustix::fs::statvfs(folder) else { return Ok(()) };
    enough_disk(folder, nodes, stat.f_bavail.saturating_mul(stat.f_frsize) >> 20)
}

fn enough_disk(folder: &Path, nodes: usize, have_mib: u64) -> Result<(), Error> {
    let need_mib = nodes as u64 * MEMBER_MIB;
    if have_mib >= need_mib {
        return Ok(());
    }
    let folder = folder.parent().unwrap_or(folder).to_path_buf();
    Err(Error::NoDisk { nodes, need_mib, have_mib, folder })
}

/// A pair of free ports for each member: the ones we like, or others that the system gives.
fn choose_ports(nodes: usize, liked: &[(u16, u16)], notices: &mut Vec<String>) -> Result<Vec<(u16, u16)>, Error> {
    let mut chosen = Vec::new();
    // Held until all are chosen, so that the system does not give one twice.
    let mut held = Vec::new();
    let mut other = || {
        let socket = TcpListener::bind((Ipv4Addr::LOCALHOST, 0));
        let socket = socket.map_err(|source| Error::System { what: "no free loopback port", source })?;
        let port =
            socket.local_addr().map_err(|source| Error::System { what: "no free loopback port", source })?.port();
        held.push(socket);
        Ok(port)
    };
    for n in 0..nodes {
        let (client, peer) = liked.get(n).copied().unwrap_or((0, 0));
        if is_free(client) && is_free(peer) {
            chosen.push((client, peer));
            continue;
        }
        let instead = (other()?, other()?);
        let name = n + 1;
        for port in [client, peer].into_iter().filter(|p| !is_free(*p) && *p != 0) {
            notices.push(format!("{}: n{name} serves clients on port {} instead", taken(port), instead.0));
        }
        chosen.push(instead);
    }
    Ok(chosen)
}

fn is_free(port: u16) -> bool {
    port != 0 && TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}

/// "port 2379 is taken by etcd (pid 812)".
fn taken(port: u16) -> String {
    match sockets::holder(port) {
        Some((pid, command)) => format!("port {port} is taken by {command} (pid {pid})"),
        None => format!("port {port} is taken (by another user's process)"),
    }
}

/// What kind of screen we have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Screen {
    /// False: no terminal, or a dumb one. Then plain text.
    pub full: bool,
    /// True: 7-bit characters only.
    pub ascii: bool,
    /// False: no colours (`NO_COLOR`).
    pub colour: bool,
}

impl Screen {
    /// Reads the environment through `var`.
    #[must_use]
    pub fn detect(is_terminal: bool, var: impl Fn(&str) -> Option<String>) -> Screen {
        let set = |name: &str| var(name).filter(|v| !v.is_empty());
        // The first one that is set counts; without any it is the C locale, which is ASCII.
        let locale = set("LC_ALL").or_else(|| set("LC_CTYPE")).or_else(|| set("LANG")).unwrap_or_default();
        let locale = locale.to_ascii_lowercase().replace('-', "");
        let dumb = set("TERM").is_none_or(|t| t == "dumb");
        Screen { full: is_terminal && !dumb, ascii: !locale.contains("utf8"), colour: set("NO_COLOR").is_none() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_taken_port_is_replaced_and_its_holder_named() {
        let socket = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let port = socket.local_addr().expect("bound").port();
        let mut notices = Vec::new();
        let chosen = choose_ports(1, &[(port, 26_002)], &mut notices).expect("others are free");
        assert_ne!(chosen[0].0, port);
        let said = notices.join("\n");
        assert!(said.contains(&format!("port {port} is taken by ")), "{said}");
        assert!(said.contains(&format!("(pid {})", std::process::id())), "{said}");
    }

    #[test]
    fn free_ports_that_we_like_are_taken() {
        let mut notices = Vec::new();
        let chosen = choose_ports(1, &[(26_003, 26_004)], &mut notices).expect("free");
        assert_eq!((chosen, notices.len()), (vec![(26_003, 26_004)], 0));
    }

    #[test]
    fn too_little_disk_is_one_sentence() {
        let e = enough_disk(Path::new("/data/lab/1"), 3, 12).expect_err("12 MiB do not do");
        assert!(e.to_string().contains("needs 144 MiB of disk for 3 members, and /data/lab has 12"), "{e}");
        assert!(enough_disk(Path::new("/data/lab/1"), 3, 144).is_ok());
    }

    #[test]
    fn where_home_is_read_only_the_next_base_is_used_and_said() {
        let temp = tempfile::tempdir().expect("temp dir");
        // A file where the folder should be refuses even root, whom permissions do not stop.
        let home = temp.path().join("home");
        fs::write(&home, "").expect("written");
        let mut notices = Vec::new();
        let work = new_folder(&[home.join("etcd-lab"), temp.path().join("tmp")], &mut notices).expect("made");
        assert!(work.path().starts_with(temp.path().join("tmp")));
        assert!(notices[0].contains("because cannot make the folder"), "{notices:?}");
    }

    #[test]
    fn the_locale_decides_about_ascii() {
        let screen = |vars: &[(&str, &str)]| {
            let vars = vars.to_vec();
            Screen::detect(true, |n| vars.iter().find(|(k, _)| *k == n).map(|(_, v)| (*v).to_string()))
        };
        assert!(!screen(&[("LANG", "en_US.UTF-8"), ("TERM", "xterm")]).ascii);
        assert!(!screen(&[("LANG", "C.utf8"), ("TERM", "xterm")]).ascii);
        assert!(screen(&[("LC_ALL", "C"), ("LANG", "en_US.UTF-8"), ("TERM", "xterm")]).ascii);
        assert!(screen(&[("TERM", "xterm")]).ascii);
        assert!(!screen(&[("TERM", "dumb")]).full);
        assert!(!screen(&[("TERM", "xterm"), ("NO_COLOR", "1")]).colour);
        assert!(!Screen::detect(false, |_| Some("xterm".into())).full);
    }
}
