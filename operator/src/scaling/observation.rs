//! From what Kubernetes says of pods and Deployments to what the autoscaler observes.
//!
//! Pure: pods of the store and reports in, observations out. What they mean is decided in
//! [`scaledapp_scale`].

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{
    Container, ContainerStatus, Pod, PodCondition, PodStatus, ResourceRequirements,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::jiff::Timestamp;
use scaledapp_plan::cluster::{Answer, Trouble, cpu_millis};
use scaledapp_scale::{PodReport, PodState, Resize};

/// The container that runs the app.
pub(crate) const CONTAINER: &str = "app";
/// A refusal counts after this time. A `ReplicaSet` creates pods in growing batches; the first batch
/// that is refused as a whole is tried again in smaller ones.
const REFUSAL_AGE: Duration = Duration::from_secs(2);

/// What else is known of a pod of the app.
#[derive(Debug, Clone, Default)]
pub(crate) struct Beside {
    /// The pod was ready before.
    pub(crate) was_ready: bool,
    /// What its admin port answered to `/status`.
    pub(crate) answer: Answer,
    /// Pods of this app may be resized.
    pub(crate) resizes: bool,
    /// The API server has refused to resize pods of this app.
    pub(crate) resize_refused: bool,
    /// Its report since the last observation.
    pub(crate) report: Option<PodReport>,
}

/// What is observed of one pod of the app.
pub(crate) fn pod(pod: &Pod, now: Timestamp, beside: &Beside) -> scaledapp_scale::Pod {
    let status = pod.status.as_ref();
    let resize = if beside.resize_refused {
        Resize::Infeasible
    } else {
        status.map(resize).unwrap_or_default()
    };
    scaledapp_scale::Pod {
        name: pod.metadata.uid.clone().unwrap_or_default(),
        state: state(pod, beside),
        age: age(pod, now),
        resize,
        cpu_limit: cpu(pod, beside.resizes),
        report: beside.report,
    }
}

/// How long ago the pod was created, by this machine's clock.
pub(crate) fn age(pod: &Pod, now: Timestamp) -> Duration {
    let created = pod.metadata.creation_timestamp.as_ref();
    let age = created.map(|created| now.duration_since(created.0));
    age.and_then(|age| Duration::try_from(age).ok())
        .unwrap_or_default()
}

/// Whether the pod is about to end, or has ended.
pub(crate) fn is_leaving(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some() || matches!(phase(pod), Some("Succeeded" | "Failed"))
}

/// Whether a balancer's pod counts as a balancer. One that does not run yet has no requests, and one
/// that is about to end counts only while it still reports.
pub(crate) fn is_balancer(pod: &Pod, reports: bool) -> bool {
    phase(pod) == Some("Running") && (reports || !is_leaving(pod))
}

fn phase(pod: &Pod) -> Option<&str> {
    pod.status.as_ref()?.phase.as_deref()
}

/// Whether the pod is ready.
pub(crate) fn is_ready(pod: &Pod) -> bool {
    let status = pod.status.as_ref();
    status.is_some_and(|status| condition(status, "Ready").is_some_and(is_true))
}

fn state(pod: &Pod, beside: &Beside) -> PodState {
    if is_leaving(pod) {
        return PodState::Leaving;
    }
    if is_ready(pod) {
        return PodState::Ready;
    }
    let Some(status) = &pod.status else {
        return PodState::Starting;
    };
    if is_unschedulable(status) {
        PodState::Unschedulable
    } else if is_crash_looping(status) || ends_at_once(&beside.answer) {
        PodState::CrashLooping
    } else if beside.was_ready {
        PodState::NotReady
    } else {
        PodState::Starting
    }
}

fn is_unschedulable(status: &PodStatus) -> bool {
    condition(status, "PodScheduled").is_some_and(|scheduled| {
        scheduled.status == "False" && scheduled.reason.as_deref() == Some("Unschedulable")
    })
}

/// Whether a container waits for its next start after it has ended again and again. While it runs
/// for a moment in between, its restarts show the same.
fn is_crash_looping(status: &PodStatus) -> bool {
    let inits = status.init_container_statuses.iter().flatten();
    let mut all = inits.chain(status.container_statuses.iter().flatten());
    all.any(|container| {
        let waiting = container.state.as_ref().and_then(|it| it.waiting.as_ref());
        let reason = waiting.and_then(|waiting| waiting.reason.as_deref());
        reason == Some("CrashLoopBackOff") || container.restart_count >= 2 && !container.ready
    })
}

/// Whether the supervisor reports that workers end and none is ready.
fn ends_at_once(answer: &Answer) -> bool {
    match answer {
        Answer::Supervisor(supervisor) => {
            supervisor.ready == 0 && matches!(supervisor.trouble, Some(Trouble::Ended(_)))
        }
        _ => false,
    }
}

fn condition<'a>(status: &'a PodStatus, kind: &str) -> Option<&'a PodCondition> {
    let mut conditions = status.conditions.iter().flatten();
    conditions.find(|condition| condition.type_ == kind)
}

fn is_true(condition: &PodCondition) -> bool {
    condition.status == "True"
}

/// What has become of the last resize (Kubernetes 1.33 and newer).
fn resize(status: &PodStatus) -> Resize {
    let pending = condition(status, "PodResizePending").filter(|pending| is_true(pending));
    match pending.and_then(|pending| pending.reason.as_deref()) {
        Some("Infeasible") => Resize::Infeasible,
        Some(_) => Resize::Deferred,
        None => Resize::Settled,
    }
}

/// The app's container.
pub(crate) fn container(pod: &Pod) -> Option<&Container> {
    let mut containers = pod.spec.iter().flat_map(|spec| &spec.containers);
    containers.find(|container| container.name == CONTAINER)
}

/// The CPU that the kubelet has granted the app's container, in cores. That is its limit. A
/// container without a limit that may be resized has what it requests.
fn cpu(pod: &Pod, resizes: bool) -> Option<f64> {
    let statuses = pod.status.iter();
    let mut statuses = statuses.flat_map(|status| status.container_statuses.iter().flatten());
    let granted = statuses
        .find(|container| container.name == CONTAINER)
        .and_then(|container: &ContainerStatus| container.resources.as_ref());
    let asked = container(pod).and_then(|container| container.resources.as_ref());
    let limit = granted.and_then(limit).or_else(|| limit(asked?));
    let request = || granted.and_then(request).or_else(|| request(asked?));
    let millis = limit.or_else(|| resizes.then(request).flatten())?;
    Some(millis as f64 / 1000.0)
}

/// The CPU limit, in thousandths of a core.
pub(crate) fn limit(resources: &ResourceRequirements) -> Option<u64> {
    millis(resources.limits.as_ref())
}

/// The CPU request, in thousandths of a core.
pub(crate) fn request(resources: &ResourceRequirements) -> Option<u64> {
    millis(resources.requests.as_ref())
}

fn millis(amounts: Option<&BTreeMap<String, Quantity>>) -> Option<u64> {
    cpu_millis(&amounts?.get("cpu")?.0).filter(|millis| *millis > 0)
}

/// The number of pods that exist although the Deployment wants more, if the API server refuses to
/// create more; `None` if it refuses nothing.
pub(crate) fn refused_above(
    deployment: Option<&Deployment>,
    existing: u32,
    now: Timestamp,
) -> Option<u32> {
    let deployment = deployment?;
    let status = deployment.status.as_ref()?;
    // A status of an earlier number of pods is about that number.
    if status.observed_generation < deployment.metadata.generation {
        return None;
    }
    let refusal = status.conditions.iter().flatten().find(|condition| {
        condition.type_.as_deref() == Some("ReplicaFailure")
            && condition.status.as_deref() == Some("True")
            && condition.reason.as_deref() == Some("FailedCreate")
    })?;
    let age = refusal
        .last_transition_time
        .as_ref()
        .and_then(|since| Duration::try_from(now.duration_since(since.0)).ok());
    age.filter(|age| *age >= REFUSAL_AGE).map(|_| existing)
}

#[cfg(test)]
mod tests {
    use scaledapp_plan::cluster::Supervisor;
    use serde_json::{Value, json};

    use super::*;

    fn read(status: &Value) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": "p", "uid": "u", "creationTimestamp": "2026-11-24T00:00:00Z"},
            "spec": {"containers": [
                {"name": "other", "resources": {"limits": {"cpu": "9"}}},
                {"name": "app", "resources": {"limits": {"cpu": "2"}, "requests": {"cpu": "500m"}}},
            ]},
            "status": status,
        }))
        .unwrap()
    }

    fn now() -> Timestamp {
        "2026-11-24T00:01:30Z".parse().unwrap()
    }

    fn is(status: &Value, beside: &Beside) -> PodState {
        pod(&read(status), now(), beside).state
    }

    fn conditions(list: &[(&str, &str, &str)]) -> Value {
        let list = list.iter().map(
            |(kind, status, reason)| json!({"type": kind, "status": status, "reason": reason}),
        );
        json!({"phase": "Running", "conditions": list.collect::<Vec<_>>()})
    }

    #[test]
    fn states_follow_from_conditions_restarts_and_what_the_supervisor_reports() {
        let nothing = Beside::default();
        let ready = conditions(&[("Ready", "True", "")]);
        let unready = conditions(&[("Ready", "False", "ContainersNotReady")]);
        let unplaced = conditions(&[("PodScheduled", "False", "Unschedulable")]);
        let gated = conditions(&[("PodScheduled", "False", "SchedulingGated")]);
        assert_eq!(is(&ready, &nothing), PodState::Ready);
        assert_eq!(is(&unready, &nothing), PodState::Starting);
        assert_eq!(is(&json!({}), &nothing), PodState::Starting);
        assert_eq!(is(&gated, &nothing), PodState::Starting);
        assert_eq!(is(&unplaced, &nothing), PodState::Unschedulable);
        assert_eq!(is(&json!({"phase": "Failed"}), &nothing), PodState::Leaving);
        let before = Beside {
            was_ready: true,
            ..Beside::default()
        };
        assert_eq!(is(&unready, &before), PodState::NotReady);
        let container = |state: Value, restarts: u32| {
            json!({"containerStatuses": [{
                "name": "app", "image": "", "imageID": "", "ready": false,
                "restartCount": restarts, "state": state,
            }]})
        };
        let waiting = json!({"waiting": {"reason": "CrashLoopBackOff"}});
        assert_eq!(is(&container(waiting, 1), &before), PodState::CrashLooping);
        let running = json!({"running": {}});
        assert_eq!(
            is(&container(running.clone(), 2), &nothing),
            PodState::CrashLooping
        );
        assert_eq!(is(&container(running, 1), &nothing), PodState::Starting);
        let told = |ready| Beside {
            was_ready: true,
            answer: Answer::Supervisor(Supervisor {
                ready,
                trouble: Some(Trouble::Ended("exited with code 1".to_owned())),
                ..Supervisor::default()
            }),
            ..Beside::default()
        };
        assert_eq!(is(&unready, &told(0)), PodState::CrashLooping);
        assert_eq!(is(&unready, &told(1)), PodState::NotReady);
        // The kubelet's word is the newer one for a ready pod.
        assert_eq!(is(&ready, &told(0)), PodState::Ready);
    }

    #[test]
    fn a_balancer_counts_while_it_runs_and_after_that_while_it_reports() {
        let mut running = read(&json!({"phase": "Running"}));
        let pending = read(&json!({"phase": "Pending"}));
        assert!(is_balancer(&running, false));
        assert!(!is_balancer(&pending, false));
        running.metadata.deletion_timestamp = running.metadata.creation_timestamp.clone();
        assert!(is_balancer(&running, true));
        assert!(!is_balancer(&running, false));
    }

    #[test]
    fn cpu_is_what_the_kubelet_has_granted() {
        let cpu = |status: &Value, resizes| {
            let beside = Beside {
                resizes,
                ..Beside::default()
            };
            pod(&read(status), now(), &beside).cpu_limit
        };
        let granted = |resources: Value| {
            json!({"containerStatuses": [{
                "name": "app", "image": "", "imageID": "", "ready": true, "restartCount": 0,
                "resources": resources,
            }]})
        };
        assert_eq!(cpu(&json!({}), false), Some(2.0));
        let more = granted(json!({"limits": {"cpu": "1500m"}}));
        assert_eq!(cpu(&more, false), Some(1.5));
        let mut unlimited = read(&json!({}));
        let containers = &mut unlimited.spec.as_mut().unwrap().containers;
        containers[1].resources.as_mut().unwrap().limits = None;
        let cpu = |resizes| {
            let beside = Beside {
                resizes,
                ..Beside::default()
            };
            pod(&unlimited, now(), &beside).cpu_limit
        };
        assert_eq!((cpu(false), cpu(true)), (None, Some(0.5)));
    }

    #[test]
    fn a_resize_is_settled_deferred_or_infeasible() {
        let is = |status: &Value, resize_refused| {
            let beside = Beside {
                resize_refused,
                ..Beside::default()
            };
            let pod = pod(&read(status), now(), &beside);
            assert_eq!(pod.age, Duration::from_secs(90));
            pod.resize
        };
        let pending = |reason| conditions(&[("PodResizePending", "True", reason)]);
        assert_eq!(is(&json!({}), false), Resize::Settled);
        assert_eq!(is(&pending("Deferred"), false), Resize::Deferred);
        assert_eq!(is(&pending("Infeasible"), false), Resize::Infeasible);
        let over = conditions(&[("PodResizePending", "False", "")]);
        assert_eq!(is(&over, false), Resize::Settled);
        assert_eq!(is(&json!({}), true), Resize::Infeasible);
    }

    #[test]
    fn a_refusal_counts_once_it_has_lasted_and_is_about_the_present_number() {
        let refused = |generation: i64, since: &str, reason: &str| {
            let deployment = json!({
                "metadata": {"name": "hello", "generation": 7},
                "spec": {"selector": {}, "template": {}},
                "status": {"observedGeneration": generation, "conditions": [
                    {"type": "Progressing", "status": "True"},
                    {"type": "ReplicaFailure", "status": "True", "reason": reason, "lastTransitionTime": since},
                ]},
            });
            let deployment: Deployment = serde_json::from_value(deployment).unwrap();
            refused_above(Some(&deployment), 8, now())
        };
        assert_eq!(refused(7, "2026-11-24T00:01:28Z", "FailedCreate"), Some(8));
        assert_eq!(refused(7, "2026-11-24T00:01:29Z", "FailedCreate"), None);
        assert_eq!(refused(6, "2026-11-24T00:01:00Z", "FailedCreate"), None);
        assert_eq!(refused(7, "2026-11-24T00:01:00Z", "FailedDelete"), None);
        assert_eq!(refused_above(None, 8, now()), None);
    }
}
