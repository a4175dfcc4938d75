//! What is needed, from what is measured: the sustained load at the wanted use of capacity, and room
//! for what is more urgent than that.
//!
//! - *Sustained*: the mean of the long window, at the wanted utilization.
//! - *Peak*: the mean of the short window must fit, with little spare ([`Settings::at_peak`]).
//! - *Growth*: if the load rises steadily, the load at the time when a pod that is asked for now
//!   becomes ready must fit as well.
//! - *Backlog*: the requests that will still wait when a new pod is ready, to be worked off within
//!   two or three seconds from then on. Pods that are starting count from the time when they are
//!   expected, so that a pod which would come too late to help is not asked for.
//! - *Queue*: the requests of clients that send nothing while they wait must fit as well.

use std::time::Duration;

use crate::demand::Load;
use crate::fleet::Fleet;
use crate::need::Need;
use crate::reason::Reason;
use crate::settings::Settings;

/// A backlog is worked off within this time at least and at most.
const MIN_DRAIN: Duration = Duration::from_secs(2);
const MAX_DRAIN: Duration = Duration::from_secs(3);
/// Growth is believed up to this many times the present load.
const MAX_GROWTH: f64 = 3.0;

/// What is needed.
#[derive(Debug, Clone)]
pub(crate) struct Estimate {
    /// For the long window.
    pub(crate) sustained: Need,
    /// For what is urgent.
    pub(crate) urgent: Need,
    /// The reason if the sustained load decides, and the reason if the urgent load decides.
    pub(crate) sustained_reason: Reason,
    pub(crate) urgent_reason: Reason,
}

impl Estimate {
    /// What the load needs. `pod_workers` is how many workers a new pod has.
    pub(crate) fn of(
        settings: &Settings,
        load: &Load,
        fleet: &Fleet,
        concurrency: f64,
        pod_workers: u32,
    ) -> Self {
        let (usual, at_peak) = (settings.usual(), settings.at_peak());
        let boot = fleet.boot.as_secs_f64();
        let growth = (load.rise * boot).min(load.short * (MAX_GROWTH - 1.0));
        let waiting = backlog(load, fleet, concurrency, pod_workers);
        let standing = if is_broken(fleet) { 0.0 } else { load.standing };
        let drain = (fleet.boot / 2).clamp(MIN_DRAIN, MAX_DRAIN).as_secs_f64();
        let candidates = [
            (
                load.short / at_peak,
                Reason::Peak {
                    at_once: load.short,
                },
            ),
            (
                if growth > 0.0 {
                    (load.short + growth) / at_peak
                } else {
                    0.0
                },
                Reason::Growth { boot: fleet.boot },
            ),
            (
                if waiting > 0.0 {
                    load.short + waiting * load.service / drain
                } else {
                    0.0
                },
                Reason::Backlog { waiting },
            ),
            (
                standing / at_peak,
                Reason::Queue {
                    waiting: load.waiting,
                },
            ),
        ];
        let urgent = candidates
            .into_iter()
            .max_by(|(one, _), (other, _)| one.total_cmp(other));
        let (requests, urgent_reason) = urgent.unwrap_or((0.0, Reason::Started));
        let sustained = Need {
            workers: load.long / usual / concurrency,
            cores: load.cpu_long / usual,
        };
        let urgent = Need {
            workers: requests / concurrency,
            cores: load.cpu_short / at_peak,
        };
        Self {
            sustained,
            urgent,
            sustained_reason: Reason::Requests {
                at_once: load.long,
                concurrency,
                utilization: settings.utilization,
            },
            urgent_reason,
        }
    }
}

/// Whether waiting requests do not count. If a pod ends as soon as it starts, more pods would end as
/// well. The same holds if most pods are no longer ready: what has stopped them would stop others as
/// well.
fn is_broken(fleet: &Fleet) -> bool {
    fleet.crash_looping > 0 || fleet.missed > fleet.ready
}

/// How many requests will wait when a pod that is asked for now is ready.
fn backlog(load: &Load, fleet: &Fleet, concurrency: f64, pod_workers: u32) -> f64 {
    if load.waiting <= 0.0 || is_broken(fleet) {
        return 0.0;
    }
    let boot = fleet.boot.as_secs_f64();
    let each = f64::from(pod_workers) * concurrency;
    let expected = fleet
        .starting
        .iter()
        .map(|rest| (boot - rest.as_secs_f64()).max(0.0) * each)
        .sum::<f64>();
    let now = fleet.workers * concurrency * boot;
    let done = (now + expected) / load.service;
    // Growth adds more and more arrivals until then.
    let arrivals = load.rate * boot + load.rise / load.service * boot * boot / 2.0;
    (load.waiting + arrivals - done).max(0.0)
}
