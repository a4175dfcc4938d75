//! Opens the part in front of the workers. Under Request dispatch that is a listener and a
//! dispatcher for each shared port; under Connection dispatch the workers accept for
//! themselves; without a port there is nothing to open. `dispatch` and `connection` take
//! over from there.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::rc::Rc;
use std::sync::Arc;

use anyhow::{Context, anyhow};
use prometheus_client::registry::Registry;
use scaledapp_proxy::{self as proxy, Proxy, Table, UpstreamProtocol};
use tokio::sync::watch;

use crate::cli::{DispatchArg, ProtocolArg};
use crate::connection::drain::Drains;
use crate::cores::Cores;
use crate::dispatch::{Accepting, Dispatcher, Front};
use crate::handover::sharing::Sharing;
use crate::settings::Settings;

/// Opens the public listeners (Request dispatch only), each with its port, and prepares the
/// workers' sockets.
///
/// # Errors
/// A port is taken, or the address does not belong to this machine.
pub(crate) fn listen(settings: &Settings) -> anyhow::Result<(Vec<(u16, TcpListener)>, Sharing)> {
    let (host, ports) = (settings.host, settings.ports());
    match settings.dispatch {
        DispatchArg::Request => {
            let listeners = ports
                .into_iter()
                .map(|port| Ok((port, listen_at(host, port)?)));
            let listeners = listeners.collect::<anyhow::Result<_>>()?;
            Ok((listeners, Sharing::request()))
        }
        DispatchArg::Connection => {
            let sharing = Sharing::connection(host, ports)
                .map_err(|(port, error)| taken(host, port, &error))?;
            Ok((Vec::new(), sharing))
        }
    }
}

/// Starts the part in front of the workers, which has no worker yet.
///
/// # Errors
/// A thread cannot be started.
pub(crate) fn open(
    settings: &Settings,
    cores: Cores,
    public: Vec<(u16, TcpListener)>,
    sharing: &Rc<RefCell<Sharing>>,
    registry: &mut Registry,
) -> anyhow::Result<Front> {
    if settings.dispatch == DispatchArg::Connection {
        return Ok(Front::Connection(Accepting {
            drains: Drains::new(settings.ports(), Rc::clone(sharing)),
            quiet: settings.drain_quiet,
            deadline: settings.drain_timeout,
        }));
    }
    let callers = settings.believed.callers();
    let is_h2c = settings.protocol == ProtocolArg::H2c;
    let dispatchers = public.into_iter().map(|(port, listener)| {
        let is_main = Some(port) == settings.port;
        // A metric's name may not be registered twice.
        let prefix = if is_main {
            "scaledapp_dispatch".to_owned()
        } else {
            format!("scaledapp_dispatch_{port}")
        };
        let metrics = proxy::Metrics::register(registry, &prefix);
        let counters = proxy::NamedCounters::register(registry, &prefix);
        let threads = settings.dispatch_threads.map_or_else(
            // The dispatcher takes about 20 µs per request, an app ten times as long.
            || (cores.usable() / 4.0).ceil().max(1.0) as usize,
            usize::from,
        );
        let config = proxy::Config {
            threads: if is_main { threads } else { 1 },
            trust: settings.believed.trust,
            limits: proxy::Limits {
                in_flight: settings.max_in_flight,
                waiting: settings.queue_length,
                waiting_time: settings.queue_timeout,
                ..settings.times.of(proxy::Config::dispatcher().limits)
            },
            fits_connections: settings.times.fits_connections(),
            // Further ports, such as one for metrics, speak HTTP/1.1.
            http2: is_main && is_h2c,
            upstream: if is_main && is_h2c {
                UpstreamProtocol::Http2
            } else {
                UpstreamProtocol::Http1
            },
            sticky: settings.sticky.map(|kind| kind.0),
            ..proxy::Config::dispatcher()
        };
        let (table, seen) = watch::channel(Arc::new(Table {
            endpoints: Vec::new(),
        }));
        let proxy = Proxy::start(
            config,
            vec![listener.into()],
            seen,
            metrics,
            callers.clone(),
            proxy::Site::default(),
        )
        .context("cannot start the dispatcher's threads")?;
        Ok(Dispatcher {
            port,
            proxy: Arc::new(proxy),
            table,
            counters,
            quiet: settings.drain_quiet,
            deadline: settings.drain_timeout,
            grace: settings.stop_grace,
            endpoints: BTreeMap::new(),
        })
    });
    Ok(Front::Request(dispatchers.collect::<anyhow::Result<_>>()?))
}

/// Opens the public listener: at `host`, or at all addresses of both families if the
/// machine has IPv6, otherwise at those of IPv4.
///
/// # Errors
/// The port is taken, or the address does not belong to this machine.
fn listen_at(host: Option<IpAddr>, port: u16) -> anyhow::Result<TcpListener> {
    let bound = match host {
        Some(ip) => proxy::listen(SocketAddr::new(ip, port)),
        None => {
            proxy::listen(SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port)).or_else(|error| {
                // Only a port in use is final; any other error may mean a machine without
                // IPv6.
                if error.kind() == std::io::ErrorKind::AddrInUse {
                    return Err(error);
                }
                proxy::listen(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port))
            })
        }
    };
    bound.map_err(|error| taken(host, port, &error))
}

/// The error for a port that cannot be opened, with its cure.
fn taken(host: Option<IpAddr>, port: u16, error: &std::io::Error) -> anyhow::Error {
    use std::io::ErrorKind::{AddrInUse, AddrNotAvailable, PermissionDenied};
    let host = host.map_or_else(|| "all addresses".to_owned(), |ip| ip.to_string());
    let cure = match error.kind() {
        AddrInUse => {
            "another process listens there: stop it, or choose another port or address with --port or --host"
        }
        AddrNotAvailable => "this machine has no such address: give one that it has with --host",
        PermissionDenied => {
            "ports below 1024 need CAP_NET_BIND_SERVICE: choose a higher one with --port"
        }
        _ => "choose another port or address with --port or --host",
    };
    anyhow!("cannot listen on port {port} of {host}: {error}; {cure}")
}
