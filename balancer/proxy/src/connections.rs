//! A connection on which nothing is under way: a task that serves one takes some
//! kilobytes, so that it waits in a task that takes a quarter of one.
//!
//! When a connection goes to rest is decided in `connection`, which one ends in `clock`;
//! one that rests for longer has no task at all (`parked`).

use std::net::IpAddr;
use std::os::fd::AsFd;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use rustix::net::{RecvFlags, recv};
use tokio::net::TcpStream;

use super::Thread;
use crate::clock::Deadline;
use crate::metrics::shift;

/// A client's connection on its way from task to task: what is left of it while nothing
/// is under way.
#[derive(Debug)]
pub(super) struct Guest {
    pub(super) stream: TcpStream,
    pub(super) deadline: Deadline,
    pub(super) open: Open,
}

/// Waits for the next byte. Written out, since a future of the compiler's holds its
/// arguments twice.
struct Rest(Option<Guest>);

impl Future for Rest {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let Some(guest) = &self.0 else {
            return Poll::Ready(());
        };
        let is_over = guest.deadline.poll(context).is_ready();
        // Asked at each look, as it is said once.
        let is_squeezed = guest.deadline.is_squeezed();
        let mut is_awake = guest.stream.poll_read_ready(context).is_ready();
        if !is_awake && !is_over {
            if !is_squeezed {
                return Poll::Pending;
            }
            if let Some(guest) = self.0.take() {
                Rc::clone(&guest.open.0).park(guest);
            }
            return Poll::Ready(());
        }
        // Who has said something since it was to end is heard.
        is_awake = is_awake && (!is_over || has_said(&guest.stream));
        if let Some(guest) = self.0.take()
            && is_awake
        {
            let thread = Rc::clone(&guest.open.0);
            thread.wakes(guest);
        }
        Poll::Ready(())
    }
}

/// Whether there is something to read; an end is nothing.
pub(super) fn has_said(stream: impl AsFd) -> bool {
    let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
    recv(stream, &mut [0; 1][..], flags).is_ok_and(|(count, _)| count > 0)
}

/// Lets a connection rest in a task of its own.
pub(super) fn rest_in_task(guest: Guest) {
    tokio::task::spawn_local(Rest(Some(guest)));
}

impl Thread {
    /// Lets a connection rest until something comes, be it its end. Its deadline is set.
    /// One that has been idle for a second or two is parked at once.
    pub(super) fn rest(self: &Rc<Self>, guest: Guest) {
        self.one_is_idle();
        if guest.deadline.is_slim() {
            self.park(guest);
        } else {
            rest_in_task(guest);
        }
    }

    /// Gives a connection to a task that serves it.
    pub(super) fn wakes(self: &Rc<Self>, guest: Guest) {
        if let Some(guest) = self.seats.give(guest) {
            tokio::task::spawn_local(Rc::clone(self).serve(guest));
        }
    }
}

/// A connection that is counted.
#[derive(Debug)]
pub(super) struct Open(pub(super) Rc<Thread>, pub(super) IpAddr);

impl Drop for Open {
    fn drop(&mut self) {
        let thread = &self.0;
        let before = thread.connections.get();
        thread.connections.set(before - 1);
        shift(&thread.counts.connections, -1);
        thread.room.leave(thread.counted(self.1));
        // Other threads that wait for it are told by the room.
        if thread.is_leaving() {
            thread.ended.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attempt::Attempt;
    use crate::connection::Client;

    fn size<F: Future, A, B>(_: impl Fn(A, B) -> F) -> usize {
        size_of::<F>()
    }

    /// What a connection costs in each state; the figures of `cargo xtask bench memory`
    /// have an allocator's losses on top.
    #[test]
    fn a_connection_takes_little() {
        let sizes = [
            // With tokio's task around it, which begins and ends on a multiple of 128.
            ("at rest", size_of::<Rest>(), 96),
            ("served", size(Thread::serve), 2800),
            ("its client", size_of::<Client>(), 288),
            ("a try", size_of::<Attempt<'_, '_>>(), 544),
        ];
        for (name, size, most) in sizes {
            println!("{name}: {size} bytes");
            assert!(size <= most, "{name}: {size} bytes, {most} at most");
        }
    }
}
