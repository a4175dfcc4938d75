//! Sends events about an app. Events are for people: an event that cannot be sent is logged, and
//! the pass continues.
//!
//! The name of an event about a condition ends with a hash that covers the time at which the
//! condition changed. So if a restarted operator or the next leader sends the event again, the
//! API server answers that it exists already.
//!
//! An event with the same reason and note as an earlier one of the same app becomes part of a
//! series (events.k8s.io/v1) if it follows within six minutes and does not report the same
//! change. kube's own recorder is not used, because it treats events with different notes as one
//! event and keeps the first note: of events about two slots, only the first slot would be named.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, PoisonError};

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::{Event, EventSeries};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Resource, ResourceExt};
use scaledapp_crds::kubernetes::ScaledApp;
use scaledapp_crds::words::Reason;
use scaledapp_plan::cluster;

use crate::api::{Caller, FIELD_MANAGER};
use crate::call::{Call, CallError};

/// Longest note that the API server accepts, in bytes.
const MAX_NOTE_BYTES: usize = 1024;
/// Events that are repeated within this time are a series, as in client-go.
const SERIES: SignedDuration = SignedDuration::from_mins(6);

/// The events that were sent recently.
#[derive(Debug)]
pub struct Sent {
    /// The name of this replica.
    instance: String,
    series: Mutex<HashMap<Key, Series>>,
    /// Apps for which [`Self::is_first_look`] was called, by uid.
    looked: Mutex<HashSet<String>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    uid: String,
    reason: Reason,
    note: String,
}

#[derive(Debug, Clone)]
struct Series {
    event: String,
    count: i32,
    last: Timestamp,
    /// The time of the change that was reported last.
    since: Option<Timestamp>,
}

/// What to do with an event.
#[derive(Debug)]
enum Next {
    /// The event is new.
    Create,
    /// The event repeats an event of this series.
    Again(Series),
    /// This replica has sent the event already.
    Nothing,
}

impl Sent {
    /// Starts with no events sent.
    pub fn new(instance: String) -> Self {
        Self {
            instance,
            series: Mutex::default(),
            looked: Mutex::default(),
        }
    }

    /// Whether this is the first call for the app since this replica started. Records the call.
    pub(crate) fn is_first_look(&self, object: &ScaledApp) -> bool {
        let mut looked = self.looked.lock().unwrap_or_else(PoisonError::into_inner);
        looked.insert(object.uid().unwrap_or_default())
    }

    /// What to do with an event. `since` is the time of the change that it reports; `None`
    /// if it reports no change.
    fn next(&self, key: &Key, since: Option<Timestamp>, now: Timestamp) -> Next {
        let mut all = self.series.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, series| now.duration_since(series.last) < SERIES);
        let Some(series) = all.get_mut(key) else {
            return Next::Create;
        };
        if since.is_some() && series.since == since {
            return Next::Nothing;
        }
        series.count += 1;
        series.last = now;
        series.since = since;
        Next::Again(series.clone())
    }

    fn first(&self, key: Key, event: String, since: Option<Timestamp>, now: Timestamp) {
        let mut all = self.series.lock().unwrap_or_else(PoisonError::into_inner);
        let series = Series {
            event,
            count: 1,
            last: now,
            since,
        };
        all.insert(key, series);
    }
}

/// Sends `events`, in order.
pub async fn send(
    sent: &Sent,
    caller: &Caller,
    object: &ScaledApp,
    events: &[cluster::Event],
    now: Timestamp,
) {
    for event in events {
        match one(sent, caller, object, event, now).await {
            Ok(()) | Err(CallError::NotLeading) => {}
            Err(error) => {
                tracing::warn!(%error, reason = event.reason.as_str(), "an event cannot be sent");
            }
        }
    }
}

async fn one(
    sent: &Sent,
    caller: &Caller,
    object: &ScaledApp,
    event: &cluster::Event,
    now: Timestamp,
) -> Result<(), CallError> {
    let key = Key {
        uid: object.uid().unwrap_or_default(),
        reason: event.reason,
        note: cut(&event.note).to_owned(),
    };
    let namespace = object.namespace().unwrap_or_default();
    let api: Api<Event> = Api::namespaced(caller.client.clone(), &namespace);
    let series = match sent.next(&key, event.since, now) {
        Next::Nothing => return Ok(()),
        Next::Create => None,
        Next::Again(series) => Some(series),
    };
    if let Some(series) = series {
        let patch = Patch::Merge(serde_json::json!({"series": EventSeries {
            count: series.count,
            last_observed_time: MicroTime(now),
        }}));
        let params = PatchParams::default();
        let request = api.patch(&series.event, &params, &patch);
        return caller
            .write(Call::new("patch", "Event"), request)
            .await
            .map(drop);
    }
    let written = whole(
        &sent.instance,
        object.object_ref(&()),
        event,
        &key.note,
        now,
    );
    let params = PostParams::default();
    let request = api.create(&params, &written);
    match caller.write(Call::new("create", "Event"), request).await {
        Ok(_) => {}
        // This replica sent the event before its restart, or another replica sent it.
        Err(error) if error.code() == Some(409) && event.since.is_some() => {}
        Err(error) => return Err(error),
    }
    sent.first(key, written.name_any(), event.since, now);
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
    let suffix = match event.since {
        Some(since) => {
            // Several conditions with the same cause become one warning.
            let words = match event.kind {
                cluster::EventType::Normal => note,
                cluster::EventType::Warning => "",
            };
            let uid = about.uid.as_deref().unwrap_or_default();
            let change = format!("{uid} {} {since} {words}", event.reason);
            cluster::hash(change.as_bytes())
        }
        // The random part distinguishes events of the same moment.
        None => format!("{:x}{:04x}", now.as_nanosecond(), fastrand::u16(..)),
    };
    Event {
        metadata: ObjectMeta {
            name: Some(format!("{name}.{suffix}")),
            namespace: about.namespace.clone(),
            ..ObjectMeta::default()
        },
        type_: Some(format!("{:?}", event.kind)),
        reason: Some(event.reason.to_string()),
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
    cut_to(note, MAX_NOTE_BYTES)
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
        let long = "ä".repeat(MAX_NOTE_BYTES);
        assert_eq!(cut(&long).len(), MAX_NOTE_BYTES);
        let odd = format!("a{long}");
        assert_eq!(cut(&odd).len(), MAX_NOTE_BYTES - 1);
    }

    #[test]
    fn the_same_note_makes_a_series_and_another_one_does_not() {
        let sent = Sent::new("a".to_owned());
        let key = |note: &str| Key {
            uid: "u".to_owned(),
            reason: Reason::SlotTakenOver,
            note: note.to_owned(),
        };
        let start = Timestamp::UNIX_EPOCH;
        let after = |minutes| start + SignedDuration::from_mins(minutes);
        let next = |note: &str, since, now| match sent.next(&key(note), since, now) {
            Next::Create => "create".to_owned(),
            Next::Nothing => "nothing".to_owned(),
            Next::Again(series) => format!("{} of {}", series.count, series.event),
        };
        assert_eq!(next("slot 0", None, start), "create");
        sent.first(key("slot 0"), "e".to_owned(), None, start);
        assert_eq!(next("slot 1", None, start), "create");
        assert_eq!(next("slot 0", None, after(1)), "2 of e");
        assert_eq!(next("slot 0", None, after(6)), "3 of e");
        assert_eq!(next("slot 0", None, after(12)), "create");
        // Each change is reported once.
        let since = Some(after(20));
        assert_eq!(next("x", since, after(20)), "create");
        sent.first(key("x"), "x".to_owned(), since, after(20));
        assert_eq!(next("x", since, after(21)), "nothing");
        assert_eq!(next("x", Some(after(22)), after(22)), "2 of x");
    }

    #[test]
    fn an_event_about_a_change_has_the_same_name_whoever_sends_it() {
        let event = |reason, since: i64, kind| cluster::Event {
            kind,
            reason,
            action: "Observe",
            note: String::new(),
            since: (since > 0).then(|| Timestamp::from_second(since).unwrap()),
        };
        let about = || ObjectReference {
            name: Some("hello".to_owned()),
            uid: Some("u".to_owned()),
            ..ObjectReference::default()
        };
        let name = |by: &str, event: &cluster::Event, note: &str| {
            let now = Timestamp::UNIX_EPOCH;
            whole(by, about(), event, note, now).metadata.name.unwrap()
        };
        let warning = cluster::EventType::Warning;
        let first = name(
            "a",
            &event(Reason::AppCrashing, 5, warning),
            "Ready is False: x",
        );
        let second = name(
            "b",
            &event(Reason::AppCrashing, 5, warning),
            "Degraded is True: x",
        );
        assert_eq!(first, second);
        assert_ne!(
            first,
            name("a", &event(Reason::AppCrashing, 6, warning), "x")
        );
        assert_ne!(
            first,
            name("a", &event(Reason::ImagePullError, 5, warning), "x")
        );
        let good = event(Reason::AsWanted, 5, cluster::EventType::Normal);
        assert_ne!(name("a", &good, "Ready"), name("a", &good, "Degraded"));
        let other = event(Reason::SlotTakenOver, 0, warning);
        assert_ne!(name("a", &other, "x"), name("a", &other, "x"));
    }
}
