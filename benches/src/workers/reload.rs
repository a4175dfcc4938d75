//! Repeated reloads under load, with failures by kind. Clients never retry. A request that
//! gets no answer for much longer than it should take counts as hung (`timed out`).

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use scaledapp_tests::load::{Load, Report, Running};

use crate::Bench;
use crate::app::{self, Does, Language};
use crate::server::{Kind, Server, is_ours};
use crate::table::{Row, Target};

/// Time-out for further answers after a reload. No peer takes that long to start and drain its
/// workers.
const MORE: Duration = Duration::from_secs(20);
const QUICK: Duration = Duration::from_millis(20);
const SLOW: Duration = Duration::from_secs(3);

/// The age at which a load is replaced by a new one. A load ends by itself after two minutes.
const FRESH: Duration = Duration::from_secs(50);
/// Requests per second of each kind of client to each server with a quick handler. With a
/// slow handler there is no rate: each client sends its next request after an answer.
const RATE: u32 = 100;

/// One app under one supervisor.
#[derive(Debug, Clone, Copy)]
struct Trial {
    kind: Kind,
    language: Language,
    wait: Duration,
    reloads: u32,
}

/// The result of the reloads.
struct Outcome {
    trial: Trial,
    kept: Option<Report>,
    single: Report,
    /// Reload commands that ended with another code than 0.
    refused: u32,
    /// The time of all reload commands.
    took: Duration,
}

/// Reloads first all Node servers at the same time, then all others, so that the state of
/// the machine affects all servers that are compared.
pub(crate) fn measure(bench: &mut Bench) -> anyhow::Result<()> {
    let many = bench.pace.of(5, 20, 100);
    let some = bench.pace.of(2, 5, 20);
    let few = bench.pace.of(1, 2, 10);
    let new = |kind, language, wait, reloads| Trial {
        kind,
        language,
        wait,
        reloads,
    };
    let node = [
        new(Kind::Request, Language::Node, QUICK, many),
        new(Kind::Connection, Language::Node, QUICK, many),
        new(Kind::Pm2, Language::Node, QUICK, some),
        new(Kind::Request, Language::Node, SLOW, few),
        new(Kind::Connection, Language::Node, SLOW, few),
        new(Kind::Pm2, Language::Node, SLOW, few),
    ];
    let others = [
        new(Kind::Request, Language::Python, QUICK, some),
        new(Kind::Gunicorn, Language::Python, QUICK, some),
        new(Kind::Request, Language::Go, QUICK, some),
        new(Kind::Request, Language::Ruby, QUICK, some),
        new(Kind::Puma, Language::Ruby, QUICK, few),
    ];
    for trials in [&node[..], &others[..]] {
        let outcomes = run(trials, bench)?;
        for outcome in outcomes.iter().filter(|outcome| outcome.is_ours()) {
            let peer = outcomes.iter().find(|peer| {
                !peer.is_ours()
                    && peer.trial.wait == outcome.trial.wait
                    && peer.trial.language == outcome.trial.language
            });
            outcome.rows(peer, bench);
        }
    }
    Ok(())
}

fn run(trials: &[Trial], bench: &mut Bench) -> anyhow::Result<Vec<Outcome>> {
    let mut servers = Vec::new();
    for trial in trials {
        let there = match trial.language {
            Language::Python => app::has_python(),
            Language::Go => app::go_program().is_ok(),
            Language::Ruby => Kind::Puma.missing().is_none(),
            Language::Node => true,
        };
        if there
            && let Some(server) =
                bench.start(trial.kind, trial.language, Does::Wait(trial.wait), 2)?
        {
            servers.push((trial, server));
        }
    }
    std::thread::scope(|scope| {
        let threads: Vec<_> = servers
            .iter()
            .map(|(trial, server)| scope.spawn(move || trial.run(server)))
            .collect();
        let joined = threads.into_iter().map(|thread| {
            thread
                .join()
                .map_err(|_| anyhow::anyhow!("a thread of this bench panicked"))?
        });
        joined.collect()
    })
}

impl Trial {
    fn run(self, server: &Server) -> anyhow::Result<Outcome> {
        let quick = self.wait < SLOW;
        // Connection dispatch promises nothing to kept connections.
        let sorts = if self.kind == Kind::Connection {
            &[false][..]
        } else {
            &[true, false][..]
        };
        let start = || {
            let loads = sorts.iter().map(|keep_alive| {
                Load {
                    keep_alive: *keep_alive,
                    clients: 8,
                    rate: quick.then_some(RATE),
                    timeout: self.wait + Duration::from_secs(5),
                    ..Load::on(&[server.address])
                }
                .start()
            });
            loads.collect::<anyhow::Result<Vec<Running>>>()
        };
        let more = if quick { 30 } else { 8 };
        let answered = |loads: &[Running]| {
            let mut all = loads.iter();
            all.try_for_each(|running| running.wait_more(more, MORE))
        };
        let mut reports = vec![Report::default(); sorts.len()];
        let mut add = |loads: Vec<Running>| {
            for (report, running) in reports.iter_mut().zip(loads) {
                *report = std::mem::take(report).and(&running.stop());
            }
        };
        let (mut loads, mut since) = (start()?, Instant::now());
        answered(&loads)?;
        let (mut refused, mut took) = (0, Duration::ZERO);
        for _ in 0..self.reloads {
            if since.elapsed() > FRESH {
                add(loads);
                (loads, since) = (start()?, Instant::now());
                answered(&loads)?;
            }
            let begun = Instant::now();
            let ended = server.reload()?;
            took += begun.elapsed();
            refused += u32::from(ended.code != 0);
            answered(&loads)?;
        }
        add(loads);
        let single = reports.pop().context("one-shot clients are always there")?;
        Ok(Outcome {
            trial: self,
            kept: reports.pop(),
            single,
            refused,
            took,
        })
    }
}

impl Outcome {
    fn is_ours(&self) -> bool {
        is_ours(self.trial.kind)
    }

    fn rows(&self, peer: Option<&Self>, bench: &mut Bench) {
        for (clients, one, by) in [
            (
                "keep-alive",
                self.kept.as_ref(),
                peer.and_then(|peer| peer.kept.as_ref()),
            ),
            (
                "one-shot",
                Some(&self.single),
                peer.map(|peer| &peer.single),
            ),
        ] {
            let Some(one) = one else { continue };
            let what = format!(
                "failed per reload, {} {:?} handler, {clients}",
                self.trial.language.name(),
                self.trial.wait
            );
            let per_reload =
                |report: &Report, of: &Self| report.failed() as f64 / f64::from(of.trial.reloads);
            let mut note = note(one, self);
            let mut row = Row::new(&what, "", self.trial.kind.name(), per_reload(one, self));
            if self.is_ours() {
                row = row.target(Target::AtMost(0.0));
            }
            if let (Some(by), Some(peer)) = (by, peer) {
                row = row.beside(peer.trial.kind.name(), per_reload(by, peer));
                let _infallible = write!(note, "; peer {}", self::note(by, peer));
            }
            bench.row(row.note(note));
        }
    }
}

fn note(report: &Report, outcome: &Outcome) -> String {
    let reloads = outcome.trial.reloads;
    let each = (outcome.took / reloads.max(1)).as_secs_f64();
    let mut text = format!("{reloads} reloads of {each:.1} s, {}", kinds(report));
    if outcome.refused > 0 {
        let _infallible = write!(text, ", {} reload commands failed", outcome.refused);
    }
    text
}

/// `4000 sent, 3 failed (2 Get reset, 1 Post timed out)`.
pub(crate) fn kinds(report: &Report) -> String {
    let kinds: Vec<String> = report
        .failures
        .iter()
        .map(|((method, kind), count)| format!("{count} {method:?} {kind}"))
        .collect();
    let list = if kinds.is_empty() {
        String::new()
    } else {
        format!(" ({})", kinds.join(", "))
    };
    format!("{} sent, {} failed{list}", report.sent, report.failed())
}

/// Starts load on a server, at this total rate in requests per second. Each of `sorts` is a
/// kind of clients: whether they keep their connections.
///
/// # Errors
/// Load cannot be started.
pub(crate) fn gentle(server: &Server, rate: u32, sorts: &[bool]) -> anyhow::Result<Vec<Running>> {
    let share = rate / sorts.len().max(1) as u32;
    ensure!(
        share > 0,
        "the rate must be at least one request per second for each client"
    );
    let loads = sorts.iter().map(|keep_alive| {
        Load {
            keep_alive: *keep_alive,
            clients: 8,
            rate: Some(share),
            timeout: Duration::from_secs(5),
            ..Load::on(&[server.address])
        }
        .start()
    });
    loads.collect()
}
