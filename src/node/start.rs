//! Brings a member to life: boots its replica, connects it to its peers, starts its threads.

#![expect(clippy::disallowed_methods, reason = "the driver owns clock and chance")]

use super::Config;
use super::Inner;
use super::Node;
use super::adopt;
use super::apply_thread::ApplyThread;
use super::apply_thread::Sweep;
use super::boot::Booted;
use super::handler::Ears;
use super::install::Snapshots;
use super::join;
use super::lost;
use super::mailbox::Mailbox;
use super::raft_thread::RaftThread;
use super::store_thread::StoreThread;
use super::telemetry::Tap;
use super::times::Times;
use crate::consensus;
use crate::consensus::Consensus;
use crate::error::Error;
use crate::lease;
use crate::membership::Members;
use crate::peer;
use crate::peer::Listener;
use crate::peer::Peers;
use crate::peer::Slot;
use crate::replica::Replica;
use crate::replica::behind::Marks;
use crate::tls::Acceptor;
use crate::types::Index;
use crate::types::MemberId;
use crate::types::Millis;
use crate::wall;
use crate::watch;
use parking_lot::Mutex;
use parking_lot::RwLock;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::thread;
use std::time::Duration;
use std::time::Instant;
use std::time::SystemTime;
use std::time::UNIX_EPOCH;
use tokio::sync::Notify;
use tokio::sync::watch as signal;
use tokio_rustls::rustls::ClientConfig;

/// What a message may take beside its request; etcd's `grpcOverheadBytes`.
const ENVELOPE_BYTES: usize = 512 * 1024;

/// How this member reaches the others and is reached.
pub struct Network {
    /// Bound to the peer URLs, each with what makes connections of it: plain and secure URLs may stand side by side.
    pub listeners: Vec<(Listener, Acceptor)>,
    /// How to dial `https` peers.
    pub dial: Option<Arc<ClientConfig>>,
}

/// The names of the threads that a member cannot be without.
pub const THREADS: [&str; 3] = ["raft", "apply", "store"];

/// From whatever is in the data directory to a replica that can run.
async fn booted(config: Config, dial: Option<Arc<ClientConfig>>) -> Result<(Config, Booted), Error> {
    let config = adopt::adopted(config).await?;
    let plan = join::plan(&config, &dial).await?;
    lost::boot(config, plan, dial).await
}

impl Node {
    /// Starts a member. It is not ready for clients yet: see [`Node::ready`].
    ///
    /// # Errors
    /// [`Error::Storage`] and [`Error::Damaged`], each a sentence that says what to do.
    pub async fn start(config: Config, network: Network) -> Result<Node, Error> {
        let started = Instant::now();
        let (listening, closing) = listen(network.listeners);
        let (config, booted) = booted(config, network.dial.clone()).await?;
        let Booted { id, cluster, machine, engine, installs, wal, initial, reachable, lock } = booted;
        let tap = Tap::new(id, rand::random(), started);
        let (applied, _) = machine.applied();
        let consensus_config = consensus_config(id, &config, applied);
        let mut consensus = Consensus::new(&consensus_config, initial, tap.listeners.clone())?;
        if config.election_tick_advance && reachable.len() == 1 {
            consensus.advance_ticks(config.election_ticks - 1);
        }
        tell_quota(config.limits.quota_bytes);
        tracing::info!(
            local_member_id = %id,
            cluster_id = %cluster,
            applied_index = %applied,
            last_index = %consensus.last(),
            revision = %machine.store().revision(),
            "started a raft member"
        );
        let inner = Arc::new(Inner {
            id,
            cluster,
            started,
            pace: super::pace::Pace::default(),
            inbox: Mailbox::new(super::INBOX_MAX),
            watches: watch::Shared::with_limits(machine.store().revision(), watch_limits(&config)),
            auth: super::auth::Gate::new(machine.auth(), config.token_ttl_ms),
            machine: RwLock::new(machine),
            requests: super::Requests::default(),
            applied: super::Applied::default(),
            published: super::Published::default(),
            batches_written: AtomicU64::new(0),
            writes: Mailbox::new(usize::MAX),
            engine: RwLock::new(engine),
            epoch: AtomicU64::new(0),
            snapshots: Snapshots::new(installs),
            hashes: super::Hashes::default(),
            defragmenting: signal::Sender::new(0),
            raising: tokio::sync::Mutex::default(),
            runtime: tokio::runtime::Handle::current(),
            dial: network.dial,
            timers: Mutex::new(lease::Timers::new(config.lease_checkpoint_ms)),
            lease_news: Notify::new(),
            next_request: AtomicU64::new(first_request(id)),
            gatekeeper: OnceLock::new(),
            peers: OnceLock::new(),
            ready: signal::Sender::new(false),
            stopped: signal::Sender::new(None),
            stopping: AtomicBool::new(false),
            closing,
            threads: Mutex::new(Vec::new()),
            tap,
            config,
            images: Arc::default(),
            lock: Mutex::new(Some(lock)),
        });
        inner.applied.set(applied);
        let node = Node { inner };
        node.check_before_start().await?;
        node.connect(&listening, &reachable)?;
        node.start_threads(Replica::new(consensus, (id.0 << 48) | (rand::random::<u64>() >> 24)), wal)?;
        node.start_duties();
        if node.read(|machine| machine.members().is_removed(id)) {
            node.inner.fail(Error::Removed);
        }
        Ok(node)
    }

    fn connect(&self, listening: &Slot, members: &Members) -> Result<(), Error> {
        let inner = &self.inner;
        let config = peer::Config {
            id: inner.id,
            cluster: inner.cluster,
            urls: inner.config.peer_urls.clone(),
            tls: inner.dial.clone(),
            dial_timeout: Duration::from_millis(1000 + inner.config.election_ms()),
        };
        let peers = Peers::start(config, Arc::new(Ears(Arc::downgrade(inner))));
        for member in members.iter().filter(|member| member.id != inner.id) {
            peers.add(member.id, &member.peer_urls).map_err(|e| Error::Storage(e.to_string()))?;
        }
        let _first = listening.set(peers.router());
        let _first = inner.peers.set(peers);
        Ok(())
    }

    fn start_threads(&self, replica: Replica<super::ReadWaiter>, wal: crate::wal::Wal) -> Result<(), Error> {
        let inner = &self.inner;
        let entries = Arc::new(Mailbox::new(usize::MAX));
        let raft = RaftThread::new(inner.clone(), replica, wal, entries.clone());
        let apply = ApplyThread {
            inner: inner.clone(),
            entries,
            probe: inner.tap.probe(),
            flushed: Millis(0),
            marks: Marks::new(inner.applied.get()),
            sweep: Sweep::default(),
            times: Times::default(),
            version: inner.machine.read().cluster_version().map(str::to_owned),
        };
        let store = StoreThread { inner: inner.clone(), epoch: 0 };
        let mut threads = inner.threads.lock();
        let runs: [Box<dyn FnOnce() + Send>; 3] =
            [Box::new(move || raft.run()), Box::new(move || apply.run()), Box::new(move || store.run())];
        for (name, run) in THREADS.into_iter().zip(runs) {
            threads.push(thread::Builder::new().name(name.into()).spawn(run)?);
        }
        Ok(())
    }
}

/// Answers on the peer URLs, "not yet" until the slot is filled, until the sender says true or is dropped.
fn listen(listeners: Vec<(Listener, Acceptor)>) -> (Slot, signal::Sender<bool>) {
    let (slot, closing) = (Slot::default(), signal::Sender::new(false));
    for (listener, acceptor) in listeners {
        let (mut closing, slot) = (closing.subscribe(), slot.clone());
        tokio::spawn(async move {
            let closed = async {
                let _closed = closing.wait_for(|closing| *closing).await;
            };
            peer::serve(listener, acceptor, slot, closed).await;
            // Who stops the member waits until nobody holds one of these: by then the listener has taken its socket's file along.
            drop(closing);
        });
    }
    (slot, closing)
}

/// Consensus, as `config` wants it, for a member whose state is at `applied`.
fn consensus_config(id: MemberId, config: &Config, applied: Index) -> consensus::Config {
    consensus::Config {
        id,
        election_ticks: config.election_ticks,
        pre_vote: config.pre_vote,
        tick_ms: u32::try_from(config.tick_ms).unwrap_or(u32::MAX),
        seed: rand::random(),
        applied,
    }
}

/// etcd's words on the quota. Above eight gigabytes it only warns.
fn tell_quota(quota: Option<u64>) {
    const SUGGESTED_MAX: u64 = 8 << 30;
    let Some(bytes) = quota else { return tracing::info!("disabled backend quota") };
    if bytes > SUGGESTED_MAX {
        tracing::warn!(
            "quota-size-bytes" = bytes,
            "quota-maximum-size-bytes" = SUGGESTED_MAX,
            "quota exceeds the maximum value"
        );
    }
    tracing::info!("quota-size-bytes" = bytes, "enabled backend quota");
}

/// etcd cuts a watch response where the largest request would end, with what its envelope may take: `MaxRequestBytesWithOverhead`.
fn watch_limits(config: &Config) -> watch::Limits {
    let fragment_bytes = config.max_request_bytes.saturating_add(ENVELOPE_BYTES);
    watch::Limits { fragment_bytes, ..watch::Limits::default() }
}

/// Seconds since 1970.
pub(super) fn unix_seconds() -> u64 {
    wall::seen(SystemTime::now()).duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// The first request id of this run: the member's low 16 bits, 40 bits of milliseconds, 8 bits of count (etcd `pkg/idutil`). A restart comes later in time, so it
/// never repeats an id.
fn first_request(id: MemberId) -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let ms = u64::try_from(now.as_millis()).unwrap_or(0);
    (id.0 << 48) | ((ms << 8) & ((1 << 48) - 1))
}
