//! `kube-controller-manager`: compares what is wanted with what is there, and writes what brings the second nearer to the first.
//!
//! The one idea: [`Overseer::decide`] looks at *all that is*, not at what has happened. It does not matter why a pod is missing, or how often
//! it was told so: three are wanted, two are there, one is made. Four controllers are in it: deployments make replica sets, replica sets make
//! pods, what has lost its owner goes, and nodes that have fallen silent lose their pods.
//!
//! Whether a node is silent it judges by its own clock: since when has the node's lease stood still? Left out: rolling updates (another
//! template replaces all pods at once), and everything else that the real one looks after.

use crate::cmdline::args::Flag;
use crate::cmdline::args::Kind::Time;
use crate::kube;
use crate::kube::election;
use crate::kube::election::Lock;
use crate::kube::informer::Informer;
use crate::kube::informer::Known;
use crate::kube::objects;
use crate::kube::objects::DEPLOYMENTS;
use crate::kube::objects::Kind;
use crate::kube::objects::LEASES;
use crate::kube::objects::NODES;
use crate::kube::objects::PODS;
use crate::kube::objects::REPLICA_SETS;
use crate::kube::rest::Api;
use crate::kube::rest::Refused;
use crate::kube::tell;
use serde_json::Value;
use serde_json::json;
use sha1::Digest as _;
use sha1::Sha1;
use std::collections::BTreeMap;
use std::time::Duration;
use std::time::Instant;

const ME: &str = "kube-controller-manager";

/// How long it waits for news before it looks again: silence is no news.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Pods that are made in one go.
const BURST_MAX: i64 = 500;

static GRACE: Flag = Flag {
    name: "node-monitor-grace-period",
    short: ' ',
    kind: Time,
    default: "4s",
    help: "after so long without a sign a node is not ready (Kubernetes: 50s)",
};
static EVICTION: Flag = Flag {
    name: "pod-eviction-timeout",
    short: ' ',
    kind: Time,
    default: "2s",
    help: "after so long not ready it loses its pods (Kubernetes: 5m)",
};

/// Everything that is known, by resource.
type All = BTreeMap<&'static str, Known>;

pub(super) async fn main(words: &[String]) -> Result<(), String> {
    let own: [&'static Flag; 4] = [&kube::KUBECONFIG, &kube::LEADER_ELECT, &GRACE, &EVICTION];
    let known: Vec<&'static Flag> = election::FLAGS.into_iter().chain(own).collect();
    let args = kube::flags(ME, words, &known)?;
    let api = Api::new(kube::config_file(&args)?, ME);
    let lock = Lock::contend(&api, ME, &args);
    let overseer =
        Overseer { grace: kube::time(&args, &GRACE), eviction: kube::time(&args, &EVICTION), ..Overseer::default() };
    tokio::select! {
        () = reconcile(&api, &lock, overseer) => Ok(()),
        asked = kube::asked_to_end() => asked,
    }
}

async fn reconcile(api: &Api, lock: &Lock, mut overseer: Overseer) {
    let informer = Informer::of(api, ME, &[&DEPLOYMENTS, &REPLICA_SETS, &PODS, &NODES, &LEASES]);
    // What it has written itself, by kind: until it sees that, it would decide the same once more.
    let mut written: BTreeMap<&'static str, i64> = BTreeMap::new();
    loop {
        informer.news(LOOK_EVERY).await;
        let Some(all) = informer.all() else { continue };
        if !lock.is_held() {
            // What was heard under another holder, or before etcd was lost, says nothing about who is silent now.
            overseer.forget();
            continue;
        }
        let behind = written.iter().any(|(kind, revision)| all[kind].revision < *revision);
        if behind {
            continue;
        }
        for step in overseer.decide(&all, Instant::now()) {
            match carried_out(api, &step.action).await {
                Ok(object) => {
                    let revision = objects::revision(&object);
                    written.insert(step.action.kind().resource, revision);
                    tell(ME, &format!("{}: revision {revision}", step.why));
                }
                Err(why) => tell(ME, &format!("{}: {why}", step.why)),
            }
        }
    }
}

async fn carried_out(api: &Api, action: &Action) -> Result<Value, Refused> {
    match action {
        Action::Create(kind, object) => api.create(kind, object).await,
        Action::Update(kind, object) => api.update(kind, object).await,
        Action::Delete(kind, object) => api.delete(kind, objects::namespace(object), objects::name(object)).await,
    }
}

/// A write.
#[derive(Debug, PartialEq)]
enum Action {
    Create(&'static Kind, Value),
    Update(&'static Kind, Value),
    Delete(&'static Kind, Value),
}

impl Action {
    fn kind(&self) -> &'static Kind {
        match self {
            Action::Create(kind, _) | Action::Update(kind, _) | Action::Delete(kind, _) => kind,
        }
    }
}

/// A write, and why it is made.
#[derive(Debug, PartialEq)]
struct Step {
    why: String,
    action: Action,
}

fn step(action: Action, why: String) -> Step {
    Step { why, action }
}

/// What it remembers between two looks: since when nodes are silent.
#[derive(Debug, Default)]
struct Overseer {
    grace: Duration,
    eviction: Duration,
    /// By node: its lease's revision, and since when it is that.
    heard: BTreeMap<String, (i64, Instant)>,
    /// Nodes that are not ready, and since when.
    unready: BTreeMap<String, Instant>,
}

impl Overseer {
    /// Begins anew to listen for signs of life.
    fn forget(&mut self) {
        self.heard.clear();
        self.unready.clear();
    }

    /// What must be written, as things are.
    fn decide(&mut self, all: &All, now: Instant) -> Vec<Step> {
        let mut steps = Vec::new();
        self.nodes(all, now, &mut steps);
        deployments(all, &mut steps);
        replica_sets(all, &mut steps);
        orphans(all, &mut steps);
        steps
    }

    fn nodes(&mut self, all: &All, now: Instant, steps: &mut Vec<Step>) {
        let nodes = &all[NODES.resource];
        self.heard.retain(|name, _| nodes.get("", name).is_some());
        self.unready.retain(|name, _| nodes.get("", name).is_some());
        for node in nodes.objects.values() {
            let name = objects::name(node);
            let lease = all[LEASES.resource].get("kube-node-lease", name).map_or(0, objects::revision);
            let heard = self.heard.entry(name.to_owned()).or_insert((lease, now));
            if heard.0 != lease {
                *heard = (lease, now);
            }
            let silent = now.duration_since(heard.1) >= self.grace;
            if objects::is_ready(node) {
                self.unready.remove(name);
                if silent {
                    let why = format!("node {name} is silent since its lease was written at revision {lease}");
                    steps.push(step(Action::Update(&NODES, lost(node)), why));
                }
                continue;
            }
            let since = *self.unready.entry(name.to_owned()).or_insert(now);
            if now.duration_since(since) >= self.eviction {
                let here =
                    all[PODS.resource].objects.values().filter(|pod| objects::text(pod, "/spec/nodeName") == name);
                steps.extend(here.map(|pod| gone(&PODS, pod, &format!("its node {name} is not ready"))));
            }
        }
    }
}

/// A node of which nothing is known any more.
fn lost(node: &Value) -> Value {
    let mut node = node.clone();
    let condition = json!([{
        "type": "Ready", "status": "Unknown", "reason": "NodeStatusUnknown",
        "message": "Kubelet stopped posting node status.", "lastTransitionTime": kube::stamp(),
    }]);
    objects::set(&mut node, &["status", "conditions"], condition);
    node
}

fn gone(kind: &'static Kind, object: &Value, why: &str) -> Step {
    let text = format!("{} {} goes, {why}", kind.short[0], objects::name(object));
    step(Action::Delete(kind, object.clone()), text)
}

/// Each deployment has one replica set, named after its template.
fn deployments(all: &All, steps: &mut Vec<Step>) {
    let sets = &all[REPLICA_SETS.resource];
    for deployment in all[DEPLOYMENTS.resource].objects.values() {
        let (namespace, name) = (objects::namespace(deployment), objects::name(deployment));
        let wanted = objects::number(deployment, "/spec/replicas");
        let template = &deployment["spec"]["template"];
        let set_name = format!("{name}-{}", hash(template));
        let seen = objects::revision(deployment);
        let Some(set) = sets.get(namespace, &set_name) else {
            let set = owned(
                &REPLICA_SETS,
                deployment,
                &DEPLOYMENTS,
                json!({
                    "metadata": {"name": set_name}, "spec": {"replicas": wanted, "template": template},
                }),
            );
            let why = format!("saw deployment {name} at revision {seen}: it has no replica set");
            steps.push(step(Action::Create(&REPLICA_SETS, set), why));
            continue;
        };
        if objects::number(set, "/spec/replicas") != wanted {
            let mut set = set.clone();
            objects::set(&mut set, &["spec", "replicas"], json!(wanted));
            let why = format!("saw deployment {name} at revision {seen}: replica set {set_name} is to have {wanted}");
            steps.push(step(Action::Update(&REPLICA_SETS, set), why));
        }
        let old = sets
            .objects
            .values()
            .filter(|s| objects::namespace(s) == namespace && objects::owner(s, &DEPLOYMENTS) == name);
        steps.extend(
            old.filter(|s| objects::name(s) != set_name).map(|s| gone(&REPLICA_SETS, s, "its template is an old one")),
        );
        let has = |field: &str| objects::number(set, &format!("/status/{field}"));
        steps.extend(status(&DEPLOYMENTS, deployment, has("replicas"), has("readyReplicas")));
    }
}

/// Each replica set has as many pods as it says.
fn replica_sets(all: &All, steps: &mut Vec<Step>) {
    for set in all[REPLICA_SETS.resource].objects.values() {
        let (namespace, name) = (objects::namespace(set), objects::name(set));
        let pods = all[PODS.resource].objects.values();
        let mut pods: Vec<&Value> =
            pods.filter(|p| objects::namespace(p) == namespace && objects::owner(p, &REPLICA_SETS) == name).collect();
        let (wanted, has) = (objects::number(set, "/spec/replicas"), pods.len() as i64);
        let seen = all[PODS.resource].revision;
        for _ in has..wanted.min(has + BURST_MAX) {
            let template = &set["spec"]["template"];
            let mut metadata = template["metadata"].clone();
            objects::set(&mut metadata, &["generateName"], json!(format!("{name}-")));
            let pod = json!({"metadata": metadata, "spec": template["spec"], "status": {"phase": "Pending"}});
            let why = format!("saw {has} pods of {name} at revision {seen}, {wanted} are wanted: a new one");
            steps.push(step(Action::Create(&PODS, owned(&PODS, set, &REPLICA_SETS, pod)), why));
        }
        // Those go first that do not run, then the newest.
        pods.sort_by_key(|pod| {
            (objects::is_ready(pod), std::cmp::Reverse(objects::text(pod, "/metadata/creationTimestamp").to_owned()))
        });
        let surplus = usize::try_from(has - wanted).unwrap_or(0);
        let why = format!("saw {has} pods of {name} at revision {seen}, {wanted} are wanted");
        steps.extend(pods.iter().take(surplus).map(|pod| gone(&PODS, pod, &why)));
        let ready = pods.iter().filter(|pod| objects::is_ready(pod)).count() as i64;
        steps.extend(status(&REPLICA_SETS, set, has, ready));
    }
}

/// What was made for something that is no more.
fn orphans(all: &All, steps: &mut Vec<Step>) {
    for (kind, of) in [(&REPLICA_SETS, &DEPLOYMENTS), (&PODS, &REPLICA_SETS)] {
        for object in all[kind.resource].objects.values() {
            let owner = objects::owner(object, of);
            if !owner.is_empty() && all[of.resource].get(objects::namespace(object), owner).is_none() {
                steps.push(gone(kind, object, &format!("its {} {owner} is gone", of.short[0])));
            }
        }
    }
    let nodes = &all[NODES.resource];
    for pod in all[PODS.resource].objects.values() {
        let node = objects::text(pod, "/spec/nodeName");
        if !node.is_empty() && nodes.get("", node).is_none() {
            steps.push(gone(&PODS, pod, &format!("its node {node} is gone")));
        }
    }
}

/// Writes down what there is, if that has changed.
fn status(kind: &'static Kind, object: &Value, has: i64, ready: i64) -> Option<Step> {
    let now = json!({"replicas": has, "readyReplicas": ready});
    if object.get("status") == Some(&now) {
        return None;
    }
    let mut told = object.clone();
    told["status"] = now;
    let text = format!("{} {} has {has}, {ready} ready", kind.short[0], objects::name(object));
    Some(step(Action::Update(kind, told), text))
}

/// An object that belongs to another one, and goes with it.
fn owned(kind: &Kind, owner: &Value, of: &Kind, mut object: Value) -> Value {
    objects::set(&mut object, &["metadata", "namespace"], owner["metadata"]["namespace"].clone());
    let reference = json!([{
        "apiVersion": of.api_version(), "kind": of.name, "name": objects::name(owner),
        "uid": owner["metadata"]["uid"], "controller": true,
    }]);
    objects::set(&mut object, &["metadata", "ownerReferences"], reference);
    object["kind"] = json!(kind.name);
    object
}

/// A few letters that stand for a template: another template has others.
fn hash(template: &Value) -> String {
    let sum = Sha1::digest(template.to_string());
    sum.iter().take(5).map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests;
