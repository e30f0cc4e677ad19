//! The text of a step at a given width: lines with their kind, for a terminal to colour.
//!
//! Paragraphs are filled, lists and quotes keep their indent, tables and code stay as they are: a learner copies from them.
//! Emphasis marks go, backticks stay, for in a terminal they are the only sign of what is typed.

use crate::lab::guide::expr::Source;
use crate::lab::guide::model::Answer;
use crate::lab::guide::model::Ask;
use crate::lab::guide::model::AskKind;
use crate::lab::guide::model::Block;
use crate::lab::guide::model::Fold;
use crate::lab::guide::model::Predict;
use crate::lab::guide::model::Run;
use crate::lab::guide::model::letter;
use crate::lab::guide::session::Session;
use crate::lab::guide::shell::Output;
use unicode_width::UnicodeWidthStr;

/// What a line is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LineKind {
    /// A heading.
    Heading,
    /// Running text, a list or a table.
    Text,
    /// Something to type, or a file's content.
    Code,
    /// A command that can be run.
    Command,
    /// What a command printed, or will print.
    Output,
    /// It printed what the page says.
    Same,
    /// It did not.
    Differs,
    /// Something that asks for an answer or a guess.
    Question,
}

/// One line of a page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// What it is.
    pub kind: LineKind,
    /// The place in [`Session::items`] of what it belongs to.
    pub item: Option<usize>,
    /// Its text, at most as wide as was asked for, except code and tables.
    pub text: String,
}

struct Page<'a> {
    session: &'a Session,
    width: usize,
    lines: Vec<Line>,
    items: usize,
    item: Option<usize>,
}

impl Session {
    /// The current step's text; before the first step, and in a lesson, the introduction stands above it. Outputs that have
    /// come out replace those that the page promises. Folded parts are not in it until they are opened.
    #[must_use]
    pub fn page(&self, width: usize) -> Vec<Line> {
        let mut page = Page::new(self, width);
        if self.at() == 0 {
            if let Some(why) = self.moved_because() {
                page.filled(LineKind::Question, "~ ", why);
                page.gap();
            }
            page.blocks(&self.lab().intro);
        }
        if let Some(step) = self.step() {
            page.add(LineKind::Heading, step.title.clone());
            page.gap();
            page.blocks(&step.blocks);
        }
        while page.lines.last().is_some_and(|l| l.text.is_empty()) {
            page.lines.pop();
        }
        page.lines
    }

    /// The text of a hint of the current step, level 1 to 3, or with level 4 the solution.
    #[must_use]
    pub fn hint(&self, level: usize, width: usize) -> Option<Vec<Line>> {
        let step = self.step()?;
        let blocks = if level > 3 { step.solution()?.0 } else { step.hint(level)? };
        let mut page = Page::new(self, width);
        page.blocks(blocks);
        page.lines.pop();
        Some(page.lines)
    }
}

impl Page<'_> {
    fn new(session: &Session, width: usize) -> Page<'_> {
        Page { session, width: width.max(20), lines: Vec::new(), items: 0, item: None }
    }

    fn add(&mut self, kind: LineKind, text: String) {
        self.lines.push(Line { kind, item: self.item, text });
    }

    /// Draws the next of [`Session::items`].
    fn item(&mut self, draw: impl FnOnce(&mut Self)) {
        self.item = Some(self.items);
        self.items += 1;
        draw(self);
        self.item = None;
    }

    fn gap(&mut self) {
        self.add(LineKind::Text, String::new());
    }

    fn blocks(&mut self, blocks: &[Block]) {
        for block in blocks {
            match block {
                Block::Heading(_, title) => self.add(LineKind::Heading, plain(title)),
                Block::Text(lines) => self.text(lines),
                Block::Code(_, body) => self.verbatim(LineKind::Code, body),
                Block::Run(run) => self.item(|page| page.run(run)),
                Block::Ask(ask) => self.item(|page| page.ask(ask)),
                Block::Predict(predict) if !self.session.shows(predict) => continue,
                Block::Predict(predict) => self.item(|page| page.predict(predict)),
                Block::Edit(edit) => {
                    self.add(LineKind::Text, format!("{}:", edit.path));
                    self.verbatim(LineKind::Code, &edit.text);
                }
                Block::Fold(fold @ Fold::Hint(level, inner)) if self.session.is_open(fold) => {
                    self.fold(&format!("Hint {level}"), inner);
                    continue;
                }
                Block::Fold(fold @ Fold::Solution(inner, answers)) if self.session.is_open(fold) => {
                    self.fold("Solution", inner);
                    self.answers(answers);
                    continue;
                }
                Block::Fold(Fold::Hint(..) | Fold::Solution(..)) | Block::Notes(_) => continue,
                Block::Fold(Fold::Other(summary, _)) => self.filled(LineKind::Question, "", &plain(summary)),
            }
            self.gap();
        }
    }

    fn fold(&mut self, title: &str, blocks: &[Block]) {
        self.add(LineKind::Heading, title.to_owned());
        self.gap();
        self.blocks(blocks);
    }

    /// The answers that the solution knows by heart; those that it reads from an output stand there.
    fn answers(&mut self, answers: &[Answer]) {
        for (_, source) in answers {
            if let Source::Literal(text) = source {
                self.add(LineKind::Text, format!("The answer is: {text}"));
                self.gap();
            }
        }
    }

    fn verbatim(&mut self, kind: LineKind, text: &str) {
        for line in text.lines() {
            // A terminal's tabs would be lost.
            self.add(kind, format!("  {}", line.replace('\t', "  ")));
        }
    }

    fn run(&mut self, run: &Run) {
        if !run.on.is_empty() {
            self.add(LineKind::Text, format!("  at {}:", run.on.join(", ")));
        }
        for (place, line) in run.command.lines().enumerate() {
            let mark = if place == 0 { "$" } else { ">" };
            self.add(LineKind::Command, format!("  {mark} {line}"));
        }
        let session = self.session;
        for line in session.as_printed(run) {
            self.filled(LineKind::Text, "  ~ the document has: ", line);
        }
        let Some(output) = session.output(&run.id) else {
            let promised = run.expect.as_ref().filter(|_| session.step().is_none());
            return promised.into_iter().for_each(|e| self.verbatim(LineKind::Output, &e.text));
        };
        self.printed(output);
        if output.text.is_empty() {
            self.add(LineKind::Output, "  (it printed nothing)".into());
        }
        if output.cut {
            self.add(LineKind::Differs, "  (it printed more; the rest is left out)".into());
        }
        match session.differed(&run.id) {
            None if run.exit != 0 => {
                self.filled(LineKind::Same, "  = ", &format!("as expected: it fails, with exit code {}", output.exit));
            }
            None if run.expect.is_some() => self.add(LineKind::Same, "  = as expected".into()),
            None => {}
            Some(why) => self.differs(why, session.fitted(&run.id)),
        }
    }

    /// What came out; of several nodes, each below its name.
    fn printed(&mut self, output: &Output) {
        if output.parts.is_empty() {
            self.verbatim(LineKind::Output, &output.text);
        }
        let ends = output.parts.iter().skip(1).map(|(_, at)| *at).chain([output.text.len()]);
        for ((node, from), to) in output.parts.iter().zip(ends) {
            let text = output.text.get(*from..to).unwrap_or_default();
            if !text.is_empty() {
                self.add(LineKind::Text, format!("  {node}:"));
                self.verbatim(LineKind::Output, text);
            }
        }
    }

    /// The first line of a difference says what it is; the others show both texts.
    fn differs(&mut self, why: &str, before: bool) {
        let (first, rest) = why.split_once('\n').unwrap_or((why, ""));
        let before = if before { " (it has been as expected before)" } else { "" };
        self.filled(LineKind::Differs, "  ! ", &format!("not as expected: {first}{before}"));
        for line in rest.lines().filter(|l| l.trim_start().starts_with("page ")) {
            self.add(LineKind::Differs, format!("  {}", line.trim_start().replacen("page  ", "expected", 1)));
        }
    }

    fn ask(&mut self, ask: &Ask) {
        let how = match ask.kind {
            AskKind::Text => "",
            AskKind::Choice => " (one letter)",
            AskKind::Order => " (all letters, in order)",
        };
        self.filled(LineKind::Question, "ASK  ", &format!("{}{how}", plain(&ask.label)));
        self.options(&ask.options);
        if let Some(given) = self.session.answered(&ask.id) {
            self.add(LineKind::Question, format!("     you said: {given}"));
        }
    }

    fn predict(&mut self, predict: &Predict) {
        let label = if predict.quiz { "QUIZ  " } else { "PREDICT  " };
        self.filled(LineKind::Question, label, &plain(&predict.ask));
        self.options(&predict.options);
        if let Some(guess) = self.session.guessed(&predict.id) {
            let word = if guess == predict.answer { "right" } else { "not quite" };
            self.filled(LineKind::Question, "     ", &format!("you said: {guess} ({word}). {}", plain(&predict.why)));
        }
    }

    fn options(&mut self, options: &[String]) {
        for (place, option) in options.iter().enumerate() {
            self.filled(LineKind::Question, &format!("   {}) ", letter(place)), &plain(option));
        }
    }

    fn text(&mut self, lines: &[String]) {
        if lines[0].trim_start().starts_with('|') {
            let rows = lines.iter().filter(|l| l.chars().any(char::is_alphanumeric));
            rows.for_each(|row| self.add(LineKind::Text, plain(row.trim())));
            return;
        }
        let mut paragraph = (String::new(), String::new());
        for line in lines {
            let (mark, rest) = bullet(line);
            if !mark.is_empty() && !paragraph.1.is_empty() {
                let (mark, text) = std::mem::take(&mut paragraph);
                self.filled(LineKind::Text, &mark, &text);
            }
            if !mark.is_empty() {
                paragraph.0 = mark.to_owned();
            } else if !paragraph.1.is_empty() {
                paragraph.1.push(' ');
            }
            paragraph.1 += plain(rest.trim()).as_str();
        }
        self.filled(LineKind::Text, &paragraph.0, &paragraph.1);
    }

    /// Fills a paragraph; its second line stands under the end of `mark`.
    fn filled(&mut self, kind: LineKind, mark: &str, text: &str) {
        let indent = " ".repeat(mark.width());
        let mut line = mark.to_owned();
        let mut empty = true;
        for word in text.split_whitespace() {
            if !empty && line.width() + 1 + word.width() > self.width {
                self.add(kind, std::mem::replace(&mut line, indent.clone()));
                empty = true;
            }
            if !empty {
                line.push(' ');
            }
            line += word;
            empty = false;
        }
        if !empty {
            self.add(kind, line);
        }
    }
}

/// A list's or quote's mark, and the rest of the line.
fn bullet(line: &str) -> (&str, &str) {
    let digits = line.bytes().take_while(u8::is_ascii_digit).count();
    let length = match &line[digits..] {
        rest if digits > 0 && rest.starts_with(". ") => digits + 2,
        rest if digits == 0 && (rest.starts_with("- ") || rest.starts_with("* ") || rest.starts_with("> ")) => 2,
        _ => 0,
    };
    line.split_at(length)
}

/// Without emphasis, with links as their text, and with what a picture shows in its place.
fn plain(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    let mut code = false;
    while let Some(c) = rest.chars().next() {
        if !code && rest.starts_with("**") {
            rest = &rest[2..];
            continue;
        }
        let is_picture = rest.starts_with("![");
        if !code && (c == '[' || is_picture) {
            let inside = &rest[if is_picture { 2 } else { 1 }..];
            let link = inside.split_once("](").and_then(|(name, r)| r.split_once(')').map(|(_, after)| (name, after)));
            if let Some((name, after)) = link.filter(|(name, _)| !name.contains(']')) {
                out += &if is_picture { format!("(a picture in the book: {name})") } else { name.to_owned() };
                rest = after;
                continue;
            }
        }
        code ^= c == '`';
        out.push(c);
        rest = &rest[c.len_utf8()..];
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::guide::bed::Bed;
    use crate::lab::guide::bed::Member;
    use std::path::Path;
    use std::sync::Arc;
    use std::sync::LazyLock;

    struct Nobody;

    impl Bed for Nobody {
        fn members(&self) -> &[Member] {
            &[]
        }

        fn swaps(&self) -> &[(String, String)] {
            static SWAPS: LazyLock<Vec<(String, String)>> =
                LazyLock::new(|| vec![("192.0.2.1".to_owned(), "127.0.10.10".to_owned())]);
            &SWAPS
        }

        fn moved_because(&self) -> Option<&str> {
            Some("The nodes are elsewhere.")
        }

        fn bin_dir(&self) -> &Path {
            Path::new("/nowhere")
        }
    }

    fn session(text: &str) -> Session {
        let lab = crate::lab::guide::parse(Path::new("x.md"), text).expect("the lab is right");
        Session::new(Arc::new(lab), Arc::new(Nobody), Path::new("/"))
    }

    fn shown(lines: &[Line]) -> String {
        lines.iter().map(|l| format!("{}\n", l.text)).collect()
    }

    /// Compiles only if a task may hold it: the screen runs blocks and checks while it goes on drawing.
    #[test]
    fn a_session_may_live_in_a_task() {
        fn sendable<T: Send>(_: &T) {}
        let mut session = session("# T\ntext\n");
        sendable(&session.check());
        sendable(&session.run(0));
        assert_eq!(shown(&session.page(40)), "~ The nodes are elsewhere.\n\ntext\n");
    }

    #[test]
    fn a_step_is_filled_to_the_width_and_keeps_what_is_typed() {
        let text = "# T\n<!--lab lab id = \"T\" -->\n\n## First\n<!--lab step id = \"s\" -->\n\
            Some **words** of a [long](x.md) paragraph\nover two lines.\n\n- one item that is long enough\n- two\n\n\
            <!--lab run id = \"r\" -->\n```bash\netcdctl put a long-enough-to-be-wider 1\n```\n<!--lab expect -->\n```text\nOK\n```\n\
            <!--lab predict id = \"p\"; ask = \"Which?\"; options = [\"x\", \"y\"]; answer = \"y\"; why = \"Because.\" -->\n";
        let mut session = session(text);
        let page = "~ The nodes are\n  elsewhere.\n\nFirst\n\nSome words of a long\nparagraph over two\nlines.\n\n- one item that is long\n  enough\n- two\n\n\
            \x20 $ etcdctl put a long-enough-to-be-wider 1\n\nPREDICT  Which?\n   a) x\n   b) y\n";
        assert_eq!(shown(&session.page(24)), page);
        let (right, _) = session.predict("p", "B").expect("it is an option");
        assert!(right);
        assert!(session.predict("p", "a").is_err(), "a guess is locked");
        assert!(shown(&session.page(40)).contains("you said: y (right). Because."));
    }

    #[test]
    fn a_block_says_where_it_ran_how_it_failed_and_that_it_was_right_before() {
        let text = "# T\n<!--lab run id = \"r\"; on = [\"n1\", \"n2\"] -->\n```bash\nping 192.0.2.1\n```\n<!--lab expect -->\n```text\nhere\nthere\n```\n";
        let mut session = session(text);
        assert!(shown(&session.page(40)).contains("  ~ the document has: ping 192.0.2.1\n"));
        let parts = vec![("n1".to_owned(), 0), ("n2".to_owned(), 5)];
        let output = Output { text: "here\nthere\n".into(), parts, ..Output::default() };
        session.take("r", output).expect("it is a block");
        let page = shown(&session.page(40));
        assert!(page.contains("  n1:\n  here\n  n2:\n  there\n  = as expected\n"), "{page}");
        session.take("r", Output { text: "gone\n".into(), exit: 1, ..Output::default() }).expect("it is a block");
        let page = shown(&session.page(90));
        assert!(
            page.ends_with("  ! not as expected: the exit code is 1, not 0 (it has been as expected before)\n"),
            "{page}"
        );
    }
}
