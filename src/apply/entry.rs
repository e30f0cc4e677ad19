//! What an entry of the log asks for, whichever release has proposed it.
//!
//! Up to 3.5 a member publishes itself, and the leader the cluster's version, as writes to keys of the old v2 store. Those entries come in a log that
//! was begun then, and from members of such a release beside this one; they mean what their successors mean. Any other v2 request is none that
//! a 3.6 can read: etcd stops there, and so do we. Source: etcd 3.6.14 `etcdserver/apply_v2.go` (`v2ToV3Request`).

use crate::proto::etcdserverpb as pb;
use crate::proto::membershippb;
use bytes::Bytes;
use prost::DecodeError;
use prost::Message;
use serde::Deserialize;

/// Keys of the v2 store.
const VERSION: &str = "/0/version";
const MEMBERS: &str = "/0/members/";
const ATTRIBUTES: &str = "/attributes";

/// A request of the v2 API, as far as it is read.
#[derive(Clone, PartialEq, Message)]
struct V2Request {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(string, tag = "2")]
    method: String,
    #[prost(string, tag = "3")]
    path: String,
    #[prost(string, tag = "4")]
    val: String,
}

/// What a member published of itself.
#[derive(Deserialize)]
struct Attributes {
    #[serde(default)]
    name: String,
    #[serde(rename = "clientURLs", default)]
    client_urls: Option<Vec<String>>,
}

/// Reads an entry that is not empty and no conf change.
///
/// # Errors
/// Why it is none of the requests that a 3.6 can read.
pub fn read(data: &Bytes) -> Result<pb::InternalRaftRequest, DecodeError> {
    pb::InternalRaftRequest::decode(data.clone()).or_else(|e| from_v2(data).ok_or(e))
}

fn from_v2(data: &Bytes) -> Option<pb::InternalRaftRequest> {
    let V2Request { id, method, path, val } = V2Request::decode(data.clone()).ok()?;
    if method != "PUT" {
        return None;
    }
    let header = Some(pb::RequestHeader { id, ..Default::default() });
    if path == VERSION {
        let set = membershippb::ClusterVersionSetRequest { ver: val };
        return Some(pb::InternalRaftRequest { header, cluster_version_set: Some(set), ..Default::default() });
    }
    let member = path.strip_prefix(MEMBERS)?.strip_suffix(ATTRIBUTES)?;
    let member_id = u64::from_str_radix(member, 16).ok()?;
    let Attributes { name, client_urls } = serde_json::from_str(&val).ok()?;
    let attributes = membershippb::Attributes { name, client_urls: client_urls.unwrap_or_default() };
    let set = membershippb::ClusterMemberAttrSetRequest { member_id, member_attributes: Some(attributes) };
    Some(pb::InternalRaftRequest { header, cluster_member_attr_set: Some(set), ..Default::default() })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As Go writes it: zeros are there, too.
    fn put(path: &str, val: &str) -> Bytes {
        let request = V2Request { id: 7, method: "PUT".into(), path: path.into(), val: val.into() };
        let mut bytes = request.encode_to_vec();
        // Dir false, PrevValue "", PrevIndex 0, Expiration 0.
        bytes.extend([0x28, 0, 0x32, 0, 0x38, 0, 0x48, 0]);
        bytes.into()
    }

    #[test]
    fn what_older_releases_publish_means_what_it_means_today() {
        let val = r#"{"name":"e0","clientURLs":["http://127.0.0.1:2379"]}"#;
        let request = read(&put("/0/members/8e9e05c52164694d/attributes", val)).expect("a member");
        let set = request.cluster_member_attr_set.expect("its attributes");
        let attributes = set.member_attributes.expect("they are there");
        assert_eq!((set.member_id, attributes.name.as_str()), (0x8e9e_05c5_2164_694d, "e0"));
        assert_eq!(attributes.client_urls, ["http://127.0.0.1:2379"]);
        assert_eq!(request.header.expect("an id").id, 7);
        let request = read(&put("/0/version", "3.5.0")).expect("a version");
        assert_eq!(request.cluster_version_set.map(|set| set.ver).as_deref(), Some("3.5.0"));
        let null = read(&put("/0/members/1/attributes", r#"{"name":"a","clientURLs":null}"#));
        assert!(null.is_ok(), "Go writes a list that was never set as null");
    }

    #[test]
    fn what_no_3_6_reads_stops_the_member() {
        for (path, val) in [("/1/key", "v"), ("/0/members/x/attributes", "{}"), ("/0/members/1/attributes", "{")] {
            assert!(read(&put(path, val)).is_err(), "{path} {val}");
        }
    }

    #[test]
    fn todays_requests_are_read_as_they_are() {
        let put = pb::PutRequest { key: "/0/version".into(), ..Default::default() };
        let request = pb::InternalRaftRequest { put: Some(put), ..Default::default() };
        assert_eq!(read(&request.encode_to_vec().into()), Ok(request));
    }
}
