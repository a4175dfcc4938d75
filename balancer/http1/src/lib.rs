//! An HTTP/1 codec without I/O: strict in what it accepts, canonical in what it writes.
//!
//! Decides where a message begins and ends, which messages are refused because they are
//! ambiguous, and what is written instead of what was received (RFC 9110, RFC 9112). A
//! request is not repaired: apart from empty lines before it, which are skipped, it must
//! follow the grammar exactly. In an answer, some faults that RFC 9112 allows a proxy to
//! repair are repaired because old apps need it, such as bare line ends, folded lines and
//! space before a colon. A head is not copied: a new one is written from what was
//! understood.
//!
//! The codec knows no socket, no clock and no runtime: it takes bytes, and returns
//! positions in them and new bytes. It does not choose an upstream, does not retry, and
//! does not judge methods, paths or content. It does not support `CONNECT`. Of HTTP/2 it
//! only recognises the preface and writes a refusal. It passes `Via` and `Max-Forwards`
//! on unchanged.
//!
//! `no_std` on purpose: the compiler then refuses clocks, sockets and files.
#![no_std]

extern crate alloc;

mod body;
mod chunks;
mod cookie;
mod fault;
mod fields;
mod folding;
mod forwarded;
mod framing;
mod grpc;
mod host;
mod http2;
mod known;
mod lexis;
mod limits;
mod line;
mod networks;
mod options;
mod proxy_header;
mod request;
mod response;
mod status;
mod tokens;
mod trailers;
mod write;

pub use body::{BodyReader, BodyWriter, Piece};
pub use fault::{Malformed, REASONS, Refusal};
pub use fields::Fields;
pub use folding::unfold;
pub use framing::{Framing, Version};
pub use grpc::{GrpcStatus, is_grpc};
pub use http2::{is_http2, write_http2_refusal};
pub use limits::{ANSWER_TRAILER_BYTES, Limits};
pub use networks::{Network, NetworkError};
pub use proxy_header::{Announced, HeaderFault, parse_proxy_header, write_proxy_header};
pub use request::{REPEATED, Request, parse_request};
pub use response::{Asked, Elsewhere, Response, parse_response};
pub use tokens::{Tokens, TokensError};
pub use trailers::Trailers;
pub use write::{
    Downstream, Origin, Page, Trust, append_field, downstream_framing, write_answer,
    write_grpc_answer, write_page, write_redirect, write_request, write_response,
};
