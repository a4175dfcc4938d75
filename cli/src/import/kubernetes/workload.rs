//! Maps a Deployment or a `DaemonSet`: metadata, the number of pods, the pod, and which of its
//! containers is the app. `container` maps the fields of that container.

use super::super::draft::{Document, Draft};
use super::super::report::{Report, Scope};
use super::super::tree::Node;
use super::given::Given;
use super::{container, object, ports, probes, service};

/// The objects around a workload.
pub(super) struct Around<'a> {
    pub(super) services: &'a [&'a Node],
    pub(super) scaler: Option<&'a Node>,
}

/// Fields of a Deployment that decide how pods are replaced.
const ROLLOUT: [(&str, &str); 5] = [
    (
        "strategy",
        "the operator replaces a few pods at a time, each only after a new one is ready",
    ),
    (
        "updateStrategy",
        "the operator replaces a few pods at a time, each only after a new one is ready",
    ),
    (
        "minReadySeconds",
        "a new pod gets its share of the requests gradually (spec.balancers.slowStart)",
    ),
    (
        "revisionHistoryLimit",
        "to go back, apply the earlier object",
    ),
    (
        "progressDeadlineSeconds",
        "the condition Progressing says what a rollout waits for",
    ),
];

/// The app that a workload becomes.
pub(super) fn convert(
    workload: &Node,
    name: &str,
    around: &Around<'_>,
    given: &Given<'_>,
    report: &mut Report,
) -> Document {
    let mut draft = Draft::new(name);
    let source = object::described(workload);
    let empty = Node::Null;
    let pod = workload.at(&["spec", "template", "spec"]).unwrap_or(&empty);
    let containers = pod.get("containers").map_or(&[][..], Node::items);
    let targets = service::targets(around.services);
    let index = main_container(containers, &targets, given.container);
    let main = containers.get(index).unwrap_or(&empty);
    let port = ports::port(main, &targets);
    {
        let mut scope = report.of(source.clone());
        metadata(workload, &mut draft, &mut scope);
        replicas(workload, around.scaler, &mut draft, &mut scope);
        let field = format!("spec.template.spec.containers[{index}]");
        if containers.len() > 1 && given.container.is_none() {
            let name = main.text(&["name"]).unwrap_or_default();
            let why = format!("{name} is taken for the app; another one: --container NAME");
            scope.decide(&format!("{field}.name"), why);
        }
        container::convert(main, &field, (port, given), &mut draft, &mut scope);
        template(workload, &mut draft, &mut scope);
        pod_fields(pod, index, &mut draft, &mut scope);
        if given.keeps_processes {
            draft.assume(
                "spec.workers.count",
                1,
                "As many processes as before (--keep-processes).",
            );
        } else {
            processes(main, &mut draft);
        }
        probes::grace(pod, &mut draft, &mut scope);
        let rest = "is not a known field: put it into spec.podTemplate if it belongs to the pod";
        scope.rest(workload, rest);
    }
    let resolve = |target: &Node| ports::resolve(main, target);
    for one in around.services {
        service::convert(one, &mut draft, port.unwrap_or(3000), resolve, report);
    }
    draft.finish(&mut report.of(source))
}

/// The container that is the app: the named one, else the one to whose port a Service leads, else
/// the first one with a port.
fn main_container(containers: &[Node], targets: &[Node], wanted: Option<&str>) -> usize {
    let find = |is_it: &dyn Fn(&Node) -> bool| containers.iter().position(is_it);
    let by_name = wanted.and_then(|name| find(&|one| one.text(&["name"]).as_deref() == Some(name)));
    // The order of the Services' ports decides, not that of the containers.
    let by_port = || {
        let mut targets = targets.iter();
        targets.find_map(|target| find(&|one| ports::has_port(one, target)))
    };
    let with_port = || find(&|one| one.get("ports").is_some());
    by_name.or_else(by_port).or_else(with_port).unwrap_or(0)
}

fn metadata(workload: &Node, draft: &mut Draft, scope: &mut Scope<'_>) {
    scope.changed("apiVersion", "apiVersion", "is a ScaledApp");
    scope.changed("kind", "kind", "is a ScaledApp");
    if object::name(workload) == draft.name {
        scope.kept("metadata.name", "metadata.name");
    } else {
        scope.changed(
            "metadata.name",
            "metadata.name",
            format!("is {}", draft.name),
        );
    }
    object::written_by_the_server(workload, scope);
    if let Some(namespace) = workload.text(&["metadata", "namespace"]) {
        draft.set("metadata.namespace", namespace);
        scope.kept("metadata.namespace", "metadata.namespace");
    }
    for list in ["labels", "annotations"] {
        let entries = workload.at(&["metadata", list]);
        let mut kept = Vec::new();
        for (key, value) in entries.map_or(&[][..], Node::entries) {
            let field = format!("metadata.{list}.{key}");
            if object::is_of_a_tool(key) {
                scope.changed(&field, "", "a tool has written it, and it would take the new object for its own, so it is left out");
            } else {
                kept.push((key.clone(), Node::Text(value.scalar().unwrap_or_default())));
                scope.kept(&field, &format!("metadata.{list}"));
            }
        }
        if !kept.is_empty() {
            draft.set(&format!("metadata.{list}"), Node::Map(kept));
        }
    }
    scope.changed("spec.selector", "", "a Deployment's selector cannot change, so the operator makes a new Deployment; the old one has to go");
    if workload.at(&["spec", "paused"]) == Some(&Node::Bool(true)) {
        draft.set("spec.paused", Node::Bool(true));
        scope.kept("spec.paused", "spec.paused");
    }
    for (field, why) in ROLLOUT {
        if workload.at(&["spec", field]).is_some() {
            scope.lost(&format!("spec.{field}"), why);
        }
    }
}

fn replicas(workload: &Node, scaler: Option<&Node>, draft: &mut Draft, scope: &mut Scope<'_>) {
    let field = "spec.replicas";
    if object::kind(workload) == "DaemonSet" {
        draft.set("spec.replicas.perNode", 1);
        return;
    }
    let given = workload.at(&["spec", "replicas"]).and_then(Node::whole);
    if let Some(scaler) = scaler {
        let least = scaler.at(&["spec", "minReplicas"]).and_then(Node::whole);
        let total = given
            .or(least)
            .unwrap_or(1)
            .max(least.unwrap_or(1))
            .clamp(1, 5000);
        let why = format!("{} changes this number.", object::described(scaler));
        draft.assume("spec.replicas.total", total, why);
        if given.is_some() {
            scope.changed(field, "spec.replicas.total", "only the first value: the autoscaler changes it. Leave it out of what you apply later");
        }
        return;
    }
    match given {
        Some(0) => scope.decide(field, "0 pods serve nothing, so the app gets one pod on each node; to keep it switched off, do not apply it yet"),
        Some(count) => {
            draft.set("spec.replicas.total", count);
            scope.kept(field, "spec.replicas.total");
        }
        None => draft.assume("spec.replicas.total", 1, "A Deployment without replicas has one pod. `replicas: {perNode: 1}` uses every node."),
    }
}

/// Says how many workers a pod gets where that may be more than before.
fn processes(main: &Node, draft: &mut Draft) {
    let cores = main.text(&["resources", "limits", "cpu"]);
    let cores = cores.and_then(|cores| cores.parse::<scaledapp_crds::Quantity>().ok()?.whole());
    let comment = match cores {
        Some(0 | 1) => return,
        Some(cores) => format!("One worker for each core: {cores} in each pod, which had one process before. As many as before: `count: 1` (--keep-processes)."),
        None => "One worker for each core that the pod may use; without limits.cpu, that is each core of the node. As many processes as before: `count: 1` (--keep-processes).".to_owned(),
    };
    draft.assume("spec.workers.perCore", 1, comment);
}

fn template(workload: &Node, draft: &mut Draft, scope: &mut Scope<'_>) {
    for list in ["labels", "annotations"] {
        let entries = workload.at(&["spec", "template", "metadata", list]);
        let mut kept = Vec::new();
        for (key, value) in entries.map_or(&[][..], Node::entries) {
            let field = format!("spec.template.metadata.{list}.{key}");
            let is_ours = key.starts_with("scaledapp.io/")
                || ["app.kubernetes.io/instance", "app.kubernetes.io/component"]
                    .contains(&key.as_str());
            if is_ours {
                scope.changed(&field, "", "the operator sets it on the app's pods");
            } else if object::is_of_a_tool(key) {
                scope.changed(&field, "", "a tool has written it, so it is left out");
            } else {
                kept.push((key.clone(), Node::Text(value.scalar().unwrap_or_default())));
                scope.kept(&field, &format!("spec.podTemplate.metadata.{list}"));
            }
        }
        if !kept.is_empty() {
            draft.set(
                &format!("spec.podTemplate.metadata.{list}"),
                Node::Map(kept),
            );
        }
    }
    for field in ["creationTimestamp", "name", "namespace"] {
        let metadata = workload.at(&["spec", "template", "metadata"]);
        if metadata.is_some_and(|metadata| metadata.entries().iter().any(|(key, _)| key == field)) {
            scope.changed(
                &format!("spec.template.metadata.{field}"),
                "",
                "has no effect in a template",
            );
        }
    }
}

/// Fields of a pod that are dangerous for the node, kept with a warning.
const OF_THE_NODE: [&str; 3] = ["hostNetwork", "hostPID", "hostIPC"];

fn pod_fields(pod: &Node, main: usize, draft: &mut Draft, scope: &mut Scope<'_>) {
    for (key, value) in pod.entries() {
        let field = format!("spec.template.spec.{key}");
        let to = format!("spec.podTemplate.spec.{key}");
        match key.as_str() {
            "containers" => others(value, main, draft, scope),
            "terminationGracePeriodSeconds" => {}
            "restartPolicy" => scope.stays(
                &field,
                "the supervisor restarts workers, and the kubelet restarts the supervisor",
            ),
            "serviceAccount" => {
                if pod.get("serviceAccountName").is_none() {
                    draft.set("spec.podTemplate.spec.serviceAccountName", value.clone());
                }
                scope.changed(
                    &field,
                    "spec.podTemplate.spec.serviceAccountName",
                    "is the old name of serviceAccountName",
                );
            }
            _ if value.is_empty() => scope.kept(&field, ""),
            _ => {
                draft.set(&to, value.clone());
                scope.kept(&field, &to);
                if OF_THE_NODE.contains(&key.as_str()) && *value == Node::Bool(true) {
                    scope.decide(&field, "pods with it share the node's own: the admin port 9377 is then the node's, and two pods on a node need spec.adminPort and spec.port of their own");
                }
                if key == "volumes" {
                    host_paths(value, &field, scope);
                }
            }
        }
    }
}

fn host_paths(volumes: &Node, field: &str, scope: &mut Scope<'_>) {
    for (index, volume) in volumes.items().iter().enumerate() {
        if volume.get("hostPath").is_some() {
            scope.decide(&format!("{field}[{index}].hostPath"), "is kept, but pods of the app run on every node, and each sees the files of its own");
        }
    }
}

/// Keeps the other containers. The app's container is named `app`, so that no other may be.
fn others(containers: &Node, main: usize, draft: &mut Draft, scope: &mut Scope<'_>) {
    for (index, one) in containers.items().iter().enumerate() {
        if index == main {
            continue;
        }
        let field = format!("spec.template.spec.containers[{index}]");
        let mut one = one.clone();
        if one.text(&["name"]).as_deref() == Some("app") {
            one.set(&["name"], Node::text_of("app-2"));
            scope.changed(
                &format!("{field}.name"),
                "",
                "is app-2, because the app's container is named app",
            );
        }
        if draft.get("spec.podTemplate.spec.containers").is_none() {
            draft.push(
                "spec.podTemplate.spec.containers",
                Node::map([("name", "app".into())]),
            );
        }
        draft.push("spec.podTemplate.spec.containers", one);
        scope.kept(&field, "spec.podTemplate.spec.containers");
    }
}
