//! The four programs: which one was called, with what, and its exit code.
//!
//! `etcd-lab` is all four in one: called by the name of another, or with that name as its first word, it is that program. So one build is
//! enough for the lab, which starts its members from its own executable.

mod book;
mod coverage;
mod doctor;
#[doc(hidden)]
pub mod example;
mod labs;
mod matrix;

use crate::bench;
use crate::ctl;
use crate::kube;
use crate::lab;
use crate::lab::guide;
use crate::server;
use crate::tui;
use crate::utl;
use std::ffi::OsString;
use std::io::Write as _;
use std::os::unix::ffi::OsStringExt as _;
use std::path::Path;

const HELP: &str = "\
etcd-lab: learn etcd by running it

Usage:
  etcd-lab                          open the lab: a real cluster, drawn while it works
  etcd-lab E7                       the same, with this lab on its Learn screen (1); B3 if you do not say
  etcd-lab E7 --step 5              begin at that step: the steps before are done for you, on a fresh cluster
  etcd-lab --sim --seed 7           the same screens on a simulated cluster: one seed, one run; step back, and :fork it
  etcd-lab up --nodes 3             start a cluster without a screen; it says what to type elsewhere
  etcd-lab down                     end the cluster that `up` started
  etcd-lab --machines 3             the same on other machines, set up by `etcd-lab node setup`; also: up --machines a,b,c
  etcd-lab shell                    a shell with the cluster's etcd, etcdctl and etcdutl on its PATH
  etcd-lab doctor -- etcdctl get k  what is behind an error: run it again with eyes open (--help tells more)
  etcd-lab fault kill n2            break the cluster that runs; without a word, all faults; `fault undo` takes one back
  etcd-lab replay FILE              show a recording: last.labrec in a lab's folder
  etcd-lab export FILE WHAT         of a recording: cast (asciinema), svg of a screen, spacetime diagram, jsonl; --help tells more
  etcd-lab show SCREEN [--json]     a screen as plain lines or as JSON: learn, ring, wire, logs, watch, data, cluster, promises
  etcd-lab test labs/B3-first-keys  run a lab without a screen: its start fails, its solution passes; --all: every lab
  etcd-lab lesson 3                 read a chapter of the book; --shell: with its cluster; --quiz: its questions
  etcd-lab book                     the built book, for a browser on this machine
  etcd-lab progress                 the course: what is done, what needs what, what comes next; --json: the file, to keep
  etcd-lab progress export          the same in a file for your teacher
  etcd-lab preflight                will this machine do for the course? 20 looks, and a code for your teacher
  etcd-lab font-test                the signs that the screens draw with: is this font right for the projector?
  etcd-lab class bundle --to DIR    all that a class needs in one folder; `class import DIR`: who is where
  etcd-lab print labs/B3-first-keys a lab on paper; --answers: the key to it
  etcd-lab author                   the author's guide: what a lab file may hold
  etcd-lab mdbook                   the preprocessor of the book (see book/book.toml)
  etcd-lab bench --help             measure a server: ours, another, or one against the other
  etcd-lab bench lab --help         measure the lab itself: its frames, its cost for members, a store with a million keys
  etcd-lab nemesis 7 --nodes 3      play a nemesis in the simulation; if it breaks a rule, the shortest plan that still does
  etcd-lab etcd|etcdctl|etcdutl …   the server and its clients
  etcd-lab kube-apiserver|kube-scheduler|kube-controller-manager|kubelet|kubectl …   kube-lite: Kubernetes in small, on etcd
  etcd-lab --version | --help

Of the lab: --folder PATH (where its members live), --etcd PATH (another etcd as its members), --tls (members speak TLS
to each other), --ascii, --theme dark|light|contrast|mono, --plain (no screen)
";

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
        "systemctl" | "systemd-run" | "journalctl" | "sudo" | "sleep" => {
            let rest = args.get(1..).unwrap_or_default();
            guide::stand_in(name, rest, &mut std::io::stdout(), &mut std::io::stderr())
        }
        _ => kube::program(name, &words()),
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
        "export" => tui::export::run(rest, &mut out, &mut err),
        "member-guard" => lab::member::guard(&args[1..], &mut err),
        "test" => labs::test(rest),
        "lesson" => guide::lesson(rest, &mut out, &mut err),
        "book" => book::serve(rest, &mut out, &mut err),
        "print" => labs::print(rest, &mut out, &mut err),
        "progress" => lab::progress::run(rest, &mut out, &mut err),
        "author" => say(&guide::authors_guide()),
        "unit-guard" => guide::stand_in(first, &args[1..], &mut out, &mut err).unwrap_or(2),
        "node" => lab::up::own_program().map_or(1, |program| lab::setup::node(rest, &program, &mut out, &mut err)),
        "class" => lab::class::run(rest, &mut out, &mut err),
        "preflight" => lab::ready::run(rest, &mut out, &mut err),
        "font-test" => say(tui::FONT_TEST),
        "agent" => lab::agent::serve(std::io::BufReader::new(std::io::stdin()), &mut out),
        "mdbook" => guide::mdbook(rest, &mut std::io::stdin(), &mut out, &mut err),
        "bench" if rest.first().is_some_and(|word| word == "lab") => tui::bench::main(&rest[1..]),
        "bench" => bench::main(&args[1..]),
        "nemesis" => lab::up::shrink(rest, &mut out, &mut err),
        "doctor" => doctor::run(&args[1..], &mut out, &mut err),
        "--version" | "version" => say(&format!(
            "etcd-lab {}\netcd {} (the release it is interchangeable with)\n",
            env!("CARGO_PKG_VERSION"),
            crate::types::ETCD_VERSION
        )),
        "--help" | "-h" | "help" => say(HELP),
        "" => tui::run::run(&words, &mut out, &mut err),
        option if option.starts_with('-') => tui::run::run(&words, &mut out, &mut err),
        lab if lab::course::named(lab).is_some() => {
            let words: Vec<String> = ["--lab".to_owned()].into_iter().chain(words.iter().cloned()).collect();
            tui::run::run(&words, &mut out, &mut err)
        }
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
