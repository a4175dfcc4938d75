//! Whole answers to whole queries, decoded by `hickory-proto`: a codec that shares no code with
//! this package.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test stops where a fact that it relies on does not hold"
)]

mod message;
mod ownership;
mod properties;
mod rotation;
mod size;
mod table;
