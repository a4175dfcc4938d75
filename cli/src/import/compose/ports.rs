//! Which port a service of Compose listens on, from its ports in every notation.

use super::super::draft::Draft;
use super::super::report::Scope;
use super::super::tree::Node;
use super::health;

/// The supervisor's admin port.
const ADMIN_PORT: i64 = 9377;

/// A port of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Port {
    /// The port in the container; of a range, the first.
    target: i64,
    /// Whether it is one of several of a range.
    is_range: bool,
    /// Whether the host has a port for it.
    is_published: bool,
    protocol: String,
}

/// A port in the long or the short notation: `[[HOST:]PUBLISHED:]TARGET[/PROTOCOL]`.
fn read(node: &Node) -> Option<Port> {
    if let Some(target) = node.get("target") {
        return Some(Port {
            target: target.whole()?,
            is_range: false,
            is_published: node.get("published").is_some(),
            protocol: node.text(&["protocol"]).unwrap_or_else(|| "tcp".to_owned()),
        });
    }
    let text = node.scalar()?;
    let (address, protocol) = text.split_once('/').unwrap_or((&text, "tcp"));
    let target = address.rsplit(':').next()?;
    let (first, last) = target.split_once('-').unwrap_or((target, target));
    Some(Port {
        target: first.parse().ok()?,
        is_range: first != last,
        is_published: address.contains(':'),
        protocol: protocol.to_owned(),
    })
}

/// The port that a service listens on: the first of `ports`, of `expose`, that of the variable
/// `PORT`, or the one that its health check asks.
pub(super) fn port(service: &Node) -> Option<i64> {
    let of = |key: &str| {
        let ports = service.get(key).map_or(&[][..], Node::items);
        let mut ports = ports.iter().filter_map(read);
        ports
            .find(|port| port.protocol == "tcp")
            .map(|port| port.target)
    };
    let environment = service.get("environment");
    let variable = || {
        let environment = environment?;
        if let Some(port) = environment.get("PORT") {
            return port.whole();
        }
        let words = environment.items().iter().filter_map(Node::scalar);
        let mut values = words.filter_map(|word| word.strip_prefix("PORT=")?.parse().ok());
        values.next()
    };
    let port = of("ports").or_else(|| of("expose")).or_else(variable);
    port.or_else(|| Some(health::request(service)?.0))
        .filter(|port| (1..=65535).contains(port))
}

/// Maps the ports of a service; `port` is the app's.
pub(super) fn convert(service: &Node, port: i64, draft: &mut Draft, scope: &mut Scope<'_>) {
    draft.set("spec.port", port);
    if port == ADMIN_PORT {
        draft.assume(
            "spec.adminPort",
            9378,
            "The app has the supervisor's default, 9377.",
        );
    }
    for key in ["ports", "expose"] {
        let ports = service.get(key).map_or(&[][..], Node::items);
        for (index, node) in ports.iter().enumerate() {
            one(node, &format!("{key}[{index}]"), port, draft, scope);
        }
    }
}

fn one(node: &Node, field: &str, port: i64, draft: &mut Draft, scope: &mut Scope<'_>) {
    let Some(given) = read(node) else {
        scope.decide(
            field,
            "is not understood: set spec.port to the port that the app listens on",
        );
        return;
    };
    if given.protocol != "tcp" {
        scope.lost(
            field,
            format!(
                "workers share no {} port, and balancers forward none",
                given.protocol
            ),
        );
    } else if given.is_range {
        scope.lost(field, format!("balancers forward one port ({port}), not a range; further ports that all workers serve: spec.workers.share"));
    } else if given.target == port {
        if given.is_published {
            scope.changed(field, "spec.port", "clients use port 80 of the balancers' addresses, in place of a port of the host; from outside the cluster with spec.balancers.exposure LoadBalancer or an Ingress");
        } else {
            scope.kept(field, "spec.port");
        }
    } else if given.target == ADMIN_PORT {
        scope.lost(
            field,
            "is the supervisor's admin port: let the app use another one, or set spec.adminPort",
        );
    } else {
        let shared = draft.get("spec.workers.share").map_or(&[][..], Node::items);
        let is_known = shared.contains(&given.target.into());
        if !is_known && shared.len() < 16 {
            draft.push("spec.workers.share", given.target.into());
        }
        scope.changed(
            field,
            "spec.workers.share",
            format!("all workers of a pod serve it; balancers forward only port {port}"),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_notation_of_a_port_is_read() {
        for (text, expected) in [
            ("3000", (3000, false, false, "tcp")),
            ("'8080:80'", (80, false, true, "tcp")),
            ("127.0.0.1:8080:80/tcp", (80, false, true, "tcp")),
            ("'53:53/udp'", (53, false, true, "udp")),
            ("3000-3005:4000-4005", (4000, true, true, "tcp")),
            (
                "{target: 80, published: '8080', protocol: tcp, mode: host}",
                (80, false, true, "tcp"),
            ),
        ] {
            let node: Node = serde_saphyr::from_str(text).unwrap();
            let port = read(&node).unwrap();
            let (target, is_range, is_published, protocol) = expected;
            let expected = Port {
                target,
                is_range,
                is_published,
                protocol: protocol.to_owned(),
            };
            assert_eq!(port, expected, "{text}");
        }
    }
}
