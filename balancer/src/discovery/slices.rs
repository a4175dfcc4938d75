//! Which backends the `EndpointSlice`s of a Service name. [`super::cluster`] decides how
//! the slices are watched.
//!
//! Readiness as the kubelet reports it is seconds old, so it decides only about pods that
//! cannot be watched directly. A pod with an admin port is listed whether or not it is
//! ready, and its supervisor's `/watch` reports whether it serves. If some pods have admin
//! ports, a pod without one is taken for a pod of another app.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointSlice};
use scaledapp_crds::words::port;

use super::backend::{Backend, check_target};

/// The most endpoints: far more than one balancer serves, as for the endpoints file.
const MAX_ENDPOINTS: usize = 4096;

/// What was read from the slices.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Read {
    /// Ordered by name.
    pub(crate) backends: Vec<Backend>,
    /// What is wrong with the slices, and the cure; the backends are used in any case.
    pub(crate) problem: Option<String>,
}

/// Reads all slices of one Service.
pub(crate) fn read<'a>(slices: impl IntoIterator<Item = &'a EndpointSlice>) -> Read {
    let (mut v4, mut v6) = (BTreeMap::new(), BTreeMap::new());
    let mut problem = None;
    for slice in slices {
        // A pod may be in one slice for IPv4 and one for IPv6, but becomes only one backend.
        let found = match slice.address_type.as_str() {
            "IPv4" => &mut v4,
            "IPv6" => &mut v6,
            other => {
                problem = Some(format!(
                    "addresses of type {other} cannot be used: give the Service pods with IPv4 or IPv6 addresses"
                ));
                continue;
            }
        };
        let endpoints = slice.endpoints.as_deref().unwrap_or_default();
        let named = |name| port_of(slice, name);
        let Some(served) = named(port::HTTP).or_else(|| named(port::TCP)) else {
            if !endpoints.is_empty() {
                let name = slice.metadata.name.as_deref().unwrap_or_default();
                problem = Some(format!(
                    "the EndpointSlice {name} has no TCP port named {:?} or {:?}: give the Service's port one of these names",
                    port::HTTP,
                    port::TCP
                ));
            }
            continue;
        };
        let admin = port_of(slice, port::ADMIN);
        for endpoint in endpoints {
            let conditions = endpoint.conditions.as_ref();
            if admin.is_none() && !is_serving(conditions) {
                continue;
            }
            let Some(backend) = backend(endpoint, served, admin) else {
                continue;
            };
            // A pod may be listed twice while it moves between slices; the entry with more
            // data wins.
            let known: &mut Backend = found
                .entry(backend.address)
                .or_insert_with(|| backend.clone());
            if known.admin.is_none() {
                *known = backend;
            }
        }
    }
    let found = if v4.is_empty() { v6 } else { v4 };
    let mut backends: Vec<Backend> = found.into_values().collect();
    if backends.iter().any(|backend| backend.admin.is_some()) {
        // A pod without the port that others have is taken for a pod of another app.
        backends.retain(|backend| backend.admin.is_some());
    }
    backends.sort_by(|a, b| (&a.name, a.address).cmp(&(&b.name, b.address)));
    if backends.len() > MAX_ENDPOINTS {
        let count = backends.len();
        problem = Some(format!(
            "{count} endpoints: only the first {MAX_ENDPOINTS} by name are used"
        ));
        backends.truncate(MAX_ENDPOINTS);
    }
    Read { backends, problem }
}

fn port_of(slice: &EndpointSlice, name: &str) -> Option<u16> {
    let ports = slice.ports.as_deref().unwrap_or_default();
    let is_it = |protocol: Option<&str>| protocol.is_none_or(|protocol| protocol == "TCP");
    ports
        .iter()
        .find(|port| port.name.as_deref() == Some(name) && is_it(port.protocol.as_deref()))
        .and_then(|port| u16::try_from(port.port?).ok())
}

/// Whether a pod without an admin port is listed. A pod that terminates is not `ready`,
/// but may still be `serving`. With publishNotReadyAddresses all endpoints are `ready`,
/// and then all are listed.
fn is_serving(conditions: Option<&EndpointConditions>) -> bool {
    conditions.is_none_or(|conditions| {
        conditions.serving != Some(false) || conditions.ready == Some(true)
    })
}

/// `None` if no server can have the address.
fn backend(endpoint: &Endpoint, http: u16, admin: Option<u16>) -> Option<Backend> {
    // All addresses reach the same pod (Kubernetes API reference), so the first is enough.
    let address: IpAddr = endpoint.addresses.first()?.parse().ok()?;
    let (address, admin) = (
        SocketAddr::new(address, http),
        admin.map(|port| SocketAddr::new(address, port)),
    );
    for target in [Some(address), admin].into_iter().flatten() {
        check_target(target).ok()?;
    }
    let target = endpoint.target_ref.as_ref();
    let name = target.and_then(|target| target.name.clone());
    Some(Backend {
        name: name.unwrap_or_else(|| address.to_string()),
        address,
        admin,
        selected: true,
        zone: endpoint.zone.clone(),
        node: endpoint.node_name.clone(),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const HTTP: &str = r#"{"name":"http","port":3000,"protocol":"TCP"}"#;
    const ADMIN: &str = r#"{"name":"admin","port":9377,"protocol":"TCP"}"#;

    fn slice(family: &str, ports: &[&str], endpoints: &[Value]) -> EndpointSlice {
        let ports: Vec<Value> = ports
            .iter()
            .map(|text| serde_json::from_str(text).unwrap())
            .collect();
        serde_json::from_value(json!({
            "metadata": {"name": "hello-pods-x"},
            "addressType": family,
            "ports": ports,
            "endpoints": endpoints,
        }))
        .unwrap()
    }

    fn endpoint(name: &str, address: &str, conditions: &str) -> Value {
        json!({
            "addresses": [address],
            "conditions": serde_json::from_str::<Value>(conditions).unwrap(),
            "targetRef": {"kind": "Pod", "name": name},
        })
    }

    /// `name address admin` of each backend.
    fn shown(slices: &[EndpointSlice]) -> Vec<String> {
        let backends = read(slices).backends.into_iter();
        backends
            .map(|backend| {
                let admin = backend.admin.map(|admin| format!(" {admin}"));
                format!(
                    "{} {}{}",
                    backend.name,
                    backend.address,
                    admin.unwrap_or_default()
                )
            })
            .collect()
    }

    #[test]
    fn conditions_decide_only_about_pods_that_cannot_be_asked() {
        for (conditions, without_admin) in [
            ("{}", true),
            (r#"{"ready":true,"serving":true}"#, true),
            (r#"{"ready":true}"#, true),
            // Terminating, but still serving.
            (r#"{"ready":false,"serving":true,"terminating":true}"#, true),
            // Starting.
            (r#"{"ready":false,"serving":false}"#, false),
            (
                r#"{"ready":false,"serving":false,"terminating":true}"#,
                false,
            ),
            // Starting, with publishNotReadyAddresses.
            (r#"{"ready":true,"serving":false}"#, true),
        ] {
            let endpoints = [endpoint("a", "10.0.0.1", conditions)];
            let expected = if without_admin {
                vec!["a 10.0.0.1:3000"]
            } else {
                vec![]
            };
            assert_eq!(
                shown(&[slice("IPv4", &[HTTP], &endpoints)]),
                expected,
                "{conditions}"
            );
            let with_admin = shown(&[slice("IPv4", &[ADMIN, HTTP], &endpoints)]);
            assert_eq!(
                with_admin,
                ["a 10.0.0.1:3000 10.0.0.1:9377"],
                "{conditions}"
            );
        }
        let bare = json!({"addresses": ["10.0.0.1"]});
        assert_eq!(
            shown(&[slice("IPv4", &[HTTP], &[bare])]),
            ["10.0.0.1:3000 10.0.0.1:3000"]
        );
    }

    #[test]
    fn zone_and_node_are_read_if_they_are_known() {
        let mut placed = endpoint("a", "10.0.0.1", "{}");
        placed["zone"] = json!("eu-1a");
        placed["nodeName"] = json!("node-7");
        let endpoints = [placed, endpoint("b", "10.0.0.2", "{}")];
        let backends = read(&[slice("IPv4", &[HTTP], &endpoints)]).backends;
        let place = |backend: &Backend| (backend.zone.clone(), backend.node.clone());
        assert_eq!(
            backends.iter().map(place).collect::<Vec<_>>(),
            [
                (Some("eu-1a".to_owned()), Some("node-7".to_owned())),
                (None, None)
            ]
        );
    }

    #[test]
    fn each_slice_has_its_own_ports_found_by_name_and_tcp() {
        let a = [endpoint("a", "10.0.0.1", "{}")];
        let b = [endpoint("b", "10.0.0.2", "{}")];
        let other = r#"{"name":"http","port":8000}"#;
        let udp = r#"{"name":"admin","port":9377,"protocol":"UDP"}"#;
        assert_eq!(
            shown(&[slice("IPv4", &[HTTP, udp], &b), slice("IPv4", &[other], &a)]),
            ["a 10.0.0.1:8000", "b 10.0.0.2:3000"]
        );
        for ports in [
            &[][..],
            &[ADMIN],
            &[r#"{"name":"http"}"#],
            &[r#"{"name":"web","port":80}"#],
        ] {
            let read = read(&[slice("IPv4", ports, &a)]);
            assert_eq!(read.backends, []);
            assert!(
                read.problem
                    .unwrap()
                    .contains("no TCP port named \"http\" or \"tcp\"")
            );
        }
        // Without endpoints, Kubernetes sets no ports either.
        assert_eq!(read(&[slice("IPv4", &[], &[])]), Read::default());
    }

    #[test]
    fn a_pod_in_several_slices_is_one_backend_and_ipv4_comes_first() {
        let a = [endpoint("a", "10.0.0.1", "{}")];
        let again = [
            endpoint("a", "10.0.0.1", "{}"),
            endpoint("b", "10.0.0.2", "{}"),
        ];
        let v6 = [
            endpoint("a", "fd00::1", "{}"),
            endpoint("c", "fd00::3", "{}"),
        ];
        let b = [endpoint("b", "10.0.0.2", "{}")];
        let expected = [
            "a 10.0.0.1:3000 10.0.0.1:9377",
            "b 10.0.0.2:3000 10.0.0.2:9377",
        ];
        let slices = [
            slice("IPv6", &[HTTP], &v6),
            slice("IPv4", &[HTTP], &again),
            slice("IPv4", &[HTTP, ADMIN], &a),
            slice("IPv4", &[HTTP, ADMIN], &b),
        ];
        assert_eq!(shown(&slices), expected);
        let backwards: Vec<_> = slices.into_iter().rev().collect();
        assert_eq!(shown(&backwards), expected);
        // There is no IPv4 slice, or none that can be used.
        let starting = [endpoint(
            "a",
            "10.0.0.1",
            r#"{"serving":false,"ready":false}"#,
        )];
        assert_eq!(
            shown(&[
                slice("IPv6", &[HTTP], &v6),
                slice("IPv4", &[HTTP], &starting)
            ]),
            ["a [fd00::1]:3000", "c [fd00::3]:3000"]
        );
    }

    #[test]
    fn a_pod_without_the_admin_port_of_the_others_is_no_backend() {
        let a = [endpoint("a", "10.0.0.1", "{}")];
        let theirs = [endpoint("theirs", "10.0.0.2", "{}")];
        let alone = slice("IPv4", &[HTTP], &theirs);
        assert_eq!(
            shown(&[slice("IPv4", &[HTTP, ADMIN], &a), alone.clone()]),
            ["a 10.0.0.1:3000 10.0.0.1:9377"]
        );
        // A Service whose pods have no supervisor is served as well.
        assert_eq!(shown(&[alone]), ["theirs 10.0.0.2:3000"]);
    }

    #[test]
    fn an_address_without_a_server_is_left_out() {
        let endpoints = [
            endpoint("a", "0.0.0.0", "{}"),
            endpoint("b", "224.0.0.1", "{}"),
            endpoint("c", "app.example.com", "{}"),
            json!({"addresses": []}),
            endpoint("d", "10.0.0.4", "{}"),
        ];
        assert_eq!(
            shown(&[slice("IPv4", &[HTTP], &endpoints)]),
            ["d 10.0.0.4:3000"]
        );
        let read = read(&[slice("FQDN", &[HTTP], &endpoints)]);
        assert_eq!(read.backends, []);
        assert!(read.problem.unwrap().contains("type FQDN"));
    }

    #[test]
    fn the_list_is_bounded() {
        let many: Vec<Value> = (0..=MAX_ENDPOINTS)
            .map(|n| {
                endpoint(
                    &format!("{n:05}"),
                    &format!("10.0.{}.{}", n / 256, n % 256),
                    "{}",
                )
            })
            .collect();
        let read = read(&[slice("IPv4", &[HTTP], &many)]);
        assert_eq!(read.backends.len(), MAX_ENDPOINTS);
        assert_eq!(read.backends[MAX_ENDPOINTS - 1].name, "04095");
        assert!(read.problem.unwrap().contains("4097 endpoints"));
    }
}
