//! The commands and the flags: the table from which dispatch, prefixes, suggestions and help are made.
//!
//! Words are found as cobra finds them: a command by its name or by a prefix that only it has, flags anywhere.

use super::args::Args;
use super::args::Flag;
use super::args::HELP;
use super::args::Kind;
use super::auth;
use super::check;
use super::completion;
use super::endpoint;
use super::exit::Outcome;
use super::kv;
use super::lease;
use super::lock;
use super::maintenance;
use super::member;
use super::mirror;
use super::session::Session;
use super::snapshot;
use super::txn;
use super::watch;
use crate::golang;
use crate::utl;
use futures::future::LocalBoxFuture;

/// A row of the table.
pub(super) struct Command {
    pub(super) name: &'static str,
    /// What follows the name on the usage line.
    pub(super) usage: &'static str,
    pub(super) short: &'static str,
    pub(super) long: &'static str,
    pub(super) flags: &'static [Flag],
    pub(super) action: Action,
}

/// What a command does.
#[derive(Clone, Copy)]
pub(super) enum Action {
    Run(for<'a, 'b> fn(&'a mut Session<'b>) -> LocalBoxFuture<'a, Outcome>),
    Group(&'static [Command]),
    Help,
}

const fn switch(name: &'static str, help: &'static str) -> Flag {
    Flag { name, short: ' ', kind: Kind::Switch, default: "false", help }
}

const fn text(name: &'static str, default: &'static str, help: &'static str) -> Flag {
    Flag { name, short: ' ', kind: Kind::Text, default, help }
}

const fn number(name: &'static str, help: &'static str) -> Flag {
    Flag { name, short: ' ', kind: Kind::Number, default: "0", help }
}

const fn time(name: &'static str, default: &'static str, help: &'static str) -> Flag {
    Flag { name, short: ' ', kind: Kind::Time, default, help }
}

const fn with_short(short: char, flag: Flag) -> Flag {
    Flag { short, ..flag }
}

/// Flags that every command takes, in the order of their names.
#[rustfmt::skip]
pub(super) static GLOBAL_FLAGS: &[Flag] = &[
    text("auth-jwt-token", "", "a token that was made elsewhere, instead of --user and --password"),
    text("cacert", "", "trust members whose certificates these authorities signed (PEM file)"),
    text("cert", "", "show members this certificate (PEM file)"),
    time("command-timeout", "5s", "how long a short command may take, connecting not counted"),
    switch("debug", "print what the flags and the environment come to"),
    time("dial-timeout", "2s", "how long one attempt to connect may take"),
    with_short('d', text("discovery-srv", "", "domain whose SRV records name the endpoints")),
    text("discovery-srv-name", "", "suffix of the service's name in SRV records"),
    Flag { name: "endpoints", short: ' ', kind: Kind::List, default: "[127.0.0.1:2379]", help: "members to talk to, separated by commas" },
    switch("explain", "after an error, look for its cause step by step, and tell it"),
    switch("hex", "print bytes as hexadecimal numbers"),
    Flag { name: "insecure-discovery", short: ' ', kind: Kind::Switch, default: "true", help: "use SRV records for plain endpoints too" },
    switch("insecure-skip-tls-verify", "accept any certificate (for tests only)"),
    Flag { name: "insecure-transport", short: ' ', kind: Kind::Switch, default: "true", help: "talk without TLS unless a certificate flag is given" },
    time("keepalive-time", "2s", "ping a connection that was silent this long"),
    time("keepalive-timeout", "6s", "give up a connection whose ping was not answered this long"),
    text("key", "", "the key of --cert (PEM file)"),
    number("max-recv-bytes", "largest answer to take, in bytes (0: 2147483647)"),
    number("max-request-bytes", "largest request to send, in bytes (0: 2097152)"),
    text("password", "", "the user's password; then --user is only the name"),
    text("user", "", "name[:password]; asks for the password if it is missing"),
    with_short('w', text("write-out", "simple", "output format: fields, json, protobuf, simple or table")),
];

/// Flags of put, get, del and watch; `txn` and `watch -i` use them too.
#[rustfmt::skip]
pub(super) static PUT_FLAGS: &[Flag] = &[
    switch("ignore-lease", "keep the key's lease"),
    switch("ignore-value", "keep the key's value"),
    text("lease", "0", "attach this lease to the key (hexadecimal)"),
    switch("prev-kv", "print the key and value that were there before"),
];

#[rustfmt::skip]
pub(super) static GET_FLAGS: &[Flag] = &[
    text("consistency", "l", "linearizable (l): the newest; serializable (s): what this member has"),
    switch("count-only", "only count"),
    switch("from-key", "all keys from this one on, by bytes"),
    switch("keys-only", "only keys"),
    number("limit", "at most so many"),
    number("max-create-rev", "only keys created at or before this revision"),
    number("max-mod-rev", "only keys last changed at or before this revision"),
    number("min-create-rev", "only keys created at or after this revision"),
    number("min-mod-rev", "only keys last changed at or after this revision"),
    text("order", "", "ASCEND or DESCEND"),
    switch("prefix", "all keys that start with this"),
    switch("print-value-only", "only values (simple format)"),
    number("rev", "as of this revision"),
    text("sort-by", "", "CREATE, KEY, MODIFY, VALUE or VERSION"),
    switch("stream", "take the answer in pieces, as the member reads it"),
];

#[rustfmt::skip]
pub(super) static DEL_FLAGS: &[Flag] = &[
    switch("from-key", "all keys from this one on, by bytes"),
    switch("prefix", "all keys that start with this"),
    switch("prev-kv", "print the keys and values that were there before"),
    switch("range", "mean it: do not wait before a range is deleted"),
];

#[rustfmt::skip]
pub(super) static WATCH_FLAGS: &[Flag] = &[
    with_short('i', switch("interactive", "read watch and progress requests from the standard input")),
    switch("prefix", "all keys that start with this"),
    switch("prev-kv", "print what was there before, too"),
    switch("progress-notify", "print how far the watch has seen everything, when the member says so"),
    number("rev", "from this revision on"),
];

#[rustfmt::skip]
static TXN_FLAGS: &[Flag] = &[with_short('i', switch("interactive", "say what is to be typed next"))];
static COMPACTION_FLAGS: &[Flag] = &[switch("physical", "wait until the old revisions are off the disk")];
static TTL_FLAGS: &[Flag] = &[switch("keys", "list the keys that hang on the lease")];
static KEEP_ALIVE_FLAGS: &[Flag] = &[switch("once", "renew once, and leave")];
static CLUSTER_FLAGS: &[Flag] = &[switch("cluster", "ask every member of the cluster")];
#[rustfmt::skip]
static HASHKV_FLAGS: &[Flag] = &[
    switch("cluster", "ask every member of the cluster"),
    number("rev", "hash up to this revision (0: the newest)"),
];
#[rustfmt::skip]
static MEMBER_ADD_FLAGS: &[Flag] = &[
    switch("learner", "as a learner, which does not vote"),
    text("peer-urls", "", "where the other members reach it, separated by commas"),
];
static MEMBER_UPDATE_FLAGS: &[Flag] = &[text("peer-urls", "", "where the other members reach it, separated by commas")];
static MEMBER_LIST_FLAGS: &[Flag] =
    &[text("consistency", "l", "linearizable (l): what is agreed; serializable (s): what this member knows")];

#[rustfmt::skip]
static CHECK_FLAGS: &[Flag] = &[
    switch("auto-compact", "compact afterwards"),
    switch("auto-defrag", "defragment the endpoints afterwards"),
    text("load", "s", "how much to write: s (small), m (medium), l (large) or xl (xLarge)"),
    text("prefix", "", "where to write; no key may be there (default: /etcdctl-check-datascale/)"),
];
#[rustfmt::skip]
static CHECK_PERF_FLAGS: &[Flag] = &[
    switch("auto-compact", "compact afterwards"),
    switch("auto-defrag", "defragment the endpoints afterwards"),
    Flag { default: "60", ..number("duration", "how long to write, in seconds") },
    text("load", "s", "how much to write: s (small), m (medium), l (large) or xl (xLarge)"),
    text("prefix", "", "where to write; no key may be there (default: /etcdctl-check-perf/)"),
];
#[rustfmt::skip]
static DEFRAG_FLAGS: &[Flag] = &[
    switch("cluster", "every member of the cluster"),
    text("data-dir", "", "a data directory that no member uses (now: etcdutl defrag)"),
];
static ELECT_FLAGS: &[Flag] = &[with_short('l', switch("listen", "only print who leads"))];
static LOCK_FLAGS: &[Flag] =
    &[Flag { default: "10", ..number("ttl", "seconds after which the lock is free when its holder is gone") }];
#[rustfmt::skip]
static MIRROR_FLAGS: &[Flag] = &[
    text("dest-cacert", "", "trust the destination's members if these authorities signed their certificates (PEM file)"),
    text("dest-cert", "", "show the destination this certificate (PEM file)"),
    Flag { name: "dest-insecure-transport", short: ' ', kind: Kind::Switch, default: "true", help: "talk to the destination without TLS unless a certificate flag is given" },
    text("dest-key", "", "the key of --dest-cert (PEM file)"),
    text("dest-password", "", "the destination's password; then --dest-user is only the name"),
    text("dest-prefix", "", "what --prefix becomes there (default: the same)"),
    text("dest-user", "", "name[:password] at the destination; asks for the password if it is missing"),
    Flag { default: "128", ..number("max-txn-ops", "operations in one transaction there") },
    switch("no-dest-prefix", "what follows --prefix is the whole key there"),
    text("prefix", "", "mirror keys that start with this"),
    number("rev", "changes from this revision on, and nothing of what is there"),
];
#[rustfmt::skip]
static USER_ADD_FLAGS: &[Flag] = &[
    Flag { name: "interactive", short: ' ', kind: Kind::Switch, default: "true", help: "ask for the password; false: it is the first word of the standard input" },
    text("new-user-password", "", "the password"),
    switch("no-password", "a user who is known by a certificate's name only"),
];
static USER_GET_FLAGS: &[Flag] = &[switch("detail", "show what the user's roles may do")];
static USER_PASSWD_FLAGS: &[Flag] = &[Flag {
    name: "interactive",
    short: ' ',
    kind: Kind::Switch,
    default: "true",
    help: "ask for the password; false: it is the first word of the standard input",
}];
#[rustfmt::skip]
static PERMISSION_FLAGS: &[Flag] = &[
    switch("from-key", "all keys from this one on, by bytes"),
    switch("prefix", "all keys that start with this"),
];

macro_rules! command {
    ($name:literal, $usage:literal, $short:literal, $flags:expr, $run:path) => {
        Command {
            name: $name,
            usage: $usage,
            short: $short,
            long: "",
            flags: $flags,
            action: Action::Run(|session| Box::pin($run(session))),
        }
    };
}

const fn group(name: &'static str, short: &'static str, commands: &'static [Command]) -> Command {
    Command { name, usage: "<subcommand>", short, long: "", flags: &[], action: Action::Group(commands) }
}

const PUT_HELP: &str = "\
A value that starts with '-' is taken for a flag; '--' ends the flags:
  put <key> -- <value>
Without <value> and --ignore-value, the value is what the standard input holds, to its end:
  put <key> < file";

const COMPLETION_HELP: &str = "\
For the shell that runs:
  bash        source <(etcdctl completion bash)
  zsh         source <(etcdctl completion zsh)
  fish        etcdctl completion fish | source
  powershell  etcdctl completion powershell | Out-String | Invoke-Expression
For every one that comes, put what it prints where your shell looks for such scripts.";

const TXN_HELP: &str = "\
Three lists on the standard input, each ended by an empty line: what is compared, what is done if all of it holds,
and what is done otherwise.
  mod(\"key1\") > \"0\"

  put key1 \"was there\"

  put key1 \"is new\"
  get key2

Compared are value, version, create, mod and lease, with =, !=, < and >. Done are get, put and del, with their flags.";

/// The commands, in the order of their names.
#[rustfmt::skip]
static COMMANDS: &[Command] = &[
    group("alarm", "Alarms", &[
        command!("disarm", "", "Clears all alarms", &[], member::alarm_disarm),
        command!("list", "", "Lists the alarms", &[], member::alarm_list),
    ]),
    group("auth", "Authentication", &[
        command!("disable", "", "Lets everybody do everything", &[], auth::disable),
        command!("enable", "", "Asks everybody who they are, and lets them do what their roles may", &[], auth::enable),
        command!("status", "", "Tells whether authentication is on", &[], auth::status),
    ]),
    group("check", "Checks of the cluster", &[
        command!("datascale", "[options]", "Measures the memory that a number of keys costs", CHECK_FLAGS, check::datascale),
        command!("perf", "[options]", "Tells whether the cluster is fast enough", CHECK_PERF_FLAGS, check::perf),
    ]),
    command!("compaction", "[options] <revision>", "Forgets what no read at this revision or later can see", COMPACTION_FLAGS, kv::compaction),
    Command { long: COMPLETION_HELP, ..command!("completion", "[bash|zsh|fish|powershell]", "Prints a script that lets the shell finish words", &[], completion::completion) },
    command!("defrag", "", "Gives space that is no longer used back to the file system", DEFRAG_FLAGS, maintenance::defrag),
    command!("del", "[options] <key> [range_end]", "Deletes a key, or all from a key to before another", DEL_FLAGS, kv::del),
    group("downgrade", "Downgrades", &[
        command!("cancel", "", "Ends a downgrade that was begun", &[], maintenance::downgrade_cancel),
        command!("enable", "<TARGET_VERSION>", "Begins a downgrade of the cluster", &[], maintenance::downgrade_enable),
        command!("validate", "<TARGET_VERSION>", "Tells whether the cluster could be downgraded", &[], maintenance::downgrade_validate),
    ]),
    command!("elect", "<election-name> [proposal]", "Stands for election, or watches one", ELECT_FLAGS, lock::elect),
    Command { flags: CLUSTER_FLAGS, ..group("endpoint", "Endpoints", &[
        command!("hashkv", "", "Hashes the history that each endpoint holds", HASHKV_FLAGS, endpoint::hashkv),
        command!("health", "", "Tells whether each endpoint can commit", CLUSTER_FLAGS, endpoint::health),
        command!("status", "", "Tells what each endpoint says of itself", CLUSTER_FLAGS, endpoint::status),
    ]) },
    command!("get", "[options] <key> [range_end]", "Prints a key and its value, or all from a key to before another", GET_FLAGS, kv::get),
    Command { name: "help", usage: "[command]", short: "Explains a command", long: "", flags: &[], action: Action::Help },
    group("lease", "Leases", &[
        command!("grant", "<ttl>", "Makes a lease", &[], lease::grant),
        command!("keep-alive", "[options] <leaseID>", "Renews a lease again and again", KEEP_ALIVE_FLAGS, lease::keep_alive),
        command!("list", "", "Lists the leases", &[], lease::list),
        command!("revoke", "<leaseID>", "Ends a lease, and its keys with it", &[], lease::revoke),
        command!("timetolive", "<leaseID> [options]", "Tells how long a lease has to live", TTL_FLAGS, lease::time_to_live),
    ]),
    command!("lock", "<lockname> [exec-command arg1 arg2 ...]", "Takes a lock, until a signal or while a command runs", LOCK_FLAGS, lock::lock),
    command!("make-mirror", "[options] <destination>", "Copies all keys and all changes to another cluster", MIRROR_FLAGS, mirror::make_mirror),
    group("member", "Members", &[
        command!("add", "<memberName> [options]", "Adds a member", MEMBER_ADD_FLAGS, member::add),
        command!("list", "", "Lists the members", MEMBER_LIST_FLAGS, member::list),
        command!("promote", "<memberID>", "Lets a learner vote", &[], member::promote),
        command!("remove", "<memberID>", "Removes a member", &[], member::remove),
        command!("update", "<memberID> [options]", "Changes where a member is reached", MEMBER_UPDATE_FLAGS, member::update),
    ]),
    command!("move-leader", "<transferee-member-id>", "Hands leadership to another member", &[], endpoint::move_leader),
    command!("options", "", "Lists the flags that every command takes", &[], completion::options),
    Command { long: PUT_HELP, ..command!("put", "[options] <key> <value>", "Sets a key to a value", PUT_FLAGS, kv::put) },
    group("role", "Roles", &[
        command!("add", "<role name>", "Makes a role", &[], auth::role_add),
        command!("delete", "<role name>", "Removes a role", &[], auth::role_delete),
        command!("get", "<role name>", "Shows what a role may do", &[], auth::role_get),
        command!("grant-permission", "[options] <role name> <permission type> <key> [endkey]", "Lets a role read, write or readwrite a key", PERMISSION_FLAGS, auth::role_grant),
        command!("list", "", "Lists the roles", &[], auth::role_list),
        command!("revoke-permission", "<role name> <key> [endkey]", "Takes a permission from a role", PERMISSION_FLAGS, auth::role_revoke),
    ]),
    group("snapshot", "Snapshots", &[
        command!("restore", "<filename> [options]", "Makes a data directory from a snapshot (now: etcdutl)", utl::RESTORE_FLAGS, snapshot::restore),
        command!("save", "<filename>", "Saves all data of one member to a file", &[], snapshot::save),
        command!("status", "<filename>", "Tells what a snapshot file holds (now: etcdutl)", &[], snapshot::status),
    ]),
    Command { long: TXN_HELP, ..command!("txn", "[options]", "Compares, and does one thing or another, in one step", TXN_FLAGS, txn::txn) },
    group("user", "Users", &[
        command!("add", "<user name or user:password> [options]", "Makes a user", USER_ADD_FLAGS, auth::user_add),
        command!("delete", "<user name>", "Removes a user", &[], auth::user_delete),
        command!("get", "<user name> [options]", "Shows the roles of a user", USER_GET_FLAGS, auth::user_get),
        command!("grant-role", "<user name> <role name>", "Gives a user a role", &[], auth::user_grant_role),
        command!("list", "", "Lists the users", &[], auth::user_list),
        command!("passwd", "<user name> [options]", "Changes a user's password", USER_PASSWD_FLAGS, auth::user_passwd),
        command!("revoke-role", "<user name> <role name>", "Takes a role from a user", &[], auth::user_revoke_role),
    ]),
    command!("version", "", "Prints the version", &[], super::version),
    command!("watch", "[options] [key or prefix] [range_end] [--] [exec-command arg1 arg2 ...]", "Prints changes as they happen", WATCH_FLAGS, watch::watch),
];

/// Where a command line leads.
pub(super) struct Found {
    /// From the outermost command to the one that runs; empty for the program itself.
    pub(super) chain: Vec<&'static Command>,
    /// The command line without the commands' names.
    pub(super) rest: Vec<Vec<u8>>,
}

impl Found {
    /// The program itself.
    pub(super) fn root() -> Found {
        Found { chain: Vec::new(), rest: Vec::new() }
    }

    pub(super) fn command(&self) -> Option<&'static Command> {
        self.chain.last().copied()
    }

    /// The commands' names, the program's first.
    pub(super) fn path(&self) -> String {
        self.chain.iter().fold("etcdctl".to_owned(), |path, command| path + " " + command.name)
    }

    /// The commands below this one.
    pub(super) fn children(&self) -> &'static [Command] {
        match self.command().map(|command| command.action) {
            None => COMMANDS,
            Some(Action::Group(commands)) => commands,
            Some(_) => &[],
        }
    }

    /// All flags that may stand here.
    pub(super) fn flags(&self) -> Vec<&'static Flag> {
        let own: &'static [Flag] = self.command().map_or(&[], |command| command.flags);
        own.iter().chain(GLOBAL_FLAGS).collect()
    }
}

/// Finds the command that `line` names. An error is the sentence about the word that names none.
pub(super) fn find(line: &[Vec<u8>]) -> Result<Found, String> {
    let mut found = Found { chain: Vec::new(), rest: line.to_vec() };
    loop {
        let children = found.children();
        let Some(at) = first_word(&found, children) else { return Ok(found) };
        let word = String::from_utf8_lossy(&found.rest[at]).into_owned();
        match named(children, &word) {
            Some(command) => {
                found.chain.push(command);
                found.rest.remove(at);
            }
            None if found.chain.is_empty() => return Err(unknown(&word)),
            None => return Ok(found),
        }
        if matches!(found.command().map(|command| command.action), Some(Action::Help)) {
            return Ok(found);
        }
    }
}

/// Where the first word stands that is no flag and no flag's value.
fn first_word(found: &Found, children: &'static [Command]) -> Option<usize> {
    if children.is_empty() {
        return None;
    }
    let known = found.flags();
    let below: Vec<&Flag> = match found.command() {
        Some(_) => children.iter().flat_map(|command| command.flags).collect(),
        None => Vec::new(),
    };
    let is_switch = |wanted: &dyn Fn(&Flag) -> bool| {
        known.iter().chain(&below).chain([&&HELP]).any(|flag| flag.kind == Kind::Switch && wanted(flag))
    };
    let mut at = 0;
    while at < found.rest.len() {
        let word = String::from_utf8_lossy(&found.rest[at]);
        let takes_next = match word.strip_prefix("--") {
            Some("") => return None,
            Some(long) => !long.contains('=') && !is_switch(&|flag| flag.name == long),
            None if word.len() == 2 && word.starts_with('-') => !is_switch(&|flag| word.ends_with(flag.short)),
            None if word.len() > 2 && word.starts_with('-') => false,
            None if word.is_empty() => false,
            None => return Some(at),
        };
        at += if takes_next { 2 } else { 1 };
    }
    None
}

/// The command of that name, or the only one whose name starts so.
fn named(commands: &'static [Command], word: &str) -> Option<&'static Command> {
    if let Some(command) = commands.iter().find(|command| command.name == word) {
        return Some(command);
    }
    let mut candidates = commands.iter().filter(|command| command.name.starts_with(word));
    candidates.next().filter(|_| candidates.next().is_none())
}

/// The order in which etcd suggests commands, which is the one in which it was taught them.
const SUGGESTED: [&str; 16] = [
    "get",
    "put",
    "del",
    "txn",
    "compaction",
    "alarm",
    "defrag",
    "endpoint",
    "move-leader",
    "watch",
    "version",
    "lease",
    "member",
    "snapshot",
    "make-mirror",
    "lock",
];

/// What words of the v2 API are in this one.
#[rustfmt::skip]
const V2_WORDS: &[(&str, &str)] = &[
    ("backup", "etcdctl snapshot save FILE"),
    ("cluster-health", "etcdctl endpoint health --cluster"),
    ("exec-watch", "etcdctl watch KEY -- COMMAND"),
    ("ls", "etcdctl get PREFIX --prefix --keys-only"),
    ("migrate", "nothing: it made v3 keys of v2 keys, and there are no v2 keys here"),
    ("mk", "etcdctl txn, with create(\"KEY\") = \"0\" and put KEY VALUE"),
    ("mkdir", "nothing: there are no directories, only keys that begin alike"),
    ("rm", "etcdctl del KEY (with all below it: --prefix)"),
    ("rmdir", "etcdctl del PREFIX --prefix"),
    ("set", "etcdctl put KEY VALUE"),
    ("setdir", "nothing: there are no directories, only keys that begin alike"),
    ("update", "etcdctl put KEY VALUE"),
    ("updatedir", "nothing: a lease is given to keys, not to directories"),
];

/// A sentence about a word that was one of the v2 API, as tutorials up to etcd 3.3 have it.
pub(super) fn hint(line: &[Vec<u8>]) -> Option<String> {
    let word = first_word(&Found { chain: Vec::new(), rest: line.to_vec() }, COMMANDS).map(|at| &line[at])?;
    let (word, today) = V2_WORDS.iter().find(|(old, _)| old.as_bytes() == word.as_slice())?;
    Some(format!("Hint: {word} belongs to the v2 API, which etcdctl up to 3.3 spoke by default. In this one: {today}"))
}

fn unknown(word: &str) -> String {
    let mut text = format!("unknown command {} for \"etcdctl\"", golang::quote(word.as_bytes()));
    let near = |command: &&Command| {
        distance(&word.to_lowercase(), command.name) <= 2 || command.name.starts_with(&word.to_lowercase())
    };
    let mut suggestions: Vec<&Command> = COMMANDS.iter().filter(near).collect();
    suggestions
        .sort_by_key(|command| SUGGESTED.iter().position(|name| *name == command.name).unwrap_or(SUGGESTED.len()));
    if !suggestions.is_empty() {
        text.push_str("\n\nDid you mean this?\n");
        for command in suggestions {
            text.push_str(&format!("\t{}\n", command.name));
        }
    }
    text
}

/// How many letters to add, drop or change to get from one word to the other.
fn distance(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (above, letter) in from.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], above + 1);
        for at in 0..to.len() {
            let changed = diagonal + usize::from(letter != to[at]);
            diagonal = row[at + 1];
            row[at + 1] = changed.min(row[at] + 1).min(diagonal + 1);
        }
    }
    row[to.len()]
}

/// Reads a command's own flags and words, for lines that come from elsewhere than the command line.
pub(super) fn parse_words(words: &[Vec<u8>], flags: &'static [Flag]) -> Result<Args, super::args::Refused> {
    Args::parse(words, &flags.iter().collect::<Vec<_>>())
}

/// The one of get, put and del that `word` names, by prefix too, and its flags.
pub(super) fn operation(word: &str) -> Option<(&'static str, &'static [Flag])> {
    let operations = [("del", DEL_FLAGS), ("get", GET_FLAGS), ("put", PUT_FLAGS)];
    operations.into_iter().find(|(name, _)| !word.is_empty() && name.starts_with(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(line: &str) -> Result<(String, String), String> {
        let words: Vec<Vec<u8>> = line.split(' ').map(|word| word.as_bytes().to_vec()).collect();
        let found = find(&words)?;
        let rest: Vec<String> = found.rest.iter().map(|word| String::from_utf8_lossy(word).into_owned()).collect();
        Ok((found.path(), rest.join(" ")))
    }

    fn leads(line: &str, path: &str, rest: &str) {
        assert_eq!(found(line), Ok((format!("etcdctl{path}"), rest.to_owned())), "{line}");
    }

    #[test]
    fn a_command_is_found_among_flags_and_by_a_prefix_that_only_it_has() {
        leads("get k", " get", "k");
        leads("ge get", " get", "get");
        leads("--endpoints get put k", " put", "--endpoints get k");
        leads("--hex -w json member li", " member list", "--hex -w json");
        leads("compact 5", " compaction", "5");
        leads("endpoint --cluster health", " endpoint health", "--cluster");
        leads("lease", " lease", "");
        leads("lease foo", " lease", "foo");
        leads("-- get", "", "-- get");
        leads("help lease grant", " help", "lease grant");
        leads("snapshot save f", " snapshot save", "f");
    }

    #[test]
    fn a_word_that_names_nothing_is_answered_with_what_is_near() {
        let get = "unknown command \"gett\" for \"etcdctl\"\n\nDid you mean this?\n\tget\n";
        assert_eq!(found("gett").expect_err("no"), get);
        assert_eq!(found("frobnicate").expect_err("no"), "unknown command \"frobnicate\" for \"etcdctl\"");
        assert!(found("me k").is_ok(), "only member starts so");
        assert!(found("c k").expect_err("several start so").contains("\tcompaction\n"));
    }

    #[test]
    fn the_table_is_in_order_and_says_what_each_command_does() {
        fn check(commands: &[Command]) {
            assert!(commands.is_sorted_by_key(|command| command.name));
            for command in commands {
                assert!(command.flags.is_sorted_by_key(|flag| flag.name), "{}", command.name);
                assert!(!command.short.is_empty(), "{}", command.name);
                if let Action::Group(commands) = command.action {
                    check(commands);
                }
            }
        }
        check(COMMANDS);
        assert!(GLOBAL_FLAGS.is_sorted_by_key(|flag| flag.name));
    }
}
