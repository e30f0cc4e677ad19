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

/// The facts that a check may name, with their types: what an error message lists.
pub(crate) const FACTS: &str = "key('k').exists, key('k').value, key('k').revision, key('k').created, key('k').version, \
    key_json('k').valid, key_json('k', 'field'), prefix('p').count, revision, member_count, leader, \
    answer('question'), answer('question').number, output('run'), output('run').lines, output('run').exit";

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
            Fact::KeyExists(_) | Fact::JsonValid(_) => Type::Bool,
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
        let mut arguments = Vec::new();
        if self.take(&Token::Sign("(")) {
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
        }
        let mut property = String::new();
        if self.take(&Token::Sign(".")) {
            match self.next() {
                Some(Token::Word(word)) => property = word,
                _ => return Err("a property's name is missing after `.`".into()),
            }
        }
        lookup(name, arguments, &property).ok_or_else(|| {
            let dot = if property.is_empty() { "" } else { "." };
            format!("there is no fact `{name}{dot}{property}` with these arguments; there are {FACTS}")
        })
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
    let fact = match (name, arguments.next(), arguments.next(), property) {
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
        ("answer", Some(id), None, "") => Fact::Answer(id),
        ("answer", Some(id), None, "number") => Fact::AnswerNumber(id),
        ("output", Some(id), None, "") => Fact::Output(id),
        ("output", Some(id), None, "lines") => Fact::OutputLines(id),
        ("output", Some(id), None, "exit") => Fact::OutputExit(id),
        _ => return None,
    };
    arguments.next().is_none().then_some(fact)
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
