//! Simple tokens: who has logged in, as one member remembers it.
//!
//! A token comes through the log, so that every member knows it, but it is in memory only and each member lets it expire by its own
//! clock: after some time without use. Not replicated state, and nothing that others must agree on. Source: etcd `server/auth/simple_token.go`.

use super::Change;
use crate::types::Index;
use crate::types::Millis;
use std::collections::BTreeMap;
use std::collections::HashMap;

/// Tokens that are remembered; with more, the ones that would expire first are forgotten.
const TOKENS_MAX: usize = 100_000;

struct Login {
    user: String,
    expires: Millis,
    /// Where it stands in [`Tokens::queue`].
    place: (Millis, u64),
}

/// The tokens of those who have logged in.
pub struct Tokens {
    ttl_ms: u64,
    logins: HashMap<String, Login>,
    /// Tokens by when they were to expire when that was last looked at; use moves `expires` only, which is cheap.
    queue: BTreeMap<(Millis, u64), String>,
    serial: u64,
    max: usize,
}

impl Tokens {
    /// No tokens yet; each will live for `ttl_ms` after its last use.
    #[must_use]
    pub fn new(ttl_ms: u64) -> Tokens {
        Tokens::bounded(ttl_ms, TOKENS_MAX)
    }

    pub(super) fn bounded(ttl_ms: u64, max: usize) -> Tokens {
        Tokens { ttl_ms, logins: HashMap::new(), queue: BTreeMap::new(), serial: 0, max }
    }

    /// Takes in what an entry did.
    pub fn follow(&mut self, now: Millis, change: &Change) {
        match change {
            Change::Enabled | Change::Rights => {}
            Change::Disabled | Change::AllTokensGone => {
                self.logins.clear();
                self.queue.clear();
            }
            Change::TokensGone(user) => {
                self.logins.retain(|_, login| login.user != *user);
                self.queue.retain(|_, token| self.logins.contains_key(token));
            }
            Change::Token { token, user } => self.add(now, token, user),
        }
    }

    fn add(&mut self, now: Millis, token: &str, user: &str) {
        self.sweep(now);
        while self.logins.len() >= self.max {
            let Some((_, oldest)) = self.queue.pop_first() else { break };
            self.logins.remove(&oldest);
        }
        self.serial += 1;
        let expires = now.plus(self.ttl_ms);
        let login = Login { user: user.to_owned(), expires, place: (expires, self.serial) };
        self.queue.insert(login.place, token.to_owned());
        if let Some(before) = self.logins.insert(token.to_owned(), login) {
            self.queue.remove(&before.place);
        }
    }

    /// Forgets what has expired; what was used meanwhile is queued again.
    fn sweep(&mut self, now: Millis) {
        while let Some(first) = self.queue.first_entry().filter(|first| first.key().0 <= now) {
            let token = first.remove();
            let Some(login) = self.logins.get_mut(&token) else { continue };
            if login.expires <= now {
                self.logins.remove(&token);
            } else {
                login.place.0 = login.expires;
                self.queue.insert(login.place, token);
            }
        }
    }

    /// Whose token this is; using it lets it live on.
    pub fn user(&mut self, now: Millis, token: &str) -> Option<&str> {
        let login = self.logins.get_mut(token).filter(|login| now < login.expires)?;
        login.expires = now.plus(self.ttl_ms);
        Some(&login.user)
    }

    /// How many tokens are remembered, expired ones included until the next login.
    #[must_use]
    pub fn len(&self) -> usize {
        self.logins.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.logins.is_empty()
    }

    /// The log index that a token names; nothing for what is no simple token. A member that has not applied so far cannot know the token yet.
    #[must_use]
    pub fn index_of(token: &str) -> Option<Index> {
        let (_, index) = token.split_once('.').filter(|(_, index)| !index.contains('.'))?;
        // Go's ParseUint takes no sign.
        if index.starts_with('+') {
            return None;
        }
        index.parse().ok().map(Index)
    }

    /// The token that an entry at `index` gives; nothing for one without a random part, which members with another kind of token propose.
    #[must_use]
    pub fn made_of(prefix: &str, index: Index) -> Option<String> {
        (!prefix.is_empty()).then(|| format!("{prefix}.{index}"))
    }
}
