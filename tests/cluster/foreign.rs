//! Programs of the etcd project, for comparisons: found by variables, never downloaded by a test.

use std::ffi::OsString;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;

/// etcd 3.5.1, or `None` after saying that the test is skipped.
pub(crate) fn etcd_351(test: &str) -> Option<PathBuf> {
    found(test, "etcd 3.5.1 (ETCD_351)", std::env::var_os("ETCD_351").map(PathBuf::from))
}

/// The releases of Debian's suites, which a suite may not have any more: how `CI_WITHOUT` calls them, and the variables that name them.
const OF_DEBIAN: [(&str, &str); 2] = [("etcd-3.5.16", "ETCD_3516"), ("etcd-newer", "ETCD_PEER")];

/// The etcds that can be had here, oldest first: 3.5.1, and of Debian's suites 3.5.16 (`ETCD_3516`) and a newer one (`ETCD_PEER`). `None` after saying that
/// the test is skipped; without one of the newer ones it says so and the test goes on, unless every foreign program must be there.
pub(crate) fn etcds(test: &str) -> Option<Vec<PathBuf>> {
    let newer = OF_DEBIAN.map(|(release, _)| of_debian(test, release));
    let found: Vec<PathBuf> = std::iter::once(etcd_351(test)?).chain(newer.into_iter().flatten()).collect();
    let versions: Vec<String> = found.iter().map(|etcd| version(etcd)).collect();
    tell(&format!("{test}: etcd {}", versions.join(", ")));
    Some(found)
}

/// A newer etcd for comparisons, or `None` after saying that the test is skipped.
pub(crate) fn etcd_newer(test: &str) -> Option<PathBuf> {
    of_debian(test, "etcd-newer")
}

/// An etcd of one of Debian's suites, or `None` after saying that there is none. Where every foreign program must be there, only a release that `CI_WITHOUT`
/// names may be missing.
fn of_debian(test: &str, release: &str) -> Option<PathBuf> {
    let (_, variable) = OF_DEBIAN.into_iter().find(|(name, _)| *name == release)?;
    let path = std::env::var_os(variable).map(PathBuf::from).filter(|path| path.is_file());
    if path.is_some() {
        return path;
    }
    match may_be_missing(release, &std::env::var("CI_WITHOUT").unwrap_or_default()) {
        true => tell(&format!("WITHOUT {release}, as CI_WITHOUT says: {test} proves nothing of it")),
        false => {
            skipped(test, &format!("{variable} names no etcd; where there is none to be had, set CI_WITHOUT={release}"))
        }
    }
    None
}

/// Whether `CI_WITHOUT` names it, alone or between commas.
fn may_be_missing(release: &str, without: &str) -> bool {
    without.split(',').any(|name| name.trim() == release)
}

#[test]
fn only_a_release_that_is_named_may_be_missing() {
    for (release, _) in OF_DEBIAN {
        assert!(may_be_missing(release, release) && may_be_missing(release, &format!("other, {release}")));
        for without in ["", "1", "etcd", "all", "etcd-3.5.1"] {
            assert!(!may_be_missing(release, without), "{release}, {without:?}");
        }
    }
}

/// What an etcd says that it is, such as `3.5.16`.
pub(crate) fn version(etcd: &Path) -> String {
    let out = Command::new(etcd).arg("--version").output().expect("it runs");
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    text.lines().find_map(|line| line.strip_prefix("etcd Version: ")).expect("a version").to_owned()
}

/// A program of the 3.5.1 release that lies beside its etcd: etcdctl or etcdutl. `None` after saying that the test is skipped.
pub(crate) fn beside_351(test: &str, name: &str) -> Option<PathBuf> {
    let etcd = etcd_351(test)?;
    found(test, &format!("{name} 3.5.1, beside ETCD_351"), Some(etcd.with_file_name(name)))
}

/// etcdctl 3.4, or `None` after saying that the test is skipped.
pub(crate) fn etcdctl_34(test: &str) -> Option<PathBuf> {
    let named = std::env::var_os("ETCDCTL_34").map(PathBuf::from);
    let path = named.or_else(|| on_path("etcdctl").filter(|path| is_34(path)));
    found(test, "etcdctl 3.4 (ETCDCTL_34, or on the PATH)", path)
}

/// Says that a test cannot run here. Fails it where every foreign program must be there.
pub(crate) fn skipped(test: &str, why: &str) {
    let required = std::env::var("CI_REQUIRE_FOREIGN").is_ok_and(|value| value == "1");
    assert!(!required, "{test} cannot be skipped here (CI_REQUIRE_FOREIGN=1): {why}");
    not_possible(test, why);
}

/// Says that this machine cannot run a test, for a reason other than a foreign program.
pub(crate) fn not_possible(test: &str, why: &str) {
    tell(&format!("skipped: {test}: {why}"));
}

/// Says something to the process's own stderr: what libtest captures is shown for failures only.
pub(crate) fn tell(line: &str) {
    drop(std::io::Write::write_all(&mut std::io::stderr(), format!("{line}\n").as_bytes()));
}

fn found(test: &str, what: &str, path: Option<PathBuf>) -> Option<PathBuf> {
    let path = path.filter(|path| path.is_file());
    if path.is_none() {
        skipped(test, &format!("{what} is not here"));
    }
    path
}

fn on_path(name: &str) -> Option<PathBuf> {
    let dirs: OsString = std::env::var_os("PATH")?;
    std::env::split_paths(&dirs).map(|dir| dir.join(name)).find(|path| path.is_file())
}

/// Whether it says of itself that it is of release 3.4.
fn is_34(etcdctl: &Path) -> bool {
    let version = Command::new(etcdctl).env("ETCDCTL_API", "3").arg("version").output();
    version.is_ok_and(|output| String::from_utf8_lossy(&output.stdout).starts_with("etcdctl version: 3.4."))
}
