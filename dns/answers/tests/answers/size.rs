//! The size of answers, and what is left out of those that would be too large.

use std::time::Duration;

use hickory_proto::op::Message;
use scaledapp_answers::{Authority, NameServer, Outcome, Transport, Zone};

use crate::message::{A, AAAA, NS, Query, SOA, ask, authority, opt, records, reply};

/// A name below `apps.local` with the maximal 253 characters.
fn longest() -> String {
    [
        "a".repeat(63),
        "b".repeat(63),
        "c".repeat(63),
        "d".repeat(50),
        "apps.local".to_owned(),
    ]
    .join(".")
}

/// A zone whose NS records take 20 bytes each, and the glue 22 bytes each.
fn zone_of(servers: usize) -> Zone {
    let name_servers = (0..servers).map(|n| NameServer {
        name: format!("ns{n:03}.apps.local").parse().unwrap(),
        addresses: vec![format!("10.0.0.{n}").parse().unwrap()],
    });
    let authority = Authority {
        serial: 1,
        ttl: Duration::from_mins(1),
        name_servers: name_servers.collect(),
    };
    let mut zone = Zone::new("apps.local".parse().unwrap(), authority).unwrap();
    zone.set_loaded();
    zone
}

#[test]
fn eight_addresses_of_the_longest_name_fit_into_512_bytes() {
    let mut zone = Zone::new("apps.local".parse().unwrap(), authority()).unwrap();
    let texts: Vec<_> = (0..100)
        .flat_map(|n| [format!("10.0.0.{n}"), format!("fd00::{n:x}")])
        .collect();
    let texts: Vec<_> = texts.iter().map(String::as_str).collect();
    zone.insert(longest().parse().unwrap(), records(&texts))
        .unwrap();
    zone.set_loaded();
    for kind in [A, AAAA] {
        for query in [
            Query::new(&longest(), kind),
            Query::new(&longest(), kind).opt(0),
        ] {
            let (got, message, bytes) = reply(&zone, &query);
            assert!(bytes.len() <= 512, "{}", bytes.len());
            assert_eq!((got.truncated, message.answers.len()), (false, 8));
        }
    }
}

#[test]
fn the_limit_is_that_of_the_query_between_512_and_1232_bytes() {
    let zone = zone_of(58);
    let query = |payload: Option<u16>| {
        let query = Query::new("apps.local", NS);
        payload.map_or(query.clone(), |payload| query.opt(payload))
    };
    let needed = ask(&zone, &query(Some(0)).0, Transport::Tcp).1.len();
    assert!(needed > 1232);
    for (payload, limit) in [
        (None, 512),
        (Some(0), 512),
        (Some(511), 512),
        (Some(512), 512),
        (Some(1000), 1000),
        (Some(1232), 1232),
        (Some(4096), 1232),
        (Some(65_535), 1232),
    ] {
        let (got, message, bytes) = reply(&zone, &query(payload));
        assert!(bytes.len() <= limit, "{payload:?}: {}", bytes.len());
        assert_eq!(got.truncated, message.metadata.truncation);
        // 58 NS records take 1160 bytes: all or none are sent.
        let whole = limit == 1232;
        assert_eq!(message.answers.len(), if whole { 58 } else { 0 });
        assert_eq!(got.truncated, !whole);
        assert_eq!(message.edns.is_some(), payload.is_some());
    }
}

#[test]
fn the_last_byte_counts() {
    let zone = zone_of(58);
    let size_of_answer_section = 12 + 16 + 58 * 20;
    let exact = size_of_answer_section as u16 + 11;
    for (payload, truncated) in [(exact, false), (exact - 1, true)] {
        let (got, _, bytes) = reply(&zone, &Query::new("apps.local", NS).opt(payload));
        assert_eq!(got.truncated, truncated);
        assert!(bytes.len() <= usize::from(payload));
    }
}

#[test]
fn glue_that_does_not_fit_is_left_out_without_truncation() {
    let zone = zone_of(20);
    let (got, message, bytes) = reply(&zone, &Query::new("apps.local", NS));
    assert!(bytes.len() <= 512 && !got.truncated);
    assert_eq!(message.answers.len(), 20);
    assert!(!message.additionals.is_empty() && message.additionals.len() < 20);
}

#[test]
fn over_tcp_nothing_is_truncated() {
    let zone = zone_of(100);
    let query = Query::new("apps.local", NS).additional(&opt(512, 0, 0, &[]));
    let (outcome, bytes) = ask(&zone, &query.0, Transport::Tcp);
    let Outcome::Reply(got) = outcome else {
        panic!("{outcome:?}")
    };
    let message = Message::from_vec(&bytes).unwrap();
    assert_eq!((got.truncated, message.metadata.truncation), (false, false));
    assert_eq!(
        (message.answers.len(), message.additionals.len()),
        (100, 100)
    );
}

#[test]
fn an_authority_of_foreign_names_is_written_completely() {
    let long = [
        "x".repeat(63),
        "y".repeat(63),
        "z".repeat(63),
        "example.com".to_owned(),
    ]
    .join(".");
    let server = NameServer {
        name: long.parse().unwrap(),
        addresses: Vec::new(),
    };
    let authority = Authority {
        name_servers: vec![server],
        ..authority()
    };
    let mut zone = Zone::new("apps.local".parse().unwrap(), authority).unwrap();
    zone.set_loaded();
    let (got, message, _) = reply(&zone, &Query::new("apps.local", SOA));
    assert!(!got.truncated);
    assert!(
        message.answers[0]
            .data
            .to_string()
            .starts_with(&format!("{long}."))
    );
    // After the longest name the SOA no longer fits: TC is set, and no part of the record
    // set is sent.
    let (got, message, bytes) = reply(&zone, &Query::new(&longest(), A));
    assert!(got.truncated && bytes.len() <= 512);
    assert!(message.authorities.is_empty());
}
