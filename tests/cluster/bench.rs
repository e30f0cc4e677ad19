//! `etcd-lab bench`, small: every measure is made, of ours and of another etcd, and nothing is left behind.
//!
//! The figures of a few keys and of half a second mean nothing, so that only what was counted is looked at; figures that mean
//! something are for `etcd-lab bench table --against PATH`, which takes hours.

use crate::foreign;
use crate::harness::Scratch;
use crate::harness::alone;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

const MEASURES: [&str; 6] = ["load", "restart (TERM)", "restart (KILL)", "snapshot save", "new member", "its leader"];

/// Runs it, and returns what it says.
fn said(words: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_etcd-lab"));
    let output = command.arg("bench").args(words).output().expect("the bench runs");
    let (said, complained) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}{complained}");
    said.into_owned()
}

/// Runs it, and returns what it says and its figures.
fn bench(dir: &Path, words: &[&str]) -> (String, Vec<serde_json::Value>) {
    let (json, dir) = (dir.join("figures.json").display().to_string(), dir.display().to_string());
    let said = said(&[words, &["--dir", &dir, "--json", &json]].concat());
    let lines = std::fs::read_to_string(&json).expect("figures");
    std::fs::remove_file(&json).expect("removed");
    (said, lines.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect())
}

fn assert_measured(figures: &[serde_json::Value], server: &str) {
    let of: Vec<&serde_json::Value> = figures.iter().filter(|figure| figure["server"] == server).collect();
    assert_eq!(of.iter().map(|figure| figure["measure"].as_str().expect("text")).collect::<Vec<_>>(), MEASURES);
    for figure in of {
        assert!(figure["peak_rss_mb"].as_f64().is_some_and(|mb| mb > 1.0), "{figure}");
        assert!(figure["disk_mb"].as_f64().is_some_and(|mb| mb > 0.1), "{figure}");
        assert_eq!(figure["seconds"].as_f64().is_some_and(|s| s > 0.0), figure["measure"] != "its leader", "{figure}");
    }
}

#[test]
fn a_state_is_measured_and_nothing_is_left_of_it() {
    alone(Duration::from_secs(180), async {
        let dir = Scratch::new();
        let (said, figures) = bench(dir.path(), &["state", "--keys", "2000"]);
        assert_measured(&figures, "ours");
        assert!(!said.contains("ours / the best of theirs"), "{said}");
        let Some(theirs) = foreign::etcd_351("bench state") else { return };
        let (said, figures) =
            bench(dir.path(), &["state", "--keys", "2000", "--against", &theirs.display().to_string()]);
        assert_measured(&figures, "ours");
        assert_measured(&figures, "theirs");
        for measure in MEASURES {
            assert!(said.lines().any(|line| line.starts_with(measure) && line.contains(" ratio ")), "{said}");
        }
        assert_eq!(std::fs::read_dir(dir.path()).expect("a folder").count(), 0, "directories are removed");
    });
}

/// A number of a line of figures.
fn number(line: &serde_json::Value, name: &str) -> f64 {
    line[name].as_f64().unwrap_or_else(|| panic!("{name} in {line}"))
}

#[test]
fn every_kind_of_request_is_answered_and_counted() {
    alone(Duration::from_secs(120), async {
        let dir = Scratch::new();
        let workloads = [
            "put-compact-2x2",
            "range1000-lin-1x1",
            "delete-2x2",
            "lease-grant-2x2",
            "lease-keepalive-2x2",
            "watch-2x5",
            "watchmany-2x20",
        ];
        let (_, lines) = bench(dir.path(), &["--workloads", &workloads.join(","), "--seconds", "0.5"]);
        let told: Vec<&str> = lines.iter().filter_map(|line| line["workload"].as_str()).collect();
        assert_eq!(told, workloads);
        for line in &lines {
            assert!(number(line, "operations") >= 1.0, "{line}");
            // An answer that holds less than was asked for is an error: a range of fewer keys, a key that was not there, a lost event.
            assert_eq!(number(line, "errors"), 0.0, "{line}");
            assert!(number(line, "server_peak_rss_mb") > 1.0, "{line}");
            assert_eq!(number(line, "compactions") >= 1.0, line["workload"] == "put-compact-2x2", "{line}");
        }
        assert_eq!(std::fs::read_dir(dir.path()).expect("a folder").count(), 0, "directories are removed");
    });
}

#[test]
fn what_happens_to_a_cluster_is_measured_and_the_table_is_made_of_its_lines() {
    alone(Duration::from_secs(120), async {
        let dir = Scratch::new();
        let cases = ["put-one-stopped/3", "overload/3", "failover/3", "idle"];
        let words = ["table", "--cases", &cases.join(","), "--seconds", "0.5", "--rounds", "1", "--keys", "2000"];
        let (said, lines) = bench(dir.path(), &words);
        let of = |case: &str| lines.iter().filter(|line| line["case"] == case).collect::<Vec<_>>();
        for case in cases {
            assert_eq!(of(case).len(), if case == "failover/3" { 3 } else { 1 }, "{case}: {said}");
            assert!(of(case).iter().all(|line| line["error"].is_null()), "{said}");
        }
        // With a follower stopped, a majority answers; it is not waited for.
        let stopped = of("put-one-stopped/3")[0];
        assert!(number(stopped, "operations") >= 1.0 && number(stopped, "nodes") == 3.0, "{said}");
        assert!(number(of("overload/3")[0], "peak_per_second") > 0.0, "{said}");
        assert!(of("overload/3")[0]["elections"].is_u64(), "{said}");
        assert!(of("failover/3").iter().all(|line| number(line, "failover_ms") > 0.0), "{said}");
        let idle = of("idle")[0];
        assert_eq!(["connections", "streams", "watches"].map(|name| number(idle, name)), [2.0, 10.0, 200.0]);
        // The same table out of the lines alone.
        let raw = dir.path().join("raw.jsonl");
        let text: Vec<String> = lines.iter().map(ToString::to_string).collect();
        std::fs::write(&raw, text.join("\n")).expect("written");
        let again = self::said(&["table", "--from", &raw.display().to_string()]);
        assert!(again.contains("put p99, a follower stopped (ms)") && said.ends_with(&again), "{again}");
    });
}
