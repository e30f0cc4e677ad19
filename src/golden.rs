//! Golden scripts: text in, what happened out.
//!
//! A script is a text file beside the module that it is about. A line that begins with `> ` is a command; what the module said to it stands below, and
//! the test compares. A line that begins with `#` is for the reader.
//!
//! ```text
//! # Two leases, one renewed.
//! > grant 1 10
//! 1 runs out at 10.0 s
//! ```
//!
//! `UPDATE_GOLDEN=1 cargo test` records what is said now, for a human to read before it is accepted; where `CI` is set it is refused.

use std::fmt::Write as _;
use std::path::Path;

/// Runs each script of a folder, in the order of names, with a fresh `world` each. `folder` is below the package's root.
///
/// # Panics
/// If a script says something else than was recorded, or if there is none.
pub(crate) fn check<W>(folder: &str, world: impl Fn() -> W, mut run: impl FnMut(&mut W, &[&str]) -> String) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let entries = std::fs::read_dir(&folder).expect("a folder of scripts");
    let mut paths: Vec<_> = entries.map(|entry| entry.expect("an entry").path()).collect();
    paths.sort();
    assert!(!paths.is_empty(), "no scripts in {}", folder.display());
    for path in paths {
        let recorded = std::fs::read_to_string(&path).expect("a script");
        let mut world = world();
        let said = transcript(&recorded, |words| run(&mut world, words));
        if said == recorded {
            continue;
        }
        let is_update = std::env::var_os("UPDATE_GOLDEN").is_some_and(|value| value == "1");
        if is_update && std::env::var_os("CI").is_none() {
            std::fs::write(&path, said).expect("a script that can be written");
            continue;
        }
        let line = said.lines().zip(recorded.lines()).take_while(|(said, recorded)| said == recorded).count();
        panic!("{} says otherwise from line {} on:\n{said}", path.display(), line + 1);
    }
}

/// The commands and remarks of a script, with what is said to each command now.
fn transcript(script: &str, mut run: impl FnMut(&[&str]) -> String) -> String {
    let mut said = String::new();
    for line in script.lines() {
        if let Some(command) = line.strip_prefix("> ") {
            let words: Vec<&str> = command.split_whitespace().collect();
            let answer = run(&words);
            for line in std::iter::once(line).chain(answer.lines()) {
                let _ = writeln!(said, "{line}");
            }
        } else if line.starts_with('#') || line.is_empty() {
            let _ = writeln!(said, "{line}");
        }
    }
    said
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transcript_keeps_commands_and_remarks_and_replaces_answers() {
        let run = |words: &[&str]| format!("{} words\n", words.len());
        assert_eq!(transcript("# why\n> a b\nold\n\n> c\n", run), "# why\n> a b\n2 words\n\n> c\n1 words\n");
    }
}
