//! `etcdutl`: what can be done to snapshot files, and to a data directory while no member runs on it.
//!
//! ```text
//! words ─ COMMANDS ─▶ flags and words ─▶ snapshot status · snapshot restore · hashkv ─▶ out, err, exit code
//! ```
//!
//! It reads the files of any etcd and writes data directories of ours. Left out until later: backup, completion, defrag, migrate. Source: etcd
//! `etcdutl/etcdutl`.

mod hashkv;
mod print;
mod restore;
mod status;

#[cfg(test)]
mod tests;

pub(crate) use restore::FLAGS as RESTORE_FLAGS;
pub(crate) use restore::run as snapshot_restore;
pub(crate) use status::run as snapshot_status;

use crate::cmdline::args::Args;
use crate::cmdline::args::Flag;
use crate::cmdline::args::HELP;
use crate::cmdline::args::Kind;
use crate::cmdline::args::Refused;
use crate::error::Error;
use crate::types::ETCD_VERSION;
use std::fmt::Write as _;
use std::io;
use std::io::Write;

/// The API that etcdutl belongs to.
const API_VERSION: &str = "3.6";

/// What upstream's etcdutl can do, and this one cannot yet.
const LATER: [&str; 5] = ["check", "completion", "defrag", "migrate", "backup"];

/// A command that did not work: a code, and what to say after `Error: `.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Failed {
    pub(crate) code: u8,
    pub(crate) message: String,
}

impl Failed {
    fn new(message: impl Into<String>) -> Failed {
        Failed { code: 1, message: message.into() }
    }

    fn bad_args(message: impl Into<String>) -> Failed {
        Failed { code: 128, message: message.into() }
    }
}

impl From<io::Error> for Failed {
    fn from(error: io::Error) -> Failed {
        Failed::new(crate::error::io_text(&error))
    }
}

impl From<Error> for Failed {
    fn from(error: Error) -> Failed {
        match error {
            Error::Damaged(why) | Error::Storage(why) | Error::Start(why) => Failed::new(why),
            other => Failed::new(other.to_string()),
        }
    }
}

/// What carries out a command: its words and flags, the output format, and the two streams.
type Run = fn(&Args, &str, &mut dyn Write, &mut dyn Write) -> Result<(), Failed>;

/// A row of the table.
struct Command {
    name: &'static str,
    usage: &'static str,
    short: &'static str,
    flags: &'static [Flag],
    run: Run,
}

static FORMAT: Flag = Flag {
    name: "write-out",
    short: 'w',
    kind: Kind::Text,
    default: "simple",
    help: "set the output format (fields, json, protobuf, simple, table)",
};

/// The commands, in the order of their names.
static COMMANDS: [Command; 4] = [
    Command {
        name: "hashkv",
        usage: "<filename>",
        short: "Hashes the key-value history in a snapshot, a database or a data directory",
        flags: hashkv::FLAGS,
        run: hashkv::run,
    },
    Command {
        name: "snapshot restore",
        usage: "<filename> --data-dir {output dir} [options]",
        short: "Makes a member's data directory from a snapshot",
        flags: restore::FLAGS,
        run: restore::run,
    },
    Command {
        name: "snapshot status",
        usage: "<filename>",
        short: "Tells what a snapshot file holds, and checks it",
        flags: &[],
        run: status::run,
    },
    Command { name: "version", usage: "", short: "Prints the version", flags: &[], run: version },
];

fn version(_: &Args, _: &str, out: &mut dyn Write, _: &mut dyn Write) -> Result<(), Failed> {
    Ok(writeln!(out, "etcdutl version: {ETCD_VERSION}\nAPI version: {API_VERSION}")?)
}

/// Where a command line leads.
enum Found {
    Command(&'static Command, Vec<Vec<u8>>),
    /// No command, or the name of a group: then its usage is shown.
    Group(&'static str),
    Unknown(String),
}

/// Finds the command that the first words name, by prefixes that only it has, too.
fn find(words: &[Vec<u8>]) -> Found {
    let (mut rest, mut named): (Vec<Vec<u8>>, Vec<String>) = (words.to_vec(), Vec::new());
    let mut at = 0;
    while at < rest.len() && named.len() < 2 {
        let word = String::from_utf8_lossy(&rest[at]).into_owned();
        if word.starts_with('-') {
            at += if word == "-w" || word == "--write-out" { 2 } else { 1 };
            continue;
        }
        let group = named.first().map_or_else(String::new, |group| format!("{group} "));
        let below = COMMANDS.iter().filter_map(|command| command.name.strip_prefix(&group));
        let mut heads: Vec<&str> = below.filter_map(|tail| tail.split(' ').next()).collect();
        heads.dedup();
        let exact = heads.iter().copied().find(|head| *head == word);
        let mut near = heads.iter().copied().filter(|head| head.starts_with(&word));
        let Some(head) = exact.or_else(|| near.next().filter(|_| near.next().is_none())) else {
            return if named.is_empty() { Found::Unknown(word) } else { Found::Group("snapshot") };
        };
        rest.remove(at);
        named.push(head.to_owned());
        let path = named.join(" ");
        if let Some(command) = COMMANDS.iter().find(|command| command.name == path) {
            return Found::Command(command, rest);
        }
    }
    Found::Group(if named.is_empty() { "" } else { "snapshot" })
}

fn group_usage(group: &str) -> String {
    let mut text = format!("Usage:\n  {} [command]\n\nAvailable Commands:\n", ["etcdutl", group].join(" ").trim_end());
    for command in &COMMANDS {
        if command.name.starts_with(group) {
            let name = command.name.strip_prefix(group).unwrap_or_default().trim_start();
            writeln!(text, "  {name:<18}{}", command.short).expect("a String takes all");
        }
    }
    text += "\nFlags:\n";
    let mut flags = vec![&HELP];
    if group.is_empty() {
        flags.push(&FORMAT);
    }
    text += &flags_usage(&flags);
    if !group.is_empty() {
        text += &format!("\nGlobal Flags:\n{}", flags_usage(&[&FORMAT]));
    }
    text
}

fn usage(command: &Command) -> String {
    let line: Vec<&str> =
        ["etcdutl", command.name, command.usage, "[flags]"].into_iter().filter(|part| !part.is_empty()).collect();
    let mut flags: Vec<&Flag> = command.flags.iter().chain([&HELP]).collect();
    flags.sort_by_key(|flag| flag.name);
    let global = flags_usage(&[&FORMAT]);
    format!("Usage:\n  {}\n\nFlags:\n{}\nGlobal Flags:\n{global}", line.join(" "), flags_usage(&flags))
}

/// A line for each flag, as pflag lays them out.
fn flags_usage(flags: &[&Flag]) -> String {
    let left = |flag: &Flag| {
        let short = if flag.short == ' ' { "      ".to_owned() } else { format!("  -{}, ", flag.short) };
        let kind = match flag.kind {
            Kind::Switch => "",
            Kind::Number => " int",
            Kind::Time => " duration",
            Kind::Text => " string",
            Kind::List => " strings",
        };
        format!("{short}--{}{kind}", flag.name)
    };
    let width = flags.iter().map(|flag| left(flag).len()).max().unwrap_or(0) + 3;
    let mut text = String::new();
    for flag in flags {
        let default = match flag.default {
            "" | "0" | "false" => String::new(),
            default => format!(" (default \"{default}\")"),
        };
        writeln!(text, "{:<width$}{}{default}", left(flag), flag.help).expect("a String takes all");
    }
    text
}

/// Runs one command line. `args` are those after the program's name. Returns the exit code.
pub fn run(args: &[String], out: &mut dyn Write, err: &mut dyn Write) -> u8 {
    let words: Vec<Vec<u8>> = args.iter().map(|word| word.clone().into_bytes()).collect();
    // Nobody is left to tell when the error stream fails, and the code tells the same.
    match dispatch(&words, out, err) {
        Ok(()) => u8::from(out.flush().is_err()),
        Err(Failed { code, message }) => {
            let _ = out.flush();
            let _ = writeln!(err, "Error: {message}");
            code
        }
    }
}

fn dispatch(words: &[Vec<u8>], out: &mut dyn Write, err: &mut dyn Write) -> Result<(), Failed> {
    let help = words.first().is_some_and(|word| word == b"help");
    let (command, rest) = match find(&words[usize::from(help)..]) {
        Found::Command(command, rest) => (command, rest),
        Found::Group(group) => return Ok(out.write_all(group_usage(group).as_bytes())?),
        Found::Unknown(word) if LATER.contains(&word.as_str()) => {
            return Err(Failed::new(format!(
                "etcdutl {word} is not built yet: it comes with a later release of etcd-lab"
            )));
        }
        Found::Unknown(word) => {
            let why = format!("unknown command {word:?} for \"etcdutl\"");
            writeln!(err, "Error: {why}\nRun 'etcdutl --help' for usage.")?;
            return Err(Failed::new(why));
        }
    };
    if help {
        return Ok(out.write_all(usage(command).as_bytes())?);
    }
    let known: Vec<&'static Flag> = command.flags.iter().chain([&FORMAT]).collect();
    match Args::parse(&rest, &known) {
        Ok(args) => (command.run)(&args, args.text("write-out").unwrap_or("simple"), out, err),
        Err(Refused::Help) => Ok(out.write_all(usage(command).as_bytes())?),
        Err(Refused::Because(why)) => {
            writeln!(err, "Error: {why}\n{}", usage(command))?;
            Err(Failed::new(why))
        }
    }
}

/// Runs one command line with this process's streams. Returns its exit code.
#[must_use]
pub fn main(args: &[String]) -> u8 {
    run(args, &mut std::io::stdout(), &mut std::io::stderr())
}
