//! Load as fast as answers arrive: one-shot requests, the hop beside nginx, a log line per
//! request. The client uses the same cores, so CPU time per request says more than requests
//! per second.

use std::time::Duration;

use scaledapp_benches::cpu;
use scaledapp_benches::figures::{median, paired_ratio};
use scaledapp_benches::peer::{self, Peer};
use scaledapp_benches::wrk::{self, Connections};

use crate::Bench;
use crate::app::Does;
use crate::server::{Kind, Server};
use crate::table::{Row, Target};

/// One server's rounds.
struct Rounds {
    kind: Kind,
    /// Requests per second.
    rates: Vec<f64>,
    /// CPU time of all of the server's processes per request, in microseconds.
    costs: Vec<f64>,
    /// The part of `costs` in processes that do not run the app.
    overhead: Vec<f64>,
    requests: u64,
    errors: u64,
}

impl Rounds {
    fn count(&self) -> String {
        format!("{} sent, {} failed", self.requests, self.errors)
    }
}

fn measure(
    servers: &[Server],
    connections: Connections,
    rounds: usize,
    time: Duration,
) -> anyhow::Result<Vec<Rounds>> {
    let new = |server: &Server| Rounds {
        kind: server.kind,
        rates: Vec::new(),
        costs: Vec::new(),
        overhead: Vec::new(),
        requests: 0,
        errors: 0,
    };
    let mut all: Vec<Rounds> = servers.iter().map(new).collect();
    for _ in 0..rounds {
        for (server, own) in servers.iter().zip(&mut all) {
            let (workers, others) = (server.workers(), server.supervisors());
            let before = (cpu::run_time_of(&workers)?, cpu::run_time_of(&others)?);
            let load = wrk::run(server.address, connections, time)?;
            let requests = load.requests.max(1) as f64;
            let per_request = |pids: &[u32], before| {
                let spent = cpu::run_time_of(pids)?.saturating_sub(before);
                anyhow::Ok(spent.as_secs_f64() * 1e6 / requests)
            };
            let overhead = per_request(&others, before.1)?;
            own.rates.push(requests / time.as_secs_f64());
            own.costs.push(per_request(&workers, before.0)? + overhead);
            own.overhead.push(overhead);
            own.requests += load.requests;
            own.errors += load.errors;
        }
    }
    Ok(all)
}

fn of(all: &[Rounds], kind: Kind) -> Option<&Rounds> {
    all.iter().find(|rounds| rounds.kind == kind)
}

fn rate_row(ours: &Rounds, peer: &Rounds, what: &str) -> Row {
    Row::new(what, "1/s", ours.kind.name(), median(&ours.rates))
        .beside(peer.kind.name(), median(&peer.rates))
        .paired(paired_ratio(&ours.rates, &peer.rates))
        .note(format!("{}; peer {}", ours.count(), peer.count()))
}

fn cost_row(ours: &Rounds, peer: &Rounds, what: &str) -> Row {
    Row::new(what, "µs", ours.kind.name(), median(&ours.costs))
        .beside(peer.kind.name(), median(&peer.costs))
        .paired(paired_ratio(&ours.costs, &peer.costs))
}

/// Measures one request per connection, with two workers that answer immediately.
pub(crate) fn one_shot(bench: &mut Bench) -> anyhow::Result<()> {
    let kinds = [
        Kind::Shared,
        Kind::Connection,
        Kind::Request,
        Kind::ClusterRr,
        Kind::ClusterNone,
        Kind::Pm2,
        Kind::Bare,
    ];
    let servers = bench.start_all(&kinds, Does::Hello, 2)?;
    let time = Duration::from_secs(bench.pace.of(1, 2, 4));
    let rounds = bench.pace.of(2, 3, 5);
    let all = measure(&servers, Connections::New, rounds, time)?;
    for ours in [Kind::Connection, Kind::Request] {
        for peer in kinds {
            let (Some(one), Some(by)) = (of(&all, ours), of(&all, peer)) else {
                continue;
            };
            let (rate, cost) = match (ours, peer) {
                (Kind::Connection, Kind::Shared) => (Some(Target::RatioAtLeast(0.97)), None),
                (Kind::Connection, Kind::ClusterRr | Kind::Pm2) => (
                    Some(Target::RatioAtLeast(1.5)),
                    Some(Target::RatioAtMost(0.67)),
                ),
                (_, Kind::Connection | Kind::Request) => continue,
                _ => (None, None),
            };
            let rows = [
                (rate_row(one, by, "one-shot requests per second"), rate),
                (cost_row(one, by, "CPU per one-shot request"), cost),
            ];
            for (row, target) in rows {
                bench.row(match target {
                    Some(target) => row.target(target),
                    None => row,
                });
            }
            if !matches!(peer, Kind::Shared | Kind::Bare) {
                let row = Row::new(
                    "of which in the supervisor",
                    "µs",
                    ours.name(),
                    median(&one.overhead),
                );
                bench.row(row.beside(peer.name(), median(&by.overhead)));
            }
        }
    }
    Ok(())
}

/// Measures the CPU time of the dispatcher's own process per request, beside nginx in front
/// of the same workers. The bench in `hop.rs` measures this in more detail.
pub(crate) fn hop(bench: &mut Bench) -> anyhow::Result<()> {
    let origin = peer::workers()?;
    let nginx = peer::nginx(bench.directory.path(), "pod", &origin, None)?;
    let ours = peer::dispatcher()?;
    let time = Duration::from_secs(bench.pace.of(1, 2, 2));
    for (what, connections) in [
        ("CPU of the hop, keep-alive", Connections::Kept),
        ("CPU of the hop, one-shot", Connections::New),
    ] {
        let (mut one, mut by, mut requests) = (Vec::new(), Vec::new(), 0);
        for _ in 0..bench.pace.of(2, 3, 5) {
            requests += round(&nginx, connections, time, &mut by)?;
            requests += round(&ours, connections, time, &mut one)?;
        }
        let row = Row::new(what, "µs", "Request", median(&one))
            .beside("nginx", median(&by))
            .paired(paired_ratio(&one, &by))
            .target(Target::RatioAtMost(0.9));
        bench.row(row.note(format!("{requests} sent")));
    }
    Ok(())
}

fn round(
    peer: &Peer,
    connections: Connections,
    time: Duration,
    costs: &mut Vec<f64>,
) -> anyhow::Result<u64> {
    let before = peer.cpu()?;
    let load = wrk::run(peer.address, connections, time)?;
    let spent = peer.cpu()?.saturating_sub(before);
    costs.push(spent.as_secs_f64() * 1e6 / load.requests.max(1) as f64);
    Ok(load.requests)
}

/// Measures requests while workers write a line for each of them, into a pipe that this bench reads
/// or into PM2's log files.
pub(crate) fn log_lines(bench: &mut Bench) -> anyhow::Result<()> {
    let kinds = [Kind::Shared, Kind::Connection, Kind::Request, Kind::Pm2];
    let servers = bench.start_all(&kinds, Does::Log, 2)?;
    let time = Duration::from_secs(bench.pace.of(1, 2, 4));
    let rounds = bench.pace.of(2, 3, 5);
    let all = measure(&servers, Connections::Kept, rounds, time)?;
    let what = "requests per second with a line each, keep-alive";
    let Some(shared) = of(&all, Kind::Shared) else {
        return Ok(());
    };
    for (kind, target) in [
        (Kind::Connection, Some(Target::RatioAtLeast(0.97))),
        (Kind::Request, None),
    ] {
        let Some(ours) = of(&all, kind) else { continue };
        for peer in [Some(shared), of(&all, Kind::Pm2)].into_iter().flatten() {
            let row = rate_row(ours, peer, what);
            bench.row(match target {
                Some(target) if peer.kind == Kind::Shared => row.target(target),
                _ => row,
            });
        }
    }
    if let Some(pm2) = of(&all, Kind::Pm2) {
        bench.row(rate_row(pm2, shared, "the same, PM2 as \"ours\""));
    }
    Ok(())
}
