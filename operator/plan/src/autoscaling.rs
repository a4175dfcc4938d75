//! A validated `spec.autoscaling`: the settings with which [`scaledapp_scale`] decides.

use std::num::NonZeroU32;
use std::time::Duration;

use scaledapp_scale::Range;

/// How long a balancer may hold a request beyond the time that the app may take to start: for the
/// decision, the scheduler, the image and a second attempt.
const HOLD_MARGIN: Duration = Duration::from_mins(1);

/// The autoscaler of an app.
#[derive(Debug, Clone, PartialEq)]
pub struct Autoscaling {
    /// The settings, with a meaning for every absent field.
    pub settings: scaledapp_scale::Settings,
}

impl Autoscaling {
    /// How many pods there may be.
    pub const fn pods(&self) -> Range {
        self.settings.pods
    }

    /// Whether there may be no pod at all, so that balancers have to hold requests.
    pub const fn reaches_zero(&self) -> bool {
        self.settings.pods.min() == 0
    }

    /// The fewest and the most workers of a pod.
    pub fn workers(&self) -> (NonZeroU32, NonZeroU32) {
        let workers = self.settings.workers;
        let at_least_one = |count| NonZeroU32::new(count).unwrap_or(NonZeroU32::MIN);
        (at_least_one(workers.min()), at_least_one(workers.max()))
    }

    /// How long a balancer holds a request while there is no pod, for an app that becomes ready
    /// within `boot`.
    pub const fn hold(&self, boot: Duration) -> Duration {
        boot.saturating_add(HOLD_MARGIN)
    }
}
