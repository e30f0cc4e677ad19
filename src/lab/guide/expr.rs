//! The language of checks: small, closed, and typed before it runs.
//!
//! ```text
//! want  = or            or  = and { "or" and }         and = not { "and" not }
//! not   = "not" not | "(" want ")" | term [ op term ]  op  = == | != | < | > | has | matches
//! term  = text | number | fact
//! ```
//!
//! There are no loops, no variables, and no way to reach a fact that is not in [`FACTS`]. Every fact has one type, so what
//! is compared with what is settled when the file is read; when a check runs, only the world can be wrong. The grammar
//! knows no arithmetic: a lab that needs it should ask a simpler question.

use regex::Regex;
use std::collections::BTreeSet;

/// The facts that a check may name: an example, its type, what it is. The author's guide and the error messages are made of it.
pub(crate) const FACTS: [(&str, &str, &str); 41] = [
    ("key('k').exists", BOOL, "the key is there"),
    ("key('k').value", TEXT, "its value"),
    ("key('k').revision", NUMBER, "the revision of its last change"),
    ("key('k').created", NUMBER, "the revision at which it was created"),
    ("key('k').version", NUMBER, "how many changes since then"),
    ("key_json('k').valid", BOOL, "its value is a JSON object"),
    ("key_json('k', 'field')", TEXT, "a field of that object"),
    ("prefix('p').count", NUMBER, "how many keys begin so"),
    ("revision", NUMBER, "the store's revision"),
    ("member_count", NUMBER, "how many members the cluster has"),
    ("leader", TEXT, "the leader's name"),
    ("term", NUMBER, "the raft term"),
    ("cluster_id", TEXT, "the cluster's id in hexadecimal"),
    ("hashkv_equal()", BOOL, "all members answer, and hold the same at the same revision"),
    ("member('n1').id", TEXT, "its id in hexadecimal; a member is known by its name, or by its node's peer address"),
    ("member('n1').state", TEXT, "`started`, `unstarted` (added, and never seen) or `absent`"),
    ("member('n1').up", BOOL, "its node answers a client"),
    ("member('n1').leads", BOOL, "it is the leader"),
    ("member('n1').learner", BOOL, "it is a learner"),
    ("member('n1').revision", NUMBER, "the revision that this member itself has"),
    ("member('n1').applied", NUMBER, "the raft index up to which it has applied"),
    ("member('n1').errors", TEXT, "what it says is wrong with itself, such as `etcdserver: no leader`"),
    ("alarms", NUMBER, "how many alarms are raised"),
    ("unit('n1', 'etcd').active", BOOL, "the service runs, and has said that it is ready"),
    ("log('n1', 'etcd')", TEXT, "what the service has written"),
    ("file('a').exists", BOOL, "a file of the lab's folder is there; 'n1:etc/etcd/a' names a node's"),
    ("file('a').text", TEXT, "what is in it"),
    ("file('a').mode", TEXT, "its permission bits, such as `600`"),
    ("snapshot('a.db').ok", BOOL, "etcdutl reads it as a snapshot"),
    ("snapshot('a.db').revision", NUMBER, "the revision that it holds"),
    ("snapshot('a.db').keys", NUMBER, "how many rows it holds"),
    ("cert('a.pem').names", TEXT, "the DNS names and addresses for which it is good, with commas"),
    ("cert('a.pem').usages", TEXT, "`server`, `client` or `server,client`"),
    ("cert('a.pem').authority", BOOL, "it may sign others"),
    ("cert('a.pem').days", NUMBER, "for how many days from its first to its last"),
    ("cert('a.pem').signed_by('ca.pem')", BOOL, "the key of that certificate has signed it"),
    ("cert('a.pem').matches('a-key.pem')", BOOL, "the key is this certificate's"),
    ("answer('question')", TEXT, "what the learner answered; with `.number`, a number"),
    ("output('run')", TEXT, "what a run block printed; `.lines` and `.exit` are numbers"),
    ("command('…')", TEXT, "last resort: what a shell command prints"),
    ("command('…').exit", NUMBER, "its exit code"),
];

const BOOL: &str = "true or false";
const NUMBER: &str = "a number";
const TEXT: &str = "a text";

/// The list for an error message.
fn facts_in_short() -> String {
    FACTS.map(|(form, ..)| form).join(", ")
}

/// Something that is true, false, or not known yet.
#[derive(Clone, Debug)]
pub enum Expr {
    /// Either.
    Or(Box<Expr>, Box<Expr>),
    /// Both.
    And(Box<Expr>, Box<Expr>),
    /// The contrary.
    Not(Box<Expr>),
    /// Two terms of one type.
    Compare(Term, Op, Term),
    /// A text and a pattern.
    Matches(Term, Regex),
    /// A fact that is itself true or false.
    Holds(Fact),
}

/// A value, or where to get one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Term {
    /// As written.
    Text(String),
    /// As written.
    Number(i64),
    /// To be looked up.
    Fact(Fact),
}

/// How two terms are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// `==`
    Equal,
    /// `!=`
    Unequal,
    /// `<`
    Less,
    /// `>`
    Greater,
    /// The left text contains the right one.
    Has,
}

/// One thing that can be looked up.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fact {
    /// Whether the key is there.
    KeyExists(String),
    /// Its value.
    KeyValue(String),
    /// The revision of its last change.
    KeyRevision(String),
    /// The revision of its first.
    KeyCreated(String),
    /// How many changes since then.
    KeyVersion(String),
    /// Whether its value is a JSON object.
    JsonValid(String),
    /// A field of that object, as text.
    JsonField(String, String),
    /// How many keys begin so.
    PrefixCount(String),
    /// The store's revision.
    Revision,
    /// How many members the cluster has.
    MemberCount,
    /// The leader's name.
    Leader,
    /// The raft term.
    Term,
    /// The cluster's id.
    ClusterId,
    /// Whether all members hold the same.
    HashEqual,
    /// How many alarms are raised.
    Alarms,
    /// Something about one member.
    Member(String, MemberProperty),
    /// Whether a service of a node runs.
    UnitActive(String, String),
    /// What it has written.
    Log(String, String),
    /// Something about a file.
    File(String, FileProperty),
    /// What a shell command prints.
    Command(String),
    /// Its exit code.
    CommandExit(String),
    /// What the learner answered.
    Answer(String),
    /// The same, as a number; not there if it is none.
    AnswerNumber(String),
    /// What a run block printed.
    Output(String),
    /// In how many lines.
    OutputLines(String),
    /// With which exit code it ended.
    OutputExit(String),
}

/// What can be asked of a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum MemberProperty {
    /// Its id.
    Id,
    /// `started`, `unstarted`, `absent`.
    State,
    /// It answers.
    Up,
    /// It is the leader.
    Leads,
    /// It is a learner.
    Learner,
    /// Its own revision.
    Revision,
    /// The raft index up to which it has applied.
    Applied,
    /// What it says is wrong.
    Errors,
}

/// What can be asked of a file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum FileProperty {
    /// It is there.
    Exists,
    /// What is in it.
    Text,
    /// Its permission bits.
    Mode,
    /// It is a whole snapshot.
    SnapshotOk,
    /// The revision in it.
    SnapshotRevision,
    /// The rows in it.
    SnapshotKeys,
    /// Names of a certificate.
    CertNames,
    /// Its extended key usages.
    CertUsages,
    /// Whether it may sign.
    CertAuthority,
    /// How long it is good.
    CertDays,
    /// Whether this other one signed it.
    CertSignedBy(String),
    /// Whether this key is its key.
    CertMatches(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Type {
    Bool,
    Number,
    Text,
}

impl Type {
    fn name(self) -> &'static str {
        match self {
            Type::Bool => "true or false",
            Type::Number => "a number",
            Type::Text => "a text",
        }
    }
}

impl Fact {
    fn kind(&self) -> Type {
        match self {
            Fact::KeyExists(_) | Fact::JsonValid(_) | Fact::HashEqual | Fact::UnitActive(..) => Type::Bool,
            Fact::Member(_, property) => match property {
                MemberProperty::Up | MemberProperty::Leads | MemberProperty::Learner => Type::Bool,
                MemberProperty::Revision | MemberProperty::Applied => Type::Number,
                MemberProperty::Id | MemberProperty::State | MemberProperty::Errors => Type::Text,
            },
            Fact::File(_, property) => match property {
                FileProperty::Text | FileProperty::Mode | FileProperty::CertNames | FileProperty::CertUsages => {
                    Type::Text
                }
                FileProperty::SnapshotRevision | FileProperty::SnapshotKeys | FileProperty::CertDays => Type::Number,
                FileProperty::Exists
                | FileProperty::SnapshotOk
                | FileProperty::CertAuthority
                | FileProperty::CertSignedBy(_)
                | FileProperty::CertMatches(_) => Type::Bool,
            },
            Fact::Term | Fact::Alarms | Fact::CommandExit(_) => Type::Number,
            Fact::ClusterId | Fact::Log(..) | Fact::Command(_) => Type::Text,
            Fact::KeyRevision(_) | Fact::KeyCreated(_) | Fact::KeyVersion(_) | Fact::PrefixCount(_) => Type::Number,
            Fact::Revision | Fact::MemberCount | Fact::AnswerNumber(_) | Fact::OutputLines(_) | Fact::OutputExit(_) => {
                Type::Number
            }
            Fact::KeyValue(_) | Fact::JsonField(..) | Fact::Leader | Fact::Answer(_) | Fact::Output(_) => Type::Text,
        }
    }
}

impl Term {
    fn kind(&self) -> Type {
        match self {
            Term::Text(_) => Type::Text,
            Term::Number(_) => Type::Number,
            Term::Fact(fact) => fact.kind(),
        }
    }
}

impl Expr {
    /// Reads one.
    ///
    /// # Errors
    /// What is not understood, and what may stand there.
    pub(crate) fn parse(text: &str) -> Result<Expr, String> {
        let mut reader = Reader::new(text)?;
        let expr = reader.or()?;
        reader.end()?;
        Ok(expr)
    }

    /// Every fact that it names.
    pub(crate) fn facts(&self) -> BTreeSet<&Fact> {
        let of = |term: &'_ Term| matches!(term, Term::Fact(_));
        match self {
            Expr::Or(a, b) | Expr::And(a, b) => a.facts().into_iter().chain(b.facts()).collect(),
            Expr::Not(a) => a.facts(),
            Expr::Holds(fact) => BTreeSet::from([fact]),
            Expr::Matches(term, _) => std::iter::once(term).filter(|t| of(t)).filter_map(Term::as_fact).collect(),
            Expr::Compare(a, _, b) => [a, b].into_iter().filter_map(Term::as_fact).collect(),
        }
    }
}

impl Term {
    fn as_fact(&self) -> Option<&Fact> {
        if let Term::Fact(fact) = self { Some(fact) } else { None }
    }
}

/// Where a solution takes an answer from: its own commands' output, or, for a quiz, its author's knowledge. Never the
/// vocabulary that checks use: a fact that is wrong would then prove itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A line of what a run block printed, and a column of it, from 1. No column means the whole line.
    Captured {
        /// The run block.
        run: String,
        /// A number from 1, or a text that the line contains.
        row: String,
        /// 0 for all of it.
        column: usize,
    },
    /// As written.
    Literal(String),
}

impl Source {
    /// Reads `captured('run', row = 'text' or 2, column = 1)` or `'literal'`.
    ///
    /// # Errors
    /// What is not understood.
    pub(crate) fn parse(text: &str) -> Result<Source, String> {
        let mut reader = Reader::new(text)?;
        let source = match reader.next() {
            Some(Token::Text(literal)) => Source::Literal(literal),
            Some(Token::Word(word)) if word == "captured" => reader.captured()?,
            _ => {
                return Err(
                    "an answer comes from captured('run', row = 'text', column = 1), or is a quoted text".into()
                );
            }
        };
        reader.end()?;
        Ok(source)
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    Word(String),
    Text(String),
    Number(i64),
    Sign(&'static str),
}

const SIGNS: [&str; 9] = ["==", "!=", "<", ">", "(", ")", ",", ".", "="];

fn tokens(text: &str) -> Result<Vec<Token>, String> {
    let mut found = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        let (token, len) = match first {
            '\'' | '"' => {
                let inner = &rest[1..];
                let end = inner.find(first).ok_or_else(|| format!("the text that begins with {rest} has no end"))?;
                (Token::Text(inner[..end].to_owned()), end + 2)
            }
            '0'..='9' => {
                let len = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
                (Token::Number(rest[..len].parse().map_err(|e| format!("{}: {e}", &rest[..len]))?), len)
            }
            c if c.is_ascii_alphabetic() => {
                let len = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len());
                (Token::Word(rest[..len].to_owned()), len)
            }
            _ => {
                let sign = SIGNS.into_iter().find(|s| rest.starts_with(s));
                let sign =
                    sign.ok_or_else(|| format!("`{first}` is no part of a check; signs are {}", SIGNS.join(" ")))?;
                (Token::Sign(sign), sign.len())
            }
        };
        found.push(token);
        rest = rest[len..].trim_start();
    }
    Ok(found)
}

/// How deep parentheses and `not` may nest: a check is a sentence, and a reader's stack has an end.
const DEPTH_MAX: usize = 32;

struct Reader {
    tokens: std::iter::Peekable<std::vec::IntoIter<Token>>,
    depth: usize,
}

impl Reader {
    fn new(text: &str) -> Result<Reader, String> {
        Ok(Reader { tokens: tokens(text)?.into_iter().peekable(), depth: 0 })
    }

    fn next(&mut self) -> Option<Token> {
        self.tokens.next()
    }

    fn take(&mut self, wanted: &Token) -> bool {
        self.tokens.next_if_eq(wanted).is_some()
    }

    fn word(&mut self, word: &str) -> bool {
        self.take(&Token::Word(word.to_owned()))
    }

    fn sign(&mut self, sign: &'static str) -> Result<(), String> {
        if self.take(&Token::Sign(sign)) { Ok(()) } else { Err(format!("`{sign}` is missing{}", self.before())) }
    }

    fn before(&mut self) -> String {
        match self.tokens.peek() {
            None => " at the end".into(),
            Some(Token::Word(t)) => format!(" before `{t}`"),
            Some(Token::Text(t)) => format!(" before '{t}'"),
            Some(Token::Number(n)) => format!(" before {n}"),
            Some(Token::Sign(s)) => format!(" before `{s}`"),
        }
    }

    fn end(&mut self) -> Result<(), String> {
        match self.tokens.peek() {
            None => Ok(()),
            Some(_) => Err(format!("`and` or `or` is missing{}", self.before())),
        }
    }

    fn or(&mut self) -> Result<Expr, String> {
        let mut left = self.and()?;
        while self.word("or") {
            left = Expr::Or(Box::new(left), Box::new(self.and()?));
        }
        Ok(left)
    }

    fn and(&mut self) -> Result<Expr, String> {
        let mut left = self.not()?;
        while self.word("and") {
            left = Expr::And(Box::new(left), Box::new(self.not()?));
        }
        Ok(left)
    }

    fn not(&mut self) -> Result<Expr, String> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err(format!("nested more than {DEPTH_MAX} deep"));
        }
        let expr = if self.word("not") {
            Expr::Not(Box::new(self.not()?))
        } else if self.take(&Token::Sign("(")) {
            let inner = self.or()?;
            self.sign(")")?;
            inner
        } else {
            self.comparison()?
        };
        self.depth -= 1;
        Ok(expr)
    }

    fn comparison(&mut self) -> Result<Expr, String> {
        let left = self.term()?;
        if self.word("matches") {
            return self.pattern(left);
        }
        let op = match self.tokens.peek() {
            Some(Token::Sign("==")) => Op::Equal,
            Some(Token::Sign("!=")) => Op::Unequal,
            Some(Token::Sign("<")) => Op::Less,
            Some(Token::Sign(">")) => Op::Greater,
            Some(Token::Word(w)) if w == "has" => Op::Has,
            _ => return alone(left),
        };
        self.next();
        let right = self.term()?;
        let (a, b) = (left.kind(), right.kind());
        if a != b {
            return Err(format!("{} is compared with {}", a.name(), b.name()));
        }
        match (op, a) {
            (Op::Has, Type::Text) | (Op::Less | Op::Greater, Type::Number) => {}
            (Op::Equal | Op::Unequal, Type::Text | Type::Number) => {}
            _ => return Err(format!("{} cannot be compared in this way", a.name())),
        }
        Ok(Expr::Compare(left, op, right))
    }

    fn pattern(&mut self, left: Term) -> Result<Expr, String> {
        if left.kind() != Type::Text {
            return Err(format!("`matches` wants a text on its left, not {}", left.kind().name()));
        }
        let Some(Token::Text(pattern)) = self.next() else {
            return Err("`matches` wants a quoted pattern on its right".into());
        };
        Ok(Expr::Matches(left, Regex::new(&pattern).map_err(|e| e.to_string())?))
    }

    fn term(&mut self) -> Result<Term, String> {
        match self.next() {
            Some(Token::Text(text)) => Ok(Term::Text(text)),
            Some(Token::Number(number)) => Ok(Term::Number(number)),
            Some(Token::Word(name)) => self.fact(&name).map(Term::Fact),
            Some(Token::Sign(sign)) => Err(format!("`{sign}` stands where a value is wanted")),
            None => Err("it ends where a value is wanted".into()),
        }
    }

    fn fact(&mut self, name: &str) -> Result<Fact, String> {
        let mut arguments = self.arguments(name)?;
        let mut property = String::new();
        if self.take(&Token::Sign(".")) {
            match self.next() {
                Some(Token::Word(word)) => property = word,
                _ => return Err("a property's name is missing after `.`".into()),
            }
            arguments.extend(self.arguments(&property)?);
        }
        lookup(name, arguments, &property).ok_or_else(|| {
            let dot = if property.is_empty() { "" } else { "." };
            let all = facts_in_short();
            format!("there is no fact `{name}{dot}{property}` with these arguments; there are {all}")
        })
    }

    /// Quoted texts in parentheses, if there are any.
    fn arguments(&mut self, name: &str) -> Result<Vec<String>, String> {
        let mut arguments = Vec::new();
        if !self.take(&Token::Sign("(")) || self.take(&Token::Sign(")")) {
            return Ok(arguments);
        }
        loop {
            match self.next() {
                Some(Token::Text(text)) => arguments.push(text),
                _ => return Err(format!("{name}( ) takes quoted texts")),
            }
            if !self.take(&Token::Sign(",")) {
                break;
            }
        }
        self.sign(")")?;
        Ok(arguments)
    }

    fn captured(&mut self) -> Result<Source, String> {
        self.sign("(")?;
        let Some(Token::Text(run)) = self.next() else { return Err("captured( ) begins with a run block's id".into()) };
        let (mut row, mut column) = ("1".to_owned(), 0);
        while self.take(&Token::Sign(",")) {
            let name = self.next();
            self.sign("=")?;
            match (name, self.next()) {
                (Some(Token::Word(n)), Some(Token::Text(text))) if n == "row" => row = text,
                (Some(Token::Word(n)), Some(Token::Number(number))) if n == "row" => row = number.to_string(),
                (Some(Token::Word(n)), Some(Token::Number(number))) if n == "column" => {
                    column = usize::try_from(number).map_err(|e| e.to_string())?;
                }
                _ => return Err("captured( ) takes row = 'text' or a number, and column = a number".into()),
            }
        }
        self.sign(")")?;
        Ok(Source::Captured { run, row, column })
    }
}

fn alone(term: Term) -> Result<Expr, String> {
    match term {
        Term::Fact(fact) if fact.kind() == Type::Bool => Ok(Expr::Holds(fact)),
        other => Err(format!("{} alone says nothing; compare it: == != < > has matches", other.kind().name())),
    }
}

fn lookup(name: &str, arguments: Vec<String>, property: &str) -> Option<Fact> {
    let mut arguments = arguments.into_iter();
    let all = (name, arguments.next(), arguments.next(), property);
    if arguments.next().is_some() {
        return None;
    }
    Some(match all {
        ("key", Some(k), None, "exists") => Fact::KeyExists(k),
        ("key", Some(k), None, "value") => Fact::KeyValue(k),
        ("key", Some(k), None, "revision") => Fact::KeyRevision(k),
        ("key", Some(k), None, "created") => Fact::KeyCreated(k),
        ("key", Some(k), None, "version") => Fact::KeyVersion(k),
        ("key_json", Some(k), None, "valid") => Fact::JsonValid(k),
        ("key_json", Some(k), Some(field), "") => Fact::JsonField(k, field),
        ("prefix", Some(p), None, "count") => Fact::PrefixCount(p),
        ("revision", None, None, "") => Fact::Revision,
        ("member_count", None, None, "") => Fact::MemberCount,
        ("leader", None, None, "") => Fact::Leader,
        ("term", None, None, "") => Fact::Term,
        ("cluster_id", None, None, "") => Fact::ClusterId,
        ("hashkv_equal", None, None, "") => Fact::HashEqual,
        ("alarms", None, None, "") => Fact::Alarms,
        ("member", Some(n), None, property) => Fact::Member(n, member_property(property)?),
        ("unit", Some(n), Some(unit), "active") => Fact::UnitActive(n, unit),
        ("log", Some(n), Some(unit), "") => Fact::Log(n, unit),
        ("file" | "snapshot" | "cert", Some(path), more, property) => {
            Fact::File(path, file_property(name, property, more)?)
        }
        ("command", Some(text), None, "") => Fact::Command(text),
        ("command", Some(text), None, "exit") => Fact::CommandExit(text),
        ("answer", Some(id), None, "") => Fact::Answer(id),
        ("answer", Some(id), None, "number") => Fact::AnswerNumber(id),
        ("output", Some(id), None, "") => Fact::Output(id),
        ("output", Some(id), None, "lines") => Fact::OutputLines(id),
        ("output", Some(id), None, "exit") => Fact::OutputExit(id),
        _ => return None,
    })
}

fn member_property(name: &str) -> Option<MemberProperty> {
    Some(match name {
        "id" => MemberProperty::Id,
        "state" => MemberProperty::State,
        "up" => MemberProperty::Up,
        "leads" => MemberProperty::Leads,
        "learner" => MemberProperty::Learner,
        "revision" => MemberProperty::Revision,
        "applied" => MemberProperty::Applied,
        "errors" => MemberProperty::Errors,
        _ => return None,
    })
}

fn file_property(kind: &str, property: &str, other: Option<String>) -> Option<FileProperty> {
    Some(match (kind, property, other) {
        ("file", "exists", None) => FileProperty::Exists,
        ("file", "text", None) => FileProperty::Text,
        ("file", "mode", None) => FileProperty::Mode,
        ("snapshot", "ok", None) => FileProperty::SnapshotOk,
        ("snapshot", "revision", None) => FileProperty::SnapshotRevision,
        ("snapshot", "keys", None) => FileProperty::SnapshotKeys,
        ("cert", "names", None) => FileProperty::CertNames,
        ("cert", "usages", None) => FileProperty::CertUsages,
        ("cert", "authority", None) => FileProperty::CertAuthority,
        ("cert", "days", None) => FileProperty::CertDays,
        ("cert", "signed_by", Some(other)) => FileProperty::CertSignedBy(other),
        ("cert", "matches", Some(other)) => FileProperty::CertMatches(other),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_meant_is_refused_with_what_can() {
        for (text, says) in [
            ("key('k')", "there is no fact `key`"),
            ("key('k').colour == 'red'", "there is no fact `key.colour`"),
            ("key('k').value", "alone says nothing"),
            ("key('k').value == 3", "a text is compared with a number"),
            ("key('k').value < 'x'", "cannot be compared"),
            ("key('k').exists == 1", "compared with a number"),
            ("key('k').exists key('j').exists", "`and` or `or` is missing before `key`"),
            ("(key('k').exists", "`)` is missing at the end"),
            ("key('k').value matches '('", "unclosed group"),
            ("revision ~ 3", "`~` is no part of a check"),
            ("answer('x) == 1", "has no end"),
            ("answer('x') ==", "it ends where a value is wanted"),
            ("for", "there is no fact `for`"),
        ] {
            let error = Expr::parse(text).expect_err(text);
            assert!(error.contains(says), "{text}: {error}");
        }
        let deep = format!("{}key('k').exists", "not ".repeat(1000));
        assert!(Expr::parse(&deep).expect_err("too deep").contains("nested"));
    }

    #[test]
    fn every_fact_of_the_guide_is_one_and_has_the_type_that_it_says() {
        for (form, kind, _) in FACTS {
            let mut reader = Reader::new(&form.replace('…', "true")).expect(form);
            let term = reader.term().unwrap_or_else(|e| panic!("{form}: {e}"));
            assert_eq!(term.kind().name(), kind, "{form}");
        }
    }

    #[test]
    fn and_binds_closer_than_or_and_not_closest() {
        let expr = Expr::parse("not key('a').exists and key('b').exists or revision > 3").expect("it is right");
        let Expr::Or(left, _) = expr else { panic!("`or` is outermost") };
        let Expr::And(first, _) = *left else { panic!("`and` is next") };
        assert!(matches!(*first, Expr::Not(_)));
    }

    #[test]
    fn an_answer_comes_from_an_output_or_is_written_down() {
        let source = Source::parse("captured('list', row = 'member1', column = 1)");
        assert_eq!(source, Ok(Source::Captured { run: "list".into(), row: "member1".into(), column: 1 }));
        assert_eq!(Source::parse("'b a c'"), Ok(Source::Literal("b a c".into())));
        assert!(Source::parse("key('k').value").is_err(), "never from the vocabulary of checks");
    }
}
