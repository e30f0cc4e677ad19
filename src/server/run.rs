//! From a checked configuration to a running member, and to its end.
//!
//! ```text
//! bind ─▶ start the node ─▶ wait until it is ready ─▶ serve ─▶ signal ─▶ stop serving ─▶ hand over, sync ─▶ end by the signal
//! ```
//!
//! Source: etcd `embed/etcd.go`, `etcdmain/etcd.go`; contract-server 12.

use super::config::Config;
use super::config::TlsFiles;
use super::door::Door;
use super::front::Front;
use super::front::Limits;
use super::front::Security;
use super::lab;
use super::listen;
use super::listen::Bounds;
use super::listen::Socket;
use super::log;
use super::otel::Tracer;
use super::systemd::Manager;
use super::urls;
use super::urls::Url;
use crate::error::Error;
use crate::golang;
use crate::meter;
use crate::node;
use crate::node::Network;
use crate::node::Node;
use crate::node::Start;
use crate::peer;
use crate::tls;
use crate::tls::Acceptor;
use crate::types::ETCD_VERSION;
use rustix::mm::MlockAllFlags;
use serde_json::Value;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::signal::unix::Signal;
use tokio::signal::unix::SignalKind;
use tokio::signal::unix::signal;
use tokio::sync::watch;
use tokio::task::JoinSet;

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// With this exit code.
    Code(u8),
    /// Because of this signal, by which the process should now die.
    Signal(i32),
}

/// Runs a member until it is told to stop.
pub(super) async fn run(config: Config, manager: Manager) -> End {
    let mut signals = match Signals::new() {
        Ok(signals) => signals,
        Err(e) => return fatal(&format!("cannot watch for signals: {e}")),
    };
    #[cfg(any(debug_assertions, feature = "failpoints"))]
    if let Err(e) = super::failpoints::start().await {
        return fatal(&e);
    }
    if config.memory_lock
        && let Err(e) = rustix::mm::mlockall(MlockAllFlags::CURRENT | MlockAllFlags::FUTURE | MlockAllFlags::ONFAULT)
    {
        return fatal(&format!("--memory-mlock: {e}: see RLIMIT_MEMLOCK (LimitMEMLOCK= of a unit)"));
    }
    let sockets = match Sockets::open(&config) {
        Ok(sockets) => sockets,
        Err(e) => return fatal(&e),
    };
    let security = match Security::of(&config) {
        Ok(security) => security,
        Err(e) => return fatal(&e),
    };
    let tracer = match Tracer::start(&config.tracing) {
        Ok(tracer) => tracer,
        Err(e) => return fatal(&e),
    };
    toggle_log_on_signal();
    tell_start(&config);
    meter::EXTENSIVE.store(config.metrics_extensive, std::sync::atomic::Ordering::Relaxed);
    let network = Network { listeners: sockets.peers, dial: sockets.dial };
    let node = tokio::select! {
        node = Node::start(node_config(&config), network) => node,
        number = signals.next() => return End::Signal(number),
    };
    let node = match node {
        Ok(node) => node,
        Err(e) => return fatal(&e.to_string()),
    };
    let mut ready = node.ready();
    tokio::select! {
        _ready = ready.wait_for(|ready| *ready) => {}
        why = node.stopped() => return stopped_by_itself(&config, &node, why).await,
        number = signals.next() => return stop(&config, &node, Serving::none(), signals, number).await,
    }
    let front = |stopping| {
        let front = Front::new(node.clone(), Limits::of(&config), stopping);
        let front = front.with_security(security).with_tracer(tracer.clone());
        front.guard_peers();
        front
    };
    let serving = Serving::start(&config, front, sockets.listen, sockets.client_acceptor);
    tell_ready(&manager, &node);
    let end = tokio::select! {
        why = node.stopped() => {
            serving.end().await;
            stopped_by_itself(&config, &node, why).await
        }
        number = signals.next() => {
            // Of use to the manager, and of none to the member.
            let _ = manager.tell("STOPPING=1");
            stop(&config, &node, serving, signals, number).await
        }
    };
    if let Some(tracer) = tracer {
        tracer.flush().await;
    }
    end
}

/// SIGUSR1 switches the log to level debug, and back.
fn toggle_log_on_signal() {
    let Ok(mut wanted) = signal(SignalKind::user_defined1()) else { return };
    tokio::spawn(async move {
        while wanted.recv().await.is_some() {
            let level = log::toggle_debug();
            tracing::warn!("log-level" = level, "the log's level is another now");
        }
    });
}

/// Says that this member serves, and from then on that it lives.
fn tell_ready(manager: &Manager, node: &Node) {
    if !manager.is_there() {
        return;
    }
    tracing::info!("notifying init daemon");
    match manager.tell("READY=1") {
        Ok(()) => tracing::info!("successfully notified init daemon"),
        Err(e) => tracing::error!(error = %e, "failed to notify systemd for readiness"),
    }
    let Some(pause) = manager.watchdog else { return };
    let (manager, node) = (manager.clone(), node.clone());
    tokio::spawn(async move {
        let mut every = tokio::time::interval(pause / 2);
        loop {
            every.tick().await;
            // Silence is what the manager acts on.
            if node.since_tick() < pause {
                let _ = manager.tell("WATCHDOG=1");
            }
        }
    });
}

/// etcd's last words when a start fails.
fn fatal(why: &str) -> End {
    tracing::error!(level = "fatal", error = why, "discovery failed");
    End::Code(1)
}

/// Pause between two checkpoints of a lease; etcd's value, which no flag changes.
const LEASE_CHECKPOINT_MS: u64 = 5 * 60 * 1000;

/// What the node is started with.
pub(super) fn node_config(config: &Config) -> node::Config {
    let founders = config.initial_cluster.iter().map(|(name, urls)| (name.clone(), urls::texts(urls))).collect();
    node::Config {
        name: config.name.clone(),
        data_dir: config.data_dir.clone(),
        wal_dir: config.wal_dir.clone(),
        wal_segment_bytes: config.wal_segment_bytes,
        founders,
        token: config.initial_cluster_token.clone(),
        start: if config.join_existing { Start::Existing } else { Start::New },
        force_new_cluster: config.force_new_cluster,
        strict_reconfig: config.strict_reconfig_check,
        max_learners: usize::try_from(config.max_learners).unwrap_or(0),
        peer_urls: urls::texts(&config.advertise_peer_urls),
        client_urls: urls::texts(&config.advertise_client_urls),
        tick_ms: config.heartbeat_ms,
        election_ticks: usize::try_from(config.election_ticks()).unwrap_or(usize::MAX),
        election_tick_advance: config.initial_election_tick_advance,
        pre_vote: config.pre_vote,
        snapshot_count: config.snapshot_count,
        snapshot_catchup_entries: config.snapshot_catchup_entries,
        max_request_bytes: usize::try_from(config.max_request_bytes).unwrap_or(usize::MAX),
        lease_checkpoint_ms: config.lease_checkpoint.then_some(LEASE_CHECKPOINT_MS),
        token_ttl_ms: u64::try_from(config.auth_token_ttl.as_millis()).unwrap_or(u64::MAX),
        limits: crate::apply::Limits {
            quota_bytes: config.quota(),
            cache_bytes: usize::try_from(config.cache_bytes / 2).unwrap_or(usize::MAX),
        },
        store_cache_bytes: config.cache_bytes / 2,
        auto_compaction: config.auto_compaction(),
        compaction_batch: config.compaction_batch,
        compaction_pause_ms: millis(config.compaction_pause),
        downgrade_check_ms: millis(config.downgrade_check),
        checks: config.checks(),
        warn_apply: config.warning_apply,
        defragment_above_bytes: config.defragment_above_bytes,
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// The bound sockets that are not for peers.
#[derive(Default)]
struct Listen {
    clients: Vec<Socket>,
    http: Vec<Socket>,
    metrics: Vec<Socket>,
    lab: Option<(Socket, String)>,
}

/// Everything that must be bound and read before the member starts.
struct Sockets {
    peers: Vec<(peer::Listener, Acceptor)>,
    listen: Listen,
    client_acceptor: Acceptor,
    dial: Option<Arc<tokio_rustls::rustls::ClientConfig>>,
}

impl Sockets {
    fn open(config: &Config) -> Result<Sockets, String> {
        tracing::info!("listen-peer-urls" = %log::list(&urls::texts(&config.listen_peer_urls)), "configuring peer listeners");
        let peer_files = with_auto(config, &config.peer_tls, "peer", &config.listen_peer_urls)?;
        let peer_acceptor = acceptor(config, &peer_files, &config.listen_peer_urls, true)?;
        let dial = dial(config, &peer_files)?;
        let peers = config
            .listen_peer_urls
            .iter()
            .map(|url| Ok((bind_peer(url, config.reuse_port)?, of_url(url, &peer_acceptor))))
            .collect::<Result<Vec<_>, String>>()?;
        tracing::info!("listen-client-urls" = %log::list(&urls::texts(&config.listen_client_urls)), "configuring client listeners");
        let client_files = with_auto(config, &config.client_tls, "client", &config.listen_client_urls)?;
        let for_clients =
            [&config.listen_client_urls[..], &config.listen_client_http_urls, &config.listen_metrics_urls];
        let client_acceptor = acceptor(config, &client_files, &for_clients.concat(), false)?;
        let bind = |urls: &[Url]| {
            urls.iter().map(|url| Socket::bind_as(url, config.reuse_port)).collect::<Result<Vec<_>, _>>()
        };
        let lab = match &config.lab {
            Some(lab_config) => Some((bind_lab(&lab_config.listen)?, lab::read_token(&lab_config.token_file)?)),
            None => None,
        };
        Ok(Sockets {
            peers,
            listen: Listen {
                clients: bind(&config.listen_client_urls)?,
                http: bind(&config.listen_client_http_urls)?,
                metrics: bind(&config.listen_metrics_urls)?,
                lab,
            },
            client_acceptor,
            dial,
        })
    }
}

fn bind_peer(url: &Url, reuse_port: bool) -> Result<peer::Listener, String> {
    if url.is_unix() {
        return listen::bind_unix(Path::new(url.address())).map(peer::Listener::Unix);
    }
    let listener = tokio::net::TcpListener::from_std(listen::bind_tcp(url, reuse_port)?).map_err(|e| e.to_string())?;
    Ok(listener.into())
}

fn bind_lab(listen: &str) -> Result<Socket, String> {
    let url = match listen.strip_prefix("unix:") {
        Some(path) => format!("unix://{}", path.trim_start_matches("//")),
        None => format!("http://{listen}"),
    };
    let socket = Socket::bind(&Url::parse(&url)?)?;
    if socket.url().is_unix() {
        let owner_only = std::fs::Permissions::from_mode(0o600);
        std::fs::set_permissions(socket.url().address(), owner_only).map_err(|e| format!("{listen}: {e}"))?;
    }
    Ok(socket)
}

/// The files of one side, with a certificate made for it if `--auto-tls` asks for one.
fn with_auto(config: &Config, files: &TlsFiles, side: &str, listen: &[Url]) -> Result<TlsFiles, String> {
    if !files.auto || files.is_given() {
        return Ok(files.clone());
    }
    let dir = config.data_dir.join("fixtures").join(side);
    let hosts: Vec<String> =
        listen.iter().map(|url| if url.is_unix() { "localhost" } else { url.host() }.to_owned()).collect();
    let (cert_file, key_file) =
        tls::auto_tls(&dir, &hosts, config.self_signed_cert_validity).map_err(|e| e.to_string())?;
    Ok(TlsFiles { cert_file, key_file, ..files.clone() })
}

fn acceptor(config: &Config, files: &TlsFiles, listen: &[Url], is_peer: bool) -> Result<Acceptor, String> {
    if !listen.iter().any(Url::is_secure) {
        return Ok(Acceptor::plain());
    }
    let alpn = if is_peer { Vec::new() } else { vec![b"h2".to_vec(), b"http/1.1".to_vec()] };
    let server = tls::ServerFiles {
        cert: files.cert_file.clone(),
        key: files.key_file.clone(),
        trusted_ca: some_path(&files.trusted_ca_file),
        client_cert_auth: files.client_cert_auth,
        allowed_cn: files.allowed_cn.clone(),
        allowed_hostname: files.allowed_hostname.clone(),
        check_client_address: is_peer && !files.skip_san_verification,
        crl: some_path(&files.crl_file),
        offer: config.tls_offer.clone(),
        alpn,
    };
    Acceptor::tls(&server).map_err(|e| e.to_string())
}

/// What makes connections of those that come to `url`: a certificate is nothing to a plain one.
fn of_url(url: &Url, secure: &Acceptor) -> Acceptor {
    if url.is_secure() { secure.clone() } else { Acceptor::plain() }
}

fn some_path(path: &Path) -> Option<PathBuf> {
    (!path.as_os_str().is_empty()).then(|| path.to_owned())
}

/// How other members are dialled, if any of them has an https URL or this one has a certificate.
fn dial(config: &Config, files: &TlsFiles) -> Result<Option<Arc<tokio_rustls::rustls::ClientConfig>>, String> {
    let any_secure = config.initial_cluster.values().flatten().any(Url::is_secure);
    if !any_secure && !files.is_given() {
        return Ok(None);
    }
    let own = !files.client_cert_file.as_os_str().is_empty();
    let (cert, key) =
        if own { (&files.client_cert_file, &files.client_key_file) } else { (&files.cert_file, &files.key_file) };
    let client = tls::ClientFiles {
        ca: some_path(&files.trusted_ca_file),
        cert: some_path(cert),
        key: some_path(key),
        // Certificates that members make for themselves vouch for nobody; etcd takes them as they are, too.
        insecure_skip_verify: files.auto && files.trusted_ca_file.as_os_str().is_empty(),
        offer: config.tls_offer.clone(),
        alpn: Vec::new(),
    };
    tls::client_config(&client).map(Some).map_err(|e| e.to_string())
}

/// The line that shows with what a member starts.
fn tell_start(config: &Config) {
    let list = |urls: &[Url]| Value::from(urls::texts(urls));
    let ms = |ms: u64| golang::duration(std::time::Duration::from_millis(ms));
    let fields = log::object([
        ("etcd-version", ETCD_VERSION.into()),
        ("server-version", env!("CARGO_PKG_VERSION").into()),
        ("name", config.name.as_str().into()),
        ("data-dir", config.data_dir.display().to_string().into()),
        ("wal-dir", config.wal_dir.as_deref().map(|dir| dir.display().to_string()).unwrap_or_default().into()),
        ("heartbeat-interval", ms(config.heartbeat_ms).into()),
        ("election-timeout", ms(config.election_ms).into()),
        ("initial-election-tick-advance", config.initial_election_tick_advance.into()),
        ("snapshot-count", config.snapshot_count.into()),
        ("snapshot-catchup-entries", config.snapshot_catchup_entries.into()),
        ("max-request-bytes", config.max_request_bytes.into()),
        ("max-concurrent-streams", config.max_concurrent_streams.into()),
        ("quota-backend-bytes", config.quota_backend_bytes.into()),
        ("pre-vote", config.pre_vote.into()),
        ("initial-advertise-peer-urls", list(&config.advertise_peer_urls)),
        ("listen-peer-urls", list(&config.listen_peer_urls)),
        ("advertise-client-urls", list(&config.advertise_client_urls)),
        ("listen-client-urls", list(&config.listen_client_urls)),
        ("listen-metrics-urls", list(&config.listen_metrics_urls)),
        ("initial-cluster", urls::cluster_text(&config.initial_cluster).into()),
        ("initial-cluster-state", if config.join_existing { "existing" } else { "new" }.into()),
        ("initial-cluster-token", config.initial_cluster_token.as_str().into()),
    ]);
    tracing::info!(%fields, "starting an etcd server");
}

/// The listeners that are served.
struct Serving {
    stopping: watch::Sender<bool>,
    servers: JoinSet<()>,
}

impl Serving {
    fn none() -> Serving {
        Serving { stopping: watch::Sender::new(false), servers: JoinSet::new() }
    }

    fn start(
        config: &Config,
        front: impl FnOnce(watch::Receiver<bool>) -> Front,
        listen: Listen,
        acceptor: Acceptor,
    ) -> Serving {
        let mut serving = Serving::none();
        let front = front(serving.stopping.subscribe());
        let bounds = Bounds {
            connections: usize::try_from(config.max_connections).unwrap_or(usize::MAX).min(1 << 20),
            streams: config.max_concurrent_streams,
            ping_every: config.keepalive_interval,
            ping_wait: config.keepalive_timeout,
        };
        let list = |urls: &[Url]| log::list(&urls::texts(urls));
        tracing::info!(
            "initial-advertise-peer-urls" = %list(&config.advertise_peer_urls),
            "listen-peer-urls" = %list(&config.listen_peer_urls),
            "advertise-client-urls" = %list(&config.advertise_client_urls),
            "listen-client-urls" = %list(&config.listen_client_urls),
            "listen-metrics-urls" = %list(&config.listen_metrics_urls),
            "now serving peer/client/metrics"
        );
        for url in &config.listen_peer_urls {
            tracing::info!(address = url.address(), "serving peer traffic");
        }
        tracing::info!("ready to serve client requests");
        let door = Door::clients(&front);
        let secured = |socket: &Socket| of_url(socket.url(), &acceptor);
        let (grpc, http) = if listen.http.is_empty() { (door.clone(), door) } else { door.parted() };
        let traffic = if listen.http.is_empty() { "grpc+http" } else { "grpc" };
        for (sockets, door, traffic) in [(listen.clients, grpc, traffic), (listen.http, http, "http")] {
            for socket in sockets {
                tell_serving(socket.url(), traffic);
                let acceptor = secured(&socket);
                serving.add(socket, door.clone(), acceptor, bounds);
            }
        }
        for socket in listen.metrics {
            tracing::info!(address = socket.url().as_str(), "serving metrics");
            let acceptor = secured(&socket);
            serving.add(socket, Door::Metrics(front.clone()), acceptor, bounds);
        }
        if let Some((socket, token)) = listen.lab {
            tracing::info!(address = socket.url().address(), "serving the lab");
            serving.add(socket, Door::lab(&front, &token), Acceptor::plain(), bounds);
        }
        serving
    }

    fn add(&mut self, socket: Socket, door: Door, acceptor: Acceptor, bounds: Bounds) {
        let stopping = self.stopping.subscribe();
        self.servers.spawn(listen::serve(socket, door, acceptor, bounds, stopping));
    }

    /// Ends streams, lets calls finish for a bounded time, closes the sockets.
    async fn end(mut self) {
        self.stopping.send_replace(true);
        while self.servers.join_next().await.is_some() {}
    }
}

fn tell_serving(url: &Url, traffic: &str) {
    if url.is_secure() {
        tracing::info!(traffic, address = url.address(), "serving client traffic securely");
    } else {
        tracing::info!(
            traffic,
            address = url.address(),
            "serving client traffic insecurely; this is strongly discouraged!"
        );
    }
}

/// The signals that end a member.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Signals> {
        Ok(Signals { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// The number of the next one.
    async fn next(&mut self) -> i32 {
        tokio::select! {
            _ = self.terminate.recv() => SignalKind::terminate().as_raw_value(),
            _ = self.interrupt.recv() => SignalKind::interrupt().as_raw_value(),
        }
    }
}

/// Stops serving, then the member. A second signal ends the wait.
async fn stop(config: &Config, node: &Node, serving: Serving, mut signals: Signals, number: i32) -> End {
    let name = if number == SignalKind::interrupt().as_raw_value() { "interrupt" } else { "terminated" };
    tracing::info!(signal = name, "received signal; shutting down");
    let stopped = async {
        tell_end(config, "closing etcd server");
        serving.end().await;
        node.stop().await;
        tell_end(config, "closed etcd server");
    };
    tokio::select! {
        () = stopped => End::Signal(number),
        second = signals.next() => End::Signal(second),
    }
}

fn tell_end(config: &Config, message: &str) {
    let fields = log::object([
        ("name", config.name.as_str().into()),
        ("data-dir", config.data_dir.display().to_string().into()),
        ("advertise-peer-urls", urls::texts(&config.advertise_peer_urls).into()),
        ("advertise-client-urls", urls::texts(&config.advertise_client_urls).into()),
    ]);
    tracing::info!(%fields, "{message}");
}

/// The member has stopped of its own accord: it was removed, which is no failure, or it cannot go on.
async fn stopped_by_itself(config: &Config, node: &Node, why: Error) -> End {
    tell_end(config, "closing etcd server");
    node.stop().await;
    tell_end(config, "closed etcd server");
    match why {
        Error::Removed => {
            tracing::warn!(error = %why, "server error");
            tracing::warn!("data-dir used by this member must be removed");
            End::Code(0)
        }
        why => {
            tracing::error!(level = "fatal", error = %why, "listener failed");
            End::Code(1)
        }
    }
}
