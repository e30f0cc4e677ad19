//! Command lines as etcdctl's old dialect read them: Go's `flag` under urfave/cli. Global flags stand before the command, a command's own
//! anywhere before `--`.

/// A flag; its first name is the long one.
pub(super) struct Flag {
    pub(super) names: &'static [&'static str],
    pub(super) kind: Kind,
    pub(super) help: &'static str,
}

/// What a flag's value must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Switch,
    Text,
    Number,
    Time,
}

/// A line, read.
#[derive(Debug, Default)]
pub(super) struct Line {
    values: Vec<(&'static str, String)>,
    pub(super) words: Vec<String>,
    /// How many of the words stand before `--`, if there is one.
    pub(super) before_dashes: Option<usize>,
}

impl Line {
    /// Reads flags until the first word. An error is Go's sentence.
    pub(super) fn parse(words: &[String], flags: &'static [Flag]) -> Result<Line, String> {
        let mut line = Line::default();
        let mut words = words.iter();
        while let Some(word) = words.next() {
            let Some(given) = flag_of(word) else {
                line.words.push(word.clone());
                break;
            };
            if given.is_empty() {
                break;
            }
            let (name, value) =
                given.split_once('=').map_or((given, None), |(name, value)| (name, Some(value.to_owned())));
            let flag = find(flags, name).ok_or_else(|| format!("flag provided but not defined: -{name}"))?;
            let value = match value {
                Some(value) => value,
                None if flag.kind == Kind::Switch => "true".to_owned(),
                None => words.next().cloned().ok_or_else(|| format!("flag needs an argument: -{name}"))?,
            };
            check(flag, name, &value)?;
            line.values.push((flag.names[0], value));
        }
        line.words.extend(words.cloned());
        Ok(line)
    }

    /// The same for a command, whose flags may also stand behind its words. What is behind the first `--` is a word, whatever it looks like; the `--` itself is
    /// none, wherever it stands. Source: urfave/cli 1.22 (`reorderArgs`), with which Debian builds etcdctl 3.4.
    pub(super) fn parse_command(words: &[String], flags: &'static [Flag]) -> Result<Line, String> {
        let (mut first, mut rest) = (Vec::new(), Vec::new());
        let mut at = 0;
        while at < words.len() {
            let known = flag_of(&words[at]).and_then(|given| {
                let name = given.split('=').next()?;
                find(flags, name).map(|flag| flag.kind != Kind::Switch && !given.contains('='))
            });
            match known {
                None if words[at] == "--" => break,
                None => rest.push(words[at].clone()),
                Some(takes_next) => {
                    let end = (at + 1 + usize::from(takes_next)).min(words.len());
                    first.extend(words[at..end].iter().cloned());
                    at = end - 1;
                }
            }
            at += 1;
        }
        let Some((dashes, behind)) = words[at..].split_first() else {
            return Line::parse(&[first, rest].concat(), flags);
        };
        first.push(dashes.clone());
        let before_dashes = Some(rest.len());
        Ok(Line { before_dashes, ..Line::parse(&[&first[..], &rest[..], behind].concat(), flags)? })
    }

    pub(super) fn text(&self, name: &str) -> &str {
        self.values.iter().rev().find(|(given, _)| *given == name).map_or("", |(_, value)| value)
    }

    /// Every value of a flag that may come again.
    pub(super) fn all(&self, name: &str) -> Vec<&str> {
        self.values.iter().filter(|(given, _)| *given == name).map(|(_, value)| value.as_str()).collect()
    }

    pub(super) fn is_set(&self, name: &str) -> bool {
        matches!(self.text(name), "true" | "1" | "t" | "T" | "TRUE" | "True")
    }

    pub(super) fn number(&self, name: &str) -> i64 {
        self.text(name).parse().unwrap_or_default()
    }
}

/// What stands behind the dashes of a flag; nothing for a word.
fn flag_of(word: &str) -> Option<&str> {
    if word == "-" {
        return None;
    }
    word.strip_prefix("--").or_else(|| word.strip_prefix('-'))
}

fn find(flags: &'static [Flag], name: &str) -> Option<&'static Flag> {
    flags.iter().find(|flag| flag.names.contains(&name))
}

fn check(flag: &Flag, name: &str, value: &str) -> Result<(), String> {
    let is_good = match flag.kind {
        Kind::Text => true,
        Kind::Switch => crate::golang::parse_bool(value).is_ok(),
        Kind::Number => value.parse::<i64>().is_ok(),
        Kind::Time => crate::golang::parse_duration(value).is_ok(),
    };
    let quoted = crate::golang::quote(value.as_bytes());
    match flag.kind {
        _ if is_good => Ok(()),
        Kind::Switch => Err(format!("invalid boolean value {quoted} for -{name}: parse error")),
        _ => Err(format!("invalid value {quoted} for flag -{name}: parse error")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    static FLAGS: &[Flag] = &[
        Flag { names: &["ttl"], kind: Kind::Number, help: "" },
        Flag { names: &["recursive", "r"], kind: Kind::Switch, help: "" },
    ];

    fn read(line: &str) -> Result<(i64, bool, String), String> {
        let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
        let line = Line::parse_command(&words, FLAGS)?;
        Ok((line.number("ttl"), line.is_set("recursive"), line.words.join(" ")))
    }

    #[test]
    fn flags_stand_anywhere_and_what_is_none_behind_a_word_is_a_word() {
        assert_eq!(read("k v -ttl 5"), Ok((5, false, "k v".to_owned())));
        assert_eq!(read("-r / -- sh -c x"), Ok((0, true, "/ sh -c x".to_owned())));
        assert_eq!(read("k -- -v"), Ok((0, false, "k -v".to_owned())));
        assert_eq!(read("k -ttl 5 -- --ttl -- x"), Ok((5, false, "k --ttl -- x".to_owned())));
        assert_eq!(read("k v --"), Ok((0, false, "k v".to_owned())));
        assert_eq!(read("k --ttl -- 5"), Err("invalid value \"--\" for flag -ttl: parse error".to_owned()));
        assert_eq!(read("-- -k -v"), Ok((0, false, "-k -v".to_owned())));
        assert_eq!(read("k -v"), Ok((0, false, "k -v".to_owned())));
        assert_eq!(read("--foo k"), Err("flag provided but not defined: -foo".to_owned()));
        assert_eq!(read("--ttl x k"), Err("invalid value \"x\" for flag -ttl: parse error".to_owned()));
        assert_eq!(read("--ttl"), Err("flag needs an argument: -ttl".to_owned()));
        // Words go behind the flags, so that the last flag takes the first word, as in etcdctl 3.4.
        assert_eq!(read("k --ttl"), Err("invalid value \"k\" for flag -ttl: parse error".to_owned()));
    }
}
