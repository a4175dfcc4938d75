//! Joins the records of the two origins, a records file and a cluster, into one set,
//! without I/O.
//!
//! An origin's last good set stays in force until the origin delivers another set. No query is
//! answered from the records before every configured origin has delivered a set, because a name
//! that is merely not loaded yet must not be denied.

use std::collections::BTreeSet;

use crate::records::Entry;

/// A set of records with a serial that distinguishes it from earlier sets.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct RecordSet {
    pub(crate) entries: Vec<Entry>,
    /// Grows with most changes. Servers that have seen the same changes have the same serial.
    pub(crate) serial: u32,
}

/// One origin.
#[derive(Debug, Default)]
pub(crate) enum Origin {
    /// Not configured.
    #[default]
    Unused,
    /// Has delivered no set yet.
    Awaited,
    Delivered(RecordSet),
}

impl Origin {
    pub(crate) fn new(is_used: bool) -> Self {
        if is_used { Self::Awaited } else { Self::Unused }
    }
}

/// Both origins.
#[derive(Debug, Default)]
pub(crate) struct Origins {
    pub(crate) file: Origin,
    pub(crate) cluster: Origin,
}

/// The joined set.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Joined {
    pub(crate) records: RecordSet,
    /// Names of the cluster that the file has as well, for the log.
    pub(crate) hidden: Vec<String>,
}

impl Origins {
    /// The records of both origins; `None` until every configured origin has delivered a set.
    /// For a name in both, the file wins, because it was written for this server.
    pub(crate) fn join(&self) -> Option<Joined> {
        let mut joined = Joined {
            records: RecordSet::default(),
            hidden: Vec::new(),
        };
        let mut names = BTreeSet::new();
        for origin in [&self.file, &self.cluster] {
            let records = match origin {
                Origin::Unused => continue,
                Origin::Awaited => return None,
                Origin::Delivered(records) => records,
            };
            joined.records.serial = joined.records.serial.wrapping_add(records.serial);
            for entry in &records.entries {
                if names.insert(entry.name.clone()) {
                    joined.records.entries.push(entry.clone());
                } else {
                    joined.hidden.push(entry.name.to_string());
                }
            }
        }
        // RFC 1982 gives 0 no special meaning, but people read it as "none".
        joined.records.serial = joined.records.serial.max(1);
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
        Origin::Delivered(RecordSet {
            entries: entries.collect(),
            serial,
        })
    }

    fn shown(origins: &Origins) -> Option<String> {
        let Joined { records, hidden } = origins.join()?;
        let entries = records.entries.iter();
        let entries = entries.map(|entry| format!("{}{:?} ", entry.name, entry.addresses));
        Some(format!(
            "{}{} {hidden:?}",
            entries.collect::<String>(),
            records.serial
        ))
    }

    #[test]
    fn without_any_origin_there_is_an_empty_set() {
        assert_eq!(shown(&Origins::default()).unwrap(), "1 []");
    }

    #[test]
    fn there_is_no_set_until_all_origins_delivered_one() {
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
    fn the_file_wins_for_a_name_in_both() {
        let origins = Origins {
            file: gave(u32::MAX, &[("a", "10.0.0.1")]),
            cluster: gave(3, &[("a", "10.0.0.2")]),
        };
        let expected = "a.apps.local.[10.0.0.1] 2 [\"a.apps.local.\"]";
        assert_eq!(shown(&origins).unwrap(), expected);
    }
}
