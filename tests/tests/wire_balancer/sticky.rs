//! Clients that come back to the same server: by a cookie, by a field, by their address.

use scaledapp_tests::balancer::{Balancer, Launch};
use scaledapp_tests::http::{self, Request};
use scaledapp_tests::upstream::Upstream;

use crate::SOON;

fn three() -> [Upstream; 3] {
    ["a", "b", "c"].map(|name| Upstream::answering(name).unwrap())
}

fn in_front_of(upstreams: &[Upstream], sticky: &str) -> Balancer {
    let addresses: Vec<_> = upstreams.iter().map(Upstream::address).collect();
    let launch = Launch::to(&addresses).unwrap();
    launch.with(&["--sticky", sticky]).ready().unwrap()
}

/// Sends a request with these fields. Returns the body, and the cookie that was set.
fn get(balancer: &Balancer, fields: &[(&str, &str)]) -> (String, Option<String>) {
    let request = Request::get("/").with(fields);
    let answer = http::one_shot(balancer.address(), SOON, &request).unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text());
    let cookie = answer.field("set-cookie").map(str::to_owned);
    (answer.text(), cookie)
}

#[test]
fn a_cookie_leads_back_to_its_server_on_every_balancer() {
    let upstreams = three();
    let balancers = [(); 2].map(|()| in_front_of(&upstreams, "cookie:S"));
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..20 {
        let (body, cookie) = get(&balancers[0], &[]);
        let cookie = cookie.unwrap();
        assert!(
            cookie.ends_with("; Path=/; HttpOnly; SameSite=Lax"),
            "{cookie}"
        );
        let pair = cookie.split(';').next().unwrap();
        for balancer in &balancers {
            let all = format!("x=1; {pair}; y=2");
            let (again, cookie) = get(balancer, &[("Cookie", &all)]);
            assert_eq!((again, cookie), (body.clone(), None));
        }
        seen.insert(body);
    }
    assert!(seen.len() > 1, "{seen:?}");
}

#[test]
fn a_cookie_that_names_no_existing_server_is_replaced() {
    let upstreams = three();
    let balancer = in_front_of(&upstreams, "cookie");
    let (body, cookie) = get(&balancer, &[]);
    let pair = cookie.unwrap().split(';').next().unwrap().to_owned();
    for wrong in [
        "SCALEDAPP=",
        "SCALEDAPP=v1.00.1.00",
        "SCALEDAPP=\"x\"",
        "scaledapp=1",
    ] {
        assert!(get(&balancer, &[("Cookie", wrong)]).1.is_some(), "{wrong}");
    }
    // Of several cookies, the first valid one counts.
    let several = format!("SCALEDAPP=old; {pair}");
    assert_eq!(
        get(&balancer, &[("Cookie", &several)]),
        (body.clone(), None)
    );
    let others: Vec<Upstream> = ["a", "b", "c"]
        .into_iter()
        .zip(upstreams)
        .filter_map(|(name, upstream)| (name != body).then_some(upstream))
        .collect();
    let without = in_front_of(&others, "cookie");
    let (other, cookie) = get(&without, &[("Cookie", &pair)]);
    assert_ne!(other, body);
    let moved = cookie.unwrap().split(';').next().unwrap().to_owned();
    assert_ne!(moved, pair);
    assert_eq!(get(&without, &[("Cookie", &moved)]), (other, None));
}

#[test]
fn a_field_or_an_address_decides_alike_on_every_balancer() {
    let upstreams = three();
    let balancers = [(); 2].map(|()| in_front_of(&upstreams, "header:X-User"));
    let mut seen = std::collections::BTreeSet::new();
    for user in 0..20 {
        let user = format!("user-{user}");
        let [first, second] = balancers.each_ref().map(|balancer| {
            let (body, cookie) = get(balancer, &[("X-User", &user)]);
            assert_eq!(cookie, None);
            body
        });
        assert_eq!(first, second, "{user}");
        seen.insert(first);
    }
    assert_eq!(seen.len(), 3);
    let by_address = in_front_of(&upstreams, "address");
    let (first, _) = get(&by_address, &[]);
    for _ in 0..10 {
        assert_eq!(get(&by_address, &[]).0, first);
    }
}
