//! A machine for each node: its own network, its own root, and what a cloud would give it.
//!
//! The documents write to `/etc/etcd`, listen at 127.0.0.1 on three machines at once, and ask the cloud for their address. In the lab's
//! namespace all of that is true: a command at a node runs in that node's network, with the node's folder as its root. This
//! machine's programs are lent to it, with what they need ([`PROGRAMS`] is mounted there); all else is its own, `/usr/local/bin`, too, so
//! that nothing that a learner writes at a node lands on this machine. At [`CLOUD`] a small server answers as a cloud's does: who asks is told its own address. It also has
//! the release archives, under the names that the documents download: our programs, and it says so.
//!
//! Source: ip-netns(8), unshare(1), chroot(1); Google's metadata server, as document 004 asks it.

use crate::lab::deed::quoted;
use crate::lab::guide::places::CLOUD;
use crate::lab::guide::settings::Cluster;
use crate::lab::setup;
use crate::tls::Acceptor;
use crate::tls::ServerFiles;
use axum::Extension;
use axum::Router;
use axum::extract::ConnectInfo;
use axum::extract::Path as UrlPath;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use axum::response::Response;
use axum::routing::get;
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use sha2::Digest as _;
use sha2::Sha256;
use std::collections::BTreeSet;
use std::fs;
use std::net::IpAddr;
use std::net::SocketAddr;
use std::net::TcpListener;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::OnceLock;
use std::time::Duration;

/// Folders of a node besides those that all have.
pub(crate) const FOLDERS: [&str; 8] = ["usr/local/bin", "mnt", "etc/ssl", "opt", "root", "home", "srv", "tmp"];

/// Where programs and what they need lie on this machine; what of this it has not is left out.
const PROGRAMS: &str = "/usr /bin /sbin /lib /lib32 /lib64 /libx32 /dev /proc /sys /nix /gnu";

/// Files of this machine's `/etc` without which its programs do not work.
const LENT: [&str; 8] =
    ["passwd", "group", "ld.so.cache", "localtime", "services", "protocols", "os-release", "lsb-release"];

/// The releases that the documents download.
const RELEASES: [&str; 2] = ["v3.4.10", "v3.3.11"];

/// The list of hashes that lies beside each release.
const SUMS: &str = "SHA256SUMS";

/// What the archives say of themselves.
const README: &str = "These are etcd-lab's own programs, under the file name that the documents download.\n\
    They are not the etcd project's: `etcd --version` says what they are.\n\
    `etcd-lab test --releases DIR` gives the archives of that folder in their place.\n";

/// Which folder's archives are given, if not ours; set once, before the first lab.
static ARCHIVES: OnceLock<PathBuf> = OnceLock::new();

/// What is said where the machines that are this cluster's nodes are not there.
pub(crate) fn missing(cluster: &Cluster) -> String {
    let said = "this lab's nodes are machines with a network and a root of their own, and they are not here: \
        start it with `etcd-lab --lab NAME`, or try it with `etcd-lab test labs/NAME`; both make them if this system allows it.";
    let mut nodes = cluster.nodes.iter().chain(&cluster.spare).map(|n| n.name.as_str());
    match cluster.nodes.len() == 1 || nodes.all(setup::is_of_the_course) {
        true => format!(
            "{said} The VMs of the Vagrantfile are the other way: there, `etcd-lab NAME --machines {}`.",
            cluster.nodes.len()
        ),
        false => said.to_owned(),
    }
}

/// From now on the mirror gives the archives of this folder: those that the etcd project has published, for example.
///
/// # Errors
/// It is no folder.
pub fn mirror_from(folder: &Path) -> Result<(), String> {
    if !folder.is_dir() {
        return Err(format!("--releases {}: there is no such folder", folder.display()));
    }
    // The first one counts; a process has one command line.
    let _ = ARCHIVES.set(folder.to_owned());
    Ok(())
}

/// The two scripts by which a command comes into a machine: into its network, then into its root.
pub(crate) fn scripts(bin_dir: &Path, nodes: &Path) -> [(&'static str, String); 2] {
    let machine = format!(
        "#!/bin/sh\n# machine NODE COMMAND...: the command on this machine of the lab.\nnode=$1; shift\nunset ETCDCTL_ENDPOINTS\nroot={}/$node\n\
         [ -d \"$root\" ] || {{ echo \"machine: there is no node $node\" >&2; exit 2; }}\n\
         exec nsenter --net=/run/netns/$node unshare -m {} \"$root\" \"$@\"\n",
        quoted(&nodes.to_string_lossy()),
        quoted(&bin_dir.join("machine-root").to_string_lossy()),
    );
    // What holds the roots themselves goes first: later it would bring along what has been mounted in them.
    let mut lent = bin_dir.parent().map(|folder| quoted(&folder.to_string_lossy())).unwrap_or_default();
    for folder in homes(bin_dir) {
        lent += &format!(" {}", quoted(&folder.to_string_lossy()));
    }
    let root = "#!/bin/sh\n# machine-root FOLDER COMMAND...: the command with this folder as its root.\nroot=$1; shift\nset -e\n\
        mount --bind \"$root/usr/local/bin\" \"$root/mnt\"\n\
        for from in LENT PROGRAMS; do\n\
        \x20 if [ -L \"$from\" ]; then [ -L \"$root$from\" ] || ln -s \"$(readlink \"$from\")\" \"$root$from\" || :; continue; fi\n\
        \x20 [ -d \"$from\" ] || continue\n\
        \x20 mkdir -p \"$root$from\"; mount --rbind \"$from\" \"$root$from\"\n\
        done\n\
        mount --bind \"$root/mnt\" \"$root/usr/local/bin\"; umount \"$root/mnt\"\n\
        for from in /etc/ssl /etc/alternatives; do\n\
        \x20 [ ! -d \"$from\" ] || { mkdir -p \"$root$from\"; mount --bind \"$from\" \"$root$from\"; }\n\
        done\n\
        exec chroot \"$root\" \"$@\"\n";
    [("machine", machine), ("machine-root", root.replace("LENT", &lent).replace("PROGRAMS", PROGRAMS))]
}

/// The folders in which the programs lie that this folder's links name, without those that are lent anyway.
fn homes(bin_dir: &Path) -> BTreeSet<PathBuf> {
    let links = fs::read_dir(bin_dir).into_iter().flatten().flatten();
    let programs = links.filter_map(|link| fs::canonicalize(link.path()).ok());
    let folders = programs.filter_map(|program| Some(program.parent()?.to_owned()));
    let is_lent =
        |folder: &Path| PROGRAMS.split(' ').any(|lent| folder.starts_with(lent)) || folder.starts_with(bin_dir);
    folders.filter(|folder| !is_lent(folder)).collect()
}

/// Gives a node's root what it needs of this machine, and the names of the others.
///
/// # Errors
/// A file that cannot be written.
pub(crate) fn furnish(root: &Path, nodes: &[(&str, &str)]) -> Result<(), String> {
    for name in LENT {
        let from = Path::new("/etc").join(name);
        if from.is_file() {
            let to = root.join("etc").join(name);
            fs::copy(&from, &to).map_err(|e| format!("{}: {e}", to.display()))?;
        }
    }
    let mut hosts = format!("127.0.0.1 localhost\n{CLOUD} metadata.google.internal releases.lab\n");
    nodes.iter().for_each(|(name, ip)| hosts += &format!("{ip} {name}\n"));
    for (name, text) in [("hosts", hosts.as_str()), ("nsswitch.conf", "passwd: files\ngroup: files\nhosts: files\n")] {
        let path = root.join("etc").join(name);
        fs::write(&path, text).map_err(|e| format!("{}: {e}", path.display()))?;
    }
    Ok(())
}

/// Starts the cloud's server once; it stays as long as this process.
///
/// # Errors
/// The address is not there: this process is not in the lab's namespace.
pub(crate) fn cloud(bin_dir: &Path) -> Result<(), String> {
    static STARTED: OnceLock<Result<(), String>> = OnceLock::new();
    STARTED.get_or_init(|| serve(bin_dir)).clone()
}

fn serve(bin_dir: &Path) -> Result<(), String> {
    let listener = bound(80)?;
    let programs = ["etcd", "etcdctl"].map(|name| (name, bin_dir.join(name).canonicalize().unwrap_or_default()));
    let app = router(Cloud { programs, own: None });
    // A runtime of its own: the labs' goes when they do, and somebody may wait for an answer while they work.
    std::thread::spawn(move || {
        let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else { return };
        runtime.block_on(async {
            let Ok(listener) = tokio::net::TcpListener::from_std(listener) else { return };
            // Ends with the process.
            let _ = axum::serve(listener, app.into_make_service_with_connect_info::<SocketAddr>()).await;
        });
    });
    Ok(())
}

fn bound(port: u16) -> Result<TcpListener, String> {
    let address = SocketAddr::from((CLOUD, port));
    let listener = TcpListener::bind(address).map_err(|e| format!("the metadata server: {address}: {e}"))?;
    listener.set_nonblocking(true).map_err(|e| e.to_string())?;
    Ok(listener)
}

/// What the cloud's answers are made of.
struct Cloud {
    programs: [(&'static str, PathBuf); 2],
    /// On a machine that asks itself, the sender's address says nothing: its own.
    own: Option<IpAddr>,
}

fn router(cloud: Cloud) -> Router {
    Router::new()
        .route("/computeMetadata/v1/instance/network-interfaces/0/ip", get(own_address))
        .route("/etcd-io/etcd/releases/download/{version}/{file}", get(release))
        .with_state(Arc::new(cloud))
}

/// The same server on a machine of a classroom, for that machine alone, until the process ends: it has this address, its programs are this one
/// under their names, and with this certificate and key the mirror is reached by https, too.
///
/// # Errors
/// The address is not there, or the certificate is none.
pub fn stand_in_for_the_cloud(own: IpAddr, program: &Path, (cert, key): (PathBuf, PathBuf)) -> Result<(), String> {
    let programs = ["etcd", "etcdctl"].map(|name| (name, program.to_owned()));
    let app = router(Cloud { programs, own: Some(own) });
    let files = ServerFiles { cert, key, ..ServerFiles::default() };
    let acceptor = Acceptor::tls(&files).map_err(|e| e.to_string())?;
    let (plain, encrypted) = (bound(80)?, bound(443)?);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| e.to_string())?;
    runtime.block_on(async {
        let plain = tokio::net::TcpListener::from_std(plain).map_err(|e| e.to_string())?;
        let encrypted = tokio::net::TcpListener::from_std(encrypted).map_err(|e| e.to_string())?;
        let plain = axum::serve(plain, app.clone().into_make_service_with_connect_info::<SocketAddr>());
        tokio::select! {
            done = plain => done.map_err(|e| e.to_string()),
            () = over_tls(encrypted, acceptor, app) => Ok(()),
        }
    })
}

/// Serves these pages over TLS, for ever.
#[expect(clippy::disallowed_methods, reason = "with no more files there is nothing to wait for but time")]
async fn over_tls(listener: tokio::net::TcpListener, acceptor: Acceptor, app: Router) {
    loop {
        // A caller that is gone again, or no more files: the next one may fare better.
        let Ok((tcp, from)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let (acceptor, app) = (acceptor.clone(), app.clone().layer(Extension(ConnectInfo(from))));
        tokio::spawn(async move {
            let Ok(stream) = acceptor.accept(tcp, Some(from)).await else { return };
            // Who breaks off has what they wanted.
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), TowerToHyperService::new(app)).await;
        });
    }
}

/// The address of whoever asks, as it is seen from here. Like the cloud's, it wants to see that a program meant to ask.
async fn own_address(
    State(cloud): State<Arc<Cloud>>,
    ConnectInfo(from): ConnectInfo<SocketAddr>,
    headers: HeaderMap,
) -> Response {
    let ip = cloud.own.unwrap_or(from.ip());
    match headers.get("Metadata-Flavor").is_some_and(|v| v == "Google") {
        true => ([("Metadata-Flavor", "Google")], ip.to_string()).into_response(),
        false => (StatusCode::FORBIDDEN, "Missing Metadata-Flavor:Google header.\n").into_response(),
    }
}

async fn release(State(cloud): State<Arc<Cloud>>, UrlPath((version, file)): UrlPath<(String, String)>) -> Response {
    let name = format!("etcd-{version}-linux-amd64");
    let archive = format!("{name}.tar.gz");
    if !RELEASES.contains(&version.as_str()) || (file != archive && file != SUMS) {
        let known = RELEASES.map(|v| format!("{v}/etcd-{v}-linux-amd64.tar.gz\n{v}/{SUMS}")).join("\n");
        return (StatusCode::NOT_FOUND, format!("The lab's mirror has only:\n{known}\n")).into_response();
    }
    let (whose, archive) = match ARCHIVES.get() {
        Some(folder) => ("from --releases", fs::read(folder.join(&file)).map_err(|e| format!("{file}: {e}"))),
        None => {
            let packed = packed(&name, &cloud.programs);
            let told = packed.map(|bytes| if file == SUMS { sum(&archive, &bytes).into_bytes() } else { bytes });
            ("etcd-lab's own programs, not the etcd project's", told)
        }
    };
    match archive {
        Ok(bytes) => ([("X-Etcd-Lab", whose), ("Content-Type", "application/gzip")], bytes).into_response(),
        Err(why) => (StatusCode::NOT_FOUND, format!("{why}\n")).into_response(),
    }
}

/// A line as sha256sum(1) writes and reads it.
fn sum(name: &str, bytes: &[u8]) -> String {
    let hex: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{hex}  {name}\n")
}

/// An archive as the etcd project packs it. Each program in it is a script that becomes ours: a copy would be a hundred megabytes.
fn packed(name: &str, programs: &[(&str, PathBuf)]) -> Result<Vec<u8>, String> {
    let folder = crate::lab::guide::scratch::scratch("release")?;
    let made = pack(&folder, name, programs);
    // Nobody wants it any more.
    let _ = fs::remove_dir_all(&folder);
    made
}

fn pack(folder: &Path, name: &str, programs: &[(&str, PathBuf)]) -> Result<Vec<u8>, String> {
    let inner = folder.join(name);
    fs::create_dir(&inner).map_err(|e| e.to_string())?;
    fs::write(inner.join("README.md"), README).map_err(|e| e.to_string())?;
    for (program, path) in programs {
        // One program may be all of ours, by the name that it is called by.
        let word = if path.ends_with(program) { "" } else { program };
        let script = format!(
            "#!/bin/sh\n# etcd-lab's own {program}; see README.md.\nexec {} {word} \"$@\"\n",
            quoted(&path.to_string_lossy())
        );
        crate::lab::guide::bed::executable(&inner.join(program), &script)?;
    }
    // The same programs make the same archive, byte for byte: its hash is told by another request.
    let same = ["--sort=name", "--mtime=@0", "--owner=0", "--group=0", "--numeric-owner", "-czf", "-", "-C"];
    let done = Command::new("tar").args(same).arg(folder).arg(name).output();
    let done = done.map_err(|e| format!("tar: {e}"))?;
    if done.status.success() { Ok(done.stdout) } else { Err(String::from_utf8_lossy(&done.stderr).into_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::guide::LentBed;
    use crate::lab::guide::ProcessBeds;
    use crate::lab::guide::Session;

    #[tokio::test]
    async fn a_step_that_could_not_be_set_up_can_be_tried_once_more() {
        let lab = crate::lab::guide::shelved("B6-is-it-healthy").expect("on the shelf").expect("right");
        let nobody = LentBed::new(Path::new("/nowhere"), Vec::new());
        let session = Session::new(Arc::new(lab), Arc::new(nobody), Path::new("/nowhere"));
        let why = session.anew(0, &ProcessBeds::ours().expect("a program")).await.err().unwrap_or_default();
        assert!(why.starts_with("this lab's nodes are machines") && why.ends_with("; x tries once more"), "{why}");
    }

    #[test]
    fn an_archive_has_both_programs_and_says_whose_they_are() {
        let programs = [("etcd", PathBuf::from("/opt/etcd")), ("etcdctl", PathBuf::from("/opt/etcd-lab"))];
        let bytes = packed("etcd-v3.4.10-linux-amd64", &programs).expect("tar is there");
        assert_eq!(
            bytes,
            packed("etcd-v3.4.10-linux-amd64", &programs).expect("tar is there"),
            "its hash is told apart"
        );
        assert_eq!(
            sum("a", b""),
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855  a\n",
            "of nothing, as sha256sum says it"
        );
        let folder = crate::lab::guide::scratch::scratch("release-test").expect("a folder");
        fs::write(folder.join("a.tar.gz"), bytes).expect("written");
        let done = Command::new("tar").arg("-xzf").arg(folder.join("a.tar.gz")).arg("-C").arg(&folder).status();
        assert!(done.expect("tar").success());
        let read = |name: &str| fs::read_to_string(folder.join("etcd-v3.4.10-linux-amd64").join(name)).expect(name);
        assert!(read("README.md").contains("not the etcd project's"));
        assert!(read("etcdctl").ends_with("exec /opt/etcd-lab etcdctl \"$@\"\n"));
        fs::remove_dir_all(&folder).expect("it is there");
    }
}
