//! Relayed connections and the PROXY protocol with the built balancer: flags, TLS, and programs of
//! the distribution as servers and clients.
//!
//! How connections begin and end is tested in `balancer/proxy`.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::Arc;

use scaledapp_tests::balancer::{Balancer, Launch};
use scaledapp_tests::binaries::has;
use scaledapp_tests::process::Process;
use scaledapp_tests::upstream::Upstream;
use scaledapp_tests::{http, ports, wait};

use crate::SOON;
use crate::authority::Authority;
use crate::tls::{Client, open_on};

const HEADER: &[u8] = b"PROXY TCP4 192.0.2.7 198.51.100.1 4711 443\r\n";

fn relay(to: SocketAddr, options: &[&str]) -> Balancer {
    let launch = Launch::to(&[to]).unwrap().with(&["--protocol", "tcp"]);
    launch.with(options).ready().unwrap()
}

fn server() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

fn accept(listener: &TcpListener) -> TcpStream {
    let (stream, _) = listener.accept().unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    stream
}

fn connect(to: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(to).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    stream
}

fn read_all(stream: &mut TcpStream) -> (Vec<u8>, Option<ErrorKind>) {
    let mut all = Vec::new();
    let end = stream.read_to_end(&mut all);
    (all, end.err().map(|error| error.kind()))
}

/// A relay with TLS, and a client of it that has sent `first` before TLS.
fn secured(options: &[&str], first: &[u8]) -> (TcpListener, Balancer, Client) {
    let (authority, (listener, address)) = (Authority::new(), server());
    let pair = authority.issue("a.test");
    let balancer = relay(address, &[&["--tls", &pair], options].concat());
    let mut socket = connect(balancer.address());
    socket.write_all(first).unwrap();
    let client = open_on(socket, &Arc::new(authority.client()), "a.test");
    (listener, balancer, client)
}

#[test]
fn tls_ends_at_the_balancer_and_both_ends_pass_on() {
    let (listener, _balancer, mut client) = secured(&[], b"");
    client.write_all(b"clear").unwrap();
    let mut app = accept(&listener);
    let mut heard = [0; 5];
    app.read_exact(&mut heard).unwrap();
    assert_eq!(&heard, b"clear");
    assert_eq!(client.conn.alpn_protocol(), None);
    // More than all buffers hold, in the direction that goes on after the other one has ended.
    client.conn.send_close_notify();
    client.flush().unwrap();
    assert_eq!(app.read(&mut heard).unwrap(), 0);
    let large = vec![7; 8 << 20];
    let sender = std::thread::spawn(move || {
        app.write_all(&large).unwrap();
        app.shutdown(Shutdown::Write).unwrap();
    });
    let mut all = Vec::new();
    client.read_to_end(&mut all).unwrap();
    sender.join().unwrap();
    assert!(all.len() == 8 << 20 && all.iter().all(|byte| *byte == 7));
}

#[test]
fn an_end_inside_tls_that_was_not_announced_is_a_reset_for_the_server() {
    let (listener, _balancer, mut client) = secured(&[], b"");
    client.write_all(b"half of").unwrap();
    let mut app = accept(&listener);
    let mut heard = [0; 7];
    app.read_exact(&mut heard).unwrap();
    client.sock.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_all(&mut app).1, Some(ErrorKind::ConnectionReset));
}

#[test]
fn a_client_that_speaks_no_tls_gets_no_answer_of_http() {
    let (listener, balancer, _unused) = secured(&[], b"");
    let mut client = connect(balancer.address());
    client
        .write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        .unwrap();
    // An alert of TLS.
    let (answer, _) = read_all(&mut client);
    assert_eq!(answer.first(), Some(&21), "{}", answer.escape_ascii());
    listener.set_nonblocking(true).unwrap();
    assert!(listener.accept().is_err(), "nothing reaches the server");
}

#[test]
fn the_header_of_a_proxy_in_front_comes_before_tls() {
    let local = b"\r\n\r\n\0\r\nQUIT\n\x20\x11\0\x0c\0\0\0\0\0\0\0\0\0\0\0\0";
    for first in [HEADER, local] {
        let options = ["--proxy-protocol-from", "127.0.0.0/8"];
        let (listener, _balancer, mut client) = secured(&options, first);
        client.write_all(b"clear").unwrap();
        let mut heard = [0; 5];
        accept(&listener).read_exact(&mut heard).unwrap();
        assert_eq!(&heard, b"clear");
    }
    // For HTTP as well.
    let (authority, upstream) = (Authority::new(), Upstream::answering("hello").unwrap());
    let options = ["--proxy-protocol-from", "127.0.0.1"];
    let launch = Launch::to(&[upstream.address()]).unwrap().with(&options);
    let launch = launch.with(&["--tls", &authority.issue("a.test")]);
    let balancer = launch.ready().unwrap();
    let mut socket = connect(balancer.address());
    socket.write_all(HEADER).unwrap();
    let mut client = open_on(socket, &Arc::new(authority.client()), "a.test");
    client
        .write_all(b"GET / HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n")
        .unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    let received = upstream.all_received();
    assert!(
        received.contains("X-Forwarded-For: 192.0.2.7\r\n"),
        "{received}"
    );
    let metrics = http::get(balancer.launch.admin, "/metrics").unwrap().text();
    let line = "scaledapp_balancer_proxy_headers_total{says=\"client\"} 1";
    assert!(metrics.contains(line), "{metrics}");
}

#[test]
fn a_client_of_ipv4_on_a_listener_of_both_families_is_announced_as_ipv4() {
    let (listener, address) = server();
    let Ok(probe) = TcpListener::bind("[::]:0") else {
        println!("skipped: no IPv6");
        return;
    };
    let port = probe.local_addr().unwrap().port();
    drop(probe);
    let mut launch = Launch::to(&[address]).unwrap();
    launch.listen = SocketAddr::new("::".parse().unwrap(), port);
    let launch = launch.with(&["--protocol", "tcp", "--proxy-protocol-to-servers"]);
    let _balancer = launch.ready().unwrap();
    let client = connect(SocketAddr::from(([127, 0, 0, 1], port)));
    let own = client.local_addr().unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    let (bytes, _) = read_all(&mut accept(&listener));
    let addresses = [&[127, 0, 0, 1, 127, 0, 0, 1][..], &own.port().to_be_bytes()].concat();
    let expected = [b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c", &addresses[..]].concat();
    assert_eq!(bytes, [&expected[..], &port.to_be_bytes()].concat());
}

/// A Redis without files, on a free port.
fn redis(options: &[&str]) -> Option<(Process, SocketAddr)> {
    if !has("redis-server") || !has("redis-cli") {
        return None;
    }
    let address = ports::local().unwrap();
    let mut command = Command::new("redis-server");
    command.args(["--port", &address.port().to_string(), "--bind", "127.0.0.1"]);
    command
        .args(["--save", "", "--appendonly", "no"])
        .args(options);
    let process = Process::spawn(command).unwrap();
    wait::until(SOON, "Redis listens", || TcpStream::connect(address)).unwrap();
    Some((process, address))
}

/// What `redis-cli` prints for commands on its standard input.
fn redis_cli(to: SocketAddr, words: &[&str]) -> String {
    let mut command = Command::new("redis-cli");
    command.args(["-h", "127.0.0.1", "-p", &to.port().to_string()]);
    let output = command.args(words).output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn redis_is_balanced_with_large_values_pipelines_and_subscriptions() {
    let Some((_redis, address)) = redis(&[]) else {
        return;
    };
    let balancer = relay(address, &[]);
    let to = balancer.address();
    assert_eq!(redis_cli(to, &["set", "a", "1"]), "OK\n");
    assert_eq!(redis_cli(to, &["get", "a"]), "1\n");
    // A value of 64 MiB comes back whole.
    let large = "redis.call('set', 'l', string.rep('x', 67108864))";
    redis_cli(to, &["eval", large, "0"]);
    assert_eq!(redis_cli(to, &["get", "l"]).trim_end().len(), 64 << 20);
    // Thousands of commands without waiting for an answer.
    let mut piped = connect(to);
    let commands = "*2\r\n$4\r\nINCR\r\n$1\r\nn\r\n".repeat(20_000);
    let mut writing = piped.try_clone().unwrap();
    let writer = std::thread::spawn(move || {
        writing.write_all(commands.as_bytes()).unwrap();
        writing.shutdown(Shutdown::Write).unwrap();
    });
    let (answers, end) = read_all(&mut piped);
    writer.join().unwrap();
    let answers = String::from_utf8(answers).unwrap();
    assert_eq!((answers.lines().count(), end), (20_000, None));
    assert!(answers.ends_with(":20000\r\n"));
    // A message arrives although the subscriber has sent nothing for a while.
    let mut subscriber = connect(to);
    subscriber.write_all(b"SUBSCRIBE c\r\n").unwrap();
    let mut heard = vec![0; 200];
    let read = subscriber.read(&mut heard).unwrap();
    assert!(String::from_utf8_lossy(&heard[..read]).contains("subscribe"));
    assert_eq!(redis_cli(to, &["publish", "c", "news"]), "1\n");
    let read = subscriber.read(&mut heard).unwrap();
    assert!(String::from_utf8_lossy(&heard[..read]).contains("news"));
}

#[test]
fn messages_of_mqtt_pass() {
    if !has("mosquitto") || !has("mosquitto_pub") || !has("mosquitto_sub") {
        return;
    }
    let address = ports::local().unwrap();
    let mut command = Command::new("mosquitto");
    command.args(["-p", &address.port().to_string()]);
    let _broker = Process::spawn(command).unwrap();
    wait::until(SOON, "the broker listens", || TcpStream::connect(address)).unwrap();
    let balancer = relay(address, &[]);
    let port = balancer.address().port().to_string();
    let client = |program: &str, words: &[&str]| {
        let mut command = Command::new(program);
        command.args(["-h", "127.0.0.1", "-p", &port, "-t", "t", "-q", "1"]);
        command.args(words);
        command
    };
    let retained = client("mosquitto_pub", &["-r", "-m", "hello"]).status();
    assert!(retained.unwrap().success());
    let heard = client("mosquitto_sub", &["-C", "1", "-W", "10"]).output();
    assert_eq!(heard.unwrap().stdout, b"hello\n");
}

#[test]
fn haproxy_announces_clients_and_checks_the_port() {
    if !has("haproxy") {
        return;
    }
    let upstream = Upstream::answering("hello").unwrap();
    let options = ["--proxy-protocol-from", "127.0.0.1"];
    let launch = Launch::to(&[upstream.address()]).unwrap().with(&options);
    let balancer = launch.ready().unwrap();
    for option in ["send-proxy", "send-proxy-v2 crc32c on"] {
        // `crc32c` is an option of `proxy-v2-options`.
        let option = option.replace("crc32c on", "proxy-v2-options crc32c,unique-id");
        let front = ports::local().unwrap();
        let file = tempfile::NamedTempFile::new().unwrap();
        let to = balancer.address();
        let text = format!(
            "defaults\n  mode tcp\n  timeout connect 3s\n  timeout client 9s\n  timeout server 9s\n\
             listen l\n  bind {front}\n  unique-id-format %pid\n  \
             server s {to} {option} check inter 100ms check-send-proxy\n"
        );
        std::fs::write(file.path(), text).unwrap();
        let mut command = Command::new("haproxy");
        command.arg("-db").arg("-f").arg(file.path());
        let haproxy = Process::spawn(command).unwrap();
        wait::until(SOON, "HAProxy forwards", || {
            let response = http::get(front, "/").map_err(|error| error.to_string())?;
            let is_good = response.status == 200;
            is_good.then_some(()).ok_or_else(|| haproxy.stderr())
        })
        .unwrap();
    }
    let metrics = http::get(balancer.launch.admin, "/metrics").unwrap().text();
    assert!(
        metrics.contains("scaledapp_balancer_proxy_headers_total{says=\"refused\"} 0"),
        "{metrics}"
    );
    let value = |says: &str| {
        let name = format!("scaledapp_balancer_proxy_headers_total{{says=\"{says}\"}} ");
        let line = metrics.lines().find_map(|line| line.strip_prefix(&name));
        line.unwrap().parse::<u64>().unwrap()
    };
    assert!(value("client") >= 2 && value("itself") >= 1, "{metrics}");
}
