//! The client connections of a forwarding thread. Each is in one of three states: served by
//! a task, resting in a small task of its own, or parked without a task.
//!
//! A task that serves a connection takes several kilobytes, a task in which a connection
//! rests a quarter of a kilobyte, and a parked connection about 60 bytes. The protocol
//! decides when a connection goes to rest (`http::connection`), and `clock` decides which
//! connection ends.

mod idle_tasks;
mod parked;

use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use scaledapp_http1::Announced;
use tokio::net::TcpStream;

use self::idle_tasks::IdleTasks;
use self::parked::{Parked, ParkedConnection};
use crate::announced::{self, Unannounced};
use crate::clock::{Deadline, Slot};
use crate::config::UpstreamProtocol;
use crate::http::client::Client;
use crate::http::connection::{self, Served};
use crate::http2;
use crate::listen::Scheme;
use crate::metrics::{count, shift};
use crate::tcp;
use crate::thread::Thread;
use crate::transport::Transport;

/// The pause after the parked connections could not be watched, before the next attempt.
const RETRY_PAUSE: Duration = Duration::from_millis(50);

/// The client connections of one thread.
#[derive(Debug)]
pub(crate) struct Connections {
    thread: Rc<Thread>,
    idle_tasks: IdleTasks<Connection>,
    parked: Parked<Open>,
}

/// A client's connection as it passes from state to state; this is all that is kept of it
/// while it is idle.
#[derive(Debug)]
struct Connection {
    transport: Transport,
    deadline: Deadline,
    open: Open,
}

/// Counts a connection as open until it is dropped.
#[derive(Debug)]
struct Open {
    connections: Rc<Connections>,
    peer: IpAddr,
    /// Whether it is counted for the address of the peer.
    is_named: bool,
    /// Its requests are redirected to `https` at this port.
    redirects: Option<u16>,
}

impl Drop for Open {
    fn drop(&mut self) {
        let thread = &self.connections.thread;
        shift(&thread.counts.connections, -1);
        let address = thread.callers.counted(self.peer).filter(|_| self.is_named);
        let is_leaving = thread.activity.is_leaving();
        thread.occupancy.leave(address, is_leaving);
    }
}

impl Connections {
    /// # Errors
    /// There are no more descriptors.
    pub(crate) fn new(thread: Rc<Thread>) -> io::Result<Self> {
        Ok(Self {
            thread,
            idle_tasks: IdleTasks::default(),
            parked: Parked::new()?,
        })
    }

    /// Serves a connection that has been accepted and counted.
    pub(crate) fn begin(
        self: &Rc<Self>,
        transport: Transport,
        peer: IpAddr,
        redirects: Option<u16>,
    ) {
        let connection = Connection {
            transport,
            deadline: self.thread.clock.deadline(),
            open: self.open(peer, true, redirects),
        };
        // Most clients send something immediately. A connection does not count as idle
        // before it has been read once; otherwise it could end before its request is read.
        self.serve_as(connection, None);
    }

    fn open(self: &Rc<Self>, peer: IpAddr, is_named: bool, redirects: Option<u16>) -> Open {
        let counts = &self.thread.counts;
        count(&counts.accepted);
        shift(&counts.connections, 1);
        Open {
            connections: Rc::clone(self),
            peer,
            is_named,
            redirects,
        }
    }

    /// Serves a new connection by the protocol of the endpoints.
    fn serve_as(self: &Rc<Self>, connection: Connection, announced: Option<tcp::Addresses>) {
        if self.thread.config.upstream != UpstreamProtocol::Tcp {
            self.wake(connection);
            return;
        }
        let Connection {
            transport,
            deadline,
            open,
        } = connection;
        let thread = Rc::clone(&self.thread);
        tokio::task::spawn_local(async move {
            tcp::serve(&thread, transport, open.peer, announced, deadline).await;
            drop(open);
        });
    }

    /// Serves a connection that has been accepted, and counted for no address, once the proxy in
    /// front has said who its client is.
    pub(crate) fn begin_unknown(self: &Rc<Self>, stream: TcpStream, peer: IpAddr, scheme: Scheme) {
        let deadline = self.thread.clock.deadline();
        let open = self.open(peer, false, None);
        tokio::task::spawn_local(Rc::clone(self).introduce(stream, deadline, open, scheme));
    }

    async fn introduce(
        self: Rc<Self>,
        stream: TcpStream,
        deadline: Deadline,
        mut open: Open,
        scheme: Scheme,
    ) {
        let thread = &*self.thread;
        let newcomer = thread.occupancy.newcomer(&deadline, open.peer);
        let announced = match announced::read(&stream, &deadline).await {
            Ok(Announced::Client {
                source,
                destination,
            }) => {
                count(&thread.counts.headers_client);
                open.peer = source.ip();
                Some((source, destination))
            }
            Ok(Announced::Itself) => {
                count(&thread.counts.headers_itself);
                None
            }
            Err(why) => {
                refuse_header(thread, open.peer, &why);
                return;
            }
        };
        drop(newcomer);
        thread.activity.begins();
        let (transport, redirects) = match scheme.open(stream) {
            Ok(opened) => opened,
            Err(error) => {
                thread.is_short_of("cannot serve a connection", &error);
                return;
            }
        };
        // The proxy itself has as many connections as it needs.
        if announced.is_some() {
            if thread
                .occupancy
                .name(thread.callers.counted(open.peer))
                .is_err()
            {
                thread.refuse_for_address(&transport, open.peer);
                return;
            }
            open.is_named = true;
        }
        open.redirects = redirects;
        let connection = Connection {
            transport,
            deadline,
            open,
        };
        self.serve_as(connection, announced);
    }

    /// The loop of a task: serves one connection after the other.
    async fn serve(self: Rc<Self>, first: Connection) {
        let thread = &*self.thread;
        let _task = thread.occupancy.task();
        let mut next = Some(first);
        while let Some(connection) = next {
            let Connection {
                transport,
                deadline,
                open,
            } = connection;
            let mut client = Client::new(thread, transport, open.peer, deadline);
            client.redirects = open.redirects;
            match connection::serve(thread, &mut client).await {
                Served::Rests => {
                    let Client {
                        transport,
                        deadline,
                        ..
                    } = client;
                    self.rest(Connection {
                        transport,
                        deadline,
                        open,
                    });
                }
                Served::Http2 => {
                    // The future of HTTP/2 is larger than that of HTTP/1.1. It is boxed, so
                    // that the future of this task does not grow.
                    Box::pin(http2::connection::serve(Rc::clone(&self.thread), client)).await;
                    drop(open);
                }
                // The connection must not stay open until the task gets its next one.
                Served::Ended => drop((client, open)),
            }
            next = self.idle_tasks.next().await;
        }
    }

    /// Passes a connection to a task that serves it.
    fn wake(self: &Rc<Self>, connection: Connection) {
        if let Some(connection) = self.idle_tasks.give(connection) {
            tokio::task::spawn_local(Rc::clone(self).serve(connection));
        }
    }

    /// Lets a connection rest until data or its end arrives. Its deadline is set already. A
    /// connection that has been idle for a second or two is parked immediately.
    fn rest(self: &Rc<Self>, connection: Connection) {
        self.thread.occupancy.one_could_end();
        if connection.deadline.is_slim() {
            self.park(connection);
        } else {
            rest_in_task(connection);
        }
    }

    /// Lets a connection wait without a task. One that cannot be parked rests in a task.
    fn park(self: &Rc<Self>, connection: Connection) {
        let Connection {
            transport,
            deadline,
            open,
        } = connection;
        // An error means that tokio's epoll set does not know the connection.
        let Ok(transport) = transport.detach() else {
            return;
        };
        let connection = ParkedConnection {
            transport,
            deadline,
            owner: open,
        };
        match self.parked.put(connection) {
            Ok(()) => shift(&self.thread.counts.parked, 1),
            Err(connection) => {
                if let Some(connection) = self.unpark(connection) {
                    rest_in_task(connection);
                }
            }
        }
    }

    /// Takes out the parked connection with that slot, and stops watching it.
    fn take(&self, slot: usize) -> Option<ParkedConnection<Open>> {
        let connection = self.parked.take(slot)?;
        shift(&self.thread.counts.parked, -1);
        Some(connection)
    }

    fn unpark(&self, connection: ParkedConnection<Open>) -> Option<Connection> {
        let ParkedConnection {
            transport,
            deadline,
            owner,
        } = connection;
        match transport.attach() {
            Ok(transport) => Some(Connection {
                transport,
                deadline,
                open: owner,
            }),
            Err(error) => {
                let what = "cannot serve an idle connection again";
                self.thread.is_short_of(what, &error);
                None
            }
        }
    }

    /// Serves parked connections that have something to read, and ends those whose time is
    /// over.
    pub(crate) async fn watch_parked(self: Rc<Self>) {
        loop {
            tokio::select! {
                heard = self.parked.heard() => match heard {
                    Ok(heard) => self.wake_parked(heard),
                    Err(error) => {
                        tracing::debug!(%error, "idle connections cannot be watched");
                        tokio::time::sleep(RETRY_PAUSE).await;
                    }
                },
                passed = self.thread.clock.passed() => {
                    self.end_parked(passed);
                }
            }
        }
    }

    fn wake_parked(self: &Rc<Self>, heard: Vec<usize>) {
        for slot in heard {
            let connection = self.take(slot).and_then(|it| self.unpark(it));
            if let Some(connection) = connection {
                self.wake(connection);
            }
        }
    }

    /// Ends parked connections. A client that has sent something in the meantime is still
    /// served.
    fn end_parked(self: &Rc<Self>, passed: Vec<Slot>) {
        for slot in passed {
            let Some(connection) = self.take(slot.index()) else {
                continue;
            };
            if connection.transport.has_bytes()
                && let Some(connection) = self.unpark(connection)
            {
                self.wake(connection);
            }
        }
    }

    /// Ends all parked connections.
    pub(crate) fn end_all_parked(&self) {
        // The list is not borrowed while the connections are dropped.
        let parked = self.parked.take_all();
        shift(&self.thread.counts.parked, -(parked.len() as i64));
        drop(parked);
    }

    /// Gives back, from time to time, the memory that connections needed before they were
    /// parked.
    pub(crate) fn give_back_memory(&self, now: Duration) {
        self.parked.give_back(now);
    }
}

/// Counts and logs a connection of a proxy in front that does not begin with its header.
fn refuse_header(thread: &Thread, peer: IpAddr, why: &Unannounced) {
    match why {
        // Load balancers check ports in this way, every few seconds.
        Unannounced::Left => return,
        Unannounced::Late => count(&thread.counts.headers_late),
        Unannounced::Faulty(_) => count(&thread.counts.headers_refused),
    }
    thread.complaints.header_is_refused(peer, why);
}

/// Waits for the next byte of a connection. This future is written by hand, because the
/// compiler's futures store their arguments twice.
struct Rest(Option<Connection>);

impl Future for Rest {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let Some(connection) = &self.0 else {
            return Poll::Ready(());
        };
        let is_over = connection.deadline.poll(context).is_ready();
        // Checked at each poll, because it returns `true` only once.
        let is_squeezed = connection.deadline.is_squeezed();
        let mut is_awake = connection.transport.poll_read_ready(context).is_ready();
        if !is_awake && !is_over {
            if !is_squeezed {
                return Poll::Pending;
            }
            if let Some(connection) = self.0.take() {
                Rc::clone(&connection.open.connections).park(connection);
            }
            return Poll::Ready(());
        }
        // A client that has sent something since its connection was to end is still served.
        is_awake = is_awake && (!is_over || connection.transport.has_bytes());
        if let Some(connection) = self.0.take()
            && is_awake
        {
            Rc::clone(&connection.open.connections).wake(connection);
        }
        Poll::Ready(())
    }
}

/// Lets a connection rest in a task of its own.
fn rest_in_task(connection: Connection) {
    tokio::task::spawn_local(Rest(Some(connection)));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::attempt::Attempt;

    fn size<F: Future, A, B>(_: impl Fn(A, B) -> F) -> usize {
        size_of::<F>()
    }

    /// What a connection costs in each state; the figures of `cargo xtask bench memory`
    /// also contain the allocator's overhead.
    #[test]
    fn a_connection_takes_little_memory() {
        let sizes = [
            // Tokio's task adds fields of its own, and its size is a multiple of 128.
            ("at rest", size_of::<Rest>(), 96),
            ("parked", size_of::<Option<ParkedConnection<Open>>>(), 64),
            ("served", size(Connections::serve), 2816),
            ("its client", size_of::<Client>(), 288),
            ("an attempt", size_of::<Attempt<'_, '_>>(), 560),
        ];
        for (name, size, most) in sizes {
            println!("{name}: {size} bytes");
            assert!(size <= most, "{name}: {size} bytes, more than {most}");
        }
    }
}
