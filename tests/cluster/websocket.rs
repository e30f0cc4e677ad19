//! The gateway over a websocket, and under a time limit: as etcd's, and not for pages of strangers.

use crate::foreign;
use crate::harness::Cluster;
use crate::harness::etcd_bin;
use crate::harness::is_ours;
use crate::harness::turn;
use crate::http;
use serde_json::Value;
use std::time::Duration;
use tokio::io::AsyncReadExt as _;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

const TEXT: u8 = 1;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;

/// A websocket, from the client's side.
struct Socket(TcpStream);

impl Socket {
    /// Asks for one; the head of the answer, and the socket if that was yes.
    async fn open(address: &str, path: &str, more: &str) -> (String, Option<Socket>) {
        let mut stream = TcpStream::connect(address).await.expect("served");
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{more}\r\n"
        );
        stream.write_all(request.as_bytes()).await.expect("sent");
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.expect("an answer"));
        }
        let head = String::from_utf8(head).expect("text");
        let opened = head.starts_with("HTTP/1.1 101 ");
        (head, opened.then_some(Socket(stream)))
    }

    async fn send(&mut self, code: u8, payload: &[u8]) {
        let mask = [1, 2, 3, 4];
        let length = u8::try_from(payload.len()).expect("short");
        assert!(length < 126, "short");
        let mut frame = vec![0x80 | code, 0x80 | length];
        frame.extend(mask);
        frame.extend(payload.iter().enumerate().map(|(n, byte)| byte ^ mask[n % 4]));
        self.0.write_all(&frame).await.expect("sent");
    }

    /// The next frame; nothing at the end.
    async fn next(&mut self) -> Option<(u8, Vec<u8>)> {
        let read = async {
            let code = self.0.read_u8().await.ok()? & 0x0f;
            let length = match self.0.read_u8().await.ok()? {
                126 => usize::from(self.0.read_u16().await.ok()?),
                127 => usize::try_from(self.0.read_u64().await.ok()?).ok()?,
                short => usize::from(short),
            };
            let mut payload = vec![0; length];
            self.0.read_exact(&mut payload).await.ok()?;
            Some((code, payload))
        };
        tokio::time::timeout(Duration::from_secs(10), read).await.expect("a frame in time")
    }

    /// The next text, as JSON without the header and numbers that differ from cluster to cluster.
    async fn json(&mut self) -> Value {
        let (code, payload) = self.next().await.expect("a frame");
        assert_eq!(code, TEXT, "{}", String::from_utf8_lossy(&payload));
        let mut value = serde_json::from_slice(&payload).expect("JSON");
        neutral(&mut value);
        value
    }
}

fn neutral(value: &mut Value) {
    match value {
        Value::Object(members) => {
            members.remove("header");
            members.remove("create_revision");
            members.remove("mod_revision");
            members.values_mut().for_each(neutral);
        }
        Value::Array(items) => items.iter_mut().for_each(neutral),
        _ => {}
    }
}

fn address(cluster: &Cluster) -> String {
    cluster.spec(0).client_url.trim_start_matches("http://").to_owned()
}

/// What a browser sees of a watch and of a lease.
async fn seen(address: &str) -> Vec<Value> {
    let mut all = Vec::new();
    let (head, socket) = Socket::open(address, "/v3/watch", "").await;
    assert!(head.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "{head}");
    let mut watch = socket.expect("a websocket");
    watch.send(TEXT, br#"{"create_request":{"key":"YQ=="}}"#).await;
    all.push(watch.json().await);
    for value in ["MQ==", "Mg=="] {
        let body = format!(r#"{{"key":"YQ==","value":"{value}"}}"#);
        http::send(address, "POST", "/v3/kv/put", &body).await.expect("an answer");
        all.push(watch.json().await);
    }
    watch.send(TEXT, br#"{"cancel_request":{"watch_id":"0"}}"#).await;
    all.push(watch.json().await);
    let (_, socket) = Socket::open(address, "/v3/lease/keepalive", "").await;
    let mut lease = socket.expect("a websocket");
    for _ in 0..2 {
        lease.send(TEXT, br#"{"ID":"7"}"#).await;
        all.push(lease.json().await);
    }
    all
}

#[test]
fn a_browser_sees_the_same_over_a_websocket_as_from_etcd() {
    let name = "a_browser_sees_the_same_over_a_websocket_as_from_etcd";
    turn(Duration::from_secs(90), async {
        let ours = Cluster::start(1).await;
        let here = seen(&address(&ours)).await;
        assert_eq!(here.len(), 6);
        assert_eq!(here[0]["result"]["created"], true);
        assert_eq!(here[2]["result"]["events"][0]["kv"]["value"], "Mg==");
        assert_eq!(here[3]["result"]["canceled"], true);
        // Beyond etcd, which waits for the end of the request and so for the end of the socket: a call with one answer.
        let (_, socket) = Socket::open(&address(&ours), "/v3/kv/range", "").await;
        let mut range = socket.expect("a websocket");
        range.send(TEXT, br#"{"key":"YQ=="}"#).await;
        assert_eq!(range.json().await["kvs"][0]["value"], "Mg==", "which is not wrapped");
        drop(ours);
        let Some(etcd) = foreign::etcd_351(name) else { return };
        let theirs = Cluster::start_with(&etcd, 1, &[]).await;
        let there = seen(&address(&theirs)).await;
        assert_eq!(here, there);
    });
}

#[test]
fn a_websocket_is_answered_and_ended_by_the_rules() {
    turn(Duration::from_secs(60), async {
        if !is_ours() {
            return;
        }
        let cluster = Cluster::start_with(&etcd_bin(), 1, &["--cors=http://page.example"]).await;
        let at = address(&cluster);
        let (_, socket) = Socket::open(&at, "/v3/watch", "Origin: http://page.example\r\n").await;
        let mut socket = socket.expect("allowed by --cors");
        socket.send(PING, b"there?").await;
        assert_eq!(socket.next().await, Some((PONG, b"there?".to_vec())));
        socket.send(TEXT, br#"{"create_request":"#).await;
        socket.send(TEXT, br#"{"key":"YQ=="}}"#).await;
        assert_eq!(socket.json().await["result"]["created"], true, "a request may come in parts");
        socket.send(CLOSE, &1000u16.to_be_bytes()).await;
        assert_eq!(socket.next().await, Some((CLOSE, 1000u16.to_be_bytes().to_vec())));
        assert_eq!(socket.next().await, None);
        for (path, more, status) in
            [("/v3/watch", "Origin: http://stranger.example\r\n", "403"), ("/v3/none", "", "404")]
        {
            let (head, socket) = Socket::open(&at, path, more).await;
            assert!(head.starts_with(&format!("HTTP/1.1 {status} ")) && socket.is_none(), "{head}");
        }
        // Nonsense is told, and ends it.
        let (_, socket) = Socket::open(&at, "/v3/watch", "Origin: http://page.example\r\n").await;
        let mut socket = socket.expect("a websocket");
        socket.send(TEXT, b"nonsense").await;
        let told = socket.json().await;
        assert!(told["error"]["message"].as_str().is_some_and(|told| told.contains("invalid character")), "{told}");
        assert_eq!(socket.next().await.map(|(code, _)| code), Some(CLOSE));
        // A member that stops ends them all.
        let (_, socket) = Socket::open(&at, "/v3/watch", "").await;
        let mut socket = socket.expect("a websocket");
        socket.send(TEXT, br#"{"create_request":{"key":"YQ=="}}"#).await;
        socket.json().await;
        let mut cluster = cluster;
        cluster.terminate(0).await;
        while socket.next().await.is_some() {}
    });
}

#[test]
fn a_token_comes_as_a_sub_protocol_or_as_a_cookie() {
    turn(Duration::from_secs(60), async {
        if !is_ours() {
            return;
        }
        let cluster = Cluster::start_with(&etcd_bin(), 1, &["--bcrypt-cost=4"]).await;
        let at = address(&cluster);
        for (path, body) in [
            ("/v3/auth/user/add", r#"{"name":"root","password":"pw"}"#),
            ("/v3/auth/role/add", r#"{"name":"root"}"#),
            ("/v3/auth/user/grant", r#"{"user":"root","role":"root"}"#),
            ("/v3/auth/enable", "{}"),
        ] {
            let answer = http::send(&at, "POST", path, body).await.expect("an answer");
            assert!(answer.status.contains("200"), "{path}: {answer:?}");
        }
        let login = http::send(&at, "POST", "/v3/auth/authenticate", r#"{"name":"root","password":"pw"}"#).await;
        let login: Value = serde_json::from_str(&login.expect("an answer").body).expect("JSON");
        let token = login["token"].as_str().expect("a token");
        for (more, works) in [
            (format!("Sec-WebSocket-Protocol: Bearer, {token}\r\n"), true),
            (format!("Cookie: a=b; token={token}\r\n"), true),
            (String::new(), false),
        ] {
            let (head, socket) = Socket::open(&at, "/v3/kv/range", &more).await;
            assert_eq!(
                head.to_lowercase().contains("sec-websocket-protocol: bearer"),
                more.starts_with("Sec"),
                "{head}"
            );
            let mut socket = socket.expect("a websocket");
            socket.send(TEXT, br#"{"key":"YQ=="}"#).await;
            let told = socket.json().await;
            assert_eq!(told.get("error").is_none(), works, "{more}: {told}");
        }
    });
}

/// Status and error of a request that sets itself a time.
async fn limited(address: &str, path: &str, time: &str, body: &str) -> (String, String) {
    let answer = http::send_with(address, ("POST", path), ("Grpc-Timeout", time), body).await.expect("an answer");
    let last = answer.body.lines().last().unwrap_or_default().to_owned();
    (answer.status, last)
}

#[test]
fn a_request_ends_when_it_says() {
    turn(Duration::from_secs(60), async {
        let range = r#"{"key":"YQ=="}"#;
        let watch = r#"{"create_request":{"key":"YQ=="}}"#;
        let check = async |at: &str| {
            let (status, told) = limited(at, "/v3/kv/range", "x", range).await;
            assert!(status.contains("400") && told.contains("invalid grpc-timeout: x"), "{status} {told}");
            let (status, told) = limited(at, "/v3/kv/range", "1n", range).await;
            assert!(status.contains("504") && told.contains("context deadline exceeded"), "{status} {told}");
            let (status, told) = limited(at, "/v3/kv/range", "9S", range).await;
            assert!(status.contains("200") && told.contains("header"), "{status} {told}");
            let (status, told) = limited(at, "/v3/watch", "500m", watch).await;
            assert!(status.contains("200") && told.contains("context deadline exceeded"), "{status} {told}");
        };
        let ours = Cluster::start(1).await;
        check(&address(&ours)).await;
        drop(ours);
        let Some(etcd) = foreign::etcd_351("a_request_ends_when_it_says") else { return };
        let theirs = Cluster::start_with(&etcd, 1, &[]).await;
        check(&address(&theirs)).await;
    });
}
