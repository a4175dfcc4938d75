//! Whether it is certain that a server did not read a request, although bytes of it were
//! written to the connection. Such a request was not executed and may be sent again in any
//! case.
//!
//! A server that shuts down in an orderly way (`uvicorn --limit-max-requests`, Node's
//! `server.close()`), or whose process ends, closes connections at the moment when requests
//! are written to them. On the wire that is a reset, which says only that something was not
//! read. The kernel knows how much, and reports it when it destroys a socket
//! ([`scaledapp_proc::destroyed`]). [`proves`] decides whether a report proves that a request
//! was not read. [`Witness`] listens while there are requests in flight that may be repeated
//! only with such a proof.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use scaledapp_proc::destroyed::{Cookies, Destroyed, Watch, own_cookie};

use crate::transport::Transport;

/// A connection to an upstream, with what is known of it.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) transport: Transport,
    /// The kernel's identifiers of both of its ends, once they are needed.
    pub(crate) ends: Option<Ends>,
    /// The number of bytes that were written to it.
    pub(crate) sent: u64,
}

impl Link {
    /// A new connection.
    pub(crate) fn new(transport: Transport) -> Self {
        Self {
            transport,
            ends: None,
            sent: 0,
        }
    }
}

/// The kernel's identifiers of the ends of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ends {
    ours: Option<u64>,
    /// Known only if the peer is a process in this network namespace.
    theirs: Option<u64>,
}

/// What was sent on a connection that is over, and how the connection ended.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sent {
    pub(crate) ends: Ends,
    /// Bytes of earlier requests.
    pub(crate) before: u64,
    /// Bytes of this request.
    pub(crate) request: u64,
    /// The peer had closed its side with an orderly close.
    pub(crate) is_orderly: bool,
    /// The peer may reset connections that it has accepted and read (`SO_LINGER`).
    pub(crate) may_reset: bool,
}

/// Whether the end of a socket proves that no byte of a request was read.
fn proves(destroyed: &Destroyed, sent: &Sent) -> bool {
    if Some(destroyed.cookie) == sent.ends.theirs {
        if destroyed.is_disconnected {
            // The connection had not been accepted when its listener was closed.
            return sent.before == 0 && !sent.may_reset;
        }
        return destroyed.read <= sent.before;
    }
    // The peer's orderly close acknowledges all bytes that had arrived until then. Bytes
    // that were not acknowledged arrived later, and no process reads those.
    Some(destroyed.cookie) == sent.ends.ours
        && !destroyed.is_disconnected
        && sent.is_orderly
        && u64::from(destroyed.unacknowledged) >= sent.request
}

/// How many of the kernel's reports are remembered: a request needs its own report within a
/// moment.
const MAX_REMEMBERED: usize = 512;
/// Pauses between checks, in milliseconds. A worker thread of the kernel reports that a
/// socket was destroyed, mostly within a millisecond, but much later if all cores are busy.
const PAUSES: [u64; 8] = [0, 1, 2, 4, 8, 16, 32, 64];
/// Listening stops after this long without a request that needs it.
const IDLE_TIMEOUT: Duration = Duration::from_secs(5);
/// After the kernel has refused to report, listening is tried again after this long.
const RETRY_INTERVAL: Duration = Duration::from_mins(5);

/// Listens to the kernel's reports of destroyed sockets, for all threads of a proxy.
#[derive(Debug, Default)]
pub(crate) struct Witness {
    /// When a request last needed it, in milliseconds on the process's clock.
    needed: AtomicU64,
    hears: Mutex<Hears>,
}

#[derive(Debug, Default)]
enum Hears {
    #[default]
    Nothing,
    All {
        watch: Watch,
        cookies: Cookies,
        /// The most recent report is last.
        heard: VecDeque<Destroyed>,
    },
    /// The kernel refused at this time.
    Refused(Duration),
}

impl Hears {
    fn begin(&mut self, now: Duration) {
        match self {
            Self::All { .. } => return,
            Self::Refused(at) if now < *at + RETRY_INTERVAL => return,
            Self::Refused(_) | Self::Nothing => {}
        }
        let begun = Watch::begin().and_then(|watch| Ok((watch, Cookies::open()?)));
        *self = match begun {
            Ok((watch, cookies)) => Self::All {
                watch,
                cookies,
                heard: VecDeque::new(),
            },
            Err(error) => {
                tracing::debug!(
                    %error,
                    "the kernel does not report unread bytes, so a request that is not \
                     idempotent is not repeated once bytes of it were written"
                );
                Self::Refused(now)
            }
        };
    }

    /// Reads what the kernel has reported since the last call.
    fn catch_up(&mut self) -> Option<&VecDeque<Destroyed>> {
        let Self::All { watch, heard, .. } = self else {
            return None;
        };
        heard.extend(watch);
        let surplus = heard.len().saturating_sub(MAX_REMEMBERED);
        heard.drain(..surplus);
        Some(heard)
    }
}

impl Witness {
    fn hears(&self) -> MutexGuard<'_, Hears> {
        self.hears.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Listens from now on, and learns the identifiers of a connection's ends; must be
    /// called before a request is written. `None` means that the kernel reports nothing.
    pub(crate) fn watch(&self, now: Duration, link: &mut Link) -> Option<Ends> {
        self.needed.store(now.as_millis() as u64, Ordering::Relaxed);
        let mut hears = self.hears();
        hears.begin(now);
        let Hears::All { cookies, .. } = &*hears else {
            return None;
        };
        if link.ends.is_none() {
            link.ends = Some(ends(cookies, &link.transport));
        }
        link.ends
    }

    /// Whether a request was certainly not read. The proxy's end of its connection must
    /// already be closed. Waits a moment for the kernel's report.
    pub(crate) async fn is_unread(&self, sent: &Sent) -> bool {
        for pause in PAUSES {
            tokio::time::sleep(Duration::from_millis(pause)).await;
            match self.hears().catch_up() {
                None => return false,
                Some(heard) if heard.iter().any(|one| proves(one, sent)) => return true,
                Some(_) => {}
            }
        }
        false
    }

    /// Called from time to time: forgets old reports, and stops listening once no request has
    /// needed it for a while.
    pub(crate) fn rest(&self, now: Duration) {
        let needed = Duration::from_millis(self.needed.load(Ordering::Relaxed));
        // If the lock is taken, another thread is about to check.
        let Ok(mut hears) = self.hears.try_lock() else {
            return;
        };
        if now.saturating_sub(needed) >= IDLE_TIMEOUT && matches!(&*hears, Hears::All { .. }) {
            *hears = Hears::Nothing;
        }
        hears.catch_up();
    }
}

fn ends(cookies: &Cookies, transport: &Transport) -> Ends {
    let canonical =
        |address: SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
    // If the kernel counts other bytes than those of the request, its report proves
    // nothing.
    let Some(socket) = transport.socket() else {
        return Ends {
            ours: None,
            theirs: None,
        };
    };
    let addresses = transport
        .peer_address()
        .and_then(|peer| Ok((peer, transport.local_address()?)));
    let theirs = addresses.ok().and_then(|(peer, local)| {
        let [peer, local] = [peer, local].map(canonical);
        // Sockets of another machine or another container cannot be observed here.
        let is_here = peer.ip().is_loopback();
        is_here.then(|| cookies.of(peer, local).ok())?
    });
    Ends {
        ours: own_cookie(socket).ok(),
        theirs,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};

    const ENDS: Ends = Ends {
        ours: Some(1),
        theirs: Some(2),
    };
    const SENT: Sent = Sent {
        ends: ENDS,
        before: 100,
        request: 50,
        is_orderly: true,
        may_reset: false,
    };
    const GONE: Destroyed = Destroyed {
        cookie: 2,
        is_disconnected: false,
        read: 100,
        unread: 50,
        unacknowledged: 0,
    };

    #[test]
    fn a_request_is_unread_only_if_no_byte_of_it_was_read() {
        assert!(proves(&GONE, &SENT));
        let beginning_was_read = Destroyed { read: 101, ..GONE };
        assert!(!proves(&beginning_was_read, &SENT));
        let anothers = Destroyed { cookie: 3, ..GONE };
        assert!(!proves(&anothers, &SENT));
        let unknown = Sent {
            ends: Ends {
                ours: None,
                theirs: None,
            },
            ..SENT
        };
        assert!(!proves(&GONE, &unknown));
    }

    #[test]
    fn a_connection_that_was_not_accepted_was_not_read_unless_the_app_may_reset_connections() {
        let gone = Destroyed {
            is_disconnected: true,
            read: 0,
            unread: 0,
            ..GONE
        };
        let first = Sent { before: 0, ..SENT };
        assert!(proves(&gone, &first));
        let resets = Sent {
            may_reset: true,
            ..first
        };
        assert!(!proves(&gone, &resets));
        assert!(!proves(&gone, &SENT), "it had answered an earlier request");
    }

    #[test]
    fn bytes_after_an_orderly_close_were_not_read() {
        let ours = Destroyed {
            cookie: 1,
            read: 7,
            unread: 0,
            unacknowledged: 50,
            ..GONE
        };
        assert!(proves(&ours, &SENT));
        let part_had_come = Destroyed {
            unacknowledged: 49,
            ..ours
        };
        assert!(!proves(&part_had_come, &SENT));
        let reset = Sent {
            is_orderly: false,
            ..SENT
        };
        assert!(!proves(&ours, &reset), "acknowledgements may have been due");
    }

    /// Whether a request counts as unread if its server reads `reads` bytes of it and then
    /// closes the connection.
    async fn outcome(witness: &Witness, reads: usize) -> bool {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let mut link = Link::new(Transport::Plain(stream));
        let ends = witness.watch(Duration::from_secs(1), &mut link).unwrap();
        let Transport::Plain(client) = link.transport else {
            panic!("it was made of a socket");
        };
        let mut client = client.into_std().unwrap();
        client.write_all(&[0; 50]).unwrap();
        let (mut server, _) = listener.accept().unwrap();
        server.read_exact(&mut vec![0; reads]).unwrap();
        drop(server);
        drop(client);
        let sent = Sent {
            ends,
            before: 0,
            ..SENT
        };
        witness.is_unread(&sent).await
    }

    #[tokio::test]
    async fn a_witness_learns_what_was_read() {
        let witness = Witness::default();
        for (reads, is_unread) in [(0, true), (1, false), (50, false)] {
            assert_eq!(outcome(&witness, reads).await, is_unread, "{reads}");
        }
        witness.rest(Duration::from_secs(1) + IDLE_TIMEOUT);
        assert!(matches!(*witness.hears(), Hears::Nothing));
        assert!(outcome(&witness, 0).await, "it listens again");
    }
}
