//! `scaledapp init` and `scaledapp local --watch`, as somebody uses them who develops an app: the
//! samples without their objects are served after `init`, a change is served without a command, and
//! a change that does not start changes nothing.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "all of this target is test code, helpers included"
)]

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use scaledapp_tests::process::{self, Process, Signal};
use scaledapp_tests::{binaries, wait};

/// How long everything may take to start, on a busy machine.
const BOOT: Duration = Duration::from_mins(1);

/// A project in a directory of its own, and the place for the files of its run.
struct Project {
    home: tempfile::TempDir,
}

impl Project {
    /// A copy of a sample, without its object.
    fn of(sample: &str) -> Self {
        let home = tempfile::tempdir().unwrap();
        let from = binaries::workspace().join("examples").join(sample);
        fs::create_dir(home.path().join(sample)).unwrap();
        for file in fs::read_dir(from).unwrap() {
            let path = file.unwrap().path();
            let name = path.file_name().unwrap();
            if path.is_file() && name != "scaledapp.yaml" {
                fs::copy(&path, home.path().join(sample).join(name)).unwrap();
            }
        }
        Self { home }
    }

    fn file(&self, sample: &str, name: &str) -> PathBuf {
        self.home.path().join(sample).join(name)
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(binaries::path("scaledapp").unwrap());
        command.args(words).current_dir(self.home.path());
        command.env("XDG_RUNTIME_DIR", self.home.path());
        command.env_remove("SCALEDAPP_STATE_FILE");
        command
    }

    fn init(&self, sample: &str) -> String {
        let ended = process::run(self.command(&["init", sample]), BOOT).unwrap();
        assert_eq!(ended.code, 0, "{ended:?}");
        ended.stdout
    }

    fn local(&self, sample: &str, more: &[&str]) -> Process {
        let object = self.file(sample, "scaledapp.yaml");
        let words = [&["local", object.to_str().unwrap(), "--nodes", "1"], more].concat();
        let local = Process::spawn(self.command(&words)).unwrap();
        said(&local, "is ready after");
        local
    }
}

/// Waits until a process has printed a text.
fn said(process: &Process, text: &str) {
    wait::until(BOOT, text, || {
        let out = process.stdout();
        if out.contains(text) {
            Ok(())
        } else {
            Err(format!("{out}\n{}", process.stderr()))
        }
    })
    .unwrap();
}

/// The body of the answer to a request at the first balancer that a run names.
fn answer(local: &Process) -> String {
    let out = local.stdout();
    let url = out.split("curl http://").nth(1).unwrap();
    let address = url.split('/').next().unwrap();
    let mut stream = TcpStream::connect(address).unwrap();
    stream
        .write_all(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
        .unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    assert!(text.starts_with("HTTP/1.1 200"), "{text}");
    text
}

fn stop(mut local: Process) {
    local.signal(Signal::INT).unwrap();
    assert_eq!(local.wait(BOOT).unwrap().code, 0);
}

#[test]
fn samples_without_an_object_are_served_after_init() {
    for (sample, program) in [("hello-node", "node"), ("hello-python", "python3")] {
        if !binaries::has(program) {
            continue;
        }
        let project = Project::of(sample);
        let said = project.init(sample);
        assert!(said.contains("assumed spec.command"), "{said}");
        let local = project.local(sample, &[]);
        assert!(answer(&local).contains("version"), "{}", answer(&local));
        stop(local);
        let again = process::run(project.command(&["init", sample]), BOOT).unwrap();
        assert_eq!(
            again.code, 1,
            "an existing object is not changed: {again:?}"
        );
        assert!(
            again.stderr.contains("an existing file is not changed"),
            "{again:?}"
        );
    }
}

fn replace(path: &Path, from: &str, to: &str) {
    let text = fs::read_to_string(path).unwrap();
    assert!(text.contains(from), "{text}");
    fs::write(path, text.replacen(from, to, 1)).unwrap();
}

#[test]
fn a_change_is_served_and_one_that_does_not_start_changes_nothing() {
    const SAMPLE: &str = "hello-python";
    if !binaries::has("python3") {
        return;
    }
    let project = Project::of(SAMPLE);
    project.init(SAMPLE);
    let source = project.file(SAMPLE, "server.py");
    let local = project.local(SAMPLE, &["--watch"]);
    said(&local, "watching ");
    assert!(answer(&local).contains("1.0.0"));
    replace(&source, "VERSION = \"1.0.0\"", "VERSION = \"2.0.0\"");
    said(&local, "hello-python: server.py changed: reloading");
    said(&local, "hello-python: serving generation 2");
    assert!(answer(&local).contains("2.0.0"));
    replace(&source, "VERSION = \"2.0.0\"", "VERSION = undefined_name");
    said(&local, "hello-python: still serving generation 2");
    let out = local.stdout();
    let message = out.split("the change does not start").nth(1).unwrap();
    assert!(
        message.contains("undefined_name"),
        "the app's own last lines: {out}"
    );
    assert!(answer(&local).contains("2.0.0"));
    replace(&source, "VERSION = undefined_name", "VERSION = \"3.0.0\"");
    wait::until(BOOT, "the cure is served", || {
        let text = answer(&local);
        text.contains("3.0.0").then_some(()).ok_or(text)
    })
    .unwrap();
    fs::write(project.file(SAMPLE, "app.log"), "a log is no change").unwrap();
    stop(local);
}
