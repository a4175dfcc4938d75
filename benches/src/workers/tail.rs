//! How blocked workers affect other requests: latency at a fixed rate with requests that
//! block, distribution over workers, and one worker that is stuck.

use std::net::SocketAddr;
use std::time::Duration;

use scaledapp_benches::figures::{median, percentile};
use scaledapp_tests::http;
use scaledapp_tests::load::{Load, Report, Running};

use crate::Bench;
use crate::app::Does;
use crate::openloop::{Measured, OpenLoop};
use crate::server::{Kind, Server, is_ours};
use crate::table::{Row, Target};

const TIMEOUT: Duration = Duration::from_secs(5);
const PER_SECOND: u32 = 250;

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// Measures latency at 250 one-shot requests per second. One request in a hundred burns 50 ms.
pub(crate) fn fixed_rate(bench: &mut Bench) -> anyhow::Result<()> {
    let kinds = [
        Kind::Connection,
        Kind::Request,
        Kind::Shared,
        Kind::ClusterRr,
        Kind::Pm2,
    ];
    let servers = bench.start_all(&kinds, Does::Work, 2)?;
    let mut all = vec![Measured::default(); servers.len()];
    for _ in 0..bench.pace.of(2, 4, 8) {
        for (server, measured) in servers.iter().zip(&mut all) {
            measured.add(steady(server, PER_SECOND, bench.pace.of(300, 500, 1000))?);
        }
    }
    let of = |kind| {
        let at = servers.iter().position(|server| server.kind == kind)?;
        all.get(at)
    };
    for ours in [Kind::Request, Kind::Connection] {
        for peer in [Kind::Pm2, Kind::ClusterRr, Kind::Shared] {
            let (Some(one), Some(by)) = (of(ours), of(peer)) else {
                continue;
            };
            for percent in [99.0, 50.0] {
                let row = Row::new(
                    &format!("p{percent} at {PER_SECOND}/s, 1 % block 50 ms"),
                    "ms",
                    ours.name(),
                    milliseconds(percentile(&one.times, percent)),
                )
                .beside(peer.name(), milliseconds(percentile(&by.times, percent)))
                .note(format!("{}; peer {}", one.summary(), by.summary()));
                let judged = percent > 98.0 && peer == Kind::Pm2;
                bench.row(if judged {
                    row.target(Target::RatioAtMost(0.5))
                } else {
                    row
                });
            }
        }
    }
    Ok(())
}

fn steady(server: &Server, rate: u32, requests: u64) -> anyhow::Result<Measured> {
    let load = OpenLoop {
        to: server.address,
        rate,
        requests,
        timeout: TIMEOUT,
        hundredth: "/block/50",
    };
    load.run()
}

/// Measures how evenly four workers are loaded, on all servers at the same time, so that
/// other work on the machine slows all of them.
pub(crate) fn spread(bench: &mut Bench) -> anyhow::Result<()> {
    let kinds = [Kind::Request, Kind::Connection, Kind::Shared, Kind::Pm2];
    let servers = bench.start_all(&kinds, Does::Work, 4)?;
    let (rate, requests) = bench.pace.of((150, 600), (100, 1500), (100, 4000));
    for (keep_alive, clients) in [(true, "keep-alive"), (false, "one-shot")] {
        let running = servers.iter().map(|server| {
            let load = Load {
                keep_alive,
                post_every: 0,
                rate: Some(rate),
                timeout: TIMEOUT,
                tally: Some("pid"),
                ..Load::on(&[server.address])
            };
            load.start()
        });
        let running = running.collect::<anyhow::Result<Vec<Running>>>()?;
        let mut found = Vec::new();
        for (server, running) in servers.iter().zip(running) {
            running.wait_sent(requests, Duration::from_mins(1))?;
            found.push((server.kind, max_to_min(&running.stop(), server.count)));
        }
        let peers = found.iter().filter(|(kind, _)| !is_ours(*kind));
        for (peer, (theirs, of_peer)) in peers {
            for (kind, (ratio, note)) in found.iter().filter(|(kind, _)| is_ours(*kind)) {
                let what = format!("busiest by idlest of 4 workers, {rate}/s {clients}");
                let row = Row::new(&what, "", kind.name(), *ratio)
                    .beside(peer.name(), *theirs)
                    .note(format!("{note}; peer {of_peer}"));
                bench.row(if *kind == Kind::Request {
                    row.target(Target::AtMost(1.1))
                } else {
                    row
                });
            }
        }
    }
    Ok(())
}

/// The answers of the busiest worker, divided by those of the idlest (counted as one if it
/// had none).
fn max_to_min(report: &Report, workers: usize) -> (f64, String) {
    let mut counts: Vec<u64> = report.tally.values().copied().collect();
    counts.resize(workers.max(counts.len()), 0);
    counts.sort_unstable();
    let (idlest, busiest) = (counts.first(), counts.last());
    let ratio = busiest.map_or(f64::NAN, |most| {
        *most as f64 / idlest.map_or(1, |least| (*least).max(1)) as f64
    });
    let note = format!(
        "{} sent, {} failed, {counts:?}",
        report.sent,
        report.failed()
    );
    (ratio, note)
}

/// Measures how many requests are late while one of four workers is blocked for three seconds.
pub(crate) fn blocked(bench: &mut Bench) -> anyhow::Result<()> {
    let kinds = [
        Kind::Request,
        Kind::Connection,
        Kind::ClusterRr,
        Kind::Pm2,
        Kind::Shared,
    ];
    let servers = bench.start_all(&kinds, Does::Work, 4)?;
    let limit = Duration::from_millis(200);
    let mut found: Vec<_> = servers
        .iter()
        .map(|server| (server.kind, Vec::new(), Measured::default()))
        .collect();
    for _ in 0..bench.pace.of(1, 3, 5) {
        for (server, (_, late, all)) in servers.iter().zip(&mut found) {
            let measured = while_one_is_blocked(server.address)?;
            late.push(measured.later_than(limit) as f64);
            all.add(measured);
        }
    }
    for ours in [Kind::Request, Kind::Connection] {
        for peer in [Kind::ClusterRr, Kind::Pm2, Kind::Shared] {
            let of = |wanted| found.iter().find(|(kind, ..)| *kind == wanted);
            let (Some((_, late, one)), Some((_, theirs, by))) = (of(ours), of(peer)) else {
                continue;
            };
            let row = Row::new(
                "of 640 requests those over 200 ms, 1 of 4 workers blocked 3 s",
                "",
                ours.name(),
                median(late),
            )
            .beside(peer.name(), median(theirs))
            .target(Target::AtMost(1.0));
            bench.row(row.note(format!(
                "rounds {late:?}, {}; peer {theirs:?}, {}",
                one.summary(),
                by.summary()
            )));
        }
    }
    Ok(())
}

/// Sends 200 requests per second while one worker burns three seconds.
fn while_one_is_blocked(to: SocketAddr) -> anyhow::Result<Measured> {
    let blocker = std::thread::spawn(move || {
        let request = http::Request::get("/block/3000");
        http::one_shot(to, Duration::from_secs(10), &request)
    });
    let load = OpenLoop {
        to,
        rate: 200,
        requests: 640,
        timeout: TIMEOUT,
        hundredth: "/",
    };
    let measured = load.run()?;
    // The blocked worker may answer after the load has ended, or not at all.
    let _blocked = blocker.join();
    Ok(measured)
}
