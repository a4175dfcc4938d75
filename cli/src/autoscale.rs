//! `autoscaling` of a local run: listens to pods and balancers, and says which pods start and stop.
//!
//! The decisions are those of the operator (`scaledapp-scale`): once a second, and at once if a
//! request waits while no pod runs. `pods` knows which pods run. Processes and files are in `local`.

mod pods;

use std::net::SocketAddr;
use std::time::Duration;

use scaledapp_plan::local::Plan;
use scaledapp_runtime::LineStream;
use scaledapp_scale::{
    Balancer, BalancerLedger, Found, Moment, Observation, Range, Scaler, Settings,
};
use scaledapp_wire::{BalancerLoad, PodLoad};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

use crate::object::Object;
use crate::podset::PodId;
use crate::state::Decided;

pub(crate) use pods::Change;
use pods::Pods;

/// How often the numbers are decided.
const INTERVAL: Duration = Duration::from_secs(1);
/// Limits of a stream of `/load`. Its lines have about two hundred bytes.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
const SILENCE: Duration = Duration::from_secs(3);
const MAX_LINE: usize = 4 << 10;
/// The pause before a stream is opened again. The pods of a local run are started and stopped, so
/// most streams are refused for most of the time; on loopback that costs little.
const PAUSE: Duration = Duration::from_millis(200);
const AGENT: &str = "scaledapp";
/// Lines that may wait. Each stream sends one a second.
const LINES: usize = 1024;

/// An app with an autoscaler, as it has started.
#[derive(Debug)]
pub(crate) struct Started {
    /// Its index among the apps of the run.
    pub(crate) app: usize,
    pub(crate) settings: Settings,
    /// Names and admin addresses of its balancers.
    pub(crate) balancers: Vec<(String, SocketAddr)>,
    /// Names and admin addresses of all pods that it may have.
    pub(crate) pods: Vec<(String, SocketAddr)>,
    /// How many of them, counted from the first, run.
    pub(crate) running: usize,
}

impl Started {
    /// An app of the run that has just become ready; `None` if it has no autoscaler. Pods are not
    /// resized on one machine, whose cores they share.
    pub(crate) fn of(app: usize, object: &Object, plan: &Plan) -> Option<Self> {
        let mut settings = object.app.autoscaling.as_ref()?.settings.clone();
        let most = u32::try_from(plan.pods.len()).unwrap_or(u32::MAX);
        settings.pods = Range::new(settings.pods.min().min(most), settings.pods.max().min(most));
        settings.cpu = None;
        let named = |name: &String, admin| (name.clone(), admin);
        let slots = plan.slots.iter();
        let pods = plan.pods.iter();
        Some(Self {
            app,
            settings,
            balancers: slots.map(|slot| named(&slot.name, slot.admin)).collect(),
            pods: pods.map(|pod| named(&pod.name, pod.admin)).collect(),
            running: plan.running,
        })
    }
}

/// The autoscalers of a run.
#[derive(Debug)]
pub(crate) struct Autoscalers {
    apps: Vec<Scaled>,
    lines: mpsc::Receiver<Line>,
    tick: tokio::time::Interval,
    begun: Instant,
    /// Reads the streams; aborted when this value is dropped.
    _streams: JoinSet<()>,
}

#[derive(Debug)]
struct Scaled {
    /// Its index among the apps of the run.
    app: usize,
    scaler: Scaler,
    balancers: Vec<(String, BalancerLedger)>,
    pods: Pods,
    last: Option<Decided>,
}

/// A line of a stream. The first number is the index of the app's autoscaler, the second one that of
/// the balancer or pod.
#[derive(Debug)]
enum Line {
    Balancer(usize, usize, BalancerLoad),
    Pod(usize, usize, PodLoad),
}

/// What has to be done now.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Step {
    /// The index of the app among the apps of the run.
    pub(crate) app: usize,
    /// For the log if pods start or stop, such as `2 pods in place of 1: …`.
    pub(crate) text: Option<String>,
    /// For the state file.
    pub(crate) decided: Decided,
    pub(crate) changes: Vec<Change>,
    /// The indexes of the pods to which balancers may send requests.
    pub(crate) listed: Vec<usize>,
}

impl Autoscalers {
    /// Begins to listen to the pods and balancers of these apps.
    pub(crate) fn new(apps: Vec<Started>) -> Self {
        let (sender, lines) = mpsc::channel(LINES);
        let mut streams = JoinSet::new();
        let begun = Instant::now();
        let mut tick = interval(INTERVAL);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut all = Vec::new();
        for (index, started) in apps.into_iter().enumerate() {
            for (nth, (_, admin)) in started.balancers.iter().enumerate() {
                let line = move |load| Line::Balancer(index, nth, load);
                streams.spawn(follow(*admin, line, sender.clone()));
            }
            for (nth, (_, admin)) in started.pods.iter().enumerate() {
                let line = move |load| Line::Pod(index, nth, load);
                streams.spawn(follow(*admin, line, sender.clone()));
            }
            all.push(Scaled::new(started, begun));
        }
        Self {
            apps: all,
            lines,
            tick,
            begun,
            _streams: streams,
        }
    }

    /// Waits for the next steps; there may be none. Never resolves without an autoscaler. This
    /// function is cancel safe.
    pub(crate) async fn next(&mut self) -> Vec<Step> {
        if self.apps.is_empty() {
            return std::future::pending().await;
        }
        loop {
            tokio::select! {
                Some(line) = self.lines.recv() => {
                    let now = self.begun.elapsed();
                    if let Some(app) = self.take(line, now) {
                        let step = app.decide(now);
                        return step.into_iter().collect();
                    }
                }
                _ = self.tick.tick() => {
                    let now = self.begun.elapsed();
                    return self.apps.iter_mut().filter_map(|app| app.decide(now)).collect();
                }
            }
        }
    }

    /// Takes a line. Returns its app if the app must not wait for the next second.
    fn take(&mut self, line: Line, now: Duration) -> Option<&mut Scaled> {
        match line {
            Line::Balancer(index, nth, load) => {
                let app = self.apps.get_mut(index)?;
                let waits = load.queued > 0;
                app.balancers.get_mut(nth)?.1.on(load);
                (waits && app.pods.listed().next().is_none()).then_some(app)
            }
            Line::Pod(index, nth, load) => {
                self.apps.get_mut(index)?.pods.on(nth, now, load);
                None
            }
        }
    }

    /// Takes note that a pod has ended. Whether an autoscaler asked for that.
    pub(crate) fn ended(&mut self, id: PodId) -> bool {
        self.pods_of(id).is_some_and(|pods| pods.ended(id.pod))
    }

    /// Whether a pod that has ended is not to be started again.
    pub(crate) fn left(&mut self, id: PodId) -> bool {
        self.pods_of(id).is_some_and(|pods| pods.left(id.pod))
    }

    /// The pods of the same app; `None` if it has no autoscaler.
    fn pods_of(&mut self, id: PodId) -> Option<&mut Pods> {
        let mut apps = self.apps.iter_mut();
        apps.find(|one| one.app == id.app).map(|one| &mut one.pods)
    }
}

impl Scaled {
    fn new(started: Started, begun: Instant) -> Self {
        let now = begun.elapsed();
        let found = Found {
            pods: u32::try_from(started.running).unwrap_or(u32::MAX),
            workers: started.settings.workers.min(),
            ..Found::default()
        };
        let names = started.pods.into_iter().map(|(name, _)| name);
        let balancers = started.balancers.into_iter();
        Self {
            app: started.app,
            scaler: Scaler::new(started.settings, found, moment(now)),
            balancers: balancers
                .map(|(name, _)| (name, BalancerLedger::default()))
                .collect(),
            pods: Pods::new(names, started.running, now),
            last: None,
        }
    }

    /// What changes now, if anything does.
    fn decide(&mut self, now: Duration) -> Option<Step> {
        let balancers = self.balancers.iter_mut();
        let seen = Observation {
            balancers: balancers
                .map(|(name, ledger)| Balancer {
                    name: name.clone(),
                    report: ledger.take(),
                })
                .collect(),
            pods: self.pods.observe(now),
            refused_above: None,
        };
        let decision = self.scaler.decide(moment(now), &seen);
        let changes = self.pods.change(decision.pods as usize, now);
        let decided = Decided {
            concurrency: (decision.concurrency * 10.0).round() / 10.0,
            pods: decision.pods,
            reason: decision.reason.to_string(),
            since: decision.since.to_string(),
            workers: decision.workers,
        };
        let before = self.last.replace(decided.clone());
        if changes.is_empty()
            && before
                .as_ref()
                .is_some_and(|before| before.is_like(&decided))
        {
            return None;
        }
        let before = before.map_or_else(String::new, |before| {
            format!(" in place of {}", before.pods)
        });
        let pods = match decided.pods {
            1 => "1 pod".to_owned(),
            pods => format!("{pods} pods"),
        };
        let text = format!("{pods}{before}: {}", decided.reason);
        Some(Step {
            app: self.app,
            text: (!changes.is_empty()).then_some(text),
            decided,
            changes,
            listed: self.pods.listed().collect(),
        })
    }
}

fn moment(elapsed: Duration) -> Moment {
    Moment {
        elapsed,
        wall: jiff::Timestamp::now(),
    }
}

/// Reads the stream at `admin`, again and again, and passes its lines on.
async fn follow<T: DeserializeOwned>(
    admin: SocketAddr,
    line: impl Fn(T) -> Line,
    lines: mpsc::Sender<Line>,
) {
    loop {
        let opened = LineStream::open(admin, "/load", AGENT, CONNECT_TIMEOUT, MAX_LINE).await;
        if let Ok(mut stream) = opened {
            while let Ok(text) = stream.next(SILENCE).await {
                // A line of another version is skipped.
                if let Ok(load) = serde_json::from_slice(&text)
                    && lines.send(line(load)).await.is_err()
                {
                    return;
                }
            }
        }
        sleep(PAUSE).await;
    }
}
