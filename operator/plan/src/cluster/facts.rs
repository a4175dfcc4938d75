//! What is counted and found in an app's objects after a pass. [`super::conditions`] decides what
//! they mean, and [`super::status`] what is reported.

use std::time::Duration;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use scaledapp_crds::kubernetes::{ScaledApp, ScaledAppStatus, SlotStatus, WorkersStatus};
use scaledapp_crds::words::annotation;

use super::drift::carries;
use super::failures;
use super::meta::{Owner, annotation as annotated, slot_of};
use super::pod_failure::PodFailure;
use super::reach;
use super::scaling::{self, Sleep};
use super::selection::app_pods;
use super::slots::{leads_somewhere, serving};
use super::{Answer, App, Kind, ObjectKey, Observed, Plan, Pod, Supervisor};
use crate::Violation;

/// How long a pod or a slot counts as new: most apps become ready within this time.
const NEW_FOR: SignedDuration = SignedDuration::from_secs(60);

/// How a pass went.
#[derive(Debug, Clone, Copy)]
pub enum Outcome<'a> {
    /// The object is invalid.
    Invalid(&'a [Violation]),
    /// The whole plan was applied.
    Applied(&'a App, &'a Plan),
    /// A part of the plan was not applied.
    Failed(&'a App, &'a Plan, Failed<'a>),
}

/// Why something was not applied.
#[derive(Debug, Clone, Copy)]
pub struct Failed<'a> {
    /// One sentence without pod names and times.
    pub why: &'a str,
    /// The API server refused this object; another attempt would not change that.
    pub refused: bool,
}

impl<'a> Outcome<'a> {
    pub(super) fn planned(self) -> Option<(&'a App, &'a Plan)> {
        match self {
            Self::Invalid(_) => None,
            Self::Applied(app, plan) | Self::Failed(app, plan, _) => Some((app, plan)),
        }
    }
}

/// What was counted and found, without an interpretation.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Facts {
    /// Pods planned, existing, and ready by the Deployment's count.
    pub(super) wanted: i32,
    pub(super) pods: i32,
    pub(super) ready: i32,
    /// Pods whose own status is ready; the Deployment counts them a moment later.
    pub(super) seen_ready: i32,
    /// The Deployment differs from the plan, or its controller has not finished.
    pub(super) changing: bool,
    /// Only the Deployment's number of pods is still changing.
    pub(super) scaling: bool,
    /// The command that resumes the Deployment; `None` unless the Deployment is paused and its
    /// rollout is not finished.
    pub(super) resume_cure: Option<String>,
    /// The Deployment has exceeded its progress deadline.
    pub(super) stuck: bool,
    /// The failure of the app's pods that [`failures`] chooses to report.
    pub(super) failure: Option<PodFailure>,
    /// The failure of the balancers' pods that [`failures`] chooses to report.
    pub(super) balancer_failure: Option<PodFailure>,
    /// Some pods are not ready, or some slots do not serve through their own balancer; and all of
    /// these pods and slots are new.
    pub(super) young: bool,
    pub(super) slots: Vec<SlotStatus>,
    /// Every slot's own balancer serves.
    pub(super) own_balancers: bool,
    /// A slot's address is a host name.
    pub(super) named_slot: bool,
    pub(super) workers: WorkersStatus,
    /// Workers that start for the first time, in all pods together.
    pub(super) booting: i32,
    /// Which component cannot reach which port.
    pub(super) unreachable: Option<String>,
    pub(super) reload_failed: bool,
    pub(super) no_node: bool,
    /// Some nodes lack a pod and cannot take one.
    pub(super) full_nodes: bool,
    /// Whether an app whose balancers hold requests has no pod, and why.
    pub(super) sleep: Sleep,
}

/// The owner of the app's objects.
pub(super) fn owner(object: &ScaledApp) -> Owner<'_> {
    let meta = &object.metadata;
    Owner {
        name: meta.name.as_deref().unwrap_or_default(),
        namespace: meta.namespace.as_deref().unwrap_or_default(),
        uid: meta.uid.as_deref().unwrap_or_default(),
    }
}

impl Facts {
    pub(super) fn of(
        object: &ScaledApp,
        observed: &Observed,
        outcome: Outcome<'_>,
        before: &ScaledAppStatus,
    ) -> Self {
        let name = &object.metadata.name;
        let live = observed
            .live
            .deployments
            .iter()
            .find(|live| live.metadata.name == *name);
        let planned = outcome.planned().and_then(|(_, plan)| {
            plan.apply
                .deployments
                .iter()
                .find(|planned| planned.metadata.name == *name)
        });
        let replicas = |deployment: &Deployment| deployment.spec.replicas;
        let live_replicas = live.and_then(replicas);
        let wanted = planned
            .and_then(replicas)
            .or(live_replicas)
            .unwrap_or_default();
        let written = match (live, planned) {
            (Some(live), Some(planned)) => is_written(live, planned, observed),
            (live, planned) => live.is_some() || planned.is_none(),
        };
        let state = live
            .and_then(|live| live.status.clone())
            .unwrap_or_default();
        let generation = live.and_then(|live| live.metadata.generation);
        let pods = state.replicas.unwrap_or_default();
        let updated = state.updated_replicas.unwrap_or_default();
        let rolled =
            state.observed_generation >= generation && updated == pods && updated >= wanted;
        let progress = state
            .conditions
            .iter()
            .flatten()
            .find(|condition| condition.type_.as_deref() == Some("Progressing"));
        let slots = slots(object, observed, outcome);
        let own = |slot: &SlotStatus| {
            let mut pods = serving(&observed.pods);
            pods.any(|pod| pod.slot == u32::try_from(slot.slot).ok())
        };
        let seen_ready = app_pods(observed).filter(|pod| pod.ready).count();
        let failure = failures::of_app(observed, live);
        let ready = state.ready_replicas.unwrap_or_default();
        Self {
            wanted,
            pods,
            ready,
            seen_ready: i32::try_from(seen_ready).unwrap_or(i32::MAX),
            changing: !written || !rolled || pods != wanted,
            resume_cure: live.filter(|_| !rolled).and_then(resume_cure),
            scaling: written && updated == pods && pods != wanted,
            // A condition from before the last change no longer applies.
            stuck: written
                && state.observed_generation >= generation
                && progress.is_some_and(|progress| {
                    progress.status.as_deref() == Some("False")
                        && progress.reason.as_deref() == Some("ProgressDeadlineExceeded")
                }),
            sleep: sleep(observed, outcome, failure.as_ref(), (wanted, ready)),
            failure,
            balancer_failure: failures::of_balancers(
                observed,
                object.metadata.name.as_deref().unwrap_or_default(),
            ),
            young: young(observed, &lacking(&slots, own)),
            own_balancers: slots.iter().all(own),
            named_slot: named_slot(object, observed),
            workers: workers(observed, &before.workers),
            booting: booting(observed),
            unreachable: reach::unreachable(observed),
            reload_failed: app_pods(observed).any(
                |pod| matches!(&pod.answer, Answer::Supervisor(answer) if answer.reload_failed.is_some()),
            ),
            no_node: no_node(observed, outcome),
            full_nodes: planned.is_some_and(|planned| {
                annotated(&planned.metadata, annotation::FULL_NODES).is_some()
            }),
            slots,
        }
    }

    pub(super) fn complete(&self) -> bool {
        !self.changing && self.ready >= self.wanted && self.serves_everywhere()
    }

    pub(super) fn serves_everywhere(&self) -> bool {
        !self.slots.is_empty() && self.slots.iter().all(|slot| slot.serving)
    }

    /// At least one pod is ready, and at least one slot serves.
    pub(super) fn serves(&self) -> bool {
        self.ready > 0 && self.serves_somewhere()
    }

    /// At least one slot serves.
    pub(super) fn serves_somewhere(&self) -> bool {
        self.slots.iter().any(|slot| slot.serving)
    }
}

/// Whether an app without a pod serves all the same. An app whose plan is stalled, that is paused
/// or whose pods fail wakes nobody.
fn sleep(
    observed: &Observed,
    outcome: Outcome<'_>,
    failure: Option<&PodFailure>,
    (wanted, ready): (i32, i32),
) -> Sleep {
    let acts = |(app, plan): &(&App, &Plan)| plan.stalled.is_none() && !app.paused;
    match outcome.planned().filter(acts) {
        Some((app, _)) if failure.is_none() => scaling::sleep(app, observed, wanted, ready),
        _ => Sleep::Awake,
    }
}

/// Whether the live Deployment is as planned. The operator's own annotations about nodes do
/// not count as a change.
fn is_written(live: &Deployment, planned: &Deployment, observed: &Observed) -> bool {
    let inputs = |deployment: &Deployment| {
        annotated(&deployment.metadata, annotation::INPUTS).map(ToOwned::to_owned)
    };
    let key = ObjectKey {
        kind: Kind::Deployment,
        name: live.metadata.name.clone().unwrap_or_default(),
    };
    let (there, wanted) = (&live.spec, &planned.spec);
    let admitted = || {
        let admitted = observed.admitted.get(&key);
        admitted.is_some_and(|it| it.explains_part("spec", there, wanted))
    };
    inputs(live) == inputs(planned) && (carries(there, wanted) || admitted())
}

/// How to resume a Deployment that is paused.
fn resume_cure(live: &Deployment) -> Option<String> {
    let meta = &live.metadata;
    let (namespace, name) = (meta.namespace.as_ref()?, meta.name.as_ref()?);
    let cure = || format!("kubectl -n {namespace} rollout resume deployment/{name}");
    (live.spec.paused == Some(true)).then(cure)
}

/// How long it takes until the next pod or slot stops being new.
pub(super) fn young_until(observed: &Observed) -> Option<Duration> {
    let pods = observed
        .pods
        .iter()
        .filter(|pod| !pod.deleting && !pod.ready)
        .filter_map(|pod| pod.created);
    let services = observed.live.services.iter();
    let slots = services
        .filter(|service| slot_of(&service.metadata).is_some())
        .filter_map(|service| Some(service.metadata.creation_timestamp.as_ref()?.0));
    let left = pods.chain(slots).filter_map(|created| {
        let age = observed.now.duration_since(created);
        Duration::try_from(NEW_FOR - age).ok()
    });
    left.filter(|left| !left.is_zero()).min()
}

/// The slots that do not serve, or not through their own balancer.
fn lacking(slots: &[SlotStatus], own: impl Fn(&SlotStatus) -> bool) -> Vec<u32> {
    let slots = slots.iter().filter(|slot| !own(slot) || !slot.serving);
    slots
        .filter_map(|slot| u32::try_from(slot.slot).ok())
        .collect()
}

/// Whether some pods are not ready or some slots are `lacking`, and all of these pods and slots are
/// new. They are new only for [`NEW_FOR`], so that something that never becomes ready is reported.
/// A pod for which Kubernetes reports a failure does not count as new.
fn young(observed: &Observed, lacking: &[u32]) -> bool {
    let is_young = |created: Timestamp| observed.now.duration_since(created) < NEW_FOR;
    // A pod that is being deleted will not become ready.
    let waits = |pod: &&Pod| !pod.deleting && !pod.ready;
    let pods: Vec<bool> = observed
        .pods
        .iter()
        .filter(waits)
        .map(|pod| {
            let fails = failures::of_kubernetes(pod, observed.now).is_some();
            !fails && pod.created.is_some_and(is_young)
        })
        .collect();
    let slot_is_new = |slot: &u32| {
        let services = observed.live.services.iter();
        let mut of_slot = services.filter(|it| slot_of(&it.metadata) == Some(*slot));
        of_slot.next().is_none_or(|service| {
            let created = service.metadata.creation_timestamp.as_ref();
            created.is_some_and(|created| is_young(created.0))
        })
    };
    // A slot also counts as new if a pod of it waits. Whether that pod is new is checked below.
    let pod_is_new = |slot: &u32| {
        let mut pods = observed.pods.iter().filter(waits);
        pods.any(|pod| pod.slot == Some(*slot))
    };
    let mut slots = lacking.iter();
    let any = !pods.is_empty() || !lacking.is_empty();
    any && pods.into_iter().all(|young| young)
        && slots.all(|slot| slot_is_new(slot) || pod_is_new(slot))
}

fn no_node(observed: &Observed, outcome: Outcome<'_>) -> bool {
    use crate::Pods;
    let Some((app, plan)) = outcome.planned() else {
        return false;
    };
    let mut deployments = plan.apply.deployments.iter();
    let planned =
        deployments.find(|planned| planned.metadata.name.as_deref() == Some(&app.app.name));
    let pod = planned.and_then(|planned| planned.spec.template.spec.as_ref());
    matches!(app.app.pods, Pods::PerNode(_))
        && pod.is_some_and(|pod| {
            !observed
                .nodes
                .iter()
                .any(|node| super::nodes::takes(node, pod))
        })
}

/// The sum of what the supervisors report. While a ready pod has not been queried yet or does not
/// answer, the previous sum is kept: a new leader has queried no pod at first, and a
/// `NetworkPolicy` that blocks the operator does not reduce the number of workers.
fn workers(observed: &Observed, before: &WorkersStatus) -> WorkersStatus {
    let ready = || app_pods(observed).filter(|pod| pod.ready);
    let unknown = ready().any(|pod| pod.answer == Answer::NotYet || pod.answer.is_silent());
    if unknown && before.desired > 0 {
        return before.clone();
    }
    // Saturates, so that a pod cannot falsify the sum by an overflow.
    let add = |sum: i32, answer: u32| sum.saturating_add(i32::try_from(answer).unwrap_or(i32::MAX));
    let (mut desired, mut count) = (0, 0);
    for answer in supervisors(observed) {
        desired = add(desired, answer.desired);
        count = add(count, answer.ready);
    }
    let summary = if desired == 0 && ready().any(|pod| pod.answer.is_silent()) {
        "unknown".to_owned()
    } else {
        format!("{count}/{desired}")
    };
    WorkersStatus {
        desired,
        ready: count,
        summary,
    }
}

fn supervisors(observed: &Observed) -> impl Iterator<Item = &Supervisor> {
    app_pods(observed).filter_map(|pod| match &pod.answer {
        Answer::Supervisor(answer) => Some(answer),
        _ => None,
    })
}

fn booting(observed: &Observed) -> i32 {
    let all = supervisors(observed).map(|answer| answer.booting);
    i32::try_from(all.fold(0, u32::saturating_add)).unwrap_or(i32::MAX)
}

fn live_slots<'a>(object: &ScaledApp, observed: &'a Observed) -> Vec<(u32, &'a Service)> {
    let owner = owner(object);
    let mut slots: Vec<(u32, &Service)> = observed
        .live
        .services
        .iter()
        .filter(|service| owner.owns(&service.metadata))
        .filter(|service| annotated(&service.metadata, annotation::RETIRED).is_none())
        .filter_map(|service| Some((slot_of(&service.metadata)?, service)))
        .collect();
    slots.sort_by_key(|(slot, _)| *slot);
    slots
}

/// The slots of the object, or the existing ones if the object is invalid.
fn slots(object: &ScaledApp, observed: &Observed, outcome: Outcome<'_>) -> Vec<SlotStatus> {
    let live = live_slots(object, observed);
    let numbers: Vec<u32> = match outcome.planned() {
        Some((app, _)) => (0..app.balancers.slots.get()).collect(),
        None => live.iter().map(|(slot, _)| *slot).collect(),
    };
    let status = |number: u32| {
        let service = live.iter().find(|(slot, _)| *slot == number);
        let address = service
            .and_then(|(_, service)| address(service))
            .unwrap_or_default();
        SlotStatus {
            slot: number as i32,
            serving: !address.is_empty() && leads_somewhere(number, observed),
            address,
        }
    };
    numbers.into_iter().map(status).collect()
}

fn is_load_balancer(service: &Service) -> bool {
    let kind = service.spec.as_ref().and_then(|spec| spec.type_.as_deref());
    kind == Some("LoadBalancer")
}

/// The address that clients use for this Service.
fn address(service: &Service) -> Option<String> {
    if is_load_balancer(service) {
        let ingress = service
            .status
            .as_ref()?
            .load_balancer
            .as_ref()?
            .ingress
            .as_ref()?;
        return ingress.iter().find_map(|ingress| ingress.ip.clone());
    }
    let address = service.spec.as_ref()?.cluster_ip.clone()?;
    Some(address).filter(|address| !address.is_empty() && address != "None")
}

fn named_slot(object: &ScaledApp, observed: &Observed) -> bool {
    live_slots(object, observed)
        .into_iter()
        .any(|(_, service)| {
            let status = service
                .status
                .as_ref()
                .and_then(|status| status.load_balancer.as_ref());
            let ingress = status.and_then(|status| status.ingress.as_ref());
            is_load_balancer(service)
                && ingress
                    .into_iter()
                    .flatten()
                    .any(|ingress| ingress.ip.is_none() && ingress.hostname.is_some())
        })
}
