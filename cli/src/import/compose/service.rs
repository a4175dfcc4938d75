//! Maps the fields of a service of Compose: how many, how large, how it ends. `run` maps what it
//! runs, `pod` what its pod needs, `health` when it is ready.

use super::super::draft::{Document, Draft};
use super::super::report::Scope;
use super::super::tree::Node;
use super::amounts::{seconds, size};
use super::given::Given;
use super::{health, pod, ports, run};

/// Fields that ScaledApp does anyway, or has another way for.
const CHANGED: [(&str, &str); 12] = [
    ("restart", "workers and pods are always started again"),
    (
        "networks",
        "every pod reaches every Service; to restrict that, write a NetworkPolicy",
    ),
    ("links", "every pod reaches every Service under its name"),
    ("container_name", "pods have names of their own"),
    (
        "hostname",
        "pods have names of their own; clients use the app's name",
    ),
    ("init", "the supervisor is PID 1 and reaps processes"),
    ("profiles", "is converted as if its profile was active"),
    ("platform", "an image in a registry names its platforms"),
    (
        "pull_policy",
        "set imagePullPolicy in spec.podTemplate if the default does not fit",
    ),
    ("attach", "concerns only `docker compose up`"),
    ("extends", "is resolved"),
    ("annotations", "concern only the container engine"),
];

/// Fields without a counterpart, each with what to do.
const LOST: [(&str, &str); 21] = [
    (
        "depends_on",
        "pods start in any order: make the app retry its connections",
    ),
    (
        "labels",
        "labels of a proxy such as Traefik have no effect: the balancers take its place, or an Ingress in front of them",
    ),
    ("label_file", "labels of a container have no effect"),
    (
        "logging",
        "everything goes to stdout and stderr, which the cluster collects",
    ),
    (
        "network_mode",
        "pods have a network of their own; hostNetwork: true in spec.podTemplate",
    ),
    ("pid", "hostPID: true in spec.podTemplate"),
    ("ipc", "hostIPC: true in spec.podTemplate"),
    (
        "devices",
        "ask for a device plugin's resource in spec.resources.limits",
    ),
    ("gpus", "ask for nvidia.com/gpu in spec.resources.limits"),
    ("ulimits", "the container runtime of the nodes sets them"),
    (
        "sysctls",
        "set spec.podTemplate.spec.securityContext.sysctls",
    ),
    (
        "shm_size",
        "mount an emptyDir with medium: Memory at /dev/shm in spec.podTemplate",
    ),
    ("dns_search", "set spec.podTemplate.spec.dnsConfig.searches"),
    ("dns_opt", "set spec.podTemplate.spec.dnsConfig.options"),
    ("domainname", "set spec.podTemplate.spec.subdomain"),
    ("cgroup_parent", "the kubelet decides"),
    ("runtime", "set spec.podTemplate.spec.runtimeClassName"),
    ("userns_mode", "set hostUsers in spec.podTemplate"),
    ("blkio_config", "pods have no such limits"),
    (
        "oom_score_adj",
        "the kubelet decides by the requests of memory",
    ),
    ("develop", "for development: scaledapp local --watch"),
];

/// The app that a service becomes.
pub(super) fn convert(
    name: &str,
    service: &Node,
    given: &Given<'_>,
    scope: &mut Scope<'_>,
) -> Document {
    let mut draft = Draft::new(given.name.unwrap_or(name));
    let port = ports::port(service);
    run::convert(service, given, &mut draft, scope);
    if port.is_none() {
        let why = "Assumed: the file names no port. The app gets it as PORT.";
        draft.assume("spec.port", 3000, why);
        scope.decide("ports", "there is none: 3000 is assumed");
    }
    let port = port.unwrap_or(3000);
    ports::convert(service, port, &mut draft, scope);
    health::convert(service, port, &mut draft, scope);
    replicas(service, &mut draft, scope);
    resources(service, &mut draft, scope);
    if given.keeps_processes {
        draft.assume(
            "spec.workers.count",
            1,
            "As many processes as before (--keep-processes).",
        );
    }
    end(service, &mut draft, scope);
    pod::convert(service, &mut draft, scope);
    for (field, why) in CHANGED {
        if service.get(field).is_some() {
            scope.changed(field, "", why);
        }
    }
    for (field, what_to_do) in LOST {
        if service.get(field).is_some() {
            scope.lost(field, what_to_do);
        }
    }
    for (key, _) in service.entries() {
        if key.starts_with("x-") {
            scope.changed(key, "", "is used only where other fields refer to it");
        }
    }
    for (field, variable) in &given.unset {
        let is_told = field.starts_with("environment") && scope.is_named(field);
        if !is_told {
            scope.decide(field, run::is_unset(variable));
        }
    }
    scope.rest(service, "is not a known field");
    draft.finish(scope)
}

fn replicas(service: &Node, draft: &mut Draft, scope: &mut Scope<'_>) {
    if service
        .text(&["deploy", "mode"])
        .is_some_and(|mode| mode.starts_with("global"))
    {
        draft.set("spec.replicas.perNode", 1);
        scope.kept("deploy.mode", "spec.replicas.perNode");
        return;
    }
    if service.at(&["deploy", "mode"]).is_some() {
        scope.kept("deploy.mode", "spec.replicas.total");
    }
    let mut total = None;
    for (field, value) in [
        ("scale", service.get("scale")),
        ("deploy.replicas", service.at(&["deploy", "replicas"])),
    ] {
        match value.map(Node::whole) {
            Some(Some(count @ 1..=5000)) => {
                total = Some(count);
                scope.kept(field, "spec.replicas.total");
            }
            Some(_) => scope.decide(
                field,
                "is no number of pods from 1 to 5000: set spec.replicas",
            ),
            None => {}
        }
    }
    match total {
        Some(total) => draft.set("spec.replicas.total", total),
        None => draft.assume(
            "spec.replicas.perNode",
            1,
            "Assumed: a pod on each node, with a worker for each core.",
        ),
    }
}

fn resources(service: &Node, draft: &mut Draft, scope: &mut Scope<'_>) {
    let deploy = |list: &'static str, key: &'static str| ["deploy", "resources", list, key];
    for (path, to) in [
        (vec!["mem_limit"], "limits.memory"),
        (vec!["mem_reservation"], "requests.memory"),
        (vec!["cpus"], "limits.cpu"),
        (deploy("limits", "memory").to_vec(), "limits.memory"),
        (deploy("reservations", "memory").to_vec(), "requests.memory"),
        (deploy("limits", "cpus").to_vec(), "limits.cpu"),
        (deploy("reservations", "cpus").to_vec(), "requests.cpu"),
    ] {
        let Some(text) = service.text(&path) else {
            continue;
        };
        let field = path.join(".");
        let amount = if to.ends_with("memory") {
            size(&text)
        } else {
            text.parse::<f64>().ok().map(|_| text.clone())
        };
        match amount {
            Some(amount) => {
                draft.set(&format!("spec.resources.{to}"), amount);
                scope.kept(&field, &format!("spec.resources.{to}"));
            }
            None => scope.decide(
                &field,
                format!("is not understood: set spec.resources.{to}"),
            ),
        }
    }
    without(service, scope);
}

/// Names the limits and the rules of a swarm that have no counterpart.
fn without(service: &Node, scope: &mut Scope<'_>) {
    for (field, what_to_do) in [
        ("cpu_shares", "set spec.resources.requests.cpu"),
        ("cpu_quota", "set spec.resources.limits.cpu"),
        ("cpu_period", "set spec.resources.limits.cpu"),
        ("cpuset", "the kubelet's CPU manager decides"),
        ("memswap_limit", "pods have no swap by default"),
        ("mem_swappiness", "pods have no swap by default"),
        ("pids_limit", "the kubelet limits the processes of a pod"),
        (
            "oom_kill_disable",
            "the kernel ends a pod's largest process; spec.workers.maxMemory replaces a worker before",
        ),
    ] {
        if service.get(field).is_some() {
            scope.lost(field, what_to_do);
        }
    }
    for (field, what_to_do) in [
        (
            "placement",
            "set nodeSelector, affinity or spread in spec.podTemplate",
        ),
        (
            "update_config",
            "the operator replaces a few pods at a time, each only after a new one is ready",
        ),
        ("rollback_config", "to go back, apply the earlier object"),
        (
            "restart_policy",
            "workers and pods are always started again",
        ),
        ("labels", "put labels into metadata.labels"),
        (
            "endpoint_mode",
            "each balancer has an address, and DNS names them all",
        ),
    ] {
        if service.at(&["deploy", field]).is_some() {
            scope.lost(&format!("deploy.{field}"), what_to_do);
        }
    }
    for list in ["limits", "reservations"] {
        for field in ["pids", "devices", "generic_resources"] {
            if service.at(&["deploy", "resources", list, field]).is_some() {
                let path = format!("deploy.resources.{list}.{field}");
                scope.lost(
                    &path,
                    "ask for a device plugin's resource in spec.resources.limits",
                );
            }
        }
    }
}

/// The signals that ask a worker to end.
const SIGNALS: [&str; 7] = ["TERM", "INT", "QUIT", "HUP", "USR1", "USR2", "WINCH"];

fn end(service: &Node, draft: &mut Draft, scope: &mut Scope<'_>) {
    if let Some(grace) = service.text(&["stop_grace_period"]) {
        match seconds(&grace) {
            Some(time) => {
                draft.set(
                    "spec.workers.drainTimeout",
                    format!("{}s", time.clamp(0, 3600)),
                );
                scope.changed("stop_grace_period", "spec.workers.drainTimeout", "requests in flight have this long; after it a worker gets its stop signal, and spec.workers.stopGrace (10s) later it is killed");
            }
            None => scope.decide(
                "stop_grace_period",
                "is not understood: set spec.workers.drainTimeout",
            ),
        }
    }
    if let Some(signal) = service.text(&["stop_signal"]) {
        let upper = signal.to_ascii_uppercase();
        let short = upper.strip_prefix("SIG").unwrap_or(&upper);
        if SIGNALS.contains(&short) {
            draft.set("spec.workers.stopSignal", format!("SIG{short}"));
            scope.kept("stop_signal", "spec.workers.stopSignal");
        } else {
            scope.lost("stop_signal", "asks no process to end: SIGTERM is used");
        }
    }
}
