//! v3 discovery: members that know a token and another cluster find each other there.

use crate::client::Client;
use crate::foreign;
use crate::harness::Cluster;
use crate::harness::ENDS_WITHIN;
use crate::harness::Process;
use crate::harness::READY_WITHIN;
use crate::harness::Scratch;
use crate::harness::Spec;
use crate::harness::etcd_bin;
use crate::harness::is_ours;
use crate::harness::turn;
use crate::harness::until;
use crate::http;
use crate::raw;
use etcd_lab::tls::ClientFiles;
use etcd_lab::tls::pki::Authority;
use etcd_lab::tls::pki::Request;
use etcd_lab::tls::pki::Usage;
use rustix::process::Signal;
use std::net::SocketAddr;
use std::time::Duration;

/// The flags of a member that knows nobody: `--initial-cluster` would be another way to say the same.
fn flags(spec: &Spec, more: &[String]) -> Vec<String> {
    let all = spec.flags(std::slice::from_ref(spec));
    let pairs = all.chunks(2).filter(|pair| !pair[0].starts_with("--initial-cluster"));
    pairs.flatten().cloned().chain(more.iter().cloned()).collect()
}

fn start(scratch: &Scratch, spec: &Spec, more: &[String]) -> Process {
    Process::start(&etcd_bin(), &flags(spec, more), &[], &scratch.path().join(format!("{}.log", spec.name)))
}

async fn finds_three(registry: Cluster) {
    let size = |token: &str| format!("/_etcd/registry/{token}/_config/size");
    registry.client.put(0, &size("tok"), "3").await.expect("the plan");
    let scratch = Scratch::new();
    let more = |token: &str| {
        vec![format!("--discovery-token={token}"), format!("--discovery-endpoints={}", registry.endpoints())]
    };
    let specs: Vec<Spec> = (0..3).map(|n| Spec::new(&format!("m{n}"), scratch.path())).collect();
    let client = Client::plain(specs.iter().map(|spec| spec.client_url.clone()).collect());
    let mut members = vec![start(&scratch, &specs[0], &more("tok")), start(&scratch, &specs[1], &more("tok"))];
    until(READY_WITHIN, "two wait for the third", async || {
        let waits = |member: &&Process| member.log().contains("waiting for peers from discovery service");
        if members.iter().all(|member| waits(&member)) { Ok(()) } else { Err("not yet") }
    })
    .await;
    client.status(0).await.expect_err("nobody serves before all are there");
    members.push(start(&scratch, &specs[2], &more("tok")));
    for n in 0..3 {
        let listed = until(READY_WITHIN, "members", async || client.members(n, true).await).await;
        let mut names: Vec<&str> = listed.members.iter().map(|member| member.name.as_str()).collect();
        names.sort_unstable();
        if names != ["m0", "m1", "m2"] {
            // A name is told through the log a moment after the member is there.
            until(READY_WITHIN, "names", async || {
                let listed = client.members(n, true).await.map_err(|e| e.to_string())?.members;
                if listed.iter().all(|member| !member.name.is_empty()) { Ok(()) } else { Err(format!("{listed:?}")) }
            })
            .await;
        }
    }
    client.put(1, "a", "1").await.expect("a put");
    // Who comes fourth, or with a token that nobody has planned, is told so.
    for (name, token, why) in
        [("late", "tok", "discovery: cluster is full"), ("lost", "no", "discovery: size key not found")]
    {
        let mut refused = start(&scratch, &Spec::new(name, scratch.path()), &more(token));
        assert_eq!(refused.ended(ENDS_WITHIN).await.code(), Some(1));
        assert!(refused.log().contains(&format!("failed to join discovery cluster ({why})")), "{}", refused.log());
    }
    // A member that has a log needs no registry any more.
    members[2].signal(Signal::TERM);
    members[2].ended(ENDS_WITHIN).await;
    drop(registry);
    members[2] =
        start(&scratch, &specs[2], &["--discovery-token=tok".into(), "--discovery-endpoints=127.0.0.1:1".into()]);
    until(READY_WITHIN, "the member is back", async || client.get(2, "a").await).await;
    assert!(members[2].log().contains("discovery token is ignored since cluster already initialized"));
}

#[test]
fn three_members_find_each_other_and_a_fourth_finds_no_room() {
    turn(Duration::from_secs(120), async {
        if is_ours() {
            finds_three(Cluster::start(1).await).await;
        }
    });
}

#[test]
fn an_etcd_of_another_make_may_hold_the_registry() {
    turn(Duration::from_secs(120), async {
        let Some(etcd) = foreign::etcd_351("an_etcd_of_another_make_may_hold_the_registry").filter(|_| is_ours())
        else {
            return;
        };
        finds_three(Cluster::start_with(&etcd, 1, &[]).await).await;
    });
}

#[test]
fn the_registry_may_ask_for_certificates_and_a_password() {
    turn(Duration::from_secs(90), async {
        if !is_ours() {
            return;
        }
        let scratch = Scratch::new();
        let dir = scratch.path();
        let authority = Authority::new("registry").expect("an authority");
        let (ca, _) = authority.own().write(dir, "ca").expect("written");
        let write = |name: &str, usage| {
            let request = Request::new(usage, name, &["127.0.0.1", "localhost"]);
            authority.issue(&request).expect("issued").write(dir, name).expect("written")
        };
        let ((cert, key), (own, own_key)) = (write("server", Usage::Server), write("client", Usage::Client));
        let mut spec = Spec::new("registry", dir);
        spec.client_url = spec.client_url.replace("http:", "https:");
        spec.more = vec![
            format!("--cert-file={}", cert.display()),
            format!("--key-file={}", key.display()),
            format!("--trusted-ca-file={}", ca.display()),
        ];
        let _registry =
            Process::start(&etcd_bin(), &spec.flags(std::slice::from_ref(&spec)), &[], &dir.join("registry.log"));
        let files = ClientFiles {
            ca: Some(ca.clone()),
            cert: Some(own.clone()),
            key: Some(own_key.clone()),
            ..Default::default()
        };
        let address = spec.client_url.trim_start_matches("https://").to_owned();
        let ask = async |path: &str, body: &str| http::post_by(&address, (path, body), Some(&files), false).await;
        // /_etcd/registry/one/_config/size and …/two/…, 1 each.
        for key in ["L19ldGNkL3JlZ2lzdHJ5L29uZS9fY29uZmlnL3NpemU=", "L19ldGNkL3JlZ2lzdHJ5L3R3by9fY29uZmlnL3NpemU="] {
            let body = format!(r#"{{"key":"{key}","value":"MQ=="}}"#);
            until(READY_WITHIN, "the plan", async || ask("/v3/kv/put", &body).await).await;
        }
        for (path, body) in [
            ("/v3/auth/user/add", r#"{"name":"root","password":"pw"}"#),
            ("/v3/auth/role/add", r#"{"name":"root"}"#),
            ("/v3/auth/user/grant", r#"{"user":"root","role":"root"}"#),
            ("/v3/auth/enable", "{}"),
        ] {
            let answer = ask(path, body).await.expect("an answer");
            assert!(answer.status.contains("200"), "{path}: {answer:?}");
        }
        let common = [
            format!("--discovery-endpoints={address}"),
            "--discovery-insecure-transport=false".to_owned(),
            format!("--discovery-cert={}", own.display()),
            format!("--discovery-key={}", own_key.display()),
        ];
        let verified = [format!("--discovery-cacert={}", ca.display()), "--discovery-user=root:pw".to_owned()];
        let unverified = ["--discovery-insecure-skip-tls-verify", "--discovery-user=root", "--discovery-password=pw"]
            .map(str::to_owned);
        for (name, token, own_way) in [("m1", "one", &verified[..]), ("m2", "two", &unverified)] {
            let spec = Spec::new(name, dir);
            let more = [&common[..], own_way, &[format!("--discovery-token={token}")]].concat();
            let member = start(&scratch, &spec, &more);
            let client = Client::plain(vec![spec.client_url.clone()]);
            until(READY_WITHIN, name, async || client.put(0, "a", "1").await).await;
            assert!(member.log().contains("discovery joined cluster successfully"));
        }
    });
}

/// A member that asks a registry which never answers.
fn asks(scratch: &Scratch, name: &str, at: SocketAddr, more: &[&str]) -> Process {
    let mut words = vec!["--discovery-token=tok".to_owned(), format!("--discovery-endpoints={at}")];
    words.extend(more.iter().map(|&word| word.to_owned()));
    start(scratch, &Spec::new(name, scratch.path()), &words)
}

/// What a short time ends, a long one has not ended by then: no clock is looked at.
#[test]
fn a_silent_registry_is_given_up_and_asked_again_when_the_flags_say() {
    turn(Duration::from_secs(90), async {
        if !is_ours() {
            return;
        }
        let scratch = Scratch::new();
        // It takes connections and says nothing at all.
        let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let at = silent.local_addr().expect("bound");
        let quick_dial = ["--discovery-dial-timeout=100ms", "--discovery-request-timeout=2s"];
        let slow_dial = ["--discovery-dial-timeout=1h", "--discovery-request-timeout=2s"];
        let slow_request = ["--discovery-dial-timeout=100ms", "--discovery-request-timeout=1h"];
        let patient = asks(&scratch, "patient", at, &slow_request);
        let members = [asks(&scratch, "quick", at, &quick_dial), asks(&scratch, "slow", at, &slow_dial)];
        for member in &members {
            let told = async || member.log().contains("retry connecting to").then_some(()).ok_or_else(|| member.log());
            until(READY_WITHIN, "the request has taken too long", told).await;
        }
        let gave_up = "timed out waiting for the member to speak";
        assert!(members[0].log().contains(gave_up), "{}", members[0].log());
        assert!(!members[1].log().contains(gave_up), "{}", members[1].log());
        assert!(!patient.log().contains("retry connecting to"), "{}", patient.log());
    });
}

#[test]
fn a_registry_that_answers_no_ping_is_left_when_the_flags_say() {
    turn(Duration::from_secs(90), async {
        if !is_ours() {
            return;
        }
        let scratch = Scratch::new();
        let flags = |time: &str, timeout: &str| {
            let ping = format!("--discovery-keepalive-time={time}");
            [ping, format!("--discovery-keepalive-timeout={timeout}"), "--discovery-request-timeout=1h".to_owned()]
        };
        let mut members = Vec::new();
        // The first two are pinged after 10 s, which is the least; the first waits for ever for the answer.
        for (name, time, timeout) in [("waits", "1s", "1h"), ("leaves", "1s", "1s"), ("silent", "1h", "1s")] {
            let (at, seen) = raw::mute().await;
            let words = flags(time, timeout);
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            members.push((asks(&scratch, name, at, &words), seen));
        }
        members[1].1.wait_for(|seen| seen.ended).await.expect("it is told");
        let seen: Vec<(bool, bool)> =
            members.iter().map(|(_, seen)| (seen.borrow().pings > 0, seen.borrow().ended)).collect();
        assert_eq!(seen, [(true, false), (true, true), (false, false)]);
    });
}
