//! Queries the pods' admin ports, to find out whether each balancer serves and how many workers
//! each supervisor has.
//!
//! [`crate::pod_health`] decides what the answers mean.
//!
//! The leader queries every balancer's `/readyz` every 500 ms, and sooner after a miss. After three
//! misses in a row, within about 1.5 s, the balancer counts as silent, so that others take over its
//! slot within 2 s. A pod that was not queried yet counts as alive, so that a new leader changes
//! nothing.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::runtime::reflector::Store;
use scaledapp_crds::words::component;
use scaledapp_plan::cluster::{Answer, Balancer, Trouble};
use scaledapp_runtime::{AdminAnswer, AdminError, ask_admin};
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep, sleep_until};

use crate::admin_target::Target;
use crate::lease::Leadership;
use crate::metrics::Metrics;
use crate::pod_answers;
use crate::pod_health::{Miss, PodsHealth};
use crate::triggers::Triggers;

/// How often a balancer's `/readyz` is queried.
const BALANCER_INTERVAL: Duration = Duration::from_millis(500);
/// After a miss, the next probe starts this long after the one that missed.
const AFTER_MISS: Duration = Duration::from_millis(300);
/// How long a balancer may take to answer. Even on a busy node, a balancer needs less time; a dead
/// balancer never answers.
const BALANCER_TIMEOUT: Duration = Duration::from_millis(300);
/// How often a balancer's `/status` is queried for what it knows of its pods.
const BALANCER_STATUS_INTERVAL: Duration = Duration::from_secs(2);
/// A balancer that has reached no pod for this long is reported.
const BLIND_AFTER: Duration = Duration::from_secs(6);
/// How often a supervisor is queried if there are at most four hundred pods.
const SUPERVISOR_INTERVAL: Duration = Duration::from_secs(2);
/// If there are more pods, a supervisor is queried once per this time multiplied by their number.
/// So all queries of supervisors together are limited to two hundred a second.
const SUPERVISOR_SHARE: Duration = Duration::from_millis(5);
const SUPERVISOR_TIMEOUT: Duration = Duration::from_secs(1);
/// HTTP statuses of `/readyz`.
const OK: u16 = 200;
const UNAVAILABLE: u16 = 503;
/// Largest answer that is read. `/status` of a pod with a thousand workers is smaller.
const MAX_ANSWER_BYTES: usize = 512 * 1024;
/// The longest time between two reads of the list of pods.
const LIST_INTERVAL: Duration = Duration::from_secs(1);

/// Queries all pods while this replica leads. Never ends.
pub async fn run(
    pods_health: Arc<PodsHealth>,
    pods: Store<Pod>,
    leadership: Leadership,
    triggers: Triggers,
    metrics: Arc<Metrics>,
) {
    let mut asked: HashMap<String, (Target, AbortHandle)> = HashMap::new();
    loop {
        let mut targets: HashMap<String, Target> = HashMap::new();
        if leadership.leads() {
            let pods = pods.state();
            let found = pods.iter().filter_map(|pod| Target::of(pod));
            targets.extend(found.map(|target| (target.uid.clone(), target)));
        }
        asked.retain(|uid, (target, task)| {
            let kept = targets.get(uid) == Some(target);
            if !kept {
                task.abort();
            }
            kept
        });
        pods_health.retain(|uid| targets.contains_key(uid));
        let period = SUPERVISOR_INTERVAL.max(SUPERVISOR_SHARE * targets.len() as u32);
        for (uid, target) in targets {
            asked.entry(uid).or_insert_with(|| {
                let task = tokio::spawn(ask(
                    target.clone(),
                    period,
                    Arc::clone(&pods_health),
                    triggers.clone(),
                    Arc::clone(&metrics),
                ));
                (target, task.abort_handle())
            });
        }
        tokio::select! {
            () = pods_health.pods_changed.notified() => {}
            () = sleep(LIST_INTERVAL) => {}
        }
    }
}

async fn ask(
    target: Target,
    period: Duration,
    pods_health: Arc<PodsHealth>,
    triggers: Triggers,
    metrics: Arc<Metrics>,
) {
    let (period, component) = if target.balancer {
        (BALANCER_INTERVAL, component::BALANCER)
    } else {
        // A random delay, so that not all pods are queried at the same moment.
        sleep(period.mul_f64(fastrand::f64())).await;
        (period, component::APP)
    };
    let mut sight = Sight::default();
    let mut elsewhere = None;
    loop {
        let begun = Instant::now();
        let look = if target.balancer {
            balancer(target.address, &mut sight).await
        } else {
            supervisor(target.address, &mut elsewhere).await
        };
        metrics.probed(component, if look.is_ok() { "ok" } else { "miss" });
        if let Err(error) = &look {
            tracing::debug!(address = %target.address, error = error as &dyn std::error::Error, "a pod does not answer");
        }
        let look = look.map_err(|error| Miss {
            accepted: error.is_accepted(),
        });
        if pods_health.take(&target.uid, look) {
            tracing::info!(
                namespace = target.namespace,
                app = target.app,
                address = %target.address,
                component,
                answer = brief(&pods_health.answer(&target.uid)),
                "a pod's answer has changed"
            );
            triggers.app(&target.namespace, &target.app);
        }
        let missed = pods_health.is_in_doubt(&target.uid);
        let pause = if missed {
            AFTER_MISS.min(period)
        } else {
            period
        };
        sleep_until(begun + pause).await;
    }
}

/// Why a probe has no result.
#[derive(Debug, thiserror::Error)]
enum ProbeError {
    /// There is no answer.
    #[error(transparent)]
    NoAnswer(#[from] AdminError),
    /// The answer of a supervisor is not a status.
    #[error("the answer is not a status")]
    NoStatus(#[from] serde_json::Error),
    /// A status that no admin port of this project sends for the requested path.
    #[error("an answer with status {0}, which our admin ports never send")]
    Foreign(u16),
}

impl ProbeError {
    /// Whether something accepted the connection.
    fn is_accepted(&self) -> bool {
        match self {
            Self::NoAnswer(error) => error.is_accepted(),
            Self::NoStatus(_) | Self::Foreign(_) => true,
        }
    }
}

async fn get(
    address: SocketAddr,
    path: &str,
    timeout: Duration,
) -> Result<AdminAnswer, AdminError> {
    ask_admin(address, path, timeout, MAX_ANSWER_BYTES).await
}

/// What a balancer knows of its pods. Its `/status` is queried less often than its `/readyz`.
#[derive(Debug, Default)]
struct Sight {
    asked: Option<Instant>,
    /// The time since which the balancer reaches none of its pods.
    blind_since: Option<Instant>,
}

impl Sight {
    async fn look(&mut self, address: SocketAddr) {
        let now = Instant::now();
        if self
            .asked
            .is_some_and(|asked| now - asked < BALANCER_STATUS_INTERVAL)
        {
            return;
        }
        self.asked = Some(now);
        let answer = get(address, "/status", BALANCER_TIMEOUT).await;
        // A failed query, or an answer that is no balancer's status, changes nothing.
        let Ok(AdminAnswer { status: OK, body }) = answer else {
            return;
        };
        match pod_answers::reaches_no_pod(&body) {
            Some(true) => {
                self.blind_since.get_or_insert(now);
            }
            Some(false) => self.blind_since = None,
            None => {}
        }
    }

    fn is_blind(&self) -> bool {
        self.blind_since
            .is_some_and(|since| since.elapsed() >= BLIND_AFTER)
    }
}

async fn balancer(address: SocketAddr, sight: &mut Sight) -> Result<Answer, ProbeError> {
    let answer = get(address, "/readyz", BALANCER_TIMEOUT).await?;
    let serving = match answer.status {
        OK => true,
        UNAVAILABLE => false,
        // This is no balancer's admin port: the address may belong to another pod by now.
        other => return Err(ProbeError::Foreign(other)),
    };
    if serving {
        sight.look(address).await;
    }
    Ok(Answer::Balancer(Balancer {
        serving,
        why: (!serving).then(|| pod_answers::bounded(&String::from_utf8_lossy(&answer.body))),
        blind: serving && sight.is_blind(),
    }))
}

/// Queries a supervisor. `elsewhere` is the wrong port on which this pod's app was found to
/// listen. That port remains the reported cause until a worker is ready, however the workers
/// exit.
async fn supervisor(
    address: SocketAddr,
    elsewhere: &mut Option<u16>,
) -> Result<Answer, ProbeError> {
    let AdminAnswer { status, body } = get(address, "/status", SUPERVISOR_TIMEOUT).await?;
    if status != OK {
        return Err(ProbeError::Foreign(status));
    }
    let mut answer = pod_answers::supervisor(&body)?;
    if answer.ready > 0 {
        *elsewhere = None;
    } else if let Some(Trouble::ListensOn(port)) = answer.trouble {
        *elsewhere = Some(port);
    } else if let Some(port) = *elsewhere {
        answer.trouble = Some(Trouble::ListensOn(port));
    }
    Ok(Answer::Supervisor(answer))
}

/// A summary for the log, without text that a pod has chosen.
fn brief(answer: &Answer) -> String {
    match answer {
        Answer::NotYet => "nothing yet".to_owned(),
        Answer::Silent => "silence".to_owned(),
        Answer::Unreachable { accepted: true } => {
            "connections are accepted but not answered".to_owned()
        }
        Answer::Unreachable { accepted: false } => "no connection for some time".to_owned(),
        Answer::Balancer(answer) if answer.blind => "it serves but reaches no pod".to_owned(),
        Answer::Balancer(answer) if answer.serving => "it serves".to_owned(),
        Answer::Balancer(_) => "it does not serve".to_owned(),
        Answer::Supervisor(answer) => {
            let failed = answer.reload_failed.is_some();
            let reload = if failed { ", its reload failed" } else { "" };
            format!("{} of {} workers{reload}", answer.ready, answer.desired)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The worst case: a balancer dies right after an answer, and each probe takes its full
    /// timeout.
    #[test]
    fn a_dead_balancer_is_silent_in_time_for_a_take_over_within_two_seconds() {
        use crate::pod_health::MISSES;
        let looks = AFTER_MISS.max(BALANCER_TIMEOUT) * (MISSES - 1) + BALANCER_TIMEOUT;
        assert!(BALANCER_INTERVAL + looks <= Duration::from_millis(1_500));
    }
}
