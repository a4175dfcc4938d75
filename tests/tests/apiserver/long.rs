//! Tests that take a long time: nodes that are drained one after the other, an autoscaler
//! that adds and removes nodes, and many idle apps. `SCALEDAPP_LONG` sets the time in
//! seconds, such as `600`; without it the tests are skipped. They print a line every ten
//! seconds, and check that the values remain within bounds.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::story::{Story, is_unschedulable, story};

const LINE: Duration = Duration::from_secs(10);
/// How often the autoscaler and the drain check the cluster.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

fn length() -> Option<Duration> {
    let seconds = std::env::var("SCALEDAPP_LONG").ok()?.parse().ok()?;
    Some(Duration::from_secs(seconds))
}

/// The numbers that a test records.
#[derive(Default)]
struct Log {
    begun: Option<Instant>,
    last: Option<Instant>,
    lines: Vec<(usize, usize, usize)>,
    before: usize,
}

impl Log {
    /// Records, every ten seconds, the nodes, the ready pods and the writes since the last record.
    fn note(&mut self, story: &Story, names: &[&str]) {
        let begun = *self.begun.get_or_insert_with(Instant::now);
        if self.last.is_some_and(|last| last.elapsed() < LINE) {
            return;
        }
        self.last = Some(Instant::now());
        let ready = names.iter().map(|name| {
            let status = story.deployment(name)["status"].clone();
            status["readyReplicas"].as_u64().unwrap_or_default() as usize
        });
        let (nodes, ready) = (nodes(story).len(), ready.sum());
        let writes = story.server.writes(&story.namespace).len();
        let since = writes - self.before;
        self.before = writes;
        println!(
            "{:4} s: {nodes} nodes, {ready} pods ready, {since} writes",
            begun.elapsed().as_secs()
        );
        self.lines.push((nodes, ready, since));
    }

    fn sum(&self) {
        let minutes = self.lines.len() as f64 * LINE.as_secs_f64() / 60.0;
        let writes: usize = self.lines.iter().skip(1).map(|line| line.2).sum();
        let nodes: BTreeSet<usize> = self.lines.iter().map(|line| line.0).collect();
        println!(
            "{} lines, nodes {nodes:?}, {writes} writes, {:.1} in a minute",
            self.lines.len(),
            writes as f64 / minutes
        );
    }
}

fn nodes(story: &Story) -> Vec<Value> {
    let path = format!("/api/v1/nodes?labelSelector=story%3D{}", story.namespace);
    story.server.api.list(&path).unwrap()
}

fn name(object: &Value) -> String {
    object["metadata"]["name"].as_str().unwrap().to_owned()
}

/// Evicts all pods of a node as `kubectl drain` does. Returns how many the budget refused.
pub(crate) fn evict(story: &Story, node: &str) -> usize {
    let pods = story.list("/api/v1", "pods");
    let of_it = pods.iter().filter(|pod| pod["spec"]["nodeName"] == *node);
    let refused = of_it.filter(|pod| {
        let name = name(pod);
        let evict =
            json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name}});
        let path = story.at("/api/v1", &format!("pods/{name}/eviction"));
        story
            .server
            .api
            .post(&path, &evict)
            .is_err_and(|refused| refused.code == 429)
    });
    refused.count()
}

pub(crate) fn cordon(story: &Story, node: &str, cordoned: bool) {
    let cordoned = if cordoned { json!(true) } else { Value::Null };
    let path = format!("/api/v1/nodes/{node}");
    let spec = json!({"spec": {"unschedulable": cordoned}});
    story.server.api.merge(&path, &spec).unwrap();
}

#[test]
fn nodes_are_drained_one_after_the_other() {
    let Some(length) = length() else {
        println!("skipped: SCALEDAPP_LONG is not set to a number of seconds");
        return;
    };
    let Some(story) = story("drains", 5) else {
        return;
    };
    story.apply("each", "replicas: {perNode: 1}");
    story.apply("some", "replicas: {total: 4}");
    story.wait_complete("each");
    story.wait_complete("some");
    let (begun, mut log, mut rounds) = (Instant::now(), Log::default(), 0);
    let mut fewest = usize::MAX;
    while begun.elapsed() < length {
        let node = story.node(1 + rounds % 5);
        cordon(&story, &node, true);
        while evict(&story, &node) > 0 {
            log.note(&story, &["each", "some"]);
            std::thread::sleep(CHECK_INTERVAL);
        }
        let ready = |name: &str| {
            let status = story.deployment(name)["status"].clone();
            status["readyReplicas"].as_u64().unwrap_or_default() as usize
        };
        for _ in 0..10 {
            fewest = fewest.min(ready("some"));
            log.note(&story, &["each", "some"]);
            std::thread::sleep(CHECK_INTERVAL / 2);
        }
        cordon(&story, &node, false);
        story.wait("each", "a pod on each node again", |app| {
            app["status"]["pods"] == "5/5"
        });
        story.wait("some", "all of a total again", |app| {
            app["status"]["pods"] == "4/4"
        });
        rounds += 1;
    }
    log.sum();
    println!("{rounds} drains, never fewer than {fewest} of 4 pods");
    assert!(fewest >= 3, "{fewest}");
}

/// A simulated cluster autoscaler. It follows the usual rules, with shorter times.
#[derive(Default)]
struct Autoscaler {
    /// Number of the last node.
    number: usize,
    /// The number of successive checks in which a pod was waiting, by name.
    waits: BTreeMap<String, usize>,
    /// The number of successive checks in which a node was not needed, by name.
    unneeded: BTreeMap<String, usize>,
    /// The node that is being emptied, and is removed once it is empty.
    leaving: Option<String>,
    added: usize,
    /// How many of the added nodes were added for a pod of `each`, the app with a pod on each node.
    added_for_each: usize,
    removed: usize,
}

/// CPU of a node, and of one pod of each of the apps `each` and `load`, in thousandths of a core.
const NODE: u64 = 4_000;
const EACH: u64 = 1_500;
const LOAD: u64 = 2_000;

fn is_of(pod: &Value, app: &str) -> bool {
    pod["metadata"]["labels"]["app.kubernetes.io/instance"] == *app
}

impl Autoscaler {
    /// Adds a node for each pod that has waited for five checks.
    fn add(&mut self, story: &Story, pods: &[Value]) {
        let waiting: Vec<&Value> = pods.iter().filter(|pod| is_unschedulable(pod)).collect();
        let names: BTreeSet<String> = waiting.iter().map(|pod| name(pod)).collect();
        self.waits.retain(|pod, _| names.contains(pod));
        for pod in waiting {
            let looks = self.waits.entry(name(pod)).or_default();
            *looks += 1;
            if *looks == 5 {
                self.number += 1;
                story.add_node(self.number);
                self.added += 1;
                self.added_for_each += usize::from(is_of(pod, "each"));
            }
        }
    }

    /// Empties and removes nodes, one at a time. It chooses nodes that were less than half used in
    /// ten successive checks and whose pods fit on another node.
    fn remove(&mut self, story: &Story, pods: &[Value]) {
        let nodes: Vec<String> = nodes(story).iter().map(name).collect();
        let used = |node: &str| -> u64 {
            let on_it = pods.iter().filter(|pod| pod["spec"]["nodeName"] == *node);
            on_it
                .map(|pod| if is_of(pod, "each") { EACH } else { LOAD })
                .sum()
        };
        let is_unneeded = |node: &String| {
            let mut others = nodes.iter().filter(|other| *other != node);
            let used_here = used(node);
            used_here < NODE / 2 && others.any(|other| used(other) + used_here <= NODE)
        };
        let unneeded: BTreeSet<&String> = nodes.iter().filter(|node| is_unneeded(node)).collect();
        self.unneeded.retain(|node, _| unneeded.contains(node));
        for node in &unneeded {
            *self.unneeded.entry((*node).clone()).or_default() += 1;
        }
        let mut candidates = self.unneeded.iter().filter(|(_, looks)| **looks >= 10);
        let candidate = || candidates.next().map(|(node, _)| node.clone());
        let Some(node) = self.leaving.clone().or_else(candidate) else {
            return;
        };
        self.leaving = Some(node.clone());
        let path = format!("/api/v1/nodes/{node}");
        let taints = json!([
            {"key": "story", "value": story.namespace, "effect": "NoSchedule"},
            {"key": "ToBeDeletedByClusterAutoscaler", "effect": "NoSchedule"},
        ]);
        let taints = json!({"spec": {"taints": taints}});
        story.server.api.merge(&path, &taints).unwrap();
        if used(&node) > 0 {
            evict(story, &node);
        } else {
            story.server.api.delete(&path, &json!({})).unwrap();
            self.leaving = None;
            self.removed += 1;
        }
    }
}

#[test]
fn an_autoscaler_comes_to_rest() {
    let Some(length) = length() else {
        println!("skipped: SCALEDAPP_LONG is not set to a number of seconds");
        return;
    };
    let Some(story) = story("scaler", 3) else {
        return;
    };
    story.apply(
        "each",
        "replicas: {perNode: 1}\nresources: {requests: {cpu: '1500m'}}",
    );
    story.wait_complete("each");
    story.apply(
        "load",
        "replicas: {total: 1}\nresources: {requests: {cpu: '2'}}",
    );
    story.wait_complete("load");
    let (begun, mut log) = (Instant::now(), Log::default());
    let mut autoscaler = Autoscaler {
        number: 3,
        ..Autoscaler::default()
    };
    let (mut most, mut phase) = (0, usize::MAX);
    while begun.elapsed() < length {
        let at = (begun.elapsed().as_secs() / 60) as usize;
        if at != phase {
            phase = at;
            let total = [1, 4, 8, 3][phase % 4];
            let fields =
                format!("replicas: {{total: {total}}}\nresources: {{requests: {{cpu: '2'}}}}");
            story.apply("load", &fields);
            println!("     the load is {total}");
        }
        let mut pods = story.list("/api/v1", "pods");
        pods.retain(|pod| pod["metadata"]["labels"]["app.kubernetes.io/component"] == "app");
        autoscaler.add(&story, &pods);
        autoscaler.remove(&story, &pods);
        most = most.max(nodes(&story).len());
        log.note(&story, &["each", "load"]);
        std::thread::sleep(CHECK_INTERVAL);
    }
    log.sum();
    let Autoscaler {
        added,
        added_for_each,
        removed,
        ..
    } = autoscaler;
    println!(
        "{added} nodes added, {added_for_each} for a pod on each, {removed} removed, {most} at most"
    );
    // Each node has 4 CPUs, enough for one pod of `load` (2) and one of `each` (1.5). Eight pods of
    // `load` need eight nodes, and a ninth may be waiting for its removal.
    assert!(most <= 9, "{most}");
    assert_eq!(added_for_each, 0);
    if length >= Duration::from_mins(4) {
        assert!(
            added >= 5 && removed > 0,
            "the autoscaler has done too little"
        );
    }
}

/// CPU time of a process so far, in seconds.
fn cpu(pid: u32) -> f64 {
    // The kernel counts these times in hundredths of a second (USER_HZ).
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let after_name = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
    let times = after_name.split(' ').skip(11).take(2);
    times.filter_map(|it| it.parse::<f64>().ok()).sum::<f64>() / 100.0
}

/// This test takes at most three minutes, because a longer time would show nothing more.
#[test]
fn a_hundred_idle_apps_cost_no_write() {
    let Some(length) = length() else {
        println!("skipped: SCALEDAPP_LONG is not set to a number of seconds");
        return;
    };
    let Some(story) = story("idle", 2) else {
        return;
    };
    let name = |number: usize| format!("app-{number}");
    for number in 0..100 {
        story.apply(
            &name(number),
            "replicas: {total: 1}\nresources: {requests: {cpu: 10m}}\nbalancers: {replicas: 1}",
        );
    }
    for number in 0..100 {
        story.wait_complete(&name(number));
    }
    story.settled_writes();
    std::thread::sleep(LINE);
    let pid = story.server.operator_pid().unwrap();
    let (before, begun) = (story.server.all_writes("idle").len(), cpu(pid));
    let length = length.min(Duration::from_mins(3));
    std::thread::sleep(length);
    let writes = story.server.all_writes("idle").split_off(before);
    let percent = (cpu(pid) - begun) / length.as_secs_f64() * 100.0;
    println!(
        "100 apps, 200 pods: {} writes, {percent:.2} % of a core",
        writes.len()
    );
    assert_eq!(writes, [""; 0]);
}
