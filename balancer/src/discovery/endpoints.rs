//! The endpoints file: what it may contain, and what is refused. A file with a mistake is
//! refused as a whole, so that no part of it takes effect.
//!
//! `[{"name": "pod-0", "address": "10.0.0.1:3000", "admin": "10.0.0.1:9377", "zone": "a"}]`.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use scaledapp_wire as wire;

use super::backend::{Backend, check_target};

/// The most endpoints. One balancer serves far fewer, so a longer list is a mistake.
const MAX_ENDPOINTS: usize = 4096;
/// The longest name, in bytes: that of a DNS name, which also bounds names of pods.
const MAX_NAME_BYTES: usize = 253;

/// Why a file is refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EndpointsError {
    #[error("not the JSON of an endpoints file: {0}")]
    Json(String),
    #[error("{0} endpoints: the limit is {MAX_ENDPOINTS}")]
    TooMany(usize),
    #[error("entry {0} has no name, or one beyond {MAX_NAME_BYTES} bytes")]
    Name(usize),
    #[error("the name {0:?} is given twice")]
    NameTwice(String),
    #[error("the address {0} is given twice")]
    AddressTwice(SocketAddr),
    #[error("{0:?} cannot be at {1}: {2}")]
    Address(String, SocketAddr, &'static str),
}

/// Reads the content of the file.
pub(crate) fn parse(json: &[u8]) -> Result<Vec<Backend>, EndpointsError> {
    let mut deserializer = serde_json::Deserializer::from_slice(json);
    let entries: Vec<wire::Backend> = serde_path_to_error::deserialize(&mut deserializer)
        .map_err(|error| EndpointsError::Json(error.to_string()))?;
    deserializer
        .end()
        .map_err(|error| EndpointsError::Json(error.to_string()))?;
    if entries.len() > MAX_ENDPOINTS {
        return Err(EndpointsError::TooMany(entries.len()));
    }
    let (mut names, mut addresses) = (BTreeSet::new(), BTreeSet::new());
    let mut backends = Vec::with_capacity(entries.len());
    for (
        at,
        wire::Backend {
            name,
            address,
            admin,
            zone,
        },
    ) in entries.into_iter().enumerate()
    {
        if name.is_empty() || name.len() > MAX_NAME_BYTES {
            return Err(EndpointsError::Name(at));
        }
        for target in [Some(address), admin].into_iter().flatten() {
            check_target(target)
                .map_err(|reason| EndpointsError::Address(name.clone(), target, reason))?;
        }
        if !names.insert(name.clone()) {
            return Err(EndpointsError::NameTwice(name));
        }
        if !addresses.insert(address) {
            return Err(EndpointsError::AddressTwice(address));
        }
        backends.push(Backend {
            name,
            admin,
            zone,
            ..Backend::at(address)
        });
    }
    Ok(backends)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Result<Vec<Backend>, String> {
        parse(json.as_bytes()).map_err(|error| error.to_string())
    }

    #[test]
    fn the_format_of_the_help_is_read() {
        let json = r#"[{"name":"a","address":"10.0.0.1:3000","admin":"10.0.0.1:9377","zone":"eu-1a"},
            {"name":"b","address":"[fd00::1]:3000"},{"name":"c","address":"10.0.0.3:1","admin":null}]"#;
        let backends = read(json).unwrap();
        assert_eq!(
            backends[0],
            Backend {
                name: "a".to_owned(),
                admin: "10.0.0.1:9377".parse().ok(),
                zone: Some("eu-1a".to_owned()),
                ..Backend::at("10.0.0.1:3000".parse().unwrap())
            }
        );
        assert_eq!(backends[1].address, "[fd00::1]:3000".parse().unwrap());
        assert_eq!((backends[1].admin, backends[2].admin), (None, None));
        assert_eq!(read(" [] ").unwrap(), []);
    }

    #[test]
    fn a_file_with_a_mistake_is_refused_with_the_reason() {
        let one = |rest: &str| format!(r#"[{{"name":"a","address":"10.0.0.1:1"{rest}}}]"#);
        let many: Vec<_> = (0..=MAX_ENDPOINTS)
            .map(|n| serde_json::json!({"name": n.to_string(), "address": format!("10.0.0.1:{}", n + 1)}))
            .collect();
        for (json, part) in [
            (String::new(), "EOF"),
            ("{}".to_owned(), "invalid type"),
            ("[{]".to_owned(), "[0]"),
            (one("") + "x", "trailing"),
            (one(r#","weight":3"#), "[0].weight: unknown field `weight`"),
            (
                one(r#","admin":"none""#),
                "[0].admin: invalid socket address",
            ),
            (one(r#","admin":"0.0.0.0:9377""#), "all addresses"),
            (r#"[{"name":"a"}]"#.to_owned(), "missing field `address`"),
            (
                r#"[{"address":"10.0.0.1:1"}]"#.to_owned(),
                "missing field `name`",
            ),
            (
                r#"[{"name":"a","address":"app:1"}]"#.to_owned(),
                "[0].address: invalid socket",
            ),
            (
                r#"[{"name":"","address":"10.0.0.1:1"}]"#.to_owned(),
                "entry 0 has no name",
            ),
            (
                format!(
                    r#"[{{"name":"{}","address":"10.0.0.1:1"}}]"#,
                    "n".repeat(254)
                ),
                "beyond 253 bytes",
            ),
            (
                r#"[{"name":"a","address":"10.0.0.1:1"},{"name":"a","address":"10.0.0.2:1"}]"#
                    .to_owned(),
                "the name \"a\" is given twice",
            ),
            (
                r#"[{"name":"a","address":"[::1]:1"},{"name":"b","address":"[0::1]:1"}]"#
                    .to_owned(),
                "the address [::1]:1 is given twice",
            ),
            (
                serde_json::to_string(&many).unwrap(),
                "4097 endpoints: the limit is 4096",
            ),
        ] {
            let message = read(&json).unwrap_err();
            assert!(message.contains(part), "{json:.200}: {message}");
        }
    }
}
