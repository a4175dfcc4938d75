//! The memory of a stalled connection in the balancer, and bursts of connections in containers with
//! little memory.

use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use scaledapp_tests::balancer::{Balancer, Launch};
use scaledapp_tests::memory_limit::Limited;
use scaledapp_tests::upstream::Upstream;
use scaledapp_tests::{http, proc, wait};

const CLIENTS: u64 = 3000;
/// Most memory that one connection may take, in bytes: twice the expected size, and less than one
/// buffer.
const BYTES: u64 = 10 << 10;

/// Opens connections that send only `bytes`. Returns how many bytes of memory each of them takes in
/// the end.
fn cost(balancer: &Balancer, bytes: &[u8]) -> u64 {
    let pid = balancer.process.pid();
    let before = proc::resident_bytes(pid).unwrap();
    let mut held = Vec::new();
    for _ in 0..CLIENTS {
        let mut stream = TcpStream::connect(balancer.launch.listen).unwrap();
        stream.write_all(bytes).unwrap();
        held.push(stream);
    }
    let each = || proc::resident_bytes(pid).unwrap().saturating_sub(before) / CLIENTS;
    let open = format!("scaledapp_balancer_connections {CLIENTS}");
    wait::until(Duration::from_secs(30), "all of them at a low cost", || {
        let metrics = http::get(balancer.launch.admin, "/metrics").unwrap().text();
        if metrics.lines().any(|line| line == open) && each() < BYTES {
            return Ok(());
        }
        Err(format!("{} bytes each", each()))
    })
    .unwrap();
    each()
}

#[test]
fn stalled_connections_cost_little() {
    let upstream = Upstream::start(|mut peer| {
        // This upstream reads only heads.
        while peer.read_head().is_some() {}
        std::thread::sleep(Duration::from_mins(1));
    })
    .unwrap();
    for bytes in [
        &b""[..],
        b"GET / HTTP/1.1\r\nHost: a\r\nX: ",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 60000\r\n\r\nsome",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 6000000\r\n\r\nsome",
    ] {
        let launch = Launch::to(&[upstream.address()]).unwrap();
        let launch = launch.with(&["--head-time", "1m", "--threads", "2"]);
        let balancer = launch.ready().unwrap();
        cost(&balancer, bytes);
    }
}

/// Opens thousands of connections as fast as possible, each of which makes the balancer take memory.
#[test]
fn a_burst_never_lets_the_kernel_kill_the_balancer() {
    let upstream = Upstream::start(|mut peer| {
        // This upstream reads only heads, and answers only requests without a body.
        while let Some(head) = peer.read_head() {
            if head.starts_with("GET") {
                peer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
            }
        }
    })
    .unwrap();
    let body = vec![b'x'; 70_000];
    let long = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 900000\r\n\r\n";
    let short = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 60000\r\n\r\n";
    let mut shed = false;
    for (mebibytes, begin, rest) in [
        (64, long, &body[..]),
        (65, short, &body[..50_000]),
        (66, "GET / HTTP/1.1\r\nHost: a\r\nX: ", &body[..60_000]),
        (128, long, &body[..]),
    ] {
        let Some(limited) = Limited::new(mebibytes) else {
            return;
        };
        let launch = Launch::to(&[upstream.address()]).unwrap();
        let mut launch = launch.with(&["--connections", "9500", "--threads", "2"]);
        launch.wrapper = limited.wrapper();
        let balancer = launch.ready().unwrap();
        let bytes = [begin.as_bytes(), rest].concat();
        burst(balancer.address(), &bytes, || {
            // The largest connections have ended by then, and the others are still held.
            let served = || http::get(balancer.address(), "/").is_ok_and(|it| it.status == 200);
            wait::until_true(Duration::from_secs(10), "a request is served again", served).unwrap();
        });
        assert_eq!(limited.kills(), 0, "{mebibytes} MiB");
        let metrics = balancer.metrics().unwrap();
        shed |= metrics.lines().any(|line| {
            line.starts_with("scaledapp_balancer_memory_refused_total ") && !line.ends_with(" 0")
        });
    }
    // A busy machine may be too slow for some of them.
    assert!(shed, "all bursts were too small");
}

/// Holds connections that have sent `bytes` while `then` runs.
fn burst(to: SocketAddr, bytes: &[u8], then: impl FnOnce()) {
    const CONNECTIONS: usize = 4500;
    let mut held = Vec::new();
    for _ in 0..CONNECTIONS {
        // A refused connection may be closed already.
        if let Ok(mut stream) = TcpStream::connect(to) {
            stream
                .set_write_timeout(Some(Duration::from_millis(200)))
                .unwrap();
            drop(stream.write_all(bytes));
            held.push(stream);
        }
    }
    std::thread::sleep(Duration::from_secs(1));
    then();
}
