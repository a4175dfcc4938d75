//! The interface to the kernel: all `unsafe` code of the project, without any decisions.
//!
//! Every block carries a SAFETY comment. The modules are: the seccomp user notification
//! listener and its answers ([`notify`]), the code that runs between `fork` and `exec` of a
//! worker ([`spawn`]), the inherited signal state ([`signals`]), the identity for reading
//! /proc ([`identity`]), the steering program of a `SO_REUSEPORT` group ([`steer`]), the
//! system calls that wait for connections ([`waiting`]), waiting until a socket hangs up
//! ([`hangup`]) or an epoll set is readable ([`readable`]), a signal for one thread
//! ([`thread`]), the clock that systemd compares ([`clock`]), the bytes that a peer has not acknowledged ([`unacknowledged`]), and the
//! return of free memory to the kernel ([`heap`]). Which worker gets which socket, and when,
//! is decided in `sidecar/src`.

#![expect(
    unsafe_code,
    reason = "system calls that no safe wrapper offers; each block has a SAFETY comment"
)]

pub mod clock;
pub mod hangup;
pub mod heap;
pub mod identity;
pub mod notify;
pub mod readable;
pub mod signals;
pub mod spawn;
pub mod steer;
pub mod thread;
pub mod unacknowledged;
pub mod waiting;

pub use spawn::{ignore_terminating_signals, tie_to_parent};
