//! The `ScaledApp` object as a user writes it: its types ([`v1alpha1`]) and how it is read from
//! YAML ([`read`]); with the feature `kubernetes` also as the API server stores it
//! (`kubernetes`). The labels, annotations, port names, conditions and reasons are in [`words`].
//!
//! Reading checks only types. `operator/plan` decides which values are valid together and what
//! absent fields mean. Only fields that work today are accepted: a planned field is refused with
//! an error that names it.

mod duration;
#[cfg(feature = "kubernetes")]
pub mod kubernetes;
mod quantity;
mod read;
mod schema;
#[cfg(feature = "kubernetes")]
mod status;
pub mod v1alpha1;
mod values;
pub mod words;

pub use duration::Duration;
pub use quantity::{Quantity, QuantityError};
pub use read::{Objects, ReadError, read, read_all};
pub use v1alpha1::ScaledApp;

/// API version of the object, group and version.
pub const API_VERSION: &str = "scaledapp.io/v1alpha1";
/// Kind of the object.
pub const KIND: &str = "ScaledApp";
