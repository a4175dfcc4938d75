//! The source for processes on this machine: reads their admin ports.
//!
//! Each pod has a `/watch` stream, so that a change is known at once; its `/status` and `/metrics` are
//! read when the stream tells of a change, and once a second otherwise. Balancers are read once a
//! second. The caller decides which processes there are (`discover`).

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use scaledapp_runtime::{ask_admin, ask_dns};
use serde::de::DeserializeOwned;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{sleep, timeout};

use crate::exposition::counters;
use crate::observation::{App, Counters, Fact, Observation, Pod, Running, Slot, Source};
use crate::watch_stream::{Next, WatchStream};

/// How often the list of apps is read.
const DISCOVER_INTERVAL: Duration = Duration::from_secs(2);
/// How often a process is asked.
const ASK_INTERVAL: Duration = Duration::from_secs(1);
/// The same, for a pod that has no `/watch` stream for us.
const UNWATCHED_INTERVAL: Duration = Duration::from_millis(500);
/// The shortest time between two questions to one pod.
const ASK_PAUSE: Duration = Duration::from_millis(100);
/// How long an answer may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// The largest answer. The status of a thousand workers takes about 150 KiB.
const MAX_ANSWER_BYTES: usize = 4 << 20;
/// Pods beyond this number are asked less often, unless their app is open.
const MANY_PODS: u64 = 64;
/// How long to wait before a `/watch` stream that ended is opened again.
const REOPEN_PAUSE: Duration = Duration::from_millis(250);

/// An app and the admin ports of its processes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdminPlaces {
    /// The app's name.
    pub name: String,
    /// The app's name in DNS, and the server that answers for it.
    pub dns: Option<DnsPlace>,
    /// The balancers, by slot.
    pub balancers: Vec<BalancerPlace>,
    /// The pods.
    pub pods: Vec<PodPlace>,
}

/// Where a name is resolved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DnsPlace {
    /// The name.
    pub hostname: String,
    /// The DNS server.
    pub server: SocketAddr,
}

/// A slot and its balancer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BalancerPlace {
    /// The balancer's name.
    pub name: String,
    /// The slot's number.
    pub slot: u32,
    /// The slot's address.
    pub address: SocketAddr,
    /// The balancer's admin port.
    pub admin: SocketAddr,
    /// The admin port of the supervisor that keeps the balancer's listening socket.
    pub holder: SocketAddr,
}

/// A pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodPlace {
    /// The pod's name.
    pub name: String,
    /// Where it serves.
    pub address: SocketAddr,
    /// Its admin port, or why it must not be asked.
    pub admin: Result<SocketAddr, String>,
}

/// Finds the apps that run now.
type Discover = Box<dyn FnMut() -> Result<Vec<AdminPlaces>, String> + Send>;

/// Reads the admin ports of this machine's apps.
pub struct AdminSource {
    title: String,
    discover: Discover,
}

impl std::fmt::Debug for AdminSource {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut shown = formatter.debug_struct("AdminSource");
        shown.field("title", &self.title).finish_non_exhaustive()
    }
}

impl AdminSource {
    /// A source whose apps `discover` finds. It is called every two seconds on a thread of its own.
    pub fn new(
        title: &str,
        discover: impl FnMut() -> Result<Vec<AdminPlaces>, String> + Send + 'static,
    ) -> Self {
        Self {
            title: title.to_owned(),
            discover: Box::new(discover),
        }
    }
}

impl Source for AdminSource {
    fn title(&self) -> String {
        self.title.clone()
    }

    fn run(
        self: Box<Self>,
        found: mpsc::Sender<Observation>,
        open: watch::Receiver<BTreeSet<String>>,
    ) -> Running {
        Box::pin(look(self.discover, found, open))
    }
}

/// A process that is asked by a task of its own.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Asked {
    Pod(String, SocketAddr),
    Balancer(String, SocketAddr, SocketAddr),
    Dns(String, SocketAddr),
}

async fn look(
    mut discover: Discover,
    found: mpsc::Sender<Observation>,
    open: watch::Receiver<BTreeSet<String>>,
) {
    let mut tasks = JoinSet::new();
    let mut asked: BTreeMap<(String, Asked), AbortHandle> = BTreeMap::new();
    let pods = Arc::new(AtomicU64::new(0));
    loop {
        let looked = tokio::task::spawn_blocking(move || {
            let places = discover();
            (discover, places)
        });
        let Ok((again, places)) = looked.await else {
            return;
        };
        discover = again;
        match places {
            Err(reason) => drop(found.send(Observation::NoApps(reason)).await),
            Ok(places) => {
                let count = places.iter().map(|app| app.pods.len() as u64).sum();
                pods.store(count, Ordering::Relaxed);
                let apps = places.iter().map(shape).collect();
                drop(found.send(Observation::Apps(apps)).await);
                let wanted: BTreeSet<_> = places.iter().flat_map(processes).collect();
                asked.retain(|key, task| {
                    let stays = wanted.contains(key) && !task.is_finished();
                    if !stays {
                        task.abort();
                    }
                    stays
                });
                for key in wanted
                    .into_iter()
                    .filter(|key| !asked.contains_key(key))
                    .collect::<Vec<_>>()
                {
                    let to = Teller {
                        app: key.0.clone(),
                        found: found.clone(),
                        open: open.clone(),
                        pods: Arc::clone(&pods),
                    };
                    let task = tasks.spawn(ask(key.1.clone(), to));
                    asked.insert(key, task);
                }
                unreadable(&places, &found).await;
            }
        }
        while tasks.try_join_next().is_some() {}
        sleep(DISCOVER_INTERVAL).await;
    }
}

/// Tells of the pods that must not be asked.
async fn unreadable(places: &[AdminPlaces], found: &mpsc::Sender<Observation>) {
    for app in places {
        for pod in &app.pods {
            if let Err(reason) = &pod.admin {
                let fact = Fact::PodLost(pod.name.clone(), reason.clone());
                let app = app.name.clone();
                drop(found.send(Observation::Of { app, fact }).await);
            }
        }
    }
}

fn shape(places: &AdminPlaces) -> App {
    let slots = places.balancers.iter().map(|balancer| Slot {
        number: balancer.slot,
        address: balancer.address,
        balancer: balancer.name.clone(),
    });
    let pods = places.pods.iter().map(|pod| Pod {
        name: pod.name.clone(),
        address: pod.address.to_string(),
        node: None,
    });
    App {
        name: places.name.clone(),
        hostname: places.dns.as_ref().map(|dns| dns.hostname.clone()),
        dns: places.dns.as_ref().map(|dns| dns.server.to_string()),
        slots: slots.collect(),
        pods: pods.collect(),
    }
}

fn processes(places: &AdminPlaces) -> Vec<(String, Asked)> {
    let pods = places.pods.iter();
    let pods = pods.filter_map(|pod| Some(Asked::Pod(pod.name.clone(), *pod.admin.as_ref().ok()?)));
    let balancers = places.balancers.iter();
    let balancers = balancers.map(|it| Asked::Balancer(it.name.clone(), it.admin, it.holder));
    let dns = places.dns.iter();
    let dns = dns.map(|dns| Asked::Dns(dns.hostname.clone(), dns.server));
    let all = pods.chain(balancers).chain(dns);
    all.map(|asked| (places.name.clone(), asked)).collect()
}

/// Where a task tells what it has found.
#[derive(Debug, Clone)]
struct Teller {
    app: String,
    found: mpsc::Sender<Observation>,
    open: watch::Receiver<BTreeSet<String>>,
    /// How many pods there are in all.
    pods: Arc<AtomicU64>,
}

impl Teller {
    async fn tell(&self, fact: Fact) {
        let app = self.app.clone();
        // The receiver is gone only when everything ends.
        drop(self.found.send(Observation::Of { app, fact }).await);
    }

    /// How long to wait before the next question.
    fn pause(&self) -> Duration {
        if self.open.borrow().contains(&self.app) {
            return ASK_INTERVAL;
        }
        let pods = self.pods.load(Ordering::Relaxed);
        ASK_INTERVAL * pods.div_ceil(MANY_PODS).clamp(1, 10) as u32
    }
}

async fn ask(asked: Asked, to: Teller) {
    match asked {
        Asked::Pod(name, admin) => {
            let changed = Notify::new();
            tokio::join!(
                follow(&name, admin, &to, &changed),
                read(&name, admin, &to, &changed)
            );
        }
        Asked::Balancer(name, admin, holder) => loop {
            to.tell(balancer(&name, admin, holder).await).await;
            sleep(ASK_INTERVAL).await;
        },
        Asked::Dns(hostname, server) => loop {
            let addresses = ask_dns(server, &hostname, ANSWER_TIMEOUT).await;
            let fact = match addresses {
                Ok(addresses) => Fact::Dns(addresses.into_iter().collect()),
                Err(error) => Fact::DnsLost(error.to_string()),
            };
            to.tell(fact).await;
            sleep(ASK_INTERVAL).await;
        },
    }
}

/// Follows the `/watch` stream of a pod, and rings when something has changed that only the status
/// explains. The end of the stream is such a change too: the supervisor may be gone.
async fn follow(name: &str, admin: SocketAddr, to: &Teller, changed: &Notify) {
    loop {
        let opened = WatchStream::open(admin, ANSWER_TIMEOUT).await;
        let Ok(mut stream) = opened else {
            sleep(UNWATCHED_INTERVAL).await;
            changed.notify_one();
            continue;
        };
        let mut before = None;
        while let Next::Line(snapshot) = stream.next().await {
            let now = (snapshot.ready, snapshot.draining, snapshot.workers);
            to.tell(Fact::Watched(name.to_owned(), snapshot)).await;
            if before.replace(now).is_some_and(|before| before != now) {
                changed.notify_one();
            }
        }
        changed.notify_one();
        sleep(REOPEN_PAUSE).await;
    }
}

/// Reads the status of a pod, once in a while and when it has changed.
async fn read(name: &str, admin: SocketAddr, to: &Teller, changed: &Notify) {
    loop {
        let (status, metrics) = tokio::join!(status(admin), metrics(admin, "scaledapp_dispatch"));
        let fact = match status {
            Ok(status) => Fact::Pod(name.to_owned(), Box::new(status), metrics),
            Err(reason) => Fact::PodLost(name.to_owned(), reason),
        };
        to.tell(fact).await;
        sleep(ASK_PAUSE).await;
        // A change or the end of the pause: both mean to ask again.
        drop(timeout(to.pause().saturating_sub(ASK_PAUSE), changed.notified()).await);
    }
}

async fn balancer(name: &str, admin: SocketAddr, holder: SocketAddr) -> Fact {
    let answers = tokio::join!(
        status(admin),
        metrics(admin, "scaledapp_balancer"),
        status(holder)
    );
    let name = name.to_owned();
    match answers {
        (Ok(status), counters, holder) => {
            Fact::Balancer(name, Box::new(status), counters, holder.ok().map(Box::new))
        }
        (Err(reason), _, _) => Fact::BalancerLost(name, reason),
    }
}

async fn get(admin: SocketAddr, path: &str) -> Result<Vec<u8>, String> {
    let answer = ask_admin(admin, path, ANSWER_TIMEOUT, MAX_ANSWER_BYTES).await;
    match answer {
        Ok(answer) if answer.status == 200 => Ok(answer.body),
        Ok(answer) => Err(format!("{admin}{path} answers {}", answer.status)),
        Err(error) => Err(format!("{error} at {admin}")),
    }
}

async fn status<T: DeserializeOwned>(admin: SocketAddr) -> Result<T, String> {
    let body = get(admin, "/status").await?;
    serde_json::from_slice(&body).map_err(|_| format!("{admin}/status is not a status"))
}

async fn metrics(admin: SocketAddr, prefix: &str) -> Option<Counters> {
    let body = get(admin, "/metrics").await.ok()?;
    Some(counters(std::str::from_utf8(&body).ok()?, prefix))
}
