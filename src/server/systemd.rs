//! Tells the service manager how the member is: `READY=1` once it serves, `WATCHDOG=1` while it lives, `STOPPING=1` at its end, to the socket that
//! `NOTIFY_SOCKET` names.
//!
//! A member lives while its raft thread looks at the clock: one that hangs on its disk is restarted by a manager that has a `WatchdogSec=`. etcd tells
//! `READY=1` only. Source: sd_notify(3), sd_watchdog_enabled(3), `Type=notify` of systemd.service(5).

use std::io;
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

/// What the manager said when it started this process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Manager {
    socket: Option<String>,
    /// How long it waits for a sign of life.
    pub(super) watchdog: Option<Duration>,
}

impl Manager {
    /// Reads the environment; `pid` is this process's.
    pub(super) fn of(env: &[(String, String)], pid: u32) -> Manager {
        let value = |name: &str| env.iter().find(|(have, _)| have == name).map(|(_, value)| value.as_str());
        let is_for_us = value("WATCHDOG_PID").is_none_or(|wanted| wanted.parse() == Ok(pid));
        let watchdog = value("WATCHDOG_USEC").and_then(|text| text.parse().ok()).map(Duration::from_micros);
        Manager {
            socket: value("NOTIFY_SOCKET").filter(|socket| !socket.is_empty()).map(str::to_owned),
            watchdog: watchdog.filter(|pause| is_for_us && !pause.is_zero()),
        }
    }

    /// Whether somebody listens.
    pub(super) fn is_there(&self) -> bool {
        self.socket.is_some()
    }

    /// Sends a state such as `READY=1`; nothing without a manager. An address that begins with `@` is abstract.
    pub(super) fn tell(&self, state: &str) -> io::Result<()> {
        let Some(socket) = &self.socket else { return Ok(()) };
        let sender = UnixDatagram::unbound()?;
        // A manager that does not read must not stop the member.
        sender.set_nonblocking(true)?;
        #[cfg(target_os = "linux")]
        if let Some(name) = socket.strip_prefix('@') {
            use std::os::linux::net::SocketAddrExt as _;
            let address = std::os::unix::net::SocketAddr::from_abstract_name(name)?;
            return sender.send_to_addr(state.as_bytes(), &address).map(drop);
        }
        sender.send_to(state.as_bytes(), socket).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect()
    }

    #[test]
    fn the_manager_is_told() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("notify");
        let socket = UnixDatagram::bind(&path).expect("bound");
        let manager = Manager::of(&env(&[("NOTIFY_SOCKET", path.to_str().expect("text"))]), 1);
        for state in ["READY=1", "STOPPING=1"] {
            manager.tell(state).expect("sent");
            let mut buffer = [0; 16];
            let count = socket.recv(&mut buffer).expect("received");
            assert_eq!(&buffer[..count], state.as_bytes());
        }
        assert!(Manager::of(&env(&[("NOTIFY_SOCKET", "/nowhere/notify")]), 1).tell("READY=1").is_err());
        assert!(Manager::default().tell("READY=1").is_ok() && !Manager::default().is_there());
    }

    #[test]
    fn a_watchdog_is_for_the_process_that_it_names() {
        let of = |pairs: &[(&str, &str)]| Manager::of(&env(pairs), 7).watchdog;
        assert_eq!(of(&[("WATCHDOG_USEC", "2000000")]), Some(Duration::from_secs(2)));
        assert_eq!(of(&[("WATCHDOG_USEC", "2000000"), ("WATCHDOG_PID", "7")]), Some(Duration::from_secs(2)));
        assert_eq!(of(&[("WATCHDOG_USEC", "2000000"), ("WATCHDOG_PID", "8")]), None);
        assert_eq!(of(&[("WATCHDOG_USEC", "0")]), None);
        assert_eq!(of(&[]), None);
    }
}
