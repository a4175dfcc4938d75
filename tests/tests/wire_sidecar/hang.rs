//! A hung worker with Connection dispatch. The supervisor's module `silence` decides what counts as
//! hung, and has unit tests; these tests need processes and sockets.

use rustix::process::Signal;
use scaledapp_tests::http::{Connection, Request};
use scaledapp_tests::process::send;
use scaledapp_tests::sidecar::{Launch, Sidecar};
use scaledapp_tests::{fixtures, wait};

use crate::{SOON, has};

/// Opens a connection that the worker `pid` accepts, because the worker `other` is stopped.
fn connected(sidecar: &Sidecar, pid: u32, other: u32) -> Connection {
    send(other, Signal::STOP).unwrap();
    let mut connection = Connection::open(sidecar.address(), SOON * 3).unwrap();
    let answer = connection.send(&Request::get("/")).unwrap().json();
    send(other, Signal::CONT).unwrap();
    assert_eq!(answer["pid"], pid);
    connection
}

#[test]
fn a_hung_worker_is_killed_and_one_that_applies_back_pressure_is_not() {
    if !has("node") {
        return;
    }
    let options = [
        "--workers",
        "2",
        "--dispatch",
        "connection",
        "--hang-timeout",
        "1s",
    ];
    let launch = Launch::of(|port| fixtures::node("stuck.js", port)).unwrap();
    let mut sidecar = launch.with(&options).ready(2).unwrap();
    let pids = sidecar.pids().unwrap();
    let (waiting, hung) = (pids[0], pids[1]);

    // For six times the hang timeout the worker does not read the upload, but its event loop runs.
    let mut upload = connected(&sidecar, waiting, hung);
    let head = "POST /pause?ms=6000 HTTP/1.1\r\nHost: a\r\nContent-Length: 400000\r\n\r\n";
    upload.write(head.as_bytes()).unwrap();
    upload.write(&vec![b'x'; 400_000]).unwrap();

    let mut block = connected(&sidecar, hung, waiting);
    let head = "POST /block HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n";
    block.write(head.as_bytes()).unwrap();
    wait::until(SOON * 2, "the hung worker is replaced", || {
        // Writing fails once the buffers are full or the connection is reset.
        drop(block.write(b"more"));
        let now = sidecar.pids().map_err(|error| format!("{error:#}"))?;
        if now.contains(&hung) {
            return Err(format!("{now:?}\n{}", sidecar.process.stderr()));
        }
        Ok(())
    })
    .unwrap();
    sidecar.wait_ready(2).unwrap();
    assert!(sidecar.process.stderr().contains("no sign of life"));

    let answer = upload.read("POST").unwrap();
    assert_eq!(answer.json()["pid"], waiting);
    assert!(sidecar.pids().unwrap().contains(&waiting));
}
