//! The slots of an app: who answers at each address, and how busy the balancers are.

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use scaledapp_crds::words::{component, label};
use scaledapp_wire::BalancerStatus;
use serde_json::Value;

use super::counters::{Rates, Sum};
use super::object;
use super::pods::{labelled, sum_of};
use super::seen::Seen;
use super::tree::{Health, Slot};

/// The slots in order, and the rates of all balancers together.
pub(crate) fn slots(
    object: &Value,
    seen: &Seen,
    earlier: Option<&Seen>,
) -> (Vec<Slot>, Option<Rates>) {
    let (namespace, name) = object::key(object);
    let listed = object
        .pointer("/status/balancers")
        .and_then(Value::as_array);
    let pods = seen.pods.as_deref().unwrap_or_default();
    let balancers = labelled(pods, &namespace, &name, component::BALANCER);
    let mut all: Option<Sum> = None;
    for pod in &balancers {
        let pod = pod.metadata.name.as_deref().unwrap_or_default();
        if let Some(sum) = sum_of(&namespace, pod, seen, earlier) {
            all.get_or_insert_default().add(&sum);
        }
    }
    let slots = listed
        .into_iter()
        .flatten()
        .map(|slot| one(slot, (&namespace, &name), &balancers, seen, earlier))
        .collect();
    (slots, all.map(|sum| sum.rates()))
}

fn one(
    slot: &Value,
    (namespace, name): (&str, &str),
    balancers: &[&Pod],
    seen: &Seen,
    earlier: Option<&Seen>,
) -> Slot {
    let number = slot["slot"].as_i64().unwrap_or_default();
    let serving = slot["serving"].as_bool().unwrap_or_default();
    let slices = seen.slices.as_deref().ok();
    let answered_by = slices.map(|slices| behind(slices, namespace, name, number));
    let own_pod = balancers.iter().find(|pod| slot_of(pod) == Some(number));
    let own_name = own_pod.and_then(|pod| pod.metadata.name.as_deref());
    let own = answered_by.as_ref().map(|by| {
        let is_own = |pod: &String| Some(pod.as_str()) == own_name;
        by.iter().any(is_own)
    });
    let note = match (serving, own) {
        (true, Some(false)) => match own_pod {
            Some(pod) if is_ready(pod) => "taken over, and about to return".to_owned(),
            Some(pod) => format!(
                "taken over; {} is not ready",
                pod.metadata.name.as_deref().unwrap_or("its own balancer")
            ),
            None if seen.pods.is_ok() => "taken over; its own balancer has no pod".to_owned(),
            None => "taken over".to_owned(),
        },
        (false, _) if slot["address"].as_str().is_none_or(str::is_empty) => {
            "no address yet".to_owned()
        }
        (false, _) => "no balancer serves".to_owned(),
        (true, _) => String::new(),
    };
    let status = own_name.and_then(|pod| status_of(namespace, pod, seen));
    let rates = own_name.and_then(|pod| sum_of(namespace, pod, seen, earlier));
    Slot {
        number,
        address: object::text(slot, "/address"),
        health: match (serving, own) {
            (false, _) => Health::Failing,
            (true, Some(false)) => Health::Warning,
            (true, _) => Health::Good,
        },
        answered_by: answered_by.unwrap_or_default(),
        own,
        rates: rates.map(|sum| sum.rates()),
        in_flight: status.as_ref().map(|status| status.in_flight),
        queued: status.as_ref().map(|status| status.queued),
        note,
    }
}

/// What a balancer reports of itself; `None` if it did not answer.
pub(crate) fn status_of(namespace: &str, pod: &str, seen: &Seen) -> Option<BalancerStatus> {
    let answered = seen.answers.get(&(namespace.to_owned(), pod.to_owned()))?;
    serde_json::from_str(answered.status.as_ref().ok()?).ok()
}

/// The number of the slot whose balancer runs in a pod.
pub(crate) fn slot_of(pod: &Pod) -> Option<i64> {
    let labels = pod.metadata.labels.as_ref()?;
    labels.get(label::SLOT)?.parse().ok()
}

fn is_ready(pod: &Pod) -> bool {
    let status = pod.status.as_ref();
    let mut conditions = status
        .and_then(|it| it.conditions.as_ref())
        .into_iter()
        .flatten();
    conditions.any(|it| it.type_ == "Ready" && it.status == "True")
}

/// The names of the pods behind a slot, sorted.
fn behind(slices: &[EndpointSlice], namespace: &str, name: &str, slot: i64) -> Vec<String> {
    let is_it = |slice: &&EndpointSlice| {
        let labels = slice.metadata.labels.as_ref();
        let has = |key: &str, value: &str| {
            labels
                .and_then(|labels| labels.get(key))
                .is_some_and(|it| it == value)
        };
        slice.metadata.namespace.as_deref() == Some(namespace)
            && has(label::INSTANCE, name)
            && has(label::SLOT, &slot.to_string())
    };
    let endpoints = slices
        .iter()
        .filter(is_it)
        .flat_map(|slice| slice.endpoints.iter().flatten());
    let serving = endpoints.filter(|endpoint| {
        let conditions = endpoint.conditions.as_ref();
        conditions.and_then(|it| it.ready).unwrap_or(true)
    });
    let mut names: Vec<String> = serving
        .filter_map(|endpoint| endpoint.target_ref.as_ref()?.name.clone())
        .collect();
    names.sort();
    names.dedup();
    names
}
