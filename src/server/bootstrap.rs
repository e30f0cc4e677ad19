//! The first start of a member: who the first members are, and what may be wrong with that. A member that has a log looks at none of it.
//!
//! Source: etcd `server/embed/config.go`, `server/config/config.go`, `etcdserver/bootstrap.go`.

use super::config::Config;
use super::srv::Dns;
use super::urls;
use super::urls::Url;
use crate::golang;
use crate::membership;
use std::collections::BTreeMap;
use std::collections::BTreeSet;

impl Config {
    /// Whether this member has been started before: then the `initial-*` flags mean nothing any more.
    #[must_use]
    pub fn has_log(&self) -> bool {
        let dir = self.wal_dir.clone().unwrap_or_else(|| self.data_dir.join("member").join("wal"));
        let Ok(files) = std::fs::read_dir(dir) else { return false };
        files.flatten().any(|file| file.path().extension().is_some_and(|end| end == "wal"))
    }

    /// Asks DNS, or a cluster that keeps lists, for the first members, if that is where they are.
    ///
    /// # Errors
    /// A sentence for the user.
    pub(super) async fn discover(&mut self) -> Result<(), String> {
        let found = if self.discovery.is_on() {
            tracing::info!("Bootstrapping cluster using v3 discovery.");
            self.initial_cluster_token.clone_from(&self.discovery.token);
            self.discovery.join(&self.name, &self.advertise_peer_urls).await?
        } else if self.discovery.srv.is_empty() {
            return Ok(());
        } else {
            let (domain, suffix) = (&self.discovery.srv, &self.discovery.srv_name);
            let found = Dns::system().cluster(domain, suffix, &self.name, &self.advertise_peer_urls)?;
            tracing::info!(cluster = found, "got bootstrap from DNS for etcd-server");
            found
        };
        self.initial_cluster = urls::parse_cluster(&found)?;
        // As DNS names this member: it has been compared by address.
        if let Some(own) = self.initial_cluster.get(&self.name) {
            self.advertise_peer_urls.clone_from(own);
        }
        Ok(())
    }

    /// What is wrong for a first start; a member that has a log does not look at these.
    #[must_use]
    pub fn bootstrap_problems(&self) -> Vec<String> {
        let mut found = Vec::new();
        if self.initial_cluster.is_empty() {
            return vec!["initial cluster unset and no discovery URL found".into()];
        }
        let Some(own) = self.initial_cluster.get(&self.name) else {
            return vec![format!(
                "couldn't find local name {} in the initial cluster configuration",
                golang::quote(self.name.as_bytes())
            )];
        };
        if !self.join_existing {
            found.extend(self.advertise_problem(own));
        }
        let mut seen = BTreeSet::new();
        if !self.initial_cluster.values().flatten().all(|url| seen.insert(url)) {
            found.push(format!("initial cluster {} has duplicate url", urls::cluster_text(&self.initial_cluster)));
        }
        found
    }

    /// Compares what this member says of itself with what the cluster's list says of it. By text: etcd also compares resolved addresses, which would make a
    /// start depend on DNS.
    fn advertise_problem(&self, own: &[Url]) -> Option<String> {
        let missing = |from: &[Url], other: &[Url]| -> Vec<Url> {
            from.iter().filter(|url| !other.contains(url)).cloned().collect()
        };
        let advertised = urls::joined(&self.advertise_peer_urls);
        let texts = |urls: &[Url]| urls.iter().map(|url| url.as_str().to_owned()).collect::<Vec<_>>();
        let named = |urls: Vec<Url>| urls::cluster_text(&BTreeMap::from([(self.name.clone(), urls)]));
        let not_advertised = missing(own, &self.advertise_peer_urls);
        if !not_advertised.is_empty() {
            return Some(format!(
                "--initial-cluster has {} but missing from --initial-advertise-peer-urls={advertised} ({})",
                named(not_advertised),
                membership::first_difference(&texts(&self.advertise_peer_urls), &texts(own)),
            ));
        }
        let not_listed = missing(&self.advertise_peer_urls, own);
        (!not_listed.is_empty()).then(|| {
            format!(
                "--initial-advertise-peer-urls has {} but missing from --initial-cluster={}",
                urls::joined(&not_listed),
                named(self.advertise_peer_urls.clone())
            )
        })
    }
}
