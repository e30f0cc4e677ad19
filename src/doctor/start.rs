//! A member that does not come up: its flags and its directory, compared with the members that it wants to be among.
//!
//! The facts are etcd's: what counts at the first start, what is read from the log at every later one, and how ids are computed. Source: etcd
//! `etcdserver/bootstrap.go`, `etcdserver/api/membership`.

use super::Cause;
use super::Finding;
use super::machine;
use super::machine::Process;
use super::machine::flag;
use super::machine::variable;
use super::unit;
use crate::disk::RealDisk;
use crate::membership::Founders;
use crate::membership::Member;
use crate::membership::Members;
use crate::membership::parse_initial_cluster;
use crate::membership::parse_urls;
use crate::peer::fetch_members;
use crate::tls;
use crate::types::ClusterId;
use crate::wal;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// How long another member may take to say who the members are.
const PATIENCE: Duration = Duration::from_secs(2);

/// What a member is told at its start.
struct Plan {
    name: String,
    data_dir: PathBuf,
    wal_dir: PathBuf,
    founders: Founders,
    token: String,
    state: String,
    advertised: Vec<String>,
    listens: Vec<String>,
    tls: Option<Arc<rustls::ClientConfig>>,
    /// Whether `systemctl start` waits until it is ready.
    notifies: bool,
}

impl Plan {
    fn read(words: &[String], env: &BTreeMap<String, String>, folder: &Path) -> Result<Plan, String> {
        let text = |name: &str, default: &str| {
            let given = flag(words, name).or_else(|| env.get(&variable(name)).cloned());
            given.unwrap_or_else(|| default.to_owned())
        };
        let name = text("name", "default");
        let advertised = text("initial-advertise-peer-urls", "http://localhost:2380");
        let founders = text("initial-cluster", &format!("{name}={}", advertised.replace(',', &format!(",{name}="))));
        let data_dir = folder.join(text("data-dir", &format!("{name}.etcd")));
        let wal_dir = text("wal-dir", "");
        let wal_dir = if wal_dir.is_empty() { data_dir.join("member/wal") } else { folder.join(wal_dir) };
        let listens =
            [text("listen-client-urls", "http://localhost:2379"), text("listen-peer-urls", "http://localhost:2380")];
        let file = |name: &str| Some(text(name, "")).filter(|path| !path.is_empty()).map(|path| folder.join(path));
        let (ca, cert, key) = (file("peer-trusted-ca-file"), file("peer-cert-file"), file("peer-key-file"));
        let secure = ca.is_some() || cert.is_some();
        let files =
            tls::ClientFiles { insecure_skip_verify: secure && ca.is_none(), ca, cert, key, ..Default::default() };
        Ok(Plan {
            data_dir,
            wal_dir,
            founders: parse_initial_cluster(&founders)?,
            token: text("initial-cluster-token", "etcd-cluster"),
            state: text("initial-cluster-state", "new"),
            advertised: parse_urls(&advertised)?,
            listens: listens.iter().flat_map(|urls| urls.split(',').map(str::to_owned)).collect(),
            tls: if secure { Some(tls::client_config(&files).map_err(|e| e.to_string())?) } else { None },
            notifies: false,
            name,
        })
    }

    fn has_log(&self) -> bool {
        wal::exists(&RealDisk, &self.wal_dir)
    }

    /// The process that is this member, if it runs.
    fn running(&self) -> Option<Process> {
        let real = |path: &Path| fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        machine::members().into_iter().find(|process| real(&process.data_dir()) == real(&self.data_dir))
    }

    /// Ports that others hold.
    fn taken(&self) -> Vec<Finding> {
        let port = |url: &String| url.rsplit(':').next()?.trim_end_matches('/').parse::<u16>().ok();
        let holders = self.listens.iter().filter_map(|url| Some((url, machine::holder(port(url)?)?)));
        let finding = |(url, holder): (&String, Process)| {
            let says = format!("{url} is taken: {holder} listens there");
            Finding::new(Cause::PortTaken, says, holder.words.join(" "))
        };
        holders.map(finding).collect()
    }
}

/// Looks for what keeps a member from coming up, or makes it wait. `words` are how it is started: `etcd --name …`, or `systemctl start UNIT` with
/// the name or the path of a unit. `env` is the environment, `folder` the one in which it is started.
///
/// # Errors
/// A sentence, if the words say nothing about a start.
pub async fn starting(words: &[String], env: &BTreeMap<String, String>, folder: &Path) -> Result<Vec<Finding>, String> {
    let plan = match words {
        [systemctl, verb, rest @ ..] if systemctl.ends_with("systemctl") && verb.ends_with("start") => {
            let name = rest.iter().find(|word| !word.starts_with('-')).map_or("etcd", String::as_str);
            let unit = unit::load(name)?;
            Plan { notifies: unit.notifies, ..Plan::read(&unit.words, &unit.env, &unit.folder)? }
        }
        _ => Plan::read(words, env, folder)?,
    };
    let running = plan.running();
    if running.is_none() {
        let taken = plan.taken();
        if !taken.is_empty() {
            return Ok(taken);
        }
    }
    if let Some(finding) = by_itself(&plan) {
        return Ok(vec![finding]);
    }
    Ok(vec![among_others(&plan, running.as_ref()).await])
}

/// What is wrong without looking at the others.
fn by_itself(plan: &Plan) -> Option<Finding> {
    if plan.has_log() {
        return None;
    }
    let Some(urls) = plan.founders.get(&plan.name) else {
        let names: Vec<&str> = plan.founders.keys().map(String::as_str).collect();
        let says = match plan.name.as_str() {
            "" => "the member has no name: --name (ETCD_NAME) is empty".to_owned(),
            name => format!("the member is called {name}, and --initial-cluster knows nobody of that name"),
        };
        return Some(Finding::new(
            Cause::NameNotInCluster,
            says,
            format!("--initial-cluster names {}", names.join(", ")),
        ));
    };
    (plan.state == "new" && *urls != plan.advertised).then(|| {
        let says = format!("{} advertises another peer URL than --initial-cluster has for it", plan.name);
        let evidence = format!("{} against {}", plan.advertised.join(","), urls.join(","));
        Finding::new(Cause::PeerUrlDiffers, says, evidence)
    })
}

async fn among_others(plan: &Plan, running: Option<&Process>) -> Finding {
    let (mut up, mut down, mut known) = (1, Vec::new(), None);
    for (name, urls) in plan.founders.iter().filter(|(name, _)| **name != plan.name) {
        match fetch_members(urls, plan.tls.clone(), PATIENCE).await {
            Ok(answer) => {
                up += 1;
                known.get_or_insert(answer);
            }
            Err(why) => down.push(format!("{name} ({why})")),
        }
    }
    let unfit = match &known {
        Some((cluster, members)) if plan.has_log() => by_log(plan, *cluster, members),
        Some((cluster, members)) => by_flags(plan, *cluster, members),
        None if plan.state == "existing" && !plan.has_log() => {
            let says = "the member is to join a cluster, and none of that cluster's members answers";
            Some(Finding::new(Cause::NobodyToJoin, says, down.join("; ")))
        }
        None => None,
    };
    if let Some(finding) = unfit {
        return finding;
    }
    let all =
        known.map_or(plan.founders.len(), |(_, members)| members.iter().filter(|member| !member.is_learner).count());
    let quorum = all / 2 + 1;
    if up < quorum {
        let (is, who) =
            if running.is_some() { ("is", "this one runs and waits") } else { ("would be", "it would wait") };
        let until = if plan.notifies { "; the unit is Type=notify, so systemctl start ends only then" } else { "" };
        let says =
            format!("{up} of {all} members {is} up, and a majority is {quorum}: {who}, start the next one{until}");
        return Finding::new(Cause::WaitingForQuorum, says, down.join("; "));
    }
    Finding::new(
        Cause::AllWell,
        format!("nothing is wrong with the start of {}: {up} of {all} members are up", plan.name),
        "",
    )
}

/// A member with a log: it is who the log says that it is, whatever the flags say.
fn by_log(plan: &Plan, cluster: ClusterId, members: &[Member]) -> Option<Finding> {
    let own = wal::read(&RealDisk, &plan.wal_dir, None).ok()?.metadata;
    let dir = plan.data_dir.display();
    if own.cluster != cluster {
        let says = format!("{dir} holds a member of another cluster");
        return Some(Finding::new(
            Cause::ForeignDirectory,
            says,
            format!("its cluster is {}, the others' is {cluster}", own.cluster),
        ));
    }
    members.iter().all(|member| member.id != own.member).then(|| {
        let says = format!("{dir} holds member {}, which was removed from the cluster", own.member);
        Finding::new(Cause::RemovedMember, says, format!("the members are {}", listed(members)))
    })
}

/// A member without a log: its flags must fit the members that are there.
fn by_flags(plan: &Plan, cluster: ClusterId, members: &[Member]) -> Option<Finding> {
    let place = members.iter().find(|member| sorted(&member.peer_urls) == sorted(&plan.advertised));
    let urls = plan.advertised.join(",");
    if plan.state == "new" {
        let founded = Members::bootstrap(&plan.founders, &plan.token).ok()?;
        let own = founded.by_name(&plan.name)?.id;
        if founded.cluster() == cluster && members.iter().any(|member| member.id == own) {
            return None;
        }
        if let Some(place) = place.filter(|place| !place.is_started()) {
            let says = format!(
                "the cluster exists and has a place for {urls}, and --initial-cluster-state is new: so the member computes another id"
            );
            let evidence = format!("member add gave it the id {}; as a founder it would be {own}", place.id);
            return Some(Finding::new(Cause::StateNew, says, evidence));
        }
        if founded.cluster() == cluster {
            let says = format!("member {own} was removed from this cluster, and cannot come back as its founder");
            return Some(Finding::new(Cause::RemovedMember, says, format!("the members are {}", listed(members))));
        }
        let says = format!(
            "the members that are up founded another cluster than this one would: the token ({}) or --initial-cluster differ",
            plan.token
        );
        return Some(Finding::new(
            Cause::OtherCluster,
            says,
            format!("theirs is {cluster}, this one's would be {}", founded.cluster()),
        ));
    }
    if place.is_none() {
        let says = format!("the cluster has no member with the peer URL {urls}");
        return Some(Finding::new(Cause::PeerUrlDiffers, says, format!("the members are {}", listed(members))));
    }
    (plan.founders.len() != members.len()).then(|| {
        let says =
            format!("--initial-cluster names {} members, and the cluster has {}", plan.founders.len(), members.len());
        Finding::new(Cause::CountDiffers, says, format!("the members are {}", listed(members)))
    })
}

fn sorted(urls: &[String]) -> Vec<&str> {
    let mut urls: Vec<&str> = urls.iter().map(String::as_str).collect();
    urls.sort_unstable();
    urls
}

fn listed(members: &[Member]) -> String {
    let shown = members.iter().map(|member| {
        let name = if member.is_started() { member.name.as_str() } else { "[unstarted]" };
        format!("{} {name} {}", member.id, member.peer_urls.join(","))
    });
    shown.collect::<Vec<_>>().join("; ")
}

/// Where the data of a restore went, against where members of this machine have theirs. `words` are those of `etcdctl` or `etcdutl snapshot restore`.
///
/// # Errors
/// A sentence, if there is nothing that was restored.
pub fn restored(words: &[String], folder: &Path) -> Result<Finding, String> {
    let name = flag(words, "name").unwrap_or_else(|| "default".to_owned());
    let dir =
        folder.join(flag(words, "data-dir").filter(|dir| !dir.is_empty()).unwrap_or_else(|| format!("{name}.etcd")));
    if !dir.join("member").is_dir() {
        return Err(format!("nothing was restored to {}", dir.display()));
    }
    let real = |path: &Path| fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let members = machine::members();
    if let Some(user) = members.iter().find(|process| real(&process.data_dir()) == real(&dir)) {
        return Ok(Finding::new(Cause::AllWell, format!("{user} uses what was restored"), ""));
    }
    let says = match members.as_slice() {
        [] => format!("the data went to {}, and no member on this machine uses it", dir.display()),
        members => {
            let others: Vec<String> = members.iter().map(Process::to_string).collect();
            format!("the data went to {}, and no member uses it: {}", dir.display(), others.join("; "))
        }
    };
    let flags =
        if flag(words, "data-dir").is_none() { "no --data-dir was given" } else { "that is what --data-dir says" };
    let asked = if flag(words, "endpoints").is_some() { "; a restore asks no endpoint" } else { "" };
    Ok(Finding::new(Cause::RestoredElsewhere, says, format!("{flags}{asked}")))
}
