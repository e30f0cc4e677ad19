//! The author's gate: is this lab true?
//!
//! A check that passes before anything was done teaches nothing, and one that cannot fail proves nothing. So the gate wants,
//! on a cluster that nobody has written to: every check says *not yet*; the solution makes them pass, with the output that
//! the page shows; each check notices when its end state is spoilt; each wrong path is recognised by name; and no block's
//! output would pass for another's. What changes the cluster gets one of its own.
//!
//! Source: rustlings' `dev check` (fails before, passes after), widened.

use crate::lab::guide::LabError;
use crate::lab::guide::bed::Bed;
use crate::lab::guide::bed::Beds;
use crate::lab::guide::bed::ProcessBeds;
use crate::lab::guide::budget;
use crate::lab::guide::check::Verdict;
use crate::lab::guide::expect::Bound;
use crate::lab::guide::expect::compare;
use crate::lab::guide::load;
use crate::lab::guide::model::Block;
use crate::lab::guide::model::Fold;
use crate::lab::guide::model::Lab;
use crate::lab::guide::model::Run;
use crate::lab::guide::model::Wrong;
use crate::lab::guide::places;
use crate::lab::guide::places::Profile;
use crate::lab::guide::report::BlockCase;
use crate::lab::guide::report::Case;
use crate::lab::guide::report::Report;
use crate::lab::guide::scales::Scales;
use crate::lab::guide::scratch::scratch;
use crate::lab::guide::seeds::Seeds;
use crate::lab::guide::session::Checked;
use crate::lab::guide::session::Ran;
use crate::lab::guide::session::Session;
use crate::lab::guide::simulated::SimBeds;
use crate::lab::guide::spoil::spoilt_by;
use crate::lab::upstream;
use futures::FutureExt as _;
use futures::StreamExt as _;
use futures::stream;
use std::ffi::OsString;
use std::io::Write;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

/// How long one spoiling or wrong command may take.
pub(super) const COMMAND_WITHIN: Duration = Duration::from_secs(20);

/// What `etcd-lab test` can be told.
#[derive(Clone, Debug, Default)]
pub struct TestOptions {
    /// Run against the `etcd` and `etcdctl` in this folder, not our own: is the lesson true of real etcd?
    pub etcd_dir: Option<PathBuf>,
    /// Run on simulated members from this seed, if the lab allows it.
    pub sim: Option<u64>,
    /// Where the nodes are; none: as close to the documents as the lab and this machine allow.
    pub profile: Option<Profile>,
    /// Only solve it: one cluster, and no more than what the page and its solutions run.
    pub solution: bool,
    /// Write a JUnit report here.
    pub junit: Option<PathBuf>,
    /// Write a JSON report here.
    pub json: Option<PathBuf>,
}

/// `etcd-lab test DIR`: proves the lab or lesson at `path` and tells `out`. Returns the exit code: 0 if it holds, 1 if
/// not, 2 if it could not be tried.
pub fn test(path: &Path, options: &TestOptions, out: &mut dyn Write) -> u8 {
    let report = match tried(path, options) {
        Ok(report) => report,
        Err(e) => {
            let _ = writeln!(out, "etcd-lab: {e}");
            return 2;
        }
    };
    let _ = write!(out, "{}", report.text());
    for (file, text) in [(&options.junit, report.junit()), (&options.json, report.json())] {
        let Some(file) = file else { continue };
        if let Err(e) = std::fs::write(file, text) {
            let _ = writeln!(out, "etcd-lab: {}: {e}", file.display());
            return 2;
        }
    }
    u8::from(!report.passed())
}

fn tried(path: &Path, options: &TestOptions) -> Result<Report, String> {
    let lab = load(path).map_err(|e| e.to_string())?;
    budget::check(&lab.head, None, None)?;
    let profile = options.profile.unwrap_or(Profile::Ports);
    let tools = std::env::current_exe().map_err(|e| format!("this program's path is not known: {e}"))?;
    let beds = match &options.etcd_dir {
        Some(dir) if dir.join("etcdctl").exists() => ProcessBeds::new(dir, &tools)?,
        // Debian's package of the server has no client in it; ours does.
        Some(dir) => ProcessBeds::ours()?.with_etcd(&upstream::check(&dir.join("etcd")).map_err(|e| e.to_string())?.0),
        None if lab.head.wants_etcd() => return Err(upstream::WANTED.into()),
        None => ProcessBeds::ours()?,
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|e| format!("no runtime: {e}"))?;
    let beds = beds.at(profile);
    match options.sim {
        Some(_) if !lab.head.allows("sim") => Err(format!(
            "{} does not allow the simulation: its head would have to say engines = [\"real\", \"sim\"]",
            lab.head.id
        )),
        Some(seed) => runtime.block_on(proven(Arc::new(lab), &SimBeds::new(beds, seed), options.solution)),
        None => runtime.block_on(proven(Arc::new(lab), &beds, options.solution)),
    }
}

/// The profile that is closest to the documents, of those that the lab allows and this system gives. The refusal, if a lab whose nodes are
/// machines can have none.
///
/// # Errors
/// As said.
pub fn closest(lab: &Lab) -> Result<Profile, String> {
    let head = &lab.head;
    let allows = |p: &Profile| places::allows(head, *p);
    let refused = if places::inside() { None } else { places::refused(head.cluster.machines) };
    match Profile::ALL.into_iter().find(|p| allows(p) && (*p != Profile::Netns || refused.is_none())) {
        Some(profile) => Ok(profile),
        None => Err(refused.unwrap_or_else(|| format!("{} allows no profile", head.id))),
    }
}

/// The profile for this lab, and this very test again inside of a namespace if that is where it must run.
///
/// # Errors
/// The lab cannot be read, or does not run with the profile that was asked for.
pub fn enter_if_needed(
    path: &Path,
    wanted: Option<Profile>,
    args: &[String],
) -> Result<(Profile, Option<Command>), String> {
    let lab = load(path).map_err(|e| e.to_string())?;
    let allows = |p: &Profile| places::allows(&lab.head, *p);
    let profile = match wanted {
        Some(profile) if !allows(&profile) => {
            return Err(format!("{} runs with the profiles {}", lab.head.id, lab.head.network.join(", ")));
        }
        Some(profile) => profile,
        // What needs least of this machine, and has room for several clusters at once.
        None => Profile::ALL.into_iter().rev().find(allows).unwrap_or(Profile::Ports),
    };
    if profile == Profile::Netns
        && !places::inside()
        && let Some(why) = places::refused(lab.head.cluster.machines)
    {
        return Err(why);
    }
    if profile != Profile::Netns || places::inside() {
        return Ok((profile, None));
    }
    let program = std::env::current_exe().map_err(|e| e.to_string())?;
    Ok((profile, Some(places::enter(&program, args, &lab.head.cluster))))
}

/// The program that is called with `args`, again in a namespace that has the addresses of this lab's page, or its machines; nothing if it is
/// there already, or the lab has no use for one, or does without since this system has none.
///
/// # Errors
/// This system gives none to a lab whose nodes are machines: why, and what else there is.
pub fn enter_for(lab: &Lab, args: &[OsString]) -> Result<Option<Command>, String> {
    if !places::wants_namespace(&lab.head) || places::inside() {
        return Ok(None);
    }
    match places::refused(lab.head.cluster.machines) {
        Some(why) if lab.head.cluster.machines => return Err(why),
        Some(_) => return Ok(None),
        None => {}
    }
    let program = std::env::current_exe().map_err(|e| e.to_string())?;
    Ok(Some(places::enter(&program, args, &lab.head.cluster)))
}

/// Tries everything that must be true of a lab, or of a lesson: a lab without steps.
///
/// # Errors
/// No cluster could be started, no folder made, or the list of seeds cannot be read. What is wrong with the lab stands in
/// the report.
pub async fn prove<B: Beds>(lab: Arc<Lab>, beds: &B) -> Result<Report, String> {
    proven(lab, beds, false).await
}

/// The same, or no more than its solution.
async fn proven<B: Beds>(lab: Arc<Lab>, beds: &B, solution: bool) -> Result<Report, String> {
    let name = if lab.head.id.is_empty() { lab.title.clone() } else { format!("{} {}", lab.head.id, lab.title) };
    let name = beds.name().map_or(name.clone(), |how| format!("{name} ({how})"));
    let began = now();
    let mut notes = Notes::new();
    duties(&lab, &mut notes);
    seeds(&lab, &mut notes).map_err(|e| e.to_string())?;
    let mut cases = notes.cases;
    let id = lab.head.id.clone();
    let gate = Gate { lab, beds };
    // Each trial has a cluster of its own and waits for most of its time, so they go beside each other.
    let all = if solution { vec![What::Solution] } else { trials(&gate.lab) };
    let trials: Vec<_> = all.into_iter().map(|what| gate.tried(what).boxed_local()).collect();
    let mut told = stream::iter(trials).buffered(beds.at_once());
    while let Some(found) = told.next().await {
        cases.extend(found?);
    }
    // Part by part; within a part in the order of the page.
    cases.sort_by_key(|case| PARTS.iter().position(|part| *part == case.group));
    Ok(Report { id, lab: name, cases, took: began.elapsed() })
}

#[expect(clippy::disallowed_methods, reason = "the report says how long things took")]
fn now() -> Instant {
    Instant::now()
}

/// The parts of a report, in their order.
const PARTS: [&str; 9] = ["author", "seeds", "page", "start", "solution", "swap", "mutation", "reset", "wrong"];

/// What is tried on a cluster of its own.
#[derive(Clone, Copy)]
enum What {
    /// The whole lab, as its solutions go.
    Solution,
    /// One step: at its beginning, with wrong answers, and its end state spoilt.
    Step(usize),
    /// A wrong path that changes the cluster: the step, and its place there.
    Wrong(usize, usize),
}

/// All that is to be tried of a lab. A wrong path that is nothing but wrong answers needs no cluster of its own.
fn trials(lab: &Lab) -> Vec<What> {
    let mut all = vec![What::Solution];
    for (n, step) in lab.steps.iter().enumerate() {
        all.push(What::Step(n));
        let commands = step.wrongs.iter().enumerate().filter(|(_, wrong)| wrong.command.is_some());
        all.extend(commands.map(|(place, _)| What::Wrong(n, place)));
    }
    all
}

/// What was found, one after the other, and how long each took.
struct Notes {
    cases: Vec<Case>,
    since: Instant,
}

impl Notes {
    fn new() -> Notes {
        Notes { cases: Vec::new(), since: now() }
    }

    fn case(&mut self, group: &'static str, name: impl Into<String>, failure: Option<String>) {
        let took = self.since.elapsed();
        self.since = now();
        self.cases.push(Case { group, name: name.into(), failure, took, block: None });
    }
}

/// What needs no cluster: a step has checks, three hints and a solution; no fold hides a question.
fn duties(lab: &Lab, notes: &mut Notes) {
    for step in &lab.steps {
        let missing = match step {
            s if s.checks.is_empty() => Some("it has no check, so nobody would know when it is done"),
            s if (1..=3).any(|level| s.hint(level).is_none()) => Some("it needs three hints, data-level 1 to 3"),
            s if s.solution().is_none() => Some("it has no solution"),
            s if s.worked.is_none() => {
                Some("it does not say why it worked (`worked`), which a learner reads when all checks pass")
            }
            s if s.wrongs.is_empty() => Some("it names no wrong path; at least one is known, or it would be no lesson"),
            s if s.blocks.iter().any(hides_a_question) => Some("a question or guess is inside of <details>"),
            _ => None,
        };
        notes.case("author", format!("step `{}` is complete", step.id), missing.map(str::to_owned));
    }
}

fn seeds(lab: &Lab, notes: &mut Notes) -> Result<(), LabError> {
    let list = lab.file.parent().and_then(Path::parent).map(|labs| labs.join("seeds.toml"));
    let Some(list) = list.filter(|l| l.is_file() && !lab.steps.is_empty()) else { return Ok(()) };
    for (name, failure) in Seeds::load(&list)?.audit(lab) {
        notes.case("seeds", name, failure);
    }
    Ok(())
}

struct Gate<'a, B> {
    lab: Arc<Lab>,
    beds: &'a B,
}

/// A cluster with a session on it, and a folder that goes when they go.
struct Trial {
    session: Session,
    folder: PathBuf,
}

impl Trial {
    /// Where its nodes are and where its commands run.
    fn folders(&self) -> Vec<PathBuf> {
        self.session.nodes_folder().into_iter().chain([self.folder.as_path()]).map(Path::to_owned).collect()
    }

    /// Ends the cluster. That waits for its members, so it is not done on the thread of all the other trials.
    async fn end(self) {
        // Fails only if it panics, and then there is nothing left to end.
        let _ = tokio::task::spawn_blocking(move || drop(self)).await;
    }
}

impl Drop for Trial {
    fn drop(&mut self) {
        // What a lab's commands left there is of no use to anybody.
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

impl<B: Beds> Gate<'_, B> {
    async fn tried(&self, what: What) -> Result<Vec<Case>, String> {
        let mut notes = Notes::new();
        let (part, step, done) = match what {
            What::Solution => return self.solution(&mut notes).await.map(|()| notes.cases),
            What::Step(step) => ("mutation", step, self.step(step, &mut notes).await),
            What::Wrong(step, place) => ("wrong", step, self.wrong(step, place, &mut notes).await),
        };
        // A step whose way there is blocked is told, and does not hide the rest of the report.
        if let Err(why) = done {
            notes.case(part, format!("step `{}` can be reached", self.lab.steps[step].id), Some(why));
        }
        Ok(notes.cases)
    }

    async fn trial(&self) -> Result<Trial, String> {
        let bed: Arc<dyn Bed> = self.beds.fresh(&self.lab.head.cluster).await?.into();
        let folder = scratch("work")?;
        let session = Session::new(Arc::clone(&self.lab), bed, &folder);
        Ok(Trial { session, folder })
    }

    /// A cluster on which everything before this step has been done.
    async fn trial_at(&self, step: usize) -> Result<Trial, String> {
        let mut trial = self.trial().await?;
        for id in self.intro_runs(&self.lab) {
            trial.session.run_block(&id).await?;
        }
        for before in 0..step {
            trial.session.solve(before).await?;
        }
        trial.session.go(step);
        Ok(trial)
    }

    async fn solution(&self, notes: &mut Notes) -> Result<(), String> {
        let mut trial = self.trial().await?;
        let lab = trial.session.shared_lab();
        let scales = Scales::under(trial.folders());
        let mut results = Vec::new();
        for id in self.intro_runs(&lab) {
            let ran = trial.session.run_block(&id).await?;
            self.ran("page", &ran, &trial.session, notes);
            results.push(ran);
        }
        for check in lab.steps.iter().flat_map(|s| &s.checks) {
            let failure = done_already(trial.session.checked(check).await.verdict, "before anything was done");
            notes.case("start", format!("check `{}` says not yet", check.id), failure);
        }
        for (n, step) in lab.steps.iter().enumerate() {
            match trial.session.solve(n).await {
                Ok(ran) => {
                    ran.iter().for_each(|ran| self.ran("solution", ran, &trial.session, notes));
                    results.extend(ran);
                }
                Err(e) => notes.case("solution", format!("step `{}` can be solved", step.id), Some(e)),
            }
            for check in &step.checks {
                let checked = trial.session.checked_within(check).await;
                notes.case("solution", format!("check `{}` passes: {}", check.id, check.title), not_passed(&checked));
            }
        }
        swaps(&lab, &results, notes);
        self.weighed(&trial, scales.peak_mib(), notes);
        trial.end().await;
        Ok(())
    }

    /// The disk that the lab has taken by its end, and the memory that it took at most. Another etcd, and members that are simulated, have
    /// figures of their own.
    fn weighed(&self, trial: &Trial, peak_mib: u64, notes: &mut Notes) {
        let head = &self.lab.head;
        if self.beds.are_ours() && self.beds.name().is_none() {
            let disk_mib = budget::disk_mib(&trial.folders());
            for (what, said, took) in [("disk", head.disk, disk_mib), ("memory", head.memory, peak_mib)] {
                if said > 0 {
                    let name = format!("its {what} is enough: {said} MiB");
                    notes.case("author", name, budget::overdrawn(what, said, took));
                }
            }
        }
    }

    /// What is run before the first step: all of a lesson. Blocks that tell of our own programs are for those only.
    fn intro_runs(&self, lab: &Lab) -> Vec<String> {
        let runs = lab.intro.iter().filter_map(|b| if let Block::Run(run) = b { Some(run) } else { None });
        runs.filter(|run| self.beds.are_ours() || !run.ours).map(|run| run.id.clone()).collect()
    }

    fn ran(&self, group: &'static str, ran: &Ran, session: &Session, notes: &mut Notes) {
        let command = self.lab.runs().find(|r| r.id == ran.id).map_or("", |r| r.command.as_str());
        let first = command.lines().next().unwrap_or_default().to_owned();
        notes.case(group, format!("block `{}`: {first}", ran.id), ran.differs.clone());
        let here = session.lab().runs().find(|r| r.id == ran.id);
        let verbatim = here.is_some_and(|run| session.as_printed(run).is_empty());
        if let Some(case) = notes.cases.last_mut() {
            case.block = Some(BlockCase { id: ran.id.clone(), verbatim });
        }
    }

    /// At the beginning of a step its checks say *not yet*, also to wrong answers; and each notices when the step's end state
    /// is spoilt.
    async fn step(&self, step: usize, notes: &mut Notes) -> Result<(), String> {
        let mut trial = self.trial_at(step).await?;
        let lab = trial.session.shared_lab();
        for check in &lab.steps[step].checks {
            let failure =
                done_already(trial.session.checked(check).await.verdict, "although the step was not done again");
            notes.case("reset", format!("check `{}` says not yet again", check.id), failure);
        }
        for wrong in lab.steps[step].wrongs.iter().filter(|w| w.command.is_none()) {
            let session = &mut trial.session;
            let before: Vec<_> =
                wrong.answers.keys().map(|ask| (ask, session.answered(ask).map(str::to_owned))).collect();
            went_wrong(session, wrong, notes).await?;
            // The next one begins where this one did.
            before.into_iter().for_each(|(ask, answer)| drop(session.overwrite(ask, answer)));
        }
        trial.session.solve(step).await?;
        self.mutations(trial, step, notes).await
    }

    /// `trial` is one whose step has just been solved.
    async fn mutations(&self, mut trial: Trial, step: usize, notes: &mut Notes) -> Result<(), String> {
        for place in 0..self.lab.steps[step].checks.len() {
            let lab = trial.session.shared_lab();
            let check = &lab.steps[step].checks[place];
            // A mutation for one check may have spoilt the next; then that one gets a cluster of its own.
            if place > 0 && !trial.session.checked(check).await.verdict.passed() {
                // First the old one goes: both might want the same addresses.
                trial.end().await;
                trial = self.trial_at(step).await?;
                trial.session.solve(step).await?;
            }
            let lab = trial.session.shared_lab();
            let check = &lab.steps[step].checks[place];
            let (name, failure) = match spoilt_by(&mut trial.session, check).await? {
                Ok(mutation) => (format!("check `{}` notices: {mutation}", check.id), None),
                Err(why) => (format!("check `{}` notices when it is spoilt", check.id), Some(why)),
            };
            notes.case("mutation", name, failure);
        }
        trial.end().await;
        Ok(())
    }

    async fn wrong(&self, step: usize, place: usize, notes: &mut Notes) -> Result<(), String> {
        let mut trial = self.trial_at(step).await?;
        let lab = trial.session.shared_lab();
        went_wrong(&mut trial.session, &lab.steps[step].wrongs[place], notes).await?;
        trial.end().await;
        Ok(())
    }
}

/// Two blocks whose pages differ must not both fit the other's output.
fn swaps(lab: &Lab, results: &[Ran], notes: &mut Notes) {
    let shown: Vec<(&Run, &Ran)> =
        results.iter().filter_map(|r| Some((lab.runs().find(|run| run.id == r.id)?, r))).collect();
    let mut confused = Vec::new();
    for (n, (a, ran_a)) in shown.iter().enumerate() {
        for (b, ran_b) in &shown[n + 1..] {
            let (Some(page_a), Some(page_b)) = (&a.expect, &b.expect) else { continue };
            let fits = |page, ran: &Ran| compare(page, &ran.output.text, &mut Bound::new()).is_ok();
            if page_a.text != page_b.text && fits(page_a, ran_b) && fits(page_b, ran_a) {
                confused.push(format!("`{}` and `{}` could be swapped, and nobody would notice", a.id, b.id));
            }
        }
    }
    if shown.len() > 1 {
        let failure = (!confused.is_empty()).then(|| confused.join("\n"));
        notes.case("swap", format!("{} outputs, compared in pairs", shown.len()), failure);
    }
}

/// Why a check that should say *not yet* does not.
fn done_already(verdict: Verdict, when: &str) -> Option<String> {
    match verdict {
        Verdict::NotYet { .. } => None,
        Verdict::Pass => Some(format!("it passes {when}")),
        Verdict::Error(e) => Some(format!("error: {e}")),
    }
}

async fn went_wrong(session: &mut Session, wrong: &Wrong, notes: &mut Notes) -> Result<(), String> {
    let failure = gone_wrong(session, wrong).await?;
    notes.case("wrong", format!("`{}` is cause {} of check `{}`", wrong.id, wrong.cause, wrong.fails), failure);
    Ok(())
}

fn hides_a_question(block: &Block) -> bool {
    let Block::Fold(Fold::Hint(_, inner) | Fold::Solution(inner, _) | Fold::Other(_, inner)) = block else {
        return false;
    };
    inner.iter().any(|b| matches!(b, Block::Ask(_) | Block::Predict(_)) || hides_a_question(b))
}

fn not_passed(checked: &Checked) -> Option<String> {
    match &checked.verdict {
        Verdict::Pass => None,
        Verdict::NotYet { got, cause } => {
            let why = cause.as_ref().map_or_else(String::new, |(n, say)| format!("\ncause {n}: {say}"));
            Some(format!("not yet: {}{why}", got.join("; ")))
        }
        Verdict::Error(e) => Some(format!("error: {e}")),
    }
}

/// What etcd's programs say when etcd could not answer in time. On a machine that is busy with other things a lab's cluster elects anew, and a
/// write is lost: who reads this types it again.
const UNAVAILABLE: [&str; 4] = [
    "context deadline exceeded",
    "etcdserver: request timed out",
    "etcdserver: leader changed",
    "etcdserver: no leader",
];

/// How often a wrong path is typed at most.
const TYPED_AT_MOST: usize = 3;

/// Goes a wrong path; the answer says what the lab did not recognise.
async fn gone_wrong(session: &mut Session, wrong: &Wrong) -> Result<Option<String>, String> {
    let mut failure = None;
    for _ in 0..TYPED_AT_MOST {
        let typed = match &wrong.command {
            Some(command) => Some(session.shell(command, COMMAND_WITHIN).await?),
            None => None,
        };
        failure = misread(session, wrong).await?;
        let Some(why) = &mut failure else { return Ok(None) };
        let Some(typed) = typed else { break };
        // Many a wrong path fails, as it should. Whether this one went where it was to go, its words tell.
        *why +=
            &format!("\nwhat was typed ended with exit code {}, and printed:\n{}", typed.exit, typed.text.trim_end());
        if !UNAVAILABLE.iter().any(|words| typed.text.contains(words)) {
            break;
        }
    }
    Ok(failure)
}

/// What the check says to the learner who has just gone a wrong path, if it is not what the lab's author says.
async fn misread(session: &mut Session, wrong: &Wrong) -> Result<Option<String>, String> {
    for (ask, answer) in &wrong.answers {
        session.answer(ask, answer)?;
    }
    let lab = session.lab().clone();
    let check = lab.steps.iter().flat_map(|s| &s.checks).find(|c| c.id == wrong.fails);
    let check = check.ok_or_else(|| format!("there is no check `{}`", wrong.fails))?;
    // A cause may need a moment to show, as a check may to pass.
    Ok(match session.named_within(check, wrong.cause).await.verdict {
        Verdict::NotYet { cause: Some((n, _)), .. } if n == wrong.cause => None,
        Verdict::NotYet { cause: Some((n, say)), got } => {
            Some(format!("it names cause {n}: {say}\n{}", got.join("; ")))
        }
        Verdict::NotYet { cause: None, got } => Some(format!("it names no cause: {}", got.join("; "))),
        Verdict::Pass => Some("it passes".into()),
        Verdict::Error(e) => Some(format!("error: {e}")),
    })
}
