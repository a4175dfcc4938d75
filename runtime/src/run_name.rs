//! A name for one run of a process, so that a reader of its counters notices that they began
//! again.

use std::time::{SystemTime, UNIX_EPOCH};

/// A name that no other process on this machine has had: the process's number and the time of this
/// call.
pub fn run_name() -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now = now.unwrap_or_default().as_nanos();
    format!("{}-{now:x}", std::process::id())
}
