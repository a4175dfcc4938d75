//! Tests of how busy an endpoint is, and of when it owes an answer.

use super::*;

fn endpoint() -> Arc<Endpoint> {
    Endpoint::new("a", "127.0.0.1:1".parse().unwrap())
}

fn queue() -> Queue {
    Queue::new(None, 1000)
}

#[test]
fn load_is_our_current_one_plus_that_of_others_as_estimated() {
    let (endpoint, queue) = (endpoint(), queue());
    assert_eq!(endpoint.load(), 0);
    let first = endpoint.enter(&queue, Duration::ZERO).unwrap();
    endpoint.report(Report {
        capacity: 2,
        in_flight: 4,
        queued: 1,
    });
    assert_eq!(endpoint.load(), 2500);
    let second = endpoint.enter(&queue, Duration::ZERO).unwrap();
    assert_eq!(endpoint.load(), 3000);
    drop((first, second));
    assert_eq!(endpoint.load(), 2000, "four requests of other proxies");
    endpoint.report(Report {
        capacity: 0,
        in_flight: 0,
        queued: 0,
    });
    // One report does not erase the earlier ones. A capacity of 0 counts as 1.
    assert!((3_000..=4_000).contains(&endpoint.load()));
}

#[test]
fn a_new_endpoint_and_one_that_is_back_warm_up() {
    let window = Duration::from_secs(10);
    let endpoint = endpoint();
    let is_cold = |endpoint: &Endpoint| endpoint.warmth(window, clock::now()) < Warmth::FULL;
    assert!(is_cold(&endpoint));
    assert_eq!(endpoint.warmth(Duration::ZERO, clock::now()), Warmth::FULL);
    assert_eq!(endpoint.warmth(window, clock::now() + window), Warmth::FULL);
    endpoint.has_served_before();
    // A pause in its reports, or the first one after the balancer's start, does not make it new.
    for standing in [Standing::Suspect, Standing::Unknown] {
        endpoint.set_standing(standing);
        endpoint.set_standing(Standing::Serving);
        assert!(!is_cold(&endpoint), "{standing:?}");
    }
    for standing in [Standing::Unready, Standing::Draining] {
        endpoint.has_served_before();
        endpoint.set_standing(standing);
        endpoint.set_standing(Standing::Serving);
        assert!(is_cold(&endpoint), "{standing:?}");
    }
}

#[test]
fn a_closed_endpoint_takes_no_request_and_counts_correctly() {
    let (endpoint, queue) = (endpoint(), queue());
    let entered = endpoint.enter(&queue, Duration::ZERO).unwrap();
    endpoint.close();
    assert!(endpoint.enter(&queue, Duration::ZERO).is_none());
    assert_eq!(endpoint.in_flight(), 1);
    drop(entered);
    assert_eq!(endpoint.in_flight(), 0);
}

#[test]
fn threads_together_never_have_more_than_the_limit_in_flight() {
    const LIMIT: u32 = 3;
    let limit = std::num::NonZeroU32::new(LIMIT);
    let (endpoint, queue) = (endpoint(), Queue::new(limit, 1000));
    let full = AtomicU32::new(0);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..20_000 {
                    let entered = endpoint.enter(&queue, Duration::ZERO);
                    let in_flight = endpoint.in_flight();
                    assert!(in_flight <= LIMIT, "{in_flight}");
                    full.fetch_add(u32::from(entered.is_none()), Ordering::Relaxed);
                }
            });
        }
    });
    assert_eq!(endpoint.in_flight(), 0);
    let entered: Vec<_> = (0..LIMIT)
        .map(|_| endpoint.enter(&queue, Duration::ZERO).unwrap())
        .collect();
    assert!(endpoint.enter(&queue, Duration::ZERO).is_none());
    drop(entered);
}

#[test]
fn it_is_silent_since_its_last_byte_or_since_a_request_began_to_wait() {
    let (endpoint, queue) = (endpoint(), queue());
    let second = Duration::from_secs(1);
    // Taken from the process's clock, like the times that are passed in.
    let start = Instant::now().checked_sub(clock::now()).unwrap();
    let silent = |at: u32| {
        let silent = endpoint.silent_for(start + second * at + second / 2);
        silent.map(|silent| silent.as_secs())
    };
    assert_eq!(silent(9), None);
    let first = endpoint.enter(&queue, second * 10);
    assert_eq!(silent(14), Some(4));
    let another = endpoint.enter(&queue, second * 15);
    assert_eq!(silent(19), Some(9), "the first request still waits");
    endpoint.hear(second * 20);
    assert_eq!(silent(21), Some(1));
    drop(first);
    assert_eq!(silent(22), Some(2));
    drop(another);
    assert_eq!(silent(23), None);
    let tunnel = endpoint.enter(&queue, second * 30).unwrap();
    tunnel.upgrade();
    assert_eq!(silent(50), None, "an upgraded connection owes nothing");
    let asked = endpoint.enter(&queue, second * 60);
    assert_eq!(silent(61), Some(1));
    endpoint.hear(second * 70);
    assert_eq!(silent(71), Some(1), "a byte of the tunnel shows life");
    drop(tunnel);
    assert_eq!(silent(72), Some(2));
    drop(asked);
    assert_eq!(silent(73), None);
    assert_eq!(endpoint.upgraded.load(Ordering::Relaxed), 0);
    let upload = endpoint.enter(&queue, second * 80).unwrap();
    upload.hold_up(true, second * 81);
    assert_eq!(silent(90), None, "its client must act");
    let other = endpoint.enter(&queue, second * 95);
    assert_eq!(
        silent(99),
        None,
        "that client also delays the other request"
    );
    upload.hold_up(false, second * 100);
    assert_eq!(silent(102), Some(2));
    upload.hold_up(true, second * 103);
    drop(upload);
    assert!(silent(104).is_some());
    drop(other);
    assert_eq!(silent(104), None);
    assert_eq!(endpoint.held_up.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn idle_resolves_with_the_last_request() {
    let (endpoint, queue) = (endpoint(), queue());
    let entered = endpoint.enter(&queue, Duration::ZERO).unwrap();
    endpoint.close();
    let waiting = {
        let endpoint = Arc::clone(&endpoint);
        tokio::spawn(async move { endpoint.idle().await })
    };
    tokio::task::yield_now().await;
    assert!(!waiting.is_finished());
    drop(entered);
    waiting.await.unwrap();
    endpoint.retire();
    endpoint.retired().await;
}

#[tokio::test]
async fn idle_does_not_wait_for_upgraded_connections() {
    let (endpoint, queue) = (endpoint(), queue());
    let enter = || endpoint.enter(&queue, Duration::ZERO).unwrap();
    let (first, second, request) = (enter(), enter(), enter());
    first.upgrade();
    endpoint.close();
    let mut idle = std::pin::pin!(endpoint.idle());
    let mut look = || {
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        idle.as_mut().poll(&mut context).is_ready()
    };
    assert!(!look());
    second.upgrade();
    assert!(!look(), "the request is not answered");
    drop(first);
    assert!(!look(), "the end of a tunnel is not an answer");
    drop(request);
    assert!(look());
    assert_eq!(endpoint.in_flight(), 1);
}
