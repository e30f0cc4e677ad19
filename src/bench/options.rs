//! The words of `etcd-lab bench`.

use super::cases;
use super::cases::Case;
use super::workload::Workload;
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

pub(super) const HELP: &str = "\
etcd-lab bench: measure a server, ours or another

Usage:
  etcd-lab bench                          start our server, run every workload once
  etcd-lab bench --against PATH           ours and that etcd in turn, with ratios at the end
  etcd-lab bench --endpoints URL,URL      a cluster that runs already (it is written to)
  etcd-lab bench state --against PATH     a large state instead of a load: restart, snapshot save, a new member
  etcd-lab bench table --against PATH     all that we want to be better at than etcd, as one table: a night's work
  etcd-lab bench table --from FILE        that table again, out of its figures

Options:
  --start                 start the servers (the default without --endpoints)
  --endpoints URL,…       http://host:port of every member
  --pids PID,…            the members' processes, to measure CPU and memory with --endpoints
  --against PATH          another etcd to start, measured in turn with ours; may be said up to 8 times: ratios are to the best
  --ours PATH             another program than this one as ours
  --workloads NAME,…      MIX-CONNECTIONSxINFLIGHT with MIX put, put-compact, range-lin, range-ser, range1000-lin,
                          range1000-ser, txn, mixed50, delete, lease-grant, lease-keepalive, watch or watchmany
                          [put-1x1,put-10x10,put-100x10,range-lin-10x10,range-ser-10x10,txn-10x10,mixed50-10x10]
  --seconds N             length of the measured window [10]
  --rounds N              how often each workload is run [1; with --against 3; a table 5]
  --nodes 1|3             members to start [1]
  --rate R                send R requests a second on a schedule, and count latency from when each was due
  --dir PATH              where data directories are made [$TMPDIR, else /var/tmp]
  --json FILE             write one JSON object a run
  --keys N                with state and table: how many keys a large state has [1000000]; idle watches are a tenth of it
  --cases NAME,…          with table: only these, such as put-10x10,put-10x10/3,failover/3 [all]
  --from FILE             with table: measure nothing, read the lines that --json wrote

The state is put into one member, 64 requests at a time; then it is restarted by SIGTERM and by SIGKILL until a put is
answered, saved by etcdctl, and a learner joins until it answers reads of its own. Of these go seconds and peak memory.
Of watch and watchmany, connections x in flight is the number of watchers, and an operation is an event that one got.
Writes go to the leader, reads to all members. Values are 256 bytes, keys 8. CPU and peak memory are those of the
server processes, summed. A server that serves others should not be measured: the load is meant to saturate it.
";

const WORKLOADS: &str = "put-1x1,put-10x10,put-100x10,range-lin-10x10,range-ser-10x10,txn-10x10,mixed50-10x10";
/// How many keys a state has if nothing else is asked for: no more can be numbered in 8 digits than a hundred times that.
const STATE_KEYS: u64 = 1_000_000;
const AGAINST_AT_MOST: usize = 8;
const MILLISECONDS_IN_A_DAY: f64 = 86_400_000.0;

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    Load,
    State,
    Table,
}

#[derive(Clone, Debug)]
pub(super) struct Options {
    pub(super) mode: Mode,
    /// Members that run already; otherwise servers are started.
    pub(super) endpoints: Option<Vec<String>>,
    pub(super) pids: Vec<u32>,
    /// With what ours is compared.
    pub(super) against: Vec<PathBuf>,
    pub(super) ours: Option<PathBuf>,
    pub(super) workloads: Vec<Workload>,
    pub(super) seconds: Duration,
    pub(super) rounds: u32,
    pub(super) nodes: usize,
    /// Requests a second, for an open loop.
    pub(super) rate: Option<u32>,
    pub(super) dir: PathBuf,
    pub(super) json: Option<PathBuf>,
    /// How many keys a large state has.
    pub(super) keys: Option<u64>,
    /// What goes into a table; nothing: all.
    pub(super) cases: Vec<&'static Case>,
    /// The figures of a table that was measured before.
    pub(super) from: Option<PathBuf>,
}

impl Options {
    fn new() -> Options {
        let dir = std::env::var_os("TMPDIR").filter(|dir| !dir.is_empty()).unwrap_or_else(|| "/var/tmp".into());
        Options {
            mode: Mode::Load,
            endpoints: None,
            pids: Vec::new(),
            against: Vec::new(),
            ours: None,
            workloads: Vec::new(),
            seconds: Duration::from_secs(10),
            rounds: 0,
            nodes: 1,
            rate: None,
            dir: dir.into(),
            json: None,
            keys: None,
            cases: Vec::new(),
            from: None,
        }
    }

    /// How many keys a large state has.
    pub(super) fn keys(&self) -> u64 {
        self.keys.unwrap_or(STATE_KEYS)
    }
}

/// Reads the arguments; `None` if help was asked for.
pub(super) fn parse(args: &[OsString]) -> Result<Option<Options>, String> {
    let mut options = Options::new();
    let mut starts = false;
    let mut args = args.iter().map(|arg| arg.to_string_lossy().into_owned()).peekable();
    for (word, mode) in [("state", Mode::State), ("table", Mode::Table)] {
        if options.mode == Mode::Load && args.next_if(|first| first == word).is_some() {
            options.mode = mode;
        }
    }
    while let Some(arg) = args.next() {
        let (name, inline) = match arg.split_once('=') {
            Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
            None => (arg, None),
        };
        match name.as_str() {
            "--help" | "-h" => return Ok(None),
            "--start" => starts = true,
            name if !HELP.contains(&format!("\n  {name} ")) => return Err(format!("unknown option: {name}")),
            name => {
                let value = inline.or_else(|| args.next()).ok_or_else(|| format!("{name} needs a value"))?;
                options.set(name, &value)?;
            }
        }
    }
    if starts && options.endpoints.is_some() {
        return Err("--start and --endpoints exclude each other".to_owned());
    }
    options.complete().map(Some)
}

impl Options {
    fn set(&mut self, name: &str, value: &str) -> Result<(), String> {
        match name {
            "--endpoints" => self.endpoints = Some(value.split(',').map(endpoint).collect::<Result<_, _>>()?),
            "--pids" => {
                self.pids = value.split(',').map(|pid| number(name, pid, 1, u32::MAX)).collect::<Result<_, _>>()?
            }
            "--against" => self.against.push(program(value)?),
            "--ours" => self.ours = Some(program(value)?),
            "--workloads" => self.workloads = value.split(',').map(str::parse).collect::<Result<_, _>>()?,
            "--seconds" => self.seconds = seconds(name, value)?,
            "--rounds" => self.rounds = number(name, value, 1, 1_000)?,
            "--nodes" => self.nodes = number(name, value, 1, 3)? as usize,
            "--rate" => self.rate = Some(number(name, value, 1, 10_000_000)?),
            "--dir" => self.dir = value.into(),
            "--json" => self.json = Some(value.into()),
            "--keys" => self.keys = Some(number(name, value, 1, 99_999_999)?.into()),
            "--cases" => self.cases = value.split(',').map(cases::named).collect::<Result<_, _>>()?,
            "--from" => self.from = Some(value.into()),
            _ => return Err(format!("{name} stands in the help only")),
        }
        Ok(())
    }

    fn complete(mut self) -> Result<Options, String> {
        if self.endpoints.is_some() && !self.against.is_empty() {
            return Err("--against starts servers itself; it does not go with --endpoints".to_owned());
        }
        if self.against.len() > AGAINST_AT_MOST {
            return Err(format!("--against may be said {AGAINST_AT_MOST} times at most"));
        }
        if self.nodes == 2 {
            return Err("--nodes is 1 or 3".to_owned());
        }
        let of_a_load = self.endpoints.is_some() || !self.workloads.is_empty() || self.rate.is_some() || self.nodes > 1;
        match self.mode {
            Mode::State if of_a_load => {
                return Err("`bench state` measures one member that it starts, without a load".to_owned());
            }
            Mode::Table if of_a_load => {
                return Err("`bench table` knows what to start and to ask; --cases chooses".to_owned());
            }
            Mode::Load if self.keys.is_some() => {
                return Err("--keys goes with `bench state` and `bench table`".to_owned());
            }
            Mode::Load | Mode::State if !self.cases.is_empty() || self.from.is_some() => {
                return Err("--cases and --from go with `bench table`".to_owned());
            }
            _ => {}
        }
        if self.from.is_some() && self.json.is_some() {
            return Err("--from measures nothing that --json could write".to_owned());
        }
        if self.workloads.is_empty() {
            self.workloads = WORKLOADS.split(',').map(str::parse).collect::<Result<_, _>>()?;
        }
        if self.rounds == 0 {
            self.rounds = match self.mode {
                Mode::Table => 5,
                Mode::Load if !self.against.is_empty() => 3,
                // Minutes a round.
                Mode::Load | Mode::State => 1,
            };
        }
        Ok(self)
    }
}

/// `http://host:port`, also without the scheme, as etcdctl takes it.
fn endpoint(text: &str) -> Result<String, String> {
    if text.starts_with("https://") {
        return Err(format!("{text}: the bench speaks plain HTTP only"));
    }
    let authority = text.trim_start_matches("http://").trim_end_matches('/');
    match authority.rsplit_once(':') {
        Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok() => Ok(authority.to_owned()),
        _ => Err(format!("{text:?} is no http://host:port")),
    }
}

fn program(path: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(path);
    if path.is_file() { Ok(path) } else { Err(format!("no such program: {}", path.display())) }
}

fn number(name: &str, text: &str, low: u32, high: u32) -> Result<u32, String> {
    let refusal = || format!("{name}: {text:?} is no number from {low} to {high}");
    text.parse().ok().filter(|n| (low..=high).contains(n)).ok_or_else(refusal)
}

/// To the millisecond, a tenth of a second at least: shorter windows see single scheduler slices.
fn seconds(name: &str, text: &str) -> Result<Duration, String> {
    let milliseconds = text.parse::<f64>().ok().map(|seconds| (seconds * 1_000.0).round());
    let valid = milliseconds.filter(|ms| (100.0..=MILLISECONDS_IN_A_DAY).contains(ms));
    valid
        .map(|ms| Duration::from_millis(ms as u64))
        .ok_or_else(|| format!("{name}: {text:?} is no number from 0.1 to 86400"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Result<Option<Options>, String> {
        parse(&line.split_whitespace().map(OsString::from).collect::<Vec<_>>())
    }

    #[test]
    fn without_words_it_starts_ours_and_runs_everything_once() {
        let options = read("").expect("defaults").expect("no help");
        assert_eq!(options.workloads.len(), 7);
        assert_eq!((options.rounds, options.nodes, options.seconds.as_secs()), (1, 1, 10));
        assert!(options.endpoints.is_none());
    }

    #[test]
    fn values_follow_a_blank_or_an_equals_sign() {
        let options = read("--seconds=3 --rounds 2 --workloads put-1x1,txn-4x4 --against /bin/sh").expect("options");
        let options = options.expect("no help");
        assert_eq!((options.rounds, options.seconds.as_secs(), options.workloads.len()), (2, 3, 2));
        assert_eq!(options.against, [PathBuf::from("/bin/sh")]);
        let both = read("--seconds 0.25 --against /bin/sh --against /bin/true").expect("options").expect("no help");
        assert_eq!((both.seconds.as_millis(), both.against.len()), (250, 2));
    }

    #[test]
    fn a_state_has_a_million_keys_if_nobody_says_otherwise() {
        let of = |line| {
            let options = read(line).expect("options").expect("no help");
            (options.mode, options.keys(), options.rounds)
        };
        assert_eq!(of("state"), (Mode::State, 1_000_000, 1));
        assert_eq!(of("state --keys=20"), (Mode::State, 20, 1));
        assert_eq!(of("table --keys=20"), (Mode::Table, 20, 5));
    }

    #[test]
    fn a_wrong_word_is_named_in_the_refusal() {
        for (line, names) in [
            ("--secnods", "unknown option: --secnods"),
            ("--seconds 0", "--seconds"),
            ("--seconds NaN", "--seconds"),
            ("--seconds", "--seconds"),
            ("put-1x1", "unknown option: put-1x1"),
            ("--nodes 2", "--nodes"),
            ("--against /no/such/etcd", "/no/such/etcd"),
            ("--endpoints https://127.0.0.1:2379", "https://127.0.0.1:2379"),
            ("--endpoints localhost", "localhost"),
            ("--endpoints http://127.0.0.1:2379 --start", "--start"),
            ("--workloads put-1y1", "put-1y1"),
            ("--keys 5", "bench state"),
            ("state --keys 0", "--keys"),
            ("state --workloads put-1x1", "without a load"),
            ("--seconds 1 state", "unknown option: state"),
            ("state table", "unknown option: table"),
            ("table --nodes 3", "--cases chooses"),
            ("table --cases put-10x10,no-such", "no-such"),
            ("--cases failover/3", "bench table"),
            ("state --from x", "bench table"),
            ("table --from x --json y", "--json"),
        ] {
            let refusal = read(line).expect_err(line);
            assert!(refusal.contains(names), "{line}: {refusal}");
        }
        let names = HELP.lines().filter_map(|line| line.strip_prefix("  --")?.split_once(' ')).map(|(name, _)| name);
        for name in names.filter(|name| *name != "start") {
            let refusal = read(&format!("--{name} \u{0}")).err().unwrap_or_default();
            assert!(!refusal.contains("in the help only"), "{refusal}");
        }
        assert!(read("--seconds 0 --help").is_err(), "what stands before --help is read");
        assert!(read("--help").expect("help").is_none());
    }
}
