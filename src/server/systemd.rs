//! Tells the service manager that the member serves: `READY=1` to the socket that `NOTIFY_SOCKET` names.
//!
//! Source: sd_notify(3), `Type=notify` of systemd.service(5).

use std::io;
use std::os::unix::net::UnixDatagram;

/// Sends `READY=1`. An address that begins with `@` is abstract.
pub(super) fn ready(socket: &str) -> io::Result<()> {
    let sender = UnixDatagram::unbound()?;
    #[cfg(target_os = "linux")]
    if let Some(name) = socket.strip_prefix('@') {
        use std::os::linux::net::SocketAddrExt as _;
        let address = std::os::unix::net::SocketAddr::from_abstract_name(name)?;
        return sender.send_to_addr(b"READY=1", &address).map(drop);
    }
    sender.send_to(b"READY=1", socket).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_manager_is_told() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("notify");
        let manager = UnixDatagram::bind(&path).expect("bound");
        ready(path.to_str().expect("text")).expect("sent");
        let mut buffer = [0; 16];
        let count = manager.recv(&mut buffer).expect("received");
        assert_eq!(&buffer[..count], b"READY=1");
        assert!(ready("/nowhere/notify").is_err());
    }
}
