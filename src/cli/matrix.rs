//! `etcd-lab test --all --matrix`: every lab, on every engine and with every profile that its head allows.
//!
//! It takes an hour or two, so it can be gone on with: each cell's result is a line of JSON in a file from the moment that it is known, and a
//! cell that holds already is not run again, if this program, the lab's page and the other etcd are the same as then. What does not hold must
//! stand in `labs/exceptions.toml`, and what stands there must not hold.

use crate::lab::guide;
use crate::lab::guide::Lab;
use crate::lab::guide::Profile;
use crate::lab::guide::TestOptions;
use crate::lab::guide::exceptions::Exceptions;
use crate::lab::guide::scratch;
use crate::lab::upstream;
use serde::Deserialize;
use serde::Serialize;
use serde_json::Value;
use sha2::Digest as _;
use sha2::Sha256;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;

/// One lab in one place.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct Place {
    lab: String,
    /// `real`, `etcd` or `sim`.
    engine: String,
    /// `-` for simulated members.
    profile: String,
}

/// What became of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Cell {
    #[serde(flatten)]
    place: Place,
    /// What was tried there: a sum of this program, the lab's page, and the other etcd's version or the simulation's seed.
    build: String,
    /// The exit code: 0 if it holds, 1 if not, 2 if it could not be tried.
    code: u8,
    took_ms: u64,
    /// What does not hold.
    failed: Vec<String>,
}

/// The columns of the table.
const COLUMNS: [(&str, &str); 7] = [
    ("real", "netns"),
    ("real", "loop"),
    ("real", "ports"),
    ("etcd", "netns"),
    ("etcd", "loop"),
    ("etcd", "ports"),
    ("sim", "-"),
];

pub(super) fn run(options: &TestOptions, seed: u64) -> Result<u8, String> {
    let folder = Path::new("labs");
    let file = options.json.as_deref().ok_or("--matrix needs --json FILE")?;
    let exceptions = Exceptions::load(folder).map_err(|e| e.to_string())?;
    let version = options.etcd_dir.as_deref().map(|dir| upstream::check(&dir.join("etcd"))).transpose();
    let version = version.map_err(|e| e.to_string())?.map(|(_, version)| version);
    let program = program()?;
    let program = sum(&[&fs::read(&program).map_err(|e| format!("{}: {e}", program.display()))?]);
    let (mut known, run) = (kept(file)?, seed.to_string());
    let (mut wanted, mut left_out) = (Vec::new(), false);
    for (name, _) in guide::SHELF {
        let lab = guide::load(&folder.join(name)).map_err(|e| e.to_string())?;
        let places = places(&lab, version.is_some());
        if places.is_empty() {
            let why = if lab.head.wants_etcd() { upstream::WANTED } else { "its head allows no engine or no profile" };
            let _ = writeln!(std::io::stderr(), "{name} is tried nowhere: {why}");
            left_out = true;
        }
        for place in places {
            let more = match place.engine.as_str() {
                "etcd" => version.as_deref().unwrap_or_default(),
                "sim" => &run,
                _ => "",
            };
            let build = sum(&[program.as_bytes(), lab.source.as_bytes(), more.as_bytes()]);
            wanted.push((name, place, build));
        }
    }
    for (n, (name, place, build)) in wanted.iter().enumerate() {
        if !holds_already(&known, place, build) {
            let Place { lab, engine, profile } = place;
            let _ = writeln!(std::io::stderr(), "{} of {}: {lab} {engine} {profile}", n + 1, wanted.len());
            let cell = Cell { build: build.clone(), ..tried(&folder.join(name), place, options, seed)? };
            append(file, &cell)?;
            known.insert(place.clone(), cell);
        }
    }
    let excepted = |place: &Place| {
        version.as_ref().filter(|_| place.engine == "etcd").and_then(|v| exceptions.on_etcd(&place.lab, v))
    };
    let cells: Vec<&Cell> = wanted.iter().filter_map(|(_, place, _)| known.get(place)).collect();
    let (text, holds) = table(&cells, &excepted);
    let _ = write!(std::io::stdout(), "{text}");
    Ok(u8::from(!holds || left_out))
}

fn program() -> Result<PathBuf, String> {
    std::env::current_exe().map_err(|e| format!("this program's path is not known: {e}"))
}

/// SHA-256 of these parts: the same if each of them is.
fn sum(parts: &[&[u8]]) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    format!("{:x}", hash.finalize())
}

/// The results that are in the file. A line that is cut off was being written when the run ended.
fn kept(file: &Path) -> Result<BTreeMap<Place, Cell>, String> {
    match fs::read_to_string(file) {
        Ok(text) => {
            let cells = text.lines().filter_map(|line| serde_json::from_str::<Cell>(line).ok());
            Ok(cells.map(|cell| (cell.place.clone(), cell)).collect())
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(BTreeMap::new()),
        Err(e) => Err(format!("{}: {e}", file.display())),
    }
}

/// Whether this very build is known to hold there.
fn holds_already(known: &BTreeMap<Place, Cell>, place: &Place, build: &str) -> bool {
    known.get(place).is_some_and(|cell| cell.code == 0 && cell.build == build)
}

fn append(file: &Path, cell: &Cell) -> Result<(), String> {
    let line = serde_json::to_string(cell).map_err(|e| e.to_string())?;
    let opened = OpenOptions::new().create(true).append(true).open(file);
    opened.and_then(|mut f| writeln!(f, "{line}")).map_err(|e| format!("{}: {e}", file.display()))
}

/// Where this lab is to be tried.
fn places(lab: &Lab, with_etcd: bool) -> Vec<Place> {
    let head = &lab.head;
    let wanted = |engine: &str, profile: &str| {
        let in_network = head.network.is_empty() || head.network.iter().any(|n| n == profile);
        match engine {
            "sim" => head.allows("sim"),
            "etcd" => with_etcd && in_network && (head.allows("real") || head.wants_etcd()),
            _ => in_network && head.allows("real"),
        }
    };
    let columns = COLUMNS.into_iter().filter(|(engine, profile)| wanted(engine, profile));
    let place = |(engine, profile): (&str, &str)| {
        let (lab, engine, profile) = (head.id.clone(), engine.to_owned(), profile.to_owned());
        Place { lab, engine, profile }
    };
    columns.map(place).collect()
}

/// Runs the author's gate there, as a process of its own.
fn tried(path: &Path, place: &Place, options: &TestOptions, seed: u64) -> Result<Cell, String> {
    let parts = scratch("matrix")?;
    let report = parts.join("report.json");
    let mut command = Command::new(program()?);
    command.arg("test").arg(path).arg("--json").arg(&report);
    match (place.engine.as_str(), &options.etcd_dir) {
        ("sim", _) => drop(command.args(["--engine", "sim", "--seed", &seed.to_string()])),
        ("etcd", Some(dir)) => drop(command.args(["--engine", "etcd"]).arg(dir)),
        _ => {}
    }
    if Profile::named(&place.profile).is_some() {
        command.args(["--profile", &place.profile]);
    }
    let began = now();
    let out = command.output().map_err(|e| format!("{}: {e}", path.display()))?;
    let took_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
    let code = out.status.code().and_then(|c| u8::try_from(c).ok()).unwrap_or(2);
    let told: Option<Value> = fs::read_to_string(&report).ok().and_then(|text| serde_json::from_str(&text).ok());
    // It has been read; there is nobody to tell if it stays.
    let _ = fs::remove_dir_all(&parts);
    let failed = match told {
        Some(report) => failures(&report),
        None if code == 0 => Vec::new(),
        None => vec![format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr))],
    };
    Ok(Cell { place: place.clone(), build: String::new(), code, took_ms, failed })
}

#[expect(clippy::disallowed_methods, reason = "the table says how long things took")]
fn now() -> Instant {
    Instant::now()
}

fn failures(report: &Value) -> Vec<String> {
    let cases = report["cases"].as_array().into_iter().flatten();
    let failed = cases.filter_map(|c| Some((c["group"].as_str()?, c["name"].as_str()?, c["failure"].as_str()?)));
    failed.map(|(group, name, why)| format!("{group}: {name}: {why}")).collect()
}

/// The table, what does not hold, and the exceptions with their reasons. Whether all is as it must be.
fn table<'a>(cells: &[&Cell], excepted: &dyn Fn(&Place) -> Option<&'a str>) -> (String, bool) {
    let mut out = String::from(
        "\n     our etcd             another etcd         simulated\nlab  netns  loop   ports  netns  loop   ports\n",
    );
    let mut notes: Vec<String> = Vec::new();
    let mut holds = !cells.is_empty();
    let mut labs: Vec<&str> = cells.iter().map(|c| c.place.lab.as_str()).collect();
    labs.dedup();
    for lab in labs {
        let _ = write!(out, "{lab:<5}");
        for (engine, profile) in COLUMNS {
            let is_here = |c: &&&Cell| {
                (c.place.lab.as_str(), c.place.engine.as_str(), c.place.profile.as_str()) == (lab, engine, profile)
            };
            let Some(cell) = cells.iter().find(is_here) else {
                out += "-      ";
                continue;
            };
            let seconds = cell.took_ms.div_ceil(1000);
            let (word, note) = match (cell.code, excepted(&cell.place)) {
                (0, None) => (format!("{seconds}s"), None),
                (0, Some(_)) => ("OLD".into(), Some("it holds: strike it from labs/exceptions.toml".to_owned())),
                (_, Some(reason)) => ("except".into(), Some(format!("an exception: {reason}"))),
                (_, None) => ("FAIL".into(), Some(cell.failed.join("\n      "))),
            };
            holds &= !matches!(word.as_str(), "OLD" | "FAIL");
            let _ = write!(out, "{word:<7}");
            notes.extend(note.map(|note| format!("{lab} {engine} {profile}: {note}")));
        }
        out.truncate(out.trim_end().len());
        out.push('\n');
    }
    let held = cells.iter().filter(|c| c.code == 0).count();
    let _ = writeln!(out, "\n{held} of {} hold.", cells.len());
    for note in notes {
        let _ = writeln!(out, "{note}");
    }
    (out, holds)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cell(lab: &str, engine: &str, profile: &str, code: u8) -> Cell {
        let place = Place { lab: lab.into(), engine: engine.into(), profile: profile.into() };
        let failed = if code == 0 { Vec::new() } else { vec!["start: it passes: why".into()] };
        Cell { place, build: sum(&[b"program"]), code, took_ms: 1_500, failed }
    }

    #[test]
    fn the_table_tells_what_holds_what_does_not_and_what_need_not() {
        let e4 = |place: &Place| (place.lab == "E4" && place.engine == "etcd").then_some("no such flag");
        let all = [cell("A1", "real", "ports", 0), cell("A1", "sim", "-", 0), cell("E4", "etcd", "loop", 1)];
        let (text, holds) = table(&all.iter().collect::<Vec<_>>(), &e4);
        assert!(holds, "{text}");
        assert!(text.contains("A1   -      -      2s     -      -      -      2s\n"), "{text}");
        assert!(text.contains("E4 etcd loop: an exception: no such flag") && text.contains("2 of 3 hold"), "{text}");
        let (text, holds) = table(&[&cell("A1", "real", "ports", 1)], &e4);
        assert!(!holds && text.contains("FAIL") && text.contains("start: it passes: why"), "{text}");
        let (text, holds) = table(&[&cell("E4", "etcd", "ports", 0)], &e4);
        assert!(!holds && text.contains("strike it"), "{text}");
        assert!(!table(&[], &e4).1, "nothing tried is nothing proved");
    }

    #[test]
    fn what_is_known_is_read_back_and_a_line_that_is_cut_off_is_not() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("matrix.jsonl");
        assert_eq!(kept(&file), Ok(BTreeMap::new()));
        let (first, again) = (cell("A1", "real", "ports", 1), cell("A1", "real", "ports", 0));
        append(&file, &first).expect("written");
        append(&file, &again).expect("written");
        let text = fs::read_to_string(&file).expect("there") + "{\"lab\":\"A4\",\"eng";
        fs::write(&file, text).expect("written");
        let known = kept(&file).expect("read");
        assert!(holds_already(&known, &again.place, &again.build), "and is not tried again");
        assert_eq!(known.into_values().collect::<Vec<_>>(), [again], "the newest counts");
    }

    #[test]
    fn what_held_is_tried_again_with_another_program_page_or_etcd() {
        let parts = [b"program".as_slice(), b"page", b"3.5.1"];
        let held = Cell { build: sum(&parts), ..cell("A1", "etcd", "ports", 0) };
        let known = BTreeMap::from([(held.place.clone(), held.clone())]);
        assert!(holds_already(&known, &held.place, &sum(&parts)));
        for other in 0..parts.len() {
            let mut now = parts;
            now[other] = b"another";
            assert!(!holds_already(&known, &held.place, &sum(&now)), "part {other}");
        }
        assert_ne!(sum(&[b"ab", b"c"]), sum(&[b"a", b"bc"]));
        // A line of a release that did not say what it had tried.
        let old = r#"{"lab":"A1","engine":"real","profile":"ports","code":0,"took_ms":1,"failed":[]}"#;
        let file = tempfile::NamedTempFile::new().expect("a file");
        fs::write(file.path(), old).expect("written");
        assert_eq!(kept(file.path()), Ok(BTreeMap::new()));
    }

    #[test]
    fn every_lab_is_tried_somewhere() {
        for (name, _) in guide::SHELF {
            let lab = guide::shelved(name).expect("there").unwrap_or_else(|e| panic!("{e}"));
            assert!(!places(&lab, true).is_empty(), "{name}");
            let on_etcd = places(&lab, true).iter().any(|place| place.engine == "etcd");
            assert_eq!(on_etcd, lab.head.allows("real") || lab.head.wants_etcd(), "{name}");
            assert_eq!(places(&lab, false).is_empty(), lab.head.wants_etcd(), "{name}");
        }
    }
}
