//! A lab on paper: the handout for the learner, and the answer key apart from it.
//!
//! Both are Markdown: pages that any tool turns into paper. The handout keeps text, commands, questions with lines to write on,
//! and hints; it has no output, no solution, no answer. The key has those, and the causes that a teacher will be asked about.

use crate::lab::guide::budget;
use crate::lab::guide::expr::Source;
use crate::lab::guide::model::Ask;
use crate::lab::guide::model::AskKind;
use crate::lab::guide::model::Block;
use crate::lab::guide::model::Fold;
use crate::lab::guide::model::Lab;
use crate::lab::guide::model::Predict;
use crate::lab::guide::model::Run;
use crate::lab::guide::model::Step;
use crate::lab::guide::model::letter;
use std::fmt::Write as _;

/// What a learner gets on paper.
#[must_use]
pub fn handout(lab: &Lab) -> String {
    let mut out = format!("# {} {}\n\n", lab.head.id, lab.title);
    if lab.head.minutes > 0 {
        let _ = writeln!(out, "About {} (an estimate). Name: ______________________\n", budget::words(&lab.head));
    }
    lab.intro.iter().for_each(|block| asked(block, &mut out));
    for (n, step) in lab.steps.iter().enumerate() {
        let _ = writeln!(out, "## {}. {}\n", n + 1, step.title);
        step.blocks.iter().for_each(|block| asked(block, &mut out));
        out += "Done when:\n\n";
        for check in &step.checks {
            let _ = writeln!(out, "- [ ] {}", check.title);
        }
        out.push('\n');
        for level in 1..=3 {
            let Some(hint) = step.hint(level) else { continue };
            let _ = writeln!(out, "Hint {level}:\n");
            hint.iter().for_each(|block| asked(block, &mut out));
        }
    }
    out
}

/// What only the teacher gets.
#[must_use]
pub fn answer_key(lab: &Lab) -> String {
    let mut out = format!("# {} {}: answer key\n\n", lab.head.id, lab.title);
    for (n, step) in lab.steps.iter().enumerate() {
        let _ = writeln!(out, "## {}. {}\n", n + 1, step.title);
        predictions(step, &mut out);
        if let Some((blocks, answers)) = step.solution() {
            out += "**Solution.**\n\n";
            blocks.iter().for_each(|block| solved(block, &mut out));
            for (id, source) in answers {
                let question = lab.ask(id).map_or(id.as_str(), |ask| ask.label.as_str());
                let from = match source {
                    Source::Literal(text) => format!("`{text}`"),
                    Source::Captured { run, row, column: 0 } => format!("block `{run}`, line `{row}`"),
                    Source::Captured { run, row, column } => format!("block `{run}`, line `{row}`, column {column}"),
                };
                let _ = writeln!(out, "- {question} {from}");
            }
            out.push('\n');
        }
        causes(step, &mut out);
        if let Some(worked) = &step.worked {
            let _ = writeln!(out, "**Why it worked.** {worked}\n");
        }
        for notes in step.blocks.iter().filter_map(|b| if let Block::Notes(text) = b { Some(text) } else { None }) {
            let _ = writeln!(out, "**For the teacher.** {notes}\n");
        }
    }
    out
}

fn predictions(step: &Step, out: &mut String) {
    for block in &step.blocks {
        if let Block::Predict(Predict { ask, answer, why, quiz, .. }) = block {
            let word = if *quiz { "Quiz" } else { "Predict" };
            let _ = writeln!(out, "**{word}.** {ask}\n\n**{answer}.** {why}\n");
        }
    }
}

fn causes(step: &Step, out: &mut String) {
    for check in step.checks.iter().filter(|c| !c.causes.is_empty()) {
        let _ = writeln!(out, "If \"{}\" is not there yet:\n", check.title);
        for cause in &check.causes {
            let _ = writeln!(out, "- {}", cause.say);
        }
        out.push('\n');
    }
}

fn asked(block: &Block, out: &mut String) {
    match block {
        Block::Heading(level, title) => {
            let _ = writeln!(out, "{} {title}\n", "#".repeat(level + 1));
        }
        Block::Text(lines) => {
            let _ = writeln!(out, "{}\n", lines.join("\n"));
        }
        Block::Code(info, body) => {
            let _ = writeln!(out, "```{info}\n{body}\n```\n");
        }
        Block::Run(run) => {
            let _ = writeln!(out, "{}```bash\n{}\n```\n", place(run), run.command);
        }
        Block::Ask(Ask { kind, label, options, .. }) => {
            let _ = writeln!(out, "**Question.** {label}\n");
            listed(options, out);
            let room = if *kind == AskKind::Text { 40 } else { 12 };
            let _ = writeln!(out, "{}\n", "_".repeat(room));
        }
        Block::Predict(Predict { ask, options, quiz, .. }) => {
            let _ = writeln!(out, "**{}.** {ask}\n", if *quiz { "Quiz" } else { "Predict" });
            listed(options, out);
            out.push_str("____________\n\n");
        }
        Block::Edit(edit) => {
            let _ = writeln!(out, "{}:\n\n```text\n{}\n```\n", edit.path, edit.text);
        }
        Block::Fold(Fold::Other(summary, inner)) => {
            let _ = writeln!(out, "{summary}\n");
            inner.iter().for_each(|block| asked(block, out));
        }
        Block::Fold(Fold::Hint(..) | Fold::Solution(..)) | Block::Notes(_) => {}
    }
}

fn solved(block: &Block, out: &mut String) {
    asked(block, out);
    if let Block::Run(Run { expect: Some(expect), .. }) = block
        && !expect.text.is_empty()
    {
        let _ = writeln!(out, "```text\n{}\n```\n", expect.text);
    }
}

fn place(run: &Run) -> String {
    if run.on.is_empty() { String::new() } else { format!("At {}:\n\n", run.on.join(", ")) }
}

fn listed(options: &[String], out: &mut String) {
    for (n, option) in options.iter().enumerate() {
        let _ = writeln!(out, "- {}) {option}", letter(n));
    }
    if !options.is_empty() {
        out.push('\n');
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::guide::shelf::SHELF;
    use crate::lab::guide::shelf::shelved;

    /// Of every lab: nothing that answers a question stands on the handout, and all of it in the key.
    #[test]
    fn the_handout_gives_nothing_away_and_the_key_everything() {
        for (name, _) in SHELF {
            let lab = shelved(name).expect("it is there").unwrap_or_else(|e| panic!("{e}"));
            let (paper, key) = (handout(&lab), answer_key(&lab));
            for step in &lab.steps {
                assert!(paper.contains(&step.title) && key.contains(&step.title), "{name}");
                for check in &step.checks {
                    assert!(paper.contains(&check.title), "{name}: {}", check.title);
                    for cause in &check.causes {
                        assert!(!paper.contains(&cause.say) && key.contains(&cause.say), "{name}: {}", cause.say);
                    }
                }
                for block in &step.blocks {
                    match block {
                        Block::Predict(p) => {
                            assert!(
                                paper.contains(&p.ask) && !paper.contains(&p.why) && key.contains(&p.why),
                                "{name}"
                            );
                        }
                        Block::Ask(ask) => assert!(paper.contains(&ask.label), "{name}"),
                        Block::Notes(text) => assert!(!paper.contains(text) && key.contains(text), "{name}"),
                        _ => {}
                    }
                }
            }
        }
    }
}
