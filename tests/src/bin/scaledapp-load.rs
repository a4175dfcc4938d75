//! A load generator for a node of a cluster, inside which the tests themselves cannot run.
//!
//! It sends load with [`scaledapp_tests::load`] until its standard input has ended and `--at-least`
//! requests have been sent, then prints its report as one JSON object.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use scaledapp_tests::load::{Load, Report};
use serde_json::json;

/// How long the load goes on after its standard input has ended.
const LAST_REQUESTS_TIMEOUT: Duration = Duration::from_secs(30);

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // The write fails if stderr is closed; the exit code still shows the error.
            drop(writeln!(std::io::stderr(), "scaledapp-load: {error:#}"));
            ExitCode::from(64)
        }
    }
}

fn run() -> anyhow::Result<()> {
    let Asked { load, at_least } = read(std::env::args().skip(1))?;
    let running = load.start()?;
    // The end of standard input stops the load. Its content is ignored.
    let mut nothing = Vec::new();
    std::io::stdin().read_to_end(&mut nothing)?;
    // A machine that is too slow for the rate has not sent all of them yet. The report shows it if
    // they are still too few after this time.
    let _too_few = running.wait_sent(at_least, LAST_REQUESTS_TIMEOUT);
    let report = show(&running.stop());
    writeln!(std::io::stdout(), "{report}").context("the report cannot be written")
}

/// What the arguments ask for.
struct Asked {
    load: Load,
    /// The number of requests that are sent even if that takes longer.
    at_least: u64,
}

fn read(mut words: impl Iterator<Item = String>) -> anyhow::Result<Asked> {
    let mut at_least = 0;
    let mut load = Load {
        clients: 4,
        ..Load::on(&[])
    };
    while let Some(word) = words.next() {
        let mut value = || {
            words
                .next()
                .with_context(|| format!("{word} needs a value"))
        };
        match word.as_str() {
            "--target" => load.targets.push(value()?.parse::<SocketAddr>()?),
            "--clients" => load.clients = value()?.parse()?,
            "--rate" => load.rate = Some(value()?.parse()?),
            "--post-every" => load.post_every = value()?.parse()?,
            "--at-least" => at_least = value()?.parse()?,
            "--one-shot" => load.keep_alive = false,
            "--tally" => load.tally = Some(String::leak(value()?)),
            _ => bail!("{word} is unknown"),
        }
    }
    Ok(Asked { load, at_least })
}

fn show(report: &Report) -> serde_json::Value {
    let milliseconds = |time: Duration| time.as_secs_f64() * 1e3;
    let failures: serde_json::Map<String, serde_json::Value> = report
        .failures
        .iter()
        .map(|((method, failure), count)| (format!("{method:?} {failure}"), (*count).into()))
        .collect();
    json!({
        "sent": report.sent,
        "failed": report.failed(),
        "failures": failures,
        "posts": report.posts,
        "connections": report.connections,
        "longestGapMs": milliseconds(report.longest_gap),
        "p50Ms": milliseconds(report.p50),
        "p99Ms": milliseconds(report.p99),
        "tally": report.tally,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_become_a_load() {
        let words = "--target 127.0.0.1:1 --target 127.0.0.1:2 --clients 3 --rate 50 --one-shot --tally pid --at-least 9";
        let Asked { load, at_least } = read(words.split(' ').map(str::to_owned)).unwrap();
        assert_eq!(at_least, 9);
        assert_eq!(load.targets.len(), 2);
        assert_eq!(
            (load.clients, load.rate, load.keep_alive),
            (3, Some(50), false)
        );
        for wrong in ["--target", "--target here", "--fast"] {
            assert!(read(wrong.split(' ').map(str::to_owned)).is_err());
        }
    }
}
