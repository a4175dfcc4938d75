//! Reads the admin ports of an app's processes, wherever they are ([`Reach`]).
//!
//! Each pod has a `/watch` stream, so that a change is known at once; its `/status` and `/metrics` are
//! read when the stream tells of a change, and once in a while otherwise, as balancers are.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use scaledapp_runtime::ask_dns;
use serde::de::DeserializeOwned;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{sleep, timeout};

use crate::exposition::counters;
use crate::observation::{App, Counters, Fact, Observation, Pod, Running, Slot, Source};
use crate::reach::{ANSWER_TIMEOUT, AdminPlaces, Crowd, DnsAnswers, Lines, Local, Reach};

/// How often the list of apps is read.
const DISCOVER_INTERVAL: Duration = Duration::from_secs(2);
/// How often DNS is asked.
const DNS_INTERVAL: Duration = Duration::from_secs(1);
/// How often a pod without an open `/watch` stream is asked.
const UNWATCHED_INTERVAL: Duration = Duration::from_millis(500);
/// The shortest time between two questions to one pod.
const ASK_PAUSE: Duration = Duration::from_millis(100);
/// How long to wait before a `/watch` stream that ended is opened again.
const REOPEN_PAUSE: Duration = Duration::from_millis(250);

/// Reads the admin ports of apps.
#[derive(Debug)]
pub struct AdminSource<R> {
    title: String,
    reach: R,
}

impl AdminSource<Local> {
    /// A source for this machine, whose apps `discover` finds. It is called every two seconds on a
    /// thread of its own.
    pub fn new(
        title: &str,
        discover: impl FnMut() -> Result<Vec<AdminPlaces>, String> + Send + 'static,
    ) -> Self {
        Self::through(title, Local::new(discover))
    }
}

impl<R: Reach> AdminSource<R> {
    /// A source whose processes are reached in this way.
    pub fn through(title: &str, reach: R) -> Self {
        Self {
            title: title.to_owned(),
            reach,
        }
    }
}

impl<R: Reach> Source for AdminSource<R> {
    fn title(&self) -> String {
        self.title.clone()
    }

    fn run(
        self: Box<Self>,
        found: mpsc::Sender<Observation>,
        open: watch::Receiver<BTreeSet<String>>,
    ) -> Running {
        Box::pin(look(Arc::new(self.reach), found, open))
    }
}

/// A process that is asked by a task of its own.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Asked<A> {
    Pod(String, A),
    Balancer(String, A, Option<A>),
    Dns(String, SocketAddr),
}

async fn look<R: Reach>(
    reach: Arc<R>,
    found: mpsc::Sender<Observation>,
    open: watch::Receiver<BTreeSet<String>>,
) {
    let mut tasks = JoinSet::new();
    let mut asked: BTreeMap<(String, Asked<R::At>), AbortHandle> = BTreeMap::new();
    let all = Arc::new(AtomicU32::new(0));
    loop {
        let began = Instant::now();
        let places = reach.places().await;
        let took = began.elapsed();
        match places {
            Err(reason) => drop(found.send(Observation::NoApps(reason)).await),
            Ok(places) => {
                let count = places.iter().map(|app| app.pods.len() as u32).sum();
                all.store(count, Ordering::Relaxed);
                let apps = places.iter().map(shape).collect();
                drop(found.send(Observation::Apps(apps)).await);
                let wanted: BTreeMap<_, _> = places.iter().flat_map(processes).collect();
                asked.retain(|key, task| {
                    let stays = wanted.contains_key(key) && !task.is_finished();
                    if !stays {
                        task.abort();
                    }
                    stays
                });
                for (key, of_app) in wanted {
                    if asked.contains_key(&key) {
                        continue;
                    }
                    let to = Teller {
                        reach: Arc::clone(&reach),
                        app: key.0.clone(),
                        found: found.clone(),
                        open: open.clone(),
                        of_app,
                        all: Arc::clone(&all),
                    };
                    let task = tasks.spawn(ask(key.1.clone(), to));
                    asked.insert(key, task);
                }
                told(&places, &found).await;
            }
        }
        while tasks.try_join_next().is_some() {}
        // A list that takes long is read less often.
        sleep(DISCOVER_INTERVAL.max(took * 10)).await;
    }
}

/// Tells what is known without asking: the processes that must not be asked, and what DNS answers
/// where it cannot be asked.
async fn told<A>(places: &[AdminPlaces<A>], found: &mpsc::Sender<Observation>) {
    for app in places {
        let pods = app.pods.iter();
        let pods = pods.filter_map(|pod| {
            let reason = pod.admin.as_ref().err()?;
            Some(Fact::PodLost(pod.name.clone(), reason.clone()))
        });
        let balancers = app.balancers.iter();
        let balancers = balancers.filter_map(|balancer| {
            let reason = balancer.admin.as_ref().err()?;
            Some(Fact::BalancerLost(balancer.name.clone(), reason.clone()))
        });
        let dns = app.dns.iter();
        let dns = dns.filter_map(|dns| match &dns.answers {
            DnsAnswers::Told(addresses) => Some(Fact::Dns(addresses.clone())),
            DnsAnswers::Server(_) => None,
        });
        let facts: Vec<_> = pods.chain(balancers).chain(dns).collect();
        for fact in facts {
            let app = app.name.clone();
            drop(found.send(Observation::Of { app, fact }).await);
        }
    }
}

fn shape<A>(places: &AdminPlaces<A>) -> App {
    let slots = places.balancers.iter().map(|balancer| Slot {
        number: balancer.slot,
        address: balancer.address.clone(),
        ip: balancer.ip,
        balancer: balancer.name.clone(),
    });
    let pods = places.pods.iter().map(|pod| Pod {
        name: pod.name.clone(),
        address: pod.address.clone(),
        node: pod.node.clone(),
    });
    App {
        name: places.name.clone(),
        hostname: places.dns.as_ref().map(|dns| dns.hostname.clone()),
        dns: places.dns.as_ref().map(|dns| match dns.answers {
            DnsAnswers::Server(server) => server.to_string(),
            DnsAnswers::Told(_) => "as the operator says".to_owned(),
        }),
        slots: slots.collect(),
        pods: pods.collect(),
    }
}

/// The processes of an app that are asked, each with the number of the app's pods.
fn processes<A: Clone>(places: &AdminPlaces<A>) -> Vec<((String, Asked<A>), u32)> {
    let pods = places.pods.iter();
    let pods = pods.filter_map(|pod| {
        let admin = pod.admin.as_ref().ok()?;
        Some(Asked::Pod(pod.name.clone(), admin.clone()))
    });
    let balancers = places.balancers.iter();
    let balancers = balancers.filter_map(|it| {
        let admin = it.admin.as_ref().ok()?;
        let (name, holder) = (it.name.clone(), it.holder.clone());
        Some(Asked::Balancer(name, admin.clone(), holder))
    });
    let dns = places.dns.iter();
    let dns = dns.filter_map(|dns| match dns.answers {
        DnsAnswers::Server(server) => Some(Asked::Dns(dns.hostname.clone(), server)),
        DnsAnswers::Told(_) => None,
    });
    let all = pods.chain(balancers).chain(dns);
    let of_app = places.pods.len() as u32;
    all.map(|asked| ((places.name.clone(), asked), of_app))
        .collect()
}

/// What a task asks with, and where it tells what it has found.
#[derive(Debug)]
struct Teller<R> {
    reach: Arc<R>,
    app: String,
    found: mpsc::Sender<Observation>,
    open: watch::Receiver<BTreeSet<String>>,
    /// How many pods the app had when the task began.
    of_app: u32,
    /// How many pods there are in all.
    all: Arc<AtomicU32>,
}

impl<R: Reach> Teller<R> {
    async fn tell(&self, fact: Fact) {
        let app = self.app.clone();
        // The receiver is gone only when everything ends.
        drop(self.found.send(Observation::Of { app, fact }).await);
    }

    fn is_open(&self) -> bool {
        self.open.borrow().contains(&self.app)
    }

    /// Whether the app's pods are followed now.
    fn follows(&self) -> bool {
        self.reach.follows_all() || self.is_open()
    }

    /// How long to wait before the next question.
    fn pause(&self) -> Duration {
        self.reach.pause(Crowd {
            is_open: self.is_open(),
            of_app: self.of_app,
            all: self.all.load(Ordering::Relaxed),
        })
    }

    /// Waits until somebody opens or closes an app.
    async fn opened(&self) {
        let mut open = self.open.clone();
        open.mark_unchanged();
        drop(open.changed().await);
    }

    async fn status<T: DeserializeOwned>(&self, at: &R::At) -> Result<T, String> {
        let body = self.reach.get(at, "status").await?;
        serde_json::from_slice(&body).map_err(|_| format!("the status at {at:?} is not one"))
    }

    async fn metrics(&self, at: &R::At, prefix: &str) -> Option<Counters> {
        let body = self.reach.get(at, "metrics").await.ok()?;
        Some(counters(std::str::from_utf8(&body).ok()?, prefix))
    }
}

async fn ask<R: Reach>(asked: Asked<R::At>, to: Teller<R>) {
    match asked {
        Asked::Pod(name, admin) => {
            let changed = Notify::new();
            tokio::join!(
                follow(&name, &admin, &to, &changed),
                read(&name, &admin, &to, &changed)
            );
        }
        Asked::Balancer(name, admin, holder) => loop {
            to.tell(balancer(&name, &admin, holder.as_ref(), &to).await)
                .await;
            // Somebody who opens the app wants to see it now.
            drop(timeout(to.pause(), to.opened()).await);
        },
        Asked::Dns(hostname, server) => loop {
            let addresses = ask_dns(server, &hostname, ANSWER_TIMEOUT).await;
            let fact = match addresses {
                Ok(addresses) => Fact::Dns(addresses.into_iter().collect()),
                Err(error) => Fact::DnsLost(error.to_string()),
            };
            to.tell(fact).await;
            sleep(DNS_INTERVAL).await;
        },
    }
}

/// Follows the `/watch` stream of a pod, and rings when something has changed that only the status
/// explains. The end of the stream is such a change too: the supervisor may be gone.
async fn follow<R: Reach>(name: &str, admin: &R::At, to: &Teller<R>, changed: &Notify) {
    loop {
        if !to.follows() {
            to.opened().await;
            changed.notify_one();
            continue;
        }
        let Some(mut stream) = to.reach.watch(admin).await else {
            sleep(UNWATCHED_INTERVAL.max(to.pause() / 2)).await;
            changed.notify_one();
            continue;
        };
        let mut before = None;
        while to.follows()
            && let Some(snapshot) = stream.next().await
        {
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
async fn read<R: Reach>(name: &str, admin: &R::At, to: &Teller<R>, changed: &Notify) {
    loop {
        let (status, metrics) =
            tokio::join!(to.status(admin), to.metrics(admin, "scaledapp_dispatch"));
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

async fn balancer<R: Reach>(
    name: &str,
    admin: &R::At,
    holder: Option<&R::At>,
    to: &Teller<R>,
) -> Fact {
    let holder = async { to.status(holder?).await.ok() };
    let answers = tokio::join!(
        to.status(admin),
        to.metrics(admin, "scaledapp_balancer"),
        holder
    );
    let name = name.to_owned();
    match answers {
        (Ok(status), counters, holder) => {
            Fact::Balancer(name, Box::new(status), counters, holder.map(Box::new))
        }
        (Err(reason), _, _) => Fact::BalancerLost(name, reason),
    }
}
