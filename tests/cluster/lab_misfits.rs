//! Each bad configuration of the lab does to a real member what its row says, and the member comes back with its own.

#![expect(clippy::disallowed_methods, reason = "waits for real members, with deadlines")]

use crate::harness::READY_WITHIN;
use crate::harness::Scratch;
use crate::harness::is_ours;
use crate::harness::turn;
use crate::ports;
use etcd_lab::lab::Cluster;
use etcd_lab::lab::Report;
use etcd_lab::lab::ask;
use etcd_lab::lab::cluster::Change;
use etcd_lab::lab::misfit::Misfit;
use etcd_lab::lab::preflight;
use std::fs;
use std::path::Path;
use std::time::Duration;
use std::time::Instant;
use tokio::sync::mpsc;

const LIMIT: Duration = Duration::from_secs(240);
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// The member that is configured badly.
const WHO: usize = 1;

/// Waits until a member answers a put.
async fn serves(url: &str) {
    let deadline = Instant::now() + READY_WITHIN;
    while let Err(why) = ask::put(&[url.to_owned()], "a", "1", false).await {
        assert!(Instant::now() < deadline, "{url}: {why}");
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// What stands in a log behind this place.
fn tail(log: &Path, from: u64) -> String {
    let bytes = fs::read(log).unwrap_or_default();
    String::from_utf8_lossy(&bytes[usize::try_from(from).expect("a file").min(bytes.len())..]).into_owned()
}

#[test]
fn each_bad_configuration_is_told_in_a_log_and_none_outlasts_it() {
    if !is_ours() {
        return;
    }
    turn(LIMIT, async {
        let scratch = Scratch::new();
        let liked: Vec<(u16, u16)> = (0..3).map(|_| (ports::free(), ports::free())).collect();
        let plan = preflight::plan(3, Some(&scratch.path().join("lab")), &liked).expect("planned");
        let (to, mut reports) = mpsc::channel(4_096);
        let program = Path::new(env!("CARGO_BIN_EXE_etcd-lab"));
        let cluster = Cluster::start(plan, program, to).expect("started");
        let record = cluster.record.clone();
        for m in &record.members {
            serves(&m.client_url).await;
        }
        for misfit in Misfit::all().filter(|m| !m.is_of_tls()) {
            let length = |log: &Path| fs::metadata(log).map_or(0, |m| m.len());
            let from: Vec<u64> = record.members.iter().map(|m| length(&m.log)).collect();
            while reports.try_recv().is_ok() {}
            cluster.configure(WHO, Some(misfit));
            let says = misfit.says(&record.members[WHO]);
            let deadline = Instant::now() + READY_WITHIN;
            loop {
                let all: Vec<String> = record.members.iter().zip(&from).map(|(m, from)| tail(&m.log, *from)).collect();
                if all.iter().any(|text| text.contains(&says)) {
                    break;
                }
                assert!(Instant::now() < deadline, "{misfit:?}: nobody says {says:?}\n{}", all[WHO]);
                tokio::time::sleep(LOOK_EVERY).await;
            }
            if misfit.comes().starts_with("etcd ends") {
                ended(&mut reports, misfit).await;
            }
        }
        cluster.configure(WHO, None);
        for m in &record.members {
            serves(&m.client_url).await;
        }
    });
}

/// Waits until the member has ended by itself, not because it was told to.
async fn ended(reports: &mut mpsc::Receiver<Report>, misfit: Misfit) {
    loop {
        let report = tokio::time::timeout(READY_WITHIN, reports.recv()).await;
        match report.unwrap_or_else(|_| panic!("{misfit:?}: it does not end")).expect("the cluster runs") {
            Report::Process { member: WHO, change: Change::Ended { how } } if how.contains("exit code") => return,
            _ => {}
        }
    }
}
