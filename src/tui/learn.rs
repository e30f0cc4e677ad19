//! The Learn screen's state, and how keys and results change it. Pure, like all of `update`.
//!
//! The one idea: the screen owns a [`Session`] and asks it for everything that it shows. What takes time (running a block,
//! looking at the checks) is a [`Cmd`]; it works on a clone of the session, and its result comes back as [`Heard`].
//!
//! One mark goes over everything that waits for the learner: guesses, commands, questions. Enter does what is marked.

mod heard;

pub use heard::Came;
pub use heard::Heard;
pub(super) use heard::hear;
pub(super) use heard::is_news;

use crate::lab::guide::Checked;
use crate::lab::guide::Item;
use crate::lab::guide::Line;
use crate::lab::guide::LineKind;
use crate::lab::guide::NOT_MADE_ANEW;
use crate::lab::guide::Session;
use crate::lab::guide::Verdict;
use crate::lab::picture::Tone;
use crate::lab::picture::words::counted;
use crate::tui::Cmd;
use crate::tui::Model;
use crate::tui::keys::Does;
use crate::tui::model::Overlay;
use crate::tui::model::Screen;
use crate::tui::model::bars;
use crate::tui::view::notice_lines;
use crate::types::Millis;
use ratatui::layout::Rect;
use unicode_width::UnicodeWidthStr as _;

/// From this width on the picture stands beside the page.
const BESIDE: u16 = 110;
/// Checks are looked at so often while they are shown.
const CHECK_EVERY: u64 = 1_000;
/// An answer that took longer than this is not waited for. A look may well take seconds, where members do not answer: it is told when it
/// is there, and until then there is no second one beside it.
const CHECK_LOST: u64 = 60_000;
/// How wide the words of a verdict are.
const VERDICT: usize = 9;

/// Everything that this screen knows.
#[derive(Clone, Debug)]
pub struct Learn {
    /// The learner in the lab.
    pub session: Session,
    /// Which opening of a lab this is, of all in this run. What another one has asked for is no news here.
    pub opening: u64,
    /// The mark: a place in [`Session::items`].
    pub item: usize,
    /// The first line of the page that is seen.
    pub scroll: usize,
    /// Checks say what they got, too.
    pub details: bool,
    /// The learner has done something in this step: what is not true yet may be their doing, and is explained.
    pub acted: bool,
    /// The block that runs, and since when.
    pub running: Option<(String, Millis)>,
    /// What the checks of this step said last.
    pub checked: Vec<Checked>,
    /// The learner has asked once to have the step anew.
    sure: bool,
    /// The look at the checks that was asked for last.
    seq: u64,
    /// The newest that was answered.
    answered: u64,
    /// The last one before the learner's last deed: what it sees is of no use any more.
    stale: u64,
    asked: Millis,
}

/// Where the parts of the screen are.
#[derive(Clone, Copy, Debug)]
pub struct Places {
    pub title: Rect,
    pub page: Rect,
    pub checks: Rect,
    /// Two lines about the members, on a screen that has no room for the picture.
    pub strip: Rect,
    /// The picture, and what happens; empty on a narrow screen.
    pub ring: Rect,
    pub feed: Rect,
}

impl Learn {
    fn new(session: Session, opening: u64) -> Learn {
        Learn {
            session,
            opening,
            item: 0,
            scroll: 0,
            details: false,
            acted: false,
            running: None,
            checked: Vec::new(),
            sure: false,
            seq: 0,
            answered: 0,
            stale: 0,
            asked: Millis(0),
        }
    }

    /// Divides the body of the screen.
    #[must_use]
    pub fn places(&self, body: Rect) -> Places {
        let none = Rect { height: 0, ..body };
        // The picture is of the cluster on the other screens. A lab with nodes of its own has no use for it.
        if body.width >= BESIDE && self.session.is_on_screen() {
            let left = Rect { width: (body.width * 55 / 100).clamp(66, 84), ..body };
            let right = Rect { x: left.right() + 1, width: body.width - left.width - 1, ..body };
            let (page, checks) = self.stacked(left);
            let ring = Rect { height: (right.height * 2 / 3).min(26), ..right };
            let feed = Rect { y: ring.bottom(), height: right.height - ring.height, ..right };
            return Places { title: top(left, 1), page, checks, strip: none, ring, feed };
        }
        let strip = top(body, if body.height >= 16 { 2 } else { 0 });
        let rest = Rect { y: strip.bottom(), height: body.height - strip.height, ..body };
        let (page, checks) = self.stacked(rest);
        Places { title: top(rest, 1), page, checks, strip, ring: none, feed: none }
    }

    /// The page below its title, and the checks below the page.
    fn stacked(&self, area: Rect) -> (Rect, Rect) {
        let wanted = self.check_lines(usize::from(area.width)).len() as u16 + 1;
        let checks = wanted.min(area.height / 2);
        let page = Rect { y: area.y + 1.min(area.height), height: area.height.saturating_sub(checks + 1), ..area };
        (page, Rect { y: page.bottom(), height: checks.min(area.height.saturating_sub(1)), ..area })
    }

    /// The page's lines; none is wider than `width`.
    #[must_use]
    pub fn lines(&self, width: usize) -> Vec<Line> {
        let text = width.saturating_sub(2).max(1);
        self.session.page(text).into_iter().flat_map(|line| folded(line, text.max(20))).collect()
    }

    /// A line for each check, and below it what is missing.
    #[must_use]
    pub fn check_lines(&self, width: usize) -> Vec<(Option<bool>, String)> {
        let mut lines = Vec::new();
        let checks = self.session.step().map_or(&[][..], |s| &s.checks);
        for check in checks {
            let verdict = self.checked.iter().find(|c| c.id == check.id).map(|c| &c.verdict);
            let (word, tone) = match verdict {
                None => ("…", None),
                Some(Verdict::Pass) => ("pass", Some(true)),
                Some(Verdict::NotYet { .. }) => ("not yet", None),
                Some(Verdict::Error(_)) => ("error", Some(false)),
            };
            let mut word = word;
            for line in filled(&check.title, width.saturating_sub(VERDICT + 2)) {
                lines.push((tone, format!(" {word:<VERDICT$}{line}")));
                word = "";
            }
            match verdict {
                None | Some(Verdict::Pass) => {}
                Some(Verdict::Error(why)) => below(&mut lines, Some(false), "it could not be looked at: ", why, width),
                Some(Verdict::NotYet { got, cause }) => {
                    let got = got.iter().filter(|_| self.details);
                    got.for_each(|got| below(&mut lines, None, "now: ", got, width));
                    let cause = cause.iter().filter(|_| self.acted || self.details);
                    cause.for_each(|(_, say)| below(&mut lines, Some(false), "why: ", say, width));
                }
            }
        }
        let worked = self.session.step().and_then(|s| s.worked.as_ref());
        if let Some(why) = worked.filter(|_| !checks.is_empty() && self.passed() == (checks.len(), checks.len())) {
            below(&mut lines, Some(true), "why it worked: ", why, width);
        }
        lines
    }

    /// How many checks of this step pass, and how many there are.
    #[must_use]
    pub fn passed(&self) -> (usize, usize) {
        let count = self.session.step().map_or(0, |s| s.checks.len());
        (self.checked.iter().filter(|c| c.verdict.passed()).count(), count)
    }

    /// Whether all that stands on the page is done, and the checks are not: the rest is the learner's own work.
    fn is_theirs(&self) -> bool {
        let (passed, checks) = self.passed();
        passed < checks
            && self.session.items().iter().all(|item| self.is_done(item) || matches!(item, Item::Predict(p) if p.quiz))
    }

    fn is_done(&self, item: &Item<'_>) -> bool {
        match item {
            // One that has failed is not: it waits for whoever mends the cause.
            Item::Run(run) => {
                self.session.fitted(&run.id) || self.session.output(&run.id).is_some_and(|o| o.exit == run.exit)
            }
            Item::Ask(ask) => self.session.answered(&ask.id).is_some(),
            Item::Predict(predict) => self.session.guessed(&predict.id).is_some(),
        }
    }

    /// The first thing on the page that is not done.
    fn first_open(&self) -> Option<usize> {
        self.session.items().iter().position(|item| !self.is_done(item))
    }

    /// What Enter does now, in words.
    #[must_use]
    pub fn action(&self) -> &'static str {
        if self.is_set_up() {
            return "the step is being set up…";
        }
        let items = self.session.items();
        let is_ask = matches!(items.get(self.item), Some(Item::Ask(_)));
        let (idle, (passed, checks)) = (self.running.is_none(), self.passed());
        let is_over = |item: &&Item<'_>| idle && self.is_done(item);
        match items.get(self.item) {
            // An answer that is not right can be given anew; or it is, and the rest is to be done by hand.
            _ if idle && self.is_theirs() && is_ask => "your turn: 0 shell, h hint, Enter anew",
            _ if idle && self.is_theirs() => "your turn: 0 shell, h hint",
            None => "",
            Some(item) if is_over(&item) && self.first_open().is_some() => "Tab: go on",
            Some(item) if is_over(&item) && checks > 0 && passed == checks => "n: next",
            Some(Item::Run(run)) if self.running.as_ref().is_some_and(|(id, _)| *id == run.id) => "it runs…",
            Some(Item::Run(run)) if self.session.output(&run.id).is_some() => "Enter: run it again",
            Some(Item::Run(_)) => "Enter: run it",
            Some(Item::Ask(ask)) if self.session.answered(&ask.id).is_some() => "Enter: answer anew",
            Some(Item::Ask(_)) => "Enter: answer",
            Some(Item::Predict(predict)) if self.session.guessed(&predict.id).is_some() => "Tab: go on",
            Some(Item::Predict(_)) => "Enter: guess",
        }
    }

    /// Whether a step is being set up: its cluster comes and goes meanwhile, and what checks see of that says nothing.
    fn is_set_up(&self) -> bool {
        self.running.as_ref().is_some_and(|(id, _)| id.is_empty())
    }

    /// Has the checks looked at, unless that is under way.
    fn look(&mut self, now: Millis) -> Option<Cmd> {
        let is_under_way = self.answered < self.seq && now.0.saturating_sub(self.asked.0) < CHECK_LOST;
        if is_under_way {
            return None;
        }
        self.seq += 1;
        self.asked = now;
        Some(Cmd::Check { seq: self.seq })
    }

    /// Has them looked at after a deed: what was asked before is no news any more.
    fn look_anew(&mut self, now: Millis) -> Option<Cmd> {
        (self.stale, self.answered) = (self.seq, self.seq);
        self.look(now)
    }

    /// First and last line of what is marked.
    fn extent(&self, lines: &[Line]) -> Option<(usize, usize)> {
        let first = lines.iter().position(|l| l.item == Some(self.item))?;
        let last = lines.iter().rposition(|l| l.item == Some(self.item))?;
        Some((first, last))
    }

    /// Scrolls as little as is needed to see all of what is marked, or at least its beginning.
    fn reveal(&mut self, page: Rect) {
        let lines = self.lines(usize::from(page.width));
        let height = usize::from(page.height).max(1);
        if let Some((first, last)) = self.extent(&lines) {
            if last >= self.scroll + height {
                self.scroll = last + 1 - height;
            }
            // A line above it, where there is one, says that the page goes on upwards.
            self.scroll = self.scroll.min(first.saturating_sub(1));
        }
        self.scroll = self.scroll.min(lines.len().saturating_sub(height));
    }

    fn is_seen(&self, page: Rect) -> bool {
        let seen = self.scroll..self.scroll + usize::from(page.height);
        self.extent(&self.lines(usize::from(page.width))).is_none_or(|(first, _)| seen.contains(&first))
    }

    /// Whether nothing is below what is seen.
    fn is_at_end(&self, page: Rect) -> bool {
        self.scroll + usize::from(page.height) >= self.lines(usize::from(page.width)).len()
    }

    fn show_end(&mut self, page: Rect) {
        let lines = self.lines(usize::from(page.width)).len();
        self.scroll = lines.saturating_sub(usize::from(page.height).max(1));
    }

    /// Scrolls by lines; a mark that goes out of sight moves to what is in sight.
    fn scroll_by(&mut self, by: isize, page: Rect) {
        let lines = self.lines(usize::from(page.width));
        let height = usize::from(page.height).max(1);
        self.scroll = self.scroll.saturating_add_signed(by).min(lines.len().saturating_sub(height));
        let to_top = by <= -(lines.len() as isize);
        if self.is_seen(page) && !to_top {
            return;
        }
        let mut starts = (0..self.session.items().len()).filter(|i| {
            lines
                .iter()
                .position(|l| l.item == Some(*i))
                .is_some_and(|at| (self.scroll..self.scroll + height).contains(&at))
        });
        let found = if by > 0 || to_top { starts.next() } else { starts.next_back() };
        self.item = found.unwrap_or(self.item);
    }
}

/// Text under a check's title.
fn below(lines: &mut Vec<(Option<bool>, String)>, tone: Option<bool>, mark: &str, text: &str, width: usize) {
    let room = width.saturating_sub(VERDICT + mark.width() + 2);
    for (n, line) in filled(text, room).into_iter().enumerate() {
        let mark = if n == 0 { mark.to_owned() } else { " ".repeat(mark.width()) };
        lines.push((tone, format!(" {:VERDICT$}{mark}{line}", "")));
    }
}

fn top(area: Rect, height: u16) -> Rect {
    Rect { height: height.min(area.height), ..area }
}

/// Breaks what is too long, at a blank if one is near, and stands further in where it goes on.
fn folded(line: Line, width: usize) -> Vec<Line> {
    const IN: usize = 4;
    let mut pieces: Vec<String> = Vec::new();
    let mut rest = line.text.as_str();
    loop {
        let indent = if pieces.is_empty() { 0 } else { IN };
        if rest.width() + indent <= width {
            pieces.push(format!("{:indent$}{rest}", ""));
            break;
        }
        let ends = rest.char_indices().map(|(at, c)| at + c.len_utf8());
        // At least one sign, or there would be no end.
        let fits = ends.take_while(|end| rest[..*end].width() + indent <= width).last();
        let fits = fits.unwrap_or_else(|| rest.chars().next().map_or(0, char::len_utf8));
        let blank = rest[..fits].rfind(' ').filter(|at| *at > fits / 2);
        let cut = blank.unwrap_or(fits);
        pieces.push(format!("{:indent$}{}", "", &rest[..cut]));
        rest = if blank.is_some() { rest[cut..].trim_start() } else { &rest[cut..] };
    }
    pieces.into_iter().map(|text| Line { text, ..line.clone() }).collect()
}

/// Breaks a text at blanks.
fn filled(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.width() + 1 + word.width() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

/// The time passes: the checks are looked at again while they are shown.
pub(super) fn tick(model: &mut Model, now: Millis) -> Option<Cmd> {
    let shown = model.screen == Screen::Learn && !model.ending;
    let learn = model.learn.as_mut().filter(|learn| shown && !learn.is_set_up())?;
    let since = now.0.saturating_sub(learn.asked.0);
    if since >= CHECK_EVERY { learn.look(now) } else { None }
}

/// While a step is set up its page may be read. What is done there waits until it is there. True: that was said.
fn refuses(model: &mut Model) -> bool {
    let refuses = model.learn.as_ref().is_some_and(Learn::is_set_up);
    if refuses {
        model.notify(Tone::Plain, "the step is being set up: read on, and do that when it is ready");
    }
    refuses
}

/// Whether the key of the shell leads to the open lab's desk: from its page, and from every screen if only the desk has what the lab is about.
pub(super) fn has_desk(model: &Model) -> bool {
    let on_page = model.screen == Screen::Learn;
    model.learn.as_ref().is_some_and(|l| on_page || l.session.has_own_nodes() || l.session.keeps_units())
}

/// A shell is asked for. One at the desk of a cluster that comes or goes would lose the ground under it.
pub(super) fn shell(model: &mut Model) -> Option<Cmd> {
    if has_desk(model) && refuses(model) { None } else { Some(Cmd::Shell) }
}

/// Opens the screen.
pub(super) fn show(model: &mut Model) -> Option<Cmd> {
    let now = model.now();
    if model.learn.is_none() {
        model.notify(Tone::Bad, "no lab is open");
        return None;
    }
    model.screen = Screen::Learn;
    let nodes = model.picture.as_ref().map_or(0, |p| p.members.len());
    let learn = model.learn.as_mut()?;
    let wanted = learn.session.lab().head.cluster.nodes.len();
    let asked = learn.look(now);
    let has_steps = !learn.session.lab().steps.is_empty();
    if !learn.session.is_on_screen() {
        model.notify(Tone::Plain, "this lab has nodes of its own, which screens 2 to 6 do not show".to_owned());
    } else if nodes != wanted && has_steps {
        model.notify(
            Tone::Plain,
            format!(
                "this lab was written for {}, and {}: outputs may differ",
                counted(wanted as u64, "member", "members"),
                counted(nodes as u64, "runs", "run")
            ),
        );
    }
    asked
}

/// A key of this screen.
pub(super) fn press(model: &mut Model, does: Does) -> Option<Cmd> {
    let now = model.now();
    let page = page(model)?;
    let height = isize::try_from(page.height).unwrap_or(1);
    if matches!(does, Does::NextStep | Does::PreviousStep | Does::Run | Does::Redo) && refuses(model) {
        return None;
    }
    let learn = model.learn.as_mut()?;
    let items = learn.session.items().len().max(1);
    let sure = std::mem::take(&mut learn.sure);
    let is_last = learn.item + 1 >= items;
    match does {
        // The task may stand below the last thing that can be marked.
        Does::Next if is_last && learn.is_seen(page) && !learn.is_at_end(page) => {
            learn.show_end(page);
            return None;
        }
        Does::Next => learn.item = (learn.item + 1) % items,
        Does::Previous => learn.item = (learn.item + items - 1) % items,
        Does::Down => learn.scroll_by(1, page),
        Does::Up => learn.scroll_by(-1, page),
        Does::PageDown => learn.scroll_by((height - 2).max(1), page),
        Does::PageUp => learn.scroll_by(-(height - 2).max(1), page),
        Does::Oldest => learn.scroll_by(isize::MIN / 2, page),
        Does::Newest => learn.scroll_by(isize::MAX / 2, page),
        Does::NextStep => return go(model, 1),
        Does::PreviousStep => return go(model, -1),
        Does::Run => return run(model),
        Does::Hint => hint(model),
        Does::Redo => return redo(model, sure),
        Does::Check => {
            let seen = learn.is_seen(page);
            learn.details = true;
            let asked = learn.look(now);
            // What they say takes room of the page.
            if seen {
                reveal(model);
            }
            return asked;
        }
        _ => {}
    }
    if matches!(does, Does::Next | Does::Previous) {
        reveal(model);
    }
    None
}

/// Where the page is on the terminal as it is now.
pub(super) fn page(model: &Model) -> Option<Rect> {
    // Header and bars, and the notice while there is one.
    let around = 1 + bars(model.area.1) + notice_lines(model, model.area.0).len() as u16;
    let body = Rect::new(0, 1, model.area.0, model.area.1.saturating_sub(around));
    Some(model.learn.as_ref()?.places(body).page)
}

fn reveal(model: &mut Model) {
    if let Some(page) = page(model)
        && let Some(learn) = &mut model.learn
    {
        learn.reveal(page);
    }
}

fn show_end(model: &mut Model) {
    if let Some(page) = page(model)
        && let Some(learn) = &mut model.learn
    {
        learn.show_end(page);
    }
}

/// What has come of a deed is seen; and if nothing is left but the learner's own work, what that is: it stands at the end.
fn after_deed(model: &mut Model) {
    reveal(model);
    if model.learn.as_ref().is_some_and(Learn::is_theirs) {
        show_end(model);
    }
}

/// The learner comes from a shell: what was done there is looked at, and explained.
pub(super) fn back(model: &mut Model) -> Option<Cmd> {
    let shown = model.screen == Screen::Learn;
    let learn = model.learn.as_mut()?;
    learn.acted = true;
    learn.session.acts_by_hand();
    // Whatever was asked for before says nothing of it.
    (learn.stale, learn.answered) = (learn.seq, learn.seq);
    if shown { press(model, Does::Check) } else { None }
}

fn go(model: &mut Model, by: isize) -> Option<Cmd> {
    let now = model.now();
    let learn = model.learn.as_mut()?;
    let (passed, checks) = learn.passed();
    let at = learn.session.at();
    let last = learn.session.lab().steps.len().saturating_sub(1);
    let to = at.saturating_add_signed(by).min(last);
    // A chapter's questions have no checks: whoever goes on goes on with the course.
    let is_chapter = learn.session.lab().steps.is_empty();
    if to == at && by > 0 && (is_chapter || checks > 0 && passed == checks) {
        return Some(Cmd::NextLab);
    }
    if to == at {
        model.notify(Tone::Plain, if by > 0 { "this is the last step" } else { "this is the first step" });
        return None;
    }
    learn.session.go(to);
    (learn.item, learn.scroll, learn.details, learn.acted, learn.checked) = (0, 0, false, false, Vec::new());
    // Who comes back goes on where they were.
    let open = learn
        .first_open()
        .filter(|open| learn.session.items().iter().take(*open).any(|item| !matches!(item, Item::Predict(_))));
    let asked = learn.look_anew(now);
    if by > 0 && passed < checks {
        let open = checks - passed;
        model.notify(
            Tone::Plain,
            format!("step {} is not done: {open} of {checks} checks say not yet (p goes back)", at + 1),
        );
    }
    if let Some(open) = open {
        model.learn.as_mut()?.item = open;
        reveal(model);
    }
    asked
}

fn run(model: &mut Model) -> Option<Cmd> {
    let learn = model.learn.as_ref()?;
    if let Some(Item::Run(_)) = learn.session.items().get(learn.item) {
        return act(model);
    }
    model.notify(Tone::Plain, "what is marked is no command: Tab marks the next one");
    None
}

/// The lab is to begin at this step, and is being set up. `again`: nobody has asked for it; the learner was here the last time.
pub(super) fn begin_at(model: &mut Model, step: usize, again: bool) {
    let now = model.now();
    let Some(learn) = &mut model.learn else { return };
    match again {
        true => learn.session.stand_at(step),
        false => learn.session.go(step),
    }
    learn.running = Some((String::new(), now));
    let (why, way) = match again {
        true => (
            "you were here: ",
            format!("; --step 1 begins anew, as in: etcd-lab {} --step 1", learn.session.lab().head.id),
        ),
        false => ("", String::new()),
    };
    let text = format!("{why}step {} is being set up: a fresh cluster, and the steps before on it{way}", step + 1);
    model.notify(Tone::Plain, text);
}

/// Asked twice, the step is set up anew.
fn redo(model: &mut Model, sure: bool) -> Option<Cmd> {
    let now = model.now();
    let learn = model.learn.as_mut()?;
    let step = learn.session.at();
    if learn.running.is_some() {
        model.notify(Tone::Plain, "a command runs: wait for its end");
        return None;
    }
    if model.picture.as_ref().is_some_and(|picture| picture.is_elsewhere) {
        model.notify(Tone::Plain, NOT_MADE_ANEW);
        return None;
    }
    if !sure {
        learn.sure = true;
        let before = match step {
            0 => String::new(),
            1 => " with step 1 done".into(),
            _ => format!(" with steps 1 to {step} done"),
        };
        let text = format!("press x once more: you get a fresh cluster{before}; the lab's folder is emptied");
        model.notify(Tone::Plain, text);
        return None;
    }
    learn.running = Some((String::new(), now));
    model.notify(Tone::Plain, "the step is being set up: a fresh cluster, and the steps before on it");
    Some(Cmd::Redo { step })
}

fn hint(model: &mut Model) {
    let Some(learn) = &mut model.learn else { return };
    if !learn.session.open_next() {
        model.notify(
            Tone::Plain,
            "all hints of this step, and its solution, are open: they stand at the end of its page",
        );
        return;
    }
    // The newest fold is the last on the page.
    let text = match learn.session.opened() {
        4 => "the solution is open",
        3 => "hint 3 of 3 is open; h once more shows the solution",
        2 => "hint 2 of 3 is open",
        _ => "hint 1 of 3 is open",
    };
    model.notify(Tone::Plain, text);
    let Some(page) = page(model) else { return };
    if let Some(learn) = &mut model.learn {
        let lines = learn.lines(usize::from(page.width));
        let fold = lines.iter().rposition(|l| l.kind == LineKind::Heading).unwrap_or(0);
        let furthest = lines.len().saturating_sub(usize::from(page.height));
        let by = fold.min(furthest) as isize - learn.scroll as isize;
        learn.scroll_by(by, page);
    }
}

/// Enter: does what is marked.
pub(super) fn act(model: &mut Model) -> Option<Cmd> {
    let now = model.now();
    let page = page(model)?;
    let learn = model.learn.as_mut()?;
    if !learn.is_seen(page) {
        learn.reveal(page);
        model.notify(Tone::Plain, "this is marked; Enter does it");
        return None;
    }
    if refuses(model) {
        return None;
    }
    let learn = model.learn.as_mut()?;
    let items = learn.session.items();
    match items.get(learn.item)? {
        Item::Run(_) if learn.running.is_some() => {
            model.notify(Tone::Plain, "a command runs: wait for its end");
            None
        }
        Item::Run(run) => {
            let id = run.id.clone();
            learn.running = Some((id.clone(), now));
            Some(Cmd::RunBlock { id })
        }
        Item::Ask(_) => {
            model.overlay = Some(Overlay::Answer { text: String::new() });
            None
        }
        Item::Predict(predict) => {
            let locked =
                learn.session.guessed(&predict.id).map(|g| format!("you said: {g}. A guess is locked once it is made"));
            match locked {
                Some(locked) => model.notify(Tone::Plain, locked),
                None => model.overlay = Some(Overlay::Guess { choice: 0 }),
            }
            None
        }
    }
}

/// The prompt was sent off.
pub(super) fn answer(model: &mut Model, text: String) -> Option<Cmd> {
    let now = model.now();
    if refuses(model) {
        return None;
    }
    let learn = model.learn.as_mut()?;
    let Some(Item::Ask(ask)) = learn.session.items().get(learn.item).copied() else { return None };
    let id = ask.id.clone();
    match learn.session.answer(&id, &text) {
        Ok(()) => {
            // Whether it is right the checks say.
            (learn.acted, learn.details) = (true, true);
            let asked = learn.look_anew(now);
            after_deed(model);
            asked
        }
        Err(why) => {
            model.overlay = Some(Overlay::Answer { text });
            model.notify(Tone::Bad, why);
            None
        }
    }
}

/// A guess was chosen.
pub(super) fn guess(model: &mut Model, choice: usize) -> Option<Cmd> {
    if refuses(model) {
        return None;
    }
    let learn = model.learn.as_mut()?;
    let Some(Item::Predict(predict)) = learn.session.items().get(learn.item).copied() else { return None };
    let (id, option) = (predict.id.clone(), predict.options.get(choice)?.clone());
    let said = learn.session.predict(&id, &option).map(|_| ());
    if let Err(why) = said {
        model.notify(Tone::Bad, why);
    }
    after_deed(model);
    None
}

/// How many options the marked guess has.
pub(super) fn options(model: &Model) -> usize {
    let learn = model.learn.as_ref();
    let items = learn.map(|l| (l.item, l.session.items()));
    match items.as_ref().and_then(|(at, items)| items.get(*at)) {
        Some(Item::Predict(predict)) => predict.options.len(),
        _ => 0,
    }
}
