//! The small values that the parts of `ScaledApp` read, write or count with: durations and sizes
//! as people type them, the pauses between retries, the workers that CPU carries, and one hash.
//!
//! This crate does no I/O and depends on no other crate of this project. It decides how a value is
//! written, not which values a flag or a field accepts.

pub mod cores;
pub mod duration;

mod backoff;
mod fnv;
mod size;

pub use backoff::{Backoff, jitter};
pub use fnv::Fnv1a;
pub use size::{Size, SizeError};
