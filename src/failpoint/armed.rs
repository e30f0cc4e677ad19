//! What is set at which point, and what it does there.

#![expect(clippy::disallowed_methods, reason = "a failpoint may sleep and throws dice; no shipped build has one")]

use super::Point;
use crate::golang;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::time::Duration;

static SET: Mutex<BTreeMap<Point, Terms>> = Mutex::new(BTreeMap::new());

/// Why a point could not be set, read or cleared; gofail's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("failpoint: failpoint does not exist")]
    NoExist,
    #[error("failpoint: failpoint is disabled")]
    Disabled,
    #[error("failpoint: could not parse terms")]
    BadParse,
}

/// Sets every point of `name=terms;name=terms`. Names that do not exist are passed over, as gofail does.
///
/// # Errors
/// The first part that is no such thing.
pub fn enable_all(text: &str) -> Result<(), String> {
    for (name, terms) in parse_all(text)? {
        match enable(name, terms) {
            Ok(()) => {}
            Err(Error::NoExist) => eprintln!("failpoint: there is no {name}"),
            Err(why) => return Err(format!("{why}: {name}={terms}")),
        }
    }
    Ok(())
}

/// Takes `name=terms;name=terms` apart.
///
/// # Errors
/// gofail's sentence about the first part without exactly one `=`.
pub fn parse_all(text: &str) -> Result<Vec<(&str, &str)>, String> {
    let parts = text.split(';').filter(|part| !part.is_empty());
    let pair = |part: &'_ str| format!("bad failpoint {}", golang::quote(part.as_bytes()));
    parts.map(|part| part.split_once('=').filter(|(_, terms)| !terms.contains('=')).ok_or_else(|| pair(part))).collect()
}

/// Sets a point.
///
/// # Errors
/// [`Error::NoExist`], [`Error::BadParse`].
pub fn enable(name: &str, terms: &str) -> Result<(), Error> {
    let point = find(name)?;
    let terms = Terms::parse(terms).ok_or(Error::BadParse)?;
    SET.lock().insert(point, terms);
    Ok(())
}

/// Clears a point.
///
/// # Errors
/// [`Error::NoExist`], [`Error::Disabled`].
pub fn disable(name: &str) -> Result<(), Error> {
    SET.lock().remove(&find(name)?).map(drop).ok_or(Error::Disabled)
}

/// A point's terms, and how often one of them has acted.
///
/// # Errors
/// [`Error::NoExist`], [`Error::Disabled`].
pub fn status(name: &str) -> Result<(String, u64), Error> {
    let point = find(name)?;
    SET.lock().get(&point).map(|terms| (terms.text.clone(), terms.acted)).ok_or(Error::Disabled)
}

fn find(name: &str) -> Result<Point, Error> {
    Point::ALL.iter().copied().find(|point| point.name() == name).ok_or(Error::NoExist)
}

/// The program has come to `point`: does what is set there.
pub fn hit(point: Point) {
    let _value = value(point);
}

/// The same; gives the text of a `return`, "" for one without.
pub fn value(point: Point) -> Option<String> {
    // Decided under the lock, done without it.
    let act = SET.lock().get_mut(&point)?.next()?;
    match act {
        Act::Off => None,
        Act::Return(value) => Some(value),
        Act::Sleep(time) => {
            std::thread::sleep(time);
            None
        }
        Act::Print => {
            eprintln!("failpoint print: {}", point.name());
            None
        }
        Act::Panic(value) => {
            // Go's panic ends the process wherever it happens, with this code; a thread of ours would end alone.
            eprintln!("failpoint panic: {}", if value.is_empty() { point.name() } else { &value });
            std::process::exit(2)
        }
    }
}

/// What is set at a point.
#[derive(Clone, Debug, PartialEq)]
struct Terms {
    text: String,
    chain: Vec<Term>,
    acted: u64,
}

#[derive(Clone, Debug, PartialEq)]
struct Term {
    allowed: Vec<Allowed>,
    act: Act,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Allowed {
    Times(u64),
    Percent(f64),
}

#[derive(Clone, Debug, PartialEq)]
enum Act {
    Off,
    Return(String),
    Sleep(Duration),
    Panic(String),
    Print,
}

impl Terms {
    fn parse(text: &str) -> Option<Terms> {
        let chain = text.split("->").map(Term::parse).collect::<Option<Vec<Term>>>()?;
        Some(Terms { text: text.to_owned(), chain, acted: 0 })
    }

    /// What happens this time.
    fn next(&mut self) -> Option<Act> {
        let term = self.chain.iter_mut().find_map(|term| term.is_allowed().then_some(&*term))?;
        self.acted += 1;
        Some(term.act.clone())
    }
}

impl Term {
    fn parse(text: &str) -> Option<Term> {
        let (mut allowed, mut rest) = (Vec::new(), text);
        while rest.starts_with(|c: char| c.is_ascii_digit()) {
            let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
            let (number, sign) = rest.split_at(end);
            allowed.push(match sign.chars().next()? {
                '%' => Allowed::Percent(number.parse().ok()?),
                '*' => Allowed::Times(number.parse().ok()?),
                _ => return None,
            });
            rest = &sign[1..];
        }
        let (action, value) = match rest.split_once('(') {
            Some((action, value)) => (action, value.strip_suffix(')')?),
            None => (rest, ""),
        };
        Some(Term { allowed, act: Act::parse(action, value)? })
    }

    /// Counts down where it counts, as gofail does even if a later condition refuses.
    fn is_allowed(&mut self) -> bool {
        self.allowed.iter_mut().all(|condition| match condition {
            Allowed::Percent(percent) => rand::random::<f64>() * 100.0 <= *percent,
            Allowed::Times(left) => {
                let allowed = *left > 0;
                *left = left.saturating_sub(1);
                allowed
            }
        })
    }
}

impl Act {
    fn parse(action: &str, value: &str) -> Option<Act> {
        let text = match value.strip_prefix('"') {
            Some(quoted) => quoted.strip_suffix('"')?,
            None => value,
        };
        Some(match action {
            "off" => Act::Off,
            "return" => Act::Return(text.to_owned()),
            "panic" => Act::Panic(text.to_owned()),
            "print" => Act::Print,
            "sleep" if value.starts_with('"') => {
                Act::Sleep(Duration::from_nanos(u64::try_from(golang::parse_nanos(text).ok()?).ok()?))
            }
            "sleep" => Act::Sleep(Duration::from_millis(text.parse().ok()?)),
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn acts(text: &str, times: usize) -> Vec<Option<Act>> {
        let mut terms = Terms::parse(text).unwrap_or_else(|| panic!("{text}"));
        (0..times).map(|_| terms.next()).collect()
    }

    #[test]
    fn terms_are_gofails() {
        let second = Duration::from_secs(1);
        for (text, act) in [
            ("off", Act::Off),
            ("return", Act::Return(String::new())),
            ("return()", Act::Return(String::new())),
            ("return(\"no space\")", Act::Return("no space".into())),
            ("return(7)", Act::Return("7".into())),
            ("sleep(1000)", Act::Sleep(second)),
            ("sleep(\"1s\")", Act::Sleep(second)),
            ("panic", Act::Panic(String::new())),
            ("panic(\"why\")", Act::Panic("why".into())),
            ("print", Act::Print),
        ] {
            assert_eq!(acts(text, 1), [Some(act)], "{text}");
        }
        for bad in [
            "",
            "jump",
            "sleep",
            "sleep(x)",
            "3",
            "3*",
            "50%%off",
            "return(\"x)",
            "return(1",
            "off->",
            "->off",
            "break",
        ] {
            assert_eq!(Terms::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn the_first_term_that_is_allowed_acts() {
        let (off, print) = (Some(Act::Off), Some(Act::Print));
        assert_eq!(acts("2*off->1*print", 4), [off.clone(), off.clone(), print.clone(), None]);
        assert_eq!(acts("0%off->print", 3), [print.clone(), print.clone(), print]);
        assert_eq!(acts("100.0%2*off", 3), [off.clone(), off, None]);
    }

    #[test]
    fn points_are_set_read_and_cleared_by_name() {
        let name = Point::BeforePublishing.name();
        assert_eq!(status(name), Err(Error::Disabled));
        assert_eq!(parse_all("a=off;;b=1*off->print;"), Ok(vec![("a", "off"), ("b", "1*off->print")]));
        assert_eq!(parse_all("a=off;b"), Err("bad failpoint \"b\"".into()));
        enable_all(&format!("{name}=1*return(\"x\");noSuchPoint=off")).expect("one is set, one is passed over");
        assert_eq!(value(Point::BeforePublishing).as_deref(), Some("x"));
        assert_eq!(value(Point::BeforePublishing), None);
        assert_eq!(status(name), Ok(("1*return(\"x\")".into(), 1)));
        assert_eq!(disable(name), Ok(()));
        assert_eq!((disable(name), enable("noSuchPoint", "off")), (Err(Error::Disabled), Err(Error::NoExist)));
    }

    #[test]
    fn no_two_points_have_one_name() {
        let names: std::collections::BTreeSet<&str> = Point::ALL.iter().map(|point| point.name()).collect();
        assert_eq!(names.len(), Point::ALL.len());
    }
}
