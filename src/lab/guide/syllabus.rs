//! The course: the order of the labs, what each builds on, the core path, and which lab comes next.
//!
//! `labs/course.toml` is the one place that says it. Whatever it cannot mean is refused here, with file and line: a lab that nobody has, labs
//! that wait for each other, a core path on which a lab comes before one that it needs.

use crate::lab::guide::LabError;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::Path;
use toml::Spanned;

/// What is read, and where.
const FILE: (&str, &str) = ("labs/course.toml", include_str!("../../../labs/course.toml"));

/// The course.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Syllabus {
    /// Its parts, in order.
    pub tracks: Vec<Track>,
    /// The core path, day by day: labs by their short names.
    pub days: Vec<Day>,
    needs: BTreeMap<String, Vec<String>>,
}

/// A part of the course.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Track {
    /// Such as `A`.
    pub id: String,
    /// What it is about.
    pub title: String,
    /// The folders of its labs.
    pub labs: Vec<String>,
}

/// A day in the classroom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Day {
    /// What it is about.
    pub title: String,
    /// Its labs, in order, by their short names.
    pub labs: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    track: Vec<WrittenTrack>,
    #[serde(default)]
    needs: BTreeMap<Spanned<String>, Vec<Spanned<String>>>,
    #[serde(default)]
    day: Vec<WrittenDay>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenTrack {
    id: String,
    title: String,
    labs: Vec<Spanned<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenDay {
    title: String,
    labs: Vec<Spanned<String>>,
}

/// `B3` of `B3-first-keys`.
#[must_use]
pub fn short(folder: &str) -> &str {
    folder.split('-').next().unwrap_or_default()
}

/// A place in the file, for errors.
struct Source<'a> {
    file: &'a Path,
    text: &'a str,
}

impl Source<'_> {
    fn at(&self, offset: usize, what: String) -> LabError {
        let before = &self.text.as_bytes()[..offset.min(self.text.len())];
        LabError::new(self.file, 1 + before.iter().filter(|b| **b == b'\n').count(), what)
    }

    fn refuse<T>(&self, word: &Spanned<String>, what: String) -> Result<T, LabError> {
        Err(self.at(word.span().start, what))
    }
}

impl Syllabus {
    /// The course that is in this program.
    ///
    /// # Errors
    /// As [`Syllabus::parse`]; a test holds that there is none.
    pub fn ours() -> Result<Syllabus, LabError> {
        Syllabus::parse(Path::new(FILE.0), FILE.1)
    }

    /// Reads a course. `file` is only named in errors.
    ///
    /// # Errors
    /// The first thing in it that cannot be meant.
    pub fn parse(file: &Path, text: &str) -> Result<Syllabus, LabError> {
        let source = Source { file, text };
        let written: Written = toml::from_str(text)
            .map_err(|e| source.at(e.span().map_or(0, |s| s.start), e.message().replace('\n', "; ")))?;
        let mut places: BTreeMap<&str, usize> = BTreeMap::new();
        for lab in written.track.iter().flat_map(|t| &t.labs) {
            let place = places.len();
            if places.insert(short(lab.get_ref()), place).is_some() {
                return source.refuse(lab, format!("a lab {} is listed already", short(lab.get_ref())));
            }
        }
        for (lab, needed) in &written.needs {
            for word in std::iter::once(lab).chain(needed) {
                if !places.contains_key(word.get_ref().as_str()) {
                    return source.refuse(word, format!("no track has a lab {}", word.get_ref()));
                }
            }
        }
        let plain = |words: &[Spanned<String>]| words.iter().map(|w| w.get_ref().clone()).collect::<Vec<_>>();
        let needs: BTreeMap<String, Vec<String>> =
            written.needs.iter().map(|(lab, needed)| (lab.get_ref().clone(), plain(needed))).collect();
        for lab in written.needs.keys() {
            if let Some(way) = circle(lab.get_ref(), &needs) {
                return source.refuse(lab, format!("labs wait for each other: {}", way.join(" needs ")));
            }
        }
        core(&source, &written.day, &places, &needs)?;
        let tracks =
            written.track.iter().map(|t| Track { id: t.id.clone(), title: t.title.clone(), labs: plain(&t.labs) });
        let days = written.day.iter().map(|d| Day { title: d.title.clone(), labs: plain(&d.labs) });
        Ok(Syllabus { tracks: tracks.collect(), days: days.collect(), needs })
    }

    /// The labs that a learner should have done before this one.
    #[must_use]
    pub fn needs(&self, lab: &str) -> &[String] {
        self.needs.get(lab).map_or(&[], Vec::as_slice)
    }

    /// The day of the core path that has this lab, from 1; none has: nothing.
    #[must_use]
    pub fn day(&self, lab: &str) -> Option<usize> {
        self.days.iter().position(|day| day.labs.iter().any(|l| l == lab)).map(|day| day + 1)
    }

    /// Every lab's short name: the core path, then the others in the order of the course.
    fn path(&self) -> Vec<&str> {
        let mut path: Vec<&str> = self.days.iter().flat_map(|day| &day.labs).map(String::as_str).collect();
        let others = self.tracks.iter().flat_map(|t| &t.labs).map(|folder| short(folder));
        path.extend(others.filter(|lab| self.day(lab).is_none()));
        path
    }

    /// The lab to go on with: the first behind `after` on the path that is not done and whose needs are; behind the last one comes the
    /// first. All are done: nothing.
    #[must_use]
    pub fn next(&self, after: Option<&str>, done: impl Fn(&str) -> bool) -> Option<&str> {
        let mut path = self.path();
        let begin = after.and_then(|lab| path.iter().position(|l| *l == lab)).map_or(0, |place| place + 1);
        path.rotate_left(begin);
        path.into_iter().find(|lab| !done(lab) && self.needs(lab).iter().all(|need| done(need)))
    }
}

/// A way from a lab by what it needs back to itself.
fn circle(lab: &str, needs: &BTreeMap<String, Vec<String>>) -> Option<Vec<String>> {
    let mut ways = vec![vec![lab.to_owned()]];
    let mut seen = Vec::new();
    while let Some(way) = ways.pop() {
        let last = way.last().map_or("", String::as_str);
        for need in needs.get(last).into_iter().flatten() {
            let further: Vec<String> = way.iter().chain([need]).cloned().collect();
            if need == lab {
                return Some(further);
            }
            if !seen.contains(need) {
                seen.push(need.clone());
                ways.push(further);
            }
        }
    }
    None
}

/// Each lab of the core path is one of the course, stands there once, and behind what it needs.
fn core(
    source: &Source<'_>,
    days: &[WrittenDay],
    places: &BTreeMap<&str, usize>,
    needs: &BTreeMap<String, Vec<String>>,
) -> Result<(), LabError> {
    let mut before: Vec<&str> = Vec::new();
    for word in days.iter().flat_map(|day| &day.labs) {
        let lab = word.get_ref().as_str();
        if !places.contains_key(lab) {
            return source.refuse(word, format!("the core path has {lab}, and no track has a lab {lab}"));
        }
        if before.contains(&lab) {
            return source.refuse(word, format!("the core path has {lab} twice"));
        }
        let needed = needs.get(lab).into_iter().flatten();
        if let Some(need) = needed.into_iter().find(|need| !before.contains(&need.as_str())) {
            return source.refuse(word, format!("{lab} needs {need}, which does not stand before it on the core path"));
        }
        before.push(lab);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::guide::SHELF;

    const COURSE: &str = "[[track]]\nid = 'A'\ntitle = 'One'\nlabs = ['A1-a', 'A2-b', 'A3-c']\n\n\
        [needs]\nA2 = ['A1']\nA3 = ['A2']\n\n[[day]]\ntitle = 'D'\nlabs = ['A1', 'A2']\n";

    fn refused(from: &str, to: &str) -> String {
        assert!(COURSE.contains(from), "{from}");
        let wrong = Syllabus::parse(Path::new("course.toml"), &COURSE.replacen(from, to, 1));
        wrong.expect_err(to).to_string()
    }

    #[test]
    fn what_cannot_be_meant_is_refused_with_its_line() {
        assert_eq!(refused("A3 = ['A2']", "A3 = ['A9']"), "course.toml:8: no track has a lab A9");
        assert_eq!(refused("A3 = ['A2']", "B1 = ['A2']"), "course.toml:8: no track has a lab B1");
        let circle = refused("A2 = ['A1']", "A1 = ['A3']\nA2 = ['A1']");
        assert_eq!(circle, "course.toml:7: labs wait for each other: A1 needs A3 needs A2 needs A1");
        assert_eq!(refused("A2 = ['A1']", "A2 = ['A2']"), "course.toml:7: labs wait for each other: A2 needs A2");
        assert_eq!(
            refused("'A1', 'A2']", "'A1', 'A7']"),
            "course.toml:12: the core path has A7, and no track has a lab A7"
        );
        assert_eq!(refused("'A1', 'A2']", "'A1', 'A1']"), "course.toml:12: the core path has A1 twice");
        let order = refused("'A1', 'A2']", "'A1',\n 'A3', 'A2']");
        assert_eq!(order, "course.toml:13: A3 needs A2, which does not stand before it on the core path");
        assert_eq!(refused("'A3-c'", "'A1-c'"), "course.toml:4: a lab A1 is listed already");
        assert!(refused("[needs]", "[need]").starts_with("course.toml:6: unknown field"));
    }

    #[test]
    fn the_next_lab_is_the_next_on_the_path_whose_needs_are_done() {
        let course = Syllabus::parse(Path::new("course.toml"), COURSE).unwrap_or_else(|e| panic!("{e}"));
        let next = |after, done: &[&str]| course.next(after, |lab| done.contains(&lab)).map(str::to_owned);
        assert_eq!(next(None, &[]).as_deref(), Some("A1"));
        assert_eq!(next(Some("A1"), &["A1"]).as_deref(), Some("A2"));
        assert_eq!(next(Some("A2"), &["A2"]).as_deref(), Some("A3"), "one may start anywhere");
        assert_eq!(next(Some("A3"), &["A2", "A3"]).as_deref(), Some("A1"), "and come back for what was left out");
        assert_eq!(next(Some("A3"), &["A1", "A2", "A3"]), None);
    }

    #[test]
    fn our_course_has_every_lab_of_the_shelf_and_two_days_that_fit() {
        let course = Syllabus::ours().unwrap_or_else(|e| panic!("{e}"));
        let listed: Vec<&str> = course.tracks.iter().flat_map(|t| &t.labs).map(String::as_str).collect();
        assert_eq!(listed, SHELF.map(|(name, _)| name));
        let minutes = |day: &Day| -> u32 {
            let labs = SHELF.iter().filter(|(name, _)| day.labs.iter().any(|l| l == short(name)));
            labs.map(|(name, _)| crate::lab::guide::shelved(name).expect("there").expect("read").head.minutes).sum()
        };
        let days: Vec<u32> = course.days.iter().map(minutes).collect();
        assert_eq!(days.len(), 2);
        assert!(days.iter().all(|m| (240..=360).contains(m)), "between four hours and six: {days:?}");
    }
}
