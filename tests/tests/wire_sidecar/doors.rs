//! The admin port and the control socket of a supervisor stay available, whatever other clients do.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::time::{Duration, Instant};

use scaledapp_tests::sidecar::{self, Launch, Sidecar};
use scaledapp_tests::{fixtures, http, ports, proc, wait};

use crate::{SOON, has};

/// Time-out of a probe. A kubelet's probes time out after a second, but a busy machine that was
/// just flooded takes longer. A blocked port would be blocked for a minute.
const PROBE: Duration = Duration::from_secs(5);
/// The machine's Python, which every user may run.
const PYTHON: &str = "/usr/bin/python3";
const STRANGER: [&str; 4] = ["setpriv", "--reuid", "65533", "--clear-groups"];

/// Whether the test can run Python as another user.
fn has_a_stranger() -> bool {
    let mut command = Command::new(STRANGER[0]);
    let command = command.args(&STRANGER[1..]).args([PYTHON, "-c", ""]);
    command.status().is_ok_and(|status| status.success())
}

fn probes_answer(sidecar: &Sidecar) {
    for path in ["/livez", "/readyz"] {
        let started = Instant::now();
        assert_eq!(http::get(sidecar.launch.admin, path).unwrap().status, 200);
        assert!(started.elapsed() < PROBE, "{path}: {:?}", started.elapsed());
    }
}

#[test]
fn probes_are_answered_whatever_else_is_at_the_admin_port() {
    if !has("python3") {
        return;
    }
    let launch = Launch::of(fixtures::python).unwrap();
    let sidecar = launch.with(&["--workers", "1"]).ready(1).unwrap();
    let admin = sidecar.launch.admin;
    let pid = sidecar.process.pid();
    let before = proc::resident_bytes(pid).unwrap();
    let mut held = Vec::new();
    for words in [
        "",
        "GET /livez HTTP/1.1\r\nX: ",
        "GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n",
    ] {
        for _ in 0..1000 {
            let mut stream = TcpStream::connect(admin).unwrap();
            // This fails if the connection was closed to make room for a later one.
            drop(stream.write_all(words.as_bytes()));
            held.push(stream);
        }
        probes_answer(&sidecar);
    }
    let mut refused = 0;
    for _ in 0..200 {
        let mut watches = TcpStream::connect(admin).unwrap();
        watches
            .write_all(b"GET /watch HTTP/1.1\r\nHost: a\r\n\r\n")
            .unwrap();
        let mut first = [0; 12];
        watches.read_exact(&mut first).unwrap();
        refused += usize::from(&first == b"HTTP/1.1 503");
        held.push(watches);
    }
    assert_eq!(refused, 200 - 24, "each address has its share of streams");
    probes_answer(&sidecar);
    let grown = proc::resident_bytes(pid).unwrap().saturating_sub(before);
    assert!(grown < 32 << 20, "{grown} bytes more than before");
}

#[test]
fn ctl_does_not_talk_to_a_control_socket_of_another_user() {
    // Another user's process has taken the socket's name.
    const TAKES: &str = "import socket, sys\ns = socket.socket(socket.AF_UNIX)\n\
        s.bind('\\0scaledapp-sidecar/' + sys.argv[1])\ns.listen()\nprint('up', flush=True)\n\
        c = s.accept()[0]\nprint('asked', c.recv(100))\n";
    let admin = ports::local().unwrap();
    if !has("python3") || !has_a_stranger() {
        return;
    }
    let mut stranger = Command::new(STRANGER[0])
        .args(&STRANGER[1..])
        .args([PYTHON, "-c", TAKES, &admin.to_string()])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = stranger.stdout.take().unwrap();
    said.read_exact(&mut [0; 3]).unwrap();
    let ended = sidecar::ctl(admin, &["logs"]).unwrap();
    assert_eq!(ended.code, 1, "{ended:?}");
    assert!(
        ended.stderr.contains("runs as user 65533"),
        "{}",
        ended.stderr
    );
    let mut heard = String::new();
    said.read_to_string(&mut heard).unwrap();
    assert!(heard.contains("asked b''"), "{heard}");
    stranger.wait().unwrap();
}

#[test]
fn silent_peers_do_not_block_the_control_socket_and_refused_ones_do_not_fill_the_log() {
    const SILENT: &str = "import socket, sys, time\nname = '\\0scaledapp-sidecar/' + sys.argv[1]\n\
        held = []\nfor _ in range(int(sys.argv[2])):\n    s = socket.socket(socket.AF_UNIX)\n    \
        s.connect(name)\n    held.append(s)\nprint('up', flush=True)\ntime.sleep(60)\n";
    if !has("python3") || !has_a_stranger() {
        return;
    }
    let launch = Launch::of(fixtures::python).unwrap();
    let sidecar = launch.with(&["--workers", "1"]).ready(1).unwrap();
    let admin = sidecar.launch.admin.to_string();
    for words in [&STRANGER[..], &["env"][..]] {
        let mut silent = Command::new(words[0])
            .args(&words[1..])
            .args([PYTHON, "-c", SILENT, &admin, "300"])
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        silent
            .stdout
            .take()
            .unwrap()
            .read_exact(&mut [0; 3])
            .unwrap();
        sidecar.ctl_done(&["status", "-o", "json"]).unwrap();
        silent.kill().unwrap();
        silent.wait().unwrap();
    }
    let told = || sidecar.process.stderr().matches("of another user").count();
    wait::until_true(SOON, "the log tells of it", || told() > 0).unwrap();
    assert!(told() < 5, "{} times", told());
}

#[test]
fn a_token_that_is_too_long_reloads_nothing_and_is_not_logged() {
    if !has("python3") {
        return;
    }
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), r#"{"reload": "a"}"#).unwrap();
    let path = file.path().display().to_string();
    let launch = Launch::of(fixtures::python).unwrap();
    let sidecar = launch.with(&["--workers", "1", "--desired-file", &path]);
    let sidecar = sidecar.ready(1).unwrap();
    let pids = sidecar.pids().unwrap();
    let token = "x".repeat(5000);
    std::fs::write(file.path(), format!(r#"{{"reload": "{token}"}}"#)).unwrap();
    let said = || sidecar.process.stderr();
    let reason = "the reload token has 5000 bytes";
    wait::until_true(SOON, "the reason is logged", || said().contains(reason)).unwrap();
    assert!(!said().contains("xxxx"), "{}", said());
    assert_eq!(sidecar.pids().unwrap(), pids);
    let status = sidecar.status().unwrap();
    assert_eq!(status["reloaded"], "a");
}
