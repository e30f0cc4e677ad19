//! A snapshot's way into a member: received and checked, accepted by raft, made into a store, put in the place of the state.
//!
//! ```text
//! peer ──▶ Receiving: file, check, keep ──▶ raft thread: step, manifest, log ──▶ apply thread ─┬─ store thread: new store, manifest
//!                                                                                             └─ Machine, watchers, leases, peers
//! ```
//!
//! What may fail fails before raft sees the message. The order of what counts when is [`crate::replica::install`]'s.

#![expect(clippy::disallowed_methods, reason = "the driver owns the clock")]

use super::Inner;
use super::Input;
use super::store_thread::Write;
use super::telemetry;
use crate::apply::Limits;
use crate::apply::Machine;
use crate::auth::Change;
use crate::consensus;
use crate::disk;
use crate::disk::Disk;
use crate::disk::DiskFile;
use crate::disk::RealDisk;
use crate::engine::Engine;
use crate::error::Error;
use crate::image;
use crate::image::snap_file;
use crate::image::snap_file::Attributes;
use crate::membership::Members;
use crate::meter;
use crate::peer;
use crate::proto::lab;
use crate::proto::lab::event::Kind;
use crate::proto::raftpb::Message;
use crate::proto::walpb::Snapshot as Mark;
use crate::replica::install::Installs;
use crate::replica::install::Intake;
use crate::replica::install::Stores;
use crate::replica::install::snap_dir;
use crate::store;
use crate::store::Renewable;
use crate::types::ClusterId;
use crate::types::Index;
use crate::types::MemberId;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::thread;
use std::time::Instant;
use tokio::sync::oneshot;

/// An image may be larger than what it holds: twice the quota, and a little; without a quota, this.
const IMAGE_BYTES_MAX: u64 = 1 << 40;
const IMAGE_BYTES_SPARE: u64 = 64 << 20;

/// The largest image that is taken. The leader's quota may be another one than this member's, so there is no harm in more, as long as the image and the
/// store that is made of it fit on the disk.
pub(super) fn bytes_max(quota: Option<u64>, free: Option<u64>) -> u64 {
    let usual = quota.map_or(IMAGE_BYTES_MAX, |quota| quota.saturating_mul(2).saturating_add(IMAGE_BYTES_SPARE));
    usual.max(free.unwrap_or(0) / 2)
}

/// The number in the next temporary file's name.
static NUMBERS: AtomicU64 = AtomicU64::new(0);

/// What a member that runs has to do with snapshots.
pub(super) struct Snapshots {
    pub(super) installs: Mutex<Installs>,
    /// One is being received.
    pub(super) receiving: AtomicBool,
    /// How many are being sent, and for how many followers the log is kept.
    pub(super) sending: AtomicUsize,
    pub(super) keeping_log: AtomicUsize,
    /// The store of a snapshot that raft has yet to accept or the store thread to install.
    ahead: Mutex<Option<Built>>,
    /// The disk had no room for such a store: the next ones are made when they must be.
    no_room: AtomicBool,
}

impl Snapshots {
    pub(super) fn new(installs: Installs) -> Snapshots {
        let installs = Mutex::new(installs);
        Snapshots {
            installs,
            receiving: AtomicBool::new(false),
            sending: AtomicUsize::new(0),
            keeping_log: AtomicUsize::new(0),
            ahead: Mutex::new(None),
            no_room: AtomicBool::new(false),
        }
    }

    /// The store that was made ahead for the snapshot at `mark`, if there is one.
    pub(super) fn take_ahead(&self, mark: &Mark) -> Option<Built> {
        self.ahead.lock().take_if(|built| built.mark == *mark)
    }
}

/// What raft made of a snapshot that was received.
pub(super) type Verdict = oneshot::Sender<Result<(), consensus::Refused>>;

/// How stores are made on this member.
#[derive(Clone, Copy)]
pub(super) struct Making {
    pub(super) cache_bytes: u64,
    pub(super) cluster: ClusterId,
    pub(super) limits: Limits,
}

/// A store made from an image, and its state.
pub(super) struct Built {
    mark: Mark,
    pub(super) engine: Arc<Renewable>,
    pub(super) machine: Machine,
}

impl Built {
    /// Makes a store in `dir`, durably. Reads the image once: index and leases are built while sled is filled. `told` is what members have told of
    /// themselves, where the image does not say it.
    pub(super) fn make(
        making: &Making,
        dir: &Path,
        image: Box<dyn DiskFile>,
        mark: &Mark,
        told: &Attributes,
    ) -> Result<Built, Error> {
        store::delete(dir)?;
        let reader = image::Snapshot::new(image)?.into_reader()?;
        let engine = Arc::new(Renewable::open(dir, making.cache_bytes)?);
        let filled = store::pour(&*engine, |behind| image::fill_from(&reader, behind, mark));
        let machine = filled.and_then(|loaded| {
            image::tell_attributes(&*engine, told)?;
            engine.sync()?;
            RealDisk.sync_dir(disk::folder_of(dir))?;
            Machine::of(engine.clone(), making.cluster, making.limits, loaded)
        });
        match machine {
            Ok(machine) => Ok(Built { mark: mark.clone(), engine, machine }),
            Err(why @ Error::Storage(_)) => {
                // sled would try to write once more, and waits for ever on a full disk.
                std::mem::forget(engine);
                Err(why)
            }
            // The image is no image: that may happen again and again, so nothing stays behind.
            Err(why) => engine.destroy().and(Err(why)),
        }
    }

    /// raft has no use for it.
    fn discard(self) {
        drop(self.machine);
        if let Err(why) = self.engine.destroy() {
            tracing::warn!(error = %why, "cannot delete a store that is of no use");
        }
    }
}

/// Stores on the real disk.
pub(super) struct Sled {
    pub(super) making: Making,
    /// The one that was built last.
    pub(super) built: Option<Built>,
    /// Made already, when the image arrived.
    pub(super) ahead: Option<Built>,
    /// The one that readers may still use; nothing in a member that starts.
    pub(super) running: Option<Arc<Renewable>>,
}

impl Stores for Sled {
    fn build(&mut self, dir: &Path, image: &Path, mark: &Mark) -> Result<(), Error> {
        let built = match self.ahead.take() {
            Some(ahead) => ahead,
            None => {
                let note = snap_file::newest(&RealDisk, &snap_dir(disk::folder_of(dir)), Index(mark.index));
                let note = note.ok().flatten().filter(|note| note.index().0 == mark.index);
                let told = note.map(|note| note.attributes()).unwrap_or_default();
                Built::make(&self.making, dir, RealDisk.open_to_read(image)?, mark, &told)?
            }
        };
        self.built = Some(built);
        Ok(())
    }

    fn retire(&mut self, dir: &Path) -> Result<(), Error> {
        match &self.running {
            Some(running) => running.doom(),
            None => store::delete(dir)?,
        }
        Ok(())
    }
}

/// What came in front of an image: the mark that the log gets.
///
/// # Errors
/// [`Error::Damaged`] if the message says nothing of a snapshot.
pub(super) fn mark_of(message: &Message) -> Result<Mark, Error> {
    let metadata = message.snapshot.as_ref().and_then(|snapshot| snapshot.metadata.clone());
    let metadata = metadata.filter(|metadata| metadata.index > 0 && metadata.conf_state.is_some());
    let metadata = metadata.ok_or_else(|| Error::Damaged("a message without a snapshot".into()))?;
    Ok(Mark { index: metadata.index, term: metadata.term, conf_state: metadata.conf_state })
}

/// An image that arrives: bounded, checked to its last row, kept under its index.
pub(super) struct Arriving {
    intake: Intake,
    message: Message,
    mark: Mark,
    cluster: ClusterId,
    bytes_max: u64,
    began: Instant,
}

impl Arriving {
    /// # Errors
    /// [`Error::Storage`]; [`Error::Damaged`] if the message is none of a snapshot.
    pub(super) fn begin(
        member: &Path,
        message: Message,
        cluster: ClusterId,
        quota: Option<u64>,
    ) -> Result<Arriving, Error> {
        let mark = mark_of(&message)?;
        let intake = Intake::begin(Arc::new(RealDisk), member, NUMBERS.fetch_add(1, Ordering::Relaxed))?;
        let bytes_max = bytes_max(quota, RealDisk.free(&snap_dir(member)));
        Ok(Arriving { intake, message, mark, cluster, bytes_max, began: Instant::now() })
    }

    pub(super) fn write(&mut self, piece: &[u8]) -> Result<(), Error> {
        if self.intake.bytes() + piece.len() as u64 > self.bytes_max {
            return Err(Error::Storage(format!("the database is larger than {} bytes", self.bytes_max)));
        }
        self.intake.write(piece)
    }

    /// Reads all of it, then keeps it. The message has the members in it when it comes back, as those of etcd up to 3.5 have.
    pub(super) fn keep(mut self) -> Result<(Message, Mark), Error> {
        let reader = image::Snapshot::new(self.intake.open()?)?.into_reader()?;
        let (members, version) = image::check(&reader, &self.mark, self.cluster)?;
        self.note(&members, version.as_deref());
        let sync_began = Instant::now();
        self.intake.keep(self.mark.index)?;
        meter::SNAP_DB_FSYNC.time(sync_began.elapsed());
        meter::SNAP_DB_SAVE.time(self.began.elapsed());
        Ok((self.message, self.mark))
    }

    fn note(&mut self, members: &Members, version: Option<&str>) {
        if let Some(snapshot) = self.message.snapshot.as_mut().filter(|snapshot| snapshot.data.is_empty()) {
            snapshot.data = snap_file::members_json(members, version).into();
        }
    }

    /// The same, and makes the store of it while it is checked: else it would be read twice. Nothing names that store before raft has accepted the
    /// snapshot, so a stop in between costs what was built and no more. Meanwhile the image reaches the disk.
    fn keep_and_build(mut self, snapshots: &Snapshots, making: &Making) -> Result<(Message, Mark), Error> {
        let dir = snapshots.installs.lock().next_store(self.mark.index);
        let is_free = snapshots.ahead.lock().is_none() && !dir.exists();
        if !is_free || snapshots.no_room.load(Ordering::Acquire) {
            return self.keep();
        }
        let (image, mut same) = (self.intake.open()?, self.intake.open()?);
        let told = self.message.snapshot.as_ref().map(|note| snap_file::attributes(&note.data)).unwrap_or_default();
        let (built, synced) = thread::scope(|scope| {
            let syncing = scope.spawn(move || {
                let sync_began = Instant::now();
                same.sync().inspect(|()| meter::SNAP_DB_FSYNC.time(sync_began.elapsed()))
            });
            let built = Built::make(making, &dir, image, &self.mark, &told);
            (built, syncing.join().unwrap_or_else(|_| Err(Error::Damaged("a sync panicked".into()))))
        });
        let built = built.inspect_err(|why| {
            if matches!(why, Error::Storage(_)) {
                snapshots.no_room.store(true, Ordering::Release);
                store::abandon(&dir);
            }
        })?;
        self.note(built.machine.members(), built.machine.cluster_version());
        let index = self.mark.index;
        if let Err(why) = synced.and_then(|()| self.intake.keep(index)) {
            built.discard();
            return Err(why);
        }
        meter::SNAP_DB_SAVE.time(self.began.elapsed());
        *snapshots.ahead.lock() = Some(built);
        Ok((self.message, self.mark))
    }
}

/// A leader's snapshot that arrives at a member that runs.
struct Receiving {
    inner: Arc<Inner>,
    arriving: Arriving,
    turn: Turn,
}

/// One at a time: each takes as much disk as the data.
struct Turn(Arc<Inner>);

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.snapshots.receiving.store(false, Ordering::Release);
    }
}

/// Says where the image goes that comes behind `message`.
pub(super) fn receive(inner: &Arc<Inner>, message: Message) -> Result<Box<dyn peer::Intake>, Error> {
    if inner.snapshots.receiving.swap(true, Ordering::AcqRel) {
        return Err(Error::TooManyRequests);
    }
    let turn = Turn(inner.clone());
    inner.snapshots.installs.lock().tidy()?;
    let arriving = Arriving::begin(&inner.member_dir(), message, inner.cluster, inner.config.limits.quota_bytes)?;
    Ok(Box::new(Receiving { inner: inner.clone(), arriving, turn }))
}

impl peer::Intake for Receiving {
    fn write(&mut self, piece: &[u8]) -> Result<(), Error> {
        self.arriving.write(piece)
    }

    fn finish(self: Box<Self>) -> BoxFuture<'static, Result<(), Error>> {
        // To its end, even if the sender goes away meanwhile: the next one must not meet a store that is half made.
        let taken = self.inner.runtime.clone().spawn(self.take());
        Box::pin(async move { taken.await.map_err(|e| Error::Damaged(e.to_string()))? })
    }
}

impl Receiving {
    async fn take(self: Box<Self>) -> Result<(), Error> {
        let Receiving { inner, arriving, turn } = *self;
        let (bytes, member) = (arriving.intake.bytes(), inner.clone());
        let kept = tokio::task::spawn_blocking(move || arriving.keep_and_build(&member.snapshots, &member.making()));
        let (message, mark) = kept.await.map_err(|e| Error::Damaged(e.to_string()))??;
        let from = MemberId(message.from);
        let (verdict, stepped) = oneshot::channel();
        inner.inbox.force(Input::Received(Box::new(message), verdict));
        let stepped = stepped.await.map_err(|_| Error::Stopped)?;
        // What raft has a use for is waited for, or installed by now.
        let is_wanted = inner.snapshots.installs.lock().is_pending(mark.index);
        if !is_wanted {
            let (member, useless) = (inner.clone(), inner.snapshots.take_ahead(&mark));
            let discard = move || {
                if let Some(useless) = useless {
                    useless.discard();
                }
                member.snapshots.installs.lock().tidy()
            };
            if let Ok(Err(why)) = tokio::task::spawn_blocking(discard).await {
                tracing::warn!(error = %why, "the image of a snapshot that is not needed stays until the next start");
            }
        }
        drop(turn);
        stepped.map_err(|why| Error::Damaged(why.to_string()))?;
        inner.tell(|| format!("received a snapshot from {from}: all up to entry {}, {bytes} bytes", mark.index));
        Ok(())
    }
}

impl Inner {
    /// This member's own folder.
    pub(super) fn member_dir(&self) -> PathBuf {
        self.config.data_dir.join("member")
    }

    /// How this member makes stores.
    pub(super) fn making(&self) -> Making {
        let config = &self.config;
        Making { cache_bytes: config.store_cache_bytes, cluster: self.cluster, limits: config.limits }
    }

    /// Tells observers something in words.
    pub(super) fn tell(&self, text: impl FnOnce() -> String) {
        self.tap.tell(|| Kind::Note(lab::Note { text: text() }));
    }

    /// Puts the state of an accepted snapshot in the place of this member's. On the apply thread: no entry is applied meanwhile.
    ///
    /// # Errors
    /// [`Error::Storage`], [`Error::Damaged`]: the member must stop, and its next start goes on from the image.
    pub(super) fn install(self: &Arc<Self>, mark: &Mark) -> Result<(), Error> {
        let began = self.now();
        let (answer, built) = mpsc::sync_channel(1);
        self.writes.force(Write::Install(mark.clone(), answer));
        let machine = built.recv().map_err(|_| Error::Stopped)??;
        if machine.applied().0.0 != mark.index {
            return Err(Error::Damaged(format!(
                "the store made from the snapshot at {} holds another state",
                mark.index
            )));
        }
        let before = {
            let mut current = self.machine.write();
            self.batches_written.store(0, Ordering::Release);
            self.epoch.fetch_add(1, Ordering::AcqRel);
            std::mem::replace(&mut *current, machine)
        };
        self.follow_installed(&before);
        let revision = self.machine.read().store().revision();
        tracing::info!(
            "applied-index" = mark.index,
            revision = revision.0,
            took = ?std::time::Duration::from_millis(self.now().0 - began.0),
            "applied snapshot"
        );
        self.tell(|| format!("installed a snapshot: all up to entry {}, revision {revision}", mark.index));
        Ok(())
    }

    /// Lets everybody know who follows the state entry by entry, and has missed some.
    fn follow_installed(self: &Arc<Self>, before: &Machine) {
        // What they need of the machine first: none of their locks is waited for under its.
        let (auth_is_on, rights, revision, floor, members) = {
            let machine = self.machine.read();
            let (auth, store) = (machine.auth(), machine.store());
            (auth.is_enabled(), auth.revision(), store.revision(), store.compacted(), machine.members().clone())
        };
        if rights != before.auth().revision() {
            // A password may have changed, or a user gone, in an entry that this member has not seen. Clients log in again by themselves.
            self.auth.follow(self.now(), &Change::AllTokensGone);
        }
        let auth = if auth_is_on { Change::Enabled } else { Change::Disabled };
        self.auth.follow(self.now(), &auth);
        self.auth.follow(self.now(), &Change::Rights);
        self.timers.lock().demote();
        self.lease_news.notify_waiters();
        // Watchers go on from where each of them is; who is below the compaction hears that.
        self.watches.restored(revision);
        if let Some(floor) = floor {
            self.watches.compacted(floor);
        }
        if let Some(peers) = self.peers.get() {
            for gone in before.members().iter().filter(|member| members.get(member.id).is_none()) {
                peers.remove(gone.id);
            }
            for member in members.iter().filter(|member| member.id != self.id) {
                if let Err(why) = peers.add(member.id, &member.peer_urls) {
                    tracing::warn!(error = %why, "cannot connect to a member: its peer URLs are unusable");
                }
            }
        }
        self.tap.tell(|| Kind::Members(telemetry::members(&members)));
        // Whether their entries were among those that the snapshot stands for, nobody can tell.
        self.requests.fail_before(u64::MAX, &Error::Timeout);
    }
}
