//! Names that Kubernetes and DNS accept.

use std::fmt;
use std::str::FromStr;

/// A host name (RFC 1123 section 2.1, lower case). It has at least two labels, because a DNS
/// server serves it from the zone that follows the first label.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hostname(String);

/// Why a text is not a host name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HostnameError {
    /// A label breaks a rule.
    #[error(
        "{0:?} is not a DNS name: use labels of a-z, 0-9 and -, each at most 63 long, separated by dots, such as hello.apps.local"
    )]
    NotAName(String),
    /// The name is longer than 253 characters. RFC 1035 section 2.3.4 allows 255 bytes, two of
    /// which are length bytes of the wire format.
    #[error("the name is longer than 253 characters")]
    TooLong,
    /// The name has only one label, so it is in no zone.
    #[error("{0:?} has only one label: add a zone, such as {0}.apps.local")]
    NoZone(String),
}

impl FromStr for Hostname {
    type Err = HostnameError;

    fn from_str(text: &str) -> Result<Self, HostnameError> {
        let name = text.strip_suffix('.').unwrap_or(text);
        if name.len() > 253 {
            return Err(HostnameError::TooLong);
        }
        if !name.split('.').all(is_label) {
            return Err(HostnameError::NotAName(text.to_owned()));
        }
        if !name.contains('.') {
            return Err(HostnameError::NoZone(name.to_owned()));
        }
        Ok(Self(name.to_owned()))
    }
}

impl Hostname {
    /// The name without a trailing dot.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The zone that the name is in: all but its first label.
    pub fn zone(&self) -> &str {
        let (_, zone) = self
            .0
            .split_once('.')
            .expect("invariant: a host name has two labels or more");
        zone
    }
}

impl fmt::Display for Hostname {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Whether `text` is a label of RFC 1123, as Kubernetes demands for names that become part
/// of host names.
pub(crate) fn is_label(text: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=63).contains(&text.len())
        && text.bytes().all(inner)
        && !text.starts_with('-')
        && !text.ends_with('-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_name_has_labels_and_a_zone() {
        let name: Hostname = "hello.apps.local.".parse().unwrap();
        assert_eq!(
            (name.as_str(), name.zone()),
            ("hello.apps.local", "apps.local")
        );
        let long = format!("{}.local", "a".repeat(64));
        for text in [
            "",
            ".",
            "a..b",
            "-a.b",
            "a-.b",
            "A.b",
            "a_b.c",
            "a b.c",
            "*.apps.local",
            &long,
        ] {
            let error = text.parse::<Hostname>().unwrap_err();
            assert!(
                matches!(error, HostnameError::NotAName(_)),
                "{text}: {error}"
            );
        }
        let error = "hello".parse::<Hostname>().unwrap_err().to_string();
        assert!(error.contains("hello.apps.local"), "{error}");
        let long = ["a".repeat(63).as_str(); 4].join(".");
        assert_eq!(long.parse::<Hostname>(), Err(HostnameError::TooLong));
    }
}
