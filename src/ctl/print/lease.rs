//! Leases: the answers to grant, revoke, timetolive, list and keep-alive.
//!
//! In json these carry the header's fields beside their own: so does the struct that etcd's client makes of them.

use super::Answer;
use super::Page;
use super::header_into;
use super::json;
use super::json::Object;
use super::lease_id;
use crate::golang;
use crate::proto::etcdserverpb::LeaseGrantResponse;
use crate::proto::etcdserverpb::LeaseKeepAliveResponse;
use crate::proto::etcdserverpb::LeaseLeasesResponse;
use crate::proto::etcdserverpb::LeaseRevokeResponse;
use crate::proto::etcdserverpb::LeaseTimeToLiveResponse;
use prost::Message;

fn id_field(page: &mut Page, id: i64) {
    if page.hex {
        page.field("ID", lease_id(id));
    } else {
        page.field("ID", id);
    }
}

impl Answer for LeaseGrantResponse {
    fn simple(&self, page: &mut Page) {
        page.line(format_args!("lease {} granted with TTL({}s)", lease_id(self.id), self.ttl));
    }

    fn json(&self, _: bool) -> String {
        let mut object = Object::default();
        header_into(&mut object, self.header.as_ref());
        object
            .always("ID", self.id.to_string())
            .always("TTL", self.ttl.to_string())
            .always("Error", golang::json(&self.error))
            .end()
    }

    fn fields(&self, page: &mut Page) -> bool {
        page.header(self.header.as_ref());
        id_field(page, self.id);
        page.field("TTL", self.ttl);
        true
    }

    fn protobuf(&self) -> Option<Vec<u8>> {
        Some(self.encode_to_vec())
    }
}

/// The answer to a revoke, and whose it was.
pub(crate) struct Revoked(pub(crate) i64, pub(crate) LeaseRevokeResponse);

impl Answer for Revoked {
    fn simple(&self, page: &mut Page) {
        page.line(format_args!("lease {} revoked", lease_id(self.0)));
    }

    fn json(&self, _: bool) -> String {
        Object::default().header(self.1.header.as_ref()).end()
    }

    fn fields(&self, page: &mut Page) -> bool {
        page.header(self.1.header.as_ref());
        true
    }

    fn protobuf(&self) -> Option<Vec<u8>> {
        Some(self.1.encode_to_vec())
    }
}

impl Answer for LeaseKeepAliveResponse {
    fn simple(&self, page: &mut Page) {
        page.line(format_args!("lease {} keepalived with TTL({})", lease_id(self.id), self.ttl));
    }

    fn json(&self, _: bool) -> String {
        let mut object = Object::default();
        header_into(&mut object, self.header.as_ref());
        object.always("ID", self.id.to_string()).always("TTL", self.ttl.to_string()).end()
    }

    fn fields(&self, page: &mut Page) -> bool {
        page.header(self.header.as_ref());
        id_field(page, self.id);
        page.field("TTL", self.ttl);
        true
    }

    fn protobuf(&self) -> Option<Vec<u8>> {
        Some(self.encode_to_vec())
    }
}

/// The answer to timetolive, and whether keys were asked for.
pub(crate) struct TimeToLive(pub(crate) LeaseTimeToLiveResponse, pub(crate) bool);

impl Answer for TimeToLive {
    fn simple(&self, page: &mut Page) {
        let TimeToLive(answer, with_keys) = self;
        let id = lease_id(answer.id);
        if answer.granted_ttl == 0 && answer.ttl == -1 {
            page.line(format_args!("lease {id} already expired"));
            return;
        }
        let text = format!("lease {id} granted with TTL({}s), remaining({}s)", answer.granted_ttl, answer.ttl);
        page.out.extend(text.bytes());
        if *with_keys {
            page.out.extend(b", attached keys([");
            page.out.extend(answer.keys.join(&b' '));
            page.out.extend(b"])");
        }
        page.line("");
    }

    fn json(&self, _: bool) -> String {
        let answer = &self.0;
        let mut object = Object::default();
        header_into(&mut object, answer.header.as_ref());
        let keys = match answer.keys.as_slice() {
            [] => "null".to_owned(),
            keys => json::array(keys.iter().map(|key| json::base64(key))),
        };
        object
            .always("id", answer.id.to_string())
            .always("ttl", answer.ttl.to_string())
            .always("granted-ttl", answer.granted_ttl.to_string())
            .always("keys", keys)
            .end()
    }

    fn fields(&self, page: &mut Page) -> bool {
        page.header(self.0.header.as_ref());
        id_field(page, self.0.id);
        page.field("TTL", self.0.ttl);
        page.field("GrantedTTL", self.0.granted_ttl);
        for key in &self.0.keys {
            page.quoted("Key", key);
        }
        true
    }

    fn protobuf(&self) -> Option<Vec<u8>> {
        Some(self.0.encode_to_vec())
    }
}

impl Answer for LeaseLeasesResponse {
    fn simple(&self, page: &mut Page) {
        page.line(format_args!("found {} leases", self.leases.len()));
        for lease in &self.leases {
            page.line(lease_id(lease.id));
        }
    }

    fn json(&self, _: bool) -> String {
        let mut object = Object::default();
        header_into(&mut object, self.header.as_ref());
        let leases = self.leases.iter().map(|lease| Object::default().always("id", lease.id.to_string()).end());
        object.always("leases", json::array(leases)).end()
    }

    fn fields(&self, page: &mut Page) -> bool {
        page.header(self.header.as_ref());
        for lease in &self.leases {
            id_field(page, lease.id);
        }
        true
    }

    fn protobuf(&self) -> Option<Vec<u8>> {
        Some(self.encode_to_vec())
    }
}

#[cfg(test)]
mod tests {
    use super::super::Format;
    use super::*;

    fn simple(answer: &dyn Answer) -> String {
        let mut page = Page::default();
        page.show(Format::Simple, answer).expect("every answer has this");
        String::from_utf8(page.out).expect("text")
    }

    #[test]
    fn ids_take_sixteen_places() {
        let granted = LeaseGrantResponse { id: 0x43eb, ttl: 100, ..LeaseGrantResponse::default() };
        assert_eq!(simple(&granted), "lease 00000000000043eb granted with TTL(100s)\n");
        assert_eq!(lease_id(-255), "-0000000000000ff");
        assert_eq!(granted.json(false), "{\"ID\":17387,\"TTL\":100,\"Error\":\"\"}");
    }

    #[test]
    fn a_lease_that_is_gone_is_said_to_be() {
        let gone = LeaseTimeToLiveResponse { id: 1, ttl: -1, ..LeaseTimeToLiveResponse::default() };
        assert_eq!(simple(&TimeToLive(gone.clone(), true)), "lease 0000000000000001 already expired\n");
        assert_eq!(TimeToLive(gone, false).json(false), "{\"id\":1,\"ttl\":-1,\"granted-ttl\":0,\"keys\":null}");
    }

    #[test]
    fn keys_are_shown_when_asked_for() {
        let keys = vec!["a".into(), "b".into()];
        let held = LeaseTimeToLiveResponse { id: 1, ttl: 59, granted_ttl: 60, keys, ..Default::default() };
        let text = "lease 0000000000000001 granted with TTL(60s), remaining(59s), attached keys([a b])\n";
        assert_eq!(simple(&TimeToLive(held, true)), text);
    }
}
