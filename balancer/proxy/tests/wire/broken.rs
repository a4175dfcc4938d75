//! Answers that break off: a body without any other framing ends only with an orderly
//! close, for each version of clients and in both roles of the proxy.

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use scaledapp_proxy::{Config, Endpoint, Limits};

use crate::peers::{MOMENT, start, start_with};

/// How an upstream ends its connection.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    Orderly,
    Reset,
}

/// An upstream that sends this answer to every head, and then ends the connection.
pub(crate) fn ending(answer: &'static str, end: End) -> Arc<Endpoint> {
    scripted(move |mut stream| {
        head_of(&mut stream);
        stream.write_all(answer.as_bytes()).unwrap();
        if end == End::Reset {
            let at_once = Some(Duration::ZERO);
            socket2::SockRef::from(&stream).set_linger(at_once).unwrap();
        }
    })
}

/// An upstream that runs `act` for each connection.
pub(crate) fn scripted(act: impl Fn(TcpStream) + Send + Sync + 'static) -> Arc<Endpoint> {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let act = Arc::new(act);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let act = Arc::clone(&act);
            std::thread::spawn(move || act(stream));
        }
    });
    Endpoint::new("one", address)
}

/// Reads up to the end of a head and no further.
pub(crate) fn head_of(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        match stream.read(&mut byte) {
            Ok(1) => head.push(byte[0]),
            _ => break,
        }
    }
    String::from_utf8(head).unwrap()
}

/// Reads everything, and returns whether the end was an orderly close.
fn all(mut stream: &TcpStream) -> (String, bool) {
    let mut answer = Vec::new();
    let is_orderly = match stream.read_to_end(&mut answer) {
        Ok(_) => true,
        Err(error) if error.kind() == ErrorKind::ConnectionReset => false,
        Err(error) => panic!("{error}"),
    };
    (String::from_utf8(answer).unwrap(), is_orderly)
}

#[test]
fn only_an_orderly_close_ends_an_answer() {
    let rows = "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nrow\nrow\n";
    let length = "HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\nrow\nrow\n";
    let chunks = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n8\r\nrow\nrow\n\r\n";
    for (answer, end, is_whole) in [
        (rows, End::Orderly, true),
        (rows, End::Reset, false),
        (length, End::Orderly, false),
        (length, End::Reset, false),
        (chunks, End::Orderly, false),
        (chunks, End::Reset, false),
    ] {
        for config in [Config::dispatcher(), Config::balancer()] {
            let running = start_with(vec![ending(answer, end)], config);
            for version in ["1.0", "1.1"] {
                let mut client = running.connect();
                let head = format!("GET / HTTP/{version}\r\nHost: a\r\n\r\n");
                client.write_all(head.as_bytes()).unwrap();
                if is_whole && version == "1.1" {
                    client
                        .set_read_timeout(Some(Duration::from_secs(20)))
                        .unwrap();
                    let mut taken = head_of(&mut client);
                    while !taken.ends_with("0\r\n\r\n") {
                        taken += &head_of(&mut client);
                    }
                    continue;
                }
                let (taken, is_orderly) = all(&client);
                let name = format!("HTTP/{version}, {}, {answer}: {taken}", end == End::Reset);
                assert_eq!(is_orderly, is_whole, "{name}");
                assert!(!taken.ends_with("0\r\n\r\n"), "{name}");
            }
        }
    }
}

/// The kernel reports a reset only once. If a write has already failed with it, a later
/// read looks like an orderly end.
#[test]
fn a_reset_that_an_upload_has_met_is_not_an_orderly_end() {
    for _ in 0..10 {
        let upstream = scripted(|mut stream| {
            head_of(&mut stream);
            let begun = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nrow\n";
            stream.write_all(begun).unwrap();
            // Bytes of the upload are unread, so closing sends a reset.
            stream.peek(&mut [0]).unwrap();
        });
        let running = start(vec![upstream], Limits::default());
        let client = running.connect();
        let mut sending = client.try_clone().unwrap();
        let sender = std::thread::spawn(move || {
            let head = b"POST / HTTP/1.0\r\nHost: a\r\nContent-Length: 8000000\r\n\r\n";
            let sent = sending.write_all(head);
            sent.and_then(|()| sending.write_all(&vec![b'x'; 8_000_000]))
        });
        let (taken, is_orderly) = all(&client);
        // The answer may have been cut off before its head was read. The client's kernel
        // also reports a reset only once.
        let is_taken = sender.join().unwrap().is_ok();
        let is_ours = taken.starts_with("HTTP/1.1 502 ");
        assert!(is_ours || !(is_orderly && is_taken), "{taken}");
    }
}

/// An HTTP/1.0 client would take an orderly end for the end of the answer.
#[tokio::test]
async fn a_drain_that_cuts_an_answer_to_an_old_client_resets_it() {
    let upstream = scripted(|mut stream| {
        head_of(&mut stream);
        let begun = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nrow\r\n";
        stream.write_all(begun).unwrap();
        let _until_it_ends = stream.read(&mut [0; 8]);
    });
    let running = start(vec![upstream], Limits::default());
    let mut client = running.connect();
    client
        .write_all(b"GET / HTTP/1.0\r\nHost: a\r\n\r\n")
        .unwrap();
    let head = head_of(&mut client);
    assert!(head.contains("Connection: close\r\n"), "{head}");
    running
        .proxy
        .drain(Duration::ZERO, Duration::ZERO, MOMENT * 2);
    running.proxy.drained().await;
    let (_, is_orderly) = all(&client);
    assert!(!is_orderly);
}
