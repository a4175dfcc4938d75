//! Tasks that have served a connection and wait for their next one.
//!
//! A connection's task takes some kilobytes. Where each request brings a connection of
//! its own, an allocator that gives such pieces back to the kernel (musl's does) would
//! map and fault them in anew for every request.

use std::cell::RefCell;

use tokio::sync::oneshot;

/// Tasks of a thread that are kept waiting.
const MAX_IDLE: usize = 64;

/// The waiting tasks of a thread, each by where it gets what it waits for.
#[derive(Debug)]
pub(super) struct IdleTasks<T>(RefCell<Vec<oneshot::Sender<T>>>);

impl<T> Default for IdleTasks<T> {
    fn default() -> Self {
        Self(RefCell::default())
    }
}

impl<T> IdleTasks<T> {
    /// Gives `next` to the task that came last; back, if no task waits.
    pub(super) fn give(&self, next: T) -> Option<T> {
        let task = self.0.borrow_mut().pop();
        match task {
            Some(task) => task.send(next).err(),
            None => Some(next),
        }
    }

    /// Waits for the next one; `None`: enough other tasks do.
    pub(super) async fn next(&self) -> Option<T> {
        let next = {
            let mut tasks = self.0.borrow_mut();
            if tasks.len() >= MAX_IDLE {
                return None;
            }
            let (task, next) = oneshot::channel();
            tasks.push(task);
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
    fn the_task_that_came_last_gets_the_next_one() {
        let tasks = IdleTasks::default();
        let mut context = Context::from_waker(Waker::noop());
        assert_eq!(tasks.give(1), Some(1), "none waits yet");
        let (mut first, mut second) = (pin!(tasks.next()), pin!(tasks.next()));
        assert!(first.as_mut().poll(&mut context).is_pending());
        assert!(second.as_mut().poll(&mut context).is_pending());
        assert_eq!((tasks.give(2), tasks.give(3)), (None, None));
        assert_eq!(second.poll(&mut context), Poll::Ready(Some(2)));
        assert_eq!(first.poll(&mut context), Poll::Ready(Some(3)));
        assert_eq!(tasks.give(4), Some(4));
    }

    #[test]
    fn only_so_many_wait() {
        let tasks = IdleTasks::<()>::default();
        let mut context = Context::from_waker(Waker::noop());
        let mut waiting: Vec<_> = (0..MAX_IDLE).map(|_| Box::pin(tasks.next())).collect();
        for one in &mut waiting {
            assert!(one.as_mut().poll(&mut context).is_pending());
        }
        assert_eq!(pin!(tasks.next()).poll(&mut context), Poll::Ready(None));
    }
}
