//! What the pods say themselves: whether each balancer serves, and how many
//! workers each supervisor has.
//!
//! What follows from the answers is in [`crate::pod_health`].
//!
//! The leader asks every balancer's `/readyz` each 500 ms; three misses in a
//! row, the later ones sooner, make it silent within about 1.5 s, so that its
//! slot is taken over within 2 s. A pod that was not asked yet counts as alive:
//! a new leader changes nothing because it knows nothing.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use k8s_openapi::api::core::v1::Pod;
use kube::runtime::reflector::Store;
use scaledapp_crds::words::{component, label, port};
use scaledapp_plan::cluster::{Balancer, Heard, Trouble};
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep, sleep_until};

use crate::lease::Leadership;
use crate::metrics::Metrics;
use crate::pod_health::{Miss, PodsHealth};
use crate::probe::{self, ProbeError};
use crate::said;
use crate::triggers::Triggers;

/// Between looks at a balancer.
const BALANCER_PERIOD: Duration = Duration::from_millis(500);
/// After a miss, the next look is this much after the one that missed.
const AFTER_MISS: Duration = Duration::from_millis(300);
/// A balancer on a busy node answers within this; a dead one never.
const BALANCER_TIMEOUT: Duration = Duration::from_millis(300);
/// Between looks at what a balancer knows of its pods.
const BALANCER_STATUS_PERIOD: Duration = Duration::from_secs(2);
/// A balancer that has reached no pod for so long is told of.
const BLIND: Duration = Duration::from_secs(6);
/// Between looks at a supervisor, for one pod and a few hundred …
const SUPERVISOR_PERIOD: Duration = Duration::from_secs(2);
/// … and for more, so long for each: two hundred looks a second in all.
const SUPERVISOR_SHARE: Duration = Duration::from_millis(5);
const SUPERVISOR_TIMEOUT: Duration = Duration::from_secs(1);
/// Of admin ports, where a pod names no port so.
const ADMIN_PORT: u16 = 9377;
/// The pods are looked through anew at least this often.
const ROUND: Duration = Duration::from_secs(1);

/// A pod as far as it is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Target {
    uid: String,
    namespace: String,
    app: String,
    address: SocketAddr,
    balancer: bool,
}

impl Target {
    /// `None` for a pod that has no address yet or will never answer again.
    fn of(pod: &Pod) -> Option<Self> {
        let labels = pod.metadata.labels.as_ref()?;
        let status = pod.status.as_ref()?;
        if matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")) {
            return None;
        }
        let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
        let mut ports = containers.flat_map(|container| container.ports.iter().flatten());
        let admin = ports
            .find(|it| it.name.as_deref() == Some(port::ADMIN))
            .and_then(|it| u16::try_from(it.container_port).ok());
        Some(Self {
            uid: pod.metadata.uid.clone()?,
            namespace: pod.metadata.namespace.clone()?,
            app: labels.get(label::INSTANCE)?.clone(),
            address: SocketAddr::new(
                status.pod_ip.as_deref()?.parse().ok()?,
                admin.unwrap_or(ADMIN_PORT),
            ),
            balancer: match labels.get(label::COMPONENT)?.as_str() {
                component::BALANCER => true,
                component::APP => false,
                _ => return None,
            },
        })
    }
}

/// Asks all pods while this replica leads. Never ends.
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
        let period = SUPERVISOR_PERIOD.max(SUPERVISOR_SHARE * targets.len() as u32);
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
            () = sleep(ROUND) => {}
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
        (BALANCER_PERIOD, component::BALANCER)
    } else {
        // Not all at the same moment.
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
                heard = brief(&pods_health.heard(&target.uid)),
                "a pod says something else than before"
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

/// What a balancer sees of its pods, asked less often than whether it serves.
#[derive(Debug, Default)]
struct Sight {
    asked: Option<Instant>,
    /// Since when it reaches none of them.
    blind_since: Option<Instant>,
}

impl Sight {
    async fn look(&mut self, address: SocketAddr) {
        let now = Instant::now();
        if self
            .asked
            .is_some_and(|asked| now - asked < BALANCER_STATUS_PERIOD)
        {
            return;
        }
        self.asked = Some(now);
        let answer = probe::get(address, "/status", BALANCER_TIMEOUT).await;
        // What it does not say changes nothing.
        let Ok((StatusCode::OK, content)) = answer else {
            return;
        };
        match said::reaches_no_pod(&content) {
            Some(true) => {
                self.blind_since.get_or_insert(now);
            }
            Some(false) => self.blind_since = None,
            None => {}
        }
    }

    fn is_blind(&self) -> bool {
        self.blind_since
            .is_some_and(|since| since.elapsed() >= BLIND)
    }
}

async fn balancer(address: SocketAddr, sight: &mut Sight) -> Result<Heard, ProbeError> {
    let (status, content) = probe::get(address, "/readyz", BALANCER_TIMEOUT).await?;
    let serving = match status {
        StatusCode::OK => true,
        StatusCode::SERVICE_UNAVAILABLE => false,
        // Not an admin port of ours: a pod's address may have gone to another.
        other => return Err(ProbeError::Foreign(other)),
    };
    if serving {
        sight.look(address).await;
    }
    Ok(Heard::Balancer(Balancer {
        serving,
        why: (!serving).then(|| said::bounded(&String::from_utf8_lossy(&content))),
        blind: serving && sight.is_blind(),
    }))
}

/// `elsewhere`: the port that the app was found to listen on instead of its own. In the
/// same pod that stays the cause, whatever its workers are ended for, until one is ready.
async fn supervisor(address: SocketAddr, elsewhere: &mut Option<u16>) -> Result<Heard, ProbeError> {
    let (status, content) = probe::get(address, "/status", SUPERVISOR_TIMEOUT).await?;
    if status != StatusCode::OK {
        return Err(ProbeError::Foreign(status));
    }
    let mut said =
        said::supervisor(&content).map_err(|error| ProbeError::Content(Box::new(error)))?;
    if said.ready > 0 {
        *elsewhere = None;
    } else if let Some(Trouble::ListensOn(port)) = said.trouble {
        *elsewhere = Some(port);
    } else if let Some(port) = *elsewhere {
        said.trouble = Some(Trouble::ListensOn(port));
    }
    Ok(Heard::Supervisor(said))
}

/// For the log: no text that a pod has chosen.
fn brief(heard: &Heard) -> String {
    match heard {
        Heard::NotYet => "nothing yet".to_owned(),
        Heard::Silent => "silence".to_owned(),
        Heard::Unreachable { accepted: true } => "no answer at a port that accepts".to_owned(),
        Heard::Unreachable { accepted: false } => "no connection for long".to_owned(),
        Heard::Balancer(said) if said.blind => "it serves and reaches no pod".to_owned(),
        Heard::Balancer(said) if said.serving => "it serves".to_owned(),
        Heard::Balancer(_) => "it does not serve".to_owned(),
        Heard::Supervisor(said) => {
            let failed = said.reload_failed.is_some();
            let reload = if failed { ", its reload failed" } else { "" };
            format!("{} of {} workers{reload}", said.ready, said.desired)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Died right after an answer; each look takes as long as it may.
    #[test]
    fn a_dead_balancer_is_silent_in_time_for_a_take_over_within_two_seconds() {
        use crate::pod_health::MISSES;
        let looks = AFTER_MISS.max(BALANCER_TIMEOUT) * (MISSES - 1) + BALANCER_TIMEOUT;
        assert!(BALANCER_PERIOD + looks <= Duration::from_millis(1_500));
    }
}
