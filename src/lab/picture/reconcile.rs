//! What Kubernetes wants and what it has, from its objects in the store: each change with its revision, and who made it.
//!
//! The lab's own watch of all keys tells of them (`own_watch`), so this is what the store holds, not what the controllers say. It knows what
//! has changed since the lab began; of keys that were there before it has not heard.

use crate::lab::promises::Told;
use serde::Deserialize;
use serde::Serialize;
use serde_json::Value;
use serde_json::json;
use std::collections::BTreeMap;
use std::collections::VecDeque;

/// Where Kubernetes keeps its objects.
const REGISTRY: &str = "/registry/";
/// Those that are looked at.
const FOLDERS: [&str; 4] = ["deployments", "replicasets", "pods", "minions"];
/// Larger values are not looked into.
const VALUE_MAX: usize = 64 * 1024;
/// Objects that are remembered, and changes.
const OBJECTS_MAX: usize = 1_000;
const CHANGES_MAX: usize = 50;
/// Names are this long at most.
const NAME_MAX: usize = 63;

/// What an object says, as far as it is drawn.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Glance {
    /// Who wrote it last.
    pub manager: String,
    /// How many are wanted, of a deployment or a replica set.
    pub wanted: Option<i64>,
    /// For which object it was made.
    pub owner: String,
    /// A pod's node.
    pub node: String,
    /// A pod or a node is ready.
    pub is_ready: bool,
    /// How often a pod was started again.
    pub restarts: i64,
}

impl Glance {
    /// Reads the value of a key, if it is one of Kubernetes's that is drawn.
    #[must_use]
    pub fn of(key: &[u8], value: &[u8]) -> Option<Glance> {
        place(key)?;
        let object: Value = (value.len() <= VALUE_MAX).then(|| serde_json::from_slice(value).ok())??;
        let text = |pointer: &str| {
            let text = object.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
            text.chars().filter(|c| !c.is_control()).take(NAME_MAX).collect::<String>()
        };
        let conditions = object.pointer("/status/conditions").and_then(Value::as_array);
        let is_ready = conditions.is_some_and(|all| all.iter().any(|c| c["type"] == "Ready" && c["status"] == "True"));
        let restarts = object.pointer("/status/containerStatuses/0/restartCount").and_then(Value::as_i64);
        Some(Glance {
            manager: text("/metadata/managedFields/0/manager"),
            wanted: object.pointer("/spec/replicas").and_then(Value::as_i64),
            owner: text("/metadata/ownerReferences/0/name"),
            node: text("/spec/nodeName"),
            is_ready,
            restarts: restarts.unwrap_or_default(),
        })
    }
}

/// Folder and name of a key that is drawn.
fn place(key: &[u8]) -> Option<(&'static str, String)> {
    let below = std::str::from_utf8(key).ok()?.strip_prefix(REGISTRY)?;
    let folder = FOLDERS.into_iter().find(|folder| below.split('/').next() == Some(folder))?;
    let name = below.rsplit('/').next()?;
    Some((folder, name.chars().filter(|c| !c.is_control()).take(NAME_MAX).collect()))
}

/// A change, in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Of the store.
    pub revision: i64,
    /// Who wrote it; nobody is known of a deletion.
    pub who: String,
    /// What has become of what.
    pub what: String,
}

/// A deployment in numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Balance {
    /// Its name.
    pub name: String,
    /// Pods that are wanted.
    pub wanted: i64,
    /// That are in the store.
    pub has: usize,
    /// And that run.
    pub run: usize,
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct Reconcile {
    objects: BTreeMap<Vec<u8>, Glance>,
    /// The newest, oldest first.
    pub changes: VecDeque<Change>,
}

impl Reconcile {
    /// Takes in what the lab's own watch was told.
    pub fn hear(&mut self, events: &[Told]) {
        for told in events {
            let Some((folder, name)) = place(&told.key) else { continue };
            let before = self.objects.remove(&told.key);
            let what = words(folder, &name, before.as_ref(), told.object.as_ref());
            if let Some(now) = &told.object
                && self.objects.len() < OBJECTS_MAX
            {
                self.objects.insert(told.key.clone(), now.clone());
            }
            let Some(what) = what else { continue };
            let who = told.object.as_ref().map_or(String::new(), |now| now.manager.clone());
            self.changes.push_back(Change { revision: told.revision, who, what });
            if self.changes.len() > CHANGES_MAX {
                self.changes.pop_front();
            }
        }
    }

    /// Whether Kubernetes has been heard of at all.
    #[must_use]
    pub fn is_there(&self) -> bool {
        !self.changes.is_empty()
    }

    /// What is wanted and what is there, by deployment.
    #[must_use]
    pub fn balances(&self) -> Vec<Balance> {
        let of = |folder: &'static str| {
            let all = self.objects.iter().filter_map(|(key, object)| Some((place(key)?, object)));
            all.filter(move |((at, _), _)| *at == folder).map(|((_, name), object)| (name, object))
        };
        let balance = |(name, deployment): (String, &Glance)| {
            let sets: Vec<String> =
                of("replicasets").filter(|(_, set)| set.owner == name).map(|(set, _)| set).collect();
            let pods: Vec<&Glance> =
                of("pods").filter(|(_, pod)| sets.contains(&pod.owner)).map(|(_, pod)| pod).collect();
            let run = pods.iter().filter(|pod| pod.is_ready).count();
            Balance { name, wanted: deployment.wanted.unwrap_or_default(), has: pods.len(), run }
        };
        of("deployments").map(balance).collect()
    }
}

impl Reconcile {
    /// What the screen shows, as an object.
    pub(super) fn to_json(&self) -> Value {
        let balance = |b: Balance| json!({ "name": b.name, "wanted": b.wanted, "has": b.has, "run": b.run });
        let change = |c: &Change| json!({ "revision": c.revision, "who": c.who, "what": c.what });
        json!({
            "deployments": self.balances().into_iter().map(balance).collect::<Vec<_>>(),
            "changes": self.changes.iter().map(change).collect::<Vec<_>>(),
        })
    }
}

/// What a change means, if it means anything to a learner.
fn words(folder: &str, name: &str, before: Option<&Glance>, now: Option<&Glance>) -> Option<String> {
    let what = match folder {
        "minions" => "node",
        other => other.trim_end_matches('s'),
    };
    let nothing = Glance::default();
    let (Some(now), is_new) = (now, before.is_none()) else { return Some(format!("{what} {name} is deleted")) };
    let was = before.unwrap_or(&nothing);
    match folder {
        "pods" if is_new => Some(format!("pod {name} is made")),
        "pods" if was.node != now.node => Some(format!("pod {name} goes to {}", now.node)),
        "pods" if now.restarts > was.restarts => Some(format!("pod {name} starts again ({})", now.restarts)),
        "pods" if !was.is_ready && now.is_ready => Some(format!("pod {name} runs")),
        "minions" if is_new => Some(format!("node {name} is there")),
        "minions" if was.is_ready && !now.is_ready => Some(format!("node {name} is silent")),
        "minions" if !was.is_ready && now.is_ready => Some(format!("node {name} is ready")),
        "deployments" | "replicasets" if was.wanted != now.wanted => {
            Some(format!("{what} {name} wants {}", now.wanted.unwrap_or_default()))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(revision: i64, key: &str, object: Option<Value>) -> Told {
        let key = format!("/registry/{key}").into_bytes();
        let glance = object.as_ref().and_then(|object| Glance::of(&key, object.to_string().as_bytes()));
        Told { revision, key, deleted: object.is_none(), object: glance }
    }

    #[test]
    fn what_is_wanted_and_what_is_there_come_from_the_store() {
        let by = |who: &str| json!([{"manager": who}]);
        let owner = |name: &str| json!([{"name": name}]);
        let pod = |who: &str, node: &str, ready: &str| {
            json!({
                "metadata": {"managedFields": by(who), "ownerReferences": owner("web-1")}, "spec": {"nodeName": node},
                "status": {"conditions": [{"type": "Ready", "status": ready}]},
            })
        };
        let (pod_key, lease) = ("pods/default/web-1-a", json!({"spec": {"holderIdentity": "w1"}}));
        let mut reconcile = Reconcile::default();
        reconcile.hear(&[
            told(
                5,
                "deployments/default/web",
                Some(json!({"metadata": {"managedFields": by("kubectl")}, "spec": {"replicas": 2}})),
            ),
            told(
                6,
                "replicasets/default/web-1",
                Some(json!({"metadata": {"ownerReferences": owner("web")}, "spec": {"replicas": 2}})),
            ),
            told(7, pod_key, Some(pod("controller", "", ""))),
            told(8, pod_key, Some(pod("scheduler", "w1", ""))),
            told(9, "leases/kube-node-lease/w1", Some(lease)),
            told(10, pod_key, Some(pod("kubelet", "w1", "True"))),
        ]);
        let said: Vec<(i64, &str, &str)> =
            reconcile.changes.iter().map(|c| (c.revision, c.who.as_str(), c.what.as_str())).collect();
        assert_eq!(
            said,
            [
                (5, "kubectl", "deployment web wants 2"),
                (6, "", "replicaset web-1 wants 2"),
                (7, "controller", "pod web-1-a is made"),
                (8, "scheduler", "pod web-1-a goes to w1"),
                (10, "kubelet", "pod web-1-a runs"),
            ]
        );
        assert_eq!(reconcile.balances(), [Balance { name: "web".into(), wanted: 2, has: 1, run: 1 }]);
        reconcile.hear(&[told(11, pod_key, None)]);
        assert_eq!(reconcile.changes.back().map(|c| c.what.as_str()), Some("pod web-1-a is deleted"));
        assert_eq!(reconcile.balances()[0].has, 0);
    }

    #[test]
    fn what_is_not_kubernetes_is_not_looked_into() {
        assert_eq!(Glance::of(b"/team/a", b"{}"), None);
        assert_eq!(Glance::of(b"/registry/pods/default/a", b"k8s\0"), None, "protobuf, from a real API server");
        assert_eq!(Glance::of(b"/registry/podsX/default/a", b"{}"), None);
    }
}
