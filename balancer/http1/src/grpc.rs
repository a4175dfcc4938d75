//! What a proxy must know of gRPC (grpc.io, "gRPC over HTTP2"): how a call is recognised, how long
//! its client waits, what its status means, and how the proxy answers a call for which no server
//! has sent an answer.
//!
//! Messages are not read here.

use core::time::Duration;

/// The media type of a call. A suffix names the encoding of the messages.
pub(crate) const MEDIA_TYPE: &[u8] = b"application/grpc";

/// Whether a `Content-Type` is that of a gRPC call. The media type of gRPC-Web is not: gRPC-Web
/// has its trailer fields in the body and works over any version of HTTP.
pub fn is_grpc(media: &[u8]) -> bool {
    let (start, rest) = media.split_at(media.len().min(MEDIA_TYPE.len()));
    start.eq_ignore_ascii_case(MEDIA_TYPE) && matches!(rest, [] | [b'+' | b';' | b' ', ..])
}

/// The value of `grpc-timeout`: 1 to 8 digits and a unit.
pub(crate) fn timeout(value: &[u8]) -> Option<Duration> {
    let (unit, digits) = value.split_last()?;
    if !(1..=8).contains(&digits.len()) || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number = digits
        .iter()
        .fold(0, |number, digit| number * 10 + u64::from(digit - b'0'));
    Some(match unit {
        b'H' => Duration::from_secs(number * 3600),
        b'M' => Duration::from_secs(number * 60),
        b'S' => Duration::from_secs(number),
        b'm' => Duration::from_millis(number),
        b'u' => Duration::from_micros(number),
        b'n' => Duration::from_nanos(number),
        _ => return None,
    })
}

/// The status of a call. Only those that a proxy gives or interprets have names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GrpcStatus(pub u32);

impl GrpcStatus {
    /// The call took longer than its client, or this proxy, waits.
    pub const DEADLINE_EXCEEDED: Self = Self(4);
    /// A head or a body was too large. An app may also send this status while it is busy.
    pub const RESOURCE_EXHAUSTED: Self = Self(8);
    /// Any other failure, such as a violation of the protocol.
    pub const INTERNAL: Self = Self(13);
    /// No server can be reached. The client may repeat the call later.
    pub const UNAVAILABLE: Self = Self(14);
    const DATA_LOSS: Self = Self(15);

    /// The value of `grpc-status`.
    pub fn of(value: &[u8]) -> Option<Self> {
        let text = core::str::from_utf8(value).ok()?;
        text.parse().ok().map(Self)
    }

    /// Whether the server has failed, rather than the call: other statuses are answers of the app
    /// (`NOT_FOUND`, `PERMISSION_DENIED`), or show that it is busy (`RESOURCE_EXHAUSTED`).
    pub fn is_failure_of_server(self) -> bool {
        matches!(self, Self::INTERNAL | Self::UNAVAILABLE | Self::DATA_LOSS)
    }

    /// The status of a call that the proxy answers itself, where another request would get this
    /// HTTP status. Without a gRPC status, clients derive one from the HTTP status, which gives
    /// `UNKNOWN` for most.
    pub fn of_http(status: u16) -> Self {
        match status {
            413 | 431 => Self::RESOURCE_EXHAUSTED,
            408 | 504 => Self::DEADLINE_EXCEEDED,
            429 | 502 | 503 => Self::UNAVAILABLE,
            _ => Self::INTERNAL,
        }
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use super::*;

    #[test]
    fn a_call_is_known_by_its_media_type() {
        for (media, wanted) in [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("Application/GRPC; charset=utf-8", true),
            ("application/grpc-web", false),
            ("application/grpc-web+proto", false),
            ("application/json", false),
            ("", false),
        ] {
            assert_eq!(is_grpc(media.as_bytes()), wanted, "{media}");
        }
    }

    #[test]
    fn a_timeout_has_up_to_eight_digits_and_a_unit() {
        let of = |text: &str| timeout(text.as_bytes());
        assert_eq!(of("1n"), Some(Duration::from_nanos(1)));
        assert_eq!(of("250m"), Some(Duration::from_millis(250)));
        assert_eq!(of("99999999H"), Some(Duration::from_hours(99_999_999)));
        for wrong in ["", "5", "S", "5x", "-1S", "123456789S", "1.5S", "5 S"] {
            assert_eq!(of(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn only_some_statuses_are_failures_of_the_server() {
        let failures: Vec<u32> = (0..=16)
            .filter(|status| GrpcStatus(*status).is_failure_of_server())
            .collect();
        assert_eq!(failures, [13, 14, 15]);
        assert_eq!(GrpcStatus::of(b"14"), Some(GrpcStatus::UNAVAILABLE));
        assert_eq!(GrpcStatus::of(b"x"), None);
    }
}
