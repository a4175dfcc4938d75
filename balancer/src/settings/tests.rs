//! Which flags and keys are accepted, and what they mean.

use clap::Parser;

use super::*;
use crate::cli::{Cli, Command};

pub(super) const LISTEN: &str = "--listen=127.0.0.1:8080";
pub(super) const UPSTREAM: &str = "--upstream=10.0.0.1:3000";

pub(super) fn settings(arguments: &[&str]) -> Result<Settings, String> {
    let words = ["scaledapp-balancer", "run"].iter().chain(arguments);
    let cli = Cli::try_parse_from(words).map_err(|error| error.to_string())?;
    let Command::Run(args) = cli.command;
    Settings::resolve(*args).map_err(|error| error.to_string())
}

pub(super) fn with_file(json: &str, arguments: &[&str]) -> Result<Settings, String> {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), json).unwrap();
    let config = format!("--config={}", file.path().display());
    settings(&[&[config.as_str()], arguments].concat())
}

fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

#[test]
fn the_defaults_are_those_that_the_help_states() {
    let settings = settings(&[LISTEN, UPSTREAM]).unwrap();
    assert_eq!(settings.admin, Some(address("127.0.0.1:9377")));
    let drain = Drain {
        min: Duration::from_secs(10),
        quiet: Duration::from_secs(2),
        timeout: Duration::from_secs(30),
    };
    assert_eq!(settings.drain, drain);
    assert!(settings.forwarding.threads >= 1);
    let expected = Config {
        threads: settings.forwarding.threads,
        ..Config::balancer()
    };
    assert_eq!(settings.forwarding, expected);
    // The numbers that the help states.
    let limits = settings.forwarding.limits;
    let numbers = [
        limits.connections,
        limits.waiting,
        limits.attempts,
        limits.retry_percent,
        limits.upstream_idle as u32,
    ];
    assert_eq!(numbers, [16384, 1024, 4, 20, 256]);
    let times = [
        limits.waiting_time,
        limits.head_time,
        limits.idle_time,
        limits.connect_time,
        limits.upstream_idle_time,
    ];
    assert_eq!(times.map(|time| time.as_secs()), [10, 10, 75, 3, 4]);
    let times = [
        limits.answer_time,
        limits.stall_time,
        limits.stream_time,
        limits.upgrade_time,
        limits.body_time,
    ];
    let minutes = times.map(|time| time.as_secs() / 60);
    assert_eq!(minutes, [5, 5, 60, 60, 360]);
    assert_eq!(limits.half_close_time, Duration::from_millis(500));
    assert_eq!(limits.body_rate, 500);
    let heads = [limits.request_head, limits.answer_head];
    assert_eq!(heads.map(|head| head.head_bytes), [65_536, 262_144]);
    assert_eq!(heads.map(|head| head.fields), [1000; 2]);
}

#[test]
fn a_flag_wins_over_the_file_and_the_file_over_the_default() {
    let json = r#"{"listen":"127.0.0.1:1","upstream":["10.0.0.7:1","10.0.0.8:1"],"admin":"none",
        "algorithm":"round-robin","threads":3,"drainMin":"1s","drainTimeout":"1m","connections":7,
        "connectionsPerAddress":5,"waitingTime":"0s","stallTime":"5s","answerTime":"6s","halfCloseTime":"0s","bodyRate":0,"headBytes":8192}"#;
    let settings = with_file(
        json,
        &[LISTEN, UPSTREAM, "--algorithm=hash", "--drain-min=3s"],
    )
    .unwrap();
    assert_eq!(settings.listen, address("127.0.0.1:8080"));
    assert_eq!(settings.upstreams, [address("10.0.0.1:3000")]);
    assert_eq!(settings.admin, None);
    assert_eq!(settings.drain.min, Duration::from_secs(3));
    assert_eq!(settings.drain.timeout, Duration::from_mins(1));
    let Config {
        threads,
        algorithm,
        limits,
        fits_connections,
        ..
    } = settings.forwarding;
    assert!(!fits_connections, "a given number is not lowered");
    assert_eq!((threads, algorithm), (3, Algorithm::Hash));
    assert_eq!((limits.connections, limits.waiting), (7, 1024));
    assert_eq!(limits.connections_per_address, NonZeroU32::new(5));
    assert_eq!(limits.waiting_time, Duration::ZERO);
    assert_eq!(limits.stall_time, Duration::from_secs(5));
    assert_eq!(limits.answer_time, Duration::from_secs(6));
    assert_eq!(limits.half_close_time, Duration::ZERO);
    assert_eq!(limits.body_rate, 0);
    let heads = [limits.request_head, limits.answer_head];
    assert_eq!(heads.map(|head| head.head_bytes), [8192; 2]);
    let file_only = with_file(json, &[]).unwrap();
    assert_eq!(file_only.listen, address("127.0.0.1:1"));
    assert_eq!(
        file_only.upstreams,
        [address("10.0.0.7:1"), address("10.0.0.8:1")]
    );
    assert_eq!(file_only.forwarding.algorithm, Algorithm::RoundRobin);
}

#[test]
fn networks_of_the_flag_replace_those_of_the_file() {
    let json = r#"{"forwardedFrom":["10.0.0.0/8"],"trustTokenFile":"/t"}"#;
    let texts = |arguments: &[&str]| {
        let settings = with_file(json, arguments).unwrap();
        assert_eq!(settings.trust_token_file.as_deref(), Some(Path::new("/t")));
        let networks = settings.forwarded_from.iter();
        networks.map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(texts(&[LISTEN, UPSTREAM]), ["10.0.0.0/8"]);
    let flag = "--forwarded-from=fd00::/8,::ffff:192.0.2.7";
    let both = texts(&[LISTEN, UPSTREAM, flag, "--forwarded-from=192.0.2.9"]);
    assert_eq!(both, ["fd00::/8", "192.0.2.7/32", "192.0.2.9/32"]);
}

#[test]
fn all_sources_of_endpoints_can_be_combined() {
    let settings = settings(&[
        LISTEN,
        "--upstream=10.0.0.1:1,[fd00::1]:1",
        UPSTREAM,
        "--endpoints-file=/e.json",
        "--endpoints-service=default/hello-pods",
    ])
    .unwrap();
    assert_eq!(settings.upstreams.len(), 3);
    assert_eq!(
        settings.endpoints_file.as_deref(),
        Some(Path::new("/e.json"))
    );
    let service = "default/hello-pods".parse().ok();
    assert_eq!(settings.endpoints_service, service);
    let file = with_file(r#"{"endpointsService":"default/hello-pods"}"#, &[LISTEN]);
    assert_eq!(file.unwrap().endpoints_service, service);
}

#[test]
fn settings_that_cannot_be_used_are_refused_with_the_cure() {
    for (arguments, parts) in [
        (
            &[LISTEN][..],
            &[
                "--upstream ADDR",
                "--endpoints-file FILE",
                "--endpoints-service N",
            ][..],
        ),
        (&[UPSTREAM], &["--listen ADDR"]),
        (
            &[LISTEN, UPSTREAM, UPSTREAM],
            &["10.0.0.1:3000 is given twice"],
        ),
        (&[LISTEN, "--upstream=127.0.0.1:8080"], &["in a loop"]),
        (
            &[LISTEN, "--upstream=app:3000"],
            &["Host names are not looked up", "--endpoints-file"],
        ),
        (&[LISTEN, "--upstream=10.0.0.1"], &["such as 10.0.0.1:3000"]),
        (&[LISTEN, "--upstream=10.0.0.1:0"], &["port 0"]),
        (
            &[LISTEN, UPSTREAM, "--admin=9377"],
            &["such as 127.0.0.1:9377"],
        ),
        (
            &[LISTEN, "--endpoints-service=hello"],
            &["such as default/hello-pods"],
        ),
        (&[LISTEN, UPSTREAM, "--drain-min=5"], &["such as 500ms"]),
        (&[LISTEN, UPSTREAM, "--head-time=0s"], &["--head-time 0s"]),
        (
            &[LISTEN, UPSTREAM, "--answer-time=0s"],
            &["--answer-time 0s"],
        ),
        (
            &[LISTEN, UPSTREAM, "--head-bytes=1"],
            &["--head-bytes 1 ", "4096"],
        ),
        (
            &[LISTEN, UPSTREAM, "--head-fields=1"],
            &["--head-fields 1 "],
        ),
        (
            &[LISTEN, UPSTREAM, "--forwarded-from=10.0.0.0/8,10.0.0.1/8"],
            &["--forwarded-from", "give 10.0.0.0/8 for the whole network"],
        ),
        (
            &[LISTEN, UPSTREAM, "--forwarded-from=proxy.example"],
            &["names are not looked up"],
        ),
        (&[LISTEN, UPSTREAM, "--threads=0"], &["--threads"]),
        (&[LISTEN, UPSTREAM, "--algorithm=best"], &["least-request"]),
        (&["--config=/no/such"], &["--config file /no/such"]),
    ] {
        let message = settings(arguments).unwrap_err();
        for part in parts {
            assert!(message.contains(part), "{arguments:?}: {message}");
        }
    }
}

#[test]
fn a_wrong_file_is_refused_by_key() {
    for (json, part) in [
        (r#"{"upstreams":[]}"#, "unknown field `upstreams`"),
        (r#"{"drainMin":"5"}"#, "drainMin: \"5\" is not a duration"),
        (r#"{"drainMin":5}"#, "drainMin: invalid type"),
        (
            r#"{"upstream":["app:80"]}"#,
            "upstream[0]: \"app:80\" is not IP:PORT",
        ),
        (
            r#"{"forwardedFrom":["10.0.0.0/8","10/8"]}"#,
            "forwardedFrom[1]: \"10/8\" is neither a network",
        ),
        (r#"{"connections":0}"#, "connections: invalid value"),
        (
            r#"{"algorithm":"best"}"#,
            "algorithm: unknown variant `best`",
        ),
        ("{} {}", "trailing characters"),
        ("7", "invalid type"),
    ] {
        let message = with_file(json, &[LISTEN, UPSTREAM]).unwrap_err();
        assert!(message.contains(part), "{json}: {message}");
    }
}

#[test]
fn the_access_log_and_the_limits_of_an_address_are_off_unless_asked_for() {
    let forwarding = |arguments: &[&str]| {
        let settings = settings(&[&[LISTEN, UPSTREAM], arguments].concat());
        settings.map(|settings| settings.forwarding)
    };
    let log = |arguments: &[&str]| forwarding(arguments).map(|it| it.access_log);
    assert_eq!(log(&[]), Ok(None));
    let wanted = AccessLog {
        format: AccessFormat::Json,
        percent: 100,
        has_query: true,
    };
    assert_eq!(log(&["--access-log", "json"]), Ok(Some(wanted)));
    let wanted = AccessLog {
        format: AccessFormat::Combined,
        percent: 5,
        has_query: false,
    };
    let flags = "--access-log combined --access-log-sample 5 --access-log-query false";
    let flags: Vec<&str> = flags.split(' ').collect();
    assert_eq!(log(&flags), Ok(Some(wanted)));
    let rate = |arguments: &[&str]| {
        let limits = forwarding(arguments).map(|it| it.limits);
        let rate = limits.map(|limits| limits.request_rate);
        rate.map(|rate| rate.map(|rate| (rate.per_second.get(), rate.burst.get())))
    };
    let (per_second, burst) = (
        "--requests-per-second-per-address",
        "--request-burst-per-address",
    );
    assert_eq!(rate(&[]), Ok(None));
    assert_eq!(rate(&[per_second, "50"]), Ok(Some((50, 100))));
    assert_eq!(rate(&[per_second, "50", burst, "7"]), Ok(Some((50, 7))));
    let most = rate(&[per_second, "4294967295"]);
    assert_eq!(most, Ok(Some((u32::MAX, u32::MAX))));
    let body = forwarding(&["--body-size", "10Mi"]).unwrap().limits;
    assert_eq!(body.body_bytes, Some(10 << 20));
    for (arguments, part) in [
        (
            &["--access-log-sample", "5"][..],
            "give --access-log json or",
        ),
        (&["--access-log-query"], "give --access-log json or"),
        (
            &["--access-log", "json", "--access-log-sample", "0"],
            "1..=100",
        ),
        (&[burst, "5"], "give --requests-per-second-per-address N"),
        (&["--body-size", "0"], "such as 300M"),
    ] {
        let message = forwarding(arguments).unwrap_err();
        assert!(message.contains(part), "{arguments:?}: {message}");
    }
    let json = r#"{"accessLog":"json","accessLogSample":0}"#;
    let message = with_file(json, &[LISTEN, UPSTREAM]).unwrap_err();
    assert!(message.contains("give 1 to 100 percent"), "{message}");
}

#[test]
fn requests_are_held_only_if_a_time_is_given() {
    let hold = |arguments: &[&str]| {
        let settings = settings(&[&[LISTEN, UPSTREAM], arguments].concat());
        settings.map(|settings| settings.forwarding.limits.hold)
    };
    assert_eq!(hold(&[]), Ok(None));
    assert_eq!(hold(&["--hold=0s"]), Ok(None));
    let defaults = Hold {
        time: Duration::from_mins(2),
        requests: 10_000,
        bytes: 64 << 20,
    };
    assert_eq!(hold(&["--hold=2m"]), Ok(Some(defaults)));
    let given = hold(&["--hold=2m", "--hold-requests=5", "--hold-bytes=1Mi"]);
    let expected = Hold {
        requests: 5,
        bytes: 1 << 20,
        ..defaults
    };
    assert_eq!(given, Ok(Some(expected)));
    for flag in ["--hold-requests=5", "--hold-bytes=1Mi"] {
        let error = hold(&[flag, "--hold=0s"]).unwrap_err();
        assert!(error.contains("give --hold TIME"), "{error}");
    }
}
