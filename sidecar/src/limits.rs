//! Which worker has to go before it does harm: what is measured (`measure`, `memory`,
//! `hang`, `ears`) and what follows from that (`watch`, `silence`, `hearing`).

pub(crate) mod ears;
mod hang;
pub(crate) mod hearing;
pub(crate) mod measure;
mod measured;
pub(crate) mod memory;
pub(crate) mod silence;
mod watch;

pub(crate) use watch::{Limits, Watch};
