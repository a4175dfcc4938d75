//! Load by wrk, as fast as answers arrive, to an address on this machine.

use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use scaledapp_tests::{binaries, process};

/// How clients use connections.
#[derive(Debug, Clone, Copy)]
pub enum Connections {
    /// Requests one after the other on each connection.
    Kept,
    /// One request on each connection.
    New,
}

/// The result of a load.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Load {
    /// Answered requests.
    pub requests: u64,
    /// Requests that were not answered, or not with 2xx or 3xx.
    pub errors: u64,
}

/// Checks that the required programs are installed.
///
/// # Errors
/// A program is missing. The message says how to install it.
pub fn check() -> anyhow::Result<()> {
    for (program, package) in [("wrk", "wrk"), ("nginx", "nginx-light")] {
        // nginx is in /usr/sbin, which not every PATH has.
        let there = binaries::on_path(program).is_ok()
            || std::path::Path::new("/usr/sbin").join(program).is_file();
        if !there {
            bail!("{program} is not installed: apt-get install -y {package}");
        }
    }
    Ok(())
}

/// Sends requests for a time, in whole seconds.
///
/// # Errors
/// wrk cannot be run, or its output is not as expected.
pub fn run(to: SocketAddr, connections: Connections, time: Duration) -> anyhow::Result<Load> {
    run_at("http", to, connections, time)
}

/// As [`run`], over TLS. Each new connection makes a full handshake, because wrk resumes no
/// session.
///
/// # Errors
/// As [`run`].
pub fn run_tls(to: SocketAddr, connections: Connections, time: Duration) -> anyhow::Result<Load> {
    run_at("https", to, connections, time)
}

fn run_at(
    scheme: &str,
    to: SocketAddr,
    connections: Connections,
    time: Duration,
) -> anyhow::Result<Load> {
    ensure!(to.ip().is_loopback(), "{to} is not on this machine");
    let mut command = Command::new("wrk");
    command.args(["-t1".to_owned(), format!("-d{}s", time.as_secs().max(1))]);
    match connections {
        Connections::Kept => command.arg("-c64"),
        Connections::New => command.args(["-c16", "-H", "Connection: close"]),
    };
    command.arg(format!("{scheme}://{to}/"));
    let ended = process::run(command, time + Duration::from_secs(30))?;
    read(&ended.stdout).with_context(|| format!("wrk says:\n{}{}", ended.stdout, ended.stderr))
}

fn read(text: &str) -> Option<Load> {
    let number = |line: &str| line.split_whitespace().next()?.parse().ok();
    let requests = text.lines().find(|line| line.contains("requests in"));
    let bad = text
        .lines()
        .find_map(|line| line.trim().strip_prefix("Non-2xx or 3xx responses:"));
    let broken = text
        .lines()
        .find_map(|line| line.trim().strip_prefix("Socket errors:"));
    let broken = broken.map_or(0, |line| {
        let words = line
            .split([' ', ','])
            .filter_map(|word| word.parse::<u64>().ok());
        words.sum()
    });
    Some(Load {
        requests: number(requests?)?,
        errors: bad.and_then(number).unwrap_or(0) + broken,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_wrk_says_is_read() {
        let fine = "Running 2s test @ http://127.0.0.1:1/\n  31415 requests in 2.00s, 7MB read\n";
        let bad = format!(
            "{fine}  Socket errors: connect 1, read 2, write 0, timeout 3\n  Non-2xx or 3xx responses: 10\n"
        );
        assert_eq!(
            read(fine),
            Some(Load {
                requests: 31415,
                errors: 0
            })
        );
        assert_eq!(
            read(&bad),
            Some(Load {
                requests: 31415,
                errors: 16
            })
        );
        assert_eq!(read("unable to connect"), None);
    }
}
