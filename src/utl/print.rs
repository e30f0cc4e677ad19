//! What etcdutl prints: one answer, its columns in four formats.

use super::Failed;
use crate::cmdline::table::Table;
use std::io::Write;

/// One row of values under the titles of a table.
pub(super) struct Answer {
    pub(super) titles: &'static [&'static str],
    pub(super) cells: Vec<String>,
    /// Names and values of `fields`.
    pub(super) fields: Vec<(&'static str, String)>,
    /// One line.
    pub(super) json: String,
}

/// Whether there is such a format at all: asked before anything is done.
pub(super) fn check_format(format: &str) -> Result<(), Failed> {
    match format {
        "simple" | "json" | "fields" | "table" | "protobuf" => Ok(()),
        _ => Err(Failed { code: 4, message: "unsupported output format".into() }),
    }
}

pub(super) fn print(answer: Answer, format: &str, out: &mut dyn Write) -> Result<(), Failed> {
    let Answer { titles, cells, fields, json } = answer;
    match format {
        "json" => writeln!(out, "{json}")?,
        "fields" => {
            for (name, value) in fields {
                writeln!(out, "\"{name}\" : {value}")?;
            }
        }
        "table" => write!(out, "{}", Table { titles, rows: vec![cells] }.render())?,
        "protobuf" => return Err(Failed { code: 4, message: "protobuf not supported as output format".into() }),
        _ => writeln!(out, "{}", cells.join(", "))?,
    }
    Ok(())
}
