//! Tasks that have served a connection and wait for their next one.
//!
//! A connection's task takes some kilobytes. Where each request brings a
//! connection of its own, an allocator that gives such pieces back to the kernel
//! (musl's does) would map and fault them in anew for every request.

use std::cell::RefCell;

use tokio::sync::oneshot;

/// Tasks of a thread that are kept waiting.
const KEPT: usize = 64;

/// The waiting tasks of a thread, each by where it gets what it waits for.
#[derive(Debug)]
pub(crate) struct Seats<T>(RefCell<Vec<oneshot::Sender<T>>>);

impl<T> Default for Seats<T> {
    fn default() -> Self {
        Self(RefCell::default())
    }
}

impl<T> Seats<T> {
    /// Gives `next` to the task that came last; back, if none waits.
    pub(crate) fn give(&self, next: T) -> Option<T> {
        let seat = self.0.borrow_mut().pop();
        match seat {
            Some(seat) => seat.send(next).err(),
            None => Some(next),
        }
    }

    /// Waits for the next one; `None`: enough others do.
    pub(crate) async fn next(&self) -> Option<T> {
        let next = {
            let mut seats = self.0.borrow_mut();
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
