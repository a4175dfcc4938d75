//! The in-pod supervisor: one worker per core of an unmodified app behind one port.
//!
//! Only its own binary links this crate; `scaledapp` starts that binary and controls it with
//! `ctl`. `scaledapp-engine` makes the lifecycle decisions, `scaledapp-proxy` forwards
//! requests, and `scaledapp-sys` makes system calls. This crate brings facts to them and
//! carries out their decisions.

pub mod cli;
mod clock;
mod connection;
mod cores;
mod count;
pub mod ctl;
mod desired;
mod directory;
mod dispatch;
mod ends;
mod events;
mod exposition;
mod front;
pub mod handover;
mod hints;
mod history;
pub mod import;
mod input;
pub mod install;
mod last_words;
mod limits;
mod logs;
mod owner;
mod process;
mod range;
mod readiness;
mod report;
pub mod run;
mod scaling;
mod scrape;
mod service_manager;
pub mod settings;
mod signals;
mod stop_signal;
mod supervisor;
pub mod unit;
pub mod watchdog;
mod workers;
