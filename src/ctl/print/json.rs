//! JSON as Go's `encoding/json` writes etcd's structs: one line, fields in the messages' order, empty ones left out,
//! bytes in base64, 64-bit numbers as numbers, and `<`, `>`, `&` escaped.

use crate::golang;
use crate::proto::etcdserverpb::ResponseHeader;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use std::fmt::Write as _;

/// An object under construction. A method leaves its field out when the value is empty, unless it says otherwise.
#[derive(Debug, Default)]
pub(crate) struct Object(String);

impl Object {
    /// Any JSON, empty or not.
    pub(crate) fn always(&mut self, name: &str, json: impl AsRef<str>) -> &mut Object {
        self.0.push(if self.0.is_empty() { '{' } else { ',' });
        write!(self.0, "\"{name}\":{}", json.as_ref()).expect("a String takes all writes");
        self
    }

    pub(crate) fn number(&mut self, name: &str, value: impl Into<i128>) -> &mut Object {
        let value = value.into();
        if value == 0 { self } else { self.always(name, value.to_string()) }
    }

    pub(crate) fn flag(&mut self, name: &str, value: bool) -> &mut Object {
        if value { self.always(name, "true") } else { self }
    }

    pub(crate) fn text(&mut self, name: &str, value: &str) -> &mut Object {
        if value.is_empty() { self } else { self.always(name, golang::json(value)) }
    }

    pub(crate) fn bytes(&mut self, name: &str, value: &[u8]) -> &mut Object {
        if value.is_empty() { self } else { self.always(name, base64(value)) }
    }

    pub(crate) fn list(&mut self, name: &str, items: impl IntoIterator<Item = String>) -> &mut Object {
        let items = array(items);
        if items == "[]" { self } else { self.always(name, items) }
    }

    pub(crate) fn maybe(&mut self, name: &str, json: Option<String>) -> &mut Object {
        match json {
            Some(json) => self.always(name, json),
            None => self,
        }
    }

    /// The header under its own name.
    pub(crate) fn header(&mut self, header: Option<&ResponseHeader>) -> &mut Object {
        self.maybe("header", header.map(|header| super::header_json(Some(header))))
    }

    /// The finished object.
    pub(crate) fn end(&mut self) -> String {
        if self.0.is_empty() {
            self.0.push('{');
        }
        self.0.push('}');
        std::mem::take(&mut self.0)
    }
}

/// A JSON array of JSON values.
pub(crate) fn array(items: impl IntoIterator<Item = String>) -> String {
    format!("[{}]", items.into_iter().collect::<Vec<_>>().join(","))
}

/// Bytes as a JSON string.
pub(crate) fn base64(bytes: &[u8]) -> String {
    format!("\"{}\"", BASE64_STANDARD.encode(bytes))
}
