//! Turns lines of `/load`, which count since a process began, into reports, which count since the
//! report before.
//!
//! Several lines may come between two decisions, and none may be lost. A line of another run, or
//! one that counts less than the last, means that the process has restarted. Then only later lines
//! count.

use std::time::Duration;

use scaledapp_wire::{BalancerLoad, PodLoad};

use crate::sample::{BalancerReport, PodReport};

/// The lines of one balancer.
#[derive(Debug, Clone, Default)]
pub struct BalancerLedger {
    last: Option<BalancerLoad>,
    report: Option<BalancerReport>,
}

impl BalancerLedger {
    /// Takes a line.
    pub fn on(&mut self, load: BalancerLoad) {
        let last = self.last.as_ref().filter(|last| last.run == load.run);
        let arrivals = last.map_or(0, |last| load.arrivals.saturating_sub(last.arrivals));
        let before = self.report.map_or(0, |report| report.arrivals);
        self.report = Some(BalancerReport {
            in_flight: load.in_flight,
            queued: load.queued,
            connected: load.connected,
            arrivals: before.saturating_add(arrivals),
        });
        self.last = Some(load);
    }

    /// The report of all lines since the last call; `None` if there were none.
    pub fn take(&mut self) -> Option<BalancerReport> {
        self.report.take()
    }
}

/// The lines of one pod.
#[derive(Debug, Clone, Default)]
pub struct PodLedger {
    last: Option<(Duration, PodLoad)>,
    report: Option<PodReport>,
    /// CPU time of the workers since the last report, and over what time, both in seconds.
    cpu: (f64, f64),
}

impl PodLedger {
    /// Takes a line that came at `now`, on the same clock as [`crate::Moment::elapsed`].
    pub fn on(&mut self, now: Duration, load: PodLoad) {
        let last = self.last.as_ref().filter(|(_, last)| last.run == load.run);
        let mut report = self.report.unwrap_or_default();
        if let Some((then, last)) = last {
            let answers = load.answers.saturating_sub(last.answers);
            report.answers = report.answers.saturating_add(answers);
            report.answer_time += grown(last.answer_seconds, load.answer_seconds);
            let failures = load.failures.saturating_sub(last.failures);
            report.failures = report.failures.saturating_add(failures);
            self.cpu.0 += grown(last.cpu_seconds, load.cpu_seconds).as_secs_f64();
            self.cpu.1 += now.saturating_sub(*then).as_secs_f64();
        }
        report.workers = load.workers;
        report.busy = load.busy;
        report.in_flight = load.in_flight;
        report.queued = load.queued;
        report.boot = load
            .boot_seconds
            .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
        report.cpu_used = if self.cpu.1 > 0.0 {
            self.cpu.0 / self.cpu.1
        } else {
            0.0
        };
        self.report = Some(report);
        self.last = Some((now, load));
    }

    /// The report of all lines since the last call; `None` if there were none.
    pub fn take(&mut self) -> Option<PodReport> {
        self.cpu = (0.0, 0.0);
        self.report.take()
    }
}

/// By how much a sum of seconds has grown. A pod may send any number, so a difference that is not a
/// valid time counts as zero.
fn grown(from: f64, to: f64) -> Duration {
    Duration::try_from_secs_f64(to - from)
        .unwrap_or_default()
        .min(Duration::from_hours(24))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn balancer(run: &str, arrivals: u64) -> BalancerLoad {
        BalancerLoad {
            arrivals,
            queued: 3,
            run: run.to_owned(),
            ..BalancerLoad::default()
        }
    }

    #[test]
    fn arrivals_of_all_lines_between_two_reports_are_added() {
        let mut ledger = BalancerLedger::default();
        assert_eq!(ledger.take(), None);
        // What arrived before the first line may be days old.
        ledger.on(balancer("a", 1000));
        assert_eq!(ledger.take().unwrap().arrivals, 0);
        ledger.on(balancer("a", 1010));
        ledger.on(balancer("a", 1015));
        let report = ledger.take().unwrap();
        assert_eq!((report.arrivals, report.queued), (15, 3));
        assert_eq!(ledger.take(), None);
    }

    #[test]
    fn a_restarted_process_counts_from_its_first_line() {
        let mut ledger = BalancerLedger::default();
        ledger.on(balancer("a", 1000));
        ledger.on(balancer("b", 5000));
        ledger.on(balancer("b", 5002));
        ledger.on(balancer("b", 1));
        assert_eq!(ledger.take().unwrap().arrivals, 2);
    }

    #[test]
    fn the_use_of_cpu_is_measured_over_the_time_between_lines() {
        let mut ledger = PodLedger::default();
        let line = |cpu_seconds, answers, answer_seconds| PodLoad {
            cpu_seconds,
            answers,
            answer_seconds,
            workers: 2,
            boot_seconds: Some(1.5),
            ..PodLoad::default()
        };
        ledger.on(Duration::from_secs(10), line(100.0, 7, 1.0));
        ledger.on(Duration::from_secs(11), line(100.5, 9, 1.25));
        ledger.on(Duration::from_secs(14), line(103.0, 10, 1.5));
        let report = ledger.take().unwrap();
        assert!((report.cpu_used - 0.75).abs() < 1e-9, "{report:?}");
        assert_eq!(report.answers, 3);
        assert_eq!(report.answer_time, Duration::from_millis(500));
        assert_eq!(report.boot, Some(Duration::from_millis(1500)));
        ledger.on(Duration::from_secs(16), line(103.0, 10, 1.5));
        assert!(ledger.take().unwrap().cpu_used.abs() < 1e-9);
    }

    #[test]
    fn numbers_that_are_no_times_count_as_zero() {
        let mut ledger = PodLedger::default();
        for seconds in [0.0, f64::NAN, f64::INFINITY, -1e300, 1e300, 5.0] {
            ledger.on(
                Duration::from_secs(1),
                PodLoad {
                    cpu_seconds: seconds,
                    answer_seconds: seconds,
                    boot_seconds: Some(seconds),
                    ..PodLoad::default()
                },
            );
        }
        let report = ledger.take().unwrap();
        assert!(report.cpu_used.is_finite() && report.cpu_used >= 0.0);
        assert!(report.answer_time <= Duration::from_hours(24 * 6));
    }
}
