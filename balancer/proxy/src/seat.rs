//! Tasks that have served a connection and wait for their next one.
//!
//! A connection's task takes some kilobytes. Where each request brings a
//! connection of its own, an allocator that gives such pieces back to the kernel
//! (musl's does) would map and fault them in anew for every request.

use std::cell::RefCell;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

/// Tasks of a thread that are kept waiting.
const KEPT: usize = 64;

/// Where one task waits; `T` is what it waits for.
#[derive(Debug)]
struct Seat<T> {
    next: RefCell<Option<T>>,
    waker: RefCell<Option<Waker>>,
}

/// The waiting tasks of a thread.
#[derive(Debug)]
pub(crate) struct Seats<T>(RefCell<Vec<Rc<Seat<T>>>>);

impl<T> Default for Seats<T> {
    fn default() -> Self {
        Self(RefCell::default())
    }
}

impl<T> Seats<T> {
    /// Gives `next` to the task that came last; back, if none waits.
    pub(crate) fn give(&self, next: T) -> Option<T> {
        let Some(seat) = self.0.borrow_mut().pop() else {
            return Some(next);
        };
        *seat.next.borrow_mut() = Some(next);
        if let Some(waker) = seat.waker.take() {
            waker.wake();
        }
        None
    }

    /// Waits for the next one; `None`: enough others do.
    pub(crate) async fn next(&self) -> Option<T> {
        let seat = {
            let mut seats = self.0.borrow_mut();
            if seats.len() >= KEPT {
                return None;
            }
            let seat = Rc::new(Seat {
                next: RefCell::new(None),
                waker: RefCell::new(None),
            });
            seats.push(Rc::clone(&seat));
            seat
        };
        Some(poll_fn(|context| seat.poll(context)).await)
    }
}

impl<T> Seat<T> {
    fn poll(&self, context: &Context<'_>) -> Poll<T> {
        if let Some(next) = self.next.take() {
            return Poll::Ready(next);
        }
        *self.waker.borrow_mut() = Some(context.waker().clone());
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::pin::pin;

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
