//! Tests that need a long time: nodes that are drained one after the other, and an
//! autoscaler that adds and removes nodes. `SCALEDAPP_LONG` sets the time in seconds, such
//! as `600`; without it both tests are skipped. They print a line every ten seconds, and
//! check that the values stay within bounds.

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

/// The observations of a test.
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

/// Adds a node for a pod that finds none, and removes nodes without pods of an app.
fn scale(story: &Story, waits: &mut BTreeMap<String, usize>, number: &mut usize) -> (usize, usize) {
    let pods = story.list("/api/v1", "pods");
    let waiting = pods.iter().filter(|pod| is_unschedulable(pod));
    let now: Vec<String> = waiting.map(name).collect();
    waits.retain(|pod, _| now.contains(pod));
    let mut added = 0;
    for pod in now {
        let looks = waits.entry(pod).or_default();
        *looks += 1;
        // One node for each such pod, after several checks.
        if *looks == 5 {
            *number += 1;
            story.add_node(*number);
            added += 1;
        }
    }
    let mut removed = 0;
    for node in nodes(story) {
        let name = name(&node);
        if !pods.iter().any(|pod| pod["spec"]["nodeName"] == *name) {
            drop(
                story
                    .server
                    .api
                    .delete(&format!("/api/v1/nodes/{name}"), &json!({})),
            );
            removed += 1;
        }
    }
    (added, removed)
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
    // Two pods per node, and other pods that come and go.
    story.apply(
        "each",
        "replicas: {perNode: 1}\nresources: {requests: {cpu: '1500m'}}",
    );
    story.wait_complete("each");
    let (begun, mut log) = (Instant::now(), Log::default());
    let (mut waits, mut number) = (BTreeMap::new(), 3);
    let (mut added, mut removed, mut most) = (0, 0, 0);
    let mut phase = usize::MAX;
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
        let (more, fewer) = scale(&story, &mut waits, &mut number);
        added += more;
        removed += fewer;
        most = most.max(nodes(&story).len());
        log.note(&story, &["each"]);
        std::thread::sleep(CHECK_INTERVAL);
    }
    log.sum();
    println!("{added} nodes added, {removed} removed, {most} at most");
    // Each node of four CPUs takes two pods of 2 CPUs, or one of them and one of 1.5: eight
    // nodes, and some that were added before other pods had left.
    assert!(most <= 14, "{most}");
}
