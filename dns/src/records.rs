//! The records file: its format and its checks. A file with a mistake is refused as a whole, so
//! that no part of it takes effect.
//!
//! `{"NAME.": {"ttl": 30, "addresses": ["…"], "probe": "tcp:80"}}`.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use scaledapp_answers::{Name, NameError};
use scaledapp_wire::Record;
use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};

/// The largest time to live, in seconds (RFC 2181 section 8).
const MAX_TTL: u32 = 0x7fff_ffff;

/// One name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) name: Name,
    pub(crate) ttl: Duration,
    pub(crate) addresses: Vec<IpAddr>,
    /// Addresses reported as not serving. They are published only if there is no other address.
    pub(crate) withdrawn: BTreeSet<IpAddr>,
    /// Port on which an address must accept TCP. Without a port, the address counts as healthy.
    pub(crate) probe: Option<u16>,
    /// Whether the operator reports that all addresses except the withdrawn ones serve. This counts
    /// if probes can reach none of the addresses that serve.
    pub(crate) vouched: bool,
}

/// Why a file is refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RecordsError {
    #[error("not the JSON of a records file: {0}")]
    Json(#[from] serde_json::Error),
    #[error(transparent)]
    Name(#[from] NameError),
    #[error("{0} is listed twice (letter case and a closing dot are ignored)")]
    NameTwice(Name),
    #[error("{0} is outside the zone {1}: list only names that end with it")]
    Outside(Name, Name),
    #[error("{0} has a ttl of {1} seconds: the maximum is {MAX_TTL}")]
    Ttl(Name, u32),
    #[error("{0} lists the address {1} twice")]
    AddressTwice(Name, IpAddr),
    #[error("{0} lists {1}, which is not the address of a host: remove it")]
    Unreachable(Name, IpAddr),
    #[error("{0} has the probe {1:?}: write tcp:PORT, such as tcp:8080, or leave it out")]
    Probe(Name, String),
}

/// The members of the file as a list, because a map would silently drop one of two equal keys.
struct Members(Vec<(String, Record)>);

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Gather;
        impl<'de> Visitor<'de> for Gather {
            type Value = Members;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of names")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Gather)
    }
}

/// Reads the file's content for the zone `apex`.
pub(crate) fn parse(json: &[u8], apex: &Name) -> Result<Vec<Entry>, RecordsError> {
    let Members(members) = serde_json::from_slice(json)?;
    let mut names = BTreeSet::new();
    let mut entries = Vec::with_capacity(members.len());
    for (
        name,
        Record {
            ttl,
            addresses,
            probe,
        },
    ) in members
    {
        let name: Name = name.parse()?;
        if !name.is_within(apex) {
            return Err(RecordsError::Outside(name, apex.clone()));
        }
        if !names.insert(name.clone()) {
            return Err(RecordsError::NameTwice(name));
        }
        if ttl > MAX_TTL {
            return Err(RecordsError::Ttl(name, ttl));
        }
        check_addresses(&name, &addresses)?;
        let probe =
            probe.map(|text| port(&text).ok_or_else(|| RecordsError::Probe(name.clone(), text)));
        let probe = probe.transpose()?;
        entries.push(Entry {
            name,
            ttl: Duration::from_secs(u64::from(ttl)),
            addresses,
            withdrawn: BTreeSet::new(),
            probe,
            vouched: false,
        });
    }
    Ok(entries)
}

fn check_addresses(name: &Name, addresses: &[IpAddr]) -> Result<(), RecordsError> {
    let mut seen = BTreeSet::new();
    for address in addresses {
        if address.is_unspecified() || address.is_multicast() {
            return Err(RecordsError::Unreachable(name.clone(), *address));
        }
        if !seen.insert(address) {
            return Err(RecordsError::AddressTwice(name.clone(), *address));
        }
    }
    Ok(())
}

fn port(probe: &str) -> Option<u16> {
    probe
        .strip_prefix("tcp:")?
        .parse()
        .ok()
        .filter(|port| *port != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Result<Vec<Entry>, String> {
        let apex = "apps.local".parse().unwrap();
        parse(json.as_bytes(), &apex).map_err(|error| error.to_string())
    }

    #[test]
    fn a_valid_file_is_read() {
        let json = r#"{"hello.apps.local.":{"ttl":7,"addresses":["127.0.77.1","fd00::1"],"probe":"tcp:8080"},
            "Plain.Apps.Local":{"addresses":[]}}"#;
        let entries = read(json).unwrap();
        assert_eq!(
            entries[0],
            Entry {
                name: "hello.apps.local".parse().unwrap(),
                ttl: Duration::from_secs(7),
                addresses: vec!["127.0.77.1".parse().unwrap(), "fd00::1".parse().unwrap()],
                withdrawn: BTreeSet::new(),
                probe: Some(8080),
                vouched: false,
            }
        );
        assert_eq!(entries[1].name, "plain.apps.local".parse().unwrap());
        assert_eq!(
            (entries[1].ttl, entries[1].probe),
            (Duration::from_secs(30), None)
        );
        assert_eq!(read("{}").unwrap(), []);
    }

    #[test]
    fn a_mistake_is_refused_with_the_reason() {
        let of =
            |name: &str, rest: &str| format!(r#"{{"{name}":{{"addresses":["10.0.0.1"]{rest}}}}}"#);
        let twice = r#"{"a.apps.local":{"addresses":[]},"A.apps.local.":{"addresses":[]}}"#;
        let same_twice = r#"{"a.apps.local":{"addresses":[]},"a.apps.local":{"addresses":[]}}"#;
        for (json, part) in [
            (String::new(), "not the JSON"),
            ("[]".to_owned(), "an object of names"),
            (
                r#"{"a.apps.local":{"ttl":30}}"#.to_owned(),
                "missing field `addresses`",
            ),
            (
                r#"{"a.apps.local":{"addresses":["x"]}}"#.to_owned(),
                "invalid IP address",
            ),
            (
                r#"{"a.apps.local":{"addresses":["0.0.0.0"]}}"#.to_owned(),
                "not the address of a host",
            ),
            (
                r#"{"a.apps.local":{"addresses":["::1","0::1"]}}"#.to_owned(),
                "::1 twice",
            ),
            (of("a.apps.local", r#","tll":3"#), "unknown field `tll`"),
            (of("a.apps.local", r#","ttl":-1"#), "invalid value"),
            (
                of("a.apps.local", r#","ttl":2147483648"#),
                "the maximum is 2147483647",
            ),
            (
                of("a.apps.local", r#","probe":"http:80""#),
                "such as tcp:8080",
            ),
            (
                of("a.apps.local", r#","probe":"tcp:0""#),
                "such as tcp:8080",
            ),
            (
                of("a.apps.local", r#","probe":"tcp:65536""#),
                "such as tcp:8080",
            ),
            (
                of("a.example.com", ""),
                "a.example.com. is outside the zone apps.local.",
            ),
            (of("a..apps.local", ""), "empty label"),
            (twice.to_owned(), "a.apps.local. is listed twice"),
            (same_twice.to_owned(), "a.apps.local. is listed twice"),
        ] {
            let message = read(&json).unwrap_err();
            assert!(message.contains(part), "{json}: {message}");
        }
    }
}
