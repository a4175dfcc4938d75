//! Tests of the number of pods for `perNode`, as nodes come and go.

use k8s_openapi::api::core::v1::Taint;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use scaledapp_crds::words::Reason;
use scaledapp_plan::cluster::{Node, Observed, Part, Plan, Pod, PodFailure, Resources, plan};

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
fn a_node_counts_only_if_it_can_take_the_pod() {
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
fn an_unwell_node_keeps_counting_and_a_cordoned_one_counts_for_a_minute() {
    let mut observed = cluster(3);
    observed.pods = (0..3).map(pod).collect();
    assert_eq!(replicas(&step(&mut observed, "")), 3);
    // An unwell node: the same count, and nothing to write.
    observed.nodes[2].ready = false;
    let planned = step(&mut observed, "");
    assert_eq!((replicas(&planned), planned.wake), (3, None));
    // A cordoned node: its pod stays for now, and is marked to be deleted first.
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
    // After half of the time: the same plan, except for the time left.
    observed.now = at(30);
    let planned = step(&mut observed, "");
    assert_eq!(
        (replicas(&planned), planned.wake.unwrap().as_secs()),
        (3, 30)
    );
    assert!(planned.touch.is_empty());
    // The node returns in time: everything is as before.
    let mut back = observed.clone();
    back.nodes[2] = node("n2");
    let planned = step(&mut back, "");
    assert_eq!((replicas(&planned), planned.wake), (3, None));
    assert_eq!(
        planned.touch[0].annotations["controller.kubernetes.io/pod-deletion-cost"],
        "0"
    );
    // The time is over: one pod fewer.
    observed.now = at(60);
    let planned = step(&mut observed, "");
    assert_eq!((replicas(&planned), planned.wake), (2, None));
    assert_eq!(planned.events[0].note, "pods: from 3 to 2");
    assert!(step(&mut observed, "").events.is_empty());
    // A new node counts immediately.
    observed.pods.pop();
    observed.nodes.push(node("n9"));
    assert_eq!(replicas(&step(&mut observed, "")), 3);
}

#[test]
fn fewer_pods_per_node_are_planned_at_once_and_without_nodes_one_pod_is_planned() {
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

/// A pod that has been pending for this many seconds.
fn pending(index: u32, seconds: i64) -> Pod {
    Pod {
        node: None,
        ready: false,
        created: Some(at(-seconds)),
        failure: Some(PodFailure {
            reason: Reason::Unschedulable,
            message: "0/2 nodes are available".to_owned(),
            part: Part::Main,
        }),
        ..pod(index)
    }
}

#[test]
fn a_pod_that_no_node_takes_is_not_planned_until_a_node_changes() {
    let mut observed = cluster(2);
    observed.pods = vec![pod(0), pending(1, 0)];
    let planned = step(&mut observed, "");
    // The refusal counts after a moment.
    assert_eq!(
        (replicas(&planned), planned.wake.unwrap().as_secs()),
        (2, 1)
    );
    observed.pods[1] = pending(1, 1);
    assert_eq!(replicas(&step(&mut observed, "")), 1);
    // The refusal is remembered after the pod is deleted, and a new node counts.
    observed.pods.pop();
    assert_eq!(replicas(&step(&mut observed, "")), 1);
    observed.nodes.push(node("n9"));
    assert_eq!(replicas(&step(&mut observed, "")), 2);
    // The node has changed.
    observed.nodes[1]
        .labels
        .insert("size".to_owned(), "8".to_owned());
    assert_eq!(replicas(&step(&mut observed, "")), 3);
}

#[test]
fn a_pod_that_was_evicted_from_a_cordoned_node_is_not_planned_elsewhere() {
    let mut observed = cluster(3);
    observed.pods = (0..3).map(pod).collect();
    step(&mut observed, "");
    observed.nodes[2].schedulable = false;
    assert_eq!(replicas(&step(&mut observed, "")), 3);
    // The pod is evicted, and its successor does not fit onto the other nodes.
    observed.pods[2].deleting = true;
    observed.pods.push(pending(3, 0));
    assert_eq!(replicas(&step(&mut observed, "")), 2);
}

/// Adds a node with `cpus` CPUs, of which `used` are taken.
fn sized(observed: &mut Observed, name: &str, cpus: i128, used: i128) {
    let room = |cpus: i128| Resources {
        cpu: cpus * 1_000_000_000,
        memory: i128::MAX / 4,
        pods: 110_000_000_000,
    };
    observed.nodes.push(Node {
        offers: room(cpus),
        ..node(name)
    });
    let used = Resources {
        memory: 0,
        pods: 0,
        ..room(used)
    };
    observed.used.insert(name.to_owned(), used);
}

const TWO_CPUS: &str = "  replicas: {perNode: 2}\n  resources: {requests: {cpu: 2}}";

#[test]
fn a_node_counts_for_no_more_pods_than_it_has_room_for() {
    let mut observed = cluster(0);
    for (name, cpus, used) in [("n0", 4, 0), ("n1", 4, 1), ("n2", 4, 3), ("n3", 1, 0)] {
        sized(&mut observed, name, cpus, used);
    }
    assert_eq!(replicas(&step(&mut observed, TWO_CPUS)), 3);
    // The pods run, and n2 gets room for one.
    let on = |index: u32, node: &str| Pod {
        node: Some(node.to_owned()),
        ..pod(index)
    };
    observed.pods = vec![on(0, "n0"), on(1, "n0"), on(2, "n1")];
    observed.used.clear();
    for (name, cpus) in [("n0", 4), ("n1", 3), ("n2", 2), ("n3", 0)] {
        let used = Resources {
            cpu: cpus * 1_000_000_000,
            ..Resources::default()
        };
        observed.used.insert(name.to_owned(), used);
    }
    assert_eq!(replicas(&step(&mut observed, TWO_CPUS)), 4);
}

#[test]
fn a_node_of_another_system_takes_no_pod() {
    let mut observed = cluster(1);
    observed
        .nodes
        .push(labelled("w", "kubernetes.io/os", "windows"));
    observed
        .nodes
        .push(labelled("l", "kubernetes.io/os", "linux"));
    assert_eq!(replicas(&step(&mut observed, "")), 2);
}

fn strategy(planned: &Plan) -> (IntOrString, IntOrString) {
    let strategy = planned.apply.deployments[0].spec.strategy.as_ref();
    let rolling = strategy.unwrap().rolling_update.as_ref().unwrap();
    let (surge, unavailable) = (&rolling.max_surge, &rolling.max_unavailable);
    (surge.clone().unwrap(), unavailable.clone().unwrap())
}

const NEW_FIRST: (IntOrString, IntOrString) = (IntOrString::Int(1), IntOrString::Int(0));
const OLD_FIRST: (IntOrString, IntOrString) = (IntOrString::Int(0), IntOrString::Int(1));

#[test]
fn an_old_pod_stops_first_only_if_its_successor_finds_no_room_beside_it() {
    for (used, expected) in [(2, NEW_FIRST), (3, OLD_FIRST)] {
        let mut observed = cluster(0);
        sized(&mut observed, "n0", 4, used);
        sized(&mut observed, "n1", 4, 2);
        observed.pods = vec![pod(0), pod(1)];
        let lines = |image: &str| {
            format!(
                "  replicas: {{perNode: 1}}\n  resources: {{requests: {{cpu: 2}}}}\n  workingDir: /{image}"
            )
        };
        assert_eq!(strategy(&step(&mut observed, &lines("1"))), NEW_FIRST);
        assert_eq!(strategy(&step(&mut observed, &lines("2"))), expected);
        // The strategy does not change during the rollout, whatever changes on the nodes.
        observed.used.clear();
        assert_eq!(strategy(&step(&mut observed, &lines("2"))), expected);
    }
}

#[test]
fn an_old_pod_stops_first_only_in_a_rollout_whose_new_pod_has_waited_for_a_minute() {
    let total = "  replicas: {total: 2}";
    let mut observed = cluster(2);
    observed.pods = vec![pod(0), pod(1)];
    assert_eq!(strategy(&step(&mut observed, total)), NEW_FIRST);
    // A pod has been pending for a minute. That alone stops no old pod, because no rollout is
    // under way.
    observed.pods.push(pending(2, 60));
    assert_eq!(strategy(&step(&mut observed, total)), NEW_FIRST);
    let status = observed.live.deployments[0].status.as_mut().unwrap();
    (status.replicas, status.updated_replicas) = (Some(3), Some(1));
    assert_eq!(
        strategy(&plan(&app(total), &observed, &settings())),
        OLD_FIRST
    );
    observed.pods[2] = pending(2, 59);
    assert_eq!(
        strategy(&plan(&app(total), &observed, &settings())),
        NEW_FIRST
    );
}
