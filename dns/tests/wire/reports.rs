//! Faults that were reported for other DNS servers in clusters, tested against this server. Each
//! row names the report that it resembles.

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::{RData, RecordType};

use crate::server::{A, AAAA, NS, Server, addresses_of, ask, query};

const TXT: u16 = 16;
const SRV: u16 = 33;
const DS: u16 = 43;
const HTTPS: u16 = 65;
const CAA: u16 = 257;

const RECORDS: &str = r#"{
  "hello.apps.local": {"ttl": 30, "addresses": ["10.0.0.1"]},
  "web.shop.team.apps.local": {"addresses": ["10.0.0.2"]},
  "starting.apps.local": {"addresses": []}
}"#;

fn server() -> Server {
    let server = Server::start_with(
        "127.0.0.1:0",
        Some(RECORDS),
        &["--ns=ns1.apps.local=10.0.0.53", "--ns=ns2.example.com"],
    );
    server.wait_ready().unwrap();
    server
}

/// A query for a name below the zone, of any depth, its labels joined by dots.
fn of(name: &str, kind: u16) -> Vec<u8> {
    let mut labels = name.split('.').rev();
    let mut bytes = query(7, labels.next().unwrap(), kind);
    for label in labels {
        let mut more = vec![label.len() as u8];
        more.extend(label.bytes());
        bytes.splice(12..12, more);
    }
    bytes
}

/// A negative answer contains the SOA of the zone, which says how long the answer may be cached.
#[test]
fn a_name_without_the_type_asked_for_still_exists() {
    let server = server();
    for (name, kind, report) in [
        // After NXDOMAIN these clients drop the A record that they have: .NET, musl, BIND's cache,
        // nginx.
        ("hello", AAAA, "k8s_gateway#124, coredns#779, vpnkit#509"),
        // iOS and browsers ask for HTTPS first.
        ("hello", HTTPS, "connlib 7141, technitium#569"),
        ("hello", SRV, "vpnkit#509"),
        (
            "hello",
            TXT,
            "hickory-dns#2814: no SOA means SERVFAIL to some",
        ),
        ("hello", CAA, "a CA asks for this before it issues"),
        ("hello", DS, "a validating recursor asks for this"),
        // No address is healthy yet.
        ("starting", A, "consul#1217"),
        // Names that have no records, only names below them: QNAME minimisation asks for these.
        ("team", A, "rbldnsd#17, pdns#8496"),
        ("shop.team", NS, "dnsext#109"),
        ("team", AAAA, "unbound#1500"),
    ] {
        let answer = ask(server.address, &of(name, kind));
        let code = answer.metadata.response_code;
        assert_eq!(code, ResponseCode::NoError, "{name} {kind}: {report}");
        assert!(answer.metadata.authoritative, "{name} {kind}: {report}");
        assert!(answer.answers.is_empty(), "{name} {kind}: {report}");
        let [soa] = &answer.authorities[..] else {
            panic!("{name} {kind}: {report}: {:?}", answer.authorities)
        };
        // badssl.com#535: some resolvers refuse an SOA of another zone.
        assert_eq!(soa.name.to_string(), "apps.local.");
        let RData::SOA(data) = &soa.data else {
            panic!("{soa}")
        };
        // coredns#2294: BIND caches the answer for the SOA's TTL, others for the smaller of that
        // TTL and MINIMUM.
        assert_eq!((soa.ttl, data.minimum), (5, 5));
    }
}

#[test]
fn the_apex_names_servers_that_have_addresses() {
    let server = server();
    let mut apex = query(7, "x", NS);
    apex.splice(12..14, []);
    let answer = ask(server.address, &apex);
    assert!(answer.metadata.authoritative, "k8s_gateway#128");
    let names: Vec<_> = answer
        .answers
        .iter()
        .map(|it| it.data.to_string())
        .collect();
    assert_eq!(names, ["ns1.apps.local.", "ns2.example.com."]);
    // k8s_gateway#128: glue has the server's name, not the zone's.
    let glue: Vec<_> = answer
        .additionals
        .iter()
        .map(|it| it.name.to_string())
        .collect();
    assert_eq!(glue, ["ns1.apps.local."]);
    // k8s_gateway#191, internet.nl#386: a server's name must also be answered when asked for.
    let address = ask(server.address, &query(7, "ns1", A));
    assert_eq!(
        addresses_of(&address),
        ["10.0.0.53".parse::<std::net::IpAddr>().unwrap()]
    );
    // k8s_gateway#57: the SOA's primary is one of the name servers.
    let mut soa = query(7, "x", 6);
    soa.splice(12..14, []);
    let answer = ask(server.address, &soa);
    assert_eq!(answer.answers[0].record_type(), RecordType::SOA);
    assert!(
        answer.answers[0]
            .data
            .to_string()
            .starts_with("ns1.apps.local. ")
    );
}

#[test]
fn letter_case_comes_back_as_it_was_sent() {
    let server = server();
    let mut mixed = query(7, "hElLO", A);
    mixed[20] = b'P';
    let answer = ask(server.address, &mixed);
    // interactsh#138, unbound#800.
    assert_eq!(answer.queries[0].name().to_string(), "hElLO.aPps.local.");
    assert_eq!(addresses_of(&answer).len(), 1);
}

#[test]
fn unknown_options_are_neither_refused_nor_echoed() {
    let server = server();
    for (option, report) in [
        (
            &[0, 10, 0, 8, 1, 2, 3, 4, 5, 6, 7, 8][..],
            "a cookie: dns-violations#58, c-ares#911",
        ),
        (
            &[0, 8, 0, 7, 0, 1, 24, 0, 10, 1, 2],
            "client subnet: pdns#10825",
        ),
        (&[0, 3, 0, 0], "NSID"),
        (&[0, 11, 0, 0], "TCP keepalive"),
        (&[0, 12, 0, 4, 0, 0, 0, 0], "padding"),
        (&[0xff, 0xfe, 0, 1, 9], "an unassigned option: erldns#53"),
    ] {
        let mut query = query(7, "hello", A);
        query[11] = 1;
        query.extend([0, 0, 41, 0x04, 0xd0, 0, 0, 0, 0, 0, option.len() as u8]);
        query.extend(option);
        let answer = ask(server.address, &query);
        assert_eq!(
            answer.metadata.response_code,
            ResponseCode::NoError,
            "{report}"
        );
        assert_eq!(addresses_of(&answer).len(), 1, "{report}");
        let edns = answer.edns.unwrap();
        assert!(edns.options().as_ref().is_empty(), "{report}");
    }
}
