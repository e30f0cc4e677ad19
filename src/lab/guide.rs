//! Labs and lessons: Markdown files that are read by people, run by the lab, and tested by machines.
//!
//! The one idea: **one file, several drivers.** `lab.md` is an ordinary page. HTML comments in it say, in TOML, what can be run,
//! what comes out, and what must be true when a step is done. A lesson is a lab without steps. The same model serves the
//! screen ([`Session`]), the author's gate ([`test()`]) and the book ([`mdbook`]); none of them knows a lab by name.
//!
//! | room | what is in it |
//! |---|---|
//! | `model` | what a lab is, once it has been read |
//! | `scan`, `parse`, `settings` | Markdown and its comments into the model; errors name file, line and what is allowed |
//! | `expr`, `facts`, `check` | what a check may say, what it looks at, what it answers |
//! | `expect` | an output on the page against one that came out |
//! | `shell`, `bed`, `places`, `machine` | commands, the cluster they talk to, and where it is on this machine |
//! | `away` | the same on other machines, with a systemd of their own |
//! | `simulated` | the same on simulated members, with a clock of their own |
//! | `service`, `unit` | `systemctl`, `journalctl` and `sudo` of a node that has none |
//! | `papers` | files and certificates, for checks |
//! | `session`, `page` | one learner in one lab, step by step; the page at a given width |
//! | `shelf` | the labs and chapters that are in this program |
//! | `lesson`, `quiz` | a chapter in the terminal, its cluster, and its questions, there and on the screen |
//! | `built` | the built book, in this program |
//! | `gate`, `spoil`, `report`, `seeds` | is this lab true? |
//! | `book`, `print` | the page as mdBook wants it, and on paper |
//! | `vocabulary` | the author's guide, made from the code |
//!
//! Left out so far: steps that edit files (they are read, not carried out), faults, and views.
//!
//! Source: our own format; the precedents are mdBook, rustlings and trycmd.

mod away;
mod bed;
mod book;
pub mod budget;
mod built;
mod check;
pub mod coverage;
pub mod exceptions;
mod expect;
mod expr;
mod facts;
mod gate;
mod lesson;
mod machine;
mod model;
mod page;
mod papers;
mod parse;
mod places;
mod print;
mod quiz;
mod report;
mod scales;
mod scan;
mod scratch;
mod seeds;
mod service;
mod session;
mod settings;
mod shelf;
mod shell;
mod simulated;
mod spoil;
pub mod syllabus;
mod unit;
mod vocabulary;

pub(crate) use away::MachineBed;
pub(crate) use away::NOT_MADE_ANEW;
pub(crate) use away::fits_machines;
pub use bed::Bed;
pub use bed::Beds;
pub use bed::LentBed;
pub use bed::Member;
pub use bed::ProcessBed;
pub use bed::ProcessBeds;
pub use book::broken_includes;
pub use book::mdbook;
pub use built::BOOK;
pub use check::Verdict;
pub use gate::TestOptions;
pub use gate::closest;
pub use gate::enter_for;
pub use gate::enter_if_needed;
pub use gate::prove;
pub use gate::test;
pub use lesson::lesson;
pub use machine::mirror_from;
pub use machine::stand_in_for_the_cloud;
pub use model::Answer;
pub use model::Ask;
pub use model::AskKind;
pub use model::Block;
pub use model::Check;
pub use model::Expect;
pub use model::Fold;
pub use model::Lab;
pub use model::Predict;
pub use model::Run;
pub use model::Step;
pub use page::Line;
pub use page::LineKind;
pub use parse::parse;
pub use places::Profile;
pub(crate) use places::here;
pub use print::answer_key;
pub use print::handout;
pub use quiz::CHAPTER;
pub use quiz::chapter_quiz;
pub use quiz::quiz;
pub use quiz::told as quizzes_told;
pub use report::Case;
pub use report::Report;
pub(crate) use scratch::scratch;
pub use seeds::Seeds;
pub use service::stand_in;
pub use session::Checked;
pub use session::Item;
pub use session::Ran;
pub use session::Session;
pub use settings::Head;
pub use settings::Kind;
pub use shelf::LESSONS;
pub use shelf::SHELF;
pub use shelf::shelved;
pub use shell::Output;
pub use simulated::SimBeds;
pub use simulated::simulated_fault;
pub use vocabulary::guide as authors_guide;

use std::fmt;
use std::path::Path;
use std::path::PathBuf;

/// What is wrong with a lab file, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LabError {
    /// The file, as it was named.
    pub file: PathBuf,
    /// The line, from 1; 0 if it concerns the whole file.
    pub line: usize,
    /// What is wrong, and what would be right.
    pub what: String,
}

impl LabError {
    pub(crate) fn new(file: &Path, line: usize, what: impl Into<String>) -> LabError {
        LabError { file: file.to_owned(), line, what: what.into() }
    }
}

impl fmt::Display for LabError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(f, "{}: {}", self.file.display(), self.what),
            line => write!(f, "{}:{line}: {}", self.file.display(), self.what),
        }
    }
}

impl std::error::Error for LabError {}

/// Why this machine gives a lab no networks of its own; nothing if it does.
#[must_use]
pub fn no_networks_of_its_own() -> Option<String> {
    places::refused(false)
}

/// Reads `DIR/lab.md`, or the file itself if `path` names one.
///
/// # Errors
/// The file cannot be read, or says something that a lab cannot say.
pub fn load(path: &Path) -> Result<Lab, LabError> {
    let file = if path.is_dir() { path.join("lab.md") } else { path.to_owned() };
    let text = std::fs::read_to_string(&file)
        .map_err(|e| LabError::new(&file, 0, format!("cannot be read: {e}. Name a lab's folder, or its lab.md.")))?;
    parse(&file, &text)
}
