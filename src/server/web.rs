//! What browsers make necessary: which pages' scripts may call (CORS), and which `Host` a request may name (DNS rebinding, CVE-2018-5702).
//!
//! Unlike etcd, whose default is every origin, no origin is allowed unless `--cors` says so: a page of a stranger should not read a developer's store. The `Host`
//! of TLS requests is not looked at: a rebound name has no certificate. Source: etcd `embed/serve.go` (`accessController`); contract-server 10.3.

use super::front::Front;
use super::identity::Origin;
use super::settings::Settings;
use bytes::Bytes;
use http::HeaderMap;
use http::HeaderValue;
use http::Request;
use http::Response;
use http::StatusCode;
use http::header;
use http_body_util::Full;
use tonic::body::Body;

/// What HTTP serves, and to whom.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Web {
    /// Whether the JSON gateway is there.
    pub gateway: bool,
    /// Origins whose scripts may call; `*` is any, none is none.
    pub cors: Vec<String>,
    /// What `Host` may name where there is no TLS; `*` or none is anything.
    pub hosts: Vec<String>,
}

impl Web {
    pub(super) fn from_settings(settings: &Settings) -> Web {
        Web {
            gateway: settings.is("enable-grpc-gateway"),
            cors: if settings.was_set("cors") { settings.list("cors") } else { Vec::new() },
            hosts: settings.list("host-whitelist"),
        }
    }
}

/// Why a request is refused before anybody looks at what it asks.
pub(super) fn refuse<B>(web: &Web, front: &Front, request: &Request<B>, origin: &Origin) -> Option<Response<Body>> {
    let host = host_of(request);
    if !origin.is_tls && !may_name(&web.hosts, host) {
        let told = format!(
            "the Host header names {host:?}, which this server does not go by: use TLS, or add the name to --host-whitelist\n"
        );
        return Some(text(StatusCode::MISDIRECTED_REQUEST, told));
    }
    let is_named = front.security.common_names && origin.common_name.as_ref().is_some_and(|name| !name.is_empty());
    if is_named && request.uri().path().starts_with("/v3/") && front.node.auth_is_on() {
        let told = "CommonName of client sending a request against gateway will be ignored and not used as expected\n";
        return Some(text(StatusCode::BAD_REQUEST, told.to_owned()));
    }
    None
}

/// The host that a request names, without port and brackets.
fn host_of<B>(request: &Request<B>) -> &str {
    let named = request.headers().get(header::HOST).and_then(|host| host.to_str().ok());
    let host = named.or_else(|| request.uri().authority().map(|authority| authority.as_str())).unwrap_or_default();
    match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.rsplit_once(':').map_or(host, |(name, _)| name),
    }
}

fn may_name(hosts: &[String], host: &str) -> bool {
    hosts.is_empty() || hosts.iter().any(|allowed| allowed == "*" || allowed == host)
}

/// The origin that the answer may be shown to.
pub(super) fn allowed_origin(web: &Web, headers: &HeaderMap) -> Option<HeaderValue> {
    if web.cors.iter().any(|allowed| allowed == "*") {
        return Some(HeaderValue::from_static("*"));
    }
    let origin = headers.get(header::ORIGIN)?;
    web.cors.iter().any(|allowed| allowed.as_bytes() == origin.as_bytes()).then(|| origin.clone())
}

/// Adds what lets a page of this origin read the answer.
pub(super) fn allow(headers: &mut HeaderMap, origin: HeaderValue) {
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    for (name, value) in [
        (header::ACCESS_CONTROL_ALLOW_METHODS, "POST, GET, OPTIONS, PUT, DELETE"),
        (header::ACCESS_CONTROL_ALLOW_HEADERS, "accept, content-type, authorization"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
}

fn text(status: StatusCode, body: String) -> Response<Body> {
    let mut response = Response::new(Body::new(Full::new(Bytes::from(body))));
    *response.status_mut() = status;
    let plain = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, plain);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_compared_without_port_and_brackets() {
        for (header, host) in [("a:1", "a"), ("a", "a"), ("[::1]:2379", "::1"), ("127.0.0.1:1", "127.0.0.1")] {
            let request = Request::builder().header("host", header).body(()).expect("a request");
            assert_eq!(host_of(&request), host);
        }
        let hosts = |list: &[&str]| list.iter().map(|host| (*host).to_owned()).collect::<Vec<_>>();
        assert!(may_name(&hosts(&["*"]), "evil.example") && may_name(&[], "evil.example"));
        assert!(may_name(&hosts(&["etcd"]), "etcd") && !may_name(&hosts(&["etcd"]), "evil.example"));
    }

    #[test]
    fn an_origin_is_allowed_by_name_or_by_star_and_by_default_not() {
        let headers = HeaderMap::from_iter([(header::ORIGIN, HeaderValue::from_static("http://a.example"))]);
        let allowed = |cors: &[&str]| {
            let web = Web { cors: cors.iter().map(|origin| (*origin).to_owned()).collect(), ..Web::default() };
            allowed_origin(&web, &headers)
        };
        assert_eq!(allowed(&[]), None);
        assert_eq!(allowed(&["http://b.example"]), None);
        assert_eq!(allowed(&["http://a.example"]), Some(HeaderValue::from_static("http://a.example")));
        assert_eq!(allowed(&["*"]), Some(HeaderValue::from_static("*")));
    }
}
