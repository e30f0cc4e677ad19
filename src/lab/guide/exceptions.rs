//! What cannot run somewhere, and why: `labs/exceptions.toml`. What is not in this list must run everywhere that its head allows.

use crate::lab::guide::LabError;
use serde::Deserialize;
use std::path::Path;

/// The list.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Exceptions {
    /// Its entries.
    #[serde(default)]
    pub exception: Vec<Exception>,
}

/// Labs that cannot run somewhere.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Exception {
    /// The labs, by their short names.
    pub labs: Vec<String>,
    /// Where they cannot.
    #[serde(rename = "where")]
    pub place: Place,
    /// Of another etcd: the version with which they cannot; none: with no other etcd.
    pub etcd: Option<String>,
    /// Why, in a sentence.
    pub reason: String,
}

/// Where a lab cannot run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Place {
    /// On another etcd than ours.
    Etcd,
    /// On a system that gives no network namespaces.
    NoNamespaces,
}

impl Exceptions {
    /// Reads the list beside the labs; there may be none.
    ///
    /// # Errors
    /// It cannot be read, or says what it cannot say.
    pub fn load(labs: &Path) -> Result<Exceptions, LabError> {
        let file = labs.join("exceptions.toml");
        if !file.exists() {
            return Ok(Exceptions::default());
        }
        let text =
            std::fs::read_to_string(&file).map_err(|e| LabError::new(&file, 0, format!("cannot be read: {e}")))?;
        let list: Exceptions = toml::from_str(&text).map_err(|e| {
            let offset = e.span().map_or(0, |s| s.start).min(text.len());
            let line = 1 + text.as_bytes()[..offset].iter().filter(|b| **b == b'\n').count();
            LabError::new(&file, line, e.message().replace('\n', "; "))
        })?;
        match list.exception.iter().find(|e| e.reason.trim().is_empty() || e.labs.is_empty()) {
            Some(_) => Err(LabError::new(&file, 0, "an exception needs labs and a reason")),
            None => Ok(list),
        }
    }

    /// Why this lab cannot run with this version of another etcd, if that is known.
    #[must_use]
    pub fn on_etcd(&self, lab: &str, version: &str) -> Option<&str> {
        let is_meant =
            |e: &&Exception| e.is_of(Place::Etcd, lab) && e.etcd.as_ref().is_none_or(|meant| meant == version);
        self.exception.iter().find(is_meant).map(|e| e.reason.as_str())
    }

    /// Why this lab, or its documents' commands as they are printed, need namespaces, if that is known.
    #[must_use]
    pub fn without_namespaces(&self, lab: &str) -> Option<&str> {
        self.exception.iter().find(|e| e.is_of(Place::NoNamespaces, lab)).map(|e| e.reason.as_str())
    }
}

impl Exception {
    fn is_of(&self, place: Place, lab: &str) -> bool {
        self.place == place && self.labs.iter().any(|l| l == lab)
    }
}
