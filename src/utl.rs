//! `etcdutl`: what can be done to a data directory while no member runs on it.
//!
//! So far it tells its version; the commands that read or write data directories come with a later release, and say so.

use crate::types::ETCD_VERSION;
use std::io::Write;

/// The API that etcdutl belongs to.
const API_VERSION: &str = "3.6";

/// What upstream's etcdutl can do, and this one cannot yet.
const LATER: [&str; 7] = ["check", "completion", "defrag", "hashkv", "migrate", "backup", "snapshot"];

const USAGE: &str = "\
Works on a member's data directory while the member does not run.

Usage:
  etcdutl [command]

Available Commands:
  help        Shows this text
  version     Prints the version

Flags:
  -h, --help   show this text
";

/// Runs one command line. `args` are those after the program's name. Returns the exit code.
pub fn run(args: &[String], out: &mut dyn Write, err: &mut dyn Write) -> u8 {
    let word = args.iter().find(|arg| !arg.starts_with('-')).map_or("help", String::as_str);
    let (text, complaint) = match word {
        "help" => (USAGE.to_owned(), None),
        "version" => (format!("etcdutl version: {ETCD_VERSION}\nAPI version: {API_VERSION}\n"), None),
        later if LATER.contains(&later) => {
            let why = format!("etcdutl {later} is not built yet: it comes with a later release of etcd-lab");
            (String::new(), Some(why))
        }
        other => {
            let why = format!("unknown command {other:?} for \"etcdutl\"\nRun 'etcdutl --help' for usage.");
            (String::new(), Some(why))
        }
    };
    let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    match complaint {
        Some(why) => {
            // Nobody is left to tell when this stream fails, and the code tells the same.
            let _ = writeln!(err, "Error: {why}");
            1
        }
        None => u8::from(written.is_err()),
    }
}

/// Runs one command line with this process's streams. Returns its exit code.
#[must_use]
pub fn main(args: &[String]) -> u8 {
    run(args, &mut std::io::stdout(), &mut std::io::stderr())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ran(args: &[&str]) -> (u8, String, String) {
        let args: Vec<String> = args.iter().map(|&arg| arg.to_owned()).collect();
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let code = run(&args, &mut out, &mut err);
        (code, String::from_utf8(out).expect("text"), String::from_utf8(err).expect("text"))
    }

    #[test]
    fn it_tells_its_version_and_what_it_cannot_do_yet() {
        assert_eq!(ran(&["version"]).1, "etcdutl version: 3.6.14\nAPI version: 3.6\n");
        let (code, out, err) = ran(&["snapshot", "status", "f"]);
        assert_eq!((code, out.as_str()), (1, ""));
        assert_eq!(err, "Error: etcdutl snapshot is not built yet: it comes with a later release of etcd-lab\n");
        assert!(!ran(&["--help"]).1.contains("snapshot"), "the help names only what works");
    }
}
