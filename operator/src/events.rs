//! Sends events about an app. They are for people: one that cannot be sent is
//! logged and fails nothing.
//!
//! One that is repeated becomes a series (events.k8s.io/v1). kube's own recorder
//! takes events with another note for the same one and keeps the first note, so
//! that of two slots always the first would be named.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::{Event, EventSeries};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Resource, ResourceExt};
use scaledapp_crds::kubernetes::ScaledApp;
use scaledapp_plan::cluster;

use crate::api::{self, Call, CallError};
use crate::context::{Context, FIELD_MANAGER};

/// Of a note, by the API server.
const MOST: usize = 1024;
/// Repeated within this, it is a series; as in client-go.
const SERIES: SignedDuration = SignedDuration::from_mins(6);

/// What was sent lately.
#[derive(Debug)]
pub struct Sent {
    /// Who sends.
    instance: String,
    series: Mutex<HashMap<Key, Series>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    uid: String,
    reason: &'static str,
    note: String,
}

#[derive(Debug, Clone)]
struct Series {
    event: String,
    count: i32,
    last: Timestamp,
}

impl Sent {
    /// Nothing yet, by this replica.
    pub fn new(instance: String) -> Self {
        Self {
            instance,
            series: Mutex::default(),
        }
    }

    /// The series that the event is one more of.
    fn again(&self, key: &Key, now: Timestamp) -> Option<Series> {
        let mut all = self.series.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, series| now.duration_since(series.last) < SERIES);
        let series = all.get_mut(key)?;
        series.count += 1;
        series.last = now;
        Some(series.clone())
    }

    fn first(&self, key: Key, event: String, now: Timestamp) {
        let mut all = self.series.lock().unwrap_or_else(PoisonError::into_inner);
        let series = Series {
            event,
            count: 1,
            last: now,
        };
        all.insert(key, series);
    }
}

/// Sends them, in order.
pub async fn send(context: &Context, object: &ScaledApp, events: &[cluster::Event]) {
    for event in events {
        match one(context, object, event).await {
            Ok(()) | Err(CallError::NotLeading) => {}
            Err(error) => {
                tracing::warn!(%error, reason = event.reason, "an event cannot be sent");
            }
        }
    }
}

async fn one(
    context: &Context,
    object: &ScaledApp,
    event: &cluster::Event,
) -> Result<(), CallError> {
    let now = (context.now)();
    let key = Key {
        uid: object.uid().unwrap_or_default(),
        reason: event.reason,
        note: cut(&event.note).to_owned(),
    };
    let namespace = object.namespace().unwrap_or_default();
    let api: Api<Event> = Api::namespaced(context.client.clone(), &namespace);
    if let Some(series) = context.sent.again(&key, now) {
        let patch = Patch::Merge(serde_json::json!({"series": EventSeries {
            count: series.count,
            last_observed_time: MicroTime(now),
        }}));
        let params = PatchParams::default();
        let request = api.patch(&series.event, &params, &patch);
        return api::write(context, Call::new("patch", "Event"), request)
            .await
            .map(drop);
    }
    let written = whole(
        &context.sent.instance,
        object.object_ref(&()),
        event,
        &key.note,
        now,
    );
    let params = PostParams::default();
    let request = api.create(&params, &written);
    api::write(context, Call::new("create", "Event"), request).await?;
    context.sent.first(key, written.name_any(), now);
    Ok(())
}

fn whole(
    instance: &str,
    about: ObjectReference,
    event: &cluster::Event,
    note: &str,
    now: Timestamp,
) -> Event {
    let name = about.name.as_deref().unwrap_or(FIELD_MANAGER);
    Event {
        metadata: ObjectMeta {
            // Random too: several are sent in one moment.
            name: Some(format!(
                "{name}.{:x}{:04x}",
                now.as_nanosecond(),
                fastrand::u16(..)
            )),
            namespace: about.namespace.clone(),
            ..ObjectMeta::default()
        },
        type_: Some(format!("{:?}", event.kind)),
        reason: Some(event.reason.to_owned()),
        action: Some(event.action.to_owned()),
        note: Some(note.to_owned()),
        event_time: Some(MicroTime(now)),
        regarding: Some(about),
        reporting_controller: Some(FIELD_MANAGER.to_owned()),
        reporting_instance: Some(cut_to(instance, 128).to_owned()),
        ..Event::default()
    }
}

fn cut(note: &str) -> &str {
    cut_to(note, MOST)
}

fn cut_to(text: &str, most: usize) -> &str {
    let mut end = text.len().min(most);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_notes_are_cut_between_characters() {
        assert_eq!(cut("short"), "short");
        let long = "ä".repeat(MOST);
        assert_eq!(cut(&long).len(), MOST);
        let odd = format!("a{long}");
        assert_eq!(cut(&odd).len(), MOST - 1);
    }

    #[test]
    fn the_same_note_makes_a_series_and_another_one_does_not() {
        let sent = Sent::new("a".to_owned());
        let key = |note: &str| Key {
            uid: "u".to_owned(),
            reason: "SlotTakenOver",
            note: note.to_owned(),
        };
        let start = Timestamp::UNIX_EPOCH;
        let after = |minutes| start + SignedDuration::from_mins(minutes);
        assert!(sent.again(&key("slot 0"), start).is_none());
        sent.first(key("slot 0"), "e".to_owned(), start);
        assert!(sent.again(&key("slot 1"), start).is_none());
        for (minutes, count) in [(1, 2), (6, 3)] {
            let series = sent.again(&key("slot 0"), after(minutes)).unwrap();
            assert_eq!((series.count, series.event.as_str()), (count, "e"));
        }
        assert!(sent.again(&key("slot 0"), after(12)).is_none());
    }
}
