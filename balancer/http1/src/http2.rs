//! How a client that speaks HTTP/2 with prior knowledge (gRPC, `h2c`) is recognised, and
//! how it is refused in its own protocol (RFC 9113 sections 3.4, 4.1, 6.5 and 6.8).
//!
//! This codec supports nothing else of HTTP/2.

use alloc::vec::Vec;

/// The first line of the client's preface. No HTTP/1 request begins with it.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n";

const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
/// "Use HTTP/1.1 for the request" (RFC 9113 section 7).
const HTTP_1_1_REQUIRED: u32 = 0xd;

/// Whether the bytes of a client are the beginning of HTTP/2.
pub fn is_http2(bytes: &[u8]) -> bool {
    bytes.starts_with(PREFACE)
}

/// Appends a server's preface (an empty `SETTINGS` frame) and `GOAWAY`, which says that no
/// stream was processed and HTTP/1.1 is required. Clients may show `text`.
pub fn write_http2_refusal(out: &mut Vec<u8>, text: &str) {
    put_frame_head(out, 0, SETTINGS);
    let text = text.as_bytes();
    // This is far below the 2^14 bytes that every client accepts (RFC 9113 section 4.2).
    let text = &text[..text.len().min(1 << 10)];
    put_frame_head(out, 8 + text.len() as u16, GOAWAY);
    // The last stream that was processed: none.
    out.extend_from_slice(&0u32.to_be_bytes());
    out.extend_from_slice(&HTTP_1_1_REQUIRED.to_be_bytes());
    out.extend_from_slice(text);
}

/// A frame without flags that concerns the whole connection.
fn put_frame_head(out: &mut Vec<u8>, length: u16, kind: u8) {
    out.push(0);
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(&[kind, 0, 0, 0, 0, 0]);
}
