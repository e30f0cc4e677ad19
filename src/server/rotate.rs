//! A log file that begins anew when it is full: `--enable-log-rotation`, `--log-rotation-config-json`.
//!
//! Names and rules are lumberjack's: `etcd.log` becomes `etcd-2026-01-02T15-04-05.000.log`, of which `maxbackups` are kept, none older than `maxage` days; 0 keeps
//! all. Left out: `compress`, `localtime`. Source: etcd `server/embed/config_logging.go`; lumberjack v2.

#![expect(clippy::disallowed_methods, reason = "a file that is put aside is named by the time of day")]

use super::log::open_append;
use serde::Deserialize;
use std::fs::File;
use std::io;
use std::io::Write;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;
use std::time::SystemTime;
use time::OffsetDateTime;

/// When a file is full, and how many are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Rotation {
    /// Megabytes; 0 is 100.
    pub maxsize: u64,
    /// Days; 0 is for ever.
    pub maxage: u64,
    /// Files beside the current one; 0 is all.
    pub maxbackups: usize,
    localtime: bool,
    compress: bool,
}

impl Default for Rotation {
    fn default() -> Rotation {
        Rotation { maxsize: 100, maxage: 0, maxbackups: 0, localtime: false, compress: false }
    }
}

impl Rotation {
    /// Reads `--log-rotation-config-json`.
    ///
    /// # Errors
    /// etcd's text, or what is not there.
    pub(super) fn parse(json: &str) -> Result<Rotation, String> {
        let rotation: Rotation = serde_json::from_str(json).map_err(|e| match e.classify() {
            serde_json::error::Category::Data => format!("invalid log rotation config: {e}"),
            _ => format!("improperly formatted log rotation config: {e}"),
        })?;
        if rotation.compress || rotation.localtime {
            return Err("invalid log rotation config: compress and localtime are not part of this release".into());
        }
        Ok(rotation)
    }

    fn bytes_max(self) -> u64 {
        let megabytes = if self.maxsize == 0 { 100 } else { self.maxsize };
        megabytes.saturating_mul(1 << 20)
    }
}

/// The file that is written to.
pub(super) struct Rotating {
    path: PathBuf,
    file: File,
    bytes: u64,
    bytes_max: u64,
    rotation: Rotation,
}

impl Rotating {
    pub(super) fn open(path: &str, rotation: Rotation) -> Result<Rotating, String> {
        let file = open_append(path)?;
        let bytes = file.metadata().map(|meta| meta.len()).unwrap_or(0);
        Ok(Rotating { path: path.into(), file, bytes, bytes_max: rotation.bytes_max(), rotation })
    }

    /// Puts the full file aside. One that cannot be is written on: a long log is better than none.
    fn begin_anew(&mut self) {
        let aside = named_by_time(&self.path, SystemTime::now());
        let renewed = std::fs::rename(&self.path, &aside)
            .map_err(|e| e.to_string())
            .and_then(|()| open_append(&self.path.to_string_lossy()));
        if let Ok(file) = renewed {
            (self.file, self.bytes) = (file, 0);
            self.forget_old();
        }
    }

    fn forget_old(&self) {
        let mut old = backups(&self.path);
        old.sort_unstable();
        let too_many = old.len().saturating_sub(self.rotation.maxbackups);
        let by_count = if self.rotation.maxbackups == 0 { 0 } else { too_many };
        let age = Duration::from_secs(self.rotation.maxage.saturating_mul(24 * 3600));
        let is_too_old = |path: &PathBuf| {
            let modified = std::fs::metadata(path).and_then(|meta| meta.modified()).ok();
            self.rotation.maxage > 0 && modified.and_then(|at| at.elapsed().ok()).is_some_and(|passed| passed > age)
        };
        for (place, path) in old.iter().enumerate() {
            if place < by_count || is_too_old(path) {
                // It is tried again at the next turn.
                let _ = std::fs::remove_file(path);
            }
        }
    }
}

impl Write for Rotating {
    fn write(&mut self, lines: &[u8]) -> io::Result<usize> {
        if self.bytes > 0 && self.bytes.saturating_add(lines.len() as u64) > self.bytes_max {
            self.begin_anew();
        }
        let written = self.file.write(lines)?;
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// `etcd` and `.log` of `etcd.log`.
fn parts(path: &Path) -> (String, String) {
    let text = |part: Option<&std::ffi::OsStr>| part.map(|part| part.to_string_lossy().into_owned());
    let end = text(path.extension()).map(|end| format!(".{end}")).unwrap_or_default();
    (text(path.file_stem()).unwrap_or_default(), end)
}

fn named_by_time(path: &Path, now: SystemTime) -> PathBuf {
    let format =
        time::macros::format_description!("[year]-[month]-[day]T[hour]-[minute]-[second].[subsecond digits:3]");
    let (stem, end) = parts(path);
    let at = OffsetDateTime::from(now).format(format).unwrap_or_default();
    path.with_file_name(format!("{stem}-{at}{end}"))
}

/// The files that were put aside; their names sort by time.
fn backups(path: &Path) -> Vec<PathBuf> {
    let (stem, end) = parts(path);
    let (head, dir) = (format!("{stem}-2"), path.parent().filter(|dir| !dir.as_os_str().is_empty()));
    let Ok(files) = std::fs::read_dir(dir.unwrap_or(Path::new("."))) else { return Vec::new() };
    let is_ours = |name: &str| name.starts_with(&head) && name.ends_with(&end);
    let found = files.flatten().filter(|file| is_ours(&file.file_name().to_string_lossy()));
    found.map(|file| file.path()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_file_is_put_aside_and_the_oldest_goes() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("etcd.log");
        let rotation = Rotation { maxbackups: 2, ..Rotation::default() };
        let mut log = Rotating::open(path.to_str().expect("text"), rotation).expect("opened");
        log.bytes_max = 10;
        for number in 0..6 {
            // Put aside within one millisecond they would have one name.
            let before = named_by_time(&path, SystemTime::now());
            while named_by_time(&path, SystemTime::now()) == before {}
            log.write_all(format!("line {number}!\n").as_bytes()).expect("written");
        }
        assert_eq!(std::fs::read_to_string(&path).expect("the log"), "line 5!\n");
        let mut old: Vec<String> =
            backups(&path).iter().map(|path| std::fs::read_to_string(path).expect("a file")).collect();
        old.sort_unstable();
        assert_eq!(old, ["line 3!\n", "line 4!\n"]);
        assert!(backups(&path)[0].to_string_lossy().ends_with(".log"));
    }

    #[test]
    fn a_file_that_is_there_is_written_on() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("log");
        std::fs::write(&path, "before\n").expect("written");
        let mut log = Rotating::open(path.to_str().expect("text"), Rotation::default()).expect("opened");
        log.write_all(b"after\n").expect("written");
        assert_eq!(std::fs::read_to_string(&path).expect("the log"), "before\nafter\n");
    }

    #[test]
    fn the_settings_are_lumberjacks() {
        let parsed = Rotation::parse(r#"{"maxsize": 1, "maxage": 2, "maxbackups": 3}"#).expect("good");
        assert_eq!((parsed.bytes_max(), parsed.maxage, parsed.maxbackups), (1 << 20, 2, 3));
        assert_eq!(Rotation::parse("{}").expect("good").bytes_max(), 100 << 20);
        for (json, why) in [
            ("{", "improperly formatted log rotation config: "),
            (r#"{"maxsize":"1"}"#, "invalid log rotation config: "),
            (r#"{"compress":true}"#, "invalid log rotation config: compress"),
        ] {
            assert!(Rotation::parse(json).expect_err(json).starts_with(why), "{json}");
        }
    }
}
