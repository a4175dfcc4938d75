//! DNS over TCP (RFC 7766): length-prefixed messages, pipelined, answered in
//! the order in which they came. A new connection is always taken: at a limit the one
//! that has been idle longest ends (RFC 7766 section 6.2.3), so silence shuts nobody out.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use scaledapp_answers::Transport;
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::metrics::Metrics;
use crate::responder::Responder;

/// Connections at once.
const CONNECTIONS: usize = 1024;
/// Of one client address, so that none can have them all (RFC 7766 6.2.2).
const CONNECTIONS_PER_SOURCE: usize = 100;
/// A whole message must come within this after the one before (RFC 7766
/// 6.2.3: "a few seconds"), however slowly its bytes drip.
const IDLE: Duration = Duration::from_secs(10);
/// The client must take an answer within this.
const WRITE: Duration = Duration::from_secs(10);
/// Pause after `accept` failed for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves until the future is dropped, which also ends every connection.
pub(crate) async fn serve(listener: TcpListener, responder: Responder) {
    let places = Places::new(Arc::clone(responder.metrics()));
    let mut tasks = JoinSet::new();
    loop {
        let accepted = listener.accept().await;
        while tasks.try_join_next().is_some() {}
        match accepted {
            Ok((stream, peer)) => {
                let mut place = places.take(peer.ip());
                let responder = responder.clone();
                tasks.spawn(async move {
                    let end = Arc::clone(&place.end);
                    let ended = tokio::select! {
                        ended = connection(stream, responder, &mut place) => ended,
                        () = end.notified() => Ok(()),
                    };
                    if let Err(error) = ended {
                        tracing::debug!(%error, %peer, "DNS connection ended early");
                    }
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a DNS connection");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn connection(
    stream: TcpStream,
    mut responder: Responder,
    place: &mut Place,
) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut stream = BufReader::new(stream);
    let mut query = Vec::new();
    let mut framed = Vec::new();
    while timeout(IDLE, read_message(&mut stream, &mut query)).await?? {
        place.heard();
        // Silence on one message is none on the next.
        let Some(answer) = responder.respond(&query, Transport::Tcp) else {
            continue;
        };
        framed.clear();
        framed.extend((answer.len() as u16).to_be_bytes());
        framed.extend_from_slice(answer);
        // Nothing more is read before the client took this: a client that only
        // asks costs no memory here.
        timeout(WRITE, stream.get_mut().write_all(&framed)).await??;
    }
    Ok(())
}

/// Reads one message; `false` at a clean end between two.
async fn read_message(
    stream: &mut BufReader<TcpStream>,
    message: &mut Vec<u8>,
) -> io::Result<bool> {
    let length = match stream.read_u16().await {
        Ok(length) => length,
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(false),
        Err(error) => return Err(error),
    };
    message.resize(usize::from(length), 0);
    stream.read_exact(message).await?;
    Ok(true)
}

/// The connections that there are, and which of them ends for a new one. Each is named
/// by the moment of its last message, so that the first one has been idle longest.
#[derive(Debug, Default)]
struct Open {
    next: u64,
    connections: BTreeMap<u64, Connection>,
    sources: HashMap<IpAddr, usize>,
}

#[derive(Debug)]
struct Connection {
    source: IpAddr,
    /// Tells it to end.
    end: Arc<Notify>,
}

impl Open {
    /// A new one, and the one that has to end for it, if any: of the same source if
    /// that has as many as it may, else of the source that has the most.
    fn take(&mut self, source: IpAddr, end: Arc<Notify>) -> (u64, Option<Arc<Notify>>) {
        let crowded = if self.sources.get(&source) >= Some(&CONNECTIONS_PER_SOURCE) {
            Some(source)
        } else if self.connections.len() >= CONNECTIONS {
            let most = self.sources.iter().max_by_key(|(_, count)| **count);
            most.map(|(source, _)| *source)
        } else {
            None
        };
        let oldest = crowded.and_then(|crowded| {
            let mut all = self.connections.iter();
            let oldest = all.find(|(_, connection)| connection.source == crowded)?;
            Some(*oldest.0)
        });
        let ended = oldest.and_then(|name| self.leave(name));
        (
            self.insert(Connection { source, end }),
            ended.map(|connection| connection.end),
        )
    }

    fn insert(&mut self, connection: Connection) -> u64 {
        self.next += 1;
        *self.sources.entry(connection.source).or_default() += 1;
        self.connections.insert(self.next, connection);
        self.next
    }

    /// It has sent a message: its name from now on.
    fn heard(&mut self, name: u64) -> u64 {
        match self.leave(name) {
            Some(connection) => self.insert(connection),
            None => name,
        }
    }

    fn leave(&mut self, name: u64) -> Option<Connection> {
        let connection = self.connections.remove(&name)?;
        if let Some(count) = self.sources.get_mut(&connection.source) {
            *count -= 1;
            if *count == 0 {
                self.sources.remove(&connection.source);
            }
        }
        Some(connection)
    }
}

/// The places for connections, for all tasks.
#[derive(Debug, Clone)]
struct Places {
    open: Arc<Mutex<Open>>,
    metrics: Arc<Metrics>,
}

impl Places {
    fn new(metrics: Arc<Metrics>) -> Self {
        Self {
            open: Arc::default(),
            metrics,
        }
    }

    /// A place for a connection of `source`; another one ends where there is none.
    fn take(&self, source: IpAddr) -> Place {
        let end = Arc::new(Notify::new());
        // On a dual-stack socket IPv4 clients come as ::ffff:a.b.c.d.
        let (name, ended) = self.open().take(source.to_canonical(), Arc::clone(&end));
        if let Some(ended) = ended {
            ended.notify_one();
            self.metrics.connection_gave_way();
        }
        self.metrics.connection_opened();
        Place {
            places: self.clone(),
            name,
            end,
        }
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection's place, given back when dropped.
#[derive(Debug)]
struct Place {
    places: Places,
    name: u64,
    end: Arc<Notify>,
}

impl Place {
    /// It has sent a message.
    fn heard(&mut self) {
        self.name = self.places.open().heard(self.name);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.open().leave(self.name);
        self.places.metrics.connection_closed();
    }
}

/// Listens where UDP does.
pub(crate) async fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    TcpListener::bind(address).await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(of: &mut Open, source: u32, count: usize) -> Vec<(u64, Option<Arc<Notify>>)> {
        let source = IpAddr::from(std::net::Ipv4Addr::from(source));
        (0..count)
            .map(|_| of.take(source, Arc::default()))
            .collect()
    }

    #[test]
    fn a_source_that_has_a_hundred_ends_its_own_that_is_idle_longest() {
        let mut all = Open::default();
        let hundred = open(&mut all, 1, 100);
        assert!(hundred.iter().all(|(_, ended)| ended.is_none()));
        assert!(open(&mut all, 2, 1)[0].1.is_none());
        // The first one has something to say.
        let first = all.heard(hundred[0].0);
        open(&mut all, 1, 1)[0].1.as_ref().unwrap();
        assert!(all.connections.contains_key(&first));
        assert!(!all.connections.contains_key(&hundred[1].0));
        assert_eq!(all.connections.len(), 101);
        // Who has ended is not heard any more, and does not leave twice.
        assert_eq!(all.heard(hundred[1].0), hundred[1].0);
        assert!(all.leave(hundred[1].0).is_none());
    }

    #[test]
    fn with_1024_the_source_that_has_the_most_gives_way() {
        let mut all = Open::default();
        open(&mut all, 1, 50);
        for source in 2..=11 {
            let count = if source == 7 { 98 } else { 97 };
            open(&mut all, source, count);
        }
        let rest = CONNECTIONS - all.connections.len();
        open(&mut all, 100, rest);
        let (name, ended) = open(&mut all, 200, 1).pop().unwrap();
        assert!(ended.is_some());
        assert_eq!(all.connections.len(), CONNECTIONS);
        let crowded = IpAddr::from(std::net::Ipv4Addr::from(7));
        assert_eq!(all.sources[&crowded], 97);
        all.leave(name);
        let names: Vec<u64> = all.connections.keys().copied().collect();
        for name in names {
            all.leave(name);
        }
        assert!(all.sources.is_empty());
    }

    #[test]
    fn addresses_of_both_families_are_one_source() {
        let places = Places::new(Arc::default());
        let _mapped = places.take("::ffff:10.0.0.1".parse().unwrap());
        let _plain = places.take("10.0.0.1".parse().unwrap());
        assert_eq!(places.open().sources.len(), 1);
    }
}
