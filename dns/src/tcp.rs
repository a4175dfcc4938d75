//! DNS over TCP (RFC 7766): length-prefixed, pipelined messages, answered in order of arrival.
//!
//! A new connection is always accepted. At a limit, an idle connection is closed for it (RFC 7766
//! section 6.2.3), so that idle connections lock no client out. At the limit of a client, that
//! client loses its longest idle connection; at the total limit, the client with the most
//! connections loses its longest idle one.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use scaledapp_answers::Transport;
use scaledapp_runtime::{Bounds, Id, Places};
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{sleep, timeout};

use crate::responder::Responder;

/// Limits of open connections, in total and of one client address, so that no client can take up
/// all connections (RFC 7766 6.2.2). Queries are answered immediately, so every connection counts
/// as idle.
const BOUNDS: Bounds = Bounds {
    all: 1024,
    source: 100,
    answers: 0,
    watches: 0,
    source_watches: 0,
};
/// How long a client may take from one whole message to the next (RFC 7766 6.2.3: "a few seconds").
/// The limit also ends a message that arrives byte by byte.
const IDLE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a client may take to accept an answer.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// Pause after `accept` failed because file descriptors have run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves until the future is dropped, which also ends every connection.
pub(crate) async fn serve(listener: TcpListener, responder: Responder) {
    let port = Arc::new(Port {
        places: Mutex::new(Places::new(BOUNDS)),
        responder,
    });
    let mut tasks = JoinSet::new();
    loop {
        let accepted = listener.accept().await;
        while tasks.try_join_next().is_some() {}
        match accepted {
            Ok((stream, peer)) => port.begin(stream, peer.ip(), &mut tasks),
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
    mut place: Place,
) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut stream = BufReader::new(stream);
    let mut query = Vec::new();
    let mut framed = Vec::new();
    while timeout(IDLE_TIMEOUT, read_message(&mut stream, &mut query)).await?? {
        place.renew();
        // A message without an answer does not end the connection.
        let Some(answer) = responder.respond(&query, Transport::Tcp) else {
            continue;
        };
        framed.clear();
        framed.extend((answer.len() as u16).to_be_bytes());
        framed.extend_from_slice(answer);
        // No further query is read until the client has taken this answer, so a client that
        // never reads costs no memory.
        timeout(WRITE_TIMEOUT, stream.get_mut().write_all(&framed)).await??;
    }
    Ok(())
}

/// Reads one message. Returns `false` if the client closed the connection between two messages.
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

/// What the connections share.
struct Port {
    places: Mutex<Places<AbortHandle>>,
    responder: Responder,
}

impl Port {
    fn places(&self) -> MutexGuard<'_, Places<AbortHandle>> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Serves a connection. If a limit is reached, another connection is closed for it.
    fn begin(self: &Arc<Self>, stream: TcpStream, peer: IpAddr, tasks: &mut JoinSet<()>) {
        let metrics = self.responder.metrics();
        let mut places = self.places();
        let place = Place {
            port: Arc::clone(self),
            id: places.name(),
        };
        let id = place.id;
        let responder = self.responder.clone();
        let handle = tasks.spawn(async move {
            if let Err(error) = connection(stream, responder, place).await {
                tracing::debug!(%error, %peer, "DNS connection ended early");
            }
        });
        metrics.connection_opened();
        if let Some(ended) = places.take(id, source(peer), handle) {
            ended.abort();
            metrics.connection_gave_way();
        }
    }
}

/// The client address that a connection counts for. On a dual-stack socket, IPv4 clients appear
/// as `::ffff:a.b.c.d`.
fn source(peer: IpAddr) -> IpAddr {
    peer.to_canonical()
}

/// Counts a connection towards the limits until it is dropped.
struct Place {
    port: Arc<Port>,
    id: Id,
}

impl Place {
    /// Notes that the connection has sent a message.
    fn renew(&mut self) {
        self.id = self.port.places().renew(self.id);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.port.places().leave(self.id);
        self.port.responder.metrics().connection_closed();
    }
}

/// Listens at `address`, the one that UDP uses.
pub(crate) async fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    TcpListener::bind(address).await
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The client address, and the number of the connection.
    type Handle = (IpAddr, usize);

    fn open(of: &mut Places<Handle>, peer: IpAddr, count: usize) -> Vec<(Id, Option<Handle>)> {
        let mut one = |number| {
            let id = of.name();
            (id, of.take(id, source(peer), (peer, number)))
        };
        (0..count).map(&mut one).collect()
    }

    fn v4(last: u32) -> IpAddr {
        IpAddr::from(std::net::Ipv4Addr::from(last))
    }

    #[test]
    fn a_source_with_a_hundred_connections_loses_its_own_longest_idle_one() {
        let mut all = Places::new(BOUNDS);
        let hundred = open(&mut all, v4(1), 100);
        assert!(hundred.iter().all(|(_, ended)| ended.is_none()));
        assert!(open(&mut all, v4(2), 1)[0].1.is_none());
        // The first connection sends a message.
        let first = all.renew(hundred[0].0);
        assert_eq!(open(&mut all, v4(1), 1)[0].1, Some((v4(1), 1)));
        // A closed connection can neither renew its place nor free it twice.
        assert_eq!(all.renew(hundred[1].0), hundred[1].0);
        assert!(all.leave(hundred[1].0).is_none());
        assert_eq!(all.leave(first), Some((v4(1), 0)));
    }

    #[test]
    fn at_1024_connections_the_source_with_the_most_loses_one() {
        let mut all = Places::new(BOUNDS);
        open(&mut all, v4(1), 50);
        for source in 2..=11 {
            let count = if source == 7 { 98 } else { 97 };
            let opened = open(&mut all, v4(source), count);
            assert!(opened.iter().all(|(_, ended)| ended.is_none()));
        }
        let rest = BOUNDS.all - 50 - 97 * 10 - 1;
        open(&mut all, v4(100), rest);
        assert_eq!(open(&mut all, v4(200), 1)[0].1, Some((v4(7), 0)));
        // The limit is still reached, so another connection must be closed.
        assert!(open(&mut all, v4(201), 1)[0].1.is_some());
    }

    #[test]
    fn an_ipv4_client_is_one_source_in_both_notations() {
        let mut all = Places::new(BOUNDS);
        let mapped = "::ffff:10.0.0.1".parse().unwrap();
        open(&mut all, mapped, 100);
        let plain = open(&mut all, "10.0.0.1".parse().unwrap(), 1);
        assert_eq!(plain[0].1, Some((mapped, 0)));
    }
}
