//! Requests that wait for a first pod (`--hold`), and `/load`, which tells the autoscaler of them.
//!
//! The order and the pace of the release have unit tests in `scaledapp-select`. These tests need
//! real clients that wait, leave or ask for too much.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use scaledapp_tests::balancer::{Balancer, Launch};
use scaledapp_tests::http::{self, Connection, Request};
use scaledapp_tests::upstream::Upstream;
use scaledapp_tests::wait;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::SOON;
use crate::http2::{Client, run};

/// A balancer whose endpoints file lists no pod yet.
struct Empty {
    balancer: Balancer,
    file: PathBuf,
    _directory: tempfile::TempDir,
}

fn publish(file: &Path, pods: &[SocketAddr]) {
    let entry = |address: &SocketAddr| json!({"name": address.to_string(), "address": address});
    let entries: Vec<Value> = pods.iter().map(entry).collect();
    let next = file.with_extension("next");
    std::fs::write(&next, serde_json::to_vec(&entries).unwrap()).unwrap();
    std::fs::rename(&next, file).unwrap();
}

impl Empty {
    fn start(options: &[&str]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("endpoints.json");
        publish(&file, &[]);
        let launch = Launch::new(&["--endpoints-file", &file.to_string_lossy()]).unwrap();
        Self {
            balancer: launch.with(options).ready().unwrap(),
            file,
            _directory: directory,
        }
    }

    fn publish(&self, pods: &[SocketAddr]) {
        publish(&self.file, pods);
    }

    /// The value of a metric of the balancer.
    fn metric(&self, name: &str) -> f64 {
        let text = self.balancer.metrics().unwrap();
        let name = format!("scaledapp_balancer_{name} ");
        let line = text.lines().find_map(|line| line.strip_prefix(&name));
        line.unwrap_or_else(|| panic!("no {name} in {text}"))
            .parse()
            .unwrap()
    }

    fn holds(&self, count: usize) {
        let holds = || (self.metric("requests_held") as usize) == count;
        wait::until_true(SOON * 3, &format!("{count} are held"), holds).unwrap();
    }
}

impl Empty {
    /// As [`Self::holds`], while other tasks go on.
    async fn comes_to_hold(&self, count: usize) {
        let end = Instant::now() + SOON * 3;
        while self.metric("requests_held") as usize != count {
            assert!(
                Instant::now() < end,
                "{} are held",
                self.metric("requests_held")
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

/// What a pod has seen.
#[derive(Default)]
struct Seen {
    now: AtomicUsize,
    most: AtomicUsize,
    /// The paths in the order of their arrival, with the time of the first.
    paths: Mutex<(Vec<usize>, Option<Instant>)>,
}

/// A pod that answers after a moment, and counts.
async fn pod() -> (SocketAddr, Arc<Seen>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let seen = Arc::<Seen>::default();
    let shared = Arc::clone(&seen);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(answer(stream, Arc::clone(&shared)));
        }
    });
    (address, seen)
}

async fn answer(stream: TcpStream, seen: Arc<Seen>) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    loop {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if stream.read_line(&mut head).await? == 0 {
                return Ok(());
            }
        }
        let now = seen.now.fetch_add(1, Ordering::SeqCst) + 1;
        seen.most.fetch_max(now, Ordering::SeqCst);
        {
            let mut paths = seen.paths.lock().unwrap();
            let number = head
                .split(['/', ' '])
                .nth(2)
                .and_then(|it| it.parse::<usize>().ok());
            paths.0.extend(number);
            paths.1.get_or_insert_with(Instant::now);
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
        seen.now.fetch_sub(1, Ordering::SeqCst);
        let ok = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
        stream.get_mut().write_all(ok).await?;
    }
}

fn get(path: usize) -> String {
    format!("GET /{path} HTTP/1.1\r\nHost: a\r\n\r\n")
}

#[test]
fn two_thousand_held_requests_go_in_order_and_few_at_a_time_and_ten_thousand_are_answered() {
    run_long(async {
        let empty = Empty::start(&["--hold", "1m", "--connections", "20000"]);
        let (address, seen) = pod().await;
        let mut clients = Vec::new();
        for number in 0..2000 {
            let mut stream = TcpStream::connect(empty.balancer.address()).await.unwrap();
            stream.write_all(get(number).as_bytes()).await.unwrap();
            clients.push(stream);
        }
        empty.comes_to_hold(2000).await;
        let begun = Instant::now();
        empty.publish(&[address]);
        let mut tasks = JoinSet::new();
        for (number, mut stream) in clients.into_iter().enumerate() {
            tasks.spawn(async move {
                let mut lost = 0;
                for round in 0..5 {
                    if round > 0 {
                        let request = get(number + 2000 * round);
                        stream.write_all(request.as_bytes()).await.unwrap();
                    }
                    let mut answer = Vec::new();
                    while !answer.ends_with(b"\r\n\r\nok") {
                        match stream.read_buf(&mut answer).await {
                            Ok(1..) => {}
                            _ => break,
                        }
                    }
                    lost += usize::from(!answer.starts_with(b"HTTP/1.1 200 "));
                }
                lost
            });
        }
        let lost: usize = tasks.join_all().await.into_iter().sum();
        let took = begun.elapsed();
        let (paths, first) = &*seen.paths.lock().unwrap();
        let waited = first.unwrap() - begun;
        let most = seen.most.load(Ordering::SeqCst);
        let held: Vec<usize> = paths.iter().copied().filter(|it| *it < 2000).collect();
        let late = held
            .iter()
            .enumerate()
            .map(|(at, number)| at.abs_diff(*number));
        let displaced = late.max().unwrap();
        println!(
            "10,000 requests over 2,000 held connections: {lost} lost; the first reached the pod {waited:?} \
             after the list named it; all after {took:?}; {most} at once; displaced by up to {displaced}"
        );
        assert_eq!(lost, 0);
        assert_eq!(paths.len(), 10_000);
        // The pod sees the requests on many connections, in the order in which it comes to read them.
        assert!(displaced <= 800, "the order is kept roughly: {displaced}");
    });
}

#[test]
fn ten_thousand_held_streams_reach_a_single_pod_a_few_at_first() {
    run_long(async {
        let empty = Empty::start(&["--hold", "1m"]);
        let (address, seen) = pod().await;
        let mut connections = Vec::new();
        let mut answers = Vec::new();
        for number in 0..10_000 {
            if number % 100 == 0 {
                connections.push(Client::open(empty.balancer.address()).await);
            }
            let request = ::http::Request::get(format!("http://a.test/{number}"));
            let client = connections.last_mut().unwrap();
            answers.push(client.send(request.body(()).unwrap(), true).await.0);
        }
        empty.comes_to_hold(10_000).await;
        let begun = Instant::now();
        empty.publish(&[address]);
        let mut lost = 0;
        for answer in answers {
            lost += usize::from(!answer.await.is_ok_and(|answer| answer.status() == 200));
        }
        let took = begun.elapsed();
        let first = seen.paths.lock().unwrap().1.unwrap() - begun;
        let most = seen.most.load(Ordering::SeqCst);
        println!(
            "10,000 held streams: {lost} lost, first after {first:?}, all after {took:?}, {most} at once"
        );
        assert_eq!(lost, 0);
        assert!(
            most <= 128,
            "one worker gets at most 128 of them at once: {most}"
        );
        assert_eq!(
            empty.metric("held_requests_ended_total{outcome=\"served\"}") as usize,
            10_000
        );
        assert_eq!(empty.metric("requests_held") as usize, 0);
    });
}

/// Runs a test for at most a minute and a half.
fn run_long(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let in_time = async { tokio::time::timeout(SOON * 9, test).await };
    runtime.unwrap().block_on(in_time).unwrap();
}

#[test]
fn bounds_and_time_give_503_and_a_client_that_leaves_frees_its_place() {
    let options = [
        "--hold",
        "3s",
        "--hold-requests",
        "2",
        "--hold-bytes",
        "40Ki",
    ];
    let empty = Empty::start(&options);
    let to = empty.balancer.address();
    let send = |bytes: &[u8]| {
        let mut connection = Connection::open(to, SOON).unwrap();
        connection.write(bytes).unwrap();
        connection
    };
    let first = send(get(1).as_bytes());
    let mut second = send(get(2).as_bytes());
    empty.holds(2);
    let refused = http::get(to, "/").unwrap();
    assert_eq!(
        (refused.status, refused.field("retry-after")),
        (503, Some("1"))
    );
    assert_eq!(refused.text().trim(), "queue-full");
    let begun = Instant::now();
    drop(first);
    empty.holds(1);
    println!(
        "a client that left freed its place within {:?}",
        begun.elapsed()
    );
    // There is room for one more, but not for so large a body.
    let body = vec![b'x'; 60 << 10];
    let mut large = Connection::open(to, SOON).unwrap();
    let refused = large.send(&Request::post("/", &body)).unwrap();
    assert_eq!(
        (refused.status, refused.field("retry-after")),
        (503, Some("1"))
    );
    let late = second.read("GET").unwrap();
    assert_eq!((late.status, late.field("retry-after")), (503, Some("1")));
    for (outcome, count) in [("timed_out", 1), ("client_left", 1), ("refused", 2)] {
        let name = format!("held_requests_ended_total{{outcome=\"{outcome}\"}}");
        assert_eq!(empty.metric(&name) as usize, count, "{outcome}");
    }
    assert!(empty.metric("held_seconds_total") >= 3.0);
}

#[test]
fn without_the_flag_requests_wait_as_before() {
    let empty = Empty::start(&["--waiting-time", "300ms"]);
    let begun = Instant::now();
    let refused = http::get(empty.balancer.address(), "/").unwrap();
    assert_eq!(refused.status, 503);
    assert!(begun.elapsed() < Duration::from_secs(5));
    assert_eq!(empty.metric("held_requests_total") as usize, 0);
    let answer = http::get(empty.balancer.launch.admin, "/readyz").unwrap();
    assert_eq!(answer.status, 200);
}

#[test]
fn a_pod_that_dies_at_once_loses_no_held_request_and_holding_goes_on() {
    let empty = Empty::start(&["--hold", "30s", "--waiting-time", "300ms"]);
    let to = empty.balancer.address();
    let clients: Vec<_> = (0..20)
        .map(|_| std::thread::spawn(move || http::get(to, "/").map(|answer| answer.status)))
        .collect();
    empty.holds(20);
    // Nothing listens there any more.
    let gone = Upstream::answering("x").unwrap().address();
    std::thread::sleep(Duration::from_millis(100));
    empty.publish(&[gone]);
    std::thread::sleep(Duration::from_millis(500));
    empty.publish(&[]);
    std::thread::sleep(Duration::from_millis(500));
    let later = std::thread::spawn(move || http::get(to, "/").map(|answer| answer.status));
    empty.holds(21);
    let pod = Upstream::answering("ok").unwrap();
    empty.publish(&[pod.address()]);
    for client in clients.into_iter().chain([later]) {
        assert_eq!(client.join().unwrap().unwrap(), 200);
    }
}

#[test]
fn websockets_and_connections_are_held_and_no_byte_is_lost() {
    let empty = Empty::start(&["--hold", "30s", "--waiting-time", "100ms"]);
    let mut socket = Connection::open(empty.balancer.address(), SOON).unwrap();
    let upgrade =
        "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nearly";
    socket.write(upgrade.as_bytes()).unwrap();
    empty.holds(1);
    std::thread::sleep(Duration::from_millis(300));
    let echo = Upstream::start(|mut peer| {
        if peer.read_head().is_some() {
            peer.write(b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n");
            let early = peer.read_exactly(5).unwrap_or_default();
            peer.write(&early);
        }
    })
    .unwrap();
    empty.publish(&[echo.address()]);
    assert_eq!(socket.read("GET").unwrap().status, 101);
    assert_eq!(socket.read_bytes(5).unwrap(), b"early");

    let empty = Empty::start(&[
        "--protocol",
        "tcp",
        "--hold",
        "30s",
        "--waiting-time",
        "100ms",
    ]);
    let sent: Vec<u8> = (0..100_000_u32).flat_map(u32::to_le_bytes).collect();
    let mut client = std::net::TcpStream::connect(empty.balancer.address()).unwrap();
    client.set_read_timeout(Some(SOON)).unwrap();
    let mut writer = client.try_clone().unwrap();
    let bytes = sent.clone();
    let writing = std::thread::spawn(move || {
        std::io::Write::write_all(&mut writer, &bytes).unwrap();
        writer.shutdown(std::net::Shutdown::Write).unwrap();
    });
    empty.holds(1);
    std::thread::sleep(Duration::from_millis(300));
    let echo = Upstream::start(|mut peer| {
        let all = peer.read_to_close();
        peer.write(&all);
    })
    .unwrap();
    empty.publish(&[echo.address()]);
    let mut received = Vec::new();
    std::io::Read::read_to_end(&mut client, &mut received).unwrap();
    writing.join().unwrap();
    assert!(
        received == sent,
        "{} of {} bytes",
        received.len(),
        sent.len()
    );
}

/// The lines of `/load`, as they come.
struct Lines(BufReader<TcpStream>);

impl Lines {
    async fn open(admin: SocketAddr) -> Self {
        let mut stream = TcpStream::connect(admin).await.unwrap();
        let request = b"GET /load HTTP/1.1\r\nHost: a\r\n\r\n";
        stream.write_all(request).await.unwrap();
        Self(BufReader::new(stream))
    }

    async fn next(&mut self) -> Value {
        loop {
            let mut line = String::new();
            assert!(self.0.read_line(&mut line).await.unwrap() > 0, "it ended");
            if line.starts_with('{') {
                return serde_json::from_str(&line).unwrap();
            }
        }
    }
}

#[test]
fn load_counts_each_request_once_and_tells_at_once_of_one_that_waits() {
    let empty = Empty::start(&["--hold", "30s"]);
    run(async {
        let to = empty.balancer.address();
        let mut lines = Lines::open(empty.balancer.launch.admin).await;
        let first = lines.next().await;
        assert_eq!(
            (&first["arrivals"], &first["queued"]),
            (&json!(0), &json!(0))
        );
        let run = first["run"].as_str().unwrap().to_owned();
        assert!(!run.is_empty());
        tokio::time::sleep(Duration::from_millis(200)).await;
        let begun = Instant::now();
        let mut waits = TcpStream::connect(to).await.unwrap();
        waits.write_all(get(1).as_bytes()).await.unwrap();
        let mut line = lines.next().await;
        while line["queued"] == 0 {
            line = lines.next().await;
        }
        let told = begun.elapsed();
        println!("/load told of a request that waits after {told:?}");
        assert!(told < Duration::from_millis(600), "{told:?}");
        assert_eq!((&line["arrivals"], &line["queued"]), (&json!(1), &json!(1)));
        let (address, _seen) = pod().await;
        empty.publish(&[address]);
        waits.read_exact(&mut [0; 12]).await.unwrap();
        // Over HTTP/2 as well.
        let mut client = Client::open(to).await;
        for number in 0..9 {
            let request = ::http::Request::get(format!("http://a.test/{number}"));
            let (answer, _) = client.send(request.body(()).unwrap(), true).await;
            assert_eq!(answer.await.unwrap().status(), 200);
        }
        let expected = (json!(10), json!(0), json!(0));
        loop {
            line = lines.next().await;
            let seen = (&line["arrivals"], &line["queued"], &line["inFlight"]);
            if seen == (&expected.0, &expected.1, &expected.2) {
                break;
            }
        }
        assert_eq!(line["run"], json!(run));
    });
    let again = Empty::start(&["--hold", "30s"]);
    run(async {
        let line = Lines::open(again.balancer.launch.admin).await.next().await;
        assert_eq!(line["arrivals"], 0);
    });
}
