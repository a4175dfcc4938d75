//! One forwarding thread: its runtime, what its connections share, and its
//! accept loop.
//!
//! What happens on a connection is decided in `connection`; when which stage of
//! the end begins, in `drain`.

mod choice;
mod complaints;
mod parked;
mod rest;

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use rustix::net::{SendFlags, send};
use scaledapp_http1::{self as http1, Fields, Trust};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, watch};

use crate::buffer::Buffers;
use crate::callers::{self, Callers, Tokens};
use crate::clock::{self, Clock, REST, TICK};
use crate::config::{Config, Role};
use crate::connection::{self, Client, Served};
use crate::drain::{self, Stage};
use crate::endpoint::Table;
use crate::keepalive;
use crate::line::Line;
use crate::memory::{self, Memory, Pressure};
use crate::metrics::{Counts, add, count, shift};
use crate::pool::Pool;
use crate::proxy::Arrival;
use crate::retry::Budget;
use crate::room::Room;
use crate::seat::Seats;
use crate::select::Cursor;
use crate::suspects::Suspects;
use crate::thread::parked::Parked;
use crate::thread::rest::{Guest, Open};
use crate::unread::Witness;

/// What the kernel takes of an answer before the client's window takes it.
const UNSENT: u32 = 128 << 10;
/// The kernel's memory for what a client sends, when memory is short.
const TIGHT_RECEIVE: usize = 16 << 10;
/// Pause after `accept` failed for want of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Between two sweeps of what is kept.
const SWEEP: Duration = REST;
/// Who has connected or been answered so long ago is not about to send anything.
const SHED: Duration = Duration::from_secs(1);
/// A client that has kept us waiting for so long gives way if there are as many
/// connections as may be. A lost packet is sent again within a second.
const GRACE: Duration = Duration::from_secs(2);
/// After so long without a request the ticks become rare.
const QUIET: Duration = Duration::from_secs(2);

/// What a thread is made from.
pub(crate) struct Seed {
    pub(crate) config: Config,
    pub(crate) callers: Callers,
    pub(crate) listener: std::net::TcpListener,
    pub(crate) table: watch::Receiver<Arc<Table>>,
    pub(crate) stage: watch::Receiver<Stage>,
    pub(crate) arrival: Arc<Arrival>,
    /// How many threads have taken their last connection.
    pub(crate) closed: Arc<AtomicUsize>,
    pub(crate) counts: Arc<Counts>,
    pub(crate) line: Arc<Line>,
    pub(crate) suspects: Arc<Suspects>,
    pub(crate) witness: Arc<Witness>,
    pub(crate) room: Arc<Room>,
    pub(crate) memory: Arc<Memory>,
    /// Which of the threads it is, from 0 on.
    pub(crate) index: usize,
}

/// What the connections of a thread share.
#[derive(Debug)]
pub(crate) struct Thread {
    pub(crate) config: Config,
    pub(crate) callers: Callers,
    /// Those of `callers`, as they are now.
    tokens: RefCell<Option<Tokens>>,
    pub(crate) counts: Arc<Counts>,
    pub(crate) clock: Rc<Clock>,
    pub(crate) buffers: Buffers,
    pub(crate) fields: RefCell<Fields>,
    pub(crate) pool: RefCell<Pool>,
    pub(crate) budget: RefCell<Budget>,
    pub(crate) random: RefCell<fastrand::Rng>,
    /// Requests that wait for an endpoint; all threads have the same.
    pub(crate) line: Arc<Line>,
    /// The same for requests that may be what ends workers.
    pub(crate) suspects: Arc<Suspects>,
    /// Of all threads, too.
    pub(crate) witness: Arc<Witness>,
    table: RefCell<Arc<Table>>,
    cursor: RefCell<Cursor>,
    stage: Cell<Stage>,
    arrival: Arc<Arrival>,
    connections: Cell<u32>,
    /// For connections of all threads.
    room: Arc<Room>,
    memory: Arc<Memory>,
    index: usize,
    /// Accepting waits until one of ours is idle, or any has ended.
    is_blocked: Cell<bool>,
    seats: Seats<Guest>,
    parked: Parked,
    /// When a request came last.
    stirred: Cell<Duration>,
    /// Ticks are rare now.
    rests: Cell<bool>,
    /// Ticks must not be rare any more.
    woken: Notify,
    /// A connection has ended, or gives way if asked.
    ended: Arc<Notify>,
    /// When an answer was called malformed in the log last.
    malformed_at: Cell<Option<Duration>>,
    /// When the log said last that we are short of something.
    short_at: Cell<Option<Duration>>,
    /// When it said last that there are as many connections as may be.
    full_at: Cell<Option<Duration>>,
    /// When the largest connections may end again.
    shed_at: Cell<Duration>,
    /// When it said last that connections of slow clients end for new ones.
    stalled_at: Cell<Option<Duration>>,
    /// When it said last that memory is short.
    pressed_at: Cell<Option<Duration>>,
    /// When it said last that an address has as many as it may.
    address_full_at: Cell<Option<Duration>>,
    /// When the log said last that a request is refused or not served, by reason.
    said_at: complaints::Said,
    /// A client that spoke HTTP/2 was mentioned in the log.
    knows_http2: Cell<bool>,
    /// A client that spoke TLS was mentioned in the log.
    knows_tls: Cell<bool>,
}

/// Serves until the last stage is over.
///
/// # Errors
/// The thread gets no reactor.
pub(crate) fn run(seed: Seed) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, serve(seed))
}

async fn serve(mut seed: Seed) -> io::Result<()> {
    let limits = seed.config.limits;
    set_options(&seed.listener, limits.stall_time)?;
    let mut listener = Some(TcpListener::from_std(seed.listener)?);
    let thread = Rc::new(Thread {
        config: seed.config.with_room_for_added(),
        tokens: RefCell::new(seed.callers.tokens.as_mut().map(now)),
        callers: seed.callers.clone(),
        counts: seed.counts,
        clock: Rc::default(),
        buffers: Buffers::default(),
        fields: RefCell::default(),
        pool: RefCell::new(Pool::new(limits.upstream_idle)),
        budget: RefCell::new(Budget::new(limits.retry_percent)),
        random: RefCell::new(fastrand::Rng::new()),
        line: seed.line,
        suspects: seed.suspects,
        witness: seed.witness,
        table: RefCell::new(Arc::clone(&seed.table.borrow_and_update())),
        cursor: RefCell::default(),
        stage: Cell::new(Stage::Serving),
        arrival: seed.arrival,
        connections: Cell::new(0),
        room: seed.room,
        memory: seed.memory,
        index: seed.index,
        is_blocked: Cell::new(false),
        seats: Seats::default(),
        parked: Parked::new()?,
        stirred: Cell::new(Duration::ZERO),
        rests: Cell::new(false),
        woken: Notify::new(),
        ended: Arc::default(),
        malformed_at: Cell::new(None),
        short_at: Cell::new(None),
        full_at: Cell::new(None),
        shed_at: Cell::new(Duration::ZERO),
        stalled_at: Cell::new(None),
        pressed_at: Cell::new(None),
        address_full_at: Cell::new(None),
        said_at: RefCell::default(),
        knows_http2: Cell::new(false),
        knows_tls: Cell::new(false),
    });
    thread.clock.tick(clock::now(), false);
    tokio::task::spawn_local(Rc::clone(&thread).keep_house());
    tokio::task::spawn_local(Rc::clone(&thread).watch_parked());
    // The table's owner may go first; then the last table stays.
    let mut has_owner = true;
    loop {
        if thread.stage.get() >= Stage::Closed && thread.connections.get() == 0 {
            return Ok(());
        }
        tokio::select! {
            accepted = accept(listener.as_ref(), &thread) => thread.accepted(accepted).await,
            changed = seed.table.changed(), if has_owner => {
                has_owner = changed.is_ok();
                thread.set_table(Arc::clone(&seed.table.borrow_and_update()));
            }
            Ok(()) = seed.stage.changed() => {
                let stage = *seed.stage.borrow_and_update();
                if thread.enters(stage, &mut listener, &seed.closed) {
                    return Ok(());
                }
            }
            () = changed(seed.callers.tokens.as_mut()) => {
                *thread.tokens.borrow_mut() = seed.callers.tokens.as_mut().map(now);
            }
            () = thread.ended.notified() => {}
        }
    }
}

/// Sets what accepted sockets inherit, which saves system calls for each.
fn set_options(listener: &std::net::TcpListener, stall_time: Duration) -> io::Result<()> {
    let socket = socket2::SockRef::from(listener);
    socket.set_tcp_nodelay(true)?;
    // A client that reads slowly, or not at all, would make the kernel hold megabytes of
    // its answer (tcp_wmem), which count as our container's memory.
    socket.set_tcp_notsent_lowat(UNSENT)?;
    keepalive::set(&socket, stall_time)
}

fn now(tokens: &mut watch::Receiver<Tokens>) -> Tokens {
    tokens.borrow_and_update().clone()
}

/// Resolves when there are other tokens than before.
async fn changed(tokens: Option<&mut watch::Receiver<Tokens>>) {
    let is_news = match tokens {
        Some(tokens) => tokens.changed().await.is_ok(),
        None => false,
    };
    // Without an owner the last ones stay.
    if !is_news {
        std::future::pending::<()>().await;
    }
}

/// The next connection, when there may be one more. Looked at again when one comes:
/// what was idle before may not be any more.
async fn accept(
    listener: Option<&TcpListener>,
    thread: &Thread,
) -> io::Result<(TcpStream, std::net::SocketAddr)> {
    poll_fn(|context| match listener {
        Some(listener) if thread.has_room() => listener.poll_accept(context),
        Some(_) | None => Poll::Pending,
    })
    .await
}

impl Thread {
    /// Whether there may be one more, or is one that ends for it.
    fn has_room(&self) -> bool {
        let gives_way = || self.clock.has_idle() || self.clock.has_stalled(GRACE);
        let has_room = || !self.room.is_full() || !self.room.is_beyond() && gives_way();
        if has_room() {
            return true;
        }
        let was_blocked = self.is_blocked.replace(true);
        self.room.wait(&self.ended);
        // One may have ended before it knew that we wait.
        if has_room() {
            return true;
        }
        if !was_blocked {
            self.stir();
            self.is_full();
        }
        false
    }

    /// Says so in the log, now and then.
    fn is_full(&self) {
        count(&self.counts.at_limit);
        if self.is_due(&self.full_at) {
            tracing::warn!(
                connections = self.config.limits.connections,
                "as many connections as may be, none idle and none held up by its client for \
                 two seconds: new ones wait. Raise --connections, or find out what keeps \
                 requests"
            );
        }
    }

    /// A connection waits for its next request, or could give way.
    pub(crate) fn one_is_idle(&self) {
        if self.is_blocked.replace(false) {
            self.ended.notify_one();
        }
    }

    async fn accepted(self: &Rc<Self>, accepted: io::Result<(TcpStream, std::net::SocketAddr)>) {
        match accepted {
            Ok((stream, peer)) => self.begin(stream, peer.ip()),
            // The client was gone before it was taken.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => {
                self.is_short("cannot accept a connection", &error);
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }

    fn begin(self: &Rc<Self>, stream: TcpStream, peer: IpAddr) {
        self.stir();
        let peer = peer.to_canonical();
        let pressure = self.memory.pressure();
        if pressure >= Pressure::Full {
            count(&self.counts.shed_new);
            self.refuse(&stream, "out-of-memory");
            return;
        }
        if pressure >= Pressure::Tight {
            let socket = socket2::SockRef::from(&stream);
            // Only a connection that is over already refuses.
            let _ended = socket.set_recv_buffer_size(TIGHT_RECEIVE);
        }
        let was_full = self.room.is_full();
        if self.room.enter(self.counted(peer)).is_err() {
            self.address_is_full(&stream, peer);
            return;
        }
        if was_full {
            // Nobody ends for one that is refused.
            self.make_way();
        }
        count(&self.counts.accepted);
        shift(&self.counts.connections, 1);
        self.connections.set(self.connections.get() + 1);
        let guest = Guest {
            stream,
            deadline: self.clock.deadline(),
            open: Open(Rc::clone(self), peer),
        };
        // Most have something to say at once. Until it was looked at it is not idle, or
        // it could end before it is heard.
        self.wakes(guest);
    }

    /// Ends a connection for a new one: the one that has waited for a request for
    /// longest; if none has for long, the one whose client has kept us waiting for
    /// longest. One that is new itself may be about to say what it wants. What an
    /// endpoint works on never ends.
    fn make_way(&self) {
        if self.clock.end_oldest_idle(GRACE) {
            count(&self.counts.gave_way);
        } else if !self.clock.end_longest_stalled(GRACE) {
            if self.clock.end_oldest_idle(Duration::ZERO) {
                count(&self.counts.gave_way);
            }
        } else {
            count(&self.counts.stalled_gave_way);
            if self.is_due(&self.stalled_at) {
                tracing::warn!(
                    connections = self.config.limits.connections,
                    "as many connections as may be, and none is idle: those end whose clients \
                     have sent, or taken, nothing for longest. If these are ordinary slow \
                     clients raise --connections, else limit --connections-per-address"
                );
            }
        }
    }

    /// The address that a connection counts for. Behind a proxy that somebody has named
    /// there are many clients.
    fn counted(&self, peer: IpAddr) -> Option<IpAddr> {
        (!self.callers.is_named(peer)).then_some(peer)
    }

    /// An address has as many connections as it may.
    fn address_is_full(&self, stream: &TcpStream, peer: IpAddr) {
        count(&self.counts.address_full);
        self.refuse(stream, "too-many-connections");
        if self.is_due(&self.address_full_at) {
            tracing::warn!(
                %peer,
                limit = self.config.limits.connections_per_address,
                "an address has as many connections as it may: raise \
                 --connections-per-address if many clients share it"
            );
        }
    }

    /// Tells a new connection that there is no place for it.
    fn refuse(&self, stream: &TcpStream, reason: &str) {
        let mut out = self.buffers.output();
        http1::write_answer(&mut out, 503, reason, Some(1), None, true, false);
        // An empty socket takes it all; it is closed at once, whatever it sends.
        // (tokio's own write would wait to hear that there is room.)
        let _unheard = send(stream, &out, SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
        self.buffers.put_output(out);
    }

    /// What is kept of a request with its head of so many bytes, to be sent again.
    pub(crate) fn replay_bytes(&self) -> usize {
        if self.memory.pressure() >= Pressure::Tight {
            count(&self.counts.unkept);
            return 0;
        }
        self.config.limits.replay_bytes
    }

    /// Whether there is memory for larger buffers than the least.
    pub(crate) fn may_widen(&self) -> bool {
        self.memory.pressure() < Pressure::Tight
    }

    /// Ends what must end so that memory is enough.
    fn shed(&self, pressure: Pressure) {
        if pressure >= Pressure::Scarce {
            self.pool.borrow_mut().empty();
            // One that has just been answered may be about to ask again.
            let least = if pressure >= Pressure::Critical {
                Duration::ZERO
            } else {
                SHED
            };
            add(&self.counts.shed_idle, self.clock.end_idle(least));
        }
        let now = self.clock.now();
        if pressure >= Pressure::Critical && now >= self.shed_at.get() {
            self.shed_at.set(now + memory::LOOK);
            let ended = self.clock.end_largest(self.memory.surplus(self.index));
            add(&self.counts.shed_largest, ended);
        }
        if pressure >= Pressure::Tight && self.is_due(&self.pressed_at) {
            tracing::warn!(
                ?pressure,
                "memory for connections is short: requests are not kept to be sent again, then \
                 idle connections end, then those that hold the most. Give more memory, or \
                 fewer --connections"
            );
        }
    }

    /// Serves one connection after the other.
    async fn serve(self: Rc<Self>, first: Guest) {
        let _task = Task::begin(&self.seats);
        let mut next = Some(first);
        while let Some(guest) = next {
            let Guest {
                stream,
                deadline,
                open,
            } = guest;
            let mut client = Client::new(&self, stream, open.1, deadline);
            // A connection that has asked for nothing yet is no kept one.
            let patience = self.config.limits.head_time;
            match connection::serve(&self, &mut client, patience).await {
                Served::Rests => {
                    let Client {
                        stream, deadline, ..
                    } = client;
                    self.rest(Guest {
                        stream,
                        deadline,
                        open,
                    });
                }
                // Not only when the next one has come.
                Served::Ended => drop((client, open)),
            }
            next = self.seats.next().await;
        }
    }

    /// Whether a task should not wait for a silent connection.
    pub(crate) fn is_crowded(&self) -> bool {
        self.seats.is_crowded()
    }

    /// A stage of the end begins; whether it is the last, and over.
    fn enters(
        self: &Rc<Self>,
        stage: Stage,
        listener: &mut Option<TcpListener>,
        closed: &AtomicUsize,
    ) -> bool {
        self.stage.set(stage);
        self.stir();
        match stage {
            Stage::Closing => self.refuse_new(listener.as_ref()),
            Stage::Closed => {
                if let Some(listener) = listener.take() {
                    self.accept_last(&listener);
                    closed.fetch_add(1, Ordering::SeqCst);
                }
            }
            // Dropping the local set ends every connection that has a task.
            Stage::Cut => self.parked.clear(),
            Stage::Serving | Stage::Leaving => {}
        }
        stage == Stage::Cut
    }

    fn refuse_new(&self, listener: Option<&TcpListener>) {
        // A held socket is the next process's too.
        if let Some(listener) = listener
            && !self.config.listener_is_held
            && let Err(error) = drain::refuse_new(listener)
        {
            tracing::debug!(%error, "connections that come in the last moment will be reset");
        }
    }

    /// Takes what has come; a held socket keeps it for the next process.
    fn accept_last(self: &Rc<Self>, listener: &TcpListener) {
        let mut context = Context::from_waker(Waker::noop());
        while !self.config.listener_is_held
            && let Poll::Ready(Ok((stream, peer))) = listener.poll_accept(&mut context)
        {
            self.begin(stream, peer.ip());
        }
    }

    /// Ticks the clock, and everything that goes by it.
    async fn keep_house(self: Rc<Self>) {
        let mut swept = clock::now();
        loop {
            let period = if self.rests.get() { REST } else { TICK };
            tokio::select! {
                () = tokio::time::sleep(period) => {}
                () = self.woken.notified() => {}
            }
            let now = clock::now();
            let tick = self.clock.tick(now, self.stage.get() >= Stage::Closed);
            if self.is_blocked.get() && self.clock.has_stalled(GRACE) {
                self.one_is_idle();
            }
            let connections = self.connections.get();
            let pressure = self.memory.tell(self.index, connections, tick.held, now);
            self.shed(pressure);
            // An endpoint may be back without having said so.
            self.line.news();
            // Who waits for a place, waits for a tick that finds one.
            let is_awaited = tick.is_busy || self.is_blocked.get();
            self.rests
                .set(!is_awaited && now.saturating_sub(self.stirred.get()) >= QUIET);
            if now.saturating_sub(swept) >= SWEEP {
                swept = now;
                self.budget.borrow_mut().refill();
                self.parked.give_back(now);
                self.clock.squeeze();
                self.witness.rest(now);
                self.sweep();
            }
        }
    }

    /// Something begins: its time counts from now, and ticks are needed.
    pub(crate) fn stir(&self) {
        let now = clock::now();
        self.clock.set(now);
        self.stirred.set(now);
        if self.rests.replace(false) {
            self.woken.notify_one();
        }
        if self.is_leaving() {
            self.arrival.set(now);
        }
    }

    fn sweep(&self) {
        let table = self.table.borrow();
        let is_used = |id| {
            let mut endpoints = table.endpoints.iter();
            endpoints.any(|endpoint| endpoint.id() == id && !endpoint.is_closed())
        };
        self.pool.borrow_mut().sweep(self.clock.now(), is_used);
    }

    fn set_table(&self, table: Arc<Table>) {
        *self.table.borrow_mut() = table;
        self.sweep();
        self.line.news();
    }

    /// What a caller is that has shown this with its request.
    pub(crate) fn trust(&self, shown: Option<&[u8]>, is_named: bool) -> Trust {
        let tokens = self.tokens.borrow();
        callers::trust(self.config.trust, tokens.as_ref(), shown, is_named)
    }

    /// Hands on what is to be shown to the next hop.
    pub(crate) fn with_token<T>(&self, then: impl FnOnce(Option<&str>) -> T) -> T {
        let tokens = self.tokens.borrow();
        let shown = tokens.as_ref().and_then(Tokens::first);
        then(shown.filter(|_| self.config.role == Role::Balancer))
    }

    /// Whether answers must say that the connection ends with them.
    pub(crate) fn is_leaving(&self) -> bool {
        self.stage.get() >= Stage::Leaving
    }
}

/// A task that is counted.
struct Task<'a>(&'a Seats<Guest>);

impl<'a> Task<'a> {
    fn begin(seats: &'a Seats<Guest>) -> Self {
        seats.begin();
        Self(seats)
    }
}

impl Drop for Task<'_> {
    fn drop(&mut self) {
        self.0.end();
    }
}
