//! What `run --port none` excludes: every setting that needs a port. Limits that merely
//! have no effect without one (`--drain-timeout`, `--queue-length`) are accepted, because
//! nothing can exceed them.

use anyhow::bail;

use super::file::FileSettings;
use super::trust;
use crate::cli::{HangTimeout, MechanismArg, RunArgs};

/// Refuses settings that need a port.
///
/// # Errors
/// A setting that needs a port is given; the message names the flag and what to give instead.
pub(super) fn check(args: &RunArgs, file: &FileSettings) -> anyhow::Result<()> {
    let limits = &args.limits;
    let shares = args.share.as_ref().or(file.share.as_ref());
    let metrics = match (&args.metrics_from, &file.metrics_from) {
        (Some(from), _) => from.port.is_none(),
        (None, Some(text)) => text.starts_with('/'),
        (None, None) => false,
    };
    let hangs = match (limits.hang_timeout, &file.hang_timeout) {
        (Some(HangTimeout(time)), _) => time.is_some(),
        (None, Some(text)) => text != "none",
        (None, None) => false,
    };
    let mechanism = args.mechanism.or(file.mechanism);
    let refused = [
        (
            "--share",
            shares.is_some_and(|ports| !ports.is_empty()),
            "give the first of the shared ports with --port",
        ),
        (
            "--readiness-path",
            args.readiness_path.is_some() || file.readiness_path.is_some(),
            "give --ready-after, or --wait-ready if the app says when it is ready",
        ),
        (
            "--max-requests",
            limits.max_requests.is_some() || file.max_requests.is_some(),
            "give --max-age or --max-memory",
        ),
        (
            "--max-in-flight",
            args.max_in_flight.is_some() || file.max_in_flight.is_some(),
            "let the app itself limit its work",
        ),
        (
            "--metrics-from without a port of its own",
            metrics,
            "give the port at which each worker serves its metrics, such as 9464/metrics",
        ),
        (
            "--hang-timeout",
            hangs,
            "leave it out: only waiting requests show that a worker hangs",
        ),
        (
            "--mechanism",
            mechanism.is_some_and(|mechanism| mechanism != MechanismArg::Auto),
            "leave it out: no port is handed over",
        ),
        (
            trust::given(&args.trust, file).unwrap_or_default(),
            trust::given(&args.trust, file).is_some(),
            "leave it out: there are no callers",
        ),
        (
            "--host",
            args.host.is_some() || file.host.is_some(),
            "leave it out: nothing is served",
        ),
    ];
    let mut refused = refused.into_iter().chain(of_dispatch(args, file));
    match refused.find(|(_, is_given, _)| *is_given) {
        Some((flag, _, cure)) => {
            bail!("{flag} needs a port, and --port is none: {cure}, or give --port a number")
        }
        None => Ok(()),
    }
}

/// The settings of the distribution of work: the flag, whether it is given, and what to do instead.
fn of_dispatch(args: &RunArgs, file: &FileSettings) -> [(&'static str, bool, &'static str); 4] {
    let no_work = "leave it out: no work is distributed";
    let no_requests = "leave it out: no requests are sent to workers";
    let threads = args.dispatch_threads.is_some() || file.dispatch_threads.is_some();
    [
        (
            "--dispatch",
            args.dispatch.is_some() || file.dispatch.is_some(),
            no_work,
        ),
        ("--dispatch-threads", threads, no_work),
        (
            "--sticky",
            args.sticky.is_some() || file.sticky.is_some(),
            no_requests,
        ),
        (
            "--protocol",
            args.protocol.is_some() || file.protocol.is_some(),
            no_requests,
        ),
    ]
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use crate::cli::{Cli, Command};
    use crate::settings::Settings;

    fn resolve(words: &[&str]) -> anyhow::Result<Settings> {
        let before = ["scaledapp-sidecar", "run", "--port", "none"];
        let words = before.iter().chain(words).chain(&["--", "app"]);
        match Cli::try_parse_from(words)?.command {
            Command::Run(args) => Settings::resolve(*args),
            other => anyhow::bail!("parsed as {other:?}"),
        }
    }

    #[test]
    fn settings_that_need_a_port_are_refused_with_the_cure() {
        for (words, cure) in [
            (&["--share", "81"][..], "with --port"),
            (&["--readiness-path", "/h"], "--ready-after"),
            (&["--max-requests", "9"], "--max-age or --max-memory"),
            (&["--max-in-flight", "9"], "app itself"),
            (&["--metrics-from", "/metrics"], "9464/metrics"),
            (&["--hang-timeout", "5s"], "leave it out"),
            (&["--dispatch", "request"], "leave it out"),
            (&["--dispatch-threads", "1"], "leave it out"),
            (&["--mechanism", "notify"], "leave it out"),
            (&["--host", "127.0.0.1"], "leave it out"),
        ] {
            let message = format!("{:#}", resolve(words).unwrap_err());
            let all = [cure, words[0], "or give --port a number"];
            let has_all = all.iter().all(|part| message.contains(part));
            assert!(has_all, "{words:?} said: {message}");
        }
        for (text, cure) in [
            (r#"{"share": [81]}"#, "with --port"),
            (r#"{"metricsFrom": "/m"}"#, "9464/metrics"),
            (r#"{"hangTimeout": "5s"}"#, "leave it out"),
        ] {
            let file = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(&file, text).unwrap();
            let words = ["--config", file.path().to_str().unwrap()];
            let message = format!("{:#}", resolve(&words).unwrap_err());
            assert!(message.contains(cure), "{text} said: {message}");
        }
    }

    #[test]
    fn settings_that_work_without_a_port_are_accepted() {
        for words in [
            &["--max-memory", "300M", "--max-age", "6h"][..],
            &["--hang-timeout", "none", "--mechanism", "auto"],
            &["--drain-timeout", "5s", "--stop-grace", "5s"],
            &["--metrics-from", "9464/metrics"],
            &["--wait-ready", "--shutdown-message"],
        ] {
            let settings = resolve(words).unwrap();
            assert_eq!(settings.port, None, "{words:?}");
        }
    }
}
