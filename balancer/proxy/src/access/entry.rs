//! What the access log says about one request, and how long the texts of a peer may be in it.
//!
//! How an entry is written is decided in `format`; which are written, in `access`.

use std::net::IpAddr;
use std::time::Duration;

/// Follows a text that was cut.
const CUT: &[u8] = b"...";

/// The texts of an entry that come from peers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kept {
    Method,
    Target,
    Host,
    UserAgent,
    Referer,
    RequestId,
    /// 32 hexadecimal digits, or nothing.
    TraceId,
    /// The first line of a request that was refused before it was understood.
    Line,
    Endpoint,
}

impl Kept {
    const ALL: usize = 9;

    /// The most bytes that are kept.
    fn most(self) -> usize {
        match self {
            Self::Method | Self::TraceId => 32,
            Self::Target => 2048,
            Self::Referer => 1024,
            Self::UserAgent => 512,
            Self::Host | Self::Line | Self::Endpoint => 256,
            Self::RequestId => 128,
        }
    }
}

/// Texts one after the other, so that an entry takes one piece of memory.
#[derive(Debug, Clone, Default)]
pub(super) struct Texts {
    bytes: Vec<u8>,
    spans: [(u16, u16); Kept::ALL],
}

impl Texts {
    /// Keeps a text, the first part of it if it is too long. An earlier text of the same kind is
    /// forgotten.
    pub(super) fn put(&mut self, kept: Kept, text: &[u8]) {
        let start = self.bytes.len();
        let most = kept.most();
        if text.len() > most {
            self.bytes.extend_from_slice(&text[..most]);
            self.bytes.extend_from_slice(CUT);
        } else {
            self.bytes.extend_from_slice(text);
        }
        // A request has a few attempts, each with the name of an endpoint, so all texts
        // together are far shorter.
        let (Ok(from), Ok(to)) = (u16::try_from(start), u16::try_from(self.bytes.len())) else {
            self.bytes.truncate(start);
            return;
        };
        self.spans[kept as usize] = (from, to);
    }

    /// The text; empty if there is none.
    pub(super) fn get(&self, kept: Kept) -> &[u8] {
        let (from, to) = self.spans[kept as usize];
        &self.bytes[usize::from(from)..usize::from(to)]
    }
}

/// One finished request, or a connection that was refused before it had one.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) client: IpAddr,
    pub(super) texts: Texts,
    /// `HTTP/1.0`, `HTTP/1.1` or `HTTP/2.0`; empty if the request was not understood.
    pub(super) protocol: &'static str,
    /// Of the answer; 499 if the client has gone before there was one, as in nginx, and 0 if the
    /// proxy has ended before there was one.
    pub(super) status: u16,
    /// Why the proxy has answered itself, or why the answer is incomplete.
    pub(super) reason: Option<&'static str>,
    /// Bytes of the request's body, without framing; of a tunnel, all bytes of the client.
    pub(super) bytes_in: u64,
    /// Bytes of the answer's body, without framing; of a tunnel, all bytes of the server.
    pub(super) bytes_out: u64,
    /// Since the request's head was complete.
    pub(super) duration: Duration,
    /// From the last attempt's begin to the end of the answer's head.
    pub(super) upstream_head: Option<Duration>,
    /// How often the request was sent.
    pub(super) attempts: u32,
    /// Such as `TLSv1.3`.
    pub(super) tls: Option<&'static str>,
    /// The status of a gRPC call.
    pub(super) grpc_status: Option<u32>,
}

impl Entry {
    pub(super) fn new(client: IpAddr) -> Self {
        Self {
            client,
            texts: Texts::default(),
            protocol: "",
            status: 0,
            reason: None,
            bytes_in: 0,
            bytes_out: 0,
            duration: Duration::ZERO,
            upstream_head: None,
            attempts: 0,
            tls: None,
            grpc_status: None,
        }
    }

    /// Whether the request has failed for a reason that is not its client's.
    pub(super) fn is_error(&self) -> bool {
        // 4 and 13 to 15 of gRPC correspond to 5xx: DEADLINE_EXCEEDED, INTERNAL, UNAVAILABLE
        // and DATA_LOSS; 2 is UNKNOWN, an exception in the server.
        let is_grpc_error = matches!(self.grpc_status, Some(2 | 4 | 13..=15));
        self.status >= 500 || self.status == 0 || is_grpc_error
    }
}

/// The trace id in a `traceparent` field (W3C Trace Context, level 1): 32 lower-case
/// hexadecimal digits that are not all zero; empty if the field is malformed.
pub(super) fn trace_id(traceparent: &[u8]) -> &[u8] {
    let mut parts = traceparent.split(|byte| *byte == b'-');
    let (Some(version), Some(id)) = (parts.next(), parts.next()) else {
        return b"";
    };
    let is_hex = |part: &[u8]| {
        part.iter()
            .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    };
    let is_valid = version.len() == 2
        && version != b"ff"
        && id.len() == 32
        && is_hex(version)
        && is_hex(id)
        && id.iter().any(|byte| *byte != b'0');
    if is_valid { id } else { b"" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_text_is_cut_and_a_later_one_replaces_it() {
        let mut texts = Texts::default();
        texts.put(Kept::Method, &[b'M'; 33]);
        texts.put(Kept::Endpoint, b"a");
        texts.put(Kept::Endpoint, b"bc");
        let cut = [&[b'M'; 32][..], b"..."].concat();
        assert_eq!(texts.get(Kept::Method), cut);
        assert_eq!(texts.get(Kept::Endpoint), b"bc");
        assert_eq!(texts.get(Kept::Host), b"");
        // Memory stays bounded whatever is put in.
        for _ in 0..1000 {
            texts.put(Kept::Target, &[b'/'; 5000]);
        }
        assert!(u16::try_from(texts.bytes.len()).is_ok());
        assert_eq!(texts.get(Kept::Target).len(), 2051);
    }

    #[test]
    fn a_trace_id_is_taken_only_from_a_well_formed_field() {
        let id = "4bf92f3577b34da6a3ce929d0e0e4736";
        for (field, wanted) in [
            (format!("00-{id}-00f067aa0ba902b7-01"), id),
            (format!("01-{id}-00f067aa0ba902b7-01-more"), id),
            (format!("ff-{id}-00f067aa0ba902b7-01"), ""),
            (format!("00-{}-00f067aa0ba902b7-01", "0".repeat(32)), ""),
            (format!("00-{}-1-01", id.to_uppercase()), ""),
            (format!("00-{}-1-01", &id[1..]), ""),
            (format!("00-{id}"), id),
            ("00".to_owned(), ""),
            (String::new(), ""),
        ] {
            assert_eq!(trace_id(field.as_bytes()), wanted.as_bytes(), "{field}");
        }
    }
}
