//! The present content of the zone: the records joined with the health of their addresses. This
//! module has no I/O; other modules probe, read files and watch the cluster.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use scaledapp_answers::{Name, NameServer, Records, Zone, ZoneError};

use crate::health::Health;
use crate::records::Entry;

/// The names, their addresses, and the health of the addresses.
#[derive(Debug)]
pub(crate) struct Catalog {
    /// The zone's own records.
    bare: Zone,
    entries: Vec<Entry>,
    /// The addresses published last for each name; kept while none is healthy.
    published: BTreeMap<Name, Records>,
    /// Names none of whose addresses can be reached by probes. The addresses are published
    /// nevertheless, because the operator reports that they serve.
    unreached: BTreeSet<Name>,
    health: BTreeMap<SocketAddr, Health>,
    loaded: bool,
    /// Whether all names could be answered at some time since the first load (see
    /// [`Catalog::is_settled`]).
    settled: bool,
}

/// The change that a probe result made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    None,
    /// The address now counts as healthy or as unhealthy.
    Verdict(Health),
    /// The address has failed so often that it now counts as out of reach.
    OutOfReach,
}

impl Catalog {
    /// A catalog without records yet.
    pub(crate) fn new(bare: Zone) -> Self {
        Self {
            bare,
            entries: Vec::new(),
            published: BTreeMap::new(),
            unreached: BTreeSet::new(),
            health: BTreeMap::new(),
            loaded: false,
            settled: false,
        }
    }

    /// Checks that the zone accepts all the names.
    ///
    /// # Errors
    /// The zone refuses one of them.
    pub(crate) fn check(&self, entries: &[Entry]) -> Result<(), ZoneError> {
        let mut trial = self.bare.clone();
        for entry in entries {
            trial.insert(entry.name.clone(), Records::new(entry.ttl))?;
        }
        Ok(())
    }

    /// Replaces all names. `serial` becomes the SOA's serial.
    ///
    /// # Errors
    /// The zone refuses a name; then nothing is changed.
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

    /// Replaces the addresses of the zone's `servers`.
    pub(crate) fn serve_at(&mut self, servers: &[Name], addresses: &[IpAddr]) {
        for name in servers {
            self.bare.set_server_addresses(name, addresses);
        }
    }

    /// The zone's servers.
    pub(crate) fn name_servers(&self) -> &[NameServer] {
        self.bare.name_servers()
    }

    /// Records the result of a probe.
    pub(crate) fn observe(&mut self, target: SocketAddr, success: bool) -> Change {
        // An unknown target was removed while this probe was in progress.
        let Some(health) = self.health.get_mut(&target) else {
            return Change::None;
        };
        let before = std::mem::replace(health, health.on(success));
        let now = *health;
        if std::mem::discriminant(&before) == std::mem::discriminant(&now) {
            if before.is_out_of_reach() == now.is_out_of_reach() {
                return Change::None;
            }
            self.publish();
            return Change::OutOfReach;
        }
        self.publish();
        Change::Verdict(now)
    }

    fn publish(&mut self) {
        self.unreached.clear();
        for entry in &self.entries {
            let health = |address: &IpAddr| {
                let port = entry.probe?;
                Some(known(&self.health, SocketAddr::new(*address, port)))
            };
            let offered = entry.addresses.iter();
            let offered = offered.filter(|address| !entry.withdrawn.contains(*address));
            let offered: Vec<IpAddr> = offered.copied().collect();
            let is_healthy = |address: &IpAddr| health(address).is_none_or(Health::is_healthy);
            let mut healthy = offered.clone();
            healthy.retain(is_healthy);
            let out_of_reach =
                |address: &IpAddr| health(address).is_some_and(Health::is_out_of_reach);
            // No probe reaches any address, although the operator reports that they serve: this
            // server is cut off, for example by a NetworkPolicy. The name must stay in DNS.
            if entry.vouched && !offered.is_empty() && offered.iter().all(out_of_reach) {
                healthy = offered;
                self.unreached.insert(entry.name.clone());
            }
            self.published
                .entry(entry.name.clone())
                .or_insert_with(|| Records::new(entry.ttl))
                .update(entry.ttl, &entry.addresses, &healthy);
        }
        self.settled |= self.loaded && self.entries.iter().all(|entry| self.is_settled(entry));
    }

    /// Whether the name can be answered: every address has been probed and, if the operator
    /// reports that addresses serve and none is healthy, it is known whether any is reachable.
    /// An answer before that would deny the addresses, and resolvers would cache the denial.
    fn is_settled(&self, entry: &Entry) -> bool {
        let health: Vec<(Health, bool)> = targets_of(entry)
            .map(|target| {
                let withdrawn = entry.withdrawn.contains(&target.ip());
                (known(&self.health, target), withdrawn)
            })
            .collect();
        let verdicts = health.iter().all(|(health, _)| *health != Health::Unknown);
        let offered = || health.iter().filter(|(_, withdrawn)| !withdrawn);
        let decided = !entry.vouched
            || offered().any(|(health, _)| health.is_healthy())
            || offered().all(|(health, _)| health.is_out_of_reach());
        verdicts && decided
    }

    /// Names none of whose addresses can be reached by probes, although the operator reports that
    /// these addresses serve.
    pub(crate) fn unreached(&self) -> &BTreeSet<Name> {
        &self.unreached
    }

    /// Addresses to probe.
    pub(crate) fn targets(&self) -> impl Iterator<Item = SocketAddr> {
        self.health.keys().copied()
    }

    /// Whether queries are answered from the records. This begins when records are loaded and
    /// the probes have shown enough about their addresses; it does not end with later loads.
    pub(crate) fn is_ready(&self) -> bool {
        self.settled
    }

    /// Whether records were loaded.
    pub(crate) fn is_loaded(&self) -> bool {
        self.loaded
    }

    /// Makes the zone to answer from.
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

    /// Each name with its published addresses and the health of all its addresses.
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

fn known(health: &BTreeMap<SocketAddr, Health>, target: SocketAddr) -> Health {
    health.get(&target).copied().unwrap_or_default()
}

fn targets_of(entry: &Entry) -> impl Iterator<Item = SocketAddr> {
    let port = entry.probe;
    let addresses = entry.addresses.iter();
    addresses.filter_map(move |address| Some(SocketAddr::new(*address, port?)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use scaledapp_answers::Authority;
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
            vouched: false,
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
    fn an_address_is_published_after_its_first_success_and_readiness_waits_for_all_probes() {
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
            Change::Verdict(Health::Unhealthy { failures: 1 })
        );
        assert!(catalog.is_ready());
        assert_eq!(published(&catalog), ["a.apps.local. 10.0.0.2"]);
    }

    #[test]
    fn readiness_stays_when_a_later_file_brings_unprobed_addresses() {
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
    fn the_last_known_addresses_stay_when_all_fail() {
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
    fn a_withdrawn_address_is_published_only_if_there_is_no_other() {
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
        // Neither address has ever been reported as serving.
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
    fn a_load_with_a_refused_name_changes_nothing() {
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

    /// A `NetworkPolicy` blocks the server's probes of all balancers of an app, and the operator
    /// reports that the balancers serve.
    #[test]
    fn a_name_out_of_our_reach_has_the_addresses_that_the_operator_reports() {
        let mut catalog = catalog();
        let vouched = |withdrawn: &[&str]| {
            let mut entry = entry("a", &["10.0.0.1", "10.0.0.2"], Some(80));
            let withdrawn = withdrawn.iter().map(|address| address.parse().unwrap());
            entry.withdrawn = withdrawn.collect();
            entry.vouched = true;
            vec![entry]
        };
        let fail = |catalog: &mut Catalog, times: u32| {
            for _ in 0..times {
                for address in ["10.0.0.1", "10.0.0.2"] {
                    catalog.observe(target(address), false);
                }
            }
        };
        catalog.load(vouched(&[]), 2).unwrap();
        fail(&mut catalog, 11);
        // The balancer may still be starting, so nothing is published yet.
        assert_eq!(published(&catalog), ["a.apps.local. "]);
        assert!(!catalog.is_ready() && catalog.unreached().is_empty());
        fail(&mut catalog, 1);
        assert_eq!(published(&catalog), ["a.apps.local. 10.0.0.1 10.0.0.2"]);
        assert!(catalog.is_ready());
        assert_eq!(catalog.unreached().len(), 1);
        // An address that the operator withdraws is no longer published.
        catalog.load(vouched(&["10.0.0.1"]), 3).unwrap();
        assert_eq!(published(&catalog), ["a.apps.local. 10.0.0.2"]);
        // One successful probe shows that probes are not blocked.
        catalog.load(vouched(&[]), 4).unwrap();
        catalog.observe(target("10.0.0.1"), true);
        assert_eq!(published(&catalog), ["a.apps.local. 10.0.0.1"]);
        assert!(catalog.unreached().is_empty());
        // A records file does not report which addresses serve.
        let mut catalog = self::catalog();
        catalog
            .load(vec![entry("a", &["10.0.0.1"], Some(80))], 2)
            .unwrap();
        fail(&mut catalog, 20);
        assert_eq!(published(&catalog), ["a.apps.local. "]);
        assert!(catalog.is_ready());
    }
}
