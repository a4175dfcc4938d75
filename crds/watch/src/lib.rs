//! What Kubernetes objects there are, for as long as somebody wants to know:
//! the client ([`client`]), and a list that outlives the API server's absence
//! ([`follow`]).
//!
//! The only package through which the balancer and the DNS server speak with an
//! API server; what the objects mean to them is decided there.

mod client;
mod follow;
mod objects;
#[cfg(feature = "testing")]
pub mod testing;

pub use client::{ClientError, client, reason};
pub use follow::{News, follow};
pub use objects::{Key, Objects};
