//! Which worker has to be replaced before it does harm. `measure`, `memory`, `hang` and
//! `ears` measure; `watch`, `silence` and `hearing` decide what follows.

pub(crate) mod ears;
mod hang;
pub(crate) mod hearing;
pub(crate) mod measure;
mod measured;
pub(crate) mod memory;
pub(crate) mod silence;
mod watch;

pub(crate) use watch::{Limits, Watch};
