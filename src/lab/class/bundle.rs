//! `etcd-lab class bundle`: one folder that a room without a network needs, and the teacher's own beside it.
//!
//! ```text
//! DIR/README.txt          what to do first
//!     bin/amd64|arm64/    the static programs           boxes/     boxes for the Vagrantfile, if there are any
//!     Vagrantfile, packaging/box.packages               book/      the book for a browser; book.pdf, if a Chromium is here
//!     commands.md         the documents' commands, with the labs that run them
//!     handouts/           each lab on paper             SHA256SUMS
//! DIR-teacher/answers/    the key to each lab: apart, for it is not for the learners
//! ```
//!
//! What it cannot find it names, with what makes it; what is optional it leaves out and says so. Both folders are made under another name, with
//! `.new` behind it, and renamed at the end: a bundle is there whole or not at all.
#![expect(clippy::disallowed_methods, reason = "a program of this machine, which may hang, is waited for")]

use crate::lab::guide;
use crate::lab::guide::BOOK;
use crate::lab::guide::SHELF;
use crate::lab::guide::Seeds;
use crate::lab::guide::shelved;
use crate::lab::guide::syllabus::short;
use rustix::process::Pid;
use rustix::process::Signal;
use rustix::process::kill_process_group;
use sha2::Digest as _;
use sha2::Sha256;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io;
use std::io::Write;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::process::ExitStatus;
use std::process::Stdio;
use std::thread::sleep;
use std::time::Duration;
use std::time::Instant;

const HELP: &str = "\
usage: etcd-lab class bundle --to DIR [--programs DIR] [--book DIR] [--boxes DIR] [--only amd64|arm64]

  --to DIR        a new folder; DIR-teacher beside it gets the answers
  --programs DIR  with amd64/ and arm64/ in it: target/static, where packaging/static puts them
  --book DIR      the built book, if it is not in this program: target/book
  --boxes DIR     with etcd-lab-PROVIDER-ARCH.box files: target/boxes, where packaging/box puts them; may be missing
  --only ARCH     programs for one architecture
";

const PROGRAMS: [&str; 4] = ["etcd", "etcdctl", "etcdutl", "etcd-lab"];
const VAGRANTFILE: &str = include_str!("../../../Vagrantfile");
const PACKAGES: &str = include_str!("../../../packaging/box.packages");
const SEEDS: &str = include_str!("../../../labs/seeds.toml");
const BROWSERS: [&str; 4] = ["chromium", "chromium-browser", "google-chrome", "chrome"];

/// How long one of them may take for the book.
const PRINTED_WITHIN: Duration = Duration::from_secs(60);

const README: &str = "\
etcd-lab: a class in a folder. Nothing here needs a network.

Without virtual machines (Linux, amd64 or arm64):
  1. Copy this folder to the disk.
  2. export PATH=$PWD/bin/amd64:$PATH      (arm64: bin/arm64)
  3. etcd-lab preflight                    send the code to your teacher
  4. etcd-lab                              the lab;  etcd-lab book: the book;  etcd-lab --help: the rest

With virtual machines (Vagrant with VirtualBox or libvirt, and a box in boxes/):
  CLASS_BUNDLE=$PWD MODE=three vagrant up
  vagrant ssh controller-0

The book is book/index.html, too. commands.md has the commands of the five documents, with what becomes of them today.
Is it all here, and whole?  sha256sum -c SHA256SUMS
Afterwards: `etcd-lab progress export`, then delete this folder and ~/.local/state/etcd-lab; `vagrant destroy` for machines.
";

struct Asked {
    to: PathBuf,
    programs: PathBuf,
    book: PathBuf,
    boxes: PathBuf,
    arches: Vec<&'static str>,
}

/// Runs it; what is said at the end comes back.
pub(super) fn run(args: &[String], out: &mut dyn Write) -> Result<String, String> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let browser =
        std::env::split_paths(&path).flat_map(|dir| BROWSERS.map(|name| dir.join(name))).find(|p| p.is_file());
    run_with(args, browser.as_deref(), out)
}

fn run_with(args: &[String], browser: Option<&Path>, out: &mut dyn Write) -> Result<String, String> {
    let Some(asked) = asked(args)? else { return Ok(HELP.to_owned()) };
    let folders = [asked.to.clone(), teacher(&asked.to)];
    if let Some(there) = folders.iter().chain(&folders.each_ref().map(|folder| new(folder))).find(|f| f.exists()) {
        return Err(format!("{} is there already: name a new folder, or delete that one", there.display()));
    }
    // Before anything is made: what is needed and missing.
    let mut missing = Vec::new();
    for (arch, name) in asked.arches.iter().flat_map(|arch| PROGRAMS.map(|name| (arch, name))) {
        let path = asked.programs.join(arch).join(name);
        if !path.is_file() {
            missing.push(format!("{} (packaging/static makes it)", path.display()));
        }
    }
    if BOOK.is_empty() && !asked.book.join("index.html").is_file() {
        missing.push(format!("the built book in {} (`mdbook build book` makes it)", asked.book.display()));
    }
    if !missing.is_empty() {
        return Err(format!("a bundle needs what is not here: {}", missing.join(", ")));
    }
    let made = made(&asked, browser, out).and_then(|said| {
        // The learners' last: once it is there, all is.
        folders.iter().rev().try_for_each(|folder| fs::rename(new(folder), folder))?;
        Ok(said)
    });
    made.map_err(|e| {
        // Half of it is of no use. It may not have been begun.
        folders.iter().for_each(|folder| drop(fs::remove_dir_all(new(folder))));
        format!("{}: {e}", asked.to.display())
    })
}

/// What a folder is called until it is whole.
fn new(folder: &Path) -> PathBuf {
    let mut name = folder.as_os_str().to_owned();
    name.push(".new");
    name.into()
}

fn asked(args: &[String]) -> Result<Option<Asked>, String> {
    let mut asked = Asked {
        to: PathBuf::new(),
        programs: "target/static".into(),
        book: "target/book".into(),
        boxes: "target/boxes".into(),
        arches: vec!["amd64", "arm64"],
    };
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        let mut value = || args.next().ok_or_else(|| format!("{arg} needs a value\n{HELP}"));
        match arg.as_str() {
            "--help" | "-h" => return Ok(None),
            "--to" => asked.to = value()?.into(),
            "--programs" => asked.programs = value()?.into(),
            "--book" => asked.book = value()?.into(),
            "--boxes" => asked.boxes = value()?.into(),
            "--only" => {
                let word = value()?;
                asked.arches.retain(|arch| arch == word);
                if asked.arches.is_empty() {
                    return Err(format!("--only is amd64 or arm64, not {word}"));
                }
            }
            other => return Err(format!("etcd-lab class bundle does not know {other}\n{HELP}")),
        }
    }
    match asked.to.file_name() {
        Some(_) => Ok(Some(asked)),
        None => Err(format!("--to DIR is needed\n{HELP}")),
    }
}

fn made(asked: &Asked, browser: Option<&Path>, out: &mut dyn Write) -> io::Result<String> {
    let to = &new(&asked.to);
    for arch in &asked.arches {
        for name in PROGRAMS {
            let path = to.join("bin").join(arch).join(name);
            copied(&asked.programs.join(arch).join(name), &path)?;
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
        }
    }
    for (name, text) in [("README.txt", README), ("Vagrantfile", VAGRANTFILE), ("packaging/box.packages", PACKAGES)] {
        written(&to.join(name), text.as_bytes())?;
    }
    written(&to.join("commands.md"), commands().as_bytes())?;
    let mut said = String::new();
    if BOOK.is_empty() {
        below(&asked.book)?.iter().try_for_each(|file| copied(&asked.book.join(file), &to.join("book").join(file)))?;
    } else {
        BOOK.iter().try_for_each(|(file, bytes)| written(&to.join("book").join(file), bytes))?;
    }
    drop(writeln!(out, "programs for {} and the book are copied", asked.arches.join(" and ")));
    said += &printed(to, browser, PRINTED_WITHIN);
    said += &boxes(asked, to)?;
    papers(to, &new(&teacher(&asked.to)))?;
    sums(to)?;
    let (to, answers) = (asked.to.display(), teacher(&asked.to));
    let _ = writeln!(said, "{to}: ready. The answers are apart, in {}", answers.display());
    Ok(said)
}

fn written(path: &Path, bytes: &[u8]) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::write(path, bytes)
}

fn copied(from: &Path, path: &Path) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::copy(from, path).map(drop).map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", from.display())))
}

/// Every file below a folder, by its path from there.
fn below(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = PathBuf::from(entry.file_name());
        match entry.file_type()?.is_dir() {
            true => found.extend(below(&entry.path())?.into_iter().map(|file| name.join(file))),
            false => found.push(name),
        }
    }
    found.sort();
    Ok(found)
}

/// The book as a PDF, by a Chromium if one is here. Says so if not.
fn printed(to: &Path, browser: Option<&Path>, within: Duration) -> String {
    let Some(browser) = browser else { return "no book.pdf: that needs a Chromium on this machine\n".into() };
    let page = match fs::canonicalize(to.join("book/print.html")) {
        Ok(page) => page,
        Err(_) => return "no book.pdf: the book has no print.html\n".into(),
    };
    let mut command = Command::new(browser);
    command.args(["--headless", "--disable-gpu", "--no-pdf-header-footer"]);
    if rustix::process::getuid().is_root() {
        // It refuses its sandbox to root.
        command.arg("--no-sandbox");
    }
    let pdf = to.join("book.pdf");
    command.arg(format!("--print-to-pdf={}", pdf.display()));
    command.arg(format!("file://{}", page.display()));
    match ended(&mut command, within) {
        Ok(Some(status)) if status.success() && pdf.is_file() => String::new(),
        Ok(Some(status)) => format!("no book.pdf: the Chromium here ended with {status}\n"),
        Ok(None) => format!("no book.pdf: the Chromium here had not ended after {} s\n", within.as_secs()),
        Err(e) => format!("no book.pdf: {e}\n"),
    }
}

/// Runs a program without a word, and ends it with all that it has started if it takes longer.
fn ended(command: &mut Command, within: Duration) -> io::Result<Option<ExitStatus>> {
    let silent = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = silent.process_group(0).spawn()?;
    let begin = Instant::now();
    while begin.elapsed() < within {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        sleep(Duration::from_millis(20));
    }
    kill_process_group(Pid::from_child(&child), Signal::KILL)?;
    child.wait()?;
    Ok(None)
}

fn boxes(asked: &Asked, to: &Path) -> io::Result<String> {
    let there = if asked.boxes.is_dir() { below(&asked.boxes)? } else { Vec::new() };
    let boxes: Vec<&PathBuf> = there.iter().filter(|f| f.extension().is_some_and(|e| e == "box")).collect();
    if boxes.is_empty() {
        let where_ = asked.boxes.display();
        return Ok(format!(
            "no boxes: none are in {where_} (packaging/box makes them); without them Vagrant needs a network\n"
        ));
    }
    boxes.iter().try_for_each(|name| copied(&asked.boxes.join(name), &to.join("boxes").join(name)))?;
    Ok(String::new())
}

/// The folder that is not for the learners.
fn teacher(to: &Path) -> PathBuf {
    let name = to.file_name().unwrap_or_default().to_string_lossy();
    to.with_file_name(format!("{name}-teacher"))
}

fn papers(to: &Path, teacher: &Path) -> io::Result<()> {
    for (name, lab) in SHELF.iter().filter_map(|(name, _)| Some((name, shelved(name)?.ok()?))) {
        written(&to.join("handouts").join(format!("{name}.md")), guide::handout(&lab).as_bytes())?;
        let key = teacher.join("answers").join(format!("{name}.md"));
        written(&key, guide::answer_key(&lab).as_bytes())?;
    }
    Ok(())
}

/// The documents' commands, each with its lab and what becomes of it.
fn commands() -> String {
    let mut text = String::from(
        "# The commands of the five documents\n\nByte for byte, with the lab that runs each. What does not run any more has its repair below it.\n",
    );
    let seeds: Seeds = toml::from_str(SEEDS).unwrap_or_default();
    let pages: BTreeMap<&str, &str> = SHELF.iter().map(|(name, _)| (short(name), *name)).collect();
    let mut document = "";
    for seed in &seeds.seed {
        let of = seed.id.split('#').next().unwrap_or_default();
        if of != document {
            document = of;
            let _ = writeln!(text, "\n## Document {document}");
        }
        let page = pages.get(seed.lab.as_str()).copied().unwrap_or_default();
        let _ =
            writeln!(text, "\n**{}**, lab [{}](book/labs/{page}.html)\n\n```sh\n{}\n```", seed.id, seed.lab, seed.text);
        if let Some(why) = &seed.why {
            let _ = writeln!(text, "\n{why}");
        }
        if let Some(repair) = &seed.repair {
            let _ = writeln!(text, "\n```sh\n{repair}\n```");
        }
    }
    text
}

/// A hash for every file, as `sha256sum -c` reads them.
fn sums(to: &Path) -> io::Result<()> {
    let mut text = String::new();
    for file in below(to)? {
        let mut hasher = Sha256::new();
        io::copy(&mut fs::File::open(to.join(&file))?, &mut hasher)?;
        let hex: String = hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        let _ = writeln!(text, "{hex}  {}", file.display());
    }
    fs::write(to.join("SHA256SUMS"), text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::stand_in;

    #[test]
    fn every_command_leads_to_a_page_that_is_there() {
        let text = commands();
        let pages: Vec<&str> =
            text.split("](book/labs/").skip(1).filter_map(|rest| rest.split(".html)").next()).collect();
        assert_eq!(pages.len(), SEEDS.matches("\nid = ").count(), "each has one");
        let is_there = |page: &&str| SHELF.iter().any(|(name, _)| name == page);
        assert_eq!(pages.iter().find(|page| !is_there(page)), None);
    }

    /// Without a browser: whatever the machine of the test has.
    fn ran(args: &[&str]) -> Result<String, String> {
        run_with(&args.iter().map(|a| (*a).to_owned()).collect::<Vec<_>>(), None, &mut Vec::new())
    }

    #[test]
    fn a_bundle_has_its_parts_the_answers_are_apart_and_every_file_has_its_sum() {
        let folder = tempfile::tempdir().expect("a folder");
        let at = |name: &str| folder.path().join(name).display().to_string();
        for name in PROGRAMS {
            written(&folder.path().join("static/arm64").join(name), name.as_bytes()).expect("written");
        }
        let to = folder.path().join("class");
        let args = ["--to", &at("class"), "--programs", &at("static"), "--book", &at("book"), "--boxes", &at("none")];
        let missing = ran(&args).expect_err("there is much missing");
        assert!(missing.contains("amd64/etcd-lab (packaging/static") && !missing.contains("arm64"), "{missing}");
        assert!(!to.exists(), "nothing was made");
        written(&folder.path().join("book/index.html"), b"<p>").expect("written");
        // A run that fails half way leaves nothing in the way of the next one.
        let args = [&args[..], &["--only", "arm64"]].concat();
        let broken = folder.path().join("book/broken");
        std::os::unix::fs::symlink("nowhere", &broken).expect("made");
        let failed = ran(&args).expect_err("a link to nothing cannot be copied");
        assert!(failed.contains("book/broken: "), "{failed}");
        fs::remove_file(&broken).expect("it was there");
        let said = ran(&args).expect("made");
        assert!(said.contains("no boxes: none are in"), "{said}");
        let mut names: Vec<_> = fs::read_dir(folder.path()).expect("listed").flatten().map(|e| e.file_name()).collect();
        names.sort();
        assert_eq!(names, ["book", "class", "class-teacher", "static"]);
        let read = |name: &str| fs::read_to_string(to.join(name)).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(read("bin/arm64/etcdutl"), "etcdutl");
        let (handout, key) = ("handouts/E7-replace-a-member.md", "class-teacher/answers/E7-replace-a-member.md");
        assert!(!read(handout).contains("Answer") && folder.path().join(key).is_file());
        let commands = read("commands.md");
        assert!(
            commands.contains("lab [B5](book/labs/B5-the-hard-way.html)")
                && commands.contains("TCD_NAME=$(hostname -s)")
        );
        let done = Command::new("sha256sum").arg("-c").arg("SHA256SUMS").current_dir(&to).output().expect("sha256sum");
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stdout));
        assert_eq!(read("SHA256SUMS").lines().count() + 1, below(&to).expect("listed").len());
        assert!(ran(&args).expect_err("it is there").contains("name a new folder"));
        fs::remove_dir_all(&to).expect("removed");
        let said = ran(&args).expect_err("the answers of the last one are there");
        assert!(said.contains("class-teacher is there already"), "{said}");
    }

    #[test]
    fn a_browser_prints_the_page_that_is_there_and_has_a_limit() {
        let folder = tempfile::tempdir().expect("a folder");
        let browser = folder.path().join("chromium");
        let script = |line: &str| {
            stand_in::make(&browser, &format!("#!/bin/sh\n{line}\n"));
        };
        let print = |within| printed(folder.path(), Some(&browser), within);
        script("touch \"$(dirname \"$0\")/was-started\"");
        assert_eq!(print(PRINTED_WITHIN), "no book.pdf: the book has no print.html\n");
        assert!(!folder.path().join("was-started").exists());
        written(&folder.path().join("book/print.html"), b"<p>").expect("written");
        script("exit 3");
        assert!(print(PRINTED_WITHIN).contains("exit status: 3"));
        script("sleep 600 & wait");
        assert!(print(Duration::from_millis(200)).contains("had not ended after"));
        script("for word; do case $word in --print-to-pdf=*) echo PDF >\"${word#*=}\" ;; esac; done");
        assert_eq!(print(PRINTED_WITHIN), "");
        assert!(folder.path().join("book.pdf").is_file());
    }

    #[test]
    fn what_is_asked_wrongly_is_told() {
        assert!(ran(&[]).expect_err("where to?").contains("--to DIR is needed"));
        assert!(ran(&["--only", "mips"]).expect_err("none").contains("--only is amd64 or arm64"));
    }
}
