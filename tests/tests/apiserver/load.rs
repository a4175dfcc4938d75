//! The load of apps whose pods are simulated: what balancers and supervisors answer to `/load`.
//!
//! A story sets how many requests clients have at a time and how long one takes. While no pod is
//! ready, all of them wait in the balancers; otherwise all are at the pods, in equal parts. A line
//! comes each second, and at once when requests begin to wait without a pod.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

/// How often a stream looks at the load.
const LOOK_INTERVAL: Duration = Duration::from_millis(10);
/// How many requests one pod works on at the same time; the others wait in it.
const CONCURRENCY: f64 = 10.0;
const LINE_INTERVAL: Duration = Duration::from_secs(1);

/// What clients ask of an app.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Load {
    /// Requests at a time.
    pub(crate) offered: u32,
    /// How long one takes, in seconds.
    pub(crate) service: f64,
    /// Connections that need a pod to live on.
    pub(crate) connected: u32,
}

impl Default for Load {
    fn default() -> Self {
        Self {
            offered: 0,
            service: 0.1,
            connected: 0,
        }
    }
}

#[derive(Debug, Default)]
struct State {
    load: Load,
    /// Ready pods of the app, and balancers.
    pods: u32,
    balancers: u32,
    /// The pods that have requests; none: all have.
    busy: Vec<String>,
    /// Since when requests wait without a pod.
    waiting_since: Option<Instant>,
}

/// The load of the app of one namespace, shared by all of its pods.
#[derive(Debug, Clone, Default)]
pub(crate) struct World(Arc<Mutex<State>>);

impl World {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn set(&self, load: Load) {
        self.change(|state| state.load = load);
    }

    /// Sets how many pods of the app are ready, and how many balancers.
    pub(crate) fn set_pods(&self, pods: u32, balancers: u32) {
        self.change(|state| (state.pods, state.balancers) = (pods, balancers));
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.state();
        change(&mut state);
        let waits = state.pods == 0 && state.load.offered > 0;
        state.waiting_since = waits.then(|| state.waiting_since.unwrap_or_else(Instant::now));
    }

    /// From now on, only these pods have requests.
    pub(crate) fn set_busy(&self, pods: Vec<String>) {
        self.state().busy = pods;
    }

    /// Answers `GET /load` until the connection ends.
    pub(crate) async fn answer(self, mut stream: TcpStream, pod: String, is_balancer: bool) {
        let head = "HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\n\r\n";
        if stream.write_all(head.as_bytes()).await.is_err() {
            return;
        }
        let mut counted = Counted::new();
        let mut next = Instant::now();
        let mut told = None;
        loop {
            let (line, waiting_since) = counted.line(&self.state(), &pod, is_balancer);
            let is_news = is_balancer && waiting_since.is_some() && told != waiting_since;
            if is_news || Instant::now() >= next {
                if !is_news {
                    next += LINE_INTERVAL;
                }
                told = waiting_since;
                if stream
                    .write_all(format!("{line}\n").as_bytes())
                    .await
                    .is_err()
                {
                    return;
                }
            }
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
    }
}

/// What one stream has counted.
struct Counted {
    run: String,
    at: Instant,
    arrivals: f64,
    answers: f64,
    seconds: f64,
    cpu: f64,
    waited: bool,
}

impl Counted {
    fn new() -> Self {
        static RUN: AtomicU64 = AtomicU64::new(0);
        Self {
            run: RUN.fetch_add(1, Ordering::Relaxed).to_string(),
            at: Instant::now(),
            arrivals: 0.0,
            answers: 0.0,
            seconds: 0.0,
            cpu: 0.0,
            waited: false,
        }
    }

    fn line(&mut self, state: &State, pod: &str, is_balancer: bool) -> (Value, Option<Instant>) {
        let now = Instant::now();
        let passed = (now - self.at).as_secs_f64();
        self.at = now;
        let offered = f64::from(state.load.offered);
        let waits = state.waiting_since.is_some();
        let share = |of: f64, among: u32| of / f64::from(among.max(1));
        if waits && !self.waited {
            self.arrivals += share(offered, state.balancers);
        }
        self.waited = waits;
        // Clients that wait for an answer send nothing meanwhile.
        let served = offered.min(CONCURRENCY * f64::from(state.pods));
        let rate = served / state.load.service;
        self.arrivals += share(rate, state.balancers) * passed;
        let answers = share(rate, state.pods) * passed;
        self.answers += answers;
        self.seconds += answers * state.load.service;
        self.cpu += share(offered, state.pods).min(1.0) * 0.3 * passed;
        let in_flight = if waits { 0.0 } else { offered };
        let line = if is_balancer {
            json!({
                "arrivals": self.arrivals as u64, "connected": state.load.connected,
                "inFlight": share(in_flight, state.balancers).round() as u32,
                "queued": share(offered - in_flight, state.balancers).ceil() as u32,
                "run": self.run,
            })
        } else {
            let is_idle = !state.busy.is_empty() && !state.busy.iter().any(|busy| busy == pod);
            let here = if is_idle {
                0.0
            } else {
                share(in_flight, state.pods)
            };
            json!({
                "answerSeconds": self.seconds, "answers": self.answers as u64,
                "bootSeconds": 0.5, "busy": u32::from(here > 0.0), "cpuSeconds": self.cpu,
                "failures": 0, "inFlight": here.min(CONCURRENCY).round() as u32,
                "queued": (here - CONCURRENCY).max(0.0).round() as u32, "workers": 1,
                "run": self.run,
            })
        };
        (line, state.waiting_since)
    }
}
