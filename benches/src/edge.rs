//! What TLS and HTTP/2 with clients cost: CPU time of the balancer beside nginx in the same
//! run, with the same certificate and key exchange (X25519), and no session resumed.
//!
//! `cargo xtask bench edge`. As in `hop`: interleaved rounds, medians, run time of the
//! proxy's own threads.

#![expect(clippy::print_stdout, reason = "the table is the result")]

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context;
use scaledapp_benches::figures::median;
use scaledapp_benches::h2load;
use scaledapp_benches::peer::{self, Certificate, Peer};
use scaledapp_benches::wrk::{self, Connections, Load};

const ROUNDS: usize = 3;
const ROUND: Duration = Duration::from_secs(2);

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
        "CPU time at the edge, one proxy thread, {ROUNDS} interleaved rounds, two nginx behind that answer 200 bytes"
    );
    for (kind, run) in KINDS {
        measure(kind, run, &peers)?;
    }
    Ok(())
}

fn measure(kind: &str, run: Run, peers: &[Peer]) -> anyhow::Result<()> {
    let mut costs = vec![Vec::new(); peers.len()];
    let mut loads = vec![(0, 0); peers.len()];
    for _ in 0..ROUNDS {
        for (at, peer) in peers.iter().enumerate() {
            let before = peer.cpu()?;
            let Load { requests, errors } = run(peer.tls.context("it speaks TLS")?)?;
            let spent = peer.cpu()?.saturating_sub(before);
            costs[at].push(spent.as_secs_f64() * 1e6 / requests.max(1) as f64);
            loads[at].0 += requests;
            loads[at].1 += errors;
        }
    }
    println!("\n{kind}");
    println!(
        "  {:<32} {:>12} {:>9} {:>10} {:>7}",
        "", "µs/request", "of nginx", "requests", "errors"
    );
    let nginx = median(costs.first().context("nginx comes first")?);
    for (at, peer) in peers.iter().enumerate() {
        let cost = median(&costs[at]);
        let (requests, errors) = loads[at];
        println!(
            "  {:<32} {cost:>12.1} {:>9.2} {requests:>10} {errors:>7}",
            peer.name,
            cost / nginx
        );
    }
    Ok(())
}
