//! gofail's HTTP: which points are there, what is set, set and clear. In builds for tests only.
//!
//! | request | answer |
//! |---|---|
//! | `GET /` | a line `name=terms` for each point |
//! | `GET /name`, `GET /name/count` | its terms; how often they have acted |
//! | `PUT /name` with terms, `PUT /failpoints` with `name=terms;…` | 204 |
//! | `DELETE /name` | 204 |
//!
//! Source: gofail `runtime/http.go`.

use crate::failpoint::Point;
use crate::failpoint::armed;
use crate::failpoint::armed::Error;
use axum::Router;
use axum::response::IntoResponse;
use axum::response::Response;
use http::Method;
use http::StatusCode;
use http::Uri;

/// Sets what `GOFAIL_FAILPOINTS` says, and serves `GOFAIL_HTTP`.
///
/// # Errors
/// A sentence about the variable that is wrong.
pub(super) async fn start() -> Result<(), String> {
    if let Ok(text) = std::env::var("GOFAIL_FAILPOINTS") {
        armed::enable_all(&text).map_err(|why| format!("fail to parse failpoint: {why}"))?;
    }
    if let Ok(address) = std::env::var("GOFAIL_HTTP") {
        let listener =
            tokio::net::TcpListener::bind(&address).await.map_err(|e| format!("GOFAIL_HTTP {address}: {e}"))?;
        tracing::warn!(address, "serving failpoints: this build is for tests");
        tokio::spawn(async move { axum::serve(listener, Router::new().fallback(answer)).await });
    }
    Ok(())
}

async fn answer(method: Method, uri: Uri, body: String) -> Response {
    let key = uri.path().trim_start_matches('/');
    match method {
        Method::PUT if key.eq_ignore_ascii_case("failpoints") => match armed::parse_all(&body) {
            Ok(all) => set(&all),
            Err(why) => refuse(StatusCode::BAD_REQUEST, &format!("fail to parse failpoint: {why}")),
        },
        Method::PUT => set(&[(key, body.as_str())]),
        Method::GET if key.is_empty() => list().into_response(),
        Method::GET => match (key.strip_suffix("/count"), armed::status(key.trim_end_matches("/count"))) {
            (None, Ok((terms, _))) => format!("{terms}\n").into_response(),
            (Some(_), Ok((_, acted))) => acted.to_string().into_response(),
            (Some(_), Err(why)) if why != Error::NoExist => {
                refuse(StatusCode::INTERNAL_SERVER_ERROR, &format!("failed to GET: {why}"))
            }
            (_, Err(why)) => refuse(StatusCode::NOT_FOUND, &format!("failed to GET: {why}")),
        },
        Method::DELETE => match armed::disable(key) {
            Ok(()) => StatusCode::NO_CONTENT.into_response(),
            Err(why) => refuse(StatusCode::BAD_REQUEST, &format!("failed to delete failpoint {why}")),
        },
        _ => refuse(StatusCode::METHOD_NOT_ALLOWED, "Method not allowed"),
    }
}

fn set(all: &[(&str, &str)]) -> Response {
    for (name, terms) in all {
        if let Err(why) = armed::enable(name, terms) {
            return refuse(StatusCode::BAD_REQUEST, &format!("fail to set failpoint: {why}"));
        }
    }
    StatusCode::NO_CONTENT.into_response()
}

fn list() -> String {
    let mut names: Vec<&str> = Point::ALL.iter().map(|point| point.name()).collect();
    names.sort_unstable();
    let terms = |name: &str| armed::status(name).map(|(terms, _)| terms).unwrap_or_default();
    names.into_iter().map(|name| format!("{name}={}\n", terms(name))).collect()
}

fn refuse(status: StatusCode, text: &str) -> Response {
    (status, format!("{text}\n")).into_response()
}
