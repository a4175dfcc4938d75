//! Requests that wait because all endpoints are full: their order, exact limits, and how
//! they are woken.

use std::io::{Read, Write};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use scaledapp_proxy::{Config, Endpoint, Limits};

use crate::peers::{GET, MOMENT, OK, Running, Stage, ask, read_all, short, start_with, until};

fn dispatch(endpoints: Vec<Arc<Endpoint>>, threads: usize, limits: Limits) -> Running {
    let config = Config {
        threads,
        limits,
        ..Config::dispatcher()
    };
    start_with(endpoints, config)
}

fn at_most(in_flight: u32) -> Limits {
    short(|limits| limits.in_flight = NonZeroU32::new(in_flight))
}

#[test]
fn the_request_that_came_first_is_served_first() {
    for threads in [1, 4] {
        let stage = Stage::open();
        let running = dispatch(vec![stage.endpoint()], threads, at_most(1));
        let mut clients = Vec::new();
        for n in 0..12_u32 {
            clients.push(ask(&running, &format!("/{n}")));
            until("it is there or waits", || {
                running.proxy.in_flight() == 1 && running.proxy.queued() == n
            });
        }
        for (n, client) in clients.iter_mut().enumerate() {
            let request = stage.next();
            assert_eq!(request.path(), format!("/{n}"), "{threads} threads");
            assert!(stage.requests.try_recv().is_err(), "one at a time");
            request.answer(OK);
            assert!(read_all(client).ends_with("ok"));
        }
    }
}

#[test]
fn a_freed_place_is_used_immediately() {
    // If waiting requests searched only at ticks (80 a second on four threads), not even
    // half of them would be served in time.
    const REQUESTS: usize = 500;
    let limits = Limits {
        waiting_time: Duration::from_secs(3),
        ..at_most(1)
    };
    let stage = Stage::open();
    let running = dispatch(vec![stage.endpoint()], 4, limits);
    let mut clients: Vec<_> = (0..REQUESTS).map(|_| ask(&running, "/")).collect();
    until("all but one wait", || {
        running.proxy.queued() == REQUESTS as u32 - 1
    });
    for _ in 0..REQUESTS {
        stage.next().answer(OK);
    }
    for client in &mut clients {
        let answer = read_all(client);
        assert!(answer.ends_with("ok"), "{answer}");
    }
}

/// An endpoint that answers all requests, and records the largest number that it had at the same
/// time.
fn counting(most: &Arc<AtomicU32>, served: &Arc<AtomicU32>) -> Arc<Endpoint> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (most, served) = (Arc::clone(most), Arc::clone(served));
    std::thread::spawn(move || {
        let at_once = Arc::new(AtomicU32::new(0));
        for mut stream in listener.incoming().flatten() {
            let (most, served, at_once) =
                (Arc::clone(&most), Arc::clone(&served), Arc::clone(&at_once));
            std::thread::spawn(move || {
                let mut bytes = [0; 4096];
                while stream.read(&mut bytes).is_ok_and(|read| read > 0) {
                    let now = at_once.fetch_add(1, Ordering::SeqCst) + 1;
                    most.fetch_max(now, Ordering::SeqCst);
                    std::thread::yield_now();
                    served.fetch_add(1, Ordering::SeqCst);
                    at_once.fetch_sub(1, Ordering::SeqCst);
                    if stream.write_all(OK.as_bytes()).is_err() {
                        return;
                    }
                }
            });
        }
    });
    Endpoint::new("counting", address)
}

#[test]
fn four_threads_together_keep_to_the_limit_and_lose_no_request() {
    const CLIENTS: u32 = 24;
    const EACH: u32 = 100;
    let most = [Arc::default(), Arc::default()];
    let served = Arc::default();
    let endpoints = most.iter().map(|most| counting(most, &served)).collect();
    let running = dispatch(endpoints, 4, at_most(3));
    std::thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                let mut stream = running.connect();
                let mut answer = [0; OK.len()];
                for _ in 0..EACH {
                    stream.write_all(GET).unwrap();
                    stream.read_exact(&mut answer).unwrap();
                    assert_eq!(answer, OK.as_bytes());
                }
            });
        }
    });
    assert_eq!(served.load(Ordering::SeqCst), CLIENTS * EACH);
    for most in most {
        let most = most.load(Ordering::SeqCst);
        assert!((1..=3).contains(&most), "{most}");
    }
    until("nothing is left", || running.proxy.in_flight() == 0);
    assert_eq!(running.proxy.queued(), 0);
}

#[test]
fn a_full_queue_and_a_long_wait_are_answered_with_retry_after() {
    let stage = Stage::open();
    let limits = Limits {
        waiting: 1,
        waiting_time: MOMENT,
        ..at_most(1)
    };
    let running = dispatch(vec![stage.endpoint()], 2, limits);
    let mut served = ask(&running, "/");
    let request = stage.next();
    let mut waits = ask(&running, "/");
    until("it waits", || running.proxy.queued() == 1);
    let refused = read_all(&mut ask(&running, "/"));
    assert_eq!(
        running.proxy.queued(),
        1,
        "it was refused while the other waited"
    );
    let late = read_all(&mut waits);
    for (answer, reason) in [(refused, "queue-full\n"), (late, "queue-timeout\n")] {
        assert!(
            answer.starts_with("HTTP/1.1 503 ")
                && answer.contains("\r\nRetry-After: 1\r\n")
                && answer.ends_with(reason),
            "{answer}"
        );
    }
    request.answer(OK);
    assert!(read_all(&mut served).ends_with("ok"));
}

#[test]
fn an_upgraded_connection_keeps_its_place_while_it_lasts() {
    let stage = Stage::open();
    let endpoint = stage.endpoint();
    let running = dispatch(vec![Arc::clone(&endpoint)], 1, at_most(1));
    let mut tunnel = running.connect();
    tunnel
        .write_all(b"GET /t HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n")
        .unwrap();
    let mut request = stage.next();
    request.begin("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n");
    let mut first = [0; 12];
    tunnel.read_exact(&mut first).unwrap();
    assert_eq!(&first, b"HTTP/1.1 101");
    let mut waits = ask(&running, "/");
    until("it waits", || running.proxy.queued() == 1);
    assert_eq!(endpoint.in_flight(), 1);
    drop((tunnel, request));
    stage.next().answer(OK);
    assert!(read_all(&mut waits).ends_with("ok"));
}

#[test]
fn a_request_that_lost_its_endpoint_goes_before_those_that_have_had_none() {
    let stage = Stage::open();
    let running = dispatch(vec![stage.endpoint()], 1, at_most(1));
    let mut first = ask(&running, "/first");
    let lost = stage.next();
    let mut second = ask(&running, "/second");
    until("it waits", || running.proxy.queued() == 1);
    drop(lost);
    for (path, client) in [("/first", &mut first), ("/second", &mut second)] {
        let request = stage.next();
        assert_eq!(request.path(), path);
        request.answer(OK);
        assert!(read_all(client).ends_with("ok"));
    }
}

#[test]
fn a_client_that_leaves_the_queue_delays_no_other() {
    let stage = Stage::open();
    let running = dispatch(vec![stage.endpoint()], 1, at_most(1));
    let mut first = ask(&running, "/");
    let request = stage.next();
    let leaves = ask(&running, "/leaves");
    until("it waits", || running.proxy.queued() == 1);
    let mut stays = ask(&running, "/stays");
    until("both wait", || running.proxy.queued() == 2);
    socket2::SockRef::from(&leaves)
        .set_linger(Some(Duration::ZERO))
        .unwrap();
    drop(leaves);
    until("one waits", || running.proxy.queued() == 1);
    request.answer(OK);
    assert!(read_all(&mut first).ends_with("ok"));
    let request = stage.next();
    assert_eq!(request.path(), "/stays");
    request.answer(OK);
    assert!(read_all(&mut stays).ends_with("ok"));
}
