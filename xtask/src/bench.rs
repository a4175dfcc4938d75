//! `cargo xtask bench`: chooses a measurement and installs the programs that it needs.
//!
//! The measurements themselves, and the programs that they compare with, are in `benches/`.

use std::ffi::OsString;
use std::fs;

use anyhow::{Context, ensure};
use clap::{Args, ValueEnum};
use scaledapp_tests::binaries;
use serde_json::Value;

use crate::cargo::{cargo, tool};
use crate::console::{note, timed};
use crate::{compile, distribution};

/// The version of PM2 that the supervisor is compared with. Only the benches use PM2; it is never
/// linked or shipped. The version is pinned so that results remain comparable.
const PM2: &str = "7.0.4";

/// The arguments of `bench`.
#[derive(Debug, Args)]
pub(crate) struct BenchArgs {
    /// What to measure
    #[arg(default_value = "hop")]
    what: What,
    /// Only these sections of `workers`
    #[arg(long, value_name = "NAME", num_args = 1.., value_delimiter = ',')]
    only: Vec<String>,
    /// `workers` in about five minutes: fewer and shorter rounds
    #[arg(long, conflicts_with = "full")]
    quick: bool,
    /// `workers` with a hundred reloads and a minute of kills
    #[arg(long)]
    full: bool,
}

/// The measurement to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum What {
    /// CPU time per request of each hop, beside nginx
    Hop,
    /// TLS and HTTP/2 with clients, beside nginx
    Edge,
    /// TCP relays, beside haproxy
    Tcp,
    /// Memory of each connection in each state, beside nginx
    Memory,
    /// The supervisor beside Node cluster, PM2, gunicorn and Puma
    Workers,
}

/// Builds, measures and prints the tables. Returns whether that succeeded.
///
/// # Errors
/// A required program cannot be installed, something does not compile, or a flag of `workers` is
/// given for another measurement.
pub(crate) fn run(args: &BenchArgs) -> anyhow::Result<bool> {
    let plain = args.only.is_empty() && !args.quick && !args.full;
    ensure!(
        args.what == What::Workers || plain,
        "--only, --quick and --full are flags of workers: cargo xtask bench workers --quick"
    );
    for (program, package) in [("nginx", "nginx-light"), ("wrk", "wrk")] {
        // nginx is in /usr/sbin, which not every PATH has.
        let sbin = std::path::Path::new("/usr/sbin").join(program);
        if !sbin.is_file() {
            distribution::ensure(program, &[package])?;
        }
    }
    let bin = match args.what {
        What::Hop => "hop",
        What::Edge => {
            distribution::ensure("h2load", &["nghttp2-client"])?;
            "edge"
        }
        What::Tcp => {
            // As nginx, it is in /usr/sbin.
            if !std::path::Path::new("/usr/sbin/haproxy").is_file() {
                distribution::ensure("haproxy", &["haproxy"])?;
            }
            "tcp"
        }
        What::Memory => "memory",
        What::Workers => {
            peers()?;
            "workers"
        }
    };
    compile::run()?;
    let mut command = cargo(&[
        "run",
        "--release",
        "--locked",
        "--quiet",
        "--package",
        "scaledapp-benches",
        "--bin",
        bin,
        "--",
    ]);
    if !args.only.is_empty() {
        command.arg("--only").arg(args.only.join(","));
    }
    command.args(args.quick.then_some("--quick"));
    command.args(args.full.then_some("--full"));
    let status = command.status().context("cannot start cargo")?;
    Ok(status.success())
}

/// Installs the programs to compare with. Node is required, the others are optional.
fn peers() -> anyhow::Result<()> {
    distribution::ensure("node", &["nodejs"])?;
    for (program, package) in [("gunicorn", "gunicorn"), ("puma", "puma")] {
        if let Err(error) = distribution::ensure(program, &[package]) {
            note(&format!("{program} is left out: {error:#}"));
        }
    }
    if let Err(error) = pm2() {
        note(&format!("PM2 is left out: {error:#}"));
    }
    Ok(())
}

/// Installs PM2 below `target/`, where only the bench uses it.
fn pm2() -> anyhow::Result<()> {
    let directory = binaries::workspace().join("target/bench/pm2");
    let manifest = directory.join("node_modules/pm2/package.json");
    let version = fs::read_to_string(&manifest)
        .ok()
        .and_then(|text| serde_json::from_str::<Value>(&text).ok())
        .and_then(|manifest| Some(manifest["version"].as_str()?.to_owned()));
    if version.as_deref() == Some(PM2) {
        return Ok(());
    }
    distribution::ensure("npm", &["npm"])?;
    fs::create_dir_all(&directory)
        .with_context(|| format!("cannot make {}", directory.display()))?;
    timed(&format!("Installing PM2 {PM2} below target/bench"), || {
        let mut command = tool(&OsString::from("npm"));
        command.args(["install", "--no-audit", "--no-fund", "--no-save"]);
        command.args(["--ignore-scripts", "--loglevel=error"]);
        command.arg("--prefix").arg(&directory);
        command.arg(format!("pm2@{PM2}"));
        let status = command.status().context("cannot start npm")?;
        ensure!(
            status.success(),
            "npm exited with {status}: try npm install --prefix {} pm2@{PM2}",
            directory.display()
        );
        Ok(())
    })
}
