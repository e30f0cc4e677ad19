//! URLs as etcd's flags take them.
//!
//! A URL here is a scheme and an address and nothing else. Lists are sorted and without repeats, because member ids are
//! hashes over them. Source: etcd `client/pkg/types/urls.go`.

use crate::golang;
use crate::membership;
use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;

/// How to talk to an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scheme {
    Http,
    Https,
    /// A socket file, no TLS.
    Unix,
    /// A socket file, TLS.
    Unixs,
}

/// One URL of a flag.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Url {
    // First, so that URLs sort by their text, as etcd's do.
    text: String,
    scheme: Scheme,
    /// `host:port`; for socket files the path.
    address: String,
}

impl Url {
    /// Reads one URL; the error is etcd's text, or that of Go's parser. A user and a password in it are nothing to this server, and nobody is shown them; nor is
    /// a query.
    pub fn parse(text: &str) -> Result<Url, String> {
        let checked = membership::check_urls(&[text]).map_err(|why| masked(&why))?;
        let (scheme, rest) = checked[0].split_once(':').unwrap_or_default();
        let rest = rest.strip_prefix("//").unwrap_or(rest);
        let scheme = match scheme {
            "http" => Scheme::Http,
            "https" => Scheme::Https,
            "unix" => Scheme::Unix,
            _ => Scheme::Unixs,
        };
        if matches!(scheme, Scheme::Unix | Scheme::Unixs) {
            return Ok(Url { text: checked[0].clone(), scheme, address: rest.into() });
        }
        let authority = rest.split(['?', '#']).next().unwrap_or_default();
        let address = authority.rsplit_once('@').map_or(authority, |(_, address)| address);
        if let Some(bad) = address.matches([' ', '"', '<', '>', '^', '`', '{', '|', '}', '\\']).next() {
            return Err(format!("parse {:?}: invalid character {bad:?} in host name", masked(text.trim())));
        }
        let name = if scheme == Scheme::Http { "http" } else { "https" };
        Ok(Url { text: format!("{name}://{address}"), scheme, address: address.into() })
    }

    /// Reads a comma list: trimmed, sorted, without repeats. An empty text is an empty list.
    pub fn parse_list(text: &str) -> Result<Vec<Url>, String> {
        if text.is_empty() {
            return Ok(Vec::new());
        }
        let urls: Result<BTreeSet<Url>, String> = text.split(',').map(Url::parse).collect();
        Ok(urls?.into_iter().collect())
    }

    /// How to talk to it.
    #[must_use]
    pub fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// Whether TLS is spoken there.
    #[must_use]
    pub fn is_secure(&self) -> bool {
        matches!(self.scheme, Scheme::Https | Scheme::Unixs)
    }

    /// Whether this is a socket file.
    #[must_use]
    pub fn is_unix(&self) -> bool {
        matches!(self.scheme, Scheme::Unix | Scheme::Unixs)
    }

    /// `host:port`; for socket files the path.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The host without brackets; empty for socket files.
    #[must_use]
    pub fn host(&self) -> &str {
        if self.is_unix() { "" } else { split_host_port(&self.address).map_or("", |(host, _)| host) }
    }

    /// The port as text; empty for socket files.
    #[must_use]
    pub fn port(&self) -> &str {
        if self.is_unix() { "" } else { split_host_port(&self.address).map_or("", |(_, port)| port) }
    }

    /// The same URL at another host.
    #[must_use]
    pub(super) fn with_address(&self, host: &str, port: &str) -> Url {
        let scheme = if self.is_secure() { "https" } else { "http" };
        let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
        let address = format!("{host}:{port}");
        Url { text: format!("{scheme}://{address}"), scheme: self.scheme, address }
    }

    /// The text as given.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Host and port of `host:port` or `[v6]:port`; both may be empty.
fn split_host_port(authority: &str) -> Option<(&str, &str)> {
    match authority.strip_prefix('[') {
        Some(rest) => rest.split_once("]:"),
        None => authority.split_once(':'),
    }
}

/// The text without what stands for a user and a password in its URLs.
pub(super) fn masked(text: &str) -> String {
    let (mut masked, mut rest) = (String::new(), text);
    while let Some(at) = rest.find("://") {
        let (head, tail) = rest.split_at(at + 3);
        masked.push_str(head);
        let end = tail.find(['/', ',', '?', '#', ' ', '"']).unwrap_or(tail.len());
        rest = match tail[..end].rfind('@') {
            Some(at) => {
                masked.push_str("xxxxx");
                &tail[at..]
            }
            None => tail,
        };
    }
    masked + rest
}

/// Checks `--cors`: `*`, or URLs; unlike in etcd a port may be left out, as browsers leave it out of an origin.
pub(super) fn check_origins(text: &str) -> Result<(), String> {
    if text.is_empty() || text == "*" {
        return Ok(());
    }
    text.split(',').map(str::trim).try_for_each(|origin| {
        let is_web = origin.starts_with("http://") || origin.starts_with("https://");
        match Url::parse(origin) {
            Err(_) if is_web && Url::parse(&format!("{origin}:80")).is_ok() => Ok(()),
            parsed => parsed.map(drop),
        }
    })
}

/// The URLs as texts.
pub(super) fn texts(urls: &[Url]) -> Vec<String> {
    urls.iter().map(Url::to_string).collect()
}

/// The URLs as one comma list.
pub(super) fn joined(urls: &[Url]) -> String {
    texts(urls).join(",")
}

/// Refuses URLs that cannot be bound: a listener needs an address, and only `localhost` is a name that always has one.
pub(super) fn check_bindable(urls: &[Url]) -> Result<(), String> {
    for url in urls.iter().filter(|url| !url.is_unix()) {
        if url.host() != "localhost" && url.host().parse::<IpAddr>().is_err() {
            return Err(format!("expected IP in URL for binding ({url})"));
        }
    }
    Ok(())
}

/// Refuses URLs that other machines could not reach because they name no host.
pub(super) fn check_has_host(flag: &str, urls: &[Url]) -> Result<(), String> {
    match urls.iter().find(|url| !url.is_unix() && url.host().is_empty()) {
        Some(url) => Err(format!(
            "--{flag} {} must be \"host:port\" (unexpected empty host ({url}))",
            golang::quote(joined(urls).as_bytes())
        )),
        None => Ok(()),
    }
}

/// Reads `name=url,name=url,…`; a name may come more than once.
pub(super) fn parse_cluster(text: &str) -> Result<BTreeMap<String, Vec<Url>>, String> {
    let mut members: BTreeMap<String, BTreeSet<Url>> = BTreeMap::new();
    for pair in text.split(',').filter(|pair| !pair.is_empty()) {
        let (name, url) = pair.split_once('=').unwrap_or((pair, ""));
        members.entry(name.into()).or_default().insert(Url::parse(url)?);
    }
    Ok(members.into_iter().map(|(name, urls)| (name, urls.into_iter().collect())).collect())
}

/// A cluster as `name=url,…`, sorted, as etcd prints it in errors.
pub(super) fn cluster_text(members: &BTreeMap<String, Vec<Url>>) -> String {
    let mut pairs: Vec<String> =
        members.iter().flat_map(|(name, urls)| urls.iter().map(move |url| format!("{name}={url}"))).collect();
    pairs.sort();
    pairs.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_url_is_told_in_etcds_words() {
        for (text, want) in [
            ("foo", "URL scheme must be http, https, unix, or unixs: foo"),
            ("ftp://a:1", "URL scheme must be http, https, unix, or unixs: ftp://a:1"),
            ("http://a", "URL address does not have the form \"host:port\": http://a"),
            ("http://a:x", "parse \"http://a:x\": invalid port \":x\" after host"),
            ("http://me:secret@a", "URL address does not have the form \"host:port\": http://xxxxx@a"),
            ("http://me:secret@a:x", "parse \"http://xxxxx@a:x\": invalid port \":x\" after host"),
            ("ftp://me:secret@a:1", "URL scheme must be http, https, unix, or unixs: ftp://xxxxx@a:1"),
            ("http://a b:1", "parse \"http://a b:1\": invalid character \" \" in host name"),
            ("http://a:1/x", "URL must not contain a path: http://a:1/x"),
            ("http://a:1/", "URL must not contain a path: http://a:1/"),
        ] {
            assert_eq!(Url::parse(text).expect_err(text), want);
        }
    }

    #[test]
    fn what_etcd_takes_is_taken_and_a_password_is_dropped() {
        for (text, url, address) in [
            ("HTTP://127.0.0.1:1", "http://127.0.0.1:1", "127.0.0.1:1"),
            ("https://me:secret@127.0.0.1:1", "https://127.0.0.1:1", "127.0.0.1:1"),
            ("http://127.0.0.1:1?x=1", "http://127.0.0.1:1", "127.0.0.1:1"),
            ("http://127.0.0.1:99999", "http://127.0.0.1:99999", "127.0.0.1:99999"),
            ("unix:/run/etcd.sock", "unix:/run/etcd.sock", "/run/etcd.sock"),
            ("unix:///run/etcd.sock", "unix:///run/etcd.sock", "/run/etcd.sock"),
        ] {
            let read = Url::parse(text).expect(text);
            assert_eq!((read.as_str(), read.address()), (url, address), "{text}");
        }
        assert_eq!(masked("--a=http://u:p@h:1,https://q@i:2 b"), "--a=http://xxxxx@h:1,https://xxxxx@i:2 b");
        assert_eq!(masked("http://h:1/a@b"), "http://h:1/a@b");
    }

    #[test]
    fn origins_are_urls_or_a_star() {
        for good in ["*", "", "http://a.example:80", "https://a.example", "http://a:1,http://b:2"] {
            assert_eq!(check_origins(good), Ok(()), "{good}");
        }
        for bad in ["not a url", "a.example", "http://a:1,b", "http://a:1/path"] {
            check_origins(bad).expect_err(bad);
        }
    }

    #[test]
    fn lists_are_trimmed_sorted_and_without_repeats() {
        let urls = Url::parse_list("http://b:2, http://a:1,http://b:2").expect("good");
        assert_eq!(joined(&urls), "http://a:1,http://b:2");
        assert!(Url::parse_list("").expect("empty is a list").is_empty());
    }

    #[test]
    fn six_bracketed_hosts_and_socket_files_are_understood() {
        let v6 = Url::parse("https://[::1]:2379").expect("good");
        assert_eq!((v6.host(), v6.port(), v6.is_secure()), ("::1", "2379", true));
        let unix = Url::parse("unix://localhost:m1").expect("good");
        assert_eq!((unix.address(), unix.host()), ("localhost:m1", ""));
    }

    #[test]
    fn only_addresses_can_be_bound() {
        let urls = Url::parse_list("http://host:2379").expect("good");
        assert_eq!(check_bindable(&urls), Err("expected IP in URL for binding (http://host:2379)".into()));
        let urls = Url::parse_list("http://localhost:1,https://[::]:2,unix://x").expect("good");
        assert_eq!(check_bindable(&urls), Ok(()));
        let urls = Url::parse_list("http://:2379").expect("good");
        assert_eq!(
            check_has_host("advertise-client-urls", &urls),
            Err(
                "--advertise-client-urls \"http://:2379\" must be \"host:port\" (unexpected empty host (http://:2379))"
                    .into()
            )
        );
    }

    #[test]
    fn a_cluster_reads_and_prints_sorted() {
        let members = parse_cluster("b=http://b:1,a=http://a:2,a=http://a:1").expect("good");
        assert_eq!(cluster_text(&members), "a=http://a:1,a=http://a:2,b=http://b:1");
        assert!(parse_cluster("x").is_err());
        assert!(parse_cluster("").expect("empty").is_empty());
    }
}
