//! What is behind an error that says little: etcd's `context deadline exceeded` has a dozen causes, and this tells them apart by looking.
//!
//! One idea: do again, step by step and with eyes open, what the failed program did in one go. An endpoint is read, resolved, connected to,
//! greeted, asked (`wire`); then the cluster behind it is asked what it lacks (`cluster`). A member that does not come up is compared with
//! the members that it wants to be among (`start`), and this machine is asked who is in the way (`machine`). Nothing is changed.
//!
//! ```text
//! examine(patient, what was said) ─▶ wire, per endpoint ─▶ cluster ─▶ [Finding { cause, says, evidence }]
//! starting(words, folder)         ─▶ machine, start     ─▶    "
//! ```
//!
//! A finding names a [`Cause`]; what to look at next and what helps stand in one table, by cause. `etcdctl --explain`, `etcd-lab doctor` and the
//! lab all ask here.
#![expect(
    clippy::disallowed_methods,
    reason = "a doctor waits for answers in real time, and compares certificates with the clock"
)]

mod clock;
mod cluster;
mod elections;
pub mod machine;
mod refusals;
mod start;
mod unit;
mod wire;

pub use start::restored;
pub use start::starting;

use crate::client::Config;
use crate::client::TlsFiles;
use std::fmt;
use std::fmt::Write as _;

/// What the failed program had been told.
#[derive(Clone, Debug, Default)]
pub struct Patient {
    /// Endpoints, time limits, TLS and user, as its flags make them.
    pub config: Config,
    /// The certificate files that the flags name.
    pub files: TlsFiles,
}

/// One thing that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Which it is.
    pub cause: Cause,
    /// The cause in a sentence, with the names and numbers of this case.
    pub says: String,
    /// What was seen that shows it, in the words in which it was seen.
    pub evidence: String,
}

impl Finding {
    fn new(cause: Cause, says: impl Into<String>, evidence: impl Into<String>) -> Finding {
        Finding { cause, says: says.into(), evidence: evidence.into() }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "Why: {}", self.says)?;
        if !self.evidence.is_empty() {
            writeln!(f, "  seen: {}", self.evidence)?;
        }
        writeln!(f, "  look at: {}", self.cause.look_at())
    }
}

macro_rules! causes {
    ($($(#[$doc:meta])* $cause:ident: $look_at:literal, $fix:literal;)*) => {
        /// The causes that are told apart.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Cause {
            $($(#[$doc])* $cause,)*
        }

        impl Cause {
            /// Every cause.
            pub const ALL: &[Cause] = &[$(Cause::$cause,)*];

            /// Where to look next; not what to do.
            #[must_use]
            pub fn look_at(self) -> &'static str {
                match self {
                    $(Cause::$cause => $look_at,)*
                }
            }

            /// What helps.
            #[must_use]
            pub fn fix(self) -> &'static str {
                match self {
                    $(Cause::$cause => $fix,)*
                }
            }
        }
    };
}

causes! {
    /// An endpoint without a port, or with one that is no number.
    Unreadable: "--endpoints, letter by letter", "Write host:port, with etcd's port 2379.";
    /// DNS does not know the host.
    UnknownHost: "the host's name in --endpoints, /etc/hosts, DNS", "Correct the name, or use the address.";
    /// Nobody listens on that port.
    Refused: "whether the member runs there (systemctl status etcd), and its --listen-client-urls", "Start the member, or name the port that it listens on.";
    /// Packets to it are lost or turned away on the way.
    Unreachable: "the address, routes and firewalls between here and there", "Open the port, or use an address that is reached from here.";
    /// A process accepts connections and says nothing.
    Silent: "the process: its state (T is stopped), its load, its log", "Let it go on (kill -CONT), or start it again.";
    /// TLS is spoken to a port that speaks plain text.
    NotTls: "the scheme in --endpoints and in the member's --listen-client-urls", "Use http:// here, or give the member a certificate.";
    /// Plain text is spoken to a port that wants TLS.
    TlsWanted: "the scheme in --endpoints, and --cacert", "Use https:// and name the authority with --cacert.";
    /// Something else than etcd, or a peer port, answers.
    NotEtcd: "which port this is: clients use 2379, members among themselves 2380", "Use the client port.";
    /// The member's certificate is signed by an authority that this client does not trust.
    UnknownAuthority: "whose certificate --cacert holds, and who signed the member's", "Give --cacert the authority that signed the member's certificate.";
    /// The member's certificate does not name the host that was dialled.
    NameMissing: "the names (SAN) in the member's certificate", "Dial a name that it has, or have it issued again with this one.";
    /// The member's certificate is not meant for servers.
    WrongUsage: "the extended key usage of the member's certificate", "Have it issued again for server authentication (members need client authentication too).";
    /// The member's certificate is over, or has not begun.
    OutOfDate: "the dates of the member's certificate, and both machines' clocks", "Renew it, or set the clock right.";
    /// The member wants a certificate, and none was shown.
    ClientCertificateWanted: "whether the member has --client-cert-auth, and --cert and --key here", "Show one: --cert and --key.";
    /// The member does not take the certificate that was shown.
    ClientCertificateRefused: "the certificate in --cert: who signed it, until when, for what", "Use one that the member's --trusted-ca-file has signed for client authentication.";
    /// TLS fails for another reason.
    TlsBroken: "the member's log, and its --tls-min-version and --cipher-suites", "Let both ends agree on a version and a cipher suite.";
    /// The cluster has no leader: too few members are up.
    NoQuorum: "the members that do not answer", "Start members until a majority is up.";
    /// The members are up, and still there is no leader.
    NoLeader: "the members' logs, and the network among their peer ports", "Let the members reach each other's peer port.";
    /// The lab holds the members' clocks, or makes them slow.
    SlowClock: "the lab: whether its clock is held, or slower than the world's", "Let it go: Space or ] in the lab, or etcd-lab fault go.";
    /// There is a leader, and nothing is agreed upon.
    NoProgress: "the network among the members, and the leader's disk", "Heal the link, or let the leader go (move-leader).";
    /// Authentication is on, and nobody was named.
    UserWanted: "--user", "Name a user and a password: --user name:password.";
    /// Name or password are wrong.
    WrongPassword: "the name and the password in --user", "Correct them; root may set a new one: user passwd.";
    /// The user may not do this.
    NotPermitted: "what the user's roles allow: user get NAME --detail", "Have root grant a role that allows it.";
    /// The token is no longer taken.
    TokenRefused: "how long tokens live (--auth-token-ttl), and whether users were changed meanwhile", "Log in again.";
    /// The database is as large as it may be; nothing is written.
    NoSpace: "etcdctl endpoint status -w table: DB SIZE against the quota; etcdctl alarm list", "compaction, then defrag, then alarm disarm; or a larger --quota-backend-bytes.";
    /// A member's data differs from that of the others; nothing is written.
    Corrupt: "etcdctl endpoint hashkv --cluster: who differs", "Replace the member that differs, then alarm disarm.";
    /// The request is one that no member takes.
    WrongRequest: "the words of the command, one by one", "Correct them; --help shows which there are.";
    /// What is asked for was compacted away.
    Compacted: "who compacts: compaction by hand, --auto-compaction-retention of the members", "Read at a newer revision, or at none; a watch begins anew behind a fresh read.";
    /// What is asked for has not happened.
    FutureRevision: "where the revision comes from, and whether the cluster was restored since", "Read without a revision, and go on from the one in the answer.";
    /// A lease has ended.
    LeaseGone: "etcdctl lease list, the lease's TTL, and who keeps it alive", "Grant a new lease, keep it alive, and put the keys again.";
    /// What is named is not there.
    NotThere: "the name, letter by letter: user list, role list, get --keys-only", "Correct the name, or make what is missing first.";
    /// What is to be made is there.
    Exists: "what is there: member list, user list, role list, lease list", "Use what is there, or take another name.";
    /// No member has this id.
    NoSuchMember: "etcdctl member list -w table", "Take the id from the list.";
    /// Too few members are up for a change of members.
    TooFewStarted: "etcdctl endpoint health --cluster, and member list: who is unstarted", "Start what was added, or remove what is dead, and then make the change.";
    /// A learner is not as far as it would have to be, or a voter is no learner.
    Learning: "etcdctl endpoint status -w table: IS LEARNER, RAFT INDEX against the leader's", "Wait until the learner has caught up; ask the others meanwhile.";
    /// Another member is the leader.
    NotLeader: "etcdctl endpoint status --cluster -w table: IS LEADER", "Name the leader's endpoint.";
    /// The user or the role root is missing.
    RootWanted: "etcdctl user get root, etcdctl role list", "user add root, user grant-role root root; then auth enable.";
    /// Authentication is off.
    AuthOff: "etcdctl auth status", "Leave --user away, or auth enable.";
    /// Members of different releases.
    OtherRelease: "etcdctl endpoint status --cluster -w table: VERSION; etcdctl version", "Bring all members to one release, or do without.";
    /// A downgrade is in the way, or is not there.
    Downgrading: "etcdctl endpoint status --cluster -w table: DOWNGRADE ENABLED", "Let it end, or downgrade cancel.";
    /// The request is larger than the member takes.
    TooLarge: "the size of the value, or the number of operations", "Split it; or raise --max-request-bytes on the members.";
    /// More is asked than the member can carry out.
    Overloaded: "the load, and the disk of the leader", "Ask less at a time, or give the members a faster disk.";
    /// Elections are frequent, and syncing the log is slow.
    SlowDisk: "etcd_disk_wal_fsync_duration_seconds: 99 of 100 should take less than 10 ms", "Give the log a disk of its own, or raise --heartbeat-interval and --election-timeout.";
    /// Elections are frequent, and members take long to answer each other.
    SlowNetwork: "etcd_network_peer_round_trip_time_seconds against --heartbeat-interval", "Raise --heartbeat-interval to the round trip, and --election-timeout to ten times that.";
    /// Elections are frequent, and the machine's processor is taken away by others.
    StolenCpu: "steal time in top or vmstat", "Move the machine to a host that is less crowded.";
    /// Elections are frequent, and a member stands still.
    Stopped: "the process state in ps (T is stopped)", "Let it go on: kill -CONT.";
    /// Elections are frequent; none of the usual reasons is seen from here.
    Unsteady: "the members' logs around the elections", "Find the member that loses its leader first.";
    /// The port that a member wants is taken.
    PortTaken: "the process that holds it", "End that process, or give this member other ports.";
    /// `--name` is not in `--initial-cluster`.
    NameNotInCluster: "--name (ETCD_NAME) and the names in --initial-cluster", "Make them agree, letter by letter.";
    /// This member's peer URL is not what the cluster has for it.
    PeerUrlDiffers: "--initial-advertise-peer-urls against --initial-cluster and member list: scheme, host, port", "Make them agree, letter by letter.";
    /// A new cluster is asked for where one exists that waits for this member.
    StateNew: "--initial-cluster-state", "Set it to existing, with an empty data directory.";
    /// `--initial-cluster` names another number of members than the cluster has.
    CountDiffers: "--initial-cluster against member list", "Take the line that member add printed.";
    /// The members founded another cluster than this one is about to found.
    OtherCluster: "--initial-cluster-token and --initial-cluster, on all members", "Make them equal everywhere.";
    /// The data directory belongs to a member that was removed.
    RemovedMember: "the member's id against member list", "Remove the data directory, member add again, and start with the state existing.";
    /// The data directory belongs to another cluster.
    ForeignDirectory: "--data-dir", "Name the right directory, or start with an empty one.";
    /// No member of the existing cluster answers.
    NobodyToJoin: "the peer URLs in --initial-cluster", "Start the members that exist, or correct the URLs.";
    /// The member waits until a majority is up.
    WaitingForQuorum: "the other machines", "Start the next member: then both become ready.";
    /// A restore wrote somewhere else than the member reads.
    RestoredElsewhere: "--data-dir of the restore and of the member", "Restore to the member's --data-dir while it is stopped, or start it with the restored one.";
    /// Nothing is wrong now.
    AllWell: "whether the error comes again", "Nothing to do.";
}

/// Whether these words say their own reason, whatever etcdctl came to with them.
#[must_use]
pub fn knows(said: &str) -> bool {
    refusals::of(said).is_some()
}

/// Looks for what kept a client from its answer. `said` is the error that it printed. The first finding is the cause; the others go with it.
pub async fn examine(patient: &Patient, said: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut good = Vec::new();
    let probes = patient.config.endpoints.iter().map(|endpoint| wire::probe(endpoint, patient));
    for (endpoint, probed) in patient.config.endpoints.iter().zip(futures::future::join_all(probes).await) {
        match probed {
            Ok(()) => good.push(endpoint.clone()),
            Err(finding) => findings.push(finding),
        }
    }
    if good.is_empty() {
        return findings;
    }
    let mut behind = cluster::examine(patient, &good, said).await;
    // A dead endpoint beside a live one delays nothing: it is told last.
    behind.append(&mut findings);
    if behind.is_empty() {
        let says = format!("nothing is wrong now: {} answers, and the cluster agrees on reads", good.join(", "));
        behind.push(Finding::new(Cause::AllWell, says, ""));
    }
    behind
}

/// Findings as they are shown to a person; with what helps, if `fix`.
#[must_use]
pub fn report(findings: &[Finding], fix: bool) -> String {
    let mut text = String::new();
    for finding in findings {
        let _ = write!(text, "{finding}");
        if fix {
            let _ = writeln!(text, "  helps: {}", finding.cause.fix());
        }
    }
    text
}
