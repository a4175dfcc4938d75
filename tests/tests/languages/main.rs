//! Servers of many runtimes, unmodified, behind one port; and the ways in which
//! a server may get its socket.
//!
//! Every runtime goes through the same story (`story`); which there are and how
//! each is started is in `runtimes`. The short form takes those that CI has
//! anyway. `cargo xtask test --languages` installs the others into
//! `target/languages` or from the distribution and takes the long form.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "all of this target is test code, helpers included"
)]

mod connections;
mod family;
mod faults;
mod processes;
mod runtimes;
mod second_port;
mod sockets;
mod story;

use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::time::Duration;

use scaledapp_tests::binaries::has;
use scaledapp_tests::sidecar::Launch;
use scaledapp_tests::{binaries, http};
use serde_json::Value;

/// For what takes a moment. Others may have the machine, and Linux sends a lost
/// SYN again after 1, 3, 7 and 15 seconds.
const SOON: Duration = Duration::from_secs(40);

/// Both ways to hand out work, as `--dispatch` names them.
const DISPATCHES: [&str; 2] = ["request", "connection"];

/// Whether the machine has IPv6 on its loopback; prints the reason if not.
fn has_ipv6() -> bool {
    let there = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_ok();
    if !there {
        println!("skipped: no IPv6 on the loopback interface");
    }
    there
}

/// Path of a file in `tests/fixtures/languages`.
fn fixture(name: &str) -> String {
    let path = binaries::workspace()
        .join("tests/fixtures/languages")
        .join(name);
    path.to_string_lossy().into_owned()
}

/// Path below `target/languages`, where runtimes are installed.
fn installed(name: &str) -> PathBuf {
    binaries::workspace().join("target/languages").join(name)
}

/// Words of a command, owned.
fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|&word| word.to_owned()).collect()
}

/// The app of `sockets.js`, its socket got in one of its ways.
fn sockets(how: &str, more: &[&str], options: &[&str]) -> Launch {
    let launch = Launch::of(|port| {
        let port = port.to_string();
        let first = ["node", &fixture("sockets.js"), &port, how];
        words(&[&first[..], more].concat())
    });
    launch.unwrap().with(options)
}

/// One answer of an app, on a connection of its own.
fn answer(to: SocketAddr) -> Value {
    let response = http::get(to, "/").unwrap();
    assert_eq!(response.status, 200, "{}", response.text());
    response.json()
}

/// The same port at the IPv6 loopback address.
fn over_ipv6(to: SocketAddr) -> SocketAddr {
    SocketAddr::new(IpAddr::V6(Ipv6Addr::LOCALHOST), to.port())
}
