//! What the operator says about an app: the facts, and through
//! [`super::conditions`] what they mean.
//!
//! Numbers stand in their own fields and never in messages, so that the same
//! state is the same text.

use k8s_openapi::jiff::Timestamp;
use scaledapp_crds::kubernetes::{ScaledApp, ScaledAppStatus};
use scaledapp_crds::words::{Reason, component, condition};

use super::conditions::conditions;
use super::facts::{Facts, Outcome, owner};
use super::meta::cut;
use super::selection::{self, app_pods};
use super::{Event, EventType, Observed};

/// Supervisors of so many versions are named: two during an upgrade, and whoever can make
/// pods can give them our labels.
const IMAGES: usize = 8;
/// Of one image's name, a digest included.
const IMAGE_BYTES: usize = 512;

/// The status after a pass. Times of conditions change only where their status
/// does, so that the same facts give the same status.
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
        // What was true of the last object that made sense.
        None => before.hostname.clone(),
    };
    let mut images: Vec<String> = app_pods(observed)
        .filter_map(|pod| pod.sidecar_image.as_deref())
        .map(|image| cut(image, IMAGE_BYTES).to_owned())
        .collect();
    images.sort();
    images.dedup();
    images.truncate(IMAGES);
    let serving = facts.slots.iter().filter(|slot| slot.serving).count();
    ScaledAppStatus {
        observed_generation: object.metadata.generation,
        replicas: facts.pods,
        ready_replicas: facts.ready,
        pods: format!("{}/{}", facts.ready, facts.wanted),
        workers: facts.workers.clone(),
        selector: selector(object, observed, outcome),
        serving: format!("{serving}/{}", facts.slots.len()),
        hostname,
        sidecar_version: Some(images.join(", ")).filter(|images| !images.is_empty()),
        conditions: conditions(object, observed, outcome, &facts, &before.conditions),
        balancers: facts.slots,
    }
}

/// As the Service of the pods has it: what is planned, else what is there.
fn selector(object: &ScaledApp, observed: &Observed, outcome: Outcome<'_>) -> String {
    let owner = owner(object);
    let name = owner.pods();
    let planned = outcome.planned().map(|(_, plan)| &plan.apply.services);
    let services = planned.into_iter().flatten().chain(&observed.live.services);
    let mut named = services.filter(|service| service.metadata.name.as_ref() == Some(&name));
    let labels = named.find_map(|service| service.spec.as_ref()?.selector.clone());
    selection::text(&labels.unwrap_or_else(|| owner.selector(component::APP)))
}

/// The events that a change of status is worth: one for each condition that
/// flipped, of those that people act on.
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
    // Two conditions with one cause are told of once.
    let mut told: Vec<String> = before
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
        // At first nothing is ready, and nobody needs to be told.
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
        // A condition that a newer operator wrote is told of by that operator.
        let Some(reason) = Reason::of(&now.reason) else {
            continue;
        };
        let is_good = now.status == good;
        if !is_good && told.contains(&now.message) {
            continue;
        }
        told.push(now.message.clone());
        events.push(Event {
            kind: if is_good {
                EventType::Normal
            } else {
                EventType::Warning
            },
            reason,
            action: "Observe",
            note: format!("{kind} is {}: {}", now.status, now.message),
            // As exact as the API server keeps it for whoever reads it next.
            since: Timestamp::from_second(now.last_transition_time.0.as_second()).ok(),
        });
    }
    events
}
