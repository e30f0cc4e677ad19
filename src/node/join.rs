//! Before a first start: asks those who may be there already who the members are.
//!
//! ```text
//! there is a log                    it knows everything: nobody is asked
//! --initial-cluster-state new       found the cluster, unless the others say that this member has run before
//! --initial-cluster-state existing  the others say who is a member; ids and cluster id are theirs
//! ```
//!
//! A founder that lost its directory must not found again: it would vote a second time on what it has voted on. Source: etcd
//! `etcdserver/bootstrap.go` (`bootstrapExistingClusterNoWAL`, `bootstrapNewClusterNoWAL`), `cluster_util.go`.

#![expect(clippy::disallowed_methods, reason = "a list that is too short is asked for again a moment later")]

use super::boot::Config;
use super::boot::Start;
use crate::apply::version::Version;
use crate::disk::RealDisk;
use crate::error::Error;
use crate::membership::Members;
use crate::peer;
use crate::types::MemberId;
use crate::wal;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use std::net::ToSocketAddrs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio_rustls::rustls::ClientConfig;

/// How long each of the others may take to say who the members are; etcd's value.
const MEMBERS_WITHIN: Duration = Duration::from_secs(10);
/// The same for a founder, which expects nobody to answer; etcd's `BootstrapTimeoutEffective`.
const FOUNDED_WITHIN: Duration = Duration::from_secs(1);
/// How often a list that is too short is asked for: whoever answers may not have applied yet that this member was added.
const LISTS_MAX: usize = 10;
/// And the time between two lists.
const LIST_AGAIN: Duration = Duration::from_millis(100);

/// How a member begins.
pub(super) enum Plan {
    /// With its log.
    Restart,
    /// With its founders, of whom it is one.
    Found(Members),
    /// With an empty log, as this one of these members of a cluster that runs.
    Join(MemberId, Members),
}

impl Config {
    pub(super) fn wal_dir(&self) -> PathBuf {
        self.wal_dir.clone().unwrap_or_else(|| self.data_dir.join("member").join("wal"))
    }
}

type Dial = Option<Arc<ClientConfig>>;

/// Finds out how the member that `config` describes begins.
///
/// # Errors
/// [`Error::Start`] in etcd's words.
pub(super) async fn plan(config: &Config, dial: &Dial) -> Result<Plan, Error> {
    if wal::exists(&RealDisk, &config.wal_dir()) {
        return Ok(Plan::Restart);
    }
    let founders = Members::bootstrap(&config.founders, &config.token).map_err(Error::Start)?;
    let me = founders.by_name(&config.name).map(|member| member.id).ok_or_else(|| {
        Error::Start(format!("couldn't find local name \"{}\" in the initial cluster configuration", config.name))
    })?;
    match config.start {
        Start::New => {
            let others = founders.urls_beside(&config.name);
            if has_run(others, me, dial).await {
                return Err(Error::Start(format!("member {me} has already been bootstrapped")));
            }
            Ok(Plan::Found(founders))
        }
        Start::Existing => {
            let members = join(config, &founders, dial).await?;
            let me = members.by_name(&config.name).expect("the list is ours, with other ids").id;
            Ok(Plan::Join(me, members))
        }
    }
}

/// Whether one of the others knows this member, and knows it to have served clients. All are asked at once; the first answer counts.
async fn has_run(others: Vec<String>, me: MemberId, dial: &Dial) -> bool {
    let ask = |url: String| async move { peer::fetch_members(&[url], dial.clone(), FOUNDED_WITHIN).await };
    let mut answers: FuturesUnordered<_> = others.into_iter().map(ask).collect();
    while let Some(answer) = answers.next().await {
        if let Ok((_, members)) = answer {
            return members.iter().any(|member| member.id == me && !member.client_urls.is_empty());
        }
    }
    false
}

/// The members of the running cluster that `ours` lists.
async fn join(config: &Config, ours: &Members, dial: &Dial) -> Result<Members, Error> {
    let mut lists = 1;
    let (existing, members) = loop {
        let existing = existing(&ours.urls_beside(&config.name), dial)
            .await
            .map_err(|why| Error::Start(format!("cannot fetch cluster info from peer urls: {why}")))?;
        let (list, theirs) = (ours.clone(), existing.clone());
        // Names may have to be looked up, which blocks.
        let matched = tokio::task::spawn_blocking(move || list.with_ids_of(&theirs, resolved)).await;
        match matched.map_err(|e| Error::Start(format!("looking up peer URLs: {e}")))? {
            Ok(members) => break (existing, members),
            Err(_) if lists < LISTS_MAX && existing.iter().count() < ours.iter().count() => lists += 1,
            Err(why) => {
                return Err(Error::Start(format!("error validating peerURLs {}: {why}", existing.to_go_text())));
            }
        }
        tokio::time::sleep(LIST_AGAIN).await;
    };
    if !is_compatible(config, &members, dial).await {
        return Err(Error::Start("incompatible with current running cluster".into()));
    }
    check_learners(&existing, config)?;
    let me = members.by_name(&config.name).map(|member| member.id).unwrap_or_default();
    if existing.get(me).is_some_and(|member| !member.client_urls.is_empty()) {
        return Err(Error::Start(format!(
            "member {me} has run before and its log is not in {}: it may have voted and acknowledged what it does not know of any more. Remove it \
             (etcdctl member remove {me}), add it again, and start it with what `member add` prints",
            config.wal_dir().display()
        )));
    }
    Ok(members)
}

/// Whether there are no more learners than this member was told to accept: at a start it must not be told less than there are.
///
/// # Errors
/// [`Error::Start`] in etcd's words.
pub(super) fn check_learners(members: &Members, config: &Config) -> Result<(), Error> {
    if members.learners() > config.max_learners {
        return Err(Error::Start("membership: too many learner members in cluster".into()));
    }
    Ok(())
}

/// Who the members are, from the first of these URLs that answers.
async fn existing(urls: &[String], dial: &Dial) -> Result<Members, &'static str> {
    for url in urls {
        match peer::fetch_members(std::slice::from_ref(url), dial.clone(), MEMBERS_WITHIN).await {
            Ok((_, members)) if members.is_empty() => {
                return Err("failed to get raft cluster member(s) from the given URLs");
            }
            Ok((cluster, members)) => return Ok(Members::of(cluster, members)),
            Err(why) => {
                tracing::warn!(address = format!("{url}/members"), error = %why, "failed to get cluster response");
            }
        }
    }
    Err("could not retrieve cluster information from the given URLs")
}

/// Whether at least one of the others runs at a cluster version that this member can join, and none that answers at another one.
async fn is_compatible(config: &Config, members: &Members, dial: &Dial) -> bool {
    let within = Duration::from_millis(super::REQUEST_BASE_MS + 2 * config.election_ms());
    let others: Vec<_> = members.iter().filter(|member| member.name != config.name).cloned().collect();
    let ask = |urls: Vec<String>| async move { peer::fetch_version(&urls, dial.clone(), within).await };
    let versions = futures::future::join_all(others.iter().map(|member| ask(member.peer_urls.clone()))).await;
    let window = version_window(downgrade_is_on(&others, dial, within).await);
    let mut fits = false;
    for (member, answer) in others.iter().zip(versions) {
        let cluster = match answer {
            Ok(versions) => Version::parse(&versions.cluster),
            Err(why) => {
                tracing::warn!("remote-member-id" = %member.id, error = %why, "failed to get version");
                None
            }
        };
        match cluster {
            Some(cluster) if !window.contains(&cluster) => {
                tracing::warn!(
                    "remote-member-id" = %member.id,
                    "remote-member-cluster-version" = %cluster,
                    "minimum-cluster-version-supported" = %window.start(),
                    "maximum-cluster-version-supported" = %window.end(),
                    "cluster version of remote member is not compatible"
                );
                return false;
            }
            Some(_) => fits = true,
            None => {}
        }
    }
    fits
}

/// The cluster versions at which this release may join: while the cluster goes back to it, only the one above.
fn version_window(downgrade: bool) -> std::ops::RangeInclusive<Version> {
    let own = Version::own();
    let above = Version { minor: own.minor + 1, ..own };
    if downgrade { above..=above } else { Version::OLDEST..=own }
}

async fn downgrade_is_on(others: &[crate::membership::Member], dial: &Dial, within: Duration) -> bool {
    for member in others {
        match peer::fetch_downgrade_enabled(&member.peer_urls, dial.clone(), within).await {
            Ok(enabled) => return enabled,
            Err(why) => tracing::warn!(
                "remote-member-id" = %member.id, error = %why, "failed to get downgrade enabled status"
            ),
        }
    }
    false
}

/// The URL with an address in the place of its name; as it is where there is none. `localhost` stays, as in etcd.
fn resolved(url: &str) -> String {
    let Some((scheme, address)) = url.split_once("://") else { return url.to_owned() };
    if scheme.starts_with("unix") || address.starts_with("localhost:") {
        return url.to_owned();
    }
    match address.to_socket_addrs().ok().and_then(|mut addresses| addresses.next()) {
        Some(found) => format!("{scheme}://{found}"),
        None => {
            tracing::warn!(url, "failed to resolve URL Host");
            url.to_owned()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_joins_clusters_up_to_ones_own_release_or_one_that_comes_down_to_it() {
        let v = |minor| Version { major: 3, minor };
        for (minor, downgrade, fits) in
            [(0, false, true), (5, false, true), (6, false, true), (7, false, false), (7, true, true), (6, true, false)]
        {
            assert_eq!(version_window(downgrade).contains(&v(minor)), fits, "3.{minor}, downgrade: {downgrade}");
        }
    }

    #[test]
    fn names_become_addresses_and_localhost_stays() {
        assert_eq!(resolved("http://127.0.0.1:2380"), "http://127.0.0.1:2380");
        assert_eq!(resolved("https://[::1]:2380"), "https://[::1]:2380");
        assert_eq!(resolved("http://localhost:2380"), "http://localhost:2380");
        assert_eq!(resolved("http://no-such-host.invalid:1"), "http://no-such-host.invalid:1");
    }
}
