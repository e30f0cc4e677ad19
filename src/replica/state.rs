//! Where a start gets its state from, and how a member that has lost its own takes another's.
//!
//! ```text
//! an accepted image becomes the store ──▶ the store opens and goes with the log ──▶ here
//!                                          └─ no ──▶ the log goes back to the beginning ──▶ a new store, which the log fills
//!                                                     └─ no ──▶ lost: another member's state, then once more from the top
//! ```
//!
//! A manifest that cannot be read says nothing of the stores: they may be as good as ever. So none is deleted, and the one that the log leads on from
//! is looked for.
//!
//! The log decides: it is what the member has promised. The state only saves time, and any member's will do, because what is applied was
//! agreed on.

use super::install::Installs;
use super::install::Manifest;
use super::install::Stores;
use super::install::settle;
use super::install::stores;
use super::start::Held;
use crate::disk::Disk;
use crate::error::Error;
use crate::proto::raftpb::HardState;
use crate::proto::walpb::Snapshot as Mark;
use crate::types::Index;
use crate::types::Term;
use parking_lot::Mutex;
use std::path::Path;
use std::sync::Arc;

/// Opens stores; on disk, or simulated.
pub trait States: Stores {
    /// A state that can be used.
    type State;

    /// Opens the store in `dir`, or begins one; with it, up to where it goes.
    ///
    /// # Errors
    /// [`Error::Storage`] if that is not the store's fault: the member must stop. Anything else: the store is of no use.
    fn open(&mut self, dir: &Path) -> Result<(Self::State, Index), Error>;

    /// Puts a store that is of no use out of the way, if it is there.
    ///
    /// # Errors
    /// [`Error::Storage`].
    fn put_aside(&mut self, dir: &Path) -> Result<(), Error>;
}

/// What a start has found.
pub enum Found<S> {
    /// The state to go on with. If the store was of no use, why: then this one is new, and the log fills it. If the manifest did not say which store it
    /// is, why: then this one was found.
    State { state: S, installs: Installs, rebuilt: Option<String>, found: Option<String> },
    /// The store holds what the log does not have any more, up to this entry. Only what is synced is applied, so the log has lost its end, and with it
    /// what this member has promised: it must not take part. See [`lost_end`], [`Held::begin_behind`].
    Ahead { state: S, installs: Installs, applied: Index },
    /// Why there is none: the store is of no use, and the log does not go back to the beginning. See [`adopt`].
    Lost(String),
}

/// Opens the store that the manifest names, after it was made from an accepted image if there is one; or begins a new one where it cannot be
/// used and the log can fill it.
///
/// # Errors
/// [`Error::Storage`]: the member must stop.
pub fn open_state<S: States>(
    disk: Arc<dyn Disk>,
    member: &Path,
    held: &Held,
    states: &mut S,
) -> Result<Found<S::State>, Error> {
    let (manifest, unread) = match Manifest::load(&*disk, member) {
        Ok(manifest) => (manifest, None),
        Err(Error::Damaged(why)) => (search(&*disk, member, held, states)?, Some(why)),
        Err(why) => return Err(why),
    };
    let installs = Mutex::new(Installs::new(disk.clone(), member, manifest));
    let trouble = match &unread {
        Some(why) => Some(why.clone()),
        None => settle(&installs, held, states)?,
    };
    let installs = installs.into_inner();
    let save = || unread.as_ref().map_or(Ok(()), |_| installs.manifest().save(&*disk, member));
    let dir = installs.manifest().store_dir(member);
    let why = match states.open(&dir) {
        Ok((state, applied)) if applied > held.last() => return Ok(Found::Ahead { state, installs, applied }),
        Ok((state, applied)) => match held.meets(applied) {
            Ok(()) => {
                save()?;
                return Ok(Found::State { state, installs, rebuilt: None, found: unread });
            }
            Err(why) => why,
        },
        // A failing disk, a second process, a newer format: not the store's fault, and not for us to repair.
        Err(Error::Storage(why)) => return Err(Error::Storage(why)),
        Err(e) => e.to_string(),
    };
    let why = trouble.map_or(why.clone(), |trouble| format!("{trouble}; {why}"));
    if held.goes_on_from() > Index(0) {
        return Ok(Found::Lost(why));
    }
    states.put_aside(&dir)?;
    let (state, _) = states.open(&dir)?;
    save()?;
    Ok(Found::State { state, installs, rebuilt: Some(why), found: None })
}

/// A manifest of the store that goes with the log and has come furthest; of the one that has come furthest, if none does; of none, if there is none.
fn search<S: States>(disk: &dyn Disk, member: &Path, held: &Held, states: &mut S) -> Result<Manifest, Error> {
    let mut best = None;
    for name in stores(disk, member)? {
        let applied = match states.open(&member.join(&name)) {
            Ok((_, applied)) => applied,
            Err(Error::Storage(why)) => return Err(Error::Storage(why)),
            Err(_) => continue,
        };
        // One that is made from an image says last of all how far it goes.
        if applied > Index(0) {
            best = best.max(Some((held.meets(applied).is_ok(), applied, name)));
        }
    }
    Ok(best.map_or_else(Manifest::default, |(_, _, name)| Manifest::of_store(name)))
}

/// Why a member whose log has lost its end does not start, and what to do.
#[must_use]
pub fn lost_end(wal: &Path, last: Index, applied: Index) -> Error {
    Error::Damaged(format!(
        "{}: the log ends at entry {last}, but the store holds entry {applied}, which was in the log: its end is lost, and acknowledged writes may be with \
         it. Where others run: remove this member, delete its data directory and add it again. A member that is alone goes on with what its store \
         holds if it is started once with --force-new-cluster",
        wal.display()
    ))
}

/// Makes another member's state, whose image is kept here, what the next start takes its own from. First the manifest names it, then the log says
/// what it must: `write` puts the mark and the hard state there, and syncs. Returns up to where it goes.
///
/// # Errors
/// [`Error::Damaged`] if the state does not go with the log; those of `write`, and [`Error::Storage`].
pub fn adopt(
    held: &Held,
    mark: &Mark,
    disk: &dyn Disk,
    member: &Path,
    write: impl FnOnce(&HardState) -> Result<(), Error>,
) -> Result<Index, Error> {
    let index = Index(mark.index);
    let hard_state = held.adopt(index, Term(mark.term)).map_err(Error::Damaged)?;
    Manifest::anew(mark).save(disk, member)?;
    if let Some(hard_state) = hard_state {
        write(&hard_state)?;
    }
    Ok(index)
}
