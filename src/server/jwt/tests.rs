//! Tokens that others have signed, tokens that we sign, and tokens that nobody should have.

use super::*;

/// Sections `== name`, then the text of a key file or a token.
const FIXTURES: &str = include_str!("fixtures.txt");

const NOW: u64 = 1_700_000_000;
const TTL: Duration = Duration::from_secs(300);

fn fixture(name: &str) -> &'static [u8] {
    let found = FIXTURES.split("\n== ").find_map(|section| section.strip_prefix(name)?.strip_prefix('\n'));
    found.unwrap_or_else(|| panic!("no fixture {name}")).as_bytes()
}

fn token(name: &str) -> &'static str {
    std::str::from_utf8(fixture(name)).expect("text").trim_end()
}

/// Method, private key, public key.
const METHODS: [(&str, &str, Option<&str>); 18] = [
    ("RS256", "rsa.pem", Some("rsa-pub.pem")),
    ("RS384", "rsa-pkcs8.pem", Some("rsa-pub.pem")),
    ("RS512", "rsa.pem", Some("rsa-cert.pem")),
    ("PS256", "rsa.pem", Some("rsa-pub.pem")),
    ("PS384", "rsa.pem", Some("rsa-pub.pem")),
    ("PS512", "rsa-pkcs8.pem", Some("rsa-pub.pem")),
    ("ES256", "ec256.pem", Some("ec256-pub.pem")),
    ("ES256", "ec256-pkcs8.pem", Some("ec256-pub.pem")),
    ("ES384", "ec384.pem", Some("ec384-pub.pem")),
    ("ES512", "ec521.pem", Some("ec521-pub.pem")),
    ("ES512", "ec521-pkcs8.pem", Some("ec521-pub.pem")),
    ("EdDSA", "ed.pem", Some("ed-pub.pem")),
    ("HS256", "secret", None),
    ("HS384", "secret", None),
    ("HS512", "secret", None),
    // A private key alone is enough; so is one beside a public key that is not needed.
    ("RS256", "rsa.pem", None),
    ("ES256", "ec256.pem", None),
    ("EdDSA", "ed.pem", None),
];

fn jwt(name: &str, private: Option<&str>, public: Option<&str>) -> Result<Jwt, String> {
    Jwt::new(name, public.map(fixture), private.map(fixture), TTL)
}

fn alice(revision: u64) -> Option<Who> {
    Some(Who { user: "alice".into(), revision })
}

/// Signs any head and claims with the shared secret.
fn forged(head: &str, claims: &str) -> String {
    let message = format!("{}.{}", URL_SAFE_NO_PAD.encode(head), URL_SAFE_NO_PAD.encode(claims));
    let key = hmac::Key::new(hmac::HMAC_SHA256, fixture("secret"));
    let signed = hmac::sign(&key, message.as_bytes());
    format!("{message}.{}", URL_SAFE_NO_PAD.encode(signed.as_ref()))
}

#[test]
fn tokens_that_openssl_has_signed_are_good() {
    for (name, private, public) in METHODS {
        let jwt = jwt(name, Some(private), public).expect(name);
        assert_eq!(jwt.verify(token(name), NOW), alice(7), "{name} {private}");
    }
}

#[test]
fn our_own_tokens_are_good_until_their_time_is_over() {
    for (name, private, public) in METHODS {
        let ours = jwt(name, Some(private), public).expect(name);
        let token = ours.sign("alice", 12, NOW).expect(name);
        assert_eq!(ours.verify(&token, NOW), alice(12), "{name}");
        assert_eq!(ours.verify(&token, NOW + 299), alice(12), "{name}");
        assert_eq!(ours.verify(&token, NOW + 300), None, "{name}: expired");
        let mut bad = token.clone().into_bytes();
        let middle = bad.len() / 2;
        bad[middle] = if bad[middle] == b'A' { b'B' } else { b'A' };
        assert_eq!(ours.verify(std::str::from_utf8(&bad).expect("text"), NOW), None, "{name}: changed");
    }
}

#[test]
fn a_public_key_alone_checks_and_does_not_sign() {
    for (name, _, public) in METHODS {
        let Some(public) = public else { continue };
        let verifier = jwt(name, None, Some(public)).expect(name);
        assert_eq!(verifier.verify(token(name), NOW), alice(7), "{name}");
        assert_eq!(verifier.sign("alice", 1, NOW), Err(Error::VerifyOnly), "{name}");
    }
}

#[test]
fn a_token_of_another_method_or_key_is_refused() {
    let (rsa, secret) = (jwt("RS256", Some("rsa.pem"), None), jwt("HS256", Some("secret"), None));
    let (rsa, secret) = (rsa.expect("good"), secret.expect("good"));
    for name in ["RS384", "PS256", "ES256", "EdDSA", "HS256"] {
        assert_eq!(rsa.verify(token(name), NOW), None, "{name}");
    }
    // The public key as a shared secret.
    let confused = Jwt::new("HS256", None, Some(fixture("rsa-pub.pem")), TTL).expect("any bytes are a secret");
    let token = confused.sign("root", 7, NOW).expect("signed");
    assert_eq!(rsa.verify(&token, NOW), None);
    assert_eq!(secret.verify(&token, NOW), None);
    let other = jwt("RS256", None, Some("other-pub.pem")).expect("good");
    assert_eq!(other.verify(self::token("RS256"), NOW), None);
}

#[test]
fn malformed_tokens_are_refused_and_nothing_panics() {
    let jwt = jwt("HS256", Some("secret"), None).expect("good");
    let head = r#"{"alg":"HS256","typ":"JWT"}"#;
    let good = r#"{"username":"alice","revision":7}"#;
    assert_eq!(jwt.verify(&forged(head, good), NOW), alice(7), "without exp it is good for ever, as in etcd");
    for (why, head, claims) in [
        ("no method", r#"{"alg":"none"}"#, good),
        ("no method at all", r#"{"typ":"JWT"}"#, good),
        ("another method", r#"{"alg":"hs256"}"#, good),
        ("a method that is no text", r#"{"alg":1}"#, good),
        ("no user", head, r#"{"revision":7}"#),
        ("a user that is no text", head, r#"{"username":1,"revision":7}"#),
        ("no revision", head, r#"{"username":"alice"}"#),
        ("a revision that is text", head, r#"{"username":"alice","revision":"7"}"#),
        ("a revision below zero", head, r#"{"username":"alice","revision":-1}"#),
        ("expired", head, r#"{"username":"alice","revision":7,"exp":1}"#),
        ("an end that is text", head, r#"{"username":"alice","revision":7,"exp":"9999999999"}"#),
        ("not yet", head, r#"{"username":"alice","revision":7,"nbf":9999999999}"#),
        ("no object", head, "[]"),
        ("no JSON", head, "{"),
    ] {
        assert_eq!(jwt.verify(&forged(head, claims), NOW), None, "{why}");
    }
    let token = forged(head, good);
    for bad in
        ["", ".", "..", "...", "a.b.c", "é.é.é", &token[..token.len() - 1], &format!("{token}="), &format!("x.{token}")]
    {
        assert_eq!(jwt.verify(bad, NOW), None, "{bad}");
    }
    let huge = format!("{}.{}.{}", "A".repeat(1 << 20), "A".repeat(1 << 20), "A".repeat(1 << 20));
    assert_eq!(jwt.verify(&huge, NOW), None);
}

#[test]
fn keys_that_cannot_work_are_refused_at_the_start() {
    let refused = |name: &str, private: Option<&str>, public: Option<&str>| {
        jwt(name, private, public).err().unwrap_or_else(|| panic!("{name} {private:?} {public:?}"))
    };
    for name in ["RS256", "PS512", "ES256", "EdDSA", "HS256"] {
        assert_eq!(refused(name, None, None), "auth: missing key data", "{name}");
    }
    assert_eq!(refused("HS256", None, Some("secret")), "auth: missing key data");
    assert_eq!(refused("RS256", Some("rsa.pem"), Some("other-pub.pem")), "auth: public and private keys don't match");
    for name in ["", "none", "rs256", "XS256"] {
        assert_eq!(refused(name, Some("rsa.pem"), None), "auth: invalid auth signature method");
    }
    for (name, private, public) in [
        ("RS256", Some("ec256.pem"), None),
        ("ES256", Some("rsa.pem"), None),
        ("ES256", Some("ec384.pem"), None),
        ("ES512", Some("ec384.pem"), None),
        ("ES512", None, Some("ec384-pub.pem")),
        ("EdDSA", Some("ec256-pkcs8.pem"), None),
        ("RS256", Some("secret"), None),
        ("RS256", None, Some("secret")),
        ("RS256", None, Some("ec256-pub.pem")),
        ("ES256", None, Some("rsa-cert.pem")),
    ] {
        assert!(refused(name, private, public).starts_with("auth: the "), "{name} {private:?} {public:?}");
    }
}

#[test]
fn nobody_sees_the_key_in_a_log() {
    let jwt = jwt("HS256", Some("secret"), None).expect("good");
    assert_eq!(format!("{jwt:?}"), "Jwt(HS256, ttl 300s)");
}
