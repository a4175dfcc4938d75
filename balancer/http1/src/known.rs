//! Which fields the codec knows by name, and which only look like them.
//!
//! Decides what a name means, once per field; what is done about it is said
//! where heads are read and written.

/// What a field's name means to the codec.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Known {
    /// Nothing: passed on as it is.
    Other,
    /// Named by `Connection`, so for this hop only.
    Nominated,
    /// A known name written with `_`. Gateway interfaces that turn both bytes
    /// into `_` would take it for the real one (as CGI does, RFC 3875 section
    /// 4.1.18).
    Shadow,
    /// What only a proxy can say about a client: `X-Real-IP` and those
    /// `X-Forwarded-` fields that the codec does not write.
    Claim,
    /// `Proxy`, which gateway interfaces turn into the variable `HTTP_PROXY`
    /// (CVE-2016-5385 and its kin).
    Proxy,
    Connection,
    ContentLength,
    Expect,
    Forwarded,
    ForwardedFor,
    ForwardedHost,
    ForwardedProto,
    Host,
    KeepAlive,
    /// `Scaledapp-Not-Executed`: between proxies of ours, see
    /// [`crate::Response::may_go_elsewhere`].
    NotExecuted,
    ProxyAuthenticate,
    ProxyAuthorization,
    ProxyConnection,
    RequestId,
    Te,
    Trailer,
    TransferEncoding,
    Upgrade,
}

/// By length: most names are told apart by it alone.
const fn candidates(length: usize) -> &'static [(&'static [u8], Known)] {
    match length {
        2 => &[(b"te", Known::Te)],
        4 => &[(b"host", Known::Host)],
        5 => &[(b"proxy", Known::Proxy)],
        6 => &[(b"expect", Known::Expect)],
        7 => &[(b"trailer", Known::Trailer), (b"upgrade", Known::Upgrade)],
        9 => &[
            (b"forwarded", Known::Forwarded),
            (b"x-real-ip", Known::Claim),
        ],
        10 => &[
            (b"connection", Known::Connection),
            (b"keep-alive", Known::KeepAlive),
        ],
        12 => &[(b"x-request-id", Known::RequestId)],
        14 => &[(b"content-length", Known::ContentLength)],
        15 => &[(b"x-forwarded-for", Known::ForwardedFor)],
        16 => &[
            (b"x-forwarded-host", Known::ForwardedHost),
            (b"proxy-connection", Known::ProxyConnection),
        ],
        17 => &[
            (b"transfer-encoding", Known::TransferEncoding),
            (b"x-forwarded-proto", Known::ForwardedProto),
        ],
        18 => &[(b"proxy-authenticate", Known::ProxyAuthenticate)],
        19 => &[(b"proxy-authorization", Known::ProxyAuthorization)],
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

    /// Whether a message's end, or its connection's, hangs on it.
    pub(crate) const fn frames(self) -> bool {
        matches!(
            self,
            Self::Connection | Self::ContentLength | Self::TransferEncoding
        )
    }

    /// Whether `Connection` can make it a field of this hop. Fields that the
    /// codec reads or writes itself are not for a client to switch off.
    pub(crate) const fn can_be_nominated(self) -> bool {
        matches!(self, Self::Other | Self::Claim | Self::Forwarded)
    }
}

fn is_alike(name: &[u8], known: &[u8]) -> bool {
    let same = |(&a, &b): (&u8, &u8)| a.to_ascii_lowercase() == b || (a == b'_' && b == b'-');
    name.iter().zip(known).all(same)
}

fn or_shadow(name: &[u8], meaning: Known) -> Known {
    if name.contains(&b'_') {
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
