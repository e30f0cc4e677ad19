//! What may stand in a `<!--lab KIND … -->` comment: TOML, one structure per kind. A key that is not here is refused, and the
//! refusal lists those that are.
//!
//! On one line `;` separates settings; it is read as the end of a line.

use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::time::Duration;

/// The kinds of blocks, as an error message lists them.
pub(crate) const KINDS: &str = "lab, step, run, expect, edit, ask, predict, quiz, solve, wrong, notes, page";

/// What kind of exercise a lab is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Step by step.
    Guided,
    /// Guess first, then look.
    Predict,
    /// Something is broken.
    BreakFix,
    /// From an empty machine.
    Build,
    /// Things happen, and the learner copes.
    GameDay,
    /// Questions.
    Quiz,
    /// A page of the book: no steps.
    #[default]
    Lesson,
}

/// The head of a lab: `<!--lab lab … -->`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Head {
    /// Its short name, such as `B3`.
    pub id: String,
    /// Grows when answers or checks change their meaning.
    #[serde(default = "one")]
    pub version: u32,
    /// What kind of exercise.
    #[serde(default)]
    pub kind: Kind,
    /// How long it takes a learner; 0 if nobody has said.
    #[serde(default)]
    pub minutes: u32,
    /// The most disk that its folders take, in MiB; 0 if nobody has said. The gate weighs them at the solution's end.
    #[serde(default)]
    pub disk: u32,
    /// The most memory that its processes take, in MiB, as its author has measured; 0 if nobody has said.
    #[serde(default)]
    pub memory: u32,
    /// What it runs on: `real` processes, and `sim` where the lab allows it; or `etcd`: the etcd project's own program.
    #[serde(default)]
    pub engines: Vec<String>,
    /// Which network profiles it allows: `netns`, `loop`, `ports`.
    #[serde(default)]
    pub network: Vec<String>,
    /// The seed commands that it covers.
    #[serde(default)]
    pub seeds: Vec<String>,
    /// The sections of seed 003 that it covers.
    #[serde(default)]
    pub sections: Vec<String>,
    /// What it starts with.
    #[serde(default)]
    pub cluster: Cluster,
}

impl Head {
    /// Whether it may run on this engine. One that names none runs on real processes.
    #[must_use]
    pub fn allows(&self, engine: &str) -> bool {
        if self.engines.is_empty() { engine == "real" } else { self.engines.iter().any(|e| e == engine) }
    }

    /// Whether its members are the etcd project's own program: it says nothing about ours alone.
    #[must_use]
    pub fn wants_etcd(&self) -> bool {
        self.allows("etcd") && !self.allows("real")
    }

    /// Whether its commands go to nodes: it cannot run on a cluster that is somebody else's.
    #[must_use]
    pub fn needs_nodes(&self) -> bool {
        self.cluster.nodes.iter().chain(&self.cluster.spare).any(|n| n.ip.is_some()) || !self.cluster.running
    }
}

/// The cluster that a lab starts with.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cluster {
    /// Its members: a number (1, 3 or 5), or a list of names and the documents' addresses.
    #[serde(default = "three", deserialize_with = "nodes")]
    pub nodes: Vec<Node>,
    /// Nodes that are no members yet.
    #[serde(default)]
    pub spare: Vec<Node>,
    /// The members run when the lab begins.
    #[serde(default = "yes")]
    pub running: bool,
    /// Each node is a machine of its own: a network and a root folder that are only its.
    #[serde(default)]
    pub machines: bool,
}

/// One node.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Node {
    /// Such as `n1`.
    pub name: String,
    /// Its address on the page. Without one, the page does not speak of it.
    pub ip: Option<String>,
}

impl Default for Cluster {
    fn default() -> Cluster {
        Cluster { nodes: three(), spare: Vec::new(), running: true, machines: false }
    }
}

fn numbered(count: usize) -> Vec<Node> {
    (1..=count).map(|n| Node { name: format!("n{n}"), ip: None }).collect()
}

fn three() -> Vec<Node> {
    numbered(3)
}

fn yes() -> bool {
    true
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "nodes is 1, 3 or 5, or a list such as [ { name = \"n1\", ip = \"10.0.0.1\" } ]")]
enum Nodes {
    Count(u8),
    Named(Vec<Node>),
}

fn nodes<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Vec<Node>, D::Error> {
    Ok(match Nodes::deserialize(from)? {
        Nodes::Count(count) => numbered(count.into()),
        Nodes::Named(nodes) => nodes,
    })
}

fn one() -> u32 {
    1
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct StepSettings {
    pub(crate) id: String,
    #[serde(default)]
    pub(crate) minutes: u32,
    pub(crate) worked: Option<String>,
    #[serde(default)]
    pub(crate) predict: Vec<PredictSettings>,
    #[serde(default)]
    pub(crate) check: Vec<CheckSettings>,
    #[serde(default)]
    pub(crate) wrong: Vec<WrongSettings>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct CheckSettings {
    pub(crate) id: String,
    pub(crate) title: String,
    pub(crate) want: String,
    pub(crate) within: Option<String>,
    #[serde(default)]
    pub(crate) cause: Vec<CauseSettings>,
    pub(crate) spoil: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct CauseSettings {
    pub(crate) when: String,
    pub(crate) say: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct WrongSettings {
    pub(crate) id: String,
    #[serde(rename = "do")]
    pub(crate) command: Option<String>,
    #[serde(default)]
    pub(crate) answer: BTreeMap<String, String>,
    pub(crate) fails: String,
    pub(crate) cause: usize,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PredictSettings {
    pub(crate) id: String,
    pub(crate) ask: String,
    pub(crate) options: Vec<String>,
    pub(crate) answer: String,
    pub(crate) why: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RunSettings {
    pub(crate) id: String,
    #[serde(default)]
    pub(crate) on: Vec<String>,
    #[serde(default)]
    pub(crate) expect_exit: i32,
    pub(crate) timeout: Option<String>,
    pub(crate) background: Option<String>,
    pub(crate) seed: Option<String>,
    pub(crate) repairs: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ExpectSettings {
    #[serde(default)]
    pub(crate) vars: BTreeMap<String, String>,
    #[serde(default)]
    pub(crate) exact: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct EditSettings {
    pub(crate) path: String,
    pub(crate) mode: Option<String>,
    pub(crate) owner: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct AskSettings {
    pub(crate) id: String,
    #[serde(rename = "type", default)]
    pub(crate) kind: AskType,
    pub(crate) label: String,
    #[serde(default)]
    pub(crate) options: Vec<String>,
}

#[derive(Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum AskType {
    #[default]
    Text,
    Choice,
    Order,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SolveSettings {
    #[serde(default)]
    pub(crate) answer: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PageSettings {
    pub(crate) dir: String,
}

/// Reads the settings of one comment. The error is an offset into `text` and a sentence.
pub(crate) fn read<T: DeserializeOwned>(text: &str) -> Result<T, (usize, String)> {
    toml::from_str(&one_a_line(text)).map_err(|e| {
        let offset = e.span().map_or(0, |span| span.start);
        (offset.min(text.len()), e.message().replace('\n', "; "))
    })
}

/// Turns `;` outside of texts and remarks into the end of a line. The length stays, so that offsets do too.
fn one_a_line(text: &str) -> String {
    const QUOTES: [&str; 4] = ["\"\"\"", "'''", "\"", "'"];
    let mut out = String::with_capacity(text.len());
    let mut open: Option<&str> = None;
    let mut remark = false;
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let mut taken = first.len_utf8();
        match open {
            Some(quote) if rest.starts_with(quote) => {
                taken = quote.len();
                open = None;
            }
            Some(quote) if quote.starts_with('"') && first == '\\' => {
                taken += rest[1..].chars().next().map_or(0, char::len_utf8)
            }
            Some(_) => {}
            None if first == '\n' => remark = false,
            None if remark => {}
            None => {
                remark = first == '#';
                open = QUOTES.into_iter().find(|quote| rest.starts_with(quote));
                taken = open.map_or(taken, str::len);
            }
        }
        let ends = first == ';' && open.is_none() && !remark;
        out += if ends { "\n" } else { &rest[..taken] };
        rest = &rest[taken..];
    }
    out
}

/// Reads `250ms`, `30s` or `2m`.
///
/// # Errors
/// Says so if it is none of them.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let number = text[..digits].parse::<u64>().ok();
    match (number, &text[digits..]) {
        (Some(n), "ms") => Ok(Duration::from_millis(n)),
        (Some(n), "s") => Ok(Duration::from_secs(n)),
        (Some(n), "m") => Ok(Duration::from_secs(n.saturating_mul(60))),
        _ => Err(format!("`{text}` is no duration; write 250ms, 30s or 2m")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_semicolon_ends_a_setting_except_in_a_text() {
        let settings: RunSettings =
            read(r#"id = "a; b"; timeout = '1s'; # one; two"#).map_err(|e| e.1).expect("it is right");
        assert_eq!((settings.id.as_str(), settings.timeout.as_deref()), ("a; b", Some("1s")));
    }

    #[test]
    fn a_semicolon_in_any_kind_of_text_stays() {
        for text in
            [r#"a = "x; \"; y"; b"#, "a = 'x; \"'; b", "a = '''x'; ; y'''; b", r#"a = """x"; ; y"""; b"#, "a = \"\"; b"]
        {
            let split = one_a_line(text);
            assert_eq!(split.len(), text.len(), "{text}");
            assert_eq!(split.lines().last(), Some(" b"), "{text}");
            assert_eq!(split.lines().count(), 2, "{text}");
        }
    }

    #[test]
    fn an_unknown_key_is_refused_with_those_that_are_known() {
        let Err((offset, what)) = read::<RunSettings>("id = \"a\"; tiemout = \"1s\"") else { panic!("it is wrong") };
        assert_eq!(offset, 10);
        assert!(what.contains("unknown field `tiemout`") && what.contains("`timeout`"), "{what}");
    }

    #[test]
    fn durations_have_units() {
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(duration("2m"), Ok(Duration::from_secs(120)));
        for bad in ["", "5", "s", "1h", "-1s", "1.5s", "99999999999999999999s"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }
}
