//! Large answers with a length: the kernel moves their bytes, and none is lost, added or left for
//! the next answer.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::thread;

use scaledapp_proxy::Config;

use crate::peers::{MOMENT, Running, Stage, read_all, start_with, until};

const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";

/// Digits that differ at every position within a megabyte or so.
fn body(length: usize) -> String {
    let mut body: String = (0..)
        .flat_map(|number: u32| format!("{number:x},").into_bytes())
        .take(length)
        .map(char::from)
        .collect();
    body.shrink_to_fit();
    body
}

fn answer(body: &str) -> String {
    format!(
        "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// Reads one answer, whose head it drops.
fn read_body(client: &mut TcpStream, length: usize) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        client.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    let mut body = vec![0; length];
    client.read_exact(&mut body).unwrap();
    String::from_utf8(body).unwrap()
}

fn both(stage: &Stage) -> [Running; 2] {
    let balancer = start_with(vec![stage.endpoint()], Config::balancer());
    [
        balancer,
        start_with(vec![stage.endpoint()], Config::dispatcher()),
    ]
}

#[test]
fn bodies_of_every_length_arrive_as_they_were_sent_and_connections_are_kept() {
    let stage = Stage::open();
    for running in both(&stage) {
        let mut client = running.connect();
        let mut first = None;
        for length in [32_767, 32_768, 32_769, 49_152, 100_000, 262_145, 5_000_000] {
            let body = body(length);
            client.write_all(GET).unwrap();
            let mut request = stage.next();
            let (connection, _) = request.at;
            assert_eq!(*first.get_or_insert(connection), connection, "it is kept");
            let sent = answer(&body);
            let sender = thread::spawn(move || {
                for piece in sent.as_bytes().chunks(70_001) {
                    request.begin(std::str::from_utf8(piece).unwrap());
                }
                request
            });
            let received = read_body(&mut client, length);
            assert!(received == body, "{length}");
            sender.join().unwrap().answer("");
        }
        until("nothing is left", || running.proxy.in_flight() == 0);
    }
}

/// The pipe and the sockets are full, and the client reads on after a while.
#[test]
fn a_client_that_pauses_gets_everything() {
    let stage = Stage::open();
    for running in both(&stage) {
        let mut client = running.connect();
        let body = body(8_000_000);
        client.write_all(GET).unwrap();
        let mut request = stage.next();
        let sent = answer(&body);
        let sender = thread::spawn(move || {
            request.begin(&sent);
            request
        });
        thread::sleep(MOMENT * 3);
        assert!(read_body(&mut client, body.len()) == body);
        sender.join().unwrap().answer("");
    }
}

#[test]
fn a_body_that_breaks_off_never_looks_complete() {
    let stage = Stage::open();
    for running in both(&stage) {
        let mut client = running.connect();
        let body = body(3_000_000);
        client.write_all(GET).unwrap();
        let mut request = stage.next();
        let sent = answer(&body);
        let sender = thread::spawn(move || {
            request.begin(&sent[..sent.len() - 70_000]);
            drop(request);
        });
        let received = read_all(&mut client);
        sender.join().unwrap();
        assert!(received.len() < answer(&body).len());
        assert!(running.counts("x_failures_total{cause=\"cut_off\"} 1"));
        until("nothing is left", || running.proxy.in_flight() == 0);
    }
}

#[test]
fn a_client_that_leaves_in_the_middle_frees_its_server() {
    let stage = Stage::open();
    for running in both(&stage) {
        let mut client = running.connect();
        client.write_all(GET).unwrap();
        let mut request = stage.next();
        let sent = answer(&body(20_000_000));
        let sender = thread::spawn(move || request.try_begin(&sent).is_err());
        let mut some = vec![0; 1_000_000];
        client.read_exact(&mut some).unwrap();
        drop(client);
        assert!(sender.join().unwrap(), "the server's connection has ended");
        until("nothing is left", || running.proxy.in_flight() == 0);
    }
}
