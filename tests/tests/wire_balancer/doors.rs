//! If clients stall all connections up to the limit, the balancer still accepts new clients.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Instant;

use scaledapp_tests::balancer::Launch;
use scaledapp_tests::http::{self, Connection, Request};
use scaledapp_tests::upstream::Upstream;
use scaledapp_tests::wait;

use crate::SOON;

const PLACES: usize = 50;

#[test]
fn fifty_stalled_uploads_do_not_shut_out_the_next_client() {
    let upstream = Upstream::answering("x").unwrap();
    let launch = Launch::to(&[upstream.address()]).unwrap();
    let balancer = launch
        .with(&["--connections", &PLACES.to_string(), "--threads", "2"])
        .ready()
        .unwrap();
    let mut stalled: Vec<TcpStream> = (0..PLACES)
        .map(|_| {
            let mut client = TcpStream::connect(balancer.address()).unwrap();
            let upload = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 60000\r\n\r\nsome";
            client.write_all(upload).unwrap();
            client
        })
        .collect();
    // Connections may be accepted in any order, so the next one must wait until all of these are
    // counted.
    let all = format!("scaledapp_balancer_connections {PLACES}\n");
    wait::until_true(SOON, "all places are taken", || {
        http::get(balancer.launch.admin, "/metrics").is_ok_and(|page| page.text().contains(&all))
    })
    .unwrap();
    let begun = Instant::now();
    let mut next = Connection::open(balancer.address(), SOON).unwrap();
    assert_eq!(next.send(&Request::get("/")).unwrap().status, 200);
    println!("the next client was served after {:?}", begun.elapsed());
    // From now on, each new connection ends a stalled one.
    for _ in 0..20 {
        let mut next = Connection::open(balancer.address(), SOON).unwrap();
        assert_eq!(next.send(&Request::get("/")).unwrap().status, 200);
    }
    // The clients of closed connections got an answer with the reason.
    let told = stalled.iter_mut().filter_map(|client| {
        let mut answer = [0; 12];
        client.set_nonblocking(true).unwrap();
        client.read_exact(&mut answer).ok()?;
        assert_eq!(&answer, b"HTTP/1.1 408");
        Some(())
    });
    assert!(told.count() > 0);
    let metrics = http::get(balancer.launch.admin, "/metrics").unwrap().text();
    let ended = "scaledapp_balancer_stalled_connections_ended_total ";
    let count = metrics.lines().find_map(|line| line.strip_prefix(ended));
    assert!(count.is_some_and(|count| count != "0"), "{metrics}");
}
