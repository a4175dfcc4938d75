//! The records of several origins as one set: a records file, a cluster. Pure.
//!
//! Each origin's last good set stays until it gives another one. Nothing is
//! answered before all of them have given one: a name that is only not known
//! yet must not be denied.

use std::collections::BTreeSet;

use crate::records::Entry;

/// A set of records, and what tells it from an earlier one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Given {
    pub(crate) entries: Vec<Entry>,
    /// Grows with each change; the same wherever the same set was given.
    pub(crate) serial: u32,
}

/// One origin.
#[derive(Debug, Default)]
pub(crate) enum Origin {
    /// Not asked for.
    #[default]
    Unused,
    /// Has given nothing yet.
    Awaited,
    Gave(Given),
}

impl Origin {
    pub(crate) fn new(is_used: bool) -> Self {
        if is_used { Self::Awaited } else { Self::Unused }
    }
}

/// All of them.
#[derive(Debug, Default)]
pub(crate) struct Origins {
    pub(crate) file: Origin,
    pub(crate) cluster: Origin,
}

/// The one set that they make.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Joined {
    pub(crate) given: Given,
    /// Names of the cluster that the file has as well, as text for the log.
    pub(crate) hidden: Vec<String>,
}

impl Origins {
    /// `None` until all have given something. What the file says about a name
    /// counts: somebody wrote it for this server.
    pub(crate) fn join(&self) -> Option<Joined> {
        let mut joined = Joined {
            given: Given::default(),
            hidden: Vec::new(),
        };
        let mut names = BTreeSet::new();
        for origin in [&self.file, &self.cluster] {
            let given = match origin {
                Origin::Unused => continue,
                Origin::Awaited => return None,
                Origin::Gave(given) => given,
            };
            joined.given.serial = joined.given.serial.wrapping_add(given.serial);
            for entry in &given.entries {
                if names.insert(entry.name.clone()) {
                    joined.given.entries.push(entry.clone());
                } else {
                    joined.hidden.push(entry.name.to_string());
                }
            }
        }
        // RFC 1982 gives 0 no meaning of its own, but people take it for "none".
        joined.given.serial = joined.given.serial.max(1);
        Some(joined)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn gave(serial: u32, names: &[(&str, &str)]) -> Origin {
        let entries = names.iter().map(|(name, address)| Entry {
            name: format!("{name}.apps.local").parse().unwrap(),
            ttl: Duration::from_secs(30),
            addresses: vec![address.parse().unwrap()],
            withdrawn: BTreeSet::new(),
            probe: None,
            vouched: false,
        });
        Origin::Gave(Given {
            entries: entries.collect(),
            serial,
        })
    }

    fn shown(origins: &Origins) -> Option<String> {
        let Joined { given, hidden } = origins.join()?;
        let entries = given.entries.iter();
        let entries = entries.map(|entry| format!("{}{:?} ", entry.name, entry.addresses));
        Some(format!(
            "{}{} {hidden:?}",
            entries.collect::<String>(),
            given.serial
        ))
    }

    #[test]
    fn without_any_origin_there_is_an_empty_set() {
        assert_eq!(shown(&Origins::default()).unwrap(), "1 []");
    }

    #[test]
    fn there_is_no_set_until_all_origins_gave_one() {
        let mut origins = Origins {
            file: Origin::new(true),
            cluster: Origin::new(true),
        };
        origins.file = gave(5, &[("a", "10.0.0.1")]);
        assert_eq!(shown(&origins), None);
        origins.cluster = gave(7, &[("b", "10.0.0.2")]);
        let expected = "a.apps.local.[10.0.0.1] b.apps.local.[10.0.0.2] 12 []";
        assert_eq!(shown(&origins).unwrap(), expected);
        origins.file = Origin::new(false);
        assert_eq!(shown(&origins).unwrap(), "b.apps.local.[10.0.0.2] 7 []");
    }

    #[test]
    fn what_the_file_says_about_a_name_counts() {
        let origins = Origins {
            file: gave(u32::MAX, &[("a", "10.0.0.1")]),
            cluster: gave(3, &[("a", "10.0.0.2")]),
        };
        let expected = "a.apps.local.[10.0.0.1] 2 [\"a.apps.local.\"]";
        assert_eq!(shown(&origins).unwrap(), expected);
    }
}
