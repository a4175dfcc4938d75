//! Start, usage errors and shutdown.

use std::net::{TcpListener, UdpSocket};
use std::time::{Duration, Instant};

use scaledapp_tests::process::Signal;

use crate::server::{Server, binary, wait};

const RECORDS: &str = r#"{"hello.apps.local.":{"addresses":["10.0.0.1"]}}"#;

#[test]
fn after_term_the_server_is_unready_but_answers_until_it_exits_with_0() {
    let server = Server::start_with("127.0.0.1:0", Some(RECORDS), &["--drain-min", "1500ms"]);
    server.wait_ready().unwrap();
    let started = Instant::now();
    server.process.signal(Signal::TERM).unwrap();
    wait("unreadiness", || {
        let answer = server.get("/readyz").unwrap();
        answer.status == 503 && answer.text() == "draining\n"
    });
    assert_eq!(server.addresses("hello").len(), 1);
    assert_eq!(server.wait_end(), 0);
    assert!(started.elapsed() >= Duration::from_millis(1500));
}

#[test]
fn a_second_signal_ends_the_server_immediately() {
    let server = Server::start_with("127.0.0.1:0", Some(RECORDS), &["--drain-min", "1h"]);
    server.wait_ready().unwrap();
    server.process.signal(Signal::INT).unwrap();
    server.wait_log("draining").unwrap();
    server.process.signal(Signal::INT).unwrap();
    assert_eq!(server.wait_end(), 0);
}

#[test]
fn without_a_records_file_the_zone_has_only_its_own_records() {
    let server = Server::start_without_file();
    server.wait_ready().unwrap();
    assert_eq!(
        server.addresses("ns"),
        ["127.0.0.1".parse::<std::net::IpAddr>().unwrap()]
    );
}

#[test]
fn wrong_usage_exits_with_64_and_help_with_0() {
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
fn the_server_names_a_port_in_use_and_exits_with_2() {
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
