//! Headers of the PROXY protocol: from proxies in front, and to endpoints.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant};

use scaledapp_http1::{Announced, parse_proxy_header, write_proxy_header};
use scaledapp_proxy::{Callers, Config, Endpoint, Limits, Network};

use crate::peers::{OK, Running, Stage, read_all, short, start_for, start_with};
use crate::tcp::{Server, config};

const V1: &[u8] = b"PROXY TCP4 192.0.2.7 198.51.100.1 4711 80\r\n";
const LOCAL: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";

fn v2() -> Vec<u8> {
    let mut header = Vec::new();
    let (source, destination) = ("192.0.2.7:4711", "198.51.100.1:80");
    write_proxy_header(
        &mut header,
        source.parse().unwrap(),
        destination.parse().unwrap(),
    );
    header
}

/// A proxy whose connections from `network` begin with a header.
fn behind(network: &str, endpoint: Arc<Endpoint>, config: Config) -> Running {
    let callers = Callers {
        announced_from: Arc::new([network.parse::<Network>().unwrap()]),
        ..Callers::default()
    };
    start_for(vec![endpoint], config, callers)
}

/// The head that reaches the server for a connection that begins with these pieces.
fn head_after(pieces: &[&[u8]]) -> String {
    let stage = Stage::open();
    let running = behind("127.0.0.0/8", stage.endpoint(), Config::balancer());
    let mut client = running.connect();
    for piece in pieces {
        client.write_all(piece).unwrap();
        client.flush().unwrap();
        sleep(Duration::from_millis(5));
    }
    let request = stage.next();
    let head = request.text.clone();
    request.answer(OK);
    head
}

const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";

#[test]
fn the_announced_client_is_the_client_of_the_requests() {
    let ours = "X-Forwarded-For: 192.0.2.7\r\n";
    for header in [V1.to_vec(), v2()] {
        assert!(head_after(&[&header, GET]).contains(ours));
        let together = [&header[..], GET].concat();
        assert!(head_after(&[&together]).contains(ours));
        // Byte by byte, and cut in the middle of the request.
        let pieces: Vec<&[u8]> = together[..header.len() + 5].chunks(1).collect();
        let pieces = [&pieces[..], &[&together[header.len() + 5..]]].concat();
        assert!(head_after(&pieces).contains(ours));
    }
    // A health check of the proxy itself, and a client that it does not know.
    for header in [LOCAL, b"PROXY UNKNOWN\r\n"] {
        let head = head_after(&[header, GET]);
        assert!(head.contains("X-Forwarded-For: 127.0.0.1\r\n"), "{head}");
    }
}

/// What a client gets that sends these bytes, and how long it takes.
fn ends(running: &Running, bytes: &[u8]) -> (Vec<u8>, Duration) {
    let mut client = running.connect();
    client.write_all(bytes).unwrap();
    let begun = Instant::now();
    let mut got = Vec::new();
    match client.read_to_end(&mut got) {
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
        Err(error) => panic!("{error}"),
    }
    (got, begun.elapsed())
}

#[test]
fn a_missing_or_malformed_header_ends_the_connection() {
    let server = Server::open("app");
    for config in [config(Limits::default()), Config::balancer()] {
        let running = behind("127.0.0.0/8", Arc::clone(&server.endpoint), config);
        for bytes in [GET, b"PROXY TCP4 x\r\n", b"\r\n\r\n\0\r\nQUIT\n\x31"] {
            let (got, time) = ends(&running, bytes);
            assert_eq!(got, b"");
            assert!(time < Duration::from_secs(2), "{time:?}");
        }
        assert!(running.counts("x_proxy_headers_total{says=\"refused\"} 3"));
        crate::peers::until("all are over", || running.counts("x_connections 0"));
        assert_eq!(running.value("x_upstream_connects_total "), 0);
    }
}

#[test]
fn a_header_that_does_not_come_ends_the_connection() {
    let server = Server::open("app");
    let running = behind("127.0.0.0/8", server.endpoint, config(Limits::default()));
    let (got, time) = ends(&running, &V1[..20]);
    assert_eq!(got, b"");
    assert!((4..9).contains(&time.as_secs()), "{time:?}");
    assert!(running.counts("x_proxy_headers_total{says=\"late\"} 1"));
}

#[test]
fn a_check_of_the_port_without_a_byte_is_no_fault() {
    let server = Server::open("app");
    let running = behind("127.0.0.0/8", server.endpoint, config(Limits::default()));
    drop(running.connect());
    crate::peers::until("it has ended", || {
        running.counts("x_accepted_connections_total 1") && running.counts("x_connections 0")
    });
    assert!(running.counts("x_proxy_headers_total{says=\"refused\"} 0"));
    assert_eq!(running.value("x_upstream_connects_total "), 0);
}

#[test]
fn nobody_else_can_announce_a_client() {
    let stage = Stage::open();
    let running = behind("203.0.113.0/24", stage.endpoint(), Config::balancer());
    let answer = running.send(&[V1, GET].concat());
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    // A relay passes on all bytes as they are.
    let server = Server::open("app");
    let endpoint = Arc::clone(&server.endpoint);
    let running = behind("203.0.113.0/24", endpoint, config(Limits::default()));
    let mut client = running.connect();
    client.write_all(V1).unwrap();
    client.shutdown(std::net::Shutdown::Write).unwrap();
    let got = read_all(&mut server.accept());
    assert_eq!(got.as_bytes(), V1);
}

#[test]
fn the_limit_for_an_address_concerns_the_announced_client() {
    let server = Server::open("app");
    let limits = short(|limits| limits.connections_per_address = 2.try_into().ok());
    let endpoint = Arc::clone(&server.endpoint);
    let running = behind("127.0.0.0/8", endpoint, config(limits));
    let open = |header: &[u8]| {
        let mut client = running.connect();
        client.write_all(header).unwrap();
        client
    };
    let _held = [open(V1), open(V1)].map(|client| (client, server.accept()));
    let mut third = open(V1);
    let read = third.read(&mut [0]);
    assert_eq!(read.unwrap_err().kind(), ErrorKind::ConnectionReset);
    // Other clients, and the proxy itself, are not concerned.
    let other = b"PROXY TCP4 192.0.2.8 198.51.100.1 4711 80\r\n";
    let _more = [other, LOCAL, LOCAL, LOCAL].map(|header| (open(header), server.accept()));
    assert!(running.counts("x_address_limit_reached_total 1"));
}

/// Reads a header and the rest from a relayed connection.
fn announced(app: &mut TcpStream) -> (Announced, Vec<u8>) {
    let mut bytes = Vec::new();
    loop {
        if let Some((length, announced)) = parse_proxy_header(&bytes).unwrap() {
            app.read_to_end(&mut bytes).unwrap();
            return (announced, bytes.split_off(length));
        }
        let mut byte = [0];
        app.read_exact(&mut byte).unwrap();
        bytes.push(byte[0]);
    }
}

#[test]
fn an_endpoint_is_told_who_its_client_is() {
    let server = Server::open("app");
    let config = Config {
        sends_proxy_header: true,
        ..config(Limits::default())
    };
    let running = start_with(vec![Arc::clone(&server.endpoint)], config);
    let mut client = running.connect();
    let source = client.local_addr().unwrap();
    client.write_all(b"body").unwrap();
    client.shutdown(std::net::Shutdown::Write).unwrap();
    let mut app = server.accept();
    let destination: SocketAddr = running.address;
    let expected = Announced::Client {
        source,
        destination,
    };
    assert_eq!(announced(&mut app), (expected, b"body".to_vec()));
    // What a proxy in front has announced goes on to the endpoint.
    let endpoint = Arc::clone(&server.endpoint);
    let running = behind("127.0.0.1", endpoint, config);
    let mut client = running.connect();
    client.write_all(&[&v2()[..], b"body"].concat()).unwrap();
    client.shutdown(std::net::Shutdown::Write).unwrap();
    let mut app = server.accept();
    let expected = Announced::Client {
        source: "192.0.2.7:4711".parse().unwrap(),
        destination: "198.51.100.1:80".parse().unwrap(),
    };
    assert_eq!(announced(&mut app), (expected, b"body".to_vec()));
}
