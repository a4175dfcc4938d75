//! What the page shows, as one JSON value: all apps in short, and one app in full.
//!
//! Members of objects are never null, because two values of this form are compared into a merge
//! patch. Elements of lists may be.

use scaledapp_wire::{Standing, Status, Worker};
use serde_json::{Map, Value, json};

use crate::app::{AppState, BalancerState, age};
use crate::flow::{self, Figures};
use crate::pod::PodState;
use crate::ring::short;

/// The longest text of a problem, in characters.
const MAX_TEXT: usize = 200;
/// The most workers of one app that are shown one by one.
const MAX_WORKERS: usize = 1_000;

/// A number, or a text that says that it is not known.
fn known(number: Option<f64>) -> Value {
    number.map_or_else(|| json!("-"), short)
}

fn text(text: &str) -> Value {
    json!(text.chars().take(MAX_TEXT).collect::<String>())
}

fn figures(into: &mut Map<String, Value>, figures: Figures) {
    into.insert("rps".to_owned(), known(figures.rate));
    into.insert("p50".to_owned(), known(figures.p50));
    into.insert("p99".to_owned(), known(figures.p99));
    into.insert("errors".to_owned(), known(figures.errors));
}

/// An app as a row of the list.
pub(crate) fn row(app: &AppState, now: u64) -> Value {
    let (state, reason) = app.state();
    let (ready, desired) = app.workers();
    let (in_flight, queued) = app.load();
    let well = app.pods.values().filter(|pod| pod.state() == "ok").count();
    let restarts: u64 = app.pods.values().map(PodState::restarts).sum();
    let strips: Vec<_> = app
        .shape
        .pods
        .iter()
        .filter_map(|pod| Some(app.pods.get(&pod.name)?.strip()))
        .collect();
    let row = json!({
        "state": state,
        "reason": reason,
        "ready": ready,
        "desired": desired,
        "podsOk": well,
        "pods": app.pods.len(),
        "balancers": app.balancers.len(),
        "inFlight": known(in_flight.map(f64::from)),
        "queued": known(queued.map(f64::from)),
        "restarts": restarts,
        "strip": strips.join("|"),
        "age": app.age(now).map_or_else(|| json!("-"), |age| json!(age)),
    });
    let Value::Object(mut row) = row else {
        return row;
    };
    figures(&mut row, app.figures(now));
    Value::Object(row)
}

/// An app in full.
pub(crate) fn full(app: &AppState, now: u64) -> Value {
    let slots = app.shape.slots.iter().map(|slot| {
        let dns = match app.is_published(slot.address.ip()) {
            _ if app.shape.hostname.is_none() => "none",
            None => "unknown",
            Some(true) => "published",
            Some(false) => "withheld",
        };
        let address = slot.address.to_string();
        let shown = json!({"address": address, "dns": dns, "by": slot.balancer});
        (slot.number.to_string(), shown)
    });
    let balancers = app.balancers.iter();
    let balancers = balancers.map(|(name, state)| (name.clone(), balancer(state, now)));
    let mut workers = Map::new();
    let mut pods = Map::new();
    let mut order = 0;
    for shape in &app.shape.pods {
        let Some(state) = app.pods.get(&shape.name) else {
            continue;
        };
        pods.insert(shape.name.clone(), pod(state, now, order));
        order += 1;
        if let Some(status) = &state.status {
            rows(&mut workers, state, status, now);
        }
    }
    json!({
        "app": app.shape.name,
        "hostname": app.shape.hostname.as_deref().unwrap_or(""),
        "dns": dns(app, now),
        "slots": slots.collect::<Map<_, _>>(),
        "balancers": balancers.collect::<Map<_, _>>(),
        "pods": pods,
        "workers": workers,
    })
}

fn dns(app: &AppState, now: u64) -> Value {
    let dns = &app.dns;
    let state = match (&app.shape.hostname, &dns.problem, &dns.addresses) {
        (None, _, _) => "none",
        (_, Some(_), _) => "lost",
        (_, None, None) => "unknown",
        (_, None, Some(addresses)) if addresses.is_empty() => "down",
        (_, None, Some(_)) => "ok",
    };
    json!({
        "address": app.shape.dns.as_deref().unwrap_or(""),
        "state": state,
        "published": dns.addresses.as_ref().map_or(0, std::collections::BTreeSet::len),
        "problem": text(dns.problem.as_deref().unwrap_or("")),
        "age": dns.seen.map_or(0, |seen| age(now, seen)),
    })
}

fn balancer(state: &BalancerState, now: u64) -> Value {
    let status = state.status.as_ref();
    let number = |of: fn(&scaledapp_wire::BalancerStatus) -> u32| status.map_or(0, of);
    let endpoints = status.map_or(&[][..], |status| &status.endpoints);
    let endpoints = endpoints.iter().map(|endpoint| {
        let standing = match endpoint.standing {
            _ if endpoint.ejected => "ejected",
            Standing::Other => "unknown",
            standing => standing.as_str(),
        };
        (endpoint.name.clone(), json!([endpoint.in_flight, standing]))
    });
    let workers = state.holder.iter().flat_map(|holder| &holder.workers);
    let rss: u64 = workers.map(|worker| worker.rss_bytes).sum();
    let problem = state.problem.as_deref();
    let problem = problem.or_else(|| Some(status?.problems.first()?.as_str()));
    let shown = json!({
        "state": state.state(),
        "connections": number(|status| status.connections),
        "inFlight": number(|status| status.in_flight),
        "queued": number(|status| status.queued),
        "restarts": state.restarts(),
        "rss": mebibytes(rss),
        "endpoints": endpoints.collect::<Map<_, _>>(),
        "problem": text(problem.unwrap_or("")),
        "age": state.seen.map_or(0, |seen| age(now, seen)),
    });
    let Value::Object(mut shown) = shown else {
        return shown;
    };
    figures(&mut shown, flow::sum(now, std::iter::once(&state.flow)));
    Value::Object(shown)
}

fn mebibytes(bytes: u64) -> Value {
    short(bytes as f64 / f64::from(1 << 20))
}

fn pod(state: &PodState, now: u64, order: u32) -> Value {
    let status = state.status.as_ref();
    let load = state.load();
    let workers = status.map_or(&[][..], |status| &status.workers);
    let rss: u64 = workers.iter().map(|worker| worker.rss_bytes).sum();
    json!({
        "order": order,
        "state": state.state(),
        "address": state.shape.address,
        "node": state.shape.node.as_deref().unwrap_or(""),
        "ready": state.ready(),
        "desired": state.desired(),
        "generation": status.map_or(0, |status| status.generation),
        "dispatch": status.map_or("-", |status| status.dispatch.as_str()),
        "rps": known(state.flow.rate(now)),
        "inFlight": known(load.map(|load| f64::from(load.0))),
        "queued": known(load.map(|load| f64::from(load.1))),
        "restarts": state.restarts(),
        "rss": mebibytes(rss),
        "strip": state.strip(),
        "problem": text(state.problem.as_deref().unwrap_or("")),
        "age": state.seen.map_or(0, |seen| age(now, seen)),
    })
}

/// The rows of a pod's workers, under `POD/SLOT`; a worker that replaces another one has a `+` after
/// it. Each row is `[state, pid, generation, in flight, answers per second, CPU in percent of a core,
/// resident memory in MiB, restarts, start in seconds since 1970, how the last worker ended, when]`.
fn rows(into: &mut Map<String, Value>, pod: &PodState, status: &Status, now: u64) {
    let name = &pod.shape.name;
    for worker in &status.workers {
        if into.len() >= MAX_WORKERS {
            return;
        }
        let mut key = format!("{name}/{}", worker.slot);
        while into.contains_key(&key) {
            key.push('+');
        }
        into.insert(key, row_of(pod, worker, now));
    }
    for slot in &status.waiting {
        let key = format!("{name}/{}", slot.slot);
        if into.len() >= MAX_WORKERS || into.contains_key(&key) {
            continue;
        }
        let exit = slot.last_exit.as_ref();
        let row = json!([
            slot.state.as_str(),
            Value::Null,
            Value::Null,
            0,
            Value::Null,
            Value::Null,
            0,
            slot.restarts,
            Value::Null,
            exit.map(|exit| text(&exit.text)),
            exit.map(|exit| text(&exit.time)),
        ]);
        into.insert(key, row);
    }
}

fn row_of(pod: &PodState, worker: &Worker, now: u64) -> Value {
    let number = |number: Option<f64>| number.map(short);
    let exit = worker.last_exit.as_ref();
    json!([
        worker.state.as_str(),
        worker.pid,
        worker.generation,
        worker.in_flight,
        number(pod.flow.worker_rate(now, worker.slot)),
        number(pod.cpu(worker.pid)),
        mebibytes(worker.rss_bytes),
        worker.restarts,
        pod.started(worker.pid),
        exit.map(|exit| text(&exit.text)),
        exit.map(|exit| text(&exit.time)),
    ])
}
