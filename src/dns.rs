//! SRV records: where DNS says that a service is.
//!
//! Rust's library resolves addresses only, so the question is asked here: one datagram to each of the name servers in `/etc/resolv.conf` until one
//! answers, over TCP if the answer is cut. Blocks: not for a thread that others wait for. Left out: search domains.
//! Source: RFC 1035, RFC 2782; etcd `client/pkg/srv/srv.go`.

use rand::Rng as _;
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use std::cmp::Reverse;
use std::io;
use std::io::Read as _;
use std::io::Write as _;
use std::net::IpAddr;
use std::net::SocketAddr;
use std::net::TcpStream;
use std::net::UdpSocket;
use std::time::Duration;

/// How long one server may take for one datagram or one step of TCP.
const TIMEOUT: Duration = Duration::from_secs(3);

/// Datagrams that answer something else are passed over so often.
const STRAYS_MAX: usize = 16;

/// The largest datagram that is read.
const ANSWER_BYTES_MAX: usize = 4096;

/// A name may point to another so often: an answer that points in circles ends.
const JUMPS_MAX: usize = 32;
const LABELS_MAX: usize = 128;

const SRV: u16 = 33;
const INTERNET: u16 = 1;
const NO_SUCH_NAME: u8 = 3;

const NO_SUCH_HOST: &str = "no such host";
const MANGLED: &str = "cannot unmarshal DNS message";

/// Where a service is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    pub host: String,
    pub port: u16,
}

/// The name servers of this machine; its own if it names none.
#[must_use]
pub fn servers() -> Vec<SocketAddr> {
    let text = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let words = text.lines().filter_map(|line| line.trim().strip_prefix("nameserver"));
    let found: Vec<SocketAddr> =
        words.filter_map(|word| word.trim().parse::<IpAddr>().ok()).map(|ip| SocketAddr::new(ip, 53)).collect();
    if found.is_empty() { vec![SocketAddr::from(([127, 0, 0, 1], 53))] } else { found }
}

/// `_service._tcp.domain`, or `_service-suffix._tcp.domain`.
#[must_use]
pub fn service_name(service: &str, suffix: &str, domain: &str) -> String {
    match suffix {
        "" => format!("_{service}._tcp.{domain}"),
        suffix => format!("_{service}-{suffix}._tcp.{domain}"),
    }
}

/// The targets of a name: by priority, of one priority the heavier first. The servers are asked one after the other until one knows.
///
/// # Errors
/// A sentence as Go has it, of the server that was asked last.
pub fn lookup(servers: &[SocketAddr], name: &str) -> Result<Vec<Target>, String> {
    let mut failed = format!("lookup {name}: no name server");
    for server in servers {
        let why = match ask(*server, name) {
            Ok(targets) => return Ok(targets),
            Err(why) => why,
        };
        let is_known = why == NO_SUCH_HOST;
        failed = format!("lookup {name} on {server}: {why}");
        if is_known {
            break;
        }
    }
    Err(failed)
}

/// One question to one server.
fn ask(server: SocketAddr, name: &str) -> Result<Vec<Target>, String> {
    let id: u16 = StdRng::from_os_rng().random();
    let query = query(id, name).ok_or(NO_SUCH_HOST)?;
    let answer = by_datagram(server, id, &query).and_then(|answer| {
        let is_cut = answer.get(2).is_some_and(|flags| flags & 2 != 0);
        if is_cut { by_tcp(server, &query) } else { Ok(answer) }
    });
    parse(id, &answer.map_err(|e| told(&e))?)
}

fn told(e: &io::Error) -> String {
    match e.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => "i/o timeout".into(),
        // The system's words as Go writes them.
        _ => e.to_string().split(" (os error").next().unwrap_or_default().to_lowercase(),
    }
}

fn by_datagram(server: SocketAddr, id: u16, query: &[u8]) -> io::Result<Vec<u8>> {
    let any: SocketAddr = if server.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0_u16; 8], 0).into() };
    let socket = UdpSocket::bind(any)?;
    socket.set_read_timeout(Some(TIMEOUT))?;
    // From then on only this server's datagrams are heard.
    socket.connect(server)?;
    socket.send(query)?;
    let mut bytes = vec![0; ANSWER_BYTES_MAX];
    for _ in 0..STRAYS_MAX {
        let count = socket.recv(&mut bytes)?;
        if bytes[..count].starts_with(&id.to_be_bytes()) {
            bytes.truncate(count);
            return Ok(bytes);
        }
    }
    Err(io::Error::other("no answer to this question"))
}

fn by_tcp(server: SocketAddr, query: &[u8]) -> io::Result<Vec<u8>> {
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
    // Recursion wanted; one question.
    let mut bytes = [&id.to_be_bytes()[..], &[1, 0, 0, 1, 0, 0, 0, 0, 0, 0]].concat();
    for label in name.trim_end_matches('.').split('.') {
        let length = u8::try_from(label.len()).ok().filter(|length| (1..64).contains(length))?;
        bytes.push(length);
        bytes.extend(label.as_bytes());
    }
    bytes.push(0);
    bytes.extend([SRV.to_be_bytes(), INTERNET.to_be_bytes()].concat());
    (bytes.len() <= 255 + 16).then_some(bytes)
}

/// What an answer to question `id` says.
fn parse(id: u16, answer: &[u8]) -> Result<Vec<Target>, String> {
    let is_answer = answer.starts_with(&id.to_be_bytes()) && answer.get(2).is_some_and(|flags| flags & 0x80 != 0);
    match answer.get(3).filter(|_| is_answer).ok_or(MANGLED)? & 0x0f {
        0 => {}
        NO_SUCH_NAME => return Err(NO_SUCH_HOST.into()),
        _ => return Err("server misbehaving".into()),
    }
    let found = records(answer).ok_or(MANGLED)?;
    if found.is_empty() { Err(NO_SUCH_HOST.into()) } else { Ok(found) }
}

/// The SRV records of an answer, best first; nothing if it is mangled.
fn records(answer: &[u8]) -> Option<Vec<Target>> {
    let number = |at: usize| Some(u16::from_be_bytes([*answer.get(at)?, *answer.get(at + 1)?]));
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
            found.push((number(data)?, Reverse(number(data + 2)?), Target { host, port: number(data + 4)? }));
        }
        at = data + length;
    }
    found.sort_by_key(|(priority, weight, _)| (*priority, *weight));
    Some(found.into_iter().map(|(_, _, target)| target).collect())
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
        if jumps > JUMPS_MAX || labels.len() > LABELS_MAX {
            return None;
        }
    }
    Some((labels.join("."), end.unwrap_or(at + 1)))
}

/// One SRV record as a test writes it: priority, weight, port and host.
#[cfg(test)]
pub(crate) type Written = (u16, u16, u16, &'static str);

/// A name server for tests: what it answers is what `knows` says of a name. Ends with the process.
#[cfg(test)]
pub(crate) fn serving(knows: fn(&str) -> &'static [Written]) -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a port");
    let address = socket.local_addr().expect("bound");
    std::thread::spawn(move || {
        let mut buffer = [0; 512];
        while let Ok((count, from)) = socket.recv_from(&mut buffer) {
            let query = &buffer[..count];
            let asked = name_at(query, 12).expect("a name").0;
            let _gone = socket.send_to(&tests::reply(query, knows(&asked)), from);
        }
    });
    address
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An answer with these records, whose names point back to the question's.
    pub(super) fn reply(query: &[u8], records: &[(u16, u16, u16, &str)]) -> Vec<u8> {
        let code = if records.is_empty() { 0x83 } else { 0x80 };
        let count = u16::try_from(records.len()).expect("few").to_be_bytes();
        let mut bytes = [&query[..2], &[0x81, code, 0, 1], &count, &[0, 0, 0, 0], &query[12..]].concat();
        for (priority, weight, port, host) in records {
            let mut data = [priority.to_be_bytes(), weight.to_be_bytes(), port.to_be_bytes()].concat();
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

    #[test]
    fn targets_come_by_priority_and_weight_and_who_is_unknown_is_said() {
        let server = serving(|name| match name {
            "_x._tcp.example" => &[(2, 0, 1, "b.example"), (1, 5, 2, "c.example"), (1, 9, 3, "a.example")],
            _ => &[],
        });
        let found = lookup(&[server], &service_name("x", "", "example")).expect("there");
        let hosts: Vec<&str> = found.iter().map(|target| target.host.as_str()).collect();
        assert_eq!(hosts, ["a.example", "c.example", "b.example"]);
        let why = lookup(&[server], &service_name("x", "lab", "example")).expect_err("unknown");
        assert_eq!(why, format!("lookup _x-lab._tcp.example on {server}: no such host"));
        assert_eq!(lookup(&[], "x"), Err("lookup x: no name server".into()));
    }

    #[test]
    fn answers_that_are_none_do_no_harm() {
        let query = query(7, "_etcd-server._tcp.example.com").expect("a question");
        let good = reply(&query, &[(1, 0, 2380, "m1.example.com")]);
        assert_eq!(parse(7, &good).map(|targets| targets.len()), Ok(1));
        assert_eq!(parse(8, &good), Err(MANGLED.into()), "an answer to another question");
        for cut in 0..good.len() {
            assert!(parse(7, &good[..cut]).is_err(), "{cut} bytes");
        }
        for place in 0..good.len() {
            let mut bent = good.clone();
            bent[place] ^= 0xff;
            let _no_panic = parse(7, &bent);
        }
        let mut circle = good.clone();
        let at = good.len() - 5;
        circle[at..at + 2].copy_from_slice(&[0xc0, u8::try_from(at).expect("short")]);
        assert!(parse(7, &circle).is_err(), "a name that points to itself");
        assert_eq!(name_at(&[0xc0, 0], 0), None);
    }
}
