//! Connections that outlive a reload: a WebSocket with Request dispatch, a line protocol with
//! Connection dispatch. Their old worker serves them until they end, or until the stop grace or the
//! drain timeout is over.

use std::net::SocketAddr;

use scaledapp_tests::fixtures;
use scaledapp_tests::http::{Connection, Failure, Request};
use scaledapp_tests::sidecar::{Launch, Sidecar, ctl};

use crate::{SOON, fixture, has, words};

/// A key and the server's answer to it, from RFC 6455 section 1.3.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// The client of a WebSocket, for text shorter than 126 bytes.
struct WebSocket(Connection);

impl WebSocket {
    fn open(to: SocketAddr) -> Self {
        let mut connection = Connection::open(to, SOON).unwrap();
        let fields = [
            ("Connection", "Upgrade"),
            ("Upgrade", "websocket"),
            ("Sec-WebSocket-Version", "13"),
            ("Sec-WebSocket-Key", KEY),
        ];
        let response = connection.send(&Request::get("/").with(&fields)).unwrap();
        assert_eq!(response.status, 101, "{}", response.text());
        assert_eq!(response.field("sec-websocket-accept"), Some(ACCEPT));
        Self(connection)
    }

    fn frame(&mut self, opcode: u8, text: &str) -> Result<(), Failure> {
        let mask = [0x11, 0x22, 0x33, 0x44];
        let mut bytes = vec![0x80 | opcode, 0x80 | text.len() as u8];
        bytes.extend(mask);
        bytes.extend(
            text.bytes()
                .zip(mask.iter().cycle())
                .map(|(byte, mask)| byte ^ mask),
        );
        self.0.write(&bytes)
    }

    fn receive(&mut self) -> Result<(u8, String), Failure> {
        let head = self.0.read_bytes(2)?;
        let text = self.0.read_bytes(usize::from(head[1]))?;
        Ok((head[0] & 0x0f, String::from_utf8(text).unwrap()))
    }

    fn echoes(&mut self, text: &str) {
        self.frame(1, text).unwrap();
        assert_eq!(self.receive().unwrap(), (1, text.to_owned()));
    }
}

/// Reads a line.
fn line(connection: &mut Connection) -> Result<String, Failure> {
    let mut bytes = Vec::new();
    while !bytes.ends_with(b"\n") {
        bytes.extend(connection.read_bytes(1)?);
    }
    Ok(String::from_utf8(bytes).unwrap().trim().to_owned())
}

/// Runs a reload in a thread, which returns whether the reload succeeded.
fn reloading(sidecar: &Sidecar) -> std::thread::JoinHandle<bool> {
    let admin = sidecar.launch.admin;
    std::thread::spawn(move || ctl(admin, &["reload"]).is_ok_and(|ended| ended.code == 0))
}

/// Waits until the new generation serves while the old workers still run.
fn turned(sidecar: &Sidecar) {
    scaledapp_tests::wait::until(SOON, "new workers serve beside the old ones", || {
        let workers = sidecar.workers().map_err(|error| error.to_string())?;
        let newest = workers.iter().map(|worker| worker.generation).max();
        let new = |state: &str, generation| Some(generation) == newest && state == "Ready";
        let old = |state: &str, generation| {
            Some(generation) != newest && matches!(state, "Draining" | "Stopping")
        };
        let any = |is: &dyn Fn(&str, u64) -> bool| {
            workers
                .iter()
                .any(|worker| is(&worker.state, worker.generation))
        };
        if newest > Some(1) && any(&new) && any(&old) {
            Ok(())
        } else {
            Err(format!("{workers:?}"))
        }
    })
    .unwrap();
}

#[test]
fn a_websocket_stays_over_a_reload_until_it_closes() {
    if !has("node") {
        return;
    }
    let script = fixture("websocket.js");
    let launch = Launch::of(|port| words(&["node", &script, &port.to_string()])).unwrap();
    let sidecar = launch.with(&["--workers", "1"]).ready(1).unwrap();
    let mut socket = WebSocket::open(sidecar.address());
    let old = sidecar.pids().unwrap();
    assert_eq!(socket.receive().unwrap(), (1, old[0].to_string()));
    socket.echoes("before");
    let reload = reloading(&sidecar);
    turned(&sidecar);
    for round in 0..10 {
        socket.echoes(&format!("round {round}"));
    }
    // Meanwhile, a new WebSocket goes to the new worker.
    let mut fresh = WebSocket::open(sidecar.address());
    assert_ne!(fresh.receive().unwrap().1, old[0].to_string());
    assert!(!reload.is_finished(), "the reload waits for the socket");
    socket.frame(8, "").unwrap();
    assert_eq!(socket.receive().unwrap(), (8, String::new()));
    drop(socket);
    assert!(reload.join().unwrap());
    fresh.echoes("after");
}

#[test]
fn a_websocket_that_never_closes_ends_with_the_stop_grace() {
    if !has("node") {
        return;
    }
    let script = fixture("websocket.js");
    let launch = Launch::of(|port| words(&["node", &script, &port.to_string()])).unwrap();
    let options = ["--workers", "1", "--stop-grace", "1500ms"];
    let sidecar = launch.with(&options).ready(1).unwrap();
    let mut socket = WebSocket::open(sidecar.address());
    socket.receive().unwrap();
    let reload = reloading(&sidecar);
    turned(&sidecar);
    socket.echoes("still there");
    assert!(reload.join().unwrap());
    let end = socket.receive();
    assert!(
        matches!(end, Err(Failure::Truncated | Failure::Reset)),
        "{end:?}"
    );
    WebSocket::open(sidecar.address()).receive().unwrap();
}

#[test]
fn a_line_protocol_stays_over_a_reload_until_it_closes() {
    if !has("node") {
        return;
    }
    let launch = Launch::of(|port| fixtures::node("tcp-echo.js", port)).unwrap();
    let options = ["--workers", "2", "--dispatch", "connection"];
    let sidecar = launch.with(&options).ready(2).unwrap();
    let mut held = Connection::open(sidecar.address(), SOON).unwrap();
    let pid = line(&mut held).unwrap();
    let reload = reloading(&sidecar);
    turned(&sidecar);
    for round in 0..10 {
        held.write(format!("round {round}\n").as_bytes()).unwrap();
        assert_eq!(line(&mut held).unwrap(), format!("round {round}"));
    }
    let mut fresh = Connection::open(sidecar.address(), SOON).unwrap();
    assert_ne!(line(&mut fresh).unwrap(), pid);
    assert!(!reload.is_finished(), "the reload waits for the connection");
    drop(held);
    assert!(reload.join().unwrap());
    fresh.write(b"after\n").unwrap();
    assert_eq!(line(&mut fresh).unwrap(), "after");
}

#[test]
fn a_line_protocol_that_never_closes_ends_at_the_drain_timeout() {
    if !has("node") {
        return;
    }
    let launch = Launch::of(|port| fixtures::node("tcp-echo.js", port)).unwrap();
    let options = [
        "--workers",
        "1",
        "--dispatch",
        "connection",
        "--drain-timeout",
        "1500ms",
    ];
    let sidecar = launch.with(&options).ready(1).unwrap();
    let mut held = Connection::open(sidecar.address(), SOON).unwrap();
    line(&mut held).unwrap();
    let reload = reloading(&sidecar);
    turned(&sidecar);
    held.write(b"still there\n").unwrap();
    assert_eq!(line(&mut held).unwrap(), "still there");
    assert!(reload.join().unwrap());
    let end = line(&mut held);
    assert!(
        matches!(end, Err(Failure::Truncated | Failure::Reset)),
        "{end:?}"
    );
}
