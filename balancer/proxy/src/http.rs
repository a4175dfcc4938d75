//! HTTP/1 over a client's connection: its requests, what becomes of each, and how bytes
//! flow between client and endpoint.
//!
//! What a well-formed message is, is decided in `scaledapp-http1`; which endpoint gets a
//! request, in `scaledapp-select`.

mod allowance;
pub(crate) mod attempt;
mod body;
pub(crate) mod client;
pub(crate) mod connection;
mod exchange;
mod linger;
mod request;
mod tunnel;
mod unsent;
mod upstream;
