//! Programs that stand in for others in tests.

use std::path::Path;
use std::process::Command;

/// Writes a script that may be run at once. A child writes it: what this process has open for writing, the children of other tests hold
/// open until they are programs of their own, and a program that somebody may still write to is not run ("Text file busy").
pub(crate) fn make(path: &Path, text: &str) {
    let write = "printf '%s' \"$1\" >\"$0\" && chmod 755 \"$0\"";
    let written = Command::new("/bin/sh").args(["-c", write]).arg(path).arg(text).status().expect("a shell");
    assert!(written.success(), "{} is written", path.display());
}
