//! Members under a real systemd: the unit of the tutorial (document 004) on three controllers, and our own unit with all its hardening.
//!
//! systemd is the first process of a pid namespace here, with mounts, cgroups and a network of its own: the tutorial's addresses are those of its loopback interface.
//! Nothing outside of the namespaces is changed, and all of it ends with that process. Where no namespaces can be made, by whoever is not root, the tests are skipped and say
//! so; then [`crate::service`] still shows what a manager hears.

#![expect(clippy::disallowed_methods, reason = "waits for a process that is not one of the harness")]

use crate::foreign;
use crate::harness::READY_WITHIN;
use crate::harness::Scratch;
use crate::harness::etcd_bin;
use crate::harness::is_ours;
use crate::harness::turn;
use crate::harness::until;
use etcd_lab::tls::pki::Authority;
use etcd_lab::tls::pki::Request;
use etcd_lab::tls::pki::Usage;
use std::path::Path;
use std::process::Child;
use std::process::Command;
use std::process::Output;
use std::process::Stdio;
use std::time::Duration;

const BOOT: &str = r#"
set -e
mount --make-rprivate /
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /var/lib
mount -t cgroup2 none /sys/fs/cgroup
mkdir -p /run/systemd/system /run/lock /run/etcd
cp "$1"/*.service "$1"/*.target /run/systemd/system/
[ ! -e "$1/etcd.env" ] || cp "$1/etcd.env" /run/etcd/
ip link set lo up
for n in 10 11 12; do ip addr add 10.240.0.$n/32 dev lo; done
export container=etcd-lab-test
exec /lib/systemd/systemd --system --unit=lab.target --log-target=console --show-status=no
"#;

const TARGET: &str = "[Unit]\nDescription=the tests'\nDefaultDependencies=no\n";

/// The unit of document 004 as its shell makes it on one controller. Replaced: the paths, the address of the second client URL (all controllers are one machine
/// here), where the log goes, and the basic dependencies, which a container without a boot does not have.
fn seeds_unit(n: usize, dir: &Path) -> String {
    let (name, ip, etcd, files) = (format!("controller-{n}"), format!("10.240.0.1{n}"), etcd_bin(), dir.display());
    format!(
        "[Unit]\nDescription=etcd\nDocumentation=https://github.com/coreos\nDefaultDependencies=no\n\n[Service]\nType=notify\n\
ExecStart={etcd} \\\n  --name {name} \\\n  --cert-file={files}/kubernetes.pem \\\n  --key-file={files}/kubernetes-key.pem \\\n  \
--peer-cert-file={files}/kubernetes.pem \\\n  --peer-key-file={files}/kubernetes-key.pem \\\n  --trusted-ca-file={files}/ca.pem \\\n  \
--peer-trusted-ca-file={files}/ca.pem \\\n  --peer-client-cert-auth \\\n  --client-cert-auth \\\n  \
--initial-advertise-peer-urls https://{ip}:2380 \\\n  --listen-peer-urls https://{ip}:2380 \\\n  \
--listen-client-urls https://{ip}:2379,https://127.0.0.{local}:2379 \\\n  --advertise-client-urls https://{ip}:2379 \\\n  \
--initial-cluster-token etcd-cluster-0 \\\n  \
--initial-cluster controller-0=https://10.240.0.10:2380,controller-1=https://10.240.0.11:2380,controller-2=https://10.240.0.12:2380 \\\n  \
--initial-cluster-state new \\\n  --data-dir={files}/{name}.etcd\n\
Restart=on-failure\nRestartSec=5\nStandardError=append:{files}/{name}.log\n\n[Install]\nWantedBy=multi-user.target\n",
        etcd = etcd.display(),
        local = n + 1,
    )
}

/// A systemd with the units of a directory. Dropping it ends all that runs in its namespaces.
struct Systemd {
    unshare: Child,
    pid: String,
}

impl Systemd {
    /// Nothing, and a reason, where there can be none.
    async fn boot(dir: &Path) -> Result<Systemd, String> {
        if !rustix::process::geteuid().is_root() {
            return Err("only root can make the namespaces".into());
        }
        for program in ["/lib/systemd/systemd", "/usr/bin/unshare", "/usr/bin/nsenter", "/usr/bin/systemctl"] {
            if !Path::new(program).exists() {
                return Err(format!("{program} is not here"));
            }
        }
        std::fs::write(dir.join("lab.target"), TARGET).expect("written");
        std::fs::write(dir.join("boot.sh"), BOOT).expect("written");
        let log = std::fs::File::create(dir.join("systemd.out")).expect("a file");
        let namespaces = ["--pid", "--mount", "--ipc", "--uts", "--cgroup", "--net", "--fork", "--mount-proc"];
        let unshare = Command::new("unshare")
            .args(namespaces)
            .args(["--kill-child", "sh"])
            .arg(dir.join("boot.sh"))
            .arg(dir)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a second handle"))
            .stderr(log)
            .spawn()
            .map_err(|e| e.to_string())?;
        let mut systemd = Systemd { unshare, pid: String::new() };
        let parent = systemd.unshare.id();
        let out = dir.join("systemd.out");
        let why = || std::fs::read_to_string(&out).unwrap_or_default();
        for _ in 0..500 {
            if systemd.unshare.try_wait().expect("our own child").is_some() {
                return Err(format!("no namespaces, or no systemd in them: {}", why()));
            }
            let children = std::fs::read_to_string(format!("/proc/{parent}/task/{parent}/children"));
            systemd.pid = children.unwrap_or_default().trim().to_owned();
            if !systemd.pid.is_empty() && systemd.ctl(&["is-system-running"]).stdout.starts_with(b"running") {
                return Ok(systemd);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Err(format!("systemd does not run: {}", why()))
    }

    /// A command inside.
    fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["-t", &self.pid, "-m", "-p", "-n", "-C"]).arg(program).stdin(Stdio::null());
        command
    }

    fn ctl(&self, words: &[&str]) -> Output {
        self.command("systemctl").args(words).output().expect("nsenter")
    }

    /// A start that may take its time.
    fn start(&self, unit: &str) -> Child {
        self.command("systemctl").args(["start", unit]).spawn().expect("nsenter")
    }

    fn state(&self, unit: &str) -> String {
        let state = self.ctl(&["show", "-P", "ActiveState", unit]);
        String::from_utf8_lossy(&state.stdout).trim().to_owned()
    }

    fn main_pid(&self, unit: &str) -> String {
        let pid = self.ctl(&["show", "-P", "MainPID", unit]);
        String::from_utf8_lossy(&pid.stdout).trim().to_owned()
    }
}

impl Drop for Systemd {
    fn drop(&mut self) {
        // With --kill-child its child, the first process of the namespace, goes as well, and the rest with it.
        drop(self.unshare.kill());
        drop(self.unshare.wait());
    }
}

async fn returned(starting: &mut Child) {
    let status = until(READY_WITHIN, "systemctl start returns", async || match starting.try_wait() {
        Ok(Some(status)) => Ok(status),
        other => Err(format!("{other:?}")),
    })
    .await;
    assert!(status.success(), "{status}");
}

#[test]
fn three_controllers_start_as_the_tutorial_says_under_systemd() {
    let test = "three_controllers_start_as_the_tutorial_says_under_systemd";
    turn(Duration::from_secs(180), async {
        if !is_ours() {
            return;
        }
        let scratch = Scratch::new();
        let dir = scratch.path();
        let authority = Authority::new("Kubernetes").expect("an authority");
        authority.own().write(dir, "ca").expect("written");
        let names = ["10.240.0.10", "10.240.0.11", "10.240.0.12", "127.0.0.1", "127.0.0.2", "127.0.0.3"];
        let pair = authority.issue(&Request::new(Usage::Peer, "kubernetes", &names)).expect("issued");
        pair.write(dir, "kubernetes").expect("written");
        for n in 0..3 {
            std::fs::write(dir.join(format!("controller-{n}.service")), seeds_unit(n, dir)).expect("written");
        }
        let systemd = match Systemd::boot(dir).await {
            Ok(systemd) => systemd,
            Err(why) => return foreign::not_possible(test, &why),
        };
        let log = |n: usize| std::fs::read_to_string(dir.join(format!("controller-{n}.log"))).unwrap_or_default();
        let mut first = systemd.start("controller-0");
        until(READY_WITHIN, "the first looks for others", async || {
            if log(0).contains("added remote peer") { Ok(()) } else { Err(log(0)) }
        })
        .await;
        assert_eq!(systemd.state("controller-0"), "activating", "the first start waits");
        assert!(first.try_wait().expect("our own child").is_none());
        let mut second = systemd.start("controller-1");
        returned(&mut first).await;
        returned(&mut second).await;
        assert_eq!((systemd.state("controller-0"), systemd.state("controller-1")), ("active".into(), "active".into()));
        returned(&mut systemd.start("controller-2")).await;

        let file = |name: &str| dir.join(name).display().to_string();
        let list = || {
            let mut etcdctl = systemd.command(env!("CARGO_BIN_EXE_etcdctl"));
            etcdctl.args(["member", "list", "--endpoints=https://127.0.0.1:2379"]);
            etcdctl.arg(format!("--cacert={}", file("ca.pem"))).arg(format!("--cert={}", file("kubernetes.pem")));
            let listed = etcdctl.arg(format!("--key={}", file("kubernetes-key.pem"))).output().expect("etcdctl");
            String::from_utf8_lossy(&listed.stdout).into_owned()
        };
        // The very lines of the tutorial.
        let lines = [
            "3a57933972cb5131, started, controller-2, https://10.240.0.12:2380, https://10.240.0.12:2379",
            "f98dc20bce6225a0, started, controller-0, https://10.240.0.10:2380, https://10.240.0.10:2379",
            "ffed16798470cab5, started, controller-1, https://10.240.0.11:2380, https://10.240.0.11:2379",
        ];
        until(READY_WITHIN, "the members of the tutorial", async || {
            let listed = list();
            if lines.iter().all(|line| listed.contains(line)) { Ok(()) } else { Err(listed) }
        })
        .await;

        // One that is killed comes back by itself; one that is stopped has ended well.
        let before = systemd.main_pid("controller-2");
        systemd.ctl(&["kill", "--signal=KILL", "controller-2"]);
        until(READY_WITHIN, "Restart=on-failure", async || {
            let now = (systemd.main_pid("controller-2"), systemd.state("controller-2"));
            if now.0 != before && now.1 == "active" { Ok(()) } else { Err(format!("{now:?}")) }
        })
        .await;
        assert!(systemd.ctl(&["stop", "controller-1"]).status.success());
        assert_eq!(systemd.state("controller-1"), "inactive", "SIGTERM is no failure");
    });
}

#[test]
fn our_own_unit_works_with_all_its_hardening() {
    let test = "our_own_unit_works_with_all_its_hardening";
    turn(Duration::from_secs(120), async {
        if !is_ours() {
            return;
        }
        let scratch = Scratch::new();
        let dir = scratch.path();
        let unit = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/etcd.service");
        let text = std::fs::read_to_string(unit).expect("the unit");
        // Paths, the user, and the dependencies of a machine that boots; the sandbox stays as it is.
        let text = text
            .replace("/usr/local/bin/etcd", &etcd_bin().display().to_string())
            .replace("User=etcd", "User=root")
            .replace("-/etc/etcd/etcd.env", "/run/etcd/etcd.env")
            .replace("[Unit]", "[Unit]\nDefaultDependencies=no")
            .replace("Wants=network-online.target\nAfter=network-online.target\n", "")
            .replace("WatchdogSec=60", "WatchdogSec=2");
        assert!(text.contains("ProtectSystem=strict") && text.contains("SystemCallFilter=@system-service"));
        std::fs::write(dir.join("etcd.service"), text).expect("written");
        std::fs::write(dir.join("etcd.env"), "ETCD_NAME=alone\nETCD_INITIAL_CLUSTER=alone=http://localhost:2380\n")
            .expect("written");
        let systemd = match Systemd::boot(dir).await {
            Ok(systemd) => systemd,
            Err(why) => return foreign::not_possible(test, &why),
        };
        returned(&mut systemd.start("etcd")).await;
        assert_eq!(systemd.state("etcd"), "active");
        let etcdctl = |words: &[&str]| {
            let done = systemd.command(env!("CARGO_BIN_EXE_etcdctl")).args(words).output().expect("etcdctl");
            String::from_utf8_lossy(&done.stdout).into_owned()
        };
        assert_eq!(etcdctl(&["put", "a", "1"]), "OK\n");
        // A member that hangs says nothing, and is restarted by the watchdog.
        let before = systemd.main_pid("etcd");
        systemd.ctl(&["kill", "--signal=STOP", "etcd"]);
        until(Duration::from_secs(60), "the watchdog", async || {
            let now = (systemd.main_pid("etcd"), systemd.state("etcd"));
            if now.0 != before && now.1 == "active" { Ok(()) } else { Err(format!("{now:?}")) }
        })
        .await;
        assert_eq!(etcdctl(&["get", "a"]), "a\n1\n");
    });
}
