//! The limit of connections is reached, and each connection waits for its client. The
//! connections whose clients have not sent or read for the longest time are ended; a
//! connection whose request a server works on is not.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use scaledapp_proxy::Config;

use crate::peers::{
    MOMENT, OK, Request, Running, Stage, ask, read_all, short, start_with, until, upstream,
};

/// A little longer than the time for which a client that does not send or read keeps its
/// connection.
const SOON: Duration = Duration::from_secs(4);
const PLACES: u32 = 20;
const CLOSE: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
/// Even half of it is more than the sockets accept (`tcp_rmem` and `tcp_wmem` of this
/// kernel: many mebibytes).
const LARGE: usize = 64 << 20;

fn config(threads: usize) -> Config {
    Config {
        threads,
        limits: short(|limits| limits.connections = PLACES),
        ..Config::balancer()
    }
}

/// As many clients as are allowed, each of which sends `bytes` and no more.
fn all(running: &Running, bytes: &[u8]) -> Vec<TcpStream> {
    let clients = (0..PLACES).map(|_| {
        let mut client = running.connect();
        client.write_all(bytes).unwrap();
        client
    });
    let clients = clients.collect();
    until("all are there", || running.proxy.connections() == PLACES);
    // The bytes that they have sent have been read.
    std::thread::sleep(MOMENT);
    clients
}

/// Two new clients, one after the other, are answered soon.
fn others_are_served(running: &Running) {
    for _ in 0..2 {
        let begun = Instant::now();
        let answer = running.send(CLOSE);
        assert!(answer.ends_with("ok"), "{answer}");
        assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
    }
    assert!(running.proxy.connections() <= PLACES + 2);
}

#[test]
fn stalled_heads_and_bodies_give_way_and_are_told_so() {
    for threads in [1, 2] {
        for bytes in [
            &b"GET / HTTP/1.1\r\nHost: a\r\nX-Half: "[..],
            // The first body is kept until it is complete; the second is passed on as it
            // arrives.
            b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 60000\r\n\r\nsome",
            b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 6000000\r\n\r\nsome",
        ] {
            let stage = Stage::open();
            let running = start_with(vec![stage.endpoint()], config(threads));
            let mut stalled = all(&running, bytes);
            let begun = Instant::now();
            let mut others: Vec<_> = (0..2).map(|_| ask(&running, "/other")).collect();
            // The uploads that are passed on as they arrive also come here; they are not
            // answered.
            let mut requests: Vec<Request> = Vec::new();
            let is_other = |request: &Request| request.path() == "/other";
            while requests.iter().filter(|one| is_other(one)).count() < 2 {
                requests.push(stage.next());
            }
            assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
            let (asked, _stalled): (Vec<_>, Vec<_>) = requests.into_iter().partition(is_other);
            for request in asked {
                request.answer(OK);
            }
            for other in &mut others {
                assert!(read_all(other).ends_with("ok"));
            }
            assert_eq!(running.value("x_stalled_connections_ended_total"), 2);
            assert!(running.counts("x_failures_total{cause=\"gave_way\"} 2"));
            assert!(running.counts("x_ejections_total 0"));
            let mut told = 0;
            for client in &mut stalled {
                client
                    .set_read_timeout(Some(Duration::from_millis(5)))
                    .unwrap();
                let mut answer = vec![0; 400];
                if let Ok(read @ 1..) = client.read(&mut answer) {
                    let answer = String::from_utf8_lossy(&answer[..read]);
                    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
                    assert!(answer.contains("gave-way"), "{answer}");
                    told += 1;
                }
            }
            assert_eq!(told, 2);
        }
    }
}

#[test]
fn an_occasional_byte_does_not_keep_a_place() {
    let running = start_with(vec![upstream(OK, Duration::ZERO)], config(1));
    let head = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 60000\r\n\r\n";
    let mut clients = all(&running, head);
    let drips = std::thread::spawn(move || {
        let begun = Instant::now();
        while begun.elapsed() < SOON * 2 {
            for client in &mut clients {
                // The connection may have ended.
                drop(client.write(b"x"));
            }
            std::thread::sleep(Duration::from_millis(200));
        }
    });
    others_are_served(&running);
    drips.join().unwrap();
}

#[test]
fn a_client_that_does_not_read_gives_way() {
    let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {LARGE}\r\n\r\n");
    let answer: &'static str = (answer + &"x".repeat(LARGE)).leak();
    // The server sends the whole answer, or stops in the middle of it.
    for part in [answer, &answer[..answer.len() - LARGE / 2]] {
        let running = start_with(vec![upstream(part, Duration::ZERO)], config(1));
        let _deaf = all(&running, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        let begun = Instant::now();
        let mut other = running.connect();
        other.write_all(CLOSE).unwrap();
        other.read_exact(&mut [0; 4096]).unwrap();
        assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
        assert_eq!(running.value("x_stalled_connections_ended_total"), 1);
        assert!(running.counts("x_ejections_total 0"));
    }
}

#[test]
fn a_websocket_whose_client_does_not_read_gives_way_and_a_silent_one_does_not() {
    const UPGRADE: &[u8] =
        b"GET /up HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n";
    const SWITCHED: &str =
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n";
    let stage = Stage::open();
    let running = start_with(vec![stage.endpoint()], config(1));
    let mut clients = all(&running, UPGRADE);
    let mut silent = Vec::new();
    for at in 0..PLACES {
        let mut request = stage.next();
        request.begin(SWITCHED);
        if at == 0 {
            std::thread::spawn(move || {
                // More than the sockets accept. The write ends when the connection does.
                let _ended = request.try_begin(&"x".repeat(LARGE));
            });
        } else {
            silent.push(request);
        }
    }
    let begun = Instant::now();
    let mut other = ask(&running, "/other");
    let request = stage.next();
    assert_eq!(request.path(), "/other");
    assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
    request.answer(OK);
    assert!(read_all(&mut other).ends_with("ok"));
    assert_eq!(running.value("x_stalled_connections_ended_total"), 1);
    // The others are still connected, and receive what is sent to them.
    let mut greeted = 0;
    for request in &mut silent {
        request.begin("hello");
    }
    for client in &mut clients {
        let mut bytes = [0; SWITCHED.len() + 5];
        greeted += u32::from(client.read_exact(&mut bytes).is_ok() && bytes.ends_with(b"hello"));
    }
    assert_eq!(greeted, PLACES - 1);
}

#[test]
fn a_request_that_a_server_works_on_never_gives_way() {
    let stage = Stage::open();
    let running = start_with(vec![stage.endpoint()], config(1));
    let mut working: Vec<_> = (0..PLACES).map(|_| ask(&running, "/work")).collect();
    let requests: Vec<_> = (0..PLACES).map(|_| stage.next()).collect();
    let mut next = ask(&running, "/next");
    next.set_read_timeout(Some(SOON)).unwrap();
    assert!(next.read(&mut [0; 1]).is_err(), "it waits");
    assert_eq!(running.value("x_stalled_connections_ended_total"), 0);
    for request in requests {
        request.answer(OK);
    }
    stage.next().answer(OK);
    for client in working.iter_mut().chain([&mut next]) {
        assert!(read_all(client).ends_with("ok"));
    }
}

#[test]
fn a_refused_connection_ends_no_other() {
    let config = Config {
        limits: short(|limits| {
            limits.connections = 2;
            limits.connections_per_address = std::num::NonZeroU32::new(2);
        }),
        ..Config::balancer()
    };
    let running = start_with(vec![upstream(OK, Duration::ZERO)], config);
    let _idle = [running.connect(), running.connect()];
    until("both are there", || running.proxy.connections() == 2);
    assert!(running.send(b"").contains("too-many-connections"));
    assert_eq!(running.value("x_idle_connections_ended_total"), 0);
}
