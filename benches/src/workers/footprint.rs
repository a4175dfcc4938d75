//! The memory of supervisors, the memory that they add to workers, and the CPU time of an
//! idle supervisor.

use std::time::Duration;

use scaledapp_benches::cpu;
use scaledapp_benches::figures::median;
use scaledapp_tests::proc;

use crate::Bench;
use crate::app::{Does, Language};
use crate::server::{Kind, Server, is_ours};
use crate::table::{Row, Target};

const FEW: usize = 2;
const MANY: usize = 16;

/// Memory of one server.
struct Memory {
    kind: Kind,
    few: f64,
    many: f64,
    worker: f64,
}

/// Measures the section `footprint`.
pub(crate) fn measure(bench: &mut Bench) -> anyhow::Result<()> {
    let kinds = [
        (Kind::Request, Language::Node),
        (Kind::Connection, Language::Node),
        (Kind::ClusterRr, Language::Node),
        (Kind::Pm2, Language::Node),
        (Kind::Gunicorn, Language::Python),
        (Kind::Puma, Language::Ruby),
    ];
    let mut found = Vec::new();
    let mut idle = Vec::new();
    for (kind, language) in kinds {
        let does = if language == Language::Node {
            Does::Hello
        } else {
            Does::Wait(Duration::ZERO)
        };
        let many = match bench.start(kind, language, does, MANY)? {
            Some(server) => mebibytes(&server.supervisors()),
            None => continue,
        };
        if let Some(server) = bench.start(kind, language, does, FEW)? {
            found.push(Memory {
                kind,
                few: mebibytes(&server.supervisors()),
                many,
                worker: typical(&server.workers()),
            });
            idle.push(server);
        }
    }
    let bare = bench.start(Kind::Bare, Language::Node, Does::Hello, 1)?;
    let bare = bare.map_or(f64::NAN, |server| typical(&server.workers()));
    memory_rows(&found, bare, bench);
    idle_rows(&idle, bench)
}

fn memory_rows(found: &[Memory], bare: f64, bench: &mut Bench) {
    let added = |memory: &Memory| (memory.many - memory.few) / (MANY - FEW) as f64;
    for ours in found.iter().filter(|memory| is_ours(memory.kind)) {
        for peer in found.iter().filter(|memory| !is_ours(memory.kind)) {
            // The two modes differ only in the dispatcher's buffers, so Connection dispatch is
            // compared with a single peer, PM2.
            if ours.kind == Kind::Connection && peer.kind != Kind::Pm2 {
                continue;
            }
            let row = |what: &str, figure: fn(&Memory) -> f64| {
                Row::new(what, "MiB", ours.kind.name(), figure(ours))
                    .beside(peer.kind.name(), figure(peer))
            };
            bench.row(
                row("RSS of the supervisor, 2 workers", |of| of.few).target(Target::AtMost(8.0)),
            );
            bench.row(
                row("RSS of the supervisor, 16 workers", |of| of.many).target(Target::AtMost(8.0)),
            );
            bench.row(
                Row::new(
                    "RSS of the supervisor, per added worker",
                    "MiB",
                    ours.kind.name(),
                    added(ours),
                )
                .beside(peer.kind.name(), added(peer)),
            );
        }
    }
    for memory in found.iter().filter(|memory| {
        matches!(
            memory.kind,
            Kind::Request | Kind::Connection | Kind::Pm2 | Kind::ClusterRr
        )
    }) {
        let row = Row::new(
            "RSS of a worker beside a bare node",
            "MiB",
            memory.kind.name(),
            memory.worker,
        )
        .beside(Kind::Bare.name(), bare);
        bench.row(if is_ours(memory.kind) {
            // A worker runs the same binary with the same arguments as the bare node.
            row.target(Target::RatioAtMost(1.05))
        } else {
            row
        });
    }
}

/// The CPU time of all supervisors during the same seconds, without requests.
fn idle_rows(servers: &[Server], bench: &mut Bench) -> anyhow::Result<()> {
    let time = Duration::from_secs(bench.pace.of(5, 10, 30));
    let pids: Vec<Vec<u32>> = servers.iter().map(Server::supervisors).collect();
    let now = || {
        let times = pids.iter().map(|pids| cpu::run_time_of(pids));
        times.collect::<anyhow::Result<Vec<Duration>>>()
    };
    let before = now()?;
    // The interval is part of the measurement, not a condition to wait for.
    std::thread::sleep(time);
    let used: Vec<(Kind, f64)> = now()?
        .iter()
        .zip(&before)
        .zip(servers)
        .map(|((after, before), server)| {
            let spent = after.saturating_sub(*before);
            (
                server.kind,
                spent.as_secs_f64() / time.as_secs_f64() * 100.0,
            )
        })
        .collect();
    for (ours, one) in used.iter().filter(|(kind, _)| is_ours(*kind)) {
        for (peer, by) in used.iter().filter(|(kind, _)| !is_ours(*kind)) {
            bench.row(
                Row::new(
                    "CPU of an idle supervisor",
                    "% of a core",
                    ours.name(),
                    *one,
                )
                .beside(peer.name(), *by)
                .target(Target::AtMost(0.1))
                .note(format!("over {time:?}")),
            );
        }
    }
    Ok(())
}

fn mebibytes(pids: &[u32]) -> f64 {
    let bytes: u64 = pids
        .iter()
        .filter_map(|pid| proc::resident_bytes(*pid))
        .sum();
    bytes as f64 / f64::from(1 << 20)
}

fn typical(workers: &[u32]) -> f64 {
    let each: Vec<f64> = workers.iter().map(|pid| mebibytes(&[*pid])).collect();
    median(&each)
}
