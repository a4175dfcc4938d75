//! The cost of one hop: CPU time per request of the balancer and of the in-pod dispatcher,
//! beside nginx in the same run.
//!
//! `cargo xtask bench`. Rounds are interleaved and medians are used, because the machine may be
//! shared; only the ratios are reliable. CPU time is the run time, user and system, that the kernel
//! counts for all threads of the proxy's own process (`/proc/PID/task/*/schedstat`).

#![expect(clippy::print_stdout, reason = "the table is the result")]

use scaledapp_benches::peer;
use scaledapp_benches::rounds::{ROUND, ROUNDS, compare};
use scaledapp_benches::wrk::{self, Connections};

fn main() -> anyhow::Result<()> {
    wrk::check()?;
    let directory = tempfile::tempdir()?;
    let origin = peer::origin(directory.path())?;
    let workers = peer::workers()?;
    // The first of each pair is the reference for the second.
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
            compare(&format!("{place}: {kind}"), peers, |peer| {
                wrk::run(peer.address, connections, ROUND)
            })?;
        }
    }
    println!("\nresident memory after that:");
    for peer in pairs.iter().flat_map(|(_, peers)| peers) {
        let mebibytes = peer.resident_bytes() as f64 / f64::from(1 << 20);
        println!("  {:<32} {mebibytes:6.1} MiB", peer.name);
    }
    Ok(())
}
