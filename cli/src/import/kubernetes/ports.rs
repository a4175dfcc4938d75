//! Which port of a container is the app's.

use super::super::tree::Node;

/// The number of a port: of a named one, or the number itself.
pub(super) fn resolve(container: &Node, target: &Node) -> Option<i64> {
    let name = match target.whole() {
        Some(number) => return Some(number),
        None => target.scalar()?,
    };
    let mut ports = ports(container).iter();
    let port = ports.find(|port| port.text(&["name"]).as_ref() == Some(&name))?;
    port.get("containerPort").and_then(Node::whole)
}

/// Whether a container has the port that a Service leads to.
pub(super) fn has_port(container: &Node, target: &Node) -> bool {
    let number = resolve(container, target);
    let mut numbers = ports(container).iter();
    number.is_some()
        && numbers.any(|port| port.get("containerPort").and_then(Node::whole) == number)
}

pub(super) fn ports(container: &Node) -> &[Node] {
    container.get("ports").map_or(&[][..], Node::items)
}

pub(super) fn is_tcp(port: &Node) -> bool {
    port.text(&["protocol"])
        .is_none_or(|protocol| protocol == "TCP")
}

/// The app's port: the one that a Service leads to, else the first one, else that of `PORT`.
pub(super) fn port(container: &Node, targets: &[Node]) -> Option<i64> {
    let mut numbers = targets
        .iter()
        .filter_map(|target| resolve(container, target));
    let first = || {
        let mut ports = ports(container).iter().filter(|port| is_tcp(port));
        ports.find_map(|port| port.get("containerPort").and_then(Node::whole))
    };
    let variable = || {
        let env = container.get("env").map_or(&[][..], Node::items);
        let mut env = env.iter();
        let port = env.find(|variable| variable.text(&["name"]).as_deref() == Some("PORT"))?;
        port.get("value").and_then(Node::whole)
    };
    let port = numbers.next().or_else(first).or_else(variable);
    port.filter(|port| (1..=65535).contains(port))
}
