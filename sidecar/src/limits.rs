//! Decides which worker has to be replaced before it does harm. `measure`, `memory`, `hang` and
//! `waiting` measure; `watch`, `silence` and `accept_probe` decide what follows.

pub(crate) mod accept_probe;
mod hang;
pub(crate) mod measure;
mod measured;
pub(crate) mod memory;
pub(crate) mod silence;
pub(crate) mod waiting;
mod watch;

pub(crate) use watch::{Limits, Watch};
