//! The signals that ask a program to stop or to reload, as one stream.
//!
//! The program decides how it reacts to each of them. As PID 1 of a container, a program gets
//! only signals that it handles (`pid_namespaces(7)`), and container images use many different
//! ones as their `STOPSIGNAL`. So all signals that can only mean a stop are treated like
//! `SIGTERM`, except `SIGINT`.

use std::fs::File;
use std::io;

use tokio::signal::unix::{Signal as Stream, SignalKind, signal};

/// Resets signals that the parent process has blocked or ignored, see
/// [`scaledapp_sys::signals::reset`]. It must be called first in `main`.
pub use scaledapp_sys::signals::reset;

/// `SIGPWR` of Linux, by which LXC stops a container.
const POWER: i32 = 30;
/// `SIGRTMIN+3`, where `SIGRTMIN` is 34 as in glibc and in container runtimes: systemd's signal
/// to halt.
const HALT: i32 = 37;

/// What the signal asks of the process (signal(7)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// `SIGTERM`, or another signal with the same meaning: stop gracefully.
    Terminate,
    /// `SIGINT`: stop; a second one stops immediately.
    Interrupt,
    /// `SIGHUP`: reload.
    Hangup,
}

/// The stream of `SIGTERM`, `SIGINT`, `SIGHUP` and other signals that ask for a stop: `SIGQUIT`
/// (images of nginx and php-fpm), `SIGPWR`, `SIGRTMIN+3`, and, without a controlling terminal,
/// `SIGWINCH` (images of httpd). With a terminal, `SIGWINCH` means that the window's size has
/// changed, and is ignored.
///
/// Once this stream exists, these signals no longer end the process, for the rest of its life
/// (tokio never restores the default). Several signals of one kind that arrive before they are
/// read count as one.
#[derive(Debug)]
pub struct Signals {
    terminate: Stream,
    interrupt: Stream,
    hangup: Stream,
    quit: Stream,
    power: Stream,
    halt: Stream,
    /// `None` if there is a controlling terminal.
    window: Option<Stream>,
}

impl Signals {
    /// Installs the handlers. Needs a tokio runtime with I/O enabled.
    ///
    /// # Errors
    /// A handler cannot be installed.
    pub fn new() -> io::Result<Self> {
        // tty(4): only a process with a controlling terminal can open it.
        let has_terminal = File::open("/dev/tty").is_ok();
        let window = (!has_terminal).then(|| signal(SignalKind::window_change()));
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
            quit: signal(SignalKind::quit())?,
            power: signal(SignalKind::from_raw(POWER))?,
            halt: signal(SignalKind::from_raw(HALT))?,
            window: window.transpose()?,
        })
    }

    /// The next signal. Cancel safe.
    pub async fn next(&mut self) -> Signal {
        let window = async {
            match &mut self.window {
                Some(window) => window.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            Some(()) = self.terminate.recv() => Signal::Terminate,
            Some(()) = self.interrupt.recv() => Signal::Interrupt,
            Some(()) = self.hangup.recv() => Signal::Hangup,
            Some(()) = self.quit.recv() => Signal::Terminate,
            Some(()) = self.power.recv() => Signal::Terminate,
            Some(()) = self.halt.recv() => Signal::Terminate,
            Some(()) = window => Signal::Terminate,
            // tokio documents that a signal stream never ends.
            else => std::future::pending().await,
        }
    }
}
