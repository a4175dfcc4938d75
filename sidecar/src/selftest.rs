//! Tries the hand-over once before any worker starts.
//!
//! Whether seccomp notification works depends on kernel, profile and outer
//! filters, and no list of error codes covers them (gVisor answers otherwise
//! than an old kernel). So a child binds a port for real, and the hand-over
//! works if it then finds our socket in its hands.

use std::cell::RefCell;
use std::net::{Ipv4Addr, TcpListener};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use scaledapp_engine::{Generation, WorkerId};
use scaledapp_sys::spawn::spawn_filtered;

use crate::handover::{Caller, answer_one, waiting};
use crate::sharing::Sharing;

/// A child that neither calls nor ends by then is stuck; one on a machine that is
/// busy with everything else at once is not.
const PATIENCE: Duration = Duration::from_secs(5);

/// Whether a child's `bind` can be answered with a socket of ours; the reason if not.
///
/// # Errors
/// What failed, in words for the log.
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
    // Its one call is the bind (and its listen); a second is plenty for both.
    for _call in 0..2 {
        if waiting(&filtered.listener, PATIENCE).unwrap_or(false) {
            answer_one(&filtered.listener, &caller, &sharing);
        }
    }
    drop(filtered.listener);
    match filtered.child.wait() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("a bind could not be answered ({status})")),
        Err(error) => Err(format!("the trial was lost: {error}")),
    }
}

/// The child: success if a bind to `port` gave a socket bound elsewhere.
pub fn bind_as_an_app(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port))
        .and_then(|socket| socket.local_addr())
        .is_ok_and(|address| address.port() != port)
}
