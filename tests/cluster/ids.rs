//! Member and cluster ids are etcd's.
//!
//! Twenty random `--initial-cluster` lines and tokens stand in `recorded/ids.txt` with the ids that etcd 3.5.1 gave them. The file is compared
//! with our computation always, with our server, and with etcd 3.5.1 where it is to be had. `RECORD=1` with `ETCD_351` writes it anew.
//!
//! A member that never meets the others still knows their ids, and tells them on its peer port: no quorum is needed.

use crate::foreign;
use crate::harness::Process;
use crate::harness::READY_WITHIN;
use crate::harness::Scratch;
use crate::harness::etcd_bin;
use crate::harness::turn;
use crate::harness::until;
use crate::http;
use crate::ports;
use crate::seeded::Seeded;
use etcd_lab::membership::Members;
use etcd_lab::membership::parse_initial_cluster;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

const SETS: usize = 20;
const SEED: u64 = 2;
const RECORDED: &str = include_str!("recorded/ids.txt");

/// What a cluster is founded with, and the ids that follow from it: `id peer-urls`, one a line, and the cluster's.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Founding {
    token: String,
    initial_cluster: String,
    cluster: String,
    /// Peer URLs, sorted and joined by commas → id.
    members: BTreeMap<String, String>,
}

/// The lines of the recorded file: token, cluster id, initial cluster, then `id=urls` of each member.
fn recorded() -> Vec<Founding> {
    let founding = |line: &str| {
        let mut words = line.split(' ').map(str::to_owned);
        let mut word = || words.next().unwrap_or_else(|| panic!("a word is missing in {line:?}"));
        let (token, cluster, initial_cluster) = (word(), word(), word());
        let member = |word: String| {
            let (id, urls) = word.split_once('=').expect("id=urls");
            (urls.to_owned(), id.to_owned())
        };
        Founding { token, initial_cluster, cluster, members: words.map(member).collect() }
    };
    RECORDED.lines().filter(|line| !line.starts_with('#')).map(founding).collect()
}

fn line(founding: &Founding) -> String {
    let members: Vec<String> = founding.members.iter().map(|(urls, id)| format!(" {id}={urls}")).collect();
    format!("{} {} {}{}\n", founding.token, founding.cluster, founding.initial_cluster, members.concat())
}

/// Random tokens and initial clusters. All addresses are loopback: members dial what they are told to.
fn random_sets() -> Vec<(String, String)> {
    let mut seeded = Seeded::new(SEED);
    (0..SETS).map(|_| (random_token(&mut seeded), random_initial_cluster(&mut seeded))).collect()
}

fn random_token(seeded: &mut Seeded) -> String {
    let letters: Vec<char> = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.".chars().collect();
    (0..=seeded.below(24)).map(|_| *seeded.pick(&letters)).collect()
}

fn random_initial_cluster(seeded: &mut Seeded) -> String {
    let mut parts = Vec::new();
    for member in 0..*seeded.pick(&[1, 3, 3, 5]) {
        // A member with two URLs has two parts, not always side by side.
        for _ in 0..*seeded.pick(&[1, 1, 2]) {
            let at = seeded.below(parts.len() as u64 + 1) as usize;
            parts.insert(at, format!("m{member}={}", random_url(seeded)));
        }
    }
    parts.join(",")
}

fn random_url(seeded: &mut Seeded) -> String {
    let scheme = *seeded.pick(&["http", "http", "https"]);
    let mut byte = || seeded.below(254) + 1;
    let host = format!("127.{}.{}.{}", byte(), byte(), byte());
    let host = seeded.pick(&[host.clone(), host, "localhost".to_owned(), "[::1]".to_owned()]).clone();
    format!("{scheme}://{host}:{}", 1_024 + seeded.below(64_000))
}

/// What a member of `program` says about the cluster that it is told to found.
async fn told_by(program: &Path, token: &str, initial_cluster: &str) -> Founding {
    let scratch = Scratch::new();
    let (client, peer) = (ports::free(), ports::free());
    let own: Vec<&str> = initial_cluster.split(',').filter_map(|part| part.strip_prefix("m0=")).collect();
    let flags = [
        ("--name", "m0".to_owned()),
        ("--data-dir", scratch.path().join("m0.etcd").display().to_string()),
        ("--listen-client-urls", format!("http://127.0.0.1:{client}")),
        ("--advertise-client-urls", format!("http://127.0.0.1:{client}")),
        ("--listen-peer-urls", format!("http://127.0.0.1:{peer}")),
        ("--initial-advertise-peer-urls", own.join(",")),
        ("--initial-cluster", initial_cluster.to_owned()),
        ("--initial-cluster-token", token.to_owned()),
    ];
    let flags: Vec<String> = flags.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value]).collect();
    let _member = Process::start(program, &flags, &[], &scratch.path().join("m0.log"));
    let names: std::collections::BTreeSet<&str> =
        initial_cluster.split(',').filter_map(|part| part.split_once('=')).map(|(name, _)| name).collect();
    until(READY_WITHIN, "all members on the peer port", async || {
        let answer = http::get(&format!("127.0.0.1:{peer}"), "/members").await.map_err(|e| e.to_string())?;
        let members = members_of(&answer.body)?;
        let cluster = answer.header("x-etcd-cluster-id").ok_or("no cluster id")?.to_owned();
        if members.len() < names.len() {
            return Err(format!("{} of {} members", members.len(), names.len()));
        }
        Ok(Founding { token: token.to_owned(), initial_cluster: initial_cluster.to_owned(), cluster, members })
    })
    .await
}

/// Peer URLs → id, out of the JSON that a peer port answers.
pub(crate) fn members_of(json: &str) -> Result<BTreeMap<String, String>, String> {
    let list: serde_json::Value = serde_json::from_str(json).map_err(|e| format!("{e}: {json}"))?;
    let mut members = BTreeMap::new();
    for member in list.as_array().ok_or("no list")? {
        let id = member["id"].as_u64().ok_or("no id")?;
        let mut urls: Vec<&str> =
            member["peerURLs"].as_array().ok_or("no peer URLs")?.iter().filter_map(|url| url.as_str()).collect();
        urls.sort_unstable();
        members.insert(urls.join(","), format!("{id:x}"));
    }
    Ok(members)
}

#[test]
fn the_recorded_sets_are_those_of_the_seed() {
    let recorded: Vec<_> = recorded().into_iter().map(|f| (f.token, f.initial_cluster)).collect();
    assert_eq!(recorded, random_sets());
}

#[test]
fn computed_ids_are_those_that_etcd_gave() {
    let all = recorded();
    assert_eq!(all.len(), SETS);
    for founding in all {
        let founders = parse_initial_cluster(&founding.initial_cluster).expect("an initial cluster");
        let members = Members::bootstrap(&founders, &founding.token).expect("founders");
        let ids = members.iter().map(|member| (member.peer_urls.join(","), member.id.to_string())).collect();
        let computed = Founding { cluster: members.cluster().to_string(), members: ids, ..founding.clone() };
        assert_eq!(computed, founding);
    }
}

#[test]
fn a_member_tells_the_ids_that_etcd_gave() {
    turn(Duration::from_secs(240), async {
        for founding in recorded() {
            assert_eq!(told_by(&etcd_bin(), &founding.token, &founding.initial_cluster).await, founding);
        }
    });
}

#[test]
fn etcd_351_still_gives_the_recorded_ids() {
    let Some(etcd) = foreign::etcd_351("ids against etcd 3.5.1") else { return };
    turn(Duration::from_secs(240), async {
        let mut text =
            String::from("# token cluster-id initial-cluster member-id=peer-urls …, as etcd 3.5.1 tells them\n");
        for (token, initial_cluster) in random_sets() {
            text.push_str(&line(&told_by(&etcd, &token, &initial_cluster).await));
        }
        if std::env::var_os("RECORD").is_some() {
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cluster/recorded/ids.txt");
            std::fs::write(path, &text).expect("the recorded file can be written");
        } else {
            assert_eq!(text, RECORDED);
        }
    });
}
