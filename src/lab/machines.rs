//! A lab whose members are on other machines: `--machines 3`, or `--machines NAME,NAME`.
//!
//! The machines were set up by `etcd-lab node setup`; etcd is a service of theirs, whoever has written its unit. The lab reaches them by ssh alone,
//! with `etcd-lab agent` at the other end, and brings each member's door here: a socket in the work folder, as a member of this machine has.
//! So all that looks at members and tells them what to do (`observe`, `survey`, `ask`) is the same, and does not know where they are.
//!
//! ```text
//!                    here                    ssh             there
//! observe, ask ─▶ n1/lab.sock ─▶ door ═══════════════▶ agent ─▶ /run/etcd-lab/etcd.sock ─▶ etcd
//! Cluster::act ────────────────▶ keep ═══════════════▶ agent ─▶ systemctl
//! ```
//!
//! Where none of the machines has an etcd, the lab gives it to them, and says so; it never takes one away. At the end of the lab they go on.
//! Left out: members' files (bit rot and the like), bad configurations, another etcd's binaries there; and of members that want certificates of
//! their clients, what clients see: it would take the learner's own papers.

mod door;
mod keep;

pub(crate) use keep::keep;

use crate::lab::Error;
use crate::lab::agent::Answer;
use crate::lab::agent::Ask;
use crate::lab::agent::Remote;
use crate::lab::guide;
use crate::lab::guide::Head;
use crate::lab::preflight;
use crate::lab::preflight::Plan;
use crate::lab::setup;
use crate::lab::workdir::MemberRecord;
use crate::lab::workdir::Record;
use crate::lab::workdir::WorkDir;
use std::fmt::Write as _;
use std::fs;
use std::net::IpAddr;
use std::net::ToSocketAddrs as _;
use std::path::Path;
use std::path::PathBuf;
use std::thread;

/// Members that the screens have room for.
const MOST: usize = 5;

/// Where etcd's data are if the lab gives a machine its unit; where documents have them, too.
const DATA: &str = "/var/lib/etcd";
const UNIT: &str = "/etc/systemd/system/etcd.service";

/// A machine as it was found.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Seen {
    name: String,
    ip: IpAddr,
    /// Where its etcd serves clients: told by the process, else by its unit, else the usual place, with TLS.
    url: String,
    has_unit: bool,
    has_data: bool,
}

/// Machines that were reached, n1 first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    machines: Vec<Seen>,
    /// The secret of all their doors.
    token: String,
}

/// Reaches the machines that these words name, for this lab: a number, of the course's machines; or names, with commas between them.
///
/// # Errors
/// One sentence: why they are none for this lab; or which of them was not reached, and why, or what it lacks.
pub fn reach(wanted: &str, lab: &Head) -> Result<Found, Error> {
    let names = match wanted.parse() {
        Ok(count) if (1..=MOST).contains(&count) => setup::first_machines(count).map_err(Error::Refused)?,
        _ => wanted.split(',').map(|name| name.trim().to_owned()).collect(),
    };
    // What begins with a dash would be an option of ssh's.
    let is_name = |name: &String| !name.is_empty() && !name.starts_with('-') && !name.contains(char::is_whitespace);
    if names.len() > MOST
        || !names.iter().all(is_name)
        || wanted.parse::<u64>().is_ok_and(|n| n > MOST as u64 || n == 0)
    {
        return Err(Error::Usage(format!(
            "--machines is {wanted:?}, but can be 1 to {MOST}, or as many names with commas between them"
        )));
    }
    guide::fits_machines(lab, &names).map_err(Error::Refused)?;
    let asked: Vec<_> = thread::scope(|scope| {
        let all: Vec<_> = names.iter().map(|name| scope.spawn(|| looked_at(name))).collect();
        let joined = all.into_iter().map(|one| one.join().unwrap_or_else(|_| Err("this program has failed".into())));
        joined.zip(&names).map(|(one, name)| one.map_err(|why| format!("{name}: {why}"))).collect()
    });
    let asked: Vec<(Seen, String)> = asked.into_iter().collect::<Result<_, String>>().map_err(Error::Refused)?;
    let token = asked.first().map(|(_, token)| token.clone()).unwrap_or_default();
    if let Some((other, _)) = asked.iter().find(|(_, t)| *t != token) {
        let why =
            format!("{} was set up with another key than {}: `etcd-lab node setup --key` again", other.name, names[0]);
        return Err(Error::Refused(why));
    }
    Ok(Found { machines: asked.into_iter().map(|(seen, _)| seen).collect(), token })
}

/// What there is to know of a machine before the lab begins.
fn looked_at(name: &str) -> Result<(Seen, String), String> {
    let ip = address(name)?;
    let mut there = Remote::start(&mut setup::agent_at(name))?;
    let (its, ours) = (there.version().to_owned(), env!("CARGO_PKG_VERSION"));
    if its != ours {
        return Err(format!("it has etcd-lab {its}, and this machine {ours}: set both up with the same program"));
    }
    let token = text_of(&mut there, setup::TOKEN)?.unwrap_or_default().trim().to_owned();
    if token.is_empty() {
        return Err(format!("it has no {}: `etcd-lab node setup` with --key makes it", setup::TOKEN));
    }
    let Answer::Unit { load, pid, .. } = there.ask(&Ask::Unit { name: "etcd".into() })? else {
        return Err("the agent gave another answer".into());
    };
    let data = there.ask(&Ask::File { path: format!("{DATA}/member").into() })?;
    let mut said = String::new();
    for file in ["cmdline", "environ"].iter().filter(|_| pid != 0) {
        said += &text_of(&mut there, &format!("/proc/{pid}/{file}"))?.unwrap_or_default();
        said.push('\0');
    }
    if pid == 0 {
        // One that is down says it by its unit.
        said = text_of(&mut there, UNIT)?.unwrap_or_default().split_whitespace().collect::<Vec<_>>().join("\0");
    }
    let url = told_url(&said).unwrap_or_else(|| format!("https://{}", at(ip, 2379)));
    let has_data = matches!(data, Answer::File { exists: true, .. });
    Ok((Seen { name: name.to_owned(), ip, url, has_unit: load != "not-found", has_data }, token))
}

/// Where the name leads, of IPv4 first: the documents' addresses are.
fn address(name: &str) -> Result<IpAddr, String> {
    let host = name.rsplit_once('@').map_or(name, |(_, host)| host);
    let all: Vec<IpAddr> =
        (host, 0).to_socket_addrs().map_err(|e| format!("no address of that name ({e})"))?.map(|a| a.ip()).collect();
    all.iter().find(|ip| ip.is_ipv4()).or(all.first()).copied().ok_or_else(|| "no address of that name".into())
}

fn text_of(there: &mut Remote, path: &str) -> Result<Option<String>, String> {
    match there.ask(&Ask::File { path: path.into() })? {
        Answer::File { exists: true, text, .. } => Ok(Some(text)),
        _ => Ok(None),
    }
}

fn at(ip: IpAddr, port: u16) -> String {
    std::net::SocketAddr::new(ip, port).to_string()
}

/// The first address at which an etcd with this command line and these variables says that it serves clients.
fn told_url(said: &str) -> Option<String> {
    let words: Vec<&str> = said.split('\0').collect();
    let flag = |(place, word): (usize, &&str)| match word.trim_start_matches('-').split_once('=') {
        _ if !word.starts_with('-') => word.strip_prefix("ETCD_ADVERTISE_CLIENT_URLS=").map(str::to_owned),
        Some(("advertise-client-urls", urls)) => Some(urls.to_owned()),
        None if word.trim_start_matches('-') == "advertise-client-urls" => {
            words.get(place + 1).map(|urls| (*urls).to_owned())
        }
        _ => None,
    };
    let urls = words.iter().enumerate().find_map(flag)?;
    urls.split(',').next().filter(|url| !url.is_empty()).map(str::to_owned)
}

impl Found {
    /// Gives all machines an etcd, and starts it, if none of them has one. Says so.
    ///
    /// # Errors
    /// A machine on which data lie without a unit: whose they are the lab does not know; or what a machine refuses.
    pub fn give_etcd(&mut self) -> Result<Option<String>, Error> {
        if self.machines.iter().any(|m| m.has_unit) {
            return Ok(None);
        }
        if let Some(m) = self.machines.iter().find(|m| m.has_data) {
            let name = &m.name;
            return Err(Error::Refused(format!(
                "{name} has data in {DATA} and no unit etcd.service: write one, or remove the data (etcd-lab node on {name} rm -r {DATA})"
            )));
        }
        for m in &mut self.machines {
            m.url = format!("http://{}", at(m.ip, 2379));
        }
        for (n, m) in self.machines.iter().enumerate() {
            let failed = |why| Error::Refused(format!("{}: {why}", m.name));
            let mut there = Remote::start(&mut setup::agent_at(&m.name)).map_err(failed)?;
            let line =
                format!("printf %s \"$1\" >{UNIT} && systemctl daemon-reload && systemctl start --no-block etcd");
            let argv = ["sh", "-c", &line, "sh", &self.unit(n)].map(str::to_owned).to_vec();
            match there.ask(&Ask::Run { argv }).map_err(failed)? {
                Answer::Ran { exit: 0, .. } => {}
                other => return Err(failed(format!("cannot start etcd: {other:?}"))),
            }
        }
        let names: Vec<&str> = self.machines.iter().map(|m| m.name.as_str()).collect();
        Ok(Some(format!("none of {} had an etcd: each has one now, as the service etcd ({UNIT})", names.join(", "))))
    }

    /// The unit of the nth of them.
    fn unit(&self, n: usize) -> String {
        let peer = |m: &Seen| format!("http://{}", at(m.ip, 2380));
        let all: Vec<String> = self.machines.iter().zip(1..).map(|(m, n)| format!("n{n}={}", peer(m))).collect();
        let m = &self.machines[n];
        let pairs = [
            ("name", format!("n{}", n + 1)),
            ("data-dir", DATA.to_owned()),
            ("listen-client-urls", format!("{},http://127.0.0.1:2379", m.url)),
            ("advertise-client-urls", m.url.clone()),
            ("listen-peer-urls", peer(m)),
            ("initial-advertise-peer-urls", peer(m)),
            ("initial-cluster", all.join(",")),
            ("initial-cluster-token", "etcd-lab-machines".to_owned()),
        ];
        let mut text = format!(
            "# Written by `etcd-lab --machines`.\n[Unit]\nDescription=etcd n{} of the lab\n\n[Service]\nType=notify\nExecStart=/usr/local/bin/etcd",
            n + 1
        );
        for (flag, value) in pairs {
            // A String takes all that is written to it.
            let _ = write!(text, " \\\n  --{flag} {value}");
        }
        text + "\n\n[Install]\nWantedBy=multi-user.target\n"
    }

    /// What to start here: nothing but the ends of what leads there.
    ///
    /// # Errors
    /// No work folder can be had.
    pub fn plan(&self, folder: Option<&Path>) -> Result<Plan, Error> {
        let mut notices = Vec::new();
        let work = match folder {
            Some(folder) => WorkDir::open(folder)?,
            None => preflight::new_folder(&preflight::bases(), &mut notices)?,
        };
        if work.load()?.is_some_and(|kept| kept.machines.is_empty()) {
            let folder = work.path().display();
            return Err(Error::Refused(format!(
                "{folder} has members of this machine: choose another --folder for --machines"
            )));
        }
        let token = work.token_file();
        fs::write(&token, &self.token).map_err(Error::file("cannot write", &token))?;
        let machines: Vec<String> = self.machines.iter().map(|m| m.name.clone()).collect();
        let named: Vec<String> = machines.iter().zip(1..).map(|(name, n)| format!("n{n} is {name}")).collect();
        notices.push(named.join(", "));
        let members = self.machines.iter().zip(1..).map(|(m, n)| member(m, &work.path().join(format!("n{n}")), n));
        let record = Record { cluster_token: String::new(), members: members.collect(), machines, ..Record::default() };
        Ok(Plan { work, record, notices })
    }
}

fn member(m: &Seen, folder: &Path, n: usize) -> MemberRecord {
    MemberRecord {
        name: format!("n{n}"),
        pid: 0,
        client_url: m.url.clone(),
        peer_url: format!("{}//{}", m.url.split_inclusive(':').next().unwrap_or_default(), at(m.ip, 2380)),
        lab_socket: folder.join("lab.sock"),
        log: folder.join("etcd.log"),
        // Its files are there and not here: nothing is looked for in this folder.
        data_dir: PathBuf::from("/nonexistent"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found() -> Found {
        let seen = |n: u8| Seen {
            name: format!("controller-{n}"),
            ip: [10, 240, 0, 10 + n].into(),
            url: format!("http://10.240.0.{}:2379", 10 + n),
            has_unit: false,
            has_data: false,
        };
        Found { machines: (0..3).map(seen).collect(), token: "secret".into() }
    }

    #[test]
    fn a_process_tells_where_it_serves_clients() {
        let told = |words: &[&str]| told_url(&words.join("\0"));
        assert_eq!(
            told(&["etcd", "--advertise-client-urls", "https://a:2379,https://b:1"]).as_deref(),
            Some("https://a:2379")
        );
        assert_eq!(told(&["etcd", "-advertise-client-urls=http://c:2379"]).as_deref(), Some("http://c:2379"));
        assert_eq!(told(&["etcd", "", "ETCD_ADVERTISE_CLIENT_URLS=http://d:1"]).as_deref(), Some("http://d:1"));
        let unit = found().unit(1);
        let words: Vec<&str> = unit.split_whitespace().collect();
        assert_eq!(told(&words).as_deref(), Some("http://10.240.0.11:2379"), "a unit's words are a command line");
        assert_eq!(told(&["etcd", "--listen-client-urls", "http://e:1"]), None);
        assert_eq!(told(&["etcd", "--advertise-client-urls"]), None);
    }

    #[test]
    fn a_plan_has_the_machines_addresses_and_the_doors_here() {
        let base = tempfile::tempdir().expect("a directory");
        let folder = base.path().join("work");
        let plan = found().plan(Some(&folder)).expect("planned");
        assert_eq!(plan.notices, ["n1 is controller-0, n2 is controller-1, n3 is controller-2"]);
        let urls: Vec<&str> = plan.record.members.iter().map(|m| m.client_url.as_str()).collect();
        assert_eq!(urls, ["http://10.240.0.10:2379", "http://10.240.0.11:2379", "http://10.240.0.12:2379"]);
        assert_eq!(plan.record.members[1].peer_url, "http://10.240.0.11:2380");
        assert!(plan.record.members[2].lab_socket.ends_with("work/n3/lab.sock"));
        assert_eq!(fs::read_to_string(plan.work.token_file()).expect("there"), "secret");
        // A folder with members of this machine is not taken for one of others.
        plan.work.save(&Record::sample(3)).expect("saved");
        drop(plan);
        let refused = found().plan(Some(&folder)).expect_err("other members").to_string();
        assert!(refused.contains("members of this machine"), "{refused}");
    }

    #[test]
    fn a_unit_that_the_lab_gives_is_one_that_systemd_reads() {
        let text = found().unit(1);
        assert!(
            text.contains("--name n2 \\\n") && text.contains("--initial-cluster n1=http://10.240.0.10:2380,n2="),
            "{text}"
        );
        let service = text.split("[Service]\n").nth(1).expect("it has one");
        let logical = service.replace("\\\n", "");
        assert!(logical.lines().take_while(|l| !l.is_empty()).all(|line| line.contains('=')), "{logical}");
    }

    #[test]
    fn words_that_name_no_machines_are_refused() {
        let head = |name| guide::shelved(name).expect("on the shelf").expect("right").head;
        for wanted in ["0", "6", "", "a,,b", "-oProxyCommand=x", "a,b,c,d,e,f"] {
            assert!(matches!(reach(wanted, &head("B3-first-keys")), Err(Error::Usage(_))), "{wanted}");
        }
        // Before any of them is asked: nobody has such a name.
        let refused = reach("a.invalid,b.invalid", &head("B6-is-it-healthy"));
        assert!(matches!(&refused, Err(Error::Refused(why)) if why.contains("without --machines")), "{refused:?}");
    }
}
