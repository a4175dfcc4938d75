//! Requests: when they arrive, and what they cost.

use crate::model::Job;

/// A sample of an exponential distribution, in microseconds.
fn exponential(random: &mut fastrand::Rng, mean: f64) -> u64 {
    (-mean * (1.0 - random.f64()).ln()) as u64
}

fn arriving(
    count: usize,
    per_second: f64,
    seed: u64,
    cost: impl Fn(&mut fastrand::Rng) -> ([u64; 2], u64),
) -> Vec<Job> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut arrives = 0;
    (0..count)
        .map(|_| {
            arrives += exponential(&mut random, 1e6 / per_second);
            let (work, waits) = cost(&mut random);
            Job {
                arrives,
                work,
                waits,
            }
        })
        .collect()
}

/// Workers do one thing at a time: 95 % of the requests take 10 ms, and 5 % take 100 ms, on
/// average. `use_of` is the share of the workers' time that is used.
pub(crate) fn blocking(count: usize, workers: usize, use_of: f64, seed: u64) -> Vec<Job> {
    let mean = 0.95 * 0.010 + 0.05 * 0.100;
    arriving(count, workers as f64 * use_of / mean, seed, |random| {
        let mean = if random.f64() < 0.05 { 100e3 } else { 10e3 };
        ([exponential(random, mean), 0], 0)
    })
}

/// Workers are event loops: 2 ms of work, 20 ms of waiting, and 2 ms of work, on average.
pub(crate) fn event_loop(count: usize, workers: usize, use_of: f64, seed: u64) -> Vec<Job> {
    arriving(count, workers as f64 * use_of / 0.004, seed, |random| {
        let work = [exponential(random, 2e3), exponential(random, 2e3)];
        (work, exponential(random, 20e3).max(1))
    })
}
