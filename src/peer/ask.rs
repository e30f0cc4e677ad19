//! Questions to other members that are not raft's: who are you all, which version, and the leader's word on a lease.
//!
//! Source: etcd `etcdserver/cluster_util.go`, `lease/leasehttp/http.go`.

use super::Shared;
use super::dial::Dialer;
use super::dial::Error;
use super::dial::PeerUrl;
use super::headers;
use crate::error::Error as Answer;
use crate::membership::Member;
use crate::proto::etcdserverpb as pb;
use crate::proto::leasepb;
use crate::types::ClusterId;
use crate::types::LeaseId;
use crate::types::MemberId;
use bytes::Bytes;
use http::HeaderValue;
use http::Request;
use http::Response;
use http::StatusCode;
use http_body_util::Full;
use prost::Message;
use serde::Deserialize;
use serde::Serialize;
use std::sync::Arc;
use std::time::Duration;
use tokio_rustls::rustls::ClientConfig;

/// What a member says of its version.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Versions {
    /// Its program's.
    #[serde(rename = "etcdserver")]
    pub server: String,
    /// Its cluster's, or "not_decided".
    #[serde(rename = "etcdcluster")]
    pub cluster: String,
    /// Its storage's; empty before 3.6.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub storage: String,
}

/// Asks each URL in turn for the members; the first answer counts. Gives the cluster's id too.
///
/// # Errors
/// [`Error::NoAnswer`] if none answers within `timeout` each, with the last one's reason.
pub async fn fetch_members(
    urls: &[String],
    tls: Option<Arc<ClientConfig>>,
    timeout: Duration,
) -> Result<(ClusterId, Vec<Member>), Error> {
    first_answer(urls, tls, timeout, "/members", |response| {
        let cluster = headers::cluster_id(response.headers());
        let cluster = cluster.ok_or_else(|| Error::Malformed("no X-Etcd-Cluster-ID".into()))?;
        Ok((cluster, json(response.body())?))
    })
    .await
}

/// Asks each URL in turn for its member's version; the first answer counts.
///
/// # Errors
/// [`Error::NoAnswer`] as in [`fetch_members`].
pub async fn fetch_version(
    urls: &[String],
    tls: Option<Arc<ClientConfig>>,
    timeout: Duration,
) -> Result<Versions, Error> {
    first_answer(urls, tls, timeout, "/version", |response| json(response.body())).await
}

/// Asks each URL in turn whether a downgrade is under way; the first answer counts.
///
/// # Errors
/// [`Error::NoAnswer`] as in [`fetch_members`].
pub async fn fetch_downgrade_enabled(
    urls: &[String],
    tls: Option<Arc<ClientConfig>>,
    timeout: Duration,
) -> Result<bool, Error> {
    first_answer(urls, tls, timeout, "/downgrade/enabled", |response| json(response.body())).await
}

fn json<T: serde::de::DeserializeOwned>(body: &[u8]) -> Result<T, Error> {
    serde_json::from_slice(body).map_err(|e| Error::Malformed(e.to_string()))
}

async fn first_answer<T>(
    urls: &[String],
    tls: Option<Arc<ClientConfig>>,
    timeout: Duration,
    path: &str,
    read: impl Fn(Response<Bytes>) -> Result<T, Error>,
) -> Result<T, Error> {
    let dialer = Dialer { tls, timeout };
    let mut last = Error::NoAnswer("no URLs given".into());
    for url in urls {
        let asked = async {
            let url = PeerUrl::parse(url)?;
            let request = Request::get(path).body(Full::default()).map_err(|e| Error::Malformed(e.to_string()))?;
            let response = dialer.ask(&url, request).await?;
            if response.status() != StatusCode::OK {
                return Err(status(&response));
            }
            read(response)
        };
        match tokio::time::timeout(timeout, asked).await {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(e)) => last = Error::NoAnswer(format!("{url}: {e}")),
            Err(_) => last = Error::NoAnswer(format!("{url}: i/o timeout")),
        }
    }
    Err(last)
}

fn status(response: &Response<Bytes>) -> Error {
    let text = String::from_utf8_lossy(response.body()).trim_end().to_owned();
    Error::Status(response.status().as_u16(), text)
}

/// What a member answers that was asked to promote another; the texts are what it and we tell apart.
pub(super) const NOT_LEARNER: &str = "membership: can only promote a learner member";
pub(super) const NOT_FOUND: &str = "membership: ID not found";

pub(super) async fn promote(
    shared: &Shared,
    leader: MemberId,
    id: MemberId,
    token: Option<&str>,
) -> Result<Vec<Member>, Answer> {
    let again = Err(Answer::NotLeader);
    let link = shared.links.read().get(&leader).cloned();
    let Some(link) = link.filter(|_| !shared.rules.cuts(leader)) else { return again };
    for url in link.picker.all() {
        let mut request = Request::post(format!("/members/promote/{}", id.0));
        if let Some(token) = token {
            request = request.header(http::header::AUTHORIZATION, token);
        }
        let Ok(request) = request.body(Full::default()) else { return Err(Answer::InvalidAuthToken) };
        let Ok(response) = link.dialer.ask(&url, request).await else { continue };
        let text = String::from_utf8_lossy(response.body());
        match response.status() {
            StatusCode::OK => {
                if let Ok(members) = serde_json::from_slice(response.body()) {
                    return Ok(members);
                }
            }
            StatusCode::NOT_FOUND => return Err(Answer::MemberNotFound),
            StatusCode::PRECONDITION_FAILED if text.contains(&Answer::LearnerNotReady.to_string()) => {
                return Err(Answer::LearnerNotReady);
            }
            StatusCode::PRECONDITION_FAILED if text.contains(NOT_LEARNER) => return Err(Answer::MemberNotLearner),
            other => {
                tracing::warn!("remote-peer-id" = %leader, status = %other, text = %text, "failed to forward a promotion")
            }
        }
    }
    again
}

pub(super) async fn lease_renew(shared: &Shared, leader: MemberId, id: LeaseId) -> Result<i64, Error> {
    let request = pb::LeaseKeepAliveRequest { id: id.0 };
    let response: pb::LeaseKeepAliveResponse = ask_leader(shared, leader, "/leases", &request).await?;
    if response.id != id.0 {
        return Err(Error::Malformed("lease: renew id mismatch".into()));
    }
    Ok(response.ttl)
}

pub(super) async fn lease_time_to_live(
    shared: &Shared,
    leader: MemberId,
    request: pb::LeaseTimeToLiveRequest,
) -> Result<pb::LeaseTimeToLiveResponse, Error> {
    let id = request.id;
    let request = leasepb::LeaseInternalRequest { lease_time_to_live_request: Some(request) };
    let response: leasepb::LeaseInternalResponse = ask_leader(shared, leader, "/leases/internal", &request).await?;
    let found = response.lease_time_to_live_response.filter(|r| r.id == id);
    found.ok_or_else(|| Error::Malformed("lease: TTL id mismatch".into()))
}

/// Posts to each of the leader's URLs until one answers.
async fn ask_leader<R: Message + Default>(
    shared: &Shared,
    leader: MemberId,
    path: &str,
    request: &impl Message,
) -> Result<R, Error> {
    if shared.rules.cuts(leader) {
        return Err(Error::Cut);
    }
    let link = shared.links.read().get(&leader).cloned().ok_or(Error::UnknownMember)?;
    let body = Bytes::from(request.encode_to_vec());
    let mut last = Error::UnknownMember;
    for url in link.picker.all() {
        match post(&link.dialer, &url, path, body.clone()).await {
            Ok(bytes) => return R::decode(bytes).map_err(|e| Error::Malformed(e.to_string())),
            Err(Error::LeaseNotFound) => return Err(Error::LeaseNotFound),
            Err(e) => last = e,
        }
    }
    Err(last)
}

async fn post(dialer: &Dialer, url: &PeerUrl, path: &str, body: Bytes) -> Result<Bytes, Error> {
    let mut request = Request::post(path).body(Full::new(body)).map_err(|e| Error::Malformed(e.to_string()))?;
    let protobuf = HeaderValue::from_static("application/protobuf");
    request.headers_mut().insert(http::header::CONTENT_TYPE, protobuf);
    let response = dialer.ask(url, request).await?;
    match response.status() {
        StatusCode::OK => Ok(response.into_body()),
        StatusCode::NOT_FOUND => Err(Error::LeaseNotFound),
        _ => Err(status(&response)),
    }
}
