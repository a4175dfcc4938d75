//! HTTP/2 with clients and with servers: connections, and each stream as the HTTP/1.1 message that
//! it stands for.
//!
//! A stream looks to the exchange like a connection with one request on it ([`as_connection`]): a
//! client's stream is read like a client that sends HTTP/1.1, and a stream to a server is written
//! like a server that reads it. So both protocols go through the same checks, queue and retries
//! (RFC 9113 section 8: both carry the semantics of RFC 9110). The `h2` crate handles frames,
//! header compression and their limits.

pub(crate) mod as_connection;
mod body;
mod call;
pub(crate) mod connection;
mod empty_frames;
mod io;
mod limits;
mod message;
mod open;
pub(crate) mod servers;
pub(crate) mod stream;

pub(crate) use self::open::open;
