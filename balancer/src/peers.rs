//! What pods report about themselves on their admin ports: [`watch`] reads it, and
//! [`health`] decides what it means.

pub(crate) mod health;
pub(crate) mod watch;
