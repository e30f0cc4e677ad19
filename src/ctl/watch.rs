//! `watch`: changes as they happen; one watch from the command line, or several from the standard input (`-i`).
//!
//! After the events of an answer are printed, the words behind `--` are run once for each of them, with the event in
//! their environment. Source: etcd `ctlv3/command/watch_command.go`.

use super::Input;
use super::args::Args;
use super::args::Refused;
use super::child;
use super::commands;
use super::exit;
use super::exit::Exit;
use super::exit::Outcome;
use super::kv;
use super::print::kv::event_name;
use super::session::Session;
use super::txn;
use crate::client;
use crate::client::Watch;
use crate::golang;
use crate::proto::etcdserverpb::WatchCreateRequest;
use crate::proto::etcdserverpb::WatchResponse;
use crate::proto::mvccpb::Event;
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use std::ffi::OsStr;
use std::io;
use std::io::BufRead as _;
use std::os::unix::ffi::OsStrExt as _;
use std::process::ExitStatus;
use std::process::Stdio;
use tokio::io::AsyncReadExt as _;
use tokio::process::Child;
use tokio::process::Command;
use tokio::sync::mpsc;

const BAD_NUMBER: &str = "bad number of arguments";
const NO_COMMAND: &str = "bad number of arguments (found separator --, but no commands)";
const TWO_KEYS: &str = "bad number of arguments (found conflicting environment key)";

/// Lines that may wait to be read from the standard input.
const LINES_MAX: usize = 16;

/// What to watch, and what to run for each event.
struct Plan {
    request: WatchCreateRequest,
    command: Vec<Vec<u8>>,
}

/// `watch`.
pub(super) async fn watch(session: &mut Session<'_>) -> Outcome {
    let (key, end) = (session.variable("ETCDCTL_WATCH_KEY"), session.variable("ETCDCTL_WATCH_RANGE_END"));
    if key.is_empty() && !end.is_empty() {
        let end = golang::quote(end.as_bytes());
        let text = format!("ETCDCTL_WATCH_KEY is empty but got ETCDCTL_WATCH_RANGE_END={end}");
        return Err(Exit::bad_args(text));
    }
    if session.args.is_set("interactive") {
        return interactive(session, (key, end)).await;
    }
    let (words, command) = divide(&session.args, (key, end)).map_err(Exit::bad_args)?;
    let request = request(&session.args, &words).map_err(Exit::bad_args);
    let client = session.client().await?;
    let mut watch = client.watch(request?);
    while let Some(answer) = watch.next().await.transpose() {
        show(session, answer, &command).await?;
    }
    Err(Exit::new(exit::INTERRUPTED, "watch is canceled by the server"))
}

/// Reads watches from the standard input, a line each, and prints what all of them see.
async fn interactive(session: &mut Session<'_>, variables: (&str, &str)) -> Outcome {
    let client = session.client().await?;
    let mut lines = read_lines(std::mem::replace(&mut session.stdin, Box::new(io::empty())));
    let mut watches = FuturesUnordered::new();
    let mut progress: Vec<mpsc::Sender<()>> = Vec::new();
    loop {
        tokio::select! {
            line = lines.recv() => {
                let Some(line) = line else {
                    return Err(Exit::invalid_input("error reading watch request line: EOF"));
                };
                match understand(&line, variables)? {
                    Line::Watch(plan) => {
                        let (ask, asked) = mpsc::channel(1);
                        progress.push(ask);
                        watches.push(step(Running { watch: client.watch(plan.request), asked, command: plan.command }));
                    }
                    Line::Progress => {
                        progress.retain(|ask| !ask.is_closed());
                        for ask in &progress {
                            // Full means that it is about to ask already.
                            let _ = ask.try_send(());
                        }
                    }
                    Line::Nonsense(why) => writeln!(session.err, "{why}")?,
                }
            }
            Some((running, answer)) = watches.next() => {
                if let Some(answer) = answer {
                    show(session, answer, &running.command).await?;
                    watches.push(step(running));
                }
            }
        }
    }
}

/// A watch of several.
struct Running {
    watch: Watch,
    asked: mpsc::Receiver<()>,
    command: Vec<Vec<u8>>,
}

/// Waits for the next answer, passing on requests for progress meanwhile.
async fn step(mut running: Running) -> (Running, Option<Result<WatchResponse, client::Error>>) {
    loop {
        let answer = tokio::select! {
            answer = running.watch.next() => answer.transpose(),
            Some(()) = running.asked.recv() => {
                running.watch.request_progress();
                continue;
            }
        };
        return (running, answer);
    }
}

/// Lines of the standard input, read beside everything else.
fn read_lines(mut stdin: Input) -> mpsc::Receiver<String> {
    let (send, lines) = mpsc::channel(LINES_MAX);
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        // A last line without an end counts as none, as in etcd.
        while stdin.read_until(b'\n', &mut bytes).is_ok() && bytes.pop() == Some(b'\n') {
            if send.blocking_send(String::from_utf8_lossy(&bytes).into_owned()).is_err() {
                return;
            }
            bytes.clear();
        }
    });
    lines
}

/// What a line of the standard input means.
enum Line {
    Watch(Plan),
    Progress,
    Nonsense(String),
}

fn understand(line: &str, variables: (&str, &str)) -> Result<Line, Exit> {
    let words = txn::words(line)?;
    let Some(first) = words.first() else {
        return Ok(Line::Nonsense(format!("Invalid command: {line} (watch and progress supported)")));
    };
    match first.as_slice() {
        b"watch" if words.len() < 2 && variables.0.is_empty() => {
            Ok(Line::Nonsense(format!("Invalid command {line} (command type or key is not provided)")))
        }
        b"watch" => {
            let args = commands::parse_words(&words[1..], commands::WATCH_FLAGS).map_err(|refused| match refused {
                Refused::Because(why) => Exit::bad_args(why),
                Refused::Help => Exit::bad_args("pflag: help requested"),
            })?;
            let (words, command) = divide(&args, variables).map_err(Exit::bad_args)?;
            Ok(match request(&args, &words) {
                Ok(request) => Line::Watch(Plan { request, command }),
                Err(why) => Line::Nonsense(format!("Invalid command {line} ({why})")),
            })
        }
        b"progress" => Ok(Line::Progress),
        _ => Ok(Line::Nonsense(format!("Invalid command {line} (only support watch)"))),
    }
}

/// Divides the words into those that say what to watch and those that say what to run; the environment may say the
/// former.
#[expect(clippy::type_complexity, reason = "two lists of words")]
fn divide(args: &Args, (key, end): (&str, &str)) -> Result<(Vec<Vec<u8>>, Vec<Vec<u8>>), &'static str> {
    let (words, command) = args.words.split_at(args.before_dashes.unwrap_or(args.words.len()));
    if args.before_dashes.is_some() && command.is_empty() {
        return Err(NO_COMMAND);
    }
    let words = match (key.is_empty(), words) {
        (true, []) => return Err(BAD_NUMBER),
        (true, words) => words.to_vec(),
        (false, [_, ..]) => return Err(TWO_KEYS),
        (false, []) => [key, end].iter().filter(|part| !part.is_empty()).map(|part| part.as_bytes().to_vec()).collect(),
    };
    Ok((words, command.to_vec()))
}

fn request(args: &Args, words: &[Vec<u8>]) -> Result<WatchCreateRequest, &'static str> {
    let prefix = args.is_set("prefix");
    let (key, range_end) = match words {
        [_, _] if prefix => return Err("`range_end` and `--prefix` are mutually exclusive"),
        [key, end] => (key.clone().into(), end.clone().into()),
        [key, ..] => kv::prefix_or_from(key.clone().into(), prefix, false),
        [] => return Err(BAD_NUMBER),
    };
    Ok(WatchCreateRequest {
        prev_kv: args.is_set("prev-kv"),
        progress_notify: args.is_set("progress-notify"),
        ..client::watch_from(key, range_end, args.number("rev"))
    })
}

/// Prints an answer, and runs `command` for each of its events.
async fn show(session: &mut Session<'_>, answer: Result<WatchResponse, client::Error>, command: &[Vec<u8>]) -> Outcome {
    let answer = match answer {
        Ok(answer) if answer.created && !answer.canceled => return Ok(()),
        Ok(answer) => answer,
        // The stream failed for good: as etcd's client, as if the member had cancelled the watch.
        Err(error) => WatchResponse {
            created: true,
            canceled: true,
            cancel_reason: error.to_string(),
            ..WatchResponse::default()
        },
    };
    if answer.canceled {
        writeln!(session.err, "watch was canceled ({})", Watch::why_canceled(&answer))?;
    }
    if Watch::is_progress(&answer) {
        session.line(format_args!("progress notify: {}", answer.header.unwrap_or_default().revision))?;
    }
    session.print(&answer)?;
    if !command.is_empty() {
        let revision = answer.header.unwrap_or_default().revision;
        for event in &answer.events {
            execute(session, command, revision, event).await?;
        }
    }
    Ok(())
}

/// Runs `command` with one event in its environment, and passes its output on as it comes.
async fn execute(session: &mut Session<'_>, command: &[Vec<u8>], revision: i64, event: &Event) -> Outcome {
    let kv = event.kv.clone().unwrap_or_default();
    let program = OsStr::from_bytes(&command[0]);
    let child = Command::new(program)
        .args(command[1..].iter().map(|word| OsStr::from_bytes(word)))
        .env("ETCD_WATCH_REVISION", revision.to_string())
        .env("ETCD_WATCH_EVENT_TYPE", golang::quote(event_name(event).as_bytes()))
        .env("ETCD_WATCH_KEY", golang::quote(&kv.key))
        .env("ETCD_WATCH_VALUE", golang::quote(&kv.value))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let why = match child {
        Ok(child) => match pass_on(session, child).await? {
            status if status.success() => return Ok(()),
            status => child::ended(status),
        },
        Err(error) => child::not_started(program.as_bytes(), &error),
    };
    let words: Vec<String> = command.iter().map(|word| golang::quote(word)).collect();
    writeln!(session.err, "command [{}] error ({why})", words.join(" "))?;
    Err(Exit::silent(exit::ERROR))
}

async fn pass_on(session: &mut Session<'_>, mut child: Child) -> Result<ExitStatus, Exit> {
    let mut out = child.stdout.take().expect("stdout is piped");
    let mut err = child.stderr.take().expect("stderr is piped");
    let (mut out_bytes, mut err_bytes) = ([0; 4096], [0; 4096]);
    let (mut out_open, mut err_open) = (true, true);
    while out_open || err_open {
        tokio::select! {
            read = out.read(&mut out_bytes), if out_open => {
                let count = read?;
                out_open = count > 0;
                session.out.write_all(&out_bytes[..count])?;
            }
            read = err.read(&mut err_bytes), if err_open => {
                let count = read?;
                err_open = count > 0;
                session.err.write_all(&err_bytes[..count])?;
            }
        }
    }
    session.out.flush()?;
    Ok(child.wait().await?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(line: &[&str]) -> Args {
        let words: Vec<Vec<u8>> = line.iter().map(|word| word.as_bytes().to_vec()).collect();
        commands::parse_words(&words, commands::WATCH_FLAGS).expect("good flags")
    }

    fn divided(line: &[&str], variables: (&str, &str)) -> Result<(String, String), &'static str> {
        let text = |words: Vec<Vec<u8>>| String::from_utf8(words.join(&b' ')).expect("text");
        divide(&args(line), variables).map(|(words, command)| (text(words), text(command)))
    }

    #[test]
    fn what_stands_behind_the_dashes_is_run() {
        assert_eq!(divided(&["a", "b"], ("", "")), Ok(("a b".into(), String::new())));
        assert_eq!(divided(&["a", "--rev=3", "--", "echo", "-n"], ("", "")), Ok(("a".into(), "echo -n".into())));
        assert_eq!(divided(&["--", "echo"], ("k", "m")), Ok(("k m".into(), "echo".into())));
    }

    #[test]
    fn wrong_numbers_of_words_are_refused_in_etcds_words() {
        assert_eq!(divided(&[], ("", "")), Err(BAD_NUMBER));
        assert_eq!(divided(&["a", "--"], ("", "")), Err(NO_COMMAND));
        assert_eq!(divided(&["a"], ("k", "")), Err(TWO_KEYS));
        assert!(request(&args(&["a", "b", "--prefix"]), &args(&["a", "b"]).words).is_err());
    }

    #[test]
    fn lines_that_make_no_sense_are_told_and_passed_over() {
        let nonsense = |line: &str| match understand(line, ("", "")) {
            Ok(Line::Nonsense(why)) => why,
            _ => panic!("{line} makes sense"),
        };
        assert_eq!(nonsense("foo"), "Invalid command foo (only support watch)");
        assert_eq!(nonsense(""), "Invalid command:  (watch and progress supported)");
        assert_eq!(nonsense("watch"), "Invalid command watch (command type or key is not provided)");
        let both = "Invalid command watch w1 w9 --prefix (`range_end` and `--prefix` are mutually exclusive)";
        assert_eq!(nonsense("watch w1 w9 --prefix"), both);
        let fatal = understand("watch w1 --foo", ("", "")).err().expect("fatal");
        assert_eq!((fatal.code, fatal.message.as_deref()), (128, Some("unknown flag: --foo")));
    }
}
