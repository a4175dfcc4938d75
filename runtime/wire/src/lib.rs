//! The data that the processes of `ScaledApp` exchange, as types: the answers of the admin ports,
//! the requests and replies of the control socket, the files through which one process sets what
//! another one does, and a supervisor's command line.
//!
//! The crate defines only data, no transport and no decisions. The JSON of each type is a
//! contract with users' scripts and with older and newer versions, so two rules hold:
//!
//! - Fields of the JSON types are declared in the alphabetical order of their JSON names, because
//!   that is the order in which they have always been written. The files in `tests/golden`
//!   contain the exact bytes.
//! - A reader of an answer ignores fields that it does not know, and accepts that older
//!   versions leave fields out. Files that people write by hand are read strictly instead:
//!   there an unknown field is a typing error.

mod balancer;
mod control;
mod dns;
mod files;
mod history;
mod load;
mod operator;
mod scaling;
mod snapshot;
mod status;
mod supervisor_args;

pub use balancer::{BalancerStatus, EndpointStatus, Standing};
pub use control::{Description, MAX_WORKERS, Reply, Request, SlotDescription, Tails, WorkerCount};
pub use dns::{AddressStatus, DnsStatus, NameStatus, ProbeState};
pub use files::{Backend, DEFAULT_TTL, Desired, Record, TOKEN_BYTES};
pub use history::{Event, EventKind, Events, LastExit};
pub use load::{BalancerLoad, PodLoad};
pub use operator::OperatorStatus;
pub use scaling::{Held, Scaling, ScalingChange, ScalingReason, WatchedScaling};
pub use snapshot::{Dispatch, Snapshot};
pub use status::{Mechanism, SlotState, Status, WaitingSlot, Worker, WorkerState};
pub use supervisor_args::SupervisorArgs;
