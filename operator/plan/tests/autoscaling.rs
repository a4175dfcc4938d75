//! Tests of `spec.autoscaling`: what absent fields mean, and every rule with its message.

#![allow(
    clippy::unwrap_used,
    reason = "all of this target is test code, helpers included"
)]

use std::time::Duration;

use scaledapp_crds::ScaledApp;
use scaledapp_plan::{Pods, ValidatedApp, WorkerCount, validate};
use scaledapp_scale::{CpuRange, Range, Schedule, Settings};

const HEAD: &str = "apiVersion: scaledapp.io/v1alpha1\nkind: ScaledApp\nmetadata: {name: hello}\nspec:\n  image: example/hello:1.0\n  command: [node, server.js]\n";

fn object(lines: &str) -> ScaledApp {
    scaledapp_crds::read(&format!("{HEAD}{lines}\n")).unwrap()
}

fn app(lines: &str) -> ValidatedApp {
    validate(&object(lines)).unwrap()
}

fn settings(lines: &str) -> Settings {
    app(lines).autoscaling.unwrap().settings
}

fn violations(lines: &str) -> Vec<String> {
    match validate(&object(lines)) {
        Ok(_) => Vec::new(),
        Err(violations) => violations.iter().map(ToString::to_string).collect(),
    }
}

#[test]
fn an_empty_block_means_one_to_ten_pods_and_the_defaults() {
    let app = app("  autoscaling: {}");
    let settings = app.autoscaling.clone().unwrap().settings;
    assert_eq!(settings, Settings::default());
    assert_eq!(app.pods, Pods::Auto(Range::new(1, 10)));
    let one = 1.try_into().unwrap();
    assert_eq!(app.workers.count, WorkerCount::Range(one, one));
    assert_eq!(app.hold(), None, "there is always a pod");
    assert_eq!(self::app("").autoscaling, None);
}

#[test]
fn every_field_has_its_meaning() {
    let lines = "  resources: {requests: {cpu: 500m}, limits: {cpu: 1}}\n  autoscaling: {pods: {min: 0, max: 20}, workers: {min: 1, max: 4}, utilization: 60, concurrency: 20, cpu: {max: 2}, zeroAfter: 5m, scaleDown: {window: 1m}, schedules: [{cron: '0 8 * * 1-5', timeZone: Europe/Rome, minPods: 6, for: 10h}]}";
    let length = Duration::from_hours(10);
    let schedule = Schedule::new("0 8 * * 1-5", Some("Europe/Rome"), 6, Some(length));
    let expected = Settings {
        pods: Range::new(0, 20),
        workers: Range::new(1, 4),
        utilization: 60,
        concurrency: Some(20),
        cpu: Some(CpuRange::new(1.0, 2.0)),
        zero_after: Duration::from_mins(5),
        down_window: Duration::from_mins(1),
        schedules: vec![schedule.unwrap()],
    };
    assert_eq!(settings(lines), expected);
    assert_eq!(app(lines).hold(), Some(Duration::from_mins(2)));
}

#[test]
fn workers_are_one_to_the_cores_that_a_pod_may_use() {
    for (lines, min, max) in [
        ("", 1, 1),
        ("  resources: {limits: {cpu: 4}, requests: {cpu: 1}}", 1, 4),
        ("  resources: {requests: {cpu: 2}}", 1, 2),
        // As for `perCore`, 1.75 cores run two workers.
        ("  resources: {limits: {cpu: 1750m}}", 1, 2),
        ("  resources: {limits: {cpu: 100m}}", 1, 1),
    ] {
        let found = settings(&format!("{lines}\n  autoscaling: {{}}")).workers;
        assert_eq!((found.min(), found.max()), (min, max), "{lines}");
    }
    let limit = "  resources: {limits: {cpu: 4}}\n";
    for (rest, min, max) in [
        ("  autoscaling: {cpu: {max: 6}}", 1, 6),
        ("  autoscaling: {workers: {min: 2}}", 2, 4),
        ("  autoscaling: {workers: {min: 8}}", 8, 8),
        ("  autoscaling: {workers: {max: 2}}", 1, 2),
        ("  workers: {dispatch: Connection}\n  autoscaling: {}", 4, 4),
        (
            "  appProtocol: tcp\n  autoscaling: {workers: {min: 2}}",
            2,
            2,
        ),
        (
            "  appProtocol: tcp\n  autoscaling: {workers: {max: 3}}",
            3,
            3,
        ),
    ] {
        let found = settings(&format!("{limit}{rest}")).workers;
        assert_eq!((found.min(), found.max()), (min, max), "{rest}");
    }
}

/// Mistakes, each with the beginning of its message.
const MISTAKES: &[(&str, &str)] = &[
    (
        "  replicas: {total: 2}\n  autoscaling: {}",
        "spec.replicas: is not for an app with autoscaling",
    ),
    (
        "  workers: {perCore: 2}\n  autoscaling: {}",
        "spec.workers: perCore and count are not for an app with autoscaling",
    ),
    (
        "  autoscaling: {pods: {min: 3, max: 2}}",
        "spec.autoscaling.pods: min is more than max: raise max or lower min",
    ),
    (
        "  autoscaling: {pods: {min: -1}}",
        "spec.autoscaling.pods.min: is out of range: give 0 to 5000",
    ),
    (
        "  autoscaling: {pods: {min: 0, max: 0}}",
        "spec.autoscaling.pods.max: 0 pods serve nothing: give 1 to 5000",
    ),
    (
        "  autoscaling: {workers: {min: 3, max: 2}}",
        "spec.autoscaling.workers: min is more than max: raise max or lower min",
    ),
    (
        "  autoscaling: {workers: {max: 5000}}",
        "spec.autoscaling.workers.max: 5000 is too many: give at most 1024",
    ),
    (
        "  workers: {dispatch: Connection}\n  autoscaling: {workers: {min: 1, max: 4}}",
        "spec.autoscaling.workers: a range needs dispatch Request",
    ),
    (
        "  autoscaling: {utilization: 100}",
        "spec.autoscaling.utilization: is out of range: give 10 to 95 percent",
    ),
    (
        "  autoscaling: {concurrency: 0}",
        "spec.autoscaling.concurrency: is out of range: give 1 to 10000 requests",
    ),
    (
        "  autoscaling: {cpu: {max: 2}}",
        "spec.autoscaling.cpu: needs the CPU that a pod starts with",
    ),
    (
        "  resources: {limits: {memory: 1Gi}}\n  autoscaling: {cpu: {max: 2}}",
        "spec.autoscaling.cpu: needs the CPU that a pod starts with",
    ),
    (
        "  resources: {limits: {cpu: 3}}\n  autoscaling: {cpu: {max: 2}}",
        "spec.autoscaling.cpu.max: 2 is less than the 3 cores in spec.resources that a pod starts with",
    ),
    (
        "  resources: {limits: {cpu: 3}}\n  autoscaling: {cpu: {max: 9000}}",
        "spec.autoscaling.cpu.max: 9000 is more than any node has",
    ),
    (
        "  autoscaling: {zeroAfter: 0s}",
        "spec.autoscaling.zeroAfter: is out of range: give 1s to 24h",
    ),
    (
        "  autoscaling: {scaleDown: {window: 25h}}",
        "spec.autoscaling.scaleDown.window: is out of range: give 1s to 24h",
    ),
    (
        "  autoscaling: {schedules: [{cron: '0 8 30 2 *', minPods: 2, for: 1h}]}",
        "spec.autoscaling.schedules[0]: \"0 8 30 2 *\" never occurs",
    ),
    (
        "  autoscaling: {schedules: [{cron: '0 8 * * *', timeZone: Rome, minPods: 2, for: 1h}]}",
        "spec.autoscaling.schedules[0]: \"Rome\" is not a time zone",
    ),
    (
        "  autoscaling: {schedules: [{cron: '0 8 * * *', minPods: 2}]}",
        "spec.autoscaling.schedules: \"0 8 * * *\" would never end",
    ),
    (
        "  autoscaling: {schedules: [{cron: '0 8 * * *', minPods: 11, for: 1h}]}",
        "spec.autoscaling.schedules: has a minPods above autoscaling.pods.max",
    ),
];

#[test]
fn each_mistake_is_refused_with_the_cure() {
    for (lines, expected) in MISTAKES {
        let found = violations(lines);
        assert!(
            found.len() == 1 && found[0].starts_with(expected),
            "{lines}: {found:?}"
        );
    }
}
