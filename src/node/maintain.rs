//! What an operator asks of a member: space back, hashes, a downgrade; and the alarm that it raises by itself.
//!
//! All of it is seldom and may take long, so it runs beside the request path: rows are chosen under the Machine's lock in slices and read
//! without it, and the store is written afresh by its own thread. Source: etcd `etcdserver/api/v3rpc/maintenance.go`, `version/version.go`,
//! `storage/mvcc/hash.go`.

use super::Inner;
use super::Node;
use super::apply_thread::hand_over;
use super::store_thread::Write;
use crate::apply::Machine;
use crate::apply::Reply;
use crate::apply::version;
use crate::apply::version::Version;
use crate::engine::Engine;
use crate::engine::Table;
use crate::error::Error;
use crate::membership::Member;
use crate::meter;
use crate::mvcc::Hash;
use crate::mvcc::HashPlan;
use crate::mvcc::RawRows;
use crate::peer;
use crate::proto::etcdserverpb as pb;
use crate::proto::etcdserverpb::AlarmType;
use crate::proto::etcdserverpb::alarm_request::AlarmAction;
use crate::proto::membershippb;
use crate::types::Revision;
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::Arc;
use tokio::sync::oneshot;
use tokio::sync::watch as signal;
use tokio::time::timeout;

/// How many hashes of compactions are kept; etcd's `hashStorageMaxSize`.
const HASHES_MAX: usize = 10;
/// How many rows of a small table are hashed at a time.
const HASH_ROWS: usize = 64;
/// Rows of [`Table::Meta`] that are the same on members that agree: the others count what one member has applied or removed.
const AGREED: [&[u8]; 2] = [b"confState", b"scheduledCompactRev"];

/// The hashes that the last compactions settled, by revision. Members compare them long after the rows are gone.
#[derive(Debug, Default)]
pub(super) struct Hashes(Mutex<VecDeque<Hash>>);

impl Hashes {
    fn keep(&self, hash: Hash) {
        let mut hashes = self.0.lock();
        // Two compactions in quick succession are hashed side by side.
        let place = hashes.partition_point(|other| other.hash_revision < hash.hash_revision);
        hashes.insert(place, hash);
        if hashes.len() > HASHES_MAX {
            hashes.pop_front();
        }
    }

    fn at(&self, revision: i64) -> Option<Hash> {
        self.0.lock().iter().find(|hash| hash.hash_revision == revision).copied()
    }

    /// Those above a revision, newest first.
    pub(super) fn after(&self, revision: i64) -> Vec<Hash> {
        let mut hashes: Vec<Hash> =
            self.0.lock().iter().filter(|hash| hash.hash_revision > revision).copied().collect();
        hashes.sort_unstable_by_key(|hash| std::cmp::Reverse(hash.hash_revision));
        hashes
    }
}

impl Node {
    /// The hash of history at `revision`, 0 for now; one that a compaction settled as it was then.
    ///
    /// # Errors
    /// [`Error::Compacted`], [`Error::FutureRevision`].
    pub async fn hash_kv(&self, revision: i64) -> Result<Hash, Error> {
        if let Some(hash) = self.inner.hashes.at(revision) {
            let current = self.read(|machine| machine.store().revision());
            return Ok(Hash { current, ..hash });
        }
        let plan = self.read(|machine| machine.store().hash_plan(revision))?;
        let (node, began) = (self.clone(), self.inner.started.elapsed());
        let hash = blocking(move || node.run_plan(plan).map(|(hash, _)| hash)).await?;
        meter::HASH_REV.time(self.inner.started.elapsed() - began);
        Ok(hash)
    }

    /// Settles the hash of the compaction that was just applied, and only then lets its rows be removed.
    pub(super) fn hash_compaction(&self, plan: HashPlan) {
        let node = self.clone();
        self.inner.runtime.spawn_blocking(move || match node.run_plan(plan) {
            Ok((hash, plan)) => {
                tracing::info!(
                    hash = hash.hash,
                    revision = hash.hash_revision,
                    "compact-revision" = hash.compact_revision,
                    "storing new hash"
                );
                node.inner.hashes.keep(hash);
                drop(plan);
            }
            Err(why) => tracing::warn!(error = %why, "failed to hash what a compaction removes"),
        });
    }

    /// Reads all that the plan names; gives the plan back, because rows stay as long as it lives.
    fn run_plan(&self, mut plan: HashPlan) -> Result<(Hash, HashPlan), Error> {
        while self.read(|machine| machine.store().hash_more(&mut plan)) {}
        Ok((plan.run()?, plan))
    }

    /// The hash of all that members agree on, and the revision: for tests, as in etcd.
    ///
    /// # Errors
    /// [`Error::Stopped`], [`Error::Storage`] and [`Error::Damaged`].
    pub async fn hash_all(&self) -> Result<(u32, Revision), Error> {
        let (answer, written) = oneshot::channel();
        let (rows, revision) = self
            .locked(|inner, machine| {
                hand_over(inner, machine)?;
                inner.writes.force(Write::Barrier(answer));
                Ok((machine.store().raw_rows(), machine.store().revision()))
            })
            .await?;
        written.await.map_err(|_| Error::Stopped)?;
        let engine = self.inner.engine.read().clone();
        let began = self.inner.started.elapsed();
        let hash = blocking(move || hash_tables(&*engine, rows)).await?;
        meter::HASH.time(self.inner.started.elapsed() - began);
        Ok((hash, revision))
    }

    /// Writes the store afresh, without what nobody needs any more. Reads and writes go on meanwhile.
    ///
    /// # Errors
    /// [`Error::Storage`] or [`Error::Damaged`]: the store is as it was. [`Error::Stopped`].
    pub async fn defragment(&self) -> Result<(), Error> {
        let node = self.clone();
        // To its end, also if the caller goes away: the fresh store and what is told of its size belong together.
        let defragmented = self.inner.runtime.spawn(async move {
            let _counted = Defragmenting::begin(&node.inner.defragmenting);
            let (answer, done) = oneshot::channel();
            // What was removed a moment ago is not copied: the store hears of it first.
            node.locked(|inner, machine| {
                hand_over(inner, machine)?;
                inner.writes.force(Write::Renew(answer));
                Ok(())
            })
            .await?;
            done.await.map_err(|_| Error::Stopped)??;
            node.locked(|_, machine| {
                machine.defragmented();
                Ok(())
            })
            .await
        });
        defragmented.await.map_err(|_| Error::Stopped)?
    }

    /// Does something short under the Machine's write lock. Readers may be in front, so a thread that may block waits for it: the runtime's threads
    /// answer everybody else meanwhile.
    async fn locked<R: Send + 'static>(
        &self,
        work: impl FnOnce(&Inner, &mut Machine) -> Result<R, Error> + Send + 'static,
    ) -> Result<R, Error> {
        let inner = Arc::clone(&self.inner);
        blocking(move || work(&inner, &mut inner.machine.write())).await
    }

    /// Keeps the store from being exchanged until the sender is used or dropped. A thread of its own waits: nothing of the runtime is held up.
    #[cfg(test)]
    pub(crate) fn hold_store(&self) -> std::sync::mpsc::Sender<()> {
        let (release, released) = std::sync::mpsc::channel();
        let (told, held) = std::sync::mpsc::channel();
        let engine = self.inner.engine.read().clone();
        std::thread::spawn(move || engine.hold(&told, &released));
        held.recv().expect("it is held");
        release
    }

    /// How many defragmentations are under way, now and as that changes.
    #[must_use]
    pub fn defragmenting(&self) -> signal::Receiver<usize> {
        self.inner.defragmenting.subscribe()
    }

    /// Tells all members that this one is out of space, unless they know. Returns once they do, or once it has failed.
    pub async fn raise_no_space(&self) {
        let id = self.inner.id.0;
        let raised = |machine: &Machine| {
            machine.alarms().iter().any(|alarm| alarm.member_id == id && alarm.alarm == AlarmType::Nospace as i32)
        };
        // One after the other: a thousand refused writes raise one alarm.
        let turn = timeout(self.inner.request_timeout(), self.inner.raising.lock()).await;
        // Who has waited for so long has waited for one who could not raise it.
        if turn.is_err() || self.read(raised) {
            return;
        }
        tracing::warn!("the store exceeds its quota: raising the NOSPACE alarm");
        let alarm =
            pb::AlarmRequest { action: AlarmAction::Activate as i32, member_id: id, alarm: AlarmType::Nospace as i32 };
        if let Err(why) = self.propose(pb::InternalRaftRequest { alarm: Some(alarm), ..Default::default() }).await {
            tracing::warn!(error = %why, "failed to raise alarm");
        }
    }
}

/// A defragmentation under way, however it ends.
struct Defragmenting<'a>(&'a signal::Sender<usize>);

impl<'a> Defragmenting<'a> {
    fn begin(count: &'a signal::Sender<usize>) -> Defragmenting<'a> {
        count.send_modify(|count| *count += 1);
        Defragmenting(count)
    }
}

impl Drop for Defragmenting<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}

/// Runs what reads much or waits for a lock, away from the threads that answer.
async fn blocking<R: Send + 'static>(work: impl FnOnce() -> Result<R, Error> + Send + 'static) -> Result<R, Error> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|e| Error::Damaged(format!("a thread beside the runtime's: {e}")))?
}

/// CRC-32C over every table in the order of names: its name, then keys and values. Source: contract-server 6.5.
fn hash_tables(engine: &dyn Engine, rows: RawRows) -> Result<u32, Error> {
    let (mut hash, mut rows) = (0, Some(rows));
    for table in Table::ALL {
        hash = crc32c::crc32c_append(hash, table.name().as_bytes());
        if table == Table::Key {
            let rows = rows.take().expect("one table of rows");
            rows.each(|key, value| hash = crc32c::crc32c_append(crc32c::crc32c_append(hash, key), value))?;
            continue;
        }
        let mut from = Vec::new();
        loop {
            let some = engine.scan(table, &from, HASH_ROWS)?;
            let Some((last, _)) = some.last() else { break };
            from = [last.as_ref(), &[0]].concat();
            for (key, value) in some {
                if table != Table::Meta || AGREED.contains(&key.as_ref()) {
                    hash = crc32c::crc32c_append(crc32c::crc32c_append(hash, &key), &value);
                }
            }
        }
    }
    Ok(hash)
}

/// Downgrades. Each call answers with the cluster's version.
impl Node {
    /// Whether the cluster may go back to `target`.
    ///
    /// # Errors
    /// [`Error::WrongDowngradeVersionFormat`], [`Error::ClusterVersionUnavailable`], [`Error::InvalidDowngradeTargetVersion`],
    /// [`Error::DowngradeInProcess`], and those of [`Node::read_barrier`].
    pub async fn validate_downgrade(&self, target: &str) -> Result<Version, Error> {
        let target = Version::parse_target(target)?;
        self.cluster_version()?;
        self.read_barrier().await?;
        let cluster = self.cluster_version()?;
        self.read(|machine| version::check_downgrade(cluster, target, machine.downgrade()))?;
        Ok(cluster)
    }

    /// Lets members of the release `target` join: the cluster's version goes down next.
    ///
    /// # Errors
    /// As [`Node::validate_downgrade`], and those of [`Node::propose`].
    pub async fn enable_downgrade(&self, target: &str) -> Result<Version, Error> {
        let checked = match self.validate_downgrade(target).await {
            Ok(_) => Version::parse_target(target),
            Err(why) => Err(why),
        };
        let target = checked.inspect_err(|why| tracing::warn!(error = %why, "reject downgrade request"))?;
        self.set_downgrade(true, target.to_string()).await?;
        self.cluster_version()
    }

    /// Ends a downgrade. That there is none is told in the log only, as in etcd.
    ///
    /// # Errors
    /// [`Error::ClusterVersionUnavailable`].
    pub async fn cancel_downgrade(&self) -> Result<Version, Error> {
        let cancelled = match self.read_barrier().await {
            Ok(()) if !self.read(|machine| machine.downgrade().enabled) => Err(Error::NoInflightDowngrade),
            Ok(()) => self.set_downgrade(false, String::new()).await.map(drop),
            Err(why) => Err(why),
        };
        if let Err(why) = cancelled {
            tracing::warn!(error = %why, "failed to cancel downgrade");
        }
        self.cluster_version()
    }

    fn cluster_version(&self) -> Result<Version, Error> {
        self.read(|machine| machine.cluster_version().and_then(Version::parse)).ok_or(Error::ClusterVersionUnavailable)
    }

    async fn set_downgrade(&self, enabled: bool, ver: String) -> Result<Reply, Error> {
        let set = Some(membershippb::DowngradeInfoSetRequest { enabled, ver });
        self.propose(pb::InternalRaftRequest { downgrade_info_set: set, ..Default::default() }).await
    }

    /// The leader's part: moves the cluster's version to what its members speak, or to where a downgrade leads.
    pub(super) async fn update_cluster_version(&self) {
        let (cluster, downgrade) =
            self.read(|machine| (machine.cluster_version().and_then(Version::parse), machine.downgrade().clone()));
        if cluster == Some(Version::own()) && !downgrade.enabled {
            // As high as this member goes, and nobody wants it lower: no need to ask around.
            return;
        }
        let versions = self.member_versions().await;
        let oldest = versions.iter().copied().collect::<Option<Vec<Version>>>().and_then(|all| all.into_iter().min());
        let next = match version::decide(cluster, oldest, &downgrade) {
            Ok(Some(next)) => next,
            Ok(None) => return,
            Err(why) => {
                return tracing::error!(error = %why, target = downgrade.target, "Failed to monitor cluster version");
            }
        };
        match cluster {
            None => tracing::info!("cluster-version" = next.short(), "setting up initial cluster version using v3 API"),
            Some(old) => {
                tracing::info!(from = old.short(), to = next.short(), "updating cluster version using v3 API");
            }
        }
        let set = Some(membershippb::ClusterVersionSetRequest { ver: next.to_string() });
        match self.propose(pb::InternalRaftRequest { cluster_version_set: set, ..Default::default() }).await {
            Ok(_) => tracing::info!("cluster-version" = next.short(), "cluster version is updated"),
            Err(why) => tracing::warn!(error = %why, "failed to update cluster version"),
        }
    }

    /// The leader's other part: a downgrade is over when every member runs its target.
    pub(super) async fn end_downgrade(&self) {
        let downgrade = self.read(|machine| machine.downgrade().clone());
        if !downgrade.enabled || !version::is_downgraded(&self.member_versions().await, &downgrade) {
            return;
        }
        tracing::info!("cluster-version" = downgrade.target, "the cluster has been downgraded");
        if let Err(why) = self.set_downgrade(false, String::new()).await {
            tracing::warn!(error = %why, "failed to cancel downgrade");
        }
    }

    /// What each member says that it runs; nothing for one that does not answer.
    async fn member_versions(&self) -> Vec<Option<Version>> {
        let members: Vec<Member> = self.read(|machine| machine.members().iter().cloned().collect());
        let ask = |member: Member| async move {
            if member.id == self.inner.id {
                return Some(Version::own());
            }
            let dial = self.inner.dial.clone();
            match peer::fetch_version(&member.peer_urls, dial, self.inner.request_timeout()).await {
                Ok(versions) => Version::parse(&versions.server),
                Err(why) => {
                    tracing::warn!("remote-member-id" = %member.id, error = %why, "failed to get version");
                    None
                }
            }
        };
        futures::future::join_all(members.into_iter().map(ask)).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_ten_hashes_are_kept() {
        let hashes = Hashes::default();
        let hash = |revision: i64| Hash {
            hash: revision as u32,
            compact_revision: revision - 1,
            hash_revision: revision,
            current: Revision(1),
        };
        [2, 1].into_iter().chain(3..=12).for_each(|revision| hashes.keep(hash(revision)));
        assert_eq!((hashes.at(2), hashes.at(3), hashes.at(12)), (None, Some(hash(3)), Some(hash(12))));
        assert_eq!(hashes.at(0), None, "0 means now, which is no compaction");
    }
}
