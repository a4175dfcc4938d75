//! Requests whose worker ends while it executes them. An innocent request survives. A request
//! that is the cause ends at most two workers, however many hops and pods there are.

use std::time::Duration;

use scaledapp_proxy::{Config, EndedBy, Endpoint, Limits};

use crate::peers::{OK, Running, Stage, ask, read_all, start, start_with};

const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";

#[test]
fn a_worker_that_ends_by_itself_costs_one_repetition() {
    let worker = Stage::open();
    let endpoint = worker.process(false, Some(EndedBy::Itself));
    let running = start_with(vec![endpoint], Config::dispatcher());
    let mut client = ask(&running, "/");
    for _ in 0..2 {
        worker.next().close();
    }
    let answer = read_all(&mut client);
    assert!(
        answer.starts_with("HTTP/1.1 502 ") && !answer.contains("Scaledapp"),
        "{answer}"
    );
    assert!(running.counts("x_repeated_total 1"));
    assert!(worker.requests.try_recv().is_err());
    // The balancer says that it has already repeated this request.
    let mut client = running.connect();
    let head = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nScaledapp-Repeated: 1\r\n\r\n";
    std::io::Write::write_all(&mut client, head).unwrap();
    let request = worker.next();
    assert!(!request.text.contains("Scaledapp"), "{}", request.text);
    request.close();
    let answer = read_all(&mut client);
    assert!(answer.starts_with("HTTP/1.1 502 "), "{answer}");
    assert!(running.counts("x_repeated_total 1"));
}

#[test]
fn an_unexplained_end_counts_against_the_request() {
    let worker = Stage::open();
    let unexplained = worker.process(false, None);
    for (endpoint, config) in [
        (unexplained, Config::dispatcher()),
        (worker.endpoint(), Config::balancer()),
    ] {
        let running = start_with(vec![endpoint], config);
        let mut client = ask(&running, "/");
        for _ in 0..2 {
            worker.next().close();
        }
        let answer = read_all(&mut client);
        assert!(
            answer.starts_with("HTTP/1.1 502 ") && !answer.contains("Scaledapp"),
            "{answer}"
        );
        assert!(running.counts("x_repeated_total 1"));
    }
}

#[test]
fn all_attempts_remain_if_the_worker_still_runs_or_was_ended_from_outside() {
    for (runs, ended) in [(true, None), (false, Some(EndedBy::Other))] {
        let worker = Stage::open();
        let running = start_with(vec![worker.process(runs, ended)], Config::dispatcher());
        let mut client = ask(&running, "/");
        for _ in 0..3 {
            worker.next().close();
        }
        worker.next().answer(OK);
        let answer = read_all(&mut client);
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        assert!(running.counts("x_repeated_total 3"));
    }
}

#[test]
fn an_end_may_be_reported_a_moment_late() {
    let worker = Stage::open();
    let endpoint = worker.process(false, None);
    let running = start_with(vec![std::sync::Arc::clone(&endpoint)], Config::dispatcher());
    let mut client = ask(&running, "/");
    let broken = worker.next();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(Duration::from_millis(5));
            endpoint.ended(EndedBy::Other);
            // Only the first report counts.
            endpoint.ended(EndedBy::Itself);
        });
        broken.close();
        for _ in 0..2 {
            worker.next().close();
        }
        worker.next().answer(OK);
    });
    let answer = read_all(&mut client);
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
}

#[test]
fn over_both_hops_a_request_ends_at_most_two_workers() {
    let workers = [Stage::open(), Stage::open()];
    let pods: Vec<_> = workers
        .iter()
        .map(|worker| {
            let endpoint = worker.process(false, Some(EndedBy::Itself));
            start_with(vec![endpoint], Config::dispatcher())
        })
        .collect();
    let endpoints = pods.iter().map(|pod| {
        let endpoint = Endpoint::new("pod", pod.address);
        endpoint.set_hands_back(true);
        endpoint
    });
    let balancer = start(endpoints.collect(), Limits::default());
    let mut client = balancer.connect();
    std::io::Write::write_all(&mut client, GET).unwrap();
    let ended = std::thread::spawn(move || {
        let mut ended = 0;
        loop {
            for worker in &workers {
                if let Ok(request) = worker.requests.try_recv() {
                    request.close();
                    ended += 1;
                }
            }
            if ended >= 2 {
                return ended;
            }
            std::thread::yield_now();
        }
    });
    let answer = read_all(&mut client);
    assert!(
        answer.starts_with("HTTP/1.1 502 ") && !answer.contains("Scaledapp"),
        "{answer}"
    );
    assert_eq!(ended.join().unwrap(), 2);
    let repeated =
        |running: &Running, times: u32| running.counts(&format!("x_repeated_total {times}"));
    assert!(repeated(&balancer, 0));
    assert_eq!(pods.iter().filter(|pod| repeated(pod, 1)).count(), 1);
    assert_eq!(pods.iter().filter(|pod| repeated(pod, 0)).count(), 1);
}

/// Waits for the next request at any of the stages.
fn next_of(stages: &[Stage]) -> crate::peers::Request {
    for _ in 0..2000 {
        for stage in stages {
            if let Ok(request) = stage.requests.try_recv() {
                return request;
            }
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("no request came");
}

fn three_that_end_by_themselves() -> ([Stage; 3], Running) {
    let workers = [Stage::open(), Stage::open(), Stage::open()];
    let endpoints = workers
        .iter()
        .map(|worker| worker.process(false, Some(EndedBy::Itself)))
        .collect();
    let running = start_with(endpoints, Config::dispatcher());
    (workers, running)
}

#[test]
fn a_suspect_request_that_waits_is_judged_again_at_its_turn() {
    let (workers, running) = three_that_end_by_themselves();
    let mut first = ask(&running, "/bad");
    let of_first = next_of(&workers);
    let mut second = ask(&running, "/bad");
    let of_second = next_of(&workers);
    // The first request has its turn and is repeated.
    of_first.close();
    let again = next_of(&workers);
    // The second request is to be repeated, and waits for its turn.
    of_second.close();
    std::thread::sleep(Duration::from_millis(50));
    again.close();
    for client in [&mut first, &mut second] {
        let answer = read_all(client);
        assert!(answer.starts_with("HTTP/1.1 502 "), "{answer}");
        assert!(!answer.contains("Scaledapp"), "{answer}");
    }
    let asked = workers
        .iter()
        .any(|worker| worker.requests.try_recv().is_ok());
    assert!(!asked, "a third worker had to end");
    assert!(running.counts("x_failures_total{cause=\"suspect\"} 1"));
    // A request that no worker has executed yet gets 503, so that its client may send it
    // again later.
    let answer = read_all(&mut ask(&running, "/bad"));
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    assert!(running.counts("x_path_ended_workers_total{path=\"GET /bad\"} 3"));
}

#[test]
fn a_busy_path_is_not_blamed_for_ended_workers() {
    let (workers, running) = three_that_end_by_themselves();
    let mut client = ask(&running, "/busy");
    next_of(&workers).answer(OK);
    assert!(read_all(&mut client).starts_with("HTTP/1.1 200 "));
    // Each request is alone at a worker that exits, and is then served by another worker.
    let mut clients = [ask(&running, "/busy"), ask(&running, "/busy")];
    let both = [next_of(&workers), next_of(&workers)];
    for request in both {
        request.close();
    }
    let again = next_of(&workers);
    std::thread::sleep(Duration::from_millis(50));
    let mut third = ask(&running, "/busy");
    let other = next_of(&workers);
    again.answer(OK);
    other.answer(OK);
    next_of(&workers).answer(OK);
    for client in clients.iter_mut().chain([&mut third]) {
        let answer = read_all(client);
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    }
}
