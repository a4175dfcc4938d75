//! The built binary over real sockets.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test stops where a fact that it relies on does not hold"
)]

mod cluster;
mod health;
mod life;
mod records;
mod reports;
mod server;
mod service;
mod tcp;
mod udp;
