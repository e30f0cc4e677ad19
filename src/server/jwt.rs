//! Signed tokens: JSON Web Tokens that say who their bearer is, at which auth revision, and until when.
//!
//! One key and one method for the whole server. A token that names another method is refused before its signature is looked at, so that
//! nobody can have a public key taken for a shared secret, or no signature for one (RFC 8725 section 2.1). Nobody can take such a
//! token back, which is what the auth revision in it is for: any change of rights makes it old.
//!
//! RS, PS and ES with SHA-256 and larger, EdDSA (Ed25519), and HS with a shared secret. ring does the work but for ES512: it has no P-521. Source: etcd `server/auth/jwt.go`, `options.go`; RFC 7515, 7518, 7519, 8037.

use crate::auth::Who;
use crate::error::Error;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use p521::SecretKey as P521SecretKey;
use p521::ecdsa::Signature as P521Signature;
use p521::ecdsa::SigningKey as P521SigningKey;
use p521::ecdsa::VerifyingKey as P521VerifyingKey;
use p521::ecdsa::signature::Signer as _;
use p521::ecdsa::signature::Verifier as _;
use p521::pkcs8::DecodePrivateKey as _;
use ring::hmac;
use ring::rand::SystemRandom;
use ring::signature;
use ring::signature::EcdsaKeyPair;
use ring::signature::EcdsaSigningAlgorithm;
use ring::signature::Ed25519KeyPair;
use ring::signature::KeyPair as _;
use ring::signature::RsaEncoding;
use ring::signature::RsaKeyPair;
use ring::signature::UnparsedPublicKey;
use ring::signature::VerificationAlgorithm;
use serde_json::Value;
use std::fmt;
use std::time::Duration;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;
use tokio_rustls::rustls::pki_types::SubjectPublicKeyInfoDer;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use x509_parser::prelude::FromDer as _;
use x509_parser::prelude::X509Certificate;
use x509_parser::x509::SubjectPublicKeyInfo;

const INVALID_METHOD: &str = "auth: invalid auth signature method";
const MISSING_KEY: &str = "auth: missing key data";
const KEY_MISMATCH: &str = "auth: public and private keys don't match";

/// An object identifier of DER: id-ecPublicKey, prime256v1, secp384r1, secp521r1.
const EC_PUBLIC_KEY: &[u8] = &[0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
const P256: &[u8] = &[0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
const P384: &[u8] = &[0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x22];
const P521: &[u8] = &[0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x23];

/// A way to sign, and what ring calls it, if it knows it.
#[derive(Clone, Copy)]
enum Method {
    Rsa(&'static dyn VerificationAlgorithm, &'static dyn RsaEncoding),
    Ecdsa(&'static dyn VerificationAlgorithm, &'static EcdsaSigningAlgorithm, &'static [u8]),
    Es512,
    EdDsa,
    Hmac(hmac::Algorithm),
}

impl Method {
    /// The identifier of the kind of key that it needs: rsaEncryption, id-ecPublicKey, id-Ed25519.
    fn key_kind(self) -> &'static str {
        match self {
            Method::Rsa(..) => "1.2.840.113549.1.1.1",
            Method::Ecdsa(..) | Method::Es512 => "1.2.840.10045.2.1",
            Method::EdDsa => "1.3.101.112",
            Method::Hmac(_) => "",
        }
    }
}

/// The method of a name; RFC 7518 section 3.1.
fn method(name: &str) -> Option<(&'static str, Method)> {
    use signature as s;
    Some(match name {
        "RS256" => ("RS256", Method::Rsa(&s::RSA_PKCS1_2048_8192_SHA256, &s::RSA_PKCS1_SHA256)),
        "RS384" => ("RS384", Method::Rsa(&s::RSA_PKCS1_2048_8192_SHA384, &s::RSA_PKCS1_SHA384)),
        "RS512" => ("RS512", Method::Rsa(&s::RSA_PKCS1_2048_8192_SHA512, &s::RSA_PKCS1_SHA512)),
        "PS256" => ("PS256", Method::Rsa(&s::RSA_PSS_2048_8192_SHA256, &s::RSA_PSS_SHA256)),
        "PS384" => ("PS384", Method::Rsa(&s::RSA_PSS_2048_8192_SHA384, &s::RSA_PSS_SHA384)),
        "PS512" => ("PS512", Method::Rsa(&s::RSA_PSS_2048_8192_SHA512, &s::RSA_PSS_SHA512)),
        "ES256" => ("ES256", Method::Ecdsa(&s::ECDSA_P256_SHA256_FIXED, &s::ECDSA_P256_SHA256_FIXED_SIGNING, P256)),
        "ES384" => ("ES384", Method::Ecdsa(&s::ECDSA_P384_SHA384_FIXED, &s::ECDSA_P384_SHA384_FIXED_SIGNING, P384)),
        "ES512" => ("ES512", Method::Es512),
        "EdDSA" => ("EdDSA", Method::EdDsa),
        "HS256" => ("HS256", Method::Hmac(hmac::HMAC_SHA256)),
        "HS384" => ("HS384", Method::Hmac(hmac::HMAC_SHA384)),
        "HS512" => ("HS512", Method::Hmac(hmac::HMAC_SHA512)),
        _ => return None,
    })
}

/// What signs.
enum Signer {
    Rsa(Box<RsaKeyPair>, &'static dyn RsaEncoding),
    Ecdsa(EcdsaKeyPair),
    Es512(Box<P521SigningKey>),
    EdDsa(Ed25519KeyPair),
}

impl Signer {
    fn public(&self) -> Vec<u8> {
        match self {
            Signer::Rsa(pair, _) => pair.public_key().as_ref().to_vec(),
            Signer::Ecdsa(pair) => pair.public_key().as_ref().to_vec(),
            Signer::Es512(pair) => P521VerifyingKey::from(pair.as_ref()).to_encoded_point(false).as_bytes().to_vec(),
            Signer::EdDsa(pair) => pair.public_key().as_ref().to_vec(),
        }
    }

    fn sign(&self, message: &[u8]) -> Option<Vec<u8>> {
        let random = SystemRandom::new();
        match self {
            Signer::Rsa(pair, encoding) => {
                let mut signed = vec![0; pair.public().modulus_len()];
                pair.sign(*encoding, &random, message, &mut signed).ok()?;
                Some(signed)
            }
            Signer::Ecdsa(pair) => pair.sign(&random, message).ok().map(|signed| signed.as_ref().to_vec()),
            Signer::Es512(pair) => {
                let signed: P521Signature = pair.try_sign(message).ok()?;
                Some(signed.to_bytes().to_vec())
            }
            Signer::EdDsa(pair) => Some(pair.sign(message).as_ref().to_vec()),
        }
    }
}

/// The key in use: a pair, the public half of one, or a shared secret.
enum Key {
    Public { check: Check, signer: Option<Signer> },
    Secret(hmac::Key),
}

/// What checks a signature: the public key with its way.
enum Check {
    Ring(UnparsedPublicKey<Vec<u8>>),
    Es512(Box<P521VerifyingKey>),
}

impl Check {
    fn new(method: Method, point: Vec<u8>) -> Result<Check, String> {
        let how: &'static dyn VerificationAlgorithm = match method {
            Method::Rsa(how, _) | Method::Ecdsa(how, ..) => how,
            Method::Es512 => {
                let key = P521VerifyingKey::from_sec1_bytes(&point);
                return key
                    .map(|key| Check::Es512(Box::new(key)))
                    .map_err(|e| format!("auth: the public key cannot be used: {e}"));
            }
            Method::EdDsa => &signature::ED25519,
            Method::Hmac(_) => return Err(INVALID_METHOD.to_owned()),
        };
        Ok(Check::Ring(UnparsedPublicKey::new(how, point)))
    }

    fn is_good(&self, message: &[u8], signed: &[u8]) -> bool {
        match self {
            Check::Ring(key) => key.verify(message, signed).is_ok(),
            Check::Es512(key) => {
                P521Signature::from_slice(signed).is_ok_and(|signed| key.verify(message, &signed).is_ok())
            }
        }
    }
}

/// Makes and checks signed tokens.
pub(super) struct Jwt {
    name: &'static str,
    key: Key,
    ttl: Duration,
}

impl fmt::Debug for Jwt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Jwt({}, ttl {:?})", self.name, self.ttl)
    }
}

impl Jwt {
    /// With the contents of the key files; a public key alone checks only.
    ///
    /// # Errors
    /// etcd's texts, and what is wrong with a key.
    pub(super) fn new(name: &str, public: Option<&[u8]>, private: Option<&[u8]>, ttl: Duration) -> Result<Jwt, String> {
        let (name, method) = method(name).ok_or_else(|| INVALID_METHOD.to_owned())?;
        let public = public.filter(|pem| !pem.is_empty());
        let private = private.filter(|pem| !pem.is_empty());
        if let Method::Hmac(algorithm) = method {
            let secret = private.ok_or(MISSING_KEY)?;
            return Ok(Jwt { name, key: Key::Secret(hmac::Key::new(algorithm, secret)), ttl });
        }
        let signer = private.map(|pem| signer(method, pem)).transpose()?;
        let given = public.map(|pem| public_key(method, pem)).transpose()?;
        let bytes = match (&signer, given) {
            (None, None) => return Err(MISSING_KEY.to_owned()),
            (None, Some(given)) => given,
            (Some(signer), Some(given)) if signer.public() != given => return Err(KEY_MISMATCH.to_owned()),
            (Some(signer), _) => signer.public(),
        };
        Ok(Jwt { name, key: Key::Public { check: Check::new(method, bytes)?, signer }, ttl })
    }

    /// A token for `user`, good from `now` (seconds since 1970) for the time to live.
    ///
    /// # Errors
    /// [`Error::VerifyOnly`] without a private key.
    pub(super) fn sign(&self, user: &str, revision: u64, now: u64) -> Result<String, Error> {
        let head = format!(r#"{{"alg":"{}","typ":"JWT"}}"#, self.name);
        let claims = serde_json::json!({ "exp": now + self.ttl.as_secs(), "revision": revision, "username": user });
        let message = format!("{}.{}", URL_SAFE_NO_PAD.encode(head), URL_SAFE_NO_PAD.encode(claims.to_string()));
        let signed = match &self.key {
            Key::Secret(secret) => Some(hmac::sign(secret, message.as_bytes()).as_ref().to_vec()),
            Key::Public { signer, .. } => signer.as_ref().ok_or(Error::VerifyOnly)?.sign(message.as_bytes()),
        };
        // Only a key too small for the digest cannot sign, and such keys are refused when they are read.
        let signed = signed.ok_or(Error::VerifyOnly)?;
        Ok(format!("{message}.{}", URL_SAFE_NO_PAD.encode(signed)))
    }

    /// Who a token says its bearer is, if it is signed by our key, by our method, and still good at `now`.
    pub(super) fn verify(&self, token: &str, now: u64) -> Option<Who> {
        let (message, signed) = token.rsplit_once('.')?;
        let (head, claims) = message.split_once('.').filter(|(_, claims)| !claims.contains('.'))?;
        let json = |part: &str| serde_json::from_slice::<Value>(&URL_SAFE_NO_PAD.decode(part).ok()?).ok();
        if json(head)?.get("alg")?.as_str()? != self.name {
            return None;
        }
        let signed = URL_SAFE_NO_PAD.decode(signed).ok()?;
        match &self.key {
            Key::Secret(secret) => hmac::verify(secret, message.as_bytes(), &signed).ok()?,
            Key::Public { check, .. } => check.is_good(message.as_bytes(), &signed).then_some(())?,
        }
        let claims = json(claims)?;
        is_current(&claims, now).then_some(())?;
        let user = claims.get("username")?.as_str()?.to_owned();
        // Go reads JSON's numbers as floating point.
        let revision = claims.get("revision")?.as_f64().filter(|revision| *revision >= 0.0)? as u64;
        Some(Who { user, revision })
    }
}

/// Whether `exp` is yet to come and `nbf` is past, where a token has them. One that is no number is not good.
fn is_current(claims: &Value, now: u64) -> bool {
    let now = now as f64;
    let holds = |name: &str, test: &dyn Fn(f64) -> bool| match claims.get(name) {
        None => true,
        Some(value) => value.as_f64().is_some_and(test),
    };
    holds("exp", &|exp| now < exp) && holds("nbf", &|nbf| nbf <= now)
}

fn signer(method: Method, pem: &[u8]) -> Result<Signer, String> {
    let unusable = |why: &dyn fmt::Display| format!("auth: the private key cannot be used: {why}");
    let der = PrivateKeyDer::from_pem_slice(pem).map_err(|e| unusable(&e))?;
    let made = match (method, der) {
        (Method::Rsa(_, encoding), PrivateKeyDer::Pkcs1(der)) => {
            RsaKeyPair::from_der(der.secret_pkcs1_der()).map(|pair| Signer::Rsa(Box::new(pair), encoding))
        }
        (Method::Rsa(_, encoding), PrivateKeyDer::Pkcs8(der)) => {
            RsaKeyPair::from_pkcs8(der.secret_pkcs8_der()).map(|pair| Signer::Rsa(Box::new(pair), encoding))
        }
        (Method::Ecdsa(_, how, _), PrivateKeyDer::Pkcs8(der)) => {
            EcdsaKeyPair::from_pkcs8(how, der.secret_pkcs8_der(), &SystemRandom::new()).map(Signer::Ecdsa)
        }
        (Method::Ecdsa(_, how, curve), PrivateKeyDer::Sec1(der)) => {
            let pkcs8 = pkcs8_of(curve, der.secret_sec1_der());
            EcdsaKeyPair::from_pkcs8(how, &pkcs8, &SystemRandom::new()).map(Signer::Ecdsa)
        }
        (Method::Es512, PrivateKeyDer::Pkcs8(der)) => {
            return es512_signer(der.secret_pkcs8_der()).map_err(|e| unusable(&e));
        }
        (Method::Es512, PrivateKeyDer::Sec1(der)) => {
            return es512_signer(&pkcs8_of(P521, der.secret_sec1_der())).map_err(|e| unusable(&e));
        }
        (Method::EdDsa, PrivateKeyDer::Pkcs8(der)) => {
            Ed25519KeyPair::from_pkcs8_maybe_unchecked(der.secret_pkcs8_der()).map(Signer::EdDsa)
        }
        _ => return Err(unusable(&"it is of another kind than the signing method")),
    };
    made.map_err(|e| unusable(&e))
}

fn es512_signer(pkcs8: &[u8]) -> Result<Signer, p521::pkcs8::Error> {
    let key = P521SecretKey::from_pkcs8_der(pkcs8)?;
    P521SigningKey::from_slice(&key.to_bytes())
        .map(|key| Signer::Es512(Box::new(key)))
        .map_err(|_| p521::pkcs8::Error::KeyMalformed)
}

/// A SEC 1 key (`EC PRIVATE KEY`) in the envelope of PKCS #8; RFC 5208 section 5, RFC 5915.
fn pkcs8_of(curve: &[u8], sec1: &[u8]) -> Vec<u8> {
    let algorithm = der(0x30, &[EC_PUBLIC_KEY, curve]);
    der(0x30, &[&[0x02, 0x01, 0x00], &algorithm, &der(0x04, &[sec1])])
}

/// A DER value: tag, length, content.
fn der(tag: u8, content: &[&[u8]]) -> Vec<u8> {
    let content = content.concat();
    let length = content.len().to_be_bytes();
    let length = &length[length.iter().position(|byte| *byte != 0).unwrap_or(length.len() - 1)..];
    let mut value = vec![tag];
    if content.len() >= 0x80 {
        // Fits: a length has at most eight bytes.
        value.push(0x80 | length.len() as u8);
    }
    value.extend_from_slice(length);
    value.extend(content);
    value
}

/// The key inside `PUBLIC KEY` or a certificate: PKCS #1 for RSA, a point for curves.
fn public_key(method: Method, pem: &[u8]) -> Result<Vec<u8>, String> {
    let unusable = |why: &dyn fmt::Display| format!("auth: the public key cannot be used: {why}");
    let taken = |info: &SubjectPublicKeyInfo<'_>| match info.algorithm.algorithm.to_id_string() == method.key_kind() {
        true => Ok(info.subject_public_key.data.to_vec()),
        false => Err(unusable(&"it is of another kind than the signing method")),
    };
    if let Ok(cert) = CertificateDer::from_pem_slice(pem) {
        let (_, cert) = X509Certificate::from_der(&cert).map_err(|e| unusable(&e))?;
        return taken(cert.public_key());
    }
    let der = SubjectPublicKeyInfoDer::from_pem_slice(pem).map_err(|e| unusable(&e))?;
    let (_, info) = SubjectPublicKeyInfo::from_der(&der).map_err(|e| unusable(&e))?;
    taken(&info)
}

#[cfg(test)]
#[path = "jwt/tests.rs"]
mod tests;
