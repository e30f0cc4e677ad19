//! `kubelet`: runs the pods that name its node, and says so; and says every second that it lives.
//!
//! A container is a process of this very program that only waits: as Kubernetes's own `pause` container does. It ends when the kubelet does,
//! however that ends, because nobody holds the other end of its pipe any more. (Real containers outlive their kubelet.) If a process ends by
//! itself, it is started again, and the pod's restart count grows.
//!
//! When the API server does not answer, pods run on: what is to be done the kubelet knows from its copy.

use crate::cmdline::args::Flag;
use crate::cmdline::args::Kind::Text;
use crate::cmdline::args::Kind::Time;
use crate::kube;
use crate::kube::informer::Informer;
use crate::kube::informer::Known;
use crate::kube::objects;
use crate::kube::objects::LEASES;
use crate::kube::objects::NODES;
use crate::kube::objects::PODS;
use crate::kube::rest::Api;
use crate::kube::rest::Refused;
use crate::kube::tell;
use serde_json::Value;
use serde_json::json;
use std::collections::BTreeMap;
use std::process::Stdio;
use std::time::Duration;
use tokio::process::Child;
use tokio::process::Command;

const ME: &str = "kubelet";

/// Where nodes' leases are.
const LEASE_NAMESPACE: &str = "kube-node-lease";

/// How often it looks whether all its processes run.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Pods of one node, as with the real one.
const PODS_MAX: usize = 110;

static NODE: Flag = Flag {
    name: "hostname-override",
    short: ' ',
    kind: Text,
    default: "",
    help: "the node's name; its host's, if none is given",
};
static EVERY: Flag = Flag {
    name: "node-status-update-frequency",
    short: ' ',
    kind: Time,
    default: "1s",
    help: "how often it says that it lives (Kubernetes: 10s)",
};

pub(super) async fn main(words: &[String]) -> Result<(), String> {
    let args = kube::flags(ME, words, &[&kube::KUBECONFIG, &NODE, &EVERY])?;
    let mut node = kube::text(&args, &NODE).to_owned();
    if node.is_empty() {
        node = std::env::var("HOSTNAME").unwrap_or_else(|_| "node".to_owned()).to_lowercase();
    }
    let api = Api::new(kube::config_file(&args)?, ME);
    let every = kube::time(&args, &EVERY);
    tokio::select! {
        () = live(&api, &node, every) => Ok(()),
        done = run(&api, &node) => done,
        asked = kube::asked_to_end() => asked,
    }
}

/// Says that the node lives, for as long as it does.
async fn live(api: &Api, node: &str, every: Duration) {
    let mut trouble = String::new();
    loop {
        match beat(api, node).await {
            Ok(revision) if trouble != "ok" => {
                tell(ME, &format!("node {node} is ready, its lease is written at revision {revision}"));
                "ok".clone_into(&mut trouble);
            }
            Ok(_) => {}
            Err(why) => {
                let why = why.to_string();
                if why != trouble {
                    tell(ME, &why);
                    trouble = why;
                }
            }
        }
        tokio::time::sleep(every).await;
    }
}

/// One sign of life: the lease, written anew; and the node as ready, if it is not. Returns the lease's revision.
async fn beat(api: &Api, node: &str) -> Result<i64, Refused> {
    let lease = match api.get(&LEASES.path(LEASE_NAMESPACE, node)).await {
        Ok(mut lease) => {
            objects::set(&mut lease, &["spec", "renewTime"], json!(kube::stamp()));
            api.update(&LEASES, &lease).await?
        }
        Err(e) if e.is(404) => {
            let spec = json!({"holderIdentity": node, "leaseDurationSeconds": 4, "renewTime": kube::stamp()});
            let lease = json!({"metadata": {"namespace": LEASE_NAMESPACE, "name": node}, "spec": spec});
            api.create(&LEASES, &lease).await?
        }
        Err(e) => return Err(e),
    };
    let condition = json!([{
        "type": "Ready", "status": "True", "reason": "KubeletReady",
        "message": "kubelet is posting ready status", "lastTransitionTime": kube::stamp(),
    }]);
    match api.get(&NODES.path("", node)).await {
        Ok(there) if objects::is_ready(&there) => {}
        Ok(mut there) => {
            objects::set(&mut there, &["status", "conditions"], condition);
            api.update(&NODES, &there).await?;
        }
        Err(e) if e.is(404) => {
            let version = concat!("kube-lite-", env!("CARGO_PKG_VERSION"));
            let status = json!({"conditions": condition, "nodeInfo": {"kubeletVersion": version}});
            api.create(&NODES, &json!({"metadata": {"name": node}, "status": status})).await?;
        }
        Err(e) => return Err(e),
    }
    Ok(objects::revision(&lease))
}

/// A pod's process.
struct Container {
    process: Child,
    since: String,
    restarts: i64,
}

/// Keeps the processes as the pods say.
async fn run(api: &Api, node: &str) -> Result<(), String> {
    let informer = Informer::of(api, ME, &[&PODS]);
    let mut running: BTreeMap<(String, String), Container> = BTreeMap::new();
    loop {
        informer.news(LOOK_EVERY).await;
        let Some(all) = informer.all() else { continue };
        let mine = mine(&all[PODS.resource], node);
        let gone: Vec<_> = running.keys().filter(|id| !mine.contains_key(*id)).cloned().collect();
        for id in gone {
            // Dropped, its process is ended.
            running.remove(&id);
            tell(ME, &format!("pod {} is to run here no more: its process ends", id.1));
        }
        for (id, pod) in mine {
            if let Some(container) = kept(&mut running, &id, pod)? {
                report(api, pod, container).await;
            }
        }
    }
}

fn mine<'a>(pods: &'a Known, node: &str) -> BTreeMap<(String, String), &'a Value> {
    let here = pods.objects.iter().filter(|(_, pod)| objects::text(pod, "/spec/nodeName") == node);
    here.map(|(id, pod)| (id.clone(), pod)).collect()
}

/// The pod's process, started if there is none or if it has ended. Nothing: the node is full.
fn kept<'a>(
    running: &'a mut BTreeMap<(String, String), Container>,
    id: &(String, String),
    pod: &Value,
) -> Result<Option<&'a Container>, String> {
    let before = match running.get_mut(id) {
        Some(container) => match container.process.try_wait() {
            Ok(None) => return Ok(running.get(id)),
            // Ended, and why is nobody's concern here.
            _ => Some(container.restarts),
        },
        // Another kubelet has run it before us, perhaps this one before it was started again.
        None => objects::is_ready(pod).then(|| objects::number(pod, "/status/containerStatuses/0/restartCount")),
    };
    if before.is_none() && running.len() >= PODS_MAX {
        return Ok(None);
    }
    let failed = |e: std::io::Error| format!("error: pod {}: its process cannot be started: {e}", id.1);
    let program = std::env::current_exe().map_err(failed)?;
    let mut command = Command::new(program);
    command.args([kube::PAUSE, &id.1]).stdin(Stdio::piped()).stdout(Stdio::null()).kill_on_drop(true);
    let process = command.spawn().map_err(failed)?;
    let pid = process.id().unwrap_or_default();
    let seen = objects::revision(pod);
    let word = if before.is_some() { "starts again" } else { "starts" };
    tell(ME, &format!("saw pod {} at revision {seen}: it {word}, as process {pid}", id.1));
    let container = Container { process, since: kube::stamp(), restarts: before.map_or(0, |count| count + 1) };
    running.insert(id.clone(), container);
    Ok(running.get(id))
}

/// Writes down that the pod runs, if that is not known yet.
async fn report(api: &Api, pod: &Value, container: &Container) {
    let name = objects::name(pod);
    let pid = format!("process://{}", container.process.id().unwrap_or_default());
    if objects::text(pod, "/status/containerStatuses/0/containerID") == pid {
        return;
    }
    let first = &pod["spec"]["containers"][0];
    let mut told = pod.clone();
    told["status"] = json!({
        "phase": "Running",
        "startTime": container.since,
        "conditions": [{"type": "Ready", "status": "True"}],
        "containerStatuses": [{
            "name": first["name"], "image": first["image"], "containerID": pid, "ready": true,
            "restartCount": container.restarts, "state": {"running": {"startedAt": container.since}},
        }],
    });
    match api.update(&PODS, &told).await {
        Ok(now) => tell(ME, &format!("pod {name} runs: revision {}", objects::revision(&now))),
        // Changed meanwhile, or gone: the next look will tell.
        Err(e) if e.is(409) || e.is(404) => {}
        Err(why) => tell(ME, &format!("pod {name}: {why}")),
    }
}

/// The process that is a container: waits until the kubelet is gone.
pub(super) fn pause() {
    // Nothing is ever written into the pipe; its end is what counts, and so does an error.
    let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kubelet_looks_after_its_own_nodes_pods() {
        let pod =
            |name: &str, node: &str| (("default".to_owned(), name.to_owned()), json!({"spec": {"nodeName": node}}));
        let pods = [pod("a", "w1"), pod("b", "w2"), pod("c", "")];
        let pods = Known { objects: pods.into_iter().collect(), revision: 1 };
        let names: Vec<String> = mine(&pods, "w1").into_keys().map(|(_, name)| name).collect();
        assert_eq!(names, ["a"]);
    }
}
