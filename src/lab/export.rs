//! A recording for other programs: JSON lines, and space-time diagrams as text and as SVG.
//!
//! A space-time diagram (Lamport) has a line for each member, time downwards, and an arrow from where a message was sent to where it arrived. All of
//! it is what members told; a message whose arrival nobody told has no head.

use crate::lab::observe::Report;
use crate::lab::picture::wires::End;
use crate::lab::picture::wires::Line;
use crate::lab::recording::Recording;
use crate::lab::recording::Replay;
use crate::lab::up::clock;
use crate::proto::lab;
use crate::proto::lab::Wire;
use crate::proto::lab::event::Kind;
use crate::types::Millis;
use serde_json::Value;
use serde_json::json;
use std::collections::BTreeMap;
use std::ops::RangeInclusive;

/// Reports between two looks at the messages: fewer than the picture keeps of them.
const LOOK_EVERY: usize = 500;
/// Columns, or pixels, of a diagram.
const LANE: usize = 16;
const FIRST: usize = 12;
const LANE_PX: u64 = 170;
const FIRST_PX: u64 = 110;
/// The least and the most that two moments are apart, so that arrows can be told apart and a pause costs no page.
const GAP_PX: RangeInclusive<u64> = 9..=60;

/// One line of JSON for each report of a time.
pub fn json_lines(recording: &Recording, time: RangeInclusive<Millis>) -> impl Iterator<Item = String> + '_ {
    let name = |member: usize| recording.record.members.get(member).map(|m| m.name.clone());
    let reports = recording.reports().filter(move |(at, _)| time.contains(at));
    reports.map(move |(at, report)| {
        let (member, mut value) = match report {
            Report::Process { member, change } => (Some(*member), json!({ "process": change })),
            Report::Connected { member } => (Some(*member), json!({ "connected": true })),
            Report::Lost { member, why } => (Some(*member), json!({ "lost": why })),
            Report::Telemetry { member, event } => (Some(*member), telemetry(event)),
            Report::Looked { member, look } => (
                Some(*member),
                json!({ "looked": { "revision": look.revision, "watchers": look.watchers_total, "leases": look.leases_total } }),
            ),
            Report::Surveyed { member, survey } => (Some(*member), json!({ "surveyed": survey })),
            Report::Shown(shown) => (None, json!({ "shown": shown })),
            Report::Did { line } => (None, json!({ "did": line })),
            Report::Mark { text } => (None, json!({ "mark": text })),
            Report::Papers { member, papers } => (Some(*member), json!({ "papers": papers })),
            Report::Said { member, line } => (Some(*member), json!({ "log": line })),
            Report::Nemesis { line } => (None, json!({ "nemesis": line })),
            Report::Called(call) => (None, json!({ "client": call })),
            Report::Watched { member, watched } => (Some(*member), json!({ "watch": watched })),
            Report::Note { text } => (None, json!({ "note": text })),
        };
        value["at_ms"] = at.0.into();
        if let Some(name) = member.and_then(name) {
            value["member"] = name.into();
        }
        value.to_string()
    })
}

fn telemetry(t: &lab::Telemetry) -> Value {
    let mut value = t.event.as_ref().and_then(|e| e.kind.as_ref()).map_or(json!({}), kind);
    value["seq"] = t.seq.into();
    value["member_us"] = t.at_us.into();
    value
}

fn kind(kind: &Kind) -> Value {
    match kind {
        Kind::Snapshot(s) => {
            json!({ "snapshot": { "state": s.state.as_ref().map(state), "log": entries(&s.tail), "revision": s.revision } })
        }
        Kind::State(s) => json!({ "state": state(s) }),
        Kind::Timer(t) => {
            json!({ "timer": { "elapsed": t.election_elapsed_ticks, "timeout": t.election_timeout_ticks } })
        }
        Kind::Progress(p) => {
            json!({ "progress": { "peer": id(p.peer), "match": p.match_index, "next": p.next_index, "state": p.state().as_str_name() } })
        }
        Kind::Votes(v) => {
            json!({ "votes": { "term": v.term, "pre": v.pre, "granted": ids(&v.granted), "rejected": ids(&v.rejected) } })
        }
        Kind::Appended(a) => json!({ "appended": entries(&a.entries) }),
        Kind::Truncated(t) => json!({ "truncated": { "last_kept": t.last_kept } }),
        Kind::Persisted(p) => {
            json!({ "persisted": { "index": p.index, "entries": p.entries, "bytes": p.bytes, "sync_us": p.sync_us } })
        }
        Kind::Applied(a) => json!({ "applied": { "index": a.index, "revision": a.revision } }),
        Kind::Sent(s) => json!({ "sent": s.wire.as_ref().map(wire) }),
        Kind::Received(r) => json!({ "received": r.wire.as_ref().map(wire) }),
        Kind::Dropped(d) => json!({ "dropped": d.wire.as_ref().map(wire), "why": d.reason }),
        Kind::Proposed(p) => {
            json!({ "proposed": { "request": id(p.request_id), "what": p.summary, "untold_before": p.untold } })
        }
        Kind::Answered(a) => {
            json!({ "answered": { "request": id(a.request_id), "ok": a.ok, "revision": a.revision, "took_us": a.took_us } })
        }
        Kind::Members(m) => {
            json!({ "members": m.members.iter().map(|m| json!({ "id": id(m.id), "name": m.name, "learner": m.learner })).collect::<Vec<_>>() })
        }
        Kind::Link(l) => json!({ "link": { "peer": id(l.peer), "up": l.up, "why": l.why } }),
        Kind::Note(n) => json!({ "says": n.text }),
        Kind::Clock(c) => json!({ "clock": { "held": c.held, "slower": c.slower, "lab_ms": c.lab_ms } }),
        Kind::Held(h) => json!({ "held": h.wire.as_ref().map(wire), "number": h.id }),
        Kind::Freed(f) => json!({ "freed": f.id, "dropped": f.dropped }),
    }
}

fn id(id: u64) -> String {
    format!("{id:x}")
}

fn ids(all: &[u64]) -> Vec<String> {
    all.iter().copied().map(id).collect()
}

fn state(s: &lab::State) -> Value {
    json!({
        "role": s.role().as_str_name(), "term": s.term, "vote": id(s.vote), "leader": id(s.leader), "first": s.first_index, "last": s.last_index,
        "persisted": s.persisted, "commit": s.commit, "applied": s.applied,
    })
}

fn entries(all: &[lab::LogEntry]) -> Vec<Value> {
    let entry = |e: &lab::LogEntry| json!({ "index": e.index, "term": e.term, "kind": e.kind().as_str_name(), "bytes": e.bytes, "sum": e.sum, "what": e.summary });
    all.iter().map(entry).collect()
}

fn wire(w: &Wire) -> Value {
    json!({
        "from": id(w.from), "to": id(w.to), "code": crate::lab::picture::flight::code(w), "term": w.term, "index": w.index, "log_term": w.log_term,
        "commit": w.commit, "entries": w.entries, "reject": w.reject,
    })
}

/// The messages of a time, in the order in which they were sent. Heartbeats only if they are wanted.
fn messages(recording: &Recording, time: &RangeInclusive<Millis>, heartbeats: bool) -> Vec<Line> {
    let mut replay = Replay::new(recording.clone());
    let mut found: BTreeMap<u64, Line> = BTreeMap::new();
    let len = replay.len();
    for place in (0..len).step_by(LOOK_EVERY).chain([len]) {
        replay.seek(place);
        // What became of a message may be known only now.
        found.extend(replay.picture.wires.iter().map(|l| (l.number, l.clone())));
    }
    let mut lines: Vec<Line> = found.into_values().collect();
    lines.retain(|l| time.contains(&l.at) && (heartbeats || !l.is_routine()));
    lines.sort_by_key(|l| (l.at, l.number));
    lines
}

fn names(recording: &Recording) -> Vec<String> {
    recording.record.members.iter().map(|m| m.name.clone()).collect()
}

/// A space-time diagram as text: one line for each message.
#[must_use]
pub fn space_time_text(recording: &Recording, time: &RangeInclusive<Millis>, heartbeats: bool) -> String {
    let names = names(recording);
    let lane = |m: usize| FIRST + m * LANE;
    let mut text = format!("{:<FIRST$}", "sent");
    for name in &names {
        text.push_str(&format!("{name:<LANE$}"));
    }
    text = text.trim_end().to_owned() + "\n";
    for l in messages(recording, time, heartbeats) {
        let mut row: Vec<char> = format!("{:<FIRST$}", clock(l.at)).chars().collect();
        row.resize(lane(names.len()), ' ');
        (0..names.len()).for_each(|m| row[lane(m)] = '|');
        let (left, right) = (lane(l.from.min(l.to)), lane(l.from.max(l.to)));
        row[left + 1..right].fill('-');
        let code: Vec<char> = format!(" {} ", l.code()).chars().collect();
        let middle = (left + right - code.len()).div_ceil(2);
        row[middle..middle + code.len()].copy_from_slice(&code);
        let head = match (&l.end, l.to > l.from) {
            (End::Arrived { .. }, true) => '>',
            (End::Arrived { .. }, false) => '<',
            (End::Lost { .. }, _) => 'x',
            (End::Held { .. } | End::Unknown, _) => '?',
        };
        row[if l.to > l.from { right - 1 } else { left + 1 }] = head;
        let row: String = row.into_iter().collect();
        text.push_str(&format!(
            "{} t{} index {}  {}\n",
            row.trim_end_matches(' '),
            l.wire.term,
            l.wire.index,
            became(&l)
        ));
    }
    text
}

fn became(l: &Line) -> String {
    match &l.end {
        End::Unknown => "nobody has said what became of it".into(),
        End::Held { id } => format!("waits ({id})"),
        End::Arrived { at } => format!("arrived after {} ms", at.0.saturating_sub(l.at.0)),
        End::Lost { why } => format!("lost: {why}"),
    }
}

/// The same as a picture. Not to scale: pauses are shortened, and what happens at once is drawn apart. The times stand beside it.
#[must_use]
pub fn space_time_svg(recording: &Recording, time: &RangeInclusive<Millis>, heartbeats: bool) -> String {
    let (names, lines) = (names(recording), messages(recording, time, heartbeats));
    // Each message has two moments of its own, sent and arrived, in the order of their times.
    let end = |l: &Line| if let End::Arrived { at } = l.end { at.max(l.at) } else { l.at };
    let mut moments: Vec<(Millis, usize, bool)> = Vec::new();
    for (i, l) in lines.iter().enumerate() {
        moments.extend([(l.at, i, false), (end(l), i, true)]);
    }
    moments.sort_by_key(|(at, i, is_end)| (*at, *is_end, *i));
    let (mut y, mut before) = (60, None);
    let mut places: BTreeMap<(usize, bool), u64> = BTreeMap::new();
    let mut labels = Vec::new();
    for (at, i, is_end) in moments {
        let gap = before.map_or(0, |b: Millis| at.0.saturating_sub(b.0)).clamp(*GAP_PX.start(), *GAP_PX.end());
        y += gap;
        if before != Some(at) {
            labels.push(format!("<text x=\"8\" y=\"{}\" class=\"t\">{}</text>", y + 4, clock(at)));
        }
        places.insert((i, is_end), y);
        before = Some(at);
    }
    let (width, height) = (FIRST_PX + LANE_PX * names.len() as u64, y + 40);
    let x = |m: usize| FIRST_PX + m as u64 * LANE_PX;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} {height}\">\n\
         <style>text{{font:12px monospace}}.t{{fill:#666}}.n{{font-weight:bold}}line{{stroke:#333}}.m{{stroke:#bbb}}.l{{stroke-dasharray:4}}</style>\n\
         <defs><marker id=\"a\" markerWidth=\"9\" markerHeight=\"7\" refX=\"9\" refY=\"3.5\" orient=\"auto\"><path d=\"M0,0 9,3.5 0,7z\"/></marker></defs>\n\
         <rect width=\"{width}\" height=\"{height}\" fill=\"#fff\"/>\n"
    );
    for (m, name) in names.iter().enumerate() {
        svg.push_str(&format!(
            "<text x=\"{}\" y=\"30\" class=\"n\" text-anchor=\"middle\">{}</text>\n",
            x(m),
            escaped(name)
        ));
        svg.push_str(&format!("<line x1=\"{0}\" y1=\"40\" x2=\"{0}\" y2=\"{1}\" class=\"m\"/>\n", x(m), height - 20));
    }
    svg.push_str(&(labels.join("\n") + "\n"));
    for (i, l) in lines.iter().enumerate() {
        let (y1, y2) = (places[&(i, false)], places[&(i, true)]);
        let (x1, x2) = (x(l.from), x(l.to));
        // What did not arrive ends half way.
        let (x2, y2, style) = match &l.end {
            End::Arrived { .. } => (x2, y2, "marker-end=\"url(#a)\""),
            _ => (x1.midpoint(x2), y1.midpoint(y2), "class=\"l\""),
        };
        svg.push_str(&format!("<line x1=\"{x1}\" y1=\"{y1}\" x2=\"{x2}\" y2=\"{y2}\" {style}/>\n"));
        let mark = if matches!(l.end, End::Lost { .. }) { " \u{d7}" } else { "" };
        let says = escaped(&format!("{} t{}{mark}", l.code(), l.wire.term));
        svg.push_str(&format!(
            "<text x=\"{}\" y=\"{}\" text-anchor=\"middle\">{says}</text>\n",
            x1.midpoint(x2),
            y1.midpoint(y2).saturating_sub(3)
        ));
    }
    svg + "</svg>\n"
}

/// A text inside XML.
#[must_use]
pub fn escaped(text: &str) -> String {
    let letter = |c: char| match c {
        '&' => "&amp;".into(),
        '<' => "&lt;".into(),
        '>' => "&gt;".into(),
        '"' => "&quot;".into(),
        c if c.is_control() => "\u{fffd}".into(),
        c => c.to_string(),
    };
    text.chars().map(letter).collect()
}
