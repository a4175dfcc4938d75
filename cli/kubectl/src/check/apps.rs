//! What follows from the trees of the apps: conditions, slots, workers, the hand-over on each
//! node, and versions.

use std::collections::{BTreeMap, BTreeSet};

use super::finding::Finding;
use crate::model::tree::{App, Health, Report};
use crate::text::count;

fn name(app: &App) -> String {
    format!("{}/{}", app.namespace, app.name)
}

/// The apps' own conditions.
pub(crate) fn conditions(report: &Report) -> Vec<Finding> {
    if report.apps.is_empty() {
        return vec![Finding::ok("apps", "there is no ScaledApp here yet")];
    }
    let mut findings = Vec::new();
    for app in &report.apps {
        if app.conditions.is_empty() {
            findings.push(
                Finding::failure("apps", format!("{}: no operator has seen it", name(app)))
                    .cure("cure: check the operator above, and its watchNamespaces"),
            );
        }
        let mut told = BTreeSet::new();
        for condition in app.conditions.iter().filter(|it| it.is_problem) {
            if !told.insert((&condition.reason, &condition.message)) {
                continue;
            }
            let text = format!("{}: {}: {}", name(app), condition.reason, condition.message);
            let finding = match app.health {
                Health::Failing => Finding::failure("apps", text),
                _ => Finding::warning("apps", text),
            };
            let explain = format!("cure: kubectl scaledapp explain {}", condition.reason);
            findings.push(finding.cure(explain));
        }
    }
    if findings.is_empty() {
        findings.push(Finding::ok(
            "apps",
            format!("{} ready", count(report.apps.len(), "app")),
        ));
    }
    findings
}

/// Every slot: whether a balancer answers there, and whether it is its own.
pub(crate) fn slots(report: &Report) -> Vec<Finding> {
    let all: Vec<_> = report
        .apps
        .iter()
        .flat_map(|app| app.slots.iter().map(move |it| (app, it)))
        .collect();
    let mut findings = Vec::new();
    let mut good = 0;
    for (app, slot) in &all {
        let text = format!("{} slot {}: {}", name(app), slot.number, slot.note);
        let pods = format!(
            "cure: kubectl -n {} describe pods -l app.kubernetes.io/instance={},app.kubernetes.io/component=balancer",
            app.namespace, app.name
        );
        match slot.health {
            Health::Failing => findings.push(Finding::failure("slots", text).cure(pods)),
            Health::Warning => findings.push(Finding::warning("slots", text).cure(pods)),
            _ => good += 1,
        }
    }
    if good > 0 || findings.is_empty() {
        let noun = if all.len() == 1 {
            "address"
        } else {
            "addresses"
        };
        let text = format!("{good} of {} {noun} served", all.len());
        findings.insert(0, Finding::ok("slots", text));
    }
    findings
}

/// Every worker of every pod that could be asked.
pub(crate) fn workers(report: &Report) -> Vec<Finding> {
    let mut findings = Vec::new();
    let (mut ready, mut desired) = (0, 0);
    let mut silent: BTreeMap<&str, usize> = BTreeMap::new();
    for app in &report.apps {
        for pod in &app.pods {
            ready += pod.workers_ready.unwrap_or_default();
            desired += pod.workers_desired.unwrap_or_default();
            if let Some(why) = &pod.unknown {
                *silent.entry(why).or_default() += 1;
            }
            for worker in pod.workers.iter().filter(|it| it.health == Health::Failing) {
                let why = match (&worker.last_end, worker.listens_elsewhere) {
                    (_, Some(port)) => format!("it listens on port {port}, which is not spec.port"),
                    (Some(end), None) => format!("the last one ended: {end}"),
                    (None, None) => String::new(),
                };
                let text = format!(
                    "{} {} worker {} {}: {why}",
                    name(app),
                    pod.name,
                    worker.slot,
                    worker.state
                );
                findings.push(Finding::warning("workers", text).cure(format!(
                    "cure: kubectl scaledapp -n {} logs {} --tail 50",
                    app.namespace, app.name
                )));
            }
            if pod.reload_failed {
                findings.push(
                    Finding::warning(
                        "workers",
                        format!("{} {}: the last reload failed", name(app), pod.name),
                    )
                    .cure("cure: kubectl scaledapp explain ReloadFailed"),
                );
            }
        }
    }
    for (why, pods) in silent {
        findings.push(Finding::unchecked(
            "workers",
            format!("{}: {why}", count(pods, "pod")),
        ));
    }
    if desired > 0 && findings.is_empty() || ready > 0 {
        findings.insert(
            0,
            Finding::ok("workers", format!("{ready} of {desired} ready")),
        );
    }
    if findings.is_empty() {
        findings.push(Finding::ok("workers", "no pod runs yet"));
    }
    findings
}

/// How workers get their sockets on each node: the kernel there decides.
pub(crate) fn kernel(report: &Report) -> Vec<Finding> {
    let mut nodes: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for pod in report.apps.iter().flat_map(|app| &app.pods) {
        if let Some(mechanism) = pod
            .mechanism
            .as_deref()
            .filter(|it| *it != "-" && *it != "none")
        {
            nodes.entry(&pod.node).or_default().insert(mechanism);
        }
    }
    if nodes.is_empty() {
        return vec![Finding::unchecked(
            "kernel",
            "no pod has reported how workers get their sockets",
        )];
    }
    let weak: Vec<&str> = nodes
        .iter()
        .filter(|(_, mechanisms)| mechanisms.contains("port"))
        .map(|(node, _)| *node)
        .collect();
    let text = format!("{}: hand-over by seccomp", count(nodes.len(), "node"));
    if weak.is_empty() {
        return vec![Finding::ok("kernel", text)];
    }
    vec![
        Finding::warning("kernel", format!("workers get private ports on {}", weak.join(", ")))
            .cure("cure: the kernel or the runtime refuses seccomp notifications there (before Linux 5.9, gVisor); apps must listen on $PORT, and Connection dispatch is not available"),
    ]
}

/// The versions of operator, supervisors and this program. `operator` is the operator's, if known.
pub(crate) fn versions(report: &Report, operator: Option<&str>, own: &str) -> Vec<Finding> {
    let mut supervisors: BTreeMap<&str, usize> = BTreeMap::new();
    for pod in report.apps.iter().flat_map(|app| &app.pods) {
        if !pod.supervisor.is_empty() {
            *supervisors.entry(&pod.supervisor).or_default() += 1;
        }
    }
    let mut text = format!("plugin {own}, operator {}", operator.unwrap_or("unknown"));
    if !supervisors.is_empty() {
        let shown = supervisors
            .iter()
            .map(|(version, pods)| format!("{version} in {}", count(*pods, "pod")));
        let shown: Vec<String> = shown.collect();
        text = format!("{text}, supervisors {}", shown.join(", "));
    }
    match operator {
        Some(operator) if operator != own => vec![
            Finding::warning("versions", text)
                .cure("cure: use the plugin of the operator's release"),
        ],
        _ if supervisors.len() > 1 => vec![
            Finding::warning("versions", text).cure(
                "cure: kubectl scaledapp restart NAME gives the pods of an app the operator's supervisor; an upgrade restarts no app by itself",
            ),
        ],
        _ => vec![Finding::ok("versions", text)],
    }
}
