//! What a check answers: *pass*, *not yet*, or *error*.
//!
//! Logic has three values. A comparison with something that is not there yet is neither true nor false, and neither is its
//! contrary: `key('k').value != 'x'` must not pass because there is no key. Only *true* passes. Pure: the facts come in.

use crate::lab::guide::expr::Expr;
use crate::lab::guide::expr::Fact;
use crate::lab::guide::expr::FileProperty;
use crate::lab::guide::expr::MemberProperty;
use crate::lab::guide::expr::Op;
use crate::lab::guide::expr::Term;
use crate::lab::guide::facts::Facts;
use crate::lab::guide::facts::KeyFact;
use crate::lab::guide::facts::MemberFact;
use crate::lab::guide::model::Check;
use crate::lab::guide::papers::Found;
use serde_json::Value as Json;

/// How much of a value is shown.
const SHOWN_CHARS: usize = 60;

/// A check's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is true.
    Pass,
    /// It is not, and that is normal while the work is under way.
    NotYet {
        /// What was found instead, in sentences.
        got: Vec<String>,
        /// Which of the check's causes it is, from 1, and what to do about it.
        cause: Option<(usize, String)>,
    },
    /// It could not be looked at.
    Error(String),
}

impl Verdict {
    /// Whether it is [`Verdict::Pass`].
    #[must_use]
    pub fn passed(&self) -> bool {
        *self == Verdict::Pass
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Value {
    Bool(bool),
    Number(i64),
    Text(String),
}

/// Judges a check by these facts.
pub(crate) fn judge(check: &Check, facts: &Facts) -> Verdict {
    if truth(&check.want, facts) == Some(true) {
        return Verdict::Pass;
    }
    let mut got = Vec::new();
    tell(&check.want, facts, &mut got);
    let cause = check.causes.iter().enumerate().find(|(_, c)| truth(&c.when, facts) == Some(true));
    Verdict::NotYet { got, cause: cause.map(|(place, c)| (place + 1, c.say.clone())) }
}

fn truth(expr: &Expr, facts: &Facts) -> Option<bool> {
    match expr {
        Expr::Or(a, b) => match (truth(a, facts), truth(b, facts)) {
            (Some(true), _) | (_, Some(true)) => Some(true),
            (Some(false), Some(false)) => Some(false),
            _ => None,
        },
        Expr::And(a, b) => match (truth(a, facts), truth(b, facts)) {
            (Some(false), _) | (_, Some(false)) => Some(false),
            (Some(true), Some(true)) => Some(true),
            _ => None,
        },
        Expr::Not(a) => truth(a, facts).map(|t| !t),
        Expr::Holds(fact) => match look(fact, facts) {
            Some(Value::Bool(b)) => Some(b),
            _ => None,
        },
        Expr::Matches(term, pattern) => match value(term, facts)? {
            Value::Text(text) => Some(pattern.is_match(&text)),
            Value::Bool(_) | Value::Number(_) => None,
        },
        Expr::Compare(left, op, right) => compare(&value(left, facts)?, *op, &value(right, facts)?),
    }
}

fn compare(left: &Value, op: Op, right: &Value) -> Option<bool> {
    match (left, op, right) {
        (a, Op::Equal, b) => Some(a == b),
        (a, Op::Unequal, b) => Some(a != b),
        (Value::Number(a), Op::Less, Value::Number(b)) => Some(a < b),
        (Value::Number(a), Op::Greater, Value::Number(b)) => Some(a > b),
        (Value::Text(a), Op::Has, Value::Text(b)) => Some(a.contains(b.as_str())),
        _ => None,
    }
}

fn value(term: &Term, facts: &Facts) -> Option<Value> {
    match term {
        Term::Text(text) => Some(Value::Text(text.clone())),
        Term::Number(number) => Some(Value::Number(*number)),
        Term::Fact(fact) => look(fact, facts),
    }
}

fn look(fact: &Fact, facts: &Facts) -> Option<Value> {
    let key = |k: &str| facts.keys.get(k).and_then(Option::as_ref);
    let number = |k: &str, of: fn(&KeyFact) -> i64| key(k).map(|f| Value::Number(of(f)));
    match fact {
        Fact::KeyExists(k) => facts.keys.get(k).map(|f| Value::Bool(f.is_some())),
        Fact::KeyValue(k) => key(k).map(|f| Value::Text(f.value.clone())),
        Fact::KeyRevision(k) => number(k, |f| f.revision),
        Fact::KeyCreated(k) => number(k, |f| f.created),
        Fact::KeyVersion(k) => number(k, |f| f.version),
        Fact::JsonValid(k) => key(k).map(|f| Value::Bool(object(&f.value).is_ok())),
        Fact::JsonField(k, field) => object(&key(k)?.value).ok()?.get(field).map(|v| match v {
            Json::String(text) => Value::Text(text.clone()),
            other => Value::Text(other.to_string()),
        }),
        Fact::PrefixCount(p) => facts.counts.get(p).copied().map(Value::Number),
        Fact::Revision => facts.revision.map(Value::Number),
        Fact::MemberCount => facts.member_count.map(Value::Number),
        Fact::Leader => facts.leader.clone().map(Value::Text),
        Fact::Term => facts.term.map(Value::Number),
        Fact::ClusterId => facts.cluster_id.map(|id| Value::Text(format!("{id:x}"))),
        Fact::HashEqual => facts.hash_equal.map(Value::Bool),
        Fact::Alarms => facts.alarms.map(Value::Number),
        Fact::Member(name, property) => member(facts.members.get(name)?, *property),
        Fact::UnitActive(node, unit) => facts.units.get(&(node.clone(), unit.clone())).copied().map(Value::Bool),
        Fact::Log(node, unit) => facts.logs.get(&(node.clone(), unit.clone())).cloned().map(Value::Text),
        Fact::File(path, property) => match facts.files.get(&(path.clone(), property.clone()))?.clone()? {
            Found::Bool(b) => Some(Value::Bool(b)),
            Found::Number(n) => Some(Value::Number(n)),
            Found::Text(text) => Some(Value::Text(text)),
        },
        Fact::Command(text) => facts.commands.get(text).map(|o| Value::Text(o.text.clone())),
        Fact::CommandExit(text) => facts.commands.get(text).map(|o| Value::Number(o.exit.into())),
        Fact::Answer(id) => facts.answers.get(id).cloned().map(Value::Text),
        Fact::AnswerNumber(id) => facts.answers.get(id)?.parse().ok().map(Value::Number),
        Fact::Output(id) => facts.outputs.get(id).map(|o| Value::Text(o.text.clone())),
        Fact::OutputLines(id) => facts.outputs.get(id).map(|o| Value::Number(o.text.lines().count() as i64)),
        Fact::OutputExit(id) => facts.outputs.get(id).map(|o| Value::Number(o.exit.into())),
    }
}

fn member(found: &MemberFact, property: MemberProperty) -> Option<Value> {
    Some(match property {
        MemberProperty::Id => Value::Text(format!("{:x}", found.id?)),
        MemberProperty::State => Value::Text(
            match (found.id, found.named) {
                (None, _) => "absent",
                (_, false) => "unstarted",
                _ => "started",
            }
            .into(),
        ),
        MemberProperty::Up => Value::Bool(found.up),
        MemberProperty::Leads => Value::Bool(found.leads),
        MemberProperty::Learner => Value::Bool(found.learner),
        MemberProperty::Revision => Value::Number(found.revision?),
        MemberProperty::Applied => Value::Number(found.applied?),
        MemberProperty::Errors => Value::Text(found.errors.clone()?),
    })
}

fn object(text: &str) -> Result<serde_json::Map<String, Json>, String> {
    serde_json::from_str(text).map_err(|e| e.to_string())
}

/// The sentences for all parts of `expr` that are not true.
fn tell(expr: &Expr, facts: &Facts, into: &mut Vec<String>) {
    if truth(expr, facts) == Some(true) {
        return;
    }
    match expr {
        Expr::Or(a, b) | Expr::And(a, b) => {
            tell(a, facts, into);
            tell(b, facts, into);
        }
        Expr::Not(_) | Expr::Holds(_) | Expr::Matches(..) | Expr::Compare(..) => {
            // What a wrong answer is compared with is the right one, and is not told. What is missing to judge it is.
            let is_answer = |fact: &Fact| matches!(fact, Fact::Answer(_) | Fact::AnswerNumber(_));
            let asks = expr.facts().iter().any(|fact| is_answer(fact));
            let lacks = expr.facts().iter().any(|fact| look(fact, facts).is_none());
            let tells = |fact: &&Fact| match (asks, lacks) {
                (false, _) => true,
                (true, true) => look(fact, facts).is_none(),
                (true, false) => is_answer(fact),
            };
            for fact in expr.facts().into_iter().filter(tells) {
                let sentence = sentence(fact, facts);
                if !into.contains(&sentence) {
                    into.push(sentence);
                }
            }
        }
    }
}

fn sentence(fact: &Fact, facts: &Facts) -> String {
    let found = match look(fact, facts) {
        None | Some(Value::Bool(false)) => return absence(fact, facts),
        Some(Value::Bool(true)) => match fact {
            Fact::KeyExists(_) => "there".to_owned(),
            _ => "so".to_owned(),
        },
        Some(Value::Number(number)) => number.to_string(),
        Some(Value::Text(text)) => format!("`{}`", shortened(&text)),
    };
    match fact {
        Fact::KeyExists(k) => format!("the key `{k}` is {found}"),
        Fact::KeyValue(k) => format!("the value of `{k}` is {found}"),
        Fact::KeyRevision(k) => format!("`{k}` was last changed at revision {found}"),
        Fact::KeyCreated(k) => format!("`{k}` was created at revision {found}"),
        Fact::KeyVersion(k) => format!("the version of `{k}` is {found}"),
        Fact::JsonValid(k) => format!("the value of `{k}` is a JSON object"),
        Fact::JsonField(k, field) => format!("the field `{field}` of `{k}` is {found}"),
        Fact::PrefixCount(p) => format!("the keys that begin with `{p}` number {found}"),
        Fact::Revision => format!("the store is at revision {found}"),
        Fact::MemberCount => format!("the members number {found}"),
        Fact::Leader => format!("the leader is {found}"),
        Fact::Term => format!("the term is {found}"),
        Fact::ClusterId => format!("the cluster's id is {found}"),
        Fact::HashEqual => "all members hold the same".into(),
        Fact::Alarms => format!("the alarms number {found}"),
        Fact::Member(name, property) => match property {
            MemberProperty::Id => format!("the id of {name} is {found}"),
            MemberProperty::State => format!("{name} is {found}"),
            MemberProperty::Up => format!("{name} answers"),
            MemberProperty::Leads => format!("{name} is the leader"),
            MemberProperty::Learner => format!("{name} is a learner"),
            MemberProperty::Revision => format!("{name} is at revision {found}"),
            MemberProperty::Applied => format!("{name} has applied up to {found}"),
            MemberProperty::Errors => format!("{name} says {found}"),
        },
        Fact::UnitActive(node, unit) => format!("{unit} runs at {node}"),
        Fact::Log(node, unit) => format!("the last that {unit} of {node} has written: {}", last_line(fact, facts)),
        Fact::File(path, property) => format!("{path}: {} {found}", file_words(property)),
        Fact::Command(text) => format!("`{}` prints {found}", shortened(text)),
        Fact::CommandExit(text) => {
            let said = facts.commands.get(text).map(|o| shortened(o.text.lines().last().unwrap_or_default()));
            format!("`{}` ends with {found}: {}", shortened(text), said.unwrap_or_default())
        }
        Fact::Answer(_) | Fact::AnswerNumber(_) => format!("your answer is {found}, and that is not it"),
        Fact::Output(id) => format!("block `{id}` printed {found}"),
        Fact::OutputLines(id) => format!("block `{id}` printed {found} lines"),
        Fact::OutputExit(id) => format!("block `{id}` ended with exit code {found}"),
    }
}

fn last_line(fact: &Fact, facts: &Facts) -> String {
    match look(fact, facts) {
        Some(Value::Text(text)) => format!("`{}`", shortened(text.lines().last().unwrap_or_default())),
        _ => "nothing".into(),
    }
}

fn file_words(property: &FileProperty) -> &'static str {
    match property {
        FileProperty::Exists => "it is there:",
        FileProperty::Text => "it says",
        FileProperty::Mode => "its mode is",
        FileProperty::SnapshotOk => "a whole snapshot:",
        FileProperty::SnapshotRevision => "the revision in it is",
        FileProperty::SnapshotKeys => "rows in it:",
        FileProperty::CertNames => "it is good for",
        FileProperty::CertUsages => "its usages are",
        FileProperty::CertAuthority => "it is an authority:",
        FileProperty::CertDays => "days that it is good:",
        FileProperty::CertSignedBy(_) => "signed by that authority:",
        FileProperty::CertMatches(_) => "the key is its key:",
    }
}

/// What is not there of a node or a file.
fn local_absence(fact: &Fact, facts: &Facts) -> String {
    if let Some(why) = facts.unseen.get(fact) {
        return match fact {
            Fact::UnitActive(node, unit) => format!("whether {unit} runs at {node} is not known: {why}"),
            Fact::Log(node, unit) => format!("what {unit} of {node} has written is not known: {why}"),
            Fact::File(path, _) => format!("{path} could not be looked at: {why}"),
            _ => why.clone(),
        };
    }
    match fact {
        Fact::Member(name, MemberProperty::Up) => format!("{name} does not answer"),
        Fact::Member(name, MemberProperty::Leads) => format!("{name} is not the leader"),
        Fact::Member(name, MemberProperty::Learner) => format!("{name} is no learner"),
        Fact::Member(name, _) => format!("{name} did not say"),
        Fact::UnitActive(node, unit) => format!("{unit} does not run at {node}"),
        Fact::File(path, FileProperty::Exists) => format!("there is no file {path}"),
        Fact::File(path, property) => match facts.files.get(&(path.clone(), property.clone())) {
            Some(Some(_)) => format!("{path}: {} no", file_words(property)),
            _ if facts.files.get(&(path.clone(), FileProperty::Exists)) == Some(&Some(Found::Bool(true))) => {
                format!("{path} is there, and cannot be read as what it should be")
            }
            _ => format!("there is no file {path}"),
        },
        _ => "it was not looked at".into(),
    }
}

fn absence(fact: &Fact, facts: &Facts) -> String {
    if let (Some(why), false) = (
        &facts.silent,
        matches!(
            fact,
            Fact::Answer(_)
                | Fact::AnswerNumber(_)
                | Fact::Output(_)
                | Fact::OutputLines(_)
                | Fact::OutputExit(_)
                | Fact::UnitActive(..)
                | Fact::Log(..)
                | Fact::File(..)
        ),
    ) {
        return why.clone();
    }
    match fact {
        Fact::KeyExists(k) | Fact::KeyValue(k) | Fact::KeyRevision(k) | Fact::KeyCreated(k) | Fact::KeyVersion(k) => {
            format!("there is no key `{k}`")
        }
        Fact::JsonValid(k) | Fact::JsonField(k, _) => match facts.keys.get(k) {
            Some(Some(found)) => match (object(&found.value), fact) {
                (Err(e), _) => format!("`{}` is not a JSON object: {e}", shortened(&found.value)),
                (Ok(_), Fact::JsonField(_, field)) => format!("`{}` has no field `{field}`", shortened(&found.value)),
                (Ok(_), _) => format!("the value of `{k}` is a JSON object"),
            },
            _ => format!("there is no key `{k}`"),
        },
        Fact::PrefixCount(p) => format!("the keys that begin with `{p}` were not counted"),
        Fact::Revision => "the store told no revision".into(),
        Fact::MemberCount => "the members were not counted".into(),
        Fact::Leader => "there is no leader".into(),
        Fact::Term | Fact::ClusterId | Fact::Alarms => "no member told it".into(),
        Fact::HashEqual => "not all members answer and hold the same".into(),
        Fact::Member(..) | Fact::UnitActive(..) | Fact::File(..) | Fact::Log(..) => local_absence(fact, facts),
        Fact::Command(text) | Fact::CommandExit(text) => format!("`{}` was not tried", shortened(text)),
        Fact::AnswerNumber(id) if facts.answers.contains_key(id) => {
            format!("your answer `{}` is no number", shortened(&facts.answers[id]))
        }
        Fact::Answer(_) | Fact::AnswerNumber(_) => "you have not answered yet".into(),
        Fact::Output(id) | Fact::OutputLines(id) | Fact::OutputExit(id) => format!("block `{id}` has not been run yet"),
    }
}

fn shortened(text: &str) -> String {
    let text = text.replace('\n', "\\n");
    match text.char_indices().nth(SHOWN_CHARS) {
        None => text,
        Some((end, _)) => format!("{}…", &text[..end]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts() -> Facts {
        let key = |value: &str| Some(KeyFact { value: value.into(), created: 2, revision: 3, version: 2 });
        Facts {
            keys: [
                ("here".to_owned(), key("value1")),
                ("gone".to_owned(), None),
                ("good".to_owned(), key(r#"{"Name":"Mohammed","n":3}"#)),
                ("bad".to_owned(), key("{Name:Mohammed}")),
            ]
            .into(),
            answers: [("a".to_owned(), "three".to_owned())].into(),
            revision: Some(3),
            ..Facts::default()
        }
    }

    fn ask(text: &str) -> Option<bool> {
        truth(&Expr::parse(text).expect(text), &facts())
    }

    #[test]
    fn what_is_not_there_is_neither_equal_nor_unequal() {
        assert_eq!(ask("key('gone').value == 'x'"), None);
        assert_eq!(ask("key('gone').value != 'x'"), None);
        assert_eq!(ask("not key('gone').value == 'x'"), None);
        assert_eq!(ask("answer('b') != 'x'"), None);
        assert_eq!(ask("key_json('bad', 'Name') != 'x'"), None);
        assert_eq!(ask("key('gone').exists"), Some(false));
        assert_eq!(ask("key('gone').value == 'x' or key('here').exists"), Some(true));
        assert_eq!(ask("key('gone').value == 'x' and revision > 9"), Some(false));
    }

    #[test]
    fn facts_are_compared_by_their_types() {
        assert_eq!(ask("key('here').value == 'value1' and revision > 2 and revision < 4"), Some(true));
        assert_eq!(ask("answer('a') matches '^t' and answer('a') has 'ree'"), Some(true));
        assert_eq!(ask("key_json('good', 'Name') == 'Mohammed' and key_json('good', 'n') == '3'"), Some(true));
        assert_eq!(ask("key_json('bad').valid"), Some(false));
        assert_eq!(ask("key('here').version != 1"), Some(true));
    }

    #[test]
    fn not_yet_says_what_was_found() {
        let mut got = Vec::new();
        let want =
            "key('here').value == 'value2' and key('gone').exists and key_json('bad', 'Name') == 'x' and revision == 3";
        tell(&Expr::parse(want).expect("it is right"), &facts(), &mut got);
        assert_eq!(got[0], "the value of `here` is `value1`");
        assert_eq!(got[1], "there is no key `gone`");
        assert!(got[2].starts_with("`{Name:Mohammed}` is not a JSON object: key must be a string"), "{}", got[2]);
        assert_eq!(got.len(), 3);
    }

    #[test]
    fn a_wrong_answer_is_told_to_be_wrong_and_not_what_is_right() {
        let said = |want: &str| {
            let mut got = Vec::new();
            tell(&Expr::parse(want).expect("it is right"), &facts(), &mut got);
            got
        };
        assert_eq!(said("answer('a') == key('here').value"), ["your answer is `three`, and that is not it"]);
        assert_eq!(said("answer('b') == key('here').value"), ["you have not answered yet"]);
        assert_eq!(
            said("answer('a') == key('gone').value"),
            ["there is no key `gone`"],
            "nobody knows whether it is right"
        );
        assert_eq!(said("answer('a') == 'two'"), ["your answer is `three`, and that is not it"]);
    }
}
