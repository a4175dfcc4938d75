//! The last minutes of one number: its mean over a window, and how fast it rises.

use std::collections::VecDeque;
use std::time::Duration;

/// Values that come more often than this are merged, so that memory does not grow with the rate.
const MIN_SPACING: Duration = Duration::from_millis(250);
/// A rise counts if it is this many times its standard error.
const MIN_CERTAINTY: f64 = 3.0;
/// Both halves of a window must rise by this part of the whole, and by this many times their own
/// standard errors.
const MIN_SHARE: f64 = 0.5;
const HALF_CERTAINTY: f64 = 1.5;
/// Observations come about once a second.
const SLACK: Duration = Duration::from_secs(1);

/// The values of the last `length`.
#[derive(Debug, Clone)]
pub(crate) struct Series {
    length: Duration,
    values: VecDeque<(Duration, f64)>,
}

impl Series {
    pub(crate) fn new(length: Duration) -> Self {
        Self {
            length,
            values: VecDeque::new(),
        }
    }

    /// Adds the value at `now`. If that is before the last value, or less than [`MIN_SPACING`]
    /// after it, the new value replaces the last one.
    pub(crate) fn push(&mut self, now: Duration, value: f64) {
        let value = if value.is_finite() { value } else { 0.0 };
        let due = self.values.back().map(|(last, _)| *last + MIN_SPACING);
        match (self.values.back_mut(), due) {
            (Some(last), Some(due)) if now < due => last.1 = value,
            _ => self.values.push_back((now, value)),
        }
        while self.values.len() > 1
            && self
                .values
                .front()
                .is_some_and(|(at, _)| *at + self.length < now)
        {
            self.values.pop_front();
        }
    }

    /// The mean of the values of the last `window`; 0 if there are none.
    pub(crate) fn mean(&self, now: Duration, window: Duration) -> f64 {
        let (sum, count) = self
            .since(now, window)
            .fold((0.0, 0), |(sum, count), (_, value)| {
                (sum + value, count + 1)
            });
        if count == 0 {
            0.0
        } else {
            sum / f64::from(count)
        }
    }

    /// Whether the oldest value is at least as old as `window`, give or take [`SLACK`].
    pub(crate) fn covers(&self, now: Duration, window: Duration) -> bool {
        let first = self.values.front().map(|(first, _)| *first + window);
        first.is_some_and(|full| full <= now + SLACK)
    }

    /// How fast the values have risen in the last `window`, per second; 0 if they have not.
    ///
    /// Growth is steep in both halves of the window. A jump is steep in one half at most, and says
    /// nothing of what follows it.
    pub(crate) fn rise(&self, now: Duration, window: Duration) -> f64 {
        if !self.covers(now, window) {
            return 0.0;
        }
        let all = || self.since(now, window);
        let middle = now.saturating_sub(window / 2);
        let (whole, error) = slope(all());
        let is_rising =
            |half: (f64, f64)| half.0 > (MIN_SHARE * whole).max(HALF_CERTAINTY * half.1);
        let is_growth = whole > MIN_CERTAINTY * error
            && is_rising(slope(all().filter(|(at, _)| *at <= middle)))
            && is_rising(slope(all().filter(|(at, _)| *at > middle)))
            && whole.is_finite();
        if is_growth { whole } else { 0.0 }
    }

    fn since(
        &self,
        now: Duration,
        window: Duration,
    ) -> impl Iterator<Item = (Duration, f64)> + Clone {
        // A value that is exactly one window old is left out: of values a second apart, a window of
        // three seconds holds three and not four.
        let from = now.saturating_sub(window);
        let newest = self.values.back().map_or(Duration::ZERO, |(at, _)| *at);
        let is_in = move |at: Duration| at > from || at == newest || now < window;
        self.values
            .iter()
            .rev()
            .take_while(move |(at, _)| is_in(*at))
            .copied()
    }
}

/// The slope of the line of least squares, per second, and its standard error.
fn slope(values: impl Iterator<Item = (Duration, f64)> + Clone) -> (f64, f64) {
    let points = values.map(|(at, value)| (at.as_secs_f64(), value));
    let sum = points.clone().fold((0.0, 0.0, 0.0), |(n, sx, sy), (x, y)| {
        (n + 1.0, sx + x, sy + y)
    });
    let (n, x, y): (f64, f64, f64) = sum;
    if n < 5.0 {
        return (0.0, f64::INFINITY);
    }
    let (x, y) = (x / n, y / n);
    let (xx, xy, yy) = points.fold((0.0, 0.0, 0.0), |(xx, xy, yy), (px, py)| {
        let (dx, dy) = (px - x, py - y);
        (xx + dx * dx, xy + dx * dy, yy + dy * dy)
    });
    if xx <= 0.0 {
        return (0.0, f64::INFINITY);
    }
    let slope = xy / xx;
    let rest = (yy - slope * xy).max(0.0);
    (slope, (rest / (n - 2.0) / xx).sqrt())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: u64) -> Duration {
        Duration::from_secs(second)
    }

    fn filled(value: impl Fn(u64) -> f64) -> Series {
        let mut series = Series::new(at(120));
        for second in 0..=60 {
            series.push(at(second), value(second));
        }
        series
    }

    #[test]
    fn a_mean_covers_its_window_and_no_more() {
        let series = filled(|second| if second > 57 { 9.0 } else { 0.0 });
        assert!((series.mean(at(60), at(3)) - 9.0).abs() < 1e-9);
        assert!((series.mean(at(60), at(6)) - 4.5).abs() < 1e-9);
        assert!(Series::new(at(9)).mean(at(5), at(3)).abs() < 1e-9);
    }

    #[test]
    fn the_last_value_counts_however_old_it_is() {
        let series = filled(|_| 5.0);
        assert!((series.mean(at(500), at(3)) - 5.0).abs() < 1e-9);
    }

    #[test]
    fn growth_is_a_rise_and_a_jump_or_a_fall_is_none() {
        assert!((filled(|second| second as f64 * 2.0).rise(at(60), at(30)) - 2.0).abs() < 1e-6);
        for jump in 31..60 {
            let series = filled(|second| if second < jump { 1.0 } else { 9.0 });
            assert!(series.rise(at(60), at(30)) < 0.01, "{jump}");
        }
        assert!(filled(|second| -(second as f64)).rise(at(60), at(30)) < 1e-9);
        assert!(filled(|_| 3.0).rise(at(60), at(30)) < 1e-9);
    }

    #[test]
    fn a_short_past_shows_no_rise() {
        let mut series = Series::new(at(120));
        for second in 0..10 {
            series.push(at(second), second as f64);
        }
        assert!(series.rise(at(9), at(30)) < 1e-9);
    }

    #[test]
    fn frequent_values_do_not_fill_memory() {
        let mut series = Series::new(at(30));
        for tick in 0..100_000 {
            series.push(Duration::from_millis(tick), f64::NAN);
        }
        assert!(series.values.len() < 130, "{}", series.values.len());
        assert!(series.mean(at(100), at(30)).abs() < 1e-9);
    }
}
