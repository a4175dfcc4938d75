//! The dashboard: a page on loopback that shows what runs.
//!
//! [`Model`] turns what a [`Source`] observed into the JSON that the page shows; it has no clock and
//! no sockets. [`AdminSource`] is the source for this machine: it reads the admin ports of processes
//! whose addresses its caller knows. [`Dashboard`] serves the page and the JSON to the one who has
//! its address with the token, and to nobody else.

mod admin_source;
mod app;
mod events;
mod exposition;
mod flow;
mod guard;
mod holder;
mod model;
mod observation;
mod page;
mod patch;
mod pod;
mod ring;
mod server;
mod view;
mod watch_stream;

pub use admin_source::{AdminPlaces, AdminSource, BalancerPlace, DnsPlace, PodPlace};
pub use exposition::counters;
pub use model::{Model, Sent};
pub use observation::{App, Counters, Fact, Observation, Pod, Running, Slot, Source};
pub use server::{Dashboard, StartError};
