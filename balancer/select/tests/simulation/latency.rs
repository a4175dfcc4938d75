//! How long requests take when nothing is wrong.

use std::time::Duration;

use scaledapp_select::Algorithm;

use crate::model::{Job, POD, PodSpec, Seen, Setup, simulate};
use crate::workloads::{blocking, event_loop};

/// 4 pods with 4 workers each, behind 3 balancers that do not know of each other.
pub(crate) fn setup(algorithm: Algorithm, per_worker: Option<u32>) -> Setup {
    Setup {
        pods: vec![POD; 4],
        balancers: vec![None; 3],
        algorithm,
        per_worker,
        slow_start: Duration::from_secs(10),
    }
}

/// The balancers send to single workers, without a dispatcher in the pods.
fn to_workers(algorithm: Algorithm) -> Setup {
    let worker = PodSpec { workers: 1, ..POD };
    Setup {
        pods: vec![worker; 16],
        ..setup(algorithm, None)
    }
}

/// The best possible: one queue for all workers, or one balancer that sees everything.
fn ideal(per_worker: Option<u32>) -> Setup {
    let all = PodSpec { workers: 16, ..POD };
    Setup {
        pods: vec![all],
        balancers: vec![None],
        ..setup(Algorithm::LeastOfAll, per_worker)
    }
}

const SEED: u64 = 1;

struct Row {
    name: &'static str,
    p50: f64,
    p99: f64,
    max: f64,
}

fn row(name: &'static str, seen: &Seen) -> Row {
    Row {
        name,
        p50: seen.percentile(50.0),
        p99: seen.percentile(99.0),
        max: seen.percentile(100.0),
    }
}

/// The ideal first, then ours, then the simpler ones.
fn compare(title: &str, jobs: &[Job], per_worker: Option<u32>) -> [Row; 7] {
    let rows = [
        ("ideal", ideal(per_worker)),
        (
            "less busy of two pods",
            setup(Algorithm::LeastOfTwo, per_worker),
        ),
        ("pods in turn", setup(Algorithm::RoundRobin, per_worker)),
        ("random pods", setup(Algorithm::Random, per_worker)),
        (
            "less busy of two workers",
            to_workers(Algorithm::LeastOfTwo),
        ),
        ("workers in turn", to_workers(Algorithm::RoundRobin)),
        ("random workers", to_workers(Algorithm::Random)),
    ]
    .map(|(name, setup)| row(name, &simulate(&setup, jobs)));
    println!("{title}: {} requests", jobs.len());
    for Row {
        name,
        p50,
        p99,
        max,
    } in &rows
    {
        println!("  {name:26} p50 {p50:7.1}  p99 {p99:7.1}  max {max:8.1} ms");
    }
    rows
}

/// Blocking workers at 80 %. One queue per pod, and the less busy of two pods, are nearly as
/// good as one queue for all.
#[test]
fn blocking_work_waits_hardly_longer_than_in_one_queue_for_all() {
    let rows = compare("A-80", &blocking(12_000, 16, 0.8, SEED), Some(1));
    let [ideal, ours, turns, random, _, worker_turns, _] = &rows;
    assert!(ours.p99 <= ideal.p99 * 1.05, "{} {}", ours.p99, ideal.p99);
    assert!(ours.p50 <= ideal.p50 * 1.3, "{} {}", ours.p50, ideal.p50);
    assert!(ours.p99 < turns.p99 && ours.p99 < random.p99);
    assert!(worker_turns.p99 > ours.p99 * 3.0, "{}", worker_turns.p99);
}

/// Event loops at 85 % of the CPU.
#[test]
fn event_loops_answer_hardly_later_than_with_a_view_of_everything() {
    let rows = compare("B-85", &event_loop(12_000, 16, 0.85, SEED), None);
    let [ideal, ours, ..] = &rows;
    assert!(ours.p99 <= ideal.p99 * 1.05, "{} {}", ours.p99, ideal.p99);
    assert!(ours.p50 <= ideal.p50 * 1.05, "{} {}", ours.p50, ideal.p50);
    for worse in &rows[3..] {
        assert!(worse.p99 > ours.p99, "{}: {}", worse.name, worse.p99);
    }
}

/// The table of docs/selection.md.
#[test]
#[ignore = "takes a minute; prints a table"]
fn table() {
    compare("A-60", &blocking(100_000, 16, 0.6, SEED), Some(1));
    compare("A-80", &blocking(100_000, 16, 0.8, SEED), Some(1));
    compare("B-85", &event_loop(100_000, 16, 0.85, SEED), None);
}
