//! `etcd-lab test` and `etcd-lab print`: the labs without a screen.
//!
//! `--all` runs each lab in a process of its own, so that one that needs a namespace can have it and the next need not.

use super::say;
use crate::lab::guide;
use crate::lab::guide::Profile;
use std::io::Write;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;

const TEST_HELP: &str = "\
usage: etcd-lab test LAB|--all [--engine etcd DIR] [--profile ports|loop|netns] [--releases DIR]
                             [--junit FILE] [--json FILE]

  --all              every lab of labs/course.toml, in its order (run where labs/ is)
  --engine etcd DIR  against the etcd and etcdctl in this folder; --etcd-dir DIR is the same
  --profile NAME     where the nodes are: netns (the documents' addresses), loop (127.0.x.y with standard ports), ports
  --releases DIR     the lab's release mirror gives the archives of this folder; without it, our own programs under their names
";

/// What `etcd-lab test` was asked.
#[derive(Default)]
struct Asked {
    path: Option<PathBuf>,
    all: bool,
    options: guide::TestOptions,
}

pub(super) fn test(words: &[String]) -> u8 {
    let asked = match parsed(words) {
        Ok(Some(asked)) => asked,
        Ok(None) => return say(TEST_HELP),
        Err(why) => {
            let _ = write!(std::io::stderr(), "Error: {why}\n{TEST_HELP}");
            return 2;
        }
    };
    let done = match &asked.path {
        Some(path) => one(path, &asked.options, words),
        None => all(&asked.options, words),
    };
    done.unwrap_or_else(|why| {
        let _ = writeln!(std::io::stderr(), "etcd-lab: {why}");
        2
    })
}

fn parsed(words: &[String]) -> Result<Option<Asked>, String> {
    let mut asked = Asked::default();
    let mut words = words.iter();
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or_else(|| format!("{word} needs a value"));
        match word.as_str() {
            "--help" | "-h" => return Ok(None),
            "--all" => asked.all = true,
            "--etcd-dir" => asked.options.etcd_dir = Some(value()?.into()),
            "--junit" => asked.options.junit = Some(value()?.into()),
            "--json" => asked.options.json = Some(value()?.into()),
            "--releases" => guide::mirror_from(Path::new(value()?))?,
            "--profile" => {
                let name = value()?;
                let profile = Profile::named(name);
                asked.options.profile =
                    Some(profile.ok_or_else(|| format!("--profile is ports, loop or netns, not {name}"))?);
            }
            "--engine" => match value()?.as_str() {
                "real" => {}
                "etcd" => asked.options.etcd_dir = Some(value()?.into()),
                other => return Err(format!("--engine is real or etcd DIR, not {other}")),
            },
            _ if !word.starts_with('-') && asked.path.is_none() => asked.path = Some(word.into()),
            _ => return Err(format!("etcd-lab test does not know {word}")),
        }
    }
    match (&asked.path, asked.all) {
        (None, false) => Err("which lab? Name its folder, or say --all".into()),
        (Some(_), true) => Err("a lab or --all, not both".into()),
        _ => Ok(Some(asked)),
    }
}

fn one(path: &Path, options: &guide::TestOptions, words: &[String]) -> Result<u8, String> {
    let again: Vec<String> = std::iter::once("test".to_owned()).chain(words.iter().cloned()).collect();
    let (profile, inside) = guide::enter_if_needed(path, options.profile, &again)?;
    match inside {
        Some(mut again) => code(&mut again),
        None => {
            let options = guide::TestOptions { profile: Some(profile), ..options.clone() };
            Ok(guide::test(path, &options, &mut std::io::stdout()))
        }
    }
}

fn code(command: &mut Command) -> Result<u8, String> {
    let status = command.status().map_err(|e| format!("{}: {e}", command.get_program().display()))?;
    Ok(status.code().and_then(|c| u8::try_from(c).ok()).unwrap_or(2))
}

/// Every lab of the course; the reports are put together, and the worst code is the answer.
fn all(options: &guide::TestOptions, words: &[String]) -> Result<u8, String> {
    let program = std::env::current_exe().map_err(|e| format!("this program's path is not known: {e}"))?;
    let mut rest: Vec<String> = Vec::new();
    let mut skip = false;
    for word in words {
        let report = matches!(word.as_str(), "--junit" | "--json");
        if !skip && !report && word != "--all" {
            rest.push(word.clone());
        }
        skip = report;
    }
    let parts = std::env::temp_dir().join(format!("etcd-lab-all-{}", std::process::id()));
    std::fs::create_dir_all(&parts).map_err(|e| format!("{}: {e}", parts.display()))?;
    let (mut worst, mut held, mut xml, mut json) = (0, 0, Vec::new(), Vec::new());
    for (name, _) in guide::SHELF {
        let (junit, told) = (parts.join("junit"), parts.join("json"));
        let mut command = Command::new(&program);
        command.arg("test").arg(Path::new("labs").join(name)).args(&rest);
        let done = code(command.arg("--junit").arg(&junit).arg("--json").arg(&told))?;
        worst = worst.max(done);
        held += usize::from(done == 0);
        xml.extend(std::fs::read_to_string(&junit).ok());
        json.extend(std::fs::read_to_string(&told).ok());
        // The next lab's must not be taken for this one's.
        let _ = (std::fs::remove_file(&junit), std::fs::remove_file(&told));
    }
    let _ = std::fs::remove_dir_all(&parts);
    let mut out = std::io::stdout();
    let _ = writeln!(out, "\n{held} of {} labs hold.", guide::SHELF.len());
    let head = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n";
    let suites: String = xml.iter().map(|x| x.trim_start_matches(head)).collect();
    let texts = [
        (&options.junit, format!("{head}<testsuites>\n{suites}</testsuites>\n")),
        (&options.json, format!("[\n{}]\n", json.join(","))),
    ];
    for (file, text) in texts {
        if let Some(file) = file {
            std::fs::write(file, text).map_err(|e| format!("{}: {e}", file.display()))?;
        }
    }
    Ok(worst)
}

/// `etcd-lab print LAB [--answers]`.
pub(super) fn print(words: &[String], out: &mut dyn Write, err: &mut dyn Write) -> u8 {
    let answers = words.iter().any(|w| w == "--answers");
    let paths: Vec<&String> = words.iter().filter(|w| *w != "--answers").collect();
    let [path] = paths[..] else {
        let _ = writeln!(err, "usage: etcd-lab print LAB [--answers]   the handout, or the key to it, as Markdown");
        return 2;
    };
    match guide::load(Path::new(path)) {
        Ok(lab) => {
            let text = if answers { guide::answer_key(&lab) } else { guide::handout(&lab) };
            // A reader that is gone is no failure.
            let _ = out.write_all(text.as_bytes());
            0
        }
        Err(e) => {
            let _ = writeln!(err, "etcd-lab: {e}");
            2
        }
    }
}
