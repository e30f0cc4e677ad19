//! `etcd-lab test --seeds`: every command of the documents in one run, at the documents' addresses, and what became of each.
//!
//! Only what the pages and their solutions run is run. Each lab is a process of its own, for each may want a namespace; they go beside each
//! other, for they mostly wait.

use crate::lab::guide;
use crate::lab::guide::Lab;
use crate::lab::guide::Profile;
use crate::lab::guide::Seeds;
use crate::lab::guide::coverage::Coverage;
use crate::lab::guide::coverage::Covered;
use crate::lab::guide::exceptions::Exceptions;
use crate::lab::guide::syllabus::short;
use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::Command;
use std::process::Stdio;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::thread;

/// How many labs are solved at the same time.
const AT_ONCE: usize = 4;

/// Where the labs are.
const LABS: &str = "labs";

pub(super) fn run() -> Result<u8, String> {
    let folder = Path::new(LABS);
    let seeds = Seeds::load(&folder.join("seeds.toml")).map_err(|e| e.to_string())?;
    let exceptions = Exceptions::load(folder).map_err(|e| e.to_string())?;
    let mut labs = Vec::new();
    for (name, _) in guide::SHELF {
        if seeds.seed.iter().any(|seed| seed.lab == short(name)) {
            labs.push((name, guide::load(&folder.join(name)).map_err(|e| e.to_string())?));
        }
    }
    let (coverage, namespaces) = solved(&labs)?;
    let labs: Vec<Lab> = labs.into_iter().map(|(_, lab)| lab).collect();
    let (mut green, mut excepted, mut missing) = (0, 0, 0);
    let mut out = std::io::stdout();
    for (seed, covered) in coverage.judge(&seeds, &labs, &exceptions, namespaces) {
        let first = seed.text.lines().next().unwrap_or_default();
        let (word, why) = match covered {
            Covered::Green => (("ok  ", &mut green), None),
            Covered::Excepted(reason) => (("not ", &mut excepted), Some(reason)),
            Covered::No(why) => (("FAIL", &mut missing), Some(why)),
        };
        *word.1 += 1;
        // A reader that is gone is no failure.
        let _ = writeln!(out, "  {}  {:<7} {:<3} {first}", word.0, seed.id, seed.lab);
        for line in why.iter().flat_map(|why| why.lines()) {
            let _ = writeln!(out, "          {line}");
        }
    }
    let all = seeds.seed.len();
    let _ = writeln!(
        out,
        "\n{green} of {all} commands of the documents ran; {excepted} are exceptions, {missing} are missing."
    );
    Ok(u8::from(missing > 0 || all == 0))
}

/// Solves these labs. What ran, and whether all had the profile that they wanted most.
fn solved(labs: &[(&str, Lab)]) -> Result<(Coverage, bool), String> {
    let program = std::env::current_exe().map_err(|e| format!("this program's path is not known: {e}"))?;
    let parts = guide::scratch("seeds")?;
    let next = AtomicUsize::new(0);
    let work = || {
        let mut namespaces = true;
        while let Some((name, lab)) = labs.get(next.fetch_add(1, Ordering::Relaxed)) {
            let wants_one = lab.head.network.iter().any(|n| n == Profile::Netns.word());
            match guide::closest(lab) {
                Ok(profile) => {
                    namespaces &= !wants_one || profile == Profile::Netns;
                    let mut command = Command::new(&program);
                    command.arg("test").arg(Path::new(LABS).join(name)).args([
                        "--solution",
                        "--profile",
                        profile.word(),
                    ]);
                    command.arg("--json").arg(parts.join(name)).stdout(Stdio::null());
                    // Whether it holds stands in its report; one that left none has run nothing.
                    let _ = command.status();
                }
                Err(why) => {
                    namespaces = false;
                    let _ = writeln!(std::io::stderr(), "{name}: {why}");
                }
            }
        }
        namespaces
    };
    let namespaces = thread::scope(|scope| {
        let workers: Vec<_> = (0..AT_ONCE).map(|_| scope.spawn(work)).collect();
        // One that panicked says nothing of namespaces: taken for "there are none", it would excuse labs.
        let told = workers.into_iter().map(|w| w.join().map_err(|_| "a thread that ran labs panicked".to_owned()));
        told.collect::<Result<Vec<bool>, String>>().map(|told| told.into_iter().all(|one| one))
    });
    let mut coverage = Coverage::default();
    for (name, _) in labs {
        let report = fs::read_to_string(parts.join(name)).ok().and_then(|text| serde_json::from_str(&text).ok());
        report.iter().for_each(|report| coverage.take(report));
    }
    // Reports that have been read; there is nobody to tell if some stay.
    let _ = fs::remove_dir_all(&parts);
    Ok((coverage, namespaces?))
}
