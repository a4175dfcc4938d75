//! Which stage of its life a forwarding thread is in, and whether it has anything to do.
//!
//! When each stage begins is decided in `drain`; what is done at each tick, in
//! `housekeeping`.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;

use crate::clock::{self, Clock, REST_INTERVAL, TICK_INTERVAL};
use crate::drain::{Arrival, Stage, time_to_leave};

/// After this long without a request, ticks become rare.
const QUIET: Duration = Duration::from_secs(2);

/// See the module documentation.
#[derive(Debug)]
pub(crate) struct Activity {
    clock: Rc<Clock>,
    stage: Cell<Stage>,
    /// When a client last arrived; all threads share this, because it decides when a
    /// shutdown closes the listeners.
    arrival: Arc<Arrival>,
    /// When a connection or a request last began on this thread.
    latest: Cell<Duration>,
    /// Whether ticks are rare now.
    rests: Cell<bool>,
    /// Notified when ticks must become frequent again.
    woken: Notify,
    /// Notified of each stage from [`Stage::Leaving`] on.
    left: Notify,
}

impl Activity {
    pub(crate) fn new(clock: Rc<Clock>, arrival: Arc<Arrival>) -> Self {
        Self {
            clock,
            stage: Cell::new(Stage::Serving),
            arrival,
            latest: Cell::new(Duration::ZERO),
            rests: Cell::new(false),
            woken: Notify::new(),
            left: Notify::new(),
        }
    }

    /// A connection or a request begins: its time counts from now, and ticks must be
    /// frequent.
    pub(crate) fn begins(&self) {
        let now = clock::now();
        self.clock.set(now);
        self.latest.set(now);
        if self.rests.replace(false) {
            self.woken.notify_one();
        }
        if self.is_leaving() {
            self.arrival.set(now);
        }
    }

    /// Enters another stage.
    pub(crate) fn enter(&self, stage: Stage) {
        self.stage.set(stage);
        if self.is_leaving() {
            self.left.notify_waiters();
        }
        self.begins();
    }

    pub(crate) fn stage(&self) -> Stage {
        self.stage.get()
    }

    /// Whether answers must say that the connection ends with them.
    pub(crate) fn is_leaving(&self) -> bool {
        self.stage.get() >= Stage::Leaving
    }

    /// Resolves once answers must say that the connection ends with them.
    pub(crate) async fn leaves(&self) {
        while !self.is_leaving() {
            self.left.notified().await;
        }
    }

    /// Resolves when one client of a WebSocket should be told to leave: once no new connection can
    /// come here any more, at a random time before the deadline.
    pub(crate) async fn client_should_leave(&self, share: f64) {
        while self.stage.get() < Stage::Closed {
            self.left.notified().await;
        }
        let at = time_to_leave(clock::now(), self.arrival.deadline(), share);
        tokio::time::sleep(at.saturating_sub(clock::now())).await;
    }

    /// Resolves when it is time for the next tick.
    pub(crate) async fn next_tick(&self) {
        let interval = if self.rests.get() {
            REST_INTERVAL
        } else {
            TICK_INTERVAL
        };
        tokio::select! {
            () = tokio::time::sleep(interval) => {}
            () = self.woken.notified() => {}
        }
    }

    /// Records that a tick has been done. `is_awaited` says whether something waits for the next
    /// tick.
    pub(crate) fn ticked(&self, now: Duration, is_awaited: bool) {
        let is_quiet = now.saturating_sub(self.latest.get()) >= QUIET;
        self.rests.set(!is_awaited && is_quiet);
    }
}
