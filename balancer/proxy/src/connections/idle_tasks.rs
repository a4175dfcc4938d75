//! Tasks that have served a connection and wait for their next one.
//!
//! A connection's task takes several kilobytes. If each request comes on a new connection,
//! an allocator that returns such pieces to the kernel (as musl's does) would map them and
//! fault them in again for every request.

use std::cell::RefCell;

use tokio::sync::oneshot;

/// The most tasks of a thread that are kept.
const MAX_IDLE: usize = 64;

/// The waiting tasks of a thread, as the channels through which each gets its next
/// connection.
#[derive(Debug)]
pub(super) struct IdleTasks<T>(RefCell<Vec<oneshot::Sender<T>>>);

impl<T> Default for IdleTasks<T> {
    fn default() -> Self {
        Self(RefCell::default())
    }
}

impl<T> IdleTasks<T> {
    /// Gives `next` to the task that was added last; returns it if no task waits.
    pub(super) fn give(&self, next: T) -> Option<T> {
        let task = self.0.borrow_mut().pop();
        match task {
            Some(task) => task.send(next).err(),
            None => Some(next),
        }
    }

    /// Waits for the next connection; `None` if enough other tasks already wait.
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
    fn the_task_added_last_gets_the_next_connection() {
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
    fn the_number_of_waiting_tasks_is_bounded() {
        let tasks = IdleTasks::<()>::default();
        let mut context = Context::from_waker(Waker::noop());
        let mut waiting: Vec<_> = (0..MAX_IDLE).map(|_| Box::pin(tasks.next())).collect();
        for one in &mut waiting {
            assert!(one.as_mut().poll(&mut context).is_pending());
        }
        assert_eq!(pin!(tasks.next()).poll(&mut context), Poll::Ready(None));
    }
}
