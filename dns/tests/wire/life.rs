//! Start, usage and the end.

use std::net::{TcpListener, UdpSocket};
use std::time::{Duration, Instant};

use crate::server::{Server, binary, wait};

const RECORDS: &str = r#"{"hello.apps.local.":{"addresses":["10.0.0.1"]}}"#;

#[test]
fn term_makes_unready_answers_on_and_ends_with_0() {
    let mut server = Server::start_with("127.0.0.1:0", Some(RECORDS), &["--drain-min", "1500ms"]);
    server.wait_ready();
    let started = Instant::now();
    server.signal("-TERM");
    wait("unreadiness", || {
        let answer = server.get("/readyz");
        answer.starts_with("HTTP/1.1 503 ") && answer.ends_with("draining\n")
    });
    assert_eq!(server.addresses("hello").len(), 1);
    wait("the end", || server.ended().is_some());
    assert_eq!(server.ended().unwrap().code(), Some(0));
    assert!(started.elapsed() >= Duration::from_millis(1500));
}

#[test]
fn a_second_signal_ends_at_once() {
    let mut server = Server::start_with("127.0.0.1:0", Some(RECORDS), &["--drain-min", "1h"]);
    server.wait_ready();
    server.signal("-INT");
    server.wait_log("draining");
    server.signal("-INT");
    wait("the end", || server.ended().is_some());
    assert_eq!(server.ended().unwrap().code(), Some(0));
}

#[test]
fn without_a_records_file_the_zone_has_only_its_own_records() {
    let server = Server::start_without_file();
    server.wait_ready();
    assert_eq!(
        server.addresses("ns"),
        ["127.0.0.1".parse::<std::net::IpAddr>().unwrap()]
    );
}

#[test]
fn wrong_usage_ends_with_64_and_help_with_0() {
    for (arguments, code) in [
        (&["run", "--help"][..], 0),
        (&["--version"], 0),
        (&[], 64),
        (&["run", "--zone", "apps.local", "--listen", "nowhere"], 64),
        (&["run", "--zone", "apps.local"], 64),
        (&["run", "--zone", "a..b", "--listen", "127.0.0.1:0"], 64),
        (
            &[
                "run",
                "--zone",
                "apps.local",
                "--listen",
                "127.0.0.1:0",
                "--ns",
                "ns1.apps.local",
            ],
            64,
        ),
    ] {
        let output = binary(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{arguments:?}");
    }
    let help = String::from_utf8(binary(&["run", "--help"]).output().unwrap().stdout).unwrap();
    assert!(
        help.contains("Examples:") && help.contains("SCALEDAPP_LISTEN"),
        "{help}"
    );
}

#[test]
fn a_taken_port_ends_with_2_and_is_named() {
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    for address in [tcp.local_addr().unwrap(), udp.local_addr().unwrap()] {
        let address = address.to_string();
        let output = binary(&["run", "--zone", "apps.local", "--listen", &address])
            .output()
            .unwrap();
        let message = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{message}");
        assert!(
            message.contains(&format!("cannot listen on {address}")),
            "{message}"
        );
    }
}

#[test]
fn settings_may_come_from_the_environment() {
    let output = binary(&["run", "--listen", "127.0.0.1:0"])
        .env("SCALEDAPP_ZONE", "apps..local")
        .output()
        .unwrap();
    let message = String::from_utf8(output.stderr).unwrap();
    assert!(
        output.status.code() == Some(64) && message.contains("empty label"),
        "{message}"
    );
}
