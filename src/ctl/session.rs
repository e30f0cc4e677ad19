//! What a running command holds: its arguments, its streams, and the client that the global flags describe.
//!
//! The environment is looked at when a command first wants the client: so `version` never complains about it, and a
//! wrong argument is reported before a wrong variable, as in etcd. Source: etcd `ctlv3/command/global.go`,
//! `pkg/flags`.

use super::Input;
use super::args::Args;
use super::args::Kind;
use super::commands::GLOBAL_FLAGS;
use super::exit;
use super::exit::Exit;
use super::exit::Outcome;
use super::password;
use super::print::Answer;
use super::print::Format;
use super::print::Page;
use crate::client;
use crate::client::Call;
use crate::client::Client;
use crate::client::Config;
use crate::client::TlsFiles;
use crate::doctor::Patient;
use crate::golang;
use std::fmt::Display;
use std::io::BufRead as _;
use std::io::Read as _;
use std::io::Write;
use std::time::Duration;

/// Read by `watch` itself.
const WATCH_VARIABLES: [&str; 2] = ["ETCDCTL_WATCH_KEY", "ETCDCTL_WATCH_RANGE_END"];

const CONFLICT: &str = "conflicting environment variable is shadowed by corresponding command-line flag (either unset \
                        environment variable or disable flag))";

/// One command's world.
pub(super) struct Session<'a> {
    pub(super) args: Args,
    env: &'a [(String, String)],
    pub(super) stdin: Input,
    pub(super) out: &'a mut dyn Write,
    pub(super) err: &'a mut dyn Write,
    pub(super) format: Format,
    /// Set by the command, for `--print-value-only`.
    pub(super) value_only: bool,
    config: Option<Config>,
    discovered: bool,
}

impl<'a> Session<'a> {
    pub(super) fn new(
        args: Args,
        env: &'a [(String, String)],
        stdin: Input,
        out: &'a mut dyn Write,
        err: &'a mut dyn Write,
    ) -> Session<'a> {
        Session {
            args,
            env,
            stdin,
            out,
            err,
            format: Format::Simple,
            value_only: false,
            config: None,
            discovered: false,
        }
    }

    /// A variable of the environment; empty if it is not there.
    pub(super) fn variable(&self, name: &str) -> &'a str {
        self.env.iter().find(|(other, _)| other == name).map_or("", |(_, value)| value)
    }

    pub(super) fn line(&mut self, text: impl Display) -> Outcome {
        Ok(writeln!(self.out, "{text}")?)
    }

    /// Prints `answer` in the format of `--write-out`.
    pub(super) fn print(&mut self, answer: &dyn Answer) -> Outcome {
        let mut page = Page { hex: self.args.is_set("hex"), value_only: self.value_only, ..Page::default() };
        let shown = page.show(self.format, answer);
        self.out.write_all(&page.out)?;
        self.err.write_all(&page.err)?;
        self.out.flush()?;
        shown.map_err(Exit::bad_feature)
    }

    /// Asks the cluster, within the command's time.
    pub(super) async fn ask<C: Call>(&mut self, request: C) -> Result<C::Answer, Exit> {
        let answer = self.client().await?.call(request).await;
        answer.map_err(|error| self.failed(exit::ERROR, &error))
    }

    /// Asks the cluster, and waits as long as it takes.
    pub(super) async fn ask_patiently<C: Call>(&mut self, request: C) -> Result<C::Answer, Exit> {
        let answer = self.client().await?.patient(Session::NO_LIMIT).call(request).await;
        answer.map_err(|error| self.failed(exit::ERROR, &error))
    }

    /// A client as the global flags describe it.
    pub(super) async fn client(&mut self) -> Result<Client, Exit> {
        let config = self.config().await?;
        self.client_with(config).await
    }

    /// A client of one endpoint, otherwise as the flags describe it.
    pub(super) async fn client_of(&mut self, endpoint: &str) -> Result<Client, Exit> {
        let endpoints = vec![endpoint.to_owned()];
        let config = Config { endpoints, ..self.config().await? };
        self.client_with(config).await
    }

    /// A client as `config` has it, logged in.
    pub(super) async fn client_with(&mut self, config: Config) -> Result<Client, Exit> {
        if config.endpoints.is_empty() {
            return Err(Exit::new(exit::BAD_CONNECTION, "etcdclient: no available endpoints"));
        }
        let client = Client::new(config);
        match client.authenticate().await {
            Ok(()) => Ok(client),
            Err(error) if error.says(&crate::error::Error::AuthNotEnabled.to_string()) => {
                self.log("warn", &[("msg", "auth is not enabled on the server; user and password are not used")])?;
                Ok(client)
            }
            Err(error) => Err(self.failed(exit::BAD_CONNECTION, &error)),
        }
    }

    /// The exit for a failed call. If no member could be reached, says why, where etcd's client logs it.
    pub(super) fn failed(&mut self, code: u8, error: &client::Error) -> Exit {
        self.explain(error);
        Exit::new(code, error.to_string())
    }

    /// Logs what kept a call from reaching a member.
    pub(super) fn explain(&mut self, error: &client::Error) {
        if let (client::Error::Deadline { .. }, Some(cause)) = (error, error.cause()) {
            let text = format!(
                "rpc error: code = DeadlineExceeded desc = latest balancer error: last connection error: \
                 connection error: desc = \"transport: Error while dialing: {cause}\""
            );
            // The log is a courtesy: the error itself is on its way.
            let _ = self
                .log("warn", &[("logger", "etcd-client"), ("msg", "no endpoint could be reached"), ("error", &text)]);
        }
    }

    /// The global flags as a client's configuration, with the endpoints that `--discovery-srv` finds; if it finds any, those of `--endpoints`
    /// count no more, as in etcd.
    pub(super) async fn config(&mut self) -> Result<Config, Exit> {
        let config = self.flags()?;
        let domain = self.args.text("discovery-srv").unwrap_or_default().to_owned();
        if domain.is_empty() || std::mem::replace(&mut self.discovered, true) {
            return Ok(config);
        }
        let suffix = self.args.text("discovery-srv-name").unwrap_or_default().to_owned();
        let mut endpoints = client::discover(&domain, &suffix).await.map_err(Exit::error)?;
        if self.args.is_given("insecure-discovery") && !self.args.is_set("insecure-discovery") {
            let (plain, secure): (Vec<String>, Vec<String>) =
                endpoints.into_iter().partition(|endpoint| endpoint.starts_with("http://"));
            endpoints = secure;
            for endpoint in plain {
                let name = golang::quote(endpoint.as_bytes());
                writeln!(self.err, "ignoring discovered insecure endpoint {name}")?;
            }
        }
        let endpoints = if endpoints.is_empty() { config.endpoints } else { endpoints };
        Ok(self.config.insert(Config { endpoints, ..config }).clone())
    }

    /// The global flags as a client's configuration; reads the environment on the way, once.
    pub(super) fn flags(&mut self) -> Result<Config, Exit> {
        if let Some(config) = &self.config {
            return Ok(config.clone());
        }
        self.take_environment()?;
        if self.args.is_set("debug") {
            self.dump_flags()?;
        }
        let defaults = Config::default();
        // An empty list is none: whoever types `--endpoints=$UNSET` does not mean this machine.
        let endpoints = self.args.text("endpoints").map(|text| match text {
            "" => Vec::new(),
            text => text.split(',').map(|endpoint| endpoint.trim().to_owned()).collect(),
        });
        let bytes = |name: &str, default: usize| match self.args.number(name) {
            0 => default,
            given => usize::try_from(given).unwrap_or(default),
        };
        let patience = lab_patience();
        let token = self.args.text("auth-jwt-token").filter(|token| !token.is_empty()).map(str::to_owned);
        let config = Config {
            endpoints: endpoints.unwrap_or(defaults.endpoints),
            dial_timeout: match self.args.time("dial-timeout") {
                None => defaults.dial_timeout,
                // As long as it takes.
                Some(Duration::ZERO) => Duration::MAX,
                Some(limit) => limit,
            }
            .saturating_mul(patience),
            call_timeout: self
                .args
                .time("command-timeout")
                .or(defaults.call_timeout)
                .map(|limit| limit.saturating_mul(patience)),
            keepalive_time: self.args.time("keepalive-time").unwrap_or(defaults.keepalive_time),
            keepalive_timeout: self.args.time("keepalive-timeout").unwrap_or(defaults.keepalive_timeout),
            request_bytes_max: bytes("max-request-bytes", defaults.request_bytes_max),
            response_bytes_max: bytes("max-recv-bytes", defaults.response_bytes_max),
            tls: self.tls_files("")?,
            user: if token.is_some() { None } else { self.user("", "Password: ")? },
            token,
        };
        let format = self.args.text("write-out").unwrap_or("simple");
        self.format = Format::parse(format).ok_or_else(|| Exit::bad_feature("unsupported output format"))?;
        self.config = Some(config.clone());
        Ok(config)
    }

    /// The certificate files that the flags name which begin with `prefix`.
    fn files(&self, prefix: &str) -> Result<TlsFiles, Exit> {
        let file = |name: &str| match self.args.text(&format!("{prefix}{name}")) {
            Some("") if prefix.is_empty() => Err(Exit::bad_args(format!("empty string is passed to --{name} option"))),
            given => Ok(given.unwrap_or_default().to_owned()),
        };
        Ok(TlsFiles {
            cert: file("cert")?,
            key: file("key")?,
            cacert: file("cacert")?,
            skip_verify: self.args.is_set("insecure-skip-tls-verify"),
        })
    }

    /// TLS as the flags that begin with `prefix` have it; nothing where it is not wanted. Since etcd 3.6 `--insecure-skip-tls-verify` alone wants it, too, for
    /// an endpoint without a scheme. Source: etcd `client/v3/config.go` (`newTLSConfig`).
    pub(super) fn tls_files(&self, prefix: &str) -> Result<Option<std::sync::Arc<rustls::ClientConfig>>, Exit> {
        let files = self.files(prefix)?;
        let insecure = format!("{prefix}insecure-transport");
        let plain = !self.args.is_given(&insecure) || self.args.is_set(&insecure);
        if files == TlsFiles::default() && plain {
            return Ok(None);
        }
        files.load().map(Some).map_err(|error| Exit::bad_args(error.to_string()))
    }

    /// User and password of the flags that begin with `prefix`; asks for a password that is missing. Nobody, if either is empty: etcd's client does
    /// not log in then, and the member says what it misses. Source: etcd `client/v3/client.go` (`getToken`).
    pub(super) fn user(&mut self, prefix: &str, prompt: &str) -> Result<Option<(String, String)>, Exit> {
        let text = |name: &str| self.args.text(&format!("{prefix}{name}")).unwrap_or_default().to_owned();
        let (user, password) = (text("user"), text("password"));
        if user.is_empty() {
            return Ok(None);
        }
        let (user, password) = match user.split_once(':') {
            _ if !password.is_empty() => (user, password),
            Some((name, password)) => (name.to_owned(), password.to_owned()),
            None => (user, self.ask_password(prompt)?),
        };
        Ok(Some((user, password)).filter(|(user, password)| !user.is_empty() && !password.is_empty()))
    }

    /// Asks for a password, without showing it where a person types it.
    pub(super) fn ask_password(&mut self, prompt: &str) -> Result<String, Exit> {
        let read = password::ask(&mut self.out, &mut self.stdin, prompt);
        read?.ok_or_else(|| Exit::silent(password::INTERRUPTED))
    }

    /// The next line of the standard input, without its end.
    pub(super) fn read_line(&mut self) -> Result<String, Exit> {
        let mut line = String::new();
        self.stdin.read_line(&mut line)?;
        Ok(line.trim_end_matches(['\r', '\n']).to_owned())
    }

    /// The rest of the standard input.
    pub(super) fn read_stdin(&mut self) -> Result<Vec<u8>, Exit> {
        let mut bytes = Vec::new();
        self.stdin.read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    /// Gives the flags that were not given the values that the environment has for them.
    fn take_environment(&mut self) -> Outcome {
        let variable = |name: &str| format!("ETCDCTL_{}", name.to_uppercase().replace('-', "_"));
        let mut used = Vec::new();
        for flag in GLOBAL_FLAGS {
            let name = variable(flag.name);
            let Some((_, value)) = self.env.iter().find(|(other, _)| *other == name) else { continue };
            if self.args.is_given(flag.name) {
                self.log("fatal", &[("msg", CONFLICT), ("environment-variable", &name)])?;
                return Err(Exit::silent(exit::ERROR));
            }
            if !value.is_empty() {
                // A value that the flag cannot have is passed over, as etcd does.
                let _ = self.args.set(flag, value.clone());
                used.push(name);
            }
        }
        for (name, value) in self.env {
            let known = used.contains(name)
                || WATCH_VARIABLES.contains(&name.as_str())
                || (name == "ETCDCTL_API" && value == "3");
            if name.starts_with("ETCDCTL_") && !known {
                let pair = format!("{name}={value}");
                self.log("warn", &[("msg", "unrecognized environment variable"), ("environment-variable", &pair)])?;
            }
        }
        Ok(())
    }

    /// `--debug`: every global flag as the variable that would set it.
    fn dump_flags(&mut self) -> Outcome {
        for flag in GLOBAL_FLAGS {
            let name = flag.name.to_uppercase().replace('-', "_");
            let value = self.args.text(flag.name).unwrap_or(flag.default).to_owned();
            let value = match flag.kind {
                Kind::List if !value.starts_with('[') => format!("[{value}]"),
                _ => value,
            };
            writeln!(self.err, "ETCDCTL_{name}={value}")?;
        }
        Ok(())
    }

    /// What a doctor needs to know of these flags. An error is one of the flags themselves.
    pub(super) async fn patient(&mut self) -> Result<Patient, Exit> {
        Ok(Patient { config: self.config().await?, files: self.files("")? })
    }

    /// One line of JSON on the error stream, as etcd's tools log.
    pub(super) fn log(&mut self, level: &str, fields: &[(&str, &str)]) -> Outcome {
        use super::print::json;
        let mut line = json::Object::default();
        line.always("level", golang::json(level)).always("ts", golang::json(&now()));
        for (name, value) in fields {
            line.always(name, golang::json(value));
        }
        Ok(writeln!(self.err, "{}", line.end())?)
    }

    /// How long a command that sets itself no limit may take: for ever.
    pub(super) const NO_LIMIT: Option<Duration> = None;
}

fn now() -> String {
    let format =
        time::macros::format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z");
    time::OffsetDateTime::now_utc().format(&format).unwrap_or_default()
}

/// So many times longer a command waits than it was told to. In the shell of a lab whose clock is slow or held, members take that much longer:
/// `ETCD_LAB` names the lab's folder, whose file `clock` says how slow it is. Without a lab: 1.
fn lab_patience() -> u32 {
    let Some(folder) = std::env::var_os("ETCD_LAB") else { return 1 };
    patience_of(&std::fs::read_to_string(std::path::Path::new(&folder).join("clock")).unwrap_or_default())
}

fn patience_of(clock: &str) -> u32 {
    clock.trim().parse().map_or(1, |slower: u32| slower.clamp(1, 1000))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_labs_clock_is_a_number_of_times() {
        let said = ["", "50\n", "0", "99999", "held", "-3"].map(patience_of);
        assert_eq!(said, [1, 50, 1, 1000, 1, 1]);
    }
}
