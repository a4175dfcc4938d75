//! What Connection dispatch needs, where workers accept for themselves and the
//! supervisor, which is not in the data path, has to look: who holds what, when a
//! worker that leaves has nothing left to do, and how many connections each has.

pub(crate) mod drain;
pub(crate) mod held;
pub(crate) mod hold;
pub(crate) mod load;
