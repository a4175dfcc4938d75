//! The life cycle of the cluster: whether the existing cluster can be reused, how a new one is
//! made, when it is ready, and how it is removed. `source` decides where the nodes come from, and
//! `network` makes the pod network.

use std::fs;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use scaledapp_tests::wait;
use serde_json::Value;

use super::cache::{Cache, remove};
use super::engine::Engine;
use super::recipe::{KIND, KUBECTL};
use super::source::{self, Choice, Source};
use super::{Cluster, NAME, golang, network};
use crate::console::{note, timed};

/// The file on the first node that records from which inputs the cluster was made. It is written
/// once everything is ready, so a cluster without it is incomplete.
const RECORD: &str = "/kind/scaledapp-made-from";

/// How long kubeadm may take to start three nodes on a busy machine.
const CREATE_TIMEOUT: Duration = Duration::from_mins(15);
const READY_TIMEOUT: Duration = Duration::from_mins(5);
const REMOVE_TIMEOUT: Duration = Duration::from_mins(3);

/// How long an existing cluster may take to pass the health check. On a busy machine a single check
/// may fail.
const HEALTHY_TIMEOUT: Duration = Duration::from_secs(30);

/// A node as the engine lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Container {
    pub(crate) name: String,
    /// `running`, `exited` and others; with podman possibly a longer text.
    pub(crate) state: String,
}

impl Container {
    pub(crate) fn runs(&self) -> bool {
        self.state == "running" || self.state.starts_with("up ") && !self.state.contains("paused")
    }
}

/// How to get a cluster, given the existing one or none.
#[derive(Debug, PartialEq, Eq)]
enum Decision {
    Reuse,
    Create,
    /// The existing cluster cannot be reused, for this reason.
    Replace(String),
}

/// A working engine, preferably the engine that has the cluster's nodes.
pub(crate) fn engine(cache: &Cache) -> Option<Engine> {
    let mut found = Engine::found(cache);
    let has_nodes = |engine: &Engine| containers(engine).is_ok_and(|nodes| !nodes.is_empty());
    let with = found.iter().position(has_nodes).unwrap_or(0);
    (!found.is_empty()).then(|| found.swap_remove(with))
}

/// The existing nodes, the control plane first.
pub(crate) fn containers(engine: &Engine) -> anyhow::Result<Vec<Container>> {
    let label = format!("label=io.x-k8s.kind.cluster={NAME}");
    let format = "{{.Names}} {{.State}}";
    let words = ["ps", "--all", "--filter", &label, "--format", format];
    Ok(listed(&engine.run(&words).text()?))
}

fn listed(text: &str) -> Vec<Container> {
    let pairs = text.lines().filter_map(|line| line.split_once(' '));
    let mut found: Vec<Container> = pairs
        .map(|(name, state)| Container {
            name: name.to_owned(),
            state: state.trim().to_lowercase(),
        })
        .collect();
    found.sort_by(|one, other| one.name.cmp(&other.name));
    found
}

/// The inputs that the cluster was made from, if it was completed.
pub(crate) fn record(engine: &Engine) -> Option<String> {
    let words = ["exec", &first_node(), "cat", RECORD];
    engine.run(&words).text().ok()
}

fn first_node() -> String {
    format!("{NAME}-control-plane")
}

fn decide(nodes: &[Container], record: Option<&str>, acceptable: &[String]) -> Decision {
    if nodes.is_empty() {
        return Decision::Create;
    }
    if let Some(node) = nodes.iter().find(|node| !node.runs()) {
        let Container { name, state } = node;
        return Decision::Replace(format!(
            "{name} is not running ({state}), and nodes do not survive a stop"
        ));
    }
    match record {
        None => Decision::Replace("it is incomplete".to_owned()),
        Some(record) if acceptable.iter().any(|good| good == record) => Decision::Reuse,
        Some(record) => Decision::Replace(format!("it was made from something else ({record})")),
    }
}

/// Returns the existing cluster if it can be reused, otherwise a new one.
///
/// # Errors
/// The cluster cannot be made.
pub(crate) fn ensure(cache: &Cache, choice: Choice) -> anyhow::Result<Cluster> {
    let engine = source::engine(cache, choice)?;
    let sources = source::acceptable(choice)?;
    let fingerprints = sources.iter().map(Source::fingerprint);
    let fingerprints: Vec<String> = fingerprints.collect::<Result<_, _>>()?;
    let nodes = containers(&engine)?;
    let record = record(&engine);
    let mut decision = decide(&nodes, record.as_deref(), &fingerprints);
    if decision == Decision::Reuse {
        let cluster = reach(cache, engine.clone())?;
        let healthy = || {
            wait::until(HEALTHY_TIMEOUT, "the cluster is healthy", || {
                healthy(&cluster)
            })
        };
        match healthy().or_else(|error| mend(&cluster, error).and_then(|()| healthy())) {
            Ok(()) => return Ok(cluster),
            Err(error) => decision = Decision::Replace(format!("{error:#}")),
        }
    }
    if let Decision::Replace(reason) = &decision {
        note(&format!("The existing cluster cannot be reused: {reason}."));
    }
    // The image is made before the old cluster is removed, so that the old cluster is kept if
    // making the image fails.
    let (source, new) = source::obtain(cache, engine.clone(), choice)?;
    if decision != Decision::Create {
        timed("Removing the cluster", || delete(&engine))?;
    }
    create(cache, new, &source)
}

/// Makes a cluster. The caller has removed an earlier one.
fn create(cache: &Cache, engine: Engine, source: &Source) -> anyhow::Result<Cluster> {
    let kind = golang::client(cache, &KIND)?;
    golang::client(cache, &KUBECTL)?;
    let configuration = source.configuration()?;
    let file = cache.at("kind.yaml")?;
    fs::write(&file, &configuration).with_context(|| format!("cannot write {}", file.display()))?;
    let (kubeconfig, file) = (cache.kubeconfig(), file.to_string_lossy());
    let kubeconfig = kubeconfig.to_string_lossy();
    let mut words = vec!["create", "cluster", "--name", NAME, "--config", &file];
    words.extend(["--kubeconfig", &kubeconfig]);
    if let Source::Built(image) = source {
        words.extend(["--image", image]);
    }
    let cure = format!(
        "look at {}; `kind create cluster --retain --verbosity 5` with the same words says more; \
         then run `cargo xtask kind down` and try again",
        cache.log("kind-create").display()
    );
    timed("Nodes (kind create cluster)", || {
        engine
            .kind(&kind, &words)
            .within(CREATE_TIMEOUT)
            .log(cache.log("kind-create"))
            .cure(&cure)
            .done()
    })?;
    let cluster = Cluster {
        cache: cache.clone(),
        engine,
    };
    if matches!(source, Source::Built(_)) {
        timed("Network between pods", || {
            let nodes = containers(&cluster.engine)?.len();
            network::ranges_given(&cluster, nodes)?;
            network::connect(&cluster)
        })?;
    }
    timed("Waiting until nodes and cluster DNS are ready", || {
        wait::until(READY_TIMEOUT, "the cluster is ready", || healthy(&cluster)).with_context(
            || {
                format!(
                    "kubectl --kubeconfig {kubeconfig} get pods -A shows what hangs; \
                 `{} exec NODE journalctl -u kubelet` says why",
                    cluster.engine.program()
                )
            },
        )
    })?;
    let record = tempfile::NamedTempFile::new()?;
    fs::write(record.path(), source.fingerprint()?)?;
    let words = ["exec", "-i", &first_node(), "tee", RECORD];
    cluster.engine.run(&words).input(record.path()).done()?;
    Ok(cluster)
}

/// The running cluster, with its clients and a new kubeconfig.
fn reach(cache: &Cache, engine: Engine) -> anyhow::Result<Cluster> {
    let kind = golang::client(cache, &KIND)?;
    golang::client(cache, &KUBECTL)?;
    let kubeconfig = cache.kubeconfig();
    let kubeconfig = kubeconfig.to_string_lossy();
    let words = ["export", "kubeconfig", "--name", NAME, "--kubeconfig"];
    let words = [&words[..], &[&kubeconfig]].concat();
    engine.kind(&kind, &words).done()?;
    Ok(Cluster {
        cache: cache.clone(),
        engine,
    })
}

/// Restarts kube-proxy on nodes that reach no Service. This has happened once: after an hour, the
/// kernel's map of Services was empty on one node, and kube-proxy had logged nothing.
///
/// # Errors
/// The cluster is unhealthy for another reason.
fn mend(cluster: &Cluster, error: anyhow::Error) -> anyhow::Result<()> {
    let nodes = containers(&cluster.engine)?;
    let names = nodes.iter().map(|node| node.name.as_str());
    let broken: Vec<&str> = names
        .filter(|node| services_reached(cluster, node).is_err())
        .collect();
    if broken.is_empty() {
        return Err(error);
    }
    for node in broken {
        note(&format!("{error:#}: kube-proxy of {node} is restarted"));
        let on = format!("--field-selector=spec.nodeName={node}");
        let words = ["delete", "pods", "--selector=k8s-app=kube-proxy", &on];
        let words = [&words[..], &["--namespace=kube-system"]].concat();
        cluster.kubectl(&words).done()?;
    }
    Ok(())
}

/// Checks that a node reaches the Service `kubernetes`, which every cluster has. Any answer counts.
fn services_reached(cluster: &Cluster, node: &str) -> anyhow::Result<()> {
    let words = ["get", "service", "kubernetes", "--request-timeout=5s"];
    let words = [&words[..], &["--output=jsonpath={.spec.clusterIP}"]].concat();
    let url = format!("https://{}/livez", cluster.kubectl(&words).text()?.trim());
    let words = ["curl", "--silent", "--insecure", "--max-time", "3", &url];
    let asked = cluster.node_exec(node, &words);
    asked.with_context(|| format!("{node} does not reach Services ({url})"))?;
    Ok(())
}

/// Checks that all nodes run, are Ready and reach Services, and that CoreDNS is rolled out.
pub(crate) fn healthy(cluster: &Cluster) -> anyhow::Result<()> {
    let ask = |words: &[&str]| {
        let words = [&["--request-timeout=5s", "--output=json"][..], words].concat();
        let text = cluster.kubectl(&words).text()?;
        anyhow::Ok(serde_json::from_str::<Value>(&text)?)
    };
    let nodes = containers(&cluster.engine)?;
    // The engine's state is checked as well, because Kubernetes takes most of a minute to notice
    // that a node has stopped.
    if let Some(Container { name, state }) = nodes.iter().find(|node| !node.runs()) {
        bail!("{name} is not running ({state})");
    }
    nodes_ready(&ask(&["get", "nodes"])?, nodes.len())?;
    for node in &nodes {
        services_reached(cluster, &node.name)?;
    }
    let words = ["get", "deployment", "coredns", "--namespace=kube-system"];
    rolled_out(&ask(&words)?)
}

fn nodes_ready(list: &Value, wanted: usize) -> anyhow::Result<()> {
    let items = list["items"].as_array().context("no list of nodes")?;
    ensure!(
        items.len() == wanted,
        "{} of {wanted} nodes have joined",
        items.len()
    );
    for node in items {
        let conditions = node["status"]["conditions"].as_array();
        let ready = conditions
            .into_iter()
            .flatten()
            .find(|condition| condition["type"] == "Ready");
        let name = node["metadata"]["name"].as_str().unwrap_or_default();
        let ready = ready.with_context(|| format!("{name} has not reported yet"))?;
        let message = ready["message"].as_str().unwrap_or_default();
        ensure!(ready["status"] == "True", "{name} is not Ready: {message}");
    }
    Ok(())
}

fn rolled_out(deployment: &Value) -> anyhow::Result<()> {
    let status = &deployment["status"];
    let [wanted, updated, available] = [
        &deployment["spec"]["replicas"],
        &status["updatedReplicas"],
        &status["availableReplicas"],
    ]
    .map(|number| number.as_u64().unwrap_or(0));
    ensure!(
        wanted > 0 && updated == wanted && available == wanted,
        "{available} of {wanted} pods of CoreDNS are available"
    );
    Ok(())
}

/// Removes all nodes and their volumes, also those of an incomplete cluster. Does not need the kind
/// program.
///
/// # Errors
/// The engine cannot remove a node or a volume.
pub(crate) fn delete(engine: &Engine) -> anyhow::Result<()> {
    let nodes = containers(engine)?;
    let mut words = vec!["rm", "--force", "--volumes"];
    if engine.program() == "podman" {
        // Otherwise podman sends each node SIGTERM and waits for ten seconds.
        words.extend(["--time", "0"]);
    }
    words.extend(nodes.iter().map(|node| node.name.as_str()));
    if !nodes.is_empty() {
        engine.run(&words).within(REMOVE_TIMEOUT).done()?;
    }
    for Container { name, .. } in &nodes {
        // kind makes the volumes and labels them with the node's name.
        let label = format!("label={name}");
        let words = ["volume", "ls", "--quiet", "--filter", &label];
        for volume in engine.run(&words).text()?.lines() {
            engine.run(&["volume", "rm", "--force", volume]).done()?;
        }
    }
    Ok(())
}

/// Removes the cluster; with `all` also the images and files that were cached for it.
///
/// # Errors
/// The engine cannot remove a node or an image.
pub(crate) fn down(cache: &Cache, all: bool) -> anyhow::Result<()> {
    if let Some(engine) = engine(cache) {
        let nodes = containers(&engine)?;
        if nodes.is_empty() {
            note("There is no cluster.");
        } else {
            timed("Removing the cluster", || delete(&engine))?;
        }
        if all {
            for image in super::node::built(&engine)? {
                note(&format!("Removing {image}"));
                engine.run(&["image", "rm", "--force", &image]).done()?;
            }
        }
    } else {
        note("No container engine runs here, so there is no cluster.");
    }
    remove(&cache.kubeconfig())?;
    if all {
        timed("Removing target/kind", || cache.clear())?;
        note("Go keeps its own caches: `go clean -cache -modcache` removes them.");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn node(name: &str, state: &str) -> Container {
        Container {
            name: name.to_owned(),
            state: state.to_owned(),
        }
    }

    #[test]
    fn a_cluster_is_reused_only_if_it_is_complete_and_of_this_recipe() {
        let good = ["built x".to_owned()];
        let up = [node("a", "running"), node("b", "running")];
        assert_eq!(decide(&[], None, &good), Decision::Create);
        assert_eq!(decide(&up, Some("built x"), &good), Decision::Reuse);
        let reason = |nodes: &[Container], record| match decide(nodes, record, &good) {
            Decision::Replace(reason) => reason,
            other => format!("{other:?}"),
        };
        assert!(reason(&up, None).contains("incomplete"));
        assert!(reason(&up, Some("built y")).contains("built y"));
        let stopped = [node("a", "running"), node("b", "exited")];
        assert!(reason(&stopped, Some("built x")).contains("b is not running (exited)"));
    }

    #[test]
    fn lists_of_both_engines_are_read() {
        let text = "s-worker running\ns-control-plane Exited (0) 2 days ago\n";
        let expected = [
            node("s-control-plane", "exited (0) 2 days ago"),
            node("s-worker", "running"),
        ];
        assert_eq!(listed(text), expected);
        assert_eq!(listed(""), []);
        for (state, runs) in [
            ("running", true),
            ("up 3 minutes ago", true),
            ("up 3 minutes (paused)", false),
            ("exited (0) 2 days ago", false),
            ("created", false),
        ] {
            assert_eq!(node("n", state).runs(), runs, "{state}");
        }
    }

    #[test]
    fn nodes_are_ready_when_all_have_joined_and_are_ready() {
        let node = |status: &str| {
            json!({
                "metadata": {"name": "n"},
                "status": {"conditions": [
                    {"type": "MemoryPressure", "status": "False"},
                    {"type": "Ready", "status": status, "message": "no network"},
                ]},
            })
        };
        let list = json!({"items": [node("True"), node("True")]});
        nodes_ready(&list, 2).unwrap();
        nodes_ready(&list, 3).unwrap_err();
        let list = json!({"items": [node("True"), node("False")]});
        let text = nodes_ready(&list, 2).unwrap_err().to_string();
        assert_eq!(text, "n is not Ready: no network");
    }

    #[test]
    fn cluster_dns_is_rolled_out_when_all_of_it_is_available() {
        let deployment = |available: u64| {
            json!({
                "spec": {"replicas": 2},
                "status": {"updatedReplicas": 2, "availableReplicas": available},
            })
        };
        rolled_out(&deployment(2)).unwrap();
        rolled_out(&deployment(1)).unwrap_err();
        rolled_out(&json!({})).unwrap_err();
    }
}
