//! DNS over TCP (RFC 7766): length-prefixed messages, pipelined, answered in
//! the order in which they came. A new connection is always taken: at a limit the one
//! that has been idle longest ends (RFC 7766 section 6.2.3), so silence shuts nobody out.

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

/// Connections at once, and those of one client address, so that none can have them all
/// (RFC 7766 6.2.2). A connection is never more than idle: it is answered at once.
const BOUNDS: Bounds = Bounds {
    all: 1024,
    source: 100,
    answers: 0,
    watches: 0,
    source_watches: 0,
};
/// A whole message must come within this after the one before (RFC 7766
/// 6.2.3: "a few seconds"), however slowly its bytes drip.
const IDLE: Duration = Duration::from_secs(10);
/// The client must take an answer within this.
const WRITE: Duration = Duration::from_secs(10);
/// Pause after `accept` failed for want of file descriptors.
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

async fn connection(stream: TcpStream, mut responder: Responder, mut seat: Seat) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut stream = BufReader::new(stream);
    let mut query = Vec::new();
    let mut framed = Vec::new();
    while timeout(IDLE, read_message(&mut stream, &mut query)).await?? {
        seat.heard();
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

/// What the connections share.
struct Port {
    places: Mutex<Places<AbortHandle>>,
    responder: Responder,
}

impl Port {
    fn places(&self) -> MutexGuard<'_, Places<AbortHandle>> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Serves a connection; another one ends where there is no place for it.
    fn begin(self: &Arc<Self>, stream: TcpStream, peer: IpAddr, tasks: &mut JoinSet<()>) {
        let metrics = self.responder.metrics();
        let mut places = self.places();
        let seat = Seat {
            port: Arc::clone(self),
            id: places.name(),
        };
        let id = seat.id;
        let responder = self.responder.clone();
        let handle = tasks.spawn(async move {
            if let Err(error) = connection(stream, responder, seat).await {
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

/// Whose a connection is. On a dual-stack socket IPv4 clients come as `::ffff:a.b.c.d`.
fn source(peer: IpAddr) -> IpAddr {
    peer.to_canonical()
}

/// A connection's place, given back when dropped.
struct Seat {
    port: Arc<Port>,
    id: Id,
}

impl Seat {
    /// It has sent a message.
    fn heard(&mut self) {
        self.id = self.port.places().renew(self.id);
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.port.places().leave(self.id);
        self.port.responder.metrics().connection_closed();
    }
}

/// Listens where UDP does.
pub(crate) async fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    TcpListener::bind(address).await
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whose it is, and the number of its arrival.
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
    fn a_source_that_has_a_hundred_ends_its_own_that_is_idle_longest() {
        let mut all = Places::new(BOUNDS);
        let hundred = open(&mut all, v4(1), 100);
        assert!(hundred.iter().all(|(_, ended)| ended.is_none()));
        assert!(open(&mut all, v4(2), 1)[0].1.is_none());
        // The first one has something to say.
        let first = all.renew(hundred[0].0);
        assert_eq!(open(&mut all, v4(1), 1)[0].1, Some((v4(1), 1)));
        // Who has ended is not heard any more, and does not leave twice.
        assert_eq!(all.renew(hundred[1].0), hundred[1].0);
        assert!(all.leave(hundred[1].0).is_none());
        assert_eq!(all.leave(first), Some((v4(1), 0)));
    }

    #[test]
    fn with_1024_the_source_that_has_the_most_gives_way() {
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
        // As many as before: each new one needs another's place.
        assert!(open(&mut all, v4(201), 1)[0].1.is_some());
    }

    #[test]
    fn addresses_of_both_families_are_one_source() {
        let mut all = Places::new(BOUNDS);
        let mapped = "::ffff:10.0.0.1".parse().unwrap();
        open(&mut all, mapped, 100);
        let plain = open(&mut all, "10.0.0.1".parse().unwrap(), 1);
        assert_eq!(plain[0].1, Some((mapped, 0)));
    }
}
