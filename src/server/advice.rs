//! What of a configuration is right and yet worth a word in the log.
//!
//! Whoever wrote it may have meant something else: a certificate beside an `http://` URL protects nothing at that URL. Texts and fields are etcd's, so that
//! what people have set their alarms on is found. Source: etcd `server/embed/etcd.go` (`configurePeerListeners`, `configureClientListeners`),
//! `server/etcdserver/bootstrap.go`, `server/auth/store.go`.

use super::config::Config;
use super::config::DEFAULT_NAME;
use super::settings::Notice;
use super::settings::Settings;
use crate::golang;

/// Requests larger than this make a member slow for everybody. Source: etcd `recommendedMaxRequestBytes`.
const REQUEST_BYTES_ADVISED: u64 = 10 * 1024 * 1024;

/// All of it, in the order in which it is told.
pub(super) fn of(config: &Config, settings: &Settings) -> Vec<Notice> {
    let mut notices = Vec::new();
    if config.name == DEFAULT_NAME {
        notices.push(Notice::warn(
            "it isn't recommended to use default name, please set a value for --name. Note that etcd might run \
             into issue when multiple members have the same default name",
        ));
    }
    if config.force_new_cluster {
        notices.push(Notice::warn("the server was started with --force-new-cluster: it drops all other members"));
    }
    if !settings.was_set("data-dir") {
        let dir = config.data_dir.display().to_string();
        notices.push(Notice::warn("'data-dir' was empty; using default").with("data-dir", dir));
    }
    notices.extend(certificates_without_use(config));
    if config.max_request_bytes > REQUEST_BYTES_ADVISED {
        notices.push(
            Notice::warn("exceeded recommended request limit")
                .with("max-request-bytes", config.max_request_bytes.to_string())
                .with("max-request-size", golang::size(config.max_request_bytes))
                .with("recommended-request-bytes", REQUEST_BYTES_ADVISED.to_string())
                .with("recommended-request-size", golang::size(REQUEST_BYTES_ADVISED)),
        );
    }
    notices.extend(what_counts_otherwise(config, settings));
    if config.auth_token.split(',').next() == Some("simple") {
        notices.push(Notice::warn("simple token is not cryptographically signed"));
    }
    notices
}

/// Values that etcd takes in silence, and as something else than what is written there.
fn what_counts_otherwise(config: &Config, settings: &Settings) -> Vec<Notice> {
    let mut notices = Vec::new();
    let metrics = settings.text("metrics");
    if !matches!(metrics, "basic" | "extensive") {
        notices
            .push(Notice::warn("--metrics is neither basic nor extensive, and counts as basic").with("given", metrics));
    }
    let retention = config.auto_compaction_retention.as_str();
    let is_time = golang::parse_number(retention).is_err() && config.auto_compaction().is_some();
    if config.auto_compaction_mode == "revision" && is_time {
        let text = "--auto-compaction-mode is revision, and the retention is a time: as many revisions are kept as it has nanoseconds";
        notices.push(Notice::warn(text).with("auto-compaction-retention", retention));
    }
    notices
}

/// URLs that are served without TLS although it is configured.
fn certificates_without_use(config: &Config) -> Vec<Notice> {
    let clients = config.listen_client_urls.iter().chain(&config.listen_client_http_urls);
    let clients = clients.map(|url| (url, &config.client_tls, "client-url", "http or unix", "--client-cert-auth"));
    // etcd says nothing of peers' socket files.
    let peers = config.listen_peer_urls.iter().filter(|url| !url.is_unix());
    let peers = peers.map(|url| (url, &config.peer_tls, "peer-url", "HTTP", "--peer-client-cert-auth"));
    let mut notices = Vec::new();
    if !config.has_secure_client_urls() {
        let passed_over = |problem: String| {
            Notice::warn("no client URL has TLS: what is wrong with its files does not matter").with("problem", problem)
        };
        notices.extend(config.client_tls.problems("").into_iter().map(passed_over));
    }
    for (url, tls, field, scheme, flag) in peers.chain(clients).filter(|(url, ..)| !url.is_secure()) {
        if tls.is_on() || !tls.cert_file.as_os_str().is_empty() || !tls.key_file.as_os_str().is_empty() {
            let text = format!("scheme is {scheme} while key and cert files are present; ignoring key and cert files");
            notices.push(Notice::warn(text).with(field, url.as_str()));
        }
        if tls.client_cert_auth {
            let text = format!("scheme is {scheme} while {flag} is enabled; ignoring client cert auth for this URL");
            notices.push(Notice::warn(text).with(field, url.as_str()));
        }
    }
    notices
}
