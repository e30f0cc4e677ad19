//! Where a member listens: `host:port`, `http://…`, `https://…`, `unix://…`, `unixs://…`.
//!
//! Reading one never fails: as in etcd, an endpoint that makes no sense is one that nobody answers on, and the reason
//! is told by the attempt to connect.

use http::Uri;

/// One endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Endpoint {
    pub(crate) address: Address,
    /// Whether TLS is spoken there; a bare `host:port` leaves it to the client's configuration.
    pub(crate) secure: Option<bool>,
}

/// What to connect to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Address {
    Tcp { host: String, port: u16 },
    Unix(String),
    Unreadable(String),
}

impl Endpoint {
    /// Reads what stands in `--endpoints`.
    pub(crate) fn parse(text: &str) -> Endpoint {
        let (secure, rest) = match text.split_once("://") {
            Some(("http", rest)) => (Some(false), rest),
            Some(("https", rest)) => (Some(true), rest),
            Some(("unix", path)) => return Endpoint { address: Address::Unix(path.to_owned()), secure: Some(false) },
            Some(("unixs", path)) => return Endpoint { address: Address::Unix(path.to_owned()), secure: Some(true) },
            Some(_) => (None, text),
            None => match text.split_once(':') {
                Some(("unix", path)) => {
                    return Endpoint { address: Address::Unix(path.to_owned()), secure: Some(false) };
                }
                _ => (None, text),
            },
        };
        Endpoint { address: Address::parse(rest.split('/').next().unwrap_or(rest)), secure }
    }

    /// Scheme and authority of requests to this endpoint.
    pub(crate) fn origin(&self, secure: bool) -> Uri {
        let scheme = if secure { "https" } else { "http" };
        let authority = match &self.address {
            Address::Tcp { host, port } if host.contains(':') => format!("[{host}]:{port}"),
            Address::Tcp { host, port } => format!("{host}:{port}"),
            Address::Unix(_) | Address::Unreadable(_) => "localhost".to_owned(),
        };
        format!("{scheme}://{authority}").parse().unwrap_or_else(|_| Uri::from_static("http://localhost"))
    }
}

impl Address {
    fn parse(text: &str) -> Address {
        let Some((host, port)) = text.rsplit_once(':') else {
            return Address::Unreadable(format!("dial tcp: address {text}: missing port in address"));
        };
        let host = host.trim_start_matches('[').trim_end_matches(']');
        match port.parse() {
            Ok(port) if host.is_empty() => Address::Tcp { host: "localhost".to_owned(), port },
            Ok(port) => Address::Tcp { host: host.to_owned(), port },
            Err(_) => Address::Unreadable(format!("dial tcp: address {text}: invalid port")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(host: &str, port: u16) -> Address {
        Address::Tcp { host: host.to_owned(), port }
    }

    #[test]
    fn the_scheme_decides_about_tls_and_a_bare_address_does_not() {
        assert_eq!(Endpoint::parse("h:1"), Endpoint { address: tcp("h", 1), secure: None });
        assert_eq!(Endpoint::parse("http://h:1"), Endpoint { address: tcp("h", 1), secure: Some(false) });
        assert_eq!(Endpoint::parse("https://h:1/"), Endpoint { address: tcp("h", 1), secure: Some(true) });
    }

    #[test]
    fn ip6_and_sockets_are_read() {
        assert_eq!(Endpoint::parse("[::1]:2379").address, tcp("::1", 2379));
        assert_eq!(Endpoint::parse("http://[::1]:2379").origin(false), "http://[::1]:2379");
        assert_eq!(Endpoint::parse("unix:///tmp/s").address, Address::Unix("/tmp/s".to_owned()));
        assert_eq!(Endpoint::parse("unix:s").address, Address::Unix("s".to_owned()));
    }

    #[test]
    fn nonsense_is_an_endpoint_that_nobody_answers_on() {
        assert!(matches!(Endpoint::parse("h").address, Address::Unreadable(why) if why.contains("missing port")));
        assert!(matches!(Endpoint::parse("h:x").address, Address::Unreadable(_)));
        assert!(matches!(Endpoint::parse("").address, Address::Unreadable(_)));
    }
}
