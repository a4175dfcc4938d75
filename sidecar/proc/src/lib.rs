//! Reads what the kernel reports: the container with its cgroups and its memory, and TCP
//! sockets, both open and just ended. The crate needs no async runtime. Its users
//! (`sidecar`, `scaledapp-proxy`) decide what follows from the values.

pub mod cgroup;
mod container;
pub mod destroyed;
pub mod sockets;

pub use container::{Container, Limiting, of_machine};
