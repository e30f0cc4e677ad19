//! `defrag` and `downgrade`: what is done to the members themselves.
//!
//! Source: etcd `ctlv3/command/defrag_command.go`, `downgrade_command.go`.
#![expect(clippy::disallowed_methods, reason = "tells how long it took")]

use super::endpoint;
use super::exit;
use super::exit::Exit;
use super::exit::Outcome;
use super::print::auth::Downgrade;
use super::session::Session;
use crate::cmdline::progress::Bar;
use crate::golang;
use crate::proto::etcdserverpb::DefragmentRequest;
use crate::proto::etcdserverpb::DowngradeRequest;
use crate::proto::etcdserverpb::downgrade_request::DowngradeAction;
use crate::utl;
use std::time::Instant;

/// `defrag`: one endpoint after the other, since a member serves nobody meanwhile in etcd.
pub(super) async fn defrag(session: &mut Session<'_>) -> Outcome {
    if session.args.is_given("data-dir") {
        writeln!(session.err, "Deprecated: Use `etcdutl defrag` instead.\n")?;
        let run = utl::defrag(&session.args, session.err);
        return run.map_err(|failed| Exit::new(failed.code, failed.message));
    }
    let endpoints = endpoint::endpoints(session).await?;
    let (mut failures, mut done, mut bar) = (0, 0, Bar::new(endpoints.len() as u64));
    for endpoint in endpoints {
        bar.show(done, session.err);
        let client = session.client_of(&endpoint).await?;
        let began = Instant::now();
        let answer = client.call(DefragmentRequest {}).await;
        let took = golang::duration(began.elapsed());
        done += 1;
        bar.wipe(session.err);
        match answer {
            Ok(_) => session.line(format_args!("Finished defragmenting etcd member[{endpoint}]. took {took}"))?,
            Err(error) => {
                session.explain(&error);
                writeln!(session.err, "Failed to defragment etcd member[{endpoint}]. took {took}. ({error})")?;
                failures += 1;
            }
        }
    }
    bar.show(done, session.err);
    bar.end(session.err);
    if failures == 0 { Ok(()) } else { Err(Exit::silent(exit::ERROR)) }
}

/// `downgrade validate`.
pub(super) async fn downgrade_validate(session: &mut Session<'_>) -> Outcome {
    let version = target(session)?;
    downgrade(session, "validate", DowngradeAction::Validate, version).await
}

/// `downgrade enable`.
pub(super) async fn downgrade_enable(session: &mut Session<'_>) -> Outcome {
    let version = target(session)?;
    downgrade(session, "enable", DowngradeAction::Enable, version).await
}

/// `downgrade cancel`.
pub(super) async fn downgrade_cancel(session: &mut Session<'_>) -> Outcome {
    downgrade(session, "cancel", DowngradeAction::Cancel, String::new()).await
}

fn target(session: &Session<'_>) -> Result<String, Exit> {
    match session.args.words.len() {
        0 => Err(Exit::bad_args("TARGET_VERSION not provided")),
        1 if session.args.words[0].is_empty() => Err(Exit::bad_args("target version not provided")),
        1 => Ok(session.args.word(0)),
        _ => Err(Exit::bad_args("too many arguments")),
    }
}

async fn downgrade(session: &mut Session<'_>, name: &'static str, action: DowngradeAction, version: String) -> Outcome {
    let answer = session.ask(DowngradeRequest { action: action.into(), version }).await?;
    session.print(&Downgrade(name, answer))
}
