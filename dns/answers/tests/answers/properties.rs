//! Properties of every input: no panic, no endless loop, and an answer that another codec can
//! read.

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query as HickoryQuery};
use hickory_proto::rr::{Name, RecordType};
use proptest::prelude::*;
use scaledapp_answers::{Dropped, Outcome, Rcode, Transport};

use crate::message::{ID, Query, ask, zone};

/// Checks the properties that hold for every query.
fn check(query: &[u8], transport: Transport) {
    let (outcome, bytes) = ask(&zone(), query, transport);
    match outcome {
        Outcome::Drop(Dropped::Short) => assert!(query.len() < 12),
        Outcome::Drop(Dropped::Response) => assert!(query[2] & 0x80 != 0),
        Outcome::Reply(reply) => {
            assert_eq!(bytes[..2], query[..2], "the id is the query's");
            assert_eq!(bytes[2] & 0x80, 0x80, "it is a response");
            assert_eq!(
                bytes[2] & 0x79,
                query[2] & 0x79,
                "opcode and RD are the query's"
            );
            assert_eq!(u16::from(bytes[3] & 0x0f), reply.rcode as u16 & 0x0f);
            if transport == Transport::Udp {
                assert!(bytes.len() <= 1232);
            }
            if reply.rcode != Rcode::NotImp {
                // Hickory refuses opcodes that it does not support.
                Message::from_vec(&bytes).unwrap();
            }
        }
    }
}

fn transport() -> impl Strategy<Value = Transport> {
    prop_oneof![Just(Transport::Udp), Just(Transport::Tcp)]
}

/// Names that hickory also accepts as text: no hyphen at either end of a label.
fn name() -> impl Strategy<Value = String> {
    let below = prop::collection::vec("[a-zA-Z0-9_]([a-zA-Z0-9_-]{0,61}[a-zA-Z0-9_])?", 0..3);
    let above = prop_oneof![
        Just("apps.local."),
        Just("hello.apps.LOCAL."),
        Just("team.Apps.local."),
        Just("example.com."),
    ];
    (below, above).prop_map(|(mut labels, above)| {
        labels.push(above.to_owned());
        labels.join(".")
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn any_bytes_are_dropped_or_answered_readably(
        bytes in prop::collection::vec(any::<u8>(), 0..80),
        transport in transport(),
    ) {
        check(&bytes, transport);
    }

    #[test]
    fn any_bytes_after_a_query_header_are_answered_readably(
        counts in prop::array::uniform4(0_u8..3),
        rest in prop::collection::vec(prop_oneof![Just(0_u8), Just(0xc0), 0_u8..64, any::<u8>()], 0..120),
        transport in transport(),
    ) {
        let [questions, answers, authorities, additionals] = counts;
        let mut bytes = vec![1, 2, 1, 0, 0, questions, 0, answers, 0, authorities, 0, additionals];
        bytes.extend(rest);
        check(&bytes, transport);
    }

    #[test]
    fn a_good_query_with_some_bytes_changed_is_answered_readably(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        cut in any::<prop::sample::Index>(),
        transport in transport(),
    ) {
        let mut bytes = Query::new("web.shop.team.apps.local", 255).opt(1232).0;
        for (index, value) in changes {
            let at = index.index(bytes.len());
            bytes[at] = value;
        }
        check(&bytes, transport);
        bytes.truncate(cut.index(bytes.len()));
        check(&bytes, transport);
    }

    #[test]
    fn every_query_that_hickory_encodes_is_understood(
        name in name(),
        kind in prop_oneof![Just(1_u16), Just(2), Just(6), Just(28), Just(255), 3_u16..300],
        payload in prop::option::of(any::<u16>()),
    ) {
        prop_assume!(name.len() <= 254);
        let mut message = Message::new(ID, MessageType::Query, OpCode::Query);
        let name = Name::from_ascii(&name).unwrap();
        message.add_query(HickoryQuery::query(name, RecordType::from(kind)));
        if let Some(payload) = payload {
            let mut edns = Edns::new();
            edns.set_max_payload(payload);
            message.set_edns(edns);
        }
        let query = message.to_vec().unwrap();
        let (outcome, bytes) = ask(&zone(), &query, Transport::Udp);
        let Outcome::Reply(reply) = outcome else { panic!("{outcome:?}") };
        prop_assert_ne!(reply.rcode, Rcode::FormErr);
        let answer = Message::from_vec(&bytes).unwrap();
        prop_assert_eq!(&answer.queries, &message.queries);
        prop_assert_eq!(answer.metadata.id, ID);
        prop_assert_eq!(answer.edns.is_some(), payload.is_some());
        prop_assert!(answer.answers.iter().all(|record| record.name == message.queries[0].name));
        let authoritative = reply.rcode != Rcode::Refused;
        prop_assert_eq!(answer.metadata.authoritative, authoritative);
        let negative = authoritative && answer.answers.is_empty();
        prop_assert_eq!(answer.authorities.len(), usize::from(negative));
    }
}
