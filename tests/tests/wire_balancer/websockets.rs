//! Clients of `WebSockets` on a balancer that stops: each gets a close frame between two frames, at a
//! time of its own, and the server gets one as well.

use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use scaledapp_tests::balancer::{Balancer, Launch};
use scaledapp_tests::http::{Connection, Failure, Request};
use scaledapp_tests::upstream::Upstream;
use scaledapp_tests::wait;

use crate::SOON;

/// The server's close frame with code 1001, and that of a client.
const GOING_AWAY: [u8; 4] = [0x88, 2, 0x03, 0xe9];
const CLOSE: [u8; 8] = [0x88, 0x82, 0, 0, 0, 0, 0x03, 0xe9];

/// A server that upgrades, sends `first`, then everything that it gets from `more`, and remembers
/// what clients have sent.
fn server(
    protocol: &'static str,
    first: &'static [u8],
    more: mpsc::Receiver<&'static [u8]>,
) -> (Upstream, Arc<Mutex<Vec<Vec<u8>>>>) {
    let received = Arc::<Mutex<Vec<Vec<u8>>>>::default();
    let shared = Arc::clone(&received);
    let more = Mutex::new(more);
    let upstream = Upstream::start(move |mut peer| {
        if peer.read_head().is_none() {
            return;
        }
        let head = format!(
            "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: {protocol}\r\n\r\n"
        );
        peer.write(head.as_bytes());
        peer.write(first);
        for piece in more.lock().unwrap().iter() {
            peer.write(piece);
        }
        let all = peer.read_to_close();
        shared.lock().unwrap().push(all);
    });
    (upstream.unwrap(), received)
}

fn balancer(upstream: &Upstream, drain: &str) -> Balancer {
    let launch = Launch::to(&[upstream.address()]).unwrap();
    let options = [
        "--drain-min",
        "0s",
        "--drain-quiet",
        "100ms",
        "--drain-timeout",
        drain,
    ];
    launch.with(&options).ready().unwrap()
}

fn open(balancer: &Balancer, protocol: &str) -> Connection {
    let mut socket = Connection::open(balancer.address(), SOON).unwrap();
    let fields = [("Connection", "Upgrade"), ("Upgrade", protocol)];
    assert_eq!(
        socket
            .send(&Request::get("/").with(&fields))
            .unwrap()
            .status,
        101
    );
    socket
}

fn closed() -> mpsc::Receiver<&'static [u8]> {
    mpsc::channel().1
}

#[test]
fn clients_are_told_one_after_the_other_and_the_server_hears_from_them() {
    let (upstream, received) = server("websocket", b"\x81\x02hi", closed());
    let mut balancer = balancer(&upstream, "9s");
    let sockets: Vec<Connection> = (0..12).map(|_| open(&balancer, "websocket")).collect();
    let begun = Instant::now();
    balancer.process.signal(Signal::TERM).unwrap();
    let told: Vec<Duration> = std::thread::scope(|scope| {
        let clients: Vec<_> = sockets
            .into_iter()
            .map(|mut socket| {
                scope.spawn(move || {
                    assert_eq!(socket.read_bytes(4).unwrap(), *b"\x81\x02hi");
                    assert_eq!(socket.read_bytes(4).unwrap(), GOING_AWAY);
                    let told = begun.elapsed();
                    socket.write(&CLOSE).unwrap();
                    assert_eq!(socket.read_to_close().unwrap(), b"");
                    told
                })
            })
            .collect();
        clients
            .into_iter()
            .map(|client| client.join().unwrap())
            .collect()
    });
    let (first, last) = (told.iter().min().unwrap(), told.iter().max().unwrap());
    assert!(*last < Duration::from_secs(7), "{told:?}");
    assert!(
        last.saturating_sub(*first) > Duration::from_millis(500),
        "{told:?}"
    );
    assert_eq!(balancer.process.wait(SOON).unwrap().code, 0);
    let all = || {
        let received = received.lock().unwrap();
        let is_closed = |bytes: &Vec<u8>| bytes.as_slice() == CLOSE;
        if received.len() == 12 && received.iter().all(is_closed) {
            Ok(())
        } else {
            Err(format!("{received:?}"))
        }
    };
    wait::until(SOON, "the server has a close frame of each client", all).unwrap();
}

#[test]
fn a_frame_is_never_cut_and_the_balancer_sends_the_close_frame_of_a_silent_client() {
    let (send, more) = mpsc::channel();
    let (upstream, received) = server("websocket", b"\x82\x04ab", more);
    let mut balancer = balancer(&upstream, "8s");
    let mut socket = open(&balancer, "websocket");
    assert_eq!(socket.read_bytes(4).unwrap(), *b"\x82\x04ab");
    balancer.process.signal(Signal::TERM).unwrap();
    std::thread::sleep(Duration::from_secs(4));
    send.send(&b"cd\x81\x01x"[..]).unwrap();
    drop(send);
    // The frame is completed. Whether the next frame still passes depends on whether the server's
    // bytes arrive together.
    assert_eq!(socket.read_bytes(2).unwrap(), *b"cd");
    let rest = socket.read_to_close().unwrap();
    assert!(rest.ends_with(&GOING_AWAY), "{rest:?}");
    assert!(
        rest == GOING_AWAY || rest.starts_with(b"\x81\x01x"),
        "{rest:?}"
    );
    balancer.process.wait(SOON).unwrap();
    let all = || match received.lock().unwrap().as_slice() {
        [bytes] if *bytes == CLOSE => Ok(()),
        other => Err(format!("{other:?}")),
    };
    wait::until(SOON, "the server has a close frame", all).unwrap();
}

#[test]
fn a_server_that_sends_all_the_time_is_interrupted_between_two_frames() {
    const FRAME: usize = 4 + 3000;
    let upstream = Upstream::start(|mut peer| {
        if peer.read_head().is_none() {
            return;
        }
        let mut bytes = Vec::from(
            *b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
        );
        loop {
            if !peer.write(&bytes) {
                return;
            }
            bytes = vec![0x82, 126];
            bytes.extend_from_slice(&3000_u16.to_be_bytes());
            bytes.resize(FRAME, 0);
            std::thread::sleep(Duration::from_millis(1));
        }
    })
    .unwrap();
    let balancer = balancer(&upstream, "8s");
    let mut socket = open(&balancer, "websocket");
    balancer.process.signal(Signal::TERM).unwrap();
    let all = socket.read_to_close().unwrap();
    assert!(all.ends_with(&GOING_AWAY), "{:?}", &all[all.len() - 8..]);
    assert_eq!((all.len() - GOING_AWAY.len()) % FRAME, 0, "{}", all.len());
}

#[test]
fn what_is_no_websocket_gets_no_frame() {
    let (upstream, _) = server("echo", b"hi", closed());
    let balancer = balancer(&upstream, "6s");
    let mut socket = open(&balancer, "echo");
    assert_eq!(socket.read_bytes(2).unwrap(), *b"hi");
    balancer.process.signal(Signal::TERM).unwrap();
    let rest: Result<Vec<u8>, Failure> = socket.read_to_close();
    assert!(rest.unwrap_or_default().is_empty());
}
