//! The public side of the workers: the in-pod dispatcher in Request dispatch,
//! nothing but a count in Connection dispatch.
//!
//! Which worker gets a request is decided in `scaledapp-proxy`; which workers
//! may get any, by the engine.

use std::collections::BTreeMap;
use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use scaledapp_engine::{Slot, WorkerId};
use scaledapp_proxy::{Endpoint, Proxy, Table};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::sync::watch;

type Waiting = Pin<Box<dyn Future<Output = ()>>>;

/// See the file's head.
pub(crate) enum Front {
    /// Requests go through the dispatcher.
    Request(Dispatcher),
    /// Workers accept for themselves.
    Connection,
}

/// The dispatcher and the workers that it feeds.
pub(crate) struct Dispatcher {
    pub(crate) proxy: Arc<Proxy>,
    pub(crate) table: watch::Sender<Arc<Table>>,
    pub(crate) quiet: Duration,
    pub(crate) deadline: Duration,
    /// Every worker that was fed and is not reaped, drained ones too.
    pub(crate) endpoints: BTreeMap<WorkerId, Fed>,
}

/// A worker that was fed once.
pub(crate) struct Fed {
    endpoint: Arc<Endpoint>,
    open: bool,
}

impl Front {
    /// Sends requests to a worker from now on; told again it changes nothing,
    /// also after [`Self::stop_feeding`].
    pub(crate) fn feed(&mut self, worker: WorkerId, slot: Slot, address: SocketAddr) {
        if let Self::Request(dispatcher) = self
            && !dispatcher.endpoints.contains_key(&worker)
        {
            let endpoint = Endpoint::new(slot.to_string(), address);
            let fed = Fed {
                endpoint,
                open: true,
            };
            dispatcher.endpoints.insert(worker, fed);
            dispatcher.publish();
        }
    }

    /// Sends no new request to a worker; resolves when none is in flight.
    /// `None` in Connection dispatch, where the kernel has to be asked.
    pub(crate) fn stop_feeding(&mut self, worker: WorkerId) -> Option<Waiting> {
        let Self::Request(dispatcher) = self else {
            return None;
        };
        let Some(fed) = dispatcher.endpoints.get_mut(&worker) else {
            return Some(Box::pin(std::future::ready(())));
        };
        fed.open = false;
        fed.endpoint.close();
        let endpoint = Arc::clone(&fed.endpoint);
        dispatcher.publish();
        Some(Box::pin(async move { endpoint.idle().await }))
    }

    /// Gives up what is still in flight at a worker that is about to be signalled.
    pub(crate) fn cut(&mut self, worker: WorkerId) {
        if let Self::Request(dispatcher) = self
            && let Some(fed) = dispatcher.endpoints.get(&worker)
        {
            fed.endpoint.retire();
        }
    }

    /// Forgets a worker that is reaped.
    pub(crate) fn remove(&mut self, worker: WorkerId) {
        if let Self::Request(dispatcher) = self
            && let Some(fed) = dispatcher.endpoints.remove(&worker)
        {
            fed.endpoint.close();
            fed.endpoint.retire();
            dispatcher.publish();
        }
    }

    /// Ends keep-alive connections and the listener; resolves when nothing is
    /// in flight. At once in Connection dispatch: there the workers' own
    /// connections are watched.
    pub(crate) fn drain(&self) -> Waiting {
        match self {
            Self::Request(dispatcher) => {
                let proxy = Arc::clone(&dispatcher.proxy);
                proxy.drain(dispatcher.quiet, Duration::ZERO, dispatcher.deadline);
                Box::pin(async move { proxy.drained().await })
            }
            Self::Connection => Box::pin(std::future::ready(())),
        }
    }

    /// The worker's endpoint, for its count of requests in flight.
    pub(crate) fn endpoint(&self, worker: WorkerId) -> Option<Arc<Endpoint>> {
        match self {
            Self::Request(dispatcher) => {
                let fed = dispatcher.endpoints.get(&worker);
                fed.map(|fed| Arc::clone(&fed.endpoint))
            }
            Self::Connection => None,
        }
    }
}

impl Dispatcher {
    fn publish(&self) {
        let open = self.endpoints.values().filter(|fed| fed.open);
        let endpoints = open.map(|fed| Arc::clone(&fed.endpoint)).collect();
        self.table.send_replace(Arc::new(Table { endpoints }));
    }
}

/// The public listener: `host`, or all addresses of both families where the
/// machine has IPv6, else of IPv4.
///
/// # Errors
/// The port is taken or the address is not this machine's.
pub(crate) fn listen(host: Option<IpAddr>, port: u16) -> anyhow::Result<TcpListener> {
    let bound = match host {
        Some(ip) => bind(SocketAddr::new(ip, port)),
        None => bind(SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port)).or_else(|error| {
            // Taken is taken; anything else may be a machine without IPv6.
            if error.kind() == std::io::ErrorKind::AddrInUse {
                return Err(error);
            }
            bind(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port))
        }),
    };
    bound.with_context(|| taken(host, port))
}

/// The message for a port that cannot be had.
pub(crate) fn taken(host: Option<IpAddr>, port: u16) -> String {
    let host = host.map_or_else(|| "all addresses".to_owned(), |ip| ip.to_string());
    format!(
        "cannot listen on port {port} of {host}: stop what uses it, or choose another with --port or --host"
    )
}

fn bind(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(4096)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}
