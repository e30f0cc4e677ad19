//! The Data screen's state: which folder, which revision, which key. What it shows comes back in the picture, so a recording has it.

use crate::lab::Report;
use crate::lab::deed::quoted;
use crate::lab::picture::Tone;
use crate::lab::store::Ask;
use crate::lab::store::Listing;
use crate::lab::store::Row;
use crate::lab::store::SEPARATOR;
use crate::lab::twin;
use crate::tui::Cmd;
use crate::tui::Model;
use crate::tui::act;
use crate::tui::keys::Does;
use crate::tui::model::Overlay;
use crate::tui::model::Question;
use crate::tui::model::Screen;

/// How a value is shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    #[default]
    Text,
    Json,
    Yaml,
    Hex,
}

/// Where the learner is.
#[derive(Clone, Debug, Default)]
pub struct DataView {
    pub prefix: Vec<u8>,
    /// Where the page begins; empty: at the beginning.
    pub from: Vec<u8>,
    pub cursor: usize,
    /// 0: the newest revision.
    pub at: i64,
    pub format: Format,
    /// The revision that the newest listing was asked at; when the store moves on, it is asked again.
    asked: u64,
}

pub(super) fn is_of_data(does: Does) -> bool {
    use Does::*;
    matches!(
        does,
        Next | Previous | Left | Accept | Older | Newer | Newest | Oldest | PageDown | Format | Compare | Filter
    )
}

pub(super) fn press(model: &mut Model, does: Does) -> Option<Cmd> {
    let rows = listing(model).map_or(0, |l| l.rows.len());
    match does {
        Does::Next => model.data.cursor = (model.data.cursor + 1).min(rows.saturating_sub(1)),
        Does::Previous => model.data.cursor = model.data.cursor.saturating_sub(1),
        Does::Accept => return open(model),
        Does::Left => return up(model),
        Does::PageDown => {
            let next = listing(model).and_then(|l| l.next.clone());
            match next {
                Some(next) => (model.data.from, model.data.cursor) = (next, 0),
                None => model.notify(Tone::Plain, "this is the folder's last page"),
            }
            return refresh(model);
        }
        Does::Oldest => {
            (model.data.from, model.data.cursor) = (Vec::new(), 0);
            return refresh(model);
        }
        Does::Older | Does::Newer | Does::Newest => return travel(model, does),
        Does::Format => {
            model.data.format = match model.data.format {
                Format::Text => Format::Json,
                Format::Json => Format::Yaml,
                Format::Yaml => Format::Hex,
                Format::Hex => Format::Text,
            };
        }
        Does::Filter => {
            let text = String::from_utf8_lossy(&model.data.prefix).into_owned();
            model.overlay = Some(Overlay::Prompt { what: Question::DataPrefix, text, fresh: false });
        }
        Does::Compare => return compare(model),
        _ => {}
    }
    None
}

/// Asks every member for its hash at the same revision.
pub(super) fn compare(model: &mut Model) -> Option<Cmd> {
    let picture = model.picture.as_ref().filter(|_| model.replay.is_none())?;
    let up = picture.members.iter().enumerate().filter(|(_, m)| !m.is_down());
    let urls = up.map(|(i, m)| (i, m.client_url.clone())).collect();
    model.show_line("etcdctl endpoint hashkv --cluster".into(), "");
    Some(Cmd::Data { urls: Vec::new(), ask: Ask::Compare { urls } })
}

/// The listing, if it is the one of this place.
#[must_use]
pub fn listing(model: &Model) -> Option<&Listing> {
    let listing = model.shown()?.shown.listing.as_ref()?;
    let v = &model.data;
    let is_recorded = model.replay.is_some() && model.twin.is_none();
    (is_recorded || (listing.prefix == v.prefix && listing.at == v.at && listing.from == v.from)).then_some(listing)
}

/// The marked row.
#[must_use]
pub fn marked(model: &Model) -> Option<&Row> {
    let rows = &listing(model)?.rows;
    rows.get(model.data.cursor.min(rows.len().checked_sub(1)?))
}

fn open(model: &mut Model) -> Option<Cmd> {
    let row = marked(model)?.clone();
    if row.is_folder {
        return enter(model, row.key);
    }
    let key = String::from_utf8_lossy(&row.key).into_owned();
    let rev = if model.data.at == 0 { String::new() } else { format!(" --rev {}", model.data.at) };
    model.show_line(format!("etcdctl get {}{rev} -w fields", quoted(&key)), "");
    ask(model, Ask::Key { key: row.key, at: model.data.at })
}

fn enter(model: &mut Model, prefix: Vec<u8>) -> Option<Cmd> {
    let shown = String::from_utf8_lossy(&prefix).into_owned();
    (model.data.prefix, model.data.from, model.data.cursor) = (prefix, Vec::new(), 0);
    model.show_line(format!("etcdctl get {} --prefix --keys-only", quoted(&shown)), "");
    refresh(model)
}

fn up(model: &mut Model) -> Option<Cmd> {
    let prefix = &model.data.prefix;
    let inner = prefix.strip_suffix(&[SEPARATOR]).unwrap_or(prefix);
    let above = inner.iter().rposition(|b| *b == SEPARATOR).map_or(Vec::new(), |i| inner[..=i].to_vec());
    enter(model, above)
}

/// The same folder at another revision.
fn travel(model: &mut Model, does: Does) -> Option<Cmd> {
    let newest = listing(model).map_or(0, |l| l.newest);
    let at = if model.data.at == 0 { newest } else { model.data.at };
    model.data.at = match does {
        Does::Older => (at - 1).max(1),
        Does::Newer if at + 1 < newest => at + 1,
        _ => 0,
    };
    let rev = if model.data.at == 0 { String::new() } else { format!(" --rev {}", model.data.at) };
    let prefix = String::from_utf8_lossy(&model.data.prefix).into_owned();
    model.show_line(format!("etcdctl get {} --prefix --keys-only{rev}", quoted(&prefix)), "");
    refresh(model)
}

/// Goes to a prefix by name.
pub(super) fn go_to(model: &mut Model, prefix: &str) -> Option<Cmd> {
    model.screen = Screen::Data;
    enter(model, prefix.as_bytes().to_vec())
}

/// Asks for the folder anew.
pub(super) fn refresh(model: &mut Model) -> Option<Cmd> {
    model.data.asked = newest(model);
    let v = &model.data;
    let what = Ask::List { prefix: v.prefix.clone(), from: v.from.clone(), at: v.at };
    ask(model, what)
}

/// While the screen is shown and the store has moved on, it is asked again.
pub(super) fn tick(model: &mut Model) -> Option<Cmd> {
    if model.screen == Screen::Data && model.twin.is_some() {
        // It is played, and gone back in: what was shown is not what is.
        let is_there = model.shown().is_some_and(|p| p.shown.listing.is_some() || p.shown.failed.is_some());
        if !is_there || newest(model) != model.data.asked {
            return refresh(model);
        }
        return None;
    }
    let stale = model.screen == Screen::Data && model.data.at == 0 && newest(model) > model.data.asked;
    if stale && model.frozen.is_none() { refresh(model) } else { None }
}

fn newest(model: &Model) -> u64 {
    let picture = if model.twin.is_some() { model.shown() } else { model.picture.as_ref() };
    picture.iter().flat_map(|p| &p.members).map(|m| m.revision).max().unwrap_or(0)
}

fn ask(model: &mut Model, what: Ask) -> Option<Cmd> {
    let newest = i64::try_from(newest(model)).unwrap_or(i64::MAX);
    if let (Some(twin), Some(replay)) = (&model.twin, &mut model.replay) {
        let looks = replay.picture.members.iter().filter_map(|m| m.look.as_ref());
        let floor = looks.map(|look| look.compact_revision).max().unwrap_or(0);
        let floor = i64::try_from(floor).unwrap_or(i64::MAX);
        let shown = twin::answer(&twin.history, newest, floor, &what);
        replay.picture.learn(Report::Shown(Box::new(shown)));
        return None;
    }
    if model.replay.is_some() || model.picture.is_none() {
        return None;
    }
    Some(Cmd::Data { urls: act::endpoints(model), ask: what })
}
