//! Passwords: hashed before anything else sees them, compared away from everything that must be quick.
//!
//! A hash takes tens of milliseconds on purpose, so it is made on a thread where that holds up nobody, and only a few at a time: whoever tries
//! passwords waits in this queue and in no other. Only the hash goes into the log. A login with an unknown name costs the same work as one with
//! a wrong password, so that the time does not tell which names exist.
//!
//! Source: etcd `server/etcdserver/v3_server.go` (`UserAdd`, `Authenticate`); bcrypt as Go's `golang.org/x/crypto/bcrypt` writes it.

use crate::error::Error;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use std::sync::Arc;
use tokio::sync::Semaphore;

/// What `--bcrypt-cost` may be, and what it is otherwise.
pub(super) const COSTS: std::ops::RangeInclusive<u64> = 4..=31;
pub(super) const DEFAULT_COST: u32 = 10;

/// bcrypt looks at no more; Go refuses more.
const PASSWORD_BYTES_MAX: usize = 72;

/// Some salt and hash, to be compared with where there is no user. Whether they match does not matter; those of Go's own test.
const NOBODY: &str = "XajjQvNhvvRt5GSeFk1xFeyqRrsxkhBkUiQeg0dt.wU1qD4aFDcga";

/// Hashes and compares passwords; cheap to clone.
#[derive(Clone)]
pub(super) struct Passwords {
    cost: u32,
    room: Arc<Semaphore>,
}

impl Passwords {
    /// `cost` is `--bcrypt-cost`: 2 to the power of it rounds.
    pub(super) fn new(cost: u32) -> Passwords {
        // One processor is left for those who are logged in already.
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        Passwords { cost, room: Arc::new(Semaphore::new(threads.saturating_sub(1).max(1))) }
    }

    /// The base64 of a password's bcrypt string, as an entry of the log carries it.
    pub(super) async fn hash(&self, password: String) -> Result<String, Error> {
        if password.len() > PASSWORD_BYTES_MAX {
            return Err(Error::PasswordTooLong);
        }
        let cost = self.cost;
        let parts = self.work(move || bcrypt::hash_with_result(password, cost)).await?;
        let parts = parts.map_err(|e| Error::Storage(format!("bcrypt: {e}")))?;
        Ok(STANDARD.encode(parts.format_for_version(bcrypt::Version::TwoA)))
    }

    /// Whether `password` is the one that `hash` was made of. With no hash it is not, after the same work.
    pub(super) async fn matches(&self, password: String, hash: Option<Bytes>) -> Result<bool, Error> {
        let is_known = hash.is_some();
        let hash = hash.unwrap_or_else(|| Bytes::from(format!("$2a${:02}${NOBODY}", self.cost)));
        let same = self
            .work(move || {
                let text = std::str::from_utf8(&hash).unwrap_or_default();
                bcrypt::verify(password, text).unwrap_or(false)
            })
            .await?;
        Ok(same && is_known)
    }

    async fn work<R: Send + 'static>(&self, work: impl FnOnce() -> R + Send + 'static) -> Result<R, Error> {
        let permit = Arc::clone(&self.room).acquire_owned().await.map_err(|_| Error::Stopped)?;
        let done = tokio::task::spawn_blocking(move || {
            // Held until the work is done, even if the client has gone by then.
            let _permit = permit;
            work()
        });
        done.await.map_err(|_| Error::Stopped)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_hash_is_gos_and_matches_its_password_only() {
        let passwords = Passwords::new(4);
        let hashed = passwords.hash("secret".into()).await.expect("short enough");
        let stored = Bytes::from(STANDARD.decode(hashed).expect("base64"));
        assert!(stored.starts_with(b"$2a$04$") && stored.len() == 60, "{stored:?}");
        let matches = async |password: &str, hash: Option<Bytes>| passwords.matches(password.into(), hash).await;
        assert_eq!(matches("secret", Some(stored.clone())).await, Ok(true));
        assert_eq!(matches("Secret", Some(stored.clone())).await, Ok(false));
        assert_eq!(matches("", Some(stored)).await, Ok(false));
        assert_eq!(matches("secret", Some(Bytes::new())).await, Ok(false), "a user whose hash is empty");
        assert_eq!(matches("secret", None).await, Ok(false), "no such user");
    }

    #[test]
    fn a_hash_made_by_go_matches() {
        // golang.org/x/crypto/bcrypt, bcrypt_test.go: `TestBcryptingIsCorrect`.
        let gos = "$2a$10$XajjQvNhvvRt5GSeFk1xFeyqRrsxkhBkUiQeg0dt.wU1qD4aFDcga";
        assert!(bcrypt::verify("allmine", gos).expect("a bcrypt string"));
        assert!(gos.ends_with(NOBODY));
        // What is compared with in place of a user's hash is one, too: the work is done.
        assert!(bcrypt::verify("x", &format!("$2a$04${NOBODY}")).is_ok_and(|same| !same));
    }

    #[tokio::test]
    async fn an_empty_password_is_hashed_and_one_too_long_refused_in_gos_words() {
        let passwords = Passwords::new(4);
        let empty = STANDARD.decode(passwords.hash(String::new()).await.expect("allowed")).expect("base64");
        assert_eq!(passwords.matches(String::new(), Some(empty.into())).await, Ok(true));
        let limit = "x".repeat(PASSWORD_BYTES_MAX);
        assert!(passwords.hash(limit.clone()).await.is_ok());
        assert_eq!(passwords.hash(limit + "x").await, Err(Error::PasswordTooLong));
    }
}
