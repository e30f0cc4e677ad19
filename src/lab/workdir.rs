//! The work folder: everything that a lab's cluster leaves on disk.
//!
//! ```text
//! ~/.local/state/etcd-lab/1/
//!   .etcd-lab        the marker: made by the lab, so the lab may remove it; locked while a lab works here
//!   lab.json         who runs here: pids, ports, URLs (for `down`, `show` and `shell` in other terminals)
//!   token            the secret that members want from observers, mode 0600
//!   bin/             etcd, etcdctl, etcdutl, etcd-lab: links to this executable, for the lab shell's PATH
//!   n1/              data/, lab.sock, etcd.log
//! ```

use crate::disk;
use crate::lab::Error;
use rand::TryRngCore as _;
use rand::rngs::OsRng;
use rustix::fs::FlockOperation;
use serde::Deserialize;
use serde::Serialize;
use std::fs;
use std::fs::File;
use std::io;
use std::io::Write as _;
use std::os::unix::fs::DirBuilderExt as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;
use std::time::SystemTime;

/// The file that says: the lab made this folder.
pub const MARKER: &str = ".etcd-lab";
const STATE: &str = "lab.json";
const TOKEN: &str = "token";
/// Longest path of a unix socket on Linux is 107 bytes; elsewhere 103.
const SOCKET_PATH_MAX: usize = 100;
/// Folders tried before giving up on finding a free number.
const FOLDERS_MAX: usize = 10_000;

/// One member, as other terminals see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberRecord {
    /// `n1` to `n5`.
    pub name: String,
    /// 0 while it does not run.
    pub pid: u32,
    /// Where clients connect.
    pub client_url: String,
    /// Where the other members connect.
    pub peer_url: String,
    /// Where observers connect.
    pub lab_socket: PathBuf,
    /// What it printed.
    pub log: PathBuf,
    /// Its data directory.
    pub data_dir: PathBuf,
}

/// The content of `lab.json`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The process that owns the members.
    pub supervisor_pid: u32,
    /// etcd's `--initial-cluster-token`.
    pub cluster_token: String,
    /// The members, n1 first.
    pub members: Vec<MemberRecord>,
    /// The program that they are, if it is not our own.
    #[serde(default)]
    pub upstream: Option<PathBuf>,
    /// Members speak TLS to each other, with certificates of the lab's own authority.
    #[serde(default)]
    pub tls: bool,
    /// The machines on which the members are, n1's first; none: on this one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub machines: Vec<String>,
}

impl Record {
    /// All client URLs, as `ETCDCTL_ENDPOINTS` wants them.
    #[must_use]
    pub fn endpoints(&self) -> String {
        self.members.iter().map(|m| m.client_url.as_str()).collect::<Vec<_>>().join(",")
    }
}

#[cfg(test)]
impl Record {
    /// For tests: members n1, n2, … of no cluster that runs.
    pub(crate) fn sample(members: usize) -> Record {
        let member = |n: usize| {
            // As a real lab has them: 2379, 22379, 32379, …
            let port = if n == 1 { 2_379 } else { n * 10_000 + 2_379 };
            MemberRecord {
                name: format!("n{n}"),
                pid: 0,
                client_url: format!("http://127.0.0.1:{port}"),
                peer_url: format!("http://127.0.0.1:{}", port + 1),
                lab_socket: "lab.sock".into(),
                log: "etcd.log".into(),
                data_dir: "data".into(),
            }
        };
        let members = (1..=members).map(member).collect();
        Record { supervisor_pid: 1, cluster_token: "t".into(), members, ..Record::default() }
    }
}

/// The names of kube-lite's programs; see `kube`.
pub(crate) const KUBE_PROGRAMS: [&str; 5] =
    ["kube-apiserver", "kube-scheduler", "kube-controller-manager", "kubelet", "kubectl"];

/// A work folder that this process holds. The lock goes with the value, also when the process is killed.
#[derive(Debug)]
pub struct WorkDir {
    path: PathBuf,
    _lock: File,
}

impl WorkDir {
    /// Makes a new folder with the next free number under `base`.
    ///
    /// # Errors
    /// If nothing can be written there, or its sockets' paths would be too long.
    pub fn create_under(base: &Path) -> Result<WorkDir, Error> {
        private_dirs(base).map_err(Error::file("cannot make the folder", base))?;
        for number in 1..FOLDERS_MAX {
            let path = base.join(number.to_string());
            match fs::DirBuilder::new().mode(0o700).create(&path) {
                Ok(()) => return WorkDir::init(path),
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                Err(e) => return Err(Error::file("cannot make the folder", &path)(e)),
            }
        }
        Err(Error::NoFolder { tried: format!("{} holds {FOLDERS_MAX} of them", base.display()) })
    }

    /// Takes the folder that the user named: a new or empty one, or one that a lab has kept.
    ///
    /// # Errors
    /// If it has foreign content, or another lab works in it.
    pub fn open(path: &Path) -> Result<WorkDir, Error> {
        private_dirs(path).map_err(Error::file("cannot make the folder", path))?;
        let path = path.canonicalize().map_err(Error::file("cannot open", path))?;
        let empty = fs::read_dir(&path).map_err(Error::file("cannot read", &path))?.next().is_none();
        if !empty && !path.join(MARKER).exists() {
            return Err(Error::NotOurs(path));
        }
        WorkDir::init(path)
    }

    fn init(path: PathBuf) -> Result<WorkDir, Error> {
        if path.as_os_str().len() + "/n5/lab.sock".len() > SOCKET_PATH_MAX {
            // Ours and empty a moment ago: leave nothing behind.
            drop(fs::remove_dir(&path));
            return Err(Error::PathTooLong(path));
        }
        let marker = path.join(MARKER);
        let failed = Error::file("cannot write", &marker);
        let mut lock = match private_file(&marker, false) {
            Ok(file) => file,
            Err(e) => return Err(failed(e)),
        };
        if rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            return Err(Error::InUse(path));
        }
        lock.write_all(b"Made by etcd-lab, which may remove this folder.\n").map_err(failed)?;
        let token = path.join(TOKEN);
        if !token.exists() {
            let mut secret = [0; 16];
            let random = OsRng.try_fill_bytes(&mut secret).map_err(io::Error::other);
            random.map_err(|source| Error::System { what: "no randomness for a token", source })?;
            let hex: String = secret.iter().map(|b| format!("{b:02x}")).collect();
            let written = private_file(&token, true).and_then(|mut f| f.write_all(hex.as_bytes()));
            written.map_err(Error::file("cannot write", &token))?;
        }
        Ok(WorkDir { path, _lock: lock })
    }

    /// Where it is, absolute.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The file with the observers' secret.
    #[must_use]
    pub fn token_file(&self) -> PathBuf {
        self.path.join(TOKEN)
    }

    /// The folder for the lab shell's PATH.
    #[must_use]
    pub fn bin(&self) -> PathBuf {
        self.path.join("bin")
    }

    /// Where the link named `etcd` to our own server is, if the one in [`WorkDir::bin`] is to another.
    #[must_use]
    pub fn our_etcd(&self) -> PathBuf {
        self.bin().join("ours").join("etcd")
    }

    /// Puts links named `etcd`, `etcdctl`, `etcdutl`, `etcd-lab` and as Kubernetes's programs to `program` into `bin/`; `etcd` to another
    /// one, if it is given: then ours is [`WorkDir::our_etcd`].
    ///
    /// # Errors
    /// If they cannot be made.
    pub fn link_programs(&self, program: &Path, etcd: Option<&Path>) -> Result<(), Error> {
        let bin = self.bin();
        private_dirs(&bin).map_err(Error::file("cannot make the folder", &bin))?;
        for name in ["etcd", "etcdctl", "etcdutl", "etcd-lab"].into_iter().chain(KUBE_PROGRAMS) {
            let link = bin.join(name);
            drop(fs::remove_file(&link));
            let program = etcd.filter(|_| name == "etcd").unwrap_or(program);
            std::os::unix::fs::symlink(program, &link).map_err(Error::file("cannot make the link", &link))?;
        }
        if etcd.is_some() {
            let link = self.our_etcd();
            private_dirs(disk::folder_of(&link)).map_err(Error::file("cannot make the folder", &link))?;
            drop(fs::remove_file(&link));
            std::os::unix::fs::symlink(program, &link).map_err(Error::file("cannot make the link", &link))?;
        }
        Ok(())
    }

    /// Writes `lab.json` whole or not at all.
    ///
    /// # Errors
    /// If the disk refuses.
    pub fn save(&self, record: &Record) -> Result<(), Error> {
        let (path, fresh) = (self.path.join(STATE), self.path.join("lab.json.new"));
        let json = serde_json::to_vec_pretty(record).expect("strings and numbers only");
        let written = fs::write(&fresh, json).and_then(|()| fs::rename(&fresh, &path));
        written.map_err(Error::file("cannot write", &path))
    }

    /// The record of an earlier lab in this folder, if there is one.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn load(&self) -> Result<Option<Record>, Error> {
        if self.path.join(STATE).exists() { read_record(&self.path).map(Some) } else { Ok(None) }
    }

    /// Removes the folder and all that is in it. Only a folder with our marker, under our lock, is a `WorkDir`.
    ///
    /// # Errors
    /// If something in it cannot be removed.
    pub fn remove(self) -> Result<(), Error> {
        fs::remove_dir_all(&self.path).map_err(Error::file("cannot remove", &self.path))
    }
}

/// A lab that runs in another process.
#[derive(Clone, Debug)]
pub struct Running {
    /// Its folder.
    pub folder: PathBuf,
    /// What its supervisor wrote last.
    pub record: Record,
}

impl Running {
    /// The lab in `folder`, or the one that was started last under any of `bases`.
    ///
    /// # Errors
    /// [`Error::NotRunning`] if there is none.
    pub fn find(folder: Option<&Path>, bases: &[PathBuf]) -> Result<Running, Error> {
        if let Some(folder) = folder {
            let folder = folder.canonicalize().map_err(Error::file("cannot open", folder))?;
            return Running::at(&folder).ok_or(Error::NotRunning);
        }
        let folders = bases.iter().filter_map(|b| fs::read_dir(b).ok()).flatten().flatten().map(|e| e.path());
        let mut running: Vec<_> = folders.filter_map(|f| Running::at(&f)).collect();
        let started = |r: &Running| fs::metadata(r.folder.join(MARKER)).and_then(|m| m.modified()).ok();
        running.sort_by_key(started);
        running.pop().ok_or(Error::NotRunning)
    }

    fn at(folder: &Path) -> Option<Running> {
        let running = Running { folder: folder.to_path_buf(), record: read_record(folder).ok()? };
        running.is_alive().then_some(running)
    }

    /// Whether its supervisor still holds the folder: the lock tells, so a pid that was given to another process cannot mislead.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        let Ok(marker) = File::open(self.folder.join(MARKER)) else { return false };
        rustix::fs::flock(&marker, FlockOperation::NonBlockingLockShared).is_err()
    }

    /// The observers' secret.
    ///
    /// # Errors
    /// If it cannot be read: the lab belongs to another user.
    pub fn token(&self) -> Result<String, Error> {
        read_token(&self.folder.join(TOKEN))
    }
}

/// A folder that an ended lab has kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    pub folder: PathBuf,
    pub members: usize,
    /// How long ago it was written to.
    pub age: Duration,
}

impl Kept {
    /// The folder under `bases` that was used last, if no lab works in it and its members' data are there.
    #[must_use]
    pub fn newest(bases: &[PathBuf], now: SystemTime) -> Option<Kept> {
        let folders = bases.iter().filter_map(|b| fs::read_dir(b).ok()).flatten().flatten().map(|e| e.path());
        folders.filter_map(|f| Kept::at(f, now)).min_by_key(|kept| kept.age)
    }

    fn at(folder: PathBuf, now: SystemTime) -> Option<Kept> {
        let record = read_record(&folder).ok()?;
        let is_whole = !record.members.is_empty() && record.members.iter().all(|m| m.data_dir.join("member").is_dir());
        let written = fs::metadata(folder.join(STATE)).and_then(|m| m.modified()).ok()?;
        let running = Running { folder, record };
        if !is_whole || !running.folder.join(MARKER).is_file() || running.is_alive() {
            return None;
        }
        // A clock that was set back makes no difference to what is newest.
        let age = now.duration_since(written).unwrap_or_default();
        Some(Kept { members: running.record.members.len(), folder: running.folder, age })
    }
}

/// Reads the observers' secret.
pub(crate) fn read_token(path: &Path) -> Result<String, Error> {
    Ok(fs::read_to_string(path).map_err(Error::file("cannot read", path))?.trim().to_string())
}

fn read_record(folder: &Path) -> Result<Record, Error> {
    let path = folder.join(STATE);
    let json = fs::read(&path).map_err(Error::file("cannot read", &path))?;
    serde_json::from_slice(&json).map_err(|e| Error::file("cannot understand", &path)(e.into()))
}

fn private_dirs(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().mode(0o700).recursive(true).create(path)
}

fn private_file(path: &Path, new: bool) -> io::Result<File> {
    fs::OpenOptions::new().write(true).create(true).create_new(new).truncate(false).mode(0o600).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_held_by_one_lab_at_a_time() {
        let base = tempfile::tempdir().expect("temp dir");
        let work = WorkDir::create_under(base.path()).expect("made");
        assert!(matches!(WorkDir::open(work.path()), Err(Error::InUse(_))));
        let path = work.path().to_path_buf();
        drop(work);
        let again = WorkDir::open(&path).expect("free again");
        assert_eq!(again.path(), path.canonicalize().expect("exists"));
    }

    #[test]
    fn foreign_content_is_left_alone() {
        let base = tempfile::tempdir().expect("temp dir");
        fs::write(base.path().join("thesis.tex"), "x").expect("written");
        assert!(matches!(WorkDir::open(base.path()), Err(Error::NotOurs(_))));
        assert!(base.path().join("thesis.tex").exists());
    }

    #[test]
    fn a_running_lab_is_found_and_an_ended_one_is_not() {
        let base = tempfile::tempdir().expect("temp dir");
        let bases = [base.path().to_path_buf()];
        let work = WorkDir::create_under(base.path()).expect("made");
        work.save(&Record { supervisor_pid: 7, ..Record::default() }).expect("saved");
        assert_eq!(Running::find(None, &bases).expect("found").record.supervisor_pid, 7);
        drop(work);
        assert!(matches!(Running::find(None, &bases), Err(Error::NotRunning)));
    }

    #[test]
    fn the_newest_kept_folder_with_data_is_found_and_a_held_one_is_not() {
        let base = tempfile::tempdir().expect("temp dir");
        let bases = [base.path().to_path_buf()];
        let keep = |age: u64, data: bool| {
            let work = WorkDir::create_under(base.path()).expect("made");
            let mut record = Record::sample(3);
            for m in &mut record.members {
                m.data_dir = work.path().join(&m.name).join("data");
                if data {
                    fs::create_dir_all(m.data_dir.join("member")).expect("made");
                }
            }
            work.save(&record).expect("saved");
            let state = File::options().write(true).open(work.path().join(STATE)).expect("there");
            state.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(1_000 - age)).expect("set");
            work
        };
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000);
        assert_eq!(Kept::newest(&bases, now), None);
        let (old, new) = (keep(300, true), keep(60, true));
        drop(keep(5, false));
        assert_eq!(Kept::newest(&bases, now), None, "labs run in both");
        let (old_path, new_path) = (old.path().to_path_buf(), new.path().to_path_buf());
        drop(old);
        let found = Kept { folder: old_path, members: 3, age: Duration::from_secs(300) };
        assert_eq!(Kept::newest(&bases, now), Some(found));
        drop(new);
        assert_eq!(Kept::newest(&bases, now).map(|k| k.folder), Some(new_path));
    }

    #[test]
    fn a_path_too_long_for_sockets_is_refused_and_leaves_nothing() {
        let base = tempfile::tempdir().expect("temp dir");
        let deep = base.path().join("x".repeat(120));
        assert!(matches!(WorkDir::create_under(&deep), Err(Error::PathTooLong(_))));
        assert_eq!(fs::read_dir(&deep).expect("base stays").count(), 0);
    }
}
