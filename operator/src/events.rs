//! Sends events about an app. They are for people: one that cannot be sent is
//! logged and fails nothing.

use kube::Resource;
use kube::runtime::events::{Event, EventType};
use scaledapp_crds::kubernetes::ScaledApp;
use scaledapp_plan::cluster;

use crate::api::{self, Call, CallError};
use crate::context::Context;

/// Of a note, by the API server (events.k8s.io/v1).
const MOST: usize = 1024;

/// Sends them, in order.
pub async fn send(context: &Context, object: &ScaledApp, events: &[cluster::Event]) {
    let about = object.object_ref(&());
    for event in events {
        let event = Event {
            type_: match event.kind {
                cluster::EventType::Normal => EventType::Normal,
                cluster::EventType::Warning => EventType::Warning,
            },
            reason: event.reason.to_owned(),
            note: Some(cut(&event.note).to_owned()),
            action: event.action.to_owned(),
            secondary: None,
        };
        let request = context.recorder.publish(&event, &about);
        match api::write(context, Call::new("create", "Event"), request).await {
            Ok(()) | Err(CallError::NotLeading) => {}
            Err(error) => {
                tracing::warn!(%error, reason = event.reason, "an event cannot be sent");
            }
        }
    }
}

fn cut(note: &str) -> &str {
    let mut end = note.len().min(MOST);
    while !note.is_char_boundary(end) {
        end -= 1;
    }
    &note[..end]
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
}
