//! Chooses which of several failures to report as the reason why pods do not run. If Kubernetes
//! or a pod gives a message, that message is used; otherwise the operator writes one. The text
//! does not change while the cause is the same.

use std::time::Duration;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use scaledapp_crds::words::{Reason, component};

use super::pod_failure::{Part, PodFailure, WaitsFor};
use super::{Answer, Observed, Pod, Trouble};

/// A balancer that does not serve after this time is reported, with the reason that it gives.
const BALANCER_TIMEOUT: SignedDuration = SignedDuration::from_secs(60);

/// A pod that the scheduler refuses is reported only after this time. Many refusals are
/// temporary: a drained node leaves a pod without a node, and a moment later the operator asks
/// for fewer pods.
const REFUSED_FOR: SignedDuration = SignedDuration::from_secs(5);
/// If nothing has been reported about a new pod after this time, its scheduler is assumed not to
/// run.
const SCHEDULER_TIMEOUT: SignedDuration = SignedDuration::from_secs(10);
/// A pod that still waits for a volume after this time is reported. Clouds usually create a
/// volume faster.
const VOLUME_TIMEOUT: SignedDuration = SignedDuration::from_secs(60);

/// Why the app's pods do not run. Pods that may not be created come first, then pods that
/// cannot start, then pods that no node takes.
pub(super) fn of_app(observed: &Observed, live: Option<&Deployment>) -> Option<PodFailure> {
    live.and_then(refused)
        .or_else(|| of_pods(observed, component::APP))
}

/// Why the balancers' pods do not run. The failures have the same order as in [`of_app`].
pub(super) fn of_balancers(observed: &Observed, app: &str) -> Option<PodFailure> {
    let live = observed.live.deployments.iter();
    let mut balancers = live.filter(|it| it.metadata.name.as_deref() != Some(app));
    balancers
        .find_map(refused)
        .or_else(|| of_pods(observed, component::BALANCER))
}

fn of_pods(observed: &Observed, component: &str) -> Option<PodFailure> {
    let pods = observed.pods.iter();
    let failing = pods.filter(|pod| pod.component == component && !pod.deleting && !pod.ready);
    let failures = failing.filter_map(|pod| of_pod(pod, observed));
    failures.min_by_key(|failure| {
        (
            failure.reason == Reason::Unschedulable,
            failure.reason.as_str(),
            failure.part.clone(),
            failure.message.clone(),
        )
    })
}

/// The failure that Kubernetes reports for a pod, otherwise the one that its supervisor or
/// balancer reports.
fn of_pod(pod: &Pod, observed: &Observed) -> Option<PodFailure> {
    of_kubernetes(pod, observed.now).or_else(|| match &pod.answer {
        Answer::Supervisor(answer) if answer.ready == 0 => {
            Some(in_trouble(pod, answer.trouble.as_ref()?))
        }
        Answer::Balancer(answer) if !answer.serving => {
            let age = observed.now.duration_since(pod.created?);
            let message = answer.why.clone().filter(|_| age >= BALANCER_TIMEOUT)?;
            Some(PodFailure {
                reason: Reason::NoBalancerServing,
                message,
                part: Part::Main,
            })
        }
        _ => None,
    })
}

/// The failure that Kubernetes reports for a pod, once it has lasted long enough.
pub(super) fn of_kubernetes(pod: &Pod, now: Timestamp) -> Option<PodFailure> {
    if reported_in(pod, now).is_some() {
        return None;
    }
    pod.failure.clone().or_else(|| {
        let message = match pod.waits_for.as_ref()? {
            WaitsFor::Scheduler(name) => format!("no scheduler named {name} has looked at it"),
            WaitsFor::Claim(name) => {
                format!("it waits for the volume of PersistentVolumeClaim {name}")
            }
        };
        Some(PodFailure {
            reason: Reason::Unschedulable,
            message,
            part: Part::Main,
        })
    })
}

/// How long it takes until the failure of a pod is reported; `None` if it is reported now or
/// there is none.
fn reported_in(pod: &Pod, now: Timestamp) -> Option<Duration> {
    let (since, least) = match (&pod.failure, &pod.waits_for) {
        (Some(failure), _) if failure.reason == Reason::Unschedulable => {
            (pod.refused_since, REFUSED_FOR)
        }
        (Some(_), _) | (None, None) => return None,
        (None, Some(WaitsFor::Scheduler(_))) => (pod.created, SCHEDULER_TIMEOUT),
        (None, Some(WaitsFor::Claim(_))) => (pod.created, VOLUME_TIMEOUT),
    };
    let left = Duration::try_from(least - now.duration_since(since?)).ok()?;
    (!left.is_zero()).then_some(left)
}

/// When the next failure becomes old enough to be reported.
pub(super) fn wake(observed: &Observed) -> Option<Duration> {
    let pods = observed.pods.iter().filter(|pod| !pod.deleting);
    pods.filter_map(|pod| reported_in(pod, observed.now)).min()
}

fn in_trouble(pod: &Pod, trouble: &Trouble) -> PodFailure {
    let (reason, message) = match trouble {
        Trouble::ListensOn(other) => {
            let wanted = match pod.port {
                Some(port) => format!("spec.port is {port}"),
                None => "spec.port is a different one".to_owned(),
            };
            let message = format!("the app listens on {other}, {wanted}");
            (Reason::WrongPort, message)
        }
        Trouble::Ended(how) => (Reason::AppCrashing, how.clone()),
    };
    PodFailure {
        reason,
        message,
        part: Part::Main,
    }
}

/// Why the API server refuses to create more pods of this Deployment.
fn refused(live: &Deployment) -> Option<PodFailure> {
    let status = live.status.as_ref()?;
    let mut conditions = status.conditions.iter().flatten();
    let failure = conditions.find(|it| {
        it.type_.as_deref() == Some("ReplicaFailure") && it.status.as_deref() == Some("True")
    })?;
    Some(PodFailure {
        reason: Reason::PodsRefused,
        message: without_names(failure.message.as_deref().unwrap_or_default()),
        part: Part::Main,
    })
}

/// Removes what differs between attempts: the pod's name (`pods "hello-7f66-abcde" is
/// forbidden: …`) and the local address and port of a call to a webhook
/// (`read tcp 10.0.0.1:40312->…`).
fn without_names(message: &str) -> String {
    let mut message = message.to_owned();
    for (end, word) in [
        ("\" is forbidden: ", "forbidden: "),
        ("\" is invalid: ", "invalid: "),
    ] {
        let Some((before, why)) = message.split_once(end) else {
            continue;
        };
        if ["pods \"", "Pod \""]
            .iter()
            .any(|start| before.starts_with(start))
        {
            message = format!("{word}{why}");
        }
    }
    while let Some(arrow) = message.find("->") {
        let from = message[..arrow].rfind(' ').map_or(0, |space| space + 1);
        message.replace_range(from..arrow + 2, "");
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_says_the_same_at_each_try() {
        for (message, expected) in [
            (
                "pods \"hello-7f66-abcde\" is forbidden: exceeded quota: q",
                "forbidden: exceeded quota: q",
            ),
            (
                "Pod \"hello-7f66-abcde\" is invalid: spec.containers[0].resources.requests: Invalid value: \"2\"",
                "invalid: spec.containers[0].resources.requests: Invalid value: \"2\"",
            ),
            (
                "Internal error occurred: failed calling webhook \"x.y\": read tcp 10.0.0.1:40312->10.0.0.2:443: connection reset",
                "Internal error occurred: failed calling webhook \"x.y\": read tcp 10.0.0.2:443: connection reset",
            ),
        ] {
            assert_eq!(without_names(message), expected);
        }
    }
}
