//! Ctrl-C and its likes, told as a flag: what was started has to be ended in
//! order, so the signal must not end us where we stand.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context;
use tokio::runtime::Builder;
use tokio::signal::unix::{SignalKind, signal};

use crate::console::say;

/// Whether INT, TERM or HUP has come.
#[derive(Debug, Clone)]
pub(crate) struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// From now on the signals no longer end this process.
    ///
    /// # Errors
    /// The kernel gives no thread or no descriptor.
    pub(crate) fn watch() -> anyhow::Result<Self> {
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
                        say("\nStopping: what runs is drained first, a few seconds.");
                    }
                }
            });
        });
        Ok(Self(came))
    }

    /// Whether it has come.
    pub(crate) fn came(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}
