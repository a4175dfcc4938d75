//! The workers' metrics on one page, also after a worker was replaced.

use rustix::process::Signal;
use scaledapp_tests::sidecar::{Launch, Sidecar};
use scaledapp_tests::{fixtures, http, ports, process, wait};

use crate::{SOON, has};

fn counting(options: &[&str]) -> Sidecar {
    let launch = Launch::of(|port| fixtures::node("ops.js", port)).unwrap();
    let options = [&["--workers", "2", "--metrics-from", "/metrics"], options].concat();
    launch.with(&options).ready(2).unwrap()
}

fn page(sidecar: &Sidecar) -> String {
    let response = http::get(sidecar.launch.admin, "/metrics/app").unwrap();
    assert_eq!(response.status, 200);
    response.text()
}

/// The sum of all samples whose line begins with `name`.
fn value(page: &str, name: &str) -> u64 {
    let samples = page.lines().filter(|line| line.starts_with(name));
    samples
        .map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap())
        .sum()
}

fn ask(sidecar: &Sidecar, times: usize) {
    for _ in 0..times {
        assert_eq!(http::get(sidecar.address(), "/").unwrap().status, 200);
    }
}

#[test]
fn every_worker_is_on_the_page_by_its_slot() {
    if !has("node") {
        return;
    }
    let sidecar = counting(&[]);
    ask(&sidecar, 10);
    let page = page(&sidecar);
    assert_eq!(
        page.matches("# TYPE answered_total counter\n").count(),
        1,
        "{page}"
    );
    assert!(
        page.contains("answered_total{worker=\"0\",path=\"/\"}"),
        "{page}"
    );
    assert!(page.contains("alive{worker=\"1\"} 1\n"), "{page}");
    assert_eq!(value(&page, "answered_total{"), 10, "{page}");
    let own = http::get(sidecar.launch.admin, "/metrics").unwrap().text();
    assert_eq!(value(&own, "scaledapp_app_scrape_lines_skipped_total"), 2);
}

#[test]
fn a_sum_does_not_decrease_when_a_worker_is_replaced() {
    if !has("node") {
        return;
    }
    let mut sidecar = counting(&["--metrics-merge", "sum"]);
    ask(&sidecar, 20);
    assert_eq!(value(&page(&sidecar), "answered_total{path=\"/\"}"), 20);
    for _ in 0..2 {
        let dead = sidecar.pids().unwrap()[0];
        process::send(dead, Signal::KILL).unwrap();
        wait::until_true(SOON, "the worker is replaced", || {
            assert!(value(&page(&sidecar), "answered_total{") >= 20);
            !sidecar.pids().unwrap().contains(&dead)
        })
        .unwrap();
        sidecar.wait_ready(2).unwrap();
    }
    sidecar.ctl_done(&["reload"]).unwrap();
    ask(&sidecar, 5);
    let page = page(&sidecar);
    assert_eq!(value(&page, "answered_total{path=\"/\"}"), 25, "{page}");
    assert_eq!(value(&page, "alive "), 2, "{page}");
}

#[test]
fn metrics_on_a_separate_port_are_scraped_from_each_worker() {
    if !has("node") {
        return;
    }
    let metrics = ports::local().unwrap().port().to_string();
    let mut launch = Launch::of(|port| fixtures::node("ops.js", port)).unwrap();
    launch.command.push(metrics.clone());
    let from = format!("{metrics}/metrics");
    for dispatch in ["request", "connection"] {
        let options = [
            "--workers",
            "2",
            "--dispatch",
            dispatch,
            "--metrics-from",
            &from,
        ];
        let sidecar = launch.clone().with(&options).ready(2).unwrap();
        ask(&sidecar, 3);
        let both = || match page(&sidecar) {
            page if value(&page, "alive{") == 2 => Ok(page),
            page => Err(page),
        };
        let page = wait::until(SOON, "both workers are on the page", both).unwrap();
        assert_eq!(value(&page, "answered_total{"), 3, "{page}");
    }
}

#[test]
fn without_the_flag_there_is_no_such_page() {
    if !has("node") {
        return;
    }
    let launch = Launch::of(|port| fixtures::node("ops.js", port)).unwrap();
    let sidecar = launch.with(&["--workers", "1"]).ready(1).unwrap();
    let response = http::get(sidecar.launch.admin, "/metrics/app").unwrap();
    assert_eq!(response.status, 404);
    assert!(response.text().contains("--metrics-from"));
}
