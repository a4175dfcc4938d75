//! Maps probes, hooks and the time for an end to readiness, hang and drain times.

use super::super::draft::Draft;
use super::super::report::Scope;
use super::super::tree::Node;
use super::ports::resolve;

/// How long a worker may take to become ready without `spec.workers.readiness.timeout`, in seconds.
const BOOT: i64 = 60;
/// The longest time that the fields accept, in seconds.
const LONGEST: i64 = 3600;

/// Maps the probes and hooks of the container at `field`.
pub(super) fn convert(
    container: &Node,
    field: &str,
    port: Option<i64>,
    draft: &mut Draft,
    scope: &mut Scope<'_>,
) {
    let mut boot = 0;
    for kind in ["readinessProbe", "startupProbe", "livenessProbe"] {
        let Some(probe) = container.get(kind) else {
            continue;
        };
        let field = format!("{field}.{kind}");
        path(probe, (&field, kind), (container, port), draft, scope);
        boot = boot.max(times(probe, (&field, kind), draft, scope));
    }
    if boot > BOOT {
        let timeout = format!("{}s", boot.min(LONGEST));
        draft.set("spec.workers.readiness.timeout", timeout);
    }
    hooks(container, field, draft, scope);
}

fn path(
    probe: &Node,
    (field, kind): (&str, &str),
    (container, port): (&Node, Option<i64>),
    draft: &mut Draft,
    scope: &mut Scope<'_>,
) {
    let at = |key: &str| format!("{field}.{key}");
    if let Some(http) = probe.get("httpGet") {
        let other = http
            .get("port")
            .and_then(|target| resolve(container, target));
        let is_secured = http
            .text(&["scheme"])
            .is_some_and(|scheme| scheme == "HTTPS");
        let path = http.text(&["path"]).unwrap_or_else(|| "/".to_owned());
        let known = draft.get("spec.workers.readiness.path").is_some();
        if other != port {
            scope.lost(&at("httpGet"), "workers are asked at spec.port only");
        } else if is_secured {
            scope.lost(&at("httpGet"), "workers are asked without TLS: let the app speak HTTP, and the balancers TLS (spec.balancers.tls)");
        } else if kind == "readinessProbe" || !known {
            let is_path = path.starts_with('/') && path.bytes().all(|b| b.is_ascii_graphic());
            if is_path {
                draft.set("spec.workers.readiness.path", path);
                scope.kept(&at("httpGet.path"), "spec.workers.readiness.path");
            } else {
                scope.lost(&at("httpGet.path"), "is no path");
            }
        } else {
            scope.changed(
                &at("httpGet.path"),
                "",
                "a worker counts as hung by what it does with requests, not by an answer at a path",
            );
        }
        for key in ["port", "scheme"] {
            if http.get(key).is_some() {
                scope.kept(&at(&format!("httpGet.{key}")), "spec.port");
            }
        }
        for key in ["httpHeaders", "host"] {
            if http.get(key).is_some() {
                scope.lost(
                    &at(&format!("httpGet.{key}")),
                    "the supervisor asks with the address as host, and without further fields",
                );
            }
        }
    }
    if probe.get("tcpSocket").is_some() {
        scope.changed(
            &at("tcpSocket"),
            "",
            "a worker that listens counts as ready by default",
        );
    }
    if probe.get("exec").is_some() {
        scope.lost(&at("exec"), "no program is run in place of a probe: offer a path, and set spec.workers.readiness.path");
    }
    if probe.get("grpc").is_some() {
        scope.lost(
            &at("grpc"),
            "the health service of gRPC is not asked: a worker that listens counts as ready",
        );
    }
}

/// Maps the times of a probe; returns how long a start may take by them, in seconds.
fn times(
    probe: &Node,
    (field, kind): (&str, &str),
    draft: &mut Draft,
    scope: &mut Scope<'_>,
) -> i64 {
    let number = |key: &str, default: i64| probe.get(key).and_then(Node::whole).unwrap_or(default);
    let period = number("periodSeconds", 10).max(1);
    let failures = number("failureThreshold", 3).max(1);
    let span = period.saturating_mul(failures);
    let start = span.saturating_add(number("initialDelaySeconds", 0));
    let given: Vec<&str> = ["initialDelaySeconds", "periodSeconds", "failureThreshold"]
        .into_iter()
        .filter(|key| probe.get(key).is_some())
        .collect();
    let (to, why) = match kind {
        "livenessProbe" if probe.get("exec").is_none() => {
            let hang = span.clamp(1, LONGEST);
            draft.set("spec.workers.hangTimeout", format!("{hang}s"));
            (
                "spec.workers.hangTimeout",
                format!(
                    "a worker that has requests, sends nothing and accepts no connection for {hang} s is replaced"
                ),
            )
        }
        "startupProbe" if start > BOOT => (
            "spec.workers.readiness.timeout",
            format!("a start may take {start} s"),
        ),
        _ => (
            "",
            format!(
                "a worker is asked often while it starts, and may take {} s; a worker that stops answering is noticed by its requests",
                start.max(BOOT)
            ),
        ),
    };
    for key in given {
        scope.changed(&format!("{field}.{key}"), to, why.clone());
    }
    for (key, why) in [
        (
            "timeoutSeconds",
            "the supervisor has a time-out of its own for one answer",
        ),
        ("successThreshold", "one success counts"),
        (
            "terminationGracePeriodSeconds",
            "spec.workers.stopGrace is for every end",
        ),
    ] {
        if probe.get(key).is_some() {
            scope.changed(&format!("{field}.{key}"), "", why);
        }
    }
    // A pod whose readiness probe fails is not restarted, so its times limit no start.
    match kind {
        "startupProbe" | "livenessProbe" => start,
        _ => number("initialDelaySeconds", 0),
    }
}

fn hooks(container: &Node, field: &str, draft: &mut Draft, scope: &mut Scope<'_>) {
    let Some(lifecycle) = container.get("lifecycle") else {
        return;
    };
    if let Some(hook) = lifecycle.get("preStop") {
        let field = format!("{field}.lifecycle.preStop");
        let words = hook.at(&["exec", "command"]).map_or(&[][..], Node::items);
        let words: Vec<String> = words.iter().filter_map(Node::scalar).collect();
        let words = words.join(" ");
        let command = words.rsplit("-c ").next().unwrap_or_default().trim();
        let is_sleep = command
            .strip_prefix("/bin/")
            .unwrap_or(command)
            .strip_prefix("sleep ")
            .is_some_and(|time| time.trim().trim_end_matches('s').parse::<f64>().is_ok());
        if hook.get("sleep").is_some() || is_sleep {
            scope.changed(&field, "", "the pause is not needed: balancers learn at once that a pod ends, and it drains first");
        } else {
            scope.lost(
                &field,
                "no hook runs before the end: let the app do this when it gets its stop signal",
            );
        }
    }
    if let Some(hook) = lifecycle.get("postStart") {
        draft.set_container(&["lifecycle", "postStart"], hook.clone());
        scope.kept(&format!("{field}.lifecycle.postStart"), "spec.podTemplate");
    }
    if let Some(signal) = lifecycle.text(&["stopSignal"]) {
        draft.set("spec.workers.stopSignal", signal);
        scope.kept(
            &format!("{field}.lifecycle.stopSignal"),
            "spec.workers.stopSignal",
        );
    }
}

/// Maps the time that a pod has for its end.
pub(super) fn grace(pod: &Node, draft: &mut Draft, scope: &mut Scope<'_>) {
    let grace = pod
        .get("terminationGracePeriodSeconds")
        .and_then(Node::whole);
    if let Some(seconds) = grace {
        let drain = seconds.clamp(0, LONGEST);
        draft.set("spec.workers.drainTimeout", format!("{drain}s"));
        scope.changed(
            "spec.template.spec.terminationGracePeriodSeconds",
            "spec.workers.drainTimeout",
            "requests in flight have this long; after it a worker gets its stop signal, and spec.workers.stopGrace (10s) later it is killed",
        );
    }
}
