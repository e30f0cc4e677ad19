//! v3 discovery: members that do not know each other find each other in another cluster.
//!
//! ```text
//! /_etcd/registry/TOKEN/_config/size      3                        put there by whoever plans the cluster
//! /_etcd/registry/TOKEN/members/ID        m1=http://10.0.0.1:2380  put there by each member
//! ```
//!
//! A member registers itself and waits until as many have registered as the plan says; who comes later finds the cluster full. The order is that of registration, so
//! all see the same list. The token is the new cluster's `--initial-cluster-token`, too. Source: etcd `server/etcdserver/api/v3discovery/discovery.go`.

#![expect(clippy::disallowed_methods, reason = "a discovery service that cannot be reached is asked again later")]

use super::settings::Settings;
use super::urls;
use super::urls::Url;
use crate::client;
use crate::client::Client;
use crate::client::TlsFiles;
use crate::client::prefix_end;
use crate::client::watch_from;
use crate::membership::member_id;
use crate::proto::etcdserverpb::RangeRequest;
use crate::proto::mvccpb::KeyValue;
use crate::proto::mvccpb::event::EventType;
use std::time::Duration;

const REGISTRY: &str = "/_etcd/registry";

/// The pause before another try doubles so often. Source: etcd `maxExponentialRetries`.
const DOUBLINGS_MAX: u32 = 8;

/// Where the discovery service is, and how it is talked to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Discovery {
    /// The domain whose SRV records name the members, and a suffix of the service's name; another way to the list.
    pub srv: String,
    pub srv_name: String,
    pub token: String,
    pub endpoints: Vec<String>,
    pub dial_timeout: Duration,
    pub request_timeout: Duration,
    pub keepalive_time: Duration,
    pub keepalive_timeout: Duration,
    /// Without TLS, unless a certificate is given.
    pub insecure_transport: bool,
    pub tls: TlsFiles,
    /// `name`, or `name:password`.
    pub user: String,
    pub password: String,
}

/// Why a member is not among those that the discovery service names; etcd's words.
#[derive(Debug, PartialEq, Eq)]
enum Failure {
    /// Nothing that asking again would change.
    Final(String),
    /// The service could not be reached, or did not answer.
    Unreachable(String),
}

impl Failure {
    /// A time-out alone does not say that nobody could be dialled, so what the last dial met is said, too.
    fn lost(error: client::Error) -> Failure {
        Failure::Unreachable(match error.cause() {
            Some(cause) => format!("{error}: {cause}"),
            None => error.to_string(),
        })
    }

    fn full() -> Failure {
        Failure::Final("discovery: cluster is full".into())
    }
}

impl Discovery {
    pub(super) fn from_settings(settings: &Settings) -> Discovery {
        let text = |name: &str| settings.text(&format!("discovery-{name}")).to_owned();
        let time = |name: &str| settings.duration(&format!("discovery-{name}"));
        Discovery {
            srv: text("srv"),
            srv_name: text("srv-name"),
            token: text("token"),
            endpoints: settings.list("discovery-endpoints"),
            dial_timeout: time("dial-timeout"),
            request_timeout: time("request-timeout"),
            keepalive_time: time("keepalive-time"),
            keepalive_timeout: time("keepalive-timeout"),
            insecure_transport: settings.is("discovery-insecure-transport"),
            tls: TlsFiles {
                cacert: text("cacert"),
                cert: text("cert"),
                key: text("key"),
                skip_verify: settings.is("discovery-insecure-skip-tls-verify"),
            },
            user: text("user"),
            password: text("password"),
        }
    }

    /// Whether there is a service to ask; without one the other flags mean nothing.
    pub(super) fn is_on(&self) -> bool {
        !self.endpoints.is_empty()
    }

    pub(super) fn problems(&self) -> Vec<String> {
        let mut found = Vec::new();
        if self.token.is_empty() != self.endpoints.is_empty() {
            found.push("both --discovery-token and --discovery-endpoints must be set".into());
        }
        if self.is_on() && !self.user.is_empty() && self.credentials().is_none() {
            found.push(
                "--discovery-user needs a password: --discovery-user NAME:PASSWORD, or --discovery-password".into(),
            );
        }
        found
    }

    fn credentials(&self) -> Option<(String, String)> {
        if !self.password.is_empty() {
            return Some((self.user.clone(), self.password.clone()));
        }
        let (name, password) = self.user.split_once(':')?;
        Some((name.to_owned(), password.to_owned()))
    }

    fn client(&self) -> Result<Client, String> {
        let names = [&self.tls.cacert, &self.tls.cert, &self.tls.key];
        let is_secure = !self.insecure_transport || names.iter().any(|name| !name.is_empty());
        let tls = if is_secure { Some(self.tls.load().map_err(|e| e.to_string())?) } else { None };
        Ok(Client::new(client::Config {
            endpoints: self.endpoints.clone(),
            dial_timeout: self.dial_timeout,
            call_timeout: Some(self.request_timeout),
            keepalive_time: self.keepalive_time,
            keepalive_timeout: self.keepalive_timeout,
            tls,
            user: if self.user.is_empty() { None } else { self.credentials() },
            ..client::Config::default()
        }))
    }

    /// Registers this member and waits for the others; the list of all, in the form of `--initial-cluster`. A service that cannot be reached is
    /// asked again, for ever, with growing pauses.
    ///
    /// # Errors
    /// There is no plan for this token, the cluster is full, the list makes no sense.
    pub(super) async fn join(&self, name: &str, own: &[Url]) -> Result<String, String> {
        let id = member_id(&urls::texts(own), &self.token, None);
        let own: Vec<String> = own.iter().map(|url| format!("{name}={}", url.as_str())).collect();
        let (cluster, own_text) = (self.client()?, own.join(","));
        let registry = Registry { client: cluster, prefix: format!("{REGISTRY}/{}", self.token) };
        let mut tries = 0;
        let joined = loop {
            match registry.join(&format!("{}/members/{id}", registry.prefix), &own_text).await {
                Ok(list) => break Ok(list),
                Err(Failure::Final(why)) => break Err(why),
                Err(Failure::Unreachable(why)) => {
                    tries += 1;
                    let pause = Duration::from_secs(1 << tries.min(DOUBLINGS_MAX));
                    tracing::warn!(error = why, backoff = ?pause, "retry connecting to discovery service");
                    tokio::time::sleep(pause).await;
                }
            }
        };
        match &joined {
            Ok(cluster) => tracing::info!(cluster, "discovery joined cluster successfully"),
            Err(why) => tracing::error!(error = why, "discovery failed to join cluster"),
        }
        joined.map_err(|why| format!("failed to join discovery cluster ({why})"))
    }
}

/// The keys of one planned cluster.
struct Registry {
    client: Client,
    prefix: String,
}

/// A member that has registered.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    key: String,
    urls: String,
    created: i64,
}

impl Registry {
    async fn join(&self, own_key: &str, own: &str) -> Result<String, Failure> {
        self.client.authenticate().await.map_err(Failure::lost)?;
        let size = self.size().await?;
        let (before, _) = self.members().await?;
        has_room(&before, own_key, size)?;
        self.client.put(own_key.to_owned(), own.to_owned()).await.map_err(Failure::lost)?;
        tracing::info!("memberKey" = own_key, "memberInfo" = own, "register member itself successfully");
        let (mut members, revision) = self.members().await?;
        has_room(&members, own_key, size)?;
        if members.len() < size {
            self.wait(&mut members, size, revision).await?;
        }
        let texts: Vec<&str> = members.iter().take(size).map(|member| member.urls.as_str()).collect();
        let list = texts.join(",");
        let parsed = urls::parse_cluster(&list);
        let parsed = parsed.map_err(|_| Failure::Final("discovery: invalid peer URL".into()))?;
        let mut all: Vec<&Url> = parsed.values().flatten().collect();
        all.sort();
        match all.windows(2).any(|pair| pair[0] == pair[1]) {
            true => Err(Failure::Final(format!("discovery cluster {list} has duplicate url"))),
            false => Ok(list),
        }
    }

    /// How many members the cluster is planned for.
    async fn size(&self) -> Result<usize, Failure> {
        let read = self.client.get(format!("{}/_config/size", self.prefix)).await;
        let pair = read.map_err(Failure::lost)?;
        let pair = pair.ok_or_else(|| Failure::Final("discovery: size key not found".into()))?;
        let size = std::str::from_utf8(&pair.value).ok().and_then(|text| text.parse().ok());
        size.filter(|size| *size > 0).ok_or_else(|| Failure::Final("discovery: size key is bad".into()))
    }

    /// Who has registered, in that order, and the revision that this was true at.
    async fn members(&self) -> Result<(Vec<Entry>, i64), Failure> {
        let key = format!("{}/members", self.prefix);
        let range_end = prefix_end(key.as_bytes());
        let range = RangeRequest { key: key.into(), range_end, ..RangeRequest::default() };
        let answer = self.client.call(range).await.map_err(Failure::lost)?;
        let mut members = Vec::new();
        answer.kvs.iter().for_each(|pair| add(&mut members, pair));
        Ok((members, answer.header.map_or(0, |header| header.revision)))
    }

    /// Waits until `size` members have registered.
    async fn wait(&self, members: &mut Vec<Entry>, size: usize, revision: i64) -> Result<(), Failure> {
        tracing::info!("clusterSize" = size, "found-peers" = members.len(), "waiting for peers from discovery service");
        let key = format!("{}/members", self.prefix);
        let range_end = prefix_end(key.as_bytes());
        let mut watch = self.client.watch(watch_from(key, range_end, revision + 1));
        while members.len() < size {
            let answer = watch.next().await.map_err(Failure::lost)?;
            let answer = answer.ok_or_else(|| Failure::Unreachable("the watch has ended".into()))?;
            if answer.canceled {
                return Err(Failure::Unreachable(client::Watch::why_canceled(&answer)));
            }
            for event in answer.events.iter().filter(|event| event.r#type() == EventType::Put) {
                event.kv.iter().for_each(|pair| add(members, pair));
            }
        }
        tracing::info!(
            "clusterSize" = size,
            "found-peers" = members.len(),
            "found all needed peers from discovery service"
        );
        Ok(())
    }
}

/// Whether a member is, or can become, one of the first `size`.
fn has_room(members: &[Entry], own_key: &str, size: usize) -> Result<(), Failure> {
    let place = members.iter().position(|member| member.key == own_key).unwrap_or(members.len());
    if place < size { Ok(()) } else { Err(Failure::full()) }
}

/// Adds a registration in its place; one that makes no sense is passed over, and told.
fn add(members: &mut Vec<Entry>, pair: &KeyValue) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    let entry = Entry { key: text(&pair.key), urls: text(&pair.value), created: pair.create_revision };
    let problem = if !entry.urls.contains('=') {
        Some("invalid peer info returned from discovery service")
    } else if members.iter().any(|member| member.key == entry.key) {
        Some("found duplicate peer from discovery service")
    } else {
        None
    };
    let (key, urls) = (&entry.key, &entry.urls);
    match problem {
        Some(problem) => tracing::warn!("memberKey" = key, "memberInfo" = urls, "{problem}"),
        None => {
            tracing::info!("memberKey" = key, "memberInfo" = urls, "found peer from discovery service");
            members.push(entry);
            members.sort_by_key(|member| member.created);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(key: &str, value: &str, create_revision: i64) -> KeyValue {
        KeyValue { key: key.to_owned().into(), value: value.to_owned().into(), create_revision, ..KeyValue::default() }
    }

    #[test]
    fn members_stand_in_the_order_in_which_they_registered() {
        let mut members = Vec::new();
        for (key, value, created) in [("b", "m2=u2", 7), ("a", "m1=u1", 5), ("b", "again=u", 9), ("c", "nonsense", 3)] {
            add(&mut members, &pair(key, value, created));
        }
        let urls: Vec<&str> = members.iter().map(|member| member.urls.as_str()).collect();
        assert_eq!(urls, ["m1=u1", "m2=u2"]);
    }

    #[test]
    fn who_comes_too_late_finds_it_full_and_who_comes_again_does_not() {
        let mut members = Vec::new();
        for (key, created) in [("a", 1), ("b", 2), ("c", 3)] {
            add(&mut members, &pair(key, "m=u", created));
        }
        assert_eq!(has_room(&members, "b", 2), Ok(()));
        assert_eq!(has_room(&members, "c", 2), Err(Failure::full()));
        assert_eq!(has_room(&members, "d", 3), Err(Failure::full()));
        assert_eq!(has_room(&members, "d", 4), Ok(()));
    }
}
