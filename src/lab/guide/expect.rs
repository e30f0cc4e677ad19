//! An output on the page against one that came out.
//!
//! The page shows real output. Of it, a closed list may differ from run to run: ids, the lab's ports, times, process ids and
//! raft terms ([`MOVING`]). Everything else must be equal, except where the page says otherwise: a line `...` stands for any
//! lines, `[..]` for anything within a line, and `[NAME]` for a pattern that the block's `vars` gives, and for the same
//! text whenever it returns in the lab. `exact` switches the closed list off.

use crate::lab::guide::model::Expect;
use regex::Regex;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::LazyLock;

/// What may differ from run to run: how it is recognised in the page, and what it then stands for.
const MOVING: [(&str, &str); 7] = [
    // A member's or cluster's id in JSON and in `fields`.
    (r"\b[0-9]{17,20}\b", "[0-9]{15,20}"),
    // The same in hexadecimal, without leading zeros: etcd pads some with blanks in their place.
    (r"\b(?:[0-9a-f]{14,16})\b", " *[0-9a-f]{10,16}"),
    (r"\b127\.[0-9]+\.[0-9]+\.[0-9]+:[0-9]{2,5}\b", r"127\.[0-9]+\.[0-9]+\.[0-9]+:[0-9]{2,5}"),
    (
        r"\b[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:.]+(?:Z|[+-][0-9:]+)",
        r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:.]+(?:Z|[+-][0-9:]+)",
    ),
    (r"\b[0-9]+\.[0-9]+(?:ns|µs|ms|s)\b", r"[0-9]+(?:\.[0-9]+)?(?:ns|µs|ms|s)"),
    (r#""raft_term":[0-9]+|"RaftTerm" : [0-9]+"#, r#"(?:"raft_term":|"RaftTerm" : )[0-9]+"#),
    (r"\bpid[=: ][0-9]+", r"pid[=: ][0-9]+"),
];

static MOVES: LazyLock<Regex> = LazyLock::new(|| {
    let any = MOVING.map(|(page, _)| format!("({page})")).join("|");
    Regex::new(&any).expect("the list above is constant")
});

static PLACE: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"\[(\.\.|[A-Z][A-Z0-9_]*)\]").expect("constant"));

/// What names in brackets have stood for so far.
pub(crate) type Bound = BTreeMap<String, String>;

/// Compares. On success `bound` knows the names of this block too.
///
/// # Errors
/// The first line that does not fit, and both texts.
pub(crate) fn compare(expect: &Expect, actual: &str, bound: &mut Bound) -> Result<(), String> {
    let wanted = lines(&expect.text);
    let got = lines(actual);
    let mut trial = bound.clone();
    match fit(expect, &wanted, &got, &mut trial) {
        Ok(()) => {
            *bound = trial;
            Ok(())
        }
        Err(place) => Err(difference(&wanted, &got, place)),
    }
}

/// Why this block proves nothing, if so: every line of it would fit almost anything.
pub(crate) fn vague(expect: &Expect) -> Option<String> {
    let wanted = lines(&expect.text);
    let literal = |line: &&str| {
        let firm = if expect.exact { (*line).to_owned() } else { MOVES.replace_all(line, "").into_owned() };
        line.trim() != "..." && !places(expect, line) && firm.chars().any(char::is_alphanumeric)
    };
    let vague = !wanted.is_empty() && !wanted.iter().any(literal);
    vague.then(|| {
        "an expected block keeps at least one line without [..], names or ids, or it would fit anything".into()
    })
}

fn places(expect: &Expect, line: &str) -> bool {
    PLACE.captures_iter(line).any(|c| &c[1] == ".." || expect.vars.contains_key(&c[1]))
}

fn lines(text: &str) -> Vec<&str> {
    let mut lines: Vec<&str> = text.lines().map(str::trim_end).collect();
    while lines.last().is_some_and(|l| l.is_empty()) {
        lines.pop();
    }
    lines
}

/// Fits runs of lines between `...` from the left, the last from the right. The error is the wanted line that found no place.
fn fit(expect: &Expect, wanted: &[&str], got: &[&str], bound: &mut Bound) -> Result<(), usize> {
    let mut at = 0;
    let mut from = 0;
    let runs: Vec<&[&str]> = wanted.split(|line| line.trim() == "...").collect();
    for (n, run) in runs.iter().enumerate() {
        let (first, last) = (n == 0, n + 1 == runs.len());
        let places = match (first, last) {
            (true, _) => at..at + 1,
            (false, true) => {
                got.len().saturating_sub(run.len()).max(at)..got.len().saturating_sub(run.len()).max(at) + 1
            }
            (false, false) => at..got.len() + 1,
        };
        let mut furthest = from;
        let found =
            places.into_iter().find_map(|place| match run_fits(expect, run, &got[place.min(got.len())..], bound) {
                Ok(bound) => Some((place, bound)),
                Err(line) => {
                    furthest = furthest.max(from + line);
                    None
                }
            });
        let (place, now) = found.ok_or(furthest)?;
        *bound = now;
        at = place + run.len();
        from += run.len() + 1;
    }
    if at == got.len() { Ok(()) } else { Err(wanted.len()) }
}

fn run_fits(expect: &Expect, run: &[&str], got: &[&str], bound: &Bound) -> Result<Bound, usize> {
    let mut bound = bound.clone();
    for (n, line) in run.iter().enumerate() {
        let actual = got.get(n).ok_or(n)?;
        line_fits(expect, line, actual, &mut bound).ok_or(n)?;
    }
    Ok(bound)
}

fn line_fits(expect: &Expect, line: &str, actual: &str, bound: &mut Bound) -> Option<()> {
    let mut pattern = String::from("^");
    let mut named = Vec::new();
    let mut from = 0;
    for place in PLACE.captures_iter(line) {
        let (whole, name) = (place.get(0)?, &place[1]);
        let piece = match (name, expect.vars.get(name), bound.get(name)) {
            ("..", _, _) => ".*".to_owned(),
            (_, None, _) => continue,
            (_, Some(_), Some(text)) => regex::escape(text),
            (_, Some(shape), None) if !named.contains(&name.to_owned()) => {
                named.push(name.to_owned());
                format!("(?P<{name}>{shape})")
            }
            (_, Some(shape), None) => format!("(?:{shape})"),
        };
        pattern += &literal(expect, &line[from..whole.start()]);
        pattern += &piece;
        from = whole.end();
    }
    pattern += &literal(expect, &line[from..]);
    pattern.push('$');
    let found = Regex::new(&pattern).ok()?.captures(actual)?;
    bound.extend(named.into_iter().filter_map(|name| found.name(&name).map(|m| (name.clone(), m.as_str().to_owned()))));
    Some(())
}

/// A pattern for a piece of the page: itself, but for what moves.
fn literal(expect: &Expect, piece: &str) -> String {
    if expect.exact {
        return regex::escape(piece);
    }
    let mut pattern = String::new();
    let mut from = 0;
    for moving in MOVES.captures_iter(piece) {
        let Some((n, found)) = (0..MOVING.len()).find_map(|n| moving.get(n + 1).map(|m| (n, m))) else { continue };
        pattern += &regex::escape(&piece[from..found.start()]);
        pattern += MOVING[n].1;
        from = found.end();
    }
    pattern + &regex::escape(&piece[from..])
}

fn difference(wanted: &[&str], got: &[&str], place: usize) -> String {
    let mut text = match wanted.get(place) {
        Some(line) => format!("line {} of the page is not in the output: {line}\n", place + 1),
        None => "the output goes on after the page has ended\n".to_owned(),
    };
    for (sign, lines) in [("page  ", wanted), ("output", got)] {
        for line in lines {
            let _ = writeln!(text, "  {sign} | {line}");
        }
    }
    text.trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expect(text: &str) -> Expect {
        Expect { text: text.into(), vars: Bound::new(), exact: false, line: 1 }
    }

    fn fits(page: &str, output: &str) -> bool {
        compare(&expect(page), output, &mut Bound::new()).is_ok()
    }

    #[test]
    fn what_is_not_elided_must_be_equal() {
        assert!(fits("OK", "OK\n"));
        assert!(!fits("OK", "OK\nOK\n"));
        assert!(!fits("OK\nOK", "OK\n"));
        assert!(fits("", ""));
        assert!(!fits("", "OK"));
        assert!(!fits("value1", "value10"));
        assert!(!fits("a.c", "abc"), "the page is text, not a pattern");
    }

    #[test]
    fn dots_stand_for_lines_and_bracketed_dots_for_a_part_of_one() {
        assert!(fits("a\n...\nz", "a\nz"));
        assert!(fits("a\n...\nz", "a\nb\nz\nc\nz"));
        assert!(!fits("a\n...\nz", "a\nz\nb"));
        assert!(fits("...\nm\n...", "a\nm\nz"));
        assert!(!fits("...\nm\n...", "a\nz"));
        assert!(fits("Error: [..] exceeded", "Error: context deadline exceeded"));
        assert!(!fits("Error: [..] exceeded", "Error: context deadline exceeded!"));
    }

    #[test]
    fn ids_ports_times_and_terms_may_move_and_revisions_may_not() {
        assert!(fits("Member 8211f1d0f64f3269 added", "Member  11f1d0f64f3269 added"), "a blank for a leading zero");
        let page = r#"{"header":{"cluster_id":14841639068965178418,"member_id":10276657743932975437,"revision":2,"raft_term":2}}"#;
        let moved =
            page.replace("14841639068965178418", "384910573345882951").replace("\"raft_term\":2", "\"raft_term\":7");
        assert!(fits(page, &moved));
        assert!(!fits(page, &page.replace("\"revision\":2", "\"revision\":3")));
        assert!(fits("127.0.0.1:2379, 8e9e05c52164694d, 1.5ms", "127.0.0.1:27001, f98dc20bce6225a0, 12ms"));
        let exact = Expect { exact: true, ..expect("8e9e05c52164694d") };
        assert!(compare(&exact, "f98dc20bce6225a0", &mut Bound::new()).is_err());
    }

    #[test]
    fn a_name_stands_for_the_same_text_wherever_it_returns() {
        let vars: Bound = [("ID".to_owned(), "[0-9a-f]{16}".to_owned())].into();
        let expect = Expect { vars, ..expect("[ID], started") };
        let mut bound = Bound::new();
        assert!(compare(&expect, "8e9e05c52164694d, started", &mut bound).is_ok());
        assert!(compare(&expect, "f98dc20bce6225a0, started", &mut bound).is_err());
        assert!(compare(&expect, "8e9e05c52164694d, started", &mut bound).is_ok());
    }

    #[test]
    fn a_block_that_would_fit_anything_is_vague() {
        for page in ["...", "[..]", "...\n[..] is it", "8e9e05c52164694d", "\n---"] {
            assert!(vague(&expect(page)).is_some(), "{page:?}");
        }
        for page in ["", "OK", "...\nOK", "revision 3"] {
            assert!(vague(&expect(page)).is_none(), "{page:?}");
        }
    }

    #[test]
    fn a_difference_names_the_line_and_shows_both() {
        let error = compare(&expect("key\nvalue1"), "key\nvalue2", &mut Bound::new()).expect_err("they differ");
        assert_eq!(
            error,
            "line 2 of the page is not in the output: value1\n  page   | key\n  page   | value1\n  output | key\n  output | value2"
        );
    }
}
