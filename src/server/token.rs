//! The two kinds of token, as `--auth-token` names them: `simple`, and `jwt` with its options.
//!
//! A simple token is a random word that every member remembers, because it came through the log. A signed one is remembered by nobody: it says
//! itself who its bearer is, at which auth revision, and until when. Without a kind (`--auth-token ""`) nobody gets a token, and only
//! certificates name users. Source: etcd `server/auth/store.go` (`NewTokenProvider`), `nop.go`.

use super::jwt::Jwt;
use crate::auth::Who;
use crate::error::Error;
use crate::golang;
use crate::node::Node;
use crate::wall;
use rand::Rng as _;
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use std::collections::BTreeMap;
use std::time::Duration;
use std::time::SystemTime;
use std::time::UNIX_EPOCH;

/// etcd's text for anything wrong with `--auth-token`.
const INVALID_OPTIONS: &str = "auth: invalid auth options";

/// How long a signed token is good if `ttl` does not say.
const SIGNED_TTL: Duration = Duration::from_secs(300);

/// Letters of the random part of a simple token.
const LETTERS: &[u8; 52] = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
const RANDOM_LETTERS: usize = 16;

/// How users show who they are.
#[derive(Debug, Default)]
pub(super) enum TokenKind {
    #[default]
    Simple,
    Signed(Box<Jwt>),
    None,
}

impl TokenKind {
    /// Reads `--auth-token` and the key files that it names.
    ///
    /// # Errors
    /// etcd's text, and what is wrong in particular.
    pub(super) fn load(option: &str) -> Result<TokenKind, String> {
        let mut words = option.split(',');
        let kind = words.next().unwrap_or_default();
        let mut options = BTreeMap::new();
        for word in words {
            let pair = word.split_once('=').filter(|(_, value)| !value.contains('='));
            let Some((name, value)) = pair else {
                return Err(format!("{INVALID_OPTIONS}: {} is not name=value", golang::quote(word.as_bytes())));
            };
            if options.insert(name, value).is_some() {
                return Err(format!("{INVALID_OPTIONS}: {name} is given twice"));
            }
        }
        match kind {
            "simple" => Ok(TokenKind::Simple),
            "" => Ok(TokenKind::None),
            "jwt" => signed(&options).map(|jwt| TokenKind::Signed(Box::new(jwt))),
            other => Err(format!(
                "{INVALID_OPTIONS}: unknown kind of token {}: simple or jwt",
                golang::quote(other.as_bytes())
            )),
        }
    }

    pub(super) fn are_signed(&self) -> bool {
        matches!(self, TokenKind::Signed(_))
    }

    /// Whose token this is, if it is good.
    pub(super) async fn who(&self, node: &Node, token: &str) -> Option<Who> {
        match self {
            TokenKind::Simple => {
                let user = node.token_user(token).await?;
                // etcd's order: the revision is that of the look-up.
                Some(Who { user, revision: node.read(|machine| machine.auth().revision()) })
            }
            TokenKind::Signed(jwt) => jwt.verify(token, unix_seconds()),
            TokenKind::None => None,
        }
    }

    /// What a login proposes: the random part of a simple token, nothing for the others.
    pub(super) fn prefix(&self) -> String {
        match self {
            TokenKind::Simple => {
                let mut dice = StdRng::from_os_rng();
                (0..RANDOM_LETTERS).map(|_| char::from(LETTERS[dice.random_range(0..LETTERS.len())])).collect()
            }
            TokenKind::Signed(_) | TokenKind::None => String::new(),
        }
    }

    /// The token for a user whose login was applied: the simple one that the log has made, or a signed one.
    ///
    /// # Errors
    /// [`Error::VerifyOnly`] without a private key, [`Error::AuthFailed`] where there are no tokens.
    pub(super) fn issue(&self, simple: String, user: &str, revision: u64) -> Result<String, Error> {
        match self {
            TokenKind::Simple if simple.is_empty() => Err(Error::AuthFailed),
            TokenKind::Simple => Ok(simple),
            TokenKind::Signed(jwt) => jwt.sign(user, revision, unix_seconds()),
            TokenKind::None => Err(Error::AuthFailed),
        }
    }
}

fn signed(options: &BTreeMap<&str, &str>) -> Result<Jwt, String> {
    let read = |name: &str| match options.get(name).filter(|path| !path.is_empty()) {
        None => Ok(None),
        Some(path) => {
            let cannot = |e: std::io::Error| format!("{INVALID_OPTIONS}: open {path}: {}", crate::error::io_text(&e));
            std::fs::read(path).map(Some).map_err(cannot)
        }
    };
    let ttl = match options.get("ttl").filter(|ttl| !ttl.is_empty()) {
        None => SIGNED_TTL,
        Some(ttl) => {
            let nanos = golang::parse_nanos(ttl).map_err(|why| format!("{INVALID_OPTIONS}: ttl: {why}"))?;
            Duration::from_nanos(u64::try_from(nanos).unwrap_or(0))
        }
    };
    for name in options.keys().filter(|name| !["ttl", "sign-method", "pub-key", "priv-key"].contains(name)) {
        tracing::warn!(key = name, "unknown JWT option");
    }
    let method = options.get("sign-method").copied().unwrap_or_default();
    Jwt::new(method, read("pub-key")?.as_deref(), read("priv-key")?.as_deref(), ttl)
}

#[expect(clippy::disallowed_methods, reason = "a signed token says until when it is good, by the clock on the wall")]
pub(super) fn unix_seconds() -> u64 {
    wall::seen(SystemTime::now()).duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_kind_of_token_is_refused_in_etcds_words() {
        for option in ["other", "jwt", "jwt,sign-method", "jwt,ttl=1m,ttl=2m", "jwt,sign-method=none", "jwt,ttl=x"] {
            let refused = TokenKind::load(option).expect_err(option);
            assert!(refused.starts_with("auth: "), "{option}: {refused}");
        }
        let missing = TokenKind::load("jwt,sign-method=RS256,priv-key=/no/such/file").expect_err("no file");
        assert_eq!(missing, "auth: invalid auth options: open /no/such/file: no such file or directory");
    }

    #[test]
    fn the_random_part_is_sixteen_letters_and_new_each_time() {
        let simple = TokenKind::load("simple").expect("good");
        let (first, second) = (simple.prefix(), simple.prefix());
        assert!(first.len() == 16 && first.bytes().all(|letter| letter.is_ascii_alphabetic()), "{first}");
        assert_ne!(first, second);
        assert_eq!(TokenKind::load("").expect("good").prefix(), "");
    }
}
