//! `endpoint health`, `status`, `hashkv`; `move-leader`: commands that ask one endpoint after the other.
#![expect(clippy::disallowed_methods, reason = "health tells how long an answer took")]

use super::exit;
use super::exit::Exit;
use super::exit::Outcome;
use super::print::cluster::Health;
use super::print::cluster::LeaderMoved;
use super::print::cluster::PerEndpoint;
use super::session::Session;
use crate::client;
use crate::client::Call;
use crate::client::Client;
use crate::client::Config;
use crate::golang;
use crate::proto::etcdserverpb::AlarmRequest;
use crate::proto::etcdserverpb::AlarmResponse;
use crate::proto::etcdserverpb::AlarmType;
use crate::proto::etcdserverpb::HashKvRequest;
use crate::proto::etcdserverpb::MoveLeaderRequest;
use crate::proto::etcdserverpb::StatusRequest;
use futures::future::join_all;
use std::time::Instant;

/// The endpoints of `--endpoints`; with `--cluster` those of all members, which is asked of the former, by the user that the flags name: since 3.5.28 a
/// server with authentication wants to know one.
pub(super) async fn endpoints(session: &mut Session<'_>) -> Result<Vec<String>, Exit> {
    let config = session.config().await?;
    if !session.args.is_set("cluster") {
        return Ok(config.endpoints);
    }
    let client = session.client_with(config).await.map_err(|failed| Exit { code: exit::ERROR, ..failed })?;
    let members = client.members().await.map_err(|error| {
        session.explain(&error);
        Exit::error(format!("failed to fetch endpoints from etcd cluster member list: {error}"))
    })?;
    Ok(members.into_iter().flat_map(|member| member.client_ur_ls).collect())
}

/// `endpoint health`: all at once, each with a read that a quorum must agree to.
pub(super) async fn health(session: &mut Session<'_>) -> Outcome {
    let config = session.config().await?;
    let endpoints = endpoints(session).await?;
    let checks = endpoints.into_iter().map(|endpoint| {
        let client = Client::new(Config { endpoints: vec![endpoint.clone()], ..config.clone() });
        async { (endpoint, check(client).await) }
    });
    let healths = join_all(checks).await;
    let all_well = healths.iter().all(|(_, health)| health.error.is_empty());
    session.print(&PerEndpoint(healths))?;
    if all_well { Ok(()) } else { Err(Exit::error("unhealthy cluster")) }
}

async fn check(client: Client) -> Health {
    match client.authenticate().await {
        Ok(()) => {}
        Err(error) if error.says(&crate::error::Error::AuthNotEnabled.to_string()) => {}
        Err(error) => return Health { took: String::new(), error: error.to_string(), health: false },
    }
    let start = Instant::now();
    let read = client.get("health").await;
    let took = golang::duration(start.elapsed());
    let error = match read {
        // A refusal went through the quorum, too.
        Err(error) if !error.says(&crate::error::Error::PermissionDenied.to_string()) => error.to_string(),
        _ => match client.call(AlarmRequest::default()).await {
            Ok(answer) => alarms(&answer),
            Err(_) => "Unable to fetch the alarm list".to_owned(),
        },
    };
    Health { took, health: error.is_empty(), error }
}

/// What the alarms come to: nothing, or an illness.
fn alarms(answer: &AlarmResponse) -> String {
    if answer.alarms.is_empty() {
        return String::new();
    }
    let name = |alarm: AlarmType| match alarm {
        AlarmType::Nospace => "NOSPACE ",
        AlarmType::Corrupt => "CORRUPT ",
        AlarmType::None => "UNKNOWN ",
    };
    answer.alarms.iter().fold("Active Alarm(s): ".to_owned(), |text, alarm| text + name(alarm.alarm()))
}

/// Asks every endpoint the same; tells of those that fail, and keeps the last failure.
async fn ask_each<C: Call>(
    session: &mut Session<'_>,
    what: &str,
    request: C,
) -> Result<(Vec<(String, C::Answer)>, Option<client::Error>), Exit> {
    let mut answers = Vec::new();
    let mut failure = None;
    for endpoint in endpoints(session).await? {
        let client = session.client_of(&endpoint).await?;
        match client.call(request.clone()).await {
            Ok(answer) => answers.push((endpoint, answer)),
            Err(error) => {
                session.explain(&error);
                writeln!(session.err, "Failed to get the {what} of endpoint {endpoint} ({error})")?;
                failure = Some(error);
            }
        }
    }
    Ok((answers, failure))
}

/// `endpoint status`.
pub(super) async fn status(session: &mut Session<'_>) -> Outcome {
    let (answers, failure) = ask_each(session, "status", StatusRequest {}).await?;
    session.print(&PerEndpoint(answers))?;
    if failure.is_some() { Err(Exit::silent(exit::ERROR)) } else { Ok(()) }
}

/// `endpoint hashkv`.
pub(super) async fn hashkv(session: &mut Session<'_>) -> Outcome {
    let revision = session.args.number("rev");
    let (answers, failure) = ask_each(session, "hash", HashKvRequest { revision }).await?;
    session.print(&PerEndpoint(answers))?;
    failure.map_or(Ok(()), |error| Err(Exit::error(error.to_string())))
}

/// `move-leader`: asks the endpoints who leads, and the one that does to hand over.
pub(super) async fn move_leader(session: &mut Session<'_>) -> Outcome {
    if session.args.words.len() != 1 {
        return Err(Exit::bad_args("move-leader command needs 1 argument"));
    }
    let to = golang::parse_uint(&session.args.word(0), 16).map_err(Exit::bad_args)?;
    let endpoints = session.config().await?.endpoints;
    for endpoint in &endpoints {
        let client = session.client_of(endpoint).await?;
        let status = client.status().await.map_err(|error| session.failed(exit::ERROR, &error))?;
        let from = status.leader;
        if from != status.header.unwrap_or_default().member_id {
            continue;
        }
        let answer = client.call(MoveLeaderRequest { target_id: to }).await;
        let answer = answer.map_err(|error| session.failed(exit::ERROR, &error))?;
        return session.print(&LeaderMoved { from, to, answer });
    }
    Err(Exit::bad_args(format!("no leader endpoint given at [{}]", endpoints.join(" "))))
}
