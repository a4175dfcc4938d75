//! The built binary's own life over real sockets: configuration, discovery,
//! supervisors that are heard or not. What it does with requests is tested in
//! `tests/tests/wire_balancer`.

#![expect(
    clippy::unwrap_used,
    reason = "a test stops where a fact that it relies on does not hold"
)]

mod cluster;
mod discovery;
mod life;
mod server;
