//! What a configuration is made of, and what is wrong with it, in etcd's words.

use super::*;
use crate::server::settings::Words;

fn config_with(text: &str) -> (Config, Vec<Notice>) {
    let words: Vec<String> = text.split_whitespace().map(str::to_owned).collect();
    let Ok(Words::Run(mut settings)) = Settings::parse(&words) else { panic!("{text}") };
    let mut notices = Vec::new();
    settings.settle(&mut notices).expect(text);
    (Config::from_settings(&settings, &mut notices).expect(text), notices)
}

fn config(text: &str) -> Config {
    config_with(text).0
}

#[test]
fn without_a_word_a_member_is_etcds_default_one() {
    let config = config("");
    assert_eq!((config.problems(), config.bootstrap_problems()), (vec![], vec![]));
    assert_eq!(config.data_dir, PathBuf::from("default.etcd"));
    assert_eq!(urls::cluster_text(&config.initial_cluster), "default=http://localhost:2380");
    assert_eq!((config.heartbeat_ms, config.election_ticks(), config.pre_vote), (100, 10, true));
    assert_eq!((config.max_txn_ops, config.message_bytes_max()), (128, 2_097_152));
}

#[test]
fn a_name_alone_makes_a_cluster_of_one() {
    let config = config("--name m1");
    assert_eq!(urls::cluster_text(&config.initial_cluster), "m1=http://localhost:2380");
    assert_eq!(config.data_dir, PathBuf::from("m1.etcd"));
    assert_eq!(config.bootstrap_problems(), Vec::<String>::new());
}

#[test]
fn the_flags_of_the_kubernetes_guide_are_understood() {
    let dir = tempfile::tempdir().expect("a directory");
    for file in ["kubernetes.pem", "kubernetes-key.pem", "ca.pem"] {
        std::fs::write(dir.path().join(file), "x").expect("a file");
    }
    let text = "--name controller-0 --cert-file=D/kubernetes.pem --key-file=D/kubernetes-key.pem \
        --peer-cert-file=D/kubernetes.pem --peer-key-file=D/kubernetes-key.pem --trusted-ca-file=D/ca.pem \
        --peer-trusted-ca-file=D/ca.pem --peer-client-cert-auth --client-cert-auth \
        --initial-advertise-peer-urls https://10.240.0.10:2380 --listen-peer-urls https://10.240.0.10:2380 \
        --listen-client-urls https://10.240.0.10:2379,https://127.0.0.1:2379 \
        --advertise-client-urls https://10.240.0.10:2379 --initial-cluster-token etcd-cluster-0 \
        --initial-cluster controller-0=https://10.240.0.10:2380,controller-1=https://10.240.0.11:2380,controller-2=https://10.240.0.12:2380 \
        --initial-cluster-state new --data-dir=D/etcd";
    let config = config(&text.replace("D/", &format!("{}/", dir.path().display())));
    assert_eq!((config.problems(), config.bootstrap_problems()), (vec![], vec![]));
    assert_eq!((config.initial_cluster.len(), config.listen_client_urls.len()), (3, 2));
    assert!(config.client_tls.needs_client_cert() && config.peer_tls.needs_client_cert());
    assert_eq!(config.initial_cluster_token, "etcd-cluster-0");
}

#[test]
fn all_problems_are_told_at_once_in_etcds_words() {
    let found = config(
        "--listen-client-urls http://host:2379 --heartbeat-interval 0 --election-timeout 60000 --auto-compaction-mode x \
         --logger capnslog",
    )
    .problems();
    assert_eq!(
        found,
        [
            "--logger=capnslog is removed in v3.5",
            "expected IP in URL for binding (http://host:2379)",
            "--heartbeat-interval must be >0 (set to 0ms)",
            "--election-timeout[60000ms] is too long, and should be set less than 50000ms",
            "--advertise-client-urls is required when --listen-client-urls is set explicitly",
            "unknown auto-compaction-mode \"x\"",
        ]
    );
}

#[test]
fn timing_must_leave_room_for_five_heartbeats() {
    assert_eq!(
        config("--election-timeout 400").problems(),
        ["--election-timeout[400ms] should be at least as 5 times as --heartbeat-interval[100ms]"]
    );
    assert_eq!(config("--election-timeout 500").problems(), Vec::<String>::new());
}

#[test]
fn tls_is_never_half_configured() {
    for (prefix, urls) in
        [("", "--listen-client-urls https://127.0.0.1:1 --advertise-client-urls https://127.0.0.1:1"), ("peer-", "")]
    {
        let found = config(&format!("{urls} --{prefix}cert-file /nowhere/c.pem")).problems();
        assert_eq!(found[0], "KeyFile and CertFile must both be present[key: , cert: /nowhere/c.pem]");
        assert_eq!(found[1], "open /nowhere/c.pem: no such file or directory");
    }
    let found =
        config("--listen-client-urls https://127.0.0.1:1 --advertise-client-urls https://127.0.0.1:1").problems();
    assert_eq!(
        found,
        [
            "TLS key/cert (--cert-file, --key-file) must be provided for client url https://127.0.0.1:1 with HTTPS scheme"
        ]
    );
    let found = config("--peer-client-cert-auth").problems();
    assert!(found[0].starts_with("--peer-client-cert-auth needs --peer-trusted-ca-file"), "{found:?}");
}

#[test]
fn files_that_no_url_needs_may_be_missing_and_that_is_told() {
    for (words, problem) in [
        ("--trusted-ca-file /nowhere", "open /nowhere: no such file or directory"),
        ("--key-file /nowhere/k", "KeyFile and CertFile must both be present[key: /nowhere/k, cert: ]"),
        (
            "--client-cert-auth",
            "--client-cert-auth needs --trusted-ca-file: the authority that signs the clients' certificates",
        ),
        (
            "--client-crl-file /nowhere",
            "--client-crl-file needs --trusted-ca-file: without it nobody is asked for a certificate",
        ),
    ] {
        assert_eq!(config(words).problems(), Vec::<String>::new(), "{words}");
        let told = |notice: &Notice| notice.fields.contains(&("problem", problem.to_owned()));
        assert!(advice(words).iter().any(told), "{words}: {:?}", advice(words));
    }
    // A metrics URL needs them as well.
    let secure = "--listen-metrics-urls https://127.0.0.1:1 --trusted-ca-file /nowhere";
    assert!(config(secure).problems().contains(&"open /nowhere: no such file or directory".to_owned()));
}

#[test]
fn values_that_count_otherwise_in_etcd_do_so_here_and_are_told() {
    let says = |words: &str, text: &str| {
        let (config, notices) = config_with(words);
        assert_eq!(config.problems(), Vec::<String>::new(), "{words}");
        assert!(notices.iter().any(|notice| notice.message.contains(text)), "{words}: {notices:?}");
        config
    };
    assert_eq!(says("--snapshot-count 0", "updating snapshot-count to default").snapshot_count, 10_000);
    assert!(!says("--metrics full", "counts as basic").metrics_extensive);
    let revisions = "--auto-compaction-mode revision --auto-compaction-retention 1h";
    let kept = says(revisions, "as it has nanoseconds").auto_compaction();
    assert_eq!(kept, Some(AutoCompaction::Revisions(3_600_000_000_000)));
    assert_eq!(advice("--auto-compaction-mode revision --auto-compaction-retention 9 --metrics extensive"), []);
}

/// What was said of a member that has a name and a directory, beyond its tokens.
fn advice(text: &str) -> Vec<Notice> {
    let (_, notices) = config_with(&format!("--name m1 --data-dir d {text}"));
    notices.into_iter().filter(|notice| !notice.message.starts_with("simple token")).collect()
}

#[test]
fn plain_urls_may_stand_beside_secure_ones_and_that_is_told() {
    let file = tempfile::NamedTempFile::new().expect("a file");
    let path = file.path().display();
    let text = format!(
        "--cert-file {path} --key-file {path} --trusted-ca-file {path} --client-cert-auth \
         --listen-client-urls https://127.0.0.1:2379,http://127.0.0.1:2378 --advertise-client-urls https://127.0.0.1:2379 \
         --listen-peer-urls http://127.0.0.1:2380,https://127.0.0.1:2381 --peer-cert-file {path} --peer-key-file {path}"
    );
    assert_eq!(config(&text).problems(), Vec::<String>::new());
    let ignored = "; ignoring key and cert files";
    let expected = [
        Notice::warn(format!("scheme is HTTP while key and cert files are present{ignored}"))
            .with("peer-url", "http://127.0.0.1:2380"),
        Notice::warn(format!("scheme is http or unix while key and cert files are present{ignored}"))
            .with("client-url", "http://127.0.0.1:2378"),
        Notice::warn(
            "scheme is http or unix while --client-cert-auth is enabled; ignoring client cert auth for this URL",
        )
        .with("client-url", "http://127.0.0.1:2378"),
    ];
    assert_eq!(advice(&text), expected);
}

#[test]
fn large_requests_are_advised_against() {
    assert_eq!(advice("--max-request-bytes 10485760"), []);
    let told = advice("--max-request-bytes 20971520");
    assert_eq!(told[0].message, "exceeded recommended request limit");
    assert_eq!(told[0].fields[1], ("max-request-size", "21 MB".to_owned()));
    assert_eq!(told[0].fields[3], ("recommended-request-size", "10 MB".to_owned()));
}

#[test]
fn levels_and_outputs_are_read_as_etcd_reads_them() {
    let log = |text: &str| config(text).log;
    for (given, level) in [("WARN", "warn"), ("DPanic", "panic"), ("debug", "debug")] {
        assert_eq!(log(&format!("--log-level={given}")).level, level);
    }
    assert_eq!(log("--log-level=").level, "info");
    assert_eq!(log("--log-outputs=stderr,/a,stderr").outputs, ["stderr", "/a"]);
    // Without a name it cannot be opened: nothing is logged nowhere.
    assert_eq!(log("--log-outputs=").outputs, [""]);
}

#[test]
fn a_first_start_must_agree_with_the_cluster_list() {
    assert_eq!(
        config("--name a --initial-cluster b=http://localhost:2380").bootstrap_problems(),
        ["couldn't find local name \"a\" in the initial cluster configuration"]
    );
    let found = config("--initial-cluster default=http://127.0.0.1:9").bootstrap_problems();
    let why = r#"(resolved urls: "http://localhost:2380" != "http://127.0.0.1:9")"#;
    let told = "--initial-cluster has default=http://127.0.0.1:9 but missing from --initial-advertise-peer-urls=http://localhost:2380";
    assert_eq!(found, [format!("{told} {why}")]);
    let found =
        config("--initial-cluster default=http://127.0.0.1:9,default=http://localhost:2380").bootstrap_problems();
    assert!(
        found[0]
            .ends_with(r#"(len(["http://localhost:2380"]) != len(["http://127.0.0.1:9" "http://localhost:2380"]))"#),
        "{found:?}"
    );
    let found = config("--initial-advertise-peer-urls http://localhost:2380,http://127.0.0.1:9").bootstrap_problems();
    assert_eq!(
        found,
        [
            "--initial-advertise-peer-urls has http://127.0.0.1:9 but missing from --initial-cluster=default=http://127.0.0.1:9,default=http://localhost:2380"
        ]
    );
    let found = config("--initial-cluster default=http://localhost:2380,b=http://localhost:2380").bootstrap_problems();
    assert_eq!(found, ["initial cluster b=http://localhost:2380,default=http://localhost:2380 has duplicate url"]);
}

#[test]
fn the_labs_door_is_local_and_has_a_token() {
    let found = config("--experimental-lab-listen 0.0.0.0:9").problems();
    assert_eq!(found.len(), 2, "{found:?}");
    for listen in ["unix:/tmp/x", "127.0.0.1:24001", "[::1]:24001"] {
        let text = format!("--experimental-lab-listen {listen} --experimental-lab-token /t");
        assert_eq!(config(&text).problems(), Vec::<String>::new(), "{listen}");
    }
}

#[test]
fn negative_and_huge_numbers_do_not_overflow() {
    assert_eq!(config("--quota-backend-bytes=-1").quota_backend_bytes, -1);
    let found = config("--max-request-bytes 9223372036854775807 --experimental-lab-wal-segment-bytes 0 --experimental-lab-cache-bytes 9").problems();
    assert_eq!(found.len(), 3, "{found:?}");
    assert_eq!(config("--max-request-bytes 125829120").problems(), Vec::<String>::new());
    let found = config("--max-request-bytes 125829121").problems();
    assert!(found[0].contains("members can pass at most 125829120 to each other"), "{found:?}");
    let found = config("--auto-compaction-retention=-1").problems();
    assert!(found[0].starts_with("error parsing CompactionRetention: "), "{found:?}");
    assert_eq!(config("--grpc-keepalive-interval=-5s").keepalive_interval, Duration::ZERO);
}

#[test]
fn the_default_name_is_advised_against() {
    let (_, notices) = config_with("");
    assert!(notices.iter().any(|notice| notice.message.starts_with("it isn't recommended to use default name")));
    assert_eq!(advice(""), []);
}

#[test]
fn tokens_and_hashes_are_etcds_unless_told_otherwise() {
    let config_of = |text: &str| {
        let (config, _) = config_with(&format!("--name m1 --data-dir d {text}"));
        (config.auth_token.clone(), config.auth_token_ttl.as_secs(), config.bcrypt_cost, advice(text).len())
    };
    assert_eq!(config_of(""), ("simple".into(), 300, 10, 0));
    assert_eq!(config_of("--auth-token-ttl 0 --bcrypt-cost 31"), ("simple".into(), 300, 31, 0));
    assert_eq!(config_of("--auth-token-ttl 9 --bcrypt-cost 4"), ("simple".into(), 9, 4, 0));
    for cost in ["3", "32", "99999999999"] {
        assert_eq!(config_of(&format!("--bcrypt-cost {cost}")), ("simple".into(), 300, 10, 1), "{cost}");
    }
    for (option, problem) in [
        ("other", "auth: invalid auth options: unknown kind of token \"other\": simple or jwt"),
        ("jwt", "auth: invalid auth signature method"),
        ("jwt,sign-method=RS256", "auth: missing key data"),
    ] {
        assert_eq!(config(&format!("--auth-token {option}")).problems(), [problem]);
    }
}

#[test]
fn tokens_that_anybody_could_make_are_told() {
    let told = |text: &str| config_with(text).1.iter().any(|notice| notice.message.starts_with("simple token is not"));
    assert!(told("") && told("--auth-token=simple") && !told("--auth-token=jwt,sign-method=HS256"));
}

#[test]
fn retention_is_hours_a_time_or_revisions() {
    let of = |words: &str| config(words).auto_compaction();
    let seconds = |seconds| Some(AutoCompaction::Periodic(Duration::from_secs(seconds)));
    assert_eq!(of(""), None, "off unless asked for");
    assert_eq!(of("--auto-compaction-retention=10"), seconds(36_000));
    assert_eq!(of("--auto-compaction-retention=90m"), seconds(5_400));
    assert_eq!(of("--auto-compaction-retention=0s"), None);
    let revisions = "--auto-compaction-mode=revision --auto-compaction-retention";
    assert_eq!(of(&format!("{revisions}=1000")), Some(AutoCompaction::Revisions(1000)));
    assert_eq!(of(&format!("{revisions}=0")), None);
    // Hours beyond all bounds are for ever, not an overflow.
    assert_eq!(of("--auto-compaction-retention=9223372036854775807"), seconds(u64::MAX));
}

#[test]
fn a_compaction_has_etcds_pace_unless_told_otherwise() {
    let pace = |words: &str| {
        let config = config(words);
        (config.compaction_batch, config.compaction_pause.as_millis())
    };
    assert_eq!(pace(""), (1000, 10));
    assert_eq!(pace("--compaction-batch-limit=0 --compaction-sleep-interval=0"), (1000, 10));
    assert_eq!(pace("--compaction-batch-limit=7 --compaction-sleep-interval=1s"), (7, 1000));
    assert_eq!(pace("--compaction-batch-limit=-7"), (1, 10));
    assert_eq!(pace("--experimental-compaction-batch-limit=9"), (9, 10));
}
