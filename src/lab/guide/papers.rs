//! What a file is, for checks: there or not, its mode, and what a certificate says of itself.
//!
//! Dates are not compared with the clock here: whether a certificate has expired is for the program that refuses it to say.

use crate::lab::deed::quoted;
use crate::lab::guide::expr::FileProperty;
use crate::lab::guide::shell::Call;
use crate::lab::guide::shell::Shell;
use crate::tls::Certificate;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

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
///
/// # Errors
/// It is on another machine, and could not be looked at there.
pub(crate) async fn look(shell: &Shell, name: &str, property: &FileProperty) -> Result<Option<Found>, String> {
    if let (FileProperty::Exists | FileProperty::Mode, Some((node, path))) = (property, name.split_once(':'))
        && let Some(away) = shell.away(node)
    {
        // Its bytes may be many, and nobody wants them.
        let found = away.stat(node, path).await?;
        return Ok(match property {
            FileProperty::Exists => Some(Found::Bool(found.is_some())),
            _ => found.map(|stat| Found::Text(format!("{:o}", stat.mode))),
        });
    }
    shell.fetch(name).await?;
    if let FileProperty::CertSignedBy(other) | FileProperty::CertMatches(other) = property {
        shell.fetch(other).await?;
    }
    Ok(look_here(shell, name, property).await)
}

async fn look_here(shell: &Shell, name: &str, property: &FileProperty) -> Option<Found> {
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
        FileProperty::CertSignedBy(other) => Certificate::load(&path)
            .zip(Certificate::load(&shell.file(other)))
            .map(|(cert, authority)| Found::Bool(cert.is_signed_by(&authority))),
        FileProperty::CertMatches(other) => Certificate::load(&path)?.is_of_key(&shell.file(other)).map(Found::Bool),
        FileProperty::CertNames | FileProperty::CertUsages | FileProperty::CertAuthority | FileProperty::CertDays => {
            certificate(&path, property)
        }
    }
}

async fn snapshot(shell: &Shell, path: &Path, property: &FileProperty) -> Option<Found> {
    if !path.is_file() {
        return None;
    }
    let command = format!("etcdutl snapshot status {} -w json 2>/dev/null", quoted(&path.to_string_lossy()));
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
    let read = Certificate::load(path)?;
    Some(match property {
        FileProperty::CertNames => Found::Text(read.names.join(",")),
        FileProperty::CertUsages => {
            let known = [("serverAuth", "server"), ("clientAuth", "client")];
            let words: Vec<&str> =
                known.into_iter().filter(|(usage, _)| read.usages.contains(usage)).map(|(_, word)| word).collect();
            Found::Text(words.join(","))
        }
        FileProperty::CertAuthority => Found::Bool(read.is_authority),
        _ => Found::Number((read.until - read.from).whole_days()),
    })
}
