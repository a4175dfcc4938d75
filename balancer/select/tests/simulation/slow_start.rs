//! New pods.

use std::time::Duration;

use scaledapp_select::Algorithm;

use crate::latency::setup;
use crate::model::{Job, POD, PodSpec, Seen, Setup, simulate};
use crate::workloads::{blocking, event_loop};

const SECOND: u64 = 1_000_000;
/// When the new pods begin, in seconds.
const START: u64 = 2;
const NEW: PodSpec = PodSpec {
    starts: START * SECOND,
    warms_up: 5 * SECOND,
    ..POD
};

fn with(pods: Vec<PodSpec>, window: u64, per_worker: Option<u32>) -> Setup {
    Setup {
        pods,
        slow_start: Duration::from_secs(window),
        ..setup(Algorithm::LeastOfTwo, per_worker)
    }
}

/// The requests of `pod` that arrived in these seconds, in percent.
fn share(seen: &Seen, jobs: &[Job], pod: usize, seconds: std::ops::Range<u64>) -> f64 {
    let range = seconds.start * SECOND..seconds.end * SECOND;
    let all = jobs.iter().zip(&seen.pods);
    let then: Vec<usize> = all
        .filter(|(job, _)| range.contains(&job.arrives))
        .map(|(_, pod)| *pod)
        .collect();
    let its = then.iter().filter(|one| **one == pod).count();
    its as f64 * 100.0 / then.len() as f64
}

/// The 99th percentile in milliseconds of the requests that arrived in these seconds.
fn p99(seen: &Seen, jobs: &[Job], seconds: std::ops::Range<u64>) -> f64 {
    let range = seconds.start * SECOND..seconds.end * SECOND;
    let all = jobs.iter().zip(&seen.latencies);
    let then = all.filter(|(job, _)| range.contains(&job.arrives));
    let latencies = then.map(|(_, latency)| *latency).collect();
    let then = Seen {
        latencies,
        ..Seen::default()
    };
    then.percentile(99.0)
}

#[test]
fn a_new_pod_among_old_ones_gets_a_share_that_grows() {
    let pods = [vec![POD; 4], vec![NEW]].concat();
    for (name, jobs, per_worker) in [
        ("blocking at 50 %", blocking(9_000, 20, 0.5, 3), Some(1)),
        ("event loop at 60 %", event_loop(38_000, 20, 0.6, 3), None),
    ] {
        let slow = simulate(&with(pods.clone(), 10, per_worker), &jobs);
        let at_once = simulate(&with(pods.clone(), 0, per_worker), &jobs);
        let shares = |seen| [2..4, 6..8, 10..12].map(|time| share(seen, &jobs, 4, time));
        let (with, without) = (shares(&slow), shares(&at_once));
        println!(
            "{name}: a new pod's share in percent: {with:.1?}, without slow start {without:.1?}"
        );
        assert!(
            with[0] > 0.5 && with[0] < without[0] * 0.7,
            "{name} {with:?}"
        );
        assert!(with[0] < with[1] && with[1] < with[2], "{name} {with:?}");
        let tails = [&slow, &at_once].map(|seen| p99(seen, &jobs, 2..7));
        println!(
            "{name}: p99 in the first 5 s: {:.1} ms, without {:.1} ms",
            tails[0], tails[1]
        );
        assert!(tails[0] <= tails[1] * 1.02, "{name} {tails:?}");
    }
}

/// One old pod is left when nine new ones begin. It could not do the work of ten.
#[test]
fn one_old_pod_among_many_new_ones_does_not_drown() {
    let pods = [vec![POD], vec![NEW; 9]].concat();
    // Before the new pods begin there is little work; then there is much for one pod.
    let late = |jobs: Vec<Job>| -> Vec<Job> {
        let move_on = |job: Job| Job {
            arrives: job.arrives + START * SECOND,
            ..job
        };
        jobs.into_iter().map(move_on).collect()
    };
    for (name, jobs, per_worker) in [
        ("blocking", late(blocking(5_000, 40, 0.35, 4)), Some(1)),
        ("event loop", late(event_loop(17_000, 40, 0.35, 4)), None),
    ] {
        let slow = simulate(&with(pods.clone(), 10, per_worker), &jobs);
        let at_once = simulate(&with(pods.clone(), 0, per_worker), &jobs);
        let old = share(&slow, &jobs, 0, 2..7);
        let tails = [&slow, &at_once].map(|seen| p99(seen, &jobs, 2..7));
        println!(
            "{name}: the old pod gets {old:.1} %; p99 {tails:.1?} ms with and without slow start"
        );
        assert!((10.0..21.0).contains(&old), "{name}: {old}");
        assert!(tails[0] < tails[1] * 1.1, "{name}: {tails:?}");
    }
}

#[test]
fn a_fleet_that_is_all_new_shares_its_work_evenly() {
    let pods = vec![NEW; 4];
    let jobs: Vec<Job> = blocking(4_000, 16, 0.2, 5)
        .into_iter()
        .map(|job| Job {
            arrives: job.arrives + START * SECOND,
            ..job
        })
        .collect();
    let seen = simulate(&with(pods, 10, Some(1)), &jobs);
    for pod in 0..4 {
        let share = share(&seen, &jobs, pod, 2..20);
        assert!((21.0..29.0).contains(&share), "{pod}: {share}");
    }
}
