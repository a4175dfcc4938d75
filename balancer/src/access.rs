//! Where the lines of the access log go: to stdout, through a queue that never waits.
//!
//! What a line says is decided in `scaledapp-proxy`.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use scaledapp_proxy::AccessSink;
use scaledapp_runtime::{Lines, Stream};

/// How long the balancer waits at its end for a stdout that accepts nothing.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// The queue before stdout.
#[derive(Debug)]
pub(crate) struct Stdout(Lines);

impl Stdout {
    /// Starts the thread that writes.
    ///
    /// # Errors
    /// No thread can be started.
    pub(crate) fn start() -> io::Result<Arc<Self>> {
        let lines = Lines::start(|bytes| Stream::Stdout.write_whole(bytes))?;
        Ok(Arc::new(Self(lines)))
    }

    /// The number of lines that stdout did not accept in time, or at all.
    pub(crate) fn dropped(&self) -> u64 {
        self.0.dropped()
    }
}

/// Waits, when it is dropped, until all lines are written, for at most a second.
#[derive(Debug)]
pub(crate) struct Flushing(pub(crate) Arc<Stdout>);

impl Drop for Flushing {
    fn drop(&mut self) {
        // On a timeout there is no reader, and waiting longer would not help.
        let _unread = self.0.0.flush(FLUSH_TIMEOUT);
    }
}

impl AccessSink for Stdout {
    fn put(&self, line: &[u8]) {
        self.0.put(line);
    }
}
