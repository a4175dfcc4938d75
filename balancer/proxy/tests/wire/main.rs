//! The forwarding path over real sockets: limits, the line of those that wait,
//! what is known of an endpoint, what becomes of kept connections and of answers
//! that break off.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "all of this target is test code, helpers included"
)]

mod broken;
mod deaths;
mod handback;
mod held;
mod last;
mod leaving;
mod limits;
mod line;
mod memory;
mod parked;
mod peers;
mod reuse;
mod signs;
mod slow;
mod stalls;
mod strange;
mod tunnels;
mod unread;
mod uploads;
