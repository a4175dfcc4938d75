//! The last answer of a connection, which is sent together with the end of the connection.

use std::io::{Read, Write};
use std::time::Duration;

use crate::peers::{ask, read_all, start, upstream};
use scaledapp_proxy::Limits;

/// An upstream's complete answer with a body of `length` bytes.
fn answer(length: usize) -> &'static str {
    let body = "x".repeat(length);
    let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{body}");
    Box::leak(answer.into_boxed_str())
}

fn is_whole(answer: &str, length: usize) -> bool {
    let body = answer.split_once("\r\n\r\n").map(|(_, body)| body);
    body.is_some_and(|body| body.len() == length && body.bytes().all(|byte| byte == b'x'))
}

#[test]
fn it_is_complete_whatever_its_length() {
    // Around the size of a segment of loopback and of Ethernet, and of a buffer.
    for length in [0, 1, 1_448, 16_384, 65_483, 65_536, 300_000] {
        let running = start(
            vec![upstream(answer(length), Duration::ZERO)],
            Limits::default(),
        );
        for _ in 0..20 {
            let answer = read_all(&mut ask(&running, "/"));
            assert!(is_whole(&answer, length), "{length}: {}", answer.len());
        }
    }
}

#[test]
fn it_is_complete_for_a_client_that_reads_late() {
    const LENGTH: usize = 8 << 20;
    let running = start(
        vec![upstream(answer(LENGTH), Duration::ZERO)],
        Limits::default(),
    );
    let mut client = ask(&running, "/");
    let mut first = [0; 1];
    client.read_exact(&mut first).unwrap();
    // By the time another request is served, the buffers in between are full.
    assert!(is_whole(&read_all(&mut ask(&running, "/")), LENGTH));
    let rest = read_all(&mut client);
    assert!(is_whole(&rest, LENGTH), "{}", rest.len());
}

#[test]
fn it_is_complete_for_a_client_that_sends_more_than_it_should() {
    let running = start(
        vec![upstream(answer(1_000), Duration::from_millis(1))],
        Limits::default(),
    );
    for more in 0..200 {
        let mut client = ask(&running, "/");
        // The moment at which the extra bytes arrive must not matter.
        drop(client.write_all(&vec![b'\n'; more * 10]));
        let answer = read_all(&mut client);
        assert!(is_whole(&answer, 1_000), "{more}: {}", answer.len());
    }
}
