//! `Grpc-Timeout`: how long a request over HTTP may take, in gRPC's form of a time: up to eight digits and a unit.
//!
//! Source: grpc-gateway `runtime/context.go` (`timeoutDecode`), gRPC over HTTP/2.

#![expect(clippy::disallowed_methods, reason = "a request ends at some time")]

use http::HeaderMap;
use std::time::Duration;
use tokio::time::Instant;
use tonic::Status;

/// When a request ends.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limit(Option<Instant>);

impl Limit {
    /// What `work` makes; nothing if it takes too long.
    pub(super) async fn within<T>(self, work: impl Future<Output = T>) -> Option<T> {
        match self.0 {
            None => Some(work.await),
            // What is over already is not begun.
            Some(end) if end <= Instant::now() => None,
            Some(end) => tokio::time::timeout_at(end, work).await.ok(),
        }
    }
}

/// The limit that a request sets itself.
///
/// # Errors
/// It is no time.
pub(super) fn of(headers: &HeaderMap) -> Result<Limit, Status> {
    let Some(value) = headers.get("grpc-timeout") else { return Ok(Limit(None)) };
    let text = value.to_str().unwrap_or_default();
    let time = parse(text).ok_or_else(|| Status::invalid_argument(format!("invalid grpc-timeout: {text}")))?;
    // A time beyond all clocks is none.
    Ok(Limit(Instant::now().checked_add(time)))
}

/// The answer to a request that took too long.
pub(super) fn exceeded() -> Status {
    Status::deadline_exceeded("context deadline exceeded")
}

fn parse(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let number: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(number * 3600)),
        "M" => Some(Duration::from_secs(number * 60)),
        "S" => Some(Duration::from_secs(number)),
        "m" => Some(Duration::from_millis(number)),
        "u" => Some(Duration::from_micros(number)),
        "n" => Some(Duration::from_nanos(number)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_has_no_time_is_not_begun() {
        let past = Limit(Some(Instant::now()));
        assert_eq!(past.within(async { "done" }).await, None);
        assert_eq!(Limit(None).within(async { "done" }).await, Some("done"));
    }

    #[test]
    fn a_time_is_digits_and_a_unit() {
        for (text, want) in [("2H", 7_200_000_000), ("3M", 180_000_000), ("1S", 1_000_000), ("5m", 5_000), ("7u", 7)] {
            assert_eq!(parse(text), Some(Duration::from_micros(want)), "{text}");
        }
        assert_eq!(parse("99999999n"), Some(Duration::from_nanos(99_999_999)));
        for text in ["", "S", "1", "1x", "1.5S", "-1S", "100000000S", "1ä"] {
            assert_eq!(parse(text), None, "{text:?}");
        }
    }
}
