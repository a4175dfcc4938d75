//! What runs on the nodes that lack a pod. The operator asks the API server before it plans a pod
//! there; a watch of all pods of the cluster would take a lot of memory.
//!
//! Without an answer the free resources are unknown, and the scheduler decides.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::ListParams;
use scaledapp_plan::cluster::{self, App, Observed, Resources, Settings};
use tokio::time::Instant;

use crate::api::Caller;
use crate::call::{Call, CallError};

/// How long an answer is valid. After a change of the number of the app's own pods on the node,
/// the answer is not used either.
const FRESH: Duration = Duration::from_secs(10);
/// The largest number of nodes for which one pass makes requests. For the other nodes the scheduler
/// decides.
const MAX_NODES: usize = 50;

/// Recent answers, by node and number of the app's pods on it.
#[derive(Debug, Default)]
pub struct NodeUsage {
    known: Mutex<HashMap<(String, u32), (Instant, Resources)>>,
}

impl NodeUsage {
    fn get(&self, node: &str, pods: u32) -> Option<Resources> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|_, (at, _)| at.elapsed() < FRESH);
        known.get(&(node.to_owned(), pods)).map(|(_, used)| *used)
    }

    fn put(&self, node: &str, pods: u32, used: Resources) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.insert((node.to_owned(), pods), (Instant::now(), used));
    }
}

/// Fills [`Observed::used`] for the nodes that could take one more pod.
pub(crate) async fn look(
    usage: &NodeUsage,
    caller: &Caller,
    settings: &Settings,
    app: &App,
    observed: &mut Observed,
) {
    let mut used = BTreeMap::new();
    let lacking = cluster::lacking(app, observed, settings);
    for (node, pods) in lacking.into_iter().take(MAX_NODES) {
        let on_node = match usage.get(node, pods) {
            Some(on_node) => on_node,
            None => match ask(caller, node).await {
                Ok(on_node) => {
                    usage.put(node, pods, on_node);
                    on_node
                }
                Err(error) => {
                    // The slots must not wait until fifty requests have failed.
                    tracing::debug!(node, %error, "cannot find out what runs on a node");
                    break;
                }
            },
        };
        used.insert(node.to_owned(), on_node);
    }
    observed.used = used;
}

async fn ask(caller: &Caller, node: &str) -> Result<Resources, CallError> {
    let api: Api<Pod> = Api::all(caller.client.clone());
    let params = ListParams::default().fields(&format!("spec.nodeName={node}"));
    let pods = caller
        .read(Call::new("list", "Pod"), api.list(&params))
        .await?;
    Ok(Resources::used(&pods.items))
}
