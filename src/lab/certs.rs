//! Certificates of a lab whose members speak TLS to each other: an authority of its own, one good certificate for each member, and bad ones.
//!
//! ```text
//! n1/pki/ca.pem                          whom n1 trusts: the same for all
//!        peer.pem  peer-key.pem          what n1 shows, when it is dialled and when it dials
//!        expired-cert.pem  …-key.pem     the same with one thing wrong with each; see Misfit
//! ```
//!
//! Clients speak plain HTTP: that the lab's own look at a member does not break with the certificate that is looked at.

use crate::disk;
use crate::lab::Error;
use crate::lab::workdir::MemberRecord;
use crate::tls::pki::Authority;
use crate::tls::pki::Issued;
use crate::tls::pki::Request;
use crate::tls::pki::Usage;
use std::ffi::OsString;
use std::fs;
use std::path::PathBuf;

/// The good certificate.
const PEER: &str = "peer";
/// An address that is no lab's (RFC 5737).
const ELSEWHERE: &str = "192.0.2.7";

/// A member's certificates.
fn folder(m: &MemberRecord) -> PathBuf {
    m.data_dir.with_file_name("pki")
}

/// The certificate of this name, and its key.
fn pair(m: &MemberRecord, name: &str) -> (PathBuf, PathBuf) {
    (folder(m).join(format!("{name}.pem")), folder(m).join(format!("{name}-key.pem")))
}

/// The certificate that a misfit's word names, and its key.
#[must_use]
pub fn spoilt(m: &MemberRecord, word: &str) -> (PathBuf, PathBuf) {
    pair(m, word)
}

/// What a member shows to others.
#[must_use]
pub fn flags((cert, key): &(PathBuf, PathBuf)) -> Vec<OsString> {
    vec!["--peer-cert-file".into(), cert.into(), "--peer-key-file".into(), key.into()]
}

/// Its own certificate, and the key of another.
#[must_use]
pub fn mixed(m: &MemberRecord) -> Vec<OsString> {
    let ((cert, _), (_, key)) = (pair(m, PEER), pair(m, "wrong-ca-cert"));
    flags(&(cert, key))
}

/// All that a member needs to speak TLS to the others, and to ask them who they are.
#[must_use]
pub fn all_flags(m: &MemberRecord) -> Vec<OsString> {
    let ca = ["--peer-trusted-ca-file".into(), folder(m).join("ca.pem").into(), "--peer-client-cert-auth".into()];
    flags(&pair(m, PEER)).into_iter().chain(ca).collect()
}

/// The folder for a member's certificates.
///
/// # Errors
/// If it cannot be made.
pub fn make_folder(m: &MemberRecord) -> Result<(), Error> {
    let folder = folder(m);
    fs::create_dir_all(&folder).map_err(Error::file("cannot make the folder", &folder))
}

/// Makes an authority, which is forgotten afterwards, and every member's certificates.
///
/// # Errors
/// If they cannot be made or written.
pub fn make(members: &[MemberRecord]) -> Result<(), Error> {
    let failed = |e: crate::tls::Error| Error::Refused(format!("cannot make the lab's certificates: {e}"));
    let ours = Authority::new("etcd-lab").map_err(failed)?;
    let nobodys = Authority::new("an authority that nobody trusts").map_err(failed)?;
    for m in members {
        let good = Request::new(Usage::Peer, &m.name, &["127.0.0.1", "localhost"]);
        let certs = [
            (PEER, ours.issue(&good)),
            ("expired-cert", ours.issue(&Request { from_days: -30, until_days: -1, ..good.clone() })),
            ("wrong-name-cert", ours.issue(&Request::new(Usage::Peer, &m.name, &[ELSEWHERE]))),
            ("wrong-ca-cert", nobodys.issue(&good)),
            ("wrong-use-cert", ours.issue(&Request { usage: Usage::Client, ..good.clone() })),
        ];
        for (name, made) in certs {
            made.and_then(|made: Issued| made.write(&folder(m), name)).map_err(failed)?;
        }
        let ca = folder(m).join("ca.pem");
        fs::write(&ca, &ours.own().cert_pem).map_err(Error::file("cannot write", disk::folder_of(&ca)))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::misfit::Misfit;
    use crate::lab::workdir::Record;

    #[test]
    fn every_bad_certificate_is_there_and_differs_from_the_good_one() {
        let dir = tempfile::tempdir().expect("temp dir");
        let mut record = Record::sample(3);
        for m in &mut record.members {
            m.data_dir = dir.path().join(&m.name).join("data");
            make_folder(m).expect("made");
        }
        make(&record.members).expect("made");
        let read = |path: &PathBuf| fs::read_to_string(path).expect("there");
        for m in &record.members {
            let (cert, key) = pair(m, PEER);
            for misfit in Misfit::all().filter(|m| m.is_of_tls() && m.word() != "wrong-key-cert") {
                let (bad, bad_key) = spoilt(m, misfit.word());
                assert!(read(&bad) != read(&cert) && read(&bad_key) != read(&key), "{misfit:?}");
            }
            assert_eq!(all_flags(m).len(), 7);
        }
        let trusts = |n: usize| read(&folder(&record.members[n]).join("ca.pem"));
        assert_eq!(trusts(0), trusts(2), "one authority");
    }
}
