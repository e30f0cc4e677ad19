//! What a lab is, once it has been read. Plain values; whatever can be wrong in a file was refused before one of these exists.

use crate::lab::guide::expr::Expr;
use crate::lab::guide::expr::Source;
use crate::lab::guide::settings::Head;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

/// One `lab.md`, or one lesson.
#[derive(Clone, Debug)]
pub struct Lab {
    /// The file that it was read from.
    pub file: PathBuf,
    /// The first heading.
    pub title: String,
    /// What its `lab` block says.
    pub head: Head,
    /// What comes before the first step; the whole page of a lesson.
    pub intro: Vec<Block>,
    /// The steps, in order.
    pub steps: Vec<Step>,
    /// The file's text.
    pub source: String,
}

/// One task with its checks.
#[derive(Clone, Debug)]
pub struct Step {
    /// Its short name, unique in the lab.
    pub id: String,
    /// Its heading.
    pub title: String,
    /// How long it takes, in minutes.
    pub minutes: u32,
    /// Why it worked: told when all checks pass.
    pub worked: Option<String>,
    /// The page, in order.
    pub blocks: Vec<Block>,
    /// What must be true when the step is done.
    pub checks: Vec<Check>,
    /// Ways that lead astray, for the gate.
    pub wrongs: Vec<Wrong>,
    /// The line of its heading.
    pub line: usize,
}

/// One piece of a page.
#[derive(Clone, Debug)]
pub enum Block {
    /// A heading below the title, with its level.
    Heading(usize, String),
    /// A paragraph, a list or a table: Markdown as it stands, one line each.
    Text(Vec<String>),
    /// A fenced block that is only shown.
    Code(String, String),
    /// A command that can be run.
    Run(Run),
    /// A question.
    Ask(Ask),
    /// A guess, made before looking.
    Predict(Predict),
    /// The wanted content of a file. Read and shown; not carried out yet.
    Edit(Edit),
    /// Something folded away.
    Fold(Fold),
    /// For the teacher only.
    Notes(String),
}

/// A command with what it should print.
#[derive(Clone, Debug)]
pub struct Run {
    /// Unique in the lab.
    pub id: String,
    /// The shell's input, as it stands on the page.
    pub command: String,
    /// At which nodes it runs, one after the other; where members have no nodes of their own, which `ETCDCTL_ENDPOINTS` names.
    /// Empty: at none, with all members.
    pub on: Vec<String>,
    /// The exit code that belongs to it.
    pub exit: i32,
    /// When it is ended by force.
    pub timeout: Duration,
    /// It stays, as a unit of this name.
    pub background: Option<String>,
    /// The seed command that this is, byte for byte.
    pub seed: Option<String>,
    /// The seed command that this repairs.
    pub repairs: Option<String>,
    /// Only our own programs print this: another etcd is not asked.
    pub ours: bool,
    /// What it prints.
    pub expect: Option<Expect>,
    /// The line of its first command.
    pub line: usize,
}

/// An output as the page shows it.
#[derive(Clone, Debug)]
pub struct Expect {
    /// The lines, without a newline at the end.
    pub text: String,
    /// Names in square brackets that stand for a pattern, and for the same text wherever they return.
    pub vars: BTreeMap<String, String>,
    /// Nothing is normalised.
    pub exact: bool,
    /// The line of its first line.
    pub line: usize,
}

/// What an answer looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AskKind {
    /// Any text.
    Text,
    /// One of the options.
    Choice,
    /// All the options in the right order, as letters.
    Order,
}

/// A question to the learner.
#[derive(Clone, Debug)]
pub struct Ask {
    /// Unique in the lab; checks call it `answer("id")`.
    pub id: String,
    /// What an answer looks like.
    pub kind: AskKind,
    /// The question.
    pub label: String,
    /// What can be chosen or put in order.
    pub options: Vec<String>,
}

impl Ask {
    /// The answer in the form that checks compare: a choice as the option's text, an order as letters with blanks between.
    ///
    /// # Errors
    /// What the question accepts, if this is not it.
    pub fn accept(&self, given: &str) -> Result<String, String> {
        let given = given.trim();
        match self.kind {
            AskKind::Text if given.is_empty() => Err("An answer has at least one letter.".into()),
            AskKind::Text => Ok(given.to_owned()),
            AskKind::Choice => pick(&self.options, given),
            AskKind::Order => self.order(given),
        }
    }

    fn order(&self, given: &str) -> Result<String, String> {
        let letters: Vec<char> =
            given.chars().filter(char::is_ascii_alphabetic).map(|c| c.to_ascii_lowercase()).collect();
        let mut sorted = letters.clone();
        sorted.sort_unstable();
        let all: Vec<char> = (0..self.options.len()).map(letter).collect();
        if sorted != all {
            let all: String = all.iter().collect();
            return Err(format!("Write each of the letters {all} once, in your order."));
        }
        Ok(letters.iter().map(char::to_string).collect::<Vec<_>>().join(" "))
    }
}

/// The letter of the option at this place, from 0.
#[must_use]
pub(crate) fn letter(place: usize) -> char {
    char::from(b'a' + u8::try_from(place % 26).expect("below 26"))
}

/// The option that a letter or its own text names.
pub(crate) fn pick(options: &[String], given: &str) -> Result<String, String> {
    let by_letter = |(place, _): &(usize, &String)| given.eq_ignore_ascii_case(&letter(*place).to_string());
    options
        .iter()
        .find(|o| o.as_str() == given)
        .or_else(|| options.iter().enumerate().find(by_letter).map(|(_, o)| o))
        .cloned()
        .ok_or_else(|| match options.len() {
            0 | 1 => "type a".to_owned(),
            n => {
                let letters: Vec<String> = (0..n - 1).map(|place| letter(place).to_string()).collect();
                format!("type {} or {}", letters.join(", "), letter(n - 1))
            }
        })
}

/// A guess, locked before the run.
#[derive(Clone, Debug)]
pub struct Predict {
    /// Unique in the lab.
    pub id: String,
    /// The question.
    pub ask: String,
    /// What can be guessed.
    pub options: Vec<String>,
    /// The right one of them.
    pub answer: String,
    /// Why it is right: shown after the guess.
    pub why: String,
    /// It is asked at the end, when there is nothing left to guess: the learner should know.
    pub quiz: bool,
}

/// The wanted content of a file.
#[derive(Clone, Debug)]
pub struct Edit {
    /// Where it goes.
    pub path: String,
    /// Its permission bits, as in `chmod`.
    pub mode: Option<String>,
    /// Whose it is.
    pub owner: Option<String>,
    /// What it says.
    pub text: String,
}

/// A question's id, and where the solution takes its answer from.
pub type Answer = (String, Source);

/// What is folded away.
#[derive(Clone, Debug)]
pub enum Fold {
    /// Hint 1, 2 or 3.
    Hint(usize, Vec<Block>),
    /// The solution, and where its answers come from.
    Solution(Vec<Block>, Vec<Answer>),
    /// Anything else, with its summary line.
    Other(String, Vec<Block>),
}

/// What must be true when a step is done.
#[derive(Clone, Debug)]
pub struct Check {
    /// Unique in the lab.
    pub id: String,
    /// What is checked, in a few words for the learner.
    pub title: String,
    /// When it is true.
    pub want: Expr,
    /// How long it may take to become true after the learner's last action.
    pub within: Duration,
    /// Why it may not be true yet, the first that fits.
    pub causes: Vec<Cause>,
    /// A command after which it must no longer be true. Without it the gate finds a mutation by itself.
    pub spoil: Option<String>,
    /// Where it stands.
    pub line: usize,
}

/// A reason, and what to do about it.
#[derive(Clone, Debug)]
pub struct Cause {
    /// When this is the reason.
    pub when: Expr,
    /// What to tell the learner.
    pub say: String,
}

/// A way that leads astray: the gate goes there and looks whether the lab says why.
#[derive(Clone, Debug)]
pub struct Wrong {
    /// Unique in the lab.
    pub id: String,
    /// What the learner types.
    pub command: Option<String>,
    /// What the learner answers.
    pub answers: BTreeMap<String, String>,
    /// The check that must say *not yet*.
    pub fails: String,
    /// Which of its causes it must name, from 1.
    pub cause: usize,
    /// Where it stands.
    pub line: usize,
}

impl Lab {
    /// Every block of the lab, folds opened, in the order of the page.
    pub fn blocks(&self) -> impl Iterator<Item = &Block> {
        self.intro.iter().chain(self.steps.iter().flat_map(|s| &s.blocks)).flat_map(Block::opened)
    }

    /// Every command, in the order of the page.
    pub fn runs(&self) -> impl Iterator<Item = &Run> {
        self.blocks().filter_map(Block::as_run)
    }

    /// The question with this id.
    #[must_use]
    pub fn ask(&self, id: &str) -> Option<&Ask> {
        self.blocks().find_map(|b| if let Block::Ask(ask) = b { (ask.id == id).then_some(ask) } else { None })
    }

    /// The guess with this id.
    #[must_use]
    pub fn predict(&self, id: &str) -> Option<&Predict> {
        self.blocks().find_map(|b| if let Block::Predict(p) = b { (p.id == id).then_some(p) } else { None })
    }
}

impl Step {
    /// The commands that stand on the open page, not those in the solution.
    #[must_use]
    pub fn shown_runs(&self) -> Vec<&Run> {
        self.blocks.iter().filter_map(Block::as_run).collect()
    }

    /// All commands: those on the page, then those of the solution.
    #[must_use]
    pub fn all_runs(&self) -> Vec<&Run> {
        self.blocks.iter().flat_map(Block::opened).filter_map(Block::as_run).collect()
    }

    /// The hint of this level, from 1.
    #[must_use]
    pub fn hint(&self, level: usize) -> Option<&[Block]> {
        self.blocks.iter().find_map(|b| match b {
            Block::Fold(Fold::Hint(l, blocks)) if *l == level => Some(blocks.as_slice()),
            _ => None,
        })
    }

    /// The solution's page and answers.
    #[must_use]
    pub fn solution(&self) -> Option<(&[Block], &[Answer])> {
        self.blocks.iter().find_map(|b| match b {
            Block::Fold(Fold::Solution(blocks, answers)) => Some((blocks.as_slice(), answers.as_slice())),
            _ => None,
        })
    }
}

impl Block {
    pub(crate) fn as_run(&self) -> Option<&Run> {
        if let Block::Run(run) = self { Some(run) } else { None }
    }

    /// This block and what is folded in it.
    fn opened(&self) -> Vec<&Block> {
        let inner = match self {
            Block::Fold(Fold::Hint(_, b) | Fold::Solution(b, _) | Fold::Other(_, b)) => b.as_slice(),
            _ => &[],
        };
        std::iter::once(self).chain(inner.iter().flat_map(Block::opened)).collect()
    }
}
