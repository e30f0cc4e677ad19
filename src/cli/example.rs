//! A member for the examples in the documentation, which are tests: it runs in this process, on free ports, for as long as the process does.
#![expect(clippy::disallowed_methods, reason = "examples wait for a member in real time")]

use crate::server;
use std::ffi::OsString;
use std::io;
use std::net::Ipv4Addr;
use std::net::TcpListener;
use std::net::TcpStream;
use std::time::Duration;
use std::time::Instant;

const READY_WITHIN: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Starts a member of its own and returns where it listens for clients, as `host:port`, once it does.
///
/// # Errors
/// If there is no free port, or the member does not come up.
pub fn member() -> io::Result<String> {
    let free = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|listener| listener.local_addr());
    let (client, peer) = (free()?, free()?);
    let folder = std::env::temp_dir().join(format!("etcd-lab-example-{}-{}", std::process::id(), client.port()));
    let (client_url, peer_url) = (format!("http://{client}"), format!("http://{peer}"));
    let flags = [
        format!("--data-dir={}", folder.display()),
        format!("--listen-client-urls={client_url}"),
        format!("--advertise-client-urls={client_url}"),
        format!("--listen-peer-urls={peer_url}"),
        format!("--initial-advertise-peer-urls={peer_url}"),
        format!("--initial-cluster=default={peer_url}"),
        "--log-level=error".to_owned(),
    ];
    let flags: Vec<OsString> = flags.into_iter().map(OsString::from).collect();
    std::thread::spawn(move || server::main(&flags));
    let deadline = Instant::now() + READY_WITHIN;
    while let Err(why) = TcpStream::connect(client) {
        if Instant::now() > deadline {
            return Err(why);
        }
        std::thread::sleep(LOOK_EVERY);
    }
    Ok(client.to_string())
}
