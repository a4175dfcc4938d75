//! One reading of apps, their pods and what the pods report. Decides what is asked, and how many
//! requests run at the same time; never executes anything in a pod.

use std::collections::BTreeMap;
use std::time::Instant;

use futures_util::StreamExt;
use futures_util::stream;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use scaledapp_crds::words::{ENDPOINTS_MANAGER, MANAGER, component, label, port};
use serde_json::Value;

use crate::api::{Api, Trouble, Why};
use crate::cli::Which;
use crate::model::counters::{BALANCER, Counters, DISPATCHER};
use crate::model::seen::{Answered, PodKey, Seen};
use crate::outcome::Failure;

/// How many pods are asked at the same time.
const AT_ONCE: usize = 8;
/// The admin port of pods that do not name one.
pub(crate) const ADMIN_PORT: u16 = 9377;
/// Up to so many pods of apps are also asked for their counters; beyond, only balancers.
const MAX_COUNTED_PODS: usize = 24;

/// The path of the ScaledApps of a namespace, or of all.
pub(crate) fn apps_path(namespace: Option<&str>) -> String {
    match namespace {
        Some(namespace) => format!("/apis/scaledapp.io/v1alpha1/namespaces/{namespace}/scaledapps"),
        None => "/apis/scaledapp.io/v1alpha1/scaledapps".to_owned(),
    }
}

/// The path of a kind of a group, in a namespace or in all.
pub(crate) fn kind_path(group: &str, namespace: Option<&str>, kind: &str) -> String {
    match namespace {
        Some(namespace) => format!("{group}/namespaces/{namespace}/{kind}"),
        None => format!("{group}/{kind}"),
    }
}

/// Percent-encodes a value for a query (RFC 3986 section 2.3).
pub(crate) fn encoded(text: &str) -> String {
    let mut encoded = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            let escape = format!("%{byte:02X}");
            encoded += &escape;
        }
    }
    encoded
}

/// What is read of pods besides the objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Depth {
    /// Nothing.
    Objects,
    /// `/status` of all pods.
    Status,
    /// Also the counters, for rates.
    Counters,
}

/// Reads the ScaledApps. They are the one thing that a command cannot do without.
pub(crate) async fn apps(api: &Api, which: &Which) -> Result<Vec<Value>, Failure> {
    let namespace = (!which.all_namespaces).then_some(api.namespace.as_str());
    let path = apps_path(namespace);
    if let Some(name) = &which.name {
        let found: Result<Value, Trouble> = api.get(&format!("{path}/{}", encoded(name))).await;
        return match found {
            Ok(app) => Ok(vec![app]),
            Err(trouble) => Err(not_read(api, &trouble, Some(name)).await),
        };
    }
    let path = match &which.selector {
        Some(selector) => format!("{path}?labelSelector={}", encoded(selector)),
        None => path,
    };
    match api.list(&path).await {
        Ok(apps) => Ok(apps),
        Err(trouble) => Err(not_read(api, &trouble, None).await),
    }
}

/// Why apps cannot be read. A missing app and a missing definition both are a 404.
async fn not_read(api: &Api, trouble: &Trouble, name: Option<&str>) -> Failure {
    if trouble.why != Why::Missing {
        return trouble.fatal("read the ScaledApps");
    }
    let group: Result<Value, Trouble> = api.get("/apis/scaledapp.io/v1alpha1").await;
    match (group, name) {
        (Ok(_), Some(name)) => Failure::fails(format!(
            "there is no ScaledApp {name:?} in namespace {:?}: `kubectl scaledapp status -A` lists all",
            api.namespace
        )),
        _ => Failure::unknown(
            "the cluster does not know ScaledApps: install the chart first (helm install scaledapp …); `kubectl scaledapp check` says what is missing",
        ),
    }
}

/// Reads everything about some apps.
pub(crate) async fn all(
    api: &Api,
    which: &Which,
    depth: Depth,
    clock: Instant,
) -> Result<Seen, Failure> {
    let (apps, pods, slices) = tokio::join!(apps(api, which), pods(api, which), slices(api, which));
    let (apps, pods, slices) = (apps?, pods, slices);
    let answers = match (&pods, depth) {
        (Ok(pods), Depth::Status | Depth::Counters) => ask(api, pods, depth, clock).await,
        _ => BTreeMap::new(),
    };
    Ok(Seen {
        apps,
        pods,
        slices,
        answers,
    })
}

fn selector(which: &Which, managed: (&str, &str)) -> String {
    let managed = format!("{}={}", managed.0, managed.1);
    let selector = match &which.name {
        Some(name) => format!("{managed},{}={name}", label::INSTANCE),
        None => managed,
    };
    format!("?labelSelector={}", encoded(&selector))
}

async fn pods(api: &Api, which: &Which) -> Result<Vec<Pod>, String> {
    let namespace = (!which.all_namespaces).then_some(api.namespace.as_str());
    let path = kind_path("/api/v1", namespace, "pods");
    let path = path + &selector(which, (label::MANAGED_BY, MANAGER));
    let pods = api.list(&path).await;
    pods.map_err(|trouble| trouble.short("list", "pods"))
}

async fn slices(api: &Api, which: &Which) -> Result<Vec<EndpointSlice>, String> {
    let namespace = (!which.all_namespaces).then_some(api.namespace.as_str());
    let path = kind_path("/apis/discovery.k8s.io/v1", namespace, "endpointslices");
    let path = path + &selector(which, (label::ENDPOINTS_MANAGED_BY, ENDPOINTS_MANAGER));
    let slices = api.list(&path).await;
    slices.map_err(|trouble| trouble.short("list", "endpointslices"))
}

/// The admin port that a pod's containers name.
pub(crate) fn admin_port(pod: &Pod) -> u16 {
    let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
    let mut ports = containers.flat_map(|it| it.ports.iter().flatten());
    let named = ports.find(|it| it.name.as_deref() == Some(port::ADMIN));
    let number = named.and_then(|it| u16::try_from(it.container_port).ok());
    number.unwrap_or(ADMIN_PORT)
}

/// Asks the pods for what they report.
async fn ask(api: &Api, pods: &[Pod], depth: Depth, clock: Instant) -> BTreeMap<PodKey, Answered> {
    let is_balancer = |pod: &Pod| {
        let labels = pod.metadata.labels.as_ref();
        labels
            .and_then(|it| it.get(label::COMPONENT))
            .is_some_and(|it| it == component::BALANCER)
    };
    let apps = pods.iter().filter(|pod| !is_balancer(pod)).count();
    let running = pods.iter().filter(|pod| {
        let phase = pod
            .status
            .as_ref()
            .and_then(|status| status.phase.as_deref());
        phase == Some("Running")
    });
    let asked: Vec<_> = running
        .map(|pod| {
            let (is_balancer, port) = (is_balancer(pod), admin_port(pod));
            let counted = depth == Depth::Counters && (is_balancer || apps <= MAX_COUNTED_PODS);
            let prefix = if is_balancer { BALANCER } else { DISPATCHER };
            let key = (
                pod.metadata.namespace.clone().unwrap_or_default(),
                pod.metadata.name.clone().unwrap_or_default(),
            );
            (key, port, counted.then_some(prefix))
        })
        .collect();
    stream::iter(asked)
        .map(|(key, port, prefix)| async move {
            let answered = one(api, &key, port, prefix, clock).await;
            (key, answered)
        })
        .buffer_unordered(AT_ONCE)
        .collect()
        .await
}

async fn one(
    api: &Api,
    (namespace, pod): &PodKey,
    port: u16,
    prefix: Option<&str>,
    clock: Instant,
) -> Answered {
    let status = api.of_pod(namespace, pod, port, "status").await;
    let status = status.map_err(|trouble| match trouble.why {
        // The API server answers 503 for a pod that it cannot reach.
        Why::Refused(_) => "the pod does not answer the API server".to_owned(),
        _ => trouble.short("get", "pods/proxy"),
    });
    let counters = match prefix.filter(|_| status.is_ok()) {
        Some(prefix) => {
            let page = api.of_pod(namespace, pod, port, "metrics").await;
            let at = clock.elapsed().as_secs_f64();
            page.ok().and_then(|page| Counters::read(&page, prefix, at))
        }
        None => None,
    };
    Answered {
        status,
        counters,
        at: clock.elapsed().as_secs_f64(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_queries_are_encoded() {
        assert_eq!(encoded("a=b,c!=d/e"), "a%3Db%2Cc%21%3Dd%2Fe");
    }
}
