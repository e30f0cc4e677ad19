//! A member whose log is whole and whose state is gone.
//!
//! Its promises stand in the log (entries, term, vote), so it is the same member as before; it only cannot serve, and it does not take part, until it has
//! the state up to some entry that its log leads on from. Any other member's applied state will do: what is applied was agreed on. So it asks
//! the others in turn, again and again, until one gives; then the start goes on as after a crash in the middle of an install.
//!
//! Where the others are it knows from the note that etcd's tools read, from the log, and from `--initial-cluster`.

#![expect(clippy::disallowed_methods, reason = "waits before it asks again")]

use super::Config;
use super::boot;
use super::boot::Boot;
use super::boot::Booted;
use super::install::Arriving;
use super::join::Plan;
use crate::disk::RealDisk;
use crate::error::Error;
use crate::image::snap_file;
use crate::membership::Member;
use crate::peer;
use crate::proto::raftpb::EntryType;
use crate::proto::walpb::ConfChange;
use crate::proto::walpb::Snapshot as Mark;
use crate::replica::install;
use crate::replica::start::Held;
use crate::replica::state;
use crate::types::ClusterId;
use crate::types::Index;
use crate::types::MemberId;
use crate::types::Term;
use crate::wal::Wal;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use prost::Message as _;
use std::collections::BTreeSet;
use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio_rustls::rustls::ClientConfig;

/// How long to wait before all others are asked again.
const ASK_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// What is left of the member.
pub(super) struct Lost {
    /// Why the store cannot be used.
    pub(super) why: String,
    pub(super) id: MemberId,
    pub(super) cluster: ClusterId,
    pub(super) held: Held,
    pub(super) wal: Wal,
    /// Its own folder.
    pub(super) member: PathBuf,
    /// Held until it runs, or gives up.
    pub(super) lock: File,
}

/// Boots a member, if need be with another member's help.
///
/// # Errors
/// Those of [`boot::boot`]; [`Error::Damaged`] if the state is lost and nobody else can have it.
pub(super) async fn boot(
    config: Config,
    plan: Plan,
    dial: Option<Arc<ClientConfig>>,
) -> Result<(Config, Booted), Error> {
    let (config, mut booted) = boot_once(config, plan).await?;
    if let Boot::Lost(lost) = booted {
        let index = lost.recover(&config, dial).await?;
        tracing::info!(index = %index, "got the state from another member");
        booted = boot_once(config.clone(), Plan::Restart).await?.1;
    }
    match booted {
        Boot::Ready(booted) => Ok((config, booted)),
        Boot::Lost(lost) => {
            Err(Error::Damaged(format!("the state that another member gave is of no use: {}", lost.why)))
        }
    }
}

async fn boot_once(config: Config, plan: Plan) -> Result<(Config, Boot), Error> {
    let booted = tokio::task::spawn_blocking(move || {
        let booted = boot::boot(&config, plan);
        (config, booted)
    });
    let (config, booted) = booted.await.map_err(|e| Error::Damaged(format!("start panicked: {e}")))?;
    Ok((config, booted?))
}

impl Lost {
    /// Asks until somebody gives a state that the log leads on from, and makes it this member's. Returns up to where it goes.
    async fn recover(self, config: &Config, dial: Option<Arc<ClientConfig>>) -> Result<Index, Error> {
        let urls = self.others(config);
        let from = self.held.goes_on_from();
        if urls.is_empty() {
            return Err(Error::Damaged(format!(
                "the store cannot be used ({}), the log only goes on from entry {from}, and there is no other member: restore this member from a snapshot",
                self.why
            )));
        }
        tracing::warn!(
            why = self.why,
            "log-goes-on-from" = %from,
            "the store cannot be used, and the log does not go back to the beginning: asking the other members for the state"
        );
        let me = peer::Config {
            id: self.id,
            cluster: self.cluster,
            urls: config.peer_urls.clone(),
            tls: dial,
            dial_timeout: Duration::from_millis(1000 + config.election_ms()),
        };
        loop {
            for url in &urls {
                match self.ask(&me, url, config).await {
                    Ok(mark) => return self.adopt(mark).await,
                    Err(why) => tracing::warn!(url, error = %why, "no state from this member"),
                }
            }
            tokio::time::sleep(ASK_AGAIN_AFTER).await;
        }
    }

    /// All peer URLs that this member knows of, but its own.
    fn others(&self, config: &Config) -> BTreeSet<String> {
        let changes = self.held.entries.iter().filter(|entry| entry.entry_type() != EntryType::EntryNormal);
        let changes = changes.filter_map(|entry| ConfChange::decode(entry.data.clone()).ok());
        let logged = changes.filter_map(|change| Member::from_json(&change.context).ok());
        let mut urls: BTreeSet<String> = logged.flat_map(|member| member.peer_urls).collect();
        urls.extend(snap_file::peer_urls(&RealDisk, &install::snap_dir(&self.member)));
        urls.extend(config.founders.values().flatten().cloned());
        urls.retain(|url| !config.peer_urls.contains(url));
        urls
    }

    /// Fetches one member's state, and keeps it if it goes with the log.
    async fn ask(&self, me: &peer::Config, url: &str, config: &Config) -> Result<Mark, Error> {
        let got = Arc::new(Mutex::new(None));
        let (member, cluster, quota) = (self.member.clone(), self.cluster, config.limits.quota_bytes);
        let (held, kept) = (&self.held, got.clone());
        let open = move |message: crate::proto::raftpb::Message| {
            let mark = super::install::mark_of(&message)?;
            held.adopt(Index(mark.index), Term(mark.term)).map_err(Error::Damaged)?;
            let arriving = Arriving::begin(&member, message, cluster, quota)?;
            Ok(Box::new(Fetched { arriving, got: kept }) as Box<dyn peer::Intake>)
        };
        peer::fetch_state(me, url, open).await.map_err(|e| Error::Damaged(e.to_string()))?;
        let mark = got.lock().take();
        mark.ok_or_else(|| Error::Damaged("nothing came".into()))
    }

    /// The image is kept: it becomes what the next start takes the state from.
    async fn adopt(mut self, mark: Mark) -> Result<Index, Error> {
        let adopted = tokio::task::spawn_blocking(move || {
            let wal = &mut self.wal;
            let index = state::adopt(&self.held, &mark, &RealDisk, &self.member, |hard_state| {
                wal.save_snapshot_mark(&mark)?;
                wal.append(&[], Some(hard_state))?;
                wal.sync()
            })?;
            drop(self.lock);
            Ok(index)
        });
        adopted.await.map_err(|e| Error::Damaged(e.to_string()))?
    }
}

/// Another member's state, on its way into a file.
struct Fetched {
    arriving: Arriving,
    got: Arc<Mutex<Option<Mark>>>,
}

impl peer::Intake for Fetched {
    fn write(&mut self, piece: &[u8]) -> Result<(), Error> {
        self.arriving.write(piece)
    }

    fn finish(self: Box<Self>) -> BoxFuture<'static, Result<(), Error>> {
        let Fetched { arriving, got } = *self;
        Box::pin(async move {
            let kept = tokio::task::spawn_blocking(move || arriving.keep()).await;
            let (_, mark) = kept.map_err(|e| Error::Damaged(e.to_string()))??;
            *got.lock() = Some(mark);
            Ok(())
        })
    }
}
