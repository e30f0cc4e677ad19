//! `etcd-lab doctor`: which program failed, and so which eyes to look with. The looking itself is in [`crate::doctor`].

use crate::ctl;
use crate::ctl::Explain;
use crate::doctor;
use crate::doctor::Cause;
use crate::doctor::Finding;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::Write;
use std::os::unix::ffi::OsStringExt as _;

const HELP: &str = "\
usage: etcd-lab doctor [--fix] [etcdctl's global flags]         what is wrong with this cluster
       etcd-lab doctor [--fix] -- COMMAND                       run it again with eyes open, or look at what it would meet

COMMAND is what failed: etcdctl …, etcd …, systemctl start UNIT (a name, or a file's path), etcdctl or etcdutl snapshot restore …
Of a start and a restore only the surroundings are looked at; they are not carried out again.
--fix also says what helps. Exit code: 0 if nothing is wrong.
";

/// Runs `etcd-lab doctor` with these words. Returns its exit code.
pub(super) fn run(args: &[OsString], out: &mut dyn Write, err: &mut dyn Write) -> u8 {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(why) => return complain(err, &format!("cannot start: {why}")),
    };
    let env: Vec<(String, String)> = std::env::vars_os()
        .map(|(name, value)| (name.to_string_lossy().into_owned(), value.to_string_lossy().into_owned()))
        .collect();
    let dashes = args.iter().position(|word| word == "--");
    let (own, command) = args.split_at(dashes.unwrap_or(args.len()));
    let fix = own.iter().any(|word| word == "--fix");
    let own: Vec<Vec<u8>> = own.iter().filter(|word| *word != "--fix").cloned().map(OsString::into_vec).collect();
    if own.iter().any(|word| word == b"--help" || word == b"-h") {
        // A reader that is gone is no failure.
        let _ = out.write_all(HELP.as_bytes());
        return 0;
    }
    let code = runtime.block_on(async {
        match command {
            [] | [_] => ctl::checkup(own, &env, fix, out, err).await,
            [_, command @ ..] => again(command, &env, fix, out, err).await,
        }
    });
    runtime.shutdown_background();
    code
}

/// Looks at what `command` would meet; etcdctl's commands are run.
async fn again(
    command: &[OsString],
    env: &[(String, String)],
    fix: bool,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> u8 {
    let words: Vec<String> = command.iter().map(|word| word.to_string_lossy().into_owned()).collect();
    let program = words[0].rsplit('/').next().unwrap_or_default();
    let folder = std::env::current_dir().unwrap_or_default();
    let has = |word: &str| words.iter().any(|other| other == word);
    let found = match program {
        "etcdctl" | "etcdutl" if has("snapshot") && has("restore") => {
            doctor::restored(&words, &folder).map(|finding| vec![finding])
        }
        "etcdctl" => {
            let words = command[1..].iter().cloned().map(OsString::into_vec);
            let explain = if fix { Explain::Fix } else { Explain::Cause };
            let stdin = Box::new(std::io::BufReader::new(std::io::stdin()));
            return ctl::run_explained(words, env, stdin, out, err, explain).await;
        }
        "etcd" | "systemctl" => {
            let variables: BTreeMap<String, String> = env.iter().cloned().collect();
            doctor::starting(&words, &variables, &folder).await
        }
        _ => {
            Err(format!("the doctor knows etcdctl, etcdutl snapshot restore, etcd and systemctl start; not {program}"))
        }
    };
    match found {
        Ok(findings) => tell(&findings, fix, out),
        Err(why) => complain(err, &why),
    }
}

fn tell(findings: &[Finding], fix: bool, out: &mut dyn Write) -> u8 {
    let _ = out.write_all(doctor::report(findings, fix).as_bytes());
    u8::from(findings.iter().any(|finding| finding.cause != Cause::AllWell))
}

fn complain(err: &mut dyn Write, why: &str) -> u8 {
    let _ = writeln!(err, "Error: {why}\n{HELP}");
    2
}
