//! `ctl`: how users and programs query and control a running supervisor.
//!
//! One JSON line goes each way (`scaledapp_wire`) over an abstract Unix socket (unix(7))
//! whose name contains the full admin address. So no writable directory is needed, and two
//! supervisors on different addresses never collide. Each side checks the other's uid as
//! reported by the kernel (`SO_PEERCRED`), because any process in the network namespace can
//! bind such a name. There is no other authentication.

pub(crate) mod answers;
mod client;
pub mod command;
mod name;
pub(crate) mod server;
mod tables;
