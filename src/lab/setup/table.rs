//! The machines of the course: the addresses of its documents, and in which mode each of them is there.

use std::fmt::Write as _;
use std::io;
use std::net::Ipv4Addr;
use std::path::Path;

pub(super) const MODES: [&str; 3] = ["one", "three", "five"];

/// The machine at which learners sit.
pub(super) const FIRST: &str = "controller-0";

/// Name, address, and the least mode with it. `tests/vagrant.rb` holds the Vagrantfile to the same table.
const MACHINES: [(&str, &str, &str); 6] = [
    (FIRST, "10.240.0.10", "one"),
    ("controller-1", "10.240.0.11", "three"),
    ("controller-2", "10.240.0.12", "three"),
    ("spare", "10.240.0.13", "three"),
    ("spare-2", "10.240.0.14", "five"),
    ("api", "10.240.0.20", "three"),
];

const BEGIN: &str = "# etcd-lab node setup: from here\n";
const END: &str = "# etcd-lab node setup: to here\n";

/// The machines of a mode, with their first addresses.
pub(super) fn machines(mode: &str) -> impl Iterator<Item = (&'static str, &'static str)> {
    let rank = |mode: &str| MODES.iter().position(|m| *m == mode).unwrap_or_default();
    let most = rank(mode);
    MACHINES.iter().filter(move |(_, _, least)| rank(least) <= most).map(|(name, ip, _)| (*name, *ip))
}

/// The machines of a mode on which etcd may run: all but the API server's.
pub(super) fn members(mode: &str) -> impl Iterator<Item = &'static str> {
    machines(mode).map(|(name, _)| name).filter(|name| *name != "api")
}

/// Writes all names into this file, between two marks; what else is in it stays.
pub(super) fn hosts(path: &Path, mode: &str) -> io::Result<Option<String>> {
    let there = String::from_utf8(super::content(path)?)
        .map_err(|_| io::Error::other(format!("{}: it has signs that are no UTF-8", path.display())))?;
    let mut block = String::from(BEGIN);
    for (name, ip) in machines(mode) {
        let _ = writeln!(block, "{ip} {name}");
    }
    block += "169.254.169.254 metadata.google.internal releases.lab\n";
    block += "# This machine believes that its own mirror is github.com; no other machine does.\n169.254.169.254 github.com\n";
    block += END;
    let others = match (there.split_once(BEGIN), there.split_once(END)) {
        (Some((before, _)), Some((_, after))) => format!("{before}{after}"),
        _ => there,
    };
    // A box, and Vagrant, give the machine's name an address of loopback: 127.0.1.1, or the next that is free. It is to be its address.
    let is_other = |line: &&str| {
        let mut words = line.split_whitespace();
        let address = words.next().unwrap_or_default();
        let is_loopback = address.parse::<Ipv4Addr>().is_ok_and(|ip| ip.is_loopback() && ip != Ipv4Addr::LOCALHOST);
        !is_loopback || !words.any(|name| MACHINES.iter().any(|(n, ..)| *n == name))
    };
    let kept: String = others.lines().filter(is_other).map(|line| format!("{line}\n")).collect();
    super::written(path, (kept + &block).as_bytes(), 0o644)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn each_mode_has_its_machines() {
        let counts = MODES.map(|mode| machines(mode).count());
        assert_eq!(counts, [1, 5, 6]);
        let members: Vec<&str> = members("five").collect();
        assert_eq!(members, ["controller-0", "controller-1", "controller-2", "spare", "spare-2"]);
    }

    #[test]
    fn the_block_is_replaced_and_the_rest_stays() {
        let folder = tempfile::tempdir().expect("a directory");
        let file = folder.path().join("hosts");
        // Vagrant's line is the second one, if the box has one of its own.
        let there =
            "127.0.0.1 localhost\n127.0.1.1 etcd-lab\n127.0.2.1 controller-0 controller-0\n127.0.1.1 controller-0\n";
        fs::write(&file, there).expect("written");
        for mode in ["five", "one"] {
            assert!(hosts(&file, mode).expect("written").is_some());
            assert!(hosts(&file, mode).expect("read").is_none(), "a second time changes nothing");
        }
        let text = fs::read_to_string(&file).expect("there");
        assert!(
            text.starts_with(&format!("127.0.0.1 localhost\n127.0.1.1 etcd-lab\n{BEGIN}10.240.0.10 controller-0\n169")),
            "{text}"
        );
    }
}
