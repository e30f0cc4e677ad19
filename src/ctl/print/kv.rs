//! Keys and values: the answers to get, put, del, txn and watch.

use super::Answer;
use super::Page;
use super::json;
use super::json::Object;
use crate::proto::etcdserverpb::DeleteRangeResponse;
use crate::proto::etcdserverpb::PutResponse;
use crate::proto::etcdserverpb::RangeResponse;
use crate::proto::etcdserverpb::ResponseOp;
use crate::proto::etcdserverpb::TxnResponse;
use crate::proto::etcdserverpb::WatchResponse;
use crate::proto::etcdserverpb::response_op::Response;
use crate::proto::mvccpb::Event;
use crate::proto::mvccpb::KeyValue;
use crate::proto::mvccpb::event::EventType;
use prost::Message;

fn pair(page: &mut Page, kv: &KeyValue) {
    if !page.value_only {
        page.bytes(&kv.key);
    }
    page.bytes(&kv.value);
}

fn pair_fields(page: &mut Page, prefix: &str, kv: &KeyValue) {
    page.quoted(&format!("{prefix}Key"), &kv.key);
    page.field(&format!("{prefix}CreateRevision"), kv.create_revision);
    page.field(&format!("{prefix}ModRevision"), kv.mod_revision);
    page.field(&format!("{prefix}Version"), kv.version);
    page.quoted(&format!("{prefix}Value"), &kv.value);
    if page.hex {
        page.field(&format!("{prefix}Lease"), super::lease_id(kv.lease));
    } else {
        page.field(&format!("{prefix}Lease"), kv.lease);
    }
}

fn pair_json(kv: &KeyValue) -> String {
    Object::default()
        .bytes("key", &kv.key)
        .number("create_revision", kv.create_revision)
        .number("mod_revision", kv.mod_revision)
        .number("version", kv.version)
        .bytes("value", &kv.value)
        .number("lease", kv.lease)
        .end()
}

impl Answer for RangeResponse {
    fn simple(&self, page: &mut Page) {
        for kv in &self.kvs {
            pair(page, kv);
        }
    }

    fn json(&self, _: bool) -> String {
        Object::default()
            .header(self.header.as_ref())
            .list("kvs", self.kvs.iter().map(pair_json))
            .flag("more", self.more)
            .number("count", self.count)
            .end()
    }

    fn fields(&self, page: &mut Page) -> bool {
        page.header(self.header.as_ref());
        for kv in &self.kvs {
            pair_fields(page, "", kv);
        }
        page.field("More", self.more);
        page.field("Count", self.count);
        true
    }

    fn protobuf(&self) -> Option<Vec<u8>> {
        Some(self.encode_to_vec())
    }
}

impl Answer for PutResponse {
    fn simple(&self, page: &mut Page) {
        page.line("OK");
        if let Some(kv) = &self.prev_kv {
            pair(page, kv);
        }
    }

    fn json(&self, _: bool) -> String {
        Object::default().header(self.header.as_ref()).maybe("prev_kv", self.prev_kv.as_ref().map(pair_json)).end()
    }

    fn fields(&self, page: &mut Page) -> bool {
        page.header(self.header.as_ref());
        if let Some(kv) = &self.prev_kv {
            pair_fields(page, "Prev", kv);
        }
        true
    }

    fn protobuf(&self) -> Option<Vec<u8>> {
        Some(self.encode_to_vec())
    }
}

impl Answer for DeleteRangeResponse {
    fn simple(&self, page: &mut Page) {
        page.line(self.deleted);
        for kv in &self.prev_kvs {
            pair(page, kv);
        }
    }

    fn json(&self, _: bool) -> String {
        Object::default()
            .header(self.header.as_ref())
            .number("deleted", self.deleted)
            .list("prev_kvs", self.prev_kvs.iter().map(pair_json))
            .end()
    }

    fn fields(&self, page: &mut Page) -> bool {
        page.header(self.header.as_ref());
        page.field("Deleted", self.deleted);
        for kv in &self.prev_kvs {
            pair_fields(page, "Prev", kv);
        }
        true
    }

    fn protobuf(&self) -> Option<Vec<u8>> {
        Some(self.encode_to_vec())
    }
}

/// The operation's answer as the command of that name would print it, and what json calls it.
fn operation(op: &ResponseOp) -> Option<(&'static str, &dyn Answer)> {
    match op.response.as_ref()? {
        Response::ResponseRange(answer) => Some(("response_range", answer)),
        Response::ResponsePut(answer) => Some(("response_put", answer)),
        Response::ResponseDeleteRange(answer) => Some(("response_delete_range", answer)),
        Response::ResponseTxn(answer) => Some(("response_txn", answer)),
    }
}

impl Answer for TxnResponse {
    fn simple(&self, page: &mut Page) {
        page.line(if self.succeeded { "SUCCESS" } else { "FAILURE" });
        for (_, answer) in self.responses.iter().filter_map(operation) {
            page.line("");
            answer.simple(page);
        }
    }

    fn json(&self, hex: bool) -> String {
        let responses = self.responses.iter().filter_map(operation).map(|(name, answer)| {
            let inner = Object::default().always(name, answer.json(hex)).end();
            Object::default().always("Response", inner).end()
        });
        Object::default()
            .header(self.header.as_ref())
            .flag("succeeded", self.succeeded)
            .list("responses", responses)
            .end()
    }

    fn fields(&self, page: &mut Page) -> bool {
        page.header(self.header.as_ref());
        page.field("Succeeded", self.succeeded);
        for (_, answer) in self.responses.iter().filter_map(operation) {
            answer.fields(page);
        }
        true
    }

    fn protobuf(&self) -> Option<Vec<u8>> {
        Some(self.encode_to_vec())
    }
}

fn event_json(event: &Event) -> String {
    Object::default()
        .number("type", event.r#type)
        .maybe("kv", event.kv.as_ref().map(pair_json))
        .maybe("prev_kv", event.prev_kv.as_ref().map(pair_json))
        .end()
}

/// What happened, in one word.
pub(crate) fn event_name(event: &Event) -> &'static str {
    match event.r#type() {
        EventType::Put => "PUT",
        EventType::Delete => "DELETE",
    }
}

impl Answer for WatchResponse {
    fn simple(&self, page: &mut Page) {
        for event in &self.events {
            page.line(event_name(event));
            for kv in event.prev_kv.iter().chain(&event.kv) {
                pair(page, kv);
            }
        }
    }

    fn json(&self, _: bool) -> String {
        // A watch that is refused at its creation has neither; the client makes that answer up.
        let refused = self.created && self.canceled;
        let events = if refused { "null".to_owned() } else { json::array(self.events.iter().map(event_json)) };
        let header = if refused { None } else { self.header.as_ref() };
        Object::default()
            .always("Header", super::header_json(header))
            .always("Events", events)
            .always("CompactRevision", self.compact_revision.to_string())
            .always("Canceled", self.canceled.to_string())
            .always("Created", (self.created && !refused).to_string())
            .end()
    }

    fn fields(&self, page: &mut Page) -> bool {
        page.header(self.header.as_ref());
        for event in &self.events {
            page.field("Type", event_name(event));
            if let Some(kv) = &event.prev_kv {
                pair_fields(page, "Prev", kv);
            }
            if let Some(kv) = &event.kv {
                pair_fields(page, "", kv);
            }
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
    use crate::proto::etcdserverpb::ResponseHeader;

    fn shown(format: Format, hex: bool, answer: &dyn Answer) -> String {
        let mut page = Page { hex, ..Page::default() };
        page.show(format, answer).expect("the answer has this format");
        String::from_utf8(page.out).expect("text")
    }

    fn kv() -> KeyValue {
        KeyValue {
            key: "foo".into(),
            value: "bar".into(),
            create_revision: 2,
            mod_revision: 4,
            version: 3,
            lease: 0x10,
        }
    }

    fn range() -> RangeResponse {
        let header = Some(ResponseHeader { cluster_id: 10, member_id: u64::MAX, revision: 4, raft_term: 2 });
        RangeResponse { header, kvs: vec![kv()], more: true, count: 2 }
    }

    #[test]
    fn a_range_in_each_format() {
        assert_eq!(shown(Format::Simple, false, &range()), "foo\nbar\n");
        assert_eq!(shown(Format::Simple, true, &range()), "\\x66\\x6f\\x6f\n\\x62\\x61\\x72\n");
        assert_eq!(
            shown(Format::Json, false, &range()),
            "{\"header\":{\"cluster_id\":10,\"member_id\":18446744073709551615,\"revision\":4,\"raft_term\":2},\
             \"kvs\":[{\"key\":\"Zm9v\",\"create_revision\":2,\"mod_revision\":4,\"version\":3,\"value\":\"YmFy\",\
             \"lease\":16}],\"more\":true,\"count\":2}\n"
        );
        assert_eq!(
            shown(Format::Fields, true, &range()),
            "\"ClusterID\" : a\n\"MemberID\" : ffffffffffffffff\n\"Revision\" : 4\n\"RaftTerm\" : 2\n\
             \"Key\" : \"foo\"\n\"CreateRevision\" : 2\n\"ModRevision\" : 4\n\"Version\" : 3\n\"Value\" : \"bar\"\n\
             \"Lease\" : 0000000000000010\n\"More\" : true\n\"Count\" : 2\n"
        );
    }

    #[test]
    fn a_format_that_an_answer_does_not_have_is_refused() {
        let refused = Page::default().show(Format::Table, &range());
        assert_eq!(refused, Err("table not supported as output format".to_owned()));
    }

    #[test]
    fn a_txn_shows_its_operations_as_their_commands_would() {
        let responses = vec![
            ResponseOp { response: Some(Response::ResponseRange(RangeResponse { header: None, ..range() })) },
            ResponseOp { response: Some(Response::ResponsePut(PutResponse::default())) },
        ];
        let txn = TxnResponse { header: None, succeeded: true, responses };
        assert_eq!(shown(Format::Simple, false, &txn), "SUCCESS\n\nfoo\nbar\n\nOK\n");
        let json = shown(Format::Json, false, &txn);
        assert!(json.starts_with("{\"succeeded\":true,\"responses\":[{\"Response\":{\"response_range\":{"), "{json}");
    }

    #[test]
    fn a_deleted_key_shows_an_empty_value() {
        let kv = Some(KeyValue { key: "k".into(), mod_revision: 9, ..KeyValue::default() });
        let event = Event { r#type: 1, kv, prev_kv: None };
        let answer = WatchResponse { events: vec![event], ..WatchResponse::default() };
        assert_eq!(shown(Format::Simple, false, &answer), "DELETE\nk\n\n");
        assert_eq!(
            shown(Format::Json, false, &answer),
            "{\"Header\":{},\"Events\":[{\"type\":1,\"kv\":{\"key\":\"aw==\",\"mod_revision\":9}}],\
             \"CompactRevision\":0,\"Canceled\":false,\"Created\":false}\n"
        );
    }
}
