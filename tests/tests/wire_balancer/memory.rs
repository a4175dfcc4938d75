//! The memory of a stalled connection in the balancer.

use std::io::Write;
use std::net::TcpStream;
use std::time::Duration;

use scaledapp_tests::balancer::{Balancer, Launch};
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
