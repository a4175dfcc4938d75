//! The autoscaler of an app: within which bounds it decides, and what it aims at.
//!
//! How it decides is in `operator/scale`; what it has decided is in the status, never here. The API
//! server cannot read amounts such as `500m` in a rule, so `operator/plan` alone compares `cpu.max`
//! with `spec.resources`, and reads cron patterns and time zones.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Duration, Quantity};

/// How many pods and workers the operator runs by itself, by load.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("x-kubernetes-validations" = [{"rule": "!has(self.schedules) || self.schedules.all(schedule, schedule.minPods <= (has(self.pods) && has(self.pods.max) ? self.pods.max : (has(self.pods) && has(self.pods.min) && self.pods.min > 10 ? self.pods.min : 10)))", "message": "has a minPods above autoscaling.pods.max (10 by default): raise pods.max, or lower minPods", "fieldPath": ".schedules"}]))]
pub struct Autoscaling {
    /// From how many to how many pods; 1 to 10 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pods: Option<PodRange>,
    /// From how many to how many workers in each pod; by default 1 to the cores that the pod may
    /// use, and with Connection dispatch as many as these cores.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workers: Option<WorkerRange>,
    /// How many percent of the capacity shall be in use; 70 by default.
    #[serde(
        default,
        deserialize_with = "crate::values::whole",
        skip_serializing_if = "Option::is_none"
    )]
    #[schemars(range(min = 10, max = 95), extend("x-kubernetes-validations" = [{"rule": "self >= 10 && self <= 95", "message": "is out of range: give 10 to 95 percent, such as 70; the rest is spare for load that comes suddenly"}]))]
    pub utilization: Option<i32>,
    /// How many requests one worker serves well at the same time; learnt by default.
    #[serde(
        default,
        deserialize_with = "crate::values::whole",
        skip_serializing_if = "Option::is_none"
    )]
    #[schemars(range(min = 1, max = 10_000), extend("x-kubernetes-validations" = [{"rule": "self >= 1 && self <= 10000", "message": "is out of range: give 1 to 10000 requests, or leave it out, and it is learnt"}]))]
    pub concurrency: Option<i32>,
    /// CPU that each pod may grow to in place, before there are more pods; by default pods are not
    /// resized.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu: Option<CpuRange>,
    /// With pods.min 0: how long nothing must have been in flight, waiting or connected before the
    /// last pod is removed; 10m by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-kubernetes-validations" = [{"rule": "!self.matches('^[0-9]{1,9}(ms|s|m|h)$') || (duration(self) >= duration('1s') && duration(self) <= duration('24h'))", "message": "is out of range: give 1s to 24h"}]))]
    pub zero_after: Option<Duration>,
    /// When less is taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scale_down: Option<ScaleDown>,
    /// Times at which there are at least so many pods, whatever the load is; none by default.
    #[serde(
        default,
        deserialize_with = "crate::values::or_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    #[schemars(length(max = 16), extend("x-kubernetes-validations" = [{"rule": "self.filter(schedule, !has(schedule.__for__)).size() != 1", "message": "has one schedule without an end, and it would never end: add for: 10h to it, or a second schedule without for that begins when it shall end"}]))]
    pub schedules: Vec<Schedule>,
}

/// From how many to how many pods.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("x-kubernetes-validations" = [{"rule": "!has(self.min) || !has(self.max) || self.min <= self.max", "message": "min is more than max: raise max or lower min"}]))]
pub struct PodRange {
    /// The fewest pods; 1 by default. 0: without requests there is no pod, and the balancers hold
    /// the next request until there is one.
    #[serde(
        default,
        deserialize_with = "crate::values::whole",
        skip_serializing_if = "Option::is_none"
    )]
    #[schemars(range(min = 0, max = 5000), extend("x-kubernetes-validations" = [{"rule": "self >= 0 && self <= 5000", "message": "is out of range: give 0 to 5000"}]))]
    pub min: Option<i32>,
    /// The most pods; 10 by default, or min if that is more.
    #[serde(
        default,
        deserialize_with = "crate::values::whole",
        skip_serializing_if = "Option::is_none"
    )]
    #[schemars(range(min = 1, max = 5000), extend("x-kubernetes-validations" = [{"rule": "self >= 1 && self <= 5000", "message": "0 pods serve nothing, and there is a limit: give 1 to 5000"}]))]
    pub max: Option<i32>,
}

/// From how many to how many workers in each pod.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("x-kubernetes-validations" = [{"rule": "!has(self.min) || !has(self.max) || self.min <= self.max", "message": "min is more than max: raise max or lower min"}]))]
pub struct WorkerRange {
    /// The fewest workers; 1 by default, and with Connection dispatch max.
    #[serde(
        default,
        deserialize_with = "crate::values::whole",
        skip_serializing_if = "Option::is_none"
    )]
    #[schemars(range(min = 1, max = 1024), extend("x-kubernetes-validations" = [{"rule": "self >= 1 && self <= 1024", "message": "0 workers serve nothing, and there is a limit: give 1 to 1024"}]))]
    pub min: Option<i32>,
    /// The most workers; by default the cores that the pod may use (`cpu.max`, else the CPU limit,
    /// else the CPU request), or min if that is more, and with Connection dispatch min.
    #[serde(
        default,
        deserialize_with = "crate::values::whole",
        skip_serializing_if = "Option::is_none"
    )]
    #[schemars(range(min = 1, max = 1024), extend("x-kubernetes-validations" = [{"rule": "self >= 1 && self <= 1024", "message": "0 workers serve nothing, and there is a limit: give 1 to 1024"}]))]
    pub max: Option<i32>,
}

/// CPU that each pod may grow to in place.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CpuRange {
    /// The most CPU of a pod, such as "2"; not less than the CPU limit or request in
    /// `spec.resources`, which is what a pod starts with.
    pub max: Quantity,
}

/// When less is taken.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ScaleDown {
    /// How long less must have been enough before it is taken; 2m by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-kubernetes-validations" = [{"rule": "!self.matches('^[0-9]{1,9}(ms|s|m|h)$') || (duration(self) >= duration('1s') && duration(self) <= duration('24h'))", "message": "is out of range: give 1s to 24h"}]))]
    pub window: Option<Duration>,
}

/// A time at which there are at least so many pods. Of schedules that overlap, the larger number
/// counts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Schedule {
    /// When it begins: five fields, minute, hour, day of month, month and day of week.
    #[schemars(length(min = 1, max = 200), extend("x-kubernetes-validations" = [{"rule": r"self.matches('^[ \\t]*[^ \\t]+([ \\t]+[^ \\t]+){4}[ \\t]*$')", "message": "is not a cron pattern: write five fields, minute, hour, day of month, month and day of week, such as \"0 8 * * 1-5\" for 08:00 from Monday to Friday"}]))]
    pub cron: String,
    /// The time zone of `cron`, such as Europe/Rome; UTC by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64))]
    pub time_zone: Option<String>,
    /// At least this many pods.
    #[serde(deserialize_with = "crate::values::whole_required")]
    #[schemars(range(min = 0, max = 5000), extend("x-kubernetes-validations" = [{"rule": "self >= 0 && self <= 5000", "message": "is out of range: give 0 to 5000"}]))]
    pub min_pods: i32,
    /// How long it lasts, such as 10h; by default until the next schedule without `for` begins.
    #[serde(default, rename = "for", skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-kubernetes-validations" = [{"rule": "!self.matches('^[0-9]{1,9}(ms|s|m|h)$') || (duration(self) >= duration('1s') && duration(self) <= duration('168h'))", "message": "is out of range: give 1s to 168h"}]))]
    pub lasts: Option<Duration>,
}
