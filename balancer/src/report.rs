//! What the admin port shows about the balancer: `/livez /readyz /metrics /status /load`.
//!
//! All values are looked up at each request, and a request changes nothing.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;
use scaledapp_proxy::{Proxy, Table};
use scaledapp_runtime::{Load, Probe, Routes};
use scaledapp_wire::{BalancerLoad, BalancerStatus, EndpointStatus};
use serde_json::Value;
use tokio::sync::watch;

use crate::discovery::Listing;
use crate::peers::health::shown;

/// The state as the admin port sees it.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) listen: SocketAddr,
    pub(crate) proxy: Arc<Proxy>,
    pub(crate) table: watch::Receiver<Arc<Table>>,
    pub(crate) listing: watch::Receiver<Listing>,
    pub(crate) registry: Registry,
    pub(crate) draining: AtomicBool,
    /// Identifies the process in `/load`.
    pub(crate) run: String,
}

impl Report {
    /// Makes `/readyz` fail from now on.
    pub(crate) fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }
}

impl Routes for Report {
    fn live(&self) -> Probe {
        // An answer shows that the main loop's thread is alive.
        Ok(())
    }

    /// The balancer is ready even if no endpoint serves: it must accept requests, which
    /// wait until an endpoint serves.
    fn ready(&self) -> Probe {
        if self.is_draining() {
            return Err("draining".to_owned());
        }
        self.listing.borrow().missing().map_or(Ok(()), Err)
    }

    fn metrics(&self) -> String {
        let mut text = String::new();
        // Writing into a String fails only if a metric fails to encode itself.
        if encode(&mut text, &self.registry).is_err() {
            tracing::error!("a metric could not be encoded");
        }
        text
    }

    fn status(&self) -> Value {
        let table = Arc::clone(&self.table.borrow());
        let endpoints = table.endpoints.iter().map(|endpoint| EndpointStatus {
            address: Some(endpoint.address()),
            ejected: endpoint.is_ejected(),
            in_flight: endpoint.in_flight(),
            name: endpoint.name().to_owned(),
            standing: shown(endpoint.standing()),
        });
        let status = BalancerStatus {
            connections: self.proxy.connections(),
            draining: self.is_draining(),
            endpoints: endpoints.collect(),
            in_flight: self.proxy.in_flight(),
            listen: Some(self.listen),
            problems: self.listing.borrow().problems(),
            queued: self.proxy.queued(),
            ready: self.ready().is_ok(),
        };
        // Its fields are numbers and strings, which can always be serialized.
        serde_json::to_value(status).unwrap_or_default()
    }

    fn load(&self) -> Option<Load> {
        let (proxy, run) = (Arc::clone(&self.proxy), self.run.clone());
        Some(Load {
            line: Arc::new(move || {
                let load = proxy.load();
                let line = BalancerLoad {
                    arrivals: load.arrivals,
                    connected: load.connected,
                    in_flight: load.in_flight,
                    queued: load.queued,
                    run: run.clone(),
                };
                // Numbers and a text can always be serialized.
                serde_json::to_vec(&line).unwrap_or_default().into()
            }),
            news: Some(self.proxy.demand()),
        })
    }
}
