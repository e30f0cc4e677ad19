//! The cluster behind the endpoints that answer: who leads, who is missing, who may do what, and what is full.

use super::Cause;
use super::Finding;
use super::Patient;
use super::clock;
use super::elections;
use super::refusals;
use super::wire;
use crate::client::Client;
use crate::client::Config;
use crate::error::Error as Etcd;
use crate::proto::etcdserverpb::AlarmRequest;
use crate::proto::etcdserverpb::AlarmType;
use crate::proto::etcdserverpb::AuthUserGetRequest;
use crate::proto::etcdserverpb::Member;
use crate::proto::etcdserverpb::MemberListRequest;
use crate::proto::etcdserverpb::StatusResponse;
use futures::future::join_all;
use std::time::Duration;

/// How long a question may take: several elections.
const PATIENCE: Duration = Duration::from_secs(3);

/// Looks behind endpoints that answer.
pub(super) async fn examine(patient: &Patient, good: &[String], said: &str) -> Vec<Finding> {
    let config = Config { endpoints: good.to_vec(), call_timeout: Some(PATIENCE), ..patient.config.clone() };
    let client = Client::new(config.clone());
    let mut findings = Vec::new();
    let (known, pages) = (refusals::of(said), elections::pages(&config).await);
    if known.is_none()
        && let Some(finding) = clock::examine(&pages)
    {
        // Whatever else is asked of these members waits as well.
        return vec![finding];
    }
    let told = match known {
        Some(known) => Some((known, said.to_owned())),
        None => tried(&client, patient).await.and_then(|text| Some((refusals::of(&text)?, text))),
    };
    if let Some(((cause, says), text)) = told {
        let mut evidence = text;
        evidence += &match cause {
            Cause::NotPermitted => roles(&client, patient).await,
            Cause::Compacted | Cause::FutureRevision => newest(&client).await,
            _ => String::new(),
        };
        findings.push(Finding::new(cause, says, evidence));
    }
    alarms(&client, &mut findings).await;
    let agreed = Client::new(Config { user: None, ..config.clone() });
    if findings.is_empty()
        && let Err(error) = agreed.call(MemberListRequest { linearizable: true }).await
        && refusals::of(&error.to_string()).is_none()
    {
        findings.push(no_agreement(patient, &config, &error.to_string()).await);
    }
    findings.extend(elections::examine(&config, &pages).await);
    findings
}

/// What a read by this user is answered with; nothing if it is answered well, or not at all.
async fn tried(client: &Client, patient: &Patient) -> Option<String> {
    if patient.config.user.is_some()
        && let Err(error) = client.authenticate().await
        && !error.says(&Etcd::AuthNotEnabled.to_string())
    {
        return Some(error.to_string());
    }
    client
        .get("health")
        .await
        .err()
        .map(|error| error.to_string())
        .filter(|text| *text != Etcd::PermissionDenied.to_string())
}

async fn newest(client: &Client) -> String {
    // Without a user or with authentication off it does no harm.
    let _ = client.authenticate().await;
    let header = client.status().await.ok().and_then(|status| status.header);
    header.map_or_else(String::new, |header| format!("; the newest revision is {}", header.revision))
}

async fn roles(client: &Client, patient: &Patient) -> String {
    let Some((name, _)) = &patient.config.user else { return String::new() };
    if client.authenticate().await.is_err() {
        return String::new();
    }
    match client.call(AuthUserGetRequest { name: name.clone() }).await {
        Ok(answer) if answer.roles.is_empty() => format!("; {name} has no role"),
        Ok(answer) => format!("; {name} has the roles {}", answer.roles.join(", ")),
        Err(_) => String::new(),
    }
}

/// Adds what is raised, unless it is told already.
async fn alarms(client: &Client, findings: &mut Vec<Finding>) {
    let Ok(answer) = client.call(AlarmRequest::default()).await else { return };
    for alarm in answer.alarms {
        let member = format!("member {:x} has raised {}", alarm.member_id, alarm.alarm().as_str_name());
        let (cause, says) = match alarm.alarm() {
            AlarmType::Nospace => (
                Cause::NoSpace,
                "the database has reached its quota: reads go on, writes are refused until space is made and the alarm is disarmed",
            ),
            AlarmType::Corrupt => (Cause::Corrupt, "a member's data is not that of the others: writes are refused"),
            AlarmType::None => continue,
        };
        match findings.iter_mut().find(|finding| finding.cause == cause) {
            Some(told) => told.evidence = format!("{}; {member}", told.evidence),
            None => findings.push(Finding::new(cause, says, member)),
        }
    }
}

/// Members answer, and do not agree on anything: counts who is there.
async fn no_agreement(patient: &Patient, config: &Config, error: &str) -> Finding {
    let mut known = None;
    let mut statuses: Vec<(String, StatusResponse)> = Vec::new();
    for endpoint in &config.endpoints {
        let alone = Config { endpoints: vec![endpoint.clone()], user: None, ..config.clone() };
        let client = Client::new(alone);
        if let Ok(status) = client.status().await {
            statuses.push((endpoint.clone(), status));
        }
        if known.is_none() {
            known = client.call(MemberListRequest { linearizable: false }).await.ok();
        }
    }
    let members: Vec<Member> = known.unwrap_or_default().members;
    let voters: Vec<&Member> = members.iter().filter(|member| !member.is_learner).collect();
    let missing: Vec<Option<String>> = join_all(voters.iter().map(|member| missing(member, patient))).await;
    let down: Vec<String> = missing.into_iter().flatten().collect();
    let (all, quorum) = (voters.len(), voters.len() / 2 + 1);
    let up = all - down.len();
    let evidence = match statuses.iter().find(|(_, status)| status.leader == 0) {
        Some((endpoint, _)) => format!("{endpoint}: etcdserver: no leader"),
        None => error.to_owned(),
    };
    if up < quorum {
        let says = format!(
            "the cluster has no majority: {up} of {all} members are up, {quorum} are needed; missing: {}",
            down.join(", ")
        );
        return Finding::new(Cause::NoQuorum, says, evidence);
    }
    if statuses.iter().all(|(_, status)| status.leader == 0) {
        let says = format!(
            "{up} of {all} members are up, which is a majority, and they have no leader: they do not reach each other"
        );
        return Finding::new(Cause::NoLeader, says, evidence);
    }
    let says =
        format!("{up} of {all} members are up and there is a leader, and still nothing is agreed upon in {PATIENCE:?}");
    Finding::new(Cause::NoProgress, says, evidence)
}

/// The name of a member that none of its client URLs reaches, and why.
async fn missing(member: &Member, patient: &Patient) -> Option<String> {
    let name = if member.name.is_empty() { format!("{:x}", member.id) } else { member.name.clone() };
    let mut why = "it was never started".to_owned();
    for url in &member.client_ur_ls {
        match wire::probe(url, patient).await {
            Ok(()) => return None,
            Err(finding) => why = finding.evidence,
        }
    }
    Some(format!("{name} ({why})"))
}
