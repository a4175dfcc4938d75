//! The traces: how load and pods change over time. Rates are in requests per second.

use std::f64::consts::TAU;

/// Places for requests in one worker.
pub const CONCURRENCY: u32 = 2;
/// Workers in one pod.
pub const WORKERS: u32 = 2;
/// Requests that one pod serves at once.
pub const PLACES: u32 = CONCURRENCY * WORKERS;
/// The most pods that any rule may ask for.
pub const MAX_PODS: u32 = 60;

/// How long requests take at a worker.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Service {
    /// Exponential with this mean, in seconds.
    Exponential(f64),
    /// Exponential: most requests with the mean `quick`, the share `slow` of them with the mean
    /// `long`.
    Mixed {
        /// The mean of most requests, in seconds.
        quick: f64,
        /// The mean of the others.
        long: f64,
        /// The share of the others.
        slow: f64,
    },
}

impl Service {
    /// Draws one time, in seconds.
    pub fn draw(self, random: &mut fastrand::Rng) -> f64 {
        let exponential =
            |mean: f64, random: &mut fastrand::Rng| -mean * (1.0 - random.f64()).max(1e-12).ln();
        match self {
            Self::Exponential(mean) => exponential(mean, random),
            Self::Mixed { quick, long, slow } => {
                let is_slow = random.f64() < slow;
                exponential(if is_slow { long } else { quick }, random)
            }
        }
    }

    /// The mean, in seconds.
    pub fn mean(self) -> f64 {
        match self {
            Self::Exponential(mean) => mean,
            Self::Mixed { quick, long, slow } => quick * (1.0 - slow) + long * slow,
        }
    }
}

/// What breaks during a trace.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Fault {
    /// Nothing.
    None,
    /// At this second a third of the pods vanishes; Kubernetes replaces them two minutes later.
    NodeGone(u64),
    /// Each pod becomes slower: after so many seconds, its requests take twice the time.
    Leak(f64),
}

/// One trace.
#[derive(Debug, Clone, Copy)]
pub struct Trace {
    /// The name, for files and tables.
    pub name: &'static str,
    /// One sentence for people.
    pub what: &'static str,
    /// How long it lasts, in seconds.
    pub seconds: u64,
    /// How long a pod takes from being asked for until it serves, in seconds.
    pub boot: f64,
    /// The smallest number of pods. Rules that cannot scale to zero keep one.
    pub min_pods: u32,
    /// Requests per second at a second.
    pub rate: fn(f64) -> f64,
    /// Clients at a second that send the next request when the last one is answered, beside the
    /// requests of `rate`.
    pub clients: fn(f64) -> f64,
    /// How long requests take.
    pub service: Service,
    /// What breaks.
    pub fault: Fault,
    /// Why a goal may be missed here, for the page.
    pub note: &'static str,
}

const USUAL: Trace = Trace {
    name: "",
    what: "",
    seconds: 600,
    boot: 5.0,
    min_pods: 1,
    rate: |_| 0.0,
    clients: |_| 0.0,
    service: Service::Exponential(0.2),
    fault: Fault::None,
    note: "",
};

fn step(at: f64, low: f64, high: f64) -> f64 {
    if (120.0..420.0).contains(&at) {
        high
    } else {
        low
    }
}

fn wave(at: f64, period: f64) -> f64 {
    50.0 + 30.0 * (at / period * TAU).sin()
}

fn square(at: f64, period: f64) -> f64 {
    if at % period < period / 2.0 {
        20.0
    } else {
        80.0
    }
}

fn ramp(at: f64) -> f64 {
    10.0 + 90.0 * ((at - 60.0) / 240.0).clamp(0.0, 1.0) * ((900.0 - at) / 240.0).clamp(0.0, 1.0)
}

fn day(at: f64) -> f64 {
    // A quiet night, a peak at noon and one in the evening.
    let hour = at / 1800.0 * 24.0;
    let bump = |center: f64, width: f64| (-((hour - center) / width).powi(2)).exp();
    8.0 + 70.0 * bump(12.0, 3.0) + 50.0 * bump(19.0, 2.0)
}

/// All traces.
pub const TRACES: [Trace; 15] = [
    Trace {
        name: "step",
        what: "Five times the load for five minutes, from one second to the next.",
        rate: |at| step(at, 20.0, 100.0),
        note: "The difference is chance: with other seeds it is the other way round.",
        ..USUAL
    },
    Trace {
        name: "ramp",
        what: "Ten times the load within four minutes, and down again.",
        seconds: 900,
        rate: ramp,
        note: "After the ramp, pods are kept for `scaleDown.window`, two minutes; Knative's mean of 60 s gives them up after half a minute. With a window of 30 s the same rules cost less than Knative.",
        ..USUAL
    },
    Trace {
        name: "flash-from-zero",
        what: "No pod at all, then 80 requests per second for three minutes.",
        min_pods: 0,
        rate: |at| {
            if (120.0..300.0).contains(&at) {
                80.0
            } else {
                0.0
            }
        },
        note: "Pods are asked for after the first second of arrivals, and only as many as chance cannot explain.",
        ..USUAL
    },
    Trace {
        name: "day",
        what: "A day within half an hour: a quiet night, a peak at noon, one in the evening.",
        seconds: 1800,
        rate: day,
        note: "As for the ramp: two minutes are long in a day of half an hour, and short in a real day.",
        ..USUAL
    },
    Trace {
        name: "wave-30s",
        what: "Load that swings between 20 and 80 with a period of 30 s.",
        rate: |at| wave(at, 30.0),
        note: "HPA sees the mean of 30 s, so it has no pods for the crests of a wave of 30 s, and requests wait at each of them.",
        ..USUAL
    },
    Trace {
        name: "wave-120s",
        what: "Load that swings between 20 and 80 with a period as long as the scale-down window.",
        seconds: 900,
        rate: |at| wave(at, 120.0),
        note: "Capacity is kept for the crest of the wave, and HPA follows its mean.",
        ..USUAL
    },
    Trace {
        name: "square-290s",
        what: "Load that jumps between 20 and 80, with pauses a little longer than the scale-down window.",
        seconds: 1800,
        rate: |at| square(at, 290.0),
        note: "The window grows until it covers the pause, so capacity stays for the next jump.",
        ..USUAL
    },
    Trace {
        name: "steady",
        what: "The same load for a quarter of an hour, as random as clients are.",
        seconds: 900,
        rate: |_| 50.0,
        note: "Random peaks do not always fit into the smallest number of pods.",
        ..USUAL
    },
    Trace {
        name: "slow-boot-step",
        what: "Three times the load, where a pod takes 60 s to start.",
        boot: 60.0,
        rate: |at| step(at, 20.0, 60.0),
        note: "In the minute until the first new pod is ready, every rule has only the pods from before the jump, so the requests of that minute are late under every rule. The jump can look like growth for a moment, and then too many pods are asked for: the seeds 11, 12 and 13 have 6792 pod-seconds on average, and HPA 4140.",
        ..USUAL
    },
    Trace {
        name: "slow-boot-ramp",
        what: "Ten times the load within four minutes, where a pod takes 60 s to start.",
        seconds: 900,
        boot: 60.0,
        rate: ramp,
        note: "The one pod of the beginning is full half a minute after the ramp has begun, and a pod takes a minute, so growth cannot be seen early enough. Knative's short window sees chance peaks of this small load as panic, so that it has more pods already when the ramp begins.",
        ..USUAL
    },
    Trace {
        name: "leak",
        what: "Steady load, but each pod becomes slower: after ten minutes, a request takes twice the time.",
        seconds: 900,
        rate: |_| 50.0,
        fault: Fault::Leak(600.0),
        note: "More pods are asked for a little before the slower pods make them necessary.",
        ..USUAL
    },
    Trace {
        name: "node-gone",
        what: "Steady load, and a node with a third of the pods vanishes.",
        rate: |_| 60.0,
        fault: Fault::NodeGone(240),
        note: "Lost pods are replaced after five seconds, and Kubernetes replaces them once more two minutes later; both replacements run for one scale-down window.",
        ..USUAL
    },
    Trace {
        name: "heavy-tail",
        what: "Three times the load, where one request of twenty takes two seconds and the others 0.1 s.",
        rate: |at| step(at, 20.0, 60.0),
        service: Service::Mixed {
            quick: 0.1,
            long: 2.0,
            slow: 0.05,
        },
        ..USUAL
    },
    Trace {
        name: "waiting-clients",
        what: "Eight clients, then a hundred for five minutes, each of which sends a request when the last one is answered.",
        clients: |at| step(at, 8.0, 100.0),
        note: "After the step, pods are kept for `scaleDown.window`, as for the ramp.",
        ..USUAL
    },
    Trace {
        name: "waiting-clients-slow-boot",
        what: "The same, where a pod takes 30 s to start.",
        boot: 30.0,
        clients: |at| step(at, 8.0, 100.0),
        note: "As before; and in the half minute until the first new pod is ready, no rule can have more than the pods before it.",
        ..USUAL
    },
];
