//! Connection dispatch, in which workers accept for themselves and the supervisor is not in the
//! data path. The supervisor has to find out from the kernel which process has which connection
//! open, when a draining worker has no work left, and how many connections each worker has.

pub(crate) mod drain;
pub(crate) mod hold;
pub(crate) mod load;
pub(crate) mod open_connections;
