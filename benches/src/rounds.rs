//! Interleaved rounds of load on several proxies, and the table of the CPU time that each of
//! them needed for a request.
//!
//! The programs decide which load is sent to which proxies.

#![expect(clippy::print_stdout, reason = "the table is the result")]

use std::time::Duration;

use anyhow::Context;

use crate::figures::median;
use crate::peer::Peer;
use crate::wrk::Load;

/// How many rounds each proxy gets.
pub const ROUNDS: usize = 3;
/// How long one round takes.
pub const ROUND: Duration = Duration::from_secs(2);

/// One proxy's figures for one kind of load.
struct Row {
    name: &'static str,
    /// Microseconds of CPU per request, of each round.
    cost: Vec<f64>,
    requests: u64,
    errors: u64,
}

/// Measures one kind of load and prints its table, which compares the other peers with the first.
///
/// # Errors
/// The load cannot be run, or a proxy has exited.
pub fn compare(
    title: &str,
    peers: &[Peer],
    run: impl Fn(&Peer) -> anyhow::Result<Load>,
) -> anyhow::Result<()> {
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
            let Load { requests, errors } = run(peer)?;
            let spent = peer.cpu()?.saturating_sub(before);
            row.cost
                .push(spent.as_secs_f64() * 1e6 / requests.max(1) as f64);
            row.requests += requests;
            row.errors += errors;
        }
    }
    show(title, &rows)
}

fn show(title: &str, rows: &[Row]) -> anyhow::Result<()> {
    println!("\n{title}");
    println!(
        "  {:<32} {:>12} {:>9} {:>10} {:>7}",
        "", "µs/request", "of first", "requests", "errors"
    );
    let first = median(&rows.first().context("there is a first peer")?.cost);
    for row in rows {
        let cost = median(&row.cost);
        println!(
            "  {:<32} {cost:>12.1} {:>9.2} {:>10} {:>7}",
            row.name,
            cost / first,
            row.requests,
            row.errors
        );
    }
    Ok(())
}
