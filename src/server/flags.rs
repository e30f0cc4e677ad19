//! Every flag that etcd 3.3 to 3.6 knows, in one table: name, default, kind, group, what it does here.
//!
//! The parser, the environment, `--help` and the tests read this table and nothing else knows a flag's name twice. A flag
//! that we do not act on says so: where ignoring it is harmless it is accepted with a warning; where ignoring it would weaken security,
//! lose data or bootstrap the wrong cluster it is refused. Source of names and defaults: etcd `server/embed/config.go`.

use super::gates;
use super::urls::Url;
use super::urls::check_origins;
use crate::golang;

/// A heading of `--help`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Group {
    Member,
    Clustering,
    Security,
    Auth,
    Monitoring,
    Logging,
    Tracing,
    Features,
    Unsafe,
    Experimental,
    Lab,
    Old,
}

impl Group {
    /// The headings in the order of `--help`.
    pub(super) const ALL: [(Group, &str); 12] = [
        (Group::Member, "Member"),
        (Group::Clustering, "Clustering"),
        (Group::Security, "Security"),
        (Group::Auth, "Auth"),
        (Group::Monitoring, "Profiling and Monitoring"),
        (Group::Logging, "Logging"),
        (Group::Tracing, "Distributed tracing"),
        (Group::Features, "Features"),
        (Group::Unsafe, "Unsafe feature"),
        (Group::Experimental, "Experimental feature"),
        (Group::Lab, "Lab (not part of etcd)"),
        (Group::Old, "Known from earlier releases"),
    ];
}

/// What a value must look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Text,
    Bool,
    Uint,
    Uint32,
    Int,
    Duration,
    Urls,
    Origins,
    Gates,
    Level,
    OneOf(&'static [&'static str]),
}

/// Levels of the log as zap names them, in any case; nothing is `info`. Source: zap `zapcore/level.go`.
const LEVELS: [&str; 8] = ["debug", "info", "warn", "error", "dpanic", "panic", "fatal", ""];

impl Kind {
    /// Checks a value; the error is the end of Go's sentence `invalid value "x" for flag -y: …`.
    pub(super) fn check(self, value: &str) -> Result<(), String> {
        let number = |min: i128, max: i128| match golang::parse_number(value) {
            Err(why) if !why.ends_with("value out of range") => Err("parse error".to_owned()),
            Ok(n) if (min..=max).contains(&n) => Ok(()),
            _ => Err("value out of range".to_owned()),
        };
        match self {
            Kind::Text => Ok(()),
            Kind::Bool => golang::parse_bool(value).map(drop).map_err(|_| "parse error".into()),
            // One bit less than etcd's, so that nothing further in can overflow.
            Kind::Uint => number(0, i64::MAX.into()),
            Kind::Uint32 => number(0, u32::MAX.into()),
            Kind::Int => number(i64::MIN.into(), i64::MAX.into()),
            Kind::Duration => golang::parse_nanos(value).map(drop).map_err(|_| "parse error".into()),
            Kind::Urls => Url::parse_list(value).map(drop),
            Kind::Origins => check_origins(value),
            Kind::Gates => gates::parse(value).map(drop),
            Kind::Level if LEVELS.contains(&value.to_lowercase().as_str()) => Ok(()),
            Kind::OneOf(allowed) if allowed.contains(&value) => Ok(()),
            Kind::OneOf(_) | Kind::Level => Err("invalid value".into()),
        }
    }
}

/// What this server does with a flag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// Has its effect.
    Works,
    /// Has its effect, under a name that etcd 3.6 calls by the one given.
    Renamed(&'static str),
    /// Is accepted; a value other than the default is warned about with this reason.
    NoEffect(&'static str),
    /// Any value but the default is an error that says what to do instead.
    Refused(&'static str),
    /// Accepted and ignored by every etcd release.
    Ignored,
}

/// One row.
#[derive(Clone, Copy, Debug)]
pub(super) struct Flag {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    pub(super) default: &'static str,
    pub(super) group: Group,
    pub(super) standing: Standing,
    pub(super) help: &'static str,
}

impl Flag {
    /// Why a variable, or a key of a configuration file, of this name is passed over: etcd 3.6 does not know it, and unit files and samples of
    /// earlier releases still set it (`ETCD_ENABLE_V2`, `enable-v2: true`). Who types the flag is at the keyboard and is told.
    pub(super) fn is_forgotten(&self) -> Option<&'static str> {
        match self.standing {
            Standing::NoEffect(why) | Standing::Refused(why) if self.group == Group::Old => Some(why),
            _ => None,
        }
    }
}

/// The row of a name.
pub(super) fn find(name: &str) -> Option<&'static Flag> {
    FLAGS.iter().find(|flag| flag.name == name)
}

const fn flag(
    name: &'static str,
    kind: Kind,
    default: &'static str,
    group: Group,
    standing: Standing,
    help: &'static str,
) -> Flag {
    Flag { name, kind, default, group, standing, help }
}

use Group::Auth;
use Group::Clustering;
use Group::Experimental;
use Group::Features;
use Group::Lab;
use Group::Logging;
use Group::Member;
use Group::Monitoring;
use Group::Old;
use Group::Security;
use Group::Tracing;
use Group::Unsafe;
use Kind::Bool;
use Kind::Duration;
use Kind::Gates;
use Kind::Int;
use Kind::Level;
use Kind::OneOf;
use Kind::Origins;
use Kind::Text;
use Kind::Uint;
use Kind::Uint32;
use Kind::Urls;
use Standing::Ignored;
use Standing::NoEffect;
use Standing::Refused;
use Standing::Renamed;
use Standing::Works;

const FIVE_SECONDS: &str = "a connection of a peer that is silent for five seconds is broken, always";
const STORE: &str = "this server's store is not bbolt";
const DISCOVERY: &str =
    "the v2 discovery service is gone: use --discovery-token with --discovery-endpoints, or --discovery-srv";
const PROXY: &str = "the v2 proxy was removed from etcd 3.6";

/// All flags, by group; inside a group in the order of etcd's help.
#[rustfmt::skip]
pub(super) const FLAGS: &[Flag] = &[
    flag("name", Text, "default", Member, Works, "Name of this member, for people."),
    flag("data-dir", Text, "", Member, Works, "Directory for everything that must survive a restart; <name>.etcd if empty."),
    flag("wal-dir", Text, "", Member, Works, "Directory of its own for the write-ahead log."),
    flag("snapshot-count", Uint, "10000", Member, Works, "Applied entries between two snapshots."),
    flag("heartbeat-interval", Uint, "100", Member, Works, "Milliseconds between a leader's heartbeats: one raft tick."),
    flag("election-timeout", Uint, "1000", Member, Works, "Milliseconds without a leader before a member campaigns."),
    flag("initial-election-tick-advance", Bool, "true", Member, Works, "Skip most of the first election time-out at start."),
    flag("listen-peer-urls", Urls, "http://localhost:2380", Member, Works, "Where to listen for other members."),
    flag("listen-client-urls", Urls, "http://localhost:2379", Member, Works, "Where to listen for clients, gRPC and HTTP on one port."),
    flag("listen-client-http-urls", Urls, "", Member, Works, "Where to listen for HTTP clients; --listen-client-urls is for gRPC alone then."),
    flag("max-snapshots", Uint, "5", Member, NoEffect("old snapshots are removed as soon as nothing needs them"), "Snapshot files to keep."),
    flag("max-wals", Uint, "5", Member, NoEffect("log files are removed as soon as nothing needs them"), "Log files to keep."),
    flag("memory-mlock", Bool, "false", Member, Works, "Keep the server's pages in memory: none goes to swap."),
    flag("quota-backend-bytes", Int, "0", Member, Works, "Raise the NOSPACE alarm above this size; 0 is 2 GiB, negative is no limit."),
    flag("backend-bbolt-freelist-type", Text, "map", Member, NoEffect(STORE), "How bbolt keeps its free pages."),
    flag("backend-batch-interval", Duration, "0s", Member, NoEffect(STORE), "Longest time between two commits of the store."),
    flag("backend-batch-limit", Int, "0", Member, NoEffect(STORE), "Most operations in one commit of the store."),
    flag("max-txn-ops", Uint, "128", Member, Works, "Most operations in a transaction."),
    flag("max-request-bytes", Uint, "1572864", Member, Works, "Largest request in bytes."),
    flag("max-concurrent-streams", Uint32, "4294967295", Member, Works, "Most calls in flight on one client connection."),
    flag("grpc-keepalive-min-time", Duration, "5s", Member, NoEffect("clients that ping too often are not cut off"), "Shortest pause between a client's pings."),
    flag("grpc-keepalive-interval", Duration, "2h0m0s", Member, Works, "Pause between the server's pings; 0 sends none."),
    flag("grpc-keepalive-timeout", Duration, "20s", Member, Works, "How long to wait for the answer to a ping."),
    flag("socket-reuse-port", Bool, "false", Member, Works, "Let several processes listen on one port (SO_REUSEPORT)."),
    flag("socket-reuse-address", Bool, "false", Member, NoEffect("addresses are always reused"), "Listen on an address that has just been given up."),
    flag("enable-grpc-gateway", Bool, "true", Member, Works, "Serve JSON under /v3/."),
    flag("raft-read-timeout", Duration, "5s", Member, NoEffect(FIVE_SECONDS), "Read time-out of a peer connection."),
    flag("raft-write-timeout", Duration, "5s", Member, NoEffect(FIVE_SECONDS), "Write time-out of a peer connection."),
    flag("feature-gates", Gates, "", Member, Works, "Switches of experimental features, A=true,B=false."),
    flag("config-file", Text, "", Member, Works, "YAML file with the configuration. All flags and variables beside it are ignored."),
    flag("version", Bool, "false", Member, Works, "Print the version and exit."),

    flag("initial-advertise-peer-urls", Urls, "http://localhost:2380", Clustering, Works, "Where other members reach this one."),
    flag("initial-cluster", Text, "default=http://localhost:2380", Clustering, Works, "The first members, name=url,name=url."),
    flag("initial-cluster-state", OneOf(&["new", "existing"]), "new", Clustering, Works, "new for a new cluster, existing to join one."),
    flag("initial-cluster-token", Text, "etcd-cluster", Clustering, Works, "Keeps clusters with equal URLs apart."),
    flag("advertise-client-urls", Urls, "http://localhost:2379", Clustering, Works, "Where clients reach this member."),
    flag("discovery", Text, "", Clustering, Refused(DISCOVERY), "URL of a v2 discovery service."),
    flag("discovery-token", Text, "", Clustering, Works, "Token at a v3 discovery service."),
    flag("discovery-endpoints", Text, "", Clustering, Works, "Endpoints of a v3 discovery service."),
    flag("discovery-dial-timeout", Duration, "2s", Clustering, Works, "v3 discovery: dial time-out."),
    flag("discovery-request-timeout", Duration, "5s", Clustering, Works, "v3 discovery: request time-out."),
    flag("discovery-keepalive-time", Duration, "2s", Clustering, Works, "v3 discovery: pause between pings."),
    flag("discovery-keepalive-timeout", Duration, "6s", Clustering, Works, "v3 discovery: wait for a ping's answer."),
    flag("discovery-insecure-transport", Bool, "true", Clustering, Works, "v3 discovery: without TLS."),
    flag("discovery-insecure-skip-tls-verify", Bool, "false", Clustering, Works, "v3 discovery: do not verify the server."),
    flag("discovery-cert", Text, "", Clustering, Works, "v3 discovery: client certificate."),
    flag("discovery-key", Text, "", Clustering, Works, "v3 discovery: client key."),
    flag("discovery-cacert", Text, "", Clustering, Works, "v3 discovery: certificate authority."),
    flag("discovery-user", Text, "", Clustering, Works, "v3 discovery: user."),
    flag("discovery-password", Text, "", Clustering, Works, "v3 discovery: password."),
    flag("discovery-fallback", OneOf(&["exit", "proxy"]), "exit", Clustering, Refused(PROXY), "What to do when discovery fails."),
    flag("discovery-proxy", Text, "", Clustering, Refused(DISCOVERY), "HTTP proxy for v2 discovery."),
    flag("discovery-srv", Text, "", Clustering, Works, "DNS domain with the members' SRV records."),
    flag("discovery-srv-name", Text, "", Clustering, Works, "Suffix of the SRV records' service name."),
    flag("strict-reconfig-check", Bool, "true", Clustering, Works, "Refuse member changes that would lose quorum."),
    flag("pre-vote", Bool, "true", Clustering, Works, "Ask before campaigning, so that a returning member disturbs nobody."),
    flag("auto-compaction-retention", Text, "0", Clustering, Works, "How much history to keep, in hours, as a time, or in revisions; 0 keeps all."),
    flag("auto-compaction-mode", Text, "periodic", Clustering, Works, "What the retention counts: periodic or revision."),
    flag("v2-deprecation", OneOf(&["not-yet", "write-only", "write-only-drop-data", "gone"]), "write-only", Clustering, NoEffect("there is no v2 store"), "Stage of the v2 store's removal."),
    flag("next-cluster-version-compatible", Bool, "false", Clustering, NoEffect("the next version is always accepted"), "Accept data of the next minor version."),

    flag("cert-file", Text, "", Security, Works, "Certificate for client connections."),
    flag("key-file", Text, "", Security, Works, "Key of --cert-file."),
    flag("client-cert-auth", Bool, "false", Security, Works, "Clients must show a certificate."),
    flag("client-cert-file", Text, "", Security, NoEffect("the server makes no client connections to itself"), "Certificate for the server's own client connections."),
    flag("client-key-file", Text, "", Security, NoEffect("the server makes no client connections to itself"), "Key of --client-cert-file."),
    flag("client-crl-file", Text, "", Security, Works, "Revoked client certificates."),
    flag("client-cert-allowed-hostname", Text, "", Security, Works, "Host names that a client certificate may carry."),
    flag("trusted-ca-file", Text, "", Security, Works, "Authority that signs clients' certificates."),
    flag("auto-tls", Bool, "false", Security, Works, "Make a certificate for client connections."),
    flag("peer-cert-file", Text, "", Security, Works, "Certificate for peer connections."),
    flag("peer-key-file", Text, "", Security, Works, "Key of --peer-cert-file."),
    flag("peer-client-cert-auth", Bool, "false", Security, Works, "Peers must show a certificate."),
    flag("peer-client-cert-file", Text, "", Security, Works, "Certificate for outgoing peer connections, if another."),
    flag("peer-client-key-file", Text, "", Security, Works, "Key of --peer-client-cert-file."),
    flag("peer-trusted-ca-file", Text, "", Security, Works, "Authority that signs peers' certificates."),
    flag("peer-cert-allowed-cn", Text, "", Security, Works, "Common names that a peer certificate may carry."),
    flag("peer-cert-allowed-hostname", Text, "", Security, Works, "Host names that a peer certificate may carry."),
    flag("peer-auto-tls", Bool, "false", Security, Works, "Make a certificate for peer connections."),
    flag("self-signed-cert-validity", Uint, "1", Security, Works, "Years that made certificates are valid."),
    flag("peer-crl-file", Text, "", Security, Works, "Revoked peer certificates."),
    flag("cipher-suites", Text, "", Security, Works, "Cipher suites for TLS 1.2."),
    flag("cors", Origins, "*", Security, Works, "Origins that browsers' pages may come from; none unless this is given."),
    flag("host-whitelist", Text, "*", Security, Works, "Host names that HTTP requests without TLS may use."),
    flag("tls-min-version", Text, "TLS1.2", Security, Works, "Oldest TLS version: TLS1.2 or TLS1.3."),
    flag("tls-max-version", Text, "", Security, Works, "Newest TLS version: TLS1.2 or TLS1.3."),
    flag("ca-file", Text, "", Security, Refused("removed in etcd 3.4: use --trusted-ca-file and --client-cert-auth"), "Old form of --trusted-ca-file."),
    flag("peer-ca-file", Text, "", Security, Refused("removed in etcd 3.4: use --peer-trusted-ca-file and --peer-client-cert-auth"), "Old form of --peer-trusted-ca-file."),

    flag("auth-token", Text, "simple", Auth, Works, "Kind of token: simple, or jwt with options."),
    flag("bcrypt-cost", Uint, "10", Auth, Works, "Work per password hash, 4 to 31."),
    flag("auth-token-ttl", Uint, "300", Auth, Works, "Seconds that a simple token lives."),

    flag("enable-pprof", Bool, "false", Monitoring, NoEffect("there is no Go runtime to profile: use perf"), "Serve Go profiles."),
    flag("metrics", Text, "basic", Monitoring, Works, "basic, or extensive: calls are timed, too."),
    flag("listen-metrics-urls", Urls, "", Monitoring, Works, "Where to serve /metrics and /health too."),

    flag("logger", Text, "zap", Logging, Works, "Form of the log: zap."),
    flag("log-outputs", Text, "default", Logging, Works, "Where the log goes: stderr, stdout, systemd/journal or files."),
    flag("log-level", Level, "info", Logging, Works, "Least level that is logged."),
    flag("log-format", OneOf(&["json", "console"]), "json", Logging, Works, "json, or console for people."),
    flag("enable-log-rotation", Bool, "false", Logging, Works, "Begin a new log file when one is full."),
    flag("log-rotation-config-json", Text, r#"{"maxsize": 100, "maxage": 0, "maxbackups": 0, "localtime": false, "compress": false}"#, Logging, Works, "When it is full, and how many are kept."),
    flag("warning-unary-request-duration", Duration, "300ms", Logging, Works, "Tell in the log of unary requests that take longer."),

    flag("enable-distributed-tracing", Bool, "false", Tracing, Works, "Send traces to a collector."),
    flag("distributed-tracing-address", Text, "localhost:4317", Tracing, Works, "Address of the collector."),
    flag("distributed-tracing-service-name", Text, "etcd", Tracing, Works, "Name in the traces."),
    flag("distributed-tracing-instance-id", Text, "", Tracing, Works, "Id in the traces."),
    flag("distributed-tracing-sampling-rate", Int, "0", Tracing, Works, "Traces per million."),

    flag("corrupt-check-time", Duration, "0s", Features, Works, "Pause between corruption checks; 0 makes none."),
    flag("compact-hash-check-time", Duration, "1m0s", Features, Works, "Pause between comparisons of compaction hashes."),
    flag("compaction-batch-limit", Int, "1000", Features, Works, "Most revisions that one step of a compaction deletes."),
    flag("peer-skip-client-san-verification", Bool, "false", Features, Works, "Do not compare a peer's address with its certificate."),
    flag("watch-progress-notify-interval", Duration, "10m0s", Features, Works, "Pause between a watch's progress notices."),
    flag("warning-apply-duration", Duration, "100ms", Features, Works, "Warn when applying takes longer; 0 never warns."),
    flag("bootstrap-defrag-threshold-megabytes", Uint, "0", Features, Works, "Defragment at start if that frees more."),
    flag("max-learners", Int, "1", Features, Works, "Most learners in the cluster."),
    flag("compaction-sleep-interval", Duration, "10ms", Features, Works, "Pause between two steps of a compaction."),
    flag("downgrade-check-time", Duration, "5s", Features, Works, "Pause between checks of a downgrade."),
    flag("snapshot-catchup-entries", Uint, "5000", Features, Works, "Entries kept behind a snapshot for slow followers."),

    flag("force-new-cluster", Bool, "false", Unsafe, Works, "Keep the data, drop all other members."),
    flag("unsafe-no-fsync", Bool, "false", Unsafe, NoEffect("what is acknowledged is always synced"), "Do not sync the log. Loses data."),

    flag("experimental-initial-corrupt-check", Bool, "false", Experimental, Works, "Compare with peers before serving."),
    flag("experimental-corrupt-check-time", Duration, "0s", Experimental, Renamed("corrupt-check-time"), ""),
    flag("experimental-compact-hash-check-enabled", Bool, "false", Experimental, Works, "Compare compaction hashes."),
    flag("experimental-compact-hash-check-time", Duration, "1m0s", Experimental, Renamed("compact-hash-check-time"), ""),
    flag("experimental-enable-lease-checkpoint", Bool, "false", Experimental, Works, "Write down leases' remaining time, so that a new leader does not give all of it again."),
    flag("experimental-enable-lease-checkpoint-persist", Bool, "false", Experimental, Works, "Keep leases' remaining time through a restart; always so since etcd 3.6."),
    flag("experimental-compaction-batch-limit", Int, "1000", Experimental, Renamed("compaction-batch-limit"), ""),
    flag("experimental-compaction-sleep-interval", Duration, "10ms", Experimental, Renamed("compaction-sleep-interval"), ""),
    flag("experimental-peer-skip-client-san-verification", Bool, "false", Experimental, Renamed("peer-skip-client-san-verification"), ""),
    flag("experimental-watch-progress-notify-interval", Duration, "10m0s", Experimental, Renamed("watch-progress-notify-interval"), ""),
    flag("experimental-warning-apply-duration", Duration, "100ms", Experimental, Renamed("warning-apply-duration"), ""),
    flag("experimental-warning-unary-request-duration", Duration, "300ms", Experimental, Renamed("warning-unary-request-duration"), ""),
    flag("experimental-txn-mode-write-with-shared-buffer", Bool, "true", Experimental, NoEffect(STORE), "Share a buffer between transactions."),
    flag("experimental-bootstrap-defrag-threshold-megabytes", Uint, "0", Experimental, Renamed("bootstrap-defrag-threshold-megabytes"), ""),
    flag("experimental-downgrade-check-time", Duration, "5s", Experimental, Renamed("downgrade-check-time"), ""),
    flag("experimental-memory-mlock", Bool, "false", Experimental, Renamed("memory-mlock"), ""),
    flag("experimental-snapshot-catchup-entries", Uint, "5000", Experimental, Renamed("snapshot-catchup-entries"), ""),
    flag("experimental-stop-grpc-service-on-defrag", Bool, "false", Experimental, Works, "Report NOT_SERVING while defragmenting."),
    flag("experimental-enable-distributed-tracing", Bool, "false", Experimental, Renamed("enable-distributed-tracing"), ""),
    flag("experimental-distributed-tracing-address", Text, "localhost:4317", Experimental, Renamed("distributed-tracing-address"), ""),
    flag("experimental-distributed-tracing-service-name", Text, "etcd", Experimental, Renamed("distributed-tracing-service-name"), ""),
    flag("experimental-distributed-tracing-instance-id", Text, "", Experimental, Renamed("distributed-tracing-instance-id"), ""),
    flag("experimental-distributed-tracing-sampling-rate", Int, "0", Experimental, Renamed("distributed-tracing-sampling-rate"), ""),
    flag("experimental-backend-bbolt-freelist-type", Text, "map", Experimental, Renamed("backend-bbolt-freelist-type"), ""),

    flag("experimental-lab-listen", Text, "", Lab, Works, "Serve telemetry and control at unix:PATH or 127.0.0.1:PORT."),
    flag("experimental-lab-token", Text, "", Lab, Works, "File with the token that lab callers must know."),
    flag("experimental-lab-wal-segment-bytes", Uint, "64000000", Lab, Works, "Size of one file of the write-ahead log."),
    flag("experimental-lab-cache-bytes", Uint, "134217728", Lab, Works, "History held in memory beside the index of keys."),
    flag("experimental-lab-max-range-bytes", Uint, "268435456", Lab, Works, "Most memory for all answers to ranges together."),
    flag("experimental-lab-max-connections", Uint, "10000", Lab, Works, "Most client connections at a time."),

    flag("experimental-enable-v2v3", Text, "", Old, Refused("the v2 API was removed from etcd 3.6"), "Serve the v2 API from v3 data."),
    flag("enable-v2", Bool, "false", Old, Refused("the v2 API was removed from etcd 3.6"), "Serve the v2 API."),
    flag("proxy", Text, "off", Old, Refused(PROXY), "Be a v2 proxy."),
    flag("proxy-failure-wait", Uint, "5000", Old, NoEffect(PROXY), "v2 proxy: wait before retrying."),
    flag("proxy-refresh-interval", Uint, "30000", Old, NoEffect(PROXY), "v2 proxy: pause between refreshes."),
    flag("proxy-dial-timeout", Uint, "1000", Old, NoEffect(PROXY), "v2 proxy: dial time-out."),
    flag("proxy-write-timeout", Uint, "5000", Old, NoEffect(PROXY), "v2 proxy: write time-out."),
    flag("proxy-read-timeout", Uint, "0", Old, NoEffect(PROXY), "v2 proxy: read time-out."),
    flag("debug", Bool, "false", Old, NoEffect("removed in etcd 3.5: use --log-level=debug"), "Log more."),
    flag("log-output", Text, "", Old, NoEffect("removed in etcd 3.5: use --log-outputs"), "Old form of --log-outputs."),
    flag("log-package-levels", Text, "", Old, NoEffect("removed in etcd 3.5: use --log-level"), "Log levels by package."),
    flag("cluster-active-size", Text, "", Old, Ignored, ""),
    flag("cluster-remove-delay", Text, "", Old, Ignored, ""),
    flag("cluster-sync-interval", Text, "", Old, Ignored, ""),
    flag("config", Text, "", Old, Ignored, ""),
    flag("force", Text, "", Old, Ignored, ""),
    flag("max-result-buffer", Text, "", Old, Ignored, ""),
    flag("max-retry-attempts", Text, "", Old, Ignored, ""),
    flag("peer-election-timeout", Text, "", Old, Ignored, ""),
    flag("peer-heartbeat-interval", Text, "", Old, Ignored, ""),
    flag("retry-interval", Text, "", Old, Ignored, ""),
    flag("snapshot", Text, "", Old, Ignored, ""),
    flag("v", Text, "", Old, Ignored, ""),
    flag("vv", Text, "", Old, Ignored, ""),
    flag("test.coverprofile", Text, "", Old, Ignored, ""),
    flag("test.outputdir", Text, "", Old, Ignored, ""),
];

/// All flags, one a line: name, default, variable, what it does here. Tests and the book read it.
pub(super) fn table() -> String {
    let mut out = String::new();
    for flag in FLAGS {
        let (standing, why) = match flag.standing {
            Works => ("works", ""),
            Renamed(new) => ("renamed", new),
            NoEffect(why) => ("no-effect", why),
            Refused(why) => ("refused", why),
            Ignored => ("ignored", ""),
        };
        let variable = super::settings::variable(flag.name);
        out.push_str(&format!("{}\t{}\t{variable}\t{standing}\t{why}\n", flag.name, flag.default));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    /// The names of contract section 11.2, as a list of words.
    const KNOWN: &str = include_str!("flags.txt");

    #[test]
    fn every_flag_of_etcd_is_known() {
        let ours: BTreeSet<&str> = FLAGS.iter().map(|flag| flag.name).collect();
        let missing: Vec<&str> = KNOWN.split_whitespace().filter(|name| !ours.contains(name)).collect();
        assert!(missing.is_empty(), "{missing:?}");
        let not_etcds: Vec<&str> = FLAGS
            .iter()
            .filter(|flag| flag.group != Group::Lab && !KNOWN.split_whitespace().any(|n| n == flag.name))
            .map(|f| f.name)
            .collect();
        assert!(not_etcds.is_empty(), "{not_etcds:?}");
    }

    #[test]
    fn no_name_is_in_the_table_twice_and_every_default_is_valid() {
        let mut seen = BTreeSet::new();
        for flag in FLAGS {
            assert!(seen.insert(flag.name), "{} twice", flag.name);
            assert_eq!(flag.kind.check(flag.default), Ok(()), "{}", flag.name);
        }
    }

    #[test]
    fn a_renamed_flag_leads_to_one_of_the_same_kind() {
        for flag in FLAGS {
            if let Renamed(new) = flag.standing {
                let target = find(new).unwrap_or_else(|| panic!("{} leads nowhere", flag.name));
                assert_eq!((target.kind, target.default), (flag.kind, flag.default), "{}", flag.name);
            }
        }
    }

    #[test]
    fn a_level_may_be_written_in_any_case() {
        for level in ["INFO", "Warn", "debug", "dpanic", ""] {
            assert_eq!(Level.check(level), Ok(()), "{level}");
        }
        assert_eq!(Level.check("warning"), Err("invalid value".into()));
    }

    #[test]
    fn odd_numbers_are_refused_before_they_can_overflow() {
        assert_eq!(Uint.check("-1"), Err("value out of range".into()));
        assert_eq!(Uint32.check("4294967296"), Err("value out of range".into()));
        assert_eq!(Int.check("99999999999999999999"), Err("value out of range".into()));
        assert_eq!(Int.check("ten"), Err("parse error".into()));
    }
}
