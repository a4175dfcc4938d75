//! Turns Ctrl-C and similar signals into a flag, so that the demo can stop its processes in order
//! instead of being killed, and ends the commands of long work, so that it can clean up.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, kill_process};
use scaledapp_tests::proc;
use tokio::runtime::Builder;
use tokio::signal::unix::{SignalKind, signal};

use crate::console::say;

/// How long work may take to clean up after its commands have been ended.
const CLEAN_UP_TIMEOUT: Duration = Duration::from_secs(10);

/// A flag that is set when INT, TERM or HUP arrives.
#[derive(Debug, Clone)]
pub(crate) struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// Catches the signals from now on, so that they no longer end this process.
    ///
    /// # Errors
    /// A descriptor cannot be made, or a signal handler cannot be installed.
    pub(crate) fn watch() -> anyhow::Result<Self> {
        Self::watch_and_say("\nStopping: requests are drained first, which takes a few seconds.")
    }

    /// As [`Interrupt::watch`], with another text for the user.
    fn watch_and_say(text: &'static str) -> anyhow::Result<Self> {
        let runtime = Builder::new_current_thread()
            .enable_all()
            .build()
            .context("cannot watch for Ctrl-C")?;
        let here = runtime.enter();
        let mut int = signal(SignalKind::interrupt())?;
        let mut term = signal(SignalKind::terminate())?;
        let mut hangup = signal(SignalKind::hangup())?;
        drop(here);
        let came = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&came);
        std::thread::spawn(move || {
            runtime.block_on(async move {
                loop {
                    tokio::select! {
                        _ = int.recv() => {}
                        _ = term.recv() => {}
                        _ = hangup.recv() => {}
                    }
                    if !flag.swap(true, Ordering::Relaxed) {
                        say(text);
                    }
                }
            });
        });
        Ok(Self(came))
    }

    /// Whether a signal has arrived.
    pub(crate) fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Does `work` in a thread. When a signal arrives, all commands below this process are ended, which
/// makes the work fail, so that it drops what is half done. `left` says what the user finds afterwards.
///
/// # Errors
/// The work fails, or was interrupted.
pub(crate) fn stoppable<T: Send + 'static>(
    left: &str,
    work: impl FnOnce() -> anyhow::Result<T> + Send + 'static,
) -> anyhow::Result<T> {
    let interrupt = Interrupt::watch_and_say("\nStopping: commands are ended first.")?;
    let working = std::thread::spawn(work);
    let mut since = None;
    while !working.is_finished() {
        if interrupt.is_set() {
            let since = *since.get_or_insert_with(Instant::now);
            // Work may begin another command after one that was ended.
            for child in proc::descendants(std::process::id()) {
                let child = i32::try_from(child).ok().and_then(Pid::from_raw);
                let _gone = child.map(|child| kill_process(child, Signal::TERM));
            }
            if since.elapsed() >= CLEAN_UP_TIMEOUT {
                bail!("stopped while something was half done. {left}");
            }
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    let done = working.join();
    if interrupt.is_set() {
        bail!("stopped. {left}");
    }
    match done {
        Ok(done) => done,
        Err(_) => bail!("the work ended unexpectedly; its message is above"),
    }
}
