//! Pods that fail or are slow.

use scaledapp_select::Algorithm;

use crate::latency::setup;
use crate::model::{POD, PodSpec, Setup, simulate};
use crate::workloads::{blocking, event_loop};

/// A pod that fails in a millisecond is always the least busy one, so it attracts requests
/// (reported of nginx, Linkerd and Envoy). It is ejected, and then gets one request at a time.
#[test]
fn a_pod_that_fails_fast_attracts_no_requests() {
    let fails = PodSpec { fails: true, ..POD };
    let jobs = blocking(12_000, 16, 0.5, 7);
    let broken = Setup {
        pods: [vec![POD; 3], vec![fails]].concat(),
        ..setup(Algorithm::LeastOfTwo, Some(1))
    };
    let seen = simulate(&broken, &jobs);
    let seconds = jobs.last().map_or(0, |job| job.arrives / 1_000_000);
    println!(
        "{} errors of {} requests in {seconds} s",
        seen.errors,
        jobs.len()
    );
    // Five for each balancer, and then one after each ejection.
    assert!((15..60).contains(&seen.errors), "{}", seen.errors);
}

/// If all fail alike, ejecting helps nobody.
#[test]
fn pods_that_all_fail_share_their_requests() {
    let fails = PodSpec { fails: true, ..POD };
    let jobs = blocking(8_000, 16, 0.5, 7);
    let broken = Setup {
        pods: vec![fails; 4],
        ..setup(Algorithm::LeastOfTwo, Some(1))
    };
    let seen = simulate(&broken, &jobs);
    for pod in 0..4 {
        let its = seen.pods.iter().filter(|one| **one == pod).count();
        assert!((1_600..2_400).contains(&its), "pod {pod}: {its}");
    }
}

/// One pod is three times as slow. Algorithms that do not look at load fill its queue without
/// end; ours sends it about as much as it can do.
#[test]
fn a_slow_pod_gets_less() {
    let slow = PodSpec {
        slowness: 300,
        ..POD
    };
    let pods = [vec![POD; 3], vec![slow]].concat();
    for (jobs, per_worker) in [
        (blocking(6_000, 16, 0.6, 8), Some(1)),
        (event_loop(12_000, 16, 0.6, 8), None),
    ] {
        let p99 = |algorithm| {
            let setup = Setup {
                pods: pods.clone(),
                ..setup(algorithm, per_worker)
            };
            simulate(&setup, &jobs).percentile(99.0)
        };
        let (ours, turns) = (p99(Algorithm::LeastOfTwo), p99(Algorithm::RoundRobin));
        println!("a slow pod: p99 {ours:.0} ms, in turn {turns:.0} ms");
        assert!(ours * 4.0 < turns, "{ours} {turns}");
    }
}
