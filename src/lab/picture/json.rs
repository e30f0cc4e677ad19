//! The picture as JSON, for `etcd-lab show --json`. Ids in hexadecimal, as etcd prints them; absent means: not reported.

use crate::lab::picture::MemberView;
use crate::lab::picture::Picture;
use crate::lab::picture::Process;
use crate::lab::picture::Tap;
use crate::lab::picture::words::role_word;
use crate::proto::lab::State;
use serde_json::Value;
use serde_json::json;

/// Newest log entries shown of each member.
const TAIL: usize = 20;

impl Picture {
    /// Everything that is known, as one object.
    #[must_use]
    pub fn to_json(&self) -> Value {
        json!({
            "leader": self.leader().map(|l| self.members[l].name.clone()),
            "term": self.term(),
            "members": self.members.iter().map(|m| self.member_json(m)).collect::<Vec<_>>(),
            "feed": self.feed.iter().map(|l| json!({ "at_ms": l.at.0, "text": l.text })).collect::<Vec<_>>(),
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
        Tap::Open if m.is_heard(now) => json!({ "is": "live" }),
        Tap::Open => json!({ "is": "silent" }),
        Tap::Lost { why } | Tap::Never { why } => json!({ "is": "lost", "why": why }),
    }
}
