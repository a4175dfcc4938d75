//! Slots: addresses that outlive balancers.
//!
//! Each slot is a Service without a selector. Its `EndpointSlice` lists the slot's own balancer
//! if that balancer serves, otherwise all serving balancers of one address family. If no balancer
//! serves, the slice keeps its last endpoints: the operator never writes a slice without
//! endpoints.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::{ObjectReference, Service, ServicePort, ServiceSpec};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use scaledapp_crds::v1alpha1::Exposure;
use scaledapp_crds::words::{ENDPOINTS_MANAGER, Reason, annotation, component, label, port};

use super::meta::{Owner, annotate, annotation as annotated, slot_of};
use super::{Answer, App, Event, EventType, Observed, Pod};

/// The ports on which balancers serve: in their pods, and at the slots' addresses.
pub(super) const POD_PORT: u16 = 8080;
const SLOT_PORT: i32 = 80;
/// The corresponding ports for TLS.
pub(super) const POD_TLS_PORT: u16 = 8443;
pub(super) const SLOT_TLS_PORT: i32 = 443;
const ZONE: &str = "topology.kubernetes.io/zone";
/// How long a slot counts as new. When the balancer of a new slot starts to serve, this is not
/// reported as a return to its slot.
const NEW_FOR: SignedDuration = SignedDuration::from_secs(60);
/// How much longer than its TTL an answer may be in use: common resolvers keep it for 30 s more.
const RESOLVER_CACHE: Duration = Duration::from_secs(35);

/// A slot that should exist. A retired slot is kept for some time, for clients that still know its
/// address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Slot {
    pub(super) number: u32,
    pub(super) retired: Option<Timestamp>,
}

/// The slots of the object and the retired ones whose addresses DNS clients may still have; and
/// how long it takes until the next retired slot is removed.
pub(super) fn slots(app: &App, observed: &Observed) -> (Vec<Slot>, Option<Duration>) {
    let owner = app.owner();
    let wanted = app.balancers.slots.get();
    let mut slots: Vec<Slot> = (0..wanted)
        .map(|number| Slot {
            number,
            retired: None,
        })
        .collect();
    let mut wake = None;
    let linger = SignedDuration::try_from(app.app.dns.ttl + RESOLVER_CACHE).unwrap_or_default();
    for service in &observed.live.services {
        let Some(number) = slot_of(&service.metadata).filter(|number| *number >= wanted) else {
            continue;
        };
        if !owner.owns(&service.metadata) || service.metadata.deletion_timestamp.is_some() {
            continue;
        }
        let retired =
            annotated(&service.metadata, annotation::RETIRED).and_then(|at| at.parse().ok());
        let retired = retired.unwrap_or(observed.now);
        let left = linger - observed.now.duration_since(retired);
        if let Ok(left) = Duration::try_from(left)
            && !left.is_zero()
        {
            slots.push(Slot {
                number,
                retired: Some(retired),
            });
            wake = Some(wake.map_or(left, |wake: Duration| wake.min(left)));
        }
    }
    slots.sort_by_key(|slot| slot.number);
    (slots, wake)
}

pub(super) fn service(app: &App, slot: &Slot) -> Service {
    let mut metadata = app.owner().slot_meta(slot.number);
    // If the Service gets a selector, Kubernetes copies this label to the resulting Endpoints.
    // Without the label, Kubernetes would mirror the Endpoints to another slice once the selector
    // is removed.
    let labels = metadata.labels.get_or_insert_default();
    labels.insert(label::SKIP_MIRROR.to_owned(), "true".to_owned());
    if let Some(retired) = slot.retired {
        annotate(&mut metadata, annotation::RETIRED, retired.to_string());
    }
    let (kind, policy) = match app.exposure {
        Exposure::ClusterIP => ("ClusterIP", None),
        Exposure::LoadBalancer => ("LoadBalancer", Some("Cluster".to_owned())),
    };
    Service {
        metadata,
        spec: Some(ServiceSpec {
            external_traffic_policy: policy,
            ports: Some(service_ports(app)),
            // An empty selector removes a selector that something else has set.
            selector: Some(BTreeMap::new()),
            type_: Some(kind.to_owned()),
            ..ServiceSpec::default()
        }),
        status: None,
    }
}

/// The Service of the app's own name: all balancers, for `kubectl port-forward`
/// and for clients in the cluster that need no slots.
pub(super) fn app_service(app: &App, balancers: &BTreeMap<String, String>) -> Service {
    let owner = app.owner();
    Service {
        metadata: owner.meta(app.app.name.clone(), component::BALANCER),
        spec: Some(ServiceSpec {
            ports: Some(service_ports(app)),
            selector: Some(balancers.clone()),
            type_: Some("ClusterIP".to_owned()),
            ..ServiceSpec::default()
        }),
        status: None,
    }
}

/// HTTP, and HTTPS if the app has a certificate; or the one port of an app that speaks another
/// protocol, with TLS if it has a certificate.
fn service_ports(app: &App) -> Vec<ServicePort> {
    let named = |name: &str, number: i32, target: u16| ServicePort {
        name: Some(name.to_owned()),
        port: number,
        protocol: Some("TCP".to_owned()),
        target_port: Some(IntOrString::Int(i32::from(target))),
        ..ServicePort::default()
    };
    if app.app.is_tcp() {
        return vec![named(port::TCP, i32::from(app.app.port.get()), POD_PORT)];
    }
    let mut ports = vec![named(port::HTTP, SLOT_PORT, POD_PORT)];
    let tls = app.app.tls.iter();
    ports.extend(tls.map(|_| named(port::HTTPS, SLOT_TLS_PORT, POD_TLS_PORT)));
    ports
}

/// The balancers to which new connections may go. A balancer that was not queried yet serves if its
/// kubelet reports it ready, so that a new leader moves no clients. The kubelets' reports also
/// count if no ready balancer answers the operator: clients can probably reach the balancers, and
/// something blocks only the operator.
pub(super) fn serving(pods: &[Pod]) -> impl Iterator<Item = &Pod> {
    let ready = || {
        let pods = pods.iter();
        pods.filter(|pod| {
            pod.component == component::BALANCER && pod.ready && !pod.deleting && pod.ip.is_some()
        })
    };
    let nobody_answers = ready().all(|pod| pod.answer.is_silent());
    ready().filter(move |pod| match &pod.answer {
        Answer::NotYet | Answer::Supervisor(_) => true,
        Answer::Silent | Answer::Unreachable { .. } => nobody_answers,
        Answer::Balancer(answer) => answer.serving,
    })
}

/// The balancers that answer at a slot's address: its own, otherwise the others, of one address
/// family; empty if none serves.
pub(super) fn targets(slot: u32, pods: &[Pod]) -> Vec<&Pod> {
    let own: Vec<&Pod> = serving(pods).filter(|pod| pod.slot == Some(slot)).collect();
    let mut targets = if own.is_empty() {
        serving(pods).collect()
    } else {
        own
    };
    targets.sort_by(|a, b| a.name.cmp(&b.name));
    // A slice has addresses of one family only, and so has a single-stack Service.
    let v6 = |pod: &Pod| pod.ip.as_ref().is_some_and(|ip| ip.contains(':'));
    let family = targets.first().is_some_and(|pod| v6(pod));
    targets.retain(|pod| v6(pod) == family);
    targets
}

/// The `EndpointSlice` of a slot; `None` if no balancer serves.
pub(super) fn slice(
    owner: &Owner<'_>,
    slot: u32,
    offers: Offers,
    observed: &Observed,
) -> Option<EndpointSlice> {
    let targets = targets(slot, &observed.pods);
    let first = targets.first()?;
    let v6 = first.ip.as_ref().is_some_and(|ip| ip.contains(':'));
    let mut metadata = owner.slot_meta(slot);
    let labels = metadata.labels.get_or_insert_default();
    labels.insert(label::SERVICE_NAME.to_owned(), owner.slot(slot));
    labels.insert(
        label::ENDPOINTS_MANAGED_BY.to_owned(),
        ENDPOINTS_MANAGER.to_owned(),
    );
    if v6 {
        // The address family of a slice cannot be changed, so each family has its own name.
        metadata.name = Some(owner.named(&format!("lb-{slot}v6")));
    }
    Some(EndpointSlice {
        address_type: if v6 { "IPv6" } else { "IPv4" }.to_owned(),
        endpoints: Some(
            targets
                .iter()
                .map(|pod| endpoint(owner, pod, observed))
                .collect(),
        ),
        metadata,
        ports: Some(slice_ports(offers)),
    })
}

/// The ports that the slots of an app have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Offers {
    Http,
    HttpAndHttps,
    Tcp,
}

impl Offers {
    pub(super) fn of(app: &App) -> Self {
        match &app.app.tls {
            _ if app.app.is_tcp() => Self::Tcp,
            Some(_) => Self::HttpAndHttps,
            None => Self::Http,
        }
    }

    /// What the slots of these Services offer.
    pub(super) fn of_services<'a>(services: impl Iterator<Item = &'a Service>) -> Self {
        let specs = services.filter_map(|service| service.spec.as_ref());
        let ports = specs.flat_map(|spec| spec.ports.iter().flatten());
        let names = ports.filter_map(|it| it.name.as_deref());
        names.fold(Self::Http, |offers, name| match name {
            port::HTTPS => Self::HttpAndHttps,
            port::TCP => Self::Tcp,
            _ => offers,
        })
    }
}

fn slice_ports(offers: Offers) -> Vec<EndpointPort> {
    let named = |name: &str, number: u16| EndpointPort {
        name: Some(name.to_owned()),
        port: Some(i32::from(number)),
        protocol: Some("TCP".to_owned()),
        app_protocol: None,
    };
    match offers {
        Offers::Http => vec![named(port::HTTP, POD_PORT)],
        Offers::HttpAndHttps => vec![
            named(port::HTTP, POD_PORT),
            named(port::HTTPS, POD_TLS_PORT),
        ],
        Offers::Tcp => vec![named(port::TCP, POD_PORT)],
    }
}

fn endpoint(owner: &Owner<'_>, pod: &Pod, observed: &Observed) -> Endpoint {
    let node = observed
        .nodes
        .iter()
        .find(|node| pod.node.as_ref() == Some(&node.name));
    Endpoint {
        addresses: pod.ip.iter().cloned().collect(),
        conditions: Some(EndpointConditions {
            ready: Some(true),
            serving: Some(true),
            terminating: Some(false),
        }),
        node_name: pod.node.clone(),
        target_ref: Some(ObjectReference {
            kind: Some("Pod".to_owned()),
            name: Some(pod.name.clone()),
            namespace: Some(owner.namespace.to_owned()),
            uid: Some(pod.uid.clone()),
            ..ObjectReference::default()
        }),
        zone: node.and_then(|node| node.labels.get(ZONE).cloned()),
        ..Endpoint::default()
    }
}

/// Whether some balancer serves and the live `EndpointSlice` of the slot has an endpoint.
pub(super) fn leads_somewhere(slot: u32, observed: &Observed) -> bool {
    !targets(slot, &observed.pods).is_empty()
        && observed.live.endpoint_slices.iter().any(|slice| {
            slot_of(&slice.metadata) == Some(slot)
                && slice.endpoints.iter().flatten().next().is_some()
        })
}

fn is_new(slot: u32, observed: &Observed) -> bool {
    let services = observed.live.services.iter();
    let mut of_slot = services.filter(|service| slot_of(&service.metadata) == Some(slot));
    let made = of_slot.find_map(|service| service.metadata.creation_timestamp.clone());
    made.is_some_and(|made| observed.now.duration_since(made.0) < NEW_FOR)
}

/// The event if other balancers take over a slot, or if its own balancer serves again.
pub(super) fn moved(planned: &EndpointSlice, observed: &Observed) -> Option<Event> {
    let slot = slot_of(&planned.metadata)?;
    let name = &planned.metadata.name;
    let live = observed
        .live
        .endpoint_slices
        .iter()
        .find(|live| live.metadata.name == *name)?;
    let is_own = |slice: &EndpointSlice| {
        let mut pods = slice
            .endpoints
            .iter()
            .flatten()
            .filter_map(|endpoint| endpoint.target_ref.as_ref()?.uid.as_ref());
        pods.next()
            .and_then(|uid| observed.pods.iter().find(|pod| pod.uid == *uid))
            .map(|pod| pod.slot == Some(slot))
    };
    match (is_own(live), is_own(planned)?) {
        // An endpoint whose pod no longer exists was the slot's own balancer: other balancers are
        // listed only while they exist.
        (None | Some(true), false) => Some(Event {
            kind: EventType::Warning,
            reason: Reason::SlotTakenOver,
            action: "TakeOver",
            note: format!("balancer {slot} does not serve: the others answer at its address"),
            since: None,
        }),
        // Other balancers answer at a new slot until its own balancer has started.
        (Some(false), true) if !is_new(slot, observed) => Some(Event {
            kind: EventType::Normal,
            reason: Reason::SlotReturned,
            action: "Return",
            note: format!("balancer {slot} serves again and answers at its own address"),
            since: None,
        }),
        _ => None,
    }
}
