//! Handshakes over memory pipes: who gets in, who does not, and why.

#[path = "tests/forms.rs"]
mod forms;

use super::pki::Authority;
use super::pki::Request;
use super::pki::Usage;
use super::*;
use rustls::pki_types::ServerName;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;

const LOOPBACK: ([u8; 4], u16) = ([127, 0, 0, 1], 1);

/// A directory with `ca.pem`, a server's pair and whatever a test adds.
struct Lab {
    dir: tempfile::TempDir,
    ca: Authority,
}

impl Lab {
    fn new() -> Lab {
        let lab =
            Lab { dir: tempfile::tempdir().expect("a place for files"), ca: Authority::new("lab").expect("a CA") };
        lab.ca.own().write(lab.dir.path(), "ca").expect("written");
        lab.issue("server", &Request::new(Usage::Peer, "server", &["127.0.0.1"]));
        lab
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn issue(&self, name: &str, request: &Request) -> (Option<PathBuf>, Option<PathBuf>) {
        let issued = self.ca.issue(request).expect("a certificate");
        let (cert, key) = issued.write(self.dir.path(), name).expect("written");
        (Some(cert), Some(key))
    }

    fn server(&self) -> ServerFiles {
        let trusted_ca = Some(self.path("ca.pem"));
        let (cert, key) = (self.path("server.pem"), self.path("server-key.pem"));
        ServerFiles { cert, key, trusted_ca, ..ServerFiles::default() }
    }

    fn client(&self, (cert, key): (Option<PathBuf>, Option<PathBuf>)) -> ClientFiles {
        ClientFiles { ca: Some(self.path("ca.pem")), cert, key, ..ClientFiles::default() }
    }

    fn with(&self, request: &Request) -> ClientFiles {
        self.client(self.issue("client", request))
    }
}

/// Shakes hands and sends one word; what the server makes of it.
async fn meet(server: &ServerFiles, client: &ClientFiles) -> Result<Stream<tokio::io::DuplexStream>, HandshakeError> {
    let acceptor = Acceptor::tls(server).expect("good server files");
    let connector = tokio_rustls::TlsConnector::from(client_config(client).expect("good client files"));
    let (near, far) = tokio::io::duplex(1 << 16);
    let name = ServerName::try_from("127.0.0.1").expect("an address");
    let dial = async {
        let mut stream = connector.connect(name, near).await?;
        stream.write_all(b"hello").await?;
        stream.flush().await?;
        std::io::Result::Ok(stream)
    };
    let (_client, served) = tokio::join!(dial, acceptor.accept(far, Some(SocketAddr::from(LOOPBACK))));
    let mut served = served?;
    let mut word = [0; 5];
    served.read_exact(&mut word).await.map_err(|e| HandshakeError::Other(e.to_string()))?;
    assert_eq!(&word, b"hello");
    Ok(served)
}

fn client_request() -> Request {
    Request::new(Usage::Client, "alice", &["127.0.0.1"])
}

#[tokio::test]
async fn a_client_with_a_certificate_of_the_ca_gets_in_by_name() {
    let lab = Lab::new();
    let stream = meet(&lab.server(), &lab.with(&client_request())).await.expect("all is right");
    assert_eq!(stream.common_name().as_deref(), Some("alice"));
}

#[tokio::test]
async fn a_trusted_ca_alone_demands_a_certificate() {
    let lab = Lab::new();
    let nobody = lab.client((None, None));
    assert_eq!(meet(&lab.server(), &nobody).await.err(), Some(HandshakeError::NoCertificate));
    let open = ServerFiles { trusted_ca: None, ..lab.server() };
    assert!(meet(&open, &nobody).await.is_ok());
}

#[tokio::test]
async fn each_wrong_certificate_is_refused_for_its_own_reason() {
    let lab = Lab::new();
    let other = Lab::new();
    let foreign = other.issue("client", &client_request());
    assert_eq!(meet(&lab.server(), &lab.client(foreign)).await.err(), Some(HandshakeError::UnknownAuthority));
    let cases = [
        (Request { from_days: -9, until_days: -2, ..client_request() }, HandshakeError::Expired),
        (Request { from_days: 2, ..client_request() }, HandshakeError::Expired),
        (Request { usage: Usage::Server, ..client_request() }, HandshakeError::WrongUsage),
    ];
    for (request, why) in cases {
        assert_eq!(meet(&lab.server(), &lab.with(&request)).await.err(), Some(why), "{request:?}");
    }
}

#[tokio::test]
async fn a_client_that_does_not_trust_us_says_so() {
    let lab = Lab::new();
    let mut client = lab.with(&client_request());
    let other = Authority::new("another authority").expect("a CA");
    client.ca = Some(other.own().write(lab.dir.path(), "other").expect("written").0);
    let refused = meet(&lab.server(), &client).await.err();
    assert_eq!(refused, Some(HandshakeError::RefusedByClient("unknown certificate authority".into())));
    client.insecure_skip_verify = true;
    assert!(meet(&lab.server(), &client).await.is_ok());
}

#[tokio::test]
async fn allow_lists_ask_for_a_name() {
    let lab = Lab::new();
    let client = lab.with(&client_request());
    let by_cn = |cn: &str| ServerFiles { allowed_cn: vec!["root".into(), cn.into()], ..lab.server() };
    let by_host = |host: &str| ServerFiles { allowed_hostname: vec![host.into()], ..lab.server() };
    assert!(meet(&by_cn("alice"), &client).await.is_ok());
    assert_eq!(meet(&by_cn("bob"), &client).await.err(), Some(HandshakeError::NotAllowed));
    assert!(meet(&by_host("127.0.0.1"), &client).await.is_ok());
    assert_eq!(meet(&by_host("10.0.0.1"), &client).await.err(), Some(HandshakeError::NotAllowed));
    let both = ServerFiles { allowed_cn: vec!["alice".into()], ..by_host("127.0.0.1") };
    assert!(matches!(Acceptor::tls(&both), Err(Error::TwoAllowLists { .. })));
}

#[tokio::test]
async fn a_peer_must_come_from_the_address_in_its_certificate() {
    let lab = Lab::new();
    let server = ServerFiles { check_client_address: true, ..lab.server() };
    for names in [&["127.0.0.1"][..], &["localhost"], &["10.9.9.9", "localhost"], &[]] {
        let client = lab.with(&Request::new(Usage::Peer, "m2", names));
        assert!(meet(&server, &client).await.is_ok(), "{names:?}");
    }
    let elsewhere = lab.with(&Request::new(Usage::Peer, "m2", &["10.9.9.9"]));
    let (address, names) = ("127.0.0.1".into(), vec!["10.9.9.9".into()]);
    assert_eq!(meet(&server, &elsewhere).await.err(), Some(HandshakeError::WrongAddress { address, names }));
    let listed = ServerFiles { allowed_cn: vec!["m2".into()], ..server };
    assert!(meet(&listed, &elsewhere).await.is_ok(), "an allow-list takes the place of the address");
}

#[tokio::test]
async fn plain_http_gets_no_answer_behind_a_certificate() {
    let acceptor = Acceptor::tls(&Lab::new().server()).expect("good files");
    let (mut near, far) = tokio::io::duplex(1 << 16);
    near.write_all(b"GET /version HTTP/1.1\r\nHost: x\r\n\r\n").await.expect("room in the pipe");
    assert_eq!(acceptor.accept(far, None).await.err(), Some(HandshakeError::NotTls));
    let mut answer = Vec::new();
    near.read_to_end(&mut answer).await.expect("closed");
    assert!(!answer.starts_with(b"HTTP"), "only a TLS alert: {answer:?}");
}

#[tokio::test]
async fn silent_clients_are_bounded_in_time_and_number() {
    let acceptor = Acceptor::bounded(&Lab::new().server(), 1, Duration::from_millis(50)).expect("good files");
    let (_silent, far) = tokio::io::duplex(64);
    let (_second, too_many) = tokio::io::duplex(64);
    let (first, second) = tokio::join!(acceptor.accept(far, None), acceptor.accept(too_many, None));
    assert_eq!(first.err(), Some(HandshakeError::TooMany), "the oldest makes room");
    assert_eq!(second.err(), Some(HandshakeError::Timeout));
}

#[tokio::test]
async fn changed_files_are_used_by_the_next_handshake_and_broken_ones_are_not() {
    let lab = Lab::new();
    let pair = files::Pair::load(&lab.path("server.pem"), &lab.path("server-key.pem")).expect("good files");
    let first = pair.current();
    assert_eq!(pair.current().cert, first.cert);
    lab.issue("server", &Request::new(Usage::Peer, "server, renewed", &["127.0.0.1", "localhost"]));
    let second = pair.current();
    assert_ne!(second.cert, first.cert);
    std::fs::write(lab.path("server-key.pem"), "not a key").expect("written");
    assert_eq!(pair.current().cert, second.cert);
}

#[tokio::test]
async fn an_authority_is_replaced_under_a_running_server_and_a_running_client() {
    let (old, new) = (Lab::new(), Lab::new());
    let pem = |lab: &Lab| std::fs::read_to_string(lab.path("ca.pem")).expect("a file");
    let (both, new_only) = (pem(&old) + &pem(&new), pem(&new));
    let mut server = old.server();
    let (mine, theirs) = (old.path("mine.pem"), old.path("theirs.pem"));
    // As tools replace a file: another one takes its name.
    let write = |path: &Path, text: &str| {
        let fresh = path.with_extension("fresh");
        std::fs::write(&fresh, text).expect("written");
        std::fs::rename(&fresh, path).expect("renamed");
    };
    write(&mine, &pem(&old));
    write(&theirs, &pem(&old));
    server.trusted_ca = Some(theirs.clone());
    let acceptor = Acceptor::tls(&server).expect("good files");
    let client = |lab: &Lab| ClientFiles { ca: Some(mine.clone()), ..lab.with(&client_request()) };
    let [of_old, of_new] = [&old, &new].map(|lab| client_config(&client(lab)).expect("good files"));
    let shake = async |config: &Arc<rustls::ClientConfig>| shake(&acceptor, config).await;
    let unknown = |refusal: &str| refusal.contains("authority");

    assert_eq!(shake(&of_old).await, Ok(()));
    assert!(shake(&of_new).await.is_err_and(|e| unknown(&e)), "the server does not know its authority yet");
    write(&mine, &both);
    write(&theirs, &both);
    assert_eq!((shake(&of_old).await, shake(&of_new).await), (Ok(()), Ok(())), "both authorities");
    // The server's own certificate is of the new one from now on, and nobody needs the old one any more.
    for name in ["server.pem", "server-key.pem"] {
        std::fs::copy(new.path(name), old.path(name)).expect("copied");
    }
    assert_eq!((shake(&of_old).await, shake(&of_new).await), (Ok(()), Ok(())), "both authorities, a new server");
    write(&theirs, "half a fi");
    assert_eq!(shake(&of_old).await, Ok(()), "what cannot be read changes nothing");
    write(&theirs, &new_only);
    assert!(shake(&of_old).await.is_err_and(|e| unknown(&e)), "the server has dropped the old one");
    write(&mine, &pem(&old));
    // Both authorities have one name, so what the client finds wrong is the signature.
    assert!(
        shake(&of_new).await.is_err_and(|e| e.starts_with("remote error: tls: ")),
        "the client has dropped the new one"
    );
    write(&mine, &new_only);
    assert_eq!(shake(&of_new).await, Ok(()), "and takes it back");
}

/// What the server says of a handshake.
async fn shake(acceptor: &Acceptor, config: &Arc<rustls::ClientConfig>) -> Result<(), String> {
    let (near, far) = tokio::io::duplex(1 << 16);
    let name = ServerName::try_from("127.0.0.1").expect("an address");
    let connector = tokio_rustls::TlsConnector::from(Arc::clone(config));
    let (_client, served) = tokio::join!(connector.connect(name, near), acceptor.accept(far, None));
    served.map(drop).map_err(|e| e.to_string())
}

#[test]
fn bad_files_are_named_with_what_to_do() {
    let lab = Lab::new();
    let say = |files: &ServerFiles| Acceptor::tls(files).err().map(|e| e.to_string()).unwrap_or_default();
    let half = ServerFiles { key: PathBuf::new(), cert: "c.pem".into(), ..lab.server() };
    assert_eq!(say(&half), "KeyFile and CertFile must both be present[key: , cert: c.pem]");
    let missing = ServerFiles { cert: "/nowhere/c.pem".into(), ..lab.server() };
    assert_eq!(
        say(&missing),
        "open /nowhere/c.pem: no such file or directory: give the certificate as a PEM file that this user can read"
    );
    let swapped = ServerFiles { cert: lab.path("server-key.pem"), ..lab.server() };
    assert!(say(&swapped).contains("server-key.pem: it should hold the certificate"), "{}", say(&swapped));
    let foreign = ServerFiles { key: lab.path("ca-key.pem"), ..lab.server() };
    assert!(say(&foreign).starts_with("tls: private key does not match public key"), "{}", say(&foreign));
    let no_ca = ServerFiles { trusted_ca: None, client_cert_auth: true, ..lab.server() };
    assert!(matches!(Acceptor::tls(&no_ca), Err(Error::NoTrustedCa)));
}

#[tokio::test]
async fn auto_tls_makes_one_certificate_and_keeps_it() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().expect("a place for files");
    let fixtures = dir.path().join("fixtures").join("peer");
    let hosts = ["127.0.0.1:2380".to_owned(), "localhost".to_owned(), "[::1]:2380".to_owned()];
    let (cert, key) = auto_tls(&fixtures, &hosts, 1).expect("made");
    let text = std::fs::read_to_string(&cert).expect("a file");
    assert_eq!(auto_tls(&fixtures, &hosts, 1).expect("found"), (cert.clone(), key.clone()));
    assert_eq!(std::fs::read_to_string(&cert).expect("a file"), text);
    assert_eq!(std::fs::metadata(&key).expect("a file").permissions().mode() & 0o777, 0o600);

    let server = ServerFiles { cert: cert.clone(), key, ..ServerFiles::default() };
    let trusting = ClientFiles { ca: Some(cert), ..ClientFiles::default() };
    assert!(meet(&server, &trusting).await.is_ok(), "it can be pinned");
    let blind = ClientFiles { insecure_skip_verify: true, ..ClientFiles::default() };
    assert!(meet(&server, &blind).await.is_ok());
    assert!(auto_tls(&fixtures, &hosts, 0).is_err());
}
