//! Paths that are almost right: `//health`, `/v3//kv/range`, `/v3`. Go's mux sends whoever asks to the clean path, which is what scripts with a slash too many
//! in their URL live on. Source: Go `net/http/server.go` (`cleanPath`, `ServeMux.Handler`, `Redirect`).

use bytes::Bytes;
use http::HeaderValue;
use http::Method;
use http::Request;
use http::Response;
use http::StatusCode;
use http::header;
use http_body_util::Full;
use tonic::body::Body;

/// The answer that names the clean path, if a request's is not.
pub(super) fn answer<B>(request: &Request<B>) -> Option<Response<Body>> {
    let path = request.uri().path();
    let clean = if path == "/v3" { "/v3/".to_owned() } else { clean(path)? };
    // A browser takes a backslash for a slash, and two of them for another host.
    let clean = clean.replace('\\', "%5C");
    let to = request.uri().query().map_or_else(|| clean.clone(), |query| format!("{clean}?{query}"));
    let location = HeaderValue::from_str(&to).ok()?;
    let has_text = matches!(*request.method(), Method::GET | Method::HEAD);
    let text = if has_text { format!("<a href=\"{}\">Moved Permanently</a>.\n\n", escape(&to)) } else { String::new() };
    let mut response = Response::new(Body::new(Full::new(Bytes::from(text))));
    *response.status_mut() = StatusCode::MOVED_PERMANENTLY;
    response.headers_mut().insert(header::LOCATION, location);
    if has_text {
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    }
    Some(response)
}

/// `path` without empty parts, `.` and `..`; nothing if it has none. A slash at the end stays.
fn clean(path: &str) -> Option<String> {
    let inner = path.strip_prefix('/')?;
    let mut parts = inner.split('/').peekable();
    let mut is_clean = true;
    let mut kept: Vec<&str> = Vec::new();
    while let Some(part) = parts.next() {
        match part {
            // The end of the path: nothing, or the slash that stays.
            "" if parts.peek().is_none() => {}
            "" | "." => is_clean = false,
            ".." => {
                is_clean = false;
                kept.pop();
            }
            part => kept.push(part),
        }
    }
    let end = if inner.ends_with('/') && !kept.is_empty() { "/" } else { "" };
    (!is_clean).then(|| format!("/{}{end}", kept.join("/")))
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&#34;").replace('\'', "&#39;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_cleaned_as_go_cleans_them() {
        for (path, to) in [
            ("//health", "/health"),
            ("/v3//kv/range", "/v3/kv/range"),
            ("/foo/../version", "/version"),
            ("/./version", "/version"),
            ("/../..//a//", "/a/"),
            ("//", "/"),
        ] {
            assert_eq!(clean(path).as_deref(), Some(to), "{path}");
        }
        for path in ["/", "/health", "/v3/", "/v3/kv/range", "/a.b/..c"] {
            assert_eq!(clean(path), None, "{path}");
        }
    }

    #[test]
    fn nobody_is_sent_to_another_host() {
        let request = Request::get("//\\evil.example/?a='&b").body(()).expect("a request");
        let response = answer(&request).expect("moved");
        assert_eq!(response.headers()[header::LOCATION], "/%5Cevil.example/?a='&b");
        let request = Request::get("//evil.example/").body(()).expect("a request");
        assert_eq!(answer(&request).expect("moved").headers()[header::LOCATION], "/evil.example/");
    }
}
