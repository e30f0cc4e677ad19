//! Which flags were set, by the command line or the environment, and to what.
//!
//! Reads words as Go's `flag` package does: `-x` is `--x`, a value follows `=` or is the next word, a boolean needs `=`, the first
//! word that is no flag ends the flags. Values are checked against the table here, so that reading them later cannot fail.

use super::flags;
use super::flags::Flag;
use super::flags::Kind;
use super::flags::Standing;
use super::urls;
use super::urls::Url;
use crate::golang;
use std::collections::BTreeMap;
use std::time::Duration;

/// Something to log once the log is up: parsing comes first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Notice {
    pub(super) warn: bool,
    pub(super) message: String,
    /// Further fields of the log line.
    pub(super) fields: Vec<(&'static str, String)>,
}

impl Notice {
    pub(super) fn warn(message: impl Into<String>) -> Notice {
        Notice { warn: true, message: message.into(), fields: Vec::new() }
    }

    pub(super) fn info(message: impl Into<String>) -> Notice {
        Notice { warn: false, message: message.into(), fields: Vec::new() }
    }

    pub(super) fn with(mut self, name: &'static str, value: impl Into<String>) -> Notice {
        self.fields.push((name, value.into()));
        self
    }
}

/// What the words on the command line ask for.
#[derive(Debug)]
pub(super) enum Words {
    /// `-h`, `--help`.
    Help,
    /// `--version`.
    Version,
    /// Start a member.
    Run(Settings),
}

/// Why the words make no sense, and the exit code that goes with it.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum WordsError {
    /// Go's sentence; usage follows; code 2.
    Syntax(String),
    /// A word that is no flag; code 1.
    Stray(String),
}

/// The flags that were set. A flag that was not has its default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Settings {
    set: BTreeMap<&'static str, String>,
    of_a_file: bool,
}

impl Settings {
    /// Reads the words after the program's name.
    pub(super) fn parse(words: &[String]) -> Result<Words, WordsError> {
        let mut settings = Settings::default();
        let mut rest = words.iter();
        let mut stray = None;
        while let Some(word) = rest.next() {
            if word == "--" {
                stray = rest.next();
                break;
            }
            if !word.starts_with('-') || word == "-" {
                stray = Some(word);
                break;
            }
            if settings.take(word, &mut rest)? {
                return Ok(Words::Help);
            }
        }
        match stray {
            Some(word) => Err(WordsError::Stray(word.clone())),
            None if settings.is("version") => Ok(Words::Version),
            None => Ok(Words::Run(settings)),
        }
    }

    /// Takes one flag and, if it needs one, its value; true if it asks for help.
    fn take<'a>(&mut self, word: &str, rest: &mut impl Iterator<Item = &'a String>) -> Result<bool, WordsError> {
        let syntax = |text: String| WordsError::Syntax(text);
        let body = word.strip_prefix("--").unwrap_or(&word[1..]);
        if body.is_empty() || body.starts_with(['-', '=']) {
            return Err(syntax(format!("bad flag syntax: {word}")));
        }
        let (name, given) = match body.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (body, None),
        };
        let Some(flag) = flags::find(name) else {
            if name == "h" || name == "help" {
                return Ok(true);
            }
            return Err(syntax(format!("flag provided but not defined: -{name}")));
        };
        let is_switch = flag.kind == Kind::Bool || flag.standing == Standing::Ignored;
        let value = match given {
            Some(value) => value,
            None if is_switch => "true".to_owned(),
            None => rest.next().cloned().ok_or_else(|| syntax(format!("flag needs an argument: -{name}")))?,
        };
        self.put(flag, value).map_err(|(value, why)| match flag.kind {
            Kind::Bool => {
                syntax(format!("invalid boolean value {} for -{name}: {why}", golang::quote(value.as_bytes())))
            }
            _ => syntax(format!("invalid value {} for flag -{name}: {why}", quoted(&value))),
        })?;
        Ok(false)
    }

    /// Nothing yet, to be filled from a configuration file.
    pub(super) fn of_a_file() -> Settings {
        Settings { of_a_file: true, ..Settings::default() }
    }

    /// Whether a file says all this: some defaults are others then.
    pub(super) fn is_of_a_file(&self) -> bool {
        self.of_a_file
    }

    pub(super) fn put(&mut self, flag: &'static Flag, value: String) -> Result<(), (String, String)> {
        match flag.kind.check(&value) {
            Ok(()) => {
                self.set.insert(flag.name, value);
                Ok(())
            }
            Err(why) => Err((value, why)),
        }
    }

    /// Adds what the environment sets, by etcd's rules: a variable beside the flag of the same name is an error, an empty one counts as unset
    /// otherwise, an unknown one is warned about.
    pub(super) fn add_environment(
        &mut self,
        env: &[(String, String)],
        notices: &mut Vec<Notice>,
    ) -> Result<(), Notice> {
        let by_flag: BTreeMap<String, &'static Flag> =
            flags::FLAGS.iter().map(|flag| (variable(flag.name), flag)).collect();
        let from_words = self.clone();
        for (key, value) in env.iter().filter(|(key, _)| key.starts_with("ETCD_")) {
            let known = by_flag.get(key).filter(|flag| flag.name != "version");
            let Some(flag) = known else {
                notices.push(unknown_variable(key, value));
                continue;
            };
            if from_words.was_set(flag.name) {
                let text = "conflicting environment variable is shadowed by corresponding command-line flag \
                    (either unset environment variable or disable flag))";
                return Err(Notice::warn(text).with("environment-variable", key));
            }
            if value.is_empty() {
                continue;
            }
            if let Some(why) = flag.is_forgotten() {
                notices.push(unknown_variable(key, value).with("reason", why));
                continue;
            }
            self.put(flag, value.clone()).map_err(|(value, why)| {
                let text = format!("invalid value {} for {key}: {why}", quoted(&value));
                Notice::warn("failed to verify flags").with("error", text)
            })?;
            notices.push(
                Notice::info("recognized and used environment variable")
                    .with("variable-name", key)
                    .with("variable-value", if is_secret(flag) { String::new() } else { urls::masked(value) }),
            );
        }
        Ok(())
    }

    /// Moves values from old names to the names of etcd 3.6 and says what has no effect; the error is the first flag that is refused.
    pub(super) fn settle(&mut self, notices: &mut Vec<Notice>) -> Result<(), String> {
        let set: Vec<(&'static str, String)> = self.set.iter().map(|(name, value)| (*name, value.clone())).collect();
        for (name, value) in set {
            let flag = flags::find(name).expect("only flags of the table are ever set");
            match flag.standing {
                Standing::Works => {}
                Standing::Renamed(new) => {
                    if self.was_set(new) {
                        return Err(format!(
                            "cannot set --{name} and --{new} at the same time, please use --{new} only"
                        ));
                    }
                    notices.push(Notice::warn(format!("--{name} is deprecated: use --{new} instead")));
                    self.set.remove(name);
                    self.set.insert(new, value);
                }
                Standing::Ignored => notices.push(Notice::warn(format!("--{name} is ignored"))),
                Standing::NoEffect(why) => {
                    if value != flag.default {
                        notices.push(Notice::warn(format!("--{name} has no effect: {why}")).with("value", value));
                    }
                }
                Standing::Refused(_) if value == flag.default => {}
                Standing::Refused(why) => return Err(format!("--{name} cannot be used: {why}")),
            }
        }
        self.warn_of_renamed_without_effect(notices);
        Ok(())
    }

    /// A value that came by an old name to a flag without effect would otherwise pass in silence.
    fn warn_of_renamed_without_effect(&self, notices: &mut Vec<Notice>) {
        for (name, value) in &self.set {
            let flag = flags::find(name).expect("only flags of the table are ever set");
            let Standing::NoEffect(why) = flag.standing else { continue };
            let text = format!("--{name} has no effect: {why}");
            if value != flag.default && !notices.iter().any(|notice| notice.message == text) {
                notices.push(Notice::warn(text).with("value", value));
            }
        }
    }

    /// Whether the user set this flag.
    pub(super) fn was_set(&self, name: &str) -> bool {
        self.set.contains_key(name)
    }

    /// The value of a flag.
    pub(super) fn text(&self, name: &str) -> &str {
        match self.set.get(name) {
            Some(value) => value,
            None => flags::find(name).expect("a name of the table").default,
        }
    }

    /// The value of a flag, if it is not empty.
    pub(super) fn given(&self, name: &str) -> Option<String> {
        Some(self.text(name)).filter(|text| !text.is_empty()).map(str::to_owned)
    }

    pub(super) fn is(&self, name: &str) -> bool {
        golang::parse_bool(self.text(name)).expect("checked when set")
    }

    pub(super) fn int(&self, name: &str) -> i64 {
        let value = golang::parse_number(self.text(name)).expect("checked when set");
        i64::try_from(value).expect("checked when set")
    }

    pub(super) fn uint(&self, name: &str) -> u64 {
        u64::try_from(self.int(name)).expect("checked when set")
    }

    /// A duration; a negative one counts as zero.
    pub(super) fn duration(&self, name: &str) -> Duration {
        let nanos = golang::parse_nanos(self.text(name)).expect("checked when set");
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(0))
    }

    /// An empty list of URLs is the default, as in etcd.
    pub(super) fn urls(&self, name: &str) -> Vec<Url> {
        let default = || flags::find(name).map_or("", |flag| flag.default);
        let text = Some(self.text(name)).filter(|text| !text.is_empty()).unwrap_or_else(default);
        Url::parse_list(text).expect("checked when set")
    }

    /// A comma list without repeats and empty items, in order.
    pub(super) fn list(&self, name: &str) -> Vec<String> {
        let mut items: Vec<String> = Vec::new();
        for item in self.text(name).split(',').map(str::trim).filter(|item| !item.is_empty()) {
            if !items.iter().any(|have| have == item) {
                items.push(item.to_owned());
            }
        }
        items
    }
}

/// The environment variable of a flag.
pub(super) fn variable(flag: &str) -> String {
    format!("ETCD_{}", flag.to_ascii_uppercase().replace('-', "_"))
}

/// As Go quotes it, without what is nobody's business.
fn quoted(value: &str) -> String {
    golang::quote(urls::masked(value).as_bytes())
}

fn is_secret(flag: &Flag) -> bool {
    flag.name.ends_with("-password") || flag.name.ends_with("-user")
}

/// Container images set `ETCD_VERSION` and the like, so an unknown variable only warns. Its value stays out of the log: it may be a secret of somebody else's.
fn unknown_variable(key: &str, value: &str) -> Notice {
    if key == "ETCD_VERSION" {
        return Notice::warn("cannot set special environment variable").with("key", key).with("value", value);
    }
    Notice::warn("unrecognized environment variable").with("environment-variable", key)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Result<Words, WordsError> {
        Settings::parse(&text.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
    }

    fn settings(text: &str) -> Settings {
        match words(text) {
            Ok(Words::Run(settings)) => settings,
            other => panic!("{text}: {other:?}"),
        }
    }

    fn env(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect()
    }

    #[test]
    fn one_dash_two_dashes_equals_and_next_word_are_the_same() {
        for text in ["--name x", "-name x", "--name=x", "-name=x"] {
            assert_eq!(settings(text).text("name"), "x", "{text}");
        }
        assert!(!settings("--pre-vote=false").is("pre-vote"));
        assert!(settings("--client-cert-auth --name x").is("client-cert-auth"));
        assert_eq!(settings("--name a --name b").text("name"), "b");
    }

    #[test]
    fn mistakes_are_told_in_gos_words() {
        for (text, want) in [
            ("--bogus-flag", "flag provided but not defined: -bogus-flag"),
            ("--name", "flag needs an argument: -name"),
            ("---x", "bad flag syntax: ---x"),
            ("--pre-vote=x", "invalid boolean value \"x\" for -pre-vote: parse error"),
            ("--snapshot-count=x", "invalid value \"x\" for flag -snapshot-count: parse error"),
            ("--initial-cluster-state=foo", "invalid value \"foo\" for flag -initial-cluster-state: invalid value"),
            (
                "--listen-client-urls=foo",
                "invalid value \"foo\" for flag -listen-client-urls: URL scheme must be http, https, unix, or unixs: foo",
            ),
        ] {
            assert_eq!(words(text).expect_err(text), WordsError::Syntax(want.into()));
        }
        assert_eq!(words("--name x stray --y").expect_err("stray"), WordsError::Stray("stray".into()));
        // A boolean does not take the next word.
        assert_eq!(words("--pre-vote false").expect_err("stray"), WordsError::Stray("false".into()));
    }

    #[test]
    fn help_and_version_win_over_starting() {
        assert!(matches!(words("--help"), Ok(Words::Help)));
        assert!(matches!(words("-h --bogus"), Ok(Words::Help)));
        assert!(matches!(words("--version"), Ok(Words::Version)));
    }

    #[test]
    fn the_environment_fills_what_no_flag_sets() {
        let mut settings = settings("--name x");
        let mut notices = Vec::new();
        let vars = env(&[
            ("ETCD_DATA_DIR", "/d"),
            ("ETCD_WAL_DIR", ""),
            ("ETCD_BOGUS", "1"),
            ("ETCD_VERSION", "v3"),
            ("HOME", "/"),
        ]);
        settings.add_environment(&vars, &mut notices).expect("no conflict");
        assert_eq!((settings.text("data-dir"), settings.was_set("wal-dir")), ("/d", false));
        let said: Vec<&str> = notices.iter().map(|notice| notice.message.as_str()).collect();
        assert_eq!(
            said,
            [
                "recognized and used environment variable",
                "unrecognized environment variable",
                "cannot set special environment variable"
            ]
        );
    }

    #[test]
    fn a_variable_that_etcd_no_longer_knows_is_told_and_passed_over() {
        let mut settings = settings("--name x");
        let mut notices = Vec::new();
        let vars = env(&[("ETCD_ENABLE_V2", "true"), ("ETCD_PROXY", "on"), ("ETCD_DEBUG", "yes")]);
        settings.add_environment(&vars, &mut notices).expect("none is a problem");
        settings.settle(&mut Vec::new()).expect("nothing to refuse");
        for (notice, (variable, _)) in notices.iter().zip(&vars) {
            assert_eq!(notice.message, "unrecognized environment variable");
            assert_eq!(notice.fields[0], ("environment-variable", variable.clone()));
            assert!(notice.fields[1].1.contains("removed"), "{notice:?}");
        }
        assert_eq!((notices.len(), settings.was_set("enable-v2")), (3, false));
        // One that would let in who should be kept out is refused all the same.
        settings.add_environment(&env(&[("ETCD_CA_FILE", "/ca")]), &mut notices).expect("a text");
        assert!(settings.settle(&mut Vec::new()).is_err_and(|why| why.starts_with("--ca-file cannot be used")));
    }

    #[test]
    fn a_variable_beside_its_flag_is_an_error_even_if_empty() {
        for value in ["y", ""] {
            let mut settings = settings("--name x");
            let refused = settings.add_environment(&env(&[("ETCD_NAME", value)]), &mut Vec::new()).expect_err("both");
            assert!(refused.message.starts_with("conflicting environment variable is shadowed"));
        }
    }

    #[test]
    fn a_bad_variable_is_named() {
        let refused = Settings::default()
            .add_environment(&env(&[("ETCD_SNAPSHOT_COUNT", "x")]), &mut Vec::new())
            .expect_err("no number");
        assert_eq!(refused.fields, [("error", "invalid value \"x\" for ETCD_SNAPSHOT_COUNT: parse error".to_owned())]);
    }

    #[test]
    fn old_names_are_moved_and_never_given_twice() {
        let mut notices = Vec::new();
        let mut old = settings("--experimental-watch-progress-notify-interval 1m");
        old.settle(&mut notices).expect("works");
        assert_eq!(old.duration("watch-progress-notify-interval"), Duration::from_secs(60));
        assert_eq!(notices.len(), 1);
        let mut both = settings("--experimental-corrupt-check-time 1m --corrupt-check-time 2m");
        assert_eq!(
            both.settle(&mut Vec::new()),
            Err("cannot set --experimental-corrupt-check-time and --corrupt-check-time at the same time, please use --corrupt-check-time only".into())
        );
    }

    #[test]
    fn what_has_no_effect_is_said_and_what_would_mislead_is_refused() {
        let mut notices = Vec::new();
        settings("--unsafe-no-fsync --max-wals 5 --experimental-backend-bbolt-freelist-type=array")
            .settle(&mut notices)
            .expect("harmless");
        let said: Vec<&str> = notices.iter().map(|notice| notice.message.as_str()).collect();
        assert_eq!(
            said,
            [
                "--experimental-backend-bbolt-freelist-type is deprecated: use --backend-bbolt-freelist-type instead",
                "--unsafe-no-fsync has no effect: what is acknowledged is always synced",
                "--backend-bbolt-freelist-type has no effect: this server's store is not bbolt"
            ]
        );
        let refused = settings("--discovery http://a").settle(&mut Vec::new()).expect_err("wrong cluster");
        assert!(refused.starts_with("--discovery cannot be used: "), "{refused}");
        settings("--discovery-fallback exit --proxy off").settle(&mut Vec::new()).expect("the defaults are harmless");
    }
}
