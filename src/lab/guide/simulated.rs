//! A lab on the simulator: the same page, the same commands and checks, and members that live in this process, with a clock and a seed.
//!
//! The one idea: the learner's side is real. Commands run in a shell, `etcdctl` is etcdctl, and it talks gRPC to an address; only behind that
//! address there is a simulated member ([`Live`]). So nothing of a lab is written twice, and whatever a command prints is what it always prints.
//!
//! | on a real node | here |
//! |---|---|
//! | `systemctl start\|stop\|kill etcd` | an order to the simulation, by way of [`order`] |
//! | the member's log | written from what the simulated member says |
//! | `sleep`, and the pause between two looks of a check | simulated time goes by |
//! | an answer that does not come | so much simulated time goes by as the member has patience; then the client's own time-out decides |
//!
//! Simulated time stands still in between. What the simulation does not have says so, by name: flags of a member, leases, users, changes of
//! who is a member.
#![expect(clippy::disallowed_methods, reason = "waits for real programs beside the simulated members")]

mod door;

use crate::lab::Deed;
use crate::lab::guide::bed::Bed;
use crate::lab::guide::bed::Beds;
use crate::lab::guide::bed::Member;
use crate::lab::guide::bed::ProcessBed;
use crate::lab::guide::bed::ProcessBeds;
use crate::lab::guide::bed::executable;
use crate::lab::guide::settings::Cluster;
use crate::lab::twin;
use crate::sim::live::Founder;
use crate::sim::live::Live;
use door::Door;
use parking_lot::Mutex;
use std::fs;
use std::io::BufRead as _;
use std::io::BufReader;
use std::io::Read as _;
use std::io::Write;
use std::os::unix::net::UnixListener;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// The variable that names the simulation's socket.
pub(crate) const SIM_VAR: &str = "LAB_SIM";

/// How long the members may take to agree on a leader, and a service to start: systemd's own patience.
const READY_US: u64 = 90_000_000;
/// When a service that was killed is started again: `RestartSec` of a lab's unit.
const RESTART_US: u64 = 1_000_000;
/// The longest `sleep`.
const SLEEP_MAX_S: f64 = 600.0;
/// So long a sleep really takes, so that real programs get on, too.
pub(super) const REAL_PAUSE: Duration = Duration::from_millis(25);
/// The longest line that is taken as an order.
const LINE_MAX: u64 = 4096;

/// Clusters of simulated members, all from one seed.
#[derive(Clone, Debug)]
pub struct SimBeds {
    beds: ProcessBeds,
    seed: u64,
}

impl SimBeds {
    /// Nodes and programs as of these beds, with members from this seed.
    #[must_use]
    pub fn new(beds: ProcessBeds, seed: u64) -> SimBeds {
        SimBeds { beds, seed }
    }
}

impl Beds for SimBeds {
    fn at_once(&self) -> usize {
        self.beds.at_once()
    }

    fn name(&self) -> Option<String> {
        Some(format!("simulated, seed {}", self.seed))
    }

    async fn fresh(&self, cluster: &Cluster) -> Result<Box<dyn Bed>, String> {
        let down = Cluster { running: false, ..cluster.clone() };
        let inner = self.beds.seated(&down).await?;
        let bed = SimBed::new(inner, self.seed)?;
        if cluster.running {
            bed.hall.begin()?;
        }
        Ok(Box::new(bed))
    }
}

/// One simulated cluster. It ends when it is dropped.
struct SimBed {
    inner: ProcessBed,
    hall: Arc<Hall>,
    socket: PathBuf,
}

impl SimBed {
    fn new(inner: ProcessBed, seed: u64) -> Result<SimBed, String> {
        let nodes: Vec<(String, PathBuf)> =
            inner.members().iter().map(|m| (m.name.clone(), inner.folder_of(&m.name))).collect();
        let founders: Vec<Founder> = inner
            .members()
            .iter()
            .map(|m| Founder {
                name: m.name.clone(),
                client_url: format!("http://{}", m.endpoint),
                peer_url: format!("http://{}", inner.peer(&m.name).unwrap_or_default()),
            })
            .collect();
        // The token makes the ids: with one of its own each time, the same seed would not be the same run.
        let live = Live::new(seed, "simulated-lab", founders)?;
        let member = |((name, folder), m): ((String, PathBuf), &Member)| {
            let unit = fs::read_to_string(folder.join("etc/systemd/system/etcd.service")).unwrap_or_default();
            Place { name, folder, unit, endpoint: m.endpoint.clone(), door: None }
        };
        let places = nodes.into_iter().zip(inner.members()).map(member).collect();
        let hall = Arc::new(Hall { live: Mutex::new(live), places: Mutex::new(places) });
        let socket = inner.bin_dir().with_file_name("sim.sock");
        for (name, script) in [
            (
                "etcd",
                "#!/bin/sh\necho 'etcd: the members of this lab are simulated; systemctl starts them' >&2\nexit 1\n",
            ),
            ("etcdutl", "#!/bin/sh\necho 'etcdutl: simulated members have no files' >&2\nexit 1\n"),
        ] {
            // First the link goes: writing to it would write to the program.
            let path = inner.bin_dir().join(name);
            let _ = fs::remove_file(&path);
            executable(&path, script)?;
        }
        let link = inner.bin_dir().join("sleep");
        std::os::unix::fs::symlink(inner.bin_dir().join("etcd-lab"), &link)
            .map_err(|e| format!("{}: {e}", link.display()))?;
        serve(&socket, Arc::clone(&hall))?;
        Ok(SimBed { inner, hall, socket })
    }
}

impl Bed for SimBed {
    fn members(&self) -> &[Member] {
        self.inner.members()
    }

    fn bin_dir(&self) -> &Path {
        self.inner.bin_dir()
    }

    fn nodes(&self) -> Option<&Path> {
        self.inner.nodes()
    }

    fn swaps(&self) -> &[(String, String)] {
        self.inner.swaps()
    }

    fn end(&self) {
        self.hall.close();
        self.inner.end();
    }

    fn peer(&self, node: &str) -> Option<&str> {
        self.inner.peer(node)
    }

    fn simulator(&self) -> Option<&Path> {
        Some(&self.socket)
    }

    fn pass(&self, time: Duration) -> bool {
        self.hall.with(|live| live.pass(u64::try_from(time.as_micros()).unwrap_or(u64::MAX)));
        true
    }
}

impl Drop for SimBed {
    fn drop(&mut self) {
        self.hall.close();
        // Whoever waits for orders looks whether there is still somebody to give any.
        let _ = fs::remove_file(&self.socket);
    }
}

/// A simulated member's place in the real world.
struct Place {
    name: String,
    folder: PathBuf,
    /// Its unit file, as it must stay: a simulated member has no flags.
    unit: String,
    endpoint: String,
    /// Where clients come in, while it is open.
    door: Option<Door>,
}

/// The simulation, and its members' places; these two locks are taken in this order.
pub(super) struct Hall {
    live: Mutex<Live>,
    places: Mutex<Vec<Place>>,
}

impl Hall {
    /// Does something with the simulation, and lets the world see what came of it.
    fn with<T>(self: &Arc<Hall>, work: impl FnOnce(&mut Live) -> T) -> T {
        let mut live = self.live.lock();
        let done = work(&mut live);
        self.show(&mut live);
        done
    }

    fn begin(self: &Arc<Hall>) -> Result<(), String> {
        let count = self.places.lock().len();
        self.with(|live| {
            (0..count).for_each(|who| live.start(who));
            let ready = live.run(READY_US, |live| (0..count).all(|who| live.is_ready(who)));
            ready.then_some(()).ok_or_else(|| match live.broken() {
                Some(why) => format!("the simulator's judge: {why}"),
                None => "the simulated members have no leader after 90 simulated seconds".into(),
            })
        })
    }

    /// Doors, logs and services become as the members are.
    fn show(self: &Arc<Hall>, live: &mut Live) {
        let mut places = self.places.lock();
        for said in live.take_said() {
            let log = places[said.who].folder.join("var/log/etcd.log");
            let line = format!(
                "{{\"level\":\"info\",\"simulated\":\"{}.{:03}s\",\"logger\":\"raft\",\"msg\":\"{}\"}}\n",
                said.at_ms / 1000,
                said.at_ms % 1000,
                said.text
            );
            // A node whose folder is gone has no log.
            let _ = fs::File::options().create(true).append(true).open(log).map(|mut f| f.write_all(line.as_bytes()));
        }
        for (who, place) in places.iter_mut().enumerate() {
            let (runs, ready) = (live.runs(who), live.is_ready(who));
            let (state, guard) = (place.folder.join("run/etcd.state"), place.folder.join("run/etcd.guard"));
            if !runs {
                if place.door.take().is_some() || guard.exists() {
                    let _ = (fs::remove_file(guard), fs::write(state, "inactive"));
                }
                continue;
            }
            let word = if ready || place.door.is_some() { "active 0" } else { "activating 0" };
            if fs::read_to_string(&state).ok().as_deref() != Some(word) {
                let _ = (fs::write(guard, std::process::id().to_string()), fs::write(state, word));
            }
            if ready && place.door.is_none() {
                place.door = Door::open(&place.endpoint, who, self);
            }
        }
    }

    fn close(&self) {
        self.places.lock().iter_mut().for_each(|place| drop(place.door.take()));
    }

    /// Carries out an order: `start n1 wait`, `start n1`, `stop n1`, `signal n1 KILL`, `sleep 0.2`, `fault partition n1 | n2,n3`.
    fn order(self: &Arc<Hall>, line: &str) -> Result<(), String> {
        let (verb, rest) = line.split_once(' ').unwrap_or((line, ""));
        let names: Vec<String> = self.places.lock().iter().map(|p| p.name.clone()).collect();
        if verb == "sleep" {
            let us = sleep_us(rest)?;
            self.with(|live| live.pass(us));
            return self.whole();
        }
        if verb == "fault" {
            let act = twin::act(&Deed::parse(rest, &names)?)?;
            self.with(|live| live.act(&act));
            return self.whole();
        }
        let (name, how) = rest.split_once(' ').unwrap_or((rest, ""));
        let who = names.iter().position(|n| n == name).ok_or_else(|| format!("there is no simulated member {name}"))?;
        match (verb, how) {
            ("start", _) => self.start(who, how == "wait")?,
            ("stop", _) | ("signal", "TERM" | "INT") => self.with(|live| live.stop(who)),
            ("signal", "KILL") => self.with(|live| live.crash(who, RESTART_US)),
            ("signal", "STOP") => self.with(|live| live.pause(who)),
            ("signal", "CONT") => self.with(|live| live.go_on(who)),
            ("signal", other) => {
                return Err(format!("a simulated member knows STOP, CONT, TERM, INT and KILL, and no {other}"));
            }
            _ => return Err(format!("the simulation does not know `{line}`")),
        }
        self.whole()
    }

    fn start(self: &Arc<Hall>, who: usize, waits: bool) -> Result<(), String> {
        let (folder, unit) = {
            let places = self.places.lock();
            (places[who].folder.clone(), places[who].unit.clone())
        };
        let loaded = fs::read_to_string(folder.join("run/etcd.loaded")).unwrap_or_else(|_| unit.clone());
        if loaded != unit {
            return Err(
                "the unit file of etcd is another than at the beginning, and a simulated member has no flags: \
                        run this lab with --engine real"
                    .into(),
            );
        }
        let ready = self.with(|live| {
            live.start(who);
            !waits || live.run(READY_US, |live| live.is_ready(who))
        });
        if !ready {
            self.with(|live| live.end(who));
            let _ = fs::write(folder.join("run/etcd.state"), "failed timeout");
        }
        Ok(())
    }

    /// Whether the judge has found nothing.
    fn whole(&self) -> Result<(), String> {
        match self.live.lock().broken() {
            Some(why) => Err(format!("the simulator's judge: {why}")),
            None => Ok(()),
        }
    }
}

/// `0.2`, `5s`, `1m`, as sleep(1) reads them.
fn sleep_us(text: &str) -> Result<u64, String> {
    let (number, scale) = match text.trim().strip_suffix('m') {
        Some(minutes) => (minutes, 60.0),
        None => (text.trim().trim_end_matches('s'), 1.0),
    };
    let seconds = number.parse::<f64>().ok().map(|n| n * scale).filter(|s| (0.0..=SLEEP_MAX_S).contains(s));
    let seconds =
        seconds.ok_or_else(|| format!("sleep {text}: on simulated members 0 to {SLEEP_MAX_S} seconds can go by"))?;
    Ok((seconds * 1e6) as u64)
}

/// Takes orders until the simulation is gone.
fn serve(socket: &Path, hall: Arc<Hall>) -> Result<(), String> {
    let listener = UnixListener::bind(socket).map_err(|e| format!("{}: {e}", socket.display()))?;
    listener.set_nonblocking(true).map_err(|e| format!("{}: {e}", socket.display()))?;
    let (path, hall) = (socket.to_owned(), Arc::downgrade(&hall));
    std::thread::spawn(move || {
        while path.exists() {
            let Ok((stream, _)) = listener.accept() else {
                std::thread::sleep(Duration::from_millis(2));
                continue;
            };
            let Some(hall) = hall.upgrade() else { return };
            // Each on its own: one may wait.
            std::thread::spawn(move || answer(stream, &hall));
        }
    });
    Ok(())
}

fn answer(mut stream: UnixStream, hall: &Arc<Hall>) {
    let mut line = String::new();
    let read = stream.set_nonblocking(false).and_then(|()| stream.try_clone());
    let read = read.and_then(|half| BufReader::new(half.take(LINE_MAX)).read_line(&mut line));
    let said = match read {
        Ok(_) => hall.order(line.trim()),
        Err(e) => Err(e.to_string()),
    };
    let text = said.map_or_else(|why| format!("no {why}"), |()| "ok".into());
    // Whoever asked may have gone.
    let _ = stream.write_all(text.as_bytes());
}

/// Gives an order to the simulation, if there is one around this program.
pub(crate) fn order(line: &str) -> Option<Result<(), String>> {
    let socket = std::env::var_os(SIM_VAR)?;
    let talk = || {
        let mut stream = UnixStream::connect(&socket)?;
        stream.write_all(format!("{line}\n").as_bytes())?;
        let mut said = String::new();
        stream.read_to_string(&mut said).map(|_| said)
    };
    let said = talk().map_err(|e| format!("the lab's simulation does not answer: {e}"));
    Some(said.and_then(|said| match said.strip_prefix("no ") {
        Some(why) => Err(why.to_owned()),
        None => Ok(()),
    }))
}

/// `sleep` where members are simulated: it is their time that goes by, and a little of ours, for the programs.
pub(super) fn sleep(words: &[String]) -> Result<u8, String> {
    let [time] = words else { return Err("usage: sleep SECONDS".into()) };
    order(&format!("sleep {time}")).ok_or("sleep: there is no simulation here")??;
    std::thread::sleep(REAL_PAUSE);
    Ok(0)
}

/// `etcd-lab fault …` in a lab with simulated members; nothing if there are none around this program.
pub fn simulated_fault(words: &[String], out: &mut dyn Write, err: &mut dyn Write) -> Option<u8> {
    let line = words.join(" ");
    Some(match order(&format!("fault {line}"))? {
        Ok(()) => {
            let _ = writeln!(out, "done: {line}");
            0
        }
        Err(why) => {
            let _ = writeln!(err, "Error: {why}");
            1
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sleep_reads_what_sleep_reads() {
        assert_eq!(sleep_us("0.2"), Ok(200_000));
        assert_eq!((sleep_us("5s"), sleep_us("2m")), (Ok(5_000_000), Ok(120_000_000)));
        for odd in ["", "x", "-1", "601", "infinity", "NaN"] {
            assert!(sleep_us(odd).is_err(), "{odd}");
        }
    }
}
