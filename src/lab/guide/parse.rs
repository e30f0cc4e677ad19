//! The pieces of a page into the model.
//!
//! Everything that can be wrong with a lab before it runs is found here, once, with file, line and what is allowed: unknown
//! kinds and keys, ids that are taken or that nobody has, expressions that cannot be meant, expected blocks that would fit
//! anything.

use crate::lab::guide::LabError;
use crate::lab::guide::expect::vague;
use crate::lab::guide::expr::Expr;
use crate::lab::guide::expr::Fact;
use crate::lab::guide::expr::Source;
use crate::lab::guide::model::Ask;
use crate::lab::guide::model::AskKind;
use crate::lab::guide::model::Block;
use crate::lab::guide::model::Cause;
use crate::lab::guide::model::Check;
use crate::lab::guide::model::Edit;
use crate::lab::guide::model::Expect;
use crate::lab::guide::model::Fold;
use crate::lab::guide::model::Lab;
use crate::lab::guide::model::Predict;
use crate::lab::guide::model::Run;
use crate::lab::guide::model::Step;
use crate::lab::guide::model::Wrong;
use crate::lab::guide::scan::Found;
use crate::lab::guide::scan::Piece;
use crate::lab::guide::scan::scan;
use crate::lab::guide::settings;
use crate::lab::guide::settings::AskType;
use crate::lab::guide::settings::Head;
use crate::lab::guide::settings::KINDS;
use regex::Regex;
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::path::Path;
use std::time::Duration;

/// How long a command may take if its block does not say.
const TIMEOUT: Duration = Duration::from_secs(20);

/// A console block that tells of our own programs, such as their version: against another etcd it is not run.
const OURS: &str = "console,ours";

/// How long a check may take to become true if it does not say.
const WITHIN: Duration = Duration::from_secs(5);

/// Reads a lab or a lesson. `file` is only named in errors.
///
/// # Errors
/// The first thing in the text that cannot be meant.
pub fn parse(file: &Path, text: &str) -> Result<Lab, LabError> {
    let pieces = scan(file, text)?;
    let mut parser = Parser {
        file,
        pieces: pieces.into_iter().peekable(),
        title: None,
        head: None,
        intro: Vec::new(),
        steps: Vec::new(),
        folds: Vec::new(),
        ids: BTreeSet::new(),
    };
    while let Some(found) = parser.pieces.next() {
        parser.piece(found)?;
    }
    let mut lab = parser.finish()?;
    references(&lab)?;
    text.clone_into(&mut lab.source);
    Ok(lab)
}

/// A fold that is open: its attributes and summary, its first line, what is in it so far, and a solution's answers.
struct OpenFold {
    attributes: String,
    summary: String,
    line: usize,
    blocks: Vec<Block>,
    answers: Vec<(String, Source)>,
}

struct Parser<'a> {
    file: &'a Path,
    pieces: std::iter::Peekable<std::vec::IntoIter<Found>>,
    title: Option<String>,
    head: Option<Head>,
    intro: Vec<Block>,
    steps: Vec<Step>,
    folds: Vec<OpenFold>,
    ids: BTreeSet<(&'static str, String)>,
}

impl Parser<'_> {
    fn error<T>(&self, line: usize, what: impl Into<String>) -> Result<T, LabError> {
        Err(LabError::new(self.file, line, what))
    }

    /// What is being filled: the innermost fold, the last step, or the page before the first.
    fn here(&mut self) -> &mut Vec<Block> {
        match (self.folds.last_mut(), self.steps.last_mut()) {
            (Some(fold), _) => &mut fold.blocks,
            (None, Some(step)) => &mut step.blocks,
            (None, None) => &mut self.intro,
        }
    }

    fn piece(&mut self, found: Found) -> Result<(), LabError> {
        let line = found.line;
        match found.piece {
            Piece::Heading(1, title) if self.title.is_none() => self.title = Some(title),
            Piece::Heading(level, title) => self.here().push(Block::Heading(level, title)),
            Piece::Text(lines) => self.here().push(Block::Text(lines)),
            Piece::Fence(info, body) if info == "console" => self.console(line, &body, false)?,
            Piece::Fence(info, body) if info == OURS => self.console(line, &body, true)?,
            Piece::Fence(info, body) => self.here().push(Block::Code(info, body)),
            Piece::Open(attributes, summary) => {
                self.folds.push(OpenFold { attributes, summary, line, blocks: Vec::new(), answers: Vec::new() });
            }
            Piece::Close => self.close(line)?,
            Piece::Comment(kind, text) => self.comment(line, &kind, &text)?,
        }
        Ok(())
    }

    fn comment(&mut self, line: usize, kind: &str, text: &str) -> Result<(), LabError> {
        match kind {
            "lab" => self.lab(line, text),
            "step" => self.step(line, text),
            "run" => self.run(line, text),
            "edit" => self.edit(line, text),
            "ask" => self.ask(line, text),
            "predict" | "quiz" => {
                let settings = self.settings(line, text)?;
                self.predict(line, settings, kind == "quiz")
            }
            "solve" => self.solve(line, text),
            "wrong" => {
                let settings = self.settings(line, text)?;
                self.wrong(line, settings)
            }
            "notes" => {
                self.here().push(Block::Notes(text.trim().to_owned()));
                Ok(())
            }
            "page" => self.settings::<settings::PageSettings>(line, text).map(|page| drop(page.dir)),
            "expect" => self.error(line, "`expect` belongs right below the block of a `run`"),
            other => self.error(line, format!("there is no kind of block `{other}`; there are {KINDS}")),
        }
    }

    fn settings<T: DeserializeOwned>(&self, line: usize, text: &str) -> Result<T, LabError> {
        settings::read(text).map_err(|(offset, what)| {
            let below = text.as_bytes()[..offset].iter().filter(|b| **b == b'\n').count();
            LabError::new(self.file, line + below, what)
        })
    }

    fn claim(&mut self, line: usize, kind: &'static str, id: &str) -> Result<(), LabError> {
        let plain = !id.is_empty() && id.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-');
        if !plain {
            return self.error(line, format!("`{id}` is no id; use letters, digits, - and _"));
        }
        if !self.ids.insert((kind, id.to_owned())) {
            return self.error(line, format!("there is a {kind} `{id}` already in this lab"));
        }
        Ok(())
    }

    fn at<T>(&self, line: usize, result: Result<T, String>) -> Result<T, LabError> {
        result.map_err(|what| LabError::new(self.file, line, what))
    }

    fn lab(&mut self, line: usize, text: &str) -> Result<(), LabError> {
        if self.head.is_some() || !self.steps.is_empty() {
            return self.error(line, "a lab has one `lab` block, before its first step");
        }
        let head: Head = self.settings(line, text)?;
        self.cluster(line, &head)?;
        self.head = Some(head);
        Ok(())
    }

    fn cluster(&mut self, line: usize, head: &Head) -> Result<(), LabError> {
        let count = head.cluster.nodes.len();
        if !matches!(count, 1 | 3 | 5) {
            return self.error(line, format!("a cluster of {count} members cannot be asked for; nodes is 1, 3 or 5"));
        }
        for node in head.cluster.nodes.iter().chain(&head.cluster.spare) {
            self.claim(line, "node", &node.name)?;
            if let Some(ip) = node.ip.as_ref().filter(|ip| ip.parse::<Ipv4Addr>().is_err()) {
                return self.error(line, format!("node `{}`: `{ip}` is no address such as 10.0.0.1", node.name));
            }
        }
        for (what, given, known) in [
            ("network", &head.network, &["netns", "loop", "ports", "vm"][..]),
            ("engines", &head.engines, &["real", "sim", "etcd"][..]),
        ] {
            if let Some(other) = given.iter().find(|g| !known.contains(&g.as_str())) {
                return self.error(line, format!("{what} has no `{other}`; there are {}", known.join(", ")));
            }
        }
        if head.allows("sim") && (head.cluster.machines || !head.cluster.spare.is_empty()) {
            return self
                .error(line, "a simulated cluster has no machines and no spare nodes; leave `sim` out of engines");
        }
        let apart = head.cluster.nodes.iter().chain(&head.cluster.spare).all(|n| n.ip.is_some());
        let only_there = !head.network.is_empty() && head.network.iter().all(|n| n == "netns" || n == "vm");
        if head.cluster.machines && !(apart && only_there && !head.cluster.running) {
            return self.error(
                line,
                "machines of their own have addresses (`ip`), network = [\"netns\"], and running = false",
            );
        }
        Ok(())
    }

    fn step(&mut self, line: usize, text: &str) -> Result<(), LabError> {
        let settings: settings::StepSettings = self.settings(line, text)?;
        self.claim(line, "step", &settings.id)?;
        let Some(Block::Heading(2, title)) = self.here().pop() else {
            return self.error(line, "a `step` block belongs right below its `## heading`");
        };
        if !self.folds.is_empty() {
            return self.error(line, "a step cannot begin inside of <details>");
        }
        let (id, minutes, worked) = (settings.id, settings.minutes, settings.worked);
        let (blocks, checks, wrongs) = (Vec::new(), Vec::new(), Vec::new());
        self.steps.push(Step { id, title, minutes, worked, blocks, checks, wrongs, line });
        for check in settings.check {
            self.check(line, check)?;
        }
        for predict in settings.predict {
            self.predict(line, predict, false)?;
        }
        for wrong in settings.wrong {
            self.wrong(line, wrong)?;
        }
        Ok(())
    }

    fn check(&mut self, line: usize, settings: settings::CheckSettings) -> Result<(), LabError> {
        let settings::CheckSettings { id, title, want, within, cause, spoil } = settings;
        self.claim(line, "check", &id)?;
        let of = |what: String| format!("check `{id}`: {what}");
        let want = self.at(line, Expr::parse(&want).map_err(of))?;
        let within = within.map_or(Ok(WITHIN), |w| settings::duration(&w).map_err(of));
        let within = self.at(line, within)?;
        let mut causes = Vec::new();
        for settings::CauseSettings { when, say } in cause {
            causes.push(Cause { when: self.at(line, Expr::parse(&when).map_err(of))?, say });
        }
        let check = Check { id, title, want, within, causes, spoil, line };
        self.steps.last_mut().expect("a step was just pushed").checks.push(check);
        Ok(())
    }

    fn wrong(&mut self, line: usize, settings: settings::WrongSettings) -> Result<(), LabError> {
        let settings::WrongSettings { id, command, answer: answers, fails, cause } = settings;
        self.claim(line, "wrong", &id)?;
        if command.is_none() && answers.is_empty() {
            return self.error(line, format!("the wrong path `{id}` does nothing; give it `do` or `answer`"));
        }
        let Some(step) = self.steps.last_mut() else { return self.error(line, "a wrong path belongs to a step") };
        let causes = step.checks.iter().find(|c| c.id == fails).map(|c| c.causes.len());
        if causes.is_none_or(|count| cause == 0 || cause > count) {
            let what =
                format!("the wrong path `{id}` names cause {cause} of check `{fails}`, which this step does not have");
            return self.error(line, what);
        }
        step.wrongs.push(Wrong { id, command, answers, fails, cause, line });
        Ok(())
    }

    fn predict(&mut self, line: usize, settings: settings::PredictSettings, quiz: bool) -> Result<(), LabError> {
        let settings::PredictSettings { id, ask, options, answer, why } = settings;
        self.claim(line, "predict", &id)?;
        if !options.contains(&answer) {
            return self.error(line, format!("the answer `{answer}` is none of the options of `{id}`"));
        }
        self.here().push(Block::Predict(Predict { id, ask, options, answer, why, quiz }));
        Ok(())
    }

    fn ask(&mut self, line: usize, text: &str) -> Result<(), LabError> {
        let settings::AskSettings { id, kind, label, options } = self.settings(line, text)?;
        self.claim(line, "ask", &id)?;
        let kind = match kind {
            AskType::Text => AskKind::Text,
            AskType::Choice => AskKind::Choice,
            AskType::Order => AskKind::Order,
        };
        if (kind == AskKind::Text) != options.is_empty() || options.len() > 26 {
            return self
                .error(line, format!("question `{id}`: a choice or an order has 1 to 26 options, a text has none"));
        }
        self.here().push(Block::Ask(Ask { id, kind, label, options }));
        Ok(())
    }

    fn solve(&mut self, line: usize, text: &str) -> Result<(), LabError> {
        let settings: settings::SolveSettings = self.settings(line, text)?;
        let mut answers = Vec::new();
        for (id, from) in settings.answer {
            let source = self.at(line, Source::parse(&from).map_err(|e| format!("answer `{id}`: {e}")))?;
            answers.push((id, source));
        }
        match self.folds.last_mut().filter(|f| f.attributes.contains("solution")) {
            Some(fold) => fold.answers.extend(answers),
            None => return self.error(line, "`solve` belongs inside of <details class=\"solution\">"),
        }
        Ok(())
    }

    fn edit(&mut self, line: usize, text: &str) -> Result<(), LabError> {
        let settings::EditSettings { path, mode, owner } = self.settings(line, text)?;
        let (_, text) = self.fence(line, "edit")?;
        self.here().push(Block::Edit(Edit { path, mode, owner, text }));
        Ok(())
    }

    fn fence(&mut self, line: usize, kind: &str) -> Result<(usize, String), LabError> {
        match self.pieces.next_if(|f| matches!(f.piece, Piece::Fence(..))) {
            Some(Found { line, piece: Piece::Fence(_, body) }) => Ok((line, body)),
            _ => self.error(line, format!("`{kind}` is about the fenced block right below it, and there is none")),
        }
    }

    fn run(&mut self, line: usize, text: &str) -> Result<(), LabError> {
        let settings::RunSettings { id, on, expect_exit: exit, timeout, background, seed, repairs } =
            self.settings(line, text)?;
        self.claim(line, "run", &id)?;
        if let Some(nobody) = self.unknown_node(&on) {
            return self.error(line, nobody);
        }
        if let Some(unit) = background.as_ref().filter(|b| !b.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')) {
            return self.error(line, format!("background = \"{unit}\" is no unit's name; use letters, digits and -"));
        }
        let timeout = timeout.map_or(Ok(TIMEOUT), |t| settings::duration(&t));
        let timeout = self.at(line, timeout)?;
        let ours = false;
        let (line, command) = self.fence(line, "run")?;
        let expect = match self.pieces.next_if(|f| matches!(&f.piece, Piece::Comment(k, _) if k == "expect")) {
            Some(Found { line, piece: Piece::Comment(_, text) }) => Some(self.expect(line, &text)?),
            _ => None,
        };
        self.here().push(Block::Run(Run {
            id,
            command,
            on,
            exit,
            timeout,
            background,
            seed,
            repairs,
            ours,
            expect,
            line,
        }));
        Ok(())
    }

    /// Why `on` names nobody, if it does.
    fn unknown_node(&self, on: &[String]) -> Option<String> {
        let cluster = self.head.as_ref().map(|h| h.cluster.clone()).unwrap_or_default();
        let names: Vec<&str> = cluster.nodes.iter().chain(&cluster.spare).map(|n| n.name.as_str()).collect();
        let nobody = on.iter().find(|n| !names.contains(&n.as_str()))?;
        Some(format!("there is no node `{nobody}` in this lab; there are {}", names.join(", ")))
    }

    fn expect(&mut self, line: usize, text: &str) -> Result<Expect, LabError> {
        let settings::ExpectSettings { vars, exact } = self.settings(line, text)?;
        for (name, shape) in &vars {
            self.at(line, Regex::new(shape).map(drop).map_err(|e| format!("[{name}]: {e}")))?;
        }
        let (line, text) = self.fence(line, "expect")?;
        let expect = Expect { text, vars, exact, line };
        self.at(line, vague(&expect).map_or(Ok(()), Err))?;
        Ok(expect)
    }

    /// `$ ` begins a command, `> ` continues it, and the rest is what it prints.
    fn console(&mut self, first: usize, body: &str, ours: bool) -> Result<(), LabError> {
        let mut runs: Vec<(usize, Vec<&str>, Vec<&str>)> = Vec::new();
        for (n, text) in body.lines().enumerate() {
            match (text.strip_prefix("$ "), text.strip_prefix("> ").or((text == ">").then_some("")), runs.last_mut()) {
                (Some(command), _, _) => runs.push((first + n, vec![command], Vec::new())),
                (None, Some(more), Some((_, command, output))) if output.is_empty() => command.push(more),
                (None, _, Some((_, _, output))) => output.push(text),
                (None, _, None) => return self.error(first + n, "a console block begins with `$ ` and a command"),
            }
        }
        for (line, command, output) in runs {
            let expect =
                Expect { text: output.join("\n"), vars: BTreeMap::new(), exact: false, line: line + command.len() };
            self.at(line, vague(&expect).map_or(Ok(()), Err))?;
            let (id, command) = (format!("line-{line}"), command.join("\n"));
            let (on, exit, seed, repairs) = (Vec::new(), 0, None, None);
            self.here().push(Block::Run(Run {
                id,
                command,
                on,
                exit,
                timeout: TIMEOUT,
                background: None,
                seed,
                repairs,
                ours,
                expect: Some(expect),
                line,
            }));
        }
        Ok(())
    }

    fn close(&mut self, line: usize) -> Result<(), LabError> {
        let Some(OpenFold { attributes, summary, blocks, answers, .. }) = self.folds.pop() else {
            return self.error(line, "</details> without <details>");
        };
        let fold = match attribute(&attributes, "class") {
            Some("hint") => match attribute(&attributes, "data-level").and_then(|l| l.parse().ok()) {
                Some(level @ 1..=3) => Fold::Hint(level, blocks),
                _ => return self.error(line, "a hint has data-level=\"1\", \"2\" or \"3\""),
            },
            Some("solution") => Fold::Solution(blocks, answers),
            _ => Fold::Other(summary, blocks),
        };
        self.here().push(Block::Fold(fold));
        Ok(())
    }

    fn finish(self) -> Result<Lab, LabError> {
        if let Some(fold) = self.folds.last() {
            return self.error(fold.line, "this <details> has no end; close it with </details>");
        }
        let Some(title) = self.title.clone() else { return self.error(1, "a lab begins with `# Title`") };
        if self.head.is_none() && !self.steps.is_empty() {
            return self.error(1, "a lab with steps has a `<!--lab lab id = \"…\" -->` block below its title");
        }
        let name = self.file.file_stem().map_or_else(String::new, |s| s.to_string_lossy().into_owned());
        let head = self.head.map_or_else(|| settings::read(&format!("id = \"{name}\"")), Ok);
        let head = head.map_err(|(_, what)| LabError::new(self.file, 1, what))?;
        let (file, source) = (self.file.to_owned(), String::new());
        Ok(Lab { file, title, head, intro: self.intro, steps: self.steps, source })
    }
}

fn attribute<'a>(attributes: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = attributes.split_once(&format!("{name}=\""))?;
    rest.split_once('"').map(|(value, _)| value)
}

/// Every name that the lab uses is one that it has.
fn references(lab: &Lab) -> Result<(), LabError> {
    let runs: BTreeSet<&str> = lab.runs().map(|r| r.id.as_str()).collect();
    for step in &lab.steps {
        for check in &step.checks {
            let facts = check.causes.iter().flat_map(|c| c.when.facts()).chain(check.want.facts());
            for fact in facts {
                // The learner's desk keeps services, too: what runs in the background.
                let node = |name: &&String| {
                    name.as_str() == "desk" || {
                        lab.head.cluster.nodes.iter().chain(&lab.head.cluster.spare).any(|n| n.name == **name)
                    }
                };
                let missing = match fact {
                    Fact::Member(name, _) | Fact::UnitActive(name, _) | Fact::Log(name, _) if !node(&name) => {
                        format!("node `{name}`")
                    }
                    Fact::Answer(id) | Fact::AnswerNumber(id) if lab.ask(id).is_none() => format!("question `{id}`"),
                    Fact::Output(id) | Fact::OutputLines(id) | Fact::OutputExit(id) if !runs.contains(id.as_str()) => {
                        format!("run block `{id}`")
                    }
                    _ => continue,
                };
                return Err(LabError::new(
                    &lab.file,
                    check.line,
                    format!("check `{}` names the {missing}, which is not there", check.id),
                ));
            }
        }
        let answers = step.solution().map_or(&[][..], |(_, answers)| answers);
        for (id, source) in answers {
            let missing = match source {
                _ if lab.ask(id).is_none() => format!("question `{id}`"),
                Source::Captured { run, .. } if !runs.contains(run.as_str()) => format!("run block `{run}`"),
                _ => continue,
            };
            return Err(LabError::new(
                &lab.file,
                step.line,
                format!("the solution names the {missing}, which is not there"),
            ));
        }
        for wrong in &step.wrongs {
            if let Some(id) = wrong.answers.keys().find(|id| lab.ask(id).is_none()) {
                let what = format!("the wrong path `{}` answers the question `{id}`, which is not there", wrong.id);
                return Err(LabError::new(&lab.file, wrong.line, what));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r##"# T
<!--lab lab id = "T"; minutes = 5 -->

Intro.

## First
<!--lab step
id = "s"
[[check]]
id = "c"; title = "a is 1"; want = "key('a').value == answer('q')"
cause = [ { when = "output('r').exit > 0", say = "no" } ]
[[wrong]]
id = "w"; do = "true"; fails = "c"; cause = 1
-->
<!--lab run id = "r"; timeout = "5s" -->
```bash
etcdctl get a
```
<!--lab expect -->
```text
OK
```
<!--lab ask id = "q"; type = "order"; label = "?"; options = ["x", "y", "z"] -->
<details class="hint" data-level="1"><summary>Hint 1</summary>Look.</details>
<details class="solution"><summary>Solution</summary>
<!--lab solve answer = { q = "captured('r', row = 1)" } -->
</details>
"##;

    fn read(text: &str) -> Result<Lab, LabError> {
        parse(Path::new("lab.md"), text)
    }

    #[test]
    fn a_lab_is_read_into_its_parts() {
        let lab = read(GOOD).unwrap_or_else(|e| panic!("{e}"));
        let step = &lab.steps[0];
        assert_eq!((lab.title.as_str(), lab.head.id.as_str(), lab.head.cluster.nodes.len()), ("T", "T", 3));
        assert_eq!((step.id.as_str(), step.title.as_str(), step.checks.len(), step.wrongs.len()), ("s", "First", 1, 1));
        assert_eq!(step.shown_runs()[0].command, "etcdctl get a");
        assert_eq!(step.shown_runs()[0].timeout, Duration::from_secs(5));
        assert!(step.hint(1).is_some() && step.hint(2).is_none());
        let ask = lab.ask("q").expect("it is there");
        assert_eq!(ask.accept(" C, a  B"), Ok("c a b".into()));
        assert!(ask.accept("a b").is_err() && ask.accept("a b b").is_err());
    }

    /// Twenty-seven mistakes of authors. Each row changes the good lab in one place, and says which line is named and how.
    #[test]
    fn what_is_wrong_is_named_with_its_line_and_what_is_allowed() {
        let rows = [
            ("<!--lab run", "<!--lab ran", 15, "there are lab, step, run, expect"),
            ("timeout =", "tiemout =", 15, "unknown field `tiemout`, expected one of `id`, `on`"),
            ("\"5s\"", "\"5h\"", 15, "write 250ms, 30s or 2m"),
            ("title = \"a is 1\"; ", "", 9, "missing field `title`"),
            ("key('a').value", "kee('a').value", 7, "there is no fact `kee.value`"),
            ("answer('q')", "answer('p')", 7, "the question `p`, which is not there"),
            ("output('r').exit", "output('x').exit", 7, "the run block `x`, which is not there"),
            ("cause = 1", "cause = 2", 7, "names cause 2 of check `c`, which this step does not have"),
            ("id = \"w\"", "id = \"a b\"", 7, "`a b` is no id"),
            ("OK\n", "...\n", 21, "at least one line without"),
            ("data-level=\"1\"", "data-level=\"4\"", 24, "a hint has data-level"),
            ("captured('r'", "captured('x'", 7, "the run block `x`, which is not there"),
            ("captured('r', row = 1)", "key('a').value", 26, "an answer comes from captured"),
            ("options = [\"x\", \"y\", \"z\"]", "options = []", 23, "has 1 to 26 options"),
            ("</details>\n<details class=\"sol", "\n<details class=\"sol", 24, "no end"),
            ("\n## First\n", "\n", 6, "right below its `## heading`"),
            ("minutes = 5", "minutes = 5; cluster = { nodes = 4 }", 2, "nodes is 1, 3 or 5"),
            ("minutes = 5", "cluster = { nodes = 'three' }", 2, "or a list such as [ { name ="),
            (
                "minutes = 5",
                "cluster = { nodes = [ { name = 'a', ip = '10.0.0' } ] }",
                2,
                "`10.0.0` is no address such as",
            ),
            (
                "minutes = 5",
                "cluster = { machines = true, running = false }",
                2,
                "machines of their own have addresses",
            ),
            (
                "minutes = 5",
                "engines = ['real', 'sim']; cluster = { spare = [ { name = 'n4' } ] }",
                2,
                "a simulated cluster has no machines and no spare nodes; leave `sim` out",
            ),
            ("minutes = 5", "network = ['wifi']", 2, "network has no `wifi`; there are netns, loop, ports, vm"),
            ("timeout = \"5s\"", "on = [\"n9\"]", 15, "there is no node `n9` in this lab; there are n1, n2, n3"),
            ("timeout = \"5s\"", "background = \"a b\"", 15, "is no unit's name"),
            ("key('a').value == answer('q')", "member('n9').up", 7, "names the node `n9`, which is not there"),
            ("key('a').value == answer('q')", "member('n1').tall", 7, "there is no fact `member.tall`"),
            (
                "<!--lab ask",
                "<!--lab quiz id = \"q1\"; ask = \"?\"; options = [\"a\"]; answer = \"b\"; why = \".\" -->\n<!--lab ask",
                23,
                "none of the options of `q1`",
            ),
            (
                "<!--lab ask",
                "<!--lab run id = \"r\" -->\n```bash\nx\n```\n<!--lab ask",
                23,
                "there is a run `r` already",
            ),
        ];
        for (from, to, line, what) in rows {
            let changed = GOOD.replacen(from, to, 1);
            assert_ne!(changed, GOOD, "{from} is in the good lab");
            let error = read(&changed).expect_err(to);
            assert!(error.what.contains(what), "{to}: {error}");
            assert_eq!(error.line, line, "{to}: {error}");
        }
    }

    #[test]
    fn a_console_block_is_commands_and_what_they_print() {
        let text = "# L\n```console\n$ cat <<END\n> a\n>\n> END\na\n\n$ true\n$ echo b\nb\n```\n```console,ignore\n$ reboot\n```\n```console,ours\n$ etcd --version\n```\n";
        let lab = read(text).unwrap_or_else(|e| panic!("{e}"));
        let runs: Vec<(&str, &str)> =
            lab.runs().map(|r| (r.command.as_str(), r.expect.as_ref().map_or("?", |e| e.text.as_str()))).collect();
        assert_eq!(runs, [("cat <<END\na\n\nEND", "a\n"), ("true", ""), ("echo b", "b"), ("etcd --version", "")]);
        assert_eq!(lab.runs().map(|r| (r.line, r.ours)).skip(2).collect::<Vec<_>>(), [(10, false), (17, true)]);
    }
}
