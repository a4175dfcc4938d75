//! Upstream connections that wait for their next request, of one thread.
//!
//! Decides which may be used again. A server may close an idle connection at
//! the moment when a request is written to it; so none is used near the end of
//! its peer's patience, and none that is known to be closed.

use std::collections::HashMap;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::net::TcpStream;

#[derive(Debug)]
struct Idle {
    stream: TcpStream,
    /// Not to be used from then on.
    until: Duration,
}

/// See the file's head.
#[derive(Debug)]
pub(crate) struct Pool {
    /// By the endpoint's id; the last used one is at the end.
    idle: HashMap<u64, Vec<Idle>>,
    most: usize,
}

impl Pool {
    /// Keeps up to `most` connections to each endpoint.
    pub(crate) fn new(most: usize) -> Self {
        Self {
            idle: HashMap::new(),
            most,
        }
    }

    /// The connection used last; one that is `surely` open costs a system call.
    pub(crate) fn take(&mut self, endpoint: u64, now: Duration, surely: bool) -> Option<TcpStream> {
        let idle = self.idle.get_mut(&endpoint)?;
        while let Some(Idle { stream, until }) = idle.pop() {
            if now < until && is_open(&stream, surely) {
                return Some(stream);
            }
        }
        None
    }

    /// Keeps a connection that is used up to its last response byte.
    pub(crate) fn put(&mut self, endpoint: u64, stream: TcpStream, until: Duration) {
        let idle = self.idle.entry(endpoint).or_default();
        if idle.len() < self.most {
            idle.push(Idle { stream, until });
        }
    }

    /// Closes all connections to an endpoint: one of them was found closed, so
    /// its process may be gone.
    pub(crate) fn forget(&mut self, endpoint: u64) {
        self.idle.remove(&endpoint);
    }

    /// Closes all of them: their descriptors are needed.
    pub(crate) fn empty(&mut self) {
        self.idle.clear();
    }

    /// Closes what is not to be used again.
    pub(crate) fn sweep(&mut self, now: Duration, is_used: impl Fn(u64) -> bool) {
        self.idle.retain(|endpoint, idle| {
            idle.retain(|idle| now < idle.until && is_open(&idle.stream, false));
            !idle.is_empty() && is_used(*endpoint)
        });
    }
}

/// Nothing may have come on an idle connection, not even its end. Without
/// `surely` only what the reactor has been told of counts, which is free.
fn is_open(stream: &TcpStream, surely: bool) -> bool {
    let mut context = Context::from_waker(Waker::noop());
    if !surely && matches!(stream.poll_read_ready(&mut context), Poll::Pending) {
        return true;
    }
    let mut byte = [0];
    let result = if surely {
        // tokio would answer from its cache; the kernel knows.
        rustix::net::recv(
            stream,
            &mut byte[..],
            rustix::net::RecvFlags::PEEK | rustix::net::RecvFlags::DONTWAIT,
        )
        .map(|(count, _)| count)
        .map_err(std::io::Error::from)
    } else {
        stream.try_read(&mut byte)
    };
    result.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let ours = TcpStream::connect(listener.local_addr().unwrap())
            .await
            .unwrap();
        (ours, listener.accept().await.unwrap().0)
    }

    #[tokio::test]
    async fn the_last_used_open_one_in_time_is_taken() {
        let mut pool = Pool::new(3);
        let second = Duration::from_secs(1);
        let mut theirs = Vec::new();
        let mut ports = Vec::new();
        for until in [9, 9, 2, 9] {
            let (stream, their) = pair().await;
            ports.push(stream.local_addr().unwrap().port());
            theirs.push(their);
            pool.put(7, stream, second * until);
        }
        assert!(pool.take(8, second, false).is_none());
        // The fourth did not fit, the third is too old, the second is closed.
        drop(theirs.remove(1));
        let taken = pool.take(7, second * 3, true).unwrap();
        assert_eq!(taken.local_addr().unwrap().port(), ports[0]);
        assert!(pool.take(7, second * 3, true).is_none());
    }

    #[tokio::test]
    async fn a_sweep_closes_what_is_old_closed_or_of_nobody() {
        let mut pool = Pool::new(9);
        let second = Duration::from_secs(1);
        let mut theirs = Vec::new();
        for (endpoint, until) in [(1, 9), (1, 2), (2, 9), (3, 9)] {
            let (stream, their) = pair().await;
            theirs.push(their);
            pool.put(endpoint, stream, second * until);
        }
        drop(theirs.remove(2));
        // The reactor has to be told of the end.
        tokio::time::sleep(Duration::from_millis(20)).await;
        pool.sweep(second * 3, |endpoint| endpoint != 3);
        assert_eq!(pool.idle.keys().copied().collect::<Vec<_>>(), [1]);
        assert_eq!(pool.idle[&1].len(), 1);
        pool.forget(1);
        assert!(pool.idle.is_empty());
    }
}
