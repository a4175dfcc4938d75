//! DNS over TCP (RFC 7766): length-prefixed messages, pipelined, answered in
//! the order in which they came.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use scaledapp_answers::Transport;
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
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
    let sources = Sources::new(Arc::clone(responder.metrics()));
    let mut tasks = JoinSet::new();
    loop {
        let accepted = listener.accept().await;
        while tasks.try_join_next().is_some() {}
        match accepted {
            Ok((stream, peer)) => {
                if let Some(place) = sources.take(peer.ip()) {
                    let responder = responder.clone();
                    tasks.spawn(async move {
                        if let Err(error) = connection(stream, responder).await {
                            tracing::debug!(%error, %peer, "DNS connection ended early");
                        }
                        drop(place);
                    });
                }
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a DNS connection");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn connection(stream: TcpStream, mut responder: Responder) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut stream = BufReader::new(stream);
    let mut query = Vec::new();
    let mut framed = Vec::new();
    while timeout(IDLE, read_message(&mut stream, &mut query)).await?? {
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

/// Who holds how many connections.
#[derive(Debug, Clone)]
struct Sources {
    held: Arc<Mutex<HashMap<IpAddr, usize>>>,
    metrics: Arc<Metrics>,
}

impl Sources {
    fn new(metrics: Arc<Metrics>) -> Self {
        Self {
            held: Arc::default(),
            metrics,
        }
    }

    /// A place for a connection of `source`, or `None` where it has too many.
    fn take(&self, source: IpAddr) -> Option<Place> {
        // On a dual-stack socket IPv4 clients come as ::ffff:a.b.c.d.
        let source = source.to_canonical();
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let refused = if held.values().sum::<usize>() >= CONNECTIONS {
            "total"
        } else if held
            .get(&source)
            .is_some_and(|count| *count >= CONNECTIONS_PER_SOURCE)
        {
            "source"
        } else {
            *held.entry(source).or_insert(0) += 1;
            self.metrics.connection_opened();
            return Some(Place {
                sources: self.clone(),
                source,
            });
        };
        self.metrics.connection_refused(refused);
        None
    }
}

/// A connection's place, given back when dropped.
#[derive(Debug)]
struct Place {
    sources: Sources,
    source: IpAddr,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut held = self
            .sources
            .held
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = held.get_mut(&self.source) {
            *count -= 1;
            if *count == 0 {
                held.remove(&self.source);
            }
        }
        self.sources.metrics.connection_closed();
    }
}

/// Listens where UDP does.
pub(crate) async fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    TcpListener::bind(address).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_source_gets_a_hundred_places_and_they_come_back() {
        let sources = Sources::new(Arc::default());
        let mapped = "::ffff:10.0.0.1".parse().unwrap();
        let plain = "10.0.0.1".parse().unwrap();
        let mut places: Vec<_> = (0..100).map_while(|_| sources.take(mapped)).collect();
        assert_eq!(places.len(), 100);
        assert!(sources.take(plain).is_none());
        assert!(sources.take("10.0.0.2".parse().unwrap()).is_some());
        places.pop();
        assert!(sources.take(plain).is_some());
        drop(places);
        assert!(sources.held.lock().unwrap().is_empty());
    }

    #[test]
    fn all_sources_together_get_1024_places() {
        let sources = Sources::new(Arc::default());
        let places: Vec<_> = (0..2000_u32)
            .filter_map(|n| sources.take(IpAddr::from(std::net::Ipv4Addr::from(n / 50))))
            .collect();
        assert_eq!(places.len(), 1024);
    }
}
