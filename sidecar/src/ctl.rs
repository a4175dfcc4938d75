//! `ctl`: how people and programs ask and tell a running supervisor.
//!
//! One JSON line each way (`scaledapp_wire`) over an abstract Unix socket (unix(7))
//! whose name holds the full admin address: no writable directory is needed, and two
//! supervisors on different addresses never collide. Each side checks the other's
//! uid by the kernel's word (`SO_PEERCRED`), which is the whole authentication:
//! anybody in the network namespace can take such a name.

pub(crate) mod answers;
mod client;
pub mod command;
mod name;
pub(crate) mod server;
mod tables;
