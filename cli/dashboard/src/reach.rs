//! The apps that a source has found, and how it reaches their processes: the difference between the
//! processes of this machine and those of a cluster.
//!
//! `admin_source` decides when which process is asked, and is the same for both.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use scaledapp_runtime::ask_admin;
use scaledapp_wire::Snapshot;

use crate::watch_stream::WatchStream;

/// How long an answer may take.
pub(crate) const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// The largest answer. The status of a thousand workers takes about 150 KiB.
const MAX_ANSWER_BYTES: usize = 4 << 20;
/// How often an open app's processes are asked.
const ASK_INTERVAL: Duration = Duration::from_secs(1);
/// Pods beyond this number are asked less often, unless their app is open.
const MANY_PODS: u32 = 64;

/// An app and the admin ports of its processes. `A` says where an admin port is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdminPlaces<A = SocketAddr> {
    /// The app's name.
    pub name: String,
    /// The app's name in DNS, and who knows what it answers.
    pub dns: Option<DnsPlace>,
    /// The balancers, by slot.
    pub balancers: Vec<BalancerPlace<A>>,
    /// The pods.
    pub pods: Vec<PodPlace<A>>,
}

/// A name in DNS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DnsPlace {
    /// The name.
    pub hostname: String,
    /// Who knows its addresses.
    pub answers: DnsAnswers,
}

/// Who knows the addresses of a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DnsAnswers {
    /// This DNS server, which is asked.
    Server(SocketAddr),
    /// The DNS server cannot be asked from here; these addresses should be in its answers.
    Told(BTreeSet<IpAddr>),
}

/// A slot and its balancer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BalancerPlace<A = SocketAddr> {
    /// The name of the balancer that answers there now.
    pub name: String,
    /// The slot's number.
    pub slot: u32,
    /// The slot's address, as text.
    pub address: String,
    /// The address as DNS answers it, if it is one.
    pub ip: Option<IpAddr>,
    /// The balancer's admin port, or why there is none.
    pub admin: Result<A, String>,
    /// The admin port of the supervisor that keeps the balancer's listening socket, if there is one.
    pub holder: Option<A>,
}

/// A pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodPlace<A = SocketAddr> {
    /// The pod's name.
    pub name: String,
    /// Where it serves, as text.
    pub address: String,
    /// The node on which it runs, if that is known.
    pub node: Option<String>,
    /// Its admin port, or why it must not be asked.
    pub admin: Result<A, String>,
}

/// How often processes are asked: what a pace depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Crowd {
    /// Whether somebody looks at the app in full.
    pub is_open: bool,
    /// The pods of the app.
    pub of_app: u32,
    /// All pods.
    pub all: u32,
}

/// Finds apps and reaches their admin ports.
pub trait Reach: Send + Sync + 'static {
    /// Where an admin port is.
    type At: Clone + Debug + Ord + Send + Sync + 'static;
    /// The lines of `/watch`.
    type Lines: Lines;

    /// The apps that run now.
    fn places(&self) -> impl Future<Output = Result<Vec<AdminPlaces<Self::At>>, String>> + Send;

    /// The body of an answer with status 200, or in a few words why there is none.
    fn get(
        &self,
        at: &Self::At,
        page: &'static str,
    ) -> impl Future<Output = Result<Vec<u8>, String>> + Send;

    /// Opens the `/watch` stream of a pod.
    fn watch(&self, at: &Self::At) -> impl Future<Output = Option<Self::Lines>> + Send;

    /// Whether the pods of an app are followed by `/watch` that nobody looks at in full.
    fn follows_all(&self) -> bool;

    /// The time between two questions to one process.
    fn pause(&self, crowd: Crowd) -> Duration;
}

/// The lines of a `/watch` stream.
pub trait Lines: Send {
    /// The next line; `None` if the stream has ended.
    fn next(&mut self) -> impl Future<Output = Option<Snapshot>> + Send;
}

impl Lines for WatchStream {
    async fn next(&mut self) -> Option<Snapshot> {
        Self::next(self).await
    }
}

/// Finds the apps that run now.
type Discover = Box<dyn FnMut() -> Result<Vec<AdminPlaces>, String> + Send>;

/// Reaches processes of this machine, whose addresses a function finds.
pub struct Local(Arc<Mutex<Discover>>);

impl Debug for Local {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Local").finish_non_exhaustive()
    }
}

impl Local {
    /// `discover` is called on a thread of its own, every two seconds.
    pub(crate) fn new(
        discover: impl FnMut() -> Result<Vec<AdminPlaces>, String> + Send + 'static,
    ) -> Self {
        Self(Arc::new(Mutex::new(Box::new(discover))))
    }
}

impl Reach for Local {
    type At = SocketAddr;
    type Lines = WatchStream;

    async fn places(&self) -> Result<Vec<AdminPlaces>, String> {
        let discover = Arc::clone(&self.0);
        let looked = tokio::task::spawn_blocking(move || {
            let mut discover = discover.lock().unwrap_or_else(PoisonError::into_inner);
            discover()
        });
        looked.await.map_err(|error| error.to_string())?
    }

    async fn get(&self, at: &SocketAddr, page: &'static str) -> Result<Vec<u8>, String> {
        let path = format!("/{page}");
        let answer = ask_admin(*at, &path, ANSWER_TIMEOUT, MAX_ANSWER_BYTES).await;
        match answer {
            Ok(answer) if answer.status == 200 => Ok(answer.body),
            Ok(answer) => Err(format!("{at}{path} answers {}", answer.status)),
            Err(error) => Err(format!("{error} at {at}")),
        }
    }

    async fn watch(&self, at: &SocketAddr) -> Option<WatchStream> {
        WatchStream::open(*at, ANSWER_TIMEOUT).await.ok()
    }

    fn follows_all(&self) -> bool {
        true
    }

    fn pause(&self, crowd: Crowd) -> Duration {
        if crowd.is_open {
            return ASK_INTERVAL;
        }
        ASK_INTERVAL * crowd.all.div_ceil(MANY_PODS).clamp(1, 10)
    }
}
