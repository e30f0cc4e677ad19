//! The log: one JSON line per event, as etcd's zap writes it, without ever making the server wait.
//!
//! ```text
//! {"level":"info","ts":"2026-01-02T15:04:05.000000Z","caller":"server/listen.rs:42","msg":"serving client traffic securely","address":"127.0.0.1:2379"}
//! ```
//!
//! Events come from `tracing`, become a line in the thread that told them, and wait in a bounded queue for the one thread that writes
//! each output. When a reader of standard error stops reading, the queue fills, further lines are dropped, and the count
//! of them is written once it reads again. Lists and computed fields travel as `List` and [`object`]. Left out: zap's sampling, but for slow requests (`sampler.rs`).

#![expect(clippy::disallowed_methods, reason = "a log line carries the time of day")]

use super::config::LogConfig;
use super::journal;
use super::journal::Journal;
use super::rotate::Rotating;
use super::settings::Notice;
use crate::golang;
use crate::meter::LOG_DROPPED;
use crate::wall;
use serde_json::Map;
use serde_json::Value;
use std::fmt;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::time::Duration;
use std::time::SystemTime;
use time::OffsetDateTime;
use tracing::Event;
use tracing::Level;
use tracing::Metadata;
use tracing::Subscriber;
use tracing::field::Field;
use tracing::field::Visit;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::Layer;
use tracing_subscriber::Registry;
use tracing_subscriber::layer::Context;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::reload;

/// Lines that may wait for one output.
const QUEUE_LINES: usize = 8192;

/// How long the end of the program waits for the last lines to be written.
const FLUSH_WAIT: Duration = Duration::from_secs(1);

/// Bytes that are written in one go.
const WRITE_BYTES: usize = 64 * 1024;

/// Marks text that is JSON already. The record separator of RFC 7464: no other text of ours starts with it.
const IS_JSON: char = '\u{1e}';

/// Starts logging for this process. Lines told before that are lost.
///
/// # Errors
/// An output that cannot be opened.
pub(super) fn start(config: &LogConfig) -> Result<Log, String> {
    let mut sinks = Vec::new();
    for output in &config.outputs {
        let to = match output.as_str() {
            "default" | "stderr" => To::Text(Box::new(std::io::stderr())),
            "stdout" => To::Text(Box::new(std::io::stdout())),
            "systemd/journal" => To::Journal(Journal::open(Path::new(journal::SOCKET))?),
            path => match config.rotation {
                Some(rotation) => To::Text(Box::new(Rotating::open(path, rotation)?)),
                None => To::Text(Box::new(open_append(path)?)),
            },
        };
        sinks.push(Sink::start(to, config.console).map_err(|e| format!("cannot start the log's thread: {e}"))?);
    }
    let log = Log { sinks: sinks.into() };
    let level = Arc::new(Threshold::new(Severity::named(&config.level)));
    let layer = ToSinks { sinks: Arc::clone(&log.sinks), console: config.console, level: Arc::clone(&level) };
    let (filter, handle) = reload::Layer::new(level.filter());
    // A second start in one process (tests) keeps the first log.
    if tracing::subscriber::set_global_default(tracing_subscriber::registry().with(filter).with(layer)).is_ok() {
        let _first = TOGGLE.set(Toggle { level, handle });
    }
    Ok(log)
}

/// The running log's level.
static TOGGLE: OnceLock<Toggle> = OnceLock::new();

struct Toggle {
    level: Arc<Threshold>,
    handle: reload::Handle<LevelFilter, Registry>,
}

/// Switches to level debug, or back to the configured one; the name of the level from now on.
pub(super) fn toggle_debug() -> &'static str {
    let Some(Toggle { level, handle }) = TOGGLE.get() else { return "" };
    level.toggle();
    // Fails only if the log is gone.
    let _ = handle.reload(level.filter());
    level.now().name()
}

/// Whether lines of level debug are logged now; for those who would have to work for what they say.
pub(super) fn wants_debug() -> bool {
    TOGGLE.get().is_some_and(|toggle| toggle.level.now() == Severity::Debug)
}

/// The least level that is logged.
struct Threshold {
    configured: Severity,
    is_debug: AtomicBool,
}

impl Threshold {
    fn new(configured: Severity) -> Threshold {
        Threshold { configured, is_debug: AtomicBool::new(false) }
    }

    fn toggle(&self) {
        self.is_debug.fetch_xor(true, Ordering::Relaxed);
    }

    fn now(&self) -> Severity {
        if self.is_debug.load(Ordering::Relaxed) { Severity::Debug } else { self.configured }
    }

    fn filter(&self) -> LevelFilter {
        match self.now() {
            Severity::Debug => LevelFilter::DEBUG,
            Severity::Info => LevelFilter::INFO,
            Severity::Warn => LevelFilter::WARN,
            Severity::Error | Severity::Panic | Severity::Fatal => LevelFilter::ERROR,
        }
    }
}

pub(super) fn open_append(path: &str) -> Result<std::fs::File, String> {
    let mut options = std::fs::OpenOptions::new();
    options.append(true).create(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let told = |e: std::io::Error| {
        format!("open sink {}: open {path}: {}", golang::quote(path.as_bytes()), crate::error::io_text(&e))
    };
    options.open(path).map_err(told)
}

/// The running log; writes what still waits when dropped.
pub(super) struct Log {
    sinks: Arc<[Sink]>,
}

impl Log {
    /// Waits a bounded time until what was told has been written.
    pub(super) fn flush(&self) {
        let waiting: Vec<_> = self.sinks.iter().filter_map(Sink::ask_flush).collect();
        for done in waiting {
            // Late or never: the reader has stopped, and the program must end all the same.
            let _ = done.recv_timeout(FLUSH_WAIT);
        }
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        self.flush();
    }
}

/// What was noticed before the log was up.
pub(super) fn tell(notice: &Notice) {
    let fields = object(notice.fields.iter().map(|(name, value)| (*name, Value::from(value.as_str()))));
    if notice.warn {
        tracing::warn!(%fields, "{}", notice.message);
    } else {
        tracing::info!(%fields, "{}", notice.message);
    }
}

/// Fields whose names are only known when the line is told: `info!(fields = %object(…), "message")`.
pub(super) fn object<'a>(fields: impl IntoIterator<Item = (&'a str, Value)>) -> Json {
    Json(Value::Object(fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect::<Map<_, _>>()))
}

/// A list as the value of a field: `info!(args = %list(&args), "message")`.
pub(super) fn list(items: &[String]) -> Json {
    Json(items.into())
}

/// A value that stays JSON on its way through `tracing`.
pub(super) struct Json(Value);

impl fmt::Display for Json {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{IS_JSON}{}", self.0)
    }
}

/// How bad a line is. `tracing` ends at error; zap has two more, told by a field `level = "fatal"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Severity {
    Debug,
    Info,
    Warn,
    Error,
    Panic,
    Fatal,
}

impl Severity {
    const NAMES: [(&'static str, Severity); 6] = [
        ("debug", Severity::Debug),
        ("info", Severity::Info),
        ("warn", Severity::Warn),
        ("error", Severity::Error),
        ("panic", Severity::Panic),
        ("fatal", Severity::Fatal),
    ];

    fn named(name: &str) -> Severity {
        Severity::NAMES.into_iter().find(|(have, _)| *have == name).map_or(Severity::Info, |(_, severity)| severity)
    }

    fn name(self) -> &'static str {
        Severity::NAMES[self as usize].0
    }

    /// The journal's number for it.
    fn priority(self) -> u8 {
        match self {
            Severity::Debug => 7,
            Severity::Info => 6,
            Severity::Warn => 4,
            Severity::Error => 3,
            Severity::Panic | Severity::Fatal => 2,
        }
    }

    fn of(level: Level) -> Severity {
        match level {
            Level::ERROR => Severity::Error,
            Level::WARN => Severity::Warn,
            Level::INFO => Severity::Info,
            _ => Severity::Debug,
        }
    }
}

/// One line before it is text.
struct Line {
    severity: Severity,
    ts: String,
    /// The part of the server that speaks, told by a field `logger`.
    logger: Option<String>,
    caller: String,
    message: String,
    fields: Vec<(String, Value)>,
}

impl Line {
    fn of(event: &Event<'_>) -> Line {
        let metadata = event.metadata();
        let mut line = Line {
            severity: Severity::of(*metadata.level()),
            ts: timestamp(SystemTime::now()),
            logger: None,
            caller: caller(metadata),
            message: String::new(),
            fields: Vec::new(),
        };
        event.record(&mut line);
        line
    }

    fn render(self, console: bool) -> Rendered {
        let text = if console { self.to_console() } else { self.to_json() };
        Rendered { text, severity: self.severity, caller: self.caller }
    }

    fn to_json(&self) -> String {
        let mut out = String::with_capacity(256);
        out.push_str("{\"level\":\"");
        out.push_str(self.severity.name());
        out.push('"');
        let logger = self.logger.as_deref().map(|logger| ("logger", logger));
        let head =
            [Some(("ts", self.ts.as_str())), logger, Some(("caller", &self.caller)), Some(("msg", &self.message))];
        for (name, value) in head.into_iter().flatten() {
            push_member(&mut out, name, &Value::from(value));
        }
        for (name, value) in &self.fields {
            push_member(&mut out, name, value);
        }
        out.push_str("}\n");
        out
    }

    fn to_console(&self) -> String {
        let mut out = format!("{}\t{}\t", self.ts, self.severity.name());
        if let Some(logger) = &self.logger {
            out.push_str(logger);
            out.push('\t');
        }
        out.push_str(&format!("{}\t{}", self.caller, one_line(&self.message)));
        if !self.fields.is_empty() {
            let fields: Map<String, Value> = self.fields.iter().cloned().collect();
            out.push_str(&format!("\t{}", Value::Object(fields)));
        }
        out.push('\n');
        out
    }

    fn add(&mut self, name: &str, value: Value) {
        match (name, value) {
            ("message", Value::String(text)) => self.message = text,
            ("level", Value::String(text)) => self.severity = Severity::named(&text),
            ("logger", Value::String(text)) => self.logger = Some(text),
            ("fields", Value::Object(members)) => self.fields.extend(members),
            (name, value) => self.fields.push((name.to_owned(), value)),
        }
    }
}

/// One line as text, and what the journal wants to know of it.
struct Rendered {
    text: String,
    severity: Severity,
    caller: String,
}

/// Adds `,"name":value`.
fn push_member(out: &mut String, name: &str, value: &Value) {
    out.push_str(&format!(",{}:{value}", Value::from(name)));
}

/// Text that a client sent must not start a line of its own.
fn one_line(text: &str) -> String {
    text.replace(['\n', '\r'], " ")
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let text = format!("{value:?}");
        let json = text.strip_prefix(IS_JSON).and_then(|json| serde_json::from_str(json).ok());
        self.add(field.name(), json.unwrap_or_else(|| Value::from(text)));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field.name(), value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.add(field.name(), value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.add(field.name(), value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.add(field.name(), value.into());
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.add(field.name(), value.into());
    }
}

/// `2006-01-02T15:04:05.000000Z`, always UTC, by this process's clock.
pub(super) fn timestamp(now: SystemTime) -> String {
    let format =
        time::macros::format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:6]Z");
    OffsetDateTime::from(wall::seen(now)).format(format).unwrap_or_default()
}

/// `server/kv.rs:42`.
fn caller(metadata: &Metadata<'_>) -> String {
    let file = metadata.file().unwrap_or("unknown");
    let file = file.rsplit_once("src/").map_or(file, |(_, inner)| inner);
    format!("{file}:{}", metadata.line().unwrap_or(0))
}

/// Turns events into lines and hands them to the writers.
struct ToSinks {
    sinks: Arc<[Sink]>,
    console: bool,
    level: Arc<Threshold>,
}

impl<S: Subscriber> Layer<S> for ToSinks {
    /// Ours at every level; libraries only when they warn.
    fn enabled(&self, metadata: &Metadata<'_>, _: Context<'_, S>) -> bool {
        let target = metadata.target();
        target.starts_with("etcd_lab") || *metadata.level() <= Level::WARN
    }

    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let line = Line::of(event);
        if line.severity < self.level.now() {
            return;
        }
        let line = Arc::new(line.render(self.console));
        for sink in self.sinks.iter() {
            sink.push(&line);
        }
    }
}

/// Where the lines of one output go.
enum To {
    Text(Box<dyn Write + Send>),
    Journal(Journal),
}

enum Job {
    Line(Arc<Rendered>),
    Flush(mpsc::SyncSender<()>),
}

/// One output: its queue and the count of what did not fit.
struct Sink {
    queue: mpsc::SyncSender<Job>,
    dropped: Arc<AtomicU64>,
}

impl Sink {
    fn start(to: To, console: bool) -> std::io::Result<Sink> {
        let (queue, jobs) = mpsc::sync_channel(QUEUE_LINES);
        let dropped = Arc::new(AtomicU64::new(0));
        let mut writer = Writer { to, jobs, dropped: Arc::clone(&dropped), console };
        std::thread::Builder::new().name("log".into()).spawn(move || writer.run())?;
        Ok(Sink { queue, dropped })
    }

    fn push(&self, line: &Arc<Rendered>) {
        if self.queue.try_send(Job::Line(Arc::clone(line))).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
            LOG_DROPPED.inc();
        }
    }

    /// Asks to be told when all lines so far are written; nothing if the queue is full.
    fn ask_flush(&self) -> Option<mpsc::Receiver<()>> {
        let (done, wait) = mpsc::sync_channel(1);
        self.queue.try_send(Job::Flush(done)).ok().map(|()| wait)
    }
}

/// The thread that writes one output.
struct Writer {
    to: To,
    jobs: mpsc::Receiver<Job>,
    dropped: Arc<AtomicU64>,
    console: bool,
}

impl Writer {
    fn run(&mut self) {
        let mut buffer = String::new();
        while let Ok(job) = self.jobs.recv() {
            let mut flushed = Vec::new();
            self.take(job, &mut buffer, &mut flushed);
            while buffer.len() < WRITE_BYTES {
                let Ok(job) = self.jobs.try_recv() else { break };
                self.take(job, &mut buffer, &mut flushed);
            }
            let dropped = self.dropped.swap(0, Ordering::Relaxed);
            if dropped > 0 {
                self.line(&dropped_line(dropped).render(self.console), &mut buffer);
            }
            if let To::Text(to) = &mut self.to {
                // A log that cannot be written has nowhere to complain.
                let _ = to.write_all(buffer.as_bytes()).and_then(|()| to.flush());
            }
            buffer.clear();
            for done in flushed {
                let _ = done.try_send(());
            }
        }
    }

    fn take(&self, job: Job, buffer: &mut String, flushed: &mut Vec<mpsc::SyncSender<()>>) {
        match job {
            Job::Line(line) => self.line(&line, buffer),
            Job::Flush(done) => flushed.push(done),
        }
    }

    /// Text is written many lines at a time, the journal takes one at a time.
    fn line(&self, line: &Rendered, buffer: &mut String) {
        match &self.to {
            To::Text(_) => buffer.push_str(&line.text),
            To::Journal(journal) => journal.send(line.severity.priority(), &line.caller, &line.text),
        }
    }
}

fn dropped_line(count: u64) -> Line {
    Line {
        severity: Severity::Warn,
        ts: timestamp(SystemTime::now()),
        logger: None,
        caller: format!("server/log.rs:{}", line!()),
        message: "log lines were dropped: the reader of this output is too slow".into(),
        fields: vec![("count".into(), count.into())],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use parking_lot::Mutex;
    use std::time::Instant;

    /// An output that a test can read, and stop.
    #[derive(Clone, Default)]
    struct Output {
        text: Arc<Mutex<String>>,
        stopped: Arc<Mutex<()>>,
    }

    impl Write for Output {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            let _go = self.stopped.lock();
            self.text.lock().push_str(&String::from_utf8_lossy(bytes));
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn log_to(output: &Output, console: bool, level: &str) -> (Log, impl Subscriber + use<>) {
        log_by(To::Text(Box::new(output.clone())), console, level)
    }

    fn log_by(to: To, console: bool, level: &str) -> (Log, impl Subscriber + use<>) {
        let sinks: Arc<[Sink]> = [Sink::start(to, console).expect("a thread")].into();
        let level = Arc::new(Threshold::new(Severity::named(level)));
        let layer = ToSinks { sinks: Arc::clone(&sinks), console, level };
        (Log { sinks }, tracing_subscriber::registry().with(layer))
    }

    fn logged(console: bool, level: &str, tell: impl FnOnce()) -> String {
        let output = Output::default();
        let (log, subscriber) = log_to(&output, console, level);
        tracing::subscriber::with_default(subscriber, tell);
        log.flush();
        output.text.lock().clone()
    }

    #[test]
    fn a_line_has_zaps_members_in_zaps_order() {
        let text = logged(false, "info", || {
            tracing::info!(logger = "raft", "data-dir" = %"d", took = 3, ok = true, urls = %list(&["a".into()]), "starting");
        });
        let parsed: Value = serde_json::from_str(&text).expect("one line of JSON");
        assert_eq!(parsed["level"], "info");
        assert_eq!(parsed["msg"], "starting");
        assert_eq!((&parsed["data-dir"], &parsed["took"], &parsed["ok"]), (&"d".into(), &3.into(), &true.into()));
        assert_eq!(parsed["urls"][0], "a");
        let order: Vec<usize> = ["\"level\"", "\"ts\"", "\"logger\"", "\"caller\"", "\"msg\"", "\"data-dir\""]
            .map(|name| text.find(name).expect(name))
            .into();
        assert!(order.is_sorted(), "{text}");
        assert!(parsed["caller"].as_str().is_some_and(|caller| caller.starts_with("server/log.rs:")), "{text}");
    }

    #[test]
    fn the_time_is_utc_in_microseconds() {
        let when = SystemTime::UNIX_EPOCH + Duration::from_micros(1_136_214_245_000_007);
        assert_eq!(timestamp(when), "2006-01-02T15:04:05.000007Z");
    }

    #[test]
    fn what_a_client_sends_cannot_forge_a_line() {
        let evil = "x\"}\n{\"level\":\"fatal\"";
        let text = logged(false, "info", || tracing::warn!(error = evil, "refused {evil}"));
        assert_eq!(text.lines().count(), 1);
        let parsed: Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(parsed["error"], evil);
        assert_eq!(logged(true, "info", || tracing::warn!("refused {evil}")).lines().count(), 1);
    }

    #[test]
    fn fatal_is_a_level_of_its_own() {
        let text = logged(false, "fatal", || {
            tracing::error!("not bad enough");
            tracing::error!(level = "fatal", error = "x", "discovery failed");
        });
        assert_eq!(text.lines().count(), 1);
        assert!(text.starts_with("{\"level\":\"fatal\""), "{text}");
    }

    #[test]
    fn notices_keep_their_fields() {
        let notice = Notice::warn("said early").with("environment-variable", "ETCD_X");
        let text = logged(false, "info", || tell(&notice));
        assert!(text.ends_with("\"msg\":\"said early\",\"environment-variable\":\"ETCD_X\"}\n"), "{text}");
    }

    #[test]
    fn the_journal_gets_an_entry_for_each_line() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("socket");
        let journald = std::os::unix::net::UnixDatagram::bind(&path).expect("a socket");
        let journal = Journal::open(&path).expect("it listens");
        let (log, subscriber) = log_by(To::Journal(journal), false, "info");
        tracing::subscriber::with_default(subscriber, || {
            tracing::error!(n = 1, "bad");
            tracing::debug!("not logged");
            tracing::error!(level = "fatal", "worse");
        });
        drop(log);
        for (priority, message) in [(3, "\"msg\":\"bad\",\"n\":1}"), (2, "\"msg\":\"worse\"}")] {
            let mut heard = [0; 1000];
            let bytes = journald.recv(&mut heard).expect("an entry");
            let entry = String::from_utf8_lossy(&heard[..bytes]).into_owned();
            let is_it = entry.contains(&format!("{message}\nPRIORITY={priority}\nPACKAGE=server\nSYSLOG_IDENTIFIER="));
            assert!(is_it && entry.starts_with("MESSAGE={\"level\":"), "{entry}");
        }
    }

    #[test]
    fn console_is_tab_separated() {
        let text = logged(true, "debug", || tracing::debug!(n = 1, "hello"));
        let parts: Vec<&str> = text.trim_end().split('\t').collect();
        assert_eq!((parts[1], parts[3], parts[4]), ("debug", "hello", "{\"n\":1}"));
    }

    #[test]
    fn a_stopped_reader_stops_nobody_and_loss_is_counted() {
        let output = Output::default();
        let (log, subscriber) = log_to(&output, false, "info");
        let before = Instant::now();
        {
            let _stopped = output.stopped.lock();
            tracing::subscriber::with_default(subscriber, || {
                for n in 0..QUEUE_LINES * 2 {
                    tracing::info!(n, "line");
                }
            });
        }
        assert!(before.elapsed() < Duration::from_secs(20));
        let deadline = Instant::now() + Duration::from_secs(10);
        while !output.text.lock().contains("log lines were dropped") {
            assert!(Instant::now() < deadline, "the loss is never told");
            log.flush();
        }
    }
}
