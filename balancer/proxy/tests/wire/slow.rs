//! Clients that send or read slowly: they must not block a server, nor make it look hung.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::peers::{MOMENT, OK, Running, Stage, read_all, short, start, until};

const HEAD: &str = "POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n";

fn post(running: &Running, rest: &str) -> TcpStream {
    let mut client = running.connect();
    client
        .write_all(format!("{HEAD}{rest}").as_bytes())
        .unwrap();
    client
}

#[test]
fn a_short_body_is_complete_before_a_server_is_asked() {
    let stage = Stage::open();
    let running = start(vec![stage.endpoint()], short(|_| {}));
    for (begun, rest, sent) in [
        ("Content-Length: 5\r\n\r\nab", "cde", "\r\n\r\nabcde"),
        (
            "Transfer-Encoding: chunked\r\n\r\n2\r\nab\r\n3\r\nc",
            "de\r\n0\r\n\r\n",
            "0\r\n\r\n",
        ),
    ] {
        let mut client = post(&running, begun);
        std::thread::sleep(MOMENT);
        assert!(stage.requests.try_recv().is_err(), "{begun}");
        assert_eq!(running.proxy.in_flight(), 0);
        client.write_all(rest.as_bytes()).unwrap();
        let request = stage.next();
        assert!(request.text.ends_with(sent), "{}", request.text);
        request.answer(OK);
        assert!(read_all(&mut client).ends_with("ok"));
    }
}

#[test]
fn other_bodies_are_passed_on_as_they_arrive() {
    let stage = Stage::open();
    let running = start(
        vec![stage.endpoint()],
        short(|limits| limits.replay_bytes = 4),
    );
    for begun in [
        "Content-Length: 6\r\n\r\nab",
        "Transfer-Encoding: chunked\r\n\r\n20\r\n01234567",
        "Content-Length: 2\r\nExpect: 100-continue\r\n\r\n",
    ] {
        let _client = post(&running, begun);
        drop(stage.next());
    }
}

#[test]
fn a_body_that_trickles_gets_408_and_blocks_no_server() {
    for (length, reaches) in [(100, false), (100_000, true)] {
        let stage = Stage::open();
        let limits = short(|limits| {
            limits.body_grace = MOMENT;
            limits.body_rate = 1000;
        });
        let running = start(vec![stage.endpoint()], limits);
        let mut client = post(&running, &format!("Content-Length: {length}\r\n\r\n"));
        let mut dripping = client.try_clone().unwrap();
        let drips = std::thread::spawn(move || {
            while dripping.write_all(b"x").is_ok() {
                std::thread::sleep(Duration::from_millis(10));
            }
        });
        if reaches {
            stage.next().is_left();
        }
        assert!(read_all(&mut client).starts_with("HTTP/1.1 408 "));
        // The client has its answer, so it need not send for as long as it could.
        client.shutdown(Shutdown::Both).unwrap();
        drips.join().unwrap();
        assert!(running.counts("x_failures_total{cause=\"client_timeout\"} 1"));
        assert!(running.counts("x_ejections_total 0"));
    }
}

#[test]
fn a_client_that_waits_for_100_continue_is_not_blamed_for_its_server() {
    let stage = Stage::open();
    let endpoint = stage.endpoint();
    let limits = short(|limits| limits.body_grace = MOMENT);
    let running = start(vec![Arc::clone(&endpoint)], limits);
    let mut client = post(
        &running,
        "Content-Length: 2\r\nExpect: 100-continue\r\n\r\n",
    );
    let mut request = stage.next();
    std::thread::sleep(MOMENT * 3);
    let later = Instant::now() + Duration::from_hours(1);
    assert!(endpoint.silent_for(later).is_some(), "the server must act");
    request.begin("HTTP/1.1 100 Continue\r\n\r\n");
    let mut word = [0; 25];
    client.read_exact(&mut word).unwrap();
    assert!(word.starts_with(b"HTTP/1.1 100 "));
    client.write_all(b"ab").unwrap();
    assert_eq!(request.more(), b"ab");
    request.answer(OK);
    assert!(read_all(&mut client).ends_with("ok"));
}

#[test]
fn a_body_has_a_deadline_for_its_waits_in_total() {
    let stage = Stage::open();
    let limits = short(|limits| {
        limits.body_time = MOMENT * 2;
        limits.body_rate = 0;
    });
    let running = start(vec![stage.endpoint()], limits);
    let mut client = post(&running, "Content-Length: 100000\r\n\r\n");
    let mut dripping = client.try_clone().unwrap();
    let drips = std::thread::spawn(move || {
        while dripping.write_all(b"x").is_ok() {
            std::thread::sleep(Duration::from_millis(10));
        }
    });
    stage.next().is_left();
    assert!(read_all(&mut client).starts_with("HTTP/1.1 408 "));
    // The client has its answer, so it need not send for as long as it could.
    client.shutdown(Shutdown::Both).unwrap();
    drips.join().unwrap();
}

#[test]
fn a_server_owes_nothing_while_its_client_sends() {
    let stage = Stage::open();
    let endpoint = stage.endpoint();
    let running = start(vec![Arc::clone(&endpoint)], short(|_| {}));
    let later = Instant::now() + Duration::from_hours(1);
    let length = 100_000;
    let mut client = post(&running, &format!("Content-Length: {length}\r\n\r\nx"));
    let mut request = stage.next();
    until("the client is waited for", || {
        endpoint.silent_for(later).is_none()
    });
    assert_eq!(endpoint.in_flight(), 1);
    client.write_all(&vec![b'x'; length - 1]).unwrap();
    let mut read = 0;
    while read < length - 1 {
        read += request.more().len();
    }
    until("the server is waited for", || {
        endpoint.silent_for(later).is_some()
    });
    request.answer(OK);
    read_all(&mut client);
    assert_eq!(endpoint.silent_for(later), None);
}

/// A client that reads nothing by itself, and has a small receive buffer.
fn reader(running: &Running) -> TcpStream {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    socket.connect(&running.address.into()).unwrap();
    let mut client = TcpStream::from(socket);
    client
        .write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        .unwrap();
    client
}

fn answer(length: usize) -> String {
    let body = "x".repeat(length);
    format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{body}")
}

#[test]
fn a_short_answer_frees_its_server_before_it_is_read() {
    const SHORT: usize = 240_000;
    let stage = Stage::open();
    let endpoint = stage.endpoint();
    let running = start(vec![Arc::clone(&endpoint)], short(|_| {}));
    let mut client = reader(&running);
    stage.next().answer(&answer(SHORT));
    until("the server is free", || endpoint.in_flight() == 0);
    let text = read_all(&mut client);
    assert_eq!(text.split_once("\r\n\r\n").unwrap().1.len(), SHORT);
}

#[test]
fn a_long_answer_waits_for_its_reader_and_not_for_ever() {
    const LONG: usize = 32 << 20;
    let stage = Stage::open();
    let endpoint = stage.endpoint();
    let limits = short(|limits| limits.stall_time = MOMENT * 4);
    let running = start(vec![Arc::clone(&endpoint)], limits);
    let later = Instant::now() + Duration::from_hours(1);
    let mut client = reader(&running);
    let request = stage.next();
    let server = std::thread::spawn(move || {
        let mut request = request;
        request.try_begin(&answer(LONG))
    });
    until("its client is waited for", || {
        endpoint.in_flight() == 1 && endpoint.silent_for(later).is_none()
    });
    assert!(server.join().unwrap().is_err(), "it is cut");
    until("the server is free", || endpoint.in_flight() == 0);
    let mut some = [0; 100];
    client.read_exact(&mut some).unwrap();
    assert!(running.counts("x_failures_total{cause=\"client_timeout\"} 1"));
}
