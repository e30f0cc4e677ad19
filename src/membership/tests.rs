//! What membership promises: etcd's ids, etcd's rows, etcd's refusals.

use super::*;
use crate::engine::Memory;
use crate::proto::walpb::ConfChange;

const SEED: &str = "controller-0=https://10.240.0.10:2380,controller-1=https://10.240.0.11:2380,\
                    controller-2=https://10.240.0.12:2380";

fn founded(initial_cluster: &str, token: &str) -> Members {
    let founders = parse_initial_cluster(initial_cluster).expect("a good list");
    Members::bootstrap(&founders, token).expect("ids differ")
}

/// Members after their founding entries were applied, and the rows.
fn running(initial_cluster: &str) -> (Members, Memory) {
    let founders = founded(initial_cluster, "t");
    let mut members = Members::empty(founders.cluster());
    let engine = Memory::default();
    for change in founders.founding_changes() {
        apply(&mut members, &engine, &change).expect("a founder");
    }
    (members, engine)
}

fn apply(members: &mut Members, engine: &Memory, change: &ConfChange) -> Result<Changed, Error> {
    let mut batch = Batch::default();
    let changed = members.apply(change, &mut batch)?;
    engine.write(&batch).expect("memory");
    assert_eq!(&Members::load(engine, members.cluster()).expect("good rows"), members, "the rows lag behind");
    Ok(changed)
}

fn urls(list: &[&str]) -> Vec<String> {
    list.iter().map(|&url| url.to_owned()).collect()
}

#[test]
fn ids_are_those_of_etcd() {
    let one = founded("default=http://localhost:2380", "etcd-cluster");
    assert_eq!(one.iter().map(|m| m.id.to_string()).collect::<Vec<_>>(), ["8e9e05c52164694d"]);
    assert_eq!(one.cluster().to_string(), "cdf818194e3a8c32");

    // As real etcd 3.5.1 computed it: it stands in the log that wal's tests read.
    let real = founded("default=http://127.0.0.1:22002", "etcd-cluster");
    assert_eq!(real.by_name("default").expect("a founder").id.to_string(), "96bb8698f482fc24");

    let three = founded(SEED, "etcd-cluster-0");
    let id = |name| three.by_name(name).expect("a founder").id.to_string();
    assert_eq!(id("controller-0"), "f98dc20bce6225a0");
    assert_eq!(id("controller-1"), "ffed16798470cab5");
    assert_eq!(id("controller-2"), "3a57933972cb5131");
}

#[test]
fn the_order_in_which_urls_are_given_does_not_matter() {
    let (a, b) = ("n=http://a:1,n=http://b:1", "n=http://b:1,n=http://a:1");
    assert_eq!(founded(a, "t"), founded(b, "t"));
}

#[test]
fn a_member_added_later_has_the_time_in_its_id() {
    let at = |seconds| Member::to_add(urls(&["http://a:1"]), false, seconds).id;
    assert_ne!(at(1), at(2));
    assert_eq!(at(1), member_id(&urls(&["http://a:1"]), "1", None));
}

#[test]
fn founders_enter_the_log_in_ascending_order_of_ids() {
    let changes = founded(SEED, "etcd-cluster-0").founding_changes();
    let ids: Vec<_> = changes.iter().map(|change| format!("{:x}", change.node_id)).collect();
    assert_eq!(ids, ["3a57933972cb5131", "f98dc20bce6225a0", "ffed16798470cab5"]);
    assert_eq!(
        changes[0].context,
        r#"{"id":4203990652121993521,"peerURLs":["https://10.240.0.12:2380"],"name":"controller-2"}"#
    );
    assert_eq!((changes[0].id, changes[0].r#type()), (0, Type::AddNode));
}

#[test]
fn json_is_what_go_writes() {
    let member = Member {
        id: MemberId(7),
        peer_urls: urls(&["http://a:1?x=1&y"]),
        is_learner: true,
        name: "<é\u{2028}\">".to_owned(),
        client_urls: urls(&["http://a:2"]),
    };
    let json = r#"{"id":7,"peerURLs":["http://a:1?x=1\u0026y"],"isLearner":true,"name":"\u003cé\u2028\"\u003e","clientURLs":["http://a:2"]}"#;
    assert_eq!(member.to_json(), json);
    assert_eq!(Member::from_json(json.as_bytes()), Ok(member));
    let promote = Member::change_to_promote(MemberId(9));
    assert_eq!(promote.context, r#"{"id":9,"peerURLs":null,"isPromote":true}"#);
}

#[test]
fn a_learner_is_added_then_promoted_once() {
    let (mut members, engine) = running("a=http://a:1");
    let learner = Member::to_add(urls(&["http://b:1"]), true, 1);
    let id = learner.id;
    assert_eq!(apply(&mut members, &engine, &learner.change_to_add()), Ok(Changed::Added(learner)));
    assert_eq!(members.learners(), 1);
    let promote = Member::change_to_promote(id);
    assert_eq!(apply(&mut members, &engine, &promote), Ok(Changed::Promoted(id)));
    assert_eq!(members.learners(), 0);
    assert_eq!(members.check(&promote), Err(Error::MemberNotLearner));
    assert_eq!(members.check(&Member::change_to_promote(MemberId(1))), Err(Error::MemberNotFound));
}

#[test]
fn an_id_or_a_peer_url_is_taken_once() {
    let (mut members, engine) = running("a=http://a:1,b=http://b:1");
    let a = members.by_name("a").expect("a founder").clone();
    assert_eq!(members.check(&a.change_to_add()), Err(Error::MemberExists));
    let other = Member::to_add(urls(&["http://a:1"]), false, 1);
    assert_eq!(members.check(&other.change_to_add()), Err(Error::PeerUrlExists));
    let moved = |url| Member { peer_urls: urls(&[url]), ..a.clone() }.change_to_update();
    assert_eq!(members.check(&moved("http://b:1")), Err(Error::PeerUrlExists));
    assert_eq!(members.check(&moved("http://a:1")).map(drop), Ok(()));
    apply(&mut members, &engine, &moved("http://c:1")).expect("free");
    let a = members.by_name("a").expect("keeps its name");
    assert_eq!(a.peer_urls, ["http://c:1"]);
}

#[test]
fn a_removed_id_never_comes_back() {
    let (mut members, engine) = running("a=http://a:1,b=http://b:1");
    let b = members.by_name("b").expect("a founder").clone();
    assert_eq!(apply(&mut members, &engine, &Member::change_to_remove(b.id)), Ok(Changed::Removed(b.id)));
    assert!(members.is_removed(b.id));
    assert_eq!(members.check(&b.change_to_add()), Err(Error::MemberNotFound));
    assert_eq!(members.check(&Member::change_to_remove(b.id)), Err(Error::MemberNotFound));
    let mut batch = Batch::default();
    assert_eq!(members.set_attributes(b.id, "b", &[], &mut batch), Ok(()));
    assert!(batch.is_empty(), "a late publish of a removed member has no effect");
}

#[test]
fn a_change_that_cannot_be_read_is_refused_and_changes_nothing() {
    let (mut members, engine) = running("a=http://a:1");
    let before = members.clone();
    let good = Member::to_add(urls(&["http://b:1"]), false, 1).change_to_add();
    for context in ["", "{", "null", "7", r#"{"id":"x"}"#, r#"{"id":1,"peerURLs":["http://b:1"]}"#] {
        let bad = ConfChange { context: context.into(), ..good.clone() };
        assert_eq!(apply(&mut members, &engine, &bad), Err(Error::MemberBadUrls), "{context}");
    }
    let bad = ConfChange { r#type: 9, ..good };
    assert_eq!(apply(&mut members, &engine, &bad), Err(Error::MemberBadUrls));
    assert_eq!(members, before);
}

#[test]
fn a_row_that_is_no_member_is_damage() {
    for (key, value) in [("zz", "{}"), ("1", "{"), ("1", r#"{"id":2}"#)] {
        let (engine, mut batch) = (Memory::default(), Batch::default());
        batch.put(Table::Members, key, value);
        engine.write(&batch).expect("memory");
        assert!(matches!(Members::load(&engine, ClusterId(1)), Err(Error::Damaged(_))), "{key} {value}");
    }
}

#[test]
fn a_member_counts_as_started_once_it_has_published_itself() {
    let (mut members, engine) = running("a=http://a:1");
    assert!(members.may_add_voter(), "one may become two");
    let b = Member::to_add(urls(&["http://b:1"]), false, 1);
    apply(&mut members, &engine, &b.change_to_add()).expect("free");
    assert!(!members.may_add_voter(), "one of two has started: three would have no quorum");
    let a = members.by_name("a").expect("a founder").id;
    assert!(!members.may_remove_voter(a));
    assert!(members.may_remove_voter(b.id));
    let mut batch = Batch::default();
    members.set_attributes(b.id, "b", &urls(&["http://b:2"]), &mut batch).expect("a member");
    assert_eq!(batch.len(), 1);
    assert!(members.may_add_voter());
    assert_eq!(members.get(b.id).expect("there").to_wire().client_ur_ls, ["http://b:2"]);
}

#[test]
fn the_last_member_stays() {
    let (mut members, engine) = running("a=http://a:1");
    let learner = Member::to_add(urls(&["http://b:1"]), true, 1);
    apply(&mut members, &engine, &learner.change_to_add()).expect("free");
    let last = members.by_name("a").expect("a founder").id;
    assert!(!members.may_remove_voter(last));
    assert_eq!(
        members.check(&Member::change_to_remove(last)),
        Err(Error::MemberNotEnoughStarted),
        "a learner is no voter"
    );
    let gone = apply(&mut members, &engine, &Member::change_to_remove(learner.id));
    assert_eq!(gone, Ok(Changed::Removed(learner.id)));
}

#[test]
fn urls_are_checked_in_the_words_of_etcd() {
    let refused = |url: &str| parse_urls(url).expect_err("refused");
    assert_eq!(refused("localhost:2380"), "URL scheme must be http, https, unix, or unixs: localhost:2380");
    assert_eq!(refused(""), "URL scheme must be http, https, unix, or unixs: ");
    assert_eq!(refused("http://a:1/"), "URL must not contain a path: http://a:1/");
    for bad in ["http://a", "http://a/b", "http:a:1", "http://::1:2", "http://[::1]", "https://"] {
        assert_eq!(refused(bad), format!("URL address does not have the form \"host:port\": {bad}"));
    }
    assert_eq!(refused("127.0.0.1:2"), "parse \"127.0.0.1:2\": first path segment in URL cannot contain colon");
    assert_eq!(refused("http://a:b"), "parse \"http://a:b\": invalid port \":b\" after host");
    assert_eq!(refused(":1"), "parse \":1\": missing protocol scheme");
    assert_eq!(check_urls::<&str>(&[]).expect_err("none"), "no valid URLs given");
    assert_eq!(
        parse_urls(" HTTP://b:1,unix:///x/y,http://[::1]:1,unixs://a:0").expect("all good"),
        ["http://[::1]:1", "http://b:1", "unix:///x/y", "unixs://a:0"]
    );
}

#[test]
fn the_initial_cluster_must_agree_with_the_other_flags() {
    let check = |name: &str, advertised: &[&str], initial: &str| {
        let founders = parse_initial_cluster(initial).expect("a good list");
        check_initial_cluster(name, Some(&urls(advertised)), &founders)
    };
    assert_eq!(check("a", &["http://a:1"], "a=http://a:1,,b=http://b:1"), Ok(()));
    assert_eq!(
        check("c", &["http://a:1"], "a=http://a:1"),
        Err("couldn't find local name \"c\" in the initial cluster configuration".to_owned())
    );
    assert_eq!(
        check("a", &["http://b:1"], "a=http://a:1"),
        Err("--initial-cluster has a=http://a:1 but missing from --initial-advertise-peer-urls=http://b:1 \
             (resolved urls: \"http://b:1\" != \"http://a:1\")"
            .to_owned())
    );
    assert_eq!(
        check("a", &["http://a:1", "http://a:2"], "a=http://a:1"),
        Err("--initial-advertise-peer-urls has http://a:2 but missing from \
             --initial-cluster=a=http://a:1,a=http://a:2"
            .to_owned())
    );
    assert_eq!(
        check("a", &["http://a:1"], "b=http://a:1,a=http://a:1"),
        Err("initial cluster a=http://a:1,b=http://a:1 has duplicate url".to_owned())
    );
    assert!(parse_initial_cluster("a").is_err(), "a name without a URL");
}
