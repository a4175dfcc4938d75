//! The in-pod supervisor: one worker per core of an unmodified app behind one port.
//!
//! Only its own binary links it: `scaledapp` runs that, and speaks to it by `ctl`.
//! Lifecycle decisions are in `scaledapp-engine`, request forwarding in
//! `scaledapp-proxy`, system calls in `scaledapp-sys`; what is here carries
//! facts to them and their decisions out.

mod answers;
mod cgroup;
mod channel;
pub mod cli;
mod clock;
mod connections;
mod control;
mod cores;
mod ctl;
pub mod ctl_cli;
mod desired;
mod dispatch;
mod drain;
mod ears;
mod events;
mod exposition;
mod frames;
mod front;
mod handover;
mod hang;
mod hints;
mod history;
mod hold;
pub mod import;
pub mod install;
mod limits;
mod load;
mod logs;
mod memory;
mod probe;
mod process;
mod readiness;
mod recycle;
mod report;
pub mod run;
mod scrape;
pub mod selftest;
pub mod settings;
mod sharing;
mod silence;
mod sockets;
mod supervisor;
mod tables;
pub mod watchdog;
mod workers;
