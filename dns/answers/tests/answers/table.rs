//! Each row of the table of answers.

use hickory_proto::op::{MessageType, OpCode, ResponseCode};
use hickory_proto::rr::{DNSClass, RData, RecordType};
use scaledapp_answers::{Dropped, Outcome, QueryKind, Rcode, Transport, Zone};

use crate::message::{
    A, AAAA, ANY, AXFR, HTTPS, ID, IXFR, NS, Query, SOA, SVCB, TXT, addresses, addresses_of, ask,
    authority, opt, reply, wire, zone,
};

/// The expected answer: code, AA, and the number of records in each section.
struct Expected(ResponseCode, bool, [usize; 3]);

const DATA: fn(usize) -> Expected = |n| Expected(ResponseCode::NoError, true, [n, 0, 0]);
const NO_DATA: Expected = Expected(ResponseCode::NoError, true, [0, 1, 0]);
const NO_NAME: Expected = Expected(ResponseCode::NXDomain, true, [0, 1, 0]);
const REFUSED: Expected = Expected(ResponseCode::Refused, false, [0, 0, 0]);

#[test]
fn each_question_gets_the_answer_of_the_table() {
    let zone = zone();
    for (name, kind, Expected(code, authoritative, counts)) in [
        ("hello.apps.local", A, DATA(2)),
        ("hello.apps.local", AAAA, NO_DATA),
        ("six.apps.local", AAAA, DATA(1)),
        ("six.apps.local", A, NO_DATA),
        ("both.apps.local", A, DATA(1)),
        ("both.apps.local", AAAA, DATA(1)),
        ("hello.apps.local", ANY, DATA(2)),
        ("six.apps.local", ANY, DATA(1)),
        ("both.apps.local", ANY, DATA(1)),
        ("never.apps.local", ANY, NO_DATA),
        ("hello.apps.local", TXT, NO_DATA),
        ("hello.apps.local", SVCB, NO_DATA),
        ("hello.apps.local", HTTPS, NO_DATA),
        ("hello.apps.local", SOA, NO_DATA),
        ("hello.apps.local", NS, NO_DATA),
        ("hello.apps.local", 65_280, NO_DATA),
        ("never.apps.local", A, NO_DATA),
        ("down.apps.local", A, DATA(2)),
        ("nobody.apps.local", A, NO_NAME),
        ("nobody.apps.local", SOA, NO_NAME),
        ("x.hello.apps.local", A, NO_NAME),
        ("web.shop.team.apps.local", A, DATA(1)),
        ("shop.team.apps.local", A, NO_DATA),
        ("team.apps.local", ANY, NO_DATA),
        ("other.team.apps.local", A, NO_NAME),
        ("apps.local", SOA, DATA(1)),
        ("apps.local", ANY, DATA(1)),
        (
            "apps.local",
            NS,
            Expected(ResponseCode::NoError, true, [3, 0, 3]),
        ),
        ("apps.local", A, NO_DATA),
        ("ns1.apps.local", A, DATA(1)),
        ("ns1.apps.local", AAAA, DATA(1)),
        ("ns2.apps.local", AAAA, NO_DATA),
        ("local", A, REFUSED),
        (".", NS, REFUSED),
        ("example.com", A, REFUSED),
        ("ns.example.com", A, REFUSED),
        ("myapps.local", A, REFUSED),
        ("apps.local", AXFR, REFUSED),
        ("hello.apps.local", IXFR, REFUSED),
    ] {
        for transport in [Transport::Udp, Transport::Tcp] {
            let query = Query::new(name, kind);
            let (outcome, bytes) = ask(&zone, &query.0, transport);
            let (_, message, over_udp) = reply(&zone, &query);
            assert!(matches!(outcome, Outcome::Reply(_)));
            assert_eq!(bytes, over_udp, "both transports give the same answer");
            let got = [
                message.answers.len(),
                message.authorities.len(),
                message.additionals.len(),
            ];
            assert_eq!(message.metadata.response_code, code, "{name} {kind}");
            assert_eq!(
                message.metadata.authoritative, authoritative,
                "{name} {kind}"
            );
            assert_eq!(got, counts, "{name} {kind}");
            assert!(message.edns.is_none(), "no OPT if not asked");
        }
    }
}

#[test]
fn every_answer_repeats_id_question_and_rd_and_offers_no_recursion() {
    let zone = zone();
    for name in ["hello.apps.local", "nobody.apps.local", "example.com"] {
        for (flags, wanted) in [(0x0100, true), (0x0000, false)] {
            let query = Query::new(name, A).flags(flags);
            let (_, message, bytes) = reply(&zone, &query);
            assert_eq!(message.metadata.id, ID);
            assert_eq!(message.metadata.message_type, MessageType::Response);
            assert_eq!(message.metadata.op_code, OpCode::Query);
            assert_eq!(message.metadata.recursion_desired, wanted);
            assert!(!message.metadata.recursion_available);
            assert!(!message.metadata.truncation);
            assert_eq!(bytes[12..12 + query.question().len()], *query.question());
        }
    }
    // AA, TC, RA, Z, AD and CD of a query have no effect.
    let (_, _, bytes) = reply(&zone, &Query::new("hello.apps.local", A).flags(0x07f0));
    assert_eq!(bytes[2..4], [0x85, 0x00]);
}

#[test]
fn the_records_of_an_answer_carry_name_class_and_one_ttl() {
    let (got, message, _) = reply(&zone(), &Query::new("hello.apps.local", A));
    assert_eq!(
        (got.rcode, got.kind, got.stale),
        (Rcode::NoError, QueryKind::A, false)
    );
    for record in &message.answers {
        assert_eq!(record.name.to_string(), "hello.apps.local.");
        assert_eq!(record.dns_class, DNSClass::IN);
        assert_eq!(record.ttl, 30);
    }
    let mut given = addresses_of(&message.answers);
    given.sort_unstable();
    assert_eq!(given, addresses(&["10.1.0.1", "10.1.0.2"]));
}

#[test]
fn with_none_healthy_the_last_known_addresses_are_given_for_five_seconds() {
    let (got, message, _) = reply(&zone(), &Query::new("down.apps.local", A));
    assert!(got.stale);
    assert!(message.answers.iter().all(|record| record.ttl == 5));
}

#[test]
fn letter_case_is_ignored_and_comes_back_unchanged() {
    let zone = zone();
    for name in ["hElLo.ApPs.LoCaL", "HELLO.APPS.LOCAL"] {
        let query = Query::new(name, A);
        let (_, message, bytes) = reply(&zone, &query);
        assert_eq!(message.answers.len(), 2);
        assert_eq!(bytes[12..12 + query.question().len()], *query.question());
    }
    let (_, message, _) = reply(&zone, &Query::new("nObOdY.aPPs.LOCal", A));
    assert_eq!(message.authorities[0].name.to_string(), "aPPs.LOCal.");
}

#[test]
fn a_negative_answer_names_the_zone_and_may_be_cached_for_five_seconds() {
    for name in ["nobody.apps.local", "never.apps.local"] {
        let (_, message, _) = reply(&zone(), &Query::new(name, A));
        let record = &message.authorities[0];
        assert_eq!(
            (record.name.to_string().as_str(), record.ttl),
            ("apps.local.", 5)
        );
        let RData::SOA(soa) = &record.data else {
            panic!("{record}")
        };
        assert_eq!(soa.minimum, 5);
    }
}

#[test]
fn the_apex_answers_soa_and_ns() {
    let (_, message, _) = reply(&zone(), &Query::new("apps.local", SOA));
    let record = &message.answers[0];
    assert_eq!(record.ttl, 60);
    let RData::SOA(soa) = &record.data else {
        panic!("{record}")
    };
    assert_eq!(soa.mname.to_string(), "ns1.apps.local.");
    assert_eq!(soa.rname.to_string(), "hostmaster.apps.local.");
    assert_eq!(
        (soa.serial, soa.refresh, soa.retry, soa.expire, soa.minimum),
        (7, 14_400, 3_600, 1_209_600, 5)
    );
}

#[test]
fn the_name_servers_come_with_the_addresses_of_those_in_the_zone() {
    let (_, message, _) = reply(&zone(), &Query::new("apps.local", NS));
    let names: Vec<_> = message
        .answers
        .iter()
        .map(|record| record.data.to_string())
        .collect();
    assert_eq!(
        names,
        ["ns1.apps.local.", "ns2.apps.local.", "ns.example.com."]
    );
    let glue: Vec<_> = message
        .additionals
        .iter()
        .map(|record| record.name.to_string())
        .collect();
    assert_eq!(
        glue,
        ["ns1.apps.local.", "ns1.apps.local.", "ns2.apps.local."]
    );
    assert_eq!(
        addresses_of(&message.additionals),
        addresses(&["10.0.0.53", "fd00::53", "10.0.1.53"])
    );
}

#[test]
fn any_gives_one_record_set() {
    let (got, message, _) = reply(&zone(), &Query::new("both.apps.local", ANY));
    assert_eq!(got.kind, QueryKind::Any);
    assert!(
        message
            .answers
            .iter()
            .all(|record| record.record_type() == RecordType::A)
    );
}

#[test]
fn the_apex_may_have_addresses() {
    let mut zone = zone();
    zone.insert(
        "apps.local".parse().unwrap(),
        crate::message::records(&["10.1.0.1"]),
    )
    .unwrap();
    let (_, message, _) = reply(&zone, &Query::new("apps.local", A));
    assert_eq!(addresses_of(&message.answers), addresses(&["10.1.0.1"]));
    let (_, message, _) = reply(&zone, &Query::new("apps.local", SOA));
    assert_eq!(message.answers.len(), 1);
}

#[test]
fn responses_and_short_messages_are_dropped() {
    let zone = zone();
    let query = Query::new("hello.apps.local", A);
    for (bytes, reason) in [
        (&[][..], Dropped::Short),
        (&query.0[..11], Dropped::Short),
        (&query.clone().flags(0x8180).0, Dropped::Response),
        (&query.clone().flags(0xa000).0, Dropped::Response),
    ] {
        assert_eq!(ask(&zone, bytes, Transport::Udp).0, Outcome::Drop(reason));
    }
}

#[test]
fn other_opcodes_are_not_implemented() {
    let zone = zone();
    for opcode in 1..16 {
        let query = Query::new("hello.apps.local", A).flags(opcode << 11);
        let (_, message, bytes) = reply(&zone, &query);
        assert_eq!(message.metadata.response_code, ResponseCode::NotImp);
        assert_eq!(bytes.len(), 12);
        assert_eq!(u16::from_be_bytes([bytes[2], bytes[3]]) >> 11 & 0xf, opcode);
    }
}

#[test]
fn other_classes_are_refused() {
    for class in [0, 2, 3, 4, 254, 255] {
        let query = Query::new("hello.apps.local", A).class(class);
        assert_eq!(reply(&zone(), &query).0.rcode, Rcode::Refused, "{class}");
    }
}

fn assert_formerr(what: &str, bad: &Query) {
    let (got, message, _) = reply(&zone(), bad);
    assert_eq!(
        message.metadata.response_code,
        ResponseCode::FormErr,
        "{what}"
    );
    assert_eq!(got.rcode, Rcode::FormErr, "{what}");
    assert!(!message.metadata.authoritative, "{what}");
}

#[test]
fn wrong_counts_and_records_get_formerr() {
    let query = || Query::new("hello.apps.local", A);
    let opt_record = opt(1232, 0, 0, &[]);
    let mut owned = wire("x");
    owned.extend(&opt_record[1..]);
    let question = query().question().to_vec();
    for (what, bad) in [
        ("no question", query().byte(5, 0)),
        ("two questions", query().append(&question).byte(5, 2)),
        ("an answer", query().byte(7, 1).append(&opt_record)),
        (
            "two authorities",
            query().byte(9, 2).append(&opt_record).append(&opt_record),
        ),
        (
            "an OPT as authority",
            query().byte(9, 1).append(&opt_record),
        ),
        ("three additionals", query().opt(512).byte(11, 3)),
        ("two OPT", query().opt(512).opt(512)),
        ("an additional record that is missing", query().byte(11, 1)),
        ("trailing bytes", query().append(&[0])),
        (
            "trailing bytes after the OPT",
            query().opt(512).append(&[1, 2]),
        ),
        ("an OPT with a name", query().additional(&owned)),
        (
            "an option longer than the OPT",
            query().additional(&opt(512, 0, 0, &[0, 3, 0, 9, 1])),
        ),
        (
            "half an option",
            query().additional(&opt(512, 0, 0, &[0, 3, 0])),
        ),
        (
            "a record that is cut off",
            query().additional(&opt_record[..9]),
        ),
    ] {
        assert_formerr(what, &bad);
    }
}

#[test]
fn wrong_names_get_formerr() {
    let query = || Query::new("hello.apps.local", A);
    let itself = [0xc0, 34, 0, 1, 0, 1, 0, 0, 0, 0, 0, 0];
    for (what, bad) in [
        (
            "a record's name that points at itself",
            query().additional(&itself),
        ),
        (
            "a record's name that points forward",
            query().additional(&[0xc0, 0x40, 0, 1]),
        ),
        (
            "a record's name that points into the header",
            query().additional(&[0xc0, 2, 0, 1]),
        ),
        (
            "a record's name with a label of another kind",
            query().additional(&[0x41, 0, 0, 1]),
        ),
        ("nothing after the header", Query(query().0[..12].to_vec())),
        ("half a name", Query(query().0[..20].to_vec())),
        ("a name without its type", Query(query().0[..30].to_vec())),
        ("half a class", Query(query().0[..33].to_vec())),
        (
            "a question that points at itself",
            Query::of_wire(&[0xc0, 12], A),
        ),
        (
            "a question that points at the header",
            Query::of_wire(&[1, b'a', 0xc0, 4], A),
        ),
        (
            "a question with a label of another kind",
            Query::of_wire(&[0x80, 1, 0], A),
        ),
        (
            "a name of 256 bytes",
            Query::of_wire(&wire(&long_name(62)), A),
        ),
    ] {
        assert_formerr(what, &bad);
    }
}

fn long_name(last: usize) -> String {
    [
        "a".repeat(63),
        "b".repeat(63),
        "c".repeat(63),
        "d".repeat(last),
    ]
    .join(".")
}

#[test]
fn a_name_of_253_characters_is_read() {
    let query = Query::new(&long_name(61), A);
    assert_eq!(reply(&zone(), &query).0.rcode, Rcode::Refused);
}

#[test]
fn a_question_that_could_be_read_is_repeated_with_the_error() {
    let bad = Query::new("hello.apps.local", A).append(&[0]);
    let (got, message, bytes) = reply(&zone(), &bad);
    assert_eq!(got.kind, QueryKind::A);
    assert_eq!(message.queries.len(), 1);
    assert_eq!(bytes[12..], bad.question()[..bad.question().len() - 1]);
}

#[test]
fn other_additional_records_and_options_are_ignored() {
    let zone = zone();
    // A TSIG-like record whose owner is compressed against the question.
    let mut signature = vec![0xc0, 12, 0, 250, 0, 255, 0, 0, 0, 0, 0, 3];
    signature.extend([1, 2, 3]);
    let cookie = [0, 10, 0, 8, 1, 2, 3, 4, 5, 6, 7, 8, 0xff, 0xfe, 0, 0];
    for query in [
        Query::new("hello.apps.local", A).additional(&signature),
        Query::new("hello.apps.local", A)
            .opt(1232)
            .additional(&signature),
        Query::new("hello.apps.local", A).additional(&opt(1232, 0, 0, &cookie)),
    ] {
        let (_, message, _) = reply(&zone, &query);
        assert_eq!(message.answers.len(), 2);
        assert!(
            message
                .edns
                .is_none_or(|edns| edns.options().as_ref().is_empty())
        );
    }
}

#[test]
fn an_incremental_transfer_with_its_serial_is_refused() {
    let mut soa = vec![0xc0, 12, 0, 6, 0, 1, 0, 0, 0, 0, 0, 22, 0, 0];
    soa.extend([0; 20]);
    let query = Query::new("apps.local", IXFR).byte(9, 1).append(&soa);
    let (got, ..) = reply(&zone(), &query);
    assert_eq!((got.rcode, got.kind), (Rcode::Refused, QueryKind::Transfer));
}

#[test]
fn edns_is_answered_with_our_size_version_0_and_the_same_do_bit() {
    for (flags, wanted) in [(0x80, true), (0x00, false)] {
        let query = Query::new("hello.apps.local", A).additional(&opt(4096, 0, flags, &[]));
        let (_, message, _) = reply(&zone(), &query);
        let edns = message.edns.unwrap();
        assert_eq!((edns.version(), edns.max_payload()), (0, 1232));
        assert_eq!(edns.flags().dnssec_ok, wanted);
        assert_eq!(message.answers.len(), 2);
    }
}

#[test]
fn a_later_edns_version_gets_badvers_and_our_version() {
    for version in [1, 255] {
        for name in ["hello.apps.local", "example.com"] {
            let query = Query::new(name, A).additional(&opt(1232, version, 0, &[]));
            let (got, message, _) = reply(&zone(), &query);
            assert_eq!(got.rcode, Rcode::BadVers);
            // Hickory calls 16 by its TSIG name, BADSIG.
            assert_eq!(u16::from(message.metadata.response_code), 16);
            assert_eq!(message.edns.unwrap().version(), 0);
            assert!(message.answers.is_empty());
        }
    }
}

#[test]
fn before_the_zone_is_loaded_queries_get_servfail_with_the_reason() {
    let zone = Zone::new("apps.local".parse().unwrap(), authority()).unwrap();
    for name in ["hello.apps.local", "apps.local"] {
        let (got, message, _) = reply(&zone, &Query::new(name, A));
        assert_eq!(got.rcode, Rcode::ServFail);
        assert!(message.edns.is_none() && !message.metadata.authoritative);
        let (_, message, bytes) = reply(&zone, &Query::new(name, A).opt(1232));
        assert_eq!(message.metadata.response_code, ResponseCode::ServFail);
        // RFC 8914: option 15, two bytes, code 14 (Not Ready).
        assert!(bytes.ends_with(&[0, 6, 0, 15, 0, 2, 0, 14]), "{bytes:02x?}");
    }
    assert_eq!(
        reply(&zone, &Query::new("example.com", A)).0.rcode,
        Rcode::Refused
    );
}
