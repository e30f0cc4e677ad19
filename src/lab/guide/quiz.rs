//! A chapter's questions: one after the other in `etcd-lab lesson N --quiz`, or as a page of the Learn screen. An answer is given once, and kept
//! with the learner's progress, wherever it was given.

use crate::lab::guide::model::Block;
use crate::lab::guide::model::Fold;
use crate::lab::guide::model::Lab;
use crate::lab::guide::model::Predict;
use crate::lab::guide::model::pick;
use crate::lab::guide::settings::Cluster;
use crate::lab::guide::settings::Head;
use crate::lab::guide::shelf::LESSONS;
use crate::lab::guide::shelf::lesson_named;
use crate::lab::progress::Progress;
use std::fmt::Write as _;
use std::io::BufRead;
use std::io::Write;
use std::path::Path;

/// Where a chapter's answers are kept, among the labs.
fn key(lesson: &Lab) -> String {
    format!("{CHAPTER}{}", lesson.head.id)
}

/// How the names begin by which chapters stand among the labs.
pub const CHAPTER: &str = "chapter ";

/// The questions of this chapter as a page without steps: it wants no cluster, and its name is where the answers are kept.
///
/// # Errors
/// There is no such chapter: a sentence that says which there are.
pub fn chapter_quiz(number: &str) -> Result<Lab, String> {
    let none = || format!("there is no chapter {number:?}; there are 0 to {}", LESSONS.len() - 1);
    let lesson = lesson_named(number).map_err(|e| e.to_string())?.ok_or_else(none)?;
    let asked: Vec<Block> = questions(&lesson.intro).into_iter().cloned().map(Block::Predict).collect();
    let what =
        Block::Text(vec!["The chapter's questions. An answer is given once; `etcd-lab progress` counts them.".into()]);
    let head = Head {
        id: key(&lesson),
        engines: Vec::new(),
        network: Vec::new(),
        cluster: Cluster::default(),
        disk: 0,
        memory: 0,
        ..lesson.head.clone()
    };
    Ok(Lab { head, intro: [what].into_iter().chain(asked).collect(), steps: Vec::new(), ..lesson })
}

/// Everything that a page asks with options, from its top to its bottom.
fn questions(blocks: &[Block]) -> Vec<&Predict> {
    let all = blocks.iter().flat_map(|block| match block {
        Block::Predict(predict) => vec![predict],
        Block::Fold(Fold::Other(_, inner)) => questions(inner),
        _ => Vec::new(),
    });
    all.collect()
}

/// How many of a chapter's questions were answered, how many of them rightly, and how many there are.
fn score(lesson: &Lab, progress: &Progress) -> (usize, usize, usize) {
    let all = questions(&lesson.intro);
    let given = progress.labs.get(&key(lesson)).map(|done| &done.guesses);
    let answers: Vec<bool> = all.iter().filter_map(|q| Some(given?.get(&q.id)? == &q.answer)).collect();
    (answers.len(), answers.iter().filter(|right| **right).count(), all.len())
}

/// Asks what is still open, and keeps each answer in this file. Returns the exit code: 0 when nothing is open any more.
///
/// # Errors
/// The chapter asks nothing, or the file cannot be read or written.
pub fn quiz(lesson: &Lab, input: &mut dyn BufRead, out: &mut dyn Write, file: &Path) -> Result<u8, String> {
    let all = questions(&lesson.intro);
    if all.is_empty() {
        return Err(format!("chapter {} has no quiz", lesson.head.id));
    }
    let mut progress = Progress::load(file).map_err(|e| e.to_string())?;
    let failed = |e: std::io::Error| format!("cannot ask: {e}");
    for (n, question) in all.iter().enumerate() {
        writeln!(out, "\n{} of {}  {}", n + 1, all.len(), question.ask).map_err(failed)?;
        let known = progress.labs.get(&key(lesson)).and_then(|kept| kept.guesses.get(&question.id)).cloned();
        let given = match known {
            Some(given) => {
                writeln!(out, "You said: {given}").map_err(failed)?;
                given
            }
            None => {
                let Some(given) = asked(question, input, out).map_err(failed)? else { break };
                let kept = Progress::change(file, |progress| {
                    let kept = progress.labs.entry(key(lesson)).or_default();
                    kept.version = lesson.head.version;
                    kept.guesses.insert(question.id.clone(), given.clone());
                });
                progress = kept.map_err(|e| e.to_string())?;
                given
            }
        };
        let word = if given == question.answer { "Right" } else { "No" };
        writeln!(out, "{word}: {}. {}", question.answer, question.why).map_err(failed)?;
    }
    let (answered, right, count) = score(lesson, &progress);
    writeln!(out, "\n{answered} of {count} answered, {right} rightly.").map_err(failed)?;
    Ok(u8::from(answered < count))
}

/// Asks until one of the options is named. Nothing: the input has ended.
fn asked(question: &Predict, input: &mut dyn BufRead, out: &mut dyn Write) -> std::io::Result<Option<String>> {
    for (letter, option) in ('a'..='z').zip(&question.options) {
        writeln!(out, "  {letter}  {option}")?;
    }
    loop {
        write!(out, "> ")?;
        out.flush()?;
        let mut line = String::new();
        if input.read_line(&mut line)? == 0 {
            writeln!(out)?;
            return Ok(None);
        }
        match pick(&question.options, line.trim()) {
            Ok(option) => return Ok(Some(option)),
            Err(why) => writeln!(out, "{why}")?,
        }
    }
}

/// The chapters of which something was answered, for a terminal.
#[must_use]
pub fn told(progress: &Progress) -> String {
    let mut out = String::new();
    for number in 0..LESSONS.len() {
        let Ok(Some(lesson)) = lesson_named(&number.to_string()) else { continue };
        let (answered, right, count) = score(&lesson, progress);
        if answered > 0 {
            let _ = writeln!(out, "chapter {number}: {answered} of {count} questions answered, {right} rightly");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::guide::Item;
    use crate::lab::guide::LentBed;
    use crate::lab::guide::Session;
    use crate::lab::progress::Done;
    use std::sync::Arc;

    #[test]
    fn an_answer_is_given_once_and_is_there_the_next_time() {
        let lesson = lesson_named("4").unwrap_or_else(|e| panic!("{e}")).expect("there is a chapter 4");
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("progress.json");
        let ran = |typed: &str| {
            let mut out = Vec::new();
            let code = quiz(&lesson, &mut typed.as_bytes(), &mut out, &file).expect("asked");
            (code, String::from_utf8(out).expect("text"))
        };
        let first = questions(&lesson.intro)[0];
        let right = first.options.iter().position(|o| *o == first.answer).expect("one is right");
        let wrong = if right == 0 { "b" } else { "a" };
        let (code, said) = ran(&format!("something else\n{wrong}\n"));
        assert_eq!(code, 1, "one is left: {said}");
        assert!(
            said.contains(&format!("No: {}", first.answer)) && said.contains("1 of 2 answered, 0 rightly"),
            "{said}"
        );
        let (code, said) = ran("a\n");
        assert_eq!(code, 0, "{said}");
        assert!(said.contains("You said: ") && said.contains("2 of 2 answered"), "{said}");
        let progress = Progress::load(&file).expect("kept");
        assert!(told(&progress).starts_with("chapter 4: 2 of 2 questions answered, "), "{}", told(&progress));
        assert!(ran("").1.contains("2 of 2 answered"), "nothing is asked any more");
    }

    #[test]
    fn on_the_screen_a_chapter_is_a_page_of_its_questions_and_its_answers_are_the_same() {
        let lab = chapter_quiz("4").expect("there is a chapter 4");
        assert_eq!(lab.head.id, "chapter 04");
        assert!(!lab.head.needs_nodes() && lab.steps.is_empty());
        let bed = || Arc::new(LentBed::new(Path::new("/nowhere"), Vec::new()));
        let begin = || Session::new(Arc::new(lab.clone()), bed(), Path::new("/"));
        let mut session = begin();
        let first = match session.items().first() {
            Some(Item::Predict(first)) => (*first).clone(),
            other => panic!("{other:?}"),
        };
        assert!(session.predict(&first.id, &first.answer).expect("it is open").0);
        let mut progress = Progress::default();
        assert!(progress.note(&session));
        assert_eq!(progress.last, None, "a teacher wants to know the lab");
        assert!(told(&progress).starts_with("chapter 4: 1 of 2 questions answered, 1 rightly"), "{}", told(&progress));
        let mut again = begin();
        assert_eq!(progress.resume(&mut again), None);
        assert_eq!(again.guessed(&first.id), Some(first.answer.as_str()));
        for number in 0..LESSONS.len() {
            assert!(chapter_quiz(&number.to_string()).is_ok_and(|lab| lab.intro.len() > 1), "chapter {number}");
        }
        assert_eq!(chapter_quiz("12").expect_err("none"), "there is no chapter \"12\"; there are 0 to 11");
    }

    #[test]
    fn what_a_lab_keeps_while_somebody_thinks_is_not_undone_by_their_answer() {
        let lesson = lesson_named("4").unwrap_or_else(|e| panic!("{e}")).expect("there is a chapter 4");
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("progress.json");
        // What is typed first comes only after a lab on the screen has kept its step.
        struct Thinking<'a>(&'a [u8], Option<&'a Path>);
        impl std::io::Read for Thinking<'_> {
            fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
                let step = |kept: &mut Progress| drop(kept.labs.insert("B3".into(), Done::default()));
                if let Some(file) = self.1.take() {
                    Progress::change(file, step).map_err(std::io::Error::other)?;
                }
                self.0.read(into)
            }
        }
        let mut typed = std::io::BufReader::new(Thinking(b"a\n", Some(&file)));
        quiz(&lesson, &mut typed, &mut Vec::new(), &file).expect("asked");
        let kept = Progress::load(&file).expect("kept");
        assert_eq!(kept.labs.keys().collect::<Vec<_>>(), ["B3", "chapter 04"]);
    }

    #[test]
    fn every_chapter_asks_something_and_no_two_questions_have_one_name() {
        for number in 0..LESSONS.len() {
            let lesson = lesson_named(&number.to_string()).unwrap_or_else(|e| panic!("{e}")).expect("it is there");
            let all = questions(&lesson.intro);
            assert!(!all.is_empty(), "chapter {number} asks nothing");
            let names: std::collections::BTreeSet<&str> = all.iter().map(|q| q.id.as_str()).collect();
            assert_eq!(names.len(), all.len(), "chapter {number}");
        }
    }
}
