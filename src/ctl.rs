//! `etcdctl`: the command-line client, to the byte.
//!
//! The program is a function of its arguments, environment and streams ([`run`]); [`main`] only hands it the real
//! ones. Commands are rows in one table (`commands`), from which dispatch, prefixes, suggestions and help are made.
//!
//! ```text
//! words ─ commands ─▶ command, args ─ session ─▶ client, format ─▶ command asks ─ print ─▶ out, err, exit code
//! ```
//!
//! What it prints is what etcdctl 3.6 prints; where 3.6 panics, a sentence and exit code 3 stand instead.
//! Left out: the dialect of the v2 API. Source: etcd `etcdctl/ctlv3`.

mod auth;
mod check;
mod commands;
mod completion;
mod endpoint;
mod exit;
mod help;
mod kv;
mod lease;
mod lock;
mod maintenance;
mod member;
mod mirror;
mod print;
mod session;
mod snapshot;
mod txn;
mod watch;

use crate::cmdline::args;
use crate::types::ETCD_VERSION;
use args::Args;
use args::Refused;
use commands::Action;
use commands::Found;
use exit::Exit;
use exit::Outcome;
use session::Session;
use std::io::BufRead;
use std::io::Write;

/// What commands read: the value of a put, the lines of a transaction.
pub type Input = Box<dyn BufRead + Send>;

/// Runs one command line. `args` are those after the program's name, `env` the whole environment. Returns the exit
/// code; nothing else leaves this function but what is written to `out` and `err`.
pub async fn run(
    args: impl IntoIterator<Item = impl Into<Vec<u8>>>,
    env: &[(String, String)],
    stdin: Input,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> u8 {
    let words: Vec<Vec<u8>> = args.into_iter().map(Into::into).collect();
    let failed = match dispatch(&words, env, stdin, out, err).await {
        Ok(()) => return exit::OK,
        Err(failed) => failed,
    };
    if let Some(message) = failed.message {
        // Nobody is left to tell when this stream fails, and the code tells the same.
        let _ = writeln!(err, "Error: {message}");
    }
    let _ = out.flush();
    failed.code
}

/// Runs one command line with this process's environment and streams. Returns its exit code.
#[must_use]
pub fn main(args: impl IntoIterator<Item = Vec<u8>>) -> u8 {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(why) => {
            let _ = writeln!(std::io::stderr(), "Error: cannot start: {why}");
            return exit::ERROR;
        }
    };
    let env: Vec<(String, String)> = std::env::vars_os()
        .map(|(name, value)| (name.to_string_lossy().into_owned(), value.to_string_lossy().into_owned()))
        .collect();
    let stdin = Box::new(std::io::BufReader::new(std::io::stdin()));
    let code = runtime.block_on(run(args, &env, stdin, &mut std::io::stdout(), &mut std::io::stderr()));
    runtime.shutdown_background();
    code
}

async fn dispatch(
    words: &[Vec<u8>],
    env: &[(String, String)],
    stdin: Input,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> Outcome {
    if let [ask, begun @ ..] = words
        && ask == completion::ASK
    {
        return Ok(out.write_all(completion::candidates(begun).as_bytes())?);
    }
    let found = match commands::find(words) {
        Ok(found) => found,
        Err(unknown) => {
            writeln!(err, "Error: {unknown}")?;
            writeln!(err, "Run 'etcdctl --help' for usage.")?;
            if let Some(hint) = commands::hint(words) {
                writeln!(err, "{hint}")?;
            }
            return Err(Exit::silent(exit::ERROR));
        }
    };
    let args = match Args::parse(&found.rest, &found.flags()) {
        Ok(args) => args,
        Err(Refused::Help) => return Ok(out.write_all(help::usage(&found).as_bytes())?),
        Err(Refused::Because(why)) => {
            writeln!(err, "Error: {why}\n")?;
            out.write_all(help::usage(&found).as_bytes())?;
            return Err(Exit::silent(exit::ERROR));
        }
    };
    match found.command().map(|command| command.action) {
        Some(Action::Run(run)) => run(&mut Session::new(args, env, stdin, out, err)).await,
        Some(Action::Help) => help(&args, out, err),
        _ => Ok(out.write_all(help::usage(&found).as_bytes())?),
    }
}

/// `help [command]`.
fn help(args: &Args, out: &mut dyn Write, err: &mut dyn Write) -> Outcome {
    let found = commands::find(&args.words).unwrap_or_else(|_| Found::root());
    if found.command().is_none() && !args.words.is_empty() {
        let words: Vec<String> = (0..args.words.len()).map(|at| format!("`{}`", args.word(at))).collect();
        writeln!(err, "Unknown help topic [{}]", words.join(" "))?;
    }
    Ok(out.write_all(help::usage(&found).as_bytes())?)
}

/// `version`.
async fn version(session: &mut Session<'_>) -> Outcome {
    session.line(format_args!("etcdctl version: {ETCD_VERSION}"))?;
    session.line(format_args!("API version: {}", help::API_VERSION))
}
