//! `[[command]]` of `tests/differences.toml`: where our programs or our server differ from release 3.5.1, and why that is right.

use serde::Deserialize;
use std::path::Path;

#[derive(Deserialize)]
struct File {
    command: Vec<Row>,
}

/// One known difference.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    /// The typed line; `*` stands for anything.
    line: String,
    /// Whose it is: `client`, `server`, `both` where neither shows it alone, or `v2` for the old dialect.
    by: String,
    /// `code`, `stdout` or `stderr`.
    stream: String,
    /// What is recorded. `*` stands for anything, `{{name}}` for something that ours has too.
    theirs: String,
    ours: String,
    why: String,
    /// Section of the contract of the client.
    contract: String,
}

/// The rows that can show, and how often each was used.
pub(super) struct Rows(Vec<(Row, u64)>);

impl Rows {
    /// The rows for these parts.
    pub(super) fn load(parts: &[&str]) -> Rows {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/differences.toml");
        let text = std::fs::read_to_string(&path).expect("the table of differences");
        let file: File = toml::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        for row in &file.command {
            assert!(!row.why.is_empty() && !row.contract.is_empty(), "a row needs a reason and a section: {row:?}");
            assert!(["client", "server", "both", "v2"].contains(&row.by.as_str()), "{row:?}");
        }
        let shows = |row: &Row| parts.contains(&row.by.as_str());
        Rows(file.command.into_iter().filter(shows).map(|row| (row, 0)).collect())
    }

    /// Whether rows, one after the other, make what is recorded into what came; counts their use.
    pub(super) fn explain(&mut self, line: &str, stream: &str, theirs: &str, ours: &str) -> bool {
        let fits = |(row, _): &(Row, u64)| row.stream == stream && like(&row.line, line);
        let able: Vec<usize> = (0..self.0.len()).filter(|&at| fits(&self.0[at])).collect();
        let Some(used) = self.path(&able, theirs, ours) else { return false };
        used.into_iter().for_each(|at| self.0[at].1 += 1);
        true
    }

    fn path(&self, able: &[usize], theirs: &str, ours: &str) -> Option<Vec<usize>> {
        for &at in able {
            let row = &self.0[at].0;
            let Some(found) = matched(&row.theirs, theirs, &[]) else { continue };
            if matched(&row.ours, ours, &found).is_some() {
                return Some(vec![at]);
            }
            // What one row makes of it, another may go on with.
            let rest: Vec<usize> = able.iter().copied().filter(|&other| other != at).collect();
            if let Some(made) = filled(&row.ours, &found).filter(|made| made != theirs)
                && let Some(mut path) = self.path(&rest, &made, ours)
            {
                path.push(at);
                return Some(path);
            }
        }
        None
    }

    /// Rows for `by` that explained nothing.
    pub(super) fn unused(&self, by: &str) -> Vec<String> {
        self.0.iter().filter(|(row, uses)| *uses == 0 && row.by == by).map(|(row, _)| format!("{row:?}")).collect()
    }
}

type Found = Vec<(String, String)>;

fn like(pattern: &str, text: &str) -> bool {
    matched(pattern, text, &[]).is_some()
}

/// Matches a text with a pattern; returns what its names stand for, those of `known` included.
fn matched(pattern: &str, text: &str, known: &[(String, String)]) -> Option<Found> {
    let special = [pattern.find('*'), pattern.find("{{")].into_iter().flatten().min();
    let Some(at) = special else { return (pattern == text).then(|| known.to_vec()) };
    let rest = text.strip_prefix(&pattern[..at])?;
    let (name, after) = match pattern[at..].strip_prefix("{{").and_then(|inner| inner.split_once("}}")) {
        Some((name, after)) => (Some(name), after),
        None => (None, &pattern[at + 1..]),
    };
    if let Some((_, value)) = known.iter().find(|(known, _)| Some(known.as_str()) == name) {
        return matched(after, rest.strip_prefix(value.as_str())?, known);
    }
    (0..=rest.len()).filter(|&end| rest.is_char_boundary(end)).find_map(|end| {
        let mut known = known.to_vec();
        known.extend(name.map(|name| (name.to_owned(), rest[..end].to_owned())));
        matched(after, &rest[end..], &known)
    })
}

/// The text that a pattern means; none if it leaves something open.
fn filled(pattern: &str, found: &[(String, String)]) -> Option<String> {
    let text =
        found.iter().fold(pattern.to_owned(), |text, (name, value)| text.replace(&format!("{{{{{name}}}}}"), value));
    (!pattern.contains('*')).then_some(text)
}

#[test]
fn names_of_a_pattern_stand_for_the_same_on_both_sides() {
    let found = matched("Error: {{why}}\nError: {{why}}\n", "Error: no\nError: no\n", &[]).expect("it fits");
    assert!(matched("Error: {{why}}\n", "Error: no\n", &found).is_some());
    assert!(matched("Error: {{why}}\n", "Error: other\n", &found).is_none());
    assert!(matched("Error: {{why}}\nError: {{why}}\n", "Error: a\nError: b\n", &[]).is_none());
    assert!(like("get * -w*", "get k -w json") && !like("get *", "put k"));
}
