//! What is observed of an app before each decision.
//!
//! Nothing in a report is trusted: a pod runs a user's code, and may send any number. Every number
//! is brought within bounds here before anything is computed from it.

use std::time::Duration;

use jiff::Timestamp;

use crate::settings::MAX_CORES;

/// The most requests that one report may name.
const MAX_REQUESTS: u32 = 1_000_000;
/// The most workers that one report may name.
const MAX_WORKERS: u32 = 4096;
/// The longest time that a pod may say it took to start.
const MAX_BOOT: Duration = Duration::from_mins(15);

/// The time of an observation, on both clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    /// Time since any fixed point, on a clock that never goes back; all durations are
    /// measured on it.
    pub elapsed: Duration,
    /// The time of day, for schedules and for what people read.
    pub wall: Timestamp,
}

/// Everything that is known of an app at one moment.
#[derive(Debug, Clone, Default)]
pub struct Observation {
    /// The balancers that exist, each once.
    pub balancers: Vec<Balancer>,
    /// The pods that exist, each once, in any state.
    pub pods: Vec<Pod>,
    /// The number of pods that exist although more are wanted, if the API server refuses to
    /// create more (a quota, an admission webhook). `None`: it has refused nothing.
    pub refused_above: Option<u32>,
}

/// A balancer, and its report if one has come since the last observation.
#[derive(Debug, Clone, Default)]
pub struct Balancer {
    /// Its name, which is unique in the app.
    pub name: String,
    /// `None`: no report has come. That is not the same as a report of zero.
    pub report: Option<BalancerReport>,
}

/// What a balancer reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct BalancerReport {
    /// Requests that it has sent to a pod and that are not yet answered.
    pub in_flight: u32,
    /// Requests that wait in the balancer for a pod.
    pub queued: u32,
    /// Connections that need a pod to live on: those of TCP, and those that were upgraded. An
    /// idle HTTP connection is not one, because the balancer keeps it without a pod.
    pub connected: u32,
    /// Requests that have arrived since its last report.
    pub arrivals: u64,
}

/// What Kubernetes says of a pod. Only `Ready` is capacity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PodState {
    /// It is ready.
    Ready,
    /// It has never been ready; it is expected to be.
    Starting,
    /// It was ready and is no longer.
    NotReady,
    /// The scheduler finds no node for it.
    Unschedulable,
    /// Its workers end as soon as they start.
    CrashLooping,
    /// It is about to end. It does not count as one of the app's pods.
    Leaving,
}

/// What has become of the last resize in place of a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Resize {
    /// Nothing is pending.
    #[default]
    Settled,
    /// The node has no room now; the kubelet tries again.
    Deferred,
    /// The node can never have this much.
    Infeasible,
}

/// A pod, and its report if one has come since the last observation.
#[derive(Debug, Clone)]
pub struct Pod {
    /// Its name, which is unique in the app.
    pub name: String,
    /// What Kubernetes says of it.
    pub state: PodState,
    /// How long ago it was created.
    pub age: Duration,
    /// The result of the last resize.
    pub resize: Resize,
    /// The CPU limit of its workers as the kubelet has granted it, in cores; `None`: unlimited
    /// or unknown.
    pub cpu_limit: Option<f64>,
    /// `None`: no report has come. That is not the same as a report of zero.
    pub report: Option<PodReport>,
}

/// What a pod reports.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct PodReport {
    /// Ready workers.
    pub workers: u32,
    /// Workers with at least one request.
    pub busy: u32,
    /// Requests at workers.
    pub in_flight: u32,
    /// Requests that wait in the pod for a worker.
    pub queued: u32,
    /// CPU that its workers use, in cores.
    pub cpu_used: f64,
    /// Good answers since its last report.
    pub answers: u64,
    /// The sum of the times that workers took for these answers.
    pub answer_time: Duration,
    /// Failed requests and errors since its last report.
    pub failures: u64,
    /// How long it took from its creation until it was ready.
    pub boot: Option<Duration>,
}

impl BalancerReport {
    /// The same report with every number within its bounds.
    pub(crate) fn bounded(mut self) -> Self {
        for number in [&mut self.in_flight, &mut self.queued, &mut self.connected] {
            *number = (*number).min(MAX_REQUESTS);
        }
        self.arrivals = self.arrivals.min(u64::from(MAX_REQUESTS) * 1000);
        self
    }
}

impl PodReport {
    /// The same report with every number within its bounds.
    pub(crate) fn bounded(mut self) -> Self {
        self.workers = self.workers.min(MAX_WORKERS);
        self.busy = self.busy.min(self.workers);
        for number in [&mut self.in_flight, &mut self.queued] {
            *number = (*number).min(MAX_REQUESTS);
        }
        self.cpu_used = cores(self.cpu_used).unwrap_or(0.0);
        for number in [&mut self.answers, &mut self.failures] {
            *number = (*number).min(u64::from(MAX_REQUESTS) * 1000);
        }
        self.answer_time = self.answer_time.min(Duration::from_secs(1_000_000_000));
        self.boot = self.boot.map(|boot| boot.min(MAX_BOOT));
        self
    }
}

/// A number of cores within its bounds; `None` if it is not a number or negative.
pub(crate) fn cores(cores: f64) -> Option<f64> {
    (cores.is_finite() && cores >= 0.0).then(|| cores.min(MAX_CORES))
}
