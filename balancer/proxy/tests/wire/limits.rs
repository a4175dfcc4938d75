//! The limits of the forwarding path over real sockets, and what happens when they are
//! reached.
//!
//! Malformed messages and misbehaving upstreams are tested with the built balancer
//! (`tests/tests/wire_balancer`); the tests here need limits of a fraction of a second.

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use scaledapp_proxy::{Config, Endpoint, Limits, Table};

use crate::peers::{
    GET, MOMENT, OK, Stage, ask, read_all, short, start, start_with, until, upstream,
};

#[test]
fn a_request_waits_for_an_endpoint_and_is_served_when_there_is_one() {
    let running = start(Vec::new(), Limits::default());
    let mut stream = running.connect();
    stream
        .write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        .unwrap();
    while running.proxy.queued() == 0 {
        std::thread::sleep(Duration::from_millis(1));
    }
    let endpoints = vec![upstream(OK, Duration::ZERO)];
    running.table.send_replace(Arc::new(Table { endpoints }));
    assert!(read_all(&mut stream).ends_with("\r\n\r\nok"));
    assert_eq!(running.proxy.queued(), 0);
}

#[test]
fn a_request_without_an_endpoint_is_told_to_come_back() {
    let running = start(Vec::new(), short(|limits| limits.waiting_time = MOMENT));
    let answer = running.send(b"GET / HTTP/1.0\r\nHost: a\r\n\r\n");
    assert!(
        answer.starts_with("HTTP/1.1 503 ") && answer.contains("Retry-After: 1\r\n"),
        "{answer}"
    );
    assert!(running.counts("x_failures_total{cause=\"no_endpoint\"} 1"));
}

#[test]
fn a_request_waits_no_longer_for_an_endpoint_that_refuses_connections() {
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = nobody.local_addr().unwrap();
    drop(nobody);
    let limits = short(|limits| limits.waiting_time = MOMENT * 2);
    let running = start(vec![Endpoint::new("gone", address)], limits);
    let answer = running.send(b"POST / HTTP/1.0\r\nHost: a\r\nContent-Length: 0\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    assert!(running.counts("x_failures_total{cause=\"no_endpoint\"} 1"));
}

#[test]
fn the_number_of_waiting_requests_is_limited() {
    let running = start(Vec::new(), short(|limits| limits.waiting = 1));
    let mut first = running.connect();
    first.write_all(GET).unwrap();
    while running.proxy.queued() == 0 {
        std::thread::sleep(Duration::from_millis(1));
    }
    let answer = running.send(b"GET / HTTP/1.0\r\nHost: a\r\n\r\n");
    assert!(
        answer.starts_with("HTTP/1.1 503 ") && answer.ends_with("queue-full\n"),
        "{answer}"
    );
    assert!(running.counts("x_failures_total{cause=\"queue_full\"} 1"));
}

#[test]
fn a_client_that_leaves_the_queue_is_forgotten() {
    let running = start(Vec::new(), Limits::default());
    let mut stream = running.connect();
    stream.write_all(GET).unwrap();
    while running.proxy.queued() == 0 {
        std::thread::sleep(Duration::from_millis(1));
    }
    socket2::SockRef::from(&stream)
        .set_linger(Some(Duration::ZERO))
        .unwrap();
    drop(stream);
    while running.proxy.queued() > 0 {
        std::thread::sleep(Duration::from_millis(1));
    }
    assert!(running.counts("x_failures_total{cause=\"client_gone\"} 1"));
}

#[test]
fn bytes_that_cannot_begin_a_request_are_refused_before_a_line_ends() {
    let running = start(Vec::new(), Limits::default());
    // A TLS client begins like this and then waits for an answer.
    let answer = running.send(b"\x16\x03\x01\x02\x00\x01\x00");
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    assert!(running.counts("x_failures_total{cause=\"refused\"} 1"));
}

#[test]
fn connections_of_slow_clients_end() {
    let limits = short(|limits| {
        limits.head_time = MOMENT;
        limits.idle_time = MOMENT;
        limits.stall_time = MOMENT;
    });
    let running = start(vec![upstream(OK, Duration::ZERO)], limits);
    assert_eq!(running.send(b""), "", "no byte at all");
    assert!(
        running.send(b"GET / HT").starts_with("HTTP/1.1 408 "),
        "half a head"
    );
    let body = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n";
    let answer = running.send(body);
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    let answer = running.send(GET);
    assert!(answer.ends_with("ok"), "idle after an answer: {answer}");
    assert!(running.counts("x_failures_total{cause=\"client_timeout\"} 2"));
}

#[test]
fn a_silent_upstream_times_out_and_its_request_is_not_repeated() {
    let limits = short(|limits| limits.answer_time = MOMENT);
    let running = start(vec![upstream("", Duration::ZERO)], limits);
    assert!(running.send(GET).starts_with("HTTP/1.1 504 "));
    assert!(running.counts("x_repeated_total 0"));
}

#[test]
fn an_answer_that_stops_is_cut_off() {
    let limits = short(|limits| limits.stall_time = MOMENT);
    let stops = "HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\nonly this";
    let running = start(vec![upstream(stops, Duration::ZERO)], limits);
    let answer = running.send(GET);
    assert!(!answer.contains("HTTP/1.1 5"), "{answer}");
    assert!(running.counts("x_failures_total{cause=\"timeout\"} 1"));
    // The answer is so short that no byte of it has been passed on yet.
    let stops = "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nonly this";
    let running = start(vec![upstream(stops, Duration::ZERO)], limits);
    let answer = running.send(GET);
    assert!(answer.starts_with("HTTP/1.1 504 "), "{answer}");
    assert!(running.counts("x_repeated_total 0"));
}

#[test]
fn a_stream_may_be_silent_for_longer_than_other_answers() {
    for field in ["Content-Type: text/event-stream", "X-Accel-Buffering: no"] {
        let limits = short(|limits| {
            limits.stall_time = MOMENT;
            limits.stream_time = MOMENT * 4;
        });
        let stage = Stage::open();
        let running = start(vec![stage.endpoint()], limits);
        let mut client = ask(&running, "/");
        let mut request = stage.next();
        let head = format!("HTTP/1.1 200 OK\r\n{field}\r\nTransfer-Encoding: chunked\r\n\r\n");
        request.begin(&format!("{head}3\r\none\r\n"));
        let mut first = [0; 12];
        client.read_exact(&mut first).unwrap();
        let silent = std::time::Instant::now();
        request.is_left();
        assert!(silent.elapsed() > MOMENT * 2, "{field}");
        // The stream is cut off: it does not end with a last chunk.
        assert!(!read_all(&mut client).ends_with("0\r\n\r\n"));
        assert!(running.counts("x_failures_total{cause=\"timeout\"} 1"));
    }
}

#[test]
fn an_upgraded_connection_ends_when_both_sides_are_silent() {
    let limits = short(|limits| limits.upgrade_time = MOMENT);
    let stage = Stage::open();
    let running = start(vec![stage.endpoint()], limits);
    let mut tunnel = running.connect();
    tunnel
        .write_all(b"GET /t HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n")
        .unwrap();
    let mut upgraded = stage.next();
    upgraded.begin("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n");
    read_all(&mut tunnel);
    upgraded.is_left();
}

#[test]
fn the_number_of_connections_is_limited_and_the_next_one_waits() {
    let upstream = Stage::open();
    let running = start_with(
        vec![upstream.endpoint()],
        Config {
            limits: short(|limits| limits.connections = 2),
            ..Config::balancer()
        },
    );
    let busy = [ask(&running, "/1"), ask(&running, "/2")];
    let (one, _two) = (upstream.next(), upstream.next());
    let mut next = ask(&running, "/3");
    next.set_read_timeout(Some(MOMENT)).unwrap();
    let waits = next.read(&mut [0; 1]).unwrap_err();
    assert_eq!(waits.kind(), ErrorKind::WouldBlock);
    assert!(running.counts("x_accepted_connections_total 2"));
    one.answer(OK);
    let third = upstream.next();
    assert_eq!(third.path(), "/3");
    third.answer(OK);
    next.set_read_timeout(Some(Duration::from_secs(10)))
        .unwrap();
    assert!(read_all(&mut next).ends_with("ok"));
    drop(busy);
}

#[test]
fn idle_connections_give_way_to_new_ones() {
    for threads in [1, 2] {
        let running = start_with(
            vec![upstream(OK, Duration::ZERO)],
            Config {
                threads,
                limits: short(|limits| limits.connections = 20),
                ..Config::balancer()
            },
        );
        let mut kept = running.connect();
        kept.write_all(GET).unwrap();
        kept.read_exact(&mut [0; OK.len()]).unwrap();
        let silent: Vec<_> = (0..200).map(|_| running.connect()).collect();
        // New connections come one after the other, after the limit has been reached.
        for _ in 0..20 {
            let answer = running.send(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
            assert!(answer.ends_with("ok"), "{answer}");
        }
        let open = running.proxy.connections();
        assert!(open <= 20 + 2, "{open}");
        assert_eq!(read_all(&mut kept), "", "the oldest goes first");
        drop(silent);
    }
}

#[test]
fn half_heads_give_way_to_new_connections_at_once() {
    let running = start_with(
        vec![upstream(OK, Duration::ZERO)],
        Config {
            limits: short(|limits| limits.connections = 20),
            ..Config::balancer()
        },
    );
    let begun = std::time::Instant::now();
    let mut half: Vec<_> = (0..100)
        .map(|_| {
            let mut stream = running.connect();
            stream.write_all(b"GET / HTTP/1.1\r\nHos").unwrap();
            stream
        })
        .collect();
    for _ in 0..5 {
        let answer = running.send(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
        assert!(answer.ends_with("ok"), "{answer}");
    }
    assert!(begun.elapsed() < Duration::from_secs(2), "{begun:?}");
    let told = read_all(&mut half[0]);
    assert!(
        told.starts_with("HTTP/1.1 408 ") && told.ends_with("gave-way\n"),
        "{told}"
    );
    // One of those that are left goes on.
    let last = half.last_mut().unwrap();
    last.write_all(b"t: a\r\nConnection: close\r\n\r\n")
        .unwrap();
    assert!(read_all(last).ends_with("ok"));
}

#[test]
fn a_connection_without_a_request_ends_after_the_time_for_a_head() {
    let limits = short(|limits| limits.head_time = MOMENT);
    let running = start(vec![upstream(OK, Duration::ZERO)], limits);
    let mut kept = running.connect();
    kept.write_all(GET).unwrap();
    kept.read_exact(&mut [0; OK.len()]).unwrap();
    assert_eq!(running.send(b""), "");
    // This connection has had a request, so the time between two requests applies to it.
    kept.write_all(GET).unwrap();
    kept.read_exact(&mut [0; OK.len()]).unwrap();
}

#[test]
fn the_number_of_connections_of_an_address_is_limited() {
    let limits = short(|limits| limits.connections_per_address = NonZeroU32::new(2));
    let upstreams = || vec![upstream(OK, Duration::ZERO)];
    let running = start(upstreams(), limits);
    let (one, _two) = (running.connect(), running.connect());
    until("both are counted", || running.proxy.connections() == 2);
    let answer = running.send(b"");
    assert!(
        answer.starts_with("HTTP/1.1 503 ") && answer.contains("too-many-connections"),
        "{answer}"
    );
    assert!(running.counts("x_address_limit_reached_total 1"));
    drop(one);
    until("one has left", || running.proxy.connections() == 1);
    let answer = running.send(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    assert!(answer.ends_with("ok"), "{answer}");
    // Behind a balancer, all clients have the balancer's address.
    let limits = short(|limits| limits.connections_per_address = NonZeroU32::new(1));
    let config = Config {
        limits,
        ..Config::dispatcher()
    };
    let running = start_with(upstreams(), config);
    let _first = running.connect();
    let answer = running.send(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    assert!(answer.ends_with("ok"), "{answer}");
}

#[tokio::test]
async fn a_drain_ends_idle_connections_and_lets_the_rest_finish() {
    let running = start(vec![upstream(OK, MOMENT * 4)], Limits::default());
    let mut idle = running.connect();
    let mut busy = running.connect();
    busy.write_all(GET).unwrap();
    while running.proxy.in_flight() == 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    running
        .proxy
        .drain(MOMENT, Duration::ZERO, Duration::from_secs(20));
    running.proxy.drained().await;
    let answer = read_all(&mut busy);
    assert!(
        answer.contains("Connection: close\r\n") && answer.ends_with("ok"),
        "{answer}"
    );
    assert_eq!(read_all(&mut idle), "");
    let refused = TcpStream::connect(running.address).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    assert_eq!(running.proxy.connections(), 0);
}

#[tokio::test]
async fn a_drain_cuts_off_requests_that_do_not_end() {
    let running = start(vec![upstream("", Duration::ZERO)], Limits::default());
    let mut stream = running.connect();
    stream.write_all(GET).unwrap();
    while running.proxy.in_flight() == 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    running
        .proxy
        .drain(Duration::ZERO, Duration::ZERO, MOMENT * 2);
    running.proxy.drained().await;
    assert_eq!(read_all(&mut stream), "");
}

#[tokio::test]
async fn a_closed_endpoint_gets_no_request_and_is_idle_after_its_last() {
    let (one, two) = (upstream(OK, MOMENT), upstream(OK, Duration::ZERO));
    let running = start(vec![Arc::clone(&one)], Limits::default());
    let mut stream = running.connect();
    stream.write_all(GET).unwrap();
    while one.in_flight() == 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    one.close();
    running.table.send_replace(Arc::new(Table {
        endpoints: vec![Arc::clone(&one), two],
    }));
    assert!(
        running
            .send(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            .ends_with("ok")
    );
    one.idle().await;
    let mut answer = [0; OK.len()];
    stream.read_exact(&mut answer).unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 200 "));
}

#[tokio::test]
async fn an_upgraded_connection_ends_with_its_endpoint() {
    let switching = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n";
    let one = upstream(switching, Duration::ZERO);
    let running = start(vec![Arc::clone(&one)], Limits::default());
    let mut stream = running.connect();
    stream
        .write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n")
        .unwrap();
    let mut first = [0; 12];
    stream.read_exact(&mut first).unwrap();
    assert_eq!(&first, b"HTTP/1.1 101");
    assert_eq!(one.in_flight(), 1);
    one.close();
    one.idle().await;
    assert_eq!(
        one.in_flight(),
        1,
        "it continues at an endpoint that leaves"
    );
    one.retire();
    read_all(&mut stream);
    while one.in_flight() > 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}
