//! A cluster of member processes, owned by one thread.
//!
//! The thread starts members, signals them, waits for them, and writes down who runs. It lives as long as the
//! [`Cluster`]: when that is dropped, for whatever reason, every member is killed; when the whole process dies without a
//! word, the kernel does it (see [`crate::lab::member`]).
//!
//! ```text
//!           act(member, Action)                    Report::Process
//! screen ───────────────────────▶ cluster thread ───────────────────▶ picture
//!                                  │ fork, kill, wait
//!                                  ▼
//!                              n1   n2   n3
//! ```

#![expect(clippy::disallowed_methods, reason = "gives members real time to shut down")]

use crate::lab::Error;
use crate::lab::files;
use crate::lab::files::Job;
use crate::lab::journal::Journal;
use crate::lab::machines;
use crate::lab::member;
use crate::lab::member::Launcher;
use crate::lab::misfit::Misfit;
use crate::lab::observe::Report;
use crate::lab::papers::papers;
use crate::lab::preflight::Plan;
use crate::lab::workdir::Record;
use crate::lab::workdir::WorkDir;
use rustix::process::Signal;
use serde::Deserialize;
use serde::Serialize;
use std::collections::VecDeque;
use std::path::Path;
use std::process::Child;
use std::sync::Arc;
use std::sync::mpsc;
use std::sync::mpsc::RecvTimeoutError;
use std::thread;
use std::time::Duration;
use std::time::Instant;
use time::OffsetDateTime;

/// How often the thread looks for ended members.
const REAP_EVERY: Duration = Duration::from_millis(50);
/// How often it reads on in the members' logs.
const READ_EVERY: Duration = Duration::from_millis(500);
/// How long a member may take to shut down before it is killed. It hands leadership over and syncs its disk.
const SHUTDOWN: Duration = Duration::from_secs(5);

/// What can be done to one member's process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// `kill -9`: no chance to say goodbye.
    Kill,
    /// SIGSTOP: stands still, keeps its sockets. The others cannot tell that from a slow network.
    Pause,
    /// SIGCONT.
    Continue,
    /// SIGTERM: hands leadership over, closes its files.
    Stop,
    /// Starts it, after a shutdown if it runs.
    Restart,
}

/// What happened to one member's process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Change {
    /// It runs.
    Started { pid: u32 },
    /// It stands still (SIGSTOP).
    Paused,
    /// It goes on (SIGCONT).
    Continued,
    /// It has ended; why, in words.
    Ended { how: String },
    /// It could not be started.
    Failed { why: String },
}

pub(crate) enum Order {
    Act(usize, Action),
    Configure(usize, Option<Misfit>),
    Program(usize, bool),
    Shutdown,
}

/// A running cluster. Dropping it kills its members.
#[derive(Debug)]
pub struct Cluster {
    orders: Option<mpsc::Sender<Order>>,
    thread: Option<thread::JoinHandle<()>>,
    work: Option<Arc<WorkDir>>,
    /// Addresses and files of the members. Pids in here are those of the plan, not the current ones.
    pub record: Record,
}

impl Cluster {
    /// Starts all members of a plan, from `program` (which is this executable, outside tests). What happens to them is told to
    /// `reports`.
    ///
    /// # Errors
    /// If the folder cannot be prepared. A member that does not start is reported, not returned.
    pub fn start(plan: Plan, program: &Path, reports: tokio::sync::mpsc::Sender<Report>) -> Result<Cluster, Error> {
        if !plan.record.machines.is_empty() {
            return Cluster::on_machines(plan, program, reports);
        }
        Cluster::start_guarded(plan, program, Launcher::own_guard(program), reports)
    }

    pub(crate) fn start_guarded(
        plan: Plan,
        program: &Path,
        guard: Vec<std::ffi::OsString>,
        reports: tokio::sync::mpsc::Sender<Report>,
    ) -> Result<Cluster, Error> {
        let Plan { work, mut record, .. } = plan;
        work.link_programs(program, record.upstream.as_deref())?;
        record.supervisor_pid = std::process::id();
        work.save(&record)?;
        let pairs = record.members.iter().map(|m| format!("{}={}", m.name, m.peer_url));
        let launcher = Launcher {
            guard,
            etcd: work.bin().join("etcd"),
            has_door: record.upstream.is_none(),
            is_tls: record.tls,
            token_file: work.token_file(),
            cluster_token: record.cluster_token.clone(),
            initial_cluster: pairs.collect::<Vec<_>>().join(","),
        };
        let work = Arc::new(work);
        let (orders, inbox) = mpsc::channel();
        let mut keeper = Keeper::new(launcher, Arc::clone(&work), record.clone(), reports);
        let thread = thread::Builder::new().name("lab-cluster".into()).spawn(move || keeper.run(&inbox));
        let thread = thread.map_err(|source| Error::System { what: "cannot start a thread", source })?;
        Ok(Cluster { orders: Some(orders), thread: Some(thread), work: Some(work), record })
    }

    /// The same of members on other machines, which are there already.
    fn on_machines(plan: Plan, program: &Path, reports: tokio::sync::mpsc::Sender<Report>) -> Result<Cluster, Error> {
        let Plan { work, mut record, .. } = plan;
        work.link_programs(program, None)?;
        record.supervisor_pid = std::process::id();
        work.save(&record)?;
        let work = Arc::new(work);
        let (orders, inbox) = mpsc::channel();
        let (kept, members) = (Arc::clone(&work), record.clone());
        let thread = thread::Builder::new()
            .name("lab-machines".into())
            .spawn(move || machines::keep(kept, members, &inbox, &reports))
            .map_err(|source| Error::System { what: "cannot start a thread", source })?;
        Ok(Cluster { orders: Some(orders), thread: Some(thread), work: Some(work), record })
    }

    /// Does `action` to the member at this place (n1 is 0). What comes of it is reported.
    pub fn act(&self, member: usize, action: Action) {
        if let Some(orders) = &self.orders {
            // The thread ends only after this value has.
            drop(orders.send(Order::Act(member, action)));
        }
    }

    /// Has a member start anew with this misfit in its configuration from now on, or with none.
    pub fn configure(&self, member: usize, misfit: Option<Misfit>) {
        if let Some(orders) = &self.orders {
            drop(orders.send(Order::Configure(member, misfit)));
        }
    }

    /// Has a member of a lab with another etcd run our server from now on, or etcd again, on the data that it has.
    pub fn change_program(&self, member: usize, ours: bool) {
        if let Some(orders) = &self.orders {
            drop(orders.send(Order::Program(member, ours)));
        }
    }

    /// Does something to the files of a member that is down.
    ///
    /// # Errors
    /// As [`files::run`]; or its files are on another machine.
    pub fn change_files(&self, member: usize, job: Job) -> Result<String, Error> {
        match self.record.machines.get(member) {
            Some(name) => Err(Error::Refused(format!(
                "the lab leaves the files on {name} alone: etcd-lab node on {name} COMMAND"
            ))),
            None => files::run(&self.record.members[member], job),
        }
    }

    /// The work folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.work.as_ref().expect("held until shutdown").path()
    }

    /// Shuts every member down (SIGTERM, after five seconds SIGKILL) and gives the folder back, to be kept or removed.
    /// Blocks meanwhile.
    #[must_use = "the folder is kept if it is not removed"]
    pub fn shutdown(mut self) -> Option<WorkDir> {
        if let Some(orders) = self.orders.take() {
            drop(orders.send(Order::Shutdown));
        }
        self.join();
        self.work.take().and_then(Arc::into_inner)
    }

    fn join(&mut self) {
        if let Some(thread) = self.thread.take() {
            // A panic in there has killed the members already: Keeper's drop does.
            drop(thread.join());
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.orders = None;
        self.join();
    }
}

/// One member's process, as the thread knows it.
#[derive(Default)]
struct Slot {
    child: Option<Child>,
    paused: bool,
    /// Start it again once it has ended.
    restart: bool,
    /// Kill it if it has not ended by then.
    kill_at: Option<Instant>,
}

/// What the thread owns.
struct Keeper {
    launcher: Launcher,
    work: Arc<WorkDir>,
    record: Record,
    slots: Vec<Slot>,
    /// What each member's own log says, from its last start on.
    journals: Vec<Journal>,
    misfits: Vec<Option<Misfit>>,
    /// Which members run our server in a lab of another etcd.
    are_ours: Vec<bool>,
    began: Instant,
    read: Instant,
    reports: tokio::sync::mpsc::Sender<Report>,
    /// Reports that the receiver had no room for yet. A few for each order.
    waiting: VecDeque<Report>,
}

impl Keeper {
    fn new(l: Launcher, work: Arc<WorkDir>, record: Record, reports: tokio::sync::mpsc::Sender<Report>) -> Keeper {
        let slots = record.members.iter().map(|_| Slot::default()).collect();
        let journals = record.members.iter().map(|m| Journal::from_end(&m.log)).collect();
        let (misfits, now) = (vec![None; record.members.len()], Instant::now());
        let are_ours = vec![false; record.members.len()];
        let waiting = VecDeque::new();
        Keeper {
            launcher: l,
            work,
            record,
            slots,
            journals,
            misfits,
            are_ours,
            began: now,
            read: now,
            reports,
            waiting,
        }
    }

    fn run(&mut self, orders: &mpsc::Receiver<Order>) {
        for member in 0..self.slots.len() {
            self.start(member);
        }
        loop {
            match orders.recv_timeout(REAP_EVERY) {
                Ok(Order::Act(member, action)) if member < self.slots.len() => self.act(member, action),
                Ok(Order::Configure(member, misfit)) if member < self.slots.len() => {
                    self.misfits[member] = misfit;
                    self.act(member, Action::Restart);
                }
                Ok(Order::Program(member, ours)) if member < self.slots.len() => {
                    self.are_ours[member] = ours;
                    self.act(member, Action::Restart);
                }
                Ok(Order::Act(..) | Order::Configure(..) | Order::Program(..)) | Err(RecvTimeoutError::Timeout) => {}
                Ok(Order::Shutdown) => return self.shutdown(),
                Err(RecvTimeoutError::Disconnected) => return,
            }
            self.look();
            self.read_logs();
            self.flush();
        }
    }

    /// What members write that nobody else would tell.
    fn read_logs(&mut self) {
        if self.read.elapsed() < READ_EVERY {
            return;
        }
        self.read = Instant::now();
        let now = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        for member in 0..self.journals.len() {
            for line in self.journals[member].read_on(now) {
                self.waiting.push_back(Report::Said { member, line });
            }
        }
    }

    fn act(&mut self, member: usize, action: Action) {
        let slot = &mut self.slots[member];
        let Some(child) = &slot.child else {
            if action == Action::Restart {
                self.start(member);
            }
            return;
        };
        match action {
            Action::Kill => member::signal(child, Signal::KILL),
            Action::Pause if !slot.paused => {
                member::signal(child, Signal::STOP);
                slot.paused = true;
                self.tell(member, Change::Paused);
            }
            Action::Continue if slot.paused => {
                member::signal(child, Signal::CONT);
                slot.paused = false;
                self.tell(member, Change::Continued);
            }
            Action::Pause | Action::Continue => {}
            Action::Stop => self.ask_to_end(member),
            Action::Restart => {
                slot.restart = true;
                self.ask_to_end(member);
            }
        }
    }

    fn ask_to_end(&mut self, member: usize) {
        let slot = &mut self.slots[member];
        if let Some(child) = &slot.child {
            member::signal(child, Signal::TERM);
            // A process that stands still hears SIGTERM only when it goes on.
            member::signal(child, Signal::CONT);
            slot.kill_at = Some(Instant::now() + SHUTDOWN);
        }
    }

    fn start(&mut self, member: usize) {
        self.slots[member] = Slot::default();
        let m = &self.record.members[member];
        self.journals[member] = Journal::from_end(&m.log);
        let started = match (self.are_ours[member], &self.record.upstream) {
            (true, Some(_)) => self.launcher.of_ours(self.work.our_etcd()).start(m, self.misfits[member]),
            // What our server has left etcd cannot read.
            (false, Some(_)) => files::hand_back(m, &self.work.bin().join("etcdutl"))
                .and_then(|()| self.launcher.start(m, self.misfits[member])),
            (_, None) => self.launcher.start(m, self.misfits[member]),
        };
        match started {
            Ok(child) => {
                let pid = child.id();
                self.slots[member].child = Some(child);
                self.note_pid(member, pid);
                let flags = self.launcher.all_flags(&self.record.members[member], self.misfits[member]);
                let papers = papers(&self.record.members[member], &flags, OffsetDateTime::now_utc()).map(Box::new);
                self.tell(member, Change::Started { pid });
                self.waiting.push_back(Report::Papers { member, papers });
            }
            Err(e) => self.tell(member, Change::Failed { why: e.to_string() }),
        }
    }

    /// Notices members that have ended, and kills those that should have by now.
    fn look(&mut self) {
        for member in 0..self.slots.len() {
            let slot = &mut self.slots[member];
            let Some(child) = &mut slot.child else { continue };
            match child.try_wait() {
                Ok(Some(status)) => {
                    let restart = slot.restart;
                    *slot = Slot::default();
                    self.note_pid(member, 0);
                    self.tell(member, Change::Ended { how: member::ending(status) });
                    // One that was killed had no time for words, and what it said before is not why.
                    if status.code().is_some_and(|code| code != 0)
                        && let Some(line) = self.journals[member].last_words()
                    {
                        self.waiting.push_back(Report::Said { member, line });
                    }
                    if restart {
                        self.start(member);
                    }
                }
                Ok(None) if slot.kill_at.is_some_and(|at| at <= Instant::now()) => member::signal(child, Signal::KILL),
                Ok(None) | Err(_) => {}
            }
        }
    }

    fn shutdown(&mut self) {
        for member in 0..self.slots.len() {
            self.slots[member].restart = false;
            self.ask_to_end(member);
        }
        while self.slots.iter().any(|s| s.child.is_some()) {
            thread::sleep(REAP_EVERY);
            self.look();
            self.flush();
        }
    }

    fn note_pid(&mut self, member: usize, pid: u32) {
        self.record.members[member].pid = pid;
        if let Err(e) = self.work.save(&self.record) {
            self.waiting.push_back(Report::Note { text: e.to_string() });
        }
    }

    fn tell(&mut self, member: usize, change: Change) {
        self.waiting.push_back(Report::Process { member, change });
        self.flush();
    }

    fn flush(&mut self) {
        // Never waits: a screen that hangs must not keep its cluster from being ended.
        while let Some(report) = self.waiting.pop_front() {
            if let Err(tokio::sync::mpsc::error::TrySendError::Full(report)) = self.reports.try_send(report) {
                self.waiting.push_front(report);
                return;
            }
        }
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        for child in self.slots.iter_mut().filter_map(|s| s.child.as_mut()) {
            member::signal(child, Signal::KILL);
            drop(child.wait());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::preflight;
    use crate::lab::stand_in;
    use std::path::PathBuf;
    use tokio::sync::mpsc::Receiver;

    /// A stand-in for the server, which these tests are not about: it waits, and ends on SIGTERM.
    const STAND_IN: &str = "#!/bin/sh\ntrap 'exit 0' TERM\nwhile :; do sleep 0.05; done\n";

    fn start(base: &Path, nodes: usize) -> (Cluster, Receiver<Report>) {
        let program = base.join("stand-in");
        stand_in::make(&program, STAND_IN);
        let plan = preflight::plan(nodes, Some(&base.join("work")), &[]).expect("planned");
        let (to, reports) = tokio::sync::mpsc::channel(64);
        (Cluster::start_guarded(plan, &program, Vec::new(), to).expect("started"), reports)
    }

    fn next(reports: &mut Receiver<Report>) -> Change {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            match reports.try_recv() {
                Ok(Report::Process { change, .. }) => return change,
                Ok(Report::Papers { papers: None, .. }) => {}
                Ok(other) => panic!("unexpected {other:?}"),
                Err(_) => assert!(Instant::now() < deadline, "nothing reported within 10 s"),
            }
            thread::yield_now();
        }
    }

    fn is_alive(pid: u32) -> bool {
        Path::new(&format!("/proc/{pid}")).exists()
    }

    #[test]
    fn every_action_is_reported_when_it_has_happened() {
        let base = tempfile::tempdir().expect("temp dir");
        let (cluster, mut reports) = start(base.path(), 1);
        assert!(matches!(next(&mut reports), Change::Started { .. }));
        cluster.act(0, Action::Pause);
        assert_eq!(next(&mut reports), Change::Paused);
        cluster.act(0, Action::Continue);
        assert_eq!(next(&mut reports), Change::Continued);
        cluster.act(0, Action::Kill);
        assert_eq!(next(&mut reports), Change::Ended { how: "killed (kill -9)".into() });
        cluster.act(0, Action::Restart);
        let Change::Started { pid } = next(&mut reports) else { panic!("it starts again") };
        assert!(is_alive(pid));
        drop(cluster);
        assert!(!is_alive(pid));
    }

    #[test]
    fn a_cluster_that_is_dropped_leaves_no_process() {
        let base = tempfile::tempdir().expect("temp dir");
        let (cluster, mut reports) = start(base.path(), 3);
        let pids: Vec<u32> = (0..3)
            .map(|_| match next(&mut reports) {
                Change::Started { pid } => pid,
                other => panic!("{other:?}"),
            })
            .collect();
        cluster.act(1, Action::Pause);
        assert_eq!(next(&mut reports), Change::Paused);
        drop(cluster);
        assert!(!pids.into_iter().any(is_alive));
    }

    #[test]
    fn a_shutdown_gives_the_folder_back() {
        let base = tempfile::tempdir().expect("temp dir");
        let (cluster, mut reports) = start(base.path(), 1);
        assert!(matches!(next(&mut reports), Change::Started { .. }));
        let folder: PathBuf = cluster.folder().to_path_buf();
        let work = cluster.shutdown().expect("nobody else holds it");
        assert_eq!(work.load().expect("readable").expect("written").members[0].pid, 0);
        work.remove().expect("removed");
        assert!(!folder.exists());
    }
}
