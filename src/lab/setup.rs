//! `etcd-lab node setup`: makes a machine of the classroom ready. The Vagrantfile's one provisioning line.
//!
//! Installs this very executable as `etcd-lab`, `etcd`, `etcdctl` and `etcdutl` in /usr/local/bin, and writes down which machine this is. Needs no network, may
//! be run again, and takes `--root DIR` so that a test needs no machine. Left out: units, certificates and the release mirror, which are
//! steps of the labs themselves or come with the classroom's issue.

use std::fs;
use std::io;
use std::io::Write;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::path::PathBuf;

const USAGE: &str = "usage: etcd-lab node setup --mode one|three|five --name NAME --ips IP[,IP] [--root DIR]\n";

/// The machine that `node setup` is told to be.
struct Machine {
    mode: String,
    name: String,
    ips: Vec<String>,
    root: PathBuf,
}

impl Machine {
    fn parse(args: &[String]) -> Result<Machine, String> {
        let mut words = args.iter();
        if words.next().is_none_or(|word| word != "setup") {
            return Err("`etcd-lab node` knows one command, setup".into());
        }
        let mut machine =
            Machine { mode: String::new(), name: String::new(), ips: Vec::new(), root: PathBuf::from("/") };
        while let Some(word) = words.next() {
            let value = words.next().ok_or_else(|| format!("{word} needs a value"))?;
            match word.as_str() {
                "--mode" if ["one", "three", "five"].contains(&value.as_str()) => machine.mode.clone_from(value),
                "--mode" => return Err(format!("--mode is {value}; it can be one, three or five")),
                "--name" => machine.name.clone_from(value),
                "--ips" => machine.ips = value.split(',').map(str::to_owned).collect(),
                "--root" => machine.root = PathBuf::from(value),
                _ => return Err(format!("`etcd-lab node setup` does not know {word}")),
            }
        }
        match machine.ips.iter().find(|ip| ip.parse::<std::net::IpAddr>().is_err()) {
            Some(bad) => Err(format!("{bad:?} is not an address")),
            None if machine.mode.is_empty() || machine.name.is_empty() || machine.ips.is_empty() => {
                Err("--mode, --name and --ips are needed".into())
            }
            None => Ok(machine),
        }
    }

    /// Does it; a second time changes nothing.
    fn set_up(&self, program: &Path) -> io::Result<()> {
        let bin = self.root.join("usr/local/bin");
        fs::create_dir_all(&bin)?;
        let installed = bin.join("etcd-lab");
        if fs::canonicalize(program)? != fs::canonicalize(&installed).unwrap_or_default() {
            // Beside it and renamed: a program that runs cannot be written to.
            let beside = bin.join(".etcd-lab.new");
            fs::copy(program, &beside)?;
            fs::set_permissions(&beside, fs::Permissions::from_mode(0o755))?;
            fs::rename(&beside, &installed)?;
        }
        for name in ["etcd", "etcdctl", "etcdutl"] {
            let link = bin.join(name);
            match fs::remove_file(&link) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                _ => std::os::unix::fs::symlink("etcd-lab", &link)?,
            }
        }
        let notes = self.root.join("etc/etcd-lab");
        fs::create_dir_all(&notes)?;
        fs::write(
            notes.join("machine"),
            format!("MODE={}\nNAME={}\nIPS={}\n", self.mode, self.name, self.ips.join(",")),
        )
    }
}

/// Runs `etcd-lab node …` and returns its exit code.
pub fn node(args: &[String], program: &Path, out: &mut dyn Write, err: &mut dyn Write) -> u8 {
    let machine = match Machine::parse(args) {
        Ok(machine) => machine,
        Err(why) => {
            drop(write!(err, "Error: {why}\n{USAGE}"));
            return 2;
        }
    };
    match machine.set_up(program) {
        Ok(()) => {
            drop(writeln!(out, "{} is ready: etcd-lab, etcd, etcdctl and etcdutl are in /usr/local/bin", machine.name));
            0
        }
        Err(e) => {
            drop(writeln!(err, "Error: cannot set up {}: {e}", machine.root.display()));
            1
        }
    }
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

    #[test]
    fn a_machine_is_set_up_twice_with_the_same_end() {
        let root = tempfile::tempdir().expect("a directory");
        let line = format!("setup --mode three --name c-0 --ips 10.240.0.10,10.0.0.5 --root {}", root.path().display());
        for _ in 0..2 {
            assert_eq!(ran(&line).0, 0);
            let link = fs::read_link(root.path().join("usr/local/bin/etcdctl")).expect("a link");
            assert_eq!(link, Path::new("etcd-lab"));
            let note = fs::read_to_string(root.path().join("etc/etcd-lab/machine")).expect("written");
            assert_eq!(note, "MODE=three\nNAME=c-0\nIPS=10.240.0.10,10.0.0.5\n");
        }
    }

    #[test]
    fn what_is_wrong_is_said() {
        assert!(ran("setup --mode seven").1.contains("one, three or five"));
        assert!(ran("setup --mode one --name a --ips 10.0.0").1.contains("\"10.0.0\" is not an address"));
        assert!(ran("setup --mode one").1.contains("--mode, --name and --ips are needed"));
        assert_eq!(ran("teardown").0, 2);
    }
}
