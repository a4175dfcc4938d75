//! A dispatcher whose workers all break hands requests back, and the balancer
//! in front tries another pod.

use std::io::Write;

use scaledapp_proxy::{Config, Endpoint, Limits};

use crate::peers::{OK, Running, Stage, ask, read_all, start, start_with};

const SAYS: &str = "\r\nScaledapp-Not-Executed: retry\r\n";
const HANDED_BACK: &str =
    "HTTP/1.1 502 Bad Gateway\r\nScaledapp-Not-Executed: retry\r\nContent-Length: 0\r\n\r\n";

/// A dispatcher in front of a worker that the test plays.
fn dispatcher(worker: &Stage, attempts: u32) -> Running {
    let config = Config::dispatcher();
    let limits = Limits {
        attempts,
        ..config.limits
    };
    start_with(vec![worker.endpoint()], Config { limits, ..config })
}

fn post(running: &Running, body: &str) -> String {
    let length = body.len();
    running.send(
        format!("POST / HTTP/1.0\r\nHost: a\r\nContent-Length: {length}\r\n\r\n{body}").as_bytes(),
    )
}

#[test]
fn only_what_may_be_repeated_is_handed_back() {
    let worker = Stage::open();
    let running = dispatcher(&worker, 2);
    let mut client = ask(&running, "/");
    for _ in 0..2 {
        drop(worker.next());
    }
    let answer = read_all(&mut client);
    assert!(
        answer.starts_with("HTTP/1.1 502 ") && answer.contains(SAYS),
        "{answer}"
    );
    // A byte of an answer was there.
    let mut client = ask(&running, "/");
    let mut request = worker.next();
    request.begin("HTTP/1.1 200");
    request.close();
    let answer = read_all(&mut client);
    assert!(
        answer.starts_with("HTTP/1.1 502 ") && !answer.contains(SAYS),
        "{answer}"
    );
    // It may have been carried out.
    std::thread::scope(|scope| {
        let client = scope.spawn(|| post(&running, "x"));
        drop(worker.next());
        let answer = client.join().unwrap();
        assert!(
            answer.starts_with("HTTP/1.1 502 ") && !answer.contains(SAYS),
            "{answer}"
        );
    });
    // An app's own word is not ours.
    let mut client = ask(&running, "/");
    worker.next().answer(HANDED_BACK);
    let answer = read_all(&mut client);
    assert!(
        answer.starts_with("HTTP/1.1 502 ") && !answer.contains(SAYS),
        "{answer}"
    );
}

#[test]
fn a_pod_whose_workers_break_costs_no_request_while_another_serves() {
    let (bad, good) = (Stage::open(), Stage::open());
    let pods = [dispatcher(&bad, 1), dispatcher(&good, 1)];
    let endpoints = pods
        .iter()
        .map(|pod| Endpoint::new("pod", pod.address))
        .collect();
    let balancer = start(endpoints, Limits::default());
    let mut repeated = 0;
    while repeated < 3 {
        let mut client = ask(&balancer, "/");
        let request = loop {
            if let Ok(request) = bad.requests.try_recv() {
                drop(request);
                repeated += 1;
            }
            if let Ok(request) = good.requests.try_recv() {
                break request;
            }
            std::thread::yield_now();
        };
        request.answer(OK);
        let answer = read_all(&mut client);
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    }
    assert!(balancer.counts("x_repeated_total 3"));
}

#[test]
fn a_request_is_handed_on_once_and_clients_never_see_it() {
    let pods = [Stage::open(), Stage::open(), Stage::open()];
    let endpoints = pods.iter().map(Stage::endpoint).collect();
    let balancer = start(endpoints, Limits::default());
    let mut client = ask(&balancer, "/");
    let mut handed_back = 0;
    while handed_back < 2 {
        for pod in &pods {
            if let Ok(request) = pod.requests.try_recv() {
                request.answer(HANDED_BACK);
                handed_back += 1;
            }
        }
        std::thread::yield_now();
    }
    let answer = read_all(&mut client);
    assert!(
        answer.starts_with("HTTP/1.1 502 ") && !answer.contains("Scaledapp"),
        "{answer}"
    );
    assert!(pods.iter().all(|pod| pod.requests.try_recv().is_err()));
    assert!(balancer.counts("x_repeated_total 1"));
    assert!(balancer.counts("x_failures_total{cause=\"handed_back\"} 1"));
}

#[test]
fn what_is_handed_back_goes_nowhere_if_it_must_not_or_cannot() {
    let pod = Stage::open();
    let balancer = start(vec![pod.endpoint()], Limits::default());
    // There is no other pod.
    let mut client = ask(&balancer, "/");
    pod.next().answer(HANDED_BACK);
    let answer = read_all(&mut client);
    assert!(
        answer.starts_with("HTTP/1.1 502 ") && !answer.contains("Scaledapp"),
        "{answer}"
    );
    let other = Stage::open();
    let balancer = start(vec![pod.endpoint(), other.endpoint()], Limits::default());
    let mut client = balancer.connect();
    client
        .write_all(b"POST / HTTP/1.0\r\nHost: a\r\nContent-Length: 0\r\n\r\n")
        .unwrap();
    let (asked, unasked) = loop {
        if let Ok(request) = pod.requests.try_recv() {
            break (request, &other);
        }
        if let Ok(request) = other.requests.try_recv() {
            break (request, &pod);
        }
        std::thread::yield_now();
    };
    asked.answer(HANDED_BACK);
    let answer = read_all(&mut client);
    assert!(answer.starts_with("HTTP/1.1 502 "), "{answer}");
    assert!(unasked.requests.try_recv().is_err());
    assert!(balancer.counts("x_repeated_total 0"));
}
