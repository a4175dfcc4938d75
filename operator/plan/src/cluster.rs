//! What an app becomes in a cluster: which objects, which to remove, which pods
//! to tell, what its status says.
//!
//! The order of a pass: the operator reads [`Observed`] once, [`validate`]s,
//! [`plan`]s, applies, and writes [`status`] if it differs. Nothing here reads
//! or writes; time is [`Observed::now`].

mod app;
mod drift;
mod objects;
mod observed;
mod status;

pub use app::{App, Settings, validate};
pub use drift::is_applied;
pub use objects::{
    Event, EventType, Kind, ObjectKey, Objects, Plan, PodAnnotations, Stalled, names,
};
pub use observed::{Heard, Node, Observed, Pod, PodFailure, Supervisor};
pub use status::{Outcome, events, status};

/// What is to be done for `app`, given what is there. Total: what cannot be
/// done is [`Plan::stalled`].
pub fn plan(app: &App, observed: &Observed, settings: &Settings) -> Plan {
    let _ = (app, observed, settings);
    Plan::default()
}
