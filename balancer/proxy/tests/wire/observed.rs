//! What is observed of an endpoint's process: its silence, and its answers.

use std::io::{Read, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use prometheus_client::registry::Registry;
use scaledapp_proxy::{Config, Endpoint, Limits, NamedCounters, Table};

use crate::peers::{OK, Stage, ask, read_all, start, start_with, until};

#[test]
fn silence_ends_with_each_byte_and_begins_with_the_first_request() {
    let stage = Stage::open();
    let endpoint = stage.endpoint();
    let running = start(vec![Arc::clone(&endpoint)], Limits::default());
    // This is so late that only the start of the silence can make a difference.
    let later = Instant::now() + Duration::from_hours(1);
    assert_eq!(endpoint.silent_for(later), None);
    let before = Instant::now();
    let mut client = ask(&running, "/");
    let mut request = stage.next();
    let asked = endpoint.silent_for(later).unwrap();
    assert!(asked <= later - before, "since it was asked");
    // A thread's clock ticks; a byte is recorded with the time of the tick before it.
    let mut written = 0;
    request.begin("HTTP/1.1 200 OK\r\nContent-Length: 2000\r\n\r\n");
    until("a byte ends the silence", || {
        request.begin("x");
        written += 1;
        endpoint.silent_for(later).unwrap() < asked
    });
    request.answer(&"x".repeat(2000 - written));
    read_all(&mut client);
    until("it is answered", || endpoint.silent_for(later).is_none());
}

#[test]
fn a_tunnel_owes_no_answer_and_its_bytes_are_a_sign_of_life() {
    let stage = Stage::open();
    let endpoint = stage.endpoint();
    let running = start(vec![Arc::clone(&endpoint)], Limits::default());
    let later = Instant::now() + Duration::from_hours(1);
    let mut tunnel = running.connect();
    tunnel
        .write_all(b"GET /t HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n")
        .unwrap();
    let mut upgraded = stage.next();
    upgraded.begin("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n");
    until("it is a tunnel", || {
        endpoint.in_flight() == 1 && endpoint.silent_for(later).is_none()
    });
    let before = Instant::now();
    let _client = ask(&running, "/");
    let _request = stage.next();
    let asked = endpoint.silent_for(later).unwrap();
    assert!(
        asked <= later - before,
        "since the request, not since the tunnel began"
    );
    upgraded.begin("alive");
    until("a byte of the tunnel is noted", || {
        endpoint.silent_for(later).unwrap() < asked
    });
    let mut head = [0; 12];
    tunnel.read_exact(&mut head).unwrap();
    assert_eq!(&head, b"HTTP/1.1 101");
}

#[test]
fn a_slot_keeps_its_counters_when_its_process_is_replaced() {
    let mut registry = Registry::default();
    let counters = NamedCounters::register(&mut registry, "x");
    let (old, new) = (Stage::open(), Stage::open());
    let at = |stage: &Stage| Endpoint::with_counters("0", stage.address, &counters.of("0"));
    let running = start_with(vec![at(&old)], Config::dispatcher());
    let mut client = ask(&running, "/");
    let request = old.next();
    assert_eq!(counters.of("0").in_flight(), 1);
    request.answer(OK);
    read_all(&mut client);
    let mut broken = running.connect();
    broken
        .write_all(b"POST / HTTP/1.0\r\nContent-Length: 1\r\n\r\nx")
        .unwrap();
    drop(old.next());
    assert!(read_all(&mut broken).starts_with("HTTP/1.1 502 "));
    let endpoints = vec![at(&new)];
    running.table.send_replace(Arc::new(Table { endpoints }));
    for answer in [
        "HTTP/1.1 204 No Content\r\n\r\n",
        "HTTP/1.1 500 Oh\r\nContent-Length: 0\r\n\r\n",
    ] {
        let client = std::thread::scope(|scope| {
            let client = scope.spawn(|| read_all(&mut ask(&running, "/")));
            // The table reaches the thread a moment later.
            let request = loop {
                if let Ok(request) = new.requests.try_recv() {
                    break request;
                }
                if let Ok(request) = old.requests.try_recv() {
                    drop(request);
                }
            };
            request.answer(answer);
            client.join().unwrap()
        });
        assert!(!client.is_empty());
    }
    let counters = counters.of("0");
    until("all is counted", || counters.in_flight() == 0);
    assert_eq!(
        [2, 5, 3].map(|hundreds| counters.answers(hundreds)),
        [2, 1, 0]
    );
    assert!(counters.broken() >= 1, "{}", counters.broken());
}
