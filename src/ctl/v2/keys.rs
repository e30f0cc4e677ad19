//! `set`, `get`, `mk`, `update`, `rm`, `ls` and their likes for directories.
#![expect(clippy::disallowed_methods, reason = "tells when a key will expire")]

use super::BAD_ARGS;
use super::Exit;
use super::Outcome;
use super::World;
use super::store::Change;
use super::store::Failure;
use super::store::Node;
use super::store::Removal;
use super::store::Response;
use super::store::path_of;
use time::OffsetDateTime;

pub(super) fn now() -> OffsetDateTime {
    OffsetDateTime::from(std::time::SystemTime::now())
}

fn text(given: &str) -> Option<String> {
    (!given.is_empty()).then(|| given.to_owned())
}

fn number(given: i64) -> Option<i64> {
    (given != 0).then_some(given)
}

impl World<'_> {
    async fn printed(&mut self, result: Result<Response, Failure>) -> Outcome {
        match result {
            Ok(response) => self.print(&response),
            Err(failure) => Err(self.failed(failure).await),
        }
    }

    async fn write(&mut self, change: Change) -> Outcome {
        let (key, value) = (self.key()?, self.value()?);
        let change = Change { value, ttl: self.line.number("ttl"), ..change };
        let written = self.store().await?.write(&key, &change, now()).await;
        self.printed(written).await
    }

    /// Directories are made without a word, unless another format is wanted.
    async fn write_dir(&mut self, exists: Option<bool>) -> Outcome {
        let key = self.key()?;
        let change = Change { dir: true, exists, ttl: self.line.number("ttl"), ..Change::default() };
        let written = self.store().await?.write(&key, &change, now()).await;
        if written.is_ok() && self.output() == "simple" {
            return Ok(());
        }
        self.printed(written).await
    }

    async fn remove(&mut self, removal: Removal) -> Outcome {
        let key = self.key()?;
        let removed = self.store().await?.remove(&key, &removal).await;
        if removed.as_ref().is_ok_and(|response| response.node.dir) && self.output() == "simple" {
            return Ok(());
        }
        self.printed(removed).await
    }
}

pub(super) async fn set(world: &mut World<'_>) -> Outcome {
    let previous_value = text(world.line.text("swap-with-value"));
    let previous_index = number(world.line.number("swap-with-index"));
    world.write(Change { previous_value, previous_index, ..Change::default() }).await
}

pub(super) async fn update(world: &mut World<'_>) -> Outcome {
    world.write(Change { exists: Some(true), ..Change::default() }).await
}

pub(super) async fn mk(world: &mut World<'_>) -> Outcome {
    if !world.line.is_set("in-order") {
        return world.write(Change { exists: Some(false), ..Change::default() }).await;
    }
    let (key, value) = (world.key()?, world.value()?);
    let change = Change { value, ttl: world.line.number("ttl"), ..Change::default() };
    let made = world.store().await?.create_in_order(&key, &change, now()).await;
    world.printed(made).await
}

pub(super) async fn mkdir(world: &mut World<'_>) -> Outcome {
    world.write_dir(Some(false)).await
}

pub(super) async fn setdir(world: &mut World<'_>) -> Outcome {
    world.write_dir(None).await
}

pub(super) async fn updatedir(world: &mut World<'_>) -> Outcome {
    world.write_dir(Some(true)).await
}

pub(super) async fn rm(world: &mut World<'_>) -> Outcome {
    let removal = Removal {
        dir: world.line.is_set("dir"),
        recursive: world.line.is_set("recursive"),
        previous_value: text(world.line.text("with-value")),
        previous_index: number(world.line.number("with-index")),
    };
    world.remove(removal).await
}

pub(super) async fn rmdir(world: &mut World<'_>) -> Outcome {
    world.remove(Removal { dir: true, ..Removal::default() }).await
}

pub(super) async fn get(world: &mut World<'_>) -> Outcome {
    let key = world.key()?;
    let found = world.store().await?.get(&key, false, now()).await;
    if let Ok(response) = &found
        && response.node.dir
    {
        return Err(Exit::plain(BAD_ARGS, format!("{}: is a directory", response.node.key)));
    }
    world.printed(found).await
}

pub(super) async fn ls(world: &mut World<'_>) -> Outcome {
    let path = path_of(world.line.words.first().map_or("/", String::as_str));
    let (recursive, slash) = (world.line.is_set("recursive"), world.line.is_set("p"));
    let found = world.store().await?.get(&path, recursive, now()).await;
    match &found {
        Ok(response) if world.output() == "simple" => {
            let mut lines = String::new();
            if !response.node.dir {
                lines = format!("{}\n", response.node.key);
            }
            response.node.nodes.iter().flatten().for_each(|node| list(node, slash, &mut lines));
            Ok(world.out.write_all(lines.as_bytes())?)
        }
        _ => world.printed(found).await,
    }
}

fn list(node: &Node, slash: bool, lines: &mut String) {
    let end = if node.dir && slash { "/\n" } else { "\n" };
    lines.push_str(&node.key);
    lines.push_str(end);
    node.nodes.iter().flatten().for_each(|below| list(below, slash, lines));
}
