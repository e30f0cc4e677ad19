//! What is wrong with a JSON text, in the words of Go's parser: people search for them, and scripts compare them.
//!
//! Only a text that has been refused comes here. Source: Go `encoding/json/scanner.go`.

/// Go's complaint about the first thing that is wrong with `json`; nothing if it finds no fault with it. What ends too early is nobody's fault but the end's:
/// `unexpected EOF`.
pub(super) fn complaint(json: &[u8]) -> Option<String> {
    let mut scan = Scan { rest: json, inside: Vec::new() };
    scan.all().err().map(|wrong| match wrong {
        Wrong::End => "unexpected EOF".to_owned(),
        Wrong::Byte(byte, place) => {
            let shown = match byte {
                b'\'' => "\\'".to_owned(),
                b'"' => "\"".to_owned(),
                byte => {
                    let quoted = crate::golang::quote(char::from(byte).to_string().as_bytes());
                    quoted[1..quoted.len() - 1].to_owned()
                }
            };
            format!("invalid character '{shown}' {place}")
        }
    })
}

/// The same of a byte with which no value begins.
pub(super) fn no_value(byte: u8) -> Option<String> {
    complaint(&[byte]).filter(|told| told.starts_with("invalid"))
}

enum Wrong {
    End,
    Byte(u8, String),
}

/// What a value is part of.
#[derive(Clone, Copy)]
enum Inside {
    /// It was a member's name.
    Name,
    Member,
    Element,
}

struct Scan<'a> {
    rest: &'a [u8],
    inside: Vec<Inside>,
}

const NAME: &str = "looking for beginning of object key string";

impl Scan<'_> {
    fn all(&mut self) -> Result<(), Wrong> {
        loop {
            let is_begun = self.begin()?;
            if is_begun {
                continue;
            }
            if self.end()? {
                return Ok(());
            }
        }
    }

    /// Reads a value that is no container, or enters one; whether another value must come now.
    fn begin(&mut self) -> Result<bool, Wrong> {
        self.blanks();
        match self.next()? {
            b'{' => {
                self.blanks();
                if self.take(b'}') {
                    return Ok(false);
                }
                self.inside.push(Inside::Name);
                self.name()?;
                Ok(false)
            }
            b'[' => {
                self.blanks();
                if self.take(b']') {
                    return Ok(false);
                }
                self.inside.push(Inside::Element);
                Ok(true)
            }
            b'"' => self.text().map(|()| false),
            b't' => self.literal("true").map(|()| false),
            b'f' => self.literal("false").map(|()| false),
            b'n' => self.literal("null").map(|()| false),
            first @ (b'-' | b'0'..=b'9') => self.number(first).map(|()| false),
            other => Err(Wrong::Byte(other, "looking for beginning of value".to_owned())),
        }
    }

    /// Goes on behind a value to where the next one begins; whether all is read.
    fn end(&mut self) -> Result<bool, Wrong> {
        loop {
            self.blanks();
            let Some(inside) = self.inside.last_mut() else {
                return match self.rest.first() {
                    None => Ok(true),
                    Some(byte) => Err(Wrong::Byte(*byte, "after top-level value".to_owned())),
                };
            };
            let (first, rest) = self.rest.split_first().ok_or(Wrong::End)?;
            self.rest = rest;
            let wrong = |place: &str| Err(Wrong::Byte(*first, place.to_owned()));
            match (*inside, first) {
                (Inside::Name, b':') => {
                    *inside = Inside::Member;
                    return Ok(false);
                }
                (Inside::Member, b',') => {
                    *inside = Inside::Name;
                    self.blanks();
                    self.name()?;
                }
                (Inside::Element, b',') => return Ok(false),
                (Inside::Member, b'}') | (Inside::Element, b']') => drop(self.inside.pop()),
                (Inside::Name, _) => return wrong("after object key"),
                (Inside::Member, _) => return wrong("after object key:value pair"),
                (Inside::Element, _) => return wrong("after array element"),
            }
        }
    }

    fn blanks(&mut self) {
        let is_blank = |byte: &&u8| matches!(byte, b' ' | b'\t' | b'\r' | b'\n');
        self.rest = &self.rest[self.rest.iter().take_while(is_blank).count()..];
    }

    fn next(&mut self) -> Result<u8, Wrong> {
        let (first, rest) = self.rest.split_first().ok_or(Wrong::End)?;
        self.rest = rest;
        Ok(*first)
    }

    fn take(&mut self, byte: u8) -> bool {
        let rest = self.rest.strip_prefix(&[byte]);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    fn name(&mut self) -> Result<(), Wrong> {
        match self.next()? {
            b'"' => self.text(),
            other => Err(Wrong::Byte(other, NAME.to_owned())),
        }
    }

    /// The rest of a text.
    fn text(&mut self) -> Result<(), Wrong> {
        loop {
            match self.next()? {
                b'"' => return Ok(()),
                b'\\' => match self.next()? {
                    b'b' | b'f' | b'n' | b'r' | b't' | b'\\' | b'/' | b'"' => {}
                    b'u' => {
                        for _ in 0..4 {
                            let digit = self.next()?;
                            if !digit.is_ascii_hexdigit() {
                                return Err(Wrong::Byte(digit, "in \\u hexadecimal character escape".to_owned()));
                            }
                        }
                    }
                    other => return Err(Wrong::Byte(other, "in string escape code".to_owned())),
                },
                control if control < 0x20 => return Err(Wrong::Byte(control, "in string literal".to_owned())),
                _ => {}
            }
        }
    }

    /// The rest of a word.
    fn literal(&mut self, word: &str) -> Result<(), Wrong> {
        for expected in word.bytes().skip(1) {
            let byte = self.next()?;
            if byte != expected {
                let place = format!("in literal {word} (expecting '{}')", char::from(expected));
                return Err(Wrong::Byte(byte, place));
            }
        }
        Ok(())
    }

    /// The rest of a number.
    fn number(&mut self, first: u8) -> Result<(), Wrong> {
        let mut first = first;
        if first == b'-' {
            first = self.digit("in numeric literal")?;
        }
        if first != b'0' {
            self.digits();
        }
        if self.take(b'.') {
            self.digit("after decimal point in numeric literal")?;
            self.digits();
        }
        if self.take(b'e') || self.take(b'E') {
            let _signed = self.take(b'+') || self.take(b'-');
            self.digit("in exponent of numeric literal")?;
            self.digits();
        }
        Ok(())
    }

    fn digit(&mut self, place: &str) -> Result<u8, Wrong> {
        let digit = self.next()?;
        if digit.is_ascii_digit() { Ok(digit) } else { Err(Wrong::Byte(digit, place.to_owned())) }
    }

    fn digits(&mut self) {
        self.rest = &self.rest[self.rest.iter().take_while(|byte| byte.is_ascii_digit()).count()..];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_mistake_is_told_as_go_tells_it() {
        for (json, told) in [
            (r#"{"key":"YQ==",}"#, "invalid character '}' looking for beginning of object key string"),
            (r#"{key:1}"#, "invalid character 'k' looking for beginning of object key string"),
            (r#"{"key" 1}"#, "invalid character '1' after object key"),
            (r#"{"key":1 "b":2}"#, "invalid character '\"' after object key:value pair"),
            (r#"{"a":[1 2]}"#, "invalid character '2' after array element"),
            (r#"{"a":[1,]}"#, "invalid character ']' looking for beginning of value"),
            (r#"{"a":'x'}"#, r"invalid character '\'' looking for beginning of value"),
            (r#"{"a":tru}"#, "invalid character '}' in literal true (expecting 'e')"),
            (r#"{"a":01}"#, "invalid character '1' after object key:value pair"),
            (r#"{"a":-x}"#, "invalid character 'x' in numeric literal"),
            (r#"{"a":1.}"#, "invalid character '}' after decimal point in numeric literal"),
            (r#"{"a":1e}"#, "invalid character '}' in exponent of numeric literal"),
            (r#"{"a":"\x"}"#, "invalid character 'x' in string escape code"),
            (r#"{"a":"\u00g0"}"#, "invalid character 'g' in \\u hexadecimal character escape"),
            ("{\"a\":\"\n\"}", r"invalid character '\n' in string literal"),
            ("{} x", "invalid character 'x' after top-level value"),
            ("\u{e4}", "invalid character 'Ã' looking for beginning of value"),
            (r#"{"a":"#, "unexpected EOF"),
        ] {
            assert_eq!(complaint(json.as_bytes()).as_deref(), Some(told), "{json}");
        }
        for good in [r#"{"a":[1,-0.5e+3,{"b":null}],"c":"\u00e4\"","d":{},"e":[]}"#, " 5 ", "true"] {
            assert_eq!(complaint(good.as_bytes()), None, "{good}");
        }
    }
}
