//! A log file that begins anew when it is full: `--enable-log-rotation`, `--log-rotation-config-json`.
//!
//! Names and rules are lumberjack's: `etcd.log` becomes `etcd-2026-01-02T15-04-05.000.log` (UTC, or with `localtime` the time of this place), of which `maxbackups`
//! are kept, none older than `maxage` days; 0 keeps all. With `compress` they become `….log.gz`. Source: etcd `server/embed/config_logging.go`; lumberjack v2.

#![expect(clippy::disallowed_methods, reason = "a file that is put aside is named by the time of day")]

use super::log::open_append;
use crate::disk;
use flate2::Compression;
use flate2::write::GzEncoder;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fs::File;
use std::fs::OpenOptions;
use std::io;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::path::PathBuf;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;
use std::time::SystemTime;

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
    /// Whether the time in a name is that of this place.
    pub localtime: bool,
    /// Whether what is put aside is packed with gzip.
    pub compress: bool,
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
    /// etcd's text.
    pub(super) fn parse(json: &str) -> Result<Rotation, String> {
        serde_json::from_str(json).map_err(|e| match e.classify() {
            serde_json::error::Category::Data => format!("invalid log rotation config: {e}"),
            _ => format!("improperly formatted log rotation config: {e}"),
        })
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
    zone: TimeZone,
    keeper: Keeper,
}

impl Rotating {
    pub(super) fn open(path: &str, rotation: Rotation) -> Result<Rotating, String> {
        let file = open_append(path)?;
        let bytes = file.metadata().map(|meta| meta.len()).unwrap_or(0);
        let zone = if rotation.localtime { TimeZone::system() } else { TimeZone::UTC };
        let keeper = Keeper::start(path.into(), rotation).map_err(|e| e.to_string())?;
        // What an earlier process left.
        keeper.wake();
        Ok(Rotating { path: path.into(), file, bytes, bytes_max: rotation.bytes_max(), zone, keeper })
    }

    /// Puts the full file aside. One that cannot be is written on: a long log is better than none.
    fn begin_anew(&mut self) {
        let aside = named_by_time(&self.path, &self.zone, SystemTime::now());
        match std::fs::rename(&self.path, &aside) {
            Ok(()) => {}
            // Somebody has moved it, or it could not be opened anew the last time.
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(_) => return,
        }
        if let Ok(file) = open_append(&self.path.to_string_lossy()) {
            (self.file, self.bytes) = (file, 0);
            self.keeper.wake();
        }
    }
}

/// Looks after the files that were put aside, in a thread of its own: to pack one takes seconds, in which the log would lose lines.
struct Keeper {
    wake: Option<mpsc::SyncSender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Keeper {
    fn start(path: PathBuf, rotation: Rotation) -> io::Result<Keeper> {
        let (wake, woken) = mpsc::sync_channel(1);
        let keep = move || {
            for () in woken {
                forget_old(&path, rotation);
                if rotation.compress {
                    pack_all(&path);
                }
            }
        };
        let thread = std::thread::Builder::new().name("log-keeper".into()).spawn(keep)?;
        Ok(Keeper { wake: Some(wake), thread: Some(thread) })
    }

    /// Has it look again, if it is not about to.
    fn wake(&self) {
        let _ = self.wake.as_ref().map(|wake| wake.try_send(()));
    }
}

impl Drop for Keeper {
    /// What was asked for is finished.
    fn drop(&mut self) {
        self.wake = None;
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

fn forget_old(path: &Path, rotation: Rotation) {
    let old = backups(path);
    let by_count = if rotation.maxbackups == 0 { 0 } else { old.len().saturating_sub(rotation.maxbackups) };
    let age = Duration::from_secs(rotation.maxage.saturating_mul(24 * 3600));
    let is_too_old = |path: &PathBuf| {
        let modified = std::fs::metadata(path).and_then(|meta| meta.modified()).ok();
        rotation.maxage > 0 && modified.and_then(|at| at.elapsed().ok()).is_some_and(|passed| passed > age)
    };
    for (place, files) in old.values().enumerate() {
        if place < by_count || files.iter().all(is_too_old) {
            for file in files {
                // It is tried again at the next turn.
                let _ = std::fs::remove_file(file);
            }
        }
    }
}

fn pack_all(path: &Path) {
    for plain in backups(path).into_values().flatten().filter(|file| !is_packed(file)) {
        let packed = PathBuf::from(format!("{}{PACKED}", plain.display()));
        match pack(&plain, &packed) {
            Ok(()) => drop(std::fs::remove_file(&plain)),
            // The plain one is as good.
            Err(_) => drop(std::fs::remove_file(&packed)),
        }
    }
}

/// Writes `plain` into `packed`, which is as old as `plain` then.
fn pack(plain: &Path, packed: &Path) -> io::Result<()> {
    let mut from = File::open(plain)?;
    let to = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(packed)?;
    let mut to = GzEncoder::new(to, Compression::default());
    io::copy(&mut from, &mut to)?;
    let to = to.finish()?;
    to.set_modified(from.metadata()?.modified()?)
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

fn named_by_time(path: &Path, zone: &TimeZone, now: SystemTime) -> PathBuf {
    let (stem, end) = parts(path);
    let at = Timestamp::try_from(now).unwrap_or_default().to_zoned(zone.clone());
    let at = at.strftime("%Y-%m-%dT%H-%M-%S.%3f");
    path.with_file_name(format!("{stem}-{at}{end}"))
}

/// What is added to the name of a packed file.
const PACKED: &str = ".gz";

fn is_packed(path: &Path) -> bool {
    path.to_string_lossy().ends_with(PACKED)
}

/// Whether a text has the form of [`named_by_time`]'s: another program's log beside this one is none of it.
fn is_time(text: &str) -> bool {
    const FORM: &[u8] = b"dddd-dd-ddTdd-dd-dd.ddd";
    let fits = |(byte, form): (u8, &u8)| if *form == b'd' { byte.is_ascii_digit() } else { byte == *form };
    text.len() == FORM.len() && text.bytes().zip(FORM).all(fits)
}

/// The files that were put aside, plain, packed, or both where packing was interrupted; their names sort by time.
fn backups(path: &Path) -> BTreeMap<String, Vec<PathBuf>> {
    let (stem, end) = parts(path);
    let head = format!("{stem}-");
    let mut found: BTreeMap<String, Vec<PathBuf>> = BTreeMap::new();
    for file in std::fs::read_dir(disk::folder_of(path)).into_iter().flatten().flatten() {
        let name = file.file_name().to_string_lossy().into_owned();
        let plain = name.strip_suffix(PACKED).unwrap_or(&name);
        let time = plain.strip_prefix(&head).and_then(|rest| rest.strip_suffix(&end));
        if time.is_some_and(is_time) {
            found.entry(plain.to_owned()).or_default().push(file.path());
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Six lines of which each fills a file, and the texts of what was put aside when all is done.
    fn six_files(dir: &Path, rotation: Rotation) -> Vec<(PathBuf, Vec<u8>)> {
        let path = dir.join("etcd.log");
        let mut log = Rotating::open(path.to_str().expect("text"), rotation).expect("opened");
        log.bytes_max = 10;
        for number in 0..6 {
            // Put aside within one millisecond they would have one name.
            let name = || named_by_time(&path, &TimeZone::UTC, SystemTime::now());
            let before = name();
            while name() == before {}
            log.write_all(format!("line {number}!\n").as_bytes()).expect("written");
        }
        drop(log);
        assert_eq!(std::fs::read_to_string(&path).expect("the log"), "line 5!\n");
        backups(&path)
            .into_values()
            .flatten()
            .map(|file| (file.clone(), std::fs::read(file).expect("a file")))
            .collect()
    }

    #[test]
    fn a_full_file_is_put_aside_and_the_oldest_goes() {
        let dir = tempfile::tempdir().expect("a directory");
        let old = six_files(dir.path(), Rotation { maxbackups: 2, ..Rotation::default() });
        assert!(old.iter().all(|(file, _)| file.to_string_lossy().ends_with(".log")), "{old:?}");
        assert_eq!(old.into_iter().map(|(_, text)| text).collect::<Vec<_>>(), [b"line 3!\n", b"line 4!\n"]);
    }

    #[test]
    fn what_is_put_aside_is_packed_if_asked_for_and_counts_once() {
        use std::io::Read as _;
        let dir = tempfile::tempdir().expect("a directory");
        // Packing it was interrupted, by a process that is gone.
        for name in ["etcd-2001-01-01T00-00-00.000.log", "etcd-2001-01-01T00-00-00.000.log.gz"] {
            std::fs::write(dir.path().join(name), "old\n").expect("written");
        }
        let old = six_files(dir.path(), Rotation { maxbackups: 6, compress: true, ..Rotation::default() });
        let texts = old.iter().map(|(file, packed)| {
            assert!(file.to_string_lossy().ends_with(".log.gz"), "{}", file.display());
            let mut text = String::new();
            flate2::read::GzDecoder::new(packed.as_slice()).read_to_string(&mut text).expect("gzip");
            text
        });
        assert_eq!(texts.collect::<String>(), "old\nline 0!\nline 1!\nline 2!\nline 3!\nline 4!\n");
    }

    #[test]
    fn anothers_log_is_no_backup_of_this_one() {
        let dir = tempfile::tempdir().expect("a directory");
        let others = ["etcd-2.log", "etcd-2nd.log", "etcd-2026-node.log.gz"].map(|name| dir.path().join(name));
        others.iter().for_each(|path| std::fs::write(path, "theirs\n").expect("written"));
        six_files(dir.path(), Rotation { maxbackups: 1, compress: true, ..Rotation::default() });
        assert!(others.iter().all(|path| std::fs::read(path).is_ok_and(|text| text == b"theirs\n")));
    }

    #[test]
    fn a_log_that_was_moved_away_is_begun_anew_when_it_is_full() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("etcd.log");
        let mut log = Rotating::open(path.to_str().expect("text"), Rotation::default()).expect("opened");
        log.bytes_max = 10;
        log.write_all(b"line 0, long\n").expect("written");
        std::fs::rename(&path, dir.path().join("moved")).expect("by an operator");
        log.write_all(b"line 1\n").expect("written");
        assert_eq!(std::fs::read_to_string(&path).expect("it is there again"), "line 1\n");
    }

    #[test]
    fn the_time_in_a_name_is_that_of_this_place_if_asked_for() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_millis(1_136_214_245_123);
        let name = |zone| named_by_time(Path::new("/var/etcd.log"), &zone, now).display().to_string();
        assert_eq!(name(TimeZone::UTC), "/var/etcd-2006-01-02T15-04-05.123.log");
        assert_eq!(name(TimeZone::fixed(jiff::tz::offset(-5))), "/var/etcd-2006-01-02T10-04-05.123.log");
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
        let parsed = Rotation::parse(r#"{"compress": true, "localtime": true}"#).expect("good");
        assert!(parsed.compress && parsed.localtime);
        for (json, why) in [
            ("{", "improperly formatted log rotation config: "),
            (r#"{"maxsize":"1"}"#, "invalid log rotation config: "),
        ] {
            assert!(Rotation::parse(json).expect_err(json).starts_with(why), "{json}");
        }
    }
}
