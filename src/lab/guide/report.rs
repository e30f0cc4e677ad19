//! What the gate found, for people, for JUnit readers, and as JSON.

use serde_json::json;
use std::fmt::Write as _;
use std::time::Duration;

/// One thing that had to be true of a lab.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Case {
    /// Which part of the proof: `page`, `start`, `solution`, `mutation`, `reset`, `wrong`, `swap`, `seeds`.
    pub group: &'static str,
    /// What was tried, as a claim.
    pub name: String,
    /// Why it is not so.
    pub failure: Option<String>,
    /// How long it took.
    pub took: Duration,
    /// The run block that this is about.
    pub block: Option<BlockCase>,
}

/// A run block that has run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockCase {
    /// Its id.
    pub id: String,
    /// What ran is what is printed, to the letter: no address of it is another here.
    pub verbatim: bool,
}

/// All that was tried with one lab.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// The lab's short name.
    pub id: String,
    /// The lab's short name and title.
    pub lab: String,
    /// Part by part.
    pub cases: Vec<Case>,
    /// How long it took in all; less than the sum of the cases, which are tried beside each other.
    pub took: Duration,
}

impl Report {
    /// Whether everything was true. Nothing tried is nothing proved.
    #[must_use]
    pub fn passed(&self) -> bool {
        !self.cases.is_empty() && self.cases.iter().all(|c| c.failure.is_none())
    }

    /// For a terminal.
    #[must_use]
    pub fn text(&self) -> String {
        let mut out = format!("{}\n", self.lab);
        let mut group = "";
        for case in &self.cases {
            if case.group != group {
                group = case.group;
                let _ = writeln!(out, "\n{}", headline(group));
            }
            let word = if case.failure.is_some() { "FAIL" } else { "ok  " };
            let _ = writeln!(out, "  {word}  {}", case.name);
            for line in case.failure.iter().flat_map(|f| f.lines()) {
                let _ = writeln!(out, "          {line}");
            }
        }
        let failed = self.cases.iter().filter(|c| c.failure.is_some()).count();
        let took = self.took;
        let word = if self.passed() { "The lab holds" } else { "The lab does not hold" };
        let _ = writeln!(out, "\n{word}: {} tried, {failed} failed, {:.1} s.", self.cases.len(), took.as_secs_f64());
        out
    }

    /// For machines.
    #[must_use]
    pub fn json(&self) -> String {
        let cases = self.cases.iter().map(|c| {
            let ms = u64::try_from(c.took.as_millis()).unwrap_or(u64::MAX);
            let mut case = json!({
                "group": c.group, "name": c.name, "passed": c.failure.is_none(), "failure": c.failure, "took_ms": ms,
            });
            if let Some(block) = &c.block {
                (case["block"], case["verbatim"]) = (json!(block.id), json!(block.verbatim));
            }
            case
        });
        let cases: Vec<_> = cases.collect();
        format!("{:#}\n", json!({ "id": self.id, "lab": self.lab, "passed": self.passed(), "cases": cases }))
    }

    /// For continuous integration: one test suite.
    #[must_use]
    pub fn junit(&self) -> String {
        let failed = self.cases.iter().filter(|c| c.failure.is_some()).count();
        let took = self.took;
        let mut out = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
        let (name, count) = (escaped(&self.lab), self.cases.len());
        let _ = writeln!(
            out,
            "<testsuite name=\"{name}\" tests=\"{count}\" failures=\"{failed}\" time=\"{:.3}\">",
            took.as_secs_f64()
        );
        for case in &self.cases {
            let (name, time) = (escaped(&case.name), case.took.as_secs_f64());
            let _ = write!(out, "  <testcase classname=\"{}\" name=\"{name}\" time=\"{time:.3}\"", case.group);
            let _ = match &case.failure {
                None => writeln!(out, "/>"),
                Some(why) => writeln!(out, "><failure>{}</failure></testcase>", escaped(why)),
            };
        }
        out + "</testsuite>\n"
    }
}

fn headline(group: &str) -> &str {
    match group {
        "author" => "The author's duties",
        "page" => "The page says what comes out",
        "start" => "At the start, nothing is done yet",
        "solution" => "The solution solves it",
        "reset" => "Back at a step's beginning, it is to be done again",
        "mutation" => "Each check notices when its end state is spoilt",
        "wrong" => "Each wrong path is recognised",
        "swap" => "No output passes for another's",
        "seeds" => "The documents' own commands",
        other => other,
    }
}

/// XML text; control signs that XML cannot carry become a question mark.
fn escaped(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        match c {
            '&' => out += "&amp;",
            '<' => out += "&lt;",
            '>' => out += "&gt;",
            '"' => out += "&quot;",
            '\n' | '\t' => out.push(c),
            c if c.is_control() => out.push('?'),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let case = |name: &str, failure: Option<&str>| Case {
            group: "start",
            name: name.into(),
            failure: failure.map(str::to_owned),
            took: Duration::from_millis(20),
            block: None,
        };
        Report {
            id: "B3".into(),
            lab: "B3 First keys".into(),
            cases: vec![case("a & b", None), case("c", Some("it is <passed>\u{1b}"))],
            took: Duration::ZERO,
        }
    }

    #[test]
    fn a_report_reads_well_and_counts() {
        let text = "B3 First keys\n\nAt the start, nothing is done yet\n  ok    a & b\n  FAIL  c\n          it is <passed>\u{1b}\n\n\
            The lab does not hold: 2 tried, 1 failed, 0.0 s.\n";
        assert_eq!(report().text(), text);
    }

    #[test]
    fn junit_is_xml_whatever_a_lab_says() {
        let xml = report().junit();
        assert!(xml.contains("name=\"a &amp; b\" time=\"0.020\"/>"), "{xml}");
        assert!(xml.contains("<failure>it is &lt;passed&gt;?</failure>"), "{xml}");
        assert!(xml.contains("tests=\"2\" failures=\"1\""), "{xml}");
    }

    #[test]
    fn nothing_tried_is_nothing_proved() {
        assert!(!Report { id: "x".into(), lab: "x".into(), cases: Vec::new(), took: Duration::ZERO }.passed());
    }
}
