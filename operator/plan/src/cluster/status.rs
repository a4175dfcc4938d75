//! The status of an app: the facts, and what they mean according to [`super::conditions`].
//!
//! Counts have their own fields and do not occur in the operator's messages, so that the same
//! state has the same text.

use k8s_openapi::jiff::Timestamp;
use scaledapp_crds::kubernetes::{ScaledApp, ScaledAppStatus};
use scaledapp_crds::words::{Reason, component, condition};

use super::conditions::conditions;
use super::facts::{Facts, Outcome, owner};
use super::meta::cut;
use super::selection::{self, app_pods};
use super::{Event, EventType, Observed, scaling};

/// The maximum number of supervisor images in the status. During an upgrade there are two. The number is bounded
/// because anybody who may create pods can give them the operator's labels.
const MAX_IMAGES: usize = 8;
/// Longest name of an image, with its digest.
const MAX_IMAGE_BYTES: usize = 512;

/// The status after a pass. The time of a condition changes only if the condition's status does,
/// so that the same facts give the same status.
pub fn status(object: &ScaledApp, observed: &Observed, outcome: Outcome<'_>) -> ScaledAppStatus {
    let before = object.status.clone().unwrap_or_default();
    let facts = Facts::of(object, observed, outcome, &before);
    let hostname = match outcome.planned() {
        Some((app, _))
            if observed.hostname_taken_by.is_none() && observed.hostname_refused.is_none() =>
        {
            app.app.dns.hostname.as_ref().map(ToString::to_string)
        }
        Some(_) => None,
        // The status keeps what was true of the last valid object.
        None => before.hostname.clone(),
    };
    let mut images: Vec<String> = app_pods(observed)
        .filter_map(|pod| pod.sidecar_image.as_deref())
        .map(|image| cut(image, MAX_IMAGE_BYTES).to_owned())
        .collect();
    images.sort();
    images.dedup();
    images.truncate(MAX_IMAGES);
    let serving = facts.slots.iter().filter(|slot| slot.serving).count();
    ScaledAppStatus {
        observed_generation: object.metadata.generation,
        replicas: facts.pods,
        ready_replicas: facts.ready,
        pods: format!("{}/{}", facts.ready, facts.wanted),
        workers: facts.workers.clone(),
        autoscaling: match outcome.planned() {
            Some((app, _)) => scaling::status(app, observed, before.autoscaling.as_ref()),
            None => before.autoscaling.clone(),
        },
        selector: selector(object, observed, outcome),
        serving: format!("{serving}/{}", facts.slots.len()),
        hostname,
        sidecar_version: Some(images.join(", ")).filter(|images| !images.is_empty()),
        conditions: conditions(object, observed, outcome, &facts, &before.conditions),
        balancers: facts.slots,
    }
}

/// The selector of the pods' Service: the planned one, otherwise the live one.
fn selector(object: &ScaledApp, observed: &Observed, outcome: Outcome<'_>) -> String {
    let owner = owner(object);
    let name = owner.pods();
    let planned = outcome.planned().map(|(_, plan)| &plan.apply.services);
    let services = planned.into_iter().flatten().chain(&observed.live.services);
    let mut named = services.filter(|service| service.metadata.name.as_ref() == Some(&name));
    let labels = named.find_map(|service| service.spec.as_ref()?.selector.clone());
    selection::text(&labels.unwrap_or_else(|| owner.selector(component::APP)))
}

/// The events for a change of status: at most one for each changed condition on which people act.
pub fn events(before: Option<&ScaledAppStatus>, after: &ScaledAppStatus) -> Vec<Event> {
    let kinds = [
        (condition::READY, "True"),
        (condition::DEGRADED, "False"),
        (condition::STALLED, "False"),
    ];
    let find = |status: &ScaledAppStatus, kind: &str| {
        let mut all = status.conditions.iter();
        all.find(|condition| condition.type_ == kind).cloned()
    };
    // Two conditions with the same cause get one event.
    let mut reported: Vec<String> = before
        .and_then(|before| find(before, condition::DEGRADED))
        .filter(|degraded| degraded.status == "True")
        .map(|degraded| degraded.message)
        .into_iter()
        .collect();
    let mut events = Vec::new();
    for (kind, good) in kinds {
        let Some(now) = find(after, kind) else {
            continue;
        };
        let then = before.and_then(|before| find(before, kind));
        let is_other_cause = now.status != good
            && then.as_ref().is_some_and(|then| then.reason != now.reason)
            && kind == condition::DEGRADED;
        // A new app is not ready at first, which needs no event.
        let then = then.map_or_else(
            || {
                if kind == condition::READY {
                    "False"
                } else {
                    good
                }
                .to_owned()
            },
            |then| then.status,
        );
        if now.status == then && !is_other_cause || now.status == "Unknown" {
            continue;
        }
        // An unknown reason was written by a newer operator, which sends the event itself.
        let Some(reason) = Reason::of(&now.reason) else {
            continue;
        };
        let is_good = now.status == good;
        if !is_good && reported.contains(&now.message) {
            continue;
        }
        reported.push(now.message.clone());
        events.push(Event {
            kind: if is_good {
                EventType::Normal
            } else {
                EventType::Warning
            },
            reason,
            action: "Observe",
            note: format!("{kind} is {}: {}", now.status, now.message),
            // In whole seconds, because the API server stores no more.
            since: Timestamp::from_second(now.last_transition_time.0.as_second()).ok(),
        });
    }
    events
}
