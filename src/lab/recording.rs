//! A recording: the reports that made the picture, with their times, in one compressed file.
//!
//! The one idea: a screen is a function of the picture, and the picture of the reports; so a file of reports replays every screen. Each
//! second is a gzip member of its own: a recording that was cut off is good up to there.
//!
//! ```text
//! gzip( "LABREC1\n"  record.json length, record.json )  gzip( entry entry … )  gzip( … )
//! entry: milliseconds (varint)  kind  member  length (varint)  payload (protobuf, or JSON)
//! ```

use crate::lab::Error;
use crate::lab::Picture;
use crate::lab::Report;
use crate::lab::workdir::Record;
use crate::types::Millis;
use bytes::Buf as _;
use flate2::Compression;
use flate2::read::MultiGzDecoder;
use flate2::write::GzEncoder;
use prost::Message;
use prost::encoding::decode_varint;
use prost::encoding::encode_varint;
use std::fs::File;
use std::io::Read;
use std::io::Write as _;
use std::path::Path;
use std::path::PathBuf;

const MAGIC: &[u8] = b"LABREC1\n";
/// A recording ends at this size: a lab that is forgotten must not fill the disk. Ten minutes at 20,000 events a second fit in.
const FILE_MAX: u64 = 256 << 20;
/// So much is gathered before it is written, unless a second has passed.
const CHUNK: usize = 256 << 10;
const FLUSH_MS: u64 = 1_000;
/// The most that a recording may unpack to.
const UNPACKED_MAX: u64 = 4 << 30;
/// It is unpacked by such pieces.
const PIECE: u64 = 1 << 20;
/// The most that one report may take.
const ENTRY_MAX: usize = 64 << 20;
/// So many reports are in memory at most, some hundred MiB: of a longer recording the newest.
const REPORTS_KEPT: usize = 1_000_000;
/// A copy of the picture is kept at most so many times, to go back to.
const KEYFRAMES: usize = 100;

/// Writes what is learnt.
pub struct Recorder {
    path: PathBuf,
    file: File,
    written: u64,
    buffer: Vec<u8>,
    flushed: Millis,
    /// It stopped: the file is full, or the disk.
    pub ended: Option<String>,
}

impl Recorder {
    /// Begins a recording of a cluster.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn create(path: &Path, record: &Record) -> Result<Recorder, Error> {
        let file = File::create(path).map_err(Error::file("cannot write", path))?;
        let json = serde_json::to_vec(record).expect("strings and numbers only");
        let mut buffer = MAGIC.to_vec();
        encode_varint(json.len() as u64, &mut buffer);
        buffer.extend(json);
        let mut recorder =
            Recorder { path: path.to_owned(), file, written: 0, buffer, flushed: Millis(0), ended: None };
        recorder.flush();
        Ok(recorder)
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Notes one report.
    pub fn note(&mut self, at: Millis, report: &Report) {
        if self.ended.is_some() {
            return;
        }
        encode(at, report, &mut self.buffer);
        if self.buffer.len() >= CHUNK || at.0.saturating_sub(self.flushed.0) >= FLUSH_MS {
            self.flushed = at;
            self.flush();
        }
    }

    /// Writes what was gathered.
    pub fn flush(&mut self) {
        if self.buffer.is_empty() {
            return;
        }
        let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
        let packed = packed.write_all(&self.buffer).and_then(|()| packed.finish());
        self.buffer.clear();
        let written = packed.and_then(|bytes| {
            self.written += bytes.len() as u64;
            self.file.write_all(&bytes)
        });
        if let Err(e) = written {
            self.ended = Some(format!("the recording ends here: {e}"));
        } else if self.written > FILE_MAX {
            self.ended = Some(format!("the recording ends here: it has {} MiB", FILE_MAX >> 20));
        }
    }
}

fn encode(at: Millis, report: &Report, out: &mut Vec<u8>) {
    let json = |value: serde_json::Value| value.to_string().into_bytes();
    let (kind, member, payload) = match report {
        Report::Process { member, change } => (1, *member, json(serde_json::json!(change))),
        Report::Connected { member } => (2, *member, Vec::new()),
        Report::Lost { member, why } => (3, *member, why.clone().into_bytes()),
        Report::Telemetry { member, event } => (4, *member, event.encode_to_vec()),
        Report::Note { text } => (5, 0, text.clone().into_bytes()),
        Report::Looked { member, look } => (6, *member, look.encode_to_vec()),
        Report::Surveyed { member, survey } => (7, *member, json(serde_json::json!(survey))),
        Report::Shown(shown) => (8, 0, json(serde_json::json!(shown))),
        Report::Did { line } => (9, 0, line.clone().into_bytes()),
        Report::Called(call) => (10, 0, json(serde_json::json!(call))),
        Report::Mark { text } => (12, 0, text.clone().into_bytes()),
        Report::Said { member, line } => (13, *member, line.clone().into_bytes()),
        Report::Papers { member, papers } => (15, *member, json(serde_json::json!(papers))),
        Report::Nemesis { line } => (14, 0, line.clone().into_bytes()),
        Report::Watched { member, watched } => (11, *member, json(serde_json::json!(watched))),
    };
    encode_varint(at.0, out);
    out.extend([kind, u8::try_from(member).unwrap_or(u8::MAX)]);
    encode_varint(payload.len() as u64, out);
    out.extend(payload);
}

/// A file that is unpacked piece by piece.
struct Unpacking<R> {
    from: R,
    bytes: Vec<u8>,
    /// So many of the bytes are read.
    used: usize,
}

impl<R: Read> Unpacking<R> {
    /// What comes next; `None` at the end, however it ends.
    fn next<T>(&mut self, read: impl Fn(&mut &[u8]) -> Option<T>) -> Option<T> {
        loop {
            let all = self.bytes.get(self.used..)?;
            let mut rest = all;
            if let Some(found) = read(&mut rest) {
                self.used += all.len() - rest.len();
                return Some(found);
            }
            // Perhaps it goes on in the next piece. What is whole before an end that is missing counts.
            drop(self.bytes.drain(..std::mem::take(&mut self.used)));
            let before = self.bytes.len();
            let read = self.from.by_ref().take(PIECE).read_to_end(&mut self.bytes);
            if self.bytes.len() == before || before > ENTRY_MAX {
                drop(read);
                return None;
            }
        }
    }
}

fn record(from: &mut &[u8]) -> Option<Record> {
    let mut rest = from.strip_prefix(MAGIC)?;
    let length = usize::try_from(decode_varint(&mut rest).ok()?).ok()?;
    let record = serde_json::from_slice(rest.get(..length)?).ok()?;
    *from = &rest[length..];
    Some(record)
}

/// `None`: cut off, or of a later release.
fn decode(from: &mut &[u8]) -> Option<(Millis, Report)> {
    let at = Millis(decode_varint(from).ok()?);
    if from.remaining() < 2 {
        return None;
    }
    let (kind, member) = (from.get_u8(), usize::from(from.get_u8()));
    let length = usize::try_from(decode_varint(from).ok()?).ok()?;
    let payload = from.get(..length)?;
    from.advance(length);
    let text = || String::from_utf8_lossy(payload).into_owned();
    let report = match kind {
        1 => Report::Process { member, change: serde_json::from_slice(payload).ok()? },
        2 => Report::Connected { member },
        3 => Report::Lost { member, why: text() },
        4 => Report::Telemetry { member, event: Box::new(Message::decode(payload).ok()?) },
        5 => Report::Note { text: text() },
        6 => Report::Looked { member, look: Box::new(Message::decode(payload).ok()?) },
        7 => Report::Surveyed { member, survey: Box::new(serde_json::from_slice(payload).ok()?) },
        8 => Report::Shown(Box::new(serde_json::from_slice(payload).ok()?)),
        9 => Report::Did { line: text() },
        12 => Report::Mark { text: text() },
        13 => Report::Said { member, line: text() },
        14 => Report::Nemesis { line: text() },
        15 => Report::Papers { member, papers: serde_json::from_slice(payload).ok()? },
        10 => Report::Called(Box::new(serde_json::from_slice(payload).ok()?)),
        11 => Report::Watched { member, watched: Box::new(serde_json::from_slice(payload).ok()?) },
        _ => return None,
    };
    Some((at, report))
}

/// A recording that was read: all of it, or of a very long one the end, and the picture where that begins.
#[derive(Clone, Debug)]
pub struct Recording {
    pub record: Record,
    before: Picture,
    /// Reports that are in `before` only.
    left_out: usize,
    reports: Vec<(Millis, Report)>,
}

impl Recording {
    /// Reads a file; one that was cut off, up to there.
    ///
    /// # Errors
    /// If it cannot be read, or is no recording.
    pub fn read(path: &Path) -> Result<Recording, Error> {
        Recording::read_end(path, REPORTS_KEPT)
    }

    fn read_end(path: &Path, kept: usize) -> Result<Recording, Error> {
        let file = File::open(path).map_err(Error::file("cannot read", path))?;
        let mut from = Unpacking { from: MultiGzDecoder::new(file).take(UNPACKED_MAX), bytes: Vec::new(), used: 0 };
        let no = || Error::Refused(format!("{} is no recording of etcd-lab", path.display()));
        let record = from.next(record).ok_or_else(no)?;
        let mut recording = Recording::new(record, Vec::new());
        while let Some(entry) = from.next(decode) {
            if recording.reports.len() >= kept {
                recording.leave_out(kept / 2);
            }
            recording.reports.push(entry);
        }
        if recording.left_out > 0 {
            let text = format!("a long recording: {} reports before this are left out here", recording.left_out);
            recording.before.learn(Report::Note { text });
        }
        Ok(recording)
    }

    /// The oldest go into the picture where it begins.
    fn leave_out(&mut self, count: usize) {
        self.left_out += count;
        for (at, report) in self.reports.drain(..count) {
            self.before.tick(at);
            self.before.learn(report);
        }
    }

    /// Of these reports, oldest first.
    #[must_use]
    pub fn new(record: Record, reports: Vec<(Millis, Report)>) -> Recording {
        Recording { before: Picture::new(&record), record, left_out: 0, reports }
    }

    /// How many reports were too many to keep: the oldest.
    #[must_use]
    pub fn left_out(&self) -> usize {
        self.left_out
    }

    /// How many reports it has.
    #[must_use]
    pub fn len(&self) -> usize {
        self.reports.len()
    }

    /// Whether it has none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.reports.is_empty()
    }

    /// What was reported, and when; oldest first.
    pub fn reports(&self) -> impl DoubleEndedIterator<Item = &(Millis, Report)> {
        self.reports.iter()
    }

    /// When the last report came.
    #[must_use]
    pub fn end(&self) -> Millis {
        self.reports.last().map_or(Millis(0), |(at, _)| *at)
    }
}

/// A place in a recording, and the picture there.
#[derive(Clone, Debug)]
pub struct Replay {
    recording: Recording,
    /// Copies of the picture, each with how many reports it has taken in.
    keyframes: Vec<(usize, Picture)>,
    every: usize,
    /// So many reports are in the picture.
    pub at: usize,
    pub picture: Picture,
}

impl Replay {
    /// At its beginning.
    #[must_use]
    pub fn new(recording: Recording) -> Replay {
        let picture = recording.before.clone();
        let every = (recording.len() / KEYFRAMES).max(500);
        Replay { keyframes: vec![(0, picture.clone())], every, at: 0, picture, recording }
    }

    /// How many reports there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.recording.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.recording.is_empty()
    }

    /// When it ends.
    #[must_use]
    pub fn end(&self) -> Millis {
        self.recording.end()
    }

    /// Goes to where so many reports are taken in, forwards or back.
    pub fn seek(&mut self, to: usize) {
        let to = to.min(self.recording.len());
        if to < self.at {
            let kept = self.keyframes.iter().rev().find(|(at, _)| *at <= to);
            (self.at, self.picture) = kept.cloned().expect("the first is at the beginning");
        }
        while self.at < to {
            let (at, report) = self.recording.reports[self.at].clone();
            self.picture.tick(at);
            self.picture.learn(report);
            self.at += 1;
            if self.at.is_multiple_of(self.every) && self.keyframes.last().is_some_and(|(last, _)| *last < self.at) {
                self.keyframes.push((self.at, self.picture.clone()));
            }
        }
    }

    /// Goes to a time.
    pub fn seek_time(&mut self, at: Millis) {
        let place = self.recording.reports.partition_point(|(when, _)| *when <= at);
        self.seek(place);
        // Nothing may have been told for a while.
        self.picture.tick(at.min(self.end()));
    }

    /// Goes to the next event, or the one before: something that a person would call so, not a timer's tick.
    pub fn step(&mut self, forwards: bool) {
        let is_event = |i: &usize| is_event(&self.recording.reports[*i].1);
        let found = match forwards {
            true => (self.at..self.recording.len()).find(is_event).map(|i| i + 1),
            false => (0..self.at.saturating_sub(1)).rev().find(is_event).map(|i| i + 1),
        };
        self.seek(found.unwrap_or(if forwards { self.recording.len() } else { 0 }));
    }

    /// Goes to the next marker or deed of the learner's, or the one before; without one, to the end or the beginning.
    pub fn step_to_mark(&mut self, forwards: bool) {
        let is_mark = |i: &usize| {
            matches!(self.recording.reports[*i].1, Report::Mark { .. } | Report::Did { .. } | Report::Nemesis { .. })
        };
        let found = match forwards {
            true => (self.at..self.recording.len()).find(is_mark).map(|i| i + 1),
            false => (0..self.at.saturating_sub(1)).rev().find(is_mark).map(|i| i + 1),
        };
        self.seek(found.unwrap_or(if forwards { self.recording.len() } else { 0 }));
    }
}

fn is_event(report: &Report) -> bool {
    use crate::proto::lab::event::Kind;
    match report {
        Report::Telemetry { event, .. } => match event.event.as_ref().and_then(|e| e.kind.as_ref()) {
            Some(Kind::Timer(_) | Kind::Persisted(_) | Kind::Progress(_)) | None => false,
            // Heartbeats are no event to step to.
            Some(Kind::Sent(s)) => !s.wire.is_some_and(|w| matches!(w.r#type, 8 | 9)),
            Some(Kind::Received(r)) => !r.wire.is_some_and(|w| matches!(w.r#type, 8 | 9)),
            Some(_) => true,
        },
        // What a watch or a client is told follows from what members tell.
        Report::Looked { .. } | Report::Surveyed { .. } | Report::Called(_) | Report::Watched { .. } => false,
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::cluster::Change;
    use crate::lab::promises::Asked;
    use crate::lab::promises::Call;
    use crate::lab::promises::Watched;
    use crate::proto::lab;
    use crate::proto::lab::event::Kind;

    fn term(term: u64) -> Report {
        let state = lab::State { term, ..lab::State::default() };
        let event = lab::Event { kind: Some(Kind::State(state)) };
        Report::Telemetry { member: 0, event: Box::new(lab::Telemetry { event: Some(event), ..Default::default() }) }
    }

    fn reports() -> Vec<Report> {
        let mut all = vec![
            Report::Process { member: 0, change: Change::Started { pid: 7 } },
            Report::Connected { member: 0 },
            Report::Did { line: "etcd-lab fault kill n1".into() },
            Report::Looked { member: 0, look: Box::default() },
            Report::Surveyed { member: 0, survey: Box::default() },
            Report::Shown(Box::new(crate::lab::store::Shown::Failed("no".into()))),
            Report::Called(Box::new(Call::Asks { id: 1, asked: Asked::Get { key: "a".into() } })),
            Report::Watched { member: 0, watched: Box::new(Watched::Opens { from: 2 }) },
            Report::Mark { text: "here".into() },
            Report::Note { text: "note".into() },
            Report::Lost { member: 0, why: "gone".into() },
            Report::Papers { member: 0, papers: Some(Box::default()) },
            Report::Papers { member: 0, papers: None },
        ];
        all.extend((1..3_000).map(term));
        all
    }

    fn written(path: &Path) {
        let mut recorder = Recorder::create(path, &Record::sample(1)).expect("written");
        for (i, report) in (0..).zip(reports()) {
            recorder.note(Millis(i * 10), &report);
        }
        recorder.flush();
        assert_eq!(recorder.ended, None);
    }

    #[test]
    fn what_is_written_is_read_and_any_place_shows_what_it_showed_then() {
        let folder = tempfile::tempdir().expect("temp dir");
        let path = folder.path().join("a.labrec");
        written(&path);
        let recording = Recording::read(&path).expect("read");
        assert_eq!((recording.len(), recording.end()), (reports().len(), Millis(30_110)));
        let mut replay = Replay::new(recording.clone());
        let mut direct = Picture::new(&Record::sample(1));
        let mut pictures = Vec::new();
        for (at, report) in &recording.reports {
            direct.tick(*at);
            direct.learn(report.clone());
            pictures.push(format!("{:?} {:?}", direct.term(), direct.feed.len()));
        }
        // Forwards, back over a key frame, back by one.
        for to in [2_900, 40, 1_999, 1_998, 3_010, 1] {
            replay.seek(to);
            assert_eq!(
                format!("{:?} {:?}", replay.picture.term(), replay.picture.feed.len()),
                pictures[to - 1],
                "{to}"
            );
        }
    }

    #[test]
    fn of_a_very_long_recording_the_end_is_kept_and_its_pictures_are_the_same() {
        let folder = tempfile::tempdir().expect("temp dir");
        let path = folder.path().join("a.labrec");
        written(&path);
        let (whole, end) = (Recording::read(&path).expect("read"), Recording::read_end(&path, 1_000).expect("read"));
        assert_eq!((whole.left_out(), end.left_out() + end.len(), end.end()), (0, whole.len(), whole.end()));
        assert!((500..=1_000).contains(&end.len()), "{}", end.len());
        let (mut long, mut short) = (Replay::new(whole), Replay::new(end));
        assert!(short.picture.feed.iter().any(|l| l.text.contains("2500 reports before this are left out")));
        for place in [10, 400, 3] {
            let left_out = short.recording.left_out();
            long.seek(left_out + place);
            short.seek(place);
            assert_eq!((long.picture.now, long.picture.term()), (short.picture.now, short.picture.term()), "{place}");
        }
    }

    #[test]
    fn a_recording_that_was_cut_off_is_good_up_to_there() {
        let folder = tempfile::tempdir().expect("temp dir");
        let path = folder.path().join("a.labrec");
        written(&path);
        let bytes = std::fs::read(&path).expect("read");
        std::fs::write(&path, &bytes[..bytes.len() * 2 / 3]).expect("written");
        let cut = Recording::read(&path).expect("read").len();
        assert!(cut > 100 && cut < reports().len(), "{cut}");
        std::fs::write(&path, b"something else").expect("written");
        assert!(Recording::read(&path).expect_err("refused").to_string().contains("is no recording"));
    }

    #[test]
    fn a_step_goes_over_what_is_no_event() {
        let folder = tempfile::tempdir().expect("temp dir");
        let path = folder.path().join("a.labrec");
        written(&path);
        let mut replay = Replay::new(Recording::read(&path).expect("read"));
        replay.seek(3);
        replay.step(true);
        assert_eq!(replay.at, 6, "over the look and the survey");
        replay.step(false);
        assert_eq!(replay.at, 3);
    }

    #[test]
    fn markers_and_deeds_are_gone_to() {
        let folder = tempfile::tempdir().expect("temp dir");
        let path = folder.path().join("a.labrec");
        written(&path);
        let mut replay = Replay::new(Recording::read(&path).expect("read"));
        let mut places = Vec::new();
        for forwards in [true, true, true, false, false, false] {
            replay.step_to_mark(forwards);
            places.push(replay.at);
        }
        // The deed is the third report, the marker the ninth.
        assert_eq!(places, [3, 9, reports().len(), 9, 3, 0]);
        replay.seek(9);
        assert!(replay.picture.feed.iter().any(|l| l.text == "MARK: here"));
    }
}
