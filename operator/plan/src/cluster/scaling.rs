//! What an autoscaler's decision means for an app's objects, its status and its events.
//!
//! The decision itself is made in `scaledapp_scale`; it reaches a plan as
//! [`Scaled`](super::Scaled), and is never written into the object's spec.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::jiff::Timestamp;
use scaledapp_crds::kubernetes::AutoscalingStatus;
use scaledapp_crds::words::annotation;
use scaledapp_scale::{Decision, Range};

use super::meta::annotation as annotated;
use super::selection::app_pods;
use super::{App, Observed};

/// A pod's deletion cost as the first of those that a reduction removes; each further one costs one
/// more, and none reaches the default of 0.
const IDLEST_COST: i64 = -1_000_000;
/// How often there is an event about the number of pods of an app, at most.
const NEWS_INTERVAL: Duration = Duration::from_secs(10);

/// The number of pods: as decided, or before anything is decided as many as there are, or one.
pub(super) fn pods(range: Range, live: Option<&Deployment>, observed: &Observed) -> u32 {
    let there = live.and_then(|live| u32::try_from(live.spec.replicas?).ok());
    let decided = observed.scaling.as_ref().map(|it| it.decision.pods);
    let pods = decided.or(there).unwrap_or(1);
    pods.clamp(range.min(), range.max())
}

/// The deletion costs of the pods that a reduction removes, by uid.
pub(super) fn costs(observed: &Observed) -> BTreeMap<&str, String> {
    let idlest = observed.scaling.iter().flat_map(|it| &it.idlest);
    idlest
        .zip(IDLEST_COST..0)
        .map(|(uid, cost)| (uid.as_str(), cost.to_string()))
        .collect()
}

/// Whether a deletion cost was set for a reduction.
pub(super) fn is_idlest(cost: &str) -> bool {
    cost.parse()
        .is_ok_and(|cost: i64| (IDLEST_COST..-1000).contains(&cost))
}

/// The number of pods that the last event named, and when. It is stored in the Deployment, which is
/// written for a change anyway.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Told {
    pods: i32,
    at: Timestamp,
}

impl Told {
    /// Reads [`annotation::SCALED`].
    fn parse(text: &str) -> Option<Self> {
        let (pods, at) = text.split_once(' ')?;
        Some(Self {
            pods: pods.parse().ok()?,
            at: at.parse().ok()?,
        })
    }
}

impl fmt::Display for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:.0}", self.pods, self.at)
    }
}

/// What an event says about a change of the number of pods. A fast change has one event for all
/// steps within [`NEWS_INTERVAL`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct News {
    pub(super) told: Told,
    /// The number before, if an event is due.
    from: Option<i32>,
    /// When an event about the latest steps is due.
    pub(super) wake: Option<Duration>,
}

impl News {
    pub(super) fn of(live: Option<&Deployment>, pods: i32, now: Timestamp) -> Self {
        let stored = live.and_then(|live| annotated(&live.metadata, annotation::SCALED));
        let there = live.and_then(|live| live.spec.replicas);
        let told = stored.and_then(Told::parse).or_else(|| {
            let at = Timestamp::UNIX_EPOCH;
            there.map(|pods| Told { pods, at })
        });
        let Some(told) = told else {
            let told = Told { pods, at: now };
            return Self::nothing(told);
        };
        if told.pods == pods {
            return Self::nothing(told);
        }
        let age = Duration::try_from(now.duration_since(told.at)).unwrap_or(NEWS_INTERVAL);
        let left = NEWS_INTERVAL.saturating_sub(age);
        if !left.is_zero() {
            return Self {
                wake: Some(left),
                ..Self::nothing(told)
            };
        }
        Self {
            from: Some(told.pods),
            ..Self::nothing(Told { pods, at: now })
        }
    }

    fn nothing(told: Told) -> Self {
        Self {
            told,
            from: None,
            wake: None,
        }
    }

    /// The event's text; `None` if none is due.
    pub(super) fn note(&self, observed: &Observed) -> Option<String> {
        let change = format!("pods: from {} to {}", self.from?, self.told.pods);
        let scaled = observed.scaling.as_ref();
        let why = scaled.map(|scaled| format!("{change}. {}", scaled.decision.reason));
        Some(why.unwrap_or(change))
    }
}

/// Whether an app whose balancers hold requests has a pod.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Sleep {
    /// There is a pod, there should be one, or balancers hold no requests.
    #[default]
    Awake,
    /// There is no pod, as decided.
    Asleep,
    /// The first pod is wanted and not ready yet, within the time that a balancer holds requests.
    Waking,
}

pub(super) fn sleep(app: &App, observed: &Observed, wanted: i32, ready: i32) -> Sleep {
    let Some(hold) = app.app.hold() else {
        return Sleep::Awake;
    };
    let is_late = |created: Timestamp| {
        Duration::try_from(observed.now.duration_since(created)).is_ok_and(|age| age > hold)
    };
    let mut pods = app_pods(observed).filter(|pod| !pod.deleting);
    match (wanted, ready) {
        (0, _) => Sleep::Asleep,
        (_, 0) if !pods.any(|pod| pod.created.is_some_and(is_late)) => Sleep::Waking,
        _ => Sleep::Awake,
    }
}

/// What the status says about the autoscaler; `before` until the first decision after a start of
/// the operator, which begins with what stands there.
pub(super) fn status(
    app: &App,
    observed: &Observed,
    before: Option<&AutoscalingStatus>,
) -> Option<AutoscalingStatus> {
    app.app.autoscaling.as_ref()?;
    let decided = observed.scaling.as_ref().map(|it| told(&it.decision));
    decided.or_else(|| before.cloned())
}

fn told(decision: &Decision) -> AutoscalingStatus {
    let count = |count| i32::try_from(count).unwrap_or(i32::MAX);
    let concurrency = (decision.concurrency * 10.0).round() / 10.0;
    AutoscalingStatus {
        pods: count(decision.pods),
        workers: count(decision.workers),
        cpu: decision.cpu.map(|cores| cores.to_string()),
        reason: decision.reason.to_string(),
        // In whole seconds, as Kubernetes stores times.
        since: format!("{:.0}", decision.since),
        concurrency: Some(concurrency).filter(|it| it.is_finite()),
    }
}
