//! From what is needed to what is asked for: the user's range, schedules, zero, pods that cannot
//! run, quotas, and the pace of a reduction.

use std::time::Duration;

use crate::reason::Reason;
use crate::settings::Range;

/// Everything that limits the number of pods at one moment.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// `pods.min` and `pods.max`.
    pub(crate) range: Range,
    /// What schedules ask for.
    pub(crate) planned: u32,
    /// The number of pods that was asked for last.
    pub(crate) before: u32,
    /// Nothing is in flight, waits, arrives or is connected, as far as is known.
    pub(crate) quiet: bool,
    /// All balancers have said so for `zero_after`.
    pub(crate) idle: bool,
    pub(crate) zero_after: Duration,
    /// A part of the load, or all of it, is unknown.
    pub(crate) uncertain: bool,
    pub(crate) existing: u32,
    pub(crate) unschedulable: u32,
    pub(crate) crash_looping: u32,
    /// The most pods that the API server allows.
    pub(crate) allowed: u32,
    /// The last reduction was a moment ago.
    pub(crate) pausing: bool,
    /// The present scale-down window.
    pub(crate) window: Duration,
}

/// The number of pods that is asked for.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Step {
    pub(crate) pods: u32,
    /// Why, if something other than the load has decided.
    pub(crate) reason: Option<Reason>,
    /// The load has decided, alone or within limits.
    pub(crate) follows_load: bool,
}

impl Limits {
    /// The number of pods that is asked for if the load needs `needed`.
    pub(crate) fn apply(self, needed: u32) -> Step {
        let (before, range) = (self.before, self.range);
        let mut step = self.within_range(needed);
        if step.pods > before {
            if let Some(reason) = self.in_vain() {
                step = Step {
                    pods: before,
                    reason: Some(reason),
                    follows_load: false,
                };
            }
        } else if step.pods < before {
            if self.pausing || self.uncertain {
                step.pods = before;
            } else {
                step.pods = step.pods.max(before.div_ceil(2)).min(range.max());
                if before == 1 && step.pods == 1 && self.may_be_none() {
                    step.pods = 0;
                }
                let reason = if step.pods == 0 {
                    Reason::Zero {
                        after: self.zero_after,
                    }
                } else {
                    Reason::Less {
                        window: self.window,
                    }
                };
                step.reason = step.reason.or(Some(reason));
            }
        }
        if step.pods > self.allowed {
            step = Step {
                reason: Some(Reason::Refused {
                    allowed: self.allowed,
                    needed: step.pods,
                }),
                pods: self.allowed,
                follows_load: false,
            };
        }
        // The user's range holds in every case.
        let least = u32::from(!self.may_be_none());
        step.pods = step.pods.clamp(range.min().max(least), range.max());
        step
    }

    fn may_be_none(self) -> bool {
        let idle = if self.before == 0 {
            self.quiet
        } else {
            self.idle
        };
        self.range.min() == 0 && self.planned == 0 && idle
    }

    /// The number within the user's range, and what the schedules ask for.
    fn within_range(self, needed: u32) -> Step {
        let floor = self.range.clamp(self.planned);
        let least = if self.may_be_none() { 0 } else { floor.max(1) };
        let (pods, reason) = if self.may_be_none() {
            (0, None)
        } else if needed < least && self.planned >= least {
            (least, Some(Reason::Schedule { min: self.planned }))
        } else if needed < least {
            let is_users = least == self.range.min();
            (least, is_users.then_some(Reason::Min { min: least }))
        } else if needed > self.range.max() {
            let max = self.range.max();
            (max, Some(Reason::Max { max, needed }))
        } else {
            (needed, None)
        };
        Step {
            pods,
            reason,
            follows_load: needed == pods,
        }
    }

    /// Why more pods would not help; `None` if they would.
    fn in_vain(self) -> Option<Reason> {
        if self.unschedulable > 0 {
            return Some(Reason::Unschedulable {
                pods: self.unschedulable,
            });
        }
        // One bad node makes some pods crash; an app that is broken makes most of them.
        let is_broken = self.crash_looping > 0 && self.crash_looping * 2 >= self.existing;
        is_broken.then_some(Reason::CrashLooping {
            pods: self.crash_looping,
        })
    }
}
