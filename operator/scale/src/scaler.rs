//! The decision: how many pods, workers and cores an app gets, from one observation to the next.

use std::time::Duration;

use jiff::Timestamp;

use crate::concurrency::{Concurrency, Shown};
use crate::demand::{Demand, Load};
use crate::estimate::Estimate;
use crate::fleet::{Fleet, Pods};
use crate::floor::Floor;
use crate::hold::Hold;
use crate::limits::{Limits, Step};
use crate::need::Need;
use crate::reason::Reason;
use crate::refusal::Refusal;
use crate::sample::{Moment, Observation};
use crate::settings::Settings;
use crate::shape::{Shape, Top};

/// The sustained need must exceed what is covered by this factor before more is asked for. HPA has
/// the same tolerance.
const TOLERANCE: f64 = 1.1;
/// A smaller number must be enough with this factor to spare before it is taken. Otherwise each new
/// peak would bring the larger number back.
const SPARE: f64 = 1.05;
/// The pause between two reductions, in which the smaller number can prove itself.
const REDUCTION_PAUSE: Duration = Duration::from_secs(15);
/// A resize that is not granted after this time counts as refused.
const RESIZE_PATIENCE: Duration = Duration::from_secs(15);
/// How long after a refused resize the next one is tried.
const RESIZE_RETRY: Duration = Duration::from_mins(10);

/// What an app gets.
#[derive(Debug, Clone, PartialEq)]
pub struct Decision {
    /// The number of pods.
    pub pods: u32,
    /// The number of workers in each pod.
    pub workers: u32,
    /// The CPU of each pod, in cores; `None` if pods are not resized.
    pub cpu: Option<f64>,
    /// How many requests one worker serves well at once: the user's number, or what has been
    /// learnt.
    pub concurrency: f64,
    /// Why; its text is one sentence.
    pub reason: Reason,
    /// Since when pods, workers and CPU have these values.
    pub since: Timestamp,
}

/// What is known of an app when the operator starts: from the Deployment and from the status.
#[derive(Debug, Clone, Copy, Default)]
pub struct Found {
    /// `spec.replicas` of the Deployment.
    pub pods: u32,
    /// Workers in each pod.
    pub workers: u32,
    /// CPU of each pod, in cores.
    pub cpu: Option<f64>,
    /// `status.autoscaling.concurrency`.
    pub concurrency: Option<f64>,
    /// `status.autoscaling.since`.
    pub since: Option<Timestamp>,
}

/// The autoscaler of one app. It has no clock and does no I/O: the caller observes, calls
/// [`Self::decide`] about once a second, and carries the decision out.
#[derive(Debug, Clone)]
pub struct Scaler {
    settings: Settings,
    demand: Demand,
    pods: Pods,
    concurrency: Concurrency,
    hold: Hold,
    floor: Floor,
    refusal: Option<Refusal>,
    /// The need that the present decision covers.
    covered: Need,
    decision: Decision,
    /// The reason that the present load gives. It is shown again once a reason that has overruled
    /// it is gone.
    usual_reason: Reason,
    last_reduction: Option<Duration>,
    idle_since: Option<Duration>,
    /// Since when a resize is pending, and until when none is tried.
    resize_since: Option<Duration>,
    no_resize_until: Option<Duration>,
    last: Duration,
    begun: bool,
}

impl Scaler {
    /// An autoscaler that takes over an app as it is found. It removes nothing before it has
    /// watched the app for a whole scale-down window.
    pub fn new(settings: Settings, found: Found, now: Moment) -> Self {
        let settings = settings.bounded();
        let workers = settings.workers.clamp(found.workers);
        let decision = Decision {
            pods: found.pods.clamp(settings.pods.min(), settings.pods.max()),
            workers,
            cpu: settings.cpu.map(|range| {
                found
                    .cpu
                    .unwrap_or(range.start())
                    .clamp(range.start(), range.max())
            }),
            concurrency: 1.0,
            reason: Reason::Started,
            since: found.since.unwrap_or(now.wall),
        };
        Self {
            demand: Demand::new(),
            pods: Pods::new(),
            concurrency: Concurrency::new(settings.concurrency, found.concurrency),
            hold: Hold::new(settings.down_window),
            floor: Floor::default(),
            refusal: None,
            covered: Need::default(),
            usual_reason: Reason::Started,
            decision,
            last_reduction: None,
            idle_since: None,
            resize_since: None,
            no_resize_until: None,
            last: now.elapsed,
            begun: false,
            settings,
        }
    }

    /// Takes other settings for the next decision on; what has been learnt stays.
    pub fn set(&mut self, settings: Settings) {
        let settings = settings.bounded();
        self.concurrency.fix(settings.concurrency);
        self.hold.set_window(settings.down_window);
        self.floor = Floor::default();
        self.settings = settings;
    }

    /// What the app gets from `now` on.
    pub fn decide(&mut self, moment: Moment, seen: &Observation) -> Decision {
        // A clock that goes back would make windows negative; it stands still instead.
        let now = moment.elapsed.max(self.last);
        self.last = now;
        let fleet = self.pods.observe(now, &seen.pods, self.decision.workers);
        let concurrency = self.learn(now, &fleet);
        let room = fleet.workers * concurrency;
        let load = self.demand.observe(now, &seen.balancers, &fleet, room);
        self.note_idle(now, &load);
        self.refusal = Refusal::next(self.refusal, now, seen.refused_above, self.decision.pods);
        let (top, is_refused) = self.top(now, &fleet);
        self.begin(now, &fleet, top);
        let covered = self.cover(now, &load, &fleet, top);
        let step = self.step(moment, now, &load, &fleet, top);
        // While new pods start, those that are ready carry everything.
        let sharing = match fleet.ready {
            0 => step.pods,
            ready => step.pods.min(ready),
        };
        let shape = Shape::of(&self.settings, top, self.covered, sharing);
        let reason = step.reason.or(is_refused.then_some(Reason::NoRoom));
        self.publish(moment.wall, step.pods, shape, reason.or(covered))
    }

    fn learn(&mut self, now: Duration, fleet: &Fleet) -> f64 {
        let workers = fleet.workers.max(1.0);
        self.concurrency.observe(
            now,
            Shown {
                at_worker: fleet.in_flight / workers,
                answers: fleet.answers,
                answer_seconds: fleet.answer_seconds,
                failures: fleet.failures,
            },
        );
        self.concurrency.get()
    }

    fn note_idle(&mut self, now: Duration, load: &Load) {
        let idle = load.quiet && !load.incomplete && !load.unknown;
        self.idle_since = idle.then(|| self.idle_since.unwrap_or(now));
    }

    /// How large a pod may become now, and whether a resize has just been refused.
    fn top(&mut self, now: Duration, fleet: &Fleet) -> (Top, bool) {
        let asked = self.decision.cpu.unwrap_or(0.0);
        let granted = fleet.cpu_limit.unwrap_or(asked);
        let waits = granted + 1e-6 < asked;
        self.resize_since = waits.then(|| self.resize_since.unwrap_or(now));
        let is_late = self
            .resize_since
            .is_some_and(|since| since + RESIZE_PATIENCE <= now);
        let is_refused = waits && (fleet.no_room || is_late);
        if is_refused {
            self.no_resize_until = Some(now + RESIZE_RETRY);
            self.resize_since = None;
        }
        let room = self.no_resize_until.is_none_or(|until| until <= now);
        (Top::of(&self.settings, fleet, room), is_refused)
    }

    /// At the first decision, takes what is found as what is needed, for one window.
    fn begin(&mut self, now: Duration, fleet: &Fleet, top: Top) {
        if self.begun {
            return;
        }
        self.begun = true;
        let pods = f64::from(self.decision.pods);
        let whole = Need {
            workers: pods * f64::from(self.decision.workers.min(top.workers)),
            cores: if top.cores.is_finite() {
                pods * fleet
                    .cpu_limit
                    .or(self.decision.cpu)
                    .unwrap_or(0.0)
                    .min(top.cores)
            } else {
                0.0
            },
        };
        self.covered = whole;
        self.hold.push(now, whole);
    }

    /// Brings what is covered in line with what is needed. Returns the reason if it changes.
    fn cover(&mut self, now: Duration, load: &Load, fleet: &Fleet, top: Top) -> Option<Reason> {
        if load.unknown {
            // Nothing changes while the load is unknown.
            self.hold.push(now, self.covered);
            return Some(Reason::Unknown);
        }
        let concurrency = self.concurrency.get();
        let estimate = Estimate::of(
            &self.settings,
            load,
            fleet,
            concurrency,
            self.decision.workers,
        );
        // A minority of pods that are gone is replaced before Kubernetes gives them up, which
        // takes minutes. If most are gone, the app or something that it needs is at fault.
        let missed = if fleet.missed < fleet.ready {
            fleet.missed
        } else {
            0
        };
        let missed = f64::from(missed) * f64::from(top.workers);
        let add = |mut need: Need| {
            need.workers += missed.min(need.workers);
            need
        };
        self.usual_reason = estimate.sustained_reason.clone();
        let (sustained, urgent) = (add(estimate.sustained), add(estimate.urgent));
        let mut need = sustained.max(urgent);
        if load.incomplete {
            // What a silent balancer has is unknown, so nothing is given up.
            need = need.max(self.covered);
        }
        self.hold.push(now, need);
        self.hold.settle(now);
        let is_more = |need: Need| {
            need.workers > self.covered.workers + 1e-9 || need.cores > self.covered.cores + 1e-9
        };
        if is_more(urgent) || is_more(sustained.times(1.0 / TOLERANCE)) {
            let by_requests = need.workers > self.covered.workers;
            let reason = if !by_requests {
                Reason::Cpu {
                    cores: load.cpu_long.max(load.cpu_short),
                    utilization: self.settings.utilization,
                }
            } else if urgent.workers > sustained.workers {
                estimate.urgent_reason
            } else {
                estimate.sustained_reason
            };
            self.covered = self.covered.max(need);
            return Some(reason);
        }
        let most = self.hold.most(now).times(SPARE);
        if most.workers < self.covered.workers || most.cores < self.covered.cores {
            self.covered = Need {
                workers: self.covered.workers.min(most.workers),
                cores: self.covered.cores.min(most.cores),
            };
        }
        load.incomplete.then_some(Reason::Incomplete)
    }

    /// The number of pods that follows from what is covered and from everything that limits it.
    fn step(
        &mut self,
        moment: Moment,
        now: Duration,
        load: &Load,
        fleet: &Fleet,
        top: Top,
    ) -> Step {
        let planned = self.floor.observe(moment, now, &self.settings, fleet.boot);
        let idle_for = self
            .idle_since
            .map_or(Duration::ZERO, |since| now.saturating_sub(since));
        let limits = Limits {
            range: self.settings.pods,
            planned,
            before: self.decision.pods,
            quiet: load.quiet,
            idle: self.idle_since.is_some() && idle_for >= self.settings.zero_after,
            zero_after: self.settings.zero_after,
            uncertain: load.unknown || load.incomplete,
            existing: fleet.existing,
            unschedulable: fleet.unschedulable,
            crash_looping: fleet.crash_looping,
            allowed: self.refusal.map_or(u32::MAX, |refusal| refusal.limit(now)),
            pausing: self
                .last_reduction
                .is_some_and(|last| now < last + REDUCTION_PAUSE),
            window: self.hold.length(),
        };
        let step = limits.apply(top.pods(self.covered));
        let before = self.decision.pods;
        if step.pods < before {
            self.last_reduction = Some(now);
        }
        if step.pods != before && step.pods > 0 && before > 0 && step.follows_load {
            self.hold.changed(now, before, step.pods);
        }
        step
    }

    fn publish(
        &mut self,
        wall: Timestamp,
        pods: u32,
        shape: Shape,
        reason: Option<Reason>,
    ) -> Decision {
        let last = &mut self.decision;
        let is_same = (pods, shape.workers, shape.cpu) == (last.pods, last.workers, last.cpu);
        match reason {
            Some(reason) if !is_same || reason.overrules() && !reason.is_like(&last.reason) => {
                last.reason = reason;
            }
            None if last.reason.overrules() || !is_same => {
                last.reason = self.usual_reason.clone();
            }
            _ => {}
        }
        if !is_same {
            last.since = wall;
        }
        (last.pods, last.workers, last.cpu) = (pods, shape.workers, shape.cpu);
        last.concurrency = self.concurrency.get();
        last.clone()
    }
}
