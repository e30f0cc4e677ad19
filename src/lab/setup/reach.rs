//! From one machine to the others: `etcd-lab agent` over ssh.
//!
//! The key is made where the Vagrantfile is, and is good for one thing: its line in `authorized_keys` names the agent as the only program
//! that it may start. Nothing new listens on the network.

use crate::lab::agent;
use crate::lab::agent::Answer;
use crate::lab::agent::Ask;
use std::fs;
use std::io;
use std::io::Write;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::fs::chown;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::process::Stdio;

/// The key of the first machine, below its root.
const KEY: &str = "etc/etcd-lab/agent-key";

/// The user of Vagrant's boxes.
const USER: &str = "vagrant";

/// The public half's file.
pub(super) fn public(key: &Path) -> PathBuf {
    let mut name = key.as_os_str().to_owned();
    name.push(".pub");
    name.into()
}

/// Who learners are on a machine: name, ids and home. The box's user, or root where there is none.
fn user(root: &Path) -> (String, u32, u32, PathBuf) {
    let passwd = fs::read_to_string(root.join("etc/passwd")).unwrap_or_default();
    let fields = passwd.lines().map(|l| l.split(':').collect::<Vec<_>>()).find(|f| f.first() == Some(&USER));
    match fields.as_deref() {
        Some([name, _, uid, gid, _, home, ..]) => {
            let id = |word: &str| word.parse().unwrap_or_default();
            ((*name).to_owned(), id(uid), id(gid), root.join(home.trim_start_matches('/')))
        }
        _ => ("root".to_owned(), 0, 0, root.join("root")),
    }
}

/// Lets the key's owner start the agent here; on the first machine, keeps the key too.
pub(super) fn lend(key: &Path, root: &Path, is_first: bool) -> io::Result<Vec<String>> {
    let mut done = Vec::new();
    let (_, uid, gid, home) = user(root);
    // Only root can give files away, and a test's folder is whose test it is.
    let own = |path: &Path, mode: u32| {
        fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
        if root == Path::new("/") { chown(path, Some(uid), Some(gid)) } else { Ok(()) }
    };
    let ssh = home.join(".ssh");
    fs::create_dir_all(&ssh)?;
    own(&ssh, 0o700)?;
    let allowed = ssh.join("authorized_keys");
    let there = fs::read_to_string(&allowed).unwrap_or_default();
    let public = fs::read_to_string(public(key))?;
    let line = format!("command=\"sudo /usr/local/bin/etcd-lab agent\",restrict {}\n", public.trim());
    if !there.contains(&line) {
        // An older key of the same class is of no use any more.
        let others = there.lines().filter(|l| !l.contains("etcd-lab agent\",restrict"));
        let others: String = others.map(|l| format!("{l}\n")).collect();
        done.extend(super::written(&allowed, &(others + &line))?);
    }
    own(&allowed, 0o600)?;
    if is_first {
        let kept = root.join(KEY);
        done.extend(super::written(&kept, &fs::read_to_string(key)?)?);
        own(&kept, 0o600)?;
    }
    Ok(done)
}

/// The agent on this machine, by ssh.
fn ssh(root: &Path, name: &str) -> Command {
    let mut command = Command::new("ssh");
    let known = format!("UserKnownHostsFile={}", root.join("etc/etcd-lab/known-hosts").display());
    command.args(["-i", &root.join(KEY).to_string_lossy(), "-o", "IdentitiesOnly=yes", "-o", "BatchMode=yes"]);
    command.args(["-o", "ConnectTimeout=5", "-o", "StrictHostKeyChecking=accept-new", "-o", &known]);
    command.args(["-o", "LogLevel=ERROR", &format!("{}@{name}", user(root).0), "agent"]);
    command.stderr(Stdio::piped());
    command
}

fn known(root: &Path, name: &str) -> Result<(), String> {
    let mode = super::noted(root, "MODE")?;
    let names: Vec<&str> = super::table::machines(&mode).map(|(name, _)| name).collect();
    match names.contains(&name) {
        true => Ok(()),
        false => Err(format!("there is no machine {name:?} in mode {mode}; there are {}", names.join(", "))),
    }
}

/// `etcd-lab node on NAME COMMAND…`.
pub(super) fn on(
    root: &Path,
    name: &str,
    argv: &[String],
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> Result<u8, String> {
    known(root, name)?;
    // One word is a line for a shell, as with ssh.
    let argv = match argv {
        [line] => ["sh", "-c", line].map(str::to_owned).to_vec(),
        words => words.to_vec(),
    };
    let mut there = agent::Remote::start(&mut ssh(root, name)).map_err(|why| format!("{name}: {why}"))?;
    match there.ask(&Ask::Run { argv }).map_err(|why| format!("{name}: {why}"))? {
        Answer::Ran { exit, out: said, err: told } => {
            // A reader that is gone is no failure.
            drop(out.write_all(said.as_bytes()).and(err.write_all(told.as_bytes())));
            Ok(u8::try_from(exit).unwrap_or(1))
        }
        other => Err(format!("{name}: the agent gave another answer: {other:?}")),
    }
}

/// `etcd-lab node status`: one line for each machine.
pub(super) fn status(root: &Path, out: &mut dyn Write) -> Result<u8, String> {
    let mode = super::noted(root, "MODE")?;
    let mut all = true;
    for (name, ip) in super::table::machines(&mode) {
        let line = match told(root, name) {
            Ok(line) => line,
            Err(why) => {
                all = false;
                format!("not reached: {why}")
            }
        };
        // A reader that is gone is no failure.
        drop(writeln!(out, "{name:<13} {ip:<12} {line}"));
    }
    Ok(u8::from(!all))
}

fn told(root: &Path, name: &str) -> Result<String, String> {
    let mut there = agent::Remote::start(&mut ssh(root, name))?;
    let unit = match there.ask(&Ask::Unit { name: "etcd".into() })? {
        Answer::Unit { load, active, enabled } if load == "loaded" => format!("etcd {active}, {enabled}"),
        Answer::Unit { .. } => "etcd has no unit".into(),
        other => return Err(format!("another answer: {other:?}")),
    };
    let data = match there.ask(&Ask::File { path: "/var/lib/etcd".into() })? {
        Answer::File { exists: true, mode, .. } => format!("/var/lib/etcd {mode}"),
        _ => "no /var/lib/etcd".into(),
    };
    Ok(format!("{unit}; {data}; etcd-lab {}", there.version()))
}
