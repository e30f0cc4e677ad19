//! The JSON gateway beside that of etcd 3.5.1: the same requests in the same order, as curl would send them, and equal answers.
//!
//! Ids, terms, sizes and versions are what two clusters may differ in; everything else is compared, status and header included. Rows say where we follow
//! etcd 3.6 instead.

use crate::foreign;
use crate::harness::Cluster;
use crate::harness::etcd_bin;
use crate::harness::is_ours;
use crate::harness::turn;
use crate::http;
use serde_json::Value;
use std::time::Duration;

/// How much of an answer must be equal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Same {
    All,
    /// Status and gRPC code: the text is a parser's.
    Code,
}
use Same::All;
use Same::Code;

/// Unary calls in order. Keys and values are base64: `a` is YQ==, `b` Yg==, `c` Yw==.
#[rustfmt::skip]
const CALLS: &[(&str, &str, Same)] = &[
    // Fields in both spellings, numbers as text and as numbers, unknown members, no body at all.
    ("/v3/kv/put", r#"{"key":"YQ==","value":"MQ=="}"#, All),
    ("/v3/kv/put", r#"{"key":"YQ==","value":"Mg==","prev_kv":true}"#, All),
    ("/v3/kv/put", r#"{"key":"Yg==","value":"Mw==","prevKv":true,"whatever":{"x":[1]}}"#, All),
    ("/v3/kv/put", r#"{"value":"Mw=="}"#, All),
    ("/v3/kv/put", r#"{"key":"YQ==","lease":"99"}"#, All),
    ("/v3/kv/put", r#"{"key":"YQ==","ignore_value":true,"value":"MQ=="}"#, All),
    ("/v3/kv/put", "{\"key\":\"YQ==\"", Code),
    ("/v3/kv/put", "[]", Code),
    ("/v3/kv/put", r#"{"key":"not base64!"}"#, Code),
    ("/v3/kv/put", r#"{"key":5}"#, Code),
    ("/v3/kv/put", "", All),
    ("/v3beta/kv/put", r#"{"key":"Yw==","value":"NA=="}"#, All),
    ("/v3/kv/range", r#"{"key":"YQ=="}"#, All),
    ("/v3/kv/range", r#"{"key":"YQ==","range_end":"AA=="}"#, All),
    ("/v3/kv/range", r#"{"key":"YQ==","rangeEnd":"eg==","limit":1}"#, All),
    ("/v3/kv/range", r#"{"key":"YQ==","range_end":"eg==","limit":"2","sort_order":"DESCEND","sort_target":"MOD"}"#, All),
    ("/v3/kv/range", r#"{"key":"YQ==","range_end":"eg==","sort_order":2,"sort_target":4}"#, All),
    ("/v3/kv/range", r#"{"key":"YQ==","range_end":"eg==","count_only":true}"#, All),
    ("/v3/kv/range", r#"{"key":"YQ==","range_end":"eg==","keys_only":true,"serializable":true}"#, All),
    ("/v3/kv/range", r#"{"key":"YQ==","revision":"2"}"#, All),
    ("/v3/kv/range", r#"{"key":"YQ==","revision":1000}"#, All),
    ("/v3/kv/range", r#"{"key":"eHl6"}"#, All),
    ("/v3/kv/range", r#"{"key":"YQ==","sort_order":"SIDEWAYS"}"#, Code),
    ("/v3/kv/txn", r#"{"compare":[{"target":"VERSION","key":"YQ==","version":"2"}],"success":[{"request_put":{"key":"YQ==","value":"NQ=="}},{"requestRange":{"key":"YQ=="}}],"failure":[{"request_delete_range":{"key":"YQ=="}}]}"#, All),
    ("/v3/kv/txn", r#"{"compare":[{"result":"GREATER","target":"CREATE","key":"YQ==","create_revision":"900"}],"failure":[{"request_txn":{"success":[{"request_range":{"key":"Yg=="}}]}}]}"#, All),
    ("/v3/kv/txn", r#"{"success":[{"request_put":{"key":"YQ=="}},{"request_put":{"key":"YQ=="}}]}"#, All),
    ("/v3/kv/txn", "{}", All),
    ("/v3/kv/deleterange", r#"{"key":"Yg==","prev_kv":true}"#, All),
    ("/v3/kv/deleterange", r#"{"key":"eHl6"}"#, All),
    ("/v3/kv/compaction", r#"{"revision":"3","physical":true}"#, All),
    ("/v3/kv/compaction", r#"{"revision":"3"}"#, All),
    ("/v3/kv/compaction", r#"{"revision":"3000"}"#, All),
    ("/v3/kv/range", r#"{"key":"YQ==","revision":"1"}"#, All),
    ("/v3/maintenance/hash", "{}", All),
    ("/v3/lease/grant", r#"{"ID":"7587","TTL":600}"#, All),
    ("/v3/lease/grant", r#"{"ID":7587,"TTL":"600"}"#, All),
    ("/v3/lease/grant", r#"{"TTL":"99999999999"}"#, All),
    ("/v3/kv/put", r#"{"key":"bA==","value":"MQ==","lease":"7587"}"#, All),
    ("/v3/lease/timetolive", r#"{"ID":"7587","keys":true}"#, All),
    ("/v3/kv/lease/timetolive", r#"{"ID":"1"}"#, All),
    ("/v3/lease/leases", "{}", All),
    ("/v3/kv/lease/leases", "{}", All),
    ("/v3/lease/keepalive", r#"{"ID":"7587"}"#, All),
    ("/v3/lease/keepalive", r#"{"ID":"1"}{"ID":7587}"#, All),
    ("/v3/lease/revoke", r#"{"ID":"7587"}"#, All),
    ("/v3/kv/lease/revoke", r#"{"ID":"7587"}"#, All),
    ("/v3/cluster/member/list", "{}", All),
    ("/v3/cluster/member/list", r#"{"linearizable":true}"#, All),
    ("/v3/cluster/member/add", r#"{"peerURLs":["nonsense"]}"#, All),
    ("/v3/cluster/member/remove", r#"{"ID":"12345"}"#, All),
    ("/v3/cluster/member/update", r#"{"ID":"12345","peerURLs":["http://127.0.0.1:9"]}"#, All),
    ("/v3/cluster/member/promote", r#"{"ID":"12345"}"#, All),
    ("/v3/maintenance/status", "{}", All),
    ("/v3/maintenance/alarm", "{}", All),
    ("/v3/maintenance/alarm", r#"{"action":"ACTIVATE","memberID":"5","alarm":"NOSPACE"}"#, All),
    ("/v3/kv/put", r#"{"key":"YQ==","value":"MQ=="}"#, All),
    ("/v3/maintenance/alarm", r#"{"action":"GET"}"#, All),
    ("/v3/maintenance/alarm", r#"{"action":"DEACTIVATE","memberID":"5","alarm":"NOSPACE"}"#, All),
    ("/v3/maintenance/defragment", "{}", All),
    ("/v3/maintenance/transfer-leadership", r#"{"targetID":"77"}"#, All),
    ("/v3/lock/lock", r#"{"name":"bXV0ZXg="}"#, Code),
    ("/v3/lock/unlock", r#"{"key":"bm9uZQ=="}"#, All),
    ("/v3/election/leader", r#"{"name":"ZQ=="}"#, All),
    ("/v3/election/proclaim", "{}", All),
    ("/v3/election/resign", "{}", All),
    ("/v3/auth/status", "{}", All),
    ("/v3/auth/enable", "{}", All),
    ("/v3/auth/user/add", r#"{"name":"root","password":"pw"}"#, All),
    ("/v3/auth/user/add", r#"{"name":"root","password":"pw"}"#, All),
    ("/v3/auth/user/add", "{}", All),
    ("/v3/auth/user/add", r#"{"name":"eve","password":"pw"}"#, All),
    ("/v3/auth/user/get", r#"{"name":"root"}"#, All),
    ("/v3/auth/user/get", r#"{"name":"nobody"}"#, All),
    ("/v3/auth/user/list", "{}", All),
    ("/v3/auth/user/changepw", r#"{"name":"eve","password":"other"}"#, All),
    ("/v3/auth/role/add", r#"{"name":"root"}"#, All),
    ("/v3/auth/role/add", r#"{"name":"reader"}"#, All),
    ("/v3/auth/role/grant", r#"{"name":"reader","perm":{"permType":"READ","key":"YQ==","range_end":"Yg=="}}"#, All),
    ("/v3/auth/role/get", r#"{"role":"reader"}"#, All),
    ("/v3/auth/role/list", "{}", All),
    ("/v3/auth/role/revoke", r#"{"role":"reader","key":"YQ==","range_end":"Yg=="}"#, All),
    ("/v3/auth/role/revoke", r#"{"role":"reader","key":"YQ=="}"#, All),
    ("/v3/auth/role/grant", r#"{"name":"reader","perm":{"key":"YQ=="}}"#, All),
    ("/v3/auth/user/grant", r#"{"user":"root","role":"root"}"#, All),
    ("/v3/auth/user/grant", r#"{"user":"eve","role":"reader"}"#, All),
    ("/v3/auth/user/revoke", r#"{"user":"eve","role":"root"}"#, All),
    ("/v3/auth/role/delete", r#"{"role":"none"}"#, All),
    ("/v3/auth/user/delete", r#"{"name":"none"}"#, All),
    ("/v3/auth/authenticate", r#"{"name":"eve","password":"other"}"#, All),
    ("/v3/nothing", "{}", All),
    ("/v3/kv/", "{}", All),
    ("/v3alpha/kv/range", "{}", All),
    ("/v2/keys", "", All),
    ("/", "", All),
];

/// Streams: path, body, lines.
#[rustfmt::skip]
const STREAMS: &[(&str, &str, usize)] = &[
    ("/v3/watch", r#"{"create_request":{"key":"YQ==","range_end":"bQ==","start_revision":"4","prev_kv":true}}"#, 2),
    ("/v3/watch", r#"{"createRequest":{"key":"YQ==","start_revision":"1"}}"#, 2),
    ("/v3/watch", r#"{"create_request":{"key":"YQ==","watch_id":"7","filters":["NOPUT"]}} {"cancel_request":{"watch_id":7}}"#, 2),
    ("/v3/election/observe", r#"{"name":"ZWxlY3Q="}"#, 1),
];

/// What may differ between two clusters, taken out.
fn neutral(value: &mut Value) {
    match value {
        Value::Object(members) => {
            // 3.6 tells more of its state, and a stream's refusal has the code under its newer name too.
            members.retain(|name, _| !matches!(name.as_str(), "storageVersion" | "dbSizeQuota" | "downgradeInfo"));
            if members.contains_key("grpc_code") {
                members.remove("code");
            }
            if members.contains_key("compact_revision") {
                members.remove("hash_revision");
            }
            let is_status = members.contains_key("raftTerm");
            let is_member = members.contains_key("peerURLs") || members.contains_key("clientURLs");
            for (name, member) in members {
                let differs = matches!(
                    name.as_str(),
                    "cluster_id"
                        | "member_id"
                        | "raft_term"
                        | "dbSize"
                        | "dbSizeInUse"
                        | "leader"
                        | "raftIndex"
                        | "raftTerm"
                        | "raftAppliedIndex"
                        | "hash"
                        | "token"
                        | "peerURLs"
                        | "clientURLs"
                ) || is_member && name == "ID"
                    || is_status && name == "version";
                if differs {
                    *member = Value::from("(differs)");
                } else {
                    neutral(member);
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(neutral),
        _ => {}
    }
}

fn shown(answer: &http::Answer, same: Same) -> String {
    let json: Option<Vec<Value>> =
        serde_json::Deserializer::from_str(&answer.body).into_iter::<Value>().collect::<Result<_, _>>().ok();
    let body = match json.filter(|values| !values.is_empty()) {
        Some(mut values) if same == All => {
            values.iter_mut().for_each(neutral);
            format!("{values:?}")
        }
        Some(values) => format!("code {:?}", values[0].get("code")),
        None => answer.body.clone(),
    };
    format!("{} {:?} {body}", answer.status, answer.header("content-type"))
}

/// What etcd 3.5.1 says in plain text of a path or a method that its gateway lacks, as grpc-gateway 2 does (etcd 3.5.30 and 3.6): in JSON, and 501 where it was 405.
fn as_later(shown: String) -> String {
    for (before, status, code, text) in [
        ("404 Not Found", "404 Not Found", 5, "Not Found"),
        ("405 Method Not Allowed", "501 Not Implemented", 12, "Method Not Allowed"),
    ] {
        if shown == format!("HTTP/1.1 {before} {:?} {text}\n", Some("text/plain; charset=utf-8")) {
            let body = serde_json::json!({"code": code, "error": text, "message": text});
            return format!("HTTP/1.1 {status} {:?} {:?}", Some("application/json"), [body]);
        }
    }
    shown
}

fn address(cluster: &Cluster) -> String {
    cluster.spec(0).client_url.trim_start_matches("http://").to_owned()
}

async fn pair(test: &str) -> Option<[Cluster; 2]> {
    let theirs = foreign::etcd_351(test)?;
    Some([Cluster::start_with(&etcd_bin(), 1, &[]).await, Cluster::start_with(&theirs, 1, &[]).await])
}

#[test]
fn every_path_of_the_gateway_answers_as_etcds() {
    turn(Duration::from_secs(180), async {
        let Some(clusters) = pair("every_path_of_the_gateway_answers_as_etcds").await else { return };
        let [ours, theirs] = [address(&clusters[0]), address(&clusters[1])];
        let mut differ = Vec::new();
        for (path, body, same) in CALLS {
            if path.contains("/cluster/member/") {
                clusters[0].client.settled(0).await;
                clusters[1].client.settled(0).await;
            }
            let a = http::send(&ours, "POST", path, body).await.unwrap_or_else(|e| panic!("{path} {body}: {e}"));
            let b =
                http::send(&theirs, "POST", path, body).await.unwrap_or_else(|e| panic!("etcd: {path} {body}: {e}"));
            let (a, b) = (shown(&a, *same), as_later(shown(&b, *same)));
            if a != b {
                differ.push(format!("{path} {body}\n   ours: {a}\n theirs: {b}"));
            }
        }
        for (path, body, count) in STREAMS {
            if path.ends_with("observe") {
                let campaign = r#"{"name":"ZWxlY3Q=","value":"djE=","lease":"4711"}"#;
                for to in [&ours, &theirs] {
                    http::send(to, "POST", "/v3/lease/grant", r#"{"ID":"4711","TTL":"600"}"#).await.expect("granted");
                    let won = http::send(to, "POST", "/v3/election/campaign", campaign).await.expect("won");
                    assert!(won.body.contains("leader"), "{won:?}");
                }
            }
            let mut said = Vec::new();
            for to in [&ours, &theirs] {
                let (status, lines) = http::lines(to, path, body, *count).await.expect("a stream");
                let mut values: Vec<Value> =
                    lines.iter().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect();
                values.iter_mut().for_each(neutral);
                said.push(format!("{status} {values:?}"));
            }
            if said[0] != said[1] {
                differ.push(format!("{path} {body}\n   ours: {}\n theirs: {}", said[0], said[1]));
            }
        }
        assert!(differ.is_empty(), "{} answers differ:\n{}", differ.len(), differ.join("\n"));
    });
}

#[test]
fn other_methods_and_headers_are_taken_as_etcd_takes_them() {
    turn(Duration::from_secs(120), async {
        let Some(clusters) = pair("other_methods_and_headers_are_taken_as_etcd_takes_them").await else { return };
        let [ours, theirs] = [address(&clusters[0]), address(&clusters[1])];
        for (method, path) in
            [("GET", "/v3/kv/range"), ("PUT", "/v3/kv/put"), ("DELETE", "/v3/kv/range"), ("GET", "/v3/nothing")]
        {
            let a = http::send(&ours, method, path, "{}").await.expect("an answer");
            let b = http::send(&theirs, method, path, "{}").await.expect("an answer");
            assert_eq!(shown(&a, All), as_later(shown(&b, All)), "{method} {path}");
        }
        for to in [&ours, &theirs] {
            for (path, body) in [
                ("/v3/auth/user/add", r#"{"name":"root","password":"pw"}"#),
                ("/v3/auth/role/add", r#"{"name":"root"}"#),
                ("/v3/auth/user/grant", r#"{"user":"root","role":"root"}"#),
                ("/v3/auth/enable", "{}"),
            ] {
                let answer = http::send(to, "POST", path, body).await.expect("an answer");
                assert!(answer.status.contains("200"), "{path}: {answer:?}");
            }
        }
        let login = r#"{"name":"root","password":"pw"}"#;
        let mut said = Vec::new();
        for to in [&ours, &theirs] {
            let nobody = http::send(to, "POST", "/v3/kv/range", r#"{"key":"YQ=="}"#).await.expect("an answer");
            let forged = ("Authorization", "forged.1");
            let call = ("POST", "/v3/kv/range");
            let forged = http::send_with(to, call, forged, r#"{"key":"YQ=="}"#).await.expect("an answer");
            let wrong = r#"{"name":"root","password":"no"}"#;
            let wrong = http::send(to, "POST", "/v3/auth/authenticate", wrong).await.expect("an answer");
            let token = http::send(to, "POST", "/v3/auth/authenticate", login).await.expect("a token");
            let token: Value = serde_json::from_str(&token.body).expect("JSON");
            let token = token["token"].as_str().expect("a token");
            let bearer = http::send_with(to, call, ("Authorization", token), r#"{"key":"YQ=="}"#).await;
            let listed = ("POST", "/v3/auth/user/list");
            let listed = http::send_with(to, listed, ("Grpc-Metadata-Token", token), "{}").await.expect("an answer");
            let answers = [&nobody, &forged, &wrong, &bearer.expect("an answer"), &listed];
            said.push(answers.map(|answer| shown(answer, All)));
        }
        assert_eq!(said[0], said[1]);
        assert!(said[0][3].contains("200") && said[0][4].contains("root"), "{said:?}");
    });
}

#[test]
fn a_watch_by_curl_hears_of_what_happens_next() {
    turn(Duration::from_secs(60), async {
        let cluster = Cluster::start(1).await;
        let to = address(&cluster);
        let watch = tokio::spawn({
            let to = to.clone();
            async move { http::lines(&to, "/v3/watch", r#"{"create_request":{"key":"YQ=="}}"#, 2).await }
        });
        while !watch.is_finished() {
            let put = http::send(&to, "POST", "/v3/kv/put", r#"{"key":"YQ==","value":"MQ=="}"#).await.expect("a put");
            assert!(put.status.contains("200"), "{put:?}");
        }
        let (_, lines) = watch.await.expect("no panic").expect("a stream");
        assert!(lines[0].contains(r#""created":true"#) && lines[1].contains(r#""value":"MQ==""#), "{lines:?}");
    });
}

#[test]
fn what_browsers_need_is_there_if_asked_for() {
    turn(Duration::from_secs(60), async {
        if !is_ours() {
            return;
        }
        let cluster = Cluster::start(1).await;
        let call = ("POST", "/v3/kv/range");
        let page = ("Origin", "http://page.example");
        let answer = http::send_with(&address(&cluster), call, page, "{}").await.expect("an answer");
        assert_eq!(answer.header("access-control-allow-origin"), None, "{answer:?}");
        drop(cluster);
        let flags = ["--cors=http://page.example", "--host-whitelist=localhost,etcd"];
        let cluster = Cluster::start_with(&etcd_bin(), 1, &flags).await;
        let to = address(&cluster);
        let answer = http::send_with(&to, call, page, "{}").await.expect("an answer");
        assert_eq!(answer.header("access-control-allow-origin"), Some("http://page.example"));
        let asked = http::send_with(&to, ("OPTIONS", "/v3/kv/range"), page, "").await.expect("an answer");
        assert!(asked.status.contains("200") && asked.body.is_empty(), "{asked:?}");
        let other = http::send_with(&to, call, ("Origin", "http://other.example"), "{}").await.expect("an answer");
        assert_eq!(other.header("access-control-allow-origin"), None);
        let rebound = http::get_as(&to, "/health", "evil.example").await.expect("an answer");
        assert!(rebound.status.contains("421") && rebound.body.contains("--host-whitelist"), "{rebound:?}");
    });
}

#[test]
fn http_can_have_urls_of_its_own_and_be_without_a_gateway() {
    turn(Duration::from_secs(60), async {
        if !is_ours() {
            return;
        }
        let port = crate::ports::free();
        let http_url = format!("--listen-client-http-urls=http://127.0.0.1:{port}");
        let cluster = Cluster::start_with(&etcd_bin(), 1, &[&http_url, "--enable-grpc-gateway=false"]).await;
        cluster.client.put(0, "a", "1").await.expect("gRPC where it was");
        let http_only = format!("127.0.0.1:{port}");
        let health = http::get(&http_only, "/health").await.expect("health");
        assert!(health.status.contains("200"), "{health:?}");
        let none = http::send(&http_only, "POST", "/v3/kv/range", "{}").await.expect("an answer");
        assert_eq!((none.status.as_str(), none.body.as_str()), ("HTTP/1.1 404 Not Found", "404 page not found\n"));
        let moved = http::get(&address(&cluster), "/health").await.expect("an answer");
        assert!(moved.status.contains("404"), "{moved:?}");
        let elsewhere = crate::client::Client::plain(vec![format!("http://{http_only}")]);
        elsewhere.put(0, "a", "2").await.expect_err("no gRPC on the port for HTTP");
    });
}
