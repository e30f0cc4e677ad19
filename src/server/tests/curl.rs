//! Plain HTTP as scripts and curl use it: methods, paths with a slash too many, the order of an error's members, bodies that nobody reads.

use super::*;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Types and flags of HTTP/2's frames.
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RESET: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    let length = u8::try_from(payload.len()).expect("short");
    [&[0, 0, length, kind, flags, 0, 0, 0, stream][..], payload].concat()
}

/// The head of a POST, in HPACK without Huffman's code.
fn post(path: &str) -> Vec<u8> {
    let text = |text: &str| [&[u8::try_from(text.len()).expect("short")], text.as_bytes()].concat();
    [&[0x83, 0x86, 0x04][..], &text(path), &[0x01], &text("localhost")].concat()
}

/// Reads frames until `is_last`; their types and flags.
async fn frames(stream: &mut TcpStream, is_last: impl Fn(u8, u8) -> bool) -> Vec<(u8, u8)> {
    let mut seen = Vec::new();
    let read = async {
        while seen.last().is_none_or(|(kind, flags)| !is_last(*kind, *flags)) {
            let mut head = [0; 9];
            stream.read_exact(&mut head).await.expect("a frame");
            let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
            stream.read_exact(&mut payload).await.expect("all of it");
            seen.push((head[3], head[4]));
        }
    };
    timeout(DEADLINE, read).await.expect("in time");
    seen
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_over_http2_outlives_a_body_that_nobody_reads() {
    let member = Member::start("").await;
    for path in ["/v3/kv/nosuch", "/health", "/nosuch", "/v3//kv/put"] {
        let mut stream = TcpStream::connect(&member.clients).await.expect("served");
        let opened = [PREFACE, &frame(SETTINGS, 0, 0, &[]), &frame(HEADERS, END_HEADERS, 1, &post(path))].concat();
        stream.write_all(&opened).await.expect("sent");
        let answer = frames(&mut stream, |kind, flags| {
            kind == RESET || matches!(kind, DATA | HEADERS) && flags & END_STREAM == END_STREAM
        });
        let answer = answer.await;
        assert!(answer.iter().all(|(kind, _)| *kind != RESET), "{path}: {answer:?}");
        // The body comes only now, bit by bit; what was sent of the stream is told before the ping is answered.
        stream.write_all(&frame(DATA, 0, 1, br#"{"key":"#)).await.expect("sent");
        stream.write_all(&frame(PING, 0, 0, &[1; 8])).await.expect("sent");
        let open = frames(&mut stream, |kind, flags| kind == PING && flags & 1 == 1).await;
        assert!(open.iter().all(|(kind, _)| *kind != RESET), "{path}: the stream is open: {open:?}");
        stream.write_all(&frame(DATA, END_STREAM, 1, br#""YQ=="}"#)).await.expect("sent");
        stream.write_all(&frame(PING, 0, 0, &[2; 8])).await.expect("sent");
        let rest = frames(&mut stream, |kind, flags| kind == PING && flags & 1 == 1).await;
        assert!(rest.iter().all(|(kind, _)| *kind != RESET), "{path}: it ended well: {rest:?}");
    }
    member.stop().await;
}

impl Member {
    async fn ask(&self, method: &str, path: &str, more: &str, body: &str) -> String {
        let length = body.len();
        let head = format!("{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {length}\r\n");
        self.raw(&format!("{head}{more}\r\n{body}")).await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn methods_are_taken_and_refused_as_etcd_does() {
    let member = Member::start("").await;
    let head = member.ask("HEAD", "/metrics", "", "").await;
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n") && head.ends_with("\r\n\r\n"), "{head}");
    assert!(
        head.contains("\r\nContent-Type: text/plain; version=0.0.4"),
        "in capital letters, as scripts look for it: {head}"
    );
    let posted = member.ask("POST", "/metrics", "", "").await;
    assert!(posted.starts_with("HTTP/1.1 200 OK\r\n") && posted.contains("\netcd_server_has_leader 1\n"));
    for path in ["/health", "/version", "/livez", "/debug/vars"] {
        let refused = member.ask("POST", path, "", "{}").await;
        assert!(refused.starts_with("HTTP/1.1 405 Method Not Allowed\r\n"), "{refused}");
        assert!(refused.contains("\r\nAllow: GET\r\n"), "{refused}");
    }
    let ready = member.ask("GET", "/readyz/non_learner", "", "").await;
    assert!(ready.contains("\r\nX-Content-Type-Options: nosniff\r\n") && ready.ends_with("\r\n\r\nok\n"), "{ready}");
    member.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_has_a_slash_too_many_is_sent_to_the_clean_path() {
    let member = Member::start("").await;
    for (path, to) in
        [("//health?serializable=true", "/health?serializable=true"), ("/foo/../version", "/version"), ("/v3", "/v3/")]
    {
        let moved = member.get(path).await;
        assert!(moved.starts_with("HTTP/1.1 301 Moved Permanently\r\n"), "{moved}");
        assert!(moved.contains(&format!("\r\nLocation: {to}\r\n")), "{moved}");
        assert!(moved.ends_with(&format!("<a href=\"{to}\">Moved Permanently</a>.\n\n")), "{moved}");
    }
    let moved = member.ask("POST", "/v3//kv/range", "", r#"{"key":"YQ=="}"#).await;
    assert!(moved.contains("\r\nLocation: /v3/kv/range\r\n") && moved.ends_with("\r\n\r\n"), "{moved}");
    member.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_gateway_answers_in_etcds_order() {
    let member = Member::start("").await;
    let refused = member.ask("POST", "/v3/kv/put", "", "{}").await;
    let text = "etcdserver: key is not provided";
    assert!(refused.ends_with(&format!(r#"{{"error":"{text}","code":3,"message":"{text}"}}"#)), "{refused}");
    let found = member.ask("POST", "/v3/kv/range", "", r#"{"key":"YQ=="}"#).await;
    assert!(found.contains("\r\nGrpc-Metadata-Content-Type: application/grpc\r\n"), "{found}");
    assert!(found.contains("\r\nContent-Type: application/json\r\n"), "{found}");
    member.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_path_or_a_method_that_the_gateway_lacks_is_refused_in_json() {
    let member = Member::start("").await;
    for (method, path, status, code, text) in [
        ("POST", "/v3/kv/nosuch", "404 Not Found", 5, "Not Found"),
        ("GET", "/v3/", "404 Not Found", 5, "Not Found"),
        ("GET", "/v3/kv/range/", "404 Not Found", 5, "Not Found"),
        ("GET", "/v3/kv/range", "501 Not Implemented", 12, "Method Not Allowed"),
        ("PUT", "/v3beta/kv/put", "501 Not Implemented", 12, "Method Not Allowed"),
    ] {
        let refused = member.ask(method, path, "", "{}").await;
        assert!(refused.starts_with(&format!("HTTP/1.1 {status}\r\n")), "{method} {path}: {refused}");
        assert!(refused.contains("\r\nContent-Type: application/json\r\n"), "{method} {path}: {refused}");
        let body = format!(r#"{{"error":"{text}","code":{code},"message":"{text}"}}"#);
        assert!(refused.ends_with(&format!("\r\n\r\n{body}")), "{method} {path}: {refused}");
    }
    member.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn grpc_is_not_spoken_over_http1() {
    let member = Member::start("").await;
    let grpc = "content-type: application/grpc\r\nte: trailers\r\n";
    // An empty frame: a status request, which any member would answer.
    let refused = member.ask("POST", "/etcdserverpb.Maintenance/Status", grpc, "\0\0\0\0\0").await;
    assert!(refused.starts_with("HTTP/1.1 404 Not Found\r\n"), "{refused}");
    assert!(refused.ends_with("\r\n\r\n404 page not found\n"), "{refused}");
    // The content type does not decide what is below /v3/.
    let answered = member.ask("POST", "/v3/maintenance/status", grpc, "{}").await;
    assert!(answered.starts_with("HTTP/1.1 200 OK\r\n"), "{answered}");
    member.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metrics_are_packed_for_who_can_unpack_them() {
    use std::io::Read as _;
    let member = Member::start("").await;
    let plain = member.get("/metrics").await;
    let mut stream = TcpStream::connect(&member.clients).await.expect("served");
    let asked = "GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\naccept-encoding: deflate, gzip;q=0.5\r\n\r\n";
    stream.write_all(asked.as_bytes()).await.expect("sent");
    let mut answer = Vec::new();
    timeout(DEADLINE, stream.read_to_end(&mut answer)).await.expect("in time").expect("an answer");
    let end = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n").expect("a header");
    let header = String::from_utf8_lossy(&answer[..end]);
    assert!(header.contains("\r\nContent-Encoding: gzip"), "{header}");
    let mut page = String::new();
    flate2::read::GzDecoder::new(&answer[end + 4..]).read_to_string(&mut page).expect("gzip");
    assert!(page.contains("\netcd_server_has_leader 1\n"));
    assert!(answer.len() * 5 < plain.len(), "{} of {}", answer.len(), plain.len());
    member.stop().await;
}
