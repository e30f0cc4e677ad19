//! What a member remembers of authentication beside the replicated state: whether it is on, and who has logged in here.
//!
//! Whether it is on stands in one atomic, so that with authentication off a request pays one relaxed load for it. Relaxed is enough: the log
//! judges every write again, and a read that saw "off" was let in before the change was answered anywhere.

use super::Node;
use crate::apply::Machine;
use crate::auth::Change;
use crate::auth::ROOT;
use crate::auth::Store;
use crate::auth::Tokens;
use crate::proto::etcdserverpb as pb;
use crate::types::Millis;
use parking_lot::Mutex;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::sync::watch as signal;

/// How often a token that names a later entry looks whether this member has come so far, and how many may look at once: anybody can name
/// an entry that will not come for a while.
const TOKEN_POLL: Duration = Duration::from_millis(10);
const TOKENS_AHEAD_MAX: usize = 1024;

/// Beside the machine, for everybody who asks before the machine is asked.
pub(super) struct Gate {
    is_on: AtomicBool,
    tokens: Mutex<Tokens>,
    ahead: Semaphore,
    /// Counts changes of rights that this member has applied.
    changes: signal::Sender<u64>,
}

impl Gate {
    pub(super) fn new(store: &Store, token_ttl_ms: u64) -> Gate {
        Gate {
            is_on: AtomicBool::new(store.is_enabled()),
            tokens: Mutex::new(Tokens::new(token_ttl_ms)),
            ahead: Semaphore::new(TOKENS_AHEAD_MAX),
            changes: signal::Sender::new(0),
        }
    }

    /// Takes in what an applied entry did, before anybody is told of it.
    pub(super) fn follow(&self, now: Millis, change: &Change) {
        match change {
            Change::Enabled => self.is_on.store(true, Ordering::Relaxed),
            Change::Disabled => self.is_on.store(false, Ordering::Relaxed),
            Change::Rights | Change::TokensGone(_) | Change::AllTokensGone | Change::Token { .. } => {}
        }
        self.tokens.lock().follow(now, change);
        if !matches!(change, Change::Token { .. }) {
            self.changes.send_modify(|count| *count += 1);
        }
    }
}

impl Node {
    /// Whether requests need a user.
    #[must_use]
    pub fn auth_is_on(&self) -> bool {
        self.inner.auth.is_on.load(Ordering::Relaxed)
    }

    /// Whose simple token this is; using it lets it live on. Waits until this member has applied the entry that a token names, since another
    /// member may have handed it out a moment ago.
    pub async fn token_user(&self, token: &str) -> Option<String> {
        let index = Tokens::index_of(token)?;
        let known = || self.inner.auth.tokens.lock().user(self.inner.now(), token).map(str::to_owned);
        if self.inner.applied.get() >= index {
            return known();
        }
        let _place = self.inner.auth.ahead.try_acquire().ok()?;
        let mut every = tokio::time::interval(TOKEN_POLL);
        let applied = async {
            while self.inner.applied.get() < index {
                every.tick().await;
            }
        };
        tokio::time::timeout(self.inner.request_timeout(), applied).await.ok()?;
        known()
    }

    /// Moves with each change of users, roles or whether they count that this member applies.
    #[must_use]
    pub fn auth_changes(&self) -> signal::Receiver<u64> {
        self.inner.auth.changes.subscribe()
    }

    /// The header of an entry that the server proposes for itself where a user is asked for. Nothing while nobody asks.
    pub(super) fn root_header(&self) -> Option<pb::RequestHeader> {
        if !self.auth_is_on() {
            return None;
        }
        let auth_revision = self.read(|machine: &Machine| machine.auth().revision());
        Some(pb::RequestHeader { username: ROOT.to_owned(), auth_revision, ..Default::default() })
    }
}
