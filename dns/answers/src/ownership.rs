//! Who may have which name: a zone can be bound to namespaces, and some names are
//! nobody's.
//!
//! The most specific bound zone that contains a name decides; a name in none of them is
//! open to all. The apex of the served zone, `ns.` below it and the names of its servers
//! answer for the zone itself and can be taken by no app. The operator and the DNS server decide by the same
//! [`Ownership`]: what the one refuses, the other does not answer for. That an older app
//! keeps a name that a younger one wants as well is decided by each of them, among those
//! who may have it.

use std::collections::{BTreeMap, BTreeSet};
use std::str::FromStr;

use crate::name::{Name, NameError};

/// First label of the name server of a zone that names none.
pub const NAME_SERVER: &str = "ns";

/// A zone and the namespaces that may have names in it, as `ZONE=NAMESPACE,NAMESPACE`.
/// Without a namespace, nobody may.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Binding {
    zone: Name,
    namespaces: BTreeSet<String>,
}

/// Why zones cannot be bound so.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OwnershipError {
    /// The text has another form.
    #[error(
        "{0:?} binds no zone: write ZONE=NAMESPACE,NAMESPACE, such as team-a.apps.example.com=team-a"
    )]
    Form(String),
    /// The zone is no name.
    #[error(transparent)]
    Name(#[from] NameError),
    /// Two bindings of one zone: it could not be told which of them counts.
    #[error("{0} is bound twice: name all its namespaces in one place")]
    Twice(Name),
    /// A typing mistake would leave the zone that was meant open to all.
    #[error("{0} is outside of {1}, the zone that is served: bind zones within that")]
    Outside(Name, Name),
}

/// Why a namespace may not have a name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It is no name.
    #[error(transparent)]
    Name(#[from] NameError),
    /// No server here would answer for it.
    #[error(
        "{name} is outside of {zone}, the zone that the DNS of this cluster answers for: give a name that ends with .{zone}"
    )]
    Outside {
        /// What was wanted.
        name: String,
        /// What is served.
        zone: String,
    },
    /// It answers for the zone itself.
    #[error(
        "{name} belongs to the DNS of {zone} itself: give a name below {zone}, such as my-app.{zone}"
    )]
    Reserved {
        /// What was wanted.
        name: String,
        /// What is served.
        zone: String,
    },
    /// The zone is bound to other namespaces.
    #[error(
        "names in {zone} belong to other namespaces, so {name} is refused: give a name outside of {zone}, or have this namespace added to that zone (dns.zones in the values of the chart)"
    )]
    Bound {
        /// What was wanted.
        name: String,
        /// The zone that decides.
        zone: String,
    },
}

/// Who may have which name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ownership {
    /// The zone that is answered for, where that is known.
    served: Option<Name>,
    /// Names of its servers.
    servers: BTreeSet<Name>,
    bound: BTreeMap<Name, BTreeSet<String>>,
}

impl FromStr for Binding {
    type Err = OwnershipError;

    fn from_str(text: &str) -> Result<Self, OwnershipError> {
        let (zone, namespaces) = text
            .split_once('=')
            .ok_or_else(|| OwnershipError::Form(text.to_owned()))?;
        let namespaces = namespaces.split(',').map(str::trim);
        let namespaces: BTreeSet<String> = namespaces
            .filter(|namespace| !namespace.is_empty())
            .map(ToOwned::to_owned)
            .collect();
        let is_namespace = |text: &String| {
            let inner =
                |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
            text.len() <= 63 && text.bytes().all(inner)
        };
        if !namespaces.iter().all(is_namespace) {
            return Err(OwnershipError::Form(text.to_owned()));
        }
        Ok(Self {
            zone: zone.trim().parse()?,
            namespaces,
        })
    }
}

impl Ownership {
    /// `served` is the zone that is answered for; without one, no name is outside and
    /// none is reserved.
    ///
    /// # Errors
    /// [`OwnershipError`].
    pub fn new(
        served: Option<Name>,
        bindings: impl IntoIterator<Item = Binding>,
    ) -> Result<Self, OwnershipError> {
        let mut bound = BTreeMap::new();
        for Binding { zone, namespaces } in bindings {
            if let Some(served) = served.as_ref().filter(|served| !zone.is_within(served)) {
                return Err(OwnershipError::Outside(zone, served.clone()));
            }
            if bound.insert(zone.clone(), namespaces).is_some() {
                return Err(OwnershipError::Twice(zone));
            }
        }
        Ok(Self {
            served,
            servers: BTreeSet::new(),
            bound,
        })
    }

    /// Reserves the names of the zone's servers as well, besides the apex and `ns.` below it.
    #[must_use]
    pub fn with_servers(mut self, names: impl IntoIterator<Item = Name>) -> Self {
        self.servers.extend(names);
        self
    }

    /// Whether an app of `namespace` may have the name; letter case and a closing dot
    /// do not count. A wildcard (`*.apps.example.com`) is every name below, so it may be
    /// had by who may have all of them.
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn check(&self, hostname: &str, namespace: &str) -> Result<(), Refusal> {
        let (base, is_wildcard) = match hostname.strip_prefix("*.") {
            Some(base) => (base, true),
            None => (hostname, false),
        };
        let base: Name = base.parse()?;
        let covers = |other: &Name| {
            if is_wildcard {
                *other != base && other.is_within(&base)
            } else {
                *other == base
            }
        };
        let name = || shown(hostname);
        if let Some(served) = &self.served {
            let zone = || shown(&served.to_string());
            let (name, zone) = (name(), zone());
            if !base.is_within(served) {
                return Err(Refusal::Outside { name, zone });
            }
            if reserved(served).iter().chain(&self.servers).any(covers) {
                return Err(Refusal::Reserved { name, zone });
            }
        }
        let below = self
            .bound
            .iter()
            .filter(|(zone, _)| is_wildcard && covers(zone));
        for (zone, namespaces) in self.deciding(&base).into_iter().chain(below) {
            if !namespaces.contains(namespace) {
                let zone = shown(&zone.to_string());
                return Err(Refusal::Bound { name: name(), zone });
            }
        }
        Ok(())
    }

    /// The most specific bound zone that contains the name.
    fn deciding(&self, name: &Name) -> Option<(&Name, &BTreeSet<String>)> {
        let mut above = std::iter::successors(Some(name.clone()), Name::parent);
        above.find_map(|zone| self.bound.get_key_value(&zone))
    }
}

/// Names that answer for the zone itself.
fn reserved(apex: &Name) -> Vec<Name> {
    // Of the longest apex, the name server's would be none.
    let server = format!("{NAME_SERVER}.{apex}").parse();
    [apex.clone()].into_iter().chain(server).collect()
}

/// As people write it.
fn shown(name: &str) -> String {
    name.trim_end_matches('.').to_ascii_lowercase()
}
