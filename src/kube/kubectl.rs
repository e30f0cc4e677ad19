//! `kubectl`, as far as the labs need it: get, describe, create, run, scale and delete, with its own words and its own messages.
//!
//! It knows nothing that the API server does not tell it. Objects are read and written as JSON; `describe` and `-o yaml` show them whole.
//! Left out: everything that is not in [`USAGE`], and YAML as input.

mod show;

use crate::cmdline::args::Args;
use crate::cmdline::args::Flag;
use crate::cmdline::args::Kind::List;
use crate::cmdline::args::Kind::Number;
use crate::cmdline::args::Kind::Switch;
use crate::cmdline::args::Kind::Text;
use crate::kube;
use crate::kube::objects;
use crate::kube::objects::DEPLOYMENTS;
use crate::kube::objects::Kind;
use crate::kube::rest::Api;
use crate::kube::rest::Refused;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use serde_json::json;
use std::io::Read as _;
use std::io::Write as _;

const ME: &str = "kubectl";

const USAGE: &str = "\
kubectl: kube-lite's, which knows of the real one's commands these:

  kubectl get TYPE [NAME] [-n NAMESPACE | -A] [-o wide|json|yaml|name|jsonpath={.PATH}] [-w]
  kubectl get --raw=/readyz
  kubectl describe TYPE NAME
  kubectl create namespace NAME
  kubectl create deployment NAME --image=IMAGE [--replicas=N]
  kubectl create configmap NAME --from-literal=KEY=VALUE
  kubectl create secret generic NAME --from-literal=KEY=VALUE
  kubectl create -f FILE                    (JSON; - is standard input)
  kubectl run NAME --image=IMAGE            (one pod, which nobody replaces)
  kubectl scale deployment NAME --replicas=N
  kubectl delete TYPE NAME

Types: namespaces (ns), nodes (no), pods (po), deployments (deploy), replicasets (rs), configmaps (cm), secrets, leases. TYPE/NAME works, too.
";

#[rustfmt::skip]
static FLAGS: [Flag; 9] = [
    Flag { name: "namespace", short: 'n', kind: Text, default: "default", help: "the namespace" },
    Flag { name: "all-namespaces", short: 'A', kind: Switch, default: "false", help: "all of them" },
    Flag { name: "output", short: 'o', kind: Text, default: "", help: "wide, json, yaml, name or jsonpath={.PATH}" },
    Flag { name: "watch", short: 'w', kind: Switch, default: "false", help: "go on with what changes" },
    Flag { name: "raw", short: ' ', kind: Text, default: "", help: "a path of the API" },
    Flag { name: "filename", short: 'f', kind: Text, default: "", help: "a file with an object" },
    Flag { name: "image", short: ' ', kind: Text, default: "", help: "the container's image" },
    Flag { name: "replicas", short: ' ', kind: Number, default: "1", help: "how many pods" },
    Flag { name: "from-literal", short: ' ', kind: List, default: "", help: "KEY=VALUE" },
];

pub(super) async fn main(words: &[String]) -> Result<(), String> {
    if matches!(words.first().map(String::as_str), None | Some("help" | "--help" | "-h")) {
        print(USAGE);
        return Ok(());
    }
    let known: Vec<&'static Flag> = FLAGS.iter().chain([&kube::KUBECONFIG]).collect();
    let args = kube::parsed(ME, words, &known)?;
    let words: Vec<String> = (0..args.words.len()).map(|at| args.word(at)).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let hand = Hand { api: Api::new(kube::config_file(&args)?, ME), args };
    hand.carry_out(&words).await
}

/// Prints; a reader that is gone is no failure.
fn print(text: &str) {
    let mut out = std::io::stdout();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

struct Hand {
    api: Api,
    args: Args,
}

/// A refusal by the API server, as kubectl words it.
fn said(refused: Refused) -> String {
    refused.to_string()
}

impl Hand {
    async fn carry_out(&self, words: &[&str]) -> Result<(), String> {
        match words {
            ["get"] if self.args.is_given("raw") => {
                print(&self.api.raw(self.args.text("raw").unwrap_or_default()).await.map_err(said)?);
                print("\n");
                Ok(())
            }
            ["get", what, names @ ..] => self.get(what, names).await,
            ["describe", rest @ ..] => {
                for (kind, name) in named(rest)? {
                    let object = self.api.get(&kind.path(self.namespace(), &name)).await.map_err(said)?;
                    print(&show::described(&object));
                }
                Ok(())
            }
            ["create"] if self.args.is_given("filename") => self.create_from_file().await,
            ["create", "namespace" | "ns", name] => self.create(&objects::NAMESPACES, name, json!({})).await,
            ["create", "deployment" | "deploy", name] => {
                let spec = json!({
                    "replicas": self.replicas()?, "selector": {"matchLabels": {"app": name}}, "template": self.template(name)?,
                });
                self.create(&DEPLOYMENTS, name, json!({"metadata": {"labels": {"app": name}}, "spec": spec})).await
            }
            ["create", "configmap" | "cm", name] => {
                self.create(&objects::CONFIG_MAPS, name, json!({"data": self.literals(str::to_owned)?})).await
            }
            ["create", "secret", "generic", name] => {
                let data = self.literals(|value| STANDARD.encode(value))?;
                self.create(&objects::SECRETS, name, json!({"type": "Opaque", "data": data})).await
            }
            ["run", name] => {
                let mut pod = self.template(name)?;
                pod["status"] = json!({"phase": "Pending"});
                self.create(&objects::PODS, name, pod).await
            }
            ["scale", rest @ ..] => self.scale(rest).await,
            ["delete", rest @ ..] => self.delete(rest).await,
            [first, ..] => {
                Err(format!("error: kube-lite's kubectl has no such command: {first:?} as you wrote it\n\n{USAGE}"))
            }
            [] => Err(format!("error: which command?\n\n{USAGE}")),
        }
    }

    fn namespace(&self) -> &str {
        self.args.text("namespace").unwrap_or("default")
    }

    fn replicas(&self) -> Result<i64, String> {
        match self.args.is_given("replicas").then(|| self.args.number("replicas")) {
            None => Ok(1),
            Some(count @ 0..=500) => Ok(count),
            Some(other) => Err(format!("error: --replicas={other}: kube-lite takes 0 to 500")),
        }
    }

    /// A pod with one container.
    fn template(&self, name: &str) -> Result<Value, String> {
        let image = self.args.text("image").filter(|image| !image.is_empty());
        let image = image.ok_or("error: required flag(s) \"image\" not set")?;
        let labels = json!({"labels": {"app": name}});
        Ok(json!({"metadata": labels, "spec": {"containers": [{"name": name, "image": image}]}}))
    }

    fn literals(&self, value: impl Fn(&str) -> String) -> Result<Value, String> {
        let mut data = json!({});
        let given = self.args.text("from-literal").unwrap_or_default();
        for pair in given.split(',').filter(|pair| !pair.is_empty()) {
            let (key, text) = pair
                .split_once('=')
                .ok_or_else(|| format!("error: invalid literal source {pair}, expected key=value"))?;
            data[key] = json!(value(text));
        }
        Ok(data)
    }

    async fn create(&self, kind: &'static Kind, name: &str, mut object: Value) -> Result<(), String> {
        objects::set(&mut object, &["metadata", "name"], json!(name));
        if kind.namespaced {
            objects::set(&mut object, &["metadata", "namespace"], json!(self.namespace()));
        }
        let made = self.api.create(kind, &object).await.map_err(said)?;
        print(&format!("{} created\n", full_name(kind, objects::name(&made))));
        Ok(())
    }

    async fn create_from_file(&self) -> Result<(), String> {
        let path = self.args.text("filename").unwrap_or_default();
        let mut text = String::new();
        let read = match path {
            "-" => std::io::stdin().read_to_string(&mut text),
            _ => std::fs::File::open(path).and_then(|mut file| file.read_to_string(&mut text)),
        };
        read.map_err(|e| format!("error: {path}: {e}"))?;
        let object: Value =
            serde_json::from_str(&text).map_err(|e| format!("error: {path}: kube-lite reads JSON only: {e}"))?;
        let word = objects::text(&object, "/kind").to_lowercase();
        let kind = Kind::named(&word).ok_or_else(|| format!("error: {path}: kube-lite has no kind {word:?}"))?;
        let name = objects::name(&object).to_owned();
        self.create(kind, &name, object).await
    }

    async fn scale(&self, words: &[&str]) -> Result<(), String> {
        if !self.args.is_given("replicas") {
            return Err("error: required flag(s) \"replicas\" not set".into());
        }
        for (kind, name) in named(words)? {
            if kind != &DEPLOYMENTS && kind != &objects::REPLICA_SETS {
                return Err(format!("error: {} cannot be scaled", kind.resource));
            }
            // Somebody may change it between our reading and our writing: then it is read again.
            loop {
                let mut object = self.api.get(&kind.path(self.namespace(), &name)).await.map_err(said)?;
                objects::set(&mut object, &["spec", "replicas"], json!(self.replicas()?));
                match self.api.update(kind, &object).await {
                    Err(e) if e.is(409) => {}
                    done => break drop(done.map_err(said)?),
                }
            }
            print(&format!("{} scaled\n", full_name(kind, &name)));
        }
        Ok(())
    }

    async fn delete(&self, words: &[&str]) -> Result<(), String> {
        for (kind, name) in named(words)? {
            self.api.delete(kind, self.namespace(), &name).await.map_err(said)?;
            print(&format!("{} \"{name}\" deleted\n", qualified(kind)));
        }
        Ok(())
    }

    async fn get(&self, what: &str, names: &[&str]) -> Result<(), String> {
        let form = show::Form::parse(self.args.text("output").unwrap_or_default())?;
        let namespace = if self.args.is_set("all-namespaces") { "" } else { self.namespace() };
        if names.is_empty() && !what.contains('/') {
            for (kind, at) in what.split(',').map(kind_of).zip(0..) {
                let kind = kind?;
                if at > 0 {
                    print("\n");
                }
                let (items, revision) = self.api.list(kind, namespace).await.map_err(said)?;
                if items.is_empty() && form.is_table() && !self.args.is_set("watch") {
                    let place = if kind.namespaced && !namespace.is_empty() {
                        format!(" in {namespace} namespace")
                    } else {
                        String::new()
                    };
                    let _ = writeln!(std::io::stderr(), "No resources found{place}.");
                    continue;
                }
                print(&show::list(kind, &items, &form, namespace.is_empty())?);
                if self.args.is_set("watch") {
                    self.follow(kind, namespace, revision, &form).await?;
                }
            }
            return Ok(());
        }
        let words: Vec<&str> = [what].into_iter().chain(names.iter().copied()).collect();
        let mut found: Vec<(&'static Kind, Value)> = Vec::new();
        for (kind, name) in named(&words)? {
            found.push((kind, self.api.get(&kind.path(self.namespace(), &name)).await.map_err(said)?));
        }
        if let [(kind, object)] = &found[..] {
            print(&show::one(kind, object, &form)?);
            return Ok(());
        }
        for (kind, object) in &found {
            print(&show::one(kind, object, &form)?);
        }
        Ok(())
    }

    /// What changes after this revision, until somebody ends it.
    async fn follow(&self, kind: &'static Kind, namespace: &str, after: i64, form: &show::Form) -> Result<(), String> {
        let mut changes = self.api.watch(kind, namespace, after).await.map_err(said)?;
        while let Some(change) = changes.next().await.map_err(said)? {
            match change["type"].as_str() {
                Some("BOOKMARK") => {}
                Some("ERROR") => return Err(format!("error: {}", objects::text(&change, "/object/message"))),
                _ => print(&show::row(kind, &change["object"], form, namespace.is_empty())?),
            }
        }
        Ok(())
    }
}

fn kind_of(word: &str) -> Result<&'static Kind, String> {
    Kind::named(word).ok_or_else(|| format!("error: the server doesn't have a resource type \"{word}\""))
}

/// `TYPE NAME…` or `TYPE/NAME…`.
fn named(words: &[&str]) -> Result<Vec<(&'static Kind, String)>, String> {
    let pairs: Vec<(&str, &str)> = match words {
        [first, ..] if first.contains('/') => words.iter().filter_map(|word| word.split_once('/')).collect(),
        [kind, names @ ..] => names.iter().map(|name| (*kind, *name)).collect(),
        [] => Vec::new(),
    };
    if pairs.is_empty() {
        return Err("error: resource(s) were provided, but no name was specified".into());
    }
    pairs.into_iter().map(|(kind, name)| Ok((kind_of(kind)?, name.to_owned()))).collect()
}

/// As in `deployment.apps`.
fn qualified(kind: &Kind) -> String {
    if kind.group.is_empty() { kind.short[0].to_owned() } else { format!("{}.{}", kind.short[0], kind.group) }
}

/// As in `deployment.apps/web`.
fn full_name(kind: &Kind, name: &str) -> String {
    format!("{}/{name}", qualified(kind))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_and_names_are_read_in_both_spellings() {
        let web = || vec![(&DEPLOYMENTS, "web".to_owned())];
        for words in [&["deployment", "web"][..], &["deploy/web"], &["deployments.apps", "web"]] {
            assert_eq!(named(words), Ok(web()), "{words:?}");
        }
        assert_eq!(named(&["pods"]), Err("error: resource(s) were provided, but no name was specified".into()));
        assert_eq!(named(&["things", "a"]), Err("error: the server doesn't have a resource type \"things\"".into()));
        assert_eq!(full_name(&DEPLOYMENTS, "web"), "deployment.apps/web");
    }
}
