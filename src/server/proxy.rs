//! `etcd gateway start`: a door for clients that know one address only. Bytes go to one of several members, whoever can be reached; nothing of them is understood.
//!
//! Members take turns. One that cannot be reached is left out until `--retry-delay` has passed. `etcd grpc-proxy` is another thing, which understands and
//! caches: it is not part of this server. Source: etcd `server/etcdmain/gateway.go`, `server/proxy/tcpproxy/userspace.go`.

#![expect(clippy::disallowed_methods, reason = "members that cannot be reached are left out for a while")]

use super::listen::bind_tcp;
use super::log;
use super::systemd::Manager;
use super::urls::Url;
use crate::client;
use crate::error::io_text;
use crate::golang;
use crate::tls::HandshakeError;
use parking_lot::Mutex;
use rustls::pki_types::ServerName;
use std::ffi::OsString;
use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;
use tokio::io::copy_bidirectional;
use tokio::net::TcpListener;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// Connections that are passed on at a time.
const CONNECTIONS_MAX: usize = 10_000;

/// How long a member may take to answer a dial.
const DIAL_TIMEOUT: Duration = Duration::from_secs(3);

/// Pause after an accept that failed.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What `etcd grpc-proxy` says.
pub(super) const NO_GRPC_PROXY: &str = "etcd grpc-proxy is not part of this release: there is no caching or coalescing proxy here. \
    Let clients use all members (--endpoints), or run `etcd gateway start` to pass connections on";

pub(super) const USAGE: &str = "\
Usage:

  etcd gateway start [--listen-addr HOST:PORT] [--endpoints HOST:PORT,...] [--retry-delay TIME]
    Pass TCP connections on to members. Defaults: 127.0.0.1:23790, 127.0.0.1:2379, 1m0s.

  etcd gateway start --discovery-srv DOMAIN [--discovery-srv-name SUFFIX] [--trusted-ca-file FILE] [--insecure-discovery]
    The same with the members that DNS names. Only those whose certificate is good for DOMAIN are used, unless discovery may be insecure; if none is, the --endpoints.
";

/// What the words after `gateway start` say.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Plan {
    listen: String,
    endpoints: Vec<String>,
    retry: Duration,
    discovery: Discovery,
}

/// Members by DNS.
#[derive(Debug, Default, PartialEq, Eq)]
struct Discovery {
    /// Empty: none.
    domain: String,
    suffix: String,
    /// Members without TLS, or with a certificate that proves nothing, are used as well.
    insecure: bool,
    ca: String,
}

/// The flags of `etcd gateway start`.
const FLAGS: [&str; 7] = [
    "listen-addr",
    "endpoints",
    "retry-delay",
    "discovery-srv",
    "discovery-srv-name",
    "insecure-discovery",
    "trusted-ca-file",
];

/// Whether the words after `etcd gateway` ask what there is.
pub(super) fn wants_help(words: &[String]) -> bool {
    words.is_empty() || words.iter().any(|word| matches!(word.as_str(), "-h" | "--help"))
}

impl Plan {
    /// Reads the words after `etcd gateway`.
    ///
    /// # Errors
    /// A sentence for the user.
    pub(super) fn parse(words: &[String]) -> Result<Plan, String> {
        let mut rest = words.iter();
        match rest.next().map(String::as_str) {
            Some("start") => {}
            Some(other) => return Err(format!("unknown command {other:?} for \"etcd gateway\"")),
            None => return Err("a command is missing: etcd gateway start".into()),
        }
        let local = |port: u16| format!("127.0.0.1:{port}");
        let retry = Duration::from_secs(60);
        let (listen, endpoints) = (local(23790), vec![local(2379)]);
        let mut plan = Plan { listen, endpoints, retry, discovery: Discovery::default() };
        while let Some(word) = rest.next() {
            let flag = word.strip_prefix("--").ok_or_else(|| format!("unknown word {word:?}"))?;
            let name = flag.split('=').next().unwrap_or(flag);
            if !FLAGS.contains(&name) {
                return Err(format!("unknown flag: --{name}"));
            }
            let (name, value) = match flag.split_once('=') {
                Some((name, value)) => (name, value.to_owned()),
                None if flag == "insecure-discovery" => (flag, "true".to_owned()),
                None => (flag, rest.next().cloned().ok_or_else(|| format!("flag needs an argument: --{flag}"))?),
            };
            match name {
                "listen-addr" => plan.listen = value,
                "endpoints" => plan.endpoints = value.split(',').map(address).collect::<Result<_, _>>()?,
                "retry-delay" => {
                    let nanos = golang::parse_nanos(&value).ok().and_then(|nanos| u64::try_from(nanos).ok());
                    plan.retry = Duration::from_nanos(nanos.ok_or_else(|| format!("{value:?} is no time"))?);
                }
                "discovery-srv" => plan.discovery.domain = value,
                "discovery-srv-name" => plan.discovery.suffix = value,
                "insecure-discovery" => {
                    plan.discovery.insecure =
                        golang::parse_bool(&value).map_err(|_| format!("{value:?} is no boolean"))?;
                }
                "trusted-ca-file" => plan.discovery.ca = value,
                other => return Err(format!("unknown flag: --{other}")),
            }
        }
        Ok(plan)
    }
}

/// `host:port`, also of a URL.
fn address(text: &str) -> Result<String, String> {
    let address = text.trim().split_once("://").map_or(text.trim(), |(_, address)| address);
    match address.rsplit_once(':') {
        Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok() => Ok(address.to_owned()),
        _ => Err(format!("endpoint {text:?} is not HOST:PORT")),
    }
}

/// A member, and since when it cannot be reached.
struct Member {
    address: String,
    down: Mutex<Option<Instant>>,
}

/// Passes connections on until the process ends.
///
/// # Errors
/// The address cannot be bound.
pub(super) async fn run(mut plan: Plan) -> Result<(), String> {
    if !plan.discovery.domain.is_empty() {
        let found = plan.discovery.endpoints().await?;
        // None that will do: those that are named, or the default.
        plan.endpoints = if found.is_empty() { plan.endpoints } else { found };
    }
    let url = Url::parse(&format!("http://{}", plan.listen))?;
    let listener = TcpListener::from_std(bind_tcp(&url, false)?).map_err(|e| e.to_string())?;
    tracing::info!(address = plan.listen, endpoints = plan.endpoints.join(","), "ready to proxy client requests");
    // Its own socket is open: whoever waits for the gateway may go on.
    let text = |os: OsString| os.to_string_lossy().into_owned();
    let env: Vec<_> = std::env::vars_os().map(|(name, value)| (text(name), text(value))).collect();
    let _ = Manager::of(&env, std::process::id()).tell("READY=1");
    serve(listener, plan).await;
    Ok(())
}

impl Discovery {
    /// `host:port` of the members that DNS names and that will do; maybe none.
    async fn endpoints(&self) -> Result<Vec<String>, String> {
        self.usable(client::discover(&self.domain, &self.suffix).await?).await
    }

    /// Those of these URLs that will do, in etcd's words.
    async fn usable(&self, found: Vec<String>) -> Result<Vec<String>, String> {
        let tell = |urls: &[String]| log::list(urls);
        tracing::info!("srv-server" = self.domain, endpoints = %tell(&found), "discovered cluster from SRV");
        if self.insecure {
            return found.iter().map(|url| address(url)).collect();
        }
        tracing::info!("srv-server" = self.domain, endpoints = %tell(&found), "validating discovered SRV endpoints");
        let (mut good, mut problems) = (Vec::new(), Vec::new());
        for url in found {
            match self.verify(&url, &address(&url)?).await {
                Ok(()) => good.push(url),
                Err(why) => problems.push(why),
            }
        }
        if problems.is_empty() {
            tracing::info!("srv-server" = self.domain, endpoints = %tell(&good), "using validated discovered SRV endpoints");
        } else {
            tracing::warn!(
                "srv-server" = self.domain, endpoints = %tell(&good), error = problems.join(","),
                "failed to validate discovered endpoints"
            );
        }
        good.iter().map(|url| address(url)).collect()
    }

    /// Whether a member shows a certificate that is good for the domain.
    async fn verify(&self, url: &str, address: &str) -> Result<(), String> {
        if !url.starts_with("https://") {
            return Err(format!("{url:?} is insecure"));
        }
        let files = client::TlsFiles { cacert: self.ca.clone(), ..client::TlsFiles::default() };
        let connector = TlsConnector::from(files.load().map_err(|e| e.to_string())?);
        let name = ServerName::try_from(self.domain.clone()).map_err(|e| e.to_string())?;
        let shaken = async { connector.connect(name, TcpStream::connect(address).await?).await };
        let shaken = tokio::time::timeout(DIAL_TIMEOUT, shaken).await;
        let shaken = shaken.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        shaken.map(drop).map_err(|e| {
            // What TLS has against it is inside; what the system says is not.
            let of_tls = e.get_ref().map(|_| HandshakeError::from_io(&e).to_string());
            format!("{url:?} failed to dial ({})", of_tls.unwrap_or_else(|| io_text(&e)))
        })
    }
}

async fn serve(listener: TcpListener, plan: Plan) {
    let down = || Mutex::new(None);
    let members: Arc<[Member]> = plan.endpoints.into_iter().map(|address| Member { address, down: down() }).collect();
    let (turn, room) = (Arc::new(AtomicUsize::new(0)), Arc::new(tokio::sync::Semaphore::new(CONNECTIONS_MAX)));
    loop {
        let Ok(permit) = Arc::clone(&room).acquire_owned().await else { return };
        let mut client = match listener.accept().await {
            Ok((client, _)) => client,
            Err(e) => {
                tracing::warn!(error = %e, "failed to accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let (members, first) = (Arc::clone(&members), turn.fetch_add(1, Ordering::Relaxed));
        tokio::spawn(async move {
            if let Some(mut member) = reach(&members, first, plan.retry).await {
                // Either side may end it, in its own way.
                let _ended = copy_bidirectional(&mut client, &mut member).await;
            }
            drop(permit);
        });
    }
}

/// A connection to the first member in turn that can be reached; one that could not be a moment ago is asked only if no other is left.
async fn reach(members: &[Member], first: usize, retry: Duration) -> Option<TcpStream> {
    let in_turn = || (0..members.len()).map(|step| &members[(first + step) % members.len()]);
    let is_out = |member: &Member| member.down.lock().is_some_and(|since| since.elapsed() < retry);
    let (out, good): (Vec<&Member>, Vec<&Member>) = in_turn().partition(|member| is_out(member));
    for member in good.into_iter().chain(out) {
        let dialled = tokio::time::timeout(DIAL_TIMEOUT, TcpStream::connect(&member.address)).await;
        match dialled.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
            Ok(stream) => {
                let _ = stream.set_nodelay(true);
                if member.down.lock().take().is_some() {
                    tracing::info!(address = member.address, "activated");
                }
                return Some(stream);
            }
            Err(e) => {
                *member.down.lock() = Some(Instant::now());
                tracing::warn!(address = member.address, error = %e, "deactivated endpoint");
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncReadExt as _;
    use tokio::io::AsyncWriteExt as _;

    fn plan(text: &str) -> Result<Plan, String> {
        Plan::parse(&text.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn the_words_are_etcds() {
        let plan_ = plan("start --endpoints=http://a:1,b:2 --listen-addr 127.0.0.1:9 --retry-delay 10s").expect("good");
        assert_eq!((plan_.endpoints, plan_.listen), (vec!["a:1".into(), "b:2".into()], "127.0.0.1:9".into()));
        assert_eq!(plan("start").expect("defaults").listen, "127.0.0.1:23790");
        for words in ["", "stop", "start x", "start --endpoints=a", "start --bogus=1", "start --discovery-srv"] {
            plan(words).expect_err(words);
        }
    }

    #[test]
    fn members_may_be_named_by_dns() {
        let words =
            "start --discovery-srv example.com --discovery-srv-name=lab --trusted-ca-file ca.pem --insecure-discovery";
        let want =
            Discovery { domain: "example.com".into(), suffix: "lab".into(), insecure: true, ca: "ca.pem".into() };
        assert_eq!(plan(words).expect("good").discovery, want);
    }

    #[tokio::test]
    async fn members_of_dns_that_prove_nothing_are_left_out() {
        let found = || vec!["http://a.example:2379".to_owned(), "http://b.example:1".to_owned()];
        let careful = Discovery { domain: "example".into(), ..Discovery::default() };
        assert_eq!(careful.usable(found()).await, Ok(Vec::new()));
        let careless = Discovery { insecure: true, ..careful };
        assert_eq!(careless.usable(found()).await, Ok(vec!["a.example:2379".to_owned(), "b.example:1".to_owned()]));
    }

    #[tokio::test]
    async fn a_member_that_is_gone_is_passed_over_and_comes_back_into_turn() {
        let member = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let gone = std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("bound");
        let door = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = door.local_addr().expect("bound");
        let endpoints = vec![gone.to_string(), member.local_addr().expect("bound").to_string()];
        let serving = tokio::spawn(serve(
            door,
            Plan { listen: String::new(), endpoints, retry: Duration::ZERO, discovery: Discovery::default() },
        ));
        for _ in 0..3 {
            let mut client = TcpStream::connect(address).await.expect("open");
            client.write_all(b"ping").await.expect("sent");
            let (mut passed, _) = member.accept().await.expect("passed on");
            let mut word = [0; 4];
            passed.read_exact(&mut word).await.expect("read");
            passed.write_all(b"pong").await.expect("sent");
            drop(passed);
            let mut answer = Vec::new();
            client.read_to_end(&mut answer).await.expect("ended");
            assert_eq!((&word, answer.as_slice()), (b"ping", &b"pong"[..]));
        }
        serving.abort();
    }
}
