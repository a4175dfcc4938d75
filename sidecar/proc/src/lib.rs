//! What the kernel tells of the container that we run in: its cgroups, and the memory
//! that it has and uses. No sockets and no runtime; what follows from the numbers is
//! decided by those that ask (`sidecar`, `scaledapp-proxy`).

pub mod cgroup;
mod container;

pub use container::{Container, Limiting, of_machine};
