//! Where backends come from: flags, the endpoints file, and the `EndpointSlice`s of a
//! Service. The sources together make one list; [`crate::fleet`] decides how its entries
//! become endpoints.

mod backend;
pub(crate) mod cluster;
mod endpoints;
pub(crate) mod file;
mod listing;
mod slices;

pub(crate) use backend::{Backend, check_target};
pub(crate) use listing::{Discovery, Listing};
