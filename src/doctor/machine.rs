//! This machine: who holds a port, which members run here, how they are. Read from `/proc`; where there is none, nothing is known.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::path::Path;
use std::path::PathBuf;

/// A process of this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// Its number.
    pub pid: u32,
    /// Its command line.
    pub words: Vec<String>,
    /// Its state, in the kernel's letter: `S` sleeps, `R` runs, `T` is stopped.
    pub state: char,
    /// The systemd unit that it belongs to, if it does to one.
    pub unit: Option<String>,
    /// Where it is at work.
    pub folder: PathBuf,
    /// Its variables that etcd reads.
    env: BTreeMap<String, String>,
}

impl Process {
    fn read(pid: u32) -> Option<Process> {
        let file =
            |name: &str| fs::read(format!("/proc/{pid}/{name}")).map(|b| String::from_utf8_lossy(&b).into_owned());
        let words: Vec<String> = file("cmdline").ok()?.split_terminator('\0').map(str::to_owned).collect();
        // Behind the command's name, which stands in parentheses and may hold anything.
        let state = file("stat").ok()?.rsplit_once(") ")?.1.chars().next()?;
        let unit = file("cgroup").ok().and_then(|text| {
            let last = text.lines().filter_map(|line| line.rsplit('/').next()).find(|name| name.ends_with(".service"));
            last.map(str::to_owned)
        });
        let variables = file("environ").unwrap_or_default();
        let env =
            variables.split('\0').filter(|pair| pair.starts_with("ETCD_")).filter_map(|pair| pair.split_once('='));
        let env = env.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        let folder = fs::read_link(format!("/proc/{pid}/cwd")).unwrap_or_default();
        Some(Process { pid, words, state, unit, folder, env })
    }

    /// Whether a signal has stopped it.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        matches!(self.state, 'T' | 't')
    }

    /// Whether it is an etcd server.
    fn is_member(&self) -> bool {
        let name = |word: &String| Path::new(word).file_name().map(|name| name.to_string_lossy().into_owned());
        let names: Vec<Option<String>> = self.words.iter().take(2).map(name).collect();
        names.first() == Some(&Some("etcd".to_owned())) || names.get(1) == Some(&Some("etcd".to_owned()))
    }

    /// What a flag of etcd is for it: from its command line, or its environment.
    #[must_use]
    pub fn flag(&self, name: &str) -> Option<String> {
        flag(&self.words, name).or_else(|| self.env.get(&variable(name)).cloned())
    }

    /// Where a member has its data.
    #[must_use]
    pub fn data_dir(&self) -> PathBuf {
        let name = self.flag("name").unwrap_or_else(|| "default".to_owned());
        let dir = self.flag("data-dir").filter(|dir| !dir.is_empty()).unwrap_or_else(|| format!("{name}.etcd"));
        self.folder.join(dir)
    }
}

impl fmt::Display for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let program = self.words.first().map_or("?", |word| word.rsplit('/').next().unwrap_or(word));
        write!(f, "{program} (pid {})", self.pid)?;
        if let Some(unit) = &self.unit {
            write!(f, " of {unit}")?;
        }
        if self.is_member() { write!(f, " with its data in {}", self.data_dir().display()) } else { Ok(()) }
    }
}

/// The value that a command line gives a flag, as `--name value` or `--name=value`; the last one counts.
#[must_use]
pub fn flag(words: &[String], name: &str) -> Option<String> {
    let mut value = None;
    for (at, word) in words.iter().enumerate() {
        let Some(given) = word.strip_prefix("--").or_else(|| word.strip_prefix('-')) else { continue };
        match given.split_once('=') {
            Some((flag, given)) if flag == name => value = Some(given.to_owned()),
            None if given == name => value = words.get(at + 1).cloned(),
            _ => {}
        }
    }
    value
}

/// The variable that stands for a flag of etcd.
pub(super) fn variable(flag: &str) -> String {
    format!("ETCD_{}", flag.to_uppercase().replace('-', "_"))
}

fn pids() -> Vec<u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// The etcd servers that run on this machine, as far as this user may see.
#[must_use]
pub fn members() -> Vec<Process> {
    pids().into_iter().filter_map(Process::read).filter(Process::is_member).collect()
}

/// Who listens on a TCP port of this machine. Nothing if it belongs to another user.
#[must_use]
pub fn holder(port: u16) -> Option<Process> {
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"].map(|table| fs::read_to_string(table).unwrap_or_default());
    let sockets: BTreeSet<PathBuf> = tables.iter().flat_map(|table| listening(table, port)).collect();
    let holds = |pid: &u32| {
        let files = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        files.into_iter().any(|file| fs::read_link(file.path()).is_ok_and(|to| sockets.contains(&to)))
    };
    pids().into_iter().find(holds).and_then(Process::read)
}

/// The sockets that listen on a port, as the links of open files name them. Columns: `sl local rem st … inode`.
fn listening(table: &str, port: u16) -> Vec<PathBuf> {
    const LISTEN: &str = "0A";
    let suffix = format!(":{port:04X}");
    let rows = table.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>());
    let listening = rows.filter(|row| row.len() > 9 && row[1].ends_with(&suffix) && row[3] == LISTEN);
    listening.map(|row| format!("socket:[{}]", row[9]).into()).collect()
}

/// Of a hundred parts of processor time since the machine started, those that other machines on its host took.
pub(super) fn steal_percent() -> Option<u64> {
    steal_of(&fs::read_to_string("/proc/stat").ok()?)
}

/// Columns of the first line: user, nice, system, idle, iowait, irq, softirq, steal.
fn steal_of(stat: &str) -> Option<u64> {
    let times: Vec<u64> =
        stat.lines().next()?.split_whitespace().skip(1).filter_map(|time| time.parse().ok()).collect();
    let all: u64 = times.iter().take(8).sum();
    (times.get(7)? * 100).checked_div(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<String> {
        line.split(' ').map(str::to_owned).collect()
    }

    #[test]
    fn a_flag_is_read_in_both_spellings_and_the_last_counts() {
        let line = words("etcd --name a -data-dir=/d --name=b --initial-cluster b=http://h:1");
        assert_eq!(flag(&line, "name").as_deref(), Some("b"));
        assert_eq!(flag(&line, "data-dir").as_deref(), Some("/d"));
        assert_eq!(flag(&line, "initial-cluster").as_deref(), Some("b=http://h:1"));
        assert_eq!(flag(&line, "debug"), None);
    }

    #[test]
    fn a_port_of_ours_is_ours() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("it has one").port();
        assert_eq!(holder(port).map(|holder| holder.pid), Some(std::process::id()));
        drop(listener);
        assert_eq!(holder(port), None);
    }

    #[test]
    fn stolen_time_is_a_share_of_all() {
        assert_eq!(steal_of("cpu  10 0 10 60 0 0 0 20 0 0\ncpu0 …"), Some(20));
        assert_eq!(steal_of("cpu  0 0 0 0 0 0 0 0"), None);
        assert_eq!(steal_of("cpu  1 2"), None);
    }
}
