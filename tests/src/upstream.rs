//! A scripted upstream: a listener that runs a given script in a thread for each connection, and
//! records every byte that it receives.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// How long a script may wait for bytes; after that, its connection counts as ended.
const READ_TIMEOUT: Duration = Duration::from_secs(30);

/// The listener.
#[derive(Debug)]
pub struct Upstream {
    address: SocketAddr,
    received: Arc<Mutex<Vec<Vec<u8>>>>,
    accepted: Arc<AtomicUsize>,
    closed: Arc<AtomicBool>,
}

/// One connection, as its script sees it.
#[derive(Debug)]
pub struct Peer {
    stream: TcpStream,
    buffer: Vec<u8>,
    received: Arc<Mutex<Vec<Vec<u8>>>>,
    /// The number of the connection, from 0.
    pub index: usize,
}

impl Upstream {
    /// Listens on a free port of 127.0.0.1.
    ///
    /// # Errors
    /// No port is free.
    pub fn start(script: impl Fn(Peer) + Send + Sync + 'static) -> anyhow::Result<Self> {
        Self::start_on(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), script)
    }

    /// Listens on a given address.
    ///
    /// # Errors
    /// Another socket uses the address.
    pub fn start_on(
        address: SocketAddr,
        script: impl Fn(Peer) + Send + Sync + 'static,
    ) -> anyhow::Result<Self> {
        let listener = TcpListener::bind(address)?;
        let upstream = Self {
            address: listener.local_addr()?,
            received: Arc::default(),
            accepted: Arc::default(),
            closed: Arc::default(),
        };
        let (received, accepted) = (
            Arc::clone(&upstream.received),
            Arc::clone(&upstream.accepted),
        );
        let closed = Arc::clone(&upstream.closed);
        let script = Arc::new(script);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if closed.load(Ordering::Acquire) {
                    return;
                }
                let index = accepted.fetch_add(1, Ordering::AcqRel);
                lock(&received).push(Vec::new());
                let peer = Peer {
                    stream,
                    buffer: Vec::new(),
                    received: Arc::clone(&received),
                    index,
                };
                let script = Arc::clone(&script);
                std::thread::spawn(move || {
                    // A peer that never writes must not block the thread indefinitely.
                    if peer.stream.set_read_timeout(Some(READ_TIMEOUT)).is_ok() {
                        script(peer);
                    }
                });
            }
        });
        Ok(upstream)
    }

    /// Answers every request with 200 and `body`, and keeps connections open.
    ///
    /// # Errors
    /// No port is free.
    pub fn answering(body: &str) -> anyhow::Result<Self> {
        let answer = ok(body);
        Self::start(move |mut peer| while peer.read_request().is_some() && peer.write(&answer) {})
    }

    /// The address on which the upstream listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Connections accepted so far.
    pub fn accepted(&self) -> usize {
        self.accepted.load(Ordering::Acquire)
    }

    /// The bytes received on each connection so far.
    pub fn received(&self) -> Vec<String> {
        let received = lock(&self.received);
        received
            .iter()
            .map(|bytes| String::from_utf8_lossy(bytes).into_owned())
            .collect()
    }

    /// The bytes received on all connections, as one text.
    pub fn all_received(&self) -> String {
        self.received().concat()
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.closed.store(true, Ordering::Release);
        // Wakes up `accept`, so that the listener closes soon.
        let _woken = TcpStream::connect_timeout(&self.address, Duration::from_secs(1));
    }
}

impl Peer {
    fn fill(&mut self) -> usize {
        let mut piece = [0; 16 << 10];
        let read = self.stream.read(&mut piece).unwrap_or(0);
        self.buffer.extend_from_slice(&piece[..read]);
        lock(&self.received)[self.index].extend_from_slice(&piece[..read]);
        read
    }

    /// Reads a head with its empty line. `None` if the connection ends earlier.
    pub fn read_head(&mut self) -> Option<String> {
        loop {
            if let Some(at) = self
                .buffer
                .windows(4)
                .position(|window| window == b"\r\n\r\n")
            {
                let head: Vec<u8> = self.buffer.drain(..at + 4).collect();
                return Some(String::from_utf8_lossy(&head).into_owned());
            }
            if self.fill() == 0 {
                return None;
            }
        }
    }

    /// Reads a head and its body (by Content-Length or chunks). Returns the head.
    pub fn read_request(&mut self) -> Option<String> {
        let head = self.read_head()?;
        let lower = head.to_ascii_lowercase();
        if lower.contains("transfer-encoding: chunked") {
            self.read_until(b"0\r\n\r\n")?;
        } else if let Some((_, rest)) = lower.split_once("content-length:") {
            let length = rest.lines().next()?.trim().parse().ok()?;
            self.read_exactly(length)?;
        }
        Some(head)
    }

    /// Reads `length` bytes. `None` if the connection ends earlier.
    pub fn read_exactly(&mut self, length: usize) -> Option<Vec<u8>> {
        while self.buffer.len() < length {
            if self.fill() == 0 {
                return None;
            }
        }
        Some(self.buffer.drain(..length).collect())
    }

    /// Reads up to and including `mark`.
    pub fn read_until(&mut self, mark: &[u8]) -> Option<Vec<u8>> {
        loop {
            if let Some(at) = self
                .buffer
                .windows(mark.len())
                .position(|window| window == mark)
            {
                return Some(self.buffer.drain(..at + mark.len()).collect());
            }
            if self.fill() == 0 {
                return None;
            }
        }
    }

    /// Reads until the other side closes.
    pub fn read_to_close(&mut self) -> Vec<u8> {
        while self.fill() > 0 {}
        std::mem::take(&mut self.buffer)
    }

    /// Writes bytes. Returns `false` if the peer has closed the connection.
    pub fn write(&mut self, bytes: &[u8]) -> bool {
        self.stream.write_all(bytes).is_ok()
    }

    /// Shuts down writing.
    pub fn finish(&mut self) {
        let _gone = self.stream.shutdown(Shutdown::Write);
    }

    /// Resets the connection.
    pub fn reset(self) {
        // Zero linger makes close() send RST.
        let _set = rustix::net::sockopt::set_socket_linger(&self.stream, Some(Duration::ZERO));
    }
}

/// A whole 200 answer with Content-Length.
pub fn ok(body: &str) -> Vec<u8> {
    format!(
        "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
