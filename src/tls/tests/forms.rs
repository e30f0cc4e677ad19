//! Certificates as `openssl` makes them when nobody asks for more, sessions that outlive a revocation, and what is said of the rest.

use super::*;
use crate::tls::pki::Issued;
use crate::tls::pki::self_signed;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;
use rustls::sign::CertifiedKey;
use rustls::sign::SingleCertAndKey;

/// Both versions of TLS.
fn versions() -> [Offer; 2] {
    ["TLS1.2", "TLS1.3"].map(|version| Offer::parse(version, version, &[]).expect("a version"))
}

/// The client `issued` meets the server, by each version of TLS.
async fn by_each_version(
    lab: &Lab,
    server: &ServerFiles,
    issued: &Issued,
) -> [Result<Option<String>, HandshakeError>; 2] {
    let (cert, key) = issued.write(lab.dir.path(), "client").expect("written");
    let mut outcomes = Vec::new();
    for offer in versions() {
        let client = ClientFiles { offer, ..lab.client((Some(cert.clone()), Some(key.clone()))) };
        outcomes.push(meet(server, &client).await.map(|stream| stream.common_name()));
    }
    outcomes.try_into().expect("two versions")
}

#[tokio::test]
async fn a_client_certificate_of_version_1_gets_in_by_name() {
    let lab = Lab::new();
    let issued = lab.ca.issue_version_1(&client_request()).expect("a certificate");
    let (_, pem) = x509_parser::pem::parse_x509_pem(issued.cert_pem.as_bytes()).expect("PEM");
    let parsed = pem.parse_x509().expect("a certificate");
    assert_eq!((parsed.version(), parsed.extensions().len()), (x509_parser::x509::X509Version::V1, 0));
    assert_eq!(
        by_each_version(&lab, &lab.server(), &issued).await,
        [Ok(Some("alice".into())), Ok(Some("alice".into()))]
    );
    let bob = ServerFiles { allowed_cn: vec!["bob".into()], ..lab.server() };
    let refused = Err(HandshakeError::NotAllowed);
    assert_eq!(by_each_version(&lab, &bob, &issued).await, [refused.clone(), refused]);
}

#[tokio::test]
async fn a_certificate_of_version_1_is_verified_like_any_other() {
    let lab = Lab::new();
    let refused = async |issued: &Issued, why: HandshakeError| {
        assert_eq!(by_each_version(&lab, &lab.server(), issued).await, [Err(why.clone()), Err(why)]);
    };
    for request in
        [Request { from_days: -9, until_days: -2, ..client_request() }, Request { from_days: 2, ..client_request() }]
    {
        refused(&lab.ca.issue_version_1(&request).expect("a certificate"), HandshakeError::Expired).await;
    }
    // Another authority, and one that only has the name of ours.
    for name in ["another", "lab"] {
        let other = Authority::new(name).expect("a CA");
        let issued = other.issue_version_1(&client_request()).expect("a certificate");
        refused(&issued, HandshakeError::UnknownAuthority).await;
    }
    // Somebody else's name over our authority's signature.
    let mut forged = lab.ca.issue_version_1(&client_request()).expect("a certificate");
    let mut der = CertificateDer::from_pem_slice(forged.cert_pem.as_bytes()).expect("PEM").to_vec();
    let at = der.windows(5).position(|name| name == b"alice").expect("its name");
    der[at..at + 5].copy_from_slice(b"admin");
    forged.cert_pem = pki::armoured(&der);
    refused(&forged, HandshakeError::UnknownAuthority).await;
}

#[tokio::test]
async fn a_certificate_of_version_1_can_be_revoked() {
    let lab = Lab::new();
    let issued = lab.ca.issue_version_1(&client_request()).expect("a certificate");
    let list = lab.path("crl.der");
    std::fs::write(&list, lab.ca.revoke(&[issued.cert_pem.as_bytes()]).expect("a list")).expect("written");
    let server = ServerFiles { crl: Some(list), ..lab.server() };
    let refused = Err(HandshakeError::Revoked);
    assert_eq!(by_each_version(&lab, &server, &issued).await, [refused.clone(), refused]);
}

/// A client that shows a certificate without having its key.
fn impostor(lab: &Lab, cert: &Issued, key: &Issued, offer: &Offer) -> Arc<rustls::ClientConfig> {
    let files = ClientFiles { offer: offer.clone(), ..lab.client((None, None)) };
    let mut config = rustls::ClientConfig::clone(&client_config(&files).expect("good files"));
    let chain = vec![CertificateDer::from_pem_slice(cert.cert_pem.as_bytes()).expect("PEM")];
    let key = PrivateKeyDer::from_pem_slice(key.key_pem.as_bytes()).expect("PEM");
    let key = provider().key_provider.load_private_key(key).expect("a key");
    config.client_auth_cert_resolver = Arc::new(SingleCertAndKey::from(CertifiedKey::new(chain, key)));
    Arc::new(config)
}

#[tokio::test]
async fn who_has_not_got_the_key_of_a_certificate_does_not_get_in() {
    let lab = Lab::new();
    let theirs = lab.ca.issue_version_1(&client_request()).expect("a certificate");
    let other = lab.ca.issue_version_1(&client_request()).expect("a certificate");
    for offer in versions() {
        let acceptor = Acceptor::tls(&lab.server()).expect("good files");
        let honest = impostor(&lab, &theirs, &theirs, &offer);
        assert!(talk(&acceptor, &honest).await.is_ok(), "{offer:?}");
        let acceptor = Acceptor::tls(&lab.server()).expect("good files");
        let refused = talk(&acceptor, &impostor(&lab, &theirs, &other, &offer)).await;
        assert!(refused.is_err(), "{offer:?}");
    }
}

/// The server `issued` meets a client that trusts `ca`.
async fn as_server(lab: &Lab, issued: &Issued, ca: &Issued) -> Result<(), HandshakeError> {
    let (cert, key) = issued.write(lab.dir.path(), "self").expect("written");
    let (ca, _) = ca.write(lab.dir.path(), "pinned").expect("written");
    let server = ServerFiles { cert, key, ..ServerFiles::default() };
    for offer in versions() {
        meet(&server, &ClientFiles { ca: Some(ca.clone()), offer, ..ClientFiles::default() }).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_self_signed_server_certificate_that_says_ca_true_can_be_pinned() {
    let lab = Lab::new();
    let request = || Request::new(Usage::Server, "self", &["127.0.0.1", "localhost"]);
    let made = |request: &Request| self_signed(request).expect("a certificate");
    let refused = |why: &str| Err(HandshakeError::RefusedByClient(why.into()));
    let good = made(&request());
    assert_eq!(as_server(&lab, &good, &good).await, Ok(()));
    assert_eq!(as_server(&lab, &good, &made(&request())).await, refused("unknown certificate authority"));
    let expired = made(&Request { from_days: -9, until_days: -2, ..request() });
    assert_eq!(as_server(&lab, &expired, &expired).await, refused("expired certificate"));
    let elsewhere = made(&Request::new(Usage::Server, "self", &["10.9.9.9"]));
    assert_eq!(as_server(&lab, &elsewhere, &elsewhere).await, refused("bad certificate"));
    let for_clients = made(&Request { usage: Usage::Client, ..request() });
    assert!(as_server(&lab, &for_clients, &for_clients).await.is_err());
}

#[tokio::test]
async fn a_server_certificate_of_version_1_has_no_name_to_be_dialled_by() {
    let lab = Lab::new();
    let request = Request::new(Usage::Server, "127.0.0.1", &["127.0.0.1"]);
    let issued = lab.ca.issue_version_1(&request).expect("a certificate");
    assert!(as_server(&lab, &issued, lab.ca.own()).await.is_err());
    let (cert, key) = issued.write(lab.dir.path(), "v1").expect("written");
    let server = ServerFiles { cert, key, ..ServerFiles::default() };
    for offer in versions() {
        let blind = ClientFiles { insecure_skip_verify: true, offer, ..ClientFiles::default() };
        assert!(meet(&server, &blind).await.is_ok(), "it does for who does not look");
    }
}

#[tokio::test]
async fn a_self_signed_client_certificate_that_says_ca_true_can_be_its_own_authority() {
    let lab = Lab::new();
    let made = |usage| self_signed(&Request { usage, ..client_request() }).expect("a certificate");
    for (shown, trusted, gets_in) in [
        (made(Usage::Peer), None, Ok(Some("alice".to_owned()))),
        (made(Usage::Peer), Some(made(Usage::Peer)), Err(HandshakeError::UnknownAuthority)),
        (made(Usage::Server), None, Err(HandshakeError::WrongUsage)),
    ] {
        let (ca, _) = trusted.as_ref().unwrap_or(&shown).write(lab.dir.path(), "pinned").expect("written");
        let server = ServerFiles { trusted_ca: Some(ca), ..lab.server() };
        assert_eq!(by_each_version(&lab, &server, &shown).await, [gets_in.clone(), gets_in]);
    }
}

/// One exchange of words, so that the client has whatever a server gives it to resume with; whether the handshake was a whole one.
async fn talk(acceptor: &Acceptor, config: &Arc<rustls::ClientConfig>) -> Result<bool, HandshakeError> {
    let connector = tokio_rustls::TlsConnector::from(config.clone());
    let (near, far) = tokio::io::duplex(1 << 16);
    let name = ServerName::try_from("127.0.0.1").expect("an address");
    let client = async {
        let mut stream = connector.connect(name, near).await?;
        stream.write_all(b"hello").await?;
        stream.flush().await?;
        let mut word = [0; 5];
        stream.read_exact(&mut word).await?;
        std::io::Result::Ok(stream.get_ref().1.handshake_kind())
    };
    let server = async {
        let mut served = acceptor.accept(far, Some(SocketAddr::from(LOOPBACK))).await?;
        let mut word = [0; 5];
        served.read_exact(&mut word).await.expect("a word");
        served.write_all(&word).await.expect("room");
        served.flush().await.expect("room");
        Ok(())
    };
    let (client, server) = tokio::join!(client, server);
    server?;
    Ok(client.expect("an answer") == Some(rustls::HandshakeKind::Full))
}

#[tokio::test]
async fn an_old_session_does_not_outlive_a_revocation() {
    for offer in versions() {
        let lab = Lab::new();
        let list = lab.path("crl.der");
        std::fs::write(&list, lab.ca.revoke(&[]).expect("a list")).expect("written");
        let acceptor = Acceptor::tls(&ServerFiles { crl: Some(list.clone()), ..lab.server() }).expect("good files");
        let config = client_config(&ClientFiles { offer: offer.clone(), ..lab.with(&client_request()) });
        let config = config.expect("good files");
        for _ in 0..2 {
            assert_eq!(talk(&acceptor, &config).await, Ok(true), "{offer:?}: each handshake is a whole one");
        }
        let alice = std::fs::read(lab.path("client.pem")).expect("written");
        std::fs::write(&list, lab.ca.revoke(&[&alice]).expect("a list")).expect("written");
        assert_eq!(talk(&acceptor, &config).await, Err(HandshakeError::Revoked), "{offer:?}");
    }
}

#[tokio::test]
async fn a_client_that_is_too_old_is_told_of_in_words() {
    // A ClientHello of TLS 1.1 with one cipher suite and no extensions.
    let body = [&[3, 2][..], &[7; 32], &[0], &[0, 2, 0xc0, 0x13], &[1, 0]].concat();
    let length = u8::try_from(body.len()).expect("short");
    let hello = [&[22, 3, 1, 0, length + 4, 1, 0, 0, length][..], &body].concat();
    let acceptor = Acceptor::tls(&Lab::new().server()).expect("good files");
    let (mut near, far) = tokio::io::duplex(1 << 16);
    near.write_all(&hello).await.expect("room in the pipe");
    let why = acceptor.accept(far, None).await.err().map(|why| why.to_string());
    assert_eq!(why.as_deref(), Some("tls: client offered only unsupported versions"));
}

#[test]
fn a_key_of_an_unsupported_kind_is_named() {
    let lab = Lab::new();
    let say = |cert: &str| {
        std::fs::write(lab.path("odd.pem"), cert).expect("written");
        // Which key it is tells the certificate: ring says no more than that it is none of its own.
        std::fs::write(lab.path("odd-key.pem"), "-----BEGIN PRIVATE KEY-----\nMAA=\n-----END PRIVATE KEY-----\n")
            .expect("written");
        let files = ServerFiles { cert: lab.path("odd.pem"), key: lab.path("odd-key.pem"), ..lab.server() };
        Acceptor::tls(&files).err().map(|e| e.to_string()).unwrap_or_default()
    };
    let told = say(P521);
    assert!(told.contains("odd-key.pem does not hold a usable private key: ECDSA on the curve P-521 is not"), "{told}");
    let told = say(RSA_1024);
    assert!(told.contains("RSA of 1024 bits is not supported here"), "{told}");
}

#[test]
fn why_a_certificate_cannot_be_verified_is_a_sentence() {
    let wrong = || rustls::Error::from(rustls::CertificateError::BadSignature);
    let small = CertificateDer::from_pem_slice(RSA_1024.as_bytes()).expect("PEM");
    let told = HandshakeError::from_tls(&verify::or_the_key(wrong(), &small)).to_string();
    assert!(told.contains("x509: RSA of 1024 bits is not supported here: RSA of 2048"), "{told}");
    // The key of a common one is not to blame.
    let usual = Authority::new("usual").expect("a CA");
    let usual = CertificateDer::from_pem_slice(usual.own().cert_pem.as_bytes()).expect("PEM");
    assert_eq!(HandshakeError::from_tls(&verify::or_the_key(wrong(), &usual)), HandshakeError::UnknownAuthority);
    for (form, advice) in [
        (webpki::Error::UnsupportedCertVersion, "make it with extensions"),
        (webpki::Error::CaUsedAsEndEntity, "make one with CA:FALSE"),
        (webpki::Error::UnsupportedCriticalExtension, "of an unsupported form: UnsupportedCriticalExtension"),
    ] {
        let refusal = rustls::CertificateError::Other(rustls::OtherError(Arc::new(form)));
        let told = HandshakeError::from_tls(&refusal.into()).to_string();
        assert!(told.contains(advice) && !told.contains("Other"), "{told}");
    }
}

const P521: &str = "\
-----BEGIN CERTIFICATE-----\n\
MIIB/TCCAV6gAwIBAgIUGjNONMz3sT46iTpS3sqGPUcnfaMwCgYIKoZIzj0EAwIw\n\
DzENMAsGA1UEAwwEcDUyMTAgFw0yNjExMjIwNTEyMDNaGA8yMTI2MTAyOTA1MTIw\n\
M1owDzENMAsGA1UEAwwEcDUyMTCBmzAQBgcqhkjOPQIBBgUrgQQAIwOBhgAEAQH7\n\
JIqjqJM4PnCUhDA3Y5XpnlPg678FW7MQVt6GOKC3y9rJp4UzgO8W/iMdDY358kGr\n\
vICNu4VhfbV/gx6juD//AAnl10Wf5p1S90WyW6F+b9UScNzZ/m/szIZZ7sHZjYGA\n\
egkSSZJGeNuXV/NyWIIIUl3pSZmXsjMapxywk2ert+W3o1MwUTAdBgNVHQ4EFgQU\n\
90GrskKCkAlXwzn6tS78iSNdsCwwHwYDVR0jBBgwFoAU90GrskKCkAlXwzn6tS78\n\
iSNdsCwwDwYDVR0TAQH/BAUwAwEB/zAKBggqhkjOPQQDAgOBjAAwgYgCQgCs285p\n\
W2ST36gu8CoV5/71k0QyMYHmgW5IAY6UDx3rEDNxFASbivnRjWj0Rw7o/mpSOYlm\n\
FIHJ6+woAanTMmv2FAJCASvwFqt5hJ4qwjZ/07nHPj8Do26R4lPRiPRNjnVuz3sR\n\
WP4K1ecZz5wTlrd0HpRpI6SeXEFtICGFUZ1nlt3EA8qd\n\
-----END CERTIFICATE-----";

const RSA_1024: &str = "\
-----BEGIN CERTIFICATE-----\n\
MIICAjCCAWugAwIBAgIUU0b0e1Jshs6JwVQaBXuVc7rrd4EwDQYJKoZIhvcNAQEL\n\
BQAwEjEQMA4GA1UEAwwHcnNhMTAyNDAgFw0yNjExMjIwNTEyMDRaGA8yMTI2MTAy\n\
OTA1MTIwNFowEjEQMA4GA1UEAwwHcnNhMTAyNDCBnzANBgkqhkiG9w0BAQEFAAOB\n\
jQAwgYkCgYEA47kpE6O8DLQS39AaEe0Lzgq7HmLR1YkIyxNCtnojvuJQjxN+xtPb\n\
MwjOdVJb9kSg4a9oLd47hzOF72muINDjjuSjd1pwzKyP+E8is37QiC8V/PvoWEI6\n\
lgOMq2nf3V1lQUhPt3CJ+QajkxxC9dJcMF/MApzSy126gHWvvE7UPz0CAwEAAaNT\n\
MFEwHQYDVR0OBBYEFPjPu/w6aMoiM6DqLj4hv4IUuU2HMB8GA1UdIwQYMBaAFPjP\n\
u/w6aMoiM6DqLj4hv4IUuU2HMA8GA1UdEwEB/wQFMAMBAf8wDQYJKoZIhvcNAQEL\n\
BQADgYEAf+HObitGB4UzA2mskK5XRxrWPZrhfUH0ytd3K1FyDtoqiKWRtFbJJKNr\n\
q4w3t8rOG/c12NLmx1vQZ+REV60dOGqw5N1g2Cpj4Z3UC6bctARhcJyFQwbYI1Tk\n\
+jK129nMtuyGoUZ4qy7vn5/dQFxznUiFc498iNzaxRv23fN+5IY=\n\
-----END CERTIFICATE-----";
