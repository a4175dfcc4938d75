//! The autoscaler: how many pods an app needs, and how many workers and how much CPU in each pod.
//!
//! There is no clock, no I/O and no runtime. The caller observes an app about once a second, passes
//! what it has seen and the time to [`Scaler::decide`], and carries the [`Decision`] out. So a test
//! of an hour takes a moment, and the simulation (`scaledapp-simulate`) runs this very code.
//!
//! # What is measured
//!
//! The signal is the number of requests that clients want served at the same time. While
//! every request finds room, that is what is in flight. When requests wait, it is the rate of
//! arrivals times the time that one request takes (Little's law); the requests that wait are a
//! backlog, which has to be worked off once, and not a demand that stays. CPU is a second signal,
//! and the signal that needs more pods decides. Balancers count every request, so the first signal
//! is not limited to 100 %, as the use of CPU is.
//!
//! How many requests one worker serves well at once is `concurrency`: the user's number, or learnt
//! from where latency begins to rise (`concurrency.rs`). It is never learnt from errors.
//!
//! # What triggers a change
//!
//! Five questions are asked each second (`estimate.rs`); the largest answer counts.
//!
//! | question | window | scales up | reason in the status |
//! |---|---|---|---|
//! | Is more than `utilization` of the capacity in use? | 30 s | if it is exceeded by a tenth | [`Reason::Requests`], [`Reason::Cpu`] |
//! | Does the load of this moment fit at all? | 3 s, and one second if it cannot be chance | at once | [`Reason::Peak`] |
//! | Will the load fit when a pod that is asked for now is ready? | 20 s to 60 s | at once | [`Reason::Growth`] |
//! | Will requests still wait when that pod is ready? | now | at once | [`Reason::Backlog`] |
//! | Do clients wait for an answer before they send again (`standing.rs`)? | 1 s | at once | [`Reason::Queue`] |
//!
//! There are two windows, because either alone would be wrong: a mean of 30 s needs half a minute
//! to follow a jump, and a mean of 3 s follows mere chance. So the long window decides what is
//! usual, with the spare capacity that the user wants. The short window decides only whether the
//! load fits. It does what Knative calls panic, but it is not a mode, so it cannot be left too
//! late. It never removes anything.
//!
//! A backlog is computed for the time when a new pod would be ready, with the pods that are already
//! starting. A pod that would come too late to help is not asked for, and a slow boot does not lead
//! to order after order.
//!
//! # What becomes of a need
//!
//! A need becomes workers first, then CPU in place, then pods (`shape.rs`). Then come the limits
//! (`limits.rs`): the user's range, schedules, zero, and what would be in vain. Pods without a
//! node, pods that are not ready and pods that crash are no capacity. More pods are not asked for
//! while a pod has no node, or while half of all pods crash. A quota's refusal is remembered; more
//! pods are asked for again after five minutes, then ten, up to an hour.
//!
//! # How the number of pods comes back down
//!
//! A smaller number is taken when it has been enough for all of `scaleDown.window`, with a
//! twentieth to spare.
//! A reduction removes at most half of the pods, and the next one follows after at least 15 s.
//! If what was given up is needed again soon, the window doubles, up to eight times, so a load that
//! comes and goes stops moving pods (`hold.rs`); it halves again when a smaller number has lasted.
//! The last pod goes when nothing has been in flight, waiting or connected for `zeroAfter`, and all
//! balancers have said so. The first request brings one back in the same second.
//!
//! # What happens when something is unknown
//!
//! A silent pod or balancer counts as in its last report, for 30 s. While a balancer is silent,
//! nothing is removed. While nothing reports at all, nothing changes. After a restart of the
//! operator, what is found counts as needed for one window ([`Found`]), so nothing is removed, and
//! growth goes on after the first observations.
//!
//! # For the caller
//!
//! - [`Observation::balancers`] and [`Observation::pods`] list what *exists*; `report: None` says that
//!   one of them was silent. A balancer or pod that is not listed is gone, with its load.
//! - `arrivals`, `answers` and `failures` count since the last report of the same balancer or pod.
//!   [`BalancerLedger`] and [`PodLedger`] make such reports from the lines of `/load`.
//! - Under HTTP/1, a request that a balancer holds because there is no pod is `queued`.
//! - [`Decision::pods`] belongs in the Deployment, [`Decision::workers`] in the desired state of
//!   the running pods, [`Decision::cpu`] in the `resize` subresource, and the text of
//!   [`Decision::reason`] with `since` and `concurrency` in `status.autoscaling`. The text changes
//!   only with the decision or with what overrules it, so the status of a quiet app is not written.
//! - The caller keeps one [`Scaler`] for each app and drops it when it loses the Lease: the next
//!   leader makes its own from the Deployment and the status.
//! - While this autoscaler scales an app, neither an HPA nor `kubectl scale` may scale it; the
//!   caller checks that. If the Deployment is changed by hand, the next decision sets it again.
//!
//! Validation must call [`schedule::check`] as well; the messages name the cure.

mod concurrency;
mod demand;
mod estimate;
mod fleet;
mod floor;
mod hold;
mod ledger;
mod limits;
mod need;
mod reason;
mod refusal;
mod sample;
mod scaler;
pub mod schedule;
mod settings;
mod shape;
mod standing;
mod window;

pub use ledger::{BalancerLedger, PodLedger};
pub use reason::Reason;
pub use sample::{Balancer, BalancerReport, Moment, Observation, Pod, PodReport, PodState, Resize};
pub use scaler::{Decision, Found, Scaler};
pub use schedule::{Schedule, ScheduleError};
pub use settings::{CpuRange, Range, Settings};
