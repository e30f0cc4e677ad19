//! The image of this member, made while it works.

use super::Node;
use crate::apply::Machine;
use crate::disk::Disk;
use crate::disk::DiskFile;
use crate::disk::RealDisk;
use crate::error::Error;
use crate::image;
use crate::image::snap_file;
use crate::meter;
use crate::proto::raftpb::ConfState;
use crate::types::Index;
use crate::types::Term;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;

/// How many images may be written or sent at once: each takes as much disk as the data.
const IMAGES_MAX: usize = 4;

/// The number in the next image's name.
static NAMES: AtomicU64 = AtomicU64::new(0);

/// A database with all of a member's state. Its file has no name any more and is gone when this is dropped.
pub struct Image {
    pub file: Box<dyn DiskFile>,
    pub bytes: u64,
    /// The release whose form the data has; may be empty.
    pub storage_version: &'static str,
    /// The last entry that is in it, and who voted then.
    pub applied: (Index, Term),
    pub conf_state: ConfState,
    /// The members as of then, as etcd's version-2 store has them.
    pub(super) members: Vec<u8>,
    pub(super) turn: Turn,
}

/// One of the images that may exist at once.
pub(super) struct Turn(Arc<AtomicUsize>);

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// A read of the whole store that goes on.
struct Reading;

impl Reading {
    fn begin() -> Reading {
        meter::OPEN_READS.add(1);
        Reading
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        meter::OPEN_READS.sub(1);
    }
}

impl Node {
    /// Writes the state as it is now into a file of its own in the data directory. Reads all of history: takes a while, blocks, and holds back
    /// the removal of what is compacted meanwhile. A failure here (a full disk) is the caller's only.
    ///
    /// # Errors
    /// [`Error::TooManyRequests`] if four images are there already; [`Error::Storage`], [`Error::Damaged`].
    pub fn image(&self) -> Result<Image, Error> {
        let images = Arc::clone(&self.inner.images);
        let turn = match images.fetch_add(1, Ordering::AcqRel) {
            before if before < IMAGES_MAX => Turn(images),
            _ => {
                drop(Turn(images));
                return Err(Error::TooManyRequests);
            }
        };
        let name = format!("image.{}.tmp", NAMES.fetch_add(1, Ordering::Relaxed));
        let path = self.inner.config.data_dir.join("member").join(name);
        let mut file = RealDisk.create(&path)?;
        // A crash leaves nothing behind that anybody would have to clean up.
        RealDisk.remove(&path)?;
        let freeze = |machine: &Machine| {
            (machine.freeze(), snap_file::members_json(machine.members(), machine.cluster_version()))
        };
        let (frozen, members) = self.read(freeze);
        let (storage_version, applied, conf_state) =
            (frozen.storage_version, frozen.applied, frozen.conf_state.clone());
        let began = self.inner.started.elapsed();
        let _reading = Reading::begin();
        let bytes = image::write(&self.inner.machine, frozen, file.as_mut())?;
        meter::BACKEND_SNAPSHOT.time(self.inner.started.elapsed() - began);
        Ok(Image { file, bytes, storage_version, applied, conf_state, members, turn })
    }
}
