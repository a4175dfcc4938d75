//! A balancer and two supervisors that all use the cookie: the client reaches the same worker again,
//! however much the proxies know of each other.

use scaledapp_tests::balancer::{self, Balancer};
use scaledapp_tests::fixtures;
use scaledapp_tests::http::{self, Request, Response};
use scaledapp_tests::sidecar::{Launch, Sidecar};
use serde_json::Value;

use crate::{SOON, has};

fn pod(options: &[&str]) -> Sidecar {
    let launch = Launch::of(|port| fixtures::node("app.js", port)).unwrap();
    let launch = launch.with(&["--workers", "2", "--sticky", "cookie"]);
    launch.with(options).ready(2).unwrap()
}

fn in_front_of(pods: &[Sidecar]) -> Balancer {
    let addresses: Vec<_> = pods.iter().map(Sidecar::address).collect();
    let launch = balancer::Launch::to(&addresses).unwrap();
    launch.with(&["--sticky", "cookie"]).ready().unwrap()
}

/// The process that has answered, and the cookies that were set.
fn get(balancer: &Balancer, path: &str, cookie: &str) -> (Value, Vec<String>) {
    let fields = [("Cookie", cookie)];
    let request = Request::get(path).with(if cookie.is_empty() { &[] } else { &fields });
    let answer: Response = http::one_shot(balancer.address(), SOON, &request).unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text());
    let cookies = answer
        .fields
        .iter()
        .filter(|(name, _)| name == "set-cookie");
    let pair = |value: &String| value.split(';').next().unwrap_or_default().to_owned();
    let cookies = cookies.map(|(_, value)| pair(value)).collect();
    (answer.json()["pid"].clone(), cookies)
}

fn stays(options: &[&str]) {
    if !has("node") {
        return;
    }
    let pods = [pod(options), pod(options)];
    let balancer = in_front_of(&pods);
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..12 {
        let (pid, cookies) = get(&balancer, "/", "");
        let [cookie] = cookies.as_slice() else {
            panic!("{cookies:?}");
        };
        for _ in 0..4 {
            assert_eq!(
                get(&balancer, "/", cookie),
                (pid.clone(), Vec::new()),
                "{cookie}"
            );
        }
        seen.insert(pid.to_string());
    }
    assert!(seen.len() >= 3, "{seen:?}");
}

#[test]
fn a_client_stays_with_its_worker_although_the_supervisor_knows_no_balancer() {
    stays(&[]);
}

#[test]
fn a_client_stays_with_its_worker_behind_a_balancer_without_a_token() {
    stays(&["--trust", "behind"]);
}

/// A worker that is only busy does not lose its clients.
#[test]
fn a_request_that_overflows_to_another_worker_does_not_move_the_client() {
    if !has("node") {
        return;
    }
    let pods = [pod(&["--max-in-flight", "1"])];
    let balancer = in_front_of(&pods);
    let (pid, cookies) = get(&balancer, "/", "");
    let cookie = &cookies[0];
    std::thread::scope(|scope| {
        let slow: Vec<_> = (0..2)
            .map(|_| scope.spawn(|| get(&balancer, "/sleep?ms=1500", cookie)))
            .collect();
        for request in slow {
            assert_eq!(request.join().unwrap().1, [""; 0]);
        }
    });
    assert_eq!(get(&balancer, "/", cookie), (pid, Vec::new()));
}
