//! Answers that break off: a short answer is not sent before it is complete.

use std::io::{Read, Write};

use scaledapp_proxy::{Config, Limits};

use crate::peers::{OK, Stage, ask, read_all, start, start_with};

const BROKEN: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\no";

#[test]
fn a_request_is_repeated_if_its_short_answer_breaks_off() {
    for config in [Config::dispatcher(), Config::balancer()] {
        let stage = Stage::open();
        let running = start_with(vec![stage.endpoint()], config);
        let mut client = ask(&running, "/");
        // A server that dies after it has written the head and before it has written the
        // body.
        let mut request = stage.next();
        request.begin(BROKEN);
        request.close();
        stage.next().answer(OK);
        let answer = read_all(&mut client);
        assert!(answer.ends_with("\r\n\r\nok"), "{answer}");
        assert_eq!(answer.matches("HTTP/1.1").count(), 1, "{answer}");
        assert!(running.counts("x_repeated_total 1"));
    }
}

#[test]
fn a_post_is_not_repeated_if_its_short_answer_breaks_off() {
    let stage = Stage::open();
    let running = start(vec![stage.endpoint()], Limits::default());
    let mut client = running.connect();
    client
        .write_all(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx")
        .unwrap();
    let mut request = stage.next();
    request.begin(BROKEN);
    request.close();
    let answer = read_all(&mut client);
    assert!(answer.ends_with("\r\n\r\no"), "cut off: {answer}");
    assert!(running.counts("x_repeated_total 0"));
    assert!(stage.requests.try_recv().is_err());
}

#[test]
fn a_long_answer_and_one_without_a_length_are_sent_immediately() {
    let stage = Stage::open();
    let running = start(vec![stage.endpoint()], Limits::default());
    for head in ["Content-Length: 1000000", "Transfer-Encoding: chunked"] {
        let mut client = ask(&running, "/");
        let mut request = stage.next();
        request.begin(&format!("HTTP/1.1 200 OK\r\n{head}\r\n\r\n"));
        let mut first = [0; 8];
        client.read_exact(&mut first).unwrap();
        assert_eq!(&first, b"HTTP/1.1");
        request.close();
    }
}
