//! Which pods get which CPU now, and the patch that asks for it.
//!
//! A pod's CPU is changed in place, through its `resize` subresource. Requests and limits are
//! changed by the same factor, because a pod's class of service may not change: what was equal stays
//! equal. What becomes of a resize is read by [`super::observation`].

use k8s_openapi::api::core::v1::{Pod, ResourceRequirements};
use serde_json::{Value, json};

use super::observation::{self, CONTAINER};

/// The most pods of one app that are resized in one second.
const MAX_AT_ONCE: usize = 20;
/// The smallest request that is written, in thousandths of a core.
const MIN_MILLIS: u64 = 1;

/// The CPU that a pod shall have, in thousandths of a core.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Cpu {
    pub(crate) limit: Option<u64>,
    pub(crate) request: Option<u64>,
}

impl Cpu {
    /// The patch of the `resize` subresource. With the uid, a patch of another pod of this name is
    /// a conflict.
    pub(crate) fn patch(self, uid: &str) -> Value {
        let amount =
            |millis: Option<u64>| millis.map(|millis| json!({"cpu": format!("{millis}m")}));
        let mut resources = serde_json::Map::new();
        resources.extend(amount(self.limit).map(|amount| ("limits".to_owned(), amount)));
        resources.extend(amount(self.request).map(|amount| ("requests".to_owned(), amount)));
        json!({
            "metadata": {"uid": uid},
            "spec": {"containers": [{"name": CONTAINER, "resources": resources}]},
        })
    }
}

/// The pods that do not ask for `cores` yet, with what they shall ask for. Pods that do not run yet
/// follow when they do.
pub(crate) fn due<'a>(cores: f64, pods: impl Iterator<Item = &'a Pod>) -> Vec<(&'a Pod, Cpu)> {
    let wanted = (cores * 1000.0).round().clamp(1.0, 1e9) as u64;
    let runs = |pod: &&Pod| {
        let status = pod.status.as_ref();
        status.and_then(|status| status.phase.as_deref()) == Some("Running")
            && !observation::is_leaving(pod)
    };
    let due = pods.filter(runs).filter_map(|pod| {
        let resources = observation::container(pod)?.resources.as_ref()?;
        Some((pod, next(resources, wanted)?))
    });
    due.take(MAX_AT_ONCE).collect()
}

/// What these resources become with `wanted` thousandths of a core; `None` if nothing changes. A
/// container that names no CPU is left alone.
fn next(resources: &ResourceRequirements, wanted: u64) -> Option<Cpu> {
    let limit = observation::limit(resources);
    let request = observation::request(resources);
    let now = limit.or(request)?;
    if now == wanted {
        return None;
    }
    Some(Cpu {
        limit: limit.map(|_| wanted),
        request: request.map(|request| {
            let scaled = u128::from(request) * u128::from(wanted) / u128::from(now);
            u64::try_from(scaled).unwrap_or(wanted).max(MIN_MILLIS)
        }),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(phase: &str, resources: &Value) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": "p", "uid": "u"},
            "spec": {"containers": [{"name": "app", "resources": resources}]},
            "status": {"phase": phase},
        }))
        .unwrap()
    }

    fn asked(resources: &Value, cores: f64) -> Option<Cpu> {
        let pod = pod("Running", resources);
        due(cores, std::iter::once(&pod))
            .first()
            .map(|(_, cpu)| *cpu)
    }

    #[test]
    fn requests_and_limits_grow_by_the_same_factor() {
        let cpu = |limit, request| Some(Cpu { limit, request });
        let guaranteed = json!({"limits": {"cpu": "1"}, "requests": {"cpu": "1"}});
        assert_eq!(asked(&guaranteed, 1.75), cpu(Some(1750), Some(1750)));
        assert_eq!(asked(&guaranteed, 1.0), None);
        let burstable = json!({"limits": {"cpu": "2"}, "requests": {"cpu": "500m"}});
        assert_eq!(asked(&burstable, 4.0), cpu(Some(4000), Some(1000)));
        assert_eq!(asked(&burstable, 1.0), cpu(Some(1000), Some(250)));
        assert_eq!(
            asked(&json!({"requests": {"cpu": "500m"}}), 1.0),
            cpu(None, Some(1000))
        );
        assert_eq!(
            asked(&json!({"limits": {"cpu": "1"}}), 2.0),
            cpu(Some(2000), None)
        );
        assert_eq!(asked(&json!({"limits": {"memory": "1Gi"}}), 2.0), None);
        assert_eq!(asked(&json!({}), 2.0), None);
        let tiny = json!({"limits": {"cpu": "4"}, "requests": {"cpu": "1m"}});
        assert_eq!(asked(&tiny, 1.0), cpu(Some(1000), Some(1)));
    }

    #[test]
    fn only_running_pods_are_resized_and_not_all_at_once() {
        let resources = json!({"limits": {"cpu": "1"}});
        let pending = pod("Pending", &resources);
        assert!(due(2.0, std::iter::once(&pending)).is_empty());
        let many = vec![pod("Running", &resources); 50];
        assert_eq!(due(2.0, many.iter()).len(), MAX_AT_ONCE);
    }

    #[test]
    fn the_patch_names_the_container_and_the_pods_uid() {
        let cpu = Cpu {
            limit: Some(1500),
            request: None,
        };
        let expected = json!({
            "metadata": {"uid": "u"},
            "spec": {"containers": [{"name": "app", "resources": {"limits": {"cpu": "1500m"}}}]},
        });
        assert_eq!(cpu.patch("u"), expected);
    }
}
