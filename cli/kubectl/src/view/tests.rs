//! The model and the tree, from objects and answers as a cluster has them.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{View, sign};
use crate::model;
use crate::model::counters::{BALANCER, Counters};
use crate::model::seen::{Answered, Seen};
use crate::model::tree::Health;
use crate::text::page;

const VIEW: View = View {
    all: false,
    namespaces: false,
    unicode: true,
    program: "kubectl scaledapp",
};

fn app(name: &str, ready: &str, degraded: &str) -> Value {
    let well = degraded == "False";
    json!({
        "metadata": {"name": name, "namespace": "web", "generation": 4},
        "spec": {"image": "registry.test/shop:1.4.2", "somethingNewer": {"x": 1}},
        "status": {
            "observedGeneration": 4, "pods": "3/3", "readyReplicas": 3, "hostname": "shop.apps.local",
            "workers": {"ready": if well { 12 } else { 11 }, "desired": 12,
                "summary": if well { "12/12" } else { "11/12" }},
            "balancers": [
                {"slot": 0, "address": "10.96.4.11", "serving": true},
                {"slot": 1, "address": "10.96.4.12", "serving": true},
            ],
            "conditions": [
                {"type": "Ready", "status": ready, "reason": "AsWanted", "message": "serves"},
                {"type": "Degraded", "status": degraded, "reason": "FewerWorkersReady",
                    "message": "fewer workers are ready\u{1b}[2J than were asked for"},
                {"type": "Stalled", "status": "False", "reason": "AsWanted", "message": ""},
            ],
        },
    })
}

fn pod(
    app: &str,
    name: &str,
    component: &str,
    slot: Option<&str>,
) -> k8s_openapi::api::core::v1::Pod {
    let mut labels =
        json!({"app.kubernetes.io/instance": app, "app.kubernetes.io/component": component});
    if let Some(slot) = slot {
        labels["scaledapp.io/slot"] = slot.into();
    }
    serde_json::from_value(json!({
        "metadata": {"name": name, "namespace": "web", "uid": name, "labels": labels},
        "spec": {
            "nodeName": "node-b", "containers": [{"name": "app"}],
            "initContainers": [{"name": "scaledapp-install", "image": "registry.test/sidecar:0.1.0"}],
        },
        "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}],
            "containerStatuses": [{"name": "app", "ready": true, "restartCount": 0, "image": "x", "imageID": "x"}]},
    }))
    .unwrap()
}

fn slice(app: &str, slot: &str, by: &str) -> k8s_openapi::api::discovery::v1::EndpointSlice {
    serde_json::from_value(json!({
        "metadata": {"name": format!("{app}-lb-{slot}"), "namespace": "web", "labels": {
            "app.kubernetes.io/instance": app, "scaledapp.io/slot": slot}},
        "addressType": "IPv4",
        "endpoints": [{"addresses": ["10.0.0.1"], "targetRef": {"kind": "Pod", "name": by}}],
    }))
    .unwrap()
}

fn worker(slot: u32, state: &str) -> Value {
    json!({"slot": slot, "pid": 100 + slot, "state": state, "generation": 5, "restarts": 0, "inFlight": 3,
        "rssBytes": 50_000_000, "cpuSeconds": 10.0, "uptimeSeconds": 3600.0, "lastExit": null})
}

fn well() -> String {
    let workers: Vec<Value> = (0..4).map(|slot| worker(slot, "Ready")).collect();
    json!({"desired": 4, "ready": 4, "generation": 5, "mechanism": "notify", "dispatch": "request", "workers": workers})
        .to_string()
}

fn ill() -> String {
    let workers: Vec<Value> = [0, 1, 3].map(|slot| worker(slot, "Ready")).to_vec();
    json!({"desired": 4, "ready": 3, "generation": 5, "mechanism": "notify", "dispatch": "request", "workers": workers,
        "newerField": true, "waiting": [{"slot": 2, "state": "CrashLoop", "restarts": 3,
            "lastExit": {"code": 137, "reason": "OutOfMemory", "text": "killed: out of memory", "time": "t"}}]})
    .to_string()
}

fn balancer(in_flight: u32) -> String {
    json!({"endpoints": [], "inFlight": in_flight, "queued": 0, "ready": true}).to_string()
}

fn answered(status: Result<String, String>, at: f64, requests: Option<u32>) -> Answered {
    let page = |requests| {
        format!(
            "scaledapp_balancer_requests_total{{code=\"2xx\"}} {requests}\n\
             scaledapp_balancer_request_duration_seconds_bucket{{le=\"0.038\"}} {requests}\n\
             scaledapp_balancer_request_duration_seconds_bucket{{le=\"+Inf\"}} {requests}\n"
        )
    };
    Answered {
        status,
        counters: requests.and_then(|requests| Counters::read(&page(requests), BALANCER, at)),
        at,
    }
}

/// A reading in which one worker crashes and one slot is taken over.
fn seen(at: f64, requests: u32) -> Seen {
    let key = |name: &str| ("web".to_owned(), name.to_owned());
    Seen {
        apps: vec![app("shop", "True", "True")],
        pods: Ok(vec![
            pod("shop", "shop-1-a", "app", None),
            pod("shop", "shop-1-b", "app", None),
            pod("shop", "shop-1-c", "app", None),
            pod("shop", "shop-lb-0-x", "balancer", Some("0")),
        ]),
        slices: Ok(vec![
            slice("shop", "0", "shop-lb-0-x"),
            slice("shop", "1", "shop-lb-0-x"),
        ]),
        answers: BTreeMap::from([
            (key("shop-1-a"), answered(Ok(well()), at, None)),
            (key("shop-1-b"), answered(Ok(ill()), at, None)),
            (key("shop-1-c"), answered(Ok(well()), at, None)),
            (
                key("shop-lb-0-x"),
                answered(Ok(balancer(12)), at, Some(requests)),
            ),
        ]),
    }
}

#[test]
fn problems_are_first_and_what_is_well_is_folded() {
    let report = model::report(&seen(11.0, 3_480), Some(&seen(9.0, 1_000)));
    let expected = "\
shop  Ready  1.4.2  3/3 pods  11/12 workers  1,240 req/s  p99 38 ms  0.00 % 5xx
├─ slots  shop.apps.local
│  ├─ 0  10.96.4.11  ok  by shop-lb-0-x  1,240 req/s  12 in flight
│  └─ 1  10.96.4.12  !   by shop-lb-0-x  taken over; its own balancer has no pod
└─ pods
   ├─ shop-1-b  node-b  !  3/4 workers  gen 5  9 in flight  3 restarts  supervisor 0.1.0
   │  └─ worker 2  x  CrashLoop  3 restarts  the last one ended: killed: out of memory
   └─ + 2 pods, 8 workers ok
Degraded FewerWorkersReady: fewer workers are ready\u{fffd}[2J than were asked for
  kubectl scaledapp explain FewerWorkersReady
";
    assert_eq!(page(&VIEW.lines(&report), false), expected);
    let coloured = page(&VIEW.lines(&report), true);
    assert!(
        coloured.contains("\x1b[33m! \x1b[0m") && !coloured.contains("\x1b[2J"),
        "{coloured}"
    );
}

#[test]
fn everything_is_shown_on_request_and_in_ascii_where_the_locale_needs_it() {
    let view = View {
        all: true,
        namespaces: true,
        unicode: false,
        ..VIEW
    };
    let shown = page(&view.lines(&model::report(&seen(1.0, 1), None)), false);
    assert!(shown.starts_with("web/shop  Ready"), "{shown}");
    assert!(
        shown.is_ascii() || shown.replace('\u{fffd}', "").is_ascii(),
        "{shown}"
    );
    assert!(
        shown.contains("   |- shop-1-a  node-b  ok  4/4 workers"),
        "{shown}"
    );
    assert_eq!(shown.matches("worker 0  ok  Ready").count(), 3, "{shown}");
}

#[test]
fn what_may_not_be_read_is_missing_with_its_reason_and_hides_nothing_else() {
    let forbidden = || Err("may not get pods/proxy".to_owned());
    let mut all = seen(1.0, 1);
    for answered in all.answers.values_mut() {
        answered.status = forbidden();
        answered.counters = None;
    }
    all.slices = Err("may not list endpointslices".to_owned());
    let shown = page(&VIEW.lines(&model::report(&all, None)), false);
    assert!(
        shown.contains("shop-1-a  node-b  ?  ? workers (may not get pods/proxy)"),
        "{shown}"
    );
    assert!(shown.contains("0  10.96.4.11  ok\n"), "{shown}");
    assert!(
        shown.contains("? who answers at the slots: may not list endpointslices"),
        "{shown}"
    );
    all.pods = Err("may not list pods".to_owned());
    let shown = page(&VIEW.lines(&model::report(&all, None)), false);
    assert!(shown.contains("3/3 pods  11/12 workers"), "{shown}");
    assert!(shown.contains("? pods: may not list pods"), "{shown}");
}

#[test]
fn apps_with_problems_come_before_others() {
    let mut all = seen(1.0, 1);
    all.apps = vec![
        app("calm", "True", "False"),
        app("worse", "False", "True"),
        app("bad", "True", "True"),
    ];
    all.apps
        .push(json!({"metadata": {"name": "new", "namespace": "web", "generation": 1}}));
    let report = model::report(&all, None);
    let order: Vec<(&str, &str)> = report
        .apps
        .iter()
        .map(|app| (app.name.as_str(), sign(app.health)))
        .collect();
    assert_eq!(
        order,
        [("worse", "x"), ("bad", "!"), ("new", "?"), ("calm", "ok")]
    );
    assert!(!report.apps[2].up_to_date);
}

#[test]
fn json_is_a_contract() {
    let report = model::report(&seen(11.0, 3_480), Some(&seen(9.0, 1_000)));
    let json = serde_json::to_value(&report).unwrap();
    assert_eq!(json["version"], 1);
    let app = &json["apps"][0];
    for (at, expected) in [
        ("/name", json!("shop")),
        ("/health", json!("warning")),
        ("/podsSummary", json!("3/3")),
        ("/rates/requestsPerSecond", json!(1_240.0)),
        ("/rates/p99Milliseconds", json!(38.0)),
        ("/slots/1/own", json!(false)),
        ("/slots/1/answeredBy", json!(["shop-lb-0-x"])),
        ("/pods/0/name", json!("shop-1-b")),
        ("/pods/0/workers/2/state", json!("CrashLoop")),
        ("/pods/0/workers/2/lastEnd", json!("killed: out of memory")),
        ("/pods/0/mechanism", json!("notify")),
        ("/conditions/1/type", json!("Degraded")),
    ] {
        assert_eq!(app.pointer(at), Some(&expected), "{at}");
    }
    assert_eq!(report.apps[0].pods[1].health, Health::Good);
}
