//! The dashboard: a page on loopback that shows what runs.
//!
//! [`Model`] turns what a [`Source`] observed into the JSON that the page shows; it has no clock and
//! no sockets. [`AdminSource`] reads the admin ports of processes: of this machine, or wherever its
//! caller's [`Reach`] leads. [`Dashboard`] serves the page, and serves the JSON
//! only to a client that sends the token of the printed address.

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
mod reach;
mod ring;
mod server;
mod view;
mod watch_stream;

pub use admin_source::AdminSource;
pub use exposition::counters;
pub use model::{Model, Sent};
pub use observation::{App, Counters, Fact, Observation, Pod, Running, Slot, Source};
pub use reach::{
    AdminPlaces, BalancerPlace, Crowd, DnsAnswers, DnsPlace, Lines, Local, PodPlace, Reach,
};
pub use server::{Dashboard, StartError};
