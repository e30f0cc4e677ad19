//! Bad configurations: each is a row of flags that come behind a member's own, what they are, and what comes of them.
//!
//! Of a flag that is given twice the last one counts. Some of the first start's flags matter only where there is no data yet: these rows name an empty
//! folder. Where a row is about certificates there are no flags: they are made with the others (`certs`).

use crate::lab::certs;
use crate::lab::workdir::MemberRecord;
use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;

/// The data folder of a member that is not to use its own, beside it.
const OTHER_DATA: &str = "data.other";

/// A configuration that does not do.
#[derive(Clone, Copy)]
pub struct Misfit(&'static Row);

#[derive(Debug)]
struct Row {
    word: &'static str,
    /// Words, with the member's own values in braces: see [`fill`].
    flags: &'static str,
    what: &'static str,
    comes: &'static str,
    says: &'static str,
}

const fn row(
    word: &'static str,
    flags: &'static str,
    what: &'static str,
    comes: &'static str,
    says: &'static str,
) -> Row {
    Row { word, flags, what, comes, says }
}

static MISFITS: [Row; 38] = [
    row(
        "unknown-flag",
        "--snapshot-cuont 5000",
        "a flag that etcd does not know",
        "etcd ends at once, with exit code 2 and a line that names the flag",
        "flag provided but not defined: -snapshot-cuont",
    ),
    row(
        "trailing-word",
        "start",
        "a word behind the flags",
        "etcd ends at once: it takes flags only",
        "is not a valid flag",
    ),
    row(
        "number-as-word",
        "--snapshot-count many",
        "a word where a number belongs",
        "etcd ends at once, with exit code 2 and a line that names flag and value",
        "for flag -snapshot-count: parse error",
    ),
    row(
        "loud-log",
        "--log-level loud",
        "a log level that there is not",
        "etcd ends at once, and names the levels that there are",
        "for flag -log-level: invalid value",
    ),
    row(
        "missing-file",
        "--config-file /nowhere/etcd.yml",
        "a configuration file that is not there",
        "etcd ends at once; with the file it would pass over all other flags",
        "open /nowhere/etcd.yml: no such file or directory",
    ),
    row(
        "no-scheme",
        "--listen-client-urls {client-host}",
        "a URL without http://",
        "etcd ends at once: it wants the scheme of every URL",
        "for flag -listen-client-urls: parse",
    ),
    row(
        "no-port",
        "--listen-client-urls http://127.0.0.1",
        "a URL without its port",
        "etcd ends at once: a URL to listen on has no usual port",
        "for flag -listen-client-urls: URL address does not have the form",
    ),
    row(
        "path-in-url",
        "--listen-peer-urls {peer}/etcd",
        "a URL with a path",
        "etcd ends at once: members have an address, and no place behind it",
        "for flag -listen-peer-urls: URL must not contain a path",
    ),
    row(
        "name-for-address",
        "--listen-client-urls http://etcd.invalid:{port}",
        "a host name to listen on",
        "etcd ends at once: it binds addresses of this machine, and looks up no name for it",
        "expected IP in URL for binding",
    ),
    row(
        "foreign-address",
        "--listen-client-urls http://192.0.2.1:{port}",
        "another machine's address to listen on",
        "the system refuses to bind it, and etcd ends",
        "cannot assign requested address",
    ),
    row(
        "taken-port",
        "--listen-client-urls {peer}",
        "a client port that is taken (its own peer port)",
        "the second listener cannot bind, and etcd ends",
        "address already in use",
    ),
    row(
        "elsewhere",
        "--listen-client-urls http://127.0.0.2:{port}",
        "another address for clients than the one it advertises",
        "it runs and agrees with the others, and whoever dials the advertised address is refused",
        "http://127.0.0.2:{port}",
    ),
    row(
        "https-without-cert",
        "--listen-client-urls https://{client-host}",
        "https for clients, and no certificate",
        "etcd ends at once: it has nothing to show them",
        "must be provided for client url",
    ),
    row(
        "missing-cert",
        "--listen-client-urls https://{client-host} --cert-file /nowhere/server.pem --key-file /nowhere/server-key.pem",
        "a certificate that is not there",
        "etcd ends at once, and names the file",
        "open /nowhere/server.pem: no such file or directory",
    ),
    row(
        "unknown-cipher",
        "--cipher-suites TLS_NOPE",
        "a cipher suite that there is not",
        "etcd ends at once, and names it",
        "unexpected TLS cipher suite",
    ),
    row(
        "old-tls",
        "--tls-min-version TLS1.9",
        "a version of TLS that there is not",
        "etcd ends at once, and names those that there are",
        "unexpected TLS version",
    ),
    row(
        "jwt-without-keys",
        "--auth-token jwt",
        "signed tokens, and no key to sign with",
        "etcd ends at once",
        "auth: invalid auth signature method",
    ),
    row(
        "short-election",
        "--election-timeout 300",
        "an election time-out of three heartbeats",
        "etcd ends at once: one lost heartbeat must not cost a leader, so it wants five at least",
        "should be at least as 5 times as",
    ),
    row(
        "long-election",
        "--election-timeout 60000",
        "an election time-out of a minute",
        "etcd ends at once: it allows less than 50 s",
        "is too long",
    ),
    row("no-heartbeat", "--heartbeat-interval 0", "a heartbeat interval of nothing", "etcd ends at once", "must be >0"),
    row(
        "patient",
        "--election-timeout 10000",
        "ten times the others' patience",
        "it runs, and is never the first to ask for votes; where it is needed for a majority nothing changes",
        "\"election-timeout\":\"10s\"",
    ),
    row(
        "slow-heart",
        "--heartbeat-interval 3000 --election-timeout 15000",
        "heartbeats that are rarer than the others' patience",
        "it runs; whenever it leads, the others miss its heartbeats and elect another leader",
        "\"heartbeat-interval\":\"3s\"",
    ),
    row(
        "weekly-compaction",
        "--auto-compaction-mode weekly",
        "a way to compact that there is not",
        "etcd ends at once: it compacts by time or by revisions",
        "unknown auto-compaction-mode",
    ),
    row(
        "odd-retention",
        "--auto-compaction-retention often",
        "a retention that is no time and no number",
        "etcd ends at once",
        "CompactionRetention",
    ),
    row(
        "quota-as-word",
        "--quota-backend-bytes lots",
        "a quota that is no number",
        "etcd ends at once, with exit code 2 and a line that names flag and value",
        "for flag -quota-backend-bytes: parse error",
    ),
    row(
        "two-bootstraps",
        "--discovery-srv etcd.invalid",
        "two ways to find the other members",
        "etcd ends at once: a list, or discovery, but not both",
        "multiple discovery or bootstrap flags are set",
    ),
    row(
        "wrong-state",
        "--initial-cluster-state old",
        "a state that a cluster cannot have",
        "etcd ends at once: a cluster is new or existing",
        "for flag -initial-cluster-state: invalid value",
    ),
    row(
        "garbled-cluster",
        "--initial-cluster n1,n2,n3 --data-dir {other}",
        "a list of members without their URLs, and no data",
        "etcd ends at once: each member stands there as name=URL",
        "error setting up initial cluster",
    ),
    row(
        "wrong-name",
        "--name stranger --data-dir {other}",
        "a name that is not in the list of members, and no data",
        "etcd ends: it looks for itself in --initial-cluster, and does not find itself",
        "couldn't find local name",
    ),
    row(
        "no-name",
        "--name= --data-dir {other}",
        "no name (TCD_NAME for ETCD_NAME does it), and no data",
        "etcd ends: it looks for a member without a name in --initial-cluster",
        "couldn't find local name",
    ),
    row(
        "other-peer-url",
        "--initial-advertise-peer-urls http://127.0.0.1:1 --data-dir {other}",
        "another peer URL than the list of members has for it, and no data",
        "etcd ends: what it tells the others of itself must be what they were told",
        "missing from --initial-advertise-peer-urls",
    ),
    row(
        "new-after-loss",
        "--data-dir {other}",
        "its data lost, and --initial-cluster-state new",
        "the others know it already, and etcd ends: a member without its data must be removed, added anew, and started as existing",
        "has already been bootstrapped",
    ),
    row(
        "other-token",
        "--initial-cluster-token another-cluster --data-dir {other}",
        "another cluster's token, and no data",
        "a cluster's ID is made of its token and its members, so it takes itself for a member of another cluster, alone without a quorum; the others ignore what it sends (cluster ID mismatch)",
        "cluster ID mismatch",
    ),
    row(
        "expired-cert",
        "",
        "a certificate that has expired",
        "the others break every handshake with it off, so it hears from nobody",
        "",
    ),
    row(
        "wrong-name-cert",
        "",
        "a certificate for another address",
        "who dials it finds another name in it than the address that was dialled",
        "",
    ),
    row(
        "wrong-ca-cert",
        "",
        "a certificate of an authority that nobody trusts",
        "the others break every handshake with it off, so it hears from nobody",
        "",
    ),
    row(
        "wrong-use-cert",
        "",
        "a certificate that is good for clients only (EKU)",
        "members dial each other, so a peer's certificate needs both uses; who dials it refuses it",
        "",
    ),
    row(
        "wrong-key-cert",
        "",
        "a key that is not its certificate's",
        "etcd ends at once: it cannot prove that the certificate is its own",
        "",
    ),
];

impl PartialEq for Misfit {
    fn eq(&self, other: &Misfit) -> bool {
        self.word() == other.word()
    }
}

impl Eq for Misfit {}

impl fmt::Debug for Misfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

impl Misfit {
    /// Every misfit.
    pub fn all() -> impl Iterator<Item = Misfit> {
        MISFITS.iter().map(Misfit)
    }

    /// The misfit of this word.
    #[must_use]
    pub fn named(word: &str) -> Option<Misfit> {
        Misfit::all().find(|misfit| misfit.word() == word)
    }

    /// Its word.
    #[must_use]
    pub fn word(self) -> &'static str {
        self.0.word
    }

    /// What it is.
    #[must_use]
    pub fn what(self) -> &'static str {
        self.0.what
    }

    /// What comes of it.
    #[must_use]
    pub fn comes(self) -> &'static str {
        self.0.comes
    }

    /// What stands in a member's log by then, its own or another's; empty for certificates.
    #[must_use]
    pub fn says(self, m: &MemberRecord) -> String {
        fill(self.0.says, m)
    }

    /// Whether it is about certificates: then the members must speak TLS.
    #[must_use]
    pub fn is_of_tls(self) -> bool {
        self.0.flags.is_empty()
    }

    /// Whether nothing comes of it in a cluster of one: nobody is there to refuse it.
    #[must_use]
    pub fn needs_others(self) -> bool {
        matches!(self.word(), "other-token" | "new-after-loss" | "patient" | "slow-heart")
    }

    /// What comes behind a member's own flags.
    #[must_use]
    pub fn flags(self, m: &MemberRecord) -> Vec<OsString> {
        match self.word() {
            "wrong-key-cert" => certs::mixed(m),
            word if self.is_of_tls() => certs::flags(&certs::spoilt(m, word)),
            _ => self.0.flags.split(' ').map(|word| fill(word, m).into()).collect(),
        }
    }
}

/// Puts a member's own values in the place of what stands in braces.
fn fill(text: &str, m: &MemberRecord) -> String {
    let host = |url: &str| url.rsplit('/').next().unwrap_or_default().to_owned();
    let values = [
        ("{client-host}", host(&m.client_url)),
        ("{port}", m.client_url.rsplit(':').next().unwrap_or_default().to_owned()),
        ("{peer}", m.peer_url.clone()),
        ("{other}", other_data(m).display().to_string()),
    ];
    values.iter().fold(text.to_owned(), |text, (name, value)| text.replace(name, value))
}

/// The folder that a member has who is not to use its own data.
#[must_use]
pub fn other_data(m: &MemberRecord) -> PathBuf {
    m.data_dir.with_file_name(OTHER_DATA)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::workdir::Record;

    #[test]
    fn every_word_is_one_misfit_with_its_flags_filled_in() {
        let record = Record::sample(3);
        let m = &record.members[1];
        for misfit in Misfit::all() {
            assert_eq!(Misfit::named(misfit.word()), Some(misfit));
            let flags = misfit.flags(m);
            assert!(
                !flags.is_empty() && flags.iter().all(|f| !f.to_string_lossy().contains('{')),
                "{misfit:?} {flags:?}"
            );
        }
        assert_eq!(Misfit::named("nonsense"), None);
        let port = m.client_url.rsplit(':').next().expect("a port");
        let elsewhere = Misfit::named("elsewhere").expect("a row");
        assert_eq!(elsewhere.flags(m)[1], OsString::from(format!("http://127.0.0.2:{port}")));
        assert!(Misfit::all().count() >= 30);
    }
}
