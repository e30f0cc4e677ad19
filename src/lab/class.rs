//! `etcd-lab class`: what a teacher takes into a room without a network, and what comes back from it.
//!
//! `class bundle` fills a folder (see `bundle`). Each learner's `etcd-lab progress export` writes one file; `class import` reads all files below
//! a folder, a stick or a share, and says who is where and what they wait for. Nothing is sent, and no keystroke is kept: a file has the steps,
//! the guesses, and what the checks said last.
//!
//! A learner is told from another by chance, not by name: no file takes another's place, and of two files of one learner the newer counts. What
//! is in a file is not trusted: it may be anything, and its words go to the teacher's terminal.
//!
//! Left out: grades, a live board.

mod bundle;

use crate::lab::guide::SHELF;
use crate::lab::guide::shelved;
use crate::lab::progress::Progress;
use rand::TryRngCore as _;
use rand::rngs::OsRng;
use serde::Deserialize;
use serde::Serialize;
use std::collections::BTreeMap;
use std::env;
use std::fmt::Write as _;
use std::fs;
use std::io::ErrorKind;
use std::io::Read as _;
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

/// Signs of a line that are shown.
const SIGNS_MAX: usize = 400;

/// Users whose name says nothing: every machine of the course has them.
const EVERYBODY: [&str; 2] = ["vagrant", "root"];

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
        [word] | [_, word] if word == "--help" || word == "-h" => Ok(HELP.to_owned()),
        [word, dir] if word == "import" => import(Path::new(dir)),
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
    let (mut name, mut to) = (None, PathBuf::from("."));
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        let mut value = || args.next().ok_or_else(|| format!("{arg} needs a value"));
        match arg.as_str() {
            "--name" => name = Some(value()?.clone()),
            "--to" => to = value()?.into(),
            other => return Err(format!("etcd-lab progress export knows --name and --to, not {other}")),
        }
    }
    let name = match name {
        Some(name) => name,
        None => own(&env::var("USER").unwrap_or_default())?,
    };
    fits(&name)?;
    let mut chance = [0; 8];
    OsRng.try_fill_bytes(&mut chance).map_err(|e| format!("no randomness: {e}"))?;
    let handed_in = |progress: &mut Progress| {
        progress.learner.get_or_insert_with(|| chance.iter().map(|byte| format!("{byte:02x}")).collect());
        progress.handed_in += 1;
    };
    let progress = Progress::change(file, handed_in).map_err(|e| e.to_string())?;
    let path = to.join(format!("{name}{ENDING}"));
    put(&path, &Handed { name, program: env!("CARGO_PKG_VERSION").into(), progress })?;
    Ok(path)
}

/// The name of this machine's user, if it is a learner's.
fn own(user: &str) -> Result<String, String> {
    match EVERYBODY.contains(&user) {
        true => Err(format!("every machine of the course has a user {user}: say your own name with --name")),
        false => Ok(user.to_owned()),
    }
}

/// Whether a file can be named after this learner.
fn fits(name: &str) -> Result<(), String> {
    let fits = |c: char| c.is_alphanumeric() || "-_.".contains(c);
    if name.is_empty() || name.starts_with('.') || name.chars().count() > 40 || !name.chars().all(fits) {
        return Err(format!("{name:?} is no name for a file: say --name with letters, digits, - _ or ."));
    }
    Ok(())
}

/// Writes the file, or writes it anew if the same learner has handed it in before.
fn put(path: &Path, handed: &Handed) -> Result<(), String> {
    let failed = |e: std::io::Error| format!("{}: {e}", path.display());
    let text = serde_json::to_string_pretty(handed).unwrap_or_default() + "\n";
    match fs::OpenOptions::new().write(true).create_new(true).open(path) {
        Ok(mut file) => file.write_all(text.as_bytes()).map_err(|e| {
            // Half a file would be taken for somebody else's the next time.
            let _ = fs::remove_file(path);
            failed(e)
        }),
        Err(e) if e.kind() == ErrorKind::AlreadyExists => {
            if read(path).ok().is_none_or(|there| there.progress.learner != handed.progress.learner) {
                return Err(format!("{} is there, and not yours: say another --name", path.display()));
            }
            let beside = path.with_extension("json.new");
            fs::write(&beside, text).and_then(|()| fs::rename(&beside, path)).map_err(failed)
        }
        Err(e) => Err(failed(e)),
    }
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
    let left_out = files.len().saturating_sub(FILES_MAX);
    let (mut handed, mut said) = (Vec::new(), Vec::new());
    for file in files.into_iter().take(FILES_MAX) {
        match read(&file) {
            Ok(learner) => handed.push((file, learner)),
            Err(why) => said.push(format!("not read: {}: {why}", file.display())),
        }
    }
    let age = |(file, learner): &(PathBuf, Handed)| (learner.progress.handed_in, file.clone());
    let is_same = |a: &Handed, b: &Handed| a.progress.learner.is_some() && a.progress.learner == b.progress.learner;
    let is_newest = |one: &&(PathBuf, Handed)| !handed.iter().any(|o| is_same(&one.1, &o.1) && age(o) > age(one));
    let (mut learners, older): (Vec<_>, Vec<_>) = handed.iter().partition(is_newest);
    learners.sort_by(|(_, a), (_, b)| a.name.cmp(&b.name));
    said.extend(
        older.iter().map(|(file, _)| format!("left out: {}: its learner has a newer file here", file.display())),
    );
    if left_out > 0 {
        said.push(format!(
            "left out: {left_out} more files, for {FILES_MAX} are read at once: import folder by folder"
        ));
    }
    let said: String = said.iter().map(|line| plain(line) + "\n").collect();
    Ok(board(&learners) + &said)
}

/// For a terminal: without what moves its cursor or paints it, and not without end.
fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(SIGNS_MAX).collect()
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
    // A pipe has no end, and a link may lead to one.
    if !fs::symlink_metadata(file).map_err(|e| e.to_string())?.is_file() {
        return Err("it is no plain file".into());
    }
    let mut bytes = Vec::new();
    let opened = fs::File::open(file).map_err(|e| e.to_string())?;
    opened.take(BYTES_MAX + 1).read_to_end(&mut bytes).map_err(|e| e.to_string())?;
    if bytes.len() as u64 > BYTES_MAX {
        return Err("it is too large for a learner's progress".into());
    }
    let handed: Handed =
        serde_json::from_slice(&bytes).map_err(|e| format!("this is no progress of etcd-lab ({e})"))?;
    fits(&handed.name).map_err(|_| format!("{:?} is no learner's name", handed.name))?;
    Ok(handed)
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

/// Everybody in a line, those of one name with their files; then what most wait for.
fn board(learners: &[&(PathBuf, Handed)]) -> String {
    let mut text = format!("{:<18} {:>5}  {:<4} {:<34} waits for\n", "name", "steps", "lab", "step");
    let mut common: BTreeMap<String, usize> = BTreeMap::new();
    for (file, learner) in learners.iter().copied() {
        let is_only = learners.iter().filter(|(_, other)| other.name == learner.name).count() == 1;
        let file = if is_only { String::new() } else { format!(" ({})", file.display()) };
        let steps: usize = learner.progress.labs.values().map(|done| done.steps.len()).sum();
        let Some(place) = place(&learner.progress) else {
            let line = format!("{:<18} {steps:>5}  {:<4} has not begun{file}", learner.name, "-");
            let _ = writeln!(text, "{}", plain(&line));
            continue;
        };
        let Place { lab, step, waits } = &place;
        let line = format!("{:<18} {steps:>5}  {lab:<4} {step:<34} {waits}{file}", learner.name);
        let _ = writeln!(text, "{}", plain(line.trim_end()));
        if let Some(waits) = learner.progress.labs.get(&place.lab).and_then(|done| done.waits.clone()) {
            *common.entry(format!("{} {}: {waits}", place.lab, place.step)).or_default() += 1;
        }
    }
    let mut common: Vec<(usize, String)> = common.into_iter().map(|(what, count)| (count, what)).collect();
    common.sort_by(|a, b| b.0.cmp(&a.0).then(a.1.cmp(&b.1)));
    let _ = writeln!(text, "\n{} learners.", learners.len());
    for (count, what) in common.iter().filter(|(count, _)| *count > 1).take(5) {
        let _ = writeln!(text, "{count} wait at {}", plain(what));
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
        Progress { last: Some("B3".into()), labs: BTreeMap::from([("B3".into(), done)]), ..Progress::default() }
    }

    /// A learner's progress, kept in this file.
    fn kept(file: PathBuf, progress: &Progress) -> PathBuf {
        Progress::change(&file, |kept| kept.clone_from(progress)).expect("written");
        file
    }

    fn export(name: &str, to: &Path, kept: &Path) -> Result<PathBuf, String> {
        exported(&["--name", name, "--to", &to.display().to_string()].map(str::to_owned), kept)
    }

    #[test]
    fn what_learners_hand_in_says_who_is_where_and_what_most_wait_for() {
        let folder = tempfile::tempdir().expect("a folder");
        let sticks = folder.path().join("sticks");
        fs::create_dir_all(sticks.join("one")).expect("made");
        let export = |name: &str, progress: &Progress| {
            let kept = kept(folder.path().join(name).join("progress.json"), progress);
            export(name, &sticks.join("one"), &kept).expect("written")
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
    fn two_learners_of_one_name_are_two_and_the_newer_file_of_one_learner_counts() {
        let folder = tempfile::tempdir().expect("a folder");
        let at = |name: &str| folder.path().join(name);
        fs::create_dir_all(at("share/other")).expect("made");
        let (one, two) =
            (kept(at("one.json"), &learner(None)), kept(at("two.json"), &learner(Some("the key is there"))));
        let first = export("chen", &at("share"), &one).expect("written");
        let bytes = fs::read(&first).expect("there");
        let said = export("chen", &at("share"), &two).expect_err("it is another learner's");
        assert!(said.contains("is there, and not yours: say another --name"), "{said}");
        assert_eq!(fs::read(&first).expect("there"), bytes, "nothing was overwritten");
        let second = export("chen", &at("share/other"), &two).expect("written");
        let text = import(&at("share")).expect("read");
        let line =
            |file: &Path| text.lines().find(|l| l.ends_with(&format!(" ({})", file.display()))).map(str::to_owned);
        assert!(line(&first).is_some_and(|l| l.starts_with("chen ") && !l.contains("the key is there")), "{text}");
        assert!(line(&second).is_some_and(|l| l.contains("the key is there")), "{text}");
        // The second one goes on, and hands in once more, under the same name and then under another.
        kept(two.clone(), &Progress { labs: BTreeMap::new(), last: None, ..Progress::load(&two).expect("kept") });
        export("chen", &at("share/other"), &two).expect("it is theirs");
        export("c.chen", &at("share"), &two).expect("written");
        let text = import(&at("share")).expect("read");
        assert!(text.contains("\n2 learners.\n") && text.contains("\nc.chen "), "{text}");
        assert!(
            text.ends_with(&format!("left out: {}: its learner has a newer file here\n", second.display())),
            "{text}"
        );
    }

    #[test]
    fn a_learners_file_moves_no_cursor_and_what_is_no_file_is_not_read() {
        let folder = tempfile::tempdir().expect("a folder");
        let stick = folder.path().join("stick");
        fs::create_dir(&stick).expect("made");
        let bad = kept(folder.path().join("bad.json"), &learner(Some("red \u{1b}[31m\nroot 9 A1")));
        let file = export("a.alvarez", &stick, &bad).expect("written");
        let text = fs::read_to_string(&file).expect("there").replace("a.alvarez", "b\\nroot");
        fs::write(stick.join(format!("b{ENDING}")), text).expect("written");
        std::os::unix::fs::symlink("/dev/zero", stick.join(format!("endless{ENDING}"))).expect("made");
        let fifo = stick.join(format!("fifo{ENDING}"));
        assert!(std::process::Command::new("mkfifo").arg(&fifo).status().expect("mkfifo").success());
        // In a thread: a pipe that is read has no end.
        let (told, hears) = std::sync::mpsc::channel();
        std::thread::spawn(move || told.send(import(&stick)));
        let text = hears.recv_timeout(std::time::Duration::from_secs(20)).expect("it ends").expect("read");
        assert!(text.contains("red  [31m root 9 A1"), "{text}");
        assert!(!text.contains('\u{1b}') && !text.lines().any(|l| l.starts_with("root")), "{text}");
        assert!(text.contains("\\nroot\" is no learner's name"), "{text}");
        assert_eq!(text.matches("it is no plain file").count(), 2, "{text}");
    }

    #[test]
    fn what_cannot_be_handed_in_says_why() {
        let said = |args: &[&str]| {
            let args: Vec<String> = args.iter().map(|a| (*a).to_owned()).collect();
            exported(&args, Path::new("/nowhere")).expect_err("refused")
        };
        assert!(said(&["--name", "../x"]).contains("no name for a file"));
        assert!(said(&["--name"]).contains("needs a value"));
        assert!(own("vagrant").expect_err("everybody's").contains("say your own name with --name"));
        assert_eq!(own("a.alvarez").as_deref(), Ok("a.alvarez"));
        let folder = tempfile::tempdir().expect("a folder");
        assert!(import(folder.path()).expect_err("empty").contains("progress export"));
    }
}
