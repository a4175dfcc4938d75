//! What one client address may cost: requests per second, and the size of a body.
//!
//! `scaledapp-proxy` tests the buckets themselves.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use bytes::Bytes;
use scaledapp_tests::balancer::{Balancer, Launch};
use scaledapp_tests::http::{self, Connection, Request};
use scaledapp_tests::upstream::Upstream;

use crate::SOON;
use crate::http2::{Client, run};

fn limited(upstream: &Upstream, options: &[&str]) -> Balancer {
    let launch = Launch::to(&[upstream.address()]).unwrap();
    launch.with(options).ready().unwrap()
}

const SLOW: [&str; 4] = [
    "--requests-per-second-per-address",
    "1",
    "--request-burst-per-address",
    "5",
];

/// How many of `count` requests with this field are served. The others get 429.
fn served(to: SocketAddr, count: usize, field: (&str, &str)) -> usize {
    let mut client = Connection::open(to, SOON).unwrap();
    let fields = [field];
    let mut served = 0;
    for _ in 0..count {
        let answer = client.send(&Request::get("/").with(&fields)).unwrap();
        if answer.status == 200 {
            served += 1;
            continue;
        }
        assert_eq!(answer.status, 429);
        assert_eq!(answer.text(), "too-many-requests\n");
        assert_eq!(answer.field("retry-after"), Some("1"));
        // A refused request does not cost its client the connection.
        assert_eq!(answer.field("connection"), None);
    }
    served
}

#[test]
fn an_address_gets_its_burst_and_then_429_with_the_time_to_wait() {
    let upstream = Upstream::answering("x").unwrap();
    let balancer = limited(&upstream, &SLOW);
    // A field that nobody in front has set gives nobody a bucket of its own.
    let count = served(balancer.address(), 30, ("X-Forwarded-For", "192.0.2.1"));
    assert!((5..=6).contains(&count), "{count}");
    let again = served(balancer.address(), 5, ("X-Forwarded-For", "192.0.2.2"));
    assert!(again <= 1, "{again}");
    assert_eq!(
        upstream.all_received().matches("GET / ").count(),
        count + again,
        "refused requests reach no server"
    );
    let metrics = balancer.metrics().unwrap();
    let refused = format!(
        "scaledapp_balancer_failures_total{{cause=\"rate_limited\"}} {}\n",
        35 - count - again
    );
    assert!(metrics.contains(&refused), "{metrics}");
    std::thread::sleep(Duration::from_millis(1100));
    assert!(served(balancer.address(), 1, ("Accept", "*/*")) == 1);
}

#[test]
fn behind_a_named_proxy_each_client_has_its_own_limit_and_an_ipv6_network_has_one() {
    let upstream = Upstream::answering("x").unwrap();
    let options = [&SLOW[..], &["--forwarded-from", "127.0.0.1"]].concat();
    let balancer = limited(&upstream, &options);
    let of = |client: &str, count| served(balancer.address(), count, ("X-Forwarded-For", client));
    for client in ["192.0.2.1", "192.0.2.2"] {
        assert!((5..=6).contains(&of(client, 10)), "{client}");
    }
    let spread: usize = (0..40).map(|at| of(&format!("2001:db8::{at}"), 1)).sum();
    assert!((5..=6).contains(&spread), "{spread}");
    // The proxy itself is not limited: a request that names no client may come from any client.
    assert_eq!(of("", 20), 20);
}

#[test]
fn a_body_that_is_too_large_by_its_length_is_refused_before_it_is_sent() {
    let upstream = Upstream::answering("x").unwrap();
    let balancer = limited(&upstream, &["--body-size", "1K"]);
    let mut client = TcpStream::connect(balancer.address()).unwrap();
    client.set_read_timeout(Some(SOON)).unwrap();
    let head =
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1025\r\nExpect: 100-continue\r\n\r\n";
    client.write_all(head).unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    assert!(answer.ends_with("\r\n\r\nbody-too-large\n"), "{answer}");
    // A client that sends everything before it reads gets the answer as well.
    let mut client = Connection::open(balancer.address(), SOON).unwrap();
    let body = vec![b'x'; 300_000];
    assert_eq!(client.send(&Request::post("/", &body)).unwrap().status, 413);
    assert_eq!(upstream.all_received(), "");
    let mut client = Connection::open(balancer.address(), SOON).unwrap();
    let answer = client.send(&Request::post("/", &body[..1024])).unwrap();
    assert_eq!(answer.status, 200);
}

#[test]
fn a_body_that_turns_out_too_large_is_refused_and_never_complete_at_a_server() {
    let upstream = Upstream::answering("x").unwrap();
    let balancer = limited(&upstream, &["--body-size", "200K"]);
    let chunk = [b"1000\r\n".to_vec(), vec![b'x'; 4096], b"\r\n".to_vec()].concat();
    // 40 KiB are read before a server is chosen, 400 KiB are passed on as they come.
    for (chunks, status) in [(10, "200"), (50, "200"), (51, "413"), (100, "413")] {
        let mut client = TcpStream::connect(balancer.address()).unwrap();
        client.set_read_timeout(Some(SOON)).unwrap();
        let head = b"POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n";
        let body = [&head[..], &chunk.repeat(chunks), b"0\r\n\r\n"].concat();
        // The balancer may stop reading, so this may fail.
        let _sent = client.write_all(&body);
        let mut answer = Vec::new();
        let _reset = client.read_to_end(&mut answer);
        let answer = String::from_utf8_lossy(&answer);
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{chunks}: {answer}"
        );
    }
    let complete = upstream
        .received()
        .iter()
        .filter(|bytes| bytes.contains("0\r\n\r\n"))
        .count();
    assert!(complete <= 2, "{complete}");
    // Many small chunks count together.
    let small = limited(&upstream, &["--body-size", "1K"]);
    let head = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    let body = [&head[..], &b"1\r\nx\r\n".repeat(2000), b"0\r\n\r\n"].concat();
    let answer = http::raw(small.address(), SOON, &body).unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 413 "));
}

#[test]
fn a_stream_of_http2_has_the_same_limits_and_keeps_its_connection() {
    run(async {
        let upstream = Upstream::answering("x").unwrap();
        let balancer = limited(&upstream, &["--body-size", "100K"]);
        let mut client = Client::open(balancer.address()).await;
        let post = || ::http::Request::post("http://a.test/");
        // By its length.
        let request = post().header("content-length", "102401").body(()).unwrap();
        let (answer, _send) = client.send(request, false).await;
        assert_eq!(answer.await.unwrap().status(), 413);
        // By what is sent.
        let request = post().body(()).unwrap();
        let (answer, mut send) = client.send(request, false).await;
        send.reserve_capacity(102_401);
        let _refused = send.send_data(Bytes::from(vec![0; 102_401]), false);
        assert_eq!(answer.await.unwrap().status(), 413);
        let request = post().body(()).unwrap();
        let (answer, mut send) = client.send(request, false).await;
        send.send_data(Bytes::from(vec![0; 1000]), true).unwrap();
        assert_eq!(answer.await.unwrap().status(), 200);
    });
}

#[test]
fn a_grpc_call_beyond_the_rate_gets_a_status_that_its_client_understands() {
    run(async {
        let upstream = Upstream::answering("x").unwrap();
        let balancer = limited(&upstream, &SLOW);
        let mut client = Client::open(balancer.address()).await;
        let mut last = None;
        for _ in 0..8 {
            let request = ::http::Request::post("http://a.test/a.B/C")
                .header("content-type", "application/grpc")
                .header("te", "trailers");
            let (answer, _send) = client.send(request.body(()).unwrap(), true).await;
            last = Some(answer.await.unwrap());
        }
        let head = last.unwrap();
        assert_eq!(head.status(), 200);
        assert_eq!(head.headers()["grpc-status"], "14");
        assert_eq!(head.headers()["grpc-message"], "too-many-requests");
    });
}
