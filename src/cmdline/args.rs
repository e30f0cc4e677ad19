//! Command lines: flags among words, as Go's pflag reads them, with its complaints.
//!
//! Flags and words may be mixed; `--` ends the flags. A value follows a flag as `--name=value` or as the next word,
//! a switch takes one only after `=`. Words are bytes: keys and values need not be text.

use crate::golang;
use std::collections::BTreeMap;
use std::time::Duration;

/// One flag of the table.
#[derive(Debug)]
pub(crate) struct Flag {
    pub(crate) name: &'static str,
    /// `w` for `-w`; a blank if there is none.
    pub(crate) short: char,
    pub(crate) kind: Kind,
    pub(crate) default: &'static str,
    pub(crate) help: &'static str,
}

/// What a flag's value must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Switch,
    Text,
    Number,
    Time,
    /// Comma-separated; given again, it adds.
    List,
}

/// A command line, read.
#[derive(Debug, Default)]
pub(crate) struct Args {
    values: BTreeMap<&'static str, String>,
    /// The words that are not flags.
    pub(crate) words: Vec<Vec<u8>>,
    /// How many of them stand before `--`, if there is one.
    pub(crate) before_dashes: Option<usize>,
}

/// `-h` and `--help`, which every command has.
pub(crate) const HELP: Flag =
    Flag { name: "help", short: 'h', kind: Kind::Switch, default: "false", help: "show this text" };

/// Why a command line was refused; or a cry for help.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    Help,
    Because(String),
}

impl Args {
    /// Reads `line` with the flags that `known` yields.
    pub(crate) fn parse(line: &[Vec<u8>], known: &[&'static Flag]) -> Result<Args, Refused> {
        let mut args = Args::default();
        let mut line = line.iter();
        while let Some(word) = line.next() {
            let text = String::from_utf8_lossy(word);
            if text == "--" {
                args.before_dashes = Some(args.words.len());
                args.words.extend(line.cloned());
                break;
            } else if let Some(long) = text.strip_prefix("--") {
                args.take_long(long, &mut line, known)?;
            } else if text.len() > 1 && text.starts_with('-') {
                args.take_short(&text[1..], &mut line, known)?;
            } else {
                args.words.push(word.clone());
            }
        }
        if args.is_set("help") { Err(Refused::Help) } else { Ok(args) }
    }

    fn take_long<'a>(
        &mut self,
        text: &str,
        rest: &mut impl Iterator<Item = &'a Vec<u8>>,
        known: &[&'static Flag],
    ) -> Result<(), Refused> {
        let (name, value) = match text.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (text, None),
        };
        if name.is_empty() || name.starts_with('-') {
            return Err(Refused::Because(format!("bad flag syntax: --{text}")));
        }
        let flag = find(known, |flag| flag.name == name);
        let flag = flag.ok_or_else(|| Refused::Because(format!("unknown flag: --{name}")))?;
        let missing = || Refused::Because(format!("flag needs an argument: --{name}"));
        let value = match value {
            Some(value) => value,
            None if flag.kind == Kind::Switch => "true".to_owned(),
            None => String::from_utf8_lossy(rest.next().ok_or_else(missing)?).into_owned(),
        };
        self.set(flag, value)
    }

    /// Reads `-abc`: switches one after the other, and a value after the first letter that wants one.
    fn take_short<'a>(
        &mut self,
        group: &str,
        rest: &mut impl Iterator<Item = &'a Vec<u8>>,
        known: &[&'static Flag],
    ) -> Result<(), Refused> {
        let mut letters = group.chars();
        while let Some(letter) = letters.next() {
            let flag = find(known, |flag| flag.short == letter);
            let unknown = || Refused::Because(format!("unknown shorthand flag: '{letter}' in -{group}"));
            let flag = flag.ok_or_else(unknown)?;
            let tail = letters.as_str();
            let value = match tail.strip_prefix('=') {
                Some(value) => value.to_owned(),
                None if flag.kind == Kind::Switch => {
                    self.set(flag, "true".to_owned())?;
                    continue;
                }
                None if !tail.is_empty() => tail.to_owned(),
                None => {
                    let missing = || Refused::Because(format!("flag needs an argument: '{letter}' in -{group}"));
                    String::from_utf8_lossy(rest.next().ok_or_else(missing)?).into_owned()
                }
            };
            return self.set(flag, value);
        }
        Ok(())
    }

    /// Gives `flag` a value, if it is one of the right kind.
    pub(crate) fn set(&mut self, flag: &'static Flag, value: String) -> Result<(), Refused> {
        let checked = match flag.kind {
            Kind::Switch => golang::parse_bool(&value).map(|_| ()),
            Kind::Number => golang::parse_int(&value, 0).map(|_| ()),
            Kind::Time => golang::parse_nanos(&value).map(|_| ()),
            Kind::Text | Kind::List => Ok(()),
        };
        if let Err(why) = checked {
            let name = match flag.short {
                ' ' => format!("--{}", flag.name),
                short => format!("-{short}, --{}", flag.name),
            };
            let value = golang::quote(value.as_bytes());
            return Err(Refused::Because(format!("invalid argument {value} for \"{name}\" flag: {why}")));
        }
        match self.values.get_mut(flag.name) {
            Some(before) if flag.kind == Kind::List && !before.is_empty() && !value.is_empty() => {
                before.push(',');
                before.push_str(&value);
            }
            Some(_) if flag.kind == Kind::List && value.is_empty() => {}
            _ => drop(self.values.insert(flag.name, value)),
        }
        Ok(())
    }

    /// Whether the flag was given at all.
    pub(crate) fn is_given(&self, name: &str) -> bool {
        self.values.contains_key(name)
    }

    /// A switch.
    pub(crate) fn is_set(&self, name: &str) -> bool {
        self.values.get(name).is_some_and(|value| golang::parse_bool(value) == Ok(true))
    }

    /// The text given for `name`.
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        self.values.get(name).map(String::as_str)
    }

    /// The number given for `name`, or 0.
    pub(crate) fn number(&self, name: &str) -> i64 {
        self.text(name).map_or(0, |text| golang::parse_int(text, 0).expect("checked when it was set"))
    }

    /// The time given for `name`. One below zero, which Go knows too, is over before it begins, as zero is.
    pub(crate) fn time(&self, name: &str) -> Option<Duration> {
        let nanos = self.text(name).map(|text| golang::parse_nanos(text).expect("checked when it was set"));
        nanos.map(|nanos| Duration::from_nanos(u64::try_from(nanos).unwrap_or(0)))
    }

    /// A word as text.
    pub(crate) fn word(&self, at: usize) -> String {
        String::from_utf8_lossy(&self.words[at]).into_owned()
    }
}

fn find(known: &[&'static Flag], wanted: impl Fn(&Flag) -> bool) -> Option<&'static Flag> {
    known.iter().copied().find(|flag| wanted(flag)).or_else(|| wanted(&HELP).then_some(&HELP))
}

#[cfg(test)]
mod tests {
    use super::*;

    const FLAGS: [&Flag; 5] = [
        &Flag { name: "dial-timeout", short: ' ', kind: Kind::Time, default: "2s", help: "" },
        &Flag { name: "rev", short: ' ', kind: Kind::Number, default: "0", help: "" },
        &Flag { name: "prefix", short: 'p', kind: Kind::Switch, default: "false", help: "" },
        &Flag { name: "write-out", short: 'w', kind: Kind::Text, default: "simple", help: "" },
        &Flag { name: "endpoints", short: ' ', kind: Kind::List, default: "[]", help: "" },
    ];

    fn parse(line: &str) -> Result<Args, Refused> {
        let words: Vec<Vec<u8>> = line.split(' ').map(|word| word.as_bytes().to_vec()).collect();
        Args::parse(&words, &FLAGS)
    }

    fn complaint(line: &str) -> String {
        match parse(line) {
            Err(Refused::Because(why)) => why,
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn flags_and_words_mix() {
        let args = parse("get -w json --rev=3 k --prefix -- --rev").expect("good");
        assert_eq!(args.words, [b"get".to_vec(), b"k".to_vec(), b"--rev".to_vec()]);
        assert_eq!((args.number("rev"), args.is_set("prefix"), args.text("write-out")), (3, true, Some("json")));
        assert_eq!(args.before_dashes, Some(2));
        assert_eq!(parse("-pwjson").expect("good").text("write-out"), Some("json"));
        assert!(!parse("--prefix=false").expect("good").is_set("prefix"));
    }

    #[test]
    fn times_may_be_below_zero_and_are_over_then() {
        let time = |text: &str| parse(text).expect(text).time("dial-timeout");
        assert_eq!(time("k"), None);
        assert_eq!(time("--dial-timeout=1m1s"), Some(Duration::from_secs(61)));
        assert_eq!(time("--dial-timeout=-1s"), Some(Duration::ZERO));
        let why = complaint("--dial-timeout=1");
        assert!(why.ends_with("flag: time: missing unit in duration \"1\""), "{why}");
    }

    #[test]
    fn lists_add_up() {
        let args = parse("--endpoints a,b --endpoints c --endpoints=").expect("good");
        assert_eq!(args.text("endpoints"), Some("a,b,c"));
    }

    #[test]
    fn complaints_are_pflags() {
        let cases = [
            ("--nosuch", "unknown flag: --nosuch"),
            ("-x", "unknown shorthand flag: 'x' in -x"),
            ("--rev", "flag needs an argument: --rev"),
            ("-w", "flag needs an argument: 'w' in -w"),
            (
                "--rev abc",
                r#"invalid argument "abc" for "--rev" flag: strconv.ParseInt: parsing "abc": invalid syntax"#,
            ),
            (
                "--prefix=x",
                r#"invalid argument "x" for "-p, --prefix" flag: strconv.ParseBool: parsing "x": invalid syntax"#,
            ),
            ("--=x", "bad flag syntax: --=x"),
        ];
        for (line, why) in cases {
            assert_eq!(complaint(line), why);
        }
        assert_eq!(parse("k -h").expect_err("help"), Refused::Help);
    }
}
