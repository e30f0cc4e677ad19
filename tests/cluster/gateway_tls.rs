//! The JSON gateway over TLS, with and without client certificates, over HTTP/1.1 and HTTP/2.

use crate::harness::Process;
use crate::harness::READY_WITHIN;
use crate::harness::Scratch;
use crate::harness::Spec;
use crate::harness::etcd_bin;
use crate::harness::is_ours;
use crate::harness::turn;
use crate::harness::until;
use crate::http;
use etcd_lab::tls::ClientFiles;
use etcd_lab::tls::pki::Authority;
use etcd_lab::tls::pki::Request;
use etcd_lab::tls::pki::Usage;
use std::time::Duration;

const PUT: (&str, &str) = ("/v3/kv/put", r#"{"key":"YQ==","value":"MQ=="}"#);
const RANGE: (&str, &str) = ("/v3/kv/range", r#"{"key":"YQ=="}"#);

#[test]
fn every_way_in_leads_to_the_same_gateway() {
    turn(Duration::from_secs(90), async {
        if !is_ours() {
            return;
        }
        for client_auth in [None, Some(false), Some(true)] {
            let scratch = Scratch::new();
            let dir = scratch.path();
            let authority = Authority::new("gateway").expect("an authority");
            let (ca, _) = authority.own().write(dir, "ca").expect("written");
            let names = ["127.0.0.1", "localhost"];
            let server = authority.issue(&Request::new(Usage::Server, "server", &names)).expect("issued");
            let (cert, key) = server.write(dir, "server").expect("written");
            let client = authority.issue(&Request::new(Usage::Client, "root", &names)).expect("issued");
            let (own, own_key) = client.write(dir, "client").expect("written");
            let mut spec = Spec::new("m0", dir);
            let mut files = ClientFiles { ca: Some(ca.clone()), ..ClientFiles::default() };
            let secure = client_auth.is_some();
            if secure {
                spec.client_url = spec.client_url.replace("http:", "https:");
                spec.more = vec![format!("--cert-file={}", cert.display()), format!("--key-file={}", key.display())];
            }
            if client_auth == Some(true) {
                spec.more.extend([format!("--trusted-ca-file={}", ca.display()), "--client-cert-auth".to_owned()]);
                (files.cert, files.key) = (Some(own), Some(own_key));
            }
            let _member = Process::start(&etcd_bin(), &spec.flags(std::slice::from_ref(&spec)), &[], &dir.join("log"));
            let address = spec.client_url.split_once("://").expect("a URL").1.to_owned();
            let tls = secure.then_some(&files);
            let ask = async |(path, body): (&str, &str), http2| http::post_by(&address, (path, body), tls, http2).await;
            until(READY_WITHIN, "a member", async || ask(RANGE, false).await).await;
            for http2 in [false, true] {
                for (call, part) in [(PUT, r#""revision""#), (RANGE, r#""value":"MQ==""#)] {
                    let answer = ask(call, http2).await.expect("an answer");
                    assert!(answer.status.contains("200") && answer.body.contains(part), "{client_auth:?} {answer:?}");
                }
                let watch = ("/v3/lease/keepalive", r#"{"ID":"1"}{"ID":"2"}"#);
                let answer = ask(watch, http2).await.expect("an answer");
                assert_eq!(answer.body.lines().count(), 2, "{answer:?}");
                let missing = ask(("/v3/none", "{}"), http2).await.expect("an answer");
                assert!(missing.status.contains("404"), "{missing:?}");
            }
            if client_auth == Some(true) {
                for call in [
                    ("/v3/auth/user/add", r#"{"name":"root","password":"pw"}"#),
                    ("/v3/auth/role/add", r#"{"name":"root"}"#),
                    ("/v3/auth/user/grant", r#"{"user":"root","role":"root"}"#),
                    ("/v3/auth/enable", "{}"),
                ] {
                    let answer = ask(call, true).await.expect("an answer");
                    assert!(answer.status.contains("200"), "{call:?}: {answer:?}");
                }
                // The certificate names root, and through the gateway that counts for nothing.
                let refused = ask(RANGE, false).await.expect("an answer");
                assert!(
                    refused.status.contains("400") && refused.body.starts_with("CommonName of client"),
                    "{refused:?}"
                );
            }
        }
    });
}
