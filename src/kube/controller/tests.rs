//! What the controllers decide, as things are.

use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn all(objects: &[(&'static Kind, Value)]) -> All {
    let kinds = [&DEPLOYMENTS, &REPLICA_SETS, &PODS, &NODES, &LEASES];
    let mut all: All =
        kinds.into_iter().map(|kind| (kind.resource, Known { revision: 9, ..Known::default() })).collect();
    for (kind, object) in objects {
        let id = (objects::namespace(object).to_owned(), objects::name(object).to_owned());
        all.entry(kind.resource).or_default().objects.insert(id, object.clone());
    }
    all
}

fn overseer() -> Overseer {
    Overseer { grace: 4 * SECOND, eviction: 2 * SECOND, ..Overseer::default() }
}

fn whys(steps: &[Step]) -> Vec<&str> {
    steps.iter().map(|step| step.why.as_str()).collect()
}

fn web(replicas: i64) -> Value {
    json!({
        "metadata": {"namespace": "default", "name": "web", "resourceVersion": "5"},
        "spec": {"replicas": replicas, "template": {"spec": {"containers": [{"name": "web"}]}}},
        "status": {"replicas": replicas, "readyReplicas": replicas},
    })
}

fn set_of(deployment: &Value) -> Value {
    let steps = overseer().decide(&all(&[(&DEPLOYMENTS, deployment.clone())]), Instant::now());
    let [Step { action: Action::Create(_, set), .. }] = &steps[..] else { panic!("{steps:?}") };
    let mut set = set.clone();
    set["status"] = deployment["status"].clone();
    set
}

fn pod(set: &Value, name: &str, node: &str) -> Value {
    let mut pod = owned(&PODS, set, &REPLICA_SETS, json!({"metadata": {"name": name}, "spec": {"nodeName": node}}));
    pod["status"] = json!({"conditions": [{"type": "Ready", "status": "True"}]});
    pod
}

fn node(ready: &str) -> Value {
    json!({"metadata": {"name": "w1"}, "status": {"conditions": [{"type": "Ready", "status": ready}]}})
}

fn lease(revision: i64) -> Value {
    json!({"metadata": {"namespace": "kube-node-lease", "name": "w1", "resourceVersion": revision.to_string()}})
}

#[test]
fn what_is_missing_is_made_and_what_is_too_much_goes() {
    let (web, now) = (web(2), Instant::now());
    let set = set_of(&web);
    assert!(objects::name(&set).starts_with("web-"));
    let (node, lease) = ((&NODES, node("True")), (&LEASES, lease(3)));
    let base = [(&DEPLOYMENTS, web), (&REPLICA_SETS, set.clone()), node, lease];
    let with = |pods: &[&str]| {
        let pods = pods.iter().map(|name| (&PODS, pod(&set, name, "w1")));
        overseer().decide(&all(&base.iter().cloned().chain(pods).collect::<Vec<_>>()), now)
    };
    assert!(with(&["a", "b"]).is_empty(), "as it is wanted: nothing is written");
    let one = with(&["a"]);
    assert!(one[0].why.contains("saw 1 pods") && one[0].why.ends_with("2 are wanted: a new one"), "{one:?}");
    let Action::Create(kind, made) = &one[0].action else { panic!("{one:?}") };
    assert_eq!((*kind, objects::owner(made, &REPLICA_SETS)), (&PODS, objects::name(&set)));
    assert!(one[1].why.ends_with("has 1, 1 ready"), "and the replica set says so: {one:?}");
    let three = with(&["a", "b", "c"]);
    assert!(matches!(three[0].action, Action::Delete(kind, _) if kind == &PODS), "{three:?}");
}

#[test]
fn what_has_lost_its_owner_goes() {
    let set = set_of(&web(1));
    let steps = overseer().decide(&all(&[(&REPLICA_SETS, set.clone()), (&PODS, pod(&set, "a", ""))]), Instant::now());
    assert_eq!(whys(&steps), [format!("replicaset {} goes, its deployment web is gone", objects::name(&set))]);
    let steps = overseer().decide(&all(&[(&PODS, pod(&set, "a", ""))]), Instant::now());
    assert_eq!(whys(&steps), [format!("pod a goes, its replicaset {} is gone", objects::name(&set))]);
}

#[test]
fn another_template_is_another_replica_set() {
    let old = web(1);
    let mut new = old.clone();
    new["spec"]["template"]["spec"]["containers"][0]["image"] = json!("other");
    let steps = overseer().decide(&all(&[(&DEPLOYMENTS, new), (&REPLICA_SETS, set_of(&old))]), Instant::now());
    assert!(matches!(steps[0].action, Action::Create(kind, _) if kind == &REPLICA_SETS), "{steps:?}");
}

#[test]
fn a_silent_node_is_lost_and_then_its_pods_are() {
    let (mut overseer, begin) = (overseer(), Instant::now());
    let set = set_of(&web(1));
    let at = |revision, ready: &str| {
        all(&[
            (&NODES, node(ready)),
            (&LEASES, lease(revision)),
            (&REPLICA_SETS, set.clone()),
            (&PODS, pod(&set, "a", "w1")),
        ])
    };
    let orphaned =
        |steps: &[Step]| steps.iter().filter(|s| s.why.contains("w1")).map(|s| s.why.clone()).collect::<Vec<_>>();
    assert!(orphaned(&overseer.decide(&at(3, "True"), begin)).is_empty());
    assert!(orphaned(&overseer.decide(&at(4, "True"), begin + 3 * SECOND)).is_empty(), "it lives");
    assert!(orphaned(&overseer.decide(&at(4, "True"), begin + 6 * SECOND)).is_empty(), "three seconds are no silence");
    let steps = overseer.decide(&at(4, "True"), begin + 7 * SECOND);
    assert_eq!(orphaned(&steps), ["node w1 is silent since its lease was written at revision 4"]);
    assert!(orphaned(&overseer.decide(&at(4, "Unknown"), begin + 8 * SECOND)).is_empty(), "it may come back");
    let steps = overseer.decide(&at(4, "Unknown"), begin + 10 * SECOND);
    assert_eq!(orphaned(&steps), ["pod a goes, its node w1 is not ready"]);
}
