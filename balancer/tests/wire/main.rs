//! The built binary over real sockets: configuration, discovery, and supervisors that
//! answer or do not. What it does with requests is tested in `tests/tests/wire_balancer`.

#![expect(
    clippy::unwrap_used,
    reason = "a test stops where a fact that it relies on does not hold"
)]

mod cluster;
mod discovery;
mod life;
mod server;
