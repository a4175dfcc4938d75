//! One forwarding thread from its start to its end: it accepts connections, and follows
//! changes of the table of endpoints, of the tokens and of the proxy's stage.
//!
//! What happens on a connection is decided in `connections`; when each stage of the
//! shutdown begins, in `drain`.

use std::cell::Cell;
use std::future::poll_fn;
use std::io;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use scaledapp_http1::Tokens;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::callers::Callers;
use crate::connections::Connections;
use crate::drain::{self, Stage};
use crate::endpoint::Table;
use crate::housekeeping;
use crate::keepalive;
use crate::listen::{Listener, Scheme};
use crate::memory::{NEW_BYTES, SESSION_BYTES};
use crate::metrics::{Counts, count};
use crate::occupancy::STALL_GRACE;
use crate::pressure::Pressure;
use crate::site::Site;
use crate::thread::{Common, Thread};

/// How many bytes of an answer the kernel accepts beyond what fits into the client's
/// window.
const MAX_UNSENT_BYTES: u32 = 128 << 10;
/// The kernel's receive buffer of a connection while memory is short.
const TIGHT_RECEIVE_BYTES: usize = 16 << 10;
/// Pause after `accept` has failed because descriptors or memory are short.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What a thread is made from.
pub(crate) struct Seed {
    pub(crate) common: Common,
    pub(crate) callers: Callers,
    pub(crate) site: Site,
    pub(crate) listeners: Vec<Listener>,
    pub(crate) table: watch::Receiver<Arc<Table>>,
    pub(crate) stage: watch::Receiver<Stage>,
    pub(crate) counts: Arc<Counts>,
    /// The number of the thread, from 0.
    pub(crate) index: usize,
}

/// Serves until the last connection has ended after [`Stage::Closed`], or until
/// [`Stage::Cut`].
///
/// # Errors
/// The event loop of the thread cannot be created.
pub(crate) fn run(seed: Seed) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, serve(seed))
}

async fn serve(seed: Seed) -> io::Result<()> {
    let Seed {
        common,
        mut callers,
        site,
        listeners,
        mut table,
        mut stage,
        counts,
        index,
    } = seed;
    let stall_time = common.config.limits.stall_time;
    let mut doors = Doors::new(listeners, stall_time)?;
    let closed = Arc::clone(&common.closed);
    let first = Arc::clone(&table.borrow_and_update());
    let thread = Rc::new(Thread::new(
        common,
        &mut callers,
        site,
        counts,
        first,
        index,
    ));
    let connections = Rc::new(Connections::new(Rc::clone(&thread))?);
    tokio::task::spawn_local(housekeeping::run(
        Rc::clone(&connections),
        Rc::clone(&thread),
    ));
    tokio::task::spawn_local(Rc::clone(&connections).watch_parked());
    let accepting = Accepting {
        thread: &thread,
        connections: &connections,
    };
    // The table's owner may be dropped before this thread ends; then the last table stays in
    // force.
    let mut has_owner = true;
    loop {
        let stages = thread.activity.stage();
        if stages >= Stage::Closed && thread.occupancy.connections() == 0 {
            return Ok(());
        }
        tokio::select! {
            accepted = accepting.accept(&doors) => accepting.accepted(accepted).await,
            changed = table.changed(), if has_owner => {
                has_owner = changed.is_ok();
                thread.upstreams.set_table(Arc::clone(&table.borrow_and_update()));
            }
            Ok(()) = stage.changed() => {
                let stage = *stage.borrow_and_update();
                if accepting.enter(stage, &mut doors, &closed) {
                    return Ok(());
                }
            }
            () = changed(callers.tokens.as_mut()) => thread.callers.update(&mut callers),
            () = thread.occupancy.changed() => {}
        }
    }
}

/// Sets options that accepted sockets inherit, which saves system calls for each of them.
fn set_options(listener: &std::net::TcpListener, stall_time: Duration) -> io::Result<()> {
    let socket = socket2::SockRef::from(listener);
    socket.set_tcp_nodelay(true)?;
    // For a client that reads slowly or not at all, the kernel would buffer megabytes of
    // its answer (tcp_wmem), which count as memory of the container.
    socket.set_tcp_notsent_lowat(MAX_UNSENT_BYTES)?;
    keepalive::set(&socket, stall_time)
}

/// Resolves when the tokens have changed.
async fn changed(tokens: Option<&mut watch::Receiver<Tokens>>) {
    let is_changed = match tokens {
        Some(tokens) => tokens.changed().await.is_ok(),
        None => false,
    };
    // If the owner has been dropped, the last tokens stay in force.
    if !is_changed {
        std::future::pending::<()>().await;
    }
}

/// The listening sockets of a thread.
#[derive(Debug, Default)]
struct Doors {
    all: Vec<(TcpListener, Scheme)>,
    /// The socket that is polled first. It changes, so that a busy socket does not delay
    /// the others.
    first: Cell<usize>,
}

/// A connection that was accepted.
struct Arrived {
    stream: TcpStream,
    peer: IpAddr,
    scheme: Scheme,
}

impl Doors {
    fn new(listeners: Vec<Listener>, stall_time: Duration) -> io::Result<Self> {
        let open = |listener: Listener| {
            set_options(&listener.socket, stall_time)?;
            Ok((TcpListener::from_std(listener.socket)?, listener.scheme))
        };
        Ok(Self {
            all: listeners.into_iter().map(open).collect::<io::Result<_>>()?,
            first: Cell::new(0),
        })
    }

    /// The next connection of any of the sockets.
    fn poll_accept(&self, context: &mut Context<'_>) -> Poll<io::Result<Arrived>> {
        let count = self.all.len();
        for at in 0..count {
            let at = (self.first.get() + at) % count;
            let (listener, scheme) = &self.all[at];
            if let Poll::Ready(accepted) = listener.poll_accept(context) {
                self.first.set(at + 1);
                return Poll::Ready(accepted.map(|(stream, peer)| Arrived {
                    stream,
                    peer: peer.ip().to_canonical(),
                    scheme: scheme.clone(),
                }));
            }
        }
        Poll::Pending
    }
}

/// The accept loop's view of its thread.
struct Accepting<'a> {
    thread: &'a Thread,
    connections: &'a Rc<Connections>,
}

impl Accepting<'_> {
    /// Accepts the next connection once there may be one more. This is checked again when a
    /// connection arrives, because an idle connection that was to be ended may be in use by
    /// then.
    async fn accept(&self, doors: &Doors) -> io::Result<Arrived> {
        poll_fn(|context| {
            if doors.all.is_empty() || !self.has_room() {
                return Poll::Pending;
            }
            doors.poll_accept(context)
        })
        .await
    }

    /// Whether there may be one more connection, or an existing one can end for it.
    fn has_room(&self) -> bool {
        let thread = self.thread;
        if thread.occupancy.has_room() {
            return true;
        }
        let is_new = thread.occupancy.block();
        // A connection may have ended before this thread was registered as waiting.
        if thread.occupancy.has_room() {
            return true;
        }
        if is_new {
            thread.activity.begins();
            count(&thread.counts.at_limit);
            thread.complaints.connections_are_full();
        }
        false
    }

    async fn accepted(&self, accepted: io::Result<Arrived>) {
        match accepted.and_then(|arrived| self.begin(arrived)) {
            // Connections are listed as newcomers by their tasks, so these run before the next
            // connection takes a place.
            Ok(()) if self.thread.occupancy.is_full() => tokio::task::yield_now().await,
            Ok(()) => {}
            // The client closed the connection before it was accepted.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => {
                self.thread
                    .is_short_of("cannot accept a connection", &error);
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }

    fn begin(&self, arrived: Arrived) -> io::Result<()> {
        let thread = self.thread;
        thread.activity.begins();
        let Arrived {
            stream,
            peer,
            scheme,
        } = arrived;
        if thread.callers.announces(peer) {
            self.begin_unknown(stream, peer, scheme);
            return Ok(());
        }
        let (transport, redirects) = scheme.open(stream)?;
        let pressure = thread.memory.pressure();
        let needed = if transport.is_secured() {
            NEW_BYTES + SESSION_BYTES
        } else {
            NEW_BYTES
        };
        if pressure >= Pressure::Full || !thread.memory.takes(needed) {
            count(&thread.counts.shed_new);
            thread.refuse(&transport, peer, "out-of-memory");
            return Ok(());
        }
        if pressure >= Pressure::Tight {
            transport.set_receive_bytes(TIGHT_RECEIVE_BYTES);
        }
        let was_full = thread.occupancy.is_full();
        if thread
            .occupancy
            .enter(thread.callers.counted(peer))
            .is_err()
        {
            thread.refuse_for_address(&transport, peer);
            return Ok(());
        }
        if was_full {
            // Only a connection that is counted needs room; a refused one ends no other
            // connection.
            self.make_way();
        }
        self.connections.begin(transport, peer, redirects);
        Ok(())
    }

    /// Begins a connection whose client is not known yet, because a proxy in front must announce
    /// it first.
    fn begin_unknown(&self, stream: TcpStream, peer: IpAddr, scheme: Scheme) {
        let thread = self.thread;
        if thread.memory.pressure() >= Pressure::Full || !thread.memory.takes(NEW_BYTES) {
            count(&thread.counts.shed_new);
            return;
        }
        let was_full = thread.occupancy.is_full();
        if thread.occupancy.enter(None).is_ok() {
            if was_full {
                self.make_way();
            }
            self.connections.begin_unknown(stream, peer, scheme);
        }
    }

    /// Ends a connection to make room for a new one: the connection that has waited longest
    /// for a request; if none has waited for long, the connection whose client has not
    /// sent or read for longest; if none has, one whose client has not achieved anything yet
    /// (`newcomers`). The client of another new connection may be about to send
    /// its request, so idle connections that are new end last. A connection whose request waits
    /// for an endpoint, or for its answer, does not end for this reason.
    fn make_way(&self) {
        let Thread {
            clock,
            counts,
            complaints,
            occupancy,
            ..
        } = self.thread;
        if clock.end_oldest_idle(STALL_GRACE) {
            count(&counts.gave_way);
        } else if clock.end_longest_stalled(STALL_GRACE) {
            count(&counts.stalled_gave_way);
            complaints.stalled_connection_ended();
        } else if let Some(newcomer) = occupancy.newcomers.take_next() {
            count(&counts.stalled_gave_way);
            complaints.stalled_connection_ended();
            clock.end_for_room(newcomer);
        } else if clock.end_oldest_idle(Duration::ZERO) {
            count(&counts.gave_way);
        }
    }

    /// Enters a stage of the shutdown. Returns whether it was the last stage, which is over
    /// immediately.
    fn enter(&self, stage: Stage, doors: &mut Doors, closed: &AtomicUsize) -> bool {
        self.thread.activity.enter(stage);
        match stage {
            Stage::Closing => self.refuse_new(doors),
            Stage::Closed => {
                if !doors.all.is_empty() {
                    self.accept_last(&std::mem::take(doors));
                    closed.fetch_add(1, Ordering::SeqCst);
                }
            }
            // Connections that have a task end when the local set is dropped.
            Stage::Cut => self.connections.end_all_parked(),
            Stage::Serving | Stage::Leaving => {}
        }
        stage == Stage::Cut
    }

    fn refuse_new(&self, doors: &Doors) {
        // A socket that another process keeps open is also used by the successor of this
        // process.
        if self.thread.config.listener_is_held {
            return;
        }
        for (listener, _) in &doors.all {
            if let Err(error) = drain::refuse_new(listener) {
                tracing::debug!(%error, "connections that arrive in the last moment will be reset");
            }
        }
    }

    /// Accepts the connections that have arrived. If another process keeps the socket open,
    /// the connections stay in its queue for the successor of this process.
    fn accept_last(&self, doors: &Doors) {
        let mut context = Context::from_waker(Waker::noop());
        while !self.thread.config.listener_is_held
            && let Poll::Ready(Ok(arrived)) = doors.poll_accept(&mut context)
        {
            if let Err(error) = self.begin(arrived) {
                tracing::debug!(%error, "a connection of the last moment is not served");
            }
        }
    }
}
