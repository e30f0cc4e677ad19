//! `etcdutl`: what can be done to snapshot files, and to a data directory while no member runs on it.
//!
//! ```text
//! words ─ COMMANDS ─▶ flags and words ─▶ one file for each command ─▶ out, err, exit code
//! ```
//!
//! It reads the files of any etcd and writes data directories of ours; `convert` writes one of etcd's. It leaves etcd's own data directories to etcd's own programs, but
//! for backup, defrag and migrate. Source: etcd `etcdutl/etcdutl`.

mod backup;
mod convert;
mod defrag;
mod hashkv;
mod migrate;
mod print;
mod reading;
mod restore;
mod status;

#[cfg(test)]
mod tests;

pub(crate) use defrag::run as defrag;
pub(crate) use restore::FLAGS as RESTORE_FLAGS;
pub(crate) use restore::run as snapshot_restore;
pub(crate) use status::run as snapshot_status;

use crate::cmdline::args::Args;
use crate::cmdline::args::Flag;
use crate::cmdline::args::HELP;
use crate::cmdline::args::Kind;
use crate::cmdline::args::Refused;
use crate::disk::RealDisk;
use crate::error::Error;
use crate::replica::install::Manifest;
use crate::types::ETCD_VERSION;
use std::fmt::Write as _;
use std::io;
use std::io::Write;
use std::path::Path;

/// The API that etcdutl belongs to.
const API_VERSION: &str = "3.6";

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
            Error::Storage(why) if why.contains(LOCKED) => {
                let place = why.split(": ").next().unwrap_or_default();
                Failed::new(format!("{place} is in use: a member runs on it, stop it first"))
            }
            Error::Damaged(why) | Error::Storage(why) | Error::Start(why) => Failed::new(why),
            other => Failed::new(other.to_string()),
        }
    }
}

/// How the store says that another process has it.
const LOCKED: &str = "could not acquire lock";

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

impl Command {
    /// The flags that must be given and were not, quoted; empty if there are none.
    fn lacks(&self, args: &Args) -> String {
        let required = self.flags.iter().filter(|flag| flag.help.starts_with(REQUIRED) && !args.is_given(flag.name));
        required.map(|flag| format!("{:?}", flag.name)).collect::<Vec<_>>().join(", ")
    }
}

/// How the help of a flag begins that must be given.
const REQUIRED: &str = "Required.";

static FORMAT: Flag = Flag {
    name: "write-out",
    short: 'w',
    kind: Kind::Text,
    default: "simple",
    help: "set the output format (fields, json, protobuf, simple, table)",
};

/// The commands, in the order of their names.
static COMMANDS: [Command; 10] = [
    Command {
        name: "backup",
        usage: "--data-dir {dir} --backup-dir {dir}",
        short: "Copies a data directory that no member uses (of a running one: etcdctl snapshot save)",
        flags: backup::FLAGS,
        run: |args, _, _, err| backup::run(args, err),
    },
    Command { name: "check v2store", usage: "--data-dir {dir}", short: CHECK, flags: CHECK_FLAGS, run: check_v2store },
    Command {
        name: "convert",
        usage: "--data-dir {dir} --output-dir {dir}",
        short: "Makes a data directory that etcd starts on, of one of this server's",
        flags: convert::FLAGS,
        run: |args, _, _, err| convert::run(args, err),
    },
    Command {
        name: "defrag",
        usage: "--data-dir {dir}",
        short: "Writes the store of a data directory afresh, without what is no longer used",
        flags: defrag::FLAGS,
        run: |args, _, _, err| defrag::run(args, err),
    },
    Command {
        name: "hashkv",
        usage: "<filename>",
        short: "Hashes the key-value history in a snapshot, a database or a data directory",
        flags: hashkv::FLAGS,
        run: hashkv::run,
    },
    Command {
        name: "migrate",
        usage: "--data-dir {dir} --target-version X.Y",
        short: "Makes a data directory fit another release",
        flags: migrate::FLAGS,
        run: |args, _, _, err| migrate::run(args, err),
    },
    Command {
        name: "snapshot restore",
        usage: "<filename> --data-dir {output dir} [options]",
        short: "Makes a member's data directory from a snapshot",
        flags: restore::OWN_FLAGS,
        run: restore::run,
    },
    Command { name: "snapshot save", usage: "<filename>", short: "", flags: &[], run: snapshot_save },
    Command {
        name: "snapshot status",
        usage: "<filename>",
        short: "Tells what a snapshot file holds, and checks it",
        flags: &[],
        run: status::run,
    },
    Command { name: "version", usage: "", short: "Prints the version", flags: &[], run: version },
];

const CHECK: &str = "Tells whether a data directory holds keys of the v2 API";
static CHECK_FLAGS: &[Flag] = &[
    Flag { name: "data-dir", short: ' ', kind: Kind::Text, default: "", help: "Required. The data directory" },
    Flag { name: "wal-dir", short: ' ', kind: Kind::Text, default: "", help: "the folder of the log, if elsewhere" },
];

/// A directory of ours cannot hold any; one of etcd's is read by etcd's own program.
fn check_v2store(args: &Args, _: &str, out: &mut dyn Write, _: &mut dyn Write) -> Result<(), Failed> {
    let dir = args.text("data-dir").unwrap_or_default();
    let member = Path::new(dir).join("member");
    if Manifest::load(&RealDisk, &member)?.store_dir(&member).is_dir() {
        return Ok(writeln!(out, "No custom content found in v2store.")?);
    }
    Err(Failed::new(match member.is_dir() {
        true => format!("{dir} is a data directory of etcd's own: use its etcdutl"),
        false => format!("stat {}: no such file or directory", member.display()),
    }))
}

/// Where it is now.
fn snapshot_save(_: &Args, _: &str, _: &mut dyn Write, err: &mut dyn Write) -> Result<(), Failed> {
    writeln!(err, "Command \"save\" is deprecated, Use `etcdctl snapshot save` to download snapshot")?;
    Err(Failed::bad_args("In order to download snapshot use: `etcdctl snapshot save ...`"))
}

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
            return named.first().map_or(Found::Unknown(word), |group| Found::Group(group_name(group)));
        };
        rest.remove(at);
        named.push(head.to_owned());
        let path = named.join(" ");
        if let Some(command) = COMMANDS.iter().find(|command| command.name == path) {
            return Found::Command(command, rest);
        }
    }
    Found::Group(named.first().map_or("", |group| group_name(group)))
}

/// Groups of commands, and what they are about.
const GROUPS: [(&str, &str); 2] = [("check", "Checks of a data directory"), ("snapshot", "Snapshot files")];

fn group_name(name: &str) -> &'static str {
    GROUPS.iter().find(|(group, _)| *group == name).map_or("", |(group, _)| group)
}

/// The names right below a group, and what they do; hidden ones left out.
fn below(group: &str) -> Vec<(&'static str, &'static str)> {
    let mut names = Vec::new();
    for command in COMMANDS.iter().filter(|command| !command.short.is_empty()) {
        match command.name.split_once(' ') {
            Some((head, tail)) if head == group => names.push((tail, command.short)),
            None if group.is_empty() => names.push((command.name, command.short)),
            _ => {}
        }
    }
    if group.is_empty() {
        names.extend(GROUPS);
        names.push(("completion", "Prints a script that lets the shell finish words"));
        names.push(("help", "Explains a command"));
    }
    names.sort_unstable();
    names
}

fn group_usage(group: &str) -> String {
    let mut text = format!("Usage:\n  {} [command]\n\nAvailable Commands:\n", ["etcdutl", group].join(" ").trim_end());
    for (name, short) in below(group) {
        writeln!(text, "  {name:<12}{short}").expect("a String takes all");
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

/// `completion`: a script whose words are the commands and flags of this program.
fn completion(words: &[Vec<u8>], out: &mut dyn Write) -> Result<(), Failed> {
    let shell = words.get(1).map(|word| String::from_utf8_lossy(word).into_owned()).unwrap_or_default();
    let mut all: Vec<String> = below("").into_iter().map(|(name, _)| name.to_owned()).collect();
    all.extend(GROUPS.iter().flat_map(|(group, _)| below(group)).map(|(name, _)| name.to_owned()));
    all.extend(
        COMMANDS.iter().flat_map(|command| command.flags).chain([&FORMAT]).map(|flag| format!("--{}", flag.name)),
    );
    all.sort_unstable();
    all.dedup();
    let all = all.join(" ");
    let script = match shell.as_str() {
        "bash" => format!("# bash completion for etcdutl\n\ncomplete -o default -W '{all}' etcdutl\n"),
        "zsh" => format!("#compdef etcdutl\n\ncompctl -f -k '({all})' etcdutl\n"),
        "fish" => format!("# fish completion for etcdutl\n\ncomplete -c etcdutl -a '{all}'\n"),
        "powershell" => format!(
            "# powershell completion for etcdutl\n\nRegister-ArgumentCompleter -Native -CommandName etcdutl -ScriptBlock {{\n    \
             param($word)\n    '{all}'.Split(' ') | Where-Object {{ $_.StartsWith($word) }}\n}}\n"
        ),
        _ => return Err(Failed::new(format!("invalid argument \"{shell}\" for \"etcdutl completion\""))),
    };
    Ok(out.write_all(script.as_bytes())?)
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
        Found::Group(group) => return show_group(group, &words[usize::from(help)..], out, err),
        Found::Unknown(word) if word == "completion" => return completion(&words[usize::from(help)..], out),
        Found::Unknown(word) if help => {
            return Ok(writeln!(err, "Unknown help topic [`{word}`]\n{}", group_usage(""))?);
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
        Ok(args) if !command.lacks(&args).is_empty() => {
            let why = format!("required flag(s) {} not set", command.lacks(&args));
            writeln!(err, "Error: {why}\n{}", usage(command))?;
            Err(Failed::new(why))
        }
        Ok(args) => (command.run)(&args, args.text("write-out").unwrap_or("simple"), out, err),
        Err(Refused::Help) => Ok(out.write_all(usage(command).as_bytes())?),
        Err(Refused::Because(why)) => {
            writeln!(err, "Error: {why}\n{}", usage(command))?;
            Err(Failed::new(why))
        }
    }
}

/// What is said of a line that names no command: how the group is used, or which flag it does not have.
fn show_group(group: &str, words: &[Vec<u8>], out: &mut dyn Write, err: &mut dyn Write) -> Result<(), Failed> {
    match Args::parse(words, &[&FORMAT]) {
        Err(Refused::Because(why)) => {
            writeln!(err, "Error: {why}\n{}", group_usage(group))?;
            Err(Failed::new(why))
        }
        Ok(_) | Err(Refused::Help) => Ok(out.write_all(group_usage(group).as_bytes())?),
    }
}

/// Runs one command line with this process's streams. Returns its exit code.
#[must_use]
pub fn main(args: &[String]) -> u8 {
    run(args, &mut std::io::stdout(), &mut std::io::stderr())
}
