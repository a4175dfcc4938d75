//! Tasks that have served a connection and wait for their next one, and how many
//! tasks that serve there are.
//!
//! A connection's task takes some kilobytes. Where each request brings a
//! connection of its own, an allocator that gives such pieces back to the kernel
//! (musl's does) would map and fault them in anew for every request.

use std::cell::{Cell, RefCell};

use tokio::sync::oneshot;

/// Tasks of a thread that are kept waiting.
const KEPT: usize = 64;
/// From so many tasks of a thread on, one on whose connection nothing goes on lets go
/// of it at once: the connection costs little then, its next request some more.
const CROWD: u32 = 512;

/// The waiting tasks of a thread, each by where it gets what it waits for.
#[derive(Debug)]
pub(crate) struct Seats<T> {
    free: RefCell<Vec<oneshot::Sender<T>>>,
    /// Tasks that serve or wait.
    tasks: Cell<u32>,
}

impl<T> Default for Seats<T> {
    fn default() -> Self {
        Self {
            free: RefCell::default(),
            tasks: Cell::new(0),
        }
    }
}

impl<T> Seats<T> {
    /// One more task begins.
    pub(crate) fn begin(&self) {
        self.tasks.set(self.tasks.get() + 1);
    }

    /// A task has ended.
    pub(crate) fn end(&self) {
        self.tasks.set(self.tasks.get() - 1);
    }

    /// Whether there are so many that none should wait for a silent connection.
    pub(crate) fn is_crowded(&self) -> bool {
        self.tasks.get() > CROWD
    }

    /// Gives `next` to the task that came last; back, if none waits.
    pub(crate) fn give(&self, next: T) -> Option<T> {
        let seat = self.free.borrow_mut().pop();
        match seat {
            Some(seat) => seat.send(next).err(),
            None => Some(next),
        }
    }

    /// Waits for the next one; `None`: enough others do.
    pub(crate) async fn next(&self) -> Option<T> {
        let next = {
            let mut seats = self.free.borrow_mut();
            if seats.len() >= KEPT {
                return None;
            }
            let (seat, next) = oneshot::channel();
            seats.push(seat);
            next
        };
        next.await.ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    #[test]
    fn the_one_that_came_last_gets_the_next_one() {
        let seats = Seats::default();
        let mut context = Context::from_waker(Waker::noop());
        assert_eq!(seats.give(1), Some(1), "nobody waits yet");
        let (mut first, mut second) = (pin!(seats.next()), pin!(seats.next()));
        assert!(first.as_mut().poll(&mut context).is_pending());
        assert!(second.as_mut().poll(&mut context).is_pending());
        assert_eq!((seats.give(2), seats.give(3)), (None, None));
        assert_eq!(second.poll(&mut context), Poll::Ready(Some(2)));
        assert_eq!(first.poll(&mut context), Poll::Ready(Some(3)));
        assert_eq!(seats.give(4), Some(4));
    }

    #[test]
    fn only_so_many_wait() {
        let seats = Seats::<()>::default();
        let mut context = Context::from_waker(Waker::noop());
        let mut waiting: Vec<_> = (0..KEPT).map(|_| Box::pin(seats.next())).collect();
        for one in &mut waiting {
            assert!(one.as_mut().poll(&mut context).is_pending());
        }
        assert_eq!(pin!(seats.next()).poll(&mut context), Poll::Ready(None));
    }
}
