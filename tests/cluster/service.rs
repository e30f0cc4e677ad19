//! What a service manager sees: when a member is ready, that it lives, that it stops, how its log can be made to say more.

use crate::foreign;
use crate::harness::ENDS_WITHIN;
use crate::harness::Process;
use crate::harness::READY_WITHIN;
use crate::harness::Scratch;
use crate::harness::Spec;
use crate::harness::etcd_bin;
use crate::harness::is_ours;
use crate::harness::shell_code;
use crate::harness::turn;
use crate::harness::until;
use rustix::process::Signal;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// The manager's end of the socket.
struct Manager {
    socket: UnixDatagram,
    path: String,
}

impl Manager {
    fn new(dir: &Path, name: &str) -> Manager {
        let path = dir.join(format!("{name}.notify"));
        let socket = UnixDatagram::bind(&path).expect("bound");
        socket.set_nonblocking(true).expect("a socket");
        Manager { socket, path: path.display().to_string() }
    }

    /// All that has been told since the last time.
    fn told(&self) -> Vec<String> {
        let mut buffer = [0; 64];
        let mut next = || self.socket.recv(&mut buffer).ok().map(|count| buffer[..count].to_vec());
        std::iter::from_fn(&mut next).map(|state| String::from_utf8_lossy(&state).into_owned()).collect()
    }

    async fn hears(&self, state: &str) {
        until(READY_WITHIN, state, async || {
            let told = self.told();
            if told.iter().any(|told| told == state) { Ok(()) } else { Err(format!("{told:?}")) }
        })
        .await;
    }
}

#[test]
fn the_first_of_three_is_ready_when_the_second_has_joined() {
    turn(Duration::from_secs(90), async {
        if !is_ours() {
            return;
        }
        let scratch = Scratch::new();
        let specs: Vec<Spec> = (0..3).map(|n| Spec::new(&format!("m{n}"), scratch.path())).collect();
        let managers: Vec<Manager> = specs.iter().map(|spec| Manager::new(scratch.path(), &spec.name)).collect();
        let start = |n: usize| {
            let env = [("NOTIFY_SOCKET", managers[n].path.as_str()), ("WATCHDOG_USEC", "400000")];
            let log = scratch.path().join(format!("m{n}.log"));
            Process::start(&etcd_bin(), &specs[n].flags(&specs), &env, &log)
        };
        let mut first = start(0);
        until(READY_WITHIN, "the first looks for others", async || {
            if first.log().contains("added remote peer") { Ok(()) } else { Err("not yet") }
        })
        .await;
        assert_eq!(managers[0].told(), Vec::<String>::new(), "without a quorum it is not ready");
        let _second = start(1);
        managers[0].hears("READY=1").await;
        managers[1].hears("READY=1").await;
        managers[0].hears("WATCHDOG=1").await;
        first.signal(Signal::TERM);
        managers[0].hears("STOPPING=1").await;
        assert_eq!(shell_code(first.ended(ENDS_WITHIN).await), 143);
    });
}

#[test]
fn a_signal_makes_the_log_say_more_and_less_again() {
    turn(Duration::from_secs(60), async {
        if !is_ours() {
            return;
        }
        let scratch = Scratch::new();
        let spec = Spec::new("m0", scratch.path());
        let log = scratch.path().join("m0.log");
        let mut flags = spec.flags(std::slice::from_ref(&spec));
        flags.push("--log-level=warn".to_owned());
        let member = Process::start(&etcd_bin(), &flags, &[], &log);
        let client = crate::client::Client::plain(vec![spec.client_url.clone()]);
        until(READY_WITHIN, "a put", async || client.put(0, "a", "1").await).await;
        assert!(!member.log().contains("\"level\":\"info\""), "{}", member.log());
        let levels = |log: &str| {
            let told = log.lines().filter(|line| line.contains("the log's level is another now"));
            told.map(|line| line.contains("\"log-level\":\"debug\"")).collect::<Vec<bool>>()
        };
        for wanted in [&[true][..], &[true, false]] {
            member.signal(Signal::USR1);
            until(READY_WITHIN, "the level is told", async || {
                let told = levels(&member.log());
                if told == wanted { Ok(()) } else { Err(format!("{told:?}")) }
            })
            .await;
        }
    });
}

#[test]
fn the_sample_unit_is_one_that_systemd_understands() {
    turn(Duration::from_secs(60), async {
        let unit = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/etcd.service");
        let scratch = Scratch::new();
        // The program must be there to be verified.
        let text = std::fs::read_to_string(unit).expect("the unit");
        let text =
            text.replace("/usr/local/bin/etcd", &etcd_bin().display().to_string()).replace("User=etcd", "User=root");
        let copy = scratch.path().join("etcd.service");
        std::fs::write(&copy, text).expect("written");
        match Command::new("systemd-analyze").arg("verify").arg(&copy).output() {
            Ok(output) => {
                let said = String::from_utf8_lossy(&output.stderr).into_owned();
                let ours: Vec<&str> = said.lines().filter(|line| line.contains("etcd.service")).collect();
                assert!(output.status.success() && ours.is_empty(), "{said}");
            }
            Err(e) => foreign::not_possible("the_sample_unit_is_one_that_systemd_understands", &e.to_string()),
        }
    });
}
