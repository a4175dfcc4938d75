//! Requests in the form of HTTP/1, from a client's connection or from a stream of HTTP/2:
//! what becomes of each, and how bytes flow between client and endpoint.
//!
//! `scaledapp-http1` decides which messages are well-formed; `scaledapp-select` decides
//! which endpoint gets a request.

mod allowance;
pub(crate) mod attempt;
mod body;
pub(crate) mod client;
pub(crate) mod connection;
pub(crate) mod exchange;
pub(crate) mod handshake;
mod linger;
mod redirect;
mod request;
mod tunnel;
mod unsent;
mod upstream;
mod websocket;
