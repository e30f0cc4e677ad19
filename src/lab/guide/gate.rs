//! The author's gate: is this lab true?
//!
//! A check that passes before anything was done teaches nothing, and one that cannot fail proves nothing. So the gate wants,
//! on a cluster that nobody has written to: every check says *not yet*; the solution makes them pass, with the output that
//! the page shows; each check notices when its end state is spoilt; each wrong path is recognised by name; and no block's
//! output would pass for another's. Each wrong path gets a cluster of its own.
//!
//! Source: rustlings' `dev check` (fails before, passes after), widened.

use crate::lab::guide::LabError;
use crate::lab::guide::bed::Bed;
use crate::lab::guide::bed::Beds;
use crate::lab::guide::bed::ProcessBeds;
use crate::lab::guide::bed::scratch;
use crate::lab::guide::check::Verdict;
use crate::lab::guide::expect::Bound;
use crate::lab::guide::expect::compare;
use crate::lab::guide::expr::Fact;
use crate::lab::guide::facts::key_of;
use crate::lab::guide::facts::prefix_of;
use crate::lab::guide::load;
use crate::lab::guide::model::Block;
use crate::lab::guide::model::Check;
use crate::lab::guide::model::Fold;
use crate::lab::guide::model::Lab;
use crate::lab::guide::model::Run;
use crate::lab::guide::model::Wrong;
use crate::lab::guide::places;
use crate::lab::guide::places::Profile;
use crate::lab::guide::report::Case;
use crate::lab::guide::report::Report;
use crate::lab::guide::seeds::Seeds;
use crate::lab::guide::session::Checked;
use crate::lab::guide::session::Ran;
use crate::lab::guide::session::Session;
use std::io::Write;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

/// How long one spoiling or wrong command may take.
const COMMAND_WITHIN: Duration = Duration::from_secs(20);

/// What `etcd-lab test` can be told.
#[derive(Clone, Debug, Default)]
pub struct TestOptions {
    /// Run against the `etcd` and `etcdctl` in this folder, not our own: is the lesson true of real etcd?
    pub etcd_dir: Option<PathBuf>,
    /// Where the nodes are; none: as close to the documents as the lab and this machine allow.
    pub profile: Option<Profile>,
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
    let profile = options.profile.unwrap_or(Profile::Ports);
    let tools = std::env::current_exe().map_err(|e| format!("this program's path is not known: {e}"))?;
    let beds = match &options.etcd_dir {
        Some(dir) => ProcessBeds::new(dir, &tools)?,
        None => ProcessBeds::ours()?,
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|e| format!("no runtime: {e}"))?;
    runtime.block_on(prove(Arc::new(lab), &beds.at(profile)))
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
    let allows = |p: &Profile| lab.head.network.is_empty() || lab.head.network.iter().any(|n| n == p.word());
    let profile = match wanted {
        Some(profile) if !allows(&profile) => {
            return Err(format!("{} runs with the profiles {}", lab.head.id, lab.head.network.join(", ")));
        }
        Some(Profile::Netns) => match places::refused().filter(|_| !places::inside()) {
            Some(why) => return Err(why),
            None => Profile::Netns,
        },
        Some(profile) => profile,
        None => Profile::Ports,
    };
    if profile != Profile::Netns || places::inside() {
        return Ok((profile, None));
    }
    let program = std::env::current_exe().map_err(|e| e.to_string())?;
    Ok((profile, Some(places::enter(&program, args, &lab.head.cluster))))
}

/// Tries everything that must be true of a lab, or of a lesson: a lab without steps.
///
/// # Errors
/// No cluster could be started, no folder made, or the list of seeds cannot be read. What is wrong with the lab stands in
/// the report.
pub async fn prove<B: Beds>(lab: Arc<Lab>, beds: &B) -> Result<Report, String> {
    let name = if lab.head.id.is_empty() { lab.title.clone() } else { format!("{} {}", lab.head.id, lab.title) };
    let mut gate = Gate { lab, beds, report: Report { lab: name, cases: Vec::new() }, since: now() };
    gate.duties();
    gate.seeds().map_err(|e| e.to_string())?;
    gate.start_and_solution().await?;
    for step in 0..gate.lab.steps.len() {
        // A step whose way there is blocked is told, and does not hide the rest of the report.
        if let Err(why) = gate.mutations(step).await {
            gate.case("mutation", format!("step `{}` can be reached", gate.lab.steps[step].id), Some(why));
        }
    }
    for step in 0..gate.lab.steps.len() {
        if let Err(why) = gate.wrongs(step).await {
            gate.case("wrong", format!("step `{}` can be reached", gate.lab.steps[step].id), Some(why));
        }
    }
    Ok(gate.report)
}

#[expect(clippy::disallowed_methods, reason = "the report says how long things took")]
fn now() -> Instant {
    Instant::now()
}

struct Gate<'a, B> {
    lab: Arc<Lab>,
    beds: &'a B,
    report: Report,
    since: Instant,
}

/// A cluster with a session on it, and a folder that goes when they go.
struct Trial {
    session: Session,
    folder: PathBuf,
}

impl Drop for Trial {
    fn drop(&mut self) {
        // What a lab's commands left there is of no use to anybody.
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

impl<B: Beds> Gate<'_, B> {
    fn case(&mut self, group: &'static str, name: impl Into<String>, failure: Option<String>) {
        let took = self.since.elapsed();
        self.since = now();
        self.report.cases.push(Case { group, name: name.into(), failure, took });
    }

    /// What needs no cluster: a step has checks, three hints and a solution; no fold hides a question.
    fn duties(&mut self) {
        let lab = Arc::clone(&self.lab);
        for step in &lab.steps {
            let missing = match step {
                s if s.checks.is_empty() => Some("it has no check, so nobody would know when it is done"),
                s if (1..=3).any(|level| s.hint(level).is_none()) => Some("it needs three hints, data-level 1 to 3"),
                s if s.solution().is_none() => Some("it has no solution"),
                s if s.wrongs.is_empty() => {
                    Some("it names no wrong path; at least one is known, or it would be no lesson")
                }
                s if s.blocks.iter().any(hides_a_question) => Some("a question or guess is inside of <details>"),
                _ => None,
            };
            self.case("author", format!("step `{}` is complete", step.id), missing.map(str::to_owned));
        }
    }

    fn seeds(&mut self) -> Result<(), LabError> {
        let lab = Arc::clone(&self.lab);
        let list = lab.file.parent().and_then(Path::parent).map(|labs| labs.join("seeds.toml"));
        let Some(list) = list.filter(|l| l.is_file() && !lab.steps.is_empty()) else { return Ok(()) };
        for (name, failure) in Seeds::load(&list)?.audit(&lab) {
            self.case("seeds", name, failure);
        }
        Ok(())
    }

    async fn trial(&mut self) -> Result<Trial, String> {
        let bed: Arc<dyn Bed> = self.beds.fresh(&self.lab.head.cluster).await?.into();
        let folder = scratch("work")?;
        let session = Session::new(Arc::clone(&self.lab), bed, &folder);
        Ok(Trial { session, folder })
    }

    /// A cluster on which everything before this step has been done.
    async fn trial_at(&mut self, step: usize) -> Result<Trial, String> {
        let mut trial = self.trial().await?;
        for id in intro_runs(&self.lab) {
            trial.session.run_block(&id).await?;
        }
        for before in 0..step {
            trial.session.solve(before).await?;
        }
        trial.session.go(step);
        Ok(trial)
    }

    async fn start_and_solution(&mut self) -> Result<(), String> {
        let mut trial = self.trial().await?;
        let lab = trial.session.shared_lab();
        let mut results = Vec::new();
        for id in intro_runs(&lab) {
            let ran = trial.session.run_block(&id).await?;
            self.ran("page", &ran);
            results.push(ran);
        }
        for check in lab.steps.iter().flat_map(|s| &s.checks) {
            let checked = trial.session.checked(check).await;
            let failure = match checked.verdict {
                Verdict::NotYet { .. } => None,
                Verdict::Pass => Some("it passes before anything was done".to_owned()),
                Verdict::Error(e) => Some(format!("error: {e}")),
            };
            self.case("start", format!("check `{}` says not yet", check.id), failure);
        }
        for (n, step) in lab.steps.iter().enumerate() {
            match trial.session.solve(n).await {
                Ok(ran) => {
                    ran.iter().for_each(|ran| self.ran("solution", ran));
                    results.extend(ran);
                }
                Err(e) => self.case("solution", format!("step `{}` can be solved", step.id), Some(e)),
            }
            for check in &step.checks {
                let checked = trial.session.checked_within(check).await;
                self.case("solution", format!("check `{}` passes: {}", check.id, check.title), not_passed(&checked));
            }
        }
        let lab = trial.session.shared_lab();
        self.swaps(&lab, &results);
        Ok(())
    }

    fn ran(&mut self, group: &'static str, ran: &Ran) {
        let command = self.lab.runs().find(|r| r.id == ran.id).map_or("", |r| r.command.as_str());
        let first = command.lines().next().unwrap_or_default().to_owned();
        self.case(group, format!("block `{}`: {first}", ran.id), ran.differs.clone());
    }

    /// Two blocks whose pages differ must not both fit the other's output.
    fn swaps(&mut self, lab: &Lab, results: &[Ran]) {
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
            self.case("swap", format!("{} outputs, compared in pairs", shown.len()), failure);
        }
    }

    async fn mutations(&mut self, step: usize) -> Result<(), String> {
        let mut trial: Option<Trial> = None;
        for place in 0..self.lab.steps[step].checks.len() {
            // A mutation for one check may have spoilt the next; then that one gets a cluster of its own.
            let spoilt = match &trial {
                Some(t) => !t.session.checked(&t.session.lab().steps[step].checks[place]).await.verdict.passed(),
                None => true,
            };
            if spoilt {
                // First the old one goes: both would want the same addresses.
                drop(trial.take());
                let mut fresh = self.trial_at(step).await?;
                fresh.session.solve(step).await?;
                let lab = fresh.session.shared_lab();
                fresh.session.checked_within(&lab.steps[step].checks[place]).await;
                trial = Some(fresh);
            }
            let Some(trial) = &mut trial else { continue };
            let lab = trial.session.shared_lab();
            let check = &lab.steps[step].checks[place];
            let (name, failure) = match spoilt_by(&mut trial.session, check).await? {
                Ok(mutation) => (format!("check `{}` notices: {mutation}", check.id), None),
                Err(why) => (format!("check `{}` notices when it is spoilt", check.id), Some(why)),
            };
            self.case("mutation", name, failure);
        }
        Ok(())
    }

    /// Back at the beginning of a step, its checks say *not yet* again.
    async fn reset(&mut self, session: &Session, step: usize) {
        let lab = session.shared_lab();
        for check in &lab.steps[step].checks {
            let failure = match session.checked(check).await.verdict {
                Verdict::NotYet { .. } => None,
                Verdict::Pass => Some("it passes although the step was not done again".to_owned()),
                Verdict::Error(e) => Some(format!("error: {e}")),
            };
            self.case("reset", format!("check `{}` says not yet again", check.id), failure);
        }
    }

    async fn wrongs(&mut self, step: usize) -> Result<(), String> {
        for place in 0..self.lab.steps[step].wrongs.len() {
            let mut trial = self.trial_at(step).await?;
            let lab = trial.session.shared_lab();
            let wrong = &lab.steps[step].wrongs[place];
            if place == 0 {
                self.reset(&trial.session, step).await;
            }
            let failure = gone_wrong(&mut trial.session, wrong).await?;
            self.case("wrong", format!("`{}` is cause {} of check `{}`", wrong.id, wrong.cause, wrong.fails), failure);
        }
        Ok(())
    }
}

fn intro_runs(lab: &Lab) -> Vec<String> {
    lab.intro.iter().filter_map(|b| if let Block::Run(run) = b { Some(run.id.clone()) } else { None }).collect()
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

/// Goes a wrong path; the answer says what the lab did not recognise.
async fn gone_wrong(session: &mut Session, wrong: &Wrong) -> Result<Option<String>, String> {
    if let Some(command) = &wrong.command {
        session.shell(command, COMMAND_WITHIN).await?;
    }
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

/// The first mutation that the check notices, or why there is none.
async fn spoilt_by(session: &mut Session, check: &Check) -> Result<Result<String, String>, String> {
    if !session.checked_within(check).await.verdict.passed() {
        return Ok(Err("it does not pass, so there is nothing to spoil".into()));
    }
    for mutation in mutations(check) {
        if mutation.is_noticed(session, check).await? {
            return Ok(Ok(mutation.name()));
        }
    }
    Ok(Err("no mutation of the end state made it say not yet; give it `spoil`".into()))
}

/// A change of the end state that a check must notice.
enum Mutation {
    Command(String),
    Answer(String),
    Forget(String),
}

/// What the author says, or what the check's own facts suggest.
fn mutations(check: &Check) -> Vec<Mutation> {
    if let Some(command) = &check.spoil {
        return vec![Mutation::Command(command.clone())];
    }
    let mut found = Vec::new();
    for fact in check.want.facts() {
        match fact {
            Fact::Answer(id) | Fact::AnswerNumber(id) => found.push(Mutation::Answer(id.clone())),
            Fact::Output(id) | Fact::OutputLines(id) | Fact::OutputExit(id) => found.push(Mutation::Forget(id.clone())),
            Fact::Revision => found.push(Mutation::Command("etcdctl put spoilt by-the-gate".into())),
            Fact::MemberCount => {
                found.push(Mutation::Command("etcdctl member add spoilt --peer-urls=http://127.0.0.1:1".into()))
            }
            Fact::File(path, _) if !path.contains(':') => {
                found.push(Mutation::Command(format!("mv {} {}", quoted(path), quoted(&format!("{path}.spoilt")))));
            }
            Fact::File(path, _) => {
                let (node, path) = path.split_once(':').unwrap_or_default();
                found.push(Mutation::Command(format!("on {node} 'mv {path} {path}.spoilt'")));
            }
            Fact::UnitActive(node, unit) => {
                found.push(Mutation::Command(format!("on {node} 'systemctl stop {unit}'")));
            }
            Fact::Member(node, _) | Fact::Log(node, _) => {
                found.push(Mutation::Command(format!("on {node} 'systemctl stop etcd'")));
            }
            _ => {}
        }
        if let Some(key) = key_of(fact) {
            found.push(Mutation::Command(format!("etcdctl put {} spoilt", quoted(key))));
            found.push(Mutation::Command(format!("etcdctl del {}", quoted(key))));
        }
        if let Some(prefix) = prefix_of(fact) {
            found.push(Mutation::Command(format!("etcdctl put {} spoilt", quoted(&format!("{prefix}spoilt")))));
        }
    }
    found
}

fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

impl Mutation {
    fn name(&self) -> String {
        match self {
            Mutation::Command(command) => command.clone(),
            Mutation::Answer(id) => format!("another answer to `{id}`"),
            Mutation::Forget(id) => format!("block `{id}` not run"),
        }
    }

    /// Applies it and looks. Answers and outputs are put back; a cluster is not.
    async fn is_noticed(&self, session: &mut Session, check: &Check) -> Result<bool, String> {
        let noticed = |checked: Checked| matches!(checked.verdict, Verdict::NotYet { .. });
        Ok(match self {
            Mutation::Command(command) => {
                let done = session.shell(command, COMMAND_WITHIN).await?;
                done.exit == 0 && noticed(session.lost_within(check).await)
            }
            Mutation::Answer(id) => {
                let before = session.overwrite(id, Some("spoilt".into()));
                let seen = noticed(session.checked(check).await);
                session.overwrite(id, before);
                seen
            }
            Mutation::Forget(id) => {
                let before = session.forget(id);
                let seen = noticed(session.checked(check).await);
                if let Some(output) = before {
                    session.remember(id, output);
                }
                seen
            }
        })
    }
}
