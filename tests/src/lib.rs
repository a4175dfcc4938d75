//! The test harness: real processes, sockets and load, with every request counted.
//!
//! It uses only public interfaces (binaries, ports, JSON, signals) and links none of the
//! components. `cargo xtask demo` uses it too, so its functions return `Result`, and only the tests
//! assert.

pub mod balancer;
pub mod binaries;
pub mod cluster;
pub mod dns;
pub mod fixtures;
pub mod http;
pub mod load;
pub mod local;
pub mod memory_limit;
pub mod ports;
pub mod proc;
pub mod process;
pub mod served;
pub mod sidecar;
pub mod upstream;
pub mod wait;
