//! The labs that are in this program, so that it offers them wherever it is started.
//!
//! A hand-written table: a lab that is in `labs/course.toml` and not here fails a test.

use crate::lab::guide::LabError;
use crate::lab::guide::model::Lab;
use crate::lab::guide::parse::parse;
use std::path::Path;

/// Each lab's folder below `labs/`, and its `lab.md`, in the order of the course.
pub const SHELF: [(&str, &str); 13] = [
    ("A1-three-strangers", include_str!("../../../labs/A1-three-strangers/lab.md")),
    ("A4-a-writes-journey", include_str!("../../../labs/A4-a-writes-journey/lab.md")),
    ("A6-majority-rules", include_str!("../../../labs/A6-majority-rules/lab.md")),
    ("B1-get-the-binaries", include_str!("../../../labs/B1-get-the-binaries/lab.md")),
    ("B2-one-node", include_str!("../../../labs/B2-one-node/lab.md")),
    ("B3-first-keys", include_str!("../../../labs/B3-first-keys/lab.md")),
    ("B5-the-hard-way", include_str!("../../../labs/B5-the-hard-way/lab.md")),
    ("C4-watch", include_str!("../../../labs/C4-watch/lab.md")),
    ("D1-your-own-ca", include_str!("../../../labs/D1-your-own-ca/lab.md")),
    ("D2-museum-of-tls-failures", include_str!("../../../labs/D2-museum-of-tls-failures/lab.md")),
    ("E2-save-and-inspect", include_str!("../../../labs/E2-save-and-inspect/lab.md")),
    ("E3-restore", include_str!("../../../labs/E3-restore/lab.md")),
    ("E7-replace-a-member", include_str!("../../../labs/E7-replace-a-member/lab.md")),
];

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
}
