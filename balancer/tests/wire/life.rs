//! Start, wrong usage, and the end.

use std::fs;
use std::net::TcpListener;

use scaledapp_tests::http;
use scaledapp_tests::process::Signal;

use crate::server::{Server, binary, peer};

const ANSWER: &str = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello";

#[test]
fn settings_come_from_flags_then_variables_then_the_file() {
    let upstream = peer(ANSWER).to_string();
    let directory = tempfile::tempdir().unwrap();
    let config = directory.path().join("balancer.json");
    // This machine does not have this address, so a process that used it could not start.
    let json =
        format!(r#"{{"listen":"192.0.2.1:1","admin":"192.0.2.1:2","upstream":["{upstream}"]}}"#);
    fs::write(&config, json).unwrap();
    let mut command = binary(&["run", "--listen", "127.0.0.1:0"]);
    command.env("SCALEDAPP_LISTEN", "192.0.2.1:3");
    command.env("SCALEDAPP_ADMIN", "127.0.0.1:0");
    command.env("SCALEDAPP_CONFIG", &config);
    let server = Server::spawn(command);
    server.wait_ready().unwrap();
    assert_eq!(http::get(server.address, "/").unwrap().text(), "hello");
    assert_eq!(server.standings(), [format!("{upstream} serving")]);
}

#[test]
fn wrong_usage_exits_with_64_and_help_with_0() {
    for (arguments, code, part) in [
        (&["run", "--help"][..], 0, "SCALEDAPP_ENDPOINTS_FILE"),
        (&["--version"], 0, "scaledapp-balancer"),
        (&[], 64, "Usage"),
        (&["run", "--listen=127.0.0.1:0"], 64, "--upstream ADDR"),
        (
            &["run", "--listen=127.0.0.1:0"],
            64,
            "--endpoints-file FILE",
        ),
        (&["run", "--upstream=10.0.0.1:1"], 64, "--listen ADDR"),
        (
            &["run", "--upstream=app:1"],
            64,
            "Host names are not looked up",
        ),
        (&["run", "--config=/no/such"], 64, "/no/such"),
    ] {
        let output = binary(arguments).output().unwrap();
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8(text).unwrap();
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {text}");
        assert!(text.contains(part), "{arguments:?}: {text}");
    }
}

#[test]
fn a_taken_port_ends_it_with_2_and_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    for (listen, admin) in [(taken.as_str(), "none"), ("127.0.0.1:0", taken.as_str())] {
        let arguments = [
            "run",
            "--upstream=10.0.0.1:1",
            "--listen",
            listen,
            "--admin",
            admin,
        ];
        let output = binary(&arguments).output().unwrap();
        let message = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{message}");
        assert!(
            message.contains(&taken) && message.contains("another process"),
            "{message}"
        );
    }
}

#[test]
fn a_second_signal_ends_it_immediately() {
    for (first, second) in [(Signal::TERM, Signal::INT), (Signal::INT, Signal::INT)] {
        let server = Server::start(&["--upstream=127.0.0.1:1", "--drain-min=1h"]);
        server.wait_ready().unwrap();
        server.process.signal(first).unwrap();
        server.wait_log("draining").unwrap();
        let answer = server.get("/readyz").unwrap();
        assert!(answer.text().ends_with("draining\n"), "{answer:?}");
        assert_eq!(server.status()["draining"], true);
        server.process.signal(second).unwrap();
        assert_eq!(server.wait_end(), 0);
    }
}

#[test]
fn a_taken_default_admin_address_does_not_stop_the_balancer() {
    use std::io::{BufRead, BufReader};
    // Whichever process uses the default admin address, at least one of these two balancers
    // finds it in use, and both serve.
    let mut children = Vec::new();
    for _ in 0..2 {
        let mut command = binary(&["run", "--listen=127.0.0.1:0", "--upstream=10.0.0.1:1"]);
        let mut child = command
            .stderr(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        assert!(lines.any(|line| line.is_ok_and(|line| line.contains("listening"))));
        children.push(child);
    }
    for mut child in children {
        assert_eq!(child.try_wait().unwrap(), None);
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
