//! Paths against descriptors, and JSON there and back.

use super::json::Splitter;
use super::*;
use crate::proto::etcdserverpb as pb;
use prost::Message as _;
use std::collections::BTreeSet;

#[test]
fn every_call_of_etcd_has_a_path_and_every_path_a_call() {
    let mut paths = BTreeSet::new();
    for (path, method) in paths::PATHS {
        assert!(paths.insert(path), "{path} twice");
        assert!(described(method).is_some(), "{path}: no {method}");
    }
    let with_path: BTreeSet<&str> = paths::PATHS.iter().map(|(_, method)| *method).collect();
    let services = POOL.services().filter(|service| !service.full_name().starts_with("grpc."));
    let all = services.flat_map(|service| service.methods().collect::<Vec<_>>());
    let name = |method: MethodDescriptor| format!("/{}/{}", method.parent_service().full_name(), method.name());
    let without: Vec<String> = all.map(name).filter(|method| !with_path.contains(method.as_str())).collect();
    assert_eq!(without, ["/etcdserverpb.KV/RangeStream"], "etcd has no path for it either");
}

fn read<M: prost::Message + Default>(method: &str, json: &str) -> Result<M, Status> {
    let input = described(method).expect("a method").input();
    json::first_frame(&input, json.as_bytes()).map(|frame| M::decode(&frame[5..]).expect("what was encoded"))
}

#[test]
fn names_numbers_and_enums_are_read_in_both_forms() {
    let range = |json| read::<pb::RangeRequest>("/etcdserverpb.KV/Range", json).expect(json);
    let want =
        pb::RangeRequest { key: "a".into(), range_end: "b".into(), limit: 5, sort_order: 2, ..Default::default() };
    assert_eq!(range(r#"{"key":"YQ==","range_end":"Yg==","limit":"5","sort_order":"DESCEND","unknown":[{}]}"#), want);
    assert_eq!(range(r#"{"key":"YQ==","rangeEnd":"Yg==","limit":5,"sortOrder":2} ignored"#), want);
    assert_eq!(range(""), pb::RangeRequest::default());
    assert_eq!(range(" \n"), pb::RangeRequest::default());
    for (json, why) in [
        ("{", "unexpected EOF"),
        ("5", "invalid character"),
        (r#"{"limit":"x"}"#, ""),
        (r#"{"sort_order":"UP"}"#, "unknown value \"UP\" for enum"),
    ] {
        let refused = read::<pb::RangeRequest>("/etcdserverpb.KV/Range", json).expect_err(json);
        assert_eq!(refused.code(), Code::InvalidArgument);
        assert!(refused.message().starts_with(why), "{json}: {refused}");
    }
}

#[test]
fn mistakes_in_json_are_told_as_go_tells_them() {
    let range = |json: &str| read::<pb::RangeRequest>("/etcdserverpb.KV/Range", json);
    for (json, why) in [
        (r#"{"key":"YQ==",}"#, "invalid character '}' looking for beginning of object key string"),
        (r#"{"key":YQ}"#, "invalid character 'Y' looking for beginning of value"),
        ("x", "invalid character 'x' looking for beginning of value"),
        ("null", "invalid character 'n' looking for the beginning of an object"),
        ("[{}]", "invalid character '[' looking for the beginning of an object"),
    ] {
        let refused = range(json).expect_err(json);
        assert_eq!((refused.code(), refused.message()), (Code::InvalidArgument, why), "{json}");
    }
    for limit in [r#""1e2""#, r#""100.0""#, "1e2", "100", r#""100""#] {
        assert_eq!(range(&format!("{{\"limit\":{limit}}}")).expect(limit).limit, 100, "{limit}");
    }
    for limit in [r#""1.5""#, r#""1e99""#, r#""x""#, r#""e1""#] {
        let refused = range(&format!("{{\"limit\":{limit}}}")).expect_err(limit);
        assert_eq!(refused.code(), Code::InvalidArgument, "{limit}");
    }
}

#[test]
fn a_form_may_ask_to_be_another_method() {
    let asks = |content_type: &str, method: &str| {
        let header = |name: &'static str, value: &str| {
            (HeaderName::from_static(name), HeaderValue::from_str(value).expect("a value"))
        };
        is_overridden(&HeaderMap::from_iter([
            header("content-type", content_type),
            header("x-http-method-override", method),
        ]))
    };
    assert!(asks("application/x-www-form-urlencoded", "GET"));
    assert!(!asks("application/x-www-form-urlencoded", "post") && !asks("application/x-www-form-urlencoded", ""));
    assert!(!asks("application/json", "GET"));
}

#[test]
fn json_that_lies_too_deep_is_refused() {
    let deep = format!("{}{}", r#"{"success":[{"request_txn":"#.repeat(5_000), "}]}".repeat(5_000));
    let refused = read::<pb::TxnRequest>("/etcdserverpb.KV/Txn", &deep).expect_err("too deep");
    assert_eq!(refused.code(), Code::InvalidArgument);
}

#[test]
fn what_is_zero_is_left_out_and_long_numbers_are_text() {
    let header = pb::ResponseHeader { cluster_id: u64::MAX, revision: 3, ..Default::default() };
    let answer = pb::LeaseGrantResponse { header: Some(header), id: 7, ttl: 0, error: String::new() };
    let output = described("/etcdserverpb.Lease/LeaseGrant").expect("a method").output();
    let message = prost_reflect::DynamicMessage::decode(output, answer.encode_to_vec().as_slice()).expect("a message");
    let text = String::from_utf8(json::write(&message)).expect("text");
    assert_eq!(text, r#"{"header":{"cluster_id":"18446744073709551615","revision":"3"},"ID":"7"}"#);
}

#[test]
fn objects_in_a_row_are_cut_where_they_end() {
    let mut splitter = Splitter::default();
    let mut found = Vec::new();
    for byte in br#" {"a":"}\"{"} {"b":[{}]}{}"# {
        splitter.push(&[*byte]);
        while let Some(json) = splitter.next().expect("objects") {
            found.push(String::from_utf8(json.to_vec()).expect("text"));
        }
    }
    assert_eq!(found, [r#"{"a":"}\"{"}"#, r#"{"b":[{}]}"#, "{}"]);
    assert!(splitter.is_empty());
    splitter.push(b"]");
    splitter.next().expect_err("no object");
}

#[test]
fn only_what_is_meant_for_the_call_goes_with_it() {
    let mut headers = HeaderMap::new();
    for (name, value) in [
        ("authorization", "t.1"),
        ("grpc-metadata-hasleader", "true"),
        ("grpc-metadata-content-type", "text/plain"),
        ("grpc-metadata-grpc-encoding", "gzip"),
        ("grpc-metadata-grpcgateway-accept", "x"),
        ("cookie", "secret"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    let sent = metadata(&headers);
    let mut names: Vec<&str> = sent.keys().map(HeaderName::as_str).collect();
    names.sort_unstable();
    assert_eq!(names, ["authorization", "content-type", "grpcgateway-accept", "hasleader", "te"]);
    assert_eq!(sent["content-type"], "application/grpc");
    assert_eq!(sent["grpcgateway-accept"], "*/*");
}

#[test]
fn errors_have_the_members_of_both_forms() {
    let status = Status::not_found("etcdserver: requested lease not found");
    assert_eq!(refusal(&status).status(), StatusCode::NOT_FOUND);
    let told: serde_json::Value = serde_json::from_str(&stream_error(&status)).expect("JSON");
    assert_eq!(told["error"]["grpc_code"], 5);
    assert_eq!(told["error"]["http_code"], 404);
    assert_eq!(told["error"]["http_status"], "Not Found");
}
