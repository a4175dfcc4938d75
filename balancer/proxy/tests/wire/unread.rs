//! Requests that a worker has certainly not read are sent again, whatever their method;
//! those that it may have read are not.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread::{JoinHandle, spawn};

use scaledapp_proxy::{Config, Counters, Endpoint, Limits, Process, Trust};

use crate::peers::{OK, Running, start_with};

/// A worker's process. `may_reset` says whether it may reset its connections.
#[derive(Debug)]
struct Worker {
    may_reset: bool,
}

impl Process for Worker {
    fn surely_runs(&self) -> bool {
        true
    }

    fn may_reset(&self) -> bool {
        self.may_reset
    }

    fn refuses(&self) {}
}

/// A dispatcher in front of a worker at this address, behind a balancer.
fn dispatcher(to: SocketAddr, may_reset: bool, attempts: u32) -> Running {
    let config = Config {
        trust: Trust::Behind,
        ..Config::dispatcher()
    };
    let limits = Limits {
        attempts,
        ..config.limits
    };
    let process = Box::new(Worker { may_reset });
    let endpoint = Endpoint::of_process("one", to, &Counters::new("0"), process);
    start_with(vec![endpoint], Config { limits, ..config })
}

/// The proxy's answers to two POSTs on one connection.
fn two_posts(running: &Running) -> [String; 2] {
    let mut client = running.connect();
    [1, 2].map(|number| {
        let head = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\n";
        write!(client, "{head}no {number}").unwrap();
        let mut answer = [0; 4096];
        let length = client.read(&mut answer).unwrap();
        String::from_utf8_lossy(&answer[..length]).into_owned()
    })
}

fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// Reads one complete request.
fn take(stream: &mut TcpStream) -> String {
    let mut bytes = vec![0; 4096];
    let length = stream.read(&mut bytes).unwrap();
    String::from_utf8_lossy(&bytes[..length]).into_owned()
}

/// Answers everything on one more connection.
fn answer_the_next(listener: TcpListener) -> JoinHandle<()> {
    spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        while !take(&mut stream).is_empty() {
            stream.write_all(OK.as_bytes()).unwrap();
        }
    })
}

/// Waits until data has arrived, and reads `bytes` of it.
fn read_some(stream: &mut TcpStream, bytes: usize) {
    while stream.peek(&mut [0]).unwrap() == 0 {}
    stream.read_exact(&mut vec![0; bytes]).unwrap();
}

#[test]
fn a_request_that_a_worker_leaves_unread_goes_to_the_next() {
    let (listener, address) = listen();
    let running = dispatcher(address, true, 4);
    let worker = spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        read_some(&mut stream, 0);
        drop(stream);
        answer_the_next(listener)
    });
    let answers = two_posts(&running);
    for answer in answers {
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    }
    assert_eq!(running.value("x_unread_requests_total"), 1);
    drop(worker.join().unwrap());
}

#[test]
fn a_request_that_a_worker_has_begun_to_read_is_not_repeated() {
    let (listener, address) = listen();
    let running = dispatcher(address, true, 4);
    let worker = spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        read_some(&mut stream, 1);
        drop(stream);
        answer_the_next(listener)
    });
    let [answer, next] = two_posts(&running);
    assert!(answer.starts_with("HTTP/1.1 502 "), "{answer}");
    assert!(!answer.contains("Scaledapp"), "{answer}");
    assert!(next.is_empty() || next.starts_with("HTTP/1.1 200 "));
    assert!(running.counts("x_unread_requests_total 0"));
    drop(worker.join().unwrap());
}

#[test]
fn on_a_kept_connection_only_the_last_request_counts() {
    for (reads, status, unread) in [(0, "200", 1), (1, "502", 0)] {
        let (listener, address) = listen();
        let running = dispatcher(address, true, 4);
        let worker = spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            assert!(take(&mut stream).ends_with("no 1"));
            stream.write_all(OK.as_bytes()).unwrap();
            read_some(&mut stream, reads);
            drop(stream);
            answer_the_next(listener)
        });
        let [first, second] = two_posts(&running);
        assert!(first.starts_with("HTTP/1.1 200 "), "{first}");
        assert!(
            second.starts_with(&format!("HTTP/1.1 {status} ")),
            "{second}"
        );
        assert_eq!(running.value("x_unread_requests_total"), unread);
        drop(worker.join().unwrap());
    }
}

#[test]
fn a_request_whose_connection_was_not_accepted_is_repeated_unless_the_app_may_reset_it() {
    for (may_reset, status) in [(false, "200"), (true, "502")] {
        let (listener, address) = listen();
        let running = dispatcher(address, may_reset, 4);
        let next = spawn(move || {
            // A request waits; then the worker exits, and another one listens on its port.
            let queued = || {
                let all = scaledapp_proc::sockets::at_port(
                    address.port(),
                    scaledapp_proc::sockets::ESTABLISHED,
                );
                all.unwrap().iter().any(|one| one.queue > 0)
            };
            while !queued() {}
            drop(listener);
            answer_the_next(TcpListener::bind(address).unwrap())
        });
        let [answer, _] = two_posts(&running);
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{answer}"
        );
        drop(next);
    }
}

#[test]
fn a_balancer_in_front_learns_that_no_worker_has_read_the_request() {
    let (listener, address) = listen();
    let running = dispatcher(address, true, 1);
    let worker = spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        read_some(&mut stream, 0);
    });
    let [answer, _] = two_posts(&running);
    assert!(answer.starts_with("HTTP/1.1 502 "), "{answer}");
    assert!(
        answer.contains("\r\nScaledapp-Not-Executed: retry\r\n"),
        "{answer}"
    );
    worker.join().unwrap();
}

/// There is no supervisor, and the app closes the connection at the moment when the request
/// arrives.
#[test]
fn a_balancer_repeats_a_request_that_came_after_an_orderly_close() {
    let (listener, address) = listen();
    let endpoint: Arc<Endpoint> = Endpoint::new("one", address);
    let running = start_with(vec![endpoint], Config::balancer());
    let worker = spawn(move || {
        // The app closes the connection before it has read the request.
        let (stream, _) = listener.accept().unwrap();
        drop(stream);
        answer_the_next(listener)
    });
    let [answer, _] = two_posts(&running);
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    drop(worker.join().unwrap());
}
