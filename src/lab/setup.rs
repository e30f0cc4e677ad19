//! `etcd-lab node`: a machine of the classroom is made ready, and asked from another one. The Vagrantfile's one provisioning line.
//!
//! `node setup` installs this very executable under its four names, writes down which machine this is and who the others are, and has
//! systemd run what a cloud would give: an answer to "which address do I have?", and the releases that the documents download. It needs no
//! network, says first what is missing, may be run again, and takes `--root DIR` so that a test needs no machine.
//!
//! ```text
//! table    the machines of each mode and their addresses: the same table as the Vagrantfile's, which a test compares
//! door     by which the lab's screens see an etcd that systemd runs here
//! mirror   the certificate by which this machine alone believes that its mirror is github.com
//! reach    `node on NAME COMMAND`, `node status`: by ssh, with a key that starts `etcd-lab agent` there
//! ```
//!
//! Left out: units and certificates of etcd, which are steps of the labs themselves.

mod door;
mod mirror;
mod reach;
mod table;

pub(crate) use door::DOOR;
pub(crate) use door::TOKEN;

use crate::lab::guide;
use crate::lab::picture::words::counted;
use std::fs;
use std::io;
use std::io::Write;
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;

const USAGE: &str = "\
usage: etcd-lab node setup --mode one|three|five --name NAME --ips IP[,IP] [--key FILE] [--root DIR]
       etcd-lab node cloud               what a cloud would answer, until it is ended (the unit etcd-lab-cloud runs it)
       etcd-lab node on NAME COMMAND...  a command on another machine
       etcd-lab node status              how etcd is on every machine

  --key FILE   a key for ssh, with its FILE.pub beside it: the first machine reaches the others with it. Whoever has it
               has these machines
";

/// What a machine of the course needs, and Debian's package that has it.
const TOOLS: [(&str, &str); 12] = [
    ("systemctl", "systemd"),
    ("sudo", "sudo"),
    ("curl", "curl"),
    ("wget", "wget"),
    ("tar", "tar"),
    ("openssl", "openssl"),
    ("ip", "iproute2"),
    ("lsb_release", "lsb-release"),
    ("nft", "nftables"),
    ("ssh", "openssh-client"),
    ("unshare", "util-linux"),
    ("update-ca-certificates", "ca-certificates"),
];

/// Where this machine's own notes are.
const NOTES: &str = "etc/etcd-lab";

/// Runs the cloud's answers.
const UNIT: &str = "\
# Written by `etcd-lab node setup`.
[Unit]
Description=etcd-lab: what a cloud answers, and the release mirror, for this machine alone
After=network.target

[Service]
ExecStartPre=ip address replace 169.254.169.254/32 dev lo
ExecStart=/usr/local/bin/etcd-lab node cloud
Restart=on-failure

[Install]
WantedBy=multi-user.target
";

/// The machine that `node setup` is told to be.
struct Machine {
    mode: String,
    name: String,
    ips: Vec<String>,
    key: Option<PathBuf>,
    root: PathBuf,
}

impl Machine {
    fn parse(args: &[String]) -> Result<Machine, String> {
        let mut words = args.iter();
        let mut machine =
            Machine { mode: String::new(), name: String::new(), ips: Vec::new(), key: None, root: PathBuf::from("/") };
        while let Some(word) = words.next() {
            let value = words.next().ok_or_else(|| format!("{word} needs a value"))?;
            match word.as_str() {
                "--mode" if table::MODES.contains(&value.as_str()) => machine.mode.clone_from(value),
                "--mode" => return Err(format!("--mode is {value}; it can be one, three or five")),
                "--name" => machine.name.clone_from(value),
                "--ips" => machine.ips = value.split(',').map(str::to_owned).collect(),
                "--key" => machine.key = Some(PathBuf::from(value)),
                "--root" => machine.root = PathBuf::from(value),
                _ => return Err(format!("`etcd-lab node setup` does not know {word}")),
            }
        }
        match machine.ips.iter().find(|ip| ip.parse::<IpAddr>().is_err()) {
            Some(bad) => Err(format!("{bad:?} is not an address")),
            None if machine.mode.is_empty() || machine.name.is_empty() || machine.ips.is_empty() => {
                Err("--mode, --name and --ips are needed".into())
            }
            None => Ok(machine),
        }
    }

    /// What is not here, each with where it comes from; asked before anything is changed.
    fn missing(&self) -> Vec<String> {
        let places = ["usr/bin", "bin", "usr/sbin", "sbin", "usr/local/bin"];
        let is_there = |tool: &str| places.iter().any(|place| self.root.join(place).join(tool).exists());
        let tools = TOOLS.iter().filter(|(tool, _)| !is_there(tool));
        let mut missing: Vec<String> = tools.map(|(tool, package)| format!("{tool} (package {package})")).collect();
        if let Some(key) = &self.key {
            let files = [key.clone(), reach::public(key)];
            missing.extend(files.iter().filter(|f| !f.is_file()).map(|f| f.display().to_string()));
        }
        missing
    }

    /// Does it; a second time changes no file. Returns a line for each file that was not yet so.
    ///
    /// Orders are given every time: that a file is there does not say that the order behind it was carried out the last time.
    fn set_up(&self, program: &Path, order: &mut dyn FnMut(&[&str]) -> io::Result<()>) -> io::Result<Vec<String>> {
        let mut done = self.programs(program)?;
        done.extend(written(&self.root.join(NOTES).join("machine"), self.note().as_bytes(), 0o644)?);
        done.extend(table::hosts(&self.root.join("etc/hosts"), &self.mode)?);
        done.extend(mirror::papers(&self.root)?);
        order(&["update-ca-certificates"])?;
        if let Some(key) = &self.key {
            done.extend(reach::lend(key, &self.root, self.name == table::FIRST)?);
            done.extend(door::make(key, &self.root)?);
        }
        let unit = self.root.join("etc/systemd/system/etcd-lab-cloud.service");
        done.extend(written(&unit, UNIT.as_bytes(), 0o644)?);
        order(&["systemctl", "daemon-reload"])?;
        order(&["systemctl", "enable", "-q", "etcd-lab-cloud"])?;
        order(&["systemctl", "restart", "etcd-lab-cloud"])?;
        Ok(done)
    }

    fn note(&self) -> String {
        format!("MODE={}\nNAME={}\nIPS={}\n", self.mode, self.name, self.ips.join(","))
    }

    /// This program, and its other names. What a learner has put in a name's place stays.
    fn programs(&self, program: &Path) -> io::Result<Vec<String>> {
        let mut done = Vec::new();
        let bin = self.root.join("usr/local/bin");
        fs::create_dir_all(&bin).map_err(at(&bin))?;
        let installed = bin.join("etcd-lab");
        if !same(program, &installed)? {
            // Beside it and renamed: a program that runs cannot be written to.
            let beside = bin.join(".etcd-lab.new");
            let copied = fs::copy(program, &beside)
                .and_then(|_| fs::set_permissions(&beside, fs::Permissions::from_mode(0o755)))
                .and_then(|()| fs::rename(&beside, &installed));
            copied.map_err(at(&installed))?;
            done.push("installed /usr/local/bin/etcd-lab".into());
        }
        for name in ["etcd", "etcdctl", "etcdutl"] {
            let link = bin.join(name);
            if fs::symlink_metadata(&link).is_err() {
                std::os::unix::fs::symlink("etcd-lab", &link).map_err(at(&link))?;
                done.push(format!("installed /usr/local/bin/{name}"));
            }
        }
        Ok(done)
    }

    /// An order to the machine itself; a root that is only a folder takes none.
    fn order(&self, words: &[&str]) -> io::Result<()> {
        let Some((program, args)) = words.split_first().filter(|_| self.root == Path::new("/")) else { return Ok(()) };
        let done = Command::new(program).args(args).output().map_err(at(Path::new(program)))?;
        if done.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&done.stderr).trim().to_owned();
        Err(io::Error::other(format!("{}: {said}", words.join(" "))))
    }
}

/// The error with the file's name: "permission denied" alone helps nobody.
fn at(path: &Path) -> impl Fn(io::Error) -> io::Error + '_ {
    move |e| io::Error::new(e.kind(), format!("{}: {e}", path.display()))
}

/// Whether the second file is the first, or the same byte for byte.
fn same(a: &Path, b: &Path) -> io::Result<bool> {
    let (Ok(a_path), Ok(b_path)) = (fs::canonicalize(a), fs::canonicalize(b)) else { return Ok(false) };
    if a_path == b_path {
        return Ok(true);
    }
    Ok(fs::metadata(&a_path)?.len() == fs::metadata(&b_path)?.len() && fs::read(a_path)? == fs::read(b_path)?)
}

/// What is in a file; nothing if it is not there.
fn content(path: &Path) -> io::Result<Vec<u8>> {
    match fs::read(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        read => read.map_err(at(path)),
    }
}

/// Writes a file, if it does not say that already: whole or not at all, never with more rights than this mode, for the owner of the one that was
/// there. Says so if it was news.
fn written(path: &Path, bytes: &[u8], mode: u32) -> io::Result<Option<String>> {
    if fs::read(path).is_ok_and(|there| there == bytes) {
        return Ok(None);
    }
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    let beside = PathBuf::from(beside);
    let write = || -> io::Result<()> {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        // One that was left by somebody else may have another mode.
        let _ = fs::remove_file(&beside);
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside)?;
        if let Ok(there) = fs::metadata(path) {
            std::os::unix::fs::fchown(&file, Some(there.uid()), Some(there.gid()))?;
        }
        file.write_all(bytes)?;
        // Set, not asked for: what is asked for is less by the caller's umask.
        file.set_permissions(fs::Permissions::from_mode(mode))?;
        file.sync_all()?;
        fs::rename(&beside, path)
    };
    write().map_err(at(path))?;
    Ok(Some(format!("wrote {}", path.display())))
}

/// The agent on another machine of the course, or on any host that this user's ssh reaches and that was set up in the same way.
pub(crate) fn agent_at(name: &str) -> Command {
    reach::ssh(Path::new("/"), name)
}

/// The names of the first so many machines of this one's course, on which etcd may run.
///
/// # Errors
/// This machine is none of a course, or there are not so many.
pub(crate) fn first_machines(count: usize) -> Result<Vec<String>, String> {
    let mode = noted(Path::new("/"), "MODE")?;
    let names: Vec<String> = table::members(&mode).take(count).map(str::to_owned).collect();
    match names.len() == count {
        true => Ok(names),
        false => Err(format!(
            "mode {mode} has {} for etcd: {}",
            counted(names.len() as u64, "machine", "machines"),
            names.join(", ")
        )),
    }
}

/// Whether the course has a machine of this name.
pub(crate) fn is_of_the_course(name: &str) -> bool {
    table::MODES.iter().any(|mode| table::members(mode).any(|known| known == name))
}

/// Runs `etcd-lab node …` and returns its exit code.
pub fn node(args: &[String], program: &Path, out: &mut dyn Write, err: &mut dyn Write) -> u8 {
    let rest = args.get(1..).unwrap_or_default();
    // Behind `on NAME` it is the command's.
    if args.iter().take(2).any(|word| word == "--help" || word == "-h") {
        drop(write!(out, "{USAGE}"));
        return 0;
    }
    let done = match args.first().map(String::as_str) {
        Some("setup") => match Machine::parse(rest) {
            Ok(machine) => set_up(&machine, program, out),
            Err(why) => return usage(&why, err),
        },
        Some("cloud") => cloud(Path::new("/")),
        Some("on") if rest.len() >= 2 => reach::on(Path::new("/"), &rest[0], &rest[1..], out, err),
        Some("status") if rest.is_empty() => reach::status(Path::new("/"), out),
        Some(word @ ("on" | "status")) => {
            return usage(&format!("`etcd-lab node {word}` has other words behind it"), err);
        }
        _ => return usage("`etcd-lab node` knows setup, cloud, on and status", err),
    };
    done.unwrap_or_else(|why| {
        drop(writeln!(err, "Error: {why}"));
        1
    })
}

fn usage(why: &str, err: &mut dyn Write) -> u8 {
    drop(write!(err, "Error: {why}\n{USAGE}"));
    2
}

fn set_up(machine: &Machine, program: &Path, out: &mut dyn Write) -> Result<u8, String> {
    if machine.root == Path::new("/") && !rustix::process::geteuid().is_root() {
        return Err("only root can set a machine up: run it with sudo. Nothing was changed".into());
    }
    let missing = machine.missing();
    if !missing.is_empty() {
        let what = missing.join(", ");
        return Err(format!("this machine has no {what}. A box of packaging/box has all of it; nothing was changed"));
    }
    let done = machine.set_up(program, &mut |words| machine.order(words));
    let done = done.map_err(|e| format!("cannot set up {}: {e}", machine.root.display()))?;
    // A reader that is gone is no failure.
    done.iter().for_each(|line| drop(writeln!(out, "{line}")));
    drop(writeln!(out, "{} is ready: etcd-lab, etcd, etcdctl and etcdutl are in /usr/local/bin", machine.name));
    Ok(0)
}

/// A line of this machine's note, such as `IPS`.
fn noted(root: &Path, word: &str) -> Result<String, String> {
    let path = root.join(NOTES).join("machine");
    let text = fs::read_to_string(&path)
        .map_err(|e| format!("{}: {e}. `etcd-lab node setup` writes it on a machine of the course", path.display()))?;
    let line = text.lines().find_map(|line| line.strip_prefix(word)?.strip_prefix('='));
    line.map(str::to_owned).ok_or_else(|| format!("{}: it has no line {word}=", path.display()))
}

fn cloud(root: &Path) -> Result<u8, String> {
    let first = noted(root, "IPS")?.split(',').next().unwrap_or_default().to_owned();
    let own: IpAddr = first.parse().map_err(|_| format!("IPS begins with {first:?}, which is no address"))?;
    guide::stand_in_for_the_cloud(own, &root.join("usr/local/bin/etcd-lab"), mirror::files(root))?;
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ran(line: &str) -> (u8, String) {
        let args: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let program = std::env::current_exe().expect("known");
        let code = node(&args, &program, &mut out, &mut err);
        (code, String::from_utf8([out, err].concat()).expect("text"))
    }

    /// A folder with the tools of a machine, all empty.
    fn machine() -> tempfile::TempDir {
        let root = tempfile::tempdir().expect("a directory");
        fs::create_dir_all(root.path().join("usr/bin")).expect("made");
        TOOLS.iter().for_each(|(tool, _)| fs::write(root.path().join("usr/bin").join(tool), "").expect("written"));
        root
    }

    fn line(root: &Path, more: &str) -> String {
        format!("setup --mode three --name controller-0 --ips 10.240.0.10,10.0.0.5 --root {} {more}", root.display())
    }

    #[test]
    fn a_machine_is_set_up_and_a_second_time_changes_nothing() {
        let root = machine();
        let there = |path: &str| fs::read_to_string(root.path().join(path)).expect(path);
        fs::create_dir_all(root.path().join("etc")).expect("made");
        fs::write(root.path().join("etc/hosts"), "127.0.0.1 localhost\n").expect("written");
        let key = root.path().join("key");
        fs::write(&key, "private\n").expect("written");
        fs::write(reach::public(&key), "ssh-ed25519 AAAA class\n").expect("written");
        let line = line(root.path(), &format!("--key {}", key.display()));
        let (code, said) = ran(&line);
        assert!(code == 0 && said.contains("installed /usr/local/bin/etcdctl"), "{said}");
        let link = fs::read_link(root.path().join("usr/local/bin/etcdctl")).expect("a link");
        assert_eq!(link, Path::new("etcd-lab"));
        assert_eq!(there("etc/etcd-lab/machine"), "MODE=three\nNAME=controller-0\nIPS=10.240.0.10,10.0.0.5\n");
        let hosts = there("etc/hosts");
        assert!(hosts.starts_with("127.0.0.1 localhost\n") && hosts.contains("10.240.0.11 controller-1\n"), "{hosts}");
        assert!(there("root/.ssh/authorized_keys").contains("etcd-lab agent\",restrict ssh-ed25519 AAAA class\n"));
        // What a learner has put in the place of a name.
        let own = root.path().join("usr/local/bin/etcdctl");
        fs::remove_file(&own).and_then(|()| fs::write(&own, "theirs")).expect("written");
        let again = ran(&line);
        assert_eq!(again.1.lines().count(), 1, "{}", again.1);
        assert_eq!((there("etc/hosts"), there("usr/local/bin/etcdctl").as_str()), (hosts, "theirs"));
    }

    #[test]
    fn what_an_order_left_undone_is_done_the_next_time() {
        let root = machine();
        let args: Vec<String> = line(root.path(), "").split_whitespace().skip(1).map(str::to_owned).collect();
        let machine = Machine::parse(&args).expect("right");
        let program = root.path().join("program");
        fs::write(&program, "etcd-lab").expect("written");
        let orders = ["update-ca-certificates", "systemctl daemon-reload", "systemctl enable -q etcd-lab-cloud"];
        for failing in orders {
            let refused = machine.set_up(&program, &mut |words| match words.join(" ") == failing {
                true => Err(io::Error::other("interrupted")),
                false => Ok(()),
            });
            assert_eq!(refused.expect_err(failing).to_string(), "interrupted");
        }
        let mut given = Vec::new();
        let again = machine.set_up(&program, &mut |words| {
            given.push(words.join(" "));
            Ok(())
        });
        assert_eq!(again.expect("set up"), [""; 0], "every file was there");
        assert_eq!(given, [&orders[..], &["systemctl restart etcd-lab-cloud"]].concat());
    }

    #[test]
    fn a_file_is_replaced_whole_and_has_its_mode() {
        let root = tempfile::tempdir().expect("a directory");
        let file = root.path().join("deep/key");
        assert!(written(&file, b"old", 0o600).expect("written").is_some());
        let inode = |file: &Path| fs::metadata(file).map(|m| (m.ino(), m.mode() & 0o777)).expect("there");
        let before = inode(&file);
        let public = root.path().join("public");
        written(&public, b"hosts", 0o644).expect("written");
        assert_eq!((before.1, inode(&public).1), (0o600, 0o644));
        let mut reader = fs::File::open(&file).expect("there");
        assert!(written(&file, b"new", 0o600).expect("written").is_some());
        assert_ne!(inode(&file).0, before.0, "another file has its name");
        let mut text = String::new();
        io::Read::read_to_string(&mut reader, &mut text).expect("read");
        assert_eq!((text.as_str(), fs::read(&file).expect("there").as_slice()), ("old", &b"new"[..]));
        assert_eq!(fs::read_dir(root.path().join("deep")).expect("listed").count(), 1, "nothing is left beside it");
        let said = written(&root.path().join("deep/key/below"), b"x", 0o644).expect_err("a file is no folder");
        assert!(said.to_string().contains("deep/key/below: "), "{said}");
        assert!(content(root.path()).is_err() && content(&root.path().join("none")).is_ok_and(|c| c.is_empty()));
    }

    #[test]
    fn what_is_missing_is_named_before_anything_is_changed() {
        let root = machine();
        fs::remove_file(root.path().join("usr/bin/nft")).expect("it was there");
        let (code, said) = ran(&line(root.path(), "--key /nowhere/key"));
        assert_eq!(code, 1);
        assert!(said.contains("no nft (package nftables), /nowhere/key, /nowhere/key.pub. A box"), "{said}");
        assert!(!root.path().join("usr/local").exists());
    }

    #[test]
    fn what_is_wrong_is_said() {
        assert!(ran("setup --mode seven").1.contains("one, three or five"));
        assert!(ran("setup --mode one --name a --ips 10.0.0").1.contains("\"10.0.0\" is not an address"));
        assert!(ran("setup --mode one").1.contains("--mode, --name and --ips are needed"));
        assert_eq!(ran("teardown").0, 2);
        for help in ["--help", "setup --help", "on -h", "status --help"] {
            assert_eq!(ran(help), (0, USAGE.to_owned()), "{help}");
        }
    }
}
