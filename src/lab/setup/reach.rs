//! From one machine to the others: `etcd-lab agent` over ssh.
//!
//! The key is made where the Vagrantfile is. Its line in `authorized_keys` names the agent as the only program that it may start, and the agent
//! does as root what it is told: whoever has the key has the machines. Nothing new listens on the network.

use crate::lab::agent;
use crate::lab::agent::Answer;
use crate::lab::agent::Ask;
use std::fs;
use std::io;
use std::io::Write;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt as _;
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
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(super::at(path))?;
        if root == Path::new("/") { chown(path, Some(uid), Some(gid)).map_err(super::at(path)) } else { Ok(()) }
    };
    let ssh = home.join(".ssh");
    fs::create_dir_all(&ssh).map_err(super::at(&ssh))?;
    own(&ssh, 0o700)?;
    let allowed = ssh.join("authorized_keys");
    // Others' lines stay as they are, byte for byte: Vagrant's own key is one of them.
    let mut there = super::content(&allowed)?;
    if there.last().is_some_and(|byte| *byte != b'\n') {
        there.push(b'\n');
    }
    let public = public(key);
    let public = fs::read_to_string(&public).map_err(super::at(&public))?;
    let line = format!("command=\"sudo /usr/local/bin/etcd-lab agent\",restrict {}\n", public.trim());
    // An older key of the same class is of no use any more.
    let is_other = |line: &&[u8]| !String::from_utf8_lossy(line).contains("etcd-lab agent\",restrict");
    let mut lines: Vec<&[u8]> = there.split_inclusive(|byte| *byte == b'\n').filter(is_other).collect();
    lines.push(line.as_bytes());
    done.extend(super::written(&allowed, &lines.concat(), 0o600)?);
    own(&allowed, 0o600)?;
    if is_first {
        let kept = root.join(KEY);
        done.extend(super::written(&kept, &fs::read(key).map_err(super::at(key))?, 0o600)?);
        own(&kept, 0o600)?;
    }
    Ok(done)
}

/// The agent on this machine, by ssh: with the course's key where that is, else as the caller's own ssh would go there.
pub(super) fn ssh(root: &Path, name: &str) -> Command {
    let key = root.join(KEY);
    let mut command = Command::new("ssh");
    let whom = if key.is_file() {
        command.args(["-i", &key.to_string_lossy(), "-o", "IdentitiesOnly=yes"]);
        format!("{}@{name}", user(root).0)
    } else {
        name.to_owned()
    };
    // The other machine is known from the first time on, in the learner's own ~/.ssh/known_hosts.
    command.args(["-o", "BatchMode=yes", "-o", "ConnectTimeout=5", "-o", "StrictHostKeyChecking=accept-new"]);
    // One that is gone without a word is missed within seconds.
    command.args(["-o", "ServerAliveInterval=2", "-o", "ServerAliveCountMax=3"]);
    // All agents of a machine share one connection, which outlives the last of them by a little: the next one starts at once.
    command.args(["-o", "ControlMaster=auto", "-o", "ControlPersist=10", "-o", "ControlPath=~/.ssh/etcd-lab-%C"]);
    // A name that begins with a dash is a name, and no option of ssh's.
    command.args(["-o", "LogLevel=ERROR", "--", &whom, "sudo /usr/local/bin/etcd-lab agent"]);
    // A group of its own: Ctrl-C in the lab's terminal is for the lab.
    command.stderr(Stdio::piped()).process_group(0);
    command
}

fn known(root: &Path, name: &str) -> Result<(), String> {
    // Where there is no course there is no list of its machines: ssh knows the name, or not.
    let Ok(mode) = super::noted(root, "MODE") else { return Ok(()) };
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
        Answer::Ran { exit, out: said, err: told, cut } => {
            // A reader that is gone is no failure.
            drop(out.write_all(said.as_bytes()).and(err.write_all(told.as_bytes())));
            if cut {
                let most = agent::MOST >> 20;
                drop(writeln!(
                    err,
                    "etcd-lab: it said more; this is the first {most} MiB. Let the command itself choose"
                ));
            }
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
        Answer::Unit { load, active, enabled, .. } if load == "loaded" => format!("etcd {active}, {enabled}"),
        Answer::Unit { .. } => "etcd has no unit".into(),
        other => return Err(format!("another answer: {other:?}")),
    };
    let data = match there.ask(&Ask::File { path: "/var/lib/etcd".into() })? {
        Answer::File { exists: true, mode, .. } => format!("/var/lib/etcd {mode}"),
        _ => "no /var/lib/etcd".into(),
    };
    Ok(format!("{unit}; {data}; etcd-lab {}", there.version()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_no_option_of_ssh() {
        let root = tempfile::tempdir().expect("a directory");
        let command = ssh(root.path(), "-oProxyCommand=touch /tmp/x");
        let words: Vec<_> = command.get_args().map(|word| word.to_string_lossy()).collect();
        let place = words.iter().position(|word| word.starts_with("-oProxyCommand")).expect("the host");
        assert_eq!(words[place - 1], "--", "{words:?}");
        assert_eq!(words[place + 2..], [""; 0], "behind it is what is run there, and nothing else");
    }

    #[test]
    fn a_key_joins_the_others_whatever_their_comments_are_and_its_private_half_is_private() {
        let root = tempfile::tempdir().expect("a directory");
        let key = root.path().join("key");
        fs::write(&key, "private\n").expect("written");
        fs::write(public(&key), "ssh-ed25519 AAAA class\n").expect("written");
        let allowed = root.path().join("root/.ssh/authorized_keys");
        fs::create_dir_all(allowed.parent().expect("a folder")).expect("made");
        // Latin-1, and no line feed at the end.
        let vagrant = b"ssh-rsa AAAA andr\xe9";
        let older = b"command=\"sudo /usr/local/bin/etcd-lab agent\",restrict ssh-ed25519 BBBB class\n";
        fs::write(&allowed, [&older[..], vagrant].concat()).expect("written");
        assert_eq!(lend(&key, root.path(), true).expect("lent").len(), 2);
        let there = fs::read(&allowed).expect("there");
        let line = b"\ncommand=\"sudo /usr/local/bin/etcd-lab agent\",restrict ssh-ed25519 AAAA class\n";
        assert_eq!(String::from_utf8_lossy(&there), String::from_utf8_lossy(&[&vagrant[..], line].concat()));
        assert!(there.starts_with(vagrant), "byte for byte");
        assert_eq!(lend(&key, root.path(), true).expect("lent"), [""; 0], "a second time changes nothing");
        let mode = |path: &Path| fs::metadata(path).expect("there").permissions().mode() & 0o777;
        assert_eq!((mode(&root.path().join(KEY)), mode(&allowed)), (0o600, 0o600));
        // What cannot be read is not taken for empty.
        fs::remove_file(&allowed).and_then(|()| fs::create_dir(&allowed)).expect("made");
        let said = lend(&key, root.path(), false).expect_err("a folder").to_string();
        assert!(said.contains("authorized_keys: "), "{said}");
    }
}
