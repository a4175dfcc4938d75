//! Kept connections that their server closes at the moment when a request is sent on
//! them.

use std::io::Write;
use std::net::TcpStream;

use scaledapp_proxy::{Config, Limits};

use crate::peers::{OK, Running, Stage, read_all, start, start_with, until};

const POST: &[u8] =
    b"POST /p HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nConnection: close\r\n\r\nx";
const GET: &[u8] = b"GET /g HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";

fn both(stage: &Stage) -> [Running; 2] {
    let balancer = start(vec![stage.endpoint()], Limits::default());
    [
        balancer,
        start_with(vec![stage.endpoint()], Config::dispatcher()),
    ]
}

/// Makes the proxy keep one connection, and returns its number.
fn warm(running: &Running, stage: &Stage) -> usize {
    let mut client = send(running, GET);
    let request = stage.next();
    let (connection, _) = request.at;
    request.answer(OK);
    assert!(read_all(&mut client).ends_with("ok"));
    connection
}

fn send(running: &Running, bytes: &[u8]) -> TcpStream {
    let mut client = running.connect();
    client.write_all(bytes).unwrap();
    client
}

#[test]
fn a_get_on_a_connection_that_closes_as_it_arrives_is_repeated() {
    let stage = Stage::open();
    for running in both(&stage) {
        let kept = warm(&running, &stage);
        let mut client = send(&running, GET);
        let request = stage.next();
        assert_eq!(request.at, (kept, 1), "on the kept connection");
        drop(request);
        let request = stage.next();
        assert_eq!(request.at, (kept + 1, 0), "on a new connection");
        request.answer(OK);
        assert!(read_all(&mut client).ends_with("ok"));
        assert!(running.counts("x_repeated_total 1"));
    }
}

#[test]
fn a_post_on_a_connection_that_closes_as_it_arrives_is_not_repeated() {
    let stage = Stage::open();
    for running in both(&stage) {
        let kept = warm(&running, &stage);
        let mut client = send(&running, POST);
        let request = stage.next();
        assert_eq!(request.at, (kept, 1), "on the kept connection");
        // The POST may have been executed.
        drop(request);
        assert!(read_all(&mut client).starts_with("HTTP/1.1 502 "));
        assert!(running.counts("x_repeated_total 0"));
        assert!(stage.requests.try_recv().is_err());
    }
}

#[test]
fn a_post_never_goes_over_a_closed_connection() {
    let stage = Stage::open();
    for running in both(&stage) {
        for round in 1..=20 {
            let mut client = send(&running, GET);
            let mut request = stage.next();
            let (connection, _) = request.at;
            // The server promises to keep the connection, but closes it with the answer.
            request.begin(OK);
            request.close();
            assert!(read_all(&mut client).ends_with("ok"));
            let mut client = send(&running, POST);
            let request = stage.next();
            assert_eq!(request.at, (connection + 1, 0), "round {round}");
            request
                .answer("HTTP/1.1 201 Created\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
            assert!(read_all(&mut client).starts_with("HTTP/1.1 201 "));
        }
        assert!(running.counts("x_repeated_total 0"));
        until("nothing is left", || running.proxy.in_flight() == 0);
    }
}
