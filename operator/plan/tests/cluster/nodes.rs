//! How many pods "so many on each node" are, as nodes come and go.

use k8s_openapi::api::core::v1::Taint;
use scaledapp_plan::cluster::{Node, Observed, Plan, PodFailure, plan};

use super::given::{app, apply, at, cluster, node, pod, settings};

fn replicas(planned: &Plan) -> i32 {
    planned.apply.deployments[0].spec.replicas.unwrap()
}

fn tainted(name: &str, key: &str, effect: &str) -> Node {
    let taint = Taint {
        key: key.to_owned(),
        effect: effect.to_owned(),
        ..Taint::default()
    };
    Node {
        taints: vec![taint],
        ..node(name)
    }
}

fn labelled(name: &str, key: &str, value: &str) -> Node {
    let mut node = node(name);
    node.labels.insert(key.to_owned(), value.to_owned());
    node
}

#[test]
fn only_nodes_that_take_the_pod_count() {
    let affinity = |expression: &str| {
        format!(
            "  podTemplate: {{spec: {{affinity: {{nodeAffinity: {{requiredDuringSchedulingIgnoredDuringExecution: {{nodeSelectorTerms: [{{{expression}}}]}}}}}}}}}}"
        )
    };
    let rule = |operator: &str, values: &str| {
        affinity(&format!(
            "matchExpressions: [{{key: size, operator: {operator}, values: {values}}}]"
        ))
    };
    let nodes = || {
        vec![
            labelled("small", "size", "1"),
            labelled("big", "size", "8"),
            tainted(
                "master",
                "node-role.kubernetes.io/control-plane",
                "NoSchedule",
            ),
            tainted("soft", "x", "PreferNoSchedule"),
            tainted("bad", "node.kubernetes.io/disk-pressure", "NoSchedule"),
            Node {
                ready: false,
                ..node("ill")
            },
            Node {
                schedulable: false,
                ..node("cordoned")
            },
        ]
    };
    for (lines, expected) in [
        (String::new(), 3),
        ("  replicas: {perNode: 2}".to_owned(), 6),
        ("  replicas: {total: 5}".to_owned(), 5),
        ("  podTemplate: {spec: {nodeSelector: {size: '8'}}}".to_owned(), 1),
        ("  podTemplate: {spec: {tolerations: [{operator: Exists}]}}".to_owned(), 5),
        ("  podTemplate: {spec: {tolerations: [{key: node-role.kubernetes.io/control-plane, operator: Exists, effect: NoSchedule}]}}".to_owned(), 4),
        ("  podTemplate: {spec: {tolerations: [{key: node-role.kubernetes.io/control-plane, value: other}]}}".to_owned(), 3),
        (rule("In", "['1', '8']"), 2),
        (rule("NotIn", "['1']"), 2),
        (rule("Exists", "[]"), 2),
        (rule("DoesNotExist", "[]"), 1),
        (rule("Gt", "['4']"), 1),
        (rule("Lt", "['4']"), 1),
        (affinity("matchFields: [{key: metadata.name, operator: In, values: [soft]}]"), 1),
    ] {
        let mut observed = cluster(0);
        observed.nodes = nodes();
        assert_eq!(replicas(&plan(&app(&lines), &observed, &settings())), expected, "{lines}");
    }
}

fn step(observed: &mut Observed, lines: &str) -> Plan {
    let planned = plan(&app(lines), observed, &settings());
    apply(observed, &planned);
    planned
}

#[test]
fn a_node_that_is_ill_keeps_counting_and_one_that_leaves_counts_for_a_minute() {
    let mut observed = cluster(3);
    observed.pods = (0..3).map(pod).collect();
    assert_eq!(replicas(&step(&mut observed, "")), 3);
    // Ill: the same count, and nothing to write.
    observed.nodes[2].ready = false;
    let planned = step(&mut observed, "");
    assert_eq!((replicas(&planned), planned.wake), (3, None));
    // Cordoned: waited out, its pod marked to go first.
    observed.nodes[2].schedulable = false;
    let planned = step(&mut observed, "");
    assert_eq!(
        (replicas(&planned), planned.wake.unwrap().as_secs()),
        (3, 60)
    );
    assert_eq!(planned.touch.len(), 1);
    assert_eq!(planned.touch[0].name, "hello-2");
    assert_eq!(
        planned.touch[0].annotations["controller.kubernetes.io/pod-deletion-cost"],
        "-100"
    );
    // Half way: the same plan, but for the time left.
    observed.now = at(30);
    let planned = step(&mut observed, "");
    assert_eq!(
        (replicas(&planned), planned.wake.unwrap().as_secs()),
        (3, 30)
    );
    assert!(planned.touch.is_empty());
    // Back in time: as if nothing had been.
    let mut back = observed.clone();
    back.nodes[2] = node("n2");
    let planned = step(&mut back, "");
    assert_eq!((replicas(&planned), planned.wake), (3, None));
    assert_eq!(
        planned.touch[0].annotations["controller.kubernetes.io/pod-deletion-cost"],
        "0"
    );
    // Over: one pod fewer, once.
    observed.now = at(60);
    let planned = step(&mut observed, "");
    assert_eq!((replicas(&planned), planned.wake), (2, None));
    assert_eq!(planned.events[0].note, "pods: from 3 to 2");
    assert!(step(&mut observed, "").events.is_empty());
    // A new node counts at once.
    observed.nodes.push(node("n9"));
    assert_eq!(replicas(&step(&mut observed, "")), 3);
}

#[test]
fn fewer_per_node_counts_at_once_and_no_node_at_all_still_asks_for_one() {
    let mut observed = cluster(3);
    assert_eq!(
        replicas(&step(&mut observed, "  replicas: {perNode: 2}")),
        6
    );
    assert_eq!(replicas(&step(&mut observed, "")), 3);
    observed.nodes.clear();
    step(&mut observed, "");
    observed.now = at(61);
    assert_eq!(replicas(&step(&mut observed, "")), 1);
    assert_eq!(replicas(&plan(&app(""), &cluster(0), &settings())), 1);
}

#[test]
fn pods_that_find_no_place_get_no_company() {
    let mut observed = cluster(2);
    observed.pods = (0..2).map(pod).collect();
    step(&mut observed, "");
    observed.pods[1].failure = Some(PodFailure {
        reason: "Unschedulable",
        message: "0/2 nodes are available".to_owned(),
    });
    observed.nodes.push(node("n3"));
    assert_eq!(replicas(&step(&mut observed, "")), 2);
    observed.pods[1].failure = None;
    assert_eq!(replicas(&step(&mut observed, "")), 3);
}
