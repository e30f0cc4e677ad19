//! `etcd-lab bench state`, small: every measure is made, of ours and of another etcd, and nothing is left behind.
//!
//! The figures of a few keys mean nothing; those of a million are for `etcd-lab bench state --against PATH`, which takes minutes.

use crate::foreign;
use crate::harness::Scratch;
use crate::harness::alone;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

const MEASURES: [&str; 6] = ["load", "restart (TERM)", "restart (KILL)", "snapshot save", "new member", "its leader"];

/// Runs it, and returns what it says and its figures.
fn bench(dir: &Path, more: &[&str]) -> (String, Vec<serde_json::Value>) {
    let json = dir.join("figures.json");
    let mut command = Command::new(env!("CARGO_BIN_EXE_etcd-lab"));
    command.args(["bench", "state", "--keys", "2000", "--dir"]).arg(dir).arg("--json").arg(&json).args(more);
    let output = command.output().expect("the bench runs");
    let (said, complained) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}{complained}");
    let lines = std::fs::read_to_string(&json).expect("figures");
    std::fs::remove_file(&json).expect("removed");
    (said.into_owned(), lines.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect())
}

fn assert_measured(figures: &[serde_json::Value], server: &str) {
    let of: Vec<&serde_json::Value> = figures.iter().filter(|figure| figure["server"] == server).collect();
    assert_eq!(of.iter().map(|figure| figure["measure"].as_str().expect("text")).collect::<Vec<_>>(), MEASURES);
    for figure in of {
        assert!(figure["peak_rss_mb"].as_f64().is_some_and(|mb| mb > 1.0), "{figure}");
        assert_eq!(figure["seconds"].as_f64().is_some_and(|s| s > 0.0), figure["measure"] != "its leader", "{figure}");
    }
}

#[test]
fn a_state_is_measured_and_nothing_is_left_of_it() {
    alone(Duration::from_secs(180), async {
        let dir = Scratch::new();
        let (said, figures) = bench(dir.path(), &[]);
        assert_measured(&figures, "ours");
        assert!(!said.contains("ours / theirs"), "{said}");
        let Some(theirs) = foreign::etcd_351("bench state") else { return };
        let (said, figures) = bench(dir.path(), &["--against", &theirs.display().to_string()]);
        assert_measured(&figures, "ours");
        assert_measured(&figures, "theirs");
        for measure in MEASURES {
            assert!(said.lines().any(|line| line.starts_with(measure) && line.contains(" ratio ")), "{said}");
        }
        assert_eq!(std::fs::read_dir(dir.path()).expect("a folder").count(), 0, "directories are removed");
    });
}
