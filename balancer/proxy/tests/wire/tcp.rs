//! Relayed connections: what passes, how each side ends, and what happens without an endpoint.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant};

use scaledapp_proxy::{Config, Endpoint, Limits, Sticky, Table, UpstreamProtocol};
use socket2::{Domain, Socket, Type};

use crate::peers::{MOMENT, Running, read_all, short, start_with, until};

const SOON: Duration = Duration::from_secs(10);

pub(crate) fn config(limits: Limits) -> Config {
    Config {
        upstream: UpstreamProtocol::Tcp,
        limits,
        ..Config::balancer()
    }
}

/// A server whose connections the test takes.
pub(crate) struct Server {
    pub(crate) listener: TcpListener,
    pub(crate) endpoint: Arc<Endpoint>,
}

impl Server {
    pub(crate) fn open(name: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = Endpoint::new(name, listener.local_addr().unwrap());
        Self { listener, endpoint }
    }

    pub(crate) fn accept(&self) -> TcpStream {
        let (stream, _) = self.listener.accept().unwrap();
        stream.set_read_timeout(Some(SOON)).unwrap();
        stream
    }
}

/// An endpoint at which nothing listens.
fn dead(name: &str) -> Arc<Endpoint> {
    Server::open(name).endpoint
}

fn relay(limits: Limits) -> (Running, Server) {
    let server = Server::open("app");
    let running = start_with(vec![Arc::clone(&server.endpoint)], config(limits));
    (running, server)
}

/// Both ends of a relayed connection: the client's and the server's.
fn pair(limits: Limits) -> (Running, Server, TcpStream, TcpStream) {
    let (running, server) = relay(limits);
    let client = running.connect();
    let app = server.accept();
    (running, server, client, app)
}

fn say(from: &mut TcpStream, to: &mut TcpStream, bytes: &[u8]) {
    from.write_all(bytes).unwrap();
    let mut heard = vec![0; bytes.len()];
    to.read_exact(&mut heard).unwrap();
    assert_eq!(heard, bytes);
}

/// Closes with a reset.
fn reset(stream: TcpStream) {
    let socket = Socket::from(stream);
    socket.set_linger(Some(Duration::ZERO)).unwrap();
}

fn is_reset(stream: &mut TcpStream) -> bool {
    let read = stream.read_to_end(&mut Vec::new());
    read.is_err_and(|error| error.kind() == ErrorKind::ConnectionReset)
}

#[test]
fn the_server_may_speak_first_and_bytes_pass_both_ways() {
    let (running, server, mut client, mut app) = pair(Limits::default());
    say(&mut app, &mut client, b"220 ready\r\n");
    say(&mut client, &mut app, b"HELO\r\n");
    say(&mut app, &mut client, b"\0\xff");
    assert_eq!(server.endpoint.in_flight(), 1);
    assert!(running.counts("x_tcp_connections 1"));
    drop(client);
    assert_eq!(read_all(&mut app), "");
    drop(app);
    until("the connection is over", || {
        server.endpoint.in_flight() == 0
    });
    assert!(running.counts("x_tcp_connections 0"));
    assert!(running.counts("x_tcp_relayed_connections_total 1"));
    assert!(running.counts("x_tcp_received_bytes_total 6"));
    assert!(running.counts("x_tcp_sent_bytes_total 13"));
    assert!(running.counts("x_failures_total{cause=\"client_gone\"} 0"));
}

/// A connection from another address of this machine.
fn connect_from(source: [u8; 4], to: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from((source, 0)).into()).unwrap();
    socket.connect(&to.into()).unwrap();
    socket.into()
}

#[test]
fn a_relay_without_a_byte_gives_way_at_once_and_one_with_traffic_never_does() {
    let (running, server) = relay(short(|limits| limits.connections = 8));
    let mut client = running.connect();
    let mut app = server.accept();
    say(&mut client, &mut app, b"mine");
    let apps = std::thread::spawn(move || {
        let accepted = std::iter::from_fn(|| Some(server.listener.accept().ok()?.0));
        accepted.take(62).collect::<Vec<_>>()
    });
    // Its address has one silent connection, the other one has many.
    let mut slow = connect_from([127, 0, 0, 1], running.address);
    until("it is relayed", || {
        running.counts("x_tcp_relayed_connections_total 2")
    });
    let begun = Instant::now();
    let silent: Vec<_> = (0..60)
        .map(|_| connect_from([127, 0, 0, 2], running.address))
        .collect();
    let mut last = connect_from([127, 0, 0, 3], running.address);
    until("all are relayed", || {
        running.counts("x_tcp_relayed_connections_total 63")
    });
    assert!(begun.elapsed() < Duration::from_secs(2), "{begun:?}");
    let mut apps = apps.join().unwrap();
    say(&mut client, &mut app, b"still mine");
    slow.write_all(b"slow").unwrap();
    last.write_all(b"last").unwrap();
    for (app, said) in [(0, "slow"), (61, "last")] {
        let mut heard = [0; 4];
        apps[app].set_read_timeout(Some(SOON)).unwrap();
        apps[app].read_exact(&mut heard).unwrap();
        assert_eq!(heard, said.as_bytes());
    }
    drop(silent);
}

#[test]
fn the_end_of_one_side_passes_on_and_the_other_direction_goes_on() {
    let (_running, _server, mut client, mut app) = pair(Limits::default());
    client.write_all(b"all").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_all(&mut app), "all");
    // Longer than HTTP would wait.
    sleep(Duration::from_millis(800));
    say(&mut app, &mut client, b"and back");
    app.shutdown(Shutdown::Write).unwrap();
    assert_eq!(client.read(&mut [0]).unwrap(), 0);

    let (_running, _server, mut client, mut app) = pair(Limits::default());
    app.shutdown(Shutdown::Write).unwrap();
    assert_eq!(client.read(&mut [0]).unwrap(), 0);
    say(&mut client, &mut app, b"still here");
    drop(client);
    assert_eq!(app.read(&mut [0]).unwrap(), 0);
}

#[test]
fn a_side_that_stays_silent_after_the_other_has_ended_ends_with_a_reset() {
    let limits = short(|limits| limits.stall_time = MOMENT);
    let (_running, server, client, mut app) = pair(limits);
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(app.read(&mut [0]).unwrap(), 0);
    until("the relay is over", || server.endpoint.in_flight() == 0);
    until("the server sees it", || app.write_all(b"x").is_err());
}

#[test]
fn a_reset_passes_on_as_a_reset() {
    let (_running, _server, client, mut app) = pair(Limits::default());
    reset(client);
    assert!(is_reset(&mut app));
    let (_running, _server, mut client, app) = pair(Limits::default());
    reset(app);
    assert!(is_reset(&mut client));
}

#[test]
fn a_reset_after_the_end_of_the_own_side_passes_on() {
    let (_running, _server, client, mut app) = pair(Limits::default());
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(app.read(&mut [0]).unwrap(), 0);
    reset(client);
    until("the server sees the reset", || app.write_all(b"x").is_err());
    let (_running, _server, mut client, app) = pair(Limits::default());
    app.shutdown(Shutdown::Write).unwrap();
    assert_eq!(client.read(&mut [0]).unwrap(), 0);
    reset(app);
    until("the client sees the reset", || {
        client.write_all(b"x").is_err()
    });
}

#[test]
fn a_client_that_has_gone_is_noticed_while_the_server_does_not_read() {
    let (_running, server, client, app) = pair(Limits::default());
    fill(&client);
    reset(client);
    until("the relay is over", || server.endpoint.in_flight() == 0);
    drop(app);
}

/// Writes until nothing more is taken. Returns the number of bytes.
fn fill(mut stream: &TcpStream) -> usize {
    let time = Duration::from_millis(300);
    stream.set_write_timeout(Some(time)).unwrap();
    let (mut all, piece) = (0, vec![7; 64 << 10]);
    while let Ok(written) = stream.write(&piece) {
        all += written;
        assert!(all < 256 << 20, "nothing stops the sender");
    }
    all
}

#[test]
fn a_slow_reader_stops_its_sender_and_gets_everything() {
    let (running, _server, mut client, app) = pair(Limits::default());
    let sent = fill(&app);
    let relayed = running.value("x_tcp_sent_bytes_total ");
    assert!(relayed as usize <= sent);
    sleep(Duration::from_millis(200));
    let still = running.value("x_tcp_sent_bytes_total ");
    assert_eq!(still, relayed, "nothing moves while nothing is read");
    let reader = std::thread::spawn(move || {
        let mut all = Vec::new();
        client.read_to_end(&mut all).unwrap();
        assert!(all.iter().all(|byte| *byte == 7));
        all.len()
    });
    drop(app);
    assert_eq!(reader.join().unwrap(), sent);
}

#[test]
fn the_last_bytes_of_a_server_reach_a_slow_client_although_the_server_has_reset() {
    let (_running, _server, mut client, mut app) = pair(Limits::default());
    let sent = fill(&app);
    client.write_all(b"unread").unwrap();
    // The bytes have arrived, so closing sends a reset.
    until("the bytes are there", || {
        app.peek(&mut [0; 6]).unwrap() == 6
    });
    app.flush().unwrap();
    drop(app);
    sleep(MOMENT);
    let mut got = 0;
    let mut buffer = vec![0; 64 << 10];
    while let Ok(read @ 1..) = client.read(&mut buffer) {
        got += read;
    }
    // What the kernel of the server had not sent yet is lost with the reset.
    assert!(got > 0 && got <= sent);
}

#[test]
fn large_transfers_are_complete_in_both_directions_at_the_same_time() {
    const BYTES: usize = 48 << 20;
    let (running, _server, client, app) = pair(Limits::default());
    let pump = |stream: &TcpStream, seed: u8| {
        let mut to = stream.try_clone().unwrap();
        std::thread::spawn(move || {
            let mut random = u32::from(seed);
            let mut sent = 0;
            while sent < BYTES {
                let length = (1 + random as usize % 100_000).min(BYTES - sent);
                let piece: Vec<u8> = (sent..sent + length).map(|at| pattern(at, seed)).collect();
                to.write_all(&piece).unwrap();
                sent += length;
                random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            }
            to.shutdown(Shutdown::Write).unwrap();
        })
    };
    let check = |stream: &TcpStream, seed: u8| {
        let mut from = stream.try_clone().unwrap();
        std::thread::spawn(move || {
            let (mut got, mut buffer) = (0, vec![0; 50_000]);
            loop {
                let read = from.read(&mut buffer).unwrap();
                if read == 0 {
                    return got;
                }
                for byte in &buffer[..read] {
                    assert_eq!(*byte, pattern(got, seed), "at {got}");
                    got += 1;
                }
            }
        })
    };
    let threads = [pump(&client, 1), pump(&app, 2)];
    let readers = [check(&app, 1), check(&client, 2)];
    for thread in threads {
        thread.join().unwrap();
    }
    for reader in readers {
        assert_eq!(reader.join().unwrap(), BYTES);
    }
    drop((client, app));
    until("the relay is over", || {
        running.counts("x_tcp_connections 0")
    });
    assert_eq!(running.value("x_tcp_sent_bytes_total "), BYTES as u64);
    assert_eq!(running.value("x_tcp_received_bytes_total "), BYTES as u64);
}

fn pattern(at: usize, seed: u8) -> u8 {
    (at as u8).wrapping_mul(31) ^ (at >> 11) as u8 ^ seed
}

#[test]
fn an_endpoint_that_cannot_be_reached_is_passed_over_and_no_byte_is_lost() {
    let server = Server::open("alive");
    let endpoints = vec![dead("a"), dead("b"), Arc::clone(&server.endpoint)];
    let running = start_with(endpoints, config(Limits::default()));
    for _ in 0..8 {
        let mut client = running.connect();
        client.write_all(b"once").unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        assert_eq!(read_all(&mut server.accept()), "once");
    }
    assert!(running.value("x_repeated_total ") > 0);
}

#[test]
fn connections_go_to_the_endpoint_that_has_fewer() {
    let servers = [Server::open("a"), Server::open("b")];
    let endpoints = servers.iter().map(|server| Arc::clone(&server.endpoint));
    let running = start_with(endpoints.collect(), config(Limits::default()));
    let clients: Vec<_> = (0..20).map(|_| running.connect()).collect();
    let in_flight = || servers.each_ref().map(|server| server.endpoint.in_flight());
    until("all are relayed", || in_flight().iter().sum::<u32>() == 20);
    assert_eq!(in_flight(), [10, 10]);
    drop(clients);
}

#[test]
fn a_client_comes_back_to_the_same_endpoint_by_its_address() {
    let servers = [Server::open("a"), Server::open("b"), Server::open("c")];
    let endpoints = servers.iter().map(|server| Arc::clone(&server.endpoint));
    let config = Config {
        sticky: Some(Sticky::Address),
        ..config(Limits::default())
    };
    let running = start_with(endpoints.collect(), config);
    let mut used = std::collections::HashSet::new();
    for _ in 0..12 {
        let client = running.connect();
        let at = |server: &Server| server.endpoint.in_flight() == 1;
        until("it is relayed", || servers.iter().any(at));
        used.insert(servers.iter().position(at).unwrap());
        drop(client);
        for server in &servers {
            server.listener.set_nonblocking(true).unwrap();
            drop(server.listener.accept());
        }
        until("it is over", || !servers.iter().any(at));
    }
    assert_eq!(used.len(), 1);
}

#[test]
fn silence_ends_a_connection_with_a_reset_and_bytes_in_either_direction_break_it() {
    let limits = short(|limits| limits.upgrade_time = Duration::from_secs(3));
    let (running, server, mut client, mut app) = pair(limits);
    for _ in 0..4 {
        sleep(Duration::from_secs(1));
        say(&mut app, &mut client, b"x");
    }
    assert_eq!(server.endpoint.in_flight(), 1);
    let begun = Instant::now();
    assert!(is_reset(&mut client) && is_reset(&mut app));
    assert!(begun.elapsed() > Duration::from_secs(2));
    assert!(running.counts("x_failures_total{cause=\"client_timeout\"} 1"));
}

#[test]
fn a_connection_waits_for_an_endpoint_that_appears() {
    let running = start_with(Vec::new(), config(Limits::default()));
    let mut client = running.connect();
    client.write_all(b"early").unwrap();
    sleep(MOMENT);
    assert!(running.counts("x_requests_waiting 1"));
    let server = Server::open("late");
    let endpoints = vec![Arc::clone(&server.endpoint)];
    running.table.send_replace(Arc::new(Table { endpoints }));
    let mut app = server.accept();
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_all(&mut app), "early");
}

#[test]
fn without_an_endpoint_in_time_the_client_is_reset() {
    for endpoints in [vec![], vec![dead("a")]] {
        let limits = short(|limits| limits.waiting_time = MOMENT);
        let running = start_with(endpoints, config(limits));
        let mut client = running.connect();
        assert!(is_reset(&mut client));
        until("it is over", || running.counts("x_connections 0"));
    }
    let limits = short(|limits| limits.waiting = 0);
    let running = start_with(Vec::new(), config(limits));
    assert!(is_reset(&mut running.connect()));
    assert!(running.counts("x_failures_total{cause=\"queue_full\"} 1"));
}

#[test]
fn a_client_that_leaves_while_it_waits_is_not_relayed() {
    let running = start_with(Vec::new(), config(Limits::default()));
    let client = running.connect();
    until("it waits", || running.counts("x_requests_waiting 1"));
    reset(client);
    until("it waits no more", || {
        running.counts("x_requests_waiting 0")
    });
    assert!(running.counts("x_failures_total{cause=\"client_gone\"} 1"));
}

#[tokio::test]
async fn connections_live_until_the_drain_ends_and_new_ones_are_refused() {
    let (running, _server, mut client, mut app) = pair(Limits::default());
    let deadline = Duration::from_millis(1500);
    running
        .proxy
        .drain(Duration::ZERO, Duration::ZERO, deadline);
    let address = running.address;
    let test = tokio::task::spawn_blocking(move || {
        let begun = Instant::now();
        until("new connections are refused", || {
            TcpStream::connect(address).is_err()
        });
        assert!(begun.elapsed() < deadline);
        say(&mut client, &mut app, b"still served");
        assert!(is_reset(&mut client) && is_reset(&mut app));
    });
    test.await.unwrap();
    running.proxy.drained().await;
}

#[tokio::test]
async fn a_drain_ends_with_the_last_connection() {
    let (running, _server, mut client, mut app) = pair(Limits::default());
    let long = Duration::from_mins(5);
    running.proxy.drain(Duration::ZERO, Duration::ZERO, long);
    say(&mut client, &mut app, b"x");
    drop((client, app));
    running.proxy.drained().await;
}

#[test]
fn at_the_limit_a_connection_on_which_nothing_has_passed_gives_way() {
    let limits = short(|limits| limits.connections = 2);
    let (running, server) = relay(limits);
    let (mut used, mut app) = (running.connect(), server.accept());
    say(&mut used, &mut app, b"x");
    let mut unused = running.connect();
    let _its_app = server.accept();
    let mut new = running.connect();
    let mut its_app = server.accept();
    assert!(is_reset(&mut unused));
    say(&mut new, &mut its_app, b"y");
    say(&mut used, &mut app, b"z");
}
