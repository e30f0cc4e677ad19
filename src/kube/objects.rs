//! The kinds of objects that there are, where the API has them, and under which keys etcd does.
//!
//! An object is JSON, and only `metadata` and a few fields of `spec` and `status` mean anything here. `metadata.resourceVersion` is never
//! stored: it *is* the key's mod revision, filled in when the object is read.

use serde_json::Value;
use serde_json::json;

/// A kind of objects.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Kind {
    /// As in `Pod`.
    pub(super) name: &'static str,
    /// As in `pods`.
    pub(super) resource: &'static str,
    /// As in `pod` and `po`, for kubectl.
    pub(super) short: [&'static str; 2],
    /// Its API group; the core one has no name.
    pub(super) group: &'static str,
    /// Its folder below `/registry`. Nodes were called minions once, and their keys still are.
    pub(super) folder: &'static str,
    /// Whether its objects are in namespaces.
    pub(super) namespaced: bool,
}

macro_rules! kinds {
    ($($constant:ident: $name:literal, $resource:literal, [$one:literal, $short:literal], $group:literal, $folder:literal, $namespaced:literal;)*) => {
        $(pub(super) static $constant: Kind = Kind {
            name: $name, resource: $resource, short: [$one, $short], group: $group, folder: $folder, namespaced: $namespaced,
        };)*
        /// All of them.
        pub(super) static KINDS: [&Kind; 8] = [$(&$constant),*];
    };
}

#[rustfmt::skip]
kinds! {
    NAMESPACES:  "Namespace",  "namespaces",  ["namespace", "ns"],      "",                    "namespaces",  false;
    NODES:       "Node",       "nodes",       ["node", "no"],           "",                    "minions",     false;
    PODS:        "Pod",        "pods",        ["pod", "po"],            "",                    "pods",        true;
    CONFIG_MAPS: "ConfigMap",  "configmaps",  ["configmap", "cm"],      "",                    "configmaps",  true;
    SECRETS:     "Secret",     "secrets",     ["secret", "secret"],     "",                    "secrets",     true;
    DEPLOYMENTS: "Deployment", "deployments", ["deployment", "deploy"], "apps",                "deployments", true;
    REPLICA_SETS:"ReplicaSet", "replicasets", ["replicaset", "rs"],     "apps",                "replicasets", true;
    LEASES:      "Lease",      "leases",      ["lease", "lease"],       "coordination.k8s.io", "leases",      true;
}

impl Kind {
    /// The kind of this word, as a learner types it.
    pub(super) fn named(word: &str) -> Option<&'static Kind> {
        let word = word.split('.').next().unwrap_or(word);
        KINDS.into_iter().find(|kind| kind.resource == word || kind.short.contains(&word))
    }

    /// As in `v1` and `apps/v1`.
    pub(super) fn api_version(&self) -> String {
        if self.group.is_empty() { "v1".to_owned() } else { format!("{}/v1", self.group) }
    }

    /// As error texts name it: `pods`, `deployments.apps`.
    pub(super) fn qualified(&self) -> String {
        if self.group.is_empty() { self.resource.to_owned() } else { format!("{}.{}", self.resource, self.group) }
    }

    /// The API's path for all of a namespace, or for one of them. No namespace: all of them.
    pub(super) fn path(&self, namespace: &str, name: &str) -> String {
        let mut path = if self.group.is_empty() { "/api/v1".to_owned() } else { format!("/apis/{}/v1", self.group) };
        if self.namespaced && !namespace.is_empty() {
            path += &format!("/namespaces/{namespace}");
        }
        path = format!("{path}/{}", self.resource);
        if name.is_empty() { path } else { format!("{path}/{name}") }
    }

    /// What keys of a namespace begin with below the registry; of all namespaces, if none is named.
    pub(super) fn below(&self, namespace: &str) -> String {
        let folder = self.folder;
        if self.namespaced && !namespace.is_empty() { format!("{folder}/{namespace}/") } else { format!("{folder}/") }
    }
}

/// What a path of the API means.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) kind: &'static Kind,
    /// Empty: all of them, or the kind has none.
    pub(super) namespace: String,
    /// Empty: the whole list.
    pub(super) name: String,
}

impl Target {
    /// Reads a path, such as `/apis/apps/v1/namespaces/default/deployments/web`.
    pub(super) fn parse(path: &str) -> Option<Target> {
        let words: Vec<&str> = path.split('/').filter(|word| !word.is_empty()).collect();
        let (group, rest) = match words.as_slice() {
            ["api", "v1", rest @ ..] => ("", rest),
            ["apis", group, "v1", rest @ ..] => (*group, rest),
            _ => return None,
        };
        let known = |word: &str| KINDS.into_iter().find(|kind| kind.group == group && kind.resource == word);
        let (namespace, kind, rest) = match rest {
            ["namespaces", namespace, resource, rest @ ..] => (*namespace, known(resource)?, rest),
            [resource, rest @ ..] => ("", known(resource)?, rest),
            [] => return None,
        };
        let name = match rest {
            [] => "",
            [name] if kind.namespaced != namespace.is_empty() => name,
            _ => return None,
        };
        if !kind.namespaced && !namespace.is_empty() {
            return None;
        }
        Some(Target { kind, namespace: namespace.to_owned(), name: name.to_owned() })
    }
}

/// A text of an object, such as `/spec/nodeName`; empty if it is not there.
pub(super) fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// A number of an object; 0 if it is not there.
pub(super) fn number(object: &Value, pointer: &str) -> i64 {
    object.pointer(pointer).and_then(Value::as_i64).unwrap_or_default()
}

/// Its name.
pub(super) fn name(object: &Value) -> &str {
    text(object, "/metadata/name")
}

/// Its namespace.
pub(super) fn namespace(object: &Value) -> &str {
    text(object, "/metadata/namespace")
}

/// The revision at which it was changed last.
pub(super) fn revision(object: &Value) -> i64 {
    text(object, "/metadata/resourceVersion").parse().unwrap_or_default()
}

/// Writes the revision of its key into it.
pub(super) fn set_revision(object: &mut Value, revision: i64) {
    set(object, &["metadata", "resourceVersion"], json!(revision.to_string()));
}

/// Sets a field, and makes the objects on the way to it.
pub(super) fn set(object: &mut Value, path: &[&str], value: Value) {
    let Some((last, way)) = path.split_last() else { return };
    let mut at = object;
    for step in way {
        if !at.get(*step).is_some_and(Value::is_object) {
            let Some(map) = at.as_object_mut() else { return };
            map.insert((*step).to_owned(), json!({}));
        }
        at = &mut at[*step];
    }
    if let Some(map) = at.as_object_mut() {
        map.insert((*last).to_owned(), value);
    }
}

/// Whether `object` was made for the object with this name, of this kind.
pub(super) fn owner<'a>(object: &'a Value, kind: &Kind) -> &'a str {
    let owner = object.pointer("/metadata/ownerReferences/0");
    owner.filter(|owner| owner["kind"] == kind.name).map_or("", |owner| text(owner, "/name"))
}

/// Whether a node or a pod says that it is ready.
pub(super) fn is_ready(object: &Value) -> bool {
    let conditions = object.pointer("/status/conditions").and_then(Value::as_array);
    conditions.is_some_and(|all| all.iter().any(|c| c["type"] == "Ready" && c["status"] == "True"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_and_keys_are_those_of_kubernetes() {
        assert_eq!(DEPLOYMENTS.path("default", "web"), "/apis/apps/v1/namespaces/default/deployments/web");
        assert_eq!(PODS.path("", ""), "/api/v1/pods");
        assert_eq!(NODES.path("", "w1"), "/api/v1/nodes/w1");
        assert_eq!(PODS.below("default"), "pods/default/");
        assert_eq!(NODES.below("default"), "minions/", "nodes are in no namespace, and were minions once");
    }

    #[test]
    fn a_path_is_read_as_it_is_written() {
        for kind in KINDS {
            for (namespace, name) in [("", ""), ("default", ""), ("default", "x")] {
                let namespace = if kind.namespaced { namespace } else { "" };
                let target = Target { kind, namespace: namespace.to_owned(), name: name.to_owned() };
                assert_eq!(Target::parse(&kind.path(namespace, name)), Some(target));
            }
        }
        let nonsense =
            ["/", "/api/v1", "/api/v1/things", "/api/v1/pods/x", "/apis/apps/v1/pods", "/api/v1/namespaces/a/nodes/b"];
        for path in nonsense {
            assert_eq!(Target::parse(path), None, "{path}");
        }
    }

    #[test]
    fn a_field_is_set_with_what_is_above_it() {
        let mut object = json!({"status": "old"});
        set(&mut object, &["status", "phase"], json!("Running"));
        assert_eq!(object, json!({"status": {"phase": "Running"}}));
    }
}
