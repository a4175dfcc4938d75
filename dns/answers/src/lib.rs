//! DNS answers without I/O: query bytes in, answer bytes out.
//!
//! This package decides what an authoritative server of one zone answers (RFC 1034, 1035, 2181,
//! 2308, 6891, 8020, 8482, 8914), and which addresses of a name an answer contains, in which
//! order. It has no socket, no clock and no source of randomness; the caller passes random
//! numbers in. It also decides which namespace may have which name, for the server and for the
//! operator ([`Ownership`]). It does not recurse, refer to a parent zone, or sign (no DNSSEC).

mod answer;
mod message;
mod name;
mod ownership;
mod rotation;
mod writer;
mod zone;

pub use answer::{Dropped, Outcome, QueryKind, Rcode, Reply, Transport, answer};
pub use name::{Name, NameError};
pub use ownership::{Binding, NAME_SERVER, Ownership, OwnershipError, Refusal};
pub use zone::{
    ADDRESSES_PER_ANSWER, Authority, FAIL_OPEN_TTL, NEGATIVE_TTL, NameServer, Records, Zone,
    ZoneError,
};
