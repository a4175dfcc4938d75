//! The built supervisor against real apps: hand-over, `ctl`, lifecycle, exits.
//!
//! `scaledapp-engine` tests lifecycle decisions. These tests need a kernel: sockets, signals,
//! processes, cgroups.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "all of this target is test code, helpers included"
)]

mod consumers;
mod control;
mod deaths;
mod directory;
mod doors;
mod exits;
mod handover;
mod hang;
mod importing;
mod leaving;
mod lifecycle;
mod looks;
mod machine;
mod messages;
mod output;
mod quits;
mod recycle;
mod scaling;
mod scrape;
mod shuts;
mod signals;
mod sticky;
mod systemd;
mod trust;

mod websockets;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use scaledapp_tests::binaries::has;
use scaledapp_tests::http::{self, Request};
use scaledapp_tests::wait;

/// Time-out for an operation that takes a moment if the machine is not busy.
const SOON: Duration = Duration::from_secs(10);

/// Sends one request on a new connection and returns the pid that answered.
fn pid_of(to: SocketAddr) -> u32 {
    let response = http::get(to, "/").unwrap();
    assert_eq!(response.status, 200, "{}", response.text());
    response.json()["pid"]
        .as_u64()
        .unwrap_or_else(|| panic!("no pid in {}", response.text())) as u32
}

/// Sends requests on new connections until all of `pids` have answered.
fn all_answer(to: SocketAddr, pids: &[u32]) {
    let wanted: BTreeSet<u32> = pids.iter().copied().collect();
    let mut seen = BTreeSet::new();
    wait::until(SOON, "every worker answers", || {
        // Four requests are sent at the same time, because one idle worker could answer a whole
        // sequence.
        let asked: Vec<_> = (0..4)
            .map(|_| {
                std::thread::spawn(move || http::one_shot(to, SOON, &Request::get("/sleep?ms=20")))
            })
            .collect();
        for response in asked {
            let response = response.join().unwrap().unwrap();
            seen.extend(response.json()["pid"].as_u64().map(|pid| pid as u32));
        }
        if seen == wanted {
            Ok(())
        } else {
            Err(format!("{seen:?} of {wanted:?}"))
        }
    })
    .unwrap();
}
