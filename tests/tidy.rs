//! The rules of the house, held to the source itself.
//!
//! Floors: the table in ARCHITECTURE.md says which module may import which; an import that it does not grant fails here. Lengths: files of at
//! most 800 lines, functions of at most 70. Heads: every file says what it is. Leftovers: none.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::path::PathBuf;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
const FILE_LINES_MAX: usize = 800;
const FUNCTION_LINES_MAX: usize = 70;

/// A source file: its path below the root, the module it belongs to, its text.
struct Source {
    path: String,
    module: String,
    text: String,
}

fn sources() -> Vec<Source> {
    let mut files = Vec::new();
    collect(&Path::new(ROOT).join("src"), &mut files);
    files.sort();
    let read = |path: PathBuf| {
        let text = fs::read_to_string(&path).expect("a readable file");
        let path = path.strip_prefix(ROOT).expect("below the root").to_string_lossy().into_owned();
        let below = path.trim_start_matches("src/");
        let module = below.split('/').next().expect("a name").trim_end_matches(".rs").to_owned();
        Source { path, module, text }
    };
    let ours = |path: &PathBuf| !path.to_string_lossy().contains("/proto/generated/");
    files.into_iter().filter(ours).map(read).collect()
}

fn collect(dir: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).expect("a readable directory") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|kind| kind == "rs") {
            files.push(path);
        }
    }
}

/// The floor table: module → the modules it may import.
fn floors() -> BTreeMap<String, BTreeSet<String>> {
    let text = fs::read_to_string(Path::new(ROOT).join("ARCHITECTURE.md")).expect("ARCHITECTURE.md");
    let mut rows: Vec<(u32, Vec<String>, String)> = Vec::new();
    for line in text.lines() {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        if cells.len() < 6 {
            continue;
        }
        let Ok(floor) = cells[1].parse() else { continue };
        rows.push((floor, quoted(cells[2]), cells[3].to_owned()));
    }
    assert!(rows.len() >= 20, "the floor table was found: {} rows", rows.len());
    let mut granted = BTreeMap::new();
    for (_, modules, may) in &rows {
        for module in modules {
            granted.insert(module.clone(), grants(module, may, &rows));
        }
    }
    granted
}

/// What a cell such as "floors 0-3, `tls`; `utl` also `wal`" grants to `module`.
fn grants(module: &str, cell: &str, rows: &[(u32, Vec<String>, String)]) -> BTreeSet<String> {
    let mut granted = BTreeSet::new();
    for part in cell.split(';') {
        let (own, rest) = match part.split_once(" also ") {
            Some((who, rest)) if quoted(who) == [module] => (true, rest),
            Some(_) => (false, ""),
            None => (true, part),
        };
        if !own {
            continue;
        }
        granted.extend(quoted(rest));
        if rest.trim() == "all" {
            granted.extend(rows.iter().flat_map(|(_, modules, _)| modules.clone()));
        }
        for phrase in rest.split(',').map(str::trim) {
            let Some(range) = phrase.strip_prefix("floor ").or_else(|| phrase.strip_prefix("floors ")) else {
                continue;
            };
            let (low, high) = range.split_once('-').unwrap_or((range, range));
            let bounds = low.parse::<u32>().expect("a floor")..=high.parse().expect("a floor");
            let on = rows.iter().filter(|(floor, ..)| bounds.contains(floor));
            granted.extend(on.flat_map(|(_, modules, _)| modules.clone()));
        }
    }
    granted
}

fn quoted(text: &str) -> Vec<String> {
    text.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

/// The source without comments and without its tests, which may look anywhere below.
fn code(text: &str) -> String {
    let body = text.find("#[cfg(test)]\nmod tests {").map_or(text, |at| &text[..at]);
    body.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

#[test]
fn imports_go_down_the_floors() {
    let floors = floors();
    let mut complaints = Vec::new();
    for source in sources() {
        if source.module == "lib" || source.module == "bin" || source.path.ends_with("/tests.rs") {
            continue;
        }
        let Some(allowed) = floors.get(&source.module) else {
            complaints.push(format!("{}: module `{}` is not in the floor table", source.path, source.module));
            continue;
        };
        for tail in code(&source.text).split("crate::").skip(1) {
            let to: String = tail.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            if to.is_empty() {
                complaints.push(format!("{}: write one `use crate::module::…` a line", source.path));
            } else if to != source.module && !allowed.contains(&to) {
                complaints.push(format!("{}: imports `{to}`, which the table does not grant", source.path));
            }
        }
    }
    complaints.dedup();
    assert!(complaints.is_empty(), "\n{}", complaints.join("\n"));
}

#[test]
fn raft_is_named_in_consensus_only() {
    let naming = |source: &Source| {
        let code = code(&source.text);
        let names = code.match_indices("raft::").any(|(at, _)| {
            let before = code[..at].chars().next_back().unwrap_or(' ');
            !before.is_alphanumeric() && before != '_' && before != ':'
        });
        (names && source.module != "consensus").then(|| source.path.clone())
    };
    let found: Vec<_> = sources().iter().filter_map(naming).collect();
    assert!(found.is_empty(), "only `consensus` may name raft-rs: {found:?}");
}

#[test]
fn files_have_heads_and_at_most_800_lines() {
    let mut complaints = Vec::new();
    for source in sources() {
        let lines = source.text.lines().count();
        if lines > FILE_LINES_MAX {
            complaints.push(format!("{}: {lines} lines", source.path));
        }
        if !source.text.starts_with("//!") {
            complaints.push(format!("{}: no `//!` head that says what it is", source.path));
        }
    }
    assert!(complaints.is_empty(), "\n{}", complaints.join("\n"));
}

#[test]
fn functions_have_at_most_70_lines() {
    let mut complaints = Vec::new();
    let mut functions = 0;
    for source in sources() {
        let lines: Vec<&str> = source.text.lines().collect();
        for (at, line) in lines.iter().enumerate() {
            let indent = line.len() - line.trim_start().len();
            if !is_function(line.trim_start()) {
                continue;
            }
            // rustfmt closes a body at the indent of its `fn`; a signature alone ends with a semicolon.
            let close = format!("{}}}", " ".repeat(indent));
            let ends = |line: &&str| **line == close || (line.ends_with(';') && line.starts_with(&close[..indent]));
            let body = &lines[at..];
            let length = body.iter().position(|line| line == &close).map_or(1, |end| end + 1);
            functions += 1;
            if length > FUNCTION_LINES_MAX && !body[..1].iter().any(ends) {
                complaints.push(format!("{}:{}: {length} lines", source.path, at + 1));
            }
        }
    }
    assert!(functions > 100, "functions were found: {functions}");
    assert!(complaints.is_empty(), "\n{}", complaints.join("\n"));
}

fn is_function(line: &str) -> bool {
    let starts =
        ["fn ", "pub fn ", "pub(crate) fn ", "async fn ", "pub async fn ", "pub(crate) async fn ", "const fn "];
    let opens = starts.iter().any(|start| line.starts_with(start)) || line.starts_with("pub(super) fn ");
    opens && !line.ends_with(';') && !line.ends_with('}')
}

#[test]
fn nothing_is_left_over() {
    let words =
        [["TO", "DO"].concat(), ["FIX", "ME"].concat(), "todo!(".into(), "unimplemented!(".into(), "dbg!(".into()];
    let mut complaints = Vec::new();
    for source in sources() {
        for (number, line) in (1..).zip(source.text.lines()) {
            if words.iter().any(|word| line.contains(word.as_str())) {
                complaints.push(format!("{}:{number}: {}", source.path, line.trim()));
            }
        }
    }
    assert!(complaints.is_empty(), "\n{}", complaints.join("\n"));
}
