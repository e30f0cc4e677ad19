//! A copy of all objects of some kinds, kept fresh by watches: what every controller looks at instead of asking.
//!
//! ```text
//! list ──▶ all there is, at revision 40
//! watch ─▶ 41 ADDED · 43 DELETED · BOOKMARK 50 …      it breaks: watch again from 50, nothing is missed
//!      └─▶ 410, the past is compacted away             list again
//! ```
//!
//! It believes that revisions only grow. After a restore they do not, unless they were bumped: then it waits for a revision that is long
//! in its past, and shows what is no more. Source: Kubernetes `client-go/tools/cache/reflector.go`.

use crate::kube::objects;
use crate::kube::objects::Kind;
use crate::kube::rest::Api;
use crate::kube::rest::Refused;
use crate::kube::tell;
use parking_lot::Mutex;
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;

/// The wait before an API server is asked again.
const AGAIN_AFTER: Duration = Duration::from_millis(500);

/// What is known of one kind.
#[derive(Clone, Debug, Default)]
pub(super) struct Known {
    /// By namespace and name.
    pub(super) objects: BTreeMap<(String, String), Value>,
    /// Everything up to here has been seen; 0: nothing yet.
    pub(super) revision: i64,
}

impl Known {
    pub(super) fn get(&self, namespace: &str, name: &str) -> Option<&Value> {
        self.objects.get(&(namespace.to_owned(), name.to_owned()))
    }

    fn listed(&mut self, items: Vec<Value>, revision: i64) {
        self.objects = items.into_iter().map(|object| (id(&object), object)).collect();
        self.revision = revision;
    }

    /// Takes one line of a watch. Whether something is new.
    fn told(&mut self, change: &Value) -> Result<bool, Refused> {
        let object = &change["object"];
        let word = change["type"].as_str().unwrap_or_default();
        match word {
            "ADDED" | "MODIFIED" => drop(self.objects.insert(id(object), object.clone())),
            "DELETED" => drop(self.objects.remove(&id(object))),
            "BOOKMARK" => {}
            _ => {
                let text = |name: &str| object[name].as_str().unwrap_or_default().to_owned();
                let code = object["code"].as_u64().unwrap_or_default();
                return Err(Refused::Answer { code, reason: text("reason"), message: text("message") });
            }
        }
        self.revision = self.revision.max(objects::revision(object));
        Ok(word != "BOOKMARK")
    }
}

fn id(object: &Value) -> (String, String) {
    (objects::namespace(object).to_owned(), objects::name(object).to_owned())
}

/// The copy. Clones share it.
#[derive(Clone)]
pub(super) struct Informer {
    known: Arc<Mutex<BTreeMap<&'static str, Known>>>,
    news: Arc<Notify>,
}

impl Informer {
    /// Begins to follow these kinds, in the background, for as long as the program runs.
    pub(super) fn of(api: &Api, who: &'static str, kinds: &[&'static Kind]) -> Informer {
        let known = kinds.iter().map(|kind| (kind.resource, Known::default())).collect();
        let informer = Informer { known: Arc::new(Mutex::new(known)), news: Arc::default() };
        for kind in kinds {
            tokio::spawn(informer.clone().follow(api.clone(), who, kind));
        }
        informer
    }

    /// Waits for news, but not longer than this.
    pub(super) async fn news(&self, limit: Duration) {
        // No news is an answer, too.
        let _ = tokio::time::timeout(limit, self.news.notified()).await;
    }

    /// What is known now; nothing until every kind has been listed.
    pub(super) fn all(&self) -> Option<BTreeMap<&'static str, Known>> {
        let known = self.known.lock();
        known.values().all(|one| one.revision > 0).then(|| known.clone())
    }

    async fn follow(self, api: Api, who: &'static str, kind: &'static Kind) {
        let mut trouble = String::new();
        loop {
            let ended = self.follow_on(&api, who, kind).await;
            let why = match ended {
                Ok(()) => "the API server has ended the watch".to_owned(),
                Err(why) => {
                    if why.is(410) {
                        let known = self.revision(kind);
                        tell(who, &format!("{}: revision {known} is compacted away: list again", kind.resource));
                        self.change(kind, |known| known.revision = 0);
                        continue;
                    }
                    why.to_string()
                }
            };
            // The same trouble is told once.
            if why != trouble {
                tell(who, &format!("{}: {why}", kind.resource));
                trouble = why;
            }
            tokio::time::sleep(AGAIN_AFTER).await;
        }
    }

    /// Lists, if nothing is known, then watches until the watch ends.
    async fn follow_on(&self, api: &Api, who: &str, kind: &'static Kind) -> Result<(), Refused> {
        if self.revision(kind) == 0 {
            let (items, revision) = api.list(kind, "").await?;
            tell(who, &format!("{}: listed {} at revision {revision}", kind.resource, items.len()));
            self.change(kind, |known| known.listed(items, revision));
        }
        let mut changes = api.watch(kind, "", self.revision(kind)).await?;
        while let Some(change) = changes.next().await? {
            self.change(kind, |known| known.told(&change).map(drop))?;
        }
        Ok(())
    }

    fn revision(&self, kind: &Kind) -> i64 {
        self.known.lock().get(kind.resource).map_or(0, |known| known.revision)
    }

    fn change<T>(&self, kind: &Kind, how: impl FnOnce(&mut Known) -> T) -> T {
        let done = how(self.known.lock().entry(kind_name(kind)).or_default());
        self.news.notify_one();
        done
    }
}

fn kind_name(kind: &Kind) -> &'static str {
    kind.resource
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(name: &str, revision: i64) -> Value {
        json!({"metadata": {"namespace": "default", "name": name, "resourceVersion": revision.to_string()}})
    }

    #[test]
    fn a_copy_follows_its_watch() {
        let mut known = Known::default();
        known.listed(vec![pod("a", 3), pod("b", 4)], 5);
        let told = |known: &mut Known, word: &str, object| known.told(&json!({"type": word, "object": object}));
        assert_eq!(told(&mut known, "ADDED", pod("c", 6)), Ok(true));
        assert_eq!(told(&mut known, "DELETED", pod("a", 7)), Ok(true));
        assert_eq!(told(&mut known, "BOOKMARK", json!({"metadata": {"resourceVersion": "20"}})), Ok(false));
        let names: Vec<&str> = known.objects.keys().map(|(_, name)| name.as_str()).collect();
        assert_eq!((names, known.revision), (vec!["b", "c"], 20));
        let gone = json!({"code": 410, "reason": "Expired", "message": "compacted"});
        assert!(told(&mut known, "ERROR", gone).expect_err("an error").is(410));
    }

    /// What becomes of a copy after a restore that did not bump revisions: it keeps what it knew.
    #[test]
    fn a_copy_goes_by_revisions_alone() {
        let mut known = Known::default();
        known.listed(vec![pod("a", 3)], 50);
        known.told(&json!({"type": "ADDED", "object": pod("b", 9)})).expect("a change");
        assert_eq!(known.revision, 50, "it never goes back");
    }
}
