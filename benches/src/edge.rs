//! What TLS and HTTP/2 with clients cost: CPU time of the balancer beside nginx in the same
//! run, with the same certificate and key exchange (X25519), and no session resumed.
//!
//! `cargo xtask bench edge`. As in `hop`: interleaved rounds, medians, run time of the
//! proxy's own threads.

#![expect(clippy::print_stdout, reason = "the table is the result")]

use std::net::SocketAddr;

use anyhow::Context;
use scaledapp_benches::h2load;
use scaledapp_benches::peer::{self, Certificate};
use scaledapp_benches::rounds::{ROUND, ROUNDS, compare};
use scaledapp_benches::wrk::{self, Connections, Load};

/// One kind of load.
type Run = fn(SocketAddr) -> anyhow::Result<Load>;

const KINDS: [(&str, Run); 3] = [
    ("TLS, keep-alive, 64 connections", |to| {
        wrk::run_tls(to, Connections::Kept, ROUND)
    }),
    ("TLS, a full handshake for each request, 16 at once", |to| {
        wrk::run_tls(to, Connections::New, ROUND)
    }),
    ("HTTP/2 over TLS, 16 connections of 10 streams", |to| {
        h2load::run(to, ROUND)
    }),
];

fn main() -> anyhow::Result<()> {
    wrk::check()?;
    let directory = tempfile::tempdir()?;
    let origin = peer::origin(directory.path())?;
    let certificate = Certificate::new(directory.path())?;
    let peers = [
        peer::nginx(directory.path(), "edge", &origin, Some(&certificate))?,
        peer::balancer(&origin, Some(&certificate))?,
    ];
    println!(
        "CPU time at the edge, one proxy thread, {ROUNDS} interleaved rounds, two nginx behind it that answer with 200 bytes"
    );
    for (kind, run) in KINDS {
        compare(kind, &peers, |peer| {
            run(peer.tls.context("the proxy has no TLS address")?)
        })?;
    }
    Ok(())
}
