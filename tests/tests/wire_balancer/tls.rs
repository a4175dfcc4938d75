//! TLS at the balancer's own listener, with rustls as the client.
//!
//! These tests cover sockets, files, redirects, and what reaches the server. `scaledapp-tls` tests
//! the certificate, version and ticket that result from a handshake.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustls::client::Resumption;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::version::TLS12;
use rustls::{ClientConfig, ClientConnection, HandshakeKind, RootCertStore, StreamOwned};
use scaledapp_tests::balancer::{Balancer, Launch};
use scaledapp_tests::upstream::Upstream;
use scaledapp_tests::{http, ports, wait};

use crate::SOON;
use crate::authority::Authority;

pub(crate) type Client = StreamOwned<ClientConnection, TcpStream>;

impl Authority {
    pub(crate) fn client(&self) -> ClientConfig {
        self.client_with(None)
    }

    /// A client that trusts this authority. The client shows the certificate `shown`, or none.
    fn client_with(&self, shown: Option<(String, String)>) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add(self.issuer.der().clone()).unwrap();
        let config = ClientConfig::builder().with_root_certificates(roots);
        let mut config = match shown {
            None => config.with_no_client_auth(),
            Some((certificate, key)) => {
                let chain = vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()];
                let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
                config.with_client_auth_cert(chain, key).unwrap()
            }
        };
        config.resumption = Resumption::in_memory_sessions(8);
        config
    }
}

/// Connects to `address` and returns a TLS client that asks for the certificate of `host`. The
/// handshake takes place when the client first writes or reads.
fn open(address: SocketAddr, config: &Arc<ClientConfig>, host: &'static str) -> Client {
    let socket = TcpStream::connect(address).unwrap();
    socket.set_read_timeout(Some(SOON)).unwrap();
    open_on(socket, config, host)
}

/// As [`open`], on a connection that exists.
pub(crate) fn open_on(socket: TcpStream, config: &Arc<ClientConfig>, host: &'static str) -> Client {
    let name = ServerName::try_from(host).unwrap();
    let connection = ClientConnection::new(Arc::clone(config), name).unwrap();
    StreamOwned::new(connection, socket)
}

/// Sends `request` and reads an answer with `Content-Length`.
fn ask(client: &mut Client, request: &[u8]) -> String {
    client.write_all(request).unwrap();
    read_answer(client)
}

fn read_answer(client: &mut Client) -> String {
    let (mut answer, mut byte) = (Vec::new(), [0]);
    while !answer.ends_with(b"\r\n\r\n") {
        client.read_exact(&mut byte).unwrap();
        answer.push(byte[0]);
    }
    let mut answer = String::from_utf8(answer).unwrap();
    let length = answer.lines().find_map(|line| {
        let (name, value) = line.split_once(": ")?;
        let is_length = name.eq_ignore_ascii_case("content-length");
        is_length.then(|| value.parse::<usize>().unwrap())
    });
    let mut body = vec![0; length.unwrap_or(0)];
    client.read_exact(&mut body).unwrap();
    answer.push_str(&String::from_utf8(body).unwrap());
    answer
}

const GET: &[u8] = b"GET /a HTTP/1.1\r\nHost: a.test\r\n\r\n";

/// A balancer in front of `upstream` with these options.
fn secured(upstream: &Upstream, options: &[&str]) -> Balancer {
    let launch = Launch::to(&[upstream.address()]).unwrap();
    launch.with(options).ready().unwrap()
}

#[test]
fn requests_over_tls_reach_the_server_and_say_so() {
    let (authority, upstream) = (Authority::new(), Upstream::answering("hello").unwrap());
    let balancer = secured(
        &upstream,
        &["--tls", &authority.issue("a.test"), "--hsts", "1h"],
    );
    let mut client = open(balancer.address(), &Arc::new(authority.client()), "a.test");
    for _ in 0..3 {
        let answer = ask(&mut client, GET);
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        assert!(
            answer.contains("\r\nStrict-Transport-Security: max-age=3600\r\n"),
            "{answer}"
        );
        assert!(answer.ends_with("hello"), "{answer}");
    }
    let received = upstream.all_received();
    assert_eq!(
        received.matches("X-Forwarded-Proto: https\r\n").count(),
        3,
        "{received}"
    );
    assert_eq!(
        upstream.accepted(),
        1,
        "the connection to the server is kept"
    );
    // By now, the idle connection has been parked.
    sleep(Duration::from_secs(4));
    let parked = "scaledapp_balancer_parked_connections 1\n";
    assert!(balancer.metrics().unwrap().contains(parked));
    assert!(ask(&mut client, GET).ends_with("hello"));
    let metrics = balancer.metrics().unwrap();
    assert!(
        metrics.contains("tls_handshakes_total{kind=\"full\"} 1\n"),
        "{metrics}"
    );
    // The balancer closes the TLS session before the connection; otherwise this read would fail.
    client
        .write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        .unwrap();
    let mut rest = String::new();
    client.read_to_string(&mut rest).unwrap();
    assert!(rest.contains("Connection: close"), "{rest}");
}

#[test]
fn large_bodies_pass_whole_in_both_directions() {
    const LENGTH: usize = 5 << 20;
    let authority = Authority::new();
    let upstream = Upstream::start(|mut peer| {
        // The server sends the body back unchanged.
        let (Some(_), Some(body)) = (peer.read_head(), peer.read_exactly(LENGTH)) else {
            return;
        };
        peer.write(format!("HTTP/1.1 200 OK\r\nContent-Length: {LENGTH}\r\n\r\n").as_bytes());
        peer.write(&body);
    })
    .unwrap();
    let balancer = secured(&upstream, &["--tls", &authority.issue("a.test")]);
    let mut client = open(balancer.address(), &Arc::new(authority.client()), "a.test");
    let body: String = (0..LENGTH)
        .map(|at| char::from(b'a' + (at % 23) as u8))
        .collect();
    let head = format!("POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: {LENGTH}\r\n\r\n");
    client.write_all(head.as_bytes()).unwrap();
    client.write_all(body.as_bytes()).unwrap();
    // The client starts to read late, so that the answer fills all buffers on its way.
    sleep(Duration::from_millis(300));
    let answer = read_answer(&mut client);
    assert!(answer.split_once("\r\n\r\n").unwrap().1 == body);
}

#[test]
fn http_is_redirected_except_for_challenges() {
    let (authority, upstream) = (Authority::new(), Upstream::answering("hello").unwrap());
    let https = ports::local().unwrap();
    let pair = authority.issue("a.test");
    let options = [
        "--tls",
        &pair,
        "--tls-listen",
        &https.to_string(),
        "--tls-redirect",
        "8443",
    ];
    let balancer = secured(&upstream, &options);
    let mut client = TcpStream::connect(balancer.address()).unwrap();
    client.set_read_timeout(Some(SOON)).unwrap();
    // The second request is sent on the same connection.
    for path in ["/a?b=c", "/d"] {
        write!(client, "GET {path} HTTP/1.1\r\nHost: a.test:80\r\n\r\n").unwrap();
        let mut answer = [0; 512];
        let read = client.read(&mut answer).unwrap();
        let answer = String::from_utf8_lossy(&answer[..read]).into_owned();
        assert!(answer.starts_with("HTTP/1.1 308 "), "{answer}");
        assert!(
            answer.contains(&format!("\r\nLocation: https://a.test:8443{path}\r\n")),
            "{answer}"
        );
        assert!(!answer.contains("Connection: close"), "{answer}");
    }
    // The balancer does not read the body of a redirected request, so it closes the connection.
    write!(
        client,
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello"
    )
    .unwrap();
    let mut rest = String::new();
    client.read_to_string(&mut rest).unwrap();
    assert!(
        rest.starts_with("HTTP/1.1 308 ") && rest.contains("Connection: close"),
        "{rest}"
    );
    assert_eq!(upstream.accepted(), 0);
    let challenge = http::get(balancer.address(), "/.well-known/acme-challenge/x").unwrap();
    assert_eq!(
        (challenge.status, challenge.text().as_str()),
        (200, "hello")
    );
    let mut client = open(https, &Arc::new(authority.client()), "a.test");
    assert!(ask(&mut client, GET).ends_with("hello"));
}

#[test]
fn a_changed_certificate_is_in_use_within_two_seconds_and_a_broken_one_never() {
    let (authority, upstream) = (Authority::new(), Upstream::answering("hello").unwrap());
    let (first, second) = (authority.issue("a.test"), authority.issue("b.test"));
    let balancer = secured(&upstream, &["--tls", &first, "--tls", &second]);
    let config = Arc::new(authority.client());
    let shown = |host| {
        let mut config = (*config).clone();
        config.resumption = Resumption::disabled();
        let mut client = open(balancer.address(), &Arc::new(config), host);
        ask(&mut client, GET);
        client.conn.peer_certificates().unwrap()[0]
            .clone()
            .into_owned()
    };
    assert_ne!(shown("a.test"), shown("b.test"));
    let mut before = open(balancer.address(), &config, "a.test");
    ask(&mut before, GET);
    let old = shown("a.test");
    // A key that belongs to another certificate changes nothing.
    let (certificate, key) = authority.sign("a.test");
    fs::write(authority.path("a.test.key"), &key).unwrap();
    sleep(Duration::from_secs(2));
    assert_eq!(shown("a.test"), old);
    wait::until_true(SOON, "the log says so", || {
        balancer
            .process
            .stderr()
            .contains("the previous certificates stay in use")
    })
    .unwrap();
    fs::write(authority.path("a.test.crt"), &certificate).unwrap();
    let changed = Instant::now();
    wait::until_true(SOON, "the new one is shown", || shown("a.test") != old).unwrap();
    println!("a new certificate after {:?}", changed.elapsed());
    assert!(
        ask(&mut before, GET).ends_with("hello"),
        "the connection goes on"
    );
}

#[test]
fn a_session_goes_on_at_another_balancer_and_after_a_restart() {
    let (authority, upstream) = (Authority::new(), Upstream::answering("hello").unwrap());
    let pair = authority.issue("a.test");
    let config = Arc::new(authority.client());
    let met = |balancer: &Balancer| {
        let mut client = open(balancer.address(), &config, "a.test");
        ask(&mut client, GET);
        client.conn.handshake_kind().unwrap()
    };
    let one = secured(&upstream, &["--tls", &pair]);
    let other = secured(&upstream, &["--tls", &pair]);
    assert_eq!(met(&one), HandshakeKind::Full);
    assert_eq!(met(&other), HandshakeKind::Resumed);
    assert_eq!(met(&one), HandshakeKind::Resumed);
    drop((one, other));
    let third = secured(&upstream, &["--tls", &pair]);
    assert_eq!(met(&third), HandshakeKind::Resumed);
    let metrics = third.metrics().unwrap();
    assert!(
        metrics.contains("tls_handshakes_total{kind=\"resumed\"} 1\n"),
        "{metrics}"
    );
}

#[test]
fn clients_prove_who_they_are_and_servers_learn_it() {
    let (authority, upstream) = (Authority::new(), Upstream::answering("hello").unwrap());
    let (pair, root) = (authority.issue("a.test"), authority.root());
    let shown = authority.sign("client.test");
    let encoded: String = shown
        .0
        .lines()
        .filter(|line| !line.starts_with('-'))
        .collect();
    let stranger = Authority::new().sign("client.test");
    for (mode, without) in [("require", false), ("optional", true)] {
        let options = [
            "--tls",
            &pair,
            "--tls-client-ca",
            &root,
            "--tls-client-mode",
            mode,
        ];
        let balancer = secured(&upstream, &options);
        let with = Arc::new(authority.client_with(Some(shown.clone())));
        for _ in 0..2 {
            let mut client = open(balancer.address(), &with, "a.test");
            let forged = b"GET /with HTTP/1.1\r\nHost: a\r\nClient-Cert: :Zm9yZ2Vk:\r\n\r\n";
            assert!(ask(&mut client, forged).ends_with("hello"));
            let kind = client.conn.handshake_kind().unwrap();
            assert_eq!(
                kind,
                HandshakeKind::Full,
                "an identity is checked each time"
            );
        }
        let none = Arc::new(authority.client());
        let mut client = open(balancer.address(), &none, "a.test");
        let forged = b"GET /without HTTP/1.1\r\nHost: a\r\nClient-Cert: :Zm9yZ2Vk:\r\n\r\n";
        let is_served = client.write_all(forged).is_ok() && client.read(&mut [0; 9]).is_ok();
        assert_eq!(is_served, without, "{mode}");
        let stranger = Arc::new(authority.client_with(Some(stranger.clone())));
        let mut client = open(balancer.address(), &stranger, "a.test");
        let is_served = client.write_all(GET).is_ok() && client.read(&mut [0; 9]).is_ok();
        assert!(!is_served, "{mode}");
    }
    let received = upstream.all_received();
    assert!(!received.contains("Zm9yZ2Vk"), "{received}");
    assert_eq!(
        received
            .matches(&format!("\r\nClient-Cert: :{encoded}:\r\n"))
            .count(),
        4
    );
    assert_eq!(received.matches("GET /without ").count(), 1);
}

#[test]
fn a_hello_may_come_byte_by_byte() {
    let (authority, upstream) = (Authority::new(), Upstream::answering("hello").unwrap());
    let balancer = secured(&upstream, &["--tls", &authority.issue("a.test")]);
    let config = Arc::new(authority.client());
    for piece in [1, 1400] {
        let mut socket = TcpStream::connect(balancer.address()).unwrap();
        socket.set_nodelay(true).unwrap();
        let name = ServerName::try_from("a.test").unwrap();
        let mut client = ClientConnection::new(Arc::clone(&config), name).unwrap();
        let mut hello = Vec::new();
        client.write_tls(&mut hello).unwrap();
        for bytes in hello.chunks(piece) {
            socket.write_all(bytes).unwrap();
        }
        socket.set_read_timeout(Some(SOON)).unwrap();
        let mut client = StreamOwned::new(client, socket);
        assert!(ask(&mut client, GET).ends_with("hello"), "{piece}");
    }
}

#[test]
fn who_speaks_no_tls_is_told_and_who_says_nothing_ends() {
    let (authority, upstream) = (Authority::new(), Upstream::answering("hello").unwrap());
    let pair = authority.issue("a.test");
    let options = [
        "--tls",
        &pair,
        "--head-time",
        "500ms",
        "--tls-min-version",
        "1.3",
    ];
    let balancer = secured(&upstream, &options);
    let answer = http::get(balancer.address(), "/").unwrap();
    assert_eq!(answer.status, 400);
    assert!(answer.text().contains("https://"), "{}", answer.text());
    let mut silent = TcpStream::connect(balancer.address()).unwrap();
    silent.set_read_timeout(Some(SOON)).unwrap();
    assert_eq!(silent.read(&mut [0; 9]).unwrap(), 0);
    let mut garbage = TcpStream::connect(balancer.address()).unwrap();
    garbage.set_read_timeout(Some(SOON)).unwrap();
    garbage.write_all(&[22, 3, 1, 0, 5, 1, 0, 0, 1, 0]).unwrap();
    let mut alert = Vec::new();
    match garbage.read_to_end(&mut alert) {
        Ok(_) => {}
        Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset),
    }
    assert!(alert.first().is_none_or(|first| *first == 21), "{alert:?}");
    let mut roots = RootCertStore::empty();
    roots.add(authority.issuer.der().clone()).unwrap();
    let old = ClientConfig::builder_with_protocol_versions(&[&TLS12])
        .with_root_certificates(roots)
        .with_no_client_auth();
    let mut client = open(balancer.address(), &Arc::new(old), "a.test");
    assert!(client.write_all(GET).is_err() || client.read(&mut [0; 9]).is_err());
    let metrics = balancer.metrics().unwrap();
    assert!(
        metrics.contains("tls_handshakes_total{kind=\"failed\"} 4\n"),
        "{metrics}"
    );
    // None of this affects other clients.
    let mut client = open(balancer.address(), &Arc::new(authority.client()), "a.test");
    assert!(ask(&mut client, GET).ends_with("hello"));
}

#[test]
fn half_done_handshakes_give_way_at_once_at_the_limit_of_connections() {
    let (authority, upstream) = (Authority::new(), Upstream::answering("hello").unwrap());
    let pair = authority.issue("a.test");
    let balancer = secured(&upstream, &["--tls", &pair, "--connections", "20"]);
    let config = Arc::new(authority.client());
    let begun = Instant::now();
    // Some say nothing, and some begin a hello.
    let silent: Vec<_> = (0..100)
        .map(|at| {
            let mut socket = TcpStream::connect(balancer.address()).unwrap();
            if at % 2 == 0 {
                socket.write_all(&[22, 3, 1, 1, 0, 1, 0]).unwrap();
            }
            socket
        })
        .collect();
    for _ in 0..10 {
        let mut client = open(balancer.address(), &config, "a.test");
        assert!(ask(&mut client, GET).ends_with("hello"));
    }
    assert!(begun.elapsed() < Duration::from_secs(2), "{begun:?}");
    drop(silent);
}

#[test]
fn an_upgraded_connection_is_encrypted_too() {
    let authority = Authority::new();
    let upstream = Upstream::start(|mut peer| {
        peer.read_request();
        peer.write(
            b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n",
        );
        while let Some(line) = peer.read_until(b"\n") {
            if !peer.write(&line) {
                return;
            }
        }
    })
    .unwrap();
    let balancer = secured(&upstream, &["--tls", &authority.issue("a.test")]);
    let mut client = open(balancer.address(), &Arc::new(authority.client()), "a.test");
    let upgrade = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n";
    let answer = ask(&mut client, upgrade);
    assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
    for round in 0..50 {
        let text = format!("message {round} {}\n", "x".repeat(round * 700));
        client.write_all(text.as_bytes()).unwrap();
        let mut back = vec![0; text.len()];
        client.read_exact(&mut back).unwrap();
        assert!(back == text.as_bytes(), "{round}");
    }
    client.conn.send_close_notify();
    client.flush().unwrap();
    assert_eq!(
        client.read(&mut [0; 9]).unwrap(),
        0,
        "the server's end comes back"
    );
}

#[test]
fn what_cannot_work_is_refused_with_the_cure() {
    let authority = Authority::new();
    let pair = authority.issue("a.test");
    let missing = format!(
        "{}:{}",
        authority.path("no.crt").display(),
        authority.path("no.key").display()
    );
    let (certificate, _) = authority.sign("b.test");
    fs::write(authority.path("other.crt"), certificate).unwrap();
    let mixed = format!(
        "{}:{}",
        authority.path("other.crt").display(),
        authority.path("a.test.key").display()
    );
    for (options, wanted) in [
        (vec!["--tls", "one"], "CERT:KEY"),
        (vec!["--tls", &missing], "no.crt"),
        (vec!["--tls", &mixed], "does not belong to this key"),
        (vec!["--tls", &pair, "--tls-redirect"], "--tls-listen"),
        (vec!["--tls-listen", "127.0.0.1:1"], "--tls CERT:KEY"),
        (
            vec!["--tls", &pair, "--tls-client-mode", "optional"],
            "--tls-client-ca",
        ),
        (
            vec!["--tls", &pair, "--tls-client-ca", "/nonexistent"],
            "/nonexistent",
        ),
        (vec!["--tls", &pair, "--tls-min-version", "1.1"], "1.2"),
    ] {
        let launch = Launch::new(&["--upstream", "127.0.0.1:1"]).unwrap();
        let mut balancer = launch.with(&options).start().unwrap();
        let ended = balancer.process.wait(SOON).unwrap();
        let (code, told) = (ended.code, ended.stderr);
        assert!(matches!(code, 2 | 64), "{options:?}: {code} {told}");
        assert!(told.contains(wanted), "{options:?}: {told}");
    }
}
