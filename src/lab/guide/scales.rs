//! How much memory a lab's processes take at most, looked at a few times a second while its solution runs.
//!
//! What counts is what the machine would have without them: the pages that each has for itself (`RssAnon` in `/proc/PID/status`), and the
//! program's text once, since all members share it (the largest `RssFile`). A process belongs to the lab if it stands in one of its folders.

use std::fs;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::thread;
use std::thread::JoinHandle;
use std::time::Duration;

const LOOK_EVERY: Duration = Duration::from_millis(250);

/// Weighs until it is read or dropped.
pub(super) struct Scales {
    read: Arc<AtomicBool>,
    peak_kib: Arc<AtomicU64>,
    looks: Option<JoinHandle<()>>,
}

impl Scales {
    /// Begins to weigh the processes that stand in these folders or below.
    pub(super) fn under(folders: Vec<PathBuf>) -> Scales {
        // Where a process stands is told without symbolic links.
        let folders: Vec<PathBuf> = folders.into_iter().map(|f| f.canonicalize().unwrap_or(f)).collect();
        let (read, peak_kib) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (is_read, peak) = (Arc::clone(&read), Arc::clone(&peak_kib));
        let looks = thread::spawn(move || {
            while !is_read.load(Ordering::Acquire) {
                peak.fetch_max(weight_kib(&folders), Ordering::AcqRel);
                thread::park_timeout(LOOK_EVERY);
            }
        });
        Scales { read, peak_kib, looks: Some(looks) }
    }

    /// The most that was seen, in MiB, rounded up.
    pub(super) fn peak_mib(mut self) -> u64 {
        self.end();
        self.peak_kib.load(Ordering::Acquire).div_ceil(1024)
    }

    fn end(&mut self) {
        self.read.store(true, Ordering::Release);
        if let Some(looks) = self.looks.take() {
            looks.thread().unpark();
            // It cannot panic, and a weight that nobody reads hurts nobody.
            drop(looks.join());
        }
    }
}

impl Drop for Scales {
    fn drop(&mut self) {
        self.end();
    }
}

fn weight_kib(folders: &[PathBuf]) -> u64 {
    let (mut own, mut shared) = (0, 0);
    let processes = fs::read_dir("/proc").into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path()));
    for process in processes {
        // Processes of other users, and what is no process, do not say where they stand.
        let stands = fs::read_link(process.join("cwd")).is_ok_and(|at| folders.iter().any(|f| at.starts_with(f)));
        if stands {
            own += figure(&process, "RssAnon:");
            shared = shared.max(figure(&process, "RssFile:"));
        }
    }
    own + shared
}

/// A line of `/proc/PID/status`, in KiB; 0 of a process that has ended.
fn figure(process: &Path, name: &str) -> u64 {
    let status = fs::read_to_string(process.join("status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|rest| rest.trim().trim_end_matches(" kB").parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn what_stands_in_the_folder_is_weighed_at_its_heaviest_and_nothing_else() {
        let (here, elsewhere) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
        let below = here.path().join("n1");
        fs::create_dir(&below).expect("made");
        let [weighed, empty] = [&here, &elsewhere].map(|folder| Scales::under(vec![folder.path().to_owned()]));
        // Ten million signs in a variable of the shell, let go again when it has been seen with them.
        let heavy = "a=$(head -c 10000000 /dev/zero | tr '\\0' x); : >seen; while [ -e seen ]; do sleep 0.01; done";
        let mut shell = Command::new("/bin/sh").args(["-c", heavy]).current_dir(&below).spawn().expect("a shell");
        let seen = below.join("seen");
        while !seen.exists() {
            assert!(shell.try_wait().expect("our own child").is_none(), "it waits");
            thread::park_timeout(Duration::from_millis(5));
        }
        weighed.looks.as_ref().expect("it looks").thread().unpark();
        while weighed.peak_kib.load(Ordering::Acquire) < 10_000 {
            thread::park_timeout(Duration::from_millis(5));
        }
        fs::remove_file(&seen).expect("there");
        assert!(shell.wait().expect("our own child").success());
        let peak = weighed.peak_mib();
        assert!((10..200).contains(&peak), "{peak}");
        assert_eq!(empty.peak_mib(), 0, "nobody stood there");
    }
}
