//! `--discovery-srv`: the first members from DNS.
//!
//! ```text
//! _etcd-server-ssl._tcp.example.com  SRV 0 0 2380 m1.example.com.   ──▶  https://m1.example.com:2380
//! _etcd-server._tcp.example.com      SRV 0 0 2380 m1.example.com.   ──▶  http://m1.example.com:2380
//! ```
//!
//! This member is the one whose record leads to an address that it advertises; the others are called 0, 1, 2, since DNS knows no names of members and ids are made of URLs.
//! Rust's library resolves no SRV records, so the question is asked here: one datagram to the servers in `/etc/resolv.conf`, over TCP if the answer is cut.
//! Left out: search domains. Source: etcd `client/pkg/srv/srv.go`, `server/embed/config.go`; RFC 1035, RFC 2782.

use rand::Rng as _;
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use std::collections::BTreeSet;
use std::io;
use std::io::Read as _;
use std::io::Write as _;
use std::net::SocketAddr;
use std::net::TcpStream;
use std::net::ToSocketAddrs as _;
use std::net::UdpSocket;
use std::time::Duration;

/// How long one server may take.
const TIMEOUT: Duration = Duration::from_secs(3);

const SRV: u16 = 33;
const INTERNET: u16 = 1;
/// A name may point to another so often: an answer that points in circles ends.
const JUMPS_MAX: usize = 32;

/// Where a service is.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Target {
    host: String,
    port: u16,
}

/// Looks names up; tests have a DNS of their own.
pub(super) struct Dns {
    servers: Vec<SocketAddr>,
    resolve: fn(&str, u16) -> BTreeSet<SocketAddr>,
}

impl Dns {
    /// This machine's.
    pub(super) fn system() -> Dns {
        let text = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
        let servers = text.lines().filter_map(|line| line.trim().strip_prefix("nameserver")?.trim().parse().ok());
        Dns { servers: servers.map(|ip: std::net::IpAddr| SocketAddr::new(ip, 53)).collect(), resolve }
    }

    /// `--initial-cluster` as DNS has it. `suffix` is `--discovery-srv-name`; `own` are the URLs that this member advertises.
    ///
    /// # Errors
    /// A sentence for the user, in etcd's words where it has some.
    pub(super) fn cluster(
        &self,
        domain: &str,
        suffix: &str,
        name: &str,
        own: &[super::urls::Url],
    ) -> Result<String, String> {
        let dash = if suffix.is_empty() { String::new() } else { format!("-{suffix}") };
        let own_at: BTreeSet<SocketAddr> = own.iter().flat_map(|url| self.at(url.host(), url.port())).collect();
        let (mut members, mut problems, mut others, mut is_there) = (Vec::new(), Vec::new(), 0, false);
        for (service, scheme) in [("etcd-server-ssl", "https"), ("etcd-server", "http")] {
            let question = format!("_{service}{dash}._tcp.{domain}");
            let targets = match self.ask(&question) {
                Ok(targets) => targets,
                Err(e) => {
                    problems.push(format!("error querying DNS SRV records for {question}: {e}"));
                    continue;
                }
            };
            for Target { host, port } in targets {
                let is_own = self.at(&host, &port.to_string()).iter().any(|address| own_at.contains(address));
                let called = if is_own { name.to_owned() } else { others.to_string() };
                if is_own {
                    is_there = true;
                    let expected = own.first().map(|url| url.as_str().to_owned()).unwrap_or_default();
                    if !own.iter().any(|url| url.is_secure() == (scheme == "https")) {
                        return Err(format!(
                            "bootstrap at {scheme}://{host}:{port} from DNS for {service} has scheme mismatch with expected peer {expected}"
                        ));
                    }
                } else {
                    others += 1;
                }
                members.push(format!("{called}={scheme}://{host}:{port}"));
            }
        }
        match (members.is_empty(), is_there) {
            (true, _) => Err(problems.join("; ")),
            (false, false) => Err(format!("cannot find local etcd member {name:?} in SRV records")),
            (false, true) => Ok(members.join(",")),
        }
    }

    fn at(&self, host: &str, port: &str) -> BTreeSet<SocketAddr> {
        port.parse().map(|port| (self.resolve)(host, port)).unwrap_or_default()
    }

    /// The targets of a service, by priority.
    fn ask(&self, name: &str) -> Result<Vec<Target>, String> {
        let mut last = "no name server in /etc/resolv.conf".to_owned();
        for server in &self.servers {
            match ask_one(*server, name) {
                Ok(Some(targets)) if !targets.is_empty() => return Ok(targets),
                Ok(_) => last = "no such host".into(),
                Err(e) => last = e.to_string(),
            }
        }
        Err(last)
    }
}

fn resolve(host: &str, port: u16) -> BTreeSet<SocketAddr> {
    (host, port).to_socket_addrs().map(Iterator::collect).unwrap_or_default()
}

/// One question to one server; nothing if what comes back is no answer to it.
fn ask_one(server: SocketAddr, name: &str) -> io::Result<Option<Vec<Target>>> {
    let id: u16 = StdRng::from_os_rng().random();
    let query = query(id, name).ok_or_else(|| io::Error::other("the name is too long"))?;
    let any: SocketAddr = if server.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0u16; 8], 0).into() };
    let socket = UdpSocket::bind(any)?;
    socket.set_read_timeout(Some(TIMEOUT))?;
    socket.connect(server)?;
    socket.send(&query)?;
    let mut buffer = vec![0; 4096];
    let count = socket.recv(&mut buffer)?;
    let mut answer = buffer.get(..count).unwrap_or_default().to_vec();
    let is_cut = answer.get(2).is_some_and(|flags| flags & 2 != 0);
    if is_cut {
        answer = ask_by_tcp(server, &query)?;
    }
    Ok(parse(id, &answer))
}

fn ask_by_tcp(server: SocketAddr, query: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect_timeout(&server, TIMEOUT)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    let length = u16::try_from(query.len()).map_err(io::Error::other)?;
    stream.write_all(&[&length.to_be_bytes()[..], query].concat())?;
    let mut length = [0; 2];
    stream.read_exact(&mut length)?;
    let mut answer = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut answer)?;
    Ok(answer)
}

/// A question for SRV records; nothing if the name cannot be asked about.
fn query(id: u16, name: &str) -> Option<Vec<u8>> {
    let mut bytes = id.to_be_bytes().to_vec();
    // Recursion wanted; one question.
    bytes.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in name.trim_end_matches('.').split('.') {
        let length = u8::try_from(label.len()).ok().filter(|length| (1..64).contains(length))?;
        bytes.push(length);
        bytes.extend(label.as_bytes());
    }
    bytes.push(0);
    bytes.extend(SRV.to_be_bytes());
    bytes.extend(INTERNET.to_be_bytes());
    (bytes.len() <= 255 + 16).then_some(bytes)
}

/// The SRV records of an answer, by priority; nothing if it is none to question `id`.
fn parse(id: u16, answer: &[u8]) -> Option<Vec<Target>> {
    let number = |at: usize| Some(u16::from_be_bytes([*answer.get(at)?, *answer.get(at + 1)?]));
    let is_good = number(0)? == id && answer.get(2)? & 0x80 != 0 && answer.get(3)? & 0x0f == 0;
    if !is_good {
        return None;
    }
    let mut at = 12;
    for _ in 0..number(4)? {
        at = name_at(answer, at)?.1 + 4;
    }
    let mut found = Vec::new();
    for _ in 0..number(6)? {
        let head = name_at(answer, at)?.1;
        let (kind, length) = (number(head)?, usize::from(number(head + 8)?));
        let data = head + 10;
        if kind == SRV {
            let (host, _) = name_at(answer, data + 6)?;
            found.push((number(data)?, Target { host, port: number(data + 4)? }));
        }
        at = data + length;
    }
    found.sort_by_key(|(priority, _)| *priority);
    Some(found.into_iter().map(|(_, target)| target).collect())
}

/// The name at a place, and where what follows it begins. Names may end in a pointer to an earlier one.
fn name_at(answer: &[u8], mut at: usize) -> Option<(String, usize)> {
    let (mut labels, mut end, mut jumps) = (Vec::new(), None, 0);
    loop {
        let length = *answer.get(at)?;
        match length {
            0 => break,
            1..64 => {
                let label = answer.get(at + 1..at + 1 + usize::from(length))?;
                labels.push(String::from_utf8_lossy(label).into_owned());
                at += 1 + usize::from(length);
            }
            192.. => {
                end.get_or_insert(at + 2);
                jumps += 1;
                at = usize::from(u16::from_be_bytes([length & 0x3f, *answer.get(at + 1)?]));
            }
            _ => return None,
        }
        if jumps > JUMPS_MAX || labels.len() > 128 {
            return None;
        }
    }
    Some((labels.join("."), end.unwrap_or(at + 1)))
}

#[cfg(test)]
mod tests {
    use super::super::urls::Url;
    use super::*;

    /// An answer with these records; names after the first are pointers to the question's.
    fn reply(query: &[u8], records: &[(u16, u16, &str)]) -> Vec<u8> {
        let mut bytes = query.to_vec();
        (bytes[2], bytes[3]) = (0x81, 0x80);
        bytes[6..8].copy_from_slice(&u16::try_from(records.len()).expect("few").to_be_bytes());
        for (priority, port, host) in records {
            let mut data = [priority.to_be_bytes(), [0, 0], port.to_be_bytes()].concat();
            for label in host.split('.') {
                data.push(u8::try_from(label.len()).expect("short"));
                data.extend(label.as_bytes());
            }
            data.push(0);
            bytes.extend([0xc0, 12, 0, 33, 0, 1, 0, 0, 0, 60]);
            bytes.extend(u16::try_from(data.len()).expect("short").to_be_bytes());
            bytes.extend(data);
        }
        bytes
    }

    /// A name server that knows three members without TLS, and nothing else.
    fn server() -> SocketAddr {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a port");
        let address = socket.local_addr().expect("bound");
        std::thread::spawn(move || {
            let mut buffer = [0; 512];
            while let Ok((count, from)) = socket.recv_from(&mut buffer) {
                let query = &buffer[..count];
                let asked = name_at(query, 12).expect("a name").0;
                let records: &[(u16, u16, &str)] = match asked.as_str() {
                    "_etcd-server._tcp.example.com" => {
                        &[(20, 2380, "m3.example.com"), (10, 2380, "m1.example.com"), (10, 2381, "m2.example.com")]
                    }
                    _ => &[],
                };
                let _gone = socket.send_to(&reply(query, records), from);
            }
        });
        address
    }

    fn dns() -> Dns {
        let resolve = |host: &str, port: u16| match host {
            "m1.example.com" | "10.0.0.1" => [SocketAddr::from(([10, 0, 0, 1], port))].into(),
            _ => BTreeSet::new(),
        };
        Dns { servers: vec![server()], resolve }
    }

    fn urls(text: &str) -> Vec<Url> {
        Url::parse_list(text).expect("URLs")
    }

    #[test]
    fn the_records_become_the_first_members() {
        let cluster = dns().cluster("example.com", "", "me", &urls("http://10.0.0.1:2380"));
        let want = "me=http://m1.example.com:2380,0=http://m2.example.com:2381,1=http://m3.example.com:2380";
        assert_eq!(cluster.as_deref(), Ok(want));
    }

    #[test]
    fn mistakes_are_told_in_etcds_words() {
        let elsewhere = dns().cluster("example.com", "", "me", &urls("http://10.9.9.9:2380"));
        assert_eq!(elsewhere, Err("cannot find local etcd member \"me\" in SRV records".into()));
        let secure = dns().cluster("example.com", "", "me", &urls("https://10.0.0.1:2380")).expect_err("not https");
        assert!(secure.contains("has scheme mismatch with expected peer https://10.0.0.1:2380"), "{secure}");
        let unknown = dns().cluster("example.com", "lab", "me", &urls("http://10.0.0.1:2380")).expect_err("no records");
        assert!(unknown.contains("error querying DNS SRV records for _etcd-server-lab._tcp.example.com"), "{unknown}");
    }

    #[test]
    fn answers_that_are_none_do_no_harm() {
        let query = query(7, "_etcd-server._tcp.example.com").expect("a question");
        let good = reply(&query, &[(1, 2380, "m1.example.com")]);
        assert_eq!(parse(7, &good).map(|targets| targets.len()), Some(1));
        assert_eq!(parse(8, &good), None, "an answer to another question");
        for cut in 0..good.len() {
            let _no_panic = parse(7, &good[..cut]);
        }
        for place in 0..good.len() {
            let mut bent = good.clone();
            bent[place] ^= 0xff;
            let _no_panic = parse(7, &bent);
        }
        // A name that points to itself.
        assert_eq!(name_at(&[0xc0, 0], 0), None);
    }
}
