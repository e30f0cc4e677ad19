//! The version that all members can speak, and a downgrade under way.
//!
//! Both are replicated. What the leader makes of them ([`decide`]) is a function of what is agreed on and of what the members say of
//! themselves; only its outcome goes into the log.
//!
//! Source: etcd `server/etcdserver/version/monitor.go`, `downgrade.go`, `version.go`; contract-server 5.4 and 6.9.

use crate::engine::Batch;
use crate::engine::Engine;
use crate::engine::Table;
use crate::error::Error;
use crate::proto::membershippb;
use crate::types::ETCD_VERSION;
use serde::Deserialize;
use serde::Serialize;
use std::fmt;

/// Rows of [`Table::Cluster`].
const CLUSTER_VERSION: &[u8] = b"clusterVersion";
const DOWNGRADE: &[u8] = b"downgrade";

/// A version as far as clusters go: the patch does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    pub major: u32,
    pub minor: u32,
}

impl Version {
    /// What a leader starts with that cannot ask every member. Source: etcd `version.MinClusterVersion`.
    pub const OLDEST: Version = Version { major: 3, minor: 0 };

    /// This program's.
    ///
    /// # Panics
    /// Never: [`ETCD_VERSION`] is a version.
    #[must_use]
    pub fn own() -> Version {
        Version::parse(ETCD_VERSION).expect("our own version can be read")
    }

    /// Reads `3.5.0`, with or without `-rc.1` and `+build` behind it.
    #[must_use]
    pub fn parse(text: &str) -> Option<Version> {
        let (text, build) = text.split_once('+').unwrap_or((text, ""));
        let (text, pre_release) = text.split_once('-').unwrap_or((text, ""));
        let is_identifier = |text: &str| text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'.');
        let numbers = text.split('.').map(number).collect::<Option<Vec<u32>>>()?;
        match numbers[..] {
            [major, minor, _patch] if is_identifier(build) && is_identifier(pre_release) => {
                Some(Version { major, minor })
            }
            _ => None,
        }
    }

    /// Reads what people write for a target: `3.5` or `3.5.0`.
    ///
    /// # Errors
    /// [`Error::WrongDowngradeVersionFormat`].
    pub fn parse_target(text: &str) -> Result<Version, Error> {
        let parsed = Version::parse(text).or_else(|| Version::parse(&format!("{text}.0")));
        parsed.ok_or(Error::WrongDowngradeVersionFormat)
    }

    /// The only version that one can go back to.
    fn before(self) -> Option<Version> {
        self.minor.checked_sub(1).map(|minor| Version { minor, ..self })
    }

    /// `3.6`, as answers name a cluster's version.
    #[must_use]
    pub fn short(self) -> String {
        format!("{}.{}", self.major, self.minor)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.0", self.major, self.minor)
    }
}

fn number(text: &str) -> Option<u32> {
    text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok())?
}

/// Whether the cluster is on its way to an older release.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Downgrade {
    /// `3.5.0`; empty if there is none.
    #[serde(rename = "target-version", default)]
    pub target: String,
    #[serde(default)]
    pub enabled: bool,
}

impl Downgrade {
    fn target(&self) -> Option<Version> {
        Version::parse(&self.target).filter(|_| self.enabled)
    }
}

/// What the members have agreed on.
#[derive(Clone, Debug, Default)]
pub(super) struct Versions {
    /// As the log has it; nothing until the first leader has set it.
    pub(super) cluster: Option<String>,
    pub(super) downgrade: Downgrade,
}

impl Versions {
    pub(super) fn load(engine: &dyn Engine) -> Result<Versions, Error> {
        let damaged = |e: &dyn fmt::Display| Error::Damaged(format!("cluster: {e}"));
        let cluster = engine.get(Table::Cluster, CLUSTER_VERSION)?;
        let cluster = cluster.map(|row| String::from_utf8(row.to_vec()).map_err(|e| damaged(&e))).transpose()?;
        let downgrade = engine.get(Table::Cluster, DOWNGRADE)?;
        let downgrade = downgrade.map(|row| serde_json::from_slice(&row).map_err(|e| damaged(&e))).transpose()?;
        Ok(Versions { cluster, downgrade: downgrade.unwrap_or_default() })
    }

    /// Writes every row.
    pub(super) fn save(&self, batch: &mut Batch) {
        if let Some(version) = &self.cluster {
            batch.put(Table::Cluster, CLUSTER_VERSION, version.clone());
        }
        if self.downgrade.enabled {
            batch.put(Table::Cluster, DOWNGRADE, self.downgrade_row());
        }
    }

    fn downgrade_row(&self) -> Vec<u8> {
        serde_json::to_vec(&self.downgrade).expect("text and a yes or no")
    }

    /// Sets the cluster's version; what it was before comes back if that was a later one. A member that does not know the new one must not go on: it could
    /// not read what the others write.
    pub(super) fn set_cluster(&mut self, version: String, batch: &mut Batch) -> Result<Option<String>, Error> {
        if Version::parse(&version).is_some_and(|cluster| cluster > Version::own()) {
            return Err(Error::Start(format!(
                "invalid downgrade; server version is lower than determined cluster version: {ETCD_VERSION} is older than {version}"
            )));
        }
        batch.put(Table::Cluster, CLUSTER_VERSION, version.clone().into_bytes());
        let before = self.cluster.replace(version);
        let is_fallen = before.as_deref().and_then(Version::parse) > self.cluster.as_deref().and_then(Version::parse);
        Ok(before.filter(|_| is_fallen))
    }

    pub(super) fn set_downgrade(&mut self, request: membershippb::DowngradeInfoSetRequest, batch: &mut Batch) {
        self.downgrade = match request.enabled {
            true => Downgrade { target: request.ver, enabled: true },
            false => Downgrade::default(),
        };
        batch.put(Table::Cluster, DOWNGRADE, self.downgrade_row());
    }
}

/// Whether a cluster at `cluster` may begin to go back to `target`.
///
/// # Errors
/// [`Error::InvalidDowngradeTargetVersion`], [`Error::DowngradeInProcess`].
pub fn check_downgrade(cluster: Version, target: Version, downgrade: &Downgrade) -> Result<(), Error> {
    if cluster.before() != Some(target) {
        return Err(Error::InvalidDowngradeTargetVersion);
    }
    if downgrade.enabled { Err(Error::DowngradeInProcess) } else { Ok(()) }
}

/// The version that the cluster should have next; nothing if it should stay. `oldest` is the oldest version among the members, nothing if
/// some member did not say.
///
/// # Errors
/// [`Error::InvalidDowngradeTargetVersion`] if a downgrade is under way that cannot be.
pub fn decide(
    cluster: Option<Version>,
    oldest: Option<Version>,
    downgrade: &Downgrade,
) -> Result<Option<Version>, Error> {
    let Some(cluster) = cluster else { return Ok(Some(oldest.unwrap_or(Version::OLDEST))) };
    let Some(oldest) = oldest else { return Ok(None) };
    if downgrade.enabled {
        let target = downgrade.target().ok_or(Error::InvalidDowngradeTargetVersion)?;
        if target == cluster {
            return Ok(None);
        }
        if cluster.before() != Some(target) || oldest.before() != Some(target) {
            return Err(Error::InvalidDowngradeTargetVersion);
        }
        return Ok(Some(target));
    }
    Ok((cluster.major == oldest.major && cluster < oldest).then_some(oldest))
}

/// Whether a downgrade is over: every member runs its target.
#[must_use]
pub fn is_downgraded(members: &[Option<Version>], downgrade: &Downgrade) -> bool {
    downgrade.target().is_some_and(|target| members.iter().all(|version| *version == Some(target)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v(minor: u32) -> Version {
        Version { major: 3, minor }
    }

    fn to(minor: u32) -> Downgrade {
        Downgrade { target: v(minor).to_string(), enabled: true }
    }

    #[test]
    fn versions_are_read_as_go_semver_reads_them() {
        assert_eq!(Version::parse("3.5.0"), Some(v(5)));
        assert_eq!(Version::parse("3.6.0-rc.1+git"), Some(v(6)));
        for bad in ["3.5", "3", "", "3.5.0.1", "3.x.0", "v3.5.0", "3..0", "3.5.0-rc_1", "-3.5.0", "3.99999999999.0"] {
            assert_eq!(Version::parse(bad), None, "{bad}");
        }
        assert_eq!(Version::parse_target("3.5"), Ok(v(5)));
        assert_eq!(Version::parse_target("3.5.9"), Ok(v(5)));
        for bad in ["", "3", "3.5.0.0", "three"] {
            assert_eq!(Version::parse_target(bad), Err(Error::WrongDowngradeVersionFormat), "{bad}");
        }
        assert_eq!((v(6).to_string(), v(6).short()), ("3.6.0".into(), "3.6".into()));
    }

    #[test]
    fn one_can_go_back_by_one_minor_version_and_once() {
        let none = Downgrade::default();
        assert_eq!(check_downgrade(v(6), v(5), &none), Ok(()));
        for target in [4, 6, 7] {
            assert_eq!(check_downgrade(v(6), v(target), &none), Err(Error::InvalidDowngradeTargetVersion));
        }
        assert_eq!(check_downgrade(v(6), v(5), &to(5)), Err(Error::DowngradeInProcess));
        assert_eq!(check_downgrade(v(6), v(4), &to(5)), Err(Error::InvalidDowngradeTargetVersion), "asked first");
        assert_eq!(check_downgrade(v(0), v(0), &none), Err(Error::InvalidDowngradeTargetVersion));
    }

    /// Cluster's version, oldest member's, downgrade, and what follows: the table of etcd's `monitor_test.go` in our words.
    #[test]
    fn the_cluster_follows_its_oldest_member_up_and_its_operator_down() {
        let none = Downgrade::default;
        let table = [
            (None, Some(v(6)), none(), Ok(Some(v(6))), "the first leader asks all"),
            (None, None, none(), Ok(Some(Version::OLDEST)), "or takes the oldest"),
            (Some(v(0)), Some(v(6)), none(), Ok(Some(v(6))), "then up"),
            (Some(v(5)), Some(v(6)), none(), Ok(Some(v(6))), "after an upgrade"),
            (Some(v(5)), None, none(), Ok(None), "not while somebody is silent"),
            (Some(v(6)), Some(v(5)), none(), Ok(None), "never down by itself"),
            (Some(v(6)), Some(v(6)), none(), Ok(None), ""),
            (Some(v(6)), Some(v(6)), to(5), Ok(Some(v(5))), "down when told"),
            (Some(v(5)), Some(v(6)), to(5), Ok(None), "and it stays there"),
            (Some(v(6)), Some(v(7)), to(5), Err(Error::InvalidDowngradeTargetVersion), "a member would be left"),
            (Some(v(6)), Some(v(6)), to(4), Err(Error::InvalidDowngradeTargetVersion), ""),
        ];
        for (cluster, oldest, downgrade, expected, why) in table {
            assert_eq!(decide(cluster, oldest, &downgrade), expected, "{why}: {cluster:?} {oldest:?} {downgrade:?}");
        }
        let other_major = Version { major: 4, minor: 0 };
        assert_eq!(decide(Some(v(6)), Some(other_major), &none()), Ok(None));
    }

    #[test]
    fn a_downgrade_is_over_when_every_member_runs_its_target() {
        assert!(is_downgraded(&[Some(v(5)), Some(v(5))], &to(5)));
        assert!(!is_downgraded(&[Some(v(5)), Some(v(6))], &to(5)));
        assert!(!is_downgraded(&[Some(v(5)), None], &to(5)));
        assert!(!is_downgraded(&[Some(v(5))], &Downgrade::default()));
    }
}
