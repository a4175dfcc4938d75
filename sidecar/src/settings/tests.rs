//! Tests of how flags and the file become settings.

use clap::Parser;

use super::*;
use crate::cli::{Cli, Command};
use crate::cores::WorkerSpec;

fn resolve(words: &[&str]) -> anyhow::Result<Settings> {
    let words = ["scaledapp-sidecar", "run"].iter().chain(words);
    match Cli::try_parse_from(words)?.command {
        Command::Run(args) => Settings::resolve(*args),
        other => bail!("parsed as {other:?}"),
    }
}

#[test]
fn the_shortest_command_line_has_every_default() {
    let settings = resolve(&["--", "node", "server.js"]).unwrap();
    assert_eq!(settings.port, Some(3000));
    assert_eq!(settings.workers, WorkerRange::one(WorkerSpec::Auto));
    assert_eq!(settings.dispatch, DispatchArg::Request);
    assert_eq!(settings.stop_signal, Signal::TERM);
    assert_eq!(settings.command, ["node", "server.js"]);
}

#[test]
fn a_flag_wins_over_the_file_and_the_file_over_the_default() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(
        &file,
        r#"{"port": 4000, "workers": 3, "drainTimeout": "5s"}"#,
    )
    .unwrap();
    let path = file.path().to_str().unwrap();
    let settings = resolve(&["--config", path, "--port", "5000", "--", "app"]).unwrap();
    assert_eq!(settings.port, Some(5000));
    assert_eq!(settings.workers, WorkerRange::one(WorkerSpec::Fixed(3)));
    assert_eq!(settings.drain_timeout, Duration::from_secs(5));
}

#[test]
fn settings_that_cannot_work_are_refused_with_the_cure() {
    for (words, cure) in [
        (&["--port", "0", "--", "app"][..], "1 to 65535"),
        (&["--workers", "many", "--", "app"], "auto"),
        (&["--workers", "2000", "--", "app"], "at most 1024"),
        (
            &[
                "--dispatch",
                "connection",
                "--readiness-path",
                "/h",
                "--",
                "app",
            ],
            "needs --dispatch request",
        ),
        (
            &[
                "--dispatch",
                "connection",
                "--mechanism",
                "port",
                "--",
                "app",
            ],
            "needs --dispatch request",
        ),
        (
            &["--readiness-path", "healthz", "--", "app"],
            "must start with /",
        ),
        (
            &[
                "--dispatch",
                "connection",
                "--metrics-from",
                "/metrics",
                "--",
                "app",
            ],
            "give PORT/metrics",
        ),
        (&["--metrics-from", "metrics", "--", "app"], "9464/metrics"),
        (
            &["--metrics-from", "0/metrics", "--", "app"],
            "9464/metrics",
        ),
        (&["--stop-signal", "NOPE", "--", "app"], "is not a signal"),
        (&["--stop-signal", "34", "--", "app"], "from 1 to 31"),
        (&["--drain-timeout", "30", "--", "app"], "such as 500ms"),
        (
            &["--share", "3000", "--", "app"],
            "leave the port of --port out",
        ),
        (&["--share", "81,81", "--", "app"], "each further port once"),
        (&["--max-memory", "lots", "--", "app"], "such as 300M"),
        (&["--max-requests", "0", "--", "app"], "1.."),
        (&["--max-age", "0s", "--", "app"], "endlessly"),
        (&["--hang-timeout", "0s", "--", "app"], "none"),
        (
            &[
                "--dispatch",
                "connection",
                "--max-requests",
                "9",
                "--",
                "app",
            ],
            "needs --dispatch request",
        ),
        (&["--config", "/nonexistent", "--", "app"], "cannot read"),
        (&[], "COMMAND"),
    ] {
        let message = format!("{:#}", resolve(words).unwrap_err());
        assert!(message.contains(cure), "{words:?} said: {message}");
    }
}

#[test]
fn admin_addresses_that_cannot_work_are_refused_with_the_cure() {
    for (words, cure) in [
        (
            &["--metrics-from", "/m", "--admin", "none", "--", "app"][..],
            "leave --admin none out",
        ),
        (&["--admin", "127.0.0.1:0", "--", "app"], "give a port"),
        (&["--admin", "9377", "--", "app"], "127.0.0.1:9377"),
    ] {
        let message = format!("{:#}", resolve(words).unwrap_err());
        assert!(message.contains(cure), "{words:?} said: {message}");
    }
}

#[test]
fn settings_of_the_dispatcher_are_refused_without_one() {
    for (flag, value) in [
        ("--connections", "5"),
        ("--connections-per-address", "5"),
        ("--queue-length", "9"),
        ("--body-rate", "500"),
        ("--half-close-timeout", "1s"),
    ] {
        let words = [flag, value, "--dispatch", "connection", "--", "app"];
        let error = resolve(&words).unwrap_err().to_string();
        assert!(
            error.starts_with(&format!("{flag} needs --dispatch request")),
            "{error}"
        );
        resolve(&[flag, value, "--", "app"]).unwrap();
    }
}

#[test]
fn limits_are_read_from_flags_and_file() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let text = r#"{"maxMemory": "300M", "maxAge": "6h", "hangTimeout": "none"}"#;
    std::fs::write(&file, text).unwrap();
    let path = file.path().to_str().unwrap();
    let words = ["--config", path, "--max-memory", "1Gi", "--", "app"];
    let limits = resolve(&words).unwrap().limits;
    assert_eq!(limits.memory, Some(1 << 30));
    assert_eq!(limits.age, Some(Duration::from_hours(6)));
    assert_eq!((limits.silence, limits.jitter_percent), (None, 10));
    let limits = resolve(&["--", "app"]).unwrap().limits;
    assert_eq!(limits.silence, Some(HANG_TIMEOUT));
}

#[test]
fn readiness_and_variables_that_cannot_work_are_refused_with_the_cure() {
    for (words, cure) in [
        (&["--ready-after", "2s"][..], "needs --port none"),
        (
            &["--port", "none", "--ready-after", "60s"],
            "less than --boot-timeout 1m",
        ),
        (&["--increment-env", "A=B"], "such as"),
        (
            &["--increment-env", "NODE_APP_INSTANCE"],
            "with --instance-env",
        ),
    ] {
        let words: Vec<&str> = words.iter().copied().chain(["--", "app"]).collect();
        let message = format!("{:#}", resolve(&words).unwrap_err());
        assert!(message.contains(cure), "{words:?} said: {message}");
    }
}

#[test]
fn readiness_is_read_from_flags_and_file() {
    let wanted = |words: &[&str]| {
        let words: Vec<&str> = words.iter().copied().chain(["--", "app"]).collect();
        let settings = resolve(&words).unwrap();
        assert_eq!(settings.wanted.port, settings.port);
        assert_eq!(settings.ports().is_empty(), settings.port.is_none());
        (
            settings.wanted.life,
            settings.wanted.message,
            settings.opens_channel(),
            settings.dispatch_shown().as_str(),
        )
    };
    let second = Some(Duration::from_secs(1));
    assert_eq!(wanted(&[]), (None, false, false, "request"));
    let none = ["--port", "none"];
    assert_eq!(wanted(&none), (second, false, false, "none"));
    let says = ["--port", "none", "--wait-ready"];
    assert_eq!(wanted(&says), (None, true, true, "none"));
    let both = ["--port", "none", "--wait-ready", "--ready-after", "1s"];
    assert_eq!(wanted(&both), (second, true, true, "none"));
    let ends = ["--shutdown-message", "--readiness-path", "/h"];
    assert_eq!(wanted(&ends), (None, false, true, "request"));
    let file = tempfile::NamedTempFile::new().unwrap();
    let text =
        r#"{"port": "none", "readyAfter": "3s", "waitReady": true, "shutdownMessage": true}"#;
    std::fs::write(&file, text).unwrap();
    let path = file.path().to_str().unwrap();
    let life = Some(Duration::from_secs(3));
    assert_eq!(wanted(&["--config", path]), (life, true, true, "none"));
}

#[test]
fn an_unknown_name_in_the_file_is_named() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(&file, r#"{"prot": 4000}"#).unwrap();
    let path = file.path().to_str().unwrap();
    let message = format!(
        "{:#}",
        resolve(&["--config", path, "--", "app"]).unwrap_err()
    );
    assert!(message.contains("`prot`"), "{message}");
}
