//! The lifecycle of workers as a state machine without side effects.
//!
//! [`Engine`] decides when a worker is started, drained, stopped, killed and restarted, how a
//! reload proceeds and when it fails, and when the supervisor may exit. It does not start
//! processes, carry requests or read clocks. The shell, which is the rest of the supervisor, turns
//! facts into [`Event`]s with the time since its start, and carries out the [`Action`]s that come
//! back, in their order.
//!
//! [`Event::Exited`] must arrive exactly once for each process, even if [`Action::Spawn`]
//! could not be carried out.
//!
//! The crate is `no_std`, so that the compiler refuses clocks, sockets and files.
#![no_std]

extern crate alloc;

mod action;
mod backoff;
mod ending;
mod engine;
mod event;
mod ids;
mod replace;
mod view;

pub use action::{Action, Failure, Incident};
pub use backoff::Backoff;
pub use engine::{Config, Engine};
pub use event::{Cause, Event, Exit};
pub use ids::{Dispatch, Generation, OperationId, Slot, WorkerId};
pub use view::{SlotState, SlotView, WorkerState, WorkerView};
