//! A running `scaledapp-balancer`, and the peers that it needs.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

/// A command of the binary, free of the caller's configuration.
pub(crate) fn binary(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_scaledapp-balancer"));
    command.env_clear().args(arguments);
    command
}

/// A balancer that is killed when dropped.
pub(crate) struct Server {
    child: Child,
    log: Receiver<String>,
    pub(crate) address: SocketAddr,
    pub(crate) admin: SocketAddr,
}

impl Server {
    /// On free loopback ports.
    pub(crate) fn start(arguments: &[&str]) -> Self {
        let ports = ["run", "--listen=127.0.0.1:0", "--admin=127.0.0.1:0"];
        Self::spawn(&mut binary(&[&ports, arguments].concat()))
    }

    pub(crate) fn spawn(command: &mut Command) -> Self {
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let (sender, log) = channel();
        std::thread::spawn(move || {
            // Read to the end, so that the balancer never waits for its reader.
            for line in stderr.lines().map_while(Result::ok) {
                drop(sender.send(line));
            }
        });
        let line = wait_line(&log, "listening");
        let (address, admin) = (field(&line, "address="), field(&line, "admin=\""));
        Self {
            child,
            log,
            address,
            admin,
        }
    }

    /// Waits for a line of the log that holds `text`.
    pub(crate) fn wait_log(&self, text: &str) -> String {
        wait_line(&self.log, text)
    }

    pub(crate) fn wait_ready(&self) {
        wait("readiness", || {
            self.get("/readyz").starts_with("HTTP/1.1 200 ")
        });
    }

    /// One request to the admin port; the whole answer.
    pub(crate) fn get(&self, path: &str) -> String {
        get(self.admin, path)
    }

    /// `/status`.
    pub(crate) fn status(&self) -> serde_json::Value {
        let answer = self.get("/status");
        let (_, body) = answer.split_once("\r\n\r\n").unwrap();
        serde_json::from_str(body).unwrap()
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

    /// Waits for exactly these.
    pub(crate) fn wait_standings(&self, expected: &[&str]) {
        wait(&format!("{expected:?}"), || self.standings() == expected);
    }

    pub(crate) fn signal(&self, name: &str) {
        let id = self.child.id().to_string();
        let sent = Command::new("kill").args([name, &id]).status().unwrap();
        assert!(sent.success());
    }

    /// Whether it still runs, or how it ended.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself; then there is nothing to kill.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// An endpoints file that is replaced by rename.
pub(crate) struct Endpoints(tempfile::TempDir);

impl Endpoints {
    /// Not there yet.
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

/// Answers each connection's first request with `answer` and keeps it open.
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

/// One GET; the whole answer.
pub(crate) fn get(server: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(server).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

fn wait_line(log: &Receiver<String>, text: &str) -> String {
    let deadline = Instant::now() + DEADLINE;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let line = log
            .recv_timeout(left)
            .unwrap_or_else(|_| panic!("no log line with {text:?}"));
        if line.contains(text) {
            return line;
        }
    }
}

fn field(line: &str, key: &str) -> SocketAddr {
    let (_, rest) = line
        .split_once(key)
        .unwrap_or_else(|| panic!("no {key} in {line}"));
    let end = rest.find([' ', '"']).unwrap_or(rest.len());
    rest[..end]
        .parse()
        .unwrap_or_else(|_| panic!("no address behind {key} in {line}"))
}

/// Waits until `holds`.
pub(crate) fn wait(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !holds() {
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Writes a file of the configuration.
pub(crate) fn write(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
}
