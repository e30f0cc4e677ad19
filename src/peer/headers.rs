//! The headers by which peers know each other, and the checks on them.
//!
//! Source: etcd `rafthttp/util.go`, `rafthttp/http.go`.

use super::Config;
use crate::types::CLUSTER_VERSION;
use crate::types::ClusterId;
use crate::types::ETCD_VERSION;
use crate::types::MemberId;
use http::HeaderMap;
use http::HeaderName;
use http::HeaderValue;

pub(super) const CLUSTER_ID: HeaderName = HeaderName::from_static("x-etcd-cluster-id");
pub(super) const SERVER_FROM: HeaderName = HeaderName::from_static("x-server-from");
pub(super) const SERVER_VERSION: HeaderName = HeaderName::from_static("x-server-version");
const MIN_CLUSTER_VERSION: HeaderName = HeaderName::from_static("x-min-cluster-version");
const PEER_URLS: HeaderName = HeaderName::from_static("x-peerurls");
const RAFT_TO: HeaderName = HeaderName::from_static("x-raft-to");

/// The oldest etcd that a member of ours talks with.
const OLDEST: &str = "3.0.0";

/// What the version headers are taken for where they are missing: that was etcd 2.0.
const UNNAMED: &str = "2.0.0";

pub(super) const INCOMPATIBLE_VERSION: &str = "incompatible version";
pub(super) const CLUSTER_ID_MISMATCH: &str = "cluster ID mismatch";

/// Puts this member's name on a request, and the addressee's on a stream's.
pub(super) fn introduce(headers: &mut HeaderMap, me: &Config, to: Option<MemberId>) {
    headers.insert(SERVER_FROM, value(&me.id.to_string()));
    headers.insert(SERVER_VERSION, HeaderValue::from_static(ETCD_VERSION));
    headers.insert(MIN_CLUSTER_VERSION, HeaderValue::from_static(OLDEST));
    headers.insert(CLUSTER_ID, value(&me.cluster.to_string()));
    headers.insert(PEER_URLS, value(&me.urls.join(",")));
    if let Some(to) = to {
        headers.insert(RAFT_TO, value(&to.to_string()));
    }
}

pub(super) fn value(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).unwrap_or(HeaderValue::from_static(""))
}

/// Refuses members of other clusters and of impossible versions, with etcd's words.
pub(super) fn check(headers: &HeaderMap, cluster: ClusterId) -> Result<(), &'static str> {
    let version = |name| major_minor(text(headers, &name).unwrap_or(UNNAMED));
    let (theirs, their_oldest) = (version(SERVER_VERSION), version(MIN_CLUSTER_VERSION));
    let (ours, our_oldest) = (major_minor(CLUSTER_VERSION), major_minor(OLDEST));
    if theirs.is_none() || their_oldest.is_none() || theirs < our_oldest || their_oldest > ours {
        return Err(INCOMPATIBLE_VERSION);
    }
    if text(headers, &CLUSTER_ID) != Some(cluster.to_string().as_str()) {
        return Err(CLUSTER_ID_MISMATCH);
    }
    Ok(())
}

/// Whether a stream's request is for this member.
pub(super) fn is_for(headers: &HeaderMap, me: MemberId) -> bool {
    text(headers, &RAFT_TO) == Some(me.to_string().as_str())
}

/// The sender and its peer URLs, if it names both.
pub(super) fn sender(headers: &HeaderMap) -> Option<(MemberId, Vec<String>)> {
    let from = parse_id(text(headers, &SERVER_FROM)?)?;
    let urls = text(headers, &PEER_URLS)?;
    (!urls.is_empty()).then(|| (from, urls.split(',').map(str::to_owned).collect()))
}

pub(super) fn cluster_id(headers: &HeaderMap) -> Option<ClusterId> {
    u64::from_str_radix(text(headers, &CLUSTER_ID)?, 16).ok().map(ClusterId)
}

/// An id as etcd prints it: hexadecimal, without padding.
pub(super) fn parse_id(text: &str) -> Option<MemberId> {
    u64::from_str_radix(text, 16).ok().map(MemberId)
}

fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// Major and minor of `1.2.3`, with or without a suffix.
fn major_minor(version: &str) -> Option<(u64, u64)> {
    let mut parts = version.split('.');
    let pair = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
    parts.next().map(|_| pair)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const CLUSTER: ClusterId = ClusterId(0xcafe);

    fn from(version: &str, oldest: &str, cluster: ClusterId) -> HeaderMap {
        let urls = vec!["http://a:1".to_owned()];
        let dial_timeout = Duration::from_secs(1);
        let me = Config { id: MemberId(0x1f), cluster, urls, tls: None, dial_timeout };
        let mut headers = HeaderMap::new();
        introduce(&mut headers, &me, Some(MemberId(2)));
        headers.insert(SERVER_VERSION, value(version));
        headers.insert(MIN_CLUSTER_VERSION, value(oldest));
        headers
    }

    #[test]
    fn versions_from_3_0_on_meet() {
        for (version, oldest, fits) in [
            ("3.6.14", "3.0.0", true),
            ("3.5.1", "3.0.0", true),
            ("3.0.0", "2.3.0", true),
            ("3.7.0-alpha.0", "3.6.0", true),
            ("2.3.8", "2.1.0", false),
            ("4.0.0", "3.7.0", false),
            ("", "3.0.0", false),
            ("many.dots.here", "3.0.0", false),
        ] {
            let checked = check(&from(version, oldest, CLUSTER), CLUSTER);
            assert_eq!(checked.is_ok(), fits, "{version} {oldest}");
            assert!(fits || checked == Err(INCOMPATIBLE_VERSION));
        }
        assert_eq!(check(&HeaderMap::new(), CLUSTER), Err(INCOMPATIBLE_VERSION), "no header is etcd 2.0");
    }

    #[test]
    fn another_cluster_is_told_so() {
        assert_eq!(check(&from("3.6.0", "3.0.0", ClusterId(1)), CLUSTER), Err(CLUSTER_ID_MISMATCH));
    }

    #[test]
    fn a_request_says_who_it_is_from_and_for() {
        let headers = from("3.6.0", "3.0.0", CLUSTER);
        assert_eq!(sender(&headers), Some((MemberId(0x1f), vec!["http://a:1".to_owned()])));
        assert!(is_for(&headers, MemberId(2)) && !is_for(&headers, MemberId(3)));
        assert_eq!(cluster_id(&headers), Some(CLUSTER));
    }
}
