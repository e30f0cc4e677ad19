//! The leader's lock: of several schedulers or controllers one works, and the others wait.
//!
//! The lock is an object, `/registry/leases/kube-system/NAME`, that the holder writes anew every second. Who sees it unchanged for the length
//! of the lease, *by its own clock*, writes itself into it; of two that try, one write is a conflict. It is no lease of etcd's: nothing
//! deletes it, and a holder that has lost its cluster must stop by itself, before anybody else may begin.
//!
//! The real programs end when they lose the lock, and are started again. Ours wait for it, and keep their copies.
//! Source: Kubernetes `client-go/tools/leaderelection`.

use crate::cmdline::args::Args;
use crate::cmdline::args::Flag;
use crate::cmdline::args::Kind::Text;
use crate::cmdline::args::Kind::Time;
use crate::kube;
use crate::kube::objects;
use crate::kube::objects::LEASES;
use crate::kube::rest::Api;
use crate::kube::rest::Refused;
use crate::kube::tell;
use parking_lot::Mutex;
use serde_json::Value;
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

const NAMESPACE: &str = "kube-system";

/// Longer than any program runs.
const FOR_EVER: Duration = Duration::from_secs(100 * 365 * 86_400);

static DURATION: Flag = Flag {
    name: "leader-elect-lease-duration",
    short: ' ',
    kind: Time,
    default: "4s",
    help: "how long the others wait for a silent holder (Kubernetes: 15s)",
};
static DEADLINE: Flag = Flag {
    name: "leader-elect-renew-deadline",
    short: ' ',
    kind: Time,
    default: "3s",
    help: "how long a holder works on without having written (Kubernetes: 10s)",
};
static RETRY: Flag = Flag {
    name: "leader-elect-retry-period",
    short: ' ',
    kind: Time,
    default: "1s",
    help: "how often all look (Kubernetes: 2s)",
};
static IDENTITY: Flag =
    Flag { name: "name", short: ' ', kind: Text, default: "", help: "its name in the lock, which tells several apart" };

/// The flags of whoever takes part.
pub(super) static FLAGS: [&Flag; 4] = [&DURATION, &DEADLINE, &RETRY, &IDENTITY];

/// Whether this process holds the lock. It holds it until a time, so that it loses it even if nothing happens any more.
#[derive(Clone)]
pub(super) struct Lock {
    until: Arc<Mutex<Option<Instant>>>,
}

impl Lock {
    pub(super) fn is_held(&self) -> bool {
        self.until.lock().is_some_and(|until| Instant::now() < until)
    }

    /// Takes part, in the background. With `--leader-elect=false` it is held from the beginning.
    pub(super) fn contend(api: &Api, who: &'static str, args: &Args) -> Lock {
        let elects = !args.is_given(kube::LEADER_ELECT.name) || args.is_set(kube::LEADER_ELECT.name);
        let lock = Lock { until: Arc::new(Mutex::new((!elects).then(|| Instant::now() + FOR_EVER))) };
        if elects {
            let name = kube::text(args, &IDENTITY);
            let identity = if name.is_empty() { format!("{who}_{}", std::process::id()) } else { name.to_owned() };
            let candidate = Candidate {
                who,
                identity,
                duration: kube::time(args, &DURATION),
                deadline: kube::time(args, &DEADLINE),
                seen: None,
            };
            tokio::spawn(candidate.run(api.clone(), lock.clone(), kube::time(args, &RETRY)));
        }
        lock
    }
}

struct Candidate {
    who: &'static str,
    identity: String,
    duration: Duration,
    deadline: Duration,
    /// The lock's revision as it was seen last, and when it was first seen so.
    seen: Option<(i64, Instant)>,
}

impl Candidate {
    async fn run(mut self, api: Api, lock: Lock, retry: Duration) {
        let mut held = false;
        loop {
            let asked = Instant::now();
            // An answer that comes when the lock is lost is of no use.
            let left = lock.until.lock().map(|until| until.saturating_duration_since(asked));
            let limit = left.filter(|left| *left > retry).unwrap_or(self.deadline);
            let answer = tokio::time::timeout(limit, self.attempt(&api)).await;
            match answer {
                Ok(Ok(true)) => *lock.until.lock() = Some(asked + self.deadline),
                Ok(Ok(false)) => *lock.until.lock() = None,
                // It is held as long as it was said to be.
                Ok(Err(_)) | Err(_) => {}
            }
            if held != lock.is_held() {
                held = !held;
                let word = if held { "holds" } else { "has lost" };
                tell(self.who, &format!("{} {word} the lock {NAMESPACE}/{}", self.identity, self.who));
            }
            tokio::time::sleep(retry).await;
        }
    }

    /// Looks at the lock, and takes or renews it where that is right. Whether we hold it.
    async fn attempt(&mut self, api: &Api) -> Result<bool, Refused> {
        let there = match api.get(&LEASES.path(NAMESPACE, self.who)).await {
            Ok(there) => there,
            Err(e) if e.is(404) => {
                let lease = json!({"metadata": {"namespace": NAMESPACE, "name": self.who}, "spec": {}});
                return won(api.create(&LEASES, &self.signed(lease, 0)).await);
            }
            Err(e) => return Err(e),
        };
        match self.judged(&there, Instant::now()) {
            Some(transitions) => won(api.update(&LEASES, &self.signed(there, transitions)).await),
            None => Ok(false),
        }
    }

    /// Whether the lock may be written, and how often it has then changed hands.
    fn judged(&mut self, there: &Value, now: Instant) -> Option<i64> {
        let revision = objects::revision(there);
        let since = match self.seen {
            Some((seen, since)) if seen == revision => since,
            _ => now,
        };
        self.seen = Some((revision, since));
        let transitions = objects::number(there, "/spec/leaseTransitions");
        match objects::text(there, "/spec/holderIdentity") {
            holder if holder == self.identity => Some(transitions),
            "" => Some(transitions + 1),
            _ if now.duration_since(since) >= self.duration => Some(transitions + 1),
            _ => None,
        }
    }

    fn signed(&self, mut lease: Value, transitions: i64) -> Value {
        let is_mine = objects::text(&lease, "/spec/holderIdentity") == self.identity;
        objects::set(&mut lease, &["spec", "holderIdentity"], json!(self.identity));
        objects::set(&mut lease, &["spec", "leaseDurationSeconds"], json!(self.duration.as_secs()));
        objects::set(&mut lease, &["spec", "leaseTransitions"], json!(transitions));
        objects::set(&mut lease, &["spec", "renewTime"], json!(kube::stamp()));
        if !is_mine {
            objects::set(&mut lease, &["spec", "acquireTime"], json!(kube::stamp()));
        }
        lease
    }
}

/// A conflict means that somebody else was faster.
fn won(written: Result<Value, Refused>) -> Result<bool, Refused> {
    match written {
        Ok(_) => Ok(true),
        Err(e) if e.is(409) => Ok(false),
        Err(e) => Err(e),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(holder: &str, revision: i64) -> Value {
        json!({
            "metadata": {"resourceVersion": revision.to_string()},
            "spec": {"holderIdentity": holder, "leaseTransitions": 2},
        })
    }

    #[test]
    fn a_lock_is_taken_over_when_it_has_stood_still_by_our_own_clock() {
        let second = Duration::from_secs(1);
        let mut me = Candidate {
            who: "kube-scheduler",
            identity: "me".into(),
            duration: 4 * second,
            deadline: 3 * second,
            seen: None,
        };
        let begin = Instant::now();
        assert_eq!(me.judged(&lease("other", 5), begin), None);
        assert_eq!(me.judged(&lease("other", 5), begin + 3 * second), None);
        assert_eq!(me.judged(&lease("other", 6), begin + 5 * second), None, "it lives: the lease begins anew");
        assert_eq!(me.judged(&lease("other", 6), begin + 8 * second), None);
        assert_eq!(me.judged(&lease("other", 6), begin + 9 * second), Some(3), "silent for four seconds");
        assert_eq!(me.judged(&lease("me", 7), begin + 9 * second), Some(2), "ours: no change of hands");
        assert_eq!(me.judged(&lease("", 8), begin + 9 * second), Some(3), "nobody's");
        let signed = me.signed(lease("other", 6), 3);
        assert_eq!(objects::text(&signed, "/spec/holderIdentity"), "me");
        assert!(!objects::text(&signed, "/spec/acquireTime").is_empty());
    }
}
