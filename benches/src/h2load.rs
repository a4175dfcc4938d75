//! Load over HTTP/2 by h2load, as fast as answers arrive, to an address on this machine.

use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, ensure};
use scaledapp_tests::process;

use crate::wrk::Load;

/// Sends requests over TLS for a time, in whole seconds: 16 connections, 10 streams on each.
///
/// # Errors
/// h2load cannot be run, or its output is not as expected.
pub fn run(to: SocketAddr, time: Duration) -> anyhow::Result<Load> {
    ensure!(to.ip().is_loopback(), "{to} is not on this machine");
    let mut command = Command::new("h2load");
    command.args(["-t1", "-c16", "-m10"]);
    command.arg(format!("-D{}", time.as_secs().max(1)));
    command.arg(format!("https://{to}/"));
    let ended = process::run(command, time + Duration::from_secs(30))?;
    read(&ended.stdout).with_context(|| format!("h2load says:\n{}{}", ended.stdout, ended.stderr))
}

fn read(text: &str) -> Option<Load> {
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("requests: "))?;
    let number = |word: &str| {
        let mut parts = line.split(", ");
        parts.find_map(|part| part.strip_suffix(word)?.trim().parse::<u64>().ok())
    };
    Some(Load {
        requests: number(" succeeded")?,
        errors: number(" failed")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_h2load_says_is_read() {
        let text = "finished in 2.00s, 10 req/s\nrequests: 130 total, 130 started, 121 done, 120 succeeded, 1 failed, 1 errored, 0 timeout\n";
        let expected = Load {
            requests: 120,
            errors: 1,
        };
        assert_eq!(read(text), Some(expected));
        assert_eq!(read("unable to connect"), None);
    }
}
