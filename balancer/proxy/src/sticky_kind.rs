//! The ways in which a client can come back to the same server, as users name them.

use std::str::FromStr;

/// The cookie's name, if none is given.
const COOKIE: &str = "SCALEDAPP";

/// How a client comes back to the same server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sticky {
    /// By a cookie of this name, which the proxy sets. Sessions of engine.io (socket.io) come back
    /// without the cookie as well: their ids decide.
    Cookie(&'static str),
    /// Requests with the same value of this field go to the same server.
    Field(&'static str),
    /// Requests from the same address go to the same server.
    Address,
}

/// A text that names no kind of stickiness.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StickyError {
    /// The kind is not known.
    #[error("{0:?} is not one of cookie, cookie:NAME, header:NAME, address")]
    Kind(String),
    /// The name cannot be that of a cookie or field.
    #[error("{0:?} is no name: use letters, digits, - and _, at most 64 of them")]
    Name(String),
}

impl FromStr for Sticky {
    type Err = StickyError;

    fn from_str(text: &str) -> Result<Self, StickyError> {
        let (kind, name) = match text.split_once(':') {
            Some((kind, name)) => (kind, Some(name)),
            None => (text, None),
        };
        match (kind, name) {
            ("cookie", None) => Ok(Self::Cookie(COOKIE)),
            ("cookie", Some(name)) => Ok(Self::Cookie(checked(name)?)),
            ("header", Some(name)) => Ok(Self::Field(checked(name)?)),
            ("address", None) => Ok(Self::Address),
            _ => Err(StickyError::Kind(text.to_owned())),
        }
    }
}

/// The name lives as long as the process: it is read once, at the start.
fn checked(name: &str) -> Result<&'static str, StickyError> {
    let is_good = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    if (1..=64).contains(&name.len()) && name.bytes().all(is_good) {
        Ok(Box::leak(Box::from(name)))
    } else {
        Err(StickyError::Name(name.to_owned()))
    }
}

impl Sticky {
    /// The name of the cookie.
    pub(crate) fn cookie(self) -> Option<&'static str> {
        match self {
            Self::Cookie(name) => Some(name),
            Self::Field(_) | Self::Address => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_read_from_the_command_line() {
        assert_eq!("cookie".parse(), Ok(Sticky::Cookie("SCALEDAPP")));
        assert_eq!("cookie:app_1".parse(), Ok(Sticky::Cookie("app_1")));
        assert_eq!("header:X-User".parse(), Ok(Sticky::Field("X-User")));
        assert_eq!("address".parse(), Ok(Sticky::Address));
        for wrong in [
            "",
            "cookie:",
            "cookie:a b",
            "header",
            "header:a;b",
            "ip",
            "address:1",
        ] {
            assert!(wrong.parse::<Sticky>().is_err(), "{wrong}");
        }
    }
}
