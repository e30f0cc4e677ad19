//! Every flag is driven: set to another value than its default it has the effect that its row claims, by flag, by variable and in a file.

use super::config::Config;
use super::flags::FLAGS;
use super::flags::Flag;
use super::flags::Kind;
use super::flags::Standing;
use super::settings::Notice;
use super::settings::Settings;
use super::settings::Words;
use super::settings::variable;

/// Another value than the default, of the right kind.
fn another(flag: &Flag) -> String {
    let named = match flag.name {
        "initial-cluster" => Some("default=http://127.0.0.1:9"),
        "tls-min-version" => Some("TLS1.3"),
        "tls-max-version" => Some("TLS1.2"),
        "cipher-suites" => Some("TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384"),
        "quota-backend-bytes" => Some("123456789"),
        "bcrypt-cost" => Some("5"),
        // Any other text counts as basic.
        "metrics" => Some("extensive"),
        "log-rotation-config-json" => Some(r#"{"maxsize": 7}"#),
        _ => None,
    };
    if let Some(value) = named {
        return value.to_owned();
    }
    match flag.kind {
        Kind::Text => "another".to_owned(),
        Kind::Bool => (flag.default != "true").to_string(),
        Kind::Uint | Kind::Uint32 | Kind::Int => "77".to_owned(),
        Kind::Duration => "77s".to_owned(),
        Kind::Urls | Kind::Origins => "http://127.0.0.1:7777".to_owned(),
        Kind::Gates => "InitialCorruptCheck=true".to_owned(),
        Kind::Level => "WARN".to_owned(),
        Kind::OneOf(values) => {
            let other = values.iter().find(|value| **value != flag.default && !value.is_empty());
            other.unwrap_or(&flag.default).to_string()
        }
    }
}

/// Words that must stand beside a flag for it to mean anything.
fn beside(flag: &Flag) -> &'static [&'static str] {
    match flag.name {
        "experimental-lab-token" => &["--experimental-lab-listen=unix:/tmp/x"],
        "log-rotation-config-json" => &["--enable-log-rotation"],
        "experimental-enable-lease-checkpoint-persist" => &["--experimental-enable-lease-checkpoint"],
        _ => &[],
    }
}

fn parse(words: &[String]) -> Settings {
    match Settings::parse(words) {
        Ok(Words::Run(settings)) => settings,
        other => panic!("{words:?}: {other:?}"),
    }
}

/// The configuration and what was said on the way to it.
fn launch(mut settings: Settings) -> Result<(Config, Vec<Notice>), String> {
    let mut notices = Vec::new();
    settings.settle(&mut notices)?;
    let config = Config::from_settings(&settings, &mut notices).map_err(|problems| problems.join("; "))?;
    Ok((config, notices))
}

fn words(flag: &Flag, value: &str) -> Vec<String> {
    let beside = beside(flag).iter().map(|word| (*word).to_owned());
    beside.chain([format!("--{}={value}", flag.name)]).collect()
}

/// What is the same without the flag.
fn without(flag: &Flag) -> Config {
    launch(parse(&beside(flag).iter().map(|word| (*word).to_owned()).collect::<Vec<_>>())).expect("good").0
}

/// Flags that act before there is a configuration, and what proves them.
const BEFORE: [&str; 2] = ["version", "config-file"];

#[test]
fn every_flag_does_what_its_row_says() {
    for flag in FLAGS.iter().filter(|flag| !BEFORE.contains(&flag.name)) {
        let value = another(flag);
        let name = flag.name;
        let outcome = launch(parse(&words(flag, &value)));
        let said = |notices: &[Notice], text: &str| notices.iter().any(|notice| notice.message.contains(text));
        match flag.standing {
            Standing::Works => {
                let (config, notices) = outcome.unwrap_or_else(|why| panic!("{name}={value}: {why}"));
                if name == "experimental-enable-lease-checkpoint-persist" {
                    // Always so since etcd 3.6: without the flag that is said, with it all is well.
                    assert!(!said(&notices, "without persistence"), "{notices:?}");
                    continue;
                }
                assert_ne!(config, without(flag), "--{name}={value} changes nothing");
            }
            Standing::Renamed(new) => {
                let (config, notices) = outcome.unwrap_or_else(|why| panic!("{name}={value}: {why}"));
                assert!(said(&notices, &format!("--{name} is deprecated: use --{new}")), "{name}: {notices:?}");
                let (as_new, _) = launch(parse(&[format!("--{new}={value}")])).expect("the newer name");
                assert_eq!(config, as_new, "--{name} and --{new}");
            }
            Standing::NoEffect(why) => {
                let (config, notices) = outcome.unwrap_or_else(|why| panic!("{name}={value}: {why}"));
                assert!(said(&notices, &format!("--{name} has no effect: {why}")), "{name}: {notices:?}");
                assert_eq!(config, without(flag), "--{name} has an effect");
            }
            Standing::Ignored => {
                let (config, notices) = outcome.unwrap_or_else(|why| panic!("{name}={value}: {why}"));
                assert!(said(&notices, &format!("--{name} is ignored")), "{name}: {notices:?}");
                assert_eq!(config, without(flag), "--{name} has an effect");
            }
            Standing::Refused(why) => {
                assert_eq!(outcome.err(), Some(format!("--{name} cannot be used: {why}")));
            }
        }
    }
}

#[test]
fn every_flag_is_a_variable_too() {
    for flag in FLAGS.iter().filter(|flag| !BEFORE.contains(&flag.name)) {
        let value = another(flag);
        let mut by_variable = parse(&beside(flag).iter().map(|word| (*word).to_owned()).collect::<Vec<_>>());
        let mut notices = Vec::new();
        let env = [(variable(flag.name), value.clone())];
        by_variable.add_environment(&env, &mut notices).unwrap_or_else(|why| panic!("{}: {why:?}", flag.name));
        if flag.is_forgotten().is_some() {
            assert!(!by_variable.was_set(flag.name) && notices.len() == 1, "{}: {notices:?}", flag.name);
            continue;
        }
        assert_eq!(by_variable, parse(&words(flag, &value)), "{}", flag.name);
        assert!(notices.iter().any(|notice| notice.message == "recognized and used environment variable"));
    }
}

#[test]
fn every_default_is_the_default_said_aloud() {
    for flag in FLAGS.iter().filter(|flag| !BEFORE.contains(&flag.name) && flag.standing == Standing::Works) {
        // Said aloud these three mean more: no advertised URL is made up, and pages may call.
        if ["listen-client-urls", "cors", "data-dir"].contains(&flag.name) {
            continue;
        }
        let (config, _) =
            launch(parse(&words(flag, flag.default))).unwrap_or_else(|why| panic!("{}: {why}", flag.name));
        assert_eq!(config, without(flag), "--{}={}", flag.name, flag.default);
    }
}

#[test]
fn the_printed_table_has_a_line_for_every_flag() {
    let table = super::flags::table();
    assert_eq!(table.lines().count(), FLAGS.len());
    assert!(table.lines().all(|line| line.split('\t').count() == 5), "{table}");
    assert!(table.contains("listen-client-urls\thttp://localhost:2379\tETCD_LISTEN_CLIENT_URLS\tworks\t\n"));
}
