//! Maps the Services of a workload: who can reach the app, and at which port.

use super::super::draft::Draft;
use super::super::report::{Report, Scope};
use super::super::tree::Node;
use super::object;

/// Whether an object is a Service that leads to the pods of a workload.
pub(super) fn selects(object: &Node, workload: &Node) -> bool {
    let labels = workload.at(&["spec", "template", "metadata", "labels"]);
    let selector = object.at(&["spec", "selector"]);
    object::kind(object) == "Service"
        && object::are_together(object, workload)
        && object::has_labels(labels, selector.map_or(&[][..], Node::entries))
}

/// The ports of a container to which Services lead, as they write them: numbers or names.
pub(super) fn targets(services: &[&Node]) -> Vec<Node> {
    let ports = services
        .iter()
        .filter_map(|service| service.at(&["spec", "ports"]));
    let ports = ports.flat_map(Node::items);
    ports
        .filter(|port| {
            port.text(&["protocol"])
                .is_none_or(|protocol| protocol == "TCP")
        })
        .filter_map(|port| port.get("targetPort").or_else(|| port.get("port")).cloned())
        .collect()
}

/// Maps a Service. `main` is the app's port, and `resolve` finds the number of a named port.
pub(super) fn convert(
    service: &Node,
    draft: &mut Draft,
    main: i64,
    resolve: impl Fn(&Node) -> Option<i64>,
    report: &mut Report,
) {
    let mut scope = report.of(object::described(service));
    let name = object::name(service);
    scope.changed("apiVersion", "", "the operator makes the app's Services");
    scope.changed("kind", "", "the operator makes the app's Services");
    if name == draft.name {
        scope.kept("metadata.name", "metadata.name");
    } else {
        let why = format!("clients now use the name {} in place of {name}", draft.name);
        scope.decide("metadata.name", why);
    }
    object::written_by_the_server(service, &mut scope);
    if service.at(&["metadata", "namespace"]).is_some() {
        scope.kept("metadata.namespace", "metadata.namespace");
    }
    for (key, _) in service
        .at(&["metadata", "labels"])
        .map_or(&[][..], Node::entries)
    {
        let field = format!("metadata.labels.{key}");
        scope.changed(&field, "", "the operator's Services have its own labels; whoever selects Services by this one needs a change");
    }
    for (key, _) in service
        .at(&["metadata", "annotations"])
        .map_or(&[][..], Node::entries)
    {
        let field = format!("metadata.annotations.{key}");
        if object::is_of_a_tool(key) {
            scope.changed(&field, "", "a tool has written it, so it is left out");
        } else {
            scope.lost(&field, "the operator's Services have no annotations of yours: put a Service of your own in front if a cloud's load balancer needs it");
        }
    }
    scope.changed(
        "spec.selector",
        "",
        "the operator decides which pods belong to the app",
    );
    let ports = service.at(&["spec", "ports"]).map_or(&[][..], Node::items);
    for (index, port) in ports.iter().enumerate() {
        let field = format!("spec.ports[{index}]");
        port_of(port, &field, draft, (main, &resolve), &mut scope);
    }
    exposure(service, draft, &mut scope);
    scope.rest(service, "the operator's Services have no such setting");
}

fn port_of(
    port: &Node,
    field: &str,
    draft: &mut Draft,
    (main, resolve): (i64, &impl Fn(&Node) -> Option<i64>),
    scope: &mut Scope<'_>,
) {
    let number = port.get("port").and_then(Node::whole);
    let target = port.get("targetPort").or_else(|| port.get("port"));
    let target = target.and_then(resolve);
    if port.get("nodePort").is_some() {
        let why = "there are no node ports: use spec.balancers.exposure LoadBalancer, or a Service of your own";
        scope.lost(&format!("{field}.nodePort"), why);
    }
    let protocol = port.text(&["protocol"]).unwrap_or_else(|| "TCP".to_owned());
    if protocol != "TCP" {
        scope.lost(
            field,
            format!(
                "balancers do not forward {protocol}: keep a Service of your own for this port"
            ),
        );
        return;
    }
    if target != Some(main) {
        let why = format!(
            "balancers forward only port {main} of the app: keep a Service of your own for this port; it can select the label scaledapp.io/app"
        );
        scope.decide(field, why);
        return;
    }
    match number {
        Some(80) => scope.kept(&format!("{field}.port"), "spec.balancers"),
        Some(443) => scope.decide(
            &format!("{field}.port"),
            "clients now use port 80, or port 443 with spec.balancers.tls",
        ),
        _ => {
            let why = format!("clients now use {}:80", draft.name);
            scope.decide(&format!("{field}.port"), why);
        }
    }
    let speaks = [port.text(&["appProtocol"]), port.text(&["name"])];
    let is_h2c = speaks.iter().flatten().any(|word| {
        let word = word.to_ascii_lowercase();
        word.ends_with("h2c") || word.starts_with("grpc") || word.starts_with("http2")
    });
    if is_h2c {
        let why = "Assumed from the name or appProtocol of the Service's port: HTTP/2 without TLS.";
        draft.assume("spec.appProtocol", "h2c", why);
        scope.changed(
            &format!("{field}.name"),
            "spec.appProtocol",
            "is understood as HTTP/2 without TLS",
        );
    }
    scope.changed(field, "spec.port", "leads to the app's port");
}

fn exposure(service: &Node, draft: &mut Draft, scope: &mut Scope<'_>) {
    match service.text(&["spec", "type"]).as_deref() {
        Some("LoadBalancer") => {
            draft.set("spec.balancers.exposure", "LoadBalancer");
            scope.kept("spec.type", "spec.balancers.exposure");
        }
        Some("ClusterIP") => scope.stays("spec.type", "is the default of spec.balancers.exposure"),
        Some(other) => scope.lost("spec.type", format!("balancers are of type ClusterIP or LoadBalancer, not {other}: keep a Service of your own in front, or use LoadBalancer")),
        None => {}
    }
    match service.text(&["spec", "clusterIP"]).as_deref() {
        Some("None") => scope.lost(
            "spec.clusterIP",
            format!(
                "{0} is not headless; the pods' own addresses are at {0}-pods",
                draft.name
            ),
        ),
        Some(_) => scope.changed(
            "spec.clusterIP",
            "",
            "each balancer's Service gets an address of its own",
        ),
        None => {}
    }
    if service.at(&["spec", "clusterIPs"]).is_some() {
        scope.changed(
            "spec.clusterIPs",
            "",
            "each balancer's Service gets an address of its own",
        );
    }
    match service.text(&["spec", "sessionAffinity"]).as_deref() {
        Some("ClientIP") => {
            draft.assume("spec.balancers.algorithm", "Hash", "In place of sessionAffinity ClientIP: the same pod for the same address, as long as the set of pods stays.");
            let why = "a balancer chooses the pod by the client's address, without a time-out; spec.balancers.stickiness also leads to the same worker";
            scope.changed("spec.sessionAffinity", "spec.balancers.algorithm", why);
            if service.at(&["spec", "sessionAffinityConfig"]).is_some() {
                scope.lost("spec.sessionAffinityConfig", "there is no time-out");
            }
        }
        Some(_) => scope.kept("spec.sessionAffinity", ""),
        None => {}
    }
    let near = service.text(&["spec", "trafficDistribution"]);
    if near.is_some_and(|near| near == "PreferSameZone" || near == "PreferClose") {
        let to = "spec.balancers.trafficDistribution";
        draft.set(to, "PreferSameZone");
        scope.changed("spec.trafficDistribution", to, "is PreferSameZone there");
    }
}
