//! Tests of the leader election.

use std::time::Duration;

use kube::Api;
use scaledapp_operator::lease::{DURATION, Elector, GRACE, Leadership, RENEW_INTERVAL};
use tokio::time::{Instant, advance};

use crate::server::{Failure, Shared, server};

fn replica(client: &kube::Client, name: &str) -> (Elector, Leadership) {
    let api = Api::namespaced(client.clone(), "default");
    Elector::new(api, name.to_owned())
}

fn fail(server: &Shared) {
    let mut state = server.lock().unwrap();
    state.failures.push((None, "", Failure::Code(500)));
}

#[tokio::test(start_paused = true)]
async fn one_leads_and_the_other_takes_over_after_silence() {
    let (client, _server) = server();
    let (mut a, a_leads) = replica(&client, "a");
    let (mut b, b_leads) = replica(&client, "b");
    a.step(Instant::now()).await.unwrap();
    assert!(a_leads.leads());
    let mut silent = Duration::ZERO;
    for _ in 0..5 {
        b.step(Instant::now()).await.unwrap();
        a.step(Instant::now()).await.unwrap();
        assert!(a_leads.leads() && !b_leads.leads());
        advance(RENEW_INTERVAL).await;
    }
    // `a` cannot renew. It stops leading by itself before `b` starts.
    while !b_leads.leads() {
        b.step(Instant::now()).await.unwrap();
        assert!(!(a_leads.leads() && b_leads.leads()), "two lead");
        if silent > GRACE {
            assert!(!a_leads.leads());
        }
        advance(RENEW_INTERVAL).await;
        silent += RENEW_INTERVAL;
        assert!(
            silent <= DURATION + 3 * RENEW_INTERVAL,
            "no replica takes over"
        );
    }
    // `a` can write again: its write is a conflict, and then it follows.
    a.step(Instant::now()).await.unwrap_err();
    a.step(Instant::now()).await.unwrap();
    assert!(!a_leads.leads() && b_leads.leads());
    assert_eq!(a_leads.holder().as_deref(), Some("b"));
}

#[tokio::test(start_paused = true)]
async fn after_a_release_another_replica_leads_at_once() {
    let (client, _server) = server();
    let (mut a, a_leads) = replica(&client, "a");
    let (mut b, mut b_leads) = replica(&client, "b");
    a.step(Instant::now()).await.unwrap();
    b.step(Instant::now()).await.unwrap();
    a.release().await;
    assert!(!a_leads.leads());
    b.step(Instant::now()).await.unwrap();
    assert!(b_leads.leads());
    b_leads.gained().await;
    assert_eq!(b_leads.holder().as_deref(), Some("b"));
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_cannot_renew_stops_writing_and_leads_again_afterwards() {
    let (client, server) = server();
    let (mut a, a_leads) = replica(&client, "a");
    a.step(Instant::now()).await.unwrap();
    fail(&server);
    let begun = Instant::now();
    while a_leads.leads() {
        a.step(Instant::now()).await.unwrap_err();
        advance(RENEW_INTERVAL).await;
        assert!(begun.elapsed() <= GRACE + RENEW_INTERVAL);
    }
    server.lock().unwrap().failures.clear();
    a.step(Instant::now()).await.unwrap();
    assert!(a_leads.leads());
}
