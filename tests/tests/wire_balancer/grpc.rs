//! gRPC calls through a balancer to a server that speaks HTTP/2 only, with the `h2` crate on both
//! sides.
//!
//! The layer `languages` tests real gRPC implementations. Here, the server does on purpose what
//! these do only by chance: it refuses calls, shuts down, or breaks off.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::server::{Connection, SendResponse};
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, HeaderValue, Request, Response};
use scaledapp_tests::balancer::{Balancer, Launch};
use scaledapp_tests::{http as http1, wait};
use tokio::net::{TcpListener, TcpStream};

use crate::SOON;
use crate::http2::{Client, run};

/// One gRPC message.
fn message(text: &str) -> Bytes {
    let mut bytes = vec![0];
    bytes.extend_from_slice(&u32::try_from(text.len()).unwrap().to_be_bytes());
    bytes.extend_from_slice(text.as_bytes());
    bytes.into()
}

/// What a server has observed.
#[derive(Default)]
struct Seen {
    connections: AtomicU32,
    calls: Mutex<BTreeMap<String, u32>>,
    /// The codes with which the balancer has reset streams.
    resets: Mutex<Vec<Reason>>,
    heads: Mutex<Vec<HeaderMap>>,
    /// Calls of `/fail` succeed.
    is_healthy: AtomicBool,
}

impl Seen {
    fn calls(&self, path: &str) -> u32 {
        *self.calls.lock().unwrap().get(path).unwrap_or(&0)
    }
}

/// A server whose behaviour depends on the path of a call. It runs until the process ends.
struct Server {
    address: SocketAddr,
    seen: Arc<Seen>,
}

impl Server {
    fn start() -> Self {
        Self::start_with(100)
    }

    /// Like [`Self::start`], with at most `streams` calls at the same time on each connection.
    fn start_with(streams: u32) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::<Seen>::default();
        let shared = Arc::clone(&seen);
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            runtime.unwrap().block_on(async {
                let listener = TcpListener::from_std(listener).unwrap();
                loop {
                    let (socket, _) = listener.accept().await.unwrap();
                    shared.connections.fetch_add(1, Ordering::Relaxed);
                    tokio::spawn(serve(socket, streams, Arc::clone(&shared)));
                }
            });
        });
        Self { address, seen }
    }
}

async fn serve(socket: TcpStream, streams: u32, seen: Arc<Seen>) {
    socket.set_nodelay(true).unwrap();
    let mut builder = h2::server::Builder::new();
    let handshake = builder.max_concurrent_streams(streams).handshake(socket);
    let Ok(mut connection) = handshake.await else {
        return;
    };
    while let Some(Ok((request, respond))) = connection.accept().await {
        let path = request.uri().path().to_owned();
        *seen.calls.lock().unwrap().entry(path.clone()).or_default() += 1;
        seen.heads.lock().unwrap().push(request.headers().clone());
        match path.as_str() {
            // Streams that have begun continue.
            "/leave" => connection.graceful_shutdown(),
            "/abort" => {
                abort(&mut connection, request, respond).await;
                return;
            }
            _ => {}
        }
        tokio::spawn(call(path, request.into_body(), respond, Arc::clone(&seen)));
    }
}

/// Ends the connection in the middle of a message.
async fn abort(
    connection: &mut Connection<TcpStream, Bytes>,
    _request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
) {
    let mut send = respond.send_response(head(), false).unwrap();
    let mut piece = message("whole").to_vec();
    piece.extend_from_slice(&message("half")[..7]);
    send.send_data(piece.into(), false).unwrap();
    let sent = poll_fn(|context| connection.poll_closed(context));
    let _ended = tokio::time::timeout(Duration::from_millis(200), sent).await;
}

fn head() -> Response<()> {
    let head = Response::builder().header("content-type", "application/grpc");
    head.body(()).unwrap()
}

fn status(code: u32) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from(code));
    trailers.insert("x-at-the-end", HeaderValue::from_static("yes"));
    trailers
}

/// Sends bytes as fast as the flow-control windows allow.
async fn send_all(send: &mut SendStream<Bytes>, mut left: Bytes) {
    while !left.is_empty() {
        send.reserve_capacity(left.len());
        let Some(Ok(room)) = poll_fn(|context| send.poll_capacity(context)).await else {
            return;
        };
        let piece = left.split_to(room.min(left.len()));
        send.send_data(piece, false).unwrap();
    }
}

async fn call(
    path: String,
    mut body: RecvStream,
    mut respond: SendResponse<Bytes>,
    seen: Arc<Seen>,
) {
    let times = seen.calls(&path);
    match path.as_str() {
        "/not-found" => {
            let mut only = head();
            only.headers_mut().extend(status(5));
            // The answer ends before the request, so a reset with NO_ERROR may follow.
            respond.send_response(only, true).unwrap();
        }
        "/refuse" if times == 1 => respond.send_reset(Reason::REFUSED_STREAM),
        "/silence" => {
            let reason = poll_fn(|context| respond.poll_reset(context)).await;
            if let Ok(reason) = reason {
                seen.resets.lock().unwrap().push(reason);
            }
        }
        "/break" => {
            let mut send = respond.send_response(head(), false).unwrap();
            send.send_data(message("one"), false).unwrap();
            tokio::time::sleep(Duration::from_millis(100)).await;
            send.send_reset(Reason::INTERNAL_ERROR);
        }
        "/details" => {
            let mut send = respond.send_response(head(), false).unwrap();
            send.send_data(message("one"), false).unwrap();
            let mut trailers = status(9);
            let details = "x".repeat(40_000);
            trailers.insert("grpc-status-details-bin", details.parse().unwrap());
            for name in ["x-request-id", "date", "retry-after", "set-cookie"] {
                trailers.insert(name, HeaderValue::from_static("theirs"));
            }
            send.send_trailers(trailers).unwrap();
        }
        "/fail" => {
            let is_healthy = seen.is_healthy.load(Ordering::Relaxed);
            let mut send = respond.send_response(head(), false).unwrap();
            let code = if is_healthy { 0 } else { 14 };
            send.send_trailers(status(code)).unwrap();
        }
        _ => {
            // Each message is sent back when it arrives.
            let mut send = respond.send_response(head(), false).unwrap();
            while let Some(Ok(data)) = body.data().await {
                body.flow_control().release_capacity(data.len()).unwrap();
                send_all(&mut send, data).await;
            }
            let _gone = send.send_trailers(status(0));
        }
    }
}

fn in_front_of(servers: &[&Server]) -> Balancer {
    let addresses: Vec<SocketAddr> = servers.iter().map(|server| server.address).collect();
    let launch = Launch::to(&addresses).unwrap();
    launch.with(&["--protocol", "h2c"]).ready().unwrap()
}

/// A request without its body.
fn request(path: &str) -> Request<()> {
    request_with(path, &[])
}

fn request_with(path: &str, fields: &[(&str, &str)]) -> Request<()> {
    let mut request = Request::post(format!("http://a.test{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers");
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    request.body(()).unwrap()
}

/// How a call has ended.
#[derive(Debug)]
struct Ended {
    head: HeaderMap,
    data: Vec<u8>,
    trailers: Result<HeaderMap, h2::Error>,
}

impl Ended {
    /// The status, from the trailer fields or from the head.
    fn status(&self) -> Option<&str> {
        let trailers = self.trailers.as_ref().ok()?;
        let status = trailers.get("grpc-status");
        let status = status.or_else(|| self.head.get("grpc-status"));
        status.map(|status| status.to_str().unwrap())
    }
}

async fn whole(answer: h2::client::ResponseFuture) -> Ended {
    let answer = answer.await.unwrap();
    assert_eq!(answer.status(), 200);
    let (head, mut body) = answer.into_parts();
    let mut data = Vec::new();
    let error = loop {
        match body.data().await {
            Some(Ok(piece)) => {
                body.flow_control().release_capacity(piece.len()).unwrap();
                data.extend_from_slice(&piece);
            }
            Some(Err(error)) => break Some(error),
            None => break None,
        }
    };
    let trailers = match error {
        Some(error) => Err(error),
        None => body.trailers().await.map(Option::unwrap_or_default),
    };
    Ended {
        head: head.headers,
        data,
        trailers,
    }
}

/// One call with one message.
async fn unary(client: &mut Client, request: Request<()>) -> Ended {
    let (answer, mut send) = client.send(request, false).await;
    // The call may have ended before the message is sent.
    let _ended = send.send_data(message("hello"), true);
    whole(answer).await
}

#[test]
fn a_call_has_its_trailers_and_all_calls_share_a_connection() {
    let server = Server::start();
    let balancer = in_front_of(&[&server]);
    run(async {
        let mut client = Client::open(balancer.address()).await;
        let mut calls = tokio::task::JoinSet::new();
        for _ in 0..50 {
            let (answer, mut send) = client.send(request("/echo"), false).await;
            send.send_data(message("hello"), true).unwrap();
            calls.spawn(whole(answer));
        }
        while let Some(ended) = calls.join_next().await {
            let ended = ended.unwrap();
            assert_eq!(ended.status(), Some("0"), "{ended:?}");
            assert_eq!(ended.data, message("hello"));
            assert_eq!(ended.head["content-type"], "application/grpc");
            assert_eq!(ended.trailers.unwrap()["x-at-the-end"], "yes");
        }
    });
    assert_eq!(server.seen.connections.load(Ordering::Relaxed), 1);
    let heads = server.seen.heads.lock().unwrap();
    assert_eq!(heads[0]["te"], "trailers");
    assert_eq!(heads[0]["x-forwarded-for"], "127.0.0.1");
}

#[test]
fn calls_go_to_all_servers_although_they_come_over_one_connection() {
    let servers = [Server::start(), Server::start()];
    let balancer = in_front_of(&[&servers[0], &servers[1]]);
    run(async {
        let mut client = Client::open(balancer.address()).await;
        for _ in 0..40 {
            let ended = unary(&mut client, request("/echo")).await;
            assert_eq!(ended.status(), Some("0"));
        }
    });
    for server in &servers {
        assert!(
            server.seen.calls("/echo") >= 10,
            "{}",
            server.seen.calls("/echo")
        );
    }
}

#[test]
fn both_directions_of_a_call_flow_at_the_same_time() {
    let server = Server::start();
    let balancer = in_front_of(&[&server]);
    run(async {
        let mut client = Client::open(balancer.address()).await;
        let (answer, mut send) = client.send(request("/echo"), false).await;
        // The head of the answer comes before any message.
        let mut body = answer.await.unwrap().into_body();
        for text in ["one", "two", "three"] {
            send.send_data(message(text), false).unwrap();
            let wanted = message(text);
            let mut got = Vec::new();
            while got.len() < wanted.len() {
                let piece = body.data().await.unwrap().unwrap();
                body.flow_control().release_capacity(piece.len()).unwrap();
                got.extend_from_slice(&piece);
            }
            assert_eq!(got, wanted);
        }
        send.send_data(Bytes::new(), true).unwrap();
        assert!(body.data().await.is_none());
        assert_eq!(body.trailers().await.unwrap().unwrap()["grpc-status"], "0");
    });
}

#[test]
fn a_large_message_passes_in_both_directions() {
    let server = Server::start();
    let balancer = in_front_of(&[&server]);
    run(async {
        let mut client = Client::open(balancer.address()).await;
        let (answer, mut send) = client.send(request("/echo"), false).await;
        let large = message(&"x".repeat(4 << 20));
        let reading = tokio::spawn(whole(answer));
        send_all(&mut send, large.clone()).await;
        send.send_data(Bytes::new(), true).unwrap();
        let ended = reading.await.unwrap();
        assert_eq!(ended.status(), Some("0"));
        assert!(ended.data == large);
    });
}

#[test]
fn a_call_that_was_not_processed_is_sent_again_and_others_are_not() {
    let server = Server::start();
    let balancer = in_front_of(&[&server]);
    run(async {
        let mut client = Client::open(balancer.address()).await;
        let ended = unary(&mut client, request("/not-found")).await;
        assert_eq!(ended.status(), Some("5"), "{ended:?}");
        assert!(ended.data.is_empty());
        assert_eq!(server.seen.calls("/not-found"), 1);
        let ended = unary(&mut client, request("/refuse")).await;
        assert_eq!(ended.status(), Some("0"), "{ended:?}");
        assert_eq!(server.seen.calls("/refuse"), 2);
    });
}

#[test]
fn a_server_that_leaves_loses_no_call() {
    let server = Server::start();
    let balancer = in_front_of(&[&server]);
    run(async {
        let mut client = Client::open(balancer.address()).await;
        for _ in 0..5 {
            let (long, mut send) = client.send(request("/echo"), false).await;
            assert_eq!(
                unary(&mut client, request("/leave")).await.status(),
                Some("0")
            );
            for _ in 0..10 {
                let ended = unary(&mut client, request("/echo")).await;
                assert_eq!(ended.status(), Some("0"), "{ended:?}");
            }
            send.send_data(message("late"), true).unwrap();
            assert_eq!(whole(long).await.status(), Some("0"));
        }
    });
    assert!(server.seen.connections.load(Ordering::Relaxed) >= 5);
}

#[test]
fn a_deadline_ends_the_call_on_both_sides() {
    let server = Server::start();
    let balancer = in_front_of(&[&server]);
    run(async {
        let mut client = Client::open(balancer.address()).await;
        let start = Instant::now();
        let call = request_with("/silence", &[("grpc-timeout", "300m")]);
        let ended = unary(&mut client, call).await;
        assert_eq!(ended.status(), Some("4"), "{ended:?}");
        assert!(start.elapsed() >= Duration::from_millis(250));
        // A malformed `grpc-timeout` sets no deadline.
        let call = request_with("/echo", &[("grpc-timeout", "5x")]);
        assert_eq!(unary(&mut client, call).await.status(), Some("0"));
    });
    let is_reset = || match server.seen.resets.lock().unwrap().as_slice() {
        [reason] => Ok(*reason),
        _ => Err("the server's stream is open"),
    };
    let reason = wait::until(SOON, "the server's stream is reset", is_reset).unwrap();
    assert_eq!(reason, Reason::CANCEL);
}

#[test]
fn a_client_that_cancels_ends_the_servers_stream() {
    let server = Server::start();
    let balancer = in_front_of(&[&server]);
    run(async {
        let mut client = Client::open(balancer.address()).await;
        let (answer, mut send) = client.send(request("/silence"), false).await;
        send.send_data(message("hello"), false).unwrap();
        while server.seen.calls("/silence") == 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        send.send_reset(Reason::CANCEL);
        drop(answer);
        while server.seen.resets.lock().unwrap().is_empty() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    assert_eq!(*server.seen.resets.lock().unwrap(), [Reason::CANCEL]);
}

#[test]
fn a_call_that_breaks_off_ends_with_a_status_its_client_may_act_on() {
    let server = Server::start();
    let balancer = in_front_of(&[&server]);
    run(async {
        let mut client = Client::open(balancer.address()).await;
        let ended = unary(&mut client, request("/break")).await;
        assert_eq!(ended.data, message("one"));
        assert_eq!(ended.status(), Some("14"), "{ended:?}");
        // In the middle of a message, only a reset is possible.
        let ended = unary(&mut client, request("/abort")).await;
        assert!(ended.trailers.unwrap_err().is_reset());
        // The connection of the client is not affected.
        assert_eq!(
            unary(&mut client, request("/echo")).await.status(),
            Some("0")
        );
    });
}

#[test]
fn without_a_server_a_call_is_answered_in_its_own_protocol() {
    let nobody = scaledapp_tests::ports::local().unwrap();
    let launch = Launch::to(&[nobody]).unwrap();
    let options = ["--protocol", "h2c", "--waiting-time", "200ms"];
    let balancer = launch.with(&options).ready().unwrap();
    run(async {
        let mut client = Client::open(balancer.address()).await;
        let ended = unary(&mut client, request("/echo")).await;
        assert_eq!(ended.status(), Some("14"), "{ended:?}");
        assert!(ended.head.contains_key("grpc-message"));
    });
}

#[test]
fn the_status_unavailable_ejects_a_server_and_a_status_of_the_app_does_not() {
    let (server, healthy) = (Server::start(), Server::start());
    healthy.seen.is_healthy.store(true, Ordering::Relaxed);
    let balancer = in_front_of(&[&server, &healthy]);
    let ejections = |balancer: &Balancer| {
        let metrics = balancer.metrics().unwrap();
        let name = "scaledapp_balancer_ejections_total ";
        let line = metrics.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap_or_default().to_owned()
    };
    run(async {
        let mut client = Client::open(balancer.address()).await;
        for _ in 0..40 {
            let ended = unary(&mut client, request("/not-found")).await;
            assert_eq!(ended.status(), Some("5"));
        }
        assert_eq!(ejections(&balancer), "0");
        let mut failed = 0;
        for _ in 0..40 {
            let ended = unary(&mut client, request("/fail")).await;
            failed += u32::from(ended.status() == Some("14"));
        }
        assert!((5..20).contains(&failed), "{failed} calls of 40 failed");
        assert_ne!(ejections(&balancer), "0");
    });
}

#[test]
fn clients_of_http1_reach_a_server_that_speaks_only_http2() {
    let server = Server::start();
    let balancer = in_front_of(&[&server]);
    let answer = http1::get(balancer.address(), "/echo").unwrap();
    assert_eq!(answer.status, 200);
    assert_eq!(server.seen.calls("/echo"), 1);
}

#[test]
fn trailers_pass_whatever_their_size_and_names_are() {
    let server = Server::start();
    let balancer = in_front_of(&[&server]);
    run(async {
        let mut client = Client::open(balancer.address()).await;
        let ended = unary(&mut client, request("/details")).await;
        assert_eq!(ended.status(), Some("9"), "{:?}", ended.trailers);
        let trailers = ended.trailers.unwrap();
        assert_eq!(trailers["grpc-status-details-bin"].len(), 40_000);
        for name in ["x-request-id", "date", "retry-after", "set-cookie"] {
            assert_eq!(trailers[name], "theirs", "{name}");
        }
    });
}

#[test]
fn a_server_that_allows_few_calls_at_a_time_refuses_none_of_a_burst() {
    let server = Server::start_with(3);
    let balancer = in_front_of(&[&server]);
    run(async {
        let mut client = Client::open(balancer.address()).await;
        let mut calls = tokio::task::JoinSet::new();
        for _ in 0..40 {
            let (answer, mut send) = client.send(request("/echo"), false).await;
            send.send_data(message("hello"), true).unwrap();
            calls.spawn(whole(answer));
        }
        while let Some(ended) = calls.join_next().await {
            let ended = ended.unwrap();
            assert_eq!(ended.status(), Some("0"), "{ended:?}");
        }
    });
}

/// Servers of protocols other than gRPC, such as Connect, also answer before the request has ended.
#[test]
fn both_directions_flow_in_any_protocol() {
    let server = Server::start();
    let balancer = in_front_of(&[&server]);
    run(async {
        let mut client = Client::open(balancer.address()).await;
        let request = Request::post("http://a.test/echo")
            .header("content-type", "application/connect+proto")
            .body(())
            .unwrap();
        let (answer, mut send) = client.send(request, false).await;
        send.send_data(Bytes::from_static(b"first"), false).unwrap();
        let mut body = answer.await.unwrap().into_body();
        assert_eq!(body.data().await.unwrap().unwrap(), "first");
        send.send_data(Bytes::new(), true).unwrap();
        assert!(body.data().await.is_none());
    });
}
