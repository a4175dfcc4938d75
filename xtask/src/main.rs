//! `cargo xtask`: build, demo and test of the whole project.
//!
//! This file parses the command line and maps results to exit codes. `compile` builds the binaries,
//! `demo` runs the demo, `test` runs the tests, `languages` installs runtimes for them, `kind`
//! makes a cluster, `images` makes and pushes a release, `bench` runs measurements, and `simulate` runs the autoscaler against traces.

#![expect(
    clippy::doc_markdown,
    reason = "the comments of the command line are help texts, which are not markdown"
)]

mod bench;
mod cargo;
mod compile;
mod console;
mod demo;
mod distribution;
mod images;
mod interrupt;
mod kind;
mod languages;
mod simulate;
mod test;
#[cfg(test)]
mod workflows;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

/// `EX_USAGE` of sysexits.h, as in all binaries of the project.
const USAGE: u8 = 64;

const EXAMPLES: &str = "\
Examples:
  cargo xtask build          static release binaries in target/release/
  cargo xtask demo           the sample app, broken under load, failures counted
  cargo xtask demo --keep    the same, and leaves it running until Ctrl-C
  cargo xtask test           every test (--fast: none on a cluster; --languages: the runtimes)
  cargo xtask kind           a Kubernetes cluster on this machine
  cargo xtask images         container images and chart (--push PREFIX: to a registry)
  cargo xtask bench          what a hop costs, beside nginx; bench workers: the supervisor
  cargo xtask simulate       the autoscaler against traces of load, beside Knative and HPA

Exit codes: 0 done, 1 failure, 64 usage.";

const BUILD_EXAMPLES: &str = "\
Examples:
  cargo xtask build
  CARGO_TARGET_DIR=/tmp/target cargo xtask build

Builds scaledapp, scaledapp-sidecar, scaledapp-balancer, scaledapp-dns and the
example scaledapp-hello-rust for the musl target of this machine's kind, and
puts them into target/release/ of the workspace. Cargo works in CARGO_TARGET_DIR
if that is set. A binary that runs keeps running: files are replaced, not
written to. Without the musl target: static binaries with glibc, and a warning.";

const DEMO_EXAMPLES: &str = "\
Examples:
  cargo xtask demo
  cargo xtask demo --app examples/hello-python/scaledapp.yaml
  cargo xtask demo --keep

Takes hello-node if Node is there, else hello-python, else hello-rust. Ends with
0 only if every step kept its promise. Load goes to loopback addresses only.";

const TEST_EXAMPLES: &str = "\
Examples:
  cargo xtask test           every layer; makes a kind cluster if there is none
  cargo xtask test --fast    without the two layers that need Kubernetes
  cargo xtask test --languages
                             only the hand-over, with every runtime that can be
                             installed and many requests for each

Installs nodejs and python3 if they are missing and this is root on a machine
with apt-get. Tests that need a missing program say that they are skipped. All
layers run; the last line is `N passed, N failed`.
--languages also installs ruby, puma, php-cli and a JDK from the distribution,
and pinned versions of Node, Bun, Deno (npm) and of Python servers (PyPI) into
target/languages: about 700 MB.";

const KIND_EXAMPLES: &str = "\
Examples:
  cargo xtask kind                 the cluster with ScaledApp and the sample on it
  cargo xtask kind --bare          the cluster alone
  cargo xtask kind --image stock   from kindest/node, never from packages
  cargo xtask kind status
  cargo xtask kind check           pods, network and DNS, tried once
  cargo xtask kind down            removes it, but keeps the files that it was made from
  cargo xtask kind down --all      removes those files, too

Three nodes, as kind-config.yaml says. Where a container registry is reachable,
nodes are stock kindest/node in Docker or podman. Where none is (and for root on
Debian only), podman is installed and the node image is built from Debian
packages and from Go modules pinned in tests/cluster/parts: a quarter of an hour
the first time, then about a minute, and seconds while the cluster is healthy.
Everything made is kept in target/kind.";

const IMAGES_EXAMPLES: &str = "\
Examples:
  cargo xtask images
  cargo xtask images --push registry.example/team
  cargo xtask images --push registry.internal:5000/team --ca-file ca.crt
  cargo xtask images --push localhost:5000/team --plain-http --arch amd64 --without-sbom
  cargo xtask images --downloads https://example.org/releases/v0.1.0

Needs no container engine. Writes into target/images, for amd64 and arm64: an
image of each component (OCI layouts), the chart with the images' digests,
install.yaml, the lists of linked packages (CycloneDX), and digests.txt. With
--downloads also archives of all programs, krew's manifest and SHA256SUMS.
Credentials are those that docker, podman, crane or helm have stored; crane and
helm are compiled from pinned Go modules, zig comes from PyPI.";

const BENCH_EXAMPLES: &str = "\
Examples:
  cargo xtask bench                      CPU time of each hop beside nginx, a minute
  cargo xtask bench workers              the supervisor beside its peers, eight minutes
  cargo xtask bench workers --quick      the same in about five
  cargo xtask bench workers --only reload kill

Installs nginx-light and wrk, and for workers nodejs, gunicorn, puma and (below
target/bench) PM2, if they are missing and this is root on a machine with
apt-get; a peer that cannot be installed is left out. Load goes to loopback
addresses only. What the rows mean is in benches/README.md.";

const SIMULATE_EXAMPLES: &str = "\
Examples:
  cargo xtask simulate
  cargo xtask simulate --seed 11 12 13

Runs the autoscaler's own code and the rules of Knative and HPA against the same
simulated requests, less than a minute. Writes a drawing of each trace into
target/simulate and the table into docs/autoscaling-simulated.md.";

/// Builds, demonstrates and tests the whole project.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Put static release binaries into target/release/
    #[command(after_help = BUILD_EXAMPLES)]
    Build,
    /// Build, run the sample app, break it under load and count failed requests
    #[command(after_help = DEMO_EXAMPLES)]
    Demo(DemoArgs),
    /// Build and run every test layer
    #[command(after_help = TEST_EXAMPLES)]
    Test {
        /// Leave out the layers that need Kubernetes
        #[arg(long)]
        fast: bool,
        /// Install the runtimes and run only their matrix, in its long form
        #[arg(long, conflicts_with = "fast")]
        languages: bool,
    },
    /// Create, reuse or remove the kind cluster
    #[command(after_help = KIND_EXAMPLES)]
    Kind(kind::KindArgs),
    /// Make the container images and the chart, and push them if asked
    #[command(after_help = IMAGES_EXAMPLES)]
    Images(images::ImagesArgs),
    /// Measure hops beside nginx, or workers beside other supervisors, as ratios
    #[command(after_help = BENCH_EXAMPLES)]
    Bench(bench::BenchArgs),
    /// Simulate the autoscaler on traces of load, beside Knative and HPA
    #[command(after_help = SIMULATE_EXAMPLES)]
    Simulate(simulate::SimulateArgs),
}

/// The arguments of `demo`.
#[derive(Debug, Args)]
struct DemoArgs {
    /// Keep the app running after the last step until Ctrl-C
    #[arg(long)]
    keep: bool,
    /// Run this app instead of the sample: a file with one ScaledApp
    #[arg(long, value_name = "FILE")]
    app: Option<PathBuf>,
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // The write fails if the terminal is closed; the exit code still shows the result.
            drop(error.print());
            let usage = error.exit_code() != 0;
            return if usage {
                ExitCode::from(USAGE)
            } else {
                ExitCode::SUCCESS
            };
        }
    };
    let done = match cli.command {
        Command::Build => compile::run(),
        Command::Demo(args) => demo::run(args.app, args.keep),
        Command::Test {
            languages: true, ..
        } => test::run_languages(),
        Command::Test { fast, .. } => test::run(fast),
        Command::Kind(words) => kind::run(words),
        Command::Images(args) => images::run(args),
        Command::Bench(args) => bench::run(&args),
        Command::Simulate(args) => simulate::run(&args),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        // The failure has been printed already.
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            console::complain(&format!("xtask: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
