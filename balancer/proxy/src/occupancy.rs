//! How many connections and tasks a forwarding thread has, and whether it may accept one
//! more connection.
//!
//! The limit applies to the whole proxy (`connection_limit`); which connection ends for a
//! new one is decided in `accept`.

use std::cell::Cell;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;

use crate::clock::{Clock, Deadline};
use crate::connection_limit::{AddressFull, ConnectionLimit};
use crate::newcomers::{Newcomer, Newcomers};

/// At the limit of connections, a connection may be ended for a new one if its client has
/// not sent or read for this long. A lost packet is sent again within a second.
pub(crate) const STALL_GRACE: Duration = Duration::from_secs(2);
/// With more tasks than this, a task gives up its connection as soon as the connection is
/// idle. The connection then costs little memory, and its next request costs some more
/// time.
const CROWDED_TASKS: u32 = 512;

/// The connections and tasks of one thread.
#[derive(Debug)]
pub(crate) struct Occupancy {
    clock: Rc<Clock>,
    /// The limit of all threads of the proxy.
    limit: Arc<ConnectionLimit>,
    pub(crate) newcomers: Newcomers,
    connections: Cell<u32>,
    /// Tasks that serve a connection, or wait for one to serve.
    tasks: Cell<u32>,
    /// Accepting waits until a connection of this thread is idle or stalled, or until any
    /// connection of the proxy has ended.
    is_blocked: Cell<bool>,
    /// Notified when a connection has ended, or could be ended for a new one.
    ended: Arc<Notify>,
}

impl Occupancy {
    pub(crate) fn new(clock: Rc<Clock>, limit: Arc<ConnectionLimit>) -> Self {
        Self {
            clock,
            limit,
            newcomers: Newcomers::default(),
            connections: Cell::new(0),
            tasks: Cell::new(0),
            is_blocked: Cell::new(false),
            ended: Arc::default(),
        }
    }

    /// Whether there may be one more connection, or one of this thread could end for it.
    pub(crate) fn has_room(&self) -> bool {
        let gives_way = || {
            self.clock.has_idle()
                || !self.newcomers.is_empty()
                || self.clock.has_stalled(STALL_GRACE)
        };
        !self.limit.is_full() || !self.limit.is_beyond() && gives_way()
    }

    /// Lists a connection whose client has not achieved anything yet, until the result is dropped.
    pub(crate) fn newcomer(&self, deadline: &Deadline, address: IpAddr) -> Newcomer<'_> {
        let newcomer = self.newcomers.join(deadline, address);
        self.one_could_end();
        newcomer
    }

    /// Whether the limit is reached.
    pub(crate) fn is_full(&self) -> bool {
        self.limit.is_full()
    }

    /// Makes accepting wait from now on; the caller must check [`Self::has_room`] once more
    /// afterwards. Returns whether accepting did not wait before.
    pub(crate) fn block(&self) -> bool {
        let is_new = !self.is_blocked.replace(true);
        self.limit.wait(&self.ended);
        is_new
    }

    pub(crate) fn is_blocked(&self) -> bool {
        self.is_blocked.get()
    }

    /// A connection is idle or stalled, so that it could be ended for a new one.
    pub(crate) fn one_could_end(&self) {
        if self.is_blocked.replace(false) {
            self.ended.notify_one();
        }
    }

    /// Resolves when the accept loop has to check again whether there is room.
    pub(crate) async fn changed(&self) {
        self.ended.notified().await;
    }

    /// Counts a new connection, also for `address` if that is given.
    pub(crate) fn enter(&self, address: Option<IpAddr>) -> Result<(), AddressFull> {
        self.limit.enter(address)?;
        self.connections.set(self.connections.get() + 1);
        Ok(())
    }

    /// Counts a connection for `address` that [`Self::enter`] has counted for none.
    pub(crate) fn name(&self, address: Option<IpAddr>) -> Result<(), AddressFull> {
        self.limit.name(address)
    }

    /// Counts a connection that has ended.
    pub(crate) fn leave(&self, address: Option<IpAddr>, is_leaving: bool) {
        self.connections.set(self.connections.get() - 1);
        // This notifies the threads that wait for room.
        self.limit.leave(address);
        if is_leaving {
            self.ended.notify_one();
        }
    }

    pub(crate) fn connections(&self) -> u32 {
        self.connections.get()
    }

    /// Counts a task until the guard is dropped.
    pub(crate) fn task(&self) -> Task<'_> {
        self.tasks.set(self.tasks.get() + 1);
        Task(&self.tasks)
    }

    /// Whether there are so many tasks that none should wait for a silent connection.
    pub(crate) fn is_crowded(&self) -> bool {
        self.tasks.get() > CROWDED_TASKS
    }
}

/// A task that is counted.
#[derive(Debug)]
pub(crate) struct Task<'a>(&'a Cell<u32>);

impl Drop for Task<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}
