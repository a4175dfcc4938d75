//! What the zone holds now: the records joined with the health of the addresses
//! in them. Pure; probes, files and clusters are others' work.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use scaledapp_answers::{Name, Records, Zone, ZoneError};

use crate::health::Health;
use crate::records::Entry;

/// Names, their addresses and what is known of them.
#[derive(Debug)]
pub(crate) struct Catalog {
    /// The zone's own records.
    bare: Zone,
    entries: Vec<Entry>,
    /// Remembers the last known addresses of each name.
    published: BTreeMap<Name, Records>,
    health: BTreeMap<SocketAddr, Health>,
    loaded: bool,
    /// Every address had a verdict once since the first load.
    settled: bool,
}

/// What a probe changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    None,
    /// The address' verdict.
    Verdict(Health),
}

impl Catalog {
    /// Nothing is loaded yet.
    pub(crate) fn new(bare: Zone) -> Self {
        Self {
            bare,
            entries: Vec::new(),
            published: BTreeMap::new(),
            health: BTreeMap::new(),
            loaded: false,
            settled: false,
        }
    }

    /// Whether the zone takes all the names.
    ///
    /// # Errors
    /// A name that it refuses.
    pub(crate) fn check(&self, entries: &[Entry]) -> Result<(), ZoneError> {
        let mut trial = self.bare.clone();
        for entry in entries {
            trial.insert(entry.name.clone(), Records::new(entry.ttl))?;
        }
        Ok(())
    }

    /// Replaces all names. `serial` is the SOA's from then on.
    ///
    /// # Errors
    /// A name that the zone refuses; then nothing is changed.
    pub(crate) fn load(&mut self, entries: Vec<Entry>, serial: u32) -> Result<(), ZoneError> {
        self.check(&entries)?;
        self.bare.set_serial(serial);
        let targets: BTreeSet<_> = entries.iter().flat_map(targets_of).collect();
        self.health.retain(|target, _| targets.contains(target));
        for target in targets {
            self.health.entry(target).or_default();
        }
        let names: BTreeSet<_> = entries.iter().map(|entry| &entry.name).collect();
        self.published.retain(|name, _| names.contains(name));
        self.entries = entries;
        self.loaded = true;
        self.publish();
        Ok(())
    }

    /// Takes the result of a probe in.
    pub(crate) fn observe(&mut self, target: SocketAddr, success: bool) -> Change {
        // The result of a probe that was under way when its target was removed.
        let Some(health) = self.health.get_mut(&target) else {
            return Change::None;
        };
        let before = std::mem::replace(health, health.on(success));
        let now = *health;
        if std::mem::discriminant(&before) == std::mem::discriminant(&now) {
            return Change::None;
        }
        self.publish();
        Change::Verdict(now)
    }

    fn publish(&mut self) {
        let health = &self.health;
        for entry in &self.entries {
            let is_healthy = |address: &&IpAddr| {
                let answers = entry.probe.is_none_or(|port| {
                    health
                        .get(&SocketAddr::new(**address, port))
                        .is_some_and(|health| health.is_healthy())
                });
                answers && !entry.withdrawn.contains(*address)
            };
            let healthy: Vec<_> = entry.addresses.iter().filter(is_healthy).copied().collect();
            self.published
                .entry(entry.name.clone())
                .or_insert_with(|| Records::new(entry.ttl))
                .update(entry.ttl, &entry.addresses, &healthy);
        }
        let known = self
            .health
            .values()
            .all(|health| *health != Health::Unknown);
        self.settled |= self.loaded && known;
    }

    /// Addresses to probe.
    pub(crate) fn targets(&self) -> impl Iterator<Item = SocketAddr> {
        self.health.keys().copied()
    }

    /// Whether records were loaded and, once since then, all was probed.
    pub(crate) fn is_ready(&self) -> bool {
        self.settled
    }

    /// Whether records were loaded.
    pub(crate) fn is_loaded(&self) -> bool {
        self.loaded
    }

    /// The zone to answer from.
    pub(crate) fn zone(&self) -> Zone {
        let mut zone = self.bare.clone();
        for (name, records) in &self.published {
            zone.insert(name.clone(), records.clone())
                .expect("invariant: load tried all names");
        }
        if self.settled {
            zone.set_loaded();
        }
        zone
    }

    /// Each name with what is published and what is known of its addresses.
    pub(crate) fn names(
        &self,
    ) -> impl Iterator<Item = (&Entry, &Records, Vec<(IpAddr, Option<Health>)>)> {
        self.entries.iter().filter_map(|entry| {
            let known = entry.addresses.iter().map(|address| {
                let health = entry
                    .probe
                    .and_then(|port| self.health.get(&SocketAddr::new(*address, port)).copied());
                (*address, health)
            });
            Some((entry, self.published.get(&entry.name)?, known.collect()))
        })
    }
}

fn targets_of(entry: &Entry) -> impl Iterator<Item = SocketAddr> {
    let port = entry.probe;
    let addresses = entry.addresses.iter();
    addresses.filter_map(move |address| Some(SocketAddr::new(*address, port?)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use scaledapp_answers::{Authority, NameServer};
    use std::time::Duration;

    const TTL: Duration = Duration::from_secs(30);

    fn catalog() -> Catalog {
        let name_servers = vec![NameServer {
            name: "ns.apps.local".parse().unwrap(),
            addresses: Vec::new(),
        }];
        let authority = Authority {
            serial: 1,
            ttl: TTL,
            name_servers,
        };
        Catalog::new(Zone::new("apps.local".parse().unwrap(), authority).unwrap())
    }

    fn entry(name: &str, addresses: &[&str], probe: Option<u16>) -> Entry {
        Entry {
            name: format!("{name}.apps.local").parse().unwrap(),
            ttl: TTL,
            addresses: addresses
                .iter()
                .map(|address| address.parse().unwrap())
                .collect(),
            withdrawn: BTreeSet::new(),
            probe,
        }
    }

    fn target(address: &str) -> SocketAddr {
        SocketAddr::new(address.parse().unwrap(), 80)
    }

    /// `name: addresses` of the zone, stale ones marked.
    fn published(catalog: &Catalog) -> Vec<String> {
        let zone = catalog.zone();
        let names = zone
            .names()
            .filter(|(name, _)| !name.to_string().starts_with("ns."));
        let texts = names.map(|(name, records)| {
            let addresses: Vec<_> = records.addresses().iter().map(IpAddr::to_string).collect();
            let stale = if records.is_stale() { " stale" } else { "" };
            format!("{name} {}{stale}", addresses.join(" "))
        });
        texts.collect()
    }

    #[test]
    fn before_the_first_load_the_zone_is_not_ready() {
        let catalog = catalog();
        assert!(!catalog.is_ready() && !catalog.zone().is_loaded());
    }

    #[test]
    fn addresses_without_a_probe_are_healthy_at_once() {
        let mut catalog = catalog();
        catalog
            .load(vec![entry("a", &["10.0.0.1", "10.0.0.2"], None)], 2)
            .unwrap();
        assert!(catalog.is_ready() && catalog.zone().is_loaded());
        assert_eq!(published(&catalog), ["a.apps.local. 10.0.0.1 10.0.0.2"]);
        assert_eq!(catalog.targets().count(), 0);
    }

    #[test]
    fn probed_addresses_count_from_their_first_success_and_readiness_waits_for_all_verdicts() {
        let mut catalog = catalog();
        catalog
            .load(vec![entry("a", &["10.0.0.1", "10.0.0.2"], Some(80))], 2)
            .unwrap();
        assert!(!catalog.is_ready());
        assert_eq!(
            catalog.observe(target("10.0.0.2"), true),
            Change::Verdict(Health::Healthy { failures: 0 })
        );
        assert!(!catalog.is_ready());
        assert_eq!(
            catalog.observe(target("10.0.0.1"), false),
            Change::Verdict(Health::Unhealthy)
        );
        assert!(catalog.is_ready());
        assert_eq!(published(&catalog), ["a.apps.local. 10.0.0.2"]);
    }

    #[test]
    fn readiness_stays_when_a_later_file_brings_unknown_addresses() {
        let mut catalog = catalog();
        catalog
            .load(vec![entry("a", &["10.0.0.1"], None)], 2)
            .unwrap();
        catalog
            .load(vec![entry("a", &["10.0.0.1"], Some(80))], 3)
            .unwrap();
        assert!(catalog.is_ready());
        assert_eq!(published(&catalog), ["a.apps.local. 10.0.0.1 stale"]);
    }

    #[test]
    fn an_address_shared_by_names_is_probed_once_and_counts_for_both() {
        let mut catalog = catalog();
        let entries = vec![
            entry("a", &["10.0.0.1"], Some(80)),
            entry("b", &["10.0.0.1"], Some(80)),
        ];
        catalog.load(entries, 2).unwrap();
        assert_eq!(catalog.targets().collect::<Vec<_>>(), [target("10.0.0.1")]);
        catalog.observe(target("10.0.0.1"), true);
        assert_eq!(
            published(&catalog),
            ["a.apps.local. 10.0.0.1", "b.apps.local. 10.0.0.1"]
        );
    }

    #[test]
    fn the_last_set_stays_when_all_die() {
        let mut catalog = catalog();
        catalog
            .load(vec![entry("a", &["10.0.0.1", "10.0.0.2"], Some(80))], 2)
            .unwrap();
        for address in ["10.0.0.1", "10.0.0.2"] {
            catalog.observe(target(address), true);
        }
        assert_eq!(catalog.observe(target("10.0.0.1"), false), Change::None);
        catalog.observe(target("10.0.0.1"), false);
        assert_eq!(published(&catalog), ["a.apps.local. 10.0.0.2"]);
        catalog.observe(target("10.0.0.2"), false);
        catalog.observe(target("10.0.0.2"), false);
        assert_eq!(published(&catalog), ["a.apps.local. 10.0.0.2 stale"]);
    }

    #[test]
    fn a_withdrawn_address_is_not_given_unless_there_is_no_other() {
        let mut catalog = catalog();
        let with = |withdrawn: &[&str]| {
            let mut entry = entry("a", &["10.0.0.1", "10.0.0.2"], Some(80));
            let withdrawn = withdrawn.iter().map(|address| address.parse().unwrap());
            entry.withdrawn = withdrawn.collect();
            vec![entry]
        };
        catalog.load(with(&["10.0.0.1", "10.0.0.2"]), 2).unwrap();
        for address in ["10.0.0.1", "10.0.0.2"] {
            catalog.observe(target(address), true);
        }
        // Nobody has ever said that it serves.
        assert_eq!(published(&catalog), ["a.apps.local. "]);
        catalog.load(with(&["10.0.0.1"]), 3).unwrap();
        assert_eq!(published(&catalog), ["a.apps.local. 10.0.0.2"]);
        catalog.load(with(&["10.0.0.1", "10.0.0.2"]), 4).unwrap();
        assert_eq!(published(&catalog), ["a.apps.local. 10.0.0.2 stale"]);
        catalog.load(with(&[]), 5).unwrap();
        assert_eq!(published(&catalog), ["a.apps.local. 10.0.0.1 10.0.0.2"]);
    }

    #[test]
    fn a_name_that_left_the_file_is_forgotten() {
        let mut catalog = catalog();
        catalog
            .load(vec![entry("a", &["10.0.0.1"], Some(80))], 2)
            .unwrap();
        catalog.observe(target("10.0.0.1"), true);
        catalog.load(Vec::new(), 3).unwrap();
        assert_eq!(published(&catalog), Vec::<String>::new());
        assert_eq!(catalog.observe(target("10.0.0.1"), true), Change::None);
        catalog
            .load(vec![entry("a", &["10.0.0.1"], Some(80))], 4)
            .unwrap();
        assert_eq!(published(&catalog), ["a.apps.local. "]);
    }

    #[test]
    fn a_name_that_the_zone_refuses_changes_nothing() {
        let mut catalog = catalog();
        catalog
            .load(vec![entry("a", &["10.0.0.1"], None)], 2)
            .unwrap();
        let refused = vec![
            entry("b", &["10.0.0.2"], None),
            entry("ns", &["10.0.0.3"], None),
        ];
        assert!(matches!(
            catalog.load(refused, 3),
            Err(ZoneError::Reserved(_))
        ));
        assert_eq!(published(&catalog), ["a.apps.local. 10.0.0.1"]);
    }
}
