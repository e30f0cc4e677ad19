//! A systemd unit, as far as it says what is started: the command of `ExecStart`, and the variables that it gets.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::path::PathBuf;

/// Where units lie, in systemd's order.
const FOLDERS: [&str; 3] = ["/etc/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system"];

/// What a unit starts.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Unit {
    pub(super) words: Vec<String>,
    pub(super) env: BTreeMap<String, String>,
    pub(super) folder: PathBuf,
    /// Whether a start of it ends only when the program says that it is ready.
    pub(super) notifies: bool,
}

/// Finds a unit by its name, or by its path if that is one, and reads it.
pub(super) fn load(name: &str) -> Result<Unit, String> {
    let file = if name.ends_with(".service") { name.to_owned() } else { format!("{name}.service") };
    let paths = if file.contains('/') {
        vec![PathBuf::from(file.clone())]
    } else {
        FOLDERS.iter().map(|folder| Path::new(folder).join(&file)).collect()
    };
    let text = paths.iter().find_map(|path| fs::read_to_string(path).ok());
    text.map(|text| Unit::parse(&text)).ok_or_else(|| format!("there is no unit {file} here"))
}

impl Unit {
    fn parse(text: &str) -> Unit {
        let mut unit = Unit { folder: PathBuf::from("/"), ..Unit::default() };
        // A backslash at the end of a line joins it with the next one.
        for line in text.replace("\\\n", " ").lines().map(str::trim) {
            let Some((key, value)) = line.split_once('=') else { continue };
            match key {
                "ExecStart" => unit.words = words(value.trim_start_matches(['-', '@', ':', '+', '!'])),
                "Environment" => unit.env.extend(words(value).iter().filter_map(|pair| pair_of(pair))),
                "EnvironmentFile" => {
                    let file = fs::read_to_string(value.trim_start_matches('-')).unwrap_or_default();
                    let lines = file.lines().map(str::trim).filter(|line| !line.starts_with('#'));
                    unit.env.extend(lines.filter_map(|line| pair_of(&words(line).join(" "))));
                }
                "Type" => unit.notifies = value.starts_with("notify"),
                "WorkingDirectory" => unit.folder = value.into(),
                _ => {}
            }
        }
        // `${NAME}` and `$NAME` are filled in by systemd.
        for word in &mut unit.words {
            for (name, value) in &unit.env {
                *word = word.replace(&format!("${{{name}}}"), value);
                if *word == format!("${name}") {
                    word.clone_from(value);
                }
            }
        }
        unit
    }
}

fn pair_of(pair: &str) -> Option<(String, String)> {
    pair.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()))
}

/// Words between blanks; quotes hold blanks together.
fn words(text: &str) -> Vec<String> {
    let (mut words, mut word, mut within) = (Vec::new(), None::<String>, None);
    for letter in text.chars() {
        match (within, letter) {
            (Some(quote), letter) if quote == letter => within = None,
            (None, '"' | '\'') => {
                within = Some(letter);
                word.get_or_insert_default();
            }
            (None, ' ' | '\t') => words.extend(word.take()),
            _ => word.get_or_insert_default().push(letter),
        }
    }
    words.extend(word);
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unit_says_what_it_starts() {
        let text = "[Service]\nType=notify\nEnvironment=\"ETCD_NAME=c 0\" URL=http://h:1\nExecStart=/usr/local/bin/etcd \\\n  --name ${ETCD_NAME} \\\n  --listen-peer-urls=${URL}\nRestart=on-failure\n";
        let unit = Unit::parse(text);
        assert_eq!(unit.words, ["/usr/local/bin/etcd", "--name", "c 0", "--listen-peer-urls=http://h:1"]);
        assert!(unit.notifies && !Unit::parse("[Service]\nType=simple\n").notifies);
        assert_eq!(unit.env.get("ETCD_NAME").map(String::as_str), Some("c 0"));
    }
}
