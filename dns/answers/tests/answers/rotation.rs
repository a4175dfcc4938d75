//! The choice and order of addresses in whole answers.

use std::collections::BTreeMap;
use std::net::IpAddr;

use hickory_proto::op::Message;
use scaledapp_answers::{Transport, Zone, answer};

use crate::message::{A, Query, addresses_of, authority, generator, records};

fn zone_of(count: usize) -> Zone {
    let mut zone = Zone::new("apps.local".parse().unwrap(), authority()).unwrap();
    let texts: Vec<_> = (1..=count).map(|n| format!("10.1.0.{n}")).collect();
    let texts: Vec<_> = texts.iter().map(String::as_str).collect();
    zone.insert("hello.apps.local".parse().unwrap(), records(&texts))
        .unwrap();
    zone.set_loaded();
    zone
}

fn answers(count: usize, times: usize) -> impl Iterator<Item = Vec<IpAddr>> {
    let zone = zone_of(count);
    let query = Query::new("hello.apps.local", A);
    let mut random = generator(11);
    let mut out = Vec::new();
    (0..times).map(move |_| {
        answer(&query.0, &zone, Transport::Udp, &mut random, &mut out);
        addresses_of(&Message::from_vec(&out).unwrap().answers)
    })
}

/// Pearson's statistic must stay below its mean plus five standard deviations.
fn assert_uniform<K: Ord>(counts: &BTreeMap<K, u32>, cells: usize) {
    let total: u32 = counts.values().sum();
    let expected = f64::from(total) / cells as f64;
    let seen: f64 = counts
        .values()
        .map(|&n| (f64::from(n) - expected).powi(2) / expected)
        .sum();
    let statistic = seen + (cells - counts.len()) as f64 * expected;
    let degrees = cells as f64 - 1.0;
    let bound = degrees + 5.0 * (2.0 * degrees).sqrt();
    assert!(statistic < bound, "{statistic} over {bound}");
}

#[test]
fn an_answer_has_up_to_eight_different_addresses() {
    for (count, given) in [(1, 1), (8, 8), (9, 8), (100, 8)] {
        for mut answer in answers(count, 50) {
            answer.sort_unstable();
            answer.dedup();
            assert_eq!(answer.len(), given);
        }
    }
}

#[test]
fn each_order_of_three_is_equally_frequent() {
    let mut counts = BTreeMap::new();
    for answer in answers(3, 12_000) {
        *counts.entry(answer).or_insert(0) += 1;
    }
    assert_uniform(&counts, 6);
}

#[test]
fn each_of_nine_is_left_out_equally_often() {
    let mut counts = BTreeMap::new();
    for mut answer in answers(9, 18_000) {
        answer.sort_unstable();
        *counts.entry(answer).or_insert(0) += 1;
    }
    assert_uniform(&counts, 9);
}

#[test]
fn each_of_fifteen_comes_first_equally_often() {
    let mut counts = BTreeMap::new();
    for answer in answers(15, 30_000) {
        *counts.entry(answer[0]).or_insert(0) += 1;
    }
    assert_uniform(&counts, 15);
}
