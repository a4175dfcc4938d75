//! Tests of what an app becomes on one machine.

#![allow(
    clippy::unwrap_used,
    reason = "all of this target is test code, helpers included"
)]

use std::net::Ipv4Addr;
use std::num::NonZeroU16;

use scaledapp_plan::local::{Addresses, Demand, LocalError, Machine, demand, plan};
use scaledapp_plan::{ValidatedApp, validate};

const ADDRESSES: Addresses = Addresses {
    balancers: Ipv4Addr::new(127, 0, 77, 0),
    balancer_port: 8080,
    tls_port: None,
    pods: Ipv4Addr::new(127, 0, 78, 0),
    dns: std::net::SocketAddr::V4(std::net::SocketAddrV4::new(Ipv4Addr::LOCALHOST, 5353)),
};

fn app(lines: &str) -> ValidatedApp {
    let yaml = format!(
        "apiVersion: scaledapp.io/v1alpha1\nkind: ScaledApp\nmetadata: {{name: hello}}\nspec:\n  image: i\n  command: [a]\n{lines}\n"
    );
    validate(&scaledapp_crds::read(&yaml).unwrap()).unwrap()
}

fn machine(nodes: u32, cores: u32) -> Machine {
    Machine {
        nodes: nodes.try_into().unwrap(),
        cores: cores.try_into().unwrap(),
    }
}

#[test]
fn pods_follow_nodes_or_the_total_and_share_the_cores() {
    for (lines, nodes, cores, pods, workers) in [
        ("", 2, 2, 2, 1),
        ("", 2, 8, 2, 4),
        ("", 3, 2, 3, 1),
        ("  replicas: {perNode: 2}", 2, 8, 4, 2),
        ("  replicas: {total: 5}", 2, 16, 5, 3),
        ("  workers: {perCore: 3}", 2, 4, 2, 6),
        ("  workers: {count: 7}", 2, 4, 2, 7),
    ] {
        let demand = demand(&app(lines), machine(nodes, cores)).unwrap();
        assert_eq!(
            (demand.pods, demand.workers),
            (pods, workers),
            "{lines} on {nodes} nodes, {cores} cores"
        );
    }
}

#[test]
fn more_pods_than_addresses_are_refused() {
    let error = demand(&app("  replicas: {perNode: 126}"), machine(2, 2)).unwrap_err();
    assert_eq!(error, LocalError::TooManyPods { pods: 252 });
    let error = demand(&app("  replicas: {perNode: 5000}"), machine(u32::MAX, 2)).unwrap_err();
    assert!(error.to_string().contains("at most 250"), "{error}");
}

#[test]
fn http_is_named_by_its_balancers() {
    let app = app("  dns: {hostname: hello.shop.test, ttl: 5s}");
    let machine = machine(2, 2);
    let plan = plan(&app, machine, demand(&app, machine).unwrap(), ADDRESSES);
    let pods: Vec<String> = plan
        .pods
        .iter()
        .map(|pod| format!("{} {} {} {}", pod.name, pod.node, pod.address, pod.admin))
        .collect();
    assert_eq!(
        pods,
        [
            "hello-0 node-0 127.0.78.1:3000 127.0.78.1:9377",
            "hello-1 node-1 127.0.78.2:3000 127.0.78.2:9377"
        ]
    );
    let slots: Vec<String> = plan
        .slots
        .iter()
        .map(|slot| {
            format!(
                "{} {} {} {}",
                slot.name, slot.address, slot.admin, slot.holder_admin
            )
        })
        .collect();
    assert_eq!(
        slots,
        [
            "hello-lb-0 127.0.77.1:8080 127.0.77.1:9377 127.0.77.1:9378",
            "hello-lb-1 127.0.77.2:8080 127.0.77.2:9377 127.0.77.2:9378"
        ]
    );
    assert_eq!(plan.dns.hostname.as_str(), "hello.shop.test");
    assert_eq!(plan.dns.ttl.as_secs(), 5);
    assert_eq!(plan.dns.probe, 8080);
    assert_eq!(
        plan.dns.addresses,
        [Ipv4Addr::new(127, 0, 77, 1), Ipv4Addr::new(127, 0, 77, 2)]
    );
}

#[test]
fn an_app_that_needs_our_admin_port_gives_us_another_one() {
    let app = app("  port: 9377\n  adminPort: 9400\n");
    let machine = machine(1, 1);
    let plan = plan(&app, machine, demand(&app, machine).unwrap(), ADDRESSES);
    let pod = &plan.pods[0];
    assert_eq!((pod.address.port(), pod.admin.port()), (9377, 9400));
    assert_eq!(plan.slots[0].admin.port(), 9377);
}

#[test]
fn the_balancers_of_tcp_serve_on_the_port_of_the_app() {
    let app = app("  appProtocol: tcp\n  port: 6379\n  replicas: {total: 3}");
    let machine = machine(2, 2);
    let needed = demand(&app, machine).unwrap();
    assert_eq!(
        needed,
        Demand {
            pods: 3,
            running: 3,
            most_workers: None,
            workers: 1,
            slots: 2,
            has_tls: false,
            balancer_port: NonZeroU16::new(6379),
            port: 6379.try_into().unwrap(),
            admin_port: 9377.try_into().unwrap(),
        }
    );
    let plan = plan(&app, machine, needed, ADDRESSES);
    assert_eq!(plan.slots.len(), 2);
    assert_eq!(plan.dns.addresses.len(), 2);
    assert_eq!(plan.dns.hostname.as_str(), "hello.apps.local");
}
