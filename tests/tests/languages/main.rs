//! Unmodified servers of many runtimes behind one port, and the ways in which a server may get its
//! socket.
//!
//! Every runtime goes through the same story (`story`). `runtimes` lists the runtimes with their
//! start commands. The tests have a short and a long form, which differ in the number of
//! requests. `cargo xtask test` runs the short form with the runtimes that CI has anyway. `cargo
//! xtask test --languages` installs the others into `target/languages` or from the distribution,
//! and runs the long form.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "all of this target is test code, helpers included"
)]

#[path = "../../src/authority.rs"]
mod authority;
mod connections;
mod family;
mod faults;
mod grpc;
mod processes;
mod runtimes;
mod second_port;
mod socketio;
mod sockets;
mod story;

use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::time::Duration;

use scaledapp_tests::binaries::has;
use scaledapp_tests::sidecar::Launch;
use scaledapp_tests::{binaries, http};
use serde_json::Value;

/// Time-out for an operation that takes a moment. The machine may be busy, and Linux repeats a lost
/// SYN after 1, 3, 7 and 15 seconds.
const SOON: Duration = Duration::from_secs(40);

/// The values of `--dispatch`.
const DISPATCHES: [&str; 2] = ["request", "connection"];

/// Whether the machine has IPv6 on its loopback interface. If not, prints why the test is skipped.
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

/// The words of a command as owned strings.
fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|&word| word.to_owned()).collect()
}

/// The app `sockets.js`, which gets its socket in the way `how`.
fn sockets(how: &str, more: &[&str], options: &[&str]) -> Launch {
    let launch = Launch::of(|port| {
        let port = port.to_string();
        let first = ["node", &fixture("sockets.js"), &port, how];
        words(&[&first[..], more].concat())
    });
    launch.unwrap().with(options)
}

/// Sends a request on a new connection and returns the answer.
fn answer(to: SocketAddr) -> Value {
    let response = http::get(to, "/").unwrap();
    assert_eq!(response.status, 200, "{}", response.text());
    response.json()
}

/// The same port on the IPv6 loopback address.
fn over_ipv6(to: SocketAddr) -> SocketAddr {
    SocketAddr::new(IpAddr::V6(Ipv6Addr::LOCALHOST), to.port())
}
