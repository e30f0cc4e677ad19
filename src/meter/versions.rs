//! Requests by the version that a client says it has: text of a client's choice, so only the first few are told apart.

use super::Counter;
use super::Samples;
use super::print_sample;
use super::quoted;
use std::sync::OnceLock;

/// How many versions are told apart.
const VERSIONS: usize = 16;
/// The longest text that is taken for a version.
const TEXT_BYTES_MAX: usize = 32;
const OTHER: &str = "other";

/// The counters of one version: unary calls and streams.
#[derive(Debug)]
struct Slot {
    version: OnceLock<String>,
    unary: Counter,
    stream: Counter,
}

/// Requests by version. A known version is found by looking, without a lock.
#[derive(Debug)]
pub struct Versions {
    slots: [Slot; VERSIONS],
    other: Slot,
}

impl Versions {
    pub(super) const fn new() -> Versions {
        let slot = const { Slot { version: OnceLock::new(), unary: Counter::new(), stream: Counter::new() } };
        Versions {
            slots: [const { Slot { version: OnceLock::new(), unary: Counter::new(), stream: Counter::new() } };
                VERSIONS],
            other: slot,
        }
    }

    /// Counts a request.
    pub fn count(&self, version: &str, is_unary: bool) {
        let slot = self.slot(version);
        if is_unary { slot.unary.inc() } else { slot.stream.inc() }
    }

    fn slot(&self, version: &str) -> &Slot {
        if version.len() > TEXT_BYTES_MAX {
            return &self.other;
        }
        let is_it = |slot: &&Slot| slot.version.get_or_init(|| version.to_owned()) == version;
        self.slots.iter().find(is_it).unwrap_or(&self.other)
    }
}

impl Samples for Versions {
    fn print(&self, name: &str, _: &str, out: &mut String) {
        for slot in self.slots.iter().chain([&self.other]) {
            let version = quoted(slot.version.get().map_or(OTHER, String::as_str));
            for (kind, counter) in [("unary", &slot.unary), ("stream", &slot.stream)] {
                if counter.get() > 0 {
                    let labels = format!("client_api_version={version},type=\"{kind}\"");
                    print_sample(out, name, &labels, counter.get() as f64);
                }
            }
        }
    }

    fn moved(&self) -> f64 {
        let count = |slot: &Slot| slot.unary.get() + slot.stream.get();
        self.slots.iter().chain([&self.other]).map(count).sum::<u64>() as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_cannot_make_series_without_end() {
        let versions = Versions::new();
        for number in 0..100 {
            versions.count(&number.to_string(), true);
        }
        versions.count("0", false);
        versions.count(&"x".repeat(33), true);
        let mut out = String::new();
        versions.print("n", "", &mut out);
        assert_eq!(out.lines().count(), 16 + 1 + 1, "{out}");
        assert!(out.contains("n{client_api_version=\"other\",type=\"unary\"} 85\n"), "{out}");
        assert_eq!(versions.moved(), 102.0);
    }
}
