//! lab.v1: the member's telemetry, and control of it, for the lab that started it.
//!
//! On a door of its own, never on the client port. Every call carries the lab's token in the metadata `lab-token`.

use super::front::Front;
use crate::node::Observer;
use crate::proto::lab;
use crate::proto::lab::control_request::Action;
use crate::proto::lab::lab_server::Lab;
use crate::wall;
use futures::stream::BoxStream;
use futures::stream::StreamExt as _;
use futures::stream::unfold;
use sha2::Digest as _;
use sha2::Sha256;
use std::path::Path;
use std::time::Duration;
use tonic::Request;
use tonic::Response;
use tonic::Status;

/// A disk slower than this cannot be told from one that hangs.
const SYNC_DELAY_MAX: Duration = Duration::from_secs(10);

/// Events are gathered for so long: half of the time between two frames, so an eye sees no difference, and nobody is woken for each.
const GATHER: Duration = Duration::from_millis(50);
/// And while the learner steps: the next step waits for what came of the one before.
const GATHER_SLOWED: Duration = Duration::from_millis(10);

/// The Lab service.
pub(super) struct Service {
    front: Front,
    token: Token,
}

/// A hash of the token: two are compared as hashes, so that the time it takes tells nothing.
struct Token([u8; 32]);

impl Token {
    fn of(text: &[u8]) -> Token {
        Token(Sha256::digest(text).into())
    }
}

/// Reads the token file; the error is a sentence for the user.
pub(super) fn read_token(path: &Path) -> Result<String, String> {
    let text =
        std::fs::read_to_string(path).map_err(|e| format!("--experimental-lab-token {}: {e}", path.display()))?;
    match text.trim() {
        "" => Err(format!("--experimental-lab-token {}: the file is empty", path.display())),
        token => Ok(token.to_owned()),
    }
}

impl Service {
    pub(super) fn new(front: Front, token: &str) -> Service {
        Service { front, token: Token::of(token.as_bytes()) }
    }

    fn admit<T>(&self, request: &Request<T>) -> Result<(), Status> {
        let given = request.metadata().get("lab-token").map(|token| Token::of(token.as_bytes()));
        match given {
            Some(given) if given.0 == self.token.0 => Ok(()),
            _ => Err(Status::unauthenticated("the lab's token is missing or wrong: send it as metadata lab-token")),
        }
    }
}

#[tonic::async_trait]
impl Lab for Service {
    type ObserveStream = BoxStream<'static, Result<lab::Batch, Status>>;

    async fn observe(&self, request: Request<lab::ObserveRequest>) -> Result<Response<Self::ObserveStream>, Status> {
        self.admit(&request)?;
        let guard = self.front.stream_guard(&http::HeaderMap::new());
        let (opening, events) = self.front.node.observe().await?;
        let told = Telling { opening: Some(opening), events, guard };
        let stream = unfold(told, |mut told| async { Some((Ok(told.next().await?), told)) });
        Ok(Response::new(stream.boxed()))
    }

    async fn look(&self, request: Request<lab::LookRequest>) -> Result<Response<lab::LookResponse>, Status> {
        self.admit(&request)?;
        Ok(Response::new(self.front.node.look(request.into_inner().since_revision).await?))
    }

    async fn control(&self, request: Request<lab::ControlRequest>) -> Result<Response<lab::ControlResponse>, Status> {
        self.admit(&request)?;
        match request.into_inner().action {
            Some(Action::Campaign(_)) => {
                let ok = self.front.node.campaign().await;
                let why_not = if ok { "" } else { "this member leads already, or may not campaign" }.to_owned();
                Ok(Response::new(lab::ControlResponse { ok, why_not }))
            }
            Some(Action::SetLink(rule)) => {
                let ok = self.front.node.set_link(&rule);
                let why_not = if ok { "" } else { "no such member, or this one" }.to_owned();
                Ok(Response::new(lab::ControlResponse { ok, why_not }))
            }
            Some(Action::SetClock(set)) => Ok(Response::new(said(self.front.node.set_clock(set).await))),
            Some(Action::Step(step)) => match step.what {
                Some(what) => Ok(Response::new(said(self.front.node.step(what).await))),
                None => Err(Status::invalid_argument("what step?")),
            },
            Some(Action::SetTimer(set)) => Ok(Response::new(said(self.front.node.set_timer(set.timeout_ticks).await))),
            Some(Action::SetDisk(set)) => {
                let delay = Duration::from_micros(set.sync_delay_us).min(SYNC_DELAY_MAX);
                self.front.node.set_disk(delay, set.full, set.failing);
                Ok(Response::new(said(Ok(()))))
            }
            Some(Action::PowerLoss(_)) => {
                self.front.node.lose_power();
                std::future::pending().await
            }
            Some(Action::SetClients(set)) => {
                self.front.node.cut_clients(set.cut);
                Ok(Response::new(said(Ok(()))))
            }
            Some(Action::SetWall(set)) => {
                wall::set_offset_ms(set.offset_ms);
                Ok(Response::new(said(Ok(()))))
            }
            None => Err(Status::invalid_argument("no action is given, or one that this release does not know")),
        }
    }
}

fn said(done: Result<(), String>) -> lab::ControlResponse {
    lab::ControlResponse { ok: done.is_ok(), why_not: done.err().unwrap_or_default() }
}

/// What one observer is told: the opening picture, then batches of events.
struct Telling {
    opening: Option<lab::Batch>,
    events: Observer,
    guard: super::front::StreamGuard,
}

impl Telling {
    async fn next(&mut self) -> Option<lab::Batch> {
        if let Some(opening) = self.opening.take() {
            return Some(opening);
        }
        let gather = if self.events.is_slowed() { GATHER_SLOWED } else { GATHER };
        tokio::select! {
            batch = self.events.next(gather) => batch,
            _ = self.guard.ended() => None,
        }
    }
}
