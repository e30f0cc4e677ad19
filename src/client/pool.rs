//! One connection to every endpoint, kept up in the background.
//!
//! Each endpoint has a task of its own: connect, announce, run, withdraw, wait a little, again. A call reads the board
//! on which they announce, and waits for it to change when it is empty. So a dead endpoint never delays a call.

use super::Config;
use super::connection::Connection;
use super::connection::Dialing;
use super::endpoint::Endpoint;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Waits between attempts to connect: from the first, doubling up to the last.
const RETRY_MIN: Duration = Duration::from_millis(50);
const RETRY_MAX: Duration = Duration::from_secs(1);

/// What the tasks announce.
#[derive(Clone, Default)]
struct Board {
    /// One place per endpoint; empty while it is not connected.
    up: Vec<Option<Connection>>,
    /// Why the last failed attempt failed.
    trouble: Option<String>,
}

/// How a client with this configuration connects.
pub(super) fn dialing(config: &Config) -> Dialing {
    Dialing {
        tls: config.tls.clone(),
        keepalive_time: config.keepalive_time,
        keepalive_timeout: config.keepalive_timeout,
    }
}

/// The connections of one client. The tasks end with it.
pub(super) struct Pool {
    board: watch::Receiver<Board>,
    _tasks: JoinSet<()>,
}

impl Pool {
    /// Starts one task per endpoint.
    pub(super) fn new(config: &Config) -> Pool {
        let dialing = dialing(config);
        let up = vec![None; config.endpoints.len()];
        let (announce, board) = watch::channel(Board { up, trouble: None });
        let announce = Arc::new(announce);
        let mut tasks = JoinSet::new();
        for (place, endpoint) in config.endpoints.iter().enumerate() {
            let endpoint = Endpoint::parse(endpoint);
            tasks.spawn(keep_up(endpoint, dialing.clone(), config.dial_timeout, place, announce.clone()));
        }
        Pool { board, _tasks: tasks }
    }

    /// The connection whose turn it is among those that are up; waits until one is.
    pub(super) async fn pick(&self, turn: usize) -> Connection {
        let mut board = self.board.clone();
        loop {
            {
                let now = board.borrow_and_update();
                let up: Vec<&Connection> = now.up.iter().flatten().collect();
                if !up.is_empty() {
                    return up[turn % up.len()].clone();
                }
            }
            if board.changed().await.is_err() {
                // No endpoints, so no tasks: nothing will ever be up, and the caller's patience decides.
                std::future::pending::<()>().await;
            }
        }
    }

    /// Why the last failed attempt to connect failed.
    pub(super) fn trouble(&self) -> Option<String> {
        self.board.borrow().trouble.clone()
    }

    /// The same, while nothing is up: then it is the reason why a call waits.
    pub(super) fn trouble_if_down(&self) -> Option<String> {
        let board = self.board.borrow();
        if board.up.iter().any(Option::is_some) { None } else { board.trouble.clone() }
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let board = self.board.borrow();
        let up = board.up.iter().flatten().count();
        write!(f, "Pool({up} of {} up, {:?})", board.up.len(), board.trouble)
    }
}

async fn keep_up(
    endpoint: Endpoint,
    dialing: Dialing,
    dial_timeout: Duration,
    place: usize,
    announce: Arc<watch::Sender<Board>>,
) {
    let mut wait = RETRY_MIN;
    loop {
        let attempt = tokio::time::timeout(dial_timeout, dialing.dial(&endpoint)).await;
        match attempt.unwrap_or_else(|_| Err("connection error: timed out waiting for the member to speak".to_owned()))
        {
            Ok((connection, driver)) => {
                wait = RETRY_MIN;
                announce.send_modify(|board| board.up[place] = Some(connection));
                driver.await;
                announce.send_modify(|board| board.up[place] = None);
            }
            Err(why) => announce.send_modify(|board| board.trouble = Some(why)),
        }
        super::pause(wait).await;
        wait = (wait * 2).min(RETRY_MAX);
    }
}
