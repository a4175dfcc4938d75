//! Clients that close their connection before the end of the answer: the app notices, and its capacity is free
//! again.

use std::time::Duration;

use scaledapp_tests::http::{Connection, Request};
use scaledapp_tests::sidecar::Launch;
use scaledapp_tests::{fixtures, wait};

use crate::{SOON, has};

#[test]
fn the_app_learns_of_clients_that_leave_and_its_capacity_is_free_again() {
    if !has("node") {
        return;
    }
    // The worker has its maximum of requests, and finishes none of their answers.
    let options = [
        "--workers",
        "1",
        "--max-in-flight",
        "2",
        "--half-close-timeout",
        "100ms",
    ];
    let launch = Launch::of(|port| fixtures::node("polls.js", port)).unwrap();
    let sidecar = launch.with(&options).ready(1).unwrap();
    let upload = "POST /upload HTTP/1.1\r\nHost: a\r\nContent-Length: 900000\r\n\r\nbegun";
    let requests = [
        "GET /poll HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /events HTTP/1.1\r\nHost: a\r\n\r\n",
        upload,
    ];
    let mut arrived = 0;
    for pair in [[0, 1], [1, 2]] {
        let mut clients = pair.map(|_| Connection::open(sidecar.address(), SOON).unwrap());
        for (client, at) in clients.iter_mut().zip(pair) {
            client.write(requests[at].as_bytes()).unwrap();
        }
        // A request is in flight once the dispatcher has chosen a worker for it. The app may not
        // have it yet.
        arrived += pair.len();
        wait::until(SOON, "both are at the app", || {
            let lines = sidecar.process.stdout();
            if lines.matches("arrived: ").count() == arrived {
                Ok(())
            } else {
                Err(lines)
            }
        })
        .unwrap();
        drop(clients);
        let mut client = Connection::open(sidecar.address(), SOON).unwrap();
        let answer = client.send(&Request::get("/left")).unwrap();
        assert_eq!(answer.status, 200);
    }
    let mut client = Connection::open(sidecar.address(), SOON).unwrap();
    wait::until(
        Duration::from_secs(10),
        "all are known to have left",
        || {
            let left = client
                .send(&Request::get("/left"))
                .map_err(|error| format!("{error:#}"))?;
            let mut left: Vec<String> = serde_json::from_value(left.json()).unwrap_or_default();
            left.sort();
            if left == ["/events", "/events", "/poll", "/upload"] {
                Ok(())
            } else {
                Err(format!("{left:?}"))
            }
        },
    )
    .unwrap();
}
