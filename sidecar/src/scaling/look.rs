//! What one look at the workers shows, and why their number changes or does not.
//!
//! This file has data only: `measure` fills it in, `decide` decides from it.

use std::fmt;
use std::time::Duration;

use scaledapp_wire::{Held, ScalingReason};

/// What the workers were doing since the last look.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(crate) struct Look {
    /// The number of slots.
    pub(crate) desired: u32,
    /// The number of slots whose worker takes requests.
    pub(crate) ready: u32,
    /// Requests that wait although workers are ready: in the dispatcher's queue, in the accept
    /// queue of a worker, or for the CPU time of a worker that has computed all the time.
    pub(crate) waiting: u32,
    /// How long the requests that wait have waited, at least.
    pub(crate) waited: Duration,
    /// How many requests a worker may have at the same time (`--max-in-flight`); 0 if that is not
    /// limited.
    pub(crate) concurrency: u32,
    /// How busy the ready workers were, summed over them. A worker that computed all the time, or
    /// that had as many requests as it may have, counts as 1.
    pub(crate) busy: f64,
    /// How many workers the present load occupies, by CPU time and, if that is known, by the number
    /// of requests that a worker works on at the same time. At least `busy`.
    pub(crate) occupied: f64,
    /// CPU time that the container may use and did not, in cores.
    pub(crate) free_cores: f64,
    /// CPU time that a ready worker used on average, in cores.
    pub(crate) cores_each: f64,
    /// How many more workers may boot at the same time.
    pub(crate) boots: u32,
    /// For how many more workers there is memory.
    pub(crate) room: u32,
    /// Whether the worker in the highest slot can be stopped without harm: it is not ready, or all
    /// others are.
    pub(crate) may_stop: bool,
    /// How many of the highest slots in a row have a worker that keeps ending.
    pub(crate) crashing: u32,
    /// What forbids another start.
    pub(crate) hold: Option<Hold>,
}

/// Why no further worker starts although one is needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hold {
    /// The worker of this slot has ended again and again; more of them would do the same.
    Crashing(u32),
    /// The worker of this slot takes longer to boot than the earlier ones did.
    SlowBoot(u32),
    /// Workers are being replaced (a reload, a restart, a recycling).
    Replacing,
    /// No worker is ready, so nothing shows that the app works.
    NoneReady,
    /// The workers use all cores of the container.
    Cores,
    /// One more worker does not fit into the memory.
    Memory,
    /// The upper end of the range is reached.
    Most,
}

impl Hold {
    /// The word for status.
    pub(crate) fn word(self) -> Held {
        match self {
            Self::Crashing(_) => Held::Crashing,
            Self::SlowBoot(_) => Held::SlowBoot,
            Self::Replacing => Held::Replacing,
            Self::NoneReady => Held::NoneReady,
            Self::Cores => Held::Cores,
            Self::Memory => Held::Memory,
            Self::Most => Held::Most,
        }
    }
}

impl fmt::Display for Hold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Crashing(slot) => write!(f, "the worker in slot {slot} keeps ending"),
            Self::SlowBoot(slot) => {
                write!(f, "the worker in slot {slot} boots for longer than usual")
            }
            Self::Replacing => f.write_str("workers are being replaced"),
            Self::NoneReady => f.write_str("no worker is ready"),
            Self::Cores => f.write_str("the workers use all cores"),
            Self::Memory => f.write_str("there is no memory for one more worker"),
            Self::Most => f.write_str("the upper end of the range is reached"),
        }
    }
}

/// Why the number of workers changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reason {
    /// This many requests wait, and there was no moment without one for this long.
    Waiting {
        /// How many.
        requests: u32,
        /// For how long.
        since: Duration,
    },
    /// The workers are this busy, in percent.
    Busy {
        /// How busy they are.
        percent: u32,
        /// How busy they should be at most.
        target: u32,
    },
    /// Fewer workers would have been enough for this long.
    Idle {
        /// How long.
        since: Duration,
    },
    /// The ends of the range have changed.
    Range,
    /// The workers of several slots keep ending.
    Crashing,
}

impl Reason {
    /// The word for status and metrics.
    pub(crate) fn word(self) -> ScalingReason {
        match self {
            Self::Waiting { .. } => ScalingReason::Waiting,
            Self::Busy { .. } => ScalingReason::Busy,
            Self::Idle { .. } => ScalingReason::Idle,
            Self::Range => ScalingReason::Range,
            Self::Crashing => ScalingReason::Crashing,
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Waiting { requests, since } => write!(
                f,
                "the queue has not been empty for {} ms ({requests} waiting)",
                since.as_millis()
            ),
            Self::Busy { percent, target } => {
                write!(f, "the workers are {percent} % busy, more than {target} %")
            }
            Self::Idle { since } => {
                write!(
                    f,
                    "fewer workers have been enough for {} s",
                    since.as_secs()
                )
            }
            Self::Range => f.write_str("the range has changed"),
            Self::Crashing => {
                f.write_str("several workers keep ending, and one is enough to try again")
            }
        }
    }
}
