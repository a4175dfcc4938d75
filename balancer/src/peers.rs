//! What pods say of themselves on their admin ports: followed by [`watch`], and judged by
//! [`health`].

pub(crate) mod health;
mod lines;
pub(crate) mod watch;
