//! Folders for one run, in the temp folder: nobody wants them afterwards, and nobody else may look into them.
//!
//! Each goes with what it was made for. Where a process was killed they stay, tens of megabytes each, with a learner's keys in them. So the first
//! one that a process makes has it look for those whose process is gone.

use crate::lab::workdir::MARKER;
use parking_lot::Mutex;
use rustix::fs::FlockOperation;
use rustix::fs::flock;
use rustix::io::Errno;
use rustix::process::Pid;
use rustix::process::geteuid;
use rustix::process::test_kill_process;
use std::fs;
use std::fs::DirBuilder;
use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::DirBuilderExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::path::PathBuf;
use std::process;
use std::sync::Once;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering;

/// What they are made for. One with another word in its name is never taken away.
const PURPOSES: [&str; 8] = ["bed", "work", "lesson", "machines", "release", "seeds", "all", "matrix"];

/// A new empty folder for one run.
///
/// # Errors
/// It cannot be made.
pub(crate) fn scratch(purpose: &str) -> Result<PathBuf, String> {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    static SWEPT: Once = Once::new();
    let temp = std::env::temp_dir();
    SWEPT.call_once(|| sweep(&temp));
    loop {
        let name = format!("etcd-lab-{purpose}-{}-{}", process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let folder = temp.join(name);
        match DirBuilder::new().mode(0o700).create(&folder) {
            Ok(()) => {
                hold(&folder);
                return Ok(folder);
            }
            Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
            Err(e) => return Err(format!("{}: {e}", folder.display())),
        }
    }
}

/// Locks a folder for as long as it is there and this process lives.
fn hold(folder: &Path) {
    static HELD: Mutex<Vec<(PathBuf, File)>> = Mutex::new(Vec::new());
    let mut held = HELD.lock();
    held.retain(|(folder, _)| folder.exists());
    // Without a lock, the number of the process says that it is in use.
    if let Ok(file) = File::open(folder)
        && flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok()
    {
        held.push((folder.to_owned(), file));
    }
}

/// Takes away what processes have left that are gone.
fn sweep(temp: &Path) {
    for entry in fs::read_dir(temp).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let Some(name) = name.to_str() else { continue };
        if maker(name).is_some_and(|pid| is_left(&entry.path(), name, pid)) {
            // There is nobody to tell if some stays.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// The process that has made a folder of this name, if it is one of [`scratch`]'s.
fn maker(name: &str) -> Option<Pid> {
    let (rest, count) = name.strip_prefix("etcd-lab-")?.rsplit_once('-')?;
    let (purpose, pid) = rest.rsplit_once('-')?;
    let is_number = |word: &str| !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_digit());
    let is_ours = PURPOSES.contains(&purpose) && is_number(count) && is_number(pid);
    Pid::from_raw(pid.parse().ok().filter(|_| is_ours)?)
}

/// Whether nobody wants this folder any more. In doubt it stays.
fn is_left(folder: &Path, name: &str, pid: Pid) -> bool {
    let is_gone = test_kill_process(pid) == Err(Errno::SRCH);
    let is_ours = fs::symlink_metadata(folder).is_ok_and(|m| m.is_dir() && m.uid() == geteuid().as_raw());
    // A lab that the learner kept has this file, whatever its folder is called.
    if !is_gone || !is_ours || folder.join(MARKER).exists() {
        return false;
    }
    // What is mounted there is somewhere else in truth.
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    // A process of another container is gone, too, as seen from here; its locks are not. Nor are those of a cluster's guards while they end it.
    let is_free =
        |path: &Path| File::open(path).is_ok_and(|file| flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok());
    let alive = folder.join("alive");
    !mounts.contains(name) && is_free(folder) && (!alive.exists() || is_free(&alive))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn nobody_else_may_look_into_it() {
        let folder = scratch("scratch-test").expect("a folder");
        assert_eq!(fs::metadata(&folder).expect("there").mode() & 0o777, 0o700);
        fs::remove_dir(&folder).expect("empty");
    }

    #[test]
    fn what_a_process_has_left_that_is_gone_is_taken_away_and_nothing_else() {
        let temp = tempfile::tempdir().expect("a folder");
        let mut child = process::Command::new("true").spawn().expect("it runs");
        let (here, gone) = (process::id(), child.id());
        child.wait().expect("it ends");
        let make = |name: &str| {
            let folder = temp.path().join(name);
            fs::create_dir_all(folder.join("nodes/n1")).expect("made");
            fs::write(folder.join("alive"), "").expect("written");
            folder
        };
        let left = [format!("etcd-lab-bed-{gone}-0"), format!("etcd-lab-work-{gone}-12")].map(|name| make(&name));
        let others = [
            format!("etcd-lab-bed-{here}-0"),
            format!("etcd-lab-mine-{gone}-0"),
            format!("etcd-lab-bed-{gone}"),
            format!("etcd-lab-bed-{gone}-0-copy"),
            format!("etcd-lab-bed-{gone}-"),
            "etcd-lab-bed-0-0".to_owned(),
            "etcd-lab-1000".to_owned(),
            format!("bed-{gone}-0"),
        ];
        let mut stay: Vec<PathBuf> = others.iter().map(|name| make(name)).collect();
        let kept = make(&format!("etcd-lab-bed-{gone}-1"));
        fs::write(kept.join(MARKER), "").expect("written");
        let held = make(&format!("etcd-lab-bed-{gone}-2"));
        hold(&held);
        let ending = make(&format!("etcd-lab-bed-{gone}-3"));
        let guard = File::open(ending.join("alive")).expect("there");
        flock(&guard, FlockOperation::LockExclusive).expect("locked");
        let link = temp.path().join(format!("etcd-lab-bed-{gone}-4"));
        let theirs = make("theirs");
        symlink(&theirs, &link).expect("linked");
        stay.extend([kept, held, ending, link, theirs]);
        sweep(temp.path());
        assert!(left.iter().all(|folder| !folder.exists()), "{left:?}");
        let lost: Vec<_> = stay.iter().filter(|folder| !folder.join("nodes/n1").is_dir()).collect();
        assert!(lost.is_empty(), "{lost:?}");
    }
}
