//! A client's connection whose bytes are relayed as they are: TLS, the endpoint, both directions,
//! and how the connection ends.
//!
//! How long a connection waits for an endpoint is decided in `search`; how bytes move, in
//! `relay`.

mod relay;
mod search;

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use scaledapp_http1 as http1;

use self::relay::End;
use crate::clock::{self, Deadline};
use crate::endpoint::Endpoint;
use crate::http::client::Client;
use crate::http::handshake;
use crate::metrics::{Counted, Failure, count};
use crate::thread::Thread;
use crate::transport::Transport;

/// How long a client may take for the last bytes of a server that has broken off.
const SETTLE_TIME: Duration = Duration::from_secs(1);
/// How often it is checked whether the client has them.
const SETTLE_INTERVAL: Duration = Duration::from_millis(10);

/// The addresses of a client's connection: the client's, and the one that it has connected to.
pub(crate) type Addresses = (SocketAddr, SocketAddr);

/// Serves a connection until it ends. `announced` are its addresses if a proxy in front has told
/// them.
pub(crate) async fn serve(
    thread: &Thread,
    transport: Transport,
    peer: IpAddr,
    announced: Option<Addresses>,
    deadline: Deadline,
) {
    let Some((mut client, deadline)) = secure(thread, transport, peer, deadline).await else {
        return;
    };
    // Whatever ends this process or this task, neither side must believe that it has received
    // everything.
    client.set_resets(true);
    count(&thread.counts.arrivals);
    let reached = search::reach(thread, &client, peer, &deadline).await;
    let (entered, mut upstream) = match reached {
        Ok(reached) => reached,
        Err(reason) => {
            refuse(thread, reason);
            return;
        }
    };
    upstream.set_resets(true);
    // Nothing is owed on it, as on an upgraded connection.
    entered.upgrade();
    let endpoint = entered.endpoint();
    if thread.config.sends_proxy_header {
        announce(&client, &upstream, announced);
    }
    count(&thread.counts.relayed);
    let _counted = (
        Counted::new(&thread.counts.in_flight),
        Counted::new(&thread.counts.relays),
    );
    let begun = clock::now();
    let (end, moved) = relay::run(thread, &mut client, &mut upstream, &deadline, endpoint).await;
    tracing::debug!(
        client = %peer,
        endpoint = endpoint.name(),
        received = moved.from_client,
        sent = moved.to_client,
        time = ?clock::now().saturating_sub(begun),
        ?end,
        "a connection has ended"
    );
    if end == End::EndpointBroke {
        settle(&client).await;
    }
    over(thread, end, endpoint, &client, &upstream);
}

/// Waits, for a moment, until the client has everything that was written to it: a server that
/// closes its connection with unread bytes resets it after its last answer.
async fn settle(client: &Transport) {
    let end = clock::now().saturating_add(SETTLE_TIME);
    while client.owes_bytes() && !client.heard().is_broken && clock::now() < end {
        tokio::time::sleep(SETTLE_INTERVAL).await;
    }
}

/// Carries out the TLS handshake, if the connection needs one; `None` if it failed.
async fn secure(
    thread: &Thread,
    transport: Transport,
    peer: IpAddr,
    deadline: Deadline,
) -> Option<(Transport, Deadline)> {
    if !transport.is_secured() {
        return Some((transport, deadline));
    }
    // The handshake is the same as that of an HTTP client. Its future is large, and short-lived.
    let mut client = Box::new(Client::new(thread, transport, peer, deadline));
    let settled = Box::pin(handshake::settle(thread, &mut client)).await;
    let Client {
        transport,
        deadline,
        ..
    } = *client;
    settled.is_ok().then_some((transport, deadline))
}

/// There is no endpoint: the connection is reset.
fn refuse(thread: &Thread, reason: search::NoEndpoint) {
    let (failure, what) = match reason {
        search::NoEndpoint::InTime if thread.upstreams.ready() > 0 => (
            Failure::QueueTimeout,
            "no endpoint could be reached in time",
        ),
        search::NoEndpoint::InTime => (Failure::NoEndpoint, "no endpoint serves"),
        search::NoEndpoint::QueueFull => (
            Failure::QueueFull,
            "no endpoint could be reached, and no more connections may wait",
        ),
        search::NoEndpoint::Reset => {
            thread.counts.failed(Failure::CutOff);
            return;
        }
        search::NoEndpoint::ClientGone => {
            thread.counts.failed(Failure::ClientGone);
            return;
        }
    };
    thread.counts.failed(failure);
    thread.complaints.connection_is_not_served(what);
}

/// Tells the endpoint who its client is, before all other bytes. A new connection has room for
/// the header.
fn announce(client: &Transport, upstream: &Transport, announced: Option<Addresses>) {
    let own = || Some((client.peer_address().ok()?, client.local_address().ok()?));
    // A client without addresses has gone, and the first read shows it.
    if let Some((source, destination)) = announced.or_else(own) {
        let mut header = Vec::with_capacity(52);
        http1::write_proxy_header(&mut header, source, destination);
        upstream.send_now(&header);
    }
}

/// Both connections end as the relay has ended: in order, or with a reset.
fn over(thread: &Thread, end: End, endpoint: &Endpoint, client: &Transport, upstream: &Transport) {
    let failure = match end {
        End::Finished => {
            client.set_resets(false);
            upstream.set_resets(false);
            return;
        }
        End::ClientBroke => Failure::ClientGone,
        End::EndpointBroke => {
            endpoint.count_broken();
            Failure::CutOff
        }
        End::Silent => Failure::ClientTimeout,
        End::Cut(why) => why.into(),
    };
    thread.counts.failed(failure);
}
