//! What an app becomes in a cluster: the objects to apply and to remove, the annotations of
//! its pods, and its status.
//!
//! The order of a pass: the operator reads [`Observed`] once, [`validate`]s, [`plan`]s,
//! applies, and writes [`status`] if it differs. If the object is invalid, [`keep_serving`]
//! replaces the plan. Nothing here does I/O; the time is [`Observed::now`].

mod adoption;
mod app;
mod autoscalers;
mod balancer;
mod certificate;
mod conditions;
mod cures;
mod desired_state;
mod drift;
mod facts;
mod failures;
mod frame;
mod issuance;
mod kinds;
mod meta;
mod nodes;
mod objects;
mod observed;
mod overlay;
mod pin;
mod pod_failure;
mod pod_template;
mod reach;
mod refused;
mod resources;
mod rights;
mod scaling;
mod selection;
mod slots;
mod status;

mod workload;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use scaledapp_crds::kubernetes::ScaledApp;
use scaledapp_crds::words::{Reason, component};

pub use app::{App, Settings, TOKEN_BYTES, requirements, validate};
pub use certificate::{
    CERTIFICATE_KIND, CERTIFICATE_VERSION, Certificate, CertificateFailure, CertificateSpec,
    LiveCertificate, StoredCertificate,
};
pub use desired_state::{is_rotation, stored_tokens};
pub use drift::{Admitted, is_applied};
pub use facts::{Failed, Outcome};
pub use kinds::each_kind;
pub use meta::{cut, hash};
pub use objects::{
    Event, EventType, Kind, ObjectKey, Objects, Plan, PodAnnotations, Stalled, names,
};
pub use observed::{
    Answer, Autoscaler, Balancer, Node, Observed, Pod, Scaled, Supervisor, Target, Trouble,
};
pub use pod_failure::{Part, PodFailure, WaitsFor};
pub use refused::{Cause, refused};
pub use resources::{Resources, cpu_millis};
pub use selection::{is_ours, is_watched, watched};
pub use status::{events, status};

use meta::Owner;
use pod_template::Pinned;
use workload::Scale;

/// The plan for `app`, given what was observed. Planning never fails: [`Plan::stalled`] reports
/// what cannot be done, and a stalled plan updates only the `EndpointSlice`s of the slots.
pub fn plan(app: &App, observed: &Observed, settings: &Settings) -> Plan {
    let owner = app.owner();
    if !observed.foreign.is_empty() {
        return Plan {
            stalled: Some(conflict(&observed.foreign)),
            ..slots_only(&owner, observed)
        };
    }
    if app.paused {
        return slots_only(&owner, observed);
    }
    let pinned = pod_template::pinned(app, workload::live(app, observed), observed, settings);
    match pinned.and_then(|pinned| whole(app, observed, settings, pinned)) {
        Ok(plan) => plan,
        Err(stalled) => Plan {
            stalled: Some(stalled),
            ..slots_only(&owner, observed)
        },
    }
}

/// One message for all names that are taken.
fn conflict(foreign: &[ObjectKey]) -> Stalled {
    let named = foreign.iter().map(|key| {
        let article = if key.kind == Kind::EndpointSlice {
            "an"
        } else {
            "a"
        };
        format!("{article} {:?} named {}", key.kind, key.name)
    });
    let named = named.collect::<Vec<_>>().join(", ");
    let rest = match foreign {
        [_] => "exists already and does not belong to this app: delete or rename it",
        _ => "exist already and do not belong to this app: delete or rename them",
    };
    Stalled {
        reason: Reason::NameConflict,
        message: format!("{named} {rest}, or give the app another name"),
    }
}

/// Names of the nodes that could take one more pod of the app if they have room, and the number of
/// the app's pods on each. The caller looks up what else runs on them for [`Observed::used`].
pub fn lacking<'a>(app: &App, observed: &'a Observed, settings: &Settings) -> Vec<(&'a str, u32)> {
    let crate::Pods::PerNode(per_node) = app.app.pods else {
        return Vec::new();
    };
    let live = workload::live(app, observed);
    match pod_template::pinned(app, live, observed, settings) {
        Ok(pinned) => {
            let begins = workload::begins(live, &pinned);
            let pod = pinned.template.spec.unwrap_or_default();
            // During a rollout, the successor of each pod needs room beside it.
            let wanted = if live.is_some() && begins {
                u32::MAX
            } else {
                per_node.get()
            };
            nodes::lacking(observed, wanted, &pod)
        }
        Err(_) => Vec::new(),
    }
}

/// The plan for an invalid object: it keeps the slots' `EndpointSlice`s up to date and changes
/// nothing else.
pub fn keep_serving(object: &ScaledApp, observed: &Observed) -> Plan {
    let meta = &object.metadata;
    let owner = Owner {
        name: meta.name.as_deref().unwrap_or_default(),
        namespace: meta.namespace.as_deref().unwrap_or_default(),
        uid: meta.uid.as_deref().unwrap_or_default(),
    };
    slots_only(&owner, observed)
}

fn slots_only(owner: &Owner<'_>, observed: &Observed) -> Plan {
    let owned = observed
        .live
        .services
        .iter()
        .filter(|service| owner.owns(&service.metadata));
    let offers = slots::Offers::of_services(owned.clone());
    let mut slots: Vec<u32> = owned
        .filter_map(|service| meta::slot_of(&service.metadata))
        .collect();
    slots.sort_unstable();
    let mut plan = Plan::default();
    lead(&mut plan, owner, slots, offers, observed);
    plan.apply.seal(&observed.live);
    plan
}

/// Adds the slots' `EndpointSlice`s to the plan, with an event for each slot that other balancers
/// take over or give back.
fn lead(
    plan: &mut Plan,
    owner: &Owner<'_>,
    slots: impl IntoIterator<Item = u32>,
    offers: slots::Offers,
    observed: &Observed,
) {
    for slot in slots {
        let Some(slice) = slots::slice(owner, slot, offers, observed) else {
            continue;
        };
        let is_foreign = |key: &ObjectKey| {
            key.kind == Kind::EndpointSlice && slice.metadata.name.as_ref() == Some(&key.name)
        };
        if !observed.foreign.iter().any(is_foreign) {
            plan.events.extend(slots::moved(&slice, observed));
            plan.apply.endpoint_slices.push(slice);
        }
    }
}

fn whole(
    app: &App,
    observed: &Observed,
    settings: &Settings,
    pinned: Pinned,
) -> Result<Plan, Stalled> {
    let owner = app.owner();
    let scale = workload::scale(app, observed, &pinned);
    let desired = desired_state::desired(app, observed);
    let updates = desired_state::pod_updates(app, observed, &desired, &scale, &pinned);
    let (slots, lingering) = slots::slots(app, observed);
    let mut plan = Plan {
        events: changes(app, observed, &scale),
        ..Plan::default()
    };
    lead(
        &mut plan,
        &owner,
        slots.iter().map(|slot| slot.number),
        slots::Offers::of(app),
        observed,
    );
    let wakes = [
        updates.wake,
        lingering,
        facts::young_until(observed),
        failures::wake(observed),
        scale.count.as_ref().and_then(|count| count.wake),
        scale.news.as_ref().and_then(|news| news.wake),
        issuance::wake(app, observed),
    ];
    plan.wake = wakes.into_iter().flatten().min();
    plan.touch = updates.touch;
    plan.certificate = issuance::to_write(app, observed);
    let apply = &mut plan.apply;
    apply.config_maps.push(desired);
    apply.service_accounts = balancer::accounts(app);
    apply.roles.push(balancer::role(app));
    apply.role_bindings.push(balancer::role_binding(app));
    let app_pods = selection::of(&owner, component::APP, &pinned.template, observed);
    apply
        .deployments
        .push(workload::deployment(app, pinned, &scale));
    let mut balancers = owner.selector(component::BALANCER);
    for slot in &slots {
        let deployment = balancer::deployment(app, slot.number, settings)?;
        let template = &deployment.spec.template;
        balancers = selection::of(&owner, component::BALANCER, template, observed);
        apply.deployments.push(deployment);
    }
    apply.services.push(slots::app_service(app, &balancers));
    apply.services.push(workload::pods_service(app, &app_pods));
    for slot in &slots {
        apply.services.push(slots::service(app, slot));
    }
    apply.pod_disruption_budgets =
        balancer::budgets(app, scale.replicas, &app_pods, slots.len(), &balancers);
    plan.delete = orphans(&owner, observed, &plan.apply);
    plan.apply.seal(&observed.live);
    Ok(plan)
}

/// Live objects of this app that the plan no longer contains, of the kinds that the operator
/// removes. The slice of a slot without a serving balancer is not planned either; it is kept as
/// long as the slot exists.
fn orphans(owner: &Owner<'_>, observed: &Observed, planned: &Objects) -> Vec<ObjectKey> {
    let kept = planned.keys();
    let kept_slots: Vec<String> = planned
        .services
        .iter()
        .filter_map(|service| service.metadata.name.clone())
        .collect();
    let planned_slots: Vec<u32> = planned
        .endpoint_slices
        .iter()
        .filter_map(|slice| meta::slot_of(&slice.metadata))
        .collect();
    let is_kept_slice = |meta: &ObjectMeta| {
        meta::slot_of(meta).is_some_and(|slot| {
            kept_slots.contains(&owner.slot(slot)) && !planned_slots.contains(&slot)
        })
    };
    let is_ours = |kind: Kind, meta: &ObjectMeta| {
        owner.owns(meta) || kind == Kind::EndpointSlice && is_stray(meta, &observed.live)
    };
    let live = observed
        .live
        .metas()
        .filter(|(kind, meta)| is_ours(*kind, meta) && meta.deletion_timestamp.is_none());
    live.filter(|(kind, _)| kind.is_removed())
        .filter(|(kind, meta)| {
            *kind != Kind::EndpointSlice || !owner.owns(meta) || !is_kept_slice(meta)
        })
        .filter_map(|(kind, meta)| {
            Some(ObjectKey {
                kind,
                name: meta.name.clone()?,
            })
        })
        .filter(|key| !kept.contains(key))
        .collect()
}

/// Whether Kubernetes created this `EndpointSlice` because a slot's Service had a selector for some
/// time. The slice remains after the selector is removed, and clients would be sent to its
/// addresses.
pub fn is_stray(slice: &ObjectMeta, live: &Objects) -> bool {
    let mut owners = slice.owner_references.iter().flatten();
    owners.any(|owner| {
        let mut services = live.services.iter();
        owner.kind == "Service"
            && services.any(|service| {
                meta::slot_of(&service.metadata).is_some()
                    && service.metadata.uid.as_ref() == Some(&owner.uid)
            })
    })
}

/// Events for what this plan changes, compared with the live objects.
fn changes(app: &App, observed: &Observed, scale: &Scale) -> Vec<Event> {
    let normal = |reason, action, note| Event {
        kind: EventType::Normal,
        reason,
        action,
        note,
        since: None,
    };
    let mut events = Vec::new();
    let live = workload::live(app, observed);
    let note = if let Some(news) = &scale.news {
        news.note(observed)
    } else {
        let before = live.and_then(|live| live.spec.replicas);
        let before = before.filter(|before| *before != scale.replicas);
        before.map(|before| format!("pods: from {before} to {}", scale.replicas))
    };
    events.extend(note.map(|note| normal(Reason::Scaling, "Scale", note)));
    if desired_state::is_other_number(app, observed) {
        let note = format!("workers of each pod: {}", desired_state::workers(app));
        events.push(normal(Reason::WorkersChanged, "ScaleWorkers", note));
    }
    if desired_state::is_new_reload(app, observed) {
        let note = "the pods reload their workers, one pod after the other";
        events.push(normal(Reason::Reloading, "Reload", note.to_owned()));
    }
    events
}
