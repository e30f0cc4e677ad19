//! What `cluster` does with processes of its own, done with services of other machines: who runs, and stop, start, kill.
//!
//! A thread for each machine asks once a second how its etcd is; one that is not reached holds up no other.

use crate::disk;
use crate::lab::agent::Answer;
use crate::lab::agent::Ask;
use crate::lab::agent::Remote;
use crate::lab::cluster::Action;
use crate::lab::cluster::Change;
use crate::lab::cluster::Order;
use crate::lab::journal::Journal;
use crate::lab::machines::door::Door;
use crate::lab::machines::door::Starts;
use crate::lab::observe::Report;
use crate::lab::setup;
use crate::lab::workdir::Record;
use crate::lab::workdir::WorkDir;
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::fs;
use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::sync::mpsc::RecvTimeoutError;
use std::thread;
use std::time::Duration;
use tokio::sync::mpsc::Sender;
use tokio::sync::mpsc::error::TrySendError;

/// How often a machine is asked.
const EVERY: Duration = Duration::from_secs(1);
/// Lines of a member's journal that are read when it has failed.
const LAST_LINES: &str = "40";

/// What other terminals read of who runs.
struct Notes {
    work: Arc<WorkDir>,
    record: Record,
}

/// Keeps a lab's members on their machines until it is told to end, or nobody can tell it any more. The members go on.
pub(crate) fn keep(work: Arc<WorkDir>, record: Record, orders: &mpsc::Receiver<Order>, reports: &Sender<Report>) {
    let notes = Mutex::new(Notes { work, record: record.clone() });
    thread::scope(|scope| {
        let mut told = Vec::new();
        for (member, machine) in record.machines.iter().enumerate() {
            let (to, heard) = mpsc::channel();
            told.push(to);
            let (notes, reports) = (&notes, reports.clone());
            let keeper = Keeper::new(member, machine, notes, reports);
            scope.spawn(move || keeper.run(&heard));
        }
        while let Ok(order) = orders.recv() {
            match order {
                Order::Act(member, action) => drop(told.get(member).map(|to| to.send(action))),
                Order::Configure(..) | Order::Program(..) => {
                    let text =
                        "not on other machines: what etcd is and how it is configured there stands in its unit file";
                    // Who reads it is gone, or has enough to read.
                    drop(reports.try_send(Report::Note { text: text.into() }));
                }
                Order::Shutdown => break,
            }
        }
        // Every keeper ends with what it hears by.
        drop(told);
    });
}

struct Keeper<'a> {
    member: usize,
    machine: String,
    there: Option<Remote>,
    door: Option<Door>,
    notes: &'a Mutex<Notes>,
    reports: Sender<Report>,
    /// Reports that the receiver had no room for yet.
    waiting: VecDeque<Report>,
    /// The process that was told of last; 0: that there is none. Nothing: nobody was told yet.
    pid: Option<u32>,
    is_lost: bool,
    is_paused: bool,
}

impl<'a> Keeper<'a> {
    fn new(member: usize, machine: &str, notes: &'a Mutex<Notes>, reports: Sender<Report>) -> Keeper<'a> {
        Keeper {
            member,
            machine: machine.to_owned(),
            there: None,
            door: None,
            notes,
            reports,
            waiting: VecDeque::new(),
            pid: None,
            is_lost: false,
            is_paused: false,
        }
    }

    fn run(mut self, orders: &mpsc::Receiver<Action>) {
        let socket = self.notes.lock().record.members[self.member].lab_socket.clone();
        let machine = self.machine.clone();
        let agent: Starts = Arc::new(move || setup::agent_at(&machine));
        let opened = fs::create_dir_all(disk::folder_of(&socket)).and_then(|()| Door::open(&socket, agent));
        match opened {
            Ok(door) => self.door = Some(door),
            Err(e) => self.waiting.push_back(Report::Note { text: format!("{}: {e}", socket.display()) }),
        }
        loop {
            self.look();
            self.flush();
            match orders.recv_timeout(EVERY) {
                Ok(action) => self.act(action),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    fn ask(&mut self, ask: &Ask) -> Result<Answer, String> {
        let mut there = match self.there.take() {
            Some(there) => there,
            None => Remote::start(&mut setup::agent_at(&self.machine))?,
        };
        let answer = there.ask(ask)?;
        self.there = Some(there);
        Ok(answer)
    }

    /// How its etcd is, and what is new of it.
    fn look(&mut self) {
        let (load, active, pid) = match self.ask(&Ask::Unit { name: "etcd".into() }) {
            Ok(Answer::Unit { load, active, pid, .. }) => (load, active, pid),
            Ok(other) => return self.lost(&format!("another answer: {other:?}")),
            Err(why) => return self.lost(&why),
        };
        self.is_lost = false;
        if let Some(door) = &self.door {
            door.latch().is_up.store(pid != 0, Ordering::Release);
        }
        if self.pid == Some(pid) {
            return;
        }
        let before = self.pid.replace(pid);
        self.is_paused = false;
        self.note(pid);
        if pid != 0 {
            return self.tell(Change::Started { pid });
        }
        let how = if load == "not-found" { "no unit etcd there".into() } else { format!("its unit is {active}") };
        self.tell(Change::Ended { how });
        if before.is_some() && active != "inactive" {
            self.last_words();
        }
    }

    /// Says once that the machine is not reached: how its etcd is nobody knows then.
    fn lost(&mut self, why: &str) {
        if let Some(door) = &self.door {
            door.latch().is_up.store(false, Ordering::Release);
        }
        if !std::mem::replace(&mut self.is_lost, true) {
            let name = self.notes.lock().record.members[self.member].name.clone();
            self.waiting.push_back(Report::Note { text: format!("{name} on {} is not reached: {why}", self.machine) });
        }
    }

    /// Why it has failed, if it said so.
    fn last_words(&mut self) {
        let argv = ["journalctl", "-u", "etcd", "-t", "etcd", "-o", "cat", "--no-pager", "-n", LAST_LINES]
            .map(str::to_owned)
            .to_vec();
        let Ok(Answer::Ran { out, .. }) = self.ask(&Ask::Run { argv }) else { return };
        let log = self.notes.lock().record.members[self.member].log.clone();
        let mut journal = Journal::from_end(&log);
        let file = fs::OpenOptions::new().create(true).append(true).open(&log);
        // What cannot be kept here stands in the machine's own journal.
        if file.and_then(|mut file| file.write_all(out.as_bytes())).is_ok()
            && let Some(line) = journal.last_words()
        {
            self.waiting.push_back(Report::Said { member: self.member, line });
        }
    }

    fn act(&mut self, action: Action) {
        let line = match action {
            Action::Kill => "systemctl kill --kill-who=main -s KILL etcd",
            Action::Pause => "systemctl kill --kill-who=main -s STOP etcd",
            Action::Continue => "systemctl kill --kill-who=main -s CONT etcd",
            // A process that stands still hears SIGTERM only when it goes on.
            Action::Stop => "systemctl kill --kill-who=main -s CONT etcd; systemctl stop --no-block etcd",
            Action::Restart => {
                "systemctl kill --kill-who=main -s CONT etcd 2>/dev/null; systemctl reset-failed etcd 2>/dev/null; systemctl restart --no-block etcd"
            }
        };
        let argv = ["sh", "-c", line].map(str::to_owned).to_vec();
        let why = match self.ask(&Ask::Run { argv }) {
            Ok(Answer::Ran { exit: 0, .. }) => {
                match action {
                    Action::Pause if !std::mem::replace(&mut self.is_paused, true) => self.tell(Change::Paused),
                    Action::Continue if std::mem::take(&mut self.is_paused) => self.tell(Change::Continued),
                    _ => {}
                }
                return;
            }
            Ok(Answer::Ran { err, .. }) => err.trim().to_owned(),
            Ok(other) => format!("another answer: {other:?}"),
            Err(why) => why,
        };
        self.waiting.push_back(Report::Note { text: format!("not done on {}: {why}", self.machine) });
    }

    fn note(&self, pid: u32) {
        let mut notes = self.notes.lock();
        notes.record.members[self.member].pid = pid;
        if let Err(e) = notes.work.save(&notes.record) {
            // Who reads it is gone, or has enough to read.
            drop(self.reports.try_send(Report::Note { text: e.to_string() }));
        }
    }

    fn tell(&mut self, change: Change) {
        self.waiting.push_back(Report::Process { member: self.member, change });
        self.flush();
    }

    fn flush(&mut self) {
        // Never waits: a screen that hangs holds nobody up.
        while let Some(report) = self.waiting.pop_front() {
            if let Err(TrySendError::Full(report)) = self.reports.try_send(report) {
                self.waiting.push_front(report);
                return;
            }
        }
    }
}
