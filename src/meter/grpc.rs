//! `grpc_server_*`: calls and messages of each method, as go-grpc-prometheus counts them.
//!
//! The methods are known when the server starts, so each has a row of counters and a call finds its row once. Every series is there from the start, at zero.

use super::Counter;
use super::Histogram;
use super::bounds;
use super::print_sample;
use std::fmt::Write as _;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;

/// Whether calls are timed: `--metrics=extensive`.
pub static EXTENSIVE: AtomicBool = AtomicBool::new(false);

/// gRPC's codes by their number, as Go names them.
const CODES: [&str; 17] = [
    "OK",
    "Canceled",
    "Unknown",
    "InvalidArgument",
    "DeadlineExceeded",
    "NotFound",
    "AlreadyExists",
    "PermissionDenied",
    "ResourceExhausted",
    "FailedPrecondition",
    "Aborted",
    "OutOfRange",
    "Unimplemented",
    "Internal",
    "Unavailable",
    "DataLoss",
    "Unauthenticated",
];

/// The counters of one method.
#[derive(Debug)]
pub struct Call {
    path: String,
    is_unary: bool,
    labels: String,
    pub started: Counter,
    pub received: Counter,
    pub sent: Counter,
    handled: [Counter; CODES.len()],
    handling: Histogram,
}

impl Call {
    /// Counts the end of a call, by gRPC's code.
    pub fn handled(&self, code: i32) {
        let place = usize::try_from(code).ok().filter(|place| *place < CODES.len()).unwrap_or(2);
        self.handled[place].inc();
    }

    /// How many calls ended with this code.
    #[must_use]
    pub fn ended(&self, code: i32) -> u64 {
        usize::try_from(code).ok().and_then(|place| self.handled.get(place)).map_or(0, Counter::get)
    }

    /// `/service/Method`.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Whether it has one message in each direction.
    #[must_use]
    pub fn is_unary(&self) -> bool {
        self.is_unary
    }

    /// Counts how long a call took; only under [`EXTENSIVE`].
    pub fn took(&self, seconds: f64) {
        self.handling.observe(seconds);
    }
}

/// All methods of a server.
#[derive(Debug, Default)]
pub struct Calls(Vec<Call>);

impl Calls {
    /// For these methods: path and go-grpc-prometheus' kind (`unary`, `bidi_stream` ...). The commonest first: they are found by looking.
    #[must_use]
    pub fn new(methods: impl IntoIterator<Item = (String, &'static str)>) -> Calls {
        let call = |(path, kind): (String, &'static str)| {
            let (service, method) = path.trim_start_matches('/').split_once('/').unwrap_or_default();
            let labels = format!("grpc_method=\"{method}\",grpc_service=\"{service}\",grpc_type=\"{kind}\"");
            Call {
                path,
                is_unary: kind == "unary",
                labels,
                started: Counter::new(),
                received: Counter::new(),
                sent: Counter::new(),
                handled: [const { Counter::new() }; CODES.len()],
                handling: Histogram::new(&bounds::HANDLING),
            }
        };
        Calls(methods.into_iter().map(call).collect())
    }

    /// The method of a path.
    #[must_use]
    pub fn of(&self, path: &str) -> Option<&Call> {
        self.0.iter().find(|call| call.path == path)
    }

    /// Appends all of it in Prometheus' text format.
    pub fn print(&self, out: &mut String) {
        type Of = fn(&Call) -> &Counter;
        let plain: [(&str, &str, Of); 3] = [
            ("grpc_server_started_total", "Calls begun.", |call| &call.started),
            ("grpc_server_msg_received_total", "Messages received.", |call| &call.received),
            ("grpc_server_msg_sent_total", "Messages sent.", |call| &call.sent),
        ];
        for (name, help, counter) in plain {
            head(out, name, "counter", help);
            self.0.iter().for_each(|call| print_sample(out, name, &call.labels, counter(call).get() as f64));
        }
        let name = "grpc_server_handled_total";
        head(out, name, "counter", "Calls ended, by code.");
        for call in &self.0 {
            for (code, count) in CODES.iter().zip(&call.handled) {
                print_sample(out, name, &format!("grpc_code=\"{code}\",{}", call.labels), count.get() as f64);
            }
        }
        if EXTENSIVE.load(Ordering::Relaxed) {
            let name = "grpc_server_handling_seconds";
            head(out, name, "histogram", "How long calls took.");
            self.0.iter().for_each(|call| super::Samples::print(&call.handling, name, &call.labels, out));
        }
    }
}

fn head(out: &mut String, name: &str, kind: &str, help: &str) {
    // Writing to a String cannot fail.
    let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_series_is_there_before_the_first_call() {
        let calls = Calls::new([("/a.B/C".to_owned(), "unary")]);
        let call = calls.of("/a.B/C").expect("known");
        call.started.inc();
        call.handled(0);
        call.handled(99);
        assert!(calls.of("/a.B/D").is_none());
        let mut out = String::new();
        calls.print(&mut out);
        let labels = "grpc_method=\"C\",grpc_service=\"a.B\",grpc_type=\"unary\"";
        for line in [
            format!("grpc_server_started_total{{{labels}}} 1\n"),
            format!("grpc_server_handled_total{{grpc_code=\"OK\",{labels}}} 1\n"),
            format!("grpc_server_handled_total{{grpc_code=\"Unknown\",{labels}}} 1\n"),
            format!("grpc_server_handled_total{{grpc_code=\"Unauthenticated\",{labels}}} 0\n"),
        ] {
            assert!(out.contains(&line), "{line} in {out}");
        }
    }
}
