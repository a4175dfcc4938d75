//! Where backends come from: flags, the endpoints file, and the `EndpointSlice`s of a
//! Service. What the sources give makes one list; how that becomes endpoints is decided in
//! [`crate::fleet`].

mod backend;
pub(crate) mod cluster;
mod endpoints;
pub(crate) mod file;
mod listing;
mod slices;

pub(crate) use backend::{Backend, check_target};
pub(crate) use listing::{Discovery, Listing};
