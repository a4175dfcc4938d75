//! What the kernel tells: of the container that we run in, its cgroups and the memory
//! that it has and uses; and of TCP sockets, those that are open and those that have
//! just ended. No runtime; what follows from it is decided by those that ask
//! (`sidecar`, `scaledapp-proxy`).

pub mod cgroup;
mod container;
pub mod destroyed;
pub mod sockets;

pub use container::{Container, Limiting, of_machine};
