//! What a lab costs the learner's machine, and whether there is so much: asked before a cluster is started, not when it falls over.
//!
//! A lab's head says the most that its cluster takes, of disk and of memory. Both are an author's measurements. The gate weighs what the lab's folders
//! take when its solution has ended on our own members, and the most that its processes took until then, and fails a lab that says less.

use crate::lab::guide::settings::Head;
use std::fs;
use std::path::Path;
use std::path::PathBuf;

/// What a disk or a memory keeps for everybody else, in MiB.
const SPARE_MIB: u64 = 64;

/// Refuses a lab for which this machine has no room: in the folder of the cluster that it runs on, which may not be there yet, or, without one,
/// where labs make clusters of their own. What `ending` says that it takes counts as free: that lab ends when this one has begun.
///
/// # Errors
/// A sentence: what is lacking, where, and what to do.
pub fn check(head: &Head, folder: Option<&Path>, ending: Option<&Head>) -> Result<(), String> {
    let place = folder.map_or_else(std::env::temp_dir, |folder| std::path::absolute(folder).unwrap_or_default());
    let there = place.ancestors().find(|folder| folder.exists()).unwrap_or(&place);
    let disk = rustix::fs::statvfs(there).ok().map(|s| s.f_bavail.saturating_mul(s.f_frsize) >> 20);
    let (frees_disk, frees_memory) = ending.map_or((0, 0), |head| (u64::from(head.disk), u64::from(head.memory)));
    let elsewhere = if folder.is_some() { "--folder name one" } else { "TMPDIR name a folder" };
    let (disk, memory) = (disk.map(|mib| mib + frees_disk), memory_mib().map(|mib| mib + frees_memory));
    enough(head, (&place, elsewhere), disk, memory)
}

/// What cannot be measured is not refused.
fn enough(
    head: &Head,
    (folder, elsewhere): (&Path, &str),
    disk: Option<u64>,
    memory: Option<u64>,
) -> Result<(), String> {
    let lacks = |need: u32, have: Option<u64>| have.filter(|have| need > 0 && *have < u64::from(need) + SPARE_MIB);
    let id = &head.id;
    if let Some(have) = lacks(head.disk, disk) {
        return Err(format!(
            "{id} needs {} MiB of disk and {SPARE_MIB} to spare, and {} has {have}: free some, or have {elsewhere} on another disk",
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
    let of_container = |name: &str| read(&format!("/sys/fs/cgroup/{name}")).unwrap_or_default();
    let container =
        left_mib(&of_container("memory.max"), &of_container("memory.current"), &of_container("memory.stat"));
    Some(container.map_or(machine, |c| c.min(machine)))
}

/// What a container's processes may still have, if it has a limit: the kernel takes pages of files that nobody has used lately away for them, so those
/// are not used (docker and the kubelet count so, too).
fn left_mib(limit: &str, used: &str, stat: &str) -> Option<u64> {
    // No limit is the word `max`, and no number.
    let number = |text: &str| text.trim().parse::<u64>().ok();
    let cached = stat.lines().find_map(|line| number(line.strip_prefix("inactive_file ")?)).unwrap_or(0);
    let used = number(used)?.saturating_sub(cached);
    Some(number(limit)?.saturating_sub(used) >> 20)
}

/// What stands on paper and in a list: `25 minutes, 80 MiB of disk, 120 MiB of memory`.
#[must_use]
pub fn words(head: &Head) -> String {
    let parts = [(head.minutes, "minutes"), (head.disk, "MiB of disk"), (head.memory, "MiB of memory")];
    let parts = parts.iter().filter(|(n, _)| *n > 0).map(|(n, unit)| format!("{n} {unit}"));
    parts.collect::<Vec<_>>().join(", ")
}

/// The disk that these folders take, in MiB, rounded up. What goes away meanwhile counts for nothing.
pub(super) fn disk_mib(folders: &[PathBuf]) -> u64 {
    let mut blocks = 0;
    let mut left = folders.to_vec();
    while let Some(path) = left.pop() {
        let Ok(found) = fs::symlink_metadata(&path) else { continue };
        blocks += std::os::unix::fs::MetadataExt::blocks(&found);
        if found.is_dir() {
            left.extend(fs::read_dir(&path).into_iter().flatten().filter_map(|e| Some(e.ok()?.path())));
        }
    }
    (blocks * 512).div_ceil(1 << 20)
}

/// Why a lab's solution does not fit what its head says of `what`, if it does not.
pub(super) fn overdrawn(what: &str, said: u32, took: u64) -> Option<String> {
    (took > u64::from(said)).then(|| format!("its head says {what} = {said}, and its solution took {took} MiB"))
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
        let tried = |disk, memory| enough(&head, (Path::new("/tmp"), "TMPDIR name a folder"), disk, memory);
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
    fn the_folder_that_will_be_used_is_the_one_that_is_asked() {
        let head = |disk: u32| head(&format!("id = 'B3'\ndisk = {disk}\nmemory = 1\nminutes = 5"));
        let folder = tempfile::tempdir().expect("a folder");
        let new = folder.path().join("not/yet/there");
        assert_eq!(check(&head(1), Some(&new), None), Ok(()));
        let lacking = check(&head(u32::MAX), Some(&new), None).expect_err("four petabytes");
        assert!(lacking.contains("not/yet/there has") && lacking.contains("--folder"), "{lacking}");
        let lacking = check(&head(u32::MAX), None, None).expect_err("four petabytes");
        let temp = std::env::temp_dir().display().to_string();
        assert!(lacking.contains(&format!("{temp} has")) && lacking.contains("TMPDIR"), "{lacking}");
        assert_eq!(check(&head(u32::MAX), None, Some(&head(u32::MAX))), Ok(()), "as much is about to be free");
    }

    #[test]
    fn the_cache_of_files_is_no_used_memory() {
        let mib = |n: u64| (n << 20).to_string();
        let stat = format!("anon 12345\nfile 23456\ninactive_anon 1\ninactive_file {}\nactive_file 2\n", mib(800));
        assert_eq!(left_mib(&mib(1000), &mib(980), &stat), Some(820));
        assert_eq!(left_mib(&mib(1000), &mib(980), ""), Some(20), "without figures of it all is used");
        assert_eq!(left_mib("max\n", &mib(980), &stat), None);
        assert_eq!(left_mib("", "", ""), None);
    }

    #[test]
    fn a_lab_that_takes_more_than_it_says_is_told_so() {
        let folder = tempfile::tempdir().expect("a folder");
        fs::create_dir(folder.path().join("in")).expect("made");
        fs::write(folder.path().join("in/file"), vec![1; 3 << 20]).expect("written");
        let took = disk_mib(&[folder.path().to_owned()]);
        assert!((3..=4).contains(&took), "{took}");
        assert!(overdrawn("disk", 2, took).is_some_and(|why| why.contains("disk = 2")));
        assert_eq!(overdrawn("memory", 2, 2), None);
    }

    #[test]
    fn every_lab_says_what_it_costs() {
        for (name, _) in SHELF {
            let head = shelved(name).expect("there").unwrap_or_else(|e| panic!("{e}")).head;
            assert!(head.minutes > 0 && head.disk > 0 && head.memory > 0, "{name}: {}", words(&head));
        }
    }
}
