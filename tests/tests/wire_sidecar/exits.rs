//! Exit codes and their messages.

use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::Duration;

use scaledapp_tests::process::{self, Ended};
use scaledapp_tests::sidecar::Launch;
use scaledapp_tests::{binaries, fixtures};

use crate::has;

/// How long three attempts with their pauses may take, on a busy machine.
const TRIES: Duration = Duration::from_secs(30);

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|&word| word.to_owned()).collect()
}

fn sidecar(words: &[&str]) -> Ended {
    let mut command = Command::new(binaries::path("scaledapp-sidecar").unwrap());
    command.args(words);
    process::run(command, TRIES).unwrap()
}

fn ended(command: Vec<String>) -> Ended {
    let launch = Launch::of(|_| command).unwrap().with(&["--workers", "2"]);
    launch.run(TRIES).unwrap()
}

#[test]
fn the_exit_code_is_that_of_an_app_that_never_became_ready() {
    let directory = tempfile::tempdir().unwrap();
    let plain = directory.path().join("plain");
    std::fs::write(&plain, "no program").unwrap();
    std::fs::set_permissions(&plain, std::fs::Permissions::from_mode(0o644)).unwrap();
    for (command, code) in [
        (words(&["/no/such/program"]), 127),
        (words(&["no-such-program-on-the-path"]), 127),
        (words(&[plain.to_str().unwrap()]), 126),
        (words(&["sh", "-c", "exit 7"]), 7),
        (words(&["sh", "-c", "kill -9 $$"]), 137),
        (words(&["sh", "-c", "kill -SEGV $$"]), 139),
    ] {
        let ended = ended(command.clone());
        assert_eq!(ended.code, code, "{command:?}: {}", ended.stderr);
    }
}

#[test]
fn the_last_output_of_a_broken_app_is_passed_on() {
    if !has("node") {
        return;
    }
    let ended = ended(fixtures::node("broken.js", 1));
    assert_eq!(ended.code, 1);
    assert!(
        ended
            .stderr
            .contains("cannot find the module that was never shipped"),
        "{}",
        ended.stderr
    );
}

#[test]
fn wrong_usage_is_64_and_names_the_cure() {
    for (words, cure) in [
        (&["run"][..], "COMMAND"),
        (&["run", "--port", "0", "--", "true"], "1 to 65535"),
        (&["run", "--workers", "many", "--", "true"], "auto"),
        (&["run", "--drain-timeout", "30", "--", "true"], "500ms"),
        (&["run", "--no-such-flag", "--", "true"], "--help"),
        (
            &[
                "run",
                "--dispatch",
                "connection",
                "--mechanism",
                "port",
                "--",
                "true",
            ],
            "--dispatch request",
        ),
        (&["ctl"], "--help"),
        (&["ctl", "frobnicate"], "--help"),
        (&[], "--help"),
    ] {
        let ended = sidecar(words);
        assert_eq!(ended.code, 64, "{words:?}: {}", ended.stderr);
        let said = ended.stderr.clone() + &ended.stdout;
        // A command without arguments shows the whole help instead of a hint.
        assert!(
            said.contains(cure) || said.contains("Usage"),
            "{words:?} said: {said}"
        );
    }
}

#[test]
fn help_and_version_are_0() {
    for words in [
        &["--help"][..],
        &["--version"],
        &["run", "--help"],
        &["ctl", "--help"],
        &["install", "--help"],
    ] {
        let ended = sidecar(words);
        assert_eq!(ended.code, 0, "{words:?}");
        assert!(!ended.stdout.is_empty(), "{words:?}");
    }
    for words in [["run", "--help"], ["ctl", "--help"]] {
        assert!(sidecar(&words).stdout.contains("Examples:"), "{words:?}");
    }
}

#[test]
fn a_taken_port_is_2_and_named() {
    let taken = TcpListener::bind("0.0.0.0:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    for dispatch in ["request", "connection"] {
        let mut launch = Launch::of(|_| words(&["sleep", "1000"]))
            .unwrap()
            .with(&["--dispatch", dispatch]);
        launch.port = port;
        let ended = launch.run(TRIES).unwrap();
        assert_eq!(ended.code, 2, "{}", ended.stderr);
        assert!(ended.stderr.contains(&port.to_string()), "{}", ended.stderr);
    }
}

#[test]
fn a_taken_admin_port_is_2_and_named() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut launch = Launch::of(|_| words(&["sleep", "1000"])).unwrap();
    launch.admin = taken.local_addr().unwrap();
    let ended = launch.clone().run(TRIES).unwrap();
    assert_eq!(ended.code, 2, "{}", ended.stderr);
    assert!(
        ended.stderr.contains(&launch.admin.to_string()),
        "{}",
        ended.stderr
    );
}

#[test]
fn install_copies_a_binary_that_runs() {
    let directory = tempfile::tempdir().unwrap();
    let target = directory.path().join("bin");
    std::fs::create_dir(&target).unwrap();
    let ended = sidecar(&["install", target.to_str().unwrap()]);
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    let mut installed = Command::new(target.join("sidecar"));
    installed.arg("--version");
    assert_eq!(process::run(installed, TRIES).unwrap().code, 0);
    assert_eq!(sidecar(&["install", "/proc/nowhere"]).code, 1);
}
