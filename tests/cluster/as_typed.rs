//! Command lines and environments as people have them, which etcd takes and which a stricter server would not.

use crate::harness::Cluster;
use crate::harness::Process;
use crate::harness::READY_WITHIN;
use crate::harness::Scratch;
use crate::harness::Spec;
use crate::harness::etcd_bin;
use crate::harness::is_ours;
use crate::harness::turn;
use crate::harness::until;
use crate::http;
use crate::ports;
use etcd_lab::proto::etcdserverpb as pb;
use etcd_lab::tls::ClientFiles;
use etcd_lab::tls::pki::Authority;
use etcd_lab::tls::pki::Request;
use etcd_lab::tls::pki::Usage;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;
use tokio::process::Command;

/// A member that is started in a folder, by words that may be relative to it; killed when dropped.
fn start_in(folder: &Path, words: &[String], env: &[(&str, &str)]) -> tokio::process::Child {
    let mut command = Command::new(etcd_bin());
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("ETCD")) {
        command.env_remove(name);
    }
    command.current_dir(folder).args(words).envs(env.iter().copied()).kill_on_drop(true);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("a process")
}

fn names_in(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).expect("a folder");
    entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect()
}

async fn healthy(address: &str) {
    until(READY_WITHIN, "health", async || match http::get(address, "/health").await {
        Ok(answer) if answer.status.contains(" 200 ") => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
}

/// What `host:port` of a URL is.
fn address(url: &str) -> &str {
    url.split_once("://").expect("a URL").1
}

#[test]
fn folders_may_be_bare_names_and_variables_old() {
    turn(Duration::from_secs(60), async {
        let scratch = Scratch::new();
        let mut spec = Spec::new("bare", scratch.path());
        spec.data_dir = "d".into();
        spec.more = ["--wal-dir=w", "--log-outputs=e.log", "--log-level=INFO"].map(str::to_owned).to_vec();
        let words = spec.flags(std::slice::from_ref(&spec));
        // Unit files of releases that had a v2 API still set the first; the others are of 3.3 and 3.4.
        let env =
            [("ETCD_ENABLE_V2", "true"), ("ETCD_DEBUG", "false"), ("ETCD_LOG_PACKAGE_LEVELS", "etcdserver=WARNING")];
        for _first_and_again in 0..2 {
            let mut member = start_in(scratch.path(), &words, &env);
            healthy(address(&spec.client_url)).await;
            member.kill().await.expect("it runs");
        }
        assert!(names_in(&scratch.path().join("w")).iter().any(|name| name.ends_with(".wal")));
        let log = std::fs::read_to_string(scratch.path().join("e.log")).expect("the log");
        for (variable, _) in env {
            let told = |line: &str| line.contains("unrecognized environment variable") && line.contains(variable);
            assert!(log.lines().any(told), "{variable} passes in silence: {log}");
        }
    });
}

#[test]
fn a_log_without_a_name_is_refused() {
    turn(Duration::from_secs(30), async {
        let scratch = Scratch::new();
        let mut command = std::process::Command::new(etcd_bin());
        let ended = command.current_dir(scratch.path()).arg("--log-outputs=").output().expect("a process");
        let said = String::from_utf8_lossy(&ended.stderr);
        assert_eq!(ended.status.code(), Some(1), "{said}");
        assert!(said.contains(r#"open sink \"\": open : no such file or directory"#), "{said}");
    });
}

#[test]
fn plain_and_secure_urls_stand_side_by_side() {
    turn(Duration::from_secs(60), async {
        let scratch = Scratch::new();
        let authority = Authority::new("side by side").expect("an authority");
        let (ca, _) = authority.own().write(scratch.path(), "ca").expect("files");
        let issued = authority.issue(&Request::new(Usage::Peer, "member", &["127.0.0.1"])).expect("a certificate");
        let (cert, key) = issued.write(scratch.path(), "member").expect("files");
        let mut spec = Spec::new("both", scratch.path());
        let (secure, secure_peer) = (ports::free(), ports::free());
        let plain = spec.client_url.clone();
        let plain_peer = spec.peer_url.clone();
        let flag = |name: &str, value: &dyn std::fmt::Display| format!("--{name}={value}");
        spec.more = vec![
            // Of a flag that is given twice the last counts.
            flag("listen-client-urls", &format!("https://127.0.0.1:{secure},{plain}")),
            flag("listen-peer-urls", &format!("https://127.0.0.1:{secure_peer},{plain_peer}")),
            flag("trusted-ca-file", &ca.display()),
            "--client-cert-auth".to_owned(),
        ];
        for prefix in ["", "peer-"] {
            spec.more.push(flag(&format!("{prefix}cert-file"), &cert.display()));
            spec.more.push(flag(&format!("{prefix}key-file"), &key.display()));
        }
        let flags = spec.flags(std::slice::from_ref(&spec));
        let member = Process::start(&etcd_bin(), &flags, &[], &scratch.path().join("log"));
        healthy(address(&plain)).await;
        let files = ClientFiles { ca: Some(ca), cert: Some(cert), key: Some(key), ..ClientFiles::default() };
        for (port, path) in [(secure, "/health"), (secure_peer, "/version")] {
            let at = format!("127.0.0.1:{port}");
            let answer = http::get_tls(&at, path, &files).await.expect("an answer over TLS");
            assert!(answer.status.contains(" 200 "), "{at}: {answer:?}");
            assert!(http::get(&at, path).await.is_err(), "{at} answers in plain");
        }
        let answer = http::get(address(&plain_peer), "/version").await.expect("an answer");
        assert!(answer.status.contains(" 200 "), "{answer:?}");
        let log = member.log();
        for said in [
            "scheme is http or unix while key and cert files are present; ignoring key and cert files",
            "scheme is http or unix while --client-cert-auth is enabled; ignoring client cert auth for this URL",
            "scheme is HTTP while key and cert files are present; ignoring key and cert files",
        ] {
            assert!(log.contains(said), "{said}\n{log}");
        }
    });
}

#[test]
fn all_members_are_asked_by_the_user_that_is_named() {
    turn(Duration::from_secs(90), async {
        if !is_ours() {
            return;
        }
        let cluster = Cluster::start_with(&etcd_bin(), 3, &["--bcrypt-cost=4"]).await;
        let mut auth = cluster.client.auth(0);
        let user = pb::AuthUserAddRequest { name: "root".into(), password: "pw".into(), ..Default::default() };
        auth.user_add(user).await.expect("a user");
        auth.role_add(pb::AuthRoleAddRequest { name: "root".into() }).await.expect("a role");
        let grant = pb::AuthUserGrantRoleRequest { user: "root".into(), role: "root".into() };
        auth.user_grant_role(grant).await.expect("granted");
        auth.auth_enable(pb::AuthEnableRequest {}).await.expect("enabled");
        let first = cluster.spec(0).client_url.clone();
        let run = async |words: &[&str]| {
            let mut command = Command::new(env!("CARGO_BIN_EXE_etcdctl"));
            command.args(["--endpoints", &first]).args(words).stdin(Stdio::null()).kill_on_drop(true);
            let output = command.output().await.expect("a process");
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            (output.status.code(), text(&output.stdout), text(&output.stderr))
        };
        for (command, told) in [
            ("endpoint health", " is healthy: "),
            ("endpoint status", ", "),
            ("endpoint hashkv", ", "),
            ("defrag", "Finished defragmenting etcd member["),
        ] {
            let mut words: Vec<&str> = command.split(' ').collect();
            words.extend(["--cluster", "--user", "root:pw"]);
            let (code, out, err) = run(&words).await;
            assert_eq!((code, out.matches(told).count() >= 3), (Some(0), true), "{command}: {out}{err}");
            for member in 0..3 {
                assert!(out.contains(address(&cluster.spec(member).client_url)), "{command}: {out}");
            }
        }
        // Who names a user and no password is nobody.
        for user in ["root:", ":pw"] {
            let (code, _, err) = run(&["get", "k", "--user", user]).await;
            assert_eq!(code, Some(1), "{user}: {err}");
            assert!(err.contains("Error: etcdserver: user name is empty"), "{user}: {err}");
        }
    });
}
