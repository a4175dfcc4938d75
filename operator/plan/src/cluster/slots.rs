//! Slots: addresses that outlive balancers.
//!
//! Each is a Service without a selector; its `EndpointSlice` leads to the slot's
//! own balancer while that serves, else to every other one that does. Nothing
//! is ever written that leads nowhere: then the last known stays.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::{ObjectReference, Service, ServicePort, ServiceSpec};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use scaledapp_crds::v1alpha1::Exposure;
use scaledapp_crds::words::{ENDPOINTS_MANAGER, Reason, annotation, component, label, port};

use super::meta::{Owner, annotate, annotation as annotated, slot_of};
use super::{App, Event, EventType, Heard, Observed, Pod};

/// Where balancers serve, in their pods and at their addresses.
pub(super) const POD_PORT: u16 = 8080;
const SLOT_PORT: i32 = 80;
const ZONE: &str = "topology.kubernetes.io/zone";
/// A balancer that comes up for the first time.
const NEW: SignedDuration = SignedDuration::from_secs(60);
/// Common resolvers keep an answer 30 s longer than it says.
const RESOLVERS: Duration = Duration::from_secs(35);

/// A slot to be there, and since when it is only there for latecomers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Slot {
    pub(super) number: u32,
    pub(super) retired: Option<Timestamp>,
}

/// The slots asked for, and those that DNS may still lead somebody to.
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
    let linger = SignedDuration::try_from(app.app.dns.ttl + RESOLVERS).unwrap_or_default();
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
    // Copied onto the Endpoints that a selector of somebody else makes, which would
    // otherwise become a slice of their own once the selector is gone.
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
            ports: Some(vec![http_port()]),
            // An empty one takes away what somebody else has put there.
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
            ports: Some(vec![http_port()]),
            selector: Some(balancers.clone()),
            type_: Some("ClusterIP".to_owned()),
            ..ServiceSpec::default()
        }),
        status: None,
    }
}

fn http_port() -> ServicePort {
    ServicePort {
        name: Some(port::HTTP.to_owned()),
        port: SLOT_PORT,
        protocol: Some("TCP".to_owned()),
        target_port: Some(IntOrString::Int(i32::from(POD_PORT))),
        ..ServicePort::default()
    }
}

/// The balancers to which new connections may go. One not heard of yet counts as its
/// kubelet says, so that a new leader moves nobody; and so do those that do not answer
/// where none answers: balancers that all their kubelets call ready are reached by
/// clients, and it is the operator that something keeps out.
pub(super) fn serving(pods: &[Pod]) -> impl Iterator<Item = &Pod> {
    let ready = || {
        let pods = pods.iter();
        pods.filter(|pod| {
            pod.component == component::BALANCER && pod.ready && !pod.deleting && pod.ip.is_some()
        })
    };
    let nobody_answers = ready().all(|pod| pod.heard.is_silent());
    ready().filter(move |pod| match &pod.heard {
        Heard::NotYet | Heard::Supervisor(_) => true,
        Heard::Silent | Heard::Unreachable { .. } => nobody_answers,
        Heard::Balancer(said) => said.serving,
    })
}

/// The balancers that a slot leads to: its own, else all others; empty where
/// nothing serves.
pub(super) fn targets(slot: u32, pods: &[Pod]) -> Vec<&Pod> {
    let own: Vec<&Pod> = serving(pods).filter(|pod| pod.slot == Some(slot)).collect();
    let mut targets = if own.is_empty() {
        serving(pods).collect()
    } else {
        own
    };
    targets.sort_by(|a, b| a.name.cmp(&b.name));
    // A slice holds one family; a Service of one family leads to that only.
    let v6 = |pod: &Pod| pod.ip.as_ref().is_some_and(|ip| ip.contains(':'));
    let family = targets.first().is_some_and(|pod| v6(pod));
    targets.retain(|pod| v6(pod) == family);
    targets
}

/// Where a slot leads, or `None` where nothing serves.
pub(super) fn slice(owner: &Owner<'_>, slot: u32, observed: &Observed) -> Option<EndpointSlice> {
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
        // The family of a slice cannot be changed.
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
        ports: Some(vec![EndpointPort {
            name: Some(port::HTTP.to_owned()),
            port: Some(i32::from(POD_PORT)),
            protocol: Some("TCP".to_owned()),
            app_protocol: None,
        }]),
    })
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

/// Whether somebody answers at the slot, as far as was written last.
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
    made.is_some_and(|made| observed.now.duration_since(made.0) < NEW)
}

/// An event where another balancer takes a slot over, or gives it back.
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
        // A pod that is gone was the slot's own: others stay as long as they are listed.
        (None | Some(true), false) => Some(Event {
            kind: EventType::Warning,
            reason: Reason::SlotTakenOver,
            action: "TakeOver",
            note: format!("balancer {slot} does not serve: the others answer at its address"),
            since: None,
        }),
        // At first others answer at a slot until its own balancer has come up.
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
