//! One learner in one lab: where they are, what they ran, said and guessed, and what the checks say to it.
//!
//! Prints nothing and draws nothing. The screen, the gate and the lesson test all go through here, so what a learner sees is
//! what was tested. A session belongs to one cluster; a new cluster is a new session.
#![expect(clippy::disallowed_methods, reason = "checks are repeated until their time is over")]

use crate::lab::guide::bed::Bed;
use crate::lab::guide::bed::Beds as _;
use crate::lab::guide::bed::ProcessBeds;
use crate::lab::guide::check::Verdict;
use crate::lab::guide::check::judge;
use crate::lab::guide::expect::Bound;
use crate::lab::guide::expect::compare;
use crate::lab::guide::expr::Source;
use crate::lab::guide::facts::Facts;
use crate::lab::guide::facts::gather;
use crate::lab::guide::model::Ask;
use crate::lab::guide::model::Block;
use crate::lab::guide::model::Check;
use crate::lab::guide::model::Fold;
use crate::lab::guide::model::Lab;
use crate::lab::guide::model::Predict;
use crate::lab::guide::model::Run;
use crate::lab::guide::model::Step;
use crate::lab::guide::model::pick;
use crate::lab::guide::parse::parse;
use crate::lab::guide::places::swapped;
use crate::lab::guide::service;
use crate::lab::guide::settings::Head;
use crate::lab::guide::shell::Call;
use crate::lab::guide::shell::Output;
use crate::lab::guide::shell::Shell;
use crate::lab::guide::simulated::REAL_PAUSE;
use crate::lab::progress::Done;
use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

/// How often a check that is not true yet is looked at again.
const AGAIN_AFTER: Duration = Duration::from_millis(250);

/// What became of a run block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ran {
    /// The block.
    pub id: String,
    /// What came out.
    pub output: Output,
    /// How it differs from the page, if it does. A difference is news for the learner, not a failure.
    pub differs: Option<String>,
}

/// A check and its answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checked {
    /// The check's id.
    pub id: String,
    /// What is checked, in a few words.
    pub title: String,
    /// What it answers.
    pub verdict: Verdict,
}

/// Something on the page that waits for the learner.
#[derive(Clone, Copy, Debug)]
pub enum Item<'a> {
    /// A command to run.
    Run(&'a Run),
    /// A question to answer.
    Ask(&'a Ask),
    /// A guess to make.
    Predict(&'a Predict),
}

/// Past the last hint there is the solution.
const SOLUTION: usize = 4;

/// See the module. A clone is the same learner at this moment: a task may run a block on it while the screen goes on.
#[derive(Clone)]
pub struct Session {
    lab: Arc<Lab>,
    /// As it is written, with the documents' addresses.
    printed: Arc<Lab>,
    bed: Arc<dyn Bed>,
    shell: Shell,
    at: usize,
    answers: BTreeMap<String, String>,
    guesses: BTreeMap<String, String>,
    outputs: BTreeMap<String, Output>,
    differences: BTreeMap<String, String>,
    /// The blocks that have once printed what the page says.
    fitted: BTreeSet<String>,
    /// The steps whose checks have all passed.
    done: BTreeSet<String>,
    /// What the checks of this step wait for, when they were looked at last.
    waits: Option<String>,
    /// How many folds of each step are open: hints 1 to 3, then the solution.
    opened: BTreeMap<usize, usize>,
    /// The learner has done something since the lab was opened.
    acted: bool,
    bound: Bound,
}

/// The lab with the addresses that are true here.
fn moved(lab: Arc<Lab>, swaps: &[(String, String)]) -> Arc<Lab> {
    if swaps.is_empty() {
        return lab;
    }
    // What could be read is read again with other addresses of the same shape.
    parse(&lab.file, &swapped(&lab.source, swaps)).map_or(lab, Arc::new)
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("lab", &self.lab.head.id).field("at", &self.at).finish_non_exhaustive()
    }
}

impl Session {
    /// Begins a lab on a cluster. Commands run in `folder`, which is there already.
    #[must_use]
    pub fn new(lab: Arc<Lab>, bed: Arc<dyn Bed>, folder: &Path) -> Session {
        let shell = Shell::new(folder, bed.as_ref());
        let printed = Arc::clone(&lab);
        let lab = moved(lab, bed.swaps());
        Session {
            lab,
            printed,
            bed,
            shell,
            at: 0,
            answers: BTreeMap::new(),
            guesses: BTreeMap::new(),
            outputs: BTreeMap::new(),
            differences: BTreeMap::new(),
            fitted: BTreeSet::new(),
            done: BTreeSet::new(),
            waits: None,
            opened: BTreeMap::new(),
            acted: false,
            bound: Bound::new(),
        }
    }

    /// The lab.
    #[must_use]
    pub fn lab(&self) -> &Lab {
        &self.lab
    }

    /// The lines of a command as they are printed, if their addresses are others here.
    pub(super) fn as_printed(&self, run: &Run) -> Vec<&str> {
        let printed = self.printed.runs().find(|r| r.id == run.id).filter(|_| !Arc::ptr_eq(&self.printed, &self.lab));
        let lines = printed.into_iter().flat_map(|p| p.command.lines().zip(run.command.lines()));
        lines.filter(|(there, here)| there != here).map(|(there, _)| there.trim()).collect()
    }

    /// The same, to keep.
    #[must_use]
    pub(crate) fn shared_lab(&self) -> Arc<Lab> {
        Arc::clone(&self.lab)
    }

    /// The number of the current step, from 0.
    #[must_use]
    pub fn at(&self) -> usize {
        self.at
    }

    /// The current step; none in a lesson.
    #[must_use]
    pub fn step(&self) -> Option<&Step> {
        self.lab.steps.get(self.at)
    }

    /// Goes to a step, at most to the last.
    pub fn go(&mut self, step: usize) {
        self.stand_at(step);
        self.acted = true;
    }

    /// The same where it is no deed of the learner's: they were there before.
    pub fn stand_at(&mut self, step: usize) {
        self.at = step.min(self.lab.steps.len().saturating_sub(1));
    }

    /// The learner has done something: by hand, where nobody sees it.
    pub fn acts_by_hand(&mut self) {
        self.acted = true;
    }

    /// Whether the learner has done anything since the lab was opened. To open a lab says nothing of where somebody is in it.
    #[must_use]
    pub fn is_touched(&self) -> bool {
        self.acted
    }

    /// The commands of the current step that stand on the page; of the whole page in a lesson.
    #[must_use]
    pub fn runs(&self) -> Vec<&Run> {
        self.step().map_or_else(|| self.lab.runs().collect(), Step::shown_runs)
    }

    /// What the open page asks for, from its top to its bottom; [`Session::page`] marks its lines by these places.
    #[must_use]
    pub fn items(&self) -> Vec<Item<'_>> {
        let mut items = Vec::new();
        if self.at == 0 {
            self.collect(&self.lab.intro, &mut items);
        }
        self.collect(self.step().map_or(&[][..], |s| &s.blocks), &mut items);
        items
    }

    fn collect<'a>(&'a self, blocks: &'a [Block], items: &mut Vec<Item<'a>>) {
        for block in blocks {
            match block {
                Block::Run(run) => items.push(Item::Run(run)),
                Block::Ask(ask) => items.push(Item::Ask(ask)),
                Block::Predict(predict) if self.shows(predict) => items.push(Item::Predict(predict)),
                Block::Fold(fold @ (Fold::Hint(_, inner) | Fold::Solution(inner, _))) if self.is_open(fold) => {
                    self.collect(inner, items);
                }
                Block::Fold(_)
                | Block::Predict(_)
                | Block::Heading(..)
                | Block::Text(_)
                | Block::Code(..)
                | Block::Edit(_)
                | Block::Notes(_) => {}
            }
        }
    }

    /// Whether a question stands on the page: one of the quiz does once the step is done, so that it does not come between.
    pub(super) fn shows(&self, predict: &Predict) -> bool {
        !predict.quiz || self.step().is_none_or(|step| self.done.contains(&step.id))
    }

    /// How many hints of this step are open; one more than its last hint is the solution.
    #[must_use]
    pub fn opened(&self) -> usize {
        self.opened.get(&self.at).copied().unwrap_or(0)
    }

    /// Opens the next hint of this step, after the last one its solution. False if all is open, or there is none.
    pub fn open_next(&mut self) -> bool {
        let Some(step) = self.lab.steps.get(self.at) else { return false };
        let there =
            |level: usize| if level < SOLUTION { step.hint(level).is_some() } else { step.solution().is_some() };
        let next = (self.opened() + 1..=SOLUTION).find(|level| there(*level));
        if let Some(level) = next {
            self.opened.insert(self.at, level);
            self.acted = true;
        }
        next.is_some()
    }

    pub(super) fn is_open(&self, fold: &Fold) -> bool {
        match fold {
            Fold::Hint(level, _) => *level <= self.opened(),
            Fold::Solution(..) => self.opened() >= SOLUTION,
            Fold::Other(..) => false,
        }
    }

    /// How the last output of a block differed from the page, if it did.
    #[must_use]
    pub fn differed(&self, run: &str) -> Option<&str> {
        self.differences.get(run).map(String::as_str)
    }

    /// Whether a block has once done what the page says. Some can do that only once.
    #[must_use]
    pub fn fitted(&self, run: &str) -> bool {
        self.fitted.contains(run)
    }

    /// What a block printed when it was last run.
    #[must_use]
    pub fn output(&self, run: &str) -> Option<&Output> {
        self.outputs.get(run)
    }

    /// What the learner answered to a question.
    #[must_use]
    pub fn answered(&self, ask: &str) -> Option<&str> {
        self.answers.get(ask).map(String::as_str)
    }

    /// What the learner guessed.
    #[must_use]
    pub fn guessed(&self, predict: &str) -> Option<&str> {
        self.guesses.get(predict).map(String::as_str)
    }

    /// Runs block `n`, from 0, of [`Session::runs`].
    ///
    /// # Errors
    /// There is no such block, or its shell cannot be started. A command that fails is no error: its exit code says so.
    pub async fn run(&mut self, n: usize) -> Result<Ran, String> {
        let count = self.runs().len();
        let run = self.runs().get(n).map(|r| r.id.clone());
        let id = run.ok_or_else(|| format!("this step has {count} blocks to run"))?;
        self.run_block(&id).await
    }

    /// Runs the block with this id.
    ///
    /// # Errors
    /// As [`Session::run`].
    pub async fn run_block(&mut self, id: &str) -> Result<Ran, String> {
        let output = self.execute(id).await?;
        self.take(id, output)
    }

    /// Runs the block with this id and changes nothing here: [`Session::take`] takes what came out.
    ///
    /// # Errors
    /// As [`Session::run`].
    pub async fn execute(&self, id: &str) -> Result<Output, String> {
        let run = self.lab.runs().find(|r| r.id == id).ok_or_else(|| format!("there is no run block `{id}`"))?;
        let background = run.background.as_deref();
        self.shell.run(Call { on: &run.on, background, ..Call::new(&run.command, run.timeout) }).await
    }

    /// Takes what a block printed.
    ///
    /// # Errors
    /// There is no such block.
    pub fn take(&mut self, id: &str, output: Output) -> Result<Ran, String> {
        let lab = Arc::clone(&self.lab);
        let run = lab.runs().find(|r| r.id == id).ok_or_else(|| format!("there is no run block `{id}`"))?;
        self.acted = true;
        let differs = self.difference(run, &output);
        self.outputs.insert(run.id.clone(), output.clone());
        self.differences.remove(id);
        if differs.is_none() {
            self.fitted.insert(run.id.clone());
        }
        self.differences.extend(differs.clone().map(|text| (run.id.clone(), text)));
        Ok(Ran { id: run.id.clone(), output, differs })
    }

    fn difference(&mut self, run: &Run, output: &Output) -> Option<String> {
        if output.timed_out {
            return Some(format!("it was ended after {:?}", run.timeout));
        }
        if output.exit != run.exit {
            return Some(format!(
                "the exit code is {}, not {}\nit printed:\n{}",
                output.exit,
                run.exit,
                output.text.trim_end()
            ));
        }
        compare(run.expect.as_ref()?, &output.text, &mut self.bound).err()
    }

    /// Runs a command that is not on the page.
    ///
    /// # Errors
    /// The shell cannot be started.
    pub async fn shell(&self, command: &str, limit: Duration) -> Result<Output, String> {
        self.shell.run(Call::new(command, limit)).await
    }

    /// Notes that all checks of the current step have passed.
    pub fn step_is_done(&mut self) {
        if let Some(id) = self.step().map(|s| s.id.clone()) {
            self.acted |= self.done.insert(id);
        }
    }

    /// The steps of this lab that are not done, from 1.
    #[must_use]
    pub fn undone(&self) -> Vec<usize> {
        let steps = self.lab.steps.iter().zip(1..);
        steps.filter(|(step, _)| !self.done.contains(&step.id)).map(|(_, number)| number).collect()
    }

    /// Notes the first check that is not true yet, with why if that is known: what a teacher wants to hear of a learner. Before the learner
    /// has done anything in this step (`acted`) nothing can be the learner's doing.
    pub fn waits_for(&mut self, checked: &[Checked], acted: bool) {
        self.waits = checked.iter().find_map(|c| match &c.verdict {
            Verdict::NotYet { cause: Some((_, say)), .. } if acted => Some(format!("{}: {say}", c.title)),
            Verdict::NotYet { .. } => Some(c.title.clone()),
            Verdict::Pass | Verdict::Error(_) => None,
        });
    }

    /// What is kept of this learner.
    #[must_use]
    pub fn done(&self) -> Done {
        Done {
            version: self.lab.head.version,
            at: self.step().map_or_else(String::new, |s| s.id.clone()),
            steps: self.done.clone(),
            guesses: self.guesses.clone(),
            waits: self.waits.clone(),
            hints: self.opened(),
        }
    }

    /// Takes what was kept. Answers are not: they were about another cluster.
    pub fn recall(&mut self, done: &Done) {
        if done.version == self.lab.head.version {
            let known = |id: &String| self.lab.predict(id).is_some();
            let kept = done.guesses.iter().filter(|(id, _)| known(id)).map(|(id, g)| (id.clone(), g.clone()));
            self.guesses.extend(kept.collect::<Vec<_>>());
            self.done.extend(done.steps.iter().cloned());
        }
    }

    /// Takes from the session before what is the learner's and not the cluster's, as it is now: guesses, steps that are done, hints.
    pub fn go_on_from(&mut self, before: &Session) {
        self.recall(&before.done());
        self.opened.clone_from(&before.opened);
        self.acted = before.acted;
    }

    /// The same learner at the beginning of a step, on a fresh cluster on which every step before has been done as its solution says.
    /// The old cluster ends if it was this lab's own, and what is in the lab's folder goes.
    ///
    /// # Errors
    /// No cluster can be had, or a solution that does not work.
    pub async fn anew(&self, step: usize, beds: &ProcessBeds) -> Result<Session, String> {
        // The old cluster is gone by then.
        self.begun_anew(step, beds).await.map_err(|why| format!("{why}; x tries once more"))
    }

    async fn begun_anew(&self, step: usize, beds: &ProcessBeds) -> Result<Session, String> {
        let old = Arc::clone(&self.bed);
        // It waits for its members.
        tokio::task::spawn_blocking(move || old.end()).await.map_err(|e| e.to_string())?;
        let bed: Arc<dyn Bed> = beds.fresh(&self.printed.head.cluster).await?.into();
        let folder = self.shell.file("");
        let emptied = std::fs::remove_dir_all(&folder).and_then(|()| std::fs::create_dir_all(&folder));
        emptied.map_err(|e| format!("{}: {e}", folder.display()))?;
        let mut fresh = Session::new(Arc::clone(&self.printed), bed, &folder);
        fresh.recall(&self.done());
        let intro: Vec<String> = fresh.lab.intro.iter().filter_map(Block::as_run).map(|run| run.id.clone()).collect();
        for id in intro.iter().filter(|_| step > 0) {
            fresh.run_block(id).await?;
        }
        for before in 0..step {
            fresh.solve(before).await?;
            fresh.stands(before).await?;
        }
        fresh.stand_at(step);
        // Blocks were run, but not by the learner.
        fresh.acted = self.acted;
        Ok(fresh)
    }

    /// Whether a step that its solution has done is done: the next one would begin on sand.
    async fn stands(&self, step: usize) -> Result<(), String> {
        for check in self.lab.steps.get(step).map_or(&[][..], |s| &s.checks) {
            let why = match self.checked_within(check).await.verdict {
                Verdict::Pass => continue,
                Verdict::NotYet { got, .. } => got.join("; "),
                Verdict::Error(why) => why,
            };
            return Err(format!("step {} could not be done: \"{}\" is not true: {why}", step + 1, check.title));
        }
        Ok(())
    }

    /// A shell at the learner's desk, if there is anything that only the desk has; nothing if the shell of the cluster on the screen will do.
    ///
    /// # Errors
    /// The lab's folder cannot be written to.
    pub fn terminal(&self) -> std::io::Result<Option<std::process::Command>> {
        if self.has_own_nodes() || self.keeps_units() { self.shell.terminal().map(Some) } else { Ok(None) }
    }

    /// Whether something that was started at the desk runs in the background.
    #[must_use]
    pub fn keeps_units(&self) -> bool {
        self.bed.desk().is_some_and(|desk| service::has_guard(&desk))
    }

    /// The folder of its nodes' folders, if it has any.
    pub(super) fn nodes_folder(&self) -> Option<&Path> {
        self.bed.nodes()
    }

    /// Whether its cluster is another than the one on the screen.
    #[must_use]
    pub fn has_own_nodes(&self) -> bool {
        self.bed.nodes().is_some()
    }

    /// Whether its nodes are the machines whose members are on the screen.
    #[must_use]
    pub fn is_on_screen(&self) -> bool {
        !self.has_own_nodes() || self.bed.away().is_some()
    }

    /// The lab's head, if its cluster is its own: what that takes is free when the lab ends.
    #[must_use]
    pub fn own_head(&self) -> Option<&Head> {
        self.has_own_nodes().then(|| &self.lab.head)
    }

    /// Why its nodes are not at the page's addresses, and where they would be; nothing if they are.
    pub(super) fn moved_because(&self) -> Option<&str> {
        self.bed.moved_because().filter(|_| !self.bed.swaps().is_empty())
    }

    /// The names of all nodes, members first.
    #[must_use]
    pub fn nodes(&self) -> Vec<&str> {
        self.bed.members().iter().chain(self.bed.spares()).map(|m| m.name.as_str()).collect()
    }

    /// What to say to whoever enters it.
    #[must_use]
    pub fn terminal_greeting(&self) -> String {
        let nodes = self.nodes();
        if !self.has_own_nodes() {
            let id = &self.lab.head.id;
            return format!(
                "Your desk in {id}: what runs in the background here stays while {id} is open.\n\
                 `exit` leaves; the lab goes on."
            );
        }
        let node = nodes.first().unwrap_or(&"NODE");
        // A machine's agent gives no terminal.
        let opens = match self.bed.away() {
            None => format!("`on {node}` opens a shell there: what you export in it lasts until `exit`.\n"),
            Some(_) => String::new(),
        };
        // None of its lines is cut on a small terminal.
        format!(
            "Your desk in {}. Its nodes: {}.\n`on {node} COMMAND` runs a command there.\n{opens}\
             `exit` leaves; the lab goes on.",
            self.lab.head.id,
            nodes.join(", "),
        )
    }

    /// Answers a question.
    ///
    /// # Errors
    /// What the question accepts.
    pub fn answer(&mut self, ask: &str, given: &str) -> Result<(), String> {
        let accepted = self.lab.ask(ask).ok_or_else(|| format!("there is no question `{ask}`"))?.accept(given)?;
        self.answers.insert(ask.to_owned(), accepted);
        self.acted = true;
        Ok(())
    }

    /// Locks a guess, once, and says whether it was right, and why.
    ///
    /// # Errors
    /// The guess is locked already, or is none of the options.
    pub fn predict(&mut self, predict: &str, given: &str) -> Result<(bool, &Predict), String> {
        if let Some(locked) = self.guesses.get(predict) {
            return Err(format!("You said: {locked}. A guess is locked once it is made."));
        }
        let guess = self.lab.predict(predict).ok_or_else(|| format!("there is no guess `{predict}`"))?;
        let option = pick(&guess.options, given)?;
        let right = option == guess.answer;
        self.guesses.insert(predict.to_owned(), option);
        self.acted = true;
        Ok((right, guess))
    }

    /// Looks at all checks of the current step once.
    pub async fn check(&self) -> Vec<Checked> {
        let mut results = Vec::new();
        for check in self.step().map_or(&[][..], |s| &s.checks) {
            results.push(self.checked(check).await);
        }
        results
    }

    /// Looks at one check once.
    pub async fn checked(&self, check: &Check) -> Checked {
        let verdict = match self.facts(check).await {
            Ok(facts) => judge(check, &facts),
            Err(e) => Verdict::Error(e),
        };
        Checked { id: check.id.clone(), title: check.title.clone(), verdict }
    }

    /// Looks at one check until it passes or its time is over.
    pub async fn checked_within(&self, check: &Check) -> Checked {
        self.seen_within(check, Verdict::passed).await
    }

    /// Looks at one check until it names this cause or its time is over.
    pub(crate) async fn named_within(&self, check: &Check, cause: usize) -> Checked {
        self.seen_within(check, |v| matches!(v, Verdict::NotYet { cause: Some((n, _)), .. } if *n == cause)).await
    }

    /// Looks at one check until it says *not yet* or its time is over.
    pub(crate) async fn lost_within(&self, check: &Check) -> Checked {
        self.seen_within(check, |v| matches!(v, Verdict::NotYet { .. })).await
    }

    async fn seen_within(&self, check: &Check, seen: impl Fn(&Verdict) -> bool) -> Checked {
        let deadline = Instant::now() + check.within;
        let mut passed = Duration::ZERO;
        loop {
            let checked = self.checked(check).await;
            if seen(&checked.verdict) || Instant::now() >= deadline || passed >= check.within {
                return checked;
            }
            if self.bed.pass(AGAIN_AFTER) {
                passed += AGAIN_AFTER;
                // Some of what is looked at, a client's output, is of our own time all the same.
                tokio::time::sleep(REAL_PAUSE).await;
            } else {
                tokio::time::sleep(AGAIN_AFTER).await;
            }
        }
    }

    async fn facts(&self, check: &Check) -> Result<Facts, String> {
        let wanted = check.causes.iter().flat_map(|c| c.when.facts()).chain(check.want.facts()).collect();
        let mut facts = gather(&wanted, self.bed.as_ref(), &self.shell).await?;
        facts.answers.clone_from(&self.answers);
        facts.outputs.clone_from(&self.outputs);
        Ok(facts)
    }

    /// Solves a step as its solution says: its commands, then its answers. The commands' results come back.
    ///
    /// # Errors
    /// A shell that cannot be started, or an answer that its source does not have.
    pub async fn solve(&mut self, step: usize) -> Result<Vec<Ran>, String> {
        self.go(step);
        let lab = Arc::clone(&self.lab);
        let step = lab.steps.get(step).ok_or("there is no such step")?;
        let mut results = Vec::new();
        for run in step.all_runs() {
            results.push(self.run_block(&run.id).await?);
        }
        for (ask, source) in step.solution().map_or(&[][..], |(_, answers)| answers) {
            let answer = self.taken(source).map_err(|e| format!("answer `{ask}`: {e}"))?;
            self.answer(ask, &answer)?;
        }
        Ok(results)
    }

    fn taken(&self, source: &Source) -> Result<String, String> {
        let (run, row, column) = match source {
            Source::Literal(text) => return Ok(text.clone()),
            Source::Captured { run, row, column } => (run, row, *column),
        };
        let output = self.outputs.get(run).ok_or_else(|| format!("block `{run}` has not been run"))?;
        let line = match row.parse::<usize>() {
            Ok(number) => output.text.lines().nth(number.saturating_sub(1)),
            Err(_) => output.text.lines().find(|l| l.contains(row.as_str())),
        };
        let line = line.ok_or_else(|| format!("block `{run}` printed no line `{row}`"))?;
        let mut columns =
            if line.contains(", ") { line.split(", ").collect() } else { line.split_whitespace().collect::<Vec<_>>() };
        match column {
            0 => Ok(line.trim().to_owned()),
            n if n <= columns.len() => Ok(columns.swap_remove(n - 1).to_owned()),
            n => Err(format!("line `{line}` has no column {n}")),
        }
    }

    /// Forgets an output, as if the block had not been run; gives back what was forgotten.
    pub(crate) fn forget(&mut self, run: &str) -> Option<Output> {
        self.outputs.remove(run)
    }

    /// Puts an output back.
    pub(crate) fn remember(&mut self, run: &str, output: Output) {
        self.outputs.insert(run.to_owned(), output);
    }

    /// Replaces an answer without asking whether the question accepts it.
    pub(crate) fn overwrite(&mut self, ask: &str, answer: Option<String>) -> Option<String> {
        match answer {
            Some(answer) => self.answers.insert(ask.to_owned(), answer),
            None => self.answers.remove(ask),
        }
    }
}
