//! The answers that clients of the recursors get.

use std::collections::BTreeSet;
use std::net::IpAddr;

use scaledapp_tests::dns::Type;

use crate::lab::{DNS, Lab, Way, ask, lab};

const NOERROR: u8 = 0;
const NXDOMAIN: u8 = 3;

/// Name, type, expected code, and expected number of addresses.
const QUESTIONS: [(&str, Type, u8, usize); 12] = [
    ("hello.apps.example", Type::A, NOERROR, 3),
    ("hello.apps.example", Type::Aaaa, NOERROR, 0),
    ("six.apps.example", Type::A, NOERROR, 0),
    ("six.apps.example", Type::Aaaa, NOERROR, 1),
    // This name only has names below it (RFC 8020).
    ("team.apps.example", Type::A, NOERROR, 0),
    ("shop.team.apps.example", Type::A, NOERROR, 0),
    ("web.shop.team.apps.example", Type::A, NOERROR, 1),
    ("never.apps.example", Type::A, NOERROR, 0),
    ("nobody.apps.example", Type::A, NXDOMAIN, 0),
    ("x.hello.apps.example", Type::A, NXDOMAIN, 0),
    ("hello.apps.example", Type::Https, NOERROR, 0),
    ("apps.example", Type::Soa, NOERROR, 0),
];

fn assert_all_is_found(lab: &Lab) {
    // There are two rounds, because answers that a recursor has cached in the first round must not
    // break the second.
    for round in 0..2 {
        for (recursor, address) in lab.recursors {
            for (name, question, code, count) in QUESTIONS {
                let answer = ask(address, name, question);
                let got = (answer.code, answer.addresses.len());
                assert_eq!(
                    got,
                    (code, count),
                    "{recursor}: {name} {question:?}, {round}"
                );
            }
        }
    }
}

fn assert_server_is_at(lab: &Lab, name: &str, ip: &str) {
    for (recursor, address) in lab.recursors {
        let answer = ask(address, name, Type::A);
        let ips: Vec<IpAddr> = answer.addresses.iter().map(|(ip, _)| *ip).collect();
        assert_eq!(ips, [ip.parse::<IpAddr>().unwrap()], "{recursor}: {name}");
    }
}

#[test]
fn recursors_follow_a_delegation_with_glue() {
    let glue = format!("apps.example. 60 IN NS ns.apps.example.\nns.apps.example. 60 IN A {DNS}");
    let Some(lab) = lab(Way::Delegation, &glue, &[]) else {
        return;
    };
    assert_all_is_found(&lab);
    assert_server_is_at(&lab, "ns.apps.example", DNS);
    // The recursors have now cached the server's own address, and the zone must remain reachable.
    assert_all_is_found(&lab);
}

#[test]
fn recursors_follow_a_delegation_to_servers_outside_the_zone_and_to_several() {
    let elsewhere = "apps.example. 60 IN NS ns.example.";
    if let Some(lab) = lab(Way::Delegation, elsewhere, &["--ns=ns.example"]) {
        assert_all_is_found(&lab);
    }
    let both = format!(
        "apps.example. 60 IN NS ns.example.\napps.example. 60 IN NS ns1.apps.example.\n\
         ns1.apps.example. 60 IN A {DNS}"
    );
    let glue = format!("--ns=ns1.apps.example={DNS},ns.example");
    if let Some(lab) = lab(Way::Delegation, &both, &[&glue]) {
        assert_all_is_found(&lab);
        assert_server_is_at(&lab, "ns1.apps.example", DNS);
    }
}

#[test]
fn recursors_configured_with_the_servers_address_need_no_delegation() {
    for way in [Way::Stub, Way::Forward] {
        let Some(lab) = lab(way, "", &[]) else {
            return;
        };
        assert_all_is_found(&lab);
    }
}

#[test]
fn clients_of_a_recursor_are_spread_over_the_addresses() {
    let glue = format!("apps.example. 60 IN NS ns.apps.example.\nns.apps.example. 60 IN A {DNS}");
    let Some(lab) = lab(Way::Delegation, &glue, &[]) else {
        return;
    };
    for (recursor, address) in lab.recursors {
        let first = (0..60).map(|_| {
            let answer = ask(address, "hello.apps.example", Type::A);
            assert!(answer.addresses.iter().all(|(_, ttl)| ttl.as_secs() <= 60));
            answer.addresses[0].0
        });
        // The probability that one of three addresses is never first is about 1 in 10^10.
        let seen: BTreeSet<IpAddr> = first.collect();
        assert_eq!(seen.len(), 3, "{recursor}: {seen:?}");
    }
}

/// The negative control: without the server's address in the parent zone, nothing is found.
#[test]
fn no_recursor_follows_a_delegation_to_a_name_without_address() {
    let Some(lab) = lab(
        Way::Delegation,
        "apps.example. 60 IN NS ns.apps.example.",
        &[],
    ) else {
        return;
    };
    for (recursor, address) in lab.recursors {
        let answer = ask(address, "hello.apps.example", Type::A);
        assert_eq!((answer.code, answer.addresses.len()), (2, 0), "{recursor}");
    }
}
