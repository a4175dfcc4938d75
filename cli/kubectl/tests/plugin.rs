//! The built binary against a small API server that answers from a list: streams of lines that
//! end, completion within its time, how fast the program starts, and that nothing but the paths
//! that it needs is asked for.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "all of this target is test code, helpers included"
)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const APP: &str = r#"{"metadata":{"name":"shop","namespace":"web","generation":1},"spec":{"image":"x:1"},"status":{"observedGeneration":1,"pods":"1/1"}}"#;
const PODS: &str = r#"{"items":[{"metadata":{"name":"shop-1","namespace":"web","labels":{"app.kubernetes.io/instance":"shop","app.kubernetes.io/component":"app"}},"spec":{"containers":[]}}]}"#;

type Answer = dyn Fn(&str, usize) -> (u16, String) + Send + Sync;

/// A server that answers each GET by a function of the path and of how often the path was asked.
struct Server {
    at: SocketAddr,
    asked: Arc<Mutex<Vec<String>>>,
    config: tempfile::TempDir,
}

impl Server {
    fn start(answer: impl Fn(&str, usize) -> (u16, String) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let at = listener.local_addr().unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (seen, answer): (_, Arc<Answer>) = (asked.clone(), Arc::new(answer));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (seen, answer) = (seen.clone(), answer.clone());
                std::thread::spawn(move || serve(stream, &seen, &*answer));
            }
        });
        let config = tempfile::tempdir().unwrap();
        let text = format!(
            r#"{{"apiVersion":"v1","kind":"Config","clusters":[{{"name":"c","cluster":{{"server":"http://{at}"}}}}],"users":[{{"name":"u","user":{{"token":"t"}}}}],"contexts":[{{"name":"c","context":{{"cluster":"c","user":"u","namespace":"web"}}}}],"current-context":"c"}}"#
        );
        std::fs::write(config.path().join("config"), text).unwrap();
        Self { at, asked, config }
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kubectl-scaledapp"));
        command
            .args(words)
            .env("KUBECONFIG", self.config.path().join("config"));
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    fn run(&self, words: &[&str]) -> (i32, String, String) {
        let Output {
            status,
            stdout,
            stderr,
        } = self.command(words).output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (status.code().unwrap(), text(stdout), text(stderr))
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

fn serve(stream: TcpStream, seen: &Mutex<Vec<String>>, answer: &Answer) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut first = String::new();
    let mut line = String::new();
    reader.read_line(&mut first).unwrap();
    while reader.read_line(&mut line).is_ok_and(|len| len > 2) {
        line.clear();
    }
    let path = first.split(' ').nth(1).unwrap_or_default().to_owned();
    let before = {
        let mut seen = seen.lock().unwrap();
        let plain = |path: &str| path.split('?').next().unwrap_or_default().to_owned();
        let before = seen.iter().filter(|it| plain(it) == plain(&path)).count();
        seen.push(path.clone());
        before
    };
    let (code, body) = answer(&path, before);
    let head = format!(
        "HTTP/1.1 {code} X\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    let mut stream = stream;
    drop(stream.write_all((head + &body).as_bytes()));
}

fn shop(path: &str) -> (u16, String) {
    if path.starts_with("/apis/scaledapp.io/v1alpha1/namespaces/web/scaledapps/shop") {
        (200, APP.to_owned())
    } else if path.ends_with("/scaledapps") {
        (200, format!("{{\"items\":[{APP}]}}"))
    } else if path.starts_with("/api/v1/namespaces/web/pods?") {
        (200, PODS.to_owned())
    } else {
        (
            404,
            r#"{"kind":"Status","message":"no such thing"}"#.to_owned(),
        )
    }
}

fn stamp(second: u32, text: &str) -> String {
    format!("2026-11-30T10:00:{second:02}.000000001Z {text}\n")
}

#[test]
fn a_stream_that_ends_goes_on_without_loss_and_without_doubles() {
    let server = Server::start(|path, before| {
        if !path.contains("/pods/shop-1/log") {
            return shop(path);
        }
        match before {
            0 => (
                200,
                stamp(1, "one") + &stamp(2, "[3] two") + &stamp(2, "[3] two again"),
            ),
            // The kubelet begins again with the whole second.
            _ => (
                200,
                stamp(2, "[3] two") + &stamp(2, "[3] two again") + &stamp(3, "three"),
            ),
        }
    });
    let mut child: Child = server.command(&["logs", "shop", "-f"]).spawn().unwrap();
    let begun = Instant::now();
    let log = || {
        server
            .asked()
            .iter()
            .filter(|path| path.contains("/log"))
            .count()
    };
    while log() < 3 && begun.elapsed() < Duration::from_secs(20) {
        std::thread::sleep(Duration::from_millis(50));
    }
    std::thread::sleep(Duration::from_millis(200));
    child.kill().unwrap();
    let mut shown = String::new();
    child
        .stdout
        .take()
        .unwrap()
        .read_to_string(&mut shown)
        .unwrap();
    child.wait().unwrap();
    assert_eq!(
        shown,
        "shop-1 | one\nshop-1/3 | two\nshop-1/3 | two again\nshop-1 | three\n"
    );
    let asked = server.asked();
    let again = asked
        .iter()
        .find(|path| path.contains("sinceTime"))
        .unwrap();
    assert!(
        again.contains("sinceTime=2026-11-30T10%3A00%3A02.000000001Z"),
        "{again}"
    );
}

#[test]
fn logs_choose_lines_and_say_what_cannot_be_read() {
    let server = Server::start(|path, _| {
        match path.contains("/log") {
        true if path.contains("previous=true") => {
            (
                403,
                r#"{"kind":"Status","status":"Failure","message":"forbidden","reason":"Forbidden","code":403}"#.to_owned(),
            )
        }
        true => (200, stamp(1, "one") + &stamp(2, "[3] two")),
        false => shop(path),
    }
    });
    let (code, shown, _) = server.run(&[
        "logs", "shop", "--worker", "3", "--tail", "5", "--since", "1m",
    ]);
    assert_eq!((code, shown.as_str()), (0, "shop-1/3 | two\n"));
    let asked = server.asked();
    let log = asked.iter().find(|path| path.contains("/log")).unwrap();
    assert!(
        log.contains("container=app&timestamps=true&tailLines=5&sinceSeconds=60"),
        "{log}"
    );
    let (code, _, said) = server.run(&["logs", "shop", "--previous"]);
    assert_eq!(code, 2);
    assert!(said.contains("shop-1: may not get pods/log"), "{said}");
    let (code, _, said) = server.run(&["logs", "other"]);
    assert_eq!(code, 2, "{said}");
}

#[test]
fn nothing_is_discovered_and_the_program_starts_fast() {
    let server = Server::start(|path, _| shop(path));
    let (code, shown, said) = server.run(&["status", "-o", "name"]);
    assert_eq!(
        (code, shown.as_str()),
        (0, "scaledapp.scaledapp.io/shop\n"),
        "{said}"
    );
    assert_eq!(
        server.asked(),
        ["/apis/scaledapp.io/v1alpha1/namespaces/web/scaledapps"]
    );
    let (code, shown, _) = server.run(&["__complete", "status", "sh"]);
    assert_eq!((code, shown.as_str()), (0, "shop\t1/1\n:4\n"));
}

#[test]
fn completion_gives_up_on_a_slow_cluster() {
    let server = Server::start(|path, _| {
        std::thread::sleep(Duration::from_secs(20));
        shop(path)
    });
    let begun = Instant::now();
    let (code, shown, _) = server.run(&["__complete", "status", ""]);
    assert_eq!((code, shown.as_str()), (0, ":4\n"));
    assert!(
        begun.elapsed() < Duration::from_secs(10),
        "{:?}",
        begun.elapsed()
    );
    let (code, _, said) = server.run(&["status", "--request-timeout", "200ms"]);
    assert_eq!(code, 2);
    assert!(said.contains("no answer within 200ms"), "{said}");
}

#[test]
fn verbs_without_a_cluster_need_none() {
    let run = |words: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kubectl-scaledapp"));
        command
            .args(words)
            .env("KUBECONFIG", "/does/not/exist")
            .env("HOME", "/does/not/exist");
        let output = command.output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        (
            output.status.code().unwrap(),
            text,
            String::from_utf8(output.stderr).unwrap(),
        )
    };
    let sample = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../examples/hello-node/scaledapp.yaml"
    );
    let (code, objects, _) = run(&["render", "-f", sample]);
    assert_eq!(code, 0);
    assert!(objects.matches("\n---\n").count() > 5, "{objects}");
    assert_eq!(run(&["explain", "Stalled"]).0, 0);
    assert_eq!(run(&["explain", "Nonsense"]).0, 64);
    assert!(
        run(&["completion", "kubectl"])
            .1
            .contains("exec kubectl-scaledapp __complete")
    );
    let (code, _, said) = run(&["status"]);
    assert_eq!(code, 2);
    assert!(said.contains("set KUBECONFIG"), "{said}");
    assert_eq!(run(&["stats"]).0, 64);
}

#[test]
fn an_unreachable_server_is_not_known_rather_than_failing() {
    let server = Server::start(|path, _| shop(path));
    let text = std::fs::read_to_string(server.config.path().join("config")).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let closed = listener.local_addr().unwrap();
    drop(listener);
    let text = text.replace(&server.at.to_string(), &closed.to_string());
    std::fs::write(server.config.path().join("config"), text).unwrap();
    let (code, _, said) = server.run(&["status"]);
    assert_eq!(code, 2, "{said}");
    assert!(said.contains("cannot read the ScaledApps"), "{said}");
    let (code, shown, _) = server.run(&["check"]);
    assert_eq!(code, 1);
    assert!(shown.starts_with("api server  x   no answer"), "{shown}");
}
