//! What runs on the nodes that lack a pod: asked of the API server before a pod
//! is asked for there, since a watch of every pod of a cluster would cost more
//! than all else that the operator knows.
//!
//! What is not answered is not known, and the scheduler decides.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::ListParams;
use scaledapp_plan::cluster::{self, App, Observed, Room, Settings};
use tokio::time::Instant;

use crate::api::Caller;
use crate::call::{Call, CallError};

/// An answer is good for so long, if the app's own pods there stay the same.
const FRESH: Duration = Duration::from_secs(10);
/// Nodes that are asked about in one pass; of others the scheduler decides.
const MOST: usize = 50;

/// Answers of late.
#[derive(Debug, Default)]
pub struct Rooms {
    known: Mutex<HashMap<(String, u32), (Instant, Room)>>,
}

impl Rooms {
    fn get(&self, node: &str, held: u32) -> Option<Room> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|_, (at, _)| at.elapsed() < FRESH);
        known.get(&(node.to_owned(), held)).map(|(_, room)| *room)
    }

    fn put(&self, node: &str, held: u32, room: Room) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.insert((node.to_owned(), held), (Instant::now(), room));
    }
}

/// Fills [`Observed::used`] for the nodes that could take one more pod.
pub(crate) async fn look(
    rooms: &Rooms,
    caller: &Caller,
    settings: &Settings,
    app: &App,
    observed: &mut Observed,
) {
    let mut used = BTreeMap::new();
    let lacking = cluster::lacking(app, observed, settings);
    for (node, held) in lacking.into_iter().take(MOST) {
        let room = match rooms.get(node, held) {
            Some(room) => room,
            None => match ask(caller, node).await {
                Ok(room) => {
                    rooms.put(node, held, room);
                    room
                }
                Err(error) => {
                    // Slots must not wait until each of fifty has failed.
                    tracing::debug!(node, %error, "it is not known what runs on a node");
                    break;
                }
            },
        };
        used.insert(node.to_owned(), room);
    }
    observed.used = used;
}

async fn ask(caller: &Caller, node: &str) -> Result<Room, CallError> {
    let api: Api<Pod> = Api::all(caller.client.clone());
    let params = ListParams::default().fields(&format!("spec.nodeName={node}"));
    let pods = caller
        .read(Call::new("list", "Pod"), api.list(&params))
        .await?;
    Ok(Room::used(&pods.items))
}
