//! `kube-scheduler`: writes into a pod that has no node yet which one is to run it. That is all; it starts nothing.
//!
//! It takes the ready node with the fewest pods. Left out: what else counts (room, affinity, taints), and the binding object: it writes
//! `spec.nodeName` itself, if nobody has changed the pod since it was seen.

use crate::cmdline::args::Flag;
use crate::kube;
use crate::kube::election;
use crate::kube::election::Lock;
use crate::kube::informer::Informer;
use crate::kube::informer::Known;
use crate::kube::objects;
use crate::kube::objects::NODES;
use crate::kube::objects::PODS;
use crate::kube::rest::Api;
use crate::kube::tell;
use serde_json::Value;
use serde_json::json;
use std::collections::BTreeMap;
use std::time::Duration;

const ME: &str = "kube-scheduler";

/// How long it waits for news before it looks again.
const LOOK_EVERY: Duration = Duration::from_millis(500);

pub(super) async fn main(words: &[String]) -> Result<(), String> {
    let known: Vec<&'static Flag> =
        election::FLAGS.into_iter().chain([&kube::KUBECONFIG, &kube::LEADER_ELECT]).collect();
    let args = kube::flags(ME, words, &known)?;
    let api = Api::new(kube::config_file(&args)?, ME);
    let lock = Lock::contend(&api, ME, &args);
    tokio::select! {
        () = schedule(&api, &lock) => Ok(()),
        asked = kube::asked_to_end() => asked,
    }
}

async fn schedule(api: &Api, lock: &Lock) {
    let informer = Informer::of(api, ME, &[&PODS, &NODES]);
    // What it has written itself it waits to see before it decides again.
    let mut written = 0;
    loop {
        informer.news(LOOK_EVERY).await;
        let Some(all) = informer.all() else { continue };
        let (pods, nodes) = (&all[PODS.resource], &all[NODES.resource]);
        if !lock.is_held() || pods.revision < written {
            continue;
        }
        for (pod, node) in placed(pods, nodes) {
            let (name, seen) = (objects::name(&pod).to_owned(), objects::revision(&pod));
            let mut bound = pod;
            objects::set(&mut bound, &["spec", "nodeName"], json!(node));
            match api.update(&PODS, &bound).await {
                Ok(now) => {
                    written = objects::revision(&now);
                    tell(ME, &format!("saw pod {name} at revision {seen}: it goes to {node}, revision {written}"));
                }
                Err(why) => tell(ME, &format!("pod {name}: {why}")),
            }
        }
    }
}

/// Each pod that has no node, and the one that it gets.
fn placed(pods: &Known, nodes: &Known) -> Vec<(Value, String)> {
    let ready = nodes.objects.values().filter(|node| objects::is_ready(node));
    let mut load: BTreeMap<&str, usize> = ready.map(|node| (objects::name(node), 0)).collect();
    for pod in pods.objects.values() {
        if let Some(count) = load.get_mut(objects::text(pod, "/spec/nodeName")) {
            *count += 1;
        }
    }
    let mut done = Vec::new();
    for pod in pods.objects.values().filter(|pod| objects::text(pod, "/spec/nodeName").is_empty()) {
        let Some((node, count)) = load.iter_mut().min_by_key(|(_, count)| **count) else { break };
        *count += 1;
        done.push((pod.clone(), (*node).to_owned()));
    }
    done
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(objects: Vec<Value>) -> Known {
        let named = objects.into_iter().map(|object| ((String::new(), objects::name(&object).to_owned()), object));
        Known { objects: named.collect(), revision: 1 }
    }

    fn node(name: &str, ready: &str) -> Value {
        json!({"metadata": {"name": name}, "status": {"conditions": [{"type": "Ready", "status": ready}]}})
    }

    #[test]
    fn pods_go_to_the_ready_node_that_has_fewest() {
        let pod = |name: &str, node: &str| json!({"metadata": {"name": name}, "spec": {"nodeName": node}});
        let pods = known(vec![pod("a", "w1"), pod("b", "w1"), pod("c", ""), pod("d", ""), pod("e", "")]);
        let nodes = known(vec![node("w1", "True"), node("w2", "True"), node("w3", "Unknown")]);
        let went: Vec<(String, String)> =
            placed(&pods, &nodes).iter().map(|(pod, node)| (objects::name(pod).to_owned(), node.clone())).collect();
        let to = |pod: &str, node: &str| (pod.to_owned(), node.to_owned());
        assert_eq!(went, [to("c", "w2"), to("d", "w2"), to("e", "w1")]);
        assert!(placed(&pods, &known(vec![node("w3", "Unknown")])).is_empty(), "nobody is ready: they wait");
    }
}
