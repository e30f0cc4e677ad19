//! Snapshots between members: the leader's image, its way, and what the receiver makes of it, in the steps of [`crate::replica::install`].
//!
//! ```text
//! leader: image of the state as it is ─▶ under way (lost, broken off, late) ─▶ receiver: file, check, keep ─▶ raft ─▶ manifest, mark ─▶ new store
//! ```
//!
//! Files are on the simulated disk, so that power may go at any call. Stores are kept by the name of their folder; of each there is a file of that
//! name, so that a start finds them in the member's folder.

use super::disk::SimDisk;
use super::disk::Trouble;
use super::judge::Verdict;
use super::member::Alive;
use super::member::Input;
use super::member::MEMBER_DIR;
use super::store::SimStore;
use super::world::Event;
use super::world::World;
use crate::apply::Limits;
use crate::apply::Machine;
use crate::disk::Disk;
use crate::error::Error;
use crate::image;
use crate::proto::raftpb::Message;
use crate::proto::raftpb::Snapshot;
use crate::proto::raftpb::SnapshotMetadata;
use crate::proto::walpb::Snapshot as Mark;
use crate::replica::install::Intake;
use crate::replica::install::Stores;
use crate::replica::state::States;
use crate::types::ClusterId;
use crate::types::Index;
use crate::types::MemberId;
use parking_lot::Mutex;
use rand::Rng;
use rand::rngs::StdRng;
use std::collections::BTreeMap;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

/// How much of an image is written at a time.
const PIECE_BYTES: usize = 4096;
/// When the sender gives up waiting.
const PATIENCE_US: u64 = 3_000_000;
/// How many disk calls an install may take.
const INSTALL_CALLS: u32 = 40;
/// How long a leader keeps the log for a follower that a snapshot is on its way to.
pub(super) const KEEP_LOG_MS: u64 = 1500;

/// A member's stores, by folder; they outlive it.
#[derive(Clone, Default)]
pub(super) struct Shelf(Arc<Mutex<BTreeMap<PathBuf, Arc<SimStore>>>>);

impl Shelf {
    /// The store in this folder; a new one if there is none.
    pub(super) fn open(&self, dir: &Path) -> Arc<SimStore> {
        self.0.lock().entry(dir.to_owned()).or_default().clone()
    }

    pub(super) fn put(&self, dir: &Path, store: Arc<SimStore>) {
        self.0.lock().insert(dir.to_owned(), store);
    }

    fn remove(&self, dir: &Path) {
        self.0.lock().remove(dir);
    }

    /// What a start finds; says whether any store has lost something.
    pub(super) fn after_stop(&self, power: bool, dice: &mut StdRng) -> bool {
        let mut any = false;
        for store in self.0.lock().values_mut() {
            let (found, is_behind) = if power { store.after_power_loss(dice) } else { (store.after_exit(), false) };
            any |= is_behind;
            *store = Arc::new(found);
        }
        any
    }

    /// Spoils a row of some store.
    pub(super) fn rot(&self, dice: &mut StdRng) -> bool {
        let stores = self.0.lock();
        let which = dice.random_range(0..stores.len().max(1));
        stores.values().nth(which).is_some_and(|store| store.rot(dice))
    }

    /// All stores are gone.
    pub(super) fn clear(&self) {
        self.0.lock().clear();
    }
}

/// Makes and unmakes stores.
pub(super) struct Builder {
    pub(super) disk: SimDisk,
    pub(super) shelf: Shelf,
    /// The one that was built last.
    pub(super) built: Option<(Arc<SimStore>, Machine)>,
    pub(super) cluster: ClusterId,
    pub(super) limits: Limits,
}

impl Stores for Builder {
    fn build(&mut self, dir: &Path, image: &Path, mark: &Mark) -> Result<(), Error> {
        self.shelf.remove(dir);
        let reader = image::Snapshot::new(self.disk.open(image)?)?.into_reader()?;
        self.disk.create(dir)?.sync()?;
        let store = Arc::new(SimStore::default());
        let loaded = image::fill_from(&reader, &*store, mark)?;
        self.disk.sync_dir(Path::new(MEMBER_DIR))?;
        store.settle();
        self.shelf.put(dir, store.clone());
        let machine = Machine::of(store.clone(), self.cluster, self.limits, loaded)?;
        self.built = Some((store, machine));
        Ok(())
    }

    fn retire(&mut self, dir: &Path) -> Result<(), Error> {
        self.shelf.remove(dir);
        if self.disk.exists(dir) { self.disk.remove(dir) } else { Ok(()) }
    }
}

impl States for Builder {
    type State = (Arc<SimStore>, Machine);

    fn open(&mut self, dir: &Path) -> Result<(Self::State, Index), Error> {
        let store = self.shelf.open(dir);
        let machine = Machine::open(store.clone(), self.cluster, self.limits)?;
        let (applied, _) = machine.applied();
        Ok(((store, machine), applied))
    }

    fn put_aside(&mut self, dir: &Path) -> Result<(), Error> {
        self.shelf.remove(dir);
        Ok(())
    }
}

/// An image on its way.
pub(super) struct Parcel {
    pub(super) from: usize,
    pub(super) to: usize,
    life: u64,
    message: Message,
    image: Vec<u8>,
}

/// What is told to a leader of the snapshot that it sent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Receipt {
    pub(super) leader: usize,
    pub(super) life: u64,
    follower: MemberId,
    arrived: bool,
}

impl World {
    /// The leader makes an image of its state as it is now, and a message that fits.
    pub(super) fn send_snapshot(&mut self, who: usize, mut message: Message) -> Verdict {
        let clock = self.clock(who);
        let life = self.places[who].life;
        let follower = MemberId(message.to);
        let receipt = Receipt { leader: who, life, follower, arrived: false };
        self.after(PATIENCE_US, Event::Receipt(receipt));
        let Some(to) = self.net.place(message.to) else { return Ok(()) };
        let alive = self.alive(who);
        alive.keep_log_until = clock.plus(KEEP_LOG_MS);
        let is_of_term = alive.replica.consensus.term().0 == message.term;
        let (metadata, image) = match image_of(alive) {
            Ok(image) => image,
            Err(why) => return self.failed(who, why),
        };
        let (index, conf_state) = (Index(metadata.index), metadata.conf_state.clone().unwrap_or_default());
        let is_member = conf_state.voters.contains(&message.to) || conf_state.learners.contains(&message.to);
        if !is_member || !is_of_term {
            return Ok(());
        }
        message.snapshot = Some(Snapshot { metadata: Some(metadata), ..Snapshot::default() });
        self.tape.note(self.now, who, index.0, || format!("sends m{to} a snapshot of all up to {index}"));
        self.report.count("a snapshot is sent", 1);
        let takes = 5000 + self.up_to(60_000);
        self.after(takes, Event::Parcel(Box::new(Parcel { from: who, to, life, message, image })));
        Ok(())
    }

    /// An image arrives, or does not.
    pub(super) fn parcel(&mut self, parcel: Parcel) -> Verdict {
        let Parcel { from, to, life, message, image } = parcel;
        let is_cut = self.net.is_cut(from, to) || self.net.is_cut(to, from);
        let breaks = self.dice.random_range(0..10) == 0;
        let is_here = self.places[to].alive.is_some() && self.places[from].life == life && !is_cut;
        let follower = MemberId(message.to);
        let failure = Receipt { leader: from, life, follower, arrived: false };
        if !is_here {
            self.after(1000, Event::Receipt(failure));
            return Ok(());
        }
        let number = self.new_request();
        let cluster = self.founders.cluster();
        let disk = self.alive(to).disk().clone();
        let received = if breaks { Err(Error::Damaged("it broke off".into())) } else { Ok(()) };
        let metadata = message.snapshot.as_ref().and_then(|snapshot| snapshot.metadata.clone()).unwrap_or_default();
        let mark = Mark { index: metadata.index, term: metadata.term, conf_state: metadata.conf_state };
        let received = received.and_then(|()| receive(&disk, &mark, &image, number, cluster));
        match received {
            Ok(()) => {
                self.tape.note(self.now, to, number, || format!("has a snapshot from m{from}"));
                let receipt = Receipt { arrived: true, ..failure };
                self.alive(to).inbox.push(Input::Received(Box::new(message), receipt));
                self.wake(to);
                self.endanger_install(to);
            }
            Err(why) => {
                self.tape.note(self.now, to, number, || format!("loses a snapshot from m{from}: {why}"));
                self.after(1000, Event::Receipt(failure));
                if matches!(disk.struck(), Some(Trouble::PowerLoss | Trouble::SyncFails)) {
                    return self.failed(to, why);
                }
            }
        }
        Ok(())
    }

    /// Power may go at any disk call between here and the moment at which the image has become the store.
    fn endanger_install(&mut self, who: usize) {
        if !self.healing && self.drill.is_none() && self.dice.random_range(0..3) == 0 {
            let calls = self.dice.random_range(1..INSTALL_CALLS);
            self.places[who].disk.order(calls, Trouble::PowerLoss);
            self.count_fault(who, "power loss in an install");
        }
    }

    /// What raft made of a snapshot.
    pub(super) fn received(&mut self, receipt: Receipt, accepted: bool) {
        let back = 1000 + self.up_to(3000);
        self.after(back, Event::Receipt(Receipt { arrived: accepted, ..receipt }));
    }

    pub(super) fn receipt(&mut self, receipt: Receipt) {
        let Receipt { leader, follower, arrived, .. } = receipt;
        self.alive(leader).inbox.push(Input::SnapshotSent(follower, arrived));
        self.wake(leader);
    }
}

/// A member's state as it is now, and what a snapshot says of it.
///
/// # Errors
/// Those of reading the state.
pub(super) fn image_of(alive: &Alive) -> Result<(SnapshotMetadata, Vec<u8>), Error> {
    let frozen = alive.machine.read().freeze();
    let ((index, term), conf_state) = (frozen.applied, frozen.conf_state.clone());
    let scratch = SimDisk::new();
    let mut file = scratch.create(Path::new("/image"))?;
    let bytes = image::write(&alive.machine, frozen, file.as_mut())?;
    let mut image = vec![0; usize::try_from(bytes).expect("small")];
    file.read_at(0, &mut image)?;
    Ok((SnapshotMetadata { conf_state: Some(conf_state), index: index.0, term: term.0 }, image))
}

/// Writes the image, reads all of it, keeps it.
pub(super) fn receive(disk: &SimDisk, mark: &Mark, bytes: &[u8], number: u64, cluster: ClusterId) -> Result<(), Error> {
    let mut intake = Intake::begin(Arc::new(disk.clone()), Path::new(MEMBER_DIR), number)?;
    bytes.chunks(PIECE_BYTES).try_for_each(|piece| intake.write(piece))?;
    let reader = image::Snapshot::new(intake.open()?)?.into_reader()?;
    image::check(&reader, mark, cluster)?;
    intake.keep(mark.index)
}
