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
//! With `ETCDCTL_API=2` the whole line goes to the old dialect (`v2`). Source: etcd `etcdctl/ctlv3`.

mod auth;
mod check;
mod child;
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
mod password;
mod print;
mod session;
mod snapshot;
mod txn;
mod v2;
mod watch;

use crate::cmdline::args;
use crate::doctor;
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

/// What is told of an error beyond its text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Explain {
    /// Its cause, if `--explain` is given.
    IfAsked,
    /// Its cause.
    Cause,
    /// Its cause, and what helps.
    Fix,
}

/// Runs one command line. `args` are those after the program's name, `env` the whole environment. Returns the exit
/// code; nothing else leaves this function but what is written to `out` and `err`.
pub async fn run(
    args: impl IntoIterator<Item = impl Into<Vec<u8>>>,
    env: &[(String, String)],
    stdin: Input,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> u8 {
    run_explained(args, env, stdin, out, err, Explain::IfAsked).await
}

/// [`run`], with more told of errors.
pub async fn run_explained(
    args: impl IntoIterator<Item = impl Into<Vec<u8>>>,
    env: &[(String, String)],
    stdin: Input,
    out: &mut dyn Write,
    err: &mut dyn Write,
    explain: Explain,
) -> u8 {
    let words: Vec<Vec<u8>> = args.into_iter().map(Into::into).collect();
    if v2::is_asked_for(env) {
        return v2::run(&words, env, stdin, out, err).await;
    }
    let failed = match dispatch(&words, env, stdin, out, err, explain).await {
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
    explain: Explain,
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
        Some(Action::Run(run)) => {
            let mut session = Session::new(args, env, stdin, out, err);
            match run(&mut session).await {
                Err(failed) if explain != Explain::IfAsked || session.args.is_set("explain") => {
                    Err(explained(&mut session, failed, explain == Explain::Fix).await)
                }
                outcome => outcome,
            }
        }
        Some(Action::Help) => help(&args, out, err),
        _ => Ok(out.write_all(help::usage(&found).as_bytes())?),
    }
}

/// `--explain`: the error as it is, then what is behind it.
async fn explained(session: &mut Session<'_>, failed: Exit, fix: bool) -> Exit {
    // Words that do not fit a command have nothing to do with any member.
    let is_ours = matches!(failed.code, exit::BAD_ARGS | exit::BAD_FEATURE | exit::INVALID_INPUT);
    let Exit { message: Some(message), .. } = &failed else { return failed };
    if is_ours && !doctor::knows(message) {
        return failed;
    }
    let _ = writeln!(session.err, "Error: {message}");
    // Flags that are wrong in themselves have said so.
    if let Ok(patient) = session.patient().await {
        let findings = doctor::examine(&patient, message).await;
        let _ = write!(session.err, "{}", doctor::report(&findings, fix));
    }
    Exit::silent(failed.code)
}

/// `etcd-lab doctor` without a command: what is wrong with the cluster that etcdctl's global flags name. With `fix` it also says what helps.
/// Returns 0 if nothing is wrong, else 1.
pub async fn checkup(
    args: Vec<Vec<u8>>,
    env: &[(String, String)],
    fix: bool,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> u8 {
    let args = match Args::parse(&args, &commands::GLOBAL_FLAGS.iter().collect::<Vec<_>>()) {
        Ok(args) if args.words.is_empty() => args,
        _ => {
            let _ = writeln!(err, "Error: a command stands behind --; before it, only etcdctl's global flags");
            return exit::BAD_ARGS;
        }
    };
    let mut session = Session::new(args, env, Box::new(std::io::empty()), out, err);
    match session.patient().await {
        Ok(patient) => {
            let findings = doctor::examine(&patient, "").await;
            let _ = write!(session.out, "{}", doctor::report(&findings, fix));
            u8::from(findings.iter().any(|finding| finding.cause != doctor::Cause::AllWell))
        }
        Err(failed) => {
            let _ = writeln!(session.err, "Error: {}", failed.message.unwrap_or_default());
            failed.code
        }
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
