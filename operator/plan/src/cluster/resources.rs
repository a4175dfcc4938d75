//! The free resources of a node, by the scheduler's arithmetic: what the node offers, minus
//! what its pods request.
//!
//! CPU, memory and the number of pods are counted. [`super::nodes`] learns other constraints from
//! the scheduler's refusals.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{self, Container, PodSpec};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::drift::amount;

/// Amounts of the resources that are counted, each in billionths.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Resources {
    /// CPUs.
    pub cpu: i128,
    /// Bytes.
    pub memory: i128,
    /// Pods.
    pub pods: i128,
}

const ONE: i128 = 1_000_000_000;

/// An amount of CPU in thousandths of a core, rounded down; `None` if it is no amount.
pub fn cpu_millis(text: &str) -> Option<u64> {
    u64::try_from(amount(text)? / (ONE / 1000)).ok()
}

impl Resources {
    /// The amounts of a list; an absent one is 0.
    pub(super) fn of(amounts: Option<&BTreeMap<String, Quantity>>) -> Self {
        let get = |name: &str| {
            amounts
                .and_then(|amounts| amount(&amounts.get(name)?.0))
                .unwrap_or_default()
        };
        Self {
            cpu: get("cpu"),
            memory: get("memory"),
            pods: get("pods"),
        }
    }

    fn plus(self, other: Self) -> Self {
        Self {
            cpu: self.cpu.saturating_add(other.cpu),
            memory: self.memory.saturating_add(other.memory),
            pods: self.pods.saturating_add(other.pods),
        }
    }

    fn or_more(self, other: Self) -> Self {
        Self {
            cpu: self.cpu.max(other.cpu),
            memory: self.memory.max(other.memory),
            pods: self.pods.max(other.pods),
        }
    }

    /// The sum of what these pods request; pods that have ended request nothing.
    pub fn used<'a>(pods: impl IntoIterator<Item = &'a v1::Pod>) -> Self {
        let lives = |pod: &&v1::Pod| {
            let phase = pod.status.as_ref().and_then(|it| it.phase.as_deref());
            !matches!(phase, Some("Succeeded" | "Failed"))
        };
        let pods = pods.into_iter().filter(lives);
        pods.filter_map(|pod| pod.spec.as_ref())
            .map(asked)
            .fold(Self::default(), Self::plus)
    }

    /// How many more pods like `pod` fit onto a node that offers `self` and whose pods request
    /// `used`.
    pub(super) fn fits(self, used: Self, pod: &PodSpec) -> u32 {
        let one = asked(pod);
        let of = |offered: i128, used: i128, one: i128| {
            if one <= 0 {
                i128::from(u32::MAX)
            } else {
                (offered - used).max(0) / one
            }
        };
        of(self.cpu, used.cpu, one.cpu)
            .min(of(self.memory, used.memory, one.memory))
            .min(of(self.pods, used.pods, one.pods))
            .try_into()
            .unwrap_or(u32::MAX)
    }
}

/// What the scheduler counts for a pod.
fn asked(pod: &PodSpec) -> Resources {
    // Kubernetes uses a limit without a request as the request.
    let of = |container: &Container| {
        let resources = container.resources.as_ref();
        let mut amounts = resources
            .and_then(|it| it.limits.clone())
            .unwrap_or_default();
        amounts.extend(
            resources
                .and_then(|it| it.requests.clone())
                .unwrap_or_default(),
        );
        Resources::of(Some(&amounts))
    };
    let (mut stays, mut start) = (Resources::default(), Resources::default());
    for container in pod.init_containers.iter().flatten() {
        if container.restart_policy.as_deref() == Some("Always") {
            stays = stays.plus(of(container));
            start = start.or_more(stays);
        } else {
            start = start.or_more(stays.plus(of(container)));
        }
    }
    let all = pod.containers.iter().map(of).fold(stays, Resources::plus);
    let overhead = Resources::of(pod.overhead.as_ref());
    Resources {
        pods: ONE,
        ..all.or_more(start).plus(overhead)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(cpu: &str, memory: &str) -> PodSpec {
        let resources = json!({"requests": {"cpu": cpu, "memory": memory}});
        let install = json!({"limits": {"memory": "64Mi"}});
        serde_json::from_value(json!({
            "initContainers": [{"name": "install", "resources": install}],
            "containers": [{"name": "app", "resources": resources}],
        }))
        .unwrap()
    }

    fn offered(cpu: &str, memory: &str, pods: &str) -> Resources {
        let amounts = [("cpu", cpu), ("memory", memory), ("pods", pods)];
        let amounts = amounts.map(|(name, it)| (name.to_owned(), Quantity(it.to_owned())));
        Resources::of(Some(&amounts.into()))
    }

    #[test]
    fn a_pod_fits_as_often_as_the_scarcest_resource_says() {
        let node = offered("4", "1Gi", "110");
        for (pod, fits) in [
            (pod("1", "100Mi"), 4),
            (pod("500m", "300Mi"), 3),
            (pod("5", "1Mi"), 0),
            // The init container asks for more than the app.
            (pod("1m", "1Mi"), 16),
            (pod("0", "0"), 16),
        ] {
            assert_eq!(node.fits(Resources::default(), &pod), fits, "{pod:?}");
        }
        assert_eq!(
            offered("4", "1Gi", "2").fits(Resources::default(), &pod("1", "1")),
            2
        );
    }

    #[test]
    fn a_pod_takes_room_on_its_node_until_it_has_ended() {
        let node = offered("4", "1Gi", "110");
        let there = |phase: &str| v1::Pod {
            spec: Some(pod("2", "100Mi")),
            status: serde_json::from_value(json!({"phase": phase})).ok(),
            ..v1::Pod::default()
        };
        let used = Resources::used(&[there("Running"), there("Pending"), there("Succeeded")]);
        assert_eq!(node.fits(used, &pod("1", "1")), 0);
        let used = Resources::used(&[there("Running"), there("Failed")]);
        assert_eq!(node.fits(used, &pod("1", "1")), 2);
    }
}
