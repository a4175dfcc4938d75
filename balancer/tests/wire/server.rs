//! A running `scaledapp-balancer`, and the peers that it needs.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::ops::Deref;
use std::path::PathBuf;
use std::process::Command;

use scaledapp_tests::served::{SOON, Served};
use scaledapp_tests::wait;

/// A command of the binary, without the caller's SCALEDAPP_* variables.
pub(crate) fn binary(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_scaledapp-balancer"));
    command.env_clear().args(arguments);
    command
}

/// Waits until `holds` returns true.
pub(crate) fn wait(what: &str, holds: impl FnMut() -> bool) {
    wait::until_true(SOON, what, holds).unwrap();
}

/// A balancer that is killed when dropped.
pub(crate) struct Server(Served);

impl Deref for Server {
    type Target = Served;

    fn deref(&self) -> &Served {
        &self.0
    }
}

impl Server {
    /// Starts a balancer on free loopback ports.
    pub(crate) fn start(arguments: &[&str]) -> Self {
        let ports = ["run", "--listen=127.0.0.1:0", "--admin=127.0.0.1:0"];
        Self::spawn(binary(&[&ports, arguments].concat()))
    }

    pub(crate) fn spawn(command: Command) -> Self {
        Self(Served::start(command).unwrap())
    }

    /// `/status`.
    pub(crate) fn status(&self) -> serde_json::Value {
        self.get("/status").unwrap().json()
    }

    /// `/metrics`.
    pub(crate) fn metrics(&self) -> String {
        self.get("/metrics").unwrap().text()
    }

    /// `NAME STANDING` of each endpoint.
    pub(crate) fn standings(&self) -> Vec<String> {
        let status = self.status();
        let endpoints = status["endpoints"].as_array().unwrap().iter();
        let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
        endpoints
            .map(|endpoint| text(&endpoint["name"]) + " " + &text(&endpoint["standing"]))
            .collect()
    }

    /// Waits until exactly these standings are shown.
    pub(crate) fn wait_standings(&self, expected: &[&str]) {
        wait(&format!("{expected:?}"), || self.standings() == expected);
    }

    /// Waits until the balancer exits. Returns the exit code.
    pub(crate) fn wait_end(mut self) -> i32 {
        self.0.process.wait(SOON).unwrap().code
    }
}

/// An endpoints file that is replaced by rename.
pub(crate) struct Endpoints(tempfile::TempDir);

impl Endpoints {
    /// A file that does not exist yet.
    pub(crate) fn missing() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.0.path().join("endpoints.json")
    }

    pub(crate) fn flag(&self) -> String {
        format!("--endpoints-file={}", self.path().display())
    }

    pub(crate) fn replace(&self, json: &str) {
        let next = self.0.path().join("next.json");
        fs::write(&next, json).unwrap();
        fs::rename(&next, self.path()).unwrap();
    }
}

/// Answers each connection's first request with `answer` and keeps the connection open.
pub(crate) fn peer(answer: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let mut kept = Vec::new();
        for mut stream in listener.incoming().map_while(Result::ok) {
            let mut request = Vec::new();
            let mut byte = [0];
            while !request.ends_with(b"\r\n\r\n") && stream.read_exact(&mut byte).is_ok() {
                request.push(byte[0]);
            }
            drop(stream.write_all(answer.as_bytes()));
            kept.push(stream);
        }
    });
    address
}
