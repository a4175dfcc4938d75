//! Strict HTTP/1 codec without I/O: strict in, canonical out.
//!
//! Decides where a message begins and ends, which messages are refused because
//! two parsers could read them in two ways, and what is written instead of what
//! was received (RFC 9110, RFC 9112). Nothing of a request is repaired: what is not
//! exactly the grammar is refused. Of an answer is repaired what RFC 9112 lets a proxy
//! repair and old apps send: bare line ends, folded lines, space before a colon. What is
//! forwarded is never a copy of a head but a new one, written from what was understood.
//!
//! Knows no socket, no clock and no runtime: bytes come in, spans into them and
//! bytes go out. It does not choose an upstream, does not retry, and does not
//! judge methods, paths or content. It speaks no `CONNECT`, of HTTP/2 only a
//! refusal, drops trailers, and leaves `Via` and `Max-Forwards` alone.
//!
//! `no_std` on purpose: the compiler then refuses clocks, sockets and files.
#![no_std]

extern crate alloc;

mod body;
mod chunks;
mod fault;
mod fields;
mod folding;
mod forwarded;
mod framing;
mod host;
mod http2;
mod known;
mod lexis;
mod limits;
mod line;
mod networks;
mod options;
mod request;
mod response;
mod status;
mod write;

pub use body::{BodyReader, BodyWriter, Piece};
pub use fault::{Malformed, REASONS, Refusal};
pub use fields::Fields;
pub use folding::unfold;
pub use framing::{Framing, Version};
pub use http2::{is_http2, write_http2_refusal};
pub use limits::Limits;
pub use networks::{Network, NetworkError};
pub use request::{REPEATED, Request, parse_request};
pub use response::{Asked, Elsewhere, Response, parse_response};
pub use write::{
    Downstream, Origin, Trust, downstream_framing, write_answer, write_request, write_response,
};
