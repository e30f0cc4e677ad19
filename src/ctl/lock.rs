//! `lock` and `elect`: one of many at a time; until a signal, or for as long as a command runs.
//!
//! Source: etcd `ctlv3/command/lock_command.go`, `elect_command.go`.

use super::child;
use super::exit;
use super::exit::Exit;
use super::exit::Outcome;
use super::session::Session;
use crate::client;
use crate::client::Observer;
use crate::client::Place;
use crate::proto::etcdserverpb::RangeRequest;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::process::Stdio;
use tokio::process::Command;
use tokio::signal::unix::Signal;
use tokio::signal::unix::SignalKind;
use tokio::signal::unix::signal;

/// How long the lease of an election lives, in seconds.
const ELECTION_TTL: i64 = 60;
/// The same of a lock, if `--ttl` says nothing.
const LOCK_TTL: i64 = 10;

/// SIGINT or SIGTERM, whichever comes first.
pub(super) struct Stop(Signal, Signal);

impl Stop {
    pub(super) fn new() -> Result<Stop, Exit> {
        Ok(Stop(signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?))
    }

    /// Waits for it. May be dropped and called again.
    pub(super) async fn asked(&mut self) {
        tokio::select! {
            _ = self.0.recv() => {}
            _ = self.1.recv() => {}
        }
    }
}

fn failed(session: &mut Session<'_>, error: &client::Error) -> Exit {
    session.failed(exit::ERROR, error)
}

/// Waits for the turn of a place; a signal gives it up.
async fn wait_for_turn(
    session: &mut Session<'_>,
    lease: &client::Session,
    mut place: Place,
    stop: &mut Stop,
) -> Result<Place, Exit> {
    let turn = tokio::select! {
        turn = place.turn(lease) => turn,
        () = lease.lost() => Err(client::Error::Config("session expired".to_owned())),
        () = stop.asked() => {
            place.leave(lease).await.map_err(|error| failed(session, &error))?;
            return Err(Exit::error("context canceled"));
        }
    };
    match turn {
        Ok(()) => Ok(place),
        Err(error) => {
            // The lease takes the key with it if this fails.
            let _ = place.leave(lease).await;
            Err(failed(session, &error))
        }
    }
}

/// Prints the key of a place, and what it says.
async fn show(session: &mut Session<'_>, place: &Place) -> Outcome {
    let key = place.key().to_owned().into();
    let answer = session.ask_patiently(RangeRequest { key, ..RangeRequest::default() }).await?;
    if answer.kvs.is_empty() {
        return Err(Exit::error("lock lost on init"));
    }
    session.print(&answer)
}

/// `lock`.
pub(super) async fn lock(session: &mut Session<'_>) -> Outcome {
    if session.args.words.is_empty() {
        return Err(Exit::bad_args("lock takes a lock name argument and an optional command to execute"));
    }
    let name = session.args.word(0);
    let command = session.args.words[1..].to_vec();
    let ttl = match session.args.number("ttl") {
        // What is not positive counts as not given, as in etcd, which has its own default for it.
        _ if !session.args.is_given("ttl") => LOCK_TTL,
        ttl if ttl <= 0 => ELECTION_TTL,
        ttl => ttl,
    };
    let client = session.client().await?;
    let lease = client::Session::open(&client, ttl).await.map_err(|error| failed(session, &error))?;
    let mut stop = Stop::new()?;
    let place = Place::take(&lease, &name, "").await.map_err(|error| failed(session, &error))?;
    let place = wait_for_turn(session, &lease, place, &mut stop).await?;
    let ran = match command.as_slice() {
        [] => hold(session, &lease, &place, &mut stop, "session expired").await,
        command => execute(session, command, &place).await,
    };
    let left = place.leave(&lease).await;
    ran?;
    left.map_err(|error| failed(session, &error))
}

/// Holds a place until a signal.
async fn hold(
    session: &mut Session<'_>,
    lease: &client::Session,
    place: &Place,
    stop: &mut Stop,
    lost: &str,
) -> Outcome {
    show(session, place).await?;
    tokio::select! {
        () = stop.asked() => Ok(()),
        () = lease.lost() => Err(Exit::error(lost)),
    }
}

/// Runs a command with the lock in its environment, on the same streams. Its exit code becomes ours.
async fn execute(session: &mut Session<'_>, command: &[Vec<u8>], place: &Place) -> Outcome {
    session.out.flush()?;
    let program = OsStr::from_bytes(&command[0]);
    let child = Command::new(program)
        .args(command[1..].iter().map(|word| OsStr::from_bytes(word)))
        .env("ETCD_LOCK_KEY", place.key())
        .env("ETCD_LOCK_REV", place.revision().to_string())
        .stdin(Stdio::null())
        .spawn();
    let mut child = child.map_err(|error| Exit::error(child::not_started(program.as_bytes(), &error)))?;
    let status = child.wait().await?;
    if status.success() { Ok(()) } else { Err(child::exit_like(status)) }
}

/// `elect`.
pub(super) async fn elect(session: &mut Session<'_>) -> Outcome {
    let listen = session.args.is_set("listen");
    match session.args.words.len() {
        1 if listen => observe(session).await,
        1 => Err(Exit::bad_args("no proposal argument but -l not set")),
        2 if listen => Err(Exit::bad_args("proposal given but -l is set")),
        2 => campaign(session).await,
        _ => Err(Exit::bad_args("elect takes one election name argument and an optional proposal argument")),
    }
}

async fn campaign(session: &mut Session<'_>) -> Outcome {
    let (name, proposal) = (session.args.word(0), session.args.words[1].clone());
    let client = session.client().await?;
    let lease = client::Session::open(&client, ELECTION_TTL).await.map_err(|error| failed(session, &error))?;
    let mut stop = Stop::new()?;
    let place = Place::take(&lease, &name, proposal).await.map_err(|error| failed(session, &error))?;
    let place = wait_for_turn(session, &lease, place, &mut stop).await?;
    hold(session, &lease, &place, &mut stop, "elect: session expired").await?;
    place.leave(&lease).await.map_err(|error| failed(session, &error))
}

/// Prints who leads, and each who comes after, until a signal.
async fn observe(session: &mut Session<'_>) -> Outcome {
    let client = session.client().await?;
    let mut observer = Observer::new(&client, &session.args.word(0));
    let mut stop = Stop::new()?;
    loop {
        let next = tokio::select! {
            next = observer.next() => next,
            () = stop.asked() => return Ok(()),
        };
        match next {
            Ok(answer) => session.print(&answer)?,
            Err(error) => {
                session.explain(&error);
                return Err(Exit::error("elect: observer lost"));
            }
        }
    }
}
