//! Which process has a socket on this machine, from the kernel's tables: who holds a port, and who is at the other end of a connection.
//!
//! ```text
//! /proc/net/tcp   sl  local  remote  state … inode        /proc/PID/fd/N -> socket:[inode]
//! ```
//!
//! Another user's processes cannot be looked into, and other systems have no such tables: then nobody is named.

use std::collections::BTreeMap;
use std::fs;
use std::net::IpAddr;
use std::net::SocketAddr;
use std::path::PathBuf;

const LISTEN: &str = "0A";
const ESTABLISHED: &str = "01";

/// Who listens on a port: pid and command. Nothing if it belongs to another user, or there is no /proc.
#[must_use]
pub fn holder(port: u16) -> Option<(u32, String)> {
    let suffix = format!(":{port:04X}");
    let inodes = inodes(&tables(), |local, state| (local.ends_with(&suffix) && state == LISTEN).then_some(()));
    processes(&inodes).into_iter().next().map(|(_, found)| found)
}

/// Whose these ends of connections are: pid and command.
#[must_use]
pub fn clients(ends: &[SocketAddr]) -> BTreeMap<SocketAddr, (u32, String)> {
    let wanted: BTreeMap<String, SocketAddr> = ends.iter().map(|end| (hex(*end), *end)).collect();
    let of = |local: &str, state: &str| wanted.get(local).copied().filter(|_| state == ESTABLISHED);
    processes(&inodes(&tables(), of))
}

fn tables() -> String {
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"].map(|table| fs::read_to_string(table).unwrap_or_default());
    tables.concat()
}

/// The sockets of which `of` wants to know, by the link that a process has to each.
fn inodes<T>(tables: &str, of: impl Fn(&str, &str) -> Option<T>) -> BTreeMap<PathBuf, T> {
    let row = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [_, local, _, state, _, _, _, _, _, inode, ..] = fields[..] else { return None };
        Some((format!("socket:[{inode}]").into(), of(local, state)?))
    };
    tables.lines().filter_map(row).collect()
}

fn processes<T: Copy + Ord>(wanted: &BTreeMap<PathBuf, T>) -> BTreeMap<T, (u32, String)> {
    let mut found = BTreeMap::new();
    for process in fs::read_dir("/proc").into_iter().flatten().flatten() {
        if found.len() == wanted.len() {
            break;
        }
        let Some(pid) = process.file_name().to_str().and_then(|pid| pid.parse().ok()) else { continue };
        let files = fs::read_dir(process.path().join("fd")).into_iter().flatten().flatten();
        let sockets: Vec<T> = files.filter_map(|file| wanted.get(&fs::read_link(file.path()).ok()?).copied()).collect();
        if !sockets.is_empty() {
            let command = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
            found.extend(sockets.into_iter().map(|of| (of, (pid, command.trim().to_owned()))));
        }
    }
    found
}

/// An address as the kernel's table has it: words of four bytes, each in this machine's order, and the port.
fn hex(end: SocketAddr) -> String {
    let bytes = match end.ip() {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    let word = |word: &[u8]| format!("{:08X}", word.iter().rev().fold(0_u32, |sum, byte| sum << 8 | u32::from(*byte)));
    let words = bytes.chunks(4).map(|chunk| match cfg!(target_endian = "little") {
        true => word(chunk),
        false => word(&chunk.iter().rev().copied().collect::<Vec<_>>()),
    });
    format!("{}:{:04X}", words.collect::<String>(), end.port())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;
    use std::net::TcpStream;

    #[test]
    fn addresses_are_written_as_the_kernel_does() {
        let hex = |text: &str| hex(text.parse().expect("an address"));
        assert_eq!(hex("127.0.0.1:2379"), "0100007F:094B");
        assert_eq!(hex("[::1]:80"), "00000000000000000000000001000000:0050");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn both_ends_of_a_connection_are_this_process() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let at = listener.local_addr().expect("bound");
        let stream = TcpStream::connect(at).expect("accepted");
        let end = stream.local_addr().expect("connected");
        let found = clients(&[end, "127.0.0.1:1".parse().expect("an address")]);
        assert_eq!(found.keys().collect::<Vec<_>>(), [&end], "nobody is at port 1");
        assert_eq!(found[&end].0, std::process::id());
        assert_eq!(holder(at.port()).map(|(pid, _)| pid), Some(std::process::id()));
    }
}
