//! Faults: workers that are killed repeatedly, a release that exits when it starts, and a
//! release that listens late.

use std::collections::{BTreeSet, VecDeque};
use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;
use rustix::process::Signal;
use scaledapp_benches::figures::percentile;
use scaledapp_tests::load::{Method, Report, Running};
use scaledapp_tests::{proc, process};

use crate::Bench;
use crate::app::{Does, Language};
use crate::reload::{gentle, kinds};
use crate::server::{Kind, Server, is_ours};
use crate::table::{Row, Target};

const HANDLER: Does = Does::Wait(Duration::from_millis(20));
/// Requests per second to each server.
const RATE: u32 = 100;
const CHECK_INTERVAL: Duration = Duration::from_millis(1);
/// How long to wait for a replacement. A replacement that takes longer is counted with this time.
const MAX_REPLACEMENT_TIME: Duration = Duration::from_millis(900);

/// The children of all threads of a process, from the kernel's own list: reading all of
/// `/proc` each millisecond would itself be a load.
fn children(root: u32) -> Vec<u32> {
    let threads = fs::read_dir(format!("/proc/{root}/task"));
    let lists = threads.into_iter().flatten().flatten();
    let texts = lists.filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok());
    let pids: Vec<u32> = texts
        .flat_map(|text| {
            let pids = text.split_whitespace().filter_map(|pid| pid.parse().ok());
            pids.collect::<Vec<u32>>()
        })
        .collect();
    pids
}

fn stop(loads: Vec<Running>) -> Report {
    let reports = loads.into_iter().map(Running::stop);
    reports.fold(Report::default(), |all, report| report.and(&all))
}

/// The result of the kills.
struct Kills {
    kind: Kind,
    report: Report,
    /// Times from a kill to the replacement's exec (or to its fork, if workers are forks of a
    /// loaded app).
    replaced: Vec<Duration>,
    missing: usize,
}

/// Kills a worker each second, on all servers at the same time, so that the state of the
/// machine affects all of them.
pub(crate) fn kills(bench: &mut Bench) -> anyhow::Result<()> {
    let seconds = bench.pace.of(8, 20, 60);
    let mut servers = bench.start_all(
        &[Kind::Request, Kind::Connection, Kind::Pm2, Kind::ClusterRr],
        HANDLER,
        2,
    )?;
    servers.extend(bench.start(Kind::Gunicorn, Language::Python, HANDLER, 2)?);
    servers.extend(bench.start(Kind::Puma, Language::Ruby, HANDLER, 2)?);
    let start = Instant::now();
    let count = servers.len() as u32;
    let all = std::thread::scope(|scope| {
        let threads: Vec<_> = servers
            .iter()
            .zip(0..)
            .map(|(server, index)| {
                let first = start + Duration::from_secs(1) + Duration::from_secs(1) * index / count;
                scope.spawn(move || kill_each_second(server, first, seconds))
            })
            .collect();
        let joined = threads.into_iter().map(|thread| {
            thread
                .join()
                .map_err(|_| anyhow::anyhow!("a thread of this bench panicked"))?
        });
        joined.collect::<anyhow::Result<Vec<Kills>>>()
    })?;
    for ours in all.iter().filter(|kills| is_ours(kills.kind)) {
        for peer in all.iter().filter(|kills| !is_ours(kills.kind)) {
            // The supervisors of other languages are compared with Request dispatch only.
            if ours.kind == Kind::Connection && matches!(peer.kind, Kind::Gunicorn | Kind::Puma) {
                continue;
            }
            kill_rows(ours, peer, bench);
        }
    }
    Ok(())
}

fn kill_each_second(server: &Server, first: Instant, seconds: u32) -> anyhow::Result<Kills> {
    let loads = gentle(server, RATE, &[true, false])?;
    let (mut replaced, mut missing) = (Vec::new(), 0);
    let mut order: VecDeque<u32> = server.workers().into();
    for second in 0..seconds {
        // One kill a second is the experiment, not a wait for something.
        let at = first + Duration::from_secs(1) * second;
        std::thread::sleep(at.saturating_duration_since(Instant::now()));
        let before: BTreeSet<u32> = children(server.root()).into_iter().collect();
        let Some(oldest) = order.pop_front() else {
            missing += 1;
            order = server.workers().into();
            continue;
        };
        if process::send(oldest, Signal::KILL).is_err() {
            continue;
        }
        let killed = Instant::now();
        let new = loop {
            let mut now = children(server.root()).into_iter();
            let new = now.find(|pid| !before.contains(pid) && server.is_worker(*pid));
            if new.is_some() || killed.elapsed() > MAX_REPLACEMENT_TIME {
                break new;
            }
            std::thread::sleep(CHECK_INTERVAL);
        };
        replaced.push(killed.elapsed().min(MAX_REPLACEMENT_TIME));
        match new {
            Some(pid) => order.push_back(pid),
            None => missing += 1,
        }
    }
    Ok(Kills {
        kind: server.kind,
        report: stop(loads),
        replaced,
        missing,
    })
}

fn kill_rows(ours: &Kills, peer: &Kills, bench: &mut Bench) {
    let row = |what: &str, unit, one: f64, by: f64| {
        Row::new(what, unit, ours.kind.name(), one).beside(peer.kind.name(), by)
    };
    let failed = |kills: &Kills, method| kills.report.failed_of(method) as f64;
    let hung = |kills: &Kills| {
        let all = kills.report.failures.iter();
        let hung = all.filter(|((_, kind), _)| *kind == scaledapp_tests::http::Failure::TimedOut);
        hung.map(|(_, count)| *count).sum::<u64>() as f64
    };
    let executing = ours.replaced.len() as f64;
    let note = format!("{}; peer {}", kinds(&ours.report), kinds(&peer.report));
    let gets = row(
        "failed GETs, a kill each second",
        "",
        failed(ours, Method::Get),
        failed(peer, Method::Get),
    );
    // Only the dispatcher can repeat a GET.
    bench.row(if ours.kind == Kind::Request {
        gets.target(Target::AtMost(0.0)).note(note)
    } else {
        gets.note(note)
    });
    bench.row(
        row(
            "failed POSTs (those being executed may fail)",
            "",
            failed(ours, Method::Post),
            failed(peer, Method::Post),
        )
        .note(format!("{executing} kills")),
    );
    bench.row(row("hung over 5 s", "", hung(ours), hung(peer)).target(Target::AtMost(0.0)));
    let late = format!(
        "not within 0.9 s: {}, peer {}; ms: {}; peer {}",
        ours.missing,
        peer.missing,
        milliseconds(&ours.replaced),
        milliseconds(&peer.replaced)
    );
    let of = |kills: &Kills, count, percent| {
        let times = kills.replaced.get(..count).unwrap_or(&kills.replaced);
        percentile(times, percent).as_secs_f64() * 1e3
    };
    // The first kill of each slot, before any restart delay grows.
    bench.row(
        row(
            "from a worker's first kill to its replacement's exec",
            "ms",
            of(ours, 2, 50.0),
            of(peer, 2, 50.0),
        )
        .target(Target::AtMost(10.0)),
    );
    for percent in [50.0, 100.0] {
        let what = format!("the same for all kills, 2 s after a worker's exec, p{percent}");
        let row = row(
            &what,
            "ms",
            of(ours, usize::MAX, percent),
            of(peer, usize::MAX, percent),
        );
        bench.row(if percent < 99.0 {
            row.note(late.clone())
        } else {
            row
        });
    }
}

/// Times such as `4 7 101`, in their order.
fn milliseconds(times: &[Duration]) -> String {
    let each: Vec<String> = times
        .iter()
        .map(|time| time.as_millis().to_string())
        .collect();
    each.join(" ")
}

/// The result of a bad or slow release.
struct Released {
    kind: Kind,
    report: Report,
    code: i32,
    took: Duration,
    /// From the end of the last new worker to the end of the command; `None`: no new worker ended.
    after_death: Option<Duration>,
}

/// Reloads to a release that exits immediately, and to one that listens late.
pub(crate) fn releases(bench: &mut Bench) -> anyhow::Result<()> {
    let boot = Duration::from_secs(8);
    let late = format!("reload to a release that boots {boot:?}");
    for (what, does, boot) in [
        (
            "reload to a release that exits 1",
            Does::Broken,
            Duration::ZERO,
        ),
        (late.as_str(), Does::BootsLate(boot), boot),
    ] {
        let servers = bench.start_all(&[Kind::Request, Kind::Connection, Kind::Pm2], HANDLER, 2)?;
        let all = std::thread::scope(|scope| {
            let threads: Vec<_> = servers
                .iter()
                .map(|server| scope.spawn(move || release(server, does, boot)))
                .collect();
            let joined = threads.into_iter().map(|thread| {
                thread
                    .join()
                    .map_err(|_| anyhow::anyhow!("a thread of this bench panicked"))?
            });
            joined.collect::<anyhow::Result<Vec<Released>>>()
        })?;
        let peer = all.iter().find(|released| released.kind == Kind::Pm2);
        for ours in all.iter().filter(|released| is_ours(released.kind)) {
            release_rows(what, does, ours, peer, bench);
        }
    }
    Ok(())
}

fn release(server: &Server, does: Does, boot: Duration) -> anyhow::Result<Released> {
    // Under Connection dispatch kept connections last until the drain's end.
    let sorts = if server.kind == Kind::Connection {
        &[false][..]
    } else {
        &[true, false][..]
    };
    let loads = gentle(server, RATE, sorts)?;
    for load in &loads {
        load.wait_more(20, Duration::from_secs(20))?;
    }
    server.app.rewrite(does)?;
    let start = Instant::now();
    let done = AtomicBool::new(false);
    let (ended, end, death) = std::thread::scope(|scope| {
        let watch = scope.spawn(|| last_death(server, &done));
        let ended = server.reload();
        let end = Instant::now();
        done.store(true, Ordering::Relaxed);
        (ended, end, watch.join().ok().flatten())
    });
    let ended = ended.with_context(|| format!("reload of {}", server.kind.name()))?;
    // Peers continue after their command has ended: the second of two workers may take as
    // long to start as the first, and may fail even later.
    let after = (boot + Duration::from_secs(6)).as_secs();
    for load in &loads {
        let sent = load.sent() + after * u64::from(RATE) / sorts.len() as u64;
        load.wait_sent(sent, Duration::from_mins(1))?;
    }
    Ok(Released {
        kind: server.kind,
        report: stop(loads),
        code: ended.code,
        took: end - start,
        after_death: death.map(|death| end.saturating_duration_since(death)),
    })
}

/// When the last of the new workers ended.
fn last_death(server: &Server, done: &AtomicBool) -> Option<Instant> {
    let old: BTreeSet<u32> = children(server.root()).into_iter().collect();
    let (mut living, mut last) = (BTreeSet::new(), None);
    while !done.load(Ordering::Relaxed) {
        living.extend(
            children(server.root())
                .into_iter()
                .filter(|pid| !old.contains(pid) && proc::is_running(*pid)),
        );
        let before = living.len();
        living.retain(|pid| proc::is_running(*pid));
        if living.len() < before {
            last = Some(Instant::now());
        }
        std::thread::sleep(CHECK_INTERVAL);
    }
    last
}

fn release_rows(
    what: &str,
    does: Does,
    ours: &Released,
    peer: Option<&Released>,
    bench: &mut Bench,
) {
    let row = |what: &str, unit, of: fn(&Released) -> f64| {
        let row = Row::new(what, unit, ours.kind.name(), of(ours));
        match peer {
            Some(peer) => row.beside(peer.kind.name(), of(peer)),
            None => row,
        }
    };
    let of_peer = peer.map_or_else(String::new, |peer| {
        format!("; peer {}", kinds(&peer.report))
    });
    let failed = row(&format!("{what}: failed requests"), "", |of| {
        of.report.failed() as f64
    });
    let failed = failed.note(format!("{}{of_peer}", kinds(&ours.report)));
    bench.row(failed.target(Target::AtMost(0.0)));
    bench.row(
        row(&format!("{what}: exit code"), "", |of| f64::from(of.code)).note(
            if does == Does::Broken {
                "anything but 0 is right"
            } else {
                "0 is right"
            },
        ),
    );
    bench.row(row(&format!("{what}: the command took"), "s", |of| {
        of.took.as_secs_f64()
    }));
    if does == Does::Broken
        && let Some(after) = ours.after_death
    {
        let mut row = Row::new(
            "from the canary's end to the command's",
            "s",
            ours.kind.name(),
            after.as_secs_f64(),
        );
        if let Some(peer) = peer
            && let Some(theirs) = peer.after_death
        {
            row = row.beside(peer.kind.name(), theirs.as_secs_f64());
        }
        bench.row(row.target(Target::AtMost(1.0)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn a_child_is_listed_whichever_thread_started_it() {
        let thread = std::thread::spawn(|| Command::new("sleep").arg("100").spawn().unwrap());
        let mut child = thread.join().unwrap();
        assert!(children(std::process::id()).contains(&child.id()));
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
