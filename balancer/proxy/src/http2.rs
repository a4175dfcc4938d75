//! HTTP/2 with clients: its connections, and each stream as the HTTP/1.1 message that it
//! stands for.
//!
//! A stream looks to the exchange like a connection with one request on it: what is read
//! there is the request in HTTP/1.1, and what is written there is the answer. So both
//! protocols go through the same checks, queue and retries (RFC 9113 section 8: both carry
//! the semantics of RFC 9110). The `h2` crate handles frames, header compression and their
//! limits.

pub(crate) mod connection;
mod message;
pub(crate) mod stream;
