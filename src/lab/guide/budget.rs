//! What a lab costs the learner's machine, and whether there is so much: asked before a cluster is started, not when it falls over.
//!
//! A lab's head says the most that its cluster takes, of disk and of memory. The figures are measured: the gate weighs the folders and the
//! processes of the run that solves the lab, and fails a lab that takes more than it says.

use crate::lab::guide::settings::Head;
use std::fs;
use std::path::Path;
use std::path::PathBuf;

/// What a disk or a memory keeps for everybody else, in MiB.
const SPARE_MIB: u64 = 64;

/// Refuses a lab for which this machine has no room.
///
/// # Errors
/// A sentence: what is lacking, where, and what to do.
pub fn check(head: &Head) -> Result<(), String> {
    let folder = std::env::temp_dir();
    let disk = rustix::fs::statvfs(&folder).ok().map(|s| s.f_bavail.saturating_mul(s.f_frsize) >> 20);
    enough(head, &folder, disk, memory_mib())
}

/// What cannot be measured is not refused.
fn enough(head: &Head, folder: &Path, disk: Option<u64>, memory: Option<u64>) -> Result<(), String> {
    let lacks = |need: u32, have: Option<u64>| have.filter(|have| need > 0 && *have < u64::from(need) + SPARE_MIB);
    let id = &head.id;
    if let Some(have) = lacks(head.disk, disk) {
        return Err(format!(
            "{id} needs {} MiB of disk and {SPARE_MIB} to spare, and {} has {have}: free some, or have TMPDIR name a folder on another disk",
            head.disk,
            folder.display()
        ));
    }
    if let Some(have) = lacks(head.memory, memory) {
        return Err(format!(
            "{id} needs {} MiB of memory and {SPARE_MIB} to spare, and {have} are free: end other programs, or give this machine more",
            head.memory
        ));
    }
    Ok(())
}

/// Memory that a new program may have without harm to others: the machine's, or what is left of this container's.
fn memory_mib() -> Option<u64> {
    let read = |file: &str| fs::read_to_string(file).ok();
    let line = read("/proc/meminfo")?.lines().find_map(|l| l.strip_prefix("MemAvailable:").map(str::to_owned))?;
    let machine = line.trim().trim_end_matches(" kB").parse::<u64>().ok()? >> 10;
    let number = |file: &str| read(file)?.trim().parse::<u64>().ok();
    // No limit is the word `max`, and no number.
    let (limit, used) = (number("/sys/fs/cgroup/memory.max"), number("/sys/fs/cgroup/memory.current"));
    let container = limit.zip(used).map(|(limit, used)| limit.saturating_sub(used) >> 20);
    Some(container.map_or(machine, |c| c.min(machine)))
}

/// What stands on paper and in a list: `25 minutes, 80 MiB of disk, 120 MiB of memory`.
#[must_use]
pub fn words(head: &Head) -> String {
    let parts = [(head.minutes, "minutes"), (head.disk, "MiB of disk"), (head.memory, "MiB of memory")];
    let parts = parts.iter().filter(|(n, _)| *n > 0).map(|(n, unit)| format!("{n} {unit}"));
    parts.collect::<Vec<_>>().join(", ")
}

/// The disk that these folders take, in MiB, rounded up. What goes away meanwhile counts for nothing.
pub(super) fn disk_mib(folders: &[&Path]) -> u64 {
    let mut blocks = 0;
    let mut left: Vec<PathBuf> = folders.iter().map(|f| f.to_path_buf()).collect();
    while let Some(path) = left.pop() {
        let Ok(found) = fs::symlink_metadata(&path) else { continue };
        blocks += std::os::unix::fs::MetadataExt::blocks(&found);
        if found.is_dir() {
            left.extend(fs::read_dir(&path).into_iter().flatten().filter_map(|e| Some(e.ok()?.path())));
        }
    }
    (blocks * 512).div_ceil(1 << 20)
}

/// Why a lab's solution does not fit its head, if it does not.
pub(super) fn overdrawn(head: &Head, took: u64) -> Option<String> {
    let said = u64::from(head.disk);
    (took > said).then(|| format!("its head says disk = {said}, and its solution ended with {took} MiB"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::guide::SHELF;
    use crate::lab::guide::shelved;

    fn head(text: &str) -> Head {
        toml::from_str(text).expect("a head")
    }

    #[test]
    fn what_is_lacking_is_said_with_what_to_do() {
        let head = head("id = 'E3'\ndisk = 100\nmemory = 200\nminutes = 5");
        let tried = |disk, memory| enough(&head, Path::new("/tmp"), disk, memory);
        assert_eq!(tried(Some(164), Some(264)), Ok(()));
        assert_eq!(tried(None, None), Ok(()), "what cannot be measured is not refused");
        let disk = tried(Some(163), Some(9999)).expect_err("too little");
        assert!(disk.contains("E3 needs 100 MiB of disk") && disk.contains("TMPDIR"), "{disk}");
        let memory = tried(Some(9999), Some(263)).expect_err("too little");
        assert!(memory.contains("200 MiB of memory") && memory.contains("end other programs"), "{memory}");
        assert_eq!(words(&head), "5 minutes, 100 MiB of disk, 200 MiB of memory");
        assert!(memory_mib().is_none_or(|mib| mib > 0), "a test runs in some memory");
    }

    #[test]
    fn a_lab_that_takes_more_than_it_says_is_told_so() {
        let head = head("id = 'E3'\ndisk = 2\nmemory = 1\nminutes = 5");
        let folder = tempfile::tempdir().expect("a folder");
        fs::create_dir(folder.path().join("in")).expect("made");
        fs::write(folder.path().join("in/file"), vec![1; 3 << 20]).expect("written");
        let took = disk_mib(&[folder.path()]);
        assert!((3..=4).contains(&took), "{took}");
        assert!(overdrawn(&head, took).is_some_and(|why| why.contains("disk = 2")));
        assert_eq!(overdrawn(&head, 2), None);
    }

    #[test]
    fn every_lab_says_what_it_costs() {
        for (name, _) in SHELF {
            let head = shelved(name).expect("there").unwrap_or_else(|e| panic!("{e}")).head;
            assert!(head.minutes > 0 && head.disk > 0 && head.memory > 0, "{name}: {}", words(&head));
        }
    }
}
