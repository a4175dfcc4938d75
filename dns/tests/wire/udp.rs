//! DNS over UDP.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use hickory_proto::op::ResponseCode;

use crate::server::{A, AAAA, Server, addresses_of, ask, query, receive, socket_to};

const RECORDS: &str =
    r#"{"hello.apps.local.":{"ttl":30,"addresses":["10.0.0.1","10.0.0.2","10.0.0.3"]}}"#;

#[test]
fn each_address_comes_first_equally_often() {
    let server = Server::start(RECORDS);
    server.wait_ready().unwrap();
    let socket = socket_to(server.address);
    let mut first: BTreeMap<IpAddr, u32> = BTreeMap::new();
    for id in 0..900 {
        socket.send(&query(id, "hello", A)).unwrap();
        let addresses = addresses_of(&receive(&socket));
        assert_eq!(addresses.len(), 3);
        *first.entry(addresses[0]).or_insert(0) += 1;
    }
    // Each address is expected to come first 300 times; 71 is five standard deviations.
    assert!(
        first.len() == 3 && first.values().all(|n| n.abs_diff(300) < 71),
        "{first:?}"
    );
}

#[test]
fn names_types_and_zones_are_distinguished() {
    let server = Server::start(RECORDS);
    server.wait_ready().unwrap();
    let code = |query: &[u8]| ask(server.address, query).metadata.response_code;
    assert_eq!(code(&query(1, "hello", AAAA)), ResponseCode::NoError);
    assert_eq!(code(&query(2, "nobody", A)), ResponseCode::NXDomain);
    let mut foreign = query(3, "hello", A);
    foreign[20] = b'x';
    assert_eq!(code(&foreign), ResponseCode::Refused);
}

#[test]
fn malformed_datagrams_get_formerr_or_no_answer() {
    let server = Server::start(RECORDS);
    server.wait_ready().unwrap();
    let socket = socket_to(server.address);
    let good = query(7, "hello", A);
    let mut response = good.clone();
    response[2] |= 0x80;
    for silent in [&[][..], &good[..11], &response] {
        socket.send(silent).unwrap();
    }
    let mut cut = good[..20].to_vec();
    cut[1] = 8;
    socket.send(&cut).unwrap();
    // On loopback, datagrams from one socket to another stay in order.
    let answer = receive(&socket);
    assert_eq!(answer.metadata.id, 8);
    assert_eq!(answer.metadata.response_code, ResponseCode::FormErr);
    socket.send(&good).unwrap();
    assert_eq!(receive(&socket).metadata.id, 7);
}

#[test]
fn every_query_of_a_burst_is_answered() {
    let server = Server::start(RECORDS);
    server.wait_ready().unwrap();
    let socket = socket_to(server.address);
    for id in 0..100 {
        socket.send(&query(id, "hello", A)).unwrap();
    }
    let mut ids: Vec<_> = (0..100).map(|_| receive(&socket).metadata.id).collect();
    ids.sort_unstable();
    assert_eq!(ids, (0..100).collect::<Vec<_>>());
}

/// On loopback, 127.0.0.9 is an address like any other: an answer from
/// 127.0.0.1 would not reach the connected socket.
fn assert_answers_at(server: &Server, ips: &[&str]) {
    server.wait_ready().unwrap();
    for ip in ips {
        let address = SocketAddr::new(ip.parse().unwrap(), server.address.port());
        assert_eq!(
            addresses_of(&ask(address, &query(1, "hello", A))).len(),
            3,
            "{ip}"
        );
    }
}

#[test]
fn on_the_ipv4_wildcard_answers_come_from_the_address_asked() {
    let server = Server::start_with("0.0.0.0:0", Some(RECORDS), &[]);
    assert_answers_at(&server, &["127.0.0.1", "127.0.0.9", "127.8.7.6"]);
}

#[test]
fn on_the_ipv6_wildcard_answers_come_from_the_address_asked_in_both_families() {
    if std::net::UdpSocket::bind("[::1]:0").is_err() {
        println!("this machine has no IPv6");
        return;
    }
    let server = Server::start_with("[::]:0", Some(RECORDS), &[]);
    assert_answers_at(&server, &["::1", "127.0.0.1", "127.0.0.9"]);
}
