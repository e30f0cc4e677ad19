//! The URLs that flags and requests name, checked and written in the form that etcd hashes.
//!
//! Only what etcd accepts: `http` and `https` with host and port and no path, `unix` and `unixs` with anything. The
//! texts are etcd's and Go's, since they appear in logs and answers. Left out: percent-decoding, which no peer URL
//! has.
//!
//! Source: etcd `client/pkg/types/{urls,urlsmap}.go`, `server/config/config.go`; Go `net/url`, `net.SplitHostPort`.

use std::collections::BTreeMap;
use std::collections::BTreeSet;

/// The first members by name, each with its peer URLs.
pub type Founders = BTreeMap<String, Vec<String>>;

/// Checks a list of URLs; returns them trimmed, their schemes in lower case, sorted.
///
/// # Errors
/// etcd's sentence on the first bad one, or that there are none.
pub fn check_urls<S: AsRef<str>>(urls: &[S]) -> Result<Vec<String>, String> {
    if urls.is_empty() {
        return Err("no valid URLs given".to_owned());
    }
    let mut checked = urls.iter().map(|url| check_url(url.as_ref().trim())).collect::<Result<Vec<_>, _>>()?;
    checked.sort();
    Ok(checked)
}

/// Checks a flag's URLs, separated by commas; otherwise as [`check_urls`].
///
/// # Errors
/// As [`check_urls`].
pub fn parse_urls(text: &str) -> Result<Vec<String>, String> {
    check_urls(&text.split(',').collect::<Vec<_>>())
}

fn check_url(url: &str) -> Result<String, String> {
    let (scheme, rest) = split_scheme(url)?;
    match scheme.as_str() {
        "http" | "https" => {
            let host = rest.strip_prefix("//").unwrap_or_default();
            let (host, tail) = host.split_at(host.find(['/', '?', '#']).unwrap_or(host.len()));
            let host_port = host.rsplit_once('@').map_or(host, |(_, host)| host);
            check_port(url, host_port)?;
            if !has_host_and_port(host_port) {
                return Err(format!("URL address does not have the form \"host:port\": {url}"));
            }
            if tail.starts_with('/') {
                return Err(format!("URL must not contain a path: {url}"));
            }
        }
        "unix" | "unixs" => {}
        _ => return Err(format!("URL scheme must be http, https, unix, or unixs: {url}")),
    }
    Ok(format!("{scheme}:{rest}"))
}

/// The scheme in lower case and what follows its colon. The errors are those of Go's parser.
fn split_scheme(url: &str) -> Result<(String, &str), String> {
    if url.chars().any(|c| c.is_ascii_control()) {
        return Err(format!("parse {url:?}: net/url: invalid control character in URL"));
    }
    let in_scheme = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.');
    let end = url.find(|c| !in_scheme(c)).unwrap_or(url.len());
    let (scheme, rest) = url.split_at(end);
    match rest.strip_prefix(':') {
        Some(_) if scheme.is_empty() => Err(format!("parse {url:?}: missing protocol scheme")),
        Some(rest) if scheme.starts_with(|c: char| c.is_ascii_alphabetic()) => Ok((scheme.to_ascii_lowercase(), rest)),
        Some(_) => Err(format!("parse {url:?}: first path segment in URL cannot contain colon")),
        None => Ok((String::new(), url)),
    }
}

/// What Go's URL parser itself says about the port: digits, or nothing at all.
fn check_port(url: &str, host: &str) -> Result<(), String> {
    let after = host.rfind(']').map_or(host, |bracket| &host[bracket + 1..]);
    let Some(colon) = after.rfind(':') else { return Ok(()) };
    let port = &after[colon..];
    if port[1..].chars().all(|c| c.is_ascii_digit()) {
        Ok(())
    } else {
        Err(format!("parse {url:?}: invalid port {port:?} after host"))
    }
}

/// Whether Go's `SplitHostPort` would split this. Host and port may both be empty.
fn has_host_and_port(text: &str) -> bool {
    match text.strip_prefix('[') {
        Some(rest) => rest.split_once(']').is_some_and(|(host, port)| {
            !host.contains('[') && port.strip_prefix(':').is_some_and(|port| !port.contains([':', '[', ']']))
        }),
        None => text.split_once(':').is_some_and(|(_, port)| !port.contains(':')) && !text.contains(['[', ']']),
    }
}

/// Reads `--initial-cluster`: `name=url,name=url2,name2=url`. A name that comes twice has both URLs.
///
/// # Errors
/// As [`check_urls`].
pub fn parse_initial_cluster(text: &str) -> Result<Founders, String> {
    let mut named: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for pair in text.split(',').filter(|pair| !pair.is_empty()) {
        let (name, url) = pair.split_once('=').unwrap_or((pair, ""));
        named.entry(name.to_owned()).or_default().push(url);
    }
    named.into_iter().map(|(name, urls)| Ok((name, check_urls(&urls)?))).collect()
}

/// The founders as `--initial-cluster` would name them, sorted.
#[must_use]
pub fn initial_cluster_text(founders: &Founders) -> String {
    let urls = founders.iter().flat_map(|(name, urls)| urls.iter().map(move |url| format!("{name}={url}")));
    let mut pairs: Vec<String> = urls.collect();
    pairs.sort();
    pairs.join(",")
}

/// Checks `--name` and `--initial-advertise-peer-urls` against `--initial-cluster`, before a first start.
/// `advertised` is `None` for a member that joins a running cluster: its URLs were told to that cluster before.
///
/// URLs are compared as text. etcd also accepts names that resolve to the same addresses; a caller that wants that
/// resolves both before.
///
/// # Errors
/// etcd's sentence on the first thing that does not fit.
pub fn check_initial_cluster(name: &str, advertised: Option<&[String]>, founders: &Founders) -> Result<(), String> {
    let Some(urls) = founders.get(name) else {
        return Err(format!("couldn't find local name {name:?} in the initial cluster configuration"));
    };
    if let Some(advertised) = advertised {
        check_advertised(name, advertised, urls)?;
    }
    let mut seen = BTreeSet::new();
    if founders.values().flatten().any(|url| !seen.insert(url)) {
        return Err(format!("initial cluster {} has duplicate url", initial_cluster_text(founders)));
    }
    Ok(())
}

fn check_advertised(name: &str, advertised: &[String], urls: &[String]) -> Result<(), String> {
    let (mut ours, mut theirs) = (advertised.to_vec(), urls.to_vec());
    ours.sort();
    theirs.sort();
    let missing = |some: &[String], others: &[String]| -> Vec<String> {
        some.iter().filter(|url| !others.contains(url)).cloned().collect()
    };
    let unadvertised = missing(&theirs, &ours);
    if !unadvertised.is_empty() {
        return Err(format!(
            "--initial-cluster has {name}={} but missing from --initial-advertise-peer-urls={} ({})",
            unadvertised.join(&format!(",{name}=")),
            ours.join(","),
            first_difference(&ours, &theirs)
        ));
    }
    let unlisted = missing(&ours, &theirs);
    if !unlisted.is_empty() {
        let own = Founders::from([(name.to_owned(), ours)]);
        return Err(format!(
            "--initial-advertise-peer-urls has {} but missing from --initial-cluster={}",
            unlisted.join(","),
            initial_cluster_text(&own)
        ));
    }
    Ok(())
}

/// How etcd's comparison of two sorted lists ends when they differ.
#[must_use]
pub fn first_difference(a: &[String], b: &[String]) -> String {
    let same_length = a.len() == b.len();
    let quoted = |list: &[String]| list.iter().map(|url| format!("{url:?}")).collect::<Vec<_>>().join(" ");
    match a.iter().zip(b).find(|(a, b)| a != b) {
        Some((a, b)) if same_length => format!("resolved urls: {a:?} != {b:?}"),
        _ => format!("len([{}]) != len([{}])", quoted(a), quoted(b)),
    }
}
