//! Maps a Compose file: each service with a port becomes a `ScaledApp`. This file decides which
//! services are apps, and what becomes of the rest of the file; the files below it map fields.

mod amounts;
mod given;
mod health;
mod interpolate;
mod pod;
mod ports;
mod run;
mod service;

use std::collections::BTreeSet;

use super::draft::Document;
use super::report::Report;
use super::stores::store;
use super::tree::Node;

pub(super) use given::Given;

/// The documents that a Compose file becomes.
pub(super) fn convert(file: &Node, given: &Given<'_>, report: &mut Report) -> Vec<Document> {
    let mut file = file.clone();
    let unset = interpolate::file(&mut file, given.variables);
    let mut documents = Vec::new();
    let empty = Node::Null;
    let services = file.get("services").unwrap_or(&empty);
    for (name, written) in services.entries() {
        let service = extended(written, services);
        let source = format!("service {name}");
        if let Some(only) = given.app.filter(|only| only != name) {
            let why = format!("left out by --app {only}");
            report.of(source).changed("", "", why);
            continue;
        }
        if given.app.is_none() && !is_app(name, &service, &mut report.of(source.clone())) {
            continue;
        }
        let prefix = format!("services.{name}.");
        let own = unset.iter().filter_map(|(path, variable)| {
            Some((path.strip_prefix(&prefix)?.to_owned(), variable.clone()))
        });
        let given = Given {
            unset: own.collect(),
            ..given.clone()
        };
        documents.push(service::convert(
            name,
            &service,
            &given,
            &mut report.of(source),
        ));
    }
    rest(&file, &unset, report);
    documents
}

/// A service with the fields of the service that it extends in the same file.
fn extended(service: &Node, services: &Node) -> Node {
    let Some(extends) = service.get("extends") else {
        return service.clone();
    };
    let name = extends.scalar().or_else(|| extends.text(&["service"]));
    let base = name.and_then(|name| services.get(&name).cloned());
    if extends.get("file").is_some() {
        return service.clone();
    }
    let Some(mut merged) = base else {
        return service.clone();
    };
    for (key, value) in service.entries() {
        merged.set(&[key], value.clone());
    }
    merged
}

/// Whether a service serves requests of clients. The report says what to do with the others.
fn is_app(name: &str, service: &Node, scope: &mut super::report::Scope<'_>) -> bool {
    let image = service.text(&["image"]).unwrap_or_default();
    let is_built = service.get("build").is_some();
    if let Some(what) = store(&image).filter(|_| !is_built) {
        scope.decide("", format!("its image is that of {what}, so it is not converted: run it as you do now, or as a Helm chart or a service of your cloud, under the name {name}; to convert it all the same: --app {name}"));
        return false;
    }
    if ports::port(service).is_none() {
        scope.decide("", format!("it has no port, so it seems to be a consumer or a task, and every ScaledApp has a port: run it as a Deployment or a Job, or on one machine as `scaledapp-sidecar run --port none -- …`; if it listens, add `expose`, or import it with --app {name}"));
        return false;
    }
    true
}

/// Names what stands beside the services.
fn rest(file: &Node, unset: &[(String, String)], report: &mut Report) {
    let mut scope = report.of("Compose file");
    let mut told = BTreeSet::new();
    for (key, value) in file.entries() {
        match key.as_str() {
            "services" => {}
            "version" => scope.changed(key, "", "is obsolete, also in Compose"),
            "name" => scope.changed(key, "", "the namespace takes its place"),
            "networks" => scope.changed(
                key,
                "",
                "every pod reaches every Service; to restrict that, write a NetworkPolicy",
            ),
            "volumes" => {
                for (name, _) in value.entries() {
                    scope.decide(&format!("{key}.{name}"), format!("make a PersistentVolumeClaim of the name {}; pods on several nodes need one with ReadWriteMany", pod::object_of(name)));
                }
            }
            "secrets" | "configs" => {
                let kind = if key == "secrets" {
                    "secret generic"
                } else {
                    "configmap"
                };
                for (name, _) in value.entries() {
                    let object = pod::object_of(name);
                    scope.decide(
                        &format!("{key}.{name}"),
                        format!("kubectl create {kind} {object} --from-file={name}=FILE"),
                    );
                }
            }
            "include" => scope.decide(
                key,
                "import the included files too, or give the output of `docker compose config`",
            ),
            key if key.starts_with("x-") => {
                scope.changed(key, "", "is used only where other fields refer to it");
            }
            _ => scope.lost(key, "is not a known field"),
        }
    }
    for (path, variable) in unset {
        if !path.starts_with("services.") && told.insert(variable) {
            scope.decide(path, format!("the variable {variable} is not set"));
        }
    }
}
