//! Free ports, each given out once.
//!
//! They lie below the range from which the kernel takes the local ports of outgoing connections. Inside it, a member that redials a dead
//! peer for long enough connects to itself, and the port is taken when the peer comes back.

use std::collections::BTreeSet;
use std::net::TcpListener;
use std::ops::RangeInclusive;
use std::sync::Mutex;
use std::time::SystemTime;

/// Below Linux's default of 32768 for outgoing connections.
const RANGE: RangeInclusive<u16> = 28_000..=31_999;

static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());

/// A port on 127.0.0.1 that nobody listens on and that no other test of this process was given.
pub(crate) fn free() -> u16 {
    let mut given = GIVEN.lock().expect("nobody panics with it");
    let size = RANGE.len();
    let begin = start(size);
    let candidate = |step| RANGE.start() + ((begin + step) % size) as u16;
    let is_free = |port: &u16| !given.contains(port) && TcpListener::bind(("127.0.0.1", *port)).is_ok();
    let port = (0..size).map(candidate).find(is_free).expect("a free port");
    given.insert(port);
    port
}

/// Where to look first: another place in each process, so that two test runs on one machine seldom meet.
fn start(size: usize) -> usize {
    #[expect(clippy::disallowed_methods, reason = "any number will do")]
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.subsec_nanos());
    (std::process::id() as usize).wrapping_mul(7_919).wrapping_add(now as usize / 1_000) % size
}
