//! Maps the fields of the container that is the app.

use super::super::draft::{Draft, NO_COMMAND, own_variable};
use super::super::report::Scope;
use super::super::text::words_of;
use super::super::tree::Node;
use super::given::Given;
use super::ports::{is_tcp, ports};
use super::probes;

/// Fields of a container that the pod template keeps.
const KEPT: [&str; 12] = [
    "imagePullPolicy",
    "volumeMounts",
    "volumeDevices",
    "securityContext",
    "terminationMessagePath",
    "terminationMessagePolicy",
    "stdin",
    "stdinOnce",
    "tty",
    "resizePolicy",
    "restartPolicyRules",
    "restartPolicy",
];
/// The supervisor's admin port in each pod.
const ADMIN_PORT: i64 = 9377;

/// Maps the container at `field`.
pub(super) fn convert(
    container: &Node,
    field: &str,
    (port, given): (Option<i64>, &Given<'_>),
    draft: &mut Draft,
    scope: &mut Scope<'_>,
) {
    let at = |key: &str| format!("{field}.{key}");
    scope.changed(&at("name"), "", "the app's container is named app");
    if let Some(image) = container.text(&["image"]) {
        draft.set("spec.image", image);
        scope.kept(&at("image"), "spec.image");
    } else {
        let image = format!("{}:latest", draft.name);
        draft.assume("spec.image", image, "The manifest names no image.");
        scope.decide(&at("image"), "is missing: name the image");
    }
    command(container, field, given.command, draft, scope);
    env(container, field, port, draft, scope);
    env_from(container, field, draft, scope);
    if let Some(directory) = container.get("workingDir") {
        draft.set("spec.workingDir", directory.clone());
        scope.kept(&at("workingDir"), "spec.workingDir");
    }
    ports_of(container, field, port, draft, scope);
    probes::convert(container, field, port, draft, scope);
    for (key, amounts) in container.get("resources").map_or(&[][..], Node::entries) {
        let field = at(&format!("resources.{key}"));
        if key == "claims" {
            draft.set_container(&["resources", "claims"], amounts.clone());
            scope.kept(&field, "spec.podTemplate");
        } else {
            draft.set(&format!("spec.resources.{key}"), amounts.clone());
            scope.kept(&field, &format!("spec.resources.{key}"));
        }
    }
    if container.get("resources").is_some_and(Node::is_empty) {
        scope.kept(&at("resources"), "");
    }
    for key in KEPT {
        if let Some(value) = container.get(key) {
            draft.set_container(&[key], value.clone());
            scope.kept(&at(key), "spec.podTemplate");
        }
    }
}

fn command(
    container: &Node,
    field: &str,
    given: Option<&str>,
    draft: &mut Draft,
    scope: &mut Scope<'_>,
) {
    let at = |key: &str| format!("{field}.{key}");
    match (container.get("command"), given) {
        (Some(command), _) if !command.is_empty() => {
            draft.set("spec.command", texts(command));
            scope.kept(&at("command"), "spec.command");
        }
        (_, Some(given)) => {
            draft.set("spec.command", Node::texts(words_of(given)));
            scope.changed(&at("command"), "spec.command", "is that of --command");
        }
        _ => {
            draft.assume(
                "spec.command",
                Node::texts([NO_COMMAND]),
                "The manifest names no command, so the image's own is used, which is not known here: write what one worker runs.",
            );
            let image = container.text(&["image"]).unwrap_or_default();
            scope.decide(&at("command"), format!("the manifest leaves it to the image, but the supervisor starts the app itself: give --command, or set spec.command; `docker inspect -f '{{{{json .Config.Entrypoint}}}} {{{{json .Config.Cmd}}}}' {image}` shows it"));
        }
    }
    if let Some(args) = container.get("args").filter(|args| !args.is_empty()) {
        draft.set("spec.args", texts(args));
        scope.kept(&at("args"), "spec.args");
    }
}

fn texts(list: &Node) -> Node {
    Node::texts(list.items().iter().filter_map(Node::scalar))
}

fn env(container: &Node, field: &str, port: Option<i64>, draft: &mut Draft, scope: &mut Scope<'_>) {
    let variables = container.get("env").map_or(&[][..], Node::items);
    for (index, variable) in variables.iter().enumerate() {
        let field = format!("{field}.env[{index}]");
        let name = variable.text(&["name"]).unwrap_or_default();
        if name == "PORT" {
            let given = variable.get("value").and_then(Node::whole);
            if given.is_some() && given == port {
                scope.kept(&field, "spec.port");
            } else {
                scope.decide(
                    &field,
                    "PORT is set from spec.port: check that the app listens there",
                );
            }
            continue;
        }
        let Some(from) = variable.get("valueFrom") else {
            let value = variable.text(&["value"]).unwrap_or_default();
            draft.variable(scope, (&field, &name), &value, false);
            continue;
        };
        if let Some(why) = own_variable(&name) {
            scope.changed(&field, "", why);
            continue;
        }
        if from.get("resourceFieldRef").is_some() || from.get("fileKeyRef").is_some() {
            let mut all = draft
                .container("env")
                .map_or(Vec::new(), |env| env.items().to_vec());
            all.push(variable.clone());
            draft.set_container(&["env"], Node::List(all));
            scope.changed(
                &field,
                "spec.podTemplate",
                "spec.env has no such source, but the pod template has",
            );
            continue;
        }
        let mut from = from.clone();
        if let Some(path) = from.at(&["fieldRef", "fieldPath"]).cloned() {
            from.set(&["fieldRef"], Node::map([("fieldPath", path)]));
        }
        draft.put_variable(&name, "valueFrom", from);
        scope.kept(&field, "spec.env");
    }
}

fn env_from(container: &Node, field: &str, draft: &mut Draft, scope: &mut Scope<'_>) {
    if let Some(sources) = container.get("envFrom").filter(|list| !list.is_empty()) {
        draft.set("spec.envFrom", sources.clone());
        scope.kept(&format!("{field}.envFrom"), "spec.envFrom");
    }
}

fn ports_of(
    container: &Node,
    field: &str,
    port: Option<i64>,
    draft: &mut Draft,
    scope: &mut Scope<'_>,
) {
    if let Some(port) = port {
        draft.set("spec.port", port);
    } else {
        let why = "Assumed: the manifest names no port.";
        draft.assume("spec.port", 3000, why);
        scope.decide(
            &format!("{field}.ports"),
            "no port is named: 3000 is assumed, and the app gets it as PORT",
        );
    }
    if port == Some(ADMIN_PORT) {
        draft.assume(
            "spec.adminPort",
            9378,
            "The app has the supervisor's default, 9377.",
        );
    }
    for (index, one) in ports(container).iter().enumerate() {
        let field = format!("{field}.ports[{index}]");
        if one.get("hostPort").is_some() {
            scope.lost(
                &format!("{field}.hostPort"),
                "there are no ports of nodes: clients use the balancers' addresses",
            );
        }
        let number = one.get("containerPort").and_then(Node::whole);
        let protocol = one.text(&["protocol"]).unwrap_or_default();
        match number {
            _ if !is_tcp(one) => scope.lost(&field, format!("workers cannot share a {protocol} port: keep a Deployment for it")),
            Some(number) if port == Some(number) => scope.kept(&field, "spec.port"),
            Some(ADMIN_PORT) => scope.lost(&field, "is the supervisor's admin port: let the app use another one, or set spec.adminPort"),
            Some(number) => {
                let shared = draft.get("spec.workers.share").map_or(0, |list| list.items().len());
                if shared < 16 {
                    draft.push("spec.workers.share", number.into());
                    scope.changed(&field, "spec.workers.share", "all workers of a pod serve it; balancers forward only spec.port. Leave it out if another process than the app has it");
                } else {
                    scope.lost(&field, "workers share at most 16 ports");
                }
            }
            None => scope.lost(&field, "is no port"),
        }
    }
}
