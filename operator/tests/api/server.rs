//! A simulated API server in memory: it stores and returns objects, and fails requests that a
//! test selects. It records every write. A request that the chart's rules do not grant fails the
//! test.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};

use scaledapp_watch::testing::rights::{Asked, Right, is_watch};

use crate::rights;

/// A request that writes.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Write {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) query: String,
    pub(crate) body: Value,
}

impl Write {
    /// `METHOD RESOURCE/NAME`.
    pub(crate) fn short(&self) -> String {
        let mut parts: Vec<&str> = self.path.rsplitn(3, '/').collect();
        parts.truncate(2);
        parts.reverse();
        format!("{} {}", self.method, parts.join("/"))
    }
}

/// How a request fails.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Failure {
    /// The request is answered with this status.
    Code(u16),
    /// The request is never answered.
    Silence,
}

#[derive(Debug, Default)]
pub(crate) struct State {
    /// The objects by path.
    pub(crate) objects: BTreeMap<String, Value>,
    pub(crate) writes: Vec<Write>,
    /// How requests fail, by method (`None`: any) and end of their path.
    pub(crate) failures: Vec<(Option<&'static str>, &'static str, Failure)>,
    /// Paths that were read.
    pub(crate) reads: Vec<String>,
    /// The rights that the requests so far needed.
    pub(crate) used: BTreeSet<Right>,
    versions: u64,
    /// Whether setting an owner on an existing `ConfigMap` is refused.
    pub(crate) refuses_owners: bool,
}

pub(crate) type Shared = Arc<Mutex<State>>;

/// A client, and the state of the server behind it.
pub(crate) fn server() -> (Client, Shared) {
    let (service, mut handle) = tower_test::mock::pair::<Request<Body>, Response<Body>>();
    let state = Shared::default();
    let kept = Arc::clone(&state);
    tokio::spawn(async move {
        let mut unanswered = Vec::new();
        while let Some((request, answer)) = handle.next_request().await {
            let (head, body) = request.into_parts();
            let body = body.collect().await.unwrap().to_bytes();
            let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
            let request = Write {
                method: head.method.to_string(),
                path: head.uri.path().to_owned(),
                query: head.uri.query().unwrap_or_default().to_owned(),
                body,
            };
            match respond(&mut state.lock().unwrap(), request) {
                Some((code, body)) => answer.send_response(
                    Response::builder()
                        .status(StatusCode::from_u16(code).unwrap())
                        .body(Body::from(body.to_string().into_bytes()))
                        .unwrap(),
                ),
                None => unanswered.push(answer),
            }
        }
    });
    (Client::new(service, "default"), kept)
}

fn respond(state: &mut State, request: Write) -> Option<(u16, Value)> {
    let exists = state.objects.contains_key(&request.path);
    let asked = Asked::of(&request.path);
    let granted = rights::granted(asked.name.as_deref());
    for right in asked.needs(&request.method, &request.query, exists) {
        assert!(
            granted.contains(&right),
            "the chart's rules do not grant {right:?}"
        );
        state.used.insert(right);
    }
    let failure = state
        .failures
        .iter()
        .find(|(method, end, _)| {
            request.path.ends_with(end) && method.is_none_or(|it| it == request.method)
        })
        .map(|(_, _, failure)| *failure);
    let owners = request.body["metadata"]["ownerReferences"].as_array();
    let adopts = exists && owners.is_some_and(|owners| !owners.is_empty());
    let reads = request.method == "GET";
    if reads {
        state.reads.push(request.path.clone());
    } else {
        state.writes.push(request.clone());
    }
    match failure {
        Some(Failure::Silence) => return None,
        Some(Failure::Code(code)) => return Some((code, refusal(code))),
        None => {}
    }
    if state.refuses_owners && adopts && request.path.contains("/configmaps/") {
        let mut refused = refusal(403);
        refused["message"] = json!("cannot set an ownerRef on a resource you can't delete");
        return Some((403, refused));
    }
    let path = request.path.trim_end_matches("/status").to_owned();
    Some(match request.method.as_str() {
        // Watches deliver nothing.
        "GET" if is_watch(&request.query) => return None,
        "GET" if asked.name.is_none() => (200, state.list(&path)),
        "GET" => match state.objects.get(&path) {
            Some(object) => (200, object.clone()),
            None => (404, refusal(404)),
        },
        "DELETE" => match state.objects.remove(&path) {
            Some(object) => (200, object),
            None => (404, refusal(404)),
        },
        "POST" => {
            let name = request.body["metadata"]["name"]
                .as_str()
                .unwrap()
                .to_owned();
            let path = format!("{path}/{name}");
            if state.objects.contains_key(&path) {
                return Some((409, refusal(409)));
            }
            (201, state.store(path, request.body))
        }
        "PUT" => {
            let current = &state.objects[&path]["metadata"]["resourceVersion"];
            if *current != request.body["metadata"]["resourceVersion"] {
                return Some((409, refusal(409)));
            }
            (200, state.store(path, request.body))
        }
        _ => {
            let mut body = request.body;
            if request.path.ends_with("/status") {
                let status = body["status"].clone();
                body = state.objects.get(&path).cloned().unwrap_or(body);
                body["status"] = status;
            }
            if !request.query.contains("force=true") {
                let mut merged = state.objects.get(&path).cloned().unwrap_or_default();
                merge(&mut merged, &body);
                body = merged;
            }
            (200, state.store(path, body))
        }
    })
}

/// Merges as RFC 7396 does, without the removal of fields.
fn merge(into: &mut Value, patch: &Value) {
    match (into, patch) {
        (Value::Object(into), Value::Object(patch)) => {
            for (name, value) in patch {
                merge(into.entry(name.clone()).or_insert(Value::Null), value);
            }
        }
        (into, patch) => *into = patch.clone(),
    }
}

impl State {
    pub(crate) fn store(&mut self, path: String, mut object: Value) -> Value {
        self.versions += 1;
        let meta = &mut object["metadata"];
        meta["resourceVersion"] = json!(self.versions.to_string());
        if meta["uid"].is_null() {
            meta["uid"] = json!(format!("uid-{}", self.versions));
        }
        self.objects.insert(path, object.clone());
        object
    }

    /// All objects of a resource, in all namespaces or in the namespace of the path.
    fn list(&self, path: &str) -> Value {
        let (above, resource) = path.rsplit_once('/').unwrap();
        let items = self
            .objects
            .iter()
            .filter(|(path, _)| path.starts_with(above) && path.contains(&format!("/{resource}/")));
        let items: Vec<&Value> = items.map(|(_, object)| object).collect();
        let version = self.versions.to_string();
        json!({"kind": "List", "apiVersion": "v1", "metadata": {"resourceVersion": version}, "items": items})
    }

    pub(crate) fn shorts(&self) -> Vec<String> {
        self.writes.iter().map(Write::short).collect()
    }
}

fn refusal(code: u16) -> Value {
    // The client recognises absence by the reason.
    let reason = match code {
        404 => "NotFound",
        409 => "Conflict",
        _ => "Test",
    };
    json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": "as the test asked", "reason": reason, "code": code})
}
