//! Maps manifests of Kubernetes: each Deployment or `DaemonSet` that serves becomes a `ScaledApp`,
//! and autoscalers, Ingresses and routes that name it are written again beside it. This file
//! decides which objects belong together; the files below it map their fields.

mod beside;
mod container;
mod given;
mod object;
mod ports;
mod probes;
mod service;
mod workload;

use super::draft::Document;
use super::report::Report;
use super::text::object_name;
use super::tree::Node;

pub(super) use given::Given;

/// The documents that objects become.
pub(super) fn convert(objects: &[Node], given: &Given<'_>, report: &mut Report) -> Vec<Document> {
    let mut documents = Vec::new();
    let workloads = objects
        .iter()
        .filter(|object| ["Deployment", "DaemonSet"].contains(&object::kind(object).as_str()));
    let wanted: Vec<&Node> = workloads
        .filter(|object| is_wanted(object, objects, given, report))
        .collect();
    let mut apps = Vec::new();
    for workload in &wanted {
        let own_name = object::name(workload);
        let name = given.name.unwrap_or(&own_name);
        let services: Vec<&Node> = objects
            .iter()
            .filter(|object| service::selects(object, workload))
            .collect();
        let scaler = objects
            .iter()
            .find(|object| beside::scales(object, workload));
        let around = workload::Around {
            services: &services,
            scaler,
        };
        let converted = workload::convert(workload, name, &around, given, report);
        documents.push(converted);
        apps.push(beside::App {
            workload,
            name: object_name(name),
            services: services
                .iter()
                .map(|service| object::name(service))
                .collect(),
        });
    }
    for object in objects {
        documents.extend(beside::convert(object, &apps, report));
    }
    steps(&apps, report);
    documents
}

/// Whether a workload becomes an app. A workload without a port is a consumer.
fn is_wanted(workload: &Node, objects: &[Node], given: &Given<'_>, report: &mut Report) -> bool {
    let name = object::name(workload);
    if let Some(only) = given.app {
        if only != name {
            report.of(object::described(workload)).changed(
                "",
                "",
                format!("left out by --app {only}"),
            );
        }
        return only == name;
    }
    let pod = workload.at(&["spec", "template", "spec"]);
    let containers = pod.and_then(|pod| pod.get("containers"));
    let containers = containers.map_or(&[][..], Node::items);
    let listens = containers.iter().any(|one| one.get("ports").is_some())
        || objects
            .iter()
            .any(|object| service::selects(object, workload));
    let images: Vec<String> = containers
        .iter()
        .filter_map(|one| one.text(&["image"]))
        .collect();
    let store = images.iter().find_map(|image| super::stores::store(image));
    let mut scope = report.of(object::described(workload));
    match store {
        Some(store) if images.len() == 1 => {
            scope.decide(
                "",
                format!("its image is that of {store}, which several processes cannot share: it stays as it is (--app {name} converts it all the same)"),
            );
            false
        }
        _ if !listens => {
            scope.decide(
                "",
                format!("it has neither a port nor a Service, so it seems to be a consumer: it stays as it is; for a process on each core, make the supervisor its command (`scaledapp-sidecar run --port none -- …`); if it listens, import it with --app {name}"),
            );
            false
        }
        _ => true,
    }
}

/// What to do for a change without an outage.
fn steps(apps: &[beside::App<'_>], report: &mut Report) {
    for app in apps {
        let (name, kind) = (&app.name, object::kind(app.workload));
        let old = object::name(app.workload);
        let in_the_way = old == *name || app.services.contains(name);
        if in_the_way {
            report.steps.push(format!(
                "{name}: the old objects have the same name, and the operator takes over neither a {kind} nor a Service. For a change without an outage, import with --name {name}-new"
            ));
        }
        let kind = kind.to_lowercase();
        report.steps.push(format!(
            "{name}: kubectl apply -f FILE, and kubectl wait --for=condition=Ready scaledapp/{name}"
        ));
        let services = app.services.iter();
        let services = services.map(|service| format!(" service/{service}"));
        report.steps.push(format!(
            "{name}: lead clients to {name}, port 80 (apply the Ingress that is written beside it), and then kubectl delete {kind}/{old}{}",
            services.collect::<String>()
        ));
    }
}
