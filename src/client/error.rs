//! Why a call failed, in the words of etcd's own client.
//!
//! An answer whose text is one of etcd's is shown as that text alone; any other is shown with its gRPC code, as Go's
//! gRPC shows it. Scripts match on both. Source: etcd `client/v3/client.go`, `api/v3rpc/rpctypes`.

use std::fmt;
use tonic::Code;

/// A call's failure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Error {
    /// A member refused, and this is what it said.
    Answer {
        /// The gRPC code.
        code: Code,
        /// The description: for etcd's own errors, its words.
        text: String,
    },
    /// The connection broke after the request had left: it may have been carried out, or not.
    Lost {
        /// What broke.
        why: String,
    },
    /// The time was over. A request that had left may have been carried out.
    Deadline {
        /// Why no connection could be made, if that was the reason.
        last_dial: Option<String>,
    },
    /// What was asked for cannot work here; nothing was sent.
    Config(String),
}

impl Error {
    /// The gRPC code that stands for this failure.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Error::Answer { code, .. } => *code,
            Error::Lost { .. } => Code::Unavailable,
            Error::Deadline { .. } => Code::DeadlineExceeded,
            Error::Config(_) => Code::InvalidArgument,
        }
    }

    /// The member's own words, without the code; for failures on this side the whole sentence.
    #[must_use]
    pub fn text(&self) -> String {
        match self {
            Error::Answer { text, .. } => text.clone(),
            other => other.to_string(),
        }
    }

    /// What kept the call from reaching a member, where that is known and not part of the text.
    #[must_use]
    pub fn cause(&self) -> Option<&str> {
        match self {
            Error::Deadline { last_dial } => last_dial.as_deref(),
            Error::Lost { why } => Some(why),
            Error::Answer { .. } | Error::Config(_) => None,
        }
    }

    /// Whether a member answered with exactly these words.
    #[must_use]
    pub fn says(&self, words: &str) -> bool {
        matches!(self, Error::Answer { text, .. } if text == words)
    }

    /// Whether the token is no longer good and a new one may be.
    pub(super) fn wants_new_token(&self) -> bool {
        self.says("etcdserver: invalid auth token")
            || self.says("etcdserver: revision of auth store is old")
            || self.says("etcdserver: user name is empty")
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Answer { text, .. } if text.starts_with("etcdserver: ") => f.write_str(text),
            Error::Answer { code, text } => write!(f, "rpc error: code = {} desc = {text}", code_name(*code)),
            Error::Lost { .. } => f.write_str("rpc error: code = Unavailable desc = error reading from server: EOF"),
            Error::Deadline { .. } => f.write_str("context deadline exceeded"),
            Error::Config(why) => f.write_str(why),
        }
    }
}

impl std::error::Error for Error {}

/// The code's name in Go's gRPC: with one l in Canceled.
fn code_name(code: Code) -> String {
    match code {
        Code::Cancelled => "Canceled".to_owned(),
        Code::Ok => "OK".to_owned(),
        other => format!("{other:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn etcds_own_texts_stand_alone_and_others_carry_their_code() {
        let answer = |code, text: &str| Error::Answer { code, text: text.to_owned() }.to_string();
        assert_eq!(answer(Code::NotFound, "etcdserver: member not found"), "etcdserver: member not found");
        assert_eq!(answer(Code::Cancelled, "gone"), "rpc error: code = Canceled desc = gone");
        assert_eq!(answer(Code::ResourceExhausted, "big"), "rpc error: code = ResourceExhausted desc = big");
    }
}
