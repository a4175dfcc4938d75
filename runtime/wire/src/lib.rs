//! What our own processes say to each other, as types: the answers of the admin
//! ports, the control socket's requests and replies, the files by which one of our
//! processes tells another what it should do, and a supervisor's command line.
//!
//! Only shapes are here, no transport and no decision. The JSON of each is a
//! contract with people's scripts and with the versions before and after, so two
//! rules hold:
//!
//! - Fields are declared in alphabetical order, because that is the order in which
//!   they have always been written. The files in `tests/golden` hold the bytes.
//! - A reader of an answer ignores fields that it does not know and lives without
//!   those that an older writer does not send. The files that people write by hand
//!   are read strictly instead: there an unknown field is a typing error.

mod balancer;
mod control;
mod files;
mod history;
mod snapshot;
mod status;
mod supervisor_args;

pub use balancer::{BalancerStatus, EndpointStatus, Standing};
pub use control::{Description, MAX_WORKERS, Reply, Request, SlotDescription, Tails, WorkerCount};
pub use files::{Backend, DEFAULT_TTL, Desired, Record, TOKEN_BYTES};
pub use history::{Event, EventKind, Events, LastExit};
pub use snapshot::{Dispatch, Snapshot};
pub use status::{Mechanism, SlotState, Status, WaitingSlot, Worker, WorkerState};
pub use supervisor_args::SupervisorArgs;
