//! What the operator says about an app.

use scaledapp_crds::kubernetes::{ScaledApp, ScaledAppStatus};

use super::{App, Event, Observed, Plan};
use crate::Violation;

/// How a pass went.
#[derive(Debug, Clone, Copy)]
pub enum Outcome<'a> {
    /// The object makes no sense.
    Invalid(&'a [Violation]),
    /// All was applied.
    Applied(&'a App, &'a Plan),
    /// Something was not; in one sentence without names of pods or times.
    Failed(&'a App, &'a Plan, &'a str),
}

/// The status after a pass. Times of conditions change only where their status
/// does, so that the same facts give the same status.
pub fn status(object: &ScaledApp, observed: &Observed, outcome: Outcome<'_>) -> ScaledAppStatus {
    let _ = (observed, outcome);
    object.status.clone().unwrap_or_default()
}

/// The events that a change of status is worth: one for each condition that flipped.
pub fn events(before: Option<&ScaledAppStatus>, after: &ScaledAppStatus) -> Vec<Event> {
    let _ = (before, after);
    Vec::new()
}
