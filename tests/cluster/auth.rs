//! Users and permissions with etcd's own etcdctl, beside a real etcd; certificates as users; and where passwords must not be found.

use crate::chaos::with_doors;
use crate::client::Client;
use crate::client::answer;
use crate::failpoints;
use crate::foreign;
use crate::harness::Cluster;
use crate::harness::READY_WITHIN;
use crate::harness::Scratch;
use crate::harness::Spec;
use crate::harness::etcd_bin;
use crate::harness::turn;
use crate::harness::until;
use etcd_lab::client;
use etcd_lab::failpoint::Point;
use etcd_lab::proto::authpb;
use etcd_lab::proto::authpb::permission::Type;
use etcd_lab::proto::etcdserverpb as pb;
use etcd_lab::tls::pki::Authority;
use etcd_lab::tls::pki::Request as CertificateRequest;
use etcd_lab::tls::pki::Usage;
use pb::auth_client::AuthClient;
use std::fs;
use std::path::Path;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use tonic::Request;
use tonic::Status;
use tonic::transport::Certificate;
use tonic::transport::Channel;
use tonic::transport::ClientTlsConfig;
use tonic::transport::Identity;

/// Quick hashes: these tests are about who may do what.
const QUICK: &str = "--bcrypt-cost=4";

/// Everything on the disk is read through, byte by byte.
const SMALL_LOG: &str = "--experimental-lab-wal-segment-bytes=1048576";

/// Keys for tests, in sections `== name`.
const KEYS: &str = include_str!("../../src/server/jwt/fixtures.txt");

/// `USER COMMAND < INPUT`: as whom, what, and what is typed. `-` is nobody.
const SCRIPT: &[&str] = &[
    "- auth enable",
    "- user add root:rootpw",
    "- user add root:again",
    "- auth enable",
    "- user grant-role root root",
    "- user list",
    "- auth enable",
    "- user list",
    "- put foo x",
    "- get foo",
    "root:wrong user list",
    "nobody:pw user list",
    "root:rootpw user list",
    "root:rootpw user add alice --interactive=false < alicepw",
    "root:rootpw user add card --no-password",
    "root:rootpw role add fooer",
    "root:rootpw role add fooer",
    "root:rootpw role grant-permission fooer readwrite foo",
    "root:rootpw role grant-permission fooer read bar --prefix",
    "root:rootpw role grant-permission fooer write zoo --from-key",
    "root:rootpw role grant-permission none read a",
    "root:rootpw role get fooer",
    "root:rootpw role list",
    "alice:alicepw get foo",
    "root:rootpw user grant-role alice fooer",
    "root:rootpw user grant-role alice fooer",
    "root:rootpw user grant-role alice none",
    "root:rootpw user grant-role none fooer",
    "root:rootpw user get alice",
    "root:rootpw user get alice --detail",
    "alice:alicepw put foo 1",
    "alice:alicepw get foo",
    "alice:alicepw put foo 2 --prev-kv",
    "alice:alicepw put bar1 x",
    "alice:alicepw get bar1",
    "alice:alicepw get bar --prefix",
    "alice:alicepw get ba --prefix",
    "alice:alicepw get bar --from-key",
    "alice:alicepw put zoo1 x",
    "alice:alicepw put zoo1 x --prev-kv",
    "alice:alicepw get zoo1",
    "alice:alicepw del foo",
    "alice:alicepw del --prefix f",
    "alice:alicepw txn < value(\"foo\") = \"1\"\n\nput foo 3\n\nget bar1\n\n",
    "alice:alicepw txn < value(\"foo\") = \"1\"\n\nput foo 3\n\nget baz\n\n",
    "alice:alicepw txn < value(\"qux\") = \"1\"\n\nput foo 3\n\n\n",
    "alice:alicepw user get alice",
    "alice:alicepw user get root",
    "alice:alicepw role get fooer",
    "alice:alicepw user list",
    "alice:alicepw user add bob:pw",
    "alice:alicepw auth disable",
    "card:x get foo",
    "root:rootpw user passwd alice --interactive=false < newpw",
    "alice:alicepw get foo",
    "alice:newpw get foo",
    "root:rootpw role revoke-permission fooer bar --prefix",
    "root:rootpw role revoke-permission fooer bar --prefix",
    "alice:newpw get bar1",
    "root:rootpw user revoke-role alice fooer",
    "root:rootpw user revoke-role alice fooer",
    "alice:newpw get foo",
    "root:rootpw user delete root",
    "root:rootpw user revoke-role root root",
    "root:rootpw user delete alice",
    "root:rootpw user delete alice",
    "alice:newpw get foo",
    "root:rootpw role delete fooer",
    "root:rootpw role get fooer",
    "root:rootpw auth disable",
    "- get foo",
    "root:rootpw auth disable",
];

/// What a command of the script came to.
#[derive(Debug, PartialEq, Eq)]
struct Outcome {
    command: &'static str,
    code: Option<i32>,
    stdout: String,
    /// Without Go's timestamps and file names.
    complaint: String,
}

async fn outcome(program: &Path, endpoints: &str, line: &'static str) -> Outcome {
    let (command, input) = line.split_once(" < ").unwrap_or((line, ""));
    let (user, words) = command.split_once(' ').expect("a user and a command");
    let mut child = Command::new(program);
    child.env_clear().env("ETCDCTL_API", "3").args(["--endpoints", endpoints]);
    if user != "-" {
        child.args(["--user", user]);
    }
    child.args(words.split(' ')).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = child.spawn().unwrap_or_else(|e| panic!("{}: {e}", program.display()));
    let mut pipe = child.stdin.take().expect("a pipe");
    // A command that needs no input may have ended by now.
    drop(pipe.write_all(format!("{input}\n").as_bytes()).await);
    drop(pipe);
    let output = tokio::time::timeout(READY_WITHIN, child.wait_with_output()).await;
    let output = output.unwrap_or_else(|_| panic!("{line} does not end")).expect("its output can be read");
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    let complaint = stderr.lines().rfind(|line| line.starts_with("Error:")).unwrap_or_default().to_owned();
    Outcome {
        command: line,
        code: output.status.code(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        complaint,
    }
}

async fn script(program: &Path, cluster: &Cluster) -> Vec<Outcome> {
    let endpoints = cluster.endpoints().replace("http://", "");
    let mut outcomes = Vec::new();
    for line in SCRIPT {
        outcomes.push(outcome(program, &endpoints, line).await);
    }
    outcomes
}

/// A member's disk takes its time, so that it knows later than the others what has changed.
async fn slow_down(cluster: &Cluster, member: usize, terms: &str) {
    if failpoints::are_there() {
        failpoints::set(cluster, member, Point::WalBeforeSync, terms).await;
    }
}

/// Runs the script with one etcdctl on our members and on etcd 3.5.1, and compares.
fn compare(name: &str, etcdctl: PathBuf) {
    let Some(etcd) = foreign::etcd_351(name) else { return };
    turn(Duration::from_secs(300), async {
        let cluster = Cluster::start_with(&etcd, 1, &[QUICK]).await;
        let theirs = script(&etcdctl, &cluster).await;
        drop(cluster);
        let (cluster, _doors) = with_doors(3, &[QUICK]).await;
        // Who asks a follower that is behind must not notice.
        slow_down(&cluster, (cluster.leader().await + 1) % cluster.len(), "sleep(100)").await;
        let ours = script(&etcdctl, &cluster).await;
        let list: Vec<String> = theirs
            .iter()
            .zip(&ours)
            .filter(|(theirs, ours)| theirs != ours)
            .map(|(theirs, ours)| format!("etcd 3.5.1: {theirs:#?}\nours:       {ours:#?}"))
            .collect();
        assert!(list.is_empty(), "{} of {} commands differ\n{}", list.len(), SCRIPT.len(), list.join("\n"));
        // That both agree proves little if both refuse everything.
        let of = |command: &str| ours.iter().find(|outcome| outcome.command == command).expect("it was run");
        assert_eq!(of("alice:alicepw get foo").complaint, "Error: etcdserver: permission denied");
        assert_eq!(of("- put foo x").complaint, "Error: etcdserver: user name is empty");
        assert_eq!(of("alice:alicepw put foo 2 --prev-kv").stdout, "OK\nfoo\n1\n");
        assert!(
            of("alice:alicepw txn < value(\"foo\") = \"1\"\n\nput foo 3\n\nget bar1\n\n").stdout.contains("FAILURE")
        );
        assert_eq!(of("alice:newpw get foo").code, Some(0));
    });
}

#[test]
fn etcdctl_34_manages_users_on_our_members_as_on_etcd() {
    let Some(etcdctl) = foreign::etcdctl_34("users with etcdctl 3.4") else { return };
    compare("users with etcdctl 3.4", etcdctl);
}

#[test]
fn etcdctl_35_manages_users_on_our_members_as_on_etcd() {
    let test = "users with etcdctl 3.5";
    let Some(etcdctl) = foreign::beside_351(test, "etcdctl") else { return };
    compare(test, etcdctl);
}

#[test]
fn a_member_that_is_behind_refuses_nobody_by_what_used_to_be() {
    if failpoints::program("a_member_that_is_behind_refuses_nobody…").is_none() {
        return;
    }
    turn(Duration::from_secs(120), async {
        let (cluster, _doors) = with_doors(3, &[QUICK]).await;
        let ahead = cluster.leader().await;
        furnish(cluster.client.auth(ahead)).await;
        let root = login(cluster.client.auth(ahead), "root", "rootpw-3141").await.expect("a token");
        let alice = login(cluster.client.auth(ahead), "alice", "alicepw-2718").await.expect("a token");
        let behind = (ahead + 1) % cluster.len();
        slow_down(&cluster, behind, "sleep(700)").await;
        let list = async || cluster.client.auth(behind).user_list(with(Some(&alice), pb::AuthUserListRequest {})).await;
        assert_eq!(list().await.expect_err("root's").message(), "etcdserver: permission denied");
        let grant = pb::AuthUserGrantRoleRequest { user: "alice".into(), role: "root".into() };
        cluster.client.auth(ahead).user_grant_role(with(Some(&root), grant)).await.expect("granted");
        assert_behind(&cluster, behind, ahead, &root).await;
        list().await.expect("hers, too, now");
        put_as(&cluster.client, behind, "a", None).await.expect_err("nobody");
        cluster.client.auth(ahead).auth_disable(with(Some(&root), pb::AuthDisableRequest {})).await.expect("done");
        assert_behind(&cluster, behind, ahead, &root).await;
        put_as(&cluster.client, behind, "a", None).await.expect("anybody may");
    });
}

/// One member has not applied what another one has: without that, a test of who is behind tests nothing.
async fn assert_behind(cluster: &Cluster, behind: usize, ahead: usize, token: &str) {
    let applied = async |member| {
        // Whoever has a token is answered at once, and waits for nothing to be applied.
        let asked = cluster.client.maintenance(member).status(with(Some(token), pb::StatusRequest {})).await;
        asked.expect("it answers").into_inner().raft_applied_index
    };
    let (theirs, ours) = (applied(behind).await, applied(ahead).await);
    assert!(theirs < ours, "member {behind} has applied {theirs}, member {ahead} {ours}");
}

pub(crate) fn with<T>(token: Option<&str>, message: T) -> Request<T> {
    let mut request = Request::new(message);
    if let Some(token) = token {
        request.metadata_mut().insert("token", token.parse().expect("ASCII"));
    }
    request
}

/// Adds root and a user `alice` who may read and write `a`, and turns authentication on.
pub(crate) async fn furnish(mut auth: AuthClient<Channel>) {
    for (name, password) in [("root", "rootpw-3141"), ("alice", "alicepw-2718")] {
        let add = pb::AuthUserAddRequest { name: name.into(), password: password.into(), ..Default::default() };
        auth.user_add(add).await.expect("added");
        auth.role_add(pb::AuthRoleAddRequest { name: name.into() }).await.expect("added");
        auth.user_grant_role(pb::AuthUserGrantRoleRequest { user: name.into(), role: name.into() })
            .await
            .expect("granted");
    }
    let perm = authpb::Permission { perm_type: Type::Readwrite as i32, key: "a".into(), ..Default::default() };
    let grant = pb::AuthRoleGrantPermissionRequest { name: "alice".into(), perm: Some(perm) };
    auth.role_grant_permission(grant).await.expect("granted");
    auth.auth_enable(pb::AuthEnableRequest {}).await.expect("enabled");
}

pub(crate) async fn login(mut auth: AuthClient<Channel>, name: &str, password: &str) -> Result<String, Status> {
    let login = pb::AuthenticateRequest { name: name.into(), password: password.into() };
    answer(READY_WITHIN, auth.authenticate(login)).await.map(|answer| answer.token)
}

async fn put_as(client: &Client, member: usize, key: &str, token: Option<&str>) -> Result<(), Status> {
    let put = pb::PutRequest { key: key.to_owned().into(), value: "v".into(), ..Default::default() };
    answer(READY_WITHIN, client.kv(member).put(with(token, put))).await.map(drop)
}

#[test]
fn a_token_is_good_on_every_member_and_rights_survive_kill_9() {
    turn(Duration::from_secs(120), async {
        let mut cluster = Cluster::start_with(&etcd_bin(), 3, &[QUICK]).await;
        furnish(cluster.client.auth(0)).await;
        let token = login(cluster.client.auth(0), "alice", "alicepw-2718").await.expect("a token");
        for member in 0..3 {
            put_as(&cluster.client, member, "a", Some(&token)).await.expect("hers, on every member");
            let refused = put_as(&cluster.client, member, "b", Some(&token)).await.expect_err("not hers");
            assert_eq!(refused.message(), "etcdserver: permission denied");
        }
        cluster.kill_all();
        for member in 0..3 {
            cluster.launch(member);
        }
        let back = async || login(cluster.client.auth(1), "alice", "alicepw-2718").await;
        let token = until(READY_WITHIN, "a login after the restart", back).await;
        for member in 0..3 {
            let put = async || put_as(&cluster.client, member, "a", Some(&token)).await;
            until(READY_WITHIN, "a put after the restart", put).await;
            let refused = put_as(&cluster.client, member, "a", None).await.expect_err("nobody");
            assert_eq!(refused.message(), "etcdserver: user name is empty");
        }
    });
}

#[test]
fn no_password_is_found_in_the_data_or_in_the_log() {
    turn(Duration::from_secs(120), async {
        let mut cluster = Cluster::start_with(&etcd_bin(), 1, &[QUICK, "--log-level=debug", SMALL_LOG]).await;
        furnish(cluster.client.auth(0)).await;
        let card = pb::AuthUserAddRequest {
            name: "card".into(),
            password: "cardpw-1618".into(),
            options: Some(authpb::UserAddOptions { no_password: true }),
            ..Default::default()
        };
        let root = login(cluster.client.auth(0), "root", "rootpw-3141").await.expect("a token");
        cluster.client.auth(0).user_add(with(Some(&root), card)).await.expect("added");
        let change = pb::AuthUserChangePasswordRequest {
            name: "alice".into(),
            password: "newpw-1414".into(),
            ..Default::default()
        };
        cluster.client.auth(0).user_change_password(with(Some(&root), change)).await.expect("changed");
        login(cluster.client.auth(0), "alice", "wrongpw-1732").await.expect_err("a wrong password");
        login(cluster.client.auth(0), "alice", "newpw-1414").await.expect("the new password");
        put_as(&cluster.client, 0, "a", Some("forged-token-2236.1")).await.expect_err("a forged token");
        // The log is written behind the answers.
        until(READY_WITHIN, "both refusals in the log", async || {
            let log = cluster.process(0).log();
            let told = log.contains("invalid authentication was requested") && log.contains("refused a request");
            if told { Ok(()) } else { Err(log) }
        })
        .await;
        cluster.terminate(0).await;
        let secrets =
            ["rootpw-3141", "alicepw-2718", "cardpw-1618", "newpw-1414", "wrongpw-1732", "forged-token-2236", &root];
        let mut looked = 0;
        for file in files_below(cluster.dir()) {
            let bytes = fs::read(&file).expect("a readable file");
            looked += 1;
            for secret in secrets {
                let found = bytes.windows(secret.len()).any(|window| window == secret.as_bytes());
                assert!(!found, "{secret} is in {}", file.display());
            }
        }
        assert!(looked >= 3, "log, store and the member's own log were looked through: {looked} files");
        let wal = files_below(&cluster.spec(0).data_dir.join("member").join("wal"));
        let bytes: Vec<u8> = wal.iter().flat_map(|file| fs::read(file).expect("a readable file")).collect();
        assert!(bytes.windows(5).any(|window| window == b"alice"), "the users are in what was looked through");
    });
}

fn files_below(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).expect("a readable directory") {
        let path = entry.expect("an entry").path();
        if path.is_dir() { files.extend(files_below(&path)) } else { files.push(path) }
    }
    files
}

/// A member with TLS and these flags beside, and a client whose certificate says `alice`.
async fn member_with_certificates(more: &[&str]) -> Cluster {
    let scratch = Scratch::new();
    let authority = Authority::new("ca").expect("an authority");
    let (ca, _) = authority.own().write(scratch.path(), "ca").expect("files");
    let server = authority.issue(&CertificateRequest::new(Usage::Peer, "server", &["127.0.0.1", "localhost"]));
    let (cert, key) = server.expect("a certificate").write(scratch.path(), "server").expect("files");
    let alice = authority.issue(&CertificateRequest::new(Usage::Client, "alice", &[]));
    let (alice_cert, alice_key) = alice.expect("a certificate").write(scratch.path(), "alice").expect("files");
    let mut spec = Spec::new("m0", scratch.path());
    spec.client_url = spec.client_url.replace("http:", "https:");
    spec.more = vec![
        QUICK.into(),
        format!("--cert-file={}", cert.display()),
        format!("--key-file={}", key.display()),
        format!("--trusted-ca-file={}", ca.display()),
    ];
    spec.more.extend(more.iter().map(|&flag| flag.to_owned()));
    let read = |path: &Path| fs::read(path).expect("a certificate's file");
    let tls = ClientTlsConfig::new()
        .ca_certificate(Certificate::from_pem(read(&ca)))
        .domain_name("localhost")
        .identity(Identity::from_pem(read(&alice_cert), read(&alice_key)));
    let client = Client::tls(vec![spec.client_url.clone()], &tls);
    Cluster::from_specs(&etcd_bin(), vec![spec], client, scratch).await
}

#[test]
fn a_certificate_names_a_user_where_it_is_asked_for_and_never_through_a_gateway() {
    turn(Duration::from_secs(120), async {
        // CVE-2018-16886, all four: with and without --client-cert-auth, directly and through a gateway.
        for (flags, counts) in [(&["--client-cert-auth"][..], true), (&[][..], false)] {
            let cluster = member_with_certificates(flags).await;
            furnish(cluster.client.auth(0)).await;
            let direct = put_as(&cluster.client, 0, "a", None).await;
            let refused = |result: Result<(), Status>| result.err().map(|status| status.message().to_owned());
            let nobody = Some("etcdserver: user name is empty".to_owned());
            assert_eq!(refused(direct), if counts { None } else { nobody.clone() }, "{flags:?}");
            let put = pb::PutRequest { key: "a".into(), ..Default::default() };
            let mut gateway = Request::new(put);
            gateway.metadata_mut().insert("grpcgateway-accept", "*/*".parse().expect("ASCII"));
            let through = answer(READY_WITHIN, cluster.client.kv(0).put(gateway)).await.map(drop);
            assert_eq!(refused(through), nobody, "{flags:?}");
            if counts {
                let denied = put_as(&cluster.client, 0, "b", None).await;
                assert_eq!(refused(denied), Some("etcdserver: permission denied".to_owned()));
            }
            // A token comes before the certificate, also a bad one.
            let root = login(cluster.client.auth(0), "root", "rootpw-3141").await.expect("a token");
            put_as(&cluster.client, 0, "b", Some(&root)).await.expect("root's token on alice's certificate");
            let forged = put_as(&cluster.client, 0, "a", Some("forged.1")).await;
            assert_eq!(refused(forged), Some("etcdserver: invalid auth token".to_owned()));
        }
    });
}

#[test]
fn a_token_that_etcd_has_signed_is_good_here_and_ours_there() {
    let Some(etcd) = foreign::etcd_351("signed tokens") else { return };
    turn(Duration::from_secs(120), async {
        let scratch = Scratch::new();
        let file = |name: &str| {
            let section = KEYS.split("\n== ").find_map(|section| section.strip_prefix(name)?.strip_prefix('\n'));
            let path = scratch.path().join(name);
            fs::write(&path, section.expect("a fixture")).expect("a file");
            path
        };
        let (private, public) = (file("rsa.pem"), file("rsa-pub.pem"));
        let flag = format!(
            "--auth-token=jwt,sign-method=RS256,ttl=10m,priv-key={},pub-key={}",
            private.display(),
            public.display()
        );
        let theirs = Cluster::start_with(&etcd, 1, &[QUICK, &flag]).await;
        let ours = Cluster::start_with(&etcd_bin(), 1, &[QUICK, &flag]).await;
        for cluster in [&theirs, &ours] {
            furnish(cluster.client.auth(0)).await;
        }
        for (from, to) in [(&theirs, &ours), (&ours, &theirs)] {
            let token = login(from.client.auth(0), "alice", "alicepw-2718").await.expect("a token");
            put_as(&to.client, 0, "a", Some(&token)).await.expect("the same key, user and auth revision");
            let refused = put_as(&to.client, 0, "b", Some(&token)).await.expect_err("not hers");
            assert_eq!(refused.message(), "etcdserver: permission denied");
        }
    });
}

#[test]
fn our_client_logs_in_and_again_when_rights_have_changed() {
    turn(Duration::from_secs(120), async {
        let cluster = Cluster::start_with(&etcd_bin(), 3, &[QUICK]).await;
        furnish(cluster.client.auth(0)).await;
        let config = |user: Option<(String, String)>| client::Config {
            endpoints: cluster.endpoints().split(',').map(str::to_owned).collect(),
            user,
            ..client::Config::default()
        };
        let anonymous = client::Client::new(config(None));
        let refused = anonymous.put("a", "1").await.expect_err("nobody");
        assert!(refused.to_string().contains("user name is empty"), "{refused}");
        let alice = client::Client::new(config(Some(("alice".into(), "alicepw-2718".into()))));
        alice.authenticate().await.expect("the right password");
        alice.put("a", "1").await.expect("hers");
        // A new password ends her token; with the old one she cannot come back, with the new one she can.
        let root = login(cluster.client.auth(0), "root", "rootpw-3141").await.expect("a token");
        let change = |password: &str| pb::AuthUserChangePasswordRequest {
            name: "alice".into(),
            password: password.into(),
            ..Default::default()
        };
        cluster.client.auth(0).user_change_password(with(Some(&root), change("other"))).await.expect("changed");
        let refused = alice.put("a", "2").await.expect_err("the token is gone");
        assert!(refused.to_string().contains("authentication failed"), "{refused}");
        cluster.client.auth(0).user_change_password(with(Some(&root), change("alicepw-2718"))).await.expect("changed");
        alice.authenticate().await.expect("the right password again");
        cluster.client.auth(0).auth_disable(with(Some(&root), pb::AuthDisableRequest {})).await.expect("off");
        cluster.client.auth(0).auth_enable(pb::AuthEnableRequest {}).await.expect("on");
        alice.put("a", "3").await.expect("she logs in again by herself");
    });
}
