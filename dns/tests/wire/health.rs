//! Addresses that become healthy and unhealthy.

use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use crate::server::{A, Server, ask, query, wait};

/// Backends on two loopback addresses and one port.
fn backends() -> (TcpListener, TcpListener, u16) {
    loop {
        let first = TcpListener::bind("127.0.0.21:0").unwrap();
        let port = first.local_addr().unwrap().port();
        if let Ok(second) = TcpListener::bind(("127.0.0.22", port)) {
            return (first, second, port);
        }
    }
}

fn records(port: u16) -> String {
    format!(
        r#"{{"hello.apps.local.":{{"ttl":30,"addresses":["127.0.0.21","127.0.0.22"],"probe":"tcp:{port}"}}}}"#
    )
}

#[test]
fn an_unhealthy_address_is_left_out_and_the_last_set_stays_when_all_fail() {
    let (first, second, port) = backends();
    let server = Server::start(&records(port));
    server.wait_ready().unwrap();
    let both = ["127.0.0.21", "127.0.0.22"];
    assert_eq!(
        server.addresses("hello").len(),
        2,
        "readiness waits for the first probes"
    );
    drop(first);
    let took = server.wait_addresses("hello", &both[1..]);
    assert!(took < Duration::from_secs(3), "{took:?}");
    drop(second);
    wait("the last known set", || {
        server
            .metrics()
            .contains("scaledapp_dns_addresses{state=\"unhealthy\"} 2\n")
    });
    let answer = ask(server.address, &query(1, "hello", A));
    assert_eq!(answer.answers.len(), 1);
    assert_eq!(answer.answers[0].ttl, 5);
    assert_eq!(
        server.addresses("hello"),
        ["127.0.0.22".parse::<std::net::IpAddr>().unwrap()]
    );
    assert_eq!(server.get("/readyz").unwrap().status, 200);
    let address: SocketAddr = format!("127.0.0.21:{port}").parse().unwrap();
    let back = TcpListener::bind(address).unwrap();
    let took = server.wait_addresses("hello", &both[..1]);
    assert!(took < Duration::from_secs(3), "{took:?}");
    drop(back);
}

#[test]
fn a_name_whose_addresses_never_answered_has_none() {
    let (first, second, port) = backends();
    drop((first, second));
    let server = Server::start(&records(port));
    server.wait_ready().unwrap();
    let answer = ask(server.address, &query(1, "hello", A));
    assert_eq!(
        answer.metadata.response_code,
        hickory_proto::op::ResponseCode::NoError
    );
    assert_eq!((answer.answers.len(), answer.authorities.len()), (0, 1));
}

#[test]
fn an_address_in_a_later_file_is_probed_immediately() {
    let (first, second, port) = backends();
    let server = Server::start("{}");
    server.wait_ready().unwrap();
    server.replace(&records(port));
    let took = server.wait_addresses("hello", &["127.0.0.21", "127.0.0.22"]);
    assert!(took < Duration::from_secs(2), "{took:?}");
    drop((first, second));
}
