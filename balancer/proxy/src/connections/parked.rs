//! Connections that have been idle for a second or two. They have no task and no registration with
//! tokio. A thread watches all of them through one epoll set of its own; each costs a descriptor, a
//! deadline and about 60 bytes here.
//!
//! Parking and unparking cost four system calls, so connections in use are never parked.
//! When a connection is parked is decided in `connections`.

use std::cell::{Cell, RefCell};
use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};
use scaledapp_sys::{heap, readable};
use tokio::io::unix::AsyncFd;

use crate::clock::Deadline;
use crate::transport::Detached;

/// How many connections are handled per call of `epoll_wait`.
const MAX_BATCH: usize = 64;
/// Memory is given back once at least this many connections have been parked: parking them
/// has freed a few hundred KiB.
const MIN_FREED: u32 = 256;
/// How often memory is given back while more and more connections are parked.
const RETURN_INTERVAL: Duration = Duration::from_secs(10);

/// The parked connections of a thread, by the slots of their deadlines.
#[derive(Debug)]
pub(super) struct Parked<T> {
    epoll: AsyncFd<OwnedFd>,
    connections: RefCell<Vec<Option<ParkedConnection<T>>>>,
    /// The number of connections parked since memory was last given back: now, and at the
    /// last check.
    added: Cell<u32>,
    looked_at: Cell<u32>,
    given_back: Cell<Duration>,
}

#[derive(Debug)]
pub(super) struct ParkedConnection<T> {
    pub(super) transport: Detached,
    pub(super) deadline: Deadline,
    pub(super) owner: T,
}

impl<T> Parked<T> {
    /// # Errors
    /// There are no more descriptors.
    pub(super) fn new() -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        Ok(Self {
            epoll: readable::watch(epoll)?,
            connections: RefCell::default(),
            added: Cell::new(0),
            looked_at: Cell::new(0),
            given_back: Cell::new(Duration::ZERO),
        })
    }

    /// Takes out all parked connections. Their entries in the epoll set end with their
    /// descriptors.
    pub(super) fn take_all(&self) -> Vec<ParkedConnection<T>> {
        self.connections.take().into_iter().flatten().collect()
    }

    /// Watches a connection until it has something to read or its deadline passes. If it
    /// cannot be watched, it is returned unchanged.
    pub(super) fn put(&self, connection: ParkedConnection<T>) -> Result<(), ParkedConnection<T>> {
        let slot = connection.deadline.park();
        let data = epoll::EventData::new_u64(slot.index() as u64);
        let events = epoll::EventFlags::IN | epoll::EventFlags::RDHUP;
        if epoll::add(&self.epoll, &connection.transport, data, events).is_err() {
            return Err(connection);
        }
        let mut connections = self.connections.borrow_mut();
        if connections.len() <= slot.index() {
            connections.resize_with(slot.index() + 1, || None);
        }
        connections[slot.index()] = Some(connection);
        self.added.set(self.added.get().saturating_add(1));
        Ok(())
    }

    /// Gives back, from time to time, the memory that parked connections needed before.
    pub(super) fn give_back(&self, now: Duration) {
        let added = self.added.get();
        let is_over = self.looked_at.replace(added) == added;
        let is_due = now.saturating_sub(self.given_back.get()) >= RETURN_INTERVAL;
        if added >= MIN_FREED && (is_over || is_due) {
            self.added.set(0);
            self.given_back.set(now);
            heap::give_back();
        }
    }

    /// Takes out the connection with that slot, and stops watching it.
    pub(super) fn take(&self, slot: usize) -> Option<ParkedConnection<T>> {
        let mut connections = self.connections.borrow_mut();
        let connection = connections.get_mut(slot)?.take()?;
        drop(connections);
        // The connection was added before, so this cannot fail.
        let _removed = epoll::delete(&self.epoll, &connection.transport);
        Some(connection)
    }

    /// Waits for connections that have something to read, or have ended; returns their
    /// slots.
    pub(super) async fn heard(&self) -> io::Result<Vec<usize>> {
        let mut ready = self.epoll.readable().await?;
        let mut events = Vec::with_capacity(MAX_BATCH);
        let count = epoll::wait(
            &self.epoll,
            spare_capacity(&mut events),
            Some(&Timespec::default()),
        )?;
        // The batch was not full, so it contains all ready connections, and the caller
        // takes each of them out of the set.
        if count < MAX_BATCH {
            ready.clear_ready();
        }
        let slots = events.iter().map(|event| event.data.u64() as usize);
        Ok(slots.collect())
    }
}
