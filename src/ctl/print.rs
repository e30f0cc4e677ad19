//! One answer, five formats.
//!
//! An [`Answer`] knows how it looks in each; a format that it does not have is refused *after* the call, as in etcd:
//! `put k v -w table` writes and then fails. Source: etcd `etcdctl/ctlv3/command/printer*.go` of 3.6.

pub(super) mod auth;
pub(super) mod cluster;
pub(super) mod json;
pub(super) mod kv;
pub(super) mod lease;

pub(super) use crate::cmdline::table;
use crate::golang;
use crate::proto::etcdserverpb::ResponseHeader;
use json::Object;
use std::fmt::Display;
use table::Table;

/// `--write-out`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    Simple,
    Json,
    Table,
    Fields,
    Protobuf,
}

impl Format {
    /// Reads the flag's value.
    pub(super) fn parse(text: &str) -> Option<Format> {
        match text {
            "simple" => Some(Format::Simple),
            "json" => Some(Format::Json),
            "table" => Some(Format::Table),
            "fields" => Some(Format::Fields),
            "protobuf" => Some(Format::Protobuf),
            _ => None,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Format::Simple => "simple",
            Format::Json => "json",
            Format::Table => "table",
            Format::Fields => "fields",
            Format::Protobuf => "protobuf",
        }
    }
}

/// What a command prints.
pub(super) trait Answer {
    /// Lines for people.
    fn simple(&self, page: &mut Page);

    /// One line of JSON.
    fn json(&self, hex: bool) -> String;

    /// `"Name" : value` lines. `false`: there are none for this answer.
    fn fields(&self, _page: &mut Page) -> bool {
        false
    }

    /// Rows and columns, if this answer has them.
    fn table(&self) -> Option<Table> {
        None
    }

    /// The message as bytes, if this answer is one message.
    fn protobuf(&self) -> Option<Vec<u8>> {
        None
    }
}

/// Output on its way: filled by an answer, written by the command.
#[derive(Debug, Default)]
pub(super) struct Page {
    /// `--hex`: bytes as `\x66`, ids in base 16.
    pub(super) hex: bool,
    /// `--print-value-only`.
    pub(super) value_only: bool,
    pub(super) out: Vec<u8>,
    pub(super) err: Vec<u8>,
}

impl Page {
    /// Puts `answer` on the page. An error is the sentence for a format that it does not have.
    pub(super) fn show(&mut self, format: Format, answer: &dyn Answer) -> Result<(), String> {
        let known = match format {
            Format::Simple => {
                answer.simple(self);
                true
            }
            Format::Json => {
                let text = answer.json(self.hex);
                self.line(text);
                true
            }
            Format::Fields => answer.fields(self),
            Format::Table => answer.table().map(|table| self.out.extend(table.render().bytes())).is_some(),
            Format::Protobuf => answer.protobuf().map(|bytes| self.out.extend(bytes)).is_some(),
        };
        if known { Ok(()) } else { Err(format!("{} not supported as output format", format.name())) }
    }

    /// A line of text.
    fn line(&mut self, text: impl Display) {
        self.out.extend(format!("{text}\n").bytes());
    }

    /// A line of any bytes, or their hexadecimal form.
    fn bytes(&mut self, bytes: &[u8]) {
        if self.hex {
            for byte in bytes {
                self.out.extend(format!("\\x{byte:02x}").bytes());
            }
        } else {
            self.out.extend(bytes);
        }
        self.out.push(b'\n');
    }

    /// `"Name" : value`.
    fn field(&mut self, name: &str, value: impl Display) {
        self.line(format_args!("\"{name}\" : {value}"));
    }

    /// `"Name" : "value"`.
    fn quoted(&mut self, name: &str, value: &[u8]) {
        self.field(name, golang::quote(value));
    }

    /// A member's or cluster's id.
    fn id(&mut self, name: &str, id: u64) {
        if self.hex {
            self.field(name, format_args!("{id:x}"));
        } else {
            self.field(name, id);
        }
    }

    fn header(&mut self, header: Option<&ResponseHeader>) {
        let header = header.copied().unwrap_or_default();
        self.id("ClusterID", header.cluster_id);
        self.id("MemberID", header.member_id);
        if header.revision > 0 {
            self.field("Revision", header.revision);
        }
        self.field("RaftTerm", header.raft_term);
    }
}

/// A lease's id in 16 hexadecimal places, as Go's `%016x` writes it: a sign takes one.
pub(super) fn lease_id(id: i64) -> String {
    if id < 0 { format!("-{:015x}", id.unsigned_abs()) } else { format!("{id:016x}") }
}

/// The header's fields, for answers that carry them beside their own.
fn header_into(object: &mut Object, header: Option<&ResponseHeader>) {
    let header = header.copied().unwrap_or_default();
    object.number("cluster_id", header.cluster_id);
    object.number("member_id", header.member_id);
    object.number("revision", header.revision);
    object.number("raft_term", header.raft_term);
}

fn header_json(header: Option<&ResponseHeader>) -> String {
    let mut object = Object::default();
    header_into(&mut object, header);
    object.end()
}
