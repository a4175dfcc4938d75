//! What a forwarding thread logs about its peers and its own limits, and how often: each
//! kind of complaint at most once in ten seconds, and a client's wrong protocol only once.
//!
//! What is answered to a peer is decided where the fault is found.

use std::cell::RefCell;
use std::io;
use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;

use crate::announced::Unannounced;
use crate::clock::Clock;
use crate::config::{Config, Role};
use crate::endpoint::Endpoint;
use crate::memory::Pressure;

/// A complaint of one kind is repeated after this time at the earliest.
const REPEAT_INTERVAL: Duration = Duration::from_secs(10);

/// The complaints of one thread.
#[derive(Debug)]
pub(crate) struct Complaints {
    clock: Rc<Clock>,
    config: Config,
    /// The kinds of complaints made so far, and when each was last made. There are only a
    /// few kinds.
    made: RefCell<Vec<(&'static str, Duration)>>,
}

impl Complaints {
    pub(crate) fn new(clock: Rc<Clock>, config: Config) -> Self {
        Self {
            clock,
            config,
            made: RefCell::default(),
        }
    }

    /// Whether it is time for a complaint of this kind.
    fn is_due(&self, kind: &'static str) -> bool {
        let now = self.clock.now();
        let mut made = self.made.borrow_mut();
        match made.iter_mut().find(|(made, _)| *made == kind) {
            Some((_, at)) if now.saturating_sub(*at) < REPEAT_INTERVAL => return false,
            Some((_, at)) => *at = now,
            None => made.push((kind, now)),
        }
        true
    }

    /// Whether this is the first complaint of this kind.
    fn is_first(&self, kind: &'static str) -> bool {
        let mut made = self.made.borrow_mut();
        let is_first = made.iter().all(|(made, _)| *made != kind);
        if is_first {
            made.push((kind, self.clock.now()));
        }
        is_first
    }

    /// This machine has too few descriptors or ports to do `what`.
    pub(crate) fn short_of(&self, what: &str, error: &io::Error) {
        if !self.is_due("short-of-descriptors") {
            return;
        }
        let cure = if error.kind() == io::ErrorKind::AddrNotAvailable {
            "widen net.ipv4.ip_local_port_range"
        } else {
            "raise the limit of open files (`ulimit -Hn`, LimitNOFILE=)"
        };
        tracing::warn!(%error, "{what}: {cure}");
    }

    /// Accepting pauses because the limit is reached and no connection can end for a new
    /// one.
    pub(crate) fn connections_are_full(&self) {
        if self.is_due("connections-full") {
            tracing::warn!(
                connections = self.config.limits.connections,
                "the limit of connections is reached, none is idle, and none has waited for its \
                 client for two seconds: new connections wait. Raise --connections, or find out \
                 why requests take so long"
            );
        }
    }

    /// A connection whose client did not send or read has ended to make room for a new one.
    pub(crate) fn stalled_connection_ended(&self) {
        if self.is_due("stalled-connection-ended") {
            tracing::warn!(
                connections = self.config.limits.connections,
                "the limit of connections is reached, and none is idle: the connection whose \
                 client has sent or read nothing for longest ends for each new one. If these \
                 are ordinary slow clients, raise --connections; otherwise limit \
                 --connections-per-address"
            );
        }
    }

    /// A connection is refused because its address has as many as it may.
    pub(crate) fn address_is_full(&self, peer: IpAddr) {
        if self.is_due("address-full") {
            tracing::warn!(
                %peer,
                limit = self.config.limits.connections_per_address,
                "an address has reached its limit of connections: raise \
                 --connections-per-address if many clients share it"
            );
        }
    }

    /// A request is refused because its address has sent too many.
    pub(crate) fn address_is_too_fast(&self, address: IpAddr) {
        if self.is_due("address-too-fast") {
            tracing::warn!(
                %address,
                rate = self.config.limits.request_rate.map(|rate| rate.per_second),
                "an address sends too many requests: raise \
                 --requests-per-second-per-address if many clients share it"
            );
        }
    }

    /// Requests or connections are given up because memory is short.
    pub(crate) fn memory_is_short(&self, pressure: Pressure) {
        if self.is_due("memory-short") {
            tracing::warn!(
                ?pressure,
                "memory for connections is short: requests are not kept to be sent again; if that \
                 is not enough, idle connections end, then those that hold the most. Give more \
                 memory, or allow fewer --connections"
            );
        }
    }

    /// An answer is malformed. The client gets a 502 or only a part of the answer, so the
    /// log must help to find the cause. `line` is the beginning of the faulty field.
    pub(crate) fn answer_is_malformed(
        &self,
        endpoint: &Endpoint,
        reason: &'static str,
        rule: &'static str,
        line: &[u8],
    ) {
        if !self.is_due("answer-malformed") {
            return;
        }
        let endpoint = endpoint.name();
        if reason == "status-line" {
            let cure = match self.config.role {
                Role::Dispatcher => {
                    "; an app that serves HTTP/2 without TLS needs --protocol h2c (appProtocol: h2c), one that serves TLS or another protocol --dispatch connection"
                }
                Role::Balancer => "",
            };
            tracing::warn!(
                endpoint,
                reason,
                "an answer is not HTTP/1.x, so the client gets 502{cure}"
            );
            return;
        }
        let cure = cure_for_limit(reason);
        let field = line.escape_ascii();
        tracing::warn!(
            endpoint,
            reason,
            %field,
            "an answer is malformed and not passed on: {rule}{cure}"
        );
    }

    /// A client's connection has ended because of what it sent, before its request was known.
    pub(crate) fn http2_is_malformed(&self, peer: IpAddr, error: &str) {
        if self.is_due("http2-malformed") {
            tracing::info!(
                %peer,
                error,
                "a client has sent something that is not HTTP/2, and its connection has ended"
            );
        }
    }

    /// A client's request is refused. This is a warning only if a flag can help. Any client
    /// can cause other refusals, so they are no reason to warn.
    pub(crate) fn request_is_refused(&self, status: u16, reason: &'static str, rule: &str) {
        if !self.is_due(reason) {
            return;
        }
        let cure = cure_for_limit(reason);
        if cure.is_empty() {
            tracing::info!(status, reason, "a request is refused: {rule}");
        } else {
            tracing::warn!(status, reason, "a request is refused: {rule}{cure}");
        }
    }

    /// A client gets a 5xx answer of the proxy itself.
    pub(crate) fn request_failed(
        &self,
        status: u16,
        reason: &'static str,
        endpoint: Option<&Endpoint>,
    ) {
        if !self.is_due(reason) {
            return;
        }
        let endpoint = endpoint.map(Endpoint::name);
        let what = match reason {
            "no-endpoint" => "no endpoint serves",
            "queue-timeout" => "all endpoints are busy, and the request has waited for too long",
            "queue-full" => "all endpoints are busy, and no more requests may wait",
            "path-ends-workers" => "requests for its path keep ending workers",
            "upstream-timeout" => "the endpoint took too long",
            "out-of-memory" => "memory is short",
            _ => "the endpoint broke off, and the request may not be repeated",
        };
        tracing::warn!(status, reason, endpoint, "a request is not served: {what}");
    }

    /// A connection that is to be relayed finds no endpoint.
    pub(crate) fn connection_is_not_served(&self, what: &str) {
        if self.is_due("connection-not-served") {
            tracing::warn!("a connection is not served: {what}");
        }
    }

    /// The connection of a proxy in front does not begin with a header of the PROXY protocol.
    pub(crate) fn header_is_refused(&self, peer: IpAddr, why: &Unannounced) {
        if self.is_due("proxy-header") {
            tracing::warn!(
                %peer,
                "a connection is closed: {why}. Let the proxy in front send the header \
                 (HAProxy: send-proxy-v2; nginx: proxy_protocol on), or leave its address out of \
                 --proxy-protocol-from"
            );
        }
    }

    /// A client speaks HTTP/2; logged once.
    pub(crate) fn client_spoke_http2(&self) {
        if !self.is_first("client-spoke-http2") {
            return;
        }
        let cure = match self.config.role {
            Role::Dispatcher => "if the app serves HTTP/2 or gRPC itself, give --protocol h2c",
            Role::Balancer => "or leave --h2 out",
        };
        tracing::warn!(
            "a client speaks HTTP/2 (or gRPC), which is off here: let it use HTTP/1.1; {cure}"
        );
    }

    /// A TLS handshake has failed. Any client can cause this, so it is no warning.
    pub(crate) fn handshake_failed(&self, peer: IpAddr, why: &str) {
        if self.is_due("tls-handshake") {
            tracing::info!(%peer, "a TLS handshake has failed: {why}");
        }
    }

    /// A client speaks TLS; logged once.
    pub(crate) fn client_spoke_tls(&self) {
        if !self.is_first("client-spoke-tls") {
            return;
        }
        let cure = match self.config.role {
            Role::Dispatcher => {
                "terminate TLS in front of it; if the app serves TLS itself, give --dispatch connection"
            }
            Role::Balancer => {
                "give --tls CERT:KEY (and --tls-listen ADDR), or let the client use http://"
            }
        };
        tracing::warn!("a client speaks TLS on a port without TLS: {cure}");
    }
}

/// The flag to raise, if `reason` is a limit.
fn cure_for_limit(reason: &str) -> &'static str {
    match reason {
        "head-too-long" | "target-too-long" => "; raise --head-bytes if it is needed",
        "too-many-fields" => "; raise --head-fields if they are needed",
        _ => "",
    }
}
