//! Derives the six conditions of an app from the facts. Each condition has a reason and a
//! message; if something is wrong and a cure is known, the message names it.
//!
//! `Ready` means that requests are served. It becomes true for the first time once everything is
//! complete. After that, it stays true while at least one pod and one address serve, and
//! `Degraded` reports what is missing. `Reconciling` and `Stalled` are the conditions that
//! kstatus reads.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::Timestamp;
use scaledapp_crds::kubernetes::ScaledApp;
use scaledapp_crds::words::{Reason, condition, label};

use super::Observed;
use super::adoption;
use super::autoscalers;
use super::cures::{self, Of, failure_message};
use super::facts::{Facts, Outcome};
use super::issuance;
use super::meta::cut;
use super::rights;
use super::scaling::Sleep;

/// Reasons of `Progressing` that do not show that the app has ever been complete.
const NOT_STARTED: [Reason; 7] = [
    Reason::Starting,
    Reason::Paused,
    Reason::NotObserved,
    Reason::InvalidSpec,
    Reason::InvalidPodTemplate,
    Reason::NameConflict,
    Reason::ApplyFailed,
];

/// Longest message of a condition: a terminal can show it, and the messages of all
/// conditions together fit well into an object.
const MAX_MESSAGE_BYTES: usize = 4096;

/// A condition without its times.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Verdict {
    holds: bool,
    reason: Reason,
    message: String,
}

fn verdict(holds: bool, reason: Reason, message: impl Into<String>) -> Verdict {
    Verdict {
        holds,
        reason,
        message: message.into(),
    }
}

/// All six conditions, always in the same order.
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
    let is_told_unowned = find(condition::DEGRADED)
        .is_some_and(|degraded| Reason::NotOwned == degraded.reason.as_str());
    let slept = find(condition::READY).is_some_and(|ready| {
        let reasons = [Reason::ScaledToZero, Reason::WakingUp];
        ready.status == "True" && reasons.iter().any(|it| *it == ready.reason.as_str())
    });
    let judge = Judge {
        object,
        observed,
        outcome,
        facts,
        started: started || facts.complete(),
        is_told_unowned,
        slept,
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
        .map(|(kind, verdict)| {
            stamp(
                kind,
                verdict,
                find(kind),
                object.metadata.generation,
                observed.now,
            )
        })
        .collect()
}

fn stamp(
    kind: &str,
    verdict: Verdict,
    before: Option<&Condition>,
    generation: Option<i64>,
    now: Timestamp,
) -> Condition {
    let status = if verdict.holds { "True" } else { "False" };
    let since = before
        .filter(|before| before.status == status)
        .map(|before| before.last_transition_time.clone());
    Condition {
        type_: kind.to_owned(),
        status: status.to_owned(),
        reason: verdict.reason.to_string(),
        message: bounded(verdict.message),
        observed_generation: generation,
        last_transition_time: since.unwrap_or(Time(now)),
    }
}

/// Cuts a long message: what it quotes from a kubelet, an app or an admission plugin may have any
/// length.
fn bounded(message: String) -> String {
    if message.len() <= MAX_MESSAGE_BYTES {
        return message;
    }
    format!("{}…", cut(&message, MAX_MESSAGE_BYTES - '…'.len_utf8()))
}

struct Judge<'a> {
    object: &'a ScaledApp,
    observed: &'a Observed,
    outcome: Outcome<'a>,
    facts: &'a Facts,
    /// The app was complete at least once.
    started: bool,
    /// The last written `Degraded` condition has the reason `NotOwned`.
    is_told_unowned: bool,
    /// According to the last written `Ready` condition, the app had no pod, as decided.
    slept: bool,
}

impl Judge<'_> {
    fn stalled(&self) -> Verdict {
        if let Outcome::Invalid(violations) = self.outcome {
            let all: Vec<String> = violations.iter().map(ToString::to_string).collect();
            return verdict(true, Reason::InvalidSpec, all.join("; "));
        }
        let planned = self
            .outcome
            .planned()
            .and_then(|(_, plan)| plan.stalled.as_ref());
        if let Some(stalled) = planned {
            return verdict(true, stalled.reason, stalled.message.clone());
        }
        if let Some(hidden) = self.hidden() {
            return hidden;
        }
        if let Some(cure) = &self.facts.resume_cure {
            return verdict(
                true,
                Reason::DeploymentPaused,
                format!(
                    "the app's Deployment is paused, so its pods stay as they are: resume it with {cure}"
                ),
            );
        }
        if self.facts.stuck {
            let failure = self.facts.failure.as_ref();
            let why = failure.map(|failure| failure_message(failure, Of::App));
            let why = why.unwrap_or_else(|| "see `kubectl describe pod`".to_owned());
            let rest = if self.facts.ready > 0 {
                ", the old ones keep serving"
            } else {
                ""
            };
            return verdict(
                true,
                Reason::RolloutStuck,
                format!("the new pods do not become ready{rest}: {why}"),
            );
        }
        verdict(false, Reason::AsWanted, "no action is needed")
    }

    /// Reports objects that the operator has written and cannot find again.
    fn hidden(&self) -> Option<Verdict> {
        let hidden = self.observed.hidden.iter();
        let named: Vec<String> = hidden
            .map(|key| format!("{:?} {}", key.kind, key.name))
            .collect();
        (!named.is_empty()).then(|| {
            verdict(
                true,
                Reason::LabelsChanged,
                format!(
                    "an admission policy or webhook changes labels by which the operator finds its objects ({}): exempt {} and {} from it",
                    named.join(", "),
                    label::INSTANCE,
                    label::COMPONENT
                ),
            )
        })
    }

    fn progressing(&self, stalled: &Verdict) -> Verdict {
        if stalled.holds {
            return verdict(false, stalled.reason, stalled.message.clone());
        }
        if self.paused() {
            return left_alone();
        }
        if let Outcome::Failed(_, _, failed) = self.outcome {
            return self
                .refused()
                .unwrap_or_else(|| verdict(true, Reason::ApplyFailed, failed.why));
        }
        if !self.started {
            return verdict(
                true,
                Reason::Starting,
                "the first pods and balancers are coming up",
            );
        }
        if self.facts.scaling {
            return verdict(true, Reason::Scaling, "pods are being added or removed");
        }
        if self.facts.changing {
            return verdict(true, Reason::RollingOut, "new pods replace old ones");
        }
        let facts = self.facts;
        let uncounted = facts.ready < facts.wanted && facts.seen_ready >= facts.wanted;
        if (facts.young || uncounted) && !facts.complete() {
            return verdict(true, Reason::Scaling, "new pods are coming up");
        }
        verdict(false, Reason::AsWanted, "everything is as specified")
    }

    /// Reports what the API server refuses.
    fn refused(&self) -> Option<Verdict> {
        match self.outcome {
            Outcome::Failed(_, _, failed) if failed.refused => Some(verdict(
                true,
                Reason::ApplyFailed,
                cures::of_object(failed.why),
            )),
            _ => None,
        }
    }

    /// Like `refused`, but only if pods are missing because of the refused object.
    fn refused_first(&self) -> Option<Verdict> {
        let failure = self.facts.failure.as_ref();
        let is_result = failure.is_some_and(|failure| failure.reason == Reason::PodsRefused);
        self.refused().filter(|_| is_result)
    }

    fn paused(&self) -> bool {
        self.outcome.planned().is_some_and(|(app, _)| app.paused)
    }

    fn ready(&self, stalled: &Verdict) -> Verdict {
        let facts = self.facts;
        if facts.serves() && (self.started || facts.complete()) {
            return verdict(true, Reason::AsWanted, "requests are served");
        }
        if let Some(sleeping) = self.sleeping() {
            return sleeping;
        }
        // The reason of a stalled app comes first, because it explains why the rest is missing.
        if stalled.holds {
            return verdict(false, stalled.reason, stalled.message.clone());
        }
        if facts.no_node {
            return no_node();
        }
        if let Some(refused) = self.refused_first() {
            return Verdict {
                holds: false,
                ..refused
            };
        }
        if let Some(failure) = facts
            .failure
            .as_ref()
            .filter(|_| facts.ready < facts.wanted)
        {
            return verdict(false, failure.reason, failure_message(failure, Of::App));
        }
        let no_balancer = !facts.slots.iter().any(|slot| slot.serving);
        // The balancers' pods wait for the Secret, and the Certificate says why it is missing.
        if let Some(uncertified) = self.uncertified().filter(|_| no_balancer) {
            return Verdict {
                holds: false,
                ..uncertified
            };
        }
        if let Some(failure) = facts.balancer_failure.as_ref().filter(|_| no_balancer) {
            return verdict(
                false,
                failure.reason,
                failure_message(failure, Of::Balancer),
            );
        }
        if let Some(refused) = self.refused() {
            return Verdict {
                holds: false,
                ..refused
            };
        }
        if self.paused() {
            return left_alone();
        }
        if !self.started {
            return verdict(
                false,
                Reason::Starting,
                "the first pods and balancers are coming up",
            );
        }
        if facts.ready == 0 {
            return verdict(
                false,
                Reason::NoReadyPod,
                "no pod serves: `kubectl describe pod` shows why",
            );
        }
        self.no_slot()
    }

    /// An app without a pod serves all the same if its balancers hold requests.
    fn sleeping(&self) -> Option<Verdict> {
        let facts = self.facts;
        if !self.started || !facts.serves_somewhere() {
            return None;
        }
        let (reason, message) = match facts.sleep {
            Sleep::Asleep => (
                Reason::ScaledToZero,
                "there is no pod because there are no requests: the next one waits at a balancer until a pod is ready",
            ),
            Sleep::Waking if self.slept => (
                Reason::WakingUp,
                "requests wait at the balancers until the first pod is ready",
            ),
            Sleep::Waking | Sleep::Awake => return None,
        };
        Some(verdict(true, reason, message))
    }

    fn no_slot(&self) -> Verdict {
        if self.facts.named_slot {
            return named();
        }
        if self.facts.slots.iter().all(|slot| slot.address.is_empty()) {
            return verdict(
                false,
                Reason::NoAddress,
                "no balancer has an address yet: LoadBalancer exposure needs a cluster that assigns addresses; otherwise set spec.balancers.exposure to ClusterIP",
            );
        }
        verdict(
            false,
            Reason::NoBalancerServing,
            "no balancer serves: `kubectl describe pod` on the balancers' pods shows why",
        )
    }

    fn degraded(&self, stalled: &Verdict) -> Verdict {
        let found = self.missing();
        // What is missing is more useful than why the operator does nothing about it.
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

    fn missing(&self) -> Verdict {
        let facts = self.facts;
        if facts.reload_failed {
            return verdict(
                true,
                Reason::ReloadFailed,
                "a pod could not reload; its old workers keep serving, and the other pods were not reloaded: repair the app, then set the annotation scaledapp.io/reload to another value",
            );
        }
        if let Some((_, plan)) = self.outcome.planned()
            && let Some(why) = rights::difference(&plan.apply, &self.observed.live)
        {
            return verdict(true, Reason::RightsDiffer, why);
        }
        if facts.no_node {
            return Verdict {
                holds: true,
                ..no_node()
            };
        }
        let fewer = facts.ready < facts.wanted;
        if let Some(refused) = self.refused_first() {
            return refused;
        }
        // A failure is also reported during a release whose old pods still serve.
        let coming = fewer || facts.changing;
        if let Some(failure) = facts.failure.as_ref().filter(|_| coming) {
            return verdict(true, failure.reason, failure_message(failure, Of::App));
        }
        if let Some(refused) = self.refused() {
            return refused;
        }
        // A Deployment counts a pod a moment after the pod became ready.
        let fewer = fewer && facts.seen_ready < facts.wanted;
        if self.started && fewer && !facts.changing && !facts.young {
            return verdict(
                true,
                Reason::FewerPodsReady,
                "fewer pods serve than were asked for",
            );
        }
        if facts.full_nodes {
            return verdict(
                true,
                Reason::NodesWithoutRoom,
                "a node has no room for its pod, while the other nodes have theirs: free resources there, lower spec.resources.requests, or exclude the node with spec.podTemplate.spec.nodeSelector",
            );
        }
        if facts.named_slot {
            return Verdict {
                holds: true,
                ..named()
            };
        }
        if let Some(verdict) = self.uncertified().or_else(|| self.hostname()) {
            return verdict;
        }
        let all_balancers = facts.own_balancers && facts.serves_everywhere();
        if let Some(failure) = facts.balancer_failure.as_ref().filter(|_| !all_balancers) {
            return verdict(true, failure.reason, failure_message(failure, Of::Balancer));
        }
        if let Some(why) = &facts.unreachable {
            return verdict(true, Reason::PodsUnreachable, why.clone());
        }
        if self.started && !all_balancers && !facts.young {
            return verdict(
                true,
                Reason::FewerBalancersServing,
                "a balancer does not serve: the others answer at its address",
            );
        }
        let workers = facts.workers.ready.saturating_add(facts.booting);
        let fewer_workers = workers < facts.workers.desired;
        if self.started && !facts.changing && fewer_workers && !facts.young {
            return verdict(
                true,
                Reason::FewerWorkersReady,
                "fewer workers are ready than were asked for: `kubectl logs` of the pods shows why",
            );
        }
        let nothing = || verdict(false, Reason::AsWanted, "nothing is missing");
        self.lasting().unwrap_or_else(nothing)
    }

    /// Reports a problem that does not keep requests from being served, and that lasts
    /// until somebody changes something.
    fn lasting(&self) -> Option<Verdict> {
        if let Some(why) = autoscalers::trouble(self.object, self.observed) {
            return Some(verdict(true, Reason::AutoscalerCannotScale, why));
        }
        let (_, plan) = self.outcome.planned()?;
        let told = self.is_told_unowned;
        let why = adoption::unowned(self.object, self.observed, &plan.apply, told)?;
        Some(verdict(true, Reason::NotOwned, why))
    }

    /// Reports why the issuer's certificate is not there.
    fn uncertified(&self) -> Option<Verdict> {
        let (app, _) = self.outcome.planned()?;
        let why = issuance::trouble(app, self.observed)?;
        Some(verdict(true, Reason::CertificateNotIssued, why))
    }

    /// Reports why scaledapp-dns does not answer for the app.
    fn hostname(&self) -> Option<Verdict> {
        if let Some(refused) = &self.observed.hostname_refused {
            return Some(verdict(true, refused.reason, refused.message.clone()));
        }
        let other = self.observed.hostname_taken_by.as_ref()?;
        Some(verdict(
            true,
            Reason::HostnameTaken,
            format!("{other} is older and has the same spec.dns.hostname: change one of the two"),
        ))
    }

    /// Whether this generation is rolled out, which a deployment pipeline waits for.
    fn updated(&self, stalled: &Verdict, progressing: &Verdict, degraded: &Verdict) -> Verdict {
        let applied = matches!(self.outcome, Outcome::Applied(..));
        if applied && !stalled.holds && !self.paused() && self.facts.complete() {
            return verdict(true, Reason::AsWanted, "this generation serves everywhere");
        }
        let why = [stalled, degraded, progressing]
            .into_iter()
            .find(|it| it.holds);
        match why {
            Some(Verdict {
                reason, message, ..
            }) => verdict(false, *reason, message),
            None if self.paused() => verdict(false, Reason::Paused, &*progressing.message),
            None => {
                let Verdict {
                    reason, message, ..
                } = self.no_slot();
                verdict(false, reason, message)
            }
        }
    }

    fn reconciling(&self, stalled: &Verdict, progressing: &Verdict, degraded: &Verdict) -> Verdict {
        if stalled.holds || self.paused() {
            return verdict(false, progressing.reason, progressing.message.clone());
        }
        if progressing.holds {
            return progressing.clone();
        }
        if !self.facts.complete() {
            let Verdict {
                reason, message, ..
            } = if degraded.holds {
                degraded.clone()
            } else {
                self.no_slot()
            };
            return verdict(true, reason, message);
        }
        verdict(false, Reason::AsWanted, "everything is as specified")
    }
}

fn left_alone() -> Verdict {
    verdict(
        false,
        Reason::Paused,
        "spec.paused is true, so the operator only keeps the addresses up to date: remove it to resume",
    )
}

fn no_node() -> Verdict {
    verdict(
        false,
        Reason::NoMatchingNode,
        "no node takes the pods: loosen nodeSelector, affinity or tolerations in spec.podTemplate.spec, or uncordon a node",
    )
}

fn named() -> Verdict {
    verdict(
        false,
        Reason::AddressIsAName,
        "the cloud gives a slot a host name instead of an IP, and scaledapp-dns cannot publish that: set spec.balancers.exposure to ClusterIP, or request an IP with the cloud's annotations",
    )
}
