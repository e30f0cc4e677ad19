//! What a member shows to others: the chain from the authority that it trusts to its own certificate, and what is wrong with it.
//!
//! It is read from the files that its command line names, once at each start: a member reads them then, too.

use crate::lab::workdir::MemberRecord;
use crate::tls::Certificate;
use serde::Deserialize;
use serde::Serialize;
use std::ffi::OsString;
use std::path::PathBuf;
use time::OffsetDateTime;
use time::macros::format_description;

/// A member's certificate for its peers, and whoever has signed it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Papers {
    /// Whom the member trusts.
    pub authority: String,
    /// The certificate's subject.
    pub subject: String,
    /// Who says to have signed it.
    pub issuer: String,
    /// Hosts and addresses that it is for.
    pub names: Vec<String>,
    /// What it is for: serverAuth, clientAuth; empty: anything.
    pub usages: Vec<String>,
    /// Days, as 2026-11-22.
    pub from: String,
    pub until: String,
    /// What is wrong, in words: whoever is shown it will not take it.
    pub faults: Vec<String>,
}

/// Reads the papers of a member that is started with these flags. Nothing: it speaks plain HTTP to its peers.
#[must_use]
pub fn papers(m: &MemberRecord, flags: &[OsString], now: OffsetDateTime) -> Option<Papers> {
    let cert = last(flags, "--peer-cert-file")?;
    let Some(own) = Certificate::load(&cert) else {
        let faults = vec![format!("there is no certificate in {}", cert.display())];
        return Some(Papers { faults, ..Papers::default() });
    };
    let authority = last(flags, "--peer-trusted-ca-file").and_then(|path| Certificate::load(&path));
    let key = last(flags, "--peer-key-file");
    let mut faults = Vec::new();
    if !authority.as_ref().is_some_and(|authority| own.is_signed_by(authority)) {
        faults.push("the authority that the members trust has not signed it".to_owned());
    }
    match now {
        now if now > own.until => faults.push(format!("it has expired on {}", day(own.until))),
        now if now < own.from => faults.push(format!("it is not valid before {}", day(own.from))),
        _ => {}
    }
    let host = m.peer_url.split("://").last().and_then(|rest| rest.rsplit_once(':')).map_or("", |(host, _)| host);
    if !own.names.iter().any(|name| name == host.trim_matches(['[', ']'])) {
        faults.push(format!("it is not for {host}, where this member is dialled"));
    }
    for (usage, what) in [("serverAuth", "answer its peers"), ("clientAuth", "dial its peers")] {
        if !own.is_for(usage) {
            faults.push(format!("it is not for {usage}: the member cannot {what} with it"));
        }
    }
    if key.and_then(|key| own.is_of_key(&key)) != Some(true) {
        faults.push("its key is another's".to_owned());
    }
    Some(Papers {
        authority: authority.map_or("nobody".into(), |authority| authority.subject),
        subject: own.subject,
        issuer: own.issuer,
        names: own.names,
        usages: own.usages.into_iter().map(str::to_owned).collect(),
        from: day(own.from),
        until: day(own.until),
        faults,
    })
}

/// What stands after the last of these flags: it wins.
fn last(flags: &[OsString], flag: &str) -> Option<PathBuf> {
    let at = flags.iter().rposition(|word| word == flag)?;
    flags.get(at + 1).map(PathBuf::from)
}

fn day(time: OffsetDateTime) -> String {
    time.format(format_description!("[year]-[month]-[day]")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::certs;
    use crate::lab::misfit::Misfit;
    use crate::lab::workdir::Record;

    #[test]
    fn every_bad_certificate_has_its_fault_named_and_a_good_one_has_none() {
        let dir = tempfile::tempdir().expect("temp dir");
        let mut record = Record::sample(3);
        for m in &mut record.members {
            m.data_dir = dir.path().join(&m.name).join("data");
            certs::make_folder(m).expect("made");
        }
        certs::make(&record.members).expect("made");
        let m = &record.members[0];
        let now = OffsetDateTime::now_utc();
        let good = papers(m, &certs::all_flags(m), now).expect("it speaks TLS");
        assert_eq!((good.faults, &*good.authority, &*good.subject), (vec![], &*good.issuer, "CN=n1"));
        assert_eq!(good.names, ["127.0.0.1", "localhost"]);
        assert!(papers(m, &[], now).is_none(), "plain HTTP");
        let expected = [
            ("expired-cert", "it has expired"),
            ("wrong-name-cert", "it is not for 127.0.0.1"),
            ("wrong-ca-cert", "has not signed it"),
            ("wrong-use-cert", "it is not for serverAuth"),
            ("wrong-key-cert", "its key is another's"),
        ];
        for (word, fault) in expected {
            let misfit = Misfit::all().find(|misfit| misfit.word() == word).expect("it is in the table");
            let flags: Vec<_> = certs::all_flags(m).into_iter().chain(misfit.flags(m)).collect();
            let found = papers(m, &flags, now).expect("it speaks TLS").faults;
            assert!(found.len() == 1 && found[0].contains(fault), "{word}: {found:?}");
        }
        let later = now + time::Duration::days(40_000);
        assert!(papers(m, &certs::all_flags(m), later).expect("it speaks TLS").faults[0].contains("expired"));
    }
}
