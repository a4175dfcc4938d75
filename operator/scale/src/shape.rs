//! Which pods a need becomes: first more workers in each pod, then more CPU for each pod, then more
//! pods.
//!
//! These steps differ in time and cost: a worker starts at once in CPU that is already paid for,
//! CPU in place takes a second and restarts nothing, and a pod takes as long as the app boots. So
//! pods are counted as if each were as large as it may become, and each pod gets what its part of
//! the need asks for.

use crate::fleet::Fleet;
use crate::need::Need;
use crate::settings::{MAX_COUNT, Settings};

/// CPU is asked for in steps of this, in cores, so that a pod is not resized all the time.
const CPU_STEP: f64 = 0.25;

/// How large one pod may become.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Top {
    /// Workers.
    pub(crate) workers: u32,
    /// CPU cores; infinite if unknown.
    pub(crate) cores: f64,
}

/// The pods that a need becomes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Shape {
    /// Workers in each pod.
    pub(crate) workers: u32,
    /// CPU of each pod, if it may be resized.
    pub(crate) cpu: Option<f64>,
}

impl Top {
    /// How large a pod may become. If its node has no `room` for a resize, it stays as it is, and
    /// more pods are asked for instead.
    pub(crate) fn of(settings: &Settings, fleet: &Fleet, room: bool) -> Self {
        let most = settings.workers.max();
        let Some(range) = settings.cpu else {
            return Self {
                workers: most,
                cores: fleet.cpu_limit.unwrap_or(f64::INFINITY).max(0.01),
            };
        };
        let granted = fleet.cpu_limit.unwrap_or(range.start());
        let cores = if room {
            range.max()
        } else {
            granted.clamp(range.start(), range.max())
        };
        Self {
            workers: most.min(whole_cores(cores)).max(settings.workers.min()),
            cores,
        }
    }

    /// How many pods of this size a need takes.
    pub(crate) fn pods(self, need: Need) -> u32 {
        let for_requests = need.workers / f64::from(self.workers.max(1));
        round_up(for_requests.max(need.cores / self.cores))
    }
}

impl Shape {
    /// What each of `ready` pods should be, so that together they cover the need.
    pub(crate) fn of(settings: &Settings, top: Top, need: Need, ready: u32) -> Self {
        let each = need.times(1.0 / f64::from(ready.max(1)));
        let workers = settings
            .workers
            .clamp(round_up(each.workers))
            .min(top.workers);
        let cpu = settings.cpu.map(|range| {
            // Beyond the CPU that a pod starts with, each worker brings a core.
            let extra = if workers > whole_cores(range.start()) {
                f64::from(workers)
            } else {
                0.0
            };
            let steps = (each.cores.max(extra) / CPU_STEP - 1e-9).ceil() * CPU_STEP;
            steps.clamp(range.start(), top.cores.max(range.start()))
        });
        Self { workers, cpu }
    }
}

/// How many workers this many cores carry.
fn whole_cores(cores: f64) -> u32 {
    scaledapp_units::cores::workers((cores * 1000.0).round() as u64).min(MAX_COUNT)
}

/// Rounds up to a whole number. A number that exceeds a whole number only by a rounding error
/// counts as that whole number.
fn round_up(number: f64) -> u32 {
    (number - 1e-6).ceil().clamp(0.0, f64::from(MAX_COUNT)) as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::{CpuRange, Range};

    fn need(workers: f64, cores: f64) -> Need {
        Need { workers, cores }
    }

    #[test]
    fn workers_come_before_cpu_and_cpu_before_pods() {
        let settings = Settings {
            workers: Range::new(1, 4),
            cpu: Some(CpuRange::new(2.0, 4.0)),
            ..Settings::default()
        };
        let fleet = Fleet::default();
        let top = Top::of(&settings, &fleet, true);
        for (workers, pods, in_each, cpu) in [
            (0.5, 1, 1, 2.0),
            (1.5, 1, 2, 2.0),
            (2.5, 1, 3, 3.0),
            (4.0, 1, 4, 4.0),
            (4.5, 2, 3, 3.0),
            (9.0, 3, 3, 3.0),
        ] {
            let need = need(workers, 0.0);
            assert_eq!(top.pods(need), pods, "{workers}");
            let shape = Shape::of(&settings, top, need, pods);
            assert_eq!(
                (shape.workers, shape.cpu),
                (in_each, Some(cpu)),
                "{workers}"
            );
        }
    }

    #[test]
    fn without_room_on_the_node_pods_follow() {
        let settings = Settings {
            workers: Range::new(1, 4),
            cpu: Some(CpuRange::new(2.0, 4.0)),
            ..Settings::default()
        };
        let top = Top::of(&settings, &Fleet::default(), false);
        assert_eq!(top.pods(need(4.0, 0.0)), 2);
        assert_eq!(Shape::of(&settings, top, need(4.0, 0.0), 2).cpu, Some(2.0));
    }

    #[test]
    fn cpu_alone_can_need_a_pod() {
        let fleet = Fleet {
            cpu_limit: Some(1.5),
            ..Fleet::default()
        };
        let top = Top::of(&Settings::default(), &fleet, true);
        assert_eq!(top.pods(need(0.1, 3.1)), 3);
        // Without a limit, nothing is known of the CPU that there is.
        let top = Top::of(&Settings::default(), &Fleet::default(), true);
        assert_eq!(top.pods(need(0.1, 3.1)), 1);
    }
}
