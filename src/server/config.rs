//! The configuration of a member: public fields, made from flags and environment, checked once.
//!
//! [`Config::problems`] tells everything that is wrong at once, in etcd's words where etcd has some; past that a `Config` is right.
//! What only matters at a first start is in [`Config::bootstrap_problems`]: a member with a log ignores the `initial-*` flags.
//! Source: etcd `server/embed/config.go` and `server/config/config.go`.

use super::advice;
use super::discovery::Discovery;
use super::gates;
use super::otel::Tracing;
use super::password;
use super::rotate::Rotation;
use super::settings::Notice;
use super::settings::Settings;
use super::token::TokenKind;
use super::urls;
use super::urls::Url;
pub use super::web::Web;
use crate::golang;
use crate::node::AutoCompaction;
use crate::node::Checks;
use crate::peer::REQUEST_BYTES_MAX;
use crate::tls::Offer;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;

/// Added to the largest request for the message around it. Source: etcd `grpcOverheadBytes`.
const MESSAGE_OVERHEAD_BYTES: u64 = 512 * 1024;

/// Longest election time-out. Source: etcd `maxElectionMs`.
const ELECTION_MAX_MS: u64 = 50_000;

/// Source: etcd `defaultCompactionBatchLimit` and `defaultCompactionSleepInterval`.
const COMPACTION_BATCH: usize = 1000;
const COMPACTION_PAUSE: Duration = Duration::from_millis(10);

pub(super) const DEFAULT_NAME: &str = "default";
/// Source: etcd `etcdserver.DefaultSnapshotCount`.
const SNAPSHOT_COUNT: u64 = 10_000;
const DEFAULT_PEER_URL: &str = "http://localhost:2380";
const DEFAULT_CLIENT_URL: &str = "http://localhost:2379";

/// Everything a member is told at its start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// For people; need not be unique, but etcd suggests it.
    pub name: String,
    pub data_dir: PathBuf,
    /// The log's directory if not inside the data directory.
    pub wal_dir: Option<PathBuf>,
    pub wal_segment_bytes: u64,
    /// History in memory beyond the index: half of it blocks, half of it the store's own.
    pub cache_bytes: u64,
    pub snapshot_count: u64,
    /// Log entries kept behind a snapshot.
    pub snapshot_catchup_entries: u64,
    /// Bytes of memory for all answers to ranges together.
    pub range_bytes_max: u64,
    /// 0: 2 GiB; negative: none.
    pub quota_backend_bytes: i64,

    pub listen_peer_urls: Vec<Url>,
    pub listen_client_urls: Vec<Url>,
    /// If not empty, HTTP is served here and gRPC alone at `listen_client_urls`.
    pub listen_client_http_urls: Vec<Url>,
    pub listen_metrics_urls: Vec<Url>,
    pub advertise_peer_urls: Vec<Url>,
    pub advertise_client_urls: Vec<Url>,
    /// The first members by name.
    pub initial_cluster: BTreeMap<String, Vec<Url>>,
    /// Instead of a list: where the list is to be had.
    pub discovery: Discovery,
    pub initial_cluster_token: String,
    /// Whether the cluster is there already and this member joins it.
    pub join_existing: bool,
    /// Whether all other members are dropped at start.
    pub force_new_cluster: bool,
    pub strict_reconfig_check: bool,
    pub max_learners: i64,

    /// One raft tick in milliseconds: a leader's heartbeats are this far apart.
    pub heartbeat_ms: u64,
    /// Time without a leader before a member campaigns; at least five heartbeats.
    pub election_ms: u64,
    pub initial_election_tick_advance: bool,
    pub pre_vote: bool,

    pub max_txn_ops: u64,
    pub max_request_bytes: u64,
    pub max_concurrent_streams: u32,
    pub max_connections: u64,
    /// Whether other processes may listen on the same ports.
    pub reuse_port: bool,
    /// Whether nothing of this process may go to swap.
    pub memory_lock: bool,
    /// Zero: the server sends no pings.
    pub keepalive_interval: Duration,
    pub keepalive_timeout: Duration,
    pub watch_progress_interval: Duration,
    /// Whether a leader writes down the remaining time of its leases.
    pub lease_checkpoint: bool,
    pub auto_compaction_mode: String,
    pub auto_compaction_retention: String,
    /// Keys that one step of a compaction looks at.
    pub compaction_batch: usize,
    /// Between two steps of a compaction.
    pub compaction_pause: Duration,
    /// Between two looks at a downgrade; zero: none.
    pub downgrade_check: Duration,
    /// Whether this member compares its data with the others' before it starts.
    pub initial_corrupt_check: bool,
    /// Between two comparisons of all data by the leader; zero: none.
    pub corrupt_check: Duration,
    /// Whether the leader compares what compactions settled, and how often.
    pub compact_hash_check: bool,
    pub compact_hash_check_every: Duration,
    /// Defragment at start if that gives back so many bytes; nothing never does.
    pub defragment_above_bytes: Option<u64>,
    /// Whether the health service says NOT_SERVING during a defragmentation.
    pub stops_on_defragment: bool,

    /// `simple`, or `jwt` with options.
    pub auth_token: String,
    pub auth_token_ttl: Duration,
    /// Rounds of a password's hash, as a power of 2.
    pub bcrypt_cost: u32,

    pub client_tls: TlsFiles,
    pub peer_tls: TlsFiles,
    /// Versions and cipher suites of all listeners.
    pub tls_offer: Offer,
    /// Years that certificates made by auto-TLS are valid.
    pub self_signed_cert_validity: u32,

    /// An entry that takes longer to apply is told in the log; zero tells nothing.
    pub warning_apply: Duration,
    /// So is a unary request that takes longer.
    pub warning_unary: Duration,
    /// Where spans of requests go.
    pub tracing: Tracing,
    /// Whether calls are timed, too.
    pub metrics_extensive: bool,
    /// Features with their stage and whether they are on.
    pub features: Vec<(&'static str, &'static str, bool)>,
    pub web: Web,
    pub log: LogConfig,
    pub lab: Option<LabConfig>,
}

/// The certificate files of one side. Empty paths mean "not given".
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsFiles {
    pub cert_file: PathBuf,
    pub key_file: PathBuf,
    pub trusted_ca_file: PathBuf,
    /// Callers must show a certificate. A trusted authority alone has the same effect.
    pub client_cert_auth: bool,
    /// For outgoing connections; [`TlsFiles::cert_file`] if empty.
    pub client_cert_file: PathBuf,
    pub client_key_file: PathBuf,
    /// Common names that a caller's certificate may carry; empty: any.
    pub allowed_cn: Vec<String>,
    /// Host names of which a caller's certificate must carry one; empty: any.
    pub allowed_hostname: Vec<String>,
    /// Peers: do not compare the caller's address with its certificate.
    pub skip_san_verification: bool,
    /// Make a certificate if none is given.
    pub auto: bool,
    /// Certificates that are refused all the same.
    pub crl_file: PathBuf,
}

/// Where and how to log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogConfig {
    /// debug, info, warn, error, panic or fatal.
    pub level: String,
    pub outputs: Vec<String>,
    /// For people instead of programs.
    pub console: bool,
    pub logger: String,
    /// The file begins anew when it is full: `--log-rotation-config-json`.
    pub rotation: Option<Rotation>,
}

/// The lab's own door.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LabConfig {
    /// `unix:PATH` or `127.0.0.1:PORT`.
    pub listen: String,
    pub token_file: PathBuf,
}

impl TlsFiles {
    fn from_settings(settings: &Settings, is_peer: bool) -> TlsFiles {
        let prefix = if is_peer { "peer-" } else { "" };
        let path = |name: &str| PathBuf::from(settings.text(&format!("{prefix}{name}")));
        TlsFiles {
            cert_file: path("cert-file"),
            key_file: path("key-file"),
            trusted_ca_file: path("trusted-ca-file"),
            client_cert_auth: settings.is(&format!("{prefix}client-cert-auth")),
            client_cert_file: if is_peer { path("client-cert-file") } else { PathBuf::new() },
            client_key_file: if is_peer { path("client-key-file") } else { PathBuf::new() },
            allowed_cn: if is_peer { settings.list("peer-cert-allowed-cn") } else { Vec::new() },
            allowed_hostname: settings.list(if is_peer {
                "peer-cert-allowed-hostname"
            } else {
                "client-cert-allowed-hostname"
            }),
            skip_san_verification: settings.is("peer-skip-client-san-verification"),
            auto: settings.is(&format!("{prefix}auto-tls")),
            crl_file: path(if is_peer { "crl-file" } else { "client-crl-file" }),
        }
    }

    /// Whether a certificate was given.
    #[must_use]
    pub fn is_given(&self) -> bool {
        !is_empty(&self.cert_file) && !is_empty(&self.key_file)
    }

    /// Whether there is, or will be, a certificate to show.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.is_given() || self.auto
    }

    /// Whether callers must show a certificate.
    #[must_use]
    pub fn needs_client_cert(&self) -> bool {
        self.client_cert_auth || !is_empty(&self.trusted_ca_file)
    }

    pub(super) fn problems(&self, prefix: &str) -> Vec<String> {
        let mut found = Vec::new();
        if is_empty(&self.cert_file) != is_empty(&self.key_file) {
            let (key, cert) = (self.key_file.display(), self.cert_file.display());
            found.push(format!("KeyFile and CertFile must both be present[key: {key}, cert: {cert}]"));
        }
        if is_empty(&self.client_cert_file) != is_empty(&self.client_key_file) {
            let (key, cert) = (self.client_key_file.display(), self.client_cert_file.display());
            found.push(format!(
                "ClientKeyFile and ClientCertFile must both be present or both absent: key: {key}, cert: {cert}]"
            ));
        }
        if self.client_cert_auth && is_empty(&self.trusted_ca_file) {
            found.push(format!(
                "--{prefix}client-cert-auth needs --{prefix}trusted-ca-file: the authority that signs the clients' certificates"
            ));
        }
        if !is_empty(&self.crl_file) && is_empty(&self.trusted_ca_file) {
            let flag = if prefix.is_empty() { "client-crl-file" } else { "peer-crl-file" };
            found.push(format!(
                "--{flag} needs --{prefix}trusted-ca-file: without it nobody is asked for a certificate"
            ));
        }
        for file in
            [&self.cert_file, &self.key_file, &self.trusted_ca_file, &self.client_cert_file, &self.client_key_file]
        {
            if !is_empty(file)
                && let Err(e) = std::fs::File::open(file)
            {
                found.push(format!("open {}: {}", file.display(), os_text(&e)));
            }
        }
        found
    }
}

/// Settings that exclude each other; etcd's words.
fn refuse_contradictions(settings: &Settings, notices: &mut Vec<Notice>) -> Result<(), String> {
    if let Some(problem) = gates::problem(settings, notices) {
        return Err(problem);
    }
    let ways = ["initial-cluster", "discovery-srv", "discovery-endpoints"];
    let is_given =
        |name: &&str| if *name == "initial-cluster" { settings.was_set(name) } else { settings.given(name).is_some() };
    if ways.iter().filter(|name| is_given(name)).count() > 1 {
        return Err(
            "multiple discovery or bootstrap flags are set. Choose one of \"initial-cluster\", \"discovery\", \
                    \"discovery-endpoints\" or \"discovery-srv\""
                .into(),
        );
    }
    Ok(())
}

fn cluster_of(settings: &Settings) -> Result<BTreeMap<String, Vec<Url>>, Vec<String>> {
    let parsed = urls::parse_cluster(settings.text("initial-cluster"));
    parsed.map_err(|e| vec![format!("error setting up initial cluster: {e}")])
}

fn offer_of(settings: &Settings, notices: &mut Vec<Notice>) -> Result<Offer, Vec<String>> {
    let (min, max) = (settings.text("tls-min-version"), settings.text("tls-max-version"));
    let offer = Offer::parse(min, max, &settings.list("cipher-suites")).map_err(|e| vec![e])?;
    if !offer.left_out().is_empty() {
        let notice = Notice::warn(
            "some of --cipher-suites are too weak and are not offered: without forward secrecy, or with CBC",
        );
        notices.push(notice.with("cipher-suites", offer.left_out().join(",")));
    }
    Ok(offer)
}

/// Zero megabytes are none.
fn bytes_of(megabytes: u64) -> Option<u64> {
    (megabytes > 0).then(|| megabytes.saturating_mul(1 << 20))
}

/// Zero seconds are the default, as in etcd.
fn token_ttl(seconds: u64) -> Duration {
    Duration::from_secs(if seconds == 0 { 300 } else { seconds })
}

/// Zero is no limit, as in Go's gRPC.
fn streams(given: u64) -> u32 {
    u32::try_from(given).ok().filter(|given| *given > 0).unwrap_or(u32::MAX)
}

/// Zero entries are the default, as in etcd.
fn snapshot_count(given: u64, notices: &mut Vec<Notice>) -> u64 {
    if given > 0 {
        return given;
    }
    let notice = Notice::info("updating snapshot-count to default").with("given-snapshot-count", "0");
    notices.push(notice.with("updated-snapshot-count", SNAPSHOT_COUNT.to_string()));
    SNAPSHOT_COUNT
}

/// A cost that bcrypt does not know is replaced by the default, as in etcd.
fn bcrypt_cost(cost: u64, notices: &mut Vec<Notice>) -> u32 {
    match u32::try_from(cost).ok().filter(|_| password::COSTS.contains(&cost)) {
        Some(cost) => cost,
        None => {
            let notice = Notice::warn("use default bcrypt cost instead of the invalid given cost");
            notices.push(notice.with("given-cost", cost.to_string()));
            password::DEFAULT_COST
        }
    }
}

fn is_empty(path: &Path) -> bool {
    path.as_os_str().is_empty()
}

/// The system's text without Rust's `(os error 2)`, in lower case as Go prints it.
fn os_text(e: &std::io::Error) -> String {
    let text = e.to_string();
    text.split(" (os error").next().unwrap_or_default().to_lowercase()
}

impl Config {
    /// Makes a configuration from what was set; the error is all that cannot be understood.
    pub(super) fn from_settings(settings: &Settings, notices: &mut Vec<Notice>) -> Result<Config, Vec<String>> {
        refuse_contradictions(settings, notices).map_err(|e| vec![e])?;
        let name = settings.text("name").to_owned();
        let mut config = Config {
            data_dir: settings.given("data-dir").unwrap_or_else(|| format!("{name}.etcd")).into(),
            wal_dir: settings.given("wal-dir").map(PathBuf::from),
            wal_segment_bytes: settings.uint("experimental-lab-wal-segment-bytes"),
            range_bytes_max: settings.uint("experimental-lab-max-range-bytes"),
            cache_bytes: settings.uint("experimental-lab-cache-bytes"),
            snapshot_count: snapshot_count(settings.uint("snapshot-count"), notices),
            snapshot_catchup_entries: settings.uint("snapshot-catchup-entries"),
            quota_backend_bytes: settings.int("quota-backend-bytes"),
            listen_peer_urls: settings.urls("listen-peer-urls"),
            listen_client_urls: settings.urls("listen-client-urls"),
            listen_client_http_urls: settings.urls("listen-client-http-urls"),
            listen_metrics_urls: settings.urls("listen-metrics-urls"),
            advertise_peer_urls: settings.urls("initial-advertise-peer-urls"),
            advertise_client_urls: settings.urls("advertise-client-urls"),
            initial_cluster: cluster_of(settings)?,
            discovery: Discovery::from_settings(settings),
            initial_cluster_token: settings.text("initial-cluster-token").into(),
            join_existing: settings.text("initial-cluster-state") == "existing",
            force_new_cluster: settings.is("force-new-cluster"),
            strict_reconfig_check: settings.is("strict-reconfig-check"),
            max_learners: settings.int("max-learners"),
            heartbeat_ms: settings.uint("heartbeat-interval"),
            election_ms: settings.uint("election-timeout"),
            initial_election_tick_advance: settings.is("initial-election-tick-advance"),
            pre_vote: settings.is("pre-vote"),
            max_txn_ops: settings.uint("max-txn-ops"),
            max_request_bytes: settings.uint("max-request-bytes"),
            max_concurrent_streams: streams(settings.uint("max-concurrent-streams")),
            max_connections: settings.uint("experimental-lab-max-connections"),
            keepalive_interval: settings.duration("grpc-keepalive-interval"),
            keepalive_timeout: settings.duration("grpc-keepalive-timeout"),
            watch_progress_interval: settings.duration("watch-progress-notify-interval"),
            lease_checkpoint: gates::is_open(settings, "LeaseCheckpoint"),
            auto_compaction_mode: settings.text("auto-compaction-mode").into(),
            auto_compaction_retention: settings.text("auto-compaction-retention").into(),
            compaction_batch: compaction_batch(settings.int("compaction-batch-limit")),
            compaction_pause: compaction_pause(settings.duration("compaction-sleep-interval")),
            downgrade_check: settings.duration("downgrade-check-time"),
            initial_corrupt_check: gates::is_open(settings, "InitialCorruptCheck"),
            corrupt_check: settings.duration("corrupt-check-time"),
            compact_hash_check: gates::is_open(settings, "CompactHashCheck"),
            compact_hash_check_every: settings.duration("compact-hash-check-time"),
            defragment_above_bytes: bytes_of(settings.uint("bootstrap-defrag-threshold-megabytes")),
            stops_on_defragment: gates::is_open(settings, "StopGRPCServiceOnDefrag"),
            auth_token: settings.text("auth-token").into(),
            auth_token_ttl: token_ttl(settings.uint("auth-token-ttl")),
            bcrypt_cost: bcrypt_cost(settings.uint("bcrypt-cost"), notices),
            client_tls: TlsFiles::from_settings(settings, false),
            peer_tls: TlsFiles::from_settings(settings, true),
            tls_offer: offer_of(settings, notices)?,
            self_signed_cert_validity: u32::try_from(settings.uint("self-signed-cert-validity")).unwrap_or(u32::MAX),
            warning_apply: settings.duration("warning-apply-duration"),
            warning_unary: settings.duration("warning-unary-request-duration"),
            tracing: Tracing::from_settings(settings),
            reuse_port: settings.is("socket-reuse-port"),
            memory_lock: settings.is("memory-mlock"),
            metrics_extensive: settings.text("metrics") == "extensive",
            features: gates::states(settings),
            web: Web::from_settings(settings),
            log: LogConfig::from_settings(settings).map_err(|e| vec![e])?,
            lab: LabConfig::from_settings(settings),
            name,
        };
        config.derive_defaults(settings, notices);
        Ok(config)
    }

    /// Fills what etcd fills from other settings (contract 11.3).
    fn derive_defaults(&mut self, settings: &Settings, notices: &mut Vec<Notice>) {
        let is_asked_for = settings.was_set("listen-client-urls") && !settings.was_set("advertise-client-urls");
        if is_asked_for && !settings.is_of_a_file() {
            self.advertise_client_urls.clear();
        }
        let wildcard = |listen: &[Url]| listen.first().filter(|url| url.host() == "0.0.0.0").cloned();
        let is_default = |urls: &[Url], default: &str| urls.len() == 1 && urls[0].as_str() == default;
        let peer_port =
            wildcard(&self.listen_peer_urls).filter(|_| is_default(&self.advertise_peer_urls, DEFAULT_PEER_URL));
        let client_port =
            wildcard(&self.listen_client_urls).filter(|_| is_default(&self.advertise_client_urls, DEFAULT_CLIENT_URL));
        if (peer_port.is_some() || client_port.is_some())
            && let Some(host) = default_host()
        {
            if let Some(listen) = peer_port {
                notices.push(Notice::info("detected default host for advertise").with("host", &host));
                self.advertise_peer_urls = vec![self.advertise_peer_urls[0].with_address(&host, listen.port())];
            }
            if let Some(listen) = client_port {
                self.advertise_client_urls = vec![self.advertise_client_urls[0].with_address(&host, listen.port())];
            }
        }
        let default_cluster = settings.text("initial-cluster") == format!("{DEFAULT_NAME}={DEFAULT_PEER_URL}");
        if self.name != DEFAULT_NAME && default_cluster {
            self.initial_cluster = BTreeMap::from([(self.name.clone(), self.advertise_peer_urls.clone())]);
        }
        notices.extend(advice::of(self, settings));
    }

    /// The largest gRPC message that is received.
    #[must_use]
    pub fn message_bytes_max(&self) -> usize {
        usize::try_from(self.max_request_bytes.saturating_add(MESSAGE_OVERHEAD_BYTES)).unwrap_or(usize::MAX)
    }

    /// The most bytes that the store may have; nothing is no limit. Source: etcd `DefaultQuotaBytes`.
    #[must_use]
    pub fn quota(&self) -> Option<u64> {
        match self.quota_backend_bytes {
            0 => Some(2 << 30),
            bytes => u64::try_from(bytes).ok(),
        }
    }

    /// When members compare their data.
    #[must_use]
    pub fn checks(&self) -> Checks {
        Checks {
            at_start: self.initial_corrupt_check,
            every: Some(self.corrupt_check).filter(|every| !every.is_zero()),
            compactions_every: self.compact_hash_check.then_some(self.compact_hash_check_every),
        }
    }

    /// How much history to keep; nothing keeps all. Source: etcd `embed.parseCompactionRetention`.
    #[must_use]
    pub fn auto_compaction(&self) -> Option<AutoCompaction> {
        let text = self.auto_compaction_retention.as_str();
        let number = golang::parse_number(text).ok().and_then(|n| u64::try_from(n).ok());
        match (self.auto_compaction_mode.as_str(), number) {
            (_, Some(0)) => None,
            ("revision", Some(keep)) => Some(AutoCompaction::Revisions(keep)),
            (_, Some(hours)) => Some(AutoCompaction::Periodic(Duration::from_secs(hours.saturating_mul(3600)))),
            (mode, None) => {
                let nanos = golang::parse_nanos(text).ok().and_then(|n| u64::try_from(n).ok()).filter(|n| *n > 0)?;
                Some(match mode {
                    // A time as a number of revisions is its nanoseconds, as in etcd.
                    "revision" => AutoCompaction::Revisions(nanos),
                    _ => AutoCompaction::Periodic(Duration::from_nanos(nanos)),
                })
            }
        }
    }

    /// How many ticks make an election time-out.
    #[must_use]
    pub fn election_ticks(&self) -> u64 {
        self.election_ms / self.heartbeat_ms.max(1)
    }

    /// Everything wrong with this configuration, each in a sentence for the user.
    #[must_use]
    pub fn problems(&self) -> Vec<String> {
        let mut found = Vec::new();
        found.extend(self.log.problems());
        let clients = [&self.listen_client_urls, &self.listen_client_http_urls, &self.listen_metrics_urls];
        for listen in [&self.listen_peer_urls].into_iter().chain(clients) {
            found.extend(urls::check_bindable(listen).err());
        }
        for url in self.listen_client_urls.iter().filter(|url| self.listen_client_http_urls.contains(url)) {
            found.push(format!(
                "cannot bind both --listen-client-urls and --listen-client-http-urls on the same url {url}"
            ));
        }
        found.extend(urls::check_has_host("initial-advertise-peer-urls", &self.advertise_peer_urls).err());
        found.extend(urls::check_has_host("advertise-client-urls", &self.advertise_client_urls).err());
        found.extend(self.timing_problems());
        if !self.listen_client_urls.is_empty() && self.advertise_client_urls.is_empty() {
            found.push("--advertise-client-urls is required when --listen-client-urls is set explicitly".into());
        }
        if self.listen_client_urls.is_empty() {
            found.push("--listen-client-urls is empty: without it no client could ever reach this member".into());
        }
        if self.listen_peer_urls.is_empty() {
            found.push("--listen-peer-urls is empty: without it no other member could ever reach this one".into());
        }
        found.extend(self.compaction_problems());
        found.extend(self.size_problems());
        found.extend(self.tls_problems());
        found.extend(TokenKind::load(&self.auth_token).err());
        found.extend(self.lab.iter().flat_map(LabConfig::problems));
        found.extend(self.discovery.problems());
        found.extend(self.tracing.problems());
        found
    }

    fn timing_problems(&self) -> Vec<String> {
        let (tick, election) = (self.heartbeat_ms, self.election_ms);
        let mut found = Vec::new();
        if tick == 0 {
            found.push("--heartbeat-interval must be >0 (set to 0ms)".into());
        }
        if election == 0 {
            found.push("--election-timeout must be >0 (set to 0ms)".into());
        }
        if self.compact_hash_check_every.is_zero() {
            found.push("--compact-hash-check-time must be >0 (set to 0s)".into());
        }
        if tick.saturating_mul(5) > election {
            found.push(format!(
                "--election-timeout[{election}ms] should be at least as 5 times as --heartbeat-interval[{tick}ms]"
            ));
        }
        if election > ELECTION_MAX_MS {
            found.push(format!(
                "--election-timeout[{election}ms] is too long, and should be set less than {ELECTION_MAX_MS}ms"
            ));
        }
        found
    }

    fn compaction_problems(&self) -> Vec<String> {
        let (mode, retention) = (self.auto_compaction_mode.as_str(), self.auto_compaction_retention.as_str());
        match mode {
            "" => vec!["undefined auto-compaction-mode".into()],
            "periodic" | "revision" => {
                let is_number = golang::parse_number(retention).is_ok_and(|n| n >= 0);
                let is_duration = golang::parse_nanos(retention).is_ok_and(|n| n >= 0);
                if retention.is_empty() || is_number || is_duration {
                    return Vec::new();
                }
                vec![format!(
                    "error parsing CompactionRetention: {} is no time and no number",
                    golang::quote(retention.as_bytes())
                )]
            }
            other => vec![format!("unknown auto-compaction-mode {}", golang::quote(other.as_bytes()))],
        }
    }

    fn size_problems(&self) -> Vec<String> {
        let mut found = Vec::new();
        if self.max_request_bytes > REQUEST_BYTES_MAX {
            found.push(format!(
                "--max-request-bytes {} is too large: members can pass at most {REQUEST_BYTES_MAX} to each other",
                self.max_request_bytes
            ));
        }
        if self.wal_segment_bytes < 1 << 20 || self.wal_segment_bytes > 1 << 32 {
            found.push("--experimental-lab-wal-segment-bytes must be between 1048576 and 4294967296".into());
        }
        if self.range_bytes_max < 1 << 20 {
            found.push("--experimental-lab-max-range-bytes must be at least 1048576".into());
        }
        if self.cache_bytes < 1 << 20 || self.cache_bytes > 1 << 40 {
            found.push("--experimental-lab-cache-bytes must be between 1048576 and 1099511627776".into());
        }
        if self.max_connections == 0 {
            found.push("--experimental-lab-max-connections must be >0".into());
        }
        found
    }

    /// Whether any URL for clients has TLS; where none has, nobody reads the files that are for it.
    pub(super) fn has_secure_client_urls(&self) -> bool {
        let all = [&self.listen_client_urls, &self.listen_client_http_urls, &self.listen_metrics_urls];
        all.into_iter().flatten().any(Url::is_secure)
    }

    fn tls_problems(&self) -> Vec<String> {
        // Peers are dialled with these files as well, whatever is listened on; etcd is as strict there.
        let mut found = if self.has_secure_client_urls() { self.client_tls.problems("") } else { Vec::new() };
        found.extend(self.peer_tls.problems("peer-"));
        for (listen, tls, side, prefix) in [
            (&self.listen_client_urls, &self.client_tls, "client", ""),
            (&self.listen_client_http_urls, &self.client_tls, "client", ""),
            (&self.listen_peer_urls, &self.peer_tls, "peer", "peer-"),
        ] {
            for url in listen {
                if url.is_secure() && !tls.is_on() {
                    found.push(format!(
                        "TLS key/cert (--{prefix}cert-file, --{prefix}key-file) must be provided for {side} url {url} with HTTPS scheme"
                    ));
                }
            }
        }
        if self.listen_metrics_urls.iter().any(Url::is_secure) && !self.client_tls.is_on() {
            found.push("client TLS key/cert (--cert-file, --key-file) must be provided for metrics secure url".into());
        }
        if !(1..=100).contains(&self.self_signed_cert_validity) {
            found.push("--self-signed-cert-validity must be between 1 and 100 years".into());
        }
        found
    }
}

/// etcd's values where the flag says 0, and nothing is slower than a key at a time.
fn compaction_batch(flag: i64) -> usize {
    if flag == 0 { COMPACTION_BATCH } else { usize::try_from(flag).unwrap_or(1) }
}

fn compaction_pause(flag: Duration) -> Duration {
    if flag.is_zero() { COMPACTION_PAUSE } else { flag }
}

/// zap's levels without those that nothing here is logged at. Source: zap `zapcore/level.go`.
fn level_of(text: &str) -> String {
    match text.to_lowercase().as_str() {
        "" => "info".to_owned(),
        "dpanic" => "panic".to_owned(),
        level => level.to_owned(),
    }
}

/// An output without a name stays one, and cannot be opened; a file's empty list is the default. Source: etcd `embed/config_logging.go`.
fn outputs_of(settings: &Settings) -> Vec<String> {
    let mut outputs: Vec<String> = Vec::new();
    for output in settings.text("log-outputs").split(',').map(str::to_owned) {
        if !outputs.contains(&output) {
            outputs.push(output);
        }
    }
    if settings.is_of_a_file() && outputs == [""] { vec!["default".to_owned()] } else { outputs }
}

impl LogConfig {
    fn from_settings(settings: &Settings) -> Result<LogConfig, String> {
        let rotation = settings.is("enable-log-rotation").then(|| settings.text("log-rotation-config-json"));
        Ok(LogConfig {
            level: level_of(settings.text("log-level")),
            outputs: outputs_of(settings),
            console: settings.text("log-format") == "console",
            logger: settings.text("logger").into(),
            rotation: rotation.map(Rotation::parse).transpose()?,
        })
    }

    fn problems(&self) -> Vec<String> {
        let mut found = Vec::new();
        match self.logger.as_str() {
            "zap" => {}
            "capnslog" => found.push("--logger=capnslog is removed in v3.5".into()),
            other => found.push(format!("unknown logger option {}", golang::quote(other.as_bytes()))),
        }
        if self.outputs.len() > 1 && self.outputs.iter().any(|output| output == "default") {
            found.push("multi logoutput for \"default\" is not supported yet".into());
        }
        let is_file = |output: &String| !matches!(output.as_str(), "default" | "stderr" | "stdout" | "systemd/journal");
        if self.rotation.is_some() && !(self.outputs.len() == 1 && self.outputs.iter().all(is_file)) {
            let text = "--log-outputs requires a single file path when --log-rotate-config-json is defined";
            found.push(text.into());
        }
        if self.outputs.len() > 1 && self.outputs.iter().any(|output| output == "systemd/journal") {
            let mut quoted: Vec<String> = self.outputs.iter().map(|output| golang::quote(output.as_bytes())).collect();
            quoted.sort_unstable();
            found.push(format!(
                "running with systemd/journal but other '--log-outputs' values ([{}]) are configured with 'default'; override 'default' value \
                 with something else",
                quoted.join(" ")
            ));
        }
        found
    }
}

impl LabConfig {
    fn from_settings(settings: &Settings) -> Option<LabConfig> {
        let listen = settings.given("experimental-lab-listen")?;
        Some(LabConfig { listen, token_file: settings.text("experimental-lab-token").into() })
    }

    fn problems(&self) -> Vec<String> {
        let mut found = Vec::new();
        let is_loopback = || {
            self.listen.rsplit_once(':').is_some_and(|(host, port)| {
                host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
                    && port.parse::<u16>().is_ok()
            })
        };
        if self.listen.strip_prefix("unix:").is_none_or(str::is_empty) && !is_loopback() {
            found.push(format!(
                "--experimental-lab-listen {} must be unix:PATH or 127.0.0.1:PORT: the lab's door does not open to the network",
                golang::quote(self.listen.as_bytes())
            ));
        }
        if is_empty(&self.token_file) {
            found
                .push("--experimental-lab-listen needs --experimental-lab-token: the file with the lab's token".into());
        }
        found
    }
}

/// This machine's address on the way out, if it has one. Connecting a UDP socket picks a route and sends nothing.
fn default_host() -> Option<String> {
    let socket = std::net::UdpSocket::bind(("0.0.0.0", 0)).ok()?;
    socket.connect(("192.0.2.1", 9)).ok()?;
    let ip = socket.local_addr().ok()?.ip();
    (!ip.is_unspecified() && !ip.is_loopback()).then(|| ip.to_string())
}

#[cfg(test)]
#[path = "config_tests.rs"]
mod tests;
