//! The certificate of this machine's release mirror, and the authority behind it that this machine alone trusts.
//!
//! The documents download from `https://github.com`. A machine of the course has no network, so that name leads to its own mirror, which
//! needs a certificate of that name. The authority's key is forgotten once it has signed: nobody can sign anything else with it.

use crate::tls::pki::Authority;
use crate::tls::pki::Request;
use crate::tls::pki::Usage;
use std::fs;
use std::io;
use std::path::Path;
use std::path::PathBuf;

const NAMES: [&str; 2] = ["github.com", "releases.lab"];

/// Where Debian's `update-ca-certificates` looks for authorities of this machine.
const TRUSTED: &str = "usr/local/share/ca-certificates/etcd-lab-mirror.crt";

/// The mirror's certificate and key.
pub(super) fn files(root: &Path) -> (PathBuf, PathBuf) {
    let notes = root.join(super::NOTES);
    (notes.join("mirror.pem"), notes.join("mirror-key.pem"))
}

/// Makes them, if they are not there. Says so if it did.
pub(super) fn papers(root: &Path) -> io::Result<Vec<String>> {
    let (cert, key) = files(root);
    let trusted = root.join(TRUSTED);
    if [&cert, &key, &trusted].iter().all(|path| path.is_file()) {
        return Ok(Vec::new());
    }
    let failed = |e: crate::tls::Error| io::Error::other(e.to_string());
    let authority = Authority::new("etcd-lab's release mirror on this machine").map_err(failed)?;
    let issued = authority.issue(&Request::new(Usage::Server, NAMES[0], &NAMES)).map_err(failed)?;
    let notes = root.join(super::NOTES);
    fs::create_dir_all(&notes).map_err(super::at(&notes))?;
    issued.write(&notes, "mirror").map_err(failed)?;
    Ok(super::written(&trusted, authority.own().cert_pem.as_bytes(), 0o644)?.into_iter().collect())
}
