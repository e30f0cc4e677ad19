//! `etcd-lab test` and `etcd-lab print`: the labs without a screen.
//!
//! `--all` runs each lab in a process of its own, so that one that needs a namespace can have it and the next need not.

use super::coverage;
use super::matrix;
use super::say;
use crate::lab::guide;
use crate::lab::guide::Profile;
use crate::lab::upstream;
use std::io::Write;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;

/// The seed, if nobody says.
const SEED: u64 = 1;

const TEST_HELP: &str = "\
usage: etcd-lab test LAB|--all [--engine real|sim|etcd DIR] [--seed N] [--profile ports|loop|netns]
                             [--solution] [--releases DIR] [--junit FILE] [--json FILE]
       etcd-lab test --all --matrix [--engine etcd DIR] [--seed N] --json FILE
       etcd-lab test --seeds

  --all              every lab of labs/course.toml, in its order (run where labs/ is): on real processes, and then on simulated
                     members if it allows them; with --engine, on that one only
  --engine sim       on simulated members with a clock of their own, if the lab's `engines` has sim; --seed N is another run (1)
  --engine etcd DIR  against the etcd and etcdctl in this folder; --etcd-dir DIR is the same
  --matrix           every lab with every profile that it declares, on our etcd, on simulated members if it allows them, and on the
                     etcd of DIR; FILE gets a line of JSON for each, and what it has already and holds is not run again, unless
                     the program, the lab or that etcd has changed. A lab that is tried nowhere is told, and the exit code is 1
  --seeds            every command of the documents (labs/seeds.toml), in one run, at the documents' addresses: one that did not run
                     as printed or repaired, and is no exception (labs/exceptions.toml), is told, and the exit code is 1
  --solution         only solve it: no mutations, no wrong paths
  --profile NAME     where the nodes are: netns (the documents' addresses), loop (127.0.x.y with standard ports), ports
  --releases DIR     the lab's release mirror gives the archives of this folder; without it, our own programs under their names
";

/// What `etcd-lab test` was asked.
#[derive(Default)]
struct Asked {
    path: Option<PathBuf>,
    all: bool,
    matrix: bool,
    seeds: bool,
    /// The engine was named.
    engine: Option<String>,
    seed: Option<u64>,
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
        None if asked.seeds => coverage::run(),
        None if asked.matrix => matrix::run(&asked.options, asked.seed.unwrap_or(SEED)),
        None => all(&asked, words),
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
            "--matrix" => asked.matrix = true,
            "--seeds" => asked.seeds = true,
            "--solution" => asked.options.solution = true,
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
            "--seed" => {
                let seed = value()?;
                asked.seed = Some(seed.parse().map_err(|_| format!("--seed is a number, not {seed}"))?);
            }
            "--engine" => {
                let engine = value()?;
                match engine.as_str() {
                    "real" | "sim" => {}
                    "etcd" => asked.options.etcd_dir = Some(value()?.into()),
                    other => return Err(format!("--engine is real, sim or etcd DIR, not {other}")),
                }
                asked.engine = Some(engine.clone());
            }
            _ if !word.starts_with('-') && asked.path.is_none() => asked.path = Some(word.into()),
            _ => return Err(format!("etcd-lab test does not know {word}")),
        }
    }
    let is_sim = asked.engine.as_deref() == Some("sim");
    match (is_sim, asked.seed, asked.options.etcd_dir.is_some()) {
        (true, _, true) => return Err("simulated members are no etcd of a folder: --engine sim, or etcd DIR".into()),
        (true, seed, false) => asked.options.sim = Some(seed.unwrap_or(SEED)),
        (false, Some(_), _) if !asked.all => return Err("--seed is of simulated members: say --engine sim, too".into()),
        _ => {}
    }
    if asked.matrix && !(asked.all && asked.options.json.is_some()) {
        return Err("--matrix goes with --all and --json FILE".into());
    }
    match (&asked.path, asked.all || asked.seeds) {
        (None, false) => Err("which lab? Name its folder, or say --all".into()),
        (Some(_), true) => Err("a lab or --all, not both".into()),
        _ => Ok(Some(asked)),
    }
}

fn one(path: &Path, options: &guide::TestOptions, words: &[String]) -> Result<u8, String> {
    let again: Vec<String> = std::iter::once("test".to_owned()).chain(words.iter().cloned()).collect();
    let (profile, inside) = guide::enter_if_needed(path, options.profile, &again)?;
    match inside {
        // In this process's place: its exit code is this one's, and a signal to this one ends the test.
        Some(mut again) => {
            let why = again.exec();
            Err(format!("{}: {why}", again.get_program().display()))
        }
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
fn all(asked: &Asked, words: &[String]) -> Result<u8, String> {
    let options = &asked.options;
    let program = std::env::current_exe().map_err(|e| format!("this program's path is not known: {e}"))?;
    let rest = passed_on(words);
    let parts = guide::scratch("all")?;
    let (mut worst, mut held, mut xml, mut json) = (0, 0, Vec::new(), Vec::new());
    let runs = runs(asked)?;
    for (name, engine) in &runs {
        let (junit, told) = (parts.join("junit"), parts.join("json"));
        let mut command = Command::new(&program);
        command.arg("test").arg(Path::new("labs").join(name)).args(&rest).args(engine);
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
    let _ = writeln!(out, "\n{held} of {} labs hold{}.", runs.len(), simulated(&runs));
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

/// What `--all` was told that holds for each lab: not where the reports go, nor the engine, which is said for each.
fn passed_on(words: &[String]) -> Vec<String> {
    let mut rest = Vec::new();
    let mut words = words.iter();
    while let Some(word) = words.next() {
        match word.as_str() {
            "--all" => {}
            "--junit" | "--json" | "--seed" => drop(words.next()),
            "--engine" => {
                if words.next().is_some_and(|engine| engine == "etcd") {
                    rest.extend([word.clone(), "etcd".into()].into_iter().chain(words.next().cloned()));
                }
            }
            _ => rest.push(word.clone()),
        }
    }
    rest
}

/// Each lab with the words that say on which engine: on both if it allows both and nobody has named one.
fn runs(asked: &Asked) -> Result<Vec<(&'static str, Vec<String>)>, String> {
    let sim = ["--engine", "sim", "--seed", &asked.seed.unwrap_or(SEED).to_string()].map(String::from).to_vec();
    let is_named = asked.engine.is_some() || asked.options.etcd_dir.is_some();
    let mut runs = Vec::new();
    for (name, _) in guide::SHELF {
        let lab = guide::load(&Path::new("labs").join(name)).map_err(|e| e.to_string())?;
        if lab.head.wants_etcd() && asked.options.etcd_dir.is_none() {
            let _ = writeln!(std::io::stderr(), "{name} is left out: {}", upstream::WANTED);
        } else if asked.options.sim.is_none() {
            runs.push((name, Vec::new()));
        }
        if lab.head.allows("sim") && (asked.options.sim.is_some() || !is_named) {
            runs.push((name, sim.clone()));
        }
    }
    Ok(runs)
}

/// How many of these were on simulated members, in words.
fn simulated(runs: &[(&str, Vec<String>)]) -> String {
    match runs.iter().filter(|(_, engine)| !engine.is_empty()).count() {
        0 => String::new(),
        count => format!(" ({count} of them simulated)"),
    }
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
