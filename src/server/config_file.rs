//! `--config-file`: the configuration as YAML (JSON is YAML, too). It takes the place of all flags and all of the environment.
//!
//! Keys are the flags' names; certificates stand in an object of their own for each side; durations are numbers of nanoseconds. Values end up in
//! [`Settings`] and are checked like flags from there on. Unlike etcd, which passes over what it does not know, a key that is not known is warned about, and one
//! that would keep somebody out (a list of names) and has no effect here is refused. Source: etcd `server/embed/config.go` (`configYAML`); contract-server 11.4.

use super::flags;
use super::flags::Flag;
use super::flags::Kind;
use super::settings::Notice;
use super::settings::Settings;
use super::urls;
use crate::golang;
use saphyr::LoadableYamlNode as _;
use saphyr::Yaml;

/// Keys and the flags that they are.
type Names = &'static [(&'static str, &'static str)];

/// Objects with settings of their own: the object, what its keys begin with as flags, and keys that have other names there.
#[rustfmt::skip]
const OBJECTS: &[(&str, &str, Names)] = &[
    ("client-transport-security", "", &[
        ("allowed-hostname", "client-cert-allowed-hostname"), ("allowed-hostnames", "client-cert-allowed-hostname"),
        ("client-cert-file", "client-cert-file"), ("client-key-file", "client-key-file"),
    ]),
    ("peer-transport-security", "peer-", &[
        ("allowed-cn", "peer-cert-allowed-cn"), ("allowed-cns", "peer-cert-allowed-cn"),
        ("allowed-hostname", "peer-cert-allowed-hostname"), ("allowed-hostnames", "peer-cert-allowed-hostname"),
        ("skip-client-san-verification", "peer-skip-client-san-verification"),
    ]),
    ("discovery-config", "discovery-", &[]),
    ("socket-options", "socket-", &[]),
];

/// Flags that only mean something outside of their object, or on the command line.
fn stands_alone(flag: &Flag) -> bool {
    let in_object = ["cert-file", "key-file", "client-cert-auth", "trusted-ca-file", "auto-tls"];
    let bare = flag.name.strip_prefix("peer-").unwrap_or(flag.name);
    !in_object.contains(&bare) && !matches!(flag.name, "config-file" | "version")
}

/// Why a key is passed over that is a flag's name: what etcd 3.6 does not know, and what it reads on the command line only. etcd's own sample of a file has both
/// (`enable-v2`, `proxy`, `discovery-fallback: 'proxy'`).
fn without_effect(flag: &Flag) -> Option<&'static str> {
    let by_word = "it is a flag only";
    flag.is_forgotten().or_else(|| (flag.name == "discovery-fallback").then_some(by_word))
}

/// Reads the file.
///
/// # Errors
/// What is wrong with it, with its name.
pub(super) fn read(path: &str, notices: &mut Vec<Notice>) -> Result<Settings, String> {
    let text = std::fs::read_to_string(path).map_err(|e| {
        let why = e.to_string();
        format!("open {path}: {}", why.split(" (os error").next().unwrap_or_default().to_lowercase())
    })?;
    parse(&text, notices).map_err(|why| format!("{path}: {why}"))
}

fn parse(text: &str, notices: &mut Vec<Notice>) -> Result<Settings, String> {
    let mut settings = Settings::of_a_file();
    let documents = Yaml::load_from_str(text).map_err(|e| format!("error converting YAML to JSON: {e}"))?;
    let Some(document) = documents.first() else { return Ok(settings) };
    for (key, value) in members("the file", document)? {
        if value.is_null() {
            continue;
        }
        match OBJECTS.iter().find(|(object, ..)| *object == key) {
            Some((object, prefix, renamed)) => {
                for (inner, value) in members(object, value)?.into_iter().filter(|(_, value)| !value.is_null()) {
                    let name = renamed.iter().find(|(name, _)| *name == inner).map(|(_, flag)| (*flag).to_owned());
                    let name = name.unwrap_or_else(|| format!("{prefix}{inner}"));
                    match flags::find(&name) {
                        Some(flag) => set(&mut settings, flag, &format!("{object}.{inner}"), value)?,
                        None if inner.starts_with("allowed") || inner.starts_with("skip") => {
                            return Err(format!(
                                "{object}.{inner} is not part of this release: it would have no effect"
                            ));
                        }
                        None => notices.push(unknown(&format!("{object}.{inner}"))),
                    }
                }
            }
            None => match flags::find(&key).filter(|flag| stands_alone(flag)) {
                Some(flag) => match without_effect(flag) {
                    Some(why) => notices.push(unknown(&key).with("reason", why)),
                    None => set(&mut settings, flag, &key, value)?,
                },
                None => notices.push(unknown(&key)),
            },
        }
    }
    Ok(settings)
}

fn unknown(key: &str) -> Notice {
    Notice::warn("the configuration file has a key that is not known: it has no effect").with("key", key)
}

/// The members of an object, in order.
fn members<'a>(what: &str, value: &'a Yaml<'_>) -> Result<Vec<(String, &'a Yaml<'a>)>, String> {
    let Some(mapping) = value.as_mapping() else {
        return Err(format!("error unmarshaling JSON: {what} must be an object of keys and values"));
    };
    let key = |key: &Yaml<'_>| key.as_str().map(str::to_owned);
    let pairs = mapping.iter().map(|(name, value)| key(name).map(|name| (name, value)));
    pairs.collect::<Option<_>>().ok_or_else(|| format!("error unmarshaling JSON: {what} has a key that is no text"))
}

fn set(settings: &mut Settings, flag: &'static Flag, key: &str, value: &Yaml<'_>) -> Result<(), String> {
    let text = text_of(flag.kind, value).ok_or_else(|| {
        let wanted = match flag.kind {
            Kind::Bool => "true or false",
            Kind::Uint | Kind::Uint32 | Kind::Int => "a number",
            Kind::Duration => "a number of nanoseconds",
            Kind::Text | Kind::Urls | Kind::Origins | Kind::Gates | Kind::Level | Kind::OneOf(_) => {
                "a text, or a list of texts where it is a list"
            }
        };
        format!("error unmarshaling JSON: {key} must be {wanted}")
    })?;
    settings.put(flag, text).map_err(|(value, why)| {
        format!("invalid value {} for {key}: {why}", golang::quote(urls::masked(&value).as_bytes()))
    })
}

/// A value as the flag would have it.
fn text_of(kind: Kind, value: &Yaml<'_>) -> Option<String> {
    let list = |items: &Vec<Yaml<'_>>| {
        let texts: Option<Vec<&str>> = items.iter().map(|item| item.as_str()).collect();
        texts.map(|texts| texts.join(","))
    };
    // As etcd's reader, which makes a number or a truth a text where a text is wanted.
    let plain = || {
        let number = || value.as_integer().map(|value| value.to_string());
        value.as_str().map(str::to_owned).or_else(number).or_else(|| value.as_bool().map(|value| value.to_string()))
    };
    match kind {
        Kind::Bool => value.as_bool().map(|value| value.to_string()),
        Kind::Uint | Kind::Uint32 | Kind::Int => value.as_integer().map(|value| value.to_string()),
        Kind::Duration => value.as_integer().map(|nanos| format!("{nanos}ns")),
        Kind::Text | Kind::Origins => plain().or_else(|| value.as_sequence().and_then(list)),
        Kind::Urls | Kind::Gates | Kind::Level | Kind::OneOf(_) => value.as_str().map(str::to_owned),
    }
}

#[cfg(test)]
mod tests {
    use super::super::config::Config;
    use super::*;

    fn config(text: &str) -> (Config, Vec<Notice>) {
        let mut notices = Vec::new();
        let mut settings = parse(text, &mut notices).unwrap_or_else(|why| panic!("{text}: {why}"));
        settings.settle(&mut notices).expect(text);
        (Config::from_settings(&settings, &mut notices).expect(text), notices)
    }

    #[test]
    fn a_file_says_what_flags_say() {
        let (config, notices) = config(
            "name: m1\ndata-dir: /d\nheartbeat-interval: 200\nelection-timeout: 2000\npre-vote: false\n\
             listen-client-urls: http://127.0.0.1:1,http://127.0.0.1:2\nquota-backend-bytes: 0x1000\n\
             auto-compaction-retention: \"10\"\ngrpc-keepalive-interval: 5000000000\n\
             log-outputs: [stderr, /tmp/x]\nlog-level: debug\nlogger:\n\
             client-transport-security:\n  cert-file: /c\n  key-file: /k\n  client-cert-auth: true\n  trusted-ca-file: /ca\n\
             peer-transport-security:\n  cert-file: /pc\n  key-file: /pk\n  allowed-cn: [a, b]\n",
        );
        assert_eq!(
            (config.name.as_str(), config.heartbeat_ms, config.election_ms, config.pre_vote),
            ("m1", 200, 2000, false)
        );
        assert_eq!((config.listen_client_urls.len(), config.quota_backend_bytes), (2, 4096));
        assert_eq!(config.keepalive_interval.as_secs(), 5);
        assert_eq!(config.log.outputs, ["stderr", "/tmp/x"]);
        assert!(config.client_tls.client_cert_auth && !config.peer_tls.client_cert_auth);
        assert_eq!(config.client_tls.cert_file.to_str(), Some("/c"));
        assert_eq!((config.peer_tls.key_file.to_str(), config.peer_tls.allowed_cn.len()), (Some("/pk"), 2));
        // Unlike with flags, the default for clients stays.
        assert_eq!(config.advertise_client_urls.len(), 1);
        // The client URLs are plain beside a certificate, and so is the peer URL; nobody needs the clients' files, which are not there.
        let heads = ["scheme is", "simple token", "no client URL has TLS"];
        assert!(notices.iter().all(|notice| heads.iter().any(|head| notice.message.starts_with(head))), "{notices:?}");
    }

    #[test]
    fn a_number_is_a_text_where_a_text_is_wanted() {
        let (config, _) = config("name: 1\ninitial-cluster: 1=http://localhost:2380\ninitial-cluster-token: 2024\n");
        assert_eq!((config.name.as_str(), config.initial_cluster_token.as_str()), ("1", "2024"));
    }

    #[test]
    fn json_is_a_file_too_and_so_is_nothing() {
        assert_eq!(config(r#"{"name": "m1", "max-txn-ops": 7}"#).0.max_txn_ops, 7);
        assert_eq!(config("").0.name, "default");
    }

    #[test]
    fn what_is_not_known_is_told_and_certificates_stand_in_their_object() {
        let (config, notices) =
            config("bogus: 1\ncert-file: /c\nname: m1\ndata-dir: d\nsocket-options: {reuse-port: false}\n");
        assert_eq!(config.client_tls.cert_file.to_str(), Some(""));
        let keys: Vec<&str> = notices.iter().filter_map(|notice| Some(notice.fields.first()?.1.as_str())).collect();
        assert_eq!(keys, ["bogus", "cert-file"], "{notices:?}");
    }

    #[test]
    fn what_etcds_own_samples_set_is_a_configuration() {
        let sides = "  cert-file:\n  key-file:\n  client-cert-auth: false\n  trusted-ca-file:\n  auto-tls: false\n";
        let text = format!(
            "name: 'default'\ndata-dir:\nwal-dir:\nsnapshot-count: 10000\ncors:\ndiscovery:\ndiscovery-fallback: 'proxy'\n\
             discovery-proxy:\ndiscovery-srv:\ninitial-cluster:\nstrict-reconfig-check: false\nenable-v2: true\n\
             enable-pprof: true\nproxy: 'off'\nproxy-failure-wait: 5000\nproxy-read-timeout: 0\n\
             client-transport-security:\n{sides}peer-transport-security:\n{sides}  allowed-cn:\n  allowed-hostname:\n\
             self-signed-cert-validity: 1\ndebug: false\nlog-level: debug\nlogger: zap\nlog-outputs: [stderr]\n\
             auto-compaction-retention: \"1\"\ncipher-suites: [\n  TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,\n  \
             TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384\n]\ntls-min-version: 'TLS1.2'\ntls-max-version: 'TLS1.3'\n"
        );
        let (config, notices) = config(&text);
        assert_eq!((config.problems(), config.bootstrap_problems()), (vec![], vec![]));
        assert_eq!((config.strict_reconfig_check, config.client_tls.is_on()), (false, false));
        let passed_over = notices.iter().filter(|notice| notice.message.contains("not known: it has no effect"));
        let keys: Vec<&str> = passed_over.map(|notice| notice.fields[0].1.as_str()).collect();
        assert_eq!(
            keys,
            ["discovery-fallback", "enable-v2", "proxy", "proxy-failure-wait", "proxy-read-timeout", "debug"]
        );
    }

    #[test]
    fn mistakes_name_their_key() {
        for (text, why) in [
            ("- a", "error unmarshaling JSON: the file must be an object of keys and values"),
            ("name: [1]", "error unmarshaling JSON: name must be a text, or a list of texts where it is a list"),
            ("pre-vote: 1", "error unmarshaling JSON: pre-vote must be true or false"),
            ("snapshot-count: many", "error unmarshaling JSON: snapshot-count must be a number"),
            ("corrupt-check-time: 5m", "error unmarshaling JSON: corrupt-check-time must be a number of nanoseconds"),
            ("snapshot-count: -1", "invalid value \"-1\" for snapshot-count: value out of range"),
            ("initial-cluster-state: old", "invalid value \"old\" for initial-cluster-state: invalid value"),
            (
                "client-transport-security: {allowed-cn: [a]}",
                "client-transport-security.allowed-cn is not part of this release: it would have no effect",
            ),
        ] {
            assert_eq!(parse(text, &mut Vec::new()), Err(why.to_owned()), "{text}");
        }
        let broken = parse("a: [", &mut Vec::new()).expect_err("broken");
        assert!(broken.starts_with("error converting YAML to JSON: "), "{broken}");
        let missing = read("/nowhere/etcd.yml", &mut Vec::new());
        assert_eq!(missing, Err("open /nowhere/etcd.yml: no such file or directory".to_owned()));
    }
}
