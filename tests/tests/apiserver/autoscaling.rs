//! Stories of the autoscaler: simulated balancers and pods say how busy they are, and the operator
//! changes the number of pods.

use std::time::{Duration, Instant};

use scaledapp_tests::wait;
use serde_json::{Value, json};

use crate::kubelet::Behaviour;
use crate::load::Load;
use crate::refusals::quota;
use crate::server::bare;
use crate::story::{SOON, Story, condition, is_unschedulable, story};

/// Small pods of one balancer, so that many fit onto a node.
const SMALL: &str = "resources: {requests: {cpu: 10m}}\nbalancers: {replicas: 1, resources: {requests: {cpu: 10m}}}\n";
/// As long as the operator may take for the first decision about an app.
const SETTLE: Duration = Duration::from_secs(6);

/// Load of this many requests at a time.
fn load(offered: u32) -> Load {
    Load {
        offered,
        ..Load::default()
    }
}

impl Story {
    fn load(&self, load: Load) {
        self.server.kubelets.world(&self.namespace).set(load);
    }

    /// Applies a small app with these fields of `autoscaling`, and waits until it is complete.
    fn autoscaled(&self, autoscaling: &str) -> Value {
        self.load(load(0));
        self.apply("hello", &format!("{SMALL}autoscaling: {{{autoscaling}}}"));
        self.wait_complete("hello")
    }

    /// The number of pods that the Deployment asks for.
    fn replicas(&self) -> u64 {
        self.deployment("hello")["spec"]["replicas"]
            .as_u64()
            .unwrap_or_default()
    }

    /// Waits until the Deployment's number is as `look` says. Returns the number, and how long it
    /// took.
    fn wait_replicas(&self, what: &str, look: impl Fn(u64) -> bool) -> (u64, Duration) {
        let begun = Instant::now();
        let replicas = wait::until(SOON, what, || {
            let replicas = self.replicas();
            if look(replicas) {
                return Ok(replicas);
            }
            std::thread::sleep(Duration::from_millis(20));
            let status = self.app("hello")["status"]["autoscaling"].to_string();
            Err(format!("{replicas}: {status}"))
        });
        (replicas.unwrap(), begun.elapsed())
    }

    /// The notes of the events about the number of pods, in order.
    fn scalings(&self) -> Vec<String> {
        let mut events = self.list("/apis/events.k8s.io/v1", "events");
        events.retain(|event| event["reason"] == "Scaling");
        events.sort_by_key(|event| event["eventTime"].as_str().map(ToOwned::to_owned));
        let notes = events.iter().filter_map(|event| event["note"].as_str());
        notes.map(ToOwned::to_owned).collect()
    }

    fn decided(&self) -> Value {
        self.app("hello")["status"]["autoscaling"].clone()
    }
}

/// Who owns which fields of an object, except those of the status.
fn spec_owners(app: &Value) -> Vec<String> {
    let fields = app["metadata"]["managedFields"].as_array();
    let specs = fields.into_iter().flatten();
    let specs = specs.filter(|entry| !entry["fieldsV1"]["f:spec"].is_null());
    specs
        .filter_map(|entry| entry["manager"].as_str().map(ToOwned::to_owned))
        .collect()
}

#[test]
fn load_that_grows_fivefold_gets_pods_in_seconds_and_loses_them_after_the_window() {
    let Some(story) = story("grows", 1) else {
        return;
    };
    let before =
        story.autoscaled("pods: {min: 1, max: 20}, concurrency: 10, scaleDown: {window: 8s}");
    story.load(load(6));
    std::thread::sleep(Duration::from_secs(20));
    assert_eq!(story.replicas(), 1, "{}", story.decided());
    story.load(load(30));
    let (_, took) = story.wait_replicas("more pods", |replicas| replicas > 1);
    println!("more pods after {took:?}");
    // These clients send nothing while they wait, so the rate of arrivals does not show at once how
    // many there are; and two busy cores run the whole cluster of this test beside the operator.
    assert!(took < Duration::from_secs(8), "{took:?}");
    let (most, took) = story.wait_replicas("pods for all requests", |replicas| replicas >= 4);
    println!("{most} pods after {took:?} more: {}", story.decided());
    story.wait_complete("hello");
    story.load(load(1));
    let (_, took) = story.wait_replicas("fewer pods", |replicas| replicas < most);
    println!("fewer pods after {took:?}: {}", story.decided());
    assert!(took >= Duration::from_secs(8), "{took:?}");
    story.wait_replicas("one pod", |replicas| replicas == 1);
    let scalings = story.scalings();
    println!("{scalings:?}");
    let after = story.app("hello");
    assert_eq!(
        after["metadata"]["generation"],
        before["metadata"]["generation"]
    );
    assert_eq!(spec_owners(&after), ["kubectl"]);
    assert_eq!(story.warnings("hello"), [""; 0]);
}

#[test]
fn an_app_goes_to_zero_and_a_waiting_request_brings_a_pod_within_a_second() {
    let Some(story) = story("zero", 1) else {
        return;
    };
    story.autoscaled(
        "pods: {min: 0, max: 5}, concurrency: 10, zeroAfter: 2s, scaleDown: {window: 2s}",
    );
    for _ in 0..3 {
        story.wait_replicas("no pod", |replicas| replicas == 0);
        wait::until(SOON, "the last pod is gone", || {
            let pods = story.pods("hello", "app");
            if pods.is_empty() {
                Ok(())
            } else {
                Err(format!("{} pods", pods.len()))
            }
        })
        .unwrap();
        std::thread::sleep(Duration::from_millis(2_300));
        story.load(load(3));
        let (_, took) = story.wait_replicas("a pod", |replicas| replicas > 0);
        println!("a Deployment with a pod after {took:?}");
        assert!(took < Duration::from_secs(1), "{took:?}");
        story.wait("hello", "the pod is ready", |app| {
            app["status"]["readyReplicas"] == 1
        });
        // A connection that lives keeps the pod.
        story.load(Load {
            connected: 1,
            ..load(0)
        });
        std::thread::sleep(Duration::from_secs(5));
        assert_eq!(story.replicas(), 1);
        story.load(load(0));
    }
}

#[test]
fn a_new_leader_goes_on_from_what_it_finds() {
    let Some(server) = bare() else {
        return;
    };
    server.install_chart().unwrap();
    server.start_operator(1).unwrap();
    let story = Story::on(server, "killed", 1);
    story.autoscaled("pods: {min: 1, max: 20}, concurrency: 10, scaleDown: {window: 10m}");
    story.load(load(30));
    let (before, _) = story.wait_replicas("a step", |replicas| replicas > 1);
    // In the middle of a step: some pods are asked for and not ready.
    server.stop_operator();
    server.start_operator(1).unwrap();
    let mut seen = Vec::new();
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(25) {
        let replicas = story.replicas();
        if seen.last() != Some(&replicas) {
            seen.push(replicas);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    println!("{before}, then {seen:?}: {}", story.decided());
    assert!(seen[0] >= before && seen.is_sorted(), "{seen:?}");
    assert!(seen.last() >= Some(&4), "{seen:?}");
    std::mem::forget(story);
    server.stop();
}

#[test]
fn steady_load_and_a_range_of_one_number_cause_no_write() {
    let Some(story) = story("steady", 1) else {
        return;
    };
    story.autoscaled("pods: {min: 2, max: 2}, concurrency: 10");
    std::thread::sleep(SETTLE);
    // A number that cannot change does not change, whatever the load is.
    for offered in [200, 0, 50] {
        story.load(load(offered));
        std::thread::sleep(Duration::from_secs(4));
        assert_eq!(story.replicas(), 2);
    }
    let autoscaling = "autoscaling: {pods: {min: 1, max: 20}, scaleDown: {window: 5s}}";
    story.apply("hello", &format!("{SMALL}{autoscaling}"));
    story.load(load(9));
    std::thread::sleep(Duration::from_mins(1));
    let before = story.server.all_writes("steady").len();
    let pods = story.replicas();
    std::thread::sleep(Duration::from_mins(1));
    let writes = story.server.all_writes("steady").split_off(before);
    println!("{pods} pods: {}", story.decided());
    assert_eq!(writes, [""; 0]);
}

#[test]
fn pods_without_a_node_do_not_run_away() {
    let Some(story) = story("nodeless", 1) else {
        return;
    };
    story.load(load(0));
    let fields = "resources: {requests: {cpu: '1'}}\nbalancers: {replicas: 1, resources: {requests: {cpu: 10m}}}\n";
    let autoscaling =
        "autoscaling: {pods: {min: 1, max: 20}, concurrency: 10, scaleDown: {window: 1m}}";
    story.apply("hello", &format!("{fields}{autoscaling}"));
    story.wait_complete("hello");
    story.load(load(45));
    // Four pods fit onto the node.
    let full = || story.pods("hello", "app").iter().any(is_unschedulable);
    wait::until(SOON, "a pod has no node", || {
        std::thread::sleep(Duration::from_millis(100));
        if full() {
            Ok(())
        } else {
            Err(story.decided().to_string())
        }
    })
    .unwrap();
    let asked = story.replicas();
    story.load(load(400));
    std::thread::sleep(Duration::from_secs(10));
    println!("{asked} pods: {}", story.decided());
    assert_eq!(story.replicas(), asked);
    let reason = story.decided()["reason"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    assert!(reason.contains("node"), "{reason}");
    // The cluster's own autoscaler adds nodes, and the app goes on.
    story.add_node(2);
    story.add_node(3);
    story.wait_replicas("more pods", |replicas| replicas > asked);
}

#[test]
fn a_quota_is_remembered() {
    let Some(story) = story("quota-scaled", 1) else {
        return;
    };
    quota(&story, &json!({"pods": "4"}));
    story.autoscaled("pods: {min: 1, max: 20}, concurrency: 10");
    story.load(load(60));
    // One of the four is the balancer's.
    story.wait("hello", "the quota is named", |app| {
        let decided = &app["status"]["autoscaling"];
        decided["pods"] == 3
            && decided["reason"]
                .as_str()
                .is_some_and(|why| why.contains("refuse"))
    });
    assert_eq!(story.replicas(), 3);
    // The event about a change may come a while after it.
    std::thread::sleep(Duration::from_secs(15));
    let before = story.server.writes("quota-scaled").len();
    std::thread::sleep(Duration::from_secs(20));
    let writes = story.server.writes("quota-scaled").split_off(before);
    println!("{}", story.decided());
    assert_eq!(writes, [""; 0]);
}

#[test]
fn pods_grow_in_place_before_there_are_more_and_shrink_again() {
    let Some(story) = story("resized", 1) else {
        return;
    };
    story.load(load(0));
    let fields = "resources: {requests: {cpu: 500m}, limits: {cpu: '1'}}\nbalancers: {replicas: 1, resources: {requests: {cpu: 10m}}}\n";
    let autoscaling = "autoscaling: {pods: {min: 1, max: 6}, workers: {min: 1, max: 2}, concurrency: 10, cpu: {max: '2'}, scaleDown: {window: 5s}}";
    story.apply("hello", &format!("{fields}{autoscaling}"));
    story.wait_complete("hello");
    let limit = || {
        let pods = story.pods("hello", "app");
        pods[0]["spec"]["containers"][0]["resources"].to_string()
    };
    let restarts = |pod: &Value| pod["metadata"]["uid"].clone();
    let uid = restarts(&story.pods("hello", "app")[0]);
    let grown = |cpu: &str| {
        wait::until(SOON, cpu, || {
            std::thread::sleep(Duration::from_millis(50));
            let now = limit();
            if now.contains(cpu) {
                Ok(())
            } else {
                Err(format!("{now} {}", story.decided()))
            }
        })
        .unwrap();
    };
    story.load(load(12));
    grown(r#""limits":{"cpu":"2"}"#);
    println!("grown: {} {}", limit(), story.decided());
    assert_eq!(story.replicas(), 1);
    assert_eq!(restarts(&story.pods("hello", "app")[0]), uid);
    story.load(load(1));
    grown(r#""limits":{"cpu":"1"}"#);
    println!("shrunk: {} {}", limit(), story.decided());
}

#[test]
fn a_foreign_autoscaler_is_named() {
    let Some(story) = story("hpa-beside", 1) else {
        return;
    };
    story.autoscaled("pods: {min: 1, max: 5}, concurrency: 10");
    let hpa = json!({
        "apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": "stranger", "namespace": "hpa-beside"},
        "spec": {
            "scaleTargetRef": {"apiVersion": "scaledapp.io/v1alpha1", "kind": "ScaledApp", "name": "hello"},
            "maxReplicas": 5,
            "metrics": [{"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 70}}}],
        },
    });
    story.try_apply(&hpa).unwrap();
    story.wait("hello", "the autoscaler is named", |app| {
        condition(app, "Degraded").message.contains("stranger")
    });
    story.load(load(30));
    story.wait_replicas("the app is scaled nevertheless", |replicas| replicas > 1);
}

#[test]
fn the_idlest_pods_are_removed_first() {
    let Some(story) = story("idlest", 1) else {
        return;
    };
    story.rule(|_| Behaviour::Ready(Duration::from_millis(300)));
    story.autoscaled("pods: {min: 1, max: 8}, concurrency: 10, scaleDown: {window: 6s}");
    story.load(load(40));
    story.wait_replicas("many pods", |replicas| replicas >= 5);
    story.wait_complete("hello");
    std::thread::sleep(Duration::from_secs(3));
    // Half of the pods, the oldest and the youngest among them, have nothing to do.
    let mut names: Vec<(String, String)> = story
        .staying_pods("hello", "app")
        .iter()
        .map(|pod| {
            let text = |field: &str| {
                pod["metadata"][field]
                    .as_str()
                    .unwrap_or_default()
                    .to_owned()
            };
            (text("creationTimestamp"), text("name"))
        })
        .collect();
    names.sort();
    let busy: Vec<String> = names
        .iter()
        .step_by(2)
        .map(|(_, name)| name.clone())
        .collect();
    let world = story.server.kubelets.world("idlest");
    world.set_busy(busy.clone());
    story.load(load(8));
    let all = names.len() as u64;
    let (left, _) = story.wait_replicas("fewer pods", |replicas| replicas < all);
    wait::until(SOON, "the pods are gone", || {
        std::thread::sleep(Duration::from_millis(100));
        let staying = story.staying_pods("hello", "app").len() as u64;
        if staying <= left {
            Ok(())
        } else {
            Err(staying.to_string())
        }
    })
    .unwrap();
    let staying = story.staying_pods("hello", "app");
    let is_busy = |pod: &&Value| {
        let name = pod["metadata"]["name"].as_str().unwrap_or_default();
        busy.iter().any(|busy| busy == name)
    };
    let kept = staying.iter().filter(is_busy).count();
    println!(
        "{all} pods, {} busy; {left} left, {kept} of them busy",
        busy.len()
    );
    assert_eq!(kept, busy.len().min(staying.len()));
}
