//! The labs and the chapters that are in this program, so that it offers them wherever it is started.
//!
//! Hand-written tables: a lab that is in `labs/course.toml` and not here, or a chapter of `lessons/`, fails a test.

use crate::lab::guide::LabError;
use crate::lab::guide::model::Lab;
use crate::lab::guide::parse::parse;
use std::path::Path;

/// Each lab's folder below `labs/`, and its `lab.md`, in the order of the course.
pub const SHELF: [(&str, &str); 33] = [
    ("A1-three-strangers", include_str!("../../../labs/A1-three-strangers/lab.md")),
    ("A4-a-writes-journey", include_str!("../../../labs/A4-a-writes-journey/lab.md")),
    ("A6-majority-rules", include_str!("../../../labs/A6-majority-rules/lab.md")),
    ("A7-stale-reads", include_str!("../../../labs/A7-stale-reads/lab.md")),
    ("B1-get-the-binaries", include_str!("../../../labs/B1-get-the-binaries/lab.md")),
    ("B2-one-node", include_str!("../../../labs/B2-one-node/lab.md")),
    ("B3-first-keys", include_str!("../../../labs/B3-first-keys/lab.md")),
    ("B4-three-nodes-by-hand", include_str!("../../../labs/B4-three-nodes-by-hand/lab.md")),
    ("B5-the-hard-way", include_str!("../../../labs/B5-the-hard-way/lab.md")),
    ("B6-is-it-healthy", include_str!("../../../labs/B6-is-it-healthy/lab.md")),
    ("C1-ranges-and-order", include_str!("../../../labs/C1-ranges-and-order/lab.md")),
    ("C2-many-versions", include_str!("../../../labs/C2-many-versions/lab.md")),
    ("C3-transactions", include_str!("../../../labs/C3-transactions/lab.md")),
    ("C4-watch", include_str!("../../../labs/C4-watch/lab.md")),
    ("C5-leases", include_str!("../../../labs/C5-leases/lab.md")),
    ("D1-your-own-ca", include_str!("../../../labs/D1-your-own-ca/lab.md")),
    ("D2-museum-of-tls-failures", include_str!("../../../labs/D2-museum-of-tls-failures/lab.md")),
    ("D3-peers-too", include_str!("../../../labs/D3-peers-too/lab.md")),
    ("D4-only-the-api-server", include_str!("../../../labs/D4-only-the-api-server/lab.md")),
    ("D5-users-roles-ranges", include_str!("../../../labs/D5-users-roles-ranges/lab.md")),
    ("E2-save-and-inspect", include_str!("../../../labs/E2-save-and-inspect/lab.md")),
    ("E3-restore", include_str!("../../../labs/E3-restore/lab.md")),
    ("E4-restore-under-kubernetes", include_str!("../../../labs/E4-restore-under-kubernetes/lab.md")),
    ("E6-disk-level-copy", include_str!("../../../labs/E6-disk-level-copy/lab.md")),
    ("E7-replace-a-member", include_str!("../../../labs/E7-replace-a-member/lab.md")),
    ("E8-three-to-five", include_str!("../../../labs/E8-three-to-five/lab.md")),
    ("E9-majority-gone", include_str!("../../../labs/E9-majority-gone/lab.md")),
    ("E10-watch-the-gauges", include_str!("../../../labs/E10-watch-the-gauges/lab.md")),
    ("E14-full-store", include_str!("../../../labs/E14-full-store/lab.md")),
    ("E18-a-stranger-joins", include_str!("../../../labs/E18-a-stranger-joins/lab.md")),
    ("F1-what-kubernetes-keeps", include_str!("../../../labs/F1-what-kubernetes-keeps/lab.md")),
    ("F2-desired-and-actual", include_str!("../../../labs/F2-desired-and-actual/lab.md")),
    ("F3-when-etcd-stops", include_str!("../../../labs/F3-when-etcd-stops/lab.md")),
];

/// Each chapter's file below `lessons/`, and its text, in the order of the book.
pub const LESSONS: [(&str, &str); 12] = [
    ("00-what-a-put-does", include_str!("../../../lessons/00-what-a-put-does.md")),
    ("01-introduction", include_str!("../../../lessons/01-introduction.md")),
    ("02-setting-up", include_str!("../../../lessons/02-setting-up.md")),
    ("03-consensus", include_str!("../../../lessons/03-consensus.md")),
    ("04-data", include_str!("../../../lessons/04-data.md")),
    ("05-backup", include_str!("../../../lessons/05-backup.md")),
    ("06-clusters", include_str!("../../../lessons/06-clusters.md")),
    ("07-security", include_str!("../../../lessons/07-security.md")),
    ("08-kubernetes", include_str!("../../../lessons/08-kubernetes.md")),
    ("09-performance", include_str!("../../../lessons/09-performance.md")),
    ("10-practice", include_str!("../../../lessons/10-practice.md")),
    ("11-conclusion", include_str!("../../../lessons/11-conclusion.md")),
];

/// The chapter of this number, with or without leading zeros; no chapter has it: nothing.
///
/// # Errors
/// It says something that a lesson cannot say; a test holds that none does.
pub(super) fn lesson_named(number: &str) -> Result<Option<Lab>, LabError> {
    let wanted = number.parse::<usize>().ok();
    let found = LESSONS.iter().find(|(file, _)| file.split('-').next().and_then(|n| n.parse().ok()) == wanted);
    let Some((file, text)) = found.filter(|_| wanted.is_some()) else { return Ok(None) };
    parse(&Path::new("lessons").join(format!("{file}.md")), text).map(Some)
}

/// The lab of this name; none has it: nothing.
///
/// # Errors
/// It says something that a lab cannot say; a test holds that none does.
#[must_use]
pub fn shelved(name: &str) -> Option<Result<Lab, LabError>> {
    let (name, text) = SHELF.iter().find(|(n, _)| *n == name)?;
    Some(parse(&Path::new("labs").join(name).join("lab.md"), text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_lab_of_the_course_is_on_the_shelf_and_can_be_read() {
        for (name, _) in SHELF {
            let lab = shelved(name).expect("it is on the shelf").expect("it can be read");
            assert!(name.starts_with(&lab.head.id), "{name} is {}", lab.head.id);
        }
        let course: toml::Table = include_str!("../../../labs/course.toml").parse().expect("TOML");
        let tracks = course["track"].as_array().expect("tracks");
        let named: Vec<&str> = tracks
            .iter()
            .flat_map(|t| t["labs"].as_array().expect("labs"))
            .map(|l| l.as_str().expect("a name"))
            .collect();
        assert_eq!(named, SHELF.map(|(name, _)| name));
    }
    #[test]
    fn every_chapter_is_on_the_shelf_and_can_be_read() {
        let folder = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/lessons")).expect("lessons/ can be read");
        let names = folder.filter_map(|e| e.ok()?.file_name().to_str()?.strip_suffix(".md").map(str::to_owned));
        let mut there: Vec<String> = names.filter(|n| n.starts_with(|c: char| c.is_ascii_digit())).collect();
        there.sort();
        assert_eq!(there, LESSONS.map(|(file, _)| file));
        for (number, (file, _)) in LESSONS.iter().enumerate() {
            let lab = lesson_named(&number.to_string()).unwrap_or_else(|e| panic!("{e}")).expect("it is on the shelf");
            assert!(file.starts_with(&lab.head.id), "{file} is {}", lab.head.id);
        }
        assert!(lesson_named("x").is_ok_and(|none| none.is_none()));
    }
}
