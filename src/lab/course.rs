//! The course without a screen: a lab's page as linear text, with numbered choices; and what the Learn screen shows, as JSON.
//!
//! For screen readers, dumb terminals and logs: no boxes, nothing that moves, one sentence for each change. What is typed is a number of the
//! list, a letter, or any fault by its line.

use crate::lab::Error;
use crate::lab::guide;
use crate::lab::guide::Ask;
use crate::lab::guide::AskKind;
use crate::lab::guide::Bed;
use crate::lab::guide::CHAPTER;
use crate::lab::guide::Checked;
use crate::lab::guide::Head;
use crate::lab::guide::Item;
use crate::lab::guide::Lab;
use crate::lab::guide::LentBed;
use crate::lab::guide::MachineBed;
use crate::lab::guide::Member;
use crate::lab::guide::ProcessBeds;
use crate::lab::guide::Run;
use crate::lab::guide::SHELF;
use crate::lab::guide::Session;
use crate::lab::guide::Verdict;
use crate::lab::guide::budget;
use crate::lab::guide::chapter_quiz;
use crate::lab::guide::shelved;
use crate::lab::guide::syllabus::short;
use crate::lab::picture::words::counted;
use crate::lab::preflight;
use crate::lab::progress::Progress;
use crate::lab::upstream;
use crate::lab::workdir::Record;
use serde_json::Value;
use serde_json::json;
use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

/// Columns of the text.
const WIDTH: usize = 76;

/// The lab that is open if nobody says which: the first that needs nothing but the cluster that runs.
const FIRST_LAB: &str = "B3";

/// The lab whose short name or folder this is.
///
/// # Errors
/// If there is none: a sentence with all names.
pub fn chosen(wanted: Option<&str>) -> Result<Lab, String> {
    let wanted = wanted.unwrap_or(FIRST_LAB);
    if let Some(number) = wanted.strip_prefix(CHAPTER) {
        return chapter_quiz(number);
    }
    let lab = named(wanted).and_then(shelved).ok_or_else(|| {
        let all: Vec<&str> = SHELF.iter().map(|(name, _)| short(name)).collect();
        format!("there is no lab {wanted:?}; there are {}", all.join(", "))
    })?;
    lab.map_err(|e| e.to_string())
}

/// The folder of the lab that is called so, in small letters or large.
#[must_use]
pub fn named(wanted: &str) -> Option<&'static str> {
    SHELF.iter().map(|(name, _)| *name).find(|name| *name == wanted || short(name).eq_ignore_ascii_case(wanted))
}

/// The lab that was asked for, if it has this step, from 1, and this machine has room for it: in this folder, or in a new one where labs are made.
/// Asked before there is a screen or a folder.
///
/// # Errors
/// As [`chosen`]; there is no such step; what is lacking, and what to do.
pub fn can_begin(wanted: Option<&str>, step: Option<usize>, folder: Option<&Path>) -> Result<Lab, Error> {
    let lab = chosen(wanted).map_err(Error::Usage)?;
    let steps = lab.steps.len();
    match step {
        Some(_) if wanted.is_none() => return Err(Error::Usage("--step goes with a lab: etcd-lab E7 --step 5".into())),
        Some(step) if step > steps => {
            return Err(Error::Usage(format!("--step is {step}, and {} has {steps} steps", lab.head.id)));
        }
        _ => {}
    }
    if wanted.is_some() {
        let folder = folder.map(Path::to_path_buf).or_else(|| preflight::bases().into_iter().next());
        budget::check(&lab.head, folder.as_deref().filter(|_| !lab.head.needs_nodes()), None)
            .map_err(Error::Refused)?;
    }
    Ok(lab)
}

/// A lab: on the cluster that runs in this folder, or, if it stops members and changes their files, on nodes of its own. Its
/// commands work in a folder of their own, which is empty if the nodes are new: what another cluster has left there is no
/// learner's deed. `ending` is a lab with nodes of its own that ends once this one has begun.
///
/// # Errors
/// As [`chosen`], if no folder can be made, or if there is no room for more nodes: a sentence.
pub fn open(wanted: Option<&str>, folder: &Path, record: &Record, ending: Option<&Head>) -> Result<Session, String> {
    let lab = chosen(wanted)?;
    let work = folder.join("work").join(&lab.head.id);
    let made = || fs::create_dir_all(&work).map_err(|e| format!("cannot make {}: {e}", work.display()));
    if lab.head.needs_nodes() && !record.machines.is_empty() {
        let bed = on_machines(&lab, record)?;
        made()?;
        return Ok(Session::new(Arc::new(lab), bed, &work));
    }
    if lab.head.needs_nodes() {
        budget::check(&lab.head, None, ending)?;
        let bed = own_beds(&lab, record, true)?.begin(&lab.head.cluster)?;
        match fs::remove_dir_all(&work) {
            Err(e) if e.kind() != ErrorKind::NotFound => return Err(format!("cannot empty {}: {e}", work.display())),
            _ => made()?,
        }
        return Ok(Session::new(Arc::new(lab), bed.into(), &work));
    }
    let endpoint = |url: &str| url.trim_start_matches("http://").to_owned();
    let members = record.members.iter().map(|m| Member { name: m.name.clone(), endpoint: endpoint(&m.client_url) });
    let bed = LentBed::new(&folder.join("bin"), members.collect()).with_desk(folder)?;
    made()?;
    Ok(Session::new(Arc::new(lab), Arc::new(bed), &work))
}

/// The machines as the nodes of this lab.
fn on_machines(lab: &Lab, record: &Record) -> Result<Arc<dyn Bed>, String> {
    guide::fits_machines(&lab.head, &record.machines)?;
    let host = |url: &str| {
        url.split("://").last().and_then(|rest| rest.rsplit_once(':')).map_or("", |(host, _)| host).to_owned()
    };
    let all = record.machines.iter().zip(&record.members);
    let machines: Vec<_> =
        all.map(|(name, m)| (name.clone(), host(&m.client_url).trim_matches(['[', ']']).to_owned())).collect();
    Ok(Arc::new(MachineBed::new(&lab.head.cluster, &machines)?))
}

/// Where this lab's own clusters come from, beside the cluster of `record`. `beside`: another lab may be open still.
///
/// # Errors
/// This program's path is not known; its nodes are machines, which nobody makes anew; or the lab is about upstream etcd, and nobody has named one.
pub fn own_beds(lab: &Lab, record: &Record, beside: bool) -> Result<ProcessBeds, String> {
    if !record.machines.is_empty() {
        return Err(guide::NOT_MADE_ANEW.into());
    }
    let (profile, because) = guide::here(&lab.head, beside);
    let beds = ProcessBeds::ours()?.at(profile).because(because);
    match &record.upstream {
        _ if !lab.head.wants_etcd() => Ok(beds),
        Some(etcd) => Ok(beds.with_etcd(etcd)),
        None => Err(upstream::WANTED.into()),
    }
}

/// What to do with a line that was typed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Typed {
    /// It is answered: these lines.
    Say(Vec<String>),
    /// It is not of the course: perhaps a fault.
    Other(String),
    /// The learner leaves.
    Leave,
}

/// A learner without a screen.
pub struct Course {
    session: Session,
    folder: PathBuf,
    record: Record,
    checked: Vec<Checked>,
    progress: Progress,
    kept: Option<PathBuf>,
    /// Where the learner was the last time.
    welcome: Option<String>,
}

impl Course {
    /// This lab, or the first that needs nothing but this cluster. What the learner has done is kept in `kept`, if that is given.
    ///
    /// # Errors
    /// As [`open`], or if what was kept cannot be read.
    pub fn new(wanted: Option<&str>, folder: &Path, record: &Record, kept: Option<PathBuf>) -> Result<Course, String> {
        let session = open(wanted, folder, record, None)?;
        let progress = kept.as_deref().map_or(Ok(Progress::default()), Progress::load).map_err(|e| e.to_string())?;
        let (folder, record, checked) = (folder.to_owned(), record.clone(), Vec::new());
        let mut course = Course { session, folder, record, checked, progress, kept, welcome: None };
        course.welcome = course.progress.resume(&mut course.session);
        Ok(course)
    }

    /// Where the learner was the last time, and is again: a sentence.
    #[must_use]
    pub fn welcome(&self) -> Option<&str> {
        self.welcome.as_deref()
    }

    /// Goes to the first step, though the learner was further the last time.
    pub fn begin(&mut self) {
        self.session.go(0);
    }

    /// Keeps what is new.
    fn keep(&mut self) -> Result<(), String> {
        if let Some(file) = &self.kept
            && self.progress.note(&self.session)
        {
            let note = |kept: &mut Progress| {
                kept.note(&self.session);
            };
            self.progress = Progress::change(file, note).map_err(|e| e.to_string())?;
        }
        Ok(())
    }

    /// Goes to a step, from 1, on a fresh cluster on which the steps before are done. What there is to say of it.
    pub async fn begin_at(&mut self, step: usize) -> Vec<String> {
        self.session.go(step.saturating_sub(1));
        self.anew().await
    }

    /// The step once more, on a fresh cluster on which the steps before are done.
    async fn anew(&mut self) -> Vec<String> {
        let step = self.session.at();
        let fresh = match own_beds(self.session.lab(), &self.record, false) {
            Ok(beds) => self.session.anew(step, &beds).await,
            Err(why) => Err(why),
        };
        match fresh {
            Ok(session) => {
                self.session = session;
                let done = counted(step as u64, "step is done", "steps are done");
                [format!("A fresh cluster, on which {done}.")].into_iter().chain(self.page()).collect()
            }
            Err(why) => vec![format!("No: {why}")],
        }
    }

    /// The step's text, and what can be done.
    #[must_use]
    pub fn page(&self) -> Vec<String> {
        let lab = self.session.lab();
        let of = lab.steps.len();
        let mut lines = vec![format!("{} {}: step {} of {of}.", lab.head.id, lab.title, self.session.at() + 1)];
        lines.push(String::new());
        lines.extend(self.session.page(WIDTH).into_iter().map(|line| line.text));
        lines.push(String::new());
        lines.extend(self.choices());
        lines
    }

    fn choices(&self) -> Vec<String> {
        let mut lines = vec!["You can:".to_owned()];
        for (item, n) in self.session.items().iter().zip(1..) {
            lines.push(match item {
                Item::Run(run) => format!("{n}: run this command: {}", one_line(run)),
                Item::Ask(ask) => format!("{n} ANSWER: answer this question: {}{}", ask.label, options(ask)),
                Item::Predict(p) => format!("{n} LETTER: guess: {} {}", p.ask, lettered(&p.options)),
            });
        }
        lines.push("c: look at the checks. h: a hint. n: the next step. p: the step before. t: the text again.".into());
        if self.record.machines.is_empty() {
            lines.push("x: this step anew, on a fresh cluster on which the steps before are done.".into());
        }
        lines.push("labs: all labs; lab NAME: another one. q: leave. Or a fault by its line, as kill n1.".into());
        lines
    }

    /// Does what was typed.
    pub async fn take(&mut self, line: &str) -> Typed {
        let typed = self.taken(line.trim()).await;
        match (self.keep(), typed) {
            (Err(why), Typed::Say(mut lines)) => {
                lines.push(format!("What you have done could not be kept: {why}"));
                Typed::Say(lines)
            }
            (_, typed) => typed,
        }
    }

    async fn taken(&mut self, line: &str) -> Typed {
        let (word, rest) = line.split_once(' ').map_or((line, ""), |(word, rest)| (word, rest.trim()));
        Typed::Say(match word {
            "" => Vec::new(),
            "q" | "quit" => return Typed::Leave,
            "t" => self.page(),
            "n" | "p" => {
                let at = self.session.at();
                let to = if word == "n" {
                    (at + 1).min(self.session.lab().steps.len().saturating_sub(1))
                } else {
                    at.saturating_sub(1)
                };
                if to == at && word == "n" {
                    vec![format!("This is the last step. {}", self.offer())]
                } else if to == at {
                    vec!["This is the first step.".into()]
                } else {
                    self.session.go(to);
                    self.page()
                }
            }
            "c" => self.look().await,
            "h" => self.hint(),
            "x" => self.anew().await,
            "labs" => self.progress.text().lines().map(str::to_owned).collect(),
            "lab" => match open(Some(rest), &self.folder, &self.record, self.session.own_head()) {
                Ok(session) => {
                    self.session = session;
                    let missing = self.progress.missing(self.session.lab());
                    let said = self.progress.resume(&mut self.session);
                    said.into_iter().chain(missing).chain(self.page()).collect()
                }
                Err(why) => vec![format!("No: {why}.")],
            },
            number => match number.parse::<usize>().ok().and_then(|n| n.checked_sub(1)) {
                Some(place) => self.act(place, rest).await,
                None => return Typed::Other(line.to_owned()),
            },
        })
    }

    /// The next lab of the course.
    fn offer(&self) -> String {
        match self.progress.next(Some(&self.session.lab().head.id)) {
            Some(lab) => format!("The course goes on with {} {}: lab {0}", lab.head.id, lab.title),
            None => "All labs of the course are done.".into(),
        }
    }

    async fn look(&mut self) -> Vec<String> {
        self.checked = self.session.check().await;
        if !self.checked.is_empty() && self.checked.iter().all(|c| c.verdict.passed()) {
            self.session.step_is_done();
        }
        if self.checked.is_empty() {
            return vec!["This step has no checks.".into()];
        }
        let said = |c: &Checked| match &c.verdict {
            Verdict::Pass => vec![format!("Done: {}", c.title)],
            Verdict::NotYet { got, cause } => {
                let why = cause.iter().map(|(_, say)| format!("  Why: {say}"));
                let got = got.iter().map(|got| format!("  Found: {got}"));
                [format!("Not yet: {}", c.title)].into_iter().chain(got).chain(why).collect()
            }
            Verdict::Error(why) => vec![format!("Cannot be looked at: {}: {why}", c.title)],
        };
        self.checked.iter().flat_map(said).collect()
    }

    fn hint(&mut self) -> Vec<String> {
        if !self.session.open_next() {
            return vec!["There is no further hint.".into()];
        }
        let level = self.session.opened();
        let text = self.session.hint(level, WIDTH).unwrap_or_default();
        let name = if level > 3 { "The solution:".into() } else { format!("Hint {level}:") };
        [name].into_iter().chain(text.into_iter().map(|line| line.text)).collect()
    }

    /// Runs, answers or guesses what has this place in the list.
    async fn act(&mut self, place: usize, given: &str) -> Vec<String> {
        let items = self.session.items();
        let said = match items.get(place) {
            None => Err(format!("there is no number {}", place + 1)),
            Some(Item::Run(run)) => {
                let id = run.id.clone();
                self.session.run_block(&id).await.map(|ran| {
                    let mut lines: Vec<String> = ran.output.text.lines().map(str::to_owned).collect();
                    lines.push(match (&ran.differs, ran.output.exit) {
                        (Some(how), _) => format!("That is not what the page says: {how}"),
                        (None, 0) => "That is what the page says.".into(),
                        (None, code) => format!("Exit code {code}, as the page says."),
                    });
                    lines
                })
            }
            Some(Item::Ask(ask)) => {
                let id = ask.id.clone();
                self.session
                    .answer(&id, given)
                    .map(|()| vec!["Your answer is noted; c looks whether it is right.".into()])
            }
            Some(Item::Predict(p)) => {
                let id = p.id.clone();
                let letter = given
                    .chars()
                    .next()
                    .map_or(usize::MAX, |c| (c.to_ascii_lowercase() as usize).wrapping_sub('a' as usize));
                let chosen = p.options.get(letter).cloned().unwrap_or_else(|| given.to_owned());
                self.session
                    .predict(&id, &chosen)
                    .map(|(right, predict)| vec![format!("{} {}", if right { "Right." } else { "No." }, predict.why)])
            }
        };
        said.unwrap_or_else(|why| vec![format!("No: {why}")])
    }

    /// What the Learn screen would show.
    #[must_use]
    pub fn to_json(&self) -> Value {
        to_json(&self.session, &self.checked)
    }
}

fn one_line(run: &Run) -> String {
    run.command.lines().map(str::trim).collect::<Vec<_>>().join("; ")
}

fn options(ask: &Ask) -> String {
    match ask.kind {
        AskKind::Text => String::new(),
        AskKind::Choice => format!(" {}", lettered(&ask.options)),
        AskKind::Order => format!(" In the right order: {}", lettered(&ask.options)),
    }
}

fn lettered(options: &[String]) -> String {
    options.iter().zip('a'..='z').map(|(option, letter)| format!("{letter}) {option}")).collect::<Vec<_>>().join("; ")
}

/// Where a learner is, and what waits: the twin of the Learn screen.
#[must_use]
pub fn to_json(session: &Session, checked: &[Checked]) -> Value {
    let (lab, step) = (session.lab(), session.step());
    let item = |item: &Item<'_>| match item {
        Item::Run(run) => json!({
            "run": run.id, "command": run.command, "printed": session.output(&run.id).map(|o| o.text.clone()),
            "exit": session.output(&run.id).map(|o| o.exit), "differs": session.differed(&run.id),
        }),
        Item::Ask(ask) => json!({
            "ask": ask.id, "question": ask.label, "options": ask.options, "answered": session.answered(&ask.id),
        }),
        Item::Predict(p) => json!({
            "predict": p.id, "question": p.ask, "options": p.options, "guessed": session.guessed(&p.id),
        }),
    };
    let check = |c: &Checked| {
        let (is, got, why) = match &c.verdict {
            Verdict::Pass => ("passed", Vec::new(), None),
            Verdict::NotYet { got, cause } => ("not yet", got.clone(), cause.as_ref().map(|(_, say)| say.clone())),
            Verdict::Error(why) => ("error", Vec::new(), Some(why.clone())),
        };
        json!({ "check": c.id, "title": c.title, "is": is, "got": got, "why": why })
    };
    json!({
        "lab": lab.head.id, "title": lab.title, "step": session.at() + 1, "steps": lab.steps.len(),
        "step_title": step.map(|s| s.title.clone()), "hints_open": session.opened(),
        "page": session.page(WIDTH).into_iter().map(|line| line.text).collect::<Vec<_>>(),
        "items": session.items().iter().map(item).collect::<Vec<_>>(),
        "checks": checked.iter().map(check).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn course(folder: &Path) -> Course {
        Course::new(None, folder, &Record::sample(3), None).expect("the first lab")
    }

    async fn says(course: &mut Course, line: &str) -> String {
        match course.take(line).await {
            Typed::Say(lines) => lines.join("\n"),
            other => panic!("{line}: {other:?}"),
        }
    }

    #[tokio::test]
    async fn a_page_is_plain_text_with_numbered_choices() {
        let folder = tempfile::tempdir().expect("temp dir");
        let mut course = course(folder.path());
        let page = says(&mut course, "t").await;
        assert!(page.contains("step 1 of") && page.contains("You can:") && page.contains("\n1"), "{page}");
        assert!(page.chars().all(|c| !('\u{2500}'..='\u{28ff}').contains(&c)), "no boxes: {page}");
        assert!(says(&mut course, "p").await.contains("first step"));
        assert!(says(&mut course, "n").await.contains("step 2 of"));
        assert!(says(&mut course, "99").await.contains("there is no number 99"));
        assert!(says(&mut course, "lab nothing").await.contains("there is no lab"));
        assert_eq!(course.take("kill n1").await, Typed::Other("kill n1".into()));
        assert_eq!(course.take("q").await, Typed::Leave);
    }

    #[tokio::test]
    async fn every_lab_can_be_read_guessed_and_hinted_without_a_screen() {
        let folder = tempfile::tempdir().expect("temp dir");
        let mut course = course(folder.path());
        let mut guessed = 0;
        for (name, _) in SHELF {
            if shelved(name).is_some_and(|lab| lab.is_ok_and(|lab| lab.head.cluster.machines)) {
                let said = says(&mut course, &format!("lab {name}")).await;
                assert!(said.contains("etcd-lab --lab NAME"), "it wants more than this process has: {said}");
                continue;
            }
            let said = says(&mut course, &format!("lab {name}")).await;
            if shelved(name).is_some_and(|lab| lab.is_ok_and(|lab| lab.head.wants_etcd())) {
                assert!(said.contains(upstream::WANTED), "nobody has named an etcd: {said}");
                continue;
            }
            assert!(said.contains("step 1 of"), "{name}: {said}");
            for _ in 0..course.session.lab().steps.len() {
                let items: Vec<bool> = course.session.items().iter().map(|i| matches!(i, Item::Predict(_))).collect();
                for (place, _) in items.iter().enumerate().filter(|(_, is)| **is) {
                    let said = says(&mut course, &format!("{} a", place + 1)).await;
                    assert!(said.starts_with("Right.") || said.starts_with("No."), "{name}: {said}");
                    guessed += 1;
                }
                assert!(!says(&mut course, "h").await.is_empty(), "{name}");
                says(&mut course, "n").await;
            }
        }
        assert!(guessed > 0, "no lab asks for a guess");
    }

    #[tokio::test]
    async fn a_lab_has_a_folder_and_a_terminal_of_its_own() {
        let folder = tempfile::tempdir().expect("temp dir");
        let opened = |name| open(Some(name), folder.path(), &Record::sample(3), None).expect("a lab");
        async fn said(session: &Session, command: &str) -> String {
            session.shell(command, std::time::Duration::from_secs(20)).await.expect("a shell starts").text
        }
        let first = opened("B3");
        said(&first, "export MINE=one; touch left; mkdir deep; cd deep").await;
        let goes_on = said(&first, "echo $MINE; ls ..").await;
        assert!(goes_on.starts_with("one\n") && goes_on.contains("left"), "a terminal goes on: {goes_on}");
        let second = opened("E2");
        drop(first);
        let begins = said(&second, "echo .$MINE.; command -v etcdctl; ls; echo at ${LAB_NODE#$(cd ../..; pwd)/}").await;
        assert!(begins.starts_with(".."), "nothing of the first lab: {begins}");
        assert!(begins.contains("/bin/etcdctl") && begins.contains("at desk-") && !begins.contains("left"), "{begins}");
        let again = opened("B3");
        let kept = said(&again, "echo .$MINE.; ls").await;
        assert!(
            kept.starts_with("..") && kept.contains("left"),
            "the cluster is the same, the terminal is not: {kept}"
        );
        // This one has nodes of its own, and they are new each time.
        let own = opened("E7");
        said(&own, "export MINE=one; touch left").await;
        let anew = opened("E7");
        drop(own);
        let begins = said(&anew, "echo .$MINE.; ls; command -v on").await;
        assert!(begins.starts_with("..\n/"), "an empty folder, and the new cluster's programs: {begins}");
    }

    #[tokio::test]
    async fn who_comes_back_is_where_they_were_though_they_only_look() {
        let folder = tempfile::tempdir().expect("temp dir");
        let file = folder.path().join("progress.json");
        let begin = || Course::new(None, folder.path(), &Record::sample(3), Some(file.clone())).expect("the first lab");
        let mut course = begin();
        assert_eq!(course.welcome(), None);
        says(&mut course, "n").await;
        let mut course = begin();
        let welcome = course.welcome().expect("they were here").to_owned();
        assert_eq!(welcome, "0 of 3 steps done. You are at step 2 again; if the cluster is new, x sets the step up");
        assert!(says(&mut course, "t").await.contains("step 2 of 3"));
        assert_eq!(Progress::load(&file).expect("kept").labs["B3"].at, "json");
        assert!(says(&mut course, "lab E2").await.contains("step 1 of"));
        assert_eq!(Progress::load(&file).expect("kept").last.as_deref(), Some("B3"), "E2 was only opened");
        let again = says(&mut course, "lab B3").await;
        assert!(again.starts_with(&welcome) && again.contains("step 2 of 3"), "{again}");
        course.begin();
        assert!(course.page()[0].ends_with("step 1 of 3."));
    }

    #[tokio::test]
    async fn the_learn_screen_has_a_twin_in_json() {
        let folder = tempfile::tempdir().expect("temp dir");
        let course = course(folder.path());
        let json = course.to_json();
        assert_eq!((&json["step"], &json["lab"]), (&1.into(), &course.session.lab().head.id.clone().into()));
        assert!(json["items"].as_array().is_some_and(|items| !items.is_empty()), "{json:#}");
        assert!(json["page"].as_array().is_some_and(|lines| lines.len() > 3), "{json:#}");
    }
}
