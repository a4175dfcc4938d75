//! What holds for every load: bounds, monotonicity, no change without a cause, no flapping.

use std::time::Duration;

use jiff::Timestamp;
use proptest::prelude::*;
use scaledapp_scale::{
    Balancer, BalancerReport, CpuRange, Decision, Found, Moment, Observation, Pod, PodReport,
    PodState, Range, Resize, Scaler, Settings,
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

fn any_cores() -> impl Strategy<Value = f64> {
    prop_oneof![
        0.0..8.0_f64,
        Just(f64::NAN),
        Just(f64::INFINITY),
        Just(-1.0),
        Just(f64::MAX),
    ]
}

fn any_pod() -> impl Strategy<Value = Pod> {
    let state = prop_oneof![
        4 => Just(PodState::Ready),
        1 => Just(PodState::Starting),
        1 => Just(PodState::NotReady),
        1 => Just(PodState::Unschedulable),
        1 => Just(PodState::CrashLooping),
        1 => Just(PodState::Leaving),
    ];
    let resize = prop_oneof![
        Just(Resize::Settled),
        Just(Resize::Deferred),
        Just(Resize::Infeasible)
    ];
    let report = (
        any::<(u32, u32, u32, u32)>(),
        any_cores(),
        any::<(u64, u64, u64, u64)>(),
    );
    let report = report.prop_map(|(counts, cpu_used, times)| PodReport {
        workers: counts.0,
        busy: counts.1,
        in_flight: counts.2,
        queued: counts.3,
        cpu_used,
        answers: times.0,
        answer_time: Duration::from_millis(times.1),
        failures: times.2,
        boot: Some(Duration::from_millis(times.3)),
    });
    (
        0..12_u32,
        state,
        resize,
        any::<u64>(),
        any_cores(),
        proptest::option::of(report),
    )
        .prop_map(|(name, state, resize, age, cpu, report)| Pod {
            name: format!("pod-{name}"),
            state,
            age: Duration::from_millis(age),
            resize,
            cpu_limit: Some(cpu),
            report,
        })
}

fn any_balancer() -> impl Strategy<Value = Balancer> {
    let report = any::<(u32, u32, u32, u64)>().prop_map(|numbers| BalancerReport {
        in_flight: numbers.0,
        queued: numbers.1,
        connected: numbers.2,
        arrivals: numbers.3,
    });
    (0..3_u32, proptest::option::of(report)).prop_map(|(name, report)| Balancer {
        name: format!("balancer-{name}"),
        report,
    })
}

fn any_observation() -> impl Strategy<Value = Observation> {
    (
        proptest::collection::vec(any_balancer(), 0..4),
        proptest::collection::vec(any_pod(), 0..12),
        proptest::option::of(any::<u32>()),
    )
        .prop_map(|(balancers, pods, refused_above)| Observation {
            balancers,
            pods,
            refused_above,
        })
}

/// How often the number of pods turns from falling to rising.
fn reversals(pods: &[u32]) -> usize {
    let mut changes = pods
        .windows(2)
        .map(|two| two[1].cmp(&two[0]))
        .collect::<Vec<_>>();
    changes.retain(|change| change.is_ne());
    changes
        .windows(2)
        .filter(|two| two[0].is_lt() && two[1].is_gt())
        .count()
}

fn is_sound(decision: &Decision, settings: &Settings) -> bool {
    let pods = settings.pods;
    let cpu = match (decision.cpu, settings.cpu) {
        (Some(cpu), Some(range)) => cpu >= range.start() - 1e-9 && cpu <= range.max() + 1e-9,
        (None, None) => true,
        _ => false,
    };
    let text = decision.reason.to_string();
    (pods.min()..=pods.max()).contains(&decision.pods)
        && (settings.workers.min()..=settings.workers.max()).contains(&decision.workers)
        && cpu
        && decision.concurrency.is_finite()
        && decision.concurrency >= 1.0
        && text.ends_with('.')
        && !text.contains("NaN")
        && !text.contains("inf ")
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn no_report_leads_out_of_the_users_range(
        seen in proptest::collection::vec((any_observation(), any::<u32>()), 1..40),
        (min, max) in (0..9_u32, 0..40_u32),
        has_cpu in any::<bool>(),
        found in any::<(u32, u32)>(),
        learnt in proptest::option::of(any::<f64>()),
    ) {
        let settings = Settings {
            pods: Range::new(min, max.max(1)),
            workers: Range::new(1, 4),
            cpu: has_cpu.then(|| CpuRange::new(0.5, 3.0)),
            ..Settings::default()
        };
        let found = Found { pods: found.0, workers: found.1, concurrency: learnt, ..Found::default() };
        let mut scaler = Scaler::new(settings.clone(), found, moment(0));
        for (observation, time) in seen {
            // Clocks may jump in both directions.
            let at = Moment {
                elapsed: Duration::from_millis(u64::from(time)),
                wall: Timestamp::from_second(i64::from(time)).unwrap(),
            };
            let decision = scaler.decide(at, &observation);
            prop_assert!(is_sound(&decision, &settings), "{decision:?}");
        }
    }

    #[test]
    fn more_demand_never_leads_to_fewer_pods(
        low in 1.0..60.0_f64, factor in 1.0..4.0_f64, jump in 1.0..3.0_f64,
    ) {
        let settings = settings(1, 100);
        let (mut one, mut other) = (App::new(&settings, 2), App::new(&settings, 2));
        for second in 0..600 {
            let demand = if second > 200 { low * jump } else { low };
            let less = one.tick(demand).pods;
            let more = other.tick(demand * factor).pods;
            // The app that had fewer pods when the load jumped has the longer queue, and gets more
            // pods to work it off. They stay for one scale-down window.
            if (201..441).contains(&second) {
                continue;
            }
            // A number that is within the tolerance is kept, so one that was reached earlier may
            // be a tenth smaller.
            prop_assert!(f64::from(more) * 1.1 + 1.0 >= f64::from(less), "{second}: {more} < {less}");
        }
    }

    #[test]
    fn a_steady_load_changes_nothing(demand in 0.5..80.0_f64) {
        let mut app = App::new(&settings(1, 40), 1);
        app.run(400, |_| demand);
        let pods = app.run(600, |_| demand);
        prop_assert!(pods.iter().all(|count| *count == pods[0]), "{pods:?}");
        let needed = demand / 0.7 / 10.0;
        prop_assert!(f64::from(pods[0]) >= needed / 1.11 && f64::from(pods[0]) <= needed * 1.2 + 1.0,
            "{} for {needed}", pods[0]);
    }

    #[test]
    fn a_restart_moves_nothing(demand in 1.0..80.0_f64, at in 1..900_u64, jump in 1.0..4.0_f64) {
        let settings = settings(1, 60);
        let mut app = App::new(&settings, 3);
        app.run(at, |second| if second > 300 { demand * jump } else { demand });
        let before = app.last.pods;
        app.restart(&settings);
        let now = if at > 301 { demand * jump } else { demand };
        let pods = app.run(120, |_| now);
        prop_assert!(pods.iter().all(|count| *count >= before), "{before} {pods:?}");
        let needed = (now / 0.7 / 10.0).ceil() as u32;
        // An app that was restarted in the middle of growth goes on growing, but not beyond this.
        let most = before.max(needed * 2 + 2);
        prop_assert!(pods.iter().all(|count| *count <= most), "{before} {needed} {pods:?}");
    }
}

proptest! {
    // Each case is three hours.
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn no_periodic_load_makes_pods_flap(
        period in 4..1200_u64, low in 0.0..20.0_f64, rise in 1.0..60.0_f64, is_square in any::<bool>(),
    ) {
        let mut app = App::new(&settings(1, 40), 3);
        let demand = |second: u64| {
            let phase = (second % period) as f64 / period as f64;
            let height = if is_square {
                f64::from(u8::from(phase < 0.5))
            } else {
                0.5 - 0.5 * (phase * std::f64::consts::TAU).cos()
            };
            low + rise * height
        };
        // Three hours. The window grows to sixteen minutes at most, so a slower load is followed.
        let pods = app.run(3 * 3600, demand);
        let turns = reversals(&pods);
        prop_assert!(turns <= 10, "{turns} reversals with a period of {period} s");
    }
}
