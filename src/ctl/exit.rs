//! Exit codes, and the way out of a command.

use std::io;

/// All is well.
pub(super) const OK: u8 = 0;
/// A refusal by the server, an unknown command or flag, an unhealthy endpoint.
pub(super) const ERROR: u8 = 1;
/// No connection, or none that this user may have.
pub(super) const BAD_CONNECTION: u8 = 2;
/// Lines on the standard input that make no sense.
pub(super) const INVALID_INPUT: u8 = 3;
/// A format or an option's value that this command does not have.
pub(super) const BAD_FEATURE: u8 = 4;
/// A watch that the server ended.
pub(super) const INTERRUPTED: u8 = 5;
/// Output that nobody reads any more: what a shell reports of a program that SIGPIPE ended.
const BROKEN_PIPE: u8 = 141;
/// Arguments that do not fit the command.
pub(super) const BAD_ARGS: u8 = 128;

/// The end of a command that did not work: a code, and what to say after `Error: `.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Exit {
    pub(super) code: u8,
    pub(super) message: Option<String>,
}

/// What a command comes to.
pub(super) type Outcome = Result<(), Exit>;

impl Exit {
    pub(super) fn new(code: u8, message: impl Into<String>) -> Exit {
        Exit { code, message: Some(message.into()) }
    }

    pub(super) fn error(message: impl Into<String>) -> Exit {
        Exit::new(ERROR, message)
    }

    pub(super) fn bad_args(message: impl Into<String>) -> Exit {
        Exit::new(BAD_ARGS, message)
    }

    pub(super) fn invalid_input(message: impl Into<String>) -> Exit {
        Exit::new(INVALID_INPUT, message)
    }

    pub(super) fn bad_feature(message: impl Into<String>) -> Exit {
        Exit::new(BAD_FEATURE, message)
    }

    /// All has been said.
    pub(super) fn silent(code: u8) -> Exit {
        Exit { code, message: None }
    }
}

impl From<io::Error> for Exit {
    fn from(error: io::Error) -> Exit {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Exit::silent(BROKEN_PIPE),
            _ => Exit::error(error.to_string()),
        }
    }
}
