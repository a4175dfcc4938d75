//! Objects that stand beside a workload: autoscalers, Ingresses and routes are written again so
//! that they name the app; of the others, the report says what becomes of them.

use scaledapp_crds::{API_VERSION, KIND};

use super::super::draft::{Document, names_first};
use super::super::report::{Report, Scope};
use super::super::tree::Node;
use super::super::write::Comments;
use super::object;

/// A workload that has become an app.
#[derive(Debug)]
pub(super) struct App<'a> {
    pub(super) workload: &'a Node,
    /// The app's name.
    pub(super) name: String,
    /// The names of the workload's Services.
    pub(super) services: Vec<String>,
}

/// Whether an object is an autoscaler of a workload.
pub(super) fn scales(object: &Node, workload: &Node) -> bool {
    let target = |key: &str| object.text(&["spec", "scaleTargetRef", key]);
    object::kind(object) == "HorizontalPodAutoscaler"
        && object::are_together(object, workload)
        && target("kind") == Some(object::kind(workload))
        && target("name") == Some(object::name(workload))
}

/// The object as it must be for the apps, if it changes. Workloads and their Services are
/// converted elsewhere.
pub(super) fn convert(object: &Node, apps: &[App<'_>], report: &mut Report) -> Option<Document> {
    let kind = object::kind(object);
    let is_converted = apps.iter().any(|app| {
        std::ptr::eq(app.workload, object)
            || (kind == "Service" && super::service::selects(object, app.workload))
    });
    if is_converted || ["Deployment", "DaemonSet"].contains(&kind.as_str()) {
        return None;
    }
    let mut scope = report.of(object::described(object));
    let together = |app: &&App<'_>| object::are_together(object, app.workload);
    match kind.as_str() {
        "HorizontalPodAutoscaler" => {
            let app = apps.iter().find(|app| scales(object, app.workload));
            return match app {
                Some(app) => Some(autoscaler(object, app, &mut scope)),
                None => unchanged(&mut scope),
            };
        }
        "Ingress" | "HTTPRoute" | "GRPCRoute" => {
            let near: Vec<&App<'_>> = apps.iter().filter(together).collect();
            return route(object, &near, &mut scope);
        }
        "PodDisruptionBudget" | "NetworkPolicy" => {
            let key = if kind == "NetworkPolicy" { "podSelector" } else { "selector" };
            let mut near = apps.iter().filter(together);
            let selected = near.find(|app| selects(object, key, app.workload));
            match selected {
                Some(app) if kind == "NetworkPolicy" => policy(app, &mut scope),
                Some(app) => budget(object, app, &mut scope),
                None => return unchanged(&mut scope),
            }
        }
        "ServiceMonitor" | "PodMonitor" => scope.decide(
            "",
            "the app's pods show metrics at their admin port: /metrics of the supervisor, and /metrics/app of all workers together with spec.workers.metricsFrom; let it select the label scaledapp.io/app and the port `admin`",
        ),
        "StatefulSet" => scope.decide(
            "",
            "it stays as it is: pods of a ScaledApp have no stable names and no volume of their own; convert it only if it needs neither, as a Deployment",
        ),
        _ => return unchanged(&mut scope),
    }
    None
}

fn unchanged(scope: &mut Scope<'_>) -> Option<Document> {
    scope.stays("", "stays as it is: go on applying it from its file");
    None
}

fn selects(object: &Node, key: &str, workload: &Node) -> bool {
    let labels = workload.at(&["spec", "template", "metadata", "labels"]);
    let selector = object.at(&["spec", key, "matchLabels"]);
    object::has_labels(labels, selector.map_or(&[][..], Node::entries))
}

fn autoscaler(object: &Node, app: &App<'_>, scope: &mut Scope<'_>) -> Document {
    object::written_by_the_server(object, scope);
    let mut changed = object::cleaned(object);
    let target = Node::map([
        ("apiVersion", Node::text_of(API_VERSION)),
        ("kind", Node::text_of(KIND)),
        ("name", Node::text_of(app.name.clone())),
    ]);
    changed.set(&["spec", "scaleTargetRef"], target);
    let why = format!("names the app: {KIND} {}", app.name);
    scope.changed("spec.scaleTargetRef", "spec.scaleTargetRef", why);
    let metrics = object.at(&["spec", "metrics"]).map_or(&[][..], Node::items);
    let mut written = metrics.to_vec();
    for (index, metric) in written.iter_mut().enumerate() {
        let field = format!("spec.metrics[{index}]");
        if metric.at(&["containerResource", "container"]).is_some() {
            metric.set(&["containerResource", "container"], Node::text_of("app"));
            scope.changed(
                &format!("{field}.containerResource.container"),
                "",
                "the app's container is named app",
            );
        }
        let described = metric.text(&["object", "describedObject", "kind"]);
        if described.is_some_and(|kind| kind == "Service") {
            scope.decide(
                &format!("{field}.object"),
                "it measures a Service that goes away",
            );
        }
    }
    if !written.is_empty() {
        changed.set(&["spec", "metrics"], Node::List(written));
    }
    scope.stays("", "is written again beside the app");
    let mut comments = Comments::new();
    comments.insert(
        "spec.scaleTargetRef".to_owned(),
        vec![format!(
            "It scales the app now, which was the {}.",
            object::described(app.workload)
        )],
    );
    Document {
        node: names_first(changed),
        comments,
    }
}

/// Leads the backends of an Ingress or a route to the apps.
fn route(object: &Node, apps: &[&App<'_>], scope: &mut Scope<'_>) -> Option<Document> {
    let mut changed = object::cleaned(object);
    let mut count = 0;
    redirect(&mut changed, "", apps, &mut |path, app| {
        count += 1;
        scope.changed(path, path, format!("leads to the Service {app}, port 80"));
    });
    if count == 0 {
        return unchanged(scope);
    }
    object::written_by_the_server(object, scope);
    let metadata = object.at(&["metadata", "annotations"]);
    for (key, _) in metadata.map_or(&[][..], Node::entries) {
        let field = format!("metadata.annotations.{key}");
        if object::is_of_a_tool(key) {
            scope.changed(&field, "", "a tool has written it, so it is left out");
        } else if key.contains("affinity") || key.contains("sticky") || key.contains("session") {
            scope.decide(&field, "it leads a client back to one of the Service's endpoints, which are balancers now: use spec.balancers.stickiness, and remove it");
        } else if key.contains("backend-protocol") {
            scope.decide(&field, "the controller now speaks with the balancers, which speak HTTP/1 and HTTP/2 without TLS on port 80");
        }
    }
    scope.stays("", "is written again beside the app; TLS, hosts, paths and annotations are unchanged. Add the controller's network to spec.balancers.forwardedFrom, so that its X-Forwarded-For is believed");
    Some(Document {
        node: names_first(changed),
        comments: Comments::new(),
    })
}

fn redirect(node: &mut Node, path: &str, apps: &[&App<'_>], say: &mut impl FnMut(&str, &str)) {
    let named = |name: Option<String>| {
        let name = name?;
        apps.iter().find(|app| app.services.contains(&name))
    };
    match node {
        Node::List(items) => {
            for (index, item) in items.iter_mut().enumerate() {
                redirect(item, &format!("{path}[{index}]"), apps, say);
            }
        }
        Node::Map(_) => {
            // networking.k8s.io/v1, then v1beta1, then a route of the Gateway API.
            if let Some(app) = named(node.text(&["service", "name"])) {
                node.set(&["service", "name"], Node::text_of(app.name.clone()));
                node.set(&["service", "port"], Node::map([("number", 80.into())]));
                say(&format!("{path}.service"), &app.name);
            } else if let Some(app) = named(node.text(&["serviceName"])) {
                node.set(&["serviceName"], Node::text_of(app.name.clone()));
                node.set(&["servicePort"], 80.into());
                say(&format!("{path}.serviceName"), &app.name);
            } else if path.contains("backendRef")
                && let Some(app) = named(node.text(&["name"]))
            {
                node.set(&["name"], Node::text_of(app.name.clone()));
                node.set(&["port"], 80.into());
                say(path, &app.name);
            }
            let Node::Map(entries) = node else { return };
            for (key, value) in entries {
                let path = super::super::tree::join(path, key);
                redirect(value, &path, apps, say);
            }
        }
        _ => {}
    }
}

fn budget(object: &Node, app: &App<'_>, scope: &mut Scope<'_>) {
    let percent = ["minAvailable", "maxUnavailable"].into_iter().find(|key| {
        object
            .text(&["spec", key])
            .is_some_and(|value| value.ends_with('%'))
    });
    if let Some(key) = percent {
        scope.lost(
            &format!("spec.{key}"),
            "the operator's budget lets one pod go at a time, not a percentage",
        );
    }
    scope.changed("", "", format!("the operator makes a budget for {}, so this one is left out: two budgets for one pod block each eviction. Delete it", app.name));
}

fn policy(app: &App<'_>, scope: &mut Scope<'_>) {
    let port = "the app's port and the admin port (9377)";
    scope.decide("", format!("it stays as it is, for the pods keep their labels: let it allow the balancers of {0} (label scaledapp.io/app: {0}) and the operator to reach {port}", app.name));
}
