//! The `ScaledApp` object as it is written: its types ([`v1alpha1`]) and how
//! it is read from YAML ([`read`]).
//!
//! Only shapes are decided here. Which values make sense together, and what
//! absence means, is decided in `operator/plan`. Only what works today can be
//! written: a field that has no effect yet is refused by its name.

mod duration;
mod quantity;
mod read;
pub mod v1alpha1;

pub use duration::{Duration, DurationError};
pub use quantity::{Quantity, QuantityError};
pub use read::{ReadError, read};
pub use v1alpha1::ScaledApp;

/// API version of the object, group and version.
pub const API_VERSION: &str = "scaledapp.io/v1alpha1";
/// Kind of the object.
pub const KIND: &str = "ScaledApp";
