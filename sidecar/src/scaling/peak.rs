//! Two views of a load over time: its moving average, and the highest value within a window.
//!
//! Time is an argument, as time since any fixed moment.

use std::collections::VecDeque;
use std::time::Duration;

/// A moving average in which a value loses two thirds of its weight within `TIME`.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Average {
    value: f64,
    at: Option<Duration>,
}

/// The time constant of [`Average`]: longer than a pause of a garbage collector, shorter than
/// anybody would wait.
const TIME: Duration = Duration::from_secs(1);

impl Average {
    /// Adds the value that applied since the last call, and returns the average. The first value
    /// does not count, because it is not known for how long it applied.
    pub(super) fn add(&mut self, now: Duration, value: f64) -> f64 {
        let elapsed = self.at.replace(now).map(|at| now.saturating_sub(at));
        let share = elapsed.map_or(0.0, |elapsed| {
            1.0 - (-elapsed.as_secs_f64() / TIME.as_secs_f64()).exp()
        });
        self.value += share * (value - self.value);
        self.value
    }
}

/// The highest value within a window. The length of the window is chosen at each look back, up to
/// the longest one.
#[derive(Debug, Clone)]
pub(super) struct Peaks {
    /// The highest value of each step of time, oldest first. A step that is lower than a later one
    /// is left out, so the values fall.
    steps: VecDeque<(Duration, f64)>,
    step: Duration,
    longest: Duration,
}

impl Peaks {
    /// Remembers values in steps of `step` for `longest`. At most `longest / step` + 1 are kept.
    pub(super) fn new(step: Duration, longest: Duration) -> Self {
        Self {
            steps: VecDeque::new(),
            step: step.max(Duration::from_millis(1)),
            longest,
        }
    }

    /// Adds a value.
    pub(super) fn add(&mut self, now: Duration, value: f64) {
        while let Some(&(last, highest)) = self.steps.back() {
            if highest <= value {
                self.steps.pop_back();
            } else if now.saturating_sub(last) < self.step {
                // It belongs to the same step, which has a higher value already.
                return;
            } else {
                break;
            }
        }
        self.steps.push_back((now, value));
        while let Some((first, _)) = self.steps.front()
            && now.saturating_sub(*first) > self.longest
        {
            self.steps.pop_front();
        }
    }

    /// The highest value of the last `window`.
    pub(super) fn highest(&self, now: Duration, window: Duration) -> f64 {
        let mut recent = self.steps.iter();
        recent
            .find(|(at, _)| now.saturating_sub(*at) <= window)
            .map_or(0.0, |(_, value)| *value)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const fn ms(time: u64) -> Duration {
        Duration::from_millis(time)
    }

    #[test]
    fn the_average_follows_a_step_within_seconds_and_ignores_a_moment() {
        let mut average = Average::default();
        assert!(average.add(ms(0), 0.0) < 0.001);
        let one = average.add(ms(100), 1.0);
        assert!(one > 0.09 && one < 0.1, "{one}");
        let mut value = one;
        for look in 2..=30 {
            value = average.add(ms(look * 100), 1.0);
        }
        assert!(value > 0.93 && value < 1.0, "{value}");
        // A long pause counts as long as it was.
        assert!(average.add(ms(20_000), 0.0) < 0.001);
    }

    proptest! {
        #[test]
        fn the_peak_is_the_highest_value_up_to_one_step(
            values in prop::collection::vec((1..400_u64, 0..20_u32), 1..200),
        ) {
            let (step, window) = (ms(100), ms(3000));
            let mut peaks = Peaks::new(step, window);
            let (mut all, mut now) = (Vec::new(), 0);
            for (pause, value) in values {
                now += pause;
                all.push((now, f64::from(value)));
                peaks.add(ms(now), f64::from(value));
                let highest = |within: u64| {
                    let recent = all.iter().filter(|(at, _)| now - at <= within);
                    recent.map(|(_, value)| *value).fold(0.0, f64::max)
                };
                let found = peaks.highest(ms(now), window);
                prop_assert!(found >= highest(2900) && found <= highest(3000), "{found}");
                prop_assert!(peaks.steps.len() <= 32);
            }
        }
    }
}
