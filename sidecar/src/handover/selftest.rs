//! Tests the hand-over once before any worker starts.
//!
//! Whether seccomp notification works depends on the kernel, the profile and outer filters,
//! and no list of error codes covers them all (gVisor answers differently from an old
//! kernel). So a child really binds a port, and the hand-over works if the child's
//! descriptor then is the supervisor's socket.

use std::cell::RefCell;
use std::net::{Ipv4Addr, TcpListener};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use scaledapp_engine::{Generation, WorkerId};
use scaledapp_sys::spawn::spawn_filtered;

use crate::handover::calls::{Caller, answer_one, waiting};
use crate::handover::sharing::Sharing;

/// How long a child may take for a call. A child that has neither called nor ended by then counts
/// as stuck; even on a very busy machine a child needs less.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);

/// Tests whether a child's `bind` can be answered with a socket of the supervisor.
///
/// # Errors
/// Hand-over does not work. The text is the reason, for the log.
pub(crate) fn hand_over_works(port: u16) -> Result<(), String> {
    let mut command = Command::new("/proc/self/exe");
    command
        .args(["self-test", &port.to_string()])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .env_clear();
    let mut filtered = spawn_filtered(command)
        .map_err(|error| format!("the kernel refused the filter: {error}"))?;
    let sharing = RefCell::new(Sharing::request());
    let caller = Caller {
        worker: WorkerId(0),
        generation: Generation(0),
        ports: [port].into(),
        resets: Arc::default(),
    };
    // The child calls `bind` and perhaps `listen`.
    for _call in 0..2 {
        if waiting(&filtered.listener, CALL_TIMEOUT).unwrap_or(false) {
            answer_one(&filtered.listener, &caller, &sharing);
        }
    }
    drop(filtered.listener);
    match filtered.child.wait() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("a bind could not be answered ({status})")),
        Err(error) => Err(format!("the test failed: {error}")),
    }
}

/// Runs in the child: succeeds if a bind to `port` gave a socket bound to another port.
pub fn bind_as_an_app(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port))
        .and_then(|socket| socket.local_addr())
        .is_ok_and(|address| address.port() != port)
}
