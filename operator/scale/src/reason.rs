//! Why there are as many pods and workers as there are, in one sentence for people.
//!
//! A sentence is made when a decision changes and then stays, so that an app whose load moves a
//! little is not written to the API server each second.

use std::fmt;
use std::time::Duration;

use scaledapp_units::duration;

/// Why a decision is what it is.
#[derive(Debug, Clone, PartialEq)]
pub enum Reason {
    /// The autoscaler has started, and keeps what it has found until it knows more.
    Started,
    /// The sustained load needs this number.
    Requests {
        /// Requests at a time.
        at_once: f64,
        /// Requests that one worker serves well at once.
        concurrency: f64,
        /// The wanted use in percent.
        utilization: u8,
    },
    /// The load of the last seconds would not fit.
    Peak {
        /// Requests at a time.
        at_once: f64,
    },
    /// The load grows, and a pod takes a while to start.
    Growth {
        /// How long a pod takes to start.
        boot: Duration,
    },
    /// Requests wait.
    Backlog {
        /// How many.
        waiting: f64,
    },
    /// Requests wait, and their clients send nothing until they are answered.
    Queue {
        /// How many wait.
        waiting: f64,
    },
    /// The work takes this many cores.
    Cpu {
        /// Cores in use.
        cores: f64,
        /// The wanted use in percent.
        utilization: u8,
    },
    /// The node of a pod has no room for the CPU that it shall get in place.
    NoRoom,
    /// A smaller number has been enough for the whole window.
    Less {
        /// The window, with what has been added to it.
        window: Duration,
    },
    /// A schedule asks for it.
    Schedule {
        /// The schedule's minimum.
        min: u32,
    },
    /// `pods.min` asks for it.
    Min {
        /// The minimum.
        min: u32,
    },
    /// `pods.max` forbids more.
    Max {
        /// The maximum.
        max: u32,
        /// The number that the load needs.
        needed: u32,
    },
    /// Nothing has happened for `zeroAfter`.
    Zero {
        /// How long.
        after: Duration,
    },
    /// A pod has no node, so further ones would have none either.
    Unschedulable {
        /// Pods without a node.
        pods: u32,
    },
    /// The app does not start, so further pods would not start either.
    CrashLooping {
        /// Pods whose workers end as soon as they start.
        pods: u32,
    },
    /// The API server refuses more pods.
    Refused {
        /// The number that there can be.
        allowed: u32,
        /// The number that is needed.
        needed: u32,
    },
    /// Nothing is known of the load.
    Unknown,
    /// A balancer is silent, so a smaller number may be too small.
    Incomplete,
}

impl Reason {
    /// Whether the reason is shown for as long as it holds, even while it changes no decision.
    pub(crate) fn overrules(&self) -> bool {
        match self {
            Self::Schedule { .. }
            | Self::Min { .. }
            | Self::Max { .. }
            | Self::Unschedulable { .. }
            | Self::CrashLooping { .. }
            | Self::Refused { .. }
            | Self::Unknown
            | Self::Incomplete => true,
            Self::Started
            | Self::Requests { .. }
            | Self::Peak { .. }
            | Self::Growth { .. }
            | Self::Backlog { .. }
            | Self::Queue { .. }
            | Self::Cpu { .. }
            | Self::NoRoom
            | Self::Less { .. }
            | Self::Zero { .. } => false,
        }
    }

    /// Whether both are the same kind of reason; their numbers may differ.
    pub(crate) fn is_like(&self, other: &Self) -> bool {
        std::mem::discriminant(self) == std::mem::discriminant(other)
    }
}

/// "1 pod", "2 pods".
fn pods(count: u32) -> String {
    format!("{count} pod{}", if count == 1 { "" } else { "s" })
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Started => f.write_str("The operator has started and keeps the pods that it found until it has measured the load."),
            Self::Requests {
                at_once,
                concurrency,
                utilization,
            } => write!(
                f,
                "There are {at_once:.1} requests at a time, one worker serves {concurrency:.1} well, and {utilization} % of the capacity shall be in use."
            ),
            Self::Peak { at_once } => write!(
                f,
                "The {at_once:.1} requests at a time of the last seconds would not fit."
            ),
            Self::Growth { boot } => write!(
                f,
                "The load grows, and a pod takes {} to start.",
                duration::format(Duration::from_secs(boot.as_secs().max(1)))
            ),
            Self::Backlog { waiting } => write!(
                f,
                "About {waiting:.0} requests wait because workers have no room for them."
            ),
            Self::Queue { waiting } => write!(
                f,
                "About {waiting:.0} requests wait, and as many as before although others are answered: their clients send no more until they are served."
            ),
            Self::Cpu { cores, utilization } => write!(
                f,
                "The workers use {cores:.2} CPU cores, and {utilization} % of the CPU shall be in use."
            ),
            Self::NoRoom => f.write_str("A node has no room to give its pod more CPU in place, so there are more pods."),
            Self::Less { window } => {
                write!(
                    f,
                    "A smaller number has been enough for {}.",
                    duration::format(*window)
                )
            }
            Self::Schedule { min } => {
                write!(f, "A schedule asks for at least {}.", pods(*min))
            }
            Self::Min { min } => write!(f, "The load needs fewer pods, but pods.min is {min}."),
            Self::Max { max, needed } => write!(
                f,
                "The load needs {}, but pods.max is {max}: raise it, or requests will wait.",
                pods(*needed)
            ),
            Self::Zero { after } => write!(
                f,
                "Nothing has been in flight, waiting or connected for {}.",
                duration::format(*after)
            ),
            Self::Unschedulable { pods: count } => write!(
                f,
                "No node has room for {}, so no more pods are asked for: add nodes, or lower resources.requests.",
                pods(*count)
            ),
            Self::CrashLooping { pods: count } => write!(
                f,
                "The workers of {} end as soon as they start, so more pods would not help: see the logs of the app.",
                pods(*count)
            ),
            Self::Refused { allowed, needed } => write!(
                f,
                "The load needs {}, but the API server refuses more than {allowed}: raise the namespace's quota.",
                pods(*needed)
            ),
            Self::Unknown => f.write_str("No balancer and no pod reports its load, so nothing is changed."),
            Self::Incomplete => f.write_str("A balancer does not report its load, so nothing is removed."),
        }
    }
}
