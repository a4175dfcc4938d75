//! Upgraded connections end with the close frame that the app sends on the stop signal. Clients get
//! the code 1001 (going away, RFC 6455 section 7.4.1), and never a broken connection.

use std::net::SocketAddr;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use scaledapp_tests::http::{self, Connection, Failure, Request};
use scaledapp_tests::sidecar::{Launch, Sidecar};
use scaledapp_tests::{balancer, fixtures};

use crate::{SOON, has};

/// The drain time-out, which is much longer than everything here that does not wait for a drain.
const DRAIN: Duration = Duration::from_secs(40);
/// The server's close frame with code 1001.
const GOING_AWAY: [u8; 4] = [0x88, 2, 0x03, 0xe9];
/// A masked text frame with "hi" from a client, and the echo of the server.
const HI: [u8; 8] = [0x81, 0x82, 0, 0, 0, 0, b'h', b'i'];
const HI_BACK: [u8; 4] = [0x81, 2, b'h', b'i'];
/// A client's answer to the close frame.
const CLOSE: [u8; 8] = [0x88, 0x82, 0, 0, 0, 0, 0x03, 0xe9];

/// Opens a WebSocket and checks that it works.
fn open(to: SocketAddr) -> Connection {
    let mut socket = Connection::open(to, DRAIN * 2).unwrap();
    let upgrade = Request::get("/").with(&[
        ("Connection", "Upgrade"),
        ("Upgrade", "websocket"),
        ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ("Sec-WebSocket-Version", "13"),
    ]);
    assert_eq!(socket.send(&upgrade).unwrap().status, 101);
    socket.write(&HI).unwrap();
    assert_eq!(socket.read_bytes(HI_BACK.len()).unwrap(), HI_BACK);
    socket
}

/// Receives the result of each client's connection: its last bytes or its failure.
struct Clients(mpsc::Receiver<Result<Vec<u8>, Failure>>);

impl Clients {
    fn open(number: usize, to: SocketAddr) -> Self {
        let (tell, told) = mpsc::channel();
        for _ in 0..number {
            let tell = tell.clone();
            let mut socket = open(to);
            std::thread::spawn(move || {
                let ended = socket.read_bytes(GOING_AWAY.len());
                if ended.is_ok() {
                    // The app may have ended in the meantime.
                    let _gone = socket.write(&CLOSE);
                }
                tell.send(ended)
            });
        }
        Self(told)
    }

    fn are_told(&self, number: usize) {
        for _ in 0..number {
            let ended = self.0.recv_timeout(DRAIN).unwrap();
            assert_eq!(ended.unwrap(), GOING_AWAY);
        }
    }

    fn are_left_alone(&self) {
        assert!(
            self.0.try_recv().is_err(),
            "a worker that stays keeps its clients"
        );
    }
}

fn start(options: &[&str]) -> Sidecar {
    let launch = Launch::of(|port| fixtures::node("websocket.js", port)).unwrap();
    let launch = launch.with(&["--workers", "2", "--drain-quiet", "200ms"]);
    launch.with(options).ready(2).unwrap()
}

/// Opens four connections, performs an action that ends `ended` of them, and stops everything.
fn story(sidecar: &mut Sidecar, to: SocketAddr, ended: usize, what: impl FnOnce(&Sidecar)) {
    let clients = Clients::open(4, to);
    let begun = Instant::now();
    what(sidecar);
    clients.are_told(ended);
    clients.are_left_alone();
    sidecar.process.signal(Signal::TERM).unwrap();
    clients.are_told(4 - ended);
    assert_eq!(sidecar.process.wait(DRAIN).unwrap().code, 0);
    assert!(
        begun.elapsed() < DRAIN,
        "it waited for a drain: {:?}",
        begun.elapsed()
    );
}

/// Starts a supervisor whose drain time-out is so long that a test would notice waiting for it.
fn unhurried(options: &[&str]) -> Sidecar {
    let drain = format!("{}s", DRAIN.as_secs());
    let mut all = vec!["--drain-timeout", &drain];
    all.extend(options);
    start(&all)
}

#[test]
fn a_reload_closes_all_websockets_without_waiting_for_a_drain() {
    if !has("node") {
        return;
    }
    let mut sidecar = unhurried(&[]);
    let to = sidecar.address();
    story(&mut sidecar, to, 4, |sidecar| {
        sidecar.ctl_done(&["reload"]).unwrap();
    });
}

#[test]
fn a_leaving_worker_closes_its_own_websockets() {
    if !has("node") {
        return;
    }
    for words in [&["restart", "1"], &["scale", "1"]] {
        let mut sidecar = unhurried(&[]);
        let to = sidecar.address();
        story(&mut sidecar, to, 2, |sidecar| {
            sidecar.ctl_done(words).unwrap();
        });
    }
}

#[test]
fn a_recycled_worker_closes_its_own_websockets() {
    if !has("node") {
        return;
    }
    let mut sidecar = unhurried(&["--max-requests", "200", "--recycle-jitter", "0"]);
    let to = sidecar.address();
    let clients = Clients::open(4, to);
    let mut load = Connection::open(to, SOON).unwrap();
    let begun = Instant::now();
    let mut told = 0;
    // After 200 requests a worker is recycled, which ends the connections of its two clients.
    while told < 2 {
        assert!(begun.elapsed() < DRAIN, "no worker is recycled");
        if !load.is_reusable() {
            load = Connection::open(to, SOON).unwrap();
        }
        assert_eq!(load.send(&Request::get("/")).unwrap().status, 200);
        if let Ok(ended) = clients.0.try_recv() {
            assert_eq!(ended.unwrap(), GOING_AWAY);
            told += 1;
        }
    }
    sidecar.process.signal(Signal::TERM).unwrap();
    clients.are_told(2);
    assert_eq!(sidecar.process.wait(DRAIN).unwrap().code, 0);
}

#[test]
fn requests_in_flight_are_answered_before_the_signal() {
    if !has("node") {
        return;
    }
    let mut sidecar = unhurried(&[]);
    let to = sidecar.address();
    story(&mut sidecar, to, 4, |sidecar| {
        let slow: Vec<_> = (0..4)
            .map(|_| std::thread::spawn(move || http::get(to, "/slow")))
            .collect();
        sidecar.ctl_done(&["reload"]).unwrap();
        for one in slow {
            assert_eq!(one.join().unwrap().unwrap().status, 200);
        }
    });
}

#[test]
fn with_connection_dispatch_websockets_close_at_the_end_of_one_drain() {
    if !has("node") {
        return;
    }
    for words in [&["reload"][..], &["restart", "1"], &["scale", "1"]] {
        let mut sidecar = start(&["--dispatch", "connection", "--drain-timeout", "1s"]);
        let clients = Clients::open(4, sidecar.address());
        sidecar.ctl_done(words).unwrap();
        sidecar.process.signal(Signal::TERM).unwrap();
        // The kernel decides how many connections each worker gets.
        clients.are_told(4);
        assert_eq!(sidecar.process.wait(DRAIN).unwrap().code, 0);
    }
}

#[test]
fn with_connection_dispatch_a_recycled_worker_closes_its_own_websockets() {
    if !has("node") {
        return;
    }
    let mut sidecar = start(&[
        "--dispatch",
        "connection",
        "--max-age",
        "1s",
        "--recycle-jitter",
        "0",
        "--drain-timeout",
        "1s",
    ]);
    let begun = Instant::now();
    let clients = Clients::open(4, sidecar.address());
    let connect = || drop(open(sidecar.address()));
    // During this time, other connections open and close.
    while begun.elapsed() < Duration::from_secs(2) {
        connect();
        std::thread::sleep(Duration::from_millis(20));
    }
    clients.are_told(4);
    let events = sidecar.ctl_done(&["events"]).unwrap();
    assert!(events.contains("MaxAge"), "{events}");
    sidecar.process.signal(Signal::TERM).unwrap();
    assert_eq!(sidecar.process.wait(DRAIN).unwrap().code, 0);
}

#[test]
fn websockets_close_through_a_balancer_too() {
    if !has("node") {
        return;
    }
    let mut sidecar = unhurried(&[]);
    let balancer = balancer::Launch::to(&[sidecar.address()]).unwrap();
    let balancer = balancer.ready().unwrap();
    story(&mut sidecar, balancer.address(), 4, |sidecar| {
        sidecar.ctl_done(&["reload"]).unwrap();
    });
}

#[test]
fn an_app_that_ignores_the_signal_keeps_websockets_until_the_grace_is_over() {
    if !has("node") {
        return;
    }
    let launch = Launch::of(|port| {
        let mut command = fixtures::node("websocket.js", port);
        command.push("stay".to_owned());
        command
    })
    .unwrap();
    let options = ["--workers", "1", "--stop-grace", "2s"];
    let mut sidecar = launch.with(&options).ready(1).unwrap();
    let mut socket = open(sidecar.address());
    let pid = sidecar.pids().unwrap()[0];
    let reload = {
        let admin = sidecar.launch.admin;
        std::thread::spawn(move || scaledapp_tests::sidecar::ctl(admin, &["reload"]))
    };
    scaledapp_tests::wait::until_true(SOON, "the old worker has got the signal", || {
        let workers = sidecar.workers().unwrap();
        workers
            .iter()
            .any(|worker| worker.pid == pid && worker.state == "Stopping")
    })
    .unwrap();
    socket.write(&HI).unwrap();
    assert_eq!(socket.read_bytes(HI_BACK.len()).unwrap(), HI_BACK);
    assert_eq!(socket.read_to_close().unwrap(), b"");
    assert_eq!(reload.join().unwrap().unwrap().code, 0);
    sidecar.wait_ready(1).unwrap();
}
