//! The interface's labs: one is open at a time, and what it has asked for ends with it.

use super::App;
use crate::lab::course;
use crate::lab::guide::Lab;
use crate::lab::guide::Session;
use crate::lab::progress::Progress;
use crate::tui::Msg;
use crate::tui::learn;
use crate::tui::learn::Came;
use crate::tui::learn::Heard;
use crate::tui::model::Screen;
use crate::tui::update;
use std::path::Path;
use std::path::PathBuf;

/// What this learner has done, and the file; or why that is not known.
pub(super) fn known(file: &Path) -> Result<(Progress, PathBuf), String> {
    Progress::load(file).map(|progress| (progress, file.to_owned())).map_err(|e| e.to_string())
}

/// The lab that the course has after this one, or why none is offered. Who knows nothing of the learner does not know that all is done either.
fn next(progress: &Result<(Progress, PathBuf), String>, here: Option<&str>) -> Result<Lab, String> {
    match progress {
        Ok((progress, _)) => progress.next(here).ok_or_else(|| "no lab of the course is left: all are done".to_owned()),
        Err(why) => Err(format!("which lab is next is not known: {why}")),
    }
}

impl App {
    /// Works on a clone of the session as it is now, and says what has come of it: of this opening of this lab.
    fn work<F: Future<Output = Came> + Send + 'static>(&mut self, work: impl FnOnce(Session) -> F) {
        let Some(learn) = &self.model.learn else { return };
        let (opening, answer, work) = (learn.opening, self.answer.clone(), work(learn.session.clone()));
        // Those that have ended.
        while self.labours.try_join_next().is_some() {}
        self.labours.spawn(async move {
            let what = work.await;
            drop(answer.send(Msg::Learn(Heard::Came { opening, what })).await);
        });
    }

    /// Runs a block of the lab.
    pub(super) fn run_block(&mut self, id: String) {
        self.work(|session| async move {
            let result = session.execute(&id).await;
            Came::Ran { id, result }
        });
    }

    /// Sets a step up on a fresh cluster.
    pub(super) fn redo(&mut self, step: usize) {
        let Some(record) = self.live.as_ref().map(|live| live.cluster.record.clone()) else { return };
        self.work(move |session| async move {
            Came::Redone(match course::own_beds(session.lab(), &record, false) {
                Ok(beds) => session.anew(step, &beds).await.map(Box::new),
                Err(why) => Err(why),
            })
        });
    }

    /// Looks at the checks of the open step.
    pub(super) fn check(&mut self, seq: u64) {
        self.work(move |session| async move {
            let (step, checked) = (session.at(), session.check().await);
            Came::Checked { step, seq, checked }
        });
    }

    /// The open lab ends, and with it what it has asked for: first the commands, then, if they are its own, the members.
    fn close_lab(&mut self) {
        let mut labours = std::mem::take(&mut self.labours);
        labours.abort_all();
        let old = self.model.learn.take();
        tokio::spawn(async move {
            labours.shutdown().await;
            // Members take their time to end, and nobody waits for them.
            tokio::task::spawn_blocking(move || drop(old));
        });
    }

    /// Keeps what the learner has done, if there is news. Once it cannot be kept, that is said, and not tried again.
    pub(super) fn keep(&mut self) {
        let (Some(learn), Ok((progress, file))) = (&self.model.learn, &mut self.progress) else { return };
        if !progress.note(&learn.session) {
            return;
        }
        let note = |kept: &mut Progress| {
            kept.note(&learn.session);
        };
        match Progress::change(file, note) {
            Ok(kept) => *progress = kept,
            Err(e) => {
                self.progress = Err(e.to_string());
                update(&mut self.model, Msg::Answer(Err(format!("what you do here is not kept: {e}"))));
            }
        }
    }

    /// Opens the lab that was asked for on the cluster that runs, at the step that was asked for. One that is open goes when the new one is there.
    pub(super) fn open_lab(&mut self) {
        let Some(live) = &self.live else { return };
        let wanted = self.options.lab.clone();
        let ending = self.model.learn.as_ref().and_then(|l| l.session.own_head());
        let asked = self.options.step.take().map(|step| step.saturating_sub(1));
        let mut session = match course::open(wanted.as_deref(), live.cluster.folder(), &live.cluster.record, ending) {
            Ok(session) => session,
            Err(why) => return drop(update(&mut self.model, Msg::Learn(Heard::NotOpened(why)))),
        };
        self.close_lab();
        let known = self.progress.as_ref().ok().map(|(progress, _)| progress);
        let place = known.and_then(|p| p.resume(&mut session)).filter(|_| asked.is_none());
        if asked.is_some() {
            session.stand_at(0);
        }
        let said = place.or_else(|| known?.missing(session.lab()));
        // Its cluster is new, so it is brought to where the learner was. The one on the screen may have been kept.
        let left = Some(session.at()).filter(|_| !session.is_on_screen());
        update(&mut self.model, Msg::Learn(Heard::Opened(Box::new(session))));
        // Who names a lab wants to see it.
        if wanted.is_some() {
            self.model.screen = Screen::Learn;
        }
        if let Some(said) = said {
            update(&mut self.model, Msg::Answer(Ok(said)));
        }
        if let Some(step) = asked.or(left).filter(|step| *step > 0) {
            learn::begin_at(&mut self.model, step, asked.is_none());
            self.redo(step);
        }
        if let Err(why) = &self.progress {
            update(&mut self.model, Msg::Answer(Err(format!("what you do here is not kept: {why}"))));
        }
    }

    /// Goes on with the lab that the course has next, in the place of the one that is open.
    pub(super) fn next_lab(&mut self) {
        let here = self.model.learn.as_ref().map(|l| l.session.lab().head.id.clone());
        self.offer(next(&self.progress, here.as_deref()));
    }

    /// Opens a lab in the place of the one that is open, if it can run where this one does.
    pub(super) fn offer(&mut self, lab: Result<Lab, String>) {
        let said = match lab {
            Err(why) => why,
            Ok(lab) if lab.head.cluster.machines && self.options.found.is_none() => {
                let id = &lab.head.id;
                format!("{id} {} is on new machines: leave (q), then etcd-lab {id}", lab.title)
            }
            Ok(lab) => {
                self.options.lab = Some(lab.head.id);
                return self.open_lab();
            }
        };
        update(&mut self.model, Msg::Answer(Ok(said)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_that_cannot_be_read_is_no_course_that_is_done() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("progress.json");
        let first = next(&known(&file), None).expect("nobody has done anything");
        std::fs::write(&file, "{\"labs\": {}, \"of a newer program\": 1}").expect("written");
        let why = next(&known(&file), Some(&first.head.id)).expect_err("it is not known");
        assert!(why.starts_with("which lab is next is not known") && why.contains("Move it away"), "{why}");
    }
}
