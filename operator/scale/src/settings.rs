//! What a user asks of the autoscaler: the fields of `spec.autoscaling`, checked and as numbers.
//!
//! How these settings are used is decided in the other files.

use std::time::Duration;

use crate::schedule::Schedule;

/// The most pods and the most workers in a pod that any setting may ask for.
pub(crate) const MAX_COUNT: u32 = 10_000;
/// The most CPU cores that any setting or report may name.
pub(crate) const MAX_CORES: f64 = 4096.0;

/// From how many to how many, both included. The largest is never below the smallest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    min: u32,
    max: u32,
}

impl Range {
    /// A range. A `max` below `min` is raised to `min`; neither exceeds 10 000.
    pub fn new(min: u32, max: u32) -> Self {
        let min = min.min(MAX_COUNT);
        Self {
            min,
            max: max.clamp(min, MAX_COUNT),
        }
    }

    /// The smallest number.
    pub const fn min(self) -> u32 {
        self.min
    }

    /// The largest number.
    pub const fn max(self) -> u32 {
        self.max
    }

    pub(crate) fn clamp(self, number: u32) -> u32 {
        number.clamp(self.min, self.max)
    }
}

/// How much CPU a pod may have, in cores, if it may grow in place.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CpuRange {
    start: f64,
    max: f64,
}

impl CpuRange {
    /// `start` is what the pod template asks for, `max` is `autoscaling.cpu.max`. What is not a
    /// number counts as one core; `max` is raised to `start`.
    pub fn new(start: f64, max: f64) -> Self {
        let core = |cores: f64| {
            if cores.is_finite() {
                cores.clamp(0.01, MAX_CORES)
            } else {
                1.0
            }
        };
        let start = core(start);
        Self {
            start,
            max: core(max).max(start),
        }
    }

    /// The CPU of a new pod.
    pub const fn start(self) -> f64 {
        self.start
    }

    /// The most that a pod may grow to.
    pub const fn max(self) -> f64 {
        self.max
    }
}

/// The settings of one app's autoscaler.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// How many pods. With a minimum of 0, an app without requests has none.
    pub pods: Range,
    /// How many workers in each pod; at least 1.
    pub workers: Range,
    /// The part of the capacity that is wanted in use, in percent; 10 to 95.
    pub utilization: u8,
    /// How many requests one worker serves well at the same time. `None`: it is learnt.
    pub concurrency: Option<u32>,
    /// How far a pod may grow in place. `None`: pods are never resized.
    pub cpu: Option<CpuRange>,
    /// How long nothing must have happened before the last pod is removed.
    pub zero_after: Duration,
    /// How long a smaller number must have been enough before it is taken.
    pub down_window: Duration,
    /// When there must be more pods than `pods.min`, whatever the load is.
    pub schedules: Vec<Schedule>,
}

impl Default for Settings {
    /// One pod that may become ten, one worker in each, and the defaults of the fields.
    fn default() -> Self {
        Self {
            pods: Range::new(1, 10),
            workers: Range::new(1, 1),
            utilization: 70,
            concurrency: None,
            cpu: None,
            zero_after: Duration::from_mins(10),
            down_window: Duration::from_mins(2),
            schedules: Vec::new(),
        }
    }
}

impl Settings {
    /// The same settings with every number within its bounds, so that no setting can make a
    /// decision impossible.
    pub(crate) fn bounded(mut self) -> Self {
        self.workers = Range::new(self.workers.min.max(1), self.workers.max);
        self.pods = Range::new(self.pods.min, self.pods.max.max(1));
        self.utilization = self.utilization.clamp(10, 95);
        self.concurrency = self
            .concurrency
            .map(|requests| requests.clamp(1, MAX_COUNT));
        let (second, day) = (Duration::from_secs(1), Duration::from_hours(24));
        self.zero_after = self.zero_after.clamp(second, day);
        self.down_window = self.down_window.clamp(second, day);
        self
    }

    /// The wanted use of capacity over a long time, as a fraction.
    pub(crate) fn usual(&self) -> f64 {
        f64::from(self.utilization) / 100.0
    }

    /// The highest use of capacity for a short time, as a fraction: a peak may take most of what is
    /// usually spare, and the rest is for chance.
    pub(crate) fn at_peak(&self) -> f64 {
        0.95f64.min(self.usual() + 0.25)
    }
}
