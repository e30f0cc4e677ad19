//! What all services share: the member, this server's own limits, and the checks that come before any call.
//!
//! Limits that other members may have set otherwise (space, operations in a transaction, the shortest lease) are asked about here, before proposing;
//! in the log they would part the members. Source: etcd `api/v3rpc/interceptor.go`, `quota.go`; contract-server 1.2, 3.7 and 6.2.

use super::backoff::Backoff;
use super::config::Config;
use super::otel::Tracer;
use super::password::DEFAULT_COST;
use super::password::Passwords;
use super::room::Room;
use super::token::TokenKind;
use super::web::Web;
use crate::apply::Reply;
use crate::apply::check;
use crate::error::Error;
use crate::lease;
use crate::node::Node;
use crate::proto::etcdserverpb as pb;
use futures::future::BoxFuture;
use http::HeaderMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Interval;
use tokio::time::MissedTickBehavior;
use tonic::Status;

/// Election time-outs without a leader after which a stream that asked for one ends. Source: etcd `maxNoLeaderCnt`.
const LEADERLESS_TIMEOUTS: u32 = 3;

/// What all services share; cheap to clone.
#[derive(Clone)]
pub(super) struct Front {
    pub(super) node: Node,
    pub(super) limits: Arc<Limits>,
    pub(super) security: Arc<Security>,
    pub(super) room: Room,
    /// Where spans of requests go, if they go anywhere.
    pub(super) tracer: Option<Tracer>,
    /// Becomes true when the server stops: streams end then.
    stopping: watch::Receiver<bool>,
}

/// This server's own limits.
#[derive(Clone, Debug)]
pub(super) struct Limits {
    pub(super) txn_ops_max: usize,
    pub(super) message_bytes_max: usize,
    /// What all answers to ranges may take in memory together.
    pub(super) range_bytes_max: usize,
    /// Bytes; nothing is no quota.
    pub(super) quota: Option<u64>,
    /// What clients are told the quota is.
    pub(super) quota_told: i64,
    /// Seconds.
    pub(super) ttl_min: i64,
    pub(super) election: Duration,
    pub(super) watch_progress: Duration,
    /// Whether the health service says NOT_SERVING during a defragmentation.
    pub(super) stops_on_defragment: bool,
    /// A unary request that takes longer is told in the log.
    pub(super) warn_unary: Duration,
    /// So is a read that takes longer; zero: none.
    pub(super) warn_read: Duration,
    pub(super) features: Vec<(&'static str, &'static str, bool)>,
    pub(super) web: Web,
}

/// How users show who they are.
pub(super) struct Security {
    pub(super) tokens: TokenKind,
    /// Whether the common name of a client's certificate is a user.
    pub(super) common_names: bool,
    pub(super) passwords: Passwords,
    pub(super) backoff: Backoff,
}

impl Default for Security {
    fn default() -> Security {
        Security {
            tokens: TokenKind::Simple,
            common_names: false,
            passwords: Passwords::new(DEFAULT_COST),
            backoff: Backoff::new(),
        }
    }
}

impl Security {
    /// Reads the key files that `--auth-token` names; the error is etcd's text.
    pub(super) fn of(config: &Config) -> Result<Security, String> {
        Ok(Security {
            tokens: TokenKind::load(&config.auth_token)?,
            common_names: config.client_tls.client_cert_auth,
            passwords: Passwords::new(config.bcrypt_cost),
            backoff: Backoff::new(),
        })
    }
}

impl Limits {
    pub(super) fn of(config: &Config) -> Limits {
        Limits {
            txn_ops_max: usize::try_from(config.max_txn_ops).unwrap_or(usize::MAX),
            message_bytes_max: config.message_bytes_max(),
            range_bytes_max: usize::try_from(config.range_bytes_max).unwrap_or(usize::MAX),
            quota: config.quota(),
            quota_told: config
                .quota()
                .map_or(config.quota_backend_bytes, |quota| i64::try_from(quota).unwrap_or(i64::MAX)),
            ttl_min: lease::ttl_min(config.election_ticks(), config.heartbeat_ms),
            election: Duration::from_millis(config.election_ms),
            watch_progress: config.watch_progress_interval,
            stops_on_defragment: config.stops_on_defragment,
            warn_unary: config.warning_unary,
            warn_read: config.warning_apply,
            features: config.features.clone(),
            web: config.web.clone(),
        }
    }
}

impl Front {
    pub(super) fn new(node: Node, limits: Limits, stopping: watch::Receiver<bool>) -> Front {
        let room = Room::new(limits.range_bytes_max);
        Front { node, limits: Arc::new(limits), security: Arc::default(), room, tracer: None, stopping }
    }

    /// With other ways to show who one is than simple tokens.
    pub(super) fn with_security(self, security: Security) -> Front {
        Front { security: Arc::new(security), ..self }
    }

    /// With spans of requests for a collector.
    pub(super) fn with_tracer(self, tracer: Option<Tracer>) -> Front {
        Front { tracer, ..self }
    }

    /// The checks before any call, in etcd's order: learner, client version, leader. `path` is `/service/Method`.
    pub(super) fn admit(&self, path: &str, headers: &HeaderMap) -> Result<(), Error> {
        if self.node.status().is_learner && !learner_may_serve(path) {
            return Err(Error::NotSupportedForLearner);
        }
        if headers.get("client-api-version").is_some_and(|version| std::str::from_utf8(version.as_bytes()).is_err()) {
            return Err(Error::InvalidClientApiVersion);
        }
        if needs_leader(headers) && self.node.status().leader.is_none() {
            return Err(Error::NoLeader);
        }
        Ok(())
    }

    /// Completes a header that has the revision only.
    pub(super) fn stamp(&self, header: &mut Option<pb::ResponseHeader>) {
        self.node.stamp(header.get_or_insert_default());
    }

    /// A header with the current revision.
    pub(super) fn header(&self) -> Option<pb::ResponseHeader> {
        Some(self.node.header())
    }

    /// Puts a request through the log, unless the store is full: then all members know before the caller does. In nobody's name: what clients
    /// ask for goes by [`Front::propose_as`].
    pub(super) fn propose(
        &self,
        request: pb::InternalRaftRequest,
    ) -> impl Future<Output = Result<Reply, Error>> + Send + use<'_> {
        // Whoever waits does not keep the request: it takes much memory.
        let proposed = (!self.would_overflow(&request)).then(|| self.node.propose(request));
        async move {
            match proposed {
                Some(proposed) => proposed.await,
                None => Err(self.out_of_space().await),
            }
        }
    }

    /// What a request that is refused hears: etcd looks at the space that a write needs before it looks at the write.
    pub(super) fn refuse(
        &self,
        request: &pb::InternalRaftRequest,
        why: Error,
    ) -> impl Future<Output = Error> + Send + use<'_> {
        let overflows = self.would_overflow(request);
        async move { if overflows { self.out_of_space().await } else { why } }
    }

    fn out_of_space(&self) -> BoxFuture<'_, Error> {
        Box::pin(async {
            self.node.raise_no_space().await;
            Error::NoSpace
        })
    }

    fn would_overflow(&self, request: &pb::InternalRaftRequest) -> bool {
        let Some(quota) = self.limits.quota else { return false };
        let cost = check::quota_cost(request);
        cost > 0 && self.node.read(|machine| machine.store().size()).saturating_add(cost) >= quota
    }

    /// What ends a stream from outside.
    pub(super) fn stream_guard(&self, headers: &HeaderMap) -> StreamGuard {
        let looks = needs_leader(headers).then(|| {
            let mut every = tokio::time::interval(self.limits.election);
            every.set_missed_tick_behavior(MissedTickBehavior::Delay);
            every
        });
        StreamGuard { front: self.clone(), stopping: self.stopping.clone(), looks, leaderless: 0 }
    }
}

/// Calls that a learner answers: its status, and reads that say they take what this member has. The read itself is checked once it is decoded.
fn learner_may_serve(path: &str) -> bool {
    matches!(path, "/etcdserverpb.Maintenance/Status" | "/etcdserverpb.Maintenance/Snapshot" | "/etcdserverpb.KV/Range")
        || path.starts_with("/grpc.health.v1.Health/")
}

fn needs_leader(headers: &HeaderMap) -> bool {
    headers.get("hasleader").is_some_and(|value| value == "true")
}

/// Tells a long stream that it must end: the server stops, or there has been no leader for a while and the client asked for one.
pub(super) struct StreamGuard {
    front: Front,
    stopping: watch::Receiver<bool>,
    /// When to look whether there is a leader, if the client asked for one.
    looks: Option<Interval>,
    leaderless: u32,
}

impl StreamGuard {
    /// Pending until the stream must end. Safe to drop and call again.
    pub(super) async fn ended(&mut self) -> Error {
        let StreamGuard { front, stopping, looks, leaderless } = self;
        let lost = async {
            let Some(looks) = looks else { return std::future::pending().await };
            loop {
                looks.tick().await;
                *leaderless = if front.node.status().leader.is_none() { *leaderless + 1 } else { 0 };
                if *leaderless >= LEADERLESS_TIMEOUTS {
                    return Error::NoLeader;
                }
            }
        };
        tokio::select! {
            e = lost => e,
            _ = stopping.wait_for(|stopping| *stopping) => Error::Stopped,
        }
    }
}

/// A proposal was answered as another kind of request. Cannot happen; the client would not know what to do with it either.
pub(super) fn wrong_reply() -> Status {
    Status::internal("the log answered another request")
}

/// etcd's words for a message that is too large, in a stream.
pub(super) fn in_grpcs_words(status: Status) -> Status {
    match too_large(status.code(), status.message()) {
        Some(text) => Status::resource_exhausted(text),
        None => status,
    }
}

/// `grpc: received message larger than max (3000000 vs. 2097152)`, if this is what tonic says then.
pub(super) fn too_large(code: tonic::Code, message: &str) -> Option<String> {
    let unpacked = "Error decompressing: size limit, of ";
    if let (tonic::Code::ResourceExhausted, Some(rest)) = (code, message.strip_prefix(unpacked)) {
        let limit = rest.split(' ').next()?;
        return Some(format!("grpc: received message after decompression larger than max {limit}"));
    }
    if code != tonic::Code::OutOfRange {
        return None;
    }
    let rest = message.strip_prefix("Error, decoded message length too large: found ")?;
    let (found, limit) = rest.strip_suffix(" bytes")?.split_once(" bytes, the limit is: ")?;
    Some(format!("grpc: received message larger than max ({found} vs. {limit})"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_learner_serves_little() {
        assert!(learner_may_serve("/etcdserverpb.Maintenance/Status"));
        assert!(learner_may_serve("/etcdserverpb.KV/Range"));
        for path in ["/etcdserverpb.KV/Put", "/etcdserverpb.Watch/Watch", "/etcdserverpb.Cluster/MemberList"] {
            assert!(!learner_may_serve(path), "{path}");
        }
    }

    #[test]
    fn only_the_word_true_asks_for_a_leader() {
        let with = |value: &'static str| {
            HeaderMap::from_iter([(http::HeaderName::from_static("hasleader"), http::HeaderValue::from_static(value))])
        };
        assert!(needs_leader(&with("true")));
        assert!(!needs_leader(&with("1")));
        assert!(!needs_leader(&HeaderMap::new()));
    }

    #[test]
    fn a_message_that_is_too_large_is_refused_in_grpcs_words() {
        let tonics = "Error, decoded message length too large: found 3000000 bytes, the limit is: 2097152 bytes";
        assert_eq!(
            too_large(tonic::Code::OutOfRange, tonics).as_deref(),
            Some("grpc: received message larger than max (3000000 vs. 2097152)")
        );
        let unpacked = "Error decompressing: size limit, of 2097152 bytes, exceeded while decompressing message";
        assert_eq!(
            too_large(tonic::Code::ResourceExhausted, unpacked).as_deref(),
            Some("grpc: received message after decompression larger than max 2097152")
        );
        assert_eq!(too_large(tonic::Code::OutOfRange, "etcdserver: mvcc: required revision has been compacted"), None);
    }
}
