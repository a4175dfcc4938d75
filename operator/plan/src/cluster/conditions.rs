//! What the facts mean: six conditions, each with a reason and one sentence
//! that names the cure.
//!
//! `Ready`: requests are served. Until everything was there once, it wants all
//! of it; after that, a pod and an address that serve are enough, for `Degraded`
//! tells of the rest. `Reconciling` and `Stalled` are for kstatus.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::Timestamp;
use scaledapp_crds::kubernetes::ScaledApp;
use scaledapp_crds::words::{Reason, condition, label};

use super::Observed;
use super::cures::{self, Of, told};
use super::facts::{Facts, Outcome};
use super::meta::cut;
use super::rights;

/// Reasons of `Progressing` under which nothing was complete yet.
const NOT_STARTED: [Reason; 7] = [
    Reason::Starting,
    Reason::Paused,
    Reason::NotObserved,
    Reason::InvalidSpec,
    Reason::InvalidPodTemplate,
    Reason::NameConflict,
    Reason::ApplyFailed,
];

/// Of one condition: what a terminal still shows, and five of them fit well into an object.
const MESSAGE_BYTES: usize = 4096;

/// A condition without its times.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Said {
    holds: bool,
    reason: Reason,
    message: String,
}

fn said(holds: bool, reason: Reason, message: impl Into<String>) -> Said {
    Said {
        holds,
        reason,
        message: message.into(),
    }
}

/// All six, always, in one order.
pub(super) fn conditions(
    object: &ScaledApp,
    observed: &Observed,
    outcome: Outcome<'_>,
    facts: &Facts,
    before: &[Condition],
) -> Vec<Condition> {
    let find = |kind: &str| before.iter().find(|condition| condition.type_ == kind);
    let started = find(condition::READY).is_some_and(|ready| ready.status == "True")
        || find(condition::PROGRESSING).is_some_and(|progress| {
            !NOT_STARTED
                .iter()
                .any(|reason| *reason == progress.reason.as_str())
        });
    let judge = Judge {
        observed,
        outcome,
        facts,
        started: started || facts.complete(),
    };
    let stalled = judge.stalled();
    let progressing = judge.progressing(&stalled);
    let degraded = judge.degraded(&stalled);
    let reconciling = judge.reconciling(&stalled, &progressing, &degraded);
    let updated = judge.updated(&stalled, &progressing, &degraded);
    let all = [
        (condition::READY, judge.ready(&stalled)),
        (condition::PROGRESSING, progressing),
        (condition::DEGRADED, degraded),
        (condition::RECONCILING, reconciling),
        (condition::STALLED, stalled),
        (condition::UPDATED, updated),
    ];
    all.into_iter()
        .map(|(kind, said)| {
            stamp(
                kind,
                said,
                find(kind),
                object.metadata.generation,
                observed.now,
            )
        })
        .collect()
}

fn stamp(
    kind: &str,
    said: Said,
    before: Option<&Condition>,
    generation: Option<i64>,
    now: Timestamp,
) -> Condition {
    let status = if said.holds { "True" } else { "False" };
    let since = before
        .filter(|before| before.status == status)
        .map(|before| before.last_transition_time.clone());
    Condition {
        type_: kind.to_owned(),
        status: status.to_owned(),
        reason: said.reason.to_string(),
        message: bounded(said.message),
        observed_generation: generation,
        last_transition_time: since.unwrap_or(Time(now)),
    }
}

/// Some of it is in others' words: a kubelet's, an app's, an admission plugin's.
fn bounded(message: String) -> String {
    if message.len() <= MESSAGE_BYTES {
        return message;
    }
    format!("{}…", cut(&message, MESSAGE_BYTES - '…'.len_utf8()))
}

struct Judge<'a> {
    observed: &'a Observed,
    outcome: Outcome<'a>,
    facts: &'a Facts,
    /// Everything was there once.
    started: bool,
}

impl Judge<'_> {
    fn stalled(&self) -> Said {
        if let Outcome::Invalid(violations) = self.outcome {
            let all: Vec<String> = violations.iter().map(ToString::to_string).collect();
            return said(true, Reason::InvalidSpec, all.join("; "));
        }
        let planned = self
            .outcome
            .planned()
            .and_then(|(_, plan)| plan.stalled.as_ref());
        if let Some(stalled) = planned {
            return said(true, stalled.reason, stalled.message.clone());
        }
        if let Some(hidden) = self.hidden() {
            return hidden;
        }
        if let Some(cure) = &self.facts.held {
            return said(
                true,
                Reason::DeploymentPaused,
                format!(
                    "somebody has paused the app's Deployment, so its pods stay as they are: let it go on with {cure}"
                ),
            );
        }
        if self.facts.stuck {
            let failure = self.facts.failure.as_ref();
            let why = failure.map(|failure| told(failure, Of::App));
            let why = why.unwrap_or_else(|| "see `kubectl describe pod`".to_owned());
            let rest = if self.facts.ready > 0 {
                ", the old ones keep serving"
            } else {
                ""
            };
            return said(
                true,
                Reason::RolloutStuck,
                format!("the new pods do not become ready{rest}: {why}"),
            );
        }
        said(false, Reason::AsWanted, "nothing needs your help")
    }

    /// What the operator has written and cannot see.
    fn hidden(&self) -> Option<Said> {
        let hidden = self.observed.hidden.iter();
        let named: Vec<String> = hidden
            .map(|key| format!("{:?} {}", key.kind, key.name))
            .collect();
        (!named.is_empty()).then(|| {
            said(
                true,
                Reason::LabelsChanged,
                format!(
                    "an admission policy or webhook changes labels by which the operator finds its objects ({}): let it leave {} and {} as they are",
                    named.join(", "),
                    label::INSTANCE,
                    label::COMPONENT
                ),
            )
        })
    }

    fn progressing(&self, stalled: &Said) -> Said {
        if stalled.holds {
            return said(false, stalled.reason, stalled.message.clone());
        }
        if self.paused() {
            return left_alone();
        }
        if let Outcome::Failed(_, _, failed) = self.outcome {
            return self
                .refused()
                .unwrap_or_else(|| said(true, Reason::ApplyFailed, failed.why));
        }
        if !self.started {
            return said(
                true,
                Reason::Starting,
                "the first pods and balancers are coming up",
            );
        }
        if self.facts.scaling {
            return said(true, Reason::Scaling, "pods are being added or removed");
        }
        if self.facts.changing {
            return said(true, Reason::RollingOut, "new pods replace old ones");
        }
        let facts = self.facts;
        let uncounted = facts.ready < facts.wanted && facts.seen_ready >= facts.wanted;
        if (facts.young || uncounted) && !facts.complete() {
            return said(true, Reason::Scaling, "new pods are coming up");
        }
        said(false, Reason::AsWanted, "all is as asked for")
    }

    /// What the API server says no to.
    fn refused(&self) -> Option<Said> {
        match self.outcome {
            Outcome::Failed(_, _, failed) if failed.refused => Some(said(
                true,
                Reason::ApplyFailed,
                cures::of_object(failed.why),
            )),
            _ => None,
        }
    }

    /// What the API server says no to, if pods are refused only because that is missing.
    fn refused_first(&self) -> Option<Said> {
        let failure = self.facts.failure.as_ref();
        let is_result = failure.is_some_and(|failure| failure.reason == Reason::PodsRefused);
        self.refused().filter(|_| is_result)
    }

    fn paused(&self) -> bool {
        self.outcome.planned().is_some_and(|(app, _)| app.paused)
    }

    fn ready(&self, stalled: &Said) -> Said {
        let facts = self.facts;
        if facts.serves() && (self.started || facts.complete()) {
            return said(true, Reason::AsWanted, "requests are served");
        }
        // What keeps anything from being there at all says the most.
        if stalled.holds {
            return said(false, stalled.reason, stalled.message.clone());
        }
        if facts.no_node {
            return no_node();
        }
        if let Some(refused) = self.refused_first() {
            return Said {
                holds: false,
                ..refused
            };
        }
        if let Some(failure) = facts
            .failure
            .as_ref()
            .filter(|_| facts.ready < facts.wanted)
        {
            return said(false, failure.reason, told(failure, Of::App));
        }
        let no_balancer = !facts.slots.iter().any(|slot| slot.serving);
        if let Some(failure) = facts.balancer_failure.as_ref().filter(|_| no_balancer) {
            return said(false, failure.reason, told(failure, Of::Balancer));
        }
        if let Some(refused) = self.refused() {
            return Said {
                holds: false,
                ..refused
            };
        }
        if self.paused() {
            return left_alone();
        }
        if !self.started {
            return said(
                false,
                Reason::Starting,
                "the first pods and balancers are coming up",
            );
        }
        if facts.ready == 0 {
            return said(
                false,
                Reason::NoReadyPod,
                "no pod serves: `kubectl describe pod` tells why",
            );
        }
        self.no_slot()
    }

    fn no_slot(&self) -> Said {
        if self.facts.named_slot {
            return named();
        }
        if self.facts.slots.iter().all(|slot| slot.address.is_empty()) {
            return said(
                false,
                Reason::NoAddress,
                "no balancer has an address yet: LoadBalancer exposure needs a cluster that hands out addresses, else set spec.balancers.exposure to ClusterIP",
            );
        }
        said(
            false,
            Reason::NoBalancerServing,
            "no balancer serves: `kubectl describe pod` on the balancers' pods tells why",
        )
    }

    fn degraded(&self, stalled: &Said) -> Said {
        let found = self.missing();
        // What is missing says more than why nothing is done about it.
        if found.holds {
            found
        } else if stalled.holds {
            stalled.clone()
        } else if self.paused() {
            left_alone()
        } else {
            found
        }
    }

    fn missing(&self) -> Said {
        let facts = self.facts;
        if facts.reload_failed {
            return said(
                true,
                Reason::ReloadFailed,
                "a pod could not reload, its old workers keep serving and the other pods were left alone: cure the app, then set the annotation scaledapp.io/reload to another value",
            );
        }
        if let Some((_, plan)) = self.outcome.planned()
            && let Some(why) = rights::difference(&plan.apply, &self.observed.live)
        {
            return said(true, Reason::RightsDiffer, why);
        }
        if facts.no_node {
            return Said {
                holds: true,
                ..no_node()
            };
        }
        let fewer = facts.ready < facts.wanted;
        if let Some(refused) = self.refused_first() {
            return refused;
        }
        // Of a release whose old pods still serve, too.
        let coming = fewer || facts.changing;
        if let Some(failure) = facts.failure.as_ref().filter(|_| coming) {
            return said(true, failure.reason, told(failure, Of::App));
        }
        if let Some(refused) = self.refused() {
            return refused;
        }
        // What has become ready just now is not yet counted by its Deployment.
        let fewer = fewer && facts.seen_ready < facts.wanted;
        if self.started && fewer && !facts.changing && !facts.young {
            return said(
                true,
                Reason::FewerPodsReady,
                "fewer pods serve than were asked for",
            );
        }
        if facts.full_nodes {
            return said(
                true,
                Reason::NodesWithoutRoom,
                "a node has no room for its pod, the others have theirs: free some of it, lower spec.resources.requests, or leave the node out by spec.podTemplate.spec.nodeSelector",
            );
        }
        if facts.named_slot {
            return Said {
                holds: true,
                ..named()
            };
        }
        if let Some(name) = self.hostname() {
            return name;
        }
        let all_balancers = facts.own_balancers && facts.serves_everywhere();
        if let Some(failure) = facts.balancer_failure.as_ref().filter(|_| !all_balancers) {
            return said(true, failure.reason, told(failure, Of::Balancer));
        }
        if let Some(why) = &facts.unreachable {
            return said(true, Reason::PodsUnreachable, why.clone());
        }
        if self.started && !all_balancers && !facts.young {
            return said(
                true,
                Reason::FewerBalancersServing,
                "a balancer does not serve: the others answer at its address",
            );
        }
        let workers = facts.workers.ready.saturating_add(facts.booting);
        let fewer_workers = workers < facts.workers.desired;
        if self.started && !facts.changing && fewer_workers && !facts.young {
            return said(
                true,
                Reason::FewerWorkersReady,
                "fewer workers are ready than were asked for: `kubectl logs` of the pods tells why",
            );
        }
        said(false, Reason::AsWanted, "nothing is missing")
    }

    /// What keeps DNS of ours from answering for the app.
    fn hostname(&self) -> Option<Said> {
        if let Some(refused) = &self.observed.hostname_refused {
            return Some(said(true, refused.reason, refused.message.clone()));
        }
        let other = self.observed.hostname_taken_by.as_ref()?;
        Some(said(
            true,
            Reason::HostnameTaken,
            format!(
                "{other} is older and has the same spec.dns.hostname: give one of them another"
            ),
        ))
    }

    /// Whether this generation is out: what a pipeline waits for.
    fn updated(&self, stalled: &Said, progressing: &Said, degraded: &Said) -> Said {
        let applied = matches!(self.outcome, Outcome::Applied(..));
        if applied && !stalled.holds && !self.paused() && self.facts.complete() {
            return said(true, Reason::AsWanted, "this generation serves everywhere");
        }
        let why = [stalled, degraded, progressing]
            .into_iter()
            .find(|it| it.holds);
        match why {
            Some(Said {
                reason, message, ..
            }) => said(false, *reason, message),
            None if self.paused() => said(false, Reason::Paused, &*progressing.message),
            None => {
                let Said {
                    reason, message, ..
                } = self.no_slot();
                said(false, reason, message)
            }
        }
    }

    fn reconciling(&self, stalled: &Said, progressing: &Said, degraded: &Said) -> Said {
        if stalled.holds || self.paused() {
            return said(false, progressing.reason, progressing.message.clone());
        }
        if progressing.holds {
            return progressing.clone();
        }
        if !self.facts.complete() {
            let Said {
                reason, message, ..
            } = if degraded.holds {
                degraded.clone()
            } else {
                self.no_slot()
            };
            return said(true, reason, message);
        }
        said(false, Reason::AsWanted, "all is as asked for")
    }
}

fn left_alone() -> Said {
    said(
        false,
        Reason::Paused,
        "spec.paused is true, so only the addresses are kept up: remove it to let the app go on",
    )
}

fn no_node() -> Said {
    said(
        false,
        Reason::NoMatchingNode,
        "no node takes the pods: loosen nodeSelector, affinity or tolerations in spec.podTemplate.spec, or uncordon a node",
    )
}

fn named() -> Said {
    said(
        false,
        Reason::AddressIsAName,
        "the cloud gives a slot a host name instead of an IP, which DNS of ours cannot publish: set spec.balancers.exposure to ClusterIP, or ask the cloud for an IP by its annotations",
    )
}
