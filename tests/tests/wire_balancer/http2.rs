//! HTTP/2 clients in front of the balancer, with the `h2` crate as the client.
//!
//! These tests show the effect of a connection's streams on each other and on servers.
//! `scaledapp-proxy` tests the translation of heads, and h2spec tests frames (see `conformance`).

use std::collections::BTreeMap;
use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, Request, Response};
use rustix::process::Signal;
use scaledapp_tests::balancer::{Balancer, Launch};
use scaledapp_tests::upstream::Upstream;
use scaledapp_tests::wait;
use tokio::task::{JoinHandle, JoinSet};

use crate::SOON;

/// A client's connection. Dropping it ends its requests.
pub(crate) struct Client {
    sender: SendRequest<Bytes>,
    /// The task that drives the connection and ends with it.
    connection: JoinHandle<Result<(), h2::Error>>,
}

impl Client {
    pub(crate) async fn open(address: SocketAddr) -> Self {
        let socket = tokio::net::TcpStream::connect(address).await.unwrap();
        socket.set_nodelay(true).unwrap();
        let mut builder = h2::client::Builder::new();
        builder
            .initial_window_size(1 << 20)
            .initial_connection_window_size(8 << 20);
        let (sender, connection) = builder.handshake(socket).await.unwrap();
        Self {
            sender,
            connection: tokio::spawn(connection),
        }
    }

    pub(crate) async fn send(
        &mut self,
        request: Request<()>,
        ends: bool,
    ) -> (ResponseFuture, SendStream<Bytes>) {
        poll_fn(|context| self.sender.poll_ready(context))
            .await
            .unwrap();
        self.sender.send_request(request, ends).unwrap()
    }

    async fn get(&mut self, path: &str) -> (Response<()>, Result<Vec<u8>, h2::Error>) {
        let request = Request::get(format!("http://a.test{path}"))
            .body(())
            .unwrap();
        let (answer, _) = self.send(request, true).await;
        whole(answer).await
    }
}

/// Waits for an answer, and returns it with its body.
async fn whole(answer: ResponseFuture) -> (Response<()>, Result<Vec<u8>, h2::Error>) {
    let (head, body) = answer.await.unwrap().into_parts();
    (Response::from_parts(head, ()), read(body).await)
}

async fn read(mut body: RecvStream) -> Result<Vec<u8>, h2::Error> {
    let mut bytes = Vec::new();
    while let Some(piece) = body.data().await {
        let piece = piece?;
        body.flow_control().release_capacity(piece.len()).unwrap();
        bytes.extend_from_slice(&piece);
    }
    Ok(bytes)
}

/// Sends `left` as fast as the windows allow. Returns the error if the stream fails before the end.
async fn upload(
    send: &mut SendStream<Bytes>,
    mut left: Bytes,
    ends: bool,
) -> Result<(), h2::Error> {
    while !left.is_empty() {
        send.reserve_capacity(left.len());
        let room = match poll_fn(|context| send.poll_capacity(context)).await {
            Some(room) => room?,
            None => return Ok(()),
        };
        let piece = left.split_to(room.min(left.len()));
        let is_last = ends && left.is_empty();
        send.send_data(piece, is_last)?;
    }
    Ok(())
}

pub(crate) fn run<F: Future>(test: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let in_time = async { tokio::time::timeout(SOON * 3, test).await };
    runtime.unwrap().block_on(in_time).unwrap()
}

fn in_front_of(upstream: &Upstream) -> Balancer {
    in_front_of_with(upstream, &[])
}

fn in_front_of_with(upstream: &Upstream, options: &[&str]) -> Balancer {
    let launch = Launch::to(&[upstream.address()]).unwrap();
    launch.with(options).ready().unwrap()
}

fn count(fields: &HeaderMap, name: &str) -> usize {
    fields.get_all(name).iter().count()
}

#[test]
fn a_hundred_requests_share_a_connection() {
    let upstream = Upstream::answering("hello").unwrap();
    let balancer = in_front_of(&upstream);
    run(async {
        let mut client = Client::open(balancer.address()).await;
        let mut answers = JoinSet::new();
        for index in 0..100 {
            let request = Request::get(format!("http://a.test/{index}"))
                .body(())
                .unwrap();
            let (answer, _) = client.send(request, true).await;
            answers.spawn(whole(answer));
        }
        while let Some(answer) = answers.join_next().await {
            let (head, body) = answer.unwrap();
            assert_eq!(
                (head.status().as_u16(), body.unwrap().as_slice()),
                (200, &b"hello"[..])
            );
            assert_eq!(count(head.headers(), "connection"), 0);
        }
        assert!(!client.connection.is_finished());
    });
    let received = upstream.all_received();
    assert_eq!(
        received.matches("\r\nX-Forwarded-Proto: http\r\n").count(),
        100
    );
    let metrics = balancer.metrics().unwrap();
    assert!(
        metrics.contains("scaledapp_balancer_http2_connections_total 1\n"),
        "{metrics}"
    );
    assert!(metrics.contains("scaledapp_balancer_requests_total{code=\"2xx\"} 100\n"));
}

#[test]
fn bodies_pass_in_both_directions_with_and_without_a_length() {
    const LENGTH: usize = 3 << 20;
    let upstream = Upstream::start(|mut peer| {
        while let Some(head) = peer.read_head() {
            let body = if head.contains("Transfer-Encoding: chunked\r\n") {
                let all = peer.read_until(b"\r\n0\r\n\r\n").unwrap();
                let text = String::from_utf8(all).unwrap();
                let lines = text.split("\r\n").skip(1).step_by(2);
                lines.map(str::len).sum()
            } else {
                peer.read_exactly(LENGTH).unwrap().len()
            };
            let answer = format!(
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nX-Got: {body}\r\n\r\n{LENGTH:x}\r\n{}\r\n0\r\n\r\n",
                "y".repeat(LENGTH)
            );
            peer.write(answer.as_bytes());
        }
    })
    .unwrap();
    let balancer = in_front_of(&upstream);
    run(async {
        let mut client = Client::open(balancer.address()).await;
        for told in [None, Some(LENGTH)] {
            let mut request = Request::post("http://a.test/");
            if let Some(length) = told {
                request = request.header("content-length", length);
            }
            let (answer, mut send) = client.send(request.body(()).unwrap(), false).await;
            let body = Bytes::from("x".repeat(LENGTH));
            upload(&mut send, body, true).await.unwrap();
            let (head, body) = whole(answer).await;
            assert_eq!(head.headers()["x-got"], LENGTH.to_string(), "{told:?}");
            assert_eq!(body.unwrap().len(), LENGTH);
        }
    });
}

#[test]
fn stalled_uploads_leave_room_for_others() {
    // The server reads the head of a stalled upload and nothing more.
    let upstream = Upstream::start(|mut peer| {
        let Some(head) = peer.read_head() else { return };
        if head.starts_with("POST /stall ") {
            // The stall lasts longer than the test.
            std::thread::sleep(SOON * 3);
            return;
        }
        peer.read_exactly(1 << 20).unwrap();
        peer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok");
    })
    .unwrap();
    let balancer = in_front_of(&upstream);
    run(async {
        let mut client = Client::open(balancer.address()).await;
        let mut stalled = Vec::new();
        for _ in 0..99 {
            let request = Request::post("http://a.test/stall")
                .header("content-length", 8 << 20)
                .body(())
                .unwrap();
            let (answer, mut send) = client.send(request, false).await;
            stalled.push((
                answer,
                tokio::spawn(async move {
                    let body = Bytes::from(vec![0; 8 << 20]);
                    let _stalls = upload(&mut send, body, true).await;
                }),
            ));
        }
        // Meanwhile the stalled uploads send everything that the windows allow.
        tokio::time::sleep(Duration::from_secs(1)).await;
        let request = Request::post("http://a.test/moves")
            .header("content-length", 1 << 20)
            .body(())
            .unwrap();
        let (answer, mut send) = client.send(request, false).await;
        let moves = async {
            upload(&mut send, Bytes::from(vec![0; 1 << 20]), true)
                .await
                .unwrap();
            whole(answer).await
        };
        let (head, _) = tokio::time::timeout(SOON, moves).await.expect("it moves");
        assert_eq!(head.status(), 200);
        assert!(stalled.iter().all(|(_, upload)| !upload.is_finished()));
    });
}

#[test]
fn empty_frames_do_not_end_a_connection() {
    let upstream = Upstream::answering("hello").unwrap();
    let balancer = in_front_of(&upstream);
    run(async {
        let mut client = Client::open(balancer.address()).await;
        let request = Request::post("http://a.test/").body(()).unwrap();
        let (answer, mut send) = client.send(request, false).await;
        for _ in 0..300 {
            send.send_data(Bytes::new(), false).unwrap();
            tokio::task::yield_now().await;
        }
        upload(&mut send, Bytes::from_static(b"body"), true)
            .await
            .unwrap();
        assert_eq!(answer.await.unwrap().status(), 200);
        assert_eq!(client.get("/").await.0.status(), 200);
    });
}

#[test]
fn an_early_answer_to_an_upload_arrives_whole() {
    let upstream = Upstream::start(|mut peer| {
        peer.read_head();
        peer.write(
            b"HTTP/1.1 413 Too Large\r\nContent-Length: 9\r\nConnection: close\r\n\r\ntoo large",
        );
    })
    .unwrap();
    let balancer = in_front_of(&upstream);
    run(async {
        let mut client = Client::open(balancer.address()).await;
        for _ in 0..5 {
            let request = Request::post("http://a.test/").body(()).unwrap();
            let (answer, mut send) = client.send(request, false).await;
            let uploading = tokio::spawn(async move {
                upload(&mut send, Bytes::from(vec![0; 20 << 20]), true).await
            });
            let (head, body) = whole(answer).await;
            assert_eq!(
                (head.status().as_u16(), body.unwrap().as_slice()),
                (413, &b"too large"[..])
            );
            // The balancer may stop the upload with a reset of the code NO_ERROR (RFC 9113
            // section 8.1).
            let stopped = uploading.await.unwrap();
            if let Err(error) = stopped {
                assert_eq!(error.reason(), Some(Reason::NO_ERROR), "{error}");
            }
        }
    });
}

#[test]
fn an_answer_that_breaks_off_is_reset_and_not_ended() {
    let upstream = Upstream::start(|mut peer| {
        let head = peer.read_head().unwrap_or_default();
        if head.starts_with("GET /length ") {
            peer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\nhalf");
        } else {
            peer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n");
        }
        std::thread::sleep(Duration::from_millis(100));
    })
    .unwrap();
    let balancer = in_front_of(&upstream);
    run(async {
        let mut client = Client::open(balancer.address()).await;
        for path in ["/length", "/chunks"] {
            let (head, body) = client.get(path).await;
            assert_eq!(head.status(), 200);
            let error = body.expect_err(path);
            assert_eq!(error.reason(), Some(Reason::INTERNAL_ERROR), "{path}");
        }
        assert!(!client.connection.is_finished(), "other streams go on");
    });
}

#[test]
fn answers_without_a_body_end_with_their_head() {
    let upstream = Upstream::start(|mut peer| {
        while let Some(head) = peer.read_head() {
            let answer = if head.starts_with("HEAD ") {
                "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"
            } else if head.starts_with("GET /204 ") {
                "HTTP/1.1 204 No Content\r\n\r\n"
            } else if head.starts_with("GET /304 ") {
                "HTTP/1.1 304 Not Modified\r\nContent-Length: 7\r\n\r\n"
            } else {
                "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
            };
            peer.write(answer.as_bytes());
        }
    })
    .unwrap();
    let balancer = in_front_of(&upstream);
    run(async {
        let mut client = Client::open(balancer.address()).await;
        for (method, path, status, length) in [
            ("HEAD", "/", 200, Some("5")),
            ("GET", "/204", 204, None),
            ("GET", "/304", 304, Some("7")),
            ("GET", "/103", 200, Some("0")),
        ] {
            let request = Request::builder()
                .method(method)
                .uri(format!("http://a.test{path}"));
            let (answer, _) = client.send(request.body(()).unwrap(), true).await;
            let answer = answer.await.unwrap();
            assert_eq!(answer.status(), status);
            let told = answer.headers().get("content-length");
            assert_eq!(
                told.map(|told| told.to_str().unwrap()),
                length,
                "{method} {path}"
            );
            assert!(answer.body().is_end_stream(), "{method} {path}");
        }
    });
}

#[test]
fn requests_that_contradict_themselves_are_refused() {
    let upstream = Upstream::answering("hello").unwrap();
    let balancer = in_front_of(&upstream);
    run(async {
        let mut client = Client::open(balancer.address()).await;
        let of = |host: &'static str| Request::get("http://a.test/").header("host", host);
        for (request, status) in [
            (of("b.test"), 400),
            (of("a.test"), 200),
            (of("a.test").header("x_forwarded_for", "1.2.3.4"), 200),
            (Request::connect("a.test:443"), 405),
        ] {
            let (answer, _) = client.send(request.body(()).unwrap(), true).await;
            assert_eq!(answer.await.unwrap().status(), status);
        }
    });
    let received = upstream.all_received();
    assert!(!received.contains("1.2.3.4"), "{received}");
}

#[test]
fn a_websocket_over_http2_reaches_the_server_as_a_websocket_over_http1() {
    let upstream = Upstream::start(|mut peer| {
        let head = peer.read_head().unwrap_or_default();
        if !head.contains("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n")
            || head.starts_with("GET /no ")
        {
            peer.write(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n");
            return;
        }
        peer.write(
            b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\
              Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n",
        );
        while let Some(line) = peer.read_until(b"\n") {
            if !peer.write(&line) {
                return;
            }
        }
    })
    .unwrap();
    let balancer = in_front_of(&upstream);
    run(async {
        let mut client = Client::open(balancer.address()).await;
        let connect = |path: &str| {
            let mut request = Request::connect(format!("http://a.test{path}"))
                .body(())
                .unwrap();
            request
                .extensions_mut()
                .insert(h2::ext::Protocol::from_static("websocket"));
            request
        };
        // Extended CONNECT is allowed once the settings have arrived.
        let _refused = client.get("/settings").await;
        assert!(client.sender.is_extended_connect_protocol_enabled());
        let (refused, _send) = client.send(connect("/no"), false).await;
        assert_eq!(refused.await.unwrap().status(), 403);
        let (answer, mut send) = client.send(connect("/chat"), false).await;
        let answer = answer.await.unwrap();
        assert_eq!(answer.status(), 200);
        let mut body = answer.into_body();
        for round in 0..20 {
            let text = format!("{round} {}\n", "x".repeat(round * 999));
            upload(&mut send, Bytes::from(text.clone()), false)
                .await
                .unwrap();
            let mut back = Vec::new();
            while back.len() < text.len() {
                let piece = body.data().await.unwrap().unwrap();
                body.flow_control().release_capacity(piece.len()).unwrap();
                back.extend_from_slice(&piece);
            }
            assert!(back == text.as_bytes(), "{round}");
        }
        send.send_data(Bytes::new(), true).unwrap();
        assert!(body.data().await.is_none_or(|end| end.unwrap().is_empty()));
    });
}

#[test]
fn a_balancer_that_leaves_says_so_and_finishes_what_is_under_way() {
    let upstream = Upstream::start(|mut peer| {
        while peer.read_head().is_some() {
            std::thread::sleep(Duration::from_millis(700));
            peer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        }
    })
    .unwrap();
    let mut balancer =
        in_front_of_with(&upstream, &["--drain-min", "1s", "--drain-quiet", "100ms"]);
    run(async {
        let mut client = Client::open(balancer.address()).await;
        let request = Request::get("http://a.test/").body(()).unwrap();
        let (answer, _) = client.send(request, true).await;
        tokio::time::sleep(Duration::from_millis(200)).await;
        balancer.process.signal(Signal::TERM).unwrap();
        let (head, body) = whole(answer).await;
        assert_eq!(
            (head.status().as_u16(), body.unwrap().as_slice()),
            (200, &b"ok"[..])
        );
        client.connection.await.unwrap().unwrap();
    });
    assert_eq!(balancer.process.wait(SOON).unwrap().code, 0);
}

#[test]
fn a_flood_of_resets_ends_its_own_connection_only() {
    let upstream = Upstream::answering("hello").unwrap();
    let balancer = in_front_of(&upstream);
    run(async {
        let mut good = Client::open(balancer.address()).await;
        let mut bad = Client::open(balancer.address()).await;
        let mut sent = 0;
        while sent < 20_000
            && poll_fn(|context| bad.sender.poll_ready(context))
                .await
                .is_ok()
        {
            let request = Request::get("http://a.test/").body(()).unwrap();
            let Ok((_answer, mut send)) = bad.sender.send_request(request, true) else {
                break;
            };
            send.send_reset(Reason::CANCEL);
            sent += 1;
            if sent % 50 == 0 {
                tokio::task::yield_now().await;
            }
        }
        println!("{sent} resets were sent");
        for _ in 0..20 {
            let (head, _) = good.get("/").await;
            assert_eq!(head.status(), 200);
        }
    });
    wait::until_true(SOON, "no stream and no request is left", || {
        let metrics = balancer.metrics().unwrap();
        let level = |name: &str| {
            metrics
                .lines()
                .any(|line| line == format!("scaledapp_balancer_{name} 0"))
        };
        level("http2_streams") && level("requests_in_flight")
    })
    .unwrap();
}

#[test]
fn streams_that_clients_give_up_end_at_the_server_too() {
    let upstream = Upstream::start(|mut peer| {
        peer.read_head();
        // This returns when the balancer closes the connection, which ends the request.
        peer.read_to_close();
    })
    .unwrap();
    let balancer = in_front_of(&upstream);
    run(async {
        let mut client = Client::open(balancer.address()).await;
        let mut gone = BTreeMap::new();
        for index in 0..10 {
            let request = Request::get("http://a.test/").body(()).unwrap();
            gone.insert(index, client.send(request, true).await);
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
        for (_, send) in gone.values_mut() {
            send.send_reset(Reason::CANCEL);
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    });
    wait::until_true(
        Duration::from_secs(2),
        "no request is at the server",
        || {
            let metrics = balancer.metrics().unwrap();
            metrics.contains("scaledapp_balancer_requests_in_flight 0\n")
        },
    )
    .unwrap();
}

#[test]
fn http2_can_be_turned_off() {
    let upstream = Upstream::answering("hello").unwrap();
    let balancer = in_front_of_with(&upstream, &["--h2", "false"]);
    run(async {
        let socket = tokio::net::TcpStream::connect(balancer.address())
            .await
            .unwrap();
        let (mut sender, connection) = h2::client::handshake(socket).await.unwrap();
        let connection = tokio::spawn(connection);
        let request = Request::get("http://a.test/").body(()).unwrap();
        let answer = sender.send_request(request, true).unwrap().0.await;
        let told = answer.unwrap_err();
        assert_eq!(told.reason(), Some(Reason::HTTP_1_1_REQUIRED), "{told}");
        let _ended = connection.await.unwrap();
    });
}
