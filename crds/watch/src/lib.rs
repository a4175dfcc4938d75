//! A list of Kubernetes objects that is kept up to date: the client ([`client`]), and a list that
//! survives outages of the API server ([`follow`]).
//!
//! The balancer and the DNS server talk to an API server only through this package. They decide
//! themselves what the objects mean.

mod client;
mod follow;
mod objects;
#[cfg(feature = "testing")]
pub mod testing;

pub use client::{ClientError, chain, client, reason};
pub use follow::{News, follow};
pub use objects::{Key, Objects};
