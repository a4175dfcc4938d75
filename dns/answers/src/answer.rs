//! The answer to a query: the table of outcomes.
//!
//! Messages that must not be answered are dropped first. The other checks run in this order:
//! NOTIMP, FORMERR, BADVERS, REFUSED (for other classes, other zones and transfers), SERVFAIL
//! (until the zone is loaded), then the zone's own data.

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::message::{CLASS_IN, Edns, Header, Malformed, Query};
use crate::name::prefix_length;
use crate::rotation::pick;
use crate::writer::{Opt, PAYLOAD, Section, Writer};
use crate::zone::{
    ADDRESSES_PER_ANSWER, Found, MAILBOX, NEGATIVE_TTL, NameServer, RecordSet, Records, Zone,
    seconds,
};

const OPCODE_QUERY: u16 = 0;

const TYPE_A: u16 = 1;
const TYPE_NS: u16 = 2;
const TYPE_SOA: u16 = 6;
const TYPE_AAAA: u16 = 28;
const TYPE_IXFR: u16 = 251;
const TYPE_AXFR: u16 = 252;
const TYPE_ANY: u16 = 255;

const AUTHORITATIVE: u16 = 0x0400;
/// Largest UDP answer to a query without EDNS (RFC 1035 4.2.1).
const PLAIN_PAYLOAD: usize = 512;
/// "Not Ready" (RFC 8914 section 4.15).
const NOT_READY: u16 = 14;

/// SOA timers in seconds: how long a secondary would wait before it refreshes, retries and gives
/// up. There are no secondaries (transfers are refused); the values are those that checkers of
/// delegations accept (RIPE-203, Zonemaster ZONE02 to ZONE05).
const SOA_REFRESH: u32 = 14_400;
const SOA_RETRY: u32 = 3_600;
const SOA_EXPIRE: u32 = 1_209_600;

/// The transport that a query arrived by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Transport {
    /// One datagram; the answer must fit into one.
    Udp,
    /// A length-prefixed message of up to 65535 bytes (RFC 7766).
    Tcp,
}

impl Transport {
    /// One word for metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Udp => "udp",
            Self::Tcp => "tcp",
        }
    }
}

/// Response codes that occur (RFC 1035 4.1.1, RFC 6891).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Rcode {
    /// Answered, possibly without records.
    NoError = 0,
    /// The query could not be read.
    FormErr = 1,
    /// The zone is not loaded yet.
    ServFail = 2,
    /// No such name in the zone.
    NxDomain = 3,
    /// An opcode other than QUERY.
    NotImp = 4,
    /// Another zone, another class, or a transfer.
    Refused = 5,
    /// An EDNS version other than 0.
    BadVers = 16,
}

impl Rcode {
    /// The name in IANA's registry.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NoError => "NOERROR",
            Self::FormErr => "FORMERR",
            Self::ServFail => "SERVFAIL",
            Self::NxDomain => "NXDOMAIN",
            Self::NotImp => "NOTIMP",
            Self::Refused => "REFUSED",
            Self::BadVers => "BADVERS",
        }
    }
}

/// The type of a query, as a closed set for metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum QueryKind {
    /// IPv4 addresses.
    A,
    /// IPv6 addresses.
    Aaaa,
    /// Start of authority.
    Soa,
    /// Name servers.
    Ns,
    /// ANY (RFC 8482).
    Any,
    /// AXFR or IXFR.
    Transfer,
    /// Any other type.
    Other,
    /// The question could not be read, or was not read.
    Unread,
}

impl QueryKind {
    /// One word for metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::A => "A",
            Self::Aaaa => "AAAA",
            Self::Soa => "SOA",
            Self::Ns => "NS",
            Self::Any => "ANY",
            Self::Transfer => "transfer",
            Self::Other => "other",
            Self::Unread => "unread",
        }
    }
}

/// Why a message gets no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Dropped {
    /// The header is incomplete, so there is not even an id to answer to.
    Short,
    /// It is a response. Answering it could start an endless exchange.
    Response,
}

impl Dropped {
    /// One word for metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Short => "short",
            Self::Response => "response",
        }
    }
}

/// Summary of an answer, for metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reply {
    /// The response code.
    pub rcode: Rcode,
    /// The type of the query.
    pub kind: QueryKind,
    /// Whether records did not fit (TC).
    pub truncated: bool,
    /// Whether the answer contains the last known addresses because none is healthy.
    pub stale: bool,
}

/// The result of [`answer`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The answer is in the buffer.
    Reply(Reply),
    /// Nothing may be sent; the content of the buffer is meaningless.
    Drop(Dropped),
}

/// Answers one message.
///
/// `random` returns uniform 64-bit numbers; each answer draws a new order of its addresses from
/// them. `out` is cleared first and contains the whole answer afterwards; its capacity is reused.
pub fn answer(
    message: &[u8],
    zone: &Zone,
    transport: Transport,
    random: &mut impl FnMut() -> u64,
    out: &mut Vec<u8>,
) -> Outcome {
    let Some(header) = Header::read(message) else {
        return Outcome::Drop(Dropped::Short);
    };
    if header.is_response() {
        return Outcome::Drop(Dropped::Response);
    }
    match header.opcode() {
        OPCODE_QUERY => {}
        // Other opcodes give the rest of the message another meaning, so it is not read. This
        // includes NOTIFY: its sender repeats it until it gets an answer (RFC 8906).
        _ => return bare(header, Rcode::NotImp, None, out),
    }
    let query = match Query::read(header, message) {
        Ok(query) => query,
        Err(Malformed { question }) => {
            return bare(header, Rcode::FormErr, question, out);
        }
    };
    Outcome::Reply(respond(header, &query, zone, transport, random, out))
}

/// An answer without records.
fn bare(header: Header, rcode: Rcode, question: Option<&[u8]>, out: &mut Vec<u8>) -> Outcome {
    let mut writer = Writer::start(out, header, rcode as u16, PLAIN_PAYLOAD, None);
    let mut asked = QueryKind::Unread;
    if let Some(raw) = question {
        writer.question(raw);
        if let [.., high, low, _, _] = raw {
            asked = kind(u16::from_be_bytes([*high, *low]));
        }
    }
    writer.finish();
    Outcome::Reply(Reply {
        rcode,
        kind: asked,
        truncated: false,
        stale: false,
    })
}

fn kind(number: u16) -> QueryKind {
    match number {
        TYPE_A => QueryKind::A,
        TYPE_AAAA => QueryKind::Aaaa,
        TYPE_SOA => QueryKind::Soa,
        TYPE_NS => QueryKind::Ns,
        TYPE_ANY => QueryKind::Any,
        TYPE_AXFR | TYPE_IXFR => QueryKind::Transfer,
        _ => QueryKind::Other,
    }
}

/// What the answer will contain.
#[derive(Debug, Clone, Copy)]
enum Decision<'z> {
    Refuse(Rcode),
    V4(RecordSet<'z, Ipv4Addr>),
    V6(RecordSet<'z, Ipv6Addr>),
    Soa,
    NameServers,
    NoData,
    NoSuchName,
}

impl Decision<'_> {
    fn rcode(self) -> Rcode {
        match self {
            Self::Refuse(rcode) => rcode,
            Self::NoSuchName => Rcode::NxDomain,
            Self::V4(_) | Self::V6(_) | Self::Soa | Self::NameServers | Self::NoData => {
                Rcode::NoError
            }
        }
    }

    fn is_stale(self) -> bool {
        match self {
            Self::V4(set) => set.stale,
            Self::V6(set) => set.stale,
            _ => false,
        }
    }
}

fn decide<'z>(query: &Query<'_>, zone: &'z Zone) -> Decision<'z> {
    let question = &query.question;
    let kind = kind(question.kind);
    if query.edns.is_some_and(|edns| edns.version != 0) {
        return Decision::Refuse(Rcode::BadVers);
    }
    let prefix = prefix_length(question.name(), zone.apex().as_wire());
    if question.class != CLASS_IN || prefix.is_none() || kind == QueryKind::Transfer {
        return Decision::Refuse(Rcode::Refused);
    }
    if !zone.is_loaded() {
        return Decision::Refuse(Rcode::ServFail);
    }
    let apex = prefix == Some(0);
    match (kind, zone.find(question.name())) {
        (QueryKind::Soa | QueryKind::Any, _) if apex => Decision::Soa,
        (QueryKind::Ns, _) if apex => Decision::NameServers,
        (_, Found::Records(records)) => of_records(kind, records),
        (_, Found::Empty) => Decision::NoData,
        (_, Found::Nothing) if apex => Decision::NoData,
        (_, Found::Nothing) => Decision::NoSuchName,
    }
}

fn of_records(kind: QueryKind, records: &Records) -> Decision<'_> {
    let (v4, v6) = (records.v4(), records.v6());
    match kind {
        QueryKind::A | QueryKind::Any if !v4.addresses.is_empty() => Decision::V4(v4),
        // One record set is enough for ANY (RFC 8482 section 4.1).
        QueryKind::Aaaa | QueryKind::Any if !v6.addresses.is_empty() => Decision::V6(v6),
        _ => Decision::NoData,
    }
}

fn respond(
    header: Header,
    query: &Query<'_>,
    zone: &Zone,
    transport: Transport,
    random: &mut impl FnMut() -> u64,
    out: &mut Vec<u8>,
) -> Reply {
    let decision = decide(query, zone);
    let rcode = decision.rcode();
    let opt = query.edns.map(|edns| Opt {
        dnssec_ok: edns.dnssec_ok,
        extended_rcode: (rcode as u16 >> 4) as u8,
        extended_error: (rcode == Rcode::ServFail).then_some(NOT_READY),
    });
    let limit = limit(transport, query.edns);
    let authoritative = if matches!(decision, Decision::Refuse(_)) {
        0
    } else {
        AUTHORITATIVE
    };
    let mut writer = Writer::start(out, header, authoritative | rcode as u16 & 0xf, limit, opt);
    writer.question(query.question.raw);
    writer.compress(&query.question, zone.apex());
    match decision {
        Decision::Refuse(_) => {}
        Decision::V4(set) => addresses(&mut writer, TYPE_A, set, random, Ipv4Addr::octets),
        Decision::V6(set) => addresses(&mut writer, TYPE_AAAA, set, random, Ipv6Addr::octets),
        Decision::Soa => soa(
            &mut writer,
            zone,
            Section::Answer,
            seconds(zone.authority().ttl),
        ),
        Decision::NameServers => name_servers(&mut writer, zone),
        Decision::NoData | Decision::NoSuchName => {
            // RFC 2308 section 3: the smaller of the SOA's TTL and its MINIMUM field.
            let ttl = seconds(NEGATIVE_TTL.min(zone.authority().ttl));
            soa(&mut writer, zone, Section::Authority, ttl);
        }
    }
    let truncated = writer.truncated;
    writer.finish();
    Reply {
        rcode,
        kind: kind(query.question.kind),
        truncated,
        stale: decision.is_stale(),
    }
}

fn limit(transport: Transport, edns: Option<Edns>) -> usize {
    match (transport, edns) {
        (Transport::Tcp, _) => usize::from(u16::MAX),
        (Transport::Udp, None) => PLAIN_PAYLOAD,
        (Transport::Udp, Some(edns)) => {
            usize::from(edns.payload).clamp(PLAIN_PAYLOAD, usize::from(PAYLOAD))
        }
    }
}

fn addresses<T: Copy, const N: usize>(
    writer: &mut Writer<'_>,
    kind: u16,
    set: RecordSet<'_, T>,
    random: &mut impl FnMut() -> u64,
    octets: impl Fn(&T) -> [u8; N],
) {
    let fits = writer.whole(Section::Answer, |writer| {
        let mut written = 0;
        for index in pick::<ADDRESSES_PER_ANSWER>(set.addresses.len(), random) {
            writer.record_at_question(kind, set.ttl, &octets(&set.addresses[index]));
            written += 1;
        }
        written
    });
    if !fits {
        writer.truncate();
    }
}

fn soa(writer: &mut Writer<'_>, zone: &Zone, section: Section, ttl: u32) {
    let authority = zone.authority();
    let primary = authority
        .name_servers
        .first()
        .expect("invariant: a zone has a name server");
    let fits = writer.whole(section, |writer| {
        writer.record(zone.apex(), TYPE_SOA, ttl, |writer| {
            writer.name(&primary.name);
            writer.bytes(MAILBOX);
            writer.name(zone.apex());
            for number in [
                authority.serial,
                SOA_REFRESH,
                SOA_RETRY,
                SOA_EXPIRE,
                seconds(NEGATIVE_TTL),
            ] {
                writer.u32(number);
            }
        });
        1
    });
    if !fits {
        writer.truncate();
    }
}

fn name_servers(writer: &mut Writer<'_>, zone: &Zone) {
    let authority = zone.authority();
    let ttl = seconds(authority.ttl);
    let fits = writer.whole(Section::Answer, |writer| {
        for server in &authority.name_servers {
            writer.record(zone.apex(), TYPE_NS, ttl, |writer| {
                writer.name(&server.name);
            });
        }
        authority.name_servers.len() as u16
    });
    if !fits {
        writer.truncate();
        return;
    }
    for server in &authority.name_servers {
        // Glue that does not fit is left out; clients can query it (RFC 2181 section 9).
        glue(writer, server, ttl);
    }
}

fn glue(writer: &mut Writer<'_>, server: &NameServer, ttl: u32) {
    for family in [TYPE_A, TYPE_AAAA] {
        writer.whole(Section::Additional, |writer| {
            let mut written = 0;
            for address in &server.addresses {
                let octets = match address {
                    std::net::IpAddr::V4(address) if family == TYPE_A => address.octets().to_vec(),
                    std::net::IpAddr::V6(address) if family == TYPE_AAAA => {
                        address.octets().to_vec()
                    }
                    _ => continue,
                };
                writer.record(&server.name, family, ttl, |writer| writer.bytes(&octets));
                written += 1;
            }
            written
        });
    }
}
