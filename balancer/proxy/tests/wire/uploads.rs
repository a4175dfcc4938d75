//! Answers that come before the whole request has been sent: the client can read them.
//! Also, bytes that are sent before an upgrade arrive before those that are sent after it.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use scaledapp_proxy::Config;

use crate::broken::{head_of, scripted};
use crate::peers::{MOMENT, OK, short, start, start_with, upstream};

const SIZE: usize = 20 << 20;

/// Sends an entire upload, and only then reads the answer.
fn upload(client: &mut TcpStream, fields: &str, body: &[u8]) -> String {
    let head = format!("POST /up HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
    client.write_all(head.as_bytes()).unwrap();
    client.write_all(body).unwrap();
    head_of(client)
}

#[test]
fn a_client_that_sends_everything_first_can_read_its_early_answer() {
    let short = "HTTP/1.1 413 Content Too Large\r\nContent-Length: 9\r\n\r\ntoo large";
    let body = "x".repeat(8 << 20);
    let long = format!("HTTP/1.1 413 Content Too Large\r\nContent-Length: 8388608\r\n\r\n{body}");
    // The server may read the rest of the upload, as Node does; leave it unread, as most
    // servers do; or close immediately, which sends a reset.
    for (answer, takes_the_rest, stays) in [
        (short.to_owned(), true, true),
        (short.to_owned(), false, true),
        (short.to_owned(), false, false),
        (long, false, true),
    ] {
        for config in [Config::dispatcher(), Config::balancer()] {
            let answer = answer.clone();
            let upstream = scripted(move |mut stream| {
                head_of(&mut stream);
                if stream.write_all(answer.as_bytes()).is_err() || !stays {
                    return;
                }
                let mut bytes = vec![0; 1 << 16];
                while takes_the_rest && stream.read(&mut bytes).is_ok_and(|read| read > 0) {}
                std::thread::sleep(Duration::from_secs(20));
            });
            let running = start_with(vec![upstream], config);
            let mut client = running.connect();
            let fields = format!("Content-Length: {SIZE}\r\n");
            let head = upload(&mut client, &fields, &vec![b'x'; SIZE]);
            assert!(head.starts_with("HTTP/1.1 413 "), "{head}");
        }
    }
}

#[test]
fn a_client_that_is_refused_can_read_its_early_answer() {
    let body = vec![b'x'; SIZE];
    for config in [Config::dispatcher(), Config::balancer()] {
        let mut config = config;
        config.limits.waiting = 0;
        let running = start_with(Vec::new(), config);
        for (fields, status) in [
            (format!("Content-Length: {SIZE}\r\n"), "503"),
            (
                "Content-Length: 5\r\nContent-Length: 6\r\n".to_owned(),
                "400",
            ),
            ("Transfer-Encoding: chunked\r\n".to_owned(), "400"),
            (format!("X: {}\r\n", "x".repeat(70_000)), "431"),
        ] {
            let mut client = running.connect();
            let head = upload(&mut client, &fields, &body);
            assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{head}");
        }
    }
}

#[test]
fn a_request_with_a_body_can_ask_for_another_protocol() {
    let ask = "POST /exec HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n";
    for fields in ["Content-Length: 6\r\n", "Transfer-Encoding: chunked\r\n"] {
        let is_chunked = fields.starts_with('T');
        let upstream = scripted(move |mut stream| {
            let head = head_of(&mut stream);
            assert!(head.contains("Upgrade: tcp\r\n"), "{head}");
            // The server has not received the whole body, so the rest still comes first,
            // framed as before.
            let answer = "HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n";
            stream.write_all(answer.as_bytes()).unwrap();
            let body = if is_chunked {
                "3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n"
            } else {
                "onetwo"
            };
            let mut taken = vec![0; body.len()];
            stream.read_exact(&mut taken).unwrap();
            assert_eq!(taken, body.as_bytes());
            std::io::copy(&mut stream.try_clone().unwrap(), &mut stream).unwrap();
        });
        for config in [Config::dispatcher(), Config::balancer()] {
            let running = start_with(vec![upstream.clone()], config);
            let mut client = running.connect();
            let parts = if is_chunked {
                ["3\r\none\r\n", "3\r\ntwo\r\n0\r\n\r\nping"]
            } else {
                ["one", "twoping"]
            };
            write!(client, "{ask}{fields}\r\n{}", parts[0]).unwrap();
            let head = head_of(&mut client);
            assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
            client.write_all(parts[1].as_bytes()).unwrap();
            let mut echo = [0; 4];
            client.read_exact(&mut echo).unwrap();
            assert_eq!(&echo, b"ping");
        }
    }
}

#[test]
fn a_line_end_after_a_body_is_not_the_start_of_a_request() {
    let limits = short(|limits| limits.head_time = MOMENT);
    let running = start(vec![upstream(OK, Duration::ZERO)], limits);
    let mut client = running.connect();
    let post = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx\r\n";
    client.write_all(post).unwrap();
    let mut answer = [0; OK.len()];
    client.read_exact(&mut answer).unwrap();
    // A 408 here would be taken for the next answer.
    client.set_read_timeout(Some(MOMENT * 4)).unwrap();
    let error = client.read(&mut [0]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WouldBlock);
    client
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    client.write_all(post).unwrap();
    client.read_exact(&mut answer).unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 200 "));
}
