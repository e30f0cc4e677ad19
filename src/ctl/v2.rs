//! The old dialect: `ETCDCTL_API=2`, as etcdctl up to 3.3 spoke by default and up to 3.5 on request.
//!
//! It prints what etcdctl 3.4 printed with the v2 API, and says on stderr, in one line, that it is old and what to type today. There is no
//! v2 server behind it: keys live in a tree of their own in the v3 store ([`store`]), so that keys of one world are not seen in the other,
//! as it was with etcd. Users and roles are the v3 ones, which the server enforces; a role's paths become ranges of that tree ([`auth`]).
//!
//! Left out: `--debug`'s curl lines, `import`, and the file of peers. Source: etcd 3.4 `etcdctl/ctlv2`.

mod auth;
mod cluster;
mod flags;
mod keys;
mod print;
mod store;
mod watch;

use super::Input;
use super::password;
use crate::client;
use crate::client::Client;
use crate::client::Config;
use crate::client::TlsFiles;
use crate::golang;
use crate::types::ETCD_VERSION;
use flags::Flag;
use flags::Kind;
use flags::Line;
use futures::future::LocalBoxFuture;
use std::io::Read as _;
use std::io::Write;
use std::time::Duration;
use store::Failure;
use store::Store;

/// A wrong word or flag, or what a member refused of users, roles and members.
const BAD_ARGS: u8 = 1;
/// Nobody answers.
const BAD_CONNECTION: u8 = 2;
/// No such command.
const NO_COMMAND: u8 = 3;
/// What a member refused of keys.
const SERVER_ERROR: u8 = 4;
/// Members are missing.
const NOT_HEALTHY: u8 = 5;

/// Where members are looked for if nobody says where.
const ENDPOINTS: &str = "http://127.0.0.1:2379,http://127.0.0.1:4001";

const fn flag(names: &'static [&'static str], kind: Kind, help: &'static str) -> Flag {
    Flag { names, kind, help }
}

#[rustfmt::skip]
static GLOBAL_FLAGS: &[Flag] = &[
    flag(&["debug"], Kind::Switch, "tell which endpoints are used"),
    flag(&["no-sync"], Kind::Switch, "do not ask for the members first"),
    flag(&["output", "o"], Kind::Text, "simple, extended or json (default: simple)"),
    flag(&["discovery-srv", "D"], Kind::Text, "domain whose SRV records name the endpoints"),
    flag(&["insecure-discovery"], Kind::Switch, "use SRV records for plain endpoints too"),
    flag(&["peers", "C"], Kind::Text, "now: --endpoints"),
    flag(&["endpoint"], Kind::Text, "now: --endpoints"),
    flag(&["endpoints"], Kind::Text, "members to talk to, separated by commas (default: http://127.0.0.1:2379,http://127.0.0.1:4001)"),
    flag(&["cert-file"], Kind::Text, "show members this certificate (PEM file)"),
    flag(&["key-file"], Kind::Text, "the key of --cert-file (PEM file)"),
    flag(&["ca-file"], Kind::Text, "trust members whose certificates these authorities signed (PEM file)"),
    flag(&["username", "u"], Kind::Text, "name[:password]; asks for the password if it is missing"),
    flag(&["timeout"], Kind::Time, "how long one attempt to connect may take (default: 2s)"),
    flag(&["total-timeout"], Kind::Time, "how long a command may take, but for watch (default: 5s)"),
    flag(&["help", "h"], Kind::Switch, "show this text"),
    flag(&["version", "v"], Kind::Switch, "print the version"),
];

/// A way out: a code, and what is written to stderr before.
#[derive(Debug)]
struct Exit {
    code: u8,
    text: String,
}

type Outcome = Result<(), Exit>;

impl Exit {
    fn silent(code: u8) -> Exit {
        Exit { code, text: String::new() }
    }

    /// A line as it is.
    fn plain(code: u8, text: impl AsRef<str>) -> Exit {
        Exit { code, text: format!("{}\n", text.as_ref()) }
    }

    /// A line that says that it is an error.
    fn error(code: u8, text: impl AsRef<str>) -> Exit {
        Exit::plain(code, format!("Error:  {}", text.as_ref()))
    }
}

impl From<std::io::Error> for Exit {
    fn from(error: std::io::Error) -> Exit {
        Exit::plain(BAD_ARGS, error.to_string())
    }
}

/// What a command does.
#[derive(Clone, Copy)]
enum Action {
    Run(for<'a, 'b> fn(&'a mut World<'b>) -> LocalBoxFuture<'a, Outcome>),
    Group(&'static [Command]),
}

/// A row of the table.
struct Command {
    name: &'static str,
    usage: &'static str,
    short: &'static str,
    /// What to type today.
    today: &'static str,
    flags: &'static [Flag],
    action: Action,
}

macro_rules! command {
    ($name:literal, $usage:literal, $short:literal, $today:literal, $flags:expr, $run:path) => {
        Command {
            name: $name,
            usage: $usage,
            short: $short,
            today: $today,
            flags: $flags,
            action: Action::Run(|world| Box::pin($run(world))),
        }
    };
}

const fn group(name: &'static str, short: &'static str, commands: &'static [Command]) -> Command {
    Command {
        name,
        usage: "command [command options] [arguments...]",
        short,
        today: "",
        flags: &[],
        action: Action::Group(commands),
    }
}

static GROUP_FLAGS: &[Flag] = &[flag(&["help", "h"], Kind::Switch, "show this text")];
static TTL: &[Flag] = &[flag(&["ttl"], Kind::Number, "seconds to live (default: 0, for ever)")];
#[rustfmt::skip]
static SET: &[Flag] = &[
    flag(&["ttl"], Kind::Number, "seconds to live (default: 0, for ever)"),
    flag(&["swap-with-value"], Kind::Text, "only if it has this value"),
    flag(&["swap-with-index"], Kind::Number, "only if it was last changed at this index"),
];
#[rustfmt::skip]
static MK: &[Flag] = &[
    flag(&["in-order"], Kind::Switch, "make a key below <key> whose name is the next index"),
    flag(&["ttl"], Kind::Number, "seconds to live (default: 0, for ever)"),
];
#[rustfmt::skip]
static GET: &[Flag] = &[
    flag(&["sort"], Kind::Switch, "sorted (it always is)"),
    flag(&["quorum", "q"], Kind::Switch, "agreed upon by a majority (it always is)"),
];
#[rustfmt::skip]
static LS: &[Flag] = &[
    flag(&["sort"], Kind::Switch, "sorted (it always is)"),
    flag(&["recursive", "r"], Kind::Switch, "all levels below"),
    flag(&["p"], Kind::Switch, "a slash behind directories"),
    flag(&["quorum", "q"], Kind::Switch, "agreed upon by a majority (it always is)"),
];
#[rustfmt::skip]
static RM: &[Flag] = &[
    flag(&["dir"], Kind::Switch, "a key, or an empty directory"),
    flag(&["recursive", "r"], Kind::Switch, "a directory with all below it"),
    flag(&["with-value"], Kind::Text, "only if it has this value"),
    flag(&["with-index"], Kind::Number, "only if it was last changed at this index"),
];
#[rustfmt::skip]
static WATCH: &[Flag] = &[
    flag(&["forever", "f"], Kind::Switch, "go on after the first change"),
    flag(&["after-index"], Kind::Number, "changes after this index (default: 0, from now)"),
    flag(&["recursive", "r"], Kind::Switch, "changes below it, too"),
];
#[rustfmt::skip]
static EXEC_WATCH: &[Flag] = &[
    flag(&["after-index"], Kind::Number, "changes after this index (default: 0, from now)"),
    flag(&["recursive", "r"], Kind::Switch, "changes below it, too"),
];
static HEALTH: &[Flag] = &[flag(&["forever", "f"], Kind::Switch, "ask again every ten seconds")];
static ROLES: &[Flag] = &[flag(&["roles"], Kind::Text, "roles, separated by commas")];
#[rustfmt::skip]
static PATH: &[Flag] = &[
    flag(&["path"], Kind::Text, "a key, or all that begin alike: /foo/*"),
    flag(&["read"], Kind::Switch, "reading"),
    flag(&["write"], Kind::Switch, "writing"),
    flag(&["readwrite", "rw"], Kind::Switch, "both"),
];
#[rustfmt::skip]
static BACKUP: &[Flag] = &[
    flag(&["data-dir"], Kind::Text, "the directory of a member that does not run"),
    flag(&["wal-dir"], Kind::Text, "its log's, if that is elsewhere"),
    flag(&["backup-dir"], Kind::Text, "where to write"),
    flag(&["backup-wal-dir"], Kind::Text, "where to write the log, if that is elsewhere"),
    flag(&["with-v3"], Kind::Switch, "with v3 keys"),
];

#[rustfmt::skip]
static COMMANDS: &[Command] = &[
    command!("backup", " ", "copies a member's directory", "etcdctl snapshot save FILE", BACKUP, cluster::backup),
    command!("cluster-health", " ", "tells how the members are", "etcdctl endpoint health --cluster", HEALTH, cluster::health),
    command!("mk", "<key> <value>", "makes a key that is not there", "etcdctl txn, with create(\"KEY\") = \"0\" and put KEY VALUE", MK, keys::mk),
    command!("mkdir", "<key>", "makes a directory", "nothing: there are no directories, only keys that begin alike", TTL, keys::mkdir),
    command!("rm", "<key>", "removes a key or a directory", "etcdctl del KEY (with all below it: --prefix)", RM, keys::rm),
    command!("rmdir", "<key>", "removes a key, or an empty directory", "etcdctl del PREFIX --prefix", &[], keys::rmdir),
    command!("get", "<key>", "prints a key's value", "etcdctl get KEY", GET, keys::get),
    command!("ls", "[key]", "lists a directory", "etcdctl get PREFIX --prefix --keys-only", LS, keys::ls),
    command!("set", "<key> <value>", "sets a key; a value that begins with a dash stands behind --", "etcdctl put KEY VALUE", SET, keys::set),
    command!("setdir", "<key>", "makes a directory, in the place of a key if there is one", "nothing: there are no directories, only keys that begin alike", TTL, keys::setdir),
    command!("update", "<key> <value>", "changes a key that is there", "etcdctl put KEY VALUE", TTL, keys::update),
    command!("updatedir", "<key>", "gives a directory another time to live", "nothing: a lease is given to keys, not to directories", TTL, keys::updatedir),
    command!("watch", "<key>", "waits for a change", "etcdctl watch KEY", WATCH, watch::watch),
    command!("exec-watch", "<key> <command> [args...]", "runs a command at each change", "etcdctl watch KEY -- COMMAND", EXEC_WATCH, watch::exec_watch),
    group("member", "the cluster's members", &[
        command!("list", " ", "lists the members", "etcdctl member list", &[], cluster::list),
        command!("add", "<name> <peerURL>", "adds a member", "etcdctl member add NAME --peer-urls=URL", &[], cluster::add),
        command!("remove", "<memberID>", "removes a member", "etcdctl member remove ID", &[], cluster::remove),
        command!("update", "<memberID> <peerURLs>", "gives a member other peer URLs", "etcdctl member update ID --peer-urls=URL", &[], cluster::update),
    ]),
    group("user", "users", &[
        command!("add", "<user>", "adds a user", "etcdctl user add NAME", &[], auth::user_add),
        command!("get", "<user>", "shows a user", "etcdctl user get NAME", &[], auth::user_get),
        command!("list", "<user>", "lists the users", "etcdctl user list", &[], auth::user_list),
        command!("remove", "<user>", "removes a user", "etcdctl user delete NAME", &[], auth::user_remove),
        command!("grant", "<user>", "gives a user roles", "etcdctl user grant-role NAME ROLE", ROLES, auth::user_grant),
        command!("revoke", "<user>", "takes roles from a user", "etcdctl user revoke-role NAME ROLE", ROLES, auth::user_revoke),
        command!("passwd", "<user>", "changes a user's password", "etcdctl user passwd NAME", &[], auth::user_passwd),
    ]),
    group("role", "roles", &[
        command!("add", "<role> ", "adds a role", "etcdctl role add NAME", &[], auth::role_add),
        command!("get", "<role>", "shows a role", "etcdctl role get NAME", &[], auth::role_get),
        command!("list", " ", "lists the roles", "etcdctl role list", &[], auth::role_list),
        command!("remove", "<role>", "removes a role", "etcdctl role delete NAME", &[], auth::role_remove),
        command!("grant", "<role>", "lets a role do something", "etcdctl role grant-permission NAME read|write|readwrite KEY", PATH, auth::role_grant),
        command!("revoke", "<role>", "takes that from a role", "etcdctl role revoke-permission NAME KEY", PATH, auth::role_revoke),
    ]),
    group("auth", "authentication", &[
        command!("enable", " ", "asks everybody who they are", "etcdctl auth enable", &[], auth::enable),
        command!("disable", " ", "lets everybody do everything", "etcdctl auth disable", &[], auth::disable),
    ]),
];

/// One command's world.
struct World<'a> {
    globals: Line,
    line: Line,
    env: &'a [(String, String)],
    stdin: Input,
    out: &'a mut dyn Write,
    err: &'a mut dyn Write,
}

/// Whether the environment asks for the old dialect.
pub(super) fn is_asked_for(env: &[(String, String)]) -> bool {
    env.iter().any(|(name, value)| name == "ETCDCTL_API" && value == "2")
}

/// Runs one line of the old dialect. Returns its exit code.
pub(super) async fn run(
    words: &[Vec<u8>],
    env: &[(String, String)],
    stdin: Input,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> u8 {
    let words: Vec<String> = words.iter().map(|word| String::from_utf8_lossy(word).into_owned()).collect();
    match dispatch(&words, env, stdin, out, err).await {
        Ok(()) => 0,
        Err(exit) => {
            // Nobody is left to tell when this stream fails.
            let _ = err.write_all(exit.text.as_bytes());
            let _ = out.flush();
            exit.code
        }
    }
}

async fn dispatch(
    words: &[String],
    env: &[(String, String)],
    stdin: Input,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> Outcome {
    let globals = match Line::parse(words, GLOBAL_FLAGS) {
        Ok(globals) => globals,
        Err(why) => {
            writeln!(
                out,
                "Incorrect Usage. {why}\n\n{}",
                help("etcdctl", "A command line client for etcd, in its old dialect.", COMMANDS, GLOBAL_FLAGS)
            )?;
            return Err(Exit::plain(BAD_ARGS, why));
        }
    };
    if globals.is_set("version") {
        return Ok(writeln!(out, "etcdctl version: {ETCD_VERSION}\nAPI version: 2")?);
    }
    let mut rest = globals.words.clone();
    let wants_help = globals.is_set("help") || rest.first().is_some_and(|word| word == "help" || word == "h");
    if wants_help && !rest.is_empty() && !globals.is_set("help") {
        rest.remove(0);
    }
    let (mut commands, mut path, mut chosen) = (COMMANDS, "etcdctl".to_owned(), None::<&Command>);
    while let Some(word) = rest.first() {
        let Some(command) = commands.iter().find(|command| command.name == word) else {
            return Err(Exit::plain(NO_COMMAND, format!("No help topic for '{word}'")));
        };
        rest.remove(0);
        path = format!("{path} {}", command.name);
        chosen = Some(command);
        match command.action {
            Action::Group(below) => commands = below,
            Action::Run(_) => break,
        }
    }
    let Some(command) = chosen else {
        let about = "A command line client for etcd, in its old dialect.";
        return Ok(out.write_all(help("etcdctl", about, COMMANDS, GLOBAL_FLAGS).as_bytes())?);
    };
    let run = match command.action {
        Action::Run(run) if !wants_help && !rest.iter().any(|word| word == "--help" || word == "-h") => run,
        Action::Run(_) => return Ok(out.write_all(help(&path, command.short, &[], command.flags).as_bytes())?),
        Action::Group(below) => return Ok(out.write_all(help(&path, command.short, below, GROUP_FLAGS).as_bytes())?),
    };
    let line = match Line::parse_command(&rest, command.flags) {
        Ok(line) => line,
        Err(why) => {
            writeln!(out, "Incorrect Usage: {why}\n\n{}", help(&path, command.short, &[], command.flags))?;
            return Err(Exit::plain(BAD_ARGS, why));
        }
    };
    writeln!(
        err,
        "The v2 API was removed from etcd 3.6; ETCDCTL_API=2 is kept for old texts. In v3: {}",
        command.today
    )?;
    run(&mut World { globals, line, env, stdin, out, err }).await
}

fn help(path: &str, about: &str, commands: &[Command], flags: &[Flag]) -> String {
    let usage = if commands.is_empty() { "[command options]" } else { "command [command options] [arguments...]" };
    let mut text = format!("NAME:\n   {path} - {about}\n\nUSAGE:\n   {path} {usage}\n");
    if !commands.is_empty() {
        text += "\nCOMMANDS:\n";
        let width = commands.iter().map(|command| command.name.len()).max().unwrap_or_default();
        for command in commands {
            text += &format!("   {:width$}  {} {}\n", command.name, command.short, command.usage.trim())
                .replace(" \n", "\n");
        }
        if path == "etcdctl" {
            text += &format!("   {:width$}  shows this text, or that of a command\n", "help, h");
        }
    }
    if !flags.is_empty() {
        text += if path == "etcdctl" { "\nGLOBAL OPTIONS:\n" } else { "\nOPTIONS:\n" };
        let shown = |flag: &Flag| {
            let value = if flag.kind == Kind::Switch { "" } else { " value" };
            let dashed =
                |name: &&str| if name.len() == 1 { format!("-{name}{value}") } else { format!("--{name}{value}") };
            flag.names.iter().map(dashed).collect::<Vec<_>>().join(", ")
        };
        let width = flags.iter().map(|flag| shown(flag).len()).max().unwrap_or_default();
        for flag in flags {
            text += &format!("   {:width$}  {}\n", shown(flag), flag.help);
        }
    }
    text
}

impl World<'_> {
    /// A variable of the environment; empty if it is not there.
    fn variable(&self, name: &str) -> &str {
        self.env.iter().find(|(other, _)| other == name).map_or("", |(_, value)| value)
    }

    /// A global flag, or the variable that stands for it.
    fn global(&self, flag: &str, variable: &str) -> String {
        let given = self.globals.text(flag);
        if given.is_empty() { self.variable(variable).to_owned() } else { given.to_owned() }
    }

    fn output(&self) -> &str {
        match self.globals.text("output") {
            "" => "simple",
            given => given,
        }
    }

    fn say(&mut self, text: impl std::fmt::Display) -> Outcome {
        Ok(writeln!(self.out, "{text}")?)
    }

    async fn endpoints(&self) -> Result<Vec<String>, Exit> {
        let domain = self.global("discovery-srv", "ETCDCTL_DISCOVERY_SRV");
        if !domain.is_empty() {
            let found = client::discover(&domain, self.variable("ETCDCTL_DISCOVERY_SRV_NAME")).await;
            let found = found.map_err(|why| Exit::plain(BAD_ARGS, why))?;
            if !found.is_empty() {
                return Ok(found);
            }
        }
        let named = [("endpoints", "ETCDCTL_ENDPOINTS"), ("endpoint", "ETCDCTL_ENDPOINT"), ("peers", "ETCDCTL_PEERS")];
        let given = named.iter().map(|(flag, variable)| self.global(flag, variable)).find(|given| !given.is_empty());
        let endpoints: Vec<String> =
            given.unwrap_or_else(|| ENDPOINTS.to_owned()).split(',').map(str::to_owned).collect();
        match endpoints.iter().find(|endpoint| !endpoint.contains("://") && endpoint.contains(':')) {
            Some(bare) => {
                let quoted = golang::quote(bare.as_bytes());
                Err(Exit::plain(BAD_ARGS, format!("parse {quoted}: first path segment in URL cannot contain colon")))
            }
            None => Ok(endpoints),
        }
    }

    fn time(&self, flag: &str, default: Duration) -> Duration {
        golang::parse_duration(self.globals.text(flag)).unwrap_or(default)
    }

    /// A client of one URL, otherwise as the flags describe it.
    async fn client_of(&mut self, url: &str) -> Result<Client, Exit> {
        Ok(Client::new(Config { endpoints: vec![url.to_owned()], ..self.config().await? }))
    }

    /// A client as the flags describe it, that has not said anything yet.
    async fn quiet_client(&mut self) -> Result<Client, Exit> {
        Ok(Client::new(self.config().await?))
    }

    /// What the flags say of clients.
    async fn config(&mut self) -> Result<Config, Exit> {
        let endpoints = self.endpoints().await?;
        let files = TlsFiles {
            cacert: self.global("ca-file", "ETCDCTL_CA_FILE"),
            cert: self.global("cert-file", "ETCDCTL_CERT_FILE"),
            key: self.global("key-file", "ETCDCTL_KEY_FILE"),
            skip_verify: false,
        };
        let secure = files != TlsFiles::default();
        let tls = if secure { Some(files.load().map_err(|e| Exit::plain(BAD_ARGS, e.to_string()))?) } else { None };
        let user = self.global("username", "ETCDCTL_USERNAME");
        let user = if user.is_empty() { None } else { Some(self.name_and_password(&user, "Password: ")?) };
        let call_timeout = Some(self.time("total-timeout", Duration::from_secs(5)));
        let dial_timeout = self.time("timeout", Duration::from_secs(2));
        Ok(Config { endpoints, tls, user, call_timeout, dial_timeout, ..Config::default() })
    }

    /// The same, after somebody has answered and knows who asks. Without that nothing else is worth a try.
    async fn client(&mut self) -> Result<Client, Failure> {
        let client = self.quiet_client().await.map_err(Failure::from)?;
        if self.globals.is_set("debug") {
            // A stream that fails is noticed where it counts.
            let _ = writeln!(self.err, "Cluster-Endpoints: {}", client.endpoints().join(", "));
        }
        let first = Duration::min(self.time("timeout", Duration::from_secs(2)), Duration::from_secs(1));
        match client.patient(Some(first)).status().await {
            Err(error @ client::Error::Deadline { .. }) if error.cause().is_some() => {
                return Err(Failure::Client(error));
            }
            _ => {}
        }
        match client.authenticate().await {
            Err(error) if !error.says(&crate::error::Error::AuthNotEnabled.to_string()) => Err(Failure::Client(error)),
            _ => Ok(client),
        }
    }

    async fn store(&mut self) -> Result<Store, Exit> {
        match self.client().await {
            Ok(client) => Ok(Store { client }),
            Err(failure) => Err(self.failed(failure).await),
        }
    }

    fn name_and_password(&mut self, given: &str, prompt: &str) -> Result<(String, String), Exit> {
        match given.split_once(':') {
            Some((name, password)) => Ok((name.to_owned(), password.to_owned())),
            None => Ok((given.to_owned(), self.ask_password(prompt)?)),
        }
    }

    /// Asks for a password. On a terminal it is not shown.
    fn ask_password(&mut self, prompt: &str) -> Result<String, Exit> {
        let read = password::ask(&mut self.out, &mut self.stdin, prompt);
        read?.ok_or_else(|| Exit::silent(password::INTERRUPTED))
    }

    /// The second word, or what the standard input holds.
    fn value(&mut self) -> Result<String, Exit> {
        if let Some(value) = self.line.words.get(1) {
            return Ok(value.clone());
        }
        let mut bytes = Vec::new();
        self.stdin.read_to_end(&mut bytes)?;
        if bytes.is_empty() {
            Err(Exit::error(BAD_ARGS, "value required"))
        } else {
            Ok(String::from_utf8_lossy(&bytes).into_owned())
        }
    }

    fn key(&self) -> Result<String, Exit> {
        let key = self.line.words.first().ok_or_else(|| Exit::error(BAD_ARGS, "key required"))?;
        Ok(store::path_of(key))
    }

    /// What nobody being there looks like: one cause per endpoint.
    async fn unreachable(&mut self) -> Vec<String> {
        let endpoints = self.endpoints().await.unwrap_or_default();
        let mut causes = Vec::new();
        for endpoint in endpoints {
            let config = Config {
                endpoints: vec![endpoint],
                call_timeout: Some(Duration::from_millis(300)),
                ..Config::default()
            };
            let cause = Client::new(config).status().await.err().and_then(|error| error.cause().map(str::to_owned));
            causes.push(cause.unwrap_or_else(|| "context deadline exceeded".to_owned()));
        }
        causes
    }

    /// The exit for a command on keys that failed.
    async fn failed(&mut self, failure: Failure) -> Exit {
        match failure {
            Failure::Refused { code, cause, index } => {
                Exit::error(SERVER_ERROR, format!("{code}: {} ({cause}) [{index}]", store::message(code)))
            }
            Failure::Client(client::Error::Deadline { .. }) => {
                let (text, detail) = unavailable(&self.unreachable().await);
                Exit::error(BAD_CONNECTION, format!("{text}\n{detail}"))
            }
            Failure::Client(error) if is_refusal(&error) => {
                Exit::error(SERVER_ERROR, format!("110: {} (Insufficient credentials) [0]", store::message(110)))
            }
            Failure::Client(client::Error::Config(why)) => Exit { code: BAD_ARGS, text: why },
            Failure::Client(error) => Exit::error(SERVER_ERROR, error.to_string()),
        }
    }
}

impl From<Exit> for Failure {
    /// Carries a way out that was found before anything was asked; see [`World::failed`].
    fn from(exit: Exit) -> Failure {
        Failure::Client(client::Error::Config(exit.text))
    }
}

/// The sentence of a client that reaches nobody, and its details.
fn unavailable(causes: &[String]) -> (String, String) {
    let each = |before: &str| -> String {
        causes.iter().enumerate().map(|(at, cause)| format!("{before}error #{at}: {cause}\n")).collect()
    };
    (format!("client: etcd cluster is unavailable or misconfigured{}", each("; ")), each(""))
}

/// Whether a member refused because of who asks.
fn is_refusal(error: &client::Error) -> bool {
    use crate::error::Error as Etcd;
    [Etcd::UserEmpty, Etcd::AuthFailed, Etcd::PermissionDenied, Etcd::InvalidAuthToken]
        .iter()
        .any(|refusal| error.says(&refusal.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn typed(line: &str) -> (u8, String, String) {
        let words: Vec<Vec<u8>> = line.split_whitespace().map(|word| word.as_bytes().to_vec()).collect();
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let code = run(&words, &[], Box::new(std::io::empty()), &mut out, &mut err).await;
        (code, String::from_utf8(out).expect("text"), String::from_utf8(err).expect("text"))
    }

    #[tokio::test]
    async fn every_command_has_a_name_of_today_and_a_help_with_its_flags() {
        fn check(path: &str, commands: &'static [Command], found: &mut Vec<(String, &'static Command)>) {
            for command in commands {
                let path = format!("{path} {}", command.name);
                match command.action {
                    Action::Group(below) => check(&path, below, found),
                    Action::Run(_) => found.push((path, command)),
                }
            }
        }
        let mut found = Vec::new();
        check("", COMMANDS, &mut found);
        assert_eq!(found.len(), 33);
        for (path, command) in found {
            assert!(!command.today.is_empty(), "{path}");
            let (code, out, _) = typed(&format!("help {path}")).await;
            assert_eq!(code, 0, "{path}");
            command
                .flags
                .iter()
                .for_each(|flag| assert!(out.contains(&format!("-{}", flag.names[0])), "{path}: {out}"));
        }
        let (_, out, _) = typed("").await;
        for name in ["backup", "exec-watch", "updatedir", "--total-timeout value", "-u value"] {
            assert!(out.contains(name), "{out}");
        }
    }

    #[tokio::test]
    async fn nobody_there_is_told_for_each_endpoint() {
        let (code, _, err) = typed("--endpoints http://127.0.0.1:1,http://127.0.0.1:2 get k").await;
        let refused = |port| format!("dial tcp 127.0.0.1:{port}: connect: connection refused");
        let (one, two) = (refused(1), refused(2));
        let text = format!("; error #0: {one}\n; error #1: {two}\n\nerror #0: {one}\nerror #1: {two}\n\n");
        assert_eq!(code, BAD_CONNECTION);
        assert!(err.ends_with(&format!("Error:  client: etcd cluster is unavailable or misconfigured{text}")), "{err}");
    }
}
