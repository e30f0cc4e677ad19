//! The four programs: which one was called, with what, and its exit code.
//!
//! `etcd-lab` is all four in one: called by the name of another, or with that name as its first word, it is that program. So one build is
//! enough for the lab, which starts its members from its own executable.

mod doctor;
#[doc(hidden)]
pub mod example;

use crate::bench;
use crate::ctl;
use crate::lab;
use crate::lab::guide;
use crate::server;
use crate::tui;
use crate::utl;
use std::ffi::OsString;
use std::io::Write as _;
use std::os::unix::ffi::OsStringExt as _;
use std::path::Path;
use std::path::PathBuf;

const HELP: &str = "\
etcd-lab: learn etcd by running it

Usage:
  etcd-lab                          open the lab: a real cluster, drawn while it works
  etcd-lab up --nodes 3             start a cluster without a screen; it says what to type elsewhere
  etcd-lab down                     end the cluster that `up` started
  etcd-lab shell                    a shell with the cluster's etcd, etcdctl and etcdutl on its PATH
  etcd-lab doctor -- etcdctl get k  what is behind an error: run it again with eyes open (--help tells more)
  etcd-lab fault kill n2            break the cluster that runs; without a word, all faults; `fault undo` takes one back
  etcd-lab replay FILE              show a recording: last.labrec in a lab's folder
  etcd-lab show SCREEN [--json]     a screen as plain lines or as JSON: ring, wire, logs, watch, data, cluster
  etcd-lab test labs/B3-first-keys  run a lab without a screen: its start fails, its solution passes
  etcd-lab mdbook                   the preprocessor of the book (see book/book.toml)
  etcd-lab bench --help             measure a server: ours, another, or one against the other
  etcd-lab etcd|etcdctl|etcdutl …   the server and its clients
  etcd-lab --version | --help

Of the lab: --folder PATH (where its members live), --ascii, --theme dark|light|contrast|mono, --plain (no screen)
";

const TEST_HELP: &str = "usage: etcd-lab test LAB [--etcd-dir DIR] [--junit FILE] [--json FILE]\n";

/// Runs the program that `args` names and returns its exit code. `args` begins with the program's own name.
#[must_use]
pub fn run(mut args: Vec<OsString>) -> u8 {
    let called = args.first().map(|name| Path::new(name).file_name().unwrap_or_default().to_owned());
    let called = called.unwrap_or_default().to_string_lossy().into_owned();
    if let Some(code) = program(&called, &args) {
        return code;
    }
    if !args.is_empty() {
        args.remove(0);
    }
    let first = args.first().map(|word| word.to_string_lossy().into_owned()).unwrap_or_default();
    program(&first, &args).unwrap_or_else(|| etcd_lab(&first, &args))
}

/// The server or a client, if `name` is one. `args` begins with the program's name.
fn program(name: &str, args: &[OsString]) -> Option<u8> {
    let words = || text(args.get(1..).unwrap_or_default());
    match name {
        "etcd" => Some(server::main(args.get(1..).unwrap_or_default())),
        "etcdctl" => Some(ctl::main(args.iter().skip(1).cloned().map(|word| word.into_vec()))),
        "etcdutl" => Some(utl::main(&words())),
        _ => None,
    }
}

fn text(args: &[OsString]) -> Vec<String> {
    args.iter().map(|arg| arg.to_string_lossy().into_owned()).collect()
}

/// The lab's own commands; without one, the lab itself.
fn etcd_lab(first: &str, args: &[OsString]) -> u8 {
    let words = text(args);
    let rest = words.get(1..).unwrap_or_default();
    let (mut out, mut err) = (std::io::stdout(), std::io::stderr());
    match first {
        "up" => lab::up::up(rest, &mut out, &mut err),
        "down" => lab::up::down(rest, &mut out, &mut err),
        "show" => lab::up::show(rest, &mut out, &mut err),
        "shell" => lab::shell::shell(rest, &mut out, &mut err),
        "fault" => lab::orders::fault(rest, &mut out, &mut err),
        "replay" => tui::run::replay(rest, &mut out, &mut err),
        "member-guard" => lab::member::guard(&args[1..], &mut err),
        "test" => test(rest),
        "node" => lab::up::own_program().map_or(1, |program| lab::setup::node(rest, &program, &mut out, &mut err)),
        "mdbook" => guide::mdbook(rest, &mut std::io::stdin(), &mut out, &mut err),
        "bench" => bench::main(&args[1..]),
        "doctor" => doctor::run(&args[1..], &mut out, &mut err),
        "--version" | "version" => say(&format!(
            "etcd-lab {}\netcd {} (the release it is interchangeable with)\n",
            env!("CARGO_PKG_VERSION"),
            crate::types::ETCD_VERSION
        )),
        "--help" | "-h" | "help" => say(HELP),
        "" => tui::run::run(&words, &mut out, &mut err),
        option if option.starts_with('-') => tui::run::run(&words, &mut out, &mut err),
        unknown => {
            let _ = write!(err, "Error: unknown command {unknown:?}\n\n{HELP}");
            2
        }
    }
}

/// Prints; a reader that is gone is no failure.
fn say(text: &str) -> u8 {
    let _ = std::io::stdout().write_all(text.as_bytes());
    0
}

fn test(words: &[String]) -> u8 {
    let mut options = guide::TestOptions::default();
    let mut path = None;
    let mut words = words.iter();
    while let Some(word) = words.next() {
        let slot = match word.as_str() {
            "--etcd-dir" => &mut options.etcd_dir,
            "--junit" => &mut options.junit,
            "--json" => &mut options.json,
            "--help" | "-h" => return say(TEST_HELP),
            _ if !word.starts_with('-') && path.is_none() => {
                path = Some(PathBuf::from(word));
                continue;
            }
            _ => return usage(&format!("etcd-lab test does not know {word}")),
        };
        match words.next() {
            Some(value) => *slot = Some(PathBuf::from(value)),
            None => return usage(&format!("{word} needs a value")),
        }
    }
    match path {
        Some(path) => guide::test(&path, &options, &mut std::io::stdout()),
        None => usage("which lab?"),
    }
}

fn usage(why: &str) -> u8 {
    let _ = write!(std::io::stderr(), "Error: {why}\n{TEST_HELP}");
    2
}
