//! From what was read to one tree. Pure: the same reading gives the same tree.
//!
//! With an earlier reading, the tree has rates. What could not be read is missing with its reason;
//! it never hides the rest.

pub(crate) mod counters;
pub(crate) mod object;
pub(crate) mod pods;
pub(crate) mod seen;
pub(crate) mod slots;
pub(crate) mod tree;

use serde_json::Value;

use object::text;
use seen::Seen;
use tree::{App, Report, VERSION};

/// The apps of a reading, those with problems first, then by name.
pub(crate) fn report(seen: &Seen, earlier: Option<&Seen>) -> Report {
    let mut apps: Vec<App> = seen
        .apps
        .iter()
        .map(|app| one(app, seen, earlier))
        .collect();
    apps.sort_by(|a, b| {
        let key = |app: &App| (app.health, app.namespace.clone(), app.name.clone());
        key(a).cmp(&key(b))
    });
    Report {
        version: VERSION,
        apps,
    }
}

fn one(object: &Value, seen: &Seen, earlier: Option<&Seen>) -> App {
    let (namespace, name) = object::key(object);
    let conditions = object::conditions(object);
    let (health, state) = object::health(&conditions);
    let (slots, rates) = slots::slots(object, seen, earlier);
    let mut unknown = Vec::new();
    if let Err(why) = &seen.pods {
        unknown.push(format!("pods: {why}"));
    }
    if let Err(why) = &seen.slices {
        unknown.push(format!("who answers at the slots: {why}"));
    }
    let hostname = text(object, "/status/hostname");
    App {
        health,
        state,
        image_version: object::image_version(&text(object, "/spec/image")),
        hostname: Some(hostname).filter(|name| !name.is_empty()),
        paused: object.pointer("/spec/paused") == Some(&Value::Bool(true)),
        up_to_date: object::is_observed(object),
        ready_pods: object
            .pointer("/status/readyReplicas")
            .and_then(Value::as_i64)
            .unwrap_or_default(),
        pods_summary: text(object, "/status/pods"),
        workers_summary: text(object, "/status/workers/summary"),
        rates,
        slots,
        pods: pods::pods(&namespace, &name, seen, earlier),
        conditions,
        unknown,
        namespace,
        name,
    }
}
