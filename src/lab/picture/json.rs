//! The picture as JSON and as plain lines: the twin of every screen, for `etcd-lab show`. Ids in hexadecimal, as etcd prints them; absent
//! means: not reported.

use crate::lab::picture::MemberView;
use crate::lab::picture::Pace;
use crate::lab::picture::Picture;
use crate::lab::picture::Process;
use crate::lab::picture::Tap;
use crate::lab::picture::wires::End;
use crate::lab::picture::wires::Line;
use crate::lab::picture::words::role_word;
use crate::lab::promises::Promise;
use crate::proto::lab::Change;
use crate::proto::lab::LeaseView;
use crate::proto::lab::State;
use crate::proto::lab::Watcher;
use crate::types::Millis;
use serde_json::Value;
use serde_json::json;

/// The screens that have a twin, by name.
pub const SCREENS: [&str; 7] = ["ring", "wire", "logs", "watch", "data", "cluster", "promises"];
/// Newest messages shown.
const WIRES: usize = 100;
/// Newest log entries shown of each member.
const TAIL: usize = 20;

impl Picture {
    /// Everything that is known, as one object.
    #[must_use]
    pub fn to_json(&self) -> Value {
        json!({
            "leader": self.leader().map(|l| self.members[l].name.clone()),
            "term": self.term(),
            "clock": self.clock_json(),
            "broken_promises": self.promises.broken().map(Promise::name).collect::<Vec<_>>(),
            "members": self.members.iter().map(|m| self.member_json(m)).collect::<Vec<_>>(),
            "feed": self.feed.iter().map(|l| json!({ "at_ms": l.at.0, "text": l.text })).collect::<Vec<_>>(),
        })
    }

    /// What one screen shows, as an object. `None`: there is no such screen.
    #[must_use]
    pub fn screen_json(&self, screen: &str) -> Option<Value> {
        Some(match screen {
            "ring" => self.to_json(),
            "wire" => json!({ "clock": self.clock_json(), "messages": self.wires_json() }),
            "logs" => json!({
                "leader": self.leader().map(|l| self.members[l].name.clone()),
                "members": self.members.iter().map(|m| self.member_json(m)).collect::<Vec<_>>(),
                "why_newest_not_committed": self.newest_index().map(|i| self.why_not_committed(i)),
            }),
            "watch" => self.watch_json(),
            "data" => self.data_json(),
            "cluster" => self.cluster_json(),
            "promises" => self.promises.to_json(),
            _ => return None,
        })
    }

    fn newest_index(&self) -> Option<u64> {
        self.members.iter().filter_map(|m| m.log.keys().last()).max().copied()
    }

    fn clock_json(&self) -> Value {
        match self.pace() {
            Pace::Live => json!("live"),
            Pace::Held => json!("held"),
            Pace::Slow(slower) => json!(format!("1/{slower}")),
            Pace::Mixed => json!("mixed"),
        }
    }

    fn wires_json(&self) -> Vec<Value> {
        let name = |m: usize| self.members.get(m).map(|m| m.name.clone());
        let line = |l: &Line| {
            let end = match &l.end {
                End::Unknown => json!("unknown"),
                End::Held { id } => json!({ "held": id }),
                End::Arrived { at } => json!({ "arrived_ms": at.0 }),
                End::Lost { why } => json!({ "lost": why }),
            };
            json!({
                "sent_ms": l.at.0, "from": name(l.from), "to": name(l.to), "code": l.code(), "term": l.wire.term,
                "index": l.wire.index, "entries": l.wire.entries, "commit": l.wire.commit, "end": end,
            })
        };
        self.wires.iter().rev().take(WIRES).map(line).collect::<Vec<_>>().into_iter().rev().collect()
    }

    fn watch_json(&self) -> Value {
        let text = |b: &[u8]| String::from_utf8_lossy(b).into_owned();
        let watcher = |(member, w): (usize, &Watcher)| {
            json!({
                "id": w.watch_id, "member": self.members[member].name, "key": text(&w.key), "range_end": text(&w.range_end),
                "from": w.start_revision, "first": w.first_revision, "next": w.next_revision, "synced": w.synced, "cancelled": w.cancelled,
                "queued": w.queued, "client": w.client, "why": self.why_watcher_behind(member, w),
            })
        };
        let changes = self.tape.iter().map(|(revision, changes)| {
            let change = |c: &Change| {
                json!({ "key": text(&c.key), "deleted": c.deleted, "version": c.version, "lease": format!("{:x}", c.lease) })
            };
            json!({ "revision": revision, "changes": changes.iter().map(change).collect::<Vec<_>>() })
        });
        let lease = |member: &MemberView, l: &LeaseView| {
            let left = (l.left_ms >= 0).then_some(l.left_ms);
            json!({ "member": member.name, "id": format!("{:x}", l.id), "ttl_s": l.ttl_s, "left_ms": left, "keys": l.keys_total })
        };
        let fan = |(revision, applied): (&u64, &Vec<(usize, Millis)>)| {
            let first = applied.first().map_or(Millis(0), |(_, at)| *at);
            let one =
                |(m, at): &(usize, Millis)| json!({ "member": self.members[*m].name, "after_ms": at.0 - first.0 });
            json!({ "revision": revision, "applied": applied.iter().map(one).collect::<Vec<_>>() })
        };
        let looks = self.members.iter().filter_map(|m| Some((m, m.look.as_ref()?)));
        let leases: Vec<Value> =
            looks.clone().flat_map(|(m, look)| look.leases.iter().map(move |l| lease(m, l))).collect();
        let mut shown = json!({
            "revisions": looks.clone().map(|(m, l)| json!({ "member": m.name, "revision": l.revision, "compacted_below": l.compact_revision })).collect::<Vec<_>>(),
            "watchers": self.watchers().map(watcher).collect::<Vec<_>>(),
            "leases": leases,
            "tape": changes.collect::<Vec<_>>(),
            "fan_out": self.fans.iter().map(fan).collect::<Vec<_>>(),
        });
        if self.reconcile.is_there() {
            shown["reconcile"] = self.reconcile.to_json();
        }
        shown
    }

    fn data_json(&self) -> Value {
        let text = |b: &[u8]| String::from_utf8_lossy(b).into_owned();
        let listing = self.shown.listing.as_ref().map(|l| {
            let rows = l.rows.iter().map(|r| json!({ "key": text(&r.key), "folder": r.is_folder, "revision": r.mod_revision }));
            json!({ "prefix": text(&l.prefix), "at": l.at, "newest": l.newest, "rows": rows.collect::<Vec<_>>(), "more": l.next.is_some() })
        });
        json!({ "listing": listing, "failed": self.shown.failed, "rights": self.rights_json() })
    }

    fn cluster_json(&self) -> Value {
        let member = |(i, m): (usize, &MemberView)| {
            json!({
                "name": m.name, "id": m.id.map(|id| format!("{id:x}")), "role": m.role(self.now).map(role_word),
                "process": process_json(&m.process), "survey": m.survey,
                "wall_clock_ahead_ms": m.look.as_ref().map(|l| l.wall_offset_ms), "own_log": m.said,
                "papers": m.papers, "close": m.close, "why_not_serving": self.why_unstarted(i),
            })
        };
        json!({
            "clock": self.clock_json(),
            "members": self.members.iter().enumerate().map(member).collect::<Vec<_>>(),
            "why_write_refused": self.why_write_refused(),
        })
    }

    fn member_json(&self, m: &MemberView) -> Value {
        let state = m.state.as_ref();
        let named = |id: u64| (id != 0).then(|| self.name(id));
        let tail = m.log.iter().rev().take(TAIL).collect::<Vec<_>>().into_iter().rev();
        let entry = |(index, e): (&u64, &super::Entry)| json!({ "index": index, "term": e.term, "summary": e.summary, "bytes": e.bytes });
        let progress = m.progress.values().map(|p| {
            json!({ "peer": self.name(p.peer), "match": p.match_index, "next": p.next_index, "state": p.state().as_str_name() })
        });
        json!({
            "name": m.name,
            "id": m.id.map(|id| format!("{id:x}")),
            "client_url": m.client_url,
            "process": process_json(&m.process),
            "telemetry": tap_json(m, self.now),
            "role": m.role(self.now).map(role_word),
            "term": state.map(|s| s.term),
            "vote": state.and_then(|s| named(s.vote)),
            "leader": state.and_then(|s| named(s.leader)),
            "log": state.map(marks_json),
            "revision": state.map(|_| m.revision),
            "progress": progress.collect::<Vec<_>>(),
            "tail": tail.map(entry).collect::<Vec<_>>(),
            "missed_events": m.dropped,
        })
    }
}

/// An object as lines for a reader, one fact each, what belongs together further in.
#[must_use]
pub fn plain(value: &Value) -> Vec<String> {
    let mut lines = Vec::new();
    plainly(value, 0, &mut lines);
    lines
}

fn plainly(value: &Value, depth: usize, lines: &mut Vec<String>) {
    let indent = "  ".repeat(depth);
    let scalar = |v: &Value| match v {
        Value::Null => Some("not reported".to_string()),
        Value::String(text) => Some(text.clone()),
        Value::Array(all) if all.is_empty() => Some("none".into()),
        Value::Bool(_) | Value::Number(_) => Some(v.to_string()),
        Value::Array(_) | Value::Object(_) => None,
    };
    match value {
        Value::Object(fields) => {
            for (name, v) in fields {
                let name = name.replace('_', " ");
                match scalar(v) {
                    Some(text) => lines.push(format!("{indent}{name}: {text}")),
                    None => {
                        lines.push(format!("{indent}{name}:"));
                        plainly(v, depth + 1, lines);
                    }
                }
            }
        }
        Value::Array(all) => {
            for (i, v) in all.iter().enumerate() {
                match scalar(v) {
                    Some(text) => lines.push(format!("{indent}{text}")),
                    None => {
                        lines.push(format!("{indent}{} of {}:", i + 1, all.len()));
                        plainly(v, depth + 1, lines);
                    }
                }
            }
        }
        other => lines.extend(scalar(other).map(|text| format!("{indent}{text}"))),
    }
}

fn marks_json(s: &State) -> Value {
    json!({ "first": s.first_index, "last": s.last_index, "persisted": s.persisted, "commit": s.commit, "applied": s.applied })
}

fn process_json(p: &Process) -> Value {
    match p {
        Process::Unknown => Value::Null,
        Process::Running { pid } => json!({ "is": "running", "pid": pid }),
        Process::Paused { pid, .. } => json!({ "is": "stopped", "pid": pid }),
        Process::Ended { how, .. } => json!({ "is": "ended", "how": how }),
    }
}

fn tap_json(m: &MemberView, now: crate::types::Millis) -> Value {
    match &m.tap {
        Tap::Open if m.is_polled => {
            json!({ "is": "asked once a second", "not_visible": "messages, timers, votes, log entries" })
        }
        Tap::Open if m.is_heard(now) => json!({ "is": "live" }),
        Tap::Open => json!({ "is": "silent" }),
        Tap::Lost { why } | Tap::Never { why } => json!({ "is": "lost", "why": why }),
    }
}
