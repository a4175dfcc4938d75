//! The signals that ask a program to stop or to reload, as one stream.
//!
//! What they lead to is the program's to decide. As PID 1 of a container a program gets
//! only signals that it handles (`pid_namespaces(7)`), and container images name many as
//! their `STOPSIGNAL`, so all that can only be meant as a stop are taken for one.

use std::fs::File;
use std::io;

use tokio::signal::unix::{Signal as Stream, SignalKind, signal};

/// Blocks nothing and ignores nothing that whoever started us did: see
/// [`scaledapp_sys::signals::reset`]. The first thing that `main` does.
pub use scaledapp_sys::signals::reset;

/// `SIGPWR` of Linux: LXC's way to stop a container.
const POWER: i32 = 30;
/// `SIGRTMIN+3` as everybody but C libraries counts it: systemd's signal to halt.
const HALT: i32 = 37;

/// What was asked of the process (signal(7)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// `SIGTERM`, or another of those that can only mean it: stop gracefully.
    Terminate,
    /// `SIGINT`: stop; asked twice, stop at once.
    Interrupt,
    /// `SIGHUP`: reload.
    Hangup,
}

/// `SIGTERM`, `SIGINT`, `SIGHUP` and other signals that ask for a stop, as they arrive:
/// `SIGQUIT` (images of nginx and php-fpm), `SIGPWR`, `SIGRTMIN+3`, and, without a
/// controlling terminal, `SIGWINCH` (images of httpd). With a terminal that one says that
/// its window changed, and does nothing.
///
/// From its making on, these signals no longer end the process, for the rest
/// of the process' life (tokio never restores the default). Several of one
/// kind that arrive before they are asked for count as one.
#[derive(Debug)]
pub struct Signals {
    terminate: Stream,
    interrupt: Stream,
    hangup: Stream,
    quit: Stream,
    power: Stream,
    halt: Stream,
    /// `None`: with a controlling terminal.
    window: Option<Stream>,
}

impl Signals {
    /// Takes the signals over. Needs a tokio runtime with I/O enabled.
    ///
    /// # Errors
    /// If a handler cannot be installed.
    pub fn new() -> io::Result<Self> {
        // tty(4): it can be opened by whoever has a controlling terminal.
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
