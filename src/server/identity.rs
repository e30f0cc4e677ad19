//! Who calls: by the token that comes with the request, or by the certificate of the very connection that it came on.
//!
//! A token is looked up first, under `token`, then under `authorization`. Without one, and with `--client-cert-auth`, the common name of the client's
//! certificate is the user; never for a request that says it came through a JSON gateway, because then the certificate is the gateway's
//! (CVE-2018-16886). What is left is nobody, who may do next to nothing.
//!
//! While authentication is off, all of this costs one relaxed load. Source: etcd `server/auth/store.go` (`AuthInfoFromCtx`, `AuthInfoFromTLS`),
//! `server/etcdserver/v3_server.go` (`doSerialize`); contract-server 1.2 and 7.4.

use super::access;
use super::access::Need;
use super::front::Front;
use super::token::unix_seconds;
use crate::apply::Machine;
use crate::apply::Reply;
use crate::auth::Access;
use crate::auth::Who;
use crate::error::Error;
use crate::node::Node;
use crate::proto::etcdserverpb as pb;
use crate::types::KeyRange;
use crate::types::LeaseId;
use bytes::Bytes;
use futures::future::Either;
use http::Extensions;
use http::HeaderMap;
use http::HeaderName;
use http::HeaderValue;
use std::net::SocketAddr;
use std::sync::Arc;
use tonic::Code;
use tonic::Request;
use tonic::Status;

/// Where a request came from: one for all requests of a connection.
#[derive(Debug, Default)]
pub(super) struct Origin {
    pub(super) from: Option<SocketAddr>,
    /// Of the client's certificate, if it showed one and that was verified.
    pub(super) common_name: Option<String>,
    pub(super) is_tls: bool,
}

/// What tells who calls, taken off a request.
#[derive(Debug, Default)]
pub(super) struct Caller {
    headers: HeaderMap,
    extensions: Extensions,
}

impl Caller {
    /// Parts a request into who calls and what is asked.
    pub(super) fn of<T>(request: Request<T>) -> (Caller, T) {
        let (metadata, extensions, message) = request.into_parts();
        (Caller { headers: metadata.into_headers(), extensions }, message)
    }

    /// For a stream, which outlasts its request: keeps only the headers that are asked for later, and not the bytes that they came in with all others.
    pub(super) fn lasting(self) -> Caller {
        let mut headers = HeaderMap::new();
        for name in ["token", "authorization", "grpcgateway-accept"] {
            let value = self.headers.get(name).and_then(|value| HeaderValue::from_bytes(value.as_bytes()).ok());
            headers.extend(value.map(|value| (HeaderName::from_static(name), value)));
        }
        Caller { headers, extensions: self.extensions }
    }

    pub(super) fn headers(&self) -> &HeaderMap {
        &self.headers
    }

    /// The token that came with the request, if one did that can be read.
    pub(super) fn token(&self) -> Option<&str> {
        token_of(&self.headers).flatten()
    }

    /// Where the request came from; empty while authentication is off, but for watches.
    pub(super) fn from(&self) -> String {
        from_of(&self.extensions)
    }
}

/// A signed token, verified at the door at this second since 1970: it is not verified twice at once, but again by whoever holds on to the request.
#[derive(Clone)]
struct Verified(Who, u64);

impl Front {
    /// The check before a service is called, while authentication is on: whether the caller has what the method needs at least.
    pub(super) async fn authorize<B>(
        &self,
        request: &mut http::Request<B>,
        origin: &Arc<Origin>,
    ) -> Result<(), Status> {
        let Some(need) = access::need(request.uri().path()) else {
            return Err(access::unknown(request.uri().path()));
        };
        request.extensions_mut().insert(Arc::clone(origin));
        let judged = match need {
            Need::Nothing | Need::Message => return Ok(()),
            Need::User | Need::Keys | Need::Root => self.judge(need, request.headers(), request.extensions()).await,
        };
        let judged = match judged {
            // Users and roles are read as this member has them, and it may be behind: others may know that authentication is off again, or of a role.
            Err(Error::UserEmpty | Error::PermissionDenied) if self.node.catches_up().await => {
                if !self.node.auth_is_on() {
                    return Ok(());
                }
                self.judge(need, request.headers(), request.extensions()).await
            }
            judged => judged,
        };
        match judged {
            Ok(who) => {
                if self.security.tokens.are_signed() {
                    request.extensions_mut().insert(Verified(who, unix_seconds()));
                }
                Ok(())
            }
            Err(e) => {
                let caller = (request.headers(), request.extensions());
                self.tell_refused(request.uri().path(), caller, &e);
                Err(e.into())
            }
        }
    }

    async fn judge(&self, need: Need, headers: &HeaderMap, extensions: &Extensions) -> Result<Who, Error> {
        let who = self.identify(headers, extensions).await?;
        if who.revision == 0 {
            return Err(Error::UserEmpty);
        }
        if need == Need::Root {
            self.node.read(|machine| machine.auth().permit_root(&who))?;
        }
        Ok(who)
    }

    /// One line for whoever looks after the server: what was refused, by which means the caller named itself, and from where. No secrets.
    fn tell_refused(&self, method: &str, (headers, extensions): (&HeaderMap, &Extensions), why: &Error) {
        let name = self.common_name(headers, extensions);
        let mechanism = match (token_of(headers), &name) {
            (Some(_), _) => "token",
            (None, Some(_)) => "certificate",
            (None, None) => "none",
        };
        tracing::warn!(
            method,
            mechanism,
            "user-name" = name.unwrap_or_default(),
            "remote-addr" = from_of(extensions),
            error = %why,
            "refused a request"
        );
    }

    /// Has this server judge what other members forward: only who has the role root may change the members.
    pub(super) fn guard_peers(&self) {
        // Of the front, whose node would keep itself alive, only this.
        let security = Arc::clone(&self.security);
        self.node.guard(Box::new(move |node: Node, token: Option<String>| {
            let security = Arc::clone(&security);
            Box::pin(async move {
                let token = token.ok_or(Error::UserEmpty)?;
                let who = security.tokens.who(&node, &token).await.ok_or(Error::InvalidAuthToken)?;
                node.read(|machine| machine.auth().permit_root(&who))
            })
        }));
    }

    /// Who calls; nothing while authentication is off.
    pub(super) async fn who(&self, caller: &Caller) -> Result<Option<Who>, Error> {
        if !self.node.auth_is_on() {
            return Ok(None);
        }
        self.identify(&caller.headers, &caller.extensions).await.map(Some)
    }

    async fn identify(&self, headers: &HeaderMap, extensions: &Extensions) -> Result<Who, Error> {
        if let Some(Verified(who, at)) = extensions.get::<Verified>()
            && unix_seconds() <= at + 1
        {
            return Ok(who.clone());
        }
        match token_of(headers) {
            Some(token) => {
                let token = token.ok_or(Error::InvalidAuthToken)?;
                self.security.tokens.who(&self.node, token).await.ok_or(Error::InvalidAuthToken)
            }
            None => Ok(match self.common_name(headers, extensions) {
                Some(name) => Who { user: name.to_owned(), revision: self.auth_revision() },
                // Refused by every check.
                None => Who::default(),
            }),
        }
    }

    /// The user that the connection's certificate names, where certificates do so.
    fn common_name<'a>(&self, headers: &HeaderMap, extensions: &'a Extensions) -> Option<&'a str> {
        if !self.security.common_names || headers.contains_key("grpcgateway-accept") {
            return None;
        }
        extensions.get::<Arc<Origin>>()?.common_name.as_deref()
    }

    pub(super) fn auth_revision(&self) -> u64 {
        self.node.read(|machine| machine.auth().revision())
    }

    /// Reads the applied state in the caller's name: may they, read, and is what was asked still true? etcd's `doSerialize`. A linearizable read waits
    /// for [`crate::node::Node::read_barrier`] before.
    ///
    /// # Errors
    /// Those of `may`, then those of `read`; [`Error::AuthOldRevision`] if users or roles have changed meanwhile.
    pub(super) async fn read_as<T>(
        &self,
        caller: &Caller,
        may: impl FnOnce(&Machine, &Who) -> Result<(), Error>,
        read: impl AsyncFnOnce() -> Result<T, Error>,
    ) -> Result<T, Error> {
        let Some(who) = self.who(caller).await? else { return read().await };
        self.node.read(|machine| may(machine, &who))?;
        let found = read().await?;
        self.unchanged_since(&who)?;
        Ok(found)
    }

    /// Looks at the applied state in the caller's name. What is asked here etcd judges without the age of a signed token.
    ///
    /// # Errors
    /// Those of `may`, then those of `look`.
    pub(super) async fn look_as<T>(
        &self,
        caller: &Caller,
        may: impl FnOnce(&Machine, &Who) -> Result<(), Error>,
        look: impl FnOnce(&Machine) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let who = self.who(caller).await?;
        self.node.read(|machine| {
            who.map_or(Ok(()), |who| may(machine, &who))?;
            look(machine)
        })
    }

    /// Whether users and roles are what they were when `who` was identified.
    pub(super) fn unchanged_since(&self, who: &Who) -> Result<(), Error> {
        if who.revision != 0 && who.revision != self.auth_revision() { Err(Error::AuthOldRevision) } else { Ok(()) }
    }

    /// Puts a request through the log in the caller's name.
    pub(super) fn propose_as<'a>(
        &'a self,
        caller: &'a Caller,
        mut request: pb::InternalRaftRequest,
    ) -> impl Future<Output = Result<Reply, Error>> + Send + use<'a> {
        if !self.node.auth_is_on() {
            return Either::Left(self.propose(request));
        }
        Either::Right(Box::pin(async move {
            if let Some(Who { user: username, revision: auth_revision }) = self.who(caller).await? {
                request.header = Some(pb::RequestHeader { username, auth_revision, ..Default::default() });
            }
            self.propose(request).await
        }))
    }

    /// Whether the caller may have the watcher that a request asks for. The range is parsed as the hub parses it. Returns who calls, if that matters.
    pub(super) async fn permit_watch(
        &self,
        caller: &Caller,
        create: &pb::WatchCreateRequest,
    ) -> Result<Option<Who>, Error> {
        self.permit_range(caller, &watch_range(create)).await
    }

    /// Whether the caller may read all of a range. Returns who calls, if that matters.
    pub(super) async fn permit_range(&self, caller: &Caller, range: &KeyRange) -> Result<Option<Who>, Error> {
        let Some(who) = self.who(caller).await? else { return Ok(None) };
        self.node.read(|machine| machine.auth().permit(&who, range, Access::Read))?;
        Ok(Some(who))
    }

    /// Whether a user, who was identified some time ago, may read all of a range today. Nobody may nothing while authentication is on.
    pub(super) fn permit_user(&self, user: Option<&str>, range: &KeyRange) -> Result<(), Error> {
        self.node.read(|machine| {
            let auth = machine.auth();
            let of_today = |user: &str| Who { user: user.to_owned(), revision: auth.revision() };
            auth.permit(&user.map(of_today).unwrap_or_default(), range, Access::Read)
        })
    }

    /// Whether the caller may do something to a lease: `access` to every key that hangs on it. Returns who calls, if that matters.
    pub(super) async fn permit_lease(
        &self,
        caller: &Caller,
        id: LeaseId,
        access: Access,
    ) -> Result<Option<Who>, Error> {
        let Some(who) = self.user(caller).await? else { return Ok(None) };
        self.node.read(|machine| machine.permit_lease(&who, id, access))?;
        Ok(Some(who))
    }

    /// Who calls, who must be somebody; nothing while authentication is off.
    ///
    /// # Errors
    /// [`Error::InvalidAuthToken`], [`Error::UserEmpty`].
    async fn user(&self, caller: &Caller) -> Result<Option<Who>, Error> {
        match self.who(caller).await? {
            Some(nobody) if nobody.revision == 0 => Err(Error::UserEmpty),
            who => Ok(who),
        }
    }

    /// What the door asks of calls about keys, for a service that makes such calls in the caller's name. `service` is for the log.
    ///
    /// # Errors
    /// [`Error::InvalidAuthToken`], [`Error::UserEmpty`].
    pub(super) async fn require_user(&self, service: &str, caller: &Caller) -> Result<(), Error> {
        let mut user = self.user(caller).await;
        if matches!(user, Err(Error::UserEmpty)) && self.node.catches_up().await {
            user = self.user(caller).await;
        }
        user.err().map_or(Ok(()), |e| {
            self.tell_refused(service, (&caller.headers, &caller.extensions), &e);
            Err(e)
        })
    }

    /// Whether the caller may do what needs the role root.
    pub(super) async fn permit_root(&self, caller: &Caller) -> Result<(), Error> {
        let Some(who) = self.who(caller).await? else { return Ok(()) };
        self.node.read(|machine| machine.auth().permit_root(&who))
    }
}

fn from_of(extensions: &Extensions) -> String {
    let from = extensions.get::<Arc<Origin>>().and_then(|origin| origin.from);
    from.map(|from| from.to_string()).unwrap_or_default()
}

/// The keys that a watcher is for.
pub(super) fn watch_range(create: &pb::WatchCreateRequest) -> KeyRange {
    let key = if create.key.is_empty() { Bytes::from_static(b"\0") } else { create.key.clone() };
    KeyRange::parse(&key, &create.range_end)
}

/// etcd's words for a watcher that is refused, which clients look at: gRPC's text of an error.
pub(super) fn watch_refusal(e: &Error) -> String {
    let e = match e {
        Error::InvalidAuthToken | Error::AuthOldRevision | Error::UserEmpty => e,
        _ => &Error::PermissionDenied,
    };
    let code = match e.code() {
        Code::Unauthenticated => "Unauthenticated",
        Code::InvalidArgument => "InvalidArgument",
        _ => "PermissionDenied",
    };
    format!("rpc error: code = {code} desc = {e}")
}

/// The token that comes with a request; `Some(None)` for one that is no text.
fn token_of(headers: &HeaderMap) -> Option<Option<&str>> {
    let value = headers.get("token").or_else(|| headers.get(http::header::AUTHORIZATION))?;
    let text = value.to_str().ok();
    Some(text.map(|text| text.strip_prefix("Bearer ").unwrap_or(text)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let pair = |(name, value): &(&'static str, &'static str)| {
            (http::HeaderName::from_static(name), http::HeaderValue::from_static(value))
        };
        pairs.iter().map(pair).collect()
    }

    #[test]
    fn a_stream_keeps_of_its_headers_what_tells_who_calls() {
        let all = headers(&[("token", "a.1"), ("user-agent", "x"), ("grpcgateway-accept", "y")]);
        let caller = Caller { headers: all, extensions: Extensions::default() }.lasting();
        assert_eq!((caller.token(), caller.headers.len()), (Some("a.1"), 2));
        assert!(caller.headers.contains_key("grpcgateway-accept"));
    }

    #[test]
    fn a_token_is_looked_up_under_two_names_and_may_say_bearer() {
        assert_eq!(token_of(&headers(&[])), None);
        assert_eq!(token_of(&headers(&[("token", "a.1")])), Some(Some("a.1")));
        assert_eq!(token_of(&headers(&[("authorization", "a.1")])), Some(Some("a.1")));
        assert_eq!(token_of(&headers(&[("authorization", "Bearer a.1")])), Some(Some("a.1")));
        assert_eq!(token_of(&headers(&[("authorization", "other"), ("token", "first")])), Some(Some("first")));
        let mut odd = HeaderMap::new();
        odd.insert("token", http::HeaderValue::from_bytes(&[0xff]).expect("opaque"));
        assert_eq!(token_of(&odd), Some(None));
    }

    #[test]
    fn a_refused_watcher_hears_grpcs_text() {
        for (e, text) in [
            (Error::InvalidAuthToken, "rpc error: code = Unauthenticated desc = etcdserver: invalid auth token"),
            (
                Error::AuthOldRevision,
                "rpc error: code = InvalidArgument desc = etcdserver: revision of auth store is old",
            ),
            (Error::UserEmpty, "rpc error: code = InvalidArgument desc = etcdserver: user name is empty"),
            (Error::PermissionDenied, "rpc error: code = PermissionDenied desc = etcdserver: permission denied"),
            (Error::UserNotFound, "rpc error: code = PermissionDenied desc = etcdserver: permission denied"),
        ] {
            assert_eq!(watch_refusal(&e), text);
        }
    }

    #[test]
    fn a_watcher_to_the_end_is_judged_as_one() {
        let create = |key: &'static str, range_end: &'static str| pb::WatchCreateRequest {
            key: key.into(),
            range_end: range_end.into(),
            ..Default::default()
        };
        // GHSA-xg4h-6gfc-h4m8: read as one key, it would need a permission on that key only.
        assert_eq!(watch_range(&create("a", "\0")), KeyRange::From("a".into()));
        assert_eq!(watch_range(&create("", "")), KeyRange::Single("\0".into()));
    }
}
