//! A dispatcher whose workers all break off hands requests back, and the balancer in front
//! tries another pod.

use std::io::Write;

use scaledapp_proxy::{Config, EndedBy, Endpoint, Limits};

use crate::peers::{OK, Request, Running, Stage, ask, read_all, start, start_with};

const SAYS: &str = "\r\nScaledapp-Interrupted: retry\r\n";
const HANDED_BACK: &str =
    "HTTP/1.1 502 Bad Gateway\r\nScaledapp-Interrupted: retry\r\nContent-Length: 0\r\n\r\n";
/// As [`HANDED_BACK`], from a dispatcher of the previous version.
const OLD_HANDED_BACK: &str =
    "HTTP/1.1 502 Bad Gateway\r\nScaledapp-Not-Executed: retry\r\nContent-Length: 0\r\n\r\n";

/// A dispatcher in front of a worker that the test plays. The cause of the worker's end is
/// never the request.
fn dispatcher(worker: &Stage, attempts: u32) -> Running {
    let config = Config::dispatcher();
    let limits = Limits {
        attempts,
        ..config.limits
    };
    let endpoint = worker.process(false, Some(EndedBy::Other));
    start_with(vec![endpoint], Config { limits, ..config })
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
    // A part of an answer had already arrived.
    let mut client = ask(&running, "/");
    let mut request = worker.next();
    request.begin("HTTP/1.1 200");
    request.close();
    let answer = read_all(&mut client);
    assert!(
        answer.starts_with("HTTP/1.1 502 ") && !answer.contains("Scaledapp"),
        "{answer}"
    );
    // The POST may have been executed.
    std::thread::scope(|scope| {
        let client = scope.spawn(|| post(&running, "x"));
        drop(worker.next());
        let answer = client.join().unwrap();
        assert!(
            answer.starts_with("HTTP/1.1 502 ") && !answer.contains("Scaledapp"),
            "{answer}"
        );
    });
    // `Scaledapp-Interrupted` from an app is not believed.
    let mut client = ask(&running, "/");
    worker.next().answer(HANDED_BACK);
    let answer = read_all(&mut client);
    assert!(
        answer.starts_with("HTTP/1.1 502 ") && !answer.contains("Scaledapp"),
        "{answer}"
    );
}

#[test]
fn a_pod_whose_workers_break_costs_no_request_while_another_serves() {
    let (bad, good) = (Stage::open(), Stage::open());
    let pods = [dispatcher(&bad, 1), dispatcher(&good, 1)];
    let endpoints = pods
        .iter()
        .map(|pod| {
            let endpoint = Endpoint::new("pod", pod.address);
            endpoint.set_hands_back(true);
            endpoint
        })
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
fn a_request_is_handed_back_once_and_clients_never_see_it() {
    let pods = [Stage::open(), Stage::open(), Stage::open()];
    let endpoints = pods.iter().map(Stage::pod).collect();
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
fn a_request_that_is_handed_back_is_repeated_only_if_that_is_allowed_and_possible() {
    let pod = Stage::open();
    let balancer = start(vec![pod.pod()], Limits::default());
    // There is no other pod.
    let mut client = ask(&balancer, "/");
    pod.next().answer(HANDED_BACK);
    let answer = read_all(&mut client);
    assert!(
        answer.starts_with("HTTP/1.1 502 ") && !answer.contains("Scaledapp"),
        "{answer}"
    );
    let other = Stage::open();
    let balancer = start(vec![pod.pod(), other.pod()], Limits::default());
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

#[test]
fn an_app_cannot_hand_a_request_back() {
    for (answer, is_pod) in [
        (HANDED_BACK, false),
        (OLD_HANDED_BACK, false),
        // In a pod, the app's dispatcher never passes the field on.
        (HANDED_BACK, true),
    ] {
        let apps = [Stage::open(), Stage::open()];
        let endpoints = apps.iter().map(Stage::endpoint).collect();
        let running = if is_pod {
            start_with(endpoints, Config::dispatcher())
        } else {
            start(endpoints, Limits::default())
        };
        let mut client = ask(&running, "/");
        let asked = loop {
            if let Some(request) = apps.iter().find_map(|app| app.requests.try_recv().ok()) {
                break request;
            }
            std::thread::yield_now();
        };
        asked.answer(answer);
        let answer = read_all(&mut client);
        assert!(
            answer.starts_with("HTTP/1.1 502 ") && !answer.contains("Scaledapp"),
            "{answer}"
        );
        assert!(running.counts("x_repeated_total 0"));
    }
}

/// Waits for the next request at any of these pods.
fn of_any(pods: &[Stage]) -> Request {
    loop {
        if let Some(request) = pods.iter().find_map(|pod| pod.requests.try_recv().ok()) {
            return request;
        }
        std::thread::yield_now();
    }
}

#[test]
fn the_next_pod_learns_that_the_request_was_repeated() {
    for (answer, is_used) in [
        (Some(HANDED_BACK), false),
        // An older dispatcher sends this even if the request has ended its workers.
        (Some(OLD_HANDED_BACK), true),
        // The whole pod has failed.
        (None, true),
    ] {
        let pods = [Stage::open(), Stage::open()];
        let endpoints = pods.iter().map(Stage::pod).collect();
        let balancer = start(endpoints, Limits::default());
        let mut client = balancer.connect();
        // `Scaledapp-Repeated` from a client is not believed.
        client
            .write_all(b"GET / HTTP/1.0\r\nHost: a\r\nScaledapp-Repeated: 1\r\n\r\n")
            .unwrap();
        let first = of_any(&pods);
        assert!(!first.text.contains("Scaledapp"), "{}", first.text);
        match answer {
            Some(answer) => first.answer(answer),
            None => first.close(),
        }
        let second = of_any(&pods);
        let says = second.text.contains("\r\nScaledapp-Repeated: 1\r\n\r\n");
        assert_eq!(says, is_used, "{}", second.text);
        second.answer(OK);
        let answer = read_all(&mut client);
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    }
}
