//! How far a learner has come, in a file that outlives the lab.
//!
//! A lab's cluster is new at every start, so what is kept is what the learner did, not what the cluster was: which steps were done, the
//! guesses, which are made once, and where they were. A lab whose version has grown asks other things; what was kept of it is forgotten.
//! `etcd-lab progress --json` is the export: the file as it is.

use crate::lab::Error;
use crate::lab::class;
use crate::lab::guide::Lab;
use crate::lab::guide::SHELF;
use crate::lab::guide::Session;
use crate::lab::guide::budget::words;
use crate::lab::guide::quizzes_told;
use crate::lab::guide::shelved;
use crate::lab::guide::syllabus::Syllabus;
use crate::lab::guide::syllabus::short;
use crate::lab::preflight;
use rustix::fs::FlockOperation;
use rustix::fs::flock;
use rustix::io::Errno;
use serde::Deserialize;
use serde::Serialize;
use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::io::ErrorKind;
use std::io::Write;
use std::path::Path;
use std::path::PathBuf;

/// The file's name, beside the labs' folders.
const FILE: &str = "progress.json";

const HELP: &str = "\
usage: etcd-lab progress [--json]
       etcd-lab progress export [--name NAME] [--to DIR]   a file for your teacher: NAME.etcd-lab.json

  --json   the file itself: to keep, to send, or to put back on another machine
  --name   your own, if it is not this machine's user
";

/// All labs of one learner.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Progress {
    /// The lab in which something was done last.
    #[serde(default)]
    pub last: Option<String>,
    /// Tells two learners of one name apart: chance, made when something is first handed in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub learner: Option<String>,
    /// How often it was handed in: of two files of one learner, the one with more is newer.
    #[serde(default)]
    pub handed_in: u64,
    /// By their short names.
    pub labs: BTreeMap<String, Done>,
}

/// One lab.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Done {
    /// The lab's version then.
    pub version: u32,
    /// The step at which the learner was, by its id.
    pub at: String,
    /// The steps whose checks have all passed.
    pub steps: BTreeSet<String>,
    /// What was guessed.
    pub guesses: BTreeMap<String, String>,
    /// What the checks of that step waited for.
    #[serde(default)]
    pub waits: Option<String>,
    /// How many of its hints were open.
    #[serde(default)]
    pub hints: usize,
}

impl Done {
    /// The same with what is kept already. The lab may be open twice: each adds what was done there, and takes nothing away.
    fn and(mut self, kept: Option<&Done>) -> Done {
        if let Some(kept) = kept.filter(|kept| kept.version == self.version) {
            self.steps.extend(kept.steps.iter().cloned());
            // A guess is made once: the one that was there first counts.
            self.guesses.extend(kept.guesses.clone());
        }
        self
    }
}

impl Progress {
    /// Where it is kept: where labs are.
    #[must_use]
    pub fn file() -> PathBuf {
        preflight::bases().first().map(|base| base.join(FILE)).unwrap_or_else(|| FILE.into())
    }

    /// Reads it; nobody has learnt anything yet: nothing.
    ///
    /// # Errors
    /// It cannot be read, or is something else: a sentence with the remedy.
    pub fn load(file: &Path) -> Result<Progress, Error> {
        let text = match fs::read_to_string(file) {
            Ok(text) => text,
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Progress::default()),
            Err(e) => return Err(Error::file("cannot read", file)(e)),
        };
        serde_json::from_str(&text).map_err(|e| {
            Error::Refused(format!(
                "{}: this is no progress of etcd-lab ({e}). Move it away to begin anew.",
                file.display()
            ))
        })
    }

    /// Makes a change to what is kept, and returns all of it. A lab and a chapter's quiz may both be open: each changes its own part of the file
    /// as it is then, one after the other.
    ///
    /// # Errors
    /// It cannot be read or written.
    pub fn change(file: &Path, change: impl FnOnce(&mut Progress)) -> Result<Progress, Error> {
        if let Some(folder) = file.parent() {
            fs::create_dir_all(folder).map_err(Error::file("cannot make", folder))?;
        }
        let lock = file.with_extension("lock");
        let failed = Error::file("cannot lock", &lock);
        // Until it is closed, at the end.
        let locked = match fs::File::create(&lock) {
            Ok(locked) => locked,
            Err(e) => return Err(failed(e)),
        };
        match flock(&locked, FlockOperation::LockExclusive) {
            // A file system that knows no locks, such as some networks': a second writer is rare, and a learner who loses all is not.
            Ok(()) | Err(Errno::NOLCK | Errno::NOTSUP | Errno::NOSYS) => {}
            Err(e) => return Err(failed(e.into())),
        }
        let mut progress = Progress::load(file)?;
        change(&mut progress);
        progress.save(file)?;
        Ok(progress)
    }

    /// Writes it, whole or not at all.
    fn save(&self, file: &Path) -> Result<(), Error> {
        let beside = file.with_extension("json.new");
        let text = serde_json::to_string_pretty(self).unwrap_or_default() + "\n";
        let write = || {
            let mut written = fs::File::create(&beside)?;
            written.write_all(text.as_bytes())?;
            // The name may reach the disk before the bytes do, and a machine may lose its power between.
            written.sync_all()
        };
        write().map_err(Error::file("cannot write", &beside))?;
        fs::rename(&beside, file).map_err(Error::file("cannot write", file))
    }

    /// Notes where this learner is. True if that is news. A lab that was only opened is none: the learner is where they were.
    pub fn note(&mut self, session: &Session) -> bool {
        if !session.is_touched() {
            return false;
        }
        let id = &session.lab().head.id;
        let now = session.done().and(self.labs.get(id));
        let last = if session.lab().steps.is_empty() { self.last.clone() } else { Some(id.clone()) };
        if self.labs.get(id) == Some(&now) && self.last == last {
            return false;
        }
        self.labs.insert(id.clone(), now);
        self.last = last;
        true
    }

    /// Gives a learner who begins again what is known of this lab.
    pub fn recall(&self, session: &mut Session) {
        if let Some(done) = self.labs.get(&session.lab().head.id) {
            session.recall(done);
        }
    }

    /// The same, and puts them where they were. Says where that is, if they had done anything.
    pub fn resume(&self, session: &mut Session) -> Option<String> {
        self.recall(session);
        if let Some(at) = self.left_at(session.lab()) {
            session.stand_at(at);
        }
        let lab = session.lab();
        let (done, count) = (self.steps(lab), lab.steps.len());
        if done == 0 && session.at() == 0 {
            return None;
        }
        if done == count {
            let id = &lab.head.id;
            return Some(match self.next(Some(id)).map(|next| (next.head.id, next.title)) {
                Some((next, title)) => format!("{id} is done. Next in the course is {next} {title}: etcd-lab {next}"),
                None => format!("{id} is done, and so is the whole course"),
            });
        }
        let anew = match (session.has_own_nodes(), session.is_on_screen()) {
            // Machines, which are as they were left.
            (true, true) => "",
            (true, false) => "; the cluster is new: x sets the step up",
            (false, _) => "; if the cluster is new, x sets the step up",
        };
        Some(format!("{done} of {count} steps done. You are at step {} again{anew}", session.at() + 1))
    }

    /// At which step this learner was, from 0, if some of the lab is done, and some is not.
    #[must_use]
    pub fn left_at(&self, lab: &Lab) -> Option<usize> {
        let done = self.labs.get(&lab.head.id).filter(|done| done.version == lab.head.version)?;
        let at = lab.steps.iter().position(|s| s.id == done.at)?;
        (at > 0 && self.steps(lab) < lab.steps.len()).then_some(at)
    }

    /// How many steps of this lab are done.
    fn steps(&self, lab: &Lab) -> usize {
        let done = self.labs.get(&lab.head.id).filter(|d| d.version == lab.head.version);
        lab.steps.iter().filter(|s| done.is_some_and(|d| d.steps.contains(&s.id))).count()
    }

    /// The lab that the course offers after this one, or to a learner who begins; all are done: nothing.
    #[must_use]
    pub fn next(&self, after: Option<&str>) -> Option<Lab> {
        let labs: Vec<Lab> = SHELF.iter().filter_map(|(name, _)| shelved(name)?.ok()).collect();
        let is_done = |id: &str| labs.iter().any(|lab| lab.head.id == id && self.steps(lab) == lab.steps.len());
        let course = Syllabus::ours().ok()?;
        let next = course.next(after, is_done)?;
        labs.iter().find(|lab| lab.head.id == next).cloned()
    }

    /// What this lab builds on and this learner has not done: a sentence; nothing if there is nothing to say.
    #[must_use]
    pub fn missing(&self, lab: &Lab) -> Option<String> {
        let done = |id: &&String| {
            let needed =
                SHELF.iter().find(|(name, _)| short(name) == id.as_str()).and_then(|(name, _)| shelved(name)?.ok());
            needed.is_none_or(|lab| self.steps(&lab) == lab.steps.len())
        };
        let course = Syllabus::ours().ok()?;
        let open: Vec<&str> = course.needs(&lab.head.id).iter().filter(|id| !done(id)).map(String::as_str).collect();
        let id = &lab.head.id;
        (!open.is_empty()).then(|| format!("{id} builds on {}, which you have not done here", open.join(" and ")))
    }

    /// For a terminal: the course, what is done of it, and what comes next.
    #[must_use]
    pub fn text(&self) -> String {
        let mut out = String::new();
        let course = Syllabus::ours().unwrap_or_default();
        for lab in SHELF.iter().filter_map(|(name, _)| shelved(name)?.ok()) {
            let (steps, all, title) = (self.steps(&lab), lab.steps.len(), &lab.title);
            let word = if steps == all { "done" } else { "" };
            let id = &lab.head.id;
            let day = course.day(id).map_or(String::new(), |day| format!("day {day}"));
            let minutes = lab.head.minutes;
            let needs = course.needs(id);
            let needs = if needs.is_empty() { String::new() } else { format!("  (needs {})", needs.join(", ")) };
            let _ = writeln!(out, "{id:<4}{steps} of {all}  {word:<6}{day:<7}{minutes:>3} min  {title}{needs}");
        }
        let _ = match self.next(None) {
            Some(lab) => writeln!(
                out,
                "\nNext: {} {}, {}. Begin it with: etcd-lab {0}",
                lab.head.id,
                lab.title,
                words(&lab.head)
            ),
            None => writeln!(out, "\nAll labs are done."),
        };
        out
    }
}

/// `etcd-lab progress [--json]`.
pub fn run(args: &[String], out: &mut dyn Write, err: &mut dyn Write) -> u8 {
    if let [word, rest @ ..] = args
        && word == "export"
        && !rest.iter().any(|word| word == "--help" || word == "-h")
    {
        return class::export(rest, &Progress::file(), out, err);
    }
    let json = match args {
        [] => false,
        [word] if word == "--json" => true,
        [word] | [_, word] if word == "--help" || word == "-h" => {
            drop(write!(out, "{HELP}"));
            return 0;
        }
        _ => {
            drop(write!(err, "Error: etcd-lab progress knows --json and export\n{HELP}"));
            return 2;
        }
    };
    match Progress::load(&Progress::file()) {
        Ok(progress) if json => {
            drop(writeln!(out, "{}", serde_json::to_string_pretty(&progress).unwrap_or_default()));
            0
        }
        Ok(progress) => {
            drop(write!(out, "{}{}", progress.text(), quizzes_told(&progress)));
            0
        }
        Err(e) => {
            drop(writeln!(err, "Error: {e}"));
            1
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::guide::LentBed;
    use std::sync::Arc;

    fn session() -> Session {
        let lab = shelved("B3-first-keys").expect("it is there").unwrap_or_else(|e| panic!("{e}"));
        Session::new(Arc::new(lab), Arc::new(LentBed::new(Path::new("/nowhere"), Vec::new())), Path::new("/"))
    }

    #[test]
    fn what_was_done_is_there_the_next_time_and_a_guess_stays_locked() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("deep/progress.json");
        let mut progress = Progress::load(&file).expect("nothing is there");
        let mut first = session();
        assert!(!progress.note(&first), "nothing was done");
        let guess = first.items().iter().find_map(|i| match i {
            crate::lab::guide::Item::Predict(p) => Some((p.id.clone(), p.options[0].clone())),
            _ => None,
        });
        let (id, option) = guess.expect("the first step has a guess");
        first.predict(&id, &option).expect("it is open");
        first.step_is_done();
        first.go(1);
        assert!(progress.note(&first) && !progress.note(&first), "news once");
        let kept = Progress::change(&file, |kept| assert!(kept.note(&first))).expect("written");
        let again = Progress::load(&file).expect("read");
        assert_eq!((&again, &kept), (&progress, &progress));
        let mut second = session();
        let said = again.resume(&mut second).expect("there is something");
        assert_eq!(said, "1 of 3 steps done. You are at step 2 again; if the cluster is new, x sets the step up");
        assert_eq!((again.left_at(second.lab()), Progress::default().left_at(second.lab())), (Some(1), None));
        assert_eq!((second.at(), second.guessed(&id)), (1, Some(option.as_str())));
        assert!(!progress.note(&second), "it was only opened");
        assert!(second.predict(&id, &option).is_err(), "a guess is made once");
        assert!(again.text().contains("B3  1 of "), "{}", again.text());
        assert!(again.text().contains("Next: A1 ") && again.text().contains("etcd-lab A1"), "{}", again.text());
    }

    #[test]
    fn to_open_a_lab_is_no_news_and_moves_nobody() {
        let mut progress = Progress::default();
        let mut first = session();
        first.go(2);
        assert!(progress.note(&first), "a step that was gone to");
        progress.last = Some("E7".into());
        let before = progress.clone();
        let mut second = session();
        progress.recall(&mut second);
        second.waits_for(&[], true);
        assert!(!progress.note(&second) && progress == before, "{progress:?}");
        progress.resume(&mut second);
        assert!(!progress.note(&second) && second.at() == 2, "they were there");
        second.open_next();
        assert!(progress.note(&second));
        assert_eq!((progress.last.as_deref(), progress.labs["B3"].at.as_str()), (Some("B3"), "rosetta"));
    }

    #[test]
    fn the_course_offers_the_next_lab_and_says_what_one_builds_on() {
        let mut progress = Progress::default();
        let offered = |progress: &Progress, after| progress.next(after).map(|lab: Lab| lab.head.id);
        assert_eq!(offered(&progress, None).as_deref(), Some("A1"));
        let lab = shelved("B3-first-keys").expect("it is there").unwrap_or_else(|e| panic!("{e}"));
        let steps = lab.steps.iter().map(|s| s.id.clone()).collect();
        let at = lab.steps[0].id.clone();
        progress.labs.insert("B3".into(), Done { version: lab.head.version, steps, at, ..Done::default() });
        assert_eq!(offered(&progress, Some("B3")).as_deref(), Some("B5"), "behind it on the core path, and open");
        let said = progress.resume(&mut session()).expect("all is done");
        assert!(said.starts_with("B3 is done. Next in the course is B5 ") && said.ends_with(": etcd-lab B5"), "{said}");
        assert_eq!(progress.left_at(&lab), None, "it is done: who opens it again begins at its beginning");
        let e7 = shelved("E7-replace-a-member").expect("it is there").unwrap_or_else(|e| panic!("{e}"));
        let said = progress.missing(&e7).expect("E2 is not done");
        assert!(said.starts_with("E7 builds on E2,"), "{said}");
        assert_eq!(progress.missing(&lab), None);
    }

    #[test]
    fn a_lab_that_is_open_twice_keeps_what_was_done_in_both() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("progress.json");
        let (mut one, mut other) = (session(), session());
        let keep = |session: &Session| {
            let note = |kept: &mut Progress| {
                kept.note(session);
            };
            Progress::change(&file, note).expect("written")
        };
        one.step_is_done();
        one.predict("set-today", "a").expect("it is open");
        keep(&one);
        other.predict("set-today", "b").expect("it is open here");
        other.predict("get-lines", "b").expect("it is open");
        other.go(1);
        let kept = keep(&other).labs.remove("B3").expect("kept");
        let option = |id: &str, n: usize| one.lab().predict(id).map(|p| p.options[n].clone()).expect("it is asked");
        assert_eq!((kept.at.as_str(), kept.steps.len()), ("json", 1));
        let wanted = [("get-lines", 1), ("set-today", 0)].map(|(id, n)| (id.to_owned(), option(id, n)));
        assert_eq!(kept.guesses, BTreeMap::from(wanted));
        let mut known = Progress::load(&file).expect("kept");
        assert!(!known.note(&other), "what is kept and what is done are told apart once");
    }

    #[test]
    fn what_several_write_at_once_is_all_kept() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("progress.json");
        let answer = |chapter: usize, question: usize| {
            let note = |kept: &mut Progress| {
                let guesses = &mut kept.labs.entry(format!("chapter {chapter}")).or_default().guesses;
                guesses.insert(question.to_string(), "a".into());
            };
            Progress::change(&file, note).expect("written");
        };
        std::thread::scope(|all| {
            for chapter in 0..4 {
                all.spawn(move || (0..25).for_each(|question| answer(chapter, question)));
            }
        });
        let kept = Progress::load(&file).expect("whole");
        assert_eq!(kept.labs.values().map(|done| done.guesses.len()).collect::<Vec<_>>(), [25; 4]);
    }

    #[test]
    fn what_an_older_version_asked_is_forgotten_and_what_is_no_progress_says_what_to_do() {
        let mut progress = Progress::default();
        let mut first = session();
        first.step_is_done();
        progress.note(&first);
        progress.labs.get_mut("B3").expect("noted").version += 1;
        assert_eq!(progress.resume(&mut session()), None);
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("progress.json");
        fs::write(&file, "{}x").expect("written");
        let said = Progress::load(&file).expect_err("it is broken").to_string();
        assert!(said.contains("Move it away"), "{said}");
    }
}
