//! The pods of an app, and their workers.

use k8s_openapi::api::core::v1 as core;
use scaledapp_crds::words::{component, label};
use scaledapp_wire::{Status, WorkerState};

use super::counters::Sum;
use super::object::image_version;
use super::seen::Seen;
use super::tree::{Health, Pod, Worker};

/// The init container that brings the supervisor.
const INSTALL: &str = "scaledapp-install";
/// The volume with the supervisor's image, where it is delivered as one.
const CONTAINER: &str = "app";

/// The pods of a component of an app.
pub(crate) fn labelled<'a>(
    pods: &'a [core::Pod],
    namespace: &str,
    name: &str,
    component: &str,
) -> Vec<&'a core::Pod> {
    let is_it = |pod: &&core::Pod| {
        let labels = pod.metadata.labels.as_ref();
        let has = |key: &str, value: &str| {
            labels
                .and_then(|labels| labels.get(key))
                .is_some_and(|it| it == value)
        };
        pod.metadata.namespace.as_deref() == Some(namespace)
            && has(label::INSTANCE, name)
            && has(label::COMPONENT, component)
    };
    pods.iter().filter(is_it).collect()
}

/// What happened in a pod between two readings.
pub(crate) fn sum_of(
    namespace: &str,
    pod: &str,
    seen: &Seen,
    earlier: Option<&Seen>,
) -> Option<Sum> {
    let key = (namespace.to_owned(), pod.to_owned());
    let now = seen.answers.get(&key)?.counters.as_ref()?;
    let before = earlier?.answers.get(&key)?.counters.as_ref()?;
    now.since(before)
}

/// The app's pods, those with problems first, then by name.
pub(crate) fn pods(namespace: &str, name: &str, seen: &Seen, earlier: Option<&Seen>) -> Vec<Pod> {
    let all = seen.pods.as_deref().unwrap_or_default();
    let mut pods: Vec<Pod> = labelled(all, namespace, name, component::APP)
        .into_iter()
        .map(|pod| one(namespace, pod, seen, earlier))
        .collect();
    pods.sort_by(|a, b| (a.health, &a.name).cmp(&(b.health, &b.name)));
    pods
}

fn one(namespace: &str, pod: &core::Pod, seen: &Seen, earlier: Option<&Seen>) -> Pod {
    let name = pod.metadata.name.clone().unwrap_or_default();
    let key = (namespace.to_owned(), name.clone());
    let answered = seen.answers.get(&key);
    let said = answered.map(|answered| match &answered.status {
        Ok(text) => serde_json::from_str::<Status>(text)
            .map_err(|_| "the answer is not a supervisor's".to_owned()),
        Err(why) => Err(why.clone()),
    });
    let (status, unknown) = match said {
        Some(Ok(status)) => (Some(status), None),
        Some(Err(why)) => (None, Some(why)),
        None => (None, None),
    };
    let before = earlier.and_then(|earlier| {
        let then = earlier.answers.get(&key)?;
        let status: Status = serde_json::from_str(then.status.as_ref().ok()?).ok()?;
        Some((status, answered?.at - then.at))
    });
    let (ready, state, container_restarts) = container(pod);
    let workers = status
        .as_ref()
        .map(|status| workers(status, before.as_ref()));
    let workers = workers.unwrap_or_default();
    let worker_restarts: u32 = workers.iter().map(|worker| worker.restarts).sum();
    let health = match (ready, &status) {
        (false, _) => Health::Failing,
        (true, Some(status)) if status.ready < status.desired => Health::Warning,
        (true, Some(status)) if status.reload_failed.is_some() => Health::Warning,
        (true, None) if unknown.is_some() => Health::Unknown,
        (true, _) => Health::Good,
    };
    Pod {
        node: pod
            .spec
            .as_ref()
            .and_then(|spec| spec.node_name.clone())
            .unwrap_or_default(),
        health,
        state,
        ready,
        workers_ready: status.as_ref().map(|status| status.ready),
        workers_desired: status.as_ref().map(|status| status.desired),
        generation: status.as_ref().map(|status| status.generation),
        restarts: worker_restarts + container_restarts,
        in_flight: status
            .as_ref()
            .map(|status| status.workers.iter().map(|worker| worker.in_flight).sum()),
        rates: sum_of(namespace, &name, seen, earlier).map(|sum| sum.rates()),
        supervisor: supervisor(pod),
        mechanism: status
            .as_ref()
            .map(|status| status.mechanism.as_str().to_owned()),
        dispatch: status
            .as_ref()
            .map(|status| status.dispatch.as_str().to_owned()),
        reload_failed: status
            .as_ref()
            .is_some_and(|status| status.reload_failed.is_some()),
        workers,
        unknown,
        name,
    }
}

/// Whether the pod is ready, its state in one word, and the restarts of its containers.
fn container(pod: &core::Pod) -> (bool, String, u32) {
    let Some(status) = &pod.status else {
        return (false, "Unknown".to_owned(), 0);
    };
    let conditions = status.conditions.iter().flatten();
    let is_ready = conditions
        .into_iter()
        .any(|it| it.type_ == "Ready" && it.status == "True");
    let inits = status.init_container_statuses.iter().flatten();
    let mains = status.container_statuses.iter().flatten();
    let mut why = None;
    let mut restarts = 0;
    for container in inits.chain(mains) {
        restarts += u32::try_from(container.restart_count).unwrap_or_default();
        let waiting = container
            .state
            .as_ref()
            .and_then(|state| state.waiting.as_ref());
        let reason = waiting.and_then(|waiting| waiting.reason.clone());
        why = why.or(reason);
    }
    let phase = status.phase.clone().unwrap_or_default();
    let state = if pod.metadata.deletion_timestamp.is_some() {
        "Terminating".to_owned()
    } else if is_ready {
        "Running".to_owned()
    } else {
        let unschedulable = status.conditions.iter().flatten();
        let unschedulable = unschedulable
            .into_iter()
            .find(|it| it.type_ == "PodScheduled" && it.status == "False");
        why.or_else(|| unschedulable.and_then(|it| it.reason.clone()))
            .unwrap_or(if phase == "Running" {
                "NotReady".to_owned()
            } else {
                phase
            })
    };
    (is_ready, state, restarts)
}

/// The version of the supervisor in a pod, which is not the operator's after an upgrade.
fn supervisor(pod: &core::Pod) -> String {
    let Some(spec) = &pod.spec else {
        return String::new();
    };
    let mut inits = spec.init_containers.iter().flatten();
    let installed = inits
        .find(|it| it.name == INSTALL)
        .and_then(|it| it.image.as_deref());
    let volumes = spec.volumes.iter().flatten();
    let mounted = volumes
        .filter(|volume| volume.name.starts_with("scaledapp"))
        .find_map(|volume| volume.image.as_ref()?.reference.as_deref());
    let has_app = spec.containers.iter().any(|it| it.name == CONTAINER);
    match installed.or(mounted).filter(|_| has_app) {
        Some(image) => image_version(image),
        None => String::new(),
    }
}

/// The workers and the slots without a process, by slot. `before` is an earlier status with the
/// seconds since then.
fn workers(status: &Status, before: Option<&(Status, f64)>) -> Vec<Worker> {
    let running = status.workers.iter().map(|worker| {
        let then = before.and_then(|(then, seconds)| {
            let same = then.workers.iter().find(|it| it.pid == worker.pid)?;
            Some((same.cpu_seconds?, *seconds))
        });
        let cores = worker
            .cpu_seconds
            .zip(then)
            .filter(|(_, (_, seconds))| *seconds > 0.0);
        Worker {
            slot: worker.slot,
            health: match (worker.state, worker.listens_elsewhere) {
                (_, Some(_)) => Health::Failing,
                (WorkerState::Ready, None) => Health::Good,
                _ => Health::Warning,
            },
            state: worker.state.as_str().to_owned(),
            generation: Some(worker.generation),
            restarts: worker.restarts,
            in_flight: worker.in_flight,
            rss_bytes: worker.rss_bytes,
            cores: cores.map(|(now, (then, seconds))| ((now - then) / seconds).max(0.0)),
            up_seconds: worker.uptime_seconds,
            last_end: worker.last_exit.as_ref().map(|it| it.text.clone()),
            listens_elsewhere: worker.listens_elsewhere,
        }
    });
    let waiting = status.waiting.iter().map(|slot| Worker {
        slot: slot.slot,
        health: Health::Failing,
        state: slot.state.as_str().to_owned(),
        generation: None,
        restarts: slot.restarts,
        in_flight: 0,
        rss_bytes: 0,
        cores: None,
        up_seconds: None,
        last_end: slot.last_exit.as_ref().map(|it| it.text.clone()),
        listens_elsewhere: None,
    });
    let mut all: Vec<Worker> = running.chain(waiting).collect();
    all.sort_by_key(|worker| (worker.slot, worker.generation));
    all
}
