//! Which namespace may have which name. A zone can be bound to namespaces, and some names are
//! reserved.
//!
//! The most specific bound zone that contains a name decides; a name in no bound zone is open
//! to every namespace. The apex of the served zone, `ns.` below it and the names of its servers
//! are reserved, because they carry the zone's own records. The operator and the DNS server
//! both decide by [`Ownership`], so a name that the operator refuses gets no answer from the
//! server. If two permitted apps want the same name, the older app gets it. That rule is not in
//! this file: the operator and the server each implement it.

use std::collections::{BTreeMap, BTreeSet};
use std::str::FromStr;

use crate::name::{Name, NameError};

/// First label of the name server of a zone for which no server was named.
pub const NAME_SERVER: &str = "ns";

/// A zone and the namespaces that may have names in it, as `ZONE=NAMESPACE,NAMESPACE`.
/// Without a namespace, no app may have a name in the zone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Binding {
    zone: Name,
    namespaces: BTreeSet<String>,
}

/// Why bindings are invalid.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OwnershipError {
    /// The text is not of the form `ZONE=NAMESPACE,NAMESPACE`.
    #[error(
        "{0:?} binds no zone: write ZONE=NAMESPACE,NAMESPACE, such as team-a.apps.example.com=team-a"
    )]
    Form(String),
    /// The zone is not a valid name.
    #[error(transparent)]
    Name(#[from] NameError),
    /// One zone has two bindings, so it is unclear which one applies.
    #[error("{0} is bound twice: name all its namespaces in one place")]
    Twice(Name),
    /// The zone is not within the served one. This is an error because a typo would leave the
    /// intended zone open to every namespace.
    #[error("{0} is outside of {1}, the zone that is served: bind only zones within it")]
    Outside(Name, Name),
}

/// Why a namespace may not have a name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It is not a valid name.
    #[error(transparent)]
    Name(#[from] NameError),
    /// It is outside the served zone.
    #[error(
        "{name} is outside of {zone}, the zone that the DNS of this cluster answers for: give a name that ends with .{zone}"
    )]
    Outside {
        /// The name that was asked for.
        name: String,
        /// The served zone.
        zone: String,
    },
    /// It is reserved for the zone itself.
    #[error(
        "{name} belongs to the DNS of {zone} itself: give a name below {zone}, such as my-app.{zone}"
    )]
    Reserved {
        /// The name that was asked for.
        name: String,
        /// The served zone.
        zone: String,
    },
    /// The zone is bound to other namespaces.
    #[error(
        "names in {zone} belong to other namespaces, so {name} is refused: give a name outside of {zone}, or have this namespace added to that zone (dns.zones in the values of the chart)"
    )]
    Bound {
        /// The name that was asked for.
        name: String,
        /// The most specific bound zone that contains the name.
        zone: String,
    },
}

/// The rules that say which namespace may have which name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ownership {
    /// The zone that the server answers for, if known.
    served: Option<Name>,
    /// Names of the zone's servers.
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
    /// `served` is the zone that the server answers for. Without it, no name counts as outside
    /// the zone and none is reserved.
    ///
    /// # Errors
    /// Two bindings of one zone, or a bound zone outside of `served`.
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

    /// Also reserves the names of the zone's servers, besides the apex and `ns.` below it.
    #[must_use]
    pub fn with_servers(mut self, names: impl IntoIterator<Item = Name>) -> Self {
        self.servers.extend(names);
        self
    }

    /// Checks that an app of `namespace` may have the name; letter case and a trailing dot are
    /// ignored. A wildcard (`*.apps.example.com`) stands for every name below, so the namespace
    /// must be allowed to have all of them.
    ///
    /// # Errors
    /// The reason why it may not, with the cure.
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

/// The names that carry the zone's own records.
fn reserved(apex: &Name) -> Vec<Name> {
    // Below an apex of maximal length, the server's name would be too long to be valid.
    let server = format!("{NAME_SERVER}.{apex}").parse();
    [apex.clone()].into_iter().chain(server).collect()
}

/// The name in lower case and without trailing dots, as people write it.
fn shown(name: &str) -> String {
    name.trim_end_matches('.').to_ascii_lowercase()
}
