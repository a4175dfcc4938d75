//! The supervisor's own metrics, read from its state at each scrape.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use scaledapp_runtime::dropped_log_lines;

use super::overflows;
use super::state::{State, lock};
use crate::scrape::{Counts, Scraper};

/// The part of a report that becomes metrics.
#[derive(Debug)]
pub(super) struct Workers(pub(super) Weak<State>);

impl Collector for Workers {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let Some(state) = self.0.upgrade() else {
            return Ok(());
        };
        gauges(&state, &mut encoder)?;
        range(&state, &mut encoder)?;
        ends(&state, &mut encoder)?;
        workers(&state, &mut encoder)?;
        output(&state, &mut encoder)?;
        queues(&mut encoder)?;
        scrapes(&state, &mut encoder)
    }
}

fn gauges(state: &State, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
    let (desired, ready, generation) = {
        let standing = &lock(&state.view).standing;
        (standing.desired, standing.ready, standing.generation)
    };
    for (name, help, value) in [
        (
            "scaledapp_workers_desired",
            "Desired number of workers",
            desired,
        ),
        ("scaledapp_workers_ready", "Workers ready", ready),
        (
            "scaledapp_generation",
            "Generation of the workers",
            generation,
        ),
    ] {
        let gauge = ConstGauge::new(i64::from(value));
        let metric = encoder.encode_descriptor(name, help, None, gauge.metric_type())?;
        gauge.encode(metric)?;
    }
    Ok(())
}

/// The ends of the range, and what has become of it; nothing without a range.
fn range(state: &State, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
    let Some(shown) = lock(&state.view).standing.scaling.clone() else {
        return Ok(());
    };
    let held = u32::from(shown.held.is_some());
    for (name, help, value) in [
        (
            "scaledapp_workers_min",
            "Lower end of --workers",
            shown.bounds.min,
        ),
        (
            "scaledapp_workers_max",
            "Upper end of --workers",
            shown.bounds.max,
        ),
        (
            "scaledapp_scaling_held",
            "Whether a worker is needed that may not start",
            held,
        ),
    ] {
        let gauge = ConstGauge::new(i64::from(value));
        let metric = encoder.encode_descriptor(name, help, None, gauge.metric_type())?;
        gauge.encode(metric)?;
    }
    let mut family = encoder.encode_descriptor(
        "scaledapp_scalings",
        "Changes of the number of workers that the load caused, by direction and reason",
        None,
        MetricType::Counter,
    )?;
    for ((direction, reason), count) in &lock(&state.scaled).0 {
        let labels = [("direction", *direction), ("reason", *reason)];
        ConstCounter::new(*count).encode(family.encode_family(&labels)?)?;
    }
    Ok(())
}

fn ends(state: &State, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
    let mut family = encoder.encode_descriptor(
        "scaledapp_worker_exits",
        "Workers that ended, by cause",
        None,
        MetricType::Counter,
    )?;
    for (reason, count) in lock(&state.history).totals() {
        let labels = [("reason", reason)];
        ConstCounter::new(count).encode(family.encode_family(&labels)?)?;
    }
    Ok(())
}

fn workers(state: &State, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
    let counts = &state.counts;
    counters(
        encoder,
        &[
            (
                "scaledapp_worker_restarts",
                "Workers that ended unexpectedly",
                &counts.restarts,
            ),
            (
                "scaledapp_worker_boot_timeouts",
                "Workers that were not ready in time",
                &counts.boot_timeouts,
            ),
            (
                "scaledapp_worker_kills",
                "Workers that ignored the stop signal",
                &counts.kills,
            ),
            (
                "scaledapp_reloads",
                "Reloads that succeeded",
                &counts.reloads,
            ),
            (
                "scaledapp_reloads_failed",
                "Reloads that failed and kept the old workers",
                &counts.failed_reloads,
            ),
        ],
    )
}

fn output(state: &State, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
    let none = Arc::default();
    let lines = state.lines_dropped.get().unwrap_or(&none);
    let own = AtomicU64::new(dropped_log_lines());
    counters(
        encoder,
        &[
            (
                "scaledapp_log_lines_dropped",
                "Lines of workers that were dropped because stdout or stderr accepted no more",
                lines,
            ),
            (
                "scaledapp_own_log_lines_dropped",
                "Log lines of the supervisor that were dropped because stderr accepted no more",
                &own,
            ),
        ],
    )
}

fn queues(encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
    let Some(count) = overflows::count() else {
        return Ok(());
    };
    counters(
        encoder,
        &[(
            "scaledapp_listen_overflows",
            "Connections that the kernel dropped because an accept queue was full, \
             in this network namespace",
            &AtomicU64::new(count),
        )],
    )
}

fn scrapes(state: &State, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
    let none = Counts::default();
    let counts = state.scraper.get().map_or(&none, Scraper::counts);
    counters(
        encoder,
        &[
            (
                "scaledapp_app_scrapes_failed",
                "Workers that did not answer with metrics in time",
                &counts.failed,
            ),
            (
                "scaledapp_app_scrape_lines_skipped",
                "Lines of workers' metrics that are malformed",
                &counts.skipped,
            ),
            (
                "scaledapp_app_scrape_type_conflicts",
                "Families whose type differs from the one that was seen first",
                &counts.conflicts,
            ),
        ],
    )
}

fn counters(
    encoder: &mut DescriptorEncoder<'_>,
    counters: &[(&str, &str, &AtomicU64)],
) -> Result<(), fmt::Error> {
    for (name, help, count) in counters {
        let counter = ConstCounter::new(count.load(Ordering::Relaxed));
        let metric = encoder.encode_descriptor(name, help, None, counter.metric_type())?;
        counter.encode(metric)?;
    }
    Ok(())
}
