//! The Data screen: the key space as a tree, and the marked key with its past.
//!
//! ```text
//!  /registry/pods/   at the newest revision, 41          ── /registry/pods/web ──────────
//! ▸default/                                               {"replicas":3}
//!  web            rev 41  version 3                       history   rev 41  v3   {"replicas":3}
//! ```

use super::Page;
use crate::lab::Picture;
use crate::lab::picture::words::counted;
use crate::lab::store::Compared;
use crate::lab::store::Key;
use crate::lab::store::Version;
use crate::tui::data;
use crate::tui::data::Format;
use crate::tui::model::Model;
use crate::tui::mouse::Hit;
use ratatui::layout::Rect;
use ratatui::style::Style;
use serde_json::Value;

const VALUE_LINES: usize = 400;
/// Keys that differ, below the hashes of members.
const KEYS_SHOWN: usize = 4;

pub(super) fn draw(model: &Model, picture: &Picture, page: &mut Page, area: Rect) {
    let shown = &picture.shown;
    let rows = shown.compared.as_ref().map_or(0, |c| (c.hashes.len() + c.differ.len().min(KEYS_SHOWN)) as u16 + 1);
    let rows = if area.height > rows + 6 { rows } else { 0 };
    let main = Rect { height: area.height - rows, ..area };
    let left = Rect { width: (area.width * 45 / 100).max(26).min(area.width), ..main };
    let right = Rect { x: left.right() + 1, width: area.width.saturating_sub(left.width + 1), ..main };
    tree(model, picture, page, left);
    match &shown.key {
        Some(key) => value(model, key, page, right),
        None => {
            page.line(right, 1, "Enter opens the marked folder or key.", page.theme.faint());
        }
    }
    if let Some(found) = shown.compared.as_ref().filter(|_| rows > 0) {
        compared(picture, found, page, Rect { y: main.bottom(), height: rows, ..area });
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).escape_debug().to_string()
}

fn tree(model: &Model, picture: &Picture, page: &mut Page, area: Rect) {
    let Some(listing) = data::listing(model) else {
        let why = picture.shown.failed.clone().unwrap_or_else(|| "asking…".into());
        page.line(area, 0, &format!(" {}", text(&model.data.prefix)), page.theme.good());
        page.line(area, 1, &format!(" {why}"), page.theme.faint());
        return;
    };
    let when = match listing.at {
        0 => format!("revision {} (newest)", listing.newest),
        at => format!("PAST: revision {at} of {}", listing.newest),
    };
    let name = if listing.prefix.is_empty() { "all keys".into() } else { text(&listing.prefix) };
    page.line(area, 0, &format!(" {name}  {when}"), page.theme.good());
    if listing.rows.is_empty() {
        page.line(area, 1, " no keys here; w writes one", page.theme.faint());
    }
    let height = usize::from(area.height.saturating_sub(2)).max(1);
    let cursor = model.data.cursor.min(listing.rows.len().saturating_sub(1));
    let skip = cursor.saturating_sub(height - 1);
    for ((i, row), y) in listing.rows.iter().enumerate().skip(skip).take(height).zip(1..) {
        let mark = if i == cursor { "▸" } else { " " };
        let name = text(&row.key[listing.prefix.len().min(row.key.len())..]);
        let about = if row.is_folder { String::new() } else { format!("  rev {} v{}", row.mod_revision, row.version) };
        let style = if i == cursor { page.theme.marked() } else { Style::new() };
        let x = page.line(area, y, &format!("{mark}{name}"), style);
        page.at(area, x - area.x, y, &about, page.theme.faint());
        page.hit(area, y, Hit::Line(i as u64));
    }
    let more = if listing.next.is_some() { " more: PgDn" } else { " end" };
    page.line(
        area,
        area.height.saturating_sub(1),
        &format!(" {},{more}", counted(listing.rows.len() as u64, "row", "rows")),
        page.theme.faint(),
    );
}

fn value(model: &Model, key: &Key, page: &mut Page, area: Rect) {
    page.rule(area, &text(&key.key));
    let Some(newest) = key.versions.first() else {
        page.line(area, 1, "it is not there at this revision", page.theme.faint());
        return;
    };
    let lease = if newest.lease == 0 { String::new() } else { format!("  lease {:x}", newest.lease) };
    let about = format!(
        "created {}  changed {}  version {}{lease}",
        newest.create_revision, newest.mod_revision, newest.version
    );
    page.line(area, 1, &about, page.theme.faint());
    let history = (key.versions.len() as u16 + 2).min(area.height / 2);
    let room = area.height.saturating_sub(3 + history);
    let (name, lines) = formatted(newest, model.data.format, usize::from(area.width));
    page.line(area, 2, &format!("{} as {name} (v)", counted(newest.bytes as u64, "byte", "bytes")), page.theme.faint());
    for (line, y) in lines.iter().take(usize::from(room)).zip(3..) {
        page.line(area, y, line, Style::new());
    }
    let below = Rect { y: area.y + 3 + room, height: history, ..area };
    page.rule(below, &format!("history: {}, newest first", counted(key.versions.len() as u64, "version", "versions")));
    for (version, y) in key.versions.iter().zip(1..below.height) {
        let first = formatted(version, Format::Text, usize::from(area.width)).1.into_iter().next().unwrap_or_default();
        page.line(below, y, &format!("rev {:>4}  v{:<3} {first}", version.mod_revision, version.version), Style::new());
    }
    if !key.cut.is_empty() && key.versions.len() as u16 + 1 < below.height {
        page.line(below, key.versions.len() as u16 + 1, &key.cut, page.theme.faint());
    }
}

/// The value's lines, and what they are. What is no text or no JSON says so.
fn formatted(version: &Version, format: Format, width: usize) -> (&'static str, Vec<String>) {
    let width = width.max(8);
    let utf8 = std::str::from_utf8(&version.value);
    let hex = || {
        let per_line = ((width.saturating_sub(2)) / 3).clamp(4, 16);
        let line = |chunk: &[u8]| chunk.iter().map(|b| format!("{b:02x}")).collect::<Vec<_>>().join(" ");
        version.value.chunks(per_line).take(VALUE_LINES).map(line).collect::<Vec<_>>()
    };
    match (format, utf8) {
        (Format::Hex, _) => ("hex", hex()),
        (_, Err(_)) => ("hex: it is no text", hex()),
        (Format::Json, Ok(utf8)) => match serde_json::from_str::<Value>(utf8) {
            Ok(json) => ("JSON", cut(&format!("{json:#}"), width)),
            Err(_) => ("text: it is no JSON", cut(utf8, width)),
        },
        // What is written as YAML is seen as it is.
        (Format::Yaml, Ok(utf8)) => match serde_json::from_str::<Value>(utf8) {
            Ok(json) => ("YAML", cut(&yaml(&json), width)),
            Err(_) => ("text: it is no JSON that could be shown as YAML", cut(utf8, width)),
        },
        (Format::Text, Ok(utf8)) => ("text", cut(utf8, width)),
    }
}

/// JSON as YAML 1.2, in blocks. A text that YAML would take for something else is quoted as in JSON.
fn yaml(value: &Value) -> String {
    let mut text = String::new();
    block(value, 0, &mut text);
    text.trim_start().to_owned()
}

fn block(value: &Value, depth: usize, out: &mut String) {
    let indent = "  ".repeat(depth);
    match value {
        Value::Object(fields) if !fields.is_empty() => {
            for (name, v) in fields {
                out.push_str(&format!("\n{indent}{}:", scalar(name)));
                block(v, depth + 1, out);
            }
        }
        Value::Array(all) if !all.is_empty() => {
            for v in all {
                out.push_str(&format!("\n{indent}-"));
                block(v, depth + 1, out);
            }
        }
        Value::String(text) => out.push_str(&format!(" {}", scalar(text))),
        other => out.push_str(&format!(" {other}")),
    }
}

fn scalar(text: &str) -> String {
    let first_fits = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/' || c == '_');
    let rest_fits = text.chars().all(|c| c.is_alphanumeric() || " _-./@%+".contains(c)) && !text.ends_with(' ');
    let is_other =
        ["true", "false", "null", "yes", "no", "on", "off", "y", "n"].contains(&text.to_lowercase().as_str());
    if first_fits && rest_fits && !is_other { text.to_owned() } else { Value::from(text).to_string() }
}

fn cut(text: &str, width: usize) -> Vec<String> {
    let fold = |line: &str| {
        let chars: Vec<char> = line.chars().map(|c| if c.is_control() { '·' } else { c }).collect();
        let rows: Vec<String> = chars.chunks(width).map(|c| c.iter().collect()).collect();
        if rows.is_empty() { vec![String::new()] } else { rows }
    };
    text.lines().flat_map(fold).take(VALUE_LINES).collect()
}

/// Whether members agree; each says the hash of the same revision.
pub(super) fn compared(picture: &Picture, found: &Compared, page: &mut Page, area: Rect) {
    let Compared { revision, hashes, differ } = found;
    let good: Vec<u32> = hashes.iter().filter_map(|h| h.hash.as_ref().ok().map(|(hash, _)| *hash)).collect();
    let same = good.windows(2).all(|w| w[0] == w[1]);
    let verdict = match (same, good.len() == hashes.len()) {
        (true, true) => "all members have the same",
        (true, false) => "those that answer have the same",
        (false, _) => "MEMBERS DIFFER",
    };
    page.rule(area, &format!("at revision {revision}: {verdict}"));
    for (h, row) in hashes.iter().zip(1..area.height) {
        let name = picture.members.get(h.member).map_or("?", |m| m.name.as_str());
        let says = match &h.hash {
            Ok((hash, compact)) => format!("hash {hash:>10}  history from {compact}"),
            Err(why) => format!("no answer: {why}"),
        };
        page.line(area, row, &format!(" {name}  {says}"), if same { Style::new() } else { page.theme.bad() });
    }
    for (d, row) in differ.iter().zip(hashes.len() as u16 + 1..area.height) {
        let member = |m: usize| picture.members.get(m).map_or("?", |m| m.name.as_str());
        let has = |(m, has): &(usize, Option<(i64, u32)>)| match has {
            Some((revision, sum)) => format!("{} rev {revision} sum {sum:08x}", member(*m)),
            None => format!("{} has it not", member(*m)),
        };
        let all = d.has.iter().map(has).collect::<Vec<_>>().join("  ");
        page.line(area, row, &format!("   {}: {all}", text(&d.key)), page.theme.bad());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_shown_as_yaml() {
        let json = serde_json::json!({
            "kind": "Pod", "yes": "no", "n": 3, "empty": {}, "list": ["a b", "1", {"x": null, "y": [true]}], "text": "a: b",
        });
        let expected = "empty: {}\nkind: Pod\nlist:\n  - a b\n  - \"1\"\n  -\n    x: null\n    \"y\":\n      - true\n\"n\": 3\ntext: \"a: b\"\n\"yes\": \"no\"";
        assert_eq!(yaml(&json), expected);
        assert_eq!(yaml(&serde_json::json!("plain")), "plain");
    }
}
