//! A member's own words: the lines of its log that say why it has ended, or what it finds wrong around it.
//!
//! Read as the log grows, a little at a time. What is told is what the member wrote, without time and place; which lines are worth it is a
//! table. Everything else stays in the file.

use serde_json::Map;
use serde_json::Value;
use std::fs::File;
use std::io::Read as _;
use std::io::Seek as _;
use std::io::SeekFrom;
use std::path::Path;
use std::path::PathBuf;

/// Warnings that are told while a member runs: nobody else would.
const NOTABLE: [&str; 3] = [
    "prober found high clock drift",
    "request sent was ignored by remote peer due to cluster ID mismatch",
    "request sent was ignored by remote peer due to server version incompatibility",
];
/// The same warning is told again after so long.
const AGAIN_MS: u64 = 20_000;
/// Most of a log that is read at once; of what is more only the end.
const READ_MAX: u64 = 1 << 20;
/// Longest line that is told, in letters.
const LINE_MAX: usize = 240;
/// Fields that say where and when, which the reader knows, or in which code, which helps nobody here.
const DULL: [&str; 8] =
    ["level", "ts", "caller", "msg", "logger", "stacktrace", "local-member-id", "round-tripper-name"];

/// The log of one run of a member.
#[derive(Debug, Default)]
pub struct Journal {
    path: PathBuf,
    /// Up to here it was read.
    at: u64,
    /// A line without its end, so far.
    part: Vec<u8>,
    /// The last line that says that the member cannot go on.
    fatal: Option<String>,
    /// The first line that is no JSON: so a bad command line is answered.
    plain: Option<String>,
    /// Warnings that were told, and when.
    told: Vec<(String, u64)>,
}

impl Journal {
    /// From the end of the file on, as it is before a member starts.
    #[must_use]
    pub fn from_end(path: &Path) -> Journal {
        let at = std::fs::metadata(path).map_or(0, |m| m.len());
        Journal { path: path.to_path_buf(), at, ..Journal::default() }
    }

    /// Reads on; what it says that somebody should hear. `now`: milliseconds of any clock that goes forward.
    pub fn read_on(&mut self, now: u64) -> Vec<String> {
        let bytes = self.fresh().unwrap_or_default();
        let mut heard = Vec::new();
        for byte in bytes {
            if byte != b'\n' {
                self.part.push(byte);
                continue;
            }
            let line = std::mem::take(&mut self.part);
            heard.extend(self.line(&String::from_utf8_lossy(&line), now));
        }
        heard
    }

    /// Why it has ended, if it said so.
    #[must_use]
    pub fn last_words(&mut self) -> Option<String> {
        self.read_on(0);
        self.fatal.take().or(self.plain.take())
    }

    fn fresh(&mut self) -> std::io::Result<Vec<u8>> {
        let mut file = File::open(&self.path)?;
        let end = file.metadata()?.len();
        if end.saturating_sub(self.at) > READ_MAX {
            self.part.clear();
            self.at = end - READ_MAX;
        }
        let mut bytes = Vec::new();
        file.seek(SeekFrom::Start(self.at))?;
        file.take(READ_MAX).read_to_end(&mut bytes)?;
        self.at += bytes.len() as u64;
        Ok(bytes)
    }

    fn line(&mut self, line: &str, now: u64) -> Option<String> {
        // Most lines are of this kind, and none of them is told.
        if line.starts_with("{\"level\":\"info\"") || line.trim().is_empty() {
            return None;
        }
        let Ok(Value::Object(fields)) = serde_json::from_str(line) else {
            self.plain.get_or_insert_with(|| shortened(line));
            return None;
        };
        let text = |name: &str| fields.get(name).and_then(Value::as_str).unwrap_or_default();
        match text("level") {
            "fatal" | "panic" => self.fatal = Some(in_words(&fields)),
            _ if is_notable(text("msg"), text("error")) => {
                let msg = text("msg").to_owned();
                let is_new = self.told.iter().all(|(told, at)| *told != msg || now.saturating_sub(*at) >= AGAIN_MS);
                if is_new {
                    self.told.retain(|(told, _)| *told != msg);
                    self.told.push((msg, now));
                    return Some(in_words(&fields));
                }
            }
            _ => {}
        }
        None
    }
}

/// Whether a warning is worth telling: those of the table, and whatever is wrong with a certificate.
fn is_notable(msg: &str, error: &str) -> bool {
    let is_of_tls = error.contains("tls:") || error.contains("x509:");
    NOTABLE.contains(&msg) || is_of_tls
}

/// `msg (name: value, …)`.
fn in_words(fields: &Map<String, Value>) -> String {
    let value = |v: &Value| v.as_str().map_or_else(|| v.to_string(), str::to_owned);
    let rest: Vec<String> = fields
        .iter()
        .filter(|(name, v)| !DULL.contains(&name.as_str()) && !v.is_null() && v.as_str() != Some(""))
        .map(|(name, v)| format!("{name}: {}", value(v)))
        .collect();
    let msg = fields.get("msg").map(value).unwrap_or_default();
    shortened(&if rest.is_empty() { msg } else { format!("{msg} ({})", rest.join(", ")) })
}

fn shortened(text: &str) -> String {
    let text = text.trim();
    if text.chars().count() <= LINE_MAX {
        return text.to_owned();
    }
    text.chars().take(LINE_MAX - 3).chain("...".chars()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    fn log() -> (tempfile::TempDir, PathBuf, File) {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("etcd.log");
        let file = File::options().create(true).append(true).open(&path).expect("made");
        (dir, path, file)
    }

    #[test]
    fn the_last_words_are_of_this_run_and_say_why() {
        let (_dir, path, mut file) = log();
        writeln!(file, r#"{{"level":"fatal","msg":"of yesterday"}}"#).expect("written");
        let mut journal = Journal::from_end(&path);
        assert_eq!(journal.last_words(), None);
        writeln!(file, r#"{{"level":"info","msg":"configuring peer listeners"}}"#).expect("written");
        let fatal =
            r#"{"level":"fatal","ts":"x","caller":"y","msg":"discovery failed","error":"address already in use"}"#;
        writeln!(file, "{fatal}").expect("written");
        assert_eq!(journal.last_words().as_deref(), Some("discovery failed (error: address already in use)"));
        let mut journal = Journal::from_end(&path);
        write!(file, "flag provided but not defined: -x\nUsage:\n").expect("written");
        assert_eq!(journal.last_words().as_deref(), Some("flag provided but not defined: -x"));
    }

    #[test]
    fn a_warning_of_the_table_is_told_once_in_a_while_and_no_other() {
        let (_dir, path, mut file) = log();
        let mut journal = Journal::from_end(&path);
        let drift =
            r#"{"level":"warn","msg":"prober found high clock drift","clock-drift":"1m30s","remote-peer-id":"b"}"#;
        let (first, second) = drift.split_at(20);
        write!(file, "{first}").expect("written");
        assert_eq!(journal.read_on(0), [""; 0], "half a line");
        writeln!(file, "{second}\n{{\"level\":\"warn\",\"msg\":\"slow fdatasync\"}}").expect("written");
        let told = "prober found high clock drift (clock-drift: 1m30s, remote-peer-id: b)";
        assert_eq!(journal.read_on(5), [told]);
        writeln!(file, "{drift}").expect("written");
        assert_eq!(journal.read_on(1_000), [""; 0], "the same again");
        writeln!(file, "{drift}").expect("written");
        assert_eq!(journal.read_on(AGAIN_MS + 5), [told]);
    }
}
