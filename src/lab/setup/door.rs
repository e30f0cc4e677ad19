//! The lab's door of an etcd that systemd runs on this machine: a socket that only the machine itself reaches, and the secret for it.
//!
//! It stands in a drop-in beside `etcd.service`, so that a unit file may be whatever a document prints, and whoever writes one need not know.
//! The secret is made of the class's key: all machines have the same, and whoever has the key has the machines anyway.

use sha2::Digest as _;
use sha2::Sha256;
use std::fs;
use std::io;
use std::path::Path;

/// Where the door is; the folder is systemd's to make and to remove.
pub(crate) const DOOR: &str = "/run/etcd-lab/etcd.sock";
/// Where the secret is, for root alone. A service that runs as somebody else is lent it.
pub(crate) const TOKEN: &str = "/etc/etcd-lab/lab-token";

const DROP_IN: &str = "etc/systemd/system/etcd.service.d/etcd-lab.conf";

/// Writes both. Says which of them was news.
pub(super) fn make(key: &Path, root: &Path) -> io::Result<Vec<String>> {
    let secret = Sha256::digest([b"etcd-lab's door ".as_slice(), &fs::read(key).map_err(super::at(key))?].concat());
    let secret: String = secret.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    let mut done = Vec::new();
    done.extend(super::written(&root.join(TOKEN.trim_start_matches('/')), secret.as_bytes(), 0o600)?);
    done.extend(super::written(&root.join(DROP_IN), drop_in().as_bytes(), 0o644)?);
    Ok(done)
}

fn drop_in() -> String {
    format!(
        "# Written by `etcd-lab node setup`: the lab on the first machine sees etcd through this socket, and it alone.\n\
         [Service]\n\
         RuntimeDirectory=etcd-lab\n\
         LoadCredential=lab-token:{TOKEN}\n\
         Environment=ETCD_EXPERIMENTAL_LAB_LISTEN=unix:{DOOR}\n\
         Environment=ETCD_EXPERIMENTAL_LAB_TOKEN=%d/lab-token\n\
         Environment=ETCD_EXPERIMENTAL_LAB_WAL_SEGMENT_BYTES=4194304\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn machines_with_the_same_key_have_the_same_secret_and_no_others() {
        let root = tempfile::tempdir().expect("a directory");
        let secret = |key: &str| {
            let file = root.path().join("key");
            fs::write(&file, key).expect("written");
            let news = make(&file, root.path()).expect("made").len();
            (news, fs::read_to_string(root.path().join(TOKEN.trim_start_matches('/'))).expect("there"))
        };
        let (first, again, other) = (secret("one"), secret("one"), secret("two"));
        assert_eq!((first.0, again.0, other.0), (2, 0, 1));
        assert_eq!(first.1, again.1);
        assert_ne!(first.1, other.1);
        assert!(!first.1.contains("one") && first.1.len() == 32);
    }
}
