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

use crate::lab::guide::settings::Cluster;
use std::net::Ipv4Addr;
use std::net::TcpListener;
use std::process::Command;
use std::process::Stdio;
use std::sync::atomic::AtomicU16;
use std::sync::atomic::Ordering;

/// The variable that says that this process is in the lab's own namespace.
const INSIDE_VAR: &str = "LAB_NETNS";

/// Ports of the `ports` profile: below those that a system gives to outgoing connections, for a member that was stopped wants
/// its port back.
const PORTS: std::ops::Range<u16> = 20_000..32_000;

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

/// The places of all nodes of a cluster, members first, then spares.
///
/// # Errors
/// No free port, or an address that is not this machine's.
pub(crate) fn places(cluster: &Cluster, profile: Profile) -> Result<Vec<Place>, String> {
    let nodes: Vec<_> = cluster.nodes.iter().chain(&cluster.spare).collect();
    let standard = |ip: String, name: &str, page: Option<&String>| Place {
        name: name.to_owned(),
        client: format!("{ip}:2379"),
        peer: format!("{ip}:2380"),
        ip: page.cloned(),
    };
    if profile == Profile::Loop {
        let net = free_net(nodes.len())?;
        let at = |n: usize| format!("127.0.{net}.{}", n + 10);
        return Ok(nodes.iter().enumerate().map(|(n, node)| standard(at(n), &node.name, node.ip.as_ref())).collect());
    }
    let mut found = Vec::new();
    for node in nodes {
        match &node.ip {
            Some(ip) if profile == Profile::Netns => found.push(standard(ip.clone(), &node.name, Some(ip))),
            ip => found.push(Place {
                name: node.name.clone(),
                client: format!("127.0.0.1:{}", free_port()?),
                peer: format!("127.0.0.1:{}", free_port()?),
                ip: ip.clone(),
            }),
        }
    }
    Ok(found)
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

fn free_port() -> Result<u16, String> {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let span = PORTS.end - PORTS.start;
    // Processes begin at different places, so that two labs beside each other rarely try the same.
    let begin = (std::process::id() % u32::from(span / 64)) as u16 * 64;
    for _ in 0..span {
        let port = PORTS.start + (begin + NEXT.fetch_add(1, Ordering::Relaxed)) % span;
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return Ok(port);
        }
    }
    Err(format!("no port of 127.0.0.1 from {} to {} is free", PORTS.start, PORTS.end - 1))
}

/// The third part of 127.0.x.0 in which nobody listens at the standard ports.
fn free_net(nodes: usize) -> Result<u8, String> {
    let free = |net: u8| {
        let mut all = (0..nodes).flat_map(|n| [(n, 2379), (n, 2380)]);
        all.all(|(n, port)| TcpListener::bind((Ipv4Addr::new(127, 0, net, 10 + n as u8), port)).is_ok())
    };
    (10..250).find(|net| free(*net)).ok_or_else(|| {
        "no addresses 127.0.x.10 with free ports 2379 and 2380: the profile `loop` needs Linux. Use --profile ports.".into()
    })
}

/// Whether this process is in the lab's own namespace.
pub(crate) fn inside() -> bool {
    std::env::var_os(INSIDE_VAR).is_some()
}

/// Why this machine has no namespaces for a lab; nothing if it has.
pub(crate) fn refused() -> Option<String> {
    let tried = Command::new("unshare").args(["-Urn", "ip", "link", "set", "lo", "up"]).stdin(Stdio::null()).output();
    let why = match tried {
        Ok(done) if done.status.success() => return None,
        Ok(done) => String::from_utf8_lossy(&done.stderr).trim().to_owned(),
        Err(e) => format!("unshare: {e}"),
    };
    Some(format!(
        "this system gives the lab no network of its own ({why}). So the documents' addresses are not there; --profile loop \
         has their ports, --profile ports runs everywhere, and the VM of the Vagrantfile has both. Lines that differ are marked `~`."
    ))
}

/// This program again with these arguments, in a namespace in which these addresses are its own.
pub(crate) fn enter(program: &std::path::Path, args: &[String], cluster: &Cluster) -> Command {
    let ips: Vec<&String> = cluster.nodes.iter().chain(&cluster.spare).filter_map(|n| n.ip.as_ref()).collect();
    let mut script = String::from("ip link set lo up");
    for ip in ips {
        // An address is digits and dots, or the lab would not have been read.
        script += &format!(" && ip addr add {ip}/32 dev lo");
    }
    script += " && exec \"$@\"";
    let mut command = Command::new("unshare");
    command.args(["-Urn", "/bin/sh", "-c", &script, "sh"]).arg(program).args(args).env(INSIDE_VAR, "1");
    command
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
    fn ports_are_all_different_and_addresses_of_loop_have_the_standard_ones() {
        let node = |n: u8| Node { name: format!("n{n}"), ip: Some(format!("10.0.0.{n}")) };
        let cluster = Cluster { nodes: vec![node(1), node(2)], spare: vec![node(3)], ..Cluster::default() };
        let here = places(&cluster, Profile::Ports).expect("there are ports");
        let mut all: Vec<&String> = here.iter().flat_map(|p| [&p.client, &p.peer]).collect();
        all.sort();
        all.dedup();
        assert_eq!(all.len(), 6);
        let there = places(&cluster, Profile::Netns).expect("they are only written down");
        assert_eq!((there[2].client.as_str(), there[2].peer.as_str()), ("10.0.0.3:2379", "10.0.0.3:2380"));
        assert!(swaps(&there).is_empty(), "the page is true as it stands");
    }
}
