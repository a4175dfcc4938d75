//! `cargo xtask kind check`: tries once what tests rely on in a cluster. These are an image without
//! a registry, the strictest Pod Security, the socket hand-over in a pod, connections between pods
//! on different nodes, and Service DNS.

use std::fs;
use std::time::Duration;

use anyhow::{Context, ensure};
use scaledapp_tests::{binaries, wait};
use serde_json::Value;

use super::archive::{self, Start};
use super::{Cluster, network};
use crate::console::{note, timed};

const NAMESPACE: &str = "--namespace=kind-check";
const IMAGE: &str = "localhost/scaledapp/kind-check:dev";
const PROGRAMS: [&str; 2] = ["scaledapp-sidecar", "scaledapp-hello-rust"];

/// How long the rules of a new Service may take to reach a busy node after the Service's pods are
/// ready.
const SERVICE_TIMEOUT: Duration = Duration::from_mins(1);

/// A pod of the check.
#[derive(Debug, PartialEq, Eq)]
struct Pod {
    name: String,
    node: String,
    address: String,
}

/// Runs all checks, and removes the objects that they made.
///
/// # Errors
/// A check failed. The message names it.
pub(crate) fn run(cluster: &Cluster) -> anyhow::Result<()> {
    let image = timed("Image from static programs, loaded into all nodes", || {
        let paths = [binaries::path(PROGRAMS[0])?, binaries::path(PROGRAMS[1])?];
        let [sidecar, hello] = PROGRAMS.map(|program| format!("/{program}"));
        let files = [(&*paths[0], &*sidecar), (&*paths[1], &*hello)];
        let start = Start {
            entrypoint: &[&sidecar],
            user: "65534:65534",
            directory: "/",
        };
        let archive = archive::from_scratch(&cluster.cache, IMAGE, &files, &start)?;
        cluster.load_image(IMAGE, &archive)?;
        Ok(IMAGE)
    })?;
    let done = check(cluster, image);
    let words = [
        "delete",
        "namespace",
        "kind-check",
        "--ignore-not-found",
        "--wait=false",
    ];
    cluster.kubectl(&words).done()?;
    done
}

fn check(cluster: &Cluster, image: &str) -> anyhow::Result<()> {
    let pods = timed("Pods under Pod Security `restricted`", || {
        start(cluster, image)
    })?;
    let [one, other] = &pods[..] else {
        anyhow::bail!("expected two pods, found {pods:?}");
    };
    ensure!(one.node != other.node, "both pods are on {}", one.node);
    let get = |from: &Pod, url: &str| {
        let words = [
            "curl",
            "--silent",
            "--show-error",
            "--fail",
            "--max-time",
            "5",
            url,
        ];
        network::in_pod(cluster, &from.node, &from.name, &words)
    };
    timed("Mechanism of the supervisor", || {
        for pod in &pods {
            let status = get(pod, &format!("http://{}:9377/status", pod.address))?;
            let status: Value = serde_json::from_str(&status)?;
            let mechanism = status["mechanism"].as_str().unwrap_or_default();
            note(&format!("{} on {}: {mechanism}", pod.name, pod.node));
            ensure!(mechanism == "notify", "not `notify` but `{mechanism}`");
        }
        Ok(())
    })?;
    timed("Pod to pod on another node", || {
        for (from, to) in [(one, other), (other, one)] {
            get(from, &format!("http://{}:3000/", to.address))?;
            note(&format!("{} reaches {}", from.name, to.address));
        }
        Ok(())
    })?;
    timed("Service by its name", || {
        for url in [
            "http://hello/",
            "http://hello.kind-check.svc.cluster.local/",
        ] {
            for pod in &pods {
                wait::until(SERVICE_TIMEOUT, url, || get(pod, url))?;
            }
            note(&format!("{url} answers on both nodes"));
        }
        Ok(())
    })
}

fn start(cluster: &Cluster, image: &str) -> anyhow::Result<Vec<Pod>> {
    let file = binaries::workspace().join("tests/cluster/check.yaml");
    let text = fs::read_to_string(&file).with_context(|| file.display().to_string())?;
    let directory = tempfile::tempdir()?;
    let manifest = directory.path().join("check.yaml");
    fs::write(&manifest, text.replace("IMAGE", image))?;
    let gone = ["delete", "namespace", "kind-check", "--ignore-not-found"];
    cluster.kubectl(&gone).within(SERVICE_TIMEOUT * 2).done()?;
    cluster
        .kubectl(&["apply", "--filename=-"])
        .input(&manifest)
        .done()?;
    let words = [
        "rollout",
        "status",
        "deployment/hello",
        NAMESPACE,
        "--timeout=110s",
    ];
    let rolled_out = cluster.kubectl(&words).within(SERVICE_TIMEOUT * 2).done();
    if let Err(error) = rolled_out {
        let words = ["describe", "pods", NAMESPACE];
        return Err(error.context(cluster.kubectl(&words).text().unwrap_or_default()));
    }
    let listed = cluster
        .kubectl(&["get", "pods", NAMESPACE, "--output=json"])
        .text()?;
    pods(&serde_json::from_str(&listed)?)
}

fn pods(list: &Value) -> anyhow::Result<Vec<Pod>> {
    let items = list["items"].as_array().context("no list of pods")?;
    let pod = |item: &Value| {
        let text = |value: &Value| value.as_str().map(str::to_owned);
        Some(Pod {
            name: text(&item["metadata"]["name"])?,
            node: text(&item["spec"]["nodeName"])?,
            address: text(&item["status"]["podIP"])?,
        })
    };
    items
        .iter()
        .map(|item| pod(item).context("a pod without a node or an address"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn pods_are_read_with_node_and_address() {
        let item = json!({
            "metadata": {"name": "p"},
            "spec": {"nodeName": "n"},
            "status": {"podIP": "10.244.1.2"},
        });
        let found = pods(&json!({"items": [item]})).unwrap();
        assert_eq!(found[0].node, "n");
        pods(&json!({"items": [{"metadata": {"name": "p"}}]})).unwrap_err();
    }
}
