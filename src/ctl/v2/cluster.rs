//! `member`, `cluster-health`, `backup`. Source: etcd 3.4 `etcdctl/ctlv2/command/{member_commands,cluster_health}.go`.
#![expect(clippy::disallowed_methods, reason = "--forever asks each ten seconds")]

use super::BAD_ARGS;
use super::BAD_CONNECTION;
use super::Exit;
use super::NOT_HEALTHY;
use super::Outcome;
use super::SERVER_ERROR;
use super::World;
use super::is_refusal;
use super::store::Failure;
use super::unavailable;
use crate::client;
use crate::client::Client;
use crate::ctl::member;
use crate::golang;
use crate::proto::etcdserverpb::Member;
use crate::proto::etcdserverpb::MemberAddRequest;
use crate::proto::etcdserverpb::MemberListRequest;
use crate::proto::etcdserverpb::MemberRemoveRequest;
use crate::proto::etcdserverpb::MemberUpdateRequest;
use crate::utl;
use std::pin::pin;
use std::time::Duration;

/// How often `cluster-health --forever` asks.
const AGAIN_AFTER: Duration = Duration::from_secs(10);

impl World<'_> {
    /// The exit for a command on something else than keys: what was said, without a word before it.
    pub(super) async fn said(&mut self, failure: Failure) -> Exit {
        match failure {
            Failure::Client(client::Error::Deadline { .. }) => {
                let (text, detail) = unavailable(&self.unreachable().await);
                Exit::error(BAD_CONNECTION, format!("{text}\n{detail}"))
            }
            Failure::Client(client::Error::Config(why)) => Exit { code: BAD_ARGS, text: why },
            Failure::Client(error) if is_refusal(&error) => Exit::plain(BAD_ARGS, "Insufficient credentials"),
            Failure::Client(error) => {
                let text = error.to_string();
                Exit::plain(BAD_ARGS, text.strip_prefix("etcdserver: ").unwrap_or(&text))
            }
            Failure::Refused { cause, .. } => Exit::plain(BAD_ARGS, cause),
        }
    }

    async fn members(&mut self) -> Result<(Client, Vec<Member>), Exit> {
        let found = async {
            let client = self.client().await?;
            let members = client.call(MemberListRequest { linearizable: false }).await?.members;
            Ok((client, members))
        };
        match found.await {
            Ok(found) => Ok(found),
            Err(failure) => Err(self.said(failure).await),
        }
    }

    fn no_words(&self) -> Outcome {
        if self.line.words.is_empty() { Ok(()) } else { Err(Exit::plain(BAD_ARGS, "No arguments accepted")) }
    }
}

/// Peer URLs, looked at before anything is sent.
fn checked(urls: &str) -> Result<Vec<String>, Exit> {
    member::urls(urls).map_err(|exit| Exit::plain(BAD_ARGS, exit.message.unwrap_or_default()))
}

/// `member list`.
pub(super) async fn list(world: &mut World<'_>) -> Outcome {
    world.no_words()?;
    let (client, mut members) = world.members().await?;
    let leader = match client.status().await {
        Ok(status) => status.leader,
        Err(error) => return Err(Exit::plain(BAD_ARGS, format!("Failed to get leader:  {error}"))),
    };
    members.sort_by_key(|member| format!("{:x}", member.id));
    for member in members {
        let (id, peers) = (member.id, member.peer_ur_ls.join(","));
        if member.name.is_empty() {
            world.say(format_args!("{id:x}[unstarted]: peerURLs={peers}"))?;
        } else {
            let clients = member.client_ur_ls.join(",");
            let leads = id == leader;
            world.say(format_args!(
                "{id:x}: name={} peerURLs={peers} clientURLs={clients} isLeader={leads}",
                member.name
            ))?;
        }
    }
    Ok(())
}

/// `member add`.
pub(super) async fn add(world: &mut World<'_>) -> Outcome {
    let [name, url] = world.line.words.as_slice() else {
        return Err(Exit::plain(BAD_ARGS, "Provide a name and a single member peerURL"));
    };
    let (name, peer_ur_ls) = (name.clone(), checked(url)?);
    let added = async {
        let request = MemberAddRequest { peer_ur_ls, is_learner: false };
        Ok(world.client().await?.call(request).await?)
    };
    let added = match added.await {
        Ok(added) => added,
        Err(failure) => return Err(world.said(failure).await),
    };
    let id = added.member.unwrap_or_default().id;
    world.say(format_args!("Added member named {name} with ID {id:x} to cluster\n"))?;
    let mut members = added.members;
    members.sort_by_key(|member| format!("{:x}", member.id));
    let pair = |member: &Member| {
        let own = if member.id == id { name.clone() } else { member.name.clone() };
        member.peer_ur_ls.iter().map(move |url| format!("{own}={url}")).collect::<Vec<_>>()
    };
    let initial: Vec<String> = members.iter().flat_map(pair).collect();
    let (name, initial) = (golang::quote(name.as_bytes()), golang::quote(initial.join(",").as_bytes()));
    world.say(format_args!("ETCD_NAME={name}\nETCD_INITIAL_CLUSTER={initial}\nETCD_INITIAL_CLUSTER_STATE=\"existing\""))
}

/// `member remove`.
pub(super) async fn remove(world: &mut World<'_>) -> Outcome {
    let [wanted] = world.line.words.as_slice() else { return Err(Exit::plain(BAD_ARGS, "Provide a single member ID")) };
    let wanted = wanted.clone();
    let (client, members) = world.members().await?;
    if let Some(named) = members.iter().find(|member| member.name == wanted) {
        writeln!(
            world.err,
            "Found a member named {wanted}; if this is correct, please use its ID, eg:\n\tetcdctl member remove {:x}",
            named.id
        )?;
    }
    let Some(member) = members.iter().find(|member| format!("{:x}", member.id) == wanted) else {
        return Err(Exit::plain(BAD_ARGS, format!("Couldn't find a member in the cluster with an ID of {wanted}.")));
    };
    if let Err(error) = client.call(MemberRemoveRequest { id: member.id }).await {
        return Err(Exit {
            code: BAD_ARGS,
            text: format!("Received an error trying to remove member {wanted}: {error}"),
        });
    }
    world.say(format_args!("Removed member {wanted} from cluster"))
}

/// `member update`.
pub(super) async fn update(world: &mut World<'_>) -> Outcome {
    let [id, urls] = world.line.words.as_slice() else {
        let usage =
            "Provide an ID and a list of comma separated peerURL (0xabcd http://example.com,http://example1.com)";
        return Err(Exit::plain(BAD_ARGS, usage));
    };
    let (id, peer_ur_ls) = (id.clone(), checked(urls)?);
    let Ok(number) = u64::from_str_radix(id.trim_start_matches("0x"), 16) else {
        return Err(Exit::plain(BAD_ARGS, format!("No such member: {id}")));
    };
    let updated = async { Ok(world.client().await?.call(MemberUpdateRequest { id: number, peer_ur_ls }).await?) };
    match updated.await {
        Ok(_) => world.say(format_args!("Updated member with ID {id} in cluster")),
        Err(failure) => Err(world.said(failure).await),
    }
}

/// `cluster-health`.
pub(super) async fn health(world: &mut World<'_>) -> Outcome {
    let client = world.quiet_client().await?;
    // What this member knows: a cluster without a majority has members, too.
    let first = Some(Duration::from_secs(1));
    let members = match client.patient(first).call(MemberListRequest { linearizable: false }).await {
        Ok(answer) => answer.members,
        Err(error) => {
            world.say("cluster may be unhealthy: failed to list members")?;
            return Err(match error {
                client::Error::Deadline { .. } => {
                    let (text, detail) = unavailable(&world.unreachable().await);
                    Exit::error(SERVER_ERROR, format!("{text}\n{detail}"))
                }
                other => Exit::error(SERVER_ERROR, other.to_string()),
            });
        }
    };
    let mut interrupted = pin!(tokio::signal::ctrl_c());
    loop {
        let healthy = round(world, &members).await?;
        let is_well = healthy == members.len();
        world.say(match healthy {
            _ if is_well => "cluster is healthy",
            0 => "cluster is unavailable",
            _ => "cluster is degraded",
        })?;
        if !world.line.is_set("forever") {
            return if is_well { Ok(()) } else { Err(Exit::silent(NOT_HEALTHY)) };
        }
        world.say("\nnext check after 10 second...\n")?;
        tokio::select! {
            () = tokio::time::sleep(AGAIN_AFTER) => {}
            _ = &mut interrupted => return Ok(()),
        }
    }
}

/// Asks every member at `/health`; returns how many are well.
async fn round(world: &mut World<'_>, members: &[Member]) -> Result<usize, Exit> {
    let mut healthy = 0;
    for member in members {
        let id = member.id;
        if member.client_ur_ls.is_empty() {
            world.say(format_args!("member {id:x} is unreachable: no available published client urls"))?;
            continue;
        }
        let mut answered = false;
        for url in &member.client_ur_ls {
            let client = world.client_of(url).await?;
            match client.fetch("/health").await {
                Ok(page) => {
                    let is_well = page.contains("\"health\":\"true\"") || page.contains("\"health\":true");
                    healthy += usize::from(is_well);
                    let (is, got) = if is_well { ("healthy", "healthy") } else { ("unhealthy", "unhealthy") };
                    world.say(format_args!("member {id:x} is {is}: got {got} result from {url}"))?;
                    answered = true;
                    break;
                }
                Err(error) => {
                    let why = error.cause().map_or_else(|| error.to_string(), str::to_owned);
                    let asked = format!("Get {}", golang::quote(format!("{url}/health").as_bytes()));
                    world.say(format_args!("failed to check the health of member {id:x} on {url}: {asked}: {why}"))?;
                }
            }
        }
        if !answered {
            let urls = member.client_ur_ls.join(" ");
            world.say(format_args!("member {id:x} is unreachable: [{urls}] are all unreachable"))?;
        }
    }
    Ok(healthy)
}

/// `backup`: etcdutl's.
pub(super) async fn backup(world: &mut World<'_>) -> Outcome {
    let mut words = vec!["backup".to_owned()];
    for flag in ["data-dir", "wal-dir", "backup-dir", "backup-wal-dir", "with-v3"] {
        let value = world.line.text(flag);
        if !value.is_empty() {
            words.push(format!("--{flag}={value}"));
        }
    }
    match utl::run(&words, world.out, world.err) {
        0 => Ok(()),
        code => Err(Exit::silent(code)),
    }
}
