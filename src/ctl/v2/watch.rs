//! `watch` and `exec-watch`: v3's changes told as v2's, one for each revision. Source: etcd 3.4 `etcdctl/ctlv2/command/watch_command.go`,
//! `etcdserver/api/v2store/watcher_hub.go`.

use super::BAD_ARGS;
use super::Exit;
use super::Outcome;
use super::World;
use super::store::ACTION;
use super::store::Done;
use super::store::Failure;
use super::store::KEYS;
use super::store::Node;
use super::store::ROOT;
use super::store::Response;
use super::store::index_of;
use super::store::node_of;
use super::store::path_of;
use super::store::revision_of;
use crate::client::Watch;
use crate::client::prefix_end;
use crate::client::watch_from;
use crate::proto::mvccpb::Event;
use crate::proto::mvccpb::event::EventType;
use std::collections::VecDeque;
use std::pin::pin;
use tokio::process::Command;

/// A path, and whether what is below it counts too.
struct Watched {
    path: String,
    recursive: bool,
}

impl Watched {
    /// Whether a change is one of this watcher's: of the path itself, below it if that counts, or of a directory above it that went.
    fn sees(&self, response: &Response) -> bool {
        let key = response.node.key.as_str();
        let is_below =
            |key: &str, dir: &str| dir == "/" || key.strip_prefix(dir).is_some_and(|rest| rest.starts_with('/'));
        let is_hidden = |rest: &str| rest.split('/').any(|part| part.starts_with('_'));
        let gone = matches!(response.action.as_str(), "delete" | "expire");
        key == self.path
            || (self.recursive
                && is_below(key, &self.path)
                && !is_hidden(&key[self.path.trim_end_matches('/').len()..]))
            || (gone && response.node.dir && is_below(&self.path, key))
    }
}

/// Changes that wait to be told.
struct Changes {
    watch: Watch,
    watched: Watched,
    told: VecDeque<Response>,
}

impl Changes {
    async fn begin(world: &mut World<'_>, path: String) -> Result<Changes, Exit> {
        let after = world.line.number("after-index");
        let watched = Watched { path, recursive: world.line.is_set("recursive") };
        let from = if after == 0 { 0 } else { revision_of(after + 1) };
        let mut request = watch_from(ROOT, prefix_end(ROOT.as_bytes()), from);
        request.prev_kv = true;
        let client = world.store().await?.client;
        Ok(Changes { watch: client.watch(request), watched, told: VecDeque::new() })
    }

    /// The next change; nothing once the user has interrupted: etcd's tool ends well then.
    async fn next_unless(
        &mut self,
        world: &mut World<'_>,
        interrupted: &mut (impl Future + Unpin),
    ) -> Result<Option<Response>, Exit> {
        let next = tokio::select! {
            next = self.next() => next,
            _ = interrupted => return Ok(None),
        };
        match next {
            Ok(response) => Ok(Some(response)),
            Err(failure) => Err(world.failed(failure).await),
        }
    }

    async fn next(&mut self) -> Result<Response, Failure> {
        loop {
            if let Some(response) = self.told.pop_front() {
                return Ok(response);
            }
            let Some(answer) = self.watch.next().await? else {
                return Err(Failure::Refused { code: 400, cause: "the watch is over".to_owned(), index: 0 });
            };
            let index = index_of(answer.header.unwrap_or_default().revision);
            if answer.compact_revision != 0 {
                let cause =
                    format!("the requested history has been cleared [{}/{index}]", index_of(answer.compact_revision));
                return Err(Failure::Refused { code: 401, cause, index });
            }
            let mut events = answer.events.as_slice();
            while let Some(first) = events.first() {
                let revision = revision(first);
                let count = events.iter().take_while(|event| self::revision(event) == revision).count();
                let (these, rest) = events.split_at(count);
                let seen = changes(these).into_iter().filter(|response| self.watched.sees(response));
                self.told.extend(seen.map(|response| Response { index, ..response }));
                events = rest;
            }
        }
    }
}

fn revision(event: &Event) -> i64 {
    event.kv.as_ref().map_or(0, |kv| kv.mod_revision)
}

/// The v2 changes of one revision: the one that its action names; or what a lease took, without what is below a directory that it took.
fn changes(events: &[Event]) -> Vec<Response> {
    let kv = |event: &Event| event.kv.clone().unwrap_or_default();
    let action = events.iter().map(kv).find(|kv| kv.key == ACTION);
    let done: Option<Done> = action.and_then(|kv| serde_json::from_slice(&kv.value).ok());
    let mut nodes: Vec<(Node, Option<Node>, bool)> = Vec::new();
    for event in events.iter().filter(|event| kv(event).key.starts_with(KEYS.as_bytes())) {
        let prev = event.prev_kv.as_ref().map(node_of);
        let deleted = event.r#type() == EventType::Delete;
        let mut node = node_of(&kv(event));
        if deleted {
            node.created = prev.as_ref().map_or(0, |prev| prev.created);
        }
        nodes.push((node, prev, deleted));
    }
    let response = |action: &str, node: Node, prev: Option<Node>| {
        let index = node.modified;
        Response { action: action.to_owned(), node, prev, index }
    };
    match done {
        Some(done) => {
            // In the place of a file a directory may have come: then there are two, and the one that is there counts.
            let own = |(node, ..): &&(Node, Option<Node>, bool)| node.key == done.key;
            let mine: Vec<_> = nodes.iter().filter(own).cloned().collect();
            let chosen = mine.iter().find(|(.., deleted)| !deleted).or(mine.first()).cloned();
            chosen.map(|(node, prev, _)| response(&done.action, node, prev)).into_iter().collect()
        }
        None => {
            let dirs: Vec<String> =
                nodes.iter().filter(|(node, ..)| node.dir).map(|(node, ..)| format!("{}/", node.key)).collect();
            let top =
                |(node, ..): &(Node, Option<Node>, bool)| !dirs.iter().any(|dir| node.key.starts_with(dir.as_str()));
            nodes.into_iter().filter(top).map(|(node, prev, _)| response("expire", node, prev)).collect()
        }
    }
}

/// `watch`: one change, or all.
pub(super) async fn watch(world: &mut World<'_>) -> Outcome {
    let path = world.key()?;
    let (forever, recursive) = (world.line.is_set("forever"), world.line.is_set("recursive"));
    let mut changes = Changes::begin(world, path).await?;
    let mut interrupted = pin!(tokio::signal::ctrl_c());
    while let Some(response) = changes.next_unless(world, &mut interrupted).await? {
        if response.node.dir {
            continue;
        }
        if recursive {
            world.say(format_args!("[{}] {}", response.action, response.node.key))?;
        }
        world.print(&response)?;
        if !forever {
            return Ok(());
        }
    }
    Ok(())
}

/// `exec-watch`: a command for each change, until it is interrupted.
pub(super) async fn exec_watch(world: &mut World<'_>) -> Outcome {
    let words = world.line.words.clone();
    if words.len() < 2 {
        return Err(Exit::error(BAD_ARGS, "key and command to exec required"));
    }
    // Without `--` the key is the last word, as in etcd.
    let (key, command) = match world.line.before_dashes {
        Some(before @ 1..) => (words[0].clone(), words[before..].to_vec()),
        _ => (words[words.len() - 1].clone(), words[..words.len() - 1].to_vec()),
    };
    let [program, arguments @ ..] = command.as_slice() else {
        return Err(Exit::error(BAD_ARGS, "key and command to exec required"));
    };
    let mut changes = Changes::begin(world, path_of(&key)).await?;
    // One for all of it: an interrupt while a command runs counts, too.
    let mut interrupted = pin!(tokio::signal::ctrl_c());
    while let Some(response) = changes.next_unless(world, &mut interrupted).await? {
        if response.node.dir {
            writeln!(world.err, "Ignored dir {} change", response.node.key)?;
            continue;
        }
        let mut child = Command::new(program);
        child.args(arguments).envs(world.env.iter().cloned());
        child.env("ETCD_WATCH_ACTION", &response.action).env("ETCD_WATCH_KEY", &response.node.key);
        child.env("ETCD_WATCH_MODIFIED_INDEX", response.node.modified.to_string());
        child.env("ETCD_WATCH_VALUE", &response.node.value);
        // One after the other, in the order of the changes; etcd's tool started them all at once.
        let ended = tokio::select! {
            ended = child.status() => ended,
            _ = &mut interrupted => return Ok(()),
        };
        if let Err(why) = ended {
            return Err(Exit::plain(BAD_ARGS, format!("exec: {program}: {why}")));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn response(action: &str, key: &str, dir: bool) -> Response {
        let node = Node { key: key.to_owned(), dir, ..Node::default() };
        Response { action: action.to_owned(), node, prev: None, index: 1 }
    }

    #[test]
    fn a_watcher_sees_its_path_and_what_takes_it_away() {
        let one = Watched { path: "/a/b".to_owned(), recursive: false };
        assert!(one.sees(&response("set", "/a/b", false)));
        assert!(!one.sees(&response("set", "/a/b/c", false)) && !one.sees(&response("set", "/a/bc", false)));
        assert!(one.sees(&response("delete", "/a", true)) && !one.sees(&response("update", "/a", true)));
        let all = Watched { path: "/a".to_owned(), recursive: true };
        assert!(all.sees(&response("set", "/a/b/c", false)) && !all.sees(&response("set", "/ab", false)));
        assert!(!all.sees(&response("set", "/a/_h", false)), "hidden");
        assert!(Watched { path: "/".to_owned(), recursive: true }.sees(&response("set", "/x", false)));
    }
}
