//! The kernel's edge: all `unsafe` code of the project, and nothing that decides.
//!
//! Every block carries a SAFETY comment. What is here: the seccomp user
//! notification listener and its answers ([`notify`]), what happens between
//! `fork` and `exec` of a worker ([`spawn`]), the signal state that we were started with
//! ([`signals`]), whose eyes we look at /proc with ([`identity`]), the steering program of a
//! `SO_REUSEPORT` group ([`steer`]), the numbers of calls that wait for
//! connections ([`waiting`]), when a socket hangs up ([`hangup`]) or an epoll set is
//! readable ([`readable`]), a signal for one thread ([`thread`]), free memory that
//! goes back to the kernel ([`heap`]). Who gets which socket, and when, is decided in
//! `sidecar/src`.

#![expect(
    unsafe_code,
    reason = "system calls that no safe wrapper offers; each block has a SAFETY comment"
)]

pub mod hangup;
pub mod heap;
pub mod identity;
pub mod notify;
pub mod readable;
pub mod signals;
pub mod spawn;
pub mod steer;
pub mod thread;
pub mod waiting;

pub use spawn::{ignore_terminating_signals, tie_to_parent};
