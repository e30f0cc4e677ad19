//! How recordings are written: a line that is typed, and what came of it.
//!
//! ```text
//! # a remark                       members 3        how many members the scene has (1)
//! $ etcdctl put foo                flag --x=y       a flag that they are started with
//! < typed at its standard input    $ [2 INT] …      send SIGINT after two lines of output (SIGTERM: `[2]`)
//! > a line of its output           $ [sort] …       the lines of its output come in any order (both: `[2 INT sort]`)
//! ! a line of its complaints
//! = 1                              its exit code, if that is not 0
//! ```
//!
//! A text that does not end with a line's end has `\` behind the mark of its last line.

use std::fmt::Write as _;
use std::path::Path;

/// What one line gave, with names for what differs from run to run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Given {
    pub(super) code: String,
    pub(super) out: String,
    pub(super) err: String,
}

/// One line, and what is recorded of it.
#[derive(Debug, Default)]
pub(super) struct Step {
    /// What stands in brackets before the line.
    marks: String,
    pub(super) line: String,
    pub(super) stdin: String,
    /// After so many lines of output it is sent a signal.
    pub(super) until: Option<(usize, i32)>,
    pub(super) sorted: bool,
    pub(super) given: Given,
}

/// A part of a recording.
#[derive(Debug)]
pub(super) enum Item {
    Step(Step),
    /// Remarks, blank lines and what the scene needs.
    Text(String),
}

/// A recording.
#[derive(Debug)]
pub(super) struct Scene {
    pub(super) name: String,
    pub(super) members: usize,
    flags: Vec<String>,
    pub(super) items: Vec<Item>,
}

impl Scene {
    pub(super) fn load(path: &Path) -> Scene {
        let text = std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let name = path.file_stem().expect("a name").to_string_lossy().into_owned();
        let mut scene = Scene { name, members: 1, flags: Vec::new(), items: Vec::new() };
        for line in text.lines() {
            scene.read(line).unwrap_or_else(|why| panic!("{}: {line}: {why}", path.display()));
        }
        scene
    }

    fn read(&mut self, line: &str) -> Result<(), &'static str> {
        if let Some(typed) = line.strip_prefix("$ ") {
            self.items.push(Item::Step(step(typed)?));
            return Ok(());
        }
        if line.is_empty() || line.starts_with('#') {
            self.items.push(Item::Text(line.to_owned()));
            return Ok(());
        }
        if let Some(count) = line.strip_prefix("members ") {
            self.members = count.parse().map_err(|_| "no number")?;
            self.items.push(Item::Text(line.to_owned()));
            return Ok(());
        }
        if let Some(flag) = line.strip_prefix("flag ") {
            self.flags.push(flag.to_owned());
            self.items.push(Item::Text(line.to_owned()));
            return Ok(());
        }
        let Some(Item::Step(step)) = self.items.last_mut() else { return Err("no line before it") };
        let (mark, rest) = line.split_at(1);
        let (text, end) = match rest.strip_prefix('\\') {
            Some(rest) => (rest, ""),
            None => (rest, "\n"),
        };
        let text = text.strip_prefix(' ').unwrap_or(text).to_owned() + end;
        match mark {
            "<" => step.stdin += &text,
            ">" => step.given.out += &text,
            "!" => step.given.err += &text,
            "=" => text.trim_end().clone_into(&mut step.given.code),
            _ => return Err("no such mark"),
        }
        Ok(())
    }

    pub(super) fn steps(&self) -> impl Iterator<Item = &Step> {
        self.items.iter().filter_map(|item| match item {
            Item::Step(step) => Some(step),
            Item::Text(_) => None,
        })
    }

    /// Flags that the members are started with.
    pub(super) fn flags(&self) -> Vec<&str> {
        self.flags.iter().map(String::as_str).collect()
    }

    /// The recording as it is written.
    pub(super) fn text(&self) -> String {
        let mut text = String::new();
        for item in &self.items {
            match item {
                Item::Text(line) => text += &format!("{line}\n"),
                Item::Step(step) => {
                    writeln!(text, "$ {}{}", step.marks, step.line).expect("a String takes all");
                    for (mark, part) in [("<", &step.stdin), (">", &step.given.out), ("!", &step.given.err)] {
                        for line in part.split_inclusive('\n') {
                            let end = if line.ends_with('\n') { "" } else { "\\" };
                            let line = line.trim_end_matches('\n');
                            let blank = if line.is_empty() && end.is_empty() { "" } else { " " };
                            writeln!(text, "{mark}{end}{blank}{line}").expect("a String takes all");
                        }
                    }
                    if step.given.code != "0" {
                        writeln!(text, "= {}", step.given.code).expect("a String takes all");
                    }
                }
            }
        }
        text
    }
}

fn step(typed: &str) -> Result<Step, &'static str> {
    let mut step = Step { given: Given { code: "0".to_owned(), ..Given::default() }, ..Step::default() };
    let mut line = typed;
    if let Some((marks, rest)) = typed.strip_prefix('[').and_then(|rest| rest.split_once("] ")) {
        let words: Vec<&str> = marks.split(' ').collect();
        match words.as_slice() {
            ["sort"] => step.sorted = true,
            [lines] => step.until = Some((lines.parse().map_err(|_| "no number")?, 15)),
            [lines, "INT"] => step.until = Some((lines.parse().map_err(|_| "no number")?, 2)),
            [lines, "INT", "sort"] => {
                step.until = Some((lines.parse().map_err(|_| "no number")?, 2));
                step.sorted = true;
            }
            _ => return Err("no such mark"),
        }
        step.marks = format!("[{marks}] ");
        line = rest;
    }
    line.clone_into(&mut step.line);
    Ok(step)
}

/// A typed line as a shell would read it: variables that stand before the program, and words. Knows quotes and `\`, and nothing else.
pub(super) fn words(line: &str) -> (Vec<(String, String)>, Vec<String>) {
    let (mut words, mut word, mut within) = (Vec::new(), None::<String>, ' ');
    let mut letters = line.chars();
    while let Some(letter) = letters.next() {
        match (within, letter) {
            (' ', ' ') => words.extend(word.take()),
            (' ', '\'' | '"') => {
                within = letter;
                word.get_or_insert_default();
            }
            ('\'', '\'') | ('"', '"') => within = ' ',
            (' ' | '"', '\\') => {
                word.get_or_insert_default().extend(letters.next().map(|c| if c == 'n' { '\n' } else { c }))
            }
            _ => word.get_or_insert_default().push(letter),
        }
    }
    words.extend(word);
    let is_variable = |word: &String| {
        word.split_once('=')
            .is_some_and(|(name, _)| name.chars().all(|c| c.is_ascii_uppercase() || c == '_' || c.is_ascii_digit()))
    };
    let program = words.iter().position(|word| !is_variable(word)).expect("a program");
    let rest = words.split_off(program);
    let pair = |word: String| word.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()));
    (words.into_iter().filter_map(pair).collect(), rest)
}

#[test]
fn a_typed_line_is_read_as_a_shell_reads_it() {
    let (variables, words) = words(r#"A_B=1 etcdctl put 'a b' "c\"d\n" '' -- -x\ y"#);
    assert_eq!(variables, [("A_B".to_owned(), "1".to_owned())]);
    assert_eq!(words, ["etcdctl", "put", "a b", "c\"d\n", "", "--", "-x y"]);
}

#[test]
fn a_recording_is_written_as_it_is_read() {
    let text = "# remark\nmembers 1\n\n$ [2 INT] etcdctl lock l\n< in\n> a\n>\n>\\ b\n! c\n= 7\n$ etcdctl get k\n";
    let mut scene = Scene { name: String::new(), members: 0, flags: Vec::new(), items: Vec::new() };
    text.lines().for_each(|line| scene.read(line).expect(line));
    assert_eq!(scene.text(), text);
    let step = scene.steps().next().expect("a step");
    assert_eq!((step.given.out.as_str(), step.given.code.as_str(), step.until), ("a\n\nb", "7", Some((2, 2))));
}
