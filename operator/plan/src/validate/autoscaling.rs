//! Checks `spec.autoscaling`, and what it means together with other fields.

use std::time::Duration;

use scaledapp_crds::v1alpha1::{self, Dispatch, PodRange, Spec};
use scaledapp_scale::{CpuRange, Range, Schedule, Settings, schedule};

use super::check::{Check, DAY, MAX_PODS, MAX_WORKERS, SECOND};
use crate::Autoscaling;

/// `pods.max` if the user names none.
const DEFAULT_MAX_PODS: i32 = 10;
const MAX_CONCURRENCY: i32 = 10_000;
const MAX_SCHEDULES: usize = 16;
/// The most cores of a pod; a higher number counts as a typing error.
const MAX_CORES: f64 = 4096.0;
const CORES: &str = "cpu";

impl Check {
    /// The settings of the autoscaler; `None` if the app has none.
    pub(super) fn autoscaling(&mut self, spec: &Spec, dispatch: Dispatch) -> Option<Autoscaling> {
        let block = spec.autoscaling.as_ref()?;
        self.no_other_numbers(spec);
        let pods = self.pod_range(block.pods.as_ref());
        let start = cores_of(spec);
        let cpu = self.cpu_range(block, start);
        let most = cpu.map(CpuRange::max).or(start).unwrap_or(1.0);
        let workers = self.worker_range(block.workers.as_ref(), whole_cores(most), dispatch);
        let defaults = Settings::default();
        let time = |check: &mut Self, path, given: Option<scaledapp_crds::Duration>, default| {
            let time = given.map_or(default, |time| time.0);
            if time < SECOND || time > DAY {
                check.violation(path, "is out of range: give 1s to 24h");
            }
            time
        };
        let path = "spec.autoscaling.zeroAfter";
        let zero_after = time(self, path, block.zero_after, defaults.zero_after);
        let window = block.scale_down.as_ref().and_then(|down| down.window);
        let path = "spec.autoscaling.scaleDown.window";
        let down_window = time(self, path, window, defaults.down_window);
        Some(Autoscaling {
            settings: Settings {
                pods,
                workers,
                utilization: self.utilization(block.utilization, defaults.utilization),
                concurrency: self.concurrency(block.concurrency),
                cpu,
                zero_after,
                down_window,
                schedules: self.schedules(&block.schedules, pods.max()),
            },
        })
    }

    /// Refuses the other fields that name a number of pods or workers.
    fn no_other_numbers(&mut self, spec: &Spec) {
        if spec.replicas.is_some() {
            self.violation(
                "spec.replicas",
                "is not for an app with autoscaling, which decides how many pods there are: leave replicas out. `kubectl scale` writes replicas.total; set autoscaling.pods.min instead",
            );
        }
        let workers = spec.workers.as_ref();
        if workers.is_some_and(|workers| workers.per_core.is_some() || workers.count.is_some()) {
            self.violation(
                "spec.workers",
                "perCore and count are not for an app with autoscaling, which decides how many workers a pod has: leave them out. For a fixed number, write the same min and max in autoscaling.workers",
            );
        }
    }

    fn pod_range(&mut self, range: Option<&PodRange>) -> Range {
        let at = "spec.autoscaling.pods";
        let (min, max) = range.map_or((None, None), |range| (range.min, range.max));
        if min.is_some_and(|min| !(0..=MAX_PODS).contains(&min)) {
            let message = format!("is out of range: give 0 to {MAX_PODS}");
            self.violation(format!("{at}.min"), message);
        }
        let zero = "pods serve nothing";
        if let Some(max) = max {
            self.count(&format!("{at}.max"), max, MAX_PODS, zero);
        }
        let least = min.unwrap_or(1);
        let most = max.unwrap_or(DEFAULT_MAX_PODS.max(least));
        self.ordered(at, least, most);
        range_of(least, most)
    }

    /// The range of workers. Under Connection dispatch nobody sees when one more worker is needed,
    /// so there it is one number, by default all cores.
    fn worker_range(
        &mut self,
        range: Option<&v1alpha1::WorkerRange>,
        cores: i32,
        dispatch: Dispatch,
    ) -> Range {
        let at = "spec.autoscaling.workers";
        let (min, max) = range.map_or((None, None), |range| (range.min, range.max));
        let zero = "workers serve nothing";
        for (name, count) in [("min", min), ("max", max)] {
            if let Some(count) = count {
                self.count(&format!("{at}.{name}"), count, MAX_WORKERS, zero);
            }
        }
        let (least, most) = if dispatch == Dispatch::Connection {
            let one = max.or(min).unwrap_or(cores);
            if min.unwrap_or(one) < one {
                self.violation(
                    at,
                    "a range needs dispatch Request: with Connection, workers accept connections themselves, so nobody sees when one more is needed; write the same min and max",
                );
            }
            (min.unwrap_or(one), one)
        } else {
            let least = min.unwrap_or(1);
            (least, max.unwrap_or(cores.max(least)))
        };
        self.ordered(at, least, most);
        range_of(least, most)
    }

    fn ordered(&mut self, path: &str, min: i32, max: i32) {
        if min > max {
            self.violation(path, "min is more than max: raise max or lower min");
        }
    }

    /// How far pods may grow, from `start`, the CPU of a new pod in cores.
    fn cpu_range(&mut self, block: &v1alpha1::Autoscaling, start: Option<f64>) -> Option<CpuRange> {
        let most = &block.cpu.as_ref()?.max;
        let at = "spec.autoscaling.cpu";
        let Some(start) = start else {
            self.violation(
                at,
                "needs the CPU that a pod starts with: give spec.resources.limits.cpu or spec.resources.requests.cpu, or leave cpu out",
            );
            return None;
        };
        let max = most.thousandths().map(cores);
        let Some(max) = max.filter(|max| *max <= MAX_CORES) else {
            let message = format!("{most} is more than any node has: give cores, such as 2");
            self.violation(format!("{at}.max"), message);
            return None;
        };
        if max < start {
            self.violation(
                format!("{at}.max"),
                format!(
                    "{most} is less than the {start} cores in spec.resources that a pod starts with: raise it, or lower spec.resources"
                ),
            );
        }
        Some(CpuRange::new(start, max))
    }

    fn utilization(&mut self, percent: Option<i32>, default: u8) -> u8 {
        let Some(percent) = percent else {
            return default;
        };
        let in_range = u8::try_from(percent).ok();
        in_range
            .filter(|percent| (10..=95).contains(percent))
            .unwrap_or_else(|| {
                self.violation(
                    "spec.autoscaling.utilization",
                    "is out of range: give 10 to 95 percent, such as 70; the rest is spare for load that comes suddenly",
                );
                default
            })
    }

    fn concurrency(&mut self, requests: Option<i32>) -> Option<u32> {
        let requests = requests?;
        if !(1..=MAX_CONCURRENCY).contains(&requests) {
            self.violation(
                "spec.autoscaling.concurrency",
                format!(
                    "is out of range: give 1 to {MAX_CONCURRENCY} requests, or leave it out, and it is learnt"
                ),
            );
        }
        u32::try_from(requests).ok()
    }

    fn schedules(&mut self, written: &[v1alpha1::Schedule], max_pods: u32) -> Vec<Schedule> {
        let at = "spec.autoscaling.schedules";
        if written.len() > MAX_SCHEDULES {
            let message = format!("are too many: give at most {MAX_SCHEDULES}");
            self.violation(at, message);
        }
        let mut schedules = Vec::new();
        for (index, written) in written.iter().enumerate() {
            let min_pods = u32::try_from(written.min_pods).ok();
            let min_pods = min_pods.filter(|_| written.min_pods <= MAX_PODS);
            if min_pods.is_none() {
                let message = format!("is out of range: give 0 to {MAX_PODS}");
                self.violation(format!("{at}[{index}].minPods"), message);
            } else if min_pods.is_some_and(|min_pods| min_pods > max_pods) {
                self.violation(
                    at,
                    "has a minPods above autoscaling.pods.max (10 by default): raise pods.max, or lower minPods",
                );
            }
            let lasts = written.lasts.map(|time| time.0);
            let zone = written.time_zone.as_deref();
            match Schedule::new(&written.cron, zone, min_pods.unwrap_or(0), lasts) {
                Ok(schedule) => schedules.push(schedule),
                Err(error) => self.violation(format!("{at}[{index}]"), error.to_string()),
            }
        }
        // One that cannot be read may be the second one without an end.
        if schedules.len() == written.len()
            && let Err(error) = schedule::check(&schedules)
        {
            self.violation(at, error.to_string());
        }
        schedules
    }
}

fn range_of(min: i32, max: i32) -> Range {
    let count = |count| u32::try_from(count).unwrap_or(0);
    Range::new(count(min), count(max))
}

/// The CPU of a new pod in cores: its limit, else its request.
fn cores_of(spec: &Spec) -> Option<f64> {
    let resources = spec.resources.as_ref()?;
    let amount = resources.limits.get(CORES);
    let amount = amount.or_else(|| resources.requests.get(CORES))?;
    amount.thousandths().map(cores)
}

fn cores(thousandths: u64) -> f64 {
    Duration::from_millis(thousandths).as_secs_f64()
}

/// How many workers so many cores carry: as for `perCore`, 1.75 cores carry two.
fn whole_cores(cores: f64) -> i32 {
    (cores + 0.25).floor().clamp(1.0, f64::from(MAX_WORKERS)) as i32
}
