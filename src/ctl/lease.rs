//! `lease grant`, `revoke`, `timetolive`, `list` and `keep-alive`.

use super::exit;
use super::exit::Exit;
use super::exit::Outcome;
use super::print;
use super::print::Format;
use super::print::lease::Revoked;
use super::print::lease::TimeToLive;
use super::session::Session;
use crate::golang;
use crate::proto::etcdserverpb::LeaseGrantRequest;
use crate::proto::etcdserverpb::LeaseLeasesRequest;
use crate::proto::etcdserverpb::LeaseRevokeRequest;
use crate::proto::etcdserverpb::LeaseTimeToLiveRequest;

/// The lease that is the only word; otherwise `needs` says what the command needs.
fn only_word(session: &Session<'_>, needs: &str) -> Result<i64, Exit> {
    if session.args.words.len() != 1 {
        return Err(Exit::bad_args(needs));
    }
    golang::parse_int(&session.args.word(0), 16)
        .map_err(|why| Exit::bad_args(format!("bad lease ID arg ({why}), expecting ID in Hex")))
}

/// `lease grant`.
pub(super) async fn grant(session: &mut Session<'_>) -> Outcome {
    if session.args.words.len() != 1 {
        return Err(Exit::bad_args("lease grant command needs TTL argument"));
    }
    let ttl = golang::parse_int(&session.args.word(0), 10).map_err(|why| Exit::bad_args(format!("bad TTL ({why})")))?;
    let client = session.client().await?;
    let answer = client.call(LeaseGrantRequest { ttl, id: 0 }).await.map_err(|error| {
        session.explain(&error);
        Exit::error(format!("failed to grant lease ({error})"))
    })?;
    session.print(&answer)
}

/// `lease revoke`.
pub(super) async fn revoke(session: &mut Session<'_>) -> Outcome {
    let id = only_word(session, "lease revoke command needs 1 argument")?;
    let client = session.client().await?;
    let answer = client.call(LeaseRevokeRequest { id }).await.map_err(|error| {
        session.explain(&error);
        Exit::error(format!("failed to revoke lease ({error})"))
    })?;
    session.print(&Revoked(id, answer))
}

/// `lease timetolive`.
pub(super) async fn time_to_live(session: &mut Session<'_>) -> Outcome {
    let id = only_word(session, "lease timetolive command needs lease ID as argument")?;
    let keys = session.args.is_set("keys");
    let client = session.client().await?.patient(Session::NO_LIMIT);
    let answer = client.call(LeaseTimeToLiveRequest { id, keys }).await;
    let answer = answer.map_err(|error| session.failed(exit::BAD_CONNECTION, &error))?;
    session.print(&TimeToLive(answer, keys))
}

/// `lease list`.
pub(super) async fn list(session: &mut Session<'_>) -> Outcome {
    let client = session.client().await?.patient(Session::NO_LIMIT);
    let answer = client.call(LeaseLeasesRequest {}).await;
    let answer = answer.map_err(|error| session.failed(exit::BAD_CONNECTION, &error))?;
    session.print(&answer)
}

/// `lease keep-alive`.
pub(super) async fn keep_alive(session: &mut Session<'_>) -> Outcome {
    let id = only_word(session, "lease keep-alive command needs lease ID as argument")?;
    let client = session.client().await?.patient(Session::NO_LIMIT);
    if session.args.is_set("once") {
        let answer = client.keep_alive_once(id).await;
        let answer = answer.map_err(|error| session.failed(exit::BAD_CONNECTION, &error))?;
        return session.print(&answer);
    }
    let mut renewals = client.keep_alive(id);
    // A stream that fails for good ends like a lease that is gone, as in etcd.
    while let Ok(Some(answer)) = renewals.next().await {
        session.print(&answer)?;
    }
    if session.format == Format::Simple {
        session.line(format_args!("lease {} expired or revoked.", print::lease_id(id)))?;
    }
    Ok(())
}
