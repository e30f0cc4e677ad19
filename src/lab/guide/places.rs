//! Where a lab's nodes are on this machine, and how the page's addresses become those.
//!
//! A lab is written with the addresses of the documents and etcd's standard ports. A **profile** says where they are here:
//!
//! | profile | a node is at | needs |
//! |---|---|---|
//! | `netns` | the documents' own address, ports 2379 and 2380 | a user and network namespace of the lab's own |
//! | `loop` | 127.0.x.y, ports 2379 and 2380 | Linux, where all of 127.0.0.0/8 is this machine |
//! | `ports` | 127.0.0.1, a port of its own | nothing |
//!
//! Outside of `netns` the page is rewritten before it is read: text, commands, outputs and checks at once, so that no part of
//! it can speak of an address that is not there.
//!
//! For a learner the profile is chosen by itself ([`here`]): the closest to the document that the lab allows and this system gives. A lab that
//! is named on the command line is started in a namespace of its own; one that is opened from a running screen cannot enter one. Where the
//! page's addresses are not there, the page says why, and where they would be.

use crate::lab::guide::settings::Cluster;
use crate::lab::guide::settings::Head;
use std::ffi::OsStr;
use std::net::Ipv4Addr;
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;
use std::process::Stdio;
use std::sync::atomic::AtomicU16;
use std::sync::atomic::Ordering;

/// The variable that says that this process is in the lab's own namespace.
const INSIDE_VAR: &str = "LAB_NETNS";

/// Its value where each node has a network of its own.
const MACHINES: &str = "machines";

/// Where a cloud answers its machines' questions about themselves, and where the lab does.
pub(crate) const CLOUD: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 254);

/// Ports of the `ports` profile: below those that a system gives to outgoing connections, for a member that was stopped wants
/// its port back; and beside those that the cluster tests take.
const PORTS: std::ops::Range<u16> = 20_000..28_000;

/// So many ports are one cluster's. The first is only listened at: by that the others are taken, also while a member is down.
const PORTS_EACH: u16 = 32;

/// The port that takes a network of the `loop` profile in the same way: the one beside etcd's two.
const LOOP_CLAIM: u16 = 2381;

/// See the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Profile {
    /// 127.0.0.1, each node a port of its own.
    Ports,
    /// 127.0.x.y, standard ports.
    Loop,
    /// The documents' addresses, in a namespace.
    Netns,
}

impl Profile {
    /// All, the closest to the documents first.
    pub const ALL: [Profile; 3] = [Profile::Netns, Profile::Loop, Profile::Ports];

    /// Its word.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Profile::Ports => "ports",
            Profile::Loop => "loop",
            Profile::Netns => "netns",
        }
    }

    /// The profile of this word.
    #[must_use]
    pub fn named(word: &str) -> Option<Profile> {
        Profile::ALL.into_iter().find(|p| p.word() == word)
    }
}

/// One node's addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) name: String,
    /// Such as `127.0.0.1:20002`.
    pub(crate) client: String,
    pub(crate) peer: String,
    /// The address on the page.
    pub(crate) ip: Option<String>,
}

/// What keeps a cluster's places its own as long as it lives: nobody else, in whatever process, can claim them. The system gives
/// them back when the process ends, however it ends.
#[derive(Debug)]
pub(crate) struct Claim {
    _listener: Option<TcpListener>,
}

/// The places of all nodes of a cluster, members first, then spares.
///
/// # Errors
/// No free port, or an address that is not this machine's.
pub(crate) fn places(cluster: &Cluster, profile: Profile) -> Result<(Vec<Place>, Claim), String> {
    let nodes: Vec<_> = cluster.nodes.iter().chain(&cluster.spare).collect();
    let standard = |ip: String, name: &str, page: Option<&String>| Place {
        name: name.to_owned(),
        client: format!("{ip}:2379"),
        peer: format!("{ip}:2380"),
        ip: page.cloned(),
    };
    if profile == Profile::Loop {
        let (net, claim) = free_net(nodes.len())?;
        let at = |n: usize| format!("127.0.{net}.{}", n + 10);
        let all = nodes.iter().enumerate().map(|(n, node)| standard(at(n), &node.name, node.ip.as_ref())).collect();
        return Ok((all, claim));
    }
    let (mut ports, claim) = free_ports(2 * nodes.len() as u16)?;
    let mut found = Vec::new();
    for node in nodes {
        let mut port = || ports.next().map(|p| format!("127.0.0.1:{p}")).unwrap_or_default();
        match &node.ip {
            Some(ip) if profile == Profile::Netns => found.push(standard(ip.clone(), &node.name, Some(ip))),
            ip => found.push(Place { name: node.name.clone(), client: port(), peer: port(), ip: ip.clone() }),
        }
    }
    Ok((found, claim))
}

/// What must be replaced in a page, and by what; the longest first, so that none hides another.
pub(crate) fn swaps(places: &[Place]) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for place in places {
        let Some(ip) = &place.ip else { continue };
        let host = place.client.rsplit_once(':').map_or("", |(host, _)| host);
        found.push((format!("{ip}:2379"), place.client.clone()));
        found.push((format!("{ip}:2380"), place.peer.clone()));
        found.push((ip.clone(), host.to_owned()));
    }
    found.retain(|(from, to)| from != to);
    found.sort_by_key(|(from, _)| std::cmp::Reverse(from.len()));
    found
}

/// A text with these addresses replaced; `10.0.0.1` within `10.0.0.10` is another address.
pub(crate) fn swapped(text: &str, swaps: &[(String, String)]) -> String {
    let part = |c: char| c.is_ascii_digit();
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    'text: while !rest.is_empty() {
        if !out.ends_with(|c: char| part(c) || c == '.') {
            for (from, to) in swaps {
                if let Some(after) = rest.strip_prefix(from.as_str()).filter(|a| !a.starts_with(part)) {
                    out += to;
                    rest = after;
                    continue 'text;
                }
            }
        }
        let first = rest.chars().next().map_or(1, char::len_utf8);
        out += &rest[..first];
        rest = &rest[first..];
    }
    out
}

/// So many ports in a row at which nobody listens, and nobody else of us will.
fn free_ports(count: u16) -> Result<(std::ops::Range<u16>, Claim), String> {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let blocks = (PORTS.end - PORTS.start) / PORTS_EACH;
    // Processes begin at different places, so that two labs beside each other rarely try the same.
    let begin = (std::process::id() % u32::from(blocks)) as u16;
    let bound = |port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).ok();
    for _ in 0..blocks {
        let block = (begin + NEXT.fetch_add(1, Ordering::Relaxed) % blocks) % blocks;
        let first = PORTS.start + block * PORTS_EACH;
        let Some(claim) = bound(first) else { continue };
        let ports = first + 1..first + 1 + count;
        if count < PORTS_EACH && ports.clone().all(|port| bound(port).is_some()) {
            return Ok((ports, Claim { _listener: Some(claim) }));
        }
    }
    Err(format!("no {count} ports of 127.0.0.1 from {} to {} are free", PORTS.start, PORTS.end - 1))
}

/// The third part of 127.0.x.0 in which nobody listens at the standard ports.
fn free_net(nodes: usize) -> Result<(u8, Claim), String> {
    let bound = |net, last, port| TcpListener::bind((Ipv4Addr::new(127, 0, net, last), port)).ok();
    for net in 10..250 {
        let Some(claim) = bound(net, 1, LOOP_CLAIM) else { continue };
        let mut all = (0..nodes as u8).flat_map(|n| [(n, 2379), (n, 2380)]);
        if all.all(|(n, port)| bound(net, 10 + n, port).is_some()) {
            return Ok((net, Claim { _listener: Some(claim) }));
        }
    }
    Err("no addresses 127.0.x.10 with free ports 2379 and 2380: the profile `loop` needs Linux. Use --profile ports."
        .into())
}

/// Whether this process is in the lab's own namespace.
pub(crate) fn inside() -> bool {
    std::env::var_os(INSIDE_VAR).is_some()
}

/// Whether the nodes have networks of their own around this process.
pub(crate) fn has_machines() -> bool {
    std::env::var_os(INSIDE_VAR).is_some_and(|word| word == MACHINES)
}

/// Whether this lab may run with this profile.
pub(crate) fn allows(head: &Head, profile: Profile) -> bool {
    head.network.is_empty() || head.network.iter().any(|word| word == profile.word())
}

/// The addresses that stand on the page.
fn addresses(cluster: &Cluster) -> Vec<Ipv4Addr> {
    cluster.nodes.iter().chain(&cluster.spare).filter_map(|n| n.ip.as_ref()?.parse().ok()).collect()
}

/// Whether a learner's lab gains by a namespace: its page has addresses, and may have them there.
pub(crate) fn wants_namespace(head: &Head) -> bool {
    head.cluster.machines || (allows(head, Profile::Netns) && !addresses(&head.cluster).is_empty())
}

/// The profile for a learner's lab that is opened in this process. If its nodes are not at the page's addresses: why, and where they would
/// be. `beside`: another lab is open, and may have the same addresses.
pub(crate) fn here(head: &Head, beside: bool) -> (Profile, Option<String>) {
    let ips = addresses(&head.cluster);
    if head.cluster.machines {
        return (Profile::Netns, None);
    }
    if ips.is_empty() {
        return (Profile::Ports, None);
    }
    let ports: &[u16] = if beside { &[2379, 2380] } else { &[0] };
    let is_ours = |ip: &Ipv4Addr| ports.iter().all(|port| TcpListener::bind((*ip, *port)).is_ok());
    if allows(head, Profile::Netns) && inside() && ips.iter().all(is_ours) {
        return (Profile::Netns, None);
    }
    let has_loop = TcpListener::bind((Ipv4Addr::new(127, 0, 10, 10), 0)).is_ok();
    let profile = if has_loop && allows(head, Profile::Loop) { Profile::Loop } else { Profile::Ports };
    let refused = if inside() { None } else { no_namespace() };
    (profile, Some(told(head, profile, refused)))
}

/// What the page says of its addresses where they are others.
fn told(head: &Head, profile: Profile, refused: Option<String>) -> String {
    let at = if profile == Profile::Loop { "127.0.x.y" } else { "127.0.0.1 and ports of their own" };
    let (why, way) = match refused {
        Some(why) => (
            format!("This system gives the lab no network of its own ({why})."),
            "The VM of the Vagrantfile has the document's own.".to_owned(),
        ),
        None => (
            "This lab was opened from a running screen, and stays in its network.".to_owned(),
            format!("To have the document's own: leave (q), then `etcd-lab {}`.", head.id),
        ),
    };
    format!("{why} So the nodes are at {at}; below a command that differs, ~ shows the document's line. {way}")
}

/// Why this machine has no namespaces for a lab; nothing if it has.
fn no_namespace() -> Option<String> {
    let tried = Command::new("unshare").args(["-Urnm", "ip", "link", "set", "lo", "up"]).stdin(Stdio::null()).output();
    match tried {
        Ok(done) if done.status.success() => None,
        Ok(done) => Some(String::from_utf8_lossy(&done.stderr).trim().to_owned()),
        Err(e) => Some(format!("unshare: {e}")),
    }
}

/// The same in the words of a report. A lab whose nodes are machines has no other profile.
pub(crate) fn refused(machines: bool) -> Option<String> {
    let why = no_namespace()?;
    if machines {
        return Some(format!(
            "this system gives the lab no networks of its own ({why}), and the nodes of this lab are machines: each has a network and \
             folders such as /etc of its own. The VMs of the Vagrantfile are such machines; the other labs need none."
        ));
    }
    Some(format!(
        "this system gives the lab no network of its own ({why}). So the documents' addresses are not there; --profile loop \
         has their ports, --profile ports runs everywhere, and the VM of the Vagrantfile has both. Lines that differ are marked `~`."
    ))
}

/// This program again with these arguments, in a namespace in which these addresses are its own, or its machines'.
pub(crate) fn enter(program: &Path, args: &[impl AsRef<OsStr>], cluster: &Cluster) -> Command {
    let mut script = String::from("ip link set lo up");
    let nodes = cluster.nodes.iter().chain(&cluster.spare).filter_map(|n| Some((&n.name, n.ip.as_ref()?)));
    if cluster.machines {
        script += &machines(nodes);
    } else {
        for (_, ip) in nodes {
            // An address is digits and dots, or the lab would not have been read.
            script += &format!(" && ip addr add {ip}/32 dev lo");
        }
    }
    script += " && exec \"$@\"";
    let mut command = Command::new("unshare");
    let inside = if cluster.machines { MACHINES } else { "addresses" };
    command.args(["-Urnm", "/bin/sh", "-c", &script, "sh"]).arg(program).args(args).env(INSIDE_VAR, inside);
    command
}

/// A network for each node, all on one bridge, with the desk on it at [`CLOUD`].
fn machines<'a>(nodes: impl Iterator<Item = (&'a String, &'a String)>) -> String {
    let mut script = format!(
        " && mount -t tmpfs lab /run && ip link add lab0 type bridge && ip addr add {CLOUD}/32 dev lab0 && ip link set lab0 up"
    );
    for (n, (name, ip)) in nodes.enumerate() {
        // A name is letters, digits, - and _.
        script += &format!(
            " && ip netns add {name} && ip link add port{n} type veth peer name eth0 netns {name} \
             && ip link set port{n} master lab0 up && ip route add {ip}/32 dev lab0 \
             && ip -n {name} link set lo up && ip -n {name} link set eth0 up && ip -n {name} addr add {ip}/32 dev eth0 \
             && ip -n {name} route add default dev eth0"
        );
    }
    script
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::guide::settings::Node;

    #[test]
    fn addresses_are_replaced_whole() {
        let place = |ip: &str, port: u16| Place {
            name: "n".into(),
            client: format!("127.0.0.1:{port}"),
            peer: format!("127.0.0.1:{}", port + 1),
            ip: Some(ip.into()),
        };
        let swaps = swaps(&[place("10.0.0.1", 20_001), place("10.0.0.10", 20_003)]);
        let page = "a=http://10.0.0.1:2380,b=http://10.0.0.10:2380 10.0.0.1:23790 10.0.0.1, 110.0.0.1 10.0.0.12 é";
        let here = "a=http://127.0.0.1:20002,b=http://127.0.0.1:20004 127.0.0.1:23790 127.0.0.1, 110.0.0.1 10.0.0.12 é";
        assert_eq!(swapped(page, &swaps), here);
    }

    #[test]
    fn a_page_says_why_its_addresses_are_others_and_what_the_other_way_is() {
        let head = |network: &str, cluster: &str| -> Head {
            let text = format!("id = \"X1\"\nnetwork = [{network}]\n[cluster]\n{cluster}");
            crate::lab::guide::settings::read(&text).expect("it is right")
        };
        // An address that is on no machine.
        let nodes = "nodes = [ { name = \"n1\", ip = \"192.0.2.1\" } ]";
        let far = head("\"netns\", \"ports\"", nodes);
        assert!(wants_namespace(&far) && !wants_namespace(&head("\"ports\"", nodes)));
        let (profile, why) = here(&far, false);
        assert_eq!((profile, why.is_some()), (Profile::Ports, true));
        assert_eq!(here(&head("\"ports\"", "nodes = 3"), false), (Profile::Ports, None), "its page has no addresses");
        let refused = told(&far, Profile::Ports, Some("unshare: Operation not permitted".into()));
        let within = told(&far, Profile::Loop, None);
        assert!(refused.contains("(unshare: Operation not permitted)") && refused.contains("VM"), "{refused}");
        assert!(within.contains("127.0.x.y") && within.contains("leave (q), then `etcd-lab X1`"), "{within}");
    }

    #[test]
    fn ports_are_all_different_and_addresses_of_loop_have_the_standard_ones() {
        let node = |n: u8| Node { name: format!("n{n}"), ip: Some(format!("10.0.0.{n}")) };
        let cluster = Cluster { nodes: vec![node(1), node(2)], spare: vec![node(3)], ..Cluster::default() };
        let (here, claim) = places(&cluster, Profile::Ports).expect("there are ports");
        let (others, _claim) = places(&cluster, Profile::Ports).expect("there are more");
        assert!(
            here.iter().all(|p| !others.contains(p)),
            "what is claimed is nobody else's, though nobody listens there yet"
        );
        drop(claim);
        let mut all: Vec<&String> = here.iter().flat_map(|p| [&p.client, &p.peer]).collect();
        all.sort();
        all.dedup();
        assert_eq!(all.len(), 6);
        let (there, _claim) = places(&cluster, Profile::Netns).expect("they are only written down");
        assert_eq!((there[2].client.as_str(), there[2].peer.as_str()), ("10.0.0.3:2379", "10.0.0.3:2380"));
        assert!(swaps(&there).is_empty(), "the page is true as it stands");
    }
}
