//! What happens to connections when memory is short.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use scaledapp_proxy::{Config, Limits};

use crate::peers::{GET, OK, Running, read_all, short, start_with, until, upstream};

const CLOSE: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";

/// A proxy with `memory` bytes for connections.
fn tight(memory: u64, limits: Limits) -> Running {
    start_with(
        vec![upstream(OK, Duration::ZERO)],
        Config {
            memory: Some(memory),
            fits_connections: false,
            limits,
            ..Config::dispatcher()
        },
    )
}

/// A client that has sent `bytes` of a body that the proxy keeps until it is complete.
fn stalled(running: &Running, bytes: usize) -> TcpStream {
    let mut stream = running.connect();
    let head = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 65000\r\n\r\n";
    stream.write_all(head.as_bytes()).unwrap();
    // The connection may have been ended already.
    drop(stream.write_all(&vec![b'x'; bytes]));
    stream
}

#[test]
fn stalled_uploads_end_before_memory_runs_out_and_requests_are_answered() {
    let running = tight(4 << 20, Limits::default());
    let mut kept = running.connect();
    kept.write_all(GET).unwrap();
    kept.read_exact(&mut [0; OK.len()]).unwrap();
    let mut uploads: Vec<_> = (0..200).map(|_| stalled(&running, 60_000)).collect();
    until("the largest end", || {
        running.value("x_memory_largest_ended_total") > 20
    });
    until("there is room again", || {
        running.send(CLOSE).ends_with("ok")
    });
    assert!(
        running.value("x_memory_idle_ended_total") > 0,
        "idle ones end first"
    );
    assert_eq!(read_all(&mut kept), "");
    // Clients of connections that are ended receive the reason.
    let mut told = 0;
    for upload in &mut uploads {
        upload
            .set_read_timeout(Some(Duration::from_millis(1)))
            .unwrap();
        let mut first = [0; 12];
        told += u32::from(
            upload
                .read(&mut first)
                .is_ok_and(|_| &first == b"HTTP/1.1 503"),
        );
    }
    assert!(told > 0);
}

#[test]
fn requests_are_not_kept_while_memory_is_tight() {
    // The proxy keeps a short body until it is complete, because a slow client would otherwise
    // block a worker.
    let running = tight(1 << 20, short(|limits| limits.replay_bytes = 64 << 10));
    let held: Vec<_> = (0..12).map(|_| stalled(&running, 60_000)).collect();
    until("memory is tight", || {
        drop(running.send(CLOSE));
        running.value("x_memory_unkept_requests_total") > 0
    });
    drop(held);
    until("it is as before", || {
        let before = running.value("x_memory_unkept_requests_total");
        running.send(CLOSE).ends_with("ok")
            && running.value("x_memory_unkept_requests_total") == before
    });
}
