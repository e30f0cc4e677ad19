//! `member add`, `list`, `promote`, `remove`, `update`; `alarm list`, `disarm`.

use super::exit::Exit;
use super::exit::Outcome;
use super::kv;
use super::print::cluster::MemberAdded;
use super::print::cluster::MemberChanged;
use super::session::Session;
use crate::golang;
use crate::proto::etcdserverpb::AlarmRequest;
use crate::proto::etcdserverpb::MemberAddRequest;
use crate::proto::etcdserverpb::MemberListRequest;
use crate::proto::etcdserverpb::MemberListResponse;
use crate::proto::etcdserverpb::MemberPromoteRequest;
use crate::proto::etcdserverpb::MemberRemoveRequest;
use crate::proto::etcdserverpb::MemberUpdateRequest;
use crate::proto::etcdserverpb::alarm_request::AlarmAction;

const NO_URLS: &str = "member peer urls not provided";

/// `member list`.
pub(super) async fn list(session: &mut Session<'_>) -> Outcome {
    let linearizable = !kv::is_serializable(&session.args)?;
    let answer = session.ask(MemberListRequest { linearizable }).await?;
    session.print(&answer)
}

/// `member add`.
pub(super) async fn add(session: &mut Session<'_>) -> Outcome {
    let words: Vec<String> = (0..session.args.words.len()).map(|at| session.args.word(at)).collect();
    let name = match words.as_slice() {
        [] => return Err(Exit::bad_args("member name not provided")),
        [name] => name.clone(),
        words => {
            let urls = words.iter().filter(|word| word.to_lowercase().starts_with("http"));
            let hints: String = urls.map(|url| format!(", did you mean --peer-urls={url}")).collect();
            return Err(Exit::bad_args(format!("too many arguments{hints}")));
        }
    };
    let peer_urls = session.args.text("peer-urls").unwrap_or_default().to_owned();
    if peer_urls.is_empty() {
        return Err(Exit::bad_args(NO_URLS));
    }
    session.flags()?;
    let peer_ur_ls = urls(&peer_urls)?;
    let is_learner = session.args.is_set("learner");
    let answer = session.ask(MemberAddRequest { peer_ur_ls, is_learner }).await?;
    session.print(&MemberAdded { name, peer_urls, answer })
}

/// `member remove`.
pub(super) async fn remove(session: &mut Session<'_>) -> Outcome {
    let id = member_id(session)?;
    let answer = session.ask(MemberRemoveRequest { id }).await?;
    let answer = MemberListResponse { header: answer.header, members: answer.members };
    session.print(&MemberChanged { how: "removed from", id, answer })
}

/// `member update`.
pub(super) async fn update(session: &mut Session<'_>) -> Outcome {
    let id = member_id(session)?;
    let peer_urls = session.args.text("peer-urls").unwrap_or_default().to_owned();
    if peer_urls.is_empty() {
        return Err(Exit::bad_args(NO_URLS));
    }
    session.flags()?;
    let answer = session.ask(MemberUpdateRequest { id, peer_ur_ls: urls(&peer_urls)? }).await?;
    let answer = MemberListResponse { header: answer.header, members: answer.members };
    session.print(&MemberChanged { how: "updated in", id, answer })
}

/// `member promote`.
pub(super) async fn promote(session: &mut Session<'_>) -> Outcome {
    let id = member_id(session)?;
    let answer = session.ask(MemberPromoteRequest { id }).await?;
    let answer = MemberListResponse { header: answer.header, members: answer.members };
    session.print(&MemberChanged { how: "promoted in", id, answer })
}

/// `alarm list`.
pub(super) async fn alarm_list(session: &mut Session<'_>) -> Outcome {
    alarm(session, "list", AlarmAction::Get).await
}

/// `alarm disarm`.
pub(super) async fn alarm_disarm(session: &mut Session<'_>) -> Outcome {
    alarm(session, "disarm", AlarmAction::Deactivate).await
}

/// Lists the alarms, or clears each of them and lists what was cleared.
async fn alarm(session: &mut Session<'_>, name: &str, action: AlarmAction) -> Outcome {
    if !session.args.words.is_empty() {
        return Err(Exit::bad_args(format!("alarm {name} command accepts no arguments")));
    }
    let mut answer = session.ask(AlarmRequest::default()).await?;
    if action == AlarmAction::Deactivate {
        // Many answers become one, which has no header: etcd's client does the same.
        let raised = std::mem::take(&mut answer).alarms;
        for alarm in raised {
            let request = AlarmRequest { action: action.into(), member_id: alarm.member_id, alarm: alarm.alarm };
            answer.alarms.extend(session.ask(request).await?.alarms);
        }
    }
    session.print(&answer)
}

fn member_id(session: &Session<'_>) -> Result<u64, Exit> {
    if session.args.words.len() != 1 {
        return Err(Exit::bad_args("member ID is not provided"));
    }
    golang::parse_uint(&session.args.word(0), 16)
        .map_err(|why| Exit::bad_args(format!("bad member ID arg ({why}), expecting ID in Hex")))
}

/// Splits and checks peer URLs as etcd's client does before it asks. Source: `client/pkg/types/urls.go`.
pub(super) fn urls(text: &str) -> Result<Vec<String>, Exit> {
    let urls: Vec<String> = text.split(',').map(str::to_owned).collect();
    for url in &urls {
        let url = url.trim();
        let Some(("http" | "https" | "unix" | "unixs", rest)) = url.split_once("://") else {
            return Err(Exit::error(format!("URL scheme must be http, https, unix, or unixs: {url}")));
        };
        let (address, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        if !url.starts_with("unix") && address.rsplit_once(':').is_none_or(|(_, port)| port.is_empty()) {
            return Err(Exit::error(format!("URL address does not have the form \"host:port\": {url}")));
        }
        if !url.starts_with("unix") && !path.is_empty() {
            return Err(Exit::error(format!("URL must not contain a path: {url}")));
        }
    }
    Ok(urls)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peer_urls_are_checked_before_anything_is_sent() {
        let refused = |text| urls(text).expect_err(text).message.expect("a sentence");
        assert_eq!(refused("notaurl"), "URL scheme must be http, https, unix, or unixs: notaurl");
        assert_eq!(refused("http://a"), "URL address does not have the form \"host:port\": http://a");
        assert_eq!(refused("http://a:1/x"), "URL must not contain a path: http://a:1/x");
        assert_eq!(urls("http://a:1,http://b:2").expect("good").len(), 2);
    }
}
