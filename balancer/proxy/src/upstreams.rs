//! Which endpoint a request goes to, from what this thread sees of all of them.
//!
//! The rule itself is `select`'s, and how long a request waits is `exchange`'s business.

use std::net::IpAddr;
use std::sync::Arc;

use super::Thread;
use crate::endpoint::{Endpoint, InFlight, Standing};
use crate::select::{Seen, select};

impl Thread {
    /// An endpoint for a request of `client` that was not at those `tried`.
    pub(crate) fn choose(&self, client: IpAddr, tried: &[u64]) -> Option<InFlight<'_>> {
        let table = self.table.borrow();
        let endpoints = &table.endpoints;
        let (now, limit) = (self.clock.now(), self.line.limit());
        let see = |at: usize| {
            let endpoint: &Endpoint = &endpoints[at];
            Seen {
                key: endpoint.key(),
                standing: endpoint.standing(),
                ejected: endpoint.outlier.is_ejected(now),
                tried: endpoint.is_closed() || tried.contains(&endpoint.id()),
                full: limit.is_some_and(|limit| endpoint.in_flight() >= limit.get()),
                load: endpoint.load(),
                heard: endpoint.heard(),
            }
        };
        let (mut cursor, mut random) = (self.cursor.borrow_mut(), self.random.borrow_mut());
        // Closed or filled in between: rare, and seen the next time.
        loop {
            let algorithm = self.config.algorithm;
            let at = select(
                algorithm,
                endpoints.len(),
                see,
                client,
                &mut cursor,
                &mut random,
            )?;
            if let Some(entered) = endpoints[at].enter(&self.line, now) {
                return Some(entered);
            }
        }
    }

    /// Endpoints that serve, as far as is known.
    pub(crate) fn ready(&self) -> usize {
        let table = self.table.borrow();
        let now = self.clock.now();
        let serves = |endpoint: &&Arc<Endpoint>| {
            endpoint.standing() == Standing::Serving
                && !endpoint.is_closed()
                && endpoint.ended_by().is_none()
                && !endpoint.outlier.is_ejected(now)
        };
        table.endpoints.iter().filter(serves).count()
    }

    /// Endpoints at which a request that may be what ends workers should not be: those
    /// `tried`, and where another one of its kind is.
    pub(crate) fn apart(&self, tried: &[u64]) -> Vec<u64> {
        let table = self.table.borrow();
        let endpoints = table.endpoints.iter();
        let suspicious = endpoints.filter(|endpoint| endpoint.has_suspects());
        let suspicious = suspicious.map(|endpoint| endpoint.id());
        tried.iter().copied().chain(suspicious).collect()
    }

    /// Whether more than half of the endpoints would be left alone with one more.
    pub(crate) fn ejects_too_many(&self) -> bool {
        let table = self.table.borrow();
        let now = self.clock.now();
        let ejected = table
            .endpoints
            .iter()
            .filter(|endpoint| endpoint.outlier.is_ejected(now));
        (ejected.count() + 1) * 2 > table.endpoints.len()
    }
}
