//! Changes of an end state that a check must notice: a check that still passes afterwards has not looked.

use crate::lab::deed::quoted;
use crate::lab::guide::check::Verdict;
use crate::lab::guide::expr::Fact;
use crate::lab::guide::facts::key_of;
use crate::lab::guide::facts::prefix_of;
use crate::lab::guide::gate::COMMAND_WITHIN;
use crate::lab::guide::model::Check;
use crate::lab::guide::session::Checked;
use crate::lab::guide::session::Session;

/// The first mutation that the check notices, or why there is none.
pub(super) async fn spoilt_by(session: &mut Session, check: &Check) -> Result<Result<String, String>, String> {
    if !session.checked_within(check).await.verdict.passed() {
        return Ok(Err("it does not pass, so there is nothing to spoil".into()));
    }
    for mutation in mutations(check) {
        if mutation.is_noticed(session, check).await? {
            return Ok(Ok(mutation.name()));
        }
    }
    Ok(Err("no mutation of the end state made it say not yet; give it `spoil`".into()))
}

/// A change of the end state that a check must notice.
enum Mutation {
    Command(String),
    Answer(String),
    Forget(String),
}

/// What the author says, or what the check's own facts suggest.
fn mutations(check: &Check) -> Vec<Mutation> {
    if let Some(command) = &check.spoil {
        return vec![Mutation::Command(command.clone())];
    }
    let mut found = Vec::new();
    for fact in check.want.facts() {
        match fact {
            Fact::Answer(id) | Fact::AnswerNumber(id) => found.push(Mutation::Answer(id.clone())),
            Fact::Output(id) | Fact::OutputLines(id) | Fact::OutputExit(id) => found.push(Mutation::Forget(id.clone())),
            Fact::Revision => found.push(Mutation::Command("etcdctl put spoilt by-the-gate".into())),
            Fact::MemberCount => {
                found.push(Mutation::Command("etcdctl member add spoilt --peer-urls=http://127.0.0.1:1".into()))
            }
            Fact::File(path, _) if !path.contains(':') => {
                found.push(Mutation::Command(format!("mv {} {}", quoted(path), quoted(&format!("{path}.spoilt")))));
            }
            Fact::File(path, _) => {
                let (node, path) = path.split_once(':').unwrap_or_default();
                found.push(Mutation::Command(format!("on {node} 'mv {path} {path}.spoilt'")));
            }
            Fact::UnitActive(node, unit) => {
                found.push(Mutation::Command(format!("on {node} 'systemctl stop {unit}'")));
            }
            Fact::Member(node, _) | Fact::Log(node, _) => {
                found.push(Mutation::Command(format!("on {node} 'systemctl stop etcd'")));
            }
            _ => {}
        }
        if let Some(key) = key_of(fact) {
            found.push(Mutation::Command(format!("etcdctl put {} spoilt", quoted(key))));
            found.push(Mutation::Command(format!("etcdctl del {}", quoted(key))));
        }
        if let Some(prefix) = prefix_of(fact) {
            found.push(Mutation::Command(format!("etcdctl put {} spoilt", quoted(&format!("{prefix}spoilt")))));
        }
    }
    found
}

impl Mutation {
    fn name(&self) -> String {
        match self {
            Mutation::Command(command) => command.clone(),
            Mutation::Answer(id) => format!("another answer to `{id}`"),
            Mutation::Forget(id) => format!("block `{id}` not run"),
        }
    }

    /// Applies it and looks. Answers and outputs are put back; a cluster is not.
    async fn is_noticed(&self, session: &mut Session, check: &Check) -> Result<bool, String> {
        let noticed = |checked: Checked| matches!(checked.verdict, Verdict::NotYet { .. });
        Ok(match self {
            Mutation::Command(command) => {
                let done = session.shell(command, COMMAND_WITHIN).await?;
                done.exit == 0 && noticed(session.lost_within(check).await)
            }
            Mutation::Answer(id) => {
                let before = session.overwrite(id, Some("spoilt".into()));
                let seen = noticed(session.checked(check).await);
                session.overwrite(id, before);
                seen
            }
            Mutation::Forget(id) => {
                let before = session.forget(id);
                let seen = noticed(session.checked(check).await);
                if let Some(output) = before {
                    session.remember(id, output);
                }
                seen
            }
        })
    }
}
