//! What etcdctl and the server learnt after 3.5.1: `get --stream`, `--auth-jwt-token` in 3.7, and where 3.6 changed its mind. There is no such program
//! here to compare with: what is compared is the same answer asked for in the older way, or the text in etcd's sources.

use crate::client::put;
use crate::foreign;
use crate::harness::Cluster;
use crate::harness::Scratch;
use crate::harness::etcd_bin;
use crate::harness::turn;
use etcd_lab::proto::etcdserverpb as pb;
use prost::Message as _;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(180);
/// Keys for tests, in sections `== name`.
const KEYS: &str = include_str!("../../src/server/jwt/fixtures.txt");

fn etcdctl(endpoint: &str, words: &[&str]) -> (Option<i32>, Vec<u8>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_etcdctl"));
    // Variables for the tests begin with ETCDCTL, too.
    command.env_clear().arg("--endpoints").arg(endpoint).args(words);
    let output = command.output().expect("our own program");
    (output.status.code(), output.stdout, String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn a_range_in_pieces_is_the_range_in_one() {
    turn(LIMIT, async {
        let cluster = Cluster::start(1).await;
        let url = &cluster.spec(0).client_url;
        // More than the member sends in one piece.
        for number in 0..1500 {
            cluster.client.kv(0).put(put(&format!("k{number:05}"), &"v".repeat(3000))).await.expect("a put");
        }
        let mut compared = 0;
        for words in [
            "get k --prefix",
            "get k00100 k00200",
            "get k --prefix --limit 7",
            "get k --prefix --rev 500",
            "get k01499 --from-key",
            "get k --prefix --keys-only",
            "get nosuch",
        ] {
            for format in ["simple", "json", "fields", "protobuf"] {
                let words: Vec<&str> = words.split(' ').chain(["-w", format]).collect();
                let whole = etcdctl(url, &words);
                assert_eq!(whole.0, Some(0), "{words:?}: {}", whole.2);
                let streamed = etcdctl(url, &[&words[..], &["--stream"]].concat());
                assert!(
                    whole == streamed,
                    "{words:?}: {} and {} bytes, {}",
                    whole.1.len(),
                    streamed.1.len(),
                    streamed.2
                );
                compared += whole.1.len();
            }
        }
        assert!(compared > 20_000_000, "large answers were among them: {compared} bytes");
        let count = ["get", "k", "--prefix", "--count-only", "-w", "fields"];
        assert_eq!(etcdctl(url, &count), etcdctl(url, &[&count[..], &["--stream"]].concat()));
    });
}

#[test]
fn a_member_that_does_not_know_the_stream_says_so() {
    let Some(etcd) = foreign::etcd_351("a_member_that_does_not_know_the_stream_says_so") else { return };
    turn(LIMIT, async {
        let cluster = Cluster::start_with(&etcd, 1, &[]).await;
        let (code, _, err) = etcdctl(&cluster.spec(0).client_url, &["get", "k", "--stream"]);
        assert_eq!(code, Some(1));
        assert!(err.contains("Error: rpc error: code = Unimplemented desc = unknown method RangeStream"), "{err}");
    });
}

#[test]
fn a_token_that_was_made_elsewhere_is_taken() {
    turn(LIMIT, async {
        let scratch = Scratch::new();
        let file = |name: &str| {
            let section = KEYS.split("\n== ").find_map(|section| section.strip_prefix(name)?.strip_prefix('\n'));
            let path = scratch.path().join(name);
            std::fs::write(&path, section.expect("a section")).expect("a file");
            path.display().to_string()
        };
        let (private, public) = (file("rsa.pem"), file("rsa-pub.pem"));
        let flag = format!("--auth-token=jwt,sign-method=RS256,ttl=10m,priv-key={private},pub-key={public}");
        let cluster = Cluster::start_with(&etcd_bin(), 1, &["--bcrypt-cost=4", &flag]).await;
        let url = &cluster.spec(0).client_url;
        for line in ["user add root:pw", "user grant-role root root", "auth enable"] {
            let (code, _, err) = etcdctl(url, &line.split(' ').collect::<Vec<_>>());
            assert_eq!(code, Some(0), "{line}: {err}");
        }
        let ask = pb::AuthenticateRequest { name: "root".into(), password: "pw".into() };
        let token = cluster.client.auth(0).authenticate(ask).await.expect("root is let in").into_inner().token;
        assert_eq!(token.split('.').count(), 3, "a JWT");
        assert_eq!(etcdctl(url, &["put", "k", "v"]).2.lines().last(), Some("Error: etcdserver: user name is empty"));
        let (code, out, err) = etcdctl(url, &["--auth-jwt-token", &token, "put", "k", "v"]);
        assert_eq!((code, out.as_slice()), (Some(0), &b"OK\n"[..]), "{err}");
        // The token counts, not the user, and nobody is asked for a password.
        let (code, out, err) = etcdctl(url, &["--auth-jwt-token", &token, "--user", "nobody", "get", "k"]);
        assert_eq!((code, out.as_slice()), (Some(0), &b"k\nv\n"[..]), "{err}");
        let (code, _, err) = etcdctl(url, &["--auth-jwt-token", &token[..token.len() - 4], "get", "k"]);
        assert_eq!((code, err.lines().last()), (Some(1), Some("Error: etcdserver: invalid auth token")));
        assert!(Path::new(&public).exists());
    });
}

/// Each is a row of tests/differences.toml. Sources: etcd 3.6 `client/v3/config.go` (`newTLSConfig`), `server/auth/store.go`
/// (`isValidPermissionRange`), `etcdctl/main.go`.
#[test]
fn what_later_releases_do_is_what_ours_does() {
    turn(LIMIT, async {
        let cluster = Cluster::start(1).await;
        let url = cluster.spec(0).client_url.clone();
        let bare = url.trim_start_matches("http://");
        let skip = ["--insecure-skip-tls-verify", "--command-timeout=2s", "put", "k", "v"];
        assert_eq!(etcdctl(&url, &skip).0, Some(0), "a scheme settles it");
        let (code, _, err) = etcdctl(bare, &skip);
        assert_eq!(code, Some(1));
        assert!(err.ends_with("Error: context deadline exceeded\n"), "{err}");
        assert_eq!(etcdctl(bare, &["role", "add", "r"]).0, Some(0));
        let (code, out, err) = etcdctl(bare, &["role", "grant-permission", "r", "read", "z", "a"]);
        assert_eq!((code, out.len()), (Some(1), 0));
        assert!(err.ends_with("Error: etcdserver: invalid auth management\n"), "{err}");
        let mut command = Command::new(env!("CARGO_BIN_EXE_etcdctl"));
        command.env_clear().env("ETCDCTL_API", "4").args(["--endpoints", bare, "get", "k"]);
        let output = command.output().expect("our own program");
        let err = String::from_utf8_lossy(&output.stderr);
        assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(0), &b"k\nv\n"[..]), "{err}");
        assert!(err.contains(r#""environment-variable":"ETCDCTL_API=4""#), "{err}");
    });
}

#[test]
fn a_lease_in_protobuf_is_the_whole_answer() {
    turn(LIMIT, async {
        let cluster = Cluster::start(1).await;
        let url = &cluster.spec(0).client_url;
        let lease = |words: &str| etcdctl(url, &["lease"].into_iter().chain(words.split(' ')).collect::<Vec<_>>()).1;
        let granted = pb::LeaseGrantResponse::decode(&*lease("grant 100 -w protobuf")).expect("an answer");
        assert_eq!(granted.ttl, 100);
        let id = format!("{:x}", granted.id);
        let left =
            pb::LeaseTimeToLiveResponse::decode(&*lease(&format!("timetolive {id} -w protobuf"))).expect("an answer");
        assert_eq!((left.id, left.granted_ttl), (granted.id, 100));
        let kept = pb::LeaseKeepAliveResponse::decode(&*lease(&format!("keep-alive --once {id} -w protobuf")));
        assert_eq!(kept.map(|kept| (kept.id, kept.ttl)), Ok((granted.id, 100)));
        let all = pb::LeaseLeasesResponse::decode(&*lease("list -w protobuf")).expect("an answer");
        assert_eq!(all.leases.iter().map(|lease| lease.id).collect::<Vec<_>>(), [granted.id]);
    });
}
