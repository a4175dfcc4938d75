//! `cargo xtask simulate`: runs the autoscaler against all traces, draws them and writes the page.
//!
//! The simulation itself is the library `scaledapp-simulate`, which also has tests.

use anyhow::Context as _;
use clap::Args;
use scaledapp_simulate::page::{self, Row};
use scaledapp_simulate::plot;
use scaledapp_tests::binaries;

use crate::console::say;

/// The seeds of the page.
const SEEDS: [u64; 3] = [1, 2, 3];

/// The arguments of `simulate`.
#[derive(Debug, Args)]
pub(crate) struct SimulateArgs {
    /// Other seeds than those of the page; prints the table and leaves the page as it is
    #[arg(long, value_name = "SEED", num_args = 1..)]
    seed: Vec<u64>,
}

/// Runs all traces. The result is whether everything was written.
pub(crate) fn run(args: &SimulateArgs) -> anyhow::Result<bool> {
    let is_page = args.seed.is_empty();
    let seeds = if is_page { &SEEDS[..] } else { &args.seed };
    let rows = page::rows(seeds);
    let markdown = page::markdown(&rows, seeds);
    let directory = binaries::workspace().join("target/simulate");
    std::fs::create_dir_all(&directory)
        .with_context(|| format!("cannot create {}", directory.display()))?;
    for row in &rows {
        let path = directory.join(format!("{}.svg", row.trace.name));
        std::fs::write(&path, drawing(row))
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    say(&markdown);
    say(&format!("Drawings are in {}.", directory.display()));
    if is_page {
        let path = binaries::workspace().join("docs/autoscaling-simulated.md");
        std::fs::write(&path, markdown)
            .with_context(|| format!("cannot write {}", path.display()))?;
        say(&format!("{} is renewed.", path.display()));
    }
    Ok(true)
}

/// The first seed of all rules.
fn drawing(row: &Row) -> String {
    let first = row.runs.iter();
    let first = first.filter_map(|(kind, runs)| Some((*kind, runs.first()?.clone())));
    plot::svg(&row.trace, &first.collect::<Vec<_>>())
}
