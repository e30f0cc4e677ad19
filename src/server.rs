//! A member's front door: configuration, gRPC services, HTTP.
//!
//! [`main`] is the program `etcd`: it reads flags and environment, checks them, starts the member and serves its clients until a signal comes. A service has one file; what
//! comes before any call is in `front`, what is below the calls in `listen`. Nothing here knows how a write becomes durable: services talk to
//! [`crate::node::Node`] only.

mod access;
mod advice;
mod auth;
mod authority;
mod backoff;
mod bootstrap;
mod calls;
mod cluster;
mod concurrency;
pub mod config;
mod config_file;
mod discovery;
mod door;
mod election;
#[cfg(any(debug_assertions, feature = "failpoints"))]
mod failpoints;
mod flags;
mod front;
mod gates;
mod gateway;
mod health;
mod help;
mod http;
mod identity;
mod inbound;
mod joined;
mod journal;
mod jwt;
mod kv;
mod lab;
mod lease;
mod listen;
mod lock;
mod log;
mod maintenance;
mod metrics;
mod otel;
mod password;
mod proxy;
mod range_stream;
mod redirect;
mod reflection;
mod room;
mod rotate;
mod run;
mod sampler;
mod settings;
mod slow;
mod snapshot;
mod sniff;
mod srv;
mod systemd;
mod tally;
mod token;
mod trace;
mod upload;
pub mod urls;
mod watch;
mod web;

use crate::golang;
use crate::node;
use crate::types::ETCD_VERSION;
use config::Config;
use config::LogConfig;
use run::End;
use settings::Notice;
use settings::Settings;
use settings::Words;
use settings::WordsError;
use std::ffi::OsString;
use std::io::Write as _;
use systemd::Manager;

/// The words as they may be shown.
fn masked(words: &[String]) -> Vec<String> {
    http::without_secrets(words.iter().cloned()).iter().map(|word| urls::masked(word)).collect()
}

/// Runs the program `etcd` with the words after its name and this process's environment. Returns the exit code; a member that a signal has stopped
/// does not return but dies by that signal, as etcd does.
#[must_use]
pub fn main(words: &[OsString]) -> u8 {
    let text = |os: OsString| os.to_string_lossy().into_owned();
    let words: Vec<String> = words.iter().cloned().map(text).collect();
    let env: Vec<(String, String)> = std::env::vars_os().map(|(name, value)| (text(name), text(value))).collect();
    with(&words, &env)
}

fn with(words: &[String], env: &[(String, String)]) -> u8 {
    let args = &[&["etcd".to_owned()], words].concat();
    match words.first().map(String::as_str) {
        Some("gateway") => return gateway_program(args, &words[1..]),
        Some("grpc-proxy") => {
            let _ = writeln!(std::io::stderr(), "{}", proxy::NO_GRPC_PROXY);
            return 1;
        }
        // For tests and for the book: not in the help.
        Some("lab-flags") => return print(&flags::table()),
        _ => {}
    }
    match Settings::parse(words) {
        Ok(Words::Help) => print(&help::help()),
        Ok(Words::Version) => print(&version()),
        Ok(Words::Run(settings)) => start(args, settings, env),
        Err(WordsError::Syntax(why)) => {
            let _ = write!(std::io::stderr(), "{why}\n{}", help::USAGE);
            2
        }
        Err(WordsError::Stray(word)) => {
            refuse(args, &[], &[format!("{} is not a valid flag", golang::quote(word.as_bytes()))])
        }
    }
}

/// The program `etcd gateway`.
fn gateway_program(args: &[String], words: &[String]) -> u8 {
    if proxy::wants_help(words) {
        return print(proxy::USAGE);
    }
    let plan = match proxy::Plan::parse(words) {
        Ok(plan) => plan,
        Err(why) => {
            let _ = write!(std::io::stderr(), "Error: {why}\n{}", proxy::USAGE);
            return 1;
        }
    };
    let _log = log::start(&default_log());
    tracing::info!(args = %log::list(&masked(args)), "Running: ");
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let run = runtime.map_err(|e| e.to_string()).and_then(|runtime| runtime.block_on(proxy::run(plan)));
    match run {
        Ok(()) => 0,
        Err(why) => {
            tracing::error!(level = "fatal", error = why, "the gateway cannot start");
            1
        }
    }
}

/// Prints to standard output; a reader that is gone is no failure.
fn print(text: &str) -> u8 {
    let _ = std::io::stdout().write_all(text.as_bytes());
    0
}

fn version() -> String {
    let (os, arch) = (std::env::consts::OS, std::env::consts::ARCH);
    let arch = match arch {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    format!(
        "etcd Version: {ETCD_VERSION}\nGit SHA: etcd-lab-{}\nGo Version: none (Rust)\nGo OS/Arch: {os}/{arch}\n",
        env!("CARGO_PKG_VERSION")
    )
}

/// The log of a program that could not read what its log should be.
fn default_log() -> LogConfig {
    let outputs = vec!["default".into()];
    LogConfig { level: "info".into(), outputs, console: false, logger: "zap".into(), rotation: None }
}

/// Says why nothing is started: one line for each problem.
fn refuse(args: &[String], notices: &[Notice], problems: &[String]) -> u8 {
    let _log = log::start(&default_log());
    tracing::info!(args = %log::list(&masked(args)), "Running: ");
    notices.iter().for_each(log::tell);
    for problem in problems {
        tracing::warn!(error = problem.as_str(), "failed to verify flags");
        if problem.starts_with("--advertise-client-urls is required") {
            tracing::warn!(error = problem.as_str(), "advertise client URLs are not set");
        }
    }
    1
}

fn start(args: &[String], mut settings: Settings, env: &[(String, String)]) -> u8 {
    let mut notices = Vec::new();
    if let Some(file) = config_file_of(&settings, env) {
        match config_file::read(&file, &mut notices) {
            Ok(read) => return launch(args, read, notices, env),
            Err(problem) => return refuse(args, &notices, &[problem]),
        }
    }
    if let Err(conflict) = settings.add_environment(env, &mut notices) {
        let _log = log::start(&default_log());
        notices.iter().for_each(log::tell);
        let fields = log::object(conflict.fields.iter().map(|(name, value)| (*name, value.as_str().into())));
        tracing::error!(level = "fatal", %fields, "{}", conflict.message);
        return 1;
    }
    launch(args, settings, notices, env)
}

/// The configuration file, if one is named: it alone counts then.
fn config_file_of(settings: &Settings, env: &[(String, String)]) -> Option<String> {
    let by_flag = Some(settings.text("config-file").to_owned());
    let by_env = || env.iter().find(|(name, _)| name == "ETCD_CONFIG_FILE").map(|(_, file)| file.clone());
    by_flag.filter(|file| !file.is_empty()).or_else(by_env).filter(|file| !file.is_empty())
}

fn launch(args: &[String], mut settings: Settings, mut notices: Vec<Notice>, env: &[(String, String)]) -> u8 {
    if let Err(problem) = settings.settle(&mut notices) {
        return refuse(args, &notices, &[problem]);
    }
    let config = match Config::from_settings(&settings, &mut notices) {
        Ok(config) => config,
        Err(problems) => return refuse(args, &notices, &problems),
    };
    let problems = config.problems();
    if !problems.is_empty() {
        return refuse(args, &notices, &problems);
    }
    let log = match log::start(&config.log) {
        Ok(log) => log,
        Err(problem) => return refuse(args, &notices, &[problem]),
    };
    tracing::info!(args = %log::list(&masked(args)), "Running: ");
    notices.iter().for_each(log::tell);
    let end = member(config, Manager::of(env, std::process::id()));
    drop(log);
    match end {
        End::Code(code) => code,
        End::Signal(number) => die_by(number),
    }
}

/// Has the kernel hand out small pages only. The allocator spreads little over its arena, and with huge pages each 2 MiB that it touches counts whole:
/// an idle member has 33 MB resident with small pages and had 70 with huge ones, and a classroom runs ninety on one machine.
#[cfg(target_os = "linux")]
fn small_pages() {
    // A kernel without the call costs memory, nothing else.
    let _ = rustix::thread::disable_transparent_huge_pages(true);
}

#[cfg(not(target_os = "linux"))]
fn small_pages() {}

/// Has a panic of a member's own thread end the process, with the code of Go's panics. Without that thread a member would keep its ports and answer
/// nobody, or show an entry that is half applied; a service manager restarts one that has ended.
#[expect(clippy::disallowed_methods, reason = "the thread that could return a code is gone")]
fn end_on_panic() {
    let told = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |why| {
        told(why);
        if std::thread::current().name().is_some_and(|name| node::THREADS.contains(&name)) {
            std::process::exit(2);
        }
    }));
}

/// Lets this process have as many files and connections open as it is allowed to, as Go does for etcd: what a shell gives is often 1024.
fn many_files() {
    let mut limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    limit.current = limit.maximum;
    // With what there is, less works.
    let _ = rustix::process::setrlimit(rustix::process::Resource::Nofile, limit);
}

fn member(config: Config, manager: Manager) -> End {
    small_pages();
    many_files();
    end_on_panic();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(e) => {
            tracing::error!(level = "fatal", error = %e, "cannot start the runtime");
            return End::Code(1);
        }
    };
    let end = runtime.block_on(async {
        match founded(config).await {
            Ok(config) => run::run(config, manager).await,
            Err(problems) => {
                for problem in problems {
                    tracing::error!(level = "fatal", error = problem, "discovery failed");
                }
                End::Code(1)
            }
        }
    });
    // What still runs is cut off: connections that do not end, a stop that a second signal interrupts.
    runtime.shutdown_background();
    end
}

/// The configuration with its first members, if this is a first start.
async fn founded(mut config: Config) -> Result<Config, Vec<String>> {
    if config.has_log() {
        if config.discovery.is_on() {
            tracing::warn!("discovery token is ignored since cluster already initialized; valid logs are found");
        }
        return Ok(config);
    }
    config.discover().await.map_err(|problem| vec![problem])?;
    let problems = config.bootstrap_problems();
    if problems.is_empty() { Ok(config) } else { Err(problems) }
}

/// Dies by a signal, so that whoever started the program sees why it ended. The first process of a container cannot, and exits cleanly.
fn die_by(number: i32) -> u8 {
    if std::process::id() != 1 {
        let _ = signal_hook::low_level::emulate_default_handler(number);
    }
    0
}

#[cfg(test)]
mod flags_tests;
#[cfg(test)]
#[path = "server/tests.rs"]
mod served;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_has_etcds_four_lines() {
        let text = version();
        let heads: Vec<&str> = text.lines().filter_map(|line| line.split(": ").next()).collect();
        assert_eq!(heads, ["etcd Version", "Git SHA", "Go Version", "Go OS/Arch"]);
    }

    const PART: &str = "ETCD_LAB_TEST_PANICS";

    #[test]
    #[ignore = "not a test: the process that the next test starts"]
    fn a_thread_panics() {
        let name = std::env::var(PART).expect("started by the test below");
        end_on_panic();
        let thread = std::thread::Builder::new().name(name).spawn(|| panic!("as it was told to"));
        assert!(thread.expect("started").join().is_err());
    }

    #[test]
    fn a_panic_of_a_members_own_thread_ends_the_process_as_gos_does() {
        let code = |name: &str| {
            let mut command = std::process::Command::new(std::env::current_exe().expect("known"));
            command.args(["server::tests::a_thread_panics", "--exact", "--ignored", "--nocapture"]).env(PART, name);
            command.output().expect("started").status.code()
        };
        for name in node::THREADS {
            assert_eq!(code(name), Some(2), "{name}");
        }
        assert_eq!(code("tokio-runtime-worker"), Some(0), "a request's panic is that request's end");
    }

    #[test]
    fn mistakes_have_etcds_exit_codes() {
        let run = |words: &[&str]| {
            let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
            with(&words, &[])
        };
        assert_eq!(run(&["--bogus"]), 2);
        assert_eq!(run(&["--initial-cluster-state", "other"]), 2);
        assert_eq!(run(&["stray"]), 1);
        assert_eq!(run(&["grpc-proxy", "start"]), 1);
        assert_eq!(run(&["gateway", "stop"]), 1);
        assert_eq!(run(&["gateway", "start", "--nosuch"]), 1);
        assert_eq!([run(&["gateway"]), run(&["gateway", "--help"]), run(&["gateway", "start", "-h"])], [0; 3]);
        assert_eq!(run(&["--config-file", "/nowhere/etcd.yml"]), 1);
        assert_eq!(run(&["--heartbeat-interval", "0"]), 1);
        assert_eq!(run(&["--discovery-endpoints", "example.com"]), 1);
        assert_eq!(run(&["--name", "x", "--initial-cluster", "y=http://localhost:2380", "--data-dir", "/nowhere"]), 1);
    }
}
