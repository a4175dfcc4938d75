//! What the pods can do now and soon: which of them are capacity, which are expected, which are
//! lost, and how long a pod takes to start.
//!
//! A silent pod counts as it was in its last report, for [`SILENCE`]. After that its load is
//! unknown, and only what Kubernetes says of it counts.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::sample::{Pod, PodReport, PodState, Resize, cores};

/// For how long the last report of a silent pod or balancer counts.
pub(crate) const SILENCE: Duration = Duration::from_secs(30);
/// A pod that stops being ready counts as missed only after this time, because a restart of one
/// worker may take a pod out for a moment.
const MISSED_AFTER: Duration = Duration::from_secs(5);
/// The time that a pod takes to start, until one has been seen.
const FIRST_BOOT: Duration = Duration::from_secs(10);
/// A starting pod is never expected sooner than this, even if its usual time is over.
const OVERDUE: Duration = Duration::from_secs(2);

/// What is remembered of a pod between observations.
#[derive(Debug, Clone, Copy)]
struct Known {
    report: Option<(Duration, PodReport)>,
    not_ready_since: Option<Duration>,
}

/// What is remembered of all pods.
#[derive(Debug, Clone)]
pub(crate) struct Pods {
    known: BTreeMap<String, Known>,
    boot: Duration,
}

/// The pods at one moment.
#[derive(Debug, Clone, Default)]
pub(crate) struct Fleet {
    /// Pods that exist and are not about to end.
    pub(crate) existing: u32,
    /// Pods that are ready.
    pub(crate) ready: u32,
    /// Workers of ready pods.
    pub(crate) workers: f64,
    /// How long each starting pod will still take.
    pub(crate) starting: Vec<Duration>,
    /// Pods that were ready, are no longer, and are missed.
    pub(crate) missed: u32,
    /// Pods without a node.
    pub(crate) unschedulable: u32,
    /// Pods whose workers end as soon as they start.
    pub(crate) crash_looping: u32,
    /// Requests at workers, according to the pods.
    pub(crate) in_flight: f64,
    /// Requests that wait within pods.
    pub(crate) queued: f64,
    /// CPU that workers of ready pods use, in cores.
    pub(crate) cpu_used: f64,
    /// The mean CPU limit of ready pods, in cores, where it is known.
    pub(crate) cpu_limit: Option<f64>,
    /// A resize of a pod waits for room, or can never be done.
    pub(crate) no_room: bool,
    /// How long a pod takes to start.
    pub(crate) boot: Duration,
    /// Good answers, their time in seconds and failures of the reports that have just come.
    pub(crate) answers: f64,
    pub(crate) answer_seconds: f64,
    pub(crate) failures: f64,
    /// At least one pod has reported within [`SILENCE`].
    pub(crate) heard: bool,
}

impl Pods {
    pub(crate) fn new() -> Self {
        Self {
            known: BTreeMap::new(),
            boot: FIRST_BOOT,
        }
    }

    /// Takes in what is observed at `now`. `usual` is the number of workers of a pod that has
    /// not reported any.
    pub(crate) fn observe(&mut self, now: Duration, pods: &[Pod], usual: u32) -> Fleet {
        self.known
            .retain(|name, _| pods.iter().any(|pod| pod.name == *name));
        let mut boots = Vec::new();
        let mut limits = Vec::new();
        let mut fleet = Fleet::default();
        for pod in pods {
            let known = self.known.entry(pod.name.clone()).or_insert(Known {
                report: None,
                not_ready_since: None,
            });
            if let Some(report) = pod.report.map(PodReport::bounded) {
                known.report = Some((now, report));
                fleet.answers += report.answers as f64;
                fleet.answer_seconds += report.answer_time.as_secs_f64();
                fleet.failures += report.failures as f64;
                boots.extend(report.boot);
            }
            known.not_ready_since = match pod.state {
                PodState::NotReady => known.not_ready_since.or(Some(now)),
                _ => None,
            };
            let known = *known;
            fleet.add(now, pod, known, usual, self.boot);
            if pod.state == PodState::Ready {
                limits.extend(pod.cpu_limit.and_then(cores));
            }
        }
        boots.sort_unstable();
        if let Some(boot) = boots.get(boots.len() / 2) {
            self.boot = *boot;
        }
        fleet.boot = self.boot;
        let granted: f64 = limits.iter().sum();
        fleet.cpu_limit = (!limits.is_empty()).then(|| granted / limits.len() as f64);
        fleet
    }
}

impl Fleet {
    fn add(&mut self, now: Duration, pod: &Pod, known: Known, usual: u32, boot: Duration) {
        if pod.state == PodState::Leaving {
            return;
        }
        self.existing = self.existing.saturating_add(1);
        self.no_room |= pod.resize != Resize::Settled;
        let report = known.report.filter(|(when, _)| now <= *when + SILENCE);
        match pod.state {
            PodState::Ready => {
                self.ready = self.ready.saturating_add(1);
                let workers = report.map_or(usual, |(_, report)| report.workers);
                self.workers += f64::from(workers);
            }
            PodState::Starting => {
                let rest = boot.saturating_sub(pod.age);
                self.starting.push(rest.max(OVERDUE));
            }
            PodState::NotReady => {
                let since = known.not_ready_since.unwrap_or(now);
                self.missed += u32::from(since + MISSED_AFTER <= now);
            }
            PodState::Unschedulable => self.unschedulable += 1,
            PodState::CrashLooping => self.crash_looping += 1,
            PodState::Leaving => {}
        }
        // A pod that is not ready may still finish requests.
        if let Some((_, report)) = report {
            self.heard = true;
            self.in_flight += f64::from(report.in_flight);
            self.queued += f64::from(report.queued);
            if pod.state == PodState::Ready {
                self.cpu_used += report.cpu_used;
            }
        }
    }
}
