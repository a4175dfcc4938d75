//! Which fields the codec knows by name, and which names only resemble a known name.
//!
//! Decides what a name means, once per field. What follows from the meaning is decided
//! where heads are read and written.

/// What a field's name means to the codec.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Known {
    /// It has no meaning here and is passed on.
    Other,
    /// `Connection` names it, so it is only for this hop.
    Nominated,
    /// A known name with another byte in place of `-`. A gateway interface that turns both
    /// bytes into `_` would take it for the real name. In CGI the other byte is `_` (RFC
    /// 3875 section 4.1.18); for some servers it is any byte that is neither a letter nor a
    /// digit.
    Shadow,
    /// A statement about a client that only a proxy can make and that the codec does not write
    /// itself.
    Claim,
    /// `Proxy`, which gateway interfaces turn into the variable `HTTP_PROXY` (CVE-2016-5385
    /// and similar faults).
    Proxy,
    Connection,
    ContentLength,
    Expect,
    Forwarded,
    ForwardedFor,
    ForwardedHost,
    ForwardedProto,
    Host,
    /// `Scaledapp-Interrupted`: only between ScaledApp proxies, see [`crate::Elsewhere`].
    Interrupted,
    KeepAlive,
    /// `Scaledapp-Not-Executed`: only between ScaledApp proxies, see [`crate::Elsewhere`].
    NotExecuted,
    ProxyAuthenticate,
    ProxyAuthorization,
    ProxyConnection,
    RealIp,
    /// `Scaledapp-Repeated`: only between ScaledApp proxies, see
    /// [`crate::Request::is_repeated`].
    Repeated,
    RequestId,
    Te,
    /// `Scaledapp-Token`: identifies the sender as another ScaledApp proxy.
    Token,
    Trailer,
    TransferEncoding,
    Upgrade,
    /// `Scaledapp-Worker`: between ScaledApp proxies, see [`crate::Response::worker`].
    Worker,
}

/// The known names of this length, in lower case. Few names have the same length, so few
/// are compared.
const fn candidates(length: usize) -> &'static [(&'static [u8], Known)] {
    match length {
        2 => &[(b"te", Known::Te)],
        4 => &[(b"host", Known::Host)],
        5 => &[(b"proxy", Known::Proxy)],
        6 => &[(b"expect", Known::Expect)],
        7 => &[(b"trailer", Known::Trailer), (b"upgrade", Known::Upgrade)],
        8 => &[(b"x-scheme", Known::Claim)],
        9 => &[
            (b"forwarded", Known::Forwarded),
            (b"x-real-ip", Known::RealIp),
        ],
        10 => &[
            (b"connection", Known::Connection),
            (b"keep-alive", Known::KeepAlive),
        ],
        11 => &[
            (b"client-cert", Known::Claim),
            (b"x-client-ip", Known::Claim),
            (b"x-forwarded", Known::Claim),
        ],
        12 => &[
            (b"x-request-id", Known::RequestId),
            (b"x-url-scheme", Known::Claim),
        ],
        13 => &[
            (b"forwarded-for", Known::Claim),
            (b"x-rewrite-url", Known::Claim),
        ],
        14 => &[
            (b"content-length", Known::ContentLength),
            (b"true-client-ip", Known::Claim),
            (b"x-original-url", Known::Claim),
        ],
        15 => &[
            (b"x-forwarded-for", Known::ForwardedFor),
            (b"scaledapp-token", Known::Token),
            (b"front-end-https", Known::Claim),
            (b"x-original-host", Known::Claim),
        ],
        16 => &[
            (b"x-forwarded-host", Known::ForwardedHost),
            (b"proxy-connection", Known::ProxyConnection),
            (b"cf-connecting-ip", Known::Claim),
            (b"fastly-client-ip", Known::Claim),
            (b"scaledapp-worker", Known::Worker),
        ],
        17 => &[
            (b"transfer-encoding", Known::TransferEncoding),
            (b"x-forwarded-proto", Known::ForwardedProto),
            (b"client-cert-chain", Known::Claim),
        ],
        18 => &[
            (b"proxy-authenticate", Known::ProxyAuthenticate),
            (b"cf-connecting-ipv6", Known::Claim),
            (b"scaledapp-repeated", Known::Repeated),
        ],
        19 => &[
            (b"proxy-authorization", Known::ProxyAuthorization),
            (b"x-cluster-client-ip", Known::Claim),
        ],
        21 => &[(b"scaledapp-interrupted", Known::Interrupted)],
        22 => &[(b"scaledapp-not-executed", Known::NotExecuted)],
        _ => &[],
    }
}

const FAMILY: &[u8] = b"x-forwarded-";

impl Known {
    pub(crate) fn of(name: &[u8]) -> Self {
        for (known, meaning) in candidates(name.len()) {
            if is_alike(name, known) {
                return or_shadow(name, *meaning);
            }
        }
        if name.len() > FAMILY.len() && is_alike(&name[..FAMILY.len()], FAMILY) {
            return or_shadow(&name[..FAMILY.len()], Self::Claim);
        }
        Self::Other
    }

    /// Whether the field determines the end of a message or of its connection.
    pub(crate) const fn frames(self) -> bool {
        matches!(
            self,
            Self::Connection | Self::ContentLength | Self::TransferEncoding
        )
    }

    /// Whether it frames a message, or is for one hop only.
    pub(crate) const fn is_of_connection(self) -> bool {
        matches!(
            self,
            Self::Connection
                | Self::ContentLength
                | Self::Host
                | Self::Interrupted
                | Self::KeepAlive
                | Self::NotExecuted
                | Self::ProxyConnection
                | Self::Repeated
                | Self::Te
                | Self::Token
                | Self::Trailer
                | Self::TransferEncoding
                | Self::Upgrade
                | Self::Worker
        )
    }

    /// Whether `Connection` can limit the field to this hop. A client must not be able to
    /// remove fields that the codec reads or writes itself, nor fields in which a proxy
    /// describes the client: a proxy that passes the client's `Connection` on would lose
    /// its own fields here (as in CVE-2022-31813 of Apache).
    pub(crate) const fn can_be_nominated(self) -> bool {
        matches!(self, Self::Other)
    }
}

fn is_alike(name: &[u8], known: &[u8]) -> bool {
    let same = |(&a, &b): (&u8, &u8)| {
        a.to_ascii_lowercase() == b || (b == b'-' && !a.is_ascii_alphanumeric())
    };
    name.iter().zip(known).all(same)
}

fn or_shadow(name: &[u8], meaning: Known) -> Known {
    let is_other = |byte: &u8| *byte != b'-' && !byte.is_ascii_alphanumeric();
    if name.iter().any(is_other) {
        Known::Shadow
    } else {
        meaning
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_candidate_is_found_in_any_case() {
        for length in 0..64 {
            for (name, meaning) in candidates(length) {
                assert_eq!(name.len(), length);
                assert_eq!(Known::of(name), *meaning);
                assert_eq!(Known::of(&name.to_ascii_uppercase()), *meaning);
            }
        }
    }

    #[test]
    fn other_spellings() {
        for (name, meaning) in [
            ("X_Forwarded-For", Known::Shadow),
            ("Content_Length", Known::Shadow),
            ("x_forwarded_port", Known::Shadow),
            ("X.Forwarded~For", Known::Shadow),
            ("X_Real-IP", Known::Shadow),
            ("Scaledapp_Token", Known::Shadow),
            ("X-Forwarded", Known::Claim),
            ("X-Forwarded-Port", Known::Claim),
            ("X-Forwarded-", Known::Other),
            ("my_field", Known::Other),
            ("Accept", Known::Other),
            ("", Known::Other),
        ] {
            assert_eq!(Known::of(name.as_bytes()), meaning, "{name}");
        }
    }
}
