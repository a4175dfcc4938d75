//! Queries built by hand, the zone that answers them, and the decoded answers.

use std::net::IpAddr;
use std::time::Duration;

use hickory_proto::op::Message;
use hickory_proto::rr::{RData, Record};
use scaledapp_answers::{Authority, NameServer, Outcome, Records, Reply, Transport, Zone, answer};

pub(crate) const A: u16 = 1;
pub(crate) const NS: u16 = 2;
pub(crate) const SOA: u16 = 6;
pub(crate) const TXT: u16 = 16;
pub(crate) const AAAA: u16 = 28;
pub(crate) const SVCB: u16 = 64;
pub(crate) const HTTPS: u16 = 65;
pub(crate) const IXFR: u16 = 251;
pub(crate) const AXFR: u16 = 252;
pub(crate) const ANY: u16 = 255;

pub(crate) const ID: u16 = 0x1d0b;

/// A query as bytes, with methods to change them.
#[derive(Debug, Clone)]
pub(crate) struct Query(pub(crate) Vec<u8>);

impl Query {
    /// Asks for `name` with RD set.
    pub(crate) fn new(name: &str, kind: u16) -> Self {
        Self::of_wire(&wire(name), kind)
    }

    pub(crate) fn of_wire(name: &[u8], kind: u16) -> Self {
        let mut bytes = ID.to_be_bytes().to_vec();
        bytes.extend([0x01, 0x00, 0, 1, 0, 0, 0, 0, 0, 0]);
        bytes.extend(name);
        bytes.extend(kind.to_be_bytes());
        bytes.extend([0, 1]);
        Self(bytes)
    }

    pub(crate) fn byte(mut self, at: usize, value: u8) -> Self {
        self.0[at] = value;
        self
    }

    pub(crate) fn class(mut self, class: u16) -> Self {
        let at = self.0.len() - 2;
        self.0[at..].copy_from_slice(&class.to_be_bytes());
        self
    }

    pub(crate) fn flags(mut self, flags: u16) -> Self {
        self.0[2..4].copy_from_slice(&flags.to_be_bytes());
        self
    }

    pub(crate) fn append(mut self, bytes: &[u8]) -> Self {
        self.0.extend(bytes);
        self
    }

    /// Adds a record to the additional section, raw.
    pub(crate) fn additional(mut self, record: &[u8]) -> Self {
        self.0[11] += 1;
        self.append(record)
    }

    pub(crate) fn opt(self, payload: u16) -> Self {
        self.additional(&opt(payload, 0, 0, &[]))
    }

    pub(crate) fn question(&self) -> &[u8] {
        &self.0[12..]
    }
}

pub(crate) fn opt(payload: u16, version: u8, flags: u8, options: &[u8]) -> Vec<u8> {
    let mut record = vec![0, 0, 41];
    record.extend(payload.to_be_bytes());
    record.extend([0, version, flags, 0]);
    record.extend((options.len() as u16).to_be_bytes());
    record.extend(options);
    record
}

/// The wire form; letter case stays as given.
pub(crate) fn wire(name: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for label in name.split('.').filter(|label| !label.is_empty()) {
        bytes.push(label.len() as u8);
        bytes.extend(label.bytes());
    }
    bytes.push(0);
    bytes
}

pub(crate) fn addresses(texts: &[&str]) -> Vec<IpAddr> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

pub(crate) fn records(texts: &[&str]) -> Records {
    let listed = addresses(texts);
    let mut records = Records::new(TTL);
    records.update(TTL, &listed, &listed);
    records
}

pub(crate) const TTL: Duration = Duration::from_secs(30);

pub(crate) fn authority() -> Authority {
    let server = |name: &str, glue: &[&str]| NameServer {
        name: name.parse().unwrap(),
        addresses: addresses(glue),
    };
    Authority {
        serial: 7,
        ttl: Duration::from_mins(1),
        name_servers: vec![
            server("ns1.apps.local", &["10.0.0.53", "fd00::53"]),
            server("ns2.apps.local", &["10.0.1.53"]),
            server("ns.example.com", &[]),
        ],
    }
}

/// The zone `apps.local` with one name for each case of the table.
pub(crate) fn zone() -> Zone {
    let mut zone = Zone::new("apps.local".parse().unwrap(), authority()).unwrap();
    let mut insert = |name: &str, records| zone.insert(name.parse().unwrap(), records).unwrap();
    insert("hello.apps.local", records(&["10.1.0.1", "10.1.0.2"]));
    insert("six.apps.local", records(&["fd00::1"]));
    insert("both.apps.local", records(&["10.1.0.1", "fd00::1"]));
    insert("never.apps.local", Records::new(TTL));
    insert("web.shop.team.apps.local", records(&["10.1.0.9"]));
    let mut down = records(&["10.1.0.7", "10.1.0.8"]);
    down.update(TTL, &addresses(&["10.1.0.7", "10.1.0.8"]), &[]);
    insert("down.apps.local", down);
    zone.set_loaded();
    zone
}

/// `SplitMix64` (Steele, Lea, Flood 2014).
pub(crate) fn generator(mut state: u64) -> impl FnMut() -> u64 {
    move || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

pub(crate) fn ask(zone: &Zone, query: &[u8], transport: Transport) -> (Outcome, Vec<u8>) {
    let mut out = vec![0xaa; 40];
    let outcome = answer(query, zone, transport, &mut generator(1), &mut out);
    (outcome, out)
}

/// Answers a query as over UDP. Panics if the query gets no answer.
pub(crate) fn reply(zone: &Zone, query: &Query) -> (Reply, Message, Vec<u8>) {
    match ask(zone, &query.0, Transport::Udp) {
        (Outcome::Reply(reply), bytes) => {
            let message = Message::from_vec(&bytes)
                .unwrap_or_else(|error| panic!("{error}: {bytes:02x?} to {query:02x?}"));
            (reply, message, bytes)
        }
        (outcome, _) => panic!("{outcome:?} to {query:02x?}"),
    }
}

/// The addresses of records, in order.
pub(crate) fn addresses_of(records: &[Record]) -> Vec<IpAddr> {
    let addresses = records.iter().map(|record| match &record.data {
        RData::A(a) => IpAddr::V4(a.0),
        RData::AAAA(aaaa) => IpAddr::V6(aaaa.0),
        other => panic!("{other:?} is no address"),
    });
    addresses.collect()
}
