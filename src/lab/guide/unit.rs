//! A systemd unit file, as far as the lab's own `systemctl` acts on it.
//!
//! Strict where systemd is lenient: a directive that is not in [`DIRECTIVES`] is an error, because a stand-in that silently did
//! nothing would teach that it had. Left out: templates, drop-ins, conditions, dependencies between units (there is one).
//!
//! Source: systemd.unit(5), systemd.service(5), systemd.syntax(7).

use crate::lab::guide::settings;
use std::path::PathBuf;
use std::time::Duration;

/// Section, name, and whether the stand-in acts on it or only reads it.
const DIRECTIVES: [(&str, &str, bool); 17] = [
    ("Unit", "Description", true),
    ("Unit", "Documentation", false),
    ("Unit", "After", false),
    ("Unit", "Wants", false),
    ("Unit", "Requires", false),
    ("Service", "Type", true),
    ("Service", "ExecStart", true),
    ("Service", "Environment", true),
    ("Service", "EnvironmentFile", true),
    ("Service", "WorkingDirectory", true),
    ("Service", "Restart", true),
    ("Service", "RestartSec", true),
    ("Service", "TimeoutStartSec", true),
    ("Service", "User", false),
    ("Service", "LimitNOFILE", false),
    ("Install", "WantedBy", true),
    ("Install", "Alias", false),
];

/// What systemd waits for a start if the unit does not say (`DefaultTimeoutStartSec`).
const START_WITHIN: Duration = Duration::from_secs(90);

/// systemd's own pause between two starts (`DefaultRestartSec`).
const RESTART_AFTER: Duration = Duration::from_millis(100);

/// When a service that has ended is started again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Restart {
    No,
    OnFailure,
    Always,
}

/// One service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Unit {
    pub(crate) description: String,
    /// `Type=notify`: it is started once it has said `READY=1`.
    pub(crate) notifies: bool,
    /// Program and arguments.
    pub(crate) exec: Vec<String>,
    pub(crate) environment: Vec<(String, String)>,
    /// Files with more of it; a leading `-`: it need not be there.
    pub(crate) environment_files: Vec<String>,
    pub(crate) folder: Option<PathBuf>,
    pub(crate) restart: Restart,
    pub(crate) restart_after: Duration,
    /// None: as long as it takes.
    pub(crate) start_within: Option<Duration>,
    /// It has an `[Install]` section that says where.
    pub(crate) wanted_by: Option<String>,
}

impl Unit {
    /// Reads a unit file.
    ///
    /// # Errors
    /// The line, what is wrong with it, and what may stand there.
    pub(crate) fn parse(text: &str) -> Result<Unit, String> {
        let mut unit = Unit {
            description: String::new(),
            notifies: false,
            exec: Vec::new(),
            environment: Vec::new(),
            environment_files: Vec::new(),
            folder: None,
            restart: Restart::No,
            restart_after: RESTART_AFTER,
            start_within: Some(START_WITHIN),
            wanted_by: None,
        };
        let mut section = String::new();
        for (line, text) in logical(text) {
            let at = |what: String| format!("line {line}: {what}");
            if let Some(name) = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')) {
                if !DIRECTIVES.iter().any(|(s, ..)| *s == name) {
                    return Err(at(format!("there is no section [{name}]; there are [Unit], [Service] and [Install]")));
                }
                section = name.to_owned();
                continue;
            }
            let (key, value) = text.split_once('=').ok_or_else(|| at(format!("`{text}` is no `Name=value`")))?;
            unit.set(&section, key.trim(), value.trim()).map_err(at)?;
        }
        if unit.exec.is_empty() {
            return Err("the unit has no ExecStart=, so there is nothing to start".into());
        }
        Ok(unit)
    }

    fn set(&mut self, section: &str, key: &str, value: &str) -> Result<(), String> {
        if !DIRECTIVES.iter().any(|(s, k, _)| (*s, *k) == (section, key)) {
            let known: Vec<&str> = DIRECTIVES.iter().filter(|(s, ..)| *s == section).map(|(_, k, _)| *k).collect();
            return Err(format!(
                "the lab's systemctl does not know {key}= in [{section}]; it knows {}",
                known.join(", ")
            ));
        }
        match key {
            "Description" => self.description = value.to_owned(),
            "Type" => {
                self.notifies = match value {
                    "notify" => true,
                    "simple" | "exec" => false,
                    _ => return Err(format!("Type={value} is not known here; there are notify, simple and exec")),
                }
            }
            "ExecStart" => self.exec = words(value)?,
            "Environment" => {
                for pair in words(value)? {
                    let (name, value) = pair.split_once('=').ok_or_else(|| format!("`{pair}` is no NAME=value"))?;
                    self.environment.push((name.to_owned(), value.to_owned()));
                }
            }
            "EnvironmentFile" => self.environment_files.push(value.to_owned()),
            "WorkingDirectory" => self.folder = Some(value.into()),
            "Restart" => {
                self.restart = match value {
                    "no" => Restart::No,
                    "on-failure" => Restart::OnFailure,
                    "always" => Restart::Always,
                    _ => return Err(format!("Restart={value} is not known here; there are no, on-failure and always")),
                }
            }
            "RestartSec" => self.restart_after = span(value)?,
            "TimeoutStartSec" => {
                self.start_within = if matches!(value, "0" | "infinity") { None } else { Some(span(value)?) };
            }
            "WantedBy" => self.wanted_by = Some(value.to_owned()),
            _ => {}
        }
        Ok(())
    }

    /// The command line with `${NAME}` and `$NAME` filled in from `environment`.
    pub(crate) fn command(&self, environment: &[(String, String)]) -> Vec<String> {
        let value = |name: &str| environment.iter().rev().find(|(n, _)| n == name).map_or("", |(_, v)| v.as_str());
        let mut out = Vec::new();
        for word in &self.exec {
            match word.strip_prefix('$').filter(|name| !name.starts_with('{')) {
                // A variable that is a word of its own may be several.
                Some(name) => out.extend(value(name).split_whitespace().map(str::to_owned)),
                None => out.push(filled(word, &value)),
            }
        }
        out
    }
}

fn filled<'a>(word: &str, value: &impl Fn(&str) -> &'a str) -> String {
    let mut out = String::new();
    let mut rest = word;
    while let Some((before, after)) = rest.split_once("${") {
        let Some((name, after)) = after.split_once('}') else { break };
        out += before;
        out += value(name);
        rest = after;
    }
    out + rest
}

/// The lines that say something, with those joined that a backslash continues; each with the number of its first.
fn logical(text: &str) -> Vec<(usize, String)> {
    let mut lines: Vec<(usize, String)> = Vec::new();
    let mut goes_on = false;
    for (n, line) in text.lines().enumerate() {
        let comment = line.trim_start().starts_with(['#', ';']) || (!goes_on && line.trim().is_empty());
        if comment {
            continue;
        }
        let (body, more) = line.strip_suffix('\\').map_or((line, false), |body| (body, true));
        match lines.last_mut().filter(|_| goes_on) {
            Some((_, before)) => {
                before.push(' ');
                *before += body.trim();
            }
            None => lines.push((n + 1, body.trim().to_owned())),
        }
        goes_on = more;
    }
    lines
}

/// Splits at blanks, except within quotes.
fn words(text: &str) -> Result<Vec<String>, String> {
    let mut out = Vec::new();
    let mut word: Option<String> = None;
    let mut open: Option<char> = None;
    for c in text.chars() {
        match open {
            Some(quote) if c == quote => open = None,
            Some(_) => word.get_or_insert_default().push(c),
            None if c == '"' || c == '\'' => {
                open = Some(c);
                word.get_or_insert_default();
            }
            None if c.is_whitespace() => out.extend(word.take()),
            None => word.get_or_insert_default().push(c),
        }
    }
    if open.is_some() {
        return Err(format!("a quote in `{text}` has no end"));
    }
    out.extend(word);
    Ok(out)
}

/// `5`, `5s`, `200ms` or `2min`.
fn span(text: &str) -> Result<Duration, String> {
    if let Ok(seconds) = text.parse::<u64>() {
        return Ok(Duration::from_secs(seconds));
    }
    settings::duration(&text.replace("min", "m"))
        .map_err(|_| format!("`{text}` is no time; write 5, 5s, 200ms or 2min"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HARD_WAY: &str = "[Unit]\nDescription=etcd\nDocumentation=https://github.com/coreos\n\n[Service]\nType=notify\n\
        ExecStart=/usr/local/bin/etcd \\\n  --name ${NAME} \\\n  --data-dir=\"/var/lib/my etcd\" $MORE\nEnvironment=NAME=n1 \"MORE=--a --b\"\n\
        Restart=on-failure\nRestartSec=5\n\n[Install]\nWantedBy=multi-user.target\n";

    #[test]
    fn a_unit_is_read_as_systemd_reads_it() {
        let unit = Unit::parse(HARD_WAY).unwrap_or_else(|e| panic!("{e}"));
        assert!(unit.notifies);
        assert_eq!((unit.restart, unit.restart_after), (Restart::OnFailure, Duration::from_secs(5)));
        assert_eq!(unit.wanted_by.as_deref(), Some("multi-user.target"));
        let command = unit.command(&unit.environment);
        assert_eq!(command, ["/usr/local/bin/etcd", "--name", "n1", "--data-dir=/var/lib/my etcd", "--a", "--b"]);
    }

    #[test]
    fn what_is_not_known_is_an_error_that_names_the_line_and_what_is() {
        for (from, to, says) in [
            (
                "Restart=",
                "Restrat=",
                "line 11: the lab's systemctl does not know Restrat= in [Service]; it knows Type, ExecStart",
            ),
            ("[Install]", "[Instal]", "line 14: there is no section [Instal]"),
            ("Type=notify", "Type=forking", "line 6: Type=forking is not known here"),
            ("RestartSec=5", "RestartSec=soon", "line 12: `soon` is no time"),
            ("Description=etcd", "Description", "line 2: `Description` is no `Name=value`"),
            ("ExecStart=/usr/local/bin/etcd", "ExecStart=", "line 7: a quote"),
        ] {
            let text = HARD_WAY.replacen(from, to, 1).replace(
                "data-dir=\"/var/lib/my etcd\"",
                if to == "ExecStart=" { "data-dir=\"x" } else { "data-dir=x" },
            );
            let error = Unit::parse(&text).expect_err(to);
            assert!(error.starts_with(says), "{to}: {error}");
        }
        assert!(Unit::parse("[Service]\nType=notify\n").expect_err("empty").contains("no ExecStart"));
    }
}
