//! The idle upstream connections of one thread, which wait for their next request.
//!
//! Decides which connections may be used again. A server may close an idle connection at
//! the moment when a request is written to it. So a connection is not used near the end of
//! its peer's idle timeout, nor after anything has arrived on it, even if that is only the end
//! of the connection: an answer that arrived before the request belongs to no request.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use crate::unread::Link;

#[derive(Debug)]
struct Idle {
    link: Link,
    /// The connection must not be used before this time.
    from: Duration,
    /// The connection must not be used from this time on.
    until: Duration,
}

/// The idle connections to one endpoint.
#[derive(Debug, Default)]
struct Kept {
    /// The connection that was used last is at the end.
    ready: Vec<Idle>,
    /// Connections that must rest first (see [`Pool::put_to_rest`]), in the order in which
    /// they may be used.
    resting: VecDeque<Idle>,
}

impl Kept {
    fn len(&self) -> usize {
        self.ready.len() + self.resting.len()
    }

    fn next(&mut self, now: Duration) -> Option<Idle> {
        let has_rested = |idle: &Idle| idle.from <= now;
        self.ready.pop().or_else(|| {
            let first = self.resting.front();
            first
                .is_some_and(has_rested)
                .then(|| self.resting.pop_front())?
        })
    }
}

/// How long a connection rests after an answer that has no body by rule. A faulty server
/// may send a body nevertheless, immediately or a moment later, and nothing else shows that
/// it will.
const REST_TIME: Duration = Duration::from_secs(1);

/// The idle upstream connections of one thread, by endpoint.
#[derive(Debug)]
pub(crate) struct Pool {
    /// Keyed by the endpoint's id.
    idle: HashMap<u64, Kept>,
    most: usize,
}

impl Pool {
    /// A pool that keeps up to `most` connections to each endpoint.
    pub(crate) fn new(most: usize) -> Self {
        Self {
            idle: HashMap::new(),
            most,
        }
    }

    /// Takes the connection that was used last. A system call checks whether anything has
    /// arrived on it: the reactor may not know yet about a 408 from a server that has
    /// waited long enough.
    pub(crate) fn take(&mut self, endpoint: u64, now: Duration) -> Option<Link> {
        let kept = self.idle.get_mut(&endpoint)?;
        while let Some(Idle { link, until, .. }) = kept.next(now) {
            if now < until && link.transport.is_silent() {
                return Some(link);
            }
        }
        None
    }

    /// Keeps a connection whose last response was read to its end.
    pub(crate) fn put(&mut self, endpoint: u64, link: Link, until: Duration) {
        let kept = self.idle.entry(endpoint).or_default();
        if kept.len() < self.most {
            let from = Duration::ZERO;
            kept.ready.push(Idle { link, from, until });
        }
    }

    /// Keeps a connection whose last response had no body by rule. It is used only if it
    /// stays silent for a second after `now`.
    pub(crate) fn put_to_rest(
        &mut self,
        endpoint: u64,
        link: Link,
        now: Duration,
        until: Duration,
    ) {
        let kept = self.idle.entry(endpoint).or_default();
        if kept.len() < self.most {
            let from = now + REST_TIME;
            kept.resting.push_back(Idle { link, from, until });
        }
    }

    /// Closes all connections to an endpoint: one of them was found closed, so the
    /// endpoint's process may have exited.
    pub(crate) fn forget(&mut self, endpoint: u64) {
        self.idle.remove(&endpoint);
    }

    /// Closes all connections because descriptors or memory are short.
    pub(crate) fn empty(&mut self) {
        self.idle.clear();
    }

    /// Closes the connections that must not be used again.
    pub(crate) fn sweep(&mut self, now: Duration, is_used: impl Fn(u64) -> bool) {
        let is_good = |idle: &Idle| now < idle.until && idle.link.transport.seems_silent();
        self.idle.retain(|endpoint, kept| {
            kept.ready.retain(is_good);
            kept.resting.retain(is_good);
            kept.len() > 0 && is_used(*endpoint)
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::Transport;
    use tokio::net::{TcpListener, TcpStream};

    fn link(stream: TcpStream) -> Link {
        Link::new(Transport::Plain(stream))
    }

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let ours = TcpStream::connect(listener.local_addr().unwrap())
            .await
            .unwrap();
        (ours, listener.accept().await.unwrap().0)
    }

    #[tokio::test]
    async fn the_open_connection_that_was_used_last_is_taken() {
        let mut pool = Pool::new(3);
        let second = Duration::from_secs(1);
        let mut theirs = Vec::new();
        let mut ports = Vec::new();
        for until in [9, 9, 2, 9] {
            let (stream, their) = pair().await;
            ports.push(stream.local_addr().unwrap().port());
            theirs.push(their);
            pool.put(7, link(stream), second * until);
        }
        assert!(pool.take(8, second).is_none());
        // The fourth did not fit, the third is too old, the second is closed.
        drop(theirs.remove(1));
        let taken = pool.take(7, second * 3).unwrap();
        assert_eq!(taken.transport.local_address().unwrap().port(), ports[0]);
        assert!(pool.take(7, second * 3).is_none());
    }

    #[tokio::test]
    async fn an_answer_that_was_there_before_the_request_belongs_to_no_request() {
        let mut pool = Pool::new(3);
        let second = Duration::from_secs(1);
        let (stream, their) = pair().await;
        pool.put(7, link(stream), second * 9);
        // The reactor has not been polled since.
        their
            .try_write(b"HTTP/1.1 408 Request Timeout\r\n\r\n")
            .unwrap();
        assert!(pool.take(7, second).is_none());
    }

    #[tokio::test]
    async fn a_connection_rests_after_an_answer_without_a_body() {
        let mut pool = Pool::new(3);
        let second = Duration::from_secs(1);
        let (first, _their_first) = pair().await;
        let (second_one, their_second) = pair().await;
        pool.put_to_rest(7, link(first), second, second * 9);
        pool.put_to_rest(7, link(second_one), second, second * 9);
        assert!(pool.take(7, second * 3 / 2).is_none());
        their_second.try_write(b"late body").unwrap();
        assert!(pool.take(7, second * 2).is_some());
        assert!(
            pool.take(7, second * 2).is_none(),
            "something has arrived on it"
        );
    }

    #[tokio::test]
    async fn a_sweep_closes_connections_that_are_old_closed_or_without_an_endpoint() {
        let mut pool = Pool::new(9);
        let second = Duration::from_secs(1);
        let mut theirs = Vec::new();
        for (endpoint, until) in [(1, 9), (1, 2), (2, 9), (3, 9)] {
            let (stream, their) = pair().await;
            theirs.push(their);
            pool.put(endpoint, link(stream), second * until);
        }
        drop(theirs.remove(2));
        // The reactor has to learn of the end first.
        tokio::time::sleep(Duration::from_millis(20)).await;
        pool.sweep(second * 3, |endpoint| endpoint != 3);
        assert_eq!(pool.idle.keys().copied().collect::<Vec<_>>(), [1]);
        assert_eq!(pool.idle[&1].len(), 1);
        pool.forget(1);
        assert!(pool.idle.is_empty());
    }
}
