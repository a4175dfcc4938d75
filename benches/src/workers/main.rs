//! The supervisor beside its peers (bare Node, Node's `cluster`, PM2, gunicorn and Puma),
//! all measured in one run.
//!
//! `cargo xtask bench workers`. This file has the command line, the order of the sections and the
//! form of the result. Ratios are more reliable than absolute figures, because the machine may be
//! shared; a few targets are absolute nevertheless.

#![expect(clippy::print_stdout, reason = "the table is the result")]

mod app;
mod faults;
mod footprint;
mod isolation;
mod openloop;
mod pm2;
mod reload;
mod server;
mod table;
mod tail;
mod throughput;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::{Parser, ValueEnum};
use scaledapp_benches::wrk;
use scaledapp_tests::binaries;
use serde_json::{Value, json};

use app::{Does, Language};
use server::{Kind, Server};
use table::Row;

/// The supervisor beside its peers, as ratios
#[derive(Debug, Parser)]
#[command(name = "workers")]
struct Cli {
    /// Only these sections
    #[arg(long, value_name = "NAME", num_args = 1.., value_delimiter = ',')]
    only: Vec<Section>,
    /// Fewer and shorter rounds, about five minutes in all
    #[arg(long, conflicts_with = "full")]
    quick: bool,
    /// A hundred reloads and a minute of kills
    #[arg(long)]
    full: bool,
}

/// The sections, in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Section {
    /// Throughput and CPU time of one-shot requests
    Cpu,
    /// The in-pod dispatcher beside nginx
    Hop,
    /// p99 at a fixed rate with 1 % of requests that block
    Tail,
    /// How evenly requests are spread over workers
    Spread,
    /// Failed requests while workers are replaced under load
    Reload,
    /// A worker is killed every second
    Kill,
    /// A release that does not start, and one that starts late
    Broken,
    /// Memory, and CPU time of an idle supervisor
    Footprint,
    /// A line on standard output for each request
    Log,
    /// One worker of four is blocked
    Blocked,
}

impl Section {
    fn name(self) -> String {
        let named = self.to_possible_value();
        named.map_or_else(String::new, |value| value.get_name().to_owned())
    }

    fn measure(self, bench: &mut Bench) -> anyhow::Result<()> {
        match self {
            Self::Cpu => throughput::one_shot(bench),
            Self::Hop => throughput::hop(bench),
            Self::Log => throughput::log_lines(bench),
            Self::Tail => tail::fixed_rate(bench),
            Self::Spread => tail::spread(bench),
            Self::Blocked => tail::blocked(bench),
            Self::Reload => reload::measure(bench),
            Self::Broken => faults::releases(bench),
            Self::Kill => faults::kills(bench),
            Self::Footprint => footprint::measure(bench),
        }
    }
}

/// The length of the measurements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pace {
    Quick,
    Usual,
    Full,
}

impl Pace {
    /// The value for this pace.
    fn of<T>(self, quick: T, usual: T, full: T) -> T {
        match self {
            Self::Quick => quick,
            Self::Usual => usual,
            Self::Full => full,
        }
    }
}

/// One run: its directory, and its results.
#[derive(Debug)]
struct Bench {
    directory: tempfile::TempDir,
    pace: Pace,
    servers: usize,
    rows: Vec<Row>,
    missing: Vec<&'static str>,
}

impl Bench {
    /// Whether a peer is installed. If it is not, prints the reason once.
    fn has(&mut self, kind: Kind) -> bool {
        let Some(reason) = kind.missing() else {
            return true;
        };
        if !self.missing.contains(&reason) {
            println!("left out: {reason}");
            self.missing.push(reason);
        }
        false
    }

    /// Starts an app under a supervisor; `None` if this supervisor is not installed.
    fn start(
        &mut self,
        kind: Kind,
        language: Language,
        does: Does,
        workers: usize,
    ) -> anyhow::Result<Option<Server>> {
        if !self.has(kind) {
            return Ok(None);
        }
        self.servers += 1;
        let directory = self.directory.path().join(self.servers.to_string());
        Server::start(&directory, kind, language, does, workers).map(Some)
    }

    /// As [`Bench::start`], for a Node app under each of these supervisors.
    fn start_all(
        &mut self,
        kinds: &[Kind],
        does: Does,
        workers: usize,
    ) -> anyhow::Result<Vec<Server>> {
        let mut servers = Vec::new();
        for kind in kinds {
            servers.extend(self.start(*kind, Language::Node, does, workers)?);
        }
        Ok(servers)
    }

    fn row(&mut self, row: Row) {
        self.rows.push(row);
    }
}

fn main() -> anyhow::Result<ExitCode> {
    let cli = Cli::parse();
    if let Some(code) = isolation::enter()? {
        return Ok(code);
    }
    if !isolation::inside() {
        println!(
            "namespaces cannot be made here (unshare, ip): the machine's own loopback is used"
        );
    }
    wrk::check()?;
    binaries::path("scaledapp-sidecar")?;
    binaries::on_path("node")
        .map_err(|_| anyhow::anyhow!("node is not installed: apt-get install -y nodejs"))?;
    let pace = match (cli.quick, cli.full) {
        (true, _) => Pace::Quick,
        (_, true) => Pace::Full,
        _ => Pace::Usual,
    };
    let mut bench = Bench {
        directory: tempfile::tempdir()?,
        pace,
        servers: 0,
        rows: Vec::new(),
        missing: Vec::new(),
    };
    let start = Instant::now();
    let (mut results, mut broken) = (Vec::new(), Vec::new());
    for section in Section::value_variants() {
        if cli.only.is_empty() || cli.only.contains(section) {
            run(*section, &mut bench, &mut results, &mut broken);
        }
    }
    let unmet = results.iter().filter(|row| row["met"] == false).count();
    println!(
        "\n{} rows, {unmet} short of their target, {} sections could not be measured, {:.0} s",
        results.len(),
        broken.len(),
        start.elapsed().as_secs_f64()
    );
    let file = write(pace, &bench, &results, &broken, start.elapsed())?;
    println!("{}", file.display());
    // The machine may be shared, so a missed target is a result to examine, not a failed run.
    Ok(ExitCode::from(u8::from(!broken.is_empty())))
}

fn run(section: Section, bench: &mut Bench, results: &mut Vec<Value>, broken: &mut Vec<String>) {
    let (name, start) = (section.name(), Instant::now());
    println!("\n## {name}\n");
    let measured = section.measure(bench);
    let rows = std::mem::take(&mut bench.rows);
    if !rows.is_empty() {
        println!("{}", table::HEAD);
    }
    let busy = load_average();
    for row in rows {
        println!("{}", row.line());
        let mut result = row.json(&name);
        result["loadAverage"] = json!(busy);
        results.push(result);
    }
    if let Err(error) = measured {
        println!("{name} could not be measured: {error:#}");
        broken.push(format!("{name}: {error:#}"));
    }
    let seconds = start.elapsed().as_secs_f64();
    println!("\n({seconds:.0} s, load average of the last minute {busy})");
}

/// The load average of the last minute, so that a reader can discard the results of an
/// overloaded machine.
fn load_average() -> f64 {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let first = text.split(' ').next().and_then(|word| word.parse().ok());
    first.unwrap_or(f64::NAN)
}

fn write(
    pace: Pace,
    bench: &Bench,
    rows: &[Value],
    broken: &[String],
    took: Duration,
) -> anyhow::Result<PathBuf> {
    let directory = binaries::workspace().join("target/bench");
    std::fs::create_dir_all(&directory)?;
    let file = directory.join("workers.json");
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let result = json!({
        "pace": format!("{pace:?}").to_lowercase(),
        "tookSeconds": took.as_secs(),
        "cores": std::thread::available_parallelism().map_or(0, usize::from),
        "kernel": kernel.trim(),
        "leftOut": bench.missing, "notMeasured": broken, "rows": rows,
    });
    std::fs::write(&file, serde_json::to_string_pretty(&result)?)
        .with_context(|| format!("cannot write {}: is the disk full?", file.display()))?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
        let cli = Cli::try_parse_from(["workers", "--only", "cpu,tail", "kill"]).unwrap();
        assert_eq!(cli.only, [Section::Cpu, Section::Tail, Section::Kill]);
    }
}
