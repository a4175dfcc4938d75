//! Connections that have been idle for a second or two, without a task and without a
//! registration with tokio: a thread watches all of them through one epoll set of its
//! own, and each costs a descriptor, a deadline and some 60 bytes here.
//!
//! Parking and its end cost four system calls, so that connections in use never get
//! here. When one is parked is decided in `rest`, which one ends in `clock`.

use std::cell::{Cell, RefCell};
use std::io;
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::Duration;

use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};
use scaledapp_sys::{heap, readable};
use tokio::io::unix::AsyncFd;

use super::Thread;
use super::rest::{Guest, Open, has_said, rest_in_task};
use crate::clock::Deadline;
use crate::metrics::shift;
use crate::order::Slot;

/// Connections that are looked at together.
const BATCH: usize = 64;
/// What so many had before they were parked is worth giving back: some hundred KiB.
const FREED: u32 = 256;
/// While ever more are parked.
const BETWEEN_RETURNS: Duration = Duration::from_secs(10);

/// Those of a thread, by the slots of their deadlines.
#[derive(Debug)]
pub(super) struct Parked {
    epoll: AsyncFd<OwnedFd>,
    connections: RefCell<Vec<Option<Connection>>>,
    /// Parked since memory was given back last: now, and as of the last look.
    added: Cell<u32>,
    looked_at: Cell<u32>,
    given_back: Cell<Duration>,
}

#[derive(Debug)]
struct Connection {
    stream: TcpStream,
    deadline: Deadline,
    open: Open,
}

impl Parked {
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

    /// Ends all of them.
    pub(super) fn clear(&self) {
        // What ends must find nothing borrowed.
        for connection in self.connections.take().into_iter().flatten() {
            shift(&connection.open.0.counts.parked, -1);
        }
    }

    /// Watches one, until it has something to say or its deadline passes; back as it was
    /// if it cannot be watched.
    fn put(&self, connection: Connection) -> Result<(), Connection> {
        let slot = connection.deadline.park();
        let data = epoll::EventData::new_u64(slot.index() as u64);
        let events = epoll::EventFlags::IN | epoll::EventFlags::RDHUP;
        if epoll::add(&self.epoll, &connection.stream, data, events).is_err() {
            return Err(connection);
        }
        shift(&connection.open.0.counts.parked, 1);
        let mut connections = self.connections.borrow_mut();
        if connections.len() <= slot.index() {
            connections.resize_with(slot.index() + 1, || None);
        }
        connections[slot.index()] = Some(connection);
        self.added.set(self.added.get().saturating_add(1));
        Ok(())
    }

    /// Gives the memory back that parked connections needed before, now and then.
    pub(super) fn give_back(&self, now: Duration) {
        let added = self.added.get();
        let is_over = self.looked_at.replace(added) == added;
        let is_due = now.saturating_sub(self.given_back.get()) >= BETWEEN_RETURNS;
        if added >= FREED && (is_over || is_due) {
            self.added.set(0);
            self.given_back.set(now);
            heap::give_back();
        }
    }

    /// The one with that slot, which is watched no more.
    fn take(&self, slot: usize) -> Option<Connection> {
        let mut connections = self.connections.borrow_mut();
        let connection = connections.get_mut(slot)?.take()?;
        drop(connections);
        shift(&connection.open.0.counts.parked, -1);
        // It was added, so that this cannot fail.
        let _removed = epoll::delete(&self.epoll, &connection.stream);
        Some(connection)
    }

    /// The slots of those that have something to say, or have ended.
    async fn heard(&self) -> io::Result<Vec<usize>> {
        let mut ready = self.epoll.readable().await?;
        let mut events = Vec::with_capacity(BATCH);
        let count = epoll::wait(
            &self.epoll,
            spare_capacity(&mut events),
            Some(&Timespec::default()),
        )?;
        // Fewer than asked for: these are all, and each is taken now.
        if count < BATCH {
            ready.clear_ready();
        }
        let slots = events.iter().map(|event| event.data.u64() as usize);
        Ok(slots.collect())
    }
}

impl Thread {
    /// Lets a connection wait without a task. One that cannot rests in one.
    pub(super) fn park(self: &Rc<Self>, guest: Guest) {
        let Guest {
            stream,
            deadline,
            open,
        } = guest;
        // An error is that of tokio's epoll set, which does not know the connection.
        let Ok(stream) = stream.into_std() else {
            return;
        };
        let connection = Connection {
            stream,
            deadline,
            open,
        };
        if let Err(connection) = self.parked.put(connection)
            && let Some(guest) = self.guest(connection)
        {
            rest_in_task(guest);
        }
    }

    /// Serves those that have something to say, and ends those whose time is over.
    pub(super) async fn watch_parked(self: Rc<Self>) {
        loop {
            tokio::select! {
                heard = self.parked.heard() => match heard {
                    Ok(heard) => self.unpark(heard),
                    Err(error) => {
                        tracing::debug!(%error, "idle connections cannot be looked at");
                        tokio::time::sleep(super::ACCEPT_PAUSE).await;
                    }
                },
                passed = self.clock.passed() => {
                    self.end_parked(passed);
                }
            }
        }
    }

    fn unpark(self: &Rc<Self>, heard: Vec<usize>) {
        for slot in heard {
            let guest = self.parked.take(slot).and_then(|it| self.guest(it));
            if let Some(guest) = guest {
                self.wakes(guest);
            }
        }
    }

    /// A client that has said something since its connection was to end is heard.
    fn end_parked(self: &Rc<Self>, passed: Vec<Slot>) {
        for slot in passed {
            let Some(connection) = self.parked.take(slot.index()) else {
                continue;
            };
            if has_said(&connection.stream)
                && let Some(guest) = self.guest(connection)
            {
                self.wakes(guest);
            }
        }
    }

    fn guest(&self, connection: Connection) -> Option<Guest> {
        let Connection {
            stream,
            deadline,
            open,
        } = connection;
        match tokio::net::TcpStream::from_std(stream) {
            Ok(stream) => Some(Guest {
                stream,
                deadline,
                open,
            }),
            Err(error) => {
                self.is_short("cannot take up an idle connection", &error);
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parked_connection_takes_little() {
        let size = size_of::<Option<Connection>>();
        println!("parked: {size} bytes");
        assert!(size <= 64, "{size}");
    }
}
