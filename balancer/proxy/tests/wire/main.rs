//! The forwarding path over real sockets: limits, the queue, the state of endpoints, kept
//! connections, and answers that break off.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "all of this target is test code, helpers included"
)]

mod announced;
mod broken;
mod deaths;
mod handback;
mod large;
mod last_answer;
mod leaving;
mod limits;
mod memory;
mod observed;
mod parked;
mod peers;
mod queue;
mod reuse;
mod short_answers;
mod slow;
mod stalls;
mod tcp;
mod tunnels;
mod unread;
mod unusual;
mod uploads;
