//! The cost of one hop: CPU time per request of the balancer and of the in-pod dispatcher,
//! beside nginx in the same run.
//!
//! `cargo xtask bench`. Rounds are interleaved and medians are used, because the machine
//! may be shared; only the ratios are reliable. CPU time is the kernel's run time of all
//! threads of the proxy's own process (`/proc/PID/task/*/schedstat`).

#![expect(clippy::print_stdout, reason = "the table is the result")]

use std::time::Duration;

use anyhow::Context;
use scaledapp_benches::figures::median;
use scaledapp_benches::peer::{self, Peer};
use scaledapp_benches::wrk::{self, Connections, Load};

const ROUNDS: usize = 3;
const ROUND: Duration = Duration::from_secs(2);

/// One proxy's figures for one kind of load.
struct Row {
    name: &'static str,
    /// Microseconds of CPU per request, for each round.
    cost: Vec<f64>,
    requests: u64,
    errors: u64,
}

fn main() -> anyhow::Result<()> {
    wrk::check()?;
    let directory = tempfile::tempdir()?;
    let origin = peer::origin(directory.path())?;
    let workers = peer::workers()?;
    // The first of each pair is the reference of the other.
    let pairs = [
        (
            "in front of two nginx that answer 200 bytes",
            [
                peer::nginx(directory.path(), "edge", &origin, None)?,
                peer::balancer(&origin, None)?,
            ],
        ),
        (
            "in front of two workers with a thread for each connection",
            [
                peer::nginx(directory.path(), "pod", &workers, None)?,
                peer::dispatcher()?,
            ],
        ),
    ];
    println!("CPU time of one hop, one proxy thread, {ROUNDS} interleaved rounds");
    for (place, peers) in &pairs {
        for (kind, connections) in [
            ("keep-alive, 64 connections", Connections::Kept),
            (
                "a new connection for each request, 16 at once",
                Connections::New,
            ),
        ] {
            let rows = measure(peers, connections)?;
            show(&format!("{place}: {kind}"), &rows)?;
        }
    }
    println!("\nresident memory after that:");
    for peer in pairs.iter().flat_map(|(_, peers)| peers) {
        let mebibytes = peer.resident_bytes() as f64 / f64::from(1 << 20);
        println!("  {:<32} {mebibytes:6.1} MiB", peer.name);
    }
    Ok(())
}

fn measure(peers: &[Peer], connections: Connections) -> anyhow::Result<Vec<Row>> {
    let new = |peer: &Peer| Row {
        name: peer.name,
        cost: Vec::new(),
        requests: 0,
        errors: 0,
    };
    let mut rows: Vec<Row> = peers.iter().map(new).collect();
    for _ in 0..ROUNDS {
        for (peer, row) in peers.iter().zip(&mut rows) {
            let before = peer.cpu()?;
            let Load { requests, errors } = wrk::run(peer.address, connections, ROUND)?;
            let spent = peer.cpu()?.saturating_sub(before);
            row.cost
                .push(spent.as_secs_f64() * 1e6 / requests.max(1) as f64);
            row.requests += requests;
            row.errors += errors;
        }
    }
    Ok(rows)
}

fn show(title: &str, rows: &[Row]) -> anyhow::Result<()> {
    println!("\n{title}");
    println!(
        "  {:<32} {:>12} {:>9} {:>10} {:>7}",
        "", "µs/request", "of nginx", "requests", "errors"
    );
    let nginx = median(&rows.first().context("nginx comes first")?.cost);
    for row in rows {
        let cost = median(&row.cost);
        println!(
            "  {:<32} {cost:>12.1} {:>9.2} {:>10} {:>7}",
            row.name,
            cost / nginx,
            row.requests,
            row.errors
        );
    }
    Ok(())
}
