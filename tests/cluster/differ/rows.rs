//! `tests/differences.toml`: where the two are known to differ, and why that is right.

use super::answer::Field;
use super::step::Family;
use super::step::Step;
use serde::Deserialize;
use std::path::Path;

#[derive(Deserialize)]
struct File {
    difference: Vec<Row>,
    settled: Vec<Settled>,
}

/// One known difference that a test of ours stands for, because the differ cannot ask.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "some of it is for readers")]
struct Settled {
    rpc: String,
    condition: String,
    ours: String,
    theirs: String,
    releases: Option<String>,
    contract: String,
    test: String,
}

/// One known difference.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Row {
    /// The operation, as [`Step::rpc`] names it.
    rpc: String,
    /// The condition, for readers.
    condition: String,
    /// The condition, for this program: texts that the request must all contain.
    #[serde(default)]
    request: Vec<String>,
    /// The path in the answer; `*` stands for anything, here and in the answers.
    field: String,
    ours: String,
    theirs: String,
    /// Which releases differ, as `<3.5.8` or `>=3.5.28 <3.6.12`; without it all that can be asked.
    #[serde(default)]
    releases: Option<String>,
    /// The families that must be switched on for it to show, beside the one of `rpc`.
    #[serde(default)]
    families: Vec<String>,
    /// Section of the server contract.
    contract: String,
}

impl Row {
    fn explains(&self, step: &Step, request: &str, field: &Field) -> bool {
        like(&self.rpc, &step.rpc())
            && like(&self.field, &field.path)
            && like(&self.ours, &field.ours)
            && like(&self.theirs, &field.theirs)
            && self.request.iter().all(|part| request.contains(part))
    }

    fn is_for(&self, release: &str) -> bool {
        let bound = |bound: &str| match (bound.strip_prefix('<'), bound.strip_prefix(">=")) {
            (Some(below), _) => is_below(release, below),
            (_, Some(since)) => !is_below(release, since),
            _ => panic!("releases are told as \"<3.5.8\" or \">=3.5.8\": {bound}"),
        };
        self.releases.as_deref().unwrap_or_default().split_whitespace().all(bound)
    }

    fn can_show(&self, families: &[Family]) -> bool {
        self.families.iter().all(|name| families.iter().any(|family| family.name() == *name))
    }
}

/// Whether a release came before another.
pub(super) fn is_below(release: &str, other: &str) -> bool {
    numbers(release) < numbers(other)
}

fn numbers(version: &str) -> Vec<u32> {
    version.split('.').map(|part| part.parse().unwrap_or_else(|_| panic!("no version: {version}"))).collect()
}

/// All rows for one release, and how often each was used.
pub(super) struct Rows {
    rows: Vec<(Row, u64)>,
}

impl Rows {
    pub(super) fn load(release: &str, families: &[Family]) -> Rows {
        let file = read();
        for row in &file.difference {
            let complete = !row.condition.is_empty() && !row.contract.is_empty();
            assert!(complete, "a row needs a condition and a section of the contract: {row:?}");
        }
        let rows = file.difference.into_iter();
        let rows = rows.filter(|row| row.is_for(release) && row.can_show(families)).map(|row| (row, 0));
        Rows { rows: rows.collect() }
    }

    /// Whether a row explains the difference; counts its use.
    pub(super) fn explain(&mut self, step: &Step, field: &Field) -> bool {
        let request = format!("{step:?}");
        let row = self.rows.iter_mut().find(|(row, _)| row.explains(step, &request, field));
        row.map(|(_, uses)| *uses += 1).is_some()
    }

    pub(super) fn unused(&self) -> Vec<String> {
        self.rows.iter().filter(|(_, uses)| *uses == 0).map(|(row, _)| format!("{row:?}")).collect()
    }

    /// A line for each row: how often, what.
    pub(super) fn uses(&self) -> String {
        let line = |(row, uses): &(Row, u64)| format!("  {uses:>7}  {} {}: {}\n", row.rpc, row.field, row.condition);
        self.rows.iter().map(line).collect()
    }
}

fn read() -> File {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/differences.toml");
    let text = std::fs::read_to_string(&path).expect("the table of differences");
    toml::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// All Rust below a folder, in one text.
fn code(dir: &Path) -> String {
    let entries = std::fs::read_dir(dir).expect("a folder of ours").map(|entry| entry.expect("an entry").path());
    let text = |path: std::path::PathBuf| match path.extension() {
        _ if path.is_dir() => code(&path),
        Some(end) if end == "rs" => std::fs::read_to_string(path).expect("text"),
        _ => String::new(),
    };
    entries.map(text).collect()
}

#[test]
fn what_is_settled_has_a_test() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let code = [code(&root.join("src")), code(&root.join("tests"))].concat();
    for row in read().settled {
        assert!(code.contains(&format!("fn {}()", row.test)), "no test {}: {row:?}", row.test);
        assert!(!row.condition.is_empty() && !row.contract.is_empty(), "{row:?}");
    }
}

/// Whether a text fits a pattern in which `*` stands for anything.
fn like(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = text.strip_prefix(parts.next().unwrap_or_default()) else { return false };
    let parts: Vec<&str> = parts.collect();
    let Some((last, middle)) = parts.split_last() else { return rest.is_empty() };
    for part in middle {
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    rest.ends_with(last)
}

#[test]
fn a_star_stands_for_anything() {
    assert!(like("kvs.*.lease", "kvs.10.lease") && like("*", "") && like("a", "a") && like("a*a", "aba"));
    assert!(!like("kvs.*.lease", "kvs.10.leases") && !like("a*a", "a") && !like("", "a"));
}

#[test]
fn a_row_is_for_the_releases_between_its_bounds() {
    let row = |releases: &str| Row {
        rpc: String::new(),
        condition: String::new(),
        request: Vec::new(),
        field: String::new(),
        ours: String::new(),
        theirs: String::new(),
        releases: Some(releases.to_owned()),
        families: Vec::new(),
        contract: String::new(),
    };
    let between = row(">=3.5.28 <3.6.12");
    assert_eq!(
        ["3.5.9", "3.5.28", "3.6.11", "3.6.12"].map(|release| between.is_for(release)),
        [false, true, true, false]
    );
    assert!(row("<3.6.0").is_for("3.5.30") && !row("<3.6.0").is_for("3.6.0"));
}
