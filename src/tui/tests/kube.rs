//! What Kubernetes wants and has, on the Watch screen.

use super::frame;
use super::press;
use super::script::Script;
use crate::lab::Report;
use crate::lab::picture::reconcile::Glance;
use crate::lab::promises::Told;
use crate::lab::promises::Watched;
use crate::tui::keys::Key;
use serde_json::Value;
use serde_json::json;

fn told(revision: i64, key: &str, object: Option<Value>) -> Told {
    let key = format!("/registry/{key}").into_bytes();
    let glance = object.as_ref().and_then(|object| Glance::of(&key, object.to_string().as_bytes()));
    Told { revision, key, deleted: object.is_none(), object: glance }
}

fn by(who: &str, owner: &str) -> Value {
    json!({"managedFields": [{"manager": who}], "ownerReferences": [{"name": owner}]})
}

fn pod(who: &str, node: &str, ready: &str) -> Option<Value> {
    Some(json!({
        "metadata": by(who, "web-5d8f0a91c2"), "spec": {"nodeName": node},
        "status": {"conditions": [{"type": "Ready", "status": ready}]},
    }))
}

#[test]
fn a_missing_pod_is_seen_from_revision_to_revision() {
    let mut script = Script::watched();
    let controller = "kube-controller-manager";
    let set = |who, owner| Some(json!({"metadata": by(who, owner), "spec": {"replicas": 2}}));
    let mut events = vec![
        told(20, "deployments/default/web", set("kubectl", "")),
        told(21, "replicasets/default/web-5d8f0a91c2", set(controller, "web")),
    ];
    for (name, at) in [("x1b2c", 22), ("k7d8f", 25)] {
        let key = format!("pods/default/web-5d8f0a91c2-{name}");
        events.push(told(at, &key, pod(controller, "", "False")));
        events.push(told(at + 1, &key, pod("kube-scheduler", "w1", "False")));
        events.push(told(at + 2, &key, pod("kubelet", "w1", "True")));
    }
    script.report(Report::Watched { member: 0, watched: Box::new(Watched::Tells { events }) });
    press(&mut script.model, &[Key::Char('4')]);
    assert!(frame(&script.model, 80, 24).contains("reconcile: web wants 2, has 2, 2 run"));
    let events = vec![
        told(31, "pods/default/web-5d8f0a91c2-x1b2c", None),
        told(32, "pods/default/web-5d8f0a91c2-m3n4p", pod(controller, "", "False")),
        told(33, "pods/default/web-5d8f0a91c2-m3n4p", pod("kube-scheduler", "w2", "False")),
    ];
    script.report(Report::Watched { member: 0, watched: Box::new(Watched::Tells { events }) });
    for (width, height) in [(60, 20), (80, 24), (120, 40)] {
        let screen = frame(&script.model, width, height);
        assert!(screen.contains("reconcile: web wants 2, has 2, 1 run"), "{screen}");
        insta::assert_snapshot!(format!("reconcile_{width}x{height}"), screen);
        // The newest is seen on every screen that is wide enough for it, below what came before.
        let line = |what: &str| screen.lines().position(|line| line.contains(what));
        let (gone, made) = (line("web-5d8f0a91c2-x1b2c is deleted"), line("web-5d8f0a91c2-m3n4p is made"));
        assert!(width < 80 || gone.is_some() && gone < made, "{screen}");
        let bound = screen.lines().find(|line| line.contains("goes to w2"));
        assert!(
            width < 80 || bound.is_some_and(|line| line.contains("rev 33") && line.contains("kube-scheduler")),
            "{screen}"
        );
    }
}
