//! What a source of figures tells the model: which apps there are, and what their processes
//! answered.
//!
//! This file holds data only. `admin_source` makes observations from the admin ports of this machine;
//! another source may make them from a cluster.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;

use scaledapp_wire::{BalancerStatus, Snapshot, Status};
use tokio::sync::{mpsc, watch};

/// An app, as far as it is known without asking its processes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct App {
    /// The app's name, with its namespace before a slash if there are several.
    pub name: String,
    /// The app's host name in DNS; `None` if it has none.
    pub hostname: Option<String>,
    /// The DNS server that clients ask, as text.
    pub dns: Option<String>,
    /// The addresses for clients, in the order of their numbers.
    pub slots: Vec<Slot>,
    /// The pods, in the order in which they are shown.
    pub pods: Vec<Pod>,
}

/// One address for clients.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slot {
    /// The slot's number.
    pub number: u32,
    /// The address.
    pub address: SocketAddr,
    /// The name of the balancer that answers there now.
    pub balancer: String,
}

/// One pod.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Pod {
    /// The pod's name.
    pub name: String,
    /// Where the pod serves, as text.
    pub address: String,
    /// The node on which the pod runs, if that is known.
    pub node: Option<String>,
}

/// One thing that a source has learned.
#[derive(Debug, Clone, PartialEq)]
pub enum Observation {
    /// All apps that there are. Apps that are not among them have ended.
    Apps(Vec<App>),
    /// The list of apps cannot be read, with the reason.
    NoApps(String),
    /// Something about an app.
    Of {
        /// The app's name.
        app: String,
        /// What it is.
        fact: Fact,
    },
}

/// Something about an app.
#[derive(Debug, Clone, PartialEq)]
pub enum Fact {
    /// A line of `/watch` of a pod.
    Watched(String, Snapshot),
    /// `/status` of a pod, and its counters if they were read.
    Pod(String, Box<Status>, Option<Counters>),
    /// A pod does not answer, with the reason.
    PodLost(String, String),
    /// `/status` of a balancer, its counters, and the status of the supervisor that keeps its
    /// listening socket, if there is one.
    Balancer(
        String,
        Box<BalancerStatus>,
        Option<Counters>,
        Option<Box<Status>>,
    ),
    /// A balancer does not answer, with the reason.
    BalancerLost(String, String),
    /// The addresses that DNS answers for the app's host name.
    Dns(BTreeSet<IpAddr>),
    /// DNS does not answer, with the reason.
    DnsLost(String),
}

/// Counters of a proxy since its start, from `/metrics` of a balancer or of a dispatcher.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Counters {
    /// Answers.
    pub requests: u64,
    /// Answers with a status of 500 or more.
    pub errors: u64,
    /// The histogram of the duration of requests: upper bounds in seconds, the last one infinite,
    /// with the number of requests up to that bound.
    pub buckets: Vec<(f64, u64)>,
    /// Answers of each slot of a supervisor.
    pub workers: BTreeMap<u32, u64>,
}

/// The tasks of a source, as one future.
pub type Running = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Where figures come from.
pub trait Source: Send + 'static {
    /// What is shown as the origin of the figures, such as `this machine`.
    fn title(&self) -> String;

    /// Looks, and sends what it finds, until the future is dropped. Figures must arrive about once
    /// a second for the apps in `open`, which somebody looks at in full; for others, a state must arrive
    /// soon after it has changed, and the rest may arrive less often.
    fn run(
        self: Box<Self>,
        found: mpsc::Sender<Observation>,
        open: watch::Receiver<BTreeSet<String>>,
    ) -> Running;
}
