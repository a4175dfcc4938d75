//! Tests that the types of this crate read and write the JSON that the processes of `ScaledApp`
//! exchanged before the types existed. The files in `golden` were written by the processes
//! themselves (a supervisor with a crashing worker and one on another port, a failed reload, a
//! balancer, a DNS server, `scaledapp local`). Each file must be read and written again byte for
//! byte.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "all of this target is test code, helpers included"
)]

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::path::Path;

use scaledapp_wire::{
    Backend, BalancerLoad, BalancerStatus, Description, Desired, DnsStatus, Events, OperatorStatus,
    PodLoad, ProbeState, Record, Reply, Request, SlotState, Snapshot, Standing, Status, Tails,
    WorkerState,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

fn golden(name: &str) -> String {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    std::fs::read_to_string(file.join(name)).unwrap()
}

/// Reads a line as `T` and writes it again.
fn same<T: Serialize + DeserializeOwned>(line: &str) -> T {
    let value: T = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
    assert_eq!(serde_json::to_string(&value).unwrap(), line);
    value
}

fn file<T: Serialize + DeserializeOwned>(name: &str) -> T {
    same(golden(name).trim_end())
}

#[test]
fn every_answer_keeps_its_bytes() {
    let status: Status = file("status.json");
    assert_eq!(status.waiting[0].restarts, 8);
    assert_eq!(status.workers[1].listens_elsewhere, Some(4999));
    let status: Status = file("status-reload-failed.json");
    assert_eq!(status.reload_failed.as_deref(), Some("r2"));
    let status: Status = file("status-scaling.json");
    let scaling = status.scaling.unwrap();
    assert_eq!((scaling.min, scaling.max), (1, 8));
    let snapshot: Snapshot = file("watch.json");
    assert_eq!(snapshot.scaling, None);
    assert!(snapshot.ready);
    file::<Snapshot>("watch-connection.json");
    let snapshot: Snapshot = file("watch-scaling.json");
    assert_eq!(snapshot.scaling.map(|scaling| scaling.wanted), Some(3));
    assert_eq!(file::<BalancerLoad>("load-balancer.json").queued, 4);
    assert_eq!(file::<PodLoad>("load-pod.json").workers, 2);
    let balancer: BalancerStatus = file("balancer.json");
    assert_eq!(balancer.endpoints[0].standing, Standing::Serving);
    let dns: DnsStatus = file("dns.json");
    let hello = &dns.names["hello.apps.local."];
    assert_eq!(hello.addresses[0].state, ProbeState::Healthy);
    assert_eq!(dns.name_servers["ns.apps.local."].len(), 1);
    let operator: OperatorStatus = file("operator.json");
    assert_eq!(operator.pods["servingBalancers"], 4);
    file::<OperatorStatus>("operator-starting.json");
}

#[test]
fn the_control_socket_keeps_its_bytes() {
    for line in golden("requests.jsonl").lines() {
        same::<Request>(line);
    }
    file::<Reply<Status>>("reply-status.json");
    file::<Reply<Events>>("reply-events.json");
    file::<Reply<Tails>>("reply-logs.json");
    file::<Reply<Description>>("reply-describe.json");
    file::<Reply<Description>>("reply-describe-slot.json");
    file::<Reply<()>>("reply-done.json");
    file::<Reply<()>>("reply-error.json");
}

#[test]
fn the_files_keep_their_bytes() {
    file::<Vec<Backend>>("endpoints.json");
    file::<BTreeMap<String, Record>>("records.json");
    file::<Desired<String>>("desired.json");
}

fn read<T: DeserializeOwned>(text: &str) -> T {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

#[test]
fn answers_of_older_and_newer_versions_are_read() {
    let older: Status = read(r#"{"workers":[{"pid":7,"state":"Ready"}]}"#);
    assert_eq!(older.workers[0].uptime_seconds, None);
    let newer: Status = read(
        r#"{"mechanism":"newer","more":1,"workers":[{"state":"Newer","more":1}],"waiting":[{"state":"Newer"}]}"#,
    );
    assert_eq!(newer.workers[0].state, WorkerState::Unknown);
    assert_eq!(newer.waiting[0].state, SlotState::Unknown);
    let snapshot: Snapshot = read(r#"{"ready":true,"zone":"newer"}"#);
    assert_eq!((snapshot.dispatch, snapshot.capacity), (None, 0));
    let balancer: BalancerStatus = read(r#"{"endpoints":[{"standing":"newer"}]}"#);
    assert_eq!(balancer.endpoints[0].standing, Standing::Other);
    let dns: DnsStatus = read(r#"{"names":{"a.":{"addresses":[{"state":"newer"}]}}}"#);
    assert_eq!(dns.names["a."].addresses[0].state, ProbeState::Other);
}

fn refused<T: DeserializeOwned + Debug>(text: &str) {
    assert!(serde_json::from_str::<T>(text).is_err(), "{text}");
}

#[test]
fn invalid_answers_and_typing_errors_in_files_are_refused() {
    refused::<Snapshot>("{}");
    refused::<Snapshot>(r#"{"ready":true,"capacity":-1}"#);
    refused::<Status>(r#"{"desired":-1}"#);
    refused::<Status>(r#"{"ready":"4"}"#);
    refused::<BalancerStatus>("{}");
    refused::<DnsStatus>("{}");
    refused::<Desired<String>>(r#"{"worker":"3"}"#);
    refused::<Desired<String>>(&format!(r#"{{"reload":"{}"}}"#, "x".repeat(129)));
    refused::<Backend>(r#"{"address":"10.0.0.1:1","name":"a","adress":1}"#);
    refused::<Record>(r#"{"addresses":[],"tll":3}"#);
}
