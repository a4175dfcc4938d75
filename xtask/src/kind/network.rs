//! The pod network of a cluster whose node image xtask built. It replaces kind's own network
//! (kindnetd), which is an image that cannot be pulled without a registry. Each pod has a
//! point-to-point link and an address from its node's range, and each node has a route to every
//! other node. `tests/cluster/node-network.sh` is the part that runs on a node.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::{Value, json};

use super::Cluster;

/// The address range of all pods, of which each node has a part. The range is kind's default, which
/// `source` sets explicitly.
pub(crate) const PODS: &str = "10.244.0.0/16";

/// If this setting is 1, the machine's firewall rules apply to bridged packets: a FORWARD policy of
/// DROP drops packets between nodes, and masquerading hides their sender.
const BRIDGED: &str = "/proc/sys/net/bridge/bridge-nf-call-iptables";

/// The addresses of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Node {
    pub(crate) name: String,
    /// The range that its pods get addresses from.
    pub(crate) range: String,
    /// Its own address.
    pub(crate) address: String,
}

/// Connects the pods of all nodes.
///
/// # Errors
/// A node has no range yet, or refuses a route.
pub(crate) fn connect(cluster: &Cluster) -> anyhow::Result<()> {
    if Path::new(BRIDGED).exists() {
        fs::write(BRIDGED, "0").with_context(|| {
            format!("cannot write 0 to {BRIDGED}, without which pods do not reach other nodes")
        })?;
    }
    let listed = cluster.kubectl(&["get", "nodes", "-o", "json"]).text()?;
    let nodes = nodes(&serde_json::from_str(&listed)?)?;
    let script = include_str!("../../../tests/cluster/node-network.sh");
    for node in &nodes {
        let plugins = plugins(&node.range).to_string();
        let words = ["bash", "-euc", script, "node-network", PODS, &plugins];
        let words = [&words[..], &routes(&nodes, node).concat()].concat();
        cluster.node_exec(&node.name, &words)?;
    }
    Ok(())
}

/// Reads the nodes from the output of `kubectl get nodes -o json`.
pub(crate) fn nodes(listed: &Value) -> anyhow::Result<Vec<Node>> {
    let items = listed["items"].as_array().context("no list of nodes")?;
    items.iter().map(node).collect()
}

fn node(item: &Value) -> anyhow::Result<Node> {
    let name = item["metadata"]["name"]
        .as_str()
        .context("a node without a name")?;
    let range = item["spec"]["podCIDR"].as_str();
    let range = range.with_context(|| format!("{name} has no range of pod addresses yet"))?;
    let addresses = item["status"]["addresses"].as_array();
    let address = addresses
        .into_iter()
        .flatten()
        .find(|address| address["type"] == "InternalIP")
        .and_then(|address| address["address"].as_str())
        .with_context(|| format!("{name} has no address"))?;
    let owned = str::to_owned;
    Ok(Node {
        name: owned(name),
        range: owned(range),
        address: owned(address),
    })
}

/// The range and next hop of each route of the node `of`.
fn routes<'a>(nodes: &'a [Node], of: &Node) -> Vec<[&'a str; 2]> {
    let others = nodes.iter().filter(|node| node.name != of.name);
    others
        .map(|node| [node.range.as_str(), node.address.as_str()])
        .collect()
}

fn plugins(range: &str) -> Value {
    json!({
        "cniVersion": "1.0.0",
        "name": "pods",
        "plugins": [
            {
                "type": "ptp",
                "mtu": 1500,
                "ipam": {
                    "type": "host-local",
                    "ranges": [[{"subnet": range}]],
                    "routes": [{"dst": "0.0.0.0/0"}],
                },
            },
            {"type": "portmap", "capabilities": {"portMappings": true}},
        ],
    })
}

/// Waits until every node has a range. The controller manager assigns it soon after the node joins.
///
/// # Errors
/// A node does not get a range in time.
pub(crate) fn ranges_given(cluster: &Cluster, nodes: usize) -> anyhow::Result<()> {
    let words = ["get", "nodes", "-o", "jsonpath={.items[*].spec.podCIDR}"];
    scaledapp_tests::wait::until(Duration::from_mins(1), "nodes have pod ranges", || {
        let ranges = cluster.kubectl(&words).text()?;
        ensure!(ranges.split_whitespace().count() == nodes, "{ranges:?}");
        Ok(())
    })
}

/// Runs a program that a node has, in the network of a pod on that node and with the pod's
/// resolver. Returns its output.
///
/// # Errors
/// The pod is not on that node, or the program fails.
pub(crate) fn in_pod(
    cluster: &Cluster,
    node: &str,
    pod: &str,
    words: &[&str],
) -> anyhow::Result<String> {
    let script = include_str!("../../../tests/cluster/in-pod.sh");
    let words = [&["bash", "-euc", script, "in-pod", pod][..], words].concat();
    cluster.node_exec(node, &words)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed() -> Value {
        let item = |name: &str, range: &str, address: &str| {
            json!({
                "metadata": {"name": name},
                "spec": {"podCIDR": range},
                "status": {"addresses": [
                    {"type": "Hostname", "address": name},
                    {"type": "InternalIP", "address": address},
                ]},
            })
        };
        json!({"items": [
            item("a", "10.244.0.0/24", "10.89.0.2"),
            item("b", "10.244.1.0/24", "10.89.0.3"),
            item("c", "10.244.2.0/24", "10.89.0.4"),
        ]})
    }

    #[test]
    fn each_node_has_a_route_to_every_other() {
        let nodes = nodes(&listed()).unwrap();
        let expected = [
            ["10.244.0.0/24", "10.89.0.2"],
            ["10.244.2.0/24", "10.89.0.4"],
        ];
        assert_eq!(routes(&nodes, &nodes[1]), expected);
    }

    #[test]
    fn a_node_without_a_range_is_an_error_that_names_it() {
        let mut listed = listed();
        listed["items"][2]["spec"] = json!({});
        let text = nodes(&listed).unwrap_err().to_string();
        assert!(text.starts_with("c has no range"), "{text}");
    }

    #[test]
    fn pods_get_addresses_from_their_nodes_range() {
        let plugins = plugins("10.244.1.0/24");
        let ranges = &plugins["plugins"][0]["ipam"]["ranges"];
        assert_eq!(ranges[0][0]["subnet"], "10.244.1.0/24");
    }
}
