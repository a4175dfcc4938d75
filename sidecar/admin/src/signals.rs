//! The signals that ask a program to stop or to reload, as one stream.
//!
//! What they lead to is the program's to decide.

use std::io;

use tokio::signal::unix::{Signal as Stream, SignalKind, signal};

/// What was asked of the process (signal(7)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// `SIGTERM`: stop gracefully.
    Terminate,
    /// `SIGINT`: stop; asked twice, stop at once.
    Interrupt,
    /// `SIGHUP`: reload.
    Hangup,
}

/// `SIGTERM`, `SIGINT` and `SIGHUP` as they arrive.
///
/// From its making on, these signals no longer end the process, for the rest
/// of the process' life (tokio never restores the default). Several of one
/// kind that arrive before they are asked for count as one.
#[derive(Debug)]
pub struct Signals {
    terminate: Stream,
    interrupt: Stream,
    hangup: Stream,
}

impl Signals {
    /// Takes the signals over. Needs a tokio runtime with I/O enabled.
    ///
    /// # Errors
    /// If a handler cannot be installed.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// The next signal. Cancel safe.
    pub async fn next(&mut self) -> Signal {
        tokio::select! {
            Some(()) = self.terminate.recv() => Signal::Terminate,
            Some(()) = self.interrupt.recv() => Signal::Interrupt,
            Some(()) = self.hangup.recv() => Signal::Hangup,
            // tokio documents that a signal stream never ends.
            else => std::future::pending().await,
        }
    }
}
