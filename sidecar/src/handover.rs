//! Hand-over: a worker calls `bind` and `listen`, and the supervisor answers with a socket
//! that it made itself.
//!
//! `calls` reads the calls and answers them, `sharing` decides which socket a worker gets,
//! and `selftest` finds out whether hand-over works on this machine. The protocol with the
//! kernel is in `scaledapp-sys` (`notify`); what a call means for the worker is decided in
//! `workers`. Of the rest of this crate, these files import only `owner`.

pub(crate) mod calls;
pub mod selftest;
pub(crate) mod sharing;
