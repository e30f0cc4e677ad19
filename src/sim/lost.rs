//! A member whose log is whole and whose state is gone asks the others for theirs, in turn, as `node/lost.rs` does it.

use super::hands::Fact;
use super::judge::Verdict;
use super::member::Lost;
use super::member::MEMBER_DIR;
use super::snapshots;
use super::world::Event;
use super::world::World;
use crate::error::Error;
use crate::proto::raftpb::SnapshotMetadata;
use crate::proto::walpb::Snapshot as Mark;
use crate::replica::state;
use crate::types::Index;
use crate::types::Term;
use rand::Rng;
use std::path::Path;

/// When nobody gave anything, it asks again after so long.
const AGAIN_US: u64 = 200_000;

/// Another member's state, on its way.
pub(super) struct Gift {
    from: usize,
    to: usize,
    life: u64,
    metadata: SnapshotMetadata,
    image: Vec<u8>,
}

impl World {
    pub(super) fn has_lost_state(&mut self, who: usize, lost: Box<Lost>) -> Verdict {
        let (why, end) = (lost.why.clone(), lost.held.last());
        self.tape.note(self.now, who, end.0, || format!("has lost its state: {why}"));
        if !self.places[who].spoiled && !self.places[who].rotten {
            return Err(format!("m{who} has lost its state, though nothing has harmed it: {why}"));
        }
        self.report.count("a state is lost", 1);
        self.net.hang_up(who);
        let place = &mut self.places[who];
        place.lost = Some(lost);
        let life = place.life;
        self.after(1000, Event::Beg(who, life));
        Ok(())
    }

    /// Asks one of the others.
    pub(super) fn beg(&mut self, who: usize, life: u64) -> Verdict {
        let near = |other: &usize| !self.net.is_cut(who, *other) && !self.net.is_cut(*other, who);
        let others: Vec<usize> = (0..self.places.len())
            .filter(|other| self.places[*other].alive.is_some() && self.places[*other].paused <= self.now)
            .filter(near)
            .collect();
        if others.is_empty() {
            self.after(AGAIN_US, Event::Beg(who, life));
            return Ok(());
        }
        let from = others[self.dice.random_range(0..others.len())];
        let (metadata, image) = match snapshots::image_of(self.alive(from)) {
            Ok(image) => image,
            Err(why) => return self.failed(from, why),
        };
        let takes = 5000 + self.up_to(60_000);
        self.after(takes, Event::State(Box::new(Gift { from, to: who, life, metadata, image })));
        Ok(())
    }

    /// A state arrives, or does not, and is of use, or is not.
    pub(super) fn state_comes(&mut self, gift: Gift) -> Verdict {
        let Gift { from, to, life, metadata, image } = gift;
        if self.places[to].life != life || self.places[to].lost.is_none() {
            return Ok(());
        }
        let is_cut = self.net.is_cut(from, to) || self.net.is_cut(to, from);
        if is_cut || self.dice.random_range(0..10) == 0 {
            self.after(AGAIN_US, Event::Beg(to, life));
            return Ok(());
        }
        let mark = Mark { index: metadata.index, term: metadata.term, conf_state: metadata.conf_state };
        let number = self.new_request();
        let lost = self.places[to].lost.as_deref().expect("checked above");
        if !lost.held.knows(Index(mark.index), Term(mark.term)) {
            // The log may begin anew behind the state: what it says otherwise was not agreed on.
            self.judge.fact(self.now, to, Fact::Withdrawn { last: (mark.index, mark.term) })?;
        }
        match self.keep_state(to, &mark, &image, number) {
            Ok(index) => {
                self.tape.note(self.now, to, index.0, || format!("has the state of m{from}, up to {index}"));
                self.report.count("a state comes from another member", 1);
                self.places[to].lost = None;
                self.after(0, Event::Start(to));
                Ok(())
            }
            Err(why) => {
                self.tape.note(self.now, to, number, || format!("has no use for the state of m{from}: {why}"));
                if self.places[to].disk.struck().is_some() {
                    return self.failed(to, why);
                }
                self.after(AGAIN_US, Event::Beg(to, life));
                Ok(())
            }
        }
    }

    fn keep_state(&mut self, who: usize, mark: &Mark, image: &[u8], number: u64) -> Result<Index, Error> {
        let cluster = self.founders.cluster();
        let place = &mut self.places[who];
        let Lost { held, wal, .. } = place.lost.as_deref_mut().expect("checked by the caller");
        held.adopt(Index(mark.index), Term(mark.term)).map_err(Error::Damaged)?;
        snapshots::receive(&place.disk, mark, image, number, cluster)?;
        state::adopt(held, mark, &place.disk, Path::new(MEMBER_DIR), |hard_state| {
            wal.save_snapshot_mark(mark)?;
            wal.append(&[], Some(hard_state))?;
            wal.sync()
        })
    }
}
