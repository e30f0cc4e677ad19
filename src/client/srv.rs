//! Endpoints by DNS: the SRV records that `--discovery-srv` asks for.
//!
//! One question for members with TLS (`_etcd-client-ssl._tcp.DOMAIN`), one for members without (`_etcd-client._tcp.DOMAIN`), asked of the name
//! servers of `/etc/resolv.conf` one after the other over UDP. Left out: answers too long for a datagram. Source: RFC 1035, RFC 2782, etcd
//! `client/pkg/srv/srv.go`.

use rand::RngCore as _;
use std::net::IpAddr;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::UdpSocket;

/// How long a name server may take to answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// The largest answer that is read.
const ANSWER_BYTES_MAX: usize = 4096;
/// A name that points to names that point … is followed so far.
const POINTERS_MAX: usize = 16;

const SRV: u16 = 33;
const INTERNET: u16 = 1;
const NO_SUCH_NAME: u8 = 3;

/// One record.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Record {
    priority: u16,
    weight: std::cmp::Reverse<u16>,
    port: u16,
    target: String,
}

/// The client endpoints that `domain` names, as `https://…` and `http://…`. `suffix`: that of the service, or nothing.
///
/// # Errors
/// A sentence, if both questions failed.
pub async fn discover(domain: &str, suffix: &str) -> Result<Vec<String>, String> {
    discover_at(&servers(), domain, suffix).await
}

async fn discover_at(servers: &[SocketAddr], domain: &str, suffix: &str) -> Result<Vec<String>, String> {
    let name = |service: &str| match suffix {
        "" => format!("_{service}._tcp.{domain}"),
        suffix => format!("_{service}-{suffix}._tcp.{domain}"),
    };
    let secure = lookup(servers, &name("etcd-client-ssl")).await;
    let plain = lookup(servers, &name("etcd-client")).await;
    if let (Err(secure), Err(plain)) = (&secure, &plain) {
        return Err(format!("dns lookup errors: {secure} and {plain}"));
    }
    let urls = |scheme: &'static str, records: Result<Vec<Record>, String>| {
        let url = move |record: Record| format!("{scheme}://{}:{}", record.target, record.port);
        records.unwrap_or_default().into_iter().map(url)
    };
    Ok(urls("https", secure).chain(urls("http", plain)).collect())
}

/// The name servers of this machine.
fn servers() -> Vec<SocketAddr> {
    let text = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let words = text.lines().filter_map(|line| line.trim().strip_prefix("nameserver"));
    let found: Vec<SocketAddr> =
        words.filter_map(|word| word.trim().parse::<IpAddr>().ok()).map(|ip| SocketAddr::new(ip, 53)).collect();
    if found.is_empty() { vec![SocketAddr::from(([127, 0, 0, 1], 53))] } else { found }
}

/// The records of one name, best first.
async fn lookup(servers: &[SocketAddr], name: &str) -> Result<Vec<Record>, String> {
    let mut failed = format!("lookup {name}: no name server");
    for server in servers {
        let why = match tokio::time::timeout(ANSWER_WITHIN, ask(*server, name)).await {
            Ok(Ok(mut records)) => {
                records.sort();
                return Ok(records);
            }
            Ok(Err(why)) => why,
            Err(_) => "i/o timeout".to_owned(),
        };
        failed = format!("lookup {name} on {server}: {why}");
        if why == "no such host" {
            break;
        }
    }
    Err(failed)
}

async fn ask(server: SocketAddr, name: &str) -> Result<Vec<Record>, String> {
    let any: SocketAddr = if server.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0_u16; 8], 0).into() };
    let told = |e: std::io::Error| e.to_string();
    let socket = UdpSocket::bind(any).await.map_err(told)?;
    // From then on only this server's datagrams are heard.
    socket.connect(server).await.map_err(told)?;
    let id = rand::rng().next_u32() as u16;
    socket.send(&question(id, name)?).await.map_err(told)?;
    let mut bytes = vec![0; ANSWER_BYTES_MAX];
    loop {
        let count = socket.recv(&mut bytes).await.map_err(told)?;
        if bytes[..count].get(..2) == Some(&id.to_be_bytes()[..]) {
            return answer(&bytes[..count]);
        }
    }
}

/// A query for one name.
fn question(id: u16, name: &str) -> Result<Vec<u8>, String> {
    // Recursion desired, one question.
    let mut bytes = [&id.to_be_bytes()[..], &[1, 0, 0, 1, 0, 0, 0, 0, 0, 0]].concat();
    for label in name.trim_end_matches('.').split('.') {
        let length = u8::try_from(label.len()).ok().filter(|length| (1..64).contains(length)).ok_or("no such host")?;
        bytes.push(length);
        bytes.extend(label.bytes());
    }
    bytes.push(0);
    bytes.extend([SRV.to_be_bytes(), INTERNET.to_be_bytes()].concat());
    Ok(bytes)
}

/// The SRV records of an answer.
fn answer(bytes: &[u8]) -> Result<Vec<Record>, String> {
    let mangled = || "cannot unmarshal DNS message".to_owned();
    let number = |at: usize| bytes.get(at..at + 2).map(|two| u16::from_be_bytes([two[0], two[1]])).ok_or_else(mangled);
    match bytes.get(3).ok_or_else(mangled)? & 0x0f {
        0 => {}
        NO_SUCH_NAME => return Err("no such host".to_owned()),
        _ => return Err("server misbehaving".to_owned()),
    }
    let (questions, answers) = (number(4)?, number(6)?);
    let mut at = 12;
    for _ in 0..questions {
        at = name(bytes, at).ok_or_else(mangled)?.1 + 4;
    }
    let mut records = Vec::new();
    for _ in 0..answers {
        at = name(bytes, at).ok_or_else(mangled)?.1;
        let (kind, length) = (number(at)?, usize::from(number(at + 8)?));
        let data = at + 10;
        if kind == SRV {
            let target = name(bytes, data + 6).ok_or_else(mangled)?.0;
            let weight = std::cmp::Reverse(number(data + 2)?);
            records.push(Record { priority: number(data)?, weight, port: number(data + 4)?, target });
        }
        at = data + length;
    }
    if records.is_empty() { Err("no such host".to_owned()) } else { Ok(records) }
}

/// The name at a place, and where what follows it begins.
fn name(bytes: &[u8], mut at: usize) -> Option<(String, usize)> {
    let (mut labels, mut after, mut pointers) = (Vec::new(), None, 0);
    loop {
        match *bytes.get(at)? {
            0 => return Some((labels.join("."), after.unwrap_or(at + 1))),
            high @ 0xc0.. => {
                pointers += 1;
                if pointers > POINTERS_MAX {
                    return None;
                }
                after = after.or(Some(at + 2));
                at = usize::from(high & 0x3f) << 8 | usize::from(*bytes.get(at + 1)?);
            }
            length => {
                let label = bytes.get(at + 1..at + 1 + usize::from(length))?;
                labels.push(String::from_utf8_lossy(label).into_owned());
                at += 1 + usize::from(length);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An answer to `query` with these records, whose names point back to the question.
    fn reply(query: &[u8], records: &[(u16, u16, u16, &str)]) -> Vec<u8> {
        let code = if records.is_empty() { 0x83 } else { 0x80 };
        let count = (records.len() as u16).to_be_bytes();
        let mut bytes = [&query[..2], &[0x81, code, 0, 1], &count, &[0, 0, 0, 0], &query[12..]].concat();
        for (priority, weight, port, target) in records {
            let mut data = [priority.to_be_bytes(), weight.to_be_bytes(), port.to_be_bytes()].concat();
            for label in target.split('.') {
                data.push(label.len() as u8);
                data.extend(label.bytes());
            }
            data.push(0);
            bytes.extend([0xc0, 12, 0, 33, 0, 1, 0, 0, 0, 60]);
            bytes.extend((data.len() as u16).to_be_bytes());
            bytes.extend(data);
        }
        bytes
    }

    /// A name server that knows some members with TLS, and none without.
    async fn server() -> SocketAddr {
        let socket = UdpSocket::bind("127.0.0.1:0").await.expect("a port");
        let address = socket.local_addr().expect("bound");
        tokio::spawn(async move {
            let mut bytes = [0; 512];
            while let Ok((count, from)) = socket.recv_from(&mut bytes).await {
                let query = &bytes[..count];
                let secure = query.windows(15).any(|part| part == b"etcd-client-ssl");
                let records: &[_] = if secure {
                    &[(2, 0, 2379, "b.example"), (1, 5, 2379, "c.example"), (1, 9, 2380, "a.example")]
                } else {
                    &[]
                };
                socket.send_to(&reply(query, records), from).await.expect("it is sent");
            }
        });
        address
    }

    #[tokio::test]
    async fn endpoints_come_in_the_order_of_their_priority_and_weight() {
        let found = discover_at(&[server().await], "example", "").await;
        let wanted = ["https://a.example:2380", "https://c.example:2379", "https://b.example:2379"];
        assert_eq!(found, Ok(wanted.map(str::to_owned).to_vec()));
    }

    #[tokio::test]
    async fn a_domain_without_members_is_told_with_both_names() {
        let server = server().await;
        let why = lookup(&[server], "_etcd-client._tcp.example").await.expect_err("none there");
        assert_eq!(why, format!("lookup _etcd-client._tcp.example on {server}: no such host"));
        let why = discover_at(&[], "example", "x").await.expect_err("nobody to ask");
        assert!(
            why.contains("_etcd-client-ssl-x._tcp.example") && why.contains("_etcd-client-x._tcp.example"),
            "{why}"
        );
    }

    #[test]
    fn a_mangled_answer_is_an_error_and_no_panic() {
        let whole = reply(&question(7, "_etcd-client._tcp.example").expect("a name"), &[(1, 1, 1, "a.b")]);
        for length in 0..whole.len() {
            assert!(answer(&whole[..length]).is_err(), "{length} bytes");
        }
        let mut circle = whole.clone();
        let at = whole.len() - 5;
        circle[at..at + 2].copy_from_slice(&[0xc0, at as u8]);
        assert!(answer(&circle).is_err(), "a name that points to itself");
        assert_eq!(answer(&whole).expect("whole").len(), 1);
    }
}
