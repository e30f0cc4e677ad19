//! Objects as kubectl prints them: as rows of a table, whole, or one field.

use super::full_name;
use crate::kube;
use crate::kube::objects;
use crate::kube::objects::CONFIG_MAPS;
use crate::kube::objects::DEPLOYMENTS;
use crate::kube::objects::Kind;
use crate::kube::objects::LEASES;
use crate::kube::objects::NODES;
use crate::kube::objects::PODS;
use crate::kube::objects::REPLICA_SETS;
use crate::kube::objects::SECRETS;
use serde_json::Value;
use serde_json::json;

/// Blanks between two columns.
const GAP: usize = 3;

/// `-o`.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Form {
    Table {
        wide: bool,
    },
    Json,
    Yaml,
    Name,
    /// As in `.items[0].metadata.name`.
    Path(String),
}

impl Form {
    pub(super) fn parse(text: &str) -> Result<Form, String> {
        let path = text.strip_prefix("jsonpath=").map(|path| path.trim_matches(['{', '}', '\'']).to_owned());
        match (text, path) {
            (_, Some(path)) => Ok(Form::Path(path)),
            ("", _) => Ok(Form::Table { wide: false }),
            ("wide", _) => Ok(Form::Table { wide: true }),
            ("json", _) => Ok(Form::Json),
            ("yaml", _) => Ok(Form::Yaml),
            ("name", _) => Ok(Form::Name),
            (other, _) => {
                Err(format!("error: -o {other}: kube-lite has wide, json, yaml, name and jsonpath={{.PATH}}"))
            }
        }
    }

    pub(super) fn is_table(&self) -> bool {
        matches!(self, Form::Table { .. })
    }
}

/// All objects of a list.
pub(super) fn list(kind: &Kind, items: &[Value], form: &Form, with_namespace: bool) -> Result<String, String> {
    let whole = || json!({"kind": "List", "apiVersion": "v1", "items": items});
    Ok(match form {
        Form::Table { wide } => {
            let head = titles(kind, *wide, with_namespace);
            let rows = items.iter().map(|item| cells(kind, item, *wide, with_namespace));
            aligned(&[head].into_iter().chain(rows).collect::<Vec<_>>())
        }
        Form::Json => format!("{:#}\n", whole()),
        Form::Yaml => yaml(&whole()),
        Form::Name => items.iter().map(|item| format!("{}\n", full_name(kind, objects::name(item)))).collect(),
        Form::Path(path) => at_path(&whole(), path)?,
    })
}

/// One object.
pub(super) fn one(kind: &Kind, object: &Value, form: &Form) -> Result<String, String> {
    match form {
        Form::Json => Ok(format!("{object:#}\n")),
        Form::Yaml => Ok(yaml(object)),
        Form::Path(path) => at_path(object, path),
        _ => list(kind, std::slice::from_ref(object), form, false),
    }
}

/// One object as a row below others.
pub(super) fn row(kind: &Kind, object: &Value, form: &Form, with_namespace: bool) -> Result<String, String> {
    match form {
        Form::Table { wide } => {
            let (head, cells) = (titles(kind, *wide, with_namespace), cells(kind, object, *wide, with_namespace));
            let both = aligned(&[head, cells]);
            Ok(both.lines().nth(1).map(|line| format!("{line}\n")).unwrap_or_default())
        }
        _ => one(kind, object, form),
    }
}

/// Everything about an object, for people.
pub(super) fn described(object: &Value) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: &str| {
        if !value.is_empty() {
            text += &format!("{:<15}{value}\n", format!("{name}:"));
        }
    };
    line("Name", objects::name(object));
    line("Namespace", objects::namespace(object));
    line("Created", objects::text(object, "/metadata/creationTimestamp"));
    let owner = &object["metadata"]["ownerReferences"][0];
    if owner.is_object() {
        line("Controlled By", &format!("{}/{}", objects::text(owner, "/kind"), objects::text(owner, "/name")));
    }
    line("Revision", objects::text(object, "/metadata/resourceVersion"));
    line("Written by", objects::text(object, "/metadata/managedFields/0/manager"));
    for part in ["data", "spec", "status"] {
        if let Some(part_of) = object.get(part) {
            let title = part[..1].to_uppercase() + &part[1..];
            text += &format!("{title}:\n{}", indented(&yaml(part_of)));
        }
    }
    text
}

fn indented(text: &str) -> String {
    text.lines().map(|line| format!("  {line}\n")).collect()
}

fn titles(kind: &Kind, wide: bool, with_namespace: bool) -> Vec<String> {
    let own: &[&str] = if kind == &PODS {
        if wide {
            &["NAME", "READY", "STATUS", "RESTARTS", "AGE", "NODE"]
        } else {
            &["NAME", "READY", "STATUS", "RESTARTS", "AGE"]
        }
    } else if kind == &DEPLOYMENTS {
        &["NAME", "READY", "UP-TO-DATE", "AVAILABLE", "AGE"]
    } else if kind == &REPLICA_SETS {
        &["NAME", "DESIRED", "CURRENT", "READY", "AGE"]
    } else if kind == &NODES {
        &["NAME", "STATUS", "ROLES", "AGE", "VERSION"]
    } else if kind == &CONFIG_MAPS {
        &["NAME", "DATA", "AGE"]
    } else if kind == &SECRETS {
        &["NAME", "TYPE", "DATA", "AGE"]
    } else if kind == &LEASES {
        &["NAME", "HOLDER", "AGE"]
    } else {
        &["NAME", "STATUS", "AGE"]
    };
    let namespace = (with_namespace && kind.namespaced).then_some("NAMESPACE");
    namespace.into_iter().chain(own.iter().copied()).map(str::to_owned).collect()
}

fn cells(kind: &Kind, object: &Value, wide: bool, with_namespace: bool) -> Vec<String> {
    let number = |pointer: &str| objects::number(object, pointer).to_string();
    let text = |pointer: &str| objects::text(object, pointer).to_owned();
    let data = || object["data"].as_object().map_or(0, |data| data.len()).to_string();
    let (name, age) = (objects::name(object).to_owned(), age(object));
    let ready = i64::from(objects::is_ready(object));
    let own = if kind == &PODS {
        let restarts = number("/status/containerStatuses/0/restartCount");
        let mut row = vec![name, format!("{ready}/1"), text("/status/phase"), restarts, age];
        let node = text("/spec/nodeName");
        row.extend(wide.then(|| if node.is_empty() { "<none>".to_owned() } else { node }));
        row
    } else if kind == &DEPLOYMENTS {
        let (has, ready) = (number("/status/replicas"), number("/status/readyReplicas"));
        vec![name, format!("{ready}/{}", number("/spec/replicas")), has, ready, age]
    } else if kind == &REPLICA_SETS {
        vec![name, number("/spec/replicas"), number("/status/replicas"), number("/status/readyReplicas"), age]
    } else if kind == &NODES {
        let status = if ready == 1 { "Ready" } else { "NotReady" };
        vec![name, status.to_owned(), "<none>".to_owned(), age, text("/status/nodeInfo/kubeletVersion")]
    } else if kind == &CONFIG_MAPS {
        vec![name, data(), age]
    } else if kind == &SECRETS {
        vec![name, text("/type"), data(), age]
    } else if kind == &LEASES {
        vec![name, text("/spec/holderIdentity"), age]
    } else {
        vec![name, "Active".to_owned(), age]
    };
    let namespace = (with_namespace && kind.namespaced).then(|| objects::namespace(object).to_owned());
    namespace.into_iter().chain(own).collect()
}

fn age(object: &Value) -> String {
    let made = kube::millis_of(objects::text(object, "/metadata/creationTimestamp"));
    let (Some(made), Some(now)) = (made, kube::millis_of(&kube::stamp())) else { return "<unknown>".to_owned() };
    age_words((now - made).max(0) / 1000)
}

/// As kubectl words it: two units while the first is small.
fn age_words(seconds: i64) -> String {
    match seconds {
        0..120 => format!("{seconds}s"),
        120..600 if seconds % 60 != 0 => format!("{}m{}s", seconds / 60, seconds % 60),
        120..7200 => format!("{}m", seconds / 60),
        7200..172_800 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}

fn aligned(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<0$}", width + GAP));
        format!("{}\n", cells.collect::<String>().trim_end())
    };
    rows.iter().map(line).collect()
}

/// An object as YAML, in the order of its fields' names.
fn yaml(value: &Value) -> String {
    match value {
        Value::Object(map) if !map.is_empty() => map
            .iter()
            .map(|(name, value)| match value {
                Value::Object(inner) if !inner.is_empty() => format!("{name}:\n{}", indented(&yaml(value))),
                Value::Array(items) if !items.is_empty() => format!("{name}:\n{}", yaml(value)),
                _ => format!("{name}: {value}\n"),
            })
            .collect(),
        Value::Array(items) if !items.is_empty() => {
            items.iter().map(|item| format!("- {}", indented(&yaml(item)).trim_start())).collect()
        }
        other => format!("{other}\n"),
    }
}

/// A field, such as `.status.containerStatuses[0].containerID`; with `[*]`, those of all, with blanks between.
fn at_path(object: &Value, path: &str) -> Result<String, String> {
    let mut found = vec![object];
    for step in path.split(['.', '[']).map(|step| step.trim_end_matches(']')).filter(|step| !step.is_empty()) {
        found = match (step, step.parse::<usize>()) {
            ("*", _) => found.iter().filter_map(|value| value.as_array()).flatten().collect(),
            (_, Ok(at)) => found.iter().filter_map(|value| value.get(at)).collect(),
            (name, _) => found.iter().filter_map(|value| value.get(name)).collect(),
        };
    }
    if found.is_empty() && path.contains(['(', '?', '$']) {
        return Err(format!("error: jsonpath={{{path}}}: kube-lite reads names, [0] and [*] only"));
    }
    let words: Vec<String> =
        found.iter().map(|value| value.as_str().map_or_else(|| value.to_string(), str::to_owned)).collect();
    Ok(words.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod() -> Value {
        json!({
            "metadata": {"name": "a", "namespace": "default"}, "spec": {"nodeName": "w1"},
            "status": {
                "phase": "Running", "conditions": [{"type": "Ready", "status": "True"}],
                "containerStatuses": [{"restartCount": 2, "containerID": "process://7"}],
            },
        })
    }

    #[test]
    fn a_table_is_aligned_as_kubectl_aligns_it() {
        let text = list(&PODS, &[pod()], &Form::Table { wide: true }, true).expect("a table");
        let wanted = "NAMESPACE   NAME   READY   STATUS    RESTARTS   AGE         NODE\n\
                      default     a      1/1     Running   2          <unknown>   w1\n";
        assert_eq!(text, wanted);
    }

    #[test]
    fn a_path_leads_to_fields() {
        let path = |path: &str| at_path(&json!({"items": [pod(), pod()]}), path);
        assert_eq!(path(".items[0].status.containerStatuses[0].containerID"), Ok("process://7".to_owned()));
        assert_eq!(path(".items[*].metadata.name"), Ok("a a".to_owned()));
        assert_eq!(path(".nothing"), Ok(String::new()));
        assert!(path(".items[?(@.x)]").is_err());
    }

    #[test]
    fn an_object_is_shown_as_yaml() {
        let object = json!({"b": {"c": [{"d": 1, "e": "x"}]}, "a": [], "f": {}});
        assert_eq!(yaml(&object), "a: []\nb:\n  c:\n  - d: 1\n    e: \"x\"\nf: {}\n");
        assert!(described(&pod()).starts_with("Name:          a\nNamespace:     default\nSpec:\n  nodeName: \"w1\"\n"));
    }

    #[test]
    fn ages_are_kubectls() {
        for (seconds, words) in [(5, "5s"), (119, "119s"), (121, "2m1s"), (600, "10m"), (7300, "2h"), (400_000, "4d")] {
            assert_eq!(age_words(seconds), words);
        }
    }
}
