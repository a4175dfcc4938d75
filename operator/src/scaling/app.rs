//! One app's autoscaler: observes the app, asks [`scaledapp_scale`], and publishes the decision.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use scaledapp_crds::kubernetes::ScaledApp;
use scaledapp_crds::words::{component, label};
use scaledapp_plan::cluster;
use scaledapp_scale::{Balancer, Found, Moment, Observation, PodReport, Reason, Scaler, Settings};

use super::decisions::{Decisions, Removable};
use super::demand::AppName;
use super::found;
use super::observation::{self, Beside};
use super::streams::Streams;
use crate::pod_health::PodsHealth;

/// How long a new leader waits for the first lines before it decides. Until then, the pods of the
/// Deployment stay as they are.
const FIRST_LINES: Duration = Duration::from_secs(3);
/// The load of a pod counts as known for this long after its last report.
const FRESH: Duration = Duration::from_secs(5);
/// How long a refused resize counts as infeasible. The autoscaler remembers it much longer; this is
/// long enough for it to notice.
const RESIZE_REFUSAL: Duration = Duration::from_secs(30);

/// What is remembered of a pod.
#[derive(Debug, Clone, Default)]
pub(super) struct Known {
    /// Something else created it, although it has the app's labels.
    pub(super) is_foreign: bool,
    was_ready: bool,
    /// Requests at its workers, and when it said so.
    in_flight: Option<(Duration, u32)>,
}

impl Known {
    /// What is known of a pod that is new.
    pub(super) fn of(pod: &Pod, app: &AppName) -> Self {
        Self {
            is_foreign: cluster::Pod::from(pod).is_foreign_to(&app.name),
            ..Self::default()
        }
    }
}

/// The uid of a pod, its app, and whether it is a balancer, according to its labels; `None` if it
/// is no pod of an app.
pub(super) fn belongs(pod: &Pod) -> Option<(String, AppName, bool)> {
    let labels = pod.metadata.labels.as_ref()?;
    let is_balancer = match labels.get(label::COMPONENT)?.as_str() {
        component::BALANCER => true,
        component::APP => false,
        _ => return None,
    };
    let name = AppName {
        namespace: pod.metadata.namespace.clone()?,
        name: labels.get(label::INSTANCE)?.clone(),
    };
    Some((pod.metadata.uid.clone()?, name, is_balancer))
}

/// Everything that an observation is made from.
pub(super) struct Surroundings<'a> {
    pub(super) object: &'a ScaledApp,
    pub(super) deployment: Option<&'a Deployment>,
    pub(super) pods: &'a [Arc<Pod>],
    pub(super) balancers: &'a [Arc<Pod>],
    pub(super) streams: &'a Streams,
    pub(super) known: &'a mut HashMap<String, Known>,
    pub(super) pods_health: &'a PodsHealth,
    pub(super) elapsed: Duration,
    pub(super) wall: Timestamp,
}

/// What follows from a decision.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) pods: u32,
    pub(super) cpu: Option<f64>,
    pub(super) reason: Reason,
    pub(super) concurrency: f64,
    /// The app needs a pass.
    pub(super) has_changed: bool,
}

/// The autoscaler of one app.
#[derive(Debug)]
pub(super) struct Scaling {
    uid: String,
    /// The generation of the object from which `settings` were made.
    generation: i64,
    settings: Settings,
    /// `None` until the first decision.
    scaler: Option<Scaler>,
    begun: Duration,
    wanted: u32,
    /// What was last asked of each pod's CPU, and when.
    pub(super) resizes: super::resizing::Asked,
}

impl Scaling {
    /// The autoscaler of this object: the one before if there is one, with new settings if the
    /// object has changed. `None` if the object is invalid.
    pub(super) fn renewed(before: Option<Self>, object: &ScaledApp, now: Duration) -> Option<Self> {
        let uid = object.metadata.uid.as_deref().unwrap_or_default();
        let generation = object.metadata.generation.unwrap_or_default();
        let before = before.filter(|app| app.uid == uid);
        if let Some(app) = before {
            if app.generation == generation {
                return Some(app);
            }
            return Some(app.with(settings(object)?, generation));
        }
        Some(Self {
            uid: uid.to_owned(),
            generation,
            settings: settings(object)?,
            scaler: None,
            begun: now,
            wanted: 0,
            resizes: super::resizing::Asked::default(),
        })
    }

    fn with(mut self, settings: Settings, generation: i64) -> Self {
        if let Some(scaler) = &mut self.scaler {
            scaler.set(settings.clone());
        }
        self.settings = settings;
        self.generation = generation;
        self
    }

    pub(super) fn uid(&self) -> &str {
        &self.uid
    }

    /// The number of pods that was decided last.
    pub(super) const fn wanted(&self) -> u32 {
        self.wanted
    }

    /// Whether pods of this app may grow in place.
    const fn can_resize(&self) -> bool {
        self.settings.cpu.is_some()
    }

    /// Decides, and publishes the decision. `None` while the first lines are awaited.
    pub(super) fn decide(
        &mut self,
        around: Surroundings<'_>,
        decisions: &Decisions,
    ) -> Option<Outcome> {
        let Surroundings {
            object,
            deployment,
            pods,
            balancers,
            streams,
            known,
            pods_health,
            elapsed,
            wall,
        } = around;
        if self.scaler.is_none() && !self.may_begin(balancers, streams, elapsed) {
            return None;
        }
        let balancers = balancers.iter().filter_map(|pod| balancer(pod, streams));
        let balancers: Vec<Balancer> = balancers.collect();
        let resize_refused = self.resizes.is_refused(RESIZE_REFUSAL);
        let observed = pods.iter().map(|pod| {
            let uid = pod.metadata.uid.as_deref().unwrap_or_default();
            let report = streams.pod(uid);
            let known = known.entry(uid.to_owned()).or_default();
            known.see(pod, elapsed, report);
            let beside = Beside {
                was_ready: known.was_ready,
                answer: pods_health.answer(uid),
                resizes: self.can_resize(),
                resize_refused,
                report,
            };
            observation::pod(pod, wall, &beside)
        });
        let observed: Vec<scaledapp_scale::Pod> = observed.collect();
        let existing = pods.iter().filter(|pod| !observation::is_leaving(pod));
        let existing = u32::try_from(existing.count()).unwrap_or(u32::MAX);
        let observation = Observation {
            refused_above: observation::refused_above(deployment, existing, wall),
            balancers,
            pods: observed,
        };
        let moment = Moment { elapsed, wall };
        let settings = &self.settings;
        let scaler = self.scaler.get_or_insert_with(|| {
            let found = begin(object, deployment, settings, &observation);
            Scaler::new(settings.clone(), found, moment)
        });
        let decision = scaler.decide(moment, &observation);
        self.wanted = decision.pods;
        let (cpu, concurrency) = (decision.cpu, decision.concurrency);
        let reason = decision.reason.clone();
        let removable = || removable(pods, known, elapsed, wall);
        let has_changed = decisions.publish(&self.uid, decision, elapsed, removable);
        Some(Outcome {
            pods: self.wanted,
            cpu,
            reason,
            concurrency,
            has_changed,
        })
    }

    /// Whether the first decision can be made: every balancer has reported, or has had time to.
    fn may_begin(&self, balancers: &[Arc<Pod>], streams: &Streams, now: Duration) -> bool {
        let mut running = balancers
            .iter()
            .filter(|pod| observation::is_balancer(pod, false))
            .map(|pod| pod.metadata.uid.as_deref().unwrap_or_default())
            .peekable();
        let are_heard = running.peek().is_some() && running.all(|uid| streams.has_heard(uid));
        are_heard || now.saturating_sub(self.begun) >= FIRST_LINES
    }
}

impl Known {
    fn see(&mut self, pod: &Pod, now: Duration, report: Option<PodReport>) {
        // A pod that says how long it took to become ready was ready, even if this replica leads
        // only since then.
        self.was_ready |=
            observation::is_ready(pod) || report.is_some_and(|report| report.boot.is_some());
        if let Some(report) = report {
            let requests = report.in_flight.saturating_add(report.queued);
            self.in_flight = Some((now, requests));
        }
    }
}

fn begin(
    object: &ScaledApp,
    deployment: Option<&Deployment>,
    settings: &Settings,
    observation: &Observation,
) -> Found {
    let cpus = observation.pods.iter().filter_map(|pod| pod.cpu_limit);
    let cpu = cpus.fold(None, |most: Option<f64>, cpu| {
        Some(most.map_or(cpu, |most| most.max(cpu)))
    });
    found::found(object, deployment, settings, cpu)
}

fn balancer(pod: &Pod, streams: &Streams) -> Option<Balancer> {
    let uid = pod.metadata.uid.as_deref()?;
    let report = streams.balancer(uid);
    observation::is_balancer(pod, report.is_some()).then(|| Balancer {
        name: uid.to_owned(),
        report,
    })
}

/// The pods that a reduction may remove.
fn removable(
    pods: &[Arc<Pod>],
    known: &HashMap<String, Known>,
    now: Duration,
    wall: Timestamp,
) -> Vec<Removable> {
    let staying = pods.iter().filter(|pod| !observation::is_leaving(pod));
    let removable = staying.filter_map(|pod| {
        let uid = pod.metadata.uid.clone()?;
        let said = known.get(&uid).and_then(|known| known.in_flight);
        let fresh = said.filter(|(then, _)| now.saturating_sub(*then) <= FRESH);
        Some(Removable {
            ready: observation::is_ready(pod),
            in_flight: fresh.map_or(u32::MAX, |(_, requests)| requests),
            age: observation::age(pod, wall),
            uid,
        })
    });
    removable.collect()
}

/// The settings of a valid object.
fn settings(object: &ScaledApp) -> Option<Settings> {
    let app = cluster::validate(object).ok()?;
    app.app.autoscaling.map(|autoscaling| autoscaling.settings)
}
