//! Whether the lab holds the members' clocks, or makes them slow: then nothing is broken, and a client waits all the same. Members say so at
//! `/metrics`, so the lab need not be asked.

use super::Cause;
use super::Finding;
use super::elections::value;

/// What a member says there of its clock: 0 while it is held, else how many times slower than the world's it goes.
const CLOCK: &str = "etcd_lab_clock_slower";

/// A finding if the clock of any of these members is not the world's.
pub(super) fn examine(pages: &[(String, String)]) -> Option<Finding> {
    let told = |(endpoint, page): &(String, String)| Some((endpoint.clone(), value(page, CLOCK)?));
    let odd: Vec<(String, f64)> = pages.iter().filter_map(told).filter(|(_, slower)| *slower != 1.0).collect();
    let slowest = odd.iter().map(|(_, slower)| *slower).fold(1.0, f64::max);
    let held: Vec<&str> =
        odd.iter().filter(|(_, slower)| *slower == 0.0).map(|(endpoint, _)| endpoint.as_str()).collect();
    let says = match (held.is_empty(), odd.is_empty()) {
        (_, true) => return None,
        (true, _) => {
            format!("the lab's clock is {slowest} times slower than the world's, and this client's time is the world's")
        }
        (false, _) => format!(
            "the lab holds the clock of {}: ticks, leases and messages between members wait, and this client's time goes on",
            held.join(", ")
        ),
    };
    let evidence: Vec<String> = odd.iter().map(|(endpoint, slower)| format!("{endpoint}: {CLOCK} {slower}")).collect();
    Some(Finding::new(Cause::SlowClock, says, evidence.join("; ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(endpoint: &str, page: &str) -> (String, String) {
        (endpoint.to_owned(), page.to_owned())
    }

    #[test]
    fn a_clock_that_is_the_worlds_or_unknown_is_none_of_it() {
        assert_eq!(examine(&[page("a", "etcd_lab_clock_slower 1\n"), page("b", "of another etcd\n")]), None);
    }

    #[test]
    fn held_is_told_before_slow() {
        let pages = [page("a", "etcd_lab_clock_slower 50\n"), page("b", "etcd_lab_clock_slower 0\n")];
        let found = examine(&pages).expect("two clocks");
        assert!(found.says.starts_with("the lab holds the clock of b: "), "{found}");
        assert_eq!(found.evidence, "a: etcd_lab_clock_slower 50; b: etcd_lab_clock_slower 0");
        let found = examine(&pages[..1]).expect("one clock");
        assert!(found.says.starts_with("the lab's clock is 50 times slower"), "{found}");
    }
}
