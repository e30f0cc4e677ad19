//! `etcd-lab export`: what a recording shows, for the book and for other programs.
//!
//! Frames are drawn by the same view as the screen's, into memory: a picture in the book is what the learner sees.
//!
//! ```text
//! cast            asciinema, version 2: the recording as a film of one screen
//! svg             one screen at one moment
//! spacetime       messages as a space-time diagram, as text; spacetime-svg as a picture
//! jsonl           every report, one JSON object in a line
//! ```

use crate::lab::Error;
use crate::lab::export;
use crate::lab::export::escaped;
use crate::lab::recording::Recording;
use crate::lab::recording::Replay;
use crate::tui::Model;
use crate::tui::Msg;
use crate::tui::command;
use crate::tui::look::Theme;
use crate::tui::replay;
use crate::tui::update;
use crate::tui::view;
use crate::types::Millis;
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::buffer::Buffer;
use ratatui::buffer::Cell;
use ratatui::style::Color;
use ratatui::style::Modifier;
use serde_json::json;
use std::io::Write;
use std::ops::RangeInclusive;
use std::path::Path;
use std::path::PathBuf;

const USAGE: &str = "\
usage: etcd-lab export FILE WHAT [options] > OUT

WHAT    cast | svg | spacetime | spacetime-svg | jsonl
        --screen ring|wire|logs|watch|data|cluster   of cast and svg; ring if not given
        --at 00:12.5        the moment of svg; the end if not given
        --from T --to T     the time of all others; the whole recording if not given
        --size 80x24        --theme dark|light|contrast|mono   --ascii
        --heartbeats        spacetime shows them, too
";
/// A frame of a film, in recorded time.
const FRAME_MS: u64 = 100;
/// Pauses of a film are cut to so many seconds by who plays it.
const IDLE_S: u64 = 2;
const SIZE_MAX: u16 = 500;
/// Of a letter in an SVG, in pixels.
const LETTER: (f64, f64) = (8.4, 17.0);

/// What is exported, and how.
#[derive(Clone, Debug, PartialEq)]
struct Plan {
    file: PathBuf,
    what: String,
    screen: String,
    at: Option<Millis>,
    from: Millis,
    to: Option<Millis>,
    size: (u16, u16),
    theme: Theme,
    ascii: bool,
    heartbeats: bool,
}

impl Plan {
    fn parse(args: &[String]) -> Result<Plan, String> {
        let [file, what, rest @ ..] = args else { return Err("which recording, and what of it?".into()) };
        if !["cast", "svg", "spacetime", "spacetime-svg", "jsonl"].contains(&what.as_str()) {
            return Err(format!("{what:?} cannot be exported"));
        }
        let mut plan = Plan {
            file: file.into(),
            what: what.clone(),
            screen: "ring".into(),
            at: None,
            from: Millis(0),
            to: None,
            size: (80, 24),
            theme: Theme::Light,
            ascii: false,
            heartbeats: false,
        };
        let mut words = rest.iter();
        while let Some(word) = words.next() {
            let mut value = || words.next().ok_or_else(|| format!("{word} needs a value"));
            let time =
                |text: &String| replay::parse(text).ok_or_else(|| format!("{text:?} is no time; 00:12.5 is one"));
            match word.as_str() {
                "--screen" => plan.screen = screen(value()?)?,
                "--at" => plan.at = Some(time(value()?)?),
                "--from" => plan.from = time(value()?)?,
                "--to" => plan.to = Some(time(value()?)?),
                "--size" => plan.size = size(value()?)?,
                "--theme" => {
                    plan.theme = Theme::named(value()?).ok_or("--theme is dark, light, contrast or mono")?;
                }
                "--ascii" => plan.ascii = true,
                "--heartbeats" => plan.heartbeats = true,
                _ => return Err(format!("export does not know {word}")),
            }
        }
        Ok(plan)
    }
}

fn screen(name: &str) -> Result<String, String> {
    let all = ["ring", "wire", "logs", "watch", "data", "cluster"];
    all.contains(&name).then(|| name.to_owned()).ok_or_else(|| format!("there is no screen {name:?}"))
}

fn size(text: &str) -> Result<(u16, u16), String> {
    let pair = text.split_once('x').and_then(|(w, h)| Some((w.parse().ok()?, h.parse().ok()?)));
    let fits = |n: u16| (1..=SIZE_MAX).contains(&n);
    pair.filter(|(w, h)| fits(*w) && fits(*h)).ok_or_else(|| format!("{text:?} is no size; 80x24 is one"))
}

/// `etcd-lab export FILE WHAT …`, to `out`.
pub fn run(args: &[String], out: &mut dyn Write, err: &mut dyn Write) -> u8 {
    if args.first().is_none_or(|word| word == "--help") {
        drop(write!(out, "{USAGE}"));
        return 0;
    }
    let plan = match Plan::parse(args) {
        Ok(plan) => plan,
        Err(why) => {
            drop(write!(err, "Error: {why}\n{USAGE}"));
            return 2;
        }
    };
    let done = Recording::read(Path::new(&plan.file)).and_then(|recording| {
        write(&plan, recording, out).map_err(|source| Error::System { what: "cannot write", source })
    });
    match done {
        Ok(()) => 0,
        Err(e) => {
            drop(writeln!(err, "Error: {e}"));
            1
        }
    }
}

/// What the command writes of a recording that is in no file; `words` stand behind the file's name.
#[cfg(test)]
pub(super) fn drawn(words: &str, recording: Recording) -> Result<String, String> {
    let args: Vec<String> = format!("- {words}").split_whitespace().map(str::to_owned).collect();
    let mut out = Vec::new();
    write(&Plan::parse(&args)?, recording, &mut out).map_err(|e| e.to_string())?;
    String::from_utf8(out).map_err(|e| e.to_string())
}

fn write(plan: &Plan, recording: Recording, out: &mut dyn Write) -> std::io::Result<()> {
    let end = recording.end();
    let time = plan.from..=plan.to.unwrap_or(end);
    match plan.what.as_str() {
        "jsonl" => export::json_lines(&recording, time).try_for_each(|line| writeln!(out, "{line}")),
        "spacetime" => write!(out, "{}", export::space_time_text(&recording, &time, plan.heartbeats)),
        "spacetime-svg" => write!(out, "{}", export::space_time_svg(&recording, &time, plan.heartbeats)),
        "svg" => {
            let mut film = Film::new(plan, recording);
            write!(out, "{}", svg(&film.frame(plan.at.unwrap_or(end)), plan.theme))
        }
        _ => cast(plan, recording, &time, out),
    }
}

/// A recording on a screen in memory.
struct Film {
    model: Model,
    terminal: Terminal<TestBackend>,
}

impl Film {
    fn new(plan: &Plan, recording: Recording) -> Film {
        let mut model = Model::new(plan.theme, plan.ascii);
        update(&mut model, Msg::Resized { width: plan.size.0, height: plan.size.1 });
        update(&mut model, Msg::Replay(Ok(Box::new(Replay::new(recording)))));
        command::run(&mut model, &plan.screen);
        // A film has nobody who presses a key.
        (model.notice, model.play.running) = (None, false);
        let terminal = Terminal::new(TestBackend::new(plan.size.0, plan.size.1)).expect("in memory");
        Film { model, terminal }
    }

    fn frame(&mut self, at: Millis) -> Buffer {
        if let Some(replay) = &mut self.model.replay {
            replay.seek_time(at);
        }
        let model = &self.model;
        self.terminal.draw(|frame| view(model, frame)).expect("in memory");
        self.terminal.backend().buffer().clone()
    }
}

/// Only rows that differ are written: a recorder's film is not larger.
fn cast(plan: &Plan, recording: Recording, time: &RangeInclusive<Millis>, out: &mut dyn Write) -> std::io::Result<()> {
    let title = format!("etcd-lab {}", plan.screen);
    let (width, height) = plan.size;
    let header = json!({ "version": 2, "width": width, "height": height, "idle_time_limit": IDLE_S, "title": title });
    writeln!(out, "{header}")?;
    let mut film = Film::new(plan, recording);
    let mut before: Vec<String> = Vec::new();
    let mut at = *time.start();
    loop {
        let buffer = film.frame(at);
        let rows: Vec<String> = (0..height).map(|y| ansi(&buffer, y)).collect();
        let mut data = if before.is_empty() { "\x1b[?25l\x1b[2J".to_owned() } else { String::new() };
        for (y, row) in rows.iter().enumerate().filter(|(y, row)| before.get(*y) != Some(row)) {
            data.push_str(&format!("\x1b[{};1H{row}", y + 1));
        }
        if !data.is_empty() {
            let seconds = (at.0 - time.start().0) as f64 / 1000.0;
            writeln!(out, "{}", json!([seconds, "o", data]))?;
        }
        if at >= *time.end() {
            return Ok(());
        }
        (before, at) = (rows, at.plus(FRAME_MS).min(*time.end()));
    }
}

/// Runs of cells that look the same: column, text, the first cell.
fn runs(buffer: &Buffer, y: u16) -> Vec<(u16, String, Cell)> {
    let mut runs: Vec<(u16, String, Cell)> = Vec::new();
    for x in 0..buffer.area.width {
        let cell = &buffer[(x, y)];
        match runs.last_mut().filter(|(_, _, first)| first.style() == cell.style()) {
            Some((_, text, _)) => text.push_str(cell.symbol()),
            None => runs.push((x, cell.symbol().to_owned(), cell.clone())),
        }
    }
    runs
}

fn ansi(buffer: &Buffer, y: u16) -> String {
    let mut row = String::new();
    for (_, text, cell) in runs(buffer, y) {
        row.push_str("\x1b[0");
        let modifiers = [(Modifier::BOLD, ";1"), (Modifier::REVERSED, ";7")];
        modifiers.iter().filter(|(m, _)| cell.modifier.contains(*m)).for_each(|(_, code)| row.push_str(code));
        if let Color::Indexed(n) = cell.fg {
            row.push_str(&format!(";38;5;{n}"));
        }
        row.push_str(&format!("m{text}"));
    }
    row + "\x1b[0m"
}

/// One frame as a picture.
fn svg(buffer: &Buffer, theme: Theme) -> String {
    let (paper, ink) = match theme {
        Theme::Light | Theme::Mono => ("#ffffff", "#1a1a1a"),
        Theme::Dark | Theme::Contrast => ("#101418", "#e6e6e6"),
    };
    let (w, h) = (f64::from(buffer.area.width) * LETTER.0, f64::from(buffer.area.height) * LETTER.1);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{w:.0}\" height=\"{h:.0}\" viewBox=\"0 0 {w:.1} {h:.1}\">\n\
         <style>text{{font:14px 'DejaVu Sans Mono',monospace;white-space:pre}}.b{{font-weight:bold}}</style>\n\
         <rect width=\"100%\" height=\"100%\" fill=\"{paper}\"/>\n"
    );
    for y in 0..buffer.area.height {
        for (x, text, cell) in runs(buffer, y) {
            let is_reversed = cell.modifier.contains(Modifier::REVERSED);
            if text.trim().is_empty() && !is_reversed {
                continue;
            }
            let colour = if let Color::Indexed(n) = cell.fg { rgb(n) } else { ink.to_owned() };
            let (left, top) = (f64::from(x) * LETTER.0, f64::from(y) * LETTER.1);
            let width = text.chars().count() as f64 * LETTER.0;
            let (letters, behind) = if is_reversed { (paper.to_owned(), Some(colour)) } else { (colour, None) };
            if let Some(behind) = behind {
                svg.push_str(&format!(
                    "<rect x=\"{left:.1}\" y=\"{top:.1}\" width=\"{width:.1}\" height=\"{:.1}\" fill=\"{behind}\"/>\n",
                    LETTER.1
                ));
            }
            let bold = if cell.modifier.contains(Modifier::BOLD) { " class=\"b\"" } else { "" };
            // Whatever the font: a letter takes its place.
            svg.push_str(&format!(
                "<text x=\"{left:.1}\" y=\"{:.1}\" textLength=\"{width:.1}\" lengthAdjust=\"spacingAndGlyphs\" fill=\"{letters}\"{bold} xml:space=\"preserve\">{}</text>\n",
                top + LETTER.1 * 0.76,
                escaped(&text)
            ));
        }
    }
    svg + "</svg>\n"
}

/// A colour of xterm's 256: the cube and the greys, which are all that themes use.
fn rgb(n: u8) -> String {
    let level = |v: u8| if v == 0 { 0 } else { 55 + 40 * v };
    let (r, g, b) = match n {
        232.. => (8 + 10 * (n - 232), 8 + 10 * (n - 232), 8 + 10 * (n - 232)),
        16.. => (level((n - 16) / 36), level((n - 16) / 6 % 6), level((n - 16) % 6)),
        _ => (128, 128, 128),
    };
    format!("#{r:02x}{g:02x}{b:02x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Plan, String> {
        Plan::parse(&line.split_whitespace().map(String::from).collect::<Vec<_>>())
    }

    #[test]
    fn what_is_wrong_is_said() {
        assert!(parsed("a.labrec").expect_err("short").contains("what of it"));
        assert!(parsed("a.labrec gif").expect_err("unknown").contains("\"gif\" cannot be exported"));
        assert!(parsed("a.labrec svg --at soon").expect_err("no time").contains("00:12.5 is one"));
        assert!(parsed("a.labrec svg --size 80").expect_err("no size").contains("80x24 is one"));
        assert!(parsed("a.labrec svg --screen moon").expect_err("no screen").contains("no screen \"moon\""));
        let plan = parsed("a.labrec cast --screen logs --from 1 --to 01:00 --size 120x40 --ascii").expect("right");
        assert_eq!((plan.from, plan.to, plan.size, plan.ascii), (Millis(1_000), Some(Millis(60_000)), (120, 40), true));
    }

    #[test]
    fn colours_are_xterms() {
        assert_eq!([25, 75, 214, 240, 255].map(rgb), ["#005faf", "#5fafff", "#ffaf00", "#585858", "#eeeeee"]);
    }
}
