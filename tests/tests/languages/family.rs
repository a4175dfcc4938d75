//! Address families: `--host` decides on which addresses the port is served, whatever the app
//! binds.

use scaledapp_tests::http;
use scaledapp_tests::sidecar::Launch;
use std::net::{Ipv4Addr, SocketAddr};

use crate::sockets::shared;
use crate::{DISPATCHES, answer, fixture, has, has_ipv6, over_ipv6, sockets, words};

#[test]
fn an_ipv4_server_serves_ipv4() {
    if has("node") {
        shared(|| sockets("v4", &[], &[]), |_| {});
    }
}

#[test]
fn a_dual_stack_server_serves_both_families() {
    if has("node") && has_ipv6() {
        shared(
            || sockets("dual", &[], &[]),
            |sidecar| {
                answer(over_ipv6(sidecar.address()));
            },
        );
    }
}

#[test]
fn a_server_with_a_socket_for_each_family_serves_both() {
    if has("python3") && has_ipv6() {
        let script = fixture("two_families.py");
        shared(
            || Launch::of(|port| words(&["python3", &script, &port.to_string()])).unwrap(),
            |sidecar| {
                for _ in 0..6 {
                    answer(sidecar.address());
                    answer(over_ipv6(sidecar.address()));
                }
            },
        );
    }
}

/// The address that the app binds does not matter: without `--host`, an app that binds 127.0.0.1 is
/// served on all addresses.
#[test]
fn the_app_is_served_on_the_address_of_host() {
    if !has("node") {
        return;
    }
    let elsewhere = |to: SocketAddr| SocketAddr::from((Ipv4Addr::new(127, 0, 0, 2), to.port()));
    shared(
        || sockets("loopback", &[], &[]),
        |sidecar| {
            answer(elsewhere(sidecar.address()));
        },
    );
    for dispatch in DISPATCHES {
        let mut launch = sockets("loopback", &[], &["--workers", "2", "--dispatch", dispatch]);
        launch.host = Some(Ipv4Addr::LOCALHOST);
        let sidecar = launch.ready(2).unwrap();
        answer(sidecar.address());
        let refused = http::get(elsewhere(sidecar.address()), "/");
        assert_eq!(refused, Err(http::Failure::Refused), "{dispatch}");
    }
}
