//! `etcd-lab class`: what a teacher takes into a room without a network, and what comes back from it.
//!
//! `class bundle` fills a folder (see `bundle`). Each learner's `etcd-lab progress export` writes one file; `class import` reads all files below
//! a folder, a stick or a share, and says who is where and what they wait for. Nothing is sent, and no keystroke is kept: a file has the steps,
//! the guesses, and what the checks said last.
//!
//! Left out: grades, a live board.

mod bundle;

use crate::lab::guide::SHELF;
use crate::lab::guide::shelved;
use crate::lab::progress::Progress;
use serde::Deserialize;
use serde::Serialize;
use std::collections::BTreeMap;
use std::env;
use std::fmt::Write as _;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::path::PathBuf;

const HELP: &str = "\
usage: etcd-lab class bundle --to DIR [--help]   one folder with all that a class needs without a network
       etcd-lab class import DIR                 who is where, and what they wait for: of the files of `etcd-lab progress export`
";

/// How a learner's file ends.
const ENDING: &str = ".etcd-lab.json";

/// Files that are read, and bytes of each: a class, not a disk.
const FILES_MAX: usize = 1000;
const BYTES_MAX: u64 = 1 << 20;

/// A learner's file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Handed {
    name: String,
    /// The program's version.
    program: String,
    progress: Progress,
}

/// `etcd-lab class …`. Returns the exit code.
pub fn run(args: &[String], out: &mut dyn Write, err: &mut dyn Write) -> u8 {
    let done = match args {
        [word, rest @ ..] if word == "bundle" => bundle::run(rest, out),
        [word, dir] if word == "import" => import(Path::new(dir)),
        [word] if word == "--help" || word == "-h" => Ok(HELP.to_owned()),
        _ => Err(format!("`etcd-lab class` knows bundle and import\n{HELP}")),
    };
    match done {
        Ok(text) => {
            // A reader that is gone is no failure.
            drop(out.write_all(text.as_bytes()));
            0
        }
        Err(why) => {
            drop(writeln!(err, "Error: {}", why.trim_end()));
            2
        }
    }
}

/// `etcd-lab progress export`: writes the learner's file.
pub fn export(args: &[String], file: &Path, out: &mut dyn Write, err: &mut dyn Write) -> u8 {
    match exported(args, file) {
        Ok(path) => {
            drop(writeln!(
                out,
                "{}: give this to your teacher. It has your steps, guesses and open checks, and no keystroke.",
                path.display()
            ));
            0
        }
        Err(why) => {
            drop(writeln!(err, "Error: {why}"));
            2
        }
    }
}

fn exported(args: &[String], file: &Path) -> Result<PathBuf, String> {
    let (mut name, mut to) = (env::var("USER").unwrap_or_default(), PathBuf::from("."));
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        let mut value = || args.next().ok_or_else(|| format!("{arg} needs a value"));
        match arg.as_str() {
            "--name" => name.clone_from(value()?),
            "--to" => to = value()?.into(),
            other => return Err(format!("etcd-lab progress export knows --name and --to, not {other}")),
        }
    }
    let fits = |c: char| c.is_alphanumeric() || "-_.".contains(c);
    if name.is_empty() || name.starts_with('.') || name.chars().count() > 40 || !name.chars().all(fits) {
        return Err(format!("{name:?} is no name for a file: say --name with letters, digits, - _ or ."));
    }
    let progress = Progress::load(file).map_err(|e| e.to_string())?;
    let path = to.join(format!("{name}{ENDING}"));
    let handed = Handed { name, program: env!("CARGO_PKG_VERSION").into(), progress };
    let text = serde_json::to_string_pretty(&handed).unwrap_or_default() + "\n";
    fs::write(&path, text).map_err(|e| format!("{}: {e}", path.display()))?;
    Ok(path)
}

fn import(dir: &Path) -> Result<String, String> {
    let mut files = Vec::new();
    collect(dir, 3, &mut files).map_err(|e| format!("{}: {e}", dir.display()))?;
    files.sort();
    if files.is_empty() {
        return Err(format!(
            "no file below {} ends in {ENDING}: `etcd-lab progress export` writes them",
            dir.display()
        ));
    }
    let (mut learners, mut unread) = (BTreeMap::new(), String::new());
    for file in files.iter().take(FILES_MAX) {
        match read(file) {
            Ok(handed) => drop(learners.insert(handed.name.clone(), handed)),
            Err(why) => drop(writeln!(unread, "not read: {}: {why}", file.display())),
        }
    }
    Ok(board(&learners.into_values().collect::<Vec<_>>()) + &unread)
}

fn collect(dir: &Path, deep: usize, files: &mut Vec<PathBuf>) -> std::io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        // A link may lead in a circle.
        let is_link = fs::symlink_metadata(&path).is_ok_and(|m| m.is_symlink());
        if path.is_dir() && deep > 0 && !is_link {
            // A folder of somebody else's on the same stick is not read.
            let _ = collect(&path, deep - 1, files);
        } else if path.to_string_lossy().ends_with(ENDING) {
            files.push(path);
        }
    }
    Ok(())
}

fn read(file: &Path) -> Result<Handed, String> {
    if fs::metadata(file).map_err(|e| e.to_string())?.len() > BYTES_MAX {
        return Err("it is too large for a learner's progress".into());
    }
    let text = fs::read_to_string(file).map_err(|e| e.to_string())?;
    serde_json::from_str(&text).map_err(|e| format!("this is no progress of etcd-lab ({e})"))
}

/// Where a learner is: the lab, the step in words, and what the checks wait for.
struct Place {
    lab: String,
    step: String,
    waits: String,
}

fn place(progress: &Progress) -> Option<Place> {
    let lab = progress.last.clone().or_else(|| progress.labs.keys().next_back().cloned())?;
    let done = progress.labs.get(&lab)?;
    let known = SHELF.iter().filter_map(|(name, _)| shelved(name)?.ok()).find(|l| l.head.id == lab)?;
    let all = known.steps.len();
    let at = known.steps.iter().position(|step| step.id == done.at);
    let step = match at {
        _ if known.steps.iter().all(|s| done.steps.contains(&s.id)) => format!("{all}/{all} done"),
        Some(at) => format!("{}/{all} {}", at + 1, known.steps[at].title),
        None => format!("an older version ({})", done.version),
    };
    let hints = if done.hints == 0 { String::new() } else { format!(" (hints: {})", done.hints) };
    let waits = done.waits.as_ref().map(|waits| format!("{waits}{hints}")).unwrap_or_default();
    Some(Place { lab, step, waits })
}

/// Everybody in a line; then what most wait for.
fn board(learners: &[Handed]) -> String {
    let mut text = format!("{:<18} {:>5}  {:<4} {:<34} waits for\n", "name", "steps", "lab", "step");
    let mut common: BTreeMap<String, usize> = BTreeMap::new();
    for learner in learners {
        let steps: usize = learner.progress.labs.values().map(|done| done.steps.len()).sum();
        let Some(place) = place(&learner.progress) else {
            let _ = writeln!(text, "{:<18} {steps:>5}  {:<4} has not begun", learner.name, "-");
            continue;
        };
        let line = format!("{:<18} {steps:>5}  {:<4} {:<34} {}", learner.name, place.lab, place.step, place.waits);
        let _ = writeln!(text, "{}", line.trim_end());
        if let Some(waits) = learner.progress.labs.get(&place.lab).and_then(|done| done.waits.clone()) {
            *common.entry(format!("{} {}: {waits}", place.lab, place.step)).or_default() += 1;
        }
    }
    let mut common: Vec<(usize, String)> = common.into_iter().map(|(what, count)| (count, what)).collect();
    common.sort_by(|a, b| b.0.cmp(&a.0).then(a.1.cmp(&b.1)));
    let _ = writeln!(text, "\n{} learners.", learners.len());
    for (count, what) in common.iter().filter(|(count, _)| *count > 1).take(5) {
        let _ = writeln!(text, "{count} wait at {what}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::progress::Done;

    fn learner(waits: Option<&str>) -> Progress {
        let lab = shelved("B3-first-keys").expect("it is there").unwrap_or_else(|e| panic!("{e}"));
        let steps = lab.steps.iter().take(1).map(|s| s.id.clone()).collect();
        let waits = waits.map(str::to_owned);
        let done = Done { version: lab.head.version, at: lab.steps[1].id.clone(), steps, waits, ..Done::default() };
        Progress { last: Some("B3".into()), labs: BTreeMap::from([("B3".into(), done)]) }
    }

    #[test]
    fn what_learners_hand_in_says_who_is_where_and_what_most_wait_for() {
        let folder = tempfile::tempdir().expect("a folder");
        let kept = folder.path().join("progress.json");
        let sticks = folder.path().join("sticks");
        fs::create_dir_all(sticks.join("one")).expect("made");
        let to = sticks.join("one").display().to_string();
        let export = |name: &str, progress: &Progress| {
            progress.save(&kept).expect("written");
            exported(&["--name", name, "--to", &to].map(str::to_owned), &kept).expect("written")
        };
        export("a.alvarez", &learner(Some("the key is there: you wrote another one")));
        export("b.brandt", &learner(None));
        export("c.chen", &learner(Some("the key is there: you wrote another one")));
        export("d.dias", &Progress::default());
        fs::write(sticks.join(format!("broken{ENDING}")), "{").expect("written");
        let text = import(&sticks).expect("read");
        let line = |name: &str| text.lines().find(|l| l.starts_with(name)).unwrap_or_else(|| panic!("{name}: {text}"));
        assert!(line("a.alvarez").contains("1  B3   2/"), "{text}");
        assert!(line("a.alvarez").ends_with("the key is there: you wrote another one"), "{text}");
        assert!(line("d.dias").ends_with("has not begun"), "{text}");
        assert!(text.contains("\n4 learners.\n2 wait at B3 2/"), "{text}");
        assert!(line("not read: ").contains("this is no progress"), "{text}");
    }

    #[test]
    fn what_cannot_be_handed_in_says_why() {
        let said = |args: &[&str]| {
            let args: Vec<String> = args.iter().map(|a| (*a).to_owned()).collect();
            exported(&args, Path::new("/nowhere")).expect_err("refused")
        };
        assert!(said(&["--name", "../x"]).contains("no name for a file"));
        assert!(said(&["--name"]).contains("needs a value"));
        let folder = tempfile::tempdir().expect("a folder");
        assert!(import(folder.path()).expect_err("empty").contains("progress export"));
    }
}
