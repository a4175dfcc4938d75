//! What the pods say themselves: whether each balancer serves, and how many
//! workers each supervisor has.
//!
//! The leader asks every balancer's `/readyz` each 500 ms; three misses in a
//! row, the later ones sooner, make it silent within about 1.5 s, so that its
//! slot is taken over within 2 s. A pod that was not asked yet counts as alive:
//! a new leader changes nothing because it knows nothing.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::StatusCode;
use k8s_openapi::api::core::v1::Pod;
use kube::runtime::reflector::Store;
use scaledapp_crds::words::{component, label, port};
use scaledapp_plan::cluster::{Heard, Supervisor, TOKEN_BYTES};
use serde::Deserialize;
use tokio::sync::Notify;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep, sleep_until};

use crate::lease::Leadership;
use crate::metrics::Metrics;
use crate::probe::{self, ProbeError};
use crate::watches::Triggers;

/// Between looks at a balancer.
const BALANCER_PERIOD: Duration = Duration::from_millis(500);
/// After a miss, the next look is this much after the one that missed.
const AFTER_MISS: Duration = Duration::from_millis(300);
/// A balancer on a busy node answers within this; a dead one never.
const BALANCER_TIMEOUT: Duration = Duration::from_millis(300);
/// So many in a row make a pod silent.
const MISSES: u32 = 3;
/// Between looks at a supervisor, for one pod and a few hundred …
const SUPERVISOR_PERIOD: Duration = Duration::from_secs(2);
/// … and for more, so long for each: two hundred looks a second in all.
const SUPERVISOR_SHARE: Duration = Duration::from_millis(5);
const SUPERVISOR_TIMEOUT: Duration = Duration::from_secs(1);
/// Of admin ports, where a pod names no port so.
const ADMIN_PORT: u16 = 9377;
/// The pods are looked through anew at least this often.
const ROUND: Duration = Duration::from_secs(1);

/// What is known of one pod.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Pulse {
    heard: Heard,
    misses: u32,
}

impl Pulse {
    /// Takes in one look; whether what counts changed.
    fn on(&mut self, look: Option<Heard>) -> bool {
        self.misses = match look {
            Some(_) => 0,
            None => self.misses.saturating_add(1),
        };
        if (1..MISSES).contains(&self.misses) {
            return false;
        }
        let heard = look.unwrap_or(Heard::Silent);
        let changed = self.heard != heard;
        self.heard = heard;
        changed
    }
}

/// What all pods said last, by uid.
#[derive(Debug, Default)]
pub struct Hearts {
    pulses: Mutex<HashMap<String, Pulse>>,
    /// The set of pods changed.
    pub(crate) pods_changed: Notify,
}

impl Hearts {
    fn pulses(&self) -> MutexGuard<'_, HashMap<String, Pulse>> {
        // Each change is one call: a panic leaves nothing half done.
        self.pulses.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the pod said last.
    pub fn heard(&self, uid: &str) -> Heard {
        self.pulses()
            .get(uid)
            .map(|pulse| pulse.heard.clone())
            .unwrap_or_default()
    }

    /// Takes in one look at a pod, `None` if it did not answer; whether what
    /// counts changed.
    pub fn take(&self, uid: &str, look: Option<Heard>) -> bool {
        self.pulses().entry(uid.to_owned()).or_default().on(look)
    }

    fn misses(&self, uid: &str) -> u32 {
        self.pulses().get(uid).map_or(0, |pulse| pulse.misses)
    }

    /// How many pods are in which state, for the admin port.
    pub(crate) fn counts(&self) -> [(&'static str, usize); 4] {
        let pulses = self.pulses();
        let count = |wanted: fn(&Heard) -> bool| {
            let heard = pulses.values().map(|pulse| &pulse.heard);
            heard.filter(|heard| wanted(heard)).count()
        };
        [
            ("notYet", count(|heard| matches!(heard, Heard::NotYet))),
            ("silent", count(|heard| matches!(heard, Heard::Silent))),
            (
                "servingBalancers",
                count(|heard| matches!(heard, Heard::Balancer { serving: true })),
            ),
            (
                "supervisors",
                count(|heard| matches!(heard, Heard::Supervisor(_))),
            ),
        ]
    }
}

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
    hearts: Arc<Hearts>,
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
        hearts.pulses().retain(|uid, _| targets.contains_key(uid));
        let period = SUPERVISOR_PERIOD.max(SUPERVISOR_SHARE * targets.len() as u32);
        for (uid, target) in targets {
            asked.entry(uid).or_insert_with(|| {
                let task = tokio::spawn(ask(
                    target.clone(),
                    period,
                    Arc::clone(&hearts),
                    triggers.clone(),
                    Arc::clone(&metrics),
                ));
                (target, task.abort_handle())
            });
        }
        tokio::select! {
            () = hearts.pods_changed.notified() => {}
            () = sleep(ROUND) => {}
        }
    }
}

async fn ask(
    target: Target,
    period: Duration,
    hearts: Arc<Hearts>,
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
    loop {
        let begun = Instant::now();
        let look = if target.balancer {
            balancer(target.address).await
        } else {
            supervisor(target.address).await
        };
        metrics.probed(component, if look.is_ok() { "ok" } else { "miss" });
        if let Err(error) = &look {
            tracing::debug!(address = %target.address, error = error as &dyn std::error::Error, "a pod does not answer");
        }
        if hearts.take(&target.uid, look.ok()) {
            tracing::info!(
                namespace = target.namespace,
                app = target.app,
                address = %target.address,
                component,
                heard = brief(&hearts.heard(&target.uid)),
                "a pod says something else than before"
            );
            triggers.app(&target.namespace, &target.app);
        }
        let missed = (1..MISSES).contains(&hearts.misses(&target.uid));
        let pause = if missed {
            AFTER_MISS.min(period)
        } else {
            period
        };
        sleep_until(begun + pause).await;
    }
}

async fn balancer(address: SocketAddr) -> Result<Heard, ProbeError> {
    let (status, _) = probe::get(address, "/readyz", BALANCER_TIMEOUT).await?;
    match status {
        StatusCode::OK => Ok(Heard::Balancer { serving: true }),
        StatusCode::SERVICE_UNAVAILABLE => Ok(Heard::Balancer { serving: false }),
        // Not an admin port of ours: a pod's address may have gone to another.
        other => Err(ProbeError::Foreign(other)),
    }
}

/// The part of `/status` that counts here; others are ignored.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Said {
    desired: u32,
    ready: u32,
    reloaded: Option<String>,
    reload_failed: Option<String>,
    workers: Vec<Worker>,
    waiting: Vec<Worker>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Worker {
    listens_elsewhere: Option<u16>,
    last_exit: Option<Exit>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Exit {
    text: String,
}

impl Said {
    /// What keeps workers from being ready, in the supervisor's words.
    fn trouble(&self) -> Option<String> {
        let mut workers = self.workers.iter();
        if let Some(port) = workers.find_map(|worker| worker.listens_elsewhere) {
            return Some(format!(
                "the app listens on {port}, which is not spec.port: change one of them"
            ));
        }
        let mut waiting = self.waiting.iter().chain(&self.workers);
        let exit = waiting.find_map(|worker| worker.last_exit.as_ref())?;
        let mut text = exit.text.clone();
        text.truncate(text.floor_char_boundary(TROUBLE_BYTES));
        Some(text)
    }
}

/// Of a supervisor's words.
const TROUBLE_BYTES: usize = 300;

async fn supervisor(address: SocketAddr) -> Result<Heard, ProbeError> {
    let (status, content) = probe::get(address, "/status", SUPERVISOR_TIMEOUT).await?;
    if status != StatusCode::OK {
        return Err(ProbeError::Foreign(status));
    }
    let said = said(&content).map_err(|error| ProbeError::Content(Box::new(error)))?;
    Ok(Heard::Supervisor(said))
}

/// Whoever can make pods can let one say anything: what is kept of it is bounded.
fn said(content: &[u8]) -> serde_json::Result<Supervisor> {
    let said: Said = serde_json::from_slice(content)?;
    // One that is longer is none of ours, but that a reload failed counts all the same.
    let token = |token: Option<String>| {
        token.map(|mut token| {
            token.truncate(token.floor_char_boundary(TOKEN_BYTES));
            token.shrink_to_fit();
            token
        })
    };
    let trouble = (said.ready == 0).then(|| said.trouble()).flatten();
    Ok(Supervisor {
        desired: said.desired,
        ready: said.ready,
        reloaded: token(said.reloaded),
        trouble,
        reload_failed: token(said.reload_failed),
    })
}

/// For the log: no text that a pod has chosen.
fn brief(heard: &Heard) -> String {
    match heard {
        Heard::NotYet => "nothing yet".to_owned(),
        Heard::Silent => "silence".to_owned(),
        Heard::Balancer { serving: true } => "it serves".to_owned(),
        Heard::Balancer { serving: false } => "it does not serve".to_owned(),
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

    const SERVES: Heard = Heard::Balancer { serving: true };
    const DRAINS: Heard = Heard::Balancer { serving: false };

    #[test]
    fn three_misses_make_silent_and_one_answer_undoes_it() {
        let mut pulse = Pulse::default();
        for (look, changed, heard) in [
            (None, false, Heard::NotYet),
            (None, false, Heard::NotYet),
            (Some(SERVES), true, SERVES),
            (None, false, SERVES),
            (None, false, SERVES),
            (None, true, Heard::Silent),
            (None, false, Heard::Silent),
            (Some(SERVES), true, SERVES),
            (Some(SERVES), false, SERVES),
            // It says itself that it leaves: no need to miss anything.
            (Some(DRAINS), true, DRAINS),
        ] {
            assert_eq!(pulse.on(look.clone()), changed, "{look:?}");
            assert_eq!(pulse.heard, heard);
        }
    }

    #[test]
    fn what_a_pod_says_is_bounded_and_none_of_it_is_logged() {
        let long = "ä".repeat(100_000);
        let text = serde_json::json!({
            "desired": u32::MAX, "ready": 0, "reloaded": long, "reloadFailed": format!("a{long}"),
            "more": [long],
        });
        let said = said(text.to_string().as_bytes()).unwrap();
        assert_eq!(said.desired, u32::MAX);
        assert_eq!(said.reloaded.as_ref().unwrap().len(), TOKEN_BYTES);
        assert_eq!(said.reload_failed.as_ref().unwrap().len(), TOKEN_BYTES - 1);
        let logged = brief(&Heard::Supervisor(said));
        assert_eq!(logged, "0 of 4294967295 workers, its reload failed");
    }

    #[test]
    fn counts_that_cannot_be_are_no_answer() {
        for text in [
            r#"{"desired": -1}"#,
            r#"{"desired": 4294967296}"#,
            r#"{"desired": 1e400}"#,
            r#"{"ready": "4"}"#,
            "",
        ] {
            assert!(said(text.as_bytes()).is_err(), "{text}");
        }
        let deep = format!(r#"{{"more": {}"#, "[".repeat(100_000));
        assert!(said(deep.as_bytes()).is_err());
    }

    /// Died right after an answer; each look takes as long as it may.
    #[test]
    fn a_dead_balancer_is_silent_in_time_for_a_take_over_within_two_seconds() {
        let looks = AFTER_MISS.max(BALANCER_TIMEOUT) * (MISSES - 1) + BALANCER_TIMEOUT;
        assert!(BALANCER_PERIOD + looks <= Duration::from_millis(1_500));
    }
}
