//! One test for each edge case. Each pod has two workers, and each worker serves five requests at
//! once, so a pod carries seven requests at a time at 70 %.

use std::time::Duration;

use scaledapp_scale::{
    Balancer, BalancerReport, CpuRange, Found, Observation, Pod, PodReport, PodState, Range,
    Reason, Resize, Scaler, Schedule, Settings,
};

use crate::app::{App, moment};

fn settings(min: u32, max: u32) -> Settings {
    Settings {
        pods: Range::new(min, max),
        workers: Range::new(2, 2),
        concurrency: Some(5),
        ..Settings::default()
    }
}

fn most(pods: &[u32]) -> u32 {
    pods.iter().copied().max().unwrap_or(0)
}

fn least(pods: &[u32]) -> u32 {
    pods.iter().copied().min().unwrap_or(0)
}

#[test]
fn a_jump_is_answered_within_two_seconds() {
    let mut app = App::new(&settings(1, 40), 2);
    app.run(300, |_| 10.0);
    let pods = app.run(2, |_| 50.0);
    assert!(pods[1] >= 6, "{pods:?}");
    app.run(60, |_| 50.0);
    assert!(app.queue < 1.0, "{}", app.queue);
}

/// One second of an app with room for ten requests in each pod, whose clients wait for each answer
/// before they send again: what it serves is what arrives.
fn waiting_clients(second: u64, clients: f64, pods: u32) -> Observation {
    let at_work = clients.min(f64::from(pods) * 10.0);
    Observation {
        balancers: vec![Balancer {
            name: "balancer-0".to_owned(),
            report: Some(BalancerReport {
                in_flight: at_work as u32,
                queued: (clients - at_work) as u32,
                connected: 0,
                arrivals: (at_work * 10.0) as u64,
            }),
        }],
        pods: (0..pods)
            .map(|pod| Pod {
                name: format!("pod-{pod}"),
                state: PodState::Ready,
                age: Duration::from_secs(second + 60),
                resize: Resize::Settled,
                cpu_limit: None,
                report: Some(PodReport {
                    workers: 2,
                    busy: 2,
                    in_flight: (at_work / f64::from(pods)) as u32,
                    answers: (at_work * 10.0 / f64::from(pods)) as u64,
                    answer_time: Duration::from_secs_f64(at_work / f64::from(pods)),
                    boot: Some(Duration::from_secs(1)),
                    ..PodReport::default()
                }),
            })
            .collect(),
        refused_above: None,
    }
}

#[test]
fn clients_that_wait_for_each_answer_get_all_pods_within_four_seconds() {
    let found = Found {
        pods: 1,
        workers: 2,
        ..Found::default()
    };
    let mut scaler = Scaler::new(settings(1, 20), found, moment(0));
    for second in 1..=60 {
        let decision = scaler.decide(moment(second), &waiting_clients(second, 6.0, 1));
        assert_eq!(decision.pods, 1);
    }
    let pods: Vec<_> = (61..=66)
        .map(|second| {
            let seen = waiting_clients(second, 60.0, 1);
            scaler.decide(moment(second), &seen)
        })
        .collect();
    let text: Vec<_> = pods.iter().map(|one| one.reason.to_string()).collect();
    let pods: Vec<_> = pods.iter().map(|one| one.pods).collect();
    assert!(
        pods[1] > 1 && pods[3] >= 6 && pods[5] <= 8,
        "{pods:?} {text:?}"
    );
}

#[test]
fn less_is_taken_after_the_window_and_by_half_at_most() {
    let mut app = App::new(&settings(1, 40), 8);
    app.run(300, |_| 50.0);
    assert_eq!(app.last.pods, 8);
    let pods = app.run(110, |_| 3.0);
    assert_eq!(least(&pods), 8);
    let pods = app.run(120, |_| 3.0);
    assert_eq!(*pods.last().unwrap(), 1);
    for two in pods.windows(2) {
        assert!(two[1] * 2 >= two[0], "{pods:?}");
    }
    assert!(
        matches!(app.last.reason, Reason::Less { .. }),
        "{}",
        app.last.reason
    );
}

#[test]
fn without_any_metrics_nothing_changes_for_as_long_as_that_lasts() {
    let mut app = App::new(&settings(1, 40), 4);
    app.run(300, |_| 25.0);
    app.balancers_silent = [true; 2];
    for member in &mut app.members {
        member.silent = true;
    }
    for second in 0..3600 {
        let last = app.tick(25.0);
        assert_eq!(last.pods, 4, "{second}: {}", last.reason);
    }
    assert_eq!(app.last.reason, Reason::Unknown);
    app.balancers_silent = [false; 2];
    let pods = app.run(60, |_| 25.0);
    assert!(pods.iter().all(|count| *count == 4), "{pods:?}");
    assert_ne!(app.last.reason, Reason::Unknown);
}

#[test]
fn a_silent_balancer_counts_as_before_and_nothing_is_removed() {
    let mut app = App::new(&settings(1, 40), 4);
    app.run(300, |_| 25.0);
    app.balancers_silent = [true, false];
    let pods = app.run(1200, |_| 25.0);
    assert!(pods.iter().all(|count| *count == 4), "{pods:?}");
    // The load falls as well, but half of it is unseen.
    let pods = app.run(1200, |_| 2.0);
    assert_eq!(least(&pods), 4);
    assert_eq!(app.last.reason, Reason::Incomplete);
}

#[test]
fn a_silent_pod_counts_as_before() {
    let mut app = App::new(&settings(1, 40), 4);
    app.run(300, |_| 25.0);
    app.members[1].silent = true;
    let pods = app.run(600, |_| 25.0);
    assert!(pods.iter().all(|count| *count == 4), "{pods:?}");
}

#[test]
fn a_restart_in_the_middle_of_a_jump_removes_nothing_and_goes_on() {
    let settings = settings(1, 40);
    let mut app = App::new(&settings, 2);
    app.run(300, |_| 10.0);
    app.run(3, |_| 60.0);
    let before = app.last.pods;
    app.restart(&settings);
    let pods = app.run(100, |_| 60.0);
    assert!(
        least(&pods) >= before && most(&pods) <= 24,
        "{before} {pods:?}"
    );
    assert!(*pods.last().unwrap() >= 9, "{pods:?}");
    assert!(app.queue < 1.0);
}

#[test]
fn a_quota_is_remembered_and_reported_and_rarely_tried_again() {
    let mut app = App::new(&settings(1, 40), 3);
    app.refused_above = Some(3);
    let pods = app.run(900, |_| 50.0);
    let attempts = pods.windows(2).filter(|two| two[1] > two[0]).count();
    assert!((1..=3).contains(&attempts), "{attempts}: {pods:?}");
    let text = app.last.reason.to_string();
    assert!(
        text.contains("refuses more than 3") && text.contains("quota"),
        "{text}"
    );
    app.refused_above = None;
    app.run(1800, |_| 50.0);
    assert!(app.last.pods >= 8, "{:?}", app.last);
}

#[test]
fn pods_without_a_node_are_no_capacity_and_no_more_are_asked_for() {
    let mut app = App::new(&settings(1, 40), 3);
    app.nodes_for = 4;
    app.run(300, |_| 20.0);
    let pods = app.run(300, |_| 60.0);
    // The first request for more may go beyond the nodes; later ones do not add to it.
    let first = pods[5];
    assert_eq!(
        most(&pods),
        most(&[first, pods[1], pods[2], pods[3]]),
        "{pods:?}"
    );
    assert!(
        matches!(app.last.reason, Reason::Unschedulable { .. }),
        "{}",
        app.last.reason
    );
}

#[test]
fn a_crash_loop_is_not_answered_with_more_pods() {
    let mut app = App::new(&settings(1, 40), 4);
    app.run(300, |_| 25.0);
    for member in &mut app.members[..3] {
        member.state = Some(PodState::CrashLooping);
    }
    let pods = app.run(600, |_| 25.0);
    assert_eq!(most(&pods), 4, "{pods:?}");
    // One bad pod of many does not stop growth, and is not made up for.
    let mut app = App::new(&settings(1, 40), 8);
    app.run(300, |_| 50.0);
    app.members[0].state = Some(PodState::CrashLooping);
    assert_eq!(most(&app.run(300, |_| 50.0)), 8);
    let pods = app.run(300, |_| 100.0);
    assert!((14..=20).contains(&most(&pods)), "{pods:?}");
}

#[test]
fn pods_of_a_lost_node_are_replaced_unless_all_pods_are_lost() {
    let mut app = App::new(&settings(1, 40), 8);
    app.run(300, |_| 50.0);
    for member in &mut app.members[..2] {
        member.state = Some(PodState::NotReady);
    }
    app.run(60, |_| 50.0);
    assert!(app.ready() >= 8.0 && app.last.pods <= 12, "{:?}", app.last);
    let mut app = App::new(&settings(1, 40), 8);
    app.run(300, |_| 50.0);
    for member in &mut app.members {
        member.state = Some(PodState::NotReady);
    }
    // A database is gone: more pods would not be ready either.
    let pods = app.run(600, |_| 50.0);
    assert!(most(&pods[10..]) <= 20, "{pods:?}");
}

#[test]
fn an_app_that_boots_for_a_minute_is_scaled_ahead_of_its_growth() {
    let grow = |boot: u64| {
        let mut app = App::new(&settings(1, 60), 9);
        app.boot = boot;
        app.run(300, |_| 60.0);
        app.run(70, |second| 60.0 + second as f64);
        app.last.pods
    };
    let (quick, slow) = (grow(2), grow(60));
    assert!(slow > quick + 1, "{slow} {quick}");
}

#[test]
fn load_at_exactly_the_threshold_does_not_flap() {
    for pods in [1_u32, 2, 5] {
        let mut app = App::new(&settings(1, 40), pods);
        let seen = app.run(1800, |_| 7.0 * f64::from(pods));
        let changes = seen.windows(2).filter(|two| two[0] != two[1]).count();
        assert!(changes <= 1, "{seen:?}");
    }
}

#[test]
fn an_oscillation_with_the_windows_period_does_not_flap() {
    for period in [110_u64, 120, 130, 240, 250, 300] {
        let mut app = App::new(&settings(1, 40), 3);
        let seen = app.run(7200, |second| {
            if second % period < period / 2 {
                10.0
            } else {
                50.0
            }
        });
        let changes = seen[3600..]
            .windows(2)
            .filter(|two| two[0] != two[1])
            .count();
        assert_eq!(changes, 0, "{period}");
    }
}

#[test]
fn pods_that_are_leaving_are_neither_capacity_nor_replaced() {
    let mut app = App::new(&settings(1, 40), 8);
    app.run(300, |_| 50.0);
    app.members[7].state = Some(PodState::Leaving);
    let pods = app.run(100, |_| 50.0);
    assert_eq!(most(&pods), 8, "{pods:?}");
}

#[test]
fn min_equal_to_max_is_a_fixed_number() {
    let mut app = App::new(&settings(3, 3), 3);
    for demand in [0.0, 20.0, 500.0, 0.0] {
        let pods = app.run(300, |_| demand);
        assert!(pods.iter().all(|count| *count == 3), "{pods:?}");
    }
    let pods = app.run(100, |_| 500.0);
    assert_eq!(most(&pods), 3);
    assert!(
        app.last.reason.to_string().contains("pods.max is 3"),
        "{}",
        app.last.reason
    );
}

#[test]
fn zero_is_reached_only_after_zero_after_and_left_at_once() {
    let settings = Settings {
        zero_after: Duration::from_mins(10),
        ..settings(0, 40)
    };
    let mut app = App::new(&settings, 2);
    app.run(60, |_| 5.0);
    app.connected = 1;
    assert_eq!(
        least(&app.run(1800, |_| 0.0)),
        1,
        "a connection lives on the last pod"
    );
    app.connected = 0;
    assert_eq!(least(&app.run(590, |_| 0.0)), 1);
    assert_eq!(*app.run(60, |_| 0.0).last().unwrap(), 0);
    assert!(matches!(app.last.reason, Reason::Zero { .. }));
    let pods = app.run(1200, |_| 0.0);
    assert_eq!(most(&pods), 0);
    // The first request is answered with a pod in the same second.
    assert!(app.tick(1.0).pods >= 1);
    assert!(app.last.reason.to_string().ends_with('.'));
}

#[test]
fn a_silent_balancer_never_leads_to_zero() {
    let settings = Settings {
        zero_after: Duration::from_secs(30),
        ..settings(0, 40)
    };
    let mut app = App::new(&settings, 1);
    app.run(10, |_| 5.0);
    app.balancers_silent = [false, true];
    assert_eq!(least(&app.run(1200, |_| 0.0)), 1);
}

#[test]
fn thousands_of_requests_held_without_a_pod_are_worked_off_within_the_maximum() {
    let mut app = App::new(&settings(0, 10), 0);
    app.run(60, |_| 0.0);
    assert_eq!(app.last.pods, 0);
    app.queue = 5000.0;
    let pods = app.run(60, |_| 5.0);
    assert!(most(&pods) <= 10 && pods[1] >= 1, "{pods:?}");
    assert!(app.queue < 1.0, "{}", app.queue);
    // Held requests whose clients have gone leave nothing behind.
    let mut app = App::new(&settings(0, 10), 0);
    app.run(60, |_| 0.0);
    app.queue = 100.0;
    app.tick(0.0);
    app.queue = 0.0;
    app.run(1200, |_| 0.0);
    assert_eq!(app.last.pods, 0);
}

#[test]
fn a_fractional_cpu_limit_is_what_a_pod_can_do() {
    // Each request takes a tenth of a core while it is served.
    for (limit, expected) in [(0.5, 6), (1.5, 2)] {
        let settings = Settings {
            concurrency: Some(50),
            ..settings(1, 40)
        };
        let mut app = App::new(&settings, expected);
        app.cpu_each = 0.1;
        for member in &mut app.members {
            member.cpu = limit;
        }
        let needed = 20.0 * 0.1 / 0.7 / limit;
        for _ in 0..400 {
            app.tick(20.0);
            for member in &mut app.members {
                member.cpu = limit;
            }
        }
        assert_eq!(app.last.pods, f64::ceil(needed) as u32, "{limit}");
    }
}

fn resizable() -> Settings {
    Settings {
        workers: Range::new(1, 4),
        cpu: Some(CpuRange::new(1.0, 4.0)),
        ..settings(1, 20)
    }
}

#[test]
fn workers_come_first_then_cpu_then_pods() {
    let mut app = App::new(&resizable(), 1);
    app.run(200, |_| 3.0);
    assert_eq!(
        (app.last.pods, app.last.workers, app.last.cpu),
        (1, 1, Some(1.0))
    );
    app.run(100, |_| 6.5);
    assert_eq!(
        (app.last.pods, app.last.workers, app.last.cpu),
        (1, 2, Some(2.0))
    );
    app.run(100, |_| 13.0);
    assert_eq!(
        (app.last.pods, app.last.workers, app.last.cpu),
        (1, 4, Some(4.0))
    );
    app.run(100, |_| 27.0);
    assert!((2..=3).contains(&app.last.pods), "{:?}", app.last);
    // Back down when idle.
    app.run(1500, |_| 2.0);
    assert_eq!(
        (app.last.pods, app.last.workers, app.last.cpu),
        (1, 1, Some(1.0))
    );
}

#[test]
fn without_room_on_the_node_pods_follow_instead_of_cpu() {
    for resize in [Resize::Deferred, Resize::Infeasible, Resize::Settled] {
        let mut app = App::new(&resizable(), 1);
        app.run(60, |_| 3.0);
        app.grants = false;
        app.resize = resize;
        app.run(120, |_| 13.0);
        assert!(app.last.pods >= 4, "{resize:?} {:?}", app.last);
        assert_eq!(app.last.cpu, Some(1.0));
    }
}

#[test]
fn a_schedule_holds_its_minimum_from_shortly_before_it_begins() {
    // The clock of the tests begins at 06:16:40 UTC on a Tuesday.
    let schedule = Schedule::new("30 6 * * *", None, 6, Some(Duration::from_mins(10))).unwrap();
    let settings = Settings {
        schedules: vec![schedule],
        ..settings(1, 40)
    };
    let mut app = App::new(&settings, 1);
    app.boot = 60;
    let pods = app.run(1200, |_| 3.0);
    let first = pods.iter().position(|count| *count == 6).unwrap();
    assert!((735..=745).contains(&first), "{first}");
    let pods = app.run(1200, |_| 3.0);
    assert_eq!(*pods.last().unwrap(), 1);
    assert!(pods[..300].iter().all(|count| *count == 6), "{pods:?}");
}

#[test]
fn a_new_maximum_holds_at_once() {
    let mut app = App::new(&settings(1, 40), 8);
    app.run(200, |_| 50.0);
    app.scaler.set(settings(1, 4));
    assert_eq!(app.tick(50.0).pods, 4);
    app.scaler.set(settings(6, 9));
    assert!(app.tick(1.0).pods >= 6);
}

#[test]
fn the_reason_and_its_time_stay_while_nothing_changes() {
    let mut app = App::new(&settings(1, 40), 4);
    app.run(300, |_| 25.0);
    let before = app.last.clone();
    for second in 0..600 {
        let now = app.tick(25.0 + f64::from(second % 3) * 0.2);
        assert_eq!(
            (now.reason, now.since),
            (before.reason.clone(), before.since)
        );
    }
}

#[test]
fn concurrency_is_learnt_and_bounded() {
    let settings = Settings {
        concurrency: None,
        ..settings(1, 10)
    };
    let mut app = App::new(&settings, 1);
    app.places = 10.0;
    app.run(1200, |second| 5.0 + (second % 100) as f64 / 5.0);
    assert!(
        (1.0..=1000.0).contains(&app.last.concurrency),
        "{:?}",
        app.last
    );
}
