//! Each alert fires by its fault, on real metrics: `scaledapp local` with an app that fails, is slow
//! and does not start again, a balancer that sees no pod, a DNS server without a healthy address.
//! Only the durations (`for`) are left out. The operator needs an API server, so its metrics come
//! from a recorded page with the faults written into it.

use std::collections::BTreeSet;
use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use rustix::net;
use rustix::process::Signal;
use scaledapp_tests::load::{Load, Running};
use scaledapp_tests::local::Local;
use scaledapp_tests::process::{self, Process};
use scaledapp_tests::{binaries, dns, fixtures, http, ports, wait};
use serde_json::json;

use crate::alerts::rules;
use crate::prometheus::{SOON, Targets, grown, prometheus, serve};

/// The name that leads nowhere.
const GONE: &str = "gone.apps.local";

/// The metrics of an operator that does not lead, whose watch is stuck, and that had an app that
/// does not serve and is stalled, with a slot that was taken over.
fn operator(times: u32) -> String {
    let page = grown(times);
    for there in [
        "type=\"Ready\",status=\"True\"",
        "type=\"Stalled\",status=\"False\"",
        "own=\"false\"",
        "scaledapp_operator_leader 1",
        "scaledapp_operator_watch_age_seconds{kind=\"Pod\"} 1.5",
    ] {
        assert!(page.contains(there), "{there}: {page}");
    }
    page.replace(
        "type=\"Ready\",status=\"True\"",
        "type=\"Ready\",status=\"False\"",
    )
    .replace(
        "type=\"Stalled\",status=\"False\"",
        "type=\"Stalled\",status=\"True\"",
    )
    .replace("scaledapp_operator_leader 1", "scaledapp_operator_leader 0")
    .replace("seconds{kind=\"Pod\"} 1.5", "seconds{kind=\"Pod\"} 700")
}

fn faulty(directory: &Path, broken: &Path) -> Local {
    let file = directory.join("app.yaml");
    let command = json!(["python3", fixtures::app("faulty.py"), "3000", broken]);
    let app = json!({
        "apiVersion": "scaledapp.io/v1alpha1", "kind": "ScaledApp", "metadata": {"name": "shop"},
        "spec": {
            "image": "x", "command": command, "port": 3000,
            "replicas": {"total": 1}, "workers": {"count": 2, "maxInFlight": 8},
            "balancers": {"replicas": 1}, "dns": {"hostname": "shop.apps.local"},
        },
    });
    fs::write(&file, app.to_string()).unwrap();
    Local::start(&file, directory).unwrap()
}

/// A balancer whose only pod does not answer.
fn blind(directory: &Path) -> (SocketAddr, Process) {
    let file = directory.join("endpoints.json");
    let pods = json!([{"name": "a", "address": "127.0.0.1:1", "admin": "127.0.0.1:1"}]);
    fs::write(&file, pods.to_string()).unwrap();
    let admin = ports::local().unwrap();
    let mut command = Command::new(binaries::path("scaledapp-balancer").unwrap());
    command.args([
        "run",
        "--listen",
        "127.0.0.1:0",
        "--admin",
        &admin.to_string(),
    ]);
    command.arg("--endpoints-file").arg(file);
    (admin, Process::spawn(command).unwrap())
}

/// A DNS server that knows one name, at whose address nothing listens any more.
fn stale(directory: &Path) -> (SocketAddr, SocketAddr, Process) {
    let file = directory.join("stale.json");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let probe = format!("tcp:{}", listener.local_addr().unwrap().port());
    let records = json!({GONE: {"addresses": ["127.0.0.1"], "probe": probe}});
    fs::write(&file, records.to_string()).unwrap();
    let (listen, admin) = (ports::local().unwrap(), ports::local().unwrap());
    let mut command = Command::new(binaries::path("scaledapp-dns").unwrap());
    command.args([
        "run",
        "--zone",
        "apps.local",
        "--listen",
        &listen.to_string(),
    ]);
    command.args(["--admin", &admin.to_string()]);
    command.arg("--records-file").arg(file);
    let process = Process::spawn(command).unwrap();
    // An address that was never healthy is not published.
    wait::until(SOON, "the address is published", || {
        match dns::addresses(listen, GONE) {
            Ok(addresses) if !addresses.is_empty() => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .unwrap();
    drop(listener);
    (listen, admin, process)
}

/// Requests to a path until the value is dropped.
fn requests(local: &Local, path: &str, clients: usize, rate: Option<u32>) -> Running {
    let load = Load {
        path: path.to_owned(),
        post_every: 0,
        clients,
        rate,
        ..Load::on(&local.state.balancers)
    };
    load.start().unwrap()
}

/// Lets the kernel drop connections because an accept queue is full.
fn overflow() {
    let address = ports::local().unwrap();
    let listener = net::socket(net::AddressFamily::INET, net::SocketType::STREAM, None).unwrap();
    net::bind(&listener, &address).unwrap();
    net::listen(&listener, 1).unwrap();
    let connect = || TcpStream::connect_timeout(&address, Duration::from_millis(50));
    let connections: Vec<_> = (0..10).map(|_| connect()).collect();
    assert!(connections.iter().any(Result::is_err), "{connections:?}");
}

/// What is scraped, with the labels that the `PodMonitor`s would set.
fn targets(local: &Local, blind: SocketAddr, dns_admin: SocketAddr) -> Targets {
    let own = SocketAddr::new(local.state.balancers[0].ip(), 9377);
    let app = |component: &str, pod: &str| json!({"namespace": "shop", "app": "shop", "component": component, "pod": pod});
    vec![
        (
            serve(operator),
            json!({"namespace": "scaledapp-system", "pod": "op-0"}),
        ),
        (
            dns_admin,
            json!({"namespace": "scaledapp-system", "pod": "dns-0"}),
        ),
        (own, app("balancer", "shop-lb-0")),
        (blind, app("balancer", "shop-lb-1")),
        (local.state.pods[0].admin, app("app", "shop-0")),
    ]
}

/// The names of the alerts that fire.
fn firing(prometheus: SocketAddr) -> Result<BTreeSet<String>, String> {
    let answer = http::get(prometheus, "/api/v1/alerts").map_err(|error| error.to_string())?;
    let answer = answer.json();
    let alerts = answer["data"]["alerts"].as_array().ok_or("no alerts")?;
    let alerts = alerts.iter().filter(|alert| alert["state"] == "firing");
    let names = alerts.filter_map(|alert| alert["labels"]["alertname"].as_str());
    Ok(names.map(str::to_owned).collect())
}

#[test]
fn each_alert_fires_by_its_fault() {
    let Some(defaults) = rules(&[]) else { return };
    if !["prometheus", "python3"].into_iter().all(binaries::has) {
        return;
    }
    let names: Vec<&str> = defaults
        .iter()
        .filter_map(|it| it["alert"].as_str())
        .collect();
    let alerts = "metrics.prometheusRule.alerts";
    let mut values: Vec<String> = names
        .iter()
        .map(|name| format!("{alerts}.{name}.for=0s"))
        .collect();
    // Pauses between restarts grow, so more of them would take long.
    values.push(format!("{alerts}.ScaledAppWorkersRestarting.restarts=1"));
    // A rate is over five minutes, also of some seconds of requests.
    for name in ["ScaledAppErrorsHigh", "ScaledAppLatencyHigh"] {
        values.push(format!("{alerts}.{name}.requestsPerSecond=0.01"));
    }
    let values: Vec<&str> = values.iter().map(String::as_str).collect();
    let rules = rules(&values).unwrap();

    let directory = tempfile::tempdir().unwrap();
    let broken = directory.path().join("broken");
    let local = faulty(directory.path(), &broken);
    let (blind, _balancer) = blind(directory.path());
    let (name_server, dns_admin, _dns) = stale(directory.path());
    let targets = targets(&local, blind, dns_admin);
    let (address, _prometheus) = prometheus(directory.path(), &rules, &targets);
    // Increases are seen only of counters that were scraped before.
    wait::until(SOON, "all targets were scraped", || {
        let answer =
            http::get(address, "/api/v1/query?query=sum(up)").map_err(|it| it.to_string())?;
        let value = answer.json()["data"]["result"][0]["value"][1].clone();
        if value == "5" {
            Ok(())
        } else {
            Err(value.to_string())
        }
    })
    .unwrap();
    let quiet = firing(address).unwrap();
    for name in [
        "ErrorsHigh",
        "LatencyHigh",
        "Queueing",
        "WorkersMissing",
        "ReloadFailed",
    ] {
        assert!(!quiet.contains(&format!("ScaledApp{name}")), "{quiet:?}");
    }

    let failing = requests(&local, "/fail", 2, Some(40));
    let slow = requests(&local, "/slow", 20, None);
    fs::write(&broken, "").unwrap();
    let reload = local.command(&["reload", "shop"]).unwrap();
    assert_ne!(reload.code, 0, "{}", reload.stdout);
    let workers = local.workers().unwrap();
    process::send(workers[0].pid, Signal::KILL).unwrap();
    overflow();
    let mut missing = names.clone();
    wait::until(Duration::from_secs(40), "every alert fires", || {
        // Only a query can get a stale answer.
        _ = dns::addresses(name_server, GONE);
        let firing = firing(address)?;
        missing.retain(|name| !firing.contains(*name));
        if missing.is_empty() {
            Ok(())
        } else {
            Err(format!("{missing:?} do not"))
        }
    })
    .unwrap();
    println!("{} alerts fire by their faults", names.len());
    _ = (failing.stop(), slow.stop());
}
