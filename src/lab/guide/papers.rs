//! What a file is, for checks: there or not, its mode, and what a certificate says of itself.
//!
//! Dates are not compared with the clock here: whether a certificate has expired is for the program that refuses it to say.

use crate::lab::guide::expr::FileProperty;
use crate::lab::guide::shell::Call;
use crate::lab::guide::shell::Shell;
use crate::tls::AltName;
use crate::tls::alt_names;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::UnixTime;
use rustls::pki_types::pem::PemObject as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer as _;

/// How much of a file a check reads.
const READ_MAX: usize = 1 << 20;

/// How long `etcdutl` may take over a snapshot.
const STATUS_WITHIN: Duration = Duration::from_secs(20);

/// What a file property was found to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    Bool(bool),
    Number(i64),
    Text(String),
}

/// Looks at a file of the lab. Nothing: there is no such file, or it is not what was asked for.
pub(crate) async fn look(shell: &Shell, name: &str, property: &FileProperty) -> Option<Found> {
    let path = shell.file(name);
    match property {
        FileProperty::Exists => Some(Found::Bool(path.exists())),
        FileProperty::Text => {
            let bytes = std::fs::read(&path).ok()?;
            Some(Found::Text(String::from_utf8_lossy(&bytes[..bytes.len().min(READ_MAX)]).into_owned()))
        }
        FileProperty::Mode => {
            let mode = std::fs::metadata(&path).ok()?.permissions().mode();
            Some(Found::Text(format!("{:o}", mode & 0o7777)))
        }
        FileProperty::SnapshotOk | FileProperty::SnapshotRevision | FileProperty::SnapshotKeys => {
            snapshot(shell, &path, property).await
        }
        FileProperty::CertSignedBy(other) => signed(&path, &shell.file(other)).map(Found::Bool),
        FileProperty::CertMatches(other) => matches(&path, &shell.file(other)).map(Found::Bool),
        FileProperty::CertNames | FileProperty::CertUsages | FileProperty::CertAuthority | FileProperty::CertDays => {
            certificate(&path, property)
        }
    }
}

async fn snapshot(shell: &Shell, path: &Path, property: &FileProperty) -> Option<Found> {
    if !path.is_file() {
        return None;
    }
    let command = format!("etcdutl snapshot status '{}' -w json 2>/dev/null", path.display());
    let call = Call { aside: true, ..Call::new(&command, STATUS_WITHIN) };
    let output = shell.run(call).await.ok()?;
    let told: serde_json::Value = serde_json::from_str(output.text.trim()).unwrap_or_default();
    match property {
        FileProperty::SnapshotOk => Some(Found::Bool(output.exit == 0 && told["revision"].is_i64())),
        FileProperty::SnapshotRevision => told["revision"].as_i64().map(Found::Number),
        _ => told["totalKey"].as_i64().map(Found::Number),
    }
}

fn certificate(path: &Path, property: &FileProperty) -> Option<Found> {
    let der = CertificateDer::from_pem_file(path).ok()?;
    let (_, read) = X509Certificate::from_der(&der).ok()?;
    Some(match property {
        FileProperty::CertNames => {
            let names: Vec<String> = alt_names(&read).iter().map(AltName::to_string).collect();
            Found::Text(names.join(","))
        }
        FileProperty::CertUsages => {
            let usage = read.extended_key_usage().ok().flatten();
            let has = usage.map_or([false; 2], |u| [u.value.server_auth, u.value.client_auth]);
            let words: Vec<&str> =
                ["server", "client"].into_iter().zip(has).filter(|(_, h)| *h).map(|(w, _)| w).collect();
            Found::Text(words.join(","))
        }
        FileProperty::CertAuthority => Found::Bool(read.is_ca()),
        _ => {
            let validity = read.validity();
            Found::Number((validity.not_after.timestamp() - validity.not_before.timestamp()) / 86_400)
        }
    })
}

/// Whether the authority's key has signed this certificate, at a time when it was good.
fn signed(path: &Path, authority: &Path) -> Option<bool> {
    let (der, root) = (CertificateDer::from_pem_file(path).ok()?, CertificateDer::from_pem_file(authority).ok()?);
    let (_, read) = X509Certificate::from_der(&der).ok()?;
    let since = u64::try_from(read.validity().not_before.timestamp()).ok()?;
    let root_since = X509Certificate::from_der(&root).ok()?.1.validity().not_before.timestamp();
    let at = UnixTime::since_unix_epoch(Duration::from_secs(since.max(u64::try_from(root_since).ok()?)));
    let Ok(anchor) = webpki::anchor_from_trusted_cert(&root) else { return Some(false) };
    let Ok(leaf) = webpki::EndEntityCert::try_from(&der) else { return Some(false) };
    let usages = [webpki::KeyUsage::server_auth(), webpki::KeyUsage::client_auth()];
    Some(usages.into_iter().any(|usage| {
        let anchors = std::slice::from_ref(&anchor);
        leaf.verify_for_usage(webpki::ALL_VERIFICATION_ALGS, anchors, &[], at, usage, None, None).is_ok()
    }))
}

/// Whether certificate and key have the same public half.
fn matches(path: &Path, key: &Path) -> Option<bool> {
    let der = CertificateDer::from_pem_file(path).ok()?;
    let (_, read) = X509Certificate::from_der(&der).ok()?;
    let key = PrivateKeyDer::from_pem_file(key).ok()?;
    let key = rustls::crypto::ring::sign::any_supported_type(&key).ok()?;
    Some(key.public_key().is_some_and(|public| public.as_ref() == read.public_key().raw))
}
