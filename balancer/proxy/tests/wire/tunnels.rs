//! Upgraded connections when their endpoint ends.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use scaledapp_proxy::{Endpoint, Limits};

use crate::peers::{Running, read_all, start, until};

const ASK: &[u8] = b"GET /t HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n";
const SWITCH: &[u8] =
    b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n";

/// Both ends of an upgraded connection: the client's and the app's.
fn tunnel() -> (Running, Arc<Endpoint>, TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = Endpoint::new("app", listener.local_addr().unwrap());
    let running = start(vec![Arc::clone(&endpoint)], Limits::default());
    let mut client = running.connect();
    client.write_all(ASK).unwrap();
    let (mut app, _) = listener.accept().unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        app.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    app.write_all(SWITCH).unwrap();
    let mut answer = vec![0; 12];
    client.read_exact(&mut answer).unwrap();
    while !answer.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        client.read_exact(&mut byte).unwrap();
        answer.push(byte[0]);
    }
    (running, endpoint, client, app)
}

#[test]
fn the_last_bytes_of_an_app_that_left_bytes_unread_reach_the_client() {
    for _ in 0..20 {
        let (_running, _endpoint, mut client, mut app) = tunnel();
        client.write_all(b"not read by the app").unwrap();
        // The bytes have arrived, so closing sends a reset.
        app.peek(&mut [0; 8]).unwrap();
        app.write_all(b"going away").unwrap();
        drop(app);
        client.write_all(b"nor this").unwrap();
        assert_eq!(read_all(&mut client), "going away");
    }
}

#[test]
fn the_last_bytes_of_a_worker_that_is_gone_reach_the_client() {
    for _ in 0..20 {
        let (_running, endpoint, mut client, mut app) = tunnel();
        app.write_all(b"going away").unwrap();
        drop(app);
        endpoint.retire();
        assert_eq!(read_all(&mut client), "going away");
        drop(client);
        until("the tunnel has ended", || endpoint.in_flight() == 0);
    }
}

#[test]
fn a_client_that_has_finished_still_gets_what_the_app_sends() {
    let (_running, _endpoint, mut client, mut app) = tunnel();
    client.write_all(b"all").unwrap();
    client.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(read_all(&mut app), "all");
    app.write_all(b"and back").unwrap();
    drop(app);
    assert_eq!(read_all(&mut client), "and back");
}

#[tokio::test]
async fn answered_resolves_when_only_upgraded_connections_are_left() {
    let (running, endpoint, mut client, mut app) = tunnel();
    let time = Duration::from_mins(1);
    running
        .proxy
        .drain_and_linger(Duration::ZERO, Duration::ZERO, time, time);
    running.proxy.answered().await;
    assert_eq!(endpoint.in_flight(), 1);
    app.write_all(b"going away").unwrap();
    drop(app);
    assert_eq!(read_all(&mut client), "going away");
    drop(client);
    running.proxy.idle().await;
    running.proxy.drained().await;
}
