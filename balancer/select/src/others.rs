//! How many requests of other proxies an endpoint has, estimated from its reports.
//!
//! A report is late: requests of a few milliseconds are over before it arrives, and other ones
//! have begun. If proxies took the last report for the present, all of them would turn to the
//! same endpoint until the next report, and then to another one. So the estimate is an average
//! over recent reports. It follows what lasts, such as a slow endpoint or a proxy with more
//! clients than the others, and not what passes.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::standing::Report;

/// The time over which reports are averaged.
const MEMORY: Duration = Duration::from_millis(250);

/// The requests that other proxies have at an endpoint.
#[derive(Debug, Default)]
pub struct Others {
    /// In thousandths of a request.
    average: AtomicU64,
    /// When the last report arrived, in microseconds on the process's clock; 0: none has.
    reported: AtomicU64,
}

impl Others {
    /// Records a report that arrived at `now`, while this process had `own` requests there.
    /// Reports of one endpoint arrive one after the other.
    pub fn report(&self, report: Report, own: u32, now: Duration) {
        let all = report.in_flight.saturating_add(report.queued);
        let new = i128::from(all.saturating_sub(own)) * 1000;
        let now = (now.as_micros() as u64).max(1);
        let last = self.reported.swap(now, Ordering::Relaxed);
        let old = i128::from(self.average.load(Ordering::Relaxed));
        let memory = MEMORY.as_micros() as u64;
        let passed = if last == 0 {
            memory
        } else {
            now.saturating_sub(last).min(memory)
        };
        let average = old + (new - old) * i128::from(passed) / i128::from(memory);
        self.average.store(average as u64, Ordering::Relaxed);
    }

    /// The estimate, in thousandths of a request.
    pub fn thousandths(&self) -> u64 {
        self.average.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(others: &Others, in_flight: u32, own: u32, milliseconds: u64) {
        let report = Report {
            capacity: 4,
            in_flight,
            queued: 0,
        };
        others.report(report, own, Duration::from_millis(milliseconds));
    }

    #[test]
    fn the_first_report_counts_alone_and_later_ones_by_the_time_between_them() {
        let others = Others::default();
        assert_eq!(others.thousandths(), 0);
        report(&others, 9, 1, 1000);
        assert_eq!(others.thousandths(), 8000);
        report(&others, 1, 1, 1050);
        assert_eq!(others.thousandths(), 6400);
        report(&others, 0, 3, 1175);
        assert_eq!(others.thousandths(), 3200, "own ones are counted exactly");
        report(&others, 0, 0, 1175);
        assert_eq!(others.thousandths(), 3200);
        report(&others, 2, 0, 1900);
        assert_eq!(others.thousandths(), 2000, "older reports are forgotten");
        report(&others, u32::MAX, 0, 9000);
        assert_eq!(others.thousandths(), u64::from(u32::MAX) * 1000);
    }
}
