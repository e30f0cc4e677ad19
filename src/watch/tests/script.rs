//! Scripts of watch groups: `src/watch/scripts/`. Each stream holds two responses with events before its watchers lag.
//!
//! | command | what it does |
//! |---|---|
//! | `write a -b` | one revision: `a` is put, `b` deleted |
//! | `compact R` | history below R is gone |
//! | `open S` | a stream named S |
//! | `watch S KEY [end=KEY] [from=R] [id=N] [prev] [notify] [noput] [nodelete]` | a create request |
//! | `cancel S N`, `progress S` | the other requests |
//! | `tick S` | time for progress reports |
//! | `read S [N]` | the client takes N responses, or all |
//! | `close S` | the client goes away |
//! | `count` | how many watch, how many of them lag |

use super::*;
use crate::golden;

struct Scene {
    world: World,
    streams: BTreeMap<String, Stream>,
}

impl Scene {
    fn new() -> Scene {
        let limits = Limits { queue_responses: 2, stream_watchers: 4, watchers: 7, ..Limits::default() };
        Scene { world: World::with(limits), streams: BTreeMap::new() }
    }

    fn stream(&self, name: &str) -> &Stream {
        self.streams.get(name).expect("an open stream")
    }

    fn run(&mut self, words: &[&str]) -> String {
        match words {
            ["write", keys @ ..] => {
                self.world.write(keys);
                return format!("revision {}", self.world.now());
            }
            ["compact", revision] => self.world.compact(revision.parse().expect("a revision")),
            ["open", name] => drop(self.streams.insert((*name).to_owned(), self.world.hub.open_stream())),
            ["watch", name, key, more @ ..] => send(self.stream(name), request(key, more)),
            ["cancel", name, id] => cancel(self.stream(name), id.parse().expect("an id")),
            ["progress", name] => ask_progress(self.stream(name)),
            ["tick", name] => self.stream(name).report_progress(),
            ["read", name, count @ ..] => {
                let count = count.first().map_or(usize::MAX, |count| count.parse().expect("a number"));
                let responses = std::iter::from_fn(|| self.world.next(self.stream(name))).take(count);
                return responses.map(|response| show(&response) + "\n").collect();
            }
            ["close", name] => drop(self.streams.remove(*name)),
            ["count"] => {
                let Counts { streams, watchers, slow, pending } = self.world.hub.counts();
                return format!("{streams} streams, {watchers} watchers, {slow} lag, {pending} responses wait");
            }
            other => panic!("no command: {other:?}"),
        }
        String::new()
    }
}

fn request(key: &str, more: &[&str]) -> pb::WatchCreateRequest {
    let mut create = pb::WatchCreateRequest { key: key.to_owned().into(), ..Default::default() };
    for word in more {
        match word.split_once('=').unwrap_or((word, "")) {
            ("end", end) => create.range_end = end.to_owned().into(),
            ("from", revision) => create.start_revision = revision.parse().expect("a revision"),
            ("id", id) => create.watch_id = id.parse().expect("an id"),
            ("prev", _) => create.prev_kv = true,
            ("notify", _) => create.progress_notify = true,
            ("noput", _) => create.filters.push(0),
            ("nodelete", _) => create.filters.push(1),
            other => panic!("no option: {other:?}"),
        }
    }
    create
}

#[test]
fn watchers_are_told_as_their_scripts_say() {
    golden::check("src/watch/scripts", Scene::new, |scene, words| scene.run(words));
}
