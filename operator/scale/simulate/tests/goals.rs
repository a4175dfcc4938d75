//! Small runs with a seed that the page does not use: results repeat, and the goals hold where the
//! page says so, with room for chance.

use scaledapp_simulate::page::Row;
use scaledapp_simulate::{Kind, TRACES, Trace, plot, run};

const SEEDS: [u64; 1] = [77];

fn trace(name: &str) -> Trace {
    let found = TRACES.iter().find(|trace| trace.name == name);
    *found.unwrap_or(&TRACES[0])
}

#[test]
fn the_same_seed_gives_the_same_run_and_every_rule_the_same_requests() {
    let trace = trace("flash-from-zero");
    let runs = Kind::ALL.map(|kind| run(&trace, kind.rules().as_mut(), 5));
    for (kind, first) in Kind::ALL.iter().zip(&runs) {
        let again = run(&trace, kind.rules().as_mut(), 5);
        assert_eq!((first.late, first.requests), (again.late, again.requests));
        assert_eq!(first.requests, runs[0].requests);
        assert!((first.pod_seconds - again.pod_seconds).abs() < 1e-9);
    }
    let other = run(&trace, Kind::Ours.rules().as_mut(), 6);
    assert_ne!(other.requests, runs[0].requests);
}

#[test]
fn few_requests_are_late_at_about_the_cost_of_other_rules() {
    for name in [
        "step",
        "flash-from-zero",
        "wave-120s",
        "heavy-tail",
        "node-gone",
    ] {
        let row = Row::of(&trace(name), &SEEDS);
        let [ours, knative, hpa] =
            [Kind::Ours, Kind::Knative, Kind::Hpa].map(|kind| row.mean(kind));
        assert!(
            ours.late <= knative.late * 1.2 + 20.0,
            "{name}: {ours:?} {knative:?}"
        );
        assert!(
            ours.late <= hpa.late * 0.1 + 20.0,
            "{name}: {ours:?} {hpa:?}"
        );
        assert!(
            ours.pod_seconds <= knative.pod_seconds * 1.15,
            "{name}: {ours:?} {knative:?}"
        );
        assert!(
            ours.pod_seconds <= hpa.pod_seconds * 1.1,
            "{name}: {ours:?} {hpa:?}"
        );
    }
}

#[test]
fn a_steady_load_moves_few_pods() {
    let row = Row::of(&trace("steady"), &[77, 78]);
    assert!(
        row.mean(Kind::Ours).changes <= 2.0,
        "{:?}",
        row.mean(Kind::Ours)
    );
}

#[test]
fn a_drawing_is_well_formed() {
    let trace = trace("wave-30s");
    let runs = [(Kind::Ours, run(&trace, Kind::Ours.rules().as_mut(), 1))];
    let svg = plot::svg(&trace, &runs);
    assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"));
    assert!(!svg.contains("NaN"));
    assert_eq!(svg.matches("<polyline").count(), 3);
}
