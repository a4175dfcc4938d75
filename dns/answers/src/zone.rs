//! The content of a zone: the apex, its servers and the names with their addresses. Also the
//! rule by which addresses are published: the healthy ones, or the last known ones if none is
//! healthy.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use crate::name::{MAX_NAME, Name};

/// Maximum number of addresses in one answer. An answer with eight AAAA records of the longest name
/// and an OPT has 506 bytes, so answers with addresses are never truncated.
pub const ADDRESSES_PER_ANSWER: usize = 8;
/// Time to live of addresses if none is healthy: short, so that clients soon query again.
pub const FAIL_OPEN_TTL: Duration = Duration::from_secs(5);
/// How long resolvers may cache "no such name" and "no such data" (RFC 2308).
pub const NEGATIVE_TTL: Duration = Duration::from_secs(5);
/// First label of the SOA's mailbox (RFC 2142 section 7).
pub(crate) const MAILBOX: &[u8] = b"\x0ahostmaster";
/// Largest time to live in seconds (RFC 2181 section 8).
const MAX_TTL: u32 = 0x7fff_ffff;

/// A server of the zone, as its NS record names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NameServer {
    /// Its name, in this zone or in another.
    pub name: Name,
    /// Its addresses; empty if the name is in another zone. Without addresses here, recursors reach
    /// the server only at the addresses in the parent zone.
    pub addresses: Vec<IpAddr>,
}

/// The data of the zone's SOA and NS records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Authority {
    /// SOA serial (RFC 1982); equal on all servers that have the same records.
    pub serial: u32,
    /// Time to live of the SOA, NS and name servers' address records.
    pub ttl: Duration,
    /// At least one; the first is the SOA's primary.
    pub name_servers: Vec<NameServer>,
}

/// Why a zone cannot be made, or why a name cannot be added to it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ZoneError {
    /// No name server is given.
    #[error("the zone {0} needs at least one name server")]
    NoNameServer(Name),
    /// The SOA's mailbox would be longer than a name may be.
    #[error("the zone {0} is too long: hostmaster.{0} must be a valid name as well")]
    LongApex(Name),
    /// A server outside the zone was given an address, which only its own zone may publish.
    #[error("the name server {0} is outside the zone {1}: its addresses belong to its own zone")]
    ForeignGlue(Name, Name),
    /// One name server is named twice.
    #[error("the name server {0} is named twice")]
    NameServerTwice(Name),
    /// The name does not lie in the zone.
    #[error("{0} is outside the zone {1}")]
    Outside(Name, Name),
    /// The name is a server's.
    #[error("{0} is the name of one of the zone's servers")]
    Reserved(Name),
}

/// The published addresses of one family; `stale` if none of them is healthy.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Published<T> {
    addresses: Vec<T>,
    stale: bool,
}

impl<T> Default for Published<T> {
    fn default() -> Self {
        Self {
            addresses: Vec::new(),
            stale: false,
        }
    }
}

impl<T: PartialEq + Clone> Published<T> {
    fn update(&mut self, listed: &[T], healthy: Vec<T>) {
        if !healthy.is_empty() {
            *self = Self {
                addresses: healthy,
                stale: false,
            };
            return;
        }
        self.stale = !self.addresses.is_empty();
        if self.stale && !listed.is_empty() {
            self.addresses.retain(|address| listed.contains(address));
            if self.addresses.is_empty() {
                // Every known address was replaced. The new, unprobed addresses are better
                // than the old ones, which may belong to another app by now.
                self.addresses = listed.to_vec();
            }
        }
    }
}

/// The published addresses of one name.
///
/// Publishing fails open, because resolvers would cache a negative answer for longer than an outage
/// lasts, and because the probes may be wrong. A name whose addresses were never healthy has none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Records {
    ttl: Duration,
    v4: Published<Ipv4Addr>,
    v6: Published<Ipv6Addr>,
}

impl Records {
    /// A name without addresses yet.
    pub fn new(ttl: Duration) -> Self {
        Self {
            ttl,
            v4: Published::default(),
            v6: Published::default(),
        }
    }

    /// Publishes `healthy`, a subset of the `listed` addresses.
    ///
    /// If no address of a family is healthy, the last known ones that are still listed stay
    /// published. If all of those were replaced, every listed address is published. If nothing is
    /// listed, the last known addresses stay published.
    pub fn update(&mut self, ttl: Duration, listed: &[IpAddr], healthy: &[IpAddr]) {
        self.ttl = ttl;
        self.v4.update(&ipv4(listed), ipv4(healthy));
        self.v6.update(&ipv6(listed), ipv6(healthy));
    }

    /// The published addresses, IPv4 first.
    pub fn addresses(&self) -> Vec<IpAddr> {
        let v4 = self.v4.addresses.iter().copied().map(IpAddr::V4);
        v4.chain(self.v6.addresses.iter().copied().map(IpAddr::V6))
            .collect()
    }

    /// Whether unhealthy addresses are published because no address of their family is healthy.
    pub fn is_stale(&self) -> bool {
        self.v4.stale || self.v6.stale
    }

    /// The time to live of the addresses while they are healthy.
    pub fn ttl(&self) -> Duration {
        self.ttl
    }

    pub(crate) fn v4(&self) -> RecordSet<'_, Ipv4Addr> {
        self.set(&self.v4)
    }

    pub(crate) fn v6(&self) -> RecordSet<'_, Ipv6Addr> {
        self.set(&self.v6)
    }

    fn set<'a, T>(&self, published: &'a Published<T>) -> RecordSet<'a, T> {
        let ttl = if published.stale {
            self.ttl.min(FAIL_OPEN_TTL)
        } else {
            self.ttl
        };
        RecordSet {
            ttl: seconds(ttl),
            addresses: &published.addresses,
            stale: published.stale,
        }
    }
}

/// All records of one type at one name (RFC 2181 section 5).
#[derive(Debug, Clone, Copy)]
pub(crate) struct RecordSet<'a, T> {
    /// Seconds.
    pub(crate) ttl: u32,
    pub(crate) addresses: &'a [T],
    pub(crate) stale: bool,
}

fn ipv4(addresses: &[IpAddr]) -> Vec<Ipv4Addr> {
    let v4 = addresses.iter().filter_map(|address| match address {
        IpAddr::V4(address) => Some(*address),
        IpAddr::V6(_) => None,
    });
    v4.collect()
}

fn ipv6(addresses: &[IpAddr]) -> Vec<Ipv6Addr> {
    let v6 = addresses.iter().filter_map(|address| match address {
        IpAddr::V6(address) => Some(*address),
        IpAddr::V4(_) => None,
    });
    v6.collect()
}

/// Whole seconds as a record contains them, rounded down.
pub(crate) fn seconds(ttl: Duration) -> u32 {
    u32::try_from(ttl.as_secs()).map_or(MAX_TTL, |seconds| seconds.min(MAX_TTL))
}

/// One zone, from which queries are answered.
#[derive(Debug, Clone)]
pub struct Zone {
    apex: Name,
    authority: Authority,
    loaded: bool,
    names: BTreeMap<Name, Records>,
    /// Names without records that have names below them (RFC 8020).
    empty: BTreeSet<Name>,
}

/// What a zone contains at a name.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Found<'a> {
    Records(&'a Records),
    /// No records, but there are names below.
    Empty,
    Nothing,
}

impl Zone {
    /// Makes a zone that contains only its name servers. Queries get SERVFAIL until
    /// [`Zone::set_loaded`] is called.
    ///
    /// # Errors
    /// The apex is too long, there is no name server, a server is named twice, or a server outside
    /// the zone has an address.
    pub fn new(apex: Name, authority: Authority) -> Result<Self, ZoneError> {
        if authority.name_servers.is_empty() {
            return Err(ZoneError::NoNameServer(apex));
        }
        if MAILBOX.len() + apex.as_wire().len() > MAX_NAME {
            return Err(ZoneError::LongApex(apex));
        }
        let servers = authority.name_servers.clone();
        let ttl = authority.ttl;
        let mut zone = Self {
            apex,
            authority,
            loaded: false,
            names: BTreeMap::new(),
            empty: BTreeSet::new(),
        };
        let mut seen = BTreeSet::new();
        for NameServer { name, addresses } in servers {
            if !seen.insert(name.clone()) {
                return Err(ZoneError::NameServerTwice(name));
            }
            if name.is_within(&zone.apex) {
                let mut records = Records::new(ttl);
                records.update(ttl, &addresses, &addresses);
                zone.place(name, records);
            } else if !addresses.is_empty() {
                return Err(ZoneError::ForeignGlue(name, zone.apex));
            }
        }
        Ok(zone)
    }

    /// Adds or replaces a name.
    ///
    /// # Errors
    /// The name is outside the zone, or is the name of one of its servers.
    pub fn insert(&mut self, name: Name, records: Records) -> Result<(), ZoneError> {
        if !name.is_within(&self.apex) {
            return Err(ZoneError::Outside(name, self.apex.clone()));
        }
        if self
            .authority
            .name_servers
            .iter()
            .any(|server| server.name == name)
        {
            return Err(ZoneError::Reserved(name));
        }
        self.place(name, records);
        Ok(())
    }

    fn place(&mut self, name: Name, records: Records) {
        let mut above = name.parent();
        while let Some(ancestor) = above.filter(|ancestor| ancestor.is_within(&self.apex)) {
            above = ancestor.parent();
            self.empty.insert(ancestor);
        }
        self.names.insert(name, records);
    }

    /// Replaces the addresses of the server `name`. Does nothing unless `name` is one of the
    /// zone's servers and within the zone.
    pub fn set_server_addresses(&mut self, name: &Name, addresses: &[IpAddr]) {
        let within = name.is_within(&self.apex);
        let mut servers = self.authority.name_servers.iter_mut();
        let Some(server) = servers.find(|server| within && server.name == *name) else {
            return;
        };
        server.addresses = addresses.to_vec();
        let ttl = self.authority.ttl;
        let mut records = Records::new(ttl);
        records.update(ttl, addresses, addresses);
        self.names.insert(name.clone(), records);
    }

    /// The zone's servers, as its NS records name them.
    pub fn name_servers(&self) -> &[NameServer] {
        &self.authority.name_servers
    }

    /// Changes the SOA's serial.
    pub fn set_serial(&mut self, serial: u32) {
        self.authority.serial = serial;
    }

    /// Lets queries be answered from the zone from now on.
    pub fn set_loaded(&mut self) {
        self.loaded = true;
    }

    /// Whether queries are answered from the zone.
    pub fn is_loaded(&self) -> bool {
        self.loaded
    }

    /// The zone's own name.
    pub fn apex(&self) -> &Name {
        &self.apex
    }

    /// All names with their published addresses, including the names of servers.
    pub fn names(&self) -> impl Iterator<Item = (&Name, &Records)> {
        self.names.iter()
    }

    pub(crate) fn authority(&self) -> &Authority {
        &self.authority
    }

    /// Looks up a name within the zone, given in lower-case wire form.
    pub(crate) fn find(&self, name: &[u8]) -> Found<'_> {
        match self.names.get(name) {
            Some(records) => Found::Records(records),
            None if self.empty.contains(name) => Found::Empty,
            None => Found::Nothing,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TTL: Duration = Duration::from_secs(30);

    fn addresses(texts: &[&str]) -> Vec<IpAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn server(name: &str, glue: &[&str]) -> NameServer {
        NameServer {
            name: name.parse().unwrap(),
            addresses: addresses(glue),
        }
    }

    fn zone(name_servers: Vec<NameServer>) -> Result<Zone, ZoneError> {
        Zone::new(
            "apps.local".parse().unwrap(),
            Authority {
                serial: 1,
                ttl: TTL,
                name_servers,
            },
        )
    }

    #[test]
    fn only_healthy_addresses_are_published() {
        let listed = addresses(&["10.0.0.1", "10.0.0.2", "fd00::1"]);
        let mut records = Records::new(TTL);
        records.update(TTL, &listed, &listed[1..]);
        assert_eq!(records.addresses(), listed[1..]);
        assert!(!records.is_stale());
    }

    #[test]
    fn the_last_known_set_stays_when_none_is_healthy() {
        let listed = addresses(&["10.0.0.1", "10.0.0.2", "10.0.0.3"]);
        let mut records = Records::new(TTL);
        records.update(TTL, &listed, &listed[..2]);
        records.update(TTL, &listed, &[]);
        assert_eq!(records.addresses(), listed[..2]);
        assert!(records.is_stale());
        assert_eq!(records.v4().ttl, 5);
        records.update(TTL, &listed, &listed[2..]);
        assert_eq!(records.addresses(), listed[2..]);
        assert_eq!((records.is_stale(), records.v4().ttl), (false, 30));
    }

    #[test]
    fn a_family_fails_open_on_its_own() {
        let listed = addresses(&["10.0.0.1", "fd00::1"]);
        let mut records = Records::new(TTL);
        records.update(TTL, &listed, &listed);
        records.update(TTL, &listed, &listed[..1]);
        assert_eq!(records.addresses(), listed);
        assert!(!records.v4().stale && records.v6().stale);
    }

    #[test]
    fn a_name_that_was_never_healthy_has_no_address() {
        let mut records = Records::new(TTL);
        records.update(TTL, &addresses(&["10.0.0.1"]), &[]);
        assert!(records.addresses().is_empty() && !records.is_stale());
    }

    #[test]
    fn an_address_that_is_no_longer_listed_does_not_stay() {
        let old = addresses(&["10.0.0.1", "10.0.0.2"]);
        let mut records = Records::new(TTL);
        records.update(TTL, &old, &old);
        records.update(TTL, &old[1..], &[]);
        assert_eq!(records.addresses(), old[1..]);
        let new = addresses(&["10.0.0.9"]);
        records.update(TTL, &new, &[]);
        assert_eq!(records.addresses(), new);
        assert!(records.is_stale());
        records.update(TTL, &[], &[]);
        assert_eq!(records.addresses(), new);
    }

    #[test]
    fn a_fail_open_answer_never_lives_longer_than_a_healthy_one() {
        let listed = addresses(&["10.0.0.1"]);
        let mut records = Records::new(TTL);
        records.update(Duration::from_secs(2), &listed, &listed);
        records.update(Duration::from_secs(2), &listed, &[]);
        assert_eq!(records.v4().ttl, 2);
    }

    #[test]
    fn times_to_live_are_cut_to_the_range_of_a_record() {
        assert_eq!(seconds(Duration::from_millis(1_999)), 1);
        assert_eq!(seconds(Duration::from_secs(u64::from(u32::MAX))), MAX_TTL);
        assert_eq!(seconds(Duration::MAX), MAX_TTL);
    }

    #[test]
    fn a_server_named_twice_or_a_foreign_one_with_an_address_is_refused() {
        assert!(zone(vec![server("ns1.apps.local", &["10.0.0.53"])]).is_ok());
        assert!(zone(vec![server("ns.example.com", &[])]).is_ok());
        for (servers, part) in [
            (vec![], "at least one"),
            (
                vec![server("ns.example.com", &["10.0.0.53"])],
                "outside the zone",
            ),
            (
                vec![server("ns.a.com", &[]), server("NS.a.com", &[])],
                "named twice",
            ),
        ] {
            let message = zone(servers).unwrap_err().to_string();
            assert!(message.contains(part), "{message}");
        }
    }

    #[test]
    fn only_a_server_in_the_zone_can_get_other_addresses() {
        let mut zone = zone(vec![
            server("ns1.apps.local", &[]),
            server("ns.example.com", &[]),
        ])
        .unwrap();
        for (name, given) in [
            ("NS1.apps.local", &["10.0.0.53", "fd00::53"][..]),
            ("ns1.apps.local", &["10.0.0.54"]),
            ("ns.example.com", &["10.0.0.55"]),
            ("ns2.apps.local", &["10.0.0.56"]),
        ] {
            zone.set_server_addresses(&name.parse().unwrap(), &addresses(given));
        }
        let names: Vec<_> = zone.names().map(|(name, _)| name.to_string()).collect();
        assert_eq!(names, ["ns1.apps.local."]);
        let [ours, theirs] = zone.name_servers() else {
            panic!("{zone:?}")
        };
        assert_eq!(ours.addresses, addresses(&["10.0.0.54"]));
        assert!(theirs.addresses.is_empty());
        zone.set_server_addresses(&"ns1.apps.local".parse().unwrap(), &[]);
        let (_, records) = zone.names().next().unwrap();
        assert!(records.addresses().is_empty() && !records.is_stale());
    }

    #[test]
    fn an_apex_too_long_for_its_mailbox_is_refused() {
        let text = [
            "a".repeat(63),
            "b".repeat(63),
            "c".repeat(63),
            "d".repeat(60),
        ]
        .join(".");
        let authority = Authority {
            serial: 1,
            ttl: TTL,
            name_servers: vec![server("ns.example.com", &[])],
        };
        let zone = Zone::new(text.parse().unwrap(), authority);
        assert!(matches!(zone, Err(ZoneError::LongApex(_))));
    }

    #[test]
    fn names_outside_and_names_of_servers_are_refused() {
        let mut zone = zone(vec![server("ns1.apps.local", &["10.0.0.53"])]).unwrap();
        let mut insert = |name: &str| zone.insert(name.parse().unwrap(), Records::new(TTL));
        assert_eq!(insert("hello.apps.local"), Ok(()));
        assert_eq!(insert("apps.local"), Ok(()));
        assert!(matches!(
            insert("hello.example.com"),
            Err(ZoneError::Outside(..))
        ));
        assert!(matches!(
            insert("NS1.apps.local"),
            Err(ZoneError::Reserved(_))
        ));
    }
}
